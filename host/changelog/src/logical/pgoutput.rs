//! What a slot sends: frames of the streaming replication protocol, and within them messages of `pgoutput`, version 1, of which all but
//! those that triggers emitted are passed over. Parsing alone; no byte of it is trusted.
//!
//! Formats: PostgreSQL's documentation, "Streaming Replication Protocol" and "Logical Replication Message Formats".

use std::str::from_utf8;

/// The prefix of what triggers emit.
pub(crate) const PREFIX: &str = "portolan";

/// A place in the write-ahead log, in bytes from its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lsn(pub(crate) u64);

/// What the server sends while it streams.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// A message of the slot's plugin.
    Data(&'a [u8]),
    /// All up to `end` has been sent. It may want to hear back.
    Alive { end: Lsn, wants_reply: bool },
}

/// What of the plugin's messages matters.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded<'a> {
    /// A transaction has been told whole; the next begins after `end`.
    Commit { end: Lsn },
    /// Something was emitted within a transaction.
    Emitted { prefix: &'a [u8], content: &'a [u8] },
    /// Anything else.
    Other,
}

/// What a trigger or a beat emitted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    /// All transactions below this had ended.
    pub(crate) horizon: u64,
    /// When it was emitted, in microseconds of the database's clock.
    pub(crate) at_us: u64,
    /// The transaction that wrote a record, and the record as an array of JSON; a beat has none.
    pub(crate) record: Option<(u64, &'a str)>,
}

/// Bytes that are not what the server says that it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the slot sends what is no {0}: it is read with `pgoutput`, by PostgreSQL 15 or later")]
pub(crate) struct Malformed(&'static str);

impl std::fmt::Display for Lsn {
    /// As PostgreSQL writes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl<'a> Frame<'a> {
    /// Reads one `CopyData`.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let frame = Malformed("frame of replication");
        let (kind, mut rest) = bytes.split_first().ok_or(frame)?;
        match kind {
            b'w' => {
                // Where it begins and ends, and when it was sent.
                take::<24>(&mut rest).ok_or(frame)?;
                Ok(Self::Data(rest))
            }
            b'k' => {
                let end = number(&mut rest).ok_or(frame)?;
                take::<8>(&mut rest).ok_or(frame)?;
                Ok(Self::Alive { end: Lsn(end), wants_reply: rest.first() == Some(&1) })
            }
            _ => Err(frame),
        }
    }
}

impl<'a> Decoded<'a> {
    /// Reads one message of the plugin.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (kind, mut rest) = bytes.split_first().ok_or(Malformed("message"))?;
        match kind {
            b'C' => {
                // Flags, and where the commit itself lies.
                take::<9>(&mut rest).ok_or(Malformed("commit"))?;
                let end = number(&mut rest).ok_or(Malformed("commit"))?;
                Ok(Self::Commit { end: Lsn(end) })
            }
            b'M' => {
                let message = Malformed("emitted message");
                let [flags] = take::<1>(&mut rest).ok_or(message)?;
                number(&mut rest).ok_or(message)?;
                let end = rest.iter().position(|byte| *byte == 0).ok_or(message)?;
                let (prefix, mut rest) = rest.split_at_checked(end).ok_or(message)?;
                take::<1>(&mut rest).ok_or(message)?;
                let length = u32::from_be_bytes(take(&mut rest).ok_or(message)?);
                if usize::try_from(length).ok() != Some(rest.len()) {
                    return Err(message);
                }
                // What is emitted outside of a transaction may be of one that was rolled back.
                Ok(if flags & 1 == 1 { Self::Emitted { prefix, content: rest } } else { Self::Other })
            }
            _ => Ok(Self::Other),
        }
    }
}

impl<'a> Message<'a> {
    /// Reads what was emitted, if it begins with this word: anybody may emit under any prefix.
    pub(crate) fn parse(prefix: &[u8], content: &'a [u8], word: &str) -> Result<Option<Self>, Malformed> {
        let emitted = Malformed("record of portolan's");
        let signed = content.strip_prefix(word.as_bytes()).and_then(|rest| rest.strip_prefix(b" "));
        let Some(rest) = signed.filter(|_| prefix == PREFIX.as_bytes() && !word.is_empty()) else {
            return Ok(None);
        };
        let text = from_utf8(rest).map_err(|_| emitted)?;
        let mut parts = text.splitn(4, ' ');
        let mut next = || parts.next()?.parse().ok();
        let (Some(horizon), Some(at_us)) = (next(), next()) else { return Err(emitted) };
        let record = match (parts.next(), parts.next()) {
            (None, _) => None,
            (Some(transaction), Some(record)) => Some((transaction.parse().map_err(|_| emitted)?, record)),
            (Some(_), None) => return Err(emitted),
        };
        Ok(Some(Self { horizon, at_us, record }))
    }
}

/// What a reader says to the server: up to where it has all for good. Its clock is nobody's business, and it asks for no answer.
pub(crate) fn status(flushed: Lsn) -> Vec<u8> {
    let place = flushed.0.to_be_bytes();
    [[b'r'].as_slice(), &place, &place, &place, &[0; 9]].concat()
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    take(rest).map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn emitted(flags: u8, prefix: &str, content: &str) -> Vec<u8> {
        let mut bytes = vec![b'M', flags];
        bytes.extend(7_u64.to_be_bytes());
        bytes.extend(prefix.bytes());
        bytes.push(0);
        bytes.extend(u32::try_from(content.len()).unwrap().to_be_bytes());
        bytes.extend(content.bytes());
        bytes
    }

    #[test]
    fn what_triggers_emit_is_read() {
        let bytes = emitted(1, PREFIX, "word 5 1000 6 [1, 6, \"a b\"]");
        let Ok(Decoded::Emitted { prefix, content }) = Decoded::parse(&bytes) else { panic!() };
        let read = Message::parse(prefix, content, "word").unwrap().unwrap();
        assert_eq!(read, Message { horizon: 5, at_us: 1000, record: Some((6, "[1, 6, \"a b\"]")) });
        let beat = Message::parse(PREFIX.as_bytes(), b"word 5 1000", "word").unwrap().unwrap();
        assert_eq!(beat, Message { horizon: 5, at_us: 1000, record: None });
    }

    #[test]
    fn what_others_emit_is_no_record() {
        for (prefix, content, word) in [
            ("portolan", "other 5 1000 6 []", "word"),
            ("portolan", "word", "word"),
            ("portolan", "words 5 1000 6 []", "word"),
            ("portolan", " 5 1000 6 []", ""),
            ("another", "word 5 1000 6 []", "word"),
        ] {
            assert_eq!(Message::parse(prefix.as_bytes(), content.as_bytes(), word), Ok(None), "{content}");
        }
        // Outside of a transaction nothing is told.
        assert_eq!(Decoded::parse(&emitted(0, PREFIX, "word 5 1000 6 []")), Ok(Decoded::Other));
        // Whoever has the word writes it as it must be.
        assert!(Message::parse(PREFIX.as_bytes(), b"word 5 soon", "word").is_err());
        assert!(Message::parse(PREFIX.as_bytes(), b"word 5 1000 6", "word").is_err());
    }

    #[test]
    fn frames_and_commits_are_read() {
        let mut alive = vec![b'k'];
        alive.extend(9_u64.to_be_bytes());
        alive.extend([0; 8]);
        alive.push(1);
        assert_eq!(Frame::parse(&alive), Ok(Frame::Alive { end: Lsn(9), wants_reply: true }));
        let mut commit = vec![b'C', 0];
        for number in [1_u64, 2, 3] {
            commit.extend(number.to_be_bytes());
        }
        assert_eq!(Decoded::parse(&commit), Ok(Decoded::Commit { end: Lsn(2) }));
        assert_eq!(Lsn(0x1_0000_00ff).to_string(), "1/FF");
        assert_eq!((status(Lsn(1)).len(), status(Lsn(1))[8]), (34, 1));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let signed = bytes.starts_with(b"w ");
            prop_assert!(signed || matches!(Message::parse(PREFIX.as_bytes(), &bytes, "w"), Ok(None)));
            prop_assert!(Frame::parse(&bytes).is_err() || matches!(bytes.first(), Some(b'w' | b'k')));
            prop_assert!(Decoded::parse(&bytes).is_ok() || matches!(bytes.first(), None | Some(b'C' | b'M')));
        }
    }
}
