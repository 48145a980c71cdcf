//! What would become of a request: `/explain`.

use axum::extract::State;
use serde_json::Value;
use utoipa_axum::routes;

use crate::api::Api;
use crate::backend::Question;
use crate::caller::{Caller, Scope};
use crate::extract::Json;
use crate::problem::{Code, Problem};
use crate::routes::{Access, Routes};

pub(crate) fn add(routes: Routes) -> Routes {
    routes.add(Access::Read(Scope::Explain), routes!(explain))
}

/// Thinks a request through, step by step, as the node stands now; nothing is sent. A tenant's caller asks for its own tenant.
#[utoipa::path(post, path = "/api/v1/explain", tag = "decisions", request_body = Question,
    responses((status = 200, description = "What would become of it", body = Object)))]
async fn explain(
    State(api): State<Api>,
    caller: Caller,
    Json(mut question): Json<Question>,
) -> Result<axum::Json<Value>, Problem> {
    if let Some(own) = &caller.tenant {
        if question.tenant.as_deref().is_some_and(|tenant| tenant != own.as_str()) {
            return Err(Problem::new(Code::Forbidden, "you may ask for your own tenant only")
                .at("/tenant", "another"));
        }
        question.tenant = Some(own.to_string());
    }
    let mut answer = api.backends().node.explain(question).await?;
    if caller.tenant.is_some() {
        conceal(&mut answer);
    }
    Ok(axum::Json(answer))
}

/// Takes out what is the operator's: the rules of its policy, and where endpoints are.
fn conceal(answer: &mut Value) {
    let Some(answer) = answer.as_object_mut() else { return };
    if let Some(candidates) = answer.get_mut("candidates").and_then(Value::as_array_mut) {
        for candidate in candidates.iter_mut().filter_map(Value::as_object_mut) {
            candidate.remove("via");
        }
    }
    if let Some(policies) = answer.get_mut("policies").and_then(Value::as_array_mut) {
        let own = |policy: &Value| policy.get("slot").is_some_and(|slot| slot != "operator");
        policies.retain(own);
    }
}
