//! End to end: the built program as its users have it, through its command line, its files, its sockets.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "helpers of tests fail as tests do"
)]

mod admin;
mod cache;
mod chaos;
mod cli;
mod content;
mod control;
mod dns;
mod events;
mod examples;
mod external;
mod failover;
mod geography;
mod guide;
mod history;
mod hostile;
mod hot;
mod languages;
mod life;
mod loss;
mod moves;
mod pki;
mod placement;
mod preview;
mod queries;
mod registry;
mod replay;
mod replication;
mod resilience;
mod rollout;
mod serving;
mod shards;
mod steering;
mod tenants;
mod upgrade;

use portolan_tests::node::{good, says};
use portolan_tests::upstream::Upstream;

/// One region `here` with the pool `web`, and a second pool `other`.
fn one_region(web: &[&Upstream], more: &str) -> String {
    let endpoints: Vec<String> = web.iter().map(|upstream| format!("\"{}\"", upstream.address)).collect();
    format!(
        "[node]\nregion = \"here\"\nthreads = 2\n[listen]\npublic = [\"127.0.0.1:0\"]\n[expose]\ndecision = true\n\
         [policies]\ninstances = 100\n[region.here.pool.web]\nendpoints = [{}]\n{more}",
        endpoints.join(", ")
    )
}
