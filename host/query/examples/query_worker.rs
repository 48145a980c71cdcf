//! A worker as a program of its own, for tests: the gateway's is the gateway's program with another command.

use std::process::ExitCode;

fn main() -> ExitCode {
    portolan_query::worker::work()
}
