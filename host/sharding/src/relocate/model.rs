//! The steps of a move, and how each is settled after a crash: pure, no database.
//!
//! The note's step is changed before what it allows is done, and compared when it is changed, so that of two movers one goes on.

use super::Switched;

/// How far a move has come, by the note in the source's database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is being taken back.
    Aborting,
    /// Rows are copied. Nobody is held.
    Copying,
    /// The tenant may be held, for a while that ends by itself.
    Holding,
    /// It is done. The source keeps the tenant's rows, read-only.
    Kept,
    /// The control store says that the tenant has moved.
    Switched,
    /// The hold is sealed, and a switch may have been asked for.
    Switching,
}

/// One of what settles a move. Each may be done again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Bars the move's placement at the target, and forgets what came.
    Bar,
    /// Drops the target's note.
    DropIn,
    /// Drops the target's note of an earlier move away from it, which this one undid.
    DropKept,
    /// Drops the source's note.
    DropOut,
    /// Places the tenant away at the source, which ends the hold.
    PlaceAway,
    /// Places the tenant at the target.
    PlaceThere,
    /// Ends the hold at the source.
    Release,
}

/// What settles a move next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Ask the control store to close the move.
    Ask,
    /// Do these in order, then change the step if there is one.
    Do(&'static [Effect], Option<Step>),
    /// Nothing: it is over.
    Over,
    /// Change the step.
    Turn(Step),
}

impl Step {
    const ALL: [Self; 6] =
        [Self::Aborting, Self::Copying, Self::Holding, Self::Kept, Self::Switched, Self::Switching];

    /// As it is noted.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Aborting => "aborting",
            Self::Copying => "copying",
            Self::Holding => "holding",
            Self::Kept => "kept",
            Self::Switched => "switched",
            Self::Switching => "switching",
        }
    }

    /// From what is noted.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.word() == word)
    }
}

/// How a move goes on to its end from a step.
pub(super) const fn next(step: Step) -> Next {
    match step {
        // The source goes on first: its tenant waits for nothing that the target does.
        Step::Aborting => Next::Do(&[Effect::Release, Effect::Bar, Effect::DropIn, Effect::DropOut], None),
        // No switch has been asked for, and none will be: who would ask finds another step.
        Step::Copying | Step::Holding => Next::Turn(Step::Aborting),
        Step::Kept => Next::Over,
        // The source is closed last: until then it is held, so that there is no moment with two places.
        Step::Switched => Next::Do(
            &[Effect::PlaceThere, Effect::DropIn, Effect::DropKept, Effect::PlaceAway],
            Some(Step::Kept),
        ),
        Step::Switching => Next::Ask,
    }
}

/// What the control store's word means.
pub(super) const fn answered(word: Switched) -> Step {
    match word {
        Switched::Moved => Step::Switched,
        Switched::Stays => Step::Aborting,
    }
}
