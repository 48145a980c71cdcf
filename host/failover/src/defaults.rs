//! Limits and times of failover, with their reasons. What an operator may change is in [`crate::timers`]; these are what changes begin from,
//! and what no configuration passes.

use std::time::Duration;

/// Regions of one platform. Everybody probes everybody, so that more would want another way to learn of each other.
pub const REGIONS_MAX: usize = 9;
/// What a lease lasts from the moment at which its renewal was sent.
pub const TTL: Duration = Duration::from_secs(9);
/// From one renewal to the next: two may fail before the lease is over.
pub const RENEW: Duration = Duration::from_secs(3);
/// How long a renewal waits for its answer.
pub const RPC_TIMEOUT: Duration = Duration::from_secs(2);
/// What the holder stops before its lease is over: an answer that is under way, a thread that is not scheduled, a step of a database's clock.
pub const MARGIN: Duration = Duration::from_millis(1_500);
/// What a challenger waits beyond the lease: two clocks that run differently.
pub const DRIFT: Duration = Duration::from_millis(500);
/// By how much a clock may run wrong, in parts per million: twice what quartz does at its worst.
pub const CLOCK_PPM_MAX: u32 = 200;
/// From one probe to the next.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a probe waits.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Failures that take a cell down, unless as many successes in a row as [`OK`] come between.
pub const DOWN: u32 = 3;
/// Successes in a row that forget failures.
pub const OK: u32 = 5;
/// Successes in a row that bring a cell up again.
pub const UP: u32 = 10;
/// Successes in a row, or failures, that decide of a cell of which nothing is known: the first alone may be chance.
pub const FIRST: u32 = 2;
/// How long a cell stays down at least.
pub const HOLD_DOWN: Duration = Duration::from_mins(1);
/// The longest that doubling makes of it: somebody looks at what flaps for a quarter of an hour.
pub const HOLD_DOWN_MAX: Duration = Duration::from_mins(15);
/// How long a cell must have been up for one flap to be forgotten.
pub const HOLD_DOWN_DECAY: Duration = Duration::from_mins(10);
/// How long a passive signal raises suspicion.
pub const SUSPICION: Duration = Duration::from_secs(10);
/// From one report to another region to the next. They have one size whatever has happened, so that bad days cost what good ones do.
pub const EXCHANGE: Duration = Duration::from_millis(500);
/// How old a report may be that counts.
pub const REPORT_AGE: Duration = Duration::from_millis(2_500);
/// How late the node's own work may be before it doubts what it sees.
pub const LATENESS: Duration = Duration::from_millis(750);
/// How much older than the loss of a primary the word of a replica may be.
pub const LAG_AGE: Duration = Duration::from_secs(2);
/// How long a region must be down before a shard is promoted elsewhere: what ends by itself sooner costs less than a failover.
pub const OUTAGE: Duration = Duration::from_secs(3);
/// From one automatic failover to the next, at least; no configuration goes below.
pub const PROMOTION_INTERVAL: Duration = Duration::from_mins(10);
/// Automatic failovers of one day; after that somebody has to look.
pub const PROMOTIONS_PER_DAY: u32 = 3;
/// The window in which removals of regions from service are counted.
pub const REMOVAL_WINDOW: Duration = Duration::from_mins(10);
/// Between two steps of a ramp: caches fill and pools open connections meanwhile.
pub const RAMP_STEP: Duration = Duration::from_secs(30);
/// The steps by which traffic comes back, in percent.
pub const RAMP: [u8; 4] = [5, 25, 50, 100];
/// How long a planned switchover may keep writes waiting before it is given up.
pub const HANDOVER: Duration = Duration::from_secs(2);
/// How much of a region's capacity may be used after a shift, in percent: the rest takes retries and cold caches.
pub const HEADROOM_PERCENT: u32 = 80;
/// Below how much of all capacity health is ignored and everything goes on being served, in percent.
pub const PANIC_PERCENT: u64 = 50;
/// The shortest time for which resolvers may keep an answer, in seconds.
pub const DNS_TTL_MIN_S: u32 = 5;
/// The longest.
pub const DNS_TTL_MAX_S: u32 = 300;
/// The longest for which they may keep that there is no answer: one mistake is not remembered for minutes.
pub const SOA_MINIMUM_MAX_S: u32 = 30;
/// From one plan of answers to the next, at least.
pub const PLAN_INTERVAL: Duration = Duration::from_secs(1);
/// Proposals of one answer; a policy that has more to say has lost its mind.
pub const PROPOSALS_MAX: usize = 20_000;
/// Traps in a row after which the built-in policy takes over.
pub const TRAPS_MAX: u32 = 3;
/// Past promotions that are remembered for each shard: more than a day's.
pub const PAST_MAX: usize = 8;
/// The longest that an operator's word holds without being said again: forgotten freezes are found when they are needed least.
pub const INTENT_MAX: Duration = Duration::from_hours(168);
/// From one look at the control store to the next, where nothing is pushed.
pub const SCAN: Duration = Duration::from_secs(1);
/// From one decision to the next while something is wrong.
pub const DECIDE: Duration = Duration::from_millis(500);
/// How long a step of a promotion may take before it is asked for again.
pub const WORK_RETRY: Duration = Duration::from_secs(3);
/// What a promotion takes beside its lease, for forecasts: a transaction, sealing and opening, and news.
pub const PROMOTE_EXPECTED: Duration = Duration::from_millis(2_500);
/// How long a decision waits for its lease before another may take its place: longer than any lease lasts.
pub const DECISION_MAX: Duration = Duration::from_mins(1);
/// The same while a promotion is under way: somebody waits for each of its steps.
pub const SCAN_BUSY: Duration = Duration::from_millis(100);
