//! The readers of what regions say to each other about content, and of versions' records: any bytes are refused or read, and what was read is
//! written as it was.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portolan_federation::exercise::frames(bytes));
