//! `portolan`: the command line and the wiring of services. Every command ends with 0 when all is well, 1 when something
//! failed, 2 when what runs differs from what is wanted, 3 when a check refuses it, 4 when it is not there, 5 when something
//! stands against it, 6 when the caller may not, and 64 for wrong usage.

mod apply;
mod backup;
mod bundled;
mod cli;
mod client;
mod config;
mod conflicts;
mod content;
mod demo;
mod dns;
mod doctor;
mod explain;
mod failing;
mod failover;
mod generations;
mod geography;
mod init;
mod leases;
mod live;
mod merging;
mod migrate;
mod moving;
mod node;
mod operation;
mod pki;
mod placement;
mod plugin;
mod policy;
mod purge;
mod query;
mod recordings;
mod registry;
mod replay;
mod replica;
mod rollout;
mod shard;
mod status;
mod sync;
mod tenant;
mod token;
mod tokens;
mod validate;

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _};
use portolan_admin::{Code, Problem};
use portolan_control::{State, Store};

use self::cli::{Cli, Command};
use self::config::{Loaded, Rejected};
use self::node::Intent;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What runs differs from what is wanted.
const DIFFERS: u8 = 2;
/// A check refuses it.
const REFUSED: u8 = 3;
/// It is not there.
const NOT_FOUND: u8 = 4;
/// Something stands against it.
const CONFLICT: u8 = 5;
/// The caller is unknown, or may not.
const AUTH: u8 = 6;
/// Wrong usage (sysexits: EX_USAGE).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be done about a closed terminal.
            error.print().ok();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    run(cli.command).unwrap_or_else(|error| {
        // A reader that has seen enough, such as `head`, is no failure of ours.
        if is_broken_pipe(&error) {
            return ExitCode::SUCCESS;
        }
        eprintln!("error: {error:#}");
        error.downcast_ref::<Problem>().map_or(ExitCode::FAILURE, tell)
    })
}

/// Tells the rest of a problem, and gives what the command ends with.
fn tell(problem: &Problem) -> ExitCode {
    for fault in &problem.errors {
        let place = match (&fault.source, &fault.pointer) {
            (Some(place), _) => format!("{}:{}:{}: ", place.file, place.line, place.column),
            (None, Some(pointer)) => format!("{pointer}: "),
            (None, None) => String::new(),
        };
        eprintln!("{place}{}", fault.detail);
    }
    if let Some(undo) = &problem.undo {
        eprintln!("undo: {undo}");
    }
    ExitCode::from(match problem.code {
        Code::Refused => REFUSED,
        Code::NotFound => NOT_FOUND,
        Code::Conflict
        | Code::IdempotencyReused
        | Code::IdempotencyRunning
        | Code::ManagedElsewhere
        | Code::NoStore
        | Code::PreconditionFailed
        | Code::PreconditionRequired => CONFLICT,
        Code::Forbidden | Code::HostRefused | Code::OriginRefused | Code::Unauthenticated => AUTH,
        _ => return ExitCode::FAILURE,
    })
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(options) => {
            if options.with_parent {
                demo::end_with_parent()?;
            }
            let path = &options.file.config;
            let Some(local) = shown(config::local(path, environment())) else { return Ok(ExitCode::FAILURE) };
            let control = node::control_runtime()?;
            let intent = control.block_on(Intent::open(&local, options.generation))?;
            let loaded = config::load_intended(path, &environment(), intent.state().as_deref());
            let Some(loaded) = shown(loaded) else {
                intent.hint();
                return Ok(ExitCode::FAILURE);
            };
            node::serve(path, loaded, intent, local.components()?, environment(), &control)?;
        }
        Command::Demo(options) => return demo::run(&options),
        Command::Init(options) => init::run(&options)?,
        Command::Validate(options) => return validate::run(&options),
        Command::Apply(options) => return apply::run(&options),
        Command::Generations(options) => generations::list(&options)?,
        Command::Revert(options) => return generations::revert(&options),
        Command::Audit(options) => return generations::audit(&options),
        Command::Token(command) => return tokens::run(&command),
        Command::Events(options) => live::events(&options)?,
        Command::Tail(options) => live::tail(&options)?,
        Command::Openapi => print(&portolan_admin::openapi().to_pretty_json()?)?,
        Command::Rollout(command) => return rollout::run(&command),
        Command::Status(options) => return status::run(&options),
        Command::Explain(options) => return explain::run(&options),
        Command::Doctor(options) => return doctor::run(&options),
        Command::Plugin(command) => return plugin::run(command),
        Command::Policy(command) => return policy::run(&command),
        Command::Migrate(command) => return migrate::run(&command),
        Command::Backup(options) => return backup::run(&options),
        Command::BackupKey { file } => backup::make_key(&file)?,
        Command::Verify(options) => return backup::verify(&options),
        Command::Restore(options) => return backup::restore(&options),
        Command::Purge(command) => purge::run(&command)?,
        Command::Query(command) => return query::run(&command),
        Command::QueryWorker => return Ok(portolan_query::worker::work()),
        Command::Shard(command) => return shard::run(&command),
        Command::Conflicts(command) => return conflicts::run(&command),
        Command::Content(command) => return content::run(&command),
        Command::Dns(command) => return dns::run(&command),
        Command::Failover(command) => return failover::run(&command),
        Command::Geography(command) => return geography::run(&command),
        Command::Replica(command) => return replica::run(&command),
        Command::Region(command) => return replica::run_region(&command),
        Command::Sync(command) => return sync::run(&command),
        Command::Tenant(command) => return tenant::run(&command),
        Command::Usage(command) => return tenant::usage(&command),
        Command::Replay(options) => return replay::run(&options),
        Command::Recordings(command) => recordings::run(&command)?,
        Command::Pki(command) => pki::run(&command)?,
        Command::Policies => policies()?,
        Command::Schema => print(&serde_json::to_string_pretty(&config::schema())?)?,
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "portolan", &mut text);
            std::io::stdout().write_all(&text)?;
        }
        Command::Man { folder } => {
            std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
            clap_mangen::generate_to(Cli::command(), &folder).context("write the man pages")?;
        }
        Command::Version => print(concat!("portolan ", env!("CARGO_PKG_VERSION")))?,
        Command::CompilePolicy { arguments } => {
            let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
            let status =
                portolan_policy::compile_child(&arguments, &mut input, &mut output, &mut std::io::stderr());
            return Ok(ExitCode::from(status));
        }
        Command::DemoApps { region, apps } => demo::serve_apps(&region, &apps)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A configuration, and the state of the control store that it comes from.
type Looked = (Loaded, Option<State>);

/// Loads the configuration that a node with this file would have now, for a look, and the state of the control store that it
/// comes from.
fn load(path: &Path) -> anyhow::Result<Result<Looked, Box<Rejected>>> {
    let local = match config::local(path, environment()) {
        Ok(local) => local,
        Err(rejected) => return Ok(Err(rejected)),
    };
    let state = peek(&local)?;
    let loaded = config::load_intended(path, &environment(), state.as_ref());
    Ok(loaded.map(|loaded| (loaded, state)))
}

/// What is intended in the store that a node follows; none when files say it.
fn peek(local: &config::Local) -> anyhow::Result<Option<State>> {
    let Some(engine) = &local.control else { return Ok(None) };
    let runtime = node::control_runtime()?;
    Ok(Some(runtime.block_on(Store::peek(engine, &local.generations()))?))
}

/// What was read, or none when it is shown what is wrong with it.
fn shown<T>(read: Result<T, Box<Rejected>>) -> Option<T> {
    read.map_err(|rejected| {
        let color = std::io::stderr().is_terminal();
        eprint!("{}", config::render(&rejected.problems, &rejected.sources, color));
        let count = rejected.problems.len();
        eprintln!("the configuration has {count} problem{}", if count == 1 { "" } else { "s" });
    })
    .ok()
}

/// The environment, read once and here.
fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn print(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

fn policies() -> anyhow::Result<()> {
    if bundled::ALL.is_empty() {
        anyhow::bail!(bundled::HOW_TO_GET_THEM);
    }
    for policy in bundled::ALL {
        print(&format!("{:16} {}", policy.name, policy.description))?;
    }
    Ok(())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
