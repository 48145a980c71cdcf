//! A question to an origin: how it is asked, and what its answer makes of what is stored.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    CONTENT_LENGTH, CONTENT_LOCATION, COOKIE, HeaderMap, HeaderName, IF_NONE_MATCH, LOCATION,
};
use http::{Method, Response, StatusCode, response};
use http_body_util::BodyExt as _;
use portolan_foundation::cache::{self, Heard, Pushing};
use portolan_foundation::clock;
use portolan_foundation::endpoint::Body;

use crate::cache::{Held, Inner, answer};
use crate::conditional::{ask, freshened, is_same};
use crate::directives::{Response as Said, text};
use crate::epochs::{Epoch, Strength, What};
use crate::flights::Coming;
use crate::live::Live;
use crate::place::Place;
use crate::policy::{Policy, Refusal, Rules, Times, judge};
use crate::reuse::stands_in;
use crate::status::{Done, Forward};
use crate::stored::Stored;
use crate::tags::{Target, groups_taken_back, of_response};
use crate::vary::Selecting;

/// Fields of one answer: RFC 9111, section 3.1, and the request's name.
static OWN: [HeaderName; 4] = [
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authentication-info"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("x-request-id"),
];

/// What is asked.
#[derive(Debug)]
pub(crate) enum Kind {
    /// For the whole, because nothing is stored that could be given.
    Fetch(Held),
    /// For the fields, beside what is stored of the whole.
    Head(Option<Arc<Stored>>),
    /// For a change.
    Unsafe,
    /// Whether what is stored still holds.
    Validate(Arc<Stored>, Held),
}

/// A question.
#[derive(Debug)]
pub(crate) struct Fill {
    pub(crate) born: Epoch,
    pub(crate) cache: Arc<Inner>,
    pub(crate) kind: Kind,
    pub(crate) method: Method,
    pub(crate) place: Place,
    /// The client's fields.
    pub(crate) request: HeaderMap,
    pub(crate) requested_ms: u64,
    pub(crate) why: Forward,
}

impl cache::Fill for Fill {
    fn prepare(&self, request: &mut HeaderMap) {
        if let Kind::Validate(stored, ..) = &self.kind {
            ask(request, &stored.headers);
        }
    }

    fn answered(self: Box<Self>, head: &mut response::Parts, length: Option<u64>) -> Heard {
        match &self.kind {
            Kind::Fetch(_) => self.fetched(head, length),
            Kind::Head(stored) => {
                let stored = stored.clone();
                self.head(stored.as_deref(), head)
            }
            Kind::Unsafe => self.changed(head, length),
            Kind::Validate(stored, _) => {
                let stored = Arc::clone(stored);
                if head.status == StatusCode::NOT_MODIFIED {
                    return self.confirmed(&stored, head);
                }
                if is_failure(head.status) && stands_in(&stored.policy, clock::unix_ms()) {
                    return Heard::Answer(Box::new(self.stood_in(&stored)));
                }
                self.fetched(head, length)
            }
        }
    }

    fn failed(self: Box<Self>) -> Option<Response<Body>> {
        let Kind::Validate(stored, ..) = &self.kind else { return None };
        let may = stands_in(&stored.policy, clock::unix_ms());
        may.then(|| self.stood_in(stored))
    }
}

impl Fill {
    fn times(&self) -> Times {
        Times { requested_ms: self.requested_ms, responded_ms: clock::unix_ms() }
    }

    fn rules(&self) -> Rules {
        let rules = self.cache.config.rules.clone();
        // What is no answer to GET is kept for its own words alone (RFC 9110, section 9.3.3).
        let heuristic_percent = if self.method == Method::POST { 0 } else { rules.heuristic_percent };
        Rules { heuristic_percent, ..rules }
    }

    /// What is kept of an answer, but for its content.
    fn stored(&self, head: &response::Parts) -> Result<Stored, Refusal> {
        let asked = (&self.method, &self.request);
        let policy = judge(&self.rules(), asked, head.status, &head.headers, self.times())?;
        self.with_policy(policy, head.status, head.headers.clone())
    }

    fn with_policy(&self, policy: Policy, status: StatusCode, headers: HeaderMap) -> Result<Stored, Refusal> {
        let selecting = Selecting::of(&headers, &self.request).ok_or(Refusal::VariesAll)?;
        let tags = of_response(&headers, &self.place.site, &self.place.target).ok_or(Refusal::TooManyTags)?;
        let withheld = Said::read(&headers).withheld;
        let headers = for_others(headers);
        Ok(Stored {
            born: self.born,
            content: Bytes::new(),
            policy,
            selecting,
            status: status.as_u16(),
            tags,
            withheld,
            headers,
        })
    }

    /// A whole answer: it is kept if it may be.
    fn fetched(mut self: Box<Self>, head: &mut response::Parts, length: Option<u64>) -> Heard {
        let max = self.cache.config.object_bytes_max;
        let stored = self.stored(head).and_then(|stored| match length {
            Some(length) if length > max => Err(Refusal::TooLarge),
            _ => Ok(stored),
        });
        let why = self.why;
        match stored {
            Ok(stored) => {
                let live = Arc::new(Live::default());
                let Some(reader) = live.reader(length) else { return Heard::Pass };
                let permit = self.permit();
                if let Some(permit) = &permit {
                    let (live, stored) = (Arc::clone(&live), stored.clone());
                    permit.coming(Arc::new(Coming { length, live, stored }));
                }
                self.cache.unstorable.remove(&self.place.predictor(&self.request));
                Done::Forwarded { refused: None, status: None, stored: true, why }.tell(&mut head.headers);
                let sink =
                    Sink { cache: Arc::clone(&self.cache), live, permit, place: self.place.clone(), stored };
                Heard::Store(Box::new(sink), reader.map_err(Into::into).boxed_unsync())
            }
            Err(refused) => {
                self.cache.counters.refused.add(1);
                if refused != Refusal::NotCacheable && head.status.is_success() && self.method == Method::GET
                {
                    let is_about_request = matches!(refused, Refusal::Authorization | Refusal::Cookies);
                    // What is stored was an answer to the same question, and is none any more.
                    if matches!(self.kind, Kind::Validate(..)) && !is_about_request {
                        self.cache.forget(self.place.key);
                    }
                    self.cache.unstorable.insert(self.place.predictor(&self.request), ());
                }
                Done::Forwarded { refused: Some(refused), status: None, stored: false, why }
                    .tell(&mut head.headers);
                Heard::Pass
            }
        }
    }

    /// The origin says that what is stored still holds (RFC 9111, section 4.3.4).
    fn confirmed(mut self: Box<Self>, stored: &Stored, head: &response::Parts) -> Heard {
        self.cache.counters.validated.add(1);
        let headers = freshened(&stored.headers, &head.headers);
        let status = StatusCode::from_u16(stored.status).unwrap_or(StatusCode::OK);
        // It confirms what was stored for others: whose cookies this request has does not matter.
        self.request.remove(COOKIE);
        let asked = (&self.method, &self.request);
        let fresh = judge(&self.rules(), asked, status, &headers, self.times())
            .and_then(|policy| self.with_policy(policy, status, headers.clone()));
        let (news, is_kept) = match fresh {
            Ok(fresh) => {
                let news = Stored { content: stored.content.clone(), ..fresh };
                let is_kept = self.cache.keep(&self.place, news.clone());
                (news, is_kept)
            }
            Err(_) => {
                self.cache.forget(self.place.key);
                let responded_ms = clock::unix_ms();
                let policy = Policy { responded_ms, initial_age_s: 0, ..stored.policy.clone() };
                (Stored { headers, policy, ..stored.clone() }, false)
            }
        };
        drop(self.permit());
        let done = Done::Forwarded { refused: None, status: Some(304), stored: is_kept, why: self.why };
        let now = clock::unix_ms();
        Heard::Answer(Box::new(answer(&news, (&self.method, &self.request), now, done)))
    }

    /// An answer to HEAD tells of what is stored whether it is the same still (RFC 9111, section 4.3.5).
    fn head(self: Box<Self>, stored: Option<&Stored>, head: &mut response::Parts) -> Heard {
        if let Some(stored) = stored.filter(|_| head.status == StatusCode::OK) {
            let headers = freshened(&stored.headers, &head.headers);
            let asked = (&Method::GET, &self.request);
            let fresh = judge(&self.rules(), asked, head.status, &headers, self.times())
                .and_then(|policy| self.with_policy(policy, head.status, headers));
            match fresh {
                Ok(fresh) if is_same(&stored.headers, &head.headers) => {
                    let news = Stored { content: stored.content.clone(), ..fresh };
                    self.cache.keep(&self.place, news);
                }
                _ => self.cache.forget(self.place.key),
            }
        }
        Done::Forwarded { refused: None, status: None, stored: false, why: self.why }.tell(&mut head.headers);
        Heard::Pass
    }

    /// An unsafe request that succeeded has changed its resource, and others that it names (RFC 9111, section 4.4; RFC 9875).
    fn changed(mut self: Box<Self>, head: &mut response::Parts, length: Option<u64>) -> Heard {
        if !(head.status.is_success() || head.status.is_redirection()) {
            return Heard::Pass;
        }
        let named = |name| {
            let reference = head.headers.get(name).map(text)?;
            self.place.resolve(&reference)
        };
        let (location, content) = (named(&LOCATION), named(&CONTENT_LOCATION));
        let others = [&location, &content].into_iter().flatten().map(|target| self.place.beside(target));
        self.cache.touch(&self.place, others.chain([self.place.url]));
        let groups: Vec<What> = groups_taken_back(&head.headers)
            .into_iter()
            .map(|name| {
                let tag = Target::Group { site: self.place.site.clone(), name }.tag();
                What::Purged { scope: self.place.scope, tag, strength: Strength::Hard }
            })
            .collect();
        self.cache.note(&groups);
        // The answer to a POST may be what GET would have had (RFC 9110, section 9.3.3).
        let is_same = content.as_deref() == Some(&*self.place.target);
        if self.method != Method::POST || head.status != StatusCode::OK || !is_same {
            return Heard::Pass;
        }
        self.born = self.cache.epochs.latest();
        self.request.remove(IF_NONE_MATCH);
        self.request.remove(CONTENT_LENGTH);
        self.fetched(head, length)
    }

    fn stood_in(&self, stored: &Stored) -> Response<Body> {
        self.cache.counters.stood_in.add(1);
        answer(stored, (&self.method, &self.request), clock::unix_ms(), Done::StoodIn)
    }

    fn permit(&mut self) -> Held {
        match &mut self.kind {
            Kind::Fetch(permit) | Kind::Validate(_, permit) => permit.take(),
            Kind::Head(_) | Kind::Unsafe => None,
        }
    }
}

/// Without the fields that tell of this one answer: who was let through, whose request it was, and what the gateway says of it.
fn for_others(headers: HeaderMap) -> HeaderMap {
    let is_own = |name: &HeaderName| OWN.contains(name) || name.as_str().starts_with("portolan-");
    let own: Vec<HeaderName> = headers.keys().filter(|name| is_own(name)).cloned().collect();
    own.iter().fold(headers, |mut headers, name| {
        headers.remove(name);
        headers
    })
}

/// Statuses for which what is stale may stand in (RFC 5861, section 4).
const fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// Where the content of an answer goes that is kept.
#[derive(Debug)]
struct Sink {
    cache: Arc<Inner>,
    live: Arc<Live>,
    /// Held until the answer is stored, so that whoever waits finds it.
    permit: Held,
    place: Place,
    stored: Stored,
}

impl cache::Sink for Sink {
    fn push(&mut self, piece: Bytes) -> Pushing<'_> {
        Box::pin(self.live.push(piece, self.cache.config.object_bytes_max))
    }

    fn end(mut self: Box<Self>) {
        let whole = self.live.end();
        if let Some(content) = whole {
            let stored = Stored { content, ..self.stored.clone() };
            self.cache.keep(&self.place, stored);
        }
        drop(self.permit.take());
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.live.close();
    }
}
