//! Declared tables as a database has them: their columns, and the statements that put and delete their rows.

use std::collections::{BTreeMap, BTreeSet};

use portolan_core::tenant_table::{ColumnRule, TenantTable, Writers};

use crate::database::Dialect;
use crate::error::Error;

/// A declared table and its columns.
#[derive(Clone, Debug)]
pub(crate) struct Declared {
    pub(crate) table: TenantTable,
    /// Those that can be written.
    pub(crate) columns: Vec<String>,
    /// Those that the database computes.
    pub(crate) generated: Vec<String>,
}

/// What a catalogue says of a table.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    pub(crate) columns: Vec<String>,
    pub(crate) generated: Vec<String>,
    pub(crate) key: Vec<String>,
    pub(crate) not_null: BTreeSet<String>,
    /// The columns that may hold arrays of JSON.
    pub(crate) arrays: BTreeSet<String>,
    /// The type of each column, in the database's own words.
    pub(crate) types: BTreeMap<String, String>,
}

/// What columns that only rise or only fall may be in PostgreSQL: what has one text that orders as it does. In SQLite each value is
/// looked at.
const ORDERED: [&str; 9] = [
    "bigint",
    "character varying",
    "date",
    "integer",
    "smallint",
    "text",
    "timestamp with time zone",
    "timestamp without time zone",
    "uuid",
];

impl Declared {
    /// Holds a declaration against the catalogue.
    pub(crate) fn check(table: &TenantTable, found: Catalogue) -> Result<Self, Error> {
        let bad = |reason: String| Err(Error::Table { table: table.name.to_string(), reason });
        if found.columns.is_empty() {
            return bad("is not there: run the migrations of the tenants' schema first".to_owned());
        }
        let declared: BTreeSet<&str> = table.key.iter().map(|column| column.as_str()).collect();
        if declared != found.key.iter().map(String::as_str).collect() {
            return bad(format!(
                "has the primary key ({}), which is not as it is declared",
                found.key.join(", ")
            ));
        }
        if let Some(tenant) = &table.tenant
            && !found.not_null.contains(tenant.as_str())
        {
            return bad(format!(
                "has no column `{tenant}` that is NOT NULL, and its tenant is declared to be there"
            ));
        }
        let plain = |name: &&String| !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if let Some(odd) = found.columns.iter().chain(&found.generated).find(plain) {
            return bad(format!("has the column `{odd}`: use letters, digits and `_`"));
        }
        for (column, rule) in table.conflict.columns() {
            if let Some(wanted) = misfit(&found, column.as_str(), rule) {
                return bad(format!(
                    "has no column `{column}` that is {wanted}: its conflict rule needs one"
                ));
            }
        }
        Ok(Self { table: table.clone(), columns: found.columns, generated: found.generated })
    }

    pub(crate) fn leased(&self) -> bool {
        self.table.writers == Writers::Primary
    }

    /// Is a column merged by itself?
    pub(crate) fn merges(&self, column: &str) -> bool {
        self.table.conflict.columns().any(|(own, _)| own.as_str() == column)
    }

    /// The table's name as SQL wants it.
    pub(crate) fn name(&self, dialect: Dialect) -> String {
        match dialect {
            Dialect::Postgres => format!("public.\"{}\"", self.table.name),
            Dialect::Sqlite => format!("\"{}\"", self.table.name),
        }
    }

    /// Puts rows, given as a JSON array of objects that have these columns.
    pub(crate) fn put(&self, dialect: Dialect, columns: &BTreeSet<String>) -> String {
        self.put_over(dialect, columns, columns)
    }

    /// The same, and of rows that are there only some of the columns are changed.
    pub(crate) fn put_over(
        &self,
        dialect: Dialect,
        columns: &BTreeSet<String>,
        over: &BTreeSet<String>,
    ) -> String {
        let name = self.name(dialect);
        let key: Vec<String> = self.table.key.iter().map(|column| format!("\"{column}\"")).collect();
        let list = |item: &dyn Fn(&str) -> String| {
            columns.iter().map(|column| item(column)).collect::<Vec<_>>().join(", ")
        };
        let others: Vec<String> = over
            .iter()
            .filter(|column| !self.table.key.iter().any(|key| key.as_str() == column.as_str()))
            .map(|column| format!("\"{column}\" = excluded.\"{column}\""))
            .collect();
        let conflict = if others.is_empty() {
            "NOTHING".to_owned()
        } else {
            format!("UPDATE SET {}", others.join(", "))
        };
        let names = list(&|column| format!("\"{column}\""));
        let (overriding, from) = match dialect {
            Dialect::Postgres => (
                "OVERRIDING SYSTEM VALUE ",
                format!(
                    "SELECT {} FROM jsonb_populate_recordset(NULL::{name}, $1::jsonb) came",
                    list(&|column| format!("came.\"{column}\""))
                ),
            ),
            Dialect::Sqlite => (
                "",
                format!(
                    "SELECT {} FROM json_each($1) each WHERE true",
                    list(&|column| decode("each.value", &format!("$.{column}")))
                ),
            ),
        };
        format!(
            "INSERT INTO {name} ({names}) {overriding}{from} ON CONFLICT ({}) DO {conflict}",
            key.join(", ")
        )
    }

    /// Deletes rows, given as a JSON array of arrays of their keys' values.
    pub(crate) fn delete(&self, dialect: Dialect) -> String {
        let name = self.name(dialect);
        match dialect {
            Dialect::Postgres => {
                let fields: Vec<String> = self
                    .table
                    .key
                    .iter()
                    .zip(0..)
                    .map(|(column, at)| format!("'{column}', each -> {at}"))
                    .collect();
                let same: Vec<String> = self
                    .table
                    .key
                    .iter()
                    .map(|column| format!("own.\"{column}\" = gone.\"{column}\""))
                    .collect();
                format!(
                    "DELETE FROM {name} own USING jsonb_array_elements($1::jsonb) each, \
                     jsonb_populate_record(NULL::{name}, jsonb_build_object({})) gone WHERE {}",
                    fields.join(", "),
                    same.join(" AND ")
                )
            }
            Dialect::Sqlite => {
                let key: Vec<String> = self.table.key.iter().map(|column| format!("\"{column}\"")).collect();
                let values: Vec<String> =
                    (0..key.len()).map(|at| decode("each.value", &format!("$[{at}]"))).collect();
                format!(
                    "DELETE FROM {name} WHERE ({}) IN (SELECT {} FROM json_each($1) each)",
                    key.join(", "),
                    values.join(", ")
                )
            }
        }
    }

    /// The images of rows, given as a JSON array of arrays of their keys' values: key and row.
    pub(crate) fn images(&self, dialect: Dialect) -> String {
        let name = self.name(dialect);
        let key = || self.table.key.iter().map(|column| column.as_str());
        match dialect {
            Dialect::Postgres => {
                let generated = array(&self.generated);
                let fields: Vec<String> =
                    key().zip(0..).map(|(column, at)| format!("'{column}', each -> {at}")).collect();
                let same: Vec<String> =
                    key().map(|column| format!("own.\"{column}\" = came.\"{column}\"")).collect();
                format!(
                    "SELECT each::text, (to_jsonb(own) - '{generated}'::text[])::text \
                     FROM jsonb_array_elements($1::jsonb) each, \
                     jsonb_populate_record(NULL::{name}, jsonb_build_object({})) came, {name} own WHERE {}",
                    fields.join(", "),
                    same.join(" AND ")
                )
            }
            Dialect::Sqlite => {
                let same: Vec<String> = key()
                    .enumerate()
                    .map(|(at, column)| {
                        format!("own.\"{column}\" = {}", decode("each.value", &format!("$[{at}]")))
                    })
                    .collect();
                format!(
                    "SELECT each.value, {} FROM json_each($1) each, {name} own WHERE {}",
                    self.image("own"),
                    same.join(" AND ")
                )
            }
        }
    }

    /// The key of a row `own` as portolan's tables have it.
    pub(crate) fn key_text(&self, dialect: Dialect) -> String {
        match dialect {
            Dialect::Postgres => {
                let key: Vec<String> =
                    self.table.key.iter().map(|column| format!("own.\"{column}\"")).collect();
                format!("jsonb_build_array({})::text", key.join(", "))
            }
            Dialect::Sqlite => self.key("own"),
        }
    }

    /// The value that a key's text has for a column: a constant to the planner.
    pub(crate) fn key_value(&self, dialect: Dialect, text: &str, column: &str) -> String {
        let at = self.table.key.iter().position(|key| key.as_str() == column).unwrap_or_default();
        match dialect {
            Dialect::Postgres => format!(
                "(SELECT (jsonb_populate_record(NULL::{}, jsonb_build_object('{column}', ({text}::text)::jsonb -> {at}))).\"{column}\")",
                self.name(dialect)
            ),
            Dialect::Sqlite => decode(text, &format!("$[{at}]")),
        }
    }

    /// A row as canonical JSON, in SQLite.
    pub(crate) fn image(&self, row: &str) -> String {
        let fields: Vec<String> =
            self.columns.iter().map(|column| format!("'{column}', {}", encode(row, column))).collect();
        format!("json_object({})", fields.join(", "))
    }

    /// A row's key as canonical JSON, in SQLite.
    pub(crate) fn key(&self, row: &str) -> String {
        let values: Vec<String> = self.table.key.iter().map(|column| encode(row, column.as_str())).collect();
        format!("json_array({})", values.join(", "))
    }
}

/// What a column would have to be for its rule, if it is not.
fn misfit(found: &Catalogue, column: &str, rule: ColumnRule) -> Option<&'static str> {
    let kind = found.types.get(column).map_or("", String::as_str);
    let here = found.columns.iter().any(|own| own == column);
    let not_null = here && found.not_null.contains(column);
    let whole = kind.contains("int") && kind != "interval";
    let sqlite = kind.is_empty() || kind.contains("text") || whole;
    match rule {
        ColumnRule::Counter if !not_null || !whole => Some("a whole number and NOT NULL"),
        ColumnRule::Max | ColumnRule::Min if !here || !(sqlite || ORDERED.contains(&kind)) => {
            Some("a whole number, a text or a time")
        }
        ColumnRule::SetUnion if !not_null || !found.arrays.contains(column) => {
            Some("jsonb, in SQLite text, and NOT NULL")
        }
        _ => None,
    }
}

/// Names as an array of PostgreSQL. They hold no character that would need more.
pub(crate) fn array<T: ToString>(names: &[T]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("\"{}\"", name.to_string())).collect();
    format!("{{{}}}", names.join(","))
}

/// A value of SQLite as JSON that keeps what it is. Bytes go into an object, and so do fractions that SQLite does not read
/// back as it writes them, with what is missing then: their sum is the fraction again, to the last bit.
fn encode(row: &str, column: &str) -> String {
    let value = format!("{row}.\"{column}\"");
    let text = |digits: u8| format!("printf('%!.{digits}g', {value})");
    let same = |digits: u8| format!("WHEN CAST({0} AS REAL) = {value} THEN {0} ", text(digits));
    format!(
        "CASE typeof({value}) WHEN 'blob' THEN json_object('blob', hex({value})) \
         WHEN 'real' THEN json(CASE WHEN {value} = 9e999 THEN '9e999' WHEN {value} = -9e999 THEN '-9e999' {}{}\
         ELSE '{{\"real\":[' || {text} || ',' || printf('%!.17g', {value} - CAST({text} AS REAL)) || ']}}' END) \
         ELSE json_quote({value}) END",
        same(15),
        same(17),
        text = text(17),
    )
}

/// The other way round.
fn decode(json: &str, path: &str) -> String {
    format!(
        "CASE json_type({json}, '{path}') WHEN 'object' THEN \
         CASE WHEN json_type({json}, '{path}.blob') IS NOT NULL THEN unhex(json_extract({json}, '{path}.blob')) \
         ELSE json_extract({json}, '{path}.real[0]') + json_extract({json}, '{path}.real[1]') END \
         ELSE json_extract({json}, '{path}') END"
    )
}
