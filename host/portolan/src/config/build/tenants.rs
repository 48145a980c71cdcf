//! Tenants: how they are recognised, what they may choose, and what they may use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portolan_core::bounds::{Bounds, FieldPattern};
use portolan_core::ids::{PoolName, RegionName, ResidencyName, TenantId, TenantName};
use portolan_core::tenant::{Barred, Source};
use portolan_policy::Budget;

use super::{At, Builder, PolicySlot, RegionConfig};
use crate::config::raw::{RawBarred, RawBounds, RawBudget, RawSource, RawStanding};
use crate::config::shape::suggest;

/// What a tenant has of its own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TenantConfig {
    pub(crate) bounds: Arc<Bounds>,
    pub(crate) budget: Budget,
    pub(crate) location: Option<RegionName>,
    pub(crate) policy: Option<PolicySlot>,
    pub(crate) residency: Option<ResidencyName>,
}

impl Builder<'_> {
    /// The tenants that nobody serves.
    pub(super) fn barred(&mut self, raw: BTreeMap<String, RawStanding>) -> BTreeMap<TenantName, Barred> {
        let read = |(name, standing): (String, RawStanding)| {
            let barred = match standing.is {
                RawBarred::Erased => Barred::Erased,
                RawBarred::Suspended => Barred::Suspended,
            };
            Some((self.name(&["standing", &name], &name, TenantName::new)?, barred))
        };
        raw.into_iter().filter_map(read).collect()
    }

    /// The number is for others; here it only must be one.
    pub(super) fn tenant_id(&mut self, name: &str, text: Option<&str>) {
        if let Some(Err(error)) = text.map(str::parse::<TenantId>) {
            let help = "leave it out: `portolan tenant create` draws one";
            self.problem(&["tenant", name, "id"], error.to_string(), help);
        }
    }

    pub(super) fn bounds(
        &mut self,
        at: At<'_>,
        raw: RawBounds,
        regions: &BTreeMap<RegionName, RegionConfig>,
    ) -> Bounds {
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

    pub(super) fn source(&mut self, index: &str, raw: RawSource) -> Option<Source> {
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
}

/// The header fields that name tenants: whoever could edit them could speak for another tenant.
pub(super) fn naming_headers(sources: &[Source]) -> BTreeSet<Box<str>> {
    let name = |source: &Source| match source {
        Source::Header { name } => Some(name.clone()),
        Source::ClientCertificate { .. } | Source::HostSuffix { .. } | Source::PathPrefix { .. } => None,
    };
    sources.iter().filter_map(name).collect()
}

/// A budget with some of its parts changed.
pub(super) fn budget(usual: Budget, raw: RawBudget) -> Budget {
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
