//! How a route is added: with the scope that it asks for, and with what it does, from which its limits follow. The same words
//! go into the description of the API, so that both cannot differ.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use portolan_foundation::task;
use utoipa::openapi::path::{Operation, Paths};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{ContentBuilder, Ref, ResponseBuilder};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use crate::api::Api;
use crate::caller::{Caller, Scope};
use crate::defaults::{
    BODY_TIMEOUT, CHANGE_BYTES_MAX, QUESTION_BYTES_MAX, READ_TIMEOUT, UPLOAD_TIMEOUT, WRITE_TIMEOUT,
};
use crate::idempotency;
use crate::problem::{Code, Problem};

/// What a route does, and which scope it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Answers a question; its content is read before the handler runs.
    Read(Scope),
    /// Streams; its handler takes a place for that.
    Stream(Scope),
    /// Takes a large content, which its handler reads within limits of its own. It may come again without harm: what it makes is named
    /// by its content.
    Upload(Scope),
    /// Changes something: goes on when its caller goes away, and answers a repeated `Idempotency-Key` as it did before.
    Write(Scope),
}

/// Routes with what they ask for.
pub(crate) struct Routes(OpenApiRouter<Api>);

impl Access {
    const fn scope(self) -> Scope {
        match self {
            Self::Read(scope) | Self::Stream(scope) | Self::Upload(scope) | Self::Write(scope) => scope,
        }
    }
}

impl Routes {
    /// None yet, with what the description begins with.
    pub(crate) fn new(description: utoipa::openapi::OpenApi) -> Self {
        Self(OpenApiRouter::with_openapi(description))
    }

    /// Adds a route, whose description is completed.
    pub(crate) fn add(self, access: Access, routes: UtoipaMethodRouter<Api>) -> Self {
        let (schemas, mut paths, router) = routes;
        describe(&mut paths, access);
        Self(self.0.routes((schemas, paths, router.route_layer(from_fn_with_state(access, enter)))))
    }

    /// The router, and its description.
    pub(crate) fn finish(self) -> (axum::Router<Api>, utoipa::openapi::OpenApi) {
        self.0.split_for_parts()
    }
}

/// Adds to the description what all routes of a kind have.
fn describe(paths: &mut Paths, access: Access) {
    for item in paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
        for operation in operations.into_iter().flatten() {
            complete(operation, access);
        }
    }
}

fn complete(operation: &mut Operation, access: Access) {
    let scope = access.scope();
    let extensions = operation.extensions.get_or_insert_default();
    extensions.insert("x-scope".to_owned(), scope.as_str().into());
    operation.security = Some(vec![SecurityRequirement::new("token", [scope.as_str()])]);
    let always = [("400", "Not understood"), ("401", "Nobody knows who asks"), ("403", "Not allowed")];
    let always = always.into_iter().chain([("413", "Too large"), ("421", "Not a name of this listener")]);
    let always = always.chain([("503", "Away, or too late")]);
    let changes = [
        ("404", "Not there"),
        ("409", "Something stands against it"),
        ("412", "It has changed"),
        ("415", "Another content type"),
        ("422", "No node would run this, or the key was used for another request"),
        ("428", "Say what you saw"),
        ("429", "Too many"),
    ];
    let more: Vec<(&str, &str)> = changes
        .into_iter()
        .filter(|(status, _)| match access {
            Access::Read(_) => matches!(*status, "404" | "409" | "415" | "429"),
            Access::Stream(_) => *status == "429",
            Access::Upload(_) | Access::Write(_) => true,
        })
        .collect();
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    for (status, what) in always.chain(more) {
        let response = ResponseBuilder::new()
            .description(what)
            .content("application/problem+json", content.clone())
            .build()
            .into();
        operation.responses.responses.entry(status.to_owned()).or_insert(response);
    }
    if matches!(access, Access::Write(_)) {
        idempotency::describe(operation);
    }
}

/// What stands before each handler.
async fn enter(State(access): State<Access>, request: Request, next: Next) -> Response {
    let (api, caller) = (request.extensions().get::<Api>(), request.extensions().get::<Caller>());
    let (Some(api), Some(caller)) = (api.cloned(), caller.cloned()) else {
        return Problem::internal("a route was reached past the guard").into_response();
    };
    let scope = access.scope();
    if !caller.may(scope) {
        let role = caller.role;
        let problem =
            Problem::new(Code::Forbidden, format!("this asks for `{scope}`, which you ({role}) do not have"));
        api.deny(Some(&caller), request.method(), request.uri().path(), &problem);
        return problem.into_response();
    }
    // Streams are counted by themselves.
    let _asking = match access {
        Access::Stream(_) => None,
        _ => match api.asking().enter(&caller) {
            Ok(asking) => Some(asking),
            Err(problem) => return problem.into_response(),
        },
    };
    match access {
        Access::Read(_) => match whole(request, QUESTION_BYTES_MAX).await {
            Ok((request, _)) => within(READ_TIMEOUT, next.run(request)).await,
            Err(problem) => problem.into_response(),
        },
        Access::Stream(_) => next.run(request).await,
        Access::Upload(_) => within(UPLOAD_TIMEOUT, next.run(request)).await,
        Access::Write(_) => match whole(request, CHANGE_BYTES_MAX).await {
            Ok((request, content)) => write(api, caller, request, content, next).await,
            Err(problem) => problem.into_response(),
        },
    }
}

/// Runs a change in a task of its own: a caller that goes away leaves nothing half done, and finds the answer when it comes
/// again.
async fn write(api: Api, caller: Caller, request: Request, content: Bytes, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let denial = (api.clone(), caller.clone());
    let work = async move {
        idempotency::once(&api, &caller, request, &content, |request| {
            within(WRITE_TIMEOUT, next.run(request))
        })
        .await
    };
    let response = match task::spawn("admin-change", work).await {
        Ok(Some(response)) => response,
        _ => Problem::internal("a change panicked").into_response(),
    };
    // A change that someone may not make is worth a line, whoever noticed it.
    if response.status() == http::StatusCode::FORBIDDEN {
        let problem = Problem::new(Code::Forbidden, "the change was refused");
        denial.0.deny(Some(&denial.1), &method, &path, &problem);
    }
    response
}

async fn within(limit: Duration, answer: impl Future<Output = Response>) -> Response {
    let answered = tokio::time::timeout(limit, answer).await;
    answered.unwrap_or_else(|_| {
        Problem::new(Code::Timeout, format!("no answer within {} s", limit.as_secs())).into_response()
    })
}

/// Reads a content within limits of size and time, and puts it back.
async fn whole(request: Request, bytes_max: usize) -> Result<(Request, Bytes), Problem> {
    let (parts, body) = request.into_parts();
    let read = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, bytes_max).collect()).await;
    let content = match read {
        Ok(Ok(content)) => content.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let detail = format!("the content has more than {bytes_max} bytes: send it in parts");
            return Err(Problem::new(Code::TooLarge, detail));
        }
        Ok(Err(error)) => return Err(Problem::invalid(format!("the content could not be read: {error}"))),
        Err(_) => {
            let detail = format!("the content did not come within {} s", BODY_TIMEOUT.as_secs());
            return Err(Problem::new(Code::Timeout, detail));
        }
    };
    Ok((Request::from_parts(parts, Body::from(content.clone())), content))
}
