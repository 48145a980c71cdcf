//! Brings a move to its end: after its switch, after a failure, or after its mover has died.

use portolan_changelog::{MoveNote, Side};
use portolan_core::ids::TenantName;

use super::check::read;
use super::model::{self, Next};
use super::{Detail, Effect, Error, Event, Relocation, Resumed, Step, Switched};
use crate::defaults::MOVE_RESUMES_MAX;

impl Relocation<'_> {
    /// Brings a move that has begun to its end, in either place: whoever moved it has died, or the control store did not answer. The
    /// seats are those of that move.
    ///
    /// # Errors
    /// [`Error::Unsettled`] when the control store does not say whether the move has switched; [`Error::Store`] when a database
    /// does not answer. Resume it again.
    ///
    /// # Cancel safety
    /// Cancel-safe: what was done is noted, and the next one goes on.
    pub async fn resume(&self) -> Result<Resumed, Error> {
        for _ in 1..MOVE_RESUMES_MAX {
            // The mover may live, or what it did last may still be on its way to the database.
            match self.resume_once().await {
                Err(Error::Overtaken) => {}
                done => return done,
            }
        }
        self.resume_once().await
    }

    async fn resume_once(&self) -> Result<Resumed, Error> {
        let notes = self.from.store.moves(Some(self.tenant)).await?;
        let Some(note) = notes.into_iter().find(|note| note.side == Side::Out) else {
            return self.clean().await;
        };
        let detail = read(&note)?;
        if detail.moving.to.shard != self.to.shard {
            let moving = detail.moving;
            return Err(Error::Underway { from: moving.from.shard, to: moving.to.shard });
        }
        if Step::of(&note.step) == Some(Step::Kept) {
            return Ok(Resumed::Nothing);
        }
        self.settle(note, &detail).await
    }

    /// The target's note of a move that its source does not know: that was taken back before the note came.
    async fn clean(&self) -> Result<Resumed, Error> {
        for note in self.to.store.moves(Some(self.tenant)).await? {
            let detail = read(&note)?;
            if note.side == Side::In && detail.moving.from.shard == self.from.shard {
                self.bar(&detail).await?;
                self.to.store.drop_move(self.tenant, Side::In, &note.id).await?;
                return Ok(Resumed::TakenBack);
            }
        }
        Ok(Resumed::Nothing)
    }

    /// Goes on from the step of the note to the end.
    pub(super) async fn settle(&self, mut note: MoveNote, detail: &Detail) -> Result<Resumed, Error> {
        let mut end = Resumed::TakenBack;
        loop {
            let step = Step::of(&note.step);
            let step = step
                .ok_or_else(|| portolan_changelog::Error::Damaged(format!("a move at step {}", note.step)))?;
            match model::next(step) {
                Next::Over => return Ok(end),
                Next::Turn(to) => note = self.turn(note, to).await?,
                Next::Ask => {
                    let word = self.switch.close(&detail.moving).await;
                    let word = word.map_err(|why| Error::Unsettled(why.to_string()))?;
                    note = self.turn(note, model::answered(word)).await?;
                }
                Next::Do(effects, then) => {
                    for effect in effects {
                        self.act(*effect, detail).await?;
                        self.tell(Event::Did(*effect))?;
                    }
                    let Some(to) = then else { return Ok(end) };
                    end = Resumed::Moved;
                    note = self.turn(note, to).await?;
                }
            }
        }
    }

    /// Changes the step of the source's note, if it is still as it was.
    pub(super) async fn turn(&self, note: MoveNote, to: Step) -> Result<MoveNote, Error> {
        if !self.from.store.step_move(&note, to.word()).await? {
            return Err(Error::Overtaken);
        }
        Ok(MoveNote { step: to.word().to_owned(), ..note })
    }

    async fn act(&self, effect: Effect, detail: &Detail) -> Result<(), Error> {
        let (from, to, moving) = (&self.from.store, &self.to.store, &detail.moving);
        match effect {
            Effect::Bar => self.bar(detail).await?,
            Effect::DropIn => to.drop_move(self.tenant, Side::In, &moving.id).await?,
            Effect::DropKept => self.drop_kept(self.tenant).await?,
            Effect::DropOut => from.drop_move(self.tenant, Side::Out, &moving.id).await?,
            Effect::PlaceAway => {
                from.place(self.tenant, moving.to.placement, true).await?;
            }
            Effect::PlaceThere => {
                to.place(self.tenant, moving.to.placement, false).await?;
            }
            Effect::Release => {
                from.release(self.tenant, &moving.id).await?;
            }
        }
        Ok(())
    }

    /// No switch of this move places the tenant at the target any more, and nothing of it that still comes is taken in. Rows
    /// that were kept there stay: some may be newer now, which the next undoing does not mind.
    pub(super) async fn bar(&self, detail: &Detail) -> Result<(), Error> {
        let placement = detail.moving.to.placement;
        self.to.store.place(self.tenant, placement, true).await?;
        // Later moves may have brought it there.
        if !detail.undoes && self.to.store.tenant(self.tenant).await?.away {
            self.to.store.forget(self.tenant, placement).await?;
        }
        Ok(())
    }

    async fn drop_kept(&self, tenant: &TenantName) -> Result<(), Error> {
        for note in self.to.store.moves(Some(tenant)).await? {
            if note.side == Side::Out && Step::of(&note.step) == Some(Step::Kept) {
                self.to.store.drop_move(tenant, Side::Out, &note.id).await?;
            }
        }
        Ok(())
    }
}

/// What the control store's word means to the mover itself.
pub(super) fn moved(word: Switched) -> Result<(), Error> {
    match word {
        Switched::Moved => Ok(()),
        Switched::Stays => {
            Err(Error::Aborted("the control store knows another place or another lease".to_owned()))
        }
    }
}
