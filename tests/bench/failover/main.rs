//! How long a region's death is felt, and what it loses: three regions with a cluster of PostgreSQL and a voter of etcd each, under load, of which the
//! one that writes is killed as a whole, again and again, in fresh worlds. And how long writes wait for a planned switchover. Prints one JSON object;
//! `cargo xtask bench failover` makes a table of it.
//!
//! Times are those of clients in the other regions: from the kill to the first answer to a read that may be a little old, and to the first write that is
//! acknowledged of every shard. *Lost* is what the databases themselves have past the cut when the region is back; *told* is what was said at the promotion.
//! A switchover's *pause* is the longest time without an acknowledged write of a shard.
//!
//! `cargo bench --bench failover -- kills=3 fast` makes so many kills with that profile alone (`default`, `fast`, `planned`).

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a measurement that cannot be made is to fail, and its figures are far below 2^52"
)]

mod kills;
mod switches;

use std::time::Duration;

use serde_json::{Map, Value, json};

type Figures = Map<String, Value>;

/// Kills with each profile, unless somebody says how many.
const KILLS: usize = 20;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|text| !text.starts_with('-')).collect();
    let kills = arguments.iter().find_map(|argument| argument.strip_prefix("kills="));
    let kills = kills.map_or(KILLS, |kills| kills.parse().unwrap());
    let wanted = |name: &str| {
        let mut parts = arguments.iter().filter(|argument| !argument.starts_with("kills=")).peekable();
        parts.peek().is_none() || parts.any(|part| part == name)
    };
    let mut figures = Map::new();
    for profile in ["default", "fast"] {
        if wanted(profile) {
            kills::measure(profile, kills, &mut figures).await;
        }
    }
    if wanted("planned") {
        switches::measure(kills.div_ceil(2), &mut figures).await;
    }
    println!("{}", json!({ "bench": "failover", "figures": figures }));
}

fn note(figures: &mut Figures, name: &str, figure: f64) {
    eprintln!("{name:48} {figure:>12.3}");
    figures.insert(name.to_owned(), json!(figure));
}

/// The median and the 99th percentile, which of few is the longest, in seconds.
fn quantiles(figures: &mut Figures, name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |quantile: f64| {
        let rank = (quantile * times.len() as f64).ceil();
        let rank = (1..=times.len()).find(|number| *number as f64 >= rank);
        times[rank.unwrap_or(times.len()) - 1].as_secs_f64()
    };
    for (quantile, end) in [(0.5, "p50_s"), (0.99, "p99_s")] {
        note(figures, &format!("{name}.{end}"), at(quantile));
    }
}
