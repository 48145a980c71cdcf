//! `portolan shard move | moves | split | merge`: tenants from one shard to another, one or many.
//!
//! A split and a merge are plans of moves, followed by a change of the rules of placement once nobody is left whom the new rules
//! would send elsewhere. Nothing of a plan is kept: the same command, given again, goes on where it was broken off.

mod batch;
mod plan;

use std::io::Read as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::Method;
use portolan_admin::{Code, Operation, Problem};
use portolan_core::ids::{ShardName, TenantName};
use serde_json::{Value, json};

use self::batch::{Batch, Done};
use self::plan::{Placement, Shard};
use crate::cli::moving::{Many, Merge, Move, Moves, Split};
use crate::client::{Client, encode};
use crate::{operation, print};

/// From one look at something to the next.
const LOOK: Duration = Duration::from_millis(100);
/// Rounds in which tenants are looked for that came meanwhile.
const ROUNDS_MAX: usize = 10;
/// Looks at whether all nodes go by the new rules, before it goes on without the others: they may be away.
const FOLLOWED_LOOKS_MAX: usize = 300;
/// Tenants that are named one by one.
const NAMED_MAX: usize = 20;

/// Moves one tenant.
///
/// # Errors
/// When no node answers, or something stands against it.
pub(crate) fn one(command: &Move) -> anyhow::Result<ExitCode> {
    let tenant = TenantName::new(&command.tenant)?;
    let client = Client::open(&command.target)?;
    let path = format!("/api/v1/tenants/{}/moves", encode(tenant.as_str()));
    let asked = json!({ "to": command.to, "undo": command.undo, "dry_run": command.dry_run });
    if command.dry_run {
        let found: Value = client.post(&path, &asked)?;
        if command.json {
            return shown(&found);
        }
        let text = |name: &str| found.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
        let rows = found.get("rows").and_then(Value::as_u64).unwrap_or(0);
        let seconds = found.get("copy_seconds_min").and_then(Value::as_f64).unwrap_or(0.0);
        print(&format!(
            "tenant {tenant} can be moved from {} to {}: {rows} rows, {seconds:.1} s of copying; nothing was done",
            text("from"),
            text("to")
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    let operation: Operation = client.post(&path, &asked)?;
    match batch::ended(operation::followed(&client, operation, !command.json)?) {
        Ok(result) if command.json => shown(&result),
        Ok(result) => {
            print(&batch::line(&result))?;
            print(&format!("until its rows are forgotten there: portolan shard move {tenant} --undo"))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(why) => bail!("{why}"),
    }
}

/// Lists moves.
///
/// # Errors
/// When no node answers.
pub(crate) fn list(command: &Moves) -> anyhow::Result<ExitCode> {
    let told: Value = Client::open(&command.target)?.get("/api/v1/moves")?;
    let items = told.get("items").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if command.json {
        return shown(&Value::Array(items.to_vec()));
    }
    if items.is_empty() {
        print("no tenant moves, and no shard of this region keeps rows of one that has moved")?;
    }
    items.iter().try_for_each(|item| print(&move_line(item)))?;
    Ok(ExitCode::SUCCESS)
}

/// Shares a shard's tenants with another.
///
/// # Errors
/// When no node answers, or something stands against it.
pub(crate) fn split(command: &Split) -> anyhow::Result<ExitCode> {
    let work = Work::open(&command.shard, &command.to, &command.many)?;
    if let Some(file) = &command.tenants {
        let text = if file.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("read the tenants from standard input")?;
            text
        } else {
            std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?
        };
        return work.move_listed(&plan::listed(&text)?);
    }
    if !(command.ratio > 0.0 && command.ratio <= 1.0) {
        bail!("--ratio is {}: write more than 0 and at most 1", command.ratio);
    }
    work.move_by_rule(command.ratio, false)
}

/// Gives all tenants of a shard to another.
///
/// # Errors
/// When no node answers, or something stands against it.
pub(crate) fn merge(command: &Merge) -> anyhow::Result<ExitCode> {
    Work::open(&command.shard, &command.into, &command.many)?.move_by_rule(1.0, true)
}

/// Tenants of one shard that go to another.
struct Work<'a> {
    client: Client,
    from: ShardName,
    many: &'a Many,
    residency: Option<String>,
    shards: Vec<Shard>,
    to: ShardName,
}

/// Who is on a shard: by a rule, or by a place of its own.
#[derive(Default)]
struct Found {
    by_place: Vec<TenantName>,
    by_rule: Vec<TenantName>,
}

/// The object of the rules, as it is now.
struct Rules {
    /// Who else manages it.
    file: Option<String>,
    now: Placement,
    /// None where the object is not there.
    revision: Option<u64>,
}

impl<'a> Work<'a> {
    fn open(from: &str, to: &str, many: &'a Many) -> anyhow::Result<Self> {
        let (from, to) = (ShardName::new(from)?, ShardName::new(to)?);
        let client = Client::open(&many.target)?;
        let told: Value = client.get("/api/v1/shards")?;
        let items = told.get("items").cloned().unwrap_or_default();
        let shards: Vec<Shard> = serde_json::from_value(items).context("read the node's answer")?;
        let class = |name: &ShardName| {
            let shard = shards.iter().find(|shard| shard.name == name.as_str());
            let shard = shard
                .with_context(|| format!("there is no shard `{name}`: `portolan shard list` shows them"))?;
            anyhow::Ok(shard.residency.clone())
        };
        let residency = class(&from)?;
        if from == to {
            bail!("both are shard `{from}`: name another one");
        }
        if class(&to)? != residency {
            bail!("`{from}` and `{to}` are of different residency classes: no tenant leaves its own");
        }
        Ok(Self { client, from, many, residency, shards, to })
    }

    /// Moves the tenants of a list, and leaves the rules as they are.
    fn move_listed(&self, tenants: &[TenantName]) -> anyhow::Result<ExitCode> {
        let mut wanted = Vec::new();
        for tenant in tenants {
            let place: Value =
                self.client.get(&format!("/api/v1/tenants/{}/place", encode(tenant.as_str())))?;
            match place.get("shard").and_then(Value::as_str) {
                Some(shard) if shard == self.from.as_str() => wanted.push(tenant.clone()),
                Some(shard) if shard == self.to.as_str() => {}
                other => bail!("tenant {tenant} is on {}, not on {}", other.unwrap_or("no shard"), self.from),
            }
        }
        if self.many.dry_run {
            return self.outlook(&wanted, None);
        }
        let done = self.batch().run(wanted, &self.to)?;
        self.report(
            &done,
            "they stay there by places of their own; the rules are as they were",
            ExitCode::SUCCESS,
        )
    }

    /// Moves the tenants whom the rules are to send elsewhere, then changes the rules.
    fn move_by_rule(&self, ratio: f64, all: bool) -> anyhow::Result<ExitCode> {
        let (from, to) = (self.from.as_str(), self.to.as_str());
        let rules = self.rules()?;
        let next = rules.now.cut(from, to, ratio)?;
        let mut done: Vec<Done> = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let wanted = self.leaving(&next, all)?;
            if self.many.dry_run {
                return self.outlook(&wanted, Some(&next));
            }
            if wanted.is_empty() {
                return self.finish(&rules, &next, done, all);
            }
            let moved = self.batch().run(wanted, &self.to)?;
            let failed = moved.iter().any(|one| one.result.is_err());
            done.extend(moved);
            if failed {
                let why = "not all have moved, so the rules of placement are as they were: give the same command again";
                return self.report(&done, why, ExitCode::FAILURE);
            }
        }
        let why = "new tenants came all the time, so the rules of placement are as they were: give the same command again";
        self.report(&done, why, ExitCode::FAILURE)
    }

    /// The tenants on the source whom the next rules have elsewhere; for a merge all of them.
    fn leaving(&self, next: &Placement, all: bool) -> anyhow::Result<Vec<TenantName>> {
        let found = self.found()?;
        let mut leaving = if all { found.by_place } else { Vec::new() };
        for tenant in found.by_rule {
            if next.owner(self.residency.as_deref(), &tenant)? == Some(self.to.as_str()) {
                leaving.push(tenant);
            }
        }
        Ok(leaving)
    }

    /// Who is on the source: has rows there, or a place of its own.
    fn found(&self) -> anyhow::Result<Found> {
        let mut places = std::collections::BTreeMap::new();
        for object in self.client.all::<Value>("/api/v1/objects?kind=place")? {
            let text = |at: &str| object.pointer(at).and_then(Value::as_str).map(str::to_owned);
            if let (Some(name), Some(shard)) = (text("/name"), text("/body/shard")) {
                places.insert(TenantName::new(&name)?, shard);
            }
        }
        let mut found = Found::default();
        for name in self.client.all::<String>(&format!("/api/v1/shards/{}/tenants", self.from))? {
            let tenant = TenantName::new(&name)?;
            if !places.contains_key(&tenant) {
                found.by_rule.push(tenant);
            }
        }
        let here = places.into_iter().filter(|(_, shard)| shard == self.from.as_str());
        found.by_place = here.map(|(tenant, _)| tenant).collect();
        Ok(found)
    }

    /// Nobody is left who would be sent elsewhere: the rules can change.
    fn finish(
        &self,
        rules: &Rules,
        next: &Placement,
        mut done: Vec<Done>,
        all: bool,
    ) -> anyhow::Result<ExitCode> {
        if let Some(file) = &rules.file {
            let why = format!(
                "all have moved; `settings/placement` is managed by {file}: write this there and apply it, then give the same command \
                 again, which moves whoever came meanwhile\n{}",
                next.written()
            );
            let changed = rules.now != *next;
            let (why, code) = if changed {
                (why, ExitCode::from(crate::DIFFERS))
            } else {
                ("all have moved".to_owned(), ExitCode::SUCCESS)
            };
            return self.report(&done, &why, code);
        }
        let generation = self.write(rules, next)?;
        self.wait_for(generation)?;
        // Whoever wrote its first row on the source while the rules changed is found there by its rows alone.
        let strays = self.leaving(next, false)?;
        for tenant in &strays {
            let path = format!("/api/v1/objects/place/{}", encode(tenant.as_str()));
            let body = json!({ "placement": 1, "shard": self.from });
            self.put(&path, &body, None)?;
        }
        done.extend(self.batch().run(strays, &self.to)?);
        let mut why =
            format!("the rules of placement send them to {} from generation {generation} on", self.to);
        if all {
            why.push_str(&format!("; `portolan shard drain {}` keeps new tenants away from it", self.from));
        }
        let code =
            if done.iter().all(|one| one.result.is_ok()) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        self.report(&done, &why, code)
    }

    fn rules(&self) -> anyhow::Result<Rules> {
        let there: anyhow::Result<Value> = self.client.get("/api/v1/objects/settings/placement");
        match there {
            Ok(object) => {
                let body = object.get("body").cloned().unwrap_or_default();
                let managed_by = object.get("managed_by").and_then(Value::as_str).unwrap_or_default();
                Ok(Rules {
                    file: managed_by.strip_prefix("file:").map(str::to_owned),
                    now: serde_json::from_value(body).context("read `settings/placement`")?,
                    revision: object.get("revision").and_then(Value::as_u64),
                })
            }
            Err(error)
                if error.downcast_ref::<Problem>().is_some_and(|problem| problem.code == Code::NotFound) =>
            {
                Ok(Rules { file: None, now: Placement::implied(&self.shards), revision: None })
            }
            Err(error) => Err(error),
        }
    }

    /// Writes the rules. Gives the generation that has them.
    fn write(&self, rules: &Rules, next: &Placement) -> anyhow::Result<u64> {
        let body = serde_json::to_value(next).context("write the rules")?;
        self.put("/api/v1/objects/settings/placement", &body, rules.revision)
    }

    fn put(&self, path: &str, body: &Value, revision: Option<u64>) -> anyhow::Result<u64> {
        let seen = revision.map(|revision| format!("\"{revision}\""));
        let condition = seen.as_ref().map_or(("if-none-match", "*"), |seen| ("if-match", seen.as_str()));
        let headers = [("content-type", "application/json"), condition];
        let answer = self.client.ask(Method::PUT, path, &headers, Some(body.to_string().into_bytes()))?;
        Ok(answer.json()?.get("generation").and_then(Value::as_u64).unwrap_or(0))
    }

    /// Waits until all nodes go by a generation, so that nobody begins to write by the old rules.
    fn wait_for(&self, generation: u64) -> anyhow::Result<()> {
        for _ in 0..FOLLOWED_LOOKS_MAX {
            let nodes: Value = self.client.get("/api/v1/nodes")?;
            let nodes = nodes.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
            let running = |node: &Value| node.get("running").and_then(Value::as_u64).unwrap_or(0);
            if !nodes.is_empty() && nodes.iter().all(|node| running(node) >= generation) {
                return Ok(());
            }
            std::thread::park_timeout(LOOK);
        }
        eprintln!("not all nodes go by generation {generation} yet: `portolan status` shows which");
        Ok(())
    }

    fn batch(&self) -> Batch<'_> {
        Batch { beside: usize::from(self.many.beside), client: &self.client, quiet: self.many.json }
    }

    /// What would be done.
    fn outlook(&self, tenants: &[TenantName], next: Option<&Placement>) -> anyhow::Result<ExitCode> {
        if self.many.json {
            return shown(
                &json!({ "from": self.from, "to": self.to, "tenants": tenants, "placement": next }),
            );
        }
        print(&format!(
            "{} tenants would move from {} to {}; nothing was done",
            tenants.len(),
            self.from,
            self.to
        ))?;
        tenants.iter().take(NAMED_MAX).try_for_each(|tenant| print(&format!("  {tenant}")))?;
        if tenants.len() > NAMED_MAX {
            print(&format!("  and {} more", tenants.len() - NAMED_MAX))?;
        }
        next.map_or(Ok(()), |next| print(&next.written()))?;
        Ok(ExitCode::SUCCESS)
    }

    fn report(&self, done: &[Done], what: &str, code: ExitCode) -> anyhow::Result<ExitCode> {
        let moved: Vec<&Value> = done.iter().filter_map(|one| one.result.as_ref().ok()).collect();
        let failed: Vec<(&TenantName, &String)> =
            done.iter().filter_map(|one| Some((&one.tenant, one.result.as_ref().err()?))).collect();
        let code = if failed.is_empty() { code } else { ExitCode::FAILURE };
        if self.many.json {
            let failed: Vec<Value> =
                failed.iter().map(|(tenant, why)| json!({ "tenant": tenant, "why": why })).collect();
            shown(
                &json!({ "from": self.from, "to": self.to, "moved": moved, "failed": failed, "what": what }),
            )?;
            return Ok(code);
        }
        let pause = |value: &&Value| value.get("pause_ms").and_then(Value::as_f64).unwrap_or(0.0);
        let longest = moved.iter().map(pause).fold(0.0, f64::max);
        print(&format!(
            "{} tenants moved from {} to {}, {} not; the longest pause was {longest} ms",
            moved.len(),
            self.from,
            self.to,
            failed.len()
        ))?;
        print(what)?;
        Ok(code)
    }
}

fn move_line(item: &Value) -> String {
    let text = |at: &str| item.pointer(at).and_then(Value::as_str).unwrap_or("-");
    let number = |at: &str| item.pointer(at).and_then(Value::as_u64).unwrap_or(0);
    let mut line = format!("{}: {} -> {}, {}", text("/tenant"), text("/from"), text("/to"), text("/step"));
    if item.get("here").is_some_and(|here| !here.is_null()) {
        line.push_str(&format!(
            " ({}), {} of {} rows, {} records behind",
            text("/here/stage"),
            number("/here/rows"),
            number("/here/rows_of"),
            number("/here/lag")
        ));
    } else if text("/step") != "kept" {
        line.push_str(&format!(", begun by {}", text("/mover")));
    }
    if let Some(pause) = item.get("pause_ms").and_then(Value::as_f64) {
        line.push_str(&format!(", writes were held for {pause} ms"));
    }
    if let Some(until) = item.get("kept_until_ms").and_then(Value::as_u64) {
        let left = until.saturating_sub(portolan_foundation::clock::unix_ms()) / 1_000;
        line.push_str(&format!(
            ", rows are kept for another {}",
            humantime::format_duration(Duration::from_secs(left))
        ));
    }
    line
}

fn shown(value: &Value) -> anyhow::Result<ExitCode> {
    print(&serde_json::to_string_pretty(value)?)?;
    Ok(ExitCode::SUCCESS)
}
