//! Servers of others that two nodes keep at the newest plan: BIND by guarded updates, Knot by transfers that it is told of, and a zone at a provider.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use portolan_foundation::task;
use portolan_tests::node::{Node, folder, good};
use portolan_tests::until;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::dig;

const SECRET: &str = "c2VjcmV0IG9mIHRoZSB0ZXN0cyBvZiBwb3J0b2xhbi4=";
const TOKEN: &str = "a-token-of-the-provider";

/// A server of DNS; it ends with the value.
struct Daemon {
    address: SocketAddr,
    child: Child,
    _folder: TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// An address that is free for TCP and UDP.
fn free() -> SocketAddr {
    loop {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

impl Daemon {
    /// Starts a program with its configuration, in which `FOLDER` and `PORT` stand for its own.
    async fn start(program: &str, flags: &[&str], config: &str, zone: &str) -> Self {
        let (folder, address) = (tempfile::tempdir().unwrap(), free());
        let file = folder.path().join("config");
        let text = config.replace("FOLDER", folder.path().to_str().unwrap());
        std::fs::write(&file, text.replace("PORT", &address.port().to_string())).unwrap();
        std::fs::write(folder.path().join("zone"), zone).unwrap();
        std::fs::create_dir(folder.path().join("db")).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(program);
        command.args(flags).arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // `cargo xtask setup --tests` gets it.
        let child = command.spawn().unwrap();
        let daemon = Self { address, child, _folder: folder };
        until(&format!("{program} listens"), async || tokio::net::TcpStream::connect(address).await.is_ok())
            .await;
        daemon
    }

    /// BIND, which takes updates of the zone.
    async fn bind() -> Self {
        let config = format!(
            "options {{ directory \"FOLDER\"; pid-file none; session-keyfile none; listen-on port PORT {{ 127.0.0.1; }};\n\
             listen-on-v6 {{ none; }}; recursion no; notify no; dnssec-validation no; }};\ncontrols {{}};\n\
             key \"writer\" {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};\n\
             zone \"shop.test\" {{ type primary; file \"zone\"; allow-update {{ key writer; }}; }};\n"
        );
        let zone = "shop.test. 30 IN SOA ns.shop.test. host.shop.test. 1 60 15 600 20\nshop.test. 30 IN NS ns.shop.test.\n\
                    ns.shop.test. 30 IN A 127.0.0.1\n";
        Self::start("/usr/sbin/named", &["-g", "-n", "1", "-c"], &config, zone).await
    }

    /// Knot, which takes the zone from a node.
    async fn knot(primary: SocketAddr) -> Self {
        let config = format!(
            "server:\n    rundir: FOLDER\n    listen: 127.0.0.1@PORT\n    udp-workers: 1\n    tcp-workers: 1\n    background-workers: 1\n\
             log:\n  - target: stderr\n    any: info\n\
             database:\n    storage: FOLDER/db\n    journal-db-max-size: 20M\n    kasp-db-max-size: 5M\n    timer-db-max-size: 5M\n\
             key:\n  - id: copies\n    algorithm: hmac-sha256\n    secret: {SECRET}\n\
             acl:\n  - id: notify\n    key: copies\n    action: notify\n\
             remote:\n  - id: primary\n    address: {}@{}\n    key: copies\n\
             zone:\n  - domain: shop.test\n    storage: FOLDER\n    file: secondary\n    master: primary\n    acl: notify\n",
            primary.ip(),
            primary.port()
        );
        Self::start("/usr/sbin/knotd", &["-c"], &config, "").await
    }
}

/// As much of Cloudflare's API as is asked of it.
#[derive(Debug, Default)]
struct Provider {
    batches: usize,
    next: u64,
    records: Vec<Value>,
}

impl Provider {
    async fn start() -> (SocketAddr, Arc<Mutex<Self>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, provider) = (listener.local_addr().unwrap(), Arc::<Mutex<Self>>::default());
        let shared = Arc::clone(&provider);
        task::spawn("a provider", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let provider = Arc::clone(&shared);
                let service = service_fn(move |request: Request<Incoming>| {
                    let provider = Arc::clone(&provider);
                    async move {
                        let (head, content) = request.into_parts();
                        assert_eq!(head.headers["authorization"], format!("Bearer {TOKEN}").as_str());
                        assert!(head.uri.path().starts_with("/v4/zones/abc1/dns_records"), "{}", head.uri);
                        let content = content.collect().await.unwrap().to_bytes();
                        let mut provider = provider.lock().unwrap_or_else(PoisonError::into_inner);
                        let told = provider.answer(&head.method, &content);
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(told.to_string()))))
                    }
                });
                task::spawn("a provider's connection", async move {
                    let http = hyper::server::conn::http1::Builder::new();
                    http.serve_connection(TokioIo::new(stream), service).await.ok();
                });
            }
        });
        (address, provider)
    }

    fn answer(&mut self, method: &Method, content: &[u8]) -> Value {
        if *method == Method::GET {
            let info = json!({ "page": 1, "total_pages": 1 });
            return json!({ "success": true, "result": self.records, "result_info": info });
        }
        let batch: Value = serde_json::from_slice(content).unwrap();
        self.batches += 1;
        let gone: Vec<&Value> = batch["deletes"].as_array().unwrap().iter().map(|one| &one["id"]).collect();
        self.records.retain(|record| !gone.contains(&&record["id"]));
        for post in batch["posts"].as_array().unwrap() {
            self.next += 1;
            let mut record = post.clone();
            record["id"] = self.next.to_string().into();
            self.records.push(record);
        }
        json!({ "success": true, "result": {} })
    }

    /// What its records of a type and name say.
    fn has(&self, kind: &str, name: &str) -> Vec<String> {
        let own = self.records.iter().filter(|record| record["type"] == kind && record["name"] == name);
        own.map(|record| record["content"].as_str().unwrap().to_owned()).collect()
    }
}

fn secret(place: &Path, name: &str, text: &str) -> String {
    let path = place.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// What `delv` says of a name on a server, from the delegation of its zone alone.
async fn validated(place: &Path, delegation: &str, at: SocketAddr, name: &str) -> String {
    let rest: Vec<&str> = delegation.split_whitespace().skip(3).collect();
    let [tag, algorithm, digest, hash]: [&str; 4] = rest.try_into().unwrap();
    let anchor = place.join("anchor");
    let text = format!("trust-anchors {{ shop.test. static-ds {tag} {algorithm} {digest} \"{hash}\"; }};\n");
    std::fs::write(&anchor, text).unwrap();
    let mut delv = tokio::process::Command::new("delv");
    delv.arg(format!("@{}", at.ip())).args(["-p", &at.port().to_string(), "-a"]).arg(&anchor);
    let output = delv.args(["+root=shop.test", name, "A"]).stdin(Stdio::null()).output().await.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_of_others_have_the_newest_plan_whoever_writes() {
    let (place, dns) = (tempfile::tempdir().unwrap(), free());
    let (bind, knot) = (Daemon::bind().await, Daemon::knot(dns).await);
    let (api, provider) = Provider::start().await;
    let writer = secret(place.path(), "writer.key", &format!("hmac-sha256:writer:{SECRET}"));
    let copies = secret(place.path(), "copies.key", &format!("hmac-sha256:copies:{SECRET}"));
    let token = secret(place.path(), "token", TOKEN);
    let zone_key = place.path().join("zone.pem").to_str().unwrap().to_owned();
    let delegation = good(place.path(), &["dns", "key", &zone_key, "shop.test"]).await;
    let own = |region: &str, dns: &str| {
        let control = place.path().join("control.db");
        folder(&format!(
            "[node]\nname = \"{region}\"\nregion = \"{region}\"\n[listen]\npublic = [\"127.0.0.1:0\"]\ndns = [\"{dns}\"]\n[control]\nsqlite = {control:?}\n"
        ))
    };
    let shared = |us: &str| {
        format!(
            "[region.eu]\naddresses = [\"192.0.2.1\"]\n[region.eu.pool.web]\nendpoints = [\"127.0.0.1:9\"]\n\
             [region.us]\naddresses = [\"{us}\"]\n[region.us.pool.web]\nendpoints = [\"127.0.0.1:9\"]\n\
             [dns.zone.\"shop.test\"]\nkey = {zone_key:?}\nname_servers = {{ \"ns.elsewhere.test\" = [] }}\n\
             [dns.zone.\"shop.test\".name.\"www.shop.test\"]\norder = [\"us\"]\naddresses = {{ us = [\"{us}\"] }}\n\
             [[dns.push]]\nserver = \"{}\"\nzone = \"shop.test\"\nkey = {writer:?}\n\
             [[dns.secondary]]\nfrom = \"127.0.0.0/8\"\nkey = {copies:?}\nnotify = \"{}\"\n\
             [[dns.cloud]]\nprovider = \"cloudflare\"\nzone = \"shop.test\"\nid = \"abc1\"\ncredentials = {token:?}\nendpoint = \"http://{api}/v4\"\n",
            bind.address, knot.address
        )
    };
    let (eu, us) = (own("eu", &dns.to_string()), own("us", "127.0.0.1:0"));
    std::fs::write(eu.path().join("conf.d/all.toml"), shared("192.0.2.2")).unwrap();
    good(eu.path(), &["apply"]).await;
    let (eu, us) = (Node::start_in(eu).await, Node::start_in(us).await);
    let tells = async |server: SocketAddr, address: &str, number: u64| {
        dig(server, &["+short", "www.shop.test", "A"]).await.trim() == address
            && dig(server, &["+short", "_epoch.www.shop.test", "TXT"]).await.trim() == format!("\"{number}\"")
    };
    let all_have = async |address: &str, number: u64| {
        for (what, server) in [("BIND", bind.address), ("Knot", knot.address)] {
            until(&format!("{what} tells {address}"), async || tells(server, address, number).await).await;
        }
        until(&format!("the provider has {address}"), async || {
            let provider = provider.lock().unwrap_or_else(PoisonError::into_inner);
            provider.has("A", "www.shop.test") == [address]
                && provider.has("TXT", "_epoch.www.shop.test") == [format!("\"{number}\"")]
        })
        .await;
        let told = validated(place.path(), &delegation, knot.address, "www.shop.test").await;
        assert!(told.contains("; fully validated") && told.contains(address), "{told}");
    };
    until("there is a plan", async || eu.status().await["dns"]["number"].is_u64()).await;
    let first = eu.status().await["dns"]["number"].as_u64().unwrap();
    all_have("192.0.2.2", first).await;
    eu.write("conf.d/all.toml", shared("192.0.2.3"));
    good(eu.folder(), &["apply"]).await;
    all_have("192.0.2.3", first + 1).await;

    // Both nodes update BIND, one of them the provider, once for each plan; and what is weaker is told as such.
    until("both nodes have seen it on BIND", async || {
        let there = async |node: &Node| node.status().await["dns"]["pushed"].to_string();
        let has = |told: &str| told.contains(&bind.address.to_string());
        has(&there(&eu).await) && has(&there(&us).await)
    })
    .await;
    assert_eq!(provider.lock().unwrap_or_else(PoisonError::into_inner).batches, 2);
    let mut told = good(eu.folder(), &["dns", "status"]).await;
    told += &good(us.folder(), &["dns", "status"]).await;
    assert_eq!(told.matches("cloudflare/abc1 has plan").count(), 1, "{told}");
    assert!(told.contains("weaker") && !told.contains(TOKEN), "{told}");
}
