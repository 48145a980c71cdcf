//! Tells a log at once what a follower of it has received, for whoever waits for that, and has the log read at once where somebody does.
//!
//! What wakes it: the follower's words. What it reads: those. What it writes: what the log knows of the follower, in memory alone. Nothing
//! here fails; when the link ends, the log knows only what was written down.

use std::convert::Infallible;
use std::time::Duration;

use portolan_changelog::Wakes;
use portolan_core::ids::RegionName;
use tokio::sync::watch;

use crate::ends::Log;
use crate::wire::Has;

/// A follower that is heard here.
struct Heard<'a, L: Log> {
    follower: &'a RegionName,
    log: &'a L,
}

impl<L: Log> Drop for Heard<'_, L> {
    fn drop(&mut self) {
        self.log.unheard(self.follower);
    }
}

/// Tells what a follower of this log says that it has, until its link ends.
pub(crate) async fn tell<L: Log>(
    log: &L,
    follower: &RegionName,
    mut news: watch::Receiver<Option<Has>>,
) -> Infallible {
    let heard = Heard { follower, log };
    // What it says comes after its welcome: it is of the log that is there.
    let mut identity = None;
    while news.changed().await.is_ok() {
        if identity.is_none() {
            identity = heard.log.identity().await.ok();
        }
        let has = *news.borrow_and_update();
        if let (Some(identity), Some(has)) = (&identity, has) {
            heard.log.heard(follower, identity, has.received);
        }
    }
    std::future::pending().await
}

/// Pauses before the next look into a log, and less where somebody waits for what is there. Says whether it was that.
pub(crate) async fn pause(wakes: &mut Option<Wakes>, pause: Duration) -> bool {
    let Some(wakes) = wakes else {
        tokio::time::sleep(pause).await;
        return false;
    };
    // Both are cancel-safe.
    tokio::select! {
        biased;
        () = wakes.next() => true,
        () = tokio::time::sleep(pause) => false,
    }
}
