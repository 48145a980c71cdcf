//! Registers: what changes often and is nobody's intent, such as leases, beside the log and apart from its generations.
//!
//! Each has a revision, the number of the change that wrote it last; numbers only rise, and none is used twice. A change writes several at
//! once, where all that it rests on are at the revisions that its author saw, or none. The engine's own timers decide nothing here.

use std::collections::BTreeSet;

use crate::defaults::{REGISTER_BYTES_MAX, REGISTERS_AT_ONCE_MAX};
use crate::engine::Watcher;
use crate::error::Error;
use crate::store::Store;

/// A register as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// Its name.
    pub name: String,
    /// The number of the change that wrote it; 0 stands for one that is not there.
    pub revision: u64,
    /// What it says.
    pub value: String,
}

/// Registers that were written after a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// Those, each as it is now.
    pub changed: Vec<Register>,
    /// All that was written up to here is among them: ask for what comes after it.
    pub revision: u64,
}

/// What becomes of several registers at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swap {
    /// Registers, and the revisions at which they must be; 0 for one that must not be there.
    pub expect: Vec<(String, u64)>,
    /// Registers, and what they are to say.
    pub put: Vec<(String, String)>,
}

/// Tells that registers may have been written.
#[derive(Debug)]
pub struct RegisterNews(Watcher);

impl RegisterNews {
    /// Waits until some may have been written. Which, [`Store::registers`] says.
    ///
    /// # Errors
    /// [`Error::Away`] when the store is lost: ask for news again, and look then, because some may have been missed.
    ///
    /// # Cancel safety
    /// Nothing is lost: whoever is told reads from where it was.
    pub async fn changed(&mut self) -> Result<(), Error> {
        Ok(self.0.changed().await?)
    }
}

impl Swap {
    fn check(&self) -> Result<(), Error> {
        let names = self.expect.iter().map(|(name, _)| name).chain(self.put.iter().map(|(name, _)| name));
        let bytes: usize = self.put.iter().map(|(_, value)| value.len()).sum();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._".contains(&byte);
        if let Some(name) = names.clone().find(|name| name.is_empty() || !name.bytes().all(plain)) {
            return Err(Error::Register(name.clone()));
        }
        let twice = |list: &[&String]| list.iter().collect::<BTreeSet<_>>().len() < list.len();
        let (expected, put): (Vec<_>, Vec<_>) = (
            self.expect.iter().map(|(name, _)| name).collect(),
            self.put.iter().map(|(name, _)| name).collect(),
        );
        if names.count() > REGISTERS_AT_ONCE_MAX
            || bytes > REGISTER_BYTES_MAX
            || twice(&expected)
            || twice(&put)
        {
            return Err(Error::Registers { count: expected.len() + put.len(), bytes });
        }
        Ok(())
    }
}

impl Store {
    /// Registers that were written after a revision, as of one moment; all of them after 0.
    ///
    /// # Errors
    /// [`Error::Away`] when the store does not answer.
    pub async fn registers(&self, after: u64) -> Result<Registers, Error> {
        Ok(self.reached().await?.registers(after).await?)
    }

    /// Tells from now on that registers whose names begin so may have been written, also by this process.
    ///
    /// # Errors
    /// [`Error::Away`] when the store does not answer.
    pub async fn register_news(&self, prefix: &str) -> Result<RegisterNews, Error> {
        Ok(RegisterNews(self.reached().await?.watch_registers(prefix).await?))
    }

    /// Writes registers, if all are as expected. Gives the number of the change; none when one is not as expected, and nothing was written.
    ///
    /// # Errors
    /// [`Error::Register`] for a name that is none, [`Error::Registers`] for more than one change takes. [`Error::Away`] when the store does not answer, and then nobody knows whether it was
    /// done: look at the revisions.
    ///
    /// # Cancel safety
    /// Not cancel-safe, as [`Error::Away`] says.
    pub async fn swap(&self, swap: &Swap) -> Result<Option<u64>, Error> {
        swap.check()?;
        Ok(self.reached().await?.swap(swap).await?)
    }
}
