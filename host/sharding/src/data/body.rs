//! The content of requests: JSON objects as rows of a table, with every field held against its column.
//!
//! Numbers stay texts until their column's type is known, so that none is rounded on the way.

use std::collections::BTreeMap;
use std::fmt;

use portolan_changelog::Dialect;
use portolan_core::ids::TenantName;
use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::catalogue::{Column, Table};
use super::kind::Datum;
use super::plan::wrong_type;
use super::problem::{Code, Fault, Problem};
use crate::defaults::WRITE_ROWS_MAX;

/// Faults of one content that are told at once.
const FAULTS_MAX: usize = 10;

/// An object's fields as they were sent, each once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Object<'a>(BTreeMap<String, &'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    let told = super::filter::short(&name);
                    if fields.insert(name, value).is_some() {
                        return Err(A::Error::custom(format!("`{told}` is there twice")));
                    }
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// A row that is written: columns in the table's order, with their values.
pub(crate) type Fields<'a> = Vec<(&'a Column, Datum)>;

/// What a content is read for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    pub(crate) table: &'a Table,
    pub(crate) dialect: Dialect,
    pub(crate) tenant: &'a TenantName,
}

/// Reads JSON text.
pub(crate) fn json<'a, T: Deserialize<'a>>(content: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(content).map_err(|error| {
        Problem::new(Code::BadContent, format!("the content is not the JSON that is wanted: {error}"))
    })
}

/// One object, or a list of them; and whether it was a list.
pub(crate) fn objects(content: &[u8]) -> Result<(Vec<Object<'_>>, bool), Problem> {
    let list = content.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let objects = if list { json::<Vec<Object<'_>>>(content)? } else { vec![json(content)?] };
    if u64::try_from(objects.len()).unwrap_or(u64::MAX) > WRITE_ROWS_MAX {
        return Err(Problem::new(
            Code::TooMany,
            format!("one request writes at most {WRITE_ROWS_MAX} rows; send several"),
        ));
    }
    Ok((objects, list))
}

impl<'a> Reader<'a> {
    /// A row that may be new: all that it must have is there. What the path says of the key is taken from there.
    pub(crate) fn row(&self, object: &Object<'_>, key: Option<&[Datum]>) -> Result<Fields<'a>, Problem> {
        let mut faults = Faults::default();
        let mut fields = self.fields(object, &mut faults);
        if let Some(key) = key {
            self.take_key(&mut fields, key, &mut faults);
            for column in self.table.key().filter(|column| column.generated) {
                faults.add(self.unwritable(column, "is given by the database; insert without a key"));
            }
        }
        for column in self.table.columns.iter().filter(|column| column.required()) {
            // What was sent and refused is not missing as well.
            let sent = object.0.contains_key(&column.name);
            if !sent && !fields.iter().any(|(field, _)| field.name == column.name) {
                faults.add(self.missing(column, "is missing"));
            }
        }
        faults.end(self.sorted(fields))
    }

    /// Changes of rows that are there. A key is not changed.
    pub(crate) fn changes(&self, object: &Object<'_>, key: Option<&[Datum]>) -> Result<Fields<'a>, Problem> {
        let mut faults = Faults::default();
        let mut fields = self.fields(object, &mut faults);
        match key {
            Some(key) => self.take_key(&mut fields, key, &mut faults),
            None => {
                for (column, _) in fields.iter().filter(|(column, _)| self.table.in_key(column)) {
                    faults.add(self.unwritable(column, "is of the key, which does not change"));
                }
            }
        }
        fields.retain(|(column, _)| !self.table.in_key(column));
        if fields.is_empty() && faults.0.is_none() {
            return Err(Problem::new(
                Code::BadContent,
                "nothing would be changed; send the columns that shall",
            ));
        }
        faults.end(self.sorted(fields))
    }

    fn fields(&self, object: &Object<'_>, faults: &mut Faults) -> Fields<'a> {
        let mut fields = Vec::new();
        for (name, json) in &object.0 {
            // Nobody reads more of them, and each costs a search for like names.
            if faults.full() {
                break;
            }
            match self.field(name, json) {
                Ok(field) => fields.extend(field),
                Err(problem) => faults.add(problem),
            }
        }
        fields
    }

    fn field(&self, name: &str, json: &RawValue) -> Result<Option<(&'a Column, Datum)>, Problem> {
        let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
        if self.table.tenant.as_ref().is_some_and(|tenant| tenant.name == name) {
            let same =
                serde_json::from_str::<String>(json.get()).is_ok_and(|value| value == self.tenant.as_str());
            return if same { Ok(None) } else { Err(self.foreign(name, pointer)) };
        }
        let column = self.table.column(name).map_err(|problem| problem.under(&pointer))?;
        if column.generated {
            return Err(self.unwritable(column, "is given by the database"));
        }
        let datum = column.kind.of_json(self.dialect, json);
        let datum = datum.map_err(|expected| wrong_type(self.table, column, &expected, pointer.clone()))?;
        if datum == Datum::Null && !column.nullable {
            return Err(self.missing(column, "is null"));
        }
        Ok(Some((column, datum)))
    }

    /// The key is the path's: content may repeat it, and not say another.
    fn take_key(&self, fields: &mut Fields<'a>, key: &[Datum], faults: &mut Faults) {
        for (column, datum) in self.table.key().zip(key) {
            match fields.iter().find(|(field, _)| field.name == column.name) {
                Some((_, sent)) if sent != datum => {
                    faults.add(self.unwritable(column, "is of the key, and the key says another"));
                }
                Some(_) => {}
                None => fields.push((column, datum.clone())),
            }
        }
    }

    /// One order for one set of columns: one text of a statement.
    fn sorted(&self, mut fields: Fields<'a>) -> Fields<'a> {
        let place = |column: &Column| self.table.columns.iter().position(|other| other.name == column.name);
        fields.sort_by_key(|(column, _)| place(column));
        fields
    }

    fn missing(&self, column: &Column, what: &str) -> Problem {
        let expected = column.kind.expected().to_owned();
        self.fault(Code::MissingValue, column, what, Some(expected))
    }

    fn unwritable(&self, column: &Column, what: &str) -> Problem {
        self.fault(Code::NotWritable, column, what, None)
    }

    fn fault(&self, code: Code, column: &Column, what: &str, expected: Option<String>) -> Problem {
        let detail = format!("`{}` of `{}` {what}", column.name, self.table.name);
        let fault = Fault {
            detail: detail.clone(),
            pointer: Some(format!("/{}", column.name)),
            table: Some(self.table.name.clone()),
            column: Some(column.name.clone()),
            expected,
        };
        Problem::new(code, detail).with(fault)
    }

    fn foreign(&self, name: &str, pointer: String) -> Problem {
        let detail = format!(
            "`{name}` of `{}` is the tenant's, and the request is `{}`'s; leave it out",
            self.table.name, self.tenant
        );
        let fault = Fault {
            detail: detail.clone(),
            pointer: Some(pointer),
            table: Some(self.table.name.clone()),
            column: Some(name.to_owned()),
            expected: Some(self.tenant.to_string()),
        };
        Problem::new(Code::OtherTenant, detail).with(fault)
    }
}

/// The first problem, with the faults of the others.
#[derive(Debug, Default)]
struct Faults(Option<Problem>);

impl Faults {
    fn add(&mut self, problem: Problem) {
        self.0 = Some(match self.0.take() {
            None => problem,
            Some(first) => problem.errors.iter().cloned().fold(first, Problem::with),
        });
    }

    fn full(&self) -> bool {
        self.0.as_ref().is_some_and(|first| first.errors.len() >= FAULTS_MAX)
    }

    fn end<T>(self, value: T) -> Result<T, Problem> {
        self.0.map_or(Ok(value), Err)
    }
}
