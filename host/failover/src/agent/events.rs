//! What a node is told, what it is to do, and what it is made with.

use std::collections::{BTreeMap, BTreeSet};

use portolan_core::ids::{Digest, RegionName, ShardName};
use portolan_core::log::{Epoch, Position};
use portolan_core::time::Moment;
use serde::{Deserialize, Serialize};

use crate::counter::Outcome;
use crate::evidence::Bundle;
use crate::intent::Intents;
use crate::lease::{Incarnation, Round};
use crate::matrix::{Path, Report};
use crate::members::Members;
use crate::picture::{MaxLoss, Picture, Shift};
use crate::policies::Fault;
use crate::promotion::{Done, Work};
use crate::proposal::Proposal;
use crate::store::{Answer, Request};
use crate::timers::Timers;

/// The time of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// On a monotonic clock that goes on while the machine is suspended (`CLOCK_BOOTTIME`): permission to write is counted on it.
    pub moment: Moment,
    /// Milliseconds since 1970, for records that people read, and for rates.
    pub unix_ms: u64,
}

/// A shard, as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The epoch in which it was written before regions had leases, and where: that region begins with it, and no other.
    pub begun: (Epoch, RegionName),
    /// Do the numbers of its log count rows? Where a transaction that was taken back leaves a gap, they are no less than rows, and nothing is known to be
    /// lost by them.
    pub exact: bool,
    /// Where it is written when all is well.
    pub home: RegionName,
    /// Regions that keep it.
    pub regions: BTreeSet<RegionName>,
    /// Regions that its residency class allows.
    pub allowed: Option<BTreeSet<RegionName>>,
    /// How much of it may be lost.
    pub max_loss: MaxLoss,
}

/// What a region can take, and what comes to it by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Requests per second.
    pub capacity: u64,
    /// The same.
    pub load: u64,
}

/// Everything that is configured.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The regions.
    pub members: Members,
    /// This one.
    pub own: RegionName,
    /// Rises with each start of the node.
    pub boot: u32,
    /// The times, which have been checked.
    pub timers: Timers,
    /// The shards.
    pub shards: BTreeMap<ShardName, Shard>,
    /// What regions can take.
    pub capacities: BTreeMap<RegionName, Capacity>,
    /// May shards go home by themselves?
    pub failback: bool,
    /// The policy's name.
    pub policy: String,
    /// The SHA-256 of its component; none for a built-in one.
    pub version: Option<Digest>,
}

/// What a region says of its copy of a shard, beside its report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// The shard.
    pub shard: ShardName,
    /// The last epoch that it knows to have begun.
    pub epoch: Epoch,
    /// How far it has come.
    pub position: Position,
    /// Rows of the log that it has.
    pub rows: u64,
    /// Rows that it knows the primary to have.
    pub head_rows: u64,
    /// Bytes that it knows to lack.
    pub behind_bytes: u64,
    /// How old what it lacked was when it last heard of the primary, in milliseconds.
    pub behind_ms: u64,
    /// How long ago that was, in milliseconds: what has been written since, it does not know.
    pub silent_ms: u64,
    /// Does it have all rows of some moment?
    pub whole: bool,
    /// The region that writes the shard, with how long ago whoever says this last believed it to be well, in milliseconds: who has just started
    /// has seen nothing of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub well: Option<(RegionName, u64)>,
}

/// What happens to a node.
#[derive(Clone, Debug)]
pub enum Event {
    /// A region asks for acknowledgement while the store is away.
    AskedToAcknowledge {
        /// Which one.
        region: RegionName,
        /// Its incarnation.
        incarnation: Incarnation,
        /// The number of its asking.
        number: u64,
    },
    /// A region has answered to that.
    Acknowledged {
        /// Which one.
        region: RegionName,
        /// The number of the asking.
        number: u64,
        /// Does it?
        yes: bool,
    },
    /// Entries of the control store may have changed.
    Changed,
    /// A report of another region has come, with its words.
    Heard(Box<Report>, Vec<Word>),
    /// What operators say now.
    Intents(Intents),
    /// The policy has answered, to this picture.
    Planned(Box<Picture>, Result<(Vec<Proposal>, u64), Fault>),
    /// A probe has ended.
    Probed(RegionName, Path, Outcome),
    /// The control store has answered.
    Stored(u64, Answer),
    /// Requests fail, or a lag grows.
    Suspected(RegionName, Path),
    /// Time has passed.
    Tick,
    /// What this region's own copy is like.
    Word(Word),
    /// A step of a promotion was done.
    Worked(ShardName, u64, Done),
}

/// What a node is to do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Answer a region that asks for acknowledgement.
    Acknowledge {
        /// Which one.
        region: RegionName,
        /// The number of its asking.
        number: u64,
        /// Is it acknowledged?
        yes: bool,
    },
    /// Ask all regions for acknowledgement.
    AskAll(Round),
    /// Keep the bundle.
    Evidence(Box<Bundle>),
    /// Ask the policy.
    Plan(Box<Picture>),
    /// Nobody is to write these shards; all others may be.
    ReadOnly(BTreeSet<ShardName>),
    /// Send the report to all other regions, with the words.
    Send(Box<Report>, Vec<Word>),
    /// Ask the control store.
    Store(u64, Request),
    /// Send traffic so.
    Traffic(BTreeMap<RegionName, Shift>),
    /// Do a step of a promotion, again if it was done already.
    Work(ShardName, u64, Work),
}
