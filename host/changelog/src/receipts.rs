//! What other regions have received of this log, as this process knows it: what it heard itself, at once, and what the database has
//! written down, by others of its region too.
//!
//! What a region says is heard where its link ends, and written down only now and then ([`Store::peer_acknowledges`]). Who waits for it
//! watches here, and has the database looked at now and then: the link may end at another node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use portolan_core::ids::RegionName;
use portolan_core::log::{Identity, Position};
use portolan_core::loss::Look;
use portolan_core::time::Moment;
use tokio::sync::watch;

use crate::database::{Row, Session};
use crate::defaults::{LOG_AGE_MIN, RECEIPTS_LOOK};
use crate::error::Error;
use crate::model::peer::Peer;
use crate::peers::peers;
use crate::store::{Role, Store, identity_now, trimmed};

/// What is known. Clones of a store share it.
#[derive(Debug, Default)]
pub(crate) struct Receipts {
    known: watch::Sender<Known>,
    /// When the database was looked at last.
    looked: Mutex<Option<Moment>>,
    /// Somebody waits for what is in the log now.
    wanted: watch::Sender<()>,
}

/// What other regions have received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    /// By links that end here, and of which log.
    heard: BTreeMap<RegionName, (Identity, Position)>,
    /// By the last look into the database, of the log that it has.
    noted: BTreeMap<RegionName, Position>,
}

/// Which regions have received what. Positions of another lease may be of another log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received(pub BTreeMap<RegionName, Position>);

/// Wakes who reads the log for other regions.
#[derive(Debug)]
pub struct Wakes(watch::Receiver<()>);

impl Wakes {
    /// Waits until somebody waits for what is in the log now.
    ///
    /// # Cancel safety
    /// Cancel-safe: a wish that was not seen is one the next time.
    pub async fn next(&mut self) {
        // The sender lives as long as the store, whose log is read.
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// Sees what other regions have received, as it is heard.
#[derive(Debug)]
pub struct Watching(watch::Receiver<Known>);

impl Known {
    fn received(&self) -> Received {
        let mut all = self.noted.clone();
        for (region, (_, heard)) in &self.heard {
            let known = all.entry(region.clone()).or_default();
            // By epoch first: what was noted before a lease changed is less than what is heard now.
            *known = (*known).max(*heard);
        }
        Received(all)
    }

    /// The furthest that one of these regions has received of a log. What is heard of one that has lost its place says nothing.
    fn best(&self, log: &Identity, others: &BTreeSet<RegionName>, peers: &[Peer]) -> Position {
        let placed = peers.iter().filter(|peer| peer.holds(log) && others.contains(&peer.name));
        let received = placed.map(|peer| match self.heard.get(&peer.name) {
            Some((of, heard)) if of == log => peer.received.max(*heard),
            _ => peer.received,
        });
        received.max().unwrap_or_default()
    }
}

impl Watching {
    /// What has been received.
    pub fn now(&mut self) -> Received {
        self.0.borrow_and_update().received()
    }

    /// Waits for news.
    ///
    /// # Cancel safety
    /// Cancel-safe: news that were not seen are news the next time.
    pub async fn changed(&mut self) {
        // The sender lives as long as the store, whose work this is.
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Store {
    /// A region says over a link that ends here what it has received of this log.
    pub fn heard(&self, region: &RegionName, identity: &Identity, received: Position) {
        self.receipts().known.send_if_modified(|known| {
            let now = (identity.clone(), received);
            let before = known.heard.get(region);
            let news = before != Some(&now);
            if news {
                known.heard.insert(region.clone(), now);
            }
            news
        });
    }

    /// A region is not heard here any more: what it has is for the database to say.
    pub fn unheard(&self, region: &RegionName) {
        self.receipts().known.send_if_modified(|known| known.heard.remove(region).is_some());
    }

    /// Has those who read the log for other regions from this process look at once: somebody waits for them.
    pub fn wake_readers(&self) {
        self.receipts().wanted.send_replace(());
    }

    /// Wakes a reader of the log.
    #[must_use]
    pub fn wakes(&self) -> Wakes {
        Wakes(self.receipts().wanted.subscribe())
    }

    /// Watches what other regions have received. What only other nodes have heard is there after [`Self::look_at_receipts`].
    #[must_use]
    pub fn watch_receipts(&self) -> Watching {
        Watching(self.receipts().known.subscribe())
    }

    /// Looks at what the database has written down of what other regions have received, unless somebody did so a moment ago.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn look_at_receipts(&self, now: Moment) -> Result<(), Error> {
        if !self.receipts().is_due(now, RECEIPTS_LOOK) {
            return Ok(());
        }
        let mut session = self.acquire(Role::Owner).await?;
        let log = identity_now(&mut session).await?;
        let peers = peers(&mut session).await?;
        drop(session);
        let noted = peers.into_iter().filter(|peer| peer.holds(&log)).map(|peer| (peer.name, peer.received));
        let noted = noted.collect();
        self.receipts().known.send_if_modified(|known| {
            let news = known.noted != noted;
            known.noted = noted;
            news
        });
        Ok(())
    }

    /// Looks for how long the shard is exposed: since when there are records that none of these regions has received.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn look_at_exposure(&self, others: &BTreeSet<RegionName>) -> Result<Look, Error> {
        let mut session = self.acquire(Role::Owner).await?;
        let log = identity_now(&mut session).await?;
        let peers = peers(&mut session).await?;
        // Its value is gone before the next await.
        let best = self.receipts().known.borrow().best(&log, others, &peers);
        let trimmed = trimmed(&mut session).await?;
        drop(session);
        let mut session = self.along_the_log().await?;
        let (oldest_us, now_us) = oldest_after(&mut session, best).await?;
        session.rollback().await?;
        let trimmed_age = (trimmed > best).then_some(LOG_AGE_MIN);
        Ok(Look { oldest_us, trimmed_age, now_us })
    }
}

impl Receipts {
    fn is_due(&self, now: Moment, every: Duration) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let due = looked.is_none_or(|looked| now.since(looked) >= every);
        if due {
            *looked = Some(now);
        }
        due
    }
}

/// When the first record after a position was written, and the time, both by the database's clock.
async fn oldest_after(session: &mut Session, at: Position) -> Result<(Option<u64>, u64), Error> {
    let sql = "SELECT at_us FROM portolan_log WHERE (epoch, tx, seq) > ($1, $2, $3) ORDER BY epoch, tx, seq LIMIT 1";
    let args = [at.epoch.0.into(), at.transaction.into(), at.sequence.into()];
    let oldest = session.query(sql, &args).await?;
    let oldest_us = oldest.first().map(|row: &Row| row.number(0)).transpose()?;
    let now_us = session.one("SELECT {now}", &[]).await?.number(0)?;
    Ok((oldest_us, now_us))
}
