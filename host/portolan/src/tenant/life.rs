//! `portolan tenant create|suspend|resume|claim`: the life of a tenant, over the admin API.

use std::process::ExitCode;

use anyhow::Context as _;
use http::Method;
use portolan_admin::backend::Outcome;
use portolan_core::ids::TenantName;
use serde_json::{Value, json};

use super::{list, number, text};
use crate::cli::tenant::{Change, Claim, Claims, Create, Suspend};
use crate::client::{Client, encode};
use crate::{apply, print};

/// Makes a tenant, or finds that it is there as it is wanted.
///
/// # Errors
/// When it is there otherwise, or a claim is another's.
pub(crate) fn create(command: &Create) -> anyhow::Result<ExitCode> {
    let claims = command.claims.iter().map(|(kind, value)| json!({ "kind": kind, "value": value }));
    let wanted = json!({
        "name": command.name, "location": command.location, "residency": command.residency,
        "shard": command.shard, "claims": claims.collect::<Vec<_>>(),
    });
    let told: Value = send(Method::POST, "/api/v1/tenants", &command.change, Some(&wanted))?;
    if command.change.json {
        print(&serde_json::to_string_pretty(&told)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (name, id, generation) = (text(&told, "/name"), text(&told, "/id"), number(&told, "/generation"));
    let what = match (command.change.dry_run, told.pointer("/changed")) {
        (true, _) => "could be made; nothing was changed".to_owned(),
        (false, Some(Value::Bool(true))) => format!("is made in generation {generation}"),
        (false, _) => "is there, as it is wanted".to_owned(),
    };
    print(&format!("tenant {name} ({id}) {what}"))?;
    Ok(ExitCode::SUCCESS)
}

/// Suspends a tenant, or serves it again.
///
/// # Errors
/// When the store does not take it.
pub(crate) fn suspend(command: &Suspend, resume: bool) -> anyhow::Result<ExitCode> {
    let name = TenantName::new(&command.name)?;
    let method = if resume { Method::DELETE } else { Method::PUT };
    let outcome: Outcome =
        send(method, &format!("/api/v1/tenants/{name}/suspension"), &command.change, None)?;
    apply::show(&outcome, command.change.json)
}

/// Looks at claims, makes them and gives them up.
///
/// # Errors
/// When the store does not take it, or nobody has the claim.
pub(crate) fn claims(command: &Claims) -> anyhow::Result<ExitCode> {
    match command {
        Claims::Add { name, claim: (kind, value), change } => {
            let path = format!("/api/v1/tenants/{}/claims", TenantName::new(name)?);
            let wanted = json!({ "kind": kind, "value": value });
            apply::show(&send(Method::POST, &path, change, Some(&wanted))?, change.json)
        }
        Claims::Remove { claim, change } => {
            apply::show(&send(Method::DELETE, &path(claim), change, None)?, change.json)
        }
        Claims::Find { claim, target, json } => {
            let held: Value = Client::open(target)?.get(&path(claim))?;
            if *json {
                print(&serde_json::to_string_pretty(&held)?)?
            } else {
                print(text(&held, "/tenant"))?
            }
            Ok(ExitCode::SUCCESS)
        }
        Claims::List { name, target, json } => {
            let path = format!("/api/v1/tenants/{}/claims?limit=500", TenantName::new(name)?);
            let told: Value = Client::open(target)?.get(&path)?;
            let items = list(&told, "items");
            if *json {
                print(&serde_json::to_string_pretty(items)?)?;
            } else if items.is_empty() {
                print("it claims nothing")?;
            } else {
                let line = |item: &Value| print(&format!("{} {}", text(item, "/kind"), text(item, "/shown")));
                items.iter().try_for_each(line)?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn path((kind, value): &Claim) -> String {
    format!("/api/v1/claims/{}/{}", encode(kind), encode(value))
}

fn send<T: serde::de::DeserializeOwned>(
    method: Method,
    path: &str,
    change: &Change,
    body: Option<&Value>,
) -> anyhow::Result<T> {
    let path = format!("{path}?dry_run={}&message={}", change.dry_run, encode(&change.message));
    let body = body.map(serde_json::to_vec).transpose().context("write the question")?;
    let headers: &[(&str, &str)] = if body.is_some() { &[("content-type", "application/json")] } else { &[] };
    let answer = Client::open(&change.target)?.ask(method, &path, headers, body)?;
    serde_json::from_slice(&answer.body).context("read the node's answer")
}
