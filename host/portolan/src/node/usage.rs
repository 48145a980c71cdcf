//! What each tenant used on this node, by the hour: requests, bytes, guest work.
//!
//! What wakes it: a second's tick. What it reads: the data threads' counts, which it takes, and the accounts of policies'
//! slots. What it writes: the hour's file in the node's own folder, every few seconds and at the end. A node that is killed
//! loses those few seconds, of its own counts alone. On failure it keeps counting, tells once, and tries again.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portolan_foundation::clock;
use portolan_foundation::shutdown::Shutdown;
use portolan_policy::{Account, Cost, Engine, Slot};
use portolan_proxy::{Handle, Traffic, Traffics};
use serde::{Deserialize, Serialize};

/// The folder below a node's own.
const FOLDER: &str = "usage";
const HOUR_MS: u64 = 3_600_000;
/// From one taking of counts to the next.
const TICK: Duration = Duration::from_secs(1);
/// Ticks from one writing to the next: what a node that is killed may lose.
const TICKS_PER_WRITE: u32 = 5;
/// Tenants of one hour; more are counted together.
const TENANTS_MAX: usize = 10_000;
/// Hours that are kept: five weeks, so that a month can be billed after its end.
const HOURS_KEPT: usize = 35 * 24;
/// Whoever is not a tenant. Parentheses are in no tenant's name.
const NOBODY: &str = "(none)";
const OPERATOR: &str = "(operator)";
const OTHER: &str = "(other)";

/// What somebody used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Used {
    /// Questions to the guest on the way of requests.
    pub(crate) guest_calls: u64,
    /// Units of fuel of those.
    pub(crate) guest_fuel: u64,
    /// Microseconds of data threads.
    pub(crate) guest_us: u64,
    /// Units of fuel of plans.
    pub(crate) plan_fuel: u64,
    pub(crate) plans: u64,
    pub(crate) received_bytes: u64,
    pub(crate) requests: u64,
    pub(crate) sent_bytes: u64,
}

/// One hour, as it is on disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Hour {
    /// Hours since 1970-01-01T00:00:00Z.
    hour: u64,
    used: BTreeMap<String, Used>,
}

/// One line of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Row {
    /// When the hour began, in milliseconds since 1970-01-01T00:00:00Z; of several, the first.
    pub(crate) from_ms: u64,
    pub(crate) tenant: String,
    #[serde(flatten)]
    pub(crate) used: Used,
}

/// The counts of the running hour.
#[derive(Debug)]
pub(crate) struct Meter {
    folder: PathBuf,
    hour: Hour,
    is_dirty: bool,
    /// What each slot's account said last.
    seen: HashMap<Slot, Cost>,
}

/// The meter, shared with whoever looks.
pub(crate) type Shared = Arc<Mutex<Meter>>;

impl Used {
    fn add(&mut self, more: &Self) {
        self.guest_calls += more.guest_calls;
        self.guest_fuel += more.guest_fuel;
        self.guest_us += more.guest_us;
        self.plan_fuel += more.plan_fuel;
        self.plans += more.plans;
        self.received_bytes += more.received_bytes;
        self.requests += more.requests;
        self.sent_bytes += more.sent_bytes;
    }
}

impl From<&Traffic> for Used {
    fn from(traffic: &Traffic) -> Self {
        let Traffic { requests, received_bytes, sent_bytes } = *traffic;
        Self { requests, received_bytes, sent_bytes, ..Self::default() }
    }
}

impl Meter {
    /// Opens the folder below a node's own, and goes on with the running hour.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub(crate) fn open(state: &Path, now_ms: u64) -> io::Result<Self> {
        let folder = state.join(FOLDER);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let number = now_ms / HOUR_MS;
        let hour = match read(&folder, number) {
            Ok(hour) => hour,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Hour { hour: number, ..Hour::default() },
            Err(error) => {
                tracing::warn!("the usage of this hour does not read, and begins anew: {error}");
                Hour { hour: number, ..Hour::default() }
            }
        };
        Ok(Self { folder, hour, is_dirty: false, seen: HashMap::new() })
    }

    /// Adds what was counted since the last time.
    fn count(
        &mut self,
        now_ms: u64,
        traffics: &Traffics,
        accounts: &[(Slot, Arc<Account>)],
    ) -> io::Result<()> {
        let number = now_ms / HOUR_MS;
        if number != self.hour.hour {
            self.write()?;
            self.hour = Hour { hour: number, ..Hour::default() };
            forget_old(&self.folder)?;
        }
        for (name, traffic) in &traffics.tenants {
            self.add(name.as_str(), &traffic.into());
        }
        self.add(NOBODY, &(&traffics.nobody).into());
        self.add(OTHER, &(&traffics.other).into());
        let mut seen = HashMap::with_capacity(accounts.len());
        for (slot, account) in accounts {
            let (now, before) = (account.cost(), self.seen.get(slot).copied().unwrap_or_default());
            let name = match slot {
                Slot::Operator => OPERATOR,
                Slot::Tenant(name) => name.as_str(),
            };
            // An account that began anew counts from nothing.
            let since = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
            let used = Used {
                guest_calls: since(now.calls, before.calls),
                guest_fuel: since(now.fuel, before.fuel),
                guest_us: since(now.guest_us, before.guest_us),
                plan_fuel: since(now.plan_fuel, before.plan_fuel),
                plans: since(now.plans, before.plans),
                ..Used::default()
            };
            self.add(name, &used);
            seen.insert(slot.clone(), now);
        }
        self.seen = seen;
        Ok(())
    }

    fn add(&mut self, name: &str, used: &Used) {
        if *used == Used::default() {
            return;
        }
        self.is_dirty = true;
        let all = &mut self.hour.used;
        let name = if all.len() >= TENANTS_MAX && !all.contains_key(name) { OTHER } else { name };
        all.entry(name.to_owned()).or_default().add(used);
    }

    /// What was used since then, with the running hour; as [`export`].
    ///
    /// # Errors
    /// When the folder does not read, or does not take the running hour.
    pub(crate) fn export(&mut self, since_ms: u64, by_hour: bool) -> io::Result<Vec<Row>> {
        self.write()?;
        rows(&self.folder, since_ms, by_hour)
    }

    /// Puts the running hour on disk.
    pub(crate) fn write(&mut self) -> io::Result<()> {
        if !self.is_dirty {
            return Ok(());
        }
        let partial = self.folder.join("partial");
        std::fs::write(&partial, serde_json::to_vec(&self.hour).map_err(io::Error::other)?)?;
        std::fs::rename(&partial, path(&self.folder, self.hour.hour))?;
        self.is_dirty = false;
        Ok(())
    }
}

/// Counts until the shutdown begins; [`finish`] counts what ends while the node drains.
pub(crate) async fn run(meter: Shared, engine: Engine, proxy: Handle, shutdown: Shutdown) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut is_told = false;
    for round in 1_u32.. {
        tokio::select! {
            () = shutdown.begun() => return,
            _ = ticks.tick() => {}
        }
        let (meter, engine, proxy) = (Arc::clone(&meter), engine.clone(), proxy.clone());
        let counted = tokio::task::spawn_blocking(move || {
            let mut meter = meter.lock().unwrap_or_else(PoisonError::into_inner);
            meter.count(clock::unix_ms(), &proxy.metrics().take_usage(), &engine.accounts())?;
            if round.is_multiple_of(TICKS_PER_WRITE) { meter.write() } else { Ok(()) }
        });
        if let Ok(Err(error)) = counted.await
            && !std::mem::replace(&mut is_told, true)
        {
            tracing::warn!(%error, "cannot write the usage of tenants down; it is counted, and tried again");
        }
    }
}

/// The last count, when no request is in flight any more.
pub(crate) fn finish(meter: &Shared, engine: &Engine, proxy: &Handle) {
    let mut meter = meter.lock().unwrap_or_else(PoisonError::into_inner);
    let counted = meter.count(clock::unix_ms(), &proxy.metrics().take_usage(), &engine.accounts());
    if let Err(error) = counted.and_then(|()| meter.write()) {
        tracing::warn!(%error, "cannot write the last usage of tenants down");
    }
}

/// What was used since then, by tenant, or by hour and tenant. Whole hours: the one of `since_ms` counts.
///
/// # Errors
/// When the folder does not read.
pub(crate) fn export(state: &Path, since_ms: u64, by_hour: bool) -> io::Result<Vec<Row>> {
    rows(&state.join(FOLDER), since_ms, by_hour)
}

fn rows(folder: &Path, since_ms: u64, by_hour: bool) -> io::Result<Vec<Row>> {
    let mut rows: BTreeMap<(u64, String), Used> = BTreeMap::new();
    let first = since_ms / HOUR_MS;
    let hours: Vec<u64> = hours(folder)?.into_iter().filter(|hour| *hour >= first).collect();
    let begin = hours.first().copied().unwrap_or(first);
    for number in hours {
        let hour = read(folder, number)?;
        for (tenant, used) in hour.used {
            rows.entry((if by_hour { number } else { begin }, tenant)).or_default().add(&used);
        }
    }
    Ok(rows.into_iter().map(|((hour, tenant), used)| Row { from_ms: hour * HOUR_MS, tenant, used }).collect())
}

fn read(folder: &Path, hour: u64) -> io::Result<Hour> {
    let read: Hour = serde_json::from_slice(&std::fs::read(path(folder, hour))?)?;
    Ok(read)
}

fn path(folder: &Path, hour: u64) -> PathBuf {
    folder.join(format!("{hour:010}.json"))
}

/// The hours that are on disk, in order.
fn hours(folder: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name();
        found.extend(name.to_string_lossy().strip_suffix(".json").and_then(|hour| hour.parse::<u64>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

fn forget_old(folder: &Path) -> io::Result<()> {
    for old in hours(folder)?.iter().rev().skip(HOURS_KEPT) {
        std::fs::remove_file(path(folder, *old))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use portolan_core::ids::TenantName;
    use portolan_policy::defaults::TENANT_BUDGET;

    use super::*;

    fn traffics(tenants: &[(&str, u64)]) -> Traffics {
        let mut traffics = Traffics::default();
        for (name, requests) in tenants {
            let traffic = Traffic { requests: *requests, received_bytes: 1, sent_bytes: 2 };
            traffics.tenants.insert(TenantName::new(name).unwrap(), traffic);
        }
        traffics
    }

    #[test]
    fn hours_add_up_over_restarts_and_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        let at = |hour: u64| hour * HOUR_MS + 5;
        let mut meter = Meter::open(state, at(100)).unwrap();
        meter.count(at(100), &traffics(&[("acme", 3), ("globex", 1)]), &[]).unwrap();
        meter.write().unwrap();
        drop(meter);
        let mut meter = Meter::open(state, at(100)).unwrap();
        let accounts = [(Slot::Operator, Account::bounded(TENANT_BUDGET))];
        meter.count(at(100), &traffics(&[("acme", 2)]), &accounts).unwrap();
        meter.count(at(101), &traffics(&[("acme", 1)]), &accounts).unwrap();
        meter.write().unwrap();
        let requests = |since, by_hour| {
            let rows = export(state, since, by_hour).unwrap();
            rows.into_iter()
                .map(|row| (row.from_ms / HOUR_MS, row.tenant, row.used.requests))
                .collect::<Vec<_>>()
        };
        assert_eq!(requests(0, false), [(100, "acme".into(), 6), (100, "globex".into(), 1)]);
        assert_eq!(requests(at(101), false), [(101, "acme".into(), 1)]);
        assert_eq!(requests(0, true).len(), 3);
        for hour in 102..102 + HOURS_KEPT as u64 + 5 {
            meter.count(at(hour), &traffics(&[("acme", 1)]), &[]).unwrap();
        }
        assert!(hours(&state.join(FOLDER)).unwrap().len() <= HOURS_KEPT);
        for part in 0..3 {
            let many: Vec<String> = (0..TENANTS_MAX / 2).map(|number| format!("t{part}-{number}")).collect();
            let many: Vec<(&str, u64)> = many.iter().map(|name| (name.as_str(), 1)).collect();
            meter.count(at(5_000), &traffics(&many), &[]).unwrap();
        }
        assert!(meter.hour.used.len() <= TENANTS_MAX + 1);
        assert!(meter.hour.used.get(OTHER).unwrap().requests >= TENANTS_MAX as u64 / 2 - 2);
    }
}
