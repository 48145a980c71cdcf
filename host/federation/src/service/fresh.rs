//! How fresh a reader wants its answer, in the words of the tenants' data API: what a copy may answer, and what the region that writes has to.

use std::time::Duration;

use http::HeaderMap;

use super::problem::Problem;

/// The field by which a reader says how fresh it wants its answer.
const CONSISTENCY: &str = "portolan-consistency";

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Whatever this region has.
    Local,
    /// Not older than this.
    MaxStaleness(Duration),
    /// What the region has that writes.
    Primary,
}

impl Wanted {
    /// What a request asks for. Without a word it is the answer of the region that writes: nobody is surprised by an old one.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let Some(word) = headers.get(CONSISTENCY) else { return Ok(Self::Primary) };
        match word.to_str().unwrap_or_default().trim() {
            // A token names positions of rows' logs, which content is in none of.
            "primary" | "at-least" => Ok(Self::Primary),
            "local" => Ok(Self::Local),
            word => match word.strip_prefix("max-staleness=").map(str::parse) {
                Some(Ok(seconds)) => Ok(Self::MaxStaleness(Duration::from_secs(seconds))),
                _ => Err(Problem::bad(
                    "`portolan-consistency` is `primary`, `max-staleness=SECONDS` or `local`",
                )),
            },
        }
    }

    /// Is a copy fresh enough?
    pub(super) fn takes(self, behind: Duration) -> bool {
        match self {
            Self::Local => true,
            Self::MaxStaleness(most) => behind <= most,
            Self::Primary => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_answers_whom_it_is_fresh_enough_for() {
        let wanted = |word: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONSISTENCY, word.parse().unwrap());
            Wanted::of(&headers)
        };
        assert_eq!(Wanted::of(&HeaderMap::new()).unwrap(), Wanted::Primary);
        let (two, old) = (Duration::from_secs(2), Duration::from_secs(90));
        assert!(wanted("local").unwrap().takes(old) && !wanted("primary").unwrap().takes(Duration::ZERO));
        let at_most = wanted("max-staleness=2").unwrap();
        assert!(at_most.takes(two) && !at_most.takes(old) && !wanted("at-least").unwrap().takes(two));
        for bad in ["", "max-staleness=", "max-staleness=-1", "newest"] {
            assert_eq!(wanted(bad).unwrap_err().status, 400, "{bad}");
        }
    }
}
