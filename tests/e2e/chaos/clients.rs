//! Clients of all regions: they write what they have seen, read with the tokens of others' writes, and keep a history of it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use portolan_core::balance::splitmix;
use portolan_foundation::shutdown::Shutdown;
use portolan_tests::client::{Answer, Client};
use serde_json::{Value, json};

use super::history::{History, Outcome, named, value};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// From one request of a client to its next.
const PACE: Duration = Duration::from_millis(15);
/// Among how many of the last rows of a tenant its writers choose: few, so that they meet.
const HOT: usize = 12;
/// Among how many of the last writes readers choose.
const RECENT: usize = 40;

/// Numbers that one seed gives.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Dice of their own, for somebody else.
    pub(super) const fn fork(&mut self) -> Self {
        Self(self.roll())
    }

    pub(super) const fn roll(&mut self) -> u64 {
        self.0 = splitmix(self.0);
        self.0
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % end as u64).unwrap()
    }

    pub(super) fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.roll() % (to - from))
    }
}

/// What all clients share.
#[derive(Debug)]
pub(super) struct Clients {
    pub(super) bell: Shutdown,
    pub(super) fronts: Arc<Mutex<Vec<SocketAddr>>>,
    pub(super) history: History,
    ids: AtomicU64,
    /// The rows that were made last, of each tenant.
    made: Vec<Mutex<Vec<u64>>>,
    pub(super) tenants: Vec<String>,
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
    pub(super) fn new(
        fronts: Arc<Mutex<Vec<SocketAddr>>>,
        tenants: Vec<String>,
        tokens: Vec<String>,
    ) -> Self {
        let made = tokens.iter().map(|_| Mutex::default()).collect();
        let (bell, history, ids) = (Shutdown::new(), History::default(), AtomicU64::new(1));
        Self { bell, fronts, history, ids, made, tenants, tokens }
    }

    /// Writes rows of a tenant through a region, until the bell.
    pub(super) async fn write(self: Arc<Self>, tenant: usize, region: usize, mut dice: Dice) {
        let mut way = Way::new(&self, tenant, region);
        while !self.bell.is_begun() {
            tokio::time::sleep(PACE).await;
            let known = self.made[tenant].lock().unwrap().clone();
            let hot = &known[known.len().saturating_sub(HOT)..];
            if hot.is_empty() || dice.below(100) < 30 {
                let id = self.ids.fetch_add(1, Ordering::Relaxed);
                way.put(Method::POST, id, None).await;
                self.made[tenant].lock().unwrap().push(id);
                continue;
            }
            let id = hot[dice.below(hot.len())];
            let Sent::Answered(seen) = way.send(Method::GET, &format!("/{id}"), &[], Value::Null).await
            else {
                continue;
            };
            if seen.status == StatusCode::OK {
                let method = if dice.below(100) < 8 { Method::DELETE } else { Method::PATCH };
                way.put(method, id, Some((note(&seen).unwrap(), seen.header("etag")))).await;
            }
        }
    }

    /// Reads through any region with the tokens of others' writes, until the bell.
    pub(super) async fn read(self: Arc<Self>, mut dice: Dice) {
        while !self.bell.is_begun() {
            tokio::time::sleep(PACE).await;
            let Some((of, token)) = self.history.acknowledged(dice.below(RECENT)) else { continue };
            let (name, id) = self.history.row(of);
            let tenant = self.tenants.iter().position(|tenant| *tenant == name).unwrap();
            let mut way = Way::new(&self, tenant, dice.below(super::world::REGIONS.len()));
            let sent =
                way.send(Method::GET, &format!("/{id}"), &[("portolan-token", &token)], Value::Null).await;
            if let Sent::Answered(seen) = sent
                && (seen.status == StatusCode::OK || is_not_found(&seen))
            {
                self.history.saw(of, note(&seen));
            }
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
        let address = self.clients.fronts.lock().unwrap()[self.region];
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
