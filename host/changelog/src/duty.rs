//! Which of a region's nodes follows other regions' logs into this copy: one of them, and the others know from it how the copy stands.
//!
//! It is a matter of economy and not of safety: what two of them bring is taken once all the same.

use std::time::Duration;

use crate::database::Dialect;
use crate::error::Error;
use crate::store::{Role, Store};

/// Who follows, as the copy's database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duty {
    /// The node that asked does.
    pub held: bool,
    /// Who does.
    pub node: String,
    /// What that node last said of the copy.
    pub note: String,
    /// How long ago.
    pub age: Duration,
}

impl Store {
    /// Takes the duty for a node, for so long, and leaves its word for the others; or says who has it and what that one's word is. Who has
    /// nothing to say leaves what was said last, and is told it: it outlives whoever said it. A database in a file has one node, and keeps no
    /// word.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn take_duty(&self, node: &str, ttl: Duration, note: &str) -> Result<Duty, Error> {
        let held = Duty { held: true, node: node.to_owned(), note: note.to_owned(), age: Duration::ZERO };
        if self.dialect() == Dialect::Sqlite {
            return Ok(held);
        }
        let mut session = self.acquire(Role::Applier).await?;
        let ttl_us = u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX);
        let taken = session.run(TAKE, &[node.into(), ttl_us.into(), note.into()]).await? > 0;
        if taken && !note.is_empty() {
            return Ok(held);
        }
        let rows = session.query("SELECT node, note, {now} - noted_us FROM portolan_follower", &[]).await?;
        // It is not there any more: it is taken with the next try.
        let Some(row) = rows.first() else { return Ok(Duty { held: false, ..held }) };
        let age = Duration::from_micros(row.number(2)?);
        Ok(Duty { held: taken, node: row.text(0)?, note: row.text(1)?, age })
    }

    /// Gives the duty up, so that another node need not wait for its end. What was said of the copy stays.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn leave_duty(&self, node: &str) -> Result<(), Error> {
        if self.dialect() == Dialect::Sqlite {
            return Ok(());
        }
        let mut session = self.acquire(Role::Applier).await?;
        let sql = "UPDATE portolan_follower SET until_us = 0 WHERE node = $1";
        session.run(sql, &[node.into()]).await.map(drop)
    }
}

const TAKE: &str = "INSERT INTO portolan_follower AS f (id, node, until_us, note, noted_us) VALUES (1, $1, {now} + $2, $3, {now}) \
    ON CONFLICT (id) DO UPDATE SET node = excluded.node, until_us = excluded.until_us, \
    note = CASE WHEN excluded.note = '' THEN f.note ELSE excluded.note END, \
    noted_us = CASE WHEN excluded.note = '' THEN f.noted_us ELSE excluded.noted_us END WHERE f.node = excluded.node OR f.until_us < excluded.noted_us";
