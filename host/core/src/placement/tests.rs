//! What a policy may do, against random fleets and random policies.

use proptest::prelude::*;

use super::*;
use crate::directory::{Access, Exceptions, HashKey, Place, Placement, Range};
use crate::log::Epoch;

const KEY: HashKey = HashKey::new([7; 16]);
const MAX: u64 = u64::MAX;

fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

fn residency(name: &str) -> ResidencyName {
    ResidencyName::new(name).unwrap()
}

fn tenant(name: &str) -> TenantName {
    TenantName::new(name).unwrap()
}

fn shard(name: &str, class: Option<&str>, takes_new: bool) -> Shard {
    Shard {
        name: ShardName::new(name).unwrap(),
        epoch: Epoch(1),
        external: false,
        primary: region("eu"),
        replicas: BTreeSet::new(),
        residency: class.map(residency),
        takes_new,
    }
}

/// Shards `a`, `b`, `c` and the drained `d` without a class, `u` and `v` of the class `union`; all rules lead to `a` and `u`.
fn picture(tenants: &[(&str, Option<&str>, Option<&str>)], capacities: &[(&str, u64)]) -> Arc<Picture> {
    let union = Some("union");
    let shards = vec![
        shard("a", None, true),
        shard("b", None, true),
        shard("c", None, true),
        shard("d", None, false),
        shard("u", union, true),
        shard("v", union, true),
    ];
    let rule = |class: Option<&str>, at| Rule {
        location: None,
        ranges: vec![Range { last: MAX, shard: ShardIndex(at) }],
        residency: class.map(residency),
    };
    let classes = BTreeMap::from([(residency("union"), BTreeSet::from([region("eu")]))]);
    let place = |(name, _, on): &(&str, Option<&str>, Option<&str>)| {
        let at = shards.iter().position(|shard| Some(shard.name.as_str()) == *on)?;
        let shard = ShardIndex(u16::try_from(at).unwrap());
        Some((KEY.of(&tenant(name)), Place { access: Access::Open, placement: Placement(1), shard }))
    };
    let places: Vec<_> = tenants.iter().filter_map(place).collect();
    let exceptions = Exceptions::from_all(places.into_iter());
    let rules = vec![rule(None, 0), rule(union, 4)];
    let directory = Directory::new(KEY, shards, rules, exceptions, &classes).unwrap();
    let known = tenants
        .iter()
        .map(|(name, class, _)| (tenant(name), Known { location: None, residency: class.map(residency) }));
    let capacities = capacities.iter().map(|&(name, count)| (ShardName::new(name).unwrap(), count));
    Arc::new(Picture::new(Arc::new(directory), known.collect(), capacities.collect(), classes))
}

fn proposal(picture: &Arc<Picture>, moves_max: u32, line_permille_max: u32) -> Proposal {
    Proposal::new(View::rebalancing(Arc::clone(picture), Limits { line_permille_max, moves_max }))
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Refusal>, code: u32, says: &str) {
    let refusal = result.unwrap_err();
    assert!(refusal.code == code && refusal.message.contains(says), "{refusal:?}; expected {code}: {says}");
}

#[test]
fn a_view_tells_what_is_there_and_nothing_of_what_is_not() {
    let picture = picture(
        &[("one", None, None), ("two", None, Some("b")), ("three", Some("union"), None)],
        &[("a", 4)],
    );
    let view = View::placing(
        Arc::clone(&picture),
        tenant("new"),
        Known { location: None, residency: Some(residency("union")) },
    );
    assert_eq!(view.shards(), ["a", "b", "c", "d", "u", "v"]);
    assert_eq!((view.shard_tenants("a"), view.shard_capacity("a"), view.shard_load("a")), (1, Some(4), 250));
    assert_eq!((view.shard_tenants("b"), view.shard_load("b"), view.shard_takes("d")), (1, 0, false));
    assert_eq!(view.shard_regions("u"), ["eu"]);
    assert_eq!(view.rule(Some("union"), None), [(MAX, "u".to_owned())]);
    assert_eq!(
        (view.tenant_shard("two").as_deref(), view.tenant_shard("new").as_deref()),
        (Some("b"), Some("u"))
    );
    assert_eq!(view.tenants("", 2), ["one", "three"]);
    assert_eq!(view.tenants("three", 9), ["two"]);
    assert!(
        view.shard_residency("z").is_none() && view.shard_regions("z").is_empty() && !view.shard_takes("z")
    );
    assert!(
        view.tenant_shard("nobody").is_none()
            && view.rule(Some("z"), None).is_empty()
            && view.tenant_hash("NO") == 0
    );
}

#[test]
fn a_new_tenant_goes_to_a_shard_that_may_have_it_or_is_left_to_the_rules() {
    let picture = picture(&[("one", None, Some("b"))], &[("b", 1)]);
    let view = View::placing(Arc::clone(&picture), tenant("new"), Known::default());
    assert_eq!(view.placed("c"), Ok(ShardIndex(2)));
    refused(view.placed("z\n"), code::UNKNOWN, "no shard `z`");
    refused(view.placed("d"), code::FORBIDDEN, "drained");
    refused(view.placed("u"), code::FORBIDDEN, "the class `union`");
    refused(view.placed("b"), code::LIMIT, "is full");
    let nobody = View::rebalancing(picture, Limits::default());
    refused(nobody.placed("c"), code::SENSELESS, "nobody asked");
}

#[test]
fn each_wrong_call_is_refused_by_name_and_changes_nothing() {
    let picture = picture(&[("one", None, None), ("two", None, None), ("union", Some("union"), None)], &[]);
    let mut proposal = proposal(&picture, 1, 500);
    refused(proposal.relocate("nobody", "b", ""), code::UNKNOWN, "no tenant `nobody`");
    refused(proposal.relocate("one", "z", ""), code::UNKNOWN, "no shard `z`");
    refused(proposal.relocate("one", "a", ""), code::SENSELESS, "already");
    refused(proposal.relocate("one", "u", ""), code::FORBIDDEN, "class");
    refused(proposal.relocate("union", "b", ""), code::FORBIDDEN, "class");
    refused(proposal.relocate("one", "d", ""), code::FORBIDDEN, "drained");
    refused(proposal.relocate("one", "b", "two\nlines"), code::VALUE, "one line");
    let half = MAX / 2;
    refused(proposal.set_rule(None, None, &[(half, "b")], ""), code::VALUE, "no shard has the hashes");
    refused(
        proposal.set_rule(None, None, &[(half, "a"), (half, "b"), (MAX, "a")], ""),
        code::VALUE,
        "not after",
    );
    refused(proposal.set_rule(None, None, &[(MAX, "z")], ""), code::UNKNOWN, "no shard `z`");
    refused(
        proposal.set_rule(None, None, &[(half, "a"), (MAX, "u")], ""),
        code::VALUE,
        "for the class `union`",
    );
    refused(
        proposal.set_rule(Some("moon"), None, &[(MAX, "a")], ""),
        code::UNKNOWN,
        "no residency class `moon`",
    );
    refused(proposal.set_rule(None, None, &[(half, "a"), (MAX, "d")], ""), code::FORBIDDEN, "drained");
    refused(proposal.set_rule(None, None, &[(MAX, "b")], ""), code::LIMIT, "go in steps");
    proposal.relocate("one", "b", "why not").unwrap();
    proposal.relocate("one", "c", "better").unwrap();
    refused(proposal.relocate("two", "b", ""), code::LIMIT, "at most 1");
    let plan = proposal.finish().unwrap();
    let shown: Vec<_> =
        plan.moves.iter().map(|one| (one.tenant.as_str(), one.to.as_str(), &*one.reason)).collect();
    assert_eq!((shown, plan.rules), (vec![("one", "c", "better")], None));
}

#[test]
fn a_rule_moves_the_tenants_that_it_places_elsewhere_and_no_exception() {
    let picture =
        picture(&[("one", None, None), ("fixed", None, Some("b")), ("union", Some("union"), None)], &[]);
    let mut written = proposal(&picture, 10, 1_000);
    written.set_rule(None, None, &[(MAX, "c")], "all to c").unwrap();
    let plan = written.finish().unwrap();
    let show =
        |one: &Move| (one.tenant.to_string(), one.from.to_string(), one.to.to_string(), one.reason.clone());
    let shown: Vec<_> = plan.moves.iter().map(show).collect();
    let texts = |one: [&str; 4]| (one[0].to_owned(), one[1].to_owned(), one[2].to_owned(), one[3].to_owned());
    assert_eq!(shown, [texts(["one", "a", "c", "all to c"])]);
    assert_eq!((plan.line_permille, plan.rules.as_ref().map(Vec::len)), (1_000, Some(2)));
    let stand = |name: &str| {
        plan.stands.iter().find(|stand| stand.shard.as_str() == name).map(|stand| (stand.before, stand.after))
    };
    assert_eq!((stand("a"), stand("b"), stand("c")), (Some((1, 0)), Some((1, 1)), Some((0, 1))));

    let mut none = proposal(&picture, 0, 1_000);
    none.set_rule(None, None, &[(MAX, "c")], "").unwrap();
    refused(none.finish(), code::LIMIT, "moves 1 tenants, 0 are allowed");
}

#[test]
fn a_rule_with_a_location_stands_before_the_one_without() {
    let picture = picture(&[], &[]);
    let mut written = proposal(&picture, 0, 1_000);
    written.set_rule(None, Some("eu"), &[(MAX, "b")], "").unwrap();
    let rules = written.finish().unwrap().rules.unwrap();
    let shown: Vec<_> =
        rules.iter().map(|rule| (rule.location.is_some(), rule.residency.is_some())).collect();
    assert_eq!(shown, [(true, false), (false, false), (false, true)]);
}

/// One call of a policy that may say anything.
#[derive(Clone, Debug)]
enum Call {
    Relocate(u8, usize),
    Rule(bool, Vec<(u64, usize)>),
}

const NAMES: [&str; 7] = ["a", "b", "c", "d", "u", "v", "z"];

fn call() -> impl Strategy<Value = Call> {
    let rule = (any::<bool>(), prop::collection::btree_map(any::<u64>(), 0_usize..7, 0..6), any::<bool>());
    prop_oneof![
        (0_u8..40, 0_usize..7).prop_map(|(who, to)| Call::Relocate(who, to)),
        rule.prop_map(|(union, spans, whole)| {
            let mut spans: Vec<(u64, usize)> = spans.into_iter().collect();
            if let Some(last) = spans.last_mut().filter(|_| whole) {
                last.0 = MAX;
            }
            // Most spans are of the right class, so that some rules hold.
            for (_, shard) in &mut spans {
                *shard = match (union, *shard) {
                    (true, 0..4) => 4 + *shard % 2,
                    (false, 4 | 5) => *shard % 3,
                    (_, shard) => shard,
                };
            }
            Call::Rule(union, spans)
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever a policy says, what is taken holds: classes, capacities, drained shards, limits, one owner of every hash, and
    /// nobody changes its shard without a move.
    #[test]
    fn what_is_taken_holds(
        calls in prop::collection::vec(call(), 0..12),
        places in prop::collection::vec((any::<bool>(), prop::option::of(0_usize..6)), 40),
        capacity in 0_u64..30,
        moves_max in 0_u32..40,
        line_permille_max in 0_u32..=1_000,
        points: [u64; 32],
    ) {
        let names: Vec<String> = (0..40).map(|number| format!("t{number}")).collect();
        let tenants: Vec<(&str, Option<&str>, Option<&str>)> = names.iter().zip(&places).map(|(name, (union, on))| {
            let on = on.map(|at| NAMES[if *union { 4 + at % 2 } else { at % 4 }]);
            (name.as_str(), union.then_some("union"), on)
        }).collect();
        let picture = picture(&tenants, &[("b", capacity)]);
        let mut written = proposal(&picture, moves_max, line_permille_max);
        for call in calls {
            // What is refused changes nothing, and what follows is as if it had not been said.
            match call {
                Call::Relocate(who, to) => drop(written.relocate(&format!("t{who}"), NAMES[to], "by chance")),
                Call::Rule(union, spans) => {
                    let spans: Vec<(u64, &str)> = spans.iter().map(|(last, shard)| (*last, NAMES[*shard])).collect();
                    drop(written.set_rule(union.then_some("union"), None, &spans, "by chance"));
                }
            }
        }
        let Ok(plan) = written.finish() else { return Ok(()) };
        prop_assert!(plan.moves.len() <= moves_max as usize && plan.line_permille <= line_permille_max);
        let now = picture.directory();
        let rules = plan.rules.clone().unwrap_or_else(|| now.rules().to_vec());
        let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
        for one in &plan.moves {
            let to = now.shards().iter().find(|shard| shard.name == one.to).unwrap();
            prop_assert!(to.takes_new && one.from != one.to);
            prop_assert_eq!(&to.residency, &picture.tenants()[&one.tenant].residency);
            *counts.entry(one.to.as_str()).or_default() += 1;
            *counts.entry(one.from.as_str()).or_default() -= 1;
        }
        let (on_b, more) = (i64::try_from(picture.count(ShardIndex(1))).unwrap(), counts.get("b").copied().unwrap_or(0));
        prop_assert!(more <= 0 || on_b + more <= i64::try_from(capacity).unwrap());
        // The moves are made first: they are exceptions when the rules change.
        let index = |name: &ShardName| {
            let at = now.shards().iter().position(|shard| shard.name == *name).unwrap();
            ShardIndex(u16::try_from(at).unwrap())
        };
        let mut after = Directory::new(*now.key(), now.shards().to_vec(), rules.clone(), now.exceptions().clone(), &picture.residencies).unwrap();
        for one in &plan.moves {
            let place = Place { access: Access::Open, placement: Placement(2), shard: index(&one.to) };
            after = after.with(&one.tenant, place).unwrap();
        }
        for (name, known) in picture.tenants() {
            let tenant = Tenant { location: None, name, residency: known.residency.as_ref() };
            let (was, is) = (now.locate(&tenant).unwrap().shard, after.locate(&tenant).unwrap().shard);
            let moved = plan.moves.iter().find(|one| one.tenant == *name);
            prop_assert_eq!(moved.map_or(was, |one| index(&one.to)), is);
        }
        for (old, new) in now.rules().iter().zip(&rules) {
            for point in points {
                let (had, has) = (old.owner(point), new.owner(point));
                let owner = now.shard(has.unwrap()).unwrap();
                prop_assert!(had == has || owner.takes_new);
                prop_assert_eq!(&owner.residency, &new.residency);
            }
        }
    }
}
