//! A shop's rows, three ways: on three shards of SQLite, on three of PostgreSQL, and in the engine's memory as one.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr as _;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int16Array, Int32Array, Int64Array,
    RecordBatch, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use portolan_changelog::{Access, Capture, Engine, PostgresConfig, Store};
use portolan_core::ids::RegionName;
use portolan_core::loss::Durability;
use portolan_core::tenant_table::{ConflictRule, Identifier, Tables, TenantTable, Writers};
use portolan_test_postgres::Cluster;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::generate::Dice;
use crate::engine::{Place, Query};
use crate::{Address, Format, Limits};

pub(super) const HOMES: [(&str, &str); 5] =
    [("acme", "s0"), ("globex", "s0"), ("initech", "s1"), ("umbrella", "s1"), ("hooli", "s1")];
pub(super) const TENANTS: [&str; 5] = ["acme", "globex", "initech", "umbrella", "hooli"];
pub(super) const NOTES: [&str; 12] = ["", "a", "A", "ab", "B", "b", "z", "Zebra", "é", "e", "a ", "it's"];
const SHARDS: [&str; 3] = ["s0", "s1", "s2"];

/// An order. Times are in seconds since 2026-01-01, amounts in cents.
#[derive(Clone, Debug)]
struct Order {
    tenant: &'static str,
    id: i64,
    customer: Option<i32>,
    amount: Option<i64>,
    qty: Option<i32>,
    small: i16,
    note: Option<&'static str>,
    paid: Option<bool>,
    placed: Option<i64>,
    due: Option<i32>,
    ratio: Option<f64>,
    mark: Option<u8>,
}

#[derive(Clone, Debug)]
struct Customer {
    tenant: &'static str,
    id: i32,
    name: Option<&'static str>,
    country: Option<&'static str>,
}

const COUNTRIES: [(&str, &str, i32); 4] =
    [("de", "Germany", 3), ("fr", "France", 1), ("it", "Italy", 2), ("pl", "Poland", 4)];

fn orders() -> Vec<Order> {
    let mut dice = Dice::new(7);
    let mut orders = Vec::new();
    for (number, tenant) in TENANTS.into_iter().enumerate() {
        // One tenant has many, one has none.
        for id in 0..[60, 17, 30, 5, 0][number] {
            let some = dice.below(6) > 0;
            orders.push(Order {
                tenant,
                id,
                customer: (dice.below(8) > 0).then(|| i32::try_from(dice.below(8)).unwrap()),
                amount: some.then(|| i64::try_from(dice.below(5_000)).unwrap() - 1_000),
                qty: (dice.below(5) > 0).then(|| i32::try_from(dice.below(9)).unwrap() - 2),
                small: i16::try_from(dice.below(4)).unwrap(),
                note: (dice.below(5) > 0).then(|| NOTES[dice.below(NOTES.len())]),
                paid: (dice.below(5) > 0).then(|| dice.below(2) == 1),
                placed: (dice.below(6) > 0).then(|| i64::try_from(dice.below(86_400 * 90)).unwrap()),
                due: (dice.below(4) > 0).then(|| i32::try_from(dice.below(60)).unwrap()),
                ratio: (dice.below(4) > 0)
                    .then(|| f64::from(u32::try_from(dice.below(40)).unwrap()) / 4.0 - 3.0),
                mark: (dice.below(3) > 0).then(|| u8::try_from(dice.below(5)).unwrap()),
            });
        }
    }
    orders
}

fn customers() -> Vec<Customer> {
    let mut dice = Dice::new(8);
    let mut customers = Vec::new();
    for tenant in TENANTS {
        for id in 0..6 {
            customers.push(Customer {
                tenant,
                id,
                name: (dice.below(5) > 0).then(|| NOTES[dice.below(NOTES.len())]),
                country: (dice.below(5) > 0).then(|| ["de", "fr", "it", "xx"][dice.below(4)]),
            });
        }
    }
    customers
}

pub(super) fn mark(number: u8) -> String {
    format!("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a{number:02x}")
}

const DAY0: i32 = 20_454;

fn date(day: i32) -> String {
    let date = datafusion::arrow::temporal_conversions::date32_to_datetime(DAY0 + day).unwrap();
    date.format("%Y-%m-%d").to_string()
}

/// The same moment in several forms, where an engine takes several.
fn moment(seconds: i64, form: usize) -> String {
    let us = (i64::from(DAY0) * 86_400 + seconds) * 1_000_000 + 250;
    let time = datafusion::arrow::temporal_conversions::timestamp_us_to_datetime(us).unwrap();
    let forms = ["%Y-%m-%dT%H:%M:%S%.6fZ", "%Y-%m-%d %H:%M:%S%.6f+00:00"];
    time.format(forms[form % 2]).to_string()
}

fn literal<T: ToString>(value: Option<T>, quoted: bool) -> String {
    match value {
        None => "NULL".to_owned(),
        Some(value) if quoted => format!("'{}'", value.to_string().replace('\'', "''")),
        Some(value) => value.to_string(),
    }
}

/// The statements that make a shard's tables and rows.
fn statements(postgres: bool, takes: &dyn Fn(&str) -> bool) -> Vec<String> {
    // An engine's own order of texts is neither's of the bytes.
    let (collate, placed, double) = if postgres {
        ("COLLATE \"en-x-icu\"", "timestamptz", "double precision")
    } else {
        ("COLLATE NOCASE", "TIMESTAMPTZ", "REAL")
    };
    let mut all = vec![
        format!(
            "CREATE TABLE orders (tenant text NOT NULL, id bigint NOT NULL, customer int4, amount numeric(12,2), qty int4, \
             small smallint NOT NULL, note text {collate}, paid boolean, placed {placed}, due date, ratio {double}, mark uuid, \
             PRIMARY KEY (tenant, id))"
        ),
        format!(
            "CREATE TABLE customers (tenant text NOT NULL, id int4 NOT NULL, name text {collate}, country text, \
             PRIMARY KEY (tenant, id))"
        ),
        "CREATE TABLE countries (code text NOT NULL PRIMARY KEY, title text NOT NULL, rank int4 NOT NULL)"
            .to_owned(),
    ];
    for (at, order) in orders().iter().enumerate().filter(|(_, order)| takes(order.tenant)) {
        let amount = order.amount.map(|cents| {
            format!("{}{}.{:02}", if cents < 0 { "-" } else { "" }, cents.abs() / 100, cents.abs() % 100)
        });
        let paid =
            order.paid.map(|paid| if postgres { paid.to_string() } else { i32::from(paid).to_string() });
        all.push(format!(
            "INSERT INTO orders VALUES ('{}', {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {})",
            order.tenant,
            order.id,
            literal(order.customer, false),
            literal(amount, false),
            literal(order.qty, false),
            order.small,
            literal(order.note, true),
            literal(paid, false),
            literal(order.placed.map(|seconds| moment(seconds, at)), true),
            literal(order.due.map(date), true),
            literal(order.ratio.map(|ratio| format!("{ratio:?}")), false),
            literal(order.mark.map(mark), true),
        ));
    }
    for customer in customers().iter().filter(|customer| takes(customer.tenant)) {
        all.push(format!(
            "INSERT INTO customers VALUES ('{}', {}, {}, {})",
            customer.tenant,
            customer.id,
            literal(customer.name, true),
            literal(customer.country, true),
        ));
    }
    for (code, title, rank) in COUNTRIES {
        all.push(format!("INSERT INTO countries VALUES ('{code}', '{title}', {rank})"));
    }
    all
}

pub(super) fn tables() -> Vec<TenantTable> {
    let name = |text: &str| Identifier::new(text).unwrap();
    let table = |table: &str, tenant: Option<&str>, key: &[&str]| TenantTable {
        name: name(table),
        tenant: tenant.map(name),
        key: key.iter().map(|column| name(column)).collect(),
        conflict: ConflictRule::default(),
        writers: Writers::Primary,
        durability: Durability::Local,
    };
    vec![
        table("orders", Some("tenant"), &["tenant", "id"]),
        table("customers", Some("tenant"), &["tenant", "id"]),
        table("countries", None, &["code"]),
    ]
}

/// A set of shards.
pub(super) struct Shop {
    pub(super) shards: BTreeMap<String, Place>,
    /// The same, for who asks for one tenant.
    pub(super) tenants: BTreeMap<String, Place>,
    _stores: Vec<Store>,
    pub(super) folder: TempDir,
    pub(super) cluster: Option<Cluster>,
}

impl Shop {
    /// A query over all shards.
    pub(super) fn query(&self, sql: &str) -> Query {
        Query {
            format: Format::Json,
            homes: HOMES
                .iter()
                .map(|(tenant, shard)| ((*tenant).to_owned(), Some((*shard).to_owned())))
                .collect(),
            limits: Limits::default(),
            partial: false,
            shards: self.shards.clone(),
            sql: sql.to_owned(),
            tables: tables(),
            tenant: None,
        }
    }

    /// A query of one tenant.
    pub(super) fn own(&self, tenant: &str, sql: &str) -> Query {
        Query { shards: self.tenants.clone(), tenant: Some(tenant.to_owned()), ..self.query(sql) }
    }

    /// Shards of SQLite.
    pub(super) async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (mut shards, mut stores) = (BTreeMap::new(), Vec::new());
        for shard in SHARDS {
            let path = folder.path().join(format!("{shard}.db"));
            fill_sqlite(&path, shard).await;
            stores.push(open(&Engine::Sqlite(path.clone())).await);
            let mut connection = connect(&path).await;
            connection.execute(left_behind(shard, "portolan_tenant")).await.unwrap();
            connection.close().await.unwrap();
            shards.insert(shard.to_owned(), Place::At(Address::Sqlite(path)));
        }
        Self { tenants: shards.clone(), shards, _stores: stores, folder, cluster: None }
    }

    /// Shards of PostgreSQL, and a database `all` with everything.
    pub(super) async fn postgres() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cluster = Cluster::start().await;
        let (mut shards, mut tenants, mut stores) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for shard in SHARDS {
            cluster.admin(&format!("CREATE DATABASE {shard} OWNER own")).await;
            fill_postgres(&cluster, shard, &|tenant| lies(shard, tenant)).await;
            let url = |role: &str| cluster.url(role, shard);
            let config = PostgresConfig {
                access: Access::default(),
                applier: url("put"),
                capture: Capture::default(),
                owner: url("own"),
                writer: url("app"),
            };
            stores.push(open(&Engine::Postgres(config)).await);
            let mut connection = cluster.connect("postgres", shard).await;
            connection.execute(left_behind(shard, "portolan.tenant")).await.unwrap();
            connection.close().await.unwrap();
            shards.insert(shard.to_owned(), at(url("put")));
            tenants.insert(shard.to_owned(), at(url("app")));
        }
        cluster.admin("CREATE DATABASE everything OWNER own").await;
        fill_postgres(&cluster, "everything", &|_| true).await;
        Self { shards, tenants, _stores: stores, folder, cluster: Some(cluster) }
    }

    /// A shard of each engine.
    pub(super) fn mixed(sqlite: &Self, postgres: &Self) -> BTreeMap<String, Place> {
        let mut shards = sqlite.shards.clone();
        shards.insert("s1".to_owned(), postgres.shards["s1"].clone());
        shards
    }
}

/// An address of PostgreSQL.
pub(super) fn at(url: String) -> Place {
    Place::At(Address::Postgres { access: Access::default(), password: None, url })
}

/// All shards of one engine, made once for a test binary.
pub(super) async fn sqlite() -> &'static Shop {
    static SHOP: OnceCell<Shop> = OnceCell::const_new();
    SHOP.get_or_init(Shop::sqlite).await
}

fn lies(shard: &str, tenant: &str) -> bool {
    // What a move has left behind, and nobody may see there.
    HOMES.contains(&(tenant, shard)) || (shard, tenant) == ("s2", "umbrella")
}

fn left_behind(shard: &str, table: &str) -> AssertSqlSafe<String> {
    let away = i32::from(shard == "s2");
    AssertSqlSafe(format!("INSERT INTO {table} (tenant, placement, away) VALUES ('umbrella', 2, {away})"))
}

async fn open(engine: &Engine) -> Store {
    let store = Store::open(engine, RegionName::new("eu").unwrap()).await.unwrap();
    store.declare(&Tables::new(tables()).unwrap(), 1).await.unwrap();
    store
}

async fn connect(path: &Path) -> SqliteConnection {
    let url = format!("sqlite://{}", path.display());
    SqliteConnectOptions::from_str(&url).unwrap().create_if_missing(true).connect().await.unwrap()
}

async fn fill_sqlite(path: &Path, shard: &str) {
    let mut connection = connect(path).await;
    let sql = statements(false, &|tenant| lies(shard, tenant)).join(";");
    connection.execute(sqlx::raw_sql(AssertSqlSafe(format!("BEGIN; {sql}; COMMIT")))).await.unwrap();
    connection.close().await.unwrap();
}

async fn fill_postgres(cluster: &Cluster, database: &str, takes: &dyn Fn(&str) -> bool) {
    let mut connection = cluster.connect("own", database).await;
    let sql = format!("BEGIN; {}; COMMIT", statements(true, takes).join(";"));
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
    connection.close().await.unwrap();
}

/// The same rows in memory, as one database: what the engine makes of them is what shards must come to.
pub(super) fn memory(context: &SessionContext) {
    let orders = orders();
    let column = |array: ArrayRef, name: &str, nullable: bool| {
        (Field::new(name, array.data_type().clone(), nullable), array)
    };
    let text = |values: Vec<Option<String>>| Arc::new(StringArray::from(values)) as ArrayRef;
    let moments = orders
        .iter()
        .map(|order| order.placed.map(|seconds| (i64::from(DAY0) * 86_400 + seconds) * 1_000_000 + 250));
    let amounts = orders.iter().map(|order| order.amount.map(i128::from));
    let amounts = amounts.collect::<Decimal128Array>().with_precision_and_scale(12, 2).unwrap();
    register(
        context,
        "orders",
        vec![
            column(text(orders.iter().map(|order| Some(order.tenant.to_owned())).collect()), "tenant", false),
            column(Arc::new(orders.iter().map(|order| Some(order.id)).collect::<Int64Array>()), "id", false),
            column(
                Arc::new(orders.iter().map(|order| order.customer).collect::<Int32Array>()),
                "customer",
                true,
            ),
            column(Arc::new(amounts), "amount", true),
            column(Arc::new(orders.iter().map(|order| order.qty).collect::<Int32Array>()), "qty", true),
            column(
                Arc::new(orders.iter().map(|order| Some(order.small)).collect::<Int16Array>()),
                "small",
                false,
            ),
            column(text(orders.iter().map(|order| order.note.map(str::to_owned)).collect()), "note", true),
            column(Arc::new(orders.iter().map(|order| order.paid).collect::<BooleanArray>()), "paid", true),
            column(
                Arc::new(moments.collect::<TimestampMicrosecondArray>().with_timezone("UTC")),
                "placed",
                true,
            ),
            column(
                Arc::new(orders.iter().map(|order| order.due.map(|day| DAY0 + day)).collect::<Date32Array>()),
                "due",
                true,
            ),
            column(Arc::new(orders.iter().map(|order| order.ratio).collect::<Float64Array>()), "ratio", true),
            column(text(orders.iter().map(|order| order.mark.map(mark)).collect()), "mark", true),
        ],
    );
    let customers = customers();
    register(
        context,
        "customers",
        vec![
            column(text(customers.iter().map(|one| Some(one.tenant.to_owned())).collect()), "tenant", false),
            column(Arc::new(customers.iter().map(|one| Some(one.id)).collect::<Int32Array>()), "id", false),
            column(text(customers.iter().map(|one| one.name.map(str::to_owned)).collect()), "name", true),
            column(
                text(customers.iter().map(|one| one.country.map(str::to_owned)).collect()),
                "country",
                true,
            ),
        ],
    );
    register(
        context,
        "countries",
        vec![
            column(text(COUNTRIES.iter().map(|one| Some(one.0.to_owned())).collect()), "code", false),
            column(text(COUNTRIES.iter().map(|one| Some(one.1.to_owned())).collect()), "title", false),
            column(Arc::new(COUNTRIES.iter().map(|one| Some(one.2)).collect::<Int32Array>()), "rank", false),
        ],
    );
}

fn register(context: &SessionContext, name: &str, columns: Vec<(Field, ArrayRef)>) {
    let (fields, arrays): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&schema), arrays).unwrap();
    let table = MemTable::try_new(schema, vec![vec![batch]]).unwrap();
    context.register_table(name, Arc::new(table)).unwrap();
}
