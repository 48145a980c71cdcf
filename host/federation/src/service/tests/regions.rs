//! Two regions that keep a shard: what one writes comes to the other, through breaks, and each may lead.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::follow::Source;
use super::*;

/// A region that keeps the shard.
#[derive(Debug)]
struct Site {
    local: RegionName,
    stand: Mutex<Stand>,
    store: Store,
}

#[derive(Clone, Copy, Debug)]
enum Stand {
    Follows(Epoch),
    Leads(Lease),
}

impl Homes for Site {
    fn admits(&self, tenant: &TenantName, region: &RegionName) -> bool {
        tenant.as_str() != "homely" || region.as_str() == "eu"
    }

    fn followed(&self) -> Vec<Followed> {
        let Stand::Follows(epoch) = *self.stand.lock().unwrap() else { return Vec::new() };
        let primary = RegionName::new(if self.local.as_str() == "eu" { "us" } else { "eu" }).unwrap();
        vec![Followed { epoch, primary, shard: shard(), store: self.store.clone() }]
    }

    fn keepers(&self, _shard: &ShardName) -> Vec<RegionName> {
        self.regions()
    }

    fn leased(&self, _shard: &ShardName) -> Option<(Store, Lease)> {
        let stand = *self.stand.lock().unwrap();
        match stand {
            Stand::Follows(_) => None,
            Stand::Leads(lease) => Some((self.store.clone(), lease)),
        }
    }

    fn regions(&self) -> Vec<RegionName> {
        ["eu", "us"].map(|name| RegionName::new(name).unwrap()).to_vec()
    }

    fn shards(&self) -> Vec<ShardName> {
        vec![shard()]
    }
}

fn shard() -> ShardName {
    ShardName::new("s1").unwrap()
}

/// Both regions, and the way between them, which may break after some answers.
#[derive(Debug)]
struct Between {
    services: Mutex<BTreeMap<RegionName, Arc<Service>>>,
    /// Answers that still come.
    left: AtomicU64,
}

impl Regions for Between {
    fn ask(&self, _shard: &ShardName, region: &RegionName, question: Bytes) -> Asking {
        let services = self.services.lock().unwrap();
        let (from, service) = (
            services.keys().find(|name| *name != region).unwrap().clone(),
            Arc::clone(services.get(region).unwrap()),
        );
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        Box::pin(async move {
            left.map_err(|_| "the link broke".to_owned())?;
            Ok(service.tell(&from, &question).await)
        })
    }
}

struct World {
    between: Arc<Between>,
    folder: TempDir,
    sites: BTreeMap<&'static str, Arc<Site>>,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let between = Arc::new(Between { services: Mutex::default(), left: AtomicU64::new(u64::MAX) });
        let mut sites = BTreeMap::new();
        for name in ["eu", "us"] {
            let (local, place) = (RegionName::new(name).unwrap(), folder.path().join(name));
            std::fs::create_dir(&place).unwrap();
            let store = Store::open(&Engine::Sqlite(place.join("s1.db")), local.clone()).await.unwrap();
            let stand = Mutex::new(Stand::Follows(Epoch(1)));
            let site = Arc::new(Site { local: local.clone(), stand, store });
            let places = Places::local(&place.join("packs"), place.join("keys")).unwrap();
            let homes = Arc::clone(&site) as Arc<dyn Homes>;
            let runtime = tokio::runtime::Handle::current();
            let service = Service::new(homes, &places, local.clone(), Arc::new(Nobody), runtime);
            service.shared.regions.set(Arc::clone(&between) as _).unwrap();
            between.services.lock().unwrap().insert(local, Arc::new(service));
            sites.insert(name, site);
        }
        let world = Self { between, folder, sites };
        world.leads("eu", 1).await;
        world
    }

    fn service(&self, name: &str) -> Arc<Service> {
        Arc::clone(self.between.services.lock().unwrap().get(&RegionName::new(name).unwrap()).unwrap())
    }

    /// A region begins an epoch; the other has sealed it.
    async fn leads(&self, name: &'static str, epoch: u64) {
        let hour = Duration::from_secs(3_600);
        for (other, site) in &self.sites {
            if *other == name {
                let deadline_us = site.store.clock().await.unwrap() + 3_600_000_000;
                site.store.begin_epoch(Epoch(epoch), deadline_us).await.unwrap();
                let lease = Lease::granted(Epoch(epoch), clock::now(), hour, Duration::ZERO);
                *site.stand.lock().unwrap() = Stand::Leads(lease);
            } else {
                site.store.seal_epoch(Epoch(epoch), hour).await.unwrap();
                *site.stand.lock().unwrap() = Stand::Follows(Epoch(epoch));
            }
        }
    }

    /// A region takes what the other has, once.
    async fn follows(&self, name: &str) -> Result<(), Problem> {
        let (service, site) = (self.service(name), &self.sites[name]);
        let one = site.followed().remove(0);
        if service.copies().is_empty() {
            let stranded = site.store.content_stranded().await.unwrap();
            service.shared.copies.begin(&shard(), &one.primary, stranded);
        }
        let between = Arc::clone(&self.between) as Arc<dyn Regions>;
        let source = Source::new(one, between, Arc::clone(&service.shared));
        for tenant in source.list().await? {
            source.catch_up(&tenant).await?;
            service.shared.copies.caught_up(&shard(), &tenant);
        }
        Ok(())
    }

    async fn send(
        &self,
        name: &str,
        epoch: u64,
        request: http::request::Builder,
        body: Vec<u8>,
    ) -> (Response<()>, Vec<u8>) {
        let work = Work { epoch: Epoch(epoch), shard: shard(), tenant: TenantName::new("acme").unwrap() };
        let response = self.service(name).answer(work, request.body(whole(body)).unwrap()).await;
        let (parts, body) = response.into_parts();
        let content = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes().to_vec();
        (Response::from_parts(parts, ()), content)
    }

    async fn put(&self, name: &str, epoch: u64, item: &str, body: Vec<u8>) -> Value {
        let request = Request::put(format!("{CONTENT_PATH}/items/docs/{item}"));
        let request = request.header(CONTENT_TYPE, "application/octet-stream");
        let (response, content) = self.send(name, epoch, request, body).await;
        assert!(response.status().is_success(), "{}", String::from_utf8_lossy(&content));
        serde_json::from_slice(&content).unwrap()
    }

    /// What a reader is told who takes what is there.
    async fn local(&self, name: &str, epoch: u64, path: &str) -> (u16, Vec<u8>) {
        let request = Request::get(format!("{CONTENT_PATH}{path}")).header("portolan-consistency", "local");
        let (response, content) = self.send(name, epoch, request, Vec::new()).await;
        (response.status().as_u16(), content)
    }

    /// The copy that a region follows, as it reports it.
    fn report(&self, name: &str) -> CopyReport {
        self.service(name).copies().remove(0)
    }
}

#[tokio::test]
async fn what_one_region_writes_is_read_in_the_other() {
    let world = World::new().await;
    for (name, size) in [("small", 100), ("many", 3_000_000), ("gone", 50_000)] {
        world.put("eu", 1, name, noise(3, size)).await;
    }
    world.put("eu", 1, "many", noise(4, 2_000_000)).await;
    let gone = Request::delete(format!("{CONTENT_PATH}/items/docs/gone"));
    world.send("eu", 1, gone, Vec::new()).await;
    world.follows("us").await.unwrap();
    for path in [
        "/items/docs",
        "/items/docs/many/versions",
        "/items/docs/small",
        "/items/docs/many",
        "/changes?since=0",
    ] {
        let (there, here) = (world.local("eu", 1, path).await, world.local("us", 1, path).await);
        assert_eq!(there.0, 200, "{path}");
        assert_eq!(there, here, "{path}");
    }
    assert_eq!(world.local("us", 1, "/items/docs/gone").await.0, 404);
    // Without a word, and to write, another region is asked.
    let plain = Request::get(format!("{CONTENT_PATH}/items/docs/small"));
    assert_eq!(world.send("us", 1, plain, Vec::new()).await.0.status(), 421);
    let put = Request::put(format!("{CONTENT_PATH}/items/docs/small"));
    assert_eq!(world.send("us", 1, put, vec![1]).await.0.status(), 421);
    let report = world.report("us");
    assert_eq!((report.behind, report.damaged, report.stranded, report.problem), (0, 0, 0, None));
    // What is here is not asked for again.
    world.follows("us").await.unwrap();
    assert_eq!(world.report("us").chunks, report.chunks);
    let (response, _) = world
        .send(
            "us",
            1,
            Request::get(format!("{CONTENT_PATH}/items/docs/small"))
                .header("portolan-consistency", "max-staleness=60"),
            Vec::new(),
        )
        .await;
    assert!(response.headers().contains_key("portolan-staleness"), "{response:?}");
}

#[tokio::test]
async fn a_break_costs_no_chunk_twice_and_leaves_nothing_half_there() {
    let world = World::new().await;
    world.put("eu", 1, "large", noise(5, 10_000_000)).await;
    world.put("eu", 1, "after", noise(6, 100)).await;
    let mut tries = 0;
    loop {
        world.between.left.store(4, Ordering::SeqCst);
        tries += 1;
        match world.follows("us").await {
            Ok(()) => break,
            Err(problem) => assert!(problem.detail.contains("the link broke"), "{}", problem.detail),
        }
        assert_ne!(
            world.local("us", 1, "/items/docs/large").await.0,
            200,
            "it is there whole, or not at all"
        );
        assert!(tries < 50, "it does not get on");
    }
    assert!(tries > 2, "it was to break");
    world.between.left.store(u64::MAX, Ordering::SeqCst);
    assert_eq!(world.local("us", 1, "/items/docs/large").await, (200, noise(5, 10_000_000)));
    assert_eq!(world.local("us", 1, "/items/docs/after").await.0, 200);
    let tenant = TenantName::new("acme").unwrap();
    let mut content = world.sites["us"].store.content(&tenant).await.unwrap();
    let vault = world.service("us").shared.vaults.find(&tenant, &mut content).await.unwrap().unwrap();
    content.end().await.unwrap();
    let names = vault.cutter.chunks(&noise(5, 10_000_000)).count() as u64;
    assert_eq!(world.report("us").chunks, names, "each chunk came once");
}

#[tokio::test]
async fn a_region_that_comes_back_takes_the_others_history_and_tells_what_was_lost() {
    let world = World::new().await;
    let first = world.put("eu", 1, "shared", noise(1, 40_000)).await;
    world.follows("us").await.unwrap();
    // Not shipped: another version, and an item of its own.
    world.put("eu", 1, "shared", noise(2, 50_000)).await;
    world.put("eu", 1, "same-name", noise(3, 60_000)).await;
    world.put("eu", 1, "lost", noise(4, 100)).await;
    world.leads("us", 2).await;
    assert_eq!(
        world.local("us", 2, "/items/docs/shared").await,
        (200, noise(1, 40_000)),
        "all that was shipped"
    );
    let next = world.put("us", 2, "same-name", noise(5, 70_000)).await;
    assert_eq!(next["seq"], first["seq"].as_u64().unwrap() + 1, "{next}");
    world.put("us", 2, "more", noise(6, 100)).await;
    world.follows("eu").await.unwrap();
    for path in
        ["/items/docs", "/items/docs/shared", "/items/docs/same-name", "/items/docs/more", "/changes?since=0"]
    {
        assert_eq!(world.local("eu", 2, path).await, world.local("us", 2, path).await, "{path}");
    }
    assert_eq!(world.local("eu", 2, "/items/docs/lost").await.0, 404);
    assert_eq!(world.report("eu").stranded, 3);
    assert_eq!(world.sites["eu"].store.content_stranded().await.unwrap(), 3);
    // And back again, without a loss.
    world.leads("eu", 3).await;
    world.put("eu", 3, "shared", noise(7, 80_000)).await;
    world.follows("us").await.unwrap();
    assert_eq!(world.local("us", 3, "/items/docs/shared").await, (200, noise(7, 80_000)));
    assert_eq!(world.report("us").stranded, 0);
}

#[tokio::test]
async fn a_tenant_that_both_regions_made_has_the_names_of_the_one_that_leads() {
    let world = World::new().await;
    world.put("eu", 1, "lost", noise(1, 40_000)).await;
    world.leads("us", 2).await;
    world.put("us", 2, "kept", noise(2, 40_000)).await;
    world.follows("eu").await.unwrap();
    assert_eq!(world.local("eu", 2, "/items/docs/kept").await, (200, noise(2, 40_000)));
    assert_eq!(world.local("eu", 2, "/items/docs/lost").await.0, 404);
    assert_eq!(world.report("eu").stranded, 1);
}

#[tokio::test]
async fn who_may_not_have_it_is_told_nothing() {
    let world = World::new().await;
    let put = Request::put(format!("{CONTENT_PATH}/items/docs/a"));
    let work = Work { epoch: Epoch(1), shard: shard(), tenant: TenantName::new("homely").unwrap() };
    let answered = world.service("eu").answer(work, put.body(whole(noise(1, 50_000))).unwrap()).await;
    assert_eq!(answered.status(), 201);
    world.follows("us").await.unwrap();
    let known = world.sites["us"].store.content_known("", 10).await.unwrap();
    assert_eq!((known, world.report("us").withheld), (Vec::new(), 1));
    let (us, tenant) = (RegionName::new("us").unwrap(), TenantName::new("homely").unwrap());
    let told = async |from: &RegionName, question: Question| {
        let bytes = world.service("eu").tell(from, &question.bytes().unwrap()).await.unwrap();
        Answer::read(&bytes).unwrap()
    };
    let refused = |answer: &Answer| matches!(answer, Answer::Refused(crate::wire::Refused::Forbidden(_)));
    let question = Question::Changes { shard: shard(), tenant, spans: Vec::new(), gathers: true };
    assert!(refused(&told(&us, question.clone()).await), "also who knows its name");
    let stranger = RegionName::new("ap").unwrap();
    assert!(refused(&told(&stranger, question).await));
    assert!(refused(
        &told(&stranger, Question::Tenants { shard: shard(), after: String::new(), gathers: true }).await
    ));
    assert!(world.service("eu").tell(&us, b"{}").await.is_none(), "others' words are others'");
}

#[tokio::test]
async fn nothing_comes_into_a_copy_of_an_epoch_that_is_sealed() {
    let world = World::new().await;
    world.put("eu", 1, "late", noise(1, 100)).await;
    let hour = Duration::from_secs(3_600);
    world.sites["us"].store.seal_epoch(Epoch(2), hour).await.unwrap();
    let problem = world.follows("us").await.unwrap_err();
    assert_eq!(problem.code, "busy", "{}", problem.detail);
    assert_eq!(world.sites["us"].store.content_known("", 10).await.unwrap(), Vec::new());
}

#[tokio::test]
async fn of_a_large_content_that_changed_a_little_a_little_comes() {
    let world = World::new().await;
    let mut bytes = noise(8, 6_000_000);
    world.put("eu", 1, "film", bytes.clone()).await;
    world.follows("us").await.unwrap();
    let (before, chunks) = (world.report("us").bytes, world.report("us").chunks);
    bytes[3_000_000] ^= 1;
    bytes.splice(4_500_000..4_500_000, *b"inserted");
    world.put("eu", 1, "film", bytes.clone()).await;
    world.follows("us").await.unwrap();
    let report = world.report("us");
    assert!(report.bytes - before < 4_000, "{} bytes came", report.bytes - before);
    assert_eq!((report.chunks, report.patched_bytes), (chunks, bytes.len() as u64));
    assert_eq!(world.local("us", 1, "/items/docs/film").await, (200, bytes.clone()));
    // What was made here opens for whoever leads next, and goes on as it is.
    world.leads("us", 2).await;
    assert_eq!(world.local("us", 2, "/items/docs/film").await, (200, bytes.clone()));
    bytes.truncate(5_000_000);
    world.put("us", 2, "film", bytes.clone()).await;
    world.follows("eu").await.unwrap();
    assert_eq!(world.local("eu", 2, "/items/docs/film").await, (200, bytes));
}

/// Changes a byte in the middle of each pack of a region.
fn damage(folder: &std::path::Path) -> usize {
    let mut damaged = 0;
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            damaged += damage(&entry.path());
        } else {
            let mut bytes = std::fs::read(entry.path()).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(entry.path(), bytes).unwrap();
            damaged += 1;
        }
    }
    damaged
}

#[tokio::test]
async fn a_damaged_chunk_comes_again_from_the_other_region() {
    for name in ["us", "eu"] {
        let world = World::new().await;
        let mut bytes = noise(9, 3_000_000);
        world.put("eu", 1, "picture", bytes.clone()).await;
        world.follows("us").await.unwrap();
        // Chunks that came as a difference have other keys here than there.
        bytes[1_500_000] ^= 1;
        world.put("eu", 1, "picture", bytes.clone()).await;
        world.follows("us").await.unwrap();
        let packs = damage(&world.folder.path().join(name).join("packs"));
        assert_eq!(packs, 2);
        assert_eq!(world.local(name, 1, "/items/docs/picture").await, (200, bytes.clone()), "{name}");
        let found = world.service(name).damage();
        assert!(found.found >= 1 && found.found == found.repaired, "{name}: {found:?}");
        assert_eq!(world.local(name, 1, "/items/docs/picture").await, (200, bytes.clone()));
        assert_eq!(world.service(name).damage(), found, "{name}: it stays repaired");
        // The rest is found by looking at all packs.
        let site = &world.sites[name];
        let shared = &world.service(name).shared;
        let tenant = TenantName::new("acme").unwrap();
        let stand = *site.stand.lock().unwrap();
        let desk = match stand {
            Stand::Leads(lease) => {
                Desk::new(Arc::clone(shared), tenant, shard(), (site.store.clone(), lease))
            }
            Stand::Follows(epoch) => {
                Desk::of_copy(Arc::clone(shared), tenant, shard(), (site.store.clone(), epoch))
            }
        };
        for _ in 0..6 {
            collect::collect(&desk, clock::unix_ms()).await.unwrap();
        }
        let scrubbed = world.service(name).damage();
        assert_eq!(scrubbed.found, scrubbed.repaired, "{name}: {scrubbed:?}");
        // Nothing of what is used is damaged any more: the other region is not needed.
        world.between.left.store(0, Ordering::SeqCst);
        assert_eq!(world.local(name, 1, "/items/docs/picture/versions").await.0, 200);
        let all = String::from_utf8(world.local(name, 1, "/items/docs/picture/versions").await.1).unwrap();
        let all: Value = serde_json::from_str(&all).unwrap();
        for version in all["versions"].as_array().unwrap() {
            let path = format!("/c/{}", version["root"].as_str().unwrap());
            assert_eq!(world.local(name, 1, &path).await.0, 200, "{name}");
        }
    }
}

#[tokio::test]
async fn what_a_share_gave_goes_in_all_regions_when_it_is_revoked() {
    let world = World::new().await;
    let tell = async |path: &str, body: Value| {
        let request = Request::post(format!("{CONTENT_PATH}{path}"));
        let (response, content) = world.send("eu", 1, request, body.to_string().into_bytes()).await;
        assert!(response.status().is_success(), "{path}: {}", String::from_utf8_lossy(&content));
        serde_json::from_slice::<Value>(&content).unwrap()
    };
    world.put("eu", 1, "guide", noise(1, 300_000)).await;
    let offer = json!({ "source_site": "docs", "target_site": "help", "scope": "all", "mode": "mirror", "direction": "push" });
    let share = tell("/shares", offer).await["share"].as_str().unwrap().to_owned();
    tell(&format!("/shares/{share}/accept"), json!({})).await;
    assert_eq!(tell(&format!("/shares/{share}/sync"), json!({})).await["written"], 1);
    world.follows("us").await.unwrap();
    for region in ["eu", "us"] {
        assert_eq!(world.local(region, 1, "/items/help/guide").await, (200, noise(1, 300_000)), "{region}");
    }
    // A copy that has not heard whether the share holds answers no longer by it, and by its own content all the same.
    let (site, service, tenant) = (&world.sites["us"], world.service("us"), TenantName::new("acme").unwrap());
    let place = (site.store.clone(), Epoch(1));
    let desk = Desk::of_copy(Arc::clone(&service.shared), tenant.clone(), shard(), place);
    let desk = desk.heard(crate::defaults::SHARE_LEASE + Duration::from_millis(1));
    let mut content = site.store.content(&tenant).await.unwrap();
    for (of, served) in [("docs", Ok(())), ("help", Err("share-lease"))] {
        let item = content.item(of, "guide").await.unwrap().unwrap();
        let done = mirrors::serves(&desk, &mut content, &item.item).await;
        assert_eq!(done.map(drop).map_err(|problem| problem.code), served, "{of}");
    }
    content.end().await.unwrap();
    tell(&format!("/shares/{share}/suspend"), json!({})).await;
    world.follows("us").await.unwrap();
    for region in ["eu", "us"] {
        assert_eq!(world.local(region, 1, "/items/help/guide").await.0, 403, "{region}");
    }
    tell(&format!("/shares/{share}/revoke"), json!({})).await;
    world.follows("us").await.unwrap();
    for region in ["eu", "us"] {
        assert_eq!(world.local(region, 1, "/items/help/guide").await.0, 404, "{region}");
        assert_eq!(world.local(region, 1, "/items/docs/guide").await.0, 200, "{region}: its source stays");
        let mut content = world.sites[region].store.content(&tenant).await.unwrap();
        let item = content.item("help", "guide").await.unwrap().unwrap();
        assert_eq!(
            content.parts_of(&item.item).await.unwrap(),
            Vec::new(),
            "{region}: nothing opens it any more"
        );
        content.end().await.unwrap();
    }
}

#[tokio::test]
async fn who_is_to_write_takes_what_another_copy_has_more() {
    let world = World::new().await;
    world.put("eu", 1, "shipped", noise(1, 40_000)).await;
    world.follows("us").await.unwrap();
    world.put("eu", 1, "late", noise(2, 300_000)).await;
    let (eu, us) = (&world.sites["eu"], &world.sites["us"]);
    eu.store.seal_epoch(Epoch(2), Duration::from_secs(3_600)).await.unwrap();
    *eu.stand.lock().unwrap() = Stand::Follows(Epoch(2));
    let copy =
        Followed { epoch: Epoch(2), primary: us.local.clone(), shard: shard(), store: us.store.clone() };
    world.service("us").gather(&copy, vec![eu.local.clone()]).await;
    world.leads("us", 2).await;
    assert_eq!(world.local("us", 2, "/items/docs/late").await, (200, noise(2, 300_000)));
    world.follows("eu").await.unwrap();
    assert_eq!(world.report("eu").stranded, 0);
}
