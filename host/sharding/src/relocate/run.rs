//! A move from its beginning to its switch.
//!
//! What fails before the hold is sealed is taken back. What fails after it is settled by the control store.

use std::time::Duration;

use portolan_changelog::{Drained, Limits, MoveNote, Passage, Reach, Record, Stamp};
use portolan_core::log::{Placement, Position};
use portolan_core::time::Moment;
use portolan_foundation::clock;
use tokio::time::timeout;

use super::check::print;
use super::compare::{Doubts, id};
use super::settle::moved;
use super::{Back, Detail, Error, Event, Relocation, Report, Resumed, Step};
use crate::defaults::{
    MOVE_CHUNK_ROWS, MOVE_HOLD, MOVE_LAG_RECORDS, MOVE_ROUNDS_MAX, MOVE_SWITCH, MOVE_WRITERS,
};

/// A move that is noted.
#[derive(Debug)]
pub(super) struct Course {
    /// From where the log is followed, when the target has the rows from before.
    pub(super) back: Option<Back>,
    pub(super) detail: Detail,
    /// The source's note.
    pub(super) out: MoveNote,
}

/// What was done so far.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) bytes: u64,
    chunks: u64,
    /// None until rows are compared: what was written before that is not in doubt.
    pub(super) doubts: Option<Doubts>,
    rounds: u64,
    /// Rows that were compared while the tenant was written.
    pub(super) rows: u64,
}

/// A hold that is sealed.
struct Sealed {
    detail: Detail,
    held: Moment,
    note: MoveNote,
}

impl Course {
    /// The placement of what the move brings.
    pub(super) const fn between(&self) -> Placement {
        Placement(self.detail.moving.to.placement.0.saturating_sub(1))
    }

    const fn stamp(&self) -> Stamp {
        let moving = &self.detail.moving;
        Stamp { lease: moving.to.epoch, placement: self.between(), source: moving.from.epoch }
    }
}

impl Relocation<'_> {
    /// Moves the tenant, while it is written.
    ///
    /// # Errors
    /// [`Error::Unfit`] and [`Error::Underway`] before anything is done. [`Error::Aborted`] when it was taken back.
    /// [`Error::Unsettled`] when it could not be: resume it.
    ///
    /// # Cancel safety
    /// As safe as a mover's death: resume it.
    pub async fn run(&self) -> Result<Report, Error> {
        self.start(false).await
    }

    /// Undoes a move from the target's side: `from` is where the tenant is now, `to` keeps its rows from before. Only what has
    /// been written since is taken over.
    ///
    /// # Errors
    /// As [`Self::run`]; [`Error::Unfit`] when no rows are kept, or they can no longer be brought up to date.
    pub async fn undo(&self) -> Result<Report, Error> {
        self.start(true).await
    }

    async fn start(&self, undoes: bool) -> Result<Report, Error> {
        let course = self.begin(undoes).await?;
        match Box::pin(self.carry(&course)).await {
            Err(why @ (Error::Overtaken | Error::Stopped | Error::Unsettled(_))) => Err(why),
            Err(why) => self.take_back(why).await,
            done => done,
        }
    }

    /// All of it, once it is noted at the source.
    async fn carry(&self, course: &Course) -> Result<Report, Error> {
        self.announce(course).await?;
        let mut done = Done::default();
        let base = match &course.back {
            Some(back) => back.position,
            None => self.copy(course, &mut done).await?,
        };
        let base = self.catch_up(course, base, &mut done).await?;
        let base = self.compare_all(course, base, &mut done).await?;
        self.tell(Event::Checked)?;
        let mut base = self.narrow(course, base, &mut done).await?;
        if self.replicated().await? {
            self.tell(Event::Replicated)?;
            base = self.narrow(course, base, &mut done).await?;
        }
        let sealed = self.hold(course, base, &mut done).await?;
        self.switch(&sealed.detail).await?;
        let pause = self.watch.now().since(sealed.held);
        self.tell(Event::Switched)?;
        // The tenant is at the target: what fails from here on is only to be done again.
        match self.finish(sealed.note, &sealed.detail).await {
            Ok(()) => {}
            Err(why @ (Error::Overtaken | Error::Stopped)) => return Err(why),
            Err(why) => return Err(Error::Unsettled(why.to_string())),
        }
        let Done { bytes, chunks, rounds, rows, .. } = done;
        // The source keeps them as they were. To count them while the tenant waited would have made it wait longer.
        let rows = self.from.store.count_rows(self.tenant).await.unwrap_or(rows);
        Ok(Report { bytes, chunks, moving: sealed.detail.moving, pause, rounds, rows })
    }

    async fn finish(&self, note: MoveNote, detail: &Detail) -> Result<(), Error> {
        let note = self.turn(note, Step::Switched).await?;
        self.settle(note, detail).await.map(drop)
    }

    /// Copies the rows. Returns from where the log is to be followed.
    pub(super) async fn copy(&self, course: &Course, done: &mut Done) -> Result<Position, Error> {
        let base = self.from.store.settled().await?;
        let mut after = None;
        loop {
            let begun = clock::now();
            let rows = self.from.store.tenant_rows(self.tenant, after.as_ref(), MOVE_CHUNK_ROWS).await?;
            let Some(last) = rows.last().and_then(id) else { return Ok(base) };
            after = Some(last);
            self.take_in(course, &rows).await?;
            done.chunks += 1;
            self.tell(Event::Copied { rows: rows.len() as u64 })?;
            self.pace(rows.len(), begun).await;
        }
    }

    /// Takes over what has been written, until little is left. Returns how far.
    pub(super) async fn catch_up(
        &self,
        course: &Course,
        from: Position,
        done: &mut Done,
    ) -> Result<Position, Error> {
        let mut after = from;
        for _ in 0..MOVE_ROUNDS_MAX {
            let passage = self.read(after, Reach::Settled).await?;
            self.take_in(course, &passage.records).await?;
            self.doubt(done, &passage.records).await?;
            done.rounds += 1;
            after = passage.through;
            self.tell(Event::CaughtUp { records: passage.records.len() as u64 })?;
            if passage.whole && passage.records.len() <= MOVE_LAG_RECORDS {
                return Ok(after);
            }
        }
        Err(Error::Aborted(
            "the tenant writes faster than it is followed: move it when it writes less".to_owned(),
        ))
    }

    /// Holds the tenant, takes over the rest, compares, and seals the hold, all within the hold's time.
    async fn hold(&self, course: &Course, base: Position, done: &mut Done) -> Result<Sealed, Error> {
        let note = self.turn(course.out.clone(), Step::Holding).await?;
        let held = self.watch.now();
        let sealed = timeout(MOVE_HOLD, self.within(course, base, held, note, done)).await;
        sealed.map_err(|_| late("the rest was taken over"))?
    }

    async fn within(
        &self,
        course: &Course,
        base: Position,
        held: Moment,
        note: MoveNote,
        done: &mut Done,
    ) -> Result<Sealed, Error> {
        let in_time = |what| if self.watch.now().since(held) < MOVE_HOLD { Ok(()) } else { Err(late(what)) };
        self.from.store.hold(self.tenant, &note.id, MOVE_HOLD, MOVE_WRITERS).await?;
        self.tell(Event::Held)?;
        in_time("writers were waited for")?;
        let records = self.drain(course, base, done).await?;
        self.tell(Event::Drained)?;
        in_time("the rest was taken over")?;
        self.compare_rest(&done.doubts.take().unwrap_or_default()).await?;
        self.tell(Event::Compared)?;
        in_time("both sides were compared")?;
        self.replicated_held().await?;
        in_time("a replica of the target was waited for")?;
        let back =
            Back { identity: self.to.store.identity().await?, position: self.to.store.settled().await? };
        let detail = Detail { back: Some(back), sealed_ms: Some(clock::unix_ms()), ..course.detail.clone() };
        let drained = Drained { base, epoch: self.from.epoch, records };
        let text = print(&detail)?;
        let to = (Step::Switching.word(), text.as_str());
        if !self.from.store.seal(&note, to, &drained, MOVE_WRITERS).await? {
            return Err(late("the hold was to be sealed, or another lease has begun"));
        }
        self.tell(Event::Sealed)?;
        let note = MoveNote { detail: text, step: Step::Switching.word().to_owned(), ..note };
        Ok(Sealed { detail, held, note })
    }

    /// Takes over all that the held tenant wrote. Returns how many records lie after the base.
    async fn drain(&self, course: &Course, base: Position, done: &mut Done) -> Result<u64, Error> {
        let (mut after, mut records) = (base, 0);
        loop {
            let passage = self.read(after, Reach::Held).await?;
            self.take_in(course, &passage.records).await?;
            self.doubt(done, &passage.records).await?;
            done.rounds += 1;
            (after, records) = (passage.through, records + passage.records.len() as u64);
            if passage.whole {
                break;
            }
        }
        let waiting = self.to.store.why_parked(self.tenant).await?;
        match waiting {
            None => Ok(records),
            Some(why) => Err(Error::Aborted(format!("the target's database does not take a row: {why}"))),
        }
    }

    async fn read(&self, after: Position, reach: Reach) -> Result<Passage, Error> {
        Ok(self.from.store.tenant_records(self.tenant, after, Limits::default(), reach).await?)
    }

    /// Takes records in at the target. What refers to others may have come before them: it is tried again until nothing changes.
    async fn take_in(&self, course: &Course, records: &[Record]) -> Result<(), Error> {
        let (store, stamp) = (&self.to.store, course.stamp());
        if !records.is_empty() {
            store.take_in(self.tenant, records, &stamp).await?;
        }
        let mut before = None;
        while store.why_parked(self.tenant).await?.is_some() {
            let waiting = store.take_in_parked(self.tenant, &stamp).await?;
            if before == Some(waiting) {
                break;
            }
            before = Some(waiting);
        }
        Ok(())
    }

    /// Asks the control store, and when it does not answer, has it close the move.
    async fn switch(&self, detail: &Detail) -> Result<(), Error> {
        if let Ok(Ok(word)) = timeout(MOVE_SWITCH, self.switch.switch(&detail.moving)).await {
            return moved(word);
        }
        let word = self.switch.close(&detail.moving).await;
        moved(word.map_err(|why| Error::Unsettled(why.to_string()))?)
    }

    /// Takes a move back that has failed, as far as it has not switched.
    async fn take_back(&self, why: Error) -> Result<Report, Error> {
        let why = match why {
            Error::Aborted(why) => why,
            why => why.to_string(),
        };
        match self.resume().await {
            Ok(Resumed::TakenBack | Resumed::Nothing) => Err(Error::Aborted(why)),
            Ok(Resumed::Moved) => Err(Error::Unsettled(format!("it has moved all the same: {why}"))),
            Err(also @ (Error::Overtaken | Error::Stopped)) => Err(also),
            Err(also) => Err(Error::Unsettled(format!("{why}; and it was not taken back: {also}"))),
        }
    }
}

fn late(what: &str) -> Error {
    let limit: Duration = MOVE_HOLD;
    Error::Aborted(format!("the tenant was held for {limit:?} when {what}: try again when it writes less"))
}
