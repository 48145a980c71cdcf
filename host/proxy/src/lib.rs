//! The data plane: takes requests in, finds out where they belong, sends them there and the answers back.
//!
//! Read [`pipeline`] first: it tells the whole life of a request. This crate must not know wasmtime, files of
//! configuration, or how snapshots come about; it reads the one that hangs in `core::snapshot::Live`.

mod access;
mod answers;
mod body;
mod cached;
mod capture;
mod config;
mod decide;
pub mod defaults;
mod error;
mod explain;
mod forward;
mod frames;
mod headers;
mod inbound;
mod io;
mod metrics;
mod origin;
mod peer;
mod pipeline;
mod preamble;
mod preview;
mod probe;
pub mod reach;
mod resolve;
mod respond;
mod server;
mod service;
mod settings;
mod steer;
mod tap;
#[cfg(test)]
mod tests;
mod tunnel;
mod upstream;
mod usage;

pub use access::AccessLog;
pub use capture::DEBUG_USE;
pub use config::{ClientNetwork, Config, Limits, Listener, ListenerKind, Previewing, Trust};
pub use explain::{Asked, Candidate, Explanation, Question, picture};
pub use metrics::Metrics;
pub use preview::PREVIEW_USE;
pub use probe::Prober;
pub use server::{Handle, Proxy, StartError};
pub use service::Services;
pub use settings::{LiveSettings, Settings};
pub use tap::{Tap, TapFilter, TapPlace, Untold};
pub use usage::{Traffic, Traffics};
