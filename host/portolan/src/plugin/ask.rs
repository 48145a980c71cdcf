//! `portolan plugin test` and `plugin run`: questions to a policy at its author's desk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;
use http::Uri;
use portolan_core::plan::{Plan, Then};
use portolan_policy::vectors::{self, MadeUp, Ready, Vector};
use portolan_policy::{Tried, VECTORS_SECTION, with_section};
use serde_json::json;

use super::{build, check};
use crate::print;

/// What `plugin test` is told.
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// The project, which is built first, or a component.
    #[arg(default_value = ".")]
    path: PathBuf,
    /// The vectors; those that the component carries, or `vectors.json` beside it, when absent.
    #[arg(long)]
    vectors: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What `plugin run` is told.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The project, which is built first, or a component.
    path: PathBuf,
    /// Such as GET.
    method: String,
    /// Such as https://acme.apps.example.com/orders.
    url: String,
    /// A header field, `Name: value`.
    #[arg(short = 'H', long = "header")]
    headers: Vec<String>,
    /// Any other attribute, `tenant=acme` or `client.region=eu`.
    #[arg(short, long = "attribute")]
    attributes: Vec<String>,
    /// The policy's configuration, a JSON object.
    #[arg(long, default_value = "{}")]
    policy_config: String,
    /// A gateway's configuration, whose regions and pools are to be used; one region `local` with the pool `web` when absent.
    #[arg(short, long)]
    config: Option<PathBuf>,
    /// The request's random number.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The request's time in milliseconds since 1970; now when absent.
    #[arg(long)]
    now_ms: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Asks the golden vectors.
///
/// # Errors
/// When there are none, or nothing to ask.
pub(crate) fn test(options: &Test) -> anyhow::Result<ExitCode> {
    let built = build::component(&options.path)?;
    let (vectors, from) = find(&built, options.vectors.as_deref())?;
    let (engine, log) = (check::engine(|_| {})?, check::log()?);
    let version = check::load(&engine, &built)?;
    let tried = engine.try_vectors(&version, &vectors, &log)?;
    let failed = tried.iter().filter(|one| !one.passed).count();
    let passed = tried.len() - failed;
    if options.json {
        let told = json!({
            "ok": failed == 0,
            "digest": version.digest(),
            "vectors": from,
            "passed": passed,
            "failed": failed,
            "outcomes": tried,
            "log": log.lines(),
        });
        print(&serde_json::to_string_pretty(&told)?)?;
    } else {
        if failed > 0 {
            check::show_log(&log);
        }
        print(&table(&tried))?;
        print(&format!("{passed} passed, {failed} failed ({from})"))?;
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Puts golden vectors into a component, after they were tried on it.
///
/// # Errors
/// When they do not read, or the component cannot be asked; [`ExitCode::FAILURE`] when one fails.
pub(crate) fn embed(
    component: &Path,
    vectors: &Path,
    output: Option<&Path>,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let mut built = build::component(component)?;
    let text = std::fs::read_to_string(vectors).with_context(|| format!("read {}", vectors.display()))?;
    let asked = vectors::read(&text)?;
    let (engine, log) = (check::engine(|_| {})?, check::log()?);
    let version = check::load(&engine, &built)?;
    let tried = engine.try_vectors(&version, &asked, &log)?;
    let good = tried.iter().all(|one| one.passed);
    let mut place = output.unwrap_or(component).to_owned();
    if good {
        built.bytes = with_section(&built.bytes, VECTORS_SECTION, text.as_bytes());
        place = built.write(Some(&place))?;
    }
    if as_json {
        print(&serde_json::to_string_pretty(&json!({ "ok": good, "vectors": tried }))?)?;
    } else {
        print(&table(&tried))?;
        let done = if good { "they are in" } else { "nothing was written:" };
        print(&format!("{} vectors; {done} {}", tried.len(), place.display()))?;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The vectors of a component, and where they were found.
///
/// # Errors
/// When there are none, or they do not read.
pub(crate) fn find(built: &build::Built, named: Option<&Path>) -> anyhow::Result<(Vec<Vector>, String)> {
    let beside = built.folder.join("vectors.json");
    let read = |path: &Path| -> anyhow::Result<(Vec<Vector>, String)> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let vectors = vectors::read(&text).with_context(|| format!("read {}", path.display()))?;
        Ok((vectors, path.display().to_string()))
    };
    match (named, build::section(&built.bytes, VECTORS_SECTION)) {
        (Some(path), _) => read(path),
        (None, Some(section)) => {
            let text = std::str::from_utf8(section).context("the component's vectors are not UTF-8")?;
            Ok((vectors::read(text)?, format!("section {}", VECTORS_SECTION)))
        }
        (None, None) if beside.is_file() => read(&beside),
        (None, None) => anyhow::bail!(
            "{} carries no vectors, and there is no {}: write some, or name a file with --vectors",
            built.name,
            beside.display()
        ),
    }
}

/// The outcomes as people read them.
pub(crate) fn table(tried: &[Tried]) -> String {
    let width = tried.iter().map(|one| one.name.chars().count()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for one in tried {
        let word = if one.passed { "ok  " } else { "FAIL" };
        let what = match (&one.decided, &one.refused) {
            (None, None) if one.proposed.is_some() => proposals(one.proposed.as_deref().unwrap_or_default()),
            (Some(decided), _) => {
                format!("{:12} {}", decided.rule.as_deref().unwrap_or("no rule"), decided.answers.join(", "))
            }
            (None, Some(_)) => "refused, as expected".to_owned(),
            (None, None) => String::new(),
        };
        lines.push(format!("  {word} {:width$}  {what}", one.name).trim_end().to_owned());
        lines.extend(one.problems.iter().map(|problem| format!("         {problem}")));
    }
    lines.join("\n")
}

/// What a failover policy proposes, in a line.
pub(crate) fn proposals(proposed: &[String]) -> String {
    if proposed.is_empty() { "nothing".to_owned() } else { proposed.join(", ") }
}

/// Asks about one request, and shows the plan and the answer.
///
/// # Errors
/// When the policy is refused, or the question makes no sense.
pub(crate) fn run(options: &Run) -> anyhow::Result<ExitCode> {
    let attributes = attributes(options)?;
    let facts = check::facts(options.config.as_deref())?;
    let built = build::component(&options.path)?;
    let (engine, log) = (check::engine(|_| {})?, check::log()?);
    let version = check::load(&engine, &built)?;
    let mut attributes = attributes;
    attributes.entry("region".to_owned()).or_insert_with(|| facts.local.to_string());
    let ready = match Ready::new(&engine, &version, &options.policy_config, facts, &log) {
        Ok(ready) => ready,
        Err(refused) => {
            check::show_log(&log);
            anyhow::bail!("refused at {}: {}\n  {}", refused.stage, refused.reason, refused.fix);
        }
    };
    let request = MadeUp::new(&attributes).map_err(anyhow::Error::msg)?;
    let now_ms = options.now_ms.unwrap_or_else(portolan_foundation::clock::unix_ms);
    let decided = ready.decide(&request, options.seed, now_ms, Instant::now());
    if options.json {
        let told = json!({
            "plan": rules(&ready),
            "attributes": attributes,
            "rules": ready.table.explain(&request),
            "decided": decided,
            "log": log.lines(),
        });
        print(&serde_json::to_string_pretty(&told)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&format!("plan ({} fuel)", ready.fuel_used))?;
    for rule in rules(&ready) {
        print(&format!("  {rule}"))?;
    }
    print(&format!("{} {}", options.method, options.url))?;
    for verdict in ready.table.explain(&request) {
        let conditions: Vec<String> = verdict
            .conditions
            .iter()
            .map(|(what, holds)| format!("{what}: {}", if *holds { "yes" } else { "no" }))
            .collect();
        let conditions = if conditions.is_empty() { "always".to_owned() } else { conditions.join("; ") };
        print(&format!("  rule {} {conditions}", verdict.name.unwrap_or_else(|| verdict.rule.to_string())))?;
    }
    if let Some(why) = &decided.undecided {
        print(&format!("  the decider gave no answer: {why}"))?;
    }
    let answers =
        if decided.answers.is_empty() { "the next slot".to_owned() } else { decided.answers.join(", then ") };
    print(&format!("  => {answers}"))?;
    for line in log.lines() {
        print(&format!("log [{}] {}", line.level, line.text))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The rules of a plan, a line each.
pub(crate) fn rules(ready: &Ready) -> Vec<String> {
    let plan: &Plan = ready.table.plan();
    let mut lines = Vec::new();
    for (number, rule) in plan.rules.iter().enumerate() {
        let name = rule.name.as_deref().map_or_else(|| number.to_string(), str::to_owned);
        let when: Vec<String> = rule.when.iter().map(ToString::to_string).collect();
        let when = if when.is_empty() { "always".to_owned() } else { format!("when {}", when.join(" and ")) };
        let then = match &rule.then {
            Then::Split { to, fallback } => {
                let shares: Vec<String> = to
                    .iter()
                    .map(|share| format!("{} x{}", ready.describe(share.answer), share.weight))
                    .collect();
                let rest: Vec<String> = fallback.iter().map(|&answer| ready.describe(answer)).collect();
                let rest =
                    if rest.is_empty() { String::new() } else { format!(", else {}", rest.join(", ")) };
                format!("{}{rest}", shares.join(", "))
            }
            Then::Dynamic { needs, among } => {
                let needs: Vec<String> = needs.iter().map(ToString::to_string).collect();
                let among: Vec<String> = among.iter().map(|&answer| ready.describe(answer)).collect();
                format!("decide by {} among {}", needs.join(", "), among.join(", "))
            }
        };
        lines.push(format!("{name:12} {when}: {then}"));
    }
    lines
}

/// The attributes of the request that the command line tells of.
fn attributes(options: &Run) -> anyhow::Result<BTreeMap<String, String>> {
    let uri: Uri = options.url.parse().with_context(|| format!("`{}` is no URL", options.url))?;
    let mut attributes = BTreeMap::from([
        ("method".to_owned(), options.method.clone()),
        ("path".to_owned(), uri.path().to_owned()),
    ]);
    if let Some(query) = uri.query() {
        attributes.insert("query".to_owned(), query.to_owned());
    }
    if let Some(scheme) = uri.scheme_str() {
        attributes.insert("scheme".to_owned(), scheme.to_owned());
    }
    if let Some(host) = uri.host() {
        attributes.insert("host".to_owned(), host.to_ascii_lowercase());
    }
    for line in &options.headers {
        let (name, value) =
            line.split_once(':').with_context(|| format!("`{line}` is no header: write `Name: value`"))?;
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        if name == "cookie" {
            for (name, value) in value.split(';').filter_map(|cookie| cookie.trim().split_once('=')) {
                attributes.entry(format!("cookie:{name}")).or_insert_with(|| value.to_owned());
            }
        }
        attributes.entry(format!("header:{name}")).or_insert_with(|| value.to_owned());
    }
    for line in &options.attributes {
        let (name, value) =
            line.split_once('=').with_context(|| format!("`{line}` is no attribute: write `NAME=VALUE`"))?;
        attributes.insert(name.to_owned(), value.to_owned());
    }
    Ok(attributes)
}
