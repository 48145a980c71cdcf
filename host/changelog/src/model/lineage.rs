//! Which records of which log count, once epochs have ended.
//!
//! Whoever begins an epoch says of each region's log how far it has come through it: up to there what was written under earlier epochs
//! counts, and what lies beyond is *stranded*, wherever it surfaces. So all copies come to the same rows, whichever of a dead
//! primary's last records had reached them.
//!
//! What regions write as members, without the lease, no epoch ends.

use portolan_core::ids::RegionName;
use portolan_core::log::{Epoch, Identity, Position};
use serde::{Deserialize, Serialize};

use super::record::{Change, Record};

/// How far whoever began an epoch had come through a region's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Whose log.
    pub region: RegionName,
    /// Which log of that region.
    pub identity: Identity,
    /// The last position of it that counts of earlier epochs.
    pub at: Position,
}

/// An epoch that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    /// Which one.
    pub epoch: Epoch,
    /// Where.
    pub region: RegionName,
    /// The last epoch that was known there to have begun before; 0 when none was. Those between were given out and never known: what was
    /// written under them counts nowhere.
    pub over: Epoch,
    /// What had come there, its own log included. Of a log that is not named nothing had.
    pub cuts: Vec<Cut>,
}

/// The epochs that have begun, as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage(Vec<Term>);

/// Two regions that say that one epoch began in them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("epoch {epoch} is said to have begun in `{one}` and in `{other}`, or otherwise than is known")]
pub struct Forked {
    /// Which epoch.
    pub epoch: Epoch,
    /// Where, as is known.
    pub one: RegionName,
    /// Where, as is said.
    pub other: RegionName,
}

/// How a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It counts, so far.
    Counts,
    /// It is past the cut of this term.
    Stranded(&'a Term),
    /// Its epoch is over, and where it was cut is not known here yet.
    Waits,
}

/// Records of a log, parted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sifted<'a> {
    /// Those that count.
    pub count: Vec<Record>,
    /// Those that are past a cut, with the terms that cut them off.
    pub stranded: Vec<(&'a Record, &'a Term)>,
}

/// How a log stands to a position that a reader wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// It has not come to it: this is its newest record.
    Ahead(Position),
    /// It has it, or had it before it was trimmed.
    Here,
    /// It has gone on without it: this is its newest record of that time. What came after was lost, or is of another log.
    Lost(Position),
}

impl Term {
    /// Up to where a log counts of the epochs before this one.
    #[must_use]
    pub fn cut(&self, region: &RegionName, identity: &Identity) -> Position {
        let cut = self.cuts.iter().find(|cut| cut.region == *region && cut.identity == *identity);
        cut.map_or(Position::START, |cut| cut.at)
    }
}

impl Lineage {
    /// From terms in any order.
    ///
    /// # Errors
    /// When one epoch has begun twice.
    pub fn new(terms: impl IntoIterator<Item = Term>) -> Result<Self, Forked> {
        Self::default().with(terms)
    }

    /// With more terms, of which some may be known.
    ///
    /// # Errors
    /// When one epoch has begun twice.
    pub fn with(mut self, terms: impl IntoIterator<Item = Term>) -> Result<Self, Forked> {
        for term in terms {
            match self.0.binary_search_by_key(&term.epoch, |there| there.epoch) {
                Err(at) => self.0.insert(at, term),
                Ok(at) => match self.0.get(at) {
                    Some(there) if *there != term => {
                        let (one, other) = (there.region.clone(), term.region);
                        return Err(Forked { epoch: term.epoch, one, other });
                    }
                    _ => {}
                },
            }
        }
        Ok(self)
    }

    /// By rising epochs.
    #[must_use]
    pub fn terms(&self) -> &[Term] {
        &self.0
    }

    /// The last epoch that is known to have begun; 0 before the first.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.0.last().map_or(Epoch(0), |term| term.epoch)
    }

    /// Where an epoch began.
    #[must_use]
    pub fn term(&self, epoch: Epoch) -> Option<&Term> {
        let at = self.0.binary_search_by_key(&epoch, |term| term.epoch).ok()?;
        self.0.get(at)
    }

    /// How a record of a region's log stands at a copy whose fence is at `fence`.
    #[must_use]
    pub fn judge(
        &self,
        (region, identity): (&RegionName, &Identity),
        record: &Record,
        fence: Epoch,
    ) -> Verdict<'_> {
        if !is_leased(record) {
            return Verdict::Counts;
        }
        let at = record.position;
        let after = self.chain().take_while(|term| term.epoch > at.epoch);
        // The first of them that cut it off.
        let ended = after.filter(|term| at > term.cut(region, identity)).last();
        match ended {
            Some(term) => Verdict::Stranded(term),
            None if at.epoch < fence && self.epoch() < fence => Verdict::Waits,
            None => Verdict::Counts,
        }
    }

    /// Up to where a log counts of what was written under an epoch, by the epochs after it; none while none of them is known.
    #[must_use]
    pub fn bound(&self, (region, identity): (&RegionName, &Identity), epoch: Epoch) -> Option<Position> {
        let after = self.chain().take_while(|term| term.epoch > epoch);
        after.map(|term| term.cut(region, identity)).min()
    }

    /// The terms of which each was begun over the next, from the last on. Others that are known were begun where nobody heard of it in
    /// time, and cut nothing.
    fn chain(&self) -> impl Iterator<Item = &Term> {
        std::iter::successors(self.0.last(), |term| self.term(term.over))
    }

    /// Parts a log's records into those that count, and those that are stranded, with the terms that cut them off.
    ///
    /// # Errors
    /// The epoch of the first that waits.
    pub fn sift<'a>(
        &'a self,
        log: (&RegionName, &Identity),
        records: &'a [Record],
        fence: Epoch,
    ) -> Result<Sifted<'a>, Epoch> {
        let mut sifted = Sifted::default();
        for record in records {
            match self.judge(log, record, fence) {
                Verdict::Counts => sifted.count.push(record.clone()),
                Verdict::Stranded(term) => sifted.stranded.push((record, term)),
                Verdict::Waits => return Err(record.position.epoch),
            }
        }
        Ok(sifted)
    }

    /// Is what lies at a position of another region's log here, which has come as far as `heads` say? None when it is this region's, or of
    /// an epoch of which nothing is known.
    #[must_use]
    pub fn reached(&self, own: &RegionName, heads: &[Cut], wanted: Position) -> Option<Reached> {
        let term = self.term(wanted.epoch).filter(|term| term.region != *own)?;
        let here = heads.iter().find(|head| head.region == term.region);
        let at = here.map_or(Position::START, |head| head.at);
        let bound = here.and_then(|head| self.bound((&head.region, &head.identity), wanted.epoch));
        Some(match bound {
            Some(bound) if wanted > bound => Reached::Lost(bound),
            _ if wanted <= at => Reached::Here,
            _ => Reached::Ahead(at),
        })
    }

    /// What was there when the last epoch began, of the logs of those who led before, and is not here, which has come as far as `heads` say.
    /// The last term's own log is not among it: whoever follows that has it. Of another log of the same region nothing is known.
    #[must_use]
    pub fn lacks(&self, own: &RegionName, heads: &[Cut]) -> Vec<Cut> {
        let Some(last) = self.0.last().filter(|last| last.region != *own) else { return Vec::new() };
        let led = |region: &RegionName| self.chain().skip(1).any(|term| term.region == *region);
        let lacks = |cut: &&Cut| match heads.iter().find(|head| head.region == cut.region) {
            Some(head) => head.identity == cut.identity && head.at < cut.at,
            None => cut.at > Position::START,
        };
        let others = last.cuts.iter().filter(|cut| cut.region != last.region && cut.region != *own);
        others.filter(|cut| led(&cut.region)).filter(lacks).cloned().collect()
    }

    /// Does the last term rest on this one?
    #[must_use]
    pub fn rests_on(&self, epoch: Epoch) -> bool {
        self.chain().any(|term| term.epoch == epoch)
    }

    /// Those of these terms that are not known.
    #[must_use]
    pub fn news(&self, terms: &[Term]) -> Vec<Term> {
        terms.iter().filter(|term| self.term(term.epoch).is_none()).cloned().collect()
    }
}

/// Was it written under a lease, which ends, and not under a membership?
#[must_use]
pub fn is_leased(record: &Record) -> bool {
    match &record.change {
        Change::Forget => true,
        Change::Row(change) => change.version.epoch > Epoch(0),
    }
}

#[cfg(test)]
mod tests {
    use portolan_core::log::{Placement, Version};

    use super::*;
    use crate::model::record::{RowChange, RowId};

    fn region(name: &str) -> RegionName {
        RegionName::new(name).unwrap()
    }

    fn identity(name: &str) -> Identity {
        Identity { system: name.to_owned(), timeline: 1, incarnation: "a".to_owned() }
    }

    fn cut(name: &str, at: Position) -> Cut {
        Cut { region: region(name), identity: identity(name), at }
    }

    fn term(epoch: u64, name: &str, cuts: &[Cut]) -> Term {
        Term { epoch: Epoch(epoch), region: region(name), over: Epoch(epoch - 1), cuts: cuts.to_vec() }
    }

    fn record(at: Position, version: u64) -> Record {
        let version = Version { epoch: Epoch(version), v: 1, origin: region("eu") };
        let id = RowId { table: "notes".to_owned(), key: "[1]".to_owned() };
        let change = RowChange { id, row: None, version, replaces: None, marks: None };
        let (tenant, placement) = (None, Placement(0));
        Record { position: at, at_us: 0, tenant, placement, schema: 1, change: Change::Row(change) }
    }

    #[test]
    fn what_lies_past_a_cut_is_stranded_wherever_it_surfaces() {
        let lineage = Lineage::new([
            term(1, "eu", &[cut("eu", Position::START)]),
            term(2, "us", &[cut("eu", Position::new(1, 50, 3)), cut("us", Position::START)]),
            // Whoever begins the third has seen less of the first epoch than whoever began the second: what it has not seen is lost.
            term(3, "ap", &[cut("eu", Position::new(1, 40, 0)), cut("us", Position::new(2, 7, 7))]),
        ])
        .unwrap();
        let judge = |name: &str, at: Position, fence: u64| match lineage.judge(
            (&region(name), &identity(name)),
            &record(at, at.epoch.0),
            Epoch(fence),
        ) {
            Verdict::Counts => "counts".to_owned(),
            Verdict::Stranded(term) => format!("stranded by {}", term.epoch),
            Verdict::Waits => "waits".to_owned(),
        };
        for (name, at, fence, stands) in [
            ("eu", Position::new(1, 40, 0), 3, "counts"),
            ("eu", Position::new(1, 40, 1), 3, "stranded by 3"),
            ("eu", Position::new(1, 50, 4), 3, "stranded by 2"),
            ("us", Position::new(2, 7, 7), 3, "counts"),
            ("us", Position::new(2, 7, 8), 3, "stranded by 3"),
            ("ap", Position::new(3, 1, 1), 3, "counts"),
            ("ap", Position::new(3, 1, 1), 4, "waits"),
            ("us", Position::new(2, 7, 8), 4, "stranded by 3"),
            // Of a log that nobody had followed.
            ("sa", Position::new(2, 1, 1), 3, "stranded by 3"),
        ] {
            assert_eq!(judge(name, at, fence), stands, "{name} {at} at fence {fence}");
        }
        // A member's write is no lease's.
        let log = (&region("eu"), &identity("eu"));
        assert_eq!(lineage.judge(log, &record(Position::new(1, 90, 1), 0), Epoch(4)), Verdict::Counts);
        assert_eq!(lineage.bound(log, Epoch(1)), Some(Position::new(1, 40, 0)));
        assert_eq!(lineage.bound(log, Epoch(3)), None);
    }

    #[test]
    fn a_term_that_nobody_heard_of_in_time_cuts_nothing() {
        let first = term(1, "eu", &[cut("eu", Position::START)]);
        let unheard = term(2, "us", &[cut("eu", Position::new(1, 5, 5))]);
        let third = [cut("eu", Position::new(1, 90, 9)), cut("us", Position::START)];
        let third = Term { over: Epoch(1), ..term(3, "eu", &third) };
        let lineage = Lineage::new([first, unheard, third]).unwrap();
        let judge = |name: &str, at: Position| {
            lineage.judge((&region(name), &identity(name)), &record(at, at.epoch.0), Epoch(3))
        };
        assert_eq!(judge("eu", Position::new(1, 50, 1)), Verdict::Counts);
        let Verdict::Stranded(by) = judge("us", Position::new(2, 1, 1)) else { panic!("it counts") };
        assert_eq!(by.epoch, Epoch(3), "what was written under it counts nowhere");
        assert!(lineage.rests_on(Epoch(1)) && !lineage.rests_on(Epoch(2)));
    }

    #[test]
    fn what_another_region_wrote_is_here_once_its_log_has_come_so_far() {
        let first = term(1, "eu", &[cut("eu", Position::START)]);
        let second = term(2, "us", &[cut("eu", Position::new(1, 50, 3)), cut("us", Position::START)]);
        let lineage = Lineage::new([first, second]).unwrap();
        let heads = [cut("eu", Position::new(1, 40, 0)), cut("us", Position::new(2, 7, 7))];
        let reached = |at| lineage.reached(&region("ap"), &heads, at);
        assert_eq!(reached(Position::new(1, 40, 0)), Some(Reached::Here));
        assert_eq!(reached(Position::new(1, 50, 3)), Some(Reached::Ahead(Position::new(1, 40, 0))));
        assert_eq!(reached(Position::new(1, 50, 4)), Some(Reached::Lost(Position::new(1, 50, 3))));
        assert_eq!(reached(Position::new(2, 7, 8)), Some(Reached::Ahead(Position::new(2, 7, 7))));
        assert_eq!(reached(Position::new(3, 1, 1)), None, "nothing is known of it");
        assert_eq!(lineage.reached(&region("us"), &heads, Position::new(2, 7, 7)), None, "it is its own");
    }

    #[test]
    fn a_copy_lacks_what_was_there_when_the_epoch_began() {
        let first = term(1, "eu", &[cut("eu", Position::START)]);
        let cuts = [
            cut("eu", Position::new(1, 50, 3)),
            cut("us", Position::START),
            cut("ap", Position::new(1, 9, 9)),
            // A member, who never led.
            cut("sa", Position::new(0, 9, 9)),
        ];
        let lineage = Lineage::new([first.clone(), term(2, "us", &cuts)]).unwrap();
        let lacks = |own: &str, heads: &[Cut]| lineage.lacks(&region(own), heads);
        let behind = [cut("eu", Position::new(1, 50, 2)), cut("us", Position::START)];
        assert_eq!(lacks("ap", &behind), [cut("eu", Position::new(1, 50, 3))]);
        assert_eq!(lacks("ap", &[]), [cut("eu", Position::new(1, 50, 3))]);
        assert_eq!(lacks("ap", &[cut("eu", Position::new(1, 50, 3))]), []);
        let other = Cut { identity: identity("restored"), ..cut("eu", Position::START) };
        assert_eq!(lacks("ap", &[other]), []);
        assert_eq!(lacks("eu", &[]), [], "it is its own");
        assert_eq!(lacks("us", &[]), [], "it leads");
        assert_eq!(Lineage::new([first]).unwrap().lacks(&region("ap"), &[]), []);
    }

    #[test]
    fn records_are_parted_unless_one_waits() {
        let first = term(1, "eu", &[cut("eu", Position::START)]);
        let second = term(2, "us", &[cut("eu", Position::new(1, 5, 5))]);
        let lineage = Lineage::new([first, second]).unwrap();
        let log = (&region("eu"), &identity("eu"));
        let records = [record(Position::new(1, 5, 5), 1), record(Position::new(1, 6, 6), 1)];
        let sifted = lineage.sift(log, &records, Epoch(2)).unwrap();
        assert_eq!(sifted.count, records[..1]);
        assert_eq!(sifted.stranded.len(), 1);
        let late = [record(Position::new(2, 9, 9), 2)];
        assert_eq!(lineage.sift(log, &late, Epoch(3)), Err(Epoch(2)));
    }

    #[test]
    fn an_epoch_begins_once() {
        let lineage = Lineage::new([term(2, "us", &[]), term(1, "eu", &[])]).unwrap();
        assert_eq!(lineage.epoch(), Epoch(2));
        assert_eq!(lineage.news(&[term(1, "eu", &[]), term(3, "ap", &[])]), [term(3, "ap", &[])]);
        assert_eq!(lineage.clone().with([term(2, "us", &[])]), Ok(lineage.clone()));
        let forked = lineage.with([term(2, "ap", &[])]).unwrap_err();
        assert_eq!((forked.epoch, forked.one, forked.other), (Epoch(2), region("us"), region("ap")));
    }
}
