//! Whose upload is next: one at a time of each owner, and owners in turn. A tenant that sends a thousand waits behind its own,
//! and nobody waits behind it. Plain data without a clock; the caller wakes whoever waits.

use std::collections::{HashMap, HashSet, VecDeque};

use portolan_core::time::Moment;
use portolan_policy::Slot;

use crate::registry::MINUTE;

/// Owners that are remembered with what they began in the last minute.
const REMEMBERED_MAX: usize = 10_000;

/// Items that wait, by owner.
#[derive(Debug)]
pub(super) struct Queue<T> {
    /// Owners with something that waits, the next one first.
    turns: VecDeque<Slot>,
    waiting: HashMap<Slot, VecDeque<T>>,
    running: HashSet<Slot>,
    /// When each owner's last items began to wait.
    begun: HashMap<Slot, VecDeque<Moment>>,
}

/// Why nothing more is taken from an owner now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// As many wait as may.
    Waiting,
    /// As many came within a minute as may; seconds until the next is taken.
    Rate(u64),
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            turns: VecDeque::new(),
            waiting: HashMap::new(),
            running: HashSet::new(),
            begun: HashMap::new(),
        }
    }
}

impl<T> Queue<T> {
    /// Takes an item, if its owner may have one more.
    pub(super) fn push(
        &mut self,
        owner: Slot,
        item: T,
        limits: (usize, u32),
        now: Moment,
    ) -> Result<(), Full> {
        let (queued_max, per_minute) = limits;
        let is_running = usize::from(self.running.contains(&owner));
        if self.waiting.get(&owner).map_or(0, VecDeque::len) + is_running >= queued_max {
            return Err(Full::Waiting);
        }
        self.forget(now);
        let begun = self.begun.entry(owner.clone()).or_default();
        if begun.len() >= per_minute as usize
            && let Some(oldest) = begun.front()
        {
            let wait = MINUTE.saturating_sub(now.since(*oldest));
            return Err(Full::Rate(wait.as_secs().saturating_add(1)));
        }
        begun.push_back(now);
        let waiting = self.waiting.entry(owner.clone()).or_default();
        if waiting.is_empty() {
            self.turns.push_back(owner);
        }
        waiting.push_back(item);
        Ok(())
    }

    /// The next item, of the owner whose turn it is among those of whom none is worked on. Say [`Queue::done`] when it is.
    pub(super) fn next(&mut self) -> Option<(Slot, T)> {
        let place = self.turns.iter().position(|owner| !self.running.contains(owner))?;
        let owner = self.turns.remove(place)?;
        let waiting = self.waiting.get_mut(&owner)?;
        let item = waiting.pop_front()?;
        if waiting.is_empty() {
            self.waiting.remove(&owner);
        } else {
            self.turns.push_back(owner.clone());
        }
        self.running.insert(owner.clone());
        Some((owner, item))
    }

    pub(super) fn done(&mut self, owner: &Slot) {
        self.running.remove(owner);
    }

    /// How many wait, of all owners.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    fn forget(&mut self, now: Moment) {
        for begun in self.begun.values_mut() {
            while begun.front().is_some_and(|at| now.since(*at) >= MINUTE) {
                begun.pop_front();
            }
        }
        self.begun.retain(|_, begun| !begun.is_empty());
        // Tenants are the operator's, so there are never that many at once; forgetting is in their favour.
        if self.begun.len() >= REMEMBERED_MAX {
            self.begun.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use portolan_core::ids::TenantName;

    use super::*;

    const MUCH: (usize, u32) = (1_000, 1_000);

    fn tenant(name: &str) -> Slot {
        Slot::Tenant(TenantName::new(name).unwrap())
    }

    fn at(seconds: u64) -> Moment {
        Moment(1_000_000_000_000).plus(Duration::from_secs(seconds))
    }

    #[test]
    fn a_flood_of_one_delays_others_by_one_of_its_own_at_most() {
        let mut queue = Queue::default();
        for number in 0..500 {
            queue.push(tenant("flood"), number, MUCH, at(0)).unwrap();
        }
        assert_eq!(queue.next(), Some((tenant("flood"), 0)));
        queue.push(tenant("calm"), 7, MUCH, at(1)).unwrap();
        queue.push(Slot::Operator, 8, MUCH, at(1)).unwrap();
        // There is a second place for whoever comes; the flood gets no second one.
        assert_eq!(queue.next(), Some((tenant("calm"), 7)));
        assert_eq!(queue.next(), Some((Slot::Operator, 8)));
        assert_eq!(queue.next(), None, "one of each at a time");
        queue.done(&tenant("flood"));
        queue.push(tenant("calm"), 9, MUCH, at(2)).unwrap();
        queue.done(&tenant("calm"));
        let order: Vec<i32> = (0..4)
            .map(|_| {
                let (owner, item) = queue.next().unwrap();
                queue.done(&owner);
                item
            })
            .collect();
        assert_eq!(order, [1, 9, 2, 3], "in turn, and each owner's in order");
        assert_eq!(queue.len(), 496);
    }

    #[test]
    fn an_owner_has_so_many_waiting_and_so_many_a_minute() {
        let mut queue = Queue::default();
        queue.push(tenant("a"), 1, (2, 9), at(0)).unwrap();
        queue.next().unwrap();
        queue.push(tenant("a"), 2, (2, 9), at(0)).unwrap();
        assert_eq!(queue.push(tenant("a"), 3, (2, 9), at(0)), Err(Full::Waiting), "what runs counts");
        queue.push(tenant("b"), 4, (2, 9), at(0)).unwrap();

        let mut queue = Queue::default();
        for second in [0, 10, 20] {
            queue.push(tenant("a"), 0, (9, 3), at(second)).unwrap();
        }
        assert_eq!(queue.push(tenant("a"), 0, (9, 3), at(30)), Err(Full::Rate(31)));
        queue.push(tenant("a"), 0, (9, 3), at(60)).unwrap();
        assert_eq!(queue.push(tenant("a"), 0, (9, 3), at(61)), Err(Full::Rate(10)));
    }
}
