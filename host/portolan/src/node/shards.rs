//! The shards of this node's region: what they follow, who may reach them, and where they are mounted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use portolan_admin::{Caller, Scope, TOKEN_KIND, of_token, token_record};
use portolan_changelog::{Gathered, Lease, Record};
use portolan_control::Key;
use portolan_core::directory::{Access as Open, Shard};
use portolan_core::ids::{RegionName, ResidencyName, ShardName, TenantName};
use portolan_core::log::Epoch;
use portolan_core::snapshot::Live;
use portolan_core::tenant::Barred;
use portolan_core::tenant_table::Tables;
use portolan_core::time::Moment;
use portolan_core::topology::Topology;
use portolan_foundation::clock;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::task;
use portolan_proxy::Services;
use portolan_query::{Asked, QUERY_PATH};
use portolan_replication::{FeedReport, Feeds, Gateways, Lane, Wall, gather, refusal};
use portolan_sharding::{
    Access, Asking, Authenticate, DATA_PATH, Disks, Freshness, Intended, Kept, Leave, Limits, Others,
    Sealing, Service, ShardReport, Store, Unauthentic,
};

use serde_json::{Value, json};

use super::contents::Contents;
use super::duties::{Duties, Followed};
use super::externals::Externals;
use super::failover::Failover;
use super::intent::Intent;
use super::moves::Known;
use super::queries::{Databases, Running, workers};
use super::replication::{Copies, Followers};
use super::resolving::{self, Resolved};
use super::retention::{self, Peers};
use super::sweeping::{self, Sweeps};
use crate::config::Config;
use crate::leases::{self, SHARD_KIND};
use crate::merging::Merging;

/// From one look at the shards' schemas to the next: who contracts a schema waits that long at most.
const TELL: Duration = Duration::from_secs(1);

/// Where rows of tenants may be that have a residency class.
#[derive(Debug, Default)]
struct Confined(HashMap<TenantName, Arc<BTreeSet<RegionName>>>);

impl Confined {
    fn of(config: &Config) -> Self {
        let classes: BTreeMap<&ResidencyName, Arc<BTreeSet<RegionName>>> =
            config.residencies.iter().map(|(name, regions)| (name, Arc::new(regions.clone()))).collect();
        let confined = config.tenants.iter().filter_map(|(name, tenant)| {
            // A class that nobody declares is nowhere.
            let regions = classes.get(tenant.residency.as_ref()?).map(Arc::clone).unwrap_or_default();
            Some((name.clone(), regions))
        });
        Self(confined.collect())
    }
}

/// The shards, and what they stand on. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Shards {
    /// Tenants of residency classes, with the regions in which their rows may be.
    confined: Arc<ArcSwap<Confined>>,
    /// Where queries read them.
    databases: Arc<ArcSwap<Databases>>,
    /// What else of tenants is in them.
    contents: Arc<OnceLock<Contents>>,
    /// What replication goes by: the copies that this region keeps, and who keeps copies of its own.
    copies: Arc<ArcSwap<(Copies, Followers)>>,
    externals: Externals,
    /// Who says whether this region may write, where regions have leases.
    failover: Failover,
    intent: Intent,
    /// What follows them, and which of them; none in a node that knows no other region.
    feeds: Arc<ArcSwapOption<Feeds>>,
    duties: Arc<ArcSwapOption<Duties>>,
    /// Who follows which shard.
    peers: Peers,
    /// What moves go by; none before the first configuration.
    known: Arc<ArcSwapOption<Known>>,
    /// Epochs and primaries of the running configuration: what is intended where files say it.
    leases: Arc<ArcSwap<BTreeMap<ShardName, (Epoch, RegionName)>>>,
    local: Arc<ArcSwapOption<RegionName>>,
    resolved: Resolved,
    shards: portolan_sharding::Shards,
    sweeps: Sweeps,
}

impl Shards {
    pub(crate) fn new(intent: Intent, failover: Failover) -> Self {
        let shards = portolan_sharding::Shards::new(Limits::default(), Arc::new(Disks));
        Self {
            databases: Arc::default(),
            duties: Arc::default(),
            confined: Arc::default(),
            contents: Arc::default(),
            copies: Arc::default(),
            externals: Externals::new(intent.clone()),
            failover,
            intent,
            feeds: Arc::default(),
            known: Arc::default(),
            peers: Peers::default(),
            leases: Arc::default(),
            local: Arc::default(),
            resolved: Resolved::default(),
            shards,
            sweeps: Sweeps::default(),
        }
    }

    /// From now on they are those of this configuration.
    pub(crate) fn follow(&self, config: &Config) {
        let leases =
            config.shards.iter().map(|(name, shard)| (name.clone(), (shard.epoch, shard.primary.clone())));
        self.leases.store(Arc::new(leases.collect()));
        self.local.store(Some(Arc::new(config.local.clone())));
        self.known.store(Some(Arc::new(Known::of(config))));
        self.confined.store(Arc::new(Confined::of(config)));
        self.databases.store(Arc::new(Databases::of(config)));
        self.copies.store(Arc::new((Copies::of(config), Followers::of(config))));
        self.externals.follow(config);
        self.failover.follow(config);
        let kept = config.shards.iter().filter_map(|(name, shard)| {
            let engine = shard.stores.get(&config.local)?.clone();
            Some((
                name.clone(),
                Kept {
                    engine,
                    epoch: shard.epoch,
                    loss: shard.loss,
                    marks: shard.marks.get(&config.local).copied().unwrap_or_default(),
                    others: shard.stores.keys().filter(|region| **region != config.local).cloned().collect(),
                    partial: shard.partial,
                    primary: shard.primary.clone(),
                },
            ))
        });
        self.shards.follow(portolan_sharding::Intent {
            region: config.local.clone(),
            shards: kept.collect(),
            tables: config.tables.clone(),
        });
    }

    /// What moves go by.
    pub(super) fn known(&self) -> Option<Arc<Known>> {
        self.known.load_full()
    }

    /// The copies that this region keeps.
    pub(super) fn copies(&self) -> Copies {
        self.copies.load().0.clone()
    }

    /// The shards that this region keeps.
    pub(super) fn names(&self) -> Vec<ShardName> {
        self.reports(clock::now()).into_iter().map(|report| report.name).collect()
    }

    /// Regions that keep a copy of a shard, this one among them.
    pub(super) fn followers_of(&self, shard: &ShardName) -> Vec<RegionName> {
        self.copies.load().1.of_shard(shard)
    }

    /// As Prometheus reads it.
    pub(super) fn follower_metrics(&self, text: &mut String) {
        self.peers.metrics(text);
        self.resolved.metrics(text);
        self.sweeps.metrics(text, clock::now());
        self.externals.metrics(text);
    }

    /// Who keeps copies of this region's shards.
    pub(super) fn followers(&self) -> Followers {
        self.copies.load().1.clone()
    }

    /// From now on copies are followed by these feeds.
    pub(super) fn follow_with(&self, feeds: Feeds, duties: Duties) {
        self.duties.store(Some(Arc::new(duties)));
        self.feeds.store(Some(Arc::new(feeds)));
    }

    /// Tenants' content goes with them from now on.
    pub(super) fn carry(&self, contents: &Contents) {
        self.contents.get_or_init(|| contents.clone());
    }

    /// From now on copies are read, as fresh as these say that they are.
    pub(super) fn read_copies(&self, copies: Arc<dyn portolan_sharding::Copies>) {
        self.shards.read_copies(copies);
    }

    /// Who is meant to write a shard, and under which epoch, as this node knows it.
    pub(super) fn meant(&self, shard: &ShardName) -> Option<(Epoch, RegionName)> {
        self.leases.load().get(shard).cloned()
    }

    /// The copies that this node follows other regions into, and no other node of this region.
    pub(super) fn held(&self) -> BTreeMap<ShardName, Store> {
        self.duties.load().as_ref().map_or_else(BTreeMap::new, |duties| duties.held())
    }

    /// This region; none before the first configuration.
    pub(super) fn local(&self) -> Option<RegionName> {
        self.local.load().as_deref().cloned()
    }

    /// The epochs of all shards, as this node knows them.
    pub(super) fn meant_all(&self) -> BTreeMap<ShardName, Epoch> {
        self.leases.load().iter().map(|(shard, (epoch, _))| (shard.clone(), *epoch)).collect()
    }

    /// How fresh this region's copy of a shard is; none while it may not be read.
    pub(super) fn freshness(&self, shard: &ShardName) -> Option<Freshness> {
        self.shards.freshness(shard)
    }

    /// How far this region's copy has followed its primary: as this node knows, else as is noted beside the copy. None where nobody has heard of the
    /// primary, or while the copy's rows must not be read.
    pub(super) fn follows(&self, shard: &ShardName, primary: &RegionName) -> Option<Followed> {
        let now = clock::now();
        let report = self.feeds.load().as_ref().and_then(|feeds| feeds.report(shard, now));
        let heard = report.and_then(|report| {
            let (applied, silent_ms) = (report.applied, report.silent_ms.unwrap_or_default());
            Some(Followed { applied, lag_ms: report.lag_ms?, silent_ms })
        });
        heard.or_else(|| self.duties.load().as_ref()?.followed(shard, primary, now))
    }

    /// How the region is reached that writes a shard; none when that is this one, or no other is known.
    pub(super) fn way_to_primary(&self, shard: &ShardName) -> Option<(RegionName, Gateways)> {
        let (primary, addresses) = self.copies().primary(shard)?;
        let way = self.feeds.load().as_ref()?.gateways(&primary, addresses);
        Some((primary, way))
    }

    /// How the other regions are reached that keep a shard.
    pub(super) fn ways(&self, shard: &ShardName) -> BTreeMap<RegionName, Gateways> {
        let (sources, feeds) = (self.copies().sources(shard), self.feeds.load());
        let Some(feeds) = feeds.as_ref() else { return BTreeMap::new() };
        let way = |(region, addresses): (RegionName, Vec<String>)| {
            let way = feeds.gateways(&region, addresses);
            (region, way)
        };
        sources.into_iter().map(way).collect()
    }

    /// How a region is reached, whichever shards it keeps.
    pub(super) fn way(&self, region: &RegionName) -> Option<Gateways> {
        let (addresses, _) = self.copies().other(region)?;
        Some(self.feeds.load().as_ref()?.gateways(region, addresses))
    }

    /// A lane for what else comes of a shard from a region, beside its feeds; none where no way leads there. What comes of a shard that this
    /// region does not keep has the least weight.
    pub(super) fn lane(&self, shard: &ShardName, region: &RegionName) -> Option<Lane> {
        let copies = self.copies();
        let other = || Some((copies.other(region)?.1, NonZeroU32::MIN));
        let (rate, weight) = copies.pace(shard, region).or_else(other)?;
        Some(self.feeds.load().as_ref()?.lane(region, rate, weight))
    }

    /// How the feeds of copies stand.
    pub(crate) fn feeds(&self) -> Vec<FeedReport> {
        self.feeds.load().as_ref().map_or_else(Vec::new, |feeds| feeds.reports(clock::now()))
    }

    /// This region has other leave to write a shard: its keeper asks for that at once.
    pub(super) fn look_again(&self, shard: &ShardName) {
        self.shards.look_again(shard);
    }

    /// A shard's database and epoch, while this region writes it.
    pub(super) fn written(&self, shard: &ShardName) -> Option<(Store, Epoch)> {
        self.shards.written(shard, clock::now())
    }

    /// A shard's database and lease, while this region writes it.
    pub(super) fn leased(&self, shard: &ShardName) -> Option<(Store, Lease)> {
        self.shards.leased(shard, clock::now())
    }

    /// Keeps them until shutdown; rows that were written apart are merged by these resolvers.
    pub(crate) fn start(&self, merging: Merging, shutdown: &Shutdown) {
        task::spawn(
            "shards",
            self.shards.clone().run(Arc::new(self.clone()), Arc::new(self.clone()), shutdown.clone()),
        );
        task::spawn("logs", retention::run(self.clone(), self.peers.clone(), shutdown.clone()));
        let resolved = self.resolved.clone();
        task::spawn("resolvers", resolving::run(self.clone(), merging, resolved, shutdown.clone()));
        task::spawn("tombstones", sweeping::run(self.clone(), self.sweeps.clone(), shutdown.clone()));
        task::spawn("engines of others", self.externals.clone().run(shutdown.clone()));
        task::spawn("shards-herald", self.clone().tell_others(shutdown.clone()));
    }

    /// Which version of the tenants' schema each has, as far as is known.
    pub(crate) fn schemas(&self) -> BTreeMap<ShardName, u64> {
        let reports = self.reports(clock::now());
        reports.into_iter().filter_map(|report| Some((report.name, report.schema?))).collect()
    }

    /// Tells other nodes of them.
    ///
    /// What wakes it: time. What it reads: how the shards stand. What it writes: this node's report. Nothing here fails; a report
    /// that does not arrive is repeated by the store.
    async fn tell_others(self, shutdown: Shutdown) {
        loop {
            self.intent.report_schemas(self.schemas());
            tokio::select! {
                () = tokio::time::sleep(TELL) => {}
                () = shutdown.begun() => return,
            }
        }
    }

    /// Who holds which token.
    pub(super) fn callers(&self) -> Callers {
        Callers(self.intent.clone())
    }

    /// The services over them.
    ///
    /// # Errors
    /// When this program's own file is not found, which answers queries.
    pub(crate) fn services(
        &self,
        config: &Config,
        live: &Arc<Live>,
        runtime: &tokio::runtime::Handle,
    ) -> anyhow::Result<Services> {
        let callers = Arc::new(self.callers());
        let data = Service::new(self.shards.clone(), config.local.clone(), callers.clone(), runtime.clone());
        let data = Arc::new(data);
        let running = Running { databases: Arc::clone(&self.databases), live: Arc::clone(live) };
        let query = portolan_query::Service::new(Arc::new(running), callers, workers()?, runtime.clone());
        let services = Services::default().with(DATA_PATH, Arc::clone(&data) as _).telling(data);
        Ok(services.with(QUERY_PATH, Arc::new(query)))
    }

    /// All that are intended, with how each stands here.
    pub(crate) fn list(&self, topology: &Topology) -> Vec<Value> {
        let (reports, feeds) = (self.reports(clock::now()), self.feeds());
        let show = |shard: &Shard| {
            let here = reports.iter().find(|report| report.name == shard.name);
            let mut follows: Vec<&FeedReport> =
                feeds.iter().filter(|feed| feed.shard == shard.name).collect();
            follows.sort_by_key(|feed| !feed.primary);
            let other = self.duties.load().as_ref().and_then(|duties| duties.other(&shard.name));
            json!({
                "external": self.externals.shown(&shard.name), "followed_by": other, "follows": follows, "followers": self.peers.shown(&shard.name),
                "slot": self.peers.slot(&shard.name),
                "tombstones_wait_for": self.sweeps.waiting(&shard.name),
                "name": shard.name, "primary": shard.primary, "epoch": shard.epoch.0, "replicas": shard.replicas,
                "residency": shard.residency, "takes_new": shard.takes_new, "here": here,
            })
        };
        topology.directory.shards().iter().map(show).collect()
    }

    /// A shard's database with its tables; none while it is not open here.
    pub(crate) fn open(&self, name: &ShardName) -> Option<(Store, Tables)> {
        self.shards.open(name)
    }

    /// How they stand.
    pub(crate) fn reports(&self, now: Moment) -> Vec<ShardReport> {
        self.shards.reports(now)
    }
}

/// Where a tenant's rows are; none when no shard has them.
pub(crate) fn place(topology: &Topology, tenant: &TenantName) -> Option<Value> {
    let (place, shard) = topology.shard_of(tenant)?;
    let access = match (topology.tenants.barred(Some(tenant)), place.access) {
        (Some(Barred::Erased), _) => "erased",
        (Some(Barred::Suspended), _) | (None, Open::Suspended) => "suspended",
        (None, Open::Held) => "held",
        (None, Open::Open) => "open",
    };
    let by = if place.placement.0 == 0 { "rule" } else { "place" };
    Some(json!({
        "tenant": tenant, "shard": shard.name, "primary": shard.primary, "epoch": shard.epoch.0,
        "residency": shard.residency, "access": access, "placement": place.placement.0, "by": by,
    }))
}

/// Writes how shards stand, as Prometheus reads it.
pub(crate) fn metrics(text: &mut String, shards: &[ShardReport]) {
    type Gauge = (&'static str, &'static str, fn(&ShardReport) -> Option<f64>);
    let gauges: [Gauge; 10] = [
        ("open", "Is the shard kept here as it should be?", |shard| {
            Some(f64::from(u8::from(shard.problem.is_none())))
        }),
        ("epoch", "The lease that is meant.", |shard| Some(shard.epoch as f64)),
        (
            "exposed_seconds",
            "How old what no other region has received may be: what would be lost with this one.",
            |shard| shard.exposed_ms.map(|exposed| exposed as f64 / 1e3),
        ),
        ("failing", "Are requests refused because its database was silent or gone?", |shard| {
            Some(f64::from(u8::from(shard.failing)))
        }),
        ("full", "Are writes refused because its place is nearly used up?", |shard| {
            Some(f64::from(u8::from(shard.full)))
        }),
        ("lease_seconds", "How long this region's lease lasts.", |shard| {
            shard.lease_ms.map(|left| left as f64 / 1e3)
        }),
        (
            "past_max_loss",
            "Are writes refused or slowed, because it is exposed for longer than it may be?",
            |shard| Some(f64::from(u8::from(shard.past_max_loss))),
        ),
        ("schema", "The version of the tenants' schema.", |shard| shard.schema.map(|version| version as f64)),
        (
            "unconfirmed",
            "Writes that no other region had received in time, since this node started.",
            |shard| Some(shard.unconfirmed as f64),
        ),
        ("used_ratio", "How much of its place is used.", |shard| {
            shard.used_percent.map(|used| f64::from(used) / 100.0)
        }),
    ];
    if shards.is_empty() {
        return;
    }
    for (name, help, value) in gauges {
        text.push_str(&format!("# HELP portolan_shard_{name} {help}\n# TYPE portolan_shard_{name} gauge\n"));
        for shard in shards {
            if let Some(value) = value(shard) {
                text.push_str(&format!("portolan_shard_{name}{{shard=\"{}\"}} {value}\n", shard.name));
            }
        }
    }
}

impl Intended for Shards {
    fn lease(&self, shard: ShardName) -> Asking {
        if self.failover.is_on() {
            let leave = self.failover.permit(&shard).zip(self.local()).map(|(permit, primary)| Leave {
                epoch: permit.epoch,
                primary,
                until: Some(permit.until),
            });
            let why = "this region has no lease of the shard now: see `portolan failover status`";
            return Box::pin(std::future::ready(leave.map(Some).ok_or_else(|| why.to_owned())));
        }
        let leave = |(epoch, primary)| Leave { epoch, primary, until: None };
        match self.intent.clone() {
            Intent::Files => {
                let lease = self.leases.load().get(&shard).cloned();
                Box::pin(std::future::ready(Ok(lease.map(leave))))
            }
            Intent::Pinned(_) => Box::pin(std::future::ready(Err(
                "this node serves one generation for good, and no lease is confirmed by that".to_owned(),
            ))),
            Intent::Following(store) => Box::pin(async move {
                store.refresh().await.map_err(|error| error.to_string())?;
                let state = store.state();
                let tenure = leases::tenure(&state, shard.as_str());
                let meant = Key::new(SHARD_KIND, shard.as_str()).is_ok_and(|key| state.get(&key).is_some());
                match tenure {
                    None if meant => Err("its lease names no epoch or primary that keeps it".to_owned()),
                    tenure => Ok(tenure.map(|tenure| leave((tenure.epoch, tenure.primary)))),
                }
            }),
        }
    }
}

impl Wall for Shards {
    fn admits(&self, tenant: &TenantName, region: &RegionName) -> bool {
        self.confined.load().0.get(tenant).is_none_or(|regions| regions.contains(region))
    }
}

impl Others for Shards {
    fn seal(&self, shard: ShardName, epoch: Epoch, copy: Store) -> Sealing {
        let (copies, feeds, wall) = (self.copies(), self.feeds.load_full(), self.clone());
        Box::pin(async move {
            let addresses = copies.sources(&shard);
            let Some(feeds) = feeds else {
                let why = "this node has no certificate for other regions: set `[peer]`";
                let missing = addresses.into_keys().map(|region| (region, why.to_owned())).collect();
                return Ok(Gathered { missing, ..Gathered::default() });
            };
            let ways = addresses.into_iter().map(|(region, addresses)| {
                let way = feeds.gateways(&region, addresses);
                (region, way)
            });
            let here = copy.origin().clone();
            let admit = |records: &[Record]| refusal(&wall, &here, records);
            let gathered = gather(&shard, epoch, (&copy, &admit), ways.collect()).await?;
            if let Some(contents) = wall.contents.get() {
                let others = gathered.sealed.keys().cloned().collect();
                contents.gather((shard, here, copy), epoch, others).await;
            }
            Ok(gathered)
        })
    }
}

/// Who holds which token, by the control store.
#[derive(Debug)]
pub(super) struct Callers(Intent);

impl Callers {
    fn caller(&self, text: &str) -> Result<Caller, String> {
        let Some(state) = self.0.state() else {
            let help = "tokens are kept in a control store, and this installation has none: use clients' certificates";
            return Err(help.to_owned());
        };
        let find = |id: &str| token_record(&state.get(&Key::new(TOKEN_KIND, id).ok()?)?.body);
        of_token(text, find).map_err(|problem| problem.detail.clone())
    }
}

impl portolan_query::Authenticate for Callers {
    fn token(&self, text: &str) -> Result<Asked, portolan_query::Unauthentic> {
        let caller = self.caller(text).map_err(portolan_query::Unauthentic)?;
        Ok(Asked { reads: caller.scopes.contains(&Scope::DataRead), tenant: caller.tenant })
    }
}

impl portolan_federation::Authenticate for Callers {
    fn token(&self, text: &str) -> Result<portolan_federation::Access, portolan_federation::Unauthentic> {
        let caller = self.caller(text).map_err(portolan_federation::Unauthentic)?;
        Ok(portolan_federation::Access {
            read: caller.scopes.contains(&Scope::DataRead),
            tenant: caller.tenant,
            write: caller.scopes.contains(&Scope::DataWrite),
        })
    }
}

impl Authenticate for Callers {
    fn token(&self, text: &str) -> Result<Access, Unauthentic> {
        let caller = self.caller(text).map_err(Unauthentic)?;
        Ok(Access {
            read: caller.scopes.contains(&Scope::DataRead),
            tenant: caller.tenant,
            write: caller.scopes.contains(&Scope::DataWrite),
        })
    }
}
