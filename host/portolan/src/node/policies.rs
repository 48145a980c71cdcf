//! Which component each slot is to run: a file in the folder of policies, or a bundled one.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portolan_control::{Components, Missing, State};
use portolan_core::bounds::Scope;
use portolan_core::ids::{Digest, PolicyName};
use portolan_core::rollout::Run;
use portolan_policy::{
    CandidateSpec, FailoverSpec, PlacementSpec, Refused, ResolverSpec, Signature, SignatureState, Slot,
    SlotSpec, Source, Stage, Terms, Trust,
};
use tokio::runtime::Handle;

use super::rollouts::InSlot;
use crate::config::{Config, PolicySlot};
use crate::{bundled, registry, rollout};

/// Signatures that were looked at are remembered up to this number.
const JUDGED_MAX: usize = 100_000;

/// What tells one state of a file from another without reading it: file system, inode, size, change time with nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

/// The sources of components, with what was read of them: a file is hashed again only when it has changed.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    bundled: HashMap<&'static str, Source>,
    /// Versions in the control store, and what waits for them.
    components: Option<(Components, Handle)>,
    files: HashMap<PathBuf, (Stamp, Source)>,
    /// Signatures by component and slot, with what stood beside the bytes; as long as the same keys are trusted.
    judged: HashMap<(Digest, Slot), (Option<String>, Signature)>,
    trust: Trust,
}

impl Sources {
    /// The same, with versions of the control store. Whoever looks for sources then must be allowed to block.
    pub(crate) fn with_components(components: Option<Components>, handle: &Handle) -> Self {
        let components = components.map(|components| (components, handle.clone()));
        Self { components, ..Self::default() }
    }

    /// What every slot of the configuration is to run. A rollout says which versions of the plugin that the configuration
    /// names; a version in the configuration excludes it. Signatures are judged here, by this node's own keys, whatever the
    /// store says of them.
    pub(crate) fn specs(
        &mut self,
        config: &Config,
        state: Option<&State>,
        rollouts: &HashMap<Slot, InSlot>,
        component_bytes_max: usize,
    ) -> Vec<SlotSpec> {
        self.believe(&config.uploads.trust);
        let operator = config.policy.iter().map(|policy| (Slot::Operator, policy));
        let tenants = config.tenants.iter().filter_map(|(name, tenant)| {
            tenant.policy.as_ref().map(|policy| (Slot::Tenant(name.clone()), policy))
        });
        let wanted: Vec<(Slot, &PolicySlot)> = operator.chain(tenants).collect();
        wanted
            .into_iter()
            .map(|(slot, policy)| {
                let in_slot = rollouts.get(&slot).filter(|in_slot| in_slot.rollout.plugin == policy.name);
                let in_slot = in_slot.filter(|_| policy.version.is_none());
                let pinned = Run { config: None, version: policy.version };
                let stable = in_slot.map_or(&pinned, |in_slot| &in_slot.rollout.stable);
                let mut source = |run: &Run| {
                    self.source(config, state, &slot, &policy.name, run.version, component_bytes_max)
                };
                let candidate = in_slot.and_then(|in_slot| {
                    let (run, trial) = (in_slot.rollout.candidate.as_ref()?, in_slot.trial.as_ref()?);
                    Some(CandidateSpec {
                        config: rollout::config_of(run, &policy.config),
                        part: in_slot.rollout.part(),
                        source: source(run),
                        trial: Arc::clone(trial),
                    })
                });
                let source = source(stable);
                SlotSpec {
                    candidate,
                    config: rollout::config_of(stable, &policy.config),
                    dynamic_granted: policy.dynamic_granted,
                    policy: policy.name.clone(),
                    source,
                    terms: terms(config, &slot, policy),
                    slot,
                }
            })
            .collect()
    }

    /// What the slot for placing tenants is to run; none when no policy is named.
    pub(crate) fn placement(
        &mut self,
        config: &Config,
        state: Option<&State>,
        component_bytes_max: usize,
    ) -> Option<PlacementSpec> {
        self.believe(&config.uploads.trust);
        let policy = config.placement.policy.as_ref()?;
        let (name, version) = (&policy.name, policy.version);
        let source = self.source(config, state, &Slot::Operator, name, version, component_bytes_max);
        Some(PlacementSpec { config: Arc::clone(&policy.config), policy: name.clone(), source })
    }

    /// What the slot for failover policies is to run.
    pub(crate) fn failover(
        &mut self,
        config: &Config,
        policy: &PolicySlot,
        state: Option<&State>,
        component_bytes_max: usize,
    ) -> FailoverSpec {
        self.believe(&config.uploads.trust);
        let (name, version) = (&policy.name, policy.version);
        let source = self.source(config, state, &Slot::Operator, name, version, component_bytes_max);
        FailoverSpec { config: Arc::clone(&policy.config), policy: name.clone(), source }
    }

    /// A resolver that a table names.
    pub(crate) fn resolver(
        &mut self,
        config: &Config,
        state: Option<&State>,
        (name, version): (&PolicyName, Option<Digest>),
        component_bytes_max: usize,
    ) -> ResolverSpec {
        self.believe(&config.uploads.trust);
        let source = self.source(config, state, &Slot::Operator, name, version, component_bytes_max);
        ResolverSpec { policy: name.clone(), source }
    }

    /// A version of the control store, with its signature judged by these keys. Blocks.
    ///
    /// # Errors
    /// When its bytes cannot be had, or it must be signed and is not.
    pub(super) fn of_version(
        &mut self,
        trust: &Trust,
        state: &State,
        slot: &Slot,
        (plugin, version): (&PolicyName, Digest),
        bytes_max: usize,
    ) -> Result<Source, Refused> {
        self.believe(trust);
        let detached = registry::detached(state, slot, plugin, version);
        let source = self.version(plugin, version, bytes_max)?;
        self.judge(source, slot, detached, bytes_max)
    }

    /// Forgets what other keys said of signatures.
    fn believe(&mut self, trust: &Trust) {
        if self.trust != *trust || self.judged.len() > JUDGED_MAX {
            self.trust.clone_from(trust);
            self.judged.clear();
        }
    }

    /// The component of a slot, with its signature judged.
    fn source(
        &mut self,
        config: &Config,
        state: Option<&State>,
        slot: &Slot,
        plugin: &PolicyName,
        version: Option<Digest>,
        bytes_max: usize,
    ) -> Result<Source, Refused> {
        match version {
            Some(version) => {
                let detached = state.and_then(|state| registry::detached(state, slot, plugin, version));
                let source = self.version(plugin, version, bytes_max)?;
                self.judge(source, slot, detached, bytes_max)
            }
            None => {
                let source = self.find(plugin, &config.policies_folder, bytes_max)?;
                if source.signature().is_some() {
                    return Ok(source);
                }
                let file = config.policies_folder.join(format!("{plugin}.wasm"));
                let detached = std::fs::read_to_string(registry::cli::beside(&file)).ok();
                self.judge(source, slot, detached, bytes_max)
            }
        }
    }

    fn judge(
        &mut self,
        source: Source,
        slot: &Slot,
        detached: Option<String>,
        bytes_max: usize,
    ) -> Result<Source, Refused> {
        let key = (source.digest(), slot.clone());
        let signature = match self.judged.get(&key).filter(|(beside, _)| *beside == detached) {
            Some((_, signature)) => signature.clone(),
            None => {
                let signature = self.trust.judge(&source.read(bytes_max)?, detached.as_deref(), slot);
                self.judged.insert(key, (detached, signature.clone()));
                signature
            }
        };
        self.trust.check(&signature, slot)?;
        Ok(source.signed(signature))
    }

    /// A version of the control store, from this node's own disk; fetched before if need be.
    fn version(&mut self, name: &PolicyName, version: Digest, bytes_max: usize) -> Result<Source, Refused> {
        // A copy that a broken disk or a hand has changed is fetched anew, at once: a node may be about to start with it.
        match self.copy(name, version, bytes_max)? {
            Some(source) => return Ok(source),
            None => {
                tracing::warn!(%name, version = version.short(), "this node's copy is broken, and is fetched anew")
            }
        }
        self.copy(name, version, bytes_max)?.ok_or_else(|| {
            Refused::passing(
                Stage::Read,
                format!(
                    "this node's copy of `{name}` {} is broken as soon as it is written",
                    version.short()
                ),
                "look at this node's disk; it is tried again",
            )
        })
    }

    /// The copy on this node's disk, fetched if it is not there; none when it was broken, and it is gone then.
    fn copy(
        &mut self,
        name: &PolicyName,
        version: Digest,
        bytes_max: usize,
    ) -> Result<Option<Source>, Refused> {
        let Some((components, handle)) = &self.components else {
            return Err(Refused::new(
                Stage::Read,
                format!("`{name}` names a version, and there is no place to fetch it from"),
                "set control.components to a folder that all nodes share, or use a file: remove `version`",
            ));
        };
        let file = handle.block_on(components.file(version, bytes_max)).map_err(|missing| {
            let fix = "look whether the place of components answers and has it: `portolan plugin push` puts it there";
            match missing {
                Missing::TooLarge(..) => Refused::new(Stage::Read, missing.to_string(), "raise policies.component_bytes"),
                _ => Refused::passing(Stage::Read, missing.to_string(), fix),
            }
        })?;
        let meta = std::fs::metadata(&file).map_err(|error| {
            Refused::passing(
                Stage::Read,
                format!("read `{}`: {error}", file.display()),
                "let portolan read its own folder",
            )
        })?;
        let source = self.file(file.clone(), &meta, bytes_max)?;
        if source.digest() == version {
            return Ok(Some(source));
        }
        std::fs::remove_file(&file).map_err(|error| {
            Refused::passing(
                Stage::Read,
                format!("remove the broken `{}`: {error}", file.display()),
                "let portolan write its own folder",
            )
        })?;
        Ok(None)
    }

    /// A file of the name wins over a bundled policy.
    pub(crate) fn find(
        &mut self,
        name: &PolicyName,
        folder: &Path,
        bytes_max: usize,
    ) -> Result<Source, Refused> {
        let path = folder.join(format!("{name}.wasm"));
        match std::fs::metadata(&path) {
            Ok(meta) => self.file(path, &meta, bytes_max),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.bundled(name, &path),
            Err(error) => Err(Refused::passing(
                Stage::Read,
                format!("read `{}`: {error}", path.display()),
                "let portolan read the folder of policies",
            )),
        }
    }

    fn file(&mut self, path: PathBuf, meta: &std::fs::Metadata, bytes_max: usize) -> Result<Source, Refused> {
        let stamp = (meta.dev(), meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec());
        if let Some((known, source)) = self.files.get(&path)
            && *known == stamp
        {
            return Ok(source.clone());
        }
        let source = Source::file(&path, bytes_max)?;
        self.files.insert(path, (stamp, source.clone()));
        Ok(source)
    }

    fn bundled(&mut self, name: &PolicyName, path: &Path) -> Result<Source, Refused> {
        let Some(bundled) = bundled::find(name.as_str()) else {
            let names: Vec<&str> = bundled::ALL.iter().map(|bundled| bundled.name).collect();
            let fix = if names.is_empty() {
                bundled::HOW_TO_GET_THEM.to_owned()
            } else {
                format!("put a component there, or use a bundled policy: {}", names.join(", "))
            };
            return Err(Refused::new(
                Stage::Read,
                format!("there is no policy `{name}`: no file `{}`, and no bundled one", path.display()),
                fix,
            ));
        };
        // What came with this program is as much to be believed as the program.
        let key = Some(format!("portolan {}", env!("CARGO_PKG_VERSION")));
        let signature = Signature { key, reason: None, state: SignatureState::Verified };
        let source = || Source::bytes(bundled.component).signed(signature);
        Ok(self.bundled.entry(bundled.name).or_insert_with(source).clone())
    }
}

/// What the operator says of a slot.
fn terms(config: &Config, slot: &Slot, policy: &PolicySlot) -> Terms {
    let tenant = match slot {
        Slot::Operator => None,
        Slot::Tenant(name) => config.tenants.get(name),
    };
    let scope = tenant
        .map(|tenant| Scope { bounds: Arc::clone(&tenant.bounds), residency: tenant.residency.clone() });
    Terms {
        budget: tenant.map(|tenant| tenant.budget),
        disabled: false,
        on_fail: policy.on_fail,
        scope: scope.unwrap_or_default(),
    }
}
