//! What a tenant's policy tries and the pipeline does not do, and what becomes of requests when a policy fails.

use portolan_core::bounds::{Bounds, FieldPattern};

use super::*;

fn when(attribute: &str, test: &str, value: &str) -> ConditionText {
    ConditionText { attribute: attribute.into(), test: test.into(), value: value.into() }
}

fn acme() -> TenantName {
    TenantName::new("acme").unwrap()
}

/// A tenant whose policy was planned before its bounds became as narrow as they are.
fn bounded(topology: &mut Topology) {
    let bounds = Bounds {
        headers: Some(vec![FieldPattern::parse("x-shop-*").unwrap()]),
        regions: Some(BTreeSet::from([region("eu")])),
        ..Bounds::default()
    };
    let tenant = Tenant { bounds: Arc::new(bounds), ..Tenant::default() };
    topology.tenants.known.insert(acme(), tenant);
    topology.tenants.sources.push(Source::PathPrefix { prefix: "/t/".into() });
}

/// One rule for each path: what a hostile policy answers there.
fn hostile(draft: &mut Draft) {
    let answers: Vec<(&str, u32)> = vec![
        ("/region", draft.forward("us", "app").unwrap().0),
        ("/header", draft.forward("eu", "app").unwrap().0),
        ("/back", draft.respond(200, "text/plain", "mine").unwrap().0),
        ("/path", draft.forward("eu", "app").unwrap().0),
        ("/fair", draft.forward("eu", "app").unwrap().0),
    ];
    let at = |path: &str| answers.iter().find(|(name, _)| *name == path).unwrap().1;
    draft.set_answer(at("/header"), "header.set:x-admin", "yes").unwrap();
    draft.set_answer(at("/back"), "response.header.set:set-cookie", "session=stolen").unwrap();
    draft.set_answer(at("/path"), "path.rewrite", "/=>/t/globex/").unwrap();
    draft.set_answer(at("/fair"), "header.set:x-shop-a", "yes").unwrap();
    draft.set_answer(at("/fair"), "path.rewrite", "/fair=>/t/acme/orders").unwrap();
    for (path, answer) in &answers {
        draft.split(&[when("path", "is", path)], &[(*answer, 1)], &[]).unwrap();
        // With something else behind it, that one is given.
        let other = format!("{path}-or");
        let fair = answers.last().unwrap().1;
        draft.split(&[when("path", "is", &other)], &[(*answer, 1)], &[fair]).unwrap();
    }
}

#[tokio::test]
async fn a_tenants_policy_chooses_nothing_outside_of_its_bounds() {
    let (eu, us) = (upstream("eu").await, upstream("us").await);
    let mut topology = topology(&[("eu", &[eu]), ("us", &[us])], Protocol::Http1);
    bounded(&mut topology);
    let tenants = HashMap::from([(acme(), lane(&topology, FailRule::Previous, hostile))]);
    let gateway = start(topology, Policies { operator: None, tenants: Arc::new(tenants) }, |_| {});
    let ask = |path: &'static str| send(gateway.address, empty(get(path).header("x-tenant", "acme")));
    for path in ["/region", "/header", "/back", "/path"] {
        let answer = ask(path).await;
        assert_eq!(answer.status(), 503, "{path}");
        assert_eq!(json(&answer)["type"], "urn:portolan:problem:out-of-bounds", "{path}");
        assert!(field(&answer, "set-cookie").is_none());
    }
    for path in ["/fair", "/region-or", "/header-or", "/back-or", "/path-or"] {
        let seen = json(&ask(path).await);
        assert_eq!((&seen["name"], &seen["fields"]["x-shop-a"]), (&"eu".into(), &"yes".into()), "{path}");
        assert!(seen["fields"].get("x-admin").is_none(), "{path}");
    }
    assert_eq!(json(&ask("/fair").await)["path"], "/t/acme/orders");
}

#[tokio::test]
async fn the_operators_rule_bounds_the_tenants_policy_behind_it() {
    let (eu, us) = (upstream("eu").await, upstream("us").await);
    let topology = topology(&[("eu", &[eu]), ("us", &[us])], Protocol::Http1);
    let operator = lane(&topology, FailRule::Previous, |draft| {
        let next = draft.leave().unwrap().0;
        let rule = draft.split(&[when("path", "prefix", "/safe")], &[(next, 1)], &[]).unwrap().0;
        draft.set_rule(rule, "tenant.regions", "eu").unwrap();
        draft.set_rule(rule, "tenant.headers", "").unwrap();
    });
    let tenants = lane(&topology, FailRule::Previous, |draft| {
        let far = draft.forward("us", "app").unwrap().0;
        let edited = draft.forward("eu", "app").unwrap().0;
        draft.set_answer(edited, "header.set:x-a", "1").unwrap();
        let near = draft.forward("eu", "app").unwrap().0;
        draft.split(&[], &[(far, 1)], &[edited, near]).unwrap();
    });
    let tenants = Arc::new(HashMap::from([(acme(), tenants)]));
    let gateway = start(topology, Policies { operator: Some(operator), tenants }, |_| {});
    let ask = |path: &'static str| send(gateway.address, empty(get(path).header("x-tenant", "acme")));
    assert_eq!(json(&ask("/else").await)["name"], "us");
    let seen = json(&ask("/safe/x").await);
    assert_eq!(seen["name"], "eu");
    assert!(seen["fields"].get("x-a").is_none());
}

#[tokio::test]
async fn a_slots_fail_rule_says_what_becomes_of_requests() {
    let (eu, us) = (upstream("eu").await, upstream("us").await);
    for (on_fail, served) in
        [(FailRule::Previous, Some("us")), (FailRule::Bypass, Some("eu")), (FailRule::Closed, None)]
    {
        let topology = topology(&[("eu", &[eu]), ("us", &[us])], Protocol::Http1);
        let operator = lane(&topology, on_fail, |draft| {
            let far = draft.forward("us", "app").unwrap().0;
            let near = draft.forward("eu", "app").unwrap().0;
            draft.dynamic(&[], &["header:x-choice".into()], &[far, near]).unwrap();
        });
        let policies = Policies { operator: Some(operator), tenants: Arc::default() };
        let gateway = start(topology, policies, |_| {});
        let ask = |choice: &'static str| send(gateway.address, empty(get("/").header("x-choice", choice)));
        assert_eq!(json(&ask("1").await)["name"], "eu", "{on_fail:?}");
        let failed = ask("trap").await;
        match served {
            Some(name) => assert_eq!(json(&failed)["name"], name, "{on_fail:?}"),
            None => {
                assert_eq!(failed.status(), 503);
                assert_eq!(json(&failed)["type"], "urn:portolan:problem:policy-failed");
            }
        }
        let metrics = gateway.handle.metrics().render();
        assert!(metrics.contains("portolan_undecided_total{reason=\"trapped\"} 1"), "{on_fail:?}");
    }
}
