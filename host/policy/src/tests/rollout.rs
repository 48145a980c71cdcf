//! Two policies in a slot: each stands for itself, and one takes over from the other without a moment between.

use portolan_core::evidence::Trial;
use portolan_core::lane::{Affinity, Part, Side};

use super::tenants::tenant;
use super::*;

const CANARY: Part = Part::Canary { permille: 500, affinity: Affinity::Tenant, salt: 1 };

fn other() -> Vec<u8> {
    with_section(HELLO.component(), "producers-note", b"another version")
}

fn beside(component: &[u8], part: Part, trial: &Arc<Trial>) -> SlotSpec {
    let candidate = CandidateSpec {
        config: "{}".into(),
        part,
        source: Ok(Source::bytes(component)),
        trial: Arc::clone(trial),
    };
    SlotSpec { candidate: Some(candidate), ..spec(Slot::Operator, &HELLO.component(), "{}") }
}

fn alone(component: &[u8]) -> SlotSpec {
    spec(Slot::Operator, component, "{}")
}

#[test]
fn a_candidate_comes_beside_what_runs_changes_its_part_and_takes_over_as_it_is() {
    let (mut slots, facts, trial) = (Slots::new(engine()), Arc::new(facts()), Arc::new(Trial::default()));
    let first = slots.reconcile(&[alone(&HELLO.component())], &facts, Moment(1)).policies.operator.unwrap();
    let both = slots.reconcile(&[beside(&other(), Part::Shadow, &trial)], &facts, Moment(2));
    assert_eq!((both.changed, both.plan_calls), (true, 1), "what runs is not planned again");
    let lane = both.policies.operator.unwrap();
    assert!(Arc::ptr_eq(&lane.stable, &first.stable));
    let candidate = lane.candidate.clone().unwrap();
    assert!(candidate.part == Part::Shadow && candidate.policy.digest != lane.stable.digest);
    let report = slots.reports(Moment(2)).remove(0);
    let of_candidate = report.candidate.unwrap();
    assert_eq!(of_candidate.running.unwrap().version.digest, candidate.policy.digest);
    assert_eq!(
        (of_candidate.part, report.running.unwrap().version.digest),
        (Some(Part::Shadow), lane.stable.digest)
    );

    // Another part changes the lane and nothing else.
    let canary = slots.reconcile(&[beside(&other(), CANARY, &trial)], &facts, Moment(3));
    assert_eq!((canary.changed, canary.plan_calls), (true, 0));
    let lane = canary.policies.operator.unwrap();
    assert_eq!(lane.candidate.as_ref().unwrap().part, CANARY);
    assert!(Arc::ptr_eq(&lane.candidate.as_ref().unwrap().policy, &candidate.policy));
    assert!(!slots.reconcile(&[beside(&other(), CANARY, &trial)], &facts, Moment(4)).changed);
    let next_step = Arc::new(Trial::default());
    let counted_anew = slots.reconcile(&[beside(&other(), CANARY, &next_step)], &facts, Moment(5));
    let lane = counted_anew.policies.operator.unwrap();
    assert!(Arc::ptr_eq(&lane.candidate.as_ref().unwrap().trial, &next_step));

    // Promoted, it is the very same policy in the other place; the plan and warm instances come along.
    let promoted = slots.reconcile(&[alone(&other())], &facts, Moment(6));
    assert_eq!((promoted.changed, promoted.plan_calls), (true, 0));
    let lane = promoted.policies.operator.unwrap();
    assert!(Arc::ptr_eq(&lane.stable, &candidate.policy) && lane.candidate.is_none());
    let report = slots.reports(Moment(6)).remove(0);
    assert!(report.candidate.is_none() && report.part.is_none());
}

#[test]
fn a_refused_candidate_leaves_what_runs_alone_and_says_so() {
    let (mut slots, facts, trial) = (Slots::new(engine()), Arc::new(facts()), Arc::new(Trial::default()));
    let stable = slots.reconcile(&[alone(&HELLO.component())], &facts, Moment(1)).policies.operator.unwrap();
    let bad = Guest::planning("(unreachable)").component();
    let result = slots.reconcile(&[beside(&bad, CANARY, &trial)], &facts, Moment(2));
    let lane = result.policies.operator.unwrap();
    assert!(Arc::ptr_eq(&lane.stable, &stable.stable) && lane.candidate.is_none());
    assert!(matches!(result.events.as_slice(), [Event::Refused { side: Side::Candidate, kept: None, .. }]));
    let report = slots.reports(Moment(2)).remove(0);
    assert!(report.refused.is_none() && report.running.is_some());
    assert!(report.candidate.unwrap().refused.unwrap().reason.contains("unreachable"));

    // A candidate that ran, and a worse one in its place: nobody hears the former any more.
    let good = slots.reconcile(&[beside(&other(), CANARY, &trial)], &facts, Moment(3));
    assert!(good.policies.operator.unwrap().candidate.is_some());
    let worse = slots.reconcile(&[beside(&bad, CANARY, &Arc::default())], &facts, Moment(4));
    assert!(worse.changed && worse.policies.operator.unwrap().candidate.is_none());

    // What was on trial goes without a trace.
    let gone = slots.reconcile(&[alone(&HELLO.component())], &facts, Moment(5));
    let lane = gone.policies.operator.unwrap();
    assert!(Arc::ptr_eq(&lane.stable, &stable.stable) && lane.candidate.is_none());
    assert!(slots.reports(Moment(5)).remove(0).candidate.is_none());
}

#[test]
fn each_side_has_counters_of_its_own() {
    const TRAPS: Guest<'static> = Guest::deciding("(unreachable)");
    const GOOD: Guest<'static> = Guest::deciding("(i32.const 1)");
    let (mut slots, facts, trial) = (Slots::new(engine()), Arc::new(facts()), Arc::new(Trial::default()));
    let candidate = beside(&TRAPS.component(), CANARY, &trial).candidate;
    let specs = [SlotSpec { candidate, ..alone(&GOOD.component()) }];
    let lane = slots.reconcile(&specs, &facts, Moment(1)).policies.operator.unwrap();
    let candidate = lane.candidate.as_ref().unwrap();
    assert_eq!(lane.stable.decider.decide(&call(&[None])), Ok(1));
    assert_eq!(candidate.policy.decider.decide(&call(&[None])), Err(Undecided::Trapped));
    let report = slots.reports(Moment(1)).remove(0);
    let (stable, candidate) = (report.decider.unwrap(), report.candidate.unwrap().decider.unwrap());
    assert_eq!((stable.calls, stable.traps, candidate.calls, candidate.traps), (1, 0, 1, 1));
}

#[test]
fn a_preview_is_planned_apart_from_what_runs_and_at_its_slots_expense() {
    let engine = engine();
    let (mut slots, facts) = (Slots::new(engine.clone()), Arc::new(facts()));
    let wanted = [spec(tenant("acme"), &HELLO.component(), "{}")];
    let first = slots.reconcile(&wanted, &facts, Moment(1)).policies;
    let budget = Budget { plan_burst: 2, plans_per_minute: 2, ..defaults::TENANT_BUDGET };
    let mut preview = spec(tenant("acme"), &other(), "{}");
    preview.terms.budget = Some(budget);
    let planned = engine.preview(&preview, &facts).unwrap();
    assert_eq!(planned.policy().digest, preview.source.as_ref().unwrap().digest());
    assert!(planned.holds(&preview, &facts));
    assert!(!planned.holds(&SlotSpec { config: r#"{"a": 1}"#.into(), ..preview.clone() }, &facts));
    let again = slots.reconcile(&wanted, &facts, Moment(2));
    assert!(!again.changed && Arc::ptr_eq(&first.tenants, &again.policies.tenants));

    let bad = SlotSpec {
        source: Ok(Source::bytes(Guest::planning("(unreachable)").component())),
        ..preview.clone()
    };
    let plans = engine.accounts()[0].1.cost().plans;
    assert!(plans >= 2, "both plans are on the slot's account: {plans}");
    // The budget of this slot's plans bounds what may be looked at, and another slot has its own.
    let refusals: Vec<Refused> = (0..8).filter_map(|_| engine.preview(&bad, &facts).err()).collect();
    assert!(
        refusals.iter().any(|refused| refused.stage == Stage::Plan && refused.reason.contains("unreachable"))
    );
    assert!(
        refusals.iter().any(|refused| refused.stage == Stage::Quota && refused.transient),
        "{refusals:?}"
    );
    engine.preview(&SlotSpec { slot: tenant("globex"), ..preview }, &facts).unwrap();
}
