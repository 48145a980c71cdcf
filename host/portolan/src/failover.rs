//! `portolan failover`: how regions stand, what would happen, and moves that people want.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use portolan_core::ids::RegionName;
use portolan_core::recording::Class;
use portolan_failover::forecast::Forecast;
use portolan_failover::intent::{Intents, Word};
use portolan_failover::lease::{Entry, Standing};
use portolan_failover::promotion::{Kind, Loss, Record, Step};
use portolan_foundation::clock;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cli::{Failover, failover as said};
use crate::client::{Client, encode};
use crate::replay::{Answer, Question, Versions};
use crate::{print, recordings};

/// Where it is asked.
const PATH: &str = "/api/v1/failover";
/// From one look at a move to the next.
const LOOK: Duration = Duration::from_millis(200);
/// How long a move is waited for; it may go on after that.
const PATIENCE: Duration = Duration::from_mins(2);

/// How failover stands.
#[derive(Debug, Deserialize)]
struct Status {
    /// There is nothing to show yet.
    #[serde(default)]
    starting: bool,
    #[serde(default)]
    control: bool,
    #[serde(default)]
    policy: Policy,
    #[serde(default)]
    profile: String,
    #[serde(default)]
    regions: BTreeMap<String, Region>,
    #[serde(default)]
    shards: BTreeMap<String, Shard>,
    #[serde(default)]
    words: Intents,
}

#[derive(Debug, Default, Deserialize)]
struct Policy {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Region {
    answers: bool,
    down_ms: u64,
    lease: Option<Entry>,
    verdict: String,
}

#[derive(Debug, Deserialize)]
struct Shard {
    epoch: u64,
    home: String,
    primary: String,
    record: Option<Record>,
    void: bool,
}

/// What came of a word.
#[derive(Debug, Deserialize)]
struct Said {
    generation: u64,
    moves: BTreeMap<String, String>,
    until_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Forecasts {
    #[serde(default)]
    forecasts: Vec<Forecast>,
}

/// Does what is asked.
///
/// # Errors
/// When no node answers, or something stands against it.
pub(crate) fn run(command: &Failover) -> anyhow::Result<ExitCode> {
    match command {
        Failover::Status(asked) => {
            let status: Value = Client::open(&asked.target)?.get(PATH)?;
            let text = if asked.json {
                serde_json::to_string_pretty(&status)?
            } else {
                status_text(&serde_json::from_value(status).context("read the answer")?)
            };
            print(&text)?;
        }
        Failover::Forecast(asked) => {
            let told = forecast(&Client::open(&asked.target)?, asked.region.as_deref())?;
            print(&if asked.json { serde_json::to_string_pretty(&told)? } else { forecast_text(&told) })?;
        }
        Failover::Drill(asked) => {
            let told = forecast(&Client::open(&asked.target)?, Some(&asked.region))?;
            let traffic = traffic(asked)?;
            print(&if asked.json {
                serde_json::to_string_pretty(&json!({ "forecasts": told.forecasts, "traffic": traffic }))?
            } else {
                let decided = traffic.as_ref().map_or_else(
                    || "no traffic is recorded here: `[recordings]` keeps some".to_owned(),
                    |traffic| {
                        format!(
                            "what was recorded, decided as if {} were down:\n{}",
                            asked.region,
                            traffic.text(false)
                        )
                    },
                );
                format!("{}\n\n{decided}", forecast_text(&told))
            })?;
            let stranded = stranded(&told);
            if !stranded.is_empty() {
                let names = stranded.join(", ");
                bail!("nobody would write {names} if `{}` died: see what is barred", asked.region);
            }
            let refused = traffic.map_or(0, |traffic| {
                let counts = &traffic.replayed.report.counts;
                counts.of(Class::AllowToReject) + counts.of(Class::Error)
            });
            if refused > 0 {
                bail!(
                    "{refused} of the recorded requests would get no answer of an application if `{}` died",
                    asked.region
                );
            }
        }
        Failover::Switch(asked) => {
            let word = json!({ "say": "switch", "region": asked.to, "shards": asked.which.shards, "why": asked.how.why });
            moved(&Client::open(&asked.target)?, &word, !asked.how.no_wait)?;
        }
        Failover::Force(asked) => {
            let word = json!({
                "say": "force", "region": asked.to, "shards": asked.shards, "why": asked.why,
                "accept_loss_rows": asked.accept_loss,
            });
            moved(&Client::open(&asked.target)?, &word, !asked.no_wait)?;
        }
        Failover::Return(asked) => {
            let word = json!({ "say": "return", "shards": asked.which.shards, "why": asked.how.why });
            moved(&Client::open(&asked.target)?, &word, !asked.how.no_wait)?;
        }
        Failover::Freeze(asked) => say(json!({ "say": "freeze" }), asked)?,
        Failover::Drain(asked) => say(json!({ "say": "drain", "region": asked.region }), &asked.holding)?,
        Failover::Maintenance(asked) => {
            say(json!({ "say": "maintenance", "region": asked.region }), &asked.holding)?;
        }
        Failover::Lost(asked) => {
            say(json!({ "say": "lost", "region": asked.region, "typed": asked.typed }), &asked.holding)?;
        }
        Failover::BreakGlass(asked) => {
            say(json!({ "say": "break-glass", "rules": asked.rules }), &asked.holding)?;
        }
        Failover::Thaw(asked) => {
            let word = json!({ "say": "thaw", "region": asked.region });
            let said: Said = Client::open(&asked.target)?.post(PATH, &word)?;
            print(&format!("generation {}: it holds no longer", said.generation))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn say(word: Value, holding: &said::Holding) -> anyhow::Result<()> {
    let Value::Object(mut word) = word else { return Ok(()) };
    word.insert("why".to_owned(), holding.why.as_str().into());
    word.insert("seconds".to_owned(), holding.time.map(|time| time.as_secs()).into());
    let said: Said = Client::open(&holding.target)?.post(PATH, &word)?;
    let until = humantime::format_rfc3339_seconds(clock::from_unix_ms(said.until_ms));
    print(&format!(
        "generation {}: it holds until {until}; `portolan failover thaw` ends it",
        said.generation
    ))
}

fn forecast(client: &Client, region: Option<&str>) -> anyhow::Result<Forecasts> {
    let filter = region.map_or_else(String::new, |region| format!("?region={}", encode(region)));
    client.get(&format!("{PATH}/forecast{filter}"))
}

/// What the operator's policy would decide of what was recorded here, if a region were down; none where nothing is recorded, or no policy decides.
fn traffic(asked: &said::Drill) -> anyhow::Result<Option<Answer>> {
    let config = &asked.target.file.config;
    let Ok((_, recording)) = recordings::of_node(config) else { return Ok(None) };
    if recording.segments().is_empty() {
        return Ok(None);
    }
    let versions = Versions::of(config);
    let Some(policy) = versions.operators() else { return Ok(None) };
    let region = RegionName::new(&asked.region)?;
    let (candidate, name) = (policy, None);
    let span = recordings::since(Some(asked.since));
    let question = Question { base: None, candidate, config: None, name, span, without: Some(&region) };
    question.answer(&versions, &recording).map(Some)
}

/// Asks for moves, and waits for them.
fn moved(client: &Client, word: &Value, waits: bool) -> anyhow::Result<()> {
    let begun_ms = clock::unix_ms();
    let Said { moves: mut left, .. } = client.post(PATH, word)?;
    if left.is_empty() {
        return print("everything is there already");
    }
    if !waits {
        for (shard, to) in &left {
            print(&format!("shard {shard} is to be written in {to}: see `portolan failover status`"))?;
        }
        return Ok(());
    }
    let (since, mut steps) = (clock::now(), BTreeMap::new());
    loop {
        let status: Status = client.get(PATH)?;
        let mut over = Vec::new();
        for (shard, to) in &left {
            let Some(there) = status.shards.get(shard) else { continue };
            // Clocks of two machines may differ a little.
            let own = |record: &&Record| record.to.as_str() == to && record.decided_ms + 5_000 >= begun_ms;
            let Some(record) = there.record.as_ref().filter(own) else { continue };
            if steps.insert(shard.clone(), record.step) != Some(record.step) {
                print(&format!("shard {shard}: {}", step(record.step)))?;
            }
            if record.step == Step::Aborted {
                let why = record.aborted.as_deref().unwrap_or("it was given up");
                bail!("shard {shard} was not moved: {why}");
            }
            if there.primary == *to && record.step >= Step::Verified {
                let loss = last_loss(record).map_or_else(|| "not known yet".to_owned(), ToString::to_string);
                print(&format!(
                    "shard {shard} is written in {to} from epoch {} on; lost: {loss}",
                    there.epoch
                ))?;
                over.push(shard.clone());
            }
        }
        over.iter().for_each(|shard| drop(left.remove(shard)));
        if left.is_empty() {
            return Ok(());
        }
        if clock::now().since(since) > PATIENCE {
            let names = left.into_keys().collect::<Vec<_>>().join(", ");
            bail!("{names} did not move within {PATIENCE:?}: `portolan failover status` says how they stand");
        }
        client.pause(LOOK);
    }
}

/// What the last promotion of a record lost.
fn last_loss(record: &Record) -> Option<&Loss> {
    record.past.last()?.loss.as_ref()
}

/// Shards that nobody would write.
fn stranded(told: &Forecasts) -> Vec<&str> {
    let shards = told.forecasts.iter().flat_map(|forecast| &forecast.shards);
    shards.filter(|(_, there)| there.to.is_none()).map(|(name, _)| name.as_str()).collect()
}

fn step(step: Step) -> &'static str {
    match step {
        Step::Decided => "it is decided",
        Step::Drained => "the old primary has stopped, and nothing is missing",
        Step::Leased => "the lease is taken",
        Step::Sealed => "the copies have sealed",
        Step::Fenced => "the epoch has begun in the database",
        Step::Opened => "writes are taken",
        Step::Published => "all regions can know it",
        Step::Switched => "their gateways send writes there",
        Step::Planned => "names are told",
        Step::Verified => "another region has seen it work; traffic ramps up",
        Step::Done => "done",
        Step::Aborted => "given up",
    }
}

const fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Failover => "failover",
        Kind::Reclaim => "taken back",
        Kind::Switchover => "switchover",
    }
}

fn status_text(status: &Status) -> String {
    if status.starting {
        return "it has just started: ask again in a second".to_owned();
    }
    let control = if status.control { "answers" } else { "does not answer" };
    let mut lines = vec![
        format!("policy {}, profile {}; the control store {control}", status.policy.name, status.profile),
        String::new(),
        format!("{:<14} {:<18} {:<10} DOWN FOR", "REGION", "VERDICT", "LEASE"),
    ];
    for (name, region) in &status.regions {
        let lease = match region.lease.as_ref().map(|lease| &lease.standing) {
            Some(Standing::Held) => "held",
            Some(Standing::Broken { .. }) => "broken",
            Some(Standing::Released) => "released",
            None => "none",
        };
        let down = Duration::from_secs(region.down_ms / 1_000);
        let down =
            if region.down_ms > 0 { humantime::format_duration(down).to_string() } else { String::new() };
        // Of whom too few others report, it is known at least that it does itself.
        let verdict = match region.verdict.as_str() {
            "unknown" if region.answers => "unknown (answers)",
            verdict => verdict,
        };
        lines.push(format!("{name:<14} {verdict:<18} {lease:<10} {down}").trim_end().to_owned());
    }
    lines.push(String::new());
    lines.push(format!("{:<20} {:<10} {:>6} {:<10} STANDS", "SHARD", "PRIMARY", "EPOCH", "HOME"));
    for (name, shard) in &status.shards {
        let (primary, home, stands) = (&shard.primary, &shard.home, stands(shard));
        lines.push(format!("{name:<20} {primary:<10} {:>6} {home:<10} {stands}", shard.epoch));
    }
    lines.extend(
        held(&status.words)
            .into_iter()
            .map(|(what, word)| format!("\n{what}, says {}: {}", word.by, word.why)),
    );
    lines.join("\n")
}

/// How a shard stands, in words.
fn stands(shard: &Shard) -> String {
    let record = shard.record.as_ref();
    let at = match record {
        _ if shard.void => "nobody may write it".to_owned(),
        Some(record) if record.step == Step::Verified => format!("traffic ramps up: {} %", record.ramp),
        Some(record) if record.is_running() => {
            format!("{} to {}: {}", kind(record.kind), record.to, step(record.step))
        }
        _ => "settled".to_owned(),
    };
    let lost = record.and_then(last_loss).filter(|loss| loss.exact != Some(0));
    lost.map_or_else(|| at.clone(), |loss| format!("{at}; lost {loss}"))
}

/// What operators said that holds.
fn held(words: &Intents) -> Vec<(String, &Word)> {
    let frozen = words.freeze.iter().map(|word| ("frozen".to_owned(), word));
    let drains = words.drains.iter().map(|(region, word)| (format!("`{region}` is drained"), word));
    let works = words.maintenance.iter().map(|(region, word)| (format!("`{region}` is worked at"), word));
    let lost = words.lost.iter().map(|(region, lost)| (format!("`{region}` is lost"), &lost.word));
    let glass = words.broken_glass.iter().map(|glass| {
        let rules: Vec<&str> = glass.rules().iter().map(|rule| rule.as_str()).collect();
        (format!("glass is broken for {}", rules.join(", ")), &glass.word)
    });
    frozen.chain(drains).chain(works).chain(lost).chain(glass).collect()
}

fn forecast_text(told: &Forecasts) -> String {
    let mut lines = Vec::new();
    for one in &told.forecasts {
        lines.push(format!("if {} died now:", one.region));
        if one.shards.is_empty() {
            lines.push("  it writes no shard".to_owned());
        }
        for (name, there) in &one.shards {
            lines.push(match (&there.to, there.time_ms) {
                (Some(to), Some(time_ms)) => format!(
                    "  shard {name} would be written in {to} within {:.1} s, without what was written in the last {} ms",
                    time_ms as f64 / 1e3,
                    there.loss_ms
                ),
                _ => format!("  shard {name} would be read only"),
            });
        }
        lines.extend(one.barred.iter().map(|bar| format!("  barred by {}: {}", bar.rule.as_str(), bar.why)));
    }
    if lines.is_empty() { "it has just started: ask again in a second".to_owned() } else { lines.join("\n") }
}
