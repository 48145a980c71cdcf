//! Bytes for whoever reads bytes from outside. Fuzzing finds them by coverage, for as long as it runs; a test tries some by chance, in every run.

use crate::balance::splitmix;
use crate::log::Position;
use crate::proxy_protocol;
use crate::screen::{Asked, Frames, Limits, Responses, Screen, check_host, check_whole};
use crate::time::Moment;
use crate::token::{TOKEN_BYTES_MAX, TOKEN_SHARDS_MAX, Token};

/// Bytes that mean something to some reader.
const TELLING: &[u8] = b"\0\x01\x7f\x80\xff\r\n\t \"'\\{}[](),:;.=#%&/?@-+_0123456789aeEnfxX";
/// Changes to a seed at once.
const CHANGES_MAX: u64 = 6;
/// Bytes of what comes of a seed.
const BYTES_MAX: usize = 8_192;

/// Calls a reader with each seed, and with so many bytes that were made of them.
///
/// # Panics
/// When the reader does; the bytes are printed.
pub fn mutated(seeds: &[&[u8]], rounds: u64, mut read: impl FnMut(&[u8])) {
    for seed in seeds {
        told(seed, &mut read);
    }
    for round in 0..rounds {
        let mut dice = Dice(splitmix(round));
        let mut bytes = dice.pick(seeds).map_or_else(Vec::new, |seed| seed.to_vec());
        for _ in 0..=dice.below(CHANGES_MAX) {
            dice.change(&mut bytes, seeds);
        }
        bytes.truncate(BYTES_MAX);
        told(&bytes, &mut read);
    }
}

/// The framing screen never panics, and takes or refuses bytes however they are cut into reads.
///
/// # Panics
/// When it does not.
pub fn screen(bytes: &[u8]) {
    let limits = Limits::default();
    let whole = check_whole(bytes, limits);
    let mut cut = Screen::new(limits);
    // The first byte also says how long the pieces are.
    let piece = usize::from(bytes.first().copied().unwrap_or(1) % 7) + 1;
    let in_pieces = bytes.chunks(piece).try_for_each(|piece| cut.push(piece));
    // Which of several violations is named first may differ; whether there is one may not.
    assert_eq!(whole.is_ok(), in_pieces.is_ok(), "{whole:?} at once, {in_pieces:?} in pieces of {piece}");
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _host = check_host(text);
    }
}

/// The reader of PROXY headers never panics, never reads too far, and judges bytes alike however they come.
///
/// # Panics
/// When it does.
pub fn proxy_protocol(bytes: &[u8]) {
    let whole = proxy_protocol::read(bytes);
    let prefixes = (0..=bytes.len()).filter_map(|length| bytes.get(..length));
    let first = prefixes.map(proxy_protocol::read).find(|read| *read != Ok(None));
    match whole {
        Ok(Some((_, length))) => {
            assert!(length <= bytes.len(), "{length} bytes of {bytes:?}");
            assert_eq!(first, Some(whole), "{bytes:?} in pieces");
        }
        Ok(None) => assert_eq!(first, None, "{bytes:?} in pieces"),
        Err(_) => assert!(first.is_some_and(|first| first.is_err()), "{bytes:?} in pieces"),
    }
}

/// The screen of responses never panics, and takes or refuses bytes however they are cut into reads; so does the account of
/// HTTP/2 frames.
///
/// # Panics
/// When they do not.
pub fn responses(bytes: &[u8]) {
    let Some((&first, bytes)) = bytes.split_first() else { return };
    let asked = [Asked::Plain, Asked::Head, Asked::Upgrade];
    let asked = *asked.get(usize::from(first) % asked.len()).unwrap_or(&Asked::Plain);
    let read = |piece: usize| {
        let mut screen = Responses::new(Limits::default());
        screen.begin(asked);
        let mut taken = 0;
        for piece in bytes.chunks(piece) {
            let good = screen.push(piece).ok()?;
            taken += good;
            if good < piece.len() {
                break;
            }
        }
        Some(taken)
    };
    let piece = usize::from(first % 7) + 1;
    assert_eq!(read(bytes.len().max(1)), read(piece), "{bytes:?} at once and in pieces of {piece}");
    let count = |piece: usize| {
        let mut frames = Frames::new(Moment(0));
        let taken = bytes.chunks(piece).try_for_each(|piece| frames.receive(piece, Moment(0)));
        (taken.is_ok(), frames.open())
    };
    let (whole, pieces) = (count(bytes.len().max(1)), count(piece));
    assert_eq!(whole, pieces, "{bytes:?} as frames, at once and in pieces of {piece}");
}

/// Tokens of clients never panic, are bounded, and one text only stands for each.
///
/// # Panics
/// When that does not hold.
pub fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(position) = text.parse::<Position>() {
        assert_eq!(position.to_string(), text);
    }
    let Ok(token) = text.parse::<Token>() else { return };
    assert!(text.len() <= TOKEN_BYTES_MAX && token.entries().count() <= TOKEN_SHARDS_MAX);
    assert_eq!(token.to_string(), text);
    let mut again = Token::default();
    assert!(token.entries().all(|(shard, position)| again.add(shard.clone(), position)));
    assert_eq!(again, token);
}

fn told(bytes: &[u8], read: &mut impl FnMut(&[u8])) {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(bytes)));
    assert!(done.is_ok(), "the bytes were b\"{}\"", bytes.escape_ascii());
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = splitmix(self.0);
        (self.0 >> 16) % end.max(1)
    }

    fn at(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or_default()
    }

    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> Option<&'a T> {
        let at = self.at(of.len());
        of.get(at).copied()
    }

    fn byte(&mut self) -> u8 {
        let at = self.at(TELLING.len());
        let any = self.below(256) as u8;
        if self.below(3) == 0 { any } else { TELLING.get(at).copied().unwrap_or(any) }
    }

    fn change(&mut self, bytes: &mut Vec<u8>, seeds: &[&[u8]]) {
        let (from, length) = (self.at(bytes.len() + 1), self.at(16) + 1);
        let to = (from + length).min(bytes.len());
        match self.below(6) {
            0 => {
                let byte = self.byte();
                if let Some(there) = bytes.get_mut(from) {
                    *there = byte;
                }
            }
            1 => {
                let bit = self.below(8);
                if let Some(there) = bytes.get_mut(from) {
                    *there ^= 1 << bit;
                }
            }
            2 => bytes.insert(from, self.byte()),
            3 => drop(bytes.drain(from..to)),
            4 => {
                let piece: Vec<u8> = bytes.get(from..to).unwrap_or_default().to_vec();
                let at = self.at(bytes.len() + 1);
                bytes.splice(at..at, piece);
            }
            _ => {
                let other = self.pick(seeds).unwrap_or_default();
                let begin = self.at(other.len() + 1);
                let piece = other.get(begin..).unwrap_or_default();
                let piece = piece.get(..length.min(piece.len())).unwrap_or_default();
                bytes.splice(from..from, piece.iter().copied());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_hold_against_seeds_and_what_is_made_of_them() {
        let heads: [&[u8]; 3] = [
            include_bytes!("../../../tests/fuzz/seeds/screen/chunked"),
            include_bytes!("../../../tests/fuzz/seeds/screen/get"),
            include_bytes!("../../../tests/fuzz/seeds/screen/length"),
        ];
        mutated(&heads, 50_000, screen);
        mutated(&[include_bytes!("../../../tests/fuzz/seeds/token/two"), b"v1"], 50_000, token);
    }
}
