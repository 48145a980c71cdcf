//! Regions and shards as a component sees them when regions fail: the contract's imports, in this crate's types.

use crate::bindings::failing::portolan::policy::{failover_answers, failover_facts, types};
use crate::draft::Refusal;
use crate::failover::{Detour, Event, Health, Region, Replica, Shard};

fn done(result: Result<(), types::Refusal>) -> Result<(), Refusal> {
    result.map_err(|refusal| Refusal { code: refusal.code, message: refusal.message })
}

pub(crate) fn now_ms() -> u64 {
    failover_facts::now_ms()
}

pub(crate) fn local_region() -> String {
    failover_facts::local_region()
}

pub(crate) fn control() -> bool {
    failover_facts::control()
}

pub(crate) fn regions() -> Vec<Region> {
    let region = |there: failover_facts::Region| {
        let intents = failover_facts::intents(&there.name);
        let says = |word: &str| intents.iter().any(|intent| intent == word);
        Region {
            is_drained: says("drain"),
            is_lost: says("lost"),
            is_maintained: says("maintenance"),
            name: there.name,
            health: Health::of(there.verdict),
            answers: there.answers,
            database: there.database,
            down_ms: there.down_ms,
            well_ago_ms: there.well_ago_ms,
            capacity: there.capacity,
            load: there.load,
        }
    };
    failover_facts::regions().into_iter().map(region).collect()
}

pub(crate) fn evidence(region: &str, vantage: &str, path: &str) -> u32 {
    failover_facts::evidence(region, vantage, path)
}

pub(crate) fn frozen() -> bool {
    failover_facts::frozen()
}

pub(crate) fn shards(after: &str, max: u32) -> Vec<Shard> {
    let shard = |there: failover_facts::Shard| Shard {
        name: there.name,
        primary: there.primary,
        home: there.home,
        void: there.void,
        running: there.running,
        loss_rows_max: there.loss_rows_max,
        loss_bytes_max: there.loss_bytes_max,
        loss_ms_max: there.loss_ms_max,
    };
    failover_facts::shards(after, max).into_iter().map(shard).collect()
}

pub(crate) fn replicas(shard: &str) -> Vec<Replica> {
    let replica = |there: failover_facts::Replica| Replica {
        region: there.region,
        whole: there.whole,
        current: there.current,
        rows: there.rows,
        behind_rows: there.behind_rows,
        behind_bytes: there.behind_bytes,
        behind_ms: there.behind_ms,
        ago_ms: there.ago_ms,
    };
    failover_facts::replicas(shard).into_iter().map(replica).collect()
}

pub(crate) fn allows(shard: &str, region: &str) -> bool {
    failover_facts::allows(shard, region)
}

pub(crate) fn detours() -> Vec<Detour> {
    let detour = |there: failover_facts::Detour| Detour {
        region: there.region,
        target: there.target,
        percent: there.percent,
        since_ms: there.since_ms,
    };
    failover_facts::detours().into_iter().map(detour).collect()
}

pub(crate) fn failures() -> Vec<Event> {
    events(failover_facts::failures())
}

pub(crate) fn removals() -> Vec<Event> {
    events(failover_facts::removals())
}

fn events(all: Vec<failover_facts::Event>) -> Vec<Event> {
    all.into_iter().map(|event| Event { region: event.region, at_ms: event.at_ms }).collect()
}

pub(crate) fn limit(name: &str) -> Option<u64> {
    failover_facts::limit(name)
}

pub(crate) fn hold() -> Result<(), Refusal> {
    done(failover_answers::hold())
}

pub(crate) fn shift(region: &str, target: &str, percent: u32) -> Result<(), Refusal> {
    done(failover_answers::shift(region, target, percent))
}

pub(crate) fn promote(shard: &str, region: &str) -> Result<(), Refusal> {
    done(failover_answers::promote(shard, region))
}

pub(crate) fn drain(region: &str) -> Result<(), Refusal> {
    done(failover_answers::drain(region))
}

pub(crate) fn read_only(shard: &str) -> Result<(), Refusal> {
    done(failover_answers::read_only(shard))
}
