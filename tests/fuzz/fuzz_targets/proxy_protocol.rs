//! The reader of PROXY headers: never panics, and takes or refuses bytes however they are cut into reads.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portolan_core::exercise::proxy_protocol(bytes));
