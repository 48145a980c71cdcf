//! Which names lead to which regions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;

use ipnet::IpNet;
use portolan_core::ids::RegionName;
use portolan_dns::name::Name;
use portolan_dns::plan::{Draft, NameDraft, Near, Plan, Policy, RegionDraft, State, TtlBounds, ZoneDraft};
use portolan_dns::push::cloud::{Account, Provider, Unusable};

use super::{At, Builder, RegionConfig};
use crate::config::raw::{RawCloud, RawDns, RawName, RawProvider, RawZone};

/// The longest that an answer may be kept where nothing is said: a failover waits for it.
const TTL_MAX_S: u32 = 60;
/// The shortest.
const TTL_MIN_S: u32 = 5;
/// How long it may be kept that there is nothing.
const NEGATIVE_TTL_S: u32 = 30;

/// Which names lead to which regions, and who else is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DnsConfig {
    pub(crate) answers_per_second: Option<NonZeroU32>,
    /// Zones at providers that are kept up to date.
    pub(crate) cloud: Vec<Account>,
    /// A plan without a number, in which all regions are in.
    pub(crate) draft: Draft,
    /// The files of zones' keys.
    pub(crate) keys: BTreeMap<Name, PathBuf>,
    pub(crate) push: Vec<DnsPush>,
    pub(crate) secondaries: Vec<DnsSecondary>,
}

/// A server that is kept up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DnsPush {
    pub(crate) key: PathBuf,
    pub(crate) server: SocketAddr,
    pub(crate) zone: Name,
}

/// A server that takes zones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DnsSecondary {
    pub(crate) from: IpNet,
    pub(crate) key: PathBuf,
    pub(crate) notify: Option<SocketAddr>,
}

impl Builder<'_> {
    pub(super) fn dns(
        &mut self,
        raw: RawDns,
        regions: &BTreeMap<RegionName, RegionConfig>,
    ) -> Option<DnsConfig> {
        let before = self.problems.len();
        let names: BTreeSet<RegionName> = regions.keys().cloned().collect();
        let mut keys = BTreeMap::new();
        let mut zones = BTreeMap::new();
        for (text, zone) in raw.zone {
            let Some(origin) = self.dns_name(&["dns", "zone", &text], &text) else { continue };
            if let Some(key) = &zone.key {
                keys.insert(origin.clone(), self.folder.join(key));
            }
            let zone = self.dns_zone(&text, &origin, zone, regions, &names);
            zones.extend(zone.map(|zone| (origin, zone)));
        }
        let geography = (0_usize..).zip(raw.near).filter_map(|(index, near)| {
            let index = index.to_string();
            let prefix = self.network(&["dns", "near", &index, "network"], &near.network)?;
            let at = ["dns", "near", &index, "regions"];
            Some(Near { prefix, regions: self.regions_of(&at, &near.regions, &names)? })
        });
        let geography = geography.collect();
        let state = RegionDraft { state: State::In, steady_until_ms: None };
        let draft = Draft {
            number: 0,
            regions: names.iter().map(|name| (name.clone(), state)).collect(),
            geography,
            zones,
        };
        let push = (0_usize..).zip(raw.push).filter_map(|(index, push)| {
            let zone = self.dns_declared(&["dns", "push", &index.to_string(), "zone"], &push.zone, &draft)?;
            Some(DnsPush { key: self.folder.join(push.key), server: push.server, zone })
        });
        let push = push.collect();
        let cloud = (0_usize..).zip(raw.cloud);
        let cloud = cloud.filter_map(|(index, cloud)| self.dns_cloud(&index.to_string(), cloud, &draft));
        let cloud = cloud.collect();
        let secondaries = (0_usize..).zip(raw.secondary).filter_map(|(index, secondary)| {
            let from = self.network(&["dns", "secondary", &index.to_string(), "from"], &secondary.from)?;
            Some(DnsSecondary { from, key: self.folder.join(secondary.key), notify: secondary.notify })
        });
        let secondaries = secondaries.collect();
        if self.problems.len() == before
            && let Err(invalid) = Plan::new(draft.clone())
        {
            for what in invalid.0 {
                self.problem(&["dns"], what, "no name may be without an answer, whatever region is out");
            }
        }
        let answers_per_second = raw.answers_per_second;
        (self.problems.len() == before).then_some(DnsConfig {
            answers_per_second,
            cloud,
            draft,
            keys,
            push,
            secondaries,
        })
    }

    /// One of the zones.
    fn dns_declared(&mut self, at: At<'_>, text: &str, draft: &Draft) -> Option<Name> {
        let zone = self.dns_name(at, text)?;
        if !draft.zones.contains_key(&zone) {
            let what = format!("`{zone}` is none of the zones");
            self.problem(at, what, "declare it: `[dns.zone.\"NAME\"]`");
        }
        Some(zone)
    }

    fn dns_cloud(&mut self, index: &str, raw: RawCloud, draft: &Draft) -> Option<Account> {
        let zone = self.dns_declared(&["dns", "cloud", index, "zone"], &raw.zone, draft)?;
        let provider = match raw.provider {
            RawProvider::Cloudflare => Provider::Cloudflare,
            RawProvider::Route53 => Provider::Route53,
        };
        let credentials = self.folder.join(raw.credentials);
        let account = Account { credentials, endpoint: raw.endpoint, id: raw.id, provider, zone };
        if let Err(unusable) = account.check() {
            let (field, help) = match &unusable {
                Unusable::Endpoint(_) => ("endpoint", "leave it out for the provider's own"),
                Unusable::Id(_) => ("id", "the provider shows it beside the zone"),
            };
            self.problem(&["dns", "cloud", index, field], unusable.to_string(), help);
            return None;
        }
        Some(account)
    }

    fn dns_zone(
        &mut self,
        text: &str,
        origin: &Name,
        raw: RawZone,
        regions: &BTreeMap<RegionName, RegionConfig>,
        names: &BTreeSet<RegionName>,
    ) -> Option<ZoneDraft> {
        let mut servers = BTreeMap::new();
        for (server, addresses) in raw.name_servers {
            let name = self.dns_name(&["dns", "zone", text, "name_servers", &server], &server)?;
            servers.insert(name, addresses);
        }
        let mailbox = match raw.mailbox {
            Some(mailbox) => self.dns_name(&["dns", "zone", text, "mailbox"], &mailbox)?,
            None => origin.under("hostmaster").ok()?,
        };
        let mut managed = BTreeMap::new();
        for (name, draft) in raw.name {
            let at = ["dns", "zone", text, "name", &name];
            let Some(key) = self.dns_name(&at, &name) else { continue };
            let draft = self.dns_managed(&at, draft, regions, names);
            managed.extend(draft.map(|draft| (key, draft)));
        }
        let negative_ttl_s = raw.negative_ttl.unwrap_or(NEGATIVE_TTL_S);
        Some(ZoneDraft { mailbox, name_servers: servers, negative_ttl_s, names: managed })
    }

    fn dns_managed(
        &mut self,
        at: At<'_>,
        raw: RawName,
        regions: &BTreeMap<RegionName, RegionConfig>,
        names: &BTreeSet<RegionName>,
    ) -> Option<NameDraft> {
        let usual = || -> BTreeMap<RegionName, Vec<IpAddr>> {
            let told = regions.iter().filter(|(_, region)| !region.addresses.is_empty());
            told.map(|(name, region)| (name.clone(), region.addresses.clone())).collect()
        };
        let addresses = match raw.addresses {
            None => usual(),
            Some(told) => {
                let mut addresses = BTreeMap::new();
                for (region, list) in told {
                    let name = self.known_region(&[at, &["addresses", &region]].concat(), &region, names)?;
                    addresses.insert(name, list);
                }
                addresses
            }
        };
        if addresses.is_empty() {
            let help = "say where regions are: `addresses` here, or of each `[region.*]`";
            self.problem(at, "no region has an address", help);
            return None;
        }
        let ways = usize::from(raw.nearest)
            + usize::from(!raw.order.is_empty())
            + usize::from(!raw.weights.is_empty());
        if ways > 1 {
            let help = "keep one of `nearest`, `order` and `weights`";
            self.problem(at, "a region is chosen in one way", help);
            return None;
        }
        let policy = if raw.nearest {
            Policy::Nearest
        } else if raw.order.is_empty() {
            let mut weights: BTreeMap<RegionName, u32> = BTreeMap::new();
            for (region, weight) in raw.weights {
                let name = self.known_region(&[at, &["weights", &region]].concat(), &region, names)?;
                weights.insert(name, weight);
            }
            if weights.is_empty() {
                weights = addresses.keys().map(|region| (region.clone(), 1)).collect();
            }
            Policy::Weighted(weights)
        } else {
            Policy::Ordered(self.regions_of(&[at, &["order"]].concat(), &raw.order, names)?)
        };
        let ttl =
            TtlBounds { min_s: raw.ttl_min.unwrap_or(TTL_MIN_S), max_s: raw.ttl_max.unwrap_or(TTL_MAX_S) };
        let (answers, last_good) = (raw.answers.unwrap_or(1), BTreeSet::new());
        Some(NameDraft { policy, answers, addresses, last_good, ttl })
    }

    fn regions_of(
        &mut self,
        at: At<'_>,
        texts: &[String],
        names: &BTreeSet<RegionName>,
    ) -> Option<Vec<RegionName>> {
        let known = (0_usize..)
            .zip(texts)
            .map(|(index, text)| self.known_region(&[at, &[&index.to_string()]].concat(), text, names));
        known.collect()
    }

    fn dns_name(&mut self, at: At<'_>, text: &str) -> Option<Name> {
        match Name::new(text) {
            Ok(name) => Some(name),
            Err(error) => {
                self.problem(at, error.to_string(), "write it in full, such as `www.example.net`");
                None
            }
        }
    }
}
