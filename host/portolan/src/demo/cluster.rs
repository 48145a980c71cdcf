//! The demo's regions: a gateway and two applications each, as processes of this program, in one temporary folder.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use portolan_core::ids::RegionName;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::SETTLE;
use crate::node::SOCKET;
use crate::pki::{Authority, IdentityFiles};
use crate::{cli, client};

/// The regions.
pub(crate) const REGIONS: [&str; 3] = ["eu-west", "eu-central", "us-east"];
/// The tenants; each has one application, called as it is.
pub(crate) const TENANTS: [&str; 2] = ["acme", "globex"];
/// The one that is pinned.
pub(crate) const PINNED: &str = "acme";
/// The tenant whose rows move from one shard to another.
pub(crate) const MOVED: &str = "initech";
/// The region that writes the shards at first, and that is killed.
pub(crate) const HOME: &str = "eu-west";
/// The shards: where tenants are at first, and where one moves.
pub(crate) const SHARDS: [&str; 2] = ["first", "second"];
/// The rows of the demo.
const NOTES: &str = "CREATE TABLE notes (tenant text NOT NULL, id integer NOT NULL, text text, PRIMARY KEY (tenant, id)) STRICT;\n";
/// How often a region is asked whether it runs what was written.
const POLL: Duration = Duration::from_millis(20);

/// What the regions are to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Intent {
    /// The policy of both tenants.
    pub(crate) policy: &'static str,
    /// Is the pinned tenant pinned?
    pub(crate) pinned: bool,
}

/// All regions.
#[derive(Debug)]
pub(crate) struct Cluster {
    folder: TempDir,
    regions: Vec<Region>,
}

#[derive(Debug)]
struct Region {
    name: &'static str,
    apps: [SocketAddr; 2],
    identity: IdentityFiles,
    peer: SocketAddr,
    public: SocketAddr,
    replication: SocketAddr,
    processes: Vec<Child>,
}

impl Cluster {
    /// Starts all regions and waits until each is ready.
    ///
    /// # Errors
    /// When one does not come up; the text has the end of its log.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("portolan-demo-").tempdir().context("make a temporary folder")?;
        let authority = Authority::trial()?;
        let mut ports = free_ports(REGIONS.len() * 5)?.into_iter();
        let mut port = || ports.next().context("find a free port");
        let mut regions = Vec::new();
        for name in REGIONS {
            let identity = authority.issue(&RegionName::new(name)?, folder.path())?;
            let (apps, peer, public, replication) = ([port()?, port()?], port()?, port()?, port()?);
            regions.push(Region { name, apps, identity, peer, public, replication, processes: Vec::new() });
        }
        let mut cluster = Self { folder, regions };
        for region in &cluster.regions {
            cluster.write_node(region)?;
        }
        replace(&cluster.conf_d().join("platform.toml"), &cluster.platform())?;
        cluster.write_intent(Intent { policy: "nearest-region", pinned: false })?;
        cluster.apply().await?;
        for name in REGIONS {
            cluster.command_in(name, &["migrate", "apply"]).await?;
        }
        for name in REGIONS {
            cluster.spawn(name)?;
        }
        for name in REGIONS {
            cluster.wait_ready(name).await?;
        }
        cluster.wait_written().await?;
        Ok(cluster)
    }

    /// The gateways' addresses, beginning with the region that is home.
    pub(crate) fn entries(&self, home: &str) -> Vec<(String, SocketAddr)> {
        let mut entries: Vec<_> =
            self.regions.iter().map(|region| (region.name.to_owned(), region.public)).collect();
        entries.sort_by_key(|(name, _)| name != home);
        entries
    }

    /// The configuration of a region, for `portolan status --config`.
    pub(crate) fn config(&self, region: &str) -> PathBuf {
        self.folder.path().join(region).join("portolan.toml")
    }

    /// Applies what is wanted and waits until every living region runs it.
    ///
    /// # Errors
    /// When it is refused, with the reason.
    pub(crate) async fn want(&self, intent: Intent) -> anyhow::Result<()> {
        self.write_intent(intent)?;
        let wanted = self.apply().await?;
        for region in self.regions.iter().filter(|region| !region.processes.is_empty()) {
            let deadline = Instant::now() + SETTLE;
            while generation(&self.state(region.name)).await? < wanted {
                if Instant::now() > deadline {
                    bail!("{} does not run what was applied:\n{}", region.name, self.log_end(region.name));
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Puts the files into the control store that all regions follow. Gives its generation.
    async fn apply(&self) -> anyhow::Result<u64> {
        let told = self.command(&["apply", "--json"]).await?;
        let told: serde_json::Value = serde_json::from_str(&told).context("read what apply says")?;
        told.get("generation").and_then(serde_json::Value::as_u64).context("read the new generation")
    }

    /// Runs one of this program's own commands where an operator of the first region would.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub(crate) async fn command(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.command_in(REGIONS[0], arguments).await
    }

    async fn command_in(&self, region: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let program = std::env::current_exe().context("find the program's own file")?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.folder.path().join(region)).stdin(Stdio::null());
        let output = command.kill_on_drop(true).output().await.context("start a command")?;
        if !output.status.success() {
            bail!("`portolan {}` failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        String::from_utf8(output.stdout).context("read what a command says")
    }

    /// Asks a region's gateway.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn ask(&self, region: &str, path: &str) -> anyhow::Result<serde_json::Value> {
        client::ask_socket(&self.state(region).join(SOCKET), path).await
    }

    /// Where the operator's files are.
    fn conf_d(&self) -> PathBuf {
        self.folder.path().join(REGIONS[0]).join("conf.d")
    }

    /// Kills a region: its gateway and its applications at the same moment.
    ///
    /// # Errors
    /// When there is no such region, or the kernel refuses.
    pub(crate) fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        let region = self.region(name)?;
        for process in &mut region.processes {
            process.start_kill().context("kill a process of the region")?;
        }
        region.processes.clear();
        Ok(())
    }

    /// Starts a killed region again, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come up.
    pub(crate) async fn revive(&mut self, name: &'static str) -> anyhow::Result<()> {
        self.spawn(name)?;
        self.wait_ready(name).await
    }

    /// Ends all regions; the temporary folder goes with the cluster.
    pub(crate) async fn stop(mut self) {
        for region in &mut self.regions {
            for process in &mut region.processes {
                // One that has ended already cannot be killed, and need not be.
                process.kill().await.ok();
            }
        }
    }

    fn region(&mut self, name: &str) -> anyhow::Result<&mut Region> {
        self.regions
            .iter_mut()
            .find(|region| region.name == name)
            .with_context(|| format!("find region {name}"))
    }

    fn state(&self, name: &str) -> PathBuf {
        self.folder.path().join(name).join("state")
    }

    fn spawn(&mut self, name: &'static str) -> anyhow::Result<()> {
        let program = std::env::current_exe().context("find the program's own file")?;
        let (config, log) = (self.config(name), self.log(name));
        let region = self.region(name)?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .context("open the region's log")?;
        let start = |arguments: &[String]| -> anyhow::Result<Child> {
            let mut command = Command::new(&program);
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.try_clone()?);
            // Ctrl-C is the demo's: it ends its regions itself, in order.
            command.process_group(0).kill_on_drop(true).spawn().context("start a process of the region")
        };
        let mut apps = vec![cli::DEMO_APPS.to_owned(), "--region".to_owned(), name.to_owned()];
        apps.extend(TENANTS.iter().zip(region.apps).map(|(tenant, address)| format!("{tenant}={address}")));
        let serve = [
            "serve".to_owned(),
            "--with-parent".to_owned(),
            "--config".to_owned(),
            config.display().to_string(),
        ];
        region.processes = vec![start(&apps)?, start(&serve)?];
        Ok(())
    }

    async fn wait_ready(&self, name: &'static str) -> anyhow::Result<()> {
        let deadline = Instant::now() + SETTLE * 3;
        while generation(&self.state(name)).await.is_err() {
            if Instant::now() > deadline {
                bail!("{name} does not come up:\n{}", self.log_end(name));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Waits until the shards are written, and every other region could take them over.
    async fn wait_written(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + SETTLE * 3;
        loop {
            let status = self.ask(HOME, "/api/v1/failover").await.unwrap_or_default();
            let is =
                |pointer: String| status.pointer(&pointer).and_then(serde_json::Value::as_bool) == Some(true);
            let whole = |shard: &str| {
                REGIONS.iter().all(|region| is(format!("/shards/{shard}/replicas/{region}/whole")))
            };
            let written = |shard: &str| is(format!("/shards/{shard}/takes_writes_here"));
            if SHARDS.iter().all(|shard| whole(shard) && written(shard)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the shards are not written: {status}\n{}", self.log_end(HOME));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    fn log_end(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.log(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.iter().rev().take(12).rev().copied().collect::<Vec<_>>().join("\n")
    }

    /// What a region's node has of its own.
    fn write_node(&self, own: &Region) -> anyhow::Result<()> {
        let text = format!(
            "[node]\nname = \"{0}\"\nregion = \"{0}\"\nstate = \"state\"\nthreads = 1\n\n\
             [listen]\npublic = [\"{1}\"]\npeer = [\"{2}\"]\nreplication = [\"{7}\"]\n\n\
             [peer]\ncert = {3:?}\nkey = {4:?}\nca = [{5:?}]\n\n[control]\nsqlite = {6:?}\n\n\
             [policies]\ninstances = 200\n\n[log]\nlevel = \"info\"\n",
            own.name,
            own.public,
            own.peer,
            own.identity.cert,
            own.identity.key,
            own.identity.ca,
            self.folder.path().join("control.db"),
            own.replication,
        );
        let folder = self.folder.path().join(own.name);
        std::fs::create_dir_all(folder.join("conf.d")).context("make the region's folder")?;
        let migrations = folder.join("migrations/sqlite");
        std::fs::create_dir_all(&migrations).context("make the folder of migrations")?;
        replace(&migrations.join("0001_create_notes.sql"), NOTES)?;
        replace(&folder.join("portolan.toml"), &text)
    }

    /// What all regions share.
    fn platform(&self) -> String {
        let mut text = "[expose]\ndecision = true\n\n[failover]\nprofile = \"fast\"\n\n\
             [tenants]\nsources = [{ host_suffix = \".demo.localhost\" }]\nunrecognised = \"refuse\"\n\n\
             [residency.eu]\nregions = [\"eu-west\", \"eu-central\"]\n"
            .to_owned();
        for region in &self.regions {
            let (name, peer, replication) = (region.name, region.peer, region.replication);
            text.push_str(&format!(
                "\n[region.{name}]\ngateways = [\"{peer}\"]\nreplication = [\"{replication}\"]\n\
                 probe = {{ interval = \"250ms\", timeout = \"500ms\", fall = 2 }}\n"
            ));
            for (tenant, address) in TENANTS.iter().zip(region.apps) {
                text.push_str(&format!("[region.{name}.pool.{tenant}]\nendpoints = [\"{address}\"]\n"));
            }
        }
        for shard in SHARDS {
            text.push_str(&format!("\n[shard.{shard}]\nprimary = \"{HOME}\"\n"));
            for region in REGIONS {
                let file = self.folder.path().join(format!("{region}-{shard}.db"));
                text.push_str(&format!("[shard.{shard}.store.{region}]\nsqlite = {file:?}\n"));
            }
        }
        text.push_str(&format!(
            "\n[table.notes]\ntenant = \"tenant\"\nkey = [\"tenant\", \"id\"]\n\n\
             [placement]\nkey = \"{:032x}\"\nrule = [{{ ranges = [{{ last = \"{:016x}\", shard = \"{}\" }}] }}]\n",
            portolan_foundation::random::u64(),
            u64::MAX,
            SHARDS[0],
        ));
        text
    }

    fn write_intent(&self, intent: Intent) -> anyhow::Result<()> {
        let mut text = String::new();
        for tenant in TENANTS {
            let residency = if intent.pinned && tenant == PINNED { "residency = \"eu\"\n" } else { "" };
            let config = match intent.policy {
                "weighted" => {
                    let shares = REGIONS.iter().zip([34, 33, 33]).map(|(name, percent)| {
                        format!("{{ pool = \"{tenant}\", region = \"{name}\", percent = {percent} }}")
                    });
                    format!("shares = [{}]", shares.collect::<Vec<_>>().join(", "))
                }
                _ => format!("pool = \"{tenant}\""),
            };
            text.push_str(&format!(
                "[tenant.{tenant}]\n{residency}[tenant.{tenant}.policy]\nuse = \"{}\"\nconfig = {{ {config} }}\n\n",
                intent.policy
            ));
        }
        replace(&self.conf_d().join("tenants.toml"), &text)
    }
}

/// The generation of the control store that a region runs.
async fn generation(state: &Path) -> anyhow::Result<u64> {
    let status = client::ask_socket(&state.join(SOCKET), "/api/v1/status").await?;
    let problems = status.pointer("/configuration/problems").and_then(serde_json::Value::as_array);
    if let Some(problem) = problems.and_then(|problems| problems.first()) {
        bail!("a region refuses what was written: {problem}");
    }
    status.pointer("/control/running").and_then(serde_json::Value::as_u64).context("read the region's status")
}

/// Puts a file into place as a whole, as an operator should.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let partial = path.with_extension("new");
    std::fs::write(&partial, text).with_context(|| format!("write {}", partial.display()))?;
    std::fs::rename(&partial, path).with_context(|| format!("write {}", path.display()))
}

/// Ports that nobody had a moment ago. All are held at the same time, so that they differ.
fn free_ports(count: usize) -> anyhow::Result<Vec<SocketAddr>> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port");
    let listeners: Vec<TcpListener> = (0..count).map(|_| bind()).collect::<anyhow::Result<_>>()?;
    listeners.iter().map(|listener| listener.local_addr().context("look at a port")).collect()
}
