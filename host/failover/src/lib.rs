//! What becomes of a region's shards when it fails, decided without I/O: events, answers and time go in, and what is to be done comes out.
//!
//! A reader's path: [`timers`] and how they hang together; [`counter`], what becomes of one cell as probes come in; [`matrix`], what all regions see of
//! each other and what follows from it; [`lease`], who lives and who writes; [`policies`], which propose from a [`picture`], and [`guards`], which bar;
//! [`promotion`], one record from a decision to its end; [`plan`], DNS answers with numbers; [`evidence`], what a decision rested on; [`forecast`], what
//! would happen now; and [`agent`], which is all of it as one node has it.
//!
//! This crate must not do I/O, read a clock, draw random numbers, or know databases, links and policies' components. Whoever wires it asks the agent what to
//! do and says what came of it. Whole worlds of agents run in the simulation (`sim`, in tests), on these very state machines.

pub mod agent;
pub mod counter;
pub mod defaults;
pub mod evidence;
pub mod forecast;
pub mod guards;
pub mod intent;
pub mod lease;
pub mod matrix;
pub mod members;
pub mod picture;
pub mod plan;
pub mod policies;
pub mod promotion;
pub mod proposal;
pub mod store;
pub mod timers;

#[cfg(test)]
mod sim;
