//! The command line: what can be asked of `portolan`, in words.

pub(crate) mod backup;
mod conflicts;
mod migrate;
pub(crate) mod moving;
mod query;
mod replica;
mod shard;
mod sync;
pub(crate) mod tenant;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::conflicts::Conflicts;
pub(crate) use self::migrate::{Fleet, Migrate};
pub(crate) use self::query::{QUERY_WORKER, Query, QueryFormat};
pub(crate) use self::replica::{
    Add as AddReplica, AddRegion, Region, Remove as RemoveReplica, RemoveRegion, Replica,
};
pub(crate) use self::shard::{Add, Adopt, Plan, Rebalance, Remove, Shard};
pub(crate) use self::sync::{Compare, Sync};
use crate::{doctor, plugin};

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
    /// Tell what tenants used.
    #[command(subcommand)]
    Usage(Usage),
    /// Decide again what was recorded, with another policy, and show what would change.
    Replay(Replay),
    /// Look at what a node keeps of its decisions.
    #[command(subcommand)]
    Recordings(Recordings),
    /// Make a small certificate authority for the peer link between regions, for trials.
    Pki {
        /// Where to write `ca.crt` and each region's certificate and key.
        folder: PathBuf,
        /// The regions.
        #[arg(required = true)]
        regions: Vec<String>,
    },
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

#[derive(Debug, Args)]
pub(crate) struct Validate {
    #[command(flatten)]
    pub(crate) file: ConfigFile,
    /// Only the files: compile and plan nothing.
    #[arg(long)]
    pub(crate) no_policies: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Only show what would change.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Leave objects alone whose files are gone.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Also take over objects that the admin API manages.
    #[arg(long)]
    pub(crate) take_over: bool,
    /// Why, for the log of changes.
    #[arg(short, long, default_value = "")]
    pub(crate) message: String,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Generations {
    #[command(flatten)]
    pub(crate) target: Target,
    /// How many.
    #[arg(short, long, default_value_t = 20)]
    pub(crate) number: u64,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Revert {
    /// The generation.
    pub(crate) generation: u64,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Only show what would change.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Why, for the log of changes.
    #[arg(short, long, default_value = "")]
    pub(crate) message: String,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Rollouts {
    /// Put a version beside the one that runs: as a shadow first, which is asked and never heard, or as a canary.
    Start(RolloutStart),
    /// Show what runs, what is on trial, and what is known of it. Ends with 2 when a verdict took a version back.
    Status {
        /// `operator`, or `tenant.NAME`; all when absent.
        slot: Option<String>,
        #[command(flatten)]
        target: Target,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Give the version on trial more: from shadow to a canary of 10 percent, from canary to all requests.
    Promote {
        #[command(flatten)]
        change: RolloutChange,
        /// So many of a hundred requests instead; 0 makes it a shadow.
        #[arg(long)]
        percent: Option<u32>,
        /// All requests, from wherever it stands.
        #[arg(long, conflicts_with = "percent")]
        full: bool,
    },
    /// Take the version on trial off all requests, and keep it ready.
    Pause(RolloutChange),
    /// Let it have its part again.
    Resume(RolloutChange),
    /// Drop the version on trial.
    Abort(RolloutChange),
    /// Run what ran before, at once and everywhere; this is a rollout of its own.
    Rollback {
        #[command(flatten)]
        change: RolloutChange,
        /// Run this version instead: `PLUGIN@VERSION`, `VERSION`, or `file` for the plugin's own file.
        #[arg(long)]
        to: Option<String>,
        /// The configuration that it is to have, a JSON object; the slot's own when absent.
        #[arg(long, requires = "to")]
        policy_config: Option<String>,
    },
    /// Run a version at once and everywhere, and refuse rollouts until it is unpinned.
    Pin {
        #[command(flatten)]
        change: RolloutChange,
        /// `PLUGIN@VERSION`, `VERSION`, or `file` for the plugin's own file.
        version: String,
        /// The configuration that it is to have, a JSON object; the slot's own when absent.
        #[arg(long)]
        policy_config: Option<String>,
    },
    /// Allow rollouts again.
    Unpin(RolloutChange),
}

/// What every change of a rollout takes.
#[derive(Debug, Args)]
pub(crate) struct RolloutChange {
    /// `operator`, or `tenant.NAME`.
    pub(crate) slot: String,
    /// Only show what would change.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Why, for the log of changes.
    #[arg(short, long, default_value = "")]
    pub(crate) message: String,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RolloutStart {
    #[command(flatten)]
    pub(crate) change: RolloutChange,
    /// `PLUGIN@VERSION`, with the SHA-256 or its first digits.
    pub(crate) version: String,
    /// Ask it after the response, and only compare: the usual beginning.
    #[arg(long, conflicts_with = "canary")]
    pub(crate) shadow: bool,
    /// Let it answer so many of a hundred requests.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) canary: Option<u32>,
    /// What keeps to one side of a canary: tenants in the operator's slot, clients in a tenant's when absent.
    #[arg(long, value_enum)]
    pub(crate) affinity: Option<RolloutAffinity>,
    /// Decisions before any verdict.
    #[arg(long)]
    pub(crate) min_decisions: Option<u64>,
    /// Decisions that may fail: traps, answers that do not exist, an open breaker; such as 0.1%.
    #[arg(long, value_parser = crate::rollout::permille)]
    pub(crate) max_traps: Option<u32>,
    /// Decisions that may run past their fuel or deadline, such as 0.5%.
    #[arg(long, value_parser = crate::rollout::permille)]
    pub(crate) max_overruns: Option<u32>,
    /// Answers of a shadow that may differ from those given, such as 2%; all when absent.
    #[arg(long, value_parser = crate::rollout::permille)]
    pub(crate) max_divergence: Option<u32>,
    /// Time within which 99 of 100 decisions have to come, such as 200us; any when absent.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) max_p99: Option<std::time::Duration>,
    /// The configuration that it is to have, a JSON object; the slot's own when absent.
    #[arg(long)]
    pub(crate) policy_config: Option<String>,
}

/// What keeps to one side of a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RolloutAffinity {
    /// A client's address.
    Client,
    /// The region that takes the request in.
    Region,
    /// A tenant.
    Tenant,
}

impl From<RolloutAffinity> for portolan_core::lane::Affinity {
    fn from(affinity: RolloutAffinity) -> Self {
        match affinity {
            RolloutAffinity::Client => Self::Client,
            RolloutAffinity::Region => Self::Region,
            RolloutAffinity::Tenant => Self::Tenant,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Audit {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Walk through the whole log, and check that each entry names the digest of the one before it.
    #[arg(long)]
    pub(crate) verify: bool,
    /// Only changes by authors in whose name this text is.
    #[arg(long)]
    pub(crate) author: Option<String>,
    /// Only changes that came by this way: api, apply, push, revert, rollout, token.
    #[arg(long)]
    pub(crate) source: Option<String>,
    /// Only changes of this object, KIND/NAME, or of this kind.
    #[arg(long)]
    pub(crate) object: Option<String>,
    /// How many.
    #[arg(short, long, default_value_t = 20)]
    pub(crate) number: u64,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token, and print it once.
    Create {
        /// What people call it.
        name: String,
        /// What its holder is: admin, auditor, operator, tenant-admin or tenant-dev.
        #[arg(long)]
        role: String,
        /// Whose it is, for a tenant's roles.
        #[arg(long)]
        tenant: Option<String>,
        /// What its holder may, when that is less than the role; can be given several times.
        #[arg(long = "scope")]
        scopes: Vec<String>,
        /// When it ends, such as `12h`; after 90 days when absent.
        #[arg(long, value_parser = humantime::parse_duration)]
        expires_in: Option<std::time::Duration>,
        #[command(flatten)]
        target: Target,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// A word for the request header `portolan-debug`: the response then tells the decision's id.
    Debug {
        /// Only for requests of this tenant.
        #[arg(long)]
        tenant: Option<String>,
        /// How long it holds; at most a day.
        #[arg(long = "for", default_value = "1h", value_parser = humantime::parse_duration)]
        time: std::time::Duration,
        #[command(flatten)]
        file: ConfigFile,
    },
    /// A word for the request header `portolan-preview`: a version that no slot runs then decides that request alone.
    Preview {
        /// `operator`, or `tenant.NAME`.
        slot: String,
        /// `PLUGIN@VERSION`, or `VERSION`, as `portolan plugin versions` lists them.
        version: String,
        /// In the operator's slot, only for requests of this tenant.
        #[arg(long)]
        tenant: Option<String>,
        /// How long it holds; at most an hour.
        #[arg(long = "for", default_value = "10m", value_parser = humantime::parse_duration)]
        time: std::time::Duration,
        #[command(flatten)]
        target: Target,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List tokens, with when each was last used on the node that is asked.
    List {
        #[command(flatten)]
        target: Target,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Revoke a token: nobody gets in by it any more, on any node.
    Revoke {
        /// Its id.
        id: String,
        #[command(flatten)]
        target: Target,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Go on as they come.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only of these types, with commas between.
    #[arg(long)]
    pub(crate) types: Option<String>,
    /// Only of this tenant.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Only after the event of this id.
    #[arg(long)]
    pub(crate) after: Option<String>,
    /// Print one JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Tail {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Only of this tenant.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Only with this status, or of this class, such as 404 or 5xx.
    #[arg(long)]
    pub(crate) status: Option<String>,
    /// Only with this method.
    #[arg(long)]
    pub(crate) method: Option<String>,
    /// Only decided by this policy.
    #[arg(long)]
    pub(crate) policy: Option<String>,
    /// Only with paths that begin so.
    #[arg(long)]
    pub(crate) path: Option<String>,
    /// Of a thousand requests that fit, so many.
    #[arg(long)]
    pub(crate) permille: Option<u32>,
    /// End after so many.
    #[arg(short, long)]
    pub(crate) number: Option<u64>,
    /// Print one JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How a comparison is told.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Told {
    /// End with 2 when more than so many of a thousand decisions would differ.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) limit: u32,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print Markdown.
    #[arg(long, conflicts_with = "json")]
    pub(crate) markdown: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// A file of `portolan recordings export`, or a folder of segments such as `.portolan/recordings`.
    pub(crate) recording: PathBuf,
    /// Who decides again: `NAME` for what runs by that name here, `NAME@VERSION`, or a component's file.
    #[arg(long)]
    pub(crate) policy: String,
    /// With whom it is compared; with what was recorded when absent.
    #[arg(long)]
    pub(crate) against: Option<String>,
    /// The candidate's configuration, a JSON object; the recorded one when absent.
    #[arg(long)]
    pub(crate) policy_config: Option<String>,
    /// The name under which a file's policy was recorded; the file's own when absent.
    #[arg(long = "as")]
    pub(crate) name: Option<String>,
    /// Only decisions of so long ago, such as `1h`.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) since: Option<std::time::Duration>,
    #[command(flatten)]
    pub(crate) told: Told,
    #[command(flatten)]
    pub(crate) file: ConfigFile,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Recordings {
    /// List the segments.
    List {
        #[command(flatten)]
        file: ConfigFile,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write decisions into one file.
    Export {
        /// The file.
        output: PathBuf,
        /// Only decisions of so long ago, such as `1h`.
        #[arg(long, value_parser = humantime::parse_duration)]
        since: Option<std::time::Duration>,
        /// Only this tenant's.
        #[arg(long)]
        tenant: Option<String>,
        #[command(flatten)]
        file: ConfigFile,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// Such as GET.
    #[arg(required_unless_present = "id")]
    pub(crate) method: Option<String>,
    /// Such as http://acme.apps.example.com/orders.
    #[arg(required_unless_present = "id")]
    pub(crate) url: Option<String>,
    /// A decision that was kept, by the id in its response's `portolan-decision`.
    #[arg(long, conflicts_with_all = ["method", "url", "at"])]
    pub(crate) id: Option<String>,
    /// As things stood then: RFC 3339, such as 2026-01-31T12:00:00Z, or so long ago, such as `2h`. Needs recordings.
    #[arg(long)]
    pub(crate) at: Option<String>,
    /// A header field, `Name: value`.
    #[arg(short = 'H', long = "header")]
    pub(crate) headers: Vec<String>,
    /// From where the request comes.
    #[arg(long)]
    pub(crate) client: Option<IpAddr>,
    /// Assume this tenant.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Assume that this region is nearest to the client.
    #[arg(long)]
    pub(crate) region: Option<String>,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Plugin {
    /// Write the project of a new policy.
    New(plugin::New),
    /// Build a policy: a project, or a core module of another compiler.
    Build {
        /// The project's folder, or a core module that carries the contract (wit-bindgen's C output does).
        #[arg(default_value = ".")]
        path: PathBuf,
        /// Where to write the component; `NAME.wasm` in the project, or here, when absent.
        #[arg(short, long)]
        output: Option<PathBuf>,
    },
    /// Compare two versions over what this node has recorded.
    Diff {
        /// `NAME@VERSION`, `NAME`, or a component's file.
        base: String,
        /// The same.
        candidate: String,
        /// Decisions of so long ago.
        #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
        since: std::time::Duration,
        /// The name under which files' policies were recorded; the first file's own when absent.
        #[arg(long = "as")]
        name: Option<String>,
        #[command(flatten)]
        told: Told,
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Load a component as a gateway would, and plan with it.
    Check {
        /// The component, or the project, which is built first.
        component: PathBuf,
        /// The policy's configuration, a JSON object.
        #[arg(long, default_value = "{}")]
        policy_config: String,
        /// A gateway's configuration, whose regions and pools are to be used; one region `local` with the pool `web`
        /// when absent.
        #[arg(short, long)]
        config: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Ask a policy its golden vectors.
    Test(plugin::Test),
    /// Ask a policy about one request.
    Run(plugin::Run),
    /// Build a policy after each save, and show which answers changed.
    Dev(plugin::Dev),
    /// Measure what a policy costs.
    Bench(plugin::Bench),
    /// Tell what a component says about itself.
    Inspect(plugin::Inspect),
    /// Send a component through all checks, and make it an immutable version in the control store.
    Push(Push),
    /// Show what became of this node's uploads, stage by stage.
    Uploads {
        /// Only this one.
        id: Option<String>,
        #[command(flatten)]
        target: Target,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take a version that nothing names out of the control store.
    Remove {
        /// `NAME@SHA256`
        version: String,
        /// Whose it is; the operator's when absent.
        #[arg(long)]
        tenant: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Remove components that no version names.
    Gc(Sweep),
    /// Make a pair of keys that sign components: NAME.pem and NAME.pub.pem.
    Keygen {
        /// The files' name.
        name: PathBuf,
    },
    /// Sign a component.
    Sign {
        /// The component.
        component: PathBuf,
        /// The private key, PEM.
        #[arg(short, long)]
        key: PathBuf,
        /// Where to write it; over the component, or with --detached to COMPONENT.sig, when absent.
        #[arg(short, long)]
        output: Option<PathBuf>,
        /// Write the signature into a file of its own, and leave the component alone.
        #[arg(long)]
        detached: bool,
    },
    /// Try golden vectors on a component, and put them into it.
    EmbedVectors {
        /// The component.
        component: PathBuf,
        /// The vectors, a JSON list.
        vectors: PathBuf,
        /// Where to write it; over the component when absent.
        #[arg(short, long)]
        output: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the versions in the control store.
    Versions {
        /// Only of this plugin.
        name: Option<String>,
        #[command(flatten)]
        target: Target,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write the contract into a folder: WIT files for bindings generators, and bindings for C.
    Wit {
        /// The folder.
        #[arg(default_value = "wit")]
        folder: PathBuf,
        /// Also write `routing.h`, `routing.c` and `routing_component_type.o` beside it, into this folder.
        #[arg(long)]
        c: Option<PathBuf>,
        /// The world of these, and their name: `routing-packed` writes `routing_packed.h` and so on.
        #[arg(long, default_value = "routing")]
        world: String,
    },
    /// Write bindings of the contract, as builds of projects in C, Zig, Go and TypeScript do.
    Bindings {
        /// Which.
        #[arg(value_enum)]
        kind: Bindings,
        /// The folder.
        output: PathBuf,
        /// The folder of the contract.
        #[arg(long, default_value = "wit")]
        wit: PathBuf,
        /// The world.
        #[arg(long, default_value = "routing")]
        world: String,
    },
    /// Write the contract and the SDKs into a folder, with all that they depend on, for places without a network.
    PackSdk {
        /// The folder; it is made.
        folder: PathBuf,
    },
}

/// Bindings that this program makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Bindings {
    /// A header, a source and an object that carries the world.
    C,
    /// Packages, and what describes the world to `plugin build`.
    Go,
    /// Declarations.
    Ts,
}

/// What all break-glass commands have.
#[derive(Debug, Args)]
pub(crate) struct Glass {
    #[command(flatten)]
    pub(crate) file: ConfigFile,
    /// On all nodes, by the control store; on this node alone when absent.
    #[arg(long)]
    pub(crate) everywhere: bool,
    /// Why, for status and the log of changes.
    #[arg(short, long, default_value = "")]
    pub(crate) message: String,
}

/// Whose policies.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Whom {
    /// Those of all tenants.
    #[arg(long)]
    pub(crate) all_tenants: bool,
    /// Those of this tenant; may be given several times.
    #[arg(long)]
    pub(crate) tenant: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Hold every slot at the version and configuration that it has. Plans still follow health and latency.
    Freeze {
        #[command(flatten)]
        glass: Glass,
        /// Make no new plans at all.
        #[arg(long)]
        hard: bool,
    },
    /// End a freeze.
    Thaw {
        #[command(flatten)]
        glass: Glass,
    },
    /// Serve tenants as if they had no policies of their own.
    Disable {
        #[command(flatten)]
        whom: Whom,
        #[command(flatten)]
        glass: Glass,
    },
    /// Give tenants their policies back.
    Enable {
        #[command(flatten)]
        whom: Whom,
        #[command(flatten)]
        glass: Glass,
    },
}

/// One tenant on one node.
#[derive(Debug, Args)]
pub(crate) struct TenantView {
    /// The tenant.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
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

#[derive(Debug, Subcommand)]
pub(crate) enum Usage {
    /// Requests, bytes and guest work of each tenant on this node, from its own folder; up to a few seconds ago.
    Export {
        #[command(flatten)]
        file: ConfigFile,
        /// Only so far back, such as `24h`, in whole hours; all that is kept (35 days) when absent.
        #[arg(long, value_parser = humantime::parse_duration)]
        since: Option<std::time::Duration>,
        /// How it is written.
        #[arg(long, value_enum, default_value_t = UsageFormat::Csv)]
        format: UsageFormat,
        /// A row for each hour and tenant.
        #[arg(long)]
        by_hour: bool,
    },
}

/// How an export is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum UsageFormat {
    /// Comma-separated values, with a first line of names.
    Csv,
    /// One object.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Push {
    /// The plugin's name.
    pub(crate) name: String,
    /// The component: a file, or oci://HOST/REPOSITORY:TAG in a registry.
    pub(crate) component: PathBuf,
    /// Why, for the log of changes.
    #[arg(short, long, default_value = "")]
    pub(crate) message: String,
    /// Approve of what it may do that the version which runs now may not.
    #[arg(long)]
    pub(crate) approve: bool,
    /// Signatures beside the component; COMPONENT.sig when there is one.
    #[arg(long)]
    pub(crate) signature: Option<PathBuf>,
    /// Try it with this configuration, a JSON object, instead of those of the slots that use the plugin.
    #[arg(long)]
    pub(crate) policy_config: Option<String>,
    /// Whose it is; the operator's when absent.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Sweep {
    /// Leave younger ones alone, which somebody may be about to name.
    #[arg(long, default_value = "1h")]
    pub(crate) older_than: String,
    /// Only tell.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) file: ConfigFile,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
