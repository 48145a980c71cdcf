//! What copies in other regions cost and how far they are behind: portolan's regions, whose logs triggers write (*portolan*) or are decoded from the
//! write-ahead log (*decoded*), beside PostgreSQL's own logical replication (*native*), all over TLS, between clusters of the same settings, with the
//! same statements, in turns within one run. Prints one JSON object;
//! `cargo xtask bench replication` makes a table of it.
//!
//! *CPU* is that of all processes of a side: the clusters, with their writers' connections and whoever looks at a copy, and the gateways.
//! The same rows written to a cluster that nobody follows (*alone*) tell what of it is not replication. *Lag* is from the source's clock,
//! which a statement writes into its rows just before it commits, to the moment at which a reader of the copy that looks every
//! five milliseconds sees them; all processes are on one machine, and have one clock. *Bytes* are counted where all sides' links pass,
//! with all that TLS and TCP's payload have. What capture adds to one write is a part of `cargo xtask bench shards`.
//!
//! `cargo bench --bench replication -- lag` measures that part alone (`apply`, `snapshot`, `lag`, `away`), and `small` shrinks all
//! numbers, for a try.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    reason = "a measurement that cannot be made is to fail, and its figures are far below 2^52"
)]

mod apply;
mod away;
#[path = "../cpu.rs"]
mod cpu;
mod lag;
mod native;
mod portolan;
mod side;
mod snapshot;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::side::{Side, Spent};

type Figures = Map<String, Value>;

/// Those that are compared. PostgreSQL's own is the last.
type Sides = [Side; 3];

/// How much of everything.
struct Size {
    /// Rows of a round, each in a transaction of its own.
    single: i64,
    /// Rows of a round in transactions of many.
    batched: i64,
    /// Rows that are written while a copy is away.
    away: i64,
    /// Rows that a new copy begins with, at least.
    snapshot: i64,
    /// Seconds of a steady load.
    seconds: i64,
    /// How often each side is measured.
    rounds: usize,
}

const SMALL: Size = Size { single: 400, batched: 2_000, away: 2_000, snapshot: 4_000, seconds: 2, rounds: 1 };
const FULL: Size =
    Size { single: 8_000, batched: 32_000, away: 40_000, snapshot: 150_000, seconds: 8, rounds: 3 };

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|text| !text.starts_with('-')).collect();
    let size = if arguments.iter().any(|argument| argument == "small") { SMALL } else { FULL };
    let wanted = |name: &str| {
        let mut parts = arguments.iter().filter(|argument| *argument != "small").peekable();
        parts.peek().is_none() || parts.any(|part| part == name)
    };
    let mut figures = Map::new();
    if ["apply", "snapshot", "lag", "away"].into_iter().any(wanted) {
        let mut sides = sides(1).await;
        if wanted("apply") {
            apply::measure(&size, &mut sides, "1_peer", &mut figures).await;
        }
        if wanted("snapshot") {
            snapshot::measure(&size, &mut sides, &mut figures).await;
        }
        if wanted("lag") {
            lag::measure(&size, &mut sides, &mut figures).await;
        }
        if wanted("away") {
            away::measure(&size, &mut sides, &mut figures).await;
        }
    }
    if wanted("apply") {
        let mut sides = sides(2).await;
        apply::measure(&size, &mut sides, "2_peers", &mut figures).await;
    }
    println!("{}", json!({ "bench": "replication", "figures": figures }));
}

/// Those that are compared, with so many copies each; all copies are there and followed.
async fn sides(peers: usize) -> Sides {
    let mut sides = [
        portolan::open("triggers", peers).await,
        portolan::open("logical", peers).await,
        native::open(peers).await,
    ];
    for side in &mut sides {
        side.warm_up().await;
    }
    sides
}

/// What portolan's sides took, over what PostgreSQL's own did.
fn over_native(figures: &mut Figures, part: &str, what: &str, sums: &[Spent; 3], of: impl Fn(&Spent) -> f64) {
    let [portolan, decoded, native] = sums;
    note(figures, &format!("{part}.{what}_over_native"), of(portolan) / of(native));
    note(figures, &format!("{part}.decoded.{what}_over_native"), of(decoded) / of(native));
}

/// Rows a second.
fn rate(sum: &Spent) -> f64 {
    sum.rows / sum.wall
}

fn note(figures: &mut Figures, name: &str, figure: f64) {
    eprintln!("{name:56} {figure:>14.2}");
    figures.insert(name.to_owned(), json!(figure));
}

/// Microseconds up to ten minutes.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).unwrap()
}

/// The median and the 99th percentile of a lag in milliseconds.
fn quantiles(figures: &mut Figures, name: &str, lag: &Histogram<u64>) {
    for (quantile, end) in [(0.5, "p50"), (0.99, "p99")] {
        note(figures, &format!("{name}.{end}_ms"), lag.value_at_quantile(quantile) as f64 / 1e3);
    }
}

/// What some rows took, by what and by whom.
fn spent(figures: &mut Figures, name: &str, spent: &Spent) {
    note(figures, &format!("{name}.rows_per_s"), rate(spent));
    let million = spent.rows / 1e6;
    note(figures, &format!("{name}.cpu_s_per_million_rows"), spent.cpu() / million);
    note(figures, &format!("{name}.cpu_s_per_million_rows.source"), spent.source / million);
    if spent.gateways > 0.0 {
        note(figures, &format!("{name}.cpu_s_per_million_rows.gateways"), spent.gateways / million);
    }
    note(figures, &format!("{name}.cpu_s_per_million_rows.copies"), spent.copies / million);
}
