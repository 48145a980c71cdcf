//! What takes longer than a request: an operation is a resource with stages, which its caller looks at or listens to.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use http::header::LOCATION;
use http::{HeaderValue, StatusCode};
use portolan_core::ids::TenantName;
use portolan_foundation::{clock, random};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Interval, interval};
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::api::Api;
use crate::caller::{Caller, Scope};
use crate::defaults::{OPERATIONS_MAX, OPERATIONS_OF_TENANT_MAX, STAGES_MAX, STREAM_BEAT};
use crate::events::Events;
use crate::extract::{Names, Parameters};
use crate::page::{self, Page, Paging};
use crate::problem::{Code, Problem};
use crate::routes::{Access, Routes};
use crate::sse;
use crate::streams::Place;

/// How far something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StageState {
    /// It ended badly.
    Failed,
    /// It goes on.
    Running,
    /// It ended well.
    Succeeded,
}

/// One stage of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stage {
    /// What is done.
    pub name: String,
    /// How far it is.
    pub state: StageState,
    /// What came of it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// When it began, in milliseconds since 1970.
    pub began_at_ms: u64,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at_ms: Option<u64>,
}

/// Something that takes longer than a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Its own among all of this node.
    pub id: String,
    /// What it is: `upload`, `replay` ...
    pub kind: String,
    /// Who began it.
    pub by: String,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub tenant: Option<TenantName>,
    /// How far it is.
    pub state: StageState,
    /// Its stages so far.
    pub stages: Vec<Stage>,
    /// When it began, in milliseconds since 1970.
    pub began_at_ms: u64,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at_ms: Option<u64>,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub result: Option<Value>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// The operations of this node, since it started.
#[derive(Clone, Debug)]
pub struct Operations(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    all: Mutex<Inside>,
    events: Events,
}

#[derive(Debug, Default)]
struct Inside {
    by_id: HashMap<String, watch::Sender<Operation>>,
    /// Ids, the oldest first.
    order: VecDeque<String>,
}

/// What moves an operation on. Dropped without an end, the operation has failed.
#[derive(Debug)]
pub struct Progress {
    current: watch::Sender<Operation>,
    events: Events,
}

impl Operations {
    pub(crate) fn new(events: Events) -> Self {
        Self(Arc::new(Shared { all: Mutex::default(), events }))
    }

    /// Begins an operation of a caller.
    ///
    /// # Errors
    /// When its tenant, or all callers together, have too many that run.
    pub fn begin(&self, kind: &str, caller: &Caller) -> Result<Progress, Problem> {
        let id = format!("{:016x}{:016x}", random::u64(), random::u64());
        let operation = Operation {
            id: id.clone(),
            kind: kind.to_owned(),
            by: caller.author(),
            tenant: caller.tenant.clone(),
            state: StageState::Running,
            stages: Vec::new(),
            began_at_ms: clock::unix_ms(),
            ended_at_ms: None,
            result: None,
            problem: None,
        };
        let mut all = self.0.all.lock().unwrap_or_else(PoisonError::into_inner);
        let too_many = |whose: &str| {
            Problem::new(Code::TooMany, format!("{whose} operations run already: wait for one to end"))
        };
        if caller.tenant.is_some() {
            let running = all.by_id.values().filter(|one| {
                let one = one.borrow();
                one.tenant == caller.tenant && one.state == StageState::Running
            });
            if running.count() >= OPERATIONS_OF_TENANT_MAX {
                return Err(too_many("as many of your"));
            }
        }
        if all.order.len() >= OPERATIONS_MAX {
            let ended =
                |id: &String| all.by_id.get(id).is_none_or(|one| one.borrow().state != StageState::Running);
            let place = all.order.iter().position(ended).ok_or_else(|| too_many("too many"))?;
            if let Some(id) = all.order.remove(place) {
                all.by_id.remove(&id);
            }
        }
        let current = watch::Sender::new(operation);
        all.by_id.insert(id.clone(), current.clone());
        all.order.push_back(id);
        drop(all);
        Ok(Progress { current, events: self.0.events.clone() })
    }

    /// One operation as it is now, if the caller may see it.
    pub(crate) fn get(&self, id: &str, caller: &Caller) -> Result<Operation, Problem> {
        Ok(self.find(id, caller)?.borrow().clone())
    }

    /// One operation, if the caller may see it.
    fn find(&self, id: &str, caller: &Caller) -> Result<watch::Receiver<Operation>, Problem> {
        let all = self.0.all.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.by_id.get(id).filter(|one| caller.sees(one.borrow().tenant.as_ref()));
        let found = found.map(watch::Sender::subscribe);
        drop(all);
        found.ok_or_else(|| {
            Problem::not_found(
                "such operation: operations are this node's own, and forgotten when it starts anew",
            )
        })
    }

    /// Operations that the caller may see, the newest first.
    fn list(&self, caller: &Caller) -> Vec<Operation> {
        let all = self.0.all.lock().unwrap_or_else(PoisonError::into_inner);
        let newest_first = all.order.iter().rev().filter_map(|id| all.by_id.get(id));
        newest_first.map(|one| one.borrow().clone()).filter(|one| caller.sees(one.tenant.as_ref())).collect()
    }
}

impl Progress {
    /// The operation's id.
    #[must_use]
    pub fn id(&self) -> String {
        self.current.borrow().id.clone()
    }

    /// The operation as it is now.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.current.borrow().clone()
    }

    /// That it has begun, and where it is to be found.
    pub(crate) fn accepted(&self) -> Response {
        let operation = self.operation();
        let place = HeaderValue::try_from(format!("/api/v1/operations/{}", operation.id));
        let mut response = (StatusCode::ACCEPTED, axum::Json(operation)).into_response();
        if let Ok(place) = place {
            response.headers_mut().insert(LOCATION, place);
        }
        response
    }

    /// The stage before has ended well, this one begins.
    pub fn stage(&self, name: &str) {
        self.current.send_modify(|operation| {
            let now = clock::unix_ms();
            end_stage(operation, StageState::Succeeded, now);
            if operation.stages.len() < STAGES_MAX {
                operation.stages.push(Stage {
                    name: name.to_owned(),
                    state: StageState::Running,
                    detail: None,
                    began_at_ms: now,
                    ended_at_ms: None,
                });
            }
        });
    }

    /// Says what came of the stage that runs.
    pub fn note(&self, detail: impl Into<String>) {
        self.current.send_modify(|operation| {
            if let Some(stage) = operation.stages.last_mut() {
                stage.detail = Some(detail.into());
            }
        });
    }

    /// It ended well.
    pub fn succeed(self, result: Value) {
        self.end(StageState::Succeeded, Some(result), None);
    }

    /// It ended badly, with something to look at.
    pub fn refuse(self, problem: Problem, result: Value) {
        self.end(StageState::Failed, Some(result), Some(problem));
    }

    /// It ended badly, in the stage that runs.
    pub fn fail(self, problem: Problem) {
        self.end(StageState::Failed, None, Some(problem));
    }

    fn end(&self, state: StageState, result: Option<Value>, problem: Option<Problem>) {
        self.current.send_modify(|operation| {
            let now = clock::unix_ms();
            end_stage(operation, state, now);
            operation.state = state;
            operation.ended_at_ms = Some(now);
            operation.result = result;
            operation.problem = problem;
        });
        let (tenant, told) = {
            let ended = self.current.borrow();
            (ended.tenant.clone(), json!({ "id": ended.id, "kind": ended.kind, "state": ended.state }))
        };
        self.events.tell("operation", tenant, told);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.current.borrow().state == StageState::Running {
            let problem = Problem::new(Code::Internal, "the operation was abandoned: begin it again");
            self.end(StageState::Failed, None, Some(problem));
        }
    }
}

fn end_stage(operation: &mut Operation, state: StageState, now: u64) {
    if let Some(stage) = operation.stages.last_mut().filter(|stage| stage.state == StageState::Running) {
        stage.state = state;
        stage.ended_at_ms = Some(now);
    }
}

pub(crate) fn add(routes: Routes) -> Routes {
    routes
        .add(Access::Read(Scope::OperationRead), routes!(list_operations))
        .add(Access::Read(Scope::OperationRead), routes!(get_operation))
        .add(Access::Stream(Scope::OperationRead), routes!(follow_operation))
}

/// Lists operations, the newest first.
#[utoipa::path(get, path = "/api/v1/operations", tag = "operations", params(Paging),
    responses((status = 200, description = "Operations", body = Page<Operation>)))]
async fn list_operations(
    State(api): State<Api>,
    caller: Caller,
    Parameters(paging): Parameters<Paging>,
) -> Result<axum::Json<Page<Operation>>, Problem> {
    let (limit, after) = (page::limit(paging.limit)?, page::place(paging.cursor.as_deref())?);
    let all = api.operations().list(&caller).into_iter();
    let items: Vec<Operation> = match after {
        Some(after) => all.skip_while(|one| one.id != after).skip(1).take(limit + 1).collect(),
        None => all.take(limit + 1).collect(),
    };
    Ok(axum::Json(Page::of(items, limit, |one| one.id.clone())))
}

/// Shows an operation.
#[utoipa::path(get, path = "/api/v1/operations/{id}", tag = "operations",
    params(("id" = String, Path, description = "The operation's id")),
    responses((status = 200, description = "The operation", body = Operation)))]
async fn get_operation(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<String>,
) -> Result<axum::Json<Operation>, Problem> {
    let found = api.operations().find(&id, &caller)?.borrow().clone();
    Ok(axum::Json(found))
}

/// Streams an operation: all of it with each change, until it has ended.
#[utoipa::path(get, path = "/api/v1/operations/{id}/events", tag = "operations",
    params(("id" = String, Path, description = "The operation's id")),
    responses(
        (status = 200, description = "Frames `operation`", body = String, content_type = "text/event-stream"),
        (status = 404, description = "Not there", body = Problem, content_type = "application/problem+json")))]
async fn follow_operation(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<String>,
) -> Result<Response, Problem> {
    let operation = api.operations().find(&id, &caller)?;
    let place = api.streams().enter(&caller)?;
    let following =
        Following { api, beats: interval(STREAM_BEAT), first: true, operation, place, ended: false };
    Ok(sse::respond(stream::unfold(following, Following::next)))
}

struct Following {
    api: Api,
    beats: Interval,
    ended: bool,
    first: bool,
    operation: watch::Receiver<Operation>,
    place: Place,
}

impl Following {
    async fn next(mut self) -> Option<(String, Self)> {
        if self.ended {
            return None;
        }
        if !self.first {
            // Both are cancel-safe.
            tokio::select! {
                changed = self.operation.changed() => changed.ok()?,
                _ = self.beats.tick() => {
                    if !self.place.holds(&self.api).await {
                        return None;
                    }
                    return Some((sse::BEAT.to_owned(), self));
                }
            }
        }
        self.first = false;
        let frame = {
            let operation = self.operation.borrow_and_update();
            self.ended = operation.state != StageState::Running;
            sse::frame(None, "operation", &*operation)
        };
        Some((frame, self))
    }
}
