//! Made-up regions and shards, as an author of a failover policy writes them down.

use std::collections::{BTreeMap, BTreeSet};

use portolan_core::failover::{
    Cells, Detour, Event, Intent, LIMITS, PATHS, Picture, Region, Replica, Shard, Sight, Verdict,
};
use portolan_core::ids::{RegionName, ShardName};
use serde::{Deserialize, Serialize};

use super::NOW_MS;
use crate::error::printable;

/// Requests per second that a region can take of which nothing else is said.
const CAPACITY: u64 = 1_000;
/// How much of a shard may be lost of which nothing else is said: 5 seconds, whatever is in them.
const LOSS_MS_MAX: u64 = 5_000;

/// Made-up regions and shards.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Scene {
    /// Whose node asks; the first region when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// Is the control store away?
    #[serde(default)]
    pub without_control: bool,
    /// Has an operator frozen everything?
    #[serde(default)]
    pub frozen: bool,
    /// When it is, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now_ms: Option<u64>,
    /// By name.
    #[serde(default)]
    pub regions: BTreeMap<String, There>,
    /// By name.
    #[serde(default)]
    pub shards: BTreeMap<String, Held>,
    /// The traffic plan, by the regions whose traffic it is.
    #[serde(default)]
    pub detours: BTreeMap<String, Way>,
    /// Regions from which shards were taken over.
    #[serde(default)]
    pub failures: Vec<Happened>,
    /// Regions that were taken out of service.
    #[serde(default)]
    pub removals: Vec<Happened>,
    /// By name; those that are absent are the standard's of a gateway.
    #[serde(default)]
    pub limits: BTreeMap<String, u64>,
    /// How regions look: by region, vantage and path, `down`, `identity`, `suspect`, `unknown` or `up`.
    #[serde(default)]
    pub evidence: BTreeMap<String, BTreeMap<String, BTreeMap<String, String>>>,
}

/// A region of a [`Scene`]: a healthy one, but for what is said.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct There {
    /// `healthy`, `suspect`, `down`, `partitioned`, `gray` or `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Does it answer? When absent, unless it is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<bool>,
    /// Do its databases answer? When absent, they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<bool>,
    /// For how long it has been down.
    #[serde(default)]
    pub down_ms: u64,
    /// How long ago it was well; 0 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub well_ago_ms: Option<u64>,
    /// Requests per second that it can take; 1000 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u64>,
    /// Requests per second that come to it.
    #[serde(default)]
    pub load: u64,
    /// What operators say of it: `drain`, `lost`, `maintenance`.
    #[serde(default)]
    pub intents: BTreeSet<String>,
}

/// A shard of a [`Scene`].
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Who writes it.
    pub primary: String,
    /// Where it is written when all is well; its primary when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// Is its primary's lease over?
    #[serde(default)]
    pub void: bool,
    /// Is a promotion under way?
    #[serde(default)]
    pub running: bool,
    /// Regions that may write it; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<BTreeSet<String>>,
    /// The most advanced first.
    #[serde(default)]
    pub replicas: Vec<Kept>,
    /// Rows that may be lost; any when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_rows_max: Option<u64>,
    /// Bytes that may be lost; any when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_bytes_max: Option<u64>,
    /// Time that may be lost; 5000 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_ms_max: Option<u64>,
}

/// A replica of a shard: a whole and current one that lacks nothing, but for what is said.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Whose it is.
    pub region: String,
    /// Does it lack rows in between?
    #[serde(default)]
    pub torn: bool,
    /// Does it lack this epoch?
    #[serde(default)]
    pub old: bool,
    /// Rows that it has.
    #[serde(default)]
    pub rows: u64,
    /// Rows that it lacks.
    #[serde(default)]
    pub behind_rows: u64,
    /// Bytes that it lacks.
    #[serde(default)]
    pub behind_bytes: u64,
    /// How old what it lacks is.
    #[serde(default)]
    pub behind_ms: u64,
    /// How long ago it said so.
    #[serde(default)]
    pub ago_ms: u64,
}

/// Traffic of a [`Scene`] that goes elsewhere.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Way {
    /// Where.
    pub target: String,
    /// How much.
    pub percent: u8,
    /// Since when.
    #[serde(default)]
    pub since_ms: u64,
}

/// Something that happened to a region of a [`Scene`].
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Happened {
    /// To which one.
    pub region: String,
    /// When.
    pub at_ms: u64,
}

impl Scene {
    /// The picture that a policy is given.
    ///
    /// # Errors
    /// The reason, when a name is none, or a word is not known.
    pub fn picture(&self) -> Result<Picture, String> {
        let mut regions = BTreeMap::new();
        for (name, there) in &self.regions {
            regions.insert(region(name)?, there.region()?);
        }
        let local = match &self.local {
            Some(name) => region(name)?,
            None => regions.keys().next().cloned().ok_or("there is no region")?,
        };
        let mut shards = BTreeMap::new();
        for (name, held) in &self.shards {
            shards.insert(ShardName::new(name).map_err(|error| error.to_string())?, held.shard()?);
        }
        let mut detours = BTreeMap::new();
        for (name, way) in &self.detours {
            let (percent, since_ms, target) = (way.percent, way.since_ms, region(&way.target)?);
            detours.insert(region(name)?, Detour { percent, since_ms, target });
        }
        let events = |all: &[Happened]| -> Result<Vec<Event>, String> {
            let event = |one: &Happened| Ok(Event { at_ms: one.at_ms, region: region(&one.region)? });
            all.iter().map(event).collect()
        };
        Ok(Picture {
            control: !self.without_control,
            detours,
            failures: events(&self.failures)?,
            frozen: self.frozen,
            limits: self.limits()?,
            local,
            now_ms: self.now_ms.unwrap_or(NOW_MS),
            regions,
            removals: events(&self.removals)?,
            shards,
            sights: self.sights()?,
        })
    }

    fn limits(&self) -> Result<BTreeMap<&'static str, u64>, String> {
        let mut limits = BTreeMap::from([
            ("failback", 0),
            ("headroom-percent", 80),
            ("interval-ms", 600_000),
            ("lag-age-ms", 2_000),
            ("outage-ms", 3_000),
            ("per-day", 3),
            ("ramp-step-ms", 30_000),
            ("removal-window-ms", 600_000),
        ]);
        for (name, limit) in &self.limits {
            limits.insert(word("limit", &LIMITS, name)?, *limit);
        }
        Ok(limits)
    }

    fn sights(&self) -> Result<BTreeMap<(RegionName, RegionName), Cells>, String> {
        let mut sights = BTreeMap::new();
        for (seen, vantages) in &self.evidence {
            for (vantage, paths) in vantages {
                let mut cells = Cells::new();
                for (path, sight) in paths {
                    let named = Sight::ALL.map(Sight::as_str);
                    let name = word("state of a cell", &named, sight)?;
                    let found = Sight::ALL.into_iter().find(|one| one.as_str() == name);
                    cells.insert(word("path", &PATHS, path)?, found.unwrap_or(Sight::Unknown));
                }
                sights.insert((region(seen)?, region(vantage)?), cells);
            }
        }
        Ok(sights)
    }
}

impl There {
    fn region(&self) -> Result<Region, String> {
        let name = self.verdict.as_deref().unwrap_or(Verdict::Healthy.as_str());
        let name = word("verdict", &Verdict::ALL.map(Verdict::as_str), name)?;
        let verdict = Verdict::ALL.into_iter().find(|one| one.as_str() == name).unwrap_or(Verdict::Unknown);
        let mut intents = BTreeSet::new();
        for said in &self.intents {
            let name = word("intent", &Intent::ALL.map(Intent::as_str), said)?;
            intents.extend(Intent::ALL.into_iter().find(|one| one.as_str() == name));
        }
        Ok(Region {
            answers: self.answers.unwrap_or(verdict != Verdict::Down),
            capacity: self.capacity.unwrap_or(CAPACITY),
            database: self.database.unwrap_or(true),
            down_ms: self.down_ms,
            intents,
            load: self.load,
            verdict,
            well_ago_ms: Some(self.well_ago_ms.unwrap_or(0)),
        })
    }
}

impl Held {
    fn shard(&self) -> Result<Shard, String> {
        let allowed = match &self.allowed {
            Some(names) => Some(names.iter().map(|name| region(name)).collect::<Result<_, _>>()?),
            None => None,
        };
        let replica = |kept: &Kept| {
            Ok::<_, String>(Replica {
                ago_ms: kept.ago_ms,
                behind_bytes: kept.behind_bytes,
                behind_ms: kept.behind_ms,
                behind_rows: kept.behind_rows,
                current: !kept.old,
                region: region(&kept.region)?,
                rows: kept.rows,
                whole: !kept.torn,
            })
        };
        Ok(Shard {
            allowed,
            home: region(self.home.as_ref().unwrap_or(&self.primary))?,
            loss_bytes_max: self.loss_bytes_max.unwrap_or(u64::MAX),
            loss_ms_max: self.loss_ms_max.unwrap_or(LOSS_MS_MAX),
            loss_rows_max: self.loss_rows_max.unwrap_or(u64::MAX),
            primary: region(&self.primary)?,
            replicas: self.replicas.iter().map(replica).collect::<Result<_, _>>()?,
            running: self.running,
            void: self.void,
        })
    }
}

fn region(name: &str) -> Result<RegionName, String> {
    RegionName::new(name).map_err(|error| error.to_string())
}

/// One of the words that there are.
fn word(what: &str, known: &[&'static str], written: &str) -> Result<&'static str, String> {
    let found = known.iter().find(|word| **word == written);
    found
        .copied()
        .ok_or_else(|| format!("`{}` is no {what}, but {} are", printable(written, 32), known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scene_becomes_a_picture() {
        let scene: Scene = serde_json::from_str(
            r#"{"regions": {"eu": {"verdict": "down", "down_ms": 9000, "intents": ["lost"]}, "us": {}},
                "shards": {"a": {"primary": "eu", "replicas": [{"region": "us", "behind_rows": 3}]}},
                "evidence": {"eu": {"us": {"peer": "down"}}}, "limits": {"outage-ms": 1}}"#,
        )
        .unwrap();
        let picture = scene.picture().unwrap();
        let eu = &picture.regions["eu"];
        assert_eq!((picture.local.as_str(), eu.answers, eu.verdict), ("eu", false, Verdict::Down));
        assert_eq!((picture.limits["outage-ms"], picture.limits["per-day"]), (1, 3));
        assert_eq!(picture.sight("eu", "us", "peer"), Sight::Down);
        let shard = &picture.shards["a"];
        assert!(shard.replicas[0].whole && shard.replicas[0].current && shard.home.as_str() == "eu");
        let wrong: Scene = serde_json::from_str(r#"{"regions": {"eu": {"verdict": "dead"}}}"#).unwrap();
        assert!(wrong.picture().unwrap_err().contains("no verdict, but down, gray"));
    }
}
