//! Connections that switch to another protocol: bytes pass both ways until one side ends.

use std::rc::Rc;

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, on};
use hyper_util::rt::TokioIo;
use portolan_foundation::task;
use tokio::io::copy_bidirectional;

use crate::body::Body;
use crate::error::Error;
use crate::forward::{Answered, Outbound};
use crate::server::Worker;
use crate::upstream::Lease;

/// Passes the upstream's agreement on and joins both sides once the client has it.
pub(crate) fn open(
    worker: &Rc<Worker>,
    parts: &mut Parts,
    outbound: &Outbound<'_>,
    mut response: Response<Incoming>,
    lease: Lease,
) -> Answered {
    let Some(switch) = outbound.inbound.downstream.switch.clone() else {
        return Answered::Bad { error: Error::UpstreamBroke, response: None, unseen: false };
    };
    let protocol = response.headers().get(UPGRADE).cloned();
    // Nobody is switched to what was not asked for (RFC 9110, section 7.8).
    if !crate::headers::offers(&outbound.inbound.headers, protocol.as_ref()) {
        return Answered::Bad { error: Error::UpstreamBroke, response: None, unseen: false };
    }
    let Some(client) = parts.extensions.remove::<OnUpgrade>() else {
        return Answered::Bad { error: Error::UpstreamBroke, response: None, unseen: false };
    };
    let upstream = on(&mut response);
    let (mut head, _) = response.into_parts();
    crate::headers::strip_hop_by_hop(&mut head.headers);
    head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        head.headers.insert(UPGRADE, protocol);
    }
    head.status = StatusCode::SWITCHING_PROTOCOLS;
    switch.accept();
    worker.shard.upgrades.add(1);
    let guard = worker.gate.enter("upgraded connection");
    let shutdown = worker.shutdown.clone();
    task::spawn_local("tunnel", async move {
        let (_lease, _guard) = (lease, guard);
        // Either side may be gone before the switch; then there is nothing to join.
        let (Ok(client), Ok(upstream)) = (client.await, upstream.await) else { return };
        let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        tokio::select! {
            // Bytes count for nothing here, and an error ends the tunnel as well as an end does.
            _ = copy_bidirectional(&mut client, &mut upstream) => {}
            () = shutdown.begun() => {}
        }
    });
    Answered::Good(Box::new(Response::from_parts(head, Body::empty())))
}

/// Takes the means to switch out of a request, before its parts are taken apart.
pub(crate) fn prepare(request: &mut Request<Incoming>) {
    let upgrade = on(&mut *request);
    request.extensions_mut().insert(upgrade);
}
