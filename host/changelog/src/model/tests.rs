//! The laws of the log, the gate and the fence, over random walks; variants that break them must be caught.

use portolan_core::balance::splitmix;

mod fence;
mod gate;
mod merge;
mod reader;
mod retention;
mod rules;
mod sweep;
pub(crate) mod writer;

/// A seeded stream of choices.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = splitmix(self.0.wrapping_add(0x9e37_79b9_7f4a_7c15));
        self.0 % bound
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, usize::try_from(self.below(at as u64 + 1)).unwrap());
        }
    }
}

/// How many of so many walks break a law.
fn broken(walks: u64, walk: impl Fn(u64) -> Result<(), String>) -> u64 {
    (0..walks).filter(|seed| walk(*seed).is_err()).count() as u64
}

/// No walk breaks a law.
fn hold(walks: u64, walk: impl Fn(u64) -> Result<(), String>) {
    for seed in 0..walks {
        if let Err(why) = walk(seed) {
            panic!("seed {seed}: {why}");
        }
    }
}
