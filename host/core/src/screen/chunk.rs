//! The chunked coding (RFC 9112, section 7.1), byte by byte where it is framing and in strides where it is data.

use super::head::{check_lines, end, fields, token};
use super::{Limits, Violation};

/// Hexadecimal digits of a chunk size: 15 of them stay below 2^60, far from any overflow.
const SIZE_DIGITS_MAX: u8 = 15;
/// Bytes of all chunk extensions of a message. Nobody needs them; floods of them cost time (CVE-2023-39326).
const EXTENSION_BYTES_MAX: u32 = 4 * 1024;

/// Fields that may not come as trailers (RFC 9110, section 6.5.1): framing, routing, authentication, content.
const FORBIDDEN: [&[u8]; 26] = [
    b"authorization",
    b"cache-control",
    b"cdn-loop",
    b"connection",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    b"max-forwards",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"range",
    b"set-cookie",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"via",
    b"www-authenticate",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
];

#[derive(Debug, Default)]
enum State {
    #[default]
    Size,
    Extension(Extension),
    SizeEnd,
    Data,
    DataCr,
    DataLf,
    Trailers,
}

/// Where the reader stands in a chunk extension (RFC 9112, section 7.1.1). White space is forgiven where the grammar calls it
/// bad and not before the first `;`, where readers differ about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    /// After `;`.
    Begin,
    Name,
    /// After a name and white space.
    NameEnd,
    /// After `=`.
    Value,
    Token,
    Quoted,
    /// After a backslash in a quoted string.
    Escaped,
    /// After a value.
    End,
}

impl Extension {
    /// The place after one more byte; `None` where the grammar has no such byte.
    fn next(self, byte: u8) -> Option<Self> {
        let space = matches!(byte, b' ' | b'\t');
        let text = space || (0x21..0x7f).contains(&byte) || byte >= 0x80;
        match (self, byte) {
            (Self::Begin | Self::Value, _) if space => Some(self),
            (Self::Begin | Self::Name, _) if token(byte) => Some(Self::Name),
            (Self::Name | Self::NameEnd, b'=') => Some(Self::Value),
            (Self::Name | Self::NameEnd | Self::Token | Self::End, b';') => Some(Self::Begin),
            (Self::Name | Self::NameEnd, _) if space => Some(Self::NameEnd),
            (Self::Value, b'"') | (Self::Escaped, _) if text => Some(Self::Quoted),
            (Self::Value | Self::Token, _) if token(byte) => Some(Self::Token),
            (Self::Token | Self::End, _) if space => Some(Self::End),
            (Self::Quoted, b'"') => Some(Self::End),
            (Self::Quoted, b'\\') => Some(Self::Escaped),
            (Self::Quoted, _) if text => Some(Self::Quoted),
            _ => None,
        }
    }

    /// May the line end here?
    const fn is_whole(self) -> bool {
        matches!(self, Self::Name | Self::Token | Self::End)
    }
}

/// The reader of one chunked content.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    state: State,
    digits: u8,
    extension_bytes: u32,
    /// The size being read, then the data still to come.
    left: u64,
    /// The trailer section so far.
    trailers: Vec<u8>,
}

impl Chunks {
    /// Reads on: how many bytes belonged to the content, and whether it is complete.
    pub(super) fn push(&mut self, bytes: &[u8], limits: &Limits) -> Result<(usize, bool), Violation> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.state {
                State::Data => {
                    let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                    self.left -= taken as u64;
                    at += taken;
                    if self.left == 0 {
                        self.state = State::DataCr;
                    }
                    continue;
                }
                State::Trailers => {
                    let (taken, done) = self.push_trailers(bytes.get(at..).unwrap_or_default(), limits)?;
                    return Ok((at + taken, done));
                }
                State::Size => self.size(byte)?,
                State::Extension(extension) => self.extension(extension, byte)?,
                State::SizeEnd => {
                    expect(byte, b'\n')?;
                    self.state = if self.left == 0 { State::Trailers } else { State::Data };
                }
                State::DataCr => {
                    expect(byte, b'\r')?;
                    self.state = State::DataLf;
                }
                State::DataLf => {
                    expect(byte, b'\n')?;
                    self.digits = 0;
                    self.state = State::Size;
                }
            }
            at += 1;
        }
        Ok((at, false))
    }

    fn size(&mut self, byte: u8) -> Result<(), Violation> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' if self.digits > 0 => {
                self.state = State::SizeEnd;
                return Ok(());
            }
            b';' if self.digits > 0 => {
                self.state = State::Extension(Extension::Begin);
                return Ok(());
            }
            _ => return Err(Violation::Chunk),
        };
        if self.digits == SIZE_DIGITS_MAX {
            return Err(Violation::Chunk);
        }
        self.left = if self.digits == 0 { 0 } else { self.left << 4 } | u64::from(digit);
        self.digits += 1;
        Ok(())
    }

    fn extension(&mut self, extension: Extension, byte: u8) -> Result<(), Violation> {
        self.extension_bytes += 1;
        if byte == b'\r' && extension.is_whole() {
            self.state = State::SizeEnd;
            return Ok(());
        }
        let next = extension.next(byte).filter(|_| self.extension_bytes <= EXTENSION_BYTES_MAX);
        self.state = State::Extension(next.ok_or(Violation::Chunk)?);
        Ok(())
    }

    fn push_trailers(&mut self, bytes: &[u8], limits: &Limits) -> Result<(usize, bool), Violation> {
        let before = self.trailers.len();
        let room = (limits.head_bytes_max + 1).saturating_sub(before);
        self.trailers.extend_from_slice(bytes.get(..bytes.len().min(room)).unwrap_or_default());
        let Some(end) = end(&self.trailers, before) else {
            check_lines(&self.trailers, before)?;
            return if self.trailers.len() > limits.head_bytes_max {
                Err(Violation::HeadSize)
            } else {
                Ok((bytes.len(), false))
            };
        };
        let section = self.trailers.get(..end).unwrap_or_default();
        fields(section, limits, |name, _| {
            let forbidden = FORBIDDEN.iter().any(|field| name.eq_ignore_ascii_case(field));
            if forbidden { Err(Violation::Trailer) } else { Ok(()) }
        })?;
        Ok((end - before, true))
    }
}

fn expect(byte: u8, wanted: u8) -> Result<(), Violation> {
    if byte == wanted { Ok(()) } else { Err(Violation::Chunk) }
}
