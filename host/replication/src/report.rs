//! How a feed stands, for those who look.

use std::sync::{Mutex, PoisonError};

use portolan_changelog::{Batch, Counts};
use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::Position;
use portolan_core::time::Moment;
use serde::{Serialize, Serializer};

use crate::wire::Beat;

/// What a feed is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It looks for its source.
    #[default]
    Seeking,
    /// It takes what was written before the primary's epoch, and is not here.
    CatchingUp,
    /// It copies rows: nothing of the copy may be used yet.
    Copying,
    /// It asks for rows that were taken past a cut: nothing of the copy may be used yet.
    Mending,
    /// It follows the log.
    Following,
}

/// How a feed stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FeedReport {
    /// How old what the copy shows is at most, in milliseconds: what was done before that at the primary is here. It is
    /// known once all is here with which the primary's epoch began, and grows while the primary has no lease or is not heard.
    pub behind_ms: Option<u64>,
    /// What has been applied of the source's log.
    #[serde(serialize_with = "as_text")]
    pub applied: Option<Position>,
    /// Bytes that came, as they were on the wire.
    pub bytes: u64,
    /// Losers that were kept since this node started.
    pub conflicts: u64,
    /// Rows that were copied, while rows are.
    pub copied_rows: Option<u64>,
    /// How many links in a row ended without having brought anything.
    pub failures: u32,
    /// How far behind the source's last word the last record is that was applied, with the time since that word, in milliseconds; absent until it has spoken, and while
    /// rows are copied. It grows while the source is not heard.
    pub lag_ms: Option<u64>,
    /// Changes that wait alone, since this node started.
    pub parked: u64,
    /// Is its source the shard's primary, by whose log reads are as fresh as they are?
    pub primary: bool,
    /// What is wrong, if anything.
    pub problem: Option<String>,
    /// Records that were applied since this node started.
    pub records: u64,
    /// The shard.
    pub shard: ShardName,
    /// Since when nothing has been heard of the source, in milliseconds; absent until it has spoken.
    pub silent_ms: Option<u64>,
    /// The region whose log it is.
    pub source: RegionName,
    /// What it is at.
    pub state: State,
    /// How long the source's oldest record that may not be read yet has been waiting for an open transaction, in milliseconds.
    pub waiting_ms: u64,
}

fn as_text<S: Serializer>(position: &Option<Position>, serializer: S) -> Result<S::Ok, S::Error> {
    position.map(|position| position.to_string()).serialize(serializer)
}

/// Where a feed says how it stands. Written by that feed alone.
#[derive(Debug)]
pub struct Cell(Mutex<Inside>);

#[derive(Debug)]
struct Inside {
    /// The source's clock when it last spoke, in microseconds, and when that was heard.
    heard: Option<(u64, Moment)>,
    /// Until when, by the source's clock, records are applied.
    fresh_us: u64,
    /// Until when, by this node's clock, everything is here that was done; none while that is not known.
    whole: Option<Moment>,
    moved: bool,
    report: FeedReport,
}

impl Cell {
    /// Of a feed that has not begun.
    #[must_use]
    pub fn new(shard: ShardName, source: RegionName, primary: bool) -> Self {
        let report = FeedReport {
            applied: None,
            behind_ms: None,
            bytes: 0,
            conflicts: 0,
            copied_rows: None,
            failures: 0,
            lag_ms: None,
            parked: 0,
            primary,
            problem: None,
            records: 0,
            shard,
            silent_ms: None,
            source,
            state: State::Seeking,
            waiting_ms: 0,
        };
        Self(Mutex::new(Inside { heard: None, fresh_us: 0, whole: None, moved: false, report }))
    }

    /// How it stands now.
    #[must_use]
    pub fn report(&self, now: Moment) -> FeedReport {
        self.with(|inside| {
            let mut report = inside.report.clone();
            if let Some((at_us, heard)) = inside.heard {
                let since_us = u64::try_from(now.since(heard).as_micros()).unwrap_or(u64::MAX);
                report.silent_ms = Some(since_us / 1_000);
                report.lag_ms = Some(at_us.saturating_add(since_us).saturating_sub(inside.fresh_us) / 1_000);
            }
            report.behind_ms =
                inside.whole.map(|until| now.since(until).as_millis().try_into().unwrap_or(u64::MAX));
            report
        })
    }

    fn with<T>(&self, look: impl FnOnce(&mut Inside) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn turn(&self, state: State) {
        self.with(|inside| {
            inside.report.state = state;
            (inside.report.problem, inside.report.failures) = (None, 0);
            match state {
                // What was known of the copy is over: some of its rows are others by now.
                State::Copying | State::Mending => (inside.heard, inside.whole) = (None, None),
                State::CatchingUp | State::Seeking => {}
                State::Following => inside.report.copied_rows = None,
            }
        });
    }

    /// Notes why a link ended. Is it another reason than before?
    pub(crate) fn fail(&self, why: String) -> bool {
        self.with(|inside| {
            let other = inside.report.problem.as_ref() != Some(&why);
            inside.report.failures = inside.report.failures.saturating_add(1);
            inside.report.problem = Some(why);
            inside.report.state = State::Seeking;
            other
        })
    }

    /// Has anything of the log come since this was last asked?
    pub(crate) fn has_moved(&self) -> bool {
        self.with(|inside| std::mem::take(&mut inside.moved))
    }

    pub(crate) fn copied(&self, rows: u64) {
        self.with(|inside| inside.report.copied_rows = Some(rows));
    }

    pub(crate) fn copied_more(&self, rows: u64) {
        self.with(|inside| {
            let before = inside.report.copied_rows.unwrap_or_default();
            inside.report.copied_rows = Some(before.saturating_add(rows));
        });
    }

    pub(crate) fn applied(&self, batch: &Batch, counts: Counts, bytes: u64, now: Moment) {
        self.with(|inside| {
            inside.moved = true;
            inside.heard = Some((batch.at_us, now));
            inside.fresh_us = batch.records.last().map_or(inside.fresh_us, |last| last.at_us);
            let report = &mut inside.report;
            report.applied = Some(batch.through);
            report.bytes = report.bytes.saturating_add(bytes);
            report.records = report.records.saturating_add(batch.records.len() as u64);
            report.conflicts = report.conflicts.saturating_add(counts.conflicts);
            report.parked = report.parked.saturating_add(counts.parked);
        });
    }

    /// All is sent up to `through` that was done then; all of it is applied if that is. `stands`: what was done elsewhere before is here, too.
    pub(crate) fn beat(&self, beat: &Beat, (applied, stands): (Position, bool), now: Moment) {
        self.with(|inside| {
            inside.moved = true;
            inside.heard = Some((beat.at_us, now));
            if applied >= beat.through {
                inside.fresh_us = beat.at_us.saturating_sub(beat.waiting_us);
                if stands && !beat.closed {
                    // What this node had said before the look was on its way before that: so the link's way counts. An older source does not
                    // say what had come.
                    let looked =
                        if beat.said_us > 0 { beat.said_us.saturating_add(beat.held_us) } else { now.0 };
                    inside.whole = Some(Moment(looked.min(now.0).saturating_sub(beat.waiting_us)));
                }
            }
            inside.report.applied = Some(applied);
            inside.report.waiting_ms = beat.waiting_us / 1_000;
        });
    }

    pub(crate) fn parked(&self) -> u64 {
        self.with(|inside| inside.report.parked)
    }

    pub(crate) fn set_parked(&self, parked: u64) {
        self.with(|inside| inside.report.parked = parked);
    }
}
