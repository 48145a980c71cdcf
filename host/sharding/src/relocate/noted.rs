//! The moves that a shard's database has notes of: what whoever keeps the shard brings to its end, and what it forgets in time.

use portolan_changelog::{MoveNote, Side, Store};
use portolan_core::ids::{ShardName, TenantName};

use super::check::read;
use super::{Detail, Error, Moving, Relocation, Step};

/// A move away from a shard, as its database has it noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// Who moves it, by the name of whoever looked on.
    pub mover: String,
    /// Which move.
    pub moving: Moving,
    /// When its hold was sealed, in milliseconds since 1970; none before.
    pub sealed_ms: Option<u64>,
    /// How far it has come.
    pub step: Step,
    /// Does it undo another?
    pub undoes: bool,
}

/// The moves away from a shard that are noted there, by tenant. Those at [`Step::Kept`] are done.
///
/// # Errors
/// When the database does not answer, or a note does not read.
pub async fn noted(store: &Store, tenant: Option<&TenantName>) -> Result<Vec<Noted>, Error> {
    let notes = store.moves(tenant).await?;
    notes.iter().filter(|note| note.side == Side::Out).map(known).collect()
}

/// The moves to a shard that are noted there, by tenant. One that its source has no note of was taken back before its note came,
/// and holds up the next; [`Relocation::resume`] cleans it.
///
/// # Errors
/// As [`noted`].
pub async fn abandoned(from: &Store, to: &Store) -> Result<Vec<Noted>, Error> {
    let coming = to.moves(None).await?;
    // Read after the others: a move is noted at its source first.
    let leaving = from.moves(None).await?;
    let is_known =
        |note: &MoveNote| leaving.iter().any(|other| other.side == Side::Out && other.id == note.id);
    coming.iter().filter(|note| note.side == Side::In && !is_known(note)).map(known).collect()
}

fn known(note: &MoveNote) -> Result<Noted, Error> {
    let Detail { mover, moving, sealed_ms, undoes, .. } = read(note)?;
    let step = Step::of(&note.step);
    let step =
        step.ok_or_else(|| portolan_changelog::Error::Damaged(format!("a move at step {}", note.step)))?;
    Ok(Noted { mover, moving, sealed_ms, step, undoes })
}

/// Forgets the rows of a tenant that a shard kept after it moved away. The move cannot be undone any more, and the tenant can
/// be moved back.
///
/// # Errors
/// [`Error::Unfit`] when the shard keeps none.
pub async fn forget(store: &Store, shard: &ShardName, tenant: &TenantName) -> Result<(), Error> {
    let notes = store.moves(Some(tenant)).await?;
    let kept = |note: &&MoveNote| note.side == Side::Out && Step::of(&note.step) == Some(Step::Kept);
    let Some(note) = notes.iter().find(kept) else {
        return Err(Error::Unfit(format!("`{shard}` keeps no rows of it")));
    };
    if notes.iter().any(|note| note.side == Side::In) {
        return Err(Error::Unfit("it is being moved back: wait until that is over".to_owned()));
    }
    // An undoing that was taken back has raised the placement, and brought rows of its own.
    let placement = store.tenant(tenant).await?.placement;
    store.forget(tenant, placement).await?;
    Ok(store.drop_move(tenant, Side::Out, &note.id).await?)
}

impl Relocation<'_> {
    /// Forgets the rows that the source kept: see [`forget`].
    ///
    /// # Errors
    /// [`Error::Unfit`] when the source keeps none.
    pub async fn forget(&self) -> Result<(), Error> {
        forget(&self.from.store, &self.from.shard, self.tenant).await
    }
}
