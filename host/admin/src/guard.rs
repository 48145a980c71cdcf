//! The door: whatever passes comes by a name of this listener, from no foreign page, and from someone who is known.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue};

use crate::api::Api;
use crate::authentic::{self, Peer};
use crate::problem::{Code, Problem};

/// What everything below needs a caller for.
const GUARDED: &str = "/api/v1";

/// Lets a request in, or says why not.
pub(crate) async fn pass(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    api.count_request();
    let path = request.uri().path();
    let is_guarded = path.strip_prefix(GUARDED).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let peer = request.extensions().get::<Peer>().cloned();
    let headers = request.headers().clone();
    let checked = match peer {
        None => Err(Problem::new(Code::Unauthenticated, "this request came from nowhere")),
        Some(peer) => check(&api, &peer, &headers, is_guarded).await,
    };
    let mut response = match checked {
        Ok(caller) => {
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            request.extensions_mut().insert(api);
            next.run(request).await
        }
        Err(problem) => {
            api.deny(None, request.method(), request.uri().path(), &problem);
            problem.into_response()
        }
    };
    let headers = response.headers_mut();
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    response
}

async fn check(
    api: &Api,
    peer: &Peer,
    headers: &HeaderMap,
    is_guarded: bool,
) -> Result<Option<crate::Caller>, Problem> {
    if let Peer::Tcp { local, .. } = peer {
        // A page of a foreign site whose name was made to point here sends that site's name.
        let host = host(headers)?;
        let own = local.ip().to_string();
        let name = host.host().trim_matches(['[', ']']);
        let known = ["localhost", "127.0.0.1", "::1", own.as_str()]
            .into_iter()
            .chain(api.settings().hosts.iter().map(String::as_str))
            .any(|known| known.eq_ignore_ascii_case(name));
        if !known {
            let detail = format!("`{name}` is no name of this listener: add it to admin.hosts if it is one");
            return Err(Problem::new(Code::HostRefused, detail));
        }
        origin(api, headers, &host)?;
    }
    if is_guarded { authentic::authenticate(api, peer, headers).await.map(Some) } else { Ok(None) }
}

fn host(headers: &HeaderMap) -> Result<Authority, Problem> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().filter(|_| hosts.next().is_none());
    let host = host.and_then(|host| host.to_str().ok()).and_then(|host| host.parse::<Authority>().ok());
    let host = host.filter(|host| !host.as_str().contains('@'));
    host.ok_or_else(|| Problem::new(Code::HostRefused, "send one `Host`, with this listener's name"))
}

/// A browser says which page asks. Only this listener's own may, and those that the operator names.
fn origin(api: &Api, headers: &HeaderMap, host: &Authority) -> Result<(), Problem> {
    let foreign = |what: &str| {
        let detail = format!("{what} may not call this API: add its origin to admin.origins if it may");
        Err(Problem::new(Code::OriginRefused, detail))
    };
    if let Some(origin) = headers.get(ORIGIN) {
        let text = origin.to_str().unwrap_or_default();
        let same = text.split_once("://").is_some_and(|(scheme, authority)| {
            matches!(scheme, "http" | "https") && authority.eq_ignore_ascii_case(host.as_str())
        });
        if same || api.settings().origins.iter().any(|known| known.eq_ignore_ascii_case(text)) {
            return Ok(());
        }
        return foreign(&format!("the page `{}`", text.chars().take(100).collect::<String>()));
    }
    match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => foreign("a page of another site"),
    }
}
