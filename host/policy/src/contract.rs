//! The contract with policies as names and versions: what a component of each world may import, what it may export, and which
//! versions this host speaks. Read before anything is compiled.

use std::fmt;

use serde::Serialize;

use crate::error::{Refused, Stage};
use crate::screen::{Interface as Found, Looked};
use crate::types::{self, Signature};

/// The package that the contract lives in.
pub(crate) const PACKAGE: &str = "portolan:policy";
/// The newest version of the contract that this host has.
pub(crate) const NEWEST: ContractVersion = ContractVersion { major: 0, minor: 1, patch: 0 };
/// What people are told.
pub(crate) const KNOWN: &str = "0.1";
/// The interfaces that the host looks for.
pub(crate) const PLANNER: &str = "planner";
pub(crate) const DECIDER: &str = "decider";
pub(crate) const PACKED_DECIDER: &str = "packed-decider";
pub(crate) const PLACER: &str = "placer";
pub(crate) const PROPOSER: &str = "proposer";
pub(crate) const RESOLVER: &str = "resolver";

/// What a component is made for, by what it exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum World {
    Failover,
    Resolving,
    Routing,
    Sharding,
}

impl World {
    /// Those that export the placer place tenants, those that export the proposer answer when regions fail, those that export the
    /// resolver merge; all others decide about requests.
    fn of(looked: &Looked) -> Self {
        let bare = |name: &str| name.split_once('@').map_or(name, |(name, _)| name).to_owned();
        let exports =
            |wanted: &str| looked.exports.keys().any(|name| bare(name) == format!("{PACKAGE}/{wanted}"));
        let worlds = [(PLACER, Self::Sharding), (PROPOSER, Self::Failover), (RESOLVER, Self::Resolving)];
        worlds.into_iter().find(|(export, _)| exports(export)).map_or(Self::Routing, |(_, world)| world)
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Resolving => "resolving",
            Self::Routing => "routing",
            Self::Sharding => "sharding",
        }
    }

    /// The interfaces that it may import.
    const fn imports(self) -> &'static [&'static str] {
        match self {
            Self::Failover => &["types", "failover-facts", "failover-answers", "log"],
            Self::Resolving => &["types", "log"],
            Self::Routing => &["types", "facts", "draft", "routing-answers", "log"],
            Self::Sharding => &["types", "facts", "sharding-facts", "sharding-answers", "log"],
        }
    }
}

/// A version of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContractVersion {
    /// Breaks everything when it changes.
    pub major: u64,
    /// Breaks everything when it changes while `major` is 0.
    pub minor: u64,
    /// Only adds.
    pub patch: u64,
}

impl fmt::Display for ContractVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl Serialize for ContractVersion {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl ContractVersion {
    fn parse(text: &str) -> Option<Self> {
        // Pre-releases are other contracts: they are not recognised.
        let mut parts = text.split('.').map(|part| part.parse().ok());
        let version = Self { major: parts.next()??, minor: parts.next()??, patch: parts.next()?? };
        parts.next().is_none().then_some(version)
    }

    /// Patches only add functions of the host: a component that uses one that this host lacks is refused by that
    /// function's name when it is linked.
    const fn is_known(self) -> bool {
        self.major == NEWEST.major && self.minor == NEWEST.minor
    }
}

/// The interfaces that a component offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offers {
    pub(crate) decider: bool,
    pub(crate) packed_decider: bool,
    pub(crate) placer: bool,
    pub(crate) planner: bool,
    pub(crate) proposer: bool,
    pub(crate) resolver: bool,
}

impl Offers {
    /// Does it answer dynamic rules?
    pub(crate) const fn decides(self) -> bool {
        self.decider || self.packed_decider
    }
}

impl fmt::Display for Offers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.planner, PLANNER),
            (self.decider, DECIDER),
            (self.packed_decider, PACKED_DECIDER),
            (self.placer, PLACER),
            (self.proposer, PROPOSER),
            (self.resolver, RESOLVER),
        ];
        let names: Vec<&str> = all.into_iter().filter_map(|(has, name)| has.then_some(name)).collect();
        f.write_str(&names.join(", "))
    }
}

/// The name of an interface of the contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: ContractVersion,
}

/// The version that a component was built for.
pub(crate) fn check_version(looked: &Looked) -> Result<ContractVersion, Refused> {
    let names = looked.imports.iter().chain(&looked.exports);
    let mut newest = None;
    for (name, _) in names.filter(|(_, found)| found.instance) {
        newest = newest.max(interface(name)?.map(|interface| interface.version));
    }
    Ok(newest.unwrap_or(NEWEST))
}

/// Is everything that a component imports offered to it?
pub(crate) fn check_imports(looked: &Looked) -> Result<(), Refused> {
    let world = World::of(looked);
    for (name, found) in &looked.imports {
        let offered = check_import(world, name, found.instance)?.name;
        for (function, signature) in &found.functions {
            let wanted = types::of_interface(offered).find(|(name, _)| name == function);
            let wanted = wanted.map(|(_, signature)| signature);
            if let Some(difference) = difference(function, wanted.as_ref(), Some(signature)) {
                return Err(mismatch(Stage::Imports, name, &difference));
            }
        }
    }
    Ok(())
}

/// Does a component offer what the host will call?
pub(crate) fn check_exports(looked: &Looked) -> Result<Offers, Refused> {
    let offers = |wanted: &str| -> Result<bool, Refused> {
        let mut offered = false;
        for (name, found) in looked.exports.iter().filter(|(_, found)| found.instance) {
            if interface(name)?.is_some_and(|interface| interface.name == wanted) {
                offered = true;
                check_functions(name, wanted, found)?;
            }
        }
        Ok(offered)
    };
    let found = Offers {
        planner: offers(PLANNER)?,
        decider: offers(DECIDER)?,
        packed_decider: offers(PACKED_DECIDER)?,
        placer: offers(PLACER)?,
        proposer: offers(PROPOSER)?,
        resolver: offers(RESOLVER)?,
    };
    let roles = [
        (found.planner || found.decides(), "decide about requests"),
        (found.placer, "place tenants"),
        (found.proposer, "answer when regions fail"),
        (found.resolver, "merge versions"),
    ];
    let roles: Vec<&str> = roles.into_iter().filter_map(|(is, role)| is.then_some(role)).collect();
    match roles.len() {
        0 => {}
        1 => return Ok(found),
        _ => {
            return Err(Refused::new(
                Stage::Exports,
                format!("the component exports {found}: it would {} at once", roles.join(" and ")),
                "make a component of each, of one world",
            ));
        }
    }
    let found: Vec<&str> = looked.exports.keys().map(String::as_str).take(16).collect();
    let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
    Err(Refused::new(
        Stage::Exports,
        format!(
            "the component exports {found}, and neither a planner nor a decider nor a placer nor a proposer nor a resolver"
        ),
        format!(
            "export `{PACKAGE}/planner@{NEWEST}` or `{PACKAGE}/decider@{NEWEST}` (world `routing` or `routing-plan`), or \
             `{PACKAGE}/placer@{NEWEST}` (world `sharding`), or `{PACKAGE}/proposer@{NEWEST}` (world `failover`), or \
             `{PACKAGE}/resolver@{NEWEST}` (world `resolving`)"
        ),
    ))
}

fn check_functions(name: &str, interface: &str, found: &Found) -> Result<(), Refused> {
    let differences: Vec<String> = types::of_interface(interface)
        .filter_map(|(function, wanted)| difference(function, Some(&wanted), found.functions.get(function)))
        .collect();
    if differences.is_empty() { Ok(()) } else { Err(mismatch(Stage::Exports, name, &differences.join("; "))) }
}

/// How a component's function differs from the host's, with both types.
fn difference(name: &str, wanted: Option<&Signature>, found: Option<&Signature>) -> Option<String> {
    match (wanted, found) {
        (Some(wanted), Some(found)) if wanted.fits(found) => None,
        (Some(wanted), Some(found)) => Some(format!("`{name}` is {found}, and should be {wanted}")),
        (Some(wanted), None) => Some(format!("`{name}` is missing, and should be {wanted}")),
        (None, Some(found)) => Some(format!("`{name}`, {found}, is no function of this host")),
        (None, None) => None,
    }
}

fn mismatch(stage: Stage, interface: &str, differences: &str) -> Refused {
    Refused::new(
        stage,
        format!("`{interface}` does not fit: {differences}"),
        format!(
            "build the component against wit/policy/v{KNOWN} of this portolan (`portolan plugin wit`), or upgrade portolan"
        ),
    )
}

/// What a component may do that another may not, by the names of interfaces; the contract's version makes no difference.
pub(crate) fn gained<'n>(now: impl IntoIterator<Item = &'n String>, before: &[String]) -> Vec<String> {
    let bare = |name: &str| name.split_once('@').map_or(name, |(name, _)| name).to_owned();
    let before: Vec<String> = before.iter().map(|name| bare(name)).collect();
    // Types are words, and no power.
    let types = format!("{PACKAGE}/types");
    now.into_iter().map(|name| bare(name)).filter(|name| *name != types && !before.contains(name)).collect()
}

/// Checks one import. `instance` says whether it is an interface at all.
fn check_import(world: World, name: &str, instance: bool) -> Result<Interface<'_>, Refused> {
    let refuse =
        |fix: String| Err(Refused::new(Stage::Imports, format!("the component imports `{name}`"), fix));
    let allowed = || {
        let (world, imports) = (world.as_str(), world.imports().join(", "));
        format!("a {world} policy may import only {PACKAGE}/{{{imports}}}@{NEWEST}")
    };
    if name.starts_with("wasi:") {
        return refuse(format!(
            "{}; build it without WASI (JavaScript: `--stub-wasi`, Python: `-s`, Go and C++: the stub adapter)",
            allowed()
        ));
    }
    let Some(interface) = interface(name)? else { return refuse(allowed()) };
    if !instance {
        return refuse(allowed());
    }
    if world.imports().contains(&interface.name) {
        return Ok(interface);
    }
    if interface.name.ends_with("-answers") || interface.name == "sharding-facts" {
        return refuse(format!("it is made for another kind of slot; {}", allowed()));
    }
    refuse(allowed())
}

/// Reads a name; `None` for names outside the contract.
fn interface(name: &str) -> Result<Option<Interface<'_>>, Refused> {
    let Some(rest) = name.strip_prefix(PACKAGE).and_then(|rest| rest.strip_prefix('/')) else {
        return Ok(None);
    };
    let (interface, version) = rest.split_once('@').unwrap_or((rest, ""));
    match ContractVersion::parse(version) {
        Some(version) if version.is_known() => Ok(Some(Interface { name: interface, version })),
        _ => {
            let version = if version.is_empty() { "no version" } else { version };
            Err(Refused::new(
                Stage::Contract,
                format!("the component was built for {version} of the contract (`{name}`)"),
                format!(
                    "this host knows {KNOWN}.x; build it against wit/policy/v{KNOWN}, or upgrade portolan"
                ),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_world_of_a_known_version_may_be_imported() {
        for good in ["portolan:policy/facts@0.1.0", "portolan:policy/types@0.1.7"] {
            assert!(check_import(World::Routing, good, true).is_ok(), "{good}");
        }
        assert!(check_import(World::Sharding, "portolan:policy/sharding-answers@0.1.0", true).is_ok());
        for bad in ["portolan:policy/routing-answers@0.1.0", "portolan:policy/draft@0.1.0"] {
            let refused = check_import(World::Sharding, bad, true).unwrap_err().to_string();
            assert!(refused.contains("a sharding policy may import only"), "{refused}");
        }
        for (bad, says) in [
            ("wasi:cli/environment@0.2.12", "without WASI"),
            ("portolan:policy/facts@0.2.0", "this host knows 0.1.x"),
            ("portolan:policy/facts@1.1.0", "this host knows 0.1.x"),
            ("portolan:policy/facts@0.1.0-rc.1", "this host knows 0.1.x"),
            ("portolan:policy/facts", "no version"),
            ("portolan:policy/sharding-answers@0.1.0", "another kind of slot"),
            ("portolan:policy/sockets@0.1.0", "may import only"),
            ("portolan:policyx/facts@0.1.0", "may import only"),
            ("acme:kv/store@1.0.0", "may import only"),
            ("run", "may import only"),
        ] {
            let refused = check_import(World::Routing, bad, true).unwrap_err();
            assert!(matches!(refused.stage, Stage::Imports | Stage::Contract), "{refused}");
            let text = refused.to_string();
            assert!(text.contains(says) && text.contains(bad), "{text}");
        }
        assert!(
            check_import(World::Routing, "portolan:policy/facts@0.1.0", false).is_err(),
            "a function of that name is none"
        );
    }

    #[test]
    fn foreign_exports_are_tolerated_and_foreign_versions_are_not() {
        assert_eq!(interface("init"), Ok(None));
        assert_eq!(interface("exports"), Ok(None));
        assert_eq!(
            interface("portolan:policy/planner@0.1.0").unwrap().map(|found| found.name),
            Some(PLANNER)
        );
        assert!(interface("portolan:policy/planner@0.3.0").is_err());
    }

    #[test]
    fn a_capability_is_gained_by_name_whatever_its_version() {
        let names =
            |all: &[&str]| -> Vec<String> { all.iter().map(|name| format!("{PACKAGE}/{name}")).collect() };
        let before = names(&["draft@0.1.0", "facts@0.1.0"]);
        assert_eq!(gained(&names(&["draft@0.1.2", "types@0.1.0"]), &before), names(&[]));
        assert_eq!(gained(&names(&["draft@0.1.0", "log@0.1.0"]), &before), names(&["log"]));
    }
}
