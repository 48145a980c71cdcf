//! Laws of rollouts and verdicts, over random walks; variants that break them must be caught.

use super::flat::Flat;
use super::*;
use crate::balance::splitmix;
use crate::decide::{Said, Undecided};
use crate::evidence::{Evidence, Trial};
use crate::lane::Side;
use crate::recording::Class;
use std::time::Duration;

type Next = fn(Option<&Rollout>, Command) -> Result<Rollout, Refused>;
/// Candidate, phase, permille, affinity, limits.
type OnTrial = (Run, Phase, u32, Affinity, Limits);
type Judge = fn(&Evidence, &Limits) -> Verdict;

/// A seeded stream of choices.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = splitmix(self.0);
        self.0 % bound
    }

    fn id(&mut self) -> String {
        format!("r-{:016x}", self.below(u64::MAX))
    }

    fn run(&mut self) -> Run {
        let version = self.below(4);
        let config =
            (self.below(5) == 0).then(|| RunConfig { json: r#"{"a":1}"#.into(), replaces: "{}".into() });
        Run { config, version: (version > 0).then(|| Digest([u8::try_from(version).unwrap(); 32])) }
    }

    fn plugin(&mut self) -> PolicyName {
        PolicyName::new(if self.below(12) == 0 { "other" } else { "mine" }).unwrap()
    }

    fn command(&mut self) -> Command {
        match self.below(12) {
            0 => Command::Abort,
            1 => Command::Pause,
            2 => Command::Pin { id: self.id(), plugin: self.plugin(), run: self.run() },
            3 => Command::Promote(Promotion::Full),
            4 => Command::Promote(Promotion::Next),
            5 => Command::Promote(Promotion::Percent(u32::try_from(self.below(120)).unwrap())),
            6 => Command::Resume,
            7 => Command::Rollback { id: self.id(), to: (self.below(3) == 0).then(|| self.run()) },
            8 => Command::Unpin,
            _ => Command::Start(Start {
                affinity: [Affinity::Client, Affinity::Region, Affinity::Tenant]
                    [usize::try_from(self.below(3)).unwrap()],
                candidate: self.run(),
                id: self.id(),
                limits: Limits { min_decisions: self.below(9), ..Limits::default() },
                percent: u32::try_from(self.below(2) * self.below(110)).unwrap(),
                plugin: self.plugin(),
            }),
        }
    }
}

/// What nodes would run: the same in two states that differ in names and memories alone.
fn at_work(rollout: Option<&Rollout>, plugin: &PolicyName) -> (Run, bool, Option<OnTrial>) {
    let Some(known) = rollout.filter(|rollout| rollout.plugin == *plugin) else { return Default::default() };
    let live = known.candidate.clone();
    let live = live.map(|run| (run, known.phase, known.percent, known.affinity, known.limits.clone()));
    (known.stable.clone(), known.pinned, live)
}

/// The first law that a walk breaks.
fn broken_law(next: Next, seed: u64) -> Option<&'static str> {
    let mut dice = Dice(seed);
    let mut state: Option<Rollout> = None;
    for _ in 0..60 {
        let command = dice.command();
        let before = state.clone();
        let Ok(after) = next(before.as_ref(), command.clone()) else { continue };
        if let Some(law) = broken_by(before.as_ref(), &command, &after) {
            return Some(law);
        }
        let mut back = Some(after.clone());
        for command in undo(before.as_ref(), &after, || dice.id()) {
            match next(back.as_ref(), command) {
                Ok(rollout) => back = Some(rollout),
                Err(_) => return Some("an undo is taken"),
            }
        }
        let (then, again) = (at_work(before.as_ref(), &after.plugin), at_work(back.as_ref(), &after.plugin));
        let whole_back = matches!(
            command,
            Command::Promote(Promotion::Full | Promotion::Next) | Command::Rollback { to: Some(_), .. }
        ) && after.candidate.is_none();
        if then.0 != again.0 || (!whole_back && then != again) {
            return Some("an undo takes back");
        }
        state = Some(after);
    }
    None
}

fn broken_by(before: Option<&Rollout>, command: &Command, after: &Rollout) -> Option<&'static str> {
    let laws: [(&'static str, bool); 11] = [
        ("two versions differ", after.candidate.as_ref() != Some(&after.stable)),
        (
            "what is written down reads as it was",
            Rollout::try_from(Flat::from(after.clone())).as_ref() == Ok(after),
        ),
        (
            "an id is new for what is new, and stays for the rest",
            matches!(command, Command::Start(_) | Command::Pin { .. } | Command::Rollback { .. })
                == before.is_none_or(|before| before.id != after.id),
        ),
        (
            "one rollout at a time",
            !(matches!(command, Command::Start(_) | Command::Pin { .. })
                && before.is_some_and(Rollout::is_live)),
        ),
        (
            "a pinned slot stays",
            before.is_none_or(|before| !before.pinned)
                || matches!(command, Command::Pin { .. } | Command::Unpin),
        ),
        (
            "what is over asks nobody",
            after.is_live()
                || after.part() == Part::Canary { permille: 0, affinity: after.affinity, salt: after.salt() },
        ),
        (
            "what ends ends",
            !(matches!(
                command,
                Command::Abort
                    | Command::Pin { .. }
                    | Command::Rollback { .. }
                    | Command::Promote(Promotion::Full)
            ) && after.is_live()),
        ),
        ("the stable version is kept", keeps_stable(before, command, after)),
        (
            "what pauses is asked nothing",
            !matches!(command, Command::Pause)
                || !matches!(after.part(), Part::Shadow | Part::Canary { permille: 1.., .. }),
        ),
        (
            "another part is judged anew",
            before.is_none_or(|before| {
                before.id != after.id || before.percent == after.percent || before.step != after.step
            }),
        ),
        (
            "a resumed part is what it was",
            !matches!(command, Command::Resume)
                || before.is_some_and(|before| before.percent == after.percent && before.step == after.step),
        ),
    ];
    laws.iter().find_map(|(law, holds)| (!holds).then_some(*law))
}

/// The stable version changes to the candidate by a promotion, to what is named by a pin or a rollback, and never else.
fn keeps_stable(before: Option<&Rollout>, command: &Command, after: &Rollout) -> bool {
    let known = before.filter(|before| before.plugin == after.plugin);
    let stable = known.map(|known| known.stable.clone()).unwrap_or_default();
    match command {
        Command::Pin { run, .. } => after.stable == *run,
        Command::Promote(_) if after.candidate.is_none() => {
            known.is_some_and(|known| known.candidate.as_ref() == Some(&after.stable))
                && after.previous.as_ref() == Some(&stable)
        }
        Command::Rollback { to: Some(to), .. } => after.stable == *to,
        Command::Rollback { to: None, .. } => known.is_some_and(|known| {
            after.stable == stable && known.is_live() || known.previous.as_ref() == Some(&after.stable)
        }),
        _ => after.stable == stable,
    }
}

#[test]
fn a_walk_keeps_all_laws() {
    for seed in 0..3_000 {
        assert_eq!(broken_law(next, seed), None, "seed {seed}");
    }
}

#[test]
fn variants_that_break_a_law_are_caught() {
    let variants: [(&str, Next); 8] = [
        ("an abort that leaves the candidate", |now, command| {
            let after = next(now, command.clone())?;
            let candidate = now.and_then(|now| now.candidate.clone());
            Ok(if command == Command::Abort {
                Rollout { candidate, phase: Phase::Canary, percent: 5, ..after }
            } else {
                after
            })
        }),
        ("an abort that forgets what was stable", |now, command| {
            let after = next(now, command.clone())?;
            Ok(if command == Command::Abort { Rollout { stable: Run::default(), ..after } } else { after })
        }),
        ("a pause that goes on", |now, command| {
            let after = next(now, command.clone())?;
            Ok(if command == Command::Pause {
                Rollout { phase: phase_of(after.percent), ..after }
            } else {
                after
            })
        }),
        ("a promotion that forgets what ran before", |now, command| {
            let after = next(now, command.clone())?;
            Ok(if matches!(command, Command::Promote(_)) && !after.is_live() {
                Rollout { previous: None, ..after }
            } else {
                after
            })
        }),
        ("a promotion that is judged by old evidence", |now, command| {
            let after = next(now, command)?;
            Ok(Rollout { step: 0, ..after })
        }),
        ("a start beside a live one", |now, command| {
            let dropped = now.map(|now| Rollout { candidate: None, phase: Phase::Aborted, ..now.clone() });
            next(if matches!(command, Command::Start(_)) { dropped.as_ref() } else { now }, command)
        }),
        ("a start in a pinned slot", |now, command| {
            let free = now.map(|now| Rollout { pinned: false, ..now.clone() });
            next(if matches!(command, Command::Start(_)) { free.as_ref() } else { now }, command)
        }),
        ("a rollback under the old name", |now, command| {
            let after = next(now, command.clone())?;
            let id = now.map_or_else(|| after.id.clone(), |now| now.id.clone());
            Ok(if matches!(command, Command::Rollback { .. }) { Rollout { id, ..after } } else { after })
        }),
    ];
    for (name, variant) in variants {
        assert!((0..3_000).any(|seed| broken_law(variant, seed).is_some()), "{name} is not caught");
    }
}

#[test]
fn refusals_say_what_to_do() {
    let start = |version: u8, percent| {
        let candidate = Run { config: None, version: Some(Digest([version; 32])) };
        let plugin = PolicyName::new("mine").unwrap();
        Command::Start(Start {
            affinity: Affinity::Tenant,
            candidate,
            id: format!("{version}-{percent}"),
            limits: Limits::default(),
            percent,
            plugin,
        })
    };
    let live = next(None, start(1, 5)).unwrap();
    let says = |now: Option<&Rollout>, command, text: &str| {
        let refused = next(now, command).unwrap_err().to_string();
        assert!(refused.contains(text), "{refused}");
    };
    says(None, Command::Abort, "`start` a rollout first");
    says(None, start(1, 100), "between 0 and 99 percent");
    says(
        Some(&live),
        start(2, 5),
        "version 010101010101 is on trial in this slot (canary): promote or abort it first",
    );
    says(Some(&live), Command::Resume, "it is canary");
    let full = next(Some(&live), Command::Promote(Promotion::Full)).unwrap();
    says(Some(&full), start(1, 7), "runs in this slot already");
    let back = next(Some(&full), Command::Rollback { id: "b".to_owned(), to: None }).unwrap();
    assert_eq!(back.stable, Run::default());
    says(
        Some(&back),
        Command::Rollback { id: "c".to_owned(), to: None },
        "it is rolled back already, the plugin's own file runs for all",
    );
}

#[test]
fn a_tenant_keeps_its_side_through_pause_and_growth() {
    let plugin = PolicyName::new("mine").unwrap();
    let candidate = Run { config: None, version: Some(Digest([1; 32])) };
    let start = Start {
        affinity: Affinity::Tenant,
        candidate,
        id: "r-1".to_owned(),
        limits: Limits::default(),
        percent: 5,
        plugin,
    };
    let five = next(None, Command::Start(start)).unwrap();
    let paused = next(Some(&five), Command::Pause).unwrap();
    let resumed = next(Some(&paused), Command::Resume).unwrap();
    assert_eq!(five.part(), resumed.part());
    let half = next(Some(&resumed), Command::Promote(Promotion::Percent(50))).unwrap();
    assert_eq!(
        (half.salt(), half.part()),
        (five.salt(), Part::Canary { permille: 500, affinity: Affinity::Tenant, salt: five.salt() })
    );
}

/// Evidence of so many good decisions of the candidate, failed ones, late ones, and answers that differ.
fn evidence(good: u64, traps: u64, overruns: u64, diverged: u64) -> Evidence {
    let trial = Trial::default();
    let us = Duration::from_micros;
    (0..good).for_each(|_| trial.count(Side::Candidate, Said::Index(0), us(3)));
    (0..traps).for_each(|at| {
        trial.count(
            Side::Candidate,
            Said::Undecided(
                [Undecided::Trapped, Undecided::Broken, Undecided::OutOfRange]
                    [usize::try_from(at % 3).unwrap()],
            ),
            us(3),
        )
    });
    (0..overruns).for_each(|_| trial.count(Side::Candidate, Said::Undecided(Undecided::Overrun), us(900)));
    (0..diverged).for_each(|_| trial.count_compared(Class::OtherTarget));
    (0..good.saturating_sub(diverged)).for_each(|_| trial.count_compared(Class::Same));
    // The stable policy is not on trial, whatever it does.
    (0..50).for_each(|_| trial.count(Side::Stable, Said::Undecided(Undecided::Trapped), us(1)));
    trial.read()
}

fn broken_judgement(judge: Judge) -> Option<&'static str> {
    let limits = Limits {
        divergence_permille: Some(20),
        min_decisions: 100,
        overruns_permille: 5,
        p99_us: Some(100),
        traps_permille: 10,
    };
    let is = |good, traps, overruns, diverged| judge(&evidence(good, traps, overruns, diverged), &limits);
    let bad = |verdict: &Verdict, reasons: usize| matches!(verdict, Verdict::Bad { reasons: found } if found.len() == reasons);
    let laws = [
        (
            "nothing is said too early",
            is(0, 0, 0, 0) == Verdict::TooEarly { decisions: 0, needed: 100 }
                && is(0, 99, 0, 0) == Verdict::TooEarly { decisions: 99, needed: 100 },
        ),
        (
            "a limit that is kept is kept",
            is(990, 10, 0, 0) == Verdict::Good
                && is(980, 0, 0, 19) == Verdict::Good
                && is(995, 0, 5, 0) == Verdict::Good,
        ),
        ("failures of any kind count", bad(&is(989, 11, 0, 0), 1) && bad(&is(0, 100, 0, 0), 1)),
        ("deadlines count", bad(&is(994, 0, 6, 0), 1)),
        ("differences count", bad(&is(980, 0, 0, 20), 1)),
        ("slowness counts", bad(&is(900, 0, 100, 0), 2)),
        ("all reasons are named", bad(&is(800, 100, 100, 100), 4)),
    ];
    laws.iter().find_map(|(law, holds)| (!holds).then_some(*law))
}

#[test]
fn verdicts_keep_their_laws_and_variants_are_caught() {
    assert_eq!(broken_judgement(judge), None);
    let variants: [(&str, Judge); 5] = [
        ("no minimum", |evidence, limits| judge(evidence, &Limits { min_decisions: 0, ..limits.clone() })),
        ("traps alone", |evidence, limits| {
            let mut evidence = evidence.clone();
            (evidence.candidate.broken, evidence.candidate.out_of_range) = (0, 0);
            judge(&evidence, limits)
        }),
        ("the stable policy's failures", |evidence, limits| {
            let mut evidence = evidence.clone();
            evidence.candidate.traps += evidence.stable.traps;
            judge(&evidence, limits)
        }),
        ("limits one too small", |evidence, limits| {
            judge(evidence, &Limits { traps_permille: limits.traps_permille - 1, ..limits.clone() })
        }),
        ("differences are nothing", |evidence, limits| {
            judge(evidence, &Limits { divergence_permille: None, ..limits.clone() })
        }),
    ];
    for (name, variant) in variants {
        assert!(broken_judgement(variant).is_some(), "{name} is not caught");
    }
}

/// How many decisions after a candidate turned bad it is found so, when it was good for so many before.
fn found_after(good: u64, slide: impl Fn(&mut Window, &Evidence, u64) -> Evidence) -> Option<u64> {
    let (trial, limits, mut window) =
        (Trial::default(), Limits { min_decisions: 200, ..Limits::default() }, Window::default());
    let mut look = |trial: &Trial| {
        matches!(judge(&slide(&mut window, &trial.read(), 200), &limits), Verdict::Bad { .. })
    };
    for at in 0..good {
        trial.count(Side::Candidate, Said::Index(0), Duration::from_micros(1));
        assert!(at % 37 != 0 || !look(&trial), "a good candidate is found bad");
    }
    (1..2_000).find(|at| {
        // One decision in fifty fails.
        let said = if at % 50 == 0 { Said::Undecided(Undecided::Trapped) } else { Said::Index(0) };
        trial.count(Side::Candidate, said, Duration::from_micros(1));
        at % 37 == 0 && look(&trial)
    })
}

#[test]
fn a_long_good_life_does_not_excuse_a_bad_turn() {
    for good in [0, 1, 199, 200, 1_000, 10_000, 100_000] {
        let found = found_after(good, Window::slide);
        assert!(found.is_some_and(|after| after <= 600), "{found:?} after {good}");
    }
    assert_eq!(found_after(100_000, |_, now, _| now.clone()), None, "a sum over all time is caught");
}
