//! Locations of redirects: their template, and the proof that a redirect does not lead back to its own rule.

use std::net::IpAddr;

use super::condition::clip;
use super::draft::{Refusal, code, refuse};
use super::{Action, Plan, Rule, Test, Then};
use crate::attribute::{Attribute, Attributes, Value};

/// The longest location, in bytes.
const LOCATION_BYTES_MAX: usize = 4 * 1024;
const FIELDS: [&str; 3] = ["{host}", "{path}", "{query}"];

/// Is the template a URI reference (RFC 3986, section 4.1) with only known fields in braces?
pub(super) fn check(location: &str) -> Result<(), Refusal> {
    let plain = FIELDS.iter().fold(location.to_owned(), |text, field| text.replace(field, ""));
    let good = |b: u8| b.is_ascii_graphic() && !b"{}<>\"\\^`|".contains(&b);
    let form = location.starts_with('/')
        || location.starts_with("http://")
        || location.starts_with("https://")
        || location.starts_with("{path}");
    if location.len() > LOCATION_BYTES_MAX || !plain.bytes().all(good) || !form {
        let message = format!(
            "`{}` is no location: use a path or an http(s) URI, with {{host}}, {{path}} and {{query}} for the request's own",
            clip(location)
        );
        return refuse(code::VALUE, message);
    }
    Ok(())
}

/// Fills a location's template. `query` comes with its `?`, or is empty.
#[must_use]
pub fn fill_location(template: &str, host: &str, path: &str, query: &str) -> String {
    template.replace("{host}", host).replace("{path}", path).replace("{query}", query)
}

/// Refuses plans with a redirect whose target its own rule would catch again for the same client: that loops until
/// the client gives up. Looked at are a rule's conditions on host, path, scheme and query; where other attributes
/// decide, the client sends the same ones again, so they hold again.
pub(super) fn check_loops(plan: &Plan) -> Result<(), Refusal> {
    for (index, rule) in plan.rules.iter().enumerate() {
        let answers = match &rule.then {
            Then::Dynamic { .. } => continue,
            Then::Split { to, fallback } => {
                to.iter().map(|share| share.answer).chain(fallback.iter().copied())
            }
        };
        for id in answers {
            let Some(Action::Redirect { location, .. }) = plan.answers.get(id.0 as usize).map(|a| &a.action)
            else {
                continue;
            };
            if leads_back(rule, location) {
                let message = format!(
                    "rule {index} redirects to `{}`, which it would catch again: exclude the target by a condition",
                    clip(location)
                );
                return refuse(code::SENSELESS, message);
            }
        }
    }
    Ok(())
}

/// Follows the redirect once from a request that the rule catches, as far as the template says where it leads.
fn leads_back(rule: &Rule, location: &str) -> bool {
    let start = sample(rule);
    let target = fill_location(location, &start.host, &start.path, "");
    let (scheme, host, path) = match target.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) =
                rest.find('/').map_or((rest, "/"), |at| rest.split_at_checked(at).unwrap_or((rest, "/")));
            let host = authority.split(':').next().unwrap_or(authority).to_ascii_lowercase();
            (scheme.to_owned(), host, path.to_owned())
        }
        None => (start.scheme, start.host, target),
    };
    let path = path.split(['?', '#']).next().unwrap_or("/").to_owned();
    let end = Sample { scheme, host, path };
    rule.when.iter().all(|condition| match condition.attribute {
        Attribute::Host | Attribute::Path | Attribute::Scheme => condition.holds(&end),
        _ => true,
    })
}

/// A request that the rule catches, as far as simple conditions say.
fn sample(rule: &Rule) -> Sample {
    let wanted = |attribute: Attribute, or: &str| {
        let found =
            rule.when.iter().filter(|condition| condition.attribute == attribute).find_map(|condition| {
                Some(match &condition.test {
                    Test::Is(text) | Test::Prefix(text) => text.to_string(),
                    Test::Any(lines) => lines.first()?.to_string(),
                    Test::Suffix(text) => format!("x{text}"),
                    Test::Pattern(pattern) => pattern.to_string().replace("**", "x").replace('*', "x"),
                    _ => return None,
                })
            });
        found.unwrap_or_else(|| or.to_owned())
    };
    // Without a wish for the scheme, the sample comes by the one that most redirects away from it start with.
    Sample {
        scheme: wanted(Attribute::Scheme, "https"),
        host: wanted(Attribute::Host, "example.invalid"),
        path: wanted(Attribute::Path, "/any"),
    }
}

struct Sample {
    scheme: String,
    host: String,
    path: String,
}

impl Attributes for Sample {
    fn value(&self, attribute: &Attribute) -> Value<'_> {
        match attribute {
            Attribute::Host => Value::Text(&self.host),
            Attribute::Path => Value::Text(&self.path),
            Attribute::Scheme => Value::Text(&self.scheme),
            _ => Value::Absent,
        }
    }

    fn client_ip(&self) -> IpAddr {
        IpAddr::from([127, 0, 0, 1])
    }
}
