//! The log, the gate and the fence as pure functions: no database, no clock, no socket.
//!
//! Both engines stand on these: what a reader may take ([`reader`]), how a follower goes on ([`progress`]), which of two
//! versions stays ([`gate`]) by the table's rule ([`history`]) or what becomes of both ([`marks`], [`merge`]), who may write
//! ([`fence`]), which records count when an epoch has ended ([`lineage`]) and what becomes of those that had been taken
//! ([`learning`]), what becomes of rows whose place another region's take ([`copying`]), what a log keeps for whom ([`peer`], [`retention`]), when a tombstone may go ([`sweep`]). Their laws are proved here,
//! before any SQL.

pub mod copying;
pub mod fence;
pub mod gate;
pub mod history;
pub mod kind;
pub mod learning;
pub mod lineage;
pub mod marks;
pub mod merge;
pub mod peer;
pub mod progress;
pub mod reader;
pub mod record;
pub mod retention;
pub mod sweep;

#[cfg(test)]
pub(crate) mod tests;
