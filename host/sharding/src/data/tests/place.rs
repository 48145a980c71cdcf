//! Shards with the tables of these tests, and requests to them.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use portolan_changelog::{Lease, Store};
use portolan_core::ids::{RegionName, ShardName, TenantName};
use portolan_core::log::Epoch;
use portolan_core::loss::Durability;
use portolan_core::tenant_table::{ConflictRule, Identifier, Tables, TenantTable, Writers};
use portolan_core::time::Moment;

use crate::data::{Catalogue, Door, answer};
use crate::schema::tests::place::engine;

const SCHEMA: &[&str] = &[
    "CREATE TABLE notes (tenant text NOT NULL, id bigint NOT NULL, title text NOT NULL, body text, rank bigint, \
     done boolean NOT NULL DEFAULT false, amount numeric, ratio double precision, at timestamptz, seen timestamp, \
     data bytea, doc jsonb, uid uuid, day date, small int4, PRIMARY KEY (tenant, id), \
     CONSTRAINT rank_small CHECK (rank < 1000), CONSTRAINT title_once UNIQUE (tenant, title))",
    "CREATE TABLE lines (tenant text NOT NULL, note bigint NOT NULL, no text NOT NULL, words text, \
     size bigint GENERATED ALWAYS AS (length(words)) STORED, PRIMARY KEY (tenant, note, no), \
     CONSTRAINT of_note FOREIGN KEY (tenant, note) REFERENCES notes (tenant, id))",
    "CREATE TABLE tags (id text NOT NULL PRIMARY KEY, tenant text NOT NULL, label text, extra text)",
    "CREATE TABLE settings (tenant text NOT NULL PRIMARY KEY, theme text)",
    "CREATE TABLE plans (id bigint PRIMARY KEY, name text)",
    "INSERT INTO plans VALUES (1, 'free'), (2, 'paid')",
];

/// Where shards of one engine are made.
#[derive(Clone)]
pub(super) struct Place(portolan_test_postgres::Place);

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Place {
    pub(super) fn sqlite() -> Self {
        Self(portolan_test_postgres::Place::sqlite())
    }

    pub(super) async fn postgres() -> Self {
        Self(portolan_test_postgres::Place::postgres().await)
    }

    pub(super) fn is_sqlite(&self) -> bool {
        self.0.is_sqlite()
    }

    /// The door of a tenant to a fresh shard, which is writable for long.
    pub(super) async fn door(&self, tenant: &str) -> Door {
        let tables = [
            table("notes", true, &["tenant", "id"]),
            table("lines", true, &["tenant", "note", "no"]),
            table("tags", true, &["id"]),
            table("settings", true, &["tenant"]),
            table("plans", false, &["id"]),
        ];
        self.door_to(tenant, SCHEMA, tables.to_vec()).await
    }

    /// The same, with other tables.
    pub(super) async fn door_to(&self, tenant: &str, schema: &[&str], tables: Vec<TenantTable>) -> Door {
        let store =
            Store::open(&engine(self.0.database().await), RegionName::new("eu").unwrap()).await.unwrap();
        let mut migration = store.maintain().await.unwrap();
        for statement in schema {
            migration.execute(statement, &[]).await.unwrap();
        }
        migration.finish().await.unwrap();
        let tables = Tables::new(tables).unwrap();
        store.declare(&tables, 1).await.unwrap();
        store.begin_epoch(Epoch(1), store.clock().await.unwrap() + 3_600_000_000).await.unwrap();
        let catalogue = Arc::new(Catalogue::read(&store, &tables).await.unwrap());
        Door {
            store,
            catalogue,
            shard: ShardName::new("eu-1").unwrap(),
            tenant: TenantName::new(tenant).unwrap(),
            lease: Some(Lease { epoch: Epoch(1), until: Moment(1_000) }),
            limits: crate::Limits::default(),
            memory: crate::Memory::default(),
        }
    }
}

pub(super) fn table(name: &str, tenant: bool, key: &[&str]) -> TenantTable {
    TenantTable {
        name: Identifier::new(name).unwrap(),
        tenant: tenant.then(|| Identifier::new("tenant").unwrap()),
        key: key.iter().map(|column| Identifier::new(column).unwrap()).collect(),
        conflict: ConflictRule::LastWriterWins,
        writers: Writers::Primary,
        durability: Durability::Local,
    }
}

/// The same shard, as another tenant.
pub(super) fn other(door: &Door, tenant: &str) -> Door {
    Door { tenant: TenantName::new(tenant).unwrap(), ..door.clone() }
}

/// Sends `METHOD PATH` and then header fields, each `name: value`.
pub(super) async fn send(door: &Door, request: &[&str], content: &str) -> Answer {
    let (method, path) = request[0].split_once(' ').unwrap();
    let mut builder = Request::builder().method(method).uri(path);
    for field in &request[1..] {
        let (name, value) = field.split_once(": ").unwrap();
        builder = builder.header(name, value);
    }
    let request = builder.body(Bytes::from(content.to_owned())).unwrap();
    let response = answer(door, request, &|| Moment(0)).await;
    let (parts, content) = response.into_parts();
    Answer {
        status: parts.status,
        headers: parts.headers,
        text: String::from_utf8(content.to_vec()).unwrap(),
    }
}

/// Sends a request, and wants this status and this in the content: all of it, or with `~` before it a part.
pub(super) async fn check(door: &Door, request: &str, content: &str, status: u16, wanted: &str) {
    let fields: Vec<&str> = request.split(" | ").collect();
    let answer = send(door, &fields, content).await;
    let same =
        wanted.strip_prefix('~').map_or_else(|| answer.text == wanted, |part| answer.text.contains(part));
    assert!(
        answer.status.as_u16() == status && same,
        "{request} {content}\nwanted {status} {wanted}\nwas {answer:?}"
    );
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(super) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}
