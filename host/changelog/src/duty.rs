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
    /// Takes the duty for a node, for so long, and leaves its word for the others; or says who has it and what that one's word is. A
    /// database in a file has one node.
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
        if session.run(TAKE, &[node.into(), ttl_us.into(), note.into()]).await? > 0 {
            return Ok(held);
        }
        let rows = session.query("SELECT node, note, {now} - noted_us FROM portolan_follower", &[]).await?;
        // Whoever gave it up just now left nothing: it is taken with the next try.
        let Some(row) = rows.first() else { return Ok(Duty { held: false, ..held }) };
        let age = Duration::from_micros(row.number(2)?);
        Ok(Duty { held: false, node: row.text(0)?, note: row.text(1)?, age })
    }

    /// Gives the duty up, so that another node need not wait for its end.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn leave_duty(&self, node: &str) -> Result<(), Error> {
        if self.dialect() == Dialect::Sqlite {
            return Ok(());
        }
        let mut session = self.acquire(Role::Applier).await?;
        session.run("DELETE FROM portolan_follower WHERE node = $1", &[node.into()]).await.map(drop)
    }
}

const TAKE: &str = "INSERT INTO portolan_follower AS f (id, node, until_us, note, noted_us) VALUES (1, $1, {now} + $2, $3, {now}) \
    ON CONFLICT (id) DO UPDATE SET node = excluded.node, until_us = excluded.until_us, note = excluded.note, \
    noted_us = excluded.noted_us WHERE f.node = excluded.node OR f.until_us < excluded.noted_us";
