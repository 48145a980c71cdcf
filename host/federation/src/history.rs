//! Where two logs of one tenant's content are one: each says how far it goes in each epoch.
//!
//! An epoch has one writer, and a writer has all that came before it or cuts it off for good; so two logs that have a change of the same epoch and
//! number have all before it alike (the log matching property of Ongaro and Ousterhout, "In search of an understandable consensus algorithm", 2014).

use portolan_changelog::content::Span;

/// The number of the last change that both logs have; 0 where they have none.
#[must_use]
pub fn common(one: &[Span], other: &[Span]) -> u64 {
    let both = one.iter().filter_map(|span| {
        let same = other.iter().find(|other| other.epoch == span.epoch)?;
        Some(span.last.min(same.last))
    });
    both.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn spans(log: &[u64]) -> Vec<Span> {
        let mut last: BTreeMap<u64, u64> = BTreeMap::new();
        for (seq, epoch) in (1..).zip(log) {
            last.insert(*epoch, seq);
        }
        last.into_iter().rev().map(|(epoch, last)| Span { epoch, last }).collect()
    }

    #[test]
    fn what_was_lost_is_past_the_last_common_change() {
        let (lost, kept) = ([1, 1, 1, 1, 1], [1, 1, 1, 2, 2, 2]);
        assert_eq!(common(&spans(&lost), &spans(&kept)), 3);
        assert_eq!(common(&spans(&kept), &spans(&kept)), 6);
        assert_eq!(common(&spans(&kept[..4]), &spans(&kept)), 4);
        assert_eq!(common(&spans(&[]), &spans(&kept)), 0);
        assert_eq!(common(&spans(&[4, 4]), &spans(&kept)), 0);
    }

    proptest! {
        /// Writers of rising epochs go on from some point of an earlier log, and each epoch has one writer.
        #[test]
        fn it_is_the_longest_common_beginning(forks in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1..5_usize), 1..12)) {
            let mut logs: Vec<Vec<u64>> = vec![Vec::new()];
            for (epoch, (log, cut, more)) in (1_u64..).zip(forks) {
                let from = &logs[log.index(logs.len())];
                let mut next = from[..cut.index(from.len() + 1)].to_vec();
                next.extend(std::iter::repeat_n(epoch, more));
                logs.push(next);
            }
            for one in &logs {
                for other in &logs {
                    let alike = one.iter().zip(other).take_while(|(one, other)| one == other).count() as u64;
                    prop_assert_eq!(common(&spans(one), &spans(other)), alike, "{:?} {:?}", one, other);
                }
            }
        }
    }
}
