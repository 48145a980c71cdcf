//! What the demo measured: phases, their counts and their promises. Plain data; knows neither sockets nor terminals.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest latency that the histogram tells apart, in microseconds. Anything longer counts as this.
const LATENCY_US_MAX: u64 = 60_000_000;

/// What one client request came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The answer that was promised.
    Good {
        /// The region that answered.
        region: String,
        /// The generation that decided, where a policy did.
        generation: Option<u64>,
        /// Attempts that the gateway announced beyond the first.
        retries: u64,
        /// The client went on to another region's address first.
        reentered: bool,
    },
    /// Anything else, with the reason for people.
    Failed(String),
}

/// The counts of one phase while it runs.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Requests that ended.
    pub(crate) requests: u64,
    /// Requests that broke a promise.
    pub(crate) failures: u64,
    /// Retries that the gateway announced.
    pub(crate) retries: u64,
    /// Requests that a client brought to a second region's address because the first did not answer.
    pub(crate) reentries: u64,
    /// Answers by region.
    pub(crate) regions: BTreeMap<String, u64>,
    /// Answers by generation.
    pub(crate) generations: BTreeMap<u64, u64>,
    /// Up to [`REASONS_MAX`] different reasons of failures with their counts.
    pub(crate) reasons: BTreeMap<String, u64>,
    latency_us: Histogram<u64>,
}

/// How many different reasons are kept; the rest count as `others`.
const REASONS_MAX: usize = 8;

impl Tally {
    /// Nothing counted yet.
    ///
    /// # Errors
    /// When the histogram's bounds are refused, which these constant ones are not.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            requests: 0,
            failures: 0,
            retries: 0,
            reentries: 0,
            regions: BTreeMap::new(),
            generations: BTreeMap::new(),
            reasons: BTreeMap::new(),
            latency_us: Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?,
        })
    }

    /// Counts one request.
    pub(crate) fn add(&mut self, outcome: Outcome, took: Duration) {
        self.requests += 1;
        self.latency_us.saturating_record(u64::try_from(took.as_micros()).unwrap_or(LATENCY_US_MAX).max(1));
        match outcome {
            Outcome::Good { region, generation, retries, reentered } => {
                *self.regions.entry(region).or_default() += 1;
                if let Some(generation) = generation {
                    *self.generations.entry(generation).or_default() += 1;
                }
                self.retries += retries;
                self.reentries += u64::from(reentered);
            }
            Outcome::Failed(reason) => {
                self.failures += 1;
                let full = self.reasons.len() >= REASONS_MAX && !self.reasons.contains_key(&reason);
                *self.reasons.entry(if full { "others".to_owned() } else { reason }).or_default() += 1;
            }
        }
    }

    /// Latency in microseconds at a quantile between 0 and 1.
    pub(crate) fn latency_us(&self, quantile: f64) -> u64 {
        self.latency_us.value_at_quantile(quantile)
    }
}

/// One finished phase, as the JSON report carries it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Phase {
    /// `steady`, `swap`, `residency`, `shards`, `kill` or `return`.
    pub(crate) name: &'static str,
    /// What was promised, for people.
    pub(crate) promise: String,
    /// Requests that ended in this phase.
    pub(crate) requests: u64,
    /// Requests that broke a promise: time-outs, wrong regions, wrong bodies, unannounced retries.
    pub(crate) failures: u64,
    /// Retries that the gateways announced.
    pub(crate) retries: u64,
    /// Requests that clients brought to a second region's address because the first did not answer.
    pub(crate) reentries: u64,
    /// Median latency in microseconds.
    pub(crate) p50_us: u64,
    /// 99th percentile of latency in microseconds.
    pub(crate) p99_us: u64,
    /// Requests per second.
    pub(crate) rate: u64,
    /// Regions that answered.
    pub(crate) regions: Vec<String>,
    /// Generations that decided.
    pub(crate) generations: Vec<u64>,
    /// Reasons of failures with their counts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) reasons: BTreeMap<String, u64>,
    /// Was the promise kept?
    pub(crate) ok: bool,
}

/// The whole run, as `--json` prints it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// In the order in which they ran.
    pub(crate) phases: Vec<Phase>,
    /// Did every phase keep its promise?
    pub(crate) ok: bool,
}

impl Phase {
    /// Closes a phase. `kept` says whether what the phase was to show did happen, beside zero failures.
    pub(crate) fn close(
        name: &'static str,
        promise: &str,
        tally: &Tally,
        lasted: Duration,
        kept: bool,
    ) -> Self {
        let seconds = lasted.as_secs_f64().max(0.001);
        Self {
            name,
            promise: promise.to_owned(),
            requests: tally.requests,
            failures: tally.failures,
            retries: tally.retries,
            reentries: tally.reentries,
            p50_us: tally.latency_us(0.5),
            p99_us: tally.latency_us(0.99),
            rate: rate(tally.requests, seconds),
            regions: tally.regions.keys().cloned().collect(),
            generations: tally.generations.keys().copied().collect(),
            reasons: tally.reasons.clone(),
            ok: kept && tally.failures == 0 && tally.requests > 0,
        }
    }
}

/// Requests per second, rounded down; counts here are far below 2^52, so the conversion is exact.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count of requests of one demo run over its seconds"
)]
pub(crate) fn rate(requests: u64, seconds: f64) -> u64 {
    (requests as f64 / seconds) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_good_only_without_failures_and_with_its_promise() {
        let mut tally = Tally::new().unwrap();
        assert!(!Phase::close("steady", "", &tally, Duration::from_secs(1), true).ok, "nothing ran");
        let good =
            Outcome::Good { region: "eu-west".into(), generation: Some(3), retries: 1, reentered: false };
        tally.add(good, Duration::from_micros(250));
        let phase = Phase::close("steady", "", &tally, Duration::from_secs(1), true);
        assert!(phase.ok && phase.regions == ["eu-west"] && phase.generations == [3] && phase.retries == 1);
        assert!(!Phase::close("swap", "", &tally, Duration::from_secs(1), false).ok, "promise broken");
        for index in 0..20 {
            tally.add(Outcome::Failed(format!("reason {index}")), Duration::from_secs(100));
        }
        let phase = Phase::close("steady", "", &tally, Duration::from_secs(1), true);
        assert!(!phase.ok);
        assert_eq!(phase.failures, 20);
        assert_eq!(phase.reasons.values().sum::<u64>(), 20);
        assert!(phase.reasons.len() <= REASONS_MAX + 1);
    }
}
