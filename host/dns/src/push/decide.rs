//! What to do about a name, from what stands there. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Found, Mode, Outcome, Wanted};

/// What stands at a name on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Is it an alias?
    pub(super) alias: bool,
    pub(super) found: Found,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Addresses cannot stand there.
    Alias,
    /// Nothing; this came of it.
    Done(Outcome),
    /// Write, under the condition that this is still so, and tell this when it is done.
    Write(Condition, Outcome),
}

/// What must still be so on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// Nobody has used the name.
    Fresh,
    /// This stands beside it.
    Found(Found),
}

pub(super) fn decide(standing: &Standing, wanted: &Wanted, number: u64, mode: Mode) -> Step {
    if standing.alias {
        return Step::Alias;
    }
    let found = || Condition::Found(standing.found.clone());
    let same = standing.addresses == wanted.addresses;
    match (&standing.found, mode) {
        (Found::Number(at), _) if *at == number && same => Step::Done(Outcome::Present),
        (Found::Number(at), _) if *at == number => Step::Write(found(), Outcome::Repaired),
        (Found::Number(at), Mode::Newer) if *at > number => {
            Step::Done(Outcome::Overtaken(standing.found.clone()))
        }
        (Found::Nothing, _) if standing.addresses.is_empty() => {
            Step::Write(Condition::Fresh, Outcome::Applied)
        }
        (Found::Nothing | Found::Foreign(_), Mode::Newer) => {
            Step::Done(Outcome::Unknown(standing.found.clone()))
        }
        (Found::Number(_), Mode::Newer) | (_, Mode::Adopt) => Step::Write(found(), Outcome::Applied),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;

    fn check(found: Found, addresses: &[&str], mode: Mode) -> Step {
        let set = |addresses: &[&str]| addresses.iter().map(|address| address.parse().unwrap()).collect();
        let wanted =
            Wanted { addresses: set(&["192.0.2.1"]), name: Name::new("app.example").unwrap(), ttl_s: 30 };
        let standing = Standing { addresses: set(addresses), alias: false, found };
        decide(&standing, &wanted, 7, mode)
    }

    #[test]
    fn only_what_is_older_is_overwritten() {
        use Found::{Foreign, Nothing, Number};
        use Mode::{Adopt, Newer};

        let write = |found: Found, outcome| Step::Write(Condition::Found(found), outcome);
        let fresh = Step::Write(Condition::Fresh, Outcome::Applied);
        let foreign = || Foreign(vec![b"hello".to_vec()]);
        for (found, addresses, mode, expected) in [
            (Number(6), "192.0.2.1", Newer, write(Number(6), Outcome::Applied)),
            (Number(7), "192.0.2.1", Newer, Step::Done(Outcome::Present)),
            (Number(7), "192.0.2.2", Newer, write(Number(7), Outcome::Repaired)),
            (Number(8), "192.0.2.1", Newer, Step::Done(Outcome::Overtaken(Number(8)))),
            (Number(8), "192.0.2.1", Adopt, write(Number(8), Outcome::Applied)),
            (Nothing, "192.0.2.1", Newer, Step::Done(Outcome::Unknown(Nothing))),
            (Nothing, "192.0.2.1", Adopt, write(Nothing, Outcome::Applied)),
            (foreign(), "192.0.2.1", Newer, Step::Done(Outcome::Unknown(foreign()))),
            (foreign(), "192.0.2.1", Adopt, write(foreign(), Outcome::Applied)),
        ] {
            assert_eq!(check(found.clone(), &[addresses], mode), expected, "{found:?} {addresses} {mode:?}");
        }
        assert_eq!(check(Nothing, &[], Newer), fresh);
        assert_eq!(check(Number(6), &[], Newer), write(Number(6), Outcome::Applied));
    }
}
