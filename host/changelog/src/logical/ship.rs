//! Shipping: frames of a slot become rows of the log.
//!
//! What wakes it: a frame, or the time at which what it has is to be saved, or at which the horizon must move although nobody writes. What it reads: the
//! slot. What it writes: the log, how far it has come, and messages that say no more than the time. On failure it ends with why; whoever starts it
//! again goes on from what was saved, and records that were saved of a transaction that was not seen whole come again and change nothing.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::Capture;
use super::pgoutput::{Decoded, Frame, Lsn, Malformed, Message};
use super::slot::Ready;
use super::stream::Stream;
use crate::database::Value;
use crate::defaults::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, BEAT_FIRST, BEAT_IDLE, SHIP_GATHER, SHIP_LOOK};
use crate::error::Error;
use crate::store::{Role, Store};

/// A message's parts are the log's columns, in this order; a record that is there already was shipped before.
const INSERT: &str = "INSERT INTO portolan.log (epoch, tx, seq, at_us, tenant, placement, schema, kind, table_name, key, row, \
    version_epoch, v, origin, replaces_epoch, replaces_v, replaces_origin, marks, piece) \
    SELECT (e -> 0)::bigint, (e -> 1)::bigint, (e -> 2)::bigint, (e -> 3)::bigint, e ->> 4, (e -> 5)::bigint, (e -> 6)::bigint, \
    e ->> 7, e ->> 8, e ->> 9, nullif(e -> 10, 'null'), (e ->> 11)::bigint, (e ->> 12)::bigint, e ->> 13, (e ->> 14)::bigint, \
    (e ->> 15)::bigint, e ->> 16, nullif(e -> 17, 'null'), (e -> 18)::smallint \
    FROM jsonb_array_elements($1::jsonb) e ON CONFLICT DO NOTHING";

const MOVE_ON: &str = "UPDATE portolan.shipped SET lsn = '0/0'::pg_lsn + $1::numeric, horizon = greatest(horizon, $2), \
    at_us = greatest(at_us, $3)";

impl Store {
    /// Does this database's log come out of its write-ahead log, so that somebody must [`ship`](Self::ship) it?
    #[must_use]
    pub fn ships(&self) -> bool {
        self.chosen() == Capture::Logical
    }

    /// Ships records into the log, until something fails: start it again after a moment. While another process does, it waits for that one's end.
    /// Where triggers write into the log themselves, there is nothing to do.
    ///
    /// # Errors
    /// When the database does not answer, or the slot cannot be used, with what to do.
    ///
    /// # Cancel safety
    /// Nothing is lost: what was not saved comes again.
    pub async fn ship(&self) -> Result<(), Error> {
        if self.ships() { self.ship_on().await } else { Ok(()) }
    }

    pub(crate) async fn ship_on(&self) -> Result<(), Error> {
        let ready = loop {
            match self.ready_to_ship().await? {
                Some(ready) => break ready,
                None => tokio::time::sleep(SHIP_LOOK).await,
            }
        };
        Box::pin(self.ship_from(&ready)).await
    }

    async fn ship_from(&self, ready: &Ready) -> Result<(), Error> {
        let login = self.pool(Role::Applier).login();
        let login = login.ok_or_else(|| Error::Damaged("a file has no slots".to_owned()))?;
        let mut stream = Stream::open(&login.pool().connect_options(), &ready.slot, ready.after).await?;
        let mut load = Load::new(&ready.word, Instant::now());
        loop {
            match timeout(load.pause(Instant::now()), stream.next()).await {
                Ok(frame) => match load.take(&frame?, Instant::now())? {
                    Wants::Nothing => {}
                    Wants::Reply => stream.confirm(load.saved.unwrap_or(ready.after)).await?,
                },
                Err(_) if load.is_empty() => self.beat(&mut load).await?,
                Err(_) => {}
            }
            if load.is_due(Instant::now()) {
                self.save(&mut load).await?;
                stream.confirm(load.saved.unwrap_or(ready.after)).await?;
            }
        }
    }

    async fn beat(&self, load: &mut Load) -> Result<(), Error> {
        let mut session = self.acquire(Role::Applier).await?;
        session.execute("SELECT portolan.beat()", &[]).await?;
        load.has_beaten(Instant::now());
        Ok(())
    }

    /// Puts what has come into the log, with how far that is: all of it, or nothing.
    async fn save(&self, load: &mut Load) -> Result<(), Error> {
        let mut session = self.begin(Role::Applier).await?;
        if load.records > 0 {
            session.execute(INSERT, &[Value::Text(format!("[{}]", load.text))]).await?;
        }
        if let Some(whole) = load.whole {
            let at = [whole.end.0.into(), whole.horizon.into(), whole.at_us.into()];
            session.execute(MOVE_ON, &at).await?;
        }
        session.commit().await?;
        load.has_saved();
        Ok(())
    }
}

/// What a frame asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wants {
    Nothing,
    Reply,
}

/// How far transactions have come whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Whole {
    end: Lsn,
    horizon: u64,
    at_us: u64,
}

/// What has come of a slot and is not saved yet, and when what is next.
#[derive(Debug)]
struct Load {
    word: String,
    /// Records, as parts of an array of JSON.
    text: String,
    records: usize,
    /// Of transactions that have ended.
    whole: Option<Whole>,
    /// What messages of the transaction that is being told say of horizon and time.
    open: Option<(u64, u64)>,
    /// The highest transaction that has brought a record, and up to where the log may be read.
    newest: u64,
    horizon: u64,
    saved: Option<Lsn>,
    /// Since when something waits to be saved.
    since: Option<Instant>,
    /// When the last message came or was sent, and how long nothing may come before a beat.
    last: Instant,
    patience: Duration,
}

impl Load {
    fn new(word: &str, now: Instant) -> Self {
        Self {
            word: word.to_owned(),
            text: String::new(),
            records: 0,
            whole: None,
            open: None,
            newest: 0,
            horizon: 0,
            saved: None,
            since: None,
            last: now,
            // What was shipped last may still wait for its horizon.
            patience: Duration::ZERO,
        }
    }

    fn take(&mut self, frame: &[u8], now: Instant) -> Result<Wants, Error> {
        match Frame::parse(frame).map_err(damaged)? {
            Frame::Alive { wants_reply: true, .. } => return Ok(Wants::Reply),
            Frame::Alive { .. } => {}
            Frame::Data(data) => match Decoded::parse(data).map_err(damaged)? {
                Decoded::Commit { end } => self.end(end, now),
                Decoded::Emitted { prefix, content } => {
                    let word = std::mem::take(&mut self.word);
                    let read = Message::parse(prefix, content, &word);
                    self.word = word;
                    if let Some(message) = read.map_err(damaged)? {
                        self.put(&message, now);
                    }
                }
                Decoded::Other => {}
            },
        }
        Ok(Wants::Nothing)
    }

    fn put(&mut self, message: &Message<'_>, now: Instant) {
        let (horizon, at_us) = self.open.unwrap_or_default();
        self.open = Some((horizon.max(message.horizon), at_us.max(message.at_us)));
        if let Some((transaction, record)) = message.record {
            if self.records > 0 {
                self.text.push(',');
            }
            self.text.push_str(record);
            self.records += 1;
            self.newest = self.newest.max(transaction);
            self.patience = BEAT_FIRST;
            self.since.get_or_insert(now);
        }
        self.last = now;
    }

    /// A transaction has been told whole. One that has emitted nothing moves nothing on: a beat does, soon.
    fn end(&mut self, end: Lsn, now: Instant) {
        let Some((horizon, at_us)) = self.open.take() else { return };
        let before = self.whole.map_or(0, |whole| whole.at_us);
        self.horizon = self.horizon.max(horizon);
        self.whole = Some(Whole { end, horizon: self.horizon, at_us: at_us.max(before) });
        self.since.get_or_insert(now);
    }

    const fn is_empty(&self) -> bool {
        self.since.is_none()
    }

    /// Is what has come to be saved now?
    fn is_due(&self, now: Instant) -> bool {
        let full = self.records >= BATCH_RECORDS_MAX || self.text.len() >= BATCH_BYTES_MAX;
        full || self.since.is_some_and(|since| now.duration_since(since) >= SHIP_GATHER)
    }

    /// How long to wait for the next frame.
    fn pause(&self, now: Instant) -> Duration {
        let until = match self.since {
            Some(since) => since + SHIP_GATHER,
            None if self.newest >= self.horizon => self.last + self.patience,
            None => self.last + BEAT_IDLE,
        };
        until.saturating_duration_since(now)
    }

    /// One that settles nothing, because a transaction stays open, is followed by the next after twice the time.
    fn has_beaten(&mut self, now: Instant) {
        self.last = now;
        self.patience = (self.patience * 2).clamp(BEAT_FIRST, BEAT_IDLE);
    }

    fn has_saved(&mut self) {
        self.text.clear();
        self.records = 0;
        self.since = None;
        if let Some(whole) = self.whole.take() {
            self.saved = Some(whole.end);
        }
    }
}

fn damaged(why: Malformed) -> Error {
    Error::Damaged(why.to_string())
}
