//! The decision that a request carries to another region. The receiver executes it or refuses it, and never decides.

use std::time::Duration;

use http::HeaderValue;
use portolan_core::ids::{PoolName, RegionName, ShardName, TenantName};
use portolan_core::log::Epoch;

use crate::defaults::ATTEMPTS_MAX;

/// The field that carries a grant on the peer link. Such fields from clients are stripped like all of `portolan-`.
pub(crate) const GRANT: &str = "portolan-grant";
/// The field by which a receiver says that it refuses a grant, with the reason.
pub(crate) const REFUSED: &str = "portolan-refused";
/// The field by which a receiver says that the answer is its own, because nothing of its region answered.
pub(crate) const FAILED: &str = "portolan-failed";

/// The longest grant, in bytes: names have at most 63.
const GRANT_BYTES_MAX: usize = 1_024;

/// A decision on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Which attempt of the request this is, from 1.
    pub(crate) attempt: u32,
    /// Time left for the response head.
    pub(crate) deadline: Duration,
    /// The origin's generation, for logs.
    pub(crate) generation: u64,
    /// How many gateways the request has passed.
    pub(crate) hops: u32,
    /// The pool that was decided on.
    pub(crate) pool: PoolName,
    /// The region that was decided on: the receiver's own, or the grant is stale.
    pub(crate) region: RegionName,
    /// Is it for a service of the gateway, for a caller that was recognised and may do what is asked? An application's request
    /// never is, whatever its path has become.
    pub(crate) service: bool,
    /// The shard that the request needs as its primary, and the lease under which that writes.
    pub(crate) shard: Option<(ShardName, Epoch)>,
    /// The hash that keeps a sticky request on one endpoint.
    pub(crate) sticky: Option<u64>,
    /// Whose request it is.
    pub(crate) tenant: Option<TenantName>,
    /// How many attempts may be made for it, the one that brings it among them: those of all regions together are bounded.
    pub(crate) tries: u32,
}

impl Grant {
    /// The text form: `v1;key=value;...`.
    pub(crate) fn encode(&self) -> Option<HeaderValue> {
        let Self { attempt, deadline, generation, hops, pool, region, tries, .. } = self;
        let deadline = deadline.as_millis();
        let mut text = format!(
            "v1;region={region};pool={pool};generation={generation};attempt={attempt};hops={hops};deadline-ms={deadline};tries={tries}"
        );
        if let Some(tenant) = &self.tenant {
            text.push_str(&format!(";tenant={tenant}"));
        }
        if let Some((shard, Epoch(epoch))) = &self.shard {
            text.push_str(&format!(";shard={shard};epoch={epoch}"));
        }
        if self.service {
            text.push_str(";service=1");
        }
        if let Some(sticky) = self.sticky {
            text.push_str(&format!(";sticky={sticky:016x}"));
        }
        HeaderValue::try_from(text).ok()
    }

    /// Reads the text form. Unknown keys are skipped, so that a newer sender is understood; missing ones are not forgiven.
    pub(crate) fn decode(value: &HeaderValue) -> Option<Self> {
        let text = value.to_str().ok().filter(|text| text.len() <= GRANT_BYTES_MAX)?;
        let mut parts = text.split(';');
        if parts.next()? != "v1" {
            return None;
        }
        let (mut region, mut pool, mut tenant, mut sticky) = (None, None, None, None);
        let (mut generation, mut attempt, mut hops, mut deadline) = (None, None, None, None);
        // A sender that does not say leaves it to the receiver.
        let (mut shard, mut epoch, mut service, mut tries) = (None, None, false, ATTEMPTS_MAX);
        for part in parts {
            let (key, value) = part.split_once('=')?;
            match key {
                "attempt" => attempt = Some(value.parse().ok()?),
                "epoch" => epoch = Some(Epoch(value.parse().ok()?)),
                "deadline-ms" => deadline = Some(Duration::from_millis(value.parse().ok()?)),
                "generation" => generation = Some(value.parse().ok()?),
                "hops" => hops = Some(value.parse().ok()?),
                "pool" => pool = Some(PoolName::new(value).ok()?),
                "region" => region = Some(RegionName::new(value).ok()?),
                "service" => service = value == "1",
                "shard" => shard = Some(ShardName::new(value).ok()?),
                "sticky" => sticky = Some(u64::from_str_radix(value, 16).ok()?),
                "tenant" => tenant = Some(TenantName::new(value).ok()?),
                "tries" => tries = value.parse().ok()?,
                _ => {}
            }
        }
        Some(Self {
            attempt: attempt?,
            deadline: deadline?,
            generation: generation?,
            hops: hops?,
            pool: pool?,
            region: region?,
            service,
            shard: shard.zip(epoch),
            sticky,
            tenant,
            tries,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_grant_comes_out_as_it_went_in(
            attempt: u32, hops: u32, generation: u64, millis in 0_u64..10_000_000,
            tenant in prop::option::of("[a-z]{1,63}"), sticky: Option<u64>,
            service: bool, tries: u32,
            shard in prop::option::of(("[a-z]{1,63}", any::<u64>())),
        ) {
            let grant = Grant {
                attempt, hops, generation, service, sticky, tries,
                deadline: Duration::from_millis(millis),
                pool: PoolName::new("app").unwrap(),
                region: RegionName::new("eu-west").unwrap(),
                shard: shard.map(|(name, epoch)| (ShardName::new(&name).unwrap(), Epoch(epoch))),
                tenant: tenant.map(|name| TenantName::new(&name).unwrap()),
            };
            prop_assert_eq!(Grant::decode(&grant.encode().unwrap()), Some(grant));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "(v1;)?[ -~]{0,200}") {
            drop(HeaderValue::try_from(text).map(|value| Grant::decode(&value)));
        }
    }
}
