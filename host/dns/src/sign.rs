//! DNSSEC: every answer that a plan can give is signed before the plan answers, so that no key is near the query path.
//!
//! Few regions make few answers: each address of a name, each pair where two are answered, and what never changes. Signatures name the
//! longest TTL as the original one, so that a shorter one may be served under them. What is not there is denied by the chain of
//! the zone's names (NSEC), because that can be signed beforehand: a compact denial (RFC 9824) is about the very name that was
//! asked for, and needs the key on the query path. The chain tells the zone's names to whoever asks; they are the gateway's public ones.

mod key;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::defaults::{SIGNATURE_SKEW_S, SIGNATURE_VALIDITY_S, ZONE_TTL_S};
use crate::name::Name;
use crate::plan::{Family, Managed, Picked, Plan, RecordSet};
use crate::wire::{class, kind};

pub(crate) use self::key::ALGORITHM;
pub use self::key::{Key, KeyError};

/// The keys of zones that are signed.
pub type Keys = BTreeMap<Name, Arc<Key>>;

/// A set of records that has a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Set {
    /// All addresses that a name has now, for secondaries.
    All {
        family: Family,
        managed: u32,
    },
    Keys {
        zone: u16,
    },
    Link {
        at: usize,
        zone: u16,
    },
    /// One address, or two in rising order of their places.
    Picked {
        family: Family,
        first: usize,
        managed: u32,
        second: Option<usize>,
    },
    Records {
        id: u32,
    },
}

impl Set {
    pub(crate) fn picked(picked: &Picked<'_>) -> Self {
        let (first, second) = match picked.second {
            Some(second) if second < picked.first => (second, Some(picked.first)),
            second => (picked.first, second),
        };
        Self::Picked { family: picked.family, first, managed: picked.managed.index, second }
    }
}

/// A plan's signatures.
#[derive(Debug)]
pub struct Signed {
    begins_s: u32,
    /// By what was signed, so that the next plan takes over what is the same.
    contents: HashMap<[u8; 32], Arc<[u8]>>,
    expires_s: u32,
    /// The keys' records, by zone.
    keys: HashMap<u16, Box<[u8]>>,
    signatures: HashMap<Set, Arc<[u8]>>,
}

impl Signed {
    /// Signs all that a plan can answer in the zones that have keys, except for what `before` has signed and is not due. This takes some
    /// ten microseconds for each answer: it belongs on a thread of its own.
    ///
    /// # Errors
    /// [`KeyError`] when a key cannot sign.
    pub fn new(plan: &Plan, keys: &Keys, now_s: u64, before: Option<&Self>) -> Result<Self, KeyError> {
        // The standard counts seconds in 32 bits, and compares them as serial numbers.
        let now = (now_s & 0xffff_ffff) as u32;
        let before = before.filter(|before| !before.is_due(now_s));
        let fresh = (now.wrapping_sub(SIGNATURE_SKEW_S), now.wrapping_add(SIGNATURE_VALIDITY_S));
        let (begins_s, expires_s) = before.map_or(fresh, |before| (before.begins_s, before.expires_s));
        let mut signed = Self {
            begins_s,
            contents: HashMap::new(),
            expires_s,
            keys: HashMap::new(),
            signatures: HashMap::new(),
        };
        for (index, zone) in (0_u16..).zip(&plan.zones) {
            let Some(key) = keys.get(&zone.origin) else { continue };
            let signer = Signer { before, key, origin: &zone.origin };
            signed.keys.insert(index, key.record().into());
            signed.add(
                Set::Keys { zone: index },
                &signer,
                &zone.origin,
                kind::DNSKEY,
                ZONE_TTL_S,
                &[key.record()],
            )?;
            for (at, link) in zone.chain.iter().enumerate() {
                let set = Set::Link { at, zone: index };
                signed.add(set, &signer, &link.owner, kind::NSEC, zone.negative_ttl_s, &[&link.data])?;
            }
            for set in plan.nodes.values().filter(|node| node.zone == index).flat_map(|node| &node.sets) {
                signed.records(&signer, set)?;
            }
            for managed in plan.managed.iter().filter(|managed| managed.zone == index) {
                signed.managed(&signer, managed, Family::V4)?;
                signed.managed(&signer, managed, Family::V6)?;
            }
        }
        Ok(signed)
    }

    /// Is it time to sign again? Half of the time for which signatures hold has passed, so that a week of trouble goes unnoticed.
    #[must_use]
    pub const fn is_due(&self, now_s: u64) -> bool {
        let age = ((now_s & 0xffff_ffff) as u32).wrapping_sub(self.begins_s);
        age >= SIGNATURE_SKEW_S + SIGNATURE_VALIDITY_S / 2
    }

    /// How many signatures there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.signatures.len()
    }

    /// The key's record of a zone; none when it is not signed.
    pub(crate) fn key(&self, zone: u16) -> Option<&[u8]> {
        self.keys.get(&zone).map(|record| &**record)
    }

    pub(crate) fn signature(&self, set: &Set) -> Option<&[u8]> {
        self.signatures.get(set).map(|signature| &**signature)
    }

    fn records(&mut self, signer: &Signer<'_>, set: &RecordSet) -> Result<(), KeyError> {
        let data: Vec<&[u8]> = set.data.iter().map(|data| &**data).collect();
        self.add(Set::Records { id: set.id }, signer, &set.owner, set.kind, set.ttl_s, &data)
    }

    fn managed(&mut self, signer: &Signer<'_>, managed: &Managed, family: Family) -> Result<(), KeyError> {
        let addresses = managed.addresses(family);
        let mut add = |set, data: &[&[u8]]| {
            self.add(set, signer, &managed.name, family.kind(), managed.ttl.max_s, data)
        };
        // Only what can be answered: regions that are out are in no answer of this plan.
        let possible: Vec<_> = addresses
            .iter()
            .enumerate()
            .filter(|(_, address)| managed.candidates.has(address.region))
            .collect();
        for (at, (first, one)) in possible.iter().enumerate() {
            let (first, one) = (*first, *one);
            let single = Set::Picked { family, first, managed: managed.index, second: None };
            add(single, &[&one.data])?;
            if managed.answers < 2 {
                continue;
            }
            for (second, other) in possible.iter().skip(at + 1) {
                let pair = Set::Picked { family, first, managed: managed.index, second: Some(*second) };
                add(pair, &[&one.data, &other.data])?;
            }
        }
        let all: Vec<&[u8]> = managed.present(family).collect();
        if all.is_empty() {
            return Ok(());
        }
        add(Set::All { family, managed: managed.index }, &all)
    }

    fn add(
        &mut self,
        set: Set,
        signer: &Signer<'_>,
        owner: &Name,
        kind: u16,
        ttl_s: u32,
        data: &[&[u8]],
    ) -> Result<(), KeyError> {
        let mut record = kind.to_be_bytes().to_vec();
        record.extend([ALGORITHM, owner.labels()]);
        for field in [ttl_s, self.expires_s, self.begins_s] {
            record.extend(field.to_be_bytes());
        }
        record.extend(signer.key.tag().to_be_bytes());
        record.extend_from_slice(signer.origin.wire());
        let mut message = record.clone();
        let mut sorted = data.to_vec();
        sorted.sort_unstable();
        for data in sorted {
            message.extend_from_slice(owner.wire());
            message.extend(kind.to_be_bytes());
            message.extend(class::IN.to_be_bytes());
            message.extend(ttl_s.to_be_bytes());
            message.extend(u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
            message.extend_from_slice(data);
        }
        // The key is part of it: another one may have the same tag.
        let content =
            Sha256::new().chain_update(signer.key.record()).chain_update(&message).finalize().into();
        let known = signer.before.and_then(|before| before.contents.get(&content));
        let signature = match known {
            Some(signature) => Arc::clone(signature),
            None => {
                record.extend_from_slice(&signer.key.sign(&message)?);
                record.into()
            }
        };
        self.contents.insert(content, Arc::clone(&signature));
        self.signatures.insert(set, signature);
        Ok(())
    }
}

struct Signer<'a> {
    before: Option<&'a Signed>,
    key: &'a Key,
    origin: &'a Name,
}

impl Managed {
    /// All addresses of the regions that answer now.
    pub(crate) fn present(&self, family: Family) -> impl Iterator<Item = &[u8]> {
        let of_candidates = |address: &&crate::plan::Address| self.candidates.has(address.region);
        self.addresses(family).iter().filter(of_candidates).map(|address| &*address.data)
    }
}
