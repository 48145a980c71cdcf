//! What stands in a segment, as JSON: decisions, and once each what they refer to. Fields may be added, never changed; what a
//! reader does not know it passes over.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Weak};

use portolan_core::decide::FailRule;
use portolan_core::facts::{Facts, RegionFacts, Verdict};
use portolan_core::ids::{Digest, PolicyName, PoolName, RegionName, ResidencyName, TenantName};
use portolan_core::lane::Slot;
use portolan_core::recording::{Binding, Ran, Recorded};
use portolan_core::snapshot::Policy;
use serde::{Deserialize, Serialize};

use crate::frame;

/// One entry.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Entry<'a> {
    Begin(Begin<'a>),
    Binding(BindingForm<'a>),
    Decision(Cow<'a, Recorded>),
    Facts(FactsForm<'a>),
    Ran(Cow<'a, Ran>),
}

/// Where a segment comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begin<'a> {
    /// The node's name.
    pub node: Cow<'a, str>,
    /// When it began, in milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
    /// The program's version.
    #[serde(default)]
    pub version: Cow<'a, str>,
}

#[derive(Debug, Serialize, Deserialize)]
struct BindingForm<'a> {
    name: Cow<'a, str>,
    slot: Cow<'a, Slot>,
    policy: PolicyName,
    digest: Digest,
    config: Cow<'a, str>,
    facts: Cow<'a, str>,
    #[serde(default)]
    on_fail: FailRule,
}

#[derive(Debug, Serialize, Deserialize)]
struct FactsForm<'a> {
    #[serde(default)]
    name: Cow<'a, str>,
    local: RegionName,
    latency_us: Vec<(RegionName, RegionName, u32)>,
    now_ms: u64,
    regions: BTreeMap<RegionName, RegionForm>,
    residencies: BTreeMap<ResidencyName, BTreeSet<RegionName>>,
    seed: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct RegionForm {
    pools: BTreeSet<PoolName>,
    verdict: u8,
}

impl FactsForm<'_> {
    fn of(facts: &Facts) -> Self {
        let latency = |((from, to), us): (&(RegionName, RegionName), &u32)| (from.clone(), to.clone(), *us);
        let region = |(name, region): (&RegionName, &RegionFacts)| {
            (name.clone(), RegionForm { pools: region.pools.clone(), verdict: region.verdict as u8 })
        };
        Self {
            name: Cow::Borrowed(""),
            local: facts.local.clone(),
            latency_us: facts.latency_us.iter().map(latency).collect(),
            now_ms: facts.now_ms,
            regions: facts.regions.iter().map(region).collect(),
            residencies: facts.residencies.clone(),
            seed: facts.seed,
        }
    }

    fn into_facts(self) -> Facts {
        let region = |(name, form): (RegionName, RegionForm)| {
            (name, RegionFacts { pools: form.pools, verdict: Verdict::from_code(form.verdict) })
        };
        Facts {
            local: self.local,
            latency_us: self.latency_us.into_iter().map(|(from, to, us)| ((from, to), us)).collect(),
            now_ms: self.now_ms,
            regions: self.regions.into_iter().map(region).collect(),
            residencies: self.residencies,
            seed: self.seed,
        }
    }
}

/// A short hash that names what it is of.
fn name_of(parts: &[&[u8]]) -> Box<str> {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    hasher.finalize().to_hex().get(..24).unwrap_or_default().into()
}

/// Names for policies and facts, found by their addresses while they live.
#[derive(Debug, Default)]
pub(crate) struct Names {
    bindings: HashMap<usize, (Weak<Policy>, Arc<Binding>)>,
    facts: HashMap<usize, (Weak<Facts>, Box<str>)>,
}

/// Names that are remembered before those of the dead are forgotten.
const NAMES_MAX: usize = 16 * 1024;

impl Names {
    /// The binding of a policy in a slot.
    pub(crate) fn binding(&mut self, policy: &Arc<Policy>, slot: &Slot) -> Arc<Binding> {
        let address = Arc::as_ptr(policy) as usize;
        if let Some((known, binding)) = self.bindings.get(&address)
            && known.strong_count() > 0
            && binding.slot == *slot
        {
            return Arc::clone(binding);
        }
        if self.bindings.len() >= NAMES_MAX {
            self.bindings.retain(|_, (policy, _)| policy.strong_count() > 0);
            self.facts.retain(|_, (facts, _)| facts.strong_count() > 0);
        }
        let facts = self.facts(&policy.facts);
        let slot_text = slot.to_string();
        let name = name_of(&[
            slot_text.as_bytes(),
            policy.name.as_str().as_bytes(),
            &policy.digest.0,
            policy.config.as_bytes(),
            facts.as_bytes(),
            &[policy.on_fail as u8],
        ]);
        let binding = Arc::new(Binding {
            name,
            slot: slot.clone(),
            policy: policy.name.clone(),
            digest: policy.digest,
            config: Arc::clone(&policy.config),
            facts: Arc::clone(&policy.facts),
            on_fail: policy.on_fail,
        });
        self.bindings.insert(address, (Arc::downgrade(policy), Arc::clone(&binding)));
        binding
    }

    fn facts(&mut self, facts: &Arc<Facts>) -> Box<str> {
        let address = Arc::as_ptr(facts) as usize;
        match self.facts.get(&address) {
            Some((known, name)) if known.strong_count() > 0 => name.clone(),
            _ => {
                let name = facts_name(facts);
                self.facts.insert(address, (Arc::downgrade(facts), name.clone()));
                name
            }
        }
    }
}

fn facts_name(facts: &Facts) -> Box<str> {
    name_of(&[&serde_json::to_vec(&FactsForm::of(facts)).unwrap_or_default()])
}

/// Writes entries, and before each what it refers to, once.
#[derive(Debug, Default)]
pub(crate) struct Pen {
    written: HashSet<Box<str>>,
    /// The names of facts by their addresses, which live as long as their bindings here.
    facts: HashMap<usize, (Arc<Facts>, Box<str>)>,
    /// Frames that wait to be taken.
    pub(crate) out: Vec<u8>,
    /// Entries that were too large.
    pub(crate) refused: u64,
}

impl Pen {
    /// Begins a segment: nothing is written yet.
    pub(crate) fn begin(&mut self, begin: &Begin<'_>) {
        self.written.clear();
        self.facts.clear();
        self.out.extend_from_slice(frame::HEAD);
        self.write(&Entry::Begin(begin.clone()));
    }

    /// A decision with the bindings that it names.
    pub(crate) fn decision<'b>(
        &mut self,
        recorded: &Recorded,
        bindings: impl IntoIterator<Item = &'b Arc<Binding>>,
    ) {
        bindings.into_iter().for_each(|binding| self.binding(binding));
        self.write(&Entry::Decision(Cow::Borrowed(recorded)));
    }

    /// What runs.
    pub(crate) fn ran<'b>(&mut self, ran: &Ran, bindings: impl IntoIterator<Item = &'b Arc<Binding>>) {
        bindings.into_iter().for_each(|binding| self.binding(binding));
        self.write(&Entry::Ran(Cow::Borrowed(ran)));
    }

    fn binding(&mut self, binding: &Arc<Binding>) {
        if self.written.contains(&binding.name) {
            return;
        }
        let address = Arc::as_ptr(&binding.facts) as usize;
        let facts = match self.facts.get(&address) {
            Some((_, name)) => name.clone(),
            None => {
                let name = facts_name(&binding.facts);
                self.facts.insert(address, (Arc::clone(&binding.facts), name.clone()));
                if self.written.insert(name.clone()) {
                    let form = FactsForm { name: Cow::Borrowed(&name), ..FactsForm::of(&binding.facts) };
                    self.write(&Entry::Facts(form));
                }
                name
            }
        };
        self.write(&Entry::Binding(BindingForm {
            name: Cow::Borrowed(&binding.name),
            slot: Cow::Borrowed(&binding.slot),
            policy: binding.policy.clone(),
            digest: binding.digest,
            config: Cow::Borrowed(&binding.config),
            facts: Cow::Borrowed(&facts),
            on_fail: binding.on_fail,
        }));
        self.written.insert(binding.name.clone());
    }

    fn write(&mut self, entry: &Entry<'_>) {
        let written = serde_json::to_vec(entry).is_ok_and(|bytes| frame::write(&mut self.out, &bytes));
        self.refused += u64::from(!written);
    }
}

/// What is left of an entry without a tenant.
pub(crate) enum Left {
    All,
    Nothing,
    Part(Vec<u8>),
}

/// Is a decision a tenant's? Its name may be hidden in the picture, and then the slot that was asked tells.
pub(crate) fn is_of(recorded: &Recorded, tenant: &TenantName) -> bool {
    let own = |slot: &Slot| matches!(slot, Slot::Tenant(name) if name == tenant);
    recorded.picture.tenant().as_ref() == Some(tenant)
        || recorded.slots.iter().any(|decision| own(&decision.slot))
}

/// Takes a tenant out of an entry. One that does not read goes when it has the tenant's name.
pub(crate) fn without(entry: &[u8], tenant: &TenantName) -> Left {
    let slot = Slot::Tenant(tenant.clone());
    match serde_json::from_slice(entry) {
        Ok(Entry::Decision(recorded)) if is_of(&recorded, tenant) => Left::Nothing,
        Ok(Entry::Binding(form)) if *form.slot == slot => Left::Nothing,
        Ok(Entry::Ran(ran)) if ran.slots.iter().any(|(ran, _)| *ran == slot) => {
            let mut ran = ran.into_owned();
            ran.slots.retain(|(ran, _)| *ran != slot);
            serde_json::to_vec(&Entry::Ran(Cow::Owned(ran))).map_or(Left::Nothing, Left::Part)
        }
        Ok(_) => Left::All,
        Err(_) => {
            let name = tenant.as_str().as_bytes();
            if entry.windows(name.len()).any(|part| part == name) { Left::Nothing } else { Left::All }
        }
    }
}

/// What a reader has learnt of a segment.
#[derive(Clone, Debug, Default)]
pub struct Book {
    facts: HashMap<Box<str>, Arc<Facts>>,
    bindings: HashMap<Box<str>, Arc<Binding>>,
}

/// What stands in a recording, apart from what is only referred to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A decision.
    Decision(Box<Recorded>),
    /// What ran from then on.
    Ran(Ran),
}

/// What one entry was.
#[derive(Debug)]
pub(crate) enum Read {
    Begin,
    Item(Item),
    /// Noted in the book.
    Noted,
    /// Of a newer program, or damaged in a way that its checksum does not know.
    Unknown,
}

impl Book {
    /// A binding by its name.
    #[must_use]
    pub fn binding(&self, name: &str) -> Option<&Arc<Binding>> {
        self.bindings.get(name)
    }

    pub(crate) fn read(&mut self, entry: &[u8]) -> Read {
        match serde_json::from_slice(entry) {
            Ok(Entry::Begin(_)) => {
                *self = Self::default();
                Read::Begin
            }
            Ok(Entry::Facts(mut form)) => {
                let name = std::mem::take(&mut form.name);
                self.facts.insert(name.into(), Arc::new(form.into_facts()));
                Read::Noted
            }
            Ok(Entry::Binding(form)) => {
                let Some(facts) = self.facts.get(&*form.facts) else { return Read::Unknown };
                let binding = Binding {
                    name: form.name.into(),
                    slot: form.slot.into_owned(),
                    policy: form.policy,
                    digest: form.digest,
                    config: form.config.into(),
                    facts: Arc::clone(facts),
                    on_fail: form.on_fail,
                };
                self.bindings.insert(binding.name.clone(), Arc::new(binding));
                Read::Noted
            }
            Ok(Entry::Decision(recorded)) => {
                let mut recorded = Box::new(recorded.into_owned());
                recorded.picture.sort();
                Read::Item(Item::Decision(recorded))
            }
            Ok(Entry::Ran(ran)) => Read::Item(Item::Ran(ran.into_owned())),
            Err(_) => Read::Unknown,
        }
    }
}
