//! What becomes of rows that are here when another region's take their place, all of them or some, and of what was told of them.

use portolan_core::ids::RegionName;
use portolan_core::log::{Identity, Placement, Position, Version};

use super::lineage::Cut;

/// How much of a copy's own log the source of its rows knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// There is nothing to know.
    All,
    /// Nothing that can be gone on with: what was told is of a history that is no longer the copy's, and another log begins.
    Nothing,
    /// What lies up to here, and what comes after it is still there to be told.
    Through(Position),
}

/// What becomes of a row when a page of another region's comes that spans its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The other has nothing under its key: it goes when all pages are in.
    Gone,
    /// The other has it in a lower version: it gives way at once.
    Lower,
    /// The gate decides.
    Stays,
}

/// What becomes of a row that was taken past a cut, when the primary says what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mending {
    /// It has been written since: the gate decides.
    Gate,
    /// The primary has nothing: it goes.
    Goes,
    /// Nothing: it has been written since, and the primary has nothing.
    Nothing,
    /// It becomes what the primary has, whatever the versions.
    Put,
}

/// How much of a copy's own log, which was trimmed through a position and ends at another, the source of its rows knows that has come
/// through logs as far as `heads`. `identity`: which log it is; none when it may have been cut.
#[must_use]
pub fn told(
    own: &RegionName,
    identity: Option<&Identity>,
    (trimmed, tip): (Position, Position),
    heads: &[Cut],
) -> Told {
    let Some(identity) = identity else { return Told::Nothing };
    if tip == Position::START {
        return Told::All;
    }
    let known = heads.iter().find(|head| head.region == *own && head.identity == *identity);
    known.filter(|head| head.at >= trimmed).map_or(Told::Nothing, |head| Told::Through(head.at))
}

/// What becomes of a row that is here, by what the page has under its key.
#[must_use]
pub fn way(here: (Placement, &Version), there: Option<(Placement, &Version)>) -> Way {
    match there {
        None => Way::Gone,
        Some(there) if here > there => Way::Lower,
        Some(_) => Way::Stays,
    }
}

/// Is what goes this way kept as a loser? A deletion is, where the other still has the row: it was lost. `clean`: all that is here came of the
/// other's own log, so that what it does not have it has taken away itself.
#[must_use]
pub fn is_lost(way: Way, deleted: bool, clean: bool) -> bool {
    match way {
        Way::Gone => !clean && !deleted,
        Way::Lower => true,
        Way::Stays => false,
    }
}

/// What becomes of a stale row. `stale` is the version that does not count, with the one that is here by now; none when it was put right already.
#[must_use]
pub fn mending(stale: Option<(&Version, Option<&Version>)>, primary_has: bool) -> Mending {
    let unchanged = stale.is_some_and(|(stale, here)| here == Some(stale));
    match (primary_has, unchanged) {
        (true, true) => Mending::Put,
        (true, false) => Mending::Gate,
        (false, true) => Mending::Goes,
        (false, false) => Mending::Nothing,
    }
}

/// Are all rows here, so that logs are followed? `copying`: rows are being copied, or have to be, because they may have been cut; `led`: an epoch began here once; `follows`: a log is
/// followed.
#[must_use]
pub const fn is_whole(copying: bool, led: bool, follows: bool) -> bool {
    !copying && (led || follows)
}

#[cfg(test)]
mod tests {
    use portolan_core::log::Epoch;

    use super::*;

    fn version(epoch: u64, v: u64) -> Version {
        Version { epoch: Epoch(epoch), v, origin: RegionName::new("eu").unwrap() }
    }

    #[test]
    fn rows_give_way_to_lower_versions_and_to_none() {
        let (low, high) = (version(1, 5), version(2, 1));
        assert_eq!(way((Placement(0), &high), None), Way::Gone);
        assert_eq!(way((Placement(0), &high), Some((Placement(0), &low))), Way::Lower);
        assert_eq!(way((Placement(1), &low), Some((Placement(0), &high))), Way::Lower);
        assert_eq!(way((Placement(0), &low), Some((Placement(0), &low))), Way::Stays);
        assert_eq!(way((Placement(0), &low), Some((Placement(0), &high))), Way::Stays);
    }

    #[test]
    fn what_is_lost_is_kept_deletions_too() {
        assert!(is_lost(Way::Lower, false, true) && is_lost(Way::Lower, true, false));
        assert!(is_lost(Way::Gone, false, false) && !is_lost(Way::Gone, false, true));
        assert!(!is_lost(Way::Gone, true, false), "neither has it");
        assert!(!is_lost(Way::Stays, false, false));
    }

    #[test]
    fn a_stale_row_is_put_right_unless_it_was_written_since() {
        let (stale, newer) = (version(1, 5), version(2, 1));
        assert_eq!(mending(Some((&stale, Some(&stale))), true), Mending::Put);
        assert_eq!(mending(Some((&stale, Some(&stale))), false), Mending::Goes);
        assert_eq!(mending(Some((&stale, Some(&newer))), true), Mending::Gate);
        assert_eq!(mending(Some((&stale, None)), true), Mending::Gate);
        assert_eq!(mending(Some((&stale, Some(&newer))), false), Mending::Nothing);
        assert_eq!(mending(None, true), Mending::Gate);
    }

    #[test]
    fn what_a_source_knows_of_a_log_is_gone_on_with() {
        let eu = RegionName::new("eu").unwrap();
        let log = |incarnation: &str| Identity {
            system: "s".to_owned(),
            timeline: 1,
            incarnation: incarnation.to_owned(),
        };
        let at = |sequence| Position::new(1, 1, sequence);
        let head = |log: Identity, sequence| Cut { region: eu.clone(), identity: log, at: at(sequence) };
        let (now, trimmed) = (log("now"), (at(5), at(9)));
        for (identity, extent, heads, known) in [
            (None, trimmed, vec![head(log("now"), 7)], Told::Nothing),
            (Some(&now), (Position::START, Position::START), vec![], Told::All),
            (Some(&now), trimmed, vec![head(log("now"), 7)], Told::Through(at(7))),
            (Some(&now), trimmed, vec![head(log("now"), 4)], Told::Nothing),
            (Some(&now), trimmed, vec![head(log("before"), 7)], Told::Nothing),
            (Some(&now), trimmed, vec![], Told::Nothing),
        ] {
            assert_eq!(told(&eu, identity, extent, &heads), known, "{heads:?}");
        }
    }

    #[test]
    fn a_copy_is_whole_once_it_follows_or_has_led() {
        assert!(!is_whole(true, true, true));
        assert!(!is_whole(false, false, false));
        assert!(is_whole(false, true, false) && is_whole(false, false, true));
    }
}
