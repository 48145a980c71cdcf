//! The reader of recordings: any bytes, as a segment and as entries with right checksums, are read or passed over, and what was
//! read can be written and read again.

#![no_main]

use portolan_recorder::{Item, framed, read_bytes};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (_, summary) = read_bytes(bytes);
    assert!(summary.damaged_bytes <= bytes.len() as u64);
    let entries: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let (items, summary) = read_bytes(&framed(&entries));
    assert!(summary.torn == 0 || bytes.contains(&0xf7), "whole frames are no torn end: {summary:?}");
    for item in items {
        let Item::Decision(recorded) = item else { continue };
        let entry = format!("{{\"decision\":{}}}", serde_json::to_string(&recorded).expect("it was read"));
        let (again, _) = read_bytes(&framed(&[entry.as_bytes()]));
        assert_eq!(again, [Item::Decision(recorded.clone())], "written and read again");
        drop((recorded.picture.segment(), recorded.picture.tenant(), recorded.picture.view().missing()));
    }
});
