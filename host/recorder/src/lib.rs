//! Recorded decisions: a bounded ring in memory, spilled to segments on disk, and candidates that decide again in the shadow.
//!
//! A reader's path: [`Recorder`] takes what the data plane captured, [`Recording`] reads what is on disk, and [`Shadow`] has
//! candidates decide on other threads what was decided already. This crate asks policies only through `core::recording`, and
//! knows neither HTTP nor wasmtime.

pub mod defaults;
mod entry;
mod erase;
mod error;
mod frame;
mod recorder;
mod recording;
mod redact;
mod ring;
mod shadow;
mod spill;
#[cfg(test)]
mod tests;

pub use entry::{Book, Item};
pub use erase::Erased;
pub use error::Error;
pub use recorder::{Filter, Recorder, Settings, Start, Stats};
pub use recording::{Export, Recording, SegmentInfo, Summary, read_bytes};
#[cfg(any(test, feature = "exercise"))]
pub use recording::{exercise, framed};
pub use redact::Rules;
pub use shadow::Shadow;
