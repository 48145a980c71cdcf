//! A node in memory: objects with revisions and a log, as the control store has them, without checks of what would run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use portolan_core::ids::TenantName;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::backend::{
    Application, Body, Broken, Change, Difference, Edit, Intent, Key, Kind, Node, Object, ObjectFilter,
    Outcome, Proposal, Question, Reversion, Tail, TailFilter, TenantSide, Untold, Verification,
};
use crate::problem::{Code, Problem};

#[derive(Debug, Default)]
pub(in crate::tests) struct Twin {
    pub(in crate::tests) inside: Mutex<Inside>,
    pub(in crate::tests) proposals: AtomicU64,
    pub(in crate::tests) counts: Arc<Counts>,
    pub(in crate::tests) lines: Mutex<Option<mpsc::Sender<Value>>>,
    /// Held by a test to let a change wait.
    pub(in crate::tests) gate: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
pub(in crate::tests) struct Inside {
    pub(in crate::tests) objects: BTreeMap<Key, Object>,
    pub(in crate::tests) log: Vec<Change>,
}

#[derive(Debug, Default)]
pub(in crate::tests) struct Counts {
    pub(in crate::tests) sampled: AtomicU64,
    pub(in crate::tests) dropped: AtomicU64,
}

impl Untold for Counts {
    fn sampled(&self) -> u64 {
        self.sampled.load(Ordering::Relaxed)
    }

    fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Twin {
    /// Puts an object there as a file would.
    pub(in crate::tests) fn put(&self, kind: &str, name: &str, body: Value, managed_by: &str) {
        let Value::Object(body) = body else { panic!("a table") };
        let mut inside = self.inside.lock().unwrap();
        let key = Key { kind: kind.to_owned(), name: name.to_owned() };
        let revision = inside.append("someone", "", "apply", vec![edit(&key, Some(&body), managed_by)]);
        let object = Object {
            kind: kind.to_owned(),
            name: name.to_owned(),
            body,
            managed_by: managed_by.to_owned(),
            revision,
        };
        inside.objects.insert(key, object);
    }
}

fn edit(key: &Key, body: Option<&Body>, managed_by: &str) -> Edit {
    Edit {
        kind: key.kind.clone(),
        name: key.name.clone(),
        body: body.cloned(),
        managed_by: body.map(|_| managed_by.to_owned()),
    }
}

impl Inside {
    fn append(&mut self, author: &str, message: &str, source: &str, edits: Vec<Edit>) -> u64 {
        let generation = self.log.len() as u64 + 1;
        let previous = self.log.last().map_or_else(|| "0".repeat(64), |change| change.digest.clone());
        let sum = Sha256::digest(format!("{generation}{previous}{author}").as_bytes());
        let digest = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        self.log.push(Change {
            generation,
            at_ms: generation,
            author: author.to_owned(),
            source: source.to_owned(),
            message: message.to_owned(),
            edits,
            digest,
            previous,
        });
        generation
    }
}

#[async_trait]
impl Intent for Twin {
    fn generation(&self) -> Result<u64, Problem> {
        Ok(self.inside.lock().unwrap().log.len() as u64)
    }

    fn object(&self, key: &Key) -> Result<Option<Object>, Problem> {
        Ok(self.inside.lock().unwrap().objects.get(key).cloned())
    }

    fn objects(
        &self,
        filter: &ObjectFilter,
        after: Option<&Key>,
        max: usize,
    ) -> Result<Vec<Object>, Problem> {
        let inside = self.inside.lock().unwrap();
        let found = inside.objects.iter().filter(|(key, object)| {
            after.is_none_or(|after| *key > after)
                && filter.kind.as_ref().is_none_or(|kind| *kind == key.kind)
                && filter.name.as_ref().is_none_or(|name| *name == key.name)
                && filter.managed_by.as_ref().is_none_or(|by| object.managed_by.starts_with(by.as_str()))
        });
        Ok(found.map(|(_, object)| object.clone()).take(max).collect())
    }

    async fn propose(&self, proposal: Proposal) -> Result<Outcome, Problem> {
        self.proposals.fetch_add(1, Ordering::Relaxed);
        let _open = self.gate.lock().await;
        let mut inside = self.inside.lock().unwrap();
        let (mut differences, mut edits) = (Vec::new(), Vec::new());
        for wish in &proposal.wishes {
            let key = Key { kind: wish.kind.clone(), name: wish.name.clone() };
            let there = inside.objects.get(&key);
            let revision = there.map_or(0, |object| object.revision);
            if wish.if_revision.is_some_and(|wanted| wanted != revision) {
                return Err(Problem::new(Code::PreconditionFailed, "it has changed"));
            }
            if let Some(file) = there.filter(|object| object.managed_by != "api" && !wish.take_over) {
                return Err(Problem::new(Code::ManagedElsewhere, format!("managed by {}", file.managed_by)));
            }
            differences.push(Difference {
                kind: key.kind.clone(),
                name: key.name.clone(),
                is: if wish.body.is_none() {
                    Kind::Deleted
                } else if there.is_some() {
                    Kind::Changed
                } else {
                    Kind::Created
                },
                managed_by: "api".to_owned(),
                was_managed_by: None,
                parts: Vec::new(),
            });
            edits.push(edit(&key, wish.body.as_ref(), "api"));
        }
        let before = inside.log.len() as u64;
        if proposal.dry_run {
            return Ok(Outcome {
                generation: before,
                changed: false,
                dry_run: true,
                differences,
                undo: None,
            });
        }
        let revision = inside.append(&proposal.author, &proposal.message, proposal.source, edits);
        for wish in proposal.wishes {
            let key = Key { kind: wish.kind.clone(), name: wish.name.clone() };
            match wish.body {
                None => _ = inside.objects.remove(&key),
                Some(body) => {
                    let managed_by = "api".to_owned();
                    let object = Object { kind: wish.kind, name: wish.name, body, managed_by, revision };
                    inside.objects.insert(key, object);
                }
            }
        }
        let undo = Some(format!("portolan revert {before}"));
        Ok(Outcome { generation: revision, changed: true, dry_run: false, differences, undo })
    }

    async fn apply(&self, _: Application) -> Result<Outcome, Problem> {
        let generation = self.generation()?;
        Ok(Outcome { generation, changed: false, dry_run: false, differences: Vec::new(), undo: None })
    }

    async fn revert(&self, reversion: Reversion) -> Result<Outcome, Problem> {
        let generation = self.generation()?;
        if reversion.generation > generation {
            return Err(Problem::not_found(format!("generation {}", reversion.generation)));
        }
        Ok(Outcome { generation, changed: false, dry_run: false, differences: Vec::new(), undo: None })
    }

    async fn changes(&self, after: u64, max: usize) -> Result<Vec<Change>, Problem> {
        let inside = self.inside.lock().unwrap();
        Ok(inside.log.iter().filter(|change| change.generation > after).take(max).cloned().collect())
    }

    async fn verify(&self, _: Option<(u64, String)>) -> Result<Verification, Problem> {
        let inside = self.inside.lock().unwrap();
        let mut previous = "0".repeat(64);
        for change in &inside.log {
            if change.previous != previous {
                let broken = Broken { generation: change.generation, reason: "does not follow".to_owned() };
                let (generation, broken) = (change.generation - 1, Some(broken));
                return Ok(Verification {
                    whole: false,
                    entries: generation,
                    generation,
                    head: previous,
                    broken,
                    next: None,
                });
            }
            previous.clone_from(&change.digest);
        }
        let entries = inside.log.len() as u64;
        Ok(Verification {
            whole: true,
            entries,
            generation: entries,
            head: previous,
            broken: None,
            next: None,
        })
    }
}

#[async_trait]
impl Node for Twin {
    fn status(&self) -> Result<Value, Problem> {
        Ok(json!({ "version": "twin" }))
    }

    fn metrics(&self) -> Result<String, Problem> {
        Ok(String::new())
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn tenant(&self, tenant: &TenantName, side: TenantSide) -> Result<Option<Value>, Problem> {
        let known = ["acme", "globex"].contains(&tenant.as_str());
        Ok(known.then(|| json!({ "tenant": tenant, "side": format!("{side:?}") })))
    }

    async fn usage(&self, since_ms: u64, _: bool) -> Result<Vec<Value>, Problem> {
        Ok(["acme", "globex"].map(|tenant| json!({ "from_ms": since_ms, "tenant": tenant })).to_vec())
    }

    fn nodes(&self) -> Result<Vec<Value>, Problem> {
        Ok(vec![json!({ "name": "twin" })])
    }

    fn shards(&self) -> Result<Vec<Value>, Problem> {
        Ok(vec![json!({ "name": "s1" })])
    }

    fn place(&self, tenant: &TenantName) -> Result<Option<Value>, Problem> {
        Ok(Some(json!({ "tenant": tenant, "shard": "s1" })))
    }

    async fn explain(&self, question: Question) -> Result<Value, Problem> {
        Ok(json!({
            "tenant": question.tenant,
            "policies": [{ "slot": "operator", "policy": "secret" }, { "slot": "tenant", "policy": "own" }],
            "candidates": [{ "action": "forward", "via": "endpoints 10.0.0.1:80" }],
        }))
    }

    fn tail(&self, _: TailFilter) -> Result<Tail, Problem> {
        let (sender, lines) = mpsc::channel(8);
        *self.lines.lock().unwrap() = Some(sender);
        Ok(Tail { lines, place: Box::new(()), untold: Arc::clone(&self.counts) as _ })
    }
}
