//! Request lines, header fields and hosts.

use super::{Framing, Limits, Violation};

/// The longest method, in bytes; the registry's longest has 17.
const METHOD_BYTES_MAX: usize = 32;
/// The longest host with its port, in bytes: a DNS name has at most 255 octets (RFC 1035, section 2.3.4).
const HOST_BYTES_MAX: usize = 255 + 6;
/// More digits than this pass what a 64-bit count can hold.
const LENGTH_DIGITS_MAX: usize = 18;

/// What framing needs to know of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) framing: Framing,
    pub(super) upgrade: bool,
}

/// A host with its port, as in `Host` and `:authority`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host<'a> {
    /// Name or address; IPv6 addresses keep their brackets.
    pub host: &'a str,
    /// The port, if one was written.
    pub port: Option<u16>,
}

/// The end of the head: past the first empty line, or past a leading CR LF. `from` bytes were searched before.
pub(super) fn end(bytes: &[u8], from: usize) -> Option<usize> {
    if bytes.starts_with(b"\r\n") {
        return Some(2);
    }
    let start = from.saturating_sub(3);
    let found = bytes.get(start..)?.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some(start + found + 4)
}

/// Refuses what can no longer become a head, so that nonsense does not fill the buffer first. `from` bytes were
/// checked before.
pub(super) fn check_beginning(bytes: &[u8], from: usize, limits: &Limits) -> Result<(), Violation> {
    check_lines(bytes, from)?;
    let line_max = METHOD_BYTES_MAX + limits.target_bytes_max + " HTTP/1.1 \r\n".len();
    if bytes.len() > line_max && !bytes.get(..line_max).unwrap_or_default().contains(&b'\n') {
        return Err(Violation::TargetSize);
    }
    Ok(())
}

/// Refuses CR without LF and LF without CR. `from` bytes were checked before.
pub(super) fn check_lines(bytes: &[u8], from: usize) -> Result<(), Violation> {
    let fresh = bytes.get(from.saturating_sub(1)..).unwrap_or_default();
    let torn = |pair: &[u8]| {
        matches!(pair, [b'\r', next] if *next != b'\n') || matches!(pair, [last, b'\n'] if *last != b'\r')
    };
    if bytes.first() == Some(&b'\n') || fresh.windows(2).any(torn) { Err(Violation::Line) } else { Ok(()) }
}

/// May the byte stand in a token (RFC 9110, section 5.6.2)?
const fn is_token(byte: u8) -> bool {
    matches!(byte, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z')
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::indexing_slicing,
            reason = "a constant loop below 256"
        )]
        {
            table[byte] = is_token(byte as u8);
        }
        byte += 1;
    }
    table
};

pub(super) fn token(byte: u8) -> bool {
    TOKEN.get(usize::from(byte)).copied().unwrap_or(false)
}

/// One line without its CR LF, and what follows it. The line holds neither CR nor LF.
pub(super) fn line(bytes: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')).ok_or(Violation::Line)?;
    let (text, rest) = bytes.split_at_checked(end).ok_or(Violation::Line)?;
    Ok((text, rest.strip_prefix(b"\r\n").ok_or(Violation::Line)?))
}

/// Calls `see` for each field of a section that ends in an empty line; names as received, values without white space
/// at their ends.
pub(super) fn fields<'a>(
    mut bytes: &'a [u8],
    limits: &Limits,
    mut see: impl FnMut(&'a [u8], &'a [u8]) -> Result<(), Violation>,
) -> Result<(), Violation> {
    let mut count = 0;
    loop {
        let (text, rest) = line(bytes)?;
        bytes = rest;
        if text.is_empty() {
            return Ok(());
        }
        count += 1;
        if count > limits.fields_max {
            return Err(Violation::HeadSize);
        }
        if matches!(text.first(), Some(b' ' | b'\t')) {
            return Err(Violation::Line);
        }
        let colon = text.iter().position(|&byte| !token(byte)).ok_or(Violation::Field)?;
        let (name, value) = text.split_at_checked(colon).ok_or(Violation::Field)?;
        let value = value.strip_prefix(b":").ok_or(Violation::Field)?;
        if name.is_empty() || value.iter().any(|&byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f) {
            return Err(Violation::Field);
        }
        see(name, trim(value))?;
    }
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

#[derive(Default)]
struct Seen<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
    coding: Option<Result<(), Violation>>,
    connection_upgrade: bool,
    upgrade: bool,
}

impl Head {
    /// Reads a whole head, empty line included.
    pub(super) fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, Violation> {
        if bytes.len() > limits.head_bytes_max {
            return Err(Violation::HeadSize);
        }
        let (request_line, rest) = line(bytes)?;
        let (method, target, minor) = request_parts(request_line, limits)?;
        let authority = check_target(method, target)?;
        let mut seen = Seen::default();
        fields(rest, limits, |name, value| seen.see(name, value, minor))?;
        check_hosts(seen.host, authority, minor)?;
        let framing = match (seen.coding, seen.length) {
            (Some(_), Some(_)) => return Err(Violation::Length),
            (Some(coding), None) => coding.map(|()| Framing::Chunked)?,
            (None, length) => Framing::Length(length.unwrap_or(0)),
        };
        Ok(Self { framing, upgrade: minor == 1 && seen.upgrade && seen.connection_upgrade })
    }
}

impl<'a> Seen<'a> {
    fn see(&mut self, name: &'a [u8], value: &'a [u8], minor: u8) -> Result<(), Violation> {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") && self.host.replace(value).is_some() => {
                return Err(Violation::Host);
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
            10 if name.eq_ignore_ascii_case(b"connection") => {
                let wants = |option: &[u8]| trim(option).eq_ignore_ascii_case(b"upgrade");
                self.connection_upgrade |= value.split(|&byte| byte == b',').any(wants);
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = decimal(value).ok_or(Violation::Length)?;
                if self.length.replace(length).is_some() {
                    return Err(Violation::Length);
                }
            }
            // HTTP/1.0 has no transfer codings; a recipient must treat them there as faulty framing (RFC 9112, section 6.1).
            17 if name.eq_ignore_ascii_case(b"transfer-encoding")
                && (minor == 0 || self.coding.replace(check_coding(value)).is_some()) =>
            {
                return Err(Violation::Length);
            }
            // Nobody but the gateway waits for the content of HTTP/1.0 (RFC 9110, section 10.1.1).
            6 if minor == 1 && name.eq_ignore_ascii_case(b"expect") => check_expectation(value)?,
            14 | 17 if is_lookalike(name) => return Err(Violation::Field),
            _ => {}
        }
        Ok(())
    }
}

/// Checks a transfer coding: `chunked` is known (RFC 9112, section 6.1). Where it is malformed, or chunked stands before the end,
/// nobody can tell where the message ends (RFC 9112, section 6.3).
pub(super) fn check_coding(value: &[u8]) -> Result<(), Violation> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let mut codings = value.split(|&byte| byte == b',').map(trim);
    let last = codings.next_back().unwrap_or_default();
    let is_name = |coding: &[u8]| !coding.is_empty() && coding.iter().all(|&byte| token(byte));
    let early = |coding: &[u8]| !is_name(coding) || coding.eq_ignore_ascii_case(b"chunked");
    if !is_name(last) || codings.any(early) { Err(Violation::Length) } else { Err(Violation::TransferCoding) }
}

/// Checks what is expected of the recipient: only 100-continue is known (RFC 9110, section 10.1.1).
///
/// # Errors
/// [`Violation::Expectation`].
pub fn check_expectation(value: &[u8]) -> Result<(), Violation> {
    if value.eq_ignore_ascii_case(b"100-continue") { Ok(()) } else { Err(Violation::Expectation) }
}

/// Is it a framing field's name with `_` for `-`? Servers that hand fields to programs as variables (RFC 3875, section 4.1.18)
/// take it for the field.
fn is_lookalike(name: &[u8]) -> bool {
    let is = |field: &[u8]| {
        let same =
            |(byte, known): (&u8, &u8)| byte.eq_ignore_ascii_case(known) || (*byte == b'_' && *known == b'-');
        name.contains(&b'_') && name.len() == field.len() && name.iter().zip(field).all(same)
    };
    is(b"content-length") || is(b"transfer-encoding")
}

pub(super) fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > LENGTH_DIGITS_MAX || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// Method, target and the minor version.
fn request_parts<'a>(text: &'a [u8], limits: &Limits) -> Result<(&'a [u8], &'a [u8], u8), Violation> {
    let mut parts = text.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Violation::RequestLine);
    };
    if method.is_empty() || method.len() > METHOD_BYTES_MAX || !method.iter().all(|&byte| token(byte)) {
        return Err(Violation::RequestLine);
    }
    let minor = match version {
        b"HTTP/1.0" => 0,
        b"HTTP/1.1" => 1,
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => return Err(Violation::Version),
        _ => return Err(Violation::RequestLine),
    };
    if target.len() > limits.target_bytes_max {
        return Err(Violation::TargetSize);
    }
    Ok((method, target, minor))
}

/// Checks the form of the target (RFC 9112, section 3.2); gives the authority of an absolute one.
fn check_target<'a>(method: &[u8], target: &'a [u8]) -> Result<Option<&'a [u8]>, Violation> {
    if method == b"CONNECT" {
        // Its only form is a host with a port (RFC 9112, section 3.2.3).
        let host = std::str::from_utf8(target).ok().and_then(|text| check_host(text).ok());
        let whole = host.is_some_and(|host| host.port.is_some());
        return Err(if whole { Violation::Method } else { Violation::Target });
    }
    let rest = match target {
        b"*" if method == b"OPTIONS" => return Ok(None),
        [b'/', ..] => (None, target),
        _ => absolute(target)?,
    };
    let (authority, path) = rest;
    check_path(path)?;
    // It would show what a browser keeps from scripts, and proxies have no use for it (RFC 9110, section 17.14).
    if method == b"TRACE" { Err(Violation::Method) } else { Ok(authority) }
}

/// Authority and path of an absolute target.
fn absolute(target: &[u8]) -> Result<(Option<&[u8]>, &[u8]), Violation> {
    let after = |scheme: &[u8]| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    let rest = after(b"http://").or_else(|| after(b"https://")).ok_or(Violation::Target)?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).ok_or(Violation::Target)?;
    Ok((Some(authority), path))
}

/// Checks the path and query of a target (RFC 3986, sections 3.3 and 3.4). Characters that browsers leave unencoded pass; a
/// backslash in the path, which some take for a slash, an encoded NUL and a broken encoding there do not.
///
/// # Errors
/// [`Violation::Target`].
pub fn check_path(target: &[u8]) -> Result<(), Violation> {
    let path = target.split(|&byte| byte == b'?').next().unwrap_or_default();
    let mut encoded = path.split(|&byte| byte == b'%').skip(1);
    let plain = |&byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'#' | b'<' | b'>');
    let good = target.iter().all(plain)
        && !path.iter().any(|byte| matches!(byte, b'\\' | b'`'))
        && encoded.all(|after| match after {
            [b'0', b'0', ..] => false,
            [high, low, ..] => high.is_ascii_hexdigit() && low.is_ascii_hexdigit(),
            _ => false,
        });
    if good { Ok(()) } else { Err(Violation::Target) }
}

fn check_hosts(host: Option<&[u8]>, authority: Option<&[u8]>, minor: u8) -> Result<(), Violation> {
    let parse = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).map_err(|_| Violation::Host)?;
        check_host(text).map(drop)
    };
    match (host, authority) {
        (None, _) if minor == 1 => Err(Violation::Host),
        (None, None) => Ok(()),
        (None, Some(authority)) => parse(authority),
        (Some(host), None) => parse(host),
        (Some(host), Some(authority)) if host.eq_ignore_ascii_case(authority) => parse(host),
        (Some(_), Some(_)) => Err(Violation::Host),
    }
}

/// Reads a host with an optional port (RFC 9110, section 7.2): a DNS name or IPv4 address of letters, digits, `-`, `.`
/// and `_`, or an IPv6 address in brackets. No user information, no percent-encoding, no empty port.
///
/// # Errors
/// [`Violation::Host`].
pub fn check_host(text: &str) -> Result<Host<'_>, Violation> {
    if text.len() > HOST_BYTES_MAX {
        return Err(Violation::Host);
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or(Violation::Host)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| Violation::Host)?;
            let host = text.get(..address.len() + 2).ok_or(Violation::Host)?;
            let port =
                if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or(Violation::Host)?) };
            (host, port)
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if host.is_empty() || (!host.starts_with('[') && !host.bytes().all(name)) {
        return Err(Violation::Host);
    }
    let port = match port {
        None => None,
        Some(digits) if digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(digits.parse().map_err(|_| Violation::Host)?)
        }
        Some(_) => return Err(Violation::Host),
    };
    Ok(Host { host, port })
}
