//! The log: lines of text or JSON on standard error.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Starts the log. `filter` is a level such as `info`, or directives such as `warn,portolan_policy=debug`. A second call
/// has no effect.
///
/// # Errors
/// When the filter is not understood.
pub fn start(filter: &str, format: Format) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("log filter `{filter}`: {error}"))?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_timer(SystemTime);
    let done = match format {
        Format::Json => builder.json().flatten_event(true).try_init(),
        Format::Text => {
            use std::io::IsTerminal as _;
            builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init()
        }
    };
    // A log that runs already is not an error: tests start several nodes in one process.
    drop(done);
    Ok(())
}
