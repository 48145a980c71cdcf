//! Rise and fall: when probe results change a state. Pure; the prober feeds it and writes what it says into cells.

use crate::facts::Verdict;
use crate::topology::Probe;

/// The state machine of one probed thing. The first result decides at once: waiting would only keep traffic away
/// from the good and on the bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    verdict: Verdict,
    /// Results in a row that speak against the present verdict.
    against: u32,
}

impl Health {
    /// Takes one probe's result; gives the verdict when it changed.
    ///
    /// Healthy things become suspect with the first bad probe and down with the `fall`-th in a row; a good probe in
    /// between clears them. Down things become healthy with the `rise`-th good probe in a row.
    pub fn observe(&mut self, good: bool, probe: &Probe) -> Option<Verdict> {
        let next = match (self.verdict, good) {
            (Verdict::Down, true) => {
                self.against += 1;
                if self.against >= probe.rise { Verdict::Healthy } else { Verdict::Down }
            }
            (Verdict::Down, false) => {
                self.against = 0;
                Verdict::Down
            }
            (Verdict::Unknown, false) => Verdict::Down,
            (_, true) => Verdict::Healthy,
            (_, false) => {
                self.against += 1;
                if self.against >= probe.fall { Verdict::Down } else { Verdict::Suspect }
            }
        };
        if next == Verdict::Healthy || next != self.verdict && next == Verdict::Down {
            self.against = 0;
        }
        let changed = next != self.verdict;
        self.verdict = next;
        changed.then_some(next)
    }

    /// Is it about to change? Then the next probe should come sooner.
    #[must_use]
    pub const fn in_transition(&self) -> bool {
        self.against > 0
    }

    /// The present verdict.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn probe() -> Probe {
        let second = Duration::from_secs(1);
        Probe { path: "/".into(), interval: second, timeout: second, rise: 2, fall: 3 }
    }

    /// `+` and `-` are results; the verdicts after each are written as letters.
    fn check(results: &str, verdicts: &str) {
        let mut health = Health::default();
        let seen: String = results
            .chars()
            .map(|result| {
                health.observe(result == '+', &probe());
                match health.verdict() {
                    Verdict::Healthy => 'h',
                    Verdict::Suspect => 's',
                    Verdict::Down => 'd',
                    Verdict::Unknown | Verdict::Draining => '?',
                }
            })
            .collect();
        assert_eq!(seen, verdicts, "after {results}");
    }

    #[test]
    fn rise_and_fall() {
        check("+", "h");
        check("-", "d");
        check("+--+", "hssh");
        check("+---", "hssd");
        check("+---+-++", "hssddddh");
        check("+--+--+---", "hsshsshssd");
    }

    #[test]
    fn a_change_is_told_once() {
        let mut health = Health::default();
        assert_eq!(health.observe(true, &probe()), Some(Verdict::Healthy));
        assert_eq!(health.observe(true, &probe()), None);
        assert_eq!(health.observe(false, &probe()), Some(Verdict::Suspect));
        assert!(health.in_transition());
    }
}
