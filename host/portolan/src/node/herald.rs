//! Tells whoever listens to events what happens on a node by itself: tenants that are demoted, what becomes of rollouts, a
//! control store that is lost or there again.
//!
//! What wakes it: a second's tick and each new generation. What it reads: accounts, objects of rollouts that changed, how
//! candidates stand here, the health of the store. What it writes: events alone. What it is late for it tells in one.

use std::collections::HashMap;
use std::time::Duration;

use portolan_admin::Events;
use portolan_control::{Health, State};
use portolan_core::ids::TenantName;
use portolan_core::time::Moment;
use portolan_foundation::clock;
use portolan_foundation::shutdown::Shutdown;
use portolan_policy::{BudgetReport, Engine, Slot};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use super::intent::Intent;
use super::rollouts::{Condemned, Rollouts};
use crate::rollout::{self, Entry, Record};

const TICK: Duration = Duration::from_secs(1);
/// A tenant that is demoted again and again is told of once in this time: the ring of events is everybody's.
const TENANT_PAUSE: Duration = Duration::from_secs(60);
/// Demotions that are told of at once; more have to wait for the next look.
const TENANTS_AT_ONCE: usize = 20;

/// What is to be told: its kind, whose it is, and more about it.
type News = (&'static str, Option<TenantName>, Value);

/// What was told until now.
#[derive(Debug, Default)]
pub(super) struct Herald {
    demoted: HashMap<TenantName, Demoted>,
    /// The last change of each slot's rollout, by the revision of its object; none before the first look.
    rollouts: Option<HashMap<String, (u64, Option<Entry>)>>,
    /// When the store was lost.
    store_lost: Option<Moment>,
}

#[derive(Debug)]
struct Demoted {
    /// Demotions that were told.
    told: u64,
    told_at: Moment,
}

impl Herald {
    /// Looks and tells until the shutdown.
    pub(super) async fn run(
        mut self,
        engine: Engine,
        intent: Intent,
        rollouts: Rollouts,
        events: Events,
        shutdown: Shutdown,
    ) {
        let mut generations = intent.news();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = clock::now();
            let standings = super::tenancy::all(&engine);
            let budgets = standings.into_iter().map(|standing| (standing.tenant, standing.budget));
            let mut news = self.demotions(budgets, now);
            if let Some(state) = intent.state() {
                news.extend(self.changes(&state));
            }
            news.extend(rollouts.condemned().into_iter().map(taken_off));
            let control = intent.control(0, None);
            news.extend(self.store(control.as_ref().and_then(|control| control.health.as_ref()), now));
            news.into_iter().for_each(|(kind, tenant, data)| events.tell(kind, tenant, data));
            // All branches are cancel-safe.
            tokio::select! {
                () = shutdown.begun() => return,
                () = generations.changed() => {}
                _ = ticks.tick() => {}
            }
        }
    }

    /// Tenants that used their budgets up since they were told of last.
    fn demotions(&mut self, budgets: impl Iterator<Item = (String, BudgetReport)>, now: Moment) -> Vec<News> {
        let mut news = Vec::new();
        let mut there = HashMap::new();
        for (tenant, budget) in budgets {
            let Ok(tenant) = TenantName::new(&tenant) else { continue };
            let before = self.demoted.remove(&tenant);
            let told = before.as_ref().map_or(0, |before| before.told);
            let is_due = before.as_ref().is_none_or(|before| now.since(before.told_at) >= TENANT_PAUSE);
            // An account that was made anew counts from nothing.
            let told = told.min(budget.demotions);
            let more = budget.demotions - told;
            if more > 0 && is_due && news.len() < TENANTS_AT_ONCE {
                let data = json!({
                    "times": more, "demoted_now": budget.demoted, "fuel_left": budget.fuel_left,
                    "fuel_per_second": budget.budget.fuel_per_second, "fuel_burst": budget.budget.fuel_burst,
                });
                news.push(("tenant-demoted", Some(tenant.clone()), data));
                there.insert(tenant, Demoted { told: budget.demotions, told_at: now });
            } else if let Some(before) = before {
                there.insert(tenant, Demoted { told, told_at: before.told_at });
            }
        }
        self.demoted = there;
        news
    }

    /// What was done to rollouts, by people and by verdicts, since the last look. What was there before the first one is no news.
    fn changes(&mut self, state: &State) -> Vec<News> {
        let mut news = Vec::new();
        let is_first = self.rollouts.is_none();
        let known = self.rollouts.get_or_insert_default();
        for (key, object) in state.of_kind(rollout::KIND) {
            let before = known.get(key.name());
            if before.is_some_and(|(revision, _)| *revision == object.revision) {
                continue;
            }
            // What does not read is told by the node's log.
            let Ok(record) = Record::read(&object.body) else { continue };
            let last = before.and_then(|(_, last)| last.as_ref());
            if !is_first {
                let fresh = fresh(&record.history, last);
                news.extend(fresh.iter().map(|entry| change(&record, entry, object.revision)));
            }
            let last = record.history.last().cloned();
            known.insert(key.name().to_owned(), (object.revision, last));
        }
        news
    }

    /// A store that is lost, or there again.
    fn store(&mut self, health: Option<&Health>, now: Moment) -> Option<News> {
        let reason = match health? {
            Health::Connected => {
                let lost_at = self.store_lost.take()?;
                let away_ms = u64::try_from(now.since(lost_at).as_millis()).unwrap_or(u64::MAX);
                return Some(("store-regained", None, json!({ "after_ms": away_ms })));
            }
            Health::Away { reason, .. } | Health::Damaged { reason } => reason,
        };
        if self.store_lost.is_some() {
            return None;
        }
        self.store_lost = Some(now);
        Some(("store-lost", None, json!({ "reason": reason })))
    }
}

/// What came after the last entry that is known; of a history that does not have it any more, all that is left.
fn fresh<'h>(history: &'h [Entry], last: Option<&Entry>) -> &'h [Entry] {
    let known = last.and_then(|last| history.iter().rposition(|entry| entry == last));
    known.and_then(|known| history.get(known + 1..)).unwrap_or(history)
}

fn change(record: &Record, entry: &Entry, generation: u64) -> News {
    let grounds = entry.evidence.as_ref().map(|sheet| sheet.reasons()).filter(|reasons| !reasons.is_empty());
    let data = json!({
        "by": entry.author, "candidate": entry.candidate, "generation": generation, "grounds": grounds, "id": entry.id,
        "message": entry.message, "percent": entry.percent, "phase": entry.phase, "plugin": record.rollout.plugin,
        "slot": record.slot, "stable": entry.stable, "what": entry.what,
    });
    ("rollout", tenant_of(&record.slot), data)
}

/// A candidate that this node asks nothing any more, whatever others do.
fn taken_off(condemned: Condemned) -> News {
    let Condemned { id, reason, slot, version } = condemned;
    let data = json!({ "slot": rollout::name(&slot), "id": id, "version": version, "reason": reason });
    ("rollout-taken-off", slot.tenant().cloned(), data)
}

fn tenant_of(slot: &str) -> Option<TenantName> {
    match rollout::slot(slot).ok()? {
        Slot::Operator => None,
        Slot::Tenant(tenant) => Some(tenant),
    }
}

#[cfg(test)]
mod tests {
    use portolan_core::rollout::Phase;

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000)
    }

    fn budget(demotions: u64) -> BudgetReport {
        let account = portolan_policy::Account::bounded(portolan_policy::defaults::TENANT_BUDGET);
        BudgetReport { demotions, demoted: true, ..account.report().unwrap() }
    }

    #[test]
    fn a_tenant_that_flaps_is_told_of_once_in_a_while_with_all_its_times() {
        let mut herald = Herald::default();
        let mut look = |demotions, seconds| {
            let news = herald.demotions([("acme".to_owned(), budget(demotions))].into_iter(), at(seconds));
            news.iter().map(|(_, _, data)| data["times"].as_u64().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(look(0, 1), [0_u64; 0]);
        assert_eq!(look(1, 2), [1]);
        assert_eq!(look(9, 3), [0_u64; 0]);
        assert_eq!(look(10, 63), [9]);
        // Counted anew after the slot was gone and came again.
        assert_eq!(look(2, 130), [0_u64; 0]);
        assert_eq!(look(3, 131), [1]);
        let many = (0..50).map(|number| (format!("t{number}"), budget(1)));
        let told: Vec<usize> =
            (0..4).map(|second| herald.demotions(many.clone(), at(200 + second)).len()).collect();
        assert_eq!(told, [20, 20, 10, 0]);
    }

    #[test]
    fn a_store_is_lost_once_and_comes_back_once() {
        let mut herald = Herald::default();
        let away = Health::Away { reason: "no answer".to_owned(), since_ms: 1 };
        let mut look = |health: &Health, seconds| {
            herald.store(Some(health), at(seconds)).map(|(kind, _, data)| (kind, data))
        };
        assert_eq!(look(&Health::Connected, 1), None);
        assert_eq!(look(&away, 2), Some(("store-lost", json!({ "reason": "no answer" }))));
        assert_eq!(look(&away, 3), None);
        assert_eq!(look(&Health::Connected, 5), Some(("store-regained", json!({ "after_ms": 3_000 }))));
        assert_eq!(look(&Health::Connected, 6), None);
    }

    #[test]
    fn of_a_history_what_is_new_is_told() {
        let entry = |number: u64| Entry {
            at_ms: number,
            author: "ops".to_owned(),
            candidate: None,
            evidence: None,
            id: "r-1".to_owned(),
            message: String::new(),
            percent: 0,
            phase: Phase::Shadow,
            stable: None,
            what: "start".to_owned(),
        };
        let history: Vec<Entry> = (1..=3).map(entry).collect();
        let numbers =
            |last: Option<&Entry>| fresh(&history, last).iter().map(|entry| entry.at_ms).collect::<Vec<_>>();
        assert_eq!(numbers(None), [1, 2, 3]);
        assert_eq!(numbers(Some(&entry(2))), [3]);
        assert_eq!(numbers(Some(&entry(3))), [0_u64; 0]);
        assert_eq!(
            numbers(Some(&entry(9))),
            [1, 2, 3],
            "so much was done meanwhile that it is not there any more"
        );
    }
}
