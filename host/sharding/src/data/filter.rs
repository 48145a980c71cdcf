//! Filters as they are written: `column=op.value`, and `and(...)`, `or(...)`, `not.` in each other. Text to tree and back;
//! what the names and values mean is the plan's.
//!
//! Within groups a value may stand in double quotes, with `\` before `"` and `\`; it must when it holds one of `,()"` or
//! spaces at an end. Outside of groups a value is what stands there.

use crate::defaults::{CONDITIONS_MAX, IN_VALUES_MAX, NESTING_MAX};

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Test { column: String, test: Test },
}

/// What is asked of one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    Compare(Comparison, String),
    In(Vec<String>),
    Is(Is),
    /// `*` and `%` stand for anything, `_` for one character, `\` before one of them for itself.
    Like {
        fold: bool,
        pattern: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    NotEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Is {
    False,
    NotNull,
    Null,
    True,
}

const COMPARISONS: [(&str, Comparison); 6] = [
    ("eq", Comparison::Equal),
    ("gt", Comparison::Greater),
    ("gte", Comparison::GreaterOrEqual),
    ("lt", Comparison::Less),
    ("lte", Comparison::LessOrEqual),
    ("neq", Comparison::NotEqual),
];
const IS: [(&str, Is); 4] =
    [("false", Is::False), ("not_null", Is::NotNull), ("null", Is::Null), ("true", Is::True)];
const OPERATORS: &str = "eq, neq, lt, lte, gt, gte, like, ilike, in, is, each with `not.` before it or not";

/// Reads one parameter of a query as a filter, after percent-decoding.
pub(crate) fn parse(name: &str, value: &str) -> Result<Filter, String> {
    let (denied, kind) = name.strip_prefix("not.").map_or((false, name), |kind| (true, kind));
    let filter = match kind {
        "and" | "or" => {
            let mut reader = Reader { rest: value, conditions: 0 };
            let filter = reader.group(kind == "and", 1)?;
            if !reader.rest.is_empty() {
                return Err(format!("after the last `)` comes `{}`", short(reader.rest)));
            }
            filter
        }
        _ => {
            let (denied, rest) = denies(value);
            let (operator, rest) = rest.split_once('.').ok_or_else(|| wants_operator(name))?;
            let test = Test::parse(operator, rest)?;
            return Ok(not(denied, Filter::Test { column: name.to_owned(), test }));
        }
    };
    Ok(not(denied, filter))
}

fn wants_operator(column: &str) -> String {
    format!("`{}` wants an operator and a value, such as `eq.5`; there are {OPERATORS}", short(column))
}

fn denies(text: &str) -> (bool, &str) {
    text.strip_prefix("not.").map_or((false, text), |rest| (true, rest))
}

fn not(denied: bool, filter: Filter) -> Filter {
    if denied { Filter::Not(Box::new(filter)) } else { filter }
}

impl Test {
    /// The value is all that follows.
    fn parse(operator: &str, text: &str) -> Result<Self, String> {
        if operator != "in" {
            return Self::of(operator, text.to_owned());
        }
        let mut reader = Reader { rest: text, conditions: 0 };
        let values = reader.list()?;
        if !reader.rest.is_empty() {
            return Err(format!("after the `)` of `in` comes `{}`", short(reader.rest)));
        }
        Ok(Self::In(values))
    }

    fn of(operator: &str, value: String) -> Result<Self, String> {
        if let Some((_, comparison)) = COMPARISONS.iter().find(|(name, _)| *name == operator) {
            return Ok(Self::Compare(*comparison, value));
        }
        match operator {
            "ilike" | "like" => Ok(Self::Like { fold: operator == "ilike", pattern: value }),
            "is" => IS
                .iter()
                .find(|(name, _)| *name == value)
                .map(|(_, is)| Self::Is(*is))
                .ok_or_else(|| "`is` is one of null, not_null, true, false".to_owned()),
            _ => Err(format!("there is no operator `{}`; there are {OPERATORS}", short(operator))),
        }
    }
}

/// Reads what stands in parentheses.
struct Reader<'a> {
    rest: &'a str,
    conditions: usize,
}

impl Reader<'_> {
    /// `(item,item,...)`.
    fn group(&mut self, all: bool, depth: usize) -> Result<Filter, String> {
        if depth > NESTING_MAX {
            return Err(format!("groups stand at most {NESTING_MAX} deep in each other"));
        }
        self.want("(")?;
        let mut items = Vec::new();
        loop {
            items.push(self.item(depth)?);
            if !self.take(",") {
                break;
            }
        }
        self.want(")")?;
        Ok(if all { Filter::All(items) } else { Filter::Any(items) })
    }

    fn item(&mut self, depth: usize) -> Result<Filter, String> {
        self.conditions += 1;
        if self.conditions > CONDITIONS_MAX {
            return Err(format!("a filter has at most {CONDITIONS_MAX} conditions"));
        }
        let denied = self.take("not.");
        for (word, all) in [("and", true), ("or", false)] {
            if let Some(rest) = self.rest.strip_prefix(word)
                && rest.starts_with('(')
            {
                self.rest = rest;
                return Ok(not(denied, self.group(all, depth + 1)?));
            }
        }
        if denied {
            return Err("within a group, `not.` stands before `and(`, `or(` or an operator".to_owned());
        }
        let column = self.word()?;
        let denied = self.take("not.");
        let operator = self.word()?;
        let test =
            if operator == "in" { Test::In(self.list()?) } else { Test::of(&operator, self.value()?)? };
        Ok(not(denied, Filter::Test { column, test }))
    }

    /// What stands before the next point.
    fn word(&mut self) -> Result<String, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = self.rest.find(|c: char| !plain(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end).unwrap_or_default();
        let after = rest.strip_prefix('.').filter(|_| !word.is_empty());
        self.rest = after.ok_or_else(|| wants_operator(self.rest))?;
        Ok(word.to_owned())
    }

    /// `(value,value,...)`.
    fn list(&mut self) -> Result<Vec<String>, String> {
        self.want("(")?;
        let mut values = Vec::new();
        if self.take(")") {
            return Ok(values);
        }
        loop {
            values.push(self.value()?);
            if values.len() > IN_VALUES_MAX {
                return Err(format!("`in` has at most {IN_VALUES_MAX} values"));
            }
            if !self.take(",") {
                break;
            }
        }
        self.want(")")?;
        Ok(values)
    }

    fn value(&mut self) -> Result<String, String> {
        if self.take("\"") {
            return self.quoted();
        }
        let end = self.rest.find([',', '(', ')', '"']).unwrap_or(self.rest.len());
        let (value, rest) = self.rest.split_at_checked(end).unwrap_or_default();
        self.rest = rest;
        Ok(value.to_owned())
    }

    fn quoted(&mut self) -> Result<String, String> {
        let mut value = String::new();
        let mut rest = self.rest.chars();
        loop {
            match rest.next() {
                Some('"') => break,
                Some('\\') => value.extend(rest.next()),
                Some(other) => value.push(other),
                None => return Err("a `\"` is not closed".to_owned()),
            }
        }
        self.rest = rest.as_str();
        Ok(value)
    }

    fn take(&mut self, word: &str) -> bool {
        self.rest.strip_prefix(word).inspect(|rest| self.rest = rest).is_some()
    }

    fn want(&mut self, word: &str) -> Result<(), String> {
        if self.take(word) {
            return Ok(());
        }
        let found =
            if self.rest.is_empty() { "the end".to_owned() } else { format!("`{}`", short(self.rest)) };
        Err(format!("`{word}` is wanted where {found} stands"))
    }
}

/// What is told back of a text.
pub(crate) fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

impl Filter {
    /// How many columns are asked.
    pub(crate) fn conditions(&self) -> usize {
        match self {
            Self::All(items) | Self::Any(items) => items.iter().map(Self::conditions).sum::<usize>() + 1,
            Self::Not(inner) => inner.conditions(),
            Self::Test { .. } => 1,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
