//! Which shards have rows of a relation: pruning by tenant.

use std::collections::BTreeSet;

use super::{Join, Node, Op, Test, Value};

/// Where rows may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// On every shard.
    All,
    /// The same on every shard: one answers for all.
    Any,
    /// On these shards, by their places.
    Some(BTreeSet<usize>),
}

/// Where a tenant lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// On no shard.
    Nowhere,
    /// On the shard of this place.
    On(usize),
    /// Nobody has said.
    Unknown,
}

impl Reach {
    /// Where rows are that both have.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Any, other) | (other, Self::Any) => other,
            (Self::All, other) | (other, Self::All) => other,
            (Self::Some(one), Self::Some(other)) => Self::Some(one.intersection(&other).copied().collect()),
        }
    }
}

impl Node {
    /// Where its rows may be, by the homes of tenants that it names.
    pub(crate) fn reach(&self, place: &dyn Fn(&str) -> Home) -> Reach {
        match self {
            Self::Filter { input, tests } => {
                let fields = input.fields();
                let is_tenant = |column: usize| fields.get(column).is_some_and(|field| field.tenant);
                tests
                    .iter()
                    .filter_map(|test| of_test(test, &is_tenant, place))
                    .fold(input.reach(place), Reach::and)
            }
            Self::Group { input, .. } | Self::Pick { input, .. } | Self::Top { input, .. } => {
                input.reach(place)
            }
            Self::Join { join: Join::Inner | Join::Semi, left, right, .. } => {
                left.reach(place).and(right.reach(place))
            }
            Self::Join { left, .. } => left.reach(place),
            Self::Scan(table) => {
                if table.tenant.is_some() {
                    Reach::All
                } else {
                    Reach::Any
                }
            }
        }
    }
}

/// The shards on which a condition can hold, if it says so.
fn of_test(test: &Test, is_tenant: &dyn Fn(usize) -> bool, place: &dyn Fn(&str) -> Home) -> Option<Reach> {
    match test {
        Test::All(tests) => {
            tests.iter().filter_map(|test| of_test(test, is_tenant, place)).reduce(Reach::and)
        }
        Test::Any(tests) => {
            let mut shards = BTreeSet::new();
            for test in tests {
                let Reach::Some(one) = of_test(test, is_tenant, place)? else { return None };
                shards.extend(one);
            }
            Some(Reach::Some(shards))
        }
        Test::Among { column, values, not: false } if is_tenant(*column) => {
            let shards = values.iter().map(|value| home(value, place)).collect::<Option<Vec<_>>>()?;
            Some(Reach::Some(shards.into_iter().flatten().collect()))
        }
        Test::Value { column, op: Op::Equal, value } if is_tenant(*column) => {
            Some(Reach::Some(home(value, place)?.into_iter().collect()))
        }
        Test::Known(Some(false) | None) => Some(Reach::Some(BTreeSet::new())),
        _ => None,
    }
}

/// The shard of the tenant that a value names, if there is one. None at all when nobody knows.
fn home(value: &Value, place: &dyn Fn(&str) -> Home) -> Option<Option<usize>> {
    let Value::Text(_, name) = value else { return None };
    match place(name) {
        Home::Nowhere => Some(None),
        Home::On(shard) => Some(Some(shard)),
        Home::Unknown => None,
    }
}
