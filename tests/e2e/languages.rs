//! One policy in Rust, C and JavaScript (`examples/policies`): three components, the same answers.

use std::path::{Path, PathBuf};

use http::Request;
use portolan_tests::client::Client;
use portolan_tests::node::{self, Node};
use portolan_tests::upstream::Upstream;
use serde_json::Value;

use crate::one_region;

fn component(name: &str) -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/guests").join(name);
    assert!(built.is_file(), "{} is missing: `cargo xtask test` builds it", built.display());
    built
}

/// Who answered each of these requests.
async fn answers(policy: &str, component: Option<PathBuf>) -> Vec<String> {
    let pools = [Upstream::start("a").await, Upstream::start("b").await, Upstream::start("c").await];
    let mut text = one_region(&[&pools[0]], "").replace("pool.web", "pool.a");
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
    let node = Node::start_in(folder).await;
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

/// A program in a folder, with what builds for wasm32 here; its output when it succeeds.
async fn runs(folder: &Path, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> String {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target");
    // `cargo xtask setup` leaves what builds for wasm32.
    let environment = std::fs::read_to_string(target.join("wasm-toolchain.env")).unwrap();
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).current_dir(folder).env("CARGO_TARGET_DIR", target.join("scaffold"));
    if arguments == ["plugin", "build"] {
        command.envs(environment.lines().filter_map(|line| line.split_once('=')));
    }
    let output = command.kill_on_drop(true).output().await.unwrap();
    let all = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?} failed:\n{all}");
    all.into_owned()
}

/// The README's way to a policy of one's own: new, test, build, check, serve.
#[tokio::test]
async fn a_new_plugin_is_built_checked_and_served() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let upstream = Upstream::start("web").await;
    let folder = node::folder(&one_region(
        &[&upstream],
        "[policy]\nuse = \"my-policy\"\nconfig = { pool = \"web\" }\n",
    ));
    let portolan = node::program();
    let sdk = root.join("plugins/sdk/rust");
    runs(folder.path(), &portolan, &["plugin", "new", "my-policy", "--sdk", sdk.to_str().unwrap()]).await;
    let mine = folder.path().join("my-policy");
    // The versions of our own lock file: they are there already.
    std::fs::copy(root.join("plugins/Cargo.lock"), mine.join("Cargo.lock")).unwrap();
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
    std::fs::rename(mine.join("my-policy.wasm"), folder.path().join("policies/my-policy.wasm")).unwrap();
    let node = Node::start_in(folder).await;
    let mut client = Client::connect(node.public(), "a").await.unwrap();
    let answer = client.get("/").await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.header("portolan-policy")), (200, "my-policy"));
}

#[tokio::test]
async fn rust_c_and_javascript_give_the_same_answers() {
    let rust = answers("dynamic-example", None).await;
    for name in ["a", "b", "c"] {
        assert!(rust.iter().filter(|answer| *answer == name).count() > 10, "{rust:?}");
    }
    assert_eq!(answers("c-example", Some(component("c.wasm"))).await, rust);
    assert_eq!(answers("javascript-example", Some(component("javascript.wasm"))).await, rust);
}
