//! Shares between two tenants: on one shard of one node, and on two shards of two regions.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::{borrow, tend};
use super::*;

/// What acme offers globex, with some members changed.
fn offer(changes: Value) -> Vec<u8> {
    let mut offer = json!({
        "source_site": "docs", "target_tenant": "globex", "scope": "all", "mode": "mirror", "direction": "both",
    });
    offer.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    offer.to_string().into_bytes()
}

impl Set {
    /// Offers a share of acme's, and gives its path.
    async fn offered(&self, changes: Value) -> String {
        let (status, share) = self.ask("POST", "/shares", offer(changes)).await;
        assert_eq!(status, 201, "{share}");
        format!("/shares/{}", share["share"].as_str().unwrap())
    }

    /// The same, which globex has accepted into its site `partner`.
    async fn accepted(&self, changes: Value) -> String {
        let share = self.offered(changes).await;
        let (status, told) = self.globex("POST", &format!("{share}/accept?from=acme&site=partner")).await;
        assert_eq!((status, &told["status"]), (200, &json!("accepted")), "{told}");
        share
    }

    async fn globex(&self, method: &str, path: &str) -> (u16, Value) {
        self.ask_as("globex", method, path, Vec::new()).await
    }

    async fn read(&self, path: &str) -> (u16, Vec<u8>) {
        let (response, content) =
            self.send("globex", Request::get(format!("{CONTENT_PATH}{path}")), Vec::new()).await;
        (response.status().as_u16(), content)
    }
}

#[tokio::test]
async fn what_a_tenant_offers_the_other_accepts_has_and_loses() {
    let set = set_up().await;
    let (small, large) = (b"a small one".to_vec(), noise(1, 5_000_000));
    set.put("/items/docs/small", "text/plain", small.clone()).await;
    set.put("/items/docs/large", "image/png", large.clone()).await;
    set.put("/items/own/secret", "text/plain", b"not shared".to_vec()).await;
    let share = set.offered(json!({})).await;
    // One party is not enough, whichever it is.
    assert_eq!(set.ask("POST", &format!("{share}/accept"), Vec::new()).await.0, 409);
    assert_eq!(set.globex("POST", &format!("{share}/sync")).await.0, 404);
    let accept = format!("{share}/accept?from=acme&site=partner");
    let (status, told) = set.globex("POST", &accept).await;
    assert_eq!(
        (status, &told["source_tenant"], &told["target_site"]),
        (200, &json!("acme"), &json!("partner"))
    );
    assert_eq!(set.globex("POST", &accept).await.0, 200, "accepted twice it is accepted once");
    assert_eq!(set.ask("GET", &share, Vec::new()).await.1["status"], "accepted");
    assert_eq!(set.globex("GET", &format!("{share}/preview")).await.1["items"], 2);
    let (_, ran) = set.globex("POST", &format!("{share}/sync")).await;
    assert_eq!(ran["written"], 2, "{ran}");
    for (name, bytes) in [("small", &small), ("large", &large)] {
        assert_eq!(set.read(&format!("/items/partner/{name}")).await, (200, bytes.clone()), "{name}");
    }
    assert_eq!(set.globex("POST", &format!("{share}/sync")).await.1["unchanged"], 2);
    assert_eq!(set.read("/items/docs/small").await.0, 404, "under its own names alone");

    // No name of one tenant's bytes is known to the other, and none of its packs.
    let root = |told: Value| told["items"][0]["root"].as_str().unwrap().to_owned();
    let (theirs, ours) = (
        root(set.ask("GET", "/items/docs", Vec::new()).await.1),
        root(set.globex("GET", "/items/partner").await.1),
    );
    assert_ne!(theirs, ours);
    assert_eq!(set.read(&format!("/c/{theirs}")).await.0, 404);
    assert_eq!(set.read(&format!("/c/{ours}")).await.0, 200);

    // What mirrors is not the target's to write.
    assert_eq!(set.globex("PUT", "/items/partner/small").await.0, 403);
    assert_eq!(set.globex("DELETE", "/items/partner/small").await.0, 403);
    // The target follows changes, and what is gone goes there, too.
    set.put("/items/docs/small", "text/plain", b"changed".to_vec()).await;
    set.ask("DELETE", "/items/docs/large", Vec::new()).await;
    let (_, ran) = set.globex("POST", &format!("{share}/sync")).await;
    assert_eq!((&ran["written"], &ran["deleted"]), (&json!(1), &json!(1)), "{ran}");
    assert_eq!(set.read("/items/partner/small").await, (200, b"changed".to_vec()));
    assert_eq!(set.read("/items/partner/large").await.0, 404);

    // The source's row decides at once.
    set.ask("POST", &format!("{share}/suspend"), Vec::new()).await;
    assert_eq!(set.read("/items/partner/small").await.0, 403);
    assert_eq!(set.globex("POST", &accept).await.1["status"], "accepted", "its own word");
    assert_eq!(set.read("/items/partner/small").await.0, 403, "which is not the source's");
    assert_eq!(set.globex("POST", &format!("{share}/sync")).await.0, 403);
    set.ask("POST", &format!("{share}/accept"), Vec::new()).await;
    assert_eq!(set.read("/items/partner/small").await.0, 200);
    assert_eq!(set.ask("POST", &format!("{share}/revoke"), Vec::new()).await.1["status"], "revoked");
    assert_eq!(set.read("/items/partner/small").await.0, 404);
    assert_eq!(set.read(&format!("/c/{ours}")).await.0, 404);
    assert_eq!(set.globex("GET", &share).await.1["status"], "revoked");
    assert_eq!(set.globex("POST", &accept).await.0, 409);
    let desk = set.desk("globex");
    let mut content = desk.look().await.unwrap();
    let item = content.item("partner", "small").await.unwrap().unwrap();
    assert_eq!(content.parts_of(&item.item).await.unwrap(), Vec::new(), "nothing opens it any more");
    content.end().await.unwrap();
    assert_eq!(set.get("/items/docs/small").await, b"changed", "its source stays");
    // Both have in their logs what was decided.
    for tenant in ["acme", "globex"] {
        let (_, log) = set.ask_as(tenant, "GET", "/changes?since=0", Vec::new()).await;
        let decided = log["changes"].as_array().unwrap().iter().filter(|change| change["kind"] == "share");
        let decided: Vec<&str> = decided.map(|change| change["detail"].as_str().unwrap()).collect();
        assert_eq!(decided.last(), Some(&"revoked"), "{tenant}");
        assert!(decided.contains(&"accepted"), "{tenant}");
    }
    // It may be shared again, and comes again.
    let share = set.accepted(json!({})).await;
    assert_eq!(set.globex("POST", &format!("{share}/sync")).await.1["written"], 1);
    assert_eq!(set.read("/items/partner/small").await, (200, b"changed".to_vec()));
    // The target may end it as well, and its source hears that.
    assert_eq!(set.globex("POST", &format!("{share}/revoke")).await.1["status"], "revoked");
    assert_eq!(set.ask("GET", &share, Vec::new()).await.1["status"], "revoked");
    assert_eq!(set.read("/items/partner/small").await.0, 404);
}

#[tokio::test]
async fn who_is_not_meant_learns_nothing() {
    let set = set_up().await;
    set.put("/items/docs/a", "text/plain", b"a".to_vec()).await;
    set.put("/items/docs/b", "text/plain", b"b".to_vec()).await;
    let share = set.offered(json!({ "scope": "item", "scope_ref": "a" })).await;
    let own = json!({ "source_site": "docs", "target_site": "help", "scope": "all", "mode": "mirror", "direction": "both" });
    let (_, own) = set.ask("POST", "/shares", own.to_string().into_bytes()).await;
    let own = format!("/shares/{}", own["share"].as_str().unwrap());
    let nothing =
        set.globex("POST", "/shares/00112233445566778899aabbccddeeff/accept?from=acme&site=s").await;
    assert_eq!(nothing.0, 404);
    // Somebody else's offer, a share within the tenant, a tenant without anything: all as if nothing were there.
    for (tenant, path) in [
        ("evil", format!("{share}/accept?from=acme&site=s")),
        ("globex", format!("{own}/accept?from=acme&site=s")),
        ("globex", format!("{share}/accept?from=nobody&site=s")),
        ("globex", format!("{share}/accept?from=evil&site=s")),
    ] {
        assert_eq!(set.ask_as(tenant, "POST", &path, Vec::new()).await, nothing, "{tenant} {path}");
    }
    for what in ["", "/preview", "/sync"] {
        assert_eq!(set.ask_as("evil", "GET", &format!("{share}{what}"), Vec::new()).await.0, 404, "{what}");
    }
    // An offer says nothing about whom it is for.
    for tenant in ["globex", "nobody"] {
        let (status, told) = set.ask("POST", "/shares", offer(json!({ "target_tenant": tenant }))).await;
        assert_eq!((status, &told["status"]), (201, &json!("offered")), "{tenant}");
    }
    // Whoever asks the source itself gets what is shared, and of that the shown version alone.
    assert_eq!(set.globex("POST", &format!("{share}/accept?from=acme&site=s")).await.0, 200);
    let (_, old) = set.ask("GET", "/items/docs/a/versions", Vec::new()).await;
    let old = old["versions"][0]["version"].as_str().unwrap().to_owned();
    set.put("/items/docs/a", "text/plain", b"newer".to_vec()).await;
    let (shard, id) = (ShardName::new("s1").unwrap(), share.trim_start_matches("/shares/").to_owned());
    let name = |name: &str| TenantName::new(name).unwrap();
    let told = async |target: &str, from: &str, wish: crate::wire::Wish| {
        let lent = crate::wire::Lent {
            shard: shard.clone(),
            source: name("acme"),
            target: name(target),
            share: id.clone(),
        };
        let question = Question::Lent { lent, wish }.bytes().unwrap();
        let answer = set.service.tell(&RegionName::new(from).unwrap(), &question).await.unwrap();
        Answer::read(&answer).unwrap()
    };
    let bytes = |name: &str, version: &str| crate::wire::Wish::Bytes {
        name: name.to_owned(),
        version: version.to_owned(),
        at: 0,
    };
    let gone = told("globex", "here", bytes("none", "v")).await;
    assert!(matches!(gone, Answer::Refused(crate::wire::Refused::Gone(_))), "{gone:?}");
    let (_, b) = set.ask("GET", "/items/docs/b/versions", Vec::new()).await;
    let b = b["versions"][0]["version"].as_str().unwrap();
    assert_eq!(told("globex", "here", bytes("a", &old)).await, gone, "an older version");
    assert_eq!(told("globex", "here", bytes("b", b)).await, gone, "beside the share");
    let stranger = told("evil", "here", crate::wire::Wish::Word).await;
    assert!(matches!(stranger, Answer::Refused(crate::wire::Refused::Gone(_))), "{stranger:?}");
    let elsewhere = told("globex", "there", crate::wire::Wish::Word).await;
    assert!(matches!(elsewhere, Answer::Refused(crate::wire::Refused::Forbidden(_))), "{elsewhere:?}");
    let Answer::Items { items, next } =
        told("globex", "here", crate::wire::Wish::Items { after: vec![] }).await
    else {
        panic!("no items")
    };
    let names: Vec<&str> = items.iter().map(|item| item.name.as_str()).collect();
    assert_eq!((names, next), (vec!["a"], None));
    let desk = set.desk("acme");
    let mut content = desk.look().await.unwrap();
    let real = content.item("docs", "a").await.unwrap().unwrap();
    content.end().await.unwrap();
    assert_ne!(items[0].item.to_string(), real.item, "it has another name for each share");
}

#[tokio::test]
async fn residency_and_regions_stop_a_share_between_tenants() {
    let set = set_up().await;
    set.put("/items/docs/a", "text/plain", b"a".to_vec()).await;
    // The target's shard is kept where the source's content may not be.
    let share = set.offered(json!({ "target_tenant": "afar" })).await;
    let accept = |share: &str| format!("{share}/accept?from=acme&site=partner");
    let (status, told) = set.ask_as("afar", "POST", &accept(&share), Vec::new()).await;
    assert_eq!(status, 403, "{told}");
    assert!(told["detail"].as_str().unwrap().contains("residency"), "{told}");
    assert_eq!(set.ask("GET", &share, Vec::new()).await.1["status"], "offered");
    for (number, (changes, status)) in [
        (json!({ "denied_regions": ["near"] }), 403),
        (json!({ "allowed_regions": ["here"] }), 403),
        (json!({ "allowed_regions": ["here", "near"], "denied_regions": ["here"] }), 403),
        (json!({ "expires_ms": 1 }), 404),
        (json!({ "allowed_regions": ["here", "near"] }), 200),
    ]
    .into_iter()
    .enumerate()
    {
        let mut changes = changes;
        changes["source_site"] = json!(format!("site{number}"));
        let share = set.offered(changes.clone()).await;
        assert_eq!(set.globex("POST", &accept(&share)).await.0, status, "{changes}");
    }
    // It ends by itself, and what came of it goes.
    let soon = clock::unix_ms() + 1_500;
    let share = set.accepted(json!({ "expires_ms": soon })).await;
    assert_eq!(set.globex("POST", &format!("{share}/sync")).await.1["written"], 1);
    assert_eq!(set.read("/items/partner/a").await.0, 200);
    while clock::unix_ms() < soon {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(set.read("/items/partner/a").await.0, 403);
    borrow::tend(&set.desk("globex"), share.trim_start_matches("/shares/"), false).await.unwrap();
    assert_eq!(set.read("/items/partner/a").await.0, 404);
}

#[tokio::test]
async fn modes_permissions_and_directions_between_tenants_hold() {
    let set = set_up().await;
    let text = |lines: [&str; 3]| lines.map(|line| format!("{line}\n")).concat().into_bytes();
    set.put("/items/docs/a", "text/plain", text(["a", "b", "c"])).await;
    for bad in [
        json!({ "mode": "copy_once" }),
        json!({ "mode": "fork_follow" }),
        json!({ "target_site": "partner" }),
        json!({ "target_tenant": "acme" }),
    ] {
        assert_eq!(set.ask("POST", "/shares", offer(bad.clone())).await.0, 400, "{bad}");
    }
    let share = set.accepted(json!({ "mode": "fork_follow", "can_export": true, "direction": "pull" })).await;
    assert_eq!(set.ask("POST", &format!("{share}/sync"), Vec::new()).await.0, 403, "the target pulls");
    assert_eq!(set.globex("POST", &format!("{share}/sync")).await.1["written"], 1);
    let own = Request::put(format!("{CONTENT_PATH}/items/partner/a")).header(CONTENT_TYPE, "text/plain");
    assert_eq!(set.send("globex", own, text(["A", "b", "c"])).await.0.status(), 200);
    set.put("/items/docs/a", "text/plain", text(["a", "b", "C"])).await;
    set.globex("POST", &format!("{share}/sync")).await;
    assert_eq!(set.read("/items/partner/a").await, (200, text(["A", "b", "C"])), "both edits");
    // A third tenant gets none of it, unless the first says so.
    let on = json!({
        "source_site": "partner", "target_tenant": "third", "scope": "all", "mode": "mirror", "direction": "both",
    });
    let (_, on) = set.ask_as("globex", "POST", "/shares", on.to_string().into_bytes()).await;
    let on = format!("/shares/{}", on["share"].as_str().unwrap());
    let accept = format!("{on}/accept?from=globex&site=third");
    assert_eq!(set.ask_as("third", "POST", &accept, Vec::new()).await.0, 200);
    assert_eq!(set.ask_as("third", "POST", &format!("{on}/sync"), Vec::new()).await.1["written"], 0);
    // A fork stays with the target.
    set.ask("POST", &format!("{share}/revoke"), Vec::new()).await;
    assert_eq!(set.read("/items/partner/a").await.0, 200);

    let share = set
        .accepted(json!({ "scope": "item", "scope_ref": "b", "direction": "push", "can_update": true }))
        .await;
    set.put("/items/docs/b", "text/plain", b"b".to_vec()).await;
    assert_eq!(set.globex("POST", &format!("{share}/sync")).await.0, 403, "the source pushes");
    let (status, told) = set.ask("POST", &format!("{share}/sync"), Vec::new()).await;
    assert_eq!(
        (status, told.as_object().unwrap().len()),
        (200, 1),
        "and is told nothing of the target: {told}"
    );
    assert_eq!(set.read("/items/partner/b").await, (200, b"b".to_vec()));
    let own = Request::put(format!("{CONTENT_PATH}/items/partner/b")).header(CONTENT_TYPE, "text/plain");
    assert_eq!(set.send("globex", own, b"own".to_vec()).await.0.status(), 200, "it may be written");
}

#[tokio::test]
async fn a_mask_hides_members_of_json_from_the_other_tenant() {
    let set = set_up().await;
    let content = br#"{"title":"one","cost":"hidden-word","note":{"cost":1}}"#.to_vec();
    set.put("/items/docs/a", "application/json", content).await;
    set.put("/items/docs/text", "text/plain", b"hidden-word".to_vec()).await;
    set.put("/items/docs/list", "application/json", br#"["hidden-word"]"#.to_vec()).await;
    let share = set.accepted(json!({ "field_mask": ["cost"] })).await;
    assert_eq!(set.globex("GET", &format!("{share}/preview")).await.1["bytes"], 0, "sizes are hidden, too");
    let (_, ran) = set.globex("POST", &format!("{share}/sync")).await;
    assert_eq!((&ran["written"], &ran["refused"]), (&json!(1), &json!(1)), "{ran}");
    assert_eq!(set.read("/items/partner/a").await.1, br#"{"note":{"cost":1},"title":"one"}"#);
    for name in ["text", "list"] {
        assert_eq!(
            set.read(&format!("/items/partner/{name}")).await.0,
            404,
            "{name}: what cannot be masked stays"
        );
    }
    set.ask("POST", &format!("{share}/revoke"), Vec::new()).await;
    let share = set.accepted(json!({ "fields": ["title", "cost"], "field_mask": ["cost"] })).await;
    set.globex("POST", &format!("{share}/sync")).await;
    assert_eq!(set.read("/items/partner/a").await.1, br#"{"title":"one"}"#, "hidden wins");
}

#[tokio::test]
async fn eager_shares_follow_without_being_asked() {
    let set = set_up().await;
    let within = json!({
        "source_site": "docs", "target_site": "help", "scope": "all", "mode": "mirror", "direction": "push", "eager": true,
        "field_mask": ["cost"],
    });
    let (_, within) = set.ask("POST", "/shares", within.to_string().into_bytes()).await;
    set.ask("POST", &format!("/shares/{}/accept", within["share"].as_str().unwrap()), Vec::new()).await;
    set.accepted(json!({ "eager": true })).await;
    let lazy = set.offered(json!({ "scope": "item", "scope_ref": "a" })).await;
    assert_eq!(set.globex("POST", &format!("{lazy}/accept?from=acme&site=lazy")).await.0, 200);
    set.put("/items/docs/a", "application/json", br#"{"cost":1,"title":"one"}"#.to_vec()).await;
    let (shared, shard) = (&set.service.shared, ShardName::new("s1").unwrap());
    let (seen, mut now) = Default::default();
    tend::round(shared, &shard, (&seen, &mut now)).await.unwrap();
    assert_eq!(set.get("/items/help/a").await, br#"{"title":"one"}"#);
    assert_eq!(set.read("/items/partner/a").await, (200, br#"{"cost":1,"title":"one"}"#.to_vec()));
    assert_eq!(set.read("/items/lazy/a").await.0, 404, "a lazy one waits for its target");
    assert_eq!(set.globex("POST", &format!("{lazy}/sync")).await.1["written"], 1);
    // And by itself.
    let shutdown = Shutdown::default();
    portolan_foundation::task::spawn("look after shares", tend::run(Arc::clone(shared), shutdown.clone()));
    set.put("/items/docs/a", "application/json", b"{}".to_vec()).await;
    for _ in 0..200 {
        if set.get("/items/help/a").await == b"{}" && set.read("/items/partner/a").await.1 == b"{}" {
            shutdown.begin();
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("what changed does not follow");
}

/// A region that writes one shard, of two.
#[derive(Debug)]
struct Half {
    lease: Lease,
    local: RegionName,
    shard: ShardName,
    store: Store,
}

fn home(tenant: &TenantName) -> (&'static str, &'static str) {
    if tenant.as_str() == "acme" { ("s1", "eu") } else { ("s2", "us") }
}

impl Homes for Half {
    fn admits(&self, tenant: &TenantName, region: &RegionName) -> bool {
        tenant.as_str() != "homely" || region.as_str() == "us"
    }

    fn followed(&self) -> Vec<Followed> {
        Vec::new()
    }

    fn keepers(&self, shard: &ShardName) -> Vec<RegionName> {
        if *shard == self.shard { vec![self.local.clone()] } else { Vec::new() }
    }

    fn leased(&self, shard: &ShardName) -> Option<(Store, Lease)> {
        (*shard == self.shard).then(|| (self.store.clone(), self.lease))
    }

    fn placed(&self, tenant: &TenantName) -> Option<Placed> {
        let (shard, region) = home(tenant);
        let primary = RegionName::new(region).unwrap();
        let regions = vec![primary.clone()];
        Some(Placed { primary, regions, shard: ShardName::new(shard).unwrap() })
    }

    fn regions(&self) -> Vec<RegionName> {
        ["eu", "us"].map(|name| RegionName::new(name).unwrap()).to_vec()
    }

    fn shards(&self) -> Vec<ShardName> {
        vec![self.shard.clone()]
    }
}

/// Both regions, and the link between them.
#[derive(Debug)]
struct Link {
    is_up: AtomicBool,
    services: Mutex<BTreeMap<RegionName, Arc<Service>>>,
}

impl Regions for Link {
    fn ask(&self, _shard: &ShardName, region: &RegionName, question: Bytes) -> Asking {
        let services = self.services.lock().unwrap();
        let from = services.keys().find(|name| *name != region).unwrap().clone();
        let (service, is_up) = (Arc::clone(services.get(region).unwrap()), self.is_up.load(Ordering::SeqCst));
        Box::pin(async move {
            if is_up { Ok(service.tell(&from, &question).await) } else { Err("the link is down".to_owned()) }
        })
    }
}

struct Two {
    _folder: TempDir,
    link: Arc<Link>,
}

impl Two {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let link = Arc::new(Link { is_up: AtomicBool::new(true), services: Mutex::default() });
        for (region, shard) in [("eu", "s1"), ("us", "s2")] {
            let (local, place) = (RegionName::new(region).unwrap(), folder.path().join(region));
            std::fs::create_dir(&place).unwrap();
            let store = Store::open(&Engine::Sqlite(place.join("shard.db")), local.clone()).await.unwrap();
            let deadline_us = store.clock().await.unwrap() + 3_600_000_000;
            store.begin_epoch(Epoch(1), deadline_us).await.unwrap();
            let lease = Lease::granted(Epoch(1), clock::now(), Duration::from_secs(3_600), Duration::ZERO);
            let shard = ShardName::new(shard).unwrap();
            let homes = Arc::new(Half { lease, local: local.clone(), shard, store });
            let places = Places::local(&place.join("packs"), place.join("keys")).unwrap();
            let runtime = tokio::runtime::Handle::current();
            let service = Service::new(homes, &places, local.clone(), Arc::new(Nobody), runtime);
            service.shared.regions.set(Arc::clone(&link) as _).unwrap();
            link.services.lock().unwrap().insert(local, Arc::new(service));
        }
        Self { _folder: folder, link }
    }

    async fn ask(&self, tenant: &str, method: &str, path: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
        let tenant = TenantName::new(tenant).unwrap();
        let (shard, region) = home(&tenant);
        let service = Arc::clone(&self.link.services.lock().unwrap()[&RegionName::new(region).unwrap()]);
        let work = Work { epoch: Epoch(1), shard: ShardName::new(shard).unwrap(), tenant };
        let request = Request::builder().method(method).uri(format!("{CONTENT_PATH}{path}"));
        let response = service.answer(work, request.body(whole(body)).unwrap()).await;
        let (parts, body) = response.into_parts();
        let content = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes().to_vec();
        (parts.status.as_u16(), content)
    }

    async fn json(&self, tenant: &str, method: &str, path: &str, body: Vec<u8>) -> (u16, Value) {
        let (status, content) = self.ask(tenant, method, path, body).await;
        (status, serde_json::from_slice(&content).unwrap_or_default())
    }

    /// May globex read what came by a share, so much later?
    async fn holds(&self, share: &str, later: Duration) -> Result<(), &'static str> {
        let shard = ShardName::new("s2").unwrap();
        let (service, tenant) = (self.us(), TenantName::new("globex").unwrap());
        let leased = service.shared.homes.leased(&shard).unwrap();
        let desk = Desk::new(Arc::clone(&service.shared), tenant, shard, leased);
        let share = shares::find(&desk, share.trim_start_matches("/shares/")).await.unwrap();
        borrow::holds(&desk, &share, clock::now().plus(later)).await.map_err(|problem| problem.code)
    }

    fn us(&self) -> Arc<Service> {
        Arc::clone(&self.link.services.lock().unwrap()[&RegionName::new("us").unwrap()])
    }
}

#[tokio::test]
async fn tenants_of_two_shards_share_over_the_link_and_not_without_it() {
    let two = Two::new().await;
    let bytes = noise(1, 9_000_000);
    assert_eq!(two.ask("acme", "PUT", "/items/docs/film", bytes.clone()).await.0, 201);
    assert_eq!(two.ask("acme", "PUT", "/items/docs/empty", Vec::new()).await.0, 201);
    let (_, share) = two.json("acme", "POST", "/shares", offer(json!({}))).await;
    let share = format!("/shares/{}", share["share"].as_str().unwrap());
    let accept = format!("{share}/accept?from=acme&site=partner");
    assert_eq!(two.ask("evil", "POST", &accept, Vec::new()).await.0, 404);
    assert_eq!(two.ask("globex", "POST", &accept, Vec::new()).await.0, 200);
    let (_, ran) = two.json("globex", "POST", &format!("{share}/sync"), Vec::new()).await;
    assert_eq!(ran["written"], 2, "{ran}");
    let film = "/items/partner/film";
    assert_eq!(two.ask("globex", "GET", film, Vec::new()).await, (200, bytes));
    // Without the link it is read as long as the last word counts.
    two.link.is_up.store(false, Ordering::SeqCst);
    assert_eq!(two.ask("globex", "GET", film, Vec::new()).await.0, 200);
    assert_eq!(two.holds(&share, Duration::from_secs(50)).await, Ok(()));
    assert_eq!(two.holds(&share, Duration::from_secs(61)).await, Err("share-lease"));
    assert_eq!(two.ask("globex", "POST", &format!("{share}/sync"), Vec::new()).await.0, 503);
    // It is over meanwhile, and what came goes at the first look.
    assert_eq!(two.ask("acme", "POST", &format!("{share}/revoke"), Vec::new()).await.0, 200);
    two.link.is_up.store(true, Ordering::SeqCst);
    assert_eq!(two.holds(&share, Duration::from_secs(70)).await, Err("forbidden"));
    assert_eq!(two.ask("globex", "GET", film, Vec::new()).await.0, 403);
    let (seen, mut now) = Default::default();
    tend::round(&two.us().shared, &ShardName::new("s2").unwrap(), (&seen, &mut now)).await.unwrap();
    assert_eq!(two.ask("globex", "GET", film, Vec::new()).await.0, 404);
}

#[tokio::test]
async fn what_may_not_leave_its_regions_is_not_shared_over_the_link() {
    let two = Two::new().await;
    // The content of a tenant in the other region, which may not leave that.
    let body = offer(json!({ "target_tenant": "acme" }));
    let (_, share) = two.json("homely", "POST", "/shares", body).await;
    let accept = format!("/shares/{}/accept?from=homely&site=partner", share["share"].as_str().unwrap());
    let (status, told) = two.json("acme", "POST", &accept, Vec::new()).await;
    assert_eq!(status, 403, "{told}");
    assert!(told["detail"].as_str().unwrap().contains("residency"), "{told}");
}
