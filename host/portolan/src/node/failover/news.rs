//! How this node hears that leases and promotions have changed in the control store, so that a promotion's next step waits for no tick.

use std::time::Duration;

use portolan_control::{Error, Store};
use portolan_failover::agent::Event;
use portolan_failover::store::PREFIX;
use portolan_foundation::shutdown::Shutdown;
use tokio::sync::mpsc;

/// How long after the store was lost it is asked for news again; the agent looks by itself meanwhile.
const AGAIN: Duration = Duration::from_secs(1);

/// Tells the agent that entries may have changed, until the end.
///
/// What wakes it: the store's word, and the time after it was lost. What it reads: that word. What it writes: events for the agent. What fails costs
/// time alone, because the agent also looks by itself.
pub(super) async fn hear(store: Store, inbox: mpsc::Sender<Event>, end: Shutdown) {
    loop {
        tokio::select! {
            heard = pass_on(&store, &inbox) => match heard {
                Ok(()) => return,
                Err(error) => tracing::debug!("news of leases are asked for again: {error}"),
            },
            () = end.begun() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = end.begun() => return,
        }
    }
}

/// Passes news on until nobody takes them.
///
/// # Errors
/// When the store is lost.
async fn pass_on(store: &Store, inbox: &mpsc::Sender<Event>) -> Result<(), Error> {
    let mut news = store.register_news(PREFIX).await?;
    // What came before there were news is looked at as well.
    while inbox.send(Event::Changed).await.is_ok() {
        news.changed().await?;
    }
    Ok(())
}
