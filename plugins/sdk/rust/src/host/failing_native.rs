//! Regions and shards as a native test sees them when regions fail: the gateway's own picture and answers over what the test makes
//! up. There is one per thread, from [`lend`] to [`take`].

use std::cell::RefCell;

use portolan_core::failover::{self, Intent, Picture};
use portolan_core::plan;

use crate::draft::Refusal;
use crate::failover::{Detour, Event, Health, Region, Replica, Shard};

thread_local! {
    static ANSWERS: RefCell<Option<failover::Answers>> = const { RefCell::new(None) };
}

/// Opens the picture.
pub(crate) fn lend(answers: failover::Answers) {
    ANSWERS.set(Some(answers));
}

/// Closes it.
pub(crate) fn take() -> Option<failover::Answers> {
    ANSWERS.take()
}

#[expect(
    clippy::panic,
    reason = "the gateway traps a policy that asks outside `propose`; a test must see that"
)]
fn with<T>(write: impl FnOnce(&mut failover::Answers) -> T) -> T {
    ANSWERS.with_borrow_mut(|answers| match answers {
        Some(answers) => write(answers),
        None => panic!("regions may only be asked inside `propose`: use `testing::Outage` in tests"),
    })
}

fn picture<T>(read: impl FnOnce(&Picture) -> T) -> T {
    with(|answers| read(answers.picture()))
}

fn done(result: Result<(), plan::Refusal>) -> Result<(), Refusal> {
    result.map_err(|refusal| Refusal { code: refusal.code, message: refusal.message })
}

pub(crate) fn now_ms() -> u64 {
    picture(|picture| picture.now_ms)
}

pub(crate) fn local_region() -> String {
    picture(|picture| picture.local.to_string())
}

pub(crate) fn control() -> bool {
    picture(|picture| picture.control)
}

pub(crate) fn regions() -> Vec<Region> {
    picture(|picture| {
        let region = |(name, there): (&_, &failover::Region)| Region {
            name: ToString::to_string(name),
            health: Health::of(there.verdict.number()),
            answers: there.answers,
            database: there.database,
            down_ms: there.down_ms,
            well_ago_ms: there.well_ago_ms,
            capacity: there.capacity,
            load: there.load,
            is_drained: there.intents.contains(&Intent::Drain),
            is_lost: there.intents.contains(&Intent::Lost),
            is_maintained: there.intents.contains(&Intent::Maintenance),
        };
        picture.regions.iter().map(region).collect()
    })
}

pub(crate) fn evidence(region: &str, vantage: &str, path: &str) -> u32 {
    picture(|picture| picture.sight(region, vantage, path).number())
}

pub(crate) fn frozen() -> bool {
    picture(|picture| picture.frozen)
}

pub(crate) fn shards(after: &str, max: u32) -> Vec<Shard> {
    picture(|picture| {
        let shard = |(name, there): (&_, &failover::Shard)| Shard {
            name: ToString::to_string(name),
            primary: there.primary.to_string(),
            home: there.home.to_string(),
            void: there.void,
            running: there.running,
            loss_rows_max: there.loss_rows_max,
            loss_bytes_max: there.loss_bytes_max,
            loss_ms_max: there.loss_ms_max,
        };
        picture.page(after, max).map(shard).collect()
    })
}

pub(crate) fn replicas(shard: &str) -> Vec<Replica> {
    picture(|picture| {
        let replica = |there: &failover::Replica| Replica {
            region: there.region.to_string(),
            whole: there.whole,
            current: there.current,
            rows: there.rows,
            behind_rows: there.behind_rows,
            behind_bytes: there.behind_bytes,
            behind_ms: there.behind_ms,
            ago_ms: there.ago_ms,
        };
        picture.shards.get(shard).into_iter().flat_map(|shard| &shard.replicas).map(replica).collect()
    })
}

pub(crate) fn allows(shard: &str, region: &str) -> bool {
    picture(|picture| picture.allows(shard, region))
}

pub(crate) fn detours() -> Vec<Detour> {
    picture(|picture| {
        let detour = |(region, there): (&_, &failover::Detour)| Detour {
            region: ToString::to_string(region),
            target: there.target.to_string(),
            percent: u32::from(there.percent),
            since_ms: there.since_ms,
        };
        picture.detours.iter().map(detour).collect()
    })
}

pub(crate) fn failures() -> Vec<Event> {
    picture(|picture| events(&picture.failures))
}

pub(crate) fn removals() -> Vec<Event> {
    picture(|picture| events(&picture.removals))
}

fn events(all: &[failover::Event]) -> Vec<Event> {
    all.iter().map(|event| Event { region: event.region.to_string(), at_ms: event.at_ms }).collect()
}

pub(crate) fn limit(name: &str) -> Option<u64> {
    picture(|picture| picture.limits.get(name).copied())
}

pub(crate) fn hold() -> Result<(), Refusal> {
    done(with(failover::Answers::hold))
}

pub(crate) fn shift(region: &str, target: &str, percent: u32) -> Result<(), Refusal> {
    done(with(|answers| answers.shift(region, target, percent)))
}

pub(crate) fn promote(shard: &str, region: &str) -> Result<(), Refusal> {
    done(with(|answers| answers.promote(shard, region)))
}

pub(crate) fn drain(region: &str) -> Result<(), Refusal> {
    done(with(|answers| answers.drain(region)))
}

pub(crate) fn read_only(shard: &str) -> Result<(), Refusal> {
    done(with(|answers| answers.read_only(shard)))
}
