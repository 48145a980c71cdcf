//! The place of the regional cache in a request's life: asked after the decision, before any upstream is; told of what came back. The
//! cache itself is behind `foundation::cache`.

use std::rc::Rc;
use std::sync::Arc;

use http::Response;
use http::request::Parts;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use portolan_core::balance::stable_hash;
use portolan_core::ids::PoolName;
use portolan_core::snapshot::Snapshot;
use portolan_foundation::cache::{Asked, Fill, Found, Heard, Sink};
use portolan_foundation::{clock, task};

use crate::body::{Body, Upload};
use crate::decide::Decision;
use crate::error::Error;
use crate::forward::Attempts;
use crate::inbound::Inbound;
use crate::pipeline::Trip;
use crate::respond::Told;
use crate::server::Worker;

/// What the cache says of a request.
pub(crate) enum Cached {
    Answered(Box<Response<Body>>),
    Asks(Question),
    Passed,
}

/// A question of the cache, and the pool that is to answer it.
pub(crate) struct Question {
    fill: Box<dyn Fill>,
    pool: PoolName,
}

/// Asks the cache, if there is one and the request may have to do with it: its tenant's data may be kept here, and no unpublished version
/// decided it. A question changes the request to what the cache has to know.
pub(crate) async fn find(
    worker: &Rc<Worker>,
    snapshot: &Arc<Snapshot>,
    inbound: &mut Inbound,
    (decision, told): (&Decision, &Told),
    parts: &Parts,
    body: &Upload,
) -> Cached {
    let topology = &snapshot.topology;
    let may = topology.allows(inbound.residency.as_ref(), &topology.local) && told.preview.is_none();
    let Some(cache) = worker.cache().filter(|_| may && inbound.downstream.peer.is_none()) else {
        return Cached::Passed;
    };
    let first = decision.choices.first().and_then(|choice| decision.target(choice));
    let Some((_, pool)) = first else { return Cached::Passed };
    let pool = pool.clone();
    let target = match &inbound.query {
        Some(query) => format!("{}?{query}", inbound.path),
        None => inbound.path.to_string(),
    };
    let asked = Asked {
        authority: &inbound.authority,
        edits: edits(decision),
        has_content: !matches!(body, Upload::Empty),
        headers: &inbound.headers,
        method: &inbound.method,
        pool: &pool,
        secure: inbound.secure,
        target: &target,
        tenant: inbound.tenant.as_ref(),
    };
    let found = cache.find(asked).await;
    match found {
        Found::Answer(response, fill) => {
            if let Some(fill) = fill {
                refresh(worker, snapshot, inbound, decision, parts, Question { fill, pool });
            }
            Cached::Answered(Box::new(response.map(Body::service)))
        }
        Found::Ask(fill) => {
            fill.prepare(&mut inbound.headers);
            Cached::Asks(Question { fill, pool })
        }
        Found::Pass => Cached::Passed,
    }
}

/// Tells the cache what came of its question. What the client gets is the cache's to say.
pub(crate) fn hear(
    question: Question,
    told: &Told,
    answered: Result<Response<Body>, Error>,
) -> Result<Response<Body>, Error> {
    let Question { fill, pool } = question;
    let response = match answered {
        Ok(response) if told.pool() == Some(&pool) => response,
        // Another pool stood in: its answer is not that of this one.
        Ok(response) => return Ok(response),
        Err(error) => return fill.failed().map(|response| response.map(Body::service)).ok_or(error),
    };
    let (mut head, body) = response.into_parts();
    let length = body.size_hint().exact();
    match fill.answered(&mut head, length) {
        Heard::Answer(response) => Ok(response.map(Body::service)),
        Heard::Pass => Ok(Response::from_parts(head, body)),
        Heard::Store(sink, reader) => {
            task::spawn_local("cache-fill", pour(body, sink));
            Ok(Response::from_parts(head, Body::service(reader)))
        }
    }
}

/// Brings an upstream's content into the cache, from which all who asked for it read. Wakes with each piece; ends with the content, or once
/// nobody wants more of it. A content that breaks off is not stored; trailers are not kept (RFC 9110, section 6.5.1).
async fn pour(mut body: Body, mut sink: Box<dyn Sink>) {
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return };
        let Ok(piece) = frame.into_data() else { continue };
        if !sink.push(piece).await {
            return;
        }
    }
    sink.end();
}

/// Asks the upstream again behind the client's back, for a client that has its answer.
fn refresh(
    worker: &Rc<Worker>,
    snapshot: &Arc<Snapshot>,
    inbound: &Inbound,
    decision: &Decision,
    parts: &Parts,
    question: Question,
) {
    let (worker, snapshot) = (Rc::clone(worker), Arc::clone(snapshot));
    let (mut inbound, decision, parts) = (inbound.clone(), decision.clone(), parts.clone());
    question.fill.prepare(&mut inbound.headers);
    task::spawn_local("cache-refresh", async move {
        let mut told = Told::of(clock::now(), &snapshot, &inbound);
        let attempts = Attempts::new(parts, Upload::Empty, None);
        let mut trip = Trip {
            worker: &worker,
            snapshot: &snapshot,
            inbound: &inbound,
            told: &mut told,
            decision: &decision,
            grant: None,
            attempts,
            spare: None,
            work: None,
        };
        let answered = Box::pin(trip.run()).await;
        // What is stored is all that comes of it: nobody reads the answer.
        drop(hear(question, &told, answered));
    });
}

/// What the decision makes of the request and its answer, wherever it goes.
fn edits(decision: &Decision) -> u64 {
    let answers = decision.choices.iter().filter_map(|choice| {
        let answer = decision.answer(choice)?;
        let pool = decision.target(choice).map(|(_, pool)| pool);
        Some((pool, &answer.edits, &answer.rewrite))
    });
    stable_hash(format!("{:?}", answers.collect::<Vec<_>>()).as_bytes())
}
