//! Services of the gateway itself, and applications that need a tenant's shard as its primary.

use portolan_core::directory::{Directory, Exceptions, HashKey, Range, Rule, Shard, ShardIndex};
use portolan_core::ids::ShardName;
use portolan_core::log::{Epoch, Position};
use portolan_core::loss::Admission;
use portolan_foundation::endpoint::{
    Answering, Body as ServiceBody, Endpoint as Service, Head, Positions, Routed, Telling, Work, whole,
};

use super::*;
use crate::peer::Grant;
use crate::pipeline::is_ours;

/// Says what it got.
#[derive(Debug)]
struct Echo;

impl Service for Echo {
    fn route(&self, head: &Head<'_>) -> Routed {
        let Some(tenant) = head.tenant.cloned() else {
            let mut refused = Response::new(whole("who asks?"));
            *refused.status_mut() = StatusCode::UNAUTHORIZED;
            return Routed::Answer(Box::new(refused));
        };
        let regions = head.headers.get("x-region").and_then(|value| value.to_str().ok()).unwrap_or("eu");
        let shard = head.topology.directory.named(&ShardName::new("s1").unwrap());
        let primary = shard.map_or("eu", |shard| shard.primary.as_str());
        let named = |name| RegionName::new(if name == "primary" { primary } else { name }).unwrap();
        let mut regions = regions.split(' ').map(named);
        let work = Work { epoch: Epoch(3), shard: ShardName::new("s1").unwrap(), tenant };
        Routed::Region { first: regions.next().unwrap(), others: regions.collect(), work }
    }

    fn answer(&self, work: Work, request: Request<ServiceBody>) -> Answering {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let Ok(content) = body.collect().await else {
                let mut broken = Response::new(whole("broken"));
                *broken.status_mut() = StatusCode::BAD_REQUEST;
                return broken;
            };
            let fields: serde_json::Map<String, serde_json::Value> = parts
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()))
                .collect();
            let said = serde_json::json!({
                "tenant": work.tenant.as_str(), "shard": work.shard.as_str(), "epoch": work.epoch.0,
                "method": parts.method.as_str(), "uri": parts.uri.to_string(), "fields": fields,
                "bytes": content.to_bytes().len(),
            });
            Response::new(whole(said.to_string()))
        })
    }
}

fn services() -> Services {
    Services::default().with("/-/data", Arc::new(Echo))
}

#[tokio::test]
async fn a_service_answers_below_its_path_and_no_policy_is_asked() {
    let eu = upstream("eu").await;
    let topology = topology(&[("eu", &[eu])], Protocol::Http1);
    let limit = |settings: &mut Settings| settings.limits.body_bytes_max = Some(100_000);
    let gateway = start_with(topology, Policies::default(), services(), limit);
    let request = Request::post("/-/data/orders?a=b")
        .header("host", "shop.example.com")
        .header("x-tenant", "acme")
        .header("portolan-tenant", "forged")
        .header("portolan-token", "v1;s1=1.2.3")
        .body(Full::new(Bytes::from(vec![7; 90_000])))
        .unwrap();
    let answer = send(gateway.address, request).await;
    assert_eq!(answer.status(), 200);
    let seen = json(&answer);
    assert_eq!((&seen["tenant"], &seen["shard"], &seen["epoch"]), (&"acme".into(), &"s1".into(), &3.into()));
    assert_eq!((&seen["uri"], &seen["bytes"]), (&"/-/data/orders?a=b".into(), &90_000.into()));
    assert_eq!(seen["fields"]["portolan-token"], "v1;s1=1.2.3");
    assert!(seen["fields"].get("portolan-tenant").is_none(), "{seen}");
    assert!(
        answer.headers().contains_key("portolan-request-id") || answer.headers().contains_key("x-request-id")
    );

    let nobody = send(gateway.address, empty(get("/-/data/orders"))).await;
    assert_eq!((nobody.status().as_u16(), &nobody.body()[..]), (401, &b"who asks?"[..]));
    // What only begins like it is an application's.
    let other = send(gateway.address, empty(get("/-/database").header("x-tenant", "acme"))).await;
    assert_eq!(json(&other)["name"], "eu");
    // A region that no gateway leads to.
    let far =
        send(gateway.address, empty(get("/-/data/x").header("x-tenant", "acme").header("x-region", "us")))
            .await;
    assert_eq!(far.status(), 503);
    // Whoever can is asked next.
    let other = empty(get("/-/data/x").header("x-tenant", "acme").header("x-region", "us eu"));
    let near = send(gateway.address, other).await;
    assert_eq!((near.status().as_u16(), &json(&near)["uri"]), (200, &"/-/data/x".into()));
    let large = Request::post("/-/data/x")
        .header("host", "shop.example.com")
        .header("x-tenant", "acme")
        .body(Full::new(Bytes::from(vec![7; 100_001])))
        .unwrap();
    assert_eq!(send(gateway.address, large).await.status(), 413);
}

/// One shard, written in this region, that has all tenants.
pub(super) fn directory(topology: &Topology, primary: &str) -> Arc<Directory> {
    directory_in(Epoch(4), topology, primary)
}

/// The same in another epoch.
pub(super) fn directory_in(epoch: Epoch, topology: &Topology, primary: &str) -> Arc<Directory> {
    let shard = Shard {
        name: ShardName::new("s1").unwrap(),
        epoch,
        external: false,
        primary: region(primary),
        replicas: BTreeSet::from([region(if primary == "us" { "eu" } else { "us" })]),
        residency: None,
        takes_new: true,
    };
    let rule = Rule {
        location: None,
        ranges: vec![Range { last: u64::MAX, shard: ShardIndex(0) }],
        residency: None,
    };
    let key = HashKey::new([1; 16]);
    let directory =
        Directory::new(key, vec![shard], vec![rule], Exceptions::default(), &topology.residencies);
    Arc::new(directory.unwrap())
}

#[tokio::test]
async fn what_may_change_a_tenants_rows_goes_where_they_are_written() {
    let (eu, us) = (upstream("eu").await, upstream("us").await);
    let mut topology = topology(&[("eu", &[eu]), ("us", &[us])], Protocol::Http1);
    topology.directory = directory(&topology, "us");
    let gateway = start(topology, Policies::default(), |_| {});
    let ask = async |method: &str| {
        let request = Request::builder().method(method).uri("/a").header("host", "shop.example.com");
        json(&send(gateway.address, empty(request.header("x-tenant", "acme"))).await)
    };
    let (read, written) = (ask("GET").await, ask("POST").await);
    assert_eq!((&read["name"], &read["fields"]["portolan-role"]), (&"eu".into(), &"replica".into()));
    assert_eq!((&written["name"], &written["fields"]["portolan-role"]), (&"us".into(), &"primary".into()));
    for seen in [read, written] {
        assert_eq!(seen["fields"]["portolan-shard"], "s1");
        assert_eq!(seen["fields"]["portolan-epoch"], "4");
    }
    let anonymous = json(&send(gateway.address, empty(get("/a"))).await);
    assert!(anonymous["fields"].get("portolan-shard").is_none(), "{anonymous}");
}

/// Regions whose gateways refuse what they are asked, as those do that know of another writer; all but this one.
async fn refusing(others: &[&'static str]) -> Topology {
    let eu = upstream("eu").await;
    let mut places = vec![("eu", eu)];
    for &name in others {
        places.push((name, upstream(name).await));
    }
    let pools: Vec<_> = places.iter().map(|(name, address)| (*name, std::slice::from_ref(address))).collect();
    let mut topology = topology(&pools, Protocol::Http1);
    for (name, address) in places.iter().skip(1) {
        let place = topology.regions.get_mut(&region(name)).unwrap();
        Arc::make_mut(place).gateways = Some(pool(name, &[*address], Protocol::Http1));
    }
    topology.directory = directory(&topology, "us");
    topology
}

/// A region that keeps a copy is asked by others for what a service can answer from it, and for nothing that must stand where the shard is written.
#[test]
fn a_copy_is_asked_for_a_services_answers_alone() {
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    let mut topology = topology(&[("eu", &[address]), ("us", &[address])], Protocol::Http1);
    let grant = |service, epoch| Grant {
        attempt: 1,
        deadline: Duration::from_secs(1),
        generation: 1,
        hops: 1,
        pool: PoolName::new("app").unwrap(),
        region: region("eu"),
        service,
        shard: Some((ShardName::new("s1").unwrap(), Epoch(epoch))),
        sticky: None,
        tenant: None,
        tries: 1,
    };
    for (primary, service, epoch, ours) in [
        ("eu", false, 4, true),
        ("us", false, 4, false),
        ("us", true, 4, true),
        ("us", true, 3, false),
        ("eu", true, 5, false),
    ] {
        topology.directory = directory(&topology, primary);
        assert_eq!(is_ours(&grant(service, epoch), &topology), ours, "{primary} {service} {epoch}");
    }
}

#[tokio::test]
async fn a_copy_that_refuses_a_reader_is_not_waited_for() {
    let gateway = start_with(refusing(&["us", "ap"]).await, Policies::default(), services(), |_| {});
    let begun = tokio::time::Instant::now();
    for (regions, status) in [("us ap", 503), ("us ap eu", 200)] {
        let request = get("/-/data/refused").header("x-tenant", "acme").header("x-region", regions);
        let response = send(gateway.address, empty(request)).await;
        assert_eq!(response.status().as_u16(), status, "{regions}: {response:?}");
        if status == 503 {
            assert_eq!(json(&response)["type"], "urn:portolan:problem:settling");
            assert!(response.headers().contains_key("retry-after"));
        }
    }
    assert!(begun.elapsed() < crate::defaults::NEWS_WAIT, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_write_that_is_refused_waits_for_the_news_of_who_writes() {
    let gateway = start_with(refusing(&["us"]).await, Policies::default(), services(), |_| {});
    let write = Request::post("/-/data/refused").header("host", "shop.example.com");
    let write = write.header("x-tenant", "acme").header("x-region", "primary");
    let news = async {
        while !gateway.handle.metrics().render().contains("portolan_upstream_attempts_total 1") {
            tokio::task::yield_now().await;
        }
        let running = gateway.live.load();
        let mut topology = (*running.topology).clone();
        topology.directory = directory(&topology, "eu");
        let (topology, policies) = (Arc::new(topology), running.policies.clone());
        gateway.live.swap(Snapshot { generation: Generation(2), topology, policies });
    };
    let (answer, ()) = tokio::join!(send(gateway.address, empty(write)), news);
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(json(&answer)["method"], "POST");
}

/// Knows where each log is, or never finds out.
#[derive(Debug)]
struct Known(bool);

impl Positions for Known {
    fn newest(&self, _: &ShardName) -> Telling {
        if self.0 {
            Box::pin(std::future::ready(Some(Position::new(4, 77, 1))))
        } else {
            Box::pin(std::future::pending())
        }
    }
}

/// Lets no shard be written.
#[derive(Debug)]
struct Closed(Admission);

impl Positions for Closed {
    fn admits(&self, _: &ShardName) -> Admission {
        self.0
    }

    fn newest(&self, _: &ShardName) -> Telling {
        Box::pin(std::future::ready(None))
    }
}

#[tokio::test]
async fn what_may_write_a_shard_that_may_not_be_is_refused_or_waits() {
    let slow = Admission::Slow(Duration::from_millis(200));
    for (admission, primary, stateless, method, refused) in [
        (Admission::Refuse, "eu", false, "POST", true),
        (Admission::Refuse, "eu", false, "DELETE", true),
        (Admission::Refuse, "eu", false, "GET", false),
        (Admission::Refuse, "eu", true, "POST", false),
        // Another region's shard is that region's to guard.
        (Admission::Refuse, "us", false, "POST", false),
        (slow, "eu", false, "POST", false),
        (Admission::Pass, "eu", false, "POST", false),
    ] {
        let (eu, us) = (upstream("eu").await, upstream("us").await);
        let mut topology = topology(&[("eu", &[eu]), ("us", &[us])], Protocol::Http1);
        topology.directory = directory(&topology, primary);
        for region in topology.regions.values_mut() {
            for pool in Arc::make_mut(region).pools.values_mut() {
                Arc::make_mut(pool).stateless = stateless;
            }
        }
        let services = Services::default().telling(Arc::new(Closed(admission)));
        let gateway = start_with(topology, Policies::default(), services, |_| {});
        let request = Request::builder().method(method).uri("/a").header("host", "shop.example.com");
        let begun = tokio::time::Instant::now();
        let response = send(gateway.address, empty(request.header("x-tenant", "acme"))).await;
        assert_eq!(
            response.status().as_u16(),
            if refused { 503 } else { 200 },
            "{method} {admission:?} {stateless}"
        );
        assert_eq!(response.headers().contains_key("retry-after"), refused);
        if let Admission::Slow(delay) = admission {
            assert!(begun.elapsed() >= delay);
        }
    }
}

#[tokio::test]
async fn answers_of_pools_that_want_it_tell_where_the_log_is() {
    for (wanted, primary, known, method, token) in [
        (true, "eu", true, "POST", Some("v1;s1=4.77.1")),
        (true, "eu", true, "DELETE", Some("v1;s1=4.77.1")),
        (true, "eu", true, "GET", None),
        (false, "eu", true, "POST", None),
        // Who never finds out holds up nobody.
        (true, "eu", false, "POST", None),
        // Another region's log is that region's to tell.
        (true, "us", true, "POST", None),
    ] {
        let (eu, us) = (upstream("eu").await, upstream("us").await);
        let mut topology = topology(&[("eu", &[eu]), ("us", &[us])], Protocol::Http1);
        topology.directory = directory(&topology, primary);
        for region in topology.regions.values_mut() {
            let region = Arc::make_mut(region);
            for pool in region.pools.values_mut() {
                Arc::make_mut(pool).token = wanted;
            }
        }
        let services = Services::default().telling(Arc::new(Known(known)));
        let gateway = start_with(topology, Policies::default(), services, |_| {});
        let request = Request::builder().method(method).uri("/a").header("host", "shop.example.com");
        let answer = send(gateway.address, empty(request.header("x-tenant", "acme"))).await;
        assert_eq!(answer.status(), 200);
        let told = answer.headers().get("portolan-token").map(|value| value.to_str().unwrap());
        assert_eq!(told, token, "{wanted} {primary} {known} {method}");
    }
}
