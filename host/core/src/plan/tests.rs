//! What a draft takes and refuses.

use proptest::prelude::*;

use super::exercise::{drive, facts};
use super::*;
use crate::bounds::FieldPattern;

fn draft() -> Draft {
    Draft::new(
        facts(),
        Limits { rules_max: 3, answers_max: 4, conditions_max: 2, shares_max: 3, ..Limits::default() },
    )
}

fn when(attribute: &str, test: &str, value: &str) -> ConditionText {
    ConditionText { attribute: attribute.into(), test: test.into(), value: value.into() }
}

#[test]
fn a_plan_is_what_was_written() {
    let mut draft = draft();
    let local = draft.forward("eu", "app").unwrap();
    let far = draft.forward("us", "app").unwrap();
    draft.set_answer(local.0, "header.set:X-Seen", "yes").unwrap();
    draft.set_answer(far.0, "path.rewrite", "/a=>/b").unwrap();
    let rule = draft.split(&[when("path", "prefix", "/a")], &[(local.0, 9), (far.0, 1)], &[far.0]).unwrap();
    draft.set_rule(rule.0, "name", "shop").unwrap();
    draft.set_rule(rule.0, "timeout-ms", "1500").unwrap();
    draft.set_rule(rule.0, "sticky", "tenant").unwrap();
    draft.memo(b"memo").unwrap();
    let (plan, reads) = draft.finish().unwrap();
    assert_eq!(plan.memo, b"memo");
    assert_eq!(plan.rules[0].exchange.timeout, Some(Duration::from_millis(1500)));
    assert_eq!(plan.rules[0].exchange.sticky, Some(Attribute::Tenant));
    assert_eq!(&*plan.answers[0].edits[0].name, "x-seen");
    assert_eq!(reads.len(), 2, "the pools of both regions are dependencies");
}

/// Every bad call: its code, and that the message says what would be right.
#[test]
fn bad_calls_are_refused_with_their_code() {
    let codes = |call: &dyn Fn(&mut Draft) -> Result<(), Refusal>, code: u32, says: &str| {
        let mut draft = draft();
        draft.forward("eu", "app").unwrap();
        draft.split(&[], &[(0, 1)], &[]).unwrap();
        let refusal = call(&mut draft).unwrap_err();
        assert_eq!(refusal.code, code, "{refusal}");
        assert!(refusal.message.contains(says), "{refusal} does not say {says}");
    };
    let split = |conditions: Vec<ConditionText>| {
        move |draft: &mut Draft| draft.split(&conditions, &[(0, 1)], &[]).map(drop)
    };
    codes(&|d| d.forward("mars", "app").map(drop), code::UNKNOWN, "there are eu, us");
    codes(&|d| d.forward("eu", "web").map(drop), code::UNKNOWN, "it has app");
    codes(&|d| d.respond(199, "", "").map(drop), code::VALUE, "200 to 599");
    codes(&|d| d.respond(204, "", "x").map(drop), code::VALUE, "no content");
    codes(&|d| d.respond(200, "a\r\nb", "x").map(drop), code::VALUE, "control");
    codes(&|d| d.respond(200, "", &"x".repeat(70_000)).map(drop), code::LIMIT, "65536");
    codes(&|d| d.redirect(304, "/x").map(drop), code::VALUE, "301");
    codes(&|d| d.redirect(302, "javascript:x").map(drop), code::VALUE, "http(s)");
    codes(&|d| d.redirect(302, "/{user}").map(drop), code::VALUE, "{host}");
    codes(&|d| d.split(&[], &[(9, 1)], &[]).map(drop), code::UNKNOWN, "answer 9");
    codes(&|d| d.split(&[], &[(0, 0)], &[]).map(drop), code::SENSELESS, "above zero");
    codes(&|d| d.split(&[], &[(0, 1); 4], &[]).map(drop), code::LIMIT, "at most 3");
    codes(&|d| d.dynamic(&[], &[], &[]).map(drop), code::SENSELESS, "at least one");
    codes(&|d| d.dynamic(&[], &["nope".into()], &[0]).map(drop), code::UNSUPPORTED, "nope");
    codes(&split(vec![when("nope", "is", "x")]), code::UNSUPPORTED, "nope");
    codes(&split(vec![when("path", "like", "x")]), code::UNSUPPORTED, "pattern");
    codes(&split(vec![when("path", "cidr", "10.0.0.0/8")]), code::VALUE, "client.ip");
    codes(&split(vec![when("client.ip", "cidr", "10.0.0.0/40")]), code::VALUE, "networks");
    codes(&split(vec![when("path", "pattern", "/a**")]), code::VALUE, "**");
    codes(&split(vec![when("path", "present", "x")]), code::VALUE, "empty");
    codes(&split(vec![when("path", "is", "x"); 3]), code::LIMIT, "2 conditions");
    codes(&|d| d.set_rule(7, "name", "x"), code::UNKNOWN, "rule 7");
    codes(&|d| d.set_rule(0, "colour", "x"), code::UNSUPPORTED, "timeout-ms");
    codes(&|d| d.set_rule(0, "timeout-ms", "0"), code::VALUE, "3600000");
    codes(&|d| d.set_rule(0, "retry", "always"), code::VALUE, "idempotent");
    codes(&|d| d.set_rule(0, "name", "Not A Name"), code::VALUE, "lower-case");
    codes(&|d| d.set_answer(0, "header.set:host", "x"), code::VALUE, "gateway");
    codes(&|d| d.memo(&vec![0; 70_000]), code::LIMIT, "65536");
}

#[test]
fn limits_of_the_whole_hold() {
    let mut draft = Draft::new(facts(), Limits { calls_max: 3, ..Limits::default() });
    assert_eq!((0..10).filter(|_| draft.forward("eu", "app").is_ok()).count(), 3);
    let mut draft = Draft::new(facts(), Limits { text_bytes_max: 100, ..Limits::default() });
    assert!(draft.respond(200, "", &"x".repeat(90)).is_ok());
    assert_eq!(draft.respond(200, "", &"x".repeat(20)).unwrap_err().code, code::LIMIT);
    assert_eq!(Draft::new(facts(), Limits::default()).finish().unwrap_err().code, code::SENSELESS);
}

#[test]
fn redirects_that_lead_back_are_refused() {
    let finish = |conditions: &[ConditionText], location: &str| {
        let mut draft = draft();
        let answer = draft.redirect(302, location).unwrap();
        draft.split(conditions, &[(answer.0, 1)], &[]).unwrap();
        draft.finish().map(drop).map_err(|refusal| refusal.code)
    };
    let loops = Err(code::SENSELESS);
    assert_eq!(finish(&[], "/x"), loops);
    assert_eq!(finish(&[], "https://{host}{path}{query}"), loops);
    assert_eq!(finish(&[when("path", "prefix", "/a")], "/a/b"), loops);
    assert_eq!(finish(&[when("host", "is", "a.com")], "https://a.com/"), loops);
    assert_eq!(finish(&[when("path", "prefix", "/a"), when("header:x", "is", "1")], "/a"), loops);
    assert_eq!(finish(&[when("scheme", "is", "http")], "https://{host}{path}{query}"), Ok(()));
    assert_eq!(finish(&[when("path", "prefix", "/a")], "/b"), Ok(()));
    assert_eq!(finish(&[when("host", "is", "a.com")], "https://www.a.com{path}"), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_calls_keep_the_laws(bytes in prop::collection::vec(any::<u8>(), 0..1_200)) {
        drive(&bytes);
    }

    #[test]
    fn arbitrary_texts_never_panic(a in ".{0,40}", b in ".{0,40}", c in ".{0,40}", number: u32, status: u16) {
        let mut draft = draft();
        drop(draft.forward(&a, &b));
        drop(draft.respond(status, &a, &b));
        drop(draft.redirect(status, &c));
        drop(draft.redirect(302, &c));
        drop(draft.set_answer(number % 4, &a, &b));
        drop(draft.set_answer(number % 4, &format!("header.set:{a}"), &b));
        drop(draft.split(&[when(&a, &b, &c)], &[(number % 4, number)], &[number]));
        drop(draft.split(&[when("path", "pattern", &c)], &[(0, 1)], &[]));
        drop(draft.set_rule(number % 4, &a, &b));
        drop(draft.finish());
    }
}

#[test]
fn a_tenants_draft_keeps_to_its_bounds_and_sets_none() {
    let bounds = Bounds {
        headers: Some(vec![FieldPattern::parse("x-shop-*").unwrap()]),
        kept_headers: std::collections::BTreeSet::from(["x-shop-tenant".into()]),
        pools: Some(std::collections::BTreeSet::new()),
        ..Bounds::default()
    };
    let mut draft = Draft::of_tenant(facts(), Limits::default(), std::sync::Arc::new(bounds));
    let answer = draft.respond(200, "", "").unwrap().0;
    draft.set_answer(answer, "response.header.set:X-Shop-A", "1").unwrap();
    for key in ["header.set:cookie", "response.header.add:set-cookie", "header.remove:x-shop-tenant"] {
        let refusal = draft.set_answer(answer, key, "").unwrap_err();
        assert_eq!(refusal.code, code::FORBIDDEN, "{refusal}");
        assert!(refusal.message.contains("it may edit x-shop-*"), "{refusal}");
    }
    for key in ["header.set:portolan-tenant", "header.set:connection", "header.set:transfer-encoding"] {
        assert_eq!(draft.set_answer(answer, key, "x").unwrap_err().code, code::VALUE, "{key}");
    }
    let rule = draft.split(&[], &[(answer, 1)], &[]).unwrap().0;
    for key in ["tenant.headers", "tenant.pools", "tenant.regions"] {
        assert_eq!(draft.set_rule(rule, key, "a").unwrap_err().code, code::UNSUPPORTED, "{key}");
    }
    // What no call should have let through is found in the whole.
    let forward = draft.forward("eu", "app").unwrap();
    let refusal = draft.finish().unwrap_err();
    let said = format!("answer {} (forward to app in eu) is outside", forward.0);
    assert!(refusal.code == code::FORBIDDEN && refusal.message.contains(&said), "{refusal}");

    let mut operators = self::draft();
    let next = operators.leave().unwrap().0;
    let rule = operators.split(&[], &[(next, 1)], &[]).unwrap().0;
    operators.set_rule(rule, "tenant.regions", "eu\nus").unwrap();
    operators.set_rule(rule, "tenant.headers", "").unwrap();
    assert_eq!(operators.set_rule(rule, "tenant.pools", "A B").unwrap_err().code, code::VALUE);
    let (plan, _) = operators.finish().unwrap();
    let bounds = plan.rules[0].bounds.as_deref().unwrap();
    assert_eq!(bounds.regions.as_ref().map(std::collections::BTreeSet::len), Some(2));
    assert!(bounds.pools.is_none() && !bounds.allows_header("x-a"));
}
