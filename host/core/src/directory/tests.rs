//! Laws of the directory.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const KEY: HashKey = HashKey::new([7; 16]);

fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

fn residency(name: &str) -> ResidencyName {
    ResidencyName::new(name).unwrap()
}

fn tenant(name: &str) -> TenantName {
    TenantName::new(name).unwrap()
}

fn shard(name: &str, class: Option<&str>, regions: &[&str]) -> Shard {
    Shard {
        name: ShardName::new(name).unwrap(),
        primary: region(regions[0]),
        replicas: regions[1..].iter().map(|name| region(name)).collect(),
        residency: class.map(residency),
        epoch: Epoch(1),
        external: false,
        takes_new: true,
    }
}

fn classes() -> BTreeMap<ResidencyName, BTreeSet<RegionName>> {
    BTreeMap::from([(residency("union"), BTreeSet::from([region("eu"), region("eu-north")]))])
}

fn shards() -> Vec<Shard> {
    vec![
        shard("eu-1", Some("union"), &["eu", "eu-north"]),
        shard("eu-2", Some("union"), &["eu-north"]),
        shard("us-1", None, &["us", "eu"]),
        shard("ap-1", None, &["ap"]),
    ]
}

fn rules() -> Vec<Rule> {
    vec![
        Rule::even(Some(residency("union")), None, &[ShardIndex(0), ShardIndex(1)]),
        Rule::even(None, Some(region("ap")), &[ShardIndex(3)]),
        Rule::even(None, None, &[ShardIndex(2), ShardIndex(3)]),
    ]
}

fn directory() -> Directory {
    Directory::new(KEY, shards(), rules(), Exceptions::default(), &classes()).unwrap()
}

fn at(directory: &Directory, name: &str, class: Option<&str>, location: Option<&str>) -> Option<String> {
    let (class, location) = (class.map(residency), location.map(region));
    let name = tenant(name);
    let place =
        directory.locate(&Tenant { location: location.as_ref(), name: &name, residency: class.as_ref() })?;
    directory.shard(place.shard).map(|shard| shard.name.to_string())
}

#[test]
fn the_hash_is_what_it_always_was() {
    // A change of the hash would send every tenant elsewhere.
    assert_eq!(KEY.of(&tenant("acme")).0, 150_088_743_576_513_028_728_492_310_227_416_974_533);
}

#[test]
fn class_and_location_choose_the_rule() {
    let directory = directory();
    for number in 0..100 {
        let name = format!("t{number}");
        let of_union = at(&directory, &name, Some("union"), Some("us")).unwrap();
        assert!(of_union.starts_with("eu-"), "{of_union}");
        assert_eq!(at(&directory, &name, None, Some("ap")).as_deref(), Some("ap-1"));
        let other = at(&directory, &name, None, Some("us")).unwrap();
        assert!(other == "us-1" || other == "ap-1", "{other}");
    }
    assert_eq!(at(&directory, "a", Some("elsewhere"), None), None, "no rule is about it");
}

#[test]
fn an_exception_wins_until_it_is_taken_back() {
    let before = directory();
    let name = tenant("acme");
    let place = Place { access: Access::Held, placement: Placement(3), shard: ShardIndex(3) };
    let after = before.with(&name, place).unwrap();
    let asked = Tenant { location: None, name: &name, residency: None };
    assert_eq!(after.locate(&asked), Some(place));
    assert_eq!((after.exceptions().len(), before.exceptions().len()), (1, 0));
    assert_eq!(after.without(&name).locate(&asked), before.locate(&asked));
    assert!(after.without(&name).exceptions().is_empty());
    let nowhere = Place { shard: ShardIndex(9), ..place };
    assert_eq!(before.with(&name, nowhere).unwrap_err(), Invalid::Unknown(ShardIndex(9)));
}

#[test]
fn what_makes_no_directory_is_told() {
    let new = |shards: Vec<Shard>, rules: Vec<Rule>| {
        Directory::new(KEY, shards, rules, Exceptions::default(), &classes()).unwrap_err().to_string()
    };
    let rule = |ends: &[(u64, u16)]| Rule {
        location: None,
        residency: None,
        ranges: ends.iter().map(|&(last, shard)| Range { last, shard: ShardIndex(shard) }).collect(),
    };
    for (told, says) in [
        (new(vec![shard("a", None, &["eu"]), shard("a", None, &["us"])], Vec::new()), "two shards"),
        (new(vec![shard("a", Some("union"), &["eu", "us"])], Vec::new()), "does not allow"),
        (new(vec![shard("a", Some("moon"), &["eu"])], Vec::new()), "not declared"),
        (new(shards(), vec![rule(&[])]), "no shard has the hashes after 0"),
        (new(shards(), vec![rule(&[(5, 2)])]), "no shard has the hashes after 5"),
        (new(shards(), vec![rule(&[(5, 2), (5, 3), (u64::MAX, 2)])]), "range 1 ends at 5"),
        (new(shards(), vec![rule(&[(u64::MAX, 0)])]), "shard `eu-1` is for the class `union`"),
        (new(shards(), vec![rule(&[(u64::MAX, 77)])]), "no shard number 77"),
        (new(shards(), vec![rule(&[(u64::MAX, 2)]); 1025]), "at most 1024"),
    ] {
        assert!(told.contains(says), "{told}");
    }
}

#[test]
fn movement_is_measured_by_owners() {
    let one = directory();
    assert_eq!(one.movement(&one), Movement { largest: 0.0, rules_differ: false });
    let mut changed = rules();
    changed[2] = Rule::even(None, None, &[ShardIndex(3), ShardIndex(2)]);
    let other = Directory::new(KEY, shards(), changed, Exceptions::default(), &classes()).unwrap();
    assert!((one.movement(&other).largest - 1.0).abs() < 1e-9);
    let mut fewer = rules();
    fewer.remove(1);
    fewer[1] = Rule::even(None, None, &[ShardIndex(2), ShardIndex(2), ShardIndex(3)]);
    let third = Directory::new(KEY, shards(), fewer, Exceptions::default(), &classes()).unwrap();
    let movement = one.movement(&third);
    assert!((movement.largest - 1.0 / 6.0).abs() < 1e-9 && movement.rules_differ, "{movement:?}");
}

#[test]
fn shares_are_even() {
    let directory = directory();
    let mut counts = HashMap::new();
    for number in 0..10_000 {
        *counts.entry(at(&directory, &format!("t{number}"), Some("union"), None)).or_insert(0) += 1;
    }
    assert!(counts.len() == 2 && counts.values().all(|count| (4_800..5_200).contains(count)), "{counts:?}");
}

#[test]
fn a_million_exceptions_take_less_than_64_bytes_each() {
    let place = Place { access: Access::Open, placement: Placement(1), shard: ShardIndex(1) };
    // Just past the size at which the table doubles: the worst case.
    for count in [1_000_000_u32, 917_505] {
        let hashes = (0..count).map(|number| {
            let mut hash = u128::from(number) + 1;
            hash = hash.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645);
            (TenantHash(hash ^ (hash >> 67)), place)
        });
        let exceptions = Exceptions::from_all(hashes.collect::<Vec<_>>().into_iter());
        assert_eq!(exceptions.len(), count as usize);
        assert!(exceptions.table_bytes() / count as usize <= 64, "{}", exceptions.table_bytes());
    }
}

proptest! {
    /// Against a map: any series of changes, over many sizes of the list of changes.
    #[test]
    fn exceptions_are_a_map(steps in prop::collection::vec((0_u16..300, prop::option::of(0_u16..4)), 0..200)) {
        let mut model = HashMap::new();
        let mut directory = directory();
        for (placement, (name, to)) in (0..).zip(steps) {
            let name = tenant(&format!("t{name}"));
            match to {
                Some(shard) => {
                    let place =
                        Place { access: Access::Open, placement: Placement(placement), shard: ShardIndex(shard) };
                    directory = directory.with(&name, place).unwrap();
                    model.insert(name, place);
                }
                None => {
                    directory = directory.without(&name);
                    model.remove(&name);
                }
            }
            prop_assert_eq!(directory.exceptions().len(), model.len());
        }
        for number in 0..300 {
            let name = tenant(&format!("t{number}"));
            let found = directory.exceptions().get(KEY.of(&name));
            prop_assert_eq!(found, model.get(&name).copied());
        }
    }

    /// Every point has exactly one owner: the one whose range contains it.
    #[test]
    fn every_point_has_one_owner(cuts in prop::collection::btree_set(any::<u64>(), 0..20), point: u64) {
        let mut ranges: Vec<Range> =
            cuts.iter().map(|&last| Range { last, shard: ShardIndex(2) }).collect();
        if ranges.last().is_none_or(|range| range.last < u64::MAX) {
            ranges.push(Range { last: u64::MAX, shard: ShardIndex(3) });
        }
        let rule = Rule { location: None, ranges: ranges.clone(), residency: None };
        prop_assert!(rule.check(0, &shards()).is_ok());
        let mut begin = 0_u128;
        let mut owners = Vec::new();
        for range in &ranges {
            if (begin..=u128::from(range.last)).contains(&u128::from(point)) {
                owners.push(range.shard);
            }
            begin = u128::from(range.last) + 1;
        }
        prop_assert_eq!(owners, vec![rule.owner(point).unwrap()]);
    }
}

#[test]
fn the_list_of_changes_becomes_a_table() {
    let mut directory = directory();
    let place = |number: u32| Place {
        access: Access::Open,
        placement: Placement(number),
        shard: ShardIndex(u16::try_from(number % 4).unwrap()),
    };
    for number in 0..5_000 {
        directory = directory.with(&tenant(&format!("t{number}")), place(number)).unwrap();
    }
    for number in (0..5_000).step_by(2) {
        directory = directory.without(&tenant(&format!("t{number}")));
    }
    assert_eq!(directory.exceptions().len(), 2_500);
    for number in 0..5_000 {
        let found = directory.exceptions().get(KEY.of(&tenant(&format!("t{number}"))));
        assert_eq!(found, (number % 2 == 1).then(|| place(number)));
    }
}
