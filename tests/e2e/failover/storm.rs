//! One region after the other is hurt, in any way, and clients go on. `cargo xtask chaos` does it for as long as anybody likes; the test command some
//! times.

use std::time::Duration;

use portolan_foundation::random;
use portolan_tests::clients::Dice;
use portolan_tests::line::{Passage, Weather};
use portolan_tests::node::good;
use portolan_tests::regions::{For, REGIONS, SHARDS};
use tokio::time::Instant;

use super::Play;

/// How often a region is hurt where nobody says for how long: a region that was down is believed to be well only after a minute, and the next time after two.
const TURNS: usize = 1;
/// How long that may take.
const WELL: Duration = Duration::from_mins(4);
/// From one look to the next.
const LOOK: Duration = Duration::from_millis(250);

/// What befalls a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    /// Its gateway, its databases and its voter end.
    All,
    /// Nothing reaches it or comes from it.
    CutOff,
    /// Its databases end.
    Databases,
    /// Others do not reach it, and it reaches them.
    Deaf,
    /// Its gateway ends.
    Gateway,
    /// Its gateway is not scheduled.
    Hangs,
    /// It takes its time to say anything.
    Slow,
    /// Its shards are to be written elsewhere, in an orderly way.
    Switched,
    /// Its voter ends.
    Voter,
}

const HARMS: [Harm; 9] = [
    Harm::All,
    Harm::CutOff,
    Harm::Databases,
    Harm::Deaf,
    Harm::Gateway,
    Harm::Hangs,
    Harm::Slow,
    Harm::Switched,
    Harm::Voter,
];

impl Play {
    async fn harm(&mut self, harm: Harm, region: usize, by: usize) {
        let world = &mut self.world;
        match harm {
            Harm::All => world.kill_region(region).await,
            Harm::CutOff => world.cut_off(region),
            Harm::Databases => world.kill_database(region).await,
            Harm::Deaf => {
                let hole = Weather { passage: Passage::Hole, ..Weather::default() };
                for other in (0..REGIONS.len()).filter(|other| *other != region) {
                    for what in [For::Logs, For::Requests, For::Stores] {
                        world.weather_for(what, region, other, hole);
                    }
                }
            }
            Harm::Gateway => world.kill(region),
            Harm::Hangs => world.stop(region),
            Harm::Slow => {
                let slow = Weather { delay: Duration::from_millis(150), ..Weather::default() };
                for other in (0..REGIONS.len()).filter(|other| *other != region) {
                    for what in [For::Logs, For::Requests, For::Stores] {
                        world.weather_for(what, region, other, slow);
                        world.weather_for(what, other, region, slow);
                    }
                }
            }
            Harm::Switched => {
                let command = ["failover", "switch", "--all", "--to", REGIONS[by], "--why", "a test"];
                good(world.folder_of(by), &command).await;
            }
            Harm::Voter => world.kill_voter(region),
        }
    }

    async fn mend(&mut self, harm: Harm, region: usize) {
        let world = &mut self.world;
        match harm {
            Harm::All => world.revive_region(region).await,
            Harm::CutOff | Harm::Deaf | Harm::Slow => world.heal(),
            Harm::Databases => world.restart_database(region).await,
            Harm::Gateway => world.restart(region).await,
            Harm::Hangs => world.go_on(region),
            Harm::Switched => {}
            Harm::Voter => world.revive_voter(region),
        }
    }

    /// Waits until each region knows of all others that they live, and has what they have.
    async fn is_whole(&self) {
        let stands = async || {
            for region in 0..REGIONS.len() {
                let status = self.world.failover(region).await;
                let healthy = |name: &str| status["regions"][name]["verdict"] == "healthy";
                let led = |shard: &str| {
                    let there = &status["shards"][shard];
                    let whole = |name: &str| there["replicas"][name]["whole"] == true;
                    there["primary"].is_string() && REGIONS.iter().all(|name| whole(name))
                };
                if status["control"] != true
                    || !REGIONS.iter().all(|name| healthy(name))
                    || !SHARDS.iter().all(|shard| led(shard))
                {
                    return false;
                }
            }
            self.world.all_follow().await
        };
        let deadline = Instant::now() + WELL;
        while !stands().await {
            assert!(Instant::now() < deadline, "regions do not stand again:\n{}", self.world.logs());
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn asked(name: &str) -> Option<u64> {
    std::env::var_os(name).map(|value| value.to_str().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_region_after_the_other_is_hurt() {
    let seed = asked("PORTOLAN_CHAOS_SEED").unwrap_or_else(random::u64);
    eprintln!("PORTOLAN_CHAOS_SEED={seed}");
    let mut dice = Dice::new(seed);
    let mut play = Play::with(&mut dice).await;
    let lasts = asked("PORTOLAN_CHAOS_SECONDS").map(Duration::from_secs);
    let mut turns = 0;
    while lasts.map_or(turns < TURNS, |lasts| play.begun.elapsed() < lasts) {
        turns += 1;
        // Mostly one that writes: there is most to lose.
        let shard = SHARDS[dice.below(SHARDS.len())];
        let leader = play.world.led(&[shard], &REGIONS).await[0];
        let region = if dice.below(3) == 0 { dice.below(REGIONS.len()) } else { leader };
        let by = (region + 1 + dice.below(REGIONS.len() - 1)) % REGIONS.len();
        let harm = HARMS[dice.below(HARMS.len())];
        play.say(&format!("{turns}: {harm:?} of {}", REGIONS[region]));
        let hurt = Instant::now();
        play.harm(harm, region, by).await;
        play.go_on().await;
        play.say(&format!("writes went on within {:?}", hurt.elapsed()));
        tokio::time::sleep(dice.millis(0, 3_000)).await;
        play.mend(harm, region).await;
        play.is_whole().await;
        play.say(&format!("all regions stand again after {:?}", hurt.elapsed()));
    }
    play.go_on().await;
    play.end().await;
    eprintln!("{turns} times a region was hurt");
}
