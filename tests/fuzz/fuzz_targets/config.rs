//! The configuration: any text is either taken or refused with problems that can be shown.

#![no_main]
#![allow(dead_code, reason = "the binary's own module, of which this uses one door")]

#[path = "../../../host/portolan/src/config/mod.rs"]
mod config;

use std::path::{Path, PathBuf};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let source = config::Source { path: PathBuf::from("portolan.toml"), text: text.to_owned() };
    if let Err(rejected) = config::read(vec![source], [], Path::new("/")) {
        assert!(!rejected.problems.is_empty(), "refused without a reason");
        let shown = config::render(&rejected.problems, &rejected.sources, false);
        assert!(!shown.is_empty());
        rejected.problems.iter().for_each(|problem| assert!(!problem.line(&rejected.sources).is_empty()));
    }
});
