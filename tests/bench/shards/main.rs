//! What shards cost: looking a tenant up among ten millions, a row through the gateway beside the same row straight from the
//! database, what capture and fence add to a write, how long a tenant's writes are held while it moves, and SQL over several
//! shards beside the same rows in one database. Peers of one comparison take turns in one run. Prints one JSON object;
//! `cargo xtask bench shards` makes a table of it.
//!
//! `cargo bench --bench shards -- data` measures that part alone, and `small` shrinks all numbers, for a try.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    reason = "a measurement that cannot be made is to fail, and its figures are far below 2^52"
)]

mod capture;
#[path = "../cpu.rs"]
mod cpu;
mod data;
mod directory;
mod moves;
mod query;
mod shop;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

type Figures = Map<String, Value>;

/// How much of everything.
struct Size {
    /// Tenants with a place of their own.
    exceptions: u64,
    /// Mebibytes of a tenant, and how often it moves.
    moves: Vec<(i64, usize)>,
    /// Rows that queries add up, and those that one reads all of.
    rows: (u64, u64),
    /// Requests of one turn, and turns.
    turn: usize,
    turns: usize,
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|text| !text.starts_with('-')).collect();
    let small = arguments.iter().any(|argument| argument == "small");
    let size = if small {
        Size { exceptions: 100_000, moves: vec![(2, 2)], rows: (20_000, 50_000), turn: 50, turns: 4 }
    } else {
        Size {
            exceptions: 10_000_000,
            moves: vec![(10, 6), (100, 4), (1_024, 2)],
            rows: (2_000_000, 10_000_000),
            turn: 500,
            turns: 20,
        }
    };
    let wanted = |name: &str| {
        let mut parts = arguments.iter().filter(|argument| *argument != "small").peekable();
        parts.peek().is_none() || parts.any(|part| part == name)
    };
    let mut figures = Map::new();
    if wanted("directory") {
        directory::measure(&size, &mut figures);
    }
    if wanted("data") {
        data::measure(&size, &mut figures).await;
    }
    if wanted("capture") {
        capture::measure(&size, &mut figures).await;
    }
    if wanted("move") {
        moves::measure(&size, &mut figures).await;
    }
    if wanted("query") {
        query::measure(&size, &mut figures).await;
    }
    println!("{}", json!({ "bench": "shards", "figures": figures }));
}

fn note(figures: &mut Figures, name: &str, figure: f64) {
    eprintln!("{name:56} {figure:>12.2}");
    figures.insert(name.to_owned(), json!(figure));
}

/// Numbers up to ten minutes of nanoseconds.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).unwrap()
}

/// The median and the 99th percentile of nanoseconds, in microseconds.
fn quantiles(figures: &mut Figures, name: &str, histogram: &Histogram<u64>) {
    for (quantile, end) in [(0.5, "p50"), (0.99, "p99")] {
        note(figures, &format!("{name}.{end}_us"), micros(histogram, quantile));
    }
}

fn micros(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1e3
}
