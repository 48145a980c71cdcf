//! The way of an upload: stage by stage, each told as it begins and as it ends, from bytes that nobody knows to a version that
//! may be kept. What is kept, and where, is the caller's.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use portolan_core::bounds::Scope;
use portolan_core::facts::Facts;
use portolan_core::ids::{Digest, PolicyName, RegionName};
use portolan_core::plan::{Action, AnswerId, Plan, Then};
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::contract;
use crate::decider::{Start, Tier};
use crate::engine::Engine;
use crate::error::{Refused, Stage};
use crate::log::{Line, Log};
use crate::plan::{Asked, Planned, is_dynamic};
use crate::schema::{self, Schema};
use crate::screen::{self, Screened};
use crate::signature::{Signature, SignatureState, Trust};
use crate::slots::Slot;
use crate::vectors::{self, Tried};
use crate::version::Version;

/// Bytes of what one step tells.
const DETAIL_BYTES_MAX: usize = 512;

/// One stage of an upload, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What there is to say: of a refusal the reason.
    pub detail: String,
    /// What to do about a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// How long it took.
    pub ms: u64,
    /// The stage's word.
    pub stage: String,
    /// How it stands.
    pub state: StepState,
}

/// How a stage stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    /// It has begun.
    Running,
    /// It found nothing wrong.
    Passed,
    /// There was nothing to look at.
    Skipped,
    /// It ended the upload.
    Refused,
}

impl fmt::Display for StepState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Passed => "passed",
            Self::Skipped => "skipped",
            Self::Refused => "refused",
        })
    }
}

/// What is examined, and against what.
#[derive(Clone, Debug)]
pub struct Candidate<'c> {
    /// Does whoever uploads it also approve of what it may newly do?
    pub approved: bool,
    /// What runs in the slots that use the plugin now.
    pub bound: &'c [Bound],
    /// The component.
    pub bytes: &'c [u8],
    /// The digest that came with the bytes.
    pub declared: Option<Digest>,
    /// Signatures that came beside the bytes.
    pub detached: Option<&'c str>,
    /// What the plugin is called.
    pub name: &'c PolicyName,
    /// Whose it is.
    pub owner: &'c Slot,
    /// Where it is tried before it is kept.
    pub trials: &'c [TrialSlot],
    /// Which signatures hold.
    pub trust: &'c Trust,
}

/// A version that runs in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// What it imports.
    pub imports: Vec<String>,
    /// Where it runs.
    pub slot: Slot,
    /// Its name.
    pub version: Digest,
}

/// A slot as it would run the candidate.
#[derive(Clone, Debug)]
pub struct TrialSlot {
    /// The slot's configuration.
    pub config: Arc<str>,
    /// What is believed of regions now; its owner sees of it what its bounds let through.
    pub facts: Arc<Facts>,
    /// Is it only made up, because no slot uses the plugin yet?
    pub made_up: bool,
    /// Within which bounds its policy is asked.
    pub scope: Scope,
    /// Which slot; for errors.
    pub slot: Slot,
    /// Whose rules hold for dynamic rules.
    pub tier: Tier,
}

/// A candidate that passed.
#[derive(Clone, Debug)]
pub struct Examined {
    /// What it may do that what runs now may not; approved of.
    pub gained: Vec<String>,
    /// What it wrote into its log while it was tried.
    pub log: Vec<Line>,
    /// How it stands with its signature.
    pub signature: Signature,
    /// What became of its golden vectors.
    pub vectors: Vec<Tried>,
    /// The version, ready to run.
    pub version: Arc<Version>,
}

/// Tells of stages.
pub(crate) struct Journal<'t>(Option<&'t mut dyn FnMut(Step)>);

impl<'t> Journal<'t> {
    /// Nobody listens.
    pub(crate) const fn silent() -> Self {
        Self(None)
    }

    pub(crate) fn telling(listener: &'t mut dyn FnMut(Step)) -> Self {
        Self(Some(listener))
    }

    /// Runs one stage. `describe` says what was found.
    pub(crate) fn stage<T>(
        &mut self,
        stage: Stage,
        work: impl FnOnce() -> Result<T, Refused>,
        describe: impl FnOnce(&T) -> String,
    ) -> Result<T, Refused> {
        let Some(tell) = &mut self.0 else { return work() };
        let step = |state, detail: String, ms| Step {
            detail,
            fix: None,
            ms,
            stage: stage.as_str().to_owned(),
            state,
        };
        tell(step(StepState::Running, String::new(), 0));
        let began = Instant::now();
        let done = work();
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tell(match &done {
            Ok(found) => step(StepState::Passed, cut(describe(found)), ms),
            Err(refused) => Step {
                fix: Some(refused.fix.clone()),
                // A refusal may be of a stage within this one.
                stage: refused.stage.as_str().to_owned(),
                ..step(StepState::Refused, refused.reason.clone(), ms)
            },
        });
        done
    }

    pub(crate) fn skip(&mut self, stage: Stage, why: &str) {
        if let Some(tell) = &mut self.0 {
            let stage = stage.as_str().to_owned();
            tell(Step { detail: why.to_owned(), fix: None, ms: 0, stage, state: StepState::Skipped });
        }
    }
}

impl Engine {
    /// Examines a candidate, stage after stage, and tells each. Blocks for as long as compiling and planning take.
    ///
    /// # Errors
    /// [`Refused`] by the first stage that finds something; that was told before.
    pub fn examine(
        &self,
        candidate: &Candidate<'_>,
        tell: &mut dyn FnMut(Step),
    ) -> Result<Examined, Refused> {
        let mut journal = Journal::telling(tell);
        self.examined(candidate, &mut journal).map_err(|refused| self.count(refused))
    }

    fn examined(&self, candidate: &Candidate<'_>, journal: &mut Journal<'_>) -> Result<Examined, Refused> {
        let (bytes, limits) = (candidate.bytes, &self.config().limits);
        let size = || screen::check_size(bytes.len() as u64, limits);
        journal.stage(Stage::Size, size, |()| format!("{} bytes", bytes.len()))?;
        let digest = screen::digest(bytes);
        journal.stage(
            Stage::Digest,
            || check_digest(digest, candidate.declared),
            |()| format!("sha256 {digest}"),
        )?;
        let screened = screened(bytes, limits, journal)?;
        let schema = schema(&screened, journal)?;
        let gained = journal.stage(
            Stage::Capabilities,
            || check_capabilities(&screened, candidate),
            |gained| match (gained.is_empty(), candidate.bound.is_empty()) {
                (true, true) => "no slot uses the plugin yet".to_owned(),
                (true, false) => "nothing that what runs now may not".to_owned(),
                (false, _) => format!("newly {}, which is approved of", gained.join(", ")),
            },
        )?;
        let signature = journal.stage(
            Stage::Signature,
            || {
                let signature = candidate.trust.judge(bytes, candidate.detached, candidate.owner);
                candidate.trust.check(&signature, candidate.owner).map(|()| signature)
            },
            |signature| match (signature.state, &signature.key, &signature.reason) {
                (state, Some(key), _) => format!("{state} by {key}"),
                // It passes, and nobody is to take it for a good one.
                (SignatureState::Failed, _, Some(reason)) => {
                    format!("none is demanded; the one there is bad: {reason}")
                }
                (SignatureState::NotSigned, ..) => "none, and none is demanded".to_owned(),
                (state, None, _) => state.to_string(),
            },
        )?;
        let version = match self.loaded(digest) {
            Some(version) => {
                journal.skip(Stage::Compile, "it runs here already");
                version
            }
            None => self.made(bytes, digest, &screened, schema, journal)?,
        };
        let log = Log::new(candidate.name.clone(), limits.log_lines_per_second);
        let tried = self.tried(&version, &screened, &log, journal)?;
        self.trials(&version, candidate, &log, journal)?;
        Ok(Examined { gained, log: log.lines(), signature, vectors: tried, version })
    }

    fn tried(
        &self,
        version: &Arc<Version>,
        screened: &Screened,
        log: &Arc<Log>,
        journal: &mut Journal<'_>,
    ) -> Result<Vec<Tried>, Refused> {
        let Some(text) = &screened.vectors else {
            journal.skip(Stage::Vectors, "the component carries none");
            return Ok(Vec::new());
        };
        let all = || {
            let tried = self.try_vectors(version, &vectors::read(text)?, log)?;
            vectors::verdict(&tried).map(|()| tried)
        };
        journal.stage(Stage::Vectors, all, |tried| format!("{} of {}", tried.len(), tried.len()))
    }

    /// Configuration, plan and invariants, as each slot would have them.
    fn trials(
        &self,
        version: &Arc<Version>,
        candidate: &Candidate<'_>,
        log: &Arc<Log>,
        journal: &mut Journal<'_>,
    ) -> Result<(), Refused> {
        let limits = &self.config().limits;
        if version.about().placer {
            journal.skip(Stage::Plan, "it places tenants: `portolan shard plan` shows what it would do");
            return Ok(());
        }
        if version.about().proposer {
            let why = "it answers when regions fail: its golden vectors say what, and `portolan failover forecast` shows it";
            journal.skip(Stage::Plan, why);
            return Ok(());
        }
        if version.about().resolver {
            journal.skip(Stage::Plan, "it merges rows: `portolan conflicts list` shows what it made of them");
            return Ok(());
        }
        for trial in candidate.trials {
            let within = |mut refused: Refused| {
                refused.reason = format!("in the slot {}: {}", trial.slot, refused.reason);
                refused
            };
            let config = schema::check(version.checker(), &trial.config, limits);
            if let (Err(refused), true) = (&config, trial.made_up) {
                let why =
                    format!("no slot uses the plugin, and it wants a configuration: {}", refused.reason);
                journal.skip(Stage::Config, &cut(why));
                journal.skip(Stage::Plan, "no configuration to plan with: give one with --policy-config");
                continue;
            }
            let of = if trial.made_up { "as if it ran".to_owned() } else { format!("slot {}", trial.slot) };
            journal.stage(Stage::Config, || config.map_err(within), |()| of.clone())?;
            let plan = || self.planned(version, trial, log).map_err(within);
            let planned = journal.stage(Stage::Plan, plan, |planned| {
                let (rules, answers) = (planned.plan.rules.len(), planned.plan.answers.len());
                format!(
                    "{of}: {rules} rules, {answers} answers, {} facts read, {} fuel",
                    planned.reads.len(),
                    planned.fuel_used
                )
            })?;
            let check = || check_plan(&planned.plan, trial).map_err(within);
            journal
                .stage(Stage::Check, check, |()| "each rule has an answer that may be given".to_owned())?;
            if is_dynamic(&planned.plan) {
                let start = || self.started(version, trial, &planned, log).map_err(within);
                journal.stage(Stage::Start, start, |()| "the decider starts".to_owned())?;
            }
        }
        Ok(())
    }

    fn planned(&self, version: &Version, trial: &TrialSlot, log: &Arc<Log>) -> Result<Planned, Refused> {
        let account = Account::unbounded();
        let (bounds, facts) = match trial.slot {
            Slot::Operator => (None, Arc::clone(&trial.facts)),
            Slot::Tenant(_) => {
                (Some(Arc::clone(&trial.scope.bounds)), Arc::new(trial.facts.within(&trial.scope)))
            }
        };
        self.plan_as(version, Asked { account: &account, bounds, config: &trial.config, facts, log })
    }

    fn started(
        &self,
        version: &Arc<Version>,
        trial: &TrialSlot,
        planned: &Planned,
        log: &Arc<Log>,
    ) -> Result<(), Refused> {
        let (config, memo) = (&*trial.config, &*planned.plan.memo);
        self.decider(version, Start { account: &Account::unbounded(), config, log, memo, tier: trial.tier })
            .map(drop)
    }
}

/// Looks at a component, and judges what it says of itself.
pub(crate) fn screened(
    bytes: &[u8],
    limits: &crate::config::Limits,
    journal: &mut Journal<'_>,
) -> Result<Screened, Refused> {
    let looked =
        journal.stage(Stage::Screen, || screen::look(bytes, limits), |_| "a sound component".to_owned())?;
    let version = journal.stage(
        Stage::Contract,
        || contract::check_version(&looked),
        |version| format!("{} {version}", contract::PACKAGE),
    )?;
    journal.stage(
        Stage::Imports,
        || contract::check_imports(&looked),
        |()| {
            let names: Vec<&str> = looked.imports.keys().map(String::as_str).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        },
    )?;
    let offers = journal.stage(Stage::Exports, || contract::check_exports(&looked), ToString::to_string)?;
    Ok(Screened::new(version, offers, looked))
}

/// Reads the configuration's schema, if there is one.
pub(crate) fn schema(screened: &Screened, journal: &mut Journal<'_>) -> Result<Option<Schema>, Refused> {
    match &screened.schema {
        Some(text) => journal
            .stage(Stage::Schema, || Schema::parse(text), |_| format!("{} bytes", text.len()))
            .map(Some),
        None => {
            journal.skip(Stage::Schema, "the component carries none");
            Ok(None)
        }
    }
}

fn check_digest(found: Digest, declared: Option<Digest>) -> Result<(), Refused> {
    match declared {
        Some(declared) if declared != found => Err(Refused::new(
            Stage::Digest,
            format!("the bytes have the SHA-256 {found}, and {declared} was declared"),
            "send it again: it was changed or cut off on its way, or is another file",
        )),
        _ => Ok(()),
    }
}

fn check_capabilities(screened: &Screened, candidate: &Candidate<'_>) -> Result<Vec<String>, Refused> {
    let mut gained = Vec::new();
    let mut than = None;
    for bound in candidate.bound {
        for new in contract::gained(&screened.imports, &bound.imports) {
            if !gained.contains(&new) {
                gained.push(new);
                than = Some(bound);
            }
        }
    }
    match than {
        Some(bound) if !candidate.approved => Err(Refused::new(
            Stage::Capabilities,
            format!(
                "it may do what {} in the slot {} may not: it imports {}",
                bound.version.short(),
                bound.slot,
                gained.join(", ")
            ),
            "build it without, or have an operator push it with --approve",
        )),
        _ => Ok(gained),
    }
}

/// What holds for every plan, whatever its policy says: no rule leaves its requests without an answer that may be given.
fn check_plan(plan: &Plan, trial: &TrialSlot) -> Result<(), Refused> {
    let allowed = trial.scope.residency.as_ref().and_then(|class| trial.facts.residencies.get(class));
    let may = |region: &RegionName| allowed.is_none_or(|allowed| allowed.contains(region));
    for (number, rule) in plan.rules.iter().enumerate() {
        let ids: Vec<AnswerId> = match &rule.then {
            Then::Dynamic { among, .. } => among.clone(),
            Then::Split { to, fallback } => {
                to.iter().map(|share| share.answer).chain(fallback.iter().copied()).collect()
            }
        };
        let good =
            ids.iter().filter_map(|id| plan.answers.get(id.0 as usize)).any(|answer| match &answer.action {
                Action::Forward { region, .. } => may(region),
                Action::Next | Action::Redirect { .. } | Action::Respond { .. } => true,
            });
        if !good {
            let name = rule.name.as_deref().map_or_else(|| format!("#{number}"), str::to_owned);
            let class = trial.scope.residency.as_ref().map_or("", |class| class.as_str());
            return Err(Refused::new(
                Stage::Check,
                format!(
                    "rule {name} has no answer that residency class `{class}` allows: all of its requests would be refused"
                ),
                "add an answer in an allowed region, or one that responds (451), or `next`",
            ));
        }
    }
    Ok(())
}

fn cut(text: String) -> String {
    crate::error::printable(&text, DETAIL_BYTES_MAX)
}

#[cfg(test)]
mod tests;
