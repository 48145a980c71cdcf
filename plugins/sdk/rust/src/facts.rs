//! What a policy may know while it plans.

use crate::host;

/// One picture of the world, the same for the whole of `plan`. The gateway notes what is read, and plans again only when
/// one of those answers has changed.
#[derive(Debug)]
pub struct Facts(pub(crate) ());

/// What the gateway believes of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It takes requests.
    Healthy,
    /// Nothing is known, or this library does not know the word.
    Unknown,
    /// Something is wrong; it still takes requests.
    Suspect,
    /// It is being emptied.
    Draining,
    /// It takes none.
    Down,
}

impl Facts {
    /// The region of the node that plans.
    #[must_use]
    pub fn local_region(&self) -> String {
        host::local_region()
    }

    /// All regions, in the order of their names.
    #[must_use]
    pub fn regions(&self) -> Vec<String> {
        host::regions()
    }

    /// The pools of a region, in the order of their names.
    #[must_use]
    pub fn pools(&self, region: &str) -> Vec<String> {
        host::pools(region)
    }

    /// The regions that have this pool, in the order of their names.
    #[must_use]
    pub fn regions_with(&self, pool: &str) -> Vec<String> {
        let mut regions = self.regions();
        regions.retain(|region| self.pools(region).iter().any(|name| name == pool));
        regions
    }

    /// What the node believes of a region. Targets that cannot take a request are skipped without asking here.
    #[must_use]
    pub fn verdict(&self, region: &str) -> Verdict {
        match host::verdict(region) {
            1 => Verdict::Healthy,
            2 => Verdict::Suspect,
            3 => Verdict::Down,
            4 => Verdict::Draining,
            _ => Verdict::Unknown,
        }
    }

    /// Round-trip time between two regions in microseconds, coarsely rounded; `None` when it is not known.
    #[must_use]
    pub fn latency_us(&self, origin: &str, target: &str) -> Option<u32> {
        if origin == target { Some(0) } else { host::latency_us(origin, target) }
    }

    /// These regions by how near they are to `origin`: itself first, then by latency, unknown latencies last; equals in
    /// the order given. Regions that are in trouble come after all that are not.
    #[must_use]
    pub fn nearest_first(&self, origin: &str, mut regions: Vec<String>) -> Vec<String> {
        regions.sort_by_cached_key(|region| {
            let trouble = self.verdict(region) >= Verdict::Suspect;
            (trouble, self.latency_us(origin, region).unwrap_or(u32::MAX))
        });
        regions
    }

    /// All residency classes, in the order of their names.
    #[must_use]
    pub fn residencies(&self) -> Vec<String> {
        host::residencies()
    }

    /// The regions that a residency class allows, in the order of their names.
    #[must_use]
    pub fn residency_regions(&self, residency: &str) -> Vec<String> {
        host::residency_regions(residency)
    }

    /// Milliseconds since 1970-01-01T00:00:00Z when the picture was taken. Time alone never causes a new plan.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        host::now_ms()
    }

    /// A number that is the same on every node with the same configuration.
    #[must_use]
    pub fn seed(&self) -> u64 {
        host::seed()
    }
}
