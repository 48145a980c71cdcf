//! A canary in the data plane: tenants keep their sides, and a candidate that fails costs nobody a request.

use portolan_core::decide::FailRule;
use portolan_core::evidence::Trial;
use portolan_core::lane::{Affinity, Candidate, Part};

use super::*;

/// A lane with a candidate of another version, for a part of the tenants.
fn lane(topology: &Topology, part: Part, trial: &Arc<Trial>, write: impl Fn(&mut Draft)) -> Policies {
    let policy = |digest| {
        let facts = Arc::new(topology.facts(0));
        let mut draft = Draft::new(Arc::clone(&facts), PlanLimits::default());
        write(&mut draft);
        Arc::new(Policy {
            config: "{}".into(),
            facts,
            name: PolicyName::new("test").unwrap(),
            digest: Digest([digest; 32]),
            table: Table::compile(draft.finish().unwrap().0),
            decider: Arc::new(Script),
            on_fail: FailRule::Previous,
        })
    };
    let candidate = Candidate { policy: policy(2), part, trial: Arc::clone(trial) };
    let lane = Lane { stable: policy(1), candidate: Some(candidate) };
    Policies { operator: Some(Arc::new(lane)), tenants: Arc::default() }
}

fn canary(permille: u32) -> Part {
    Part::Canary { permille, affinity: Affinity::Client, salt: 7 }
}

/// Asks the policy by `x-choice`; anything but one of its answers fails it.
fn asking(draft: &mut Draft) {
    let here = draft.respond(200, "text/plain", "here").unwrap().0;
    draft.dynamic(&[], &["header:x-choice".into()], &[here, here]).unwrap();
}

#[tokio::test]
async fn a_candidate_that_fails_is_replaced_by_the_stable_policy_and_counted() {
    let topology = topology(&[("eu", &[])], Protocol::Http1);
    let trial = Arc::new(Trial::default());
    let policies = lane(&topology, canary(1_000), &trial, asking);
    let gateway = start(topology, policies, |_| {});
    let ask = |choice: &'static [u8]| send(gateway.address, empty(get("/").header("x-choice", choice)));

    let good = ask(b"1").await;
    assert_eq!(good.status(), 200);
    assert_eq!(field(&good, "portolan-policy-side"), Some("candidate"));
    assert_eq!(field(&good, "portolan-policy-version"), Some("020202020202"));

    // Both have the same script, so both fail, and the stable policy's first answer serves.
    for bad in [&b"trap"[..], b"out of range"] {
        let answer = ask(bad).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(field(&answer, "portolan-policy-side"), Some("stable"));
    }
    let evidence = trial.read();
    assert_eq!((evidence.candidate.decisions, evidence.candidate.failed()), (3, 2));
    assert_eq!((evidence.candidate.traps, evidence.candidate.out_of_range), (1, 1));
    assert_eq!((evidence.stable.decisions, evidence.stable.failed()), (2, 2));

    // What no policy of the slot can read is the client's fault; it counts against the candidate too.
    assert_eq!(ask(b"\xff").await.status(), 400);
    assert_eq!(trial.read().candidate.unreadable, 1);

    // A verdict takes effect at once, whatever the snapshot says.
    trial.stop();
    assert_eq!(field(&ask(b"1").await, "portolan-policy-side"), Some("stable"));
    assert_eq!(trial.read().candidate.decisions, 4);
}

#[tokio::test]
async fn explaining_shows_the_side_and_is_no_evidence() {
    let topology = topology(&[("eu", &[])], Protocol::Http1);
    let trial = Arc::new(Trial::default());
    let policies = lane(&topology, canary(1_000), &trial, asking);
    let snapshot = Snapshot { generation: Generation(1), topology: Arc::new(topology), policies };
    let explain = |choice: &'static str| {
        let mut headers = http::HeaderMap::new();
        headers.insert("x-choice", choice.parse().unwrap());
        let question = crate::Question {
            method: http::Method::GET,
            uri: "http://shop.example.com/".parse().unwrap(),
            headers,
            client: "127.0.0.1".parse().unwrap(),
            tenant: None,
            near: None,
        };
        serde_json::to_value(crate::Explanation::of(&snapshot, &Trust::default(), question).unwrap()).unwrap()
    };
    let good = explain("1");
    assert_eq!(
        (&good["policies"][0]["side"], &good["spared"]),
        (&"candidate".into(), &serde_json::Value::Null)
    );
    let bad = explain("trap");
    assert_eq!(bad["policies"][0]["side"], "stable");
    assert!(bad["spared"].as_str().unwrap().contains("trapped"), "{bad}");
    assert_eq!(trial.read(), Trial::default().read());
}

#[tokio::test]
async fn a_shadow_answers_nobody_and_its_stable_policy_is_counted_by_table_too() {
    let topology = topology(&[("eu", &[])], Protocol::Http1);
    let trial = Arc::new(Trial::default());
    let policies = lane(&topology, Part::Shadow, &trial, |draft| {
        let here = draft.respond(200, "text/plain", "here").unwrap().0;
        draft.split(&[], &[(here, 1)], &[]).unwrap();
    });
    let gateway = start(topology, policies, |_| {});
    for _ in 0..5 {
        let answer = send(gateway.address, empty(get("/"))).await;
        assert_eq!(field(&answer, "portolan-policy-side"), Some("stable"));
    }
    let evidence = trial.read();
    assert_eq!((evidence.stable.decisions, evidence.candidate.decisions), (5, 0));
    assert!(evidence.stable.latency.quantile_ns(990).is_some());
}
