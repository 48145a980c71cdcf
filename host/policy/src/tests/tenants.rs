//! What tenants may use, see and choose, and what becomes of requests when a slot fails.

use portolan_core::bounds::{Bounds, Scope};
use portolan_core::decide::FailRule;

use super::*;

/// Some 600,000 units of fuel.
const SPINS: &str = "(local $left i32) (local.set $left (i32.const 200000))
    (loop $again (local.set $left (i32.sub (local.get $left) (i32.const 1))) (br_if $again (local.get $left))) (i32.const 0)";
/// Forwards to `web` in `eu`, or traps.
const FORWARDS: &str =
    "(call $forward (i32.const 5) (i32.const 2) (i32.const 8) (i32.const 3) (i32.const 1024))
    (if (i32.load8_u (i32.const 1024)) (then (unreachable))) (call $always (i32.load (i32.const 1028)))";

pub(super) fn tenant(text: &str) -> Slot {
    Slot::Tenant(TenantName::new(text).unwrap())
}

fn tenant_name(text: &str) -> TenantName {
    TenantName::new(text).unwrap()
}

fn unhurried() -> Engine {
    let mut config = config(None);
    config.limits.guest_share_percent = 100;
    config.limits.tenant_share_percent = 100;
    config.limits.resident_bytes = 0;
    Engine::new(config).unwrap()
}

#[test]
fn a_tenants_policy_cannot_name_what_it_cannot_see() {
    let component = Guest::planning(FORWARDS).component();
    let mut slots = Slots::new(engine());
    let facts = Arc::new(facts());
    let mut specs = [
        spec(Slot::Operator, &component, "{}"),
        spec(tenant("free"), &component, "{}"),
        spec(tenant("bound"), &component, "{}"),
        spec(tenant("moon"), &component, "{}"),
    ];
    let none = Bounds { pools: Some(BTreeSet::new()), ..Bounds::default() };
    specs[2].terms.scope = Scope { bounds: Arc::new(none), residency: None };
    // A class that nobody declared allows nothing.
    specs[3].terms.scope.residency = Some(portolan_core::ids::ResidencyName::new("moon").unwrap());
    let result = slots.reconcile(&specs, &facts, Moment(1));
    assert!(result.policies.operator.is_some());
    let tenants: Vec<&str> = result.policies.tenants.keys().map(TenantName::as_str).collect();
    assert_eq!(tenants, ["free"]);
    let reports = slots.reports(Moment(1));
    assert!(reports[1].past_refusals[0].refused.reason.contains("unreachable"), "{:?}", reports[1]);

    // Wider bounds are a reason to plan again; narrower ones keep the last good plan, which requests are held against.
    specs[2].terms.scope = Scope::default();
    let wider = slots.reconcile(&specs, &facts, Moment(2));
    assert!(wider.changed && wider.policies.tenants.contains_key(&tenant_name("bound")));
    assert_eq!(wider.plan_calls, 1);
}

#[test]
fn who_uses_its_budget_up_is_answered_by_its_table_and_its_neighbour_is_not() {
    let engine = unhurried();
    let mut slots = Slots::new(engine.clone());
    let component = Guest::deciding(SPINS).component();
    let mut specs = [spec(tenant("greedy"), &component, "{}"), spec(tenant("modest"), &component, "{}")];
    let budget = Budget { fuel_burst: 20_000_000, fuel_per_second: 1, ..defaults::TENANT_BUDGET };
    specs[0].terms.budget = Some(budget);
    let result = slots.reconcile(&specs, &Arc::new(facts()), Moment(1));
    let ask = |who: &str| {
        let lane = result.policies.tenants.get(&tenant_name(who)).unwrap();
        lane.stable.decider.decide(&call(&[None]))
    };
    let answers: Vec<_> = (0..100).map(|_| ask("greedy")).collect();
    let asked = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!((10..60).contains(&asked), "{asked}");
    assert_eq!(answers[99], Err(Undecided::Demoted));
    assert!((0..10).all(|_| ask("modest") == Ok(0)));
    let accounts = engine.accounts();
    assert_eq!(accounts.len(), 2);
    let greedy = accounts[0].1.report().unwrap();
    assert!(greedy.demoted && greedy.demotions == 1 && greedy.fuel_left <= 0, "{greedy:?}");
    assert!(!accounts[1].1.report().unwrap().demoted);
    let cost = accounts[0].1.cost();
    assert!(cost.calls == asked as u64 && cost.fuel > 20_000_000 && cost.plans == 1, "{cost:?}");
    let told = slots.reports(Moment(2)).remove(0);
    assert!(told.log.iter().any(|line| line.level == "host" && line.text.contains("demoted")), "{told:?}");

    // A larger budget takes effect at once, without a new plan; what was used stays on the account.
    specs[0].terms.budget = None;
    let again = slots.reconcile(&specs, &Arc::new(facts()), Moment(3));
    assert_eq!((again.changed, again.plan_calls), (false, 0));
    drop(result);
    drop(again);
    drop((slots, accounts));
    assert!(engine.accounts().is_empty());
}

#[test]
fn a_tenant_keeps_no_more_instances_warm_than_it_may() {
    let engine = unhurried();
    let version = engine.load(&Guest::deciding("(i32.const 1)").component()).unwrap();
    let budget = Budget { warm_instances: 2, ..defaults::TENANT_BUDGET };
    let account = Account::bounded(budget);
    let memo = engine.plan(&version, "{}", Arc::new(facts()), &log()).unwrap().plan.memo;
    let log = log();
    let start = Start {
        account: &account,
        config: "{}",
        log: &log,
        memo: &memo,
        tier: Tier::Tenant { granted: false },
    };
    let deciders: Vec<_> = (0..5).map(|_| engine.decider(&version, start).unwrap()).collect();
    for decider in deciders.iter().chain(&deciders) {
        assert_eq!(decider.decide(&call(&[None])), Ok(1), "more than that are made for one call");
    }
    assert_eq!((engine.stats().warm_instances, account.report().unwrap().warm_instances), (2, 2));
    drop(deciders);
    assert_eq!(account.report().unwrap().memory_bytes, 0);
    assert_eq!(account.cost().calls, 10, "what was used outlives who used it");
}

#[test]
fn operators_have_instances_that_no_tenant_takes() {
    let mut config = config(None);
    config.limits.warm_instances_max = 8;
    config.limits.operator_reserve_percent = 25;
    config.limits.guest_share_percent = 100;
    config.limits.tenant_share_percent = 100;
    config.limits.resident_bytes = 0;
    let engine = Engine::new(config).unwrap();
    let guest = Guest::deciding("(i32.const 1)");
    let operator = decider(&engine, guest, Tier::Operator);
    assert_eq!(operator.decide(&call(&[None])), Ok(1));
    let crowd: Vec<_> = (0..20).map(|_| decider(&engine, guest, Tier::Tenant { granted: false })).collect();
    for decider in crowd.iter().chain(&crowd) {
        assert_eq!(decider.decide(&call(&[None])), Ok(1));
    }
    assert_eq!(operator.stats().warm_instances, 1, "it is still warm");
    assert!(engine.stats().evictions > 0);
}

#[test]
fn a_closed_slot_lets_nobody_pass_until_something_runs() {
    let mut slots = Slots::new(engine());
    let facts = Arc::new(facts());
    let bad = Guest::planning("(unreachable)").component();
    let mut wanted = spec(tenant("shop"), &bad, "{}");
    wanted.terms.on_fail = FailRule::Closed;
    let closed = slots.reconcile(std::slice::from_ref(&wanted), &facts, Moment(1));
    assert!(closed.changed);
    let lane = closed.policies.tenants.get(&tenant_name("shop")).unwrap();
    assert_eq!(lane.stable.on_fail, FailRule::Closed);
    assert_eq!(lane.stable.decider.decide(&call(&[])), Err(Undecided::Empty));
    assert!(slots.reports(Moment(1))[0].closed);
    assert!(!slots.reconcile(std::slice::from_ref(&wanted), &facts, Moment(2)).changed);

    for (on_fail, runs) in [(FailRule::Bypass, 0), (FailRule::Previous, 0), (FailRule::Closed, 1)] {
        wanted.terms.on_fail = on_fail;
        let result = slots.reconcile(std::slice::from_ref(&wanted), &facts, Moment(3));
        assert_eq!(result.policies.tenants.len(), runs, "{on_fail:?}");
    }
    wanted.source = Ok(Source::bytes(HELLO.component()));
    let open = slots.reconcile(std::slice::from_ref(&wanted), &facts, Moment(4));
    assert!(open.changed && !slots.reports(Moment(4))[0].closed);
    wanted.source = Ok(Source::bytes(bad));
    let kept = slots.reconcile(std::slice::from_ref(&wanted), &facts, Moment(5));
    assert!(!kept.changed, "what runs goes on under every rule");
}

#[test]
fn a_disabled_slot_is_passed_by_and_keeps_what_it_has() {
    let mut slots = Slots::new(engine());
    let facts = Arc::new(facts());
    let mut wanted = spec(tenant("shop"), &HELLO.component(), "{}");
    let first = slots.reconcile(std::slice::from_ref(&wanted), &facts, Moment(1));
    let running = Arc::clone(&first.policies.tenants.get(&tenant_name("shop")).unwrap().stable);
    wanted.terms.disabled = true;
    let disabled = slots.reconcile(std::slice::from_ref(&wanted), &facts, Moment(2));
    assert!(disabled.changed && disabled.policies.tenants.is_empty());
    let mut other = (*facts).clone();
    other.regions.values_mut().for_each(|region| region.verdict = Verdict::Down);
    let other = Arc::new(other);
    assert_eq!(slots.reconcile(std::slice::from_ref(&wanted), &other, Moment(3)).plan_calls, 0);
    assert!(slots.reports(Moment(3))[0].disabled);
    wanted.terms.disabled = false;
    let again = slots.reconcile(std::slice::from_ref(&wanted), &other, Moment(4));
    assert!(again.changed && again.plan_calls == 0, "it read nothing that changed");
    assert!(Arc::ptr_eq(&running, &again.policies.tenants.get(&tenant_name("shop")).unwrap().stable));
}

#[test]
fn a_fault_names_the_functions_by_the_components_own_names() {
    let guest = Guest {
        plan: "(call $ask)",
        decide: Some("(call $price_of_cart) (i32.const 0)"),
        more: "(func $price_of_cart (call $\"_ZN4shop4cart5price17h0123456789abcdefE\"))
               (func $\"_ZN4shop4cart5price17h0123456789abcdefE\" (unreachable))",
    };
    let engine = engine();
    let version = engine.load(&guest.component()).unwrap();
    let (log, account) = (log(), Account::unbounded());
    let start = Start { account: &account, config: "{}", log: &log, memo: &[], tier: Tier::Operator };
    let decider = engine.decider(&version, start).unwrap();
    assert_eq!(decider.decide(&call(&[None])), Err(Undecided::Trapped));
    let fault = log.faults().remove(0);
    assert!(fault.text.contains("unreachable") && fault.text.contains("shop::cart::price"), "{fault:?}");
    assert!(fault.frames[0].starts_with("shop::cart::price at 0x"), "{fault:?}");
    assert!(fault.frames[1].starts_with("price_of_cart at 0x"), "{fault:?}");
    for _ in 0..100 {
        decider.decide(&call(&[None])).unwrap_err();
    }
    assert!(log.faults().len() <= defaults::FAULTS_KEPT);
}

#[test]
fn a_flood_of_new_versions_waits_for_its_budget_and_the_neighbours_does_not() {
    let mut slots = Slots::new(engine());
    let facts = Arc::new(facts());
    let mut specs =
        [spec(tenant("flood"), &HELLO.component(), "{}"), spec(tenant("calm"), &HELLO.component(), "{}")];
    let budget = Budget { plan_burst: 5, plans_per_minute: 1, ..defaults::TENANT_BUDGET };
    specs[0].terms.budget = Some(budget);
    let mut plans = 0;
    for number in 0..50 {
        specs[0].config = format!("{{\"number\":{number}}}").into();
        let result = slots.reconcile(&specs, &facts, Moment(1 + number));
        plans += result.plan_calls;
        assert!(plans <= 6 || result.retry_at.is_some());
    }
    assert_eq!(plans, 6, "five of the flood, one of its neighbour");
    specs[1].config = "{\"changed\":true}".into();
    assert_eq!(slots.reconcile(&specs, &facts, Moment(100)).plan_calls, 1);
    let report = slots.reports(Moment(100)).remove(1);
    assert_eq!(report.slot, tenant("flood"));
    assert!(report.budget.unwrap().plans_held > 0);
}
