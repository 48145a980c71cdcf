//! What the operator wrote: text → tree → checked shape → `Raw` → [`Config`]. All problems are found at once, each with its
//! file, line and column.
//!
//! `portolan.toml` comes first, then `conf.d/*.toml` beside it in the order of their names, then the environment
//! (`PORTOLAN__NODE__REGION=eu-west`). Files add to each other; the same key in two files is a problem, so that nothing
//! is overridden by accident. Only the environment overrides.

mod build;
pub(crate) mod defaults;
pub(crate) mod intent;
mod problem;
mod raw;
mod shape;
mod tree;

use std::path::{Path, PathBuf};

use portolan_control::{Away, Components, Engine, Shared, State};

pub(crate) use self::build::{
    AccessLog, AdminConfig, AdminTls, Authority, Config, DnsConfig, DnsPush, FailoverPolicy, GatewayTls,
    LogFormat, Moving, OidcKeys, PolicySlot, PoolConfig, QueryConfig, Quota, RegionConfig, ShardConfig,
    Uploads, written,
};
pub(crate) use self::problem::{Problem, render};
use self::raw::Raw;
use self::tree::Tree;

/// The text of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// A configuration that was read, with the files it came from.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) sources: Vec<Source>,
}

/// Why there is no configuration.
#[derive(Debug)]
pub(crate) struct Rejected {
    pub(crate) problems: Vec<Problem>,
    pub(crate) sources: Vec<Source>,
}

/// What `[policies]` says of components, where it says something else than the engine's own limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ComponentsAtMost {
    /// Bytes of one.
    pub(crate) bytes: Option<usize>,
    /// Processor time of compiling one, in seconds.
    pub(crate) compile_seconds: Option<u64>,
}

impl ComponentsAtMost {
    /// The engine's limits with these.
    pub(crate) fn limits(self) -> portolan_policy::Limits {
        let mut limits = portolan_policy::Limits::standard();
        limits.component_bytes_max = self.bytes.unwrap_or(limits.component_bytes_max);
        if let Some(seconds) = self.compile_seconds {
            limits.compile_cpu_seconds_max = seconds;
            limits.compile_wall_max = std::time::Duration::from_secs(seconds);
        }
        limits
    }
}

/// What a node knows of itself before it knows what is intended.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    /// Limits of the policy engine that are not its own.
    pub(crate) components_at_most: ComponentsAtMost,
    /// Where components are kept that all nodes share.
    pub(crate) components: Option<Shared>,
    /// Where intent is kept; none for `conf.d`.
    pub(crate) control: Option<Engine>,
    /// Its folder.
    pub(crate) state: PathBuf,
    /// What uploads are held to.
    pub(crate) uploads: Uploads,
}

impl Local {
    /// Components by their digests; none without a place for them.
    ///
    /// # Errors
    /// When the folders cannot be used.
    pub(crate) fn components(&self) -> Result<Option<Components>, Away> {
        components(self.components.as_ref(), &self.state)
    }

    /// Where it keeps generations of intent.
    pub(crate) fn generations(&self) -> PathBuf {
        self.state.join("generations")
    }
}

/// Components in a shared place and a node's own folder.
///
/// # Errors
/// When one of them cannot be used.
pub(crate) fn components(shared: Option<&Shared>, state: &Path) -> Result<Option<Components>, Away> {
    let own = state.join(defaults::COMPONENTS_FOLDER);
    shared.map(|shared| Components::open(shared, &own)).transpose()
}

/// Reads what a node knows of itself. Only what is needed for that is checked.
///
/// # Errors
/// All problems at once.
pub(crate) fn local(
    path: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Local, Box<Rejected>> {
    let mut problems = Vec::new();
    let mut tree = Tree::default();
    let source = match text(path) {
        Ok(source) => source,
        Err(problem) => return Err(Box::new(Rejected { problems: vec![problem], sources: Vec::new() })),
    };
    tree.add_file(0, &source.text, &mut problems);
    tree.add_environment(environment, &mut problems);
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let local = build::local(&tree, folder, &mut problems);
    match local {
        Some(local) if problems.is_empty() => Ok(local),
        _ => Err(Box::new(Rejected { problems, sources: vec![source] })),
    }
}

/// Reads everything: the first file, then what is intended, or without a control store (`None`) `conf.d`. `environment` are
/// the variables of the process.
///
/// # Errors
/// All problems at once.
pub(crate) fn load(
    path: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
    intended: Option<Vec<Source>>,
) -> Result<Loaded, Box<Rejected>> {
    let sources = match intended {
        Some(intended) => text(path).map(|first| std::iter::once(first).chain(intended).collect()),
        None => sources(path),
    };
    match sources {
        Ok(sources) => read(sources, environment, path.parent().unwrap_or_else(|| Path::new("."))),
        Err(problem) => Err(Box::new(Rejected { problems: vec![problem], sources: Vec::new() })),
    }
}

/// Reads the first file and what is intended: the objects of a control store, or without one (`None`) `conf.d`.
///
/// # Errors
/// All problems at once.
pub(crate) fn load_intended(
    path: &Path,
    environment: &[(String, String)],
    state: Option<&State>,
) -> Result<Loaded, Box<Rejected>> {
    let Some(state) = state else { return load(path, environment.iter().cloned(), None) };
    let first = text(path).map_err(|problem| Rejected { problems: vec![problem], sources: Vec::new() })?;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let mut problems = Vec::new();
    let mut tree = Tree::default();
    tree.add_file(0, &first.text, &mut problems);
    for (section, value) in intent::sections(state) {
        tree.add_section(section, value, &mut problems);
    }
    tree.add_environment(environment.iter().cloned(), &mut problems);
    if let Some(config) = finish(&tree, folder, &mut problems) {
        return Ok(Loaded { config, sources: vec![first] });
    }
    // Something is wrong: where, texts can tell. With ten thousand objects that takes its time.
    load(path, environment.iter().cloned(), Some(intent::sources(state)))
}

/// The same over texts that are in memory. Relative paths are taken from `folder`.
///
/// # Errors
/// All problems at once.
pub(crate) fn read(
    sources: Vec<Source>,
    environment: impl IntoIterator<Item = (String, String)>,
    folder: &Path,
) -> Result<Loaded, Box<Rejected>> {
    let mut problems = Vec::new();
    let mut tree = Tree::default();
    for (number, source) in sources.iter().enumerate() {
        tree.add_file(number, &source.text, &mut problems);
    }
    tree.add_environment(environment, &mut problems);
    if let Some(config) = finish(&tree, folder, &mut problems) {
        return Ok(Loaded { config, sources });
    }
    debug_assert!(!problems.is_empty(), "a configuration is refused with a reason");
    problems.sort_by_key(Problem::place);
    Err(Box::new(Rejected { problems, sources }))
}

/// From the tree to what it means.
fn finish(tree: &Tree, folder: &Path, problems: &mut Vec<Problem>) -> Option<Config> {
    // What is missing from a file that does not read is nobody's fault.
    if problems.is_empty() {
        shape::check(tree, &schema(), problems);
    }
    if !problems.is_empty() {
        return None;
    }
    match serde::Deserialize::deserialize(tree.to_value()) {
        Ok(raw) => build::build(raw, tree, folder, problems).filter(|_| problems.is_empty()),
        Err(error) => {
            let error: toml::de::Error = error;
            problems.push(Problem::nowhere(error.message().to_owned()));
            None
        }
    }
}

/// The JSON Schema of the configuration, from the types that read it.
pub(crate) fn schema() -> serde_json::Value {
    let mut schema =
        schemars::generate::SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Raw>();
    schema
        .insert("title".to_owned(), "The configuration of portolan (portolan.toml and conf.d/*.toml)".into());
    schema.to_value()
}

/// The folder of further files beside the first.
pub(crate) fn conf_d(path: &Path) -> PathBuf {
    path.parent().unwrap_or_else(|| Path::new("")).join("conf.d")
}

fn text(path: &Path) -> Result<Source, Problem> {
    std::fs::read_to_string(path).map(|text| Source { path: path.to_owned(), text }).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "; `portolan init` writes a first one, `--config FILE` names another"
            }
            std::io::ErrorKind::InvalidData => "; a configuration is UTF-8",
            _ => "",
        };
        Problem::nowhere(format!("read {}: {error}{hint}", path.display()))
    })
}

fn sources(path: &Path) -> Result<Vec<Source>, Problem> {
    let mut sources = vec![text(path)?];
    sources.extend(more_sources(path)?);
    Ok(sources)
}

/// The files of `conf.d`.
pub(crate) fn more_sources(path: &Path) -> Result<Vec<Source>, Problem> {
    let mut sources = Vec::new();
    let folder = conf_d(path);
    let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(sources) };
    let mut more: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    // Editors leave hidden files and backups; only whole names that end in .toml count.
    more.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".toml") && !name.starts_with('.')
    });
    more.sort();
    for path in more {
        sources.push(text(&path)?);
    }
    Ok(sources)
}

#[cfg(test)]
mod tests;
