//! The configuration as a tree in which every value knows where it was written.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Origin, Problem};

/// What environment variables of ours begin with.
const PREFIX: &str = "PORTOLAN__";
/// Levels of tables and arrays. The deepest setting has five.
const DEPTH_MAX: usize = 32;

/// A value with its origin.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) origin: Origin,
    pub(crate) kind: Kind,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Array(Vec<Node>),
    Scalar(toml::Value),
    Table(BTreeMap<String, Entry>),
}

/// A member of a table, with the place of its key.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Origin,
    pub(crate) node: Node,
}

/// Everything that was written.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) root: Node,
}

impl Default for Tree {
    fn default() -> Self {
        Self { root: Node { origin: Origin::Nowhere, kind: Kind::Table(BTreeMap::new()) } }
    }
}

impl Tree {
    /// Adds a file. Its tables join those of earlier files; its other values must be new.
    pub(crate) fn add_file(&mut self, number: usize, text: &str, problems: &mut Vec<Problem>) {
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            problems.push(Problem::new(Origin::File(number, span), error.message().to_owned()));
        }
        let span = table.span();
        let read = Reader { number };
        let node =
            Node { origin: Origin::File(number, span), kind: read.table(table.into_inner(), 0, problems) };
        merge(&mut self.root, node, problems);
    }

    /// Adds a section that is not in a file. It joins as a file's does; whoever needs places of problems reads it as a text.
    pub(crate) fn add_section(&mut self, name: String, value: toml::Value, problems: &mut Vec<Problem>) {
        let origin = Origin::Nowhere;
        let entry = Entry { key: origin.clone(), node: from_value(value, &origin) };
        let node = Node { origin, kind: Kind::Table(BTreeMap::from([(name, entry)])) };
        merge(&mut self.root, node, problems);
    }

    /// Adds what the environment overrides: `PORTOLAN__A__B=value` is `a.b`. A value that reads as TOML is taken as such,
    /// any other as text.
    pub(crate) fn add_environment(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
        problems: &mut Vec<Problem>,
    ) {
        let mut variables: Vec<(String, String)> =
            variables.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
        variables.sort();
        for (name, text) in variables {
            let path = name.strip_prefix(PREFIX).unwrap_or_default().to_ascii_lowercase();
            let path: Vec<&str> = path.split("__").collect();
            if path.iter().any(|key| key.is_empty()) {
                let problem = Problem::new(Origin::Environment(name), "the variable names no setting");
                problems
                    .push(problem.help("write levels with two underscores between: PORTOLAN__NODE__REGION"));
                continue;
            }
            let line = format!("v = {text}");
            let value = line.parse::<toml::Table>().ok().and_then(|mut table| table.remove("v"));
            let value = value.unwrap_or(toml::Value::String(text));
            let origin = Origin::Environment(name);
            set(&mut self.root, &path, from_value(value, &origin), &origin);
        }
    }

    /// Where the value at this path was written; of a path that does not exist, the nearest table above.
    pub(crate) fn origin(&self, path: &[&str]) -> Origin {
        let mut node = &self.root;
        let mut origin = Origin::Nowhere;
        for step in path {
            let next = match &node.kind {
                Kind::Table(table) => table.get(*step).map(|entry| (&entry.node, &entry.key)),
                Kind::Array(items) => step
                    .parse::<usize>()
                    .ok()
                    .and_then(|index| items.get(index))
                    .map(|item| (item, &item.origin)),
                Kind::Scalar(_) => None,
            };
            let Some((next, key)) = next else { return origin };
            origin = match &next.kind {
                // A whole table is too much to point at: its key says enough.
                Kind::Table(_) => key.clone(),
                Kind::Array(_) | Kind::Scalar(_) => next.origin.clone(),
            };
            node = next;
        }
        origin
    }

    /// The tree without its origins.
    pub(crate) fn to_value(&self) -> toml::Value {
        to_value(&self.root)
    }
}

struct Reader {
    number: usize,
}

impl Reader {
    fn origin(&self, span: Range<usize>) -> Origin {
        Origin::File(self.number, span)
    }

    fn table(&self, table: DeTable<'_>, depth: usize, problems: &mut Vec<Problem>) -> Kind {
        let mut entries = BTreeMap::new();
        for (key, value) in table {
            let origin = self.origin(key.span());
            let node = self.node(value, depth + 1, problems);
            entries.insert(key.into_inner().into_owned(), Entry { key: origin, node });
        }
        Kind::Table(entries)
    }

    fn node(&self, value: Spanned<DeValue<'_>>, depth: usize, problems: &mut Vec<Problem>) -> Node {
        let origin = self.origin(value.span());
        if depth > DEPTH_MAX {
            problems
                .push(Problem::new(origin.clone(), format!("it nests more than {DEPTH_MAX} levels deep")));
            return Node { origin, kind: Kind::Scalar(toml::Value::Boolean(false)) };
        }
        let kind = match value.into_inner() {
            DeValue::Table(table) => self.table(table, depth, problems),
            DeValue::Array(items) => {
                Kind::Array(items.into_iter().map(|item| self.node(item, depth + 1, problems)).collect())
            }
            DeValue::String(text) => Kind::Scalar(toml::Value::String(text.into_owned())),
            DeValue::Boolean(value) => Kind::Scalar(toml::Value::Boolean(value)),
            DeValue::Datetime(value) => Kind::Scalar(toml::Value::Datetime(value)),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Kind::Scalar(toml::Value::Integer(number)),
                Err(_) => {
                    problems.push(Problem::new(origin.clone(), "the number is too large"));
                    Kind::Scalar(toml::Value::Integer(0))
                }
            },
            DeValue::Float(number) => {
                Kind::Scalar(toml::Value::Float(number.as_str().parse().unwrap_or(f64::NAN)))
            }
        };
        Node { origin, kind }
    }
}

/// Joins tables; anything else that comes twice is a problem.
fn merge(into: &mut Node, from: Node, problems: &mut Vec<Problem>) {
    match (&mut into.kind, from.kind) {
        (Kind::Table(into), Kind::Table(from)) => {
            for (name, entry) in from {
                match into.get_mut(&name) {
                    Some(known) if is_table(&known.node) && is_table(&entry.node) => {
                        merge(&mut known.node, entry.node, problems);
                    }
                    Some(_) => {
                        let problem =
                            Problem::new(entry.key, format!("`{name}` is already set in another file"));
                        problems.push(problem.help("set it in one place; only the environment overrides"));
                    }
                    None => {
                        into.insert(name, entry);
                    }
                }
            }
        }
        (_, kind) => *into = Node { origin: from.origin, kind },
    }
}

const fn is_table(node: &Node) -> bool {
    matches!(node.kind, Kind::Table(_))
}

fn set(node: &mut Node, path: &[&str], value: Node, origin: &Origin) {
    let Some((first, rest)) = path.split_first() else {
        *node = value;
        return;
    };
    if !is_table(node) {
        *node = Node { origin: origin.clone(), kind: Kind::Table(BTreeMap::new()) };
    }
    let Kind::Table(table) = &mut node.kind else { return };
    // Names of regions, pools and tenants have hyphens, which a variable's name cannot have.
    let written = (*first).to_owned();
    let hyphened = first.replace('_', "-");
    let name =
        if table.contains_key(&written) || !table.contains_key(&hyphened) { written } else { hyphened };
    let empty = || Entry {
        key: origin.clone(),
        node: Node { origin: origin.clone(), kind: Kind::Table(BTreeMap::new()) },
    };
    set(&mut table.entry(name).or_insert_with(empty).node, rest, value, origin);
}

fn from_value(value: toml::Value, origin: &Origin) -> Node {
    let kind = match value {
        toml::Value::Array(items) => {
            Kind::Array(items.into_iter().map(|item| from_value(item, origin)).collect())
        }
        toml::Value::Table(table) => Kind::Table(
            table
                .into_iter()
                .map(|(name, value)| (name, Entry { key: origin.clone(), node: from_value(value, origin) }))
                .collect(),
        ),
        scalar => Kind::Scalar(scalar),
    };
    Node { origin: origin.clone(), kind }
}

fn to_value(node: &Node) -> toml::Value {
    match &node.kind {
        Kind::Array(items) => toml::Value::Array(items.iter().map(to_value).collect()),
        Kind::Scalar(value) => value.clone(),
        Kind::Table(table) => toml::Value::Table(
            table.iter().map(|(name, entry)| (name.clone(), to_value(&entry.node))).collect(),
        ),
    }
}
