//! `portolan plugin` in words.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{ConfigFile, Target, Told};
use crate::plugin;

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
