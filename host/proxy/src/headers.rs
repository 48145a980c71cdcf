//! Header fields at the border: what ends here, what is added, what a policy edits.

use http::Method;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, MAX_FORWARDS, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
};
use portolan_core::plan::{EditKind, HeaderEdit, Message};
use portolan_foundation::random;

use crate::inbound::Inbound;

/// The name that portolan goes by in `Via` (RFC 9110, section 7.6.3) and `CDN-Loop` (RFC 8586).
pub(crate) const PSEUDONYM: &str = "portolan";
/// Fields with this prefix mean something only between portolan and its upstreams.
const OWN_PREFIX: &str = "portolan-";
/// Names positions of shards' logs: what a client wrote, and brings along to read at least that.
pub(crate) const TOKEN: HeaderName = HeaderName::from_static("portolan-token");

/// The fields by which services of the gateway speak to clients: where a log is, how old an answer may be, which shards are not in it.
pub(crate) const TOLD: [HeaderName; 3] = [
    TOKEN,
    HeaderName::from_static("portolan-staleness"),
    HeaderName::from_static("portolan-missing-shards"),
];

pub(crate) static CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
pub(crate) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Takes off what belongs to one connection (RFC 9110, section 7.6.1): the fields that Connection names, and those that
/// always do. `TE: trailers` stays, because gRPC asks for it, and so does Trailer, which announces what goes end to end
/// (section 6.6.2).
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let lines: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
        let names = lines.iter().filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','));
        for name in names.filter_map(|name| HeaderName::try_from(name.trim()).ok()) {
            // Naming an end-to-end field here must not take it from an upstream that relies on it.
            if name != HOST && name != CONTENT_LENGTH && name != TE {
                headers.remove(name);
            }
        }
        headers.remove(CONNECTION);
    }
    for name in [&KEEP_ALIVE, &PROXY_CONNECTION, &HTTP2_SETTINGS] {
        headers.remove(name);
    }
    for name in [PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    if let Some(te) = headers.remove(TE) {
        let trailers = te.to_str().is_ok_and(|te| te.split(',').any(|coding| coding.trim() == "trailers"));
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// Says of one connection of HTTP/1 what the fields ask of it: to switch protocols, and to send trailers (RFC 9110, sections
/// 7.8 and 10.1.4).
pub(crate) fn connect(headers: &mut HeaderMap, upgrade: Option<HeaderValue>) {
    let options = match (&upgrade, headers.contains_key(TE)) {
        (None, false) => return,
        (None, true) => "te",
        (Some(_), false) => "upgrade",
        (Some(_), true) => "te, upgrade",
    };
    headers.insert(CONNECTION, HeaderValue::from_static(options));
    upgrade.into_iter().for_each(|protocol| _ = headers.insert(UPGRADE, protocol));
}

/// Takes out of a trailer section what belongs to a head alone: framing, routing, and how the content is to be taken (RFC 9110,
/// section 6.5.1).
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    strip_hop_by_hop(trailers);
    strip_own(trailers);
    for name in
        [CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HOST, MAX_FORWARDS, TE, TRAILER]
    {
        trailers.remove(name);
    }
    for name in [AUTHORIZATION, CACHE_CONTROL, SET_COOKIE] {
        trailers.remove(name);
    }
}

/// Does the request offer to switch to the protocol of the answer?
pub(crate) fn offers(asked: &HeaderMap, protocol: Option<&HeaderValue>) -> bool {
    let protocol = protocol.and_then(|protocol| protocol.to_str().ok());
    let lines = asked.get_all(UPGRADE).iter().filter_map(|line| line.to_str().ok());
    protocol.is_some_and(|protocol| {
        lines.flat_map(|line| line.split(',')).any(|offer| offer.trim().eq_ignore_ascii_case(protocol.trim()))
    })
}

/// May the request go no further? Counts down Max-Forwards of OPTIONS (RFC 9110, section 7.6.2).
pub(crate) fn is_last_hop(method: &Method, headers: &mut HeaderMap) -> bool {
    if *method != Method::OPTIONS {
        return false;
    }
    let left = headers.get(MAX_FORWARDS).and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
    match left {
        None => false,
        Some(0) => true,
        Some(left) => {
            insert(headers, &MAX_FORWARDS, &(left - 1).to_string());
            false
        }
    }
}

/// The same, but for fields by which a client may speak to the gateway.
pub(crate) fn strip_own_but(headers: &mut HeaderMap, kept: &[HeaderName]) {
    let said: Vec<(HeaderName, HeaderValue)> =
        kept.iter().filter_map(|name| headers.get(name).map(|value| (name.clone(), value.clone()))).collect();
    strip_own(headers);
    headers.extend(said);
}

/// Takes off every `portolan-` field: nobody outside may speak in the gateway's name, nor in one that servers which hand
/// fields to programs as variables take for it (RFC 3875, section 4.1.18).
pub(crate) fn strip_own(headers: &mut HeaderMap) {
    let own: Vec<HeaderName> = headers.keys().filter(|name| is_own(name.as_str())).cloned().collect();
    for name in own {
        headers.remove(name);
    }
}

fn is_own(name: &str) -> bool {
    let (start, rest) = name.split_at_checked(OWN_PREFIX.len() - 1).unwrap_or_default();
    OWN_PREFIX.starts_with(start) && !start.is_empty() && rest.starts_with(['-', '_'])
}

/// How often the request has passed a portolan gateway, as CDN-Loop tells.
pub(crate) fn hops(headers: &HeaderMap) -> u32 {
    let lines = headers.get_all(&CDN_LOOP).iter().filter_map(|line| line.to_str().ok());
    let ids = lines.flat_map(|line| line.split(',')).map(|id| id.split(';').next().unwrap_or(id).trim());
    u32::try_from(ids.filter(|id| *id == PSEUDONYM).count()).unwrap_or(u32::MAX)
}

/// The request's id: kept from a trusted sender, made here otherwise. At most 128 visible characters.
pub(crate) fn request_id(request: &Inbound) -> HeaderValue {
    let given = request.headers.get(&REQUEST_ID).filter(|id| {
        let good = id.as_bytes().iter().all(u8::is_ascii_graphic);
        !id.is_empty() && id.len() <= 128 && good
    });
    given.cloned().unwrap_or_else(|| {
        HeaderValue::try_from(format!("{:016x}{:016x}", random::u64(), random::u64()))
            .unwrap_or_else(|_| HeaderValue::from_static("0"))
    })
}

/// Says who the client is and which way the request came. What an untrusted sender says of that is replaced.
pub(crate) fn add_forwarding(headers: &mut HeaderMap, request: &Inbound, id: &HeaderValue) {
    let direct = request.downstream.address.ip().to_canonical();
    if request.downstream.peer.is_none() {
        if !request.trusted {
            for name in [&X_FORWARDED_FOR, &X_FORWARDED_HOST, &X_FORWARDED_PROTO] {
                headers.remove(name);
            }
            headers.remove(FORWARDED);
        }
        append(headers, &X_FORWARDED_FOR, &direct.to_string());
        let scheme = if request.secure { "https" } else { "http" };
        let node = if direct.is_ipv6() { format!("\"[{direct}]\"") } else { direct.to_string() };
        append(headers, &FORWARDED, &format!("for={node};host=\"{}\";proto={scheme}", request.authority));
        if !headers.contains_key(&X_FORWARDED_HOST) {
            insert(headers, &X_FORWARDED_HOST, &request.authority);
        }
        headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    append(headers, &VIA, "1.1 portolan");
    append(headers, &CDN_LOOP, PSEUDONYM);
    headers.insert(&REQUEST_ID, id.clone());
    if !headers.contains_key(&TRACEPARENT) {
        // W3C Trace Context, version 00: trace id, parent id, not sampled.
        let (high, low, parent) = (random::u64() | 1, random::u64(), random::u64() | 1);
        insert(headers, &TRACEPARENT, &format!("00-{high:016x}{low:016x}-{parent:016x}-00"));
    }
}

/// Adds to a list field, on its last line.
fn append(headers: &mut HeaderMap, name: &HeaderName, more: &str) {
    let lines: Vec<&str> = headers.get_all(name).iter().filter_map(|line| line.to_str().ok()).collect();
    let joined = if lines.is_empty() { more.to_owned() } else { format!("{}, {more}", lines.join(", ")) };
    insert(headers, name, &joined);
}

pub(crate) fn insert(headers: &mut HeaderMap, name: &HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// Sets one of the fields by which the gateway speaks to its upstreams and clients.
pub(crate) fn own(headers: &mut HeaderMap, name: &'static str, value: &str) {
    insert(headers, &HeaderName::from_static(name), value);
}

/// Makes a policy's edits to one message.
pub(crate) fn edit(headers: &mut HeaderMap, edits: &[HeaderEdit], message: Message) {
    for edit in edits.iter().filter(|edit| edit.message == message) {
        // Names and values were checked when the plan was written.
        let Ok(name) = HeaderName::try_from(&*edit.name) else { continue };
        let Ok(value) = HeaderValue::try_from(&*edit.value) else { continue };
        match edit.kind {
            EditKind::Add => _ = headers.append(name, value),
            EditKind::Remove => _ = headers.remove(name),
            EditKind::Set => _ = headers.insert(name, value),
        }
    }
}
