//! `portolan query` in words.

use clap::{Args, ValueEnum};

use super::ConfigFile;

/// The name of the hidden command that answers one query.
pub(crate) const QUERY_WORKER: &str = "query-worker";

/// One query over the shards of this region.
#[derive(Debug, Args)]
pub(crate) struct Query {
    /// A SELECT over the declared tables, or EXPLAIN of one; `-` reads it from the standard input.
    pub(crate) sql: String,
    #[command(flatten)]
    pub(crate) file: ConfigFile,
    /// See this tenant's rows alone, as its token would. All tenants' when absent.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// How rows are written.
    #[arg(long, value_enum, default_value_t = QueryFormat::Ndjson)]
    pub(crate) format: QueryFormat,
    /// Leave shards out that do not answer, and say which.
    #[arg(long)]
    pub(crate) partial: bool,
}

/// How rows are written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum QueryFormat {
    /// Arrow's streaming format.
    Arrow,
    /// Comma-separated values with a line of names.
    Csv,
    /// One array of objects.
    Json,
    /// One object a line.
    Ndjson,
}
