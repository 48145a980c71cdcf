//! From what is written to what is meant: every name checked, every reference resolved, every time and address read. All
//! problems are collected; a configuration comes out only when there is none.

mod admin;
mod uploads;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use portolan_control::{Engine, EtcdConfig, Shared};
use portolan_core::attribute::Attribute;
use portolan_core::bounds::{Bounds, FieldPattern};
use portolan_core::decide::FailRule;
use portolan_core::ids::{Digest, NameError, PolicyName, PoolName, RegionName, ResidencyName, TenantName};
use portolan_core::screen::check_host;
use portolan_core::tenant::{Source, Unrecognised};
use portolan_core::topology::{BreakerLimits, Probe, Protocol, UpstreamTls};
use portolan_foundation::telemetry;
use portolan_policy::Budget;
use portolan_recorder::{Rules, Settings};

pub(crate) use self::admin::{AdminConfig, AdminTls, OidcKeys};
use super::Local;
use super::defaults;
use super::problem::Problem;
use super::raw::{
    Raw, RawBounds, RawBreaker, RawBudget, RawControl, RawEtcd, RawFailRule, RawFormat, RawLimits,
    RawPolicies, RawPolicy, RawPool, RawProbe, RawProtocol, RawRecordings, RawRegion, RawSource,
    RawUnrecognised,
};
use super::shape::suggest;
use super::tree::Tree;

pub(crate) use self::uploads::{Quota, Uploads};

/// A configuration whose every part is valid.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub(crate) admin: AdminConfig,
    pub(crate) certificates: Vec<(PathBuf, PathBuf)>,
    pub(crate) client_authority: Option<(Vec<PathBuf>, bool)>,
    pub(crate) component_bytes_max: Option<usize>,
    pub(crate) components: Option<Shared>,
    pub(crate) control: Option<Engine>,
    pub(crate) expose_decision: bool,
    pub(crate) instances_max: Option<u32>,
    pub(crate) known_tenants_only: bool,
    pub(crate) latency_us: BTreeMap<(RegionName, RegionName), u32>,
    pub(crate) limits: Limits,
    pub(crate) listen: Listen,
    pub(crate) local: RegionName,
    pub(crate) log_access: Option<AccessLog>,
    pub(crate) log_format: LogFormat,
    pub(crate) log_level: String,
    pub(crate) name: String,
    pub(crate) networks: Vec<Network>,
    pub(crate) peer: Option<GatewayTls>,
    pub(crate) policies_folder: PathBuf,
    pub(crate) policy: Option<PolicySlot>,
    pub(crate) proxies: Vec<IpNet>,
    pub(crate) country_header: Option<HeaderName>,
    pub(crate) debug_key: Option<PathBuf>,
    pub(crate) recordings: Option<Settings>,
    pub(crate) region_header: Option<HeaderName>,
    pub(crate) regions: BTreeMap<RegionName, RegionConfig>,
    pub(crate) residencies: BTreeMap<ResidencyName, BTreeSet<RegionName>>,
    pub(crate) state: PathBuf,
    pub(crate) tenant_sources: Vec<Source>,
    pub(crate) tenants: BTreeMap<TenantName, TenantConfig>,
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

/// Addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listen {
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) peer: Vec<SocketAddr>,
    pub(crate) public: Vec<SocketAddr>,
    pub(crate) public_tls: Vec<SocketAddr>,
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

/// The files of this node's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GatewayTls {
    pub(crate) ca: Vec<PathBuf>,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
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

/// A region.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RegionConfig {
    pub(crate) gateways: Vec<Authority>,
    pub(crate) pools: BTreeMap<PoolName, PoolConfig>,
    pub(crate) probe: Probe,
}

/// The endpoints of one application.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PoolConfig {
    pub(crate) breaker: BreakerLimits,
    pub(crate) connect_timeout: Duration,
    pub(crate) connections_max: u32,
    pub(crate) endpoints: Vec<Authority>,
    pub(crate) idle_timeout: Duration,
    pub(crate) probe: Option<Probe>,
    pub(crate) protocol: Protocol,
    pub(crate) response_timeout: Duration,
    pub(crate) tls: Option<UpstreamTls>,
}

/// `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Authority {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) text: String,
}

/// What a tenant has of its own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TenantConfig {
    pub(crate) bounds: Arc<Bounds>,
    pub(crate) budget: Budget,
    pub(crate) policy: Option<PolicySlot>,
    pub(crate) residency: Option<ResidencyName>,
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
    let component_bytes_max = policies.component_bytes.map(|bytes| bytes as usize);
    let (control, components) = match control {
        Some(control) => builder.control(control).map(|(engine, components)| (Some(engine), components))?,
        None => (None, None),
    };
    Some(Local { component_bytes_max, components, control, state, uploads })
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
            let config = TenantConfig { bounds, budget, policy, residency };
            tenants.extend(self.name(&["tenant", &name], &name, TenantName::new).map(|name| (name, config)));
        }
        let policy = raw.policy.and_then(|policy| self.policy(&["policy"], policy));
        let listen = Listen {
            admin: raw.listen.admin.and_then(|text| self.address(&["listen", "admin"], &text)),
            metrics: raw.listen.metrics.and_then(|text| self.address(&["listen", "metrics"], &text)),
            peer: self.addresses("peer", &raw.listen.peer),
            public: self.addresses("public", &raw.listen.public),
            public_tls: self.addresses("public_tls", &raw.listen.public_tls),
        };
        self.check_listen(&listen, raw.peer.is_some(), raw.tls.certificate.is_empty());
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
        let debug_key = raw.recordings.as_ref().and_then(|recordings| recordings.debug_key.clone());
        let recordings = raw.recordings.map(|recordings| self.recordings(recordings));
        let uploads = self.uploads(&raw.policies);
        let (control, components) = raw
            .control
            .and_then(|control| self.control(control))
            .map_or((None, None), |(engine, components)| (Some(engine), components));
        let name = raw.node.name.unwrap_or_else(|| raw.node.region.clone());
        self.name(&["node", "name"], &name, RegionName::new);
        let log_level = self.log_level(raw.log.level);
        let (folder, path) = (self.folder, |path: PathBuf| self.folder.join(path));
        Some(Config {
            admin,
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
            control,
            components,
            component_bytes_max: raw.policies.component_bytes.map(|bytes| bytes as usize),
            expose_decision: raw.expose.decision,
            instances_max: raw.policies.instances,
            known_tenants_only: raw.tenants.known_only,
            latency_us,
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
            name,
            networks,
            peer: raw.peer.map(|peer| GatewayTls {
                ca: peer.ca.into_iter().map(path).collect(),
                cert: path(peer.cert),
                key: path(peer.key),
            }),
            policies_folder: path(raw.policies.folder.unwrap_or_else(|| PathBuf::from("policies"))),
            policy,
            proxies,
            country_header,
            debug_key: debug_key.map(path),
            recordings,
            region_header,
            regions,
            residencies,
            state: path(raw.node.state.unwrap_or_else(|| PathBuf::from(defaults::STATE_FOLDER))),
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

    fn region(&mut self, name: &str, raw: RawRegion) -> RegionConfig {
        let gateways = self.authorities(&["region", name, "gateways"], &raw.gateways);
        let mut pools = BTreeMap::new();
        for (pool, config) in raw.pool {
            let at = ["region", name, "pool", &pool];
            let config = self.pool(&at, config);
            pools.extend(self.name(&at, &pool, PoolName::new).map(|pool| (pool, config)));
        }
        let times = (defaults::GATEWAY_PROBE_INTERVAL, defaults::GATEWAY_PROBE_TIMEOUT);
        let probe = raw.probe.unwrap_or(RawProbe {
            fall: None,
            interval: None,
            path: None,
            rise: None,
            timeout: None,
        });
        let probe = self.probe(&["region", name, "probe"], probe, times);
        RegionConfig { gateways, pools, probe }
    }

    fn pool(&mut self, at: At<'_>, raw: RawPool) -> PoolConfig {
        let mut time = |key: &str, text: Option<String>, otherwise: Duration| {
            self.time(&[at, &[key]].concat(), text).unwrap_or(otherwise)
        };
        let connect_timeout = time("connect_timeout", raw.connect_timeout, defaults::CONNECT_TIMEOUT);
        let idle_timeout = time("idle_timeout", raw.idle_timeout, defaults::IDLE_TIMEOUT);
        let response_timeout = time("response_timeout", raw.response_timeout, defaults::RESPONSE_TIMEOUT);
        let times = (defaults::PROBE_INTERVAL, defaults::PROBE_TIMEOUT);
        let tls = raw.tls.map(|tls| UpstreamTls::Server {
            ca_file: tls.ca.map(|path| self.folder.join(path).into()),
            server_name: tls.server_name.map(Into::into),
        });
        PoolConfig {
            breaker: self.breaker(&[at, &["breaker"]].concat(), raw.breaker),
            connect_timeout,
            connections_max: raw.connections.unwrap_or(defaults::CONNECTIONS_MAX),
            endpoints: self.authorities(&[at, &["endpoints"]].concat(), &raw.endpoints),
            idle_timeout,
            probe: raw.probe.map(|probe| self.probe(&[at, &["probe"]].concat(), probe, times)),
            protocol: match raw.protocol {
                Some(RawProtocol::Http2) => Protocol::Http2,
                Some(RawProtocol::Http1) | None => Protocol::Http1,
            },
            response_timeout,
            tls,
        }
    }

    fn probe(&mut self, at: At<'_>, raw: RawProbe, (interval, timeout): (Duration, Duration)) -> Probe {
        let path = raw.path.unwrap_or_else(|| "/".to_owned());
        if !path.starts_with('/') || path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            self.problem(&[at, &["path"]].concat(), format!("`{path}` is no path"), "begin it with `/`");
        }
        Probe {
            path: path.into(),
            interval: self.time(&[at, &["interval"]].concat(), raw.interval).unwrap_or(interval),
            timeout: self.time(&[at, &["timeout"]].concat(), raw.timeout).unwrap_or(timeout),
            rise: raw.rise.map_or(defaults::PROBE_RISE, u32::from),
            fall: raw.fall.map_or(defaults::PROBE_FALL, u32::from),
        }
    }

    fn breaker(&mut self, at: At<'_>, raw: RawBreaker) -> BreakerLimits {
        let pause_min = self.time(&[at, &["pause_min"]].concat(), raw.pause_min);
        let pause_max = self.time(&[at, &["pause_max"]].concat(), raw.pause_max);
        let limits = BreakerLimits {
            failures: raw.failures.map_or(defaults::BREAKER_FAILURES, u32::from),
            pause_min: pause_min.unwrap_or(defaults::BREAKER_PAUSE_MIN),
            pause_max: pause_max.unwrap_or(defaults::BREAKER_PAUSE_MAX),
        };
        if limits.pause_min > limits.pause_max {
            let help = "make `pause_max` the longer one";
            self.problem(at, "`pause_min` is longer than `pause_max`", help);
        }
        limits
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

    fn bounds(&mut self, at: At<'_>, raw: RawBounds, regions: &BTreeMap<RegionName, RegionConfig>) -> Bounds {
        let all: Vec<&PoolName> = regions.values().flat_map(|region| region.pools.keys()).collect();
        let names: BTreeSet<RegionName> = regions.keys().cloned().collect();
        let place = |key: &'static str, index: usize| (key, index.to_string());
        let headers = raw.headers.map(|texts| {
            let read = |(index, text): (usize, &String)| {
                let pattern = FieldPattern::parse(text);
                if pattern.is_none() {
                    let (key, index) = place("headers", index);
                    let help = "write a field's name, or the beginning of some with `*` at its end, such as `x-shop-*`";
                    self.problem(&[at, &[key, &index]].concat(), format!("`{text}` names no header field"), help);
                }
                pattern
            };
            texts.iter().enumerate().filter_map(read).collect()
        });
        let pools = raw.pools.map(|texts| {
            let mut pools = BTreeSet::new();
            for (index, text) in texts.iter().enumerate() {
                let (key, index) = place("pools", index);
                let at = [at, &[key, &index]].concat();
                let Some(name) = self.name(&at, text, PoolName::new) else { continue };
                if !all.contains(&&name) {
                    let known: Vec<&str> = all.iter().map(|pool| pool.as_str()).collect();
                    self.problem(&at, format!("no region has a pool `{name}`"), suggest(text, &known));
                }
                pools.insert(name);
            }
            pools
        });
        let regions = raw.regions.map(|texts| {
            let read = |(index, text): (usize, &String)| {
                let (key, index) = place("regions", index);
                self.known_region(&[at, &[key, &index]].concat(), text, &names)
            };
            texts.iter().enumerate().filter_map(read).collect()
        });
        Bounds { headers, pools, regions, ..Bounds::default() }
    }

    fn source(&mut self, index: &str, raw: RawSource) -> Option<Source> {
        let at = ["tenants", "sources", index];
        let RawSource { client_certificate, header, host_suffix, path_prefix } = raw;
        match (client_certificate, header, host_suffix, path_prefix) {
            (Some(prefix), None, None, None) => Some(Source::ClientCertificate { uri_prefix: prefix.into() }),
            (None, Some(name), None, None) => {
                let name = self.header(&[&at[..], &["header"]].concat(), Some(name))?;
                Some(Source::Header { name: name.as_str().into() })
            }
            (None, None, Some(suffix), None) => {
                let suffix = suffix.to_ascii_lowercase();
                if !suffix.starts_with('.') || suffix.len() < 2 {
                    let help = "begin it with a dot, such as `.apps.example.com`";
                    self.problem(
                        &[&at[..], &["host_suffix"]].concat(),
                        format!("`{suffix}` is no suffix"),
                        help,
                    );
                }
                Some(Source::HostSuffix { suffix: suffix.into() })
            }
            (None, None, None, Some(prefix)) => {
                if !prefix.starts_with('/') || !prefix.ends_with('/') {
                    let help = "begin and end it with `/`, such as `/t/`";
                    self.problem(
                        &[&at[..], &["path_prefix"]].concat(),
                        format!("`{prefix}` is no prefix"),
                        help,
                    );
                }
                Some(Source::PathPrefix { prefix: prefix.into() })
            }
            _ => {
                let help = "give one of client_certificate, header, host_suffix, path_prefix; write another source for another";
                self.problem(&at, "a source has exactly one key", help);
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

    fn recordings(&mut self, raw: RawRecordings) -> Settings {
        let standard = Settings::default();
        let mut attributes = |key: &str, names: Vec<String>| {
            let parse = |(index, name): (usize, String)| {
                let attribute = Attribute::parse(&name);
                let at = ["recordings", key, &index.to_string()];
                attribute
                    .map_err(|error| {
                        self.problem(
                            &at,
                            error.to_string(),
                            "name one as a policy would, such as `header:x-session`",
                        )
                    })
                    .ok()
            };
            names.into_iter().enumerate().filter_map(parse).collect::<Vec<_>>()
        };
        let rules = Rules {
            allow: attributes("allow", raw.allow),
            drop: attributes("drop", raw.drop),
            hide: attributes("hide", raw.hide),
        };
        Settings {
            disk_bytes_max: raw.disk_bytes.unwrap_or(standard.disk_bytes_max),
            failures_per_second: raw.failures_per_second.unwrap_or(standard.failures_per_second),
            keep: self.time(&["recordings", "keep"], raw.keep).unwrap_or(standard.keep),
            memory_bytes_max: raw.memory_bytes.map_or(standard.memory_bytes_max, |bytes| bytes as usize),
            rules,
            sample_permille: raw.sample_permille.map_or(standard.sample_permille, u32::from),
            segment_bytes_max: raw.segment_bytes.map_or(standard.segment_bytes_max, u64::from),
            shadow_permille: raw.shadow_permille.map_or(standard.shadow_permille, u32::from),
        }
    }

    fn check_region(
        &mut self,
        name: &RegionName,
        region: &RegionConfig,
        local: Option<&RegionName>,
        peer: bool,
    ) {
        let at = ["region", name.as_str()];
        let remote = local.is_some_and(|local| local != name);
        if !region.gateways.is_empty() && remote && !peer {
            let help = "add `[peer]` with cert, key and ca: gateways know each other by certificates";
            self.problem(
                &[at[0], at[1], "gateways"],
                "gateways of another region need this node's identity",
                help,
            );
        }
        if region.pools.is_empty() {
            self.problem(
                &at,
                format!("region `{name}` has no pool"),
                "declare what runs there: `[region.NAME.pool.web]`",
            );
        }
        for (pool, config) in &region.pools {
            let elsewhere = remote && !region.gateways.is_empty();
            if config.endpoints.is_empty() && !elsewhere {
                let at = [at[0], at[1], "pool", pool.as_str()];
                let help = "list `endpoints = [\"host:port\"]`, or the region's `gateways`";
                self.problem(&at, format!("pool `{pool}` has no endpoint"), help);
            }
        }
    }

    fn check_listen(&mut self, listen: &Listen, peer: bool, no_certificate: bool) {
        if listen.public.is_empty() && listen.public_tls.is_empty() {
            self.problem(&["listen"], "there is no public listener", "add `public = [\"0.0.0.0:8080\"]`");
        }
        if !listen.public_tls.is_empty() && no_certificate {
            let help = "add `[[tls.certificate]]` with `cert` and `key`";
            self.problem(&["listen", "public_tls"], "a TLS listener needs a certificate", help);
        }
        if !listen.peer.is_empty() && !peer {
            let help = "add `[peer]` with cert, key and ca";
            self.problem(&["listen", "peer"], "a peer listener needs this node's identity", help);
        }
        let mut seen = BTreeSet::new();
        let all = [("public", &listen.public), ("public_tls", &listen.public_tls), ("peer", &listen.peer)];
        for (key, addresses) in all {
            for address in addresses.iter().filter(|address| address.port() != 0) {
                if !seen.insert(*address) {
                    let help = "give each listener an address of its own";
                    self.problem(&["listen", key], format!("{address} is listed twice"), help);
                }
            }
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

    fn addresses(&mut self, key: &str, texts: &[String]) -> Vec<SocketAddr> {
        (0_usize..)
            .zip(texts)
            .filter_map(|(index, text)| self.address(&["listen", key, &index.to_string()], text))
            .collect()
    }

    fn address(&mut self, at: At<'_>, text: &str) -> Option<SocketAddr> {
        let address = text.parse().ok();
        if address.is_none() {
            self.problem(
                at,
                format!("`{text}` is no address to listen on"),
                "write `0.0.0.0:8080` or `[::]:8080`",
            );
        }
        address
    }

    fn authorities(&mut self, at: At<'_>, texts: &[String]) -> Vec<Authority> {
        let mut seen = BTreeSet::new();
        let mut all = Vec::new();
        for (index, text) in (0_usize..).zip(texts) {
            let index = index.to_string();
            let at = [at, &[&index]].concat();
            if !seen.insert(text) {
                self.problem(&at, format!("{text} is listed twice"), "list each once");
            }
            all.extend(self.authority(&at, text));
        }
        all
    }

    fn authority(&mut self, at: At<'_>, text: &str) -> Option<Authority> {
        let split =
            text.rsplit_once(':').filter(|(host, _)| check_host(host).is_ok_and(|host| host.port.is_none()));
        let port = split.and_then(|(_, port)| port.parse().ok()).filter(|port| *port != 0);
        let (Some((host, _)), Some(port)) = (split, port) else {
            self.problem(
                at,
                format!("`{text}` is no endpoint"),
                "write `host:port`, such as `10.0.0.5:8080`",
            );
            return None;
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Some(Authority { host, port, text: text.to_owned() })
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

    /// The store, and the folder of components.
    fn control(&mut self, raw: RawControl) -> Option<(Engine, Option<Shared>)> {
        let beside = raw.sqlite.as_ref().map(|file| self.folder.join(file));
        let beside = beside.map(|file| file.with_file_name(defaults::COMPONENTS_FOLDER));
        let components = self.shared(&raw, beside);
        match (raw.sqlite, raw.etcd) {
            (Some(file), None) => Some((Engine::Sqlite(self.folder.join(file)), components)),
            (None, Some(etcd)) => self.etcd(etcd).map(|engine| (engine, components)),
            _ => {
                let help = "name one: `sqlite = \"control.db\"` on one machine, `[control.etcd]` on several";
                self.problem(&["control"], "a control store is either a file or a cluster", help);
                None
            }
        }
    }

    fn etcd(&mut self, raw: RawEtcd) -> Option<Engine> {
        let before = self.problems.len();
        let path = |path: PathBuf| self.folder.join(path);
        let (ca, cert, key) = (raw.ca.map(path), raw.cert.map(path), raw.key.map(path));
        let tls = ca.is_some();
        if raw.endpoints.is_empty() {
            let help = "name at least one, such as `http://10.0.0.1:2379`";
            self.problem(&["control", "etcd", "endpoints"], "there is no member to ask", help);
        }
        for (index, endpoint) in raw.endpoints.iter().enumerate() {
            let wanted = if tls { "https" } else { "http" };
            let uri = endpoint.parse::<http::Uri>().ok();
            let good = uri.is_some_and(|uri| uri.scheme_str() == Some(wanted) && uri.authority().is_some());
            if !good {
                let at = ["control", "etcd", "endpoints", &index.to_string()];
                let help = format!("write `{wanted}://HOST:PORT`; with `ca` it is https, without http");
                self.problem(&at, format!("`{endpoint}` is no member's address"), help);
            }
        }
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => {
                self.problem(&["control", "etcd"], "`cert` and `key` come together", "add the other one");
                None
            }
        };
        let user = match (raw.user, raw.password) {
            (Some(user), Some(password)) => Some((user, password)),
            (None, None) => None,
            _ => {
                self.problem(
                    &["control", "etcd"],
                    "`user` and `password` come together",
                    "add the other one",
                );
                None
            }
        };
        let prefix = raw.prefix.unwrap_or_else(|| defaults::ETCD_PREFIX.to_owned());
        if !prefix.starts_with('/') || prefix.ends_with('/') || prefix.len() > 200 {
            let help = "begin it with `/`, and do not end it with one";
            self.problem(&["control", "etcd", "prefix"], format!("`{prefix}` is no prefix"), help);
        }
        let config = EtcdConfig { ca, endpoints: raw.endpoints, identity, prefix, user };
        (self.problems.len() == before).then_some(Engine::Etcd(config))
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

/// The header fields that name tenants: whoever could edit them could speak for another tenant.
fn naming_headers(sources: &[Source]) -> BTreeSet<Box<str>> {
    let name = |source: &Source| match source {
        Source::Header { name } => Some(name.clone()),
        Source::ClientCertificate { .. } | Source::HostSuffix { .. } | Source::PathPrefix { .. } => None,
    };
    sources.iter().filter_map(name).collect()
}

/// A budget with some of its parts changed.
fn budget(usual: Budget, raw: RawBudget) -> Budget {
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Budget {
        fuel_burst: raw.fuel_burst.unwrap_or(usual.fuel_burst),
        fuel_per_second: raw.fuel_per_second.unwrap_or(usual.fuel_per_second),
        memory_bytes: raw.memory_bytes.map_or(usual.memory_bytes, size),
        plan_burst: raw.plan_burst.unwrap_or(usual.plan_burst),
        plan_fuel_per_minute: raw.plan_fuel_per_minute.unwrap_or(usual.plan_fuel_per_minute),
        plans_per_minute: raw.plans_per_minute.unwrap_or(usual.plans_per_minute),
        warm_instances: raw.warm_instances.map_or(usual.warm_instances, |number| number as usize),
    }
}
