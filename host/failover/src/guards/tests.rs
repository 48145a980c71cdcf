//! Rogue policies against each rule.

use std::time::Duration;

use proptest::prelude::*;

use portolan_core::log::{Epoch, Position};
use portolan_core::time::Moment;

use super::*;
use crate::intent::{BrokenGlass, Force, Intents, Lost, Word};
use crate::lease::{Permit, Wait};
use crate::picture::{Limits, MaxLoss, Region, Replica};
use crate::promotion::Past;
use crate::store::Failure;
use crate::timers::Profile;

const NOW_MS: u64 = 1_900_000_000_000;
const DOWN: Verdict = Verdict::Down { of: 4, k: 4 };

pub(crate) fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

pub(crate) fn shard(name: &str) -> ShardName {
    ShardName::new(name).unwrap()
}

fn replica(rows: u64) -> Replica {
    Replica {
        epoch: Epoch(3),
        position: Position::new(3, rows, 0),
        rows,
        behind_rows: 1_000 - rows,
        behind_bytes: 0,
        behind_ms: 0,
        ago_ms: 5_000,
        whole: true,
    }
}

/// Five regions of which `eu` is down, and writes two shards; `us` has all rows, `ap` lacks 5, `sa` 900, and `me` may not have any.
pub(crate) fn picture() -> Picture {
    let well = Region {
        verdict: Verdict::Healthy,
        answers: true,
        database: true,
        down_ms: 0,
        well_ago_ms: Some(0),
        capacity: 1_000,
        load: 300,
    };
    let dead = Region { verdict: DOWN, answers: false, down_ms: 10_000, well_ago_ms: Some(14_000), ..well };
    let regions = ["ap", "me", "sa", "us"].map(|name| (region(name), well.clone()));
    let one = Shard {
        epoch: Epoch(3),
        primary: region("eu"),
        void: false,
        home: region("eu"),
        replicas: [("us", 1_000), ("ap", 995), ("sa", 100), ("me", 1_000)]
            .map(|(name, rows)| (region(name), replica(rows)))
            .into(),
        allowed: Some(["eu", "us", "ap", "sa"].map(region).into()),
        max_loss: MaxLoss { rows: 50, bytes: 1_000, ms: 5_000, window_rows: Some(50) },
        head_rows: 1_000,
        running: None,
        past: Vec::new(),
    };
    Picture {
        now_ms: NOW_MS,
        local: region("us"),
        control: true,
        regions: regions.into_iter().chain([(region("eu"), dead)]).collect(),
        sights: Vec::new(),
        shards: BTreeMap::from([(shard("a"), one.clone()), (shard("b"), one)]),
        failures: Vec::new(),
        shifts: BTreeMap::new(),
        removals: Vec::new(),
        intents: Intents::default(),
        limits: Limits::of(&Profile::Default.timers(), false),
    }
}

fn promote(to: &str) -> Proposal {
    Proposal::Promote { shard: shard("a"), region: region(to) }
}

fn shift(from: &str, to: &str, percent: u8) -> Proposal {
    Proposal::Shift { region: region(from), target: region(to), percent }
}

fn word() -> Word {
    Word::new("ann", "a drill", NOW_MS, Duration::from_secs(600)).unwrap()
}

/// What bars a proposal; nothing where it is done.
fn barred(picture: &Picture, proposal: &Proposal) -> Option<(Rule, String)> {
    let decision = judge(picture, std::slice::from_ref(proposal));
    decision.barred.first().map(|bar| (bar.rule, bar.why.clone()))
}

fn check(picture: &Picture, proposal: &Proposal, rule: Rule, told: &str) {
    let (by, why) = barred(picture, proposal).unwrap_or_else(|| panic!("{proposal} is not barred"));
    assert_eq!(by, rule, "{why}");
    assert!(why.contains(told), "{why:?} does not say {told:?}");
}

#[test]
fn the_most_advanced_copy_of_a_dead_region_is_promoted() {
    let decision = judge(&picture(), &[promote("us")]);
    assert_eq!(decision.barred, []);
    let [only] = decision.moves.as_slice() else { panic!("{decision:?}") };
    assert_eq!((only.kind, only.from.as_str(), only.to.as_str()), (Kind::Failover, "eu", "us"));
}

#[test]
fn rule_1_one_writer() {
    let both = judge(&picture(), &[promote("us"), promote("ap"), promote("us")]);
    assert_eq!((both.moves.len(), both.barred.len()), (1, 2));
    assert!(both.barred.iter().all(|bar| bar.rule == Rule::OneWriter));
    let mut running = picture();
    running.shards.get_mut("a").unwrap().running = Some(Kind::Failover);
    check(&running, &promote("us"), Rule::OneWriter, "being moved already");
    check(&picture(), &promote("eu"), Rule::OneWriter, "writes shard `a` already");
    check(
        &picture(),
        &Proposal::Promote { shard: shard("z"), region: region("us") },
        Rule::OneWriter,
        "no shard `z`",
    );
}

#[test]
fn rule_2_no_write_without_lease() {
    let permit = Permit { epoch: Epoch(3), until: Moment(100) };
    assert_eq!(no_write_without_lease(Some(permit), Epoch(3), Moment(99)), Ok(()));
    for (permit, epoch, now) in
        [(Some(permit), 3, 100), (Some(permit), 2, 1), (Some(permit), 4, 1), (None, 3, 1)]
    {
        assert!(no_write_without_lease(permit, Epoch(epoch), Moment(now)).is_err());
    }
}

#[test]
fn rule_3_no_takeover_before_proof() {
    let ask = |wait: &Wait, lost| no_takeover(&region("eu"), wait, Moment(0), lost);
    for (wait, may) in [
        (Wait::Over, true),
        (Wait::Free, true),
        (Wait::Unseen, false),
        (Wait::Until(Moment(1)), false),
        (Wait::Barred("no".to_owned()), false),
    ] {
        assert_eq!(ask(&wait, false).is_ok(), may, "{wait:?}");
        assert_eq!(ask(&wait, true), Ok(()), "a person stands for it");
    }
}

#[test]
fn rule_4_majority_only() {
    let cut_off = Picture { control: false, ..picture() };
    check(&cut_off, &promote("us"), Rule::Majority, "majority");
    // Nothing that an operator can break lets it pass.
    let forged = serde_json::json!({ "rules": ["majority"], "word": word() });
    let intents = Intents { broken_glass: serde_json::from_value(forged).unwrap(), ..Intents::default() };
    check(&Picture { intents: intents.at(NOW_MS), ..cut_off }, &promote("us"), Rule::Majority, "majority");
}

#[test]
fn rule_5_lag_gate() {
    check(&picture(), &promote("sa"), Rule::LagGate, "at most 50");
    check(&picture(), &promote("ap"), Rule::LagGate, "promote `us`");
    type Spoil = fn(&mut Replica);
    let cases: [(Spoil, &str); 5] = [
        (|replica| replica.whole = false, "not whole"),
        (|replica| replica.epoch = Epoch(2), "epoch 2 and not 3"),
        (|replica| replica.ago_ms = 16_001, "nobody knows what it lacks"),
        (|replica| replica.behind_bytes = 1_001, "1001 bytes"),
        (|replica| replica.behind_ms = 5_001, "5001 ms"),
    ];
    for (spoil, told) in cases {
        let mut spoiled = picture();
        spoil(spoiled.shards.get_mut("a").unwrap().replicas.get_mut("us").unwrap());
        check(&spoiled, &promote("us"), Rule::LagGate, told);
    }
    let mut none = picture();
    none.shards.get_mut("a").unwrap().replicas.clear();
    check(&none, &promote("us"), Rule::LagGate, "told nothing");
    // An old word that says that nothing is missing is held against what others know.
    let mut old = picture();
    old.shards.get_mut("a").unwrap().replicas.get_mut("sa").unwrap().behind_rows = 0;
    check(&old, &promote("sa"), Rule::LagGate, "lacks 900 rows");
    // A person may accept a loss, and says how much.
    for (rows, may) in [(899, false), (900, true)] {
        let force = Force { proposal: promote("sa"), accept_loss_rows: Some(rows), word: word() };
        let forced = Picture { intents: Intents { force: vec![force], ..Intents::default() }, ..picture() };
        assert_eq!(judge(&forced, &[]).moves.len(), usize::from(may), "{rows}");
    }
}

fn past(from: &str, ago_ms: u64) -> Past {
    Past {
        number: 1,
        kind: Kind::Failover,
        automatic: true,
        from: region(from),
        to: region("eu"),
        epoch: Epoch(3),
        begun: true,
        at_ms: NOW_MS - ago_ms,
        cut_rows: None,
        loss: None,
    }
}

#[test]
fn rule_6_anti_flap() {
    let mut young = picture();
    young.regions.get_mut("eu").unwrap().down_ms = 2_999;
    check(&young, &promote("us"), Rule::AntiFlap, "3000 ms");
    let mut again = picture();
    again.shards.get_mut("a").unwrap().past = vec![past("us", 599_999)];
    check(&again, &promote("us"), Rule::AntiFlap, "at the earliest");
    again.shards.get_mut("a").unwrap().past = vec![past("us", 600_000)];
    assert_eq!(barred(&again, &promote("us")), None);
    let failed =
        |region_name: &str, ago_ms: u64| Failure { region: region(region_name), at_ms: NOW_MS - ago_ms };
    let with = |failures: Vec<Failure>| Picture { failures, ..picture() };
    check(&with(vec![failed("us", 10)]), &promote("us"), Rule::AntiFlap, "why two fail");
    assert_eq!(
        barred(&with(vec![failed("eu", 10)]), &promote("us")),
        None,
        "other shards of the same region are the same failover"
    );
    let day = [20_000_000, 10_000_000, 3_000_000].map(|ago| failed("ap", ago)).to_vec();
    check(&with(day.clone()), &promote("us"), Rule::AntiFlap, "within a day");
    // A person may do more often what a policy may do rarely.
    let force = Force { proposal: promote("us"), accept_loss_rows: None, word: word() };
    let forced = Picture { intents: Intents { force: vec![force], ..Intents::default() }, ..with(day) };
    assert_eq!(judge(&forced, &[]).moves.len(), 1);
    let known = super::failed(&[failed("ap", 90_000_000)], &region("eu"), NOW_MS, 600_000).unwrap();
    assert_eq!(known, [failed("eu", 0)], "what is older than a day is forgotten");
    assert_eq!(super::failed(&known, &region("eu"), NOW_MS, 600_000), None);
}

#[test]
fn rule_7_no_failback() {
    let mut back = picture();
    back.regions.insert(region("eu"), back.regions.get("us").unwrap().clone());
    check(&back, &promote("us"), Rule::NoFailback, "planned switchover");
    back.shards.get_mut("a").unwrap().home = region("us");
    check(&back, &promote("us"), Rule::NoFailback, "portolan failover return");
    back.limits.failback = true;
    let decision = judge(&back, &[promote("us")]);
    assert_eq!(decision.moves.first().map(|there| there.kind), Some(Kind::Switchover));
    // A region that answers and does not do its work is left in order, as long as its databases answer.
    let mut gray = picture();
    let eu = gray.regions.get_mut("eu").unwrap();
    (eu.verdict, eu.answers, eu.down_ms) = (Verdict::Gray, true, 0);
    assert_eq!(judge(&gray, &[promote("us")]).moves.first().map(|there| there.kind), Some(Kind::Switchover));
    gray.regions.get_mut("eu").unwrap().database = false;
    check(&gray, &promote("us"), Rule::NoFailback, "planned switchover");
    // An operator drains.
    let mut drained = back.clone();
    drained.limits.failback = false;
    drained.intents.drains.insert(region("eu"), word());
    let decision = judge(&drained, &[]);
    assert_eq!((decision.moves.len(), decision.barred.len()), (2, 0), "{decision:?}");
}

#[test]
fn rule_8_some_region_always_answers() {
    let all: Vec<Proposal> = ["ap", "eu", "me", "sa", "us"]
        .iter()
        .map(|from| shift(from, if *from == "us" { "ap" } else { "us" }, 100))
        .collect();
    let decision = judge(&picture(), &all);
    let out: Vec<_> = decision
        .shifts
        .iter()
        .filter(|(_, shift)| shift.percent == 100)
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(out, ["eu"], "only who is gone goes at once");
    let mut dead = picture();
    for name in ["ap", "me", "sa"] {
        dead.regions.insert(region(name), dead.regions.get("eu").unwrap().clone());
    }
    dead.regions.values_mut().for_each(|there| there.capacity = 100_000);
    let decision = judge(&dead, &all);
    assert_eq!(decision.shifts.len(), 2, "a majority stays in service: {:?}", decision.shifts);
    assert!(decision.barred.iter().any(|bar| bar.rule == Rule::AnswersStay));
    // A window of time counts what was taken out before.
    let removal = |name: &str| Removal { region: region(name), at_ms: NOW_MS - 1 };
    let twice = Picture { removals: vec![removal("ap"), removal("me")], ..picture() };
    check(&twice, &shift("eu", "us", 100), Rule::AnswersStay, "2 of 5");
    check(&picture(), &shift("eu", "eu", 100), Rule::AnswersStay, "no shift");
    check(&picture(), &shift("us", "eu", 100), Rule::AnswersStay, "takes nothing over");
    let mut works = picture();
    works.regions.get_mut("eu").unwrap().verdict = Verdict::Healthy;
    check(&works, &Proposal::ReadOnly { shard: shard("a") }, Rule::AnswersStay, "only if an operator");
    assert_eq!(judge(&picture(), &[Proposal::ReadOnly { shard: shard("a") }]).read_only.len(), 1);
}

#[test]
fn rule_9_capacity_and_ramps() {
    // 800 of 1,000 may be used, 300 are: 500 of the 600 fit.
    let mut large = picture();
    large.regions.get_mut("eu").unwrap().load = 600;
    let decision = judge(&large, &[shift("eu", "us", 100)]);
    assert_eq!(decision.shifts["eu"].percent, 83);
    assert_eq!(decision.barred.first().map(|bar| bar.rule), Some(Rule::Capacity));
    // Who is well is left by steps, each after a while.
    let mut now = picture();
    let mut seen = Vec::new();
    for _ in 0..6 {
        let decision = judge(&now, &[shift("ap", "us", 100)]);
        seen.push(decision.shifts["ap"].percent);
        (now.shifts, now.now_ms) = (decision.shifts, now.now_ms + 30_000);
    }
    assert_eq!(seen, [5, 25, 50, 100, 100, 100]);
    let soon = judge(&Picture { now_ms: now.now_ms - 29_000, ..now.clone() }, &[Proposal::Hold]);
    assert_eq!(soon.shifts, now.shifts, "hold");
    // And gets its traffic back by steps.
    let mut seen = Vec::new();
    for _ in 0..4 {
        let decision = judge(&now, &[shift("eu", "us", 100)]);
        seen.push(decision.shifts.get("ap").map_or(0, |shift| shift.percent));
        (now.shifts, now.now_ms) = (decision.shifts, now.now_ms + 30_000);
    }
    assert_eq!(seen, [95, 75, 50, 0]);
}

#[test]
fn rule_10_plans_have_bounds() {
    // The plans themselves say so; no proposal has a place for a number, a TTL or an empty answer.
    let plan = crate::plan::Plan { ttl_s: 0, soa_minimum_s: 3_600, answers: BTreeMap::new() };
    assert!(plan.check(None).is_err());
}

#[test]
fn rule_11_residency() {
    let mut gone = picture();
    gone.shards.get_mut("a").unwrap().replicas.retain(|name, _| name.as_str() == "me");
    check(&gone, &promote("me"), Rule::Residency, "does not allow `me`");
    gone.shards.get_mut("a").unwrap().allowed = None;
    assert_eq!(barred(&gone, &promote("me")), None);
}

#[test]
fn rule_12_operators_words() {
    let frozen = Picture { intents: Intents { freeze: Some(word()), ..Intents::default() }, ..picture() };
    for proposal in [promote("us"), shift("eu", "us", 100), Proposal::ReadOnly { shard: shard("a") }] {
        check(&frozen, &proposal, Rule::Operator, "`ann` has frozen failover (a drill)");
    }
    let force = Force { proposal: promote("us"), accept_loss_rows: None, word: word() };
    let mut forced = frozen;
    forced.intents.force.push(force);
    assert_eq!(judge(&forced, &[]).moves.len(), 1, "an operator's own goes on");
    // Whoever is worked at is not gone, and takes nothing.
    let mut worked = picture();
    worked.intents.maintenance.insert(region("eu"), word());
    check(&worked, &promote("us"), Rule::AntiFlap, "worked at");
    let mut target = picture();
    target.intents.drains.insert(region("us"), word());
    check(&target, &promote("us"), Rule::Operator, "takes nothing over");
    // Glass that is broken lets exactly its rules pass, and that is written down.
    let mut glass = picture();
    glass.intents.broken_glass = Some(BrokenGlass::new([Rule::LagGate], word()).unwrap());
    let decision = judge(&glass, &[promote("sa")]);
    assert_eq!(decision.moves.first().map(|there| there.overridden.clone()), Some(vec![Rule::LagGate]));
    check(
        &glass,
        &Proposal::Promote { shard: shard("a"), region: region("me") },
        Rule::Residency,
        "residency",
    );
    // But nobody writes a shard who has no copy, or no whole one.
    glass.shards.get_mut("a").unwrap().replicas.get_mut("sa").unwrap().whole = false;
    check(&glass, &promote("sa"), Rule::LagGate, "not whole");
    glass.shards.get_mut("a").unwrap().replicas.remove("sa");
    check(&glass, &promote("sa"), Rule::LagGate, "told nothing");
    // A region that is lost is gone, whatever is seen of it.
    let mut lost = picture();
    lost.regions.insert(region("eu"), lost.regions.get("us").unwrap().clone());
    lost.shards.get_mut("a").unwrap().replicas.values_mut().for_each(|replica| replica.ago_ms = 100);
    lost.intents.lost.insert(region("eu"), Lost::new(region("eu"), "eu", word()).unwrap());
    assert_eq!(judge(&lost, &[promote("us")]).moves.first().map(|there| there.kind), Some(Kind::Failover));
}

#[test]
fn rules_have_numbers_and_names() {
    let numbers: Vec<u8> = Rule::ALL.iter().map(|rule| rule.number()).collect();
    assert_eq!(numbers, (1..=13).collect::<Vec<_>>());
    for rule in Rule::ALL {
        assert_eq!(serde_json::to_value(rule).unwrap(), rule.as_str());
    }
    // 13. is `timers::tightened`, which has its test there.
}

fn any_proposal() -> impl Strategy<Value = Proposal> {
    let any_region = || prop::sample::select(vec!["ap", "eu", "me", "sa", "us", "zz"]).prop_map(region);
    let any_shard = || prop::sample::select(vec!["a", "b", "z"]).prop_map(shard);
    prop_oneof![
        Just(Proposal::Hold),
        any_region().prop_map(|region| Proposal::Drain { region }),
        (any_shard(), any_region()).prop_map(|(shard, region)| Proposal::Promote { shard, region }),
        any_shard().prop_map(|shard| Proposal::ReadOnly { shard }),
        (any_region(), any_region(), any::<u8>()).prop_map(|(region, target, percent)| Proposal::Shift {
            region,
            target,
            percent
        }),
    ]
}

proptest! {
    /// Whatever a policy answers, again and again: no shard moves twice at a time, nothing leaves its residency class or goes to who lags, some region
    /// answers with half of all capacity, and nobody is given more than fits.
    #[test]
    fn no_policy_breaks_anything(answers in prop::collection::vec(prop::collection::vec(any_proposal(), 0..12), 1..12)) {
        let mut now = picture();
        for proposals in answers {
            let decision = judge(&now, &proposals);
            let mut moved = BTreeSet::new();
            for there in &decision.moves {
                prop_assert!(moved.insert(there.shard.clone()));
                prop_assert!(there.kind == Kind::Failover && there.to == region("us"), "{there:?}");
            }
            let out: Vec<_> = decision.shifts.iter().filter(|(_, shift)| shift.percent >= 100).map(|(name, _)| name).collect();
            prop_assert!(out.len() <= 2, "{out:?}");
            for (from, shift) in &decision.shifts {
                prop_assert!(!out.contains(&&shift.target) || shift.percent < 100, "{from} goes to {}", shift.target);
            }
            for (name, there) in &now.regions {
                let onto = decision.shifts.iter().filter(|(_, shift)| shift.target == *name);
                let extra: u64 = onto.map(|(from, shift)| now.load_part(from, shift.percent)).sum();
                prop_assert!(there.load + extra <= 800, "{name} gets {extra}");
            }
            now.removals.extend(decision.removals);
            (now.shifts, now.now_ms) = (decision.shifts, now.now_ms + 31_000);
        }
    }
}
