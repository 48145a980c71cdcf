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

#[tokio::test]
async fn rust_c_and_javascript_give_the_same_answers() {
    let rust = answers("dynamic-example", None).await;
    for name in ["a", "b", "c"] {
        assert!(rust.iter().filter(|answer| *answer == name).count() > 10, "{rust:?}");
    }
    assert_eq!(answers("c-example", Some(component("c.wasm"))).await, rust);
    assert_eq!(answers("javascript-example", Some(component("javascript.wasm"))).await, rust);
}
