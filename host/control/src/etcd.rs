//! The log in a cluster of etcd, for nodes on several machines. Entries are on a majority's disks when they are acknowledged.
//!
//! Keys: `PREFIX/change/NUMBER` with twenty digits, so that their order is the order of generations, and `PREFIX/node/NAME`
//! under a lease, so that a node that is away disappears. `PREFIX/register/NAME` are registers, whose revisions are etcd's own. No key of a change is ever written twice or deleted. `PREFIX/newest` has
//! the newest number; it is there to be watched.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, GetOptions, Identity, PutOptions, SortOrder,
    SortTarget, TlsOptions, Txn, TxnOp, WatchOptions, WatchStream,
};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::defaults::{ANSWER_BYTES_MAX, ANSWER_TIMEOUT, REPORT_TTL, RETRY_MIN};
use crate::engine::{Appended, EtcdConfig};
use crate::error::Away;
use crate::register::{Register, Registers, Swap};

/// How often an idle connection is tried, and how long a dead one is waited for: members fail without a word.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));
/// Time to connect to one member.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct Etcd {
    /// Which member is asked: the one that answered last.
    current: AtomicUsize,
    /// A client of each member. One for all would go on asking members that are dead.
    members: Vec<Client>,
    /// The lease under which this node's report is.
    lease: Mutex<Option<i64>>,
    prefix: Arc<str>,
}

pub(crate) struct Watcher(WatchStream);

impl Etcd {
    pub(crate) async fn connect(config: &EtcdConfig) -> Result<Self, Away> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
            .with_keep_alive_while_idle(true)
            // A member without a leader says so instead of falling silent.
            .with_require_leader(true);
        if let Some((name, password)) = &config.user {
            options = options.with_user(name, password);
        }
        if let Some(tls) = tls(config).await? {
            options = options.with_tls(tls);
        }
        let mut members = Vec::new();
        let mut failed: Option<Away> = None;
        for endpoint in &config.endpoints {
            match within(Client::connect([endpoint], Some(options.clone()))).await {
                Ok(client) => members.push(client),
                Err(away) => failed = Some(away),
            }
        }
        if let (true, Some(away)) = (members.is_empty(), failed) {
            return Err(away);
        }
        let prefix = config.prefix.as_str().into();
        Ok(Self { current: AtomicUsize::new(0), lease: Mutex::default(), members, prefix })
    }

    pub(crate) async fn append(&self, generation: u64, entry: &[u8]) -> Result<Appended, Away> {
        let absent = |generation| Compare::create_revision(self.change(generation), CompareOp::Equal, 0);
        let mut when = vec![absent(generation)];
        if generation > 1 {
            let before = self.change(generation - 1);
            when.push(Compare::create_revision(before, CompareOp::Greater, 0));
        }
        let puts = [
            TxnOp::put(self.change(generation), entry, None),
            TxnOp::put(self.newest(), generation.to_string(), None),
        ];
        let txn = Txn::new().when(when).and_then(puts);
        // Asked once: of a lost answer the store has to know.
        let question = |client: Client| {
            let txn = txn.clone();
            async move { client.kv_client().txn(txn).await }
        };
        let answer = self.ask_once(&question).await?;
        Ok(if answer.succeeded() { Appended::Done } else { Appended::Taken })
    }

    pub(crate) async fn entries(&self, after: u64, max: usize) -> Result<Vec<(u64, Vec<u8>)>, Away> {
        let options = GetOptions::new()
            .with_range(self.changes_end())
            .with_limit(i64::try_from(max).unwrap_or(i64::MAX))
            .with_sort(SortTarget::Key, SortOrder::Ascend);
        let first = self.change(after.saturating_add(1));
        let answer = self.ask(|client| {
            let (first, options) = (first.clone(), options.clone());
            let mut client = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
            async move { client.get(first, Some(options)).await }
        });
        let answer = answer.await?;
        answer.kvs().iter().map(|pair| Ok((self.generation(pair.key())?, pair.value().to_vec()))).collect()
    }

    pub(crate) async fn registers(&self, after: u64) -> Result<Registers, Away> {
        let prefix = self.register("");
        let after_this = i64::try_from(after.saturating_add(1)).unwrap_or(i64::MAX);
        let options = GetOptions::new().with_prefix().with_min_mod_revision(after_this);
        let answer = self.ask(|client| {
            let (prefix, options) = (prefix.clone(), options.clone());
            let mut client = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
            async move { client.get(prefix, Some(options)).await }
        });
        let answer = answer.await?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        let register = |pair: &etcd_client::KeyValue| {
            let text =
                |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|error| Away(error.to_string()));
            let name = pair.key().strip_prefix(prefix.as_bytes()).unwrap_or_default();
            let revision = u64::try_from(pair.mod_revision()).unwrap_or(0);
            Ok(Register { name: text(name)?, revision, value: text(pair.value())? })
        };
        let mut changed = answer.kvs().iter().map(register).collect::<Result<Vec<_>, Away>>()?;
        changed.sort_by(|one, other| (one.revision, &one.name).cmp(&(other.revision, &other.name)));
        let revision = u64::try_from(revision).unwrap_or(0);
        if revision < after {
            return Err(Away(format!(
                "its revision is {revision}, and was {after}: it was put back, and all registers are to be read again"
            )));
        }
        Ok(Registers { changed, revision })
    }

    pub(crate) async fn swap(&self, swap: &Swap) -> Result<Option<u64>, Away> {
        let expected = |(name, revision): &(String, u64)| {
            let revision = i64::try_from(*revision).unwrap_or(i64::MAX);
            Compare::mod_revision(self.register(name), CompareOp::Equal, revision)
        };
        let put = |(name, value): &(String, String)| TxnOp::put(self.register(name), value.as_bytes(), None);
        let when: Vec<Compare> = swap.expect.iter().map(expected).collect();
        let txn = Txn::new().when(when).and_then(swap.put.iter().map(put).collect::<Vec<_>>());
        let question = |client: Client| {
            let txn = txn.clone();
            async move { client.kv_client().txn(txn).await }
        };
        let answer = self.ask_once(&question).await?;
        if !answer.succeeded() {
            return Ok(None);
        }
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok(u64::try_from(revision).ok())
    }

    pub(crate) async fn watch(&self) -> Result<Watcher, Away> {
        self.watch_keys(&self.newest(), WatchOptions::new()).await
    }

    pub(crate) async fn watch_registers(&self, prefix: &str) -> Result<Watcher, Away> {
        self.watch_keys(&self.register(prefix), WatchOptions::new().with_prefix()).await
    }

    async fn watch_keys(&self, key: &str, options: WatchOptions) -> Result<Watcher, Away> {
        let stream = self.ask(|client| {
            let (key, options) = (key.to_owned(), options.clone());
            async move { client.watch_client().watch(key, Some(options)).await }
        });
        Ok(Watcher(stream.await?))
    }

    pub(crate) async fn report(&self, node: &str, report: &[u8]) -> Result<(), Away> {
        let mut lease = self.lease.lock().await;
        let id = match *lease {
            Some(id) if self.renew(id).await? => id,
            _ => {
                let seconds = i64::try_from(REPORT_TTL.as_secs()).unwrap_or(i64::MAX);
                self.ask(|client| async move { client.lease_client().grant(seconds, None).await }).await?.id()
            }
        };
        *lease = Some(id);
        let key = format!("{}/node/{node}", self.prefix);
        let put = PutOptions::new().with_lease(id);
        let asked = self.ask(|client| {
            let (key, report, put) = (key.clone(), report.to_vec(), put.clone());
            async move { client.kv_client().put(key, report, Some(put)).await }
        });
        asked.await?;
        Ok(())
    }

    pub(crate) async fn reports(&self) -> Result<Vec<(String, Vec<u8>)>, Away> {
        let prefix = format!("{}/node/", self.prefix);
        let answer = self.ask(|client| {
            let prefix = prefix.clone();
            async move { client.kv_client().get(prefix, Some(GetOptions::new().with_prefix())).await }
        });
        let answer = answer.await?;
        let name = |key: &[u8]| {
            String::from_utf8_lossy(key.strip_prefix(prefix.as_bytes()).unwrap_or_default()).into_owned()
        };
        Ok(answer.kvs().iter().map(|pair| (name(pair.key()), pair.value().to_vec())).collect())
    }

    /// Keeps a lease for another while; `false` when it has run out.
    async fn renew(&self, id: i64) -> Result<bool, Away> {
        let asked = self.ask(|client| async move {
            let (mut keeper, mut answers) = client.lease_client().keep_alive(id).await?;
            keeper.keep_alive().await?;
            Ok(answers.message().await?.is_some_and(|answer| answer.ttl() > 0))
        });
        asked.await
    }

    /// Asks the members in turn, and again after a pause, because an election takes a moment.
    async fn ask<T, F>(&self, question: impl Fn(Client) -> F) -> Result<T, Away>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let begun = Instant::now();
        let mut pause = RETRY_MIN;
        for tries in 1_usize.. {
            match self.ask_once(&question).await {
                Err(_) if begun.elapsed() < ANSWER_TIMEOUT => {}
                answer => return answer,
            }
            if tries.is_multiple_of(self.members.len().max(1)) {
                sleep(pause).await;
                pause *= 2;
            }
        }
        Err(Away("nobody was asked".to_owned()))
    }

    /// Asks the member that answered last. When it fails, or whoever asks waits no longer, the next one is asked from then on: one that is
    /// silent would have all of the time of who has little.
    async fn ask_once<T, F>(&self, question: &impl Fn(Client) -> F) -> Result<T, Away>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let current = self.current.load(Ordering::Relaxed);
        let client = self.members.get(current % self.members.len().max(1));
        let client = client.cloned().ok_or_else(|| Away("it has no members".to_owned()))?;
        let mut turn = Turn { answered: false, asked: current, current: &self.current };
        // The client's own futures are large.
        let answer = within(Box::pin(question(client))).await;
        turn.answered = answer.is_ok();
        answer
    }

    fn change(&self, generation: u64) -> String {
        format!("{}/change/{generation:020}", self.prefix)
    }

    fn register(&self, name: &str) -> String {
        format!("{}/register/{name}", self.prefix)
    }

    fn newest(&self) -> String {
        format!("{}/newest", self.prefix)
    }

    /// The first key after all changes: `0` follows `/`, and `:` the last digit.
    fn changes_end(&self) -> String {
        format!("{}/change/:", self.prefix)
    }

    fn generation(&self, key: &[u8]) -> Result<u64, Away> {
        let text = std::str::from_utf8(key).unwrap_or_default();
        let number = text.strip_prefix(&*self.prefix).and_then(|rest| rest.strip_prefix("/change/"));
        number
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| Away(format!("the key `{text}` is none of a control store's")))
    }
}

/// A question to one member.
struct Turn<'a> {
    answered: bool,
    asked: usize,
    current: &'a AtomicUsize,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.answered {
            let next = self.asked.wrapping_add(1);
            // Whoever was first moves on for all.
            _ = self.current.compare_exchange(self.asked, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Watcher {
    pub(crate) async fn changed(&mut self) -> Result<(), Away> {
        loop {
            let message = self.0.message().await.map_err(|error| Away(error.to_string()))?;
            let Some(message) = message else { return Err(Away("the watch has ended".to_owned())) };
            if message.canceled() {
                // Compaction among other reasons: whoever watches reads again from where it was.
                return Err(Away(format!("the watch was cancelled: {}", message.cancel_reason())));
            }
            if !message.events().is_empty() {
                return Ok(());
            }
        }
    }
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}

async fn tls(config: &EtcdConfig) -> Result<Option<TlsOptions>, Away> {
    let read = async |path: &std::path::Path| {
        tokio::fs::read(path).await.map_err(|error| Away(format!("read {}: {error}", path.display())))
    };
    let Some(ca) = &config.ca else { return Ok(None) };
    let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(ca).await?));
    if let Some((cert, key)) = &config.identity {
        tls = tls.identity(Identity::from_pem(read(cert).await?, read(key).await?));
    }
    Ok(Some(tls))
}

async fn within<T>(answer: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T, Away> {
    match timeout(ANSWER_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(|error| Away(error.to_string())),
        Err(_) => Err(Away(format!("no answer within {ANSWER_TIMEOUT:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_no_longer_moves_on_to_the_next_member() {
        let endpoints = vec!["http://127.0.0.1:1".to_owned(), "http://127.0.0.1:2".to_owned()];
        let config = EtcdConfig { ca: None, endpoints, identity: None, prefix: "/p".to_owned(), user: None };
        let etcd = Etcd::connect(&config).await.unwrap();
        let asked = || etcd.current.load(Ordering::Relaxed);
        let silent = |_: Client| std::future::pending::<Result<(), etcd_client::Error>>();
        assert!(timeout(Duration::from_millis(500), etcd.ask_once(&silent)).await.is_err());
        assert_eq!(asked(), 1);
        let good = |_: Client| std::future::ready(Ok(()));
        etcd.ask_once(&good).await.unwrap();
        assert_eq!(asked(), 1, "it answers");
        // Two who give up on one member move on by one.
        let both = async { tokio::join!(etcd.ask_once(&silent), etcd.ask_once(&silent)) };
        assert!(timeout(Duration::from_millis(500), both).await.is_err());
        assert_eq!(asked(), 2);
        assert!(etcd.ask_once(&silent).await.is_err(), "nobody is waited for without an end");
        assert_eq!(asked(), 3);
    }
}
