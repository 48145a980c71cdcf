//! The screen of upstreams' responses and the account of HTTP/2 frames: never panic, and judge bytes alike however they are cut.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portolan_core::exercise::responses(bytes));
