//! The reader of recordings: any bytes, as a segment and as entries with right checksums, are read or passed over, and what was
//! read can be written and read again.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portolan_recorder::exercise(bytes));
