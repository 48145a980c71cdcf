//! The framing screen: never panics, and takes or refuses bytes however they are cut into reads.

#![no_main]

use portolan_core::screen::{Limits, Screen, check_host, check_whole};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let limits = Limits::default();
    let whole = check_whole(bytes, limits);
    let mut cut = Screen::new(limits);
    // The first byte also says how long the pieces are.
    let piece = usize::from(bytes.first().copied().unwrap_or(1) % 7) + 1;
    let in_pieces = bytes.chunks(piece).try_for_each(|piece| cut.push(piece));
    // Which of several violations is named first may differ; whether there is one may not.
    assert_eq!(whole.is_ok(), in_pieces.is_ok(), "{whole:?} at once, {in_pieces:?} in pieces of {piece}");
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(check_host(text));
    }
});
