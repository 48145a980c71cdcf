//! Who follows into a copy, and what was said of it.

use std::time::Duration;

use super::capture::{NOTES, notes};
use super::place::Place;
use crate::database::Dialect;

const LONG: Duration = Duration::from_secs(60);

/// A node that starts again, or another one after it, hears what was said of the copy last, and how long ago.
pub(super) async fn what_was_said_outlives_who_said_it(place: Place) {
    let shard = place.replica("eu", NOTES, &[notes()]).await;
    let take = async |node: &str, note: &str| shard.store.take_duty(node, LONG, note).await.unwrap();
    let first = take("one", "all is well").await;
    assert!(first.held && first.note == "all is well", "{first:?}");
    if place.dialect == Dialect::Sqlite {
        return;
    }
    let other = take("two", "").await;
    assert_eq!((other.held, &*other.node, &*other.note), (false, "one", "all is well"));
    let again = take("one", "").await;
    assert!(again.held && again.note == "all is well" && again.age >= other.age, "{again:?}");
    shard.store.leave_duty("one").await.unwrap();
    let next = take("two", "").await;
    assert!(next.held && next.note == "all is well" && next.age >= again.age, "{next:?}");
    take("two", "it lags").await;
    let told = take("one", "").await;
    assert_eq!((told.held, &*told.node, &*told.note), (false, "two", "it lags"));
}
