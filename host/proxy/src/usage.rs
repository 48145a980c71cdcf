//! What each tenant sends and gets: counted per data thread, taken by the control side once in a while.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use portolan_core::ids::TenantName;

use crate::defaults::USAGE_TENANTS_MAX;

/// What went through the gateway for somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests that ended.
    pub requests: u64,
    /// Bytes of their contents.
    pub received_bytes: u64,
    /// Bytes of the responses' contents.
    pub sent_bytes: u64,
}

/// The traffic of all tenants since it was last taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffics {
    /// Of requests without a tenant.
    pub nobody: Traffic,
    /// Of tenants beyond those that there was room for.
    pub other: Traffic,
    /// Of each tenant.
    pub tenants: HashMap<TenantName, Traffic>,
}

/// One data thread's. Only that thread writes, so its lock is free but for the moment of taking.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Traffics>);

impl Traffic {
    /// Adds another's.
    pub const fn add(&mut self, more: &Self) {
        self.requests += more.requests;
        self.received_bytes += more.received_bytes;
        self.sent_bytes += more.sent_bytes;
    }
}

impl Traffics {
    fn of(&mut self, tenant: Option<&TenantName>) -> &mut Traffic {
        let Some(name) = tenant else { return &mut self.nobody };
        if self.tenants.len() >= USAGE_TENANTS_MAX && !self.tenants.contains_key(name) {
            return &mut self.other;
        }
        self.tenants.entry(name.clone()).or_default()
    }

    /// Adds another thread's.
    pub(crate) fn add(&mut self, more: &Self) {
        self.nobody.add(&more.nobody);
        self.other.add(&more.other);
        more.tenants.iter().for_each(|(name, traffic)| self.of(Some(name)).add(traffic));
    }
}

impl Tally {
    /// Counts a request that has ended.
    pub(crate) fn count(&self, tenant: Option<&TenantName>, received_bytes: u64, sent_bytes: u64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.of(tenant).add(&Traffic { requests: 1, received_bytes, sent_bytes });
    }

    /// Takes what was counted.
    pub(crate) fn take(&self) -> Traffics {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_by_the_thousand_take_no_more_room_than_there_is() {
        let tally = Tally::default();
        for number in 0..USAGE_TENANTS_MAX + 50 {
            let name = TenantName::new(&format!("t{number}")).unwrap();
            tally.count(Some(&name), 1, 2);
            tally.count(Some(&name), 1, 2);
        }
        tally.count(None, 5, 6);
        let mut all = tally.take();
        assert_eq!(all.tenants.len(), USAGE_TENANTS_MAX);
        assert_eq!(all.other, Traffic { requests: 100, received_bytes: 100, sent_bytes: 200 });
        assert_eq!(all.nobody, Traffic { requests: 1, received_bytes: 5, sent_bytes: 6 });
        assert_eq!(tally.take(), Traffics::default());
        all.add(&all.clone());
        assert_eq!(
            all.tenants.values().map(|traffic| traffic.requests).sum::<u64>(),
            4 * USAGE_TENANTS_MAX as u64
        );
    }
}
