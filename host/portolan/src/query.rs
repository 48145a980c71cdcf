//! `portolan query`: one query over the shards of this region, by the configuration's own addresses, with all that tenants' queries have:
//! a worker of its own, its limits, read-only transactions.

use std::io::{Read as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use portolan_core::ids::TenantName;
use portolan_query::{Error, Format, Sources as _, tenants};

use crate::cli::{Query, QueryFormat};
use crate::node::queries::{Databases, Stores, workers};
use crate::node::topology_of;
use crate::{CONFLICT, REFUSED, node};

/// Asks, and prints the answer as it comes.
///
/// # Errors
/// When the configuration is not there, or the output is closed.
pub(crate) fn run(command: &Query) -> anyhow::Result<ExitCode> {
    let Some((loaded, _)) = crate::shown(crate::load(&command.file.config)?) else {
        return Ok(ExitCode::FAILURE);
    };
    let mut sql = command.sql.clone();
    if sql == "-" {
        sql.clear();
        std::io::stdin().read_to_string(&mut sql).context("read the statement")?;
    }
    let tenant = command.tenant.as_deref().map(TenantName::new).transpose()?;
    let config = loaded.config;
    let stores =
        Stores { databases: Arc::new(Databases::of(&config)), topology: Arc::new(topology_of(&config)) };
    let picture = stores.picture(tenant.as_ref(), &tenants(&sql));
    let query = portolan_query::Query {
        format: match command.format {
            QueryFormat::Arrow => Format::Arrow,
            QueryFormat::Csv => Format::Csv,
            QueryFormat::Json => Format::Json,
            QueryFormat::Ndjson => Format::Ndjson,
        },
        homes: picture.homes,
        limits: picture.limits,
        partial: command.partial,
        shards: picture.shards,
        sql,
        tables: picture.tables,
        tenant: tenant.map(|tenant| tenant.as_str().to_owned()),
    };
    node::control_runtime()?.block_on(answer(&query))
}

async fn answer(query: &portolan_query::Query) -> anyhow::Result<ExitCode> {
    let mut answer = match workers()?.ask(query).await {
        Ok(answer) => answer,
        Err(error) => return Ok(tell(&error)),
    };
    if !answer.head.missing.is_empty() {
        eprintln!("left out, because they do not answer: {}", answer.head.missing.join(", "));
    }
    let mut last = b'\n';
    while let Some(bytes) = answer.body.next().await {
        match bytes {
            Ok(bytes) => {
                last = bytes.last().copied().unwrap_or(last);
                std::io::stdout().write_all(&bytes)?;
            }
            Err(error) => return Ok(tell(&error)),
        }
    }
    if last != b'\n' && query.format != Format::Arrow {
        crate::print("")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(error: &Error) -> ExitCode {
    eprintln!("error: {error}");
    match error {
        Error::Limit(_) | Error::Statement(_) | Error::Writes(_) => ExitCode::from(REFUSED),
        Error::Busy(_) => ExitCode::from(CONFLICT),
        Error::Internal(_) | Error::Shard { .. } | Error::Time(_) => ExitCode::FAILURE,
    }
}
