//! Regions and what runs in them: pools, endpoints, probes, breakers.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use portolan_core::geography::{Country, Place, Point};
use portolan_core::ids::{PoolName, RegionName};
use portolan_core::screen::check_host;
use portolan_core::steering;
use portolan_core::topology::{BreakerLimits, Probe, Protocol, UpstreamTls};

use super::{At, Builder};
use crate::config::defaults;
use crate::config::raw::{RawBreaker, RawLocation, RawPool, RawProbe, RawProtocol, RawRegion, RawSteering};

/// A region.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RegionConfig {
    /// Its public addresses.
    pub(crate) addresses: Vec<std::net::IpAddr>,
    /// Requests per second that it can take, where that is said.
    pub(crate) capacity: Option<NonZeroU64>,
    pub(crate) gateways: Vec<Authority>,
    /// Where clients come in, with who vouches for it.
    pub(crate) ingress: Option<(http::Uri, Option<PathBuf>)>,
    /// Where it is on earth, as far as that is said.
    pub(crate) location: Place,
    pub(crate) pools: BTreeMap<PoolName, PoolConfig>,
    pub(crate) probe: Probe,
    pub(crate) replication: Vec<Authority>,
    pub(crate) replication_rate: Option<NonZeroU64>,
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
    pub(crate) stateless: bool,
    pub(crate) tls: Option<UpstreamTls>,
    pub(crate) token: bool,
}

/// `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Authority {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) text: String,
}

impl Builder<'_> {
    pub(super) fn region(&mut self, name: &str, raw: RawRegion) -> RegionConfig {
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
        let replication = self.authorities(&["region", name, "replication"], &raw.replication);
        let replication_rate = raw.replication_bytes_per_second;
        let (capacity, authorities) = (raw.capacity, raw.ingress_ca.map(|path| self.folder.join(path)));
        let ingress = raw.ingress.and_then(|text| Some((self.ingress(name, &text)?, authorities)));
        let location = raw.location.map(|location| self.location(name, &location)).unwrap_or_default();
        let addresses = raw.addresses;
        RegionConfig {
            addresses,
            capacity,
            gateways,
            ingress,
            location,
            pools,
            probe,
            replication,
            replication_rate,
        }
    }

    fn location(&mut self, region: &str, raw: &RawLocation) -> Place {
        let country = raw.country.as_deref().and_then(|text| {
            let country = Country::parse(text);
            if country.is_none() {
                let at = ["region", region, "location", "country"];
                let help = "write the two capital letters of ISO 3166-1, such as `DE`";
                self.problem(&at, format!("`{text}` is no country"), help);
            }
            country
        });
        let point = raw.latitude.zip(raw.longitude).and_then(|(north, east)| Point::new(north, east));
        if point.is_none() && (raw.latitude.is_some() || raw.longitude.is_some()) {
            let help = "write both in degrees: `latitude` of -90 to 90, `longitude` of -180 to 180";
            self.problem(&["region", region, "location"], "this is no point of the earth", help);
        }
        Place { country, continent: None, point }
    }

    fn ingress(&mut self, region: &str, text: &str) -> Option<http::Uri> {
        let uri = text.parse::<http::Uri>().ok().filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
        });
        if uri.is_none() {
            let help = "write `https://HOST:PORT/PATH`";
            self.problem(&["region", region, "ingress"], format!("`{text}` is no place to look at"), help);
        }
        uri
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
            stateless: raw.stateless,
            tls,
            token: raw.token,
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

    pub(super) fn steering(&mut self, raw: RawSteering) -> steering::Limits {
        let panic_percent = raw.panic_percent.map_or(defaults::PANIC_PERCENT, u32::from);
        if panic_percent > 100 {
            let help = "write 0 to 100; 50 is usual";
            self.problem(&["steering", "panic_percent"], format!("{panic_percent} % is no share"), help);
        }
        steering::Limits {
            breaker: self.breaker(&["steering", "breaker"], raw.breaker),
            panic_percent,
            ramp: self.time(&["steering", "ramp"], raw.ramp).unwrap_or(defaults::REGION_RAMP),
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

    pub(super) fn check_region(
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
}
