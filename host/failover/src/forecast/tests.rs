//! What would happen if a region died now.

use super::*;
use crate::guards::Rule;
use crate::guards::tests::{picture, region, shard};
use crate::policies::conservative;
use crate::timers::Profile;

#[test]
fn a_forecast_says_who_what_and_how_long() {
    let mut now = picture();
    now.regions.insert(region("eu"), now.regions["us"].clone());
    for replica in now.shards.get_mut("a").unwrap().replicas.values_mut() {
        replica.ago_ms = 300;
    }
    now.shards.get_mut("b").unwrap().replicas.retain(|name, _| name.as_str() == "sa");
    let timers = Profile::Default.timers();
    let told = forecast(&now, &region("eu"), &timers, conservative);
    let a = &told.shards[&shard("a")];
    assert_eq!(
        (a.to.as_ref(), a.loss_rows, a.loss_rows_max, a.loss_ms),
        (Some(&region("us")), 0, Some(50), 300)
    );
    assert_eq!(a.time_ms, Some(13_000));
    let b = &told.shards[&shard("b")];
    assert_eq!((b.to.as_ref(), b.loss_rows, b.time_ms), (None, 900, None));
    assert_eq!((told.traffic_to, told.traffic_percent, told.spare_percent), (Some(region("us")), 100, 666));
    assert!(told.barred.is_empty());
    // What stands in the way today is told today.
    now.intents.freeze =
        Some(crate::intent::Word::new("ann", "a drill", now.now_ms, Duration::from_secs(60)).unwrap());
    let told = forecast(&now, &region("eu"), &timers, conservative);
    assert!(told.shards.values().all(|shard| shard.to.is_none()));
    assert!(told.barred.iter().all(|bar| bar.rule == Rule::Operator) && !told.barred.is_empty());
}
