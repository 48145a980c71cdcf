//! Operations in a transaction of a tenant: what a request and each item of a list of operations come down to.
//!
//! All rows that an answer holds count against its budget before they are read, so that no request fills the memory.

use portolan_changelog::{Dialect, Row, Transaction, Value};
use portolan_core::ids::TenantName;
use portolan_core::loss::Durability;

use super::Door;
use super::body::Fields;
use super::catalogue::{Column, Table};
use super::cursor;
use super::etag::Wanted;
use super::json::{Rows, datum};
use super::kind::Datum;
use super::plan::{Condition, Page, Picked};
use super::problem::{Code, Problem};
use super::sql::{self, Statement, write};
use crate::defaults::{ANSWER_BYTES_MAX, ANSWER_COPIES, WRITE_ROWS_MAX};
use crate::room::Memory;

pub(crate) use super::sql::write::Conflict;

/// One thing to do.
#[derive(Clone, Debug)]
pub(crate) struct Operation<'a> {
    pub(crate) table: &'a Table,
    pub(crate) action: Action<'a>,
    /// What the row must be before it is written.
    pub(crate) wanted: Wanted,
    /// The rows are answered, and these columns of them.
    pub(crate) returning: Option<Vec<Picked<'a>>>,
    /// Where its rows stand in the content, as the beginning of a JSON pointer.
    pub(crate) pointer: &'static str,
}

impl Operation<'_> {
    /// May it change rows?
    pub(crate) const fn writes(&self) -> bool {
        !matches!(self.action, Action::Get { .. })
    }

    /// Has its answer rows?
    pub(crate) const fn answers(&self) -> bool {
        self.returning.is_some() || matches!(self.action, Action::Get { .. })
    }
}

/// Who must have received what these operations wrote before they are done: the strongest that any table wants that they write.
pub(crate) fn durability(operations: &[Operation<'_>]) -> Durability {
    let writes = operations.iter().filter(|operation| operation.writes());
    writes.map(|operation| operation.table.durability).max().unwrap_or_default()
}

/// What is done.
#[derive(Clone, Debug)]
pub(crate) enum Action<'a> {
    Delete(Target<'a>),
    /// Rows of a page, or the one of a key.
    Get {
        page: Box<Page<'a>>,
        one: bool,
    },
    Insert {
        rows: Vec<Fields<'a>>,
        conflict: Conflict,
    },
    /// Puts a whole row.
    Put {
        key: Vec<Datum>,
        row: Fields<'a>,
    },
    Update(Target<'a>, Fields<'a>),
}

/// Which rows are written.
#[derive(Clone, Debug)]
pub(crate) enum Target<'a> {
    Key(Vec<Datum>),
    Rows(Condition<'a>),
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Done<'a> {
    /// The rows, of all columns, when they are answered.
    pub(crate) rows: Rows<'a>,
    /// How many were written or read.
    pub(crate) count: u64,
    /// A row is there that was not.
    pub(crate) created: bool,
    /// Of the one row, if it is known whole.
    pub(crate) etag: Option<String>,
    /// Where the one new row is.
    pub(crate) location: Option<String>,
    /// What comes after the page.
    pub(crate) next: Option<String>,
}

/// A tenant's transaction.
#[derive(Debug)]
pub(crate) struct Run<'t> {
    pub(crate) transaction: &'t mut Transaction,
    pub(crate) dialect: Dialect,
    pub(crate) tenant: &'t TenantName,
    /// Bytes that the answer may still grow by.
    budget: u64,
    memory: &'t Memory,
    /// Rows that may still be written.
    writes: u64,
}

impl<'t> Run<'t> {
    pub(crate) fn new(transaction: &'t mut Transaction, door: &'t Door) -> Self {
        Self {
            transaction,
            dialect: door.catalogue.dialect(),
            tenant: &door.tenant,
            budget: ANSWER_BYTES_MAX,
            memory: &door.memory,
            writes: WRITE_ROWS_MAX,
        }
    }

    /// Does one operation.
    pub(crate) async fn one<'a>(&mut self, operation: &Operation<'a>) -> Result<Done<'a>, Problem> {
        let Operation { table, action, wanted, returning, pointer } = operation;
        let mut done = match action {
            Action::Delete(target) => self.write(table, target, wanted, None, returning.is_some()).await?,
            Action::Get { page, one: true } => {
                let rows = self.read(page).await?.0;
                if rows.rows.is_empty() {
                    return Err(not_found(table));
                }
                let etag = (page.select.len() == table.columns.len()).then(|| rows.etag());
                Done { count: 1, etag, rows, ..Done::default() }
            }
            Action::Get { page, one: false } => {
                let (rows, next) = self.read(page).await?;
                Done { count: count(&rows.rows), next, rows, ..Done::default() }
            }
            Action::Insert { rows, conflict } => {
                self.insert_all(table, rows, *conflict, returning.is_some(), pointer).await?
            }
            Action::Put { key, row } => self.put(table, key, row, wanted, returning.is_some()).await?,
            Action::Update(target, changes) => {
                self.write(table, target, wanted, Some(changes), returning.is_some()).await?
            }
        };
        if let Some(picked) = returning {
            if done.rows.rows.len() == 1 && !matches!(action, Action::Delete(_)) {
                done.etag = Some(done.rows.etag());
            }
            done.rows = project(done.rows, picked);
        }
        Ok(done)
    }

    /// How many rows there are, whatever the page's limit and cursor.
    pub(crate) async fn count(&mut self, page: &Page<'_>) -> Result<u64, Problem> {
        let rows = self.fetch(page.table, sql::count(self.dialect, page, self.tenant)).await?;
        Ok(rows.first().map_or(0, |row| whole(row, 0)))
    }

    /// The rows of a page that fit, and a cursor when there are more.
    async fn read<'a>(&mut self, page: &Page<'a>) -> Result<(Rows<'a>, Option<String>), Problem> {
        let Fit { rows, more } = self.fit(page).await?;
        let columns: Vec<&Column> = sql::answered(page).collect();
        let found = self.fetch(page.table, sql::rows(self.dialect, page, self.tenant, rows)).await?;
        let mut rows: Vec<Vec<Datum>> = found.iter().map(|row| values(&columns, row)).collect();
        let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
        let more = more || rows.len() > limit;
        rows.truncate(limit);
        let next = match rows.last() {
            Some(last) if more => {
                Some(cursor::write(page, last.get(page.select.len()..).unwrap_or_default())?)
            }
            _ => None,
        };
        Ok((Rows { picked: page.select.clone(), rows }, next))
    }

    /// How many rows of a page may be read. Where columns have no bound, their sizes are asked for first: a database tells them
    /// without reading the values.
    async fn fit(&mut self, page: &Page<'_>) -> Result<Fit, Problem> {
        let (ahead, columns) =
            (page.limit.saturating_add(1), count(&sql::answered(page).collect::<Vec<_>>()));
        if sql::answered(page).all(|column| column.kind.small()) {
            self.charge(page.limit.saturating_mul(columns).saturating_mul(SMALL_BYTES))?;
            return Ok(Fit { rows: ahead, more: false });
        }
        let sizes = self.fetch(page.table, sql::sizes(self.dialect, page, self.tenant, ahead, false)).await?;
        let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
        let mut rows = 0;
        for row in sizes.iter().take(limit) {
            match self.charge(whole(row, 0).saturating_add(columns.saturating_mul(SMALL_BYTES))) {
                Ok(()) => rows += 1,
                Err(problem) if problem.code == Code::AnswerTooLarge => break,
                Err(problem) => return Err(problem),
            }
        }
        if rows == 0 && limit > 0 && !sizes.is_empty() {
            return Err(answer_too_large());
        }
        Ok(Fit { rows, more: count(&sizes) > rows })
    }

    /// Counts rows that are written: one request writes no more than its share.
    fn few(&mut self, rows: u64) -> Result<(), Problem> {
        self.writes = self.writes.checked_sub(rows).ok_or_else(|| {
            let detail = format!(
                "one request writes at most {WRITE_ROWS_MAX} rows; filter for fewer, and send several"
            );
            Problem::new(Code::TooMany, detail)
        })?;
        Ok(())
    }

    fn charge(&mut self, bytes: u64) -> Result<(), Problem> {
        self.budget = self.budget.checked_sub(bytes).ok_or_else(answer_too_large)?;
        self.memory.grow(bytes.saturating_mul(ANSWER_COPIES))
    }

    async fn insert_all<'a>(
        &mut self,
        table: &'a Table,
        rows: &[Fields<'a>],
        conflict: Conflict,
        returning: bool,
        pointer: &str,
    ) -> Result<Done<'a>, Problem> {
        self.few(count(rows))?;
        let mut done = Done { rows: Rows::of(table), created: conflict == Conflict::Fail, ..Done::default() };
        for (at, row) in rows.iter().enumerate() {
            let pointer = if rows.len() > 1 { format!("{pointer}/{at}") } else { String::new() };
            let answered = returning || rows.len() == 1;
            let written = self
                .insert(table, row, conflict, answered)
                .await
                .map_err(|problem| problem.under(&pointer))?;
            if returning {
                self.charge(written.rows.iter().flatten().map(size).sum())?;
            }
            done.count += written.count;
            done.rows.rows.extend(written.rows);
        }
        if let ([_], [row]) = (rows, done.rows.rows.as_slice()) {
            done.location = Some(super::json::path(table, row));
        }
        Ok(done)
    }

    async fn insert(
        &mut self,
        table: &Table,
        row: &Fields<'_>,
        conflict: Conflict,
        returning: bool,
    ) -> Result<Written, Problem> {
        let statement = write::insert(self.dialect, table, self.tenant, row, conflict, returning);
        let written = self.written(table, statement, returning).await?;
        // Nothing was put: the row is there and stays, or it is another tenant's, which looks like any key that is taken.
        if written.count == 0 && !self.is_own(table, row).await? {
            return Err(taken(table));
        }
        Ok(written)
    }

    /// Is the row of this key there?
    async fn is_own(&mut self, table: &Table, row: &Fields<'_>) -> Result<bool, Problem> {
        let value = |column: &Column| {
            row.iter().find(|(own, _)| own.name == column.name).map(|(_, datum)| datum.clone())
        };
        let key: Option<Vec<Datum>> = table.key().map(value).collect();
        let Some(key) = key else { return Ok(false) };
        Ok(self.count(&Page::of_key(table, key)).await? > 0)
    }

    async fn put<'a>(
        &mut self,
        table: &'a Table,
        key: &[Datum],
        row: &Fields<'a>,
        wanted: &Wanted,
        returning: bool,
    ) -> Result<Done<'a>, Problem> {
        self.few(1)?;
        let page = Page::of_key(table, key.to_vec());
        let there = !self.locked(&page, false).await?.is_empty();
        self.check(&page, wanted, there).await?;
        let conflict = if *wanted == Wanted::Absent { Conflict::Fail } else { Conflict::Replace };
        let written = self.insert(table, row, conflict, returning).await?;
        let rows = Rows { rows: written.rows, ..Rows::of(table) };
        let values: Vec<Datum> = table
            .columns
            .iter()
            .map(|column| {
                row.iter()
                    .find(|(own, _)| own.name == column.name)
                    .map_or(Datum::Null, |(_, datum)| datum.clone())
            })
            .collect();
        let location = (!there).then(|| super::json::path(table, &values));
        Ok(Done { rows, count: 1, created: !there, location, ..Done::default() })
    }

    /// Updates or deletes.
    async fn write<'a>(
        &mut self,
        table: &'a Table,
        target: &Target<'a>,
        wanted: &Wanted,
        changes: Option<&Fields<'a>>,
        returning: bool,
    ) -> Result<Done<'a>, Problem> {
        let (condition, one) = match target {
            Target::Key(key) => (Condition::of_key(table, key.clone()), true),
            Target::Rows(condition) => (condition.clone(), false),
        };
        let mut page = Page::of_key(table, Vec::new());
        page.condition = condition;
        page.limit = WRITE_ROWS_MAX;
        let sizes = self.locked(&page, returning).await?;
        self.check(&page, wanted, !sizes.is_empty()).await?;
        if sizes.is_empty() && one {
            return Err(not_found(table));
        }
        self.few(count(&sizes))?;
        if returning {
            let changed = changes.map_or(0, |changes| changes.iter().map(|(_, datum)| size(datum)).sum());
            self.charge(
                sizes
                    .iter()
                    .fold(0, |sum: u64, row| sum.saturating_add(whole(row, 0)).saturating_add(changed)),
            )?;
        }
        let condition = &page.condition;
        let statement = match changes {
            Some(changes) => write::update(self.dialect, table, self.tenant, condition, changes, returning),
            None => write::delete(self.dialect, table, self.tenant, condition, returning),
        };
        let written = self.written(table, statement, returning).await?;
        if written.count > count(&sizes) {
            self.few(written.count.saturating_sub(count(&sizes)))?;
        }
        Ok(Done {
            rows: Rows { rows: written.rows, ..Rows::of(table) },
            count: written.count,
            ..Done::default()
        })
    }

    /// The sizes of the rows that are about to be written, which no other transaction changes from now on.
    async fn locked(&mut self, page: &Page<'_>, sized: bool) -> Result<Vec<Row>, Problem> {
        let ahead = page.limit.saturating_add(1);
        let mut page = page.clone();
        // Where no row is answered, the key alone is looked at.
        if !sized && !page.order.is_empty() {
            page.select.clear();
        }
        self.fetch(page.table, sql::sizes(self.dialect, &page, self.tenant, ahead, true)).await
    }

    /// Is the row what the client saw?
    async fn check(&mut self, page: &Page<'_>, wanted: &Wanted, there: bool) -> Result<(), Problem> {
        let failed = |detail: &str| Err(Problem::new(Code::PreconditionFailed, detail));
        match wanted {
            Wanted::Anything => Ok(()),
            Wanted::Absent if there => failed("the row is there already"),
            Wanted::Absent => Ok(()),
            _ if !there => failed("the row is not there"),
            Wanted::Present => Ok(()),
            Wanted::Tags(tags) => {
                let etag = self.read(&Page { limit: 1, ..page.clone() }).await?.0.etag();
                if tags.contains(&etag) {
                    Ok(())
                } else {
                    failed("the row has changed; read it again before you write it")
                }
            }
        }
    }

    async fn written(
        &mut self,
        table: &Table,
        statement: Statement,
        returning: bool,
    ) -> Result<Written, Problem> {
        if !returning {
            let Statement { sql, args, .. } = statement;
            let count = self.transaction.execute(&sql, &args).await;
            let count = count.map_err(|error| Problem::of_database(error, Some(&table.name)))?;
            return Ok(Written { count, rows: Vec::new() });
        }
        let columns: Vec<&Column> = table.columns.iter().collect();
        let rows = self.fetch(table, statement).await?;
        let rows: Vec<Vec<Datum>> = rows.iter().map(|row| values(&columns, row)).collect();
        Ok(Written { count: count(&rows), rows })
    }

    async fn fetch(&mut self, table: &Table, statement: Statement) -> Result<Vec<Row>, Problem> {
        let Statement { sql, args, .. } = statement;
        let rows = self.transaction.fetch(&sql, &args).await;
        rows.map_err(|error| Problem::of_database(error, Some(&table.name)))
    }
}

/// What of a page is read.
struct Fit {
    rows: u64,
    more: bool,
}

/// What a statement wrote.
struct Written {
    count: u64,
    rows: Vec<Vec<Datum>>,
}

/// What a value of a small kind counts for.
const SMALL_BYTES: u64 = 8;

fn values(columns: &[&Column], row: &Row) -> Vec<Datum> {
    columns.iter().enumerate().map(|(at, column)| datum(&column.kind, row.value(at))).collect()
}

/// A number that the database counted.
fn whole(row: &Row, at: usize) -> u64 {
    if let Value::Int(number) = row.value(at) { number.unsigned_abs() } else { 0 }
}

fn count<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}

fn size(datum: &Datum) -> u64 {
    let bytes = match datum {
        Datum::Text(text) => text.len(),
        Datum::Bytes(bytes) => bytes.len(),
        _ => 0,
    };
    u64::try_from(bytes).unwrap_or(u64::MAX).saturating_add(SMALL_BYTES)
}

/// Rows of all columns as those that were asked for.
fn project<'a>(rows: Rows<'a>, picked: &[Picked<'a>]) -> Rows<'a> {
    let place =
        |wanted: &Picked<'_>| rows.picked.iter().position(|own| own.column.name == wanted.column.name);
    let places: Vec<Option<usize>> = picked.iter().map(place).collect();
    let pick = |row: &Vec<Datum>| {
        places.iter().map(|at| at.and_then(|at| row.get(at)).cloned().unwrap_or(Datum::Null)).collect()
    };
    Rows { picked: picked.to_vec(), rows: rows.rows.iter().map(pick).collect() }
}

fn not_found(table: &Table) -> Problem {
    Problem::new(Code::NotFound, format!("there is no such row of `{}`", table.name))
}

/// The key is used: whose row it is makes no difference to what is told.
fn taken(table: &Table) -> Problem {
    Problem::new(Code::UniqueViolation, format!("a row of `{}` has these values already", table.name))
}

fn answer_too_large() -> Problem {
    let detail = format!(
        "the rows have more than {ANSWER_BYTES_MAX} bytes; select fewer columns, ask for fewer rows, or want none in the answer"
    );
    Problem::new(Code::AnswerTooLarge, detail)
}
