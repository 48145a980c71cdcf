//! Objects of the control store as parts of the configuration, and back.
//!
//! An object is what a section of a file is: `region/eu` is `[region.eu]`, `settings/limits` is `[limits]`. As a text it goes
//! the way of every file, so that there is one reader of configurations and one way to tell what is wrong with it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use portolan_control::{Body, Key, State};
use serde_json::Value as Json;

use super::Source;

/// What objects' texts are called by, before their keys.
const PREFIX: &str = "control:";
/// Kinds whose objects are tables within a table of the same name.
const NAMED: [&str; 8] = ["lease", "place", "region", "residency", "shard", "standing", "table", "tenant"];
/// The kind of sections that there is one of.
const SETTINGS: &str = "settings";
/// Sections that there is one of. All others are the node's own, and stay in its file.
const SECTIONS: [&str; 13] = [
    "client_network",
    "dns",
    "expose",
    "failover",
    "latency",
    "limits",
    "placement",
    "policy",
    "query",
    "recordings",
    "steering",
    "tenants",
    "trust",
];
/// Where a section that is a list stands in its object.
const LIST: &str = "list";

/// The objects as texts. Kinds that are no part of the configuration are left out.
pub(crate) fn sources(state: &State) -> Vec<Source> {
    state.objects().filter_map(|(key, object)| source(key, &object.body)).collect()
}

/// One object as a text.
pub(crate) fn source(key: &Key, body: &Body) -> Option<Source> {
    let (name, value) = section(key, body)?;
    let table = toml::Table::from_iter([(name, value)]);
    // What was made of JSON has only what TOML has.
    let text = toml::to_string(&table).unwrap_or_default();
    Some(Source { path: PathBuf::from(format!("{PREFIX}{key}")), text })
}

/// The key of the object that a text was made of; none for a file.
pub(crate) fn key_of(path: &str) -> Option<&str> {
    path.strip_prefix(PREFIX)
}

/// Is an object of this key a part of the configuration?
pub(crate) fn is_configuration(key: &Key) -> bool {
    NAMED.contains(&key.kind()) || key.kind() == SETTINGS
}

/// The objects as sections of a configuration: the section's name and what stands below it. Named objects of one kind come
/// together.
pub(crate) fn sections(state: &State) -> Vec<(String, toml::Value)> {
    let mut named: BTreeMap<String, toml::Table> = BTreeMap::new();
    let mut single = Vec::new();
    for (key, object) in state.objects() {
        match section(key, &object.body) {
            Some((kind, toml::Value::Table(table))) if NAMED.contains(&key.kind()) => {
                named.entry(kind).or_default().extend(table);
            }
            other => single.extend(other),
        }
    }
    single.extend(named.into_iter().map(|(kind, table)| (kind, toml::Value::Table(table))));
    single
}

/// One object as a section.
fn section(key: &Key, body: &Body) -> Option<(String, toml::Value)> {
    if NAMED.contains(&key.kind()) {
        let named = toml::Table::from_iter([(key.name().to_owned(), table(body))]);
        Some((key.kind().to_owned(), toml::Value::Table(named)))
    } else if key.kind() == SETTINGS && SECTIONS.contains(&key.name()) {
        Some((key.name().to_owned(), body.get(LIST).map_or_else(|| table(body), to_toml)))
    } else {
        None
    }
}

fn table(body: &Body) -> toml::Value {
    toml::Value::Table(body.iter().map(|(name, value)| (name.clone(), to_toml(value))).collect())
}

/// The objects that a file has.
///
/// # Errors
/// What is none, a line each.
pub(crate) fn objects(source: &Source) -> Result<Vec<(Key, Body)>, Vec<String>> {
    let file = source.path.display();
    let table: toml::Table =
        source.text.parse().map_err(|error: toml::de::Error| vec![format!("{file}: {error}")])?;
    let (mut objects, mut problems) = (Vec::new(), Vec::new());
    let mut add = |kind: &str, name: &str, value: toml::Value| match (Key::new(kind, name), to_json(value)) {
        (Ok(key), Json::Object(body)) => objects.push((key, body)),
        (Ok(key), list @ Json::Array(_)) => objects.push((key, Body::from_iter([(LIST.to_owned(), list)]))),
        (Ok(key), _) => problems.push(format!("{file}: `{key}` is to be a table")),
        (Err(error), _) => problems.push(format!("{file}: {error}")),
    };
    let mut own = Vec::new();
    for (section, value) in table {
        match value {
            toml::Value::Table(named) if NAMED.contains(&section.as_str()) => {
                named.into_iter().for_each(|(name, value)| add(&section, &name, value));
            }
            value if SECTIONS.contains(&section.as_str()) => add(SETTINGS, &section, value),
            _ => own.push(section),
        }
    }
    problems.extend(own.iter().map(|section| {
        format!("{file}: `{section}` is each node's own: write it in portolan.toml, not in what all share")
    }));
    if problems.is_empty() { Ok(objects) } else { Err(problems) }
}

fn to_toml(value: &Json) -> toml::Value {
    match value {
        // TOML has no null; a text shows where it stood, and is refused there.
        Json::Null => toml::Value::String("null".to_owned()),
        Json::Bool(value) => toml::Value::Boolean(*value),
        Json::Number(number) => number
            .as_i64()
            .map_or_else(|| toml::Value::Float(number.as_f64().unwrap_or(f64::NAN)), toml::Value::Integer),
        Json::String(text) => toml::Value::String(text.clone()),
        Json::Array(items) => toml::Value::Array(items.iter().map(to_toml).collect()),
        Json::Object(body) => table(body),
    }
}

fn to_json(value: toml::Value) -> Json {
    match value {
        toml::Value::String(text) => Json::String(text),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(value) => Json::Bool(value),
        toml::Value::Datetime(time) => Json::String(time.to_string()),
        toml::Value::Array(items) => items.into_iter().map(to_json).collect(),
        toml::Value::Table(table) => {
            Json::Object(table.into_iter().map(|(name, value)| (name, to_json(value))).collect())
        }
    }
}
