//! What a node asks the control store, and what it makes of the answers.

use portolan_core::ids::ShardName;
use portolan_core::time::Moment;

use super::{Agent, Effect, Now};
use crate::counter::{Outcome, Reason};
use crate::defaults::{SCAN, SCAN_BUSY};
use crate::matrix::Path;
use crate::promotion::Step;
use crate::store::{Answer, Key, Request, Table, Transaction, Value};

/// Why the store was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Change(ShardName, Transaction),
    Lease(u64),
    Scan,
}

/// A question to the store.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) sent: Moment,
    pub(super) why: Why,
}

impl Agent {
    pub(super) fn stored(&mut self, number: u64, answer: Answer, now: Now, effects: &mut Vec<Effect>) {
        let Some(Asked { sent, why }) = self.forget(number) else { return };
        match why {
            Why::Lease(number) => {
                self.holder.answered(number, &answer, now.moment);
                // What conflicts is looked at at once: every moment counts of a lease.
                if let Some((number, request)) = self.holder.tick(now.moment) {
                    self.ask(Why::Lease(number), request, now, effects);
                }
            }
            Why::Scan => {
                let outcome = match answer {
                    Answer::Entries(table) => {
                        self.see(table, sent, now);
                        Outcome::Ok
                    }
                    _ => Outcome::Failed(Reason::Refused),
                };
                self.matrix.observe(self.own, Path::Control, outcome, now.moment);
                self.drive(now, effects);
                self.scan(now, effects);
            }
            Why::Change(shard, change) => {
                match answer {
                    Answer::Committed(revision) => {
                        self.table.learn(&change, revision);
                        self.drive(now, effects);
                    }
                    // What was done is said again, on what is there now.
                    _ => drop(self.working.remove(&shard)),
                }
                self.scan_at = now.moment;
            }
        }
    }

    fn see(&mut self, table: Table, sent: Moment, now: Now) {
        self.scanned = Some(sent);
        // A look that was overtaken by this node's own change.
        if table.last() < self.table.last() {
            return;
        }
        self.holder.see(&table, now.moment);
        for (region, challenger) in &mut self.challengers {
            let key = Key::Lease(region.clone());
            challenger.observe(table.revision(&key), table.lease(region), now.moment);
        }
        self.table = table;
        // What was asked for has been done, or cannot be any more, whatever becomes of the answer.
        let decided =
            |change: &Transaction| change.expect.iter().any(|(key, at)| self.table.revision(key) > *at);
        let over = |(number, asked): (&u64, &Asked)| match &asked.why {
            Why::Change(_, change) if decided(change) => Some(*number),
            _ => None,
        };
        let over: Vec<u64> = self.asked.iter().filter_map(over).collect();
        for number in over {
            self.forget(number);
        }
    }

    /// Looks at the store when that is due, unless the last look is not answered yet: then again after it.
    pub(super) fn scan(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if now.moment < self.scan_at || self.asked.values().any(|asked| asked.why == Why::Scan) {
            return;
        }
        let busy = self.table.iter().any(|(_, _, value)| matches!(value, Value::Promotion(record) if record.is_running() && record.step < Step::Verified));
        self.scan_at = now.moment.plus(if busy { SCAN_BUSY } else { SCAN });
        self.ask(Why::Scan, Request::Scan, now, effects);
    }

    pub(super) fn ask(&mut self, why: Why, request: Request, now: Now, effects: &mut Vec<Effect>) {
        self.number += 1;
        if let Why::Change(shard, _) = &why {
            self.changing.insert(shard.clone());
        }
        self.asked.insert(self.number, Asked { sent: now.moment, why });
        effects.push(Effect::Store(self.number, request));
    }

    /// Changes entries that are about a shard, one change at a time.
    pub(super) fn change(
        &mut self,
        shard: &ShardName,
        change: Transaction,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        if self.changing.contains(shard) {
            // It is said again once that is answered.
            self.working.remove(shard);
        } else {
            self.ask(Why::Change(shard.clone(), change.clone()), Request::Commit(change), now, effects);
        }
    }

    /// A question that was answered, or is not waited for any more.
    pub(super) fn forget(&mut self, number: u64) -> Option<Asked> {
        let asked = self.asked.remove(&number)?;
        if let Why::Change(shard, _) = &asked.why {
            self.changing.remove(shard);
        }
        Some(asked)
    }
}
