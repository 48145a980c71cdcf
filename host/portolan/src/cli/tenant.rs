//! `portolan tenant` in words, as far as it is about a tenant's life.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ConfigFile, Target};

/// A claim on the command line: its kind and its value.
pub(crate) type Claim = (String, String);

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// What it is called; a number of its own when absent.
    pub(crate) name: Option<String>,
    /// The region that it works in, for the rules of placement.
    #[arg(long, value_name = "REGION")]
    pub(crate) location: Option<String>,
    /// Its residency class.
    #[arg(long, value_name = "CLASS")]
    pub(crate) residency: Option<String>,
    /// The shard that it is placed on, whatever the rules say.
    #[arg(long)]
    pub(crate) shard: Option<String>,
    /// What is its alone, such as `email=ada@shop.example` or `domain=shop.example`; can be given several times.
    #[arg(long = "claim", value_name = "KIND=VALUE", value_parser = claim)]
    pub(crate) claims: Vec<Claim>,
    #[command(flatten)]
    pub(crate) change: Change,
}

/// What each change takes.
#[derive(Debug, Args)]
pub(crate) struct Change {
    /// Only show what would change.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Why, for the log of changes.
    #[arg(short, long, default_value = "")]
    pub(crate) message: String,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Suspend {
    /// The tenant.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) change: Change,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The tenant.
    pub(crate) name: String,
    /// The file that is made: a tar with a manifest and a compressed file of rows for each table.
    #[arg(long, value_name = "FILE")]
    pub(crate) to: PathBuf,
    #[command(flatten)]
    pub(crate) file: ConfigFile,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Erase {
    /// The tenant.
    pub(crate) name: String,
    /// Its name once more: nothing brings it back.
    #[arg(long, value_name = "NAME")]
    pub(crate) confirm: String,
    /// How long to look on while databases and nodes do their part; they go on without anybody looking.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub(crate) wait: std::time::Duration,
    /// Why, for the log of changes.
    #[arg(short, long, default_value = "")]
    pub(crate) message: String,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Claims {
    /// Claim something for a tenant. Nobody else can have it then.
    Add {
        /// The tenant.
        name: String,
        /// Such as `email=ada@shop.example`.
        #[arg(value_name = "KIND=VALUE", value_parser = claim)]
        claim: Claim,
        #[command(flatten)]
        change: Change,
    },
    /// Tell whose a claim is.
    Find {
        /// Such as `email=ada@shop.example`.
        #[arg(value_name = "KIND=VALUE", value_parser = claim)]
        claim: Claim,
        #[command(flatten)]
        target: Target,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List what a tenant claims. Of addresses, the first letter and the domain are kept.
    List {
        /// The tenant.
        name: String,
        #[command(flatten)]
        target: Target,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Give a claim up.
    Remove {
        /// Such as `email=ada@shop.example`.
        #[arg(value_name = "KIND=VALUE", value_parser = claim)]
        claim: Claim,
        #[command(flatten)]
        change: Change,
    },
}

fn claim(text: &str) -> Result<Claim, String> {
    let (kind, value) = text.split_once('=').ok_or("write KIND=VALUE, such as `email=ada@shop.example`")?;
    Ok((kind.to_owned(), value.to_owned()))
}
