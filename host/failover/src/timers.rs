//! All times of failover, and what they must be to each other.
//!
//! They are held against each other as a whole when they are loaded: a lease that cannot be renewed twice, or a challenger that does not wait for
//! clocks, is refused with what to change. Policies may make them more careful, never less.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::defaults as d;

/// Times that somebody has thought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Writes go on within about twelve seconds.
    Default,
    /// Within about eight, for regions that are near each other and links that are good.
    Fast,
}

/// Times of a region's lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// What it lasts from the moment at which its renewal was sent.
    pub ttl: Duration,
    /// From one renewal to the next.
    pub renew: Duration,
    /// How long one waits for its answer.
    pub rpc_timeout: Duration,
    /// What the holder stops before the end.
    pub margin: Duration,
    /// What a challenger waits beyond it.
    pub drift: Duration,
    /// Does a holder go on while the control store is away and all regions acknowledge it?
    pub failsafe: bool,
}

/// Times of probes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// From one to the next.
    pub interval: Duration,
    /// How long one waits.
    pub timeout: Duration,
    /// Failures that take a cell down.
    pub down: u32,
    /// Successes in a row that forget failures.
    pub ok: u32,
    /// Successes in a row that bring a cell up.
    pub up: u32,
    /// How long it stays down at least.
    pub hold_down: Duration,
    /// The longest that doubling makes of that.
    pub hold_down_max: Duration,
    /// How long it must be up for one flap to be forgotten.
    pub hold_down_decay: Duration,
    /// How long a passive signal raises suspicion.
    pub suspicion: Duration,
    /// From one report to another region to the next.
    pub exchange: Duration,
    /// How old a report may be that counts.
    pub report_age: Duration,
    /// How late the node's own work may be before it doubts what it sees.
    pub lateness: Duration,
}

/// Times of promotions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// How long a region must be down before anything is promoted.
    pub outage: Duration,
    /// How much older than the loss a replica's word may be.
    pub lag_age: Duration,
    /// From one automatic failover to the next.
    pub interval: Duration,
    /// Automatic failovers of one day.
    pub per_day: u32,
    /// The window in which removals from service are counted.
    pub removal_window: Duration,
    /// Between two steps of a ramp.
    pub ramp_step: Duration,
    /// How long a planned switchover may keep writes waiting.
    pub handover: Duration,
}

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timers {
    /// Of the lease.
    pub lease: Lease,
    /// Of promotions.
    pub pace: Pace,
    /// Of probes.
    pub probe: Probe,
}

/// What is wrong with times, all of it at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the times of failover do not fit together: {}", .0.join("; "))]
pub struct Misfit(pub Vec<String>);

/// What a policy asks of the times: it may be more careful than the operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tightening {
    /// Failures that take a cell down; more is more careful.
    pub down: Option<u32>,
    /// How long a cell stays down at least, in milliseconds; longer is more careful.
    pub hold_down_ms: Option<u64>,
    /// How long a region must be down before anything is promoted, in milliseconds; longer is more careful.
    pub outage_ms: Option<u64>,
    /// From one automatic failover to the next, in milliseconds; longer is more careful.
    pub interval_ms: Option<u64>,
    /// Automatic failovers of one day; fewer is more careful.
    pub per_day: Option<u32>,
}

impl Profile {
    /// Its times.
    #[must_use]
    pub const fn timers(self) -> Timers {
        let normal = Timers {
            lease: Lease {
                ttl: d::TTL,
                renew: d::RENEW,
                rpc_timeout: d::RPC_TIMEOUT,
                margin: d::MARGIN,
                drift: d::DRIFT,
                failsafe: false,
            },
            pace: Pace {
                outage: d::OUTAGE,
                lag_age: d::LAG_AGE,
                interval: d::PROMOTION_INTERVAL,
                per_day: d::PROMOTIONS_PER_DAY,
                removal_window: d::REMOVAL_WINDOW,
                ramp_step: d::RAMP_STEP,
                handover: d::HANDOVER,
            },
            probe: Probe {
                interval: d::PROBE_INTERVAL,
                timeout: d::PROBE_TIMEOUT,
                down: d::DOWN,
                ok: d::OK,
                up: d::UP,
                hold_down: d::HOLD_DOWN,
                hold_down_max: d::HOLD_DOWN_MAX,
                hold_down_decay: d::HOLD_DOWN_DECAY,
                suspicion: d::SUSPICION,
                exchange: d::EXCHANGE,
                report_age: d::REPORT_AGE,
                lateness: d::LATENESS,
            },
        };
        match self {
            Self::Default => normal,
            Self::Fast => Timers {
                lease: Lease {
                    ttl: Duration::from_secs(5),
                    renew: Duration::from_millis(1_500),
                    rpc_timeout: Duration::from_secs(1),
                    margin: Duration::from_secs(1),
                    drift: Duration::from_millis(250),
                    ..normal.lease
                },
                pace: Pace { outage: Duration::from_secs(1), ..normal.pace },
                probe: Probe {
                    interval: Duration::from_millis(500),
                    timeout: Duration::from_millis(500),
                    exchange: Duration::from_millis(250),
                    report_age: Duration::from_millis(1_500),
                    lateness: Duration::from_millis(400),
                    ..normal.probe
                },
            },
        }
    }
}

impl Timers {
    /// Do they fit together?
    ///
    /// # Errors
    /// [`Misfit`] names everything that does not, and what to change.
    pub fn check(&self) -> Result<(), Misfit> {
        let mut problems = self.lease.problems();
        problems.extend(self.probe.problems(&self.lease));
        problems.extend(self.pace.problems(&self.lease));
        if problems.is_empty() { Ok(()) } else { Err(Misfit(problems)) }
    }

    /// The times with what a policy asks of them: each the more careful of both, with those that the policy wanted to loosen.
    #[must_use]
    pub fn tightened(&self, asked: &Tightening) -> (Self, Vec<&'static str>) {
        let mut next = self.clone();
        let mut loosened = Vec::new();
        let longer = |now: &mut Duration, asked: Option<u64>, name: &'static str| {
            let asked = Duration::from_millis(asked?);
            let looser = asked < *now;
            *now = asked.max(*now);
            looser.then_some(name)
        };
        loosened.extend(longer(&mut next.probe.hold_down, asked.hold_down_ms, "hold_down"));
        loosened.extend(longer(&mut next.pace.outage, asked.outage_ms, "outage"));
        loosened.extend(longer(&mut next.pace.interval, asked.interval_ms, "interval"));
        next.probe.hold_down_max = next.probe.hold_down_max.max(next.probe.hold_down);
        next.probe.hold_down_decay = next.probe.hold_down_decay.max(next.probe.hold_down);
        if let Some(down) = asked.down {
            loosened.extend((down < next.probe.down).then_some("down"));
            next.probe.down = next.probe.down.max(down);
        }
        if let Some(per_day) = asked.per_day {
            loosened.extend((per_day > next.pace.per_day).then_some("per_day"));
            next.pace.per_day = next.pace.per_day.min(per_day);
        }
        (next, loosened)
    }

    /// How long it takes from a region's death until a majority of the others says so: the failures that are counted, and a report.
    #[must_use]
    pub fn detection(&self) -> Duration {
        self.probe.interval.saturating_mul(self.probe.down) + self.probe.timeout + self.probe.exchange
    }

    /// How long it takes from a region's death until its lease may be taken: its last renewal may have been sent just before, and is looked at a
    /// little later.
    #[must_use]
    pub fn expiry(&self) -> Duration {
        self.lease.ttl + self.lease.drift + d::SCAN
    }
}

impl Lease {
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let Self { ttl, renew, rpc_timeout, margin, drift, .. } = *self;
        if renew.is_zero() || rpc_timeout.is_zero() || margin.is_zero() {
            problems.push("renew, rpc_timeout and margin are longer than nothing: set each".to_owned());
        }
        if renew * 3 > ttl {
            problems.push(format!(
                "ttl {ttl:?} lets fewer than two renewals fail: raise it to {:?}, or lower renew to {:?}",
                renew * 3,
                ttl / 3
            ));
        }
        if rpc_timeout + margin >= ttl.saturating_sub(renew) {
            problems.push(format!(
                "a renewal that is answered late ({rpc_timeout:?}) and the margin ({margin:?}) leave nothing of ttl - renew = {:?}: lower \
                 rpc_timeout or margin, or raise ttl above {:?}",
                ttl.saturating_sub(renew),
                rpc_timeout + margin + renew
            ));
        }
        if rpc_timeout > renew {
            problems.push(format!(
                "rpc_timeout {rpc_timeout:?} is longer than renew {renew:?}, so that renewals overtake each other: lower it to {renew:?}"
            ));
        }
        // Two clocks run apart, one fast and one slow.
        let apart = ttl.saturating_mul(2 * d::CLOCK_PPM_MAX) / 1_000_000;
        if drift < apart {
            problems.push(format!(
                "drift {drift:?} does not cover two clocks that run apart by {apart:?} in a ttl: raise it to {apart:?}"
            ));
        }
        problems
    }
}

impl Probe {
    fn problems(&self, lease: &Lease) -> Vec<String> {
        let mut problems = Vec::new();
        if self.interval.is_zero() || self.timeout > self.interval || self.timeout.is_zero() {
            problems.push(format!(
                "probe timeout {:?} has to be above nothing and at most the interval {:?}, so that probes do not pile up: lower it",
                self.timeout, self.interval
            ));
        }
        if self.down < 2 {
            problems.push(format!(
                "down is {}: one lost packet would take a region down; set at least 2",
                self.down
            ));
        }
        if self.ok == 0 || self.up < self.ok {
            problems.push(format!(
                "up {} has to be at least ok {}, and ok at least 1: raise up",
                self.up, self.ok
            ));
        }
        if self.hold_down_max < self.hold_down {
            problems.push(format!(
                "hold_down_max {:?} is below hold_down {:?}: raise it, or lower hold_down",
                self.hold_down_max, self.hold_down
            ));
        }
        if self.hold_down_decay < self.hold_down {
            problems.push(format!(
                "hold_down_decay {:?} is below hold_down {:?}, so that nothing is ever remembered of a flap: raise it",
                self.hold_down_decay, self.hold_down
            ));
        }
        if self.exchange.is_zero() || self.report_age < self.exchange * 3 {
            problems.push(format!(
                "report_age {:?} lets fewer than two reports be lost: raise it to {:?}, or lower exchange",
                self.report_age,
                self.exchange * 3
            ));
        }
        if self.report_age >= lease.ttl {
            problems.push(format!(
                "report_age {:?} is not below ttl {:?}, so that a verdict could rest on what was before the lease: lower it",
                self.report_age, lease.ttl
            ));
        }
        if self.lateness >= self.report_age {
            problems.push(format!(
                "lateness {:?} is not below report_age {:?}: a node that is late would never doubt itself; lower it",
                self.lateness, self.report_age
            ));
        }
        problems
    }
}

impl Pace {
    fn problems(&self, lease: &Lease) -> Vec<String> {
        let mut problems = Vec::new();
        if self.interval < d::PROMOTION_INTERVAL {
            problems.push(format!(
                "interval {:?} is below {:?}, the least between two automatic failovers: raise it",
                self.interval,
                d::PROMOTION_INTERVAL
            ));
        }
        if self.per_day == 0 || self.per_day > d::PROMOTIONS_PER_DAY {
            problems.push(format!(
                "per_day {} has to be 1 to {}: use the policy `manual` for none",
                self.per_day,
                d::PROMOTIONS_PER_DAY
            ));
        }
        if self.lag_age > d::LAG_AGE {
            problems.push(format!(
                "lag_age {:?} is above {:?}: what a replica said longer before the loss says nothing of it; lower it",
                self.lag_age,
                d::LAG_AGE
            ));
        }
        if self.handover.is_zero() || self.handover >= lease.ttl {
            problems.push(format!(
                "handover {:?} has to be above nothing and below ttl {:?}, else a planned switchover pauses writes longer than a failover: lower it",
                self.handover, lease.ttl
            ));
        }
        if self.removal_window.is_zero() || self.ramp_step.is_zero() {
            problems.push("removal_window and ramp_step are longer than nothing: set each".to_owned());
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_fit() {
        for profile in [Profile::Default, Profile::Fast] {
            assert_eq!(profile.timers().check(), Ok(()), "{profile:?}");
        }
        let timers = Profile::Default.timers();
        assert_eq!(timers.detection(), Duration::from_millis(4_500));
        assert_eq!(timers.expiry(), Duration::from_millis(10_500));
    }

    #[test]
    fn each_misfit_is_told_with_what_to_change() {
        type Spoil = fn(&mut Timers);
        let cases: [(Spoil, &str); 18] = [
            (|t| t.lease.renew = Duration::from_secs(4), "lower renew to 3s"),
            (|t| t.lease.margin = Duration::from_secs(4), "lower rpc_timeout or margin"),
            (|t| t.lease.rpc_timeout = Duration::from_secs(4), "renewals overtake"),
            (|t| t.lease.drift = Duration::from_millis(3), "raise it to 3.6ms"),
            (|t| t.lease.margin = Duration::ZERO, "longer than nothing"),
            (|t| t.probe.timeout = Duration::from_secs(2), "probe timeout 2s"),
            (|t| t.probe.down = 1, "set at least 2"),
            (|t| t.probe.ok = 0, "ok at least 1"),
            (|t| t.probe.up = 4, "raise up"),
            (|t| t.probe.hold_down_max = Duration::from_secs(1), "hold_down_max"),
            (|t| t.probe.hold_down_decay = Duration::from_secs(1), "hold_down_decay"),
            (|t| t.probe.exchange = Duration::from_secs(1), "lower exchange"),
            (|t| t.probe.report_age = Duration::from_secs(9), "before the lease"),
            (|t| t.probe.lateness = Duration::from_secs(3), "never doubt itself"),
            (|t| t.pace.interval = Duration::from_mins(9), "the least between two"),
            (|t| t.pace.per_day = 4, "1 to 3"),
            (|t| t.pace.lag_age = Duration::from_secs(3), "says nothing of it"),
            (|t| t.pace.handover = Duration::from_secs(9), "longer than a failover"),
        ];
        for (spoil, told) in cases {
            let mut timers = Profile::Default.timers();
            spoil(&mut timers);
            let misfit = timers.check().unwrap_err();
            assert!(misfit.to_string().contains(told), "{misfit} does not say {told:?}");
        }
        let mut all = Profile::Default.timers();
        cases.iter().for_each(|(spoil, _)| spoil(&mut all));
        assert!(all.check().unwrap_err().0.len() >= 12, "all are told at once");
    }

    #[test]
    fn a_policy_tightens_and_never_loosens() {
        let timers = Profile::Default.timers();
        let careful = Tightening {
            down: Some(5),
            hold_down_ms: Some(3_600_000),
            outage_ms: Some(30_000),
            interval_ms: Some(3_600_000),
            per_day: Some(1),
        };
        let (tight, loosened) = timers.tightened(&careful);
        assert_eq!((tight.probe.down, tight.pace.per_day), (5, 1));
        assert_eq!(tight.pace.interval, Duration::from_hours(1));
        assert_eq!((tight.check(), loosened.len()), (Ok(()), 0));

        let rogue = Tightening {
            down: Some(0),
            hold_down_ms: Some(0),
            outage_ms: Some(0),
            interval_ms: Some(0),
            per_day: Some(u32::MAX),
        };
        let (same, loosened) = timers.tightened(&rogue);
        assert_eq!(same, timers);
        assert_eq!(loosened, ["hold_down", "outage", "interval", "down", "per_day"]);
    }
}
