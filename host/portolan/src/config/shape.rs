//! The shape of the configuration, checked against the schema of the types that read it: unknown keys, missing keys, wrong
//! types. All at once, each where it was written.

use serde_json::Value as Json;

use super::problem::Problem;
use super::tree::{Kind, Node, Tree};

/// Checks the whole tree.
pub(crate) fn check(tree: &Tree, schema: &Json, problems: &mut Vec<Problem>) {
    Checker { root: schema }.node(&tree.root, schema, "the configuration", problems);
}

struct Checker<'s> {
    root: &'s Json,
}

impl<'s> Checker<'s> {
    /// Follows references into the schema's own definitions.
    fn resolve(&self, mut schema: &'s Json) -> &'s Json {
        for _ in 0..16 {
            let Some(target) = schema.get("$ref").and_then(Json::as_str) else { break };
            let Some(next) = target.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer)) else {
                break;
            };
            schema = next;
        }
        // An optional value is "this or null"; TOML has no null.
        let alternatives = schema.get("anyOf").and_then(Json::as_array);
        let mut real =
            alternatives.into_iter().flatten().filter(|one| one.get("type") != Some(&"null".into()));
        match (real.next(), real.next()) {
            (Some(only), None) => self.resolve(only),
            _ => schema,
        }
    }

    fn node(&self, node: &Node, schema: &'s Json, name: &str, problems: &mut Vec<Problem>) {
        let schema = self.resolve(schema);
        if let Some(words) = words(schema) {
            return check_word(node, &words, name, problems);
        }
        let expected = types(schema);
        let found = type_of(node);
        let fits = expected.contains(&found) || (found == "integer" && expected.contains(&"number"));
        if !expected.is_empty() && !fits {
            let wanted: Vec<&str> =
                expected.iter().copied().filter(|name| *name != "null").map(article).collect();
            let message = format!("`{name}` must be {}, not {}", wanted.join(" or "), article(found));
            problems.push(Problem::new(node.origin.clone(), message));
            return;
        }
        match &node.kind {
            Kind::Array(items) => {
                let Some(inner) = schema.get("items") else { return };
                items.iter().for_each(|item| self.node(item, inner, name, problems));
            }
            Kind::Table(_) => self.table(node, schema, name, problems),
            Kind::Scalar(value) => check_range(value, node, schema, name, problems),
        }
    }

    fn table(&self, node: &Node, schema: &'s Json, name: &str, problems: &mut Vec<Problem>) {
        let Kind::Table(entries) = &node.kind else { return };
        let known = schema.get("properties").and_then(Json::as_object);
        let others = schema.get("additionalProperties");
        for (key, entry) in entries {
            if let Some(inner) = known.and_then(|known| known.get(key)) {
                self.node(&entry.node, inner, key, problems);
                continue;
            }
            match others {
                Some(Json::Bool(false)) => {
                    let names: Vec<&str> =
                        known.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
                    let problem = Problem::new(entry.key.clone(), format!("`{key}` is no setting of {name}"));
                    problems.push(problem.help(suggest(key, &names)));
                }
                Some(inner @ Json::Object(_)) => self.node(&entry.node, inner, key, problems),
                _ => {}
            }
        }
        for key in
            schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str)
        {
            if !entries.contains_key(key) {
                problems.push(Problem::new(node.origin.clone(), format!("{name} lacks `{key}`")));
            }
        }
    }
}

/// "Did you mean ..?", or what there is.
pub(crate) fn suggest(found: &str, names: &[&str]) -> String {
    let close = names
        .iter()
        .map(|name| (strsim::damerau_levenshtein(found, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min();
    match close {
        Some((_, name)) => format!("did you mean `{name}`?"),
        None if names.is_empty() => "nothing is expected there".to_owned(),
        None => format!("there are {}", names.join(", ")),
    }
}

/// The words of an enumeration.
fn words(schema: &Json) -> Option<Vec<&str>> {
    if let Some(words) = schema.get("enum").and_then(Json::as_array) {
        return Some(words.iter().filter_map(Json::as_str).collect());
    }
    let alternatives = schema.get("oneOf").and_then(Json::as_array)?;
    alternatives.iter().map(|one| one.get("const").and_then(Json::as_str)).collect()
}

fn check_word(node: &Node, words: &[&str], name: &str, problems: &mut Vec<Problem>) {
    match &node.kind {
        Kind::Scalar(toml::Value::String(text)) if words.contains(&text.as_str()) => {}
        Kind::Scalar(toml::Value::String(text)) => {
            let problem = Problem::new(node.origin.clone(), format!("`{text}` is no value of `{name}`"));
            problems.push(problem.help(suggest(text, words)));
        }
        _ => {
            let message = format!("`{name}` must be one of the texts {}", words.join(", "));
            problems.push(Problem::new(node.origin.clone(), message));
        }
    }
}

fn types(schema: &Json) -> Vec<&str> {
    match schema.get("type") {
        Some(Json::String(one)) => vec![one],
        Some(Json::Array(several)) => several.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    }
}

const fn type_of(node: &Node) -> &'static str {
    match &node.kind {
        Kind::Array(_) => "array",
        Kind::Table(_) => "object",
        Kind::Scalar(toml::Value::Integer(_)) => "integer",
        Kind::Scalar(toml::Value::Float(_)) => "number",
        Kind::Scalar(toml::Value::Boolean(_)) => "boolean",
        Kind::Scalar(toml::Value::Datetime(_)) => "date",
        Kind::Scalar(_) => "string",
    }
}

fn article(name: &str) -> &str {
    match name {
        "array" => "an array",
        "object" => "a table",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "date" => "a date",
        _ => "a text",
    }
}

fn check_range(value: &toml::Value, node: &Node, schema: &Json, name: &str, problems: &mut Vec<Problem>) {
    let toml::Value::Integer(number) = value else { return };
    let bound = |key: &str| schema.get(key).and_then(|bound| bound.as_i64());
    if let Some(least) = bound("minimum").filter(|least| number < least) {
        problems.push(Problem::new(node.origin.clone(), format!("`{name}` must be at least {least}")));
    }
    if let Some(most) = bound("maximum").filter(|most| number > most) {
        problems.push(Problem::new(node.origin.clone(), format!("`{name}` must be at most {most}")));
    }
}
