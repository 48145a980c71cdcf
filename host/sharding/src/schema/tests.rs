//! Migrations: what a folder may hold, and the same cases over both engines, each with databases of its own.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::adopt::tests as adopt;
use crate::vacancy::tests as vacancy;
use place::{PATIENCE, Place};

mod crashes;
mod folder;
mod gates;
pub(crate) mod place;
mod rows;
mod running;

type Case = (&'static str, fn(Place) -> Pin<Box<dyn Future<Output = ()> + Send>>);

/// Cases by name; the macro keeps both together.
macro_rules! cases {
    ($($module:ident :: $case:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($case)), |place| Box::pin($module::$case(place)))),*]
    };
}

const CASES: &[Case] = cases![
    crashes::a_crash_at_any_point_is_gone_on_from,
    adopt::a_good_database_may_be_adopted,
    adopt::a_look_leaves_no_trace,
    adopt::bad_databases_are_told,
    adopt::large_tables_are_adopted_while_others_write,
    adopt::rows_of_no_tenant_are_refused,
    crashes::an_invalid_index_is_made_again,
    gates::a_baseline_is_noted_and_not_run,
    gates::a_changed_file_is_refused,
    gates::a_compensation_takes_a_version_back,
    gates::a_contraction_waits_for_all,
    gates::plans_say_what_is_locked,
    rows::a_backfill_is_told_by_the_log,
    rows::a_backfill_runs_at_the_primary_alone,
    rows::captured_tables_stay_captured,
    rows::rows_are_not_changed_unseen,
    running::a_failing_canary_stops_all_others,
    running::locks_are_tried_for_and_left,
    running::shards_come_to_one_version,
    running::two_runs_do_not_meet,
    vacancy::a_database_is_vacant_until_somebody_writes,
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
    run(Place::postgres().await).await;
}
