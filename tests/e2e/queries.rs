//! Queries across shards through a running node: what a tenant's token sees and what an administrator's, the forms of
//! answers, refusals, and the command line.

use bytes::Bytes;
use http::Request;
use portolan_tests::client::{Answer, Client};
use portolan_tests::node::{Node, run};
use portolan_tests::until;
use portolan_tests::upstream::Upstream;
use serde_json::{Value, json};

use super::shards::{ask, folder, read, says, token};

const TENANTS: [&str; 6] = ["acme", "globex", "initech", "umbrella", "hooli", "stark"];

async fn query(node: &Node, token: &str, accept: &str, body: &str) -> Answer {
    let mut client = Client::connect(node.public(), "shop.test").await.unwrap();
    let mut request = Request::post("/-/query").header("content-type", "text/plain").header("accept", accept);
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    client.send(request, Bytes::from(body.to_owned())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_see_what_their_caller_may() {
    let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
    let store = format!(
        "sqlite = {:?}\n[shard.s2]\nprimary = \"here\"\n[shard.s2.store.here]\nsqlite = {:?}\n\
         [placement]\nkey = \"00112233445566778899aabbccddeeff\"\n\
         rule = [{{ ranges = [{{ last = \"7fffffffffffffff\", shard = \"s1\" }}, {{ last = \"ffffffffffffffff\", shard = \"s2\" }}] }}]\n",
        place.path().join("s1.db"),
        place.path().join("s2.db")
    );
    let folder = folder(place.path(), &upstream, &store);
    let (code, text) = says(folder.path(), &["apply"]).await;
    assert_eq!(code, 0, "{text}");
    assert_eq!(says(folder.path(), &["migrate", "apply"]).await.0, 0);
    let node = Node::start_in(folder).await;
    until("the shards are open", async || {
        let status = node.status().await;
        let shards = status["shards"].as_array().unwrap();
        shards.len() == 2
            && shards.iter().all(|shard| shard["problem"].is_null() && shard["lease_ms"].is_u64())
    })
    .await;
    let mut acme = String::new();
    for (number, tenant) in TENANTS.into_iter().enumerate() {
        let token = token(node.folder(), tenant).await;
        for id in 0..=number {
            let row = json!({ "id": id, "total": "1.50" });
            let written = ask(&node, &token, http::Method::POST, "/-/data/orders", row).await;
            assert_eq!(written.status, 201, "{}", written.text());
        }
        if tenant == "acme" {
            acme = token;
        }
    }
    let made = run(node.folder(), &["token", "create", "root", "--role", "admin"]).await;
    let root = String::from_utf8(made.stdout).unwrap().trim().to_owned();

    // An administrator sees all tenants, a tenant its own.
    let count = "SELECT tenant, count(*) AS n FROM orders GROUP BY tenant ORDER BY n";
    let all = query(&node, &root, "", count).await;
    let wanted: Vec<Value> =
        (1..).zip(TENANTS).map(|(n, tenant)| json!({ "tenant": tenant, "n": n })).collect();
    assert_eq!((all.status.as_u16(), read(&all)), (200, Value::Array(wanted)), "{}", all.text());
    let own = query(&node, &acme, "application/x-ndjson", count).await;
    assert_eq!(own.text(), "{\"tenant\":\"acme\",\"n\":1}\n");
    assert_eq!(own.header("content-type"), "application/x-ndjson");
    let csv =
        query(&node, &acme, "text/csv", "SELECT id, total FROM orders WHERE tenant = 'globex' OR id = 0")
            .await;
    assert_eq!(csv.text(), "id,total\n0,1.50\n");
    let plan = query(&node, &acme, "", "EXPLAIN SELECT id FROM orders").await;
    assert!(plan.text().contains("ShardScan: shards=[s"), "{}", plan.text());

    for (token, accept, sql, status, code) in [
        ("", "", count, 401, "unauthentic"),
        ("ptl_x", "", count, 401, "unauthentic"),
        (&acme, "text/html", count, 406, "not-acceptable"),
        (&acme, "", "DELETE FROM orders", 405, "read-only"),
        (&acme, "", "SELECT nothing FROM orders", 400, "bad-statement"),
        (&root, "", "SELECT * FROM portolan_log", 400, "bad-statement"),
    ] {
        let answer = query(&node, token, accept, sql).await;
        assert_eq!(
            (answer.status.as_u16(), &read(&answer)["code"]),
            (status, &json!(code)),
            "{sql}: {}",
            answer.text()
        );
    }
    // What needs more memory than there is takes its worker along, and nothing else.
    let greedy = "SELECT array_agg(repeat('x', 100000)) AS a FROM generate_series(1, 1000000)";
    let refused = query(&node, &root, "", greedy).await;
    assert_eq!(
        (refused.status.as_u16(), &read(&refused)["code"]),
        (422, &json!("limit")),
        "{}",
        refused.text()
    );
    assert_eq!(query(&node, &root, "", "SELECT count(*) AS n FROM orders").await.text(), "[{\"n\":21}]");

    let (code, text) = says(node.folder(), &["query", "SELECT count(*) AS n FROM orders"]).await;
    assert_eq!((code, text.as_str()), (0, "{\"n\":21}\n"));
    let (code, text) = says(
        node.folder(),
        &["query", "--tenant", "globex", "--format", "csv", "SELECT count(*) AS n FROM orders"],
    )
    .await;
    assert_eq!((code, text.as_str()), (0, "n\n2\n"));
    let (code, text) = says(node.folder(), &["query", "DROP TABLE orders"]).await;
    assert!(code == 3 && text.contains("nothing has changed"), "{text}");
}
