//! What operators see of failover.

use std::collections::{BTreeMap, BTreeSet};

use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::Epoch;
use portolan_core::steering::{Detour, Traffic};
use portolan_failover::agent::{Agent, Now};
use portolan_failover::forecast::{Forecast, forecast};
use portolan_failover::matrix::{Path, Verdict, cell};
use portolan_failover::picture::{Picture, Region, Shift};
use portolan_failover::timers::Timers;
use serde_json::{Value, json};

use super::run::propose;
use super::setup::Meant;
use crate::config::FailoverPolicy;
use crate::failing::Failing;
use crate::node::dns::Standing;

/// How failover stands at a moment, as its agent knows it.
#[derive(Debug, Default)]
pub(super) struct Shown(Option<Known>);

#[derive(Debug)]
struct Known {
    failing: Failing,
    fast: bool,
    leases: BTreeMap<RegionName, Value>,
    /// What each region sees of each, by each path.
    matrix: Value,
    picture: Picture,
    policy: FailoverPolicy,
    shards: BTreeMap<ShardName, Value>,
    timers: Timers,
}

impl Shown {
    pub(super) fn of(agent: &Agent, meant: &Meant, failing: &Failing, now: Now) -> Self {
        let (table, setup) = (agent.table(), &meant.setup);
        let leases = setup.members.names().iter().map(|region| {
            let lease = table.lease(region).map(|entry| json!(entry));
            (region.clone(), lease.unwrap_or(Value::Null))
        });
        let shards = setup.shards.keys().map(|name| {
            let record = table.promotion(name);
            let running = record.filter(|record| record.is_running()).map(|record| record.step);
            let permit = agent.takes_writes(name, now.moment);
            let shown = json!({
                "record": record, "running": running, "takes_writes_here": permit.is_some(),
            });
            (name.clone(), shown)
        });
        Self(Some(Known {
            failing: failing.clone(),
            fast: setup.timers == portolan_failover::timers::Profile::Fast.timers(),
            leases: leases.collect(),
            matrix: matrix(agent, now),
            picture: agent.picture(now),
            policy: meant.policy.clone(),
            shards: shards.collect(),
            timers: setup.timers.clone(),
        }))
    }

    /// How regions stand, for names: as the traffic plan and operators say.
    pub(super) fn standing(&self, all: &BTreeSet<RegionName>) -> Standing {
        let Some(Known { picture, .. }) = &self.0 else {
            return Standing { unknown: all.clone(), ..Standing::default() };
        };
        let out = |name: &RegionName| {
            let shifted = picture.shifts.get(name).is_some_and(|shift| shift.percent == 100);
            shifted || picture.intents.drains.contains_key(name) || picture.intents.lost.contains_key(name)
        };
        let those = |wanted: &dyn Fn(&Region) -> bool| -> BTreeSet<RegionName> {
            picture
                .regions
                .iter()
                .filter(|(_, region)| wanted(region))
                .map(|(name, _)| name.clone())
                .collect()
        };
        Standing {
            out: picture.regions.keys().filter(|name| out(name)).cloned().collect(),
            suspected: those(&|region| !matches!(region.verdict, Verdict::Healthy | Verdict::Unknown)),
            unknown: those(&|region| region.verdict == Verdict::Unknown && !region.answers),
        }
    }

    /// Who writes which shard.
    pub(super) fn primaries(&self) -> BTreeMap<ShardName, RegionName> {
        let shards = self.0.iter().flat_map(|known| &known.picture.shards);
        shards.map(|(name, shard)| (name.clone(), shard.primary.clone())).collect()
    }

    /// All of it.
    pub(super) fn status(&self) -> Value {
        let Some(known) = &self.0 else { return json!({ "starting": true }) };
        let picture = &known.picture;
        let regions = picture.regions.iter().map(|(name, region)| {
            let shown = json!({
                "verdict": region.verdict.to_string(), "answers": region.answers, "down_ms": region.down_ms,
                "database": region.database, "well_ago_ms": region.well_ago_ms, "lease": known.leases.get(name),
            });
            (name.to_string(), shown)
        });
        let shards = picture.shards.iter().map(|(name, shard)| {
            let mut shown = json!({
                "primary": shard.primary, "epoch": shard.epoch.0, "home": shard.home, "void": shard.void,
                "replicas": shard.replicas, "max_loss_ms": shard.max_loss.ms,
            });
            if let (Some(shown), Some(Value::Object(more))) = (shown.as_object_mut(), known.shards.get(name))
            {
                shown.extend(more.clone());
            }
            (name.to_string(), shown)
        });
        json!({
            "region": picture.local, "policy": policy(&known.policy, &known.failing), "profile": if known.fast { "fast" } else { "default" },
            "control": picture.control, "regions": regions.collect::<serde_json::Map<_, _>>(),
            "shards": shards.collect::<serde_json::Map<_, _>>(), "shifts": picture.shifts,
            "words": picture.intents, "matrix": known.matrix, "failures": picture.failures,
        })
    }

    /// What would happen.
    pub(super) fn forecast(&self, region: Option<&RegionName>) -> Value {
        let Some(known) = &self.0 else { return json!({ "starting": true }) };
        let of = |region: &RegionName| {
            forecast(&known.picture, region, &known.timers, |picture| {
                propose(&known.policy, &known.failing, picture)
                    .map_or_else(|_| Vec::new(), |(proposals, _)| proposals)
            })
        };
        let regions = known.picture.regions.keys().filter(|name| region.is_none_or(|wanted| *name == wanted));
        let forecasts: Vec<Forecast> = regions.map(of).collect();
        json!({ "forecasts": forecasts })
    }

    /// As Prometheus reads it.
    pub(super) fn metrics(&self, text: &mut String) {
        let Some(known) = &self.0 else { return };
        let mut head = |name: &str, help: &str, lines: &mut dyn Iterator<Item = String>| {
            text.push_str(&format!(
                "# HELP portolan_failover_{name} {help}\n# TYPE portolan_failover_{name} gauge\n"
            ));
            lines.for_each(|line| text.push_str(&format!("portolan_failover_{name}{line}\n")));
        };
        let picture = &known.picture;
        head(
            "region_verdict",
            "What is believed of a region: 1 at its verdict.",
            &mut picture.regions.iter().map(|(name, region)| {
                format!("{{region=\"{name}\",verdict=\"{}\"}} 1", region.verdict.as_str())
            }),
        );
        head(
            "control",
            "Has the control store answered lately?",
            &mut std::iter::once(format!(" {}", u8::from(picture.control))),
        );
        let forecasts: Vec<Forecast> = picture
            .regions
            .keys()
            .map(|region| {
                forecast(picture, region, &known.timers, |picture| {
                    propose(&known.policy, &known.failing, picture)
                        .map_or_else(|_| Vec::new(), |(proposals, _)| proposals)
                })
            })
            .collect();
        let prospects = || forecasts.iter().flat_map(|forecast| &forecast.shards);
        head(
            "forecast_loss_seconds",
            "How old the oldest row would be that is lost if the shard's region died now.",
            &mut prospects()
                .map(|(shard, there)| format!("{{shard=\"{shard}\"}} {}", there.loss_ms as f64 / 1e3)),
        );
        head(
            "forecast_possible",
            "Would another region take the shard over if its own died now?",
            &mut prospects()
                .map(|(shard, there)| format!("{{shard=\"{shard}\"}} {}", u8::from(there.to.is_some()))),
        );
    }
}

/// What gateways are to do, as the traffic plan and operators say: moved traffic goes where the plan sends it, a region that left
/// takes nothing, and a shard without a lease is written by nobody, unless it is handed over just now. What comes in where this node is stays there as long as the region takes
/// part: names move clients, and whoever came is served where it came in. While nothing is known yet, nothing is changed.
pub(super) fn traffic(agent: &Agent, meant: &Meant, now: Now) -> Traffic {
    let detour = |shift: &Shift| Detour { percent: shift.percent, target: shift.target.clone() };
    let moved = agent.shifts().iter().filter(|(name, _)| **name != meant.setup.own);
    let intents = agent.intents(now);
    let gone = intents.drains.keys().chain(intents.lost.keys());
    let changing: BTreeMap<ShardName, Epoch> =
        agent.changing(now).map(|(shard, over)| (shard.clone(), over)).collect();
    let void = agent.voids().filter(|shard| !changing.contains_key(*shard));
    Traffic {
        detours: moved.map(|(name, shift)| (name.clone(), detour(shift))).collect(),
        out: gone.cloned().collect(),
        unwritten: void.chain(agent.read_only()).cloned().collect(),
        changing,
    }
}

fn policy(policy: &FailoverPolicy, failing: &Failing) -> Value {
    match policy {
        FailoverPolicy::Native(name) => json!({ "name": name }),
        FailoverPolicy::Component(slot) => {
            let runs = failing.runs().map(|(name, version)| format!("{name}@{}", version.short()));
            let refused =
                failing.report().and_then(|report| report.refused).map(|refused| refused.to_string());
            json!({ "name": slot.name, "runs": runs, "refused": refused })
        }
    }
}

fn matrix(agent: &Agent, now: Now) -> Value {
    let matrix = agent.matrix();
    let members = matrix.members();
    let name = |seat| members.name(seat).map(ToString::to_string).unwrap_or_default();
    let vantage = |seat| {
        let view = matrix.view(seat, now.moment);
        let row = view.map(|(row, _)| {
            let of = |region| {
                let cells = Path::ALL.map(|path| (path.as_str().to_owned(), json!(cell(&row, region, path))));
                (name(region), Value::Object(cells.into_iter().collect()))
            };
            Value::Object(members.seats().map(of).collect())
        });
        (name(seat), json!({ "doubt": view.and_then(|(_, doubt)| doubt), "sees": row }))
    };
    Value::Object(members.seats().map(vantage).collect())
}
