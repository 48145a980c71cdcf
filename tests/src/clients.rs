//! Clients of all regions: they write what they have seen, read with the tokens of others' writes or as fresh as they ask for, and keep a history
//! of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use portolan_core::balance::splitmix;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::task;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::client::{Answer, Client};
use crate::history::{Asked, History, Missed, Outcome, Read, named, value};
use crate::regions::REGIONS;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// From one request of a client to its next.
const PACE: Duration = Duration::from_millis(40);
/// Among how many of the last rows of a tenant its writers choose: few, so that they meet.
const HOT: usize = 12;
/// Among how many of the last writes readers choose.
const RECENT: usize = 40;
/// How old an answer may be for readers who say so, in seconds.
const OLD_S: u64 = 5;

/// Numbers that one seed gives.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// Those of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Dice of their own, for somebody else.
    #[must_use]
    pub const fn fork(&mut self) -> Self {
        Self(self.roll())
    }

    /// The next number.
    pub const fn roll(&mut self) -> u64 {
        self.0 = splitmix(self.0);
        self.0
    }

    /// The next one below a number.
    ///
    /// # Panics
    /// Never: it is below a `usize`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % end as u64).expect("it is below a usize")
    }

    /// The next time between two.
    pub const fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.roll() % (to - from))
    }
}

/// What all clients share.
#[derive(Debug)]
pub struct Clients {
    /// Ends them.
    pub bell: Shutdown,
    /// Where they find the gateways of all regions.
    pub fronts: Arc<Mutex<Vec<SocketAddr>>>,
    /// What they do.
    pub history: History,
    ids: AtomicU64,
    /// The rows that were made last, of each tenant.
    made: Vec<Mutex<Vec<u64>>>,
    /// The tenants.
    pub tenants: Vec<String>,
    tokens: Vec<String>,
}

/// What became of a request.
enum Sent {
    Answered(Box<Answer>),
    /// It did not leave.
    Never,
    /// It may have arrived.
    Unknown,
}

impl Clients {
    /// Clients of tenants, with their tokens.
    #[must_use]
    pub fn new(fronts: Arc<Mutex<Vec<SocketAddr>>>, tenants: Vec<String>, tokens: Vec<String>) -> Self {
        let made = tokens.iter().map(|_| Mutex::default()).collect();
        let (bell, history, ids) = (Shutdown::new(), History::default(), AtomicU64::new(1));
        Self { bell, fronts, history, ids, made, tenants, tokens }
    }

    /// Starts those that are usual: of each tenant a writer in each of two regions, and a reader.
    pub fn start(self: &Arc<Self>, dice: &mut Dice) -> Vec<JoinHandle<Option<()>>> {
        let mut running = Vec::new();
        for tenant in 0..self.tenants.len() {
            for region in [tenant % REGIONS.len(), (tenant + 1) % REGIONS.len()] {
                running.push(task::spawn("writer", Arc::clone(self).write(tenant, region, dice.fork())));
            }
            running.push(task::spawn("reader", Arc::clone(self).read(dice.fork())));
        }
        running
    }

    /// The token of a tenant, by its place among all.
    #[must_use]
    pub fn token(&self, tenant: usize) -> &str {
        &self.tokens[tenant]
    }

    /// An id that nobody has had.
    pub fn id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes rows of a tenant through a region, until the bell.
    ///
    /// # Panics
    /// When another client did.
    pub async fn write(self: Arc<Self>, tenant: usize, region: usize, mut dice: Dice) {
        let mut way = Way::new(&self, tenant, region);
        while !self.bell.is_begun() {
            tokio::time::sleep(PACE).await;
            let known = self.made[tenant].lock().expect("no client failed").clone();
            let hot = &known[known.len().saturating_sub(HOT)..];
            if hot.is_empty() || dice.below(100) < 30 {
                let id = self.id();
                way.put(Method::POST, id, None).await;
                self.made[tenant].lock().expect("no client failed").push(id);
                continue;
            }
            let id = hot[dice.below(hot.len())];
            let Sent::Answered(seen) = way.send(Method::GET, &format!("/{id}"), &[], Value::Null).await
            else {
                continue;
            };
            if let (StatusCode::OK, Some(parent)) = (seen.status, note(&seen)) {
                let method = if dice.below(100) < 8 { Method::DELETE } else { Method::PATCH };
                way.put(method, id, Some((parent, seen.header("etag")))).await;
            }
        }
    }

    /// Reads through any region, with the tokens of others' writes or as fresh as it asks for, until the bell.
    ///
    /// # Panics
    /// When a write is of no tenant.
    pub async fn read(self: Arc<Self>, mut dice: Dice) {
        let mut ways = BTreeMap::new();
        while !self.bell.is_begun() {
            tokio::time::sleep(PACE).await;
            let Some((of, token)) = self.history.acknowledged(dice.below(RECENT)) else { continue };
            let row = self.history.row(of);
            let tenant = self.tenants.iter().position(|tenant| *tenant == row.0).expect("a tenant's row");
            let region = dice.below(REGIONS.len());
            let old = format!("max-staleness={OLD_S}");
            let (asked, field) = match dice.below(8) {
                0..=3 => (Asked::Token(of), ("portolan-token", token.as_str())),
                4 => (Asked::Primary, ("portolan-consistency", "primary")),
                5 | 6 => (Asked::Local, ("portolan-consistency", "local")),
                _ => {
                    (Asked::MaxStaleness(Duration::from_secs(OLD_S)), ("portolan-consistency", old.as_str()))
                }
            };
            let way = ways.entry((tenant, region)).or_insert_with(|| Way::new(&self, tenant, region));
            let invoked = self.history.now();
            let sent = way.send(Method::GET, &format!("/{}", row.1), &[field], Value::Null).await;
            let returned = self.history.now();
            let why = match sent {
                Sent::Answered(seen) if seen.status == StatusCode::OK || is_not_found(&seen) => {
                    let saw = note(&seen);
                    let by_copy = !seen.header("portolan-staleness").is_empty();
                    self.history.saw(Read { asked, by_copy, invoked, region, returned, row, saw });
                    continue;
                }
                Sent::Answered(seen) => format!("{} {}", seen.status, code(&seen)),
                Sent::Never => "nobody listens".to_owned(),
                Sent::Unknown => "no answer".to_owned(),
            };
            self.history.missed(Missed { asked, invoked, region, why });
        }
    }
}

/// The write whose value an answer shows.
fn note(answer: &Answer) -> Option<usize> {
    let row: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    row["note"].as_str().map(named)
}

/// The row is not there; another 404 would say that there is no such shard or path.
fn is_not_found(answer: &Answer) -> bool {
    answer.status == StatusCode::NOT_FOUND && code(answer) == "not-found"
}

fn code(answer: &Answer) -> String {
    let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let kind = problem["type"].as_str().unwrap_or_default();
    kind.rsplit(':').next().unwrap_or_default().to_owned()
}

/// A tenant's way to its rows through a region, over one connection as long as that lasts.
struct Way<'a> {
    client: Option<(SocketAddr, Client)>,
    clients: &'a Clients,
    region: usize,
    tenant: usize,
}

impl<'a> Way<'a> {
    const fn new(clients: &'a Clients, tenant: usize, region: usize) -> Self {
        Self { client: None, clients, region, tenant }
    }

    /// Writes a value of its own, over what was seen.
    async fn put(&mut self, method: Method, id: u64, seen: Option<(usize, &str)>) {
        let history = &self.clients.history;
        let write = history.begins(
            (self.clients.tenants[self.tenant].clone(), id),
            self.region,
            seen.map(|(parent, _)| parent),
            method == Method::DELETE,
        );
        let path = if seen.is_some() { format!("/{id}") } else { String::new() };
        let content = match method {
            Method::DELETE => Value::Null,
            Method::POST => json!({ "id": id, "note": value(write) }),
            _ => json!({ "note": value(write) }),
        };
        let tag: Vec<_> = seen.map(|(_, etag)| ("if-match", etag)).into_iter().collect();
        let sent = self.send(method, &path, &tag, content).await;
        let outcome = match sent {
            Sent::Never => Outcome::Refused("it was not sent".to_owned()),
            Sent::Unknown => Outcome::Unknown,
            Sent::Answered(answer) => match answer.status.as_u16() {
                200..=299 => Outcome::Acknowledged(answer.header("portolan-token").to_owned()),
                // Whoever is in between does not know; the database's own gateway says when it does not.
                500 | 502 | 504 => Outcome::Unknown,
                status => Outcome::Refused(format!("{status} {}", code(&answer))),
            },
        };
        history.ends(write, outcome);
    }

    async fn send(&mut self, method: Method, path: &str, fields: &[(&str, &str)], content: Value) -> Sent {
        let address = self.clients.fronts.lock().expect("no client failed")[self.region];
        let before = self.client.take().filter(|(there, _)| *there == address);
        let mut client = match before {
            Some((_, client)) => client,
            None => match tokio::time::timeout(PATIENCE, Client::connect(address, "shop.test")).await {
                Ok(Ok(client)) => client,
                Ok(Err(_)) | Err(_) => return Sent::Never,
            },
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/-/data/orders{path}"))
            .header("authorization", format!("Bearer {}", self.clients.tokens[self.tenant]));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let content = if content.is_null() {
            Bytes::new()
        } else {
            request = request.header("content-type", "application/json");
            Bytes::from(content.to_string())
        };
        match tokio::time::timeout(PATIENCE, client.send(request, content)).await {
            Ok(Ok(answer)) => {
                self.client = Some((address, client));
                Sent::Answered(Box::new(answer))
            }
            // A connection that has waited may have ended before; that does not show.
            Ok(Err(_)) | Err(_) => Sent::Unknown,
        }
    }
}
