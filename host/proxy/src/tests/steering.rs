//! Steering: which region answers when traffic is moved, regions fail in part, or nobody writes a shard.

use portolan_core::facts::Verdict;
use portolan_core::ids::ShardName;
use portolan_core::log::Epoch;
use portolan_core::steering::{Detour, Forwarded, Limits, Traffic};
use portolan_core::time::Moment;

use super::service::{directory, directory_in};
use super::*;

pub(super) const LIMITS: Limits = Limits {
    breaker: BreakerLimits {
        failures: 3,
        pause_min: Duration::from_secs(60),
        pause_max: Duration::from_secs(60),
    },
    panic_percent: 50,
    ramp: Duration::ZERO,
};

async fn two_regions() -> Topology {
    let (eu, us) = (upstream("eu").await, upstream("us").await);
    topology(&[("eu", &[eu]), ("us", &[us])], Protocol::Http1)
}

fn believing(settings: &mut Settings) {
    settings.trust = Trust { proxies: vec!["127.0.0.0/8".parse().unwrap()], ..Trust::default() };
}

/// Which region answers each of so many clients.
async fn answered(gateway: &Gateway, clients: u8, tenant: &str) -> Vec<String> {
    let mut all = Vec::new();
    for client in 0..clients {
        let request = get("/a").header("x-forwarded-for", format!("10.0.0.{client}"));
        let response = send(gateway.address, empty(request.header("x-tenant", tenant))).await;
        all.push(json(&response)["name"].as_str().unwrap().to_owned());
    }
    all
}

fn moved(percent: u8) -> Traffic {
    let detour = Detour { percent, target: region("us") };
    Traffic { detours: BTreeMap::from([(region("eu"), detour)]), ..Traffic::default() }
}

#[tokio::test]
async fn traffic_moves_by_its_share_and_only_the_share_moves() {
    let topology = two_regions().await;
    let steering = Arc::clone(&topology.steering);
    let gateway = start(topology, Policies::default(), believing);
    let mut before = answered(&gateway, 80, "acme").await;
    assert!(before.iter().all(|name| name == "eu"));
    let mut counts = Vec::new();
    for percent in [25, 50, 100, 50, 0] {
        steering.publish(moved(percent));
        let now = answered(&gateway, 80, "acme").await;
        let grows = now.iter().filter(|name| *name == "us").count();
        let shrinks = before.iter().filter(|name| *name == "us").count();
        let changed = before.iter().zip(&now).filter(|(before, now)| before != now).count();
        assert_eq!(changed, grows.abs_diff(shrinks), "only the share moves");
        counts.push(grows);
        before = now;
    }
    assert!((8..35).contains(&counts[0]) && (25..55).contains(&counts[1]), "{counts:?}");
    assert_eq!((counts[2], counts[1], counts[4]), (80, counts[3], 0));
    assert!(gateway.handle.metrics().render().contains("portolan_steered_total{why=\"moved\"}"));
}

#[tokio::test]
async fn residency_is_never_widened_by_a_plan() {
    let topology = two_regions().await;
    topology.steering.publish(moved(100));
    let gateway = start(topology, Policies::default(), believing);
    assert!(answered(&gateway, 10, "bound").await.iter().all(|name| name == "eu"));
}

#[tokio::test]
async fn what_a_region_cannot_take_spills_over() {
    let (one, two) = (upstream("eu").await, upstream("eu").await);
    let us = upstream("us").await;
    let topology = topology(&[("eu", &[one, two]), ("us", &[us])], Protocol::Http1);
    let endpoints = topology.pool(&region("eu"), &PoolName::new("app").unwrap()).unwrap().endpoints.clone();
    let gateway = start(topology, Policies::default(), believing);
    assert!(answered(&gateway, 20, "acme").await.iter().all(|name| name == "eu"));
    endpoints[0].cell.set_up(false);
    let spilled = answered(&gateway, 100, "acme").await.iter().filter(|name| *name == "us").count();
    assert!((15..50).contains(&spilled), "50 % healthy bear 70 %, not {spilled} less");
    endpoints[1].cell.set_up(false);
    assert!(answered(&gateway, 20, "acme").await.iter().all(|name| name == "us"));
}

/// Probes and the gate both see that a region is back, and its traffic comes back along one ramp.
#[test]
fn a_region_that_is_back_ramps_up_once() {
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    let mut topology = topology(&[("eu", &[address]), ("us", &[address])], Protocol::Http1);
    topology.steering_limits.ramp = Duration::from_secs(10);
    let (us, app) = (region("us"), PoolName::new("app").unwrap());
    let place = Arc::make_mut(topology.regions.get_mut(&us).unwrap());
    place.gateways = Some(pool("us", &[address], Protocol::Http1));
    let at = |seconds: u64| Moment(seconds * 1_000_000);
    let (cell, gate) = (Arc::clone(&place.cell), Arc::clone(&place.pools[&app].gate));
    let share = |now| crate::steer::level(&topology, &Traffic::default(), &us, &app, now).share;
    cell.set_verdict(Verdict::Down, at(1));
    for _ in 0..LIMITS.breaker.failures {
        let pass = gate.start(at(1)).unwrap();
        gate.finish(pass, Forwarded::Failed, &LIMITS.breaker, at(1));
    }
    assert_eq!(share(at(2)), 0);
    cell.set_verdict(Verdict::Healthy, at(198));
    let probe = gate.start(at(200)).unwrap();
    gate.finish(probe, Forwarded::Served, &LIMITS.breaker, at(200));
    assert_eq!([200, 205, 210].map(|seconds| share(at(seconds))), [5, 52, 100]);
}

#[tokio::test]
async fn with_nothing_well_probes_are_not_believed() {
    let topology = two_regions().await;
    for name in ["eu", "us"] {
        topology.pool(&region(name), &PoolName::new("app").unwrap()).unwrap().endpoints[0].cell.set_up(false);
    }
    let gateway = start(topology, Policies::default(), |_| {});
    let response = send(gateway.address, empty(get("/a"))).await;
    assert_eq!(
        (json(&response)["name"].as_str(), field(&response, "portolan-steered")),
        (Some("eu"), Some("panic"))
    );
}

#[tokio::test]
async fn a_shard_that_nobody_writes_is_read_and_says_so() {
    let mut topology = two_regions().await;
    topology.directory = directory(&topology, "eu");
    let unwritten = BTreeSet::from([ShardName::new("s1").unwrap()]);
    topology.steering.publish(Traffic { unwritten, ..Traffic::default() });
    let steering = Arc::clone(&topology.steering);
    let gateway = start(topology, Policies::default(), |_| {});
    let ask = async |method: &str| {
        let request = Request::builder().method(method).uri("/a").header("host", "shop.example.com");
        send(gateway.address, empty(request.header("x-tenant", "acme"))).await
    };
    let (read, write) = (ask("GET").await, ask("POST").await);
    assert_eq!((read.status().as_u16(), field(&read, "portolan-mode")), (200, Some("read-only")));
    assert_eq!((write.status().as_u16(), field(&write, "portolan-mode")), (503, Some("read-only")));
    assert_eq!(field(&write, "retry-after"), Some("5"));
    assert_eq!(json(&write)["type"], "urn:portolan:problem:no-primary");
    steering.publish(Traffic::default());
    let write = ask("POST").await;
    assert_eq!((write.status().as_u16(), field(&write, "portolan-mode")), (200, None));
}

/// A shard goes to another region in an orderly way: reads go on, and a write waits for its next writer instead of failing.
#[tokio::test]
async fn who_writes_waits_while_a_shard_is_handed_over() {
    let mut topology = two_regions().await;
    topology.directory = directory(&topology, "us");
    let changing = BTreeMap::from([(ShardName::new("s1").unwrap(), Epoch(4))]);
    topology.steering.publish(Traffic { changing, ..Traffic::default() });
    let gateway = start(topology, Policies::default(), |_| {});
    let ask = |method: &str| {
        let request = Request::builder().method(method).uri("/a").header("host", "shop.example.com");
        send(gateway.address, empty(request.header("x-tenant", "acme")))
    };
    assert_eq!(ask("GET").await.status(), 200);
    let news = async {
        while gateway.handle.connections() == 0 {
            tokio::task::yield_now().await;
        }
        let running = gateway.live.load();
        let mut topology = (*running.topology).clone();
        topology.directory = directory_in(Epoch(5), &topology, "eu");
        let (topology, policies) = (Arc::new(topology), running.policies.clone());
        gateway.live.swap(Snapshot { generation: Generation(2), topology, policies });
    };
    let (write, ()) = tokio::join!(ask("POST"), news);
    assert_eq!((write.status().as_u16(), json(&write)["name"].as_str()), (200, Some("eu")));
    assert_eq!(json(&write)["fields"]["portolan-epoch"], "5");
    // It does not come for ever.
    let running = gateway.live.load();
    running.topology.steering.publish(Traffic {
        changing: BTreeMap::from([(ShardName::new("s1").unwrap(), Epoch(5))]),
        ..Traffic::default()
    });
    let late = ask("POST").await;
    assert_eq!((late.status().as_u16(), field(&late, "retry-after")), (503, Some("1")));
    assert_eq!(json(&late)["type"], "urn:portolan:problem:settling");
}

#[tokio::test]
async fn who_reads_gets_a_replica_where_the_decided_region_is_out_and_who_writes_does_not() {
    let mut topology = two_regions().await;
    topology.directory = directory(&topology, "eu");
    let policies = policy(&topology, |draft| {
        let eu = draft.forward("eu", "app").unwrap().0;
        draft.split(&[], &[(eu, 1)], &[]).unwrap();
    });
    topology.steering.publish(Traffic { out: BTreeSet::from([region("eu")]), ..Traffic::default() });
    let gateway = start(topology, policies, |_| {});
    let read = send(gateway.address, empty(get("/a").header("x-tenant", "acme"))).await;
    assert_eq!(
        (json(&read)["name"].as_str(), field(&read, "portolan-steered")),
        (Some("us"), Some("replica"))
    );
    let write = Request::post("/a").header("host", "shop.example.com").header("x-tenant", "acme");
    assert_eq!(json(&send(gateway.address, empty(write)).await)["name"], "eu");
    let other = send(gateway.address, empty(get("/a"))).await;
    assert_eq!(json(&other)["name"], "eu", "whose shard is nowhere else has nowhere else to go");
}
