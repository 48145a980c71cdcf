//! The configuration of a policy against the schema that the policy itself carries.

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use crate::config::Limits;
use crate::error::{Refused, Stage, printable};

/// Problems that are told at once.
const PROBLEMS_MAX: usize = 8;
/// Levels of a schema; and how often a schema may refer to another place at all. The validator recurses along both.
const DEPTH_MAX: usize = 64;

/// A schema and what checks it.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) value: Value,
    validator: Validator,
}

impl Schema {
    /// Reads a schema. It may refer to its own parts, but not to other documents, and never in a circle.
    pub(crate) fn parse(text: &str) -> Result<Self, Refused> {
        let refuse = |reason: String| {
            Refused::new(
                Stage::Schema,
                format!("the configuration's schema is not usable: {reason}"),
                "put a JSON Schema (draft 2020-12) into the custom section `portolan:config-schema`, or none",
            )
        };
        let value: Value = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
        check_references(&value).map_err(refuse)?;
        // The linear engine: a schema's patterns are a tenant's, and backtracking ones can take for ever.
        let validator = jsonschema::options()
            .with_pattern_options(PatternOptions::regex())
            .build(&value)
            .map_err(|error| refuse(error.to_string()))?;
        Ok(Self { value, validator })
    }

    fn check(&self, config: &Value) -> Result<(), Refused> {
        let mut problems: Vec<String> = Vec::new();
        for error in self.validator.iter_errors(config).take(PROBLEMS_MAX) {
            let path = error.instance_path().to_string();
            let path = if path.is_empty() { "the configuration".to_owned() } else { format!("`{path}`") };
            problems.push(format!("{path}: {}", printable(&error.to_string(), 256)));
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(Refused::new(
            Stage::Config,
            problems.join("; "),
            "change the slot's `config` so that it fits the policy's schema (`portolan plugin check` shows it)",
        ))
    }
}

/// Checks a configuration: small enough, a JSON object, fit for the schema if there is one.
pub(crate) fn check(schema: Option<&Schema>, config: &str, limits: &Limits) -> Result<(), Refused> {
    let (size, max) = (config.len(), limits.config_bytes_max);
    if size > max {
        let fix = "give the policy less, or put the data into the component";
        return Err(Refused::new(Stage::Config, format!("it has {size} bytes, {max} are allowed"), fix));
    }
    let value: Value = serde_json::from_str(config).map_err(|error| {
        Refused::new(Stage::Config, format!("it is not JSON: {error}"), "give one JSON object")
    })?;
    if !value.is_object() {
        return Err(Refused::new(
            Stage::Config,
            "it is JSON, but no object",
            "give one JSON object, such as `{}`",
        ));
    }
    schema.map_or(Ok(()), |schema| schema.check(&value))
}

/// References are followed by recursion, so a circle of them would end the process. Every reference must be a pointer
/// into this document, to a place whose own references lead on to others, and so on to an end. Being allowed to recurse is
/// worth little in a configuration of at most 64 KiB.
fn check_references(schema: &Value) -> Result<(), String> {
    fn walk<'v>(root: &'v Value, at: &'v Value, depth: usize, steps: &mut usize) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err(format!("it nests or refers more than {DEPTH_MAX} levels deep, or in a circle"));
        }
        *steps += 1;
        if *steps > 65_536 {
            return Err("its references multiply".to_owned());
        }
        match at {
            Value::Array(items) => {
                items.iter().try_for_each(|item| walk(root, item, depth + 1, steps))?;
            }
            Value::Object(members) => {
                for (name, member) in members {
                    match (name.as_str(), member) {
                        (
                            "$dynamicRef" | "$recursiveRef" | "$dynamicAnchor" | "$anchor" | "$id",
                            Value::String(_),
                        ) => {
                            return Err(format!("`{name}` is not supported; use `$ref` with a JSON pointer"));
                        }
                        ("$ref", Value::String(target)) => {
                            let pointer = target
                                .strip_prefix('#')
                                .ok_or_else(|| format!("`$ref` to `{target}` leaves the schema"))?;
                            let target = root
                                .pointer(pointer)
                                .ok_or_else(|| format!("`$ref` to `{target}` leads nowhere"))?;
                            walk(root, target, depth + 1, steps)?;
                        }
                        _ => walk(root, member, depth + 1, steps)?,
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
    walk(schema, schema, 0, &mut 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(schema: &str, config: &str) -> String {
        let limits = Limits::standard();
        let schema = match Schema::parse(schema) {
            Ok(schema) => schema,
            Err(refused) => return refused.to_string(),
        };
        check(Some(&schema), config, &limits)
            .map_or_else(|refused| refused.to_string(), |()| "taken".to_owned())
    }

    #[test]
    fn a_wrong_configuration_names_place_and_problem() {
        let schema = r##"{
            "type": "object", "additionalProperties": false,
            "properties": {"percent": {"$ref": "#/$defs/percent"}},
            "$defs": {"percent": {"type": "integer", "maximum": 100}}
        }"##;
        assert_eq!(refused(schema, r#"{"percent": 20}"#), "taken");
        let text = refused(schema, r#"{"percent": 120, "precent": 1}"#);
        assert!(text.contains("`/percent`: 120 is greater than the maximum of 100"), "{text}");
        assert!(text.contains("precent"), "{text}");
        assert!(refused(schema, "[]").contains("no object"));
        assert!(refused(schema, "{").contains("not JSON"));
        assert!(refused(schema, &format!("{{\"a\":\"{}\"}}", "x".repeat(70_000))).contains("bytes"));
    }

    #[test]
    fn hostile_schemas_are_refused() {
        for schema in [
            r##"{"$ref": "#"}"##,
            r##"{"allOf": [{"$ref": "#"}]}"##,
            r##"{"properties": {"a": {"$ref": "#/properties/b"}, "b": {"$ref": "#/properties/a"}}}"##,
            r##"{"$ref": "https://example.com/schema"}"##,
            r##"{"$ref": "#/nowhere"}"##,
            r##"{"$id": "https://example.com/"}"##,
            r##"{"type": "nonsense"}"##,
            r##"{"pattern": "("}"##,
            "[]",
            "nonsense",
        ] {
            let text = refused(schema, "{}");
            assert!(text.contains("not usable"), "{schema}: {text}");
        }
        let deep = format!("{}{}", r#"{"not":"#.repeat(120), "{}".to_owned() + &"}".repeat(120));
        assert!(refused(&deep, "{}").contains("deep"));
        // Exponential for an engine that backtracks.
        let slow = r#"{"properties": {"a": {"pattern": "^(a+)+$"}}}"#;
        assert!(refused(slow, &format!("{{\"a\":\"{}!\"}}", "a".repeat(50))).contains("`/a`"));
    }
}
