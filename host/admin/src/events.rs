//! What happens, for whoever wants to know: a bounded ring with numbers, so that one who was away can go on from where it
//! was, and is told how many it missed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use portolan_core::ids::TenantName;
use portolan_foundation::{clock, random};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;

use crate::defaults::{DENIALS_TOLD, EVENT_BYTES_MAX, EVENTS_MAX};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// More about it.
    pub data: Value,
    /// What, in a word: `generation`, `access-denied`, `operation` ...
    pub kind: &'static str,
    /// Whose it is; the platform's when none.
    pub tenant: Option<TenantName>,
}

/// The ring, and all handles of it.
#[derive(Clone, Debug)]
pub struct Events(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    denials: Mutex<(u64, u32)>,
    denials_untold: AtomicU64,
    /// Tells this life of the node from others, so that numbers are not taken for another's.
    life: u64,
    newest: watch::Sender<u64>,
    ring: Mutex<VecDeque<Arc<Event>>>,
}

/// What came after a number.
#[derive(Debug, PartialEq)]
pub(crate) struct News {
    /// How many were there and are no more.
    pub(crate) missed: u64,
    /// The others, with their numbers.
    pub(crate) events: Vec<(u64, Arc<Event>)>,
}

impl Default for Events {
    fn default() -> Self {
        Self(Arc::new(Shared {
            denials: Mutex::default(),
            denials_untold: AtomicU64::new(0),
            life: random::u64(),
            newest: watch::Sender::new(0),
            ring: Mutex::default(),
        }))
    }
}

impl Events {
    /// Tells something. Data that is too large is left out, and said to be.
    pub fn tell(&self, kind: &'static str, tenant: Option<TenantName>, data: Value) {
        let large = serde_json::to_vec(&data).map_or(usize::MAX, |text| text.len()) > EVENT_BYTES_MAX;
        let data = if large { serde_json::json!({ "left_out": "too large" }) } else { data };
        let event = Arc::new(Event { at_ms: clock::unix_ms(), data, kind, tenant });
        let mut ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() >= EVENTS_MAX {
            ring.pop_front();
        }
        ring.push_back(event);
        // While the ring is held, so that a number is never seen before its event.
        self.0.newest.send_modify(|newest| *newest += 1);
        drop(ring);
    }

    /// Tells that someone was refused; a flood of them is told in part, with the number of those that were not. Says whether
    /// this one was.
    pub(crate) fn deny(&self, tenant: Option<TenantName>, mut data: Value) -> bool {
        let second = clock::unix_ms() / 1_000;
        let told = {
            let mut denials = self.0.denials.lock().unwrap_or_else(PoisonError::into_inner);
            if denials.0 != second {
                *denials = (second, 0);
            }
            denials.1 = denials.1.saturating_add(1);
            denials.1
        };
        if told > DENIALS_TOLD {
            self.0.denials_untold.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let untold = self.0.denials_untold.swap(0, Ordering::Relaxed);
        if untold > 0
            && let Some(data) = data.as_object_mut()
        {
            data.insert("untold_before".to_owned(), untold.into());
        }
        self.tell("access-denied", tenant, data);
        true
    }

    /// The number of the newest event.
    pub(crate) fn newest(&self) -> u64 {
        *self.0.newest.borrow()
    }

    /// Told of each new event.
    pub(crate) fn follow(&self) -> watch::Receiver<u64> {
        self.0.newest.subscribe()
    }

    /// What came after a number.
    pub(crate) fn after(&self, number: u64) -> News {
        let ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = *self.0.newest.borrow();
        let oldest = newest - ring.len() as u64 + 1;
        let from = number.saturating_add(1);
        let skip = usize::try_from(from.saturating_sub(oldest)).unwrap_or(usize::MAX);
        let numbers = from.max(oldest)..;
        News {
            missed: oldest.saturating_sub(from),
            events: numbers.zip(ring.iter().skip(skip).map(Arc::clone)).collect(),
        }
    }

    /// The id of a number, for `Last-Event-ID`.
    pub(crate) fn id(&self, number: u64) -> String {
        format!("{:016x}-{number}", self.0.life)
    }

    /// The number of an id; none for one of another life, whose events are gone.
    pub(crate) fn number(&self, id: &str) -> Option<u64> {
        let (life, number) = id.split_once('-')?;
        let same = life == format!("{:016x}", self.0.life);
        number.parse().ok().filter(|number| same && *number <= self.newest())
    }
}
