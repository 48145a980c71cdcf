//! The moves of this node: those that run, how far they are, and those that have ended, with their pauses.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portolan_core::ids::{ShardName, TenantName};
use serde::Serialize;

use super::defaults::{ENDED_MAX, RUNNING_MAX};

/// All of them. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Log(Arc<Mutex<Inside>>);

#[derive(Debug, Default)]
struct Inside {
    /// Moves by how they ended.
    counts: BTreeMap<End, u64>,
    /// The pauses of those that have ended, by move, the oldest first.
    ended: VecDeque<(String, Duration)>,
    /// The pauses of all moves since the node started: how many, their sum, the longest.
    pauses: (u64, Duration, Duration),
    running: BTreeMap<TenantName, Stand>,
}

/// How a move ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// It failed, and is brought to its end later.
    Left,
    Moved,
    TakenBack,
}

/// How far a move is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Stand {
    pub(super) from: ShardName,
    /// Records that were taken over at once when it was last looked.
    pub(super) lag: u64,
    /// Is it one that another began?
    pub(super) resumed: bool,
    /// Rows that were copied.
    pub(super) rows: u64,
    /// The tenant's rows when it began.
    pub(super) rows_of: u64,
    /// What is done.
    pub(super) stage: &'static str,
    pub(super) to: ShardName,
}

/// Why a move does not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// It runs here already.
    Running,
    /// Too many run.
    TooMany,
}

/// One move's place among those that run, until it is dropped.
#[derive(Debug)]
pub(super) struct Entry {
    log: Log,
    tenant: TenantName,
}

impl Log {
    /// A place for a move.
    pub(super) fn enter(&self, tenant: &TenantName, stand: Stand) -> Result<Entry, Full> {
        let mut inside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inside.running.contains_key(tenant) {
            return Err(Full::Running);
        }
        if inside.running.len() >= RUNNING_MAX {
            return Err(Full::TooMany);
        }
        inside.running.insert(tenant.clone(), stand);
        drop(inside);
        Ok(Entry { log: self.clone(), tenant: tenant.clone() })
    }

    /// Those that run, by tenant.
    pub(super) fn running(&self) -> BTreeMap<TenantName, Stand> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).running.clone()
    }

    /// The pause of a move that has ended here.
    pub(super) fn pause(&self, id: &str) -> Option<Duration> {
        let inside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inside.ended.iter().rev().find(|(ended, _)| ended == id).map(|(_, pause)| *pause)
    }

    /// A move has ended.
    pub(super) fn end(&self, end: End, pause: Option<(&str, Duration)>) {
        let mut inside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *inside.counts.entry(end).or_default() += 1;
        let Some((id, pause)) = pause else { return };
        let (count, sum, longest) = inside.pauses;
        inside.pauses = (count + 1, sum + pause, longest.max(pause));
        if inside.ended.len() >= ENDED_MAX {
            inside.ended.pop_front();
        }
        inside.ended.push_back((id.to_owned(), pause));
    }

    /// As Prometheus reads it.
    pub(super) fn render(&self, text: &mut String) {
        let inside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = |end: End| inside.counts.get(&end).copied().unwrap_or(0);
        let (pauses, sum, longest) = inside.pauses;
        // Writing to a string cannot fail.
        write!(
            text,
            "# HELP portolan_moves_running Moves of tenants that this node carries out.\n\
             # TYPE portolan_moves_running gauge\nportolan_moves_running {}\n\
             # HELP portolan_moves_total Moves of tenants that have ended here, by their end.\n\
             # TYPE portolan_moves_total counter\nportolan_moves_total{{end=\"moved\"}} {}\n\
             portolan_moves_total{{end=\"taken_back\"}} {}\nportolan_moves_total{{end=\"left\"}} {}\n\
             # HELP portolan_move_pause_seconds For how long tenants' writes were held by moves.\n\
             # TYPE portolan_move_pause_seconds summary\nportolan_move_pause_seconds_sum {}\n\
             portolan_move_pause_seconds_count {pauses}\n\
             # HELP portolan_move_pause_longest_seconds The longest of them.\n\
             # TYPE portolan_move_pause_longest_seconds gauge\nportolan_move_pause_longest_seconds {}\n",
            inside.running.len(),
            counted(End::Moved),
            counted(End::TakenBack),
            counted(End::Left),
            sum.as_secs_f64(),
            longest.as_secs_f64(),
        )
        .ok();
    }
}

impl Entry {
    /// Something about it has changed.
    pub(super) fn update(&self, change: impl FnOnce(&mut Stand)) {
        let mut inside = self.log.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stand) = inside.running.get_mut(&self.tenant) {
            change(stand);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.log.0.lock().unwrap_or_else(PoisonError::into_inner).running.remove(&self.tenant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stand() -> Stand {
        let name = |text| ShardName::new(text).unwrap();
        Stand { from: name("a"), lag: 0, resumed: false, rows: 0, rows_of: 0, stage: "check", to: name("b") }
    }

    #[test]
    fn few_run_at_once_and_each_tenant_once() {
        let log = Log::default();
        let tenants: Vec<TenantName> =
            (0..=RUNNING_MAX).map(|number| TenantName::new(&format!("t{number}")).unwrap()).collect();
        let mut entries: Vec<Entry> =
            tenants[1..].iter().map(|tenant| log.enter(tenant, stand()).unwrap()).collect();
        assert_eq!(log.enter(&tenants[1], stand()).unwrap_err(), Full::Running);
        assert_eq!(log.enter(&tenants[0], stand()).unwrap_err(), Full::TooMany);
        entries[0].update(|stand| stand.rows = 7);
        assert_eq!(log.running()[&tenants[1]].rows, 7);
        entries.clear();
        assert!(log.running().is_empty() && log.enter(&tenants[0], stand()).is_ok());
    }

    #[test]
    fn pauses_are_remembered_and_counted() {
        let log = Log::default();
        let ms = Duration::from_millis;
        log.end(End::Moved, Some(("m-1", ms(250))));
        log.end(End::Moved, Some(("m-2", ms(50))));
        log.end(End::TakenBack, None);
        assert_eq!((log.pause("m-1"), log.pause("m-3")), (Some(ms(250)), None));
        let mut text = String::new();
        log.render(&mut text);
        for line in [
            "portolan_moves_total{end=\"moved\"} 2\n",
            "portolan_moves_total{end=\"taken_back\"} 1\n",
            "portolan_move_pause_seconds_sum 0.3\n",
            "portolan_move_pause_longest_seconds 0.25\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        for number in 0..ENDED_MAX {
            log.end(End::Moved, Some((&format!("n-{number}"), ms(1))));
        }
        assert_eq!(log.pause("m-2"), None, "the oldest are forgotten");
    }
}
