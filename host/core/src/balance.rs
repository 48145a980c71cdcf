//! Choosing among endpoints: power of two choices by peak EWMA, and rendezvous hashing for sticky requests.

use std::sync::Arc;

use crate::backoff::scale;
use crate::time::Moment;
use crate::topology::Endpoint;

/// How many random pairs are drawn before all endpoints are looked through.
const DRAWS: u32 = 3;

/// A generator step that turns one random word into the next (Steele, Lea and Flood, "Fast splittable pseudorandom
/// number generators", 2014). Part of behaviour: sticky requests rest on it.
#[must_use]
pub const fn splitmix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A hash that is the same in every process and version: FNV-1a with 64 bits, finished by [`splitmix`]. Sticky
/// requests of different nodes must agree, so it must never change. Not for tables that strangers can fill.
#[must_use]
pub fn stable_hash(bytes: &[u8]) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    splitmix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold))
}

/// The place of the endpoint to use next: of two eligible ones drawn at random, the less loaded. `tried` are places
/// that this request has used; they are taken again only when there is no other. `None` when none is eligible.
#[must_use]
pub fn pick(endpoints: &[Arc<Endpoint>], tried: &[usize], now: Moment, random: u64) -> Option<usize> {
    let fresh = |index: usize| {
        let endpoint = endpoints.get(index)?;
        (endpoint.cell.is_eligible(now) && !tried.contains(&index)).then_some(endpoint)
    };
    let count = endpoints.len() as u64;
    let mut word = random;
    for _ in 0..if count > 2 { DRAWS } else { 0 } {
        let one = usize::try_from(scale(word, count)).unwrap_or(0);
        word = splitmix(word);
        let other = usize::try_from(scale(word, count)).unwrap_or(0);
        word = splitmix(word);
        if one == other {
            continue;
        }
        if let (Some(first), Some(second)) = (fresh(one), fresh(other)) {
            return Some(if first.cell.load(now) <= second.cell.load(now) { one } else { other });
        }
    }
    // Few endpoints, or few eligible ones: the least loaded of all, so that one is found wherever there is one. Equal
    // loads are told apart by the draw.
    let least = |taken: &dyn Fn(usize) -> bool| {
        (0..endpoints.len()).filter(|&index| taken(index)).min_by(|&one, &other| {
            let key = |index: usize| {
                let load = endpoints.get(index).map_or(f64::MAX, |endpoint| endpoint.cell.load(now));
                (load, splitmix(random ^ index as u64))
            };
            let (one, other) = (key(one), key(other));
            one.0.total_cmp(&other.0).then(one.1.cmp(&other.1))
        })
    };
    least(&|index| fresh(index).is_some()).or_else(|| {
        least(&|index| endpoints.get(index).is_some_and(|endpoint| endpoint.cell.is_eligible(now)))
    })
}

/// The place of an endpoint whatever probes say, for a level in panic: one drawn at random of those whose breakers admit it,
/// those of `tried` only where there is no other. `None` when no breaker does.
#[must_use]
pub fn pick_any(endpoints: &[Arc<Endpoint>], tried: &[usize], now: Moment, random: u64) -> Option<usize> {
    let open = endpoints.iter().enumerate().filter(|(_, endpoint)| endpoint.cell.admits(now));
    open.map(|(index, _)| index).min_by_key(|index| (tried.contains(index), splitmix(random ^ *index as u64)))
}

/// The place of the endpoint for a sticky request: the eligible one with the highest score for the hash (rendezvous
/// hashing), so that an endpoint that leaves moves only its own requests.
#[must_use]
pub fn stick(endpoints: &[Arc<Endpoint>], tried: &[usize], now: Moment, hash: u64) -> Option<usize> {
    let score = |endpoint: &Endpoint| splitmix(hash ^ stable_hash(endpoint.authority.as_bytes()));
    let best = |skip: &[usize]| {
        let eligible = endpoints
            .iter()
            .enumerate()
            .filter(|(index, endpoint)| !skip.contains(index) && endpoint.cell.is_eligible(now));
        eligible.max_by_key(|(_, endpoint)| score(endpoint)).map(|(index, _)| index)
    };
    best(tried).or_else(|| best(&[]))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::endpoint::{EndpointCell, Outcome};
    use crate::topology::BreakerLimits;

    const LIMITS: BreakerLimits =
        BreakerLimits { failures: 5, pause_min: Duration::from_secs(1), pause_max: Duration::from_secs(1) };

    fn endpoints(up: &[bool]) -> Vec<Arc<Endpoint>> {
        up.iter()
            .enumerate()
            .map(|(index, &up)| {
                let cell = Arc::new(EndpointCell::new(up));
                let authority = format!("10.0.0.{index}:80").into();
                Arc::new(Endpoint { authority, host: format!("10.0.0.{index}").into(), port: 80, cell })
            })
            .collect()
    }

    proptest! {
        #[test]
        fn an_eligible_endpoint_is_found_where_there_is_one(
            up in prop::collection::vec(any::<bool>(), 0..12),
            tried in prop::collection::vec(0_usize..12, 0..4),
            random: u64,
        ) {
            let all = endpoints(&up);
            for found in [pick(&all, &tried, Moment(0), random), stick(&all, &tried, Moment(0), random)] {
                prop_assert_eq!(found.is_some(), up.contains(&true));
                if let Some(found) = found {
                    prop_assert!(up[found]);
                    let fresh = up.iter().enumerate().any(|(index, &up)| up && !tried.contains(&index));
                    prop_assert!(!fresh || !tried.contains(&found), "a tried one although others are left");
                }
            }
        }

        #[test]
        fn an_endpoint_that_leaves_moves_only_its_own(hashes in prop::collection::vec(any::<u64>(), 200), gone in 0_usize..5) {
            let all = endpoints(&[true; 5]);
            let before: Vec<_> = hashes.iter().map(|&hash| stick(&all, &[], Moment(0), hash).unwrap()).collect();
            all[gone].cell.set_up(false);
            for (&hash, &old) in hashes.iter().zip(&before) {
                let new = stick(&all, &[], Moment(0), hash).unwrap();
                prop_assert_eq!(new == old, old != gone);
            }
        }
    }

    #[test]
    fn equal_endpoints_share_evenly_and_a_slow_one_gets_less() {
        let all = endpoints(&[true; 4]);
        let mut word = 7;
        let mut draw = |counts: &mut [u32; 4]| {
            for _ in 0..4_000 {
                word = splitmix(word);
                counts[pick(&all, &[], Moment(0), word).unwrap()] += 1;
            }
        };
        let mut even = [0; 4];
        draw(&mut even);
        assert!(even.iter().all(|&count| count > 700), "{even:?}");
        for (endpoint, millis) in all.iter().zip([1, 1, 1, 50]) {
            let attempt = endpoint.cell.start(Moment(0)).unwrap();
            endpoint.cell.finish(
                attempt,
                Outcome::Success(Duration::from_millis(millis)),
                &LIMITS,
                Moment(0),
            );
        }
        let mut uneven = [0; 4];
        draw(&mut uneven);
        assert!(uneven[3] < 200, "{uneven:?}");
    }

    #[test]
    fn the_stable_hash_never_changes() {
        assert_eq!(stable_hash(b""), 0xc3817c016ba4ff30);
        assert_eq!(stable_hash(b"acme"), 0x4279cfb04f79f3bf);
    }
}
