//! Steering over real links: what a region cannot take spills over to another, a link that breaks costs no request, and a region that is back
//! has its traffic again step by step.

use std::cell::RefCell;

use bytes::Bytes;
use http::Request;
use portolan_core::balance::{splitmix, stable_hash};
use portolan_core::steering::WHOLE;
use portolan_tests::client::Client;
use portolan_tests::line::{Line, Passage, Weather};
use portolan_tests::node::{Node, folder, good};
use portolan_tests::until;
use portolan_tests::upstream::Upstream;
use serde_json::Value;
use tempfile::TempDir;

/// Clients that ask in one round.
const CLIENTS: usize = 60;

/// Two regions, each with a gateway, whose gateways reach each other over lines.
struct Pair {
    eu: Node,
    to_eu: Line,
    us: Node,
    _certs: TempDir,
    _to_us: Line,
}

impl Pair {
    /// Applications of each region are probed often; traffic that comes back has all of its share after some seconds.
    async fn start(eu: &[&Upstream], us: &[&Upstream]) -> Self {
        let certs = tempfile::tempdir().unwrap();
        good(certs.path(), &["pki", "trial", "certs", "eu", "us"]).await;
        let (to_eu, to_us) = (Line::open().await, Line::open().await);
        let text = |own: &str, upstreams: &[&Upstream]| {
            let at = |name: &str| certs.path().join("certs").join(name);
            let other = if own == "eu" { "us" } else { "eu" };
            let line = if own == "eu" { &to_us } else { &to_eu };
            let endpoints: Vec<String> =
                upstreams.iter().map(|upstream| format!("\"{}\"", upstream.address)).collect();
            format!(
                "[node]\nregion = \"{own}\"\nthreads = 1\n[listen]\npublic = [\"127.0.0.1:0\"]\npeer = [\"127.0.0.1:0\"]\n\
                 [peer]\ncert = {:?}\nkey = {:?}\nca = [{:?}]\n[policies]\ninstances = 100\n\
                 [expose]\ndecision = true\n[trust]\nproxies = [\"127.0.0.0/8\"]\nregion_header = \"x-near\"\n[steering]\nramp = \"6s\"\n\
                 [steering.breaker]\nfailures = 3\npause_min = \"200ms\"\npause_max = \"400ms\"\n\
                 [policy]\nuse = \"nearest-region\"\nconfig = {{ pool = \"web\" }}\n\
                 [region.{own}.pool.web]\nendpoints = [{}]\nprobe = {{ interval = \"100ms\", fall = 2, rise = 1 }}\n\
                 [region.{other}]\ngateways = [\"{}\"]\nprobe = {{ interval = \"100ms\", fall = 2, rise = 1 }}\n\
                 [region.{other}.pool.web]\n",
                at(&format!("{own}.crt")),
                at(&format!("{own}.key")),
                at("ca.crt"),
                endpoints.join(", "),
                line.address,
            )
        };
        let (eu, us) =
            (Node::start_in(folder(&text("eu", eu))).await, Node::start_in(folder(&text("us", us))).await);
        to_eu.leads_to(eu.listener(1));
        to_us.leads_to(us.listener(1));
        let pair = Self { eu, to_eu, us, _certs: certs, _to_us: to_us };
        for (node, other) in [(&pair.eu, "us"), (&pair.us, "eu")] {
            until("the other region is there", async || verdict(node, other).await == "healthy").await;
        }
        pair
    }
}

async fn verdict(node: &Node, region: &str) -> String {
    let status = node.status().await;
    let regions = status["regions"].as_array().cloned().unwrap_or_default();
    let found = regions.iter().find(|there| there["name"] == region).cloned().unwrap_or_default();
    found["verdict"].as_str().unwrap_or_default().to_owned()
}

/// How many of a round's clients each region answers, and why they were steered; no request fails.
async fn round(node: &Node, near: &str) -> (usize, usize, Vec<String>) {
    let (mut eu, mut us, mut why) = (0, 0, Vec::new());
    let mut to = Client::connect(node.public(), "shop.test").await.unwrap();
    for client in 0..CLIENTS {
        let request = Request::get("/").header("x-forwarded-for", format!("10.0.0.{client}"));
        let answer = to.send(request.header("x-near", near), Bytes::new()).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let told: Value = serde_json::from_slice(&answer.body).unwrap();
        match told["name"].as_str().unwrap_or_default() {
            name if name.starts_with("eu") => eu += 1,
            _ => us += 1,
        }
        let steered = answer.header("portolan-steered").to_owned();
        if !steered.is_empty() && !why.contains(&steered) {
            why.push(steered);
        }
    }
    (eu, us, why)
}

/// How many of a round's clients lie on the first so many parts of the line on which their hashes fall.
fn on_the_line(parts: u32) -> usize {
    let hash =
        |client: &usize| splitmix(stable_hash(format!("10.0.0.{client}").as_bytes()) ^ stable_hash(b""));
    (0..CLIENTS).filter(|client| hash(client) % u64::from(WHOLE) < u64::from(parts)).count()
}

/// One of two applications of a region dies, and a part of the region's clients goes to the other region; both die, and all do; they are back,
/// and so is everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_region_cannot_take_goes_to_another_over_the_link() {
    let (one, two, us) =
        (Upstream::start("eu-1").await, Upstream::start("eu-2").await, Upstream::start("us").await);
    let pair = Pair::start(&[&one, &two], &[&us]).await;
    assert_eq!(round(&pair.eu, "eu").await, (CLIENTS, 0, Vec::new()));
    one.kill();
    // Half of the endpoints bear 70 % of the traffic.
    until("a part of it spills over", async || {
        let (stays, spills, why) = round(&pair.eu, "eu").await;
        stays > spills && spills > 0 && why == ["spilled"]
    })
    .await;
    // More stay while the other region still ramps up, which it does from when it was seen first.
    let stays = on_the_line(WHOLE * 7 / 10);
    until("each client is where its hash says", async || {
        let (eu, us, _) = round(&pair.eu, "eu").await;
        (eu, us) == (stays, CLIENTS - stays)
    })
    .await;
    two.kill();
    until("all of it goes to the other region", async || round(&pair.eu, "eu").await.1 == CLIENTS).await;
    let (one, two) =
        (Upstream::start_at("eu-1", one.address).await, Upstream::start_at("eu-2", two.address).await);
    until("all of it is back", async || round(&pair.eu, "eu").await == (CLIENTS, 0, Vec::new())).await;
    assert!(one.requests() > 0 && two.requests() > 0);
}

/// The link to the nearest region breaks under its clients: none of them notices. When it is whole again they go back, not all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_back_has_its_traffic_step_by_step() {
    let (eu, us) = (Upstream::start("eu").await, Upstream::start("us").await);
    let pair = Pair::start(&[&eu], &[&us]).await;
    // What began when the region was first seen ends first.
    until("its clients go to the nearest region", async || round(&pair.us, "eu").await.0 == CLIENTS).await;
    pair.to_eu.weather("", Weather { passage: Passage::Reset, ..Weather::default() });
    until("they are answered where they came in", async || round(&pair.us, "eu").await.1 == CLIENTS).await;
    pair.to_eu.weather("", Weather::default());
    let shares = RefCell::new(Vec::new());
    until("they are back at the nearest region", async || {
        let share = round(&pair.us, "eu").await.0;
        shares.borrow_mut().push(share);
        share == CLIENTS
    })
    .await;
    let shares = shares.into_inner();
    let parts = shares.iter().filter(|share| (1..CLIENTS).contains(*share)).count();
    assert!(parts > 1, "they come back step by step: {shares:?}");
}
