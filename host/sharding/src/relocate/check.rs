//! What must be so before a tenant is moved, and the notes with which a move begins.

use portolan_changelog::{MoveNote, Side};
use portolan_core::log::{AHEAD_US_MAX, Placement};
use portolan_core::tenant_table::Writers;
use portolan_foundation::random;

use super::run::Course;
use super::{Back, Detail, Error, Event, Moving, Outlook, Relocation, Seat, Stay, Step, Whereabouts};

/// A placement for what comes, and one for what is written after it.
const RISE: u64 = 2;

impl Relocation<'_> {
    /// Looks whether the tenant can be moved, cleans what an earlier attempt left, and notes the move at the source.
    pub(super) async fn begin(&self, undoes: bool) -> Result<Course, Error> {
        self.check_shards().await?;
        for orphan in self.check_notes().await? {
            self.bar(&orphan).await?;
            self.to.store.drop_move(self.tenant, Side::In, &orphan.moving.id).await?;
        }
        let there = self.check_place().await?;
        let back = if undoes { Some(self.back().await?) } else { None };
        if !undoes {
            self.check_target().await?;
        }
        let placement = Placement(self.highest(there.placement).await?.0.saturating_add(RISE));
        let moving = Moving {
            from: stay(self.from, there.placement),
            id: format!("move-{:016x}", random::u64()),
            tenant: self.tenant.clone(),
            to: stay(self.to, placement),
        };
        let mover = self.watch.mover();
        let detail = Detail { back: None, mover, moving, sealed_ms: None, undoes };
        let out = self.note(Side::Out, &detail)?;
        self.from.store.note_move(&out).await?;
        Ok(Course { back, detail, out })
    }

    /// Looks whether the tenant can be moved, and changes nothing.
    ///
    /// # Errors
    /// As [`Self::run`], before anything is done.
    pub async fn check(&self, undoes: bool) -> Result<Outlook, Error> {
        self.check_shards().await?;
        let orphans = self.check_notes().await?;
        let there = self.check_place().await?;
        if undoes {
            self.back().await?;
        } else if orphans.is_empty() {
            // What an attempt left that was taken back is cleaned when the next one begins.
            self.check_target().await?;
        }
        let rows = self.from.store.count_rows(self.tenant).await?;
        Ok(Outlook { placement: there.placement, rows })
    }

    /// The tenant is at the source, by the control store and by the source itself.
    async fn check_place(&self) -> Result<Whereabouts, Error> {
        let there = self.switch.where_is(self.tenant).await?;
        if there.shard != self.from.shard {
            return unfit(format!("it is on `{}`, not on `{}`", there.shard, self.from.shard));
        }
        if self.from.store.tenant(self.tenant).await?.away {
            return unfit(format!("the database of `{}` knows it as moved away", self.from.shard));
        }
        if self.from.store.has_content(self.tenant).await? {
            return unfit(
                "it has content, which does not move between shards: delete its sites' content first, or leave it where it is"
                    .to_owned(),
            );
        }
        Ok(there)
    }

    /// The target has nothing of the tenant.
    async fn check_target(&self) -> Result<(), Error> {
        if self.to.store.tenant_rows(self.tenant, None, 1).await?.is_empty() {
            return Ok(());
        }
        unfit(format!(
            "`{}` has rows of it: if an earlier move left them, undo that one, or wait until they are forgotten",
            self.to.shard
        ))
    }

    /// Notes the move at the target, and has the tenant away there: nobody writes it before it has come.
    pub(super) async fn announce(&self, course: &Course) -> Result<(), Error> {
        self.to.store.note_move(&self.note(Side::In, &course.detail)?).await?;
        self.to.store.place(self.tenant, course.between(), true).await?;
        self.tell(Event::Noted)
    }

    async fn check_shards(&self) -> Result<(), Error> {
        let (from, to) = (self.from, self.to);
        if from.shard == to.shard {
            return unfit("source and target are the same shard".to_owned());
        }
        if from.residency != to.residency {
            return unfit("the shards are of different residency classes".to_owned());
        }
        if from.store.dialect() != to.store.dialect() {
            return unfit(format!(
                "`{}` and `{}` are of different engines, whose texts of rows differ: move it to a shard of the same engine",
                from.shard, to.shard
            ));
        }
        for seat in [from, to] {
            open(seat).await?;
        }
        if from.store.schema().await? != to.store.schema().await? {
            return unfit(
                "the shards have different versions of the tenants' schema: migrate both".to_owned(),
            );
        }
        let shape = |seat: &Seat| {
            let mut shape = seat.store.shape();
            if seat.store.is_postgres() {
                // There a row's text does not depend on the order of its columns.
                shape.iter_mut().for_each(|(_, columns)| columns.sort());
            }
            shape
        };
        let tables = shape(from);
        if tables != shape(to) {
            return unfit("the shards have different tables or columns".to_owned());
        }
        let shared =
            tables.iter().find(|(table, _)| table.tenant.is_some() && table.writers == Writers::Members);
        if let Some((table, _)) = shared {
            return unfit(format!("all members write `{}`, and a hold here does not hold them", table.name));
        }
        let (here, there) = (from.store.clock().await?, to.store.clock().await?);
        if here.abs_diff(there) > AHEAD_US_MAX {
            return unfit(
                "the clocks of both databases differ by more than a minute: correct them".to_owned(),
            );
        }
        Ok(())
    }

    /// No other move of the tenant is under way. Returns what is left at the target of those that were never noted at their
    /// source, or are no longer.
    async fn check_notes(&self) -> Result<Vec<Detail>, Error> {
        if let Some(note) = self.from.store.moves(Some(self.tenant)).await?.first() {
            let detail = read(note)?;
            return Err(Error::Underway { from: detail.moving.from.shard, to: detail.moving.to.shard });
        }
        let mut orphans = Vec::new();
        for note in self.to.store.moves(Some(self.tenant)).await? {
            if note.side == Side::Out && Step::of(&note.step) == Some(Step::Kept) {
                continue;
            }
            let detail = read(&note)?;
            let orphan = note.side == Side::In && detail.moving.from.shard == self.from.shard;
            if !orphan {
                return Err(Error::Underway { from: detail.moving.from.shard, to: detail.moving.to.shard });
            }
            orphans.push(detail);
        }
        Ok(orphans)
    }

    /// From where the source's log is followed to undo the move that left rows at the target.
    async fn back(&self) -> Result<Back, Error> {
        let kept = self.to.store.moves(Some(self.tenant)).await?;
        let kept = kept.iter().find(|note| note.side == Side::Out);
        let detail = kept.map(read).transpose()?.filter(|detail| detail.moving.to.shard == self.from.shard);
        let Some(back) = detail.and_then(|detail| detail.back) else {
            return unfit(format!("`{}` keeps no rows of a move to `{}`", self.to.shard, self.from.shard));
        };
        if back.identity != self.from.store.identity().await? {
            return unfit(format!(
                "the log of `{}` is another since the move: forget the rows at `{}`, then move the tenant there",
                self.from.shard, self.to.shard
            ));
        }
        Ok(back)
    }

    /// The highest placement that anybody knows of the tenant.
    async fn highest(&self, known: Placement) -> Result<Placement, Error> {
        let (here, there) =
            (self.from.store.tenant(self.tenant).await?, self.to.store.tenant(self.tenant).await?);
        let all = [known, here.placement, here.forgotten, there.placement, there.forgotten];
        Ok(all.into_iter().max().unwrap_or_default())
    }

    fn note(&self, side: Side, detail: &Detail) -> Result<MoveNote, Error> {
        Ok(MoveNote {
            detail: print(detail)?,
            id: detail.moving.id.clone(),
            side,
            step: Step::Copying.word().to_owned(),
            tenant: self.tenant.clone(),
        })
    }
}

async fn open(seat: &Seat) -> Result<(), Error> {
    if seat.store.shape().is_empty() {
        return unfit(format!("the tables of `{}` are not declared", seat.shard));
    }
    let fence = seat.store.fence().await?;
    if fence.epoch != seat.epoch || fence.deadline_us <= seat.store.clock().await? {
        return unfit(format!(
            "`{}` is not open under epoch {}: see `portolan shard list`",
            seat.shard, seat.epoch
        ));
    }
    Ok(())
}

fn stay(seat: &Seat, placement: Placement) -> Stay {
    Stay { epoch: seat.epoch, placement, shard: seat.shard.clone() }
}

fn unfit<T>(why: String) -> Result<T, Error> {
    Err(Error::Unfit(why))
}

pub(super) fn print(detail: &Detail) -> Result<String, Error> {
    serde_json::to_string(detail)
        .map_err(|error| Error::Unfit(format!("its note cannot be written: {error}")))
}

pub(super) fn read(note: &MoveNote) -> Result<Detail, Error> {
    let damaged =
        |error| portolan_changelog::Error::Damaged(format!("the note of the move {}: {error}", note.id));
    serde_json::from_str(&note.detail).map_err(|error| damaged(error).into())
}
