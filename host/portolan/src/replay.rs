//! `portolan replay` and `portolan plugin diff`: what was recorded, decided again, and what would change.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use portolan_control::{Components, Store};
use portolan_core::facts::{Facts, Verdict};
use portolan_core::ids::{Digest, PolicyName, RegionName};
use portolan_core::recording::{Binding, Class, Counts};
use portolan_policy::{Again, Compile, Engine, Limits, Replayed, Source, Version};
use portolan_recorder::{Item, Recording, Summary};
use serde::Serialize;
use serde_json::json;

use crate::cli::{Replay, Told};
use crate::config;
use crate::node::recordings::COMPONENTS;
use crate::{DIFFERS, bundled, node, print, recordings};

/// Rows of each table that are shown.
const ROWS_SHOWN: usize = 10;

/// Runs `portolan replay`.
///
/// # Errors
/// When the recording or a policy cannot be read.
pub(crate) fn run(options: &Replay) -> anyhow::Result<ExitCode> {
    let versions = Versions::of(&options.file.config);
    let question = Question {
        base: options.against.as_deref(),
        candidate: &options.policy,
        config: options.policy_config.as_deref(),
        name: options.name.as_deref(),
        span: recordings::since(options.since),
        without: None,
    };
    let answer = question.answer(&versions, &Recording::at(&options.recording))?;
    answer.tell(options.told)
}

/// Runs `portolan plugin diff`.
///
/// # Errors
/// When the recording or a policy cannot be read.
pub(crate) fn diff(
    base: &str,
    candidate: &str,
    since: Duration,
    name: Option<&str>,
    told: Told,
    config: &Path,
) -> anyhow::Result<ExitCode> {
    let versions = Versions::of(config);
    let (_, recording) = recordings::of_node(config)?;
    let span = recordings::since(Some(since));
    let question = Question { base: Some(base), candidate, config: None, name, span, without: None };
    question.answer(&versions, &recording)?.tell(told)
}

/// What a component changes of what was recorded, in words; for its author.
///
/// # Errors
/// When the recording or the component cannot be read, or no decision is of this policy.
pub(crate) fn changes(recording: &Path, component: &Path, name: Option<&str>) -> anyhow::Result<String> {
    let versions = Versions::of(Path::new("portolan.toml"));
    let candidate = component.to_str().context("the component's path is to be UTF-8")?;
    let span = recordings::since(None);
    let question = Question { base: None, candidate, config: None, name, span, without: None };
    let answer = question.answer(&versions, &Recording::at(recording))?;
    answer.any()?;
    Ok(answer.text(false))
}

/// What is to be compared.
#[derive(Clone, Debug)]
pub(crate) struct Question<'q> {
    /// With whom; with what was recorded when absent.
    pub(crate) base: Option<&'q str>,
    /// Who.
    pub(crate) candidate: &'q str,
    /// The candidate's configuration; the recorded one when absent.
    pub(crate) config: Option<&'q str>,
    /// The name under which it was recorded.
    pub(crate) name: Option<&'q str>,
    /// When, in milliseconds since 1970-01-01T00:00:00Z.
    pub(crate) span: Range<u64>,
    /// The region that the candidate believes to be down, whatever was known.
    pub(crate) without: Option<&'q RegionName>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Answer {
    /// Whose decisions were looked at.
    pub(crate) policy: String,
    /// With whom they were compared.
    pub(crate) base: String,
    /// Who decided again.
    pub(crate) candidate: String,
    /// The differences.
    #[serde(flatten)]
    pub(crate) replayed: Replayed,
    /// How it stands with the recording.
    pub(crate) recording: Summary,
}

impl Question<'_> {
    /// Decides again. Blocks, and takes all processors, politely.
    ///
    /// # Errors
    /// When the recording or a policy cannot be read.
    pub(crate) fn answer(&self, versions: &Versions, recording: &Recording) -> anyhow::Result<Answer> {
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let engine = versions.engine(threads)?;
        let (own, candidate) = versions.find(&engine, self.candidate)?;
        let base = self.base.map(|base| versions.find(&engine, base)).transpose()?;
        let name = match (self.name, &base) {
            (Some(name), _) => PolicyName::new(name)?,
            (None, Some((name, _))) => name.clone(),
            (None, None) => own,
        };
        if let Some(config) = self.config {
            let value: serde_json::Value =
                serde_json::from_str(config).context("read the policy's configuration")?;
            anyhow::ensure!(value.is_object(), "the policy's configuration is to be a JSON object");
        }
        let told = |version: &Arc<Version>| format!("{name}@{}", version.digest().short());
        let (base_told, candidate_told) = (
            base.as_ref().map_or_else(|| "recorded".to_owned(), |(_, version)| told(version)),
            told(&candidate),
        );
        let replay = portolan_policy::Replay {
            base: Again { version: base.map(|(_, version)| version), config: None },
            candidate: Again { version: Some(candidate), config: self.config.map(Arc::from) },
            engine,
            policy: name.clone(),
            threads,
        };
        let mut summary = Summary::default();
        let darkened = RefCell::new(HashMap::new());
        let replayed = replay.run(|feed| -> anyhow::Result<()> {
            summary = recording.each(self.span.clone(), |book, item| {
                if let Item::Decision(recorded) = item {
                    feed.put(recorded, |name| {
                        let binding = book.binding(name)?;
                        let Some(region) = self.without else { return Some(Arc::clone(binding)) };
                        let mut darkened = darkened.borrow_mut();
                        let dark =
                            darkened.entry(binding.name.clone()).or_insert_with(|| dark(binding, region));
                        Some(Arc::clone(dark))
                    });
                }
                ControlFlow::Continue(())
            })?;
            Ok(())
        })?;
        let policy = name.to_string();
        Ok(Answer { policy, base: base_told, candidate: candidate_told, replayed, recording: summary })
    }
}

/// What a decision refers to, with a region down in it.
fn dark(binding: &Binding, region: &RegionName) -> Arc<Binding> {
    let mut facts = Facts::clone(&binding.facts);
    if let Some(there) = facts.regions.get_mut(region) {
        there.verdict = Verdict::Down;
    }
    Arc::new(Binding { facts: Arc::new(facts), ..binding.clone() })
}

impl Answer {
    fn tell(&self, told: Told) -> anyhow::Result<ExitCode> {
        let exceeds = self.replayed.report.exceeds(told.limit);
        if told.json {
            let mut value = serde_json::to_value(self)?;
            if let Some(object) = value.as_object_mut() {
                object.insert("exceeds-limit".to_owned(), json!(exceeds));
            }
            print(&serde_json::to_string_pretty(&value)?)?;
        } else {
            print(&self.text(told.markdown))?;
        }
        self.any()?;
        Ok(if exceeds { ExitCode::from(DIFFERS) } else { ExitCode::SUCCESS })
    }

    /// Refuses when nothing was compared.
    fn any(&self) -> anyhow::Result<()> {
        if self.replayed.decisions == self.replayed.others {
            let hint = "no recorded decision is of this policy: look at the name, at --since, and at `portolan recordings list`";
            bail!("{}: {hint}", self.policy);
        }
        Ok(())
    }

    pub(crate) fn text(&self, markdown: bool) -> String {
        let Replayed { report, decisions, others, refusals, unbound } = &self.replayed;
        let mut text = String::new();
        let head = |text: &mut String, title: &str| {
            // Writing to a string cannot fail.
            if markdown { write!(text, "\n## {title}\n\n") } else { write!(text, "\n{title}\n") }.ok();
        };
        let title = format!("{}: {} against {}", self.policy, self.candidate, self.base);
        if markdown { writeln!(text, "# {title}\n") } else { writeln!(text, "{title}") }.ok();
        writeln!(
            text,
            "{} comparisons over {decisions} decisions, {others} of other policies",
            report.counts.total()
        )
        .ok();
        if report.impure {
            writeln!(text, "IMPURE: the policy answers the same question in two ways; nothing follows from what looked the same").ok();
        }
        head(&mut text, "Classes");
        if markdown {
            text.push_str("| class | decisions | samples |\n|---|---:|---|\n");
        }
        for class in Class::ALL.into_iter().filter(|class| report.counts.of(*class) > 0) {
            let ids = report.samples.get(&class).into_iter().flatten().take(3);
            let ids: Vec<String> = ids.map(ToString::to_string).collect();
            let (name, count) = (class.as_str(), report.counts.of(class));
            if markdown {
                writeln!(text, "| {name} | {count} | {} |", ids.join(" ")).ok();
            } else {
                writeln!(text, "  {name:16} {count:>9}  {}", ids.join(" ")).ok();
            }
        }
        let tables = [
            ("Routes", &report.routes),
            ("Rules", &report.rules),
            ("Tenants", &report.tenants),
            ("Regions", &report.regions),
        ];
        for (title, rows) in tables {
            let mut changed: Vec<(&String, &Counts)> =
                rows.iter().filter(|(_, counts)| counts.same < counts.total()).collect();
            changed.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.total() - counts.same));
            if changed.is_empty() {
                continue;
            }
            head(&mut text, title);
            if markdown {
                text.push_str("| where | changed | of |\n|---|---:|---:|\n");
            }
            for (name, counts) in changed.iter().take(ROWS_SHOWN) {
                let (all, different) = (counts.total(), counts.total() - counts.same);
                if markdown {
                    writeln!(text, "| {} | {different} | {all} |", escape(name)).ok();
                } else {
                    writeln!(text, "  {name:32} {different:>9} of {all}").ok();
                }
            }
            if changed.len() > ROWS_SHOWN {
                writeln!(text, "\n  and {} more", changed.len() - ROWS_SHOWN).ok();
            }
        }
        let notes = refusals.iter().map(|(reason, count)| format!("refused for {count} decisions: {reason}"));
        let missing = report.missing.iter().map(|(name, count)| {
            format!("{count} decisions are not comparable: `{name}` was not recorded, or is hidden")
        });
        let unbound =
            (*unbound > 0).then(|| format!("{unbound} decisions do not say what they were decided by"));
        let damaged = self.recording.damaged_bytes;
        let damaged =
            (damaged > 0).then(|| format!("{damaged} damaged bytes of the recording were passed over"));
        let notes: Vec<String> = notes.chain(missing).chain(unbound).chain(damaged).collect();
        if !notes.is_empty() {
            head(&mut text, "Notes");
            for note in &notes {
                writeln!(text, "{} {note}", if markdown { "-" } else { " " }).ok();
            }
        }
        text.truncate(text.trim_end().len());
        text
    }
}

/// A cell of a Markdown table; paths are written by clients.
fn escape(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    format!("`{}`", text.chars().map(clean).collect::<String>().replace('|', "\\|").replace('`', "'"))
}

/// Where versions are found: what a node kept with its recordings, what a store has, the folder of policies, and bundled ones.
#[derive(Debug)]
pub(crate) struct Versions {
    components: Option<Components>,
    engine: portolan_policy::Config,
    folders: Vec<PathBuf>,
    /// The operator's policy, as [`Self::find`] takes it.
    operator: Option<String>,
    policies: PathBuf,
    state: Option<portolan_control::State>,
}

impl Versions {
    /// Those that the node of a configuration knows; without one, files and bundled ones.
    pub(crate) fn of(path: &Path) -> Self {
        let local = path.exists().then(|| config::local(path, crate::environment()).ok()).flatten();
        let state = local.as_ref().and_then(|local| {
            let engine = local.control.as_ref()?;
            node::control_runtime().ok()?.block_on(Store::peek(engine, &local.generations())).ok()
        });
        let loaded = local.as_ref().and_then(|_| {
            config::load_intended(path, &crate::environment(), state.as_ref())
                .ok()
                .map(|loaded| loaded.config)
        });
        let limits =
            loaded.as_ref().map_or_else(Limits::standard, |config| config.components_at_most.limits());
        let cache = local.as_ref().map(|local| local.state.join("cache"));
        let engine = portolan_policy::Config {
            cache_bytes_max: portolan_policy::defaults::CACHE_BYTES_MAX,
            cache_dir: cache.filter(|cache| cache.exists()),
            compile: node::compile_in_children().unwrap_or(Compile::InProcess),
            data_threads: NonZeroUsize::MIN,
            limits,
            pool_slots: std::num::NonZeroU32::MIN,
        };
        let folders = local.iter().flat_map(|local| {
            [local.state.join(COMPONENTS), local.state.join(config::defaults::COMPONENTS_FOLDER)]
        });
        Self {
            components: local.as_ref().and_then(|local| local.components().ok().flatten()),
            engine,
            folders: folders.collect(),
            operator: loaded.as_ref().and_then(|config| config.policy.as_ref()).map(|slot| {
                match slot.version {
                    Some(version) => format!("{}@{version}", slot.name),
                    None => slot.name.to_string(),
                }
            }),
            policies: loaded.map_or_else(|| PathBuf::from("policies"), |config| config.policies_folder),
            state,
        }
    }

    /// The operator's policy, by `NAME` or `NAME@DIGEST`.
    pub(crate) fn operators(&self) -> Option<&str> {
        self.operator.as_deref()
    }

    /// An engine that decides again.
    ///
    /// # Errors
    /// When the system gives no address space or thread.
    pub(crate) fn engine(&self, threads: NonZeroUsize) -> anyhow::Result<Engine> {
        Engine::new(self.engine.clone().for_replay(threads)).context("start the policy engine")
    }

    /// A version by `NAME`, `NAME@DIGEST` or a file, with the policy's name.
    pub(crate) fn find(&self, engine: &Engine, text: &str) -> anyhow::Result<(PolicyName, Arc<Version>)> {
        let path = Path::new(text);
        if path.extension().is_some_and(|extension| extension == "wasm") {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let name = PolicyName::new(&stem.replace('_', "-").to_lowercase())
                .context("name the policy of the file with --as")?;
            return Ok((name, self.load(engine, &self.file(path)?)?));
        }
        let (name, digest) = text.split_once('@').map_or((text, None), |(name, digest)| (name, Some(digest)));
        let name = PolicyName::new(name)?;
        let source = match digest {
            None => self.present(&name)?,
            Some(digest) => self.exactly(&name, &digest.to_ascii_lowercase())?,
        };
        Ok((name, self.load(engine, &source)?))
    }

    /// A version by its whole digest.
    pub(crate) fn by_digest(
        &self,
        engine: &Engine,
        name: &PolicyName,
        digest: Digest,
    ) -> anyhow::Result<Arc<Version>> {
        self.load(engine, &self.exactly(name, &digest.to_string())?)
    }

    fn load(&self, engine: &Engine, source: &Source) -> anyhow::Result<Arc<Version>> {
        let bytes = source.read(self.engine.limits.component_bytes_max)?;
        Ok(engine.load(&bytes)?)
    }

    fn file(&self, path: &Path) -> anyhow::Result<Source> {
        Ok(Source::file(path, self.engine.limits.component_bytes_max)?)
    }

    /// A file of the name, or the bundled one.
    fn present(&self, name: &PolicyName) -> anyhow::Result<Source> {
        let path = self.policies.join(format!("{name}.wasm"));
        if path.exists() {
            return self.file(&path);
        }
        match bundled::find(name.as_str()) {
            Some(bundled) => Ok(Source::bytes(bundled.component)),
            None => bail!("there is no policy {name}: neither {} nor a bundled one", path.display()),
        }
    }

    /// The version whose digest begins so.
    fn exactly(&self, name: &PolicyName, digest: &str) -> anyhow::Result<Source> {
        let good = digest.len() >= 6 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        anyhow::ensure!(good, "`{digest}` is no version: give six or more hexadecimal digits of its SHA-256");
        if let Ok(source) = self.present(name)
            && source.digest().to_string().starts_with(digest)
        {
            return Ok(source);
        }
        for folder in &self.folders {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let mut found: Vec<PathBuf> = entries
                .map(|entry| entry.path())
                .filter(|path| {
                    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(digest))
                })
                .collect();
            if found.len() > 1 {
                bail!("several versions begin with {digest}: give more digits");
            }
            if let Some(path) = found.pop() {
                return self.file(&path);
            }
        }
        if let (Some(components), Ok(whole)) = (&self.components, self.whole(name, digest)) {
            let max = self.engine.limits.component_bytes_max;
            let path = node::control_runtime()?.block_on(components.file(whole, max))?;
            return self.file(&path);
        }
        bail!(
            "no version {digest} of {name} is known here: give a component's file, or a version of the control store"
        )
    }

    fn whole(&self, name: &PolicyName, digest: &str) -> anyhow::Result<Digest> {
        if let Ok(whole) = digest.parse() {
            return Ok(whole);
        }
        let keys = self
            .state
            .iter()
            .flat_map(portolan_control::State::objects)
            .map(|(key, _)| key.name().to_owned());
        let known = keys.filter_map(|key| key.strip_prefix(&format!("{name}@")).map(str::to_owned));
        let mut known = known.filter(|known| known.starts_with(digest));
        match (known.next(), known.next()) {
            (Some(only), None) => only.parse().map_err(|_| anyhow::anyhow!("a version's name is damaged")),
            (Some(_), Some(_)) => bail!("several versions begin with {digest}: give more digits"),
            _ => bail!("the store has no version {digest} of {name}"),
        }
    }
}
