//! From what is written to what is meant: every name checked, every reference resolved, every time and address read. All
//! problems are collected; a configuration comes out only when there is none.

mod admin;
mod cache;
mod conflict;
mod content;
mod control;
mod dns;
mod failover;
mod listen;
mod recordings;
mod regions;
mod shards;
mod stores;
mod tenants;
mod uploads;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use portolan_control::{Engine, Shared};
use portolan_core::bounds::Bounds;
use portolan_core::decide::FailRule;
use portolan_core::directory::Directory;
use portolan_core::ids::{Digest, NameError, PolicyName, RegionName, ResidencyName, ShardName, TenantName};
use portolan_core::tenant::{Barred, Source, Unrecognised};
use portolan_core::tenant_table::Tables;
use portolan_foundation::telemetry;
use portolan_recorder::Settings;

pub(crate) use self::admin::{AdminConfig, AdminTls, OidcKeys};
pub(crate) use self::content::ContentConfig;
pub(crate) use self::dns::{DnsConfig, DnsPush};
use self::failover::FailoverConfig;
pub(crate) use self::failover::FailoverPolicy;
pub(crate) use self::listen::Listen;
pub(crate) use self::regions::{Authority, PoolConfig, RegionConfig};
use self::shards::RawShards;
pub(crate) use self::shards::{ExternalConfig, Moving, PlacementConfig, ShardConfig, written};
pub(crate) use self::tenants::TenantConfig;
use self::tenants::{budget, naming_headers};
pub(crate) use self::uploads::{Quota, Uploads};
use super::defaults;
use super::problem::Problem;
use super::raw::{
    Raw, RawControl, RawFailRule, RawFormat, RawLimits, RawPolicies, RawPolicy, RawQuery, RawUnrecognised,
};
use super::shape::suggest;
use super::tree::Tree;
use super::{ComponentsAtMost, Local};

/// How much one query across shards may take, where that is not the usual.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueryConfig {
    pub(crate) answer_bytes: Option<u64>,
    pub(crate) answer_rows: Option<u64>,
    pub(crate) memory_bytes: Option<usize>,
    pub(crate) scan_rows: Option<u64>,
    pub(crate) statements: Option<usize>,
    pub(crate) time: Option<Duration>,
}

/// A configuration whose every part is valid.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub(crate) admin: AdminConfig,
    pub(crate) certificates: Vec<(PathBuf, PathBuf)>,
    pub(crate) client_authority: Option<(Vec<PathBuf>, bool)>,
    pub(crate) components: Option<Shared>,
    pub(crate) components_at_most: ComponentsAtMost,
    /// Where tenants' content is kept; none where this node serves none.
    pub(crate) content: Option<ContentConfig>,
    pub(crate) control: Option<Engine>,
    /// Which names lead to which regions.
    pub(crate) dns: Option<DnsConfig>,
    pub(crate) expose_decision: bool,
    /// What becomes of shards when their region fails; without it people decide.
    pub(crate) failover: Option<FailoverConfig>,
    /// The table of where addresses are on earth.
    pub(crate) geography: Option<PathBuf>,
    pub(crate) instances_max: Option<u32>,
    pub(crate) known_tenants_only: bool,
    /// How requests are steered among regions.
    pub(crate) steering: portolan_core::steering::Limits,
    pub(crate) latency_us: BTreeMap<(RegionName, RegionName), u32>,
    pub(crate) limits: Limits,
    pub(crate) listen: Listen,
    pub(crate) local: RegionName,
    pub(crate) log_access: Option<AccessLog>,
    pub(crate) log_format: LogFormat,
    pub(crate) log_level: String,
    /// The folder of migrations of the tenants' schema.
    pub(crate) migrations: PathBuf,
    /// How tenants move between shards.
    pub(crate) moving: Moving,
    pub(crate) name: String,
    pub(crate) networks: Vec<Network>,
    pub(crate) peer: Option<GatewayTls>,
    /// Who decides on which shard tenants are.
    pub(crate) placement: PlacementConfig,
    /// How much one query across shards may take.
    pub(crate) query: QueryConfig,
    pub(crate) policies_folder: PathBuf,
    pub(crate) policy: Option<PolicySlot>,
    pub(crate) proxies: Vec<IpNet>,
    pub(crate) country_header: Option<HeaderName>,
    pub(crate) debug_key: Option<PathBuf>,
    /// Which tenant is on which shard.
    pub(crate) directory: Arc<Directory>,
    /// Shards whose engines replicate and fence themselves.
    pub(crate) externals: BTreeMap<ShardName, ExternalConfig>,
    /// What is kept of applications' answers.
    pub(crate) cache: Option<portolan_cache::Config>,
    pub(crate) recordings: Option<Settings>,
    pub(crate) region_header: Option<HeaderName>,
    pub(crate) regions: BTreeMap<RegionName, RegionConfig>,
    pub(crate) residencies: BTreeMap<ResidencyName, BTreeSet<RegionName>>,
    /// Those that portolan replicates; others are in `externals`.
    pub(crate) shards: BTreeMap<ShardName, ShardConfig>,
    pub(crate) state: PathBuf,
    pub(crate) tables: Tables,
    pub(crate) tenant_sources: Vec<Source>,
    pub(crate) tenants: BTreeMap<TenantName, TenantConfig>,
    /// Tenants that nobody serves.
    pub(crate) barred: BTreeMap<TenantName, Barred>,
    pub(crate) threads: Option<NonZeroUsize>,
    pub(crate) unrecognised: Unrecognised,
    pub(crate) uploads: Uploads,
}

/// Bounds on clients; absent ones are the data plane's defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) body_bytes_max: Option<u64>,
    pub(crate) body_idle: Option<Duration>,
    pub(crate) connections_max: Option<usize>,
    pub(crate) drain: Option<Duration>,
    pub(crate) fields_max: Option<usize>,
    pub(crate) head_bytes_max: Option<usize>,
    pub(crate) header: Option<Duration>,
    pub(crate) idle: Option<Duration>,
}

/// Where requests are written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AccessLog {
    File(PathBuf),
    Stdout,
}

/// How lines of the node's log look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Json,
    Text,
}

/// Where this node's identity comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GatewayTls {
    Files {
        ca: Vec<PathBuf>,
        cert: PathBuf,
        key: PathBuf,
    },
    /// An agent of SPIFFE's Workload API, at this socket.
    Spiffe(PathBuf),
}

/// Where the clients of a network are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) country: Option<String>,
    pub(crate) network: IpNet,
    pub(crate) region: Option<RegionName>,
}

/// A policy in a slot.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PolicySlot {
    /// As compact JSON with sorted keys.
    pub(crate) config: Arc<str>,
    pub(crate) dynamic_granted: bool,
    pub(crate) name: PolicyName,
    pub(crate) on_fail: FailRule,
    /// A version in the control store; none for the folder of policies and bundled ones.
    pub(crate) version: Option<Digest>,
}

/// Builds a configuration, or says what is wrong with what is written.
pub(super) fn build(raw: Raw, tree: &Tree, folder: &Path, problems: &mut Vec<Problem>) -> Option<Config> {
    let mut builder = Builder { tree, folder, problems };
    builder.config(raw)
}

/// Builds what a node knows of itself, whatever else is wrong.
pub(super) fn local(tree: &Tree, folder: &Path, problems: &mut Vec<Problem>) -> Option<Local> {
    let value = tree.to_value();
    let state = value.get("node").and_then(|node| node.get("state")).and_then(toml::Value::as_str);
    let state = folder.join(state.unwrap_or(defaults::STATE_FOLDER));
    let policies: RawPolicies = section(tree, &value, "policies", problems)?.unwrap_or_default();
    let control: Option<RawControl> = section(tree, &value, "control", problems)?;
    let mut builder = Builder { tree, folder, problems };
    let uploads = builder.uploads(&policies);
    let components_at_most = at_most(&policies);
    let (control, components) = match control {
        Some(control) => builder.control(control).map(|(engine, components)| (Some(engine), components))?,
        None => (None, None),
    };
    Some(Local { components, components_at_most, control, state, uploads })
}

fn at_most(policies: &RawPolicies) -> ComponentsAtMost {
    ComponentsAtMost {
        bytes: policies.component_bytes.map(|bytes| bytes as usize),
        compile_seconds: policies.compile_seconds.map(u64::from),
    }
}

/// One section by itself; none when it is not there.
fn section<T: serde::de::DeserializeOwned>(
    tree: &Tree,
    value: &toml::Value,
    name: &str,
    problems: &mut Vec<Problem>,
) -> Option<Option<T>> {
    let Some(section) = value.get(name).cloned() else { return Some(None) };
    match serde::Deserialize::deserialize(section) {
        Ok(section) => Some(Some(section)),
        Err(error) => {
            let error: toml::de::Error = error;
            problems.push(Problem::new(tree.origin(&[name]), error.message().to_owned()));
            None
        }
    }
}

struct Builder<'b> {
    tree: &'b Tree,
    folder: &'b Path,
    problems: &'b mut Vec<Problem>,
}

/// A place in the tree.
type At<'a> = &'a [&'a str];

impl Builder<'_> {
    fn config(&mut self, raw: Raw) -> Option<Config> {
        let mut regions = BTreeMap::new();
        for (name, region) in raw.region {
            let name_at = self.name(&["region", &name], &name, RegionName::new);
            let region = self.region(&name, region);
            regions.extend(name_at.map(|name| (name, region)));
        }
        let names: BTreeSet<RegionName> = regions.keys().cloned().collect();
        let local = self.known_region(&["node", "region"], &raw.node.region, &names);
        if regions.is_empty() {
            self.problem(
                &["region"],
                "no region is declared",
                "declare one: `[region.NAME.pool.web]`, with endpoints",
            );
        }
        for (name, region) in &regions {
            self.check_region(name, region, local.as_ref(), raw.peer.is_some());
        }
        let mut residencies = BTreeMap::new();
        for (name, class) in raw.residency {
            let known: BTreeSet<RegionName> = (0..)
                .zip(&class.regions)
                .filter_map(|(index, region): (usize, _)| {
                    self.known_region(&["residency", &name, "regions", &index.to_string()], region, &names)
                })
                .collect();
            residencies.extend(
                self.name(&["residency", &name], &name, ResidencyName::new).map(|name| (name, known)),
            );
        }
        let tenant_sources: Vec<Source> = (0..)
            .zip(raw.tenants.sources)
            .filter_map(|(index, source): (usize, _)| self.source(&index.to_string(), source))
            .collect();
        let usual = self.bounds(&["tenants", "bounds"], raw.tenants.bounds, &regions);
        let usual = Bounds { kept_headers: naming_headers(&tenant_sources), ..usual };
        let usual_budget = budget(portolan_policy::defaults::TENANT_BUDGET, raw.policies.tenant);
        let barred = self.barred(raw.standing);
        let mut tenants = BTreeMap::new();
        for (name, tenant) in raw.tenant {
            let own = self.bounds(&["tenant", &name, "bounds"], tenant.bounds, &regions);
            let bounds = Arc::new(Bounds {
                headers: own.headers.or_else(|| usual.headers.clone()),
                kept_headers: usual.kept_headers.clone(),
                pools: own.pools.or_else(|| usual.pools.clone()),
                regions: own.regions.or_else(|| usual.regions.clone()),
            });
            let budget = budget(usual_budget, tenant.budget);
            let residency = tenant.residency.and_then(|class| {
                let at = ["tenant", &name, "residency"];
                let class = self.name(&at, &class, ResidencyName::new)?;
                let classes: Vec<&str> = residencies.keys().map(ResidencyName::as_str).collect();
                if !residencies.contains_key(&class) {
                    let help = suggest(class.as_str(), &classes);
                    self.problem(&at, format!("there is no residency class `{class}`"), help);
                }
                Some(class)
            });
            let policy = tenant.policy.and_then(|policy| self.policy(&["tenant", &name, "policy"], policy));
            // The policy of a tenant that is not served rests.
            let policy = policy.filter(|_| !barred.contains_key(name.as_str()));
            let location = tenant.location;
            let location = location
                .and_then(|region| self.known_region(&["tenant", &name, "location"], &region, &names));
            self.tenant_id(&name, tenant.id.as_deref());
            let config = TenantConfig { bounds, budget, location, policy, residency };
            tenants.extend(self.name(&["tenant", &name], &name, TenantName::new).map(|name| (name, config)));
        }
        let places: Vec<(String, String)> =
            raw.place.iter().map(|(tenant, place)| (tenant.clone(), place.shard.clone())).collect();
        let written = RawShards {
            lease: raw.lease,
            place: raw.place,
            placement: raw.placement,
            shard: raw.shard,
            table: raw.table,
        };
        let shards = self.shards(written, &names, &residencies, raw.control.is_some());
        if let Some(shards) = &shards {
            self.check_shards(shards, &places, &regions, &tenants);
        }
        let policy = raw.policy.and_then(|policy| self.policy(&["policy"], policy));
        let listen = Listen {
            admin: raw.listen.admin.and_then(|text| self.address(&["listen", "admin"], &text)),
            dns: self.addresses("dns", &raw.listen.dns),
            metrics: raw.listen.metrics.and_then(|text| self.address(&["listen", "metrics"], &text)),
            peer: self.addresses("peer", &raw.listen.peer),
            proxy_protocol: self.addresses("proxy_protocol", &raw.listen.proxy_protocol),
            public: self.addresses("public", &raw.listen.public),
            public_tls: self.addresses("public_tls", &raw.listen.public_tls),
            replication: self.addresses("replication", &raw.listen.replication),
        };
        let trusts = !raw.trust.proxies.is_empty();
        self.check_listen(&listen, raw.peer.is_some(), raw.tls.certificate.is_empty(), trusts);
        let admin = self.admin(raw.admin, &listen);
        let networks = (0..)
            .zip(raw.client_network)
            .filter_map(|(index, network): (usize, _)| {
                let index = index.to_string();
                let region = network.region.and_then(|region| {
                    self.known_region(&["client_network", &index, "region"], &region, &names)
                });
                let country = network.country.filter(|country| {
                    let good = country.len() == 2 && country.bytes().all(|byte| byte.is_ascii_uppercase());
                    if !good {
                        let help = "write the two capital letters of ISO 3166-1, such as `DE`";
                        self.problem(
                            &["client_network", &index, "country"],
                            format!("`{country}` is no country"),
                            help,
                        );
                    }
                    good
                });
                let network = self.network(&["client_network", &index, "network"], &network.network)?;
                Some(Network { country, network, region })
            })
            .collect();
        let proxies = (0..)
            .zip(raw.trust.proxies)
            .filter_map(|(index, text): (usize, _)| {
                self.network(&["trust", "proxies", &index.to_string()], &text)
            })
            .collect();
        let mut latency_us = BTreeMap::new();
        for (index, latency) in (0_usize..).zip(raw.latency) {
            let index = index.to_string();
            let [one, other] = latency.between;
            let one = self.known_region(&["latency", &index, "between", "0"], &one, &names);
            let other = self.known_region(&["latency", &index, "between", "1"], &other, &names);
            let time = self.time(&["latency", &index, "round_trip"], Some(latency.round_trip));
            if let (Some(one), Some(other), Some(time)) = (one, other, time) {
                let us = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
                latency_us.insert((one.clone(), other.clone()), us);
                latency_us.insert((other, one), us);
            }
        }
        let country_header = self.header(&["trust", "country_header"], raw.trust.country_header);
        let region_header = self.header(&["trust", "region_header"], raw.trust.region_header);
        let limits = self.limits(&raw.limits);
        let steering = self.steering(raw.steering);
        let query = self.query(raw.query);
        let debug_key = raw.recordings.as_ref().and_then(|recordings| recordings.debug_key.clone());
        let state =
            (self.folder).join(raw.node.state.unwrap_or_else(|| PathBuf::from(defaults::STATE_FOLDER)));
        let cache = raw.cache.map(|cache| self.cache(cache, &state));
        let recordings = raw.recordings.map(|recordings| self.recordings(recordings));
        let uploads = self.uploads(&raw.policies);
        let (control, components) = raw
            .control
            .and_then(|control| self.control(control))
            .map_or((None, None), |(engine, components)| (Some(engine), components));
        if raw.failover.is_some() {
            self.check_failover(&regions, control.as_ref(), raw.peer.is_some());
        }
        let dns = raw.dns.and_then(|dns| self.dns(dns, &regions));
        let failover = raw.failover.and_then(|failover| self.failover(failover));
        let name = raw.node.name.unwrap_or_else(|| raw.node.region.clone());
        self.name(&["node", "name"], &name, RegionName::new);
        let log_level = self.log_level(raw.log.level);
        let peer = raw.peer.and_then(|peer| self.gateway_tls(peer));
        let content = raw.content.and_then(|content| self.content(content, &state));
        let (folder, path) = (self.folder, |path: PathBuf| self.folder.join(path));
        let shards = shards?;
        Some(Config {
            admin,
            barred,
            cache,
            certificates: raw
                .tls
                .certificate
                .into_iter()
                .map(|pair| (path(pair.cert), path(pair.key)))
                .collect(),
            client_authority: raw
                .tls
                .clients
                .map(|clients| (clients.ca.into_iter().map(path).collect(), clients.required)),
            content,
            control,
            components,
            components_at_most: at_most(&raw.policies),
            dns,
            expose_decision: raw.expose.decision,
            failover,
            geography: raw.geography.map(|geography| path(geography.file)),
            instances_max: raw.policies.instances,
            known_tenants_only: raw.tenants.known_only,
            latency_us,
            steering,
            limits,
            listen,
            local: local?,
            log_access: raw.log.access.map(|place| match place.as_str() {
                "stdout" => AccessLog::Stdout,
                file => AccessLog::File(folder.join(file)),
            }),
            log_format: match raw.log.format {
                Some(RawFormat::Json) => LogFormat::Json,
                Some(RawFormat::Text) | None => LogFormat::Text,
            },
            log_level,
            placement: shards.placement,
            query,
            migrations: path(raw.migrations.folder.unwrap_or_else(|| PathBuf::from("migrations"))),
            name,
            networks,
            peer,
            policies_folder: path(raw.policies.folder.unwrap_or_else(|| PathBuf::from("policies"))),
            policy,
            proxies,
            country_header,
            debug_key: debug_key.map(path),
            directory: shards.directory,
            externals: shards.externals,
            moving: shards.moving,
            recordings,
            region_header,
            regions,
            residencies,
            shards: shards.shards,
            state,
            tables: shards.tables,
            tenant_sources,
            tenants,
            threads: raw.node.threads.and_then(|threads| NonZeroUsize::new(usize::from(threads))),
            unrecognised: match raw.tenants.unrecognised {
                Some(RawUnrecognised::Refuse) => Unrecognised::Refuse,
                Some(RawUnrecognised::Anonymous) | None => Unrecognised::Anonymous,
            },
            uploads,
        })
    }

    fn policy(&mut self, at: At<'_>, raw: RawPolicy) -> Option<PolicySlot> {
        let name = self.name(&[at, &["use"]].concat(), &raw.name, PolicyName::new)?;
        let version = match raw.version.as_deref().map(str::parse::<Digest>).transpose() {
            Ok(version) => version,
            Err(error) => {
                let help = "`portolan plugin versions` lists those that there are";
                self.problem(&[at, &["version"]].concat(), format!("this is no version: {error}"), help);
                return None;
            }
        };
        match serde_json::to_string(&raw.config) {
            Ok(config) => Some(PolicySlot {
                config: config.into(),
                dynamic_granted: raw.dynamic_granted,
                name,
                on_fail: match raw.on_fail {
                    Some(RawFailRule::Bypass) => FailRule::Bypass,
                    Some(RawFailRule::Closed) => FailRule::Closed,
                    Some(RawFailRule::Previous) | None => FailRule::Previous,
                },
                version,
            }),
            Err(error) => {
                let help = "give values that JSON has";
                self.problem(
                    &[at, &["config"]].concat(),
                    format!("the configuration is no JSON: {error}"),
                    help,
                );
                None
            }
        }
    }

    fn limits(&mut self, raw: &RawLimits) -> Limits {
        Limits {
            body_bytes_max: raw.body_bytes,
            body_idle: self.time(&["limits", "body_idle"], raw.body_idle.clone()),
            connections_max: raw.connections.map(|number| number as usize),
            drain: self.time(&["limits", "drain"], raw.drain.clone()),
            fields_max: raw.header_fields.map(usize::from),
            head_bytes_max: raw.head_bytes.map(|bytes| bytes as usize),
            header: self.time(&["limits", "header"], raw.header.clone()),
            idle: self.time(&["limits", "idle"], raw.idle.clone()),
        }
    }

    fn query(&mut self, raw: RawQuery) -> QueryConfig {
        QueryConfig {
            answer_bytes: raw.answer_bytes,
            answer_rows: raw.answer_rows,
            memory_bytes: raw.memory_bytes.map(|bytes| bytes as usize),
            scan_rows: raw.scan_rows,
            statements: raw.statements.map(|number| number as usize),
            time: self.time(&["query", "time"], raw.time),
        }
    }

    fn name<T>(&mut self, at: At<'_>, text: &str, make: fn(&str) -> Result<T, NameError>) -> Option<T> {
        match make(text) {
            Ok(name) => Some(name),
            Err(error) => {
                self.problems.push(Problem::new(self.tree.origin(at), error.to_string()));
                None
            }
        }
    }

    fn known_region(&mut self, at: At<'_>, text: &str, names: &BTreeSet<RegionName>) -> Option<RegionName> {
        let name = self.name(at, text, RegionName::new)?;
        if !names.contains(&name) {
            let all: Vec<&str> = names.iter().map(RegionName::as_str).collect();
            self.problem(at, format!("there is no region `{name}`"), suggest(text, &all));
            return None;
        }
        Some(name)
    }

    fn network(&mut self, at: At<'_>, text: &str) -> Option<IpNet> {
        let network = text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
        if network.is_none() {
            self.problem(at, format!("`{text}` is no network"), "write `10.0.0.0/8`");
        }
        network
    }

    fn header(&mut self, at: At<'_>, text: Option<String>) -> Option<HeaderName> {
        let text = text?;
        let name = HeaderName::try_from(text.as_str()).ok();
        if name.is_none() {
            self.problem(
                at,
                format!("`{text}` is no name of a header"),
                "use an HTTP token, such as `x-tenant`",
            );
        }
        name
    }

    fn log_level(&mut self, text: Option<String>) -> String {
        let text = text.unwrap_or_else(|| defaults::LOG_LEVEL.to_owned());
        if let Err(error) = telemetry::check(&text) {
            self.problem(
                &["log", "level"],
                error,
                "use a level, such as `info`, or directives, such as `warn,portolan_policy=debug`",
            );
        }
        text
    }

    fn time(&mut self, at: At<'_>, text: Option<String>) -> Option<Duration> {
        let text = text?;
        let time = humantime::parse_duration(&text).ok().filter(|time| !time.is_zero());
        if time.is_none() {
            self.problem(
                at,
                format!("`{text}` is no time"),
                "write `500ms`, `10s` or `5m`; zero is not allowed",
            );
        }
        time
    }

    fn problem(&mut self, at: At<'_>, message: impl Into<String>, help: impl Into<String>) {
        self.problems.push(Problem::new(self.tree.origin(at), message).help(help));
    }
}
