//! A query in a process of its own. What it takes too much of, it takes from nobody else: its memory has a hard limit, and when it is
//! ended, its connections are, too.
//!
//! The node writes a [`Query`] into the worker's standard input and reads frames from its output: one that says what is known of the
//! answer, then its bytes, then its end or why there is none. Each is a letter, the length of what follows in four bytes, and that.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use portolan_core::time::Moment;
use portolan_foundation::clock;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::answer::{Answer, Head, write};
use crate::defaults::{ADDRESS_BYTES_MAX, FRAME_BYTES_MAX, GRACE, QUERIES_MAX, STACK_BYTES, TURN};
use crate::engine::{self, Query};
use crate::error::Error;
use crate::push::Pushes;

/// The answer's bytes.
const DATA: u8 = b'D';
/// There is nothing more.
const END: u8 = b'Z';
/// Why there is no answer, or no more of it.
const FAILED: u8 = b'E';
/// What is known of the answer.
const HEAD: u8 = b'H';

/// Starts workers, a few at once. Clones share the few.
#[derive(Clone, Debug)]
pub struct Workers {
    arguments: Vec<OsString>,
    program: PathBuf,
    turns: Arc<Semaphore>,
}

impl Workers {
    /// Workers are this program with these arguments, which must come to [`work`].
    #[must_use]
    pub fn new(program: PathBuf, arguments: Vec<OsString>) -> Self {
        Self { arguments, program, turns: Arc::new(Semaphore::new(QUERIES_MAX)) }
    }

    /// Has a query answered. Comes back when the answer begins.
    ///
    /// # Errors
    /// As [`Error`] says; [`Error::Busy`] when too many are being answered.
    ///
    /// # Cancel safety
    /// When this or the answer's body is dropped, the worker is ended.
    pub async fn ask(&self, query: &Query) -> Result<Answer, Error> {
        let turn = tokio::time::timeout(TURN, Arc::clone(&self.turns).acquire_owned()).await;
        let turn = turn.ok().and_then(Result::ok).ok_or_else(|| {
            Error::Busy(format!("{QUERIES_MAX} queries run on this node already: ask again in a while"))
        })?;
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Error::Internal(format!("start a worker: {error}")))?;
        let gone = || Error::Internal("a worker has no pipes".to_owned());
        let (mut input, output) =
            (child.stdin.take().ok_or_else(gone)?, child.stdout.take().ok_or_else(gone)?);
        let text = serde_json::to_vec(query).map_err(|error| Error::Internal(error.to_string()))?;
        // One that does not read has ended: its output says why.
        let sent = input.write_all(&text).await;
        drop(input);
        let until = clock::now().plus(query.limits.time()).plus(GRACE);
        let mut talk = Talk { _child: child, output, time_ms: query.limits.time_ms, _turn: turn, until };
        match (talk.frame().await?, sent) {
            ((HEAD, head), _) => {
                let head: Head = decode(&head)?;
                Ok(Answer { body: body(talk), head })
            }
            ((FAILED, error), _) => Err(decode(&error)?),
            ((_, _), Err(error)) => Err(Error::Internal(format!("speak to a worker: {error}"))),
            ((_, _), Ok(())) => Err(Error::Internal("a worker spoke out of turn".to_owned())),
        }
    }
}

fn body(talk: Talk) -> BoxStream<'static, Result<Bytes, Error>> {
    let next = |talk: Option<Talk>| async {
        let mut talk = talk?;
        match talk.frame().await {
            Ok((DATA, bytes)) => Some((Ok(bytes), Some(talk))),
            Ok((END, _)) => None,
            Ok((FAILED, error)) => Some((Err(decode(&error).unwrap_or_else(|error| error)), None)),
            Ok(_) => Some((Err(Error::Internal("a worker spoke out of turn".to_owned())), None)),
            Err(error) => Some((Err(error), None)),
        }
    };
    stream::unfold(Some(talk), next).boxed()
}

/// A worker that is listened to. Dropped, it is ended.
struct Talk {
    _child: Child,
    output: ChildStdout,
    time_ms: u64,
    _turn: OwnedSemaphorePermit,
    until: Moment,
}

impl Talk {
    async fn frame(&mut self) -> Result<(u8, Bytes), Error> {
        let left = self.until.since(clock::now());
        let frame = tokio::time::timeout(left, read(&mut self.output)).await;
        frame.map_err(|_| Error::Time(self.time_ms))?.map_err(|_| {
            Error::Limit(
                "the query's worker ended before its answer did, most likely because it needed more memory than it may have: narrow \
                 the query with WHERE, aggregate, or sort less"
                    .to_owned(),
            )
        })
    }
}

async fn read(output: &mut ChildStdout) -> std::io::Result<(u8, Bytes)> {
    let kind = output.read_u8().await?;
    let length = usize::try_from(output.read_u32().await?).unwrap_or(usize::MAX);
    if length > FRAME_BYTES_MAX {
        return Err(std::io::Error::other("a frame that is too long"));
    }
    let mut bytes = vec![0; length];
    output.read_exact(&mut bytes).await?;
    Ok((kind, bytes.into()))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::Internal(format!("understand a worker: {error}")))
}

/// What a worker does: answers the one query in its standard input, and ends.
#[must_use]
pub fn work() -> ExitCode {
    let limited = limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(crate::defaults::PARTITIONS)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build();
    let done = match (limited, runtime) {
        (Ok(()), Ok(runtime)) => runtime.block_on(answer()),
        (Err(error), _) => tell(FAILED, &Error::Internal(format!("limit the memory: {error}"))),
        (_, Err(error)) => tell(FAILED, &Error::Internal(format!("start: {error}"))),
    };
    // When nobody listens any more, there is nobody to tell.
    if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// From here on this process has no more memory than this, and leaves no picture of it.
fn limit() -> std::io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let most = |most| Rlimit { current: Some(most), maximum: Some(most) };
    setrlimit(Resource::As, most(ADDRESS_BYTES_MAX))?;
    setrlimit(Resource::Core, most(0))?;
    Ok(())
}

async fn answer() -> std::io::Result<()> {
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text)?;
    let answered = async {
        let query: Query =
            serde_json::from_slice(&text).map_err(|error| Error::Internal(error.to_string()))?;
        end_by(query.limits.time().saturating_add(GRACE));
        let rows = engine::run(&query, Pushes::ALL).await?;
        let mut answer = write(rows, query.format)?;
        // Most that goes wrong does so before the first bytes: then the client gets a status that says so.
        let first = answer.body.next().await.transpose()?;
        Ok::<_, Error>((answer, first))
    };
    let (mut answer, first) = match answered.await {
        Ok(answered) => answered,
        Err(error) => return tell(FAILED, &error),
    };
    tell(HEAD, &answer.head)?;
    let mut next = first.map(Ok);
    while let Some(bytes) = next {
        match bytes {
            Ok(bytes) => {
                for part in bytes.chunks(FRAME_BYTES_MAX) {
                    say(DATA, part)?;
                }
            }
            Err(error) => return tell(FAILED, &error),
        }
        next = answer.body.next().await;
    }
    say(END, &[])
}

/// Ends this process when its time is over, also while it waits for a reader that has gone to sleep: its transactions would stay open
/// as long.
fn end_by(time: Duration) {
    portolan_foundation::task::spawn("a query's end", async move {
        tokio::time::sleep(time).await;
        std::process::exit(1);
    });
}

fn tell(kind: u8, what: &impl Serialize) -> std::io::Result<()> {
    say(kind, &serde_json::to_vec(what).map_err(std::io::Error::other)?)
}

/// Writes a frame. The output is a pipe: when nobody reads it, the worker waits, and so do its shards.
fn say(kind: u8, bytes: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
    let mut output = std::io::stdout().lock();
    output.write_all(&[kind])?;
    output.write_all(&length.to_be_bytes())?;
    output.write_all(bytes)?;
    output.flush()
}
