//! Looks at a component's bytes before anything is compiled or run: size, features, counts, imports, exports, schema.
//! Must not trust any number that it reads, and must not recurse along with the input.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};
use wasmparser::{
    ComponentExternalKind, ComponentType, ComponentTypeDeclaration, ComponentTypeRef, Encoding,
    InstanceTypeDeclaration, Parser, Payload, SectionLimited, ValidPayload, Validator, WasmFeatures,
    types::TypesRef,
};

use portolan_core::ids::Digest;

use crate::config::Limits;
use crate::contract::{ContractVersion, Offers};
use crate::defaults::{INTERFACES_MAX, SCREENING_STACK_BYTES, TYPE_SECTION_BYTES_MAX, VECTORS_BYTES_MAX};
use crate::error::{Refused, Stage, printable};
use crate::section::{SCHEMA_SECTION, VECTORS_SECTION};
use crate::types::{self, Signature};

const PAGE_BYTES: u64 = 65_536;

/// What toolchains need and no more; QuickJS is built with tail calls. Everything left out is code of the engine that no policy can reach.
const FEATURES: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::SIMD)
    .union(WasmFeatures::FLOATS)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::TAIL_CALL)
    .union(WasmFeatures::COMPONENT_MODEL);

/// What a component says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Screened {
    pub(crate) contract: ContractVersion,
    /// Interfaces imported, by their full names, sorted.
    pub(crate) imports: BTreeSet<String>,
    pub(crate) offers: Offers,
    /// The text of the schema.
    pub(crate) schema: Option<String>,
    /// The text of the golden vectors.
    pub(crate) vectors: Option<String>,
}

/// What was found in a component that is sound, before anything of it is judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Looked {
    /// By their names.
    pub(crate) exports: BTreeMap<String, Interface>,
    /// By their names.
    pub(crate) imports: BTreeMap<String, Interface>,
    /// The text of the schema.
    pub(crate) schema: Option<String>,
    /// The text of the golden vectors.
    pub(crate) vectors: Option<String>,
}

/// Something that a component imports or exports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) functions: BTreeMap<String, Signature>,
    /// Is it an interface at all?
    pub(crate) instance: bool,
}

/// The name of a component: the SHA-256 of its bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// Refuses what is too large, before anybody looks inside.
pub(crate) fn check_size(bytes: u64, limits: &Limits) -> Result<(), Refused> {
    let max = limits.component_bytes_max;
    if bytes <= max as u64 {
        return Ok(());
    }
    let fix = "build it smaller (release mode, stripped), or raise the engine's limit for components";
    Err(Refused::new(Stage::Size, format!("the component has {bytes} bytes, {max} are allowed"), fix))
}

/// Looks on a thread of its own, whose stack holds the deepest types that [`TYPE_SECTION_BYTES_MAX`] lets through:
/// the parser recurses along with them.
pub(crate) fn look(bytes: &[u8], limits: &Limits) -> Result<Looked, Refused> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("policy-screen".to_owned())
            .stack_size(SCREENING_STACK_BYTES)
            .spawn_scoped(scope, || Screening::new(limits).run(bytes));
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(screened)) => screened,
            // A panic of the parser over hostile bytes is the component's fault.
            Ok(Err(_)) => Err(format_refused("the component makes the parser fail")),
            Err(error) => Err(Refused::passing(
                Stage::Screen,
                format!("start a thread to look at the component: {error}"),
                "raise the limit of processes and threads (`ulimit -u`)",
            )),
        }
    })
}

fn format_refused(reason: impl Into<String>) -> Refused {
    Refused::new(
        Stage::Screen,
        reason,
        "give a WebAssembly component (`portolan plugin build` makes one), without features beyond WebAssembly 2.0",
    )
}

fn limit(what: &str, found: u64, max: u64) -> Refused {
    Refused::new(
        Stage::Screen,
        format!("the component has {found} {what}, {max} are allowed"),
        "make the policy smaller: most need a hundredth of that",
    )
}

impl Screened {
    pub(crate) fn new(contract: ContractVersion, offers: Offers, looked: Looked) -> Self {
        Self {
            contract,
            imports: looked.imports.into_keys().collect(),
            offers,
            schema: looked.schema,
            vectors: looked.vectors,
        }
    }
}

struct Screening<'l> {
    limits: &'l Limits,
    functions: u64,
    looked: Looked,
    memory_pages: u64,
    table_elements: u64,
}

impl<'l> Screening<'l> {
    fn new(limits: &'l Limits) -> Self {
        Self { limits, functions: 0, looked: Looked::default(), memory_pages: 0, table_elements: 0 }
    }

    fn run(mut self, bytes: &[u8]) -> Result<Looked, Refused> {
        let mut validator = Validator::new_with_features(FEATURES);
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload.map_err(|error| format_refused(describe(bytes, &error)))?;
            // Counts come before validation, whose cost they bound.
            self.look(&payload, &mut depth)?;
            match validator.payload(&payload) {
                Ok(ValidPayload::Func(function, body)) => {
                    let mut function = function.into_validator(Default::default());
                    function.validate(&body).map_err(|error| format_refused(describe(bytes, &error)))?;
                }
                Ok(ValidPayload::End(types)) if depth == 0 => self.types_of_interfaces(types.as_ref()),
                Ok(_) => {}
                Err(error) => return Err(format_refused(describe(bytes, &error))),
            }
        }
        Ok(self.looked)
    }

    /// What the functions of the component's imports and exports look like.
    fn types_of_interfaces(&mut self, types: TypesRef<'_>) {
        for (name, import) in &mut self.looked.imports {
            if let Some(item) = types.component_item_for_import(name) {
                import.functions = types::functions(types, &item.ty);
            }
        }
        for (name, export) in &mut self.looked.exports {
            if let Some(item) = types.component_item_for_export(name) {
                export.functions = types::functions(types, &item.ty);
            }
        }
    }

    fn look(&mut self, payload: &Payload<'_>, depth: &mut usize) -> Result<(), Refused> {
        match payload {
            Payload::Version { encoding: Encoding::Module, .. } if *depth == 0 => {
                return Err(Refused::new(
                    Stage::Screen,
                    "this is a core module, not a component",
                    "make a component of it: `portolan plugin build`, or `wasm-tools component new`",
                ));
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                *depth += 1;
                if *depth > self.limits.nesting_max {
                    return Err(limit("levels of nesting", *depth as u64, self.limits.nesting_max as u64));
                }
            }
            Payload::End(_) => *depth = depth.saturating_sub(1),
            Payload::CodeSectionStart { count, .. } => {
                self.functions += u64::from(*count);
                if self.functions > u64::from(self.limits.functions_max) {
                    return Err(limit("functions", self.functions, u64::from(self.limits.functions_max)));
                }
            }
            Payload::CodeSectionEntry(body) => {
                let (size, max) = (body.range().len(), self.limits.body_bytes_max);
                if size > max {
                    return Err(limit("bytes in one function", size as u64, max as u64));
                }
            }
            Payload::MemorySection(section) => {
                for memory in items(section)? {
                    self.memory_pages = self.memory_pages.saturating_add(memory.initial);
                }
                let (found, max) = (self.memory_initial_bytes(), self.limits.memory_initial_bytes_max);
                if found > max {
                    return Err(limit("bytes of memory to begin with", found, max));
                }
            }
            Payload::TableSection(section) => {
                for table in items(section)? {
                    self.table_elements = self.table_elements.saturating_add(table.ty.initial);
                }
                let max = self.limits.table_elements_max as u64;
                if self.table_elements > max {
                    return Err(limit("table elements to begin with", self.table_elements, max));
                }
            }
            Payload::ComponentTypeSection(section) => self.types(section)?,
            Payload::ComponentImportSection(section) if *depth == 0 => {
                for import in items(section)? {
                    let instance = matches!(import.ty, ComponentTypeRef::Instance(_));
                    note(&mut self.looked.imports, "imports", import.name.name, instance)?;
                }
            }
            Payload::ComponentExportSection(section) if *depth == 0 => {
                for export in items(section)? {
                    let instance = export.kind == ComponentExternalKind::Instance;
                    note(&mut self.looked.exports, "exports", export.name.name, instance)?;
                }
            }
            Payload::CustomSection(section) if section.name() == SCHEMA_SECTION => {
                let max = self.limits.schema_bytes_max;
                let text = text(Stage::Schema, "configuration's schema", section.data(), max)?;
                keep(&mut self.looked.schema, text, *depth == 0);
            }
            Payload::CustomSection(section) if section.name() == VECTORS_SECTION => {
                let text = text(Stage::Vectors, "golden vectors' text", section.data(), VECTORS_BYTES_MAX)?;
                keep(&mut self.looked.vectors, text, *depth == 0);
            }
            _ => {}
        }
        Ok(())
    }

    fn types(&self, section: &SectionLimited<'_, ComponentType<'_>>) -> Result<(), Refused> {
        let (size, max) = (section.range().len(), TYPE_SECTION_BYTES_MAX);
        if size > max {
            return Err(limit("bytes in one section of types", size as u64, max as u64));
        }
        for ty in items(section)? {
            let depth = type_depth(&ty, self.limits.type_depth_max);
            if depth > self.limits.type_depth_max {
                return Err(limit("levels of nested types", depth as u64, self.limits.type_depth_max as u64));
            }
        }
        Ok(())
    }

    const fn memory_initial_bytes(&self) -> u64 {
        self.memory_pages.saturating_mul(PAGE_BYTES)
    }
}

fn note(
    interfaces: &mut BTreeMap<String, Interface>,
    what: &str,
    name: &str,
    instance: bool,
) -> Result<(), Refused> {
    interfaces.insert(printable(name, 256), Interface { functions: BTreeMap::new(), instance });
    if interfaces.len() > INTERFACES_MAX {
        return Err(limit(what, interfaces.len() as u64, INTERFACES_MAX as u64));
    }
    Ok(())
}

/// A section may stand in the component, or in a module where the compiler of the guest left it. The component's own wins.
fn keep(kept: &mut Option<String>, text: String, own: bool) {
    if own || kept.is_none() {
        *kept = Some(text);
    }
}

fn text(stage: Stage, what: &str, data: &[u8], max: usize) -> Result<String, Refused> {
    if data.len() > max {
        let reason = format!("the {what} has {} bytes, {max} are allowed", data.len());
        let fix = match stage {
            Stage::Schema => "describe less in the schema and check the rest in `plan`",
            _ => "ship fewer vectors: one for each rule that matters",
        };
        return Err(Refused::new(stage, reason, fix));
    }
    let text = std::str::from_utf8(data).map_err(|_| {
        Refused::new(stage, format!("the {what} is not UTF-8"), "put JSON into the custom section")
    })?;
    Ok(text.to_owned())
}

fn items<'a, T: wasmparser::FromReader<'a>>(section: &SectionLimited<'a, T>) -> Result<Vec<T>, Refused> {
    section
        .clone()
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|error| format_refused(format!("the component is damaged: {error}")))
}

/// What is wrong with bytes that do not parse, for people who may have given the wrong file.
fn describe(bytes: &[u8], error: &wasmparser::BinaryReaderError) -> String {
    if bytes.is_empty() {
        return "the file is empty".to_owned();
    }
    if !bytes.starts_with(b"\0asm") {
        return "this is not WebAssembly: it does not begin with `\\0asm`".to_owned();
    }
    if error.offset() >= bytes.len().saturating_sub(1) || error.message().contains("end-of-file") {
        return format!("the file ends too early, after {} bytes: {}", bytes.len(), error.message());
    }
    format!("{} (at byte {:#x})", error.message(), error.offset())
}

/// How deep component and instance types nest in a type, or `max + 1` when it is more than `max`.
fn type_depth(ty: &ComponentType<'_>, max: usize) -> usize {
    let deeper = |nested: usize| nested.saturating_add(1);
    let Some(left) = max.checked_sub(1) else { return 1 };
    match ty {
        ComponentType::Component(declarations) => {
            let nested = declarations.iter().map(|declaration| match declaration {
                ComponentTypeDeclaration::Type(ty) => type_depth(ty, left),
                _ => 0,
            });
            deeper(nested.max().unwrap_or(0))
        }
        ComponentType::Instance(declarations) => {
            let nested = declarations.iter().map(|declaration| match declaration {
                InstanceTypeDeclaration::Type(ty) => type_depth(ty, left),
                _ => 0,
            });
            deeper(nested.max().unwrap_or(0))
        }
        _ => 1,
    }
}
