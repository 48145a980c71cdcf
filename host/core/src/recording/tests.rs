//! A decision that was kept is decided again as it was decided, and what differs is told by its class.

use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::attribute::{Attribute, Attributes, Value};
use crate::decide::{Call, Decide, FailRule, Said, Undecided, ask};
use crate::ids::{Digest, PolicyName};
use crate::lane::Slot;
use crate::plan::exercise::{facts, written};
use crate::plan::{Draft, Limits};
use crate::table::Table;

/// Answers by a hash of all that it is given, and fails sometimes.
#[derive(Debug)]
struct Hash;

impl Decide for Hash {
    fn decide(&self, call: &Call<'_>) -> Result<u32, Undecided> {
        let text = format!("{} {} {} {:?}", call.rule.0, call.now_ms, call.seed, call.values);
        match crate::balance::stable_hash(text.as_bytes()) % 7 {
            0 => Err(Undecided::Trapped),
            number => Ok(u32::try_from(number).unwrap() % call.among),
        }
    }
}

fn policy(table: Table) -> Policy {
    Policy {
        config: "{}".into(),
        facts: facts(),
        name: PolicyName::new("test").unwrap(),
        digest: Digest([1; 32]),
        table,
        decider: Arc::new(Hash),
        on_fail: FailRule::Previous,
    }
}

fn planned(write: impl FnOnce(&mut Draft)) -> Policy {
    let mut draft = Draft::new(facts(), Limits::default());
    write(&mut draft);
    policy(Table::compile(draft.finish().unwrap().0))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_was_kept_is_decided_again_as_it_was(bytes in prop::collection::vec(any::<u8>(), 0..1_500), seed: u64, at_ms: u64) {
        let Some((table, requests)) = written(&bytes, 20) else { return Ok(()) };
        let policy = policy(table);
        for request in &requests {
            let request = &Sound(request, Attributes::client_ip(request).to_string());
            let asked = ask(&policy.table, &*policy.decider, request, seed, at_ms);
            let live = SlotDecision::of(&policy, Slot::Operator, asked.as_ref());
            let picture = Picture::take(request, policy.table.attributes(), at_ms, seed);
            let again = evaluate(&policy, Slot::Operator, &picture);
            prop_assert_eq!(&again, &live);
            prop_assert_eq!(compare(&live, &again), Class::Same);
        }
    }
}

/// A drawn request whose `client.ip` is the text of the client's address, as every gateway has it.
struct Sound<'r, T>(&'r T, String);

impl<T: Attributes> Attributes for Sound<'_, T> {
    fn value(&self, attribute: &Attribute) -> Value<'_> {
        if *attribute == Attribute::ClientIp { Value::Text(&self.1) } else { self.0.value(attribute) }
    }
    fn client_ip(&self) -> IpAddr {
        self.0.client_ip()
    }
}

struct Plain;

impl Attributes for Plain {
    fn value(&self, attribute: &Attribute) -> Value<'_> {
        match attribute {
            Attribute::Path => Value::Text("/shop/1"),
            Attribute::ClientIp => Value::Text("10.0.0.1"),
            Attribute::Header(_) => Value::Text("secret"),
            _ => Value::Absent,
        }
    }
    fn client_ip(&self) -> IpAddr {
        IpAddr::from([10, 0, 0, 1])
    }
}

#[test]
fn a_value_that_was_not_kept_makes_it_not_comparable() {
    let looks = planned(|draft| {
        let answer = draft.forward("eu", "app").unwrap().0;
        let when = crate::plan::ConditionText {
            attribute: "header:x-a".into(),
            test: "present".into(),
            value: String::new(),
        };
        draft.split(&[when], &[(answer, 1)], &[]).unwrap();
    });
    let without = Picture::take(&Plain, [], 0, 0);
    let said = evaluate(&looks, Slot::Operator, &without);
    assert_eq!(said.missing, [Attribute::Header("x-a".into())]);
    assert_eq!(compare(&said, &said), Class::NotComparable, "whatever they say");

    let mut with = Picture::take(&Plain, looks.table.attributes(), 0, 0);
    assert_eq!(evaluate(&looks, Slot::Operator, &with).missing, []);
    with.redact(|attribute, _| matches!(attribute, Attribute::Header(_)).then_some(Held::Hidden(None)));
    assert_eq!(evaluate(&looks, Slot::Operator, &with).missing.len(), 1, "hidden is not there");
    with.redact(|attribute, _| (*attribute == Attribute::ClientIp).then_some(Held::Hidden(None)));
    assert_eq!(with.segment(), "/shop");
}

#[test]
fn differences_are_told_by_their_class() {
    let answer = |status: u16| {
        evaluate(
            &planned(|draft| {
                let answer = draft.respond(status, "", "").unwrap().0;
                draft.split(&[], &[(answer, 1)], &[]).unwrap();
            }),
            Slot::Operator,
            &Picture::take(&Plain, [], 0, 0),
        )
    };
    let (good, other, bad) = (answer(200), answer(201), answer(403));
    assert_eq!(compare(&good, &good), Class::Same);
    assert_eq!(compare(&good, &other), Class::OtherTarget);
    assert_eq!(compare(&good, &bad), Class::AllowToReject);
    assert_eq!(compare(&bad, &good), Class::RejectToAllow);

    let said = |said: Said| SlotDecision { said, ..good.clone() };
    let newer = |said: Said, fuel: u64| SlotDecision { said, fuel, digest: Digest([2; 32]), ..good.clone() };
    let trapped = Said::Undecided(Undecided::Trapped);
    assert_eq!(compare(&said(Said::Index(0)), &newer(trapped, 0)), Class::Error);
    assert_eq!(compare(&said(trapped), &newer(trapped, 0)), Class::Same, "both fail");
    assert_eq!(compare(&said(trapped), &newer(Said::Index(0), 0)), Class::Same, "mended, to the same effect");
    assert_eq!(compare(&said(trapped), &said(Said::Index(0))), Class::OtherTarget, "the same code, impure");
    assert_eq!(compare(&said(Said::Index(0)), &said(Said::Index(1))), Class::OtherTarget, "impure too");
    let busy = Said::Undecided(Undecided::Busy);
    assert_eq!(compare(&said(busy), &said(Said::Index(0))), Class::NotComparable);
    assert_eq!(compare(&good, &newer(Said::Table, 1_000_000)), Class::Slower);
    assert_eq!(
        compare(&good, &SlotDecision { fuel: 1_000_000, ..good.clone() }),
        Class::Same,
        "its own noise"
    );
}

#[test]
fn edits_and_contents_are_part_of_an_answer() {
    let with = |value: &str| {
        let policy = planned(|draft| {
            let answer = draft.forward("eu", "app").unwrap().0;
            draft.set_answer(answer, "header.set:x-b", value).unwrap();
            draft.split(&[], &[(answer, 1)], &[]).unwrap();
        });
        evaluate(&policy, Slot::Operator, &Picture::take(&Plain, [], 0, 0))
    };
    assert_eq!(compare(&with("1"), &with("1")), Class::Same);
    assert_eq!(compare(&with("1"), &with("2")), Class::OtherTarget);
}

#[test]
fn a_report_is_bounded_and_its_parts_add_up() {
    let said = evaluate(
        &planned(|draft| {
            let answer = draft.forward("eu", "app").unwrap().0;
            draft.split(&[], &[(answer, 1)], &[]).unwrap();
        }),
        Slot::Operator,
        &Picture::take(&Plain, [], 0, 0),
    );
    let picture = Picture::take(&Plain, [], 0, 0);
    let part = |numbers: std::ops::Range<u64>| {
        let mut report = Report::default();
        for number in numbers {
            let rule_name = Some(format!("rule-{number}").into());
            let base = SlotDecision { rule_name, ..said.clone() };
            let class = if number % 2 == 0 { Class::Same } else { Class::OtherTarget };
            report.add(DecisionId { at_ms: number, number }, &picture, &base, &said, class);
        }
        report
    };
    let (whole, mut merged) = (part(0..3_000), part(0..1_500));
    merged.merge(part(1_500..3_000));
    assert_eq!(merged.counts, whole.counts);
    assert_eq!(merged.samples, whole.samples);
    assert_eq!(whole.samples[&Class::OtherTarget].len(), SAMPLES_MAX);
    assert!(whole.rules.len() <= 1_001 && merged.rules.len() <= 1_001, "bounded");
    assert_eq!(whole.routes["/shop"], whole.counts);
    assert!(whole.exceeds(499) && !whole.exceeds(500));
    merged.distrust();
    assert!(merged.exceeds(1_000) && merged.counts.same == 0, "nothing follows from it");
}

#[test]
fn an_id_prints_and_reads() {
    let id = DecisionId { at_ms: 1_700_000_000_123, number: 7 };
    assert_eq!(id.to_string(), "018bcfe5687b0000000000000007");
    assert_eq!(id.to_string().parse(), Ok(id));
    for bad in ["", "018bcfe5687b", "é18bcfe5687b000000000000000", &"g".repeat(28)] {
        assert!(bad.parse::<DecisionId>().is_err());
    }
}
