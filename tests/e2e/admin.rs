//! The admin API of a running node: over its socket, over TCP with tokens and certificates, from the command line.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use portolan_tests::client;
use portolan_tests::node::{self, Node, program, run};
use portolan_tests::until;
use portolan_tests::upstream::Upstream;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

/// A folder of a node with a control store of its own and an admin listener.
fn folder(place: &Path, more: &str) -> TempDir {
    node::folder(&format!(
        "[node]\nname = \"one\"\nregion = \"here\"\nthreads = 1\n\
         [listen]\npublic = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n\
         [policies]\ninstances = 100\n[control]\nsqlite = {:?}\n{more}",
        place.join("control.db")
    ))
}

/// A node with one pool, that runs.
async fn start(place: &Path, upstream: &Upstream) -> Node {
    let folder = folder(place, "");
    let text = format!(
        "[tenants]\nsources = [{{ header = \"x-tenant\" }}]\n[region.here.pool.web]\nendpoints = [\"{}\"]\n",
        upstream.address
    );
    std::fs::write(folder.path().join("conf.d/all.toml"), text).unwrap();
    let (code, text) = says(folder.path(), &["apply"]).await;
    assert_eq!(code, 0, "{text}");
    Node::start_in(folder).await
}

async fn says(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = run(folder, arguments).await;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text.into_owned())
}

/// The address of a node's admin listener, from its status.
async fn admin(node: &Node) -> SocketAddr {
    node.status().await["admin"].as_str().unwrap().parse().unwrap()
}

/// Makes a token by the command line.
async fn token(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, &[&["token", "create", "test"], arguments].concat()).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn the_command_line_is_a_client_with_tokens_and_exit_codes() {
    let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
    let node = start(place.path(), &upstream).await;
    let api = format!("http://{}", admin(&node).await);
    let elsewhere = tempfile::tempdir().unwrap();
    let ask = async |token: &str, arguments: &[&str]| {
        says(elsewhere.path(), &[arguments, &["--api", &api, "--token", token]].concat()).await
    };
    let (code, text) = ask("ptl_x", &["status"]).await;
    assert!(code == 6 && text.contains("the token is not known"), "{text}");
    let auditor = token(node.folder(), &["--role", "auditor"]).await;
    let (code, text) = ask(&auditor, &["status"]).await;
    assert!(code == 0 && text.contains("region here (here)"), "{text}");
    let (code, text) = ask(&auditor, &["revert", "1"]).await;
    assert!(code == 6 && text.contains("`change:write`"), "{text}");
    let operator = token(node.folder(), &["--role", "operator", "--expires-in", "1h"]).await;
    let (code, text) = ask(&operator, &["revert", "99"]).await;
    assert!(code == 4 && text.contains("the newest is 3"), "{text}");
    let (_, text) = ask(&auditor, &["audit"]).await;
    assert!(text.contains("by token: token test is made") && text.contains("sha256 "), "{text}");
    let (code, text) = ask(&auditor, &["audit", "--verify"]).await;
    assert!(code == 0 && text.contains("3 entries, each names the digest"), "{text}");
    let (code, text) = says(node.folder(), &["token", "list"]).await;
    assert!(code == 0 && text.contains("operator") && text.contains("last used here 2"), "{text}");
    let id = operator.strip_prefix("ptl_").unwrap().split('_').next().unwrap();
    let (code, text) = says(node.folder(), &["token", "revoke", id]).await;
    assert!(code == 0 && text.contains(&format!("- token/{id}")), "{text}");
    assert_eq!(ask(&operator, &["status"]).await.0, 6);
    assert_eq!(says(node.folder(), &["token", "revoke", id]).await.0, 4);
    // Going back revives no token.
    let (code, text) = says(node.folder(), &["revert", "3"]).await;
    assert!(code == 0 && text.contains("says all of it already"), "{text}");
    let (code, text) = says(node.folder(), &["events"]).await;
    assert!(code == 0 && text.contains("access-denied") && text.contains("  change  "), "{text}");
    assert_eq!(says(elsewhere.path(), &["status", "--api", "nonsense"]).await.0, 1);
    // Without a node the same routes serve, over the configuration.
    let folder = folder(place.path(), "");
    let (code, text) = says(folder.path(), &["token", "list"]).await;
    assert!(code == 0 && text.contains("auditor"), "{text}");
    assert_eq!(says(folder.path(), &["events"]).await.0, 1);
}

#[tokio::test]
async fn objects_are_changed_by_the_api_and_kept_from_it_by_files() {
    let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
    let node = start(place.path(), &upstream).await;
    let ask = async |method: &str, path: &str, headers: &[(&str, &str)], body: Value| {
        node.ask_with(method, path, headers, body).await.unwrap()
    };
    let region = ask("GET", "/api/v1/objects/region/here", &[], Value::Null).await;
    let seen = [("if-match", region.header("etag"))];
    let refused = ask("PATCH", "/api/v1/objects/region/here", &seen, json!({ "gateways": [] })).await;
    assert!(
        refused.status == 409 && refused.text().contains("the file conf.d/all.toml"),
        "{}",
        refused.text()
    );

    // What no node could run is refused, and told where it is.
    let tenant = "/api/v1/objects/tenant/acme";
    let fresh = [("if-none-match", "*")];
    let wrong = ask("PUT", tenant, &fresh, json!({ "residency": "nowhere" })).await;
    assert!(wrong.status == 422, "{}", wrong.text());
    let problem: Value = serde_json::from_slice(&wrong.body).unwrap();
    assert_eq!(problem["errors"][0]["pointer"], "/tenant/acme", "{problem}");
    let wrong =
        ask("PUT", tenant, &fresh, json!({ "policy": { "use": "missing", "version": "ab".repeat(32) } }))
            .await;
    assert!(wrong.status == 422 && wrong.text().contains("the store has no version"), "{}", wrong.text());
    let wrong =
        ask("PUT", tenant, &fresh, json!({ "policy": { "use": "weighted", "config": { "a": 1 } } })).await;
    assert!(wrong.status == 422 && wrong.text().contains("tenant acme: config"), "{}", wrong.text());

    let policy = json!({ "policy": { "use": "weighted", "config": { "shares": [{ "pool": "web", "percent": 100 }] } } });
    let made = ask("PUT", tenant, &fresh, policy).await;
    assert_eq!((made.status.as_u16(), made.header("etag")), (200, "\"2\""), "{}", made.text());
    until("the change runs", async || node.status().await["control"]["running"] == 2).await;
    let tail = async |arguments: &[&str]| {
        let mut command = Command::new(program());
        command.current_dir(node.folder()).arg("tail").args(arguments).kill_on_drop(true);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        BufReader::new(child.stdout.take().unwrap())
            .lines()
            .next_line()
            .await
            .unwrap()
            .map(|line| (line, child))
    };
    let request = async || loop {
        let mut client = client::Client::connect(node.public(), "a").await.unwrap();
        let request = http::Request::get("/orders").header("x-tenant", "acme");
        client.send(request, bytes::Bytes::new()).await.unwrap();
        tokio::task::yield_now().await;
    };
    let line = tokio::select! {
        line = tail(&["--tenant", "acme", "--status", "2xx", "-n", "1"]) => line.unwrap().0,
        () = request() => unreachable!(),
    };
    assert!(
        line.starts_with("200 ") && line.contains("/orders") && line.contains("policy weighted@"),
        "{line}"
    );
    let stale = ask("DELETE", tenant, &[("if-match", "\"1\"")], Value::Null).await;
    assert_eq!((stale.status.as_u16(), stale.header("etag")), (412, "\"2\""));
    let undo = ask("DELETE", tenant, &[("if-match", "\"2\"")], Value::Null).await;
    let undo: Value = serde_json::from_slice(&undo.body).unwrap();
    assert_eq!(undo["undo"], "portolan revert 2");
    let (code, text) = says(node.folder(), &["revert", "2"]).await;
    assert!(code == 0 && text.contains("+ tenant/acme (the admin API)"), "{text}");
    let (_, text) = says(node.folder(), &["apply"]).await;
    assert!(text.contains("says all of it already"), "files leave alone what the API manages: {text}");
}

#[tokio::test]
async fn a_certificate_opens_what_its_name_is_bound_to() {
    let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
    let more = "[admin]\nhosts = [\"gateway.test\"]\n[admin.tls]\ncert = \"server.pem\"\nkey = \"server.key\"\n\
                client_ca = [\"clients.pem\"]\n[[admin.certificate]]\nname = \"uri:spiffe://ops/alice\"\nrole = \"auditor\"\n\
                [[admin.certificate]]\nname = \"dns:ci.acme.test\"\nrole = \"tenant-dev\"\ntenant = \"acme\"\n";
    let folder = folder(place.path(), more);
    let text = format!("[region.here.pool.web]\nendpoints = [\"{}\"]\n[tenant.acme]\n", upstream.address);
    std::fs::write(folder.path().join("conf.d/all.toml"), text).unwrap();
    let server = rcgen::generate_simple_self_signed(vec!["gateway.test".to_owned()]).unwrap();
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    for (name, text) in [
        ("server.pem", server.cert.pem()),
        ("server.key", server.signing_key.serialize_pem()),
        ("clients.pem", authority_pem),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    assert_eq!(says(folder.path(), &["apply"]).await.0, 0);
    let node = Node::start_in(folder).await;
    let address = admin(&node).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(server.cert.der().clone()).unwrap();
    let identity = |name: rcgen::SanType| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = vec![name];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &issuer).unwrap();
        (certificate.der().clone(), rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    };
    let uri = |text: &str| rcgen::SanType::URI(text.try_into().unwrap());
    let dns = |text: &str| rcgen::SanType::DnsName(text.try_into().unwrap());
    for (name, path, status) in [
        (None, "/api/v1/status", 401),
        (Some(uri("spiffe://ops/alice")), "/api/v1/status", 200),
        (Some(uri("spiffe://ops/bob")), "/api/v1/status", 401),
        (Some(dns("ci.acme.test")), "/api/v1/status", 403),
        (Some(dns("ci.acme.test")), "/api/v1/objects/tenant/acme", 200),
        (Some(dns("ci.acme.test")), "/api/v1/objects/region/here", 404),
        (None, "/api/openapi.json", 200),
        (None, "/ready", 200),
    ] {
        let who = format!("{name:?} at {path}");
        let answer =
            client::get_tls_at(address, "gateway.test", path, roots.clone(), name.map(identity)).await;
        assert_eq!(answer.unwrap().1.status.as_u16(), status, "{who}");
    }
    let wrong = node::folder(
        "[node]\nregion = \"a\"\n[listen]\npublic = [\"127.0.0.1:0\"]\nadmin = \"0.0.0.0:0\"\n\
         [region.a.pool.web]\nendpoints = [\"127.0.0.1:1\"]\n",
    );
    let (code, text) = says(wrong.path(), &["validate"]).await;
    assert!(code == 1 && text.contains("tokens would cross the network in cleartext"), "{text}");
}

#[tokio::test]
async fn an_entry_that_someone_changed_is_found() {
    let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
    let node = start(place.path(), &upstream).await;
    token(node.folder(), &["--role", "auditor"]).await;
    token(node.folder(), &["--role", "admin"]).await;
    let database = place.path().join("control.db");
    let script = "import sqlite3, sys; store = sqlite3.connect(sys.argv[1]); \
                  store.execute('DROP TRIGGER change_is_append_only_update'); \
                  store.execute(\"UPDATE change SET entry = CAST(replace(CAST(entry AS TEXT), 'auditor', 'operato') AS BLOB) \
                  WHERE generation = 2\"); store.commit()";
    let changed = std::process::Command::new("python3").args(["-c", script]).arg(&database).status().unwrap();
    assert!(changed.success());
    let (code, text) = says(node.folder(), &["audit", "--verify"]).await;
    assert!(code == 1 && text.contains("BROKEN: entry 3 does not name the digest"), "{text}");
    assert!(says(node.folder(), &["events", "--types", "audit-broken"]).await.1.contains("audit-broken"));
}

/// All that its description allows, and much that it does not.
#[tokio::test]
async fn schemathesis_finds_nothing() {
    let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
    let node = start(place.path(), &upstream).await;
    let token = token(node.folder(), &["--role", "admin"]).await;
    let api = format!("http://{}/api/openapi.json", admin(&node).await);
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/tools/schemathesis");
    assert!(tools.is_dir(), "run `cargo xtask test` once: it installs schemathesis under target/tools");
    let mut command = Command::new("python3");
    command
        .args(["-m", "schemathesis.cli", "run", &api])
        .args(["--header", &format!("Authorization: Bearer {token}")])
        .args(["--max-examples", "20", "--seed", "7", "--max-time", "60", "--request-timeout", "20"])
        .args(["--phases", "examples,coverage,fuzzing", "--no-color"])
        // Streams do not end; and it would revoke the token that it asks with.
        .args(["--exclude-path-regex", "/(events|tail)$", "--exclude-operation-id", "revoke_token"])
        // No schema says which cursors, ETags and generations there are, or what a node would run.
        .args(["--exclude-checks", "positive_data_acceptance"])
        .env("PYTHONPATH", tools)
        .current_dir(place.path())
        .kill_on_drop(true);
    let output = command.output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(!node.log().contains("please report"), "{}", node.log());
}
