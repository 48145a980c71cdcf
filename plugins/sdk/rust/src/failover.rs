//! Failover policies: what to do when regions fail.

use serde::de::DeserializeOwned;

use crate::draft::Refusal;
use crate::failing_host as host;

/// A policy that says what to do when regions fail. Must be pure: nothing but its arguments may matter.
///
/// Whatever it says, the gateway holds to its own rules: one writer, no take-over before a lease is over, the most advanced replica
/// within the allowed loss, residency, a bounded rate, operators' words, and no more traffic than fits.
pub trait Failover {
    /// Its configuration, read from the slot's JSON object.
    type Config: DeserializeOwned;

    /// Writes what is to be done; nothing when all is to stay as it is.
    ///
    /// # Errors
    /// A refusal is no answer: the last one holds, and is shown to the operator.
    fn propose(config: Self::Config, regions: &Regions, answers: &mut Answers) -> Result<(), Refusal>;
}

/// Regions, shards, the traffic plan and operators' words: one picture for the whole of a call, read once. Names that do not exist have
/// nothing.
#[derive(Clone, Debug)]
pub struct Regions {
    detours: Vec<Detour>,
    headroom_percent: u64,
    local: String,
    now_ms: u64,
    outage_ms: u64,
    regions: Vec<Region>,
}

/// What is to be done. Every call is checked; a refused one changes nothing.
#[derive(Debug)]
pub struct Answers(pub(crate) ());

/// What is believed of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
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
    /// Too few report, or this version of the gateway knows more than the policy.
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

/// A region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its name.
    pub name: String,
    /// What is believed of it.
    pub health: Health,
    /// Has it told lately that it is there, without doubting itself?
    pub answers: bool,
    /// Do its databases answer it, as it says itself?
    pub database: bool,
    /// For how long it has been down, in milliseconds.
    pub down_ms: u64,
    /// How long ago it was last well, in milliseconds; `None` when never.
    pub well_ago_ms: Option<u64>,
    /// Requests per second that it can take.
    pub capacity: u64,
    /// Requests per second that come to it by themselves.
    pub load: u64,
    /// Is it being drained?
    pub is_drained: bool,
    /// Is it lost for good, as an operator said?
    pub is_lost: bool,
    /// Is it worked at?
    pub is_maintained: bool,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its name.
    pub name: String,
    /// The region that writes it.
    pub primary: String,
    /// The region that writes it when all is well.
    pub home: String,
    /// Is its primary's lease over?
    pub void: bool,
    /// Is a promotion under way?
    pub running: bool,
    /// Rows that a promotion may lose.
    pub loss_rows_max: u64,
    /// The same in bytes.
    pub loss_bytes_max: u64,
    /// The same in milliseconds.
    pub loss_ms_max: u64,
}

/// A replica of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Whose it is.
    pub region: String,
    /// Does it have all rows of some moment?
    pub whole: bool,
    /// Does it know the present epoch?
    pub current: bool,
    /// Rows of the log that it has.
    pub rows: u64,
    /// Rows that it lacks.
    pub behind_rows: u64,
    /// The same in bytes.
    pub behind_bytes: u64,
    /// How old what it lacks was, in milliseconds.
    pub behind_ms: u64,
    /// How long ago it said so, in milliseconds.
    pub ago_ms: u64,
}

/// Traffic of a region that goes elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detour {
    /// Whose traffic.
    pub region: String,
    /// Where it goes.
    pub target: String,
    /// How much of it.
    pub percent: u32,
    /// Since when it is that much, in milliseconds since 1970.
    pub since_ms: u64,
}

/// Something that happened to a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// To which one.
    pub region: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

impl Health {
    /// By its number in the contract.
    #[must_use]
    pub const fn of(number: u32) -> Self {
        match number {
            1 => Self::Healthy,
            2 => Self::Suspect,
            3 => Self::Down,
            5 => Self::Partitioned,
            6 => Self::Gray,
            _ => Self::Unknown,
        }
    }
}

impl Sight {
    /// By its number in the contract.
    #[must_use]
    pub const fn of(number: u32) -> Self {
        match number {
            1 => Self::Up,
            2 => Self::Suspect,
            3 => Self::Down,
            4 => Self::Identity,
            _ => Self::Unknown,
        }
    }
}

impl Regions {
    pub(crate) fn read() -> Self {
        Self {
            detours: host::detours(),
            headroom_percent: host::limit("headroom-percent").unwrap_or(100),
            local: host::local_region(),
            now_ms: host::now_ms(),
            outage_ms: host::limit("outage-ms").unwrap_or(u64::MAX),
            regions: host::regions(),
        }
    }

    /// When it is, in milliseconds since 1970.
    #[must_use]
    pub const fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// The region of the node that asks.
    #[must_use]
    pub fn local(&self) -> &str {
        &self.local
    }

    /// Has the control store answered lately?
    #[must_use]
    pub fn control(&self) -> bool {
        host::control()
    }

    /// Has an operator frozen everything?
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        host::frozen()
    }

    /// All regions, in the order of their names.
    #[must_use]
    pub fn all(&self) -> &[Region] {
        &self.regions
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Region> {
        self.regions.iter().find(|region| region.name == name)
    }

    /// How a region looks from another over a path: `control`, `database`, `ingress`, `peer` or `replication`.
    #[must_use]
    pub fn evidence(&self, region: &str, vantage: &str, path: &str) -> Sight {
        Sight::of(host::evidence(region, vantage, path))
    }

    /// All shards, in the order of their names.
    pub fn shards(&self) -> impl Iterator<Item = Shard> {
        let mut page: std::vec::IntoIter<Shard> = host::shards("", u32::MAX).into_iter();
        let mut last = String::new();
        std::iter::from_fn(move || {
            if page.len() == 0 && !last.is_empty() {
                page = host::shards(&last, u32::MAX).into_iter();
            }
            let next = page.next()?;
            last.clone_from(&next.name);
            Some(next)
        })
    }

    /// The replicas of a shard, the most advanced first; of equals, by region.
    #[must_use]
    pub fn replicas(&self, shard: &str) -> Vec<Replica> {
        host::replicas(shard)
    }

    /// May a shard be written in a region by its residency class?
    #[must_use]
    pub fn allows(&self, shard: &str, region: &str) -> bool {
        host::allows(shard, region)
    }

    /// Where a region's traffic goes by the present plan, when it does not stay.
    #[must_use]
    pub fn detour(&self, region: &str) -> Option<&Detour> {
        self.detours.iter().find(|detour| detour.region == region)
    }

    /// The present traffic plan.
    #[must_use]
    pub fn detours(&self) -> &[Detour] {
        &self.detours
    }

    /// Regions from which shards were taken over within a day.
    #[must_use]
    pub fn failures(&self) -> Vec<Event> {
        host::failures()
    }

    /// Regions that were taken out of service lately.
    #[must_use]
    pub fn removals(&self) -> Vec<Event> {
        host::removals()
    }

    /// What the gateway holds everybody to, by its name in the contract.
    #[must_use]
    pub fn limit(&self, name: &str) -> Option<u64> {
        host::limit(name)
    }

    /// Is a region gone: down for long enough, or declared lost? Not while somebody works at it.
    #[must_use]
    pub fn is_gone(&self, region: &str) -> bool {
        self.get(region).is_some_and(|there| {
            let down = there.health == Health::Down && there.down_ms >= self.outage_ms;
            there.is_lost || down && !there.is_maintained
        })
    }

    /// Is a region there, and fit to take something over?
    #[must_use]
    pub fn is_fit(&self, region: &str) -> bool {
        self.get(region).is_some_and(|there| {
            let busy = there.is_drained || there.is_maintained || there.is_lost;
            let ill = matches!(there.health, Health::Down | Health::Gray | Health::Partitioned);
            there.answers && !busy && !ill
        })
    }

    /// The region that would take a shard over: that of the most advanced replica, if no more is missing there than may be lost.
    #[must_use]
    pub fn candidate(&self, shard: &Shard) -> Option<String> {
        let eligible = |replica: &Replica| {
            replica.region != shard.primary
                && replica.whole
                && replica.current
                && self.is_fit(&replica.region)
                && self.allows(&shard.name, &replica.region)
        };
        let first = self.replicas(&shard.name).into_iter().find(eligible)?;
        let within = first.behind_rows <= shard.loss_rows_max
            && first.behind_bytes <= shard.loss_bytes_max
            && first.behind_ms <= shard.loss_ms_max;
        within.then_some(first.region)
    }

    /// Requests per second that a region could take beside what it has and what others send it.
    #[must_use]
    pub fn spare(&self, region: &str) -> u64 {
        let Some(there) = self.get(region) else { return 0 };
        let usable = there.capacity.saturating_mul(self.headroom_percent) / 100;
        let shifted = self.detours.iter().filter(|detour| detour.target == region);
        let extra =
            shifted.map(|detour| self.load_part(&detour.region, detour.percent)).fold(0, u64::saturating_add);
        usable.saturating_sub(there.load).saturating_sub(extra)
    }

    /// A part of what comes to a region by itself.
    #[must_use]
    pub fn load_part(&self, region: &str, percent: u32) -> u64 {
        let load = self.get(region).map_or(0, |there| there.load);
        load.saturating_mul(u64::from(percent)) / 100
    }

    /// Where traffic of a region could go: where it goes already, as long as that region is fit, else to whoever has most room.
    #[must_use]
    pub fn roomiest(&self, not: &str) -> Option<String> {
        let held = self.detour(not).map(|detour| detour.target.clone()).filter(|to| self.is_fit(to));
        let fit = self.regions.iter().filter(|region| region.name != not && self.is_fit(&region.name));
        held.or_else(|| fit.max_by_key(|region| self.spare(&region.name)).map(|region| region.name.clone()))
    }
}

impl Answers {
    /// Changes nothing: traffic that goes elsewhere stays there.
    ///
    /// # Errors
    /// When it is one proposal too many (code 1), as all of them.
    pub fn hold(&mut self) -> Result<(), Refusal> {
        host::hold()
    }

    /// Lets so much of a region's traffic go to another.
    ///
    /// # Errors
    /// When a name does not exist, or it is no part.
    pub fn shift(&mut self, region: &str, target: &str, percent: u32) -> Result<(), Refusal> {
        host::shift(region, target, percent)
    }

    /// Lets a region take a shard over.
    ///
    /// # Errors
    /// When a name does not exist.
    pub fn promote(&mut self, shard: &str, region: &str) -> Result<(), Refusal> {
        host::promote(shard, region)
    }

    /// Moves every primary out of a region in an orderly way.
    ///
    /// # Errors
    /// When the region does not exist.
    pub fn drain(&mut self, region: &str) -> Result<(), Refusal> {
        host::drain(region)
    }

    /// Stops writes to a shard.
    ///
    /// # Errors
    /// When the shard does not exist.
    pub fn read_only(&mut self, shard: &str) -> Result<(), Refusal> {
        host::read_only(shard)
    }

    /// Promotes the most advanced replica of each shard whose region is gone or whose lease is over, and of those whose primary `also`
    /// leaves. What no region can take over is read only, unless only `also` wants it moved.
    ///
    /// # Errors
    /// As [`Answers::promote`].
    pub fn move_on(&mut self, regions: &Regions, also: impl Fn(&Region) -> bool) -> Result<(), Refusal> {
        let gone: Vec<&str> = names(regions, |region| regions.is_gone(&region.name));
        let left: Vec<&str> = names(regions, also);
        for shard in regions.shards().filter(|shard| !shard.running) {
            let primary = shard.primary.as_str();
            let gone = shard.void || gone.contains(&primary);
            if !gone && !left.contains(&primary) {
                continue;
            }
            match regions.candidate(&shard) {
                Some(region) => self.promote(&shard.name, &region)?,
                None if gone => self.read_only(&shard.name)?,
                None => {}
            }
        }
        Ok(())
    }

    /// Sends traffic of each region that is gone or drained to where there is most room, as much of it as `percent` says.
    ///
    /// # Errors
    /// As [`Answers::shift`].
    pub fn lead_away(
        &mut self,
        regions: &Regions,
        percent: impl Fn(&str, &str) -> u32,
    ) -> Result<(), Refusal> {
        let leave = |region: &&Region| region.is_drained || regions.is_gone(&region.name);
        for region in regions.all().iter().filter(leave) {
            if let Some(target) = regions.roomiest(&region.name) {
                self.shift(&region.name, &target, percent(&region.name, &target))?;
            }
        }
        Ok(())
    }
}

fn names(regions: &Regions, wanted: impl Fn(&Region) -> bool) -> Vec<&str> {
    regions.all().iter().filter(|region| wanted(region)).map(|region| region.name.as_str()).collect()
}

/// What `export!` calls.
#[doc(hidden)]
pub mod glue {
    use super::{Answers, Failover, Refusal, Regions};

    /// Reads the configuration and proposes.
    ///
    /// # Errors
    /// Those of the policy, and a configuration that does not read.
    pub fn propose<P: Failover>(text: &str) -> Result<(), Refusal> {
        let config = serde_json::from_str(text)
            .map_err(|error| Refusal::value(format!("the configuration does not fit: {error}")))?;
        P::propose(config, &Regions::read(), &mut Answers(()))
    }
}
