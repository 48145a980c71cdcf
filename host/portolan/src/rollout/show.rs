//! How rollouts stand: what is wanted, what all nodes counted together, and what is to be thought of it.

use portolan_control::{NodeReport, State};
use portolan_core::evidence::Evidence;
use portolan_core::recording::{Class, Counts, Report};
use portolan_core::rollout::{Phase, Rollout, Run, Verdict, judge};
use portolan_foundation::clock;
use portolan_policy::Slot;
use serde::{Deserialize, Serialize};

use super::{Record, Sheet, Summary, name, words};

/// Changes that are shown of a slot.
const HISTORY_SHOWN: usize = 5;
/// Rows that are shown of each way to look at differences.
const ROWS_SHOWN: usize = 5;

/// One slot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct View {
    /// How a candidate in the shadow differs, and whom that would meet, by all nodes together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) differences: Option<Report>,
    /// What nodes tell of the candidate now, all together; none without a candidate.
    pub(crate) now: Option<Sheet>,
    /// Nodes that asked it nothing any more, and why.
    pub(crate) stopped: Vec<Stopped>,
    #[serde(flatten)]
    pub(crate) record: Record,
    /// The generation that changed it last.
    pub(crate) revision: u64,
}

/// A node that has taken the candidate off by itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stopped {
    pub(crate) node: String,
    pub(crate) reason: String,
}

/// All slots with rollouts, or one.
///
/// # Errors
/// When an object does not read.
pub(crate) fn views(state: &State, nodes: &[NodeReport], only: Option<&Slot>) -> Result<Vec<View>, String> {
    let only = only.map(name);
    let keys =
        state.of_kind(super::KIND).filter(|(key, _)| only.as_deref().is_none_or(|only| only == key.name()));
    keys.map(|(key, object)| {
        let record = Record::read(&object.body).map_err(|error| format!("{key} does not read: {error}"))?;
        Ok(View {
            differences: differences(&record.rollout, key.name(), nodes),
            now: summed(&record.rollout, key.name(), nodes),
            stopped: stopped(&record.rollout, key.name(), nodes),
            record,
            revision: object.revision,
        })
    })
    .collect()
}

/// How a candidate in the shadow differs, by what all nodes tell of its present step.
fn differences(rollout: &Rollout, name: &str, nodes: &[NodeReport]) -> Option<Report> {
    let reports = nodes.iter().flat_map(|node| &node.rollouts);
    let of_this = reports.filter(|report| report.name == name && is_of(rollout, &report.id, report.step));
    of_this.filter_map(|report| report.differences.as_deref().cloned()).reduce(|mut all, more| {
        all.merge(more);
        all
    })
}

/// What all nodes counted of a rollout's present step.
pub(crate) fn summed(rollout: &Rollout, name: &str, nodes: &[NodeReport]) -> Option<Sheet> {
    rollout.candidate.as_ref()?;
    let (mut evidence, mut names) = (Evidence::default(), Vec::new());
    for node in nodes {
        let reports = node.rollouts.iter();
        for report in reports.filter(|report| report.name == name && is_of(rollout, &report.id, report.step))
        {
            evidence.add(&report.evidence);
            names.push(node.name.clone());
        }
    }
    let verdict = judge(&evidence, &rollout.limits);
    Some(Sheet::new(&evidence, rollout, verdict, names, clock::unix_ms()))
}

fn is_of(rollout: &Rollout, id: &str, step: u32) -> bool {
    rollout.id == id && rollout.step == step
}

fn stopped(rollout: &Rollout, name: &str, nodes: &[NodeReport]) -> Vec<Stopped> {
    let of_node = |node: &NodeReport| {
        let found = node.rollouts.iter().find(|report| report.name == name && report.id == rollout.id)?;
        Some(Stopped { node: node.name.clone(), reason: found.stopped.clone()? })
    };
    if rollout.is_live() { nodes.iter().filter_map(of_node).collect() } else { Vec::new() }
}

impl View {
    /// Is something other than what was asked for?
    pub(crate) fn is_bad(&self) -> bool {
        self.record.rollout.phase == Phase::Aborted && self.record.evidence.is_some()
            || !self.stopped.is_empty()
    }

    /// For people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let Rollout { candidate, id, percent, phase, pinned, plugin, stable, .. } = &self.record.rollout;
        let run = |run: &Run| {
            run.version.map_or_else(
                || format!("{plugin}, its own file"),
                |digest| format!("{plugin}@{}", digest.short()),
            )
        };
        let pin = if *pinned { ", PINNED" } else { "" };
        let mut lines = match candidate {
            Some(candidate) => {
                let part = match phase {
                    Phase::Canary => {
                        format!("canary of {percent}% by {}", words::affinity(self.record.rollout.affinity))
                    }
                    phase => phase.to_string(),
                };
                vec![format!("{}: {} beside {}, {part}", self.record.slot, run(candidate), run(stable))]
            }
            None => vec![format!("{}: {} ({phase}{pin})", self.record.slot, run(stable))],
        };
        lines.push(format!("  rollout {id}, since generation {}", self.revision));
        if let Some(now) = &self.now {
            lines.extend(sheet(now));
        }
        lines.extend(self.differences.iter().flat_map(differing));
        lines.extend(
            self.stopped.iter().map(|stopped| format!("  STOPPED on {}: {}", stopped.node, stopped.reason)),
        );
        if let Some(evidence) = self.record.evidence.as_ref().filter(|_| *phase == Phase::Aborted) {
            lines.push(format!("  ROLLED BACK: {}", evidence.reasons()));
            lines.extend(sheet(evidence));
        }
        for entry in self.record.history.iter().rev().take(HISTORY_SHOWN) {
            let at = humantime::format_rfc3339_seconds(clock::from_unix_ms(entry.at_ms));
            let message =
                if entry.message.is_empty() { String::new() } else { format!(": {}", entry.message) };
            lines.push(format!("  {at} {} by {}{message}", entry.what, entry.author));
        }
        lines
    }
}

fn sheet(sheet: &Sheet) -> Vec<String> {
    let verdict = match &sheet.verdict {
        Verdict::Bad { .. } => "bad".to_owned(),
        Verdict::Good => "good".to_owned(),
        Verdict::TooEarly { decisions, needed } => {
            format!("too early to say ({decisions} of {needed} decisions)")
        }
    };
    let mut lines = vec![
        format!(
            "  verdict: {verdict}; by {}",
            if sheet.nodes.is_empty() { "no node yet".to_owned() } else { sheet.nodes.join(", ") }
        ),
        side("candidate", &sheet.candidate),
        side("stable", &sheet.stable),
    ];
    let compared = &sheet.compared;
    let classes = classes(&compared.classes);
    if !classes.is_empty() || compared.dropped > 0 {
        lines.push(format!("  compared: {classes}; {} dropped", compared.dropped));
    }
    lines
}

fn classes(counts: &Counts) -> String {
    let there = Class::ALL.into_iter().filter(|class| counts.of(*class) > 0);
    there.map(|class| format!("{} {}", counts.of(class), class.as_str())).collect::<Vec<_>>().join(", ")
}

/// Whom a candidate in the shadow would answer otherwise, those with the most such answers first.
fn differing(report: &Report) -> Vec<String> {
    let ways = [
        ("route", &report.routes),
        ("tenant", &report.tenants),
        ("region", &report.regions),
        ("rule", &report.rules),
    ];
    let mut lines = Vec::new();
    for (way, rows) in ways {
        let mut rows: Vec<_> = rows.iter().filter(|(_, counts)| counts.divergences() > 0).collect();
        rows.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.divergences()));
        for (name, counts) in rows.into_iter().take(ROWS_SHOWN) {
            lines.push(format!("  differs by {way} {name}: {}", classes(counts)));
        }
    }
    if report.impure {
        lines.push(
            "  the candidate answers the same question in two ways: no difference means anything".to_owned(),
        );
    }
    lines
}

fn side(name: &str, counts: &Summary) -> String {
    let us =
        |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), |ns| format!("{:.1} us", ns as f64 / 1_000.0));
    format!(
        "  {name:9} {} decisions, {} failed, {} past their limit, {} busy; p50 {}, p99 {}",
        counts.decisions,
        counts.failed(),
        counts.overruns,
        counts.busy,
        us(counts.p50_ns),
        us(counts.p99_ns),
    )
}
