//! The readers of manifests' roots and nodes: any bytes are refused or read, and what was read is
//! written as it was.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portolan_federation::exercise::manifests(bytes));
