//! The tenant data API: rows of the declared tables over HTTP, and nothing of portolan's own.
//!
//! A request goes through small rooms: query string → `query` and `filter` (text to tree) → `plan` (names are columns,
//! values have types) → `operation` → `sql` (a statement per dialect) → `run` (the statements in a transaction of the
//! tenant) → `json` and `reply`. All but `run` is pure.
//!
//! # What it follows
//! PostgREST's conventions where they fit: `column=op.value`, `and=(...)`, `select`, `order`, `Prefer`. It differs in this:
//! rows have paths (`/notes/7`, `/lines/7,2`); pages go on by a cursor in `Link: <...>; rel="next"`, which leaves the content
//! a plain list and serves every reader that knows RFC 8288, and there is no `offset`; many rows are written by a filter or
//! with `all=true` only; decimals are strings; an object that was sent is answered as an object. `::text` behind a selected column gives it as
//! a string, for readers whose numbers end at 2^53.
//!
//! Rows that a filter wrote are answered in no order. What a list of operations reads is read by each of them when its turn
//! comes: on PostgreSQL others' commits may lie between two of them.
//!
//! # What holds for every request
//! Each statement names the tenant by a bound parameter; on PostgreSQL row security stands behind it. Identifiers in SQL are the
//! catalogue's, values are bound. The tenant's column is neither shown nor asked nor written. A key that another tenant uses
//! looks taken on insert and is not there otherwise: declare keys, UNIQUE and references with the tenant's column, and not even
//! that can be noticed.
//!
//! This module must not know how requests arrive, who asks, or which shard a tenant is on.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use portolan_changelog::{Lease, Store, Transaction};
use portolan_core::ids::{ShardName, TenantName};
use portolan_core::log::Position;
use portolan_core::time::Moment;
use portolan_foundation::task;
use tokio::time::timeout;

use self::operation::{Maker, Manner};
use self::query::Query;
use self::reply::{Prefer, Reply};
use self::run::{Done, Operation, Run};
use crate::config::Limits;
use crate::defaults::{CONTENT_BYTES_MAX, QUERY_BYTES_MAX};
use crate::room::Memory;

mod batch;
mod body;
mod catalogue;
mod cursor;
mod etag;
mod filter;
mod json;
mod kind;
mod openapi;
mod operation;
mod percent;
mod plan;
mod problem;
mod query;
mod reply;
mod run;
mod sql;
mod time;

#[cfg(test)]
mod tests;

pub use catalogue::{Catalogue, Column, Table};
pub use kind::Kind;
pub use openapi::openapi;
pub use problem::{Code, Fault, Problem, Told};

/// What stands before the path of every request.
pub const PREFIX: &str = "/-/data";

/// Where a tenant's requests are answered.
#[derive(Clone, Debug)]
pub struct Door {
    /// The shard's database at this region.
    pub store: Store,
    /// Its tables.
    pub catalogue: Arc<Catalogue>,
    /// The shard.
    pub shard: ShardName,
    /// Who asks.
    pub tenant: TenantName,
    /// The shard's lease, if it is held here: without it there are reads only, and writes of tables that all members write.
    pub lease: Option<Lease>,
    /// How long its statements may take.
    pub limits: Limits,
    /// What its answer counts against.
    pub memory: Memory,
}

/// What a request needs before its content is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// It may write, and wants the primary.
    pub writes: bool,
    /// How much content it may have.
    pub content_bytes_max: usize,
}

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place<'p> {
    Description,
    Root,
    Row(&'p str, &'p str),
    Table(&'p str),
}

impl<'p> Place<'p> {
    fn of(path: &'p str) -> Result<Self, Problem> {
        if path.len() > QUERY_BYTES_MAX {
            return Err(Problem::new(Code::TooLarge, format!("a path has at most {QUERY_BYTES_MAX} bytes")));
        }
        let path = path.strip_prefix('/').unwrap_or(path);
        Ok(match path.split_once('/') {
            None if path.is_empty() => Self::Root,
            None if path == "openapi.json" => Self::Description,
            None => Self::Table(path),
            Some((_, key)) if key.contains('/') => {
                let detail = "paths are /TABLE and /TABLE/KEY; a `/` in a key is written %2F";
                return Err(Problem::new(Code::NotFound, detail));
            }
            Some((table, key)) => Self::Row(table, key),
        })
    }

    const fn methods(self) -> &'static str {
        match self {
            Self::Description => "GET, HEAD",
            Self::Root => "GET, HEAD, POST",
            Self::Row(..) => "DELETE, GET, HEAD, PATCH, PUT",
            Self::Table(_) => "DELETE, GET, HEAD, PATCH, POST",
        }
    }
}

/// Says what a request needs, by its method and by its path after [`PREFIX`]: where it must go and how much may be read of it.
///
/// # Errors
/// A path that can name nothing, or a method that it does not have.
pub fn need(method: &Method, path: &str) -> Result<Need, Problem> {
    let methods = Place::of(path)?.methods();
    if !methods.split(", ").any(|name| name == method.as_str()) {
        return Err(Problem::method(methods));
    }
    let writes = !matches!(*method, Method::GET | Method::HEAD);
    let content = writes && *method != Method::DELETE;
    Ok(Need { writes, content_bytes_max: if content { CONTENT_BYTES_MAX } else { 0 } })
}

/// Is what a path names, after [`PREFIX`], a table that all members write?
pub(crate) fn is_of_members(catalogue: &Catalogue, path: &str) -> bool {
    let Ok(Place::Row(table, _) | Place::Table(table)) = Place::of(path) else { return false };
    catalogue.table(table).is_ok_and(|table| table.members)
}

/// Answers a request of the door's tenant. Its URI's path is what follows [`PREFIX`]. Whatever is sent, this gives an answer:
/// when it is a problem, nothing was written, unless its code is [`Code::OutcomeUnknown`]. An answer to a write of a table that wants
/// other regions to have it is to be given only then: it has what it waits for as an extension.
///
/// # Cancel safety
/// Not cancel-safe: when it is dropped, nobody knows whether a write is done.
pub async fn answer(
    door: &Door,
    request: Request<Bytes>,
    clock: &(dyn Fn() -> Moment + Sync),
) -> Response<Bytes> {
    let head = *request.method() == Method::HEAD;
    let mut response = match Box::pin(respond(door, &request, clock)).await {
        Ok(reply) => reply.end(),
        Err(problem) => problem.response(),
    };
    if head {
        *response.body_mut() = Bytes::new();
    }
    response
}

async fn respond(
    door: &Door,
    request: &Request<Bytes>,
    clock: &(dyn Fn() -> Moment + Sync),
) -> Result<Reply, Problem> {
    let (method, path) = (request.method(), request.uri().path());
    let need = need(method, path)?;
    if request.body().len() > need.content_bytes_max {
        let detail = format!("the content has at most {} bytes here", need.content_bytes_max);
        return Err(Problem::new(Code::TooLarge, detail));
    }
    if need.writes && !request.body().is_empty() {
        content_type(request.headers())?;
    }
    let maker = Maker { catalogue: &door.catalogue, tenant: &door.tenant };
    match Place::of(path)? {
        Place::Description => Ok(describe(door)),
        Place::Root if need.writes => transact(door, &maker, request.body(), clock).await,
        Place::Root => Ok(describe(door)),
        Place::Row(table, key) => {
            let table = door.catalogue.table(table)?;
            let key = plan::key_of_path(table, maker.dialect(), key)?;
            one(door, &maker, table, Some(key), request, clock).await
        }
        Place::Table(table) => one(door, &maker, door.catalogue.table(table)?, None, request, clock).await,
    }
}

fn describe(door: &Door) -> Reply {
    Reply::new(StatusCode::OK).json(serde_json::to_vec(&openapi(&door.catalogue)).unwrap_or_default())
}

fn content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let kind =
        value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json")) {
        return Ok(());
    }
    Err(Problem::new(Code::UnsupportedType, "the content is `application/json`"))
}

/// A request of one operation.
async fn one<'a>(
    door: &'a Door,
    maker: &Maker<'a>,
    table: &'a Table,
    key: Option<Vec<kind::Datum>>,
    request: &Request<Bytes>,
    clock: &(dyn Fn() -> Moment + Sync),
) -> Result<Reply, Problem> {
    let (headers, content) = (request.headers(), request.body());
    let raw = request.uri().query().unwrap_or_default();
    let query = Query::parse(raw)?;
    let prefer = Prefer::of(headers);
    let manner = || Ok(Manner { wanted: etag::wanted(headers)?, returning: prefer.returning, pointer: "" });
    // One that is named is answered as an object, and so is one that was sent as one.
    let mut list = key.is_none();
    let operation = match (request.method().as_str(), key) {
        ("GET" | "HEAD", key) => {
            return read(door, maker.get(table, key, &query)?, headers, raw, clock).await;
        }
        ("POST", _) => {
            let (operation, sent) = maker.insert(table, &query, content, prefer.conflict, manner()?)?;
            list = sent;
            operation
        }
        ("PUT", Some(key)) => maker.put(table, key, &query, content, manner()?)?,
        ("PATCH", key) => maker.update(table, key, &query, content, manner()?)?,
        (_, key) => maker.delete(table, key, &query, manner()?)?,
    };
    let operations = std::slice::from_ref(&operation);
    let (mut done, position) = write(door, operations, false, clock).await?;
    let done = done.pop().unwrap_or_default();
    let status = match (done.created, operation.answers()) {
        (true, _) => StatusCode::CREATED,
        (false, true) => StatusCode::OK,
        (false, false) => StatusCode::NO_CONTENT,
    };
    let reply = Reply::new(status).of(&done).preferred(prefer, true).token(&door.shard, position);
    let mut reply = reply.awaiting(run::durability(operations), position);
    if list {
        reply = reply.count(done.count);
    }
    if operation.answers() {
        let mut content = Vec::new();
        if list {
            done.rows.array(&mut content)
        } else {
            done.rows.first(&mut content)
        }
        reply = reply.json(if content.is_empty() { b"null".to_vec() } else { content });
    }
    Ok(reply)
}

/// A request that reads.
async fn read(
    door: &Door,
    operation: Operation<'_>,
    headers: &HeaderMap,
    query: &str,
    clock: &(dyn Fn() -> Moment + Sync),
) -> Result<Reply, Problem> {
    let one = matches!(operation.action, run::Action::Get { one: true, .. });
    let prefer = Prefer::of(headers);
    let transaction = door.store.look_within(door.limits.statement, &door.tenant).await;
    let mut transaction = transaction.map_err(|error| Problem::of_database(error, None))?;
    let mut run = Run::new(&mut transaction, door);
    let looking = look(&mut run, &operation, prefer.count && !one);
    // One that is cut short is ended with its connection.
    let looked = timeout(door.limits.transaction, looking).await.map_err(|_| too_slow(door))?;
    // Who reads has the answer, and does not wait for that.
    task::spawn("end a look", end(transaction));
    let (done, count) = looked?;
    if door.lease.is_some_and(|lease| !lease.allows(clock())) {
        return Err(Problem::new(
            Code::Busy,
            "the shard's lease ran out meanwhile; another may have written, try again",
        ));
    }
    let mut reply = Reply::new(StatusCode::OK).of(&done);
    if !one {
        reply = reply.preferred(prefer, false);
    }
    if let Some(etag) = &done.etag
        && etag::is_known(headers, etag)?
    {
        return Ok(Reply::new(StatusCode::NOT_MODIFIED).header(ETAG, etag));
    }
    let mut content = Vec::new();
    if one {
        done.rows.first(&mut content)
    } else {
        done.rows.array(&mut content)
    }
    reply = reply.json(content);
    if let Some(count) = count {
        reply = reply.count(count);
    }
    Ok(match &done.next {
        Some(cursor) => reply.next(&operation.table.name, &query::next(query, cursor)),
        None => reply,
    })
}

async fn look<'a>(
    run: &mut Run<'_>,
    operation: &Operation<'a>,
    count: bool,
) -> Result<(Done<'a>, Option<u64>), Problem> {
    let done = run.one(operation).await?;
    let count = match &operation.action {
        run::Action::Get { page, .. } if count => Some(run.count(page).await?),
        _ => None,
    };
    Ok((done, count))
}

/// A request of many operations.
async fn transact<'a>(
    door: &'a Door,
    maker: &Maker<'a>,
    content: &[u8],
    clock: &(dyn Fn() -> Moment + Sync),
) -> Result<Reply, Problem> {
    let operations = batch::operations(maker, content)?;
    let (done, position) = write(door, &operations, true, clock).await?;
    let reply = Reply::new(StatusCode::OK).json(batch::results(&done, &operations));
    Ok(reply.token(&door.shard, position).awaiting(run::durability(&operations), position))
}

/// Does operations in one transaction: all of them, or none.
async fn write<'a>(
    door: &Door,
    operations: &[Operation<'a>],
    many: bool,
    clock: &(dyn Fn() -> Moment + Sync),
) -> Result<(Vec<Done<'a>>, Option<Position>), Problem> {
    let refused = |error| Problem::of_database(error, None);
    let begun = match &door.lease {
        Some(lease) => door.store.write_within(door.limits.statement, &door.tenant, lease, clock()).await,
        None if operations.iter().all(|operation| operation.table.members || !operation.writes()) => {
            door.store.write_as_member(&door.tenant, door.limits.statement).await
        }
        None => {
            return Err(Problem::new(
                Code::Elsewhere,
                "this is not the shard's primary; nothing was written, ask another gateway",
            ));
        }
    };
    let mut transaction = begun.map_err(refused)?;
    let run = Run::new(&mut transaction, door);
    // One that is cut short is ended with its connection; what is being committed is not cut short.
    let done =
        timeout(door.limits.transaction, each(run, operations, many)).await.map_err(|_| too_slow(door))?;
    let all = match done {
        Ok(all) => all,
        Err(problem) => {
            end(transaction).await;
            return Err(problem);
        }
    };
    let committed = match &door.lease {
        Some(lease) => transaction.commit(lease, clock).await,
        // Tokens name positions of the primary's log, and this one's is not.
        None => transaction.commit_as_member().await.map(|()| None),
    };
    let position = committed.map_err(refused)?;
    Ok((all, position))
}

async fn each<'a>(
    mut run: Run<'_>,
    operations: &[Operation<'a>],
    many: bool,
) -> Result<Vec<Done<'a>>, Problem> {
    let mut all = Vec::new();
    for (at, operation) in operations.iter().enumerate() {
        let done = run.one(operation).await;
        all.push(done.map_err(|problem| if many { batch::place(problem, at) } else { problem })?);
    }
    Ok(all)
}

fn too_slow(door: &Door) -> Problem {
    let detail = format!(
        "the statements of this request took longer than {:?}; nothing was written, ask for less",
        door.limits.transaction
    );
    Problem::new(Code::Busy, detail)
}

/// Gives the connection back. One whose transaction cannot be ended is closed, which ends it too.
async fn end(transaction: Transaction) {
    if let Err(error) = transaction.rollback().await {
        tracing::debug!("a tenant's transaction was ended with its connection: {error}");
    }
}
