//! A look at databases that are to be shards.

use portolan_changelog::{Engine, Error, Store};
use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::Epoch;

use super::{Vacancy, look};
use crate::schema::tests::place::{Direct, NOTES, Place, applied, migrations, tables};
use crate::schema::{Copy, Shard};

pub(crate) async fn a_database_is_vacant_until_somebody_writes(place: Place) {
    let (engine, tables) = (place.database().await, tables(&["notes"]));
    assert_eq!(look(&engine, &tables).await.unwrap(), Vacancy::default());
    if let Engine::Sqlite(path) = &engine {
        assert!(!path.exists(), "a look leaves no trace");
        let nowhere = Engine::Sqlite(path.with_file_name("nowhere").join("shard.db"));
        assert!(matches!(look(&nowhere, &tables).await, Err(Error::Away(_))));
    }

    let store = Store::open(&engine, RegionName::new("eu").unwrap()).await.unwrap();
    let deadline = store.clock().await.unwrap() + 3_600_000_000;
    store.begin_epoch(Epoch(1), deadline).await.unwrap();
    let shard = Shard { copy: Copy::Primary, name: ShardName::new("s-9000").unwrap(), store };
    applied(&migrations(&[NOTES]), std::slice::from_ref(&shard), &tables).await;
    let found = look(&engine, &tables).await.unwrap();
    assert!(found.is_vacant() && found.schema == Some(1), "{found:?}");

    let mut writer = Direct::of(&shard).await;
    writer.ok("INSERT INTO notes VALUES ('acme', 1, 'one')").await;
    let found = look(&engine, &tables).await.unwrap();
    assert_eq!(found.occupied.iter().map(ToString::to_string).collect::<Vec<_>>(), ["notes"]);
}
