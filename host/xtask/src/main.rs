//! `cargo xtask`: everything that is done to this repository: setting up, showing, testing, fuzzing, measuring. Depends on
//! nothing heavy, so that the first command of a newcomer starts within seconds.

mod bench;
mod chaos;
mod demo;
mod fuzz;
mod guests;
mod languages;
mod setup;
mod sim;
mod test;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask COMMAND

Commands:
  setup [--tests]                   find or unpack what is needed, build the bundled policies; --tests: what tests need, too
  demo [ARGUMENTS]                  set up, then run `portolan demo ARGUMENTS` (see `demo --help`)
  test [--all]                      set up, then run everything that must pass; --all adds what takes hours
  bench NAME [--json FILE] [--check]  measure the release build: dns, failover, platform, policy, proxy, replication, shards
                                    (failover: [--kills N] with each profile, 20)
  chaos [--minutes N] [--seed S]    hurt one region after the other, with real databases and voters, under load (10)
  guests                            build the example policies in other languages, which tests and benchmarks use
  fuzz [TARGET] [--seconds N]       fuzz one target, or all, each for N seconds (60)
  sim [--hard] [--seeds N] [--from S] [--seed S]  simulate replication between regions over N seeds, or one
";

/// What the shell gets for wrong usage (sysexits: EX_USAGE).
const USAGE_STATUS: u8 = 64;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let root = root();
    let result = match words.as_slice() {
        ["setup"] => setup::run(&root),
        ["setup", "--tests"] => setup::run(&root).and_then(|()| test::set_up(&root)),
        ["demo", rest @ ..] => return report(demo::run(&root, rest)),
        ["bench", name, options @ ..] => return bench(&root, name, options),
        ["guests"] => {
            setup::run(&root).and_then(|()| demo::build(&root)).and_then(|()| languages::build(&root))
        }
        ["test"] => test::run(&root, false),
        ["test", "--all"] => test::run(&root, true),
        ["fuzz"] => fuzz::run(&root, None, 60),
        ["fuzz", "--seconds", seconds] | ["fuzz", "--seconds", seconds, ..] if words.len() == 3 => {
            return with_seconds(seconds, |seconds| fuzz::run(&root, None, seconds));
        }
        ["fuzz", target] => fuzz::run(&root, Some(target), 60),
        ["fuzz", target, "--seconds", seconds] => {
            return with_seconds(seconds, |seconds| fuzz::run(&root, Some(target), seconds));
        }
        ["sim", words @ ..] => match sim::Options::parse(words) {
            Some(options) => sim::run(&root, options),
            None => {
                eprint!("{USAGE}");
                return ExitCode::from(USAGE_STATUS);
            }
        },
        ["chaos", words @ ..] => match chaos::Options::parse(words) {
            Some(options) => chaos::run(&root, options),
            None => {
                eprint!("{USAGE}");
                return ExitCode::from(USAGE_STATUS);
            }
        },
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(USAGE_STATUS);
        }
    };
    report(result.map(|()| ExitCode::SUCCESS))
}

fn bench(root: &Path, name: &str, mut options: &[&str]) -> ExitCode {
    let (mut json, mut check, mut kills) = (None, false, None);
    loop {
        options = match options {
            [] => break,
            ["--check", rest @ ..] => {
                check = true;
                rest
            }
            ["--json", file, rest @ ..] => {
                json = Some(Path::new(file));
                rest
            }
            ["--kills", number, rest @ ..] if name == "failover" && number.parse::<u32>().is_ok() => {
                kills = Some(format!("kills={number}"));
                rest
            }
            _ => {
                eprint!("{USAGE}");
                return ExitCode::from(USAGE_STATUS);
            }
        };
    }
    report(bench::run(root, name, kills.as_deref(), json, check).map(|()| ExitCode::SUCCESS))
}

fn with_seconds(text: &str, run: impl FnOnce(u32) -> anyhow::Result<()>) -> ExitCode {
    match text.parse() {
        Ok(seconds) => report(run(seconds).map(|()| ExitCode::SUCCESS)),
        Err(_) => {
            eprintln!("`{text}` is no number of seconds");
            ExitCode::from(USAGE_STATUS)
        }
    }
}

fn report(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// The root of the repository: this crate lies two folders below.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}
