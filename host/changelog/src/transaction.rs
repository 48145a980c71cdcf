//! Transactions of a tenant, as gateways write and read.

use std::time::Duration;

use portolan_core::ids::TenantName;
use portolan_core::log::Position;
use portolan_core::time::Moment;

use crate::database::{Dialect, Row, Session, Value};
use crate::defaults::{ANSWER_TIMEOUT, SILENCE, STATEMENT_TIMEOUT};
use crate::error::Error;
use crate::model::fence::{Closed, Lease, Outcome};
use crate::store::{Role, Store};

/// A transaction. One that is dropped was never there.
///
/// On PostgreSQL it reaches the rows of its tenant alone. SQLite knows no such thing: there its writes are held against the
/// tenant, and its reads must name it.
#[derive(Debug)]
pub struct Transaction {
    session: Session,
    /// Does it capture: has it a position to tell?
    tenant: bool,
}

impl Store {
    /// Begins a transaction that writes as a tenant, under the gateway's lease.
    ///
    /// # Errors
    /// [`Closed::Expired`] when the lease has run out.
    pub async fn write(&self, tenant: &TenantName, lease: &Lease, now: Moment) -> Result<Transaction, Error> {
        self.write_within(STATEMENT_TIMEOUT, tenant, lease, now).await
    }

    /// The same, and none of its statements may take longer than `statement`: [`Error::Busy`] then.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn write_within(
        &self,
        statement: Duration,
        tenant: &TenantName,
        lease: &Lease,
        now: Moment,
    ) -> Result<Transaction, Error> {
        if !lease.allows(now) {
            return Err(Closed::Expired.into());
        }
        let session = self.enter(tenant, true, statement).await?;
        Ok(Transaction { session, tenant: true })
    }

    /// Begins a transaction that writes tables of all members as a tenant, without a lease. None of its statements may take longer than
    /// `statement`: [`Error::Busy`] then.
    ///
    /// # Errors
    /// When the database does not answer. A statement is refused with [`Closed::Member`] while this region is no member, and with
    /// [`Closed::Expired`] when it writes a table that one region writes.
    pub async fn write_as_member(
        &self,
        tenant: &TenantName,
        statement: Duration,
    ) -> Result<Transaction, Error> {
        let session = self.enter(tenant, true, statement).await?;
        Ok(Transaction { session, tenant: true })
    }

    /// Begins a transaction that reads one state as a tenant. For a strong read, ask [`Lease::allows`] after it: another
    /// region may have written meanwhile.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn look(&self, tenant: &TenantName) -> Result<Transaction, Error> {
        self.look_within(STATEMENT_TIMEOUT, tenant).await
    }

    /// The same, and none of its statements may take longer than `statement`: [`Error::Busy`] then.
    ///
    /// # Errors
    /// As [`Self::look`].
    pub async fn look_within(&self, statement: Duration, tenant: &TenantName) -> Result<Transaction, Error> {
        let session = self.enter(tenant, false, statement).await?;
        Ok(Transaction { session, tenant: false })
    }

    /// Begins a transaction of the owner, for changes of the tenants' schema: [`Store::declare`] comes after it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn maintain(&self) -> Result<Transaction, Error> {
        Ok(Transaction { session: self.begin(Role::Owner).await?, tenant: false })
    }

    async fn enter(&self, tenant: &TenantName, writes: bool, statement: Duration) -> Result<Session, Error> {
        let limit = statement.as_millis().max(1).to_string();
        let settings = [("portolan.tenant", tenant.as_str()), ("statement_timeout", &limit)];
        let mut session = self.pool(Role::Writer).begin_with(!writes, &settings).await?;
        if self.dialect() == Dialect::Sqlite && writes {
            session.execute("UPDATE portolan_fence SET tx = tx + 1", &[]).await?;
            let named = "INSERT INTO portolan_session (id, applying, tenant) VALUES (1, 0, $1)";
            session.execute(named, &[Value::from(tenant.as_str())]).await?;
        }
        // PostgreSQL ends a statement by itself; one that says nothing even then is silent.
        let silence = if self.dialect() == Dialect::Postgres { SILENCE } else { Duration::ZERO };
        session.waits(statement.saturating_add(silence));
        Ok(session)
    }
}

impl Transaction {
    /// Runs a statement with the values of `$1`, `$2` ... and says how many rows it touched.
    ///
    /// # Errors
    /// [`Error::Closed`] when the fence refuses, [`Error::Rejected`] when the database does.
    pub async fn execute(&mut self, sql: &str, args: &[Value]) -> Result<u64, Error> {
        self.session.execute(sql, args).await
    }

    /// Runs a query. In PostgreSQL, what is neither a number, text, truth nor bytes must be cast to text.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub async fn fetch(&mut self, sql: &str, args: &[Value]) -> Result<Vec<Row>, Error> {
        self.session.fetch(sql, args).await
    }

    /// Commits, then looks at the lease again. Returns where the transaction's last record lies, if it has one.
    ///
    /// # Errors
    /// [`Error::Closed`] when the fence closed before the commit: nothing is written. [`Error::Unknown`] when the answer was
    /// lost or the lease has run out meanwhile.
    ///
    /// # Cancel safety
    /// Not cancel-safe: when it is dropped, nobody knows whether the transaction is written.
    pub async fn commit(self, lease: &Lease, clock: impl Fn() -> Moment) -> Result<Option<Position>, Error> {
        let position = self.ends().await?;
        match lease.outcome(clock()) {
            Outcome::Done => Ok(position),
            Outcome::Unknown => {
                Err(Error::Unknown("the lease ran out while the transaction was committed".to_owned()))
            }
        }
    }

    /// Commits what [`Store::write_as_member`] began.
    ///
    /// # Errors
    /// [`Error::Closed`] when this region was a member no more before the commit: nothing is written. [`Error::Unknown`] when the answer
    /// was lost.
    ///
    /// # Cancel safety
    /// As [`Self::commit`].
    pub async fn commit_as_member(self) -> Result<(), Error> {
        self.ends().await.map(drop)
    }

    /// Commits what [`Store::maintain`] began.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub async fn finish(self) -> Result<(), Error> {
        self.session.commit().await
    }

    /// Ends it without a trace. One that is dropped leaves none either, but costs its connection.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rollback(self) -> Result<(), Error> {
        self.session.rollback().await
    }

    /// Commits. Gives where the last record lies.
    async fn ends(mut self) -> Result<Option<Position>, Error> {
        // What is being committed is waited for as long as it can be: nobody would know how it ended.
        self.session.waits(ANSWER_TIMEOUT);
        if !self.tenant {
            return self.session.commit().await.map(|()| None);
        }
        match self.session.dialect() {
            Dialect::Postgres => {
                let rows = self.session.commit_after("SELECT portolan.written()").await?;
                position(&rows).map_err(|error| Error::Unknown(error.to_string()))
            }
            Dialect::Sqlite => {
                self.session.execute("DELETE FROM portolan_session", &[]).await?;
                let last = "SELECT l.epoch || '.' || l.tx || '.' || l.seq FROM portolan_log l, portolan_fence f \
                    WHERE l.epoch = f.epoch AND l.tx = f.tx ORDER BY l.seq DESC LIMIT 1";
                let position = position(&self.session.fetch(last, &[]).await?)?;
                self.session.commit().await.map(|()| position)
            }
        }
    }
}

/// Where the last record lies, if there is one.
fn position(rows: &[Row]) -> Result<Option<Position>, Error> {
    let Some(text) = rows.first().map(|row| row.text_or_null(0)).transpose()?.flatten() else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| Error::Damaged(format!("{text} is no position")))
}
