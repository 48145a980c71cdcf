//! One end of a feed: sends a log, or rows, to a follower that asks.
//!
//! What wakes it: the follower's words, room to send, time. What it reads: the shard's database. What it writes: how far the follower has
//! come, and that an epoch is sealed. On failure it says why and ends; the follower asks again, from where it is.

use std::time::Duration;

use portolan_changelog::{Change, Closed, Cut, Error, Horizon, PeerRefused, Record, RowId, Term};
use portolan_core::ids::RegionName;
use portolan_core::log::{Identity, Position};
use portolan_core::time::Moment;
use portolan_foundation::clock;
use tokio::sync::watch;

use crate::defaults::{
    BEAT, FEW_RECORDS, GATHER, LOOK_MAX, LOOK_MIN, NAMED_MAX, NOTE, PAGE_ROWS, PROTOCOL, PROTOCOL_MIN,
    SILENCE,
};
use crate::ends::Log;
use crate::heard;
use crate::link::{Broken, Ear, Mouth};
use crate::wall::{self, Wall};
use crate::wire::{Ask, Beat, Frame, Has, Refused, Rows, Welcome, What};

/// Hears what a follower asks for.
///
/// # Errors
/// When it asks for nothing, or not in time.
pub async fn asked(ear: &mut Ear) -> Result<Ask, Broken> {
    let heard = tokio::time::timeout(SILENCE, ear.hear()).await;
    match heard.map_err(|_| Broken::Gone("it asked for nothing".to_owned()))?? {
        Some((Frame::Ask(ask), _)) => Ok(ask),
        _ => Err(Broken::Turn("something else than what it asks for")),
    }
}

/// Says that nothing will be sent, and why.
///
/// # Errors
/// When nobody hears any more.
pub async fn refuse(mouth: &Mouth, why: Refused) -> Result<(), Broken> {
    mouth.say(&Frame::Refused(why)).await.map(drop)
}

/// The newest protocol that both speak.
pub(crate) fn agreed(ask: &Ask) -> Result<u32, Refused> {
    let protocol = PROTOCOL.min(ask.protocols.1);
    if protocol < PROTOCOL_MIN.max(ask.protocols.0) {
        let why = format!(
            "the follower speaks protocols {} to {}, this node {PROTOCOL_MIN} to {PROTOCOL}: upgrade the older one",
            ask.protocols.0, ask.protocols.1
        );
        return Err(Refused::Protocol(why));
    }
    Ok(protocol)
}

/// Sends what a region asked for, until it goes, and keeps what it will ask for next.
///
/// # Errors
/// When the link breaks.
///
/// # Cancel safety
/// Nothing is lost: the follower knows where it is.
pub async fn serve<L: Log, W: Wall + ?Sized>(
    log: &L,
    wall: &W,
    follower: &RegionName,
    ask: Ask,
    mouth: &Mouth,
    ear: &mut Ear,
) -> Result<(), Broken> {
    let protocol = match agreed(&ask) {
        Ok(protocol) => protocol,
        Err(why) => return refuse(mouth, why).await,
    };
    if let What::Seal(epoch) = ask.what {
        return match log.seal(epoch).await {
            Ok(sealed) => mouth.say(&Frame::Sealed(sealed)).await.map(drop),
            Err(error) => refuse(mouth, Refused::Away(error.to_string())).await,
        };
    }
    let (room, has) = (watch::Sender::new(ask.credit_bytes), watch::Sender::new(None));
    let said = watch::Sender::new((ask.said_us, clock::now()));
    let follows = matches!(ask.what, What::Log { .. });
    let noting = note(log, follower, has.subscribe());
    let telling = heard::tell(log, follower, has.subscribe());
    let (room_there, said_there) = (room.subscribe(), said.subscribe());
    let sending =
        Sending { log, wall, mouth, follower, protocol, room: room_there, said: said_there, sent: 0 };
    tokio::select! {
        // In this order, so that the seed of a simulation decides all that happens. None waits for another: each rests between frames.
        biased;
        // Whoever says its last has gone, and whoever sends the last waits for that.
        heard = hear(ear, &room, &has, &said) => heard,
        never = telling, if follows => match never {},
        refused = noting, if follows => refuse(mouth, refused).await,
        sent = Box::pin(sending.run(ask.what)) => match sent {
            Ok(Sent::All) => Ok(()),
            Ok(Sent::Refused(why)) => refuse(mouth, why).await,
            Err(broken) => Err(broken),
        },
    }
}

async fn hear(
    ear: &mut Ear,
    room: &watch::Sender<u64>,
    now: &watch::Sender<Option<Has>>,
    said: &watch::Sender<(u64, Moment)>,
) -> Result<(), Broken> {
    while let Some((frame, _)) = ear.hear().await? {
        let Frame::Has(has) = frame else { return Err(Broken::Turn("something else than what it has")) };
        room.send_modify(|room| *room = room.saturating_add(has.bytes));
        if has.said_us > 0 {
            said.send_replace((has.said_us, clock::now()));
        }
        now.send_replace(Some(has));
    }
    Ok(())
}

/// Writes down what a follower of a log has, now and then. Ends only with a reason for it to begin anew.
async fn note<L: Log>(log: &L, follower: &RegionName, mut news: watch::Receiver<Option<Has>>) -> Refused {
    loop {
        if news.changed().await.is_err() {
            return std::future::pending().await;
        }
        let has = *news.borrow_and_update();
        let noted = async {
            match has {
                // What a follower has is of the log that it was welcomed to: another's is refused.
                Some(has) => log.acknowledged(follower, &log.identity().await?, has).await,
                None => Ok(()),
            }
        };
        match noted.await {
            Ok(()) => {}
            // What it says now it has said before it asked once more: this link is the older one.
            Err(Error::Peer(error @ PeerRefused::Back { .. })) => return Refused::Away(error.to_string()),
            Err(error) => {
                if let Halt::Refused(why) = Halt::from(error) {
                    return why;
                }
            }
        }
        tokio::time::sleep(NOTE).await;
    }
}

struct Sending<'a, L, W: ?Sized> {
    log: &'a L,
    wall: &'a W,
    mouth: &'a Mouth,
    follower: &'a RegionName,
    protocol: u32,
    /// How many bytes may be sent, from the beginning.
    room: watch::Receiver<u64>,
    /// What the follower's clock said last, and when that came.
    said: watch::Receiver<(u64, Moment)>,
    sent: u64,
}

/// How a sending ended.
enum Sent {
    All,
    Refused(Refused),
}

impl<L: Log, W: Wall + ?Sized> Sending<'_, L, W> {
    async fn run(mut self, what: What) -> Result<Sent, Broken> {
        let done = match what {
            What::Log { identity, after, applied, seen_us } => {
                self.log(identity, (after, seen_us), applied).await
            }
            What::Rows { identity, after } => self.rows(identity, after).await,
            What::Named(ids) => self.named(&ids).await,
            What::Tail { of, identity, after } => self.tail(&of, &identity, after).await,
            What::Seal(_) | What::Compare(_) | What::Report => Ok(()),
        };
        match done {
            Ok(()) => Ok(Sent::All),
            Err(Halt::Broken(broken)) => Err(broken),
            Err(Halt::Refused(why)) => Ok(Sent::Refused(why)),
        }
    }

    /// Says what it will send. Gives the terms that it has told.
    async fn welcome(&self, identity: Identity, from: Position, others: Vec<Cut>) -> Result<Vec<Term>, Halt> {
        let (schema, terms) = (self.log.schema().await?, self.log.terms().await?);
        let welcome =
            Welcome { protocol: self.protocol, identity, from, schema, terms: terms.clone(), others };
        self.mouth.say(&Frame::Welcome(welcome)).await?;
        Ok(terms)
    }

    /// Says a frame that takes room, once there is some. One that is larger than all of it waits until all of it is there.
    async fn send(&mut self, frame: &Frame) -> Result<(), Halt> {
        let sent = self.sent;
        let room = self.room.wait_for(|room| *room > sent).await;
        room.map_err(|_| Broken::Gone("nobody gives room".to_owned()))?;
        self.sent += self.mouth.say(frame).await?;
        Ok(())
    }

    /// May the follower have these?
    fn admit(&self, records: &[Record], otherwise: fn(String) -> Refused) -> Result<(), Halt> {
        match wall::refusal(self.wall, self.follower, records) {
            Some(why) => Err(Halt::Refused(otherwise(why))),
            None => Ok(()),
        }
    }

    async fn rows(&mut self, before: Option<Identity>, mut after: Option<RowId>) -> Result<(), Halt> {
        // What is written while rows are read comes with the logs, from here.
        let (others, identity, from) =
            (self.log.heads().await?, self.log.identity().await?, self.log.settled().await?);
        if let Some(before) = before.filter(|_| after.is_some()) {
            if before != identity || !self.log.keeps(self.follower, &before).await? {
                let why = "what came while its rows were copied is kept no longer: it begins with the first";
                return Err(Halt::Refused(Refused::Snapshot(why.to_owned())));
            }
        } else {
            self.log.begins(self.follower, &identity, from).await?;
        }
        self.welcome(identity, from, others).await?;
        loop {
            let records = self.log.rows(after.as_ref(), PAGE_ROWS).await?;
            let ends = records.is_empty();
            self.admit(&records, Refused::Forbidden)?;
            if let Some(Change::Row(last)) = records.last().map(|last| &last.change) {
                after = Some(last.id.clone());
            }
            self.send(&Frame::Rows(Rows { records, ends })).await?;
            if ends {
                return std::future::pending().await;
            }
        }
    }

    /// Says which epochs are known by now, if they are not those that it has told.
    async fn tell(&self, told: &mut Vec<Term>) -> Result<(), Halt> {
        let terms = self.log.terms().await?;
        if terms != *told {
            self.mouth.say(&Frame::Terms(terms.clone())).await?;
            *told = terms;
        }
        Ok(())
    }

    /// Says that all is sent that was done when the log was looked at, and did not wait.
    async fn beat(
        &self,
        (horizon, said_us, held_us): (Horizon, u64, u64),
        through: Position,
    ) -> Result<(), Halt> {
        let Horizon { at_us, waiting_us, closed, .. } = horizon;
        let kept = self.log.kept().await?.unwrap_or(Position::START);
        let beat = Beat { at_us, through, waiting_us, kept, closed, said_us, held_us };
        Ok(self.mouth.say(&Frame::Beat(beat)).await.map(drop)?)
    }

    async fn named(&mut self, ids: &[RowId]) -> Result<(), Halt> {
        if ids.len() > NAMED_MAX {
            let why = format!("{} rows are asked for by name, of at most {NAMED_MAX}", ids.len());
            return Err(Halt::Refused(Refused::Forbidden(why)));
        }
        // Whoever has applied its own log up to here has all that was written before.
        let identity = self.log.identity().await?;
        let own = self.log.heads().await?.into_iter().find(|head| head.identity == identity);
        let from = own.map_or(Position::START, |head| head.at);
        self.welcome(identity, from, Vec::new()).await?;
        let records = self.log.named(ids).await?;
        self.admit(&records, Refused::Forbidden)?;
        self.send(&Frame::Rows(Rows { records, ends: true })).await?;
        std::future::pending().await
    }

    async fn tail(&mut self, of: &RegionName, identity: &Identity, mut after: Position) -> Result<(), Halt> {
        let mut batch = self.log.tail(of, identity, after).await?;
        self.welcome(identity.clone(), after, Vec::new()).await?;
        while !batch.records.is_empty() {
            self.admit(&batch.records, Refused::Forbidden)?;
            after = batch.through;
            self.send(&Frame::Batch(batch)).await?;
            batch = self.log.tail(of, identity, after).await?;
        }
        let (through, kept) = (after, Position::START);
        let beat =
            Beat { at_us: batch.at_us, through, waiting_us: 0, kept, closed: true, said_us: 0, held_us: 0 };
        self.mouth.say(&Frame::Beat(beat)).await?;
        std::future::pending().await
    }

    async fn log(
        &mut self,
        followed: Option<Identity>,
        (mut after, seen_us): (Position, u64),
        mut applied: Position,
    ) -> Result<(), Halt> {
        let identity = self.log.identity().await?;
        match followed {
            Some(followed) if followed != identity => {
                let why = format!(
                    "the log is {identity}, and {followed} was followed: it was restored or promoted since"
                );
                return Err(Halt::Refused(Refused::Snapshot(why)));
            }
            Some(_) if !self.log.has_written(after, seen_us).await? => {
                let why = format!(
                    "there is another record at {after} than the follower has: this history was rewound, and went on otherwise"
                );
                tracing::error!(follower = %self.follower, "{why}; the follower copies all rows anew, and keeps what is not among them as stranded");
                return Err(Halt::Refused(Refused::Snapshot(why)));
            }
            Some(_) => {}
            // From its start. Who has begun the last epoch has nobody to copy rows from: to it the first record that is kept is the start.
            None => {
                if self.log.terms().await?.last().is_some_and(|term| term.region == *self.follower) {
                    if self.log.has_lost(self.follower).await? {
                        // What cannot be told any more is not passed over: the rows here are to be the primary's first.
                        let why = "what was written here cannot be told any more: rows are copied anew first";
                        return Err(Halt::Refused(Refused::Away(why.to_owned())));
                    }
                    after = self.log.trimmed().await?;
                    applied = after;
                }
            }
        }
        let has = Has { bytes: 0, received: after, applied, said_us: 0 };
        let knows = self.log.keeps(self.follower, &identity).await?
            && match self.log.acknowledged(self.follower, &identity, has).await {
                // It has copied rows of another region since, which had not come as far.
                Err(Error::Peer(PeerRefused::Back { .. })) => false,
                done => done.map(|()| true)?,
            };
        if !knows {
            // It has come here by another region's rows, or begins with the first record.
            self.log.begins(self.follower, &identity, applied).await?;
        }
        let mut told = self.welcome(identity, after, Vec::new()).await?;
        let (mut beaten, mut ahead, mut pause): (Option<Moment>, _, _) = (None, None, LOOK_MIN);
        let mut wakes = self.log.wakes();
        loop {
            let now = clock::now();
            if ahead.is_none() && beaten.is_none_or(|beaten| now.since(beaten) >= BEAT) {
                // Looked at before what comes is read: what was done until then lies up to there, or waits.
                let (said_us, came) = *self.said.borrow_and_update();
                let held_us = micros(now.since(came));
                let horizon = self.log.horizon().await?;
                ahead = Some(((horizon, said_us, held_us), self.log.settled().await?));
                self.tell(&mut told).await?;
                beaten = Some(now);
            }
            let batch = self.log.read(after).await?;
            let records = batch.records.len();
            if records > 0 {
                // The log has them for good: when they are gone from the shard, its rows come without them.
                self.admit(&batch.records, Refused::Snapshot)?;
                (after, pause) = (batch.through, LOOK_MIN);
                self.send(&Frame::Batch(batch)).await?;
            }
            if let Some((looked, _)) = ahead.take_if(|(_, settled)| records == 0 || after >= *settled) {
                self.beat(looked, after).await?;
            }
            if records > 0 {
                if records < FEW_RECORDS {
                    // A batch costs both databases much the same, whatever is in it.
                    tokio::time::sleep(GATHER).await;
                }
                continue;
            }
            let woken = heard::pause(&mut wakes, pause).await;
            pause = if woken { LOOK_MIN } else { longer(pause) };
        }
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).min(LOOK_MAX)
}

enum Halt {
    Broken(Broken),
    Refused(Refused),
}

impl From<Broken> for Halt {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        let why = match error {
            Error::Closed(Closed::Cut) => format!("{error}: its operator begins a new epoch there"),
            Error::Peer(PeerRefused::Full { .. }) => error.to_string(),
            Error::Peer(_) | Error::Trimmed { .. } => {
                return Self::Refused(Refused::Snapshot(error.to_string()));
            }
            _ => error.to_string(),
        };
        Self::Refused(Refused::Away(why))
    }
}
