//! `portolan token`: makes, lists and revokes tokens of the admin API.

use std::process::ExitCode;

use http::Method;
use portolan_admin::Page;
use portolan_foundation::clock;
use serde_json::{Value, json};

use crate::cli::Token;
use crate::client::Client;
use crate::{apply, print};

/// Carries out one of them.
///
/// # Errors
/// When the API refuses it.
pub(crate) fn run(command: &Token) -> anyhow::Result<ExitCode> {
    match command {
        Token::Create { name, role, tenant, scopes, expires_in, target, json: as_json } => {
            let wanted = json!({
                "name": name,
                "role": role,
                "tenant": tenant,
                "scopes": (!scopes.is_empty()).then_some(scopes),
                "expires_in_s": expires_in.map(|time| time.as_secs()),
            });
            let made: Value = Client::open(target)?.post("/api/v1/tokens", &wanted)?;
            if *as_json {
                print(&serde_json::to_string_pretty(&made)?)?;
                return Ok(ExitCode::SUCCESS);
            }
            // The token alone on standard output, so that it can be put where it belongs.
            eprintln!("this is shown once; it ends {}:", time(made.pointer("/about/expires_at_ms")));
            print(text(&made, "token"))?;
            eprintln!("undo: {}", text(&made, "undo"));
        }
        Token::Debug { tenant, time, file } => crate::token::debug(tenant.as_deref(), *time, &file.config)?,
        Token::List { target, json: as_json } => list(&Client::open(target)?, *as_json)?,
        Token::Preview { slot, version, tenant, time: holds, target, json: as_json } => {
            let wanted = json!({ "version": version, "tenant": tenant, "expires_in_s": holds.as_secs() });
            let path = format!("/api/v1/previews/{}", crate::client::encode(slot));
            let made: Value = Client::open(target)?.post(&path, &wanted)?;
            if *as_json {
                print(&serde_json::to_string_pretty(&made)?)?;
                return Ok(ExitCode::SUCCESS);
            }
            // The word alone on standard output, so that it can be put into a command.
            let (plugin, version) = (text(&made, "plugin"), text(&made, "version"));
            eprintln!("requests with this in portolan-preview are decided by {plugin}@{version} in {slot}");
            eprintln!("it ends {}:", time(made.get("expires_at_ms")));
            print(text(&made, "word"))?;
        }
        Token::Revoke { id, target, json: as_json } => {
            let path = format!("/api/v1/tokens/{}", crate::client::encode(id));
            let answer = Client::open(target)?.ask(Method::DELETE, &path, &[], None)?;
            return apply::show(&serde_json::from_value(answer.json()?)?, *as_json);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(client: &Client, as_json: bool) -> anyhow::Result<()> {
    let mut all: Vec<Value> = Vec::new();
    let mut cursor = String::new();
    loop {
        let page: Page<Value> = client.get(&format!("/api/v1/tokens?limit=500{cursor}"))?;
        all.extend(page.items);
        match page.next {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    if as_json {
        return print(&serde_json::to_string_pretty(&all)?);
    }
    for token in &all {
        let text = |name: &str| text(token, name);
        let tenant = Some(text("tenant")).filter(|tenant| !tenant.is_empty());
        let tenant = tenant.map_or_else(String::new, |tenant| format!(" of {tenant}"));
        let ends = if token.get("expired") == Some(&Value::Bool(true)) { "ENDED" } else { "ends" };
        let used = match token.get("last_use_ms") {
            None => "not used here since this node started".to_owned(),
            at => format!("last used here {}", time(at)),
        };
        print(&format!(
            "{}  {}{tenant}  {}\n                  {ends} {}, {used}, made by {}",
            text("id"),
            text("role"),
            text("name"),
            time(token.get("expires_at_ms")),
            text("created_by")
        ))?;
    }
    Ok(())
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn time(ms: Option<&Value>) -> String {
    let ms = ms.and_then(Value::as_u64).unwrap_or(0);
    humantime::format_rfc3339_seconds(clock::from_unix_ms(ms)).to_string()
}
