//! One immutable version of a policy: a component that was screened, compiled, linked and once instantiated.

use std::sync::Arc;
use std::time::Duration;

use portolan_core::ids::Digest;
use serde::Serialize;
use serde_json::Value;
use wasmtime::component::{ComponentExportIndex, InstancePre, types};

use crate::bindings::exports::portolan::policy::{placer, planner, proposer, resolver};
use crate::contract::{self, ContractVersion};
use crate::error::{Refused, Stage};
use crate::face::Faces;
use crate::guest::State;
use crate::schema::Schema;
use crate::stats::Counters;

/// What is known of a version.
#[derive(Clone, Debug, Serialize)]
pub struct About {
    /// Bytes of its machine code.
    pub artefact_bytes: usize,
    /// How long compiling took; absent when the code came from the cache.
    #[serde(rename = "compile_ms", serialize_with = "millis")]
    pub compile_time: Option<Duration>,
    /// The version of the contract that it was built against.
    pub contract: ContractVersion,
    /// Does it answer dynamic rules?
    pub decider: bool,
    /// The SHA-256 of the component.
    pub digest: Digest,
    /// Did its code come from the cache?
    pub from_cache: bool,
    /// What it asks of the host: its permission manifest.
    pub imports: Vec<String>,
    /// Bytes of its memories after its first instantiation.
    pub memory_bytes: usize,
    /// Does it place tenants? Then it does nothing else.
    pub placer: bool,
    /// Does it plan? The host plans for one that does not.
    pub planner: bool,
    /// Does it answer when regions fail? Then it does nothing else.
    pub proposer: bool,
    /// Does it merge versions that were made apart? Then it does nothing else.
    pub resolver: bool,
    /// Bytes of the component.
    pub size_bytes: usize,
}

fn millis<S: serde::Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_millis()).serialize(serializer)
}

/// A version, ready to be asked.
pub struct Version {
    about: About,
    counters: Arc<Counters>,
    decider: Option<Faces>,
    placer: Option<placer::GuestIndices>,
    planner: Option<planner::GuestIndices>,
    pre: InstancePre<State>,
    proposer: Option<proposer::GuestIndices>,
    resolver: Option<resolver::GuestIndices>,
    schema: Option<Schema>,
}

impl Version {
    pub(crate) fn new(
        about: About,
        pre: InstancePre<State>,
        exports: Exports,
        schema: Option<Schema>,
        counters: &Arc<Counters>,
    ) -> Self {
        counters.versions.add(1);
        let Exports { decider, placer, planner, proposer, resolver } = exports;
        Self {
            about,
            counters: Arc::clone(counters),
            decider,
            placer,
            planner,
            pre,
            proposer,
            resolver,
            schema,
        }
    }

    /// What is known of it.
    #[must_use]
    pub const fn about(&self) -> &About {
        &self.about
    }

    /// Its name.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.about.digest
    }

    /// The schema of its configuration, if it carries one.
    #[must_use]
    pub fn schema(&self) -> Option<&Value> {
        self.schema.as_ref().map(|schema| &schema.value)
    }

    pub(crate) const fn checker(&self) -> Option<&Schema> {
        self.schema.as_ref()
    }

    pub(crate) const fn decider(&self) -> Option<&Faces> {
        self.decider.as_ref()
    }

    pub(crate) const fn placer(&self) -> Option<&placer::GuestIndices> {
        self.placer.as_ref()
    }

    pub(crate) const fn planner(&self) -> Option<&planner::GuestIndices> {
        self.planner.as_ref()
    }

    pub(crate) const fn proposer(&self) -> Option<&proposer::GuestIndices> {
        self.proposer.as_ref()
    }

    pub(crate) const fn resolver(&self) -> Option<&resolver::GuestIndices> {
        self.resolver.as_ref()
    }

    pub(crate) const fn pre(&self) -> &InstancePre<State> {
        &self.pre
    }
}

impl Drop for Version {
    fn drop(&mut self) {
        self.counters.versions.subtract(1);
    }
}

impl std::fmt::Debug for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Version").field("about", &self.about).finish_non_exhaustive()
    }
}

/// The exports that the host found.
pub(crate) struct Exports {
    pub(crate) decider: Option<Faces>,
    pub(crate) placer: Option<placer::GuestIndices>,
    pub(crate) planner: Option<planner::GuestIndices>,
    pub(crate) proposer: Option<proposer::GuestIndices>,
    pub(crate) resolver: Option<resolver::GuestIndices>,
}

/// What the contract says of an export, for messages.
const SIGNATURES: [(&str, &str, &str); 9] = [
    (
        contract::PLACER,
        "place",
        "func(config: string, tenant: string) -> result<option<string>, record { code: u32, message: string }>",
    ),
    (
        contract::PLACER,
        "rebalance",
        "func(config: string) -> result<_, record { code: u32, message: string }>",
    ),
    (
        contract::PROPOSER,
        "propose",
        "func(config: string) -> result<_, record { code: u32, message: string }>",
    ),
    (
        contract::RESOLVER,
        "resolve",
        "func(base: list<u8>, left: list<u8>, right: list<u8>) -> result<list<u8>, record { code: u32, message: string }>",
    ),
    (contract::PLANNER, "plan", "func(config: string) -> result<_, record { code: u32, message: string }>"),
    (contract::DECIDER, "start", "func(config: string, memo: list<u8>) -> result<_, string>"),
    (
        contract::DECIDER,
        "decide",
        "func(rule: u32, now-ms: u64, seed: u64, values: list<option<string>>) -> u32",
    ),
    (contract::PACKED_DECIDER, "start", "func(config: string, memo: list<u8>) -> result<_, string>"),
    (contract::PACKED_DECIDER, "decide", "func(rule: u32, now-ms: u64, seed: u64, values: list<u8>) -> u32"),
];

/// The refusal for an export that does not fit, with both types.
pub(crate) fn wrong_export(pre: &InstancePre<State>, interface: &str, error: &wasmtime::Error) -> Refused {
    let component = pre.component();
    let full = format!("{}/{interface}@{}", contract::PACKAGE, contract::NEWEST);
    let instance: Option<ComponentExportIndex> = component.get_export_index(None, &full);
    let mut wrong = Vec::new();
    for (_, name, expected) in SIGNATURES.iter().filter(|(of, ..)| *of == interface) {
        let found = component.get_export(instance.as_ref(), name);
        match found.map(|(item, _)| item) {
            Some(types::ComponentItem::ComponentFunc(function)) => {
                let found = signature(&function);
                if found != *expected {
                    wrong.push(format!("`{name}` is {found}, and should be {expected}"));
                }
            }
            Some(_) => wrong.push(format!("`{name}` is no function, and should be {expected}")),
            None => wrong.push(format!("`{name}` is missing, and should be {expected}")),
        }
    }
    let reason = if wrong.is_empty() { format!("{error:#}") } else { wrong.join("; ") };
    Refused::new(
        Stage::Exports,
        format!("`{full}` does not fit: {reason}"),
        format!("build the component against wit/policy/v{}", contract::KNOWN),
    )
}

fn signature(function: &types::ComponentFunc) -> String {
    let params: Vec<String> =
        function.params().map(|(name, ty)| format!("{name}: {}", name_of(&ty, 0))).collect();
    let results: Vec<String> = function.results().map(|ty| name_of(&ty, 0)).collect();
    let results = if results.is_empty() { String::new() } else { format!(" -> {}", results.join(", ")) };
    format!("func({}){results}", params.join(", "))
}

/// A type in the words of WIT, cut where it nests too deeply to read.
fn name_of(ty: &types::Type, depth: usize) -> String {
    use types::Type;
    if depth > 6 {
        return "...".to_owned();
    }
    let inner = |ty: &Type| name_of(ty, depth + 1);
    let optional = |ty: Option<Type>| ty.as_ref().map_or_else(|| "_".to_owned(), inner);
    match ty {
        Type::Bool => "bool".to_owned(),
        Type::S8 => "s8".to_owned(),
        Type::U8 => "u8".to_owned(),
        Type::S16 => "s16".to_owned(),
        Type::U16 => "u16".to_owned(),
        Type::S32 => "s32".to_owned(),
        Type::U32 => "u32".to_owned(),
        Type::S64 => "s64".to_owned(),
        Type::U64 => "u64".to_owned(),
        Type::Float32 => "f32".to_owned(),
        Type::Float64 => "f64".to_owned(),
        Type::Char => "char".to_owned(),
        Type::String => "string".to_owned(),
        Type::List(list) => format!("list<{}>", inner(&list.ty())),
        Type::Option(option) => format!("option<{}>", inner(&option.ty())),
        Type::Result(result) => match (result.ok(), result.err()) {
            (None, None) => "result".to_owned(),
            (ok, None) => format!("result<{}>", optional(ok)),
            (ok, err) => format!("result<{}, {}>", optional(ok), optional(err)),
        },
        Type::Record(record) => {
            let fields: Vec<String> = record
                .fields()
                .take(8)
                .map(|field| format!("{}: {}", field.name, inner(&field.ty)))
                .collect();
            format!("record {{ {} }}", fields.join(", "))
        }
        Type::Tuple(tuple) => {
            let parts: Vec<String> = tuple.types().take(8).map(|ty| inner(&ty)).collect();
            format!("tuple<{}>", parts.join(", "))
        }
        Type::Variant(_) => "variant".to_owned(),
        Type::Enum(_) => "enum".to_owned(),
        Type::Flags(_) => "flags".to_owned(),
        Type::Own(_) | Type::Borrow(_) => "a resource".to_owned(),
        _ => "an unusual type".to_owned(),
    }
}
