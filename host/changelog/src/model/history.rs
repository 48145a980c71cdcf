//! Which of two versions of a whole row wins, by the table's rule: one order for all versions of a row, in which whoever knew another
//! comes after it.
//!
//! Beside the version, two rules need to know something of what it was made from. *Home wins*: the last write of the home that is in
//! its history; a home's write is above all that did not know it, because those know an earlier one. *First wins*: the writes that lead
//! to it. Of two such paths that part, the one whose next write is earlier wins, and one that goes on from the other's end wins
//! over it. A path of [`PATH_MAX`] writes is not made longer: the next write begins another *round* with itself alone, and rounds rise, so
//! that all regions agree still, though for writes of that moment the later may win.

use std::cmp::{Ordering, Reverse};

use portolan_core::log::Version;
use portolan_core::tenant_table::ConflictRule;
use serde::{Deserialize, Serialize};

use crate::defaults::PATH_MAX;

/// What a version's history says to the table's rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The epoch and number of the home's last write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<(u64, u64)>,
    /// How often the path was begun anew.
    #[serde(default)]
    pub round: u64,
    /// The writes that led here, with this one, as number and region.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<(u64, String)>,
    /// The highest number that this region has seen of the row, when what stands there has a lower: the next write takes one above
    /// it, so that no region ever gives a number twice. It says nothing of who wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top: Option<u64>,
}

impl History {
    /// Reads the marks of a version; one that has none begins with itself.
    ///
    /// # Errors
    /// When the text is none of them.
    pub fn parse(marks: Option<&str>, version: &Version) -> Result<Self, serde_json::Error> {
        let mut history: Self = marks.map_or_else(|| Ok(Self::default()), serde_json::from_str)?;
        if history.path.is_empty() {
            history.path.push((version.v, version.origin.to_string()));
        }
        Ok(history)
    }

    /// Did whoever wrote this know a version?
    #[must_use]
    pub fn holds(&self, version: &Version) -> bool {
        self.path.iter().any(|(v, origin)| *v == version.v && origin == version.origin.as_str())
    }

    /// The marks of a version that takes the place of another, whose number may be higher.
    ///
    /// # Errors
    /// When the marks are none.
    pub fn over(
        marks: Option<&str>,
        version: &Version,
        (there, of_there): (&Version, Option<&str>),
    ) -> Result<Option<String>, serde_json::Error> {
        let top = Self::parse(of_there, there)?.top.max(Some(there.v));
        if top <= Some(version.v) {
            return Ok(marks.map(str::to_owned));
        }
        let history = Self { top, ..Self::parse(marks, version)? };
        serde_json::to_string(&history).map(Some)
    }

    /// The history of the next write. `home` is the epoch under whose lease it is made, if it is.
    #[must_use]
    pub fn next(&self, rule: &ConflictRule, version: &Version, home: Option<u64>) -> Self {
        let own = (version.v, version.origin.to_string());
        match rule {
            ConflictRule::HomeWins => {
                let home = home.map(|epoch| (epoch, version.v)).or(self.home);
                Self { home, ..Self::default() }
            }
            ConflictRule::FirstWins if self.path.len() >= PATH_MAX => {
                Self { round: self.round + 1, path: vec![own], ..Self::default() }
            }
            ConflictRule::FirstWins => {
                let path = self.path.iter().cloned().chain([own]).collect();
                Self { round: self.round, path, ..Self::default() }
            }
            ConflictRule::Columns { .. } | ConflictRule::LastWriterWins | ConflictRule::Policy { .. } => {
                Self::default()
            }
        }
    }
}

/// How two versions stand by a rule: the greater wins.
#[must_use]
pub fn compare(
    rule: &ConflictRule,
    (one, of_one): (&Version, &History),
    (other, of_other): (&Version, &History),
) -> Ordering {
    match rule {
        ConflictRule::HomeWins => (of_one.home, one).cmp(&(of_other.home, other)),
        ConflictRule::FirstWins => {
            let rounds = of_one.round.cmp(&of_other.round);
            rounds.then_with(|| paths(&of_one.path, &of_other.path)).then_with(|| one.cmp(other))
        }
        ConflictRule::Columns { .. } | ConflictRule::LastWriterWins | ConflictRule::Policy { .. } => {
            one.cmp(other)
        }
    }
}

fn paths(one: &[(u64, String)], other: &[(u64, String)]) -> Ordering {
    let parting = one.iter().zip(other).find(|(one, other)| one != other);
    parting.map_or_else(|| one.len().cmp(&other.len()), |(one, other)| Reverse(one).cmp(&Reverse(other)))
}
