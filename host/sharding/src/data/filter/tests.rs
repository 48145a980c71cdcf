//! Filters: what is printed is read again, and what is none is refused.

use std::fmt;

use proptest::prelude::*;

use super::*;

impl fmt::Display for Filter {
    /// As an item of a group.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = |f: &mut fmt::Formatter<'_>, word: &str, items: &[Self]| {
            let items: Vec<String> = items.iter().map(Self::to_string).collect();
            write!(f, "{word}({})", items.join(","))
        };
        match self {
            Self::All(items) => group(f, "and", items),
            Self::Any(items) => group(f, "or", items),
            Self::Not(inner) => match &**inner {
                Self::Test { column, test } => write!(f, "{column}.not.{test}"),
                inner => write!(f, "not.{inner}"),
            },
            Self::Test { column, test } => write!(f, "{column}.{test}"),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = |value: &str| format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
        match self {
            Self::Compare(comparison, value) => {
                let name = COMPARISONS.iter().find(|(_, of)| of == comparison).map_or("eq", |(name, _)| name);
                write!(f, "{name}.{}", quote(value))
            }
            Self::In(values) => {
                let values: Vec<String> = values.iter().map(|value| quote(value)).collect();
                write!(f, "in.({})", values.join(","))
            }
            Self::Is(is) => {
                write!(f, "is.{}", IS.iter().find(|(_, of)| of == is).map_or("null", |(name, _)| name))
            }
            Self::Like { fold, pattern } => {
                write!(f, "{}.{}", if *fold { "ilike" } else { "like" }, quote(pattern))
            }
        }
    }
}

/// Any filter, of a few columns or of these values.
pub(crate) fn any_filter(
    columns: &'static [&'static str],
    value: BoxedStrategy<String>,
) -> BoxedStrategy<Filter> {
    let comparison = proptest::sample::select(COMPARISONS.map(|(_, comparison)| comparison).to_vec());
    let is = proptest::sample::select(IS.map(|(_, is)| is).to_vec());
    let test = prop_oneof![
        4 => (comparison, value.clone()).prop_map(|(comparison, value)| Test::Compare(comparison, value)),
        1 => proptest::collection::vec(value.clone(), 0..4).prop_map(Test::In),
        2 => is.prop_map(Test::Is),
        1 => (any::<bool>(), value).prop_map(|(fold, pattern)| Test::Like { fold, pattern }),
    ];
    let leaf = (proptest::sample::select(columns), test)
        .prop_map(|(column, test)| Filter::Test { column: column.to_owned(), test });
    leaf.prop_recursive(4, 12, 3, |inner| {
        let items = proptest::collection::vec(inner.clone(), 1..4);
        prop_oneof![
            items.clone().prop_map(Filter::All),
            items.prop_map(Filter::Any),
            inner.prop_map(|inner| Filter::Not(Box::new(inner))),
        ]
    })
    .prop_map(without_double_not)
    .boxed()
}

/// `not.not.` cannot be written.
fn without_double_not(filter: Filter) -> Filter {
    match filter {
        Filter::Not(inner) => match without_double_not(*inner) {
            Filter::Not(inner) => *inner,
            inner => Filter::Not(Box::new(inner)),
        },
        Filter::All(items) => Filter::All(items.into_iter().map(without_double_not).collect()),
        Filter::Any(items) => Filter::Any(items.into_iter().map(without_double_not).collect()),
        test @ Filter::Test { .. } => test,
    }
}

/// A filter as the `and` of a query.
pub(crate) fn printed(filter: &Filter) -> String {
    format!("({filter})")
}

#[test]
fn filters_are_read_as_they_are_meant() {
    let test = |column: &str, test| Filter::Test { column: column.to_owned(), test };
    let equal = |value: &str| Test::Compare(Comparison::Equal, value.to_owned());
    for (name, value, wanted) in [
        ("a", "eq.5", test("a", equal("5"))),
        ("a", "eq.\"x\",(y)", test("a", equal("\"x\",(y)"))),
        (
            "a",
            "not.in.(1,\"2,)\",)",
            not(true, test("a", Test::In(vec!["1".into(), "2,)".into(), String::new()]))),
        ),
        ("a", "in.()", test("a", Test::In(vec![]))),
        (
            "and",
            "(a.eq.1,not.or(b.is.null,c.not.is.true))",
            Filter::All(vec![
                test("a", equal("1")),
                not(
                    true,
                    Filter::Any(vec![
                        test("b", Test::Is(Is::Null)),
                        not(true, test("c", Test::Is(Is::True))),
                    ]),
                ),
            ]),
        ),
        ("not.or", "(and.eq.1)", not(true, Filter::Any(vec![test("and", equal("1"))]))),
    ] {
        assert_eq!(parse(name, value), Ok(wanted), "{name}={value}");
    }
}

#[test]
fn what_is_no_filter_is_refused() {
    let deep = format!("{}a.eq.1{}", "(and".repeat(20), ")".repeat(20));
    let long = format!("(a.eq.1{})", ",a.eq.1".repeat(60));
    let wide = format!("in.({})", "1,".repeat(200));
    for (name, value) in [
        ("a", ""),
        ("a", "5"),
        ("a", "is.5"),
        ("a", "almost.5"),
        ("a", "in.1,2"),
        ("a", "in.(1,2"),
        ("a", "in.(1,2)x"),
        ("a", "in.(\"1)"),
        ("a", "not.not.eq.5"),
        ("and", ""),
        ("and", "()"),
        ("and", "(a)"),
        ("and", "(a.eq.1"),
        ("and", "(a.eq.1)b"),
        ("or", "(a.eq.1,)"),
        ("or", "(not.a.eq.1)"),
        ("and", deep.as_str()),
        ("and", long.as_str()),
        ("a", wide.as_str()),
    ] {
        assert!(parse(name, value).is_err(), "{name}={value}");
    }
}

proptest! {
    #[test]
    fn what_is_printed_is_read(filter in any_filter(&["a", "and", "b_2"], ".{0,6}".boxed())) {
        prop_assert_eq!(parse("and", &printed(&filter)), Ok(Filter::All(vec![filter])));
    }

    #[test]
    fn no_text_breaks_it(name in "(a|and|or|not.and)", text in "[a-c.,()\"\\\\é ]{0,30}|.{0,30}") {
        drop(parse(&name, &text));
    }
}
