//! What is believed of a region, from what all vantages see.

use serde::{Deserialize, Serialize};

use super::{Doubt, Path, Row, cell};
use crate::counter::State;
use crate::members::Seat;

/// What is believed of a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is gone, for a majority of the other regions.
    Down {
        /// Other regions.
        of: u8,
        /// Those that do not reach it by any path.
        k: u8,
    },
    /// It is there, and does not do its work: some paths lead to it and others do not, or it misses its own database or the control store, or
    /// cannot prove who it is.
    Gray,
    /// It answers.
    Healthy,
    /// Some reach it, and some do not.
    Partitioned,
    /// Something is wrong, and nobody can say what yet.
    Suspect,
    /// Too few regions report. Nothing follows from it.
    #[default]
    Unknown,
}

/// How one vantage sees a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    Alive,
    Dead,
    Half,
    Identity,
    Suspect,
    Unknown,
}

impl Verdict {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Down { .. } => "down",
            Self::Gray => "gray",
            Self::Healthy => "healthy",
            Self::Partitioned => "partitioned",
            Self::Suspect => "suspect",
            Self::Unknown => "unknown",
        }
    }

    /// Is it gone?
    #[must_use]
    pub const fn is_down(self) -> bool {
        matches!(self, Self::Down { .. })
    }

    /// As policies of worlds that know fewer verdicts see it.
    #[must_use]
    pub const fn fact(self) -> portolan_core::facts::Verdict {
        use portolan_core::facts::Verdict as Fact;
        match self {
            Self::Down { .. } => Fact::Down,
            Self::Healthy => Fact::Healthy,
            Self::Gray | Self::Partitioned | Self::Suspect => Fact::Suspect,
            Self::Unknown => Fact::Unknown,
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Down { of, k } => write!(f, "down ({k} of {of})"),
            other => f.write_str(other.as_str()),
        }
    }
}

fn sight(row: &Row, region: Seat) -> Sight {
    use State::{Down, Identity, Suspect, Unknown, Up};
    let (ingress, peer) = (cell(row, region, Path::Ingress).state, cell(row, region, Path::Peer).state);
    let answers = |state| matches!(state, Up | Suspect);
    match (ingress, peer) {
        // Somebody answers, whoever it is: it is not dead.
        (Identity, other) | (other, Identity) if !answers(other) => Sight::Identity,
        // Its rows still come.
        (Down, Down) if cell(row, region, Path::Replication).state == Up => Sight::Half,
        (Down, Down) => Sight::Dead,
        (Down | Identity, _) | (_, Down | Identity) => Sight::Half,
        (Unknown, Unknown) => Sight::Unknown,
        (Suspect, _) | (_, Suspect) => Sight::Suspect,
        (Up, _) | (_, Up) => Sight::Alive,
    }
}

/// Does whoever sees this reach less than half of the others?
pub(super) fn unreachable(row: &Row, own: Seat, regions: usize) -> bool {
    let others = regions.saturating_sub(1);
    let lost = (row.iter().zip(0..regions))
        .filter(|(_, at)| *at != own.index())
        .filter(|(cells, _)| {
            let state = |path: Path| cells.get(path as usize).map_or(State::Unknown, |cell| cell.state);
            let gone = |path| matches!(state(path), State::Down | State::Identity);
            gone(Path::Ingress) && gone(Path::Peer)
        })
        .count();
    others > 0 && lost * 2 > others
}

/// What is believed of a region by the views of all: none where there is no fresh one.
pub(super) fn of(region: Seat, views: &[Option<(Row, Option<Doubt>)>]) -> Verdict {
    let others = views.len().saturating_sub(1);
    let mut sights = [0_usize; 6];
    let counting = views.iter().enumerate().filter(|(at, _)| *at != region.index());
    for (row, _) in counting.filter_map(|(_, view)| view.as_ref()).filter(|(_, doubt)| doubt.is_none()) {
        let at = sight(row, region) as usize;
        sights.iter_mut().skip(at).take(1).for_each(|count| *count += 1);
    }
    let [alive, dead, half, identity, suspect, unknown] = sights;
    let observers = alive + dead + half + identity + suspect + unknown;
    let majority = (others / 2 + 1).max(2);
    if observers < 2 {
        return Verdict::Unknown;
    }
    // What it says of itself, while it can say anything.
    let own = views.get(region.index()).and_then(Option::as_ref);
    let sick = own.is_some_and(|(row, _)| {
        [Path::Control, Path::Database].iter().any(|path| cell(row, region, *path).state == State::Down)
    });
    if dead >= majority {
        let number = |count: usize| u8::try_from(count).unwrap_or(u8::MAX);
        Verdict::Down { of: number(others), k: number(dead) }
    } else if dead > 0 && alive + half + identity + suspect > 0 {
        Verdict::Partitioned
    } else if sick || (half + identity) * 2 > observers {
        Verdict::Gray
    } else if dead + half + identity + suspect > 0 {
        Verdict::Suspect
    } else if alive * 2 > observers {
        Verdict::Healthy
    } else {
        Verdict::Unknown
    }
}
