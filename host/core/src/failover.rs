//! What a failover policy may know and say, in plain words: the picture as it crosses from who decides about regions to who asks a
//! policy, and the answers on their way back. Pure.
//!
//! [`Picture`] is the world of one moment, [`Answers`] what a policy writes over it, checked call by call, and [`Proposed`] what
//! remains of that. Whether anything of it is done is the business of the guards, which know nothing of policies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ids::{RegionName, ShardName};
use crate::plan::{Refusal, code};

/// Shards that one question gives.
pub const SHARDS_PER_PAGE: usize = 1_000;
/// Proposals of one answer: as many as the guards read.
pub const PROPOSALS_MAX: usize = 20_000;
/// The limits that a policy may ask for, by their names in the contract.
pub const LIMITS: [&str; 8] = [
    "failback",
    "headroom-percent",
    "interval-ms",
    "lag-age-ms",
    "outage-ms",
    "per-day",
    "ramp-step-ms",
    "removal-window-ms",
];
/// The ways to a region, by their names in the contract.
pub const PATHS: [&str; 5] = ["control", "database", "ingress", "peer", "replication"];
/// Characters of a name that does not exist that are told.
const NAME_CHARACTERS_TOLD: usize = 80;

/// How a region looks from one vantage, by paths of [`PATHS`].
pub type Cells = BTreeMap<&'static str, Sight>;

/// What is believed of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is gone, for a majority of the others.
    Down,
    /// It is there, and does not do its work.
    Gray,
    /// It answers.
    Healthy,
    /// Some reach it, and some do not.
    Partitioned,
    /// Something is wrong, and nobody can say what yet.
    Suspect,
    /// Too few report.
    Unknown,
}

/// How a region looks from another over one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It does not answer.
    Down,
    /// Somebody answers who cannot prove who it is.
    Identity,
    /// It answers, and something is wrong.
    Suspect,
    /// Nothing is known.
    Unknown,
    /// It answers.
    Up,
}

/// What an operator says of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Intent {
    /// Its shards and its traffic go elsewhere in an orderly way.
    Drain,
    /// It is gone for good.
    Lost,
    /// Nothing follows from what is seen of it.
    Maintenance,
}

/// A region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Has it told lately that it is there, without doubting itself?
    pub answers: bool,
    /// Requests per second that it can take.
    pub capacity: u64,
    /// Do its databases answer it, as it says itself?
    pub database: bool,
    /// For how long it has been down, in milliseconds; 0 when it is not.
    pub down_ms: u64,
    /// What operators say of it.
    pub intents: BTreeSet<Intent>,
    /// Requests per second that come to it by themselves.
    pub load: u64,
    /// What is believed of it.
    pub verdict: Verdict,
    /// How long ago it was last believed to be well, in milliseconds; none when never.
    pub well_ago_ms: Option<u64>,
}

/// A replica of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// How long ago its region said all this, in milliseconds.
    pub ago_ms: u64,
    /// Bytes that it knew to be missing.
    pub behind_bytes: u64,
    /// How old what it lacks was, in milliseconds.
    pub behind_ms: u64,
    /// Rows that it knew to be missing.
    pub behind_rows: u64,
    /// Does it know the shard's present epoch to have begun?
    pub current: bool,
    /// Whose it is.
    pub region: RegionName,
    /// Rows of the log that it has.
    pub rows: u64,
    /// Does it have all rows of some moment, and not only some?
    pub whole: bool,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Regions that its residency class allows; none when it has no class.
    pub allowed: Option<BTreeSet<RegionName>>,
    /// Where it is written when all is well.
    pub home: RegionName,
    /// Bytes that an automatic promotion may lose.
    pub loss_bytes_max: u64,
    /// The same in milliseconds.
    pub loss_ms_max: u64,
    /// The same in rows.
    pub loss_rows_max: u64,
    /// Who writes it.
    pub primary: RegionName,
    /// Its replicas, the most advanced first; of equals, by name.
    pub replicas: Vec<Replica>,
    /// Is a promotion under way?
    pub running: bool,
    /// Is its primary's lease over?
    pub void: bool,
}

/// Traffic of a region that goes elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detour {
    /// How much, in percent.
    pub percent: u8,
    /// Since when it is that much, in milliseconds since 1970.
    pub since_ms: u64,
    /// Where.
    pub target: RegionName,
}

/// Something that happened to a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// To which one.
    pub region: RegionName,
}

/// The world of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Has the control store answered lately, with a majority of its voters?
    pub control: bool,
    /// The traffic plan that is, by the regions whose traffic it is.
    pub detours: BTreeMap<RegionName, Detour>,
    /// Regions from which shards were taken over automatically within a day.
    pub failures: Vec<Event>,
    /// Has an operator frozen everything?
    pub frozen: bool,
    /// What the host holds everybody to, by names of [`LIMITS`].
    pub limits: BTreeMap<&'static str, u64>,
    /// Whose picture it is.
    pub local: RegionName,
    /// When, in milliseconds since 1970.
    pub now_ms: u64,
    /// The regions.
    pub regions: BTreeMap<RegionName, Region>,
    /// Regions that were taken out of service lately.
    pub removals: Vec<Event>,
    /// The shards.
    pub shards: BTreeMap<ShardName, Shard>,
    /// How regions look: by region and vantage.
    pub sights: BTreeMap<(RegionName, RegionName), Cells>,
}

/// One thing that a policy wants. It names no epoch, no lease and no time: those are the host's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proposed {
    /// Every shard that a region writes goes elsewhere, in an orderly way.
    Drain {
        /// The region.
        region: RegionName,
    },
    /// Nothing is changed.
    Hold,
    /// A shard is written in another region.
    Promote {
        /// The shard.
        shard: ShardName,
        /// The region.
        region: RegionName,
    },
    /// Nobody writes a shard; reads go on.
    ReadOnly {
        /// The shard.
        shard: ShardName,
    },
    /// A part of a region's traffic goes to another.
    Shift {
        /// Whose traffic.
        region: RegionName,
        /// Where it goes.
        target: RegionName,
        /// How much of it, in percent.
        percent: u8,
    },
}

/// What a policy has written so far.
#[derive(Debug)]
pub struct Answers {
    /// Was more written than is read?
    flooded: bool,
    picture: Arc<Picture>,
    written: Vec<Proposed>,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Down, Self::Gray, Self::Healthy, Self::Partitioned, Self::Suspect, Self::Unknown];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Gray => "gray",
            Self::Healthy => "healthy",
            Self::Partitioned => "partitioned",
            Self::Suspect => "suspect",
            Self::Unknown => "unknown",
        }
    }

    /// As the contract numbers it. 4 is left to what `facts.verdict` calls draining: here operators' words say that.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Unknown => 0,
            Self::Healthy => 1,
            Self::Suspect => 2,
            Self::Down => 3,
            Self::Partitioned => 5,
            Self::Gray => 6,
        }
    }
}

impl Sight {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Down, Self::Identity, Self::Suspect, Self::Unknown, Self::Up];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Identity => "identity",
            Self::Suspect => "suspect",
            Self::Unknown => "unknown",
            Self::Up => "up",
        }
    }

    /// As the contract numbers it.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Unknown => 0,
            Self::Up => 1,
            Self::Suspect => 2,
            Self::Down => 3,
            Self::Identity => 4,
        }
    }
}

impl Intent {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Drain, Self::Lost, Self::Maintenance];

    /// As the contract writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Lost => "lost",
            Self::Maintenance => "maintenance",
        }
    }
}

impl Picture {
    /// The shards after a name, at most so many.
    pub fn page(&self, after: &str, max: u32) -> impl Iterator<Item = (&ShardName, &Shard)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let max = usize::try_from(max).unwrap_or(usize::MAX).min(SHARDS_PER_PAGE);
        self.shards.range::<str, _>((Excluded(after), Unbounded)).take(max)
    }

    /// May a shard be written in a region by its residency class? Not one of both that does not exist.
    #[must_use]
    pub fn allows(&self, shard: &str, region: &str) -> bool {
        let Some(shard) = self.shards.get(shard) else { return false };
        self.regions.contains_key(region)
            && shard.allowed.as_ref().is_none_or(|allowed| allowed.contains(region))
    }

    /// How a region looks from another over a path.
    #[must_use]
    pub fn sight(&self, region: &str, vantage: &str, path: &str) -> Sight {
        let known = |name| self.regions.get_key_value(name).map(|(name, _)| name.clone());
        let cells = known(region).zip(known(vantage)).and_then(|both| self.sights.get(&both));
        cells.and_then(|cells| cells.get(path)).copied().unwrap_or(Sight::Unknown)
    }

    fn region(&self, name: &str) -> Result<RegionName, Refusal> {
        let found = self.regions.get_key_value(name).map(|(name, _)| name.clone());
        found.ok_or_else(|| unknown("region", name))
    }

    fn shard(&self, name: &str) -> Result<ShardName, Refusal> {
        let found = self.shards.get_key_value(name).map(|(name, _)| name.clone());
        found.ok_or_else(|| unknown("shard", name))
    }
}

impl Answers {
    /// Nothing yet.
    #[must_use]
    pub const fn new(picture: Arc<Picture>) -> Self {
        Self { flooded: false, picture, written: Vec::new() }
    }

    /// What the policy may know.
    #[must_use]
    pub const fn picture(&self) -> &Arc<Picture> {
        &self.picture
    }

    /// Nothing is to change.
    ///
    /// # Errors
    /// [`Refusal`] for one proposal too many; this and all others write nothing then.
    pub fn hold(&mut self) -> Result<(), Refusal> {
        self.write(Proposed::Hold)
    }

    /// A part of a region's traffic is to go to another.
    ///
    /// # Errors
    /// [`Refusal`] for names that do not exist, for what is no part, and as [`Answers::hold`].
    pub fn shift(&mut self, region: &str, target: &str, percent: u32) -> Result<(), Refusal> {
        let (region, target) = (self.picture.region(region)?, self.picture.region(target)?);
        let percent = u8::try_from(percent).ok().filter(|percent| *percent <= 100);
        let Some(percent) = percent.filter(|_| region != target) else {
            let message = "a shift is 0 to 100 percent, from one region to another".to_owned();
            return Err(Refusal { code: code::VALUE, message });
        };
        self.write(Proposed::Shift { region, target, percent })
    }

    /// A region is to take a shard over.
    ///
    /// # Errors
    /// [`Refusal`] for names that do not exist, and as [`Answers::hold`].
    pub fn promote(&mut self, shard: &str, region: &str) -> Result<(), Refusal> {
        let (shard, region) = (self.picture.shard(shard)?, self.picture.region(region)?);
        self.write(Proposed::Promote { shard, region })
    }

    /// Every primary is to leave a region.
    ///
    /// # Errors
    /// As [`Answers::promote`].
    pub fn drain(&mut self, region: &str) -> Result<(), Refusal> {
        let region = self.picture.region(region)?;
        self.write(Proposed::Drain { region })
    }

    /// Nobody is to write a shard.
    ///
    /// # Errors
    /// As [`Answers::promote`].
    pub fn read_only(&mut self, shard: &str) -> Result<(), Refusal> {
        let shard = self.picture.shard(shard)?;
        self.write(Proposed::ReadOnly { shard })
    }

    /// All that was written, in its order.
    ///
    /// # Errors
    /// [`Refusal`] when it was more than is read: what was left out may have been what mattered.
    pub fn finish(self) -> Result<Vec<Proposed>, Refusal> {
        if self.flooded { Err(flood()) } else { Ok(self.written) }
    }

    fn write(&mut self, proposed: Proposed) -> Result<(), Refusal> {
        if self.written.len() >= PROPOSALS_MAX {
            self.flooded = true;
            return Err(flood());
        }
        self.written.push(proposed);
        Ok(())
    }
}

impl std::fmt::Display for Proposed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Drain { region } => write!(f, "drain {region}"),
            Self::Hold => f.write_str("hold"),
            Self::Promote { shard, region } => write!(f, "promote {shard} in {region}"),
            Self::ReadOnly { shard } => write!(f, "read-only {shard}"),
            Self::Shift { region, target, percent } => write!(f, "shift {percent} % of {region} to {target}"),
        }
    }
}

fn flood() -> Refusal {
    let message = format!("more than {PROPOSALS_MAX} proposals: none of them is taken");
    Refusal { code: code::LIMIT, message }
}

fn unknown(what: &str, name: &str) -> Refusal {
    let shown = name.chars().take(NAME_CHARACTERS_TOLD).filter(|character| !character.is_control());
    Refusal { code: code::UNKNOWN, message: format!("there is no {what} `{}`", shown.collect::<String>()) }
}

#[cfg(test)]
mod tests;
