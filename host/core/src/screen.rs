//! A strict reader of HTTP/1 framing that sees every byte of a client before the HTTP library does.
//!
//! Request smuggling lives where two readers disagree about where a message ends. The screen accepts only what every
//! reader must understand alike, and follows message boundaries by itself: heads, lengths, chunks, trailers. It copies
//! nothing but the head that it is reading, and knows no sockets. What it refuses is answered with a status and the
//! connection is closed.
//!
//! Sources: RFC 9112 (HTTP/1.1), sections 2.2, 3, 5, 6, 7 and 11.2; RFC 9110, sections 4.2, 5.5, 5.6.2, 6.5.1 and 7.2.

mod chunk;
mod frames;
mod head;
mod response;
#[cfg(test)]
mod tests;

pub use frames::Frames;
pub use head::{Host, check_expectation, check_host, check_path};
pub use response::{Asked, Responses};

use self::chunk::Chunks;
use self::head::Head;

/// How much a client may send before anything is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Header fields in one head or trailer section.
    pub fields_max: usize,
    /// Bytes of one head or trailer section.
    pub head_bytes_max: usize,
    /// Bytes of the request target.
    pub target_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { fields_max: 100, head_bytes_max: 64 * 1024, target_bytes_max: 16 * 1024 }
    }
}

/// What is wrong with the bytes. Each is final: the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    /// CR without LF, LF without CR, or a line that begins with white space.
    #[error("a line of the head does not end in CR LF, or is folded")]
    Line,
    /// Chunk size, extension or end of chunk.
    #[error("the chunked coding is broken")]
    Chunk,
    /// Something else than 100-continue is expected.
    #[error("nothing but 100-continue can be expected here")]
    Expectation,
    /// A field name that is no token, white space before the colon, or control bytes in a value.
    #[error("a header field is malformed")]
    Field,
    /// Frames of HTTP/2 that make work and bring no request forward, more than a connection may send.
    #[error("there are too many frames that bring no request forward")]
    Flood,
    /// A frame of HTTP/2 has not the length of its type.
    #[error("a frame's length is not that of its type")]
    FrameSize,
    /// Host is missing, repeated, malformed, or differs from the target's authority.
    #[error("the Host field is missing, repeated, malformed, or differs from the target")]
    Host,
    /// Content-Length is no number, repeated, or stands beside Transfer-Encoding.
    #[error("the length of the content is ambiguous")]
    Length,
    /// An upstream sent too many interim responses.
    #[error("there are too many interim responses")]
    Interim,
    /// CONNECT and TRACE are not served.
    #[error("CONNECT and TRACE are not served here")]
    Method,
    /// An HTTP/2 connection does not begin with SETTINGS.
    #[error("the connection does not begin with SETTINGS")]
    Preface,
    /// The method is no token.
    #[error("the request line is malformed")]
    RequestLine,
    /// The first line of a response has not the form of one.
    #[error("the status line is malformed")]
    StatusLine,
    /// A frame of HTTP/2 on a stream that its client has ended.
    #[error("a frame came after the end of its stream")]
    StreamClosed,
    /// The request target is in no form that the method allows, or has bytes that no URI has.
    #[error("the request target is malformed")]
    Target,
    /// The request target is longer than the limit.
    #[error("the request target is too long")]
    TargetSize,
    /// Too many fields or too many bytes.
    #[error("the header fields are too large")]
    HeadSize,
    /// A field that a trailer section may not carry.
    #[error("a trailer field is forbidden there")]
    Trailer,
    /// A transfer coding other than exactly `chunked`.
    #[error("the transfer coding is not supported")]
    TransferCoding,
    /// An upstream sent what nobody asked for: bytes after a response, or a switch of protocols.
    #[error("nobody asked for what came")]
    Unasked,
    /// Not HTTP/1.0 or HTTP/1.1.
    #[error("the HTTP version is not supported")]
    Version,
}

impl Violation {
    /// The status to answer with (RFC 9110, section 15).
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Expectation => 417,
            Self::Interim | Self::StatusLine | Self::Unasked => 502,
            Self::Method => 405,
            Self::HeadSize => 431,
            Self::TargetSize => 414,
            Self::TransferCoding => 501,
            Self::Version => 505,
            Self::Line
            | Self::Chunk
            | Self::Field
            | Self::Flood
            | Self::FrameSize
            | Self::Host
            | Self::Length
            | Self::Preface
            | Self::RequestLine
            | Self::StreamClosed
            | Self::Target
            | Self::Trailer => 400,
        }
    }

    /// A word for metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Line => "line",
            Self::Chunk => "chunk",
            Self::Expectation => "expectation",
            Self::Interim => "interim",
            Self::Method => "method",
            Self::StatusLine => "status-line",
            Self::Unasked => "unasked",
            Self::Field => "field",
            Self::Flood => "flood",
            Self::FrameSize => "frame-size",
            Self::Host => "host",
            Self::Length => "length",
            Self::Preface => "preface",
            Self::RequestLine => "request-line",
            Self::StreamClosed => "stream-closed",
            Self::Target => "target",
            Self::TargetSize => "target-size",
            Self::HeadSize => "head-size",
            Self::Trailer => "trailer",
            Self::TransferCoding => "transfer-coding",
            Self::Version => "version",
        }
    }
}

/// How the content of a message is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Chunked,
    Length(u64),
}

/// Where the reader stands in the stream.
#[derive(Debug)]
enum State {
    /// In a head; the bytes of it so far are in `Screen::kept`.
    Head,
    /// In a content of known length, with so many bytes to come.
    Length(u64),
    Chunked(Chunks),
    /// After a complete request that asks for another protocol: nothing may be read before the answer is known.
    AwaitUpgrade,
    /// After a protocol switch: bytes mean nothing to HTTP.
    Opaque,
}

/// The reader of one connection.
#[derive(Debug)]
pub struct Screen {
    limits: Limits,
    state: State,
    /// The beginning of a head that did not arrive in one piece.
    kept: Vec<u8>,
    /// Does the request whose content is being read ask for an upgrade?
    upgrade: bool,
    /// Was an empty line read since the last request?
    blank: bool,
    requests: u64,
    /// Bytes of the last push up to the end of the last message that ended in it.
    whole: usize,
}

impl Screen {
    /// A reader at the start of a connection.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Head,
            kept: Vec::new(),
            upgrade: false,
            blank: false,
            requests: 0,
            whole: 0,
        }
    }

    /// Reads more bytes. All of them are good, or the connection is over.
    ///
    /// # Errors
    /// A [`Violation`]. Which one of several may depend on how the bytes arrive, whether there is one does not.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        let pushed = bytes.len();
        self.whole = 0;
        while !bytes.is_empty() {
            bytes = match &mut self.state {
                State::Opaque => return Ok(()),
                // The I/O layer pauses here. What was read in one piece with the request came before the answer
                // could be known, so it is read as what it would be without an upgrade.
                State::AwaitUpgrade => {
                    self.upgrade_declined();
                    bytes
                }
                State::Head => self.read_head(bytes)?,
                State::Length(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= taken as u64;
                    if *left == 0 {
                        self.end_message();
                    }
                    bytes.get(taken..).unwrap_or_default()
                }
                State::Chunked(chunks) => {
                    let (taken, done) = chunks.push(bytes, &self.limits)?;
                    if done {
                        self.end_message();
                    }
                    bytes.get(taken..).unwrap_or_default()
                }
            };
            if matches!(self.state, State::AwaitUpgrade | State::Head) && self.kept.is_empty() {
                self.whole = pushed - bytes.len();
            }
        }
        Ok(())
    }

    /// How many bytes of the last push stand before what it refused: they end with the end of a message, and are good.
    #[must_use]
    pub const fn whole(&self) -> usize {
        self.whole
    }

    /// Has a request for another protocol been read whole? Then reading must pause until one of
    /// [`Screen::upgrade_accepted`] and [`Screen::upgrade_declined`] is called.
    #[must_use]
    pub const fn awaits_upgrade(&self) -> bool {
        matches!(self.state, State::AwaitUpgrade)
    }

    /// The protocol was switched: bytes pass unread from here.
    pub fn upgrade_accepted(&mut self) {
        self.state = State::Opaque;
    }

    /// The protocol stays: what follows is the next request. Without effect where no upgrade was asked for.
    pub fn upgrade_declined(&mut self) {
        if self.awaits_upgrade() {
            self.state = State::Head;
        }
    }

    /// Is it between two messages, with nothing half read?
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Head) && self.kept.is_empty()
    }

    /// Has a head begun to arrive that is not whole yet?
    #[must_use]
    pub const fn is_in_head(&self) -> bool {
        matches!(self.state, State::Head) && !self.kept.is_empty()
    }

    /// Is the content of a request being read?
    #[must_use]
    pub const fn is_in_content(&self) -> bool {
        matches!(self.state, State::Chunked(_) | State::Length(_))
    }

    /// How many heads were accepted so far.
    #[must_use]
    pub const fn requests(&self) -> u64 {
        self.requests
    }

    fn end_message(&mut self) {
        self.state = if self.upgrade { State::AwaitUpgrade } else { State::Head };
    }

    fn read_head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Violation> {
        let before = self.kept.len();
        let whole = if before == 0 {
            bytes
        } else {
            let room = (self.limits.head_bytes_max + 1).saturating_sub(before);
            self.kept.extend_from_slice(bytes.get(..bytes.len().min(room)).unwrap_or_default());
            &self.kept
        };
        let Some(end) = head::end(whole, before) else {
            head::check_beginning(whole, before, &self.limits)?;
            if before == 0 {
                self.kept.extend_from_slice(bytes);
            }
            return if self.kept.len() > self.limits.head_bytes_max {
                Err(Violation::HeadSize)
            } else {
                Ok(&[])
            };
        };
        let head = whole.get(..end).unwrap_or_default();
        let rest = bytes.get(end.saturating_sub(before)..).unwrap_or_default();
        if head == b"\r\n" {
            // One empty line before a request is forgiven (RFC 9112, section 2.2), a row of them is not.
            if std::mem::replace(&mut self.blank, true) {
                return Err(Violation::Line);
            }
            self.kept.clear();
            return Ok(rest);
        }
        let head = Head::parse(head, &self.limits)?;
        self.kept.clear();
        self.blank = false;
        self.requests += 1;
        self.upgrade = head.upgrade;
        match head.framing {
            Framing::Length(0) => self.end_message(),
            Framing::Length(length) => self.state = State::Length(length),
            Framing::Chunked => self.state = State::Chunked(Chunks::default()),
        }
        Ok(rest)
    }
}

/// Reads a whole stream at once: how many requests began in it.
///
/// # Errors
/// The first [`Violation`].
pub fn check_whole(bytes: &[u8], limits: Limits) -> Result<u64, Violation> {
    let mut screen = Screen::new(limits);
    screen.push(bytes)?;
    Ok(screen.requests())
}
