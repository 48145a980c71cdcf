//! The steps as a small world: each mover's death, each answer of the control store, and two places that are never both open.

use crate::relocate::Switched;
use crate::relocate::model::{Effect, Next, Step, answered, next};

/// What became of the question to switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Done,
    Late,
    Lost,
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    None,
    Sealed,
    Timed,
}

/// All that the databases and the control store know.
#[derive(Clone, Copy, Debug)]
struct World {
    away: bool,
    barred: bool,
    closed: bool,
    hold: Hold,
    moved: bool,
    note: Option<Step>,
    /// A switch that has not arrived.
    pending: bool,
    there: bool,
}

/// What a mover does, in order.
const FORWARD: [Do; 6] = [Do::Note, Do::Turn, Do::Hold, Do::Seal, Do::Ask, Do::Settle];

#[derive(Clone, Copy, Debug)]
enum Do {
    Ask,
    Hold,
    Note,
    Seal,
    Settle,
    Turn,
}

impl World {
    const START: Self = Self {
        away: false,
        barred: false,
        closed: false,
        hold: Hold::None,
        moved: false,
        note: None,
        pending: false,
        there: false,
    };

    /// Never both places; and what the source takes after the switch would be lost.
    fn check(&self, trace: &str) {
        let here = !self.away && self.hold == Hold::None;
        assert!(!(here && self.there), "{trace}: both places: {self:?}");
        assert!(!(here && self.moved), "{trace}: the source goes on after the switch: {self:?}");
        assert!(!self.there || self.moved, "{trace}: the target goes on before the switch: {self:?}");
    }

    fn arrive(&mut self) {
        if self.pending && !self.closed {
            self.moved = true;
        }
        self.pending = false;
    }

    fn forward(&mut self, what: Do, asked: Asked) {
        match what {
            Do::Note => self.note = Some(Step::Copying),
            Do::Turn => self.note = Some(Step::Holding),
            Do::Hold => self.hold = Hold::Timed,
            Do::Seal => (self.hold, self.note) = (Hold::Sealed, Some(Step::Switching)),
            Do::Ask => match asked {
                Asked::Done => self.moved = true,
                Asked::Late => self.pending = true,
                Asked::Lost | Asked::Refused => {}
            },
            Do::Settle => {}
        }
    }

    fn act(&mut self, effect: Effect) {
        match effect {
            Effect::Bar => self.barred = true,
            Effect::DropIn | Effect::DropKept => {}
            Effect::DropOut => self.note = None,
            Effect::PlaceAway => (self.away, self.hold) = (true, Hold::None),
            Effect::PlaceThere => self.there = !self.barred,
            Effect::Release => self.hold = Hold::None,
        }
    }

    /// Settles, and dies after so many changes. Returns whether it came to the end.
    fn settle(&mut self, mut left: usize, trace: &str) -> bool {
        let mut alive = |world: &Self| {
            world.check(trace);
            left = left.saturating_sub(1);
            left > 0
        };
        loop {
            let Some(step) = self.note else { return true };
            match next(step) {
                Next::Over => return true,
                Next::Turn(to) => self.note = Some(to),
                Next::Ask => {
                    self.closed |= !self.moved;
                    let word = if self.moved { Switched::Moved } else { Switched::Stays };
                    if !alive(self) {
                        return false;
                    }
                    self.note = Some(answered(word));
                }
                Next::Do(effects, then) => {
                    for effect in effects {
                        self.act(*effect);
                        if !alive(self) {
                            return false;
                        }
                    }
                    match then {
                        Some(to) => self.note = Some(to),
                        None => return true,
                    }
                }
            }
            if !alive(self) {
                return false;
            }
        }
    }
}

#[test]
fn every_death_and_every_answer_end_in_one_place() {
    let mut ends = 0;
    for asked in [Asked::Done, Asked::Late, Asked::Lost, Asked::Refused] {
        for died in 0..=FORWARD.len() {
            for again in 1..12 {
                for arrives in 0..3 {
                    let trace =
                        format!("{asked:?}, mover died at {died}, next at {again}, arrives {arrives}");
                    let mut world = World::START;
                    for what in FORWARD.into_iter().take(died) {
                        world.forward(what, asked);
                        world.check(&trace);
                    }
                    // Time passes between one and the next: a hold that ends by itself has ended, a switch may arrive.
                    if world.hold == Hold::Timed {
                        world.hold = Hold::None;
                    }
                    for (at, left) in [again, 99].into_iter().enumerate() {
                        if arrives == at {
                            world.arrive();
                        }
                        world.check(&trace);
                        let over = world.settle(left, &trace);
                        assert!(over || left == again, "{trace}: it does not end");
                    }
                    world.arrive();
                    world.check(&trace);
                    let here = !world.away && world.hold == Hold::None;
                    assert!(here != world.there, "{trace}: in neither place: {world:?}");
                    assert_eq!(world.there, world.moved, "{trace}");
                    ends += 1;
                }
            }
        }
    }
    assert_eq!(ends, 4 * 7 * 11 * 3);
}

#[test]
fn steps_have_one_word_each() {
    for step in [Step::Aborting, Step::Copying, Step::Holding, Step::Kept, Step::Switched, Step::Switching] {
        assert_eq!(Step::of(step.word()), Some(step));
    }
    assert_eq!(Step::of("elsewhere"), None);
}
