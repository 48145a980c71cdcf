//! `portolan plugin check`: what the gateway would say of a component, and the engine that all of these commands ask.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use portolan_core::facts::Facts;
use portolan_core::ids::PolicyName;
use portolan_foundation::clock;
use portolan_policy::{
    About, Compile, Engine, Failover, FailoverSpec, Limits, Log, Refused, Source, Stage, Version, vectors,
};
use serde_json::json;

use super::ask;
use super::build::{self, Built};
use crate::node::topology_of;
use crate::{config, print};

/// One region with one pool, for checks without a gateway's configuration.
const SMALL_WORLD: &str = "[node]\nregion = \"local\"\n[listen]\npublic = [\"127.0.0.1:0\"]\n\
                           [region.local.pool.web]\nendpoints = [\"127.0.0.1:9000\"]\n";
/// Three regions of which one is down, and a shard that another could take over, for checks of failover policies.
const SMALL_OUTAGE: &str = r#"{
    "local": "us",
    "regions": {"ap": {}, "eu": {"verdict": "down", "down_ms": 60000}, "us": {}},
    "shards": {"a": {"primary": "eu", "replicas": [{"region": "us"}, {"region": "ap", "behind_rows": 7}]}}
}"#;
/// The largest component that a developer may look at: with CPython inside it has 18 MB. What a gateway takes is its operator's
/// affair.
const COMPONENT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The same, compiled.
const ARTEFACT_BYTES_MAX: usize = 256 * 1024 * 1024;

/// An engine for one developer and one policy: compiles here, keeps nothing, and never says that it is busy. `change` may
/// change more.
///
/// # Errors
/// When the system gives it no room.
pub(crate) fn engine(change: impl FnOnce(&mut Limits)) -> anyhow::Result<Engine> {
    let mut limits = Limits::standard();
    limits.component_bytes_max = COMPONENT_BYTES_MAX;
    limits.artefact_bytes_max = ARTEFACT_BYTES_MAX;
    limits.guest_share_percent = 100;
    change(&mut limits);
    Engine::new(portolan_policy::Config {
        cache_bytes_max: 0,
        cache_dir: None,
        compile: Compile::InProcess,
        data_threads: std::num::NonZeroUsize::MIN,
        limits,
        pool_slots: std::num::NonZeroU32::MIN,
    })
    .context("start the policy engine")
}

/// Where a policy that is looked at writes.
///
/// # Errors
/// Never: its name is one.
pub(crate) fn log() -> anyhow::Result<Arc<Log>> {
    Ok(Log::new(PolicyName::new("checked")?, Limits::standard().log_lines_per_second))
}

/// Shows what the policy wrote.
///
/// # Errors
/// When standard error is closed.
pub(crate) fn show_log(log: &Log) {
    for line in &log.lines() {
        eprintln!("log [{}] {}", line.level, line.text);
    }
}

/// Loads a component, or says why it is refused.
///
/// # Errors
/// The refusal, as text with its stage and what to do.
pub(crate) fn load(engine: &Engine, built: &Built) -> anyhow::Result<Arc<Version>> {
    engine.load(&built.bytes).map_err(|refused| {
        anyhow::anyhow!(
            "{} is refused at {}: {}\n  {}",
            built.name,
            refused.stage,
            refused.reason,
            refused.fix
        )
    })
}

/// The facts of a gateway's configuration, or of the small world.
///
/// # Errors
/// When the configuration has problems.
pub(crate) fn facts(config: Option<&Path>) -> anyhow::Result<Facts> {
    let loaded = match config {
        Some(path) => crate::shown(crate::load(path)?).context("the gateway's configuration has problems")?.0,
        None => {
            let source = config::Source { path: PathBuf::from("small world"), text: SMALL_WORLD.to_owned() };
            let loaded = config::read(vec![source], [], Path::new("."));
            loaded.map_err(|_| anyhow::anyhow!("the small world has problems; please report this"))?
        }
    };
    Ok(topology_of(&loaded.config).facts(clock::unix_ms()))
}

/// Loads a component as a gateway would, and plans with it.
///
/// # Errors
/// When that cannot be found out.
pub(crate) fn run(
    component: &Path,
    policy_config: &str,
    config: Option<&Path>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let facts = facts(config)?;
    // A file as it is: what a gateway would say of it is the question.
    let bytes = if component.is_dir() {
        build::component(component)?.bytes
    } else {
        std::fs::read(component).with_context(|| format!("read {}", component.display()))?
    };
    let (engine, log) = (engine(|_| {})?, log()?);
    let loaded = engine.load(&bytes);
    if let Ok(version) = &loaded
        && version.about().proposer
    {
        return proposer(component, &bytes, policy_config, &engine, json);
    }
    if let Ok(version) = &loaded
        && version.about().resolver
    {
        return resolver(component, version.about(), json);
    }
    let checked = loaded.and_then(|version| {
        let ready = vectors::Ready::new(&engine, &version, policy_config, facts, &log)?;
        Ok((version, ready))
    });
    let lines = log.lines();
    match checked {
        Ok((version, ready)) => {
            let about = version.about();
            let plan = ready.table.plan();
            let (rules, answers, facts_read) = (plan.rules.len(), plan.answers.len(), ready.facts_read);
            if json {
                let plan = json!({ "rules": rules, "answers": answers, "fuel": ready.fuel_used, "facts_read": facts_read });
                print(&serde_json::to_string_pretty(
                    &json!({ "ok": true, "about": about, "plan": plan, "log": lines }),
                )?)?;
                return Ok(ExitCode::SUCCESS);
            }
            print(&format!("{}: good", component.display()))?;
            print(&format!("  sha256    {}", about.digest))?;
            print(&format!("  contract  {}; imports {}", about.contract, about.imports.join(", ")))?;
            print(&format!(
                "  size      {} bytes, {} compiled, {} of memory",
                about.size_bytes, about.artefact_bytes, about.memory_bytes
            ))?;
            print(&format!(
                "  plan      {rules} rules, {answers} answers, {facts_read} facts read, {} fuel",
                ready.fuel_used
            ))?;
            for line in &lines {
                print(&format!("  log       [{}] {}", line.level, line.text))?;
            }
            if let Some(note) = size_note(about.size_bytes) {
                print(&format!("  note      {note}"))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(refused) => {
            if json {
                print(&serde_json::to_string_pretty(
                    &json!({ "ok": false, "refused": refused, "log": lines }),
                )?)?;
            } else {
                show_log(&log);
                eprintln!("refused at {}: {}\n  {}", refused.stage, refused.reason, refused.fix);
            }
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The same for a policy that says what to do when regions fail: what its slot would say of it, and what it proposes where one region
/// of three is down.
fn proposer(
    component: &Path,
    bytes: &[u8],
    policy_config: &str,
    engine: &Engine,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let scene: vectors::Scene = serde_json::from_str(SMALL_OUTAGE).context("read the small outage")?;
    let picture = Arc::new(scene.picture().map_err(anyhow::Error::msg)?);
    let spec = FailoverSpec {
        config: policy_config.into(),
        policy: PolicyName::new("checked")?,
        source: Ok(Source::bytes(bytes)),
    };
    let asked = Failover::load(engine, &spec).and_then(|policy| {
        let asked = policy.propose(&picture).map_err(|unanswered| {
            let fix = "look at its log; a policy must answer whatever fails";
            Refused::passing(Stage::Plan, format!("it gives no answer: {unanswered}"), fix)
        });
        asked.map(|(proposed, fuel)| (policy, proposed, fuel))
    });
    match asked {
        Ok((policy, proposed, fuel)) => {
            let proposed: Vec<String> = proposed.iter().map(ToString::to_string).collect();
            let (version, lines) = (policy.version(), policy.lines());
            if json {
                let told = json!({ "ok": true, "digest": version, "proposed": proposed, "fuel": fuel, "log": lines });
                print(&serde_json::to_string_pretty(&told)?)?;
                return Ok(ExitCode::SUCCESS);
            }
            print(&format!("{}: good", component.display()))?;
            print(&format!("  sha256    {version}"))?;
            print("  world     failover")?;
            print(&format!(
                "  proposes  {}, where `eu` of `ap`, `eu` and `us` is down; {fuel} fuel",
                ask::proposals(&proposed)
            ))?;
            for line in &lines {
                print(&format!("  log       [{}] {}", line.level, line.text))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(refused) => {
            if json {
                print(&serde_json::to_string_pretty(&json!({ "ok": false, "refused": refused }))?)?;
            } else {
                eprintln!("refused at {}: {}\n  {}", refused.stage, refused.reason, refused.fix);
            }
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The same for a policy that merges: it has no configuration, and nothing to be asked about but rows.
fn resolver(component: &Path, about: &About, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        print(&serde_json::to_string_pretty(&json!({ "ok": true, "about": about }))?)?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&format!("{}: good", component.display()))?;
    print(&format!("  sha256    {}", about.digest))?;
    print("  world     resolving")?;
    print(&format!(
        "  size      {} bytes, {} compiled, {} of memory",
        about.size_bytes, about.artefact_bytes, about.memory_bytes
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// What to know of a component that a gateway does not take as it comes.
pub(crate) fn size_note(bytes: usize) -> Option<String> {
    let standard = Limits::standard();
    if bytes > standard.component_bytes_max {
        return Some(format!(
            "a gateway takes it only where `[policies]` says `component_bytes = {}` or more; the standard is {}",
            bytes.next_multiple_of(1 << 20),
            standard.component_bytes_max
        ));
    }
    (bytes > standard.tenant_decider_bytes_max).then(|| {
        format!(
            "as a tenant's policy it only plans, unless the operator grants it dynamic rules: it has more than {} bytes",
            standard.tenant_decider_bytes_max
        )
    })
}
