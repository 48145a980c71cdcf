//! Declarations of the contract for TypeScript, as componentize-qjs maps it: names in camel case, `option` as `undefined`, an
//! error of a `result` thrown, 64-bit numbers as `bigint`.

use std::fmt::Write as _;

use wit_parser::{
    Docs, Function, Interface, InterfaceId, Resolve, Type, TypeDefKind, TypeId, TypeOwner, WorldId, WorldItem,
};

/// The declarations of all interfaces of a world.
pub(crate) fn declarations(resolve: &Resolve, world: WorldId) -> String {
    let mut text = String::from("// The contract, made by `portolan plugin bindings ts`.\n");
    let Some(world) = resolve.worlds.get(world) else { return text };
    for item in world.imports.values().chain(world.exports.values()) {
        if let WorldItem::Interface { id, .. } = item {
            interface(resolve, *id, &mut text);
        }
    }
    text
}

fn interface(resolve: &Resolve, id: InterfaceId, text: &mut String) {
    let (Some(name), Some(interface)) = (resolve.id_of(id), resolve.interfaces.get(id)) else { return };
    // Writing to a string cannot fail.
    writeln!(text, "\ndeclare module '{name}' {{").ok();
    types(resolve, id, interface, text);
    for function in interface.functions.values() {
        comment(&function.docs, text);
        writeln!(text, "  export function {}", signature(resolve, function)).ok();
    }
    text.push_str("}\n");
}

fn types(resolve: &Resolve, id: InterfaceId, interface: &Interface, text: &mut String) {
    for (name, ty) in &interface.types {
        let Some(definition) = resolve.types.get(*ty) else { continue };
        let pascal = pascal(name);
        if let TypeDefKind::Type(Type::Id(other)) = definition.kind
            && let Some(from) = foreign(resolve, other, id)
        {
            writeln!(text, "  export type {pascal} = import('{from}').{pascal};").ok();
            continue;
        }
        comment(&definition.docs, text);
        match &definition.kind {
            TypeDefKind::Record(record) => {
                writeln!(text, "  export interface {pascal} {{").ok();
                for field in &record.fields {
                    let (name, ty) = (camel(&field.name), type_name(resolve, &field.ty));
                    writeln!(text, "    {name}: {ty};").ok();
                }
                text.push_str("  }\n");
            }
            kind => {
                writeln!(text, "  export type {pascal} = {};", kind_name(resolve, kind)).ok();
            }
        }
    }
}

/// The interface that owns a type, when it is another one.
fn foreign(resolve: &Resolve, ty: TypeId, here: InterfaceId) -> Option<String> {
    match resolve.types.get(ty)?.owner {
        TypeOwner::Interface(owner) if owner != here => resolve.id_of(owner),
        _ => None,
    }
}

fn signature(resolve: &Resolve, function: &Function) -> String {
    let parameter =
        |param: &wit_parser::Param| format!("{}: {}", camel(&param.name), type_name(resolve, &param.ty));
    let parameters: Vec<String> = function.params.iter().map(parameter).collect();
    let result = match &function.result {
        None => "void".to_owned(),
        Some(ty) => match as_result(resolve, ty) {
            // The error is thrown.
            Some(ok) => ok.map_or_else(|| "void".to_owned(), |ok| type_name(resolve, &ok)),
            None => type_name(resolve, ty),
        },
    };
    format!("{}({}): {result};", camel(&function.name), parameters.join(", "))
}

fn as_result(resolve: &Resolve, ty: &Type) -> Option<Option<Type>> {
    let Type::Id(id) = ty else { return None };
    match &resolve.types.get(*id)?.kind {
        TypeDefKind::Result(result) => Some(result.ok),
        _ => None,
    }
}

fn type_name(resolve: &Resolve, ty: &Type) -> String {
    match ty {
        Type::Bool => "boolean".to_owned(),
        Type::U64 | Type::S64 => "bigint".to_owned(),
        Type::Char | Type::String => "string".to_owned(),
        Type::ErrorContext => "unknown".to_owned(),
        Type::Id(id) => match resolve.types.get(*id) {
            Some(definition) => match &definition.name {
                Some(name) => pascal(name),
                None => kind_name(resolve, &definition.kind),
            },
            None => "unknown".to_owned(),
        },
        _ => "number".to_owned(),
    }
}

fn kind_name(resolve: &Resolve, kind: &TypeDefKind) -> String {
    match kind {
        TypeDefKind::List(Type::U8) => "Uint8Array".to_owned(),
        TypeDefKind::List(of) => format!("Array<{}>", type_name(resolve, of)),
        TypeDefKind::Option(of) => format!("{} | undefined", type_name(resolve, of)),
        TypeDefKind::Tuple(tuple) => {
            let parts: Vec<String> = tuple.types.iter().map(|ty| type_name(resolve, ty)).collect();
            format!("[{}]", parts.join(", "))
        }
        TypeDefKind::Type(ty) => type_name(resolve, ty),
        TypeDefKind::Enum(all) => {
            let cases: Vec<String> = all.cases.iter().map(|case| format!("'{}'", case.name)).collect();
            cases.join(" | ")
        }
        TypeDefKind::Variant(variant) => {
            let cases = variant.cases.iter().map(|case| match &case.ty {
                Some(ty) => format!("{{ tag: '{}', val: {} }}", case.name, type_name(resolve, ty)),
                None => format!("{{ tag: '{}' }}", case.name),
            });
            cases.collect::<Vec<_>>().join(" | ")
        }
        TypeDefKind::Result(result) => {
            let part = |ty: &Option<Type>| {
                ty.as_ref().map_or_else(|| "undefined".to_owned(), |ty| type_name(resolve, ty))
            };
            format!(
                "{{ tag: 'ok', val: {} }} | {{ tag: 'err', val: {} }}",
                part(&result.ok),
                part(&result.err)
            )
        }
        _ => "unknown".to_owned(),
    }
}

fn comment(docs: &Docs, text: &mut String) {
    let Some(docs) = &docs.contents else { return };
    text.push_str("  /**\n");
    for line in docs.trim().lines() {
        writeln!(text, "   * {}", line.replace("*/", "* /")).ok();
    }
    text.push_str("   */\n");
}

fn camel(name: &str) -> String {
    let mut words = name.split('-');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |text, word| text + &capital(word))
}

fn pascal(name: &str) -> String {
    name.split('-').map(capital).collect()
}

fn capital(word: &str) -> String {
    let mut characters = word.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
