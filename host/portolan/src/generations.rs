//! `portolan generations` and `portolan revert`: what was intended when, and going back to it.

use std::process::ExitCode;

use anyhow::Context as _;
use portolan_control::{Change, Draft, Edit, Expect, State, Store, Wish};
use portolan_foundation::clock;

use crate::cli::{Generations, Revert};
use crate::{apply, config, node, print};

/// Lists generations, the newest first.
///
/// # Errors
/// When the store is away.
pub(crate) fn list(options: &Generations) -> anyhow::Result<()> {
    let path = &options.file.config;
    let local = crate::shown(config::local(path, crate::environment()));
    let local = local.context("mend the configuration first")?;
    let runtime = node::control_runtime()?;
    let changes = runtime.block_on(async {
        let store = apply::open(&local).await?;
        let newest = store.state().generation();
        changes(&store, newest.saturating_sub(options.number), newest).await
    })?;
    let newest_first = changes.iter().rev();
    if options.json {
        return print(&serde_json::to_string_pretty(&newest_first.collect::<Vec<_>>())?);
    }
    for change in newest_first {
        let objects: Vec<String> = change
            .edits
            .iter()
            .take(3)
            .map(|edit| match edit {
                Edit::Delete { key } => format!("-{key}"),
                Edit::Put { key, .. } => key.to_string(),
            })
            .collect();
        let more = change.edits.len().saturating_sub(objects.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let at = humantime::format_rfc3339_seconds(clock::from_unix_ms(change.at_ms));
        let (generation, author, source) = (change.generation, &change.author, &change.source);
        let message = if change.message.is_empty() { String::new() } else { format!(": {}", change.message) };
        print(&format!(
            "{generation:>6}  {at}  {author} by {source}{message}\n        {}{more}",
            objects.join(", ")
        ))?;
    }
    Ok(())
}

/// Makes a generation that says what an earlier one said.
///
/// # Errors
/// When the store does not take it, or has no such generation.
pub(crate) fn revert(options: &Revert) -> anyhow::Result<ExitCode> {
    let path = &options.file.config;
    let local = crate::shown(config::local(path, crate::environment()));
    let local = local.context("mend the configuration first")?;
    let runtime = node::control_runtime()?;
    let store = runtime.block_on(apply::open(&local))?;
    let now = store.state();
    anyhow::ensure!(
        (1..=now.generation()).contains(&options.generation),
        "there is no generation {}: the newest is {}; `portolan generations` lists them",
        options.generation,
        now.generation()
    );
    let then = runtime.block_on(store.state_at(options.generation))?;
    let message = if options.message.is_empty() {
        format!("revert to generation {}", options.generation)
    } else {
        options.message.clone()
    };
    let draft =
        Draft { author: apply::author(), message, source: "revert".to_owned(), wishes: wishes(&now, &then) };
    let next = now.after(&draft)?;
    if !apply::checked(path, config::intent::sources(&next), &next)? {
        return Ok(ExitCode::FAILURE);
    }
    runtime.block_on(apply::propose(&store, draft, options.dry_run, options.json))
}

fn wishes(now: &State, then: &State) -> Vec<Wish> {
    let back = then.objects().map(|(key, object)| Wish {
        key: key.clone(),
        body: Some(object.body.clone()),
        expect: Expect::Any,
        manager: object.managed_by.clone(),
        take_over: true,
    });
    let gone = now.objects().filter(|(key, _)| then.get(key).is_none()).map(|(key, object)| Wish {
        key: key.clone(),
        body: None,
        expect: Expect::Revision(object.revision),
        manager: object.managed_by.clone(),
        take_over: true,
    });
    back.chain(gone).collect()
}

async fn changes(store: &Store, after: u64, until: u64) -> anyhow::Result<Vec<Change>> {
    let mut all: Vec<Change> = Vec::new();
    loop {
        let last = all.last().map_or(after, |change| change.generation);
        let page = store.changes(last, usize::MAX).await?;
        if page.is_empty() || last >= until {
            return Ok(all);
        }
        all.extend(page);
    }
}
