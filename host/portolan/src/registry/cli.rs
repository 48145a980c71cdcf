//! `portolan plugin push`, `versions`, `uploads` and `remove`, as clients of the API; and `gc`, beside the places of components.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use http::Method;
use portolan_admin::plugins::Version;
use portolan_admin::{Operation, StageState};
use portolan_control::State;
use portolan_core::ids::Digest;
use portolan_foundation::clock;
use portolan_policy::{Step, StepState};
use serde_json::{Value, json};

use super::KIND;
pub(crate) use super::keys::{beside, keygen, sign};
use super::record::Record;
use crate::cli::{Push, Sweep, Target};
use crate::client::{Client, encode};
use crate::{apply, config, node, print};

/// Bytes of a component that is sent: more than any node takes.
const COMPONENT_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Sends a component through all stages, and makes it a version.
///
/// # Errors
/// When the node, the store or a file cannot be used.
pub(crate) fn push(options: &Push) -> anyhow::Result<ExitCode> {
    let component = &options.component;
    let reference = component.to_str().filter(|text| text.starts_with(super::oci::SCHEME));
    let mut query =
        vec![format!("approve={}", options.approve), format!("message={}", encode(&options.message))];
    query.extend(options.tenant.as_ref().map(|tenant| format!("tenant={}", encode(tenant))));
    query.extend(options.policy_config.as_ref().map(|config| format!("policy_config={}", encode(config))));
    let (kind, body) = match reference {
        Some(reference) => ("application/json", serde_json::to_vec(&json!({ "oci": reference }))?),
        None => {
            let name = component.file_name().unwrap_or_default().to_string_lossy();
            query.push(format!("source={}", encode(&format!("file {name}"))));
            ("application/wasm", read(component)?)
        }
    };
    let signature = detached(options)?;
    let mut headers = vec![("content-type", kind)];
    headers.extend(signature.as_deref().map(|text| ("portolan-signature", text)));
    let client = Client::open(&options.target)?;
    let path = format!("/api/v1/plugins/{}/versions?{}", encode(&options.name), query.join("&"));
    let operation: Operation =
        serde_json::from_slice(&client.ask(Method::POST, &path, &headers, Some(body))?.body)?;
    let operation = crate::operation::followed(&client, operation, !options.json)?;
    let record = operation.result.unwrap_or_default();
    let good = operation.state == StageState::Succeeded;
    if options.json {
        print(&serde_json::to_string_pretty(&record)?)?;
    } else if let Some(digest) = text(&record, "version").filter(|_| good) {
        let name = &options.name;
        let known = if record.get("new") == Some(&json!(false)) { " (known already)" } else { "" };
        print(&format!("{name} {digest}{known}\nput it to work in conf.d, then `portolan apply`:\n"))?;
        let section = text(&record, "tenant")
            .map_or_else(|| "policy".to_owned(), |tenant| format!("tenant.{tenant}.policy"));
        print(&format!("  [{section}]\n  use = \"{name}\"\n  version = \"{digest}\""))?;
    } else if let (Some(stage), Some(reason), Some(fix)) =
        (text(&record, "stage"), text(&record, "reason"), text(&record, "fix"))
    {
        eprintln!("refused at {stage}: {reason}\n  {fix}");
    } else if let Some(problem) = operation.problem {
        return Err(problem.into());
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Lists the versions of plugins, or of one.
///
/// # Errors
/// When nobody answers.
pub(crate) fn versions(name: Option<&str>, target: &Target, as_json: bool) -> anyhow::Result<()> {
    let path = name.map_or_else(
        || "/api/v1/plugins".to_owned(),
        |name| format!("/api/v1/plugins/{}/versions", encode(name)),
    );
    let versions: Vec<Version> = Client::open(target)?.all(&path)?;
    if as_json {
        let bodies: Vec<&Value> = versions.iter().map(|version| &version.about).collect();
        return print(&serde_json::to_string_pretty(&bodies)?);
    }
    for version in &versions {
        let part = |name: &str| {
            version
                .about
                .get(name)
                .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
                .unwrap_or_default()
        };
        let state = version
            .about
            .get("signature")
            .and_then(|signature| signature.get("state"))
            .and_then(Value::as_str);
        let plugin = match &version.tenant {
            None => version.plugin.clone(),
            Some(tenant) => format!("{tenant}:{}", version.plugin),
        };
        print(&format!(
            "{plugin:24} {}  {:>9} bytes  contract {}  {}  since generation {}",
            version.digest,
            part("size_bytes"),
            part("contract"),
            state.unwrap_or("not-signed"),
            version.revision
        ))?;
    }
    Ok(())
}

/// Lists the uploads of the node, or shows one.
///
/// # Errors
/// When there is no such upload.
pub(crate) fn uploads(id: Option<&str>, target: &Target, as_json: bool) -> anyhow::Result<()> {
    let uploads: Vec<Value> = Client::open(target)?.all("/api/v1/uploads")?;
    let Some(id) = id else {
        if as_json {
            return print(&serde_json::to_string_pretty(&uploads)?);
        }
        for upload in &uploads {
            let record: Record = serde_json::from_value(upload.clone()).context("read the node's answer")?;
            let why = record
                .refused
                .as_ref()
                .map_or_else(String::new, |refused| format!(" at {}: {}", refused.stage, refused.reason));
            print(&format!("{}{why}", headline(&record)))?;
        }
        return Ok(());
    };
    let upload = uploads.into_iter().find(|upload| text(upload, "id").as_deref() == Some(id));
    let upload =
        upload.with_context(|| format!("there is no upload {id}: `portolan plugin uploads` lists them"))?;
    if as_json {
        return print(&serde_json::to_string_pretty(&upload)?);
    }
    let record: Record = serde_json::from_value(upload).context("read the node's answer")?;
    print(&format!("{} by {}: {}", headline(&record), record.author, record.source))?;
    record.steps.iter().try_for_each(|step| print(&line(step)))?;
    for vector in record.vectors.iter().filter(|vector| !vector.passed) {
        print(&format!("vector {}: {}", vector.name, vector.told))?;
    }
    record.log.iter().try_for_each(|line| print(&format!("log {line}")))?;
    match &record.refused {
        Some(refused) => {
            print(&format!("refused at {}: {}\n  {}", refused.stage, refused.reason, refused.fix))
        }
        None => Ok(()),
    }
}

fn line(step: &Step) -> String {
    let sign = match step.state {
        StepState::Running => "...",
        StepState::Passed => "ok",
        StepState::Skipped => "-",
        StepState::Refused => "no",
    };
    format!("{:>12} {sign:3} {} ({} ms)", step.stage, step.detail, step.ms)
}

fn headline(record: &Record) -> String {
    let at = humantime::format_rfc3339_seconds(clock::from_unix_ms(record.at_ms));
    let digest = record.digest.as_deref().and_then(|digest| digest.get(..12)).unwrap_or("-");
    let of = record.tenant.as_ref().map_or_else(String::new, |tenant| format!("{tenant}:"));
    format!("{}  {at}  {of}{} {digest}  {}", record.id, record.plugin, record.state.as_str())
}

fn text(value: &Value, name: &str) -> Option<String> {
    value.get(name).and_then(Value::as_str).map(str::to_owned)
}

/// Takes a version out of the store. Its bytes go with the next sweep.
///
/// # Errors
/// When there is none, something names it, or the store does not take it.
pub(crate) fn remove(version: &str, tenant: Option<&str>, target: &Target) -> anyhow::Result<ExitCode> {
    let (name, digest) =
        version.rsplit_once('@').context("write NAME@SHA256, as `portolan plugin versions` has it")?;
    let of = tenant.map_or_else(String::new, |tenant| format!("?tenant={}", encode(tenant)));
    let path = format!("/api/v1/plugins/{}/versions/{}{of}", encode(name), encode(digest));
    let removed = Client::open(target)?.ask(Method::DELETE, &path, &[], None)?.json()?;
    let generation = removed.get("generation").and_then(Value::as_u64).unwrap_or(0);
    print(&format!("- {version}\ngeneration {generation} is made\nundo: push it again"))?;
    Ok(ExitCode::SUCCESS)
}

/// Removes components that no version names, from the shared place and this node's own folder.
///
/// # Errors
/// When a place does not answer.
pub(crate) fn sweep(options: &Sweep) -> anyhow::Result<ExitCode> {
    let local = crate::shown(config::local(&options.file.config, crate::environment()));
    let local = local.context("mend the configuration first")?;
    let age_min = humantime::parse_duration(&options.older_than).context("read --older-than")?;
    let components =
        local.components()?.context("there is no place of components: set control.components")?;
    let runtime = node::control_runtime()?;
    let (shared, own) = runtime.block_on(async {
        let store = apply::open(&local).await?;
        let named = named(&store.state());
        let shared = components.sweep(&named, age_min, options.dry_run).await?;
        anyhow::Ok((shared, components.sweep_own(&named, age_min, options.dry_run)?))
    })?;
    if options.json {
        print(&serde_json::to_string_pretty(
            &json!({ "dry_run": options.dry_run, "own": own, "shared": shared }),
        )?)?;
    } else {
        for (place, swept) in [("shared", shared), ("this node's own", own)] {
            let would = if options.dry_run { "would be removed" } else { "removed" };
            print(&format!(
                "{place}: {} {would} ({} bytes), {} named, {} too young",
                swept.removed, swept.bytes, swept.kept, swept.young
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The components of all versions.
fn named(state: &State) -> BTreeSet<Digest> {
    let versions = state.objects().filter(|(key, _)| key.kind() == KIND);
    versions.filter_map(|(key, _)| key.name().rsplit_once('@')?.1.parse().ok()).collect()
}

/// Signatures beside the component: of the file that is named, or of `FILE.sig` if there is one; lines become parts of a header.
fn detached(options: &Push) -> anyhow::Result<Option<String>> {
    let (path, must) = match &options.signature {
        Some(path) => (path.clone(), true),
        None => (beside(&options.component), false),
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(
            text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(", "),
        )),
        Err(_) if !must => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read the signature {}", path.display())),
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    use std::io::Read as _;
    let file = std::fs::File::open(path).with_context(|| format!("read {}", path.display()))?;
    let mut bytes = Vec::new();
    file.take(COMPONENT_BYTES_MAX)
        .read_to_end(&mut bytes)
        .with_context(|| format!("read {}", path.display()))?;
    Ok(bytes)
}
