//! `portolan recordings` and `replay` in words.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ConfigFile, Told};

#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// A file of `portolan recordings export`, or a folder of segments such as `.portolan/recordings`.
    pub(crate) recording: PathBuf,
    /// Who decides again: `NAME` for what runs by that name here, `NAME@VERSION`, or a component's file.
    #[arg(long)]
    pub(crate) policy: String,
    /// With whom it is compared; with what was recorded when absent.
    #[arg(long)]
    pub(crate) against: Option<String>,
    /// The candidate's configuration, a JSON object; the recorded one when absent.
    #[arg(long)]
    pub(crate) policy_config: Option<String>,
    /// The name under which a file's policy was recorded; the file's own when absent.
    #[arg(long = "as")]
    pub(crate) name: Option<String>,
    /// Only decisions of so long ago, such as `1h`.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) since: Option<std::time::Duration>,
    #[command(flatten)]
    pub(crate) told: Told,
    #[command(flatten)]
    pub(crate) file: ConfigFile,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Recordings {
    /// List the segments.
    List {
        #[command(flatten)]
        file: ConfigFile,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write decisions into one file.
    Export {
        /// The file.
        output: PathBuf,
        /// Only decisions of so long ago, such as `1h`.
        #[arg(long, value_parser = humantime::parse_duration)]
        since: Option<std::time::Duration>,
        /// Only this tenant's.
        #[arg(long)]
        tenant: Option<String>,
        #[command(flatten)]
        file: ConfigFile,
    },
}
