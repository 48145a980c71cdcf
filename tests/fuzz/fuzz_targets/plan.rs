//! Plans from arbitrary bytes: the draft never panics, and table and naive interpreter agree on every finished plan.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portolan_core::plan::exercise::drive(bytes));
