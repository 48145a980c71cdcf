//! Requests as operations: what they name is looked up, what they bring is held against its columns. Pure.

use portolan_changelog::Dialect;
use portolan_core::ids::TenantName;

use super::body::{self, Object, Reader};
use super::catalogue::{Catalogue, Table};
use super::cursor;
use super::etag::Wanted;
use super::kind::Datum;
use super::plan::{self, Condition, Page};
use super::problem::{Code, Problem};
use super::query::Query;
use super::run::{Action, Conflict, Operation, Target};

/// What operations are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Maker<'a> {
    pub(crate) catalogue: &'a Catalogue,
    pub(crate) tenant: &'a TenantName,
}

/// How an operation is done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manner {
    pub(crate) wanted: Wanted,
    /// The rows are answered.
    pub(crate) returning: bool,
    /// Where the rows stand in the content.
    pub(crate) pointer: &'static str,
}

impl<'a> Maker<'a> {
    pub(crate) const fn dialect(&self) -> Dialect {
        self.catalogue.dialect()
    }

    /// Reads the row of a key, or a page.
    pub(crate) fn get(
        &self,
        table: &'a Table,
        key: Option<Vec<Datum>>,
        query: &Query,
    ) -> Result<Operation<'a>, Problem> {
        let (page, one) = match key {
            Some(key) => {
                only_select(query)?;
                let select = plan::select(table, query.select.as_deref())?;
                (Page { select, ..Page::of_key(table, key) }, true)
            }
            None => {
                if query.all {
                    return Err(Problem::new(
                        Code::BadRequest,
                        "`all` is for writes; a read without a filter reads all",
                    ));
                }
                let mut page = Page::new(table, self.dialect(), query)?;
                if let Some(after) = &query.after {
                    page.after = Some(cursor::read(&page, self.dialect(), after)?);
                }
                (page, false)
            }
        };
        let action = Action::Get { page: Box::new(page), one };
        Ok(Operation { table, action, wanted: Wanted::Anything, returning: None, pointer: "" })
    }

    /// Inserts one row or a list of them. Says whether it was a list.
    pub(crate) fn insert(
        &self,
        table: &'a Table,
        query: &Query,
        content: &[u8],
        conflict: Conflict,
        manner: Manner,
    ) -> Result<(Operation<'a>, bool), Problem> {
        only_select(query)?;
        writable(table)?;
        let (objects, list) = body::objects(content)?;
        let reader = self.reader(table);
        let row = |(at, object): (usize, &Object<'_>)| {
            let pointer = if list { format!("/{at}") } else { String::new() };
            reader.row(object, None).map_err(|problem| problem.under(&pointer))
        };
        let rows: Vec<_> = objects.iter().enumerate().map(row).collect::<Result<_, _>>()?;
        if manner.wanted != Wanted::Anything {
            let detail =
                "an insert has no conditions; say with `resolution` what happens to rows that are there";
            return Err(Problem::new(Code::BadRequest, detail));
        }
        Ok((self.operation(table, query, Action::Insert { rows, conflict }, manner)?, list))
    }

    /// Puts the whole row of a key.
    pub(crate) fn put(
        &self,
        table: &'a Table,
        key: Vec<Datum>,
        query: &Query,
        content: &[u8],
        manner: Manner,
    ) -> Result<Operation<'a>, Problem> {
        only_select(query)?;
        writable(table)?;
        let object = body::json(content)?;
        let row = self.reader(table).row(&object, Some(&key))?;
        self.operation(table, query, Action::Put { key, row }, manner)
    }

    /// Changes columns of the row of a key, or of the rows of a filter.
    pub(crate) fn update(
        &self,
        table: &'a Table,
        key: Option<Vec<Datum>>,
        query: &Query,
        content: &[u8],
        manner: Manner,
    ) -> Result<Operation<'a>, Problem> {
        writable(table)?;
        let object = body::json(content)?;
        let changes = self.reader(table).changes(&object, key.as_deref())?;
        let target = self.target(table, key, query, &manner)?;
        self.operation(table, query, Action::Update(target, changes), manner)
    }

    /// Deletes the row of a key, or the rows of a filter.
    pub(crate) fn delete(
        &self,
        table: &'a Table,
        key: Option<Vec<Datum>>,
        query: &Query,
        manner: Manner,
    ) -> Result<Operation<'a>, Problem> {
        writable(table)?;
        let target = self.target(table, key, query, &manner)?;
        self.operation(table, query, Action::Delete(target), manner)
    }

    fn operation(
        &self,
        table: &'a Table,
        query: &Query,
        action: Action<'a>,
        manner: Manner,
    ) -> Result<Operation<'a>, Problem> {
        let select = plan::select(table, query.select.as_deref())?;
        let Manner { wanted, returning, pointer } = manner;
        Ok(Operation { table, action, wanted, returning: returning.then_some(select), pointer })
    }

    fn target(
        &self,
        table: &'a Table,
        key: Option<Vec<Datum>>,
        query: &Query,
        manner: &Manner,
    ) -> Result<Target<'a>, Problem> {
        if let Some(key) = key {
            only_select(query)?;
            return Ok(Target::Key(key));
        }
        let bad = |detail: &str| Err(Problem::new(Code::BadRequest, detail));
        if manner.wanted != Wanted::Anything {
            return bad("conditions are of one row; name it by its key");
        }
        if query.limit.is_some() || query.after.is_some() || !query.order.is_empty() {
            return bad("a write takes filters, and neither `order`, `limit` nor `after`");
        }
        if query.filters.is_empty() && !query.all {
            let detail =
                format!("all rows of `{}` would be written; filter them, or say `all=true`", table.name);
            return Err(Problem::new(Code::FilterRequired, detail));
        }
        Ok(Target::Rows(Condition::of(table, self.dialect(), &query.filters)?))
    }

    fn reader(&self, table: &'a Table) -> Reader<'a> {
        Reader { table, dialect: self.dialect(), tenant: self.tenant }
    }
}

fn writable(table: &Table) -> Result<(), Problem> {
    if table.writable() {
        return Ok(());
    }
    let detail = format!("`{}` is everybody's, and tenants only read it", table.name);
    Err(Problem::new(Code::ReadOnlyTable, detail))
}

fn only_select(query: &Query) -> Result<(), Problem> {
    let select = query.select.clone();
    if *query == (Query { select, ..Query::default() }) {
        return Ok(());
    }
    Err(Problem::new(Code::BadRequest, "here the query takes `select` alone; filters are for many rows"))
}
