//! The PROXY protocol: what a load balancer says of a connection before the first byte of its client.
//!
//! A strict reader of both versions. It takes bytes from the beginning of a connection and says who the client is, that more
//! bytes are needed, or that this is no such header. It must not know sockets, nor whom to believe.
//!
//! Source: "The PROXY protocol, versions 1 & 2", W. Tarreau, sections 2.1 and 2.2.

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header of version 1, its CR LF included (section 2.1).
const LINE_BYTES_MAX: usize = 107;
/// The longest header of version 2 that is read. Addresses take at most 232 bytes; certificates' names in TLVs rarely a
/// thousand.
pub const HEADER_BYTES_MAX: usize = 4_096;

const LINE_BEGIN: &[u8] = b"PROXY ";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family and transport, and the length of the rest.
const FIXED_BYTES: usize = 16;
/// Bytes of two addresses of Unix sockets.
const UNIX_BYTES: usize = 216;

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This client's.
    Client(SocketAddr),
    /// The load balancer's own, or that of somebody whom it cannot name: the address of the connection is all that is known.
    Sender,
}

/// What is wrong with a header. Each is final: the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// An address or port is not written as it must be.
    #[error("an address or a port is malformed")]
    Address,
    /// Another version, command, family or transport than the protocol has for connections.
    #[error("version, command, family or transport is unknown")]
    Kind,
    /// It is longer than it may be, or shorter than its addresses.
    #[error("the header's length is out of bounds")]
    Length,
    /// The connection begins with something else.
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    /// What follows the addresses does not end where the header does.
    #[error("a field behind the addresses is cut off")]
    Tlv,
}

/// Reads a header from the first bytes of a connection: whose it is, and how many bytes the header takes. `None` while all of
/// the bytes belong to a header that is not whole.
///
/// # Errors
/// [`Violation`].
pub fn read(bytes: &[u8]) -> Result<Option<(Origin, usize)>, Violation> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(one, other)| one == other);
    if begins(SIGNATURE) {
        return binary(bytes);
    }
    if begins(LINE_BEGIN) {
        return line(bytes);
    }
    Err(Violation::Missing)
}

/// Version 1: one line of text.
fn line(bytes: &[u8]) -> Result<Option<(Origin, usize)>, Violation> {
    let within = bytes.get(..LINE_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = within.iter().position(|&byte| byte == b'\n') else {
        return if within.len() < LINE_BYTES_MAX { Ok(None) } else { Err(Violation::Length) };
    };
    let text = bytes.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(Violation::Address)?;
    let text = std::str::from_utf8(text).map_err(|_| Violation::Address)?;
    let mut words = text.split(' ').skip(1);
    let origin = match words.next() {
        // Whatever else stands there is to be ignored.
        Some("UNKNOWN") => return Ok(Some((Origin::Sender, end + 1))),
        Some("TCP4") => pair::<Ipv4Addr>(&mut words)?,
        Some("TCP6") => pair::<Ipv6Addr>(&mut words)?,
        _ => return Err(Violation::Kind),
    };
    if words.next().is_some() {
        return Err(Violation::Address);
    }
    Ok(Some((Origin::Client(origin), end + 1)))
}

/// Source, destination and their ports; the source is wanted.
fn pair<'a, A>(words: &mut impl Iterator<Item = &'a str>) -> Result<SocketAddr, Violation>
where
    A: std::str::FromStr + Into<IpAddr>,
{
    let mut address = || -> Result<IpAddr, Violation> {
        let address: A = words.next().and_then(|word| word.parse().ok()).ok_or(Violation::Address)?;
        Ok(address.into())
    };
    let (source, _destination) = (address()?, address()?);
    let mut port = || words.next().and_then(port).ok_or(Violation::Address);
    let (source_port, _destination_port) = (port()?, port()?);
    Ok(SocketAddr::new(source, source_port))
}

/// A decimal number without sign or leading zeros.
fn port(word: &str) -> Option<u16> {
    let plain = word == "0" || word.starts_with(|first: char| matches!(first, '1'..='9'));
    word.parse().ok().filter(|_| plain)
}

/// Version 2: a fixed part, addresses, and fields that are nobody's here.
fn binary(bytes: &[u8]) -> Result<Option<(Origin, usize)>, Violation> {
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED_BYTES) else {
        // What is wrong already is not waited for.
        return kind(bytes).map(|_| None);
    };
    let (local, addresses_bytes) = kind(fixed)?;
    let length = match fixed {
        [.., high, low] => usize::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    };
    if FIXED_BYTES + length > HEADER_BYTES_MAX || (!local && length < addresses_bytes) {
        return Err(Violation::Length);
    }
    let Some(rest) = rest.get(..length) else { return Ok(None) };
    if local {
        // A health check of the load balancer: the rest is to be skipped.
        return Ok(Some((Origin::Sender, FIXED_BYTES + length)));
    }
    let (addresses, tlvs) = rest.split_at_checked(addresses_bytes).ok_or(Violation::Length)?;
    check_tlvs(tlvs)?;
    Ok(Some((source(addresses), FIXED_BYTES + length)))
}

/// Is the connection the sender's own, and how many bytes do the addresses take? Looks at what is there of the fixed part.
fn kind(fixed: &[u8]) -> Result<(bool, usize), Violation> {
    let local = match fixed.get(SIGNATURE.len()) {
        None | Some(0x21) => false,
        Some(0x20) => true,
        Some(_) => return Err(Violation::Kind),
    };
    let addresses_bytes = match fixed.get(SIGNATURE.len() + 1) {
        // Streams alone: nothing else comes over a connection.
        None | Some(0x00) => 0,
        Some(0x11) => 12,
        Some(0x21) => 36,
        Some(0x31) => UNIX_BYTES,
        Some(_) if local => 0,
        Some(_) => return Err(Violation::Kind),
    };
    Ok((local, addresses_bytes))
}

/// The source of two addresses, by their length.
fn source(addresses: &[u8]) -> Origin {
    let client = |address: IpAddr, high: u8, low: u8| {
        Origin::Client(SocketAddr::new(address, u16::from_be_bytes([high, low])))
    };
    match addresses {
        &[a, b, c, d, _, _, _, _, high, low, _, _] => client(Ipv4Addr::new(a, b, c, d).into(), high, low),
        [source @ .., high, low, _, _] if addresses.len() == 36 => {
            let octets = source.first_chunk::<16>().copied().unwrap_or_default();
            client(Ipv6Addr::from(octets).into(), *high, *low)
        }
        _ => Origin::Sender,
    }
}

/// Type, length in two bytes, value: each must end within the header.
fn check_tlvs(mut tlvs: &[u8]) -> Result<(), Violation> {
    while let [_, rest @ ..] = tlvs {
        let (length, value) = rest.split_first_chunk::<2>().ok_or(Violation::Tlv)?;
        tlvs = value.get(usize::from(u16::from_be_bytes(*length))..).ok_or(Violation::Tlv)?;
    }
    Ok(())
}
