//! A region dies as a whole.

use portolan_tests::regions::{HOME, SHARDS, at};

use super::{OTHERS, Play};

/// Its gateway, its databases and its voter end at once. The others read on, write on, tell what is lost, and count it when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_dies_under_load_and_comes_back() {
    let mut play = Play::start().await;
    let home = at(HOME);
    let died = play.clients.history.now();
    play.world.kill_region(home).await;
    play.say("the region that writes is dead");
    play.reads_go_on(&OTHERS, died).await;
    let told = play.taken_over().await;
    play.go_on().await;
    play.reads_go_on(&OTHERS, died).await;
    let operations = play.clients.history.operations();
    for shard in SHARDS {
        let first = operations.first_write(shard, died, home).unwrap();
        play.say(&format!("the first write of {shard} was done {:?} after that", first - died));
    }

    play.world.revive_region(home).await;
    play.say("it is back");
    play.counted(&told).await;
    play.go_on().await;
    let found = play.end().await;
    play.loss_is_as_told(&told, &found).await;
    for shard in SHARDS {
        assert!(!play.world.is_led(shard, home).await, "nothing goes back by itself");
    }
}
