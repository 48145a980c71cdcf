//! What is counted: one shard per data thread, added up when somebody asks, and the books of each request.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use portolan_core::decide::Undecided;
use portolan_core::ids::TenantName;
use portolan_core::screen::Violation;
use portolan_core::time::Moment;
use portolan_foundation::clock;

use crate::access::Line;
use crate::error::Error;
use crate::io::Switch;
use crate::settings::Held;
use crate::steer::Why;
use crate::tap::Taps;
use crate::usage::{Tally, Traffics};

/// Upper bounds of the duration histogram, in microseconds.
const BUCKETS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000,
    30_000_000,
];
const VIOLATIONS: [Violation; 21] = [
    Violation::Chunk,
    Violation::Expectation,
    Violation::Field,
    Violation::Flood,
    Violation::FrameSize,
    Violation::HeadSize,
    Violation::Host,
    Violation::Interim,
    Violation::Length,
    Violation::Line,
    Violation::Method,
    Violation::Preface,
    Violation::RequestLine,
    Violation::StatusLine,
    Violation::StreamClosed,
    Violation::Target,
    Violation::TargetSize,
    Violation::Trailer,
    Violation::TransferCoding,
    Violation::Unasked,
    Violation::Version,
];
const STEERED: [Why; 4] = [Why::Moved, Why::Panic, Why::Replica, Why::Spilled];
const UNDECIDED: [(Undecided, &str); 7] = [
    (Undecided::Broken, "broken"),
    (Undecided::Busy, "busy"),
    (Undecided::Demoted, "demoted"),
    (Undecided::Empty, "empty"),
    (Undecided::Overrun, "overrun"),
    (Undecided::OutOfRange, "out-of-range"),
    (Undecided::Trapped, "trapped"),
];

/// A number that one thread writes and any reads.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        // One writer: a plain load and store, without the price of an atomic addition.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn add(counts: &[Count; VIOLATIONS.len()], violation: Violation) {
    let place = VIOLATIONS.iter().position(|known| *known == violation);
    place.and_then(|at| counts.get(at)).into_iter().for_each(|count| count.add(1));
}

/// The counts of one data thread, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Shard {
    by_class: [Count; 6],
    buckets: [Count; BUCKETS_US.len() + 1],
    duration_us: Count,
    sent_bytes: Count,
    broken: Count,
    refused: [Count; VIOLATIONS.len()],
    refused_answers: [Count; VIOLATIONS.len()],
    undecided: [Count; UNDECIDED.len()],
    pub(crate) connections: Count,
    /// Handed over by other threads, and not begun yet.
    pub(crate) connections_coming: AtomicI64,
    pub(crate) connections_open: AtomicI64,
    pub(crate) handed_over: Count,
    pub(crate) upstream_connections: Count,
    pub(crate) attempts: Count,
    pub(crate) retries: Count,
    pub(crate) breakers_opened: Count,
    pub(crate) region_breakers_opened: Count,
    steered: [Count; STEERED.len()],
    pub(crate) upgrades: Count,
    pub(crate) decided: Count,
    usage: Tally,
    /// CPU time of the thread in microseconds, as last sampled.
    pub(crate) cpu_us: AtomicU64,
    /// CPU time in the last sampling interval, in thousandths of it.
    pub(crate) cpu_permille: AtomicU64,
}

impl Shard {
    pub(crate) fn refuse(&self, violation: Violation) {
        add(&self.refused, violation);
    }

    pub(crate) fn refuse_answer(&self, violation: Violation) {
        add(&self.refused_answers, violation);
    }

    pub(crate) fn undecided(&self, why: Undecided) {
        let place = UNDECIDED.iter().position(|(known, _)| *known == why);
        place.and_then(|at| self.undecided.get(at)).into_iter().for_each(|count| count.add(1));
    }

    pub(crate) fn steered(&self, why: Why) {
        let place = STEERED.iter().position(|known| *known == why);
        place.and_then(|at| self.steered.get(at)).into_iter().for_each(|count| count.add(1));
    }

    fn finish(&self, status: StatusCode, took: Duration, broken: bool) {
        let class = usize::from(status.as_u16() / 100).min(5);
        self.by_class.get(class).into_iter().for_each(|count| count.add(1));
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.partition_point(|&bound| bound < us);
        self.buckets.get(bucket).into_iter().for_each(|count| count.add(1));
        self.duration_us.add(us);
        self.broken.add(u64::from(broken));
    }
}

/// The books of one request, closed with the last byte of its response or when the client goes away.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) shard: Arc<Shard>,
    /// On whose account it goes.
    pub(crate) account: Option<Payer>,
    pub(crate) begun: Moment,
    pub(crate) status: StatusCode,
    pub(crate) sent_bytes: u64,
    pub(crate) broken: Option<Error>,
    pub(crate) line: Option<(Held, Taps, Box<Line>)>,
    pub(crate) switch: Option<Arc<Switch>>,
}

/// Who a request is counted for: at the region that took it in, not where it passed through.
#[derive(Clone, Debug)]
pub(crate) struct Payer {
    pub(crate) tenant: Option<TenantName>,
    pub(crate) received: Received,
}

/// Bytes of a content that have come in.
#[derive(Clone, Debug, Default)]
pub(crate) enum Received {
    #[default]
    Nothing,
    /// All of it, before it went on.
    Whole(u64),
    /// Those that have passed through so far.
    Streamed(Arc<AtomicU64>),
}

impl Received {
    fn bytes(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Whole(bytes) => *bytes,
            Self::Streamed(bytes) => bytes.load(Ordering::Relaxed),
        }
    }
}

impl Ticket {
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.sent_bytes += bytes;
    }

    pub(crate) fn broke(&mut self, error: Error) {
        self.broken = Some(error);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let took = clock::now().since(self.begun);
        self.shard.finish(self.status, took, self.broken.is_some());
        self.shard.sent_bytes.add(self.sent_bytes);
        if let Some(payer) = &self.account {
            self.shard.usage.count(payer.tenant.as_ref(), payer.received.bytes(), self.sent_bytes);
        }
        if let Some(switch) = &self.switch {
            switch.end();
        }
        if let Some((applied, taps, mut line)) = self.line.take() {
            line.status = self.status.as_u16();
            line.sent_bytes = self.sent_bytes;
            line.duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            line.error = line.error.or_else(|| self.broken.map(Error::as_str));
            taps.tell(&line);
            if let Some(writer) = &applied.log {
                writer.write(*line);
            }
        }
    }
}

/// Everything that the data plane counts.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub(crate) shards: Vec<Arc<Shard>>,
}

impl Metrics {
    pub(crate) fn new(threads: usize) -> Self {
        Self { shards: (0..threads).map(|_| Arc::default()).collect() }
    }

    fn sum(&self, see: impl Fn(&Shard) -> &Count) -> u64 {
        self.shards.iter().map(|shard| see(shard).read()).sum()
    }

    fn sum_at<const N: usize>(&self, see: impl Fn(&Shard) -> &[Count; N], at: usize) -> u64 {
        self.shards.iter().filter_map(|shard| see(shard).get(at)).map(Count::read).sum()
    }

    /// Requests that ended, by the first digit of their status; `[0]` is not used.
    #[must_use]
    pub fn requests_by_class(&self) -> [u64; 6] {
        std::array::from_fn(|class| self.sum_at(|shard| &shard.by_class, class))
    }

    /// Requests refused by the framing screen.
    #[must_use]
    pub fn refused(&self) -> u64 {
        (0..VIOLATIONS.len()).map(|at| self.sum_at(|shard| &shard.refused, at)).sum()
    }

    /// Attempts beyond the first.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.sum(|shard| &shard.retries)
    }

    /// Client connections open now, by data thread.
    #[must_use]
    pub fn connections_open(&self) -> Vec<i64> {
        self.shards.iter().map(|shard| shard.connections_open.load(Ordering::Relaxed)).collect()
    }

    /// Takes what was counted for tenants since the last time.
    #[must_use]
    pub fn take_usage(&self) -> Traffics {
        let mut all = Traffics::default();
        self.shards.iter().for_each(|shard| all.add(&shard.usage.take()));
        all
    }

    /// The text that Prometheus scrapes.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(8 * 1024);
        let counter = |text: &mut String, name: &str, help: &str, value: u64| {
            _ = writeln!(
                text,
                "# HELP portolan_{name} {help}\n# TYPE portolan_{name} counter\nportolan_{name} {value}"
            );
        };
        text.push_str("# HELP portolan_requests_total Requests that ended, by class of status.\n# TYPE portolan_requests_total counter\n");
        for (class, value) in self.requests_by_class().into_iter().enumerate().skip(1) {
            _ = writeln!(text, "portolan_requests_total{{class=\"{class}xx\"}} {value}");
        }
        self.render_histogram(&mut text);
        text.push_str("# HELP portolan_refused_total Requests refused by the framing screen.\n# TYPE portolan_refused_total counter\n");
        for (at, violation) in VIOLATIONS.iter().enumerate() {
            let value = self.sum_at(|shard| &shard.refused, at);
            _ = writeln!(text, "portolan_refused_total{{reason=\"{}\"}} {value}", violation.as_str());
        }
        text.push_str("# HELP portolan_upstream_refused_total Responses of upstreams refused by the framing screen.\n# TYPE portolan_upstream_refused_total counter\n");
        for (at, violation) in VIOLATIONS.iter().enumerate() {
            let value = self.sum_at(|shard| &shard.refused_answers, at);
            _ = writeln!(
                text,
                "portolan_upstream_refused_total{{reason=\"{}\"}} {value}",
                violation.as_str()
            );
        }
        text.push_str("# HELP portolan_undecided_total Dynamic rules that the policy gave no answer for.\n# TYPE portolan_undecided_total counter\n");
        for (at, (_, word)) in UNDECIDED.iter().enumerate() {
            let value = self.sum_at(|shard| &shard.undecided, at);
            _ = writeln!(text, "portolan_undecided_total{{reason=\"{word}\"}} {value}");
        }
        counter(
            &mut text,
            "decided_total",
            "Dynamic rules that the policy answered.",
            self.sum(|shard| &shard.decided),
        );
        counter(
            &mut text,
            "sent_bytes_total",
            "Bytes of contents sent to clients.",
            self.sum(|shard| &shard.sent_bytes),
        );
        counter(&mut text, "broken_total", "Responses that broke off.", self.sum(|shard| &shard.broken));
        counter(
            &mut text,
            "connections_total",
            "Client connections accepted.",
            self.sum(|shard| &shard.connections),
        );
        counter(
            &mut text,
            "connections_handed_over_total",
            "Client connections handed to a less busy thread.",
            self.sum(|shard| &shard.handed_over),
        );
        counter(
            &mut text,
            "upstream_connections_total",
            "Connections opened to upstreams.",
            self.sum(|shard| &shard.upstream_connections),
        );
        counter(
            &mut text,
            "upstream_attempts_total",
            "Attempts sent to upstreams.",
            self.sum(|shard| &shard.attempts),
        );
        counter(&mut text, "upstream_retries_total", "Attempts beyond the first.", self.retries());
        counter(
            &mut text,
            "breakers_opened_total",
            "Times that an endpoint's breaker opened.",
            self.sum(|shard| &shard.breakers_opened),
        );
        counter(
            &mut text,
            "region_breakers_opened_total",
            "Times that the breaker of a region opened.",
            self.sum(|shard| &shard.region_breakers_opened),
        );
        text.push_str("# HELP portolan_steered_total Requests that went first to another region than decided, or in panic.\n# TYPE portolan_steered_total counter\n");
        for (at, why) in STEERED.iter().enumerate() {
            let count = self.sum_at(|shard| &shard.steered, at);
            _ = writeln!(text, "portolan_steered_total{{why=\"{}\"}} {count}", why.as_str());
        }
        counter(
            &mut text,
            "upgrades_total",
            "Connections switched to another protocol.",
            self.sum(|shard| &shard.upgrades),
        );
        counter(&mut text, "task_panics_total", "Tasks that panicked.", portolan_foundation::task::panics());
        text.push_str("# HELP portolan_connections_open Client connections open now.\n# TYPE portolan_connections_open gauge\n");
        for (thread, open) in self.connections_open().into_iter().enumerate() {
            _ = writeln!(text, "portolan_connections_open{{thread=\"{thread}\"}} {open}");
        }
        text.push_str("# HELP portolan_thread_cpu_seconds_total CPU time of a data thread.\n# TYPE portolan_thread_cpu_seconds_total counter\n");
        for (thread, shard) in self.shards.iter().enumerate() {
            let us = shard.cpu_us.load(Ordering::Relaxed);
            _ = writeln!(
                text,
                "portolan_thread_cpu_seconds_total{{thread=\"{thread}\"}} {}.{:06}",
                us / 1_000_000,
                us % 1_000_000
            );
        }
        text
    }

    fn render_histogram(&self, text: &mut String) {
        let name = "portolan_request_duration_seconds";
        _ = writeln!(
            text,
            "# HELP {name} From the request's head to the last byte of its response.\n# TYPE {name} histogram"
        );
        let mut total = 0;
        for (at, bound) in BUCKETS_US.iter().enumerate() {
            total += self.sum_at(|shard| &shard.buckets, at);
            _ = writeln!(text, "{name}_bucket{{le=\"{}\"}} {total}", seconds(*bound));
        }
        total += self.sum_at(|shard| &shard.buckets, BUCKETS_US.len());
        let sum = seconds(self.sum(|shard| &shard.duration_us));
        _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {total}\n{name}_sum {sum}\n{name}_count {total}");
    }
}

fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}
