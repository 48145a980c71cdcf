//! The log: lines of text or JSON on standard error.

use std::sync::OnceLock;

use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry};

/// The filter of the running log.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Starts the log. `filter` is a level such as `info`, or directives such as `warn,portolan_policy=debug`. A second call
/// has no effect: tests start several nodes in one process.
///
/// # Errors
/// When the filter is not understood.
pub fn start(filter: &str, format: Format) -> Result<(), String> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_timer(SystemTime);
    let lines = match format {
        Format::Json => lines.json().flatten_event(true).boxed(),
        Format::Text => {
            use std::io::IsTerminal as _;
            lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed()
        }
    };
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok() {
        _ = FILTER.set(handle);
    }
    Ok(())
}

/// Changes what the running log writes.
///
/// # Errors
/// When the filter is not understood, or no log runs.
pub fn refilter(filter: &str) -> Result<(), String> {
    let handle = FILTER.get().ok_or("no log runs")?;
    handle.reload(parse(filter)?).map_err(|error| error.to_string())
}

/// Says whether a filter is understood.
///
/// # Errors
/// What is wrong with it.
pub fn check(filter: &str) -> Result<(), String> {
    parse(filter).map(drop)
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(filter).map_err(|error| format!("log filter `{filter}`: {error}"))
}
