//! The tests that a condition can make, as text and compiled.

use std::fmt;

use ipnet::IpNet;

use super::draft::{ConditionText, Refusal, code};
use crate::attribute::{Attribute, Attributes, Value};

/// One condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What it looks at.
    pub attribute: Attribute,
    /// What it asks of it.
    pub test: Test,
}

/// A question to one value. A value that is not UTF-8 is present, differs from every text, and matches no other test.
///
/// | text | true when |
/// |---|---|
/// | `absent` | there is no value |
/// | `any` | it is one of the lines of the condition's value |
/// | `cidr` | the address lies in one of the comma-separated networks; only for `client.ip` |
/// | `is` | it equals the condition's value |
/// | `not` | it is absent, or differs from the condition's value |
/// | `pattern` | its `/`-separated segments match: `*` is one segment, a last `**` any rest |
/// | `prefix` | it begins with the condition's value; for `path`, only at a segment boundary |
/// | `present` | there is a value |
/// | `suffix` | it ends with the condition's value |
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// `absent`
    Absent,
    /// `any`, sorted
    Any(Box<[Box<str>]>),
    /// `cidr`
    Cidr(Box<[IpNet]>),
    /// `is`
    Is(Box<str>),
    /// `not`
    Not(Box<str>),
    /// `pattern`
    Pattern(Pattern),
    /// `prefix`
    Prefix(Box<str>),
    /// `present`
    Present,
    /// `suffix`
    Suffix(Box<str>),
}

/// A compiled `pattern`: segments, of which `None` stands for any one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    segments: Box<[Option<Box<str>>]>,
    /// Does any rest follow?
    open: bool,
}

impl Pattern {
    /// Reads the text form. `**` may stand only at the end.
    fn parse(text: &str) -> Option<Self> {
        let (text, open) = match text.strip_suffix("**") {
            Some("") => return Some(Self { segments: Box::default(), open: true }),
            Some(rest) => (rest.strip_suffix('/')?, true),
            None => (text, false),
        };
        let segment = |part: &str| (part != "*").then(|| part.into());
        let segments: Box<[Option<Box<str>>]> = text.split('/').map(segment).collect();
        let plain = segments.iter().flatten().all(|part| !part.contains('*'));
        plain.then_some(Self { segments, open })
    }

    /// Does the text match?
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let mut parts = text.split('/');
        let fits = self.segments.iter().all(|segment| {
            parts.next().is_some_and(|part| segment.as_deref().is_none_or(|wanted| wanted == part))
        });
        fits && (self.open || parts.next().is_none())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<&str> =
            self.segments.iter().map(|segment| segment.as_deref().unwrap_or("*")).collect();
        f.write_str(&parts.join("/"))?;
        match (self.open, parts.is_empty()) {
            (true, true) => f.write_str("**"),
            (true, false) => f.write_str("/**"),
            (false, _) => Ok(()),
        }
    }
}

/// Does the path lie at or below the prefix? `/api` covers `/api` and `/api/x`, not `/apix`; `/api/` only what is below.
#[must_use]
pub fn path_covers(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
}

impl Condition {
    /// Reads the text form.
    ///
    /// # Errors
    /// [`Refusal`] for unknown attributes and tests and for values that do not fit.
    pub fn parse(text: &ConditionText) -> Result<Self, Refusal> {
        let attribute = Attribute::parse(&text.attribute)
            .map_err(|error| Refusal { code: code::UNSUPPORTED, message: error.to_string() })?;
        let value = text.value.as_str();
        let wrong = |right: &str| Refusal {
            code: code::VALUE,
            message: format!(
                "test `{}` of `{}` needs {right}, not `{}`",
                text.test,
                text.attribute,
                clip(value)
            ),
        };
        let empty = |test| if value.is_empty() { Ok(test) } else { Err(wrong("an empty value")) };
        let test = match text.test.as_str() {
            "absent" => empty(Test::Absent)?,
            "any" => {
                let mut lines: Vec<Box<str>> = value.lines().map(Into::into).collect();
                lines.sort();
                lines.dedup();
                Some(lines)
                    .filter(|lines| !lines.is_empty())
                    .map(|lines| Test::Any(lines.into()))
                    .ok_or_else(|| wrong("at least one line"))?
            }
            "cidr" if attribute == Attribute::ClientIp => Test::Cidr(
                networks(value).ok_or_else(|| wrong("networks such as `10.0.0.0/8, 2001:db8::/32`"))?,
            ),
            "cidr" => return Err(wrong("the attribute `client.ip`")),
            "is" => Test::Is(value.into()),
            "not" => Test::Not(value.into()),
            "pattern" => Test::Pattern(
                Pattern::parse(value)
                    .ok_or_else(|| wrong("segments that are plain or `*`, with `**` only at the end"))?,
            ),
            "prefix" if value.is_empty() => {
                return Err(wrong("a prefix; leave the condition out to match everything"));
            }
            "prefix" => Test::Prefix(value.into()),
            "present" => empty(Test::Present)?,
            "suffix" if value.is_empty() => {
                return Err(wrong("a suffix; leave the condition out to match everything"));
            }
            "suffix" => Test::Suffix(value.into()),
            other => {
                return Err(Refusal {
                    code: code::UNSUPPORTED,
                    message: format!(
                        "test `{}` is not known; use absent, any, cidr, is, not, pattern, prefix, present or suffix",
                        clip(other)
                    ),
                });
            }
        };
        Ok(Self { attribute, test })
    }

    /// Does it hold for the request? Allocates nothing.
    pub fn holds(&self, request: &impl Attributes) -> bool {
        if let Test::Cidr(networks) = &self.test {
            let address = request.client_ip();
            return networks.iter().any(|network| network.contains(&address));
        }
        self.accepts(request.value(&self.attribute))
    }

    /// Does the test accept the attribute's value? `cidr` is asked by [`Condition::holds`] alone.
    #[must_use]
    pub fn accepts(&self, value: Value<'_>) -> bool {
        match (&self.test, value) {
            (Test::Absent, value) => value == Value::Absent,
            (Test::Present, value) => value != Value::Absent,
            (Test::Not(unwanted), value) => value.text() != Some(unwanted),
            (Test::Any(lines), Value::Text(text)) => {
                lines.binary_search_by(|line| line.as_ref().cmp(text)).is_ok()
            }
            (Test::Is(wanted), Value::Text(text)) => **wanted == *text,
            (Test::Pattern(pattern), Value::Text(text)) => pattern.matches(text),
            (Test::Prefix(prefix), Value::Text(text)) if self.attribute == Attribute::Path => {
                path_covers(prefix, text)
            }
            (Test::Prefix(prefix), Value::Text(text)) => text.starts_with(&**prefix),
            (Test::Suffix(suffix), Value::Text(text)) => text.ends_with(&**suffix),
            _ => false,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attribute = &self.attribute;
        match &self.test {
            Test::Absent => write!(f, "{attribute} absent"),
            Test::Any(lines) => write!(f, "{attribute} any of {}", lines.join(", ")),
            Test::Cidr(networks) => {
                let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
                write!(f, "{attribute} in {}", networks.join(", "))
            }
            Test::Is(value) => write!(f, "{attribute} is {value}"),
            Test::Not(value) => write!(f, "{attribute} is not {value}"),
            Test::Pattern(pattern) => write!(f, "{attribute} matches {pattern}"),
            Test::Prefix(prefix) => write!(f, "{attribute} begins with {prefix}"),
            Test::Present => write!(f, "{attribute} present"),
            Test::Suffix(suffix) => write!(f, "{attribute} ends with {suffix}"),
        }
    }
}

fn networks(value: &str) -> Option<Box<[IpNet]>> {
    let network = |text: &str| {
        let text = text.trim();
        text.parse::<IpNet>().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))
    };
    let all: Option<Box<[IpNet]>> = value.split(',').map(network).collect();
    all.filter(|all| !all.is_empty())
}

/// The beginning of a text for messages, at a character's boundary.
pub(super) fn clip(text: &str) -> &str {
    const SHOWN_BYTES_MAX: usize = 80;
    let end =
        text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|&end| end <= SHOWN_BYTES_MAX).last();
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}
