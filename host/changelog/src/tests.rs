//! The contract of a store: the same cases over both engines, each with databases of its own.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;

use tokio::task::JoinSet;
use tokio::time::timeout;

use place::{PATIENCE, Place};

mod applying;
mod auditing;
mod capture;
mod contents;
mod decoding;
mod duty;
mod fence;
mod lineage;
mod login;
mod moving;
mod place;
mod receiving;
mod retaining;
mod rules;
mod sweeping;
mod tenants;

type Case = (&'static str, fn(Place) -> Pin<Box<dyn Future<Output = ()> + Send>>);

/// Cases by name; the macro keeps both together.
macro_rules! cases {
    ($($module:ident :: $case:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($case)), |place| Box::pin($module::$case(place)))),*]
    };
}

const CASES: &[Case] = cases![
    applying::a_batch_is_applied_once_and_never_echoes,
    applying::a_change_that_the_database_refuses_waits_alone,
    applying::a_change_that_lies_is_not_applied,
    applying::a_dropped_application_leaves_nothing,
    applying::a_large_transaction_becomes_visible_at_once,
    applying::a_lower_epoch_never_overwrites_a_higher,
    applying::any_order_gives_the_same_rows,
    applying::children_and_parents_find_each_other,
    applying::losers_are_kept,
    applying::what_is_deferred_waits_alone_too,
    applying::who_begins_copies_rows_and_follows,
    auditing::what_differs_is_found_and_put_right,
    capture::a_full_disk_is_an_error_and_nothing_else,
    capture::a_lower_sequence_that_commits_later_is_still_read,
    capture::a_reinserted_row_is_above_its_tombstone,
    capture::cascades_are_captured,
    capture::direct_writers_are_captured,
    capture::emptied_and_replaced_tables_are_captured,
    capture::generated_columns_stay_out,
    capture::large_values_stay_whole,
    capture::moved_keys_are_two_rows,
    capture::rows_that_were_there_before_are_adopted,
    capture::statements_outlive_a_change_of_columns,
    capture::tables_must_be_as_they_are_declared,
    capture::tables_of_like_names_are_captured_each,
    capture::triggers_are_made_when_they_must_be,
    capture::values_have_one_text,
    contents::a_copy_goes_back_to_where_it_is_the_writers,
    contents::nothing_of_content_comes_where_it_is_written_or_sealed,
    duty::what_was_said_outlives_who_said_it,
    fence::a_commit_after_the_lease_is_unknown,
    fence::a_file_in_place_of_another_is_noticed,
    fence::a_lease_is_renewed_while_writers_have_every_connection,
    fence::a_log_knows_what_it_has_reached,
    fence::another_regions_database_is_a_copy_here,
    fence::statements_are_kept_prepared_within_bounds,
    fence::statements_end_in_time,
    fence::a_copy_of_a_database_is_another_log,
    fence::a_rewound_log_is_closed,
    fence::demotion_waits_for_writers_and_ends_them,
    fence::epochs_only_rise,
    fence::members_write_without_the_lease,
    fence::old_snapshots_do_not_slip_through,
    fence::roles_must_be_what_they_are_for,
    fence::the_deadline_holds_at_commit,
    fence::the_deadline_stops_direct_writers,
    fence::the_loop_flag_is_the_appliers_alone,
    lineage::a_copy_that_had_more_takes_it_back,
    lineage::a_sealed_primary_writes_no_more,
    lineage::an_epoch_that_is_given_out_twice_is_told,
    lineage::what_is_not_kept_any_more_is_copied_anew,
    lineage::what_only_a_dead_primary_had_is_stranded_and_kept,
    lineage::what_two_lost_epochs_wrote_goes_back,
    moving::a_hold_ends_by_itself_unless_it_is_sealed,
    moving::a_tenant_is_taken_in_under_its_stamp,
    moving::rows_come_in_the_order_of_their_tables,
    moving::tenants_are_listed_where_they_live,
    moving::what_is_open_lies_after_what_is_settled,
    receiving::what_nobody_has_received_is_as_old_as_its_oldest,
    receiving::what_others_have_is_heard_or_read,
    retaining::a_log_goes_when_all_have_it,
    retaining::a_peer_that_is_too_far_behind_loses_its_place,
    retaining::a_peers_word_is_held_against_the_log,
    retaining::a_piece_that_is_missing_stops_nobody,
    retaining::nobody_waits_for_a_trim,
    retaining::what_was_trimmed_of_other_epochs_and_logs_is_told_apart,
    rules::a_policy_makes_one_row_of_two,
    rules::losers_are_read_by_page,
    rules::regions_end_alike_by_each_rule,
    rules::tables_and_writes_must_fit_their_rule,
    rules::triggers_keep_the_marks_of_the_model,
    rules::what_lost_is_put_back,
    rules::what_waits_says_why_and_is_discarded,
    sweeping::a_young_tombstone_stays,
    sweeping::tombstones_go_when_all_have_heard,
    tenants::a_forgotten_tenant_leaves_nothing,
    tenants::a_held_tenant_is_not_written,
    tenants::one_of_two_moves_holds,
    tenants::refusals_name_the_rule,
    tenants::rows_are_reached_under_their_tenant_alone,
    tenants::what_is_written_has_a_position,
];

const DECODING: &[Case] = cases![
    decoding::a_large_transaction_is_read_whole_or_not,
    decoding::a_shard_goes_over_and_back,
    decoding::a_slot_gives_way_to_the_disk,
    decoding::a_slot_goes_with_its_shard,
    decoding::a_token_is_where_the_record_will_be,
    decoding::what_others_emit_is_no_record,
    decoding::who_follows_a_lost_slot_begins_anew,
];

/// How many cases run beside each other: databases wait for disks more than for processors.
const BESIDE: usize = 4;

async fn run(place: Place, cases: &[Case]) {
    let (mut running, mut names, mut failed) = (JoinSet::new(), HashMap::new(), Vec::new());
    let mut rest = cases.iter();
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
    assert!(failed.is_empty(), "on {:?}:\n{}", place.dialect, failed.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contract_on_sqlite() {
    run(Place::sqlite(), CASES).await;
}

/// One cluster, a database for each shard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contract_on_postgres() {
    run(Place::postgres().await, CASES).await;
}

/// Cases of batches that have come, whose makers do not matter.
const OF_BATCHES: [&str; 3] = ["applying::", "auditing::", "rules::"];

/// The same, with logs that come out of the write-ahead log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contract_on_postgres_that_decodes() {
    let of_logs = |(name, _): &&Case| !OF_BATCHES.iter().any(|module| name.starts_with(module));
    let cases: Vec<Case> = CASES.iter().filter(of_logs).copied().collect();
    run(Place::logical().await, &cases).await;
}

/// One stops the server, and comes when the others have ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_that_are_decoded() {
    let place = Place::logical().await;
    run(place.clone(), DECODING).await;
    decoding::what_was_committed_before_a_crash_comes_once(place).await;
    decoding::a_server_says_what_it_lacks(Place::postgres().await).await;
}

/// A promotion stops the server, so that this has one of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_begins_another_log() {
    fence::a_promotion_begins_another_log(Place::postgres().await).await;
}
