//! How tenants stand on this node, live: budgets, demotions, what guests take of data threads.

use std::cmp::Reverse;
use std::fmt::Write as _;

use portolan_admin::backend::TenantSide;
use portolan_core::ids::TenantName;
use portolan_policy::{BudgetReport, Cost, Engine, Slot, SlotReport};
use serde::Serialize;
use serde_json::{Value, json};

use super::break_glass::BreakGlass;

/// Tenants in a status: those that are demoted, then those that used most. All are in their own reports.
const STANDINGS_MAX: usize = 20;

/// How one tenant stands.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Standing {
    pub(crate) tenant: String,
    pub(crate) budget: BudgetReport,
    pub(crate) cost: Cost,
}

/// One side of a tenant's policy: what it was refused as of the last pass, all else as of now. None where it
/// has none.
///
/// # Errors
/// When it cannot be written as JSON.
pub(crate) fn side(
    engine: &Engine,
    slots: &[SlotReport],
    tenant: &TenantName,
    side: TenantSide,
) -> serde_json::Result<Option<Value>> {
    let slot = Slot::Tenant(tenant.clone());
    let Some(report) = slots.iter().find(|report| report.slot == slot) else { return Ok(None) };
    let told = match side {
        TenantSide::Log => match engine.log(&slot) {
            Some(log) => json!({ "faults": log.faults(), "log": log.lines(), "log_dropped": log.dropped() }),
            None => json!({ "faults": [], "log": [], "log_dropped": 0 }),
        },
        TenantSide::Quota => {
            let standing = all(engine).into_iter().find(|standing| standing.tenant == tenant.as_str());
            serde_json::to_value(standing)?
        }
        TenantSide::Refusals => {
            json!({ "past_refusals": report.past_refusals, "refused": report.refused })
        }
    };
    Ok(Some(told))
}

/// All tenants with policies.
pub(crate) fn all(engine: &Engine) -> Vec<Standing> {
    let standing = |(slot, account): (Slot, std::sync::Arc<portolan_policy::Account>)| match slot {
        Slot::Tenant(name) => {
            Some(Standing { tenant: name.to_string(), budget: account.report()?, cost: account.cost() })
        }
        Slot::Operator => None,
    };
    engine.accounts().into_iter().filter_map(standing).collect()
}

/// Those that an operator looks for first.
pub(crate) fn standings(engine: &Engine) -> Vec<Standing> {
    let mut all = all(engine);
    all.sort_by_key(|standing| (Reverse(standing.budget.demoted), Reverse(standing.cost.fuel)));
    all.truncate(STANDINGS_MAX);
    all
}

/// Adds the metrics. None is by tenant: their number has no bound that a metrics store would like.
pub(crate) fn render(engine: &Engine, glass: &BreakGlass, text: &mut String) {
    let all = all(engine);
    let demoted = all.iter().filter(|standing| standing.budget.demoted).count();
    let demotions: u64 = all.iter().map(|standing| standing.budget.demotions).sum();
    let held: u64 = all.iter().map(|standing| standing.budget.plans_held).sum();
    let rows = [
        ("tenants_demoted", "gauge", "Tenants whose budget of guest work is used up.", demoted as u64),
        ("tenant_demotions_total", "counter", "Times that a tenant's budget was used up.", demotions),
        ("tenant_plans_held_total", "counter", "Plans that waited for a tenant's budget.", held),
        ("policies_frozen", "gauge", "Are policies held by hand?", u64::from(glass.is_frozen())),
        (
            "tenants_disabled",
            "gauge",
            "Are tenants without their policies by hand?",
            u64::from(glass.disables()),
        ),
    ];
    for (name, kind, help, value) in rows {
        // Writing to a string cannot fail.
        writeln!(
            text,
            "# HELP portolan_{name} {help}\n# TYPE portolan_{name} {kind}\nportolan_{name} {value}"
        )
        .ok();
    }
    let shares = engine.thread_shares();
    let gauge = |text: &mut String, name: &str, help: &str, see: fn(&portolan_policy::ThreadShare) -> u64| {
        writeln!(text, "# HELP portolan_{name} {help}\n# TYPE portolan_{name} gauge").ok();
        for (thread, share) in shares.iter().enumerate() {
            let permille = see(share);
            writeln!(
                text,
                "portolan_{name}{{thread=\"{thread}\"}} {}.{:03}",
                permille / 1_000,
                permille % 1_000
            )
            .ok();
        }
    };
    gauge(text, "policy_guest_share", "The part of a thread's last second that guests took.", |share| {
        share.permille
    });
    gauge(text, "policy_guest_share_max", "The largest part of any second.", |share| share.permille_max);
}
