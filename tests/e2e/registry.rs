//! Versions of plugins: what an upload goes through and is refused for, whose signatures count, where bytes come from and
//! where they are kept.

use std::path::Path;

use portolan_tests::client;
use portolan_tests::guests::{Guest, componentize, responding, with_section};
use portolan_tests::node::{self, Node, run, run_with};
use portolan_tests::servers::{Guarded, Registry, S3};
use portolan_tests::until;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{good, says};

/// A folder of a node with a control store beside it, and what more its own file says.
fn folder(name: &str, place: &TempDir, more: &str) -> TempDir {
    node::folder(&format!(
        "[node]\nname = \"{name}\"\nregion = \"eu\"\nthreads = 1\n[listen]\npublic = [\"127.0.0.1:0\"]\n[control]\nsqlite = {:?}\n{more}",
        place.path().join("control.db")
    ))
}

/// Two regions with the pool `web`, and what comes with them.
fn write(folder: &Path, more: &str) {
    let text = format!(
        "[region.eu.pool.web]\nendpoints = [\"127.0.0.1:9\"]\n[region.us.pool.web]\nendpoints = [\"127.0.0.1:9\"]\n{more}"
    );
    std::fs::write(folder.join("conf.d/all.toml"), text).unwrap();
}

/// Pushes `mine.wasm`; gives the upload's record.
async fn push(folder: &Path, component: &[u8], more: &[&str]) -> Value {
    std::fs::write(folder.join("mine.wasm"), component).unwrap();
    let arguments = [&["plugin", "push", "mine", "mine.wasm", "--json"][..], more].concat();
    let output = run(folder, &arguments).await;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text)
        .map_err(|_| format!("{text}{}", String::from_utf8_lossy(&output.stderr)))
        .unwrap()
}

fn version(record: &Value) -> String {
    assert_eq!(record["ok"], true, "{record:#}");
    record["version"].as_str().unwrap().to_owned()
}

/// A policy that can do no more than leave everything to the next slot.
fn bare() -> Vec<u8> {
    let text = r#"(module
        (import "portolan:policy/routing-answers@0.1.0" "next" (func $next (result i32)))
        (import "portolan:policy/draft@0.1.0" "split" (func $split (param i32 i32 i32 i32 i32 i32 i32)))
        (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
        (func (export "portolan:policy/planner@0.1.0#plan") (param i32 i32) (result i32)
          (i32.store (i32.const 2048) (call $next)) (i32.store (i32.const 2052) (i32.const 1))
          (call $split (i32.const 0) (i32.const 0) (i32.const 2048) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 1024))
          (i32.const 4096)))"#;
    componentize(text, "routing-plan")
}

const HELLO: Guest<'static> = Guest::planning("(call $always (call $answer))");

/// A name, the component, more arguments, the stage that refuses, and what it says.
type Case = (&'static str, Vec<u8>, Vec<&'static str>, &'static str, &'static str);

fn cases() -> Vec<Case> {
    let text = |text: &str| wat::parse_str(text).unwrap();
    let hello = HELLO.component();
    let schema = br#"{"type": "object", "required": ["pool"]}"#;
    let vectors = br#"[{"name": "says here", "request": {"path": "/"}, "expect": {"answers": ["next"]}}]"#;
    let planner = r#"(component (core module $m (func (export "f") (param i32) (result i32) (i32.const 0)))
        (core instance $i (instantiate $m)) (func $f (param "config" u32) (result u32) (canon lift (core func $i "f")))
        (instance $p (export "plan" (func $f))) (export "portolan:policy/planner@0.1.0" (instance $p)))"#;
    let tenant = |stage: &'static str| (stage, vec!["--tenant", "acme"]);
    let (check, of_acme) = tenant("check");
    let signed = vec!["--tenant", "signed"];
    vec![
        ("a text", b"export function plan() {}".to_vec(), vec![], "screen", "not WebAssembly"),
        ("half of it", hello[..hello.len() / 2].to_vec(), vec![], "screen", "ends too early"),
        ("a core module", text("(module)"), vec![], "screen", "core module"),
        (
            "too much",
            Guest { more: "(table 10000000 funcref)", ..HELLO }.component(),
            vec![],
            "screen",
            "table elements",
        ),
        (
            "another contract",
            text(r#"(component (import "portolan:policy/facts@0.7.0" (instance)))"#),
            vec![],
            "contract",
            "built for 0.7.0",
        ),
        (
            "a socket",
            text(r#"(component (import "wasi:sockets/tcp@0.2.0" (instance)))"#),
            vec![],
            "imports",
            "imports `wasi:sockets",
        ),
        (
            "another type of import",
            text(
                r#"(component (import "portolan:policy/facts@0.1.0" (instance (export "verdict" (func (param "region" u32) (result u32))))))"#,
            ),
            vec![],
            "imports",
            "`verdict` is func(region: u32) -> u32, and should be func(region: string) -> u32",
        ),
        (
            "a function of no host",
            text(
                r#"(component (import "portolan:policy/log@0.1.0" (instance (export "shout" (func (param "text" string))))))"#,
            ),
            vec![],
            "imports",
            "`shout`, func(text: string), is no function of this host",
        ),
        (
            "another type of export",
            text(planner),
            vec![],
            "exports",
            "`plan` is func(config: u32) -> u32, and should be func(config: string) -> result<_, record { code: u32, message: string }>",
        ),
        ("neither half", text("(component)"), vec![], "exports", "neither a planner nor a decider"),
        (
            "a schema without end",
            with_section(hello.clone(), "portolan:config-schema", br##"{"$ref": "#"}"##),
            vec![],
            "schema",
            "not usable",
        ),
        ("a new power", hello.clone(), vec![], "capabilities", "imports portolan:policy/facts"),
        ("no signature", hello.clone(), signed, "signature", "is not signed, and must be here"),
        (
            "a spinning start",
            Guest { more: "(func $f (loop $again (br $again))) (start $f)", ..HELLO }.component(),
            vec!["--approve"],
            "instantiate",
            "no instance came about: it ",
        ),
        (
            "a configuration that does not fit",
            with_section(hello.clone(), "portolan:config-schema", schema),
            vec!["--approve"],
            "config",
            "\"pool\" is a required property",
        ),
        (
            "no configuration at all",
            hello.clone(),
            vec!["--approve", "--policy-config", "[]"],
            "config",
            "no object",
        ),
        (
            "a failing vector",
            with_section(hello.clone(), "portolan:vectors", vectors),
            vec!["--approve"],
            "vectors",
            "`says here`: expected next, got respond 200",
        ),
        (
            "no vectors",
            with_section(hello.clone(), "portolan:vectors", b"{}"),
            vec!["--approve"],
            "vectors",
            "do not read",
        ),
        ("a trap", Guest::planning("(unreachable)").component(), vec!["--approve"], "plan", "unreachable"),
        (
            "an interpreter that wants to decide",
            with_section(Guest::deciding("(i32.const 0)").component(), "padding", &[0; 300_000]),
            of_acme,
            check,
            "262144 are allowed for those",
        ),
    ]
}

#[tokio::test]
async fn every_stage_refuses_with_its_reason_and_fix_and_is_remembered() {
    let place = tempfile::tempdir().unwrap();
    let key = "[policies]\nrequire_signature = { tenants = \"none\" }\n";
    let own = folder("one", &place, key);
    write(own.path(), "");
    good(own.path(), &["apply"]).await;
    // What may do little runs; whatever comes after it may do more.
    let bare = version(&push(own.path(), &bare(), &[]).await);
    write(own.path(), &format!("[policy]\nuse = \"mine\"\nversion = \"{bare}\"\n[tenant.acme]\n"));
    good(own.path(), &["apply"]).await;
    for (name, component, more, stage, why) in cases() {
        let record = match more.as_slice() {
            ["--tenant", "signed"] => {
                let text = std::fs::read_to_string(own.path().join("portolan.toml")).unwrap();
                let demanding = text.replace("tenants = \"none\"", "tenants = \"verified\"")
                    + "[[policies.key]]\nname = \"k\"\npublic = \"Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\"\n";
                std::fs::write(own.path().join("portolan.toml"), demanding).unwrap();
                let record = push(own.path(), &component, &more).await;
                std::fs::write(own.path().join("portolan.toml"), text).unwrap();
                record
            }
            more => push(own.path(), &component, more).await,
        };
        assert_eq!((&record["ok"], &record["stage"]), (&json!(false), &json!(stage)), "{name}: {record:#}");
        let reason = record["reason"].as_str().unwrap();
        assert!(reason.contains(why), "{name}: {reason}");
        assert!(!record["fix"].as_str().unwrap().is_empty(), "{name}");
        let last = record["steps"].as_array().unwrap().last().unwrap();
        assert_eq!((&last["stage"], &last["state"]), (&json!(stage), &json!("refused")), "{name}");
        // It can be looked at later.
        let id = record["id"].as_str().unwrap();
        let kept = good(own.path(), &["plugin", "uploads", id]).await;
        assert!(kept.contains(&format!("refused at {stage}: ")) && kept.contains(why), "{name}: {kept}");
    }
    let listed = good(own.path(), &["plugin", "versions", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&listed).unwrap().as_array().unwrap().len(), 1, "{listed}");
    // What is too large is not even read to its end.
    std::fs::write(own.path().join("large.wasm"), vec![0; 9 << 20]).unwrap();
    let (code, text) = says(own.path(), &["plugin", "push", "mine", "large.wasm"]).await;
    assert!(code == 1 && text.contains("refused at size: the content has more than 8388608 bytes"), "{text}");

    // An operator may approve of a new power; the version says who did.
    let record = push(own.path(), &HELLO.component(), &["--approve", "-m", "it may plan"]).await;
    let approved = version(&record);
    let stages: Vec<&str> =
        record["steps"].as_array().unwrap().iter().map(|step| step["stage"].as_str().unwrap()).collect();
    let whole = [
        "quota",
        "size",
        "digest",
        "screen",
        "contract",
        "imports",
        "exports",
        "schema",
        "capabilities",
        "signature",
        "compile",
        "link",
        "instantiate",
        "vectors",
        "config",
        "plan",
        "check",
        "keep",
    ];
    assert_eq!(stages, whole);
    let listed: Value =
        serde_json::from_str(&good(own.path(), &["plugin", "versions", "--json"]).await).unwrap();
    let body = listed.as_array().unwrap().iter().find(|body| body["digest"] == approved.as_str()).unwrap();
    assert_eq!((&body["message"], &body["source"]), (&json!("it may plan"), &json!("file mine.wasm")));
    assert!(body["approved"]["capabilities"].to_string().contains("portolan:policy/facts"), "{body:#}");
    let again = push(own.path(), &HELLO.component(), &[]).await;
    assert_eq!(
        (&again["new"], version(&again)),
        (&json!(false), approved),
        "the same bytes are the same version"
    );
}

#[tokio::test]
async fn a_tenants_plugins_are_its_own_and_so_is_its_quota() {
    let place = tempfile::tempdir().unwrap();
    let own = folder("one", &place, "[policies.quota]\nversions = 2\nbytes = 100000\n");
    write(
        own.path(),
        "[tenants]\nsources = [{ host_suffix = \".apps.test\" }]\n[tenant.acme]\n[tenant.globex]\n",
    );
    good(own.path(), &["apply"]).await;
    let operators = version(&push(own.path(), &responding("operator"), &[]).await);
    let acmes = version(&push(own.path(), &responding("acme"), &["--tenant", "acme"]).await);
    let policy = |tenant: &str, version: &str| {
        format!("[tenant.{tenant}.policy]\nuse = \"mine\"\nversion = \"{version}\"\n")
    };
    let tenants = "[tenants]\nsources = [{ host_suffix = \".apps.test\" }]\n";
    // A tenant's slot finds the tenant's own and the operator's, and nobody else's.
    write(own.path(), &format!("{tenants}{}{}", policy("acme", &acmes), policy("globex", &acmes)));
    let (code, text) = says(own.path(), &["apply"]).await;
    assert!(code == 3 && text.contains("tenant.globex.policy: the store has no version"), "{text}");
    write(own.path(), &format!("{tenants}{}{}", policy("acme", &acmes), policy("globex", &operators)));
    good(own.path(), &["apply"]).await;
    // One more is allowed, then no other; nobody else is bound by that.
    version(&push(own.path(), &responding("acme-two"), &["--tenant", "acme"]).await);
    let record = push(own.path(), &responding("acme-three"), &["--tenant", "acme"]).await;
    assert_eq!(record["stage"], "quota");
    assert!(
        record["reason"].as_str().unwrap().contains("tenant acme has 2 versions, 2 are allowed"),
        "{record}"
    );
    version(&push(own.path(), &responding("globex"), &["--tenant", "globex"]).await);
    let big = with_section(responding("big"), "padding", &[0; 100_000]);
    let record = push(own.path(), &big, &["--tenant", "globex"]).await;
    assert!(record["reason"].as_str().unwrap().contains("100000 are allowed"), "{record}");
    version(&push(own.path(), &big, &[]).await);

    // What something names stays; what nothing names can go, and its bytes with it, but not while they are young.
    let listed: Value =
        serde_json::from_str(&good(own.path(), &["plugin", "versions", "--json"]).await).unwrap();
    let unused = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|body| body["tenant"] == "acme" && body["digest"] != acmes.as_str())
        .unwrap();
    let unused = unused["digest"].as_str().unwrap();
    let (code, text) =
        says(own.path(), &["plugin", "remove", &format!("mine@{acmes}"), "--tenant", "acme"]).await;
    assert!(code == 5 && text.contains("is named by tenant/acme"), "{text}");
    good(own.path(), &["plugin", "remove", &format!("mine@{unused}"), "--tenant", "acme"]).await;
    let file = place.path().join(format!("components/{unused}.wasm"));
    let text = good(own.path(), &["plugin", "gc"]).await;
    assert!(text.contains("shared: 0 removed (0 bytes), 4 named, 1 too young") && file.is_file(), "{text}");
    let text = good(own.path(), &["plugin", "gc", "--older-than", "0s", "--dry-run"]).await;
    assert!(text.contains("shared: 1 would be removed") && file.is_file(), "{text}");
    let text = good(own.path(), &["plugin", "gc", "--older-than", "0s"]).await;
    assert!(text.contains("shared: 1 removed") && !file.is_file(), "{text}");

    let node = Node::start_in(own).await;
    for (host, answer) in [("acme.apps.test", "acme"), ("globex.apps.test", "operator")] {
        assert_eq!(client::get(node.public(), host, "/").await.unwrap().text(), answer);
    }
    // A tenant sees what it has of its quota.
    let quota = node.ask("GET", "/api/v1/tenants/acme/quota", Value::Null).await.unwrap();
    assert_eq!(
        (&quota["versions"]["versions"], &quota["versions"]["versions_max"]),
        (&json!(1), &json!(2)),
        "{quota}"
    );
    assert_eq!(
        (quota["versions"]["bytes"].as_u64() > Some(0), &quota["versions"]["bytes_max"]),
        (true, &json!(100_000))
    );
    let text = good(node.folder(), &["tenant", "usage", "acme"]).await;
    assert!(text.contains("versions of plugins: 1 of 2, "), "{text}");
}

#[tokio::test]
async fn a_slot_that_demands_a_signature_runs_what_a_trusted_key_signed() {
    let place = tempfile::tempdir().unwrap();
    let own = folder("one", &place, "");
    let text = good(own.path(), &["plugin", "keygen", "release"]).await;
    let section = text.lines().filter_map(|line| line.strip_prefix("  ")).collect::<Vec<_>>().join("\n");
    let demanding = format!("{section}\n[policies.require_signature]\noperator = \"verified\"\n");
    let plain = std::fs::read_to_string(own.path().join("portolan.toml")).unwrap();
    write(own.path(), "");
    good(own.path(), &["apply"]).await;

    // Pushed where nothing is demanded; another node demands it all the same, when it is put to work.
    let record = push(own.path(), &responding("unsigned"), &[]).await;
    let (unsigned, state) = (version(&record), record["signature"]["state"].clone());
    assert_eq!(state, "not-signed");
    std::fs::write(own.path().join("portolan.toml"), format!("{plain}{demanding}")).unwrap();
    let policy = |version: &str| format!("[policy]\nuse = \"mine\"\nversion = \"{version}\"\n");
    write(own.path(), &policy(&unsigned));
    let (code, text) = says(own.path(), &["apply"]).await;
    assert!(code == 3 && text.contains("signature: the component is not signed, and must be here"), "{text}");

    // In the component, or beside it.
    std::fs::write(own.path().join("mine.wasm"), responding("inside")).unwrap();
    good(own.path(), &["plugin", "sign", "mine.wasm", "--key", "release.pem"]).await;
    let bytes = std::fs::read(own.path().join("mine.wasm")).unwrap();
    let record = push(own.path(), &bytes, &[]).await;
    assert_eq!(
        (&record["signature"]["state"], &record["signature"]["key"]),
        (&json!("verified"), &json!("release"))
    );
    let inside = version(&record);
    std::fs::write(own.path().join("mine.wasm"), responding("beside")).unwrap();
    good(own.path(), &["plugin", "sign", "mine.wasm", "--key", "release.pem", "--detached"]).await;
    let beside = version(&push(own.path(), &responding("beside"), &[]).await);
    // A signature of other bytes is worse than none.
    let record = push(own.path(), &responding("swapped"), &["--signature", "mine.wasm.sig"]).await;
    assert_eq!(record["stage"], "signature");
    assert!(
        record["reason"].as_str().unwrap().contains("the signature by release is not of these bytes"),
        "{record}"
    );
    std::fs::remove_file(own.path().join("mine.wasm.sig")).unwrap();
    let listed = good(own.path(), &["plugin", "versions"]).await;
    assert!(listed.contains("  not-signed  ") && listed.matches("  verified  ").count() == 2, "{listed}");

    write(own.path(), &policy(&inside));
    good(own.path(), &["apply"]).await;
    let node = Node::start_in(own).await;
    assert_eq!(client::get(node.public(), "a", "/").await.unwrap().text(), "inside");
    assert_eq!(node.status().await["configuration"]["slots"][0]["running"]["signature"]["key"], "release");
    write(node.folder(), &policy(&beside));
    good(node.folder(), &["apply"]).await;
    until("the other version", async || {
        client::get(node.public(), "a", "/").await.unwrap().text() == "beside"
    })
    .await;
    // A node whose file trusts another key keeps what it runs, and says why.
    let other = good(node.folder(), &["plugin", "keygen", "other"]).await;
    let other = other.lines().filter_map(|line| line.strip_prefix("  ")).collect::<Vec<_>>().join("\n");
    node.write(
        "portolan.toml",
        format!("{plain}{other}\n[policies.require_signature]\noperator = \"verified\"\n"),
    );
    until("the refusal", async || {
        node.status().await["configuration"]["slots"][0]["refused"]
            .to_string()
            .contains("which is not trusted here")
    })
    .await;
    assert_eq!(client::get(node.public(), "a", "/").await.unwrap().text(), "beside");
}

#[tokio::test]
async fn a_node_that_lacks_bytes_says_that_it_is_not_ready_until_it_has_them() {
    let place = tempfile::tempdir().unwrap();
    let own = folder("one", &place, "");
    write(own.path(), "");
    good(own.path(), &["apply"]).await;
    let operators = version(&push(own.path(), &responding("operator"), &[]).await);
    let acmes = version(&push(own.path(), &responding("acme"), &["--tenant", "acme"]).await);
    write(
        own.path(),
        &format!(
            "[policy]\nuse = \"mine\"\nversion = \"{operators}\"\n[tenant.acme.policy]\nuse = \"mine\"\nversion = \"{acmes}\"\n"
        ),
    );
    good(own.path(), &["apply"]).await;
    let (shared, away) = (place.path().join("components"), place.path().join("away"));
    let aside = |name: &str| format!("{name}.wasm");
    std::fs::create_dir(&away).unwrap();
    for version in [&operators, &acmes] {
        std::fs::rename(shared.join(aside(version)), away.join(aside(version))).unwrap();
    }
    // Another node, which has none of them, on a port that is known before it serves.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = format!("[listen]\nmetrics = \"{port}\"\npublic = [\"127.0.0.1:0\"]");
    let two = folder("two", &place, "");
    let file = two.path().join("portolan.toml");
    let own_text =
        std::fs::read_to_string(&file).unwrap().replace("[listen]\npublic = [\"127.0.0.1:0\"]", &text);
    std::fs::write(&file, own_text).unwrap();
    let starting = Node::start_in(two);
    let watching = async {
        until("the operator's component is missed", async || {
            let ready = client::get(port, "a", "/ready").await;
            ready.is_ok_and(|ready| {
                ready.status == 503 && ready.text().contains("waiting for components: slot operator")
            })
        })
        .await;
        std::fs::rename(away.join(aside(&operators)), shared.join(aside(&operators))).unwrap();
    };
    let (two, ()) = tokio::join!(starting, watching);
    // The operator's policy answers everything; the tenant's is still missed, and tried again by itself.
    assert_eq!(client::get(two.public(), "a", "/").await.unwrap().text(), "operator");
    let ready = client::get(port, "a", "/ready").await.unwrap();
    assert!(
        ready.status == 503 && ready.text().contains("slot tenant acme"),
        "{} {}",
        ready.status,
        ready.text()
    );
    std::fs::rename(away.join(aside(&acmes)), shared.join(aside(&acmes))).unwrap();
    until("the node is ready", async || client::get(port, "a", "/ready").await.unwrap().status == 200).await;

    // With all of it on its own disk it starts though the shared place is empty.
    std::fs::remove_dir_all(&shared).unwrap();
    let two = two.restarted(&[]).await;
    until("the node is ready", async || client::get(port, "a", "/ready").await.unwrap().status == 200).await;
    assert_eq!(client::get(two.public(), "a", "/").await.unwrap().text(), "operator");
}

/// A registry that wants a token is asked with what `docker login` has kept: in its file, or with a helper's program.
#[tokio::test]
async fn a_registry_that_wants_a_token_is_asked_with_dockers_passwords() {
    use std::os::unix::fs::PermissionsExt as _;

    let place = tempfile::tempdir().unwrap();
    let registry = Registry::start().await;
    let guarded = Guarded::before(&registry).await;
    let own = folder("one", &place, "");
    write(own.path(), "");
    good(own.path(), &["apply"]).await;
    let component = responding("guarded");
    let config = "application/vnd.wasm.config.v0+json";
    registry.push("acme/policy", "1", config, &[("application/wasm", &component)]).await;
    // Helpers: one that knows, one that knows a token, one that knows nothing, one that fails, one that says too much.
    let (programs, docker) = (place.path().join("programs"), place.path().join("docker"));
    std::fs::create_dir(&programs).unwrap();
    std::fs::create_dir(&docker).unwrap();
    for (name, script) in [
        (
            "knows",
            r#"read host; [ "$1" = get ] && [ "$host" = HOST ] && printf '{"ServerURL":"HOST","Username":"alice","Secret":"secret"}'"#,
        ),
        ("token", r#"printf '{"ServerURL":"HOST","Username":"<token>","Secret":"identity"}'"#),
        ("nothing", "echo 'credentials not found in native keychain'; exit 1"),
        ("fails", "echo 'the keychain is locked'; exit 1"),
        (
            "floods",
            "while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done",
        ),
    ] {
        let path = programs.join(format!("docker-credential-{name}"));
        std::fs::write(&path, format!("#!/bin/sh\n{}\n", script.replace("HOST", &guarded.host()))).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:/usr/bin:/bin", programs.display());
    let reference = format!("oci://{}/acme/policy:1", guarded.host());
    let pull = async |file: Value| {
        std::fs::write(docker.join("config.json"), file.to_string()).unwrap();
        let variables = [("PATH", path.as_str()), ("DOCKER_CONFIG", docker.to_str().unwrap())];
        let output =
            run_with(own.path(), &variables, &["plugin", "push", "mine", &reference, "--json"]).await;
        serde_json::from_slice::<Value>(&output.stdout)
            .map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())
            .unwrap()
    };
    let host = guarded.host();
    let helper = |name: &str| json!({ "credHelpers": { &host: name } });
    // `alice:secret`.
    let auths = json!({ "auths": { &host: { "auth": "YWxpY2U6c2VjcmV0" } } });
    let by_query = "GET scope=repository%3Aacme%2Fpolicy%3Apull&service=images.test";
    for (file, asked) in [
        (auths.clone(), by_query),
        (helper("knows"), by_query),
        (json!({ "credsStore": "knows" }), by_query),
        (json!({ "credsStore": "nothing", "auths": auths["auths"] }), by_query),
        (
            helper("token"),
            "POST scope=repository%3Aacme%2Fpolicy%3Apull&service=images.test&client_id=portolan&grant_type=refresh_token&refresh_token=identity",
        ),
        (json!({ "auths": { &host: { "identitytoken": "identity" } } }), "POST scope="),
        (json!({ "auths": { &host: { "registrytoken": "given-by-the-test" } } }), ""),
    ] {
        let record = pull(file.clone()).await;
        assert_eq!(version(&record), digest_of(&component), "{file}");
        let told = guarded.asked();
        assert_eq!(told.len(), usize::from(!asked.is_empty()), "a token for all of a pull: {file}: {told:?}");
        assert!(told.iter().all(|told| told.starts_with(asked)), "{file}: {told:?}");
    }
    for (file, why) in [
        (json!({}), "no token is given: 401"),
        (helper("nothing"), "no token is given: 401"),
        (helper("fails"), "docker-credential-fails: it ends with exit status: 1: the keychain is locked"),
        (helper("floods"), "its answer has more than 65536 bytes"),
        (helper("absent"), "docker-credential-absent: it does not start"),
        (helper("../knows"), "no name of a credential helper"),
        (json!({ "auths": { &host: { "auth": "YWxpY2U6d3Jvbmc=" } } }), "no token is given: 401"),
    ] {
        let record = pull(file.clone()).await;
        assert_eq!((&record["ok"], &record["stage"]), (&json!(false), &json!("read")), "{file}: {record:#}");
        assert!(record["reason"].as_str().unwrap().contains(why), "{file}: {record:#}");
        // Nobody's password is told on.
        assert!(!record.to_string().contains("secret"), "{record:#}");
    }
}

/// Components come from a registry in each layout that is about, and a tag is resolved once.
#[tokio::test]
async fn components_come_from_registries_in_every_layout() {
    let place = tempfile::tempdir().unwrap();
    let registry = Registry::start().await;
    let own = folder("one", &place, "[policies]\nregistries = []\n");
    write(own.path(), "[tenant.acme]\n");
    good(own.path(), &["apply"]).await;
    let archive = |name: &str, component: &[u8]| {
        let packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut builder = tar::Builder::new(packer);
        let mut header = tar::Header::new_gnu();
        header.set_size(component.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, component).unwrap();
        builder.into_inner().unwrap().finish().unwrap()
    };
    let pull = async |reference: String| {
        let output = run(own.path(), &["plugin", "push", "mine", &reference, "--json"]).await;
        serde_json::from_slice::<Value>(&output.stdout)
            .map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())
            .unwrap()
    };
    for (tag, config, layer) in [
        ("cncf", "application/vnd.wasm.config.v0+json", "application/wasm"),
        ("solo", "application/vnd.wasm.config.v1+json", "application/vnd.wasm.content.layer.v1+wasm"),
        (
            "acr",
            "application/vnd.module.wasm.config.v1+json",
            "application/vnd.module.wasm.content.layer.v1+wasm",
        ),
        ("image", "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"),
    ] {
        let component = responding(tag);
        let bytes = if tag == "image" { archive("plugin.wasm", &component) } else { component.clone() };
        let digest = registry.push("acme/policy", tag, config, &[(layer, &bytes)]).await;
        let reference = format!("oci://{}/acme/policy:{tag}", registry.host());
        let record = pull(reference).await;
        assert_eq!(version(&record), digest_of(&component), "{tag}");
        assert_eq!(record["source"], format!("oci://{}/acme/policy@{digest}", registry.host()), "{tag}");
        // By the digest it is the same, whatever becomes of the tag.
        let again = pull(format!("oci://{}/acme/policy@{digest}", registry.host())).await;
        assert_eq!((&again["new"], version(&again)), (&json!(false), digest_of(&component)), "{tag}");
    }
    let wasm = "application/wasm";
    let config = "application/vnd.wasm.config.v0+json";
    registry.push("acme/policy", "two", config, &[(wasm, b"a"), (wasm, b"b")]).await;
    registry.push("acme/policy", "text", config, &[("text/plain", b"hello")]).await;
    let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
    registry.push("acme/policy", "empty", config, &[(gzip, &archive("readme.md", b"none"))]).await;
    registry.push("acme/policy", "large", config, &[(wasm, &vec![0; 9 << 20])]).await;
    for (reference, why) in [
        (format!("oci://{}/acme/policy:two", registry.host()), "one layer of application/wasm"),
        (format!("oci://{}/acme/policy:text", registry.host()), "the image has [text/plain]"),
        (format!("oci://{}/acme/policy:empty", registry.host()), "has no plugin.wasm"),
        (format!("oci://{}/acme/policy:large", registry.host()), "8388608 are allowed"),
        (format!("oci://{}/acme/policy:none", registry.host()), "does not have it"),
        (format!("oci://{}/acme/policy", registry.host()), "is no reference"),
        ("oci://127.0.0.1:1/acme/policy:1".to_owned(), "it cannot be asked"),
    ] {
        let record = pull(reference.clone()).await;
        assert_eq!(
            (&record["ok"], &record["stage"]),
            (&json!(false), &json!("read")),
            "{reference}: {record:#}"
        );
        assert!(record["reason"].as_str().unwrap().contains(why), "{reference}: {record:#}");
    }
    // On a tenant's word the node asks nobody whom its operator does not know.
    let reference = format!("oci://{}/acme/policy:cncf", registry.host());
    let (code, text) = says(own.path(), &["plugin", "push", "mine", &reference, "--tenant", "acme"]).await;
    assert!(code != 0 && text.contains("is no registry that tenants may name"), "{text}");
    let known = std::fs::read_to_string(own.path().join("portolan.toml")).unwrap();
    let known = known.replace("registries = []", &format!("registries = [\"{}\"]", registry.host()));
    std::fs::write(own.path().join("portolan.toml"), known).unwrap();
    good(own.path(), &["plugin", "push", "mine", &reference, "--tenant", "acme"]).await;
}

fn digest_of(component: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(component).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Components are in a bucket: nodes fetch them from there, and serve on without it; stores that know no conditions do as well.
#[tokio::test]
async fn components_are_kept_in_a_bucket() {
    let s3 = S3::start().await;
    for (name, address) in [("whole", s3.address()), ("forgetful", s3.without_conditions().await)] {
        let place = tempfile::tempdir().unwrap();
        let bucket = format!(
            "[control.s3]\nbucket = \"components\"\nprefix = \"{name}\"\nendpoint = \"http://{address}\"\n\
             region = \"eu-central-1\"\naccess_key_id = \"key\"\nsecret_access_key = \"secret\"\n"
        );
        let own = folder("one", &place, &bucket);
        write(own.path(), "");
        good(own.path(), &["apply"]).await;
        let pushed = version(&push(own.path(), &responding(name), &[]).await);
        let again = push(own.path(), &responding(name), &[]).await;
        assert_eq!((&again["new"], version(&again)), (&json!(false), pushed.clone()));
        write(own.path(), &format!("[policy]\nuse = \"mine\"\nversion = \"{pushed}\"\n"));
        good(own.path(), &["apply"]).await;
        let two = Node::start_in(folder("two", &place, &bucket)).await;
        assert_eq!(client::get(two.public(), "a", "/").await.unwrap().text(), name);
        // Its own copy is enough to start with.
        let file = two.folder().join("portolan.toml");
        let away = std::fs::read_to_string(&file).unwrap().replace(&address.to_string(), "127.0.0.1:1");
        std::fs::write(&file, away).unwrap();
        let two = two.restarted(&[]).await;
        assert_eq!(client::get(two.public(), "a", "/").await.unwrap().text(), name);
    }
}
