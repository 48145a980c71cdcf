//! Comparing a copy with the primary while both are used, and putting right what is not the same.
//!
//! Both sides tell digests of a table by buckets of keys, then the rows of buckets that differ ([`portolan_core::audit`]). A copy that is
//! behind differs, too: rows that differ are asked for by name, and what still differs when the copy has applied what the primary had
//! written by then is a fault. It is put right with what the primary has; what the primary knows nothing of goes, and is kept as a
//! loser.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroU32;

use portolan_changelog::{Change, Error, Record, RowId, Scope, Store};
use portolan_core::audit::{Difference, Digests, Form, RowDigest, differences};
use portolan_core::ids::{RegionName, ShardName, TenantName};
use portolan_core::log::{Epoch, Position, Version};
use portolan_core::time::Moment;
use portolan_foundation::clock;
use serde::{Deserialize, Serialize};

use crate::defaults::{
    AUDIT_BUCKETS, AUDIT_BUCKETS_MAX, AUDIT_CATCH_UP, AUDIT_PAGE, AUDIT_ROWS_MAX, BEAT, BUCKETS_MAX, LOOK_MAX,
};
use crate::follower::{Connect, Ended, ask, hear};
use crate::link::{Broken, Ear, Mouth};
use crate::source;
use crate::wire::{Ask, Beat, Frame, Refused, Welcome, What};

/// What of a table is told for a comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The table.
    pub table: String,
    /// Of one tenant, or of all.
    pub tenant: Option<TenantName>,
    /// Into how many buckets its keys fall.
    pub buckets: NonZeroU32,
    /// The buckets whose rows are told; none for the sums of all.
    pub rows_of: Option<BTreeSet<u32>>,
}

/// What of a table was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// The sums of its buckets.
    Sums(Digests),
    /// Some rows; more come unless it is the end.
    Rows {
        /// Rows and tombstones.
        rows: Vec<RowDigest>,
        /// No more come.
        ends: bool,
    },
}

/// What a comparison of a table found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Audited {
    /// How many rows and tombstones were compared here.
    pub rows: u64,
    /// What is not the same, by key.
    pub faults: BTreeMap<String, Difference>,
    /// There are more than these: put these right, and compare again.
    pub more: bool,
    /// How many rows were put right.
    pub mended: u64,
}

/// Why a comparison came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The primary does not tell.
    #[error("the primary does not tell: {0}")]
    Link(String),
    /// This copy's database does not.
    #[error(transparent)]
    Copy(#[from] Error),
    /// Rows of another engine are written otherwise.
    #[error(
        "the primary is kept in {there}, and this copy in {here}: their rows are written otherwise, and not compared"
    )]
    Forms {
        /// This side's.
        here: Form,
        /// The other's.
        there: Form,
    },
    /// The copy does not catch up.
    #[error(
        "this copy has not applied within {AUDIT_CATCH_UP:?} what the primary had written: compare when it has caught up"
    )]
    Behind,
}

impl From<Ended> for Failed {
    fn from(ended: Ended) -> Self {
        Self::Link(ended.to_string())
    }
}

impl From<Broken> for Failed {
    fn from(broken: Broken) -> Self {
        Self::Link(broken.to_string())
    }
}

/// A copy, and the way to its primary.
#[derive(Debug)]
pub struct Comparison<'a, C> {
    /// The copy.
    pub copy: &'a Store,
    /// The region that writes the shard.
    pub primary: &'a RegionName,
    /// The shard.
    pub shard: &'a ShardName,
    /// How the primary is reached.
    pub way: &'a C,
}

impl<C: Connect> Comparison<'_, C> {
    /// Compares a table, of one tenant or whole, and puts right what differs if it is to.
    ///
    /// # Errors
    /// When a side does not tell, or the copy does not catch up.
    pub async fn run(
        &self,
        table: &str,
        tenant: Option<&TenantName>,
        mends: bool,
    ) -> Result<Audited, Failed> {
        let wanted = Wanted {
            table: table.to_owned(),
            tenant: tenant.cloned(),
            buckets: AUDIT_BUCKETS,
            rows_of: None,
        };
        let there = self.sums_there(&wanted).await?;
        // What is only late is no difference.
        let (welcome, _) = self.named(&[RowId { table: table.to_owned(), key: "[]".to_owned() }]).await?;
        self.catch_up(&welcome).await?;
        let (mut pages, mut here) =
            (Pages::of(self.copy, &wanted), Digests::new(self.copy.form(), AUDIT_BUCKETS));
        while pages.add(&mut here).await? {}
        let rows = here.buckets.iter().map(|bucket| bucket.rows.count + bucket.tombstones.count).sum();
        let mut audited = Audited { rows, ..Audited::default() };
        let other = |_| Failed::Forms { here: here.form, there: there.form };
        let mut differing: BTreeSet<u32> = here.differing(&there).map_err(other)?.into_iter().collect();
        if differing.is_empty() {
            return Ok(audited);
        }
        audited.more = differing.len() > AUDIT_BUCKETS_MAX;
        differing = differing.into_iter().take(AUDIT_BUCKETS_MAX).collect();
        let wanted = Wanted { rows_of: Some(differing), ..wanted };
        let theirs = self.rows_there(&wanted).await?;
        let (mut pages, mut ours) = (Pages::of(self.copy, &wanted), Vec::new());
        while let Some(rows) = pages.rows().await? {
            ours.extend(rows);
        }
        let mut suspects: Vec<RowId> = differences(&ours, &theirs)
            .into_keys()
            .map(|key| RowId { table: table.to_owned(), key })
            .collect();
        audited.more |= suspects.len() > AUDIT_ROWS_MAX;
        suspects.truncate(AUDIT_ROWS_MAX);
        for suspects in suspects.chunks(AUDIT_PAGE) {
            self.look_again(suspects, mends, &mut audited).await?;
        }
        Ok(audited)
    }

    /// Which of these rows are still not the same when the copy has what the primary had.
    async fn look_again(&self, ids: &[RowId], mends: bool, audited: &mut Audited) -> Result<(), Failed> {
        let leave = self.copy.begin_repair().await?;
        let (_, there) = self.named(ids).await?;
        // What was written before the second answer includes all of the first.
        let (welcome, _) = self.named(ids.get(..1).unwrap_or_default()).await?;
        self.catch_up(&welcome).await?;
        let here = self.copy.records_named(ids).await?;
        let (ours, theirs) = (by_id(&here), by_id(&there));
        let (mut wrong, mut extra) = (Vec::new(), Vec::new());
        for id in ids {
            let fault = match (ours.get(id), theirs.get(id)) {
                (None, Some((_, row, _))) => row.is_some().then_some(Difference::Missing),
                (Some((version, row, _)), None) => {
                    let counts = row.is_some() && version.epoch > Epoch(0);
                    counts.then_some(Difference::Extra)
                }
                (Some((own, row, _)), Some((other, there, _))) if own == other => {
                    (row != there).then_some(Difference::Different)
                }
                (Some((own, ..)), Some((other, ..))) => (own < other).then_some(Difference::Older),
                // Neither has a whole row by its name: one that is there beside its tombstone, or the other way round.
                (None, None) => Some(Difference::Different),
            };
            let Some(fault) = fault else { continue };
            audited.faults.insert(id.key.clone(), fault);
            match (fault, theirs.get(id)) {
                (Difference::Extra, _) => {
                    extra.extend(ours.get(id).map(|(version, ..)| (id.clone(), (*version).clone())));
                }
                (_, Some((.., record))) => wrong.push((*record).clone()),
                (_, None) => {}
            }
        }
        if mends && !(wrong.is_empty() && extra.is_empty()) {
            audited.mended += self.copy.repair(&leave, &wrong).await?.written;
            audited.mended += self.copy.withdraw(&extra, self.primary).await?;
        }
        Ok(())
    }

    /// Waits until the copy has applied the primary's log up to the record that was the newest.
    async fn catch_up(&self, welcome: &Welcome) -> Result<(), Failed> {
        let until = clock::now().plus(AUDIT_CATCH_UP);
        loop {
            let progress = self.copy.progress(self.primary.as_str()).await?;
            let followed = progress.filter(|progress| progress.identity == welcome.identity);
            if followed.is_some_and(|progress| progress.applied >= welcome.from)
                || welcome.from == Position::START
            {
                return Ok(());
            }
            if clock::now() >= until {
                return Err(Failed::Behind);
            }
            tokio::time::sleep(LOOK_MAX).await;
        }
    }

    async fn named(&self, ids: &[RowId]) -> Result<(Welcome, Vec<Record>), Failed> {
        let (mouth, mut ear) = self.way.connect().await?;
        let welcome = ask(self.primary, self.shard, What::Named(ids.to_vec()), &mouth, &mut ear).await?;
        match hear(self.primary, &mut ear).await? {
            (Frame::Rows(rows), _) => Ok((welcome, rows.records)),
            _ => Err(Broken::Turn("something else than rows").into()),
        }
    }

    async fn sums_there(&self, wanted: &Wanted) -> Result<Digests, Failed> {
        let (mouth, mut ear) = self.way.connect().await?;
        ask(self.primary, self.shard, What::Compare(wanted.clone()), &mouth, &mut ear).await?;
        loop {
            match hear(self.primary, &mut ear).await? {
                (Frame::Told(Told::Sums(digests)), _) => return Ok(digests),
                (Frame::Beat(_), _) => {}
                _ => return Err(Broken::Turn("something else than digests").into()),
            }
        }
    }

    async fn rows_there(&self, wanted: &Wanted) -> Result<Vec<RowDigest>, Failed> {
        let (mouth, mut ear) = self.way.connect().await?;
        ask(self.primary, self.shard, What::Compare(wanted.clone()), &mouth, &mut ear).await?;
        let mut all = Vec::new();
        loop {
            match hear(self.primary, &mut ear).await? {
                (Frame::Told(Told::Rows { rows, ends }), _) => {
                    all.extend(rows);
                    if ends {
                        return Ok(all);
                    }
                }
                (Frame::Beat(_), _) => {}
                _ => return Err(Broken::Turn("something else than digests").into()),
            }
        }
    }
}

/// Tells a copy what it is to be compared with.
///
/// # Errors
/// When the link breaks.
pub(crate) async fn serve(
    store: &Store,
    ask: &Ask,
    wanted: &Wanted,
    mouth: &Mouth,
    ear: &mut Ear,
) -> Result<(), Broken> {
    let protocol = match source::agreed(ask) {
        Ok(protocol) => protocol,
        Err(why) => return source::refuse(mouth, why).await,
    };
    if wanted.buckets.get() > BUCKETS_MAX {
        let why = format!("{} buckets are asked for, of at most {BUCKETS_MAX}", wanted.buckets);
        return source::refuse(mouth, Refused::Forbidden(why)).await;
    }
    let telling = async {
        let told = tell(store, wanted, protocol, mouth).await;
        match told {
            Err(Halt::Broken(broken)) => Err(broken),
            Err(Halt::Refused(why)) => source::refuse(mouth, Refused::Away(why)).await,
            Ok(()) => std::future::pending().await,
        }
    };
    tokio::select! {
        // Whoever asked has heard all, or has gone.
        heard = ear.hear() => heard.map(drop),
        told = telling => told,
    }
}

enum Halt {
    Broken(Broken),
    Refused(String),
}

impl From<Broken> for Halt {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Refused(error.to_string())
    }
}

async fn tell(store: &Store, wanted: &Wanted, protocol: u32, mouth: &Mouth) -> Result<(), Halt> {
    let (identity, from, schema) = (store.identity().await?, store.settled().await?, store.schema().await?);
    let terms = store.lineage().await?.terms().to_vec();
    let welcome = Welcome { protocol, identity, from, schema, terms, others: Vec::new() };
    mouth.say(&Frame::Welcome(welcome)).await?;
    let (mut pages, mut beat) = (Pages::of(store, wanted), Beats { at: from, last: clock::now() });
    if wanted.rows_of.is_some() {
        while let Some(rows) = pages.rows().await? {
            beat.after_page(mouth).await?;
            if !rows.is_empty() {
                mouth.say(&Frame::Told(Told::Rows { rows, ends: false })).await?;
            }
        }
        mouth.say(&Frame::Told(Told::Rows { rows: Vec::new(), ends: true })).await?;
    } else {
        let mut sums = Digests::new(store.form(), wanted.buckets);
        while pages.add(&mut sums).await? {
            beat.after_page(mouth).await?;
        }
        mouth.say(&Frame::Told(Told::Sums(sums))).await?;
    }
    Ok(())
}

/// Lets whoever asked hear that it goes on.
struct Beats {
    at: Position,
    last: Moment,
}

impl Beats {
    async fn after_page(&mut self, mouth: &Mouth) -> Result<(), Broken> {
        if clock::now().since(self.last) >= BEAT {
            self.last = clock::now();
            let (through, kept) = (self.at, Position::START);
            let beat = Beat { at_us: 0, through, waiting_us: 0, kept, closed: true, said_us: 0, held_us: 0 };
            mouth.say(&Frame::Beat(beat)).await?;
        }
        Ok(())
    }
}

/// A table's digests, page by page.
struct Pages<'a> {
    after: Option<String>,
    store: &'a Store,
    wanted: &'a Wanted,
}

impl<'a> Pages<'a> {
    fn of(store: &'a Store, wanted: &'a Wanted) -> Self {
        Self { after: Some(String::new()), store, wanted }
    }

    fn scope(&self) -> Scope<'a> {
        Scope { table: &self.wanted.table, tenant: self.wanted.tenant.as_ref() }
    }

    /// Adds the next page to the sums. Returns whether there was one.
    async fn add(&mut self, sums: &mut Digests) -> Result<bool, Error> {
        let Some(from) = self.after.take() else { return Ok(false) };
        let page = self.store.digests(&self.scope(), self.wanted.buckets, &from, AUDIT_PAGE).await?;
        sums.join(&page.digests).map_err(|error| Error::Damaged(error.to_string()))?;
        self.after = page.next;
        Ok(true)
    }

    /// The rows of the wanted buckets on the next page.
    async fn rows(&mut self) -> Result<Option<Vec<RowDigest>>, Error> {
        let Some(from) = self.after.take() else { return Ok(None) };
        let (none, buckets) = (BTreeSet::new(), self.wanted.buckets);
        let of = self.wanted.rows_of.as_ref().unwrap_or(&none);
        let page = self.store.bucket_rows(&self.scope(), (of, buckets), &from, AUDIT_PAGE).await?;
        self.after = page.next;
        Ok(Some(page.rows))
    }
}

type Here<'a> = (&'a Version, Option<&'a str>, &'a Record);

fn by_id(records: &[Record]) -> HashMap<&RowId, Here<'_>> {
    let named = records.iter().filter_map(|record| match &record.change {
        Change::Row(change) => Some((&change.id, (&change.version, change.row.as_deref(), record))),
        Change::Forget => None,
    });
    named.collect()
}
