//! `portolan plugin`: scaffold, build, test and measure policies.

mod ask;
mod bench;
mod build;
mod check;
mod contract;
mod dev;
mod inspect;
mod language;
mod pack;
mod scaffold;
mod stub;
pub(crate) mod tool;
mod typescript;

use std::process::ExitCode;

pub(crate) use ask::{Run, Test};
pub(crate) use bench::Bench;
pub(crate) use dev::Dev;
pub(crate) use inspect::Inspect;
pub(crate) use scaffold::New;

use crate::cli::Plugin;
use crate::{registry, replay};

/// Runs one of its commands.
///
/// # Errors
/// What went wrong and what to do.
pub(crate) fn run(command: Plugin) -> anyhow::Result<ExitCode> {
    match command {
        Plugin::New(options) => scaffold::run(&options)?,
        Plugin::Build { path, output } => build::run(&path, output.as_deref())?,
        Plugin::Check { component, policy_config, config, json } => {
            return check::run(&component, &policy_config, config.as_deref(), json);
        }
        Plugin::Diff { base, candidate, since, name, told, file } => {
            return replay::diff(&base, &candidate, since, name.as_deref(), told, &file.config);
        }
        Plugin::Push(options) => return registry::cli::push(&options),
        Plugin::Versions { name, target, json } => registry::cli::versions(name.as_deref(), &target, json)?,
        Plugin::Uploads { id, target, json } => registry::cli::uploads(id.as_deref(), &target, json)?,
        Plugin::Remove { version, tenant, target } => {
            return registry::cli::remove(&version, tenant.as_deref(), &target);
        }
        Plugin::Gc(options) => return registry::cli::sweep(&options),
        Plugin::Keygen { name } => registry::cli::keygen(&name)?,
        Plugin::Sign { component, key, output, detached } => {
            registry::cli::sign(&component, &key, output.as_deref(), detached)?;
        }
        Plugin::EmbedVectors { component, vectors, output, json } => {
            return ask::embed(&component, &vectors, output.as_deref(), json);
        }
        Plugin::Test(options) => return ask::test(&options),
        Plugin::Run(options) => return ask::run(&options),
        Plugin::Dev(options) => return dev::run(&options),
        Plugin::Bench(options) => return bench::run(&options),
        Plugin::Inspect(options) => return inspect::run(&options),
        Plugin::Wit { folder, c, world } => contract::wit(&folder, c.as_deref(), &world)?,
        Plugin::Bindings { kind, output, wit, world } => contract::bindings(kind, &output, &wit, &world)?,
        Plugin::PackSdk { folder } => pack::run(&folder)?,
    }
    Ok(ExitCode::SUCCESS)
}
