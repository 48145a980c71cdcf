//! What a slot's policy may do, see and use, and what becomes of requests when it fails.

use std::collections::HashMap;
use std::sync::Arc;

use portolan_core::bounds::Scope;
use portolan_core::decide::FailRule;
use portolan_core::facts::Facts;

use super::{Slot, SlotSpec};
use crate::account::Budget;
use crate::defaults::TENANT_BUDGET;

/// The terms of one slot, by its operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// What a tenant may use; the usual budget when absent. The operator's slot has none.
    pub budget: Option<Budget>,
    /// Do requests pass by, and is nothing planned? What runs is kept for later.
    pub disabled: bool,
    /// What becomes of requests when the policy fails.
    pub on_fail: FailRule,
    /// What a tenant's policy may choose and see. The operator's sees and chooses everything.
    pub scope: Scope,
}

impl SlotSpec {
    /// What the slot may use.
    pub(super) fn budget(&self) -> Option<Budget> {
        match self.slot {
            Slot::Operator => None,
            Slot::Tenant(_) => Some(self.terms.budget.unwrap_or(TENANT_BUDGET)),
        }
    }
}

/// One picture of the world as each policy may see it. Few tenants differ, so views are kept for one pass.
pub(super) struct Pictures {
    views: HashMap<Scope, Arc<Facts>>,
    whole: Arc<Facts>,
}

impl Pictures {
    pub(super) fn new(whole: &Arc<Facts>) -> Self {
        Self { views: HashMap::new(), whole: Arc::clone(whole) }
    }

    /// What the policy of a slot sees.
    pub(super) fn of(&mut self, slot: &Slot, scope: &Scope) -> Arc<Facts> {
        match slot {
            Slot::Operator => Arc::clone(&self.whole),
            Slot::Tenant(_) => match self.views.get(scope) {
                Some(view) => Arc::clone(view),
                None => {
                    let view = Arc::new(self.whole.within(scope));
                    self.views.insert(scope.clone(), Arc::clone(&view));
                    view
                }
            },
        }
    }
}
