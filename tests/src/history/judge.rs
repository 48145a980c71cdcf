//! Histories are judged: pure, and in n log n.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::{Asked, Found, Ledger, Operations, Outcome, Read, Row, Write, value};

/// What is wrong with a history, each with the operations that show it.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Acknowledged writes that are neither on the way to what is there, nor to anything that is reported as lost.
    pub lost: Vec<String>,
    /// Values that are somewhere, although it was said that they were not written.
    pub refused: Vec<String>,
    /// Reads that saw less than what had been acknowledged before their bound began.
    pub stale: Vec<String>,
    /// Reads that saw less than their token names.
    pub tokens: Vec<String>,
    /// Two regions that wrote in one epoch, or one that wrote on after a later epoch had begun to.
    pub writers: Vec<String>,
}

impl Verdict {
    /// All that is wrong, in words; nothing when all is well.
    #[must_use]
    pub fn problems(&self) -> String {
        let kinds = [
            ("acknowledged, and nowhere", &self.lost),
            ("refused, and written", &self.refused),
            ("reads that are older than was promised", &self.stale),
            ("reads that saw less than their token names", &self.tokens),
            ("two writers", &self.writers),
        ];
        let found = kinds.iter().filter(|(_, problems)| !problems.is_empty());
        found.map(|(what, problems)| format!("{what}:\n{}\n", problems.join("\n"))).collect()
    }
}

/// Judges what clients did by what is there when all is calm.
#[must_use]
pub fn judge(operations: &Operations, found: &Found) -> Verdict {
    let Operations { reads, writes, .. } = operations;
    let trees = Trees::of(writes);
    let lost = kept(writes, &found.rows, &found.ledger).into_iter().enumerate();
    let lost = lost.filter(|(number, kept)| writes[*number].is_acknowledged() && !kept);
    let told = |number: usize| format!("{}: {:?}", value(number), writes[number]);
    let lost = lost
        .map(|(number, _)| format!("{}, the row is {:?}", told(number), found.rows.get(&writes[number].row)));
    let seen: BTreeSet<usize> = (found.rows.values().chain(&found.ledger.values).copied())
        .chain(reads.iter().filter_map(|read| read.saw))
        .collect();
    let refused = seen.into_iter().filter(|seen| matches!(writes[*seen].outcome, Outcome::Refused(_)));
    let mut verdict = Verdict {
        lost: lost.collect(),
        refused: refused.map(told).collect(),
        writers: writers(writes, found),
        ..Verdict::default()
    };
    let lines = Lines::of(writes, &found.rows, &trees);
    for read in reads {
        if let Asked::Token(of) = read.asked {
            if !trees.shows(read.saw, of) {
                verdict.tokens.push(format!("with the token of {}: {read:?}", told(of)));
            }
        } else if let Some(of) = lines.missed(read, &trees) {
            verdict.stale.push(format!("{} was done: {read:?}", told(of)));
        }
    }
    verdict
}

/// Which writes are on the way to what is there, or to what is kept as lost.
pub(super) fn kept(writes: &[Write], rows: &BTreeMap<Row, usize>, ledger: &Ledger) -> Vec<bool> {
    let mut kept = vec![false; writes.len()];
    let mut keep = |head: usize| {
        let mut next = Some(head);
        while let Some(at) = next.filter(|at| !std::mem::replace(&mut kept[*at], true)) {
            next = writes[at].parent;
        }
    };
    rows.values().chain(&ledger.values).for_each(|head| keep(*head));
    for (number, write) in writes.iter().enumerate() {
        // A row that is gone was deleted by any of those who wanted that.
        let gone = !rows.contains_key(&write.row) || ledger.deletions.contains(&write.row);
        if write.deletes && gone && !matches!(write.outcome, Outcome::Refused(_)) {
            keep(number);
        }
    }
    kept
}

/// Writes as trees, each numbered so that all that came after a write follow it.
struct Trees {
    /// Deletions that may have been done, by the number that they have.
    deletions: BTreeSet<usize>,
    /// The number of a write, and the first after all that came after it.
    spans: Vec<(usize, usize)>,
}

impl Trees {
    fn of(writes: &[Write]) -> Self {
        // A write that was seen has begun before: parents come first.
        let mut sizes = vec![1; writes.len()];
        for (number, write) in writes.iter().enumerate().rev() {
            if let Some(parent) = write.parent {
                assert!(parent < number, "{} replaces what comes after it", value(number));
                sizes[parent] += sizes[number];
            }
        }
        let (mut spans, mut free): (Vec<(usize, usize)>, usize) = (Vec::with_capacity(writes.len()), 0);
        let mut inside = vec![0; writes.len()];
        for (number, write) in writes.iter().enumerate() {
            let place = write.parent.map_or(&mut free, |parent| &mut inside[parent]);
            let begin = *place;
            *place += sizes[number];
            inside[number] = begin + 1;
            spans.push((begin, begin + sizes[number]));
        }
        let may = |(number, write): (usize, &Write)| {
            (write.deletes && !matches!(write.outcome, Outcome::Refused(_))).then(|| spans[number].0)
        };
        let deletions = writes.iter().enumerate().filter_map(may).collect();
        Self { deletions, spans }
    }

    /// Does what was seen stand for a write: it, what came after it, or that the row was deleted after it?
    fn shows(&self, saw: Option<usize>, early: usize) -> bool {
        let (begin, end) = self.spans[early];
        match saw {
            Some(saw) => (begin..end).contains(&self.spans[saw].0),
            None => self.deletions.range(begin..end).next().is_some(),
        }
    }
}

/// Of each row what led to what it is at last.
struct Lines {
    /// How far along its row's line a write, or the last before it that is on the line, is.
    anchors: Vec<Option<usize>>,
    /// Acknowledged writes on the line by the time at which they were known, each with the furthest until then.
    known: HashMap<Row, Vec<(Duration, usize, usize)>>,
}

impl Lines {
    fn of(writes: &[Write], rows: &BTreeMap<Row, usize>, trees: &Trees) -> Self {
        let mut heads: HashMap<&Row, usize> = rows.iter().map(|(row, head)| (row, *head)).collect();
        for (number, write) in writes.iter().enumerate().filter(|(_, write)| write.deletes) {
            // A row that is gone was deleted by one that was acknowledged; the last of several is that of what is there.
            if write.is_acknowledged() && !rows.contains_key(&write.row) {
                heads.insert(&write.row, number);
            }
        }
        let mut anchors: Vec<Option<usize>> = vec![None; writes.len()];
        let mut known: HashMap<Row, Vec<(Duration, usize, usize)>> = HashMap::new();
        for (number, write) in writes.iter().enumerate() {
            let before = write.parent.and_then(|parent| anchors[parent]);
            let on_line = heads.get(&write.row).is_some_and(|head| trees.shows(Some(*head), number));
            anchors[number] = if on_line { Some(before.map_or(0, |before| before + 1)) } else { before };
            if let (true, true, Some(place)) = (on_line, write.is_acknowledged(), anchors[number]) {
                known.entry(write.row.clone()).or_default().push((write.returned, place, number));
            }
        }
        for acknowledged in known.values_mut() {
            acknowledged.sort_unstable();
            let mut furthest = (0, usize::MAX);
            for (_, place, number) in acknowledged.iter_mut() {
                if furthest.1 == usize::MAX || *place > furthest.0 {
                    furthest = (*place, *number);
                }
                (*place, *number) = furthest;
            }
        }
        Self { anchors, known }
    }

    /// What a read should have seen, and did not.
    fn missed(&self, read: &Read, trees: &Trees) -> Option<usize> {
        let bound = match read.asked {
            Asked::MaxStaleness(asked) => asked,
            Asked::Primary if !read.by_copy => Duration::ZERO,
            // A copy that answers in the primary's place says so, and nobody promises how old it is.
            Asked::Local | Asked::Primary | Asked::Token(_) => return None,
        };
        let since = read.invoked.checked_sub(bound)?;
        let known = self.known.get(&read.row)?;
        let (_, place, number) =
            *known.get(known.partition_point(|(at, ..)| *at <= since).checked_sub(1)?)?;
        let enough = match read.saw {
            Some(saw) => self.anchors[saw].is_some_and(|anchor| anchor >= place),
            None => trees.shows(None, number),
        };
        (!enough).then_some(number)
    }
}

fn writers(writes: &[Write], found: &Found) -> Vec<String> {
    let shared = found.origins.iter().filter(|(_, origins)| origins.len() > 1);
    let mut problems: Vec<String> = shared
        .map(|((shard, epoch), origins)| format!("epoch {epoch} of {shard} was written in {origins:?}"))
        .collect();
    let mut sent: BTreeMap<String, Vec<(Duration, u64, usize)>> = BTreeMap::new();
    let mut done = sent.clone();
    for (number, write) in writes.iter().enumerate() {
        let Some((shard, epoch)) = write.epoch() else { continue };
        sent.entry(shard.clone()).or_default().push((write.invoked, epoch, number));
        done.entry(shard).or_default().push((write.returned, epoch, number));
    }
    for (shard, mut sent) in sent {
        let mut done = done.remove(&shard).unwrap_or_default();
        sent.sort_unstable();
        done.sort_unstable();
        let (mut done, mut latest) = (done.into_iter().peekable(), (0, 0));
        for (invoked, epoch, number) in sent {
            while let Some((_, epoch, number)) = done.next_if(|(returned, ..)| *returned < invoked) {
                latest = latest.max((epoch, number));
            }
            if latest.0 > epoch {
                let (late, early) = (&writes[number], &writes[latest.1]);
                problems.push(format!("{shard}: {late:?} in epoch {epoch}, after {early:?} in {}", latest.0));
            }
        }
    }
    problems
}
