//! What a guest meets: its store, the host's functions, and the limits on both. Host functions are short and never
//! wait, because no deadline can interrupt them.

mod failing;

use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_core::facts::{Fact, FactValue, Facts};
use portolan_core::failover::Answers;
use portolan_core::ids::NAME_BYTES_MAX;
use portolan_core::placement::{Proposal, View};
use portolan_core::plan::{AnswerId, ConditionText, Draft, Refusal};
use rustix::time::{ClockId, clock_gettime};
use wasmtime::component::{HasSelf, Linker};
use wasmtime::{PoolConcurrencyLimitError, Store, Trap, UpdateDeadline, WasmBacktrace};

use crate::bindings::Policies;
use crate::bindings::portolan::policy as wit;
use crate::config::Limits;
use crate::defaults::{
    DECIDE_GRACE, FRAME_BYTES_MAX, FRAMES_KEPT, HOSTCALL_BYTES_MAX, TICK, WALL_PER_PROCESSOR,
};
use crate::error::{Error, printable};
use crate::limiter::Limiter;
use crate::log::Log;
use crate::stats::{Counters, Live};

/// What a store carries.
pub(crate) struct State {
    lent: Lent,
    pub(crate) limiter: Limiter,
    lines_left: u32,
    lines_per_call: u32,
    log: Arc<Log>,
    live: Live,
    patience: Patience,
    /// What the thread had had of a processor when somebody began to look, and when that was.
    watched: Option<(Duration, Instant)>,
}

/// What a guest may read and write now.
#[derive(Debug)]
enum Lent {
    Answers(Box<Answers>),
    Draft(Box<Draft>),
    Nothing,
    Placing(Box<Placing>),
}

/// What a sharding policy may read, and write while it rebalances.
#[derive(Debug)]
pub(crate) struct Placing {
    pub(crate) facts: Arc<Facts>,
    pub(crate) proposal: Proposal,
    pub(crate) writes: bool,
}

/// What a call may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    pub(crate) fuel: u64,
    /// How many ticks it has before anybody looks at the processor's clock.
    unseen: u64,
    patience: Patience,
}

/// How much longer a call may take: a thread that waits for a processor is not the policy's fault.
#[derive(Clone, Copy, Debug, Default)]
struct Patience {
    /// Time of a processor.
    deadline: Duration,
    /// All time, whoever has the processors.
    wall_max: Duration,
}

impl Allowance {
    /// For a call on the request path. The processor's clock costs as much as a call: only who takes longer than the deadline is held against it.
    pub(crate) fn new(fuel: u64, deadline: Duration) -> Self {
        // One more, because the running tick may end at once.
        let ticks = deadline.as_nanos() / TICK.as_nanos().max(1) + 1;
        let wall_max = deadline.saturating_mul(WALL_PER_PROCESSOR);
        let patience = Patience { deadline: DECIDE_GRACE, wall_max };
        Self { fuel, unseen: u64::try_from(ticks).unwrap_or(u64::MAX), patience }
    }

    /// For any other call: `deadline` is time of a processor.
    pub(crate) const fn of_processor(fuel: u64, deadline: Duration, wall_max: Duration) -> Self {
        Self { fuel, unseen: 0, patience: Patience { deadline, wall_max } }
    }

    /// Of instantiation and of `start`.
    pub(crate) fn to_start(limits: &Limits) -> Self {
        let deadline = limits.start_deadline;
        Self::of_processor(limits.start_fuel, deadline, deadline.saturating_mul(WALL_PER_PROCESSOR))
    }

    /// Of a plan.
    pub(crate) fn to_plan(limits: &Limits) -> Self {
        let deadline = limits.plan_deadline;
        Self::of_processor(limits.plan_fuel, deadline, deadline.saturating_mul(WALL_PER_PROCESSOR))
    }
}

/// Why a call into a guest gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No instance slot is free.
    Full(String),
    /// Fuel or deadline.
    Overrun(String),
    /// Anything else.
    Trapped(String),
}

impl Failure {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Full(text) | Self::Overrun(text) | Self::Trapped(text) => text,
        }
    }
}

/// The host's functions, for every store of an engine.
pub(crate) fn linker(engine: &wasmtime::Engine) -> Result<Linker<State>, Error> {
    let mut linker = Linker::new(engine);
    Policies::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)
        .map_err(|error| Error::Setup(format!("{error:#}")))?;
    Ok(linker)
}

/// A new store. `memory_bytes_max` is the sum over its memories.
pub(crate) fn store(
    engine: &wasmtime::Engine,
    limits: &Limits,
    memory_bytes_max: usize,
    log: &Arc<Log>,
    counters: &Arc<Counters>,
) -> Store<State> {
    let state = State {
        lent: Lent::Nothing,
        limiter: Limiter::new(limits, memory_bytes_max),
        lines_left: limits.log_lines_per_call,
        lines_per_call: limits.log_lines_per_call,
        log: Arc::clone(log),
        live: Live::count(counters),
        patience: Patience::default(),
        watched: None,
    };
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
    store.epoch_deadline_callback(|mut store| {
        let state = store.data_mut();
        let (had, since) = *state.watched.get_or_insert_with(|| (processor_time(), Instant::now()));
        let Patience { deadline, wall_max } = state.patience;
        let over = processor_time().saturating_sub(had) >= deadline || since.elapsed() >= wall_max;
        Ok(if over { UpdateDeadline::Interrupt } else { UpdateDeadline::Continue(1) })
    });
    store
}

/// Gives the next call its fuel, time and lines.
pub(crate) fn arm(store: &mut Store<State>, allowance: Allowance) -> Result<(), Failure> {
    store.set_fuel(allowance.fuel).map_err(|error| Failure::Trapped(format!("{error:#}")))?;
    store.set_epoch_deadline(allowance.unseen.max(1));
    let state = store.data_mut();
    state.patience = allowance.patience;
    state.watched = (allowance.unseen == 0).then(|| (processor_time(), Instant::now()));
    state.lines_left = state.lines_per_call;
    Ok(())
}

/// What this thread has had of a processor.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

/// Opens the draft: from here to [`take_draft`] facts and draft may be used.
pub(crate) fn lend_draft(store: &mut Store<State>, draft: Draft) {
    store.data_mut().lent = Lent::Draft(Box::new(draft));
}

/// Closes the draft.
pub(crate) fn take_draft(store: &mut Store<State>) -> Option<Draft> {
    match std::mem::replace(&mut store.data_mut().lent, Lent::Nothing) {
        Lent::Draft(draft) => Some(*draft),
        Lent::Answers(_) | Lent::Nothing | Lent::Placing(_) => None,
    }
}

/// Opens the picture of regions: from here to [`take_answers`] facts and answers of failover may be used.
pub(crate) fn lend_answers(store: &mut Store<State>, answers: Answers) {
    store.data_mut().lent = Lent::Answers(Box::new(answers));
}

/// Closes it, with what was written.
pub(crate) fn take_answers(store: &mut Store<State>) -> Option<Answers> {
    match std::mem::replace(&mut store.data_mut().lent, Lent::Nothing) {
        Lent::Answers(answers) => Some(*answers),
        Lent::Draft(_) | Lent::Nothing | Lent::Placing(_) => None,
    }
}

/// Opens the picture of shards and tenants: from here to [`take_placing`] facts and answers of sharding may be used.
pub(crate) fn lend_placing(store: &mut Store<State>, placing: Placing) {
    store.data_mut().lent = Lent::Placing(Box::new(placing));
}

/// Closes it, with what was written.
pub(crate) fn take_placing(store: &mut Store<State>) -> Option<Proposal> {
    match std::mem::replace(&mut store.data_mut().lent, Lent::Nothing) {
        Lent::Placing(placing) => Some(placing.proposal),
        Lent::Answers(_) | Lent::Draft(_) | Lent::Nothing => None,
    }
}

/// Sorts what the engine reports.
pub(crate) fn failure(error: &wasmtime::Error, store: Option<&Store<State>>) -> Failure {
    if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
        return Failure::Full(format!("{error:#}"));
    }
    let frames = frames(error);
    let failure = match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => {
            Failure::Overrun("it used up its fuel; is there an endless loop?".to_owned())
        }
        Some(Trap::Interrupt) => Failure::Overrun("it ran past its deadline".to_owned()),
        _ => Failure::Trapped(trapped(error, &frames, store)),
    };
    if let Some(store) = store {
        store.data().log.fault(failure.text(), frames);
    }
    failure
}

/// What happened, and in which function.
fn trapped(error: &wasmtime::Error, frames: &[String], store: Option<&Store<State>>) -> String {
    let mut text = match frames.first() {
        // The whole chain would begin with all frames.
        Some(innermost) => format!("{}, in {innermost}", printable(&error.root_cause().to_string(), 512)),
        None => printable(&format!("{error:#}"), 1_024),
    };
    if let Some(denied) = store.and_then(|store| store.data().limiter.denied()) {
        text.push_str("; before that it was refused ");
        text.push_str(denied);
    }
    text
}

/// The functions that were running, the innermost first. Names are the guest's own, so they are made printable.
fn frames(error: &wasmtime::Error) -> Vec<String> {
    let backtrace = error.downcast_ref::<WasmBacktrace>();
    let frames = backtrace.iter().flat_map(|backtrace| backtrace.frames()).take(FRAMES_KEPT);
    let name = |frame: &wasmtime::FrameInfo| {
        let function = match frame.func_name() {
            // Rust's hash at the end tells a reader nothing.
            Some(name) => format!("{:#}", rustc_demangle::demangle(name)),
            None => format!("function {}", frame.func_index()),
        };
        let place = frame.module_offset().map_or_else(String::new, |offset| format!(" at {offset:#x}"));
        format!("{}{place}", printable(&function, FRAME_BYTES_MAX).replace('\n', "\\n"))
    };
    frames.map(name).collect()
}

impl State {
    fn draft(&mut self) -> wasmtime::Result<&mut Draft> {
        match &mut self.lent {
            Lent::Draft(draft) => Ok(draft),
            Lent::Answers(_) | Lent::Nothing | Lent::Placing(_) => Err(wasmtime::Error::msg(
                "`facts`, `draft` and `routing-answers` may only be used inside `plan`",
            )),
        }
    }

    fn facts(&self) -> wasmtime::Result<&Facts> {
        match &self.lent {
            Lent::Draft(draft) => Ok(draft.facts()),
            Lent::Placing(placing) => Ok(&placing.facts),
            Lent::Answers(_) | Lent::Nothing => {
                Err(wasmtime::Error::msg("`facts` may only be used inside `plan`"))
            }
        }
    }

    fn read(&mut self, fact: Fact) -> wasmtime::Result<FactValue> {
        match &mut self.lent {
            Lent::Placing(placing) => Ok(placing.facts.read(&fact)),
            Lent::Answers(_) | Lent::Draft(_) | Lent::Nothing => {
                self.draft()?.read(fact).map_err(|refusal| wasmtime::Error::msg(refusal.to_string()))
            }
        }
    }

    fn view(&self) -> wasmtime::Result<&View> {
        match &self.lent {
            Lent::Placing(placing) => Ok(placing.proposal.view()),
            Lent::Answers(_) | Lent::Draft(_) | Lent::Nothing => {
                Err(wasmtime::Error::msg("`sharding-facts` may only be used inside `place` and `rebalance`"))
            }
        }
    }

    fn proposal(&mut self) -> wasmtime::Result<&mut Proposal> {
        match &mut self.lent {
            Lent::Placing(placing) if placing.writes => Ok(&mut placing.proposal),
            _ => Err(wasmtime::Error::msg("`sharding-answers` may only be used inside `rebalance`")),
        }
    }

    fn names(&mut self, fact: Fact) -> wasmtime::Result<Vec<String>> {
        Ok(match self.read(fact)? {
            FactValue::Names(names) => names,
            FactValue::Number(_) => Vec::new(),
        })
    }

    fn number(&mut self, fact: Fact) -> wasmtime::Result<Option<u32>> {
        Ok(match self.read(fact)? {
            FactValue::Number(number) => number.map(|number| u32::try_from(number).unwrap_or(u32::MAX)),
            FactValue::Names(_) => None,
        })
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("limiter", &self.limiter)
            .field("live", &self.live)
            .finish_non_exhaustive()
    }
}

/// A refusal as guests see it.
fn told(refusal: Refusal) -> wit::types::Refusal {
    wit::types::Refusal { code: refusal.code, message: refusal.message }
}

/// A result of the draft as guests see it.
fn answered<T>(result: Result<T, Refusal>) -> wasmtime::Result<Result<T, wit::types::Refusal>> {
    Ok(result.map_err(told))
}

fn texts(when: Vec<wit::types::Condition>) -> Vec<ConditionText> {
    let text = |condition: wit::types::Condition| ConditionText {
        attribute: condition.attribute,
        test: condition.test,
        value: condition.value,
    };
    when.into_iter().map(text).collect()
}

impl wit::types::Host for State {}

impl wit::facts::Host for State {
    fn local_region(&mut self) -> wasmtime::Result<String> {
        Ok(self.names(Fact::Local)?.into_iter().next().unwrap_or_default())
    }

    fn regions(&mut self) -> wasmtime::Result<Vec<String>> {
        self.names(Fact::Regions)
    }

    fn pools(&mut self, region: String) -> wasmtime::Result<Vec<String>> {
        self.names(Fact::Pools(clip(region)))
    }

    fn verdict(&mut self, region: String) -> wasmtime::Result<u32> {
        Ok(self.number(Fact::Verdict(clip(region)))?.unwrap_or(0))
    }

    fn latency_us(&mut self, origin: String, target: String) -> wasmtime::Result<Option<u32>> {
        self.number(Fact::LatencyUs(clip(origin), clip(target)))
    }

    fn residencies(&mut self) -> wasmtime::Result<Vec<String>> {
        self.names(Fact::Residencies)
    }

    fn residency_regions(&mut self, residency: String) -> wasmtime::Result<Vec<String>> {
        self.names(Fact::ResidencyRegions(clip(residency)))
    }

    fn now_ms(&mut self) -> wasmtime::Result<u64> {
        Ok(self.facts()?.now_ms)
    }

    fn seed(&mut self) -> wasmtime::Result<u64> {
        Ok(self.facts()?.seed)
    }
}

impl wit::draft::Host for State {
    fn split(
        &mut self,
        when: Vec<wit::types::Condition>,
        to: Vec<wit::types::Share>,
        fallback: Vec<u32>,
    ) -> wasmtime::Result<Result<u32, wit::types::Refusal>> {
        let to: Vec<(u32, u32)> = to.iter().map(|share| (share.answer, share.weight)).collect();
        answered(self.draft()?.split(&texts(when), &to, &fallback).map(|rule| rule.0))
    }

    fn dynamic(
        &mut self,
        when: Vec<wit::types::Condition>,
        needs: Vec<String>,
        among: Vec<u32>,
    ) -> wasmtime::Result<Result<u32, wit::types::Refusal>> {
        answered(self.draft()?.dynamic(&texts(when), &needs, &among).map(|rule| rule.0))
    }

    fn set_rule(
        &mut self,
        rule: u32,
        key: String,
        value: String,
    ) -> wasmtime::Result<Result<(), wit::types::Refusal>> {
        answered(self.draft()?.set_rule(rule, &key, &value))
    }

    fn set_answer(
        &mut self,
        answer: u32,
        key: String,
        value: String,
    ) -> wasmtime::Result<Result<(), wit::types::Refusal>> {
        answered(self.draft()?.set_answer(answer, &key, &value))
    }

    fn memo(&mut self, bytes: Vec<u8>) -> wasmtime::Result<Result<(), wit::types::Refusal>> {
        answered(self.draft()?.memo(&bytes))
    }
}

impl wit::routing_answers::Host for State {
    fn forward(
        &mut self,
        region: String,
        pool: String,
    ) -> wasmtime::Result<Result<u32, wit::types::Refusal>> {
        answered(self.draft()?.forward(&region, &pool).map(number))
    }

    fn respond(
        &mut self,
        status: u16,
        content_type: String,
        body: String,
    ) -> wasmtime::Result<Result<u32, wit::types::Refusal>> {
        answered(self.draft()?.respond(status, &content_type, &body).map(number))
    }

    fn redirect(
        &mut self,
        status: u16,
        location: String,
    ) -> wasmtime::Result<Result<u32, wit::types::Refusal>> {
        answered(self.draft()?.redirect(status, &location).map(number))
    }

    fn next(&mut self) -> wasmtime::Result<u32> {
        self.draft()?.leave().map(number).map_err(|refusal| wasmtime::Error::msg(refusal.to_string()))
    }
}

impl wit::sharding_facts::Host for State {
    fn shards(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self.view()?.shards())
    }

    fn shard_residency(&mut self, shard: String) -> wasmtime::Result<Option<String>> {
        Ok(self.view()?.shard_residency(&shard))
    }

    fn shard_regions(&mut self, shard: String) -> wasmtime::Result<Vec<String>> {
        Ok(self.view()?.shard_regions(&shard))
    }

    fn shard_takes(&mut self, shard: String) -> wasmtime::Result<bool> {
        Ok(self.view()?.shard_takes(&shard))
    }

    fn shard_tenants(&mut self, shard: String) -> wasmtime::Result<u64> {
        Ok(self.view()?.shard_tenants(&shard))
    }

    fn shard_capacity(&mut self, shard: String) -> wasmtime::Result<Option<u64>> {
        Ok(self.view()?.shard_capacity(&shard))
    }

    fn shard_load(&mut self, shard: String) -> wasmtime::Result<u32> {
        Ok(self.view()?.shard_load(&shard))
    }

    fn rule(
        &mut self,
        residency: Option<String>,
        location: Option<String>,
    ) -> wasmtime::Result<Vec<wit::sharding_facts::Span>> {
        let spans = self.view()?.rule(residency.as_deref(), location.as_deref());
        Ok(spans.into_iter().map(|(last, shard)| wit::sharding_facts::Span { last, shard }).collect())
    }

    fn tenants(&mut self, after: String, max: u32) -> wasmtime::Result<Vec<String>> {
        Ok(self.view()?.tenants(&after, max))
    }

    fn tenant_shard(&mut self, tenant: String) -> wasmtime::Result<Option<String>> {
        Ok(self.view()?.tenant_shard(&tenant))
    }

    fn tenant_residency(&mut self, tenant: String) -> wasmtime::Result<Option<String>> {
        Ok(self.view()?.tenant_residency(&tenant))
    }

    fn tenant_location(&mut self, tenant: String) -> wasmtime::Result<Option<String>> {
        Ok(self.view()?.tenant_location(&tenant))
    }

    fn tenant_hash(&mut self, tenant: String) -> wasmtime::Result<u64> {
        Ok(self.view()?.tenant_hash(&tenant))
    }

    fn moves_max(&mut self) -> wasmtime::Result<u32> {
        Ok(self.view()?.limits().moves_max)
    }

    fn line_permille_max(&mut self) -> wasmtime::Result<u32> {
        Ok(self.view()?.limits().line_permille_max)
    }
}

impl wit::sharding_answers::Host for State {
    fn relocate(
        &mut self,
        tenant: String,
        to: String,
        reason: String,
    ) -> wasmtime::Result<Result<(), wit::types::Refusal>> {
        answered(self.proposal()?.relocate(&tenant, &to, &reason))
    }

    fn set_rule(
        &mut self,
        residency: Option<String>,
        location: Option<String>,
        spans: Vec<wit::sharding_facts::Span>,
        reason: String,
    ) -> wasmtime::Result<Result<(), wit::types::Refusal>> {
        let spans: Vec<(u64, &str)> = spans.iter().map(|span| (span.last, span.shard.as_str())).collect();
        answered(self.proposal()?.set_rule(residency.as_deref(), location.as_deref(), &spans, &reason))
    }
}

/// Every question is kept. A text that is too long to be a name stays so when it is cut, and costs less to keep.
fn clip(mut name: String) -> String {
    if name.len() > NAME_BYTES_MAX {
        let end = (0..=NAME_BYTES_MAX + 1).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
        name.truncate(end);
        name.shrink_to_fit();
    }
    name
}

const fn number(answer: AnswerId) -> u32 {
    answer.0
}

impl wit::log::Host for State {
    fn line(&mut self, level: u32, text: String) -> wasmtime::Result<()> {
        let taken = match self.lines_left.checked_sub(1) {
            Some(left) => {
                self.lines_left = left;
                self.log.write(level, &text)
            }
            None => {
                self.log.drop_line();
                false
            }
        };
        if !taken {
            self.live.counters().log_lines_dropped.add(1);
        }
        Ok(())
    }
}
