//! The policy engine: turns components into tables and deciders, and lets them hurt nobody but themselves.
//!
//! A reader's path: [`Engine::load`] makes a [`Version`] of a component, [`Engine::plan`] asks it for a plan,
//! [`Engine::decider`] makes what answers dynamic rules, and [`Slots`] does all that for a node whose slots, facts and
//! files change. [`Placer`] asks a sharding policy where tenants are to be,
//! [`Failover`] another what to do when regions fail, and [`Resolver`] a third what to make of rows that were written apart. No type of wasmtime leaves this crate, and it knows nothing of HTTP.

mod account;
mod artefact;
mod aside;
mod bindings;
mod bucket;
mod cache;
mod compile;
mod config;
mod confine;
mod contract;
mod decider;
pub mod defaults;
mod engine;
mod error;
mod face;
mod failing;
mod guest;
mod ledger;
mod limiter;
mod log;
mod machine;
mod merging;
mod pipeline;
mod placing;
mod plan;
mod replay;
mod schema;
mod screen;
mod seat;
mod section;
mod signature;
mod slots;
mod source;
mod stats;
mod thread;
mod types;
pub mod vectors;
mod version;

pub use account::{Account, Budget, BudgetReport, Cost};
pub use aside::Unanswered;
pub use compile::compile_child;
pub use config::{Compile, Config, Limits};
pub use confine::Confinement;
pub use contract::ContractVersion;
pub use decider::{Decider, DeciderStats, Start, Tier};
pub use engine::Engine;
pub use error::{Error, Refused, Stage};
pub use failing::{Failover, FailoverReport, FailoverSlot, FailoverSpec};
pub use log::{Fault, Line, Log, PastRefusal};
pub use merging::{Resolver, ResolverSlots, ResolverSpec};
pub use pipeline::{Bound, Candidate, Examined, Step, StepState, TrialSlot};
pub use placing::{PlacementReport, PlacementSlot, PlacementSpec, Placer, Proposed};
pub use plan::Planned;
pub use replay::{Again, Feed, Replay, Replayed};
pub use screen::digest;
pub use section::{SCHEMA_SECTION, SIGNATURE_SECTION, VECTORS_SECTION, with_section, without_section};
pub use signature::{PublicKey, Signature, SignatureState, SigningKey, Trust, TrustedKey};
pub use slots::{
    CandidateSpec, Event, Previewed, Reconciled, Running, Slot, SlotReport, SlotSpec, Slots, Terms,
};
pub use source::Source;
pub use stats::Stats;
pub use thread::ThreadShare;
pub use vectors::Tried;
pub use version::{About, Version};

#[cfg(test)]
mod tests;
