//! What all handlers share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use portolan_foundation::clock;
use serde_json::json;

use crate::authentic::{self, Bindings};
use crate::backend::Backends;
use crate::caller::{Caller, Way};
use crate::events::Events;
use crate::idempotency::Kept;
use crate::operations::Operations;
use crate::problem::Problem;
use crate::streams::{Requests, Streams};

/// Tokens whose last use is remembered.
const USES_MAX: usize = 10_000;

/// What the operator sets.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// How callers are recognised, other than by portolan's own tokens.
    pub bindings: Bindings,
    /// Names by which the listener may be called, besides those of this machine itself.
    pub hosts: Vec<String>,
    /// Origins of pages that may call, besides those that the listener itself serves.
    pub origins: Vec<String>,
}

/// The API. Clones are the same.
#[derive(Clone, Debug)]
pub struct Api(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    backends: Backends,
    denied: AtomicU64,
    events: Events,
    kept: Kept,
    operations: Operations,
    asking: Requests,
    requests: AtomicU64,
    settings: Settings,
    streams: Streams,
    uses: Mutex<HashMap<String, u64>>,
}

impl Api {
    /// An API over these.
    #[must_use]
    pub fn new(backends: Backends, events: Events, settings: Settings) -> Self {
        let operations = Operations::new(events.clone());
        Self(Arc::new(Shared {
            backends,
            denied: AtomicU64::new(0),
            events,
            kept: Kept::default(),
            operations,
            asking: Requests::default(),
            requests: AtomicU64::new(0),
            settings,
            streams: Streams::default(),
            uses: Mutex::default(),
        }))
    }

    /// What handlers stand on.
    #[must_use]
    pub fn backends(&self) -> &Backends {
        &self.0.backends
    }

    /// What happens.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.0.events
    }

    /// What takes longer than a request.
    #[must_use]
    pub fn operations(&self) -> &Operations {
        &self.0.operations
    }

    pub(crate) fn kept(&self) -> &Kept {
        &self.0.kept
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    pub(crate) fn asking(&self) -> &Requests {
        &self.0.asking
    }

    pub(crate) fn streams(&self) -> &Streams {
        &self.0.streams
    }

    /// Counters for metrics: name, help, value.
    #[must_use]
    pub fn counts(&self) -> [(&'static str, &'static str, u64); 3] {
        [
            ("admin_requests_total", "Requests to the admin API.", self.0.requests.load(Ordering::Relaxed)),
            (
                "admin_denied_total",
                "Requests that were refused for who asked.",
                self.0.denied.load(Ordering::Relaxed),
            ),
            ("admin_streams", "Streams of events that are open.", self.0.streams.count() as u64),
        ]
    }

    pub(crate) fn count_request(&self) {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells that someone was refused.
    pub(crate) fn deny(&self, caller: Option<&Caller>, method: &http::Method, path: &str, problem: &Problem) {
        self.0.denied.fetch_add(1, Ordering::Relaxed);
        let name = caller.map_or("unknown", |caller| &caller.name);
        let path: String = path.chars().take(200).collect();
        let tenant = caller.and_then(|caller| caller.tenant.clone());
        let data = json!({
            "caller": name,
            "method": method.as_str(),
            "path": path,
            "code": problem.code,
            "reason": problem.detail,
        });
        // A flood of them fills neither the ring nor the disk.
        if self.0.events.deny(tenant, data) {
            tracing::info!(caller = name, %method, path, code = %problem.code, "an admin request was refused");
        }
    }

    /// Remembers that a token was used.
    pub(crate) fn used(&self, token: &str) {
        let mut uses = self.0.uses.lock().unwrap_or_else(PoisonError::into_inner);
        if uses.len() < USES_MAX || uses.contains_key(token) {
            uses.insert(token.to_owned(), clock::unix_ms());
        }
    }

    /// When a token was last used on this node since it started.
    pub(crate) fn last_use(&self, token: &str) -> Option<u64> {
        self.0.uses.lock().unwrap_or_else(PoisonError::into_inner).get(token).copied()
    }

    /// May this caller, who was recognised before, still do anything?
    pub(crate) async fn still(&self, caller: &Caller) -> bool {
        if caller.until_ms.is_some_and(|until| until <= clock::unix_ms()) {
            return false;
        }
        caller.way != Way::Token || authentic::still_there(self, caller)
    }
}
