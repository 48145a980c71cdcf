//! The compiled table against the plain meaning of its plan, and the shares that it draws.

use std::collections::HashMap;
use std::net::IpAddr;

use super::*;
use crate::attribute::{Attribute, Value};
use crate::plan::exercise::facts;
use crate::plan::{ConditionText, Draft, Limits};

#[derive(Default)]
struct Request(HashMap<&'static str, String>);

impl Request {
    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.0.insert(name, value.to_owned());
        self
    }
}

impl Attributes for Request {
    fn value(&self, attribute: &Attribute) -> Value<'_> {
        self.0.get(attribute.to_string().as_str()).map_or(Value::Absent, |text| Value::Text(text))
    }
    fn client_ip(&self) -> IpAddr {
        IpAddr::from([10, 0, 0, 1])
    }
}

fn when(attribute: &str, test: &str, value: &str) -> ConditionText {
    ConditionText { attribute: attribute.into(), test: test.into(), value: value.into() }
}

fn three_way(weights: [u32; 3], sticky: bool) -> Table {
    let mut draft = Draft::new(facts(), Limits::default());
    let to = weights.map(|weight| (draft.forward("eu", "app").unwrap().0, weight));
    let rule = draft.split(&[], &to, &[]).unwrap();
    if sticky {
        draft.set_rule(rule.0, "sticky", "tenant").unwrap();
    }
    Table::compile(draft.finish().unwrap().0)
}

#[test]
fn thousands_of_rules_by_tenant_host_and_path_keep_their_order() {
    let mut draft = Draft::new(facts(), Limits::default());
    let answer = draft.forward("eu", "app").unwrap().0;
    let mut add = |conditions: &[ConditionText]| draft.split(conditions, &[(answer, 1)], &[]).unwrap();
    let first = add(&[when("header:x-first", "present", "")]);
    let tenants: Vec<_> = (0..2_000).map(|n| add(&[when("tenant", "is", &format!("t{n}"))])).collect();
    let path = add(&[when("path", "prefix", "/shop")]);
    let hosts: Vec<_> = (0..2_000).map(|n| add(&[when("host", "any", &format!("h{n}\nother{n}"))])).collect();
    let last = add(&[]);
    let table = Table::compile(draft.finish().unwrap().0);
    let base = || Request::default().with("path", "/x").with("host", "a").with("tenant", "b");
    for (request, expected) in [
        (base(), last),
        (base().with("tenant", "t77"), tenants[77]),
        (base().with("host", "other5"), hosts[5]),
        (base().with("host", "h5").with("path", "/shop/x"), path),
        (base().with("host", "h5").with("tenant", "t5").with("path", "/shop"), tenants[5]),
        (base().with("tenant", "t5").with("header:x-first", ""), first),
    ] {
        assert_eq!(table.find(&request), Some(expected));
        assert_eq!(naive::find(table.plan(), &request), Some(expected));
    }
}

#[test]
fn shares_are_drawn_by_weight_and_the_second_choice_too() {
    let table = three_way([6, 3, 1], false);
    let mut firsts = [0_u32; 3];
    let mut seconds_after_first = [0_u32; 3];
    for seed in 0..20_000 {
        let order = table.candidates(RuleId(0), &Request::default(), seed);
        assert_eq!(order.len(), 3);
        firsts[order[0].0 as usize] += 1;
        if order[0].0 == 0 {
            seconds_after_first[order[1].0 as usize] += 1;
        }
    }
    let near = |count: u32, share: f64, of: u32| (f64::from(count) / f64::from(of) - share).abs() < 0.02;
    assert!(near(firsts[0], 0.6, 20_000) && near(firsts[1], 0.3, 20_000), "{firsts:?}");
    assert!(near(seconds_after_first[1], 0.75, firsts[0]), "{seconds_after_first:?}");
}

#[test]
fn sticky_shares_keep_their_weights_and_move_only_what_must() {
    let all = three_way([6, 3, 1], true);
    let less = three_way([6, 0, 1], true);
    let mut firsts = [0_u32; 3];
    for number in 0..20_000 {
        let request = Request::default().with("tenant", &format!("tenant-{number}"));
        let order = all.candidates(RuleId(0), &request, number);
        assert_eq!(order, all.candidates(RuleId(0), &request, !number), "the seed plays no part");
        firsts[order[0].0 as usize] += 1;
        let moved = less.candidates(RuleId(0), &request, number);
        if order[0].0 != 1 {
            assert_eq!(order[0], moved[0], "only the share that left loses its own");
        }
        assert_eq!(moved.last().map(|answer| answer.0), Some(1), "weight zero comes last");
    }
    let near = |count: u32, share: f64| (f64::from(count) / 20_000.0 - share).abs() < 0.02;
    assert!(near(firsts[0], 0.6) && near(firsts[1], 0.3), "{firsts:?}");
}

#[test]
fn a_sticky_rule_without_the_value_draws_freely() {
    let table = three_way([1, 1, 1], true);
    let first = |seed| table.candidates(RuleId(0), &Request::default(), seed)[0];
    assert!((0..100).any(|seed| first(seed) != first(0)));
}

#[test]
fn explain_tells_why_rules_did_not_match() {
    let mut draft = Draft::new(facts(), Limits::default());
    let answer = draft.forward("eu", "app").unwrap().0;
    draft.split(&[when("tenant", "is", "acme"), when("path", "prefix", "/a")], &[(answer, 1)], &[]).unwrap();
    draft.split(&[], &[(answer, 1)], &[]).unwrap();
    draft.split(&[], &[(answer, 1)], &[]).unwrap();
    let table = Table::compile(draft.finish().unwrap().0);
    let verdicts = table.explain(&Request::default().with("tenant", "acme").with("path", "/b"));
    assert_eq!(verdicts.len(), 2);
    assert_eq!(
        verdicts[0].conditions,
        [("tenant is acme".to_owned(), true), ("path begins with /a".to_owned(), false)]
    );
}
