//! The leaky down counter: what becomes of one cell of the matrix as results come in.
//!
//! Failures need not follow each other: they are forgotten only when enough successes do. What comes back has to answer for a while and to have
//! been down for a while, longer each time. Nothing is known of a cell at first, and the first result alone does not change that. Passive signals
//! raise suspicion and take nothing down; an identity that cannot be proved is a state of its own, because somebody answers there.

use std::time::Duration;

use portolan_core::time::Moment;
use serde::{Deserialize, Serialize};

use crate::defaults::FIRST;
use crate::timers::Probe;

/// Flaps beyond which doubling changes nothing that a duration holds.
const FLAPS_MAX: u32 = 20;

/// What a cell stands at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nothing is known yet.
    #[default]
    Unknown,
    /// It answers.
    Up,
    /// It answers, and something is wrong.
    Suspect,
    /// It does not answer.
    Down,
    /// Somebody answers who cannot prove who it is: a certificate has expired, or an authority is gone.
    Identity,
}

/// Why a cell stands where it does. An open set: what another version means by a number that is not known here is `Other`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Nothing is wrong.
    #[default]
    None,
    /// No answer in time.
    Timeout,
    /// No connection.
    Refused,
    /// An answer that says that something is wrong.
    Status,
    /// A certificate that has expired or is not trusted.
    Certificate,
    /// It answers, and gets nowhere.
    Stalled,
    /// Passive signals: errors of requests, a lag that grows.
    Passive,
    /// Something else.
    Other,
}

/// What came of one probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered.
    Ok,
    /// It did not.
    Failed(Reason),
    /// It did, and could not prove who it is.
    Identity,
}

/// The counter of one cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Up or down, or unknown; what is shown besides comes from the fields below.
    is_up: Option<bool>,
    /// Failures that are not forgotten.
    failures: u32,
    /// Successes in a row.
    oks: u32,
    /// The last results were answers of somebody unknown.
    identity: bool,
    reason: Reason,
    suspected_until: Option<Moment>,
    /// When it went down, or came up.
    since: Moment,
    flaps: u32,
    /// From when the next flap is forgotten.
    flap_at: Moment,
}

impl Counter {
    /// Takes the result of one probe.
    pub fn observe(&mut self, outcome: Outcome, now: Moment, probe: &Probe) {
        match outcome {
            Outcome::Identity => {
                self.identity = true;
                self.oks = 0;
                self.reason = Reason::Certificate;
            }
            Outcome::Failed(reason) => {
                self.identity = false;
                self.oks = 0;
                self.failures = self.failures.saturating_add(1);
                self.reason = reason;
                let enough = if self.is_up.is_none() { probe.down.max(FIRST) } else { probe.down };
                if self.failures >= enough && self.is_up != Some(false) {
                    self.fall(now, probe);
                }
            }
            Outcome::Ok => {
                self.identity = false;
                self.oks = self.oks.saturating_add(1);
                if self.oks >= probe.ok && self.is_up != Some(false) {
                    self.failures = 0;
                }
                let risen = match self.is_up {
                    None => self.oks >= FIRST,
                    Some(true) => false,
                    // What was never up does not flap: a region that starts after others is not kept waiting.
                    Some(false) if self.flaps == 0 => self.oks >= probe.up,
                    Some(false) => self.oks >= probe.up && now.since(self.since) >= self.hold_down(probe),
                };
                if risen {
                    (self.is_up, self.failures, self.since, self.flap_at) = (Some(true), 0, now, now);
                }
                if self.failures == 0 && self.is_up == Some(true) {
                    self.reason = Reason::None;
                }
            }
        }
        self.forget(now, probe);
    }

    /// A passive signal: it raises suspicion for a while, and never more than that.
    pub fn suspect(&mut self, now: Moment, probe: &Probe) {
        self.suspected_until = Some(now.plus(probe.suspicion));
    }

    /// What it stands at.
    #[must_use]
    pub fn state(&self, now: Moment) -> State {
        let suspected = self.suspected_until.is_some_and(|until| now < until);
        match self.is_up {
            _ if self.identity => State::Identity,
            None => State::Unknown,
            Some(false) => State::Down,
            Some(true) if self.failures > 0 || suspected => State::Suspect,
            Some(true) => State::Up,
        }
    }

    /// Why.
    #[must_use]
    pub fn reason(&self, now: Moment) -> Reason {
        match self.reason {
            Reason::None if self.state(now) == State::Suspect => Reason::Passive,
            reason => reason,
        }
    }

    /// How long it stays down at least, by how often it has gone down lately.
    #[must_use]
    pub fn hold_down(&self, probe: &Probe) -> Duration {
        let doubled = 1_u32.checked_shl(self.flaps.saturating_sub(1)).unwrap_or(u32::MAX);
        probe.hold_down.saturating_mul(doubled).min(probe.hold_down_max)
    }

    fn fall(&mut self, now: Moment, probe: &Probe) {
        self.forget(now, probe);
        if self.is_up == Some(true) {
            self.flaps = (self.flaps + 1).min(FLAPS_MAX);
        }
        (self.is_up, self.since) = (Some(false), now);
    }

    /// One flap less for each while that it has been up.
    fn forget(&mut self, now: Moment, probe: &Probe) {
        while self.is_up == Some(true) && self.flaps > 0 && now.since(self.flap_at) >= probe.hold_down_decay {
            self.flaps -= 1;
            self.flap_at = self.flap_at.plus(probe.hold_down_decay.max(Duration::from_micros(1)));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::timers::Profile;

    fn at(second: u64) -> Moment {
        Moment(second * 1_000_000)
    }

    /// `+`, `-` and `?` are results, a second apart: a success, a failure, an identity that is not proved. Gives a letter for each state.
    fn check(results: &str, states: &str) -> Counter {
        let probe = Profile::Default.timers().probe;
        let mut counter = Counter::default();
        let mut seen = String::new();
        for (second, result) in (0..).zip(results.chars()) {
            let outcome = match result {
                '+' => Outcome::Ok,
                '?' => Outcome::Identity,
                _ => Outcome::Failed(Reason::Timeout),
            };
            counter.observe(outcome, at(second), &probe);
            seen.push(match counter.state(at(second)) {
                State::Unknown => '.',
                State::Up => 'u',
                State::Suspect => 's',
                State::Down => 'd',
                State::Identity => 'i',
            });
        }
        assert_eq!(seen, states, "after {results}");
        counter
    }

    #[test]
    fn the_first_result_does_not_decide() {
        check("+", ".");
        check("-", ".");
        check("++", ".u");
        check("---", "..d");
        check("-++", "..u");
        // What was never up comes up as soon as it answers for a while.
        check(&format!("---{}", "+".repeat(10)), &format!("..d{}u", "d".repeat(9)));
    }

    #[test]
    fn failures_leak_only_by_successes_in_a_row() {
        check("++-+-+-", ".ussssd");
        check("++-++++-++++-", ".ussssssssssd");
        check("++-+++++-+", ".usssssuss");
    }

    #[test]
    fn what_was_down_comes_up_after_its_time() {
        // Ten in a row are not enough before a minute has passed.
        let long = format!("++---{}", "+".repeat(61));
        let states = format!(".ussd{}uu", "d".repeat(59));
        check(&long, &states);
        let broken = format!("++---{}-{}", "+".repeat(55), "+".repeat(9));
        assert!(check(&broken, &format!(".ussd{}", "d".repeat(65))).state(at(70)) == State::Down);
    }

    #[test]
    fn each_flap_doubles_the_time_and_quiet_halves_it() {
        let probe = Profile::Default.timers().probe;
        let mut counter = Counter::default();
        let mut now = 0;
        let mut held = Vec::new();
        for _ in 0..7 {
            while counter.state(at(now)) != State::Up {
                counter.observe(Outcome::Ok, at(now), &probe);
                now += 1;
            }
            for _ in 0..3 {
                counter.observe(Outcome::Failed(Reason::Refused), at(now), &probe);
                now += 1;
            }
            held.push(counter.hold_down(&probe).as_secs());
        }
        assert_eq!(held, [60, 120, 240, 480, 900, 900, 900]);
        // More than a day of quiet forgets them all.
        for _ in 0..100_000 {
            counter.observe(Outcome::Ok, at(now), &probe);
            now += 1;
        }
        assert_eq!(counter.state(at(now)), State::Up);
        assert_eq!(counter.hold_down(&probe).as_secs(), 60);
    }

    #[test]
    fn an_identity_is_never_down() {
        let counter = check(&format!("++{}", "?".repeat(30)), &format!(".u{}", "i".repeat(30)));
        assert_eq!(counter.reason(at(40)), Reason::Certificate);
        check("++---?", ".ussdi");
        check("++?+", ".uiu");
        check("++??---", ".uiissd");
    }

    #[test]
    fn a_passive_signal_raises_suspicion_for_a_while() {
        let probe = Profile::Default.timers().probe;
        let mut counter = check("++", ".u");
        for _ in 0..1_000 {
            counter.suspect(at(2), &probe);
        }
        assert_eq!((counter.state(at(2)), counter.reason(at(2))), (State::Suspect, Reason::Passive));
        assert_eq!(counter.state(at(12)), State::Up);
        let mut unknown = Counter::default();
        unknown.suspect(at(0), &probe);
        assert_eq!(unknown.state(at(0)), State::Unknown);
    }

    proptest! {
        /// Whatever comes, a cell goes down only with as many failures as that takes, and never by identities or signals.
        #[test]
        fn nothing_but_failures_takes_down(results in prop::collection::vec(0..4_u8, 1..200)) {
            let probe = Profile::Default.timers().probe;
            let mut counter = Counter::default();
            let (mut failures, mut before) = (0, State::Unknown);
            for (second, result) in (0..).zip(results) {
                match result {
                    0 => counter.observe(Outcome::Ok, at(second), &probe),
                    1 => counter.observe(Outcome::Identity, at(second), &probe),
                    2 => counter.suspect(at(second), &probe),
                    _ => {
                        failures += 1;
                        counter.observe(Outcome::Failed(Reason::Timeout), at(second), &probe);
                    }
                }
                let now = counter.state(at(second));
                if now == State::Down && before != State::Down {
                    prop_assert!(failures >= probe.down);
                }
                if counter.is_up == Some(true) {
                    prop_assert!(counter.failures < probe.down);
                }
                before = now;
            }
        }
    }
}
