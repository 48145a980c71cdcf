//! `portolan generations`, `audit` and `revert`: what was intended when and by whom, whether the log is whole, and going back.

use std::process::ExitCode;

use portolan_admin::Page;
use portolan_admin::backend::{Change, Edit, Verification};
use portolan_foundation::clock;
use serde_json::json;

use crate::cli::{Audit, Generations, Revert};
use crate::client::Client;
use crate::{apply, print};

/// Items of one page of the API.
const PAGE_ITEMS: u64 = 100;
/// Objects of a change that are named in its line.
const SHOWN_OBJECTS: usize = 3;

/// Lists generations, the newest first.
///
/// # Errors
/// When the store is away.
pub(crate) fn list(options: &Generations) -> anyhow::Result<()> {
    let client = Client::open(&options.target)?;
    show(&changes(&client, "/api/v1/changes", &[], options.number)?, options.json, false)
}

/// Lists the entries of the log, or walks through all of it.
///
/// # Errors
/// When the store is away.
pub(crate) fn audit(options: &Audit) -> anyhow::Result<ExitCode> {
    let client = Client::open(&options.target)?;
    if options.verify {
        return verify(&client, options.json);
    }
    let filters = [("author", &options.author), ("source", &options.source), ("object", &options.object)];
    let filters: Vec<(&str, &str)> =
        filters.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
    show(&changes(&client, "/api/v1/audit", &filters, options.number)?, options.json, true)?;
    Ok(ExitCode::SUCCESS)
}

/// Makes a generation that says what an earlier one said.
///
/// # Errors
/// When the store does not take it, or has no such generation.
pub(crate) fn revert(options: &Revert) -> anyhow::Result<ExitCode> {
    let client = Client::open(&options.target)?;
    let path = format!("/api/v1/generations/{}/revert?dry_run={}", options.generation, options.dry_run);
    let outcome = client.post(&path, &json!({ "message": options.message }))?;
    apply::show(&outcome, options.json)
}

fn verify(client: &Client, as_json: bool) -> anyhow::Result<ExitCode> {
    let (mut entries, mut cursor) = (0, String::new());
    loop {
        let mut found: Verification = client.get(&format!("/api/v1/audit/verification{cursor}"))?;
        entries += found.entries;
        if let Some(next) = &found.next {
            cursor = format!("?cursor={next}");
            continue;
        }
        found.entries = entries;
        if as_json {
            print(&serde_json::to_string_pretty(&found)?)?;
        } else if let Some(broken) = &found.broken {
            let (number, reason, good) = (broken.generation, &broken.reason, found.generation);
            print(&format!("BROKEN: entry {number} {reason}"))?;
            print(&format!("entries 1 to {good} are whole; the last of them has the digest {}", found.head))?;
        } else {
            print(&format!("{entries} entries, each names the digest of the one before it"))?;
            print(&format!("generation {} has the digest {}", found.generation, found.head))?;
        }
        return Ok(if found.whole { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
}

fn changes(
    client: &Client,
    path: &str,
    filters: &[(&str, &str)],
    number: u64,
) -> anyhow::Result<Vec<Change>> {
    let mut all: Vec<Change> = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let missing = number.saturating_sub(all.len() as u64);
        if missing == 0 {
            return Ok(all);
        }
        let mut query = vec![format!("limit={}", missing.min(PAGE_ITEMS))];
        query.extend(filters.iter().map(|(name, value)| format!("{name}={}", crate::client::encode(value))));
        query.extend(cursor.iter().map(|cursor| format!("cursor={cursor}")));
        let page: Page<Change> = client.get(&format!("{path}?{}", query.join("&")))?;
        all.extend(page.items);
        match page.next {
            Some(next) => cursor = Some(next),
            None => return Ok(all),
        }
    }
}

fn show(newest_first: &[Change], as_json: bool, digests: bool) -> anyhow::Result<()> {
    if as_json {
        return print(&serde_json::to_string_pretty(newest_first)?);
    }
    for change in newest_first {
        let object = |edit: &Edit| {
            let sign = if edit.body.is_none() { "-" } else { "" };
            format!("{sign}{}/{}", edit.kind, edit.name)
        };
        let objects: Vec<String> = change.edits.iter().take(SHOWN_OBJECTS).map(object).collect();
        let more = change.edits.len().saturating_sub(objects.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let at = humantime::format_rfc3339_seconds(clock::from_unix_ms(change.at_ms));
        let (generation, author, source) = (change.generation, &change.author, &change.source);
        let message = if change.message.is_empty() { String::new() } else { format!(": {}", change.message) };
        print(&format!(
            "{generation:>6}  {at}  {author} by {source}{message}\n        {}{more}",
            objects.join(", ")
        ))?;
        if digests {
            print(&format!("        sha256 {}", change.digest))?;
        }
    }
    Ok(())
}
