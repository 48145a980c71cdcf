//! Requests as they are decided: `/tail`. What is not told is said: left out by the rate (`sampled`), or because the listener was
//! too slow (`dropped`).

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Interval, MissedTickBehavior, interval};
use utoipa::IntoParams;
use utoipa_axum::routes;

use crate::api::Api;
use crate::backend::{Tail, TailFilter};
use crate::caller::{Caller, Scope};
use crate::defaults::STREAM_BEAT;
use crate::extract::{Parameters, short};
use crate::problem::{Code, Problem};
use crate::routes::{Access, Routes};
use crate::sse;
use crate::streams::Place;

/// How often a listener is told what it was not told.
const ACCOUNT_EVERY: Duration = Duration::from_secs(1);
/// Lines of one frame of the response's body: a busy tail is sent in larger pieces.
const BATCH_LINES: usize = 64;

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// Only requests of this tenant.
    #[param(max_length = 63)]
    tenant: Option<String>,
    /// Only with this status, or of this class, such as `404` or `5xx`.
    #[param(pattern = "^[1-5]([0-9][0-9]|xx)$")]
    status: Option<String>,
    /// Only with this method.
    #[param(max_length = 32)]
    method: Option<String>,
    /// Only decided by this policy.
    #[param(max_length = 63)]
    policy: Option<String>,
    /// Only with paths that begin so.
    #[param(max_length = 200)]
    path: Option<String>,
    /// Of a thousand requests that fit, so many (1000).
    #[param(minimum = 1, maximum = 1000)]
    permille: Option<u32>,
}

pub(crate) fn add(routes: Routes) -> Routes {
    routes.add(Access::Stream(Scope::TailRead), routes!(tail))
}

/// Streams requests as they end, as the access log has them. A tenant's caller sees its own tenant's.
#[utoipa::path(get, path = "/api/v1/tail", tag = "live", params(Wanted),
    responses((status = 200, description = "Frames `request`, `sampled`, `dropped`", body = String,
        content_type = "text/event-stream")))]
async fn tail(
    State(api): State<Api>,
    caller: Caller,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Response, Problem> {
    let filter = filter(&caller, wanted)?;
    let place = api.streams().enter(&caller)?;
    let tail = api.backends().node.tail(filter)?;
    let mut account = interval(ACCOUNT_EVERY);
    account.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let listening =
        Listening { account, api, beats: interval(STREAM_BEAT), begun: false, place, tail, told: (0, 0) };
    Ok(sse::respond(stream::unfold(listening, Listening::next)))
}

fn filter(caller: &Caller, wanted: Wanted) -> Result<TailFilter, Problem> {
    short(&[
        ("tenant", &wanted.tenant, 63),
        ("method", &wanted.method, 32),
        ("policy", &wanted.policy, 63),
        ("path", &wanted.path, 200),
    ])?;
    let mut tenant = wanted.tenant;
    if let Some(own) = &caller.tenant {
        if tenant.as_deref().is_some_and(|tenant| tenant != own.as_str()) {
            return Err(Problem::new(Code::Forbidden, "you may listen to your own tenant only"));
        }
        tenant = Some(own.to_string());
    }
    if let Some(status) = &wanted.status {
        let good = match status.as_bytes() {
            [b'1'..=b'5', b'x', b'x'] => true,
            [b'1'..=b'5', tens, ones] => tens.is_ascii_digit() && ones.is_ascii_digit(),
            _ => false,
        };
        if !good {
            return Err(Problem::invalid("`status` is a number such as `404`, or a class such as `5xx`"));
        }
    }
    let permille = wanted.permille.unwrap_or(1_000);
    if !(1..=1_000).contains(&permille) {
        return Err(Problem::invalid("`permille` is 1 to 1000"));
    }
    Ok(TailFilter {
        tenant,
        status: wanted.status,
        method: wanted.method,
        policy: wanted.policy,
        path: wanted.path,
        permille,
    })
}

struct Listening {
    account: Interval,
    api: Api,
    beats: Interval,
    begun: bool,
    place: Place,
    tail: Tail,
    /// What it was told that it was not told: sampled, dropped.
    told: (u64, u64),
}

impl Listening {
    async fn next(mut self) -> Option<(String, Self)> {
        if !self.begun {
            self.begun = true;
            return Some((sse::BEAT.to_owned(), self));
        }
        loop {
            // All are cancel-safe.
            tokio::select! {
                line = self.tail.lines.recv() => {
                    let mut frames = sse::frame(None, "request", &line?);
                    for _ in 1..BATCH_LINES {
                        let Ok(line) = self.tail.lines.try_recv() else { break };
                        frames.push_str(&sse::frame(None, "request", &line));
                    }
                    return Some((frames, self));
                }
                _ = self.account.tick() => {
                    let frames = self.untold();
                    if !frames.is_empty() {
                        return Some((frames, self));
                    }
                }
                _ = self.beats.tick() => {
                    if !self.place.holds(&self.api).await {
                        return None;
                    }
                    return Some((sse::BEAT.to_owned(), self));
                }
            }
        }
    }

    fn untold(&mut self) -> String {
        let now = (self.tail.untold.sampled(), self.tail.untold.dropped());
        let mut frames = String::new();
        for (name, now, told) in [("sampled", now.0, self.told.0), ("dropped", now.1, self.told.1)] {
            if now > told {
                frames.push_str(&sse::frame(None, name, &json!({ "requests": now - told, "in_all": now })));
            }
        }
        self.told = now;
        frames
    }
}
