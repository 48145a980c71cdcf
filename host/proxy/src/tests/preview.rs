//! Requests with a signed word are decided by the version that it names, within all that holds for others, and leave no trace in
//! evidence, recordings or caches.

use portolan_core::bounds::Bounds;
use portolan_core::evidence::Trial;
use portolan_core::lane::{Affinity, Candidate, Part as LanePart, Slot};
use portolan_core::preview::{Preview, Previews, Unready};

use super::*;

/// What is there for words, as a test says.
#[derive(Debug, Default)]
pub(super) struct Offered(Mutex<HashMap<Preview, Result<Arc<Policy>, Unready>>>);

impl Previews for Offered {
    fn find(&self, wanted: &Preview) -> Result<Arc<Policy>, Unready> {
        self.0.lock().unwrap().get(wanted).cloned().unwrap_or(Err(Unready::Gone))
    }
}

fn acme() -> TenantName {
    TenantName::new("acme").unwrap()
}

fn wanted(slot: Slot, version: u8) -> Preview {
    Preview { plugin: PolicyName::new("test").unwrap(), slot, version: Digest([version; 32]) }
}

fn word(preview: &Preview, tenant: Option<&str>) -> String {
    SealKey::new([6; 32]).seal_about(crate::PREVIEW_USE, tenant, &preview.to_string(), u64::MAX)
}

/// A policy that says so, but for `/next` and `/far`.
fn saying(topology: &Topology, text: &str) -> Arc<Policy> {
    let lane = lane(topology, FailRule::Previous, |draft| {
        let is =
            |path: &str| ConditionText { attribute: "path".into(), test: "is".into(), value: path.into() };
        let next = draft.leave().unwrap().0;
        let far = draft.forward("us", "app").unwrap().0;
        let says = draft.respond(200, "text/plain", text).unwrap().0;
        draft.set_answer(says, "response.header.set:cache-control", "max-age=3600").unwrap();
        draft.split(&[is("/next")], &[(next, 1)], &[]).unwrap();
        draft.split(&[is("/far")], &[(far, 1)], &[]).unwrap();
        draft.split(&[], &[(says, 1)], &[]).unwrap();
    });
    Arc::clone(&lane.stable)
}

/// A gateway for tenants `acme` and `globex`; a canary is on for all of `acme`, whose bounds are the region `eu`.
async fn gateway(operators: bool) -> (Gateway, Arc<Trial>, Preview) {
    let (eu, us) = (upstream("eu").await, upstream("us").await);
    let mut topology = topology(&[("eu", &[eu]), ("us", &[us])], Protocol::Http1);
    let bounds = Bounds { regions: Some(BTreeSet::from([region("eu")])), ..Bounds::default() };
    let tenant = Tenant { bounds: Arc::new(bounds), ..Tenant::default() };
    topology.tenants.known.insert(acme(), tenant);
    let trial = Arc::new(Trial::default());
    let part = LanePart::Canary { permille: 1_000, affinity: Affinity::Client, salt: 7 };
    let candidate = Candidate { policy: saying(&topology, "candidate"), part, trial: Arc::clone(&trial) };
    let lane_of_acme = Lane { stable: saying(&topology, "stable"), candidate: Some(candidate) };
    let operator = operators.then(|| {
        lane(&topology, FailRule::Previous, |draft| {
            let is = |path: &str| ConditionText {
                attribute: "path".into(),
                test: "is".into(),
                value: path.into(),
            };
            let next = draft.leave().unwrap().0;
            let own = draft.respond(200, "text/plain", "operator").unwrap().0;
            draft.split(&[is("/operator")], &[(own, 1)], &[]).unwrap();
            draft.split(&[], &[(next, 1)], &[]).unwrap();
        })
    });
    let unpublished = saying(&topology, "unpublished");
    let tenants = Arc::new(HashMap::from([(acme(), Arc::new(lane_of_acme))]));
    let gateway = start(topology, Policies { operator, tenants }, |_| {});
    let wanted = wanted(Slot::Tenant(acme()), 9);
    gateway.offered.0.lock().unwrap().insert(wanted.clone(), Ok(unpublished));
    (gateway, trial, wanted)
}

async fn ask(gateway: &Gateway, tenant: &str, path: &str, words: &[&str]) -> Response<Bytes> {
    let request = words.iter().fold(get(path).header("x-tenant", tenant), |request, word| {
        request.header("portolan-preview", *word)
    });
    send(gateway.address, empty(request)).await
}

#[tokio::test]
async fn a_signed_word_has_its_version_decide_and_leaves_no_trace() {
    for operators in [false, true] {
        let (gateway, trial, wanted) = gateway(operators).await;
        let usual = ask(&gateway, "acme", "/", &[]).await;
        assert_eq!(
            (&usual.body()[..], field(&usual, "cache-control")),
            (&b"candidate"[..], Some("max-age=3600"))
        );
        assert!(!usual.headers().contains_key("portolan-preview"));
        let counted = (trial.read(), gateway.again.decisions.load(Ordering::Relaxed));
        assert_eq!(counted.0.candidate.decisions, 1);

        let word = word(&wanted, Some("acme"));
        let answer = ask(&gateway, "acme", "/", &[&word]).await;
        assert_eq!(&answer.body()[..], b"unpublished");
        let told = format!("test@{}; slot=tenant.acme; answered", wanted.version);
        assert_eq!(field(&answer, "portolan-preview"), Some(told.as_str()));
        assert_eq!(field(&answer, "cache-control"), Some("private, no-store"));
        // Where it has nothing to say, others answer, and no upstream sees the word.
        let passed = ask(&gateway, "acme", "/next", &[&word]).await;
        assert!(field(&passed, "portolan-preview").unwrap().ends_with("; passed"), "{passed:?}");
        let seen = json(&passed);
        assert_eq!(seen["name"], "eu");
        assert!(seen["fields"].get("portolan-preview").is_none(), "{seen}");
        // What holds for the slot holds for it.
        let outside = ask(&gateway, "acme", "/far", &[&word]).await;
        assert_eq!(
            (outside.status().as_u16(), &json(&outside)["type"]),
            (503, &"urn:portolan:problem:out-of-bounds".into())
        );
        if operators {
            let earlier = ask(&gateway, "acme", "/operator", &[&word]).await;
            assert_eq!(&earlier.body()[..], b"operator");
            assert!(field(&earlier, "portolan-preview").unwrap().ends_with("; not-asked"));
        }
        assert_eq!((trial.read(), gateway.again.decisions.load(Ordering::Relaxed)), counted);
    }
}

#[tokio::test]
async fn a_word_that_does_not_hold_is_refused_and_says_why() {
    let (gateway, trial, wanted) = gateway(false).await;
    let good = word(&wanted, Some("acme"));
    let key = SealKey::new([6; 32]);
    let about = wanted.to_string();
    let expired = key.seal_about(crate::PREVIEW_USE, Some("acme"), &about, 1);
    let of_debug = key.seal_about(crate::DEBUG_USE, Some("acme"), &about, u64::MAX);
    let foreign = SealKey::new([7; 32]).seal_about(crate::PREVIEW_USE, Some("acme"), &about, u64::MAX);
    let changed = good.replace("/test@", "/best@");
    let unknown = word(&self::wanted(Slot::Tenant(acme()), 8), Some("acme"));
    let cases: [(&str, Vec<&str>, &str); 9] = [
        ("acme", vec!["nonsense"], "was not signed by this gateway"),
        ("acme", vec![&expired], "has expired"),
        ("acme", vec![&of_debug], "was not signed"),
        ("acme", vec![&foreign], "was not signed"),
        ("acme", vec![&changed], "was not signed"),
        ("acme", vec![&good, &good], "there are several"),
        ("globex", vec![&good], "another tenant"),
        ("stranger", vec![&good], "another tenant"),
        ("acme", vec![&unknown], "may not run its version"),
    ];
    for (tenant, words, why) in cases {
        let answer = ask(&gateway, tenant, "/", &words).await;
        let problem = json(&answer);
        assert_eq!(
            (answer.status().as_u16(), &problem["type"]),
            (403, &"urn:portolan:problem:preview-refused".into()),
            "{words:?}"
        );
        assert!(problem["title"].as_str().unwrap().contains(why), "{problem}");
        assert!(!answer.headers().contains_key("portolan-preview"));
    }
    let set = |found| gateway.offered.0.lock().unwrap().insert(wanted.clone(), Err(found));
    set(Unready::Refused);
    assert_eq!(ask(&gateway, "acme", "/", &[&good]).await.status(), 403);
    set(Unready::Soon);
    let soon = ask(&gateway, "acme", "/", &[&good]).await;
    assert_eq!((soon.status().as_u16(), field(&soon, "retry-after")), (503, Some("1")));
    assert_eq!(trial.read().candidate.decisions, 0, "none of them was decided");
}

#[tokio::test]
async fn a_word_for_the_operators_slot_decides_for_everybody_or_for_one_tenant() {
    let (gateway, _, of_acme) = gateway(true).await;
    let wanted = wanted(Slot::Operator, 9);
    let found = gateway.offered.find(&of_acme);
    gateway.offered.0.lock().unwrap().insert(wanted.clone(), found);
    for (bound, tenant, good) in [
        (None, "acme", true),
        (None, "globex", true),
        (Some("acme"), "acme", true),
        (Some("acme"), "globex", false),
    ] {
        let answer = ask(&gateway, tenant, "/operator", &[&word(&wanted, bound)]).await;
        assert_eq!(answer.status() == 200, good, "{bound:?} {tenant}");
        assert_eq!(answer.body() == "unpublished", good);
    }
}
