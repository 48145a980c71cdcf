//! Names that lead to regions: asked of running nodes as resolvers ask, and as the command line shows them.

mod others;

use std::net::SocketAddr;

use portolan_tests::node::Node;
use portolan_tests::until;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::process::Command;

use super::shards::says;

/// Two regions, of which a gateway is reached or not, and one name.
fn text(extra: &str, peer: SocketAddr) -> String {
    format!(
        "[node]\nregion = \"eu\"\n[listen]\npublic = [\"127.0.0.1:0\"]\ndns = [\"127.0.0.1:0\"]\n{extra}\n\
         [region.eu]\naddresses = [\"192.0.2.1\", \"2001:db8::1\"]\n[region.eu.pool.web]\nendpoints = [\"127.0.0.1:9\"]\n\
         [region.us]\naddresses = [\"192.0.2.2\", \"2001:db8::2\"]\ngateways = [\"{peer}\"]\n\
         probe = {{ interval = \"100ms\", fall = 2 }}\n[region.us.pool.web]\nendpoints = [\"127.0.0.1:9\"]\n\
         [dns.zone.\"shop.test\"]\nname_servers = {{ \"ns.shop.test\" = [\"127.0.0.1\"] }}\n\
         [dns.zone.\"shop.test\".name.\"www.shop.test\"]\norder = [\"us\", \"eu\"]\nttl_max = 40\n\
         [dns.zone.\"shop.test\".name.\"near.shop.test\"]\nnearest = true\n\
         [[dns.near]]\nnetwork = \"198.51.100.0/24\"\nregions = [\"us\"]\n"
    )
}

/// What `dig` says.
pub(super) async fn dig(at: SocketAddr, arguments: &[&str]) -> String {
    let (host, port) = (format!("@{}", at.ip()), at.port().to_string());
    let fixed = ["+norecurse", "+tries=1", "+time=5", &host, "-p", &port];
    let output = Command::new("dig").args(fixed).args(arguments).output().await.unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A region that nobody reaches is not told, what was told last is told by a node that starts alone, and it can be exported.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_lead_to_regions_that_are_there() {
    // Nobody listens where the socket was.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let certs = tempfile::tempdir().unwrap();
    let (code, said) = says(certs.path(), &["pki", "trial", "certs", "eu", "us"]).await;
    assert_eq!(code, 0, "{said}");
    let at = |name: &str| certs.path().join("certs").join(name);
    let identity =
        format!("[peer]\ncert = {:?}\nkey = {:?}\nca = [{:?}]", at("eu.crt"), at("eu.key"), at("ca.crt"));
    let node = Node::start(&text(&identity, gone)).await;
    let server = node.listener(1);
    until("the region that is not there is not told", async || {
        dig(server, &["+short", "www.shop.test", "A"]).await.trim() == "192.0.2.1"
    })
    .await;
    assert_eq!(dig(server, &["+short", "+tcp", "www.shop.test", "AAAA"]).await.trim(), "2001:db8::1");
    // Nobody is near to whom no region is near that is in, and an answer that does not depend on the client says so.
    let near = dig(server, &["+subnet=198.51.100.0/24", "near.shop.test", "A"]).await;
    assert!(near.contains("192.0.2.1") && near.contains("CLIENT-SUBNET: 198.51.100.0/24/"), "{near}");
    let foreign = dig(server, &["www.elsewhere.test", "A"]).await;
    assert!(foreign.contains("status: REFUSED"), "{foreign}");
    let none = dig(server, &["other.shop.test", "A"]).await;
    assert!(none.contains("status: NXDOMAIN") && none.contains("30\tIN\tSOA"), "{none}");

    let (code, said) = says(node.folder(), &["dns", "status"]).await;
    assert!(code == 0 && said.contains("this node writes plans"), "{said}");
    let number = node.status().await["dns"]["number"].as_u64().unwrap();
    let (code, zone) = says(node.folder(), &["dns", "export"]).await;
    assert!(code == 0 && zone.contains("www.shop.test.") && zone.contains("192.0.2.1"), "{zone}");
    let metrics = node.ask_plain("GET", "/api/v1/metrics", Value::Null).await.unwrap().text();
    assert!(metrics.contains(&format!("portolan_dns_plan {number}")), "{metrics}");
    let (code, key) = says(node.folder(), &["dns", "key", "zone.key", "shop.test"]).await;
    assert!(code == 0 && key.contains("shop.test. IN DS "), "{key}");

    // What was told last is told before anybody is asked.
    let again = node.restarted(&[]).await;
    let told = dig(again.listener(1), &["+short", "www.shop.test", "A"]).await;
    assert_eq!(told.trim(), "192.0.2.1");
    assert!(again.status().await["dns"]["number"].as_u64() >= Some(number));
}

/// Nodes of one control store tell one plan: each of its numbers is written once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_one_store_tell_one_plan() {
    let place = tempfile::tempdir().unwrap();
    let own = |region: &str| {
        let folder = tempfile::tempdir_in(place.path()).unwrap();
        let control = place.path().join("control.db");
        std::fs::create_dir(folder.path().join("conf.d")).unwrap();
        let text = format!(
            "[node]\nregion = \"{region}\"\n[listen]\npublic = [\"127.0.0.1:0\"]\ndns = [\"127.0.0.1:0\"]\n[control]\nsqlite = {control:?}\n"
        );
        std::fs::write(folder.path().join("portolan.toml"), text).unwrap();
        folder
    };
    let shared = |us: &str| {
        format!(
            "[region.eu]\naddresses = [\"192.0.2.1\"]\n[region.eu.pool.web]\nendpoints = [\"127.0.0.1:9\"]\n\
             [region.us]\naddresses = [\"{us}\"]\n[region.us.pool.web]\nendpoints = [\"127.0.0.1:9\"]\n\
             [dns.zone.\"shop.test\"]\nname_servers = {{ \"ns.elsewhere.test\" = [] }}\n\
             [dns.zone.\"shop.test\".name.\"www.shop.test\"]\norder = [\"us\", \"eu\"]\n"
        )
    };
    let (eu, us) = (own("eu"), own("us"));
    std::fs::write(eu.path().join("conf.d/all.toml"), shared("192.0.2.2")).unwrap();
    let (code, said) = says(eu.path(), &["apply"]).await;
    assert_eq!(code, 0, "{said}");
    let (eu, us) = (Node::start_in(eu).await, Node::start_in(us).await);
    let same = async |address: &str| {
        until(&format!("both tell {address}"), async || {
            let told = async |node: &Node| dig(node.listener(1), &["+short", "www.shop.test", "A"]).await;
            let number = async |node: &Node| node.status().await["dns"]["number"].as_u64();
            told(&eu).await.trim() == address
                && told(&us).await.trim() == address
                && number(&eu).await.is_some()
                && number(&eu).await == number(&us).await
        })
        .await;
        eu.status().await["dns"]["number"].as_u64().unwrap()
    };
    let first = same("192.0.2.2").await;
    let writers = [&eu, &us].map(async |node| node.status().await["dns"]["writes_plans"] == true);
    let writers = futures_util::future::join_all(writers).await;
    assert_eq!(writers.iter().filter(|writes| **writes).count(), 1, "one writes");
    eu.write("conf.d/all.toml", shared("192.0.2.3"));
    let (code, said) = says(eu.folder(), &["apply"]).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(same("192.0.2.3").await, first + 1);

    // A name without an answer is refused before anybody is told it.
    eu.write("conf.d/all.toml", shared("192.0.2.3").replace("addresses = [\"192.0.2.3\"]\n", ""));
    let (code, said) = says(eu.folder(), &["apply"]).await;
    assert!(code != 0 && said.contains("us"), "{said}");
}
