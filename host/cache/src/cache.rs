//! The cache as others hold it: finding what is stored, deciding who asks, taking back.

use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, IF_MATCH, IF_UNMODIFIED_SINCE, RANGE, UPGRADE};
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use portolan_core::ids::TenantName;
use portolan_foundation::cache::{Asked, Finding, Found};
use portolan_foundation::endpoint::{Body, whole};
use portolan_foundation::{cache, clock, random};

use crate::config::Config;
use crate::counters::{Counters, Counts};
use crate::directives::Request;
use crate::disk::Disk;
use crate::epochs::{Epoch, Epochs, Standing, Strength, What};
use crate::fill::{Fill, Kind};
use crate::flights::{Coming, Flights, Permit, State, Turn, news};
use crate::journal::Journal;
use crate::locked;
use crate::place::{Place, scope};
use crate::reply::{fields, reply};
use crate::reuse::{self, Use};
use crate::status::{Done, Forward};
use crate::stored::{Key, Resource, Stored};
use crate::tags::{Tag, Target};

/// Resources that are known not to be storable: requests for them wait for nobody.
const UNSTORABLE_MAX: usize = 65_536;
/// Parts of the memory that have locks of their own.
const MEMORY_SHARDS: usize = 4;
/// A resource in memory is about so large, for the size of tables.
const RESOURCE_BYTES: u64 = 8 * 1_024;
/// Times that a request waits for another one before it goes by itself.
const WAITS_MAX: usize = 3;

/// Fields by which some origins answer for another path or method than the request has: with them nothing is shared.
static REWRITING: [HeaderName; 5] = [
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
    HeaderName::from_static("x-original-url"),
    HeaderName::from_static("x-rewrite-url"),
];

/// A cache. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Cache(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    /// Changes come one after the other, and are written down first where there is a disk.
    changes: Mutex<Option<Journal>>,
    pub(crate) config: Config,
    pub(crate) counters: Counters,
    disk: Option<Disk>,
    pub(crate) epochs: Epochs,
    flights: Arc<Flights>,
    memory: quick_cache::sync::Cache<Key, Arc<Resource>, Weigh>,
    pub(crate) unstorable: quick_cache::sync::Cache<Key, ()>,
}

#[derive(Clone, Debug)]
struct Weigh;

impl quick_cache::Weighter<Key, Arc<Resource>> for Weigh {
    fn weight(&self, _: &Key, resource: &Arc<Resource>) -> u64 {
        resource.bytes()
    }
}

impl Cache {
    /// Opens a cache, with what its disk still has.
    ///
    /// # Errors
    /// When its folder cannot be made, read or written.
    pub fn open(config: Config) -> io::Result<Self> {
        let epochs = Epochs::default();
        let (mut journal, mut disk) = (None, None);
        if let Some(place) = &config.disk {
            std::fs::create_dir_all(&place.folder)?;
            let (opened, is_known) = Journal::open(&place.folder.join("purges"), &epochs)?;
            journal = Some(opened);
            disk = Some(Disk::open(&place.folder.join("resources"), place.bytes, is_known)?);
        }
        let resources = usize::try_from(config.memory_bytes / RESOURCE_BYTES).unwrap_or(usize::MAX).max(64);
        // Few shards, so that each has room for the largest response.
        let options = quick_cache::OptionsBuilder::new()
            .estimated_items_capacity(resources)
            .weight_capacity(config.memory_bytes)
            .shards(MEMORY_SHARDS)
            .build()
            .map_err(io::Error::other)?;
        Ok(Self(Arc::new(Inner {
            changes: Mutex::new(journal),
            counters: Counters::default(),
            disk,
            epochs,
            flights: Arc::default(),
            memory: quick_cache::sync::Cache::with_options(
                options,
                Weigh,
                quick_cache::DefaultHashBuilder::default(),
                quick_cache::sync::DefaultLifecycle::default(),
            ),
            unstorable: quick_cache::sync::Cache::new(UNSTORABLE_MAX),
            config,
        })))
    }

    /// Takes back a tenant's responses. When it returns, this node gives none of them any more, nor one that is on its way, not even after a
    /// restart. The number is that of the last change.
    ///
    /// # Errors
    /// When it cannot be written down; then it holds until the process ends.
    pub async fn purge(
        &self,
        tenant: Option<&TenantName>,
        targets: &[Target],
        strength: Strength,
    ) -> io::Result<Epoch> {
        let scope = scope(tenant);
        let whats: Vec<What> =
            targets.iter().map(|target| What::Purged { scope, tag: target.tag(), strength }).collect();
        self.0.counters.purges.add(u64::try_from(targets.len()).unwrap_or(0));
        let inner = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || inner.change(&whats, true)).await;
        done.map_err(io::Error::other)??;
        Ok(self.0.epochs.latest())
    }

    /// What is counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let (inner, counters) = (&self.0, &self.0.counters);
        Counts {
            collapsed: counters.collapsed.value(),
            disk_bytes: inner.disk.as_ref().map_or(0, Disk::bytes),
            disk_dropped: inner.disk.as_ref().map_or(0, Disk::dropped),
            hits: counters.hits.value(),
            memory_bytes: inner.memory.weight(),
            memory_resources: u64::try_from(inner.memory.len()).unwrap_or(u64::MAX),
            misses: counters.misses.value(),
            purges: counters.purges.value(),
            questions: u64::try_from(inner.flights.count()).unwrap_or(u64::MAX),
            refused: counters.refused.value(),
            stood_in: counters.stood_in.value(),
            stored: counters.stored.value(),
            validated: counters.validated.value(),
        }
    }

    /// What is to become of a request for reading.
    async fn read(&self, asked: &Asked<'_>, place: Place) -> Found {
        let wishes = Request::read(asked.headers);
        if is_apart(asked) || wishes.no_store {
            return Found::Pass;
        }
        let mut waits = 0;
        loop {
            let now = clock::unix_ms();
            let resource = self.0.find(&place).await;
            let select = |resource: &Arc<Resource>| self.0.select(&place, resource, asked.headers);
            let found = resource.as_ref().and_then(select);
            let mut why = match (&found, &resource) {
                (Some(_), _) => Forward::Stale,
                (None, Some(resource)) if resource.select(asked.headers).is_none() => Forward::VaryMiss,
                (None, _) => Forward::UriMiss,
            };
            if let Some((stored, purged)) = &found {
                match reuse::of(&stored.policy, &wishes, now, *purged) {
                    Use::Fresh | Use::Stale => return self.0.hit(asked, stored, now, None),
                    Use::Background => {
                        let permit = match self.0.flights.join(place.key) {
                            Turn::Mine(permit) => Some(permit),
                            Turn::Theirs(_) => None,
                        };
                        let kind = |permit| Kind::Validate(Arc::clone(stored), Some(permit));
                        let fill = permit.map(|permit| self.fill(asked, place, kind(permit), Forward::Stale));
                        return self.0.hit(asked, stored, now, fill);
                    }
                    Use::Validate if stored.policy.age_s(now) < stored.policy.lifetime_s && !purged => {
                        why = Forward::Request;
                    }
                    Use::Validate => {}
                }
            }
            if wishes.only_if_cached {
                return not_asked();
            }
            if *asked.method == Method::HEAD {
                return Found::Ask(self.fill(asked, place, Kind::Head(found.map(|(stored, _)| stored)), why));
            }
            let kind = |permit| match &found {
                Some((stored, _)) => Kind::Validate(Arc::clone(stored), permit),
                None => Kind::Fetch(permit),
            };
            // A part is not stored, and nobody waits for it; neither does anybody for what is never stored.
            let alone = found.is_none() && asked.headers.contains_key(RANGE)
                || waits == WAITS_MAX
                || self.0.unstorable.peek(&place.predictor(asked.headers)).is_some();
            if alone {
                return Found::Ask(self.fill(asked, place, kind(None), why));
            }
            match self.0.flights.join(place.key) {
                Turn::Mine(permit) => return Found::Ask(self.fill(asked, place, kind(Some(permit)), why)),
                Turn::Theirs(waiting) => {
                    let told = tokio::time::timeout(self.0.config.lock_timeout, news(waiting)).await;
                    match told {
                        Ok(State::Coming(coming)) => match self.0.joined(asked, &place, &coming, why) {
                            Some(answer) => return answer,
                            // Its content is another one, or too large to be had from its beginning.
                            None => waits = WAITS_MAX,
                        },
                        Ok(State::Asking | State::Over) => waits += 1,
                        Err(_) => waits = WAITS_MAX,
                    }
                }
            }
        }
    }

    fn fill(&self, asked: &Asked<'_>, place: Place, kind: Kind, why: Forward) -> Box<dyn cache::Fill> {
        if why != Forward::Method {
            self.0.counters.misses.add(1);
        }
        Box::new(Fill {
            born: self.0.epochs.latest(),
            cache: Arc::clone(&self.0),
            kind,
            method: asked.method.clone(),
            place,
            request: asked.headers.clone(),
            requested_ms: clock::unix_ms(),
            why,
        })
    }
}

impl cache::Cache for Cache {
    fn find<'a>(&'a self, asked: Asked<'a>) -> Finding<'a> {
        if !self.0.config.pools.contains(asked.pool) {
            return Box::pin(std::future::ready(Found::Pass));
        }
        let place = Place::of(&asked);
        match *asked.method {
            Method::GET | Method::HEAD => Box::pin(async move { self.read(&asked, place).await }),
            Method::OPTIONS | Method::TRACE | Method::CONNECT => Box::pin(std::future::ready(Found::Pass)),
            _ => {
                let fill = self.fill(&asked, place, Kind::Unsafe, Forward::Method);
                Box::pin(std::future::ready(Found::Ask(fill)))
            }
        }
    }
}

impl Inner {
    /// Writes changes down and makes them hold.
    fn change(&self, whats: &[What], sync: bool) -> io::Result<()> {
        let mut written = Ok(None);
        {
            let mut journal = locked(self.changes.lock());
            for what in whats {
                let record = self.epochs.next(*what);
                if let Some(journal) = &mut *journal {
                    written = journal.append(record, &self.epochs).map(Some);
                }
                // It holds even where it cannot be written down.
                self.epochs.apply(record);
            }
        }
        // Without the lock, so that no request waits for the disk.
        match written? {
            Some(file) if sync => file.sync_data(),
            _ => Ok(()),
        }
    }

    /// URLs of a tenant that an unsafe request has changed.
    pub(crate) fn touch(&self, place: &Place, urls: impl IntoIterator<Item = Tag>) {
        let whats: Vec<What> = urls.into_iter().map(|url| What::touched(place.scope, url)).collect();
        self.note(&whats);
    }

    /// Changes that the origin makes by its answers.
    pub(crate) fn note(&self, whats: &[What]) {
        if let Err(error) = self.change(whats, false) {
            tracing::warn!(%error, "an invalidation of cached responses was not written down: it holds until a restart");
        }
    }

    /// What is stored of a resource, in memory or on disk.
    async fn find(self: &Arc<Self>, place: &Place) -> Option<Arc<Resource>> {
        if let Some(resource) = self.memory.get(&place.key) {
            return Some(resource);
        }
        let key = place.key;
        self.disk.as_ref().filter(|disk| disk.has(key))?;
        let inner = Arc::clone(self);
        let read = move || inner.disk.as_ref().and_then(|disk| disk.read(key));
        let resource = Arc::new(tokio::task::spawn_blocking(read).await.ok()??);
        self.memory.insert(key, Arc::clone(&resource));
        Some(resource)
    }

    /// The variant that answers a request, and whether it was purged softly.
    fn select(&self, place: &Place, resource: &Resource, request: &HeaderMap) -> Option<(Arc<Stored>, bool)> {
        let stored = resource.select(request)?;
        match self.epochs.standing(place.scope, place.url, &stored.tags, stored.born) {
            Standing::Gone => None,
            Standing::Stale => Some((Arc::clone(stored), true)),
            Standing::Valid => Some((Arc::clone(stored), false)),
        }
    }

    /// Keeps a response, unless it was taken back while it came.
    pub(crate) fn keep(&self, place: &Place, stored: Stored) -> bool {
        let standing = self.epochs.standing(place.scope, place.url, &stored.tags, stored.born);
        if standing != Standing::Valid {
            return false;
        }
        let former = self.memory.peek(&place.key).unwrap_or_default();
        let resource = Arc::new(former.with(Arc::new(stored)));
        self.memory.insert(place.key, Arc::clone(&resource));
        if let Some(disk) = &self.disk {
            disk.write(place.key, resource);
        }
        self.counters.stored.add(1);
        true
    }

    /// Forgets a resource.
    pub(crate) fn forget(&self, key: Key) {
        self.memory.remove(&key);
        self.disk.iter().for_each(|disk| disk.remove(key));
    }

    fn hit(
        &self,
        asked: &Asked<'_>,
        stored: &Stored,
        now_ms: u64,
        fill: Option<Box<dyn cache::Fill>>,
    ) -> Found {
        self.counters.hits.add(1);
        let done = Done::hit(&stored.policy, now_ms);
        Found::Answer(Box::new(answer(stored, (asked.method, asked.headers), now_ms, done)), fill)
    }

    /// The answer that comes for another client, if it answers this one too.
    fn joined(&self, asked: &Asked<'_>, place: &Place, coming: &Coming, why: Forward) -> Option<Found> {
        let Coming { length, live, stored } = coming;
        let standing = self.epochs.standing(place.scope, place.url, &stored.tags, stored.born);
        if !stored.selecting.matches(asked.headers) || standing != Standing::Valid {
            return None;
        }
        let reader = live.reader(*length)?;
        self.counters.collapsed.add(1);
        let mut response = Response::new(reader.map_err(Into::into).boxed_unsync());
        *response.status_mut() = StatusCode::from_u16(stored.status).ok()?;
        *response.headers_mut() = fields(stored, clock::unix_ms());
        Done::Collapsed(why).tell(response.headers_mut());
        Some(Found::Answer(Box::new(response), None))
    }
}

/// A stored response for a client.
pub(crate) fn answer(
    stored: &Stored,
    asked: (&Method, &HeaderMap),
    now_ms: u64,
    done: Done,
) -> Response<Body> {
    let boundary = format!("{:016x}{:016x}", random::u64(), random::u64());
    let reply = reply(stored, asked, now_ms, &boundary);
    let content: Bytes = match reply.content.as_slice() {
        [] => Bytes::new(),
        [one] => one.clone(),
        several => several.concat().into(),
    };
    let mut response = Response::new(whole(content));
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    done.tell(response.headers_mut());
    response
}

/// Is it a request whose answer is for nobody else, and who can be given nobody else's? A GET with a content, one that is to be answered
/// only under a condition that caches may not judge (RFC 9111, section 4.3.2), and one that names another resource than its URL.
fn is_apart(asked: &Asked<'_>) -> bool {
    let has = |name: &HeaderName| asked.headers.contains_key(name);
    asked.has_content || [IF_MATCH, IF_UNMODIFIED_SINCE, UPGRADE].iter().any(has) || REWRITING.iter().any(has)
}

/// The client wants nothing that has to be asked for (RFC 9111, section 5.2.1.7).
fn not_asked() -> Found {
    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
    Done::NotAsked.tell(response.headers_mut());
    Found::Answer(Box::new(response), None)
}

/// The permit of a question, if it has one.
pub(crate) type Held = Option<Permit>;
