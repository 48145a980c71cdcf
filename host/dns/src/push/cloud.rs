//! Plans for zones that a provider keeps behind an API of its own: Route 53 and Cloudflare.
//!
//! This is weaker than an update under a condition (RFC 2136), and told so: no provider promises a comparison with the plan's number. What guards a change
//! is, in this order: the node that writes plans is the only one that pushes; what stands there is read first, and the number beside a name decides; a
//! change takes away exactly the records that were read, in one batch that is made whole or not at all, so that who is late finds them gone; and what was
//! written is read back.
//!
//! Nothing here opens a connection: whoever wires it carries requests.

mod cloudflare;
mod route53;
mod sigv4;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use portolan_foundation::clock;

use super::decide::{Standing, Step, decide};
use super::exchange::found;
use super::message::epoch_name;
use super::{Change, Failure, Found, Mode, Outcome, Outcomes, Server, Wanted, read_back};
use crate::defaults::{CLOUD_NAMES_AT_ONCE, CLOUD_PAGES_MAX};
use crate::name::Name;
use crate::tsig::secret_file;

/// Whose API it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Provider {
    /// Cloudflare.
    Cloudflare,
    /// Amazon Route 53.
    Route53,
}

/// A request to a provider. Its fields have secrets in them, which it does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// What is sent with it; none of one that asks.
    pub body: Option<String>,
    /// Header fields, but for `host`.
    pub fields: Vec<(&'static str, String)>,
    /// Where.
    pub url: String,
}

/// What a provider answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The content, bounded by whoever carried it.
    pub body: String,
    /// The status.
    pub status: u16,
}

/// An answer, or why there is none.
pub type Carrying = Pin<Box<dyn Future<Output = Result<Answer, String>> + Send>>;

/// Carries requests to providers, over TLS, following no redirection, in bounded time and with answers of bounded size.
pub trait Carry: fmt::Debug + Send + Sync {
    /// Carries one: a GET, or a POST where it has a content.
    fn carry(&self, request: Request) -> Carrying;
}

/// How a zone is reached at its provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The file of keys: for Route 53 as Amazon's tools write it, for Cloudflare a token. It is read anew each time.
    pub credentials: PathBuf,
    /// Another place of the API than the provider's own.
    pub endpoint: Option<String>,
    /// The zone's id there.
    pub id: String,
    /// Whose it is.
    pub provider: Provider,
    /// The zone.
    pub zone: Name,
}

/// What is wrong with an account.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// A place that is none.
    #[error("`{0}` is no place of an API: write https://HOST, or http:// and an address of this machine")]
    Endpoint(String),
    /// An id that is none.
    #[error("`{0}` is no zone's id: it has letters and digits alone, at most 64")]
    Id(String),
}

/// A zone at a provider.
#[derive(Clone, Debug)]
pub struct Cloud {
    account: Account,
    carry: Arc<dyn Carry>,
    clock: fn() -> u64,
}

/// Who asks.
enum Credentials {
    Keys { id: String, secret: String, session: Option<String> },
    Token(String),
}

/// Records of one name and type as a provider lists them: a set, or one of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    /// Where each has one.
    id: String,
    kind: String,
    /// In lower case, without a dot at the end.
    name: String,
    /// Is it answered as it says, and always?
    plain: bool,
    ttl_s: u32,
    values: Vec<String>,
}

/// Records that are to come.
struct New {
    kind: &'static str,
    /// Without a dot at the end.
    name: String,
    values: Vec<String>,
}

/// A name that is to be written.
struct Planned<'a> {
    old: &'a [Listed],
    outcome: Outcome,
    wanted: &'a Wanted,
}

/// Why a provider did not do it.
enum Bad {
    /// Something is not as it was read.
    Conflict,
    /// It may work the next time.
    Passing(String),
    /// What it says, and what to do.
    Refused(String, &'static str),
}

impl Provider {
    /// As it is written in configurations.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cloudflare => "cloudflare",
            Self::Route53 => "route53",
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("url", &self.url).field("body", &self.body).finish_non_exhaustive()
    }
}

impl Account {
    /// Where its API is, without a slash at the end.
    fn endpoint(&self) -> &str {
        let own = match self.provider {
            Provider::Cloudflare => cloudflare::ENDPOINT,
            Provider::Route53 => route53::ENDPOINT,
        };
        self.endpoint.as_deref().unwrap_or(own).trim_end_matches('/')
    }

    /// Can it be used?
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn check(&self) -> Result<(), Unusable> {
        let plain = self.id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !plain || self.id.is_empty() || self.id.len() > 64 {
            return Err(Unusable::Id(self.id.clone()));
        }
        let place = self.endpoint();
        let here = |rest: &str| {
            let host = rest.split('/').next().unwrap_or_default();
            let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
            matches!(host, "127.0.0.1" | "[::1]" | "localhost")
        };
        // Keys go nowhere in clear text but to this machine.
        let good = match (place.strip_prefix("https://"), place.strip_prefix("http://")) {
            (Some(rest), _) => !rest.is_empty(),
            (None, Some(rest)) => here(rest),
            (None, None) => false,
        };
        if good { Ok(()) } else { Err(Unusable::Endpoint(place.to_owned())) }
    }
}

impl Credentials {
    fn parse(provider: Provider, text: &str) -> Option<Self> {
        if provider == Provider::Cloudflare {
            let token = text.trim();
            let plain = token.bytes().all(|byte| byte.is_ascii_graphic());
            return (plain && !token.is_empty()).then(|| Self::Token(token.to_owned()));
        }
        // The first section, as Amazon's own tools write it.
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut fields = BTreeMap::new();
        for line in lines {
            match line.split_once('=') {
                Some((name, value)) => {
                    fields.entry(name.trim()).or_insert_with(|| value.trim().to_owned());
                }
                None if fields.is_empty() => {}
                None => break,
            }
        }
        let mut take = |name: &str| fields.remove(name).filter(|value| !value.is_empty());
        let (id, secret) = (take("aws_access_key_id")?, take("aws_secret_access_key")?);
        Some(Self::Keys { id, secret, session: take("aws_session_token") })
    }
}

impl Cloud {
    /// A zone at a provider, reached by `carry`.
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn new(account: Account, carry: Arc<dyn Carry>) -> Result<Self, Unusable> {
        account.check()?;
        Ok(Self { account, carry, clock: || clock::unix_ms() / 1_000 })
    }

    /// Who keeps the records.
    #[must_use]
    pub fn server(&self) -> Server {
        Server::Cloud(self.account.provider, self.account.id.clone())
    }

    /// The zone.
    #[must_use]
    pub const fn zone(&self) -> &Name {
        &self.account.zone
    }

    /// Writes what is wanted where nobody with a higher number has, and reads it back.
    pub(super) async fn push(&self, change: &Change, mode: Mode) -> Outcomes {
        let mut outcomes = Outcomes::new();
        if let Err(failure) = self.pass(change, mode, &mut outcomes).await {
            for wanted in &change.names {
                outcomes.entry(wanted.name.clone()).or_insert_with(|| Err(failure.clone()));
            }
        }
        outcomes
    }

    async fn pass(&self, change: &Change, mode: Mode, outcomes: &mut Outcomes) -> Result<(), Failure> {
        let keys = self.credentials()?;
        let there = self.list(&keys).await?;
        let mut planned = Vec::new();
        for wanted in &change.names {
            if wanted.addresses.is_empty() || !self.account.zone.covers(&wanted.name) {
                let what = format!("{} has no address, or lies elsewhere", wanted.name);
                let advice = "nothing is sent; give the name addresses, and its own zone";
                outcomes.insert(wanted.name.clone(), Err(self.refused(what, advice)));
                continue;
            }
            match decide(&there.standing(&wanted.name), wanted, change.number, mode) {
                Step::Alias => {
                    let failure = Failure::Alias(wanted.name.clone(), self.server());
                    outcomes.insert(wanted.name.clone(), Err(failure));
                }
                Step::Done(outcome) => {
                    outcomes.insert(wanted.name.clone(), Ok(outcome));
                }
                Step::Write(_, outcome) => {
                    planned.push(Planned { old: there.of(&wanted.name), outcome, wanted });
                }
            }
        }
        if planned.is_empty() {
            return Ok(());
        }
        for batch in planned.chunks(CLOUD_NAMES_AT_ONCE) {
            self.write(&keys, batch, change.number).await?;
        }
        let now = self.list(&keys).await?;
        for Planned { outcome, wanted, .. } in &planned {
            let standing = now.standing(&wanted.name);
            let read = read_back(&self.server(), (wanted, change.number), outcome, &standing);
            outcomes.insert(wanted.name.clone(), read);
        }
        Ok(())
    }

    /// Writes a batch; one that meets somebody else's change is written name by name. What came of a name is read afterwards.
    async fn write(&self, keys: &Credentials, batch: &[Planned<'_>], number: u64) -> Result<(), Failure> {
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            let body = match self.account.provider {
                Provider::Cloudflare => cloudflare::change(part, number),
                Provider::Route53 => route53::change(part, number),
            };
            match self.ask(keys, "", Some(body)).await {
                Ok(_) => {}
                Err(Bad::Conflict) if part.len() > 1 => parts.extend(part.chunks(1)),
                Err(Bad::Conflict) => {}
                Err(bad) => return Err(self.failed(bad)),
            }
        }
        Ok(())
    }

    /// All records of the zone.
    async fn list(&self, keys: &Credentials) -> Result<Zone, Failure> {
        let (mut zone, mut query) = (Zone::default(), self.first());
        for _ in 0..CLOUD_PAGES_MAX {
            let body = self.ask(keys, &query, None).await.map_err(|bad| self.failed(bad))?;
            let page = match self.account.provider {
                Provider::Cloudflare => cloudflare::page(&body),
                Provider::Route53 => route53::page(&body),
            };
            let what = |error: String| Failure::Unreachable {
                server: self.server(),
                what: format!("its answer does not read: {error}"),
            };
            let (listed, next) = page.map_err(what)?;
            listed.into_iter().for_each(|one| zone.add(one));
            match next {
                Some(next) => query = next,
                None => return Ok(zone),
            }
        }
        let what = format!("the zone has more than {CLOUD_PAGES_MAX} pages of records");
        Err(self.refused(what, "delegate the managed names to a zone of their own"))
    }

    fn first(&self) -> String {
        match self.account.provider {
            Provider::Cloudflare => cloudflare::query(1),
            Provider::Route53 => route53::FIRST.to_owned(),
        }
    }

    /// Asks the provider, or has it make a change; gives its answer.
    async fn ask(&self, keys: &Credentials, query: &str, body: Option<String>) -> Result<String, Bad> {
        let Account { id, provider, .. } = &self.account;
        let path = match (provider, &body) {
            (Provider::Cloudflare, None) => cloudflare::list_path(id),
            (Provider::Cloudflare, Some(_)) => cloudflare::change_path(id),
            (Provider::Route53, None) => route53::list_path(id),
            (Provider::Route53, Some(_)) => route53::change_path(id),
        };
        let endpoint = self.account.endpoint();
        let (_, after) = endpoint.split_once("://").unwrap_or_default();
        let (host, base) = after.split_at(after.find('/').unwrap_or(after.len()));
        let path = format!("{base}{path}");
        let sent = if query.is_empty() { String::new() } else { format!("?{query}") };
        let scheme = endpoint.strip_suffix(after).unwrap_or_default();
        let url = format!("{scheme}{host}{path}{sent}");
        let mut fields = match keys {
            Credentials::Token(token) => vec![("authorization", format!("Bearer {token}"))],
            Credentials::Keys { id, secret, session } => {
                let (region, service) = route53::SIGNED_FOR;
                let signer = sigv4::Signer { id, region, secret, service, session: session.as_deref() };
                let signed = sigv4::Signed {
                    body: body.as_deref().unwrap_or_default(),
                    host,
                    method: if body.is_some() { "POST" } else { "GET" },
                    path: &path,
                    query,
                };
                signer.sign(&signed, (self.clock)())
            }
        };
        if body.is_some() {
            let kind = if *provider == Provider::Route53 { "application/xml" } else { "application/json" };
            fields.push(("content-type", kind.to_owned()));
        }
        let answer = self.carry.carry(Request { body, fields, url }).await;
        let Answer { body, status } = answer.map_err(Bad::Passing)?;
        match (status, provider) {
            (200..=299, _) => Ok(body),
            (_, Provider::Cloudflare) => Err(cloudflare::refusal(status, &body)),
            (_, Provider::Route53) => Err(route53::refusal(status, &body)),
        }
    }

    fn credentials(&self) -> Result<Credentials, Failure> {
        let wrong = |what: String| Failure::Credentials { server: self.server(), what };
        let text = secret_file(&self.account.credentials).map_err(|error| wrong(error.to_string()))?;
        let help = match self.account.provider {
            Provider::Cloudflare => "write an API token into it, and nothing else",
            Provider::Route53 => {
                "write `aws_access_key_id = ID` and `aws_secret_access_key = SECRET` into it"
            }
        };
        let form = || wrong(format!("{}: {help}", self.account.credentials.display()));
        Credentials::parse(self.account.provider, &text).ok_or_else(form)
    }

    fn failed(&self, bad: Bad) -> Failure {
        match bad {
            Bad::Conflict => {
                self.refused("a conflict where nothing is changed".to_owned(), "please report this")
            }
            Bad::Passing(what) => Failure::Unreachable { server: self.server(), what },
            Bad::Refused(what, advice) => self.refused(what, advice),
        }
    }

    fn refused(&self, what: String, advice: &'static str) -> Failure {
        Failure::Refused { advice, server: self.server(), what, zone: self.account.zone.clone() }
    }
}

/// A zone as a provider lists it: what matters of each name, with its number.
#[derive(Debug, Default)]
struct Zone(BTreeMap<String, Vec<Listed>>);

impl Zone {
    /// Takes a record, to the managed name that it would be of.
    fn add(&mut self, listed: Listed) {
        let beside = format!("{}.", crate::plan::EPOCH_LABEL);
        let of = match listed.kind.as_str() {
            "A" | "AAAA" | "CNAME" => Some(listed.name.as_str()),
            "TXT" => listed.name.strip_prefix(&beside),
            _ => None,
        };
        if let Some(of) = of.map(str::to_owned) {
            self.0.entry(of).or_default().push(listed);
        }
    }

    /// All that is there of a name.
    fn of(&self, name: &Name) -> &[Listed] {
        self.0.get(&undotted(name)).map_or(&[], Vec::as_slice)
    }

    fn standing(&self, name: &Name) -> Standing {
        let all = self.of(name);
        let is_address = |listed: &&Listed| matches!(listed.kind.as_str(), "A" | "AAAA") && listed.plain;
        let values = all.iter().filter(is_address).flat_map(|listed| &listed.values);
        let texts = all.iter().filter(|listed| listed.kind == "TXT").flat_map(|listed| &listed.values);
        let texts: Vec<&str> = texts.map(|text| text.trim_matches('"')).collect();
        // Who lets records of one name stand side by side has those of two plans that were written at once: the higher counts, and is not whole.
        let numbers: Option<BTreeSet<u64>> = texts.iter().map(|text| text.parse().ok()).collect();
        if let Some(last) = numbers.filter(|_| texts.len() > 1).and_then(|numbers| numbers.last().copied()) {
            return Standing { addresses: BTreeSet::new(), alias: false, found: Found::Number(last) };
        }
        Standing {
            addresses: values.filter_map(|value| value.parse::<IpAddr>().ok()).collect(),
            // What the provider answers with something else than it lists is as little to be written beside.
            alias: all.iter().any(|listed| listed.kind == "CNAME" || !listed.plain),
            found: found(texts.into_iter().map(|text| text.as_bytes().to_vec()).collect()),
        }
    }
}

/// A name as providers' APIs list it, without a dot at the end.
fn undotted(name: &Name) -> String {
    name.to_string().trim_end_matches('.').to_owned()
}

/// The records that a name is to have, its number among them.
fn fit(wanted: &Wanted, number: u64) -> Vec<New> {
    let of = |kind: &'static str, is_kind: fn(&IpAddr) -> bool| {
        let values: Vec<String> =
            wanted.addresses.iter().filter(|address| is_kind(address)).map(ToString::to_string).collect();
        (!values.is_empty()).then(|| New { kind, name: undotted(&wanted.name), values })
    };
    let epoch = epoch_name(&wanted.name).map(|name| New {
        kind: "TXT",
        name: undotted(&name),
        values: vec![format!("\"{number}\"")],
    });
    [of("A", IpAddr::is_ipv4), of("AAAA", IpAddr::is_ipv6), epoch].into_iter().flatten().collect()
}
