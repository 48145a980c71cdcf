//! The contract with policies as names and versions: what a component of the routing world may import, what it may
//! export, and which versions this host speaks. Read before anything is compiled.

use std::fmt;

use serde::Serialize;

use crate::error::{Refused, Stage};

/// The package that the contract lives in.
pub(crate) const PACKAGE: &str = "portolan:policy";
/// The newest version of the contract that this host has.
pub(crate) const NEWEST: ContractVersion = ContractVersion { major: 0, minor: 1, patch: 0 };
/// What people are told.
pub(crate) const KNOWN: &str = "0.1";
/// The interfaces that a routing policy may import.
const IMPORTS: [&str; 5] = ["types", "facts", "draft", "routing-answers", "log"];
/// The interfaces that the host looks for.
pub(crate) const PLANNER: &str = "planner";
pub(crate) const DECIDER: &str = "decider";

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

/// The name of an interface of the contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: ContractVersion,
}

/// Checks one import. `instance` says whether it is an interface at all.
pub(crate) fn check_import(name: &str, instance: bool) -> Result<Interface<'_>, Refused> {
    let refuse =
        |fix: String| Err(Refused::new(Stage::Imports, format!("the component imports `{name}`"), fix));
    let allowed =
        || format!("a routing policy may import only {PACKAGE}/{{{}}}@{NEWEST}", IMPORTS.join(", "));
    if name.starts_with("wasi:") {
        return refuse(format!(
            "{}; build it without WASI (JavaScript: `--stub-wasi`, Python: `-s`, Go and C++: the stub adapter)",
            allowed()
        ));
    }
    let Some(interface) = interface(name, Stage::Imports)? else { return refuse(allowed()) };
    if !instance {
        return refuse(allowed());
    }
    if IMPORTS.contains(&interface.name) {
        return Ok(interface);
    }
    if matches!(interface.name, "sharding-answers" | "failover-answers" | "federation-answers") {
        return refuse(format!("it is made for another kind of slot; {}", allowed()));
    }
    refuse(allowed())
}

/// Reads the name of an export; `None` for names outside the contract, which are tolerated and never called.
pub(crate) fn read_export(name: &str) -> Result<Option<Interface<'_>>, Refused> {
    interface(name, Stage::Exports)
}

fn interface(name: &str, stage: Stage) -> Result<Option<Interface<'_>>, Refused> {
    let Some(rest) = name.strip_prefix(PACKAGE).and_then(|rest| rest.strip_prefix('/')) else {
        return Ok(None);
    };
    let (interface, version) = rest.split_once('@').unwrap_or((rest, ""));
    match ContractVersion::parse(version) {
        Some(version) if version.is_known() => Ok(Some(Interface { name: interface, version })),
        _ => {
            let version = if version.is_empty() { "no version" } else { version };
            Err(Refused::new(
                stage,
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
    fn only_the_routing_world_of_a_known_version_may_be_imported() {
        for good in ["portolan:policy/facts@0.1.0", "portolan:policy/types@0.1.7"] {
            assert!(check_import(good, true).is_ok(), "{good}");
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
            let refused = check_import(bad, true).unwrap_err();
            assert_eq!(refused.stage, Stage::Imports);
            let text = refused.to_string();
            assert!(text.contains(says) && text.contains(bad), "{text}");
        }
        assert!(
            check_import("portolan:policy/facts@0.1.0", false).is_err(),
            "a function of that name is none"
        );
    }

    #[test]
    fn foreign_exports_are_tolerated_and_foreign_versions_are_not() {
        assert_eq!(read_export("init"), Ok(None));
        assert_eq!(read_export("exports"), Ok(None));
        assert_eq!(
            read_export("portolan:policy/planner@0.1.0").unwrap().map(|found| found.name),
            Some(PLANNER)
        );
        assert!(read_export("portolan:policy/planner@0.3.0").is_err());
    }
}
