//! Rows of a tenant that may not be everywhere: no frame and no file of another region has any.

use portolan_core::ids::TenantName;
use portolan_core::log::Position;
use portolan_foundation::clock;
use portolan_test_postgres::Place;

use super::shard::Shard;
use super::{Confined, Follower, Near, region, until};
use crate::follower::{Connect as _, hear, say};
use crate::wire::What;

/// What only the rows of the confined tenant have.
const MARKER: &str = "canary-7f3a";

fn confine(confined: &Confined) {
    confined.0.lock().unwrap().insert(TenantName::new("acme").unwrap());
}

/// Hears what a source says until it has said all, and gives it as a text.
async fn overhear(near: &Near, what: What) -> String {
    let (mouth, mut ear) = near.connect().await.unwrap();
    say(&portolan_core::ids::ShardName::new("s1").unwrap(), what, &mouth).await.unwrap();
    let mut text = String::new();
    loop {
        match hear(&region("eu"), &mut ear).await {
            Ok((crate::wire::Frame::Beat(_), _)) => return text,
            Ok((frame, _)) => text.push_str(&format!("{frame:?}\n")),
            Err(error) => return format!("{text}{error}"),
        }
    }
}

pub(super) async fn a_confined_tenant_goes_nowhere(place: Place) {
    let (eu, us) = (Shard::primary(&place, "eu").await, Shard::replica(&place, "us").await);
    eu.write(&format!("INSERT INTO notes VALUES ('acme', 1, '{MARKER}')")).await;
    let near = Near::new(&eu.store);
    let log = || What::Log { identity: None, after: Position::START, applied: Position::START, seen_us: 0 };
    let rows = || What::Rows { identity: None, after: None };
    // As long as nobody is confined the marker is heard: what looks for it would find it.
    assert!(overhear(&near, log()).await.contains(MARKER));
    confine(&near.wall);
    for what in [log(), rows()] {
        let heard = overhear(&near, what).await;
        assert!(!heard.contains(MARKER) && heard.contains("may not be in `us`"), "{heard}");
    }
    let follower = Follower::start(&near, "eu", &us.store);
    let refused = async |follower: &Follower| {
        let problem = follower.cell.report(clock::now()).problem;
        problem.is_some_and(|problem| problem.contains("rows of tenant `acme`"))
    };
    until("the source's refusal", async || refused(&follower).await).await;
    drop(follower);
    // A source that knows of no wall: whoever receives it has its own.
    near.wall.0.lock().unwrap().clear();
    confine(&near.takes);
    let follower = Follower::start(&near, "eu", &us.store);
    until("the follower's refusal", async || refused(&follower).await).await;
    assert!(us.rows().await.is_empty());
    for file in us.files() {
        let bytes = std::fs::read(&file).unwrap();
        let found = bytes.windows(MARKER.len()).any(|window| window == MARKER.as_bytes());
        assert!(!found, "{} has it", file.display());
    }
    // When it may be there, it comes by itself.
    near.takes.0.lock().unwrap().clear();
    until("the rows", async || us.rows().await == eu.rows().await).await;
}
