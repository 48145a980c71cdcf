//! `portolan plugin bench`: what a policy costs, measured with the gateway's own engine in this process.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use hdrhistogram::Histogram;
use portolan_core::table::Table;
use portolan_policy::vectors::{MadeUp, Ready};
use serde::Serialize;
use serde_json::json;

use super::{ask, build, check};
use crate::print;

/// Plans that are made.
const PLANS: u32 = 20;
/// The longest that calls are measured, whatever their number.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer times are counted as this one: nanoseconds of ten seconds.
const LONGEST_NS: u64 = 10_000_000_000;

/// What `plugin bench` is told.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// The project, which is built first, or a component.
    #[arg(default_value = ".")]
    path: PathBuf,
    /// The policy's configuration; the first vector's when absent.
    #[arg(long)]
    policy_config: Option<String>,
    /// Calls of the decider.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    calls: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Times of many calls, in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Times {
    p50_ns: u64,
    p99_ns: u64,
    max_ns: u64,
}

#[derive(Debug, Serialize)]
struct Cost {
    size_bytes: usize,
    compiled_bytes: usize,
    compile_ms: f64,
    /// A fresh instance with its decider started, or once planned where there is none.
    instantiate_us: f64,
    memory_bytes: usize,
    plan: Times,
    plan_fuel: u64,
    /// A rule found and its answers ordered, as on each request.
    table: Times,
    /// A call of the decider in a warm instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    decide: Option<Times>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decide_fuel: Option<u64>,
}

/// Measures.
///
/// # Errors
/// When the policy is refused.
pub(crate) fn run(options: &Bench) -> anyhow::Result<ExitCode> {
    let built = build::component(&options.path)?;
    let vectors = ask::find(&built, None).map(|(vectors, _)| vectors).unwrap_or_default();
    // One that makes a plan, and among those one that asks the decider, if there is any.
    let good = vectors.iter().filter(|vector| vector.expect.refused.is_none());
    let vector = good.max_by_key(|vector| vector.request.len());
    let config = match (&options.policy_config, vector) {
        (Some(config), _) => config.clone(),
        (None, Some(vector)) => serde_json::Value::Object(vector.config.clone()).to_string(),
        (None, None) => "{}".to_owned(),
    };
    let facts = match vector {
        Some(vector) => vector.facts.facts().map_err(anyhow::Error::msg)?,
        None => check::facts(None)?,
    };
    let request = vector.map(|vector| vector.request.clone()).unwrap_or_default();
    let request = MadeUp::new(&request).map_err(anyhow::Error::msg)?;

    // Every call is the policy's: none is repeated to see whether it is pure.
    let engine = check::engine(|limits| limits.purity_check_every = std::num::NonZeroU32::MAX)?;
    let log = check::log()?;
    let began = Instant::now();
    let version = check::load(&engine, &built)?;
    let loaded = began.elapsed();
    let about = version.about();
    let mut plans = histogram()?;
    let mut instances = histogram()?;
    let mut last = None;
    for _ in 0..PLANS {
        let ready = Ready::new(&engine, &version, &config, facts.clone(), &log).map_err(|refused| {
            anyhow::anyhow!("refused at {}: {}\n  {}", refused.stage, refused.reason, refused.fix)
        })?;
        record(&mut plans, ready.plan_took);
        record(&mut instances, ready.start_took);
        last = Some(ready);
    }
    let ready = last.context("plans were made")?;
    let table = measure(options.calls, || look_up(&ready.table, &request))?;
    let decider = ready.decider.as_ref();
    let before = decider.map(|decider| decider.stats());
    let decide = match decider {
        Some(_) => Some(measure(options.calls, || _ = std::hint::black_box(ready.ask_only(&request)))?),
        None => None,
    };
    let asked = decider.zip(before).map(|(decider, before)| {
        let after = decider.stats();
        (after.calls - before.calls, after.fuel - before.fuel)
    });
    let asked = asked.filter(|(calls, _)| *calls > 0);
    let cost = Cost {
        size_bytes: about.size_bytes,
        compiled_bytes: about.artefact_bytes,
        compile_ms: about.compile_time.unwrap_or(loaded).as_secs_f64() * 1e3,
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of seconds at most")]
        instantiate_us: if decider.is_some() {
            instances.value_at_quantile(0.5) as f64 / 1e3
        } else {
            ready.plan_took.as_secs_f64() * 1e6
        },
        memory_bytes: about.memory_bytes,
        plan: times(&plans),
        plan_fuel: ready.fuel_used,
        table,
        decide: decide.filter(|_| asked.is_some()),
        decide_fuel: asked.map(|(calls, fuel)| fuel / calls),
    };
    show(&built.name, &cost, options.json)?;
    Ok(ExitCode::SUCCESS)
}

fn show(name: &str, cost: &Cost, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return print(&serde_json::to_string_pretty(&json!(cost))?);
    }
    print(name)?;
    print(&format!("  size         {} bytes, {} compiled", cost.size_bytes, cost.compiled_bytes))?;
    print(&format!("  compile      {:.1} ms", cost.compile_ms))?;
    print(&format!("  instantiate  {:.1} us", cost.instantiate_us))?;
    print(&format!("  memory       {} bytes", cost.memory_bytes))?;
    print(&format!("  plan         {}, {} fuel", cost.plan, cost.plan_fuel))?;
    print(&format!("  table        {}", cost.table))?;
    match (cost.decide, cost.decide_fuel) {
        (Some(decide), Some(fuel)) => print(&format!("  decide       {decide}, {fuel} fuel"))?,
        _ => print("  decide       not asked: the request matches no dynamic rule")?,
    }
    if let Some(note) = check::size_note(cost.size_bytes) {
        print(&format!("  note         {note}"))?;
    }
    Ok(())
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of seconds at most")]
        let us = |ns: u64| ns as f64 / 1e3;
        write!(
            f,
            "p50 {:.2} us, p99 {:.2} us, max {:.2} us",
            us(self.p50_ns),
            us(self.p99_ns),
            us(self.max_ns)
        )
    }
}

fn look_up(table: &Table, request: &MadeUp) {
    if let Some(rule) = table.find(request) {
        std::hint::black_box(table.candidates(rule, request, 1));
    }
}

fn measure(calls: u32, mut call: impl FnMut()) -> anyhow::Result<Times> {
    let mut all = histogram()?;
    let begun = Instant::now();
    for _ in 0..calls {
        let began = Instant::now();
        call();
        record(&mut all, began.elapsed());
        if begun.elapsed() > PATIENCE {
            break;
        }
    }
    Ok(times(&all))
}

fn histogram() -> anyhow::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LONGEST_NS, 3).context("make a histogram")
}

fn record(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(LONGEST_NS).max(1));
}

fn times(all: &Histogram<u64>) -> Times {
    Times { p50_ns: all.value_at_quantile(0.5), p99_ns: all.value_at_quantile(0.99), max_ns: all.max() }
}
