//! Switches over a control store of SQLite: what they go by, and that only one of switch and close ever takes effect.

use portolan_control::Engine;
use portolan_core::log::Epoch;
use serde_json::json;
use tempfile::TempDir;

use super::*;

struct World {
    _folder: TempDir,
    place: Place,
    store: Store,
}

fn shard(name: &str) -> ShardName {
    ShardName::new(name).unwrap()
}

fn acme() -> TenantName {
    TenantName::new("acme").unwrap()
}

fn region() -> Value {
    json!({ "pool": { "web": { "endpoints": ["127.0.0.1:9"] } } })
}

/// From `a`, where a rule has the tenant, to `b`.
fn moving(placement: u64) -> Moving {
    let stay =
        |name, placement| Stay { epoch: Epoch(1), placement: Placement(placement), shard: shard(name) };
    Moving {
        from: stay("a", placement),
        id: "move-1".to_owned(),
        tenant: acme(),
        to: stay("b", placement + 2),
    }
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("portolan.toml");
        let text = "[node]\nregion = \"eu\"\n[listen]\npublic = [\"127.0.0.1:0\"]\n[control]\nsqlite = \"control.db\"\n";
        std::fs::write(&path, text).unwrap();
        let engine = Engine::Sqlite(folder.path().join("control.db"));
        let store = Store::open(engine, None).await.unwrap();
        let world = Self { _folder: folder, place: Place { environment: Vec::new(), path }, store };
        world.put("region", "eu", region()).await;
        for name in ["a", "b"] {
            let drained = name == "b";
            let store = json!({ "eu": { "sqlite": format!("{name}.db") } });
            world.put("shard", name, json!({ "primary": "eu", "store": store, "drain": drained })).await;
        }
        world
    }

    async fn put(&self, kind: &str, name: &str, body: Value) {
        let Value::Object(body) = body else { panic!("a table") };
        let wish = Wish {
            key: Key::new(kind, name).unwrap(),
            body: Some(body),
            expect: Expect::Any,
            manager: Manager::Api,
            take_over: false,
        };
        let draft = Draft {
            author: "test".to_owned(),
            message: String::new(),
            source: "test".to_owned(),
            wishes: vec![wish],
        };
        self.store.commit(&draft).await.unwrap();
    }

    fn directory(&self) -> Directory {
        let state = self.store.state();
        let seen = |name| (shard(name), tenure(&state, name).unwrap());
        let tenures = BTreeMap::from(["a", "b"].map(seen));
        Directory::new(self.store.clone(), self.place.clone(), "test".to_owned(), tenures)
    }

    /// One that has looked where the tenant is.
    async fn looked(&self) -> (Directory, Whereabouts) {
        let directory = self.directory();
        let there = directory.where_is(&acme()).await.unwrap();
        (directory, there)
    }

    fn there(&self) -> Option<(String, u64)> {
        let there = placed(&self.store.state(), &acme()).unwrap()?;
        Some((there.shard.to_string(), there.placement.0))
    }
}

#[tokio::test]
async fn a_tenant_of_a_rule_gets_a_place_of_its_own() {
    let world = World::new().await;
    let (directory, there) = world.looked().await;
    assert_eq!(there, Whereabouts { placement: Placement(0), shard: shard("a") });
    // What is no part of it may change.
    world.put("region", "us", region()).await;
    assert_eq!(directory.switch(&moving(0)).await, Ok(Switched::Moved));
    assert_eq!(world.there(), Some(("b".to_owned(), 2)));
    assert_eq!(directory.switch(&moving(0)).await, Ok(Switched::Moved), "asked again");
    assert_eq!(directory.close(&moving(0)).await, Ok(Switched::Moved), "it has switched for good");
    let (_, there) = world.looked().await;
    assert_eq!(there, Whereabouts { placement: Placement(2), shard: shard("b") });
}

#[tokio::test]
async fn what_was_seen_must_still_be_so() {
    for (kind, name, body) in [
        ("lease", "a", json!({ "epoch": 2, "primary": "eu" })),
        ("lease", "b", json!({ "epoch": 1, "primary": "us" })),
        (
            "shard",
            "b",
            json!({ "primary": "eu", "store": { "eu": { "sqlite": "other.db" } }, "drain": true }),
        ),
        ("place", "acme", json!({ "shard": "a", "placement": 1 })),
        ("settings", "placement", json!({ "key": "00000000000000000000000000000000" })),
        ("shard", "c", json!({ "primary": "eu", "store": { "eu": { "sqlite": "c.db" } } })),
        ("tenant", "acme", json!({ "location": "eu" })),
    ] {
        let world = World::new().await;
        let (directory, _) = world.looked().await;
        world.put(kind, name, body).await;
        assert_eq!(directory.switch(&moving(0)).await, Ok(Switched::Stays), "{kind}/{name}");
    }
}

#[tokio::test]
async fn a_mover_that_has_not_looked_switches_nothing() {
    let world = World::new().await;
    assert_eq!(world.directory().switch(&moving(0)).await, Ok(Switched::Stays));
    assert_eq!(world.there(), None);
}

#[tokio::test]
async fn a_closed_move_never_switches() {
    let world = World::new().await;
    world.put("place", "acme", json!({ "shard": "a", "placement": 4, "access": "suspended" })).await;
    let (late, there) = world.looked().await;
    assert_eq!(there.placement, Placement(4));
    // The answer to a change that is added to a generation that another has followed.
    let before = world.store.state();
    assert_eq!(world.directory().close(&moving(4)).await, Ok(Switched::Stays));
    assert_eq!(world.there(), Some(("a".to_owned(), 6)));
    assert_eq!(late.put(&before, &moving(4), &moving(4).to, String::new()).await, Ok(false));
    assert_eq!(late.switch(&moving(4)).await, Ok(Switched::Stays));
    assert_eq!(world.directory().close(&moving(4)).await, Ok(Switched::Stays), "closed again");
    assert_eq!(world.there(), Some(("a".to_owned(), 6)), "nothing is written twice");
    let key = key(&acme()).unwrap();
    assert_eq!(world.store.state().get(&key).unwrap().body["access"], "suspended");
    let (next, _) = world.looked().await;
    assert_eq!(next.switch(&moving(6)).await, Ok(Switched::Moved));
    assert_eq!(world.there(), Some(("b".to_owned(), 8)));
    assert_eq!(world.store.state().get(&key).unwrap().body["access"], "suspended");
}
