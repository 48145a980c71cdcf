//! The command line: what can be asked of `portolan`, in words.

pub(crate) mod backup;
mod conflicts;
pub(crate) mod content;
pub(crate) mod dns;
pub(crate) mod failover;
mod generations;
pub(crate) mod geography;
mod look;
mod migrate;
pub(crate) mod moving;
mod plugin;
mod policy;
mod purge;
mod query;
mod recordings;
mod replica;
mod rollout;
mod shard;
mod sync;
pub(crate) mod tenant;
mod token;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::conflicts::Conflicts;
pub(crate) use self::content::Content;
pub(crate) use self::dns::Dns;
pub(crate) use self::failover::Failover;
pub(crate) use self::generations::{Apply, Audit, Generations, Revert, Validate};
pub(crate) use self::geography::Geography;
pub(crate) use self::look::{Events, Explain, Status, Tail, TenantView, Told, Usage, UsageFormat};
pub(crate) use self::migrate::{Fleet, Migrate};
pub(crate) use self::plugin::{Bindings, Plugin, Push, Sweep};
pub(crate) use self::policy::{Glass, Policy, Whom};
pub(crate) use self::purge::Purge;
pub(crate) use self::query::{QUERY_WORKER, Query, QueryFormat};
pub(crate) use self::recordings::{Recordings, Replay};
pub(crate) use self::replica::{
    Add as AddReplica, AddRegion, Region, Remove as RemoveReplica, RemoveRegion, Replica,
};
pub(crate) use self::rollout::{RolloutChange, RolloutStart, Rollouts};
pub(crate) use self::shard::{Add, Adopt, Plan, Rebalance, Remove, Shard};
pub(crate) use self::sync::{Compare, Sync};
pub(crate) use self::token::Token;
use crate::doctor;

/// The name of the hidden command that compiles a component.
pub(crate) const COMPILE: &str = "compile-policy";
/// The name of the hidden command that serves the demo's applications.
pub(crate) const DEMO_APPS: &str = "demo-apps";

const EXIT_CODES: &str = "Ends with 0 when all is well, 1 when something failed, 2 when what runs differs from what is wanted, \
3 when a check refuses it, 4 when it is not there, 5 when something stands against it, 6 when you may not, 64 for wrong usage.";

/// Multi-region gateway for multi-tenant platforms, with WebAssembly policies.
#[derive(Debug, Parser)]
#[command(name = "portolan", version, about, after_help = EXIT_CODES, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve requests until SIGTERM.
    Serve(Serve),
    /// Watch three regions serve, swap a policy, and survive a kill; on this machine.
    Demo(Demo),
    /// Write a first configuration into a folder.
    Init(Init),
    /// Check a configuration, and its policies against it.
    Validate(Validate),
    /// Put `conf.d` into the control store, as one change.
    Apply(Apply),
    /// List the generations of the control store, the newest first.
    Generations(Generations),
    /// Make what is intended as it was in a generation, as a new one.
    Revert(Revert),
    /// Show the log of changes with its digests, or check that it is whole.
    Audit(Audit),
    /// Make, list and revoke tokens of the admin API.
    #[command(subcommand)]
    Token(Token),
    /// Show what has happened on a node, and what happens.
    Events(Events),
    /// Show requests as they end.
    Tail(Tail),
    /// Print the description of the admin API (OpenAPI 3.1).
    Openapi,
    /// Put a version of a policy to work step by step, and take it back.
    #[command(subcommand)]
    Rollout(Rollouts),
    /// Show how a running node stands.
    Status(Status),
    /// Show step by step what would become of a request.
    Explain(Explain),
    /// Look for what portolan needs on this machine and in this folder, and offer to mend what is found.
    Doctor(doctor::Doctor),
    /// Make policies.
    #[command(subcommand)]
    Plugin(Plugin),
    /// Break glass: hold policies as they are, or take tenants' policies away, without store and API.
    #[command(subcommand)]
    Policy(Policy),
    /// Change the tenants' schema, shard by shard.
    #[command(subcommand)]
    Migrate(Migrate),
    /// Keep a copy of the control store, components and shards in a folder.
    Backup(backup::Backup),
    /// Make the pair of keys for which a backup seals the node's own keys.
    BackupKey {
        /// The file of the private key.
        file: PathBuf,
    },
    /// Look at backups, without a store or a database: are they whole, and as they were written?
    Verify(backup::Verify),
    /// Put a backup back: onto an empty machine, one shard, or one tenant.
    Restore(backup::Restore),
    /// Look at shards, and say who writes them.
    #[command(subcommand)]
    Shard(Shard),
    /// Ask the shards of this region, as one database.
    Query(Query),
    /// See what lost where two writes met, and write it back.
    #[command(subcommand)]
    Conflicts(Conflicts),
    /// Put, get and share a tenant's content through a gateway.
    Content(Content),
    /// See how regions stand, and move shards between them.
    #[command(subcommand)]
    Failover(Failover),
    /// See how names are told, and keep servers up to date.
    #[command(subcommand)]
    Dns(Dns),
    /// Get and ask tables of where addresses are on earth.
    #[command(subcommand)]
    Geography(Geography),
    /// Give regions copies of shards, and take them away.
    #[command(subcommand)]
    Replica(Replica),
    /// Add regions, and take them away.
    #[command(subcommand)]
    Region(Region),
    /// See how copies of other regions' shards stand, and compare them.
    #[command(subcommand)]
    Sync(Sync),
    /// Make tenants, suspend them, say what is theirs, and show their own side of their policies.
    #[command(subcommand)]
    Tenant(Tenant),
    /// Take cached responses back.
    Purge(Purge),
    /// Tell what tenants used.
    #[command(subcommand)]
    Usage(Usage),
    /// Decide again what was recorded, with another policy, and show what would change.
    Replay(Replay),
    /// Look at what a node keeps of its decisions.
    #[command(subcommand)]
    Recordings(Recordings),
    /// Make certificates by which regions' gateways know each other.
    #[command(subcommand)]
    Pki(Pki),
    /// List the bundled policies.
    Policies,
    /// Print the JSON Schema of the configuration.
    Schema,
    /// Print completions for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Write man pages into a folder.
    Man {
        /// The folder.
        folder: PathBuf,
    },
    /// Print the version.
    Version,
    #[command(name = COMPILE, hide = true, disable_help_flag = true)]
    CompilePolicy {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<std::ffi::OsString>,
    },
    #[command(name = QUERY_WORKER, hide = true)]
    QueryWorker,
    #[command(name = DEMO_APPS, hide = true)]
    DemoApps {
        #[arg(long)]
        region: String,
        /// `NAME=ADDRESS`
        apps: Vec<String>,
    },
}

/// Which node is asked: the one of the configuration's folder, or another. Where none runs, changes of intent are made over the
/// configuration itself.
#[derive(Clone, Debug, Args)]
pub(crate) struct Target {
    #[command(flatten)]
    pub(crate) file: ConfigFile,
    /// The node's admin socket; the one in the configuration's state folder when absent.
    #[arg(long)]
    pub(crate) socket: Option<PathBuf>,
    /// The admin API of a node elsewhere, such as https://gateway.example.com:9180.
    #[arg(long, env = "PORTOLAN_API", conflicts_with = "socket")]
    pub(crate) api: Option<String>,
    /// PEM file of the authorities of that node's certificate; the system's when absent.
    #[arg(long, env = "PORTOLAN_API_CA")]
    pub(crate) api_ca: Option<PathBuf>,
    /// A token; other users of the machine see command lines, so better in the environment.
    #[arg(long, env = "PORTOLAN_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
}

/// Where the configuration is.
#[derive(Clone, Debug, Args)]
pub(crate) struct ConfigFile {
    /// The configuration; `conf.d/*.toml` beside it is added.
    #[arg(short, long, default_value = "portolan.toml", env = "PORTOLAN_CONFIG")]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) file: ConfigFile,
    /// Serve this generation from the node's own disk, and follow no control store: for emergencies.
    #[arg(long)]
    pub(crate) generation: Option<u64>,
    /// End when the process that started this one ends.
    #[arg(long, hide = true)]
    pub(crate) with_parent: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Print one JSON object when it ends, and nothing else, on standard output.
    #[arg(long)]
    pub(crate) json: bool,
    /// End after this time, such as `60s`; phases are shortened to fit. Until Ctrl-C when absent.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) exit_after: Option<std::time::Duration>,
    /// What to break.
    #[arg(long, value_enum, default_value_t = Chaos::Region)]
    pub(crate) chaos: Chaos,
    /// Requests per second, all clients together.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(10..=20_000))]
    pub(crate) rate: u32,
}

/// What the demo breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Chaos {
    /// Nothing.
    None,
    /// A whole region, with SIGKILL.
    Region,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The folder; it is made if need be.
    #[arg(default_value = ".")]
    pub(crate) folder: PathBuf,
    /// Replace a configuration that is there.
    #[arg(long)]
    pub(crate) force: bool,
}

/// Certificates of gateways.
#[derive(Debug, Subcommand)]
pub(crate) enum Pki {
    /// Make an authority.
    Init {
        /// Where it is kept: nobody but who issues certificates needs to read it.
        folder: PathBuf,
        /// The trust domain: gateways of another one are strangers.
        #[arg(long, default_value = "portolan.internal")]
        domain: String,
        /// How long it is valid.
        #[arg(long, default_value_t = 3_650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
    /// Make a gateway's certificate and key, with the authorities that it is to believe. Run it again before the certificate ends: gateways read
    /// the files again by themselves.
    Issue {
        /// Where the authority is kept.
        folder: PathBuf,
        /// The regions.
        #[arg(required = true)]
        regions: Vec<String>,
        /// Which gateway of the region, where it has several.
        #[arg(long, default_value = "1")]
        gateway: String,
        /// How long the certificate is valid.
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3_650))]
        days: u32,
        /// Where to write the files, instead of beside the authority.
        #[arg(long)]
        to: Option<PathBuf>,
    },
    /// Put another authority in the place of the present one: first beside it, and with `--finish` alone.
    Rotate {
        /// Where the authority is kept.
        folder: PathBuf,
        /// All gateways have certificates of the new one: the old is to be believed no more.
        #[arg(long)]
        finish: bool,
        /// How long the new one is valid.
        #[arg(long, default_value_t = 3_650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
    /// Say whose certificates are in a file, and how long they are valid.
    Show {
        /// The file.
        file: PathBuf,
    },
    /// Make an authority and a certificate for each region at once, for a trial: the authority's key is not kept.
    Trial {
        /// Where to write `ca.crt` and each region's certificate and key.
        folder: PathBuf,
        /// The regions.
        #[arg(required = true)]
        regions: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tenant {
    /// Make a tenant, with its place and what is its alone. Repeated, it changes nothing.
    Create(tenant::Create),
    /// Refuse a tenant's requests on every node, and let its policy rest. What it has stays.
    Suspend(tenant::Suspend),
    /// Serve a suspended tenant again.
    Resume(tenant::Suspend),
    /// Write a tenant's rows and objects into a file, as they are now. Its shard is reached from here.
    Export(tenant::Export),
    /// Take away all that there is of a tenant, everywhere and for good, with a receipt for each place. Ends with 2 while some is left.
    Erase(tenant::Erase),
    /// Say what belongs to one tenant alone, such as an address or a domain, and find out whose it is.
    #[command(subcommand)]
    Claim(tenant::Claims),
    /// What its policy wrote, and where it failed.
    Log(TenantView),
    /// Why what it wanted was refused.
    Refusals(TenantView),
    /// What its policy used, and what it may use.
    Usage(TenantView),
}
