//! The settings that change while the data plane runs. One writer applies them; each data thread takes them over within a
//! tenth of a second. Requests use those that their thread has; limits of a connection are those of its beginning.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::access::{AccessLog, Writer};
use crate::config::{Limits, Trust};
use crate::defaults;

/// What may change while the data plane runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where to write what was served; `None` for nowhere.
    pub access_log: Option<AccessLog>,
    /// How long requests in flight may take to end after the shutdown began.
    pub drain_timeout: Duration,
    /// Tell clients which generation, policy and region served them.
    pub expose_decision: bool,
    /// Bounds on what clients may do.
    pub limits: Limits,
    /// What to believe of what requests say about their clients.
    pub trust: Trust,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            access_log: None,
            drain_timeout: defaults::DRAIN_TIMEOUT,
            expose_decision: false,
            limits: Limits::default(),
            trust: Trust::default(),
        }
    }
}

/// The place where the running settings hang.
#[derive(Debug)]
pub struct LiveSettings {
    current: ArcSwap<Applied>,
    log_lines_dropped: Arc<AtomicU64>,
}

/// Settings at work.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) settings: Settings,
    pub(crate) log: Option<Writer>,
}

/// A data thread's own hold of them: to share it costs no atomic operation.
pub(crate) type Held = Rc<Arc<Applied>>;

impl LiveSettings {
    /// Hangs up the first ones.
    ///
    /// # Errors
    /// When the access log cannot be opened.
    pub fn new(settings: Settings) -> io::Result<Arc<Self>> {
        let log_lines_dropped = Arc::default();
        let log =
            settings.access_log.as_ref().map(|log| Writer::start(log, &log_lines_dropped)).transpose()?;
        let current = ArcSwap::from_pointee(Applied { settings, log });
        Ok(Arc::new(Self { current, log_lines_dropped }))
    }

    /// Makes others the running ones.
    ///
    /// # Errors
    /// When the access log cannot be opened; then nothing has changed.
    pub fn apply(&self, settings: Settings) -> io::Result<()> {
        let before = self.current.load();
        if before.settings == settings {
            return Ok(());
        }
        let log = if before.settings.access_log == settings.access_log {
            before.log.clone()
        } else {
            let start = |log| Writer::start(log, &self.log_lines_dropped);
            settings.access_log.as_ref().map(start).transpose()?
        };
        self.current.store(Arc::new(Applied { settings, log }));
        Ok(())
    }

    /// What to believe of what requests say about their clients, now.
    #[must_use]
    pub fn trust(&self) -> Trust {
        self.current.load().settings.trust.clone()
    }

    /// Lines of the access log that found no place in its queue.
    #[must_use]
    pub fn log_lines_dropped(&self) -> u64 {
        self.log_lines_dropped.load(Ordering::Relaxed)
    }

    /// A thread's hold of the running ones.
    pub(crate) fn hold(&self) -> Held {
        Rc::new(self.current.load_full())
    }

    /// Is this still a hold of the running ones?
    pub(crate) fn is_current(&self, held: &Held) -> bool {
        Arc::ptr_eq(held, &self.current.load())
    }
}
