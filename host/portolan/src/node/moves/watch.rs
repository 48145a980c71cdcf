//! Who looks on while a move goes its way: tells its operation and the node's log how far it is.

use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::PoisonError;

use portolan_admin::Progress;
use portolan_foundation::shutdown::Shutdown;
use portolan_sharding::relocate::{Event, Watch};

use super::log::Entry;

/// One move's onlooker.
#[derive(Debug)]
pub(super) struct Onlooker {
    entry: Entry,
    /// This node's name.
    name: String,
    /// The operation; none for a move that another began.
    progress: Option<Progress>,
    rate: NonZeroU32,
    shutdown: Shutdown,
    told: Mutex<Told>,
}

/// What was told so far.
#[derive(Debug, Default)]
struct Told {
    followed: u64,
    stage: &'static str,
}

impl Onlooker {
    pub(super) fn new(
        entry: Entry,
        name: String,
        progress: Option<Progress>,
        rate: NonZeroU32,
        shutdown: Shutdown,
    ) -> Self {
        Self { entry, name, progress, rate, shutdown, told: Mutex::default() }
    }

    /// The operation, once the move has ended; its place in the log is free.
    pub(super) fn into_progress(self) -> Option<Progress> {
        self.progress
    }

    /// A stage begins, unless it has.
    pub(super) fn stage(&self, stage: &'static str) {
        let before = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut told.stage, stage)
        };
        if before != stage {
            self.entry.update(|stand| stand.stage = stage);
            self.progress.iter().for_each(|progress| progress.stage(stage));
        }
    }

    /// How many rows the tenant has.
    pub(super) fn expect_rows(&self, rows: u64) {
        self.entry.update(|stand| stand.rows_of = rows);
    }

    fn note(&self, detail: impl Into<String>) {
        if let Some(progress) = &self.progress {
            progress.note(detail);
        }
    }

    fn copied(&self, rows: u64) {
        let (mut done, mut of) = (0, 0);
        self.entry.update(|stand| {
            stand.rows += rows;
            (done, of) = (stand.rows, stand.rows_of);
        });
        self.note(format!("{done} of {of} rows"));
    }

    fn followed(&self, records: u64) {
        self.stage("follow");
        self.entry.update(|stand| stand.lag = records);
        let all = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.followed += records;
            told.followed
        };
        self.note(format!("{all} records, {records} of them in the last round"));
    }
}

impl Watch for Onlooker {
    fn event(&self, event: &Event) -> ControlFlow<()> {
        match event {
            Event::Noted => self.stage("copy"),
            Event::Copied { rows } => self.copied(*rows),
            Event::CaughtUp { records } => self.followed(*records),
            Event::Checked => self.note("all rows are compared"),
            Event::Replicated => self.note("a replica has received them"),
            Event::Held => self.stage("hold"),
            Event::Drained | Event::Compared => self.entry.update(|stand| stand.lag = 0),
            Event::Sealed => self.stage("switch"),
            Event::Switched => self.stage("settle"),
            Event::Did(_) => {}
        }
        let nobody_is_held = matches!(
            event,
            Event::Noted | Event::Copied { .. } | Event::CaughtUp { .. } | Event::Checked | Event::Replicated
        );
        // Once writes are held, what is left takes less time than a node has to drain.
        if nobody_is_held && self.shutdown.is_begun() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn mover(&self) -> String {
        self.name.clone()
    }

    fn rows_per_second(&self) -> Option<NonZeroU32> {
        Some(self.rate)
    }
}
