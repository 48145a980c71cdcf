//! Edits of header fields and paths: what a policy may change in a message, and what belongs to the gateway alone.

use super::condition::clip;
use super::draft::{Refusal, code, refuse};
use super::{EditKind, HeaderEdit, Message, PathRewrite};

/// The longest value that an edit may write, in bytes.
const VALUE_BYTES_MAX: usize = 4 * 1024;

/// Fields that frame a message or belong to one connection (RFC 9110, section 7.6.1; RFC 9112, section 6), and those
/// that the gateway itself answers for.
const GATEWAYS_OWN: [&str; 16] = [
    "cdn-loop",
    "connection",
    "content-length",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "http2-settings",
    "x-request-id",
];

/// Reads `header.set:NAME` and its kin.
pub(super) fn header_edit(key: &str, value: &str) -> Result<HeaderEdit, Refusal> {
    let (message, rest) = match key.strip_prefix("response.") {
        Some(rest) => (Message::Response, rest),
        None => (Message::Request, key),
    };
    let kinds = [
        ("header.add:", EditKind::Add),
        ("header.remove:", EditKind::Remove),
        ("header.set:", EditKind::Set),
    ];
    let found = kinds.into_iter().find_map(|(prefix, kind)| Some((kind, rest.strip_prefix(prefix)?)));
    let Some((kind, name)) = found else {
        let message = format!(
            "answers have no property `{}`; they have path.rewrite, header.set:NAME, header.add:NAME, \
             header.remove:NAME, and the same behind `response.`",
            clip(key)
        );
        return refuse(code::UNSUPPORTED, message);
    };
    let name = check_field(name)?;
    check_value(value)?;
    if kind == EditKind::Remove && !value.is_empty() {
        return refuse(code::VALUE, format!("`{}` needs an empty value", clip(key)));
    }
    Ok(HeaderEdit { message, kind, name, value: value.into() })
}

/// A field name that a policy may touch, in lower case.
fn check_field(name: &str) -> Result<Box<str>, Refusal> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || name.len() > 128 || !name.bytes().all(token) {
        return refuse(code::VALUE, format!("`{}` is no field name (RFC 9110, section 5.1)", clip(name)));
    }
    let name = name.to_ascii_lowercase();
    let own = GATEWAYS_OWN.contains(&name.as_str())
        || ["portolan-", "x-forwarded-", "proxy-"].iter().any(|prefix| name.starts_with(prefix));
    if own {
        return refuse(
            code::VALUE,
            format!("field `{name}` belongs to the gateway: a policy cannot edit it"),
        );
    }
    Ok(name.into())
}

/// A field value: visible characters, spaces, tabs and bytes above 127 (RFC 9110, section 5.5), without spaces at the
/// ends.
pub(super) fn check_value(value: &str) -> Result<(), Refusal> {
    let bad = |b: u8| (b < 0x20 && b != b'\t') || b == 0x7f;
    if value.bytes().any(bad) || value.trim_matches([' ', '\t']).len() != value.len() {
        return refuse(code::VALUE, "a field value has no control characters and no spaces at its ends");
    }
    if value.len() > VALUE_BYTES_MAX {
        return refuse(code::LIMIT, format!("a field value has at most {VALUE_BYTES_MAX} bytes"));
    }
    Ok(())
}

/// Reads `FROM=>TO`.
pub(super) fn path_rewrite(value: &str) -> Result<PathRewrite, Refusal> {
    let wrong = || {
        let message = format!(
            "`path.rewrite` needs `/from=>/to` without query, fragment or spaces, not `{}`",
            clip(value)
        );
        Refusal { code: code::VALUE, message }
    };
    let (from, to) = value.split_once("=>").ok_or_else(wrong)?;
    let path = |text: &str| {
        text.starts_with('/')
            && text.len() <= 1024
            && text.bytes().all(|b| b.is_ascii_graphic() && !b"?#".contains(&b))
    };
    if path(from) && path(to) { Ok(PathRewrite { from: from.into(), to: to.into() }) } else { Err(wrong()) }
}

impl PathRewrite {
    /// The path to send, or `None` where the rewrite does not apply. `/api=>/v1` makes `/v1/x` of `/api/x`; the prefix
    /// counts only at a segment boundary.
    #[must_use]
    pub fn apply(&self, path: &str) -> Option<String> {
        if !super::path_covers(&self.from, path) {
            return None;
        }
        let rest = path.strip_prefix(&*self.from)?;
        // One slash, never two or none, where the parts meet.
        let to = if rest.starts_with('/') { self.to.trim_end_matches('/') } else { &self.to };
        let joint = if rest.is_empty() || rest.starts_with('/') || to.ends_with('/') { "" } else { "/" };
        let path = format!("{to}{joint}{rest}");
        Some(if path.is_empty() { "/".to_owned() } else { path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewrites_meet_with_one_slash() {
        for (rule, path, expected) in [
            ("/api=>/v1", "/api/x", Some("/v1/x")),
            ("/api=>/v1", "/api", Some("/v1")),
            ("/api=>/", "/api/x", Some("/x")),
            ("/api=>/", "/api", Some("/")),
            ("/api/=>/v1", "/api/x", Some("/v1/x")),
            ("/=>/v1/", "/x", Some("/v1/x")),
            ("/api=>/v1", "/apix", None),
        ] {
            assert_eq!(path_rewrite(rule).unwrap().apply(path).as_deref(), expected, "{rule} on {path}");
        }
        for bad in ["", "/a", "a=>/b", "/a=>b", "/a?x=>/b", "/a=>/b c", "/a=>/b#c"] {
            assert_eq!(path_rewrite(bad).unwrap_err().code, code::VALUE, "{bad}");
        }
    }

    #[test]
    fn the_gateways_own_fields_are_refused() {
        for bad in ["Connection", "host", "Portolan-Tenant", "x-forwarded-for", "via", "a b", "", "proxy-x"] {
            assert!(header_edit(&format!("header.set:{bad}"), "x").is_err(), "{bad}");
        }
        for value in ["a\r\nb", "a\0", " a", "a\t", &"x".repeat(5_000)] {
            assert!(header_edit("header.set:x-a", value).is_err(), "{value:?}");
        }
        let edit = header_edit("response.header.set:Cache-Control", "no-store").unwrap();
        assert_eq!((edit.message, &*edit.name), (Message::Response, "cache-control"));
        assert!(header_edit("response.header.remove:x", "y").is_err());
        assert_eq!(header_edit("cookie.set:x", "y").unwrap_err().code, code::UNSUPPORTED);
    }
}
