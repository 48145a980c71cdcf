//! Portolan's words and decisions, as plain data and pure functions.
//!
//! Everything here can be tested without a socket, a clock or a thread: time and randomness are arguments. This
//! crate must not do I/O, read a clock, draw random numbers, log, or know hyper, tokio, wasmtime or SQL.
//!
//! A reader's path: [`topology`] says what exists, [`facts`] what a policy may know of it, [`plan`] what a policy
//! answers, [`table`] how an answer is found for a request, [`snapshot`] what one generation of all that is, and
//! [`endpoint`], [`health`], [`breaker`] and [`balance`] what is observed meanwhile, and [`steering`] which region is tried first. [`recording`] is how a decision is kept and
//! decided again, [`rollout`] how a version takes over from another, and [`evidence`] on what grounds it may not.
//! [`log`] names what a shard's log holds, [`token`] what a client brings of it, [`tenant_table`] which tables a shard has.
//! [`screen`] judges what clients and upstreams send, [`proxy_protocol`] what a load balancer says before them.
//! [`loss`] says which writes wait for other regions. [`directory`] says on which shard a tenant's data are, [`placement`] what a policy may make of that, and
//! [`failover`] what one may know and say when regions fail.

pub mod attribute;
pub mod audit;
pub mod backoff;
pub mod balance;
pub mod bounds;
pub mod breaker;
pub mod decide;
pub mod directory;
pub mod endpoint;
pub mod evidence;
pub mod exercise;
pub mod facts;
pub mod failover;
pub mod geography;
pub mod health;
pub mod ids;
pub mod lane;
pub mod log;
pub mod loss;
pub mod pace;
pub mod placement;
pub mod plan;
pub mod preview;
pub mod proxy_protocol;
pub mod recording;
pub mod retry;
pub mod rollout;
pub mod screen;
pub mod snapshot;
pub mod steering;
pub mod table;
pub mod tenant;
pub mod tenant_table;
pub mod tenure;
pub mod time;
pub mod token;
pub mod topology;
