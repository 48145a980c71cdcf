//! What is seen of each region, by whom, over which path, and what follows from it.
//!
//! A *cell* is one path from one vantage to one region. Every region fills its own row by probes and tells it to all others by [`Report`]s of one
//! size. A report counts while it is fresh, which is known without comparing clocks: it names the last report that its sender had of the reader, and
//! the reader knows when it sent that. Whoever cannot reach most others, or is late with its own work, doubts itself and does not count.
//!
//! [`Matrix::verdict`] says what is believed of a region: `down` takes a majority of the other regions, two at least.

mod report;
mod verdict;

use portolan_core::time::Moment;
use serde::{Deserialize, Serialize};

pub use self::report::{Malformed, REPORT_BYTES, Report};
pub use self::verdict::Verdict;
use crate::counter::{Counter, Outcome, Reason, State};
use crate::defaults::REGIONS_MAX;
use crate::members::{Members, Seat};
use crate::timers::Probe;

/// Ways to a region.
pub const PATHS: usize = 5;
/// Reports that the reader remembers having sent: longer than any report counts.
const SENT_MAX: usize = 64;

/// A way to a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Path {
    /// Its own way to the control store, as it says itself.
    Control,
    /// Its own way to its databases, as it says itself.
    Database,
    /// The public way in, as clients go.
    Ingress,
    /// The link between gateways.
    Peer,
    /// Its logs, as they come to the vantage.
    Replication,
}

/// One path from one vantage to one region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// What it stands at.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// How long ago it answered last, in milliseconds.
    pub age_ms: u32,
}

/// Why an observer does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Doubt {
    /// Its own work is late: what it takes for silence may be its own.
    Late,
    /// It reaches less than half of the others: the fault may be its own.
    Unreachable,
}

/// The cells of one vantage, by region and path.
pub type Row = [[Cell; PATHS]; REGIONS_MAX];

/// What another region has told.
#[derive(Clone, Debug)]
struct Heard {
    report: Report,
    /// Before when it was not made: when the report that it names was sent.
    made: Option<Moment>,
}

/// All that one node knows of regions' health.
#[derive(Clone, Debug)]
pub struct Matrix {
    members: Members,
    own: Seat,
    probe: Probe,
    counters: [[Counter; PATHS]; REGIONS_MAX],
    answered: [[Option<Moment>; PATHS]; REGIONS_MAX],
    heard: [Option<Heard>; REGIONS_MAX],
    /// The last reports that were sent, and when.
    sent: Vec<(u64, Moment)>,
    sequence: u64,
    late_until: Option<Moment>,
}

impl Path {
    /// All of them, in the order of a row.
    pub const ALL: [Self; PATHS] =
        [Self::Control, Self::Database, Self::Ingress, Self::Peer, Self::Replication];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Database => "database",
            Self::Ingress => "ingress",
            Self::Peer => "peer",
            Self::Replication => "replication",
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// A cell of a row.
#[must_use]
pub fn cell(row: &Row, region: Seat, path: Path) -> Cell {
    row.get(region.index()).and_then(|cells| cells.get(path.index())).copied().unwrap_or_default()
}

impl Matrix {
    /// A matrix in which nothing is known. `boot` rises with each start of the node, such as the seconds of the wall clock.
    #[must_use]
    pub fn new(members: Members, own: Seat, probe: Probe, boot: u32) -> Self {
        Self {
            members,
            own,
            probe,
            counters: Default::default(),
            answered: Default::default(),
            heard: Default::default(),
            sent: Vec::with_capacity(SENT_MAX),
            sequence: u64::from(boot) << 32,
            late_until: None,
        }
    }

    /// The regions.
    #[must_use]
    pub const fn members(&self) -> &Members {
        &self.members
    }

    /// Other times, of a policy that is more careful or of a new configuration.
    pub fn retime(&mut self, probe: Probe) {
        self.probe = probe;
    }

    /// Takes what came of one probe.
    pub fn observe(&mut self, region: Seat, path: Path, outcome: Outcome, now: Moment) {
        if let Some(counter) = self.counter(region, path) {
            let probe = self.probe.clone();
            if let Some(counter) = self.counters.get_mut(counter.0).and_then(|cells| cells.get_mut(counter.1))
            {
                counter.observe(outcome, now, &probe);
            }
            let answered = self.answered.get_mut(counter.0).and_then(|cells| cells.get_mut(counter.1));
            if let Some(answered) = answered.filter(|_| outcome == Outcome::Ok) {
                *answered = Some(now);
            }
        }
    }

    /// A passive signal: requests that fail, connections that do not come about, a lag that grows.
    pub fn suspect(&mut self, region: Seat, path: Path, now: Moment) {
        let probe = self.probe.clone();
        if let Some((region, path)) = self.counter(region, path)
            && let Some(counter) = self.counters.get_mut(region).and_then(|cells| cells.get_mut(path))
        {
            counter.suspect(now, &probe);
        }
    }

    fn counter(&self, region: Seat, path: Path) -> Option<(usize, usize)> {
        (region.index() < self.members.len()).then(|| (region.index(), path.index()))
    }

    /// The node's own work is late by so much: the process was stopped, or there is no processor for it. What it has seen of others meanwhile may be
    /// its own silence, for as long as a report counts.
    pub fn late(&mut self, by: std::time::Duration, now: Moment) {
        if by > self.probe.lateness {
            self.late_until = Some(now.plus(self.probe.report_age));
        }
    }

    /// This node's own row.
    #[must_use]
    pub fn row(&self, now: Moment) -> Row {
        let mut row = Row::default();
        for ((cells, counters), answered) in row.iter_mut().zip(&self.counters).zip(&self.answered) {
            for ((cell, counter), answered) in cells.iter_mut().zip(counters).zip(answered) {
                let age = answered.map_or(u128::from(u32::MAX), |answered| now.since(answered).as_millis());
                let age_ms = u32::try_from(age).unwrap_or(u32::MAX);
                *cell = Cell { state: counter.state(now), reason: counter.reason(now), age_ms };
            }
        }
        row
    }

    /// Does this node doubt what it sees?
    #[must_use]
    pub fn doubt(&self, now: Moment) -> Option<Doubt> {
        if self.late_until.is_some_and(|until| now < until) {
            return Some(Doubt::Late);
        }
        verdict::unreachable(&self.row(now), self.own, self.members.len()).then_some(Doubt::Unreachable)
    }

    /// The next report for the others.
    pub fn report(&mut self, now: Moment) -> Report {
        self.sequence += 1;
        if self.sent.len() >= SENT_MAX {
            self.sent.remove(0);
        }
        self.sent.push((self.sequence, now));
        let mut heard = [0; REGIONS_MAX];
        for (to, from) in heard.iter_mut().zip(&self.heard) {
            *to = from.as_ref().map_or(0, |heard| heard.report.sequence);
        }
        Report {
            vantage: self.own,
            members: self.members.digest(),
            sequence: self.sequence,
            heard,
            doubt: self.doubt(now),
            row: self.row(now),
        }
    }

    /// Takes another region's report. Gives whether it is news: an older one than is known changes nothing.
    pub fn hear(&mut self, report: Report) -> bool {
        let known = report.members == self.members.digest() && report.vantage != self.own;
        let Some(slot) = self.heard.get_mut(report.vantage.index()).filter(|_| known) else { return false };
        if slot.as_ref().is_some_and(|heard| heard.report.sequence >= report.sequence) {
            return false;
        }
        let named = report.heard.get(self.own.index()).copied().unwrap_or(0);
        let made = self.sent.iter().find(|(sequence, _)| *sequence == named).map(|(_, at)| *at);
        *slot = Some(Heard { report, made });
        true
    }

    /// The row of a vantage, if it is fresh; of this node always.
    #[must_use]
    pub fn view(&self, vantage: Seat, now: Moment) -> Option<(Row, Option<Doubt>)> {
        if vantage == self.own {
            return Some((self.row(now), self.doubt(now)));
        }
        let heard = self.heard.get(vantage.index())?.as_ref()?;
        let made = heard.made?;
        (now.since(made) <= self.probe.report_age).then_some((heard.report.row, heard.report.doubt))
    }

    /// Before when a region's last report was not made.
    #[must_use]
    pub fn made(&self, vantage: Seat) -> Option<Moment> {
        self.heard.get(vantage.index())?.as_ref()?.made
    }

    /// What is believed of all regions, in their order.
    #[must_use]
    pub fn verdicts(&self, now: Moment) -> Vec<Verdict> {
        let views: Vec<_> = self.members.seats().map(|seat| self.view(seat, now)).collect();
        self.members.seats().map(|seat| verdict::of(seat, &views)).collect()
    }

    /// What is believed of one.
    #[must_use]
    pub fn verdict(&self, region: Seat, now: Moment) -> Verdict {
        self.verdicts(now).get(region.index()).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
