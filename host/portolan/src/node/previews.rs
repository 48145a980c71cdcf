//! Policies of versions that no slot runs, for requests that bring a signed word.
//!
//! What wakes it: an order of the admin API, and a request whose version is not planned here or was not looked at for some
//! seconds. What it reads: what the reconciler last gave the slots, the control store, the component on this node's disk. What it
//! writes: its own few policies, which no snapshot has. Requests never wait for it: they get what is there, or are told to come
//! again. On failure the policy that was there is gone, and its next request is told so.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portolan_admin::backend::{Preview as Made, PreviewOrder};
use portolan_admin::{Code, Problem};
use portolan_control::Components;
use portolan_core::facts::Facts;
use portolan_core::preview::{Preview, Previews as Seam, Unready};
use portolan_core::snapshot::Policy;
use portolan_core::time::Moment;
use portolan_foundation::seal::SealKey;
use portolan_foundation::{clock, task};
use portolan_policy::{Engine, Previewed, Refused, Slot, SlotSpec, Trust};
use portolan_proxy::PREVIEW_USE;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::intent::Intent;
use super::policies::Sources;
use crate::registry;
use crate::rollout::{self, words};

/// What signs words for `portolan-preview`, apart from what the node's key is used for otherwise.
const PURPOSE: &str = "portolan 2026 words for portolan-preview";
/// Versions that are planned at the same time: what slots need is planned on as many threads as there are processors, and has
/// to come through beside them.
const PLANNED_AT_ONCE: usize = 1;
/// Versions of one slot: two to compare, and two from before.
const OF_SLOT_MAX: usize = 4;
/// Versions of all slots. Each takes as much memory as a slot's policy.
const KEPT_MAX: usize = 64;
/// A version that nobody asked for that long makes room for another slot's.
const IDLE: Duration = Duration::from_secs(60);
/// After this time without a request a version is dropped.
const KEPT_FOR: Duration = Duration::from_secs(15 * 60);
/// How long what was found stands before it is looked at again: whether the version is still there, and what it reads.
const FRESH: Duration = Duration::from_secs(5);
/// After this time without another look a version decides nothing until there was one: looks wait for each other, and who
/// switched a policy off must not wait for all of them.
const STALE: Duration = Duration::from_secs(30);

/// All that is previewed on this node. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Previews(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    engine: Engine,
    handle: Handle,
    intent: Intent,
    kept: Mutex<HashMap<Preview, Entry>>,
    key: SealKey,
    offered: Mutex<Arc<Offered>>,
    places: Arc<Semaphore>,
    sources: Mutex<Sources>,
}

/// What the slots of this node are to run, as of the last pass.
#[derive(Debug, Default)]
struct Offered {
    facts: Option<Arc<Facts>>,
    specs: HashMap<Slot, SlotSpec>,
    trust: Trust,
}

#[derive(Debug)]
struct Entry {
    found: Option<Found>,
    is_made: bool,
    looked_at: Moment,
    used_at: Moment,
}

/// What came of a look at a version.
type Found = Result<Previewed, Trouble>;

/// Why a version decides nothing.
#[derive(Clone, Debug)]
enum Trouble {
    /// The slot may not run it; the text says why not.
    Gone(String),
    Refused(Refused),
}

/// Why a look at a version does not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    /// Another of the same slot is looked at.
    Busy,
    /// All places are taken by versions that are asked for.
    NoPlace,
}

impl Previews {
    pub(crate) fn new(
        engine: Engine,
        intent: Intent,
        components: Option<Components>,
        handle: &Handle,
        node_key: SealKey,
    ) -> Self {
        Self(Arc::new(Inner {
            engine,
            handle: handle.clone(),
            intent,
            kept: Mutex::default(),
            key: node_key.for_purpose(PURPOSE),
            offered: Mutex::default(),
            places: Arc::new(Semaphore::new(PLANNED_AT_ONCE)),
            sources: Mutex::new(Sources::with_components(components, handle)),
        }))
    }

    /// Whose words the data plane is to believe.
    pub(crate) fn key(&self) -> SealKey {
        self.0.key
    }

    /// How many versions are looked at.
    pub(crate) fn count(&self) -> u64 {
        self.0.kept().len() as u64
    }

    /// Takes over what slots are to run. What nobody asks for any more is dropped.
    pub(crate) fn follow(&self, specs: Vec<SlotSpec>, facts: Arc<Facts>, trust: &Trust) {
        let specs: HashMap<Slot, SlotSpec> =
            specs.into_iter().map(|spec| (spec.slot.clone(), spec)).collect();
        // What a slot may not run any more decides nothing from now on.
        let stands = |preview: &Preview, entry: &Entry| {
            let spec = specs.get(&preview.slot);
            entry.is_made || spec.is_some_and(|spec| spec.policy == preview.plugin && !spec.terms.disabled)
        };
        self.0.kept().retain(|preview, entry| stands(preview, entry));
        let offered = Offered { facts: Some(facts), specs, trust: trust.clone() };
        *self.0.offered.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(offered);
        let now = clock::now();
        self.0.kept().retain(|_, entry| entry.is_made || now.since(entry.used_at) < KEPT_FOR);
    }

    /// Makes a word, after its version was planned here.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn order(&self, order: PreviewOrder) -> Result<Made, Problem> {
        let PreviewOrder { expires_at_ms, slot, tenant, version } = order;
        let wanted = self.0.wanted(&slot, &version)?;
        let begun = self.0.begin(&wanted, clock::now());
        begun.map_err(|full| {
            Problem::new(
                Code::TooMany,
                match full {
                    Full::Busy => "another version of this slot is being planned: wait for it",
                    Full::NoPlace => {
                        "as many versions are looked at on this node as it keeps: try again in a minute"
                    }
                },
            )
        })?;
        let (previews, made) = (self.clone(), wanted.clone());
        // A task of its own: whoever asked may go away, and the place is given back all the same.
        _ = task::spawn("preview", async move { previews.make(made).await }).await;
        let found = self.0.kept().get(&wanted).and_then(|entry| entry.found.clone());
        match found {
            Some(Ok(_)) => {}
            Some(Err(Trouble::Gone(why))) => return Err(Problem::new(Code::NotFound, why)),
            Some(Err(Trouble::Refused(refused))) => {
                let Refused { stage, reason, fix, .. } = refused;
                let problem = Problem::new(Code::Refused, format!("refused at {stage}: {reason}; {fix}"));
                return Err(problem.at(format!("/{stage}"), reason));
            }
            None => return Err(Problem::internal("a preview was planned and is not there")),
        }
        let tenant = tenant.map(|tenant| tenant.to_string());
        let word = self.0.key.seal_about(PREVIEW_USE, tenant.as_deref(), &wanted.to_string(), expires_at_ms);
        Ok(Made {
            expires_at_ms,
            header: "portolan-preview".to_owned(),
            plugin: wanted.plugin.to_string(),
            slot,
            tenant,
            version: wanted.version.to_string(),
            word,
        })
    }

    /// Looks at a version when there is a place for that, and notes what was found.
    async fn make(&self, wanted: Preview) {
        // It is never closed, and a look without a place would hurt nobody for long.
        let place = Arc::clone(&self.0.places).acquire_owned().await.ok();
        let (inner, looked_for) = (Arc::clone(&self.0), wanted.clone());
        let found = tokio::task::spawn_blocking(move || inner.look(&looked_for)).await;
        drop(place);
        let found = found.unwrap_or_else(|error| {
            tracing::error!("a preview could not be planned, please report this: {error}");
            Err(Trouble::Gone("the host failed over this version".to_owned()))
        });
        let mut kept = self.0.kept();
        if let Some(entry) = kept.get_mut(&wanted) {
            // A refusal that may pass says nothing against what was found before.
            let found = match (&entry.found, found) {
                (Some(Ok(before)), Err(Trouble::Refused(refused))) if refused.transient => Ok(before.clone()),
                (_, found) => found,
            };
            *entry = Entry { found: Some(found), is_made: false, looked_at: clock::now(), ..*entry };
        }
    }
}

impl Seam for Previews {
    fn find(&self, wanted: &Preview) -> Result<Arc<Policy>, Unready> {
        let now = clock::now();
        let found = self.0.kept().get_mut(wanted).map(|entry| {
            entry.used_at = now;
            let age = now.since(entry.looked_at);
            let found = entry.found.clone().filter(|_| age < STALE);
            (found, entry.is_made || age < FRESH)
        });
        let (found, is_fresh) = found.unwrap_or((None, false));
        if !is_fresh && self.0.begin(wanted, now).is_ok() {
            // Not on the data thread that asks.
            let _entered = self.0.handle.enter();
            let (previews, wanted) = (self.clone(), wanted.clone());
            task::spawn("preview", async move { previews.make(wanted).await });
        }
        match found {
            Some(Ok(previewed)) => Ok(Arc::clone(previewed.policy())),
            Some(Err(Trouble::Gone(_))) => Err(Unready::Gone),
            Some(Err(Trouble::Refused(_))) => Err(Unready::Refused),
            None => Err(Unready::Soon),
        }
    }
}

impl Inner {
    fn kept(&self) -> MutexGuard<'_, HashMap<Preview, Entry>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offered(&self) -> Arc<Offered> {
        Arc::clone(&self.offered.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The version that is meant: of the plugin that the slot runs, among those that the slot may run.
    fn wanted(&self, slot: &str, version: &str) -> Result<Preview, Problem> {
        let missing = |detail: String| Problem::new(Code::NotFound, detail);
        let slot = rollout::slot(slot).map_err(missing)?;
        let state = self.intent.state().ok_or_else(|| {
            let detail =
                "without a control store there are no versions: name one in `[control]`, and push into it";
            Problem::new(Code::NoStore, detail)
        })?;
        let offered = self.offered();
        let spec = offered.specs.get(&slot);
        let spec =
            spec.ok_or_else(|| missing(format!("no policy is configured for {slot}: add `use` to it")))?;
        let (plugin, version) = match version.contains('@') {
            true => words::split(version).map_err(missing)?,
            false => (spec.policy.clone(), version),
        };
        if plugin != spec.policy {
            let detail = format!("{slot} runs the plugin {}, not {plugin}", spec.policy);
            return Err(Problem::new(Code::Conflict, &*detail).at("/version", detail.clone()));
        }
        let found = words::find(&state, &slot, &plugin, version).map_err(missing)?;
        let version = found.ok_or_else(|| missing("a file is no version: push it".to_owned()))?;
        Ok(Preview { plugin, slot, version })
    }

    /// Takes a place for a look at a version. Slots have few and wait for none but themselves; what somebody asks for is not put
    /// out for another.
    fn begin(&self, wanted: &Preview, now: Moment) -> Result<(), Full> {
        let mut kept = self.kept();
        if kept.iter().any(|(other, entry)| other.slot == wanted.slot && entry.is_made) {
            return Err(Full::Busy);
        }
        if let Some(entry) = kept.get_mut(wanted) {
            entry.is_made = true;
            return Ok(());
        }
        let oldest = |kept: &HashMap<Preview, Entry>, may_go: &dyn Fn(&Preview, &Entry) -> bool| {
            let all = kept.iter().filter(|(other, entry)| !entry.is_made && may_go(other, entry));
            all.min_by_key(|(_, entry)| entry.used_at).map(|(other, _)| other.clone())
        };
        let of_slot = kept.keys().filter(|other| other.slot == wanted.slot).count();
        let gone = if of_slot >= OF_SLOT_MAX {
            oldest(&kept, &|other, _| other.slot == wanted.slot)
        } else if kept.len() >= KEPT_MAX {
            Some(oldest(&kept, &|_, entry| now.since(entry.used_at) >= IDLE).ok_or(Full::NoPlace)?)
        } else {
            None
        };
        gone.into_iter().for_each(|gone| _ = kept.remove(&gone));
        kept.insert(wanted.clone(), Entry { found: None, is_made: true, looked_at: now, used_at: now });
        Ok(())
    }

    /// Is the version still one that the slot may run, and what policy does it make there? Blocks.
    fn look(&self, wanted: &Preview) -> Found {
        let gone = |why: String| Err(Trouble::Gone(why));
        let offered = self.offered();
        let (Some(state), Some(facts)) = (self.intent.state(), &offered.facts) else {
            return gone("this node runs nothing yet".to_owned());
        };
        let Preview { plugin, slot, version } = wanted;
        let Some(spec) = offered.specs.get(slot).filter(|spec| spec.policy == *plugin) else {
            return gone(format!("{slot} does not run the plugin {plugin}"));
        };
        if spec.terms.disabled {
            return gone(format!("the policy of {slot} is switched off by hand (`portolan policy enable`)"));
        }
        // What the store names has come through all stages of an upload.
        if registry::find(&state, slot, plugin, *version).is_none() {
            return gone(format!(
                "the store has no version {} of {plugin} that {slot} may run",
                version.short()
            ));
        }
        let bytes_max = self.engine.config().limits.component_bytes_max;
        let source = {
            let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
            sources.of_version(&offered.trust, &state, slot, (plugin, *version), bytes_max)
        };
        let spec = SlotSpec { candidate: None, source, ..spec.clone() };
        let before = self.kept().get(wanted).and_then(|entry| entry.found.clone());
        if let (Some(Ok(before)), Ok(_)) = (before, &spec.source)
            && before.holds(&spec, facts)
        {
            return Ok(before);
        }
        self.engine.preview(&spec, facts).map_err(Trouble::Refused)
    }
}

#[cfg(test)]
mod tests {
    use portolan_core::ids::{Digest, PolicyName, TenantName};

    use super::*;

    fn inner(handle: &Handle) -> Previews {
        let engine = Engine::new(portolan_policy::Config {
            cache_bytes_max: 0,
            cache_dir: None,
            compile: portolan_policy::Compile::InProcess,
            data_threads: std::num::NonZeroUsize::MIN,
            limits: portolan_policy::Limits::standard(),
            pool_slots: std::num::NonZeroU32::MIN,
        });
        Previews::new(engine.unwrap(), Intent::Files, None, handle, SealKey::new([1; 32]))
    }

    fn wanted(tenant: usize, version: u8) -> Preview {
        let slot = Slot::Tenant(TenantName::new(&format!("t{tenant}")).unwrap());
        Preview { plugin: PolicyName::new("mine").unwrap(), slot, version: Digest([version; 32]) }
    }

    #[tokio::test]
    async fn slots_have_few_places_and_put_nobody_out_who_is_asked_for() {
        let previews = inner(&Handle::current());
        let begin = |tenant, version, ms: u64| {
            let begun = previews.0.begin(&wanted(tenant, version), Moment(ms * 1_000));
            if let Some(entry) = previews.0.kept().get_mut(&wanted(tenant, version)) {
                entry.is_made = false;
            }
            begun
        };
        // The fifth of a slot takes the place of its oldest.
        (0..5).for_each(|version| begin(0, version, u64::from(version)).unwrap());
        let of_slot: Vec<u8> =
            (0..5).filter(|version| previews.0.kept().contains_key(&wanted(0, *version))).collect();
        assert_eq!(of_slot, [1, 2, 3, 4]);
        // Others fill the rest, and then nobody's place is taken, until somebody is not asked for.
        (1..=KEPT_MAX - 4).for_each(|tenant| begin(tenant, 0, 10).unwrap());
        assert_eq!(begin(1_000, 0, 20), Err(Full::NoPlace));
        assert_eq!(begin(0, 9, 20), Ok(()), "a slot with places of its own has one");
        assert_eq!(begin(1_000, 0, 70_000), Ok(()));
        assert_eq!(previews.0.kept().len(), KEPT_MAX);
        // One of a slot at a time.
        let (one, other) = (wanted(1_000, 0), wanted(1_000, 1));
        previews.0.begin(&one, Moment(1)).unwrap();
        assert_eq!(previews.0.begin(&other, Moment(1)), Err(Full::Busy));
        assert_eq!(previews.0.begin(&one, Moment(1)), Err(Full::Busy));
    }

    #[tokio::test]
    async fn without_a_store_there_is_nothing_to_look_at() {
        let previews = inner(&Handle::current());
        let order = PreviewOrder {
            expires_at_ms: u64::MAX,
            slot: "operator".to_owned(),
            tenant: None,
            version: "mine@abcdef".to_owned(),
        };
        assert_eq!(previews.order(order).await.unwrap_err().code, Code::NoStore);
        assert_eq!(previews.find(&wanted(1, 1)).unwrap_err(), Unready::Soon);
        while previews.0.kept().values().any(|entry| entry.is_made) {
            tokio::task::yield_now().await;
        }
        assert_eq!(previews.find(&wanted(1, 1)).unwrap_err(), Unready::Gone);
    }
}
