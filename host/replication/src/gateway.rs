//! The feeds of a node: those that it follows, and those that it is asked for by others.

use std::collections::BTreeMap;
use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use portolan_changelog::Store;
use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::Epoch;
use portolan_core::pace::Pace;
use portolan_core::time::Moment;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::tls::{PeerIdentity, peer_region};
use portolan_foundation::{clock, random, task};
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::audit;
use crate::credit::{Credit, Lane, Shared};
use crate::defaults::{CONNECT_TIMEOUT, LINKS_MAX, ROWS_PART};
use crate::follower::{Connect, Feed};
use crate::link::{self, Broken, Ear, Mouth};
use crate::report::{Cell, FeedReport};
use crate::source;
use crate::sweeping;
use crate::wall::Wall;
use crate::wire::{Ask, Refused, What};
use crate::words::{Answers, Asker};

/// Which logs this node gives to whom.
pub trait Sources: Wall {
    /// The database of a shard, for what a follower in a region asks for. Rows are the primary's to give.
    ///
    /// # Errors
    /// When that region may not have it, or this one cannot give it now.
    fn source(&self, shard: &str, follower: &RegionName, what: &What) -> Result<Store, Refused>;
}

/// A feed that is to be followed.
#[derive(Clone, Debug)]
pub struct Followed {
    /// Where the source's gateways are, `host:port`.
    pub addresses: Vec<String>,
    /// What comes is kept for other copies.
    pub keeps: bool,
    /// This region is the shard's primary.
    pub leads: bool,
    /// The source is the shard's primary, in this epoch.
    pub primary: Option<Epoch>,
    /// Bytes of the source's that this node takes in a second, of all shards together.
    pub rate: Option<NonZeroU64>,
    /// The copy.
    pub store: Store,
    /// The shard's part of that rate.
    pub weight: NonZeroU32,
}

/// The feeds that a node follows. Clones share them.
#[derive(Clone, Debug)]
pub struct Feeds(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    identity: PeerIdentity,
    /// By the sources' regions.
    paces: Mutex<BTreeMap<RegionName, Shared>>,
    region: RegionName,
    running: Mutex<BTreeMap<(ShardName, RegionName), Running>>,
    shutdown: Shutdown,
    wall: Arc<dyn Wall>,
}

#[derive(Debug)]
struct Running {
    addresses: Vec<String>,
    cell: Arc<Cell>,
    end: Shutdown,
    fit: Arc<AtomicBool>,
    keeps: bool,
    leads: bool,
    primary: Option<Epoch>,
    rate: Option<NonZeroU64>,
    store: Store,
    weight: NonZeroU32,
}

impl Running {
    fn is(&self, feed: &Followed) -> bool {
        self.primary == feed.primary
            && self.leads == feed.leads
            && self.keeps == feed.keeps
            && self.addresses == feed.addresses
            && (self.rate, self.weight) == (feed.rate, feed.weight)
            && self.store.is(&feed.store)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end.begin();
    }
}

impl Feeds {
    /// No feeds yet, into a region.
    #[must_use]
    pub fn new(identity: PeerIdentity, region: RegionName, wall: Arc<dyn Wall>, shutdown: Shutdown) -> Self {
        let (paces, running) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { identity, paces, region, running, shutdown, wall }))
    }

    /// From now on these are followed, and no others. Feeds that stay as they are go on.
    pub fn follow(&self, feeds: BTreeMap<(ShardName, RegionName), Followed>) {
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|name, there| feeds.get(name).is_some_and(|feed| there.is(feed)));
        for (name, feed) in feeds {
            if running.contains_key(&name) {
                continue;
            }
            let beside = running.iter().find(|((shard, _), _)| *shard == name.0);
            let fit = beside.map_or_else(Arc::default, |(_, running)| Arc::clone(&running.fit));
            let begun = self.begin(name.clone(), feed, fit);
            running.insert(name, begun);
        }
    }

    /// The gateways of a region.
    #[must_use]
    pub fn gateways(&self, region: &RegionName, addresses: Vec<String>) -> Gateways {
        Gateways::new(self.0.identity.clone(), region.clone(), addresses)
    }

    fn begin(
        &self,
        (shard, source): (ShardName, RegionName),
        feed: Followed,
        fit: Arc<AtomicBool>,
    ) -> Running {
        let Followed { addresses, keeps, leads, primary, rate, store, weight } = feed;
        let cell = Arc::new(Cell::new(shard.clone(), source.clone(), primary.is_some()));
        let end = self.0.shutdown.child();
        let connect = self.gateways(&source, addresses.clone());
        let feed = Feed {
            cell: Arc::clone(&cell),
            connect,
            credit: Credit::new(rate.map(|rate| (self.pace(&source, rate), weight))),
            fit: Arc::clone(&fit),
            keeps,
            leads,
            primary,
            region: self.0.region.clone(),
            replica: store.clone(),
            shard,
            source,
            wall: Arc::clone(&self.0.wall),
        };
        task::spawn("replication-follower", feed.run(end.clone()));
        Running { addresses, cell, end, fit, keeps, leads, primary, rate, store, weight }
    }

    /// A lane for something else that comes from a region, beside the feeds of a shard.
    #[must_use]
    pub fn lane(&self, source: &RegionName, rate: Option<NonZeroU64>, weight: NonZeroU32) -> Lane {
        Credit::new(rate.map(|rate| (self.pace(source, rate), weight))).lane(ROWS_PART)
    }

    /// What the feeds of a source share.
    fn pace(&self, source: &RegionName, rate: NonZeroU64) -> Shared {
        let mut paces = self.0.paces.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |pace: &&Shared| pace.lock().unwrap_or_else(PoisonError::into_inner).rate() == rate;
        if let Some(pace) = paces.get(source).filter(same) {
            return Arc::clone(pace);
        }
        let pace = Arc::new(Mutex::new(Pace::new(rate, clock::now())));
        paces.insert(source.clone(), Arc::clone(&pace));
        pace
    }

    /// How the feed of a shard's primary stands; none while there is no such feed, or some rows must not be read.
    #[must_use]
    pub fn report(&self, shard: &ShardName, now: Moment) -> Option<FeedReport> {
        let running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, feed) = running.iter().find(|((name, _), feed)| name == shard && feed.primary.is_some())?;
        feed.fit.load(Ordering::Acquire).then(|| feed.cell.report(now))
    }

    /// How they stand.
    #[must_use]
    pub fn reports(&self, now: Moment) -> Vec<FeedReport> {
        let running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.values().map(|running| running.cell.report(now)).collect()
    }
}

/// A region's gateways, over TCP and mutual TLS 1.3.
#[derive(Clone, Debug)]
pub struct Gateways {
    addresses: Vec<String>,
    identity: PeerIdentity,
    region: RegionName,
}

impl Connect for Gateways {
    async fn connect(&self) -> Result<(Mouth, Ear), Broken> {
        let mut last = Broken::Gone(format!(
            "`{}` has no address to be reached at: set region.{}.replication",
            self.region, self.region
        ));
        // One after the other, from any: a node that is gone costs one timeout, and all are used.
        let first = usize::try_from(random::u64()).unwrap_or_default();
        for number in 0..self.addresses.len() {
            let at = first.wrapping_add(number) % self.addresses.len();
            let Some(address) = self.addresses.get(at) else { continue };
            let tried = tokio::time::timeout(CONNECT_TIMEOUT, self.reach(address)).await;
            match tried.unwrap_or_else(|_| Err(Broken::Gone("no answer".to_owned()))) {
                Ok(link) => return Ok(link),
                Err(error) => last = Broken::Gone(format!("{address}: {error}")),
            }
        }
        Err(last)
    }
}

impl Gateways {
    /// A region's, for whoever proves by this who it is.
    #[must_use]
    pub const fn new(identity: PeerIdentity, region: RegionName, addresses: Vec<String>) -> Self {
        Self { addresses, identity, region }
    }

    /// The region.
    #[must_use]
    pub const fn region(&self) -> &RegionName {
        &self.region
    }

    /// Where they are, `host:port`.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// A connection for words to one of them.
    ///
    /// # Errors
    /// When it is not reached, or does not prove its region.
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn asker(&self, address: &str) -> Result<Asker, Broken> {
        Asker::over(self.stream(address).await?).await
    }

    async fn reach(&self, address: &str) -> Result<(Mouth, Ear), Broken> {
        link::open(self.stream(address).await?).await
    }

    async fn stream(&self, address: &str) -> Result<impl link::Stream, Broken> {
        let gone = |error: &dyn fmt::Display| Broken::Gone(error.to_string());
        let config = self.identity.client_config(&self.region).map_err(|error| gone(&error))?;
        let stream = TcpStream::connect(address).await.map_err(|error| gone(&error))?;
        stream.set_nodelay(true).map_err(|error| gone(&error))?;
        // Not looked at: whoever answers proves the region.
        let name = ServerName::try_from("gateway.invalid").map_err(|error| gone(&error))?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|error| gone(&error))?;
        let chain = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec);
        Ok(self.identity.guard(stream, chain.as_deref()))
    }
}

/// Answers followers of other regions, and their words, until the signal.
///
/// What wakes it: connections. What it reads: what they ask for, and the shards' databases. What it writes: their answers. A connection
/// that fails ends alone.
///
/// # Errors
/// When the identity cannot be used.
pub async fn listen(
    listener: TcpListener,
    identity: PeerIdentity,
    (sources, words): (Arc<dyn Sources>, Arc<dyn Answers>),
    shutdown: Shutdown,
) -> Result<(), portolan_foundation::tls::Error> {
    let acceptor = TlsAcceptor::from(identity.server_config()?);
    let places = Arc::new(Semaphore::new(LINKS_MAX));
    loop {
        let accepted = tokio::select! {
            // Cancel-safe.
            accepted = listener.accept() => accepted,
            () = shutdown.begun() => return Ok(()),
        };
        let Ok((stream, address)) = accepted else {
            // Too many open files, most likely: others have to end first.
            tokio::time::sleep(CONNECT_TIMEOUT / 50).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (acceptor, sources, shutdown) = (acceptor.clone(), Arc::clone(&sources), shutdown.clone());
        let (identity, words) = (identity.clone(), Arc::clone(&words));
        task::spawn("replication-listener", async move {
            let _place = place;
            if let Err(error) = admit(stream, (acceptor, &identity), (sources, words), &shutdown).await {
                tracing::debug!(%address, "a follower's connection ended: {error}");
            }
        });
    }
}

async fn admit(
    stream: TcpStream,
    (acceptor, identity): (TlsAcceptor, &PeerIdentity),
    (sources, words): (Arc<dyn Sources>, Arc<dyn Answers>),
    shutdown: &Shutdown,
) -> Result<(), Broken> {
    let gone = |error: &dyn fmt::Display| Broken::Gone(error.to_string());
    stream.set_nodelay(true).map_err(|error| gone(&error))?;
    let accepted = tokio::time::timeout(CONNECT_TIMEOUT, acceptor.accept(stream)).await;
    let stream = accepted.map_err(|error| gone(&error))?.map_err(|error| gone(&error))?;
    let chain = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec).unwrap_or_default();
    let follower = chain.first().ok_or_else(|| Broken::Gone("no certificate".to_owned()))?;
    let follower = peer_region(follower).map_err(|error| gone(&error))?;
    let stream = identity.guard(stream, Some(&chain));
    let from = follower.clone();
    let answer = move |mouth, ear| give(Arc::clone(&sources), follower.clone(), mouth, ear);
    link::answer(stream, (from, words), shutdown, answer).await;
    Ok(())
}

async fn give(sources: Arc<dyn Sources>, follower: RegionName, mouth: Mouth, mut ear: Ear) {
    let given = async {
        let ask = source::asked(&mut ear).await?;
        let shard = ask.shard.clone();
        match sources.source(&shard, &follower, &ask.what) {
            Ok(store) => answer(&store, sources.as_ref(), &follower, ask, &mouth, &mut ear).await,
            Err(why) => source::refuse(&mouth, why).await,
        }
    };
    if let Err(error) = Box::pin(given).await {
        tracing::debug!(%follower, "a follower's link ended: {error}");
    }
}

/// Gives a region what it asked for of a shard.
pub(crate) async fn answer<W: Wall + ?Sized>(
    store: &Store,
    wall: &W,
    follower: &RegionName,
    ask: Ask,
    mouth: &Mouth,
    ear: &mut Ear,
) -> Result<(), Broken> {
    match ask.what.clone() {
        What::Compare(wanted) => audit::serve(store, &ask, &wanted, mouth, ear).await,
        What::Report => sweeping::serve(store, &ask, mouth, ear).await,
        _ => source::serve(store, wall, follower, ask, mouth, ear).await,
    }
}
