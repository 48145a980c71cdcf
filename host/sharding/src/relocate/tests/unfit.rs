//! What is refused before anything is done.

use portolan_core::ids::ResidencyName;
use portolan_core::log::Epoch;
use portolan_core::tenant_table::{TenantTable, Writers};

use super::world::{Control, SCHEMA, Watcher, acme, direct, seat, seat_with};
use crate::relocate::{Error, Relocation, Seat};
use crate::schema::tests::place::{Place, table};

async fn refused(from: &Seat, to: &Seat, control: &Control, words: &str) {
    let (tenant, watch) = (acme(), Watcher::default());
    let error =
        Relocation { from, switch: control, tenant: &tenant, to, watch: &watch }.run().await.unwrap_err();
    assert!(matches!(error, Error::Unfit(_)), "{error:?}");
    assert!(error.to_string().contains(words), "{error}");
    for seat in [from, to] {
        assert_eq!(seat.store.moves(None).await.unwrap(), []);
    }
}

pub(super) async fn shards_must_fit(place: Place) {
    let (one, two) = (seat(&place).await, seat(&place).await);
    let control = Control::new(&one);
    refused(&one, &one, &control, "same shard").await;
    refused(&two, &one, &control, "it is on").await;
    let eu = Some(ResidencyName::new("eu").unwrap());
    refused(&one, &Seat { residency: eu, ..two.clone() }, &control, "residency").await;
    refused(&one, &Seat { epoch: Epoch(2), ..two.clone() }, &control, "not open under epoch 2").await;
    let notes = || vec![table("notes")];
    let fewer = seat_with(&place, &SCHEMA, notes()).await;
    refused(&one, &fewer, &control, "different tables").await;
    let wider = SCHEMA[0].replace("body text", "body text, more text");
    let wider = seat_with(&place, &[&wider, SCHEMA[1]], vec![table("notes"), table("lines")]).await;
    refused(&one, &wider, &control, "different tables or columns").await;
    let shared = || vec![TenantTable { writers: Writers::Members, ..table("notes") }];
    let (from, to) = (seat_with(&place, &SCHEMA, shared()).await, seat_with(&place, &SCHEMA, shared()).await);
    refused(&from, &to, &Control::new(&from), "all members write `notes`").await;
    direct(&two).await.ok("INSERT INTO notes VALUES ('acme', 1, 'stray')").await;
    refused(&one, &two, &control, "has rows of it").await;
    two.store.demote(Epoch(1), std::time::Duration::from_millis(300)).await.unwrap();
    refused(&one, &two, &control, "not open").await;
}

/// Rows have another text in each engine.
pub(super) async fn engines_must_be_the_same(postgres: &Place) {
    let sqlite = Place::sqlite();
    let (one, two) = (seat(&sqlite).await, Seat { ..seat(postgres).await });
    // Names are counted in each place.
    let two = Seat { shard: portolan_core::ids::ShardName::new("other").unwrap(), ..two };
    refused(&one, &two, &Control::new(&one), "different engines").await;
    refused(&two, &one, &Control::new(&two), "different engines").await;
}
