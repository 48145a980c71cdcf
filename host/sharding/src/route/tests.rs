//! Who is asked for what may be a little old.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use portolan_core::directory::Directory;
use portolan_core::endpoint::RegionCell;
use portolan_core::facts::Verdict;
use portolan_core::ids::ShardName;
use portolan_core::log::Epoch;
use portolan_core::steering::{Limits, Steering, Traffic};
use portolan_core::tenant::Tenants;
use portolan_core::time::Moment;
use portolan_core::topology::{BreakerLimits, Region};

use super::*;

fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

/// Regions with their verdicts, the more distant the later; this one is `here`.
fn topology(regions: &[(&str, Verdict)]) -> Topology {
    let region = |(at, (name, verdict)): (u64, &(&str, Verdict))| {
        let cell = RegionCell::default();
        cell.set_verdict(*verdict, Moment(1));
        cell.observe_latency(Duration::from_millis(20 * (at + 1)));
        let name = region(name);
        (
            name.clone(),
            Arc::new(Region { name, gateways: None, pools: BTreeMap::new(), cell: Arc::new(cell) }),
        )
    };
    let breaker =
        BreakerLimits { failures: 5, pause_min: Duration::from_secs(1), pause_max: Duration::from_secs(1) };
    Topology {
        directory: Arc::new(Directory::empty()),
        local: self::region("here"),
        latency_us: BTreeMap::new(),
        regions: (0_u64..).zip(regions).map(region).collect(),
        residencies: BTreeMap::new(),
        seed: 1,
        steering: Arc::<Steering>::default(),
        steering_limits: Limits { breaker, panic_percent: 50, ramp: Duration::from_secs(30) },
        tenants: Tenants::default(),
    }
}

fn shard(primary: &str, replicas: &[&str]) -> Shard {
    Shard {
        name: ShardName::new("s1").unwrap(),
        epoch: Epoch(1),
        external: false,
        primary: region(primary),
        replicas: replicas.iter().map(|name| region(name)).collect::<BTreeSet<_>>(),
        residency: None,
        takes_new: true,
    }
}

fn asked(topology: &Topology, shard: &Shard, wanted: &Consistency) -> Vec<String> {
    elsewhere(topology, shard, wanted).iter().map(ToString::to_string).collect()
}

#[test]
fn a_region_without_a_copy_asks_the_nearest_that_serves() {
    let well = |name| (name, Verdict::Healthy);
    let topology = topology(&[well("here"), well("near"), well("far")]);
    let shard = shard("far", &["near"]);
    let at_least = Consistency::AtLeast("v1;s1=1.2.3".parse().unwrap());
    assert_eq!(asked(&topology, &shard, &Consistency::Primary), [""; 0]);
    assert_eq!(asked(&topology, &shard, &Consistency::Local), ["near", "far"]);
    // A copy may be too old for these, and the primary never is.
    assert_eq!(asked(&topology, &shard, &Consistency::MaxStaleness(5)), ["far", "near"]);
    assert_eq!(asked(&topology, &shard, &at_least), ["far", "near"]);
    // Nobody writes it: copies come first by their distance.
    let unwritten = BTreeSet::from([shard.name.clone()]);
    topology.steering.publish(Traffic { unwritten, ..Traffic::default() });
    assert_eq!(asked(&topology, &shard, &at_least), ["near", "far"]);
}

#[test]
fn regions_that_are_down_are_not_asked_but_the_primary_last() {
    let well = |name| (name, Verdict::Healthy);
    let down = |name| (name, Verdict::Down);
    let wanted = Consistency::MaxStaleness(5);
    let topology = topology(&[well("here"), down("near"), well("far"), down("lead")]);
    assert_eq!(asked(&topology, &shard("lead", &["near", "far"]), &wanted), ["far", "lead"]);
    // Its own copy was asked before; what it has as the primary whose lease is over comes first.
    assert_eq!(asked(&topology, &shard("lead", &["here", "near"]), &wanted), ["lead"]);
    assert_eq!(asked(&topology, &shard("here", &["near", "far"]), &wanted), ["here", "far"]);
}
