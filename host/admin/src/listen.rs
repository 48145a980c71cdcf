//! Events as a stream: `/events`. Whoever comes again with the last id goes on from there, and is told what it missed.

use axum::extract::State;
use axum::response::Response;
use futures_util::stream;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Interval, interval};
use utoipa::IntoParams;
use utoipa_axum::routes;

use crate::api::Api;
use crate::caller::{Caller, Scope};
use crate::defaults::STREAM_BEAT;
use crate::events::{Event, News};
use crate::extract::{Parameters, short};
use crate::problem::{Code, Problem};
use crate::routes::{Access, Routes};
use crate::sse;
use crate::streams::Place;

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// Only events of these types, with commas between.
    #[param(max_length = 500)]
    types: Option<String>,
    /// Only events of this tenant.
    #[param(max_length = 63)]
    tenant: Option<String>,
    /// End when all that there is has been told, instead of waiting for more.
    #[serde(default)]
    no_wait: bool,
}

pub(crate) fn add(routes: Routes) -> Routes {
    routes.add(Access::Stream(Scope::EventRead), routes!(events))
}

/// Streams events. Frames `dropped` say how many were missed; a tenant's caller hears of its own tenant.
#[utoipa::path(get, path = "/api/v1/events", tag = "live",
    params(Wanted, ("Last-Event-ID" = Option<String>, Header, description = "Go on after this event")),
    responses((status = 200, description = "Frames named as the events' types", body = String,
        content_type = "text/event-stream")))]
async fn events(
    State(api): State<Api>,
    caller: Caller,
    Parameters(wanted): Parameters<Wanted>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let foreign = |own: &str| wanted.tenant.as_deref().is_some_and(|tenant| tenant != own);
    if caller.tenant.as_ref().is_some_and(|own| foreign(own.as_str())) {
        return Err(Problem::new(Code::Forbidden, "you may listen to your own tenant only"));
    }
    short(&[("types", &wanted.types, 500), ("tenant", &wanted.tenant, 63)])?;
    let place = api.streams().enter(&caller)?;
    let news = api.events().follow();
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let (number, another_life) = match last {
        // Without an id: what is still known, so that whoever comes late sees how it came to be.
        None => (api.events().newest().saturating_sub(crate::defaults::EVENTS_MAX as u64), false),
        Some(id) => api.events().number(id).map_or((0, true), |number| (number, false)),
    };
    let listening = Listening {
        api,
        another_life,
        beats: interval(STREAM_BEAT),
        begun: false,
        news,
        number,
        place,
        wanted,
    };
    Ok(sse::respond(stream::unfold(listening, Listening::next)))
}

struct Listening {
    api: Api,
    /// The last id is of another life of this node: nobody knows what was missed.
    another_life: bool,
    beats: Interval,
    begun: bool,
    news: watch::Receiver<u64>,
    number: u64,
    place: Place,
    wanted: Wanted,
}

impl Listening {
    async fn next(mut self) -> Option<(String, Self)> {
        if !self.begun {
            self.begun = true;
            // Sent at once, so that a listener knows that it is heard.
            return Some((self.hello(), self));
        }
        loop {
            self.news.borrow_and_update();
            let News { missed, events } = self.api.events().after(self.number);
            let mut frames = String::new();
            if missed > 0 {
                frames.push_str(&sse::frame(None, "dropped", &json!({ "events": missed })));
            }
            for (number, event) in events {
                self.number = number;
                if self.wants(&event) {
                    let id = self.api.events().id(number);
                    frames.push_str(&sse::frame(Some(&id), event.kind, &*event));
                }
            }
            if !frames.is_empty() {
                return Some((frames, self));
            }
            if self.wanted.no_wait {
                return None;
            }
            // Both are cancel-safe.
            tokio::select! {
                changed = self.news.changed() => changed.ok()?,
                _ = self.beats.tick() => {
                    if !self.place.holds(&self.api).await {
                        return None;
                    }
                    return Some((sse::BEAT.to_owned(), self));
                }
            }
        }
    }

    fn hello(&self) -> String {
        if self.another_life {
            let why = "the node has started anew since; what happened before is not known here";
            return sse::frame(None, "dropped", &json!({ "events": null, "reason": why }));
        }
        sse::BEAT.to_owned()
    }

    fn wants(&self, event: &Event) -> bool {
        let tenant = event.tenant.as_ref().map(portolan_core::ids::TenantName::as_str);
        let of_type = |types: &str| types.split(',').any(|kind| kind.trim() == event.kind);
        self.place.caller().sees(event.tenant.as_ref())
            && self.wanted.tenant.as_deref().is_none_or(|wanted| tenant == Some(wanted))
            && self.wanted.types.as_deref().is_none_or(of_type)
    }
}
