//! How far a run may go: a contraction waits for all copies of all shards. Pure.

use std::fmt;

use portolan_core::ids::{RegionName, ShardName};

use super::folder::{Kind, Migrations};

/// A copy of a shard elsewhere, as it was last heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// In which region.
    pub region: RegionName,
    /// Of which shard.
    pub shard: ShardName,
    /// The version that its gateways run with.
    pub version: u64,
}

/// A copy that still has an old schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// In which region; none when it is one of those that are migrated.
    pub region: Option<RegionName>,
    /// Of which shard.
    pub shard: ShardName,
    /// Its version; none when it did not answer.
    pub version: Option<u64>,
}

/// A contraction that may not come yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits {
    /// Who still has an old schema.
    pub behind: Vec<Behind>,
    /// The contraction.
    pub contract: u64,
    /// The version that all must have.
    pub needs: u64,
}

/// How far a run may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Goal {
    pub(crate) through: u64,
    pub(crate) waits: Option<Waits>,
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.shard)?;
        if let Some(region) = &self.region {
            write!(f, " in {region}")?;
        }
        match self.version {
            Some(version) => write!(f, " ({version:04})"),
            None => write!(f, " (no answer)"),
        }
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let behind: Vec<String> = self.behind.iter().map(ToString::to_string).collect();
        write!(
            f,
            "{:04} takes away what older versions use: it waits until all run with {:04}. Behind at the start of this run: {}",
            self.contract,
            self.needs,
            behind.join(", ")
        )
    }
}

/// How far a run may go that would go through `wanted`. `shards` have the version that they are done with *and* run with.
pub(crate) fn goal(
    migrations: &Migrations,
    shards: &[(ShardName, Option<u64>)],
    elsewhere: &[Seen],
    wanted: u64,
) -> Goal {
    let mut needs = 0;
    for migration in migrations.iter().take_while(|migration| migration.version <= wanted) {
        if migration.kind != Kind::Contract {
            needs = migration.version;
            continue;
        }
        // Where it is done, nothing is taken away any more.
        let contract = migration.version;
        if shards.iter().all(|(_, version)| version.is_some_and(|version| version >= contract)) {
            continue;
        }
        let behind = behind(shards, elsewhere, needs);
        if !behind.is_empty() {
            return Goal { through: contract - 1, waits: Some(Waits { behind, contract, needs }) };
        }
    }
    Goal { through: wanted, waits: None }
}

fn behind(shards: &[(ShardName, Option<u64>)], elsewhere: &[Seen], needs: u64) -> Vec<Behind> {
    let own = shards
        .iter()
        .filter(|(_, version)| version.is_none_or(|version| version < needs))
        .map(|(shard, version)| Behind { region: None, shard: shard.clone(), version: *version });
    let others = elsewhere.iter().filter(|seen| seen.version < needs).map(|seen| Behind {
        region: Some(seen.region.clone()),
        shard: seen.shard.clone(),
        version: Some(seen.version),
    });
    own.chain(others).collect()
}
