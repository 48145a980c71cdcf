//! Who listens to requests as they end. While nobody does, a request pays one relaxed look at a number.
//!
//! A listener has a bounded queue; a line that finds no place is dropped and counted, because whoever is slow must not slow
//! requests. What does not fit its filter is never made into a line.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use portolan_core::ids::TenantName;
use portolan_foundation::random;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::access::Line;

/// Lines that may wait for one listener.
const QUEUE_LINES_MAX: usize = 1_024;

/// Which requests to hear of; everything that is set must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TapFilter {
    /// Of this tenant.
    pub tenant: Option<String>,
    /// With this status, or of this class: `404`, `5xx`.
    pub status: Option<String>,
    /// With this method.
    pub method: Option<String>,
    /// Decided by this policy.
    pub policy: Option<String>,
    /// With a path that begins so.
    pub path: Option<String>,
    /// Of a thousand that fit, so many.
    pub permille: u32,
}

/// All listeners. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taps(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    all: ArcSwap<Vec<Arc<Open>>>,
    changing: Mutex<()>,
    count: AtomicUsize,
}

/// A listener as data threads see it.
#[derive(Debug)]
struct Open {
    counts: Arc<Untold>,
    filter: TapFilter,
    queue: mpsc::Sender<Value>,
}

/// What a listener was not told.
#[derive(Debug, Default)]
pub struct Untold {
    dropped: AtomicU64,
    sampled: AtomicU64,
}

/// A listener.
#[derive(Debug)]
pub struct Tap {
    /// One line a request, as in the access log.
    pub lines: mpsc::Receiver<Value>,
    /// What it was not told.
    pub untold: Arc<Untold>,
    /// Whoever drops it listens no more.
    pub place: TapPlace,
}

/// A place among the listeners.
#[derive(Debug)]
#[must_use = "whoever drops it listens no more"]
pub struct TapPlace {
    open: Arc<Open>,
    taps: Taps,
}

impl Untold {
    /// Requests that fitted and found no place in the queue.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Requests that fitted and were left out by the rate.
    #[must_use]
    pub fn sampled(&self) -> u64 {
        self.sampled.load(Ordering::Relaxed)
    }
}

impl Drop for TapPlace {
    fn drop(&mut self) {
        self.taps.change(|all| all.retain(|open| !Arc::ptr_eq(open, &self.open)));
    }
}

impl Taps {
    /// Begins to listen.
    pub(crate) fn listen(&self, filter: TapFilter) -> Tap {
        let (queue, lines) = mpsc::channel(QUEUE_LINES_MAX);
        let untold: Arc<Untold> = Arc::default();
        let open = Arc::new(Open { counts: Arc::clone(&untold), filter, queue });
        self.change(|all| all.push(Arc::clone(&open)));
        Tap { lines, untold, place: TapPlace { open, taps: self.clone() } }
    }

    /// Does anybody listen to requests of this tenant?
    pub(crate) fn want(&self, tenant: Option<&TenantName>) -> bool {
        self.0.count.load(Ordering::Relaxed) > 0
            && self.0.all.load().iter().any(|open| open.filter.is_of(tenant.map(TenantName::as_str)))
    }

    /// Tells whoever wants to hear of it.
    pub(crate) fn tell(&self, line: &Line) {
        if self.0.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let all = self.0.all.load();
        for open in all.iter().filter(|open| open.filter.fits(line)) {
            if open.filter.permille < 1_000 && random::u64() % 1_000 >= u64::from(open.filter.permille) {
                open.counts.sampled.fetch_add(1, Ordering::Relaxed);
            } else if let Ok(place) = open.queue.try_reserve() {
                place.send(serde_json::to_value(line).unwrap_or_default());
            } else {
                open.counts.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Open>>)) {
        let alone = self.0.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = (**self.0.all.load()).clone();
        change(&mut all);
        self.0.count.store(all.len(), Ordering::Relaxed);
        self.0.all.store(Arc::new(all));
        drop(alone);
    }
}

impl TapFilter {
    fn is_of(&self, tenant: Option<&str>) -> bool {
        self.tenant.is_none() || self.tenant.as_deref() == tenant
    }

    fn fits(&self, line: &Line) -> bool {
        let status = |wanted: &str| {
            let number = line.status.to_string();
            match wanted.strip_suffix("xx") {
                Some(class) => number.starts_with(class),
                None => number == wanted,
            }
        };
        let policy = line.policy.as_deref().and_then(|policy| policy.split('@').next());
        self.is_of(line.tenant.as_deref())
            && self.status.as_deref().is_none_or(status)
            && self.method.as_deref().is_none_or(|method| method.eq_ignore_ascii_case(&line.method))
            && self.policy.as_deref().is_none_or(|wanted| policy == Some(wanted))
            && self.path.as_deref().is_none_or(|path| line.path.starts_with(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(tenant: &str, status: u16) -> Line {
        Line {
            tenant: Some(tenant.to_owned()),
            status,
            method: "GET".to_owned(),
            path: "/orders/1".to_owned(),
            policy: Some("weighted@0123".to_owned()),
            ..Line::default()
        }
    }

    #[tokio::test]
    async fn a_listener_hears_what_fits_and_is_told_what_it_missed() {
        let taps = Taps::default();
        assert!(!taps.want(None));
        let every = TapFilter { permille: 1_000, ..TapFilter::default() };
        let acme =
            TapFilter { tenant: Some("acme".to_owned()), status: Some("5xx".to_owned()), ..every.clone() };
        let mut one = taps.listen(acme);
        let tenant = TenantName::new("acme").unwrap();
        assert!(taps.want(Some(&tenant)) && !taps.want(None));
        taps.tell(&line("acme", 200));
        taps.tell(&line("rival", 500));
        taps.tell(&line("acme", 503));
        assert_eq!(one.lines.recv().await.unwrap()["status"], 503);
        assert!(one.lines.try_recv().is_err());
        for (filter, fits) in [
            (TapFilter { status: Some("503".to_owned()), ..every.clone() }, true),
            (TapFilter { status: Some("50".to_owned()), ..every.clone() }, false),
            (TapFilter { method: Some("get".to_owned()), ..every.clone() }, true),
            (TapFilter { method: Some("PUT".to_owned()), ..every.clone() }, false),
            (TapFilter { policy: Some("weighted".to_owned()), ..every.clone() }, true),
            (TapFilter { policy: Some("weight".to_owned()), ..every.clone() }, false),
            (TapFilter { path: Some("/orders".to_owned()), ..every.clone() }, true),
            (TapFilter { path: Some("/users".to_owned()), ..every.clone() }, false),
        ] {
            assert_eq!(filter.fits(&line("acme", 503)), fits, "{filter:?}");
        }
        let slow = taps.listen(every.clone());
        let sampled = taps.listen(TapFilter { permille: 1, ..every });
        for _ in 0..QUEUE_LINES_MAX + 10 {
            taps.tell(&line("acme", 200));
        }
        assert_eq!(slow.untold.dropped(), 10);
        assert!(sampled.untold.sampled() > 900 && sampled.untold.dropped() == 0);
        drop((one, slow, sampled));
        assert!(!taps.want(Some(&tenant)));
    }
}
