//! Laws of plans and their answers.

use std::net::IpAddr;
use std::sync::Arc;

use portolan_core::geography::{Country, Geography, Locate, Located, Place, Point};
use proptest::prelude::*;

use super::*;
use crate::testing::{any_draft, draft, name, name_mut, region, set_state};

const NOW_MS: u64 = 50_000;

fn ask<'a>(plan: &'a Plan, of: &str, kind: u16, client: &Subnet) -> Answer<'a> {
    let name = name(of);
    let question = Question { class: 1, kind, name: name.wire() };
    answer(plan, &question, (*client).into(), Regions::NONE, NOW_MS)
}

fn addresses(answer: &Answer<'_>) -> Vec<IpAddr> {
    match &answer.content {
        Content::Addresses(picked) => picked.addresses().map(|data| address(data).unwrap()).collect(),
        other => panic!("no addresses: {other:?}"),
    }
}

fn v4(client: u32) -> Subnet {
    Subnet::host(IpAddr::V4(client.into()))
}

fn one(plan: &Plan, of: &str, client: &str) -> String {
    let given = addresses(&ask(plan, of, kind::A, &Subnet::host(client.parse().unwrap())));
    given.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_region_that_is_out_is_not_told_and_all_that_are_out_are() {
    let mut draft = draft(1);
    set_state(&mut draft, "us", State::Out);
    let plan = Plan::new(draft.clone()).unwrap();
    for client in 0..2_000_u32 {
        assert_ne!(
            addresses(&ask(&plan, "app.gw.example", kind::A, &v4(client << 8)))[0].to_string(),
            "192.0.2.2"
        );
    }
    assert_eq!(one(&plan, "first.gw.example", "203.0.113.9"), "192.0.2.1");
    for region in ["eu", "ap"] {
        set_state(&mut draft, region, State::Out);
    }
    let plan = Plan::new(draft.clone()).unwrap();
    assert_eq!(one(&plan, "first.gw.example", "203.0.113.9"), "192.0.2.2");
    name_mut(&mut draft, "first.gw.example").last_good.insert(region("ap"));
    let plan = Plan::new(draft.clone()).unwrap();
    assert_eq!(one(&plan, "first.gw.example", "203.0.113.9"), "192.0.2.3");
    set_state(&mut draft, "eu", State::Draining);
    let plan = Plan::new(draft).unwrap();
    assert_eq!(one(&plan, "first.gw.example", "203.0.113.9"), "192.0.2.1");
}

#[test]
fn who_was_last_in_is_remembered() {
    let before = draft(1);
    let mut after = draft(2);
    set_state(&mut after, "us", State::Out);
    after.remember(&before);
    let left: Vec<_> = name_mut(&mut after, "app.gw.example").last_good.iter().cloned().collect();
    assert_eq!(left, [region("ap"), region("eu")]);
    let mut none = draft(3);
    for region in ["eu", "us", "ap"] {
        set_state(&mut none, region, State::Out);
    }
    none.remember(&after);
    let mut still = none.clone();
    still.remember(&none);
    for draft in [&mut none, &mut still] {
        let kept: Vec<_> = name_mut(draft, "app.gw.example").last_good.iter().cloned().collect();
        assert_eq!(kept, [region("ap"), region("eu")]);
    }
}

#[test]
fn weights_hold_over_many_clients_and_a_change_moves_few() {
    let mut draft = draft(1);
    let weights = [("eu", 6), ("us", 3), ("ap", 1)].map(|(name, weight)| (region(name), weight));
    name_mut(&mut draft, "app.gw.example").policy = Policy::Weighted(weights.into());
    let plan = Plan::new(draft.clone()).unwrap();
    let all = |plan: &Plan| -> Vec<IpAddr> {
        (0..20_000_u32)
            .map(|client| addresses(&ask(plan, "app.gw.example", kind::A, &v4(client << 8)))[0])
            .collect()
    };
    let before = all(&plan);
    for (address, share) in [("192.0.2.1", 0.6), ("192.0.2.2", 0.3), ("192.0.2.3", 0.1)] {
        let count = before.iter().filter(|given| given.to_string() == address).count();
        let part = count as f64 / before.len() as f64;
        assert!((part - share).abs() < 0.02, "{address} has {part} instead of {share}");
    }
    set_state(&mut draft, "us", State::Out);
    let after = all(&Plan::new(draft).unwrap());
    for (before, after) in before.iter().zip(&after) {
        assert!(before == after || before.to_string() == "192.0.2.2", "{before} became {after}");
    }
}

#[test]
fn the_nearest_region_is_told_with_the_scope_that_it_took() {
    let plan = Plan::new(draft(1)).unwrap();
    let near = |client: &str, length: u8| {
        let given = ask(&plan, "near.gw.example", kind::A, &Subnet::new(client.parse().unwrap(), length));
        (addresses(&given)[0].to_string(), given.scope)
    };
    assert_eq!(near("198.51.100.0", 24), ("192.0.2.3".to_owned(), 24));
    assert_eq!(near("198.51.7.0", 24), ("192.0.2.1".to_owned(), 18));
    assert_eq!(near("2001:db8:100::", 48), ("192.0.2.2".to_owned(), 40));
    // The table does not say: by a hash of the network.
    assert_eq!(near("203.0.113.0", 24).1, 24);
    assert_eq!(ask(&plan, "first.gw.example", kind::A, &v4(7)).scope, 0);
    assert_eq!(ask(&plan, "app.gw.example", kind::A, &v4(7)).scope, 24);
    assert_eq!(ask(&plan, "app.gw.example", kind::A, &Subnet::host("2001:db8::".parse().unwrap())).scope, 56);
    let mut alone = draft(1);
    for region in ["eu", "ap"] {
        set_state(&mut alone, region, State::Out);
    }
    let plan = Plan::new(alone).unwrap();
    for name in ["app.gw.example", "near.gw.example", "first.gw.example"] {
        assert_eq!(ask(&plan, name, kind::A, &v4(7)).scope, 0, "{name}");
    }
}

#[test]
fn what_is_not_there_is_told_as_it_is() {
    let plan = Plan::new(draft(42)).unwrap();
    let client = v4(1);
    assert!(matches!(ask(&plan, "app.gw.example", kind::TXT, &client).content, Content::NoData));
    assert!(matches!(ask(&plan, "deep.gw.example", kind::A, &client).content, Content::NoData));
    let gone = ask(&plan, "x.app.gw.example", kind::A, &client);
    assert!(matches!(gone.content, Content::NoName(name) if name.to_string() == "app.gw.example."));
    assert_eq!(gone.ttl_s, 20);
    assert!(matches!(ask(&plan, "other.example", kind::A, &client).content, Content::Refused));
    let Content::Records(epoch) = ask(&plan, "_epoch.app.gw.example", kind::TXT, &client).content else {
        panic!()
    };
    assert_eq!(&*epoch.data[0], b"\x0242");
    assert!(matches!(ask(&plan, "app.gw.example", kind::ANY, &client).content, Content::Addresses(_)));
}

/// Networks of 16 bits whose second byte is even are in Germany, others in Japan; 192.0.0.0/8 is nowhere.
#[derive(Debug)]
struct Halves;

impl Locate for Halves {
    fn locate(&self, address: IpAddr) -> Located {
        let place = |code: &str| Place { country: Country::parse(code), ..Place::default() };
        match address {
            IpAddr::V4(v4) if v4.octets()[0] == 192 => Located { place: Place::default(), prefix_bits: 8 },
            IpAddr::V4(v4) if v4.octets()[1] % 2 == 0 => Located { place: place("DE"), prefix_bits: 16 },
            IpAddr::V4(_) => Located { place: place("JP"), prefix_bits: 16 },
            IpAddr::V6(_) => Located::default(),
        }
    }

    fn country(&self, country: Country) -> Place {
        let (latitude, longitude) = if country.as_str() == "JP" { (36.2, 138.3) } else { (51.2, 10.5) };
        Place { point: Point::new(latitude, longitude), ..Place::default() }
    }
}

fn geography() -> Geography {
    let point = |latitude, longitude| Place { point: Point::new(latitude, longitude), ..Place::default() };
    let regions = [("ap", point(1.3, 103.8)), ("eu", point(53.3, -6.3)), ("us", point(38.9, -77.5))];
    let regions = regions.map(|(name, place)| (region(name), place));
    let others = (0..5_u8).map(|at| (region(&format!("r{at}")), point(0.0, f64::from(at) * 70.0 - 140.0)));
    Geography::new(Arc::new(Halves), regions.into_iter().chain(others).collect())
}

#[test]
fn where_a_client_is_on_earth_says_what_is_near_where_the_plan_does_not() {
    let (mut draft, geography) = (draft(1), geography());
    let told = |draft: &Draft, client: &str| {
        let plan = Plan::new(draft.clone()).unwrap();
        let name = name("near.gw.example");
        let question = Question { class: 1, kind: kind::A, name: name.wire() };
        let client = Client { geography: Some(&geography), network: Subnet::host(client.parse().unwrap()) };
        let given = answer(&plan, &question, client, Regions::NONE, NOW_MS);
        (addresses(&given)[0].to_string(), given.scope)
    };
    assert_eq!(told(&draft, "10.2.7.7"), ("192.0.2.1".into(), 16));
    assert_eq!(told(&draft, "10.3.7.7"), ("192.0.2.3".into(), 16));
    // What the plan says of a network wins, and its neighbours need as many bits to be told from it.
    assert_eq!(told(&draft, "198.51.100.7"), ("192.0.2.3".into(), 24));
    assert_eq!(told(&draft, "198.50.0.1"), ("192.0.2.1".into(), 16));
    // Of whom nothing is known, its network's hash decides.
    assert_eq!(told(&draft, "192.0.2.77").1, crate::defaults::HASH_BITS_V4);
    // The next nearest when the nearest is out.
    set_state(&mut draft, "ap", State::Out);
    assert_eq!(told(&draft, "10.3.7.7"), ("192.0.2.1".into(), 16));
}

#[test]
fn the_time_to_live_follows_what_is_known() {
    let mut draft = draft(1);
    let ttl = |draft: &Draft, suspected: &[&str]| {
        let plan = Plan::new(draft.clone()).unwrap();
        let names: Vec<_> = suspected.iter().map(|name| region(name)).collect();
        let name = name("app.gw.example");
        let question = Question { class: 1, kind: kind::A, name: name.wire() };
        answer(&plan, &question, v4(1).into(), plan.regions(&names), NOW_MS).ttl_s
    };
    assert_eq!(ttl(&draft, &[]), 30);
    assert_eq!(ttl(&draft, &["us"]), 5);
    draft.regions.get_mut("eu").unwrap().steady_until_ms = Some(NOW_MS + 12_900);
    assert_eq!(ttl(&draft, &[]), 12);
    draft.regions.get_mut("ap").unwrap().steady_until_ms = Some(NOW_MS + 1_000);
    assert_eq!(ttl(&draft, &[]), 5);
    draft.regions.get_mut("ap").unwrap().steady_until_ms = Some(NOW_MS - 1);
    assert_eq!(ttl(&draft, &[]), 5);
    set_state(&mut draft, "us", State::Out);
    draft.regions.values_mut().for_each(|region| region.steady_until_ms = None);
    assert_eq!(ttl(&draft, &["us"]), 30);
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let mut draft = draft(1);
    name_mut(&mut draft, "app.gw.example").addresses.get_mut("us").unwrap().pop();
    name_mut(&mut draft, "near.gw.example").ttl = TtlBounds { min_s: 1, max_s: 3_600 };
    name_mut(&mut draft, "first.gw.example").policy = Policy::Ordered(vec![region("moon")]);
    name_mut(&mut draft, "two.deep.gw.example").addresses.clear();
    draft.zones.get_mut(&name("gw.example")).unwrap().negative_ttl_s = 300;
    let zone = draft.zones.get(&name("gw.example")).unwrap().clone();
    draft
        .zones
        .insert(name("in.gw.example"), ZoneDraft { names: [].into(), name_servers: [].into(), ..zone });
    let told = Plan::new(draft).unwrap_err().to_string();
    for part in [
        "some regions of app.gw.example.",
        "near.gw.example. may be kept for 1 to 3600 s",
        "`moon`",
        "two.deep.gw.example. has no address",
        "for 300 s",
        "in.gw.example. lies within gw.example.",
        "in.gw.example. has no name server",
    ] {
        assert!(told.contains(part), "{part} is not in: {told}");
    }
}

#[test]
fn a_zone_is_written_as_a_file() {
    let mut draft = draft(8);
    set_state(&mut draft, "us", State::Out);
    let plan = Plan::new(draft).unwrap();
    let text = plan.export(&name("gw.example")).unwrap();
    for line in [
        "gw.example. 20 IN SOA ns1.gw.example. hostmaster.example. 8 60 15 1209600 20",
        "ns1.gw.example. 3600 IN A 127.0.0.1",
        "app.gw.example. 30 IN AAAA 2001:db8::3",
        "_epoch.two.deep.gw.example. 5 IN TXT \"8\"",
    ] {
        assert!(text.lines().any(|written| written == line), "{line} is not in {text}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("zone");
    std::fs::write(&file, &text).unwrap();
    let checked =
        std::process::Command::new("/usr/bin/named-checkzone").arg("gw.example").arg(&file).output();
    let said = String::from_utf8(checked.unwrap().stdout).unwrap();
    assert!(said.contains("loaded serial 8") && said.ends_with("OK\n"), "{said}");
    assert!(!text.contains("192.0.2.2") && plan.export(&name("other.example")).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn an_answer_is_never_empty_and_keeps_its_bounds(draft in any_draft(), client: u32, suspected: u64) {
        let plan = Plan::new(draft.clone()).unwrap();
        for (of, managed) in &draft.zones[&name("gw.example")].names {
            for kind in [kind::A, kind::AAAA, kind::ANY] {
                let has = kind != kind::AAAA || managed.addresses.values().flatten().any(IpAddr::is_ipv6);
                let question = Question { class: 1, kind, name: of.wire() };
                let given = answer(&plan, &question, v4(client).into(), Regions(suspected), NOW_MS);
                if !has {
                    prop_assert!(matches!(given.content, Content::NoData));
                    continue;
                }
                let given_addresses = addresses(&given);
                prop_assert!(!given_addresses.is_empty() && given_addresses.len() <= usize::from(managed.answers));
                prop_assert!(managed.ttl.min_s <= given.ttl_s && given.ttl_s <= managed.ttl.max_s);
                // Where somebody is in, nobody else is told.
                let of_address = |address: &IpAddr| managed.addresses.iter().find(|(_, all)| all.contains(address)).unwrap().0;
                let state = |region: &RegionName| draft.regions[region].state;
                if managed.addresses.keys().any(|region| state(region) == State::In) {
                    prop_assert!(given_addresses.iter().all(|address| state(of_address(address)) == State::In));
                }
            }
        }
    }

    #[test]
    fn all_of_a_scope_are_told_the_same(draft in any_draft(), located: bool, client: u32, other: u32) {
        let plan = Plan::new(draft.clone()).unwrap();
        for of in draft.zones[&name("gw.example")].names.keys() {
            let question = Question { class: 1, kind: kind::A, name: of.wire() };
            let geography = located.then(geography);
            let asks = |client: u32| Client { geography: geography.as_ref(), network: v4(client) };
            let told = |client: u32| answer(&plan, &question, asks(client), Regions::NONE, NOW_MS);
            let given = told(client);
            let keep = u32::MAX.checked_shl(32 - u32::from(given.scope)).unwrap_or(0);
            let neighbour = told(client & keep | other & !keep);
            prop_assert_eq!(addresses(&given), addresses(&neighbour));
            prop_assert_eq!(given.scope, neighbour.scope);
        }
    }

    #[test]
    fn the_order_of_what_is_listed_does_not_matter(draft in any_draft(), client: u32) {
        let plan = Plan::new(draft.clone()).unwrap();
        let mut turned = draft.clone();
        for managed in turned.zones.values_mut().flat_map(|zone| zone.names.values_mut()) {
            managed.addresses.values_mut().for_each(|addresses| addresses.reverse());
        }
        let turned = Plan::new(turned).unwrap();
        for of in draft.zones[&name("gw.example")].names.keys() {
            let told = |plan: &Plan| addresses(&ask(plan, &of.to_string(), kind::A, &v4(client)));
            prop_assert_eq!(told(&plan), told(&turned));
        }
    }

    #[test]
    fn a_region_that_goes_moves_only_those_that_it_had(draft in any_draft(), client: u32, gone in 0_usize..5) {
        let plan = Plan::new(draft.clone()).unwrap();
        let Some(gone) = draft.regions.keys().nth(gone).cloned() else { return Ok(()) };
        let mut without = draft.clone();
        without.regions.get_mut(&gone).unwrap().state = State::Out;
        let without_plan = Plan::new(without).unwrap();
        for (of, managed) in &draft.zones[&name("gw.example")].names {
            let first = |plan: &Plan| addresses(&ask(plan, &of.to_string(), kind::A, &v4(client)))[0];
            let (before, after) = (first(&plan), first(&without_plan));
            let of_gone = managed.addresses[&gone].contains(&before);
            // Who was told of another region is told of it still, unless the last that was in has gone.
            let others_in = managed.addresses.keys().any(|region| {
                *region != gone && draft.regions[region].state == State::In
                    && plan.managed.iter().any(|m| m.name == *of && m.candidates.has(plan.regions([region]).0.trailing_zeros() as u8))
            });
            if others_in && !of_gone {
                prop_assert_eq!(before, after);
            }
        }
    }

    #[test]
    fn a_plan_reads_as_it_was_written(draft in any_draft()) {
        let text = serde_json::to_string(&draft).unwrap();
        let read: Draft = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&read, &draft);
        prop_assert_eq!(Plan::new(read).unwrap().digest(), Plan::new(draft).unwrap().digest());
    }
}
