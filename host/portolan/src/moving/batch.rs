//! Moves tenants, some beside each other, and shows how far they are: a bar on a terminal, a line for each elsewhere.

use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use portolan_admin::{Code, Operation, Problem, StageState};
use portolan_core::ids::{ShardName, TenantName};
use serde_json::{Value, json};

use crate::client::{Client, encode};

/// From one look at the operations to the next.
const LOOK: Duration = Duration::from_millis(100);
/// Looks that a node may leave unanswered before a move is left to itself: it may only have been started anew.
const SILENT_MAX: u32 = 20;

/// Who asks for moves, and how they are shown.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    pub(super) beside: usize,
    pub(super) client: &'a Client,
    /// Nothing but JSON is shown.
    pub(super) quiet: bool,
}

/// What became of one tenant.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub(super) result: Result<Value, String>,
    pub(super) tenant: TenantName,
}

/// One that moves.
struct Running {
    id: String,
    silent: u32,
    tenant: TenantName,
}

impl Batch<'_> {
    /// Moves all of them to a shard. One that fails does not hold up the others.
    pub(super) fn run(&self, tenants: Vec<TenantName>, to: &ShardName) -> anyhow::Result<Vec<Done>> {
        let show = Show::new(tenants.len(), self.quiet);
        let mut waiting = VecDeque::from(tenants);
        let (mut running, mut done): (Vec<Running>, Vec<Done>) = (Vec::new(), Vec::new());
        while !waiting.is_empty() || !running.is_empty() {
            while running.len() < self.beside
                && let Some(tenant) = waiting.pop_front()
            {
                match self.begin(&tenant, to) {
                    Ok(operation) => running.push(Running { id: operation.id, silent: 0, tenant }),
                    // Others move tenants through this node, too.
                    Err(error) if is_full(&error) => {
                        waiting.push_front(tenant);
                        break;
                    }
                    Err(error) => done.push(show.ended(tenant, Err(format!("{error:#}")))),
                }
            }
            std::thread::park_timeout(LOOK);
            for mut one in std::mem::take(&mut running) {
                match self.look(&mut one) {
                    Some(Ok(operation)) if operation.state == StageState::Running => {
                        show.stage(&one.tenant, &operation);
                        running.push(one);
                    }
                    Some(Ok(operation)) => done.push(show.ended(one.tenant, ended(operation))),
                    Some(Err(why)) => done.push(show.ended(one.tenant, Err(why))),
                    None => running.push(one),
                }
            }
        }
        show.over();
        Ok(done)
    }

    fn begin(&self, tenant: &TenantName, to: &ShardName) -> anyhow::Result<Operation> {
        let path = format!("/api/v1/tenants/{}/moves", encode(tenant.as_str()));
        self.client.post(&path, &json!({ "to": to }))
    }

    /// The operation as it is now; nothing while the node does not answer for a moment, and why not after long.
    fn look(&self, one: &mut Running) -> Option<Result<Operation, String>> {
        match self.client.get(&format!("/api/v1/operations/{}", one.id)) {
            Ok(operation) => {
                one.silent = 0;
                Some(Ok(operation))
            }
            Err(_) if one.silent < SILENT_MAX => {
                one.silent += 1;
                None
            }
            Err(error) => Some(Err(format!(
                "{error:#}; the move is brought to its end by itself: `portolan shard moves` shows it, and the same command goes on later"
            ))),
        }
    }
}

/// The result of an operation that has ended.
pub(super) fn ended(operation: Operation) -> Result<Value, String> {
    match (operation.state, operation.problem) {
        (StageState::Succeeded, _) => Ok(operation.result.unwrap_or_default()),
        (_, Some(problem)) => Err(problem.detail.clone()),
        (_, None) => Err("it failed, and does not say why".to_owned()),
    }
}

/// What a move did, in a line.
pub(super) fn line(result: &Value) -> String {
    let part = |name: &str| result.get(name).and_then(Value::as_str).unwrap_or("-");
    let number = |name: &str| result.get(name).and_then(Value::as_u64).unwrap_or(0);
    let pause = result.get("pause_ms").and_then(Value::as_f64).unwrap_or(0.0);
    format!(
        "tenant {}: from {} to {}, {} rows, writes were held for {pause} ms",
        part("tenant"),
        part("from"),
        part("to"),
        number("rows")
    )
}

fn is_full(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Problem>().is_some_and(|problem| problem.code == Code::TooMany)
}

/// What people see of it.
struct Show {
    bar: Option<ProgressBar>,
    quiet: bool,
}

impl Show {
    fn new(tenants: usize, quiet: bool) -> Self {
        let wanted = !quiet && std::io::stderr().is_terminal();
        let bar = wanted.then(|| {
            let bar = ProgressBar::with_draw_target(Some(tenants as u64), ProgressDrawTarget::stderr());
            if let Ok(style) =
                ProgressStyle::with_template("{bar:30} {pos} of {len} tenants, {eta} left  {wide_msg}")
            {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, quiet }
    }

    /// How far one tenant is.
    fn stage(&self, tenant: &TenantName, operation: &Operation) {
        if let (Some(bar), Some(stage)) = (&self.bar, operation.stages.last()) {
            let detail = stage.detail.as_deref().unwrap_or_default();
            bar.set_message(format!("{tenant}: {} {detail}", stage.name));
        }
    }

    fn ended(&self, tenant: TenantName, result: Result<Value, String>) -> Done {
        let text = match &result {
            Ok(told) => line(told),
            Err(why) => format!("tenant {tenant}: NOT MOVED: {why}"),
        };
        match &self.bar {
            Some(bar) => {
                bar.println(text);
                bar.inc(1);
            }
            None if !self.quiet => eprintln!("{text}"),
            None => {}
        }
        Done { result, tenant }
    }

    fn over(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
