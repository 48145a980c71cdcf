//! `portolan recordings`: what a node keeps of its decisions.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use portolan_core::ids::TenantName;
use portolan_foundation::clock;
use portolan_recorder::{Export, Item, Recording};

use crate::cli::Recordings;
use crate::config::{self, Local};
use crate::node::recordings::FOLDER;
use crate::print;

/// Runs one of its commands.
///
/// # Errors
/// When what is kept cannot be read.
pub(crate) fn run(command: &Recordings) -> anyhow::Result<()> {
    match command {
        Recordings::List { file, json } => list(&file.config, *json),
        Recordings::Export { output, since, tenant, file } => {
            export(output, *since, tenant.as_deref(), &file.config)
        }
    }
}

/// What the node of a configuration keeps.
///
/// # Errors
/// When the configuration does not say where.
pub(crate) fn of_node(config: &Path) -> anyhow::Result<(Local, Recording)> {
    let local = crate::shown(config::local(config, crate::environment()));
    let local = local.context("mend the configuration, or name a recording")?;
    let recording = Recording::at(&local.state.join(FOLDER));
    Ok((local, recording))
}

/// From so long ago on.
pub(crate) fn since(time: Option<Duration>) -> std::ops::Range<u64> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    time.map_or(0, |time| clock::unix_ms().saturating_sub(millis(time)))..u64::MAX
}

fn list(config: &Path, as_json: bool) -> anyhow::Result<()> {
    let (_, recording) = of_node(config)?;
    let segments = recording.segments();
    if as_json {
        return print(&serde_json::to_string_pretty(&segments)?);
    }
    if segments.is_empty() {
        return print("nothing is kept: the section `[recordings]` of the configuration turns it on");
    }
    for segment in segments {
        let begun = humantime::format_rfc3339_seconds(clock::from_unix_ms(segment.begun_ms));
        print(&format!("{}  since {begun}  {:>9} bytes", segment.name, segment.bytes))?;
    }
    Ok(())
}

fn export(output: &Path, time: Option<Duration>, tenant: Option<&str>, config: &Path) -> anyhow::Result<()> {
    let tenant = tenant.map(TenantName::new).transpose()?;
    let (_, recording) = of_node(config)?;
    let mut export = Export::create(output, "export", clock::unix_ms())?;
    let (mut count, mut failed) = (0_u64, None);
    let summary = recording.each(since(time), |book, item| {
        let Item::Decision(mut recorded) = item else { return ControlFlow::Continue(()) };
        if tenant.is_some() && recorded.picture.tenant() != tenant {
            return ControlFlow::Continue(());
        }
        if tenant.is_some() {
            *recorded = crate::node::recordings::visible(&recorded, tenant.as_ref());
        }
        count += 1;
        match export.decision(&recorded, book) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    export.finish()?;
    if summary.damaged_bytes > 0 {
        eprintln!("{} damaged bytes were passed over", summary.damaged_bytes);
    }
    print(&format!("{}: {count} decisions", output.display()))
}
