//! Failover's entries as registers of the control store, of which only what has changed is fetched.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portolan_control::{Store, Swap};
use portolan_failover::store::{Answer, Key, PREFIX, Request, Revision, Table, Transaction, Value};

/// What this node has of them. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Registers {
    known: Arc<Mutex<(Table, u64)>>,
    store: Store,
}

impl Registers {
    pub(super) fn new(store: Store) -> Self {
        Self { known: Arc::default(), store }
    }

    /// Asks the store, and waits so long for it.
    pub(super) async fn ask(&self, request: Request, patience: Duration) -> Answer {
        let asked = async {
            match request {
                Request::Scan => self.scan().await,
                Request::Commit(change) => self.commit(&change).await,
            }
        };
        tokio::time::timeout(patience, asked).await.unwrap_or(Answer::Away)
    }

    async fn scan(&self) -> Answer {
        let after = self.known.lock().unwrap_or_else(PoisonError::into_inner).1;
        let registers = match self.store.registers(after).await {
            Ok(registers) => registers,
            Err(error) => {
                tracing::debug!("leases are not read: {error}");
                return Answer::Away;
            }
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for register in registers.changed.iter().filter(|register| register.name.starts_with(PREFIX)) {
            let value = serde_json::from_str::<Value>(&register.value).map_err(|error| error.to_string());
            match (register.name.parse::<Key>().map_err(|error| error.to_string()), value) {
                (Ok(key), Ok(value)) => known.0.take_over(key, Revision(register.revision), value),
                (Err(error), _) | (_, Err(error)) => {
                    tracing::error!(register = register.name, "what it says is not understood: {error}");
                }
            }
        }
        known.1 = known.1.max(registers.revision);
        Answer::Entries(known.0.clone())
    }

    async fn commit(&self, change: &Transaction) -> Answer {
        // A change may rest twice on one entry.
        let expect: BTreeMap<String, u64> =
            change.expect.iter().map(|(key, at)| (key.to_string(), at.0)).collect();
        let put: Result<BTreeMap<String, String>, serde_json::Error> = change
            .put
            .iter()
            .map(|(key, value)| Ok((key.to_string(), serde_json::to_string(value)?)))
            .collect();
        let put = match put {
            Ok(put) => put,
            Err(error) => {
                tracing::error!("a change of leases cannot be written down: {error}");
                return Answer::Conflict;
            }
        };
        let swap = Swap { expect: expect.into_iter().collect(), put: put.into_iter().collect() };
        match self.store.swap(&swap).await {
            Ok(Some(revision)) => Answer::Committed(Revision(revision)),
            Ok(None) => Answer::Conflict,
            Err(error) => {
                tracing::debug!("a change of leases was not answered: {error}");
                Answer::Away
            }
        }
    }
}
