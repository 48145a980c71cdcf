//! The form of a segment: a head line, then frames of a mark, a length, a checksum and that many bytes.
//!
//! A frame whose checksum does not fit is passed over, and the next mark is looked for: a damaged disk costs what it damaged.
//! What a killed process left half-written at the end is no damage, only less.

use crate::defaults::ENTRY_BYTES_MAX;

/// What every segment begins with. The number is the form's version: newer programs read older ones.
pub(crate) const HEAD: &[u8] = b"portolan-recording 1\n";
/// No UTF-8 text holds this byte, so no entry does.
const MARK_FIRST: u8 = 0xf7;
/// What every frame begins with.
const MARK: [u8; 4] = [MARK_FIRST, b'P', b'R', 0xff];
const CHECK_BYTES: usize = 8;
const PREFIX_BYTES: usize = MARK.len() + 4 + CHECK_BYTES;

fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    check.iter_mut().zip(blake3::hash(bytes).as_bytes()).for_each(|(to, from)| *to = *from);
    check
}

/// Adds a frame. Entries that are too large are left out: the caller knows from `false`.
pub(crate) fn write(out: &mut Vec<u8>, entry: &[u8]) -> bool {
    let Some(length) = u32::try_from(entry.len()).ok().filter(|_| entry.len() <= ENTRY_BYTES_MAX) else {
        return false;
    };
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&check(entry));
    out.extend_from_slice(entry);
    true
}

/// The entries of a segment.
#[derive(Clone, Debug)]
pub(crate) struct Frames<'b> {
    /// Do more bytes come after these?
    more: bool,
    rest: &'b [u8],
    /// Bytes that were passed over because they are damaged.
    pub(crate) damaged: u64,
    /// Does the segment end within a frame?
    pub(crate) torn: bool,
}

/// What bytes begin with.
enum Front<'b> {
    Damaged,
    /// A frame's entry, and what comes after.
    Whole {
        entry: &'b [u8],
        rest: &'b [u8],
    },
}

impl<'b> Frames<'b> {
    /// Frames of which more come after these bytes.
    pub(crate) const fn more(bytes: &'b [u8]) -> Self {
        Self { more: true, rest: bytes, damaged: 0, torn: false }
    }

    /// Frames up to the end.
    pub(crate) const fn last(bytes: &'b [u8]) -> Self {
        Self { more: false, rest: bytes, damaged: 0, torn: false }
    }

    /// What was not read.
    pub(crate) const fn rest(&self) -> &'b [u8] {
        self.rest
    }

    /// Goes on at the next mark behind the first byte.
    fn skip(&mut self) {
        let next = self.rest.iter().skip(1).position(|byte| *byte == MARK_FIRST);
        let skipped = next.map_or(self.rest.len(), |at| at + 1);
        self.damaged += skipped as u64;
        self.rest = self.rest.get(skipped..).unwrap_or_default();
    }

    /// What stands at the front; none when the bytes end within it.
    fn front(&self) -> Option<Front<'b>> {
        let (prefix, rest) = self.rest.split_at_checked(PREFIX_BYTES)?;
        let (mark, prefix) = prefix.split_at_checked(MARK.len())?;
        let (length, sum) = prefix.split_at_checked(4)?;
        let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
        if mark != MARK || length > ENTRY_BYTES_MAX {
            return Some(Front::Damaged);
        }
        let (entry, rest) = rest.split_at_checked(length)?;
        // Cheaper than its sum: no file makes the reader hash the same bytes again and again.
        if entry.contains(&MARK_FIRST) {
            return Some(Front::Damaged);
        }
        Some(if check(entry) == sum { Front::Whole { entry, rest } } else { Front::Damaged })
    }
}

impl<'b> Iterator for Frames<'b> {
    type Item = &'b [u8];

    fn next(&mut self) -> Option<&'b [u8]> {
        while !self.rest.is_empty() {
            match self.front() {
                Some(Front::Whole { entry, rest }) => {
                    self.rest = rest;
                    return Some(entry);
                }
                Some(Front::Damaged) => self.skip(),
                None if self.more => return None,
                // Perhaps the end was torn off; perhaps a damaged length only says so, and good frames follow.
                None => {
                    let damaged = self.damaged;
                    let length = self.rest.len();
                    self.skip();
                    if self.rest.is_empty() {
                        self.damaged = damaged;
                        self.torn = length > 0;
                    }
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn segment(entries: &[&str]) -> Vec<u8> {
        let mut bytes = HEAD.to_vec();
        entries.iter().for_each(|entry| assert!(write(&mut bytes, entry.as_bytes())));
        bytes
    }

    fn read(bytes: &[u8]) -> (Vec<String>, u64, bool) {
        let mut frames = Frames::last(bytes.strip_prefix(HEAD).unwrap());
        let entries = frames.by_ref().map(|entry| String::from_utf8_lossy(entry).into_owned()).collect();
        (entries, frames.damaged, frames.torn)
    }

    #[test]
    fn what_was_written_is_read() {
        assert_eq!(
            read(&segment(&["a", "", "bcd"])),
            (vec!["a".into(), String::new(), "bcd".into()], 0, false)
        );
    }

    #[test]
    fn a_torn_end_costs_the_last_entry_only() {
        let whole = segment(&["first", "second"]);
        let first = segment(&["first"]).len();
        for end in first + 1..whole.len() {
            assert_eq!(read(&whole[..end]), (vec!["first".into()], 0, true), "cut at {end}");
        }
    }

    #[test]
    fn damage_costs_what_it_damaged() {
        let whole = segment(&["first", "second", "third"]);
        let (from, to) = (segment(&["first"]).len(), segment(&["first", "second"]).len());
        for at in from..to {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x5a;
            let (entries, damaged, _) = read(&bytes);
            assert_eq!(entries, ["first", "third"], "damaged at {at}");
            assert!(damaged > 0);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_end(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut all = HEAD.to_vec();
            all.extend(bytes);
            let (_, damaged, _) = read(&all);
            prop_assert!(damaged <= all.len() as u64);
        }
    }
}
