//! Filters mean on both engines what a naive model over rows in memory says, with three truths.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::place::{Place, send};
use crate::data::filter::tests::{any_filter, printed};
use crate::data::filter::{Comparison, Filter, Is, Test};

/// Filters that are tried: enough that each operator meets each kind of value and NULL.
const FILTERS: usize = 250;

/// A row of the model: `rank` and `title`, `done`.
#[derive(Clone, Debug)]
struct Note {
    id: i64,
    title: String,
    body: Option<String>,
    rank: Option<i64>,
    done: bool,
}

const TEXTS: [&str; 8] = ["a", "A", "ab", "b", "a*", "%", "[a]", "b_\\"];

fn notes() -> Vec<Note> {
    let note = |id: i64| {
        let at = usize::try_from(id).unwrap();
        let body = (at % 9 != 8).then(|| TEXTS[at % 8].to_owned());
        Note {
            id,
            title: format!("{}{id}", TEXTS[at * 3 % 8]),
            body,
            rank: (id % 5 != 0).then_some(id % 7 - 3),
            done: id % 2 == 0,
        }
    };
    (1..40).map(note).collect()
}

/// What a column of a note is asked, or nothing when the question is none.
fn test(note: &Note, column: &str, test: &Test) -> Result<Option<bool>, ()> {
    match (column, test) {
        (_, Test::Is(Is::Null | Is::NotNull)) => {
            let null = match column {
                "rank" => note.rank.is_none(),
                "body" => note.body.is_none(),
                _ => false,
            };
            Ok(Some(null == (*test == Test::Is(Is::Null))))
        }
        ("done", Test::Is(is)) => Ok(Some(note.done == (*is == Is::True))),
        (_, Test::Is(_)) => Err(()),
        ("rank", Test::Compare(comparison, text)) => {
            let wanted: i64 = text.parse().map_err(drop)?;
            Ok(note.rank.map(|rank| compare(*comparison, rank.cmp(&wanted))))
        }
        ("rank", Test::In(texts)) => {
            let wanted: Vec<i64> =
                texts.iter().map(|text| text.parse().map_err(drop)).collect::<Result<_, _>>()?;
            Ok(if wanted.is_empty() { Some(false) } else { note.rank.map(|rank| wanted.contains(&rank)) })
        }
        ("rank" | "done", Test::Like { .. }) => Err(()),
        ("done", Test::Compare(..)) => Err(()),
        ("done", Test::In(texts)) => {
            if texts.is_empty() {
                Ok(Some(false))
            } else {
                Err(())
            }
        }
        (_, Test::Compare(comparison, text)) => {
            Ok(text_of(note, column).map(|own| compare(*comparison, own.as_str().cmp(text))))
        }
        (_, Test::In(texts)) if texts.is_empty() => Ok(Some(false)),
        (_, Test::In(texts)) => Ok(text_of(note, column).map(|own| texts.contains(&own))),
        (_, Test::Like { fold, pattern }) => {
            let fold = |text: &str| if *fold { text.to_ascii_lowercase() } else { text.to_owned() };
            let pattern: Vec<char> = fold(pattern).chars().collect();
            if dangling(&pattern) {
                return Err(());
            }
            Ok(text_of(note, column).map(|own| matches(&fold(&own).chars().collect::<Vec<_>>(), &pattern)))
        }
    }
}

fn text_of(note: &Note, column: &str) -> Option<String> {
    if column == "title" { Some(note.title.clone()) } else { note.body.clone() }
}

fn compare(comparison: Comparison, order: std::cmp::Ordering) -> bool {
    match comparison {
        Comparison::Equal => order.is_eq(),
        Comparison::Greater => order.is_gt(),
        Comparison::GreaterOrEqual => order.is_ge(),
        Comparison::Less => order.is_lt(),
        Comparison::LessOrEqual => order.is_le(),
        Comparison::NotEqual => order.is_ne(),
    }
}

fn dangling(pattern: &[char]) -> bool {
    match pattern {
        [] => false,
        ['\\'] => true,
        ['\\', _, rest @ ..] | [_, rest @ ..] => dangling(rest),
    }
}

fn matches(text: &[char], pattern: &[char]) -> bool {
    match pattern {
        [] => text.is_empty(),
        ['*' | '%', rest @ ..] => (0..=text.len()).any(|at| matches(&text[at..], rest)),
        ['_', rest @ ..] => !text.is_empty() && matches(&text[1..], rest),
        ['\\', itself, rest @ ..] | [itself, rest @ ..] => {
            text.first() == Some(itself) && matches(&text[1..], rest)
        }
    }
}

fn evaluate(note: &Note, filter: &Filter) -> Result<Option<bool>, ()> {
    let all = |items: &[Filter]| items.iter().map(|item| evaluate(note, item)).collect::<Result<Vec<_>, _>>();
    match filter {
        Filter::All(items) => {
            let items = all(items)?;
            Ok(if items.contains(&Some(false)) {
                Some(false)
            } else if items.contains(&None) {
                None
            } else {
                Some(true)
            })
        }
        Filter::Any(items) => {
            let items = all(items)?;
            Ok(if items.contains(&Some(true)) {
                Some(true)
            } else if items.contains(&None) {
                None
            } else {
                Some(false)
            })
        }
        Filter::Not(inner) => Ok(evaluate(note, inner)?.map(|truth| !truth)),
        Filter::Test { column, test } => self::test(note, column, test),
    }
}

pub(super) async fn filters_mean_what_a_model_says(place: Place) {
    let door = place.door("acme").await;
    let notes = notes();
    let rows: Vec<serde_json::Value> = notes
        .iter()
        .map(|note| serde_json::json!({ "id": note.id, "title": note.title, "body": note.body, "rank": note.rank, "done": note.done }))
        .collect();
    let made = send(&door, &["POST /notes"], &serde_json::Value::from(rows).to_string()).await;
    assert_eq!(made.status.as_u16(), 201, "{made:?}");
    let value = prop_oneof![
        3 => proptest::sample::select(TEXTS.map(str::to_owned).to_vec()),
        4 => (-4_i64..5).prop_map(|number| number.to_string()),
        1 => "[ab*%_\\\\\\[\\]]{0,3}",
    ];
    let strategy = any_filter(&["rank", "rank", "body", "body", "title", "done"], value.boxed());
    let mut runner = TestRunner::deterministic();
    let (mut good, mut found) = (0, 0);
    while good < FILTERS {
        let filter = strategy.new_tree(&mut runner).unwrap().current();
        let request = format!(
            "GET /notes?select=id&order=id&limit=1000&and={}",
            crate::data::percent::encode(&printed(&filter))
        );
        let told = send(&door, &[&request], "").await;
        let wanted: Result<Vec<Option<bool>>, ()> =
            notes.iter().map(|note| evaluate(note, &filter)).collect();
        let Ok(wanted) = wanted else {
            assert!([400, 422].contains(&told.status.as_u16()), "{filter:?} {told:?}");
            continue;
        };
        let ids = notes.iter().zip(wanted).filter(|(_, truth)| *truth == Some(true)).map(|(note, _)| note.id);
        let wanted: Vec<serde_json::Value> = ids.map(|id| serde_json::json!({ "id": id })).collect();
        assert_eq!(told.status.as_u16(), 200, "{filter:?} {told:?}");
        assert_eq!(told.json(), serde_json::Value::from(wanted), "{filter:?}");
        good += 1;
        found += usize::from(told.text != "[]");
    }
    assert!(found > FILTERS / 4, "{found} of {FILTERS} filters found something");
}
