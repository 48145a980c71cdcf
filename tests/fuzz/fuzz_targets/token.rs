//! Tokens of clients: never panic, are bounded, and one text only stands for each.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portolan_core::exercise::token(bytes));
