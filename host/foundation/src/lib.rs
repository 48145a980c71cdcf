//! What every service stands on: the clock, supervised tasks, shutdown, TLS and identity, sockets, file watching and
//! telemetry, tables of where addresses are. Knows neither requests nor policies.

pub mod cache;
pub mod clock;
pub mod endpoint;
pub mod geography;
pub mod net;
pub mod random;
pub mod seal;
pub mod shutdown;
pub mod task;
pub mod telemetry;
pub mod tls;
pub mod watch;
