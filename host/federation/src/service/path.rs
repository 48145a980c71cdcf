//! What a path below `/-/content` names, and which methods that has.

use http::Method;
use portolan_core::ids::check_name;

use super::problem::Problem;
use crate::defaults::NAME_BYTES_MAX;

/// What a path names. Names of items are one part of it: a `/` in one is written %2F.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Changes,
    /// A content by its root.
    Content(String),
    Conflicts(String, String),
    /// What there is.
    Description,
    Diff(String, String),
    Item(String, String),
    Items(String),
    Share(String),
    SharePreview(String),
    ShareSync(String),
    /// A share, and the status that it is to have.
    ShareTurn(String, &'static str),
    Shares,
    Upload(String),
    Uploads,
    Versions(String, String),
}

impl Place {
    /// What a path after the service's own names.
    ///
    /// # Errors
    /// When it can name nothing.
    pub(super) fn of(path: &str) -> Result<Self, Problem> {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        Ok(match parts.as_slice() {
            ["changes"] => Self::Changes,
            ["openapi.json"] => Self::Description,
            ["c", root] => Self::Content((*root).to_owned()),
            ["items", site] => Self::Items(known_site(site)?),
            ["items", site, name] => Self::Item(known_site(site)?, known_name(name)?),
            ["items", site, name, "versions"] => Self::Versions(known_site(site)?, known_name(name)?),
            ["items", site, name, "conflicts"] => Self::Conflicts(known_site(site)?, known_name(name)?),
            ["items", site, name, "diff"] => Self::Diff(known_site(site)?, known_name(name)?),
            ["shares"] => Self::Shares,
            ["shares", share] => Self::Share((*share).to_owned()),
            ["shares", share, "accept"] => Self::ShareTurn((*share).to_owned(), "accepted"),
            ["shares", share, "suspend"] => Self::ShareTurn((*share).to_owned(), "suspended"),
            ["shares", share, "revoke"] => Self::ShareTurn((*share).to_owned(), "revoked"),
            ["shares", share, "preview"] => Self::SharePreview((*share).to_owned()),
            ["shares", share, "sync"] => Self::ShareSync((*share).to_owned()),
            ["uploads"] => Self::Uploads,
            ["uploads", upload] => Self::Upload((*upload).to_owned()),
            _ => {
                let detail = "there are /items/SITE/NAME with /versions, /conflicts and /diff, /uploads, /shares, /changes, /c/ROOT \
                    and /openapi.json; a `/` in a name is written %2F";
                return Err(Problem::new(http::StatusCode::NOT_FOUND, "not-found", detail));
            }
        })
    }

    const fn methods(&self) -> &'static str {
        match self {
            Self::Changes
            | Self::Content(_)
            | Self::Description
            | Self::Diff(..)
            | Self::Items(_)
            | Self::Share(_)
            | Self::SharePreview(_)
            | Self::Versions(..) => "GET, HEAD",
            Self::Conflicts(..) | Self::Shares => "GET, HEAD, POST",
            Self::Item(..) => "DELETE, GET, HEAD, PUT",
            Self::ShareSync(_) => "GET, HEAD, POST",
            Self::ShareTurn(..) | Self::Uploads => "POST",
            Self::Upload(_) => "DELETE, GET, HEAD, PATCH",
        }
    }

    /// Does a request with this method write?
    ///
    /// # Errors
    /// When the path does not have it.
    pub(super) fn writes(&self, method: &Method) -> Result<bool, Problem> {
        let methods = self.methods();
        if !methods.split(", ").any(|name| name == method.as_str()) {
            return Err(Problem::method(methods));
        }
        Ok(!matches!(*method, Method::GET | Method::HEAD))
    }
}

/// A site's name.
pub(super) fn known_site(text: &str) -> Result<String, Problem> {
    check_name(text).map_err(|error| Problem::bad(format!("the site: {error}")))?;
    Ok(text.to_owned())
}

/// An item's name, from its part of a path.
fn known_name(part: &str) -> Result<String, Problem> {
    let text = decode(part, false).ok_or_else(|| Problem::bad("the name is no UTF-8 in percent-encoding"))?;
    check_item(text)
}

/// An item's name.
pub(super) fn check_item(text: String) -> Result<String, Problem> {
    let is_good = !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control);
    let detail = || format!("a name has 1 to {NAME_BYTES_MAX} bytes of UTF-8 without control characters");
    if is_good { Ok(text) } else { Err(Problem::bad(detail())) }
}

/// The value of a parameter of a query.
///
/// # Errors
/// When it is no text.
pub(super) fn parameter(query: Option<&str>, name: &str) -> Result<Option<String>, Problem> {
    let value = query.unwrap_or_default().split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    });
    let decoded = |value| decode(value, true).ok_or_else(|| Problem::bad(format!("`{name}` is no text")));
    value.map(decoded).transpose()
}

/// A number that a query asks for.
///
/// # Errors
/// When it is none.
pub(super) fn number(query: Option<&str>, name: &str) -> Result<Option<u64>, Problem> {
    let read = |text: String| text.parse().map_err(|_| Problem::bad(format!("`{name}` is a whole number")));
    parameter(query, name)?.map(read).transpose()
}

/// Percent-encoding (RFC 3986); in queries `+` is a space.
fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => digit(rest.next()?)? << 4 | digit(rest.next()?)?,
            b'+' if plus_is_space => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_things_and_nothing_leads_out() {
        let item = |name: &str| Place::Item("docs".to_owned(), name.to_owned());
        assert_eq!(Place::of("/items/docs/a%2Fb%20c").unwrap(), item("a/b c"));
        assert_eq!(Place::of("/items/docs/versions").unwrap(), item("versions"));
        for bad in [
            "",
            "/",
            "/items",
            "/items/Docs/a",
            "/items/../a",
            "/items/docs/",
            "/items/docs/a/b",
            "/items/docs/%zz",
            "/items/docs/%00",
            "/items/docs/%ff",
            "/c",
            "/shares/x/destroy",
        ] {
            assert!(Place::of(bad).is_err(), "{bad}");
        }
        assert!(Place::of(&format!("/items/docs/{}", "n".repeat(NAME_BYTES_MAX + 1))).is_err());
    }

    #[test]
    fn methods_are_known() {
        let item = Place::of("/items/docs/a").unwrap();
        assert!(!item.writes(&Method::GET).unwrap() && item.writes(&Method::PUT).unwrap());
        assert_eq!(item.writes(&Method::POST).unwrap_err().allow, Some("DELETE, GET, HEAD, PUT"));
    }

    #[test]
    fn queries_have_parameters() {
        assert_eq!(parameter(Some("a=1&b=x+y%2B"), "b").unwrap().as_deref(), Some("x y+"));
        assert_eq!(number(Some("since=7"), "since").unwrap(), Some(7));
        assert!(number(Some("since=-7"), "since").is_err());
        assert_eq!(parameter(None, "b").unwrap(), None);
    }
}
