//! Differences: what leads from a content that a copy has to another of the same item, made from what is kept here. Plans are made once for an
//! answer after another, and for one copy after another.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use portolan_core::ids::TenantName;

use super::desk::Desk;
use super::load::Loaded;
use super::problem::Problem;
use crate::Error;
use crate::defaults::{ANSWER_BYTES, PATCH_OPS_MAX, PATCH_WHOLE_BYTES, PATCH_WORK_BYTES, PLANS_MAX};
use crate::id::Root;
use crate::patch::{Head, Op, Step, plan};
use crate::wire::{Answer, Named};

/// Plans that were made lately.
#[derive(Debug, Default)]
pub(super) struct Plans(Mutex<VecDeque<(Between, Arc<Vec<Step>>)>>);

/// Whose contents a plan leads from and to.
type Between = (TenantName, Root, Root);

impl Plans {
    fn find(&self, between: &Between) -> Option<Arc<Vec<Step>>> {
        let plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        plans.iter().find(|(known, _)| known == between).map(|(_, steps)| Arc::clone(steps))
    }

    fn keep(&self, between: Between, steps: &Arc<Vec<Step>>) {
        let mut plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if plans.len() >= PLANS_MAX {
            plans.pop_front();
        }
        plans.push_back((between, Arc::clone(steps)));
    }
}

/// Operations of a patch, from a number on, as many as an answer holds.
pub(super) async fn patch(desk: &Desk, named: &Named, base: Root, from: u64) -> Result<Answer, Problem> {
    let mut content = desk.look().await?;
    let item = content.item_named(&named.item.to_string()).await?.ok_or_else(|| Problem::none("the item"))?;
    let old = Loaded::find(desk, &mut content, item.clone(), &base.to_string()).await?;
    let new = Loaded::find(desk, &mut content, item, &named.root.to_string()).await?;
    content.end().await?;
    let steps = steps(desk, &old, &new).await?;
    let (mut ops, mut bytes, mut work) = (Vec::new(), 0, 0);
    let left = steps.get(usize::try_from(from).unwrap_or(usize::MAX)..).unwrap_or_default();
    for step in left.iter().take(PATCH_OPS_MAX) {
        // It may not get smaller, and an answer holds one that does not. All of it is read and compressed while somebody waits.
        work += size(step) + prefix(step);
        if !ops.is_empty() && (bytes + size(step) > ANSWER_BYTES as u64 || work > PATCH_WORK_BYTES) {
            break;
        }
        let op = operation(desk, &old, &new, step).await?;
        if let Op::Delta { frame, .. } = &op {
            bytes += frame.len() as u64;
        }
        ops.push(op);
    }
    desk.still()?;
    let more = ops.len() < left.len();
    Ok(Answer::Patch { head: Head { base, root: named.root, bytes: new.bytes }, ops, more })
}

async fn steps(desk: &Desk, old: &Loaded, new: &Loaded) -> Result<Arc<Vec<Step>>, Problem> {
    let between = (desk.tenant.clone(), old.root, new.root);
    if let Some(steps) = desk.shared.plans.find(&between) {
        return Ok(steps);
    }
    let (from, to) = (old.manifest(desk).await?, new.manifest(desk).await?);
    let useless = || Problem::none("a base that is of use");
    if from.entries().is_empty() || to.entries().is_empty() {
        return Err(useless());
    }
    let steps = plan(&from, &to);
    let fresh: u64 = steps.iter().map(size).sum();
    // Looking for what is alike takes longer than sending it, where little is.
    if fresh > PATCH_WHOLE_BYTES && fresh > new.bytes / 2 {
        return Err(useless());
    }
    let steps = Arc::new(steps);
    desk.shared.plans.keep(between, &steps);
    Ok(steps)
}

/// How many new bytes a step brings.
fn size(step: &Step) -> u64 {
    match step {
        Step::Copy { .. } => 0,
        Step::Delta { bytes, .. } => bytes.end - bytes.start,
    }
}

/// How many bytes of the old content it is made from.
fn prefix(step: &Step) -> u64 {
    match step {
        Step::Copy { .. } => 0,
        Step::Delta { prefix, .. } => prefix.end - prefix.start,
    }
}

async fn operation(desk: &Desk, old: &Loaded, new: &Loaded, step: &Step) -> Result<Op, Problem> {
    let (prefix, bytes) = match step {
        Step::Copy { .. } => (Vec::new(), Vec::new()),
        Step::Delta { prefix, bytes } => (old.read(desk, prefix).await?, new.read(desk, bytes).await?),
    };
    let step = step.clone();
    // Compressing takes its time, and others wait for this thread.
    let made = tokio::task::spawn_blocking(move || step.encode(&prefix, &bytes));
    Ok(made.await.map_err(|_| Error::Malformed("a patch that was not made"))??)
}
