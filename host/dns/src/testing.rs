//! What tests share: plans, and other people's servers.

pub(crate) mod daemon;

use std::collections::{BTreeMap, BTreeSet};

use portolan_core::ids::RegionName;
use proptest::prelude::*;

use crate::name::Name;
use crate::plan::{Draft, NameDraft, Near, Policy, RegionDraft, State, TtlBounds, ZoneDraft};

/// The zone of all tests.
pub(crate) const ZONE: &str = "gw.example";

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn region(text: &str) -> RegionName {
    RegionName::new(text).unwrap()
}

/// A name that is in `eu`, `us` and `ap`, by weights.
pub(crate) fn managed() -> NameDraft {
    let addresses = [
        ("eu", "192.0.2.1", "2001:db8::1"),
        ("us", "192.0.2.2", "2001:db8::2"),
        ("ap", "192.0.2.3", "2001:db8::3"),
    ];
    NameDraft {
        policy: Policy::Weighted(["eu", "us", "ap"].map(|name| (region(name), 1)).into()),
        answers: 1,
        addresses: addresses
            .map(|(name, v4, v6)| (region(name), vec![v4.parse().unwrap(), v6.parse().unwrap()]))
            .into(),
        last_good: BTreeSet::new(),
        ttl: TtlBounds { min_s: 5, max_s: 30 },
    }
}

/// A plan with `app`, by weights; `near`, by geography; `first`, in order; and `two`, with two addresses.
pub(crate) fn draft(number: u64) -> Draft {
    let steady = RegionDraft { state: State::In, steady_until_ms: None };
    let near = |prefix: &str, regions: &[&str]| Near {
        prefix: prefix.parse().unwrap(),
        regions: regions.iter().map(|name| region(name)).collect(),
    };
    let ordered = Policy::Ordered(["us", "eu", "ap"].map(region).to_vec());
    let names = [
        (name("app.gw.example"), managed()),
        (name("near.gw.example"), NameDraft { policy: Policy::Nearest, ..managed() }),
        (name("first.gw.example"), NameDraft { policy: ordered, ..managed() }),
        (name("two.deep.gw.example"), NameDraft { answers: 2, ..managed() }),
    ];
    let zone = ZoneDraft {
        mailbox: name("hostmaster.example"),
        name_servers: BTreeMap::from([
            (name("ns1.gw.example"), vec!["127.0.0.1".parse().unwrap()]),
            (name("ns2.elsewhere.example"), Vec::new()),
        ]),
        negative_ttl_s: 20,
        names: names.into(),
    };
    Draft {
        number,
        regions: ["eu", "us", "ap"].map(|name| (region(name), steady)).into(),
        geography: vec![
            near("198.51.100.0/24", &["ap", "us"]),
            near("198.51.0.0/16", &["eu"]),
            near("2001:db8:100::/40", &["us"]),
        ],
        zones: BTreeMap::from([(name(ZONE), zone)]),
    }
}

pub(crate) fn set_state(draft: &mut Draft, region: &str, state: State) {
    draft.regions.get_mut(region).unwrap().state = state;
}

pub(crate) fn name_mut<'a>(draft: &'a mut Draft, of: &str) -> &'a mut NameDraft {
    draft.zones.get_mut(&name(ZONE)).unwrap().names.get_mut(&name(of)).unwrap()
}

/// Any plan with up to five regions.
pub(crate) fn any_draft() -> impl Strategy<Value = Draft> {
    let states = prop_oneof![Just(State::In), Just(State::Draining), Just(State::Out)];
    let regions = prop::collection::vec((states, prop::option::of(0_u64..100_000)), 1..=5);
    let policy = prop::collection::vec(0_u32..4, 5);
    let names =
        prop::collection::vec((policy, 0..3_u8, 1..=2_u8, 1..=3_u8, any::<bool>(), 5..=30_u32), 1..=4);
    (regions, names).prop_map(|(regions, names)| {
        let named = |at: usize| region(&format!("r{at}"));
        let mut draft = draft(7);
        let count = regions.len();
        draft.regions = regions
            .into_iter()
            .enumerate()
            .map(|(at, (state, steady_until_ms))| (named(at), RegionDraft { state, steady_until_ms }))
            .collect();
        draft.geography.clear();
        let managed =
            names.into_iter().enumerate().map(|(index, (weights, policy, answers, each, v6, max_s))| {
                let address = |at: usize, one: u8| {
                    let v4 = format!("192.0.{}.{}", at + 1, one + 1);
                    let v6_text = format!("2001:db8:{}::{}", at + 1, one + 1);
                    let mut all = vec![v4.parse().unwrap()];
                    if v6 {
                        all.push(v6_text.parse().unwrap());
                    }
                    all
                };
                let policy = match policy {
                    0 => Policy::Nearest,
                    1 => Policy::Ordered((0..count).rev().map(named).collect()),
                    _ => Policy::Weighted((0..count).map(|at| (named(at), weights[at])).collect()),
                };
                let addresses = (0..count)
                    .map(|at| (named(at), (0..each).flat_map(|one| address(at, one)).collect()))
                    .collect();
                let ttl = TtlBounds { min_s: 5, max_s: max_s.max(20) };
                let last_good = BTreeSet::new();
                (
                    name(&format!("n{index}.gw.example")),
                    NameDraft { policy, answers, addresses, last_good, ttl },
                )
            });
        draft.zones.get_mut(&name(ZONE)).unwrap().names = managed.collect();
        draft
    })
}
