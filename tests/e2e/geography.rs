//! Where clients are on earth: requests and names lead to the region that is nearest, by a table that is replaced while the node runs.

use bytes::Bytes;
use http::Request;
use portolan_tests::client::Client;
use portolan_tests::mmdb::{Value, table};
use portolan_tests::node::{Node, folder, good, says};
use portolan_tests::until;
use portolan_tests::upstream::Upstream;

use super::dns::dig;

/// A table in which two networks of documentation are in these countries.
fn countries(first: &str, second: &str) -> Vec<u8> {
    let record = |country| [("country", Value::Map(country))];
    let (one, two) = ([("iso_code", Value::Text(first))], [("iso_code", Value::Text(second))]);
    let networks = [("192.0.2.0/24", record(&one)), ("198.51.100.0/25", record(&two))];
    let networks: Vec<_> = networks.iter().map(|(network, record)| (*network, Value::Map(record))).collect();
    table("Test-Country", &networks)
}

/// Which upstream answers a client.
async fn answers(node: &Node, client: &str) -> String {
    let mut to = Client::connect(node.public(), "a").await.unwrap();
    let request = Request::get("/").header("x-forwarded-for", client);
    let answer = to.send(request, Bytes::new()).await.unwrap();
    let told: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    told["name"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_and_names_are_led_to_the_nearest_region() {
    let (eu, us) = (Upstream::start("eu").await, Upstream::start("us").await);
    let text = format!(
        "[node]\nregion = \"eu\"\n[listen]\npublic = [\"127.0.0.1:0\"]\ndns = [\"127.0.0.1:0\"]\n[policies]\ninstances = 100\n\
         [trust]\nproxies = [\"127.0.0.0/8\"]\n[geography]\nfile = \"countries.mmdb\"\n\
         [policy]\nuse = \"nearest-region\"\nconfig = {{ pool = \"web\" }}\n\
         [region.eu]\naddresses = [\"192.0.2.1\"]\nlocation = {{ country = \"DE\" }}\n[region.eu.pool.web]\nendpoints = [\"{}\"]\n\
         [region.us]\naddresses = [\"192.0.2.2\"]\nlocation = {{ country = \"US\", latitude = 38.9, longitude = -77.5 }}\n\
         [region.us.pool.web]\nendpoints = [\"{}\"]\n\
         [dns.zone.\"shop.test\"]\nname_servers = {{ \"ns.elsewhere.test\" = [] }}\n\
         [dns.zone.\"shop.test\".name.\"near.shop.test\"]\nnearest = true\n",
        eu.address, us.address
    );
    let folder = folder(&text);
    std::fs::write(folder.path().join("countries.mmdb"), countries("CH", "CA")).unwrap();
    let node = Node::start_in(folder).await;
    let (swiss, canadian, nowhere) = ("192.0.2.7", "198.51.100.7", "203.0.113.7");
    assert_eq!(answers(&node, swiss).await, "eu");
    assert_eq!(answers(&node, canadian).await, "us");
    assert_eq!(answers(&node, nowhere).await, "eu", "of whom nothing is known, it is where it came in");
    let near = async |client: &str| {
        let subnet = format!("+subnet={client}/32");
        dig(node.listener(1), &[&subnet, "near.shop.test", "A"]).await
    };
    until("names are told by the table", async || near(canadian).await.contains("192.0.2.2")).await;
    let told = near(canadian).await;
    assert!(told.contains("CLIENT-SUBNET: 198.51.100.7/32/25"), "{told}");
    let told = near(swiss).await;
    assert!(told.contains("192.0.2.1") && told.contains("/32/24"), "{told}");

    let located = good(node.folder(), &["geography", "locate", swiss, canadian, nowhere]).await;
    let lines: Vec<&str> = located.lines().collect();
    assert!(
        lines[0].ends_with("/24\tCH\tEU\teu us") && lines[1].ends_with("/25\tCA\tNA\tus eu"),
        "{located}"
    );
    assert!(lines[2].ends_with("\t-\t-\t-"), "{located}");

    // Another table takes effect by itself; one that is damaged changes nothing, and is told.
    node.write("countries.mmdb", countries("US", "DE"));
    until("the new table", async || answers(&node, swiss).await == "us").await;
    assert_eq!(answers(&node, canadian).await, "eu");
    until("names follow", async || near(swiss).await.contains("192.0.2.2")).await;
    let whole = countries("CH", "CA");
    node.write("countries.mmdb", &whole[..whole.len() / 2]);
    until("the problem", async || {
        node.status().await["configuration"]["problems"].to_string().contains("countries.mmdb")
    })
    .await;
    assert_eq!((answers(&node, swiss).await, answers(&node, canadian).await), ("us".into(), "eu".into()));
    let (code, said) = says(node.folder(), &["geography", "locate", swiss]).await;
    assert!(code != 0 && said.contains("countries.mmdb"), "{said}");
    node.write("countries.mmdb", whole);
    until("the table is whole again", async || answers(&node, swiss).await == "eu").await;
    assert_eq!(node.status().await["configuration"]["geography"]["kind"], "Test-Country");

    // Places that are none are told before anything runs.
    let wrong = text.replace("country = \"DE\"", "country = \"Germany\"").replace("-77.5", "-277.5");
    node.write("portolan.toml", wrong);
    let (code, said) = says(node.folder(), &["validate"]).await;
    assert!(
        code != 0 && said.contains("`Germany` is no country") && said.contains("no point of the earth"),
        "{said}"
    );
}
