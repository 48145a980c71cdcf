//! The types of the contract's functions as texts: what the host has, what a component has, and how they differ. Known before
//! anything is compiled, so that a component built for another contract is told which function differs, and how.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use wasmparser::component_types::{
    ComponentDefinedType, ComponentEntityType, ComponentFuncTypeId, ComponentValType,
};
use wasmparser::types::TypesRef;

use crate::error::printable;

/// Functions of one interface that are looked at. The contract's largest has fifteen.
const FUNCTIONS_MAX: usize = 256;
/// Bytes of one type's text; types can name each other so that a text would be without end.
const TEXT_BYTES_MAX: usize = 1_024;
/// Levels of a type that are shown.
const DEPTH_MAX: usize = 8;

/// A function's type. Names of parameters are for people: they make no difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    params: Vec<(String, String)>,
    result: Option<String>,
}

impl Signature {
    /// Would the host's function take the place of this one?
    pub(crate) fn fits(&self, other: &Self) -> bool {
        let types =
            |signature: &Self| -> Vec<String> { signature.params.iter().map(|(_, ty)| ty.clone()).collect() };
        types(self) == types(other) && self.result == other.result
    }
}

impl std::fmt::Display for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let params: Vec<String> = self.params.iter().map(|(name, ty)| format!("{name}: {ty}")).collect();
        write!(f, "func({})", params.join(", "))?;
        self.result.iter().try_for_each(|ty| write!(f, " -> {ty}"))
    }
}

/// A function of the contract: its interface, name, parameters, and result; an empty text where there is none.
type Entry = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);

const REFUSAL: &str = "record { code: u32, message: string }";
const CONDITIONS: &str = "list<record { attribute: string, test: string, value: string }>";
const EVENTS: &str = "list<record { region: string, at-ms: u64 }>";
/// `result<_, refusal>`
const UNIT: &str = "result<_, record { code: u32, message: string }>";
/// `result<rule, refusal>` and `result<answer, refusal>`
const NUMBER: &str = "result<u32, record { code: u32, message: string }>";

/// All functions of the newest contract; a test compares them with `wit/policy`.
const CONTRACT: &[Entry] = &[
    ("sharding-facts", "shards", &[], "list<string>"),
    ("sharding-facts", "shard-residency", &[("shard", "string")], "option<string>"),
    ("sharding-facts", "shard-regions", &[("shard", "string")], "list<string>"),
    ("sharding-facts", "shard-takes", &[("shard", "string")], "bool"),
    ("sharding-facts", "shard-tenants", &[("shard", "string")], "u64"),
    ("sharding-facts", "shard-capacity", &[("shard", "string")], "option<u64>"),
    ("sharding-facts", "shard-load", &[("shard", "string")], "u32"),
    (
        "sharding-facts",
        "rule",
        &[("residency", "option<string>"), ("location", "option<string>")],
        "list<record { last: u64, shard: string }>",
    ),
    ("sharding-facts", "tenants", &[("after", "string"), ("max", "u32")], "list<string>"),
    ("sharding-facts", "tenant-shard", &[("tenant", "string")], "option<string>"),
    ("sharding-facts", "tenant-residency", &[("tenant", "string")], "option<string>"),
    ("sharding-facts", "tenant-location", &[("tenant", "string")], "option<string>"),
    ("sharding-facts", "tenant-hash", &[("tenant", "string")], "u64"),
    ("sharding-facts", "moves-max", &[], "u32"),
    ("sharding-facts", "line-permille-max", &[], "u32"),
    ("sharding-answers", "relocate", &[("tenant", "string"), ("to", "string"), ("reason", "string")], UNIT),
    (
        "sharding-answers",
        "set-rule",
        &[
            ("residency", "option<string>"),
            ("location", "option<string>"),
            ("spans", "list<record { last: u64, shard: string }>"),
            ("reason", "string"),
        ],
        UNIT,
    ),
    (
        "placer",
        "place",
        &[("config", "string"), ("tenant", "string")],
        "result<option<string>, record { code: u32, message: string }>",
    ),
    ("placer", "rebalance", &[("config", "string")], UNIT),
    ("failover-facts", "now-ms", &[], "u64"),
    ("failover-facts", "local-region", &[], "string"),
    ("failover-facts", "control", &[], "bool"),
    (
        "failover-facts",
        "regions",
        &[],
        "list<record { name: string, verdict: u32, answers: bool, database: bool, down-ms: u64, well-ago-ms: option<u64>, \
         capacity: u64, load: u64 }>",
    ),
    ("failover-facts", "evidence", &[("region", "string"), ("vantage", "string"), ("path", "string")], "u32"),
    ("failover-facts", "intents", &[("region", "string")], "list<string>"),
    ("failover-facts", "frozen", &[], "bool"),
    (
        "failover-facts",
        "shards",
        &[("after", "string"), ("max", "u32")],
        "list<record { name: string, primary: string, home: string, void: bool, running: bool, loss-rows-max: u64, \
         loss-bytes-max: u64, loss-ms-max: u64 }>",
    ),
    (
        "failover-facts",
        "replicas",
        &[("shard", "string")],
        "list<record { region: string, whole: bool, current: bool, rows: u64, behind-rows: u64, behind-bytes: u64, \
         behind-ms: u64, ago-ms: u64 }>",
    ),
    ("failover-facts", "allows", &[("shard", "string"), ("region", "string")], "bool"),
    (
        "failover-facts",
        "detours",
        &[],
        "list<record { region: string, target: string, percent: u32, since-ms: u64 }>",
    ),
    ("failover-facts", "failures", &[], EVENTS),
    ("failover-facts", "removals", &[], EVENTS),
    ("failover-facts", "limit", &[("name", "string")], "option<u64>"),
    ("failover-answers", "hold", &[], UNIT),
    ("failover-answers", "shift", &[("region", "string"), ("target", "string"), ("percent", "u32")], UNIT),
    ("failover-answers", "promote", &[("shard", "string"), ("region", "string")], UNIT),
    ("failover-answers", "drain", &[("region", "string")], UNIT),
    ("failover-answers", "read-only", &[("shard", "string")], UNIT),
    ("proposer", "propose", &[("config", "string")], UNIT),
    (
        "resolver",
        "resolve",
        &[("base", "list<u8>"), ("left", "list<u8>"), ("right", "list<u8>")],
        "result<list<u8>, record { code: u32, message: string }>",
    ),
    ("facts", "local-region", &[], "string"),
    ("facts", "regions", &[], "list<string>"),
    ("facts", "pools", &[("region", "string")], "list<string>"),
    ("facts", "verdict", &[("region", "string")], "u32"),
    ("facts", "latency-us", &[("origin", "string"), ("target", "string")], "option<u32>"),
    ("facts", "residencies", &[], "list<string>"),
    ("facts", "residency-regions", &[("residency", "string")], "list<string>"),
    ("facts", "now-ms", &[], "u64"),
    ("facts", "seed", &[], "u64"),
    (
        "draft",
        "split",
        &[
            ("when", CONDITIONS),
            ("to", "list<record { answer: u32, weight: u32 }>"),
            ("fallback", "list<u32>"),
        ],
        NUMBER,
    ),
    ("draft", "dynamic", &[("when", CONDITIONS), ("needs", "list<string>"), ("among", "list<u32>")], NUMBER),
    ("draft", "set-rule", &[("rule", "u32"), ("key", "string"), ("value", "string")], UNIT),
    ("draft", "set-answer", &[("answer", "u32"), ("key", "string"), ("value", "string")], UNIT),
    ("draft", "memo", &[("bytes", "list<u8>")], UNIT),
    ("log", "line", &[("level", "u32"), ("text", "string")], ""),
    ("routing-answers", "forward", &[("region", "string"), ("pool", "string")], NUMBER),
    (
        "routing-answers",
        "respond",
        &[("status", "u16"), ("content-type", "string"), ("body", "string")],
        NUMBER,
    ),
    ("routing-answers", "redirect", &[("status", "u16"), ("location", "string")], NUMBER),
    ("routing-answers", "next", &[], "u32"),
    ("planner", "plan", &[("config", "string")], UNIT),
    ("decider", "start", &[("config", "string"), ("memo", "list<u8>")], "result<_, string>"),
    (
        "decider",
        "decide",
        &[("rule", "u32"), ("now-ms", "u64"), ("seed", "u64"), ("values", "list<option<string>>")],
        "u32",
    ),
    ("packed-decider", "start", &[("config", "string"), ("memo", "list<u8>")], "result<_, string>"),
    (
        "packed-decider",
        "decide",
        &[("rule", "u32"), ("now-ms", "u64"), ("seed", "u64"), ("values", "list<u8>")],
        "u32",
    ),
];

/// The functions of one of the contract's interfaces.
pub(crate) fn of_interface(interface: &str) -> impl Iterator<Item = (&'static str, Signature)> {
    debug_assert!(NUMBER.contains(REFUSAL) && UNIT.contains(REFUSAL), "one refusal");
    CONTRACT.iter().filter(move |(of, ..)| *of == interface).map(|&(_, name, params, result)| {
        let params = params.iter().map(|&(name, ty)| (name.to_owned(), ty.to_owned())).collect();
        (name, Signature { params, result: (!result.is_empty()).then(|| result.to_owned()) })
    })
}

/// The functions of an instance that a component imports or exports; of anything else, none.
pub(crate) fn functions(types: TypesRef<'_>, entity: &ComponentEntityType) -> BTreeMap<String, Signature> {
    let ComponentEntityType::Instance(id) = entity else { return BTreeMap::new() };
    let Some(instance) = types.get(*id) else { return BTreeMap::new() };
    let functions = instance.exports.iter().filter_map(|(name, item)| match item.ty {
        ComponentEntityType::Func(id) => Some((printable(name, 64), signature(types, id))),
        _ => None,
    });
    functions.take(FUNCTIONS_MAX).collect()
}

fn signature(types: TypesRef<'_>, id: ComponentFuncTypeId) -> Signature {
    let Some(function) = types.get(id) else { return Signature { params: Vec::new(), result: None } };
    let text = |ty: &ComponentValType| {
        let mut text = String::new();
        write_type(types, ty, 0, &mut text);
        text
    };
    Signature {
        params: function.params.iter().take(32).map(|(name, ty)| (name.to_string(), text(ty))).collect(),
        result: function.result.as_ref().map(text),
    }
}

/// Writes a type in the words of WIT, cut where it is too deep or long to read; a cut type equals none of the contract's.
fn write_type(types: TypesRef<'_>, ty: &ComponentValType, depth: usize, out: &mut String) {
    if depth > DEPTH_MAX || out.len() > TEXT_BYTES_MAX {
        out.push_str("...");
        return;
    }
    let id = match ty {
        ComponentValType::Primitive(primitive) => {
            // Writing to a string cannot fail, here and below.
            write!(out, "{primitive}").ok();
            return;
        }
        ComponentValType::Type(id) => *id,
    };
    let deeper = |ty: &ComponentValType, out: &mut String| write_type(types, ty, depth + 1, out);
    let wrap = |name: &str, ty: &ComponentValType, out: &mut String| {
        write!(out, "{name}<").ok();
        deeper(ty, out);
        out.push('>');
    };
    // What is not there equals none of the contract's either.
    let Some(defined) = types.get(id) else { return };
    match defined {
        ComponentDefinedType::Primitive(primitive) => _ = write!(out, "{primitive}"),
        ComponentDefinedType::Record(record) => {
            out.push_str("record {");
            for (number, (name, ty)) in record.fields.iter().enumerate() {
                write!(out, "{} {name}: ", if number > 0 { "," } else { "" }).ok();
                deeper(ty, out);
            }
            out.push_str(" }");
        }
        ComponentDefinedType::Variant(variant) => {
            out.push_str("variant {");
            for (number, (name, case)) in variant.cases.iter().enumerate() {
                write!(out, "{} {name}", if number > 0 { "," } else { "" }).ok();
                if let Some(ty) = &case.ty {
                    out.push('(');
                    deeper(ty, out);
                    out.push(')');
                }
            }
            out.push_str(" }");
        }
        ComponentDefinedType::List { element, .. } => wrap("list", element, out),
        ComponentDefinedType::Option { ty, .. } => wrap("option", ty, out),
        ComponentDefinedType::Tuple(tuple) => {
            out.push_str("tuple<");
            for (number, ty) in tuple.types.iter().enumerate() {
                out.push_str(if number > 0 { ", " } else { "" });
                deeper(ty, out);
            }
            out.push('>');
        }
        ComponentDefinedType::Flags(names) => write_names("flags", names.iter(), out),
        ComponentDefinedType::Enum(names) => write_names("enum", names.iter(), out),
        ComponentDefinedType::Result { ok: None, err: None, .. } => out.push_str("result"),
        ComponentDefinedType::Result { ok, err, .. } => {
            out.push_str("result<");
            match ok {
                Some(ok) => deeper(ok, out),
                None => out.push('_'),
            }
            if let Some(err) = err {
                out.push_str(", ");
                deeper(err, out);
            }
            out.push('>');
        }
        ComponentDefinedType::Own(_) | ComponentDefinedType::Borrow(_) => out.push_str("a resource"),
        _ => out.push_str("an unusual type"),
    }
}

fn write_names<'n, N: std::fmt::Display + 'n>(
    what: &str,
    names: impl Iterator<Item = &'n N>,
    out: &mut String,
) {
    write!(out, "{what} {{").ok();
    for (number, name) in names.enumerate() {
        if out.len() > TEXT_BYTES_MAX {
            out.push_str(" ...");
            break;
        }
        write!(out, "{} {name}", if number > 0 { "," } else { "" }).ok();
    }
    out.push_str(" }");
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use wit_component::WitPrinter;
    use wit_parser::{Resolve, Type, TypeDefKind, TypeId};

    use super::*;

    const INTERFACES: [&str; 14] = [
        "facts",
        "draft",
        "log",
        "routing-answers",
        "planner",
        "decider",
        "packed-decider",
        "sharding-facts",
        "sharding-answers",
        "placer",
        "failover-facts",
        "failover-answers",
        "proposer",
        "resolver",
    ];

    /// A type of WIT, resolved to its structure.
    fn text(resolve: &Resolve, ty: &Type) -> String {
        match ty {
            Type::Id(id) => defined(resolve, *id),
            other => format!("{other:?}").to_lowercase(),
        }
    }

    fn defined(resolve: &Resolve, id: TypeId) -> String {
        let optional = |ty: &Option<Type>| ty.as_ref().map_or_else(|| "_".to_owned(), |ty| text(resolve, ty));
        match &resolve.types[id].kind {
            TypeDefKind::Type(ty) => text(resolve, ty),
            TypeDefKind::List(ty) => format!("list<{}>", text(resolve, ty)),
            TypeDefKind::Option(ty) => format!("option<{}>", text(resolve, ty)),
            TypeDefKind::Result(result) => {
                format!("result<{}, {}>", optional(&result.ok), optional(&result.err))
            }
            TypeDefKind::Record(record) => {
                let fields: Vec<String> = record
                    .fields
                    .iter()
                    .map(|field| format!("{}: {}", field.name, text(resolve, &field.ty)))
                    .collect();
                format!("record {{ {} }}", fields.join(", "))
            }
            other => panic!("the contract has a kind of type that the table cannot say: {other:?}"),
        }
    }

    #[test]
    fn the_table_says_what_the_contract_says() {
        let mut resolve = Resolve::default();
        let contract = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit/policy/v0.1");
        let (package, _) = resolve.push_path(contract).unwrap();
        let mut wanted: BTreeMap<(String, String), String> = BTreeMap::new();
        for (name, id) in &resolve.packages[package].interfaces {
            if !INTERFACES.contains(&name.as_str()) {
                continue;
            }
            for (function, of) in &resolve.interfaces[*id].functions {
                let params: Vec<String> = of
                    .params
                    .iter()
                    .map(|param| format!("{}: {}", param.name, text(&resolve, &param.ty)))
                    .collect();
                let result =
                    of.result.as_ref().map_or_else(String::new, |ty| format!(" -> {}", text(&resolve, ty)));
                wanted
                    .insert((name.clone(), function.clone()), format!("func({}){result}", params.join(", ")));
            }
        }
        let has: BTreeMap<(String, String), String> = INTERFACES
            .iter()
            .flat_map(|interface| {
                of_interface(interface).map(|(name, signature)| {
                    (((*interface).to_owned(), name.to_owned()), signature.to_string())
                })
            })
            .collect();
        assert_eq!(has, wanted, "{}", {
            let mut printer = WitPrinter::default();
            printer.print(&resolve, package, &[]).unwrap();
            printer.output.to_string()
        });
    }

    #[test]
    fn names_of_parameters_make_no_difference() {
        let one = of_interface("planner").next().unwrap().1;
        let mut other = one.clone();
        other.params[0].0 = "settings".to_owned();
        assert!(one.fits(&other));
        other.params[0].1 = "list<u8>".to_owned();
        assert!(!one.fits(&other));
        assert_eq!(
            other.to_string(),
            "func(settings: list<u8>) -> result<_, record { code: u32, message: string }>"
        );
    }
}
