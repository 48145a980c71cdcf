//! What an HTTP/2 client costs: a watcher of frame headers that tells work from noise.
//!
//! The HTTP library reads frames; this reads only their nine-byte headers, in both directions, and keeps one account a
//! connection. Frames that make the server work and bring no request forward cost; responses that the client lets through
//! pay back, and so does time. Who has spent all floods (RFC 9113, section 10.5), and is told so with ENHANCE_YOUR_CALM.
//!
//! A client that is just busy never comes near the limit. What a frame's header alone tells to be wrong is refused by its own
//! error code, which the library does not tell apart: lengths (RFC 9113, section 6), the first frame (3.4), ended streams (5.1).

use std::collections::BTreeMap;
use std::time::Duration;

use super::Violation;
use crate::time::Moment;

/// Bytes of the client's connection preface (RFC 9113, section 3.4).
const PREFACE_BYTES: usize = 24;
/// What a connection may spend at once. A browser that leaves a page with a hundred requests under way spends 500 of them.
const CREDIT_MAX: u32 = 1_024;
/// What time pays back, each second.
const CREDIT_PER_SECOND: u64 = 64;
/// What each frame of a response pays back: a client may open windows (one frame) and measure the line (two) for each.
const CREDIT_PER_ANSWER: u32 = 4;
/// Streams that are followed; the HTTP library refuses more than its own limit, which is lower.
const STREAMS_MAX: usize = 1_024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// END_STREAM, and ACK of SETTINGS and PING.
const FLAG_FIRST: u8 = 1;

/// The header of a frame (RFC 9113, section 4.1).
#[derive(Clone, Copy, Debug)]
struct Frame {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Frame {
    const fn read(bytes: [u8; 9]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = bytes;
        let length = u32::from_be_bytes([0, l0, l1, l2]);
        Self { length, kind, flags, stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]) }
    }

    const fn ends_stream(self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & FLAG_FIRST != 0 || self.kind == RST_STREAM
    }

    /// Has it the length that its type prescribes, if that does?
    const fn has_its_length(self) -> bool {
        match self.kind {
            PRIORITY => self.length == 5,
            RST_STREAM | WINDOW_UPDATE => self.length == 4,
            SETTINGS if self.flags & FLAG_FIRST != 0 => self.length == 0,
            SETTINGS => self.length.is_multiple_of(6),
            PING => self.length == 8,
            _ => true,
        }
    }

    /// What the frame costs when a client sends it.
    const fn cost(self) -> u32 {
        let first = self.flags & FLAG_FIRST != 0;
        match self.kind {
            DATA if self.length > 0 || first => 0,
            SETTINGS | PING if first => 1,
            HEADERS | PRIORITY | WINDOW_UPDATE => 1,
            CONTINUATION if self.length > 0 => 2,
            PING => 2,
            DATA | RST_STREAM | SETTINGS => 4,
            CONTINUATION => 8,
            _ => 2,
        }
    }
}

/// Finds frame headers in one direction of a connection.
#[derive(Debug)]
struct Reader {
    header: [u8; 9],
    have: usize,
    /// Bytes to pass over before the next header.
    left: usize,
}

impl Reader {
    const fn after(left: usize) -> Self {
        Self { header: [0; 9], have: 0, left }
    }

    const fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    /// The next header that the bytes complete.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let passed = self.left.min(bytes.len());
                self.left -= passed;
                *bytes = bytes.get(passed..).unwrap_or_default();
                continue;
            }
            *bytes = rest;
            if let Some(place) = self.header.get_mut(self.have) {
                *place = *first;
            }
            self.have += 1;
            if self.have == self.header.len() {
                let frame = Frame::read(self.header);
                self.have = 0;
                self.left = usize::try_from(frame.length).unwrap_or(usize::MAX);
                return Some(frame);
            }
        }
        None
    }
}

/// The account of one HTTP/2 connection.
#[derive(Debug)]
pub struct Frames {
    received: Reader,
    sent: Reader,
    /// `None` for who may send what it likes.
    credit: Option<u32>,
    /// Was there a frame?
    begun: bool,
    /// Until when time has paid.
    paid: Moment,
    /// Streams that the client has opened and nobody has ended, and whether the client has ended its side.
    open: BTreeMap<u32, bool>,
    newest: u32,
    /// When a frame of a response was last sent.
    moved: Moment,
}

impl Frames {
    /// An account at the start of a connection.
    #[must_use]
    pub const fn new(now: Moment) -> Self {
        Self {
            received: Reader::after(PREFACE_BYTES),
            sent: Reader::after(0),
            credit: Some(CREDIT_MAX),
            begun: false,
            paid: now,
            open: BTreeMap::new(),
            newest: 0,
            moved: now,
        }
    }

    /// The account of a peer, which is believed: many clients share its connection, and each was judged at its own.
    #[must_use]
    pub fn trusted(now: Moment) -> Self {
        Self { credit: None, ..Self::new(now) }
    }

    /// Is it a peer's?
    #[must_use]
    pub const fn is_trusted(&self) -> bool {
        self.credit.is_none()
    }

    /// Bytes came from the client.
    ///
    /// # Errors
    /// [`Violation::Flood`].
    pub fn receive(&mut self, mut bytes: &[u8], now: Moment) -> Result<(), Violation> {
        self.pay(now);
        while let Some(frame) = self.received.next(&mut bytes) {
            self.check(frame)?;
            self.follow(frame, now);
            if let Some(credit) = &mut self.credit {
                *credit = credit.checked_sub(frame.cost()).ok_or(Violation::Flood)?;
            }
        }
        Ok(())
    }

    fn check(&mut self, frame: Frame) -> Result<(), Violation> {
        let first = !std::mem::replace(&mut self.begun, true);
        if first && (frame.kind != SETTINGS || frame.flags & FLAG_FIRST != 0) {
            return Err(Violation::Preface);
        }
        if !frame.has_its_length() {
            return Err(Violation::FrameSize);
        }
        let ended = self.open.get(&frame.stream) == Some(&true);
        if ended && matches!(frame.kind, DATA | HEADERS) { Err(Violation::StreamClosed) } else { Ok(()) }
    }

    fn follow(&mut self, frame: Frame, now: Moment) {
        match frame.kind {
            HEADERS if frame.stream > self.newest => {
                self.newest = frame.stream;
                if self.open.is_empty() {
                    self.moved = now;
                }
                if self.open.len() < STREAMS_MAX {
                    self.open.insert(frame.stream, frame.ends_stream());
                }
            }
            RST_STREAM => _ = self.open.remove(&frame.stream),
            DATA | HEADERS if frame.ends_stream() => {
                self.open.get_mut(&frame.stream).into_iter().for_each(|ended| *ended = true);
            }
            _ => {}
        }
    }

    /// Bytes went to the client.
    pub fn send(&mut self, mut bytes: &[u8], now: Moment) {
        while let Some(frame) = self.sent.next(&mut bytes) {
            if matches!(frame.kind, DATA | HEADERS) {
                self.earn(CREDIT_PER_ANSWER);
                self.moved = now;
            }
            if frame.ends_stream() {
                self.open.remove(&frame.stream);
            }
        }
    }

    /// Streams whose response has not ended on the wire.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// How long no frame of a response has gone to the client.
    #[must_use]
    pub const fn still(&self, now: Moment) -> Duration {
        now.since(self.moved)
    }

    /// The frame that says goodbye (RFC 9113, section 6.8), where one may be written now: between two frames.
    #[must_use]
    pub fn goodbye(&self, violation: Violation) -> Option<[u8; 17]> {
        // RFC 9113, section 7.
        let code = match violation {
            Violation::Flood => 0x0b,
            Violation::FrameSize => 0x06,
            Violation::StreamClosed => 0x05,
            _ => 0x01,
        };
        let [s0, s1, s2, s3] = self.newest.to_be_bytes();
        self.sent.is_between().then_some([0, 0, 8, 7, 0, 0, 0, 0, 0, s0, s1, s2, s3, 0, 0, 0, code])
    }

    fn pay(&mut self, now: Moment) {
        let due = u64::try_from(now.since(self.paid).as_millis()).unwrap_or(u64::MAX);
        let due = due.saturating_mul(CREDIT_PER_SECOND) / 1_000;
        if due > 0 {
            self.earn(u32::try_from(due).unwrap_or(u32::MAX));
            self.paid = now;
        }
    }

    fn earn(&mut self, more: u32) {
        self.credit = self.credit.map(|credit| credit.saturating_add(more).min(CREDIT_MAX));
    }
}
