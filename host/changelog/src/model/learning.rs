//! What a copy makes of epochs that it hears of: what it had taken past a cut is stranded, and where that cannot be told any more, its rows
//! come anew.

use portolan_core::ids::RegionName;
use portolan_core::log::{Epoch, Identity, Position};

use super::lineage::{Cut, Lineage, Term, Verdict};
use super::record::{Change, Record};

/// A copy that hears of epochs.
#[derive(Clone, Copy, Debug)]
pub struct Hearing<'a> {
    /// Whose copy it is.
    pub own: &'a RegionName,
    /// What was known of epochs.
    pub before: &'a Lineage,
    /// What is known now.
    pub after: &'a Lineage,
    /// Those of them that were not known.
    pub news: &'a [Term],
    /// Its own history may have been cut.
    pub cut: bool,
}

/// What news bear on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bearing {
    /// All rows have to be copied anew, for this reason.
    Anew(String),
    /// Each log may have been taken past its cut.
    Logs,
    /// Nothing of what is here.
    Nothing,
}

/// What of a log has been taken that may not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Past {
    /// What lies after this position.
    After(Position),
    /// All of it, and nobody knows which rows that made.
    Anew(String),
    /// Nothing.
    Nothing,
}

/// A tenant was forgotten by a record that does not count: its rows are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tenant was forgotten past the cut")]
pub struct Forgotten;

impl<'a> Hearing<'a> {
    /// What the news bear on. What is only told late changes nothing, and nobody takes anything back from the last term.
    #[must_use]
    pub fn bearing(&self) -> Bearing {
        let leads = self.after.terms().last().is_some_and(|term| term.region == *self.own);
        let (last, known) = (self.after.epoch(), self.before.epoch());
        if leads || last == known {
            return Bearing::Nothing;
        }
        let led = self.before.terms().iter().any(|term| term.region == *self.own);
        if self.cut && led {
            Bearing::Anew("its own history may have been cut, and some of it may not count".to_owned())
        } else if known > Epoch(0) && !self.after.rests_on(known) {
            Bearing::Anew(format!("epoch {last} was begun without knowing of epoch {known}"))
        } else {
            Bearing::Logs
        }
    }

    /// What has been taken past its cut of a log that has come this far.
    #[must_use]
    pub fn past(&self, log: &Cut) -> Past {
        let cuts = || self.news.iter().map(|term| term.cut(&log.region, &log.identity));
        let cut = cuts().min().unwrap_or(log.at);
        // Only who was a primary has written under a lease, and is followed by whoever comes after.
        let before_last = |term: &&Term| term.region == log.region && term.epoch < self.after.epoch();
        let led = self.after.terms().iter().any(|term| before_last(&term));
        let named = cuts().any(|cut| cut > Position::START);
        if cut >= log.at || !led && !named {
            Past::Nothing
        } else if named {
            Past::After(cut)
        } else {
            let (epoch, region) = (self.after.epoch(), &log.region);
            Past::Anew(format!("whoever began epoch {epoch} had nothing of this log of `{region}`"))
        }
    }

    /// Those of a log's records that counted, and do no longer, with the terms that cut them off.
    ///
    /// # Errors
    /// [`Forgotten`] when one of them cannot be taken back.
    pub fn stranded<'r>(
        &self,
        (region, identity, at): (&RegionName, &Identity, Position),
        records: &'r [Record],
    ) -> Result<Vec<(&'r Record, &'a Term)>, Forgotten> {
        let (before, after) = (self.before, self.after);
        let mut stranded = Vec::new();
        for record in records.iter().filter(|record| record.position <= at) {
            let name = (region, identity);
            if let (Verdict::Counts, Verdict::Stranded(term)) =
                (before.judge(name, record, Epoch(0)), after.judge(name, record, Epoch(0)))
            {
                if record.change == Change::Forget {
                    return Err(Forgotten);
                }
                stranded.push((record, term));
            }
        }
        Ok(stranded)
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

    fn term(epoch: u64, name: &str, over: u64, cuts: &[(&str, Position)]) -> Term {
        let cut =
            |(name, at): &(&str, Position)| Cut { region: region(name), identity: identity(name), at: *at };
        Term {
            epoch: Epoch(epoch),
            region: region(name),
            over: Epoch(over),
            cuts: cuts.iter().map(cut).collect(),
        }
    }

    fn leased(at: Position) -> Record {
        let version = Version { epoch: at.epoch, v: 1, origin: region("eu") };
        let id = RowId { table: "notes".to_owned(), key: "[1]".to_owned() };
        let change = RowChange { id, row: None, version, replaces: None, marks: None };
        let (tenant, placement) = (None, Placement(0));
        Record { position: at, at_us: 0, tenant, placement, schema: 1, change: Change::Row(change) }
    }

    fn heard(own: &str, before: &[Term], news: &[Term], cut: bool) -> Bearing {
        let before = Lineage::new(before.iter().cloned()).unwrap();
        let after = before.clone().with(news.iter().cloned()).unwrap();
        Hearing { own: &region(own), before: &before, after: &after, news, cut }.bearing()
    }

    #[test]
    fn whoever_leads_takes_nothing_back_and_late_news_change_nothing() {
        let first = term(1, "eu", 0, &[]);
        let second = term(2, "us", 1, &[("eu", Position::new(1, 9, 9))]);
        assert_eq!(
            heard("us", std::slice::from_ref(&first), std::slice::from_ref(&second), false),
            Bearing::Nothing
        );
        assert_eq!(
            heard("ap", std::slice::from_ref(&second), std::slice::from_ref(&first), false),
            Bearing::Nothing
        );
        assert_eq!(heard("ap", &[first], &[second], false), Bearing::Logs);
    }

    #[test]
    fn rows_come_anew_where_epochs_do_not_rest_on_each_other() {
        let (first, other) = (term(1, "eu", 0, &[]), term(3, "us", 0, &[]));
        assert!(matches!(
            heard("ap", std::slice::from_ref(&first), std::slice::from_ref(&other), false),
            Bearing::Anew(_)
        ));
        let second = term(2, "us", 1, &[("eu", Position::new(1, 9, 9))]);
        assert!(matches!(
            heard("eu", std::slice::from_ref(&first), std::slice::from_ref(&second), true),
            Bearing::Anew(_)
        ));
        assert_eq!(heard("ap", &[first], &[second], true), Bearing::Logs);
    }

    #[test]
    fn a_log_is_taken_back_after_its_cut() {
        let first = term(1, "eu", 0, &[]);
        let second = term(2, "us", 1, &[("eu", Position::new(1, 5, 5))]);
        let before = Lineage::new([first]).unwrap();
        let after = before.clone().with([second.clone()]).unwrap();
        let news = [second];
        let own = region("ap");
        let hearing = Hearing { own: &own, before: &before, after: &after, news: &news, cut: false };
        let log = |name: &str, at| Cut { region: region(name), identity: identity(name), at };
        assert_eq!(hearing.past(&log("eu", Position::new(1, 5, 5))), Past::Nothing);
        assert_eq!(hearing.past(&log("eu", Position::new(1, 7, 7))), Past::After(Position::new(1, 5, 5)));
        // Who never led wrote nothing under a lease.
        assert_eq!(hearing.past(&log("ap", Position::new(1, 7, 7))), Past::Nothing);
        let other = Cut { identity: identity("other"), ..log("eu", Position::new(1, 7, 7)) };
        assert!(matches!(hearing.past(&other), Past::Anew(_)));
        let records = [leased(Position::new(1, 5, 5)), leased(Position::new(1, 7, 7))];
        let stranded =
            hearing.stranded((&region("eu"), &identity("eu"), Position::new(1, 7, 7)), &records).unwrap();
        assert_eq!(
            stranded.iter().map(|(record, _)| record.position).collect::<Vec<_>>(),
            [Position::new(1, 7, 7)]
        );
        let forgets = [Record { change: Change::Forget, ..records[1].clone() }];
        assert!(
            hearing.stranded((&region("eu"), &identity("eu"), Position::new(1, 7, 7)), &forgets).is_err()
        );
    }
}
