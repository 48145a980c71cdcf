//! Tenants' content as a service of the gateway, below `/-/content`: recognises who asks, finds the shard, and answers where the shard's
//! primary is, from the tables of that shard and the store of packs.
//!
//! What comes is cut, sealed and packed (`intake`), committed as a version (`commit`), and settled with heads that did not know it (`settle`). What
//! is asked for is opened (`load`) and sent (`send`). `shares` and `sync` say what goes to whom, `changes` what happened, `collect` what may go. Between
//! tenants the source's side answers (`lend`), and the target's asks (`borrow`); `tend` looks after what nobody asks for.
//!
//! Regions that keep a copy of the shard `follow` the one that writes: it tells them what happened (`give`), contents come whole
//! (`bring`) or as differences (`differ`, `rebuild`), and changes are taken (`taking`). Readers who take what is a little old (`fresh`) are answered from a copy, as fresh as it is (`copies`).

mod borrow;
mod bring;
mod changes;
mod collect;
mod commit;
mod copies;
mod describe;
mod desk;
mod differ;
mod follow;
mod fresh;
mod give;
mod intake;
mod lend;
mod load;
mod mask;
mod mirrors;
mod packing;
mod path;
mod problem;
mod rebuild;
mod repair;
mod reply;
mod send;
mod settle;
mod shares;
mod show;
mod sync;
mod take;
mod taking;
mod tend;
#[cfg(test)]
mod tests;
mod vault;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use object_store::ObjectStore;
use portolan_changelog::{Lease, Store};
use portolan_core::directory::Access as Open;
use portolan_core::ids::{RegionName, ShardName, TenantName};
use portolan_foundation::endpoint::{Answering, Body, Endpoint, Head, Routed, Work, whole};
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::{clock, task};

pub use self::copies::{CopyReport, Damage};
use self::desk::{Desk, Shared};
pub use self::follow::{Asking, Followed, Regions};
use self::fresh::Wanted;
use self::path::Place;
use self::problem::Problem;
use self::vault::Vaults;
use crate::Error;
use crate::defaults::GATHER_TIMEOUT;
use crate::keys::{Keyring, Kms};
use crate::wire::{Answer, Question};

/// What stands before the path of every request.
pub const CONTENT_PATH: &str = "/-/content";
/// The field of an answer that names the version.
const VERSION: HeaderName = HeaderName::from_static("content-version");
/// The field of an answer from a copy that says how old what it shows may be, in seconds.
const STALENESS: HeaderName = HeaderName::from_static("portolan-staleness");

/// Who asks, by a token.
pub trait Authenticate: fmt::Debug + Send + Sync {
    /// What the holder of a token may do.
    ///
    /// # Errors
    /// When it is none of this installation's, or is none any more.
    fn token(&self, text: &str) -> Result<Access, Unauthentic>;
}

/// What a caller may do with content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// May it read?
    pub read: bool,
    /// Whose content; the tenant that the request names, when absent.
    pub tenant: Option<TenantName>,
    /// May it write?
    pub write: bool,
}

/// Why a token is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unauthentic(pub String);

/// The shards of this region, and where tenants' content may be.
pub trait Homes: fmt::Debug + Send + Sync {
    /// May a tenant's content be in a region, by its residency?
    fn admits(&self, tenant: &TenantName, region: &RegionName) -> bool;

    /// Copies that this node has follow the regions that write.
    fn followed(&self) -> Vec<Followed>;

    /// Regions that keep a shard, this one among them.
    fn keepers(&self, shard: &ShardName) -> Vec<RegionName>;

    /// Where a tenant is; none of one that is nowhere, or may not be served now. Nothing is shared between tenants where this is not known.
    fn placed(&self, _tenant: &TenantName) -> Option<Placed> {
        None
    }

    /// A shard's database and lease, while this region writes it.
    fn leased(&self, shard: &ShardName) -> Option<(Store, Lease)>;

    /// All regions.
    fn regions(&self) -> Vec<RegionName>;

    /// The shards that this region keeps.
    fn shards(&self) -> Vec<ShardName>;
}

/// Where a tenant is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The region that writes its shard.
    pub primary: RegionName,
    /// All regions that keep its shard.
    pub regions: Vec<RegionName>,
    /// Its shard.
    pub shard: ShardName,
}

/// Where packs and keys are.
#[derive(Clone, Debug)]
pub struct Places {
    /// The store of packs.
    pub objects: Arc<dyn ObjectStore>,
    /// The folder of key-encryption keys.
    pub keyring: PathBuf,
}

impl Places {
    /// A folder of packs, which is made, and one of keys.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn local(packs: &std::path::Path, keyring: PathBuf) -> Result<Self, Error> {
        Ok(Self { objects: crate::store::Store::local(packs)?, keyring })
    }
}

/// The service.
#[derive(Debug)]
pub struct Service {
    callers: Arc<dyn Authenticate>,
    runtime: tokio::runtime::Handle,
    shared: Arc<Shared>,
}

impl Service {
    /// A service over these shards, which are spoken to on this runtime.
    #[must_use]
    pub fn new(
        homes: Arc<dyn Homes>,
        places: &Places,
        local: RegionName,
        callers: Arc<dyn Authenticate>,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        let kms: Arc<dyn Kms> = Arc::new(Keyring::new(&places.keyring));
        let vaults = Vaults::new(Arc::clone(&places.objects), kms, local.clone());
        Self { callers, runtime, shared: Arc::new(Shared::new(homes, local, vaults)) }
    }

    /// Collects what nothing uses, and has copies follow the regions that write, until shutdown.
    pub fn start(&self, regions: Arc<dyn Regions>, shutdown: &Shutdown) {
        self.shared.regions.get_or_init(|| Arc::clone(&regions));
        let entered = self.runtime.enter();
        task::spawn("collect content", collect::run(Arc::clone(&self.shared), shutdown.clone()));
        task::spawn("look after shares", tend::run(Arc::clone(&self.shared), shutdown.clone()));
        task::spawn("follow content", follow::run(Arc::clone(&self.shared), regions, shutdown.clone()));
        drop(entered);
    }

    /// Takes into a copy, where an epoch is to begin, what copies in other regions have more of its content. What does not come in time is told
    /// in the log, and comes back as stranded with its region.
    ///
    /// # Cancel safety
    /// What has come is there.
    pub async fn gather(&self, copy: &Followed, others: Vec<RegionName>) {
        let Some(regions) = self.shared.regions.get() else { return };
        for region in others {
            let followed = Followed { primary: region.clone(), ..copy.clone() };
            let source = follow::Source::new(followed, Arc::clone(regions), Arc::clone(&self.shared));
            let gathered = tokio::time::timeout(GATHER_TIMEOUT, Box::pin(source.gather())).await;
            let why = match gathered {
                Ok(Ok(())) => continue,
                Ok(Err(problem)) => problem.detail,
                Err(_) => format!("not within {GATHER_TIMEOUT:?}"),
            };
            tracing::info!(shard = %copy.shard, %region, "what it has more of content was not taken whole: {why}");
        }
    }

    /// Answers another region's gateway, which its certificate names; none when this is no question about content.
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn tell(&self, from: &RegionName, question: &[u8]) -> Option<Bytes> {
        if !Question::is(question) {
            return None;
        }
        let answer = match Question::read(question) {
            Ok(question) => give::answer(&self.shared, from, question).await,
            Err(error) => Answer::Refused(crate::wire::Refused::Away(error.to_string())),
        };
        match answer.bytes() {
            Ok(bytes) => Some(bytes.into()),
            Err(error) => {
                tracing::error!(%from, "a copy of content cannot be answered: {error}");
                None
            }
        }
    }

    /// What was damaged in this node's packs since it started.
    #[must_use]
    pub fn damage(&self) -> Damage {
        self.shared.copies.damage()
    }

    /// How the copies stand that this node has follow.
    #[must_use]
    pub fn copies(&self) -> Vec<CopyReport> {
        self.shared.copies.reports(clock::now())
    }

    /// Who asks, and for whose content.
    fn admit(&self, head: &Head<'_>, writes: bool) -> Result<TenantName, Problem> {
        let access = match credential(head.headers)? {
            Some(token) => {
                self.callers.token(token).map_err(|Unauthentic(why)| Problem::unauthentic(&why))?
            }
            None if head.certified => Access { read: true, tenant: head.tenant.cloned(), write: true },
            None => {
                let why =
                    "send `Authorization: Bearer TOKEN`; `portolan token create --role tenant-app` makes one";
                return Err(Problem::unauthentic(why));
            }
        };
        if !(if writes { access.write } else { access.read }) {
            let scope = if writes { "data:write" } else { "data:read" };
            return Err(Problem::forbidden(format!("the token lacks the scope `{scope}`")));
        }
        match (access.tenant, head.tenant) {
            (Some(own), Some(named)) if own != *named => {
                Err(Problem::forbidden("the token is another tenant's than the one that the request names"))
            }
            (Some(own), _) => Ok(own),
            (None, Some(named)) => Ok(named.clone()),
            (None, None) => Err(Problem::bad("the request names no tenant, and the token is of none")),
        }
    }

    fn find(&self, head: &Head<'_>) -> Result<Routed, Problem> {
        let writes = Place::of(below(head.uri.path()))?.writes(head.method)?;
        let tenant = self.admit(head, writes)?;
        if let Some(why) = head.topology.tenants.barred(Some(&tenant)) {
            return Err(Problem::barred(why));
        }
        let (place, shard) = head.topology.shard_of(&tenant).ok_or_else(|| {
            let detail = "the tenant is on no shard: its operator declares one with `[shard.NAME]`";
            Problem::new(StatusCode::NOT_FOUND, "no-shard", detail)
        })?;
        match place.access {
            Open::Suspended => return Err(Problem::barred(portolan_core::tenant::Barred::Suspended)),
            Open::Held if writes => {
                let detail = "the tenant moves; nothing was written, try again";
                return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "held", detail));
            }
            Open::Held | Open::Open => {}
        }
        if shard.external {
            let detail = format!("shard `{}` is kept by its own engine, which has no content", shard.name);
            return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "external", detail));
        }
        let wanted = if writes { Wanted::Primary } else { Wanted::of(head.headers)? };
        let copy = self.shared.copies.behind(&shard.name, &tenant, clock::now());
        let here = shard.primary != self.shared.local && copy.is_some_and(|behind| wanted.takes(behind));
        let primary = shard.primary.clone();
        let work = Work { epoch: shard.epoch, shard: shard.name.clone(), tenant };
        Ok(if here {
            Routed::Region { first: self.shared.local.clone(), others: vec![primary], work }
        } else {
            Routed::Region { first: primary, others: Vec::new(), work }
        })
    }
}

impl Endpoint for Service {
    fn route(&self, head: &Head<'_>) -> Routed {
        self.find(head).unwrap_or_else(|problem| Routed::Answer(Box::new(problem.response())))
    }

    fn answer(&self, work: Work, request: Request<Body>) -> Answering {
        let shared = Arc::clone(&self.shared);
        // Databases' connections live on this runtime, not on the data thread's.
        let entered = self.runtime.enter();
        let task = task::spawn("answer over content", async move {
            Box::pin(answer(shared, work, request)).await.unwrap_or_else(|problem| problem.response())
        });
        drop(entered);
        Box::pin(async move {
            match task.await {
                Ok(Some(response)) => response,
                Ok(None) | Err(_) => {
                    let detail = "nobody knows whether it is written; read before you write again";
                    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "outcome-unknown", detail).response()
                }
            }
        })
    }
}

async fn answer(shared: Arc<Shared>, work: Work, request: Request<Body>) -> Result<Response<Body>, Problem> {
    let (parts, body) = request.into_parts();
    let (place, query) = (Place::of(below(parts.uri.path()))?, parts.uri.query());
    let leased = shared.homes.leased(&work.shard).filter(|(_, lease)| lease.epoch == work.epoch);
    let response = if place.writes(&parts.method)? {
        let leased = leased.ok_or_else(|| Problem::elsewhere(&work.shard, &shared.local))?;
        let desk = Desk::new(shared, work.tenant, work.shard, leased);
        write(&desk, place, (&parts.method, &parts.headers, query), body).await?
    } else {
        let asked = (&parts.method, &parts.headers, query);
        match leased {
            Some(leased) => read(&Desk::new(shared, work.tenant, work.shard, leased), place, asked).await?,
            None => from_copy(shared, work, place, asked).await?,
        }
    };
    Ok(if parts.method == Method::HEAD { response.map(|_| whole("")) } else { response })
}

/// Answers a reader from this region's copy, when that is fresh enough, and says how old it may be.
async fn from_copy(
    shared: Arc<Shared>,
    work: Work,
    place: Place,
    asked: Asked<'_>,
) -> Result<Response<Body>, Problem> {
    let Work { epoch, shard, tenant } = work;
    let elsewhere = Problem::elsewhere(&shard, &shared.local);
    let wanted = Wanted::of(asked.1)?;
    let behind = shared.copies.behind(&shard, &tenant, clock::now());
    let behind = behind.filter(|behind| wanted.takes(*behind));
    let followed = shared.homes.followed().into_iter().find(|one| one.shard == shard && one.epoch == epoch);
    let (Some(behind), Some(followed)) = (behind, followed) else { return Err(elsewhere) };
    let desk = Desk::of_copy(shared, tenant, shard, (followed.store, epoch)).heard(behind);
    let response = read(&desk, place, asked).await?;
    Ok(reply::with(response, STALENESS, &format!("{:.3}", behind.as_secs_f64())))
}

type Asked<'a> = (&'a Method, &'a HeaderMap, Option<&'a str>);

async fn read(desk: &Desk, place: Place, asked: Asked<'_>) -> Result<Response<Body>, Problem> {
    let (_, headers, query) = asked;
    match place {
        Place::Changes => changes::changes(desk, headers, query).await,
        Place::Conflicts(site, name) => show::conflicts(desk, (&site, &name)).await,
        Place::Content(root) => send::root(desk, &root, asked).await,
        Place::Description => describe::description(),
        Place::Diff(site, name) => show::diff(desk, (&site, &name), query).await,
        Place::Item(site, name) => send::item(desk, (&site, &name), asked).await,
        Place::Items(site) => show::items(desk, &site, query).await,
        Place::Share(share) => shares::one(desk, &share).await,
        Place::SharePreview(share) => shares::preview(desk, &share).await,
        Place::ShareSync(share) => sync::state(desk, &share, query).await,
        Place::Shares => shares::list(desk, query).await,
        Place::Upload(upload) => take::state(desk, &upload).await,
        Place::Versions(site, name) => show::versions(desk, (&site, &name), query).await,
        Place::ShareTurn(..) | Place::Uploads => Err(Problem::method("POST")),
    }
}

async fn write(
    desk: &Desk,
    place: Place,
    (method, headers, query): Asked<'_>,
    body: Body,
) -> Result<Response<Body>, Problem> {
    match place {
        Place::Conflicts(site, name) => settle::resolve(desk, (&site, &name), reply::read(body).await?).await,
        Place::Item(site, name) if *method == Method::DELETE => {
            take::delete(desk, (site, name), (headers, query)).await
        }
        Place::Item(site, name) => Box::pin(take::put(desk, (site, name), (headers, query), body)).await,
        Place::ShareSync(share) => sync::run(desk, &share).await,
        Place::ShareTurn(share, "accepted") => shares::accept(desk, &share, query).await,
        Place::ShareTurn(share, status) => shares::turn(desk, &share, status).await,
        Place::Shares => shares::offer(desk, reply::read(body).await?).await,
        Place::Upload(upload) if *method == Method::DELETE => take::cancel(desk, &upload).await,
        Place::Upload(upload) => Box::pin(take::append(desk, &upload, headers, body)).await,
        Place::Uploads => take::begin(desk, headers, reply::read(body).await?).await,
        Place::Changes
        | Place::Content(_)
        | Place::Description
        | Place::Diff(..)
        | Place::Items(_)
        | Place::Share(_)
        | Place::SharePreview(_)
        | Place::Versions(..) => Err(Problem::method("GET, HEAD")),
    }
}

/// A path without what all paths of this service begin with.
fn below(path: &str) -> &str {
    path.strip_prefix(CONTENT_PATH).unwrap_or(path)
}

fn credential(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let Some(first) = all.next() else { return Ok(None) };
    let bearer = first.to_str().ok().and_then(|text| text.split_once(' '));
    let bearer =
        bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
    match (bearer, all.next()) {
        (Some(token), None) => Ok(Some(token)),
        _ => Err(Problem::unauthentic("send one `Authorization: Bearer TOKEN`")),
    }
}
