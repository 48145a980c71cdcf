//! How short calls are measured on a machine that has other work too: in batches that a clock can tell apart, and in rounds, so
//! that a neighbour who is busy for a while falls on some rounds of every figure and not on all of one.

use std::collections::BTreeMap;
use std::time::Instant;

use hdrhistogram::Histogram;
use serde_json::{Map, json};

/// Rounds of a series.
pub(crate) const ROUNDS: usize = 10;
/// Batches of one figure in one round.
const BATCHES: usize = 400;
/// Calls of one batch.
pub(crate) const BATCH: usize = 50;

/// Figures that are measured in turns.
#[derive(Default)]
pub(crate) struct Series(BTreeMap<String, Figure>);

struct Figure {
    all: Histogram<u64>,
    /// The p50 of the quietest round in nanoseconds of a batch: whatever else runs only adds.
    p50: u64,
}

impl Series {
    /// One round of one figure.
    pub(crate) fn measure(&mut self, name: impl Into<String>, call: impl FnMut()) {
        self.add(name, &round(call));
    }

    /// Takes a round that was measured elsewhere.
    pub(crate) fn add(&mut self, name: impl Into<String>, round: &Histogram<u64>) {
        let figure = self.0.entry(name.into()).or_insert_with(|| Figure { all: histogram(), p50: u64::MAX });
        figure.p50 = figure.p50.min(round.value_at_quantile(0.5));
        figure.all.add(round).expect("both have the same bounds");
    }

    /// Nanoseconds of a call: p50 of the quietest round, p99 of all.
    pub(crate) fn note(self, figures: &mut Map<String, serde_json::Value>) {
        for (name, figure) in self.0 {
            let of_call = |batch: u64| batch as f64 / BATCH as f64;
            note(figures, &name, (of_call(figure.p50), of_call(figure.all.value_at_quantile(0.99))));
        }
    }
}

/// Nanoseconds of batches.
pub(crate) fn round(mut call: impl FnMut()) -> Histogram<u64> {
    let mut histogram = histogram();
    for _ in 0..BATCH {
        call();
    }
    for _ in 0..BATCHES {
        let begun = Instant::now();
        for _ in 0..BATCH {
            call();
        }
        record(&mut histogram, begun);
    }
    histogram
}

/// Nanoseconds up to a minute.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are those of a histogram")
}

/// Adds the nanoseconds since then.
pub(crate) fn record(histogram: &mut Histogram<u64>, begun: Instant) {
    histogram.saturating_record(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
}

/// p50 and p99 of single calls.
pub(crate) fn quantiles(histogram: &Histogram<u64>) -> (f64, f64) {
    (histogram.value_at_quantile(0.5) as f64, histogram.value_at_quantile(0.99) as f64)
}

/// Puts nanoseconds at p50 and p99 into the report.
pub(crate) fn note(figures: &mut Map<String, serde_json::Value>, name: &str, (p50, p99): (f64, f64)) {
    figures.insert(format!("{name}.p50_ns"), json!(p50.round()));
    figures.insert(format!("{name}.p99_ns"), json!(p99.round()));
    eprintln!("{name:44} p50 {p50:>9.0} ns   p99 {p99:>9.0} ns");
}
