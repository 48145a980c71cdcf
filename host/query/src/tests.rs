//! Queries over shards of both engines: against an oracle, by the plans, and at the limits.

mod generate;
mod limits;
mod oracle;
mod plans;
mod scopes;
mod shop;
mod worker;
