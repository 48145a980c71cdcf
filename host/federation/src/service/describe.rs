//! The description of the service (OpenAPI 3.1).

use http::{Response, StatusCode};
use portolan_foundation::endpoint::Body;
use serde_json::{Map, Value, json};

use super::CONTENT_PATH;
use super::problem::Problem;
use super::reply;
use crate::defaults::{CHANGES_WAIT_MAX_S, PAGE, PAGE_MAX, UPLOAD_BYTES_MAX};

/// A path, a method, what it does, what it is sent, what it is answered.
type Operation = (&'static str, &'static str, &'static str, Sent, &'static str);

/// What a request brings.
#[derive(Clone, Copy)]
enum Sent {
    Bytes,
    Json(&'static str),
    Nothing,
}

/// All operations. An answer's name is that of a schema; `bytes` is a content, `` nothing.
const OPERATIONS: [Operation; 24] = [
    ("/items/{site}", "get", "A site's items, by name", Sent::Nothing, "items"),
    (
        "/items/{site}/{name}",
        "get",
        "The shown version of an item, or `?version=VERSION`",
        Sent::Nothing,
        "bytes",
    ),
    (
        "/items/{site}/{name}",
        "put",
        "A new version; `?base=VERSION` names the one that its writer has seen",
        Sent::Bytes,
        "version",
    ),
    ("/items/{site}/{name}", "delete", "A version without a content", Sent::Nothing, ""),
    ("/items/{site}/{name}/versions", "get", "Versions, newest first", Sent::Nothing, "versions"),
    ("/items/{site}/{name}/conflicts", "get", "Versions that no other has seen", Sent::Nothing, "conflicts"),
    ("/items/{site}/{name}/conflicts", "post", "Resolves a conflict", Sent::Json("resolution"), "version"),
    ("/items/{site}/{name}/diff", "get", "What changed, `?from=VERSION&to=VERSION`", Sent::Nothing, "diff"),
    ("/c/{root}", "get", "A content by its name, which never has another", Sent::Nothing, "bytes"),
    ("/uploads", "post", "Begins a content that is sent in parts", Sent::Json("announcement"), "upload"),
    ("/uploads/{upload}", "get", "How far it is", Sent::Nothing, "upload"),
    (
        "/uploads/{upload}",
        "patch",
        "The next part, from `Upload-Offset` on; the last makes the version",
        Sent::Bytes,
        "version",
    ),
    ("/uploads/{upload}", "delete", "Ends it without a version", Sent::Nothing, ""),
    ("/shares", "get", "Shares, by name", Sent::Nothing, "shares"),
    ("/shares", "post", "Offers a share", Sent::Json("offer"), "share"),
    ("/shares/{share}", "get", "A share", Sent::Nothing, "share"),
    (
        "/shares/{share}/accept",
        "post",
        "The target takes it: one of another tenant's with `?from=TENANT&site=SITE`",
        Sent::Nothing,
        "share",
    ),
    ("/shares/{share}/suspend", "post", "It lets nothing through for now", Sent::Nothing, "share"),
    (
        "/shares/{share}/revoke",
        "post",
        "It is over for good; what mirrors have of it goes",
        Sent::Nothing,
        "share",
    ),
    (
        "/shares/{share}/preview",
        "get",
        "What would move, and what stands in its way",
        Sent::Nothing,
        "preview",
    ),
    ("/shares/{share}/sync", "get", "How its items stand at the target", Sent::Nothing, "mappings"),
    ("/shares/{share}/sync", "post", "Brings the target up to the source", Sent::Nothing, "synced"),
    (
        "/changes",
        "get",
        "Changes after `?since=NUMBER`, as events where `Accept` says `text/event-stream`",
        Sent::Nothing,
        "changes",
    ),
    ("/openapi.json", "get", "This description", Sent::Nothing, "description"),
];

/// Parameters of queries, by the paths that have them.
const PARAMETERS: [(&str, &str, &str, &str); 15] = [
    ("/items/{site}", "get", "after", "string"),
    ("/items/{site}", "get", "limit", "integer"),
    ("/items/{site}/{name}", "get", "version", "string"),
    ("/items/{site}/{name}", "put", "base", "string"),
    ("/items/{site}/{name}/versions", "get", "before", "integer"),
    ("/items/{site}/{name}/versions", "get", "limit", "integer"),
    ("/items/{site}/{name}/diff", "get", "from", "string"),
    ("/items/{site}/{name}/diff", "get", "to", "string"),
    ("/shares", "get", "after", "string"),
    ("/shares/{share}/accept", "post", "from", "string"),
    ("/shares/{share}/accept", "post", "site", "string"),
    ("/shares/{share}/sync", "get", "after", "string"),
    ("/changes", "get", "since", "integer"),
    ("/changes", "get", "wait", "integer"),
    ("/changes", "get", "limit", "integer"),
];

/// The description, as an answer.
pub(super) fn description() -> Result<Response<Body>, Problem> {
    reply::json(StatusCode::OK, &openapi())
}

fn openapi() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in OPERATIONS {
        let there = paths.entry(operation.0.to_owned()).or_insert_with(|| json!({}));
        if let Some(methods) = there.as_object_mut() {
            methods.insert(operation.1.to_owned(), described(operation));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tenant content",
            "version": env!("CARGO_PKG_VERSION"),
            "description": format!(
                "Items of a tenant's sites with all their versions. Contents have up to {UPLOAD_BYTES_MAX} bytes, and answers about them take \
                 ranges and conditions (RFC 9110). A `/` in an item's name is written %2F. Lists have {PAGE} entries a page, `?limit=` up to \
                 {PAGE_MAX}, and say with what to go on; `?wait=` on changes is up to {CHANGES_WAIT_MAX_S} seconds. With `portolan-consistency: \
                 local` or `max-staleness=SECONDS` a copy of this region answers, and `portolan-staleness` says how old that may be."
            ),
        },
        "servers": [{ "url": CONTENT_PATH }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": { "schemas": schemas(), "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } } },
    })
}

fn described((path, method, summary, sent, answered): Operation) -> Value {
    let named = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let named = named
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
    let asked = PARAMETERS.iter().filter(|(at, by, ..)| (*at, *by) == (path, method));
    let asked =
        asked.map(|(_, _, name, kind)| json!({ "name": name, "in": "query", "schema": { "type": kind } }));
    let answer = match answered {
        "" => json!({ "204": { "description": "Done" } }),
        "bytes" => json!({
            "200": { "description": "The content", "content": { "*/*": {} } },
            "206": { "description": "A range of it" }, "304": { "description": "The reader has it" },
        }),
        "description" => json!({ "200": { "description": "OpenAPI 3.1" } }),
        name => {
            json!({ "2XX": { "description": summary, "content": { "application/json": { "schema": reference(name) } } } })
        }
    };
    let mut operation = json!({
        "summary": summary, "parameters": named.chain(asked).collect::<Vec<Value>>(), "responses": answer,
    });
    if let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) {
        let problem = json!({ "schema": reference("problem") });
        responses.insert(
            "default".to_owned(),
            json!({ "description": "Why not", "content": { "application/problem+json": problem } }),
        );
    }
    let body = match sent {
        Sent::Nothing => return operation,
        Sent::Bytes => json!({ "required": true, "content": { "*/*": {} } }),
        Sent::Json(name) => {
            json!({ "required": true, "content": { "application/json": { "schema": reference(name) } } })
        }
    };
    if let Some(operation) = operation.as_object_mut() {
        operation.insert("requestBody".to_owned(), body);
    }
    operation
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// An object of these members; those whose kinds are words of JSON Schema, or names of other schemas in lists.
fn object(members: &[(&str, &str)]) -> Value {
    let kind = |kind: &str| match kind.strip_prefix("list ") {
        Some("string") => json!({ "type": "array", "items": { "type": "string" } }),
        Some(name) => json!({ "type": "array", "items": reference(name) }),
        None => json!({ "type": kind }),
    };
    let properties: Map<String, Value> =
        members.iter().map(|(name, of)| ((*name).to_owned(), kind(of))).collect();
    json!({ "type": "object", "properties": properties })
}

fn schemas() -> Value {
    let offer: &[(&str, &str)] = &[
        ("source_site", "string"),
        ("target_site", "string"),
        ("target_tenant", "string"),
        ("scope", "string"),
        ("scope_ref", "string"),
        ("mode", "string"),
        ("direction", "string"),
        ("can_update", "boolean"),
        ("can_reshare", "boolean"),
        ("can_export", "boolean"),
        ("allowed_regions", "list string"),
        ("denied_regions", "list string"),
        ("eager", "boolean"),
        ("max_bytes", "integer"),
        ("field_mask", "list string"),
        ("fields", "list string"),
        ("not_before_ms", "integer"),
        ("expires_ms", "integer"),
    ];
    let share = [
        offer,
        &[
            ("share", "string"),
            ("status", "string"),
            ("can_read", "boolean"),
            ("policy_epoch", "integer"),
            ("source_tenant", "string"),
        ],
    ]
    .concat();
    json!({
        "announcement": object(&[("site", "string"), ("name", "string"), ("bytes", "integer"), ("media", "string"), ("base", "string")]),
        "change": object(&[
            ("seq", "integer"), ("kind", "string"), ("site", "string"), ("subject", "string"), ("detail", "string"), ("at_ms", "integer"), ("digest", "string"),
        ]),
        "changes": object(&[("changes", "list change"), ("next", "integer")]),
        "conflicts": object(&[("conflict", "boolean"), ("heads", "list stored")]),
        "diff": object(&[("from", "object"), ("to", "object"), ("replaced_bytes", "integer"), ("changed", "list place"), ("more", "boolean")]),
        "item": object(&[
            ("name", "string"), ("media", "string"), ("version", "string"), ("root", "string"), ("bytes", "integer"), ("at_ms", "integer"),
            ("heads", "integer"),
        ]),
        "items": object(&[("items", "list item"), ("next", "string")]),
        "mapping": object(&[
            ("source_item", "string"), ("target_site", "string"), ("target_item", "string"), ("last_synced_version", "string"), ("state", "string"),
        ]),
        "mappings": object(&[("share", "string"), ("items", "list mapping"), ("next", "string")]),
        "offer": object(offer),
        "place": object(&[("at", "integer"), ("bytes", "integer")]),
        "preview": object(&[("share", "string"), ("items", "integer"), ("bytes", "integer"), ("too_large", "integer"), ("regions", "list reached")]),
        "problem": object(&[("type", "string"), ("title", "string"), ("status", "integer"), ("code", "string"), ("detail", "string")]),
        "reached": object(&[("region", "string"), ("permitted", "boolean"), ("violates", "string")]),
        "resolution": object(&[("keep", "string"), ("heads", "list string")]),
        "share": object(&share),
        "shares": object(&[("shares", "list share"), ("next", "string")]),
        "stored": object(&[
            ("version", "string"), ("seq", "integer"), ("at_ms", "integer"), ("bytes", "integer"), ("root", "string"), ("deleted", "boolean"),
            ("head", "boolean"), ("shown", "boolean"), ("parents", "list string"), ("region", "string"),
        ]),
        "synced": object(&[("share", "string"), ("written", "integer"), ("unchanged", "integer"), ("refused", "integer"), ("deleted", "integer")]),
        "upload": object(&[("upload", "string"), ("offset", "integer"), ("bytes", "integer")]),
        "version": object(&[
            ("site", "string"), ("name", "string"), ("version", "string"), ("root", "string"), ("seq", "integer"), ("conflict", "boolean"),
            ("sent_bytes", "integer"),
        ]),
        "versions": object(&[("item", "string"), ("versions", "list stored"), ("next", "integer")]),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http::Method;

    use super::super::path::Place;
    use super::*;

    #[test]
    fn what_is_described_is_there_and_nothing_else() {
        let paths: BTreeSet<&str> = OPERATIONS.iter().map(|operation| operation.0).collect();
        for path in paths {
            let real = path.replace(['{', '}'], "");
            for method in [Method::GET, Method::PUT, Method::POST, Method::PATCH, Method::DELETE] {
                let is_there = Place::of(&real).unwrap().writes(&method).is_ok();
                let name = method.as_str().to_ascii_lowercase();
                let described =
                    OPERATIONS.iter().any(|operation| (operation.0, operation.1) == (path, name.as_str()));
                assert_eq!(described, is_there, "{method} {path}");
            }
        }
        for (path, method, ..) in PARAMETERS {
            assert!(
                OPERATIONS.iter().any(|operation| (operation.0, operation.1) == (path, method)),
                "{method} {path}"
            );
        }
    }

    #[test]
    fn all_schemas_that_are_named_are_there() {
        let text = openapi().to_string();
        let schemas = schemas();
        for name in text.split("#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            assert!(schemas.get(name).is_some(), "{name}");
        }
    }
}
