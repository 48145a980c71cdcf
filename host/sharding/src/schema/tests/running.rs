//! Several shards, several runs, locks of others.

use std::sync::Arc;
use std::time::Duration;

use portolan_changelog::Purpose;

use super::place::{Direct, NOTES, Place, Watcher, applied, apply, migrations, tables};
use crate::schema::{Error, Event, Fleet, Options};

const TITLE: (&str, &str) = ("add_title", "ALTER TABLE notes ADD COLUMN title text");

pub(crate) async fn shards_come_to_one_version(place: Place) {
    let shards = [place.primary().await, place.replica().await, place.primary().await];
    let (all, tables) = (migrations(&[NOTES, TITLE]), tables(&["notes"]));
    let fleet = Fleet { elsewhere: &[], migrations: &all, shards: &shards, tables: &tables };
    assert!(fleet.status().await.iter().all(|(_, status)| status.as_ref().unwrap().pending == [1, 2]));
    let watcher = Watcher::default();
    let options = Options { canary: Some(shards[1].name.clone()), ..Options::default() };
    // Callers run it on threads of their own.
    fn sent<T: Send>(future: T) -> T {
        future
    }
    let report = sent(fleet.apply(&options, &watcher)).await.unwrap();
    assert!(report.is_done() && report.shards.len() == 3, "{report:#?}");
    assert!(report.shards.iter().all(|shard| shard.ran == [1, 2]));
    // The canary was through before any other began.
    let seen = watcher.seen.lock().unwrap().clone();
    let canary = seen.iter().take_while(|(shard, _)| *shard == shards[1].name).count();
    assert_eq!(seen[canary - 1].1, Event::Declared { version: 2 });
    assert_eq!(seen.len(), 3 * canary);
    for (_, status) in fleet.status().await {
        let status = status.unwrap();
        assert_eq!((status.version, status.declared, status.pending.len()), (2, 2, 0));
        assert_eq!((status.half_done, status.mismatches), (None, Vec::new()));
    }
    let report = apply(&all, &shards, &tables).await;
    assert!(report.is_done() && report.shards.iter().all(|shard| shard.ran.is_empty()));
    let nobody = Options { canary: Some(portolan_core::ids::ShardName::new("nobody").unwrap()), ..options };
    assert!(fleet.apply(&nobody, &Watcher::default()).await.is_err());
}

pub(crate) async fn a_failing_canary_stops_all_others(place: Place) {
    let shards = [place.primary().await, place.primary().await];
    let all = migrations(&[
        NOTES,
        ("break_it", "CREATE TABLE tags (id bigint);\n\nALTER TABLE nothing ADD COLUMN x text"),
    ]);
    let tables = tables(&["notes"]);
    let report = apply(&all, &shards, &tables).await;
    assert!(matches!(report.shards[0].error, Some(Error::Statement { line: 3, .. })), "{report:?}");
    assert_eq!(report.shards[0].ran, [1]);
    assert!(!report.shards[1].begun && !report.is_done());
    let fleet = Fleet { elsewhere: &[], migrations: &all, shards: &shards, tables: &tables };
    let versions: Vec<_> =
        fleet.status().await.into_iter().map(|(_, status)| status.unwrap().version).collect();
    assert_eq!(versions, [1, 0]);
    // Nothing of the failed one is left.
    assert_eq!(shards[0].store.missing(&super::place::tables(&["tags"])).await.unwrap().len(), 1);
}

pub(crate) async fn locks_are_tried_for_and_left(place: Place) {
    let shards = [place.primary().await];
    let tables = tables(&["notes"]);
    applied(&migrations(&[NOTES]), &shards, &tables).await;
    let all = migrations(&[NOTES, TITLE]);
    let fleet = Fleet { elsewhere: &[], migrations: &all, shards: &shards, tables: &tables };
    let hold = async || {
        let mut holder = Direct::of(&shards[0]).await.0;
        holder.begin(Purpose::Rows).await.unwrap();
        holder.execute(place.pick("SELECT 1", "LOCK TABLE notes IN ACCESS SHARE MODE"), &[]).await.unwrap();
        holder
    };
    let options = Options { locks: vec![Duration::from_millis(20); 3], ..Options::default() };
    let stays = hold().await;
    let watcher = Watcher::default();
    let report = fleet.apply(&options, &watcher).await.unwrap();
    assert!(matches!(report.shards[0].error, Some(Error::Busy { version: 2, .. })), "{report:?}");
    let retries = watcher.events().into_iter().filter(|event| matches!(event, Event::Retry { .. })).count();
    assert_eq!(retries, 2);
    // Now it is let go at the first pause.
    let watcher = Watcher { holder: Arc::new(tokio::sync::Mutex::new(Some(stays))), ..Watcher::default() };
    let report = fleet.apply(&options, &watcher).await.unwrap();
    assert!(report.is_done(), "{report:#?}");
    assert!(watcher.events().iter().any(|event| matches!(event, Event::Retry { .. })));
}

pub(crate) async fn two_runs_do_not_meet(place: Place) {
    let shards = [place.primary().await];
    let (all, tables) = (migrations(&[NOTES, TITLE]), tables(&["notes"]));
    let (one, other) = tokio::join!(apply(&all, &shards, &tables), apply(&all, &shards, &tables));
    for report in [one, other] {
        assert!(report.is_done(), "{report:#?}");
    }
    let history = Direct::of(&shards[0]).await.history().await;
    assert_eq!(history, ["1 create_notes expand ran 1", "2 add_title expand ran 1"]);
    if place.is_postgres() {
        let mut other = Direct::of(&shards[0]).await;
        assert!(other.0.alone().await.unwrap());
        let fleet = Fleet { elsewhere: &[], migrations: &all, shards: &shards, tables: &tables };
        let options = Options { locks: vec![Duration::from_millis(20)], ..Options::default() };
        let report = fleet.apply(&options, &Watcher::default()).await.unwrap();
        assert!(matches!(report.shards[0].error, Some(Error::Running)), "{report:?}");
    }
}
