//! `portolan apply`: puts `conf.d` into the control store, as one change that every node takes over.

use std::process::ExitCode;

use anyhow::bail;
use portolan_admin::backend::{Difference, Kind, Outcome};
use portolan_control::Store;
use serde_json::json;

use crate::cli::Apply;
use crate::client::Client;
use crate::config::{self, Local};
use crate::print;

/// Applies, or shows what applying would change.
///
/// # Errors
/// When the store does not take it; the text says what to do.
pub(crate) fn run(options: &Apply) -> anyhow::Result<ExitCode> {
    let client = Client::open(&options.target)?;
    let sources = config::more_sources(&options.target.file.config);
    let sources = sources.map_err(|problem| anyhow::anyhow!(problem.message))?;
    let files = sources.iter().map(|source| {
        let name = source.path.file_name().unwrap_or_default().to_string_lossy();
        json!({ "name": format!("conf.d/{name}"), "text": source.text })
    });
    let wanted = json!({
        "files": files.collect::<Vec<_>>(),
        "keep": options.keep,
        "message": options.message,
        "take_over": options.take_over,
    });
    let outcome = client.post(&format!("/api/v1/apply?dry_run={}", options.dry_run), &wanted)?;
    show(&outcome, options.json)
}

/// Shows what became of a change, and what takes it back.
///
/// # Errors
/// When nobody reads it.
pub(crate) fn show(outcome: &Outcome, as_json: bool) -> anyhow::Result<ExitCode> {
    if as_json {
        print(&serde_json::to_string_pretty(outcome)?)?;
    } else {
        let (generation, count) = (outcome.generation, outcome.differences.len());
        outcome.differences.iter().try_for_each(|difference| print(&line(difference)))?;
        if outcome.dry_run {
            print(&format!("{count} changes to generation {generation}; nothing was changed"))?;
        } else if outcome.changed {
            print(&format!("generation {generation} is made"))?;
            outcome.undo.iter().try_for_each(|undo| print(&format!("undo: {undo}")))?;
        } else {
            print(&format!("generation {generation} says all of it already"))?;
        }
    }
    let differs = outcome.dry_run && !outcome.differences.is_empty();
    Ok(if differs { ExitCode::from(crate::DIFFERS) } else { ExitCode::SUCCESS })
}

fn line(difference: &Difference) -> String {
    let Difference { kind, name, is, managed_by, was_managed_by, .. } = difference;
    let now = manager(managed_by);
    match (is, was_managed_by) {
        (Kind::Created, _) => format!("+ {kind}/{name} ({now})"),
        (Kind::Deleted, _) => format!("- {kind}/{name} ({now})"),
        (Kind::Changed, None) => format!("~ {kind}/{name} ({now})"),
        (Kind::Changed | Kind::TakenOver, was) => {
            let was = was.as_deref().map_or_else(String::new, |was| format!(", was {}", manager(was)));
            let sign = if *is == Kind::Changed { '~' } else { '>' };
            format!("{sign} {kind}/{name} ({now}{was})")
        }
    }
}

fn manager(text: &str) -> String {
    text.strip_prefix("file:").map_or_else(|| "the admin API".to_owned(), |file| format!("the file {file}"))
}

/// Opens the store that a node's file names, without a node's folder of its own.
///
/// # Errors
/// When it names none, or the store is away.
pub(crate) async fn open(local: &Local) -> anyhow::Result<Store> {
    let Some(engine) = local.control.clone() else {
        bail!(
            "portolan.toml names no control store: add `[control]` with `sqlite = \"control.db\"` or `[control.etcd]`; \
             without one, conf.d takes effect by itself"
        );
    };
    // A change is never based on what this machine last saw.
    Ok(Store::open(engine, None).await?)
}

/// Who changes the store from a command line.
pub(crate) fn author() -> String {
    crate::client::user()
}
