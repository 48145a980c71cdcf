//! Tokens of clients: never panic, are bounded, and one text only stands for each.

#![no_main]

use portolan_core::log::Position;
use portolan_core::token::{TOKEN_BYTES_MAX, TOKEN_SHARDS_MAX, Token};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
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
});
