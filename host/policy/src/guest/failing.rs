//! The host's functions for failover policies: the picture in the contract's words, and what is written over it.

use portolan_core::failover::{Answers, Event, Picture, Region, Replica, Shard};
use portolan_core::ids::{RegionName, ShardName};

use super::{Lent, State, answered, wit};
use wit::failover_facts as told;

impl State {
    fn answers(&mut self) -> wasmtime::Result<&mut Answers> {
        match &mut self.lent {
            Lent::Answers(answers) => Ok(answers),
            Lent::Draft(_) | Lent::Nothing | Lent::Placing(_) => Err(wasmtime::Error::msg(
                "`failover-facts` and `failover-answers` may only be used inside `propose`",
            )),
        }
    }

    fn picture(&mut self) -> wasmtime::Result<&Picture> {
        self.answers().map(|answers| &**answers.picture())
    }
}

impl wit::failover_facts::Host for State {
    fn now_ms(&mut self) -> wasmtime::Result<u64> {
        Ok(self.picture()?.now_ms)
    }

    fn local_region(&mut self) -> wasmtime::Result<String> {
        Ok(self.picture()?.local.to_string())
    }

    fn control(&mut self) -> wasmtime::Result<bool> {
        Ok(self.picture()?.control)
    }

    fn regions(&mut self) -> wasmtime::Result<Vec<told::Region>> {
        Ok(self.picture()?.regions.iter().map(region).collect())
    }

    fn evidence(&mut self, region: String, vantage: String, path: String) -> wasmtime::Result<u32> {
        Ok(self.picture()?.sight(&region, &vantage, &path).number())
    }

    fn intents(&mut self, region: String) -> wasmtime::Result<Vec<String>> {
        let there = self.picture()?.regions.get(region.as_str()).into_iter();
        Ok(there.flat_map(|there| &there.intents).map(|intent| intent.as_str().to_owned()).collect())
    }

    fn frozen(&mut self) -> wasmtime::Result<bool> {
        Ok(self.picture()?.frozen)
    }

    fn shards(&mut self, after: String, max: u32) -> wasmtime::Result<Vec<told::Shard>> {
        Ok(self.picture()?.page(&after, max).map(shard).collect())
    }

    fn replicas(&mut self, shard: String) -> wasmtime::Result<Vec<told::Replica>> {
        let there = self.picture()?.shards.get(shard.as_str()).into_iter();
        Ok(there.flat_map(|there| &there.replicas).map(replica).collect())
    }

    fn allows(&mut self, shard: String, region: String) -> wasmtime::Result<bool> {
        Ok(self.picture()?.allows(&shard, &region))
    }

    fn detours(&mut self) -> wasmtime::Result<Vec<told::Detour>> {
        let detour = |(region, detour): (&RegionName, &portolan_core::failover::Detour)| told::Detour {
            region: region.to_string(),
            target: detour.target.to_string(),
            percent: u32::from(detour.percent),
            since_ms: detour.since_ms,
        };
        Ok(self.picture()?.detours.iter().map(detour).collect())
    }

    fn failures(&mut self) -> wasmtime::Result<Vec<told::Event>> {
        Ok(self.picture()?.failures.iter().map(event).collect())
    }

    fn removals(&mut self) -> wasmtime::Result<Vec<told::Event>> {
        Ok(self.picture()?.removals.iter().map(event).collect())
    }

    fn limit(&mut self, name: String) -> wasmtime::Result<Option<u64>> {
        Ok(self.picture()?.limits.get(name.as_str()).copied())
    }
}

impl wit::failover_answers::Host for State {
    fn hold(&mut self) -> wasmtime::Result<Result<(), wit::types::Refusal>> {
        answered(self.answers()?.hold())
    }

    fn shift(
        &mut self,
        region: String,
        target: String,
        percent: u32,
    ) -> wasmtime::Result<Result<(), wit::types::Refusal>> {
        answered(self.answers()?.shift(&region, &target, percent))
    }

    fn promote(
        &mut self,
        shard: String,
        region: String,
    ) -> wasmtime::Result<Result<(), wit::types::Refusal>> {
        answered(self.answers()?.promote(&shard, &region))
    }

    fn drain(&mut self, region: String) -> wasmtime::Result<Result<(), wit::types::Refusal>> {
        answered(self.answers()?.drain(&region))
    }

    fn read_only(&mut self, shard: String) -> wasmtime::Result<Result<(), wit::types::Refusal>> {
        answered(self.answers()?.read_only(&shard))
    }
}

fn region((name, there): (&RegionName, &Region)) -> told::Region {
    told::Region {
        name: name.to_string(),
        verdict: there.verdict.number(),
        answers: there.answers,
        database: there.database,
        down_ms: there.down_ms,
        well_ago_ms: there.well_ago_ms,
        capacity: there.capacity,
        load: there.load,
    }
}

fn shard((name, there): (&ShardName, &Shard)) -> told::Shard {
    told::Shard {
        name: name.to_string(),
        primary: there.primary.to_string(),
        home: there.home.to_string(),
        void: there.void,
        running: there.running,
        loss_rows_max: there.loss_rows_max,
        loss_bytes_max: there.loss_bytes_max,
        loss_ms_max: there.loss_ms_max,
    }
}

fn replica(there: &Replica) -> told::Replica {
    told::Replica {
        region: there.region.to_string(),
        whole: there.whole,
        current: there.current,
        rows: there.rows,
        behind_rows: there.behind_rows,
        behind_bytes: there.behind_bytes,
        behind_ms: there.behind_ms,
        ago_ms: there.ago_ms,
    }
}

fn event(event: &Event) -> told::Event {
    told::Event { region: event.region.to_string(), at_ms: event.at_ms }
}
