//! The contract of a store, over both engines; and what is the same under each.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::task;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::defaults::{OBJECT_BYTES_MAX, REGISTER_BYTES_MAX, SAVED_MAX};
use crate::*;

#[path = "../../../tests/fixtures/etcd.rs"]
#[expect(dead_code, unreachable_pub, reason = "shared with the end-to-end tests, which use more of it")]
mod cluster;

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(30);

/// A place for a store, and what runs it.
struct Place {
    cluster: Option<cluster::Cluster>,
    engine: Engine,
    folder: TempDir,
}

impl Place {
    fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("store")).unwrap();
        Self { cluster: None, engine: Engine::Sqlite(folder.path().join("store/control.db")), folder }
    }

    fn etcd(members: u8) -> Self {
        let cluster = cluster::Cluster::start(members);
        let config = EtcdConfig {
            ca: None,
            endpoints: cluster.endpoints(),
            identity: None,
            prefix: "/portolan".to_owned(),
            user: None,
        };
        Self { cluster: Some(cluster), engine: Engine::Etcd(config), folder: tempfile::tempdir().unwrap() }
    }

    async fn open(&self, node: &str) -> Store {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Store::open(self.engine.clone(), Some(self.folder.path().join(node))).await {
                Ok(store) => return store,
                // etcd needs a moment to elect.
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// A store that follows.
    async fn node(&self, name: &str, shutdown: &Shutdown) -> Store {
        let store = self.open(name).await;
        task::spawn("store", store.clone().run(shutdown.clone()));
        store
    }

    /// Takes the store away from everybody, as a dead disk or network does.
    fn take_away(&mut self) {
        match (&self.engine, &mut self.cluster) {
            (Engine::Sqlite(_), _) => {
                std::fs::rename(self.folder.path().join("store"), self.folder.path().join("away")).unwrap()
            }
            (_, Some(cluster)) => cluster.kill(0),
            _ => {}
        }
    }

    fn bring_back(&mut self) {
        match (&self.engine, &mut self.cluster) {
            (Engine::Sqlite(_), _) => {
                std::fs::rename(self.folder.path().join("away"), self.folder.path().join("store")).unwrap()
            }
            (_, Some(cluster)) => cluster.revive(0),
            _ => {}
        }
    }
}

fn body(text: &str) -> Body {
    serde_json::from_str(text).unwrap()
}

fn key(text: &str) -> Key {
    Key::try_from(text.to_owned()).unwrap()
}

fn put(name: &str, text: &str) -> Wish {
    Wish {
        key: key(name),
        body: Some(body(text)),
        expect: Expect::Any,
        manager: Manager::Api,
        take_over: false,
    }
}

fn draft(wishes: Vec<Wish>) -> Draft {
    Draft { author: "tester".to_owned(), message: "because".to_owned(), source: "test".to_owned(), wishes }
}

/// Waits until a store has a generation; gives how long that took.
async fn reaches(store: &Store, generation: u64) -> Duration {
    let begun = Instant::now();
    let mut states = store.follow();
    let reached = timeout(PATIENCE, states.wait_for(|state| state.generation() >= generation)).await;
    reached.expect("the generation comes").unwrap();
    begun.elapsed()
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not come");
        sleep(Duration::from_millis(10)).await;
    }
}

/// The contract, for one engine.
/// Registers are written where all is as expected or not at all, whoever else writes, and every reader comes to what is there.
async fn registers(place: &Place) {
    const WRITERS: u64 = 4;
    const TIMES: u64 = 10;
    let store = place.open("registers").await;
    assert_eq!(store.registers(0).await.unwrap().changed, []);
    let swap = |expect: &[(&str, u64)], put: &[(&str, &str)]| Swap {
        expect: expect.iter().map(|(name, revision)| ((*name).to_owned(), *revision)).collect(),
        put: put.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    };
    let follower = place.open("news").await;
    let mut news = follower.register_news("a").await.unwrap();
    let first = store.swap(&swap(&[("a", 0), ("b", 0)], &[("a", "1"), ("b", "1")])).await.unwrap().unwrap();
    timeout(PATIENCE, news.changed()).await.expect("others are told").unwrap();
    assert_eq!(store.swap(&swap(&[("a", 0)], &[("a", "2")])).await.unwrap(), None, "it is there");
    assert_eq!(store.swap(&swap(&[("a", first), ("b", first + 1)], &[("a", "2")])).await.unwrap(), None);
    let second = store.swap(&swap(&[("a", first), ("b", first)], &[("a", "2")])).await.unwrap().unwrap();
    assert!(second > first, "{second} after {first}");
    let all = store.registers(0).await.unwrap();
    let is = |name: &str, revision: u64, value: &str| Register {
        name: name.to_owned(),
        revision,
        value: value.to_owned(),
    };
    assert_eq!(all.changed, [is("b", first, "1"), is("a", second, "2")]);
    let later = store.registers(first).await.unwrap();
    assert_eq!(later.changed, [is("a", second, "2")]);
    assert_eq!(store.registers(all.revision).await.unwrap().changed, []);
    for wrong in ["", "a b", "a\0"] {
        assert!(matches!(store.swap(&swap(&[(wrong, 0)], &[])).await, Err(Error::Register(_))), "{wrong}");
    }
    let long = "x".repeat(REGISTER_BYTES_MAX + 1);
    assert!(matches!(store.swap(&swap(&[], &[("a", &long)])).await, Err(Error::Registers { .. })));
    assert!(store.swap(&swap(&[], &[("a", "1"), ("a", "2")])).await.is_err(), "one name twice");

    // No generation is made of it.
    assert_eq!(store.state().generation(), 0);
    let counts = async |writer: u64| {
        let store = place.open(&format!("writer-{writer}")).await;
        for _ in 0..TIMES {
            loop {
                let now = store.registers(0).await.unwrap().changed;
                let (revision, value) = now
                    .iter()
                    .find(|register| register.name == "count")
                    .map_or((0, 0), |found| (found.revision, found.value.parse::<u64>().unwrap()));
                let next = (value + 1).to_string();
                if store.swap(&swap(&[("count", revision)], &[("count", &next)])).await.unwrap().is_some() {
                    break;
                }
            }
        }
    };
    let follows = async {
        let (mut after, mut seen) = (0, 0);
        while seen < WRITERS * TIMES {
            let news = store.registers(after).await.unwrap();
            for register in news.changed.iter().filter(|register| register.name == "count") {
                let value: u64 = register.value.parse().unwrap();
                assert!(value > seen && register.revision > after, "{value} after {seen}");
                seen = value;
            }
            after = news.revision;
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(counts(0), counts(1), counts(2), counts(3), async {
        timeout(PATIENCE, follows).await.expect("the reader comes to the end");
    });
}

async fn contract(mut place: Place) {
    Box::pin(registers(&place)).await;
    let shutdown = Shutdown::new();
    let (one, two) = (place.node("one", &shutdown).await, place.node("two", &shutdown).await);
    assert_eq!(one.state().generation(), 0);

    // A change makes a generation, and everybody gets it.
    let made = one.commit(&draft(vec![put("region/eu", r#"{"pool":{"web":1}}"#)])).await.unwrap();
    let Committed::Changed(change) = made else { panic!("{made:?}") };
    assert_eq!((change.generation, change.author.as_str(), change.edits.len()), (1, "tester", 1));
    reaches(&two, 1).await;
    assert_eq!(two.state(), one.state());
    assert_eq!(two.state().get(&key("region/eu")).unwrap().body, body(r#"{"pool":{"web":1}}"#));

    // The same once more makes none.
    let same = two.commit(&draft(vec![put("region/eu", r#"{"pool":{"web":1}}"#)])).await.unwrap();
    assert_eq!(same, Committed::Unchanged(1));

    // Conflicts leave everything as it is.
    let stale = Wish { expect: Expect::Revision(7), ..put("region/eu", "{}") };
    let file = Wish { manager: Manager::File("conf.d/a.toml".to_owned()), ..put("region/eu", "{}") };
    let absent = Wish { expect: Expect::Absent, ..put("region/eu", "{}") };
    for (wish, says) in [
        (stale, "it is of generation Some(1), not 7"),
        (file.clone(), "is managed by the admin API"),
        (absent, "since generation 1"),
    ] {
        let error = two.commit(&draft(vec![put("region/us", "{}"), wish])).await.unwrap_err();
        assert!(matches!(error, Error::Conflict(_)) && error.to_string().contains(says), "{error}");
    }
    let large = put("region/us", &format!(r#"{{"text":"{}"}}"#, "x".repeat(OBJECT_BYTES_MAX)));
    let error = two.commit(&draft(vec![large])).await.unwrap_err();
    assert!(error.to_string().contains("an object may have"), "{error}");
    let deep = put("region/us", &format!(r#"{{"a":{}{}}}"#, "[".repeat(100), "]".repeat(100)));
    assert!(two.commit(&draft(vec![deep])).await.unwrap_err().to_string().contains("levels deep"));
    assert_eq!(two.state().generation(), 1);
    let taken = Wish { take_over: true, ..file };
    two.commit(&draft(vec![taken])).await.unwrap();
    reaches(&one, 2).await;

    // Many at once: each is made once, in one order, without gaps.
    let mut writers = Vec::new();
    for (number, store) in [&one, &two, &one, &two].into_iter().cloned().enumerate() {
        writers.push(task::spawn("writer", async move {
            for change in 0..10 {
                let wish = put(&format!("tenant/{number}-{change}"), r#"{"a":1}"#);
                store.commit(&draft(vec![wish])).await.unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap().expect("every change is made");
    }
    reaches(&one, 42).await;
    reaches(&two, 42).await;
    assert_eq!(one.state(), two.state());
    assert_eq!(one.state().objects().count(), 41);
    let mut trail = Vec::new();
    while let Some(last) =
        Some(one.changes(trail.len() as u64, 15).await.unwrap()).filter(|last| !last.is_empty())
    {
        trail.extend(last);
    }
    assert_eq!(
        trail.iter().map(|change| change.generation).collect::<Vec<_>>(),
        (1..=42).collect::<Vec<_>>()
    );

    // Nodes tell of each other.
    one.report(NodeReport {
        rollouts: Vec::new(),
        name: "one".to_owned(),
        problems: Vec::new(),
        region: "eu".to_owned(),
        running: 42,
        schemas: std::collections::BTreeMap::default(),
        version: "0".to_owned(),
    });
    until("the report", || two.nodes().first().is_some_and(|node| node.running == 42)).await;

    // The store goes away: what is known goes on and says so; a node that starts meanwhile has it from its disk.
    let saved = place.folder.path().join(format!("one/{:020}.json", 42));
    until("the saved generation", || saved.is_file()).await;
    place.take_away();
    until("the loss", || matches!(one.health(), Health::Away { .. })).await;
    assert_eq!(one.state().generation(), 42);
    assert!(one.commit(&draft(vec![put("region/us", "{}")])).await.is_err());
    let restarted = Store::open(place.engine.clone(), Some(place.folder.path().join("one"))).await.unwrap();
    assert_eq!(restarted.state(), one.state());
    assert!(matches!(restarted.health(), Health::Away { .. }));
    assert!(Store::open(place.engine.clone(), Some(place.folder.path().join("fresh"))).await.is_err());
    place.bring_back();
    until("the return", || one.health() == Health::Connected && two.health() == Health::Connected).await;
    one.commit(&draft(vec![put("region/us", "{}")])).await.unwrap();
    reaches(&two, 43).await;
    assert_eq!(one.state(), two.state());
    shutdown.begin();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_keeps_the_contract() {
    contract(Place::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_keeps_the_contract() {
    contract(Place::etcd(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_three_members_of_etcd_one_may_die_under_load() {
    let mut place = Place::etcd(3);
    let shutdown = Shutdown::new();
    let stores = [place.node("one", &shutdown).await, place.node("two", &shutdown).await];
    let mut writers = Vec::new();
    for (number, store) in stores.iter().cloned().enumerate() {
        writers.push(task::spawn("writer", async move {
            let mut made = Vec::new();
            for change in 0..60 {
                let name = format!("tenant/{number}-{change}");
                let deadline = Instant::now() + PATIENCE;
                // While a leader is elected changes may fail; a wish that was granted unseen is granted once.
                while let Err(error) = store.commit(&draft(vec![put(&name, "{}")])).await {
                    assert!(Instant::now() < deadline, "{error}");
                    sleep(Duration::from_millis(20)).await;
                }
                made.push(name);
            }
            made
        }));
    }
    reaches(&stores[0], 20).await;
    place.cluster.as_mut().unwrap().kill(0);
    let mut made = Vec::new();
    for writer in writers {
        made.extend(writer.await.unwrap().expect("every change is made"));
    }
    reaches(&stores[0], 120).await;
    reaches(&stores[1], 120).await;
    let state = stores[0].state();
    assert_eq!((state.generation(), &state), (120, &stores[1].state()), "each change was made once");
    assert!(made.iter().all(|name| state.get(&key(name)).is_some()), "nothing acknowledged is lost");
    shutdown.begin();
}

#[tokio::test]
async fn a_store_with_another_history_is_not_followed() {
    let mut place = Place::sqlite();
    let store = place.open("one").await;
    for name in ["region/a", "region/b"] {
        store.commit(&draft(vec![put(name, "{}")])).await.unwrap();
    }
    drop(store);
    let kept = place.open("one").await;
    assert_eq!((kept.state().generation(), kept.health()), (2, Health::Connected));
    // Restored from an old copy, and written to since.
    let Engine::Sqlite(path) = place.engine.clone() else { unreachable!() };
    place.engine = Engine::Sqlite(path.with_file_name("restored.db"));
    let other = place.open("other").await;
    for name in ["region/c", "region/d", "region/e"] {
        other.commit(&draft(vec![put(name, "{}")])).await.unwrap();
    }
    let node = place.open("one").await;
    assert_eq!(node.state(), kept.state(), "the last good generation goes on");
    let Health::Damaged { reason } = node.health() else { panic!("{:?}", node.health()) };
    assert!(reason.contains("was the store restored or replaced?"), "{reason}");
}

#[tokio::test]
async fn generations_on_disk_are_bounded_and_a_broken_one_is_passed_over() {
    let place = Place::sqlite();
    let shutdown = Shutdown::new();
    let store = place.open("one").await;
    for number in 0..SAVED_MAX + 5 {
        store.commit(&draft(vec![put("region/a", &format!(r#"{{"n":{number}}}"#))])).await.unwrap();
        // Each start saves.
        drop(place.open("one").await);
    }
    let folder = place.folder.path().join("one");
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), SAVED_MAX);
    let newest = files.last().unwrap();
    let mut bytes = std::fs::read(newest).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    std::fs::write(newest, bytes).unwrap();
    let restarted =
        Store::open(Engine::Sqlite("/nonexistent/control.db".into()), Some(folder.clone())).await.unwrap();
    assert_eq!(restarted.state().generation(), SAVED_MAX as u64 + 4);
    assert_eq!(Store::saved(&folder, 10).unwrap().generation(), 10);
    assert!(Store::saved(&folder, 3).unwrap_err().contains("there are: 6, 7"));
    shutdown.begin();
}

/// What a node of an earlier version left on disk reads for ever.
#[tokio::test]
async fn a_generation_of_format_1_reads() {
    let folder = tempfile::tempdir().unwrap();
    let file = "00000000000000000002.json";
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/control").join(file);
    std::fs::copy(fixture, folder.path().join(file)).unwrap();
    let engine = Engine::Sqlite("/nonexistent/control.db".into());
    let store = Store::open(engine, Some(folder.path().to_owned())).await.unwrap();
    let state = store.state();
    assert_eq!(state.generation(), 2);
    let region = state.get(&key("region/eu")).unwrap();
    assert_eq!((region.revision, &region.managed_by), (2, &Manager::File("conf.d/eu.toml".to_owned())));
}

/// What a newer program wrote is not read as something else, nor is an older generation served in its place without a word.
#[tokio::test]
async fn what_a_newer_portolan_wrote_is_refused_with_what_to_do() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/control");
    let folder = tempfile::tempdir().unwrap();
    for file in ["00000000000000000002.json", "newer/00000000000000000003.json"] {
        let name = Path::new(file).file_name().unwrap();
        std::fs::copy(fixtures.join(file), folder.path().join(name)).unwrap();
    }
    let away = Engine::Sqlite("/nonexistent/control.db".into());
    let refused = Store::open(away.clone(), Some(folder.path().to_owned())).await.unwrap_err().to_string();
    for says in
        ["generation 3 on this node's disk is of format 2", "this program reads 1", "serve --generation N"]
    {
        assert!(refused.contains(says), "{refused}");
    }
    let named = Store::saved(folder.path(), 3).unwrap_err();
    assert!(named.contains("a newer portolan wrote it") && named.contains("there are: 2, 3"), "{named}");
    assert_eq!(Store::saved(folder.path(), 2).unwrap().generation(), 2);

    // Tables that a newer program has changed.
    let place = Place::sqlite();
    let store = place.open("one").await;
    store.commit(&draft(vec![put("region/a", "{}")])).await.unwrap();
    drop(store);
    drop(place.open("one").await);
    let Engine::Sqlite(path) = &place.engine else { unreachable!() };
    let pool = sqlx::SqlitePool::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    let step = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (7, 'newer', TRUE, x'00', 0)";
    sqlx::query(step).execute(&pool).await.unwrap();
    pool.close().await;
    let refused = Store::open(place.engine.clone(), None).await.unwrap_err().to_string();
    assert!(
        refused.contains("a newer portolan has changed its tables (step 7, and this program knows 2)"),
        "{refused}"
    );
    // A node goes on with what it has, and says why.
    let node = place.open("one").await;
    let Health::Away { reason, .. } = node.health() else { panic!("{:?}", node.health()) };
    assert!(node.state().generation() == 1 && reason.contains("start that version"), "{reason}");
}

#[test]
fn keys_are_kind_and_name() {
    for good in ["region/eu-west", "version/my-policy@sha256:ab", "x/y"] {
        assert_eq!(key(good).to_string(), good);
    }
    for bad in ["region", "region/", "/x", "a/b/c", "a/b c", "a/é", &format!("a/{}", "x".repeat(201))] {
        assert!(Key::try_from(bad.to_owned()).is_err(), "{bad} was taken");
    }
}

/// Both ways to the next state agree: what a draft promises, and what its entry makes.
#[test]
fn a_draft_promises_what_its_entry_makes() {
    let mut state = State::default();
    let mut number = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = |below: u64| {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (number >> 33) % below
    };
    for round in 0..500 {
        let wishes: Vec<Wish> = (0..draw(4))
            .map(|place| {
                let name = format!("tenant/{}-{place}", draw(10));
                let wish = put(&name, &format!(r#"{{"n":{}}}"#, draw(5)));
                if draw(4) == 0 { Wish { body: None, ..wish } } else { wish }
            })
            .collect();
        let draft = draft(wishes);
        let edits = state.grant(&draft).unwrap();
        if edits.is_empty() {
            continue;
        }
        let promised = state.after(&draft).unwrap();
        let change = Change::new(&draft, edits, (state.generation, state.head), round, "id");
        let entry = change.encode().unwrap();
        let before = state.clone();
        assert_eq!(state.apply(change.generation, &entry).unwrap(), change);
        assert_eq!((&state.objects, state.generation), (&promised.objects, promised.generation));
        // The same entry does not follow twice, nor after another.
        assert!(state.clone().apply(change.generation, &entry).is_err());
        let mut other = before;
        other.head = portolan_core::ids::Digest([9; 32]);
        assert!(other.apply(change.generation, &entry).unwrap_err().reason.contains("another history"));
    }
    assert!(state.generation > 300, "{}", state.generation);
    _ = Arc::new(state);
}
