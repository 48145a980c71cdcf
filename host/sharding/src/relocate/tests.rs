//! Moves: the same cases over both engines, each with databases of its own; and the model of their steps.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::schema::tests::place::{PATIENCE, Place};

mod crashes;
mod moves;
mod replicas;
mod steps;
mod unfit;
mod world;

type Case = (&'static str, fn(Place) -> Pin<Box<dyn Future<Output = ()> + Send>>);

/// Cases by name; the macro keeps both together.
macro_rules! cases {
    ($($module:ident :: $case:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($case)), |place| Box::pin($module::$case(place)))),*]
    };
}

const CASES: &[Case] = cases![
    crashes::a_crash_at_any_point_ends_in_one_place,
    crashes::a_crash_of_an_undoing_ends_in_one_place,
    crashes::an_attempt_that_another_took_over_stops,
    crashes::the_control_store_decides,
    moves::a_long_hold_ends_by_itself,
    moves::a_move_is_undone,
    crashes::what_a_crash_leaves_is_found,
    moves::a_look_changes_nothing,
    moves::a_tenant_moves_while_it_is_written,
    moves::many_rows_go_in_parts,
    moves::open_transactions_of_others_do_not_matter,
    moves::rows_that_refer_to_later_ones_wait,
    moves::there_and_back_again,
    moves::what_differs_is_noticed,
    moves::what_is_written_while_rows_are_compared_is_compared_before_the_hold,
    replicas::a_target_that_may_lose_little_is_copied_first,
    unfit::shards_must_fit,
];

/// How many cases run beside each other: databases wait for disks more than for processors.
const BESIDE: usize = 4;

async fn run(place: Place) {
    let (mut running, mut names, mut failed) = (JoinSet::new(), HashMap::new(), Vec::new());
    let mut rest = CASES.iter();
    loop {
        while running.len() < BESIDE
            && let Some((name, case)) = rest.next()
        {
            let task = running.spawn(timeout(PATIENCE, case(place.clone())));
            names.insert(task.id(), *name);
        }
        let Some(done) = running.join_next_with_id().await else { break };
        let (id, why) = match done {
            Ok((id, done)) => (id, done.err().map(|late| late.to_string())),
            Err(error) => (error.id(), Some(error.to_string())),
        };
        failed.extend(why.map(|why| format!("{}: {why}", names[&id])));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contract_on_sqlite() {
    run(Place::sqlite()).await;
}

/// One cluster, a database for each shard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contract_on_postgres() {
    let place = Place::postgres().await;
    unfit::engines_must_be_the_same(&place).await;
    run(place).await;
}
