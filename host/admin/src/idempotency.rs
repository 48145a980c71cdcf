//! `Idempotency-Key`: a request that comes again gets the answer of the first, for a day.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};

use crate::api::Api;
use crate::caller::Caller;
use crate::defaults::{
    KEPT_ANSWER_BYTES_MAX, KEPT_ANSWER_LIFE, KEPT_ANSWERS_MAX, KEPT_ANSWERS_OF_ONE_MAX, KEY_BYTES_MAX,
};
use crate::problem::{Code, Problem};

const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that an answer was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Whose key.
type Owned = (String, String);
/// The SHA-256 of a request.
type Fingerprint = [u8; 32];

/// Answers that are kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept(Arc<Mutex<Inside>>);

#[derive(Debug, Default)]
struct Inside {
    answers: HashMap<Owned, Kind>,
    /// Keys in the order in which their answers were kept.
    order: VecDeque<(Instant, Owned)>,
}

#[derive(Clone, Debug)]
enum Kind {
    Answered(Fingerprint, StatusCode, HeaderMap, Bytes),
    Running(Fingerprint),
}

/// A key whose request runs; dropped without an answer it is free again.
struct Running {
    kept: Kept,
    owned: Owned,
    fingerprint: Fingerprint,
    done: bool,
}

/// Answers a request once for its key.
pub(crate) async fn once<F: Future<Output = Response>>(
    api: &Api,
    caller: &Caller,
    request: Request,
    content: &[u8],
    answer: impl FnOnce(Request) -> F,
) -> Response {
    let key = match key(request.headers()) {
        Ok(Some(key)) => key,
        Ok(None) => return answer(request).await,
        Err(problem) => return problem.into_response(),
    };
    let fingerprint = fingerprint(&request, content);
    let running = match api.kept().begin((caller.id.clone(), key), fingerprint) {
        Ok(Begun::Fresh(running)) => running,
        Ok(Begun::Answered(status, headers, content)) => return replay(status, headers, content),
        Err(problem) => return problem.into_response(),
    };
    let (parts, body) = answer(request).await.into_parts();
    // A failure of the host is no answer: the request may be tried again under its key.
    if parts.status.is_server_error() {
        return Response::from_parts(parts, body);
    }
    match Limited::new(body, KEPT_ANSWER_BYTES_MAX).collect().await {
        Ok(content) => {
            let content = content.to_bytes();
            running.keep(parts.status, parts.headers.clone(), content.clone());
            Response::from_parts(parts, Body::from(content))
        }
        Err(_) => Problem::internal("the answer of a change is too large to be kept").into_response(),
    }
}

/// Adds the header to the description of a route.
pub(crate) fn describe(operation: &mut Operation) {
    // White space around a field's value is no part of it (RFC 9110, section 5.5), and gone before anybody looks.
    let pattern = format!("^[ \\t]*[!-~]{{1,{KEY_BYTES_MAX}}}[ \\t]*$");
    let schema = ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern));
    let parameter = ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .description(Some("A text of your own: the same request with the same key is carried out once."))
        .schema(Some(schema))
        .build();
    operation.parameters.get_or_insert_default().push(parameter.into());
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut keys = headers.get_all(HEADER).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let good = |key: &&HeaderValue| {
        (1..=KEY_BYTES_MAX).contains(&key.len()) && key.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    let key = Some(key).filter(|_| keys.next().is_none()).filter(good).and_then(|key| key.to_str().ok());
    key.map(|key| Some(key.to_owned())).ok_or_else(|| {
        Problem::invalid(format!(
            "`Idempotency-Key` is to be one value of 1 to {KEY_BYTES_MAX} visible characters"
        ))
    })
}

fn fingerprint(request: &Request, content: &[u8]) -> Fingerprint {
    let mut sum = Sha256::new();
    let target = request.uri().path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    let matches = request.headers().get(http::header::IF_MATCH).map_or(&b""[..], HeaderValue::as_bytes);
    for part in [request.method().as_str().as_bytes(), target.as_bytes(), matches, content] {
        sum.update((part.len() as u64).to_le_bytes());
        sum.update(part);
    }
    sum.finalize().into()
}

fn replay(status: StatusCode, headers: HeaderMap, content: Bytes) -> Response {
    let mut response = Response::new(Body::from(content));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

enum Begun {
    Answered(StatusCode, HeaderMap, Bytes),
    Fresh(Running),
}

impl Kept {
    fn begin(&self, owned: Owned, fingerprint: Fingerprint) -> Result<Begun, Problem> {
        let mut inside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inside.forget_old();
        match inside.answers.get(&owned) {
            Some(Kind::Running(other) | Kind::Answered(other, ..)) if *other != fingerprint => {
                return Err(Problem::new(
                    Code::IdempotencyReused,
                    "this `Idempotency-Key` was used for another request: use a new one for each change",
                ));
            }
            Some(Kind::Running(_)) => {
                return Err(Problem::new(
                    Code::IdempotencyRunning,
                    "the first request with this `Idempotency-Key` still runs: ask again in a while",
                ));
            }
            Some(Kind::Answered(_, status, headers, content)) => {
                return Ok(Begun::Answered(*status, headers.clone(), content.clone()));
            }
            None => {}
        }
        let own = inside.answers.keys().filter(|(caller, _)| *caller == owned.0).count();
        if own >= KEPT_ANSWERS_OF_ONE_MAX && !inside.forget_one(Some(&owned.0))
            || inside.answers.len() >= KEPT_ANSWERS_MAX && !inside.forget_one(None)
        {
            return Err(Problem::new(Code::TooMany, "too many changes with keys run at the same time"));
        }
        inside.answers.insert(owned.clone(), Kind::Running(fingerprint));
        drop(inside);
        Ok(Begun::Fresh(Running { kept: self.clone(), owned, fingerprint, done: false }))
    }
}

impl Inside {
    fn forget_old(&mut self) {
        while let Some((kept_at, _)) = self.order.front()
            && kept_at.elapsed() > KEPT_ANSWER_LIFE
        {
            if let Some((_, owned)) = self.order.pop_front() {
                self.answers.remove(&owned);
            }
        }
    }

    /// Forgets the oldest answer, of one caller or of any.
    fn forget_one(&mut self, of: Option<&str>) -> bool {
        let found = self.order.iter().position(|(_, (caller, _))| of.is_none_or(|of| of == caller));
        let forgotten = found.and_then(|place| self.order.remove(place));
        forgotten.is_some_and(|(_, owned)| self.answers.remove(&owned).is_some())
    }
}

impl Running {
    fn keep(mut self, status: StatusCode, headers: HeaderMap, content: Bytes) {
        let mut inside = self.kept.0.lock().unwrap_or_else(PoisonError::into_inner);
        inside.answers.insert(self.owned.clone(), Kind::Answered(self.fingerprint, status, headers, content));
        inside.order.push_back((Instant::now(), self.owned.clone()));
        drop(inside);
        self.done = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.done {
            self.kept.0.lock().unwrap_or_else(PoisonError::into_inner).answers.remove(&self.owned);
        }
    }
}
