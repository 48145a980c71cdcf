//! A region's gateway: it answers who follows its database, follows those of others, and keeps the lease. It is begun anew after each crash.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portolan_changelog::{Gathered, Lease};
use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::Epoch;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::{clock, task};
use turmoil::net::{TcpListener, TcpStream};

use super::Variant;
use super::control::{LEASE_US, Meant};
use super::ends::Store;
use super::world::Promotion;
use crate::credit::Credit;
use crate::defaults::CONNECT_TIMEOUT;
use crate::follower::{Connect, Feed};
use crate::link::{self, Broken, Ear, Mouth};
use crate::report::Cell;
use crate::seal::gather;
use crate::source;
use crate::wall::NoWall;
use crate::wire::{Refused, What};
use crate::words::Silent;

const PORT: u16 = 7000;
/// From one look at what is meant to the next.
const LOOK: Duration = Duration::from_millis(250);
/// How much earlier than it is told to a database closes, in microseconds.
const MARGIN_US: u64 = 200_000;

/// How a region's feeds stand, by their sources.
pub(super) type Cells = Arc<Mutex<BTreeMap<RegionName, Arc<Cell>>>>;

/// A region, as it is while its gateway is down as well.
#[derive(Clone, Debug)]
pub(super) struct Region {
    pub(super) cells: Cells,
    pub(super) name: RegionName,
    pub(super) others: Vec<RegionName>,
    pub(super) store: Store,
}

/// A way to another region.
#[derive(Clone, Debug)]
struct Way(RegionName);

impl Connect for Way {
    async fn connect(&self) -> Result<(Mouth, Ear), Broken> {
        let reached = tokio::time::timeout(CONNECT_TIMEOUT, async {
            let stream = TcpStream::connect((self.0.as_str(), PORT)).await;
            link::open(stream.map_err(|error| Broken::Gone(error.to_string()))?).await
        });
        reached.await.unwrap_or_else(|_| Err(Broken::Gone("no answer".to_owned())))
    }
}

pub(super) fn shard() -> ShardName {
    ShardName::new("s1").unwrap()
}

struct Running {
    end: Shutdown,
    leads: bool,
    primary: Option<Epoch>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end.begin();
    }
}

impl Region {
    /// Runs until it crashes.
    pub(super) async fn run(self) -> turmoil::Result {
        self.cells.lock().unwrap().clear();
        let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT)).await?;
        let region = self.clone();
        task::spawn("feeds", async move { region.follow().await });
        let region = self.clone();
        task::spawn("lease", async move { region.keep().await });
        loop {
            let (stream, address) = listener.accept().await?;
            let follower = turmoil::reverse_lookup(address.ip()).unwrap_or_default();
            let Ok(follower) = RegionName::new(&follower) else { continue };
            let region = self.clone();
            task::spawn("listener", async move {
                let words = (follower.clone(), Arc::new(Silent) as _);
                let answer = move |mouth, ear| region.clone().give(follower.clone(), mouth, ear);
                link::answer(stream, words, &Shutdown::new(), answer).await;
            });
        }
    }

    fn meant(&self) -> Option<Meant> {
        self.store.shared.control.lock().unwrap().seen(&self.name)
    }

    async fn give(self, follower: RegionName, mouth: Mouth, mut ear: Ear) {
        let Ok(ask) = source::asked(&mut ear).await else { return };
        let done = match self.gives(&follower, &ask.what) {
            Ok(()) => source::serve(&self.store, &NoWall, &follower, ask, &mouth, &mut ear).await,
            Err(why) => source::refuse(&mouth, why).await,
        };
        if let Err(error) = done {
            self.store.shared.trace(|| format!("{}: the link of `{follower}` ended: {error}", self.name));
        }
    }

    /// What a gateway gives to whom, as its configuration has it.
    fn gives(&self, follower: &RegionName, what: &What) -> Result<(), Refused> {
        let meant = self.meant().ok_or_else(|| Refused::Away("nothing is known here yet".to_owned()))?;
        match what {
            What::Rows { .. } | What::Named(_) | What::Compare(_) => {
                let (fence, now_us) = (self.store.with(|database| database.fence), self.store.now_us());
                if meant.primary == self.name && fence.check(meant.epoch, now_us).is_ok() {
                    return Ok(());
                }
                Err(Refused::Away("this node has no lease now".to_owned()))
            }
            What::Seal(epoch)
                if meant.epoch > *epoch || meant.epoch == *epoch && meant.primary != *follower =>
            {
                Err(Refused::Forbidden(format!("epoch {} is of `{}`", meant.epoch, meant.primary)))
            }
            What::Seal(_) | What::Log { .. } | What::Tail { .. } | What::Report => Ok(()),
        }
    }

    /// Follows what is to be followed.
    async fn follow(&self) {
        let fit = Arc::new(AtomicBool::new(false));
        let mut running: BTreeMap<RegionName, Running> = BTreeMap::new();
        loop {
            if let Some(meant) = self.meant() {
                let leads = meant.primary == self.name;
                for source in &self.others {
                    let primary = (meant.primary == *source).then_some(meant.epoch);
                    if running
                        .get(source)
                        .is_some_and(|there| there.primary == primary && there.leads == leads)
                    {
                        continue;
                    }
                    let cell = Arc::new(Cell::new(shard(), source.clone(), primary.is_some()));
                    self.cells.lock().unwrap().insert(source.clone(), Arc::clone(&cell));
                    let end = Shutdown::new();
                    let feed = Feed {
                        cell,
                        connect: Way(source.clone()),
                        credit: Credit::new(None),
                        fit: Arc::clone(&fit),
                        keeps: self.others.len() > 1,
                        leads,
                        primary,
                        region: self.name.clone(),
                        replica: self.store.clone(),
                        shard: shard(),
                        source: source.clone(),
                        wall: Arc::new(NoWall),
                    };
                    task::spawn("follower", feed.run(end.clone()));
                    running.insert(source.clone(), Running { end, leads, primary });
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Keeps the lease, and begins epochs that are given to this region.
    async fn keep(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(mut meant) = self.meant() else { continue };
            let (fence, cut) = self.store.with(|database| (database.fence, database.cut));
            if meant.primary != self.name {
                if fence.deadline_us > 0 && fence.epoch < meant.epoch {
                    self.store.with(|database| database.demote());
                }
                continue;
            }
            if cut.is_some_and(|at| meant.epoch <= at) {
                self.store.shared.control.lock().unwrap().rise(&self.name);
                let Some(risen) = self.meant() else { continue };
                meant = risen;
            }
            if fence.epoch < meant.epoch {
                self.begin(meant.epoch, meant.partial).await;
            } else if let Some(deadline_us) = self.renew(meant.epoch)
                && cut.is_none()
            {
                self.store.with(|database| {
                    if let Ok(fence) = database.fence.extend(meant.epoch, deadline_us) {
                        database.fence = fence;
                    }
                });
            }
        }
    }

    /// Until when the database may be written, by its own clock.
    fn renew(&self, epoch: Epoch) -> Option<u64> {
        let (asked_us, now_us) = (self.store.now_us(), clock::now().0);
        let renewed = self.store.shared.control.lock().unwrap().renew(&self.name, epoch, now_us);
        renewed.then_some(asked_us + LEASE_US - MARGIN_US)
    }

    async fn begin(&self, epoch: Epoch, partial: bool) {
        let ways = self.others.iter().map(|other| (other.clone(), Way(other.clone()))).collect();
        let gathered = match self.store.shared.variant {
            Variant::NoSeal => Ok(Gathered::default()),
            _ => gather(&shard(), epoch, (&self.store, &|_| None), ways).await,
        };
        let gathered = match gathered {
            Ok(gathered) => gathered,
            Err(error) => {
                self.store.shared.trace(|| format!("{}: epoch {epoch} is not gathered: {error}", self.name));
                return;
            }
        };
        let Some(deadline_us) = self.renew(epoch) else { return };
        if partial {
            self.store.with(|database| database.take_as_whole());
        }
        let begun = self.store.with(|database| database.begin_epoch(epoch, deadline_us));
        let why = begun.as_ref().err().map(ToString::to_string);
        self.store.shared.trace(|| format!("{}: begins epoch {epoch}: {why:?} {gathered:?}", self.name));
        if begun.is_ok() {
            let whole = !partial && gathered.missing.is_empty() && gathered.left.is_empty();
            self.store.shared.promoted(Promotion { epoch, region: self.name.clone(), whole }, &self.store);
        }
    }
}

/// A lease as a client's gateway holds it: what it says after a commit.
pub(super) fn lease(epoch: Epoch, until_us: u64) -> Lease {
    Lease { epoch, until: portolan_core::time::Moment(until_us) }
}
