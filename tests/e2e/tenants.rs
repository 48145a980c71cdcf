//! Tenants beside each other: what one of them does, wants or uses up is not felt by the others; and what an operator can
//! say of them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use portolan_foundation::task;
use portolan_tests::client::{self, Client};
use portolan_tests::guests::{Guest, responding};
use portolan_tests::node::{self, Node, run};
use portolan_tests::upstream::Upstream;
use portolan_tests::{PATIENCE, until};
use serde_json::Value;
use tokio::time::Instant;

use crate::one_region;

/// Some 1,500,000 units of fuel: most of what a call may take.
const SPINS: &str = "(local $left i32) (local.set $left (i32.const 250000))
    (loop $again (local.set $left (i32.sub (local.get $left) (i32.const 1))) (br_if $again (local.get $left))) (i32.const 0)";
const GROWS: &str =
    "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)";
const FLOODS: &str = "(local $left i32) (local.set $left (i32.const 1000))
    (loop $again (call $line (i32.const 1) (i32.const 0) (i32.const 4))
        (local.set $left (i32.sub (local.get $left) (i32.const 1))) (br_if $again (local.get $left))) (i32.const 0)";
/// What the neighbour's and the spinners' requests are answered.
const HERE: &str = "here";

async fn says(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = run(folder, arguments).await;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text.into_owned())
}

async fn metrics(node: &Node) -> String {
    node.ask_plain("GET", "/api/v1/metrics", Value::Null).await.unwrap().text()
}

/// Tenants by host name, each with a policy of its own name.
fn tenants(names: &[&str], more: &str) -> String {
    let slots: String =
        names.iter().map(|name| format!("[tenant.{name}.policy]\nuse = \"{name}\"\n")).collect();
    format!("[tenants]\nsources = [{{ host_suffix = \".apps.test\" }}]\n{more}{slots}")
}

/// Sends a tenant's requests without pause until the end; gives how many were answered, and how many of those not well.
fn hammer(node: &Node, tenant: &str, end: &Arc<AtomicBool>) -> Arc<[AtomicU64; 2]> {
    let counts: Arc<[AtomicU64; 2]> = Arc::default();
    let (address, host) = (node.public(), format!("{tenant}.apps.test"));
    let (told, end) = (Arc::clone(&counts), Arc::clone(end));
    task::spawn("hammer", async move {
        while !end.load(Ordering::Relaxed) {
            let Ok(mut client) = Client::connect(address, &host).await else { continue };
            while !end.load(Ordering::Relaxed) {
                let good = match client.get("/").await {
                    Ok(answer) => answer.status == 200,
                    Err(_) => false,
                };
                told[0].fetch_add(1, Ordering::Relaxed);
                if !good {
                    told[1].fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
        }
    });
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_tenants_are_contained_and_their_neighbour_is_served() {
    let upstream = Upstream::start("web").await;
    let spinners = ["spin0", "spin1", "spin2", "spin3", "spin4", "spin5"];
    let mut names = vec!["calm", "loops", "grows", "traps", "floods", "uploads"];
    names.extend(spinners);
    let budget = "[tenant.spin0.budget]\nfuel_burst = 30000000\nfuel_per_second = 1000000\n";
    let folder = node::folder(&one_region(&[&upstream], &tenants(&names, budget)));
    let policies = folder.path().join("policies");
    let write = |name: &str, decide: &str| {
        std::fs::write(policies.join(format!("{name}.wasm")), Guest::deciding(decide).component()).unwrap();
    };
    write("calm", "(i32.const 1)");
    write("loops", "(loop $again (br $again)) (i32.const 0)");
    write("grows", GROWS);
    write("floods", FLOODS);
    write("uploads", "(i32.const 0)");
    spinners.iter().for_each(|name| write(name, SPINS));
    let traps = Guest {
        plan: "(call $ask)",
        decide: Some("(call $price_of_cart) (i32.const 0)"),
        more: "(func $price_of_cart (unreachable))",
    };
    std::fs::write(policies.join("traps.wasm"), traps.component()).unwrap();
    let node = Node::start_in(folder).await;

    let end = Arc::new(AtomicBool::new(false));
    let hostile: Vec<_> = names[1..].iter().map(|name| hammer(&node, name, &end)).collect();
    // A thousand uploads, while the neighbour is served.
    let (folder, uploads_end) = (node.folder().to_owned(), Arc::clone(&end));
    let uploading = tokio::task::spawn_blocking(move || {
        for number in 0..1_000 {
            if uploads_end.load(Ordering::Relaxed) {
                return number;
            }
            let component = responding(&format!("upload-{number}"));
            let partial = folder.join("policies/uploads.partial");
            std::fs::write(&partial, component).unwrap();
            std::fs::rename(&partial, folder.join("policies/uploads.wasm")).unwrap();
        }
        1_000
    });
    let mut calm = Client::connect(node.public(), "calm.apps.test").await.unwrap();
    let (begun, mut served) = (Instant::now(), 0);
    let deadline = begun + PATIENCE;
    let mut demoted = false;
    while begun.elapsed() < Duration::from_secs(6) || !demoted {
        for _ in 0..100 {
            let answer = calm.get("/").await.unwrap();
            assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, HERE));
            served += 1;
        }
        demoted = metrics(&node).await.contains("portolan_undecided_total{reason=\"demoted\"} ")
            && !metrics(&node).await.contains("portolan_undecided_total{reason=\"demoted\"} 0\n");
        assert!(Instant::now() < deadline, "nobody was demoted: {}", metrics(&node).await);
    }
    let status = node.status().await;
    end.store(true, Ordering::Relaxed);
    assert!(served >= 500, "{served} requests of the neighbour in six seconds");
    for (name, counts) in names[1..].iter().zip(&hostile) {
        let [all, bad] = [0, 1].map(|at| counts[at].load(Ordering::Relaxed));
        assert!(all > 0 && bad == 0, "{name}: even its own requests are answered, {bad} of {all} were not");
    }
    // On average over the whole time; a thread that the machine itself holds up counts as the guest's.
    let seconds = begun.elapsed().as_secs_f64();
    for thread in status["thread_shares"].as_array().unwrap() {
        let share = thread["guest_us"].as_f64().unwrap() / 1e6 / seconds;
        assert!(share < 0.25, "guests took {share:.3} of a thread: {thread}");
    }
    assert_eq!(status["task_panics"], 0);
    assert!(uploading.await.unwrap() > 0);

    // All of it can be seen, by the operator and by the tenant itself.
    let text = metrics(&node).await;
    assert!(text.contains("portolan_policy_guest_share{thread=\"0\"}"), "{text}");
    assert!(
        text.contains("\nportolan_tenant_demotions_total ")
            && !text.contains("\nportolan_tenant_demotions_total 0\n")
    );
    let standing = status["tenants"].as_array().unwrap();
    let of = |name: &str| standing.iter().find(|standing| standing["tenant"] == name).cloned();
    assert!(of("spin0").unwrap()["budget"]["demotions"].as_u64() > Some(0), "{standing:?}");
    assert_eq!(of("calm").unwrap()["budget"]["demotions"], 0);
    let (_, text) = says(node.folder(), &["tenant", "usage", "spin0"]).await;
    assert!(text.contains("fuel: "), "{text}");
    until("the tenant's own log", async || {
        says(node.folder(), &["tenant", "log", "spin0"])
            .await
            .1
            .contains("[host] the budget of guest work is used up")
    })
    .await;
    until("the frames of a trap", async || {
        let (_, text) = says(node.folder(), &["tenant", "log", "traps"]).await;
        text.contains("[fault]") && text.contains("    in price_of_cart at 0x")
    })
    .await;
}

#[tokio::test]
async fn a_demoted_tenant_is_explained() {
    let upstream = Upstream::start("web").await;
    let budget = "[tenant.greedy.budget]\nfuel_burst = 3000000\nfuel_per_second = 1\n";
    let folder = node::folder(&one_region(&[&upstream], &tenants(&["greedy"], budget)));
    std::fs::write(folder.path().join("policies/greedy.wasm"), Guest::deciding(SPINS).component()).unwrap();
    let node = Node::start_in(folder).await;
    let url = "http://greedy.apps.test/";
    until("the explanation", async || {
        let answer = client::get(node.public(), "greedy.apps.test", "/").await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, HERE), "its table answers");
        let (_, text) = says(node.folder(), &["explain", "GET", url]).await;
        text.contains("the tenant's budget of guest work is used up")
    })
    .await;
    let (_, text) = says(node.folder(), &["tenant", "usage", "nobody"]).await;
    assert!(text.contains("no such tenant with a policy on this node"), "{text}");
}

#[tokio::test]
async fn a_policy_outside_of_its_bounds_is_refused_and_the_last_good_plan_is_held_to_them() {
    let (web, other) = (Upstream::start("web").await, Upstream::start("other").await);
    let other_pool = format!("[region.here.pool.other]\nendpoints = [\"{}\"]\n", other.address);
    let tenant = |bounds: &str, pool: &str| {
        one_region(
            &[&web],
            &format!(
                "{other_pool}[tenants]\nsources = [{{ host_suffix = \".apps.test\" }}]\n{bounds}\
                 [tenant.acme.policy]\nuse = \"weighted\"\nconfig = {{ shares = [{{ pool = \"{pool}\", percent = 100 }}] }}\n"
            ),
        )
    };
    let node = Node::start(&tenant("", "other")).await;
    let name = async || client::get(node.public(), "acme.apps.test", "/").await.unwrap();
    assert!(name().await.text().contains("other"));

    // Bounds became narrower than the plan that runs: the new plan is refused, and the old one is held to them.
    node.write("portolan.toml", tenant("[tenant.acme.bounds]\npools = [\"web\"]\n", "other"));
    until("the refusal", async || {
        let (_, text) = says(node.folder(), &["tenant", "refusals", "acme"]).await;
        text.contains("region `here` has no pool `other`; it has web")
    })
    .await;
    until("the bounds", async || name().await.status == 503).await;
    assert!(name().await.text().contains("out-of-bounds"));
    let (_, text) = says(node.folder(), &["explain", "GET", "http://acme.apps.test/"]).await;
    assert!(
        text.contains("outside of what the operator allows this tenant: it forwards to the pool `other`"),
        "{text}"
    );
    let elsewhere = client::get(node.public(), "globex.apps.test", "/").await.unwrap();
    assert_eq!(elsewhere.status, 200, "nobody else notices");

    node.write("portolan.toml", tenant("[tenant.acme.bounds]\npools = [\"web\"]\n", "web"));
    until("the fair plan", async || name().await.text().contains("web")).await;
    let (code, text) = {
        node.write(
            "portolan.toml",
            tenant("[tenants.bounds]\npools = [\"wbe\"]\nheaders = [\"a b\"]\n", "web"),
        );
        says(node.folder(), &["validate"]).await
    };
    assert!(
        code == 1
            && text.contains("no region has a pool `wbe`")
            && text.contains("`a b` names no header field"),
        "{text}"
    );
}

#[tokio::test]
async fn a_closed_slot_answers_503_and_a_bypassed_one_is_passed_by() {
    let upstream = Upstream::start("web").await;
    let text = one_region(
        &[&upstream],
        "[tenants]\nsources = [{ host_suffix = \".apps.test\" }]\n\
         [tenant.shut.policy]\nuse = \"broken\"\non_fail = \"closed\"\n\
         [tenant.open.policy]\nuse = \"broken\"\non_fail = \"bypass\"\n\
         [tenant.trap.policy]\nuse = \"traps\"\non_fail = \"bypass\"\n",
    );
    let folder = node::folder(&text);
    std::fs::write(folder.path().join("policies/broken.wasm"), Guest::planning("(unreachable)").component())
        .unwrap();
    std::fs::write(folder.path().join("policies/traps.wasm"), Guest::deciding("(unreachable)").component())
        .unwrap();
    let node = Node::start_in(folder).await;
    let ask = async |host: &str| client::get(node.public(), host, "/").await.unwrap();
    let shut = ask("shut.apps.test").await;
    assert_eq!(shut.status, 503);
    assert!(shut.text().contains("urn:portolan:problem:policy-failed"), "{}", shut.text());
    for host in ["open.apps.test", "other.apps.test", "trap.apps.test"] {
        let answer = ask(host).await;
        assert!(answer.status == 200 && answer.text().contains("web"), "{host}: {}", answer.text());
    }
    node.write("policies/broken.wasm", responding("mended"));
    until("the mended policy", async || ask("shut.apps.test").await.text() == "mended").await;

    // An operator's policy that is refused keeps a node from starting, unless its fail rule says what requests get.
    let operators = |on_fail: &str| {
        one_region(&[&upstream], &format!("[policy]\nuse = \"missing\"\non_fail = \"{on_fail}\"\n"))
    };
    let refused = node::folder(&operators("previous"));
    let (code, text) = says(refused.path(), &["serve"]).await;
    assert!(code == 1 && text.contains("the operator's policy is refused"), "{text}");
    for (on_fail, status) in [("closed", 503), ("bypass", 200)] {
        let node = Node::start(&operators(on_fail)).await;
        assert_eq!(client::get(node.public(), "a", "/").await.unwrap().status, status, "{on_fail}");
    }
}

/// The text of a node that follows a store.
fn following(name: &str, store: &Path) -> String {
    format!(
        "[node]\nname = \"{name}\"\nregion = \"here\"\nthreads = 1\n[listen]\npublic = [\"127.0.0.1:0\"]\n\
         [policies]\ninstances = 100\n[control]\nsqlite = {store:?}\n"
    )
}

#[tokio::test]
async fn break_glass_works_with_the_store_away() {
    let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
    let (store, away) = (place.path().join("store"), place.path().join("away"));
    std::fs::create_dir(&store).unwrap();
    let one = node::folder(&following("one", &store.join("control.db")));
    let all = format!(
        "[region.here.pool.web]\nendpoints = [\"{}\"]\n{}",
        upstream.address,
        tenants(&["acme", "globex"], "")
    );
    std::fs::write(one.path().join("conf.d/all.toml"), all).unwrap();
    let write = |folder: &Path, text: &str| {
        for name in ["acme", "globex"] {
            let partial = folder.join("policies/partial");
            std::fs::write(&partial, responding(&format!("{name}-{text}"))).unwrap();
            std::fs::rename(partial, folder.join(format!("policies/{name}.wasm"))).unwrap();
        }
    };
    write(one.path(), "first");
    let (code, text) = says(one.path(), &["apply"]).await;
    assert_eq!(code, 0, "{text}");
    let one = Node::start_in(one).await;
    let two = node::folder(&following("two", &store.join("control.db")));
    write(two.path(), "first");
    let two = Node::start_in(two).await;
    let ask = async |node: &Node, host: &str| client::get(node.public(), host, "/").await.unwrap().text();
    let is = async |node: &Node, acme: &str, globex: &str| {
        until("the answers", async || {
            ask(node, "acme.apps.test").await.contains(acme)
                && ask(node, "globex.apps.test").await.contains(globex)
        })
        .await;
    };
    is(&one, "acme-first", "globex-first").await;

    // By the store, on all nodes.
    let (code, text) =
        says(one.folder(), &["policy", "disable", "--tenant", "acme", "--everywhere", "-m", "on fire"]).await;
    assert!(code == 0 && text.contains("undo: portolan policy enable --tenant acme --everywhere"), "{text}");
    for node in [&one, &two] {
        is(node, "web", "globex-first").await;
        assert_eq!(
            node.status().await["configuration"]["break_glass"]["disabled"]["everywhere"]["tenants"]["acme"]
                ["why"],
            "on fire"
        );
    }
    let (code, text) = says(one.folder(), &["policy", "enable", "--tenant", "acme", "--everywhere"]).await;
    assert_eq!(code, 0, "{text}");
    is(&two, "acme-first", "globex-first").await;
    is(&one, "acme-first", "globex-first").await;

    // Without the store, on this node, once it has on its own disk what it runs.
    until("the generation on disk", async || {
        let running = one.status().await["control"]["running"].as_u64().unwrap();
        one.folder().join(format!(".portolan/generations/{running:020}.json")).is_file()
    })
    .await;
    std::fs::rename(&store, &away).unwrap();
    until("the loss", async || one.status().await["control"]["health"]["is"] == "away").await;
    let (code, text) = says(one.folder(), &["policy", "freeze", "--everywhere"]).await;
    assert!(code == 1 && text.contains("leave `--everywhere` out"), "{text}");
    let (code, text) = says(one.folder(), &["policy", "freeze", "-m", "holidays"]).await;
    assert!(code == 0 && text.contains("undo: portolan policy thaw"), "{text}");
    until("the freeze", async || {
        one.status().await["configuration"]["break_glass"]["frozen"]["here"]["why"] == "holidays"
    })
    .await;
    write(one.folder(), "second");
    write(two.folder(), "second");
    is(&two, "acme-second", "globex-second").await;
    is(&one, "acme-first", "globex-first").await;
    let metrics = one.ask_plain("GET", "/api/v1/metrics", Value::Null).await.unwrap().text();
    assert!(metrics.contains("\nportolan_policies_frozen 1\n"), "{metrics}");
    let (_, text) = says(one.folder(), &["status"]).await;
    assert!(text.contains("FROZEN") && text.contains("holidays"), "{text}");

    let (code, text) = says(one.folder(), &["policy", "disable", "--all-tenants"]).await;
    assert_eq!(code, 0, "{text}");
    is(&one, "web", "web").await;
    let (_, text) = says(one.folder(), &["status"]).await;
    assert!(text.contains("DISABLED all tenants"), "{text}");
    let (code, text) = says(one.folder(), &["policy", "enable", "--tenant", "acme"]).await;
    assert!(code == 1 && text.contains("all tenants are disabled"), "{text}");
    let (code, _) = says(one.folder(), &["policy", "enable", "--all-tenants"]).await;
    assert_eq!(code, 0);
    is(&one, "acme-first", "globex-first").await;

    // A restart goes on with what was held, or with nothing where that is gone, never with what nobody released.
    let one = one.restarted(&[]).await;
    is(&one, "web", "web").await;
    let (_, text) = says(one.folder(), &["tenant", "refusals", "acme"]).await;
    assert!(text.contains("policies are frozen"), "{text}");
    write(one.folder(), "first");
    let one = one.restarted(&[]).await;
    is(&one, "acme-first", "globex-first").await;
    write(one.folder(), "second");
    let (code, _) = says(one.folder(), &["policy", "thaw"]).await;
    assert_eq!(code, 0);
    is(&one, "acme-second", "globex-second").await;
}

#[tokio::test]
async fn what_tenants_use_is_counted_and_survives_a_kill() {
    let upstream = Upstream::start("web").await;
    let folder = node::folder(&one_region(&[&upstream], &tenants(&["acme"], "")));
    std::fs::write(folder.path().join("policies/acme.wasm"), Guest::deciding("(i32.const 1)").component())
        .unwrap();
    let node = Node::start_in(folder).await;
    let mut acme = Client::connect(node.public(), "acme.apps.test").await.unwrap();
    for _ in 0..10 {
        let request = http::Request::post("/").header("content-type", "text/plain");
        assert_eq!(acme.send(request, "0123456789".into()).await.unwrap().status, 200);
    }
    let mut globex = Client::connect(node.public(), "globex.apps.test").await.unwrap();
    let request = http::Request::post("/echo");
    let answer = globex.send(request, "0123456789".into()).await.unwrap();
    let sent = answer.body.len();
    let rows = async |node: &Node| {
        let (code, text) =
            says(node.folder(), &["usage", "export", "--since", "1h", "--format", "json"]).await;
        assert_eq!(code, 0, "{text}");
        serde_json::from_str::<Value>(&text).unwrap()["rows"].as_array().unwrap().clone()
    };
    let of = |rows: &[Value], name: &str| {
        rows.iter().find(|row| row["tenant"] == name).cloned().unwrap_or_default()
    };
    until("the counts", async || {
        let rows = rows(&node).await;
        of(&rows, "acme")["requests"] == 10 && of(&rows, "globex")["requests"] == 1
    })
    .await;
    let all = rows(&node).await;
    let (acme, globex) = (of(&all, "acme"), of(&all, "globex"));
    // Its policy answered without reading what was sent.
    assert_eq!((&acme["sent_bytes"], &acme["guest_calls"]), (&40.into(), &10.into()));
    assert!(
        acme["guest_fuel"].as_u64() > Some(0) && acme["plans"] == 1 && acme["plan_fuel"].as_u64() > Some(0),
        "{acme}"
    );
    assert_eq!((&globex["received_bytes"], &globex["sent_bytes"]), (&10.into(), &sent.into()));
    let node = node.restarted(&[]).await;
    assert_eq!(client::get(node.public(), "acme.apps.test", "/").await.unwrap().status, 200);
    until("the counts of both", async || of(&rows(&node).await, "acme")["requests"] == 11).await;
    let (_, text) = says(node.folder(), &["usage", "export"]).await;
    assert!(text.starts_with("from_ms,tenant,requests,") && text.contains(",acme,11,"), "{text}");
}
