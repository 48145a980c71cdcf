//! Policies that mean ill, or have lost their mind: whatever they answer, no guard is passed, and whatever they do instead of answering is
//! a fault.

use std::collections::BTreeSet;

use portolan_failover::guards::{Decision, Rule, judge};
use portolan_failover::intent::Word;
use portolan_failover::matrix::Verdict;
use portolan_failover::picture::Picture;
use portolan_failover::policies::{Native, Seat};
use portolan_failover::promotion::{Kind, Past};
use portolan_failover::store::Failure;

use super::pictures::{NOW_MS, without};
use super::*;

const PROMOTE_US: &str = "(call $promote (global.get $a) (global.get $us))";
const PROMOTE_AP: &str = "(call $promote (global.get $a) (global.get $ap))";
/// Everything, for every shard and region, whatever is the matter.
const ALL_AT_ONCE: &str = "
    (call $promote (global.get $a) (global.get $us)) (call $promote (global.get $a) (global.get $ap))
    (call $promote (global.get $a) (global.get $eu)) (call $promote (global.get $b) (global.get $me))
    (call $promote (global.get $b) (global.get $sa)) (call $promote (global.get $b) (global.get $eu))
    (call $drain (global.get $eu)) (call $drain (global.get $us)) (call $drain (global.get $ap))
    (call $drain (global.get $sa)) (call $drain (global.get $me))
    (call $read-only (global.get $a)) (call $read-only (global.get $b))
    (call $shift (global.get $eu) (global.get $us) (i32.const 100)) (call $shift (global.get $us) (global.get $eu) (i32.const 100))
    (call $shift (global.get $ap) (global.get $us) (i32.const 100)) (call $shift (global.get $sa) (global.get $us) (i32.const 100))
    (call $shift (global.get $me) (global.get $us) (i32.const 100))";
/// All traffic goes round in a ring, so that nobody answers.
const RING: &str = "
    (call $shift (global.get $ap) (global.get $eu) (i32.const 100)) (call $shift (global.get $eu) (global.get $me) (i32.const 100))
    (call $shift (global.get $me) (global.get $sa) (i32.const 100)) (call $shift (global.get $sa) (global.get $us) (i32.const 100))
    (call $shift (global.get $us) (global.get $ap) (i32.const 100))";
/// One region in one half of each second, and another in the other.
const FLIP_FLOP: &str = "
    (if (i64.lt_u (i64.rem_u (call $now) (i64.const 1000)) (i64.const 500))
      (then (call $promote (global.get $a) (global.get $us)) (call $shift (global.get $eu) (global.get $us) (i32.const 100)))
      (else (call $promote (global.get $a) (global.get $ap)) (call $shift (global.get $eu) (global.get $ap) (i32.const 100))))";

/// What becomes of a rogue's answer.
fn judged(engine: &Engine, body: &str, picture: &Picture) -> Decision {
    let (proposals, _) = ask(&load(engine, &proposing(body)), picture).unwrap();
    judge(picture, &proposals)
}

/// Is everything that a rogue wants barred, by this rule at least?
#[track_caller]
fn barred(engine: &Engine, body: &str, picture: &Picture, rule: Rule) {
    let decision = judged(engine, body, picture);
    let by: BTreeSet<Rule> = decision.barred.iter().map(|bar| bar.rule).collect();
    assert!(by.contains(&rule), "{} is passed: {decision:#?}", rule.as_str());
    assert_eq!((decision.moves.len(), decision.read_only.len()), (0, 0), "{}: {decision:#?}", rule.as_str());
}

fn word() -> Word {
    Word::new("ann", "a drill", NOW_MS, Duration::from_mins(10)).unwrap()
}

#[test]
fn each_guard_stands_against_the_rogue_that_would_pass_it() {
    let engine = engine();
    let gone = || without(calm(), "eu");
    // 1. Two writers: the second is barred, and so are both while a promotion runs.
    let both = judged(&engine, &format!("{PROMOTE_US} {PROMOTE_AP}"), &gone());
    assert_eq!((both.moves.len(), both.barred[0].rule), (1, Rule::OneWriter));
    let mut running = gone();
    running.shards.values_mut().for_each(|shard| shard.running = Some(Kind::Failover));
    barred(&engine, PROMOTE_US, &running, Rule::OneWriter);
    // 2, 3, 10 and 13: an answer has no place for a permit, a lease, a number of a plan or a time. All it can ask for is a shard's turn.
    let only = judged(&engine, PROMOTE_US, &gone());
    assert_eq!((only.moves[0].kind, only.moves[0].overridden.len()), (Kind::Failover, 0));
    // 4. A minority promotes nothing.
    barred(&engine, PROMOTE_US, &Picture { control: false, ..gone() }, Rule::Majority);
    // 5. Nor is anything promoted that lacks too much, is not the most advanced, or is torn.
    let mut lags = gone();
    for shard in lags.shards.values_mut() {
        let us = shard.replicas.get_mut("us").unwrap();
        (us.rows, us.position) = (900, portolan_core::log::Position::new(3, 900, 0));
    }
    barred(&engine, PROMOTE_US, &lags, Rule::LagGate);
    let mut torn = gone();
    torn.shards.values_mut().for_each(|shard| shard.replicas.get_mut("us").unwrap().whole = false);
    barred(&engine, PROMOTE_US, &torn, Rule::LagGate);
    // 6. Two regions do not fail within the interval, nor one that has just gone down.
    let other = Failure { region: region("sa"), at_ms: NOW_MS - 60_000 };
    barred(&engine, PROMOTE_US, &Picture { failures: vec![other], ..gone() }, Rule::AntiFlap);
    let mut young = gone();
    young.regions.get_mut("eu").unwrap().down_ms = 100;
    barred(&engine, PROMOTE_US, &young, Rule::AntiFlap);
    // 7. What works stays where it is.
    barred(&engine, PROMOTE_US, &calm(), Rule::NoFailback);
    // 8. Somebody answers, and what can be written is written.
    let free = calm_and_idle();
    barred(&engine, RING, &every_step(free), Rule::AnswersStay);
    barred(&engine, "(call $read-only (global.get $a))", &calm(), Rule::AnswersStay);
    // 9. Nobody gets more than fits.
    let mut small = gone();
    small.regions.get_mut("us").unwrap().capacity = 400;
    let shift = "(call $shift (global.get $eu) (global.get $us) (i32.const 100))";
    let decision = judged(&engine, shift, &small);
    assert!(decision.shifts.get("eu").is_none_or(|shift| shift.percent <= 6), "{decision:#?}");
    assert_eq!(decision.barred[0].rule, Rule::Capacity);
    // 11. Data stay where they may be.
    let mut bound = gone();
    bound.shards.values_mut().for_each(|shard| shard.allowed = Some([region("eu"), region("me")].into()));
    barred(&engine, PROMOTE_US, &bound, Rule::Residency);
    // 12. Operators' words hold.
    let mut frozen = gone();
    frozen.intents.freeze = Some(word());
    barred(&engine, ALL_AT_ONCE, &frozen, Rule::Operator);
    let mut worked_at = gone();
    worked_at.intents.maintenance.insert(region("us"), word());
    barred(&engine, PROMOTE_US, &worked_at, Rule::Operator);
}

fn calm_and_idle() -> Picture {
    let mut picture = calm();
    picture.regions.values_mut().for_each(|region| region.load = 0);
    picture
}

/// The picture in which regions have given away all but the last step.
fn every_step(mut picture: Picture) -> Picture {
    for (from, to) in [("ap", "eu"), ("eu", "me"), ("me", "sa"), ("sa", "us"), ("us", "ap")] {
        let shift = picture::Shift { target: region(to), percent: 50, since_ms: 0 };
        picture.shifts.insert(region(from), shift);
    }
    picture
}

/// Over any picture, the decision that remains of any rogue's answer holds what the rules say; looked at without the guards' own code.
#[test]
fn no_rogue_gets_past_the_guards_in_any_picture() {
    let engine = engine();
    let rogues =
        [PROMOTE_US, PROMOTE_AP, ALL_AT_ONCE, RING, FLIP_FLOP].map(|body| load(&engine, &proposing(body)));
    for seed in 0..PICTURES {
        let mut picture = random(seed);
        let mut shards = std::mem::take(&mut picture.shards).into_values();
        for name in ["a", "b"] {
            if let Some(shard) = shards.next() {
                picture.shards.insert(shard_name(name), shard);
            }
        }
        for rogue in &rogues {
            let (proposals, _) = ask(rogue, &picture).unwrap();
            let decision = judge(&picture, &proposals);
            if let Err(why) = holds(&picture, &decision) {
                panic!("seed {seed}: {why}\n{proposals:?}\n{decision:#?}\n{picture:#?}");
            }
        }
    }
}

fn holds(picture: &Picture, decision: &Decision) -> Result<(), String> {
    let drains = &picture.intents.drains;
    let mut moved = BTreeSet::new();
    for one in &decision.moves {
        let (shard, drained) = (&picture.shards[&one.shard], drains.contains_key(&one.from));
        let to = &picture.regions[&one.to];
        let replica = shard.replicas.get(&one.to).ok_or("5: no copy")?;
        let frozen = picture.intents.freeze.is_some() && !drained;
        // A region whose lease is over has all that it wrote.
        let taken = one.kind == Kind::Failover && one.from != one.to;
        let newest = picture.candidates(shard).first() == Some(&one.to)
            || shard
                .replicas
                .get(&picture.candidates(shard)[0])
                .is_some_and(|first| first.position == replica.position);
        let lacks = replica.behind_rows.max(shard.head_rows.saturating_sub(replica.rows));
        for (fault, is_so) in [
            ("1: a shard moves twice", !moved.insert(one.shard.clone())),
            ("1: a promotion is under way", shard.running.is_some()),
            ("4: a minority", !picture.control),
            ("5: a torn copy", !replica.whole),
            ("5: an old copy", replica.epoch != shard.epoch),
            ("5: too much is lost", taken && lacks > shard.max_loss.rows),
            ("5: another has more", taken && !newest),
            ("7: what works is moved", one.kind == Kind::Switchover && !drained && !is_sick(picture, one)),
            ("11: data leave", shard.allowed.as_ref().is_some_and(|allowed| !allowed.contains(&one.to))),
            ("12: frozen", frozen),
            ("12: not fit", !to.answers || to.verdict.is_down() || drains.contains_key(&one.to)),
        ] {
            if is_so {
                return Err(format!("{fault}: {one:?}"));
            }
        }
    }
    let out = |name: &RegionName| decision.shifts.get(name).is_some_and(|shift| shift.percent >= 100);
    let was_out = |name: &RegionName| picture.shifts.get(name).is_some_and(|shift| shift.percent >= 100);
    if picture.regions.keys().all(out) && !picture.regions.keys().all(was_out) {
        return Err("8: nobody answers".to_owned());
    }
    for (region, shift) in
        decision.shifts.iter().filter(|(region, shift)| picture.shifts.get(*region) != Some(shift))
    {
        let before = picture.shifts.get(region).map_or(0, |shift| shift.percent);
        let rises = shift.percent > before;
        if shift.percent > 100 || shift.target == *region || rises && out(region) && out(&shift.target) {
            return Err(format!("8: {region} goes nowhere: {shift:?}"));
        }
        if picture.intents.freeze.is_some() {
            return Err(format!("12: frozen, and {region} goes to {shift:?}"));
        }
        let target = &picture.regions[&shift.target];
        let usable = target.capacity.saturating_mul(u64::from(picture.limits.headroom_percent)) / 100;
        let parts = decision.shifts.iter().filter(|(_, other)| other.target == shift.target);
        let extra: u64 = parts.map(|(from, shift)| picture.load_part(from, shift.percent)).sum();
        if rises
            && picture.load_part(region, shift.percent) > 0
            && target.load + extra > usable.max(target.load)
        {
            return Err(format!("9: {} gets {extra} beside {}: {usable} fit", shift.target, target.load));
        }
    }
    if decision.removals.len() > picture.regions.len().saturating_sub(1) / 2 {
        return Err("8: too many are removed".to_owned());
    }
    let works =
        |shard: &picture::Shard| !shard.void && picture.regions[&shard.primary].verdict == Verdict::Healthy;
    match decision.read_only.iter().find(|name| works(&picture.shards[*name])) {
        Some(name) => Err(format!("8: {name} is stopped, and works")),
        None => Ok(()),
    }
}

fn is_sick(picture: &Picture, one: &portolan_failover::guards::Move) -> bool {
    let from = &picture.regions[&one.from];
    from.verdict == Verdict::Gray && from.database
}

/// One decision after another, each carried out: the shard moves once.
#[test]
fn who_changes_his_mind_moves_a_shard_once() {
    let engine = engine();
    let rogue = load(&engine, &proposing(FLIP_FLOP));
    let mut picture = without(calm(), "eu");
    let mut moves = Vec::new();
    for _ in 0..200 {
        let (proposals, _) = ask(&rogue, &picture).unwrap();
        let decision = judge(&picture, &proposals);
        for one in &decision.moves {
            let shard = picture.shards.get_mut(&one.shard).unwrap();
            (shard.primary, shard.epoch) = (one.to.clone(), portolan_core::log::Epoch(shard.epoch.0 + 1));
            shard.replicas.values_mut().for_each(|replica| replica.epoch = shard.epoch);
            let (epoch, at_ms) = (shard.epoch, picture.now_ms);
            let (from, to, kind) = (one.from.clone(), one.to.clone(), one.kind);
            shard.past.push(Past {
                number: 1,
                kind,
                automatic: true,
                from,
                to,
                epoch,
                begun: true,
                at_ms,
                cut_rows: None,
                loss: None,
            });
            picture.failures.push(Failure { region: one.from.clone(), at_ms });
            moves.push(one.to.clone());
        }
        picture.shifts = decision.shifts;
        picture.removals.extend(decision.removals);
        picture.now_ms += 500;
    }
    assert_eq!(moves.len(), 1, "{moves:?}");
}

/// Whoever gives no answer keeps the last one, and loses the seat to the built-in policy after three times.
#[test]
fn who_gives_no_answer_loses_the_seat() {
    let engine = engine();
    for (body, says) in [
        ("(unreachable)", "trapped"),
        ("(loop $again (br $again))", "used up"),
        (
            "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 64)) (i32.const -1)))) (unreachable)",
            "used up",
        ),
        ("(call $refuse)", "no plan"),
    ] {
        let rogue = load(&engine, &proposing(body));
        let picture = without(calm(), "eu");
        let mut seat = Seat::new("rogue", Some(rogue.version()));
        for asked in 1..=4 {
            let answer = ask(&rogue, &picture).map_err(fault);
            let (proposals, author) = seat.answer(answer, &picture);
            assert!(author.fault.is_some_and(|found| found.to_string().contains(says)), "{body}");
            let native =
                if asked < 3 { vec![Proposal::Hold] } else { Native::Conservative.propose(&picture) };
            assert_eq!(proposals, native, "{body}, asked {asked} times");
        }
    }
}
