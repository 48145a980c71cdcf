//! The admin API: who may ask what, and how it is answered.
//!
//! All handlers stand here, over plain data and small traits (`backend`) that the binary implements over the control
//! store, the policy engine and the data plane, and tests in memory. A request passes, in this order: the host and origin
//! check (`guard`), authentication (`authentic`), the scope, size and time of its route (`routes`), its handler. A route
//! cannot be added without saying which scope it asks for.

#![expect(unused_qualifications, reason = "utoipa's macro qualifies the parameters that it is given")]

mod api;
pub mod audits;
mod authentic;
pub mod backend;
mod caller;
mod changes;
mod claims;
pub mod conflicts;
mod decisions;
pub mod defaults;
mod erasures;
mod events;
mod explain;
mod extract;
pub mod failovers;
mod fetch;
mod guard;
mod idempotency;
mod listen;
pub mod moves;
mod objects;
mod oidc;
mod openapi;
mod operations;
mod page;
pub mod plugins;
mod previews;
mod problem;
pub mod purges;
mod revision;
mod rollouts;
mod routes;
mod serve;
mod shards;
mod sse;
mod status;
mod streams;
mod tail;
mod tenancy;
mod tenants;
mod token;
mod tokens;

pub use api::{Api, Settings};
pub use authentic::{Bindings, Peer, of_token};
pub use caller::{Caller, MATRIX, Role, Scope, Way};
pub use erasures::{ERASURE_KIND, Erasure, Receipt, read as read_erasure};
pub use events::{Event, Events};
pub use oidc::{Claim, Keys, Oidc, OidcError};
pub use openapi::openapi;
pub use operations::{Operation, Operations, Progress, Stage, StageState};
pub use page::Page;
pub use problem::{Code, Fault, Place, Problem, Told};
pub use serve::{Admission, Router, serve_tcp, serve_unix};
pub use token::{TOKEN_KIND, TokenRecord, record as token_record};

#[cfg(test)]
mod tests;
