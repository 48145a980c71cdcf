//! Rules that share the line of hashes evenly, and move as little of it as that takes.

use std::collections::BTreeMap;

use super::{Range, ShardIndex};

/// Points of the line: one more than the last hash.
const LINE: u128 = 1 << 64;

/// Ranges that give each shard the same part of the line. What a shard has and may keep, it keeps: of `now`, only what is too
/// much for its shard changes hands, and what belongs to shards that are not among `shards`.
///
/// Nothing when there are no shards.
#[must_use]
pub fn even(now: &[Range], shards: &[ShardIndex]) -> Vec<Range> {
    let Some(count) = u128::try_from(shards.len()).ok().filter(|count| *count > 0) else { return Vec::new() };
    // The first ones take what does not divide.
    let fair = |at: usize| LINE / count + u128::from((at as u128) < LINE % count);
    let mut room: BTreeMap<ShardIndex, u128> =
        shards.iter().enumerate().map(|(at, shard)| (*shard, fair(at))).collect();
    let mut kept: Vec<(u128, u128, Option<ShardIndex>)> = Vec::new();
    let mut first = 0;
    for range in now {
        let end = u128::from(range.last) + 1;
        let left = room.get_mut(&range.shard);
        let stays = left.map_or(0, |left| {
            let stays = (*left).min(end - first);
            *left -= stays;
            stays
        });
        kept.push((first, first + stays, Some(range.shard)));
        kept.push((first + stays, end, None));
        first = end;
    }
    kept.push((first, LINE, None));
    let mut takers = room.into_iter().filter(|(_, left)| *left > 0);
    let mut taker = takers.next();
    let mut ranges: Vec<Range> = Vec::new();
    for (mut first, end, owner) in kept {
        while first < end {
            let (shard, part) = match (owner, &mut taker) {
                (Some(owner), _) => (owner, end - first),
                (None, Some((shard, left))) => {
                    let (shard, part) = (*shard, (*left).min(end - first));
                    *left -= part;
                    if *left == 0 {
                        taker = takers.next();
                    }
                    (shard, part)
                }
                // All parts together are the line, so that a free piece always finds a taker.
                (None, None) => break,
            };
            first += part;
            add(&mut ranges, first, shard);
        }
    }
    ranges
}

/// Adds a piece that ends before `end`, or makes the last range longer.
fn add(ranges: &mut Vec<Range>, end: u128, shard: ShardIndex) {
    let last = u64::try_from(end - 1).unwrap_or(u64::MAX);
    match ranges.last_mut().filter(|range| range.shard == shard) {
        Some(range) => range.last = last,
        None => ranges.push(Range { last, shard }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(ranges: &[Range]) -> BTreeMap<ShardIndex, u128> {
        let mut parts = BTreeMap::new();
        let mut first = 0;
        for range in ranges {
            let end = u128::from(range.last) + 1;
            assert!(end > first, "ranges rise: {ranges:?}");
            *parts.entry(range.shard).or_default() += end - first;
            first = end;
        }
        assert_eq!(first, LINE, "every hash has an owner: {ranges:?}");
        parts
    }

    fn owner(ranges: &[Range], point: u64) -> ShardIndex {
        ranges.iter().find(|range| point <= range.last).unwrap().shard
    }

    proptest! {
        #[test]
        fn each_has_its_part_and_nothing_moves_that_may_stay(steps in prop::collection::vec((0_u16..12, any::<bool>()), 1..12), points: [u64; 16]) {
            let mut shards: Vec<ShardIndex> = vec![ShardIndex(0)];
            let mut ranges = even(&[], &shards);
            for (shard, add) in steps {
                let shard = ShardIndex(shard);
                match (add, shards.iter().position(|known| *known == shard)) {
                    (true, None) => shards.push(shard),
                    (false, Some(at)) if shards.len() > 1 => drop(shards.remove(at)),
                    _ => {}
                }
                shards.sort_unstable();
                let next = even(&ranges, &shards);
                let (before, after) = (parts(&ranges), parts(&next));
                prop_assert_eq!(after.len(), shards.len());
                let fair = LINE / shards.len() as u128;
                for part in after.values() {
                    prop_assert!(*part == fair || *part == fair + 1);
                }
                for point in points {
                    let (old, new) = (owner(&ranges, point), owner(&next, point));
                    // Who has no more than its part loses none of it.
                    prop_assert!(old == new || before[&old] > fair || !shards.contains(&old));
                }
                ranges = next;
            }
        }
    }

    #[test]
    fn nobody_has_nothing() {
        assert_eq!(even(&[], &[]), []);
        assert_eq!(even(&[], &[ShardIndex(3)]), [Range { last: u64::MAX, shard: ShardIndex(3) }]);
    }
}
