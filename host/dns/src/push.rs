//! Plans for servers that an operator has already: updates under a condition (RFC 2136), signed with a shared key (TSIG).
//!
//! Beside each managed name stands the number of the plan that wrote it. An update requires the number that was read, and writes its
//! own in the same message, so that of two writers one wins and the other changes nothing. A writer that finds a higher number
//! stops. What is tried again is read again first, decided again, and signed anew.
//!
//! Nothing needs to be transferred: our own names are known.

pub mod cloud;
mod decide;
mod exchange;
mod keeper;
mod message;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use portolan_foundation::{clock, task};

use self::cloud::{Cloud, Provider};
use self::decide::Standing;
pub use self::keeper::{Keeper, Plans, Pushed, TargetReport};
use crate::name::Name;
use crate::plan::{Family, Plan, Regions, address};
use crate::tsig::SharedKey;

/// A server that takes updates for a zone.
#[derive(Clone, Debug)]
pub struct Target {
    clock: fn() -> u64,
    key: SharedKey,
    server: SocketAddr,
    zone: Name,
}

/// Who keeps a zone's records.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    /// A server that takes updates.
    At(SocketAddr),
    /// A provider, with the zone's id there.
    Cloud(Provider, String),
}

/// Where a plan is pushed.
#[derive(Clone, Debug)]
pub enum Destination {
    /// A provider's API.
    Cloud(Cloud),
    /// A server that takes updates.
    Server(Target),
}

/// What a name is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its addresses; never none.
    pub addresses: BTreeSet<IpAddr>,
    /// The name.
    pub name: Name,
    /// How long they may be kept, in seconds.
    pub ttl_s: u32,
}

/// What a plan wants of a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// All its names.
    pub names: Vec<Wanted>,
    /// The plan's number.
    pub number: u64,
}

/// What may be overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Whatever is there, also what has a higher number or none: an operator said so.
    Adopt,
    /// What has a lower number, what has this one and differs, and names that nobody has used.
    Newer,
}

/// What became of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was written, and read back.
    Applied,
    /// Somebody else has written it; nothing was changed. Read the newest plan and decide again.
    Overtaken(Found),
    /// It was there already.
    Present,
    /// It had this plan's number and something else beside it, and was written again.
    Repaired,
    /// It has addresses and no number, or a number that is none: `portolan dns adopt` takes it over.
    Unknown(Found),
}

/// The number that stands beside a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Texts that are no number.
    Foreign(Vec<Vec<u8>>),
    /// None.
    Nothing,
    /// A plan's.
    Number(u64),
}

/// Why a name is not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The name is an alias; addresses cannot stand beside it.
    #[error("{0} is an alias (CNAME) on {1}: remove that first, addresses cannot stand beside it")]
    Alias(Name, Server),
    /// The clocks differ.
    #[error(
        "{server} says that our clock is wrong: here it is {ours_s} s after 1970, there {}; signatures hold for five minutes, so set \
         the clock that is wrong. Nothing was changed",
        .theirs_s.map_or_else(|| "it does not say what".to_owned(), |theirs| format!("{theirs} s"))
    )]
    Clock {
        /// Ours.
        ours_s: u64,
        /// The server.
        server: Server,
        /// Theirs, as far as it says.
        theirs_s: Option<u64>,
    },
    /// The keys for a provider cannot be used.
    #[error("the credentials for {server}: {what}. Nothing was changed")]
    Credentials {
        /// The provider.
        server: Server,
        /// What is wrong.
        what: String,
    },
    /// It was written and is not there.
    #[error(
        "{server} took the update of {name} and answers something else: {found}. Does another program write it, or does the server answer from elsewhere?"
    )]
    Differs {
        /// What it answers.
        found: String,
        /// The name.
        name: Name,
        /// The server.
        server: Server,
    },
    /// The server knows the key by another secret, or not at all.
    #[error(
        "{server} does not take the key {key}: give both sides the same name, algorithm and secret. Nothing was changed"
    )]
    Key {
        /// The key's name.
        key: Name,
        /// The server.
        server: Server,
    },
    /// The server does not do it.
    #[error("{server} refuses the update of {zone} ({what}). Nothing was changed: {advice}")]
    Refused {
        /// What to do.
        advice: &'static str,
        /// The server.
        server: Server,
        /// What it says.
        what: String,
        /// The zone.
        zone: Name,
    },
    /// It did not work out, and may the next time.
    #[error("{server}: {what}. It is tried again with the next pass")]
    Unreachable {
        /// The server.
        server: Server,
        /// What happened.
        what: String,
    },
}

impl Failure {
    /// Is it of use to try again, without a human?
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// What became of each name.
pub type Outcomes = BTreeMap<Name, Result<Outcome, Failure>>;

impl Change {
    /// What a plan wants of one of its zones: each name's addresses in the regions that answer now. `None` when the zone is not the
    /// plan's.
    #[must_use]
    pub fn of(plan: &Plan, zone: &Name, suspected: Regions, now_ms: u64) -> Option<Self> {
        let index = plan.zone(zone.wire())?;
        let of_zone = plan.managed.iter().filter(|managed| managed.zone == index);
        let wanted = |managed: &crate::plan::Managed| {
            let of = |family| managed.present(family).filter_map(address).collect::<Vec<_>>();
            let addresses = of(Family::V4).into_iter().chain(of(Family::V6)).collect();
            Wanted { addresses, name: managed.name.clone(), ttl_s: managed.ttl_s(plan, suspected, now_ms) }
        };
        Some(Self { names: of_zone.map(wanted).collect(), number: plan.number() })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Cloud(provider, id) => write!(f, "{}/{id}", provider.as_str()),
        }
    }
}

impl From<Cloud> for Destination {
    fn from(cloud: Cloud) -> Self {
        Self::Cloud(cloud)
    }
}

impl From<Target> for Destination {
    fn from(target: Target) -> Self {
        Self::Server(target)
    }
}

impl Destination {
    /// Does it compare the plan's number in the change itself, so that who is late changes nothing? What does not is weaker, whatever else guards it.
    #[must_use]
    pub const fn is_guarded(&self) -> bool {
        matches!(self, Self::Server(_))
    }

    /// Writes what is wanted where nobody with a higher number has, and reads it back. To do so again repairs what somebody changed by hand, as long as
    /// the number is this plan's.
    pub async fn push(&self, change: &Change, mode: Mode) -> Outcomes {
        match self {
            Self::Cloud(cloud) => cloud.push(change, mode).await,
            Self::Server(target) => target.push(change, mode).await,
        }
    }

    /// Who keeps the records.
    #[must_use]
    pub fn server(&self) -> Server {
        match self {
            Self::Cloud(cloud) => cloud.server(),
            Self::Server(target) => Server::At(target.server),
        }
    }

    /// The zone.
    #[must_use]
    pub const fn zone(&self) -> &Name {
        match self {
            Self::Cloud(cloud) => cloud.zone(),
            Self::Server(target) => target.zone(),
        }
    }
}

impl Target {
    /// A server that takes updates for a zone, signed with a key.
    #[must_use]
    pub fn new(server: SocketAddr, zone: Name, key: SharedKey) -> Self {
        Self { clock: || clock::unix_ms() / 1_000, key, server, zone }
    }

    /// The server.
    #[must_use]
    pub const fn server(&self) -> SocketAddr {
        self.server
    }

    /// The zone.
    #[must_use]
    pub const fn zone(&self) -> &Name {
        &self.zone
    }

    /// Writes what is wanted, under the condition that nobody else has written since it was read, and reads it back. To do so again
    /// repairs what somebody changed by hand, as long as the number is this plan's.
    pub async fn push(&self, change: &Change, mode: Mode) -> Outcomes {
        writer::push(self, change, mode).await
    }
}

/// What became of a name that was written, by what stands there now.
fn read_back(
    server: &Server,
    (wanted, number): (&Wanted, u64),
    outcome: &Outcome,
    standing: &Standing,
) -> Result<Outcome, Failure> {
    match &standing.found {
        Found::Number(at) if *at == number && standing.addresses == wanted.addresses => Ok(outcome.clone()),
        Found::Number(at) if *at > number => Ok(Outcome::Overtaken(standing.found.clone())),
        found => Err(Failure::Differs {
            found: format!("{found:?} and {:?}", standing.addresses),
            name: wanted.name.clone(),
            server: server.clone(),
        }),
    }
}

/// Pushes to several servers at once: each has numbers of its own, and a dead one holds up nobody.
pub async fn everywhere(targets: &[Target], change: &Change, mode: Mode) -> Vec<(SocketAddr, Outcomes)> {
    let one = |target: &Target| {
        let (target, change) = (target.clone(), change.clone());
        let server = target.server;
        let pushing = task::spawn("push a DNS plan", async move { target.push(&change, mode).await });
        (server, pushing)
    };
    let started: Vec<_> = targets.iter().map(one).collect();
    let mut all = Vec::with_capacity(started.len());
    for (server, pushing) in started {
        // A panic was told by the task itself; its names have no outcome.
        all.push((server, pushing.await.ok().flatten().unwrap_or_default()));
    }
    all
}

#[cfg(test)]
mod tests;
