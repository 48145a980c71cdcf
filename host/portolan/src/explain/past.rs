//! `portolan explain --id` and `--at`: decisions that were made, and those that would have been.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use portolan_admin::backend::Question;
use portolan_core::ids::TenantName;
use portolan_core::lane::Slot;
use portolan_core::recording::{Binding, Does, Held, Recorded, SlotDecision, evaluate};
use portolan_core::snapshot::Policy;
use portolan_foundation::clock;
use portolan_recorder::{Book, Item, Recording};
use serde_json::{Value, json};

use super::{headers, list, show_rule, text};
use crate::cli::Explain;
use crate::client::Client;
use crate::node::{self, admin};
use crate::replay::Versions;
use crate::{print, recordings};

/// Slots whose bindings are remembered while a recording is read.
const SLOTS_MAX: usize = 16 * 1024;

/// Shows a decision that was kept. The running node says what its policies would do now; without one, the disk is read.
pub(super) fn kept(id: &str, options: &Explain) -> anyhow::Result<ExitCode> {
    let asked: anyhow::Result<Value> = Client::open(&options.target)
        .and_then(|client| client.get(&format!("/api/v1/decisions/{}", crate::client::encode(id))));
    let answer = match asked {
        Ok(answer) => answer,
        // Without a node the disk tells, but nobody says what its policies would say now.
        Err(error) if options.target.api.is_none() => {
            let (_, recording) = recordings::of_node(&options.target.file.config)?;
            match id.parse().map(|id| recording.find(id)) {
                Ok(Ok(Some((recorded, _)))) => json!({ "recorded": recorded, "now": [] }),
                _ => return Err(error),
            }
        }
        Err(error) => return Err(error),
    };
    if options.json {
        print(&serde_json::to_string_pretty(&answer)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let recorded: Recorded = serde_json::from_value(answer.get("recorded").cloned().unwrap_or_default())
        .context("read the node's answer: is it of another version?")?;
    print(&render(&recorded))?;
    for slot in list(&answer, "now") {
        let said: SlotDecision = serde_json::from_value(slot.get("said").cloned().unwrap_or_default())?;
        let before = recorded.slots.iter().find(|before| before.slot == said.slot);
        let verdict = before.map(|before| portolan_core::recording::compare(before, &said).as_str());
        print(&format!("  now, {} (it was: {})", show(&said), verdict.unwrap_or("not asked")))?;
        for rule in list(slot, "rules") {
            print(&format!("    {}", show_rule(rule)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn render(recorded: &Recorded) -> String {
    let Recorded { id, generation, picture, slots, outcome } = recorded;
    let at = humantime::format_rfc3339_millis(clock::from_unix_ms(picture.at_ms));
    let mut lines = vec![format!("decision {id} at {at}, generation {generation}")];
    for (attribute, held) in picture.values() {
        match held {
            Held::Text(value) => lines.push(format!("  {attribute}: {}", value.escape_debug())),
            Held::Hidden(hash) => {
                lines.push(format!("  {attribute}: hidden {}", hash.as_deref().unwrap_or_default()));
            }
            Held::Opaque => lines.push(format!("  {attribute}: not UTF-8")),
            Held::Absent => {}
        }
    }
    for slot in slots {
        lines.push(format!("  {}", show(slot)));
        lines.extend(slot.answers.iter().map(|spoken| format!("    - {}", spoken.does)));
    }
    let place = outcome.region.as_ref().zip(outcome.pool.as_ref());
    let place = place.map_or_else(String::new, |(region, pool)| format!(" from {pool} in {region}"));
    let attempts =
        if outcome.attempts > 1 { format!(", {} attempts", outcome.attempts) } else { String::new() };
    let error = outcome.error.as_deref().map_or_else(String::new, |error| format!(", {error}"));
    lines.push(format!("  => {}{place}{attempts}{error}", outcome.status));
    lines.join("\n")
}

fn show(said: &SlotDecision) -> String {
    use portolan_core::decide::Said;
    let (rule, version) = (said.rule_text(), said.digest.short());
    let how = match said.said {
        Said::Table => String::new(),
        Said::Index(index) => format!(", its policy says {index}"),
        Said::NotText => ", a value that it asks for is not UTF-8".to_owned(),
        Said::Undecided(why) => format!(", {why}"),
    };
    let missing = match said.missing.as_slice() {
        [] => String::new(),
        missing => format!("; not known: {missing:?} was not kept"),
    };
    format!("{}: {} ({version}): rule {rule}{how}: {}{missing}", said.slot, said.policy, said.answer_text())
}

/// What would have become of a request at some time, by the policies and facts of that time.
pub(super) fn at(when: &str, method: &str, url: &str, options: &Explain) -> anyhow::Result<ExitCode> {
    let at_ms = moment(when)?;
    let (_, recording) = recordings::of_node(&options.target.file.config)?;
    let bindings = bindings(&recording, at_ms)?;
    let (loaded, _) =
        crate::shown(crate::load(&options.target.file.config)?).context("mend the configuration first")?;
    let question = Question {
        method: method.to_owned(),
        url: url.to_owned(),
        headers: headers(options)?,
        client: options.client,
        tenant: options.tenant.clone(),
        near: options.region.clone(),
    };
    let geography = node::geography::Atlas::default().follow(&loaded.config);
    let (topology, trust) = (node::topology_of(&loaded.config), node::trust(&loaded.config, geography));
    let picture = |looked_at: &[_]| {
        let question = admin::question(question.clone())?;
        portolan_proxy::picture(&topology, &trust, question, looked_at, at_ms, 0).map_err(anyhow::Error::msg)
    };
    let tenant: Option<TenantName> = picture(&[])?.tenant();
    let versions = Versions::of(&options.target.file.config);
    let engine = versions.engine(NonZeroUsize::MIN)?;
    let mut answers = Vec::new();
    let of_tenant = tenant.map(Slot::Tenant);
    for slot in std::iter::once(Slot::Operator).chain(of_tenant) {
        let Some(binding) = bindings.get(&slot) else { continue };
        let version = versions.by_digest(&engine, &binding.policy, binding.digest)?;
        let policy: Arc<Policy> =
            engine.policy(&version, &binding.policy, &binding.config, &binding.facts, binding.on_fail)?;
        let picture = picture(policy.table.attributes())?;
        let said = evaluate(&policy, slot, &picture);
        let ends = said.answers.last().is_none_or(|last| last.does != Does::Next);
        answers.push(
            json!({ "said": said, "rules": policy.table.explain(&picture.view()), "facts": facts(binding) }),
        );
        if ends {
            break;
        }
    }
    if answers.is_empty() {
        return Err(anyhow!(
            "no policy is known to have run then: `portolan recordings list` shows what is kept"
        ));
    }
    if options.json {
        print(&serde_json::to_string_pretty(&json!({ "at_ms": at_ms, "slots": answers }))?)?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&format!("{method} {url} at {}", humantime::format_rfc3339_millis(clock::from_unix_ms(at_ms))))?;
    for answer in &answers {
        let said: SlotDecision = serde_json::from_value(answer.get("said").cloned().unwrap_or_default())?;
        print(&format!("  {}", show(&said)))?;
        for rule in list(answer, "rules") {
            print(&format!("    {}", show_rule(rule)))?;
        }
        for spoken in &said.answers {
            print(&format!("    - {}", spoken.does))?;
        }
        let facts = answer.get("facts").cloned().unwrap_or_default();
        for region in list(&facts, "regions") {
            let (name, verdict) =
                (text(region, "region").unwrap_or("-"), text(region, "verdict").unwrap_or("-"));
            print(&format!("    it knew: {name} {verdict}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn facts(binding: &Binding) -> Value {
    let regions = binding.facts.regions.iter().map(
        |(name, region)| json!({ "region": name, "verdict": region.verdict.as_str(), "pools": region.pools }),
    );
    json!({ "taken_ms": binding.facts.now_ms, "regions": regions.collect::<Vec<_>>() })
}

/// What ran in each slot at some time, as far as is known.
fn bindings(recording: &Recording, at_ms: u64) -> anyhow::Result<BTreeMap<Slot, Arc<Binding>>> {
    let segments = recording.segments();
    // Each segment begins with what runs.
    let begun =
        segments.iter().rev().find(|segment| segment.begun_ms <= at_ms).map(|segment| segment.begun_ms);
    let begun =
        begun.context("nothing that is kept is as old as that: `portolan recordings list` shows what is")?;
    let mut found: BTreeMap<Slot, Arc<Binding>> = BTreeMap::new();
    let mut note = |book: &Book, slot: &Slot, name: &str| {
        if let Some(binding) = book.binding(name)
            && (found.len() < SLOTS_MAX || found.contains_key(slot))
        {
            found.insert(slot.clone(), Arc::clone(binding));
        }
    };
    recording.each(begun..at_ms.saturating_add(1), |book, item| {
        match item {
            Item::Ran(ran) => ran.slots.iter().for_each(|(slot, name)| note(book, slot, name)),
            Item::Decision(recorded) => {
                recorded.slots.iter().for_each(|said| note(book, &said.slot, &said.binding));
            }
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// A point of time: RFC 3339, or so long ago.
fn moment(text: &str) -> anyhow::Result<u64> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(clock::unix_ms().saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)));
    }
    let time = humantime::parse_rfc3339_weak(text).with_context(|| {
        format!("`{text}` is no time: write 2026-01-31T12:00:00Z, or `2h` for two hours ago")
    })?;
    Ok(clock::to_unix_ms(time))
}
