//! Carries a change out: reads, decides, writes in batches, and reads back.

use std::collections::{BTreeMap, BTreeSet};

use portolan_core::backoff::full_jitter;
use portolan_foundation::random;

use super::decide::{Condition, Step, decide};
use super::exchange::{Connection, code};
use super::message::{Part, update};
use super::{Change, Failure, Mode, Outcome, Outcomes, Server, Target, Wanted, read_back};
use crate::defaults::{UPDATE_BYTES_MAX, UPDATE_RETRY_MAX, UPDATE_RETRY_MIN, UPDATE_TRIES};
use crate::name::Name;

/// A name that is to be written.
struct Planned<'a> {
    outcome: Outcome,
    part: Part,
    wanted: &'a Wanted,
}

struct Writer<'a> {
    /// Names that go alone, because a batch that they were in met somebody else's change.
    alone: BTreeSet<Name>,
    change: &'a Change,
    mode: Mode,
    outcomes: Outcomes,
    target: &'a Target,
}

pub(super) async fn push(target: &Target, change: &Change, mode: Mode) -> Outcomes {
    let mut writer = Writer { alone: BTreeSet::new(), change, mode, outcomes: BTreeMap::new(), target };
    let mut tries = 0;
    loop {
        let before = writer.alone.len();
        match writer.pass().await {
            Ok(()) if writer.open().next().is_none() => return writer.outcomes,
            // A batch met somebody: its names are read again and go alone.
            Ok(()) if writer.alone.len() > before => continue,
            Ok(()) => {}
            Err(failure) => {
                if tries + 1 >= UPDATE_TRIES || !failure.is_passing() {
                    writer.settle(&failure);
                    return writer.outcomes;
                }
            }
        }
        tries += 1;
        if tries >= UPDATE_TRIES {
            let failure = target.unreachable("it changed with each try".to_owned());
            writer.settle(&failure);
            return writer.outcomes;
        }
        tokio::time::sleep(full_jitter(tries, UPDATE_RETRY_MIN, UPDATE_RETRY_MAX, random::u64())).await;
    }
}

impl<'a> Writer<'a> {
    /// The names of which nothing is known yet.
    fn open(&self) -> impl Iterator<Item = &'a Wanted> {
        self.change.names.iter().filter(|wanted| !self.outcomes.contains_key(&wanted.name))
    }

    fn settle(&mut self, failure: &Failure) {
        for wanted in &self.change.names {
            self.outcomes.entry(wanted.name.clone()).or_insert_with(|| Err(failure.clone()));
        }
    }

    fn note(&mut self, name: &Name, outcome: Result<Outcome, Failure>) {
        self.outcomes.insert(name.clone(), outcome);
    }

    /// Reads all that is open, writes what is to be written, and reads it back. What fails in passing stays open.
    async fn pass(&mut self) -> Result<(), Failure> {
        let mut connection = Connection::open(self.target).await?;
        let mut planned = Vec::new();
        for wanted in self.open().collect::<Vec<_>>() {
            let standing = connection.standing(&wanted.name).await?;
            match decide(&standing, wanted, self.change.number, self.mode) {
                Step::Alias => {
                    let failure = Failure::Alias(wanted.name.clone(), Server::At(self.target.server));
                    self.note(&wanted.name, Err(failure));
                }
                Step::Done(outcome) => self.note(&wanted.name, Ok(outcome)),
                Step::Write(condition, outcome) => planned.extend(self.plan(wanted, &condition, outcome)),
            }
        }
        for batch in batches(planned, &self.alone) {
            self.write(&mut connection, batch).await?;
        }
        Ok(())
    }

    fn plan(&mut self, wanted: &'a Wanted, condition: &Condition, outcome: Outcome) -> Option<Planned<'a>> {
        let part = Part::new(wanted, self.change.number, condition);
        if part.is_none() || wanted.addresses.is_empty() || !self.target.zone.covers(&wanted.name) {
            let failure = self.target.refused(
                format!("{} has no address, or lies elsewhere", wanted.name),
                "nothing is sent; give the name addresses, and its own zone",
            );
            self.note(&wanted.name, Err(failure));
            return None;
        }
        Some(Planned { outcome, part: part?, wanted })
    }

    async fn write(
        &mut self,
        connection: &mut Connection<'_>,
        batch: Vec<Planned<'_>>,
    ) -> Result<(), Failure> {
        let zone = &self.target.zone;
        let answered =
            connection.ask(|id| update(id, zone, batch.iter().map(|planned| &planned.part))).await?;
        match answered.code {
            code::NO_ERROR => {
                for planned in batch {
                    let standing = connection.standing(&planned.wanted.name).await?;
                    let server = Server::At(self.target.server);
                    let wanted = (planned.wanted, self.change.number);
                    let outcome = read_back(&server, wanted, &planned.outcome, &standing);
                    self.note(&planned.wanted.name, outcome);
                }
                Ok(())
            }
            code::NO_SET | code::SET_EXISTS | code::NAME_EXISTS | code::NO_NAME => match batch.as_slice() {
                // Somebody else was faster. What stands there is told; the same message would never be right again.
                [one] => {
                    let standing = connection.standing(&one.wanted.name).await?;
                    let outcome = Ok(Outcome::Overtaken(standing.found));
                    self.note(&one.wanted.name, outcome);
                    Ok(())
                }
                many => {
                    self.alone.extend(many.iter().map(|planned| planned.wanted.name.clone()));
                    Ok(())
                }
            },
            other => Err(self.target.refused_by(other)),
        }
    }
}

/// Names share a message as long as it stays small; those that met somebody go alone.
fn batches<'a>(planned: Vec<Planned<'a>>, alone: &BTreeSet<Name>) -> Vec<Vec<Planned<'a>>> {
    let mut batches: Vec<Vec<Planned<'a>>> = Vec::new();
    let (mut size, mut open) = (0, false);
    for planned in planned {
        let its_size = planned.part.size();
        let is_alone = alone.contains(&planned.wanted.name);
        match batches.last_mut().filter(|_| open && !is_alone && size + its_size <= UPDATE_BYTES_MAX) {
            Some(batch) => {
                size += its_size;
                batch.push(planned);
            }
            None => {
                size = its_size;
                open = !is_alone;
                batches.push(vec![planned]);
            }
        }
    }
    batches
}
