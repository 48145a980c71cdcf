//! The examples, started as their READMEs say, on ports of the kernel's choice.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use http::Request;
use portolan_tests::client::{self, Client};
use portolan_tests::node::{self, run};
use portolan_tests::until;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples").join(name)
}

/// A copy of an example in which every port of the README is another, free one.
struct Copy {
    folder: TempDir,
    ports: Vec<(u16, SocketAddr)>,
    processes: Vec<Child>,
}

impl Copy {
    fn of(name: &str, ports: &[u16]) -> Self {
        let listeners: Vec<_> =
            ports.iter().map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<(u16, SocketAddr)> = ports
            .iter()
            .copied()
            .zip(listeners.iter().map(|listener| listener.local_addr().unwrap()))
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let mut folders = vec![(example(name), folder.path().to_owned())];
        while let Some((from, to)) = folders.pop() {
            std::fs::create_dir_all(&to).unwrap();
            for entry in std::fs::read_dir(&from).unwrap().map(Result::unwrap) {
                let target = to.join(entry.file_name());
                if entry.file_type().unwrap().is_dir() {
                    folders.push((entry.path(), target));
                    continue;
                }
                let mut text = std::fs::read_to_string(entry.path()).unwrap();
                for (old, new) in &ports {
                    text = text.replace(&format!("127.0.0.1:{old}"), &new.to_string());
                }
                std::fs::write(target, text).unwrap();
            }
        }
        Self { folder, ports, processes: Vec::new() }
    }

    fn at(&self, port: u16) -> SocketAddr {
        self.ports.iter().find(|(old, _)| *old == port).unwrap().1
    }

    fn app(&mut self, name: &str, port: u16) {
        let mut command = Command::new("python3");
        command.arg(example("three-regions").join("app.py")).args([name, &self.at(port).port().to_string()]);
        self.start(command);
    }

    fn serve(&mut self, config: &str) {
        let mut command = Command::new(node::program());
        command.args(["serve", "--config", config]);
        self.start(command);
    }

    fn start(&mut self, mut command: Command) {
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        self.processes.push(command.spawn().unwrap());
    }
}

/// The processes of `replicated`, which outlive the commands that start them.
struct Regions(PathBuf);

impl Regions {
    /// Runs one of the example's scripts, with the program under test in its path.
    fn command(&self, script: &str, argument: Option<&str>) -> std::process::Command {
        let programs = node::program().parent().unwrap().display().to_string();
        let mut command = std::process::Command::new("python3");
        command.arg(script).args(argument).current_dir(&self.0).stdin(Stdio::null());
        command.env("PATH", format!("{programs}:/usr/local/bin:/usr/bin:/bin"));
        command
    }

    async fn run(&self, script: &str, argument: Option<&str>) -> String {
        let output = Command::from(self.command(script, argument)).output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        text.into_owned()
    }
}

impl Drop for Regions {
    fn drop(&mut self) {
        self.command("regions.py", Some("down")).status().unwrap();
    }
}

/// Who answered.
async fn region(address: SocketAddr, host: &str) -> Option<String> {
    let answer = client::get(address, host, "/orders").await.ok()?;
    let told: Value = serde_json::from_slice(&answer.body).ok()?;
    told["region"].as_str().map(str::to_owned)
}

#[tokio::test]
async fn three_regions_serve_as_their_readme_says() {
    let mut copy = Copy::of("three-regions", &[8081, 8082, 8083, 8441, 8442, 8443, 9001, 9002, 9003]);
    let made = run(copy.folder.path(), &["pki", "trial", "certs", "eu-west", "eu-central", "us-east"]).await;
    assert!(made.status.success());
    for (name, app) in [("eu-west", 9001), ("eu-central", 9002), ("us-east", 9003)] {
        copy.app(name, app);
        copy.serve(&format!("{name}.toml"));
    }
    for (name, port) in [("eu-west", 8081), ("eu-central", 8082), ("us-east", 8083)] {
        let address = copy.at(port);
        until(name, async || region(address, "globex.apps.localhost").await.as_deref() == Some(name)).await;
    }
    let american = copy.at(8083);
    until("acme stays in Europe", async || {
        region(american, "acme.apps.localhost").await.is_some_and(|region| region.starts_with("eu-"))
    })
    .await;
    let explained = run(
        copy.folder.path(),
        &["explain", "GET", "http://acme.apps.localhost/orders", "--config", "us-east.toml"],
    )
    .await;
    let text = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(text.contains("residency class eu") && text.contains("=> forward to web in eu-"), "{text}");

    copy.processes[4].kill().await.unwrap();
    until("another region takes over", async || {
        region(american, "globex.apps.localhost").await.is_some_and(|region| region != "us-east")
    })
    .await;
}

#[tokio::test]
async fn the_canary_grows_as_its_readme_says() {
    let mut copy = Copy::of("canary", &[8080, 9001, 9002]);
    copy.app("stable", 9001);
    copy.app("next", 9002);
    copy.serve("portolan.toml");
    let address = copy.at(8080);
    until("the stable version", async || region(address, "a").await.as_deref() == Some("stable")).await;
    let mut client = Client::connect(address, "a").await.unwrap();
    let canary = client.send(Request::get("/").header("x-canary", "1"), bytes::Bytes::new()).await.unwrap();
    assert!(canary.text().contains("next"));
    assert_eq!(canary.header("x-served-by-pool"), "web-next");

    let folder = copy.folder.path();
    std::fs::rename(folder.join("5-percent.toml"), folder.join("conf.d/policy.toml")).unwrap();
    until("the new policy", async || {
        client::get(address, "a", "/")
            .await
            .is_ok_and(|answer| answer.header("portolan-policy") == "weighted")
    })
    .await;
    let mut next = 0;
    for session in 0..400 {
        let request = Request::get("/").header("cookie", format!("session={session}"));
        next += u32::from(client.send(request, bytes::Bytes::new()).await.unwrap().text().contains("next"));
    }
    assert!((4..=48).contains(&next), "{next} of 400 sessions");
}

#[tokio::test]
async fn tenants_have_their_shards_as_their_readme_says() {
    let mut copy = Copy::of("sharded-tenants", &[8080, 8090]);
    let folder = copy.folder.path().to_owned();
    std::fs::create_dir(folder.join("data")).unwrap();
    let says = async |arguments: &[&str]| {
        let output = run(&folder, arguments).await;
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text.trim().to_owned())
    };
    assert_eq!(says(&["apply"]).await.0, Some(0));
    let (code, plan) = says(&["migrate", "plan"]).await;
    assert!(code == Some(2) && plan.contains("CREATE TABLE customers"), "{plan}");
    let (code, text) = says(&["migrate", "apply"]).await;
    assert_eq!(code, Some(0), "{text}");
    copy.serve("portolan.toml");
    until("the shards are open", async || says(&["shard", "list"]).await.1.matches("open here").count() == 3)
        .await;
    assert!(says(&["shard", "locate", "initech"]).await.1.contains("shard eu,"));
    let (code, text) = says(&["shard", "plan"]).await;
    assert!(code == Some(0) && text.contains("as evenly as they can be"), "{text}");
    let (code, text) = says(&["shard", "drain", "b"]).await;
    assert!(code == Some(5) && text.contains("conf.d/shards.toml"), "{text}");
    let shards = folder.join("conf.d/shards.toml");
    let drained =
        std::fs::read_to_string(&shards).unwrap().replace("[shard.b]\n", "[shard.b]\ndrain = true\n");
    std::fs::write(&shards, drained).unwrap();
    assert_eq!(says(&["apply"]).await.0, Some(0));
    let (code, text) = says(&["shard", "plan"]).await;
    assert!(code == Some(2) && text.contains("ffffffffffffffff") && text.contains("50.0 %"), "{text}");
    let gateway = copy.at(8080);
    let loads = ["acme", "globex", "initech"].map(async |tenant| {
        let made =
            run(&folder, &["token", "create", "shop", "--role", "tenant-app", "--tenant", tenant]).await;
        let token = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        let mut load = Command::new("python3");
        load.arg(folder.join("load.py")).args([tenant, &token, "20"]).current_dir(&folder);
        let output = load.output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(&format!("{tenant}: 20 orders")), "{text}");
        let mut client = Client::connect(gateway, "any.shop.localhost").await.unwrap();
        let request =
            Request::get("/-/data/orders?limit=100").header("authorization", format!("Bearer {token}"));
        // The host names another tenant than the token is bound to.
        assert_eq!(client.send(request, bytes::Bytes::new()).await.unwrap().status, 403);
    });
    for load in loads {
        load.await;
    }
}

#[tokio::test]
async fn copies_follow_and_losers_come_back_as_their_readme_says() {
    let ports = [7441, 7442, 7443, 7451, 7452, 7453, 8081, 8082, 8083, 8441, 8442, 8443];
    let copy = Copy::of("replicated", &ports);
    let regions = Regions(copy.folder.path().to_owned());
    let text = regions.run("regions.py", Some("up")).await;
    assert!(text.contains("eu writes; us and ap follow it"), "{text}");
    let text = regions.run("tour.py", None).await;
    assert!(text.contains("written back, at ") && text.contains("all regions have order 2 again"), "{text}");
}
