//! The framing screen: never panics, and takes or refuses bytes however they are cut into reads.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portolan_core::exercise::screen(bytes));
