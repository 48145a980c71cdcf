//! What one engine has and the other has not: types of PostgreSQL, and what direct writers put into SQLite.

use super::place::{Place, check, send, table};
use crate::data::Catalogue;
use portolan_core::tenant_table::Tables;

pub(super) async fn each_engine_tells_what_it_keeps(place: Place) {
    if place.is_sqlite() { odd_values_of_sqlite(place).await } else { types_of_postgres(place).await }
}

async fn types_of_postgres(place: Place) {
    let schema = [
        "CREATE TYPE mood AS ENUM ('sad', 'glad')",
        "CREATE DOMAIN cents AS bigint CHECK (value >= 0)",
        "CREATE TABLE kinds (tenant varchar(63) NOT NULL, id bigint GENERATED ALWAYS AS IDENTITY, mood mood, words text[], \
         short varchar(5), small smallint, real4 real, at timestamptz, span interval, price numeric(6, 2), own cents, fixed char(3), \
         PRIMARY KEY (tenant, id))",
    ];
    let door = place.door_to("acme", &schema, vec![table("kinds", true, &["tenant", "id"])]).await;
    for (request, content, status, wanted) in [
        (
            "POST /kinds?select=id,mood,words,span | Prefer: return=representation",
            r#"{"mood": "glad", "words": "{a,b}", "span": "PT1H"}"#,
            201,
            r#"{"id":1,"mood":"glad","words":"{a,b}","span":"01:00:00"}"#,
        ),
        ("POST /kinds", r#"{"mood": "odd"}"#, 422, "~value-refused"),
        ("POST /kinds", r#"{"short": "too long"}"#, 422, "~value-refused"),
        ("POST /kinds", r#"{"price": "12345.00"}"#, 422, "~value-refused"),
        ("POST /kinds", r#"{"own": -1}"#, 422, "~check-violation"),
        ("POST /kinds", r#"{"small": 40000}"#, 422, "~wrong-type"),
        ("POST /kinds", r#"{"id": 7}"#, 422, "~not-writable"),
        ("PUT /kinds/7", "{}", 422, "~not-writable"),
        (
            "PATCH /kinds/1?select=price,real4,own,small,fixed,at | Prefer: return=representation",
            r#"{"price": "1.5", "real4": 0.1, "own": 5, "small": -5, "fixed": "a", "at": "infinity"}"#,
            200,
            r#"{"price":"1.50","real4":0.1,"own":5,"small":-5,"fixed":"a","at":"infinity"}"#,
        ),
        (
            "GET /kinds?select=id&real4=eq.0.1&price=eq.1.5&at=eq.infinity&mood=eq.glad&own=in.(5)",
            "",
            200,
            r#"[{"id":1}]"#,
        ),
        ("GET /kinds?mood=eq.odd", "", 422, "~value-refused"),
        ("GET /kinds?words=gt.x", "", 422, "~value-refused"),
    ] {
        check(&door, request, content, status, wanted).await;
    }
    check(&door, "POST /kinds", "[{}, {}, {}]", 201, "").await;
    let mut page = send(&door, &["GET /kinds?select=id&limit=1&order=at.desc,mood,words,real4"], "").await;
    let mut ids = vec![page.text.clone()];
    while let Some(link) = page.header("link").strip_prefix("</-/data") {
        let request = format!("GET {}", link.split('>').next().unwrap());
        page = send(&door, &[&request], "").await;
        ids.push(page.text.clone());
    }
    ids.sort_unstable();
    // A sequence goes on also where rows were refused.
    ids.dedup();
    assert_eq!(ids.len(), 4, "{ids:?}");
}

async fn odd_values_of_sqlite(place: Place) {
    let schema = [
        "CREATE TABLE kinds (tenant TEXT NOT NULL, id INTEGER PRIMARY KEY, at TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP, \
         done BOOLEAN, rank BIGINT, data BLOB, own STRING_TEXT, plain TEXT)",
    ];
    let door = place.door_to("acme", &schema, vec![table("kinds", true, &["id"])]).await;
    let made = send(&door, &["POST /kinds?select=id,at", "Prefer: return=representation"], "{}").await;
    assert_eq!(made.json()["id"], 1);
    let at = made.json()["at"].as_str().unwrap().to_owned();
    assert!(at.ends_with(".000000Z") && at.contains('T'), "its clock is told as all times are: {at}");
    // A direct writer holds no types.
    let lease = door.lease.unwrap();
    let mut direct = door.store.write(&door.tenant, &lease, portolan_core::time::Moment(0)).await.unwrap();
    let sql = "INSERT INTO kinds (tenant, at, done, rank, data, plain) VALUES ('acme', 5, 7, 'many', 'text', x'00ff')";
    direct.execute(sql, &[]).await.unwrap();
    direct.commit(&lease, || portolan_core::time::Moment(0)).await.unwrap();
    check(
        &door,
        "GET /kinds/2?select=at,done,rank,data,plain",
        "",
        200,
        r#"{"at":5,"done":7,"rank":"many","data":"text","plain":"AP8="}"#,
    )
    .await;
    for order in ["at", "done.desc", "rank", "data", "plain.desc"] {
        let first = send(&door, &[&format!("GET /kinds?select=id&limit=1&order={order}")], "").await;
        let link = first.header("link").strip_prefix("</-/data").unwrap();
        let next = send(&door, &[&format!("GET {}", link.split('>').next().unwrap())], "").await;
        let mut both = [first.text.as_str(), next.text.as_str()];
        both.sort_unstable();
        assert_eq!(both, [r#"[{"id":1}]"#, r#"[{"id":2}]"#], "{order}");
    }
    // What SQLite would take as a number is no column's type.
    let mut migration = door.store.maintain().await.unwrap();
    migration.execute("CREATE TABLE odd (tenant TEXT NOT NULL, id STRING PRIMARY KEY)", &[]).await.unwrap();
    migration.finish().await.unwrap();
    let tables = Tables::new(vec![table("odd", true, &["id"])]).unwrap();
    let error = Catalogue::read(&door.store, &tables).await.unwrap_err().to_string();
    assert!(error.contains("column `id` of the type `STRING`"), "{error}");
}
