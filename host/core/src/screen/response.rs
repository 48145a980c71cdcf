//! The same strictness for what upstreams answer: a hostile one can neither split its answer in two nor hide where it ends.
//!
//! The reader is told of each request before it is sent, because a response's framing depends on what was asked (RFC 9112,
//! section 6.3). What comes without a request belongs to nobody (RFC 9112, section 9.2).

use super::chunk::Chunks;
use super::head::{check_coding, check_lines, decimal, end, fields, line};
use super::{Limits, Violation};

/// Interim responses before a final one. Servers that work long tell so with a few; endless ones hold a connection for nothing.
const INTERIM_MAX: u8 = 32;

/// What a response answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A request whose response has no content whatever its fields say: HEAD.
    Head,
    /// Any other request.
    Plain,
    /// A request to switch to another protocol.
    Upgrade,
}

/// Where the reader stands in the stream.
#[derive(Debug)]
enum State {
    Chunked(Chunks),
    /// In a head; the bytes of it so far are in `Responses::kept`.
    Head(Asked),
    /// Between two responses: nothing may come.
    Idle,
    Length(u64),
    /// After a protocol switch, or in a content that the end of the connection ends.
    Opaque,
}

/// How a response is framed.
enum Framed {
    Chunked,
    /// Ended by the end of the connection.
    Close,
    Interim,
    Length(u64),
    Switched,
}

/// The reader of one connection to an upstream.
#[derive(Debug)]
pub struct Responses {
    limits: Limits,
    state: State,
    kept: Vec<u8>,
    interim: u8,
}

impl Responses {
    /// A reader at the start of a connection.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self { limits, state: State::Idle, kept: Vec::new(), interim: 0 }
    }

    /// Is it between two responses?
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// A request was sent: a response may come. Without effect while another one is under way.
    pub fn begin(&mut self, asked: Asked) {
        if self.is_idle() {
            self.state = State::Head(asked);
            self.interim = 0;
        }
    }

    /// Reads more bytes: how many of them belong to what was asked for. What follows those belongs to nobody.
    ///
    /// # Errors
    /// A [`Violation`]: the connection is over, and so is the response.
    pub fn push(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            at += match &mut self.state {
                State::Idle => break,
                State::Opaque => rest.len(),
                State::Head(asked) => {
                    let asked = *asked;
                    self.read_head(rest, asked)?
                }
                State::Length(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= taken as u64;
                    if *left == 0 {
                        self.state = State::Idle;
                    }
                    taken
                }
                State::Chunked(chunks) => {
                    let (taken, done) = chunks.push(rest, &self.limits)?;
                    if done {
                        self.state = State::Idle;
                    }
                    taken
                }
            };
        }
        Ok(at)
    }

    fn read_head(&mut self, bytes: &[u8], asked: Asked) -> Result<usize, Violation> {
        let before = self.kept.len();
        let room = (self.limits.head_bytes_max + 1).saturating_sub(before);
        self.kept.extend_from_slice(bytes.get(..bytes.len().min(room)).unwrap_or_default());
        // What cannot become a status line is refused before a buffer is full of it.
        let begun = self.kept.len().min(STATUS_LINE_START.len());
        if self.kept.get(..begun) != STATUS_LINE_START.get(..begun) {
            return Err(Violation::StatusLine);
        }
        let Some(end) = end(&self.kept, before) else {
            check_lines(&self.kept, before)?;
            let full = self.kept.len() > self.limits.head_bytes_max;
            return if full { Err(Violation::HeadSize) } else { Ok(bytes.len()) };
        };
        if end > self.limits.head_bytes_max {
            return Err(Violation::HeadSize);
        }
        let framed = framed(self.kept.get(..end).unwrap_or_default(), &self.limits, asked)?;
        self.kept.clear();
        self.state = match framed {
            Framed::Chunked => State::Chunked(Chunks::default()),
            Framed::Close | Framed::Switched => State::Opaque,
            Framed::Interim => {
                self.interim += 1;
                if self.interim > INTERIM_MAX {
                    return Err(Violation::Interim);
                }
                State::Head(asked)
            }
            Framed::Length(0) => State::Idle,
            Framed::Length(length) => State::Length(length),
        };
        Ok(end - before)
    }
}

const STATUS_LINE_START: &[u8] = b"HTTP/";

/// Reads a whole head (RFC 9112, sections 4, 5 and 6.3).
fn framed(head: &[u8], limits: &Limits, asked: Asked) -> Result<Framed, Violation> {
    let (status_line, rest) = line(head)?;
    let (minor, status) = status(status_line)?;
    let (mut length, mut chunked) = (None, false);
    fields(rest, limits, |name, value| {
        if name.eq_ignore_ascii_case(b"content-length") {
            let bytes = decimal(value).ok_or(Violation::Length)?;
            return if length.replace(bytes).is_some() { Err(Violation::Length) } else { Ok(()) };
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if minor == 0 || chunked {
                return Err(Violation::Length);
            }
            chunked = true;
            return check_coding(value);
        }
        Ok(())
    })?;
    if chunked && length.is_some() {
        return Err(Violation::Length);
    }
    Ok(match status {
        101 if asked == Asked::Upgrade => Framed::Switched,
        101 => return Err(Violation::Unasked),
        100..=199 => Framed::Interim,
        204 | 304 => Framed::Length(0),
        _ if asked == Asked::Head => Framed::Length(0),
        _ if chunked => Framed::Chunked,
        _ => length.map_or(Framed::Close, Framed::Length),
    })
}

/// Minor version and status of a status line. The space before an absent reason may be absent as well.
fn status(text: &[u8]) -> Result<(u8, u16), Violation> {
    let (version, rest) = text.split_at_checked(8).ok_or(Violation::StatusLine)?;
    let minor = match version {
        b"HTTP/1.0" => 0,
        b"HTTP/1.1" => 1,
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => return Err(Violation::Version),
        _ => return Err(Violation::StatusLine),
    };
    let [b' ', digits @ ..] = rest else { return Err(Violation::StatusLine) };
    let (digits, reason) = digits.split_at_checked(3).ok_or(Violation::StatusLine)?;
    let good = reason.iter().all(|&byte| byte == b'\t' || byte >= b' ' && byte != 0x7f);
    if !good || !matches!(reason.first(), None | Some(b' ')) {
        return Err(Violation::StatusLine);
    }
    match decimal(digits) {
        Some(status @ 100..=599) => Ok((minor, u16::try_from(status).map_err(|_| Violation::StatusLine)?)),
        _ => Err(Violation::StatusLine),
    }
}
