//! Where a request for a tenant's rows is answered: by whom it is asked, where the tenant is, how fresh the answer must be.

use http::HeaderMap;
use portolan_changelog::Reached;
use portolan_core::directory::{Access as Open, Shard};
use portolan_core::ids::{RegionName, TenantName};
use portolan_core::tenant::Barred;
use portolan_core::token::{NotAToken, Token};
use portolan_core::topology::Topology;
use tokio::time::Instant;

use crate::data::{Door, Problem};
use crate::defaults::{TOKEN_LOOK, TOKEN_WAIT};
use crate::refuse;

/// The field by which a reader says how fresh it wants its answer.
pub(crate) const CONSISTENCY: &str = "portolan-consistency";
/// The field that names positions of logs.
pub(crate) const TOKEN: &str = "portolan-token";

/// How fresh an answer must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Consistency {
    /// At least what the token names, by whoever has that.
    AtLeast(Token),
    /// Whatever this region has.
    Local,
    /// Not older than this, in seconds.
    MaxStaleness(u64),
    /// The primary's.
    Primary,
}

impl Consistency {
    /// What a request asks for. Without a word it is the primary's answer: nobody is surprised by an old one.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let token = headers
            .get(TOKEN)
            .map(|value| value.to_str().map_err(|_| NotAToken::Form).and_then(str::parse::<Token>));
        let token = token.transpose().map_err(|error| refuse::bad_consistency(&error.to_string()))?;
        let Some(word) = headers.get(CONSISTENCY) else {
            return Ok(token.map_or(Self::Primary, Self::AtLeast));
        };
        let word = word.to_str().unwrap_or_default().trim();
        match (word, token) {
            ("primary", _) => Ok(Self::Primary),
            ("local", None) => Ok(Self::Local),
            ("at-least", Some(token)) => Ok(Self::AtLeast(token)),
            _ => match word.strip_prefix("max-staleness=").map(str::parse) {
                Some(Ok(seconds)) => Ok(Self::MaxStaleness(seconds)),
                _ => Err(refuse::bad_consistency(
                    "`portolan-consistency` is `primary`, `at-least` (with `portolan-token`), `max-staleness=SECONDS` or `local`",
                )),
            },
        }
    }
}

impl Consistency {
    /// Has the shard's primary what the reader wants to see? A log that is not there yet is waited for.
    pub(crate) async fn reached(&self, door: &Door) -> Result<(), Problem> {
        let Self::AtLeast(token) = self else { return Ok(()) };
        let Some(wanted) = token.position(door.shard.as_str()) else { return Ok(()) };
        let until = Instant::now() + TOKEN_WAIT;
        loop {
            let reached = door.store.reached(wanted).await;
            match reached.map_err(|error| Problem::of_database(error, None))? {
                Reached::Here => return Ok(()),
                Reached::Lost(known) => return Err(refuse::token_unknown(&door.shard, wanted, known)),
                Reached::Ahead(known) if Instant::now() >= until => {
                    return Err(refuse::token_ahead(&door.shard, wanted, known));
                }
                Reached::Ahead(_) => tokio::time::sleep(TOKEN_LOOK).await,
            }
        }
    }
}

/// Regions that keep a shard, in the order in which a reader tries them whom this region's own copy does not serve; none for whom the primary alone
/// serves. Of those that are there the nearest comes first: with any of them, for whom whatever is there is fresh enough; after the primary, while it is
/// there, for whom a copy may be too old. The primary is always among them.
pub(crate) fn elsewhere(topology: &Topology, shard: &Shard, wanted: &Consistency) -> Vec<RegionName> {
    if *wanted == Consistency::Primary {
        return Vec::new();
    }
    let written = !topology.steering.load().unwritten.contains(&shard.name);
    let near = |name: &RegionName| {
        let region = topology.regions.get(name)?;
        let local = *name == topology.local;
        let there = local || region.cell.verdict().takes_requests();
        there.then(|| if local { 0 } else { region.cell.latency_us().unwrap_or(u32::MAX) })
    };
    let leads = |name: &RegionName| *name == shard.primary;
    let mut regions: Vec<(bool, u32, &RegionName)> = std::iter::once(&shard.primary)
        .chain(&shard.replicas)
        // This region's own copy was asked, unless it is the primary that was.
        .filter(|name| **name != topology.local || leads(name))
        .filter_map(|name| {
            let near = near(name)?;
            let knows_all = leads(name) && written && *name != topology.local;
            Some((!knows_all || *wanted == Consistency::Local, near, name))
        })
        .collect();
    regions.sort_unstable();
    regions.dedup();
    let mut regions: Vec<RegionName> = regions.into_iter().map(|(.., name)| name.clone()).collect();
    if !regions.contains(&shard.primary) {
        regions.push(shard.primary.clone());
    }
    regions
}

/// The shard of a tenant.
pub(crate) fn shard<'a>(
    topology: &'a Topology,
    tenant: &TenantName,
    writes: bool,
) -> Result<&'a Shard, Problem> {
    if let Some(why) = topology.tenants.barred(Some(tenant)) {
        return Err(refuse::barred(why));
    }
    let (place, shard) = topology.shard_of(tenant).ok_or_else(refuse::no_shard)?;
    if place.access == Open::Suspended {
        return Err(refuse::barred(Barred::Suspended));
    }
    if place.access == Open::Held && writes {
        return Err(refuse::held());
    }
    if shard.external {
        return Err(refuse::external(&shard.name));
    }
    Ok(shard)
}

#[cfg(test)]
mod tests;
