//! Commands as texts that a shell takes, and versions as people write them.

use portolan_control::State;
use portolan_core::ids::{Digest, PolicyName};
use portolan_core::lane::Affinity;
use portolan_core::rollout::{Command, Limits, Promotion, Run, Start};
use portolan_policy::Slot;

use super::name;
use crate::registry;

/// Stands for the file of the plugin's name, or the bundled policy.
const FILE: &str = "file";
/// Fewer digits than this name a version by chance.
const PREFIX_MIN: usize = 6;

/// `portolan ...`, as it is typed.
pub(super) fn line(slot: &Slot, plugin: &PolicyName, command: &Command) -> String {
    let slot = name(slot);
    let line = match command {
        Command::Abort => format!("abort {slot}"),
        Command::Pause => format!("pause {slot}"),
        Command::Pin { plugin, run, .. } => format!("pin {slot} {}", version(plugin, run)),
        Command::Promote(Promotion::Full) => format!("promote {slot} --full"),
        Command::Promote(Promotion::Next) => format!("promote {slot}"),
        Command::Promote(Promotion::Percent(percent)) => format!("promote {slot} --percent {percent}"),
        Command::Resume => format!("resume {slot}"),
        Command::Rollback { to: None, .. } => format!("rollback {slot}"),
        Command::Rollback { to: Some(run), .. } => format!("rollback {slot} --to {}", version(plugin, run)),
        Command::Start(start) => format!("start {slot} {}", begin(start)),
        Command::Unpin => format!("unpin {slot}"),
    };
    format!("portolan rollout {line}")
}

/// What a command is called in histories.
pub(super) const fn verb(command: &Command) -> &'static str {
    match command {
        Command::Abort => "abort",
        Command::Pause => "pause",
        Command::Pin { .. } => "pin",
        Command::Promote(_) => "promote",
        Command::Resume => "resume",
        Command::Rollback { .. } => "rollback",
        Command::Start(_) => "start",
        Command::Unpin => "unpin",
    }
}

fn begin(start: &Start) -> String {
    let part = match start.percent {
        0 => "--shadow".to_owned(),
        percent => format!("--canary {percent}"),
    };
    let Limits { divergence_permille, min_decisions, overruns_permille, p99_us, traps_permille } =
        &start.limits;
    let divergence = divergence_permille.map(|limit| format!(" --max-divergence {}", percent(limit)));
    let p99 = p99_us.map(|limit| format!(" --max-p99 {limit}us"));
    format!(
        "{} {part} --affinity {} --min-decisions {min_decisions} --max-traps {} --max-overruns {}{}{}",
        version(&start.plugin, &start.candidate),
        affinity(start.affinity),
        percent(*traps_permille),
        percent(*overruns_permille),
        divergence.unwrap_or_default(),
        p99.unwrap_or_default(),
    )
}

pub(super) const fn affinity(affinity: Affinity) -> &'static str {
    match affinity {
        Affinity::Client => "client",
        Affinity::Region => "region",
        Affinity::Tenant => "tenant",
    }
}

/// `PLUGIN@VERSION`, and the configuration that comes with it.
fn version(plugin: &PolicyName, run: &Run) -> String {
    let version = run.version.map_or_else(|| FILE.to_owned(), |version| version.to_string());
    let config = run.config.as_ref().map(|config| {
        // In single quotes a shell changes nothing but the quote.
        format!(" --policy-config '{}'", config.json.replace('\'', r"'\''"))
    });
    format!("{plugin}@{version}{}", config.unwrap_or_default())
}

/// Thousandths as a percentage.
pub(super) fn percent(permille: u32) -> String {
    if permille.is_multiple_of(10) {
        format!("{}%", permille / 10)
    } else {
        format!("{}.{}%", permille / 10, permille % 10)
    }
}

/// A percentage with at most one decimal as thousandths: `0.5`, `2%`.
///
/// # Errors
/// What it is to be.
pub(crate) fn permille(text: &str) -> Result<u32, String> {
    let wrong = || format!("`{text}` is no share: write a percentage such as 2% or 0.5%");
    let (whole, tenths) = match text.trim_end_matches('%').split_once('.') {
        Some((whole, tenths)) if tenths.len() == 1 => (whole, tenths),
        Some(_) => return Err(wrong()),
        None => (text.trim_end_matches('%'), "0"),
    };
    let digits = |part: &str| part.parse::<u32>().map_err(|_| wrong());
    let permille = digits(whole)?.saturating_mul(10).saturating_add(digits(tenths)?);
    if permille > 1_000 { Err(wrong()) } else { Ok(permille) }
}

/// The plugin and what is said of its version.
///
/// # Errors
/// What it is to be.
pub(crate) fn split(text: &str) -> Result<(PolicyName, &str), String> {
    let (plugin, version) = text.split_once('@').ok_or_else(|| {
        format!("`{text}` is no version: write PLUGIN@VERSION, as `portolan plugin versions` lists them")
    })?;
    Ok((PolicyName::new(plugin).map_err(|error| error.to_string())?, version))
}

/// The version of a plugin that is meant, of those that the slot may run: by its digest, by enough digits of it, or `file`.
///
/// # Errors
/// When the store has none such, or several.
pub(crate) fn find(
    state: &State,
    slot: &Slot,
    plugin: &PolicyName,
    text: &str,
) -> Result<Option<Digest>, String> {
    if text == FILE {
        return Ok(None);
    }
    let known = registry::versions(state, slot, plugin);
    let digits = text.strip_prefix("sha256:").unwrap_or(text).to_ascii_lowercase();
    let mut fits = known.iter().filter(|digest| digest.to_string().starts_with(&digits));
    match (fits.next(), fits.next()) {
        (Some(one), None) if digits.len() >= PREFIX_MIN => Ok(Some(*one)),
        (Some(_), None) => {
            Err(format!("`{text}` is too short for a version: give at least {PREFIX_MIN} digits"))
        }
        (Some(_), Some(_)) => {
            Err(format!("`{text}` is the beginning of several versions of {plugin}: give more digits"))
        }
        (None, _) => Err(format!(
            "the store has no version `{text}` of {plugin}: `portolan plugin versions {plugin}` lists those that there are"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_read_as_they_are_written() {
        for limit in [0, 1, 5, 10, 15, 999, 1_000] {
            assert_eq!(permille(&percent(limit)), Ok(limit));
        }
        assert_eq!(permille("2"), Ok(20));
        for bad in ["", "%", "x", "101", "1.55", "-1", "1.", "1e3"] {
            assert!(permille(bad).is_err(), "{bad}");
        }
    }
}
