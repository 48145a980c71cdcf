//! `portolan`: the command line and the wiring of services. Every command ends with 0 when all is well, 1 when something
//! failed, 2 when what runs differs from what is wanted, and 64 for wrong usage.

mod ask;
mod bundled;
mod cli;
mod config;
mod demo;
mod explain;
mod init;
mod node;
mod pki;
mod plugin;
mod status;
mod validate;

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _};

use self::cli::{Cli, Command};
use self::config::Loaded;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What runs differs from what is wanted.
const DIFFERS: u8 = 2;
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
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(options) => {
            if options.with_parent {
                demo::end_with_parent()?;
            }
            let path = &options.file.config;
            let Some(loaded) = load(path)? else { return Ok(ExitCode::FAILURE) };
            node::serve(path, loaded, environment())?;
        }
        Command::Demo(options) => return demo::run(&options),
        Command::Init(options) => init::run(&options)?,
        Command::Validate(options) => return validate::run(&options),
        Command::Status(options) => return status::run(&options),
        Command::Explain(options) => return explain::run(&options),
        Command::Plugin(command) => return plugin::run(command),
        Command::Pki { folder, regions } => pki::run(&folder, &regions)?,
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

/// Loads the configuration, or shows what is wrong with it.
fn load(path: &Path) -> anyhow::Result<Option<Loaded>> {
    match config::load(path, environment()) {
        Ok(loaded) => Ok(Some(loaded)),
        Err(rejected) => {
            let color = std::io::stderr().is_terminal();
            eprint!("{}", config::render(&rejected.problems, &rejected.sources, color));
            let count = rejected.problems.len();
            eprintln!("the configuration has {count} problem{}", if count == 1 { "" } else { "s" });
            Ok(None)
        }
    }
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
