//! What end-to-end tests share: a node as a process, upstreams, clients, guests. Everything listens on loopback, on ports
//! that the kernel gives.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot be set up is to fail at once"
)]

pub mod agent;
pub mod client;
pub mod clients;
#[path = "../fixtures/etcd.rs"]
pub mod etcd;
#[path = "../fixtures/guests.rs"]
pub mod guests;
pub mod history;
pub mod line;
pub mod mmdb;
pub mod node;
pub mod regions;
pub mod servers;
pub mod upstream;

use std::time::Duration;

use tokio::time::Instant;

/// How long anything may take to come true, on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// From one look to the next.
const LOOK: Duration = Duration::from_millis(10);

/// Waits until something holds.
///
/// # Panics
/// When it does not within [`PATIENCE`].
#[track_caller]
pub fn until<F, Fut>(what: &str, mut holds: F) -> impl Future<Output = ()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let what = what.to_owned();
    async move {
        let deadline = Instant::now() + PATIENCE;
        while !holds().await {
            assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
            tokio::time::sleep(LOOK).await;
        }
    }
}
