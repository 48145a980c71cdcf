//! Operations of the admin API, as people at a command line follow them.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use portolan_admin::{Operation, Stage, StageState};

use crate::client::Client;

/// From one look at an operation to the next.
const LOOK: Duration = Duration::from_millis(100);

/// Waits for the end of an operation, and shows its stages.
///
/// # Errors
/// When the node does not answer any more; the operation may go on.
pub(crate) fn followed(client: &Client, mut operation: Operation, show: bool) -> anyhow::Result<Operation> {
    let mut shown = 0;
    loop {
        if show {
            shown = show_stages(&operation.stages, shown)?;
        }
        if operation.state != StageState::Running {
            return Ok(operation);
        }
        std::thread::park_timeout(LOOK);
        let path = format!("/api/v1/operations/{}", operation.id);
        operation = client
            .get(&path)
            .with_context(|| format!("look at operation {}, which may go on all the same", operation.id))?;
    }
}

/// Shows the stages that are over, from the given one; what goes on is shown to people only.
fn show_stages(stages: &[Stage], from: usize) -> anyhow::Result<usize> {
    let mut out = std::io::stderr();
    let clear = if out.is_terminal() { "\r\x1b[K" } else { "" };
    let mut shown = from;
    for stage in stages.iter().skip(from) {
        let detail = stage.detail.as_deref().unwrap_or_default();
        if stage.state == StageState::Running {
            if out.is_terminal() {
                write!(out, "{clear}{:>12} ... {detail}", stage.name)?;
                out.flush()?;
            }
            break;
        }
        let sign = if stage.state == StageState::Succeeded { "ok" } else { "no" };
        let ms = stage.ended_at_ms.unwrap_or(stage.began_at_ms).saturating_sub(stage.began_at_ms);
        writeln!(out, "{clear}{:>12} {sign} {detail} ({ms} ms)", stage.name)?;
        shown += 1;
    }
    Ok(shown)
}
