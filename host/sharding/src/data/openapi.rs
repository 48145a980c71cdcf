//! The description of a tenant's data API (OpenAPI 3.1), made of its catalogue.

use serde_json::{Map, Value, json};

use super::PREFIX;
use super::catalogue::{Catalogue, Column, Table};
use super::kind::Kind;
use super::problem::Code;
use crate::defaults::{OPERATIONS_MAX, PAGE_ROWS, PAGE_ROWS_MAX, SELECT_COLUMNS_MAX, WRITE_ROWS_MAX};

/// Describes the API of all tables.
#[must_use]
pub fn openapi(catalogue: &Catalogue) -> Value {
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    paths.insert("/".to_owned(), root());
    for table in catalogue.tables() {
        paths.insert(format!("/{}", table.name), rows(table));
        if !table.key.is_empty() {
            paths.insert(format!("/{}/{{key}}", table.name), row(table));
        }
        schemas.insert(table.name.clone(), row_schema(table));
        if table.writable() {
            schemas.insert(format!("{}.new", table.name), new_schema(table));
            schemas.insert(format!("{}.changes", table.name), changes_schema(table));
        }
    }
    schemas.insert("portolan.problem".to_owned(), problem());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tenant data",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Rows of one tenant. A column is asked by a parameter of its name, `column=op.value` with eq, neq, lt, \
                lte, gt, gte, like, ilike, in.(a,b), is.null, is.not_null, is.true, is.false, and `not.` before any; `and=(...)` and \
                `or=(...)` join them. Pages go on at the `Link` with rel=\"next\". After a write `portolan-token` names it: bring it \
                to a read that must see it.",
        },
        "servers": [{ "url": PREFIX }],
        "paths": paths,
        "components": { "schemas": schemas, "parameters": parameters() },
    })
}

fn root() -> Value {
    json!({
        "get": { "summary": "This description", "responses": { "200": { "description": "OpenAPI 3.1" } } },
        "post": {
            "summary": "Operations in one transaction, all or none",
            "requestBody": { "required": true, "content": { "application/json": { "schema": {
                "type": "array",
                "maxItems": OPERATIONS_MAX,
                "items": {
                    "type": "object",
                    "required": ["do", "table"],
                    "additionalProperties": false,
                    "properties": {
                        "do": { "enum": ["get", "insert", "upsert", "put", "update", "delete"] },
                        "table": { "type": "string" },
                        "key": { "description": "A value, or a list of them for a key of several columns." },
                        "query": { "type": "string", "description": "As it stands behind a `?`." },
                        "values": { "type": ["object", "array"] },
                        "if_match": { "type": "string" },
                        "if_none_match": { "const": "*" },
                        "return": { "enum": ["minimal", "representation"], "default": "minimal" },
                    },
                },
            } } } },
            "responses": responses("200", "What was done, in order", &json!({
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["status", "count"],
                    "properties": {
                        "status": { "enum": [200, 201] },
                        "count": { "type": "integer" },
                        "etag": { "type": "string" },
                        "location": { "type": "string" },
                        "rows": { "type": "array", "items": { "type": "object" } },
                    },
                },
            })),
        },
    })
}

fn rows(table: &Table) -> Value {
    let filters = table.columns.iter().map(|column| {
        json!({ "name": column.name, "in": "query", "schema": { "type": "string" }, "example": "eq.value" })
    });
    let groups = ["and", "or"].map(|name| json!({ "$ref": format!("#/components/parameters/{name}") }));
    let filters: Vec<Value> = filters.chain(groups).collect();
    let with = |names: &[&str]| {
        let named = names.iter().map(|name| json!({ "$ref": format!("#/components/parameters/{name}") }));
        Value::Array(filters.iter().cloned().chain(named).collect())
    };
    let list = json!({ "type": "array", "items": schema(&table.name) });
    let mut path = json!({
        "get": {
            "summary": format!("Rows of {}", table.name),
            "parameters": with(&["select", "order", "limit", "after", "prefer"]),
            "responses": responses("200", "A page", &list),
        },
    });
    if table.writable() {
        let new = schema(&format!("{}.new", table.name));
        let body = json!({ "oneOf": [new, { "type": "array", "items": new, "maxItems": WRITE_ROWS_MAX }] });
        add(
            &mut path,
            "post",
            json!({
                "summary": format!("Insert into {}", table.name),
                "parameters": [{ "$ref": "#/components/parameters/select" }, { "$ref": "#/components/parameters/prefer" }],
                "requestBody": content(&body),
                "responses": responses("201", "Inserted", &json!({ "oneOf": [schema(&table.name), list] })),
            }),
        );
        add(
            &mut path,
            "patch",
            json!({
                "summary": format!("Change rows of {}", table.name),
                "parameters": with(&["select", "all", "prefer"]),
                "requestBody": content(&schema(&format!("{}.changes", table.name))),
                "responses": responses("200", "Changed", &list),
            }),
        );
        add(
            &mut path,
            "delete",
            json!({
                "summary": format!("Delete rows of {}", table.name),
                "parameters": with(&["select", "all", "prefer"]),
                "responses": responses("200", "Deleted", &list),
            }),
        );
    }
    path
}

fn row(table: &Table) -> Value {
    let names: Vec<&str> = table.key().map(|column| column.name.as_str()).collect();
    let key = json!({
        "name": "key",
        "in": "path",
        "required": true,
        "schema": { "type": "string" },
        "description": format!("{}, with `,` between them", names.join(",")),
    });
    let one = schema(&table.name);
    let parameters = |names: &[&str]| {
        let named = names.iter().map(|name| json!({ "$ref": format!("#/components/parameters/{name}") }));
        Value::Array(named.collect())
    };
    let mut path = json!({
        "parameters": [key],
        "get": {
            "summary": format!("A row of {}", table.name),
            "parameters": parameters(&["select", "if_none_match"]),
            "responses": responses("200", "The row", &one),
        },
    });
    if table.writable() {
        for (method, verb, body) in
            [("put", "Put", Some("new")), ("patch", "Change", Some("changes")), ("delete", "Delete", None)]
        {
            let mut operation = json!({
                "summary": format!("{verb} a row of {}", table.name),
                "parameters": parameters(&["select", "if_match", "prefer"]),
                "responses": responses("200", "Done", &one),
            });
            if let Some(body) = body {
                add(&mut operation, "requestBody", content(&schema(&format!("{}.{body}", table.name))));
            }
            add(&mut path, method, operation);
        }
    }
    path
}

fn add(object: &mut Value, name: &str, value: Value) {
    if let Value::Object(fields) = object {
        fields.insert(name.to_owned(), value);
    }
}

fn schema(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn content(schema: &Value) -> Value {
    json!({ "required": true, "content": { "application/json": { "schema": schema } } })
}

fn responses(status: &str, description: &str, schema: &Value) -> Value {
    let mut responses = json!({
        "default": {
            "description": "A problem (RFC 9457)",
            "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/portolan.problem" } } },
        },
    });
    let done = json!({ "description": description, "content": { "application/json": { "schema": schema } } });
    add(&mut responses, status, done);
    responses
}

fn parameters() -> Value {
    let of = |place: &str, name: &str, schema: Value, description: String| json!({ "name": name, "in": place, "schema": schema, "description": description });
    let text = || json!({ "type": "string" });
    json!({
        "and": of("query", "and", text(), "`(column.op.value,or(...),not.and(...))`: all of them".to_owned()),
        "or": of("query", "or", text(), "`(column.op.value,...)`: one of them".to_owned()),
        "select": of("query", "select", text(), format!("`a,b::text`: at most {SELECT_COLUMNS_MAX} columns")),
        "order": of("query", "order", text(), "`a.desc.nullslast,b`; the key follows".to_owned()),
        "limit": of("query", "limit", json!({ "type": "integer", "minimum": 0, "maximum": PAGE_ROWS_MAX, "default": PAGE_ROWS }),
            "rows of a page".to_owned()),
        "after": of("query", "after", text(), "where a page ended, from its `Link`".to_owned()),
        "all": of("query", "all", json!({ "const": "true" }), "all rows are meant, without a filter".to_owned()),
        "prefer": of("header", "Prefer", text(),
            "`return=representation`, `count=exact`, `resolution=merge-duplicates` or `resolution=ignore-duplicates`".to_owned()),
        "if_match": of("header", "If-Match", text(), "the row's ETag, or `*`".to_owned()),
        "if_none_match": of("header", "If-None-Match", text(), "an ETag that is known".to_owned()),
    })
}

fn row_schema(table: &Table) -> Value {
    object(table.columns.iter(), &|_| false)
}

fn new_schema(table: &Table) -> Value {
    object(table.columns.iter().filter(|column| !column.generated), &Column::required)
}

fn changes_schema(table: &Table) -> Value {
    object(table.columns.iter().filter(|column| !column.generated && !table.in_key(column)), &|_| false)
}

fn object<'a>(columns: impl Iterator<Item = &'a Column>, required: &dyn Fn(&Column) -> bool) -> Value {
    let (mut properties, mut names) = (Map::new(), Vec::new());
    for column in columns {
        properties.insert(column.name.clone(), column_schema(column));
        if required(column) {
            names.push(column.name.clone());
        }
    }
    json!({ "type": "object", "properties": properties, "required": names, "additionalProperties": false })
}

fn column_schema(column: &Column) -> Value {
    let mut schema = match &column.kind {
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
        Kind::Date => json!({ "type": "string", "format": "date" }),
        Kind::Decimal => json!({ "type": ["string", "number"], "pattern": "^-?[0-9]+(\\.[0-9]+)?$" }),
        Kind::Float(bits) => {
            json!({ "type": ["number", "string"], "format": if *bits == 32 { "float" } else { "double" } })
        }
        Kind::Integer(64) => json!({ "type": ["integer", "string"], "format": "int64" }),
        Kind::Integer(_) => json!({ "type": ["integer", "string"], "format": "int32" }),
        Kind::Json => json!({}),
        Kind::Moment => json!({ "type": "string", "format": "date-time" }),
        Kind::Local | Kind::Other | Kind::Text => json!({ "type": "string" }),
        Kind::Uuid => json!({ "type": "string", "format": "uuid" }),
    };
    if column.nullable
        && let Some(kinds) = schema.get_mut("type")
    {
        let all = match kinds.take() {
            Value::Array(all) => all,
            one => vec![one],
        };
        *kinds = all.into_iter().chain([json!("null")]).collect();
    }
    if column.generated {
        add(&mut schema, "readOnly", Value::Bool(true));
    }
    schema
}

fn problem() -> Value {
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let text = json!({ "type": "string" });
    json!({
        "type": "object",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": text,
            "title": text,
            "status": { "type": "integer" },
            "detail": text,
            "code": { "enum": codes },
            "constraint": text,
            "operation": { "type": "integer" },
            "retry_after_s": { "type": "integer" },
            "errors": { "type": "array", "items": { "type": "object", "required": ["detail"], "properties": {
                "detail": text, "pointer": text, "table": text, "column": text, "expected": text,
            } } },
        },
    })
}
