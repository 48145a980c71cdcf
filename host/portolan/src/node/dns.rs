//! DNS as a node has it: the server on its own sockets, the plan that all nodes answer from, and the servers that are kept up to date.
//!
//! A plan is the configuration's names with the regions that take part. One node writes it, the others take what is written: its number is minted in the
//! control store, by a change of one register that names the number before. Who writes is a register of its own, which its holder renews; whoever sees it
//! unchanged for long enough takes it. Two who both believe to write change nothing behind each other's back.

mod carry;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use portolan_control::{Store, Swap};
use portolan_core::facts::Verdict;
use portolan_core::geography::Geography;
use portolan_core::ids::RegionName;
use portolan_core::snapshot::Live;
use portolan_core::time::Moment;
use portolan_dns::plan::{Draft, Plan, State};
use portolan_dns::push::cloud::{Account, Carry, Cloud};
use portolan_dns::push::{Destination, Keeper, Mode, Plans, Pushed, Target};
use portolan_dns::server::{Handle, Rate, Secondary, Server};
use portolan_dns::sign::Key;
use portolan_dns::{SharedKey, defaults};
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::{clock, task};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;

use self::carry::Https;
use super::failover::Failover;
use super::intent::Intent;
use crate::config::{Config, DnsConfig, DnsPush};

/// From one look at which regions take part to the next: at most one plan comes of each.
const LOOK: Duration = Duration::from_secs(1);
/// How long a register is unchanged before another node writes plans: several looks.
const WRITER: Duration = Duration::from_secs(10);
/// How long the control store may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// The register of the plan.
const PLAN: &str = "dns/plan";
/// The register of who writes it.
const HOLDER: &str = "dns/writer";
/// The folder of plans in the node's own.
pub(crate) const FOLDER: &str = "dns";

/// A node's part in DNS. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Dns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: watch::Sender<Option<DnsConfig>>,
    notes: Mutex<Notes>,
    /// The plan that is told, while this node writes plans: others push it nowhere that does not compare its number.
    own: watch::Sender<Option<Arc<Plan>>>,
    plans: watch::Sender<Option<Arc<Plan>>>,
    server: Option<Handle>,
}

#[derive(Debug, Default)]
struct Notes {
    problem: Option<String>,
    pushed: Vec<Pushed>,
    writes: bool,
}

/// A plan as the control store has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Written {
    by: String,
    draft: Draft,
}

/// Who writes plans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    node: String,
    renewals: u64,
}

/// What one pass goes by.
struct Around {
    failover: Failover,
    intent: Intent,
    live: Arc<Live>,
    node: String,
}

impl Dns {
    /// Opens the sockets; the last plan on disk is answered from at once.
    ///
    /// # Errors
    /// When an address cannot be listened on, or a key or the folder cannot be used.
    pub(crate) async fn open(config: &Config) -> anyhow::Result<(Self, Option<Server>)> {
        let mut server = None;
        if !config.listen.dns.is_empty() {
            let dns = config.dns.as_ref();
            let rate =
                dns.and_then(|dns| dns.answers_per_second).map_or(defaults::RESPONSES_PER_SECOND, u32::from);
            let nonzero =
                |number: u32| std::num::NonZeroU32::new(number).unwrap_or(std::num::NonZeroU32::MIN);
            let keys = dns.map_or_else(Vec::new, |dns| dns.keys.iter().collect());
            let keys = keys.into_iter().map(|(zone, file)| Ok((zone.clone(), Arc::new(Key::read(file)?))));
            let secondaries = dns.map_or_else(Vec::new, |dns| dns.secondaries.iter().collect());
            let secondaries = secondaries.into_iter().map(|secondary| {
                let key = SharedKey::read(&secondary.key)?;
                Ok(Secondary { from: secondary.from, key, notify: secondary.notify })
            });
            let config = portolan_dns::server::Config {
                folder: config.state.join(FOLDER),
                keys: keys.collect::<anyhow::Result<_>>().context("read the keys of zones")?,
                listen: config.listen.dns.clone(),
                rate: Rate { per_second: nonzero(rate), burst: nonzero(rate.saturating_mul(2)) },
                region: config.local.clone(),
                secondaries: secondaries
                    .collect::<anyhow::Result<_>>()
                    .context("read the keys of secondaries")?,
                workers: std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
            };
            server = Some(Server::open(config).await.context("listen for DNS")?);
        }
        let inner = Inner {
            config: watch::Sender::new(config.dns.clone()),
            notes: Mutex::default(),
            own: watch::Sender::new(None),
            plans: watch::Sender::new(None),
            server: server.as_ref().map(Server::handle),
        };
        Ok((Self(Arc::new(inner)), server))
    }

    /// From now on the names are those of this configuration. Sockets and keys are those of the start.
    pub(crate) fn follow(&self, config: &Config) {
        self.0.config.send_if_modified(|now| {
            let changed = *now != config.dns;
            now.clone_from(&config.dns);
            changed
        });
    }

    /// Where addresses are on earth from here on.
    pub(crate) fn locate(&self, geography: Option<&Arc<Geography>>) {
        if let Some(server) = &self.0.server {
            server.locate(geography);
        }
    }

    /// The number of the plan that is told; none before the first.
    pub(crate) fn number(&self) -> Option<u64> {
        self.0.plans.borrow().as_ref().map(|plan| plan.number())
    }

    /// How it stands; none where no names are managed.
    pub(crate) fn status(&self) -> Option<Value> {
        self.0.config.borrow().as_ref()?;
        let notes = self.0.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let server = self.0.server.as_ref().map(Handle::status);
        let pushed = notes.pushed.iter().flat_map(Pushed::reports).map(|((server, zone), report)| {
            let outcomes = report.outcomes.iter().map(|(name, outcome)| {
                let told = match outcome {
                    Ok(outcome) => format!("{outcome:?}").to_lowercase(),
                    Err(failure) => failure.to_string(),
                };
                (name.to_string(), Value::from(told))
            });
            json!({
                "server": server.to_string(), "zone": zone.to_string(), "number": report.number, "at_ms": report.at_ms,
                "guarded": report.guarded,
                "names": outcomes.collect::<serde_json::Map<_, _>>(),
            })
        });
        let server = server.map(
            |server| json!({ "number": server.number, "saving": server.saving, "signing": server.signing }),
        );
        Some(json!({
            "number": self.number(), "writes_plans": notes.writes, "problem": notes.problem, "server": server,
            "pushed": pushed.collect::<Vec<_>>(),
        }))
    }

    /// As Prometheus reads it.
    pub(crate) fn metrics(&self, text: &mut String) {
        if let Some(number) = self.number() {
            let help = "# HELP portolan_dns_plan The number of the plan that names are told by.\n";
            text.push_str(&format!("{help}# TYPE portolan_dns_plan gauge\nportolan_dns_plan {number}\n"));
        }
        let Some(server) = &self.0.server else { return };
        let help =
            "# HELP portolan_dns_total What the DNS server counted.\n# TYPE portolan_dns_total counter\n";
        text.push_str(help);
        for (name, count) in server.status().report.each() {
            text.push_str(&format!("portolan_dns_total{{what=\"{name}\"}} {count}\n"));
        }
    }

    /// Answers, makes plans and carries them to others until shutdown.
    pub(crate) fn start(
        &self,
        server: Option<Server>,
        (failover, intent, live): (Failover, Intent, Arc<Live>),
        node: &str,
        shutdown: &Shutdown,
    ) {
        if let Some(server) = server {
            task::spawn("dns-server", server.run(shutdown.clone()));
        }
        let around = Around { failover, intent, live, node: node.to_owned() };
        task::spawn("dns-plans", self.clone().plan(around, shutdown.clone()));
        task::spawn("dns-push", self.clone().push(shutdown.clone()));
    }

    /// What wakes it: time, another configuration. What it reads: which regions take part, and the plan that is written. What it writes: the plan that is
    /// told here, and in the control store where this node writes it. What fails leaves the plan that is told, and is told in `status`.
    async fn plan(self, around: Around, shutdown: Shutdown) {
        let mut configs = self.0.config.subscribe();
        let mut writer = Writer::default();
        if let Some(plan) = self.0.server.as_ref().and_then(Handle::plan) {
            self.0.plans.send_replace(Some(plan));
        }
        loop {
            let config = configs.borrow_and_update().clone();
            if let Some(config) = config {
                let done = self.pass(&config, &around, &mut writer).await;
                let problem = done.err().map(|error| format!("{error:#}"));
                let mut notes = self.0.notes.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(problem) =
                    problem.as_ref().filter(|problem| notes.problem.as_ref() != Some(*problem))
                {
                    tracing::warn!("names are told as before: {problem}");
                }
                (notes.problem, notes.writes) = (problem, writer.writes);
                drop(notes);
                self.own_plan(writer.writes);
            }
            tokio::select! {
                // Cancel-safe: a change that was not seen is still marked.
                changed = configs.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK) => {}
                () = shutdown.begun() => return,
            }
        }
    }

    /// What this node pushes where numbers are not compared.
    fn own_plan(&self, writes: bool) {
        let plan = self.0.plans.borrow().clone().filter(|_| writes);
        let number = |plan: &Option<Arc<Plan>>| plan.as_ref().map(|plan| plan.number());
        self.0.own.send_if_modified(|now| {
            let differs = number(now) != number(&plan);
            *now = plan;
            differs
        });
    }

    async fn pass(&self, config: &DnsConfig, around: &Around, writer: &mut Writer) -> anyhow::Result<()> {
        let Standing { out, suspected, unknown } = standing(around);
        if let Some(server) = &self.0.server {
            server.suspect(&suspected);
        }
        let told =
            self.0.plans.borrow().as_ref().map(|plan| plan.draft().regions.clone()).unwrap_or_default();
        let mut wanted = config.draft.clone();
        for (name, region) in &mut wanted.regions {
            let before = told.get(name).map_or(State::In, |region| region.state);
            region.state = match (out.contains(name), unknown.contains(name)) {
                (true, _) => State::Out,
                (false, true) => before,
                (false, false) => State::In,
            };
        }
        let written = match &around.intent {
            Intent::Following(store) => {
                let asked = writer.agree(store, &around.node, wanted);
                let answered = tokio::time::timeout(PATIENCE, asked).await;
                answered.context("the control store does not answer")??
            }
            Intent::Files | Intent::Pinned(_) => {
                let before = self.0.plans.borrow().as_ref().map(|plan| plan.draft().clone());
                writer.writes = true;
                Some(next(wanted, before.as_ref()))
            }
        };
        let Some(draft) = written else { return Ok(()) };
        if self.0.plans.borrow().as_ref().is_some_and(|plan| *plan.draft() == draft) {
            return Ok(());
        }
        let number = draft.number;
        let plan = Plan::new(draft.clone()).map_err(|invalid| anyhow::anyhow!(invalid.0.join("; ")))?;
        if let Some(server) = &self.0.server {
            server.publish(plan).await?;
        }
        let plan = Plan::new(draft).map_err(|invalid| anyhow::anyhow!(invalid.0.join("; ")))?;
        self.0.plans.send_replace(Some(Arc::new(plan)));
        tracing::info!(number, ?out, "another DNS plan is told");
        Ok(())
    }

    /// Keeps others' servers up to date, with what each configuration names.
    async fn push(self, shutdown: Shutdown) {
        let mut configs = self.0.config.subscribe();
        loop {
            let config = configs.borrow_and_update().clone();
            let end = shutdown.child();
            if let Some(config) = config {
                let servers = keep(servers(&config), self.0.plans.subscribe(), &end);
                let clouds = keep(clouds(&config), self.0.own.subscribe(), &end);
                self.0.notes.lock().unwrap_or_else(PoisonError::into_inner).pushed = vec![servers, clouds];
            }
            tokio::select! {
                changed = configs.changed() => if changed.is_err() { return },
                () = shutdown.begun() => return,
            }
            end.begin();
        }
    }
}

/// Keeps what could be made of a configuration up to date until the end.
fn keep(made: anyhow::Result<Vec<Destination>>, plans: Plans, end: &Shutdown) -> Pushed {
    let made = made.unwrap_or_else(|error| {
        tracing::error!("no server is kept up to date: {error:#}");
        Vec::new()
    });
    let keeper = Keeper::new(made, plans);
    let pushed = keeper.pushed();
    task::spawn("dns-keeper", keeper.run(end.clone()));
    pushed
}

/// The servers that a configuration names.
///
/// # Errors
/// When a key cannot be read.
pub(crate) fn servers(config: &DnsConfig) -> anyhow::Result<Vec<Destination>> {
    let target = |push: &DnsPush| {
        let key = SharedKey::read(&push.key).with_context(|| format!("read the key for {}", push.server))?;
        Ok(Target::new(push.server, push.zone.clone(), key).into())
    };
    config.push.iter().map(target).collect()
}

/// The zones at providers that a configuration names.
///
/// # Errors
/// When nothing could be carried to them.
pub(crate) fn clouds(config: &DnsConfig) -> anyhow::Result<Vec<Destination>> {
    if config.cloud.is_empty() {
        return Ok(Vec::new());
    }
    let carry: Arc<dyn Carry> = Arc::new(Https::new().context("prepare requests to DNS providers")?);
    let cloud = |account: &Account| -> anyhow::Result<Destination> {
        Ok(Cloud::new(account.clone(), Arc::clone(&carry))?.into())
    };
    config.cloud.iter().map(cloud).collect()
}

/// Takes over what stands on a server, whatever its number: an operator said so.
pub(crate) const ADOPT: Mode = Mode::Adopt;

/// How regions stand, for names.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// They take nobody.
    pub(super) out: BTreeSet<RegionName>,
    /// Something is not well.
    pub(super) suspected: BTreeSet<RegionName>,
    /// Nothing is known of them yet: they stand as they stood.
    pub(super) unknown: BTreeSet<RegionName>,
}

fn standing(around: &Around) -> Standing {
    if around.failover.is_on() {
        return around.failover.standing();
    }
    let snapshot = around.live.load();
    let regions = || snapshot.topology.regions.values();
    let of = |wanted: Verdict| {
        let those = regions().filter(|region| region.cell.verdict() == wanted);
        those.map(|region| region.name.clone()).collect()
    };
    // A region whose gateways nobody looks at is there.
    let unseen =
        regions().filter(|region| region.gateways.is_some() && region.cell.verdict() == Verdict::Unknown);
    let unknown = unseen.map(|region| region.name.clone()).collect();
    Standing { out: of(Verdict::Down), suspected: of(Verdict::Suspect), unknown }
}

/// The plan that says what is wanted: the one before, where it does, else the next.
fn next(mut wanted: Draft, before: Option<&Draft>) -> Draft {
    let Some(before) = before else {
        let first = wanted.clone();
        wanted.remember(&first);
        return Draft { number: 1, ..wanted };
    };
    wanted.remember(before);
    wanted.number = before.number;
    if wanted != *before {
        wanted.number = before.number.saturating_add(1);
    }
    wanted
}

/// This node's way to agree with others on a plan.
#[derive(Debug, Default)]
struct Writer {
    after: u64,
    /// Who writes, by which revision, and since when that was seen.
    holder: Option<(u64, Holder, Moment)>,
    plan: Option<(u64, Written)>,
    writes: bool,
}

impl Writer {
    /// Gives the plan that is written, and writes what is wanted where that is this node's to do.
    async fn agree(&mut self, store: &Store, node: &str, wanted: Draft) -> anyhow::Result<Option<Draft>> {
        let registers = store.registers(self.after).await?;
        self.after = self.after.max(registers.revision);
        for register in registers.changed {
            match register.name.as_str() {
                PLAN => {
                    let written = serde_json::from_str(&register.value).context("read the plan of DNS")?;
                    self.plan = Some((register.revision, written));
                }
                HOLDER => {
                    let holder =
                        serde_json::from_str(&register.value).context("read who writes DNS plans")?;
                    self.holder = Some((register.revision, holder, clock::now()));
                }
                _ => {}
            }
        }
        self.writes = self.hold(store, node).await?;
        let before = self.plan.as_ref().map(|(_, written)| &written.draft);
        let draft = next(wanted, before);
        if self.writes && before != Some(&draft) {
            let at = self.plan.as_ref().map_or(0, |(revision, _)| *revision);
            let written = Written { by: node.to_owned(), draft };
            let swap = Swap {
                expect: vec![(PLAN.to_owned(), at)],
                put: vec![(PLAN.to_owned(), serde_json::to_string(&written)?)],
            };
            if let Some(revision) = store.swap(&swap).await? {
                self.plan = Some((revision, written));
            }
        }
        Ok(self.plan.as_ref().map(|(_, written)| written.draft.clone()))
    }

    /// Is it this node that writes? It says so again; another's place is taken once it has been silent.
    async fn hold(&mut self, store: &Store, node: &str) -> anyhow::Result<bool> {
        let (at, renewals) = match &self.holder {
            None => (0, 0),
            Some((at, holder, _)) if holder.node == node => (*at, holder.renewals),
            Some((at, holder, since)) if clock::now().since(*since) >= WRITER => (*at, holder.renewals),
            Some(_) => return Ok(false),
        };
        let holder = Holder { node: node.to_owned(), renewals: renewals.saturating_add(1) };
        let swap = Swap {
            expect: vec![(HOLDER.to_owned(), at)],
            put: vec![(HOLDER.to_owned(), serde_json::to_string(&holder)?)],
        };
        let Some(revision) = store.swap(&swap).await? else { return Ok(false) };
        self.holder = Some((revision, holder, clock::now()));
        Ok(true)
    }
}

/// Where plans are kept, for commands.
pub(crate) fn folder(state: &std::path::Path) -> PathBuf {
    state.join(FOLDER)
}
