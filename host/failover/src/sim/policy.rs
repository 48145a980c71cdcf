//! The policies of worlds: the built-in ones, and rogues.

use super::random::Random;
use crate::picture::Picture;
use crate::policies::{Fault, Native};
use crate::proposal::Proposal;

/// A policy, good or bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rogue {
    Empty,
    FlipFlop,
    Native(Native),
    PromoteEverything,
    Random,
    Trap,
}

impl Rogue {
    pub(super) fn draw(random: &mut Random) -> Self {
        match random.below(20) {
            0..8 => Self::Native(Native::Conservative),
            8..10 => Self::Native(Native::Fast),
            10..12 => Self::Native(Native::CapacityAware),
            12 => Self::Native(Native::Manual),
            13 | 14 => Self::Random,
            15 => Self::FlipFlop,
            16 | 17 => Self::PromoteEverything,
            18 => Self::Empty,
            _ => Self::Trap,
        }
    }

    pub(super) fn answer(
        self,
        picture: &Picture,
        random: &mut Random,
    ) -> Result<(Vec<Proposal>, u64), Fault> {
        let regions: Vec<_> = picture.regions.keys().cloned().collect();
        let shards: Vec<_> = picture.shards.keys().cloned().collect();
        let everything = |at: usize| {
            let promote = shards.iter().flat_map(|shard| {
                let to = regions.iter().cycle().skip(at).take(regions.len());
                to.map(move |region| Proposal::Promote { shard: shard.clone(), region: region.clone() })
            });
            let away = regions.iter().zip(regions.iter().cycle().skip(1));
            let shift = away.map(|(region, target)| Proposal::Shift {
                region: region.clone(),
                target: target.clone(),
                percent: 100,
            });
            promote.chain(shift).collect::<Vec<_>>()
        };
        Ok(match self {
            Self::Empty => (Vec::new(), 0),
            Self::FlipFlop => (everything(usize::try_from(picture.now_ms / 500).unwrap() % regions.len()), 0),
            Self::Native(native) => (native.propose(picture), 0),
            Self::PromoteEverything => (everything(0), 0),
            Self::Random if shards.is_empty() => (Vec::new(), 0),
            Self::Random => {
                let mut any = |_| {
                    let (shard, region) = (
                        shards[random.index(shards.len())].clone(),
                        regions[random.index(regions.len())].clone(),
                    );
                    let target = regions[random.index(regions.len())].clone();
                    match random.below(5) {
                        0 => Proposal::Drain { region },
                        1 => Proposal::Hold,
                        2 => Proposal::Promote { shard, region },
                        3 => Proposal::ReadOnly { shard },
                        _ => Proposal::Shift {
                            region,
                            target,
                            percent: u8::try_from(random.below(140)).unwrap(),
                        },
                    }
                };
                ((0..8).map(&mut any).collect(), 0)
            }
            Self::Trap if random.percent(20) => (vec![Proposal::Hold], 0),
            Self::Trap if random.percent(50) => return Err(Fault::Overrun),
            Self::Trap => return Err(Fault::Trap("unreachable".to_owned())),
        })
    }
}
