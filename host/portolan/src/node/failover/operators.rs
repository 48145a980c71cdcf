//! What operators see of failover and say to it, as the admin API asks.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use portolan_admin::backend::{Failovers, SaidWord, Say};
use portolan_admin::{Code, Problem};
use portolan_core::ids::{RegionName, ShardName};
use portolan_failover::guards::Rule;
use portolan_failover::intent::{BrokenGlass, Force, Intents, Lost, Word};
use portolan_failover::proposal::Proposal;
use portolan_foundation::clock;
use serde_json::{Value, json};

use super::{Failover, words};

/// How long a move is tried: what is not done by then wants another look.
const MOVE: Duration = Duration::from_mins(5);
/// How long everything else holds, unless something is said: a watch, after which somebody else may not know of it.
const HOLDS: Duration = Duration::from_hours(4);

impl Failover {
    fn on(&self) -> Result<(), Problem> {
        if self.is_on() {
            return Ok(());
        }
        let detail = "nobody decides of regions here: add `[failover]` to the configuration, or use `portolan shard promote`";
        Err(Problem::new(Code::Conflict, detail))
    }

    /// What is meant by a word, by the shards and regions that there are.
    fn plan(&self, said: &SaidWord) -> Result<Planned, Problem> {
        let meant = self.0.meant.borrow();
        let Some(meant) = meant.as_ref() else {
            return Err(Problem::invalid("nobody decides of regions here"));
        };
        let known = &meant.setup.shards;
        if let Some(shard) = said.shards.iter().find(|shard| !known.contains_key(*shard)) {
            return Err(Problem::not_found(format!("shard `{shard}` of which failover decides"))
                .at("/shards", "no such shard"));
        }
        let region = |what: &str| {
            let region =
                said.region.clone().ok_or_else(|| Problem::invalid(format!("name the region {what}")))?;
            match meant.setup.members.seat(&region) {
                Some(_) => Ok(region),
                None => Err(Problem::not_found(format!("region `{region}`")).at("/region", "no such region")),
            }
        };
        let all =
            || if said.shards.is_empty() { known.keys().cloned().collect() } else { said.shards.clone() };
        let shown = self.0.shown.load();
        let written = shown.primaries();
        let moves = |to: &dyn Fn(&ShardName) -> RegionName| -> Vec<(ShardName, RegionName)> {
            let all = all().into_iter().map(|shard| (shard.clone(), to(&shard)));
            all.filter(|(shard, to)| written.get(shard) != Some(to)).collect()
        };
        Ok(match said.word.say {
            Say::Switch | Say::Force => {
                let to = region("where it is to be written")?;
                if said.word.say == Say::Force && said.shards.is_empty() {
                    return Err(Problem::invalid(
                        "name the shards: nobody forces all of them by leaving them out",
                    ));
                }
                Planned::Moves(moves(&|_| to.clone()))
            }
            Say::Return => {
                let home = |shard: &ShardName| known.get(shard).map(|shard| shard.home.clone());
                let own = meant.setup.own.clone();
                Planned::Moves(moves(&|shard| home(shard).unwrap_or_else(|| own.clone())))
            }
            Say::Drain => Planned::Drain(region("that is drained")?),
            Say::Maintenance => Planned::Maintenance(region("that is worked at")?),
            Say::Lost => Planned::Lost(region("that is lost")?),
            Say::Freeze => Planned::Freeze,
            Say::Thaw => Planned::Thaw(said.region.clone()),
            Say::BreakGlass => {
                let rules = said.word.rules.iter().map(|name| {
                    let rule = Rule::ALL.into_iter().find(|rule| rule.as_str() == name);
                    let names = || Rule::ALL.map(Rule::as_str).join(", ");
                    rule.ok_or_else(|| {
                        Problem::invalid(format!("`{name}` is none of {}", names()))
                            .at("/rules", "no such rule")
                    })
                });
                Planned::Glass(rules.collect::<Result<_, _>>()?)
            }
        })
    }
}

/// What is to be said.
enum Planned {
    Drain(RegionName),
    Freeze,
    Glass(Vec<Rule>),
    Lost(RegionName),
    Maintenance(RegionName),
    Moves(Vec<(ShardName, RegionName)>),
    Thaw(Option<RegionName>),
}

impl Planned {
    fn say(&self, words: &mut Intents, word: &Word, said: &SaidWord) -> anyhow::Result<()> {
        match self {
            Self::Drain(region) => {
                words.drains.insert(region.clone(), word.clone());
            }
            Self::Maintenance(region) => {
                words.maintenance.insert(region.clone(), word.clone());
            }
            Self::Freeze => words.freeze = Some(word.clone()),
            Self::Glass(rules) => {
                words.broken_glass = Some(BrokenGlass::new(rules.iter().copied(), word.clone())?);
            }
            Self::Lost(region) => {
                let typed = said.word.typed.as_deref().unwrap_or_default();
                words.lost.insert(region.clone(), Lost::new(region.clone(), typed, word.clone())?);
            }
            Self::Moves(moves) => {
                let about = |force: &Force, shard: &ShardName| matches!(&force.proposal, Proposal::Promote { shard: there, .. } if there == shard);
                words.force.retain(|force| !moves.iter().any(|(shard, _)| about(force, shard)));
                words.force.extend(moves.iter().map(|(shard, region)| Force {
                    proposal: Proposal::Promote { shard: shard.clone(), region: region.clone() },
                    accept_loss_rows: said.word.accept_loss_rows,
                    word: word.clone(),
                }));
            }
            Self::Thaw(None) => *words = Intents::default(),
            Self::Thaw(Some(region)) => {
                words.drains.remove(region);
                words.maintenance.remove(region);
                words.lost.remove(region);
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Failovers for Failover {
    fn status(&self) -> Result<Value, Problem> {
        self.on()?;
        Ok(self.0.shown.load().status())
    }

    fn forecast(&self, region: Option<RegionName>) -> Result<Value, Problem> {
        self.on()?;
        Ok(self.0.shown.load().forecast(region.as_ref()))
    }

    async fn say(&self, said: SaidWord) -> Result<Value, Problem> {
        self.on()?;
        let store = self.0.control.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let store = store.ok_or_else(|| Problem::new(Code::NoStore, "this node follows no control store"))?;
        let planned = self.plan(&said)?;
        let is_move = matches!(planned, Planned::Moves(_));
        let usual = if is_move { MOVE } else { HOLDS };
        let time = said.word.seconds.map_or(usual, Duration::from_secs);
        let why = if said.word.why.is_empty() { "no reason was given" } else { &said.word.why };
        let refused = |error: &dyn std::fmt::Display| Problem::new(Code::Refused, error.to_string());
        let word = Word::new(&said.author, why, clock::unix_ms(), time).map_err(|error| refused(&error))?;
        let message = format!("failover: {:?}: {why}", said.word.say).to_lowercase();
        let done =
            words::change(&store, (&said.author, &message), |words| planned.say(words, &word, &said)).await;
        let generation = done.map_err(|error| refused(&format!("{error:#}")))?;
        let moves: BTreeMap<ShardName, RegionName> = match planned {
            Planned::Moves(moves) => moves.into_iter().collect(),
            _ => BTreeMap::new(),
        };
        Ok(json!({ "generation": generation, "until_ms": word.until_ms, "moves": moves }))
    }
}
