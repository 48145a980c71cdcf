//! The authoritative server: answers from the last plan that it was given, for as long as it runs and after it starts again, whether or
//! not anybody else can be reached.
//!
//! Sockets and the packet path are our own, over our own reading of questions. A general server would answer what is malformed before
//! anybody could count it, start a task for each datagram, and take any number of connections.
//!
//! What wakes it: packets; a plan or a suspicion that is handed in; once a minute, to sign again what is half through its time. What
//! it writes: the plan, on its own disk. On failure to save it answers from the new plan all the same, and its status says so.

mod limit;
mod notify;
mod report;
mod respond;
mod saved;
mod tcp;
mod transfer;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use ipnet::IpNet;
use portolan_core::geography::Geography;
use portolan_core::ids::RegionName;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::{clock, task};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;

use self::limit::Limiter;
use self::report::Counters;
use self::respond::{Around, Served};
use self::saved::Saved;
use crate::error::Error;
use crate::plan::{Draft, Plan, Regions};
use crate::sign::{Keys, Signed};
use crate::tsig::SharedKey;

pub use self::limit::Rate;
pub use self::report::Report;

/// How often it looks whether signatures are to be renewed.
const SIGNING_TICK: Duration = Duration::from_secs(60);

/// What a server is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the last plans are kept.
    pub folder: PathBuf,
    /// The keys of zones that are signed.
    pub keys: Keys,
    /// Where it listens, over UDP and TCP. An address of the machine, rather than all of them: an answer over UDP leaves from the
    /// address that the routes say, and a client takes it only from the one that it asked.
    pub listen: Vec<SocketAddr>,
    /// How many answers a network is sent over UDP.
    pub rate: Rate,
    /// Whose server it is.
    pub region: RegionName,
    /// Who is told of each plan and may take whole zones.
    pub secondaries: Vec<Secondary>,
    /// Sockets for UDP on each address, each with a task of its own.
    pub workers: usize,
}

/// A server that answers with copies of our zones. It takes a copy when the plan's number has changed: where zones are signed, give it a
/// plan with another number once a week, if nothing else changes, or it goes on with signatures that end.
#[derive(Clone, Debug)]
pub struct Secondary {
    /// Where it comes from when it takes a zone.
    pub from: IpNet,
    /// The key that it signs with, and we for it.
    pub key: SharedKey,
    /// Where it is told of a plan; nowhere when absent, it asks by itself.
    pub notify: Option<SocketAddr>,
}

/// What everything within a server shares.
#[derive(Debug)]
pub(crate) struct Shared {
    counters: Counters,
    geography: ArcSwapOption<Geography>,
    limiter: Limiter,
    notes: Mutex<Notes>,
    published: watch::Sender<Option<u64>>,
    region: RegionName,
    secondaries: Vec<Secondary>,
    served: ArcSwapOption<Served>,
    keys: Keys,
}

#[derive(Debug, Default)]
struct Notes {
    saving: Option<String>,
    signing: Option<String>,
}

/// A server whose sockets are open.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    handle: Handle,
    tcp: Vec<TcpListener>,
    udp: Vec<Arc<UdpSocket>>,
}

/// Hands plans to a server, and tells how it does. Clones are of the same server.
#[derive(Clone, Debug)]
pub struct Handle {
    /// Plans are published one after the other.
    publishing: Arc<tokio::sync::Mutex<Saved>>,
    shared: Arc<Shared>,
}

/// How a server does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The number of the plan that it answers from; none before the first.
    pub number: Option<u64>,
    /// What it counted.
    pub report: Report,
    /// Why the plan is not on disk: after a restart it would begin with an older one.
    pub saving: Option<String>,
    /// Why signatures are not renewed.
    pub signing: Option<String>,
}

impl Server {
    /// Opens the sockets, and begins with the last plan that is on disk.
    ///
    /// # Errors
    /// [`Error`] when an address cannot be bound, the folder cannot be used, or a plan cannot be signed.
    pub async fn open(config: Config) -> Result<Self, Error> {
        let saved = Saved::open(&config.folder).map_err(|error| Error::Disk(config.folder.clone(), error))?;
        let shared = Arc::new(Shared {
            counters: Counters::default(),
            geography: ArcSwapOption::empty(),
            limiter: Limiter::new(config.rate),
            notes: Mutex::default(),
            published: watch::Sender::new(None),
            region: config.region,
            secondaries: config.secondaries,
            served: ArcSwapOption::empty(),
            keys: config.keys,
        });
        let newest = saved.newest().map_err(|error| Error::Disk(config.folder, error))?;
        let handle = Handle { publishing: Arc::new(tokio::sync::Mutex::new(saved)), shared };
        if let Some(plan) = newest {
            handle.serve(Arc::new(plan)).await?;
        }
        let (mut addresses, mut tcp, mut udp) = (Vec::new(), Vec::new(), Vec::new());
        for address in config.listen {
            let bound = |error| Error::Listen(address, error);
            let (listener, sockets) = udp::both(address, config.workers.max(1)).map_err(bound)?;
            addresses.push(listener.local_addr().map_err(bound)?);
            tcp.push(listener);
            udp.extend(sockets);
        }
        Ok(Self { addresses, handle, tcp, udp })
    }

    /// Where it listens: the addresses of the configuration, with ports that were chosen.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Hands plans to it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Answers until the end.
    pub async fn run(self, shutdown: Shutdown) {
        let shared = &self.handle.shared;
        let mut tasks = Vec::new();
        for socket in self.udp {
            tasks.push(task::spawn(
                "answer over UDP",
                udp::keep(socket, Arc::clone(shared), shutdown.clone()),
            ));
        }
        for listener in self.tcp {
            let serve = tcp::serve(listener, Arc::clone(shared), shutdown.clone());
            tasks.push(task::spawn("answer over TCP", serve));
        }
        for secondary in &shared.secondaries {
            let notifier = notify::keep(secondary.clone(), Arc::clone(shared), shutdown.clone());
            tasks.push(task::spawn("notify a secondary", notifier));
        }
        let signer = self.handle.clone().keep_signed(shutdown.clone());
        tasks.push(task::spawn("renew signatures", signer));
        for task in tasks {
            // A panic was told by the task itself.
            drop(task.await);
        }
    }
}

impl Handle {
    /// Answers from a plan from here on, and tells secondaries. It must be newer than the present one; the present one again
    /// changes nothing.
    ///
    /// # Errors
    /// [`Error::Stale`] and [`Error::Twice`] when it is not newer, [`Error::Key`] when it cannot be signed: the present one is answered from
    /// as before.
    pub async fn publish(&self, plan: Plan) -> Result<(), Error> {
        let saved = self.publishing.lock().await;
        if let Some(present) = self.plan() {
            if plan.number() < present.number() {
                return Err(Error::Stale { present: present.number(), stale: plan.number() });
            }
            if plan.number() == present.number() {
                let same = plan.digest() == present.digest();
                return if same { Ok(()) } else { Err(Error::Twice(plan.number())) };
            }
        }
        self.put(&saved, plan).await
    }

    /// As [`Handle::publish`], whatever the present plan's number is: for an operator whose control store was made anew.
    ///
    /// # Errors
    /// [`Error::Key`] when it cannot be signed.
    pub async fn adopt(&self, plan: Plan) -> Result<(), Error> {
        let saved = self.publishing.lock().await;
        saved.forget();
        self.put(&saved, plan).await
    }

    /// Which regions are suspected: answers that lead there are kept for the shortest time, so that a failover, if it comes, is seen soon.
    pub fn suspect<'a>(&self, regions: impl IntoIterator<Item = &'a RegionName> + Clone) {
        self.shared.served.rcu(|served| {
            served.as_ref().map(|served| {
                let suspected = served.plan.regions(regions.clone());
                Arc::new(Served { suspected, ..Served::clone(served) })
            })
        });
    }

    /// Where addresses are on earth from here on, for names that the nearest region answers; `None` when nothing is known of that.
    pub fn locate(&self, geography: Option<&Arc<Geography>>) {
        self.shared.geography.store(geography.cloned());
        self.shared.served.rcu(|served| {
            served
                .as_ref()
                .map(|served| Arc::new(Served { geography: geography.cloned(), ..Served::clone(served) }))
        });
    }

    /// The plan that is answered from.
    #[must_use]
    pub fn plan(&self) -> Option<Arc<Plan>> {
        self.shared.served.load().as_ref().map(|served| Arc::clone(&served.plan))
    }

    /// How it does.
    #[must_use]
    pub fn status(&self) -> Status {
        let notes = self.shared.notes();
        Status {
            number: self.plan().map(|plan| plan.number()),
            report: self.shared.counters.report(),
            saving: notes.saving.clone(),
            signing: notes.signing.clone(),
        }
    }

    async fn put(&self, saved: &Saved, plan: Plan) -> Result<(), Error> {
        let plan = Arc::new(plan);
        self.serve(Arc::clone(&plan)).await?;
        let save = saved.clone();
        let done = tokio::task::spawn_blocking(move || save.save(plan.draft())).await;
        let problem = match done {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = &problem {
            tracing::error!(problem, "the DNS plan is answered from and is not on disk; look at the disk");
        }
        self.shared.notes().saving = problem;
        Ok(())
    }

    async fn serve(&self, plan: Arc<Plan>) -> Result<(), Error> {
        let signed = self.sign(Arc::clone(&plan)).await?;
        let number = plan.number();
        self.shared.swap(plan, signed);
        self.shared.published.send_replace(Some(number));
        Ok(())
    }

    async fn sign(&self, plan: Arc<Plan>) -> Result<Option<Arc<Signed>>, Error> {
        if self.shared.keys.is_empty() {
            return Ok(None);
        }
        let keys = self.shared.keys.clone();
        let now_s = clock::unix_ms() / 1_000;
        let before = self.shared.served.load().as_ref().and_then(|served| served.signed.clone());
        let signing =
            tokio::task::spawn_blocking(move || Signed::new(&plan, &keys, now_s, before.as_deref()));
        let signed = signing.await.map_err(|error| Error::Task(error.to_string()))??;
        Ok(Some(Arc::new(signed)))
    }

    async fn keep_signed(self, shutdown: Shutdown) {
        loop {
            // Both are cancel-safe.
            tokio::select! {
                () = tokio::time::sleep(SIGNING_TICK) => {}
                () = shutdown.begun() => return,
            }
            let _one_after_the_other = self.publishing.lock().await;
            let Some(served) = self.shared.served.load_full() else { continue };
            let now_s = clock::unix_ms() / 1_000;
            if !served.signed.as_ref().is_some_and(|signed| signed.is_due(now_s)) {
                continue;
            }
            let problem = match self.sign(Arc::clone(&served.plan)).await {
                Ok(signed) => {
                    self.shared.swap(Arc::clone(&served.plan), signed);
                    None
                }
                Err(error) => {
                    tracing::error!(%error, "DNS signatures are not renewed; a week remains to find out why");
                    Some(error.to_string())
                }
            };
            self.shared.notes().signing = problem;
        }
    }
}

impl Shared {
    /// Answers from a plan. What was suspected is suspected still.
    fn swap(&self, plan: Arc<Plan>, signed: Option<Arc<Signed>>) {
        let nsid: Box<[u8]> = format!("{} {}", self.region, plan.number()).into_bytes().into();
        self.served.rcu(|before| {
            let suspected = before.as_ref().map_or(Regions::NONE, |before| {
                let of_before = (0_u8..).zip(&before.plan.regions);
                let names =
                    of_before.filter(|(at, _)| before.suspected.has(*at)).map(|(_, region)| &region.name);
                plan.regions(names)
            });
            Some(Arc::new(Served {
                geography: self.geography.load_full(),
                nsid: nsid.clone(),
                plan: Arc::clone(&plan),
                signed: signed.clone(),
                suspected,
            }))
        });
    }

    fn notes(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn around<'a>(&'a self, served: &'a Served) -> Around<'a> {
        Around {
            counters: &self.counters,
            limiter: &self.limiter,
            now: clock::now(),
            now_ms: clock::unix_ms(),
            served,
        }
    }
}

/// Reads the last plan in a folder, for a command that shows it.
///
/// # Errors
/// When the folder cannot be read.
pub fn last_plan(folder: &std::path::Path) -> io::Result<Option<Draft>> {
    Ok(Saved::at(folder).newest()?.map(|plan| plan.draft().clone()))
}

#[cfg(test)]
mod tests;
