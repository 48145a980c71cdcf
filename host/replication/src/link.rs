//! A link between two ends: frames both ways over one stream of HTTP/2 (RFC 9113). Whoever takes none is sent none: the stream's window
//! is all that waits, beside a few frames here.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream::unfold;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame as Piece;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::server::conn as server;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use portolan_core::ids::RegionName;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::task;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::defaults::{FRAMES_WAITING, SILENCE, STREAMS_MAX, WINDOW_BYTES};
use crate::wire::{Frame, Garbled};
use crate::words::{self, Answers};

/// Where links are asked for.
const PATH: &str = "/replication";

/// What is sent on a stream, as it is made.
pub(crate) type Outgoing = UnsyncBoxBody<Bytes, io::Error>;

/// Why a link is none any more.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The other end has gone, or what is between.
    #[error("the link broke: {0}")]
    Gone(String),
    /// The other end says what is no frame.
    #[error("the other end sent {0}")]
    Garbled(#[from] Garbled),
    /// It says what has no place here.
    #[error("the other end sent {0} out of turn")]
    Turn(&'static str),
}

/// One end's mouth. Clones speak on the same stream.
#[derive(Clone, Debug)]
pub struct Mouth(mpsc::Sender<Bytes>);

/// One end's ear.
#[derive(Debug)]
pub struct Ear {
    body: Incoming,
    buffer: BytesMut,
}

impl Mouth {
    /// A mouth, and the body of the message that carries what it says.
    pub(crate) fn new() -> (Self, Outgoing) {
        let (sender, receiver) = mpsc::channel(FRAMES_WAITING);
        let pieces = unfold(receiver, async |mut receiver| {
            let bytes = receiver.recv().await?;
            Some((Ok(Piece::data(bytes)), receiver))
        });
        (Self(sender), StreamBody::new(pieces).boxed_unsync())
    }

    /// Says a frame, once there is room for it. Gives how many bytes it had.
    ///
    /// # Errors
    /// When nobody hears any more.
    pub async fn say(&self, frame: &Frame) -> Result<u64, Broken> {
        let bytes = frame.encode()?;
        let length = bytes.len() as u64;
        self.0.send(bytes).await.map_err(|_| Broken::Gone("nobody hears".to_owned()))?;
        Ok(length)
    }
}

impl Ear {
    pub(crate) fn new(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// Hears the next frame, with how many bytes it had; none when the other end has said its last.
    ///
    /// # Errors
    /// When the link breaks, also within a frame.
    ///
    /// # Cancel safety
    /// Nothing is lost: what came of a frame is kept.
    pub async fn hear(&mut self) -> Result<Option<(Frame, u64)>, Broken> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            match self.body.frame().await {
                Some(Ok(piece)) => {
                    if let Ok(bytes) = piece.into_data() {
                        self.buffer.extend_from_slice(&bytes);
                    }
                }
                Some(Err(error)) => return Err(Broken::Gone(error.to_string())),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Broken::Gone("it ended within a frame".to_owned())),
            }
        }
    }
}

/// A kind of transport that bytes come and go by.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// Opens a link over a transport that is there. It ends with its mouth and ear.
///
/// # Errors
/// When the other end does not answer as a source does.
pub async fn open(stream: impl Stream) -> Result<(Mouth, Ear), Broken> {
    let gone = |error: &dyn std::fmt::Display| Broken::Gone(error.to_string());
    let mut builder = http2::Builder::new(Tasks);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .keep_alive_interval(SILENCE / 2)
        .keep_alive_timeout(SILENCE);
    let (mut sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(|error| gone(&error))?;
    task::spawn("replication-connection", async move { drop(connection.await) });
    let (mouth, body) = Mouth::new();
    let request = Request::post(PATH).body(body).map_err(|error| gone(&error))?;
    let response = sender.send_request(request).await.map_err(|error| gone(&error))?;
    if response.status() != StatusCode::OK {
        return Err(Broken::Gone(format!("the other end answered {}", response.status())));
    }
    Ok((mouth, Ear::new(response.into_body())))
}

/// Answers the links of one connection, each by `answer`, and the words of another region, until the other end closes it or the signal comes.
pub async fn answer<F, A>(
    stream: impl Stream,
    (from, words): (RegionName, Arc<dyn Answers>),
    shutdown: &Shutdown,
    answer: A,
) where
    A: Fn(Mouth, Ear) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer.clone();
        let (from, words) = (from.clone(), Arc::clone(&words));
        async move {
            if request.uri().path() == words::PATH && request.method() == Method::POST {
                return Ok::<_, Infallible>(words::serve(words.as_ref(), from, request).await);
            }
            let (mouth, body) = Mouth::new();
            let mut response = Response::new(body);
            if request.uri().path() == PATH && request.method() == Method::POST {
                task::spawn("replication-source", answer(mouth, Ear::new(request.into_body())));
            } else {
                *response.status_mut() = StatusCode::NOT_FOUND;
            }
            Ok(response)
        }
    });
    let mut builder = server::http2::Builder::new(Tasks);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(SILENCE / 2)
        .keep_alive_timeout(SILENCE);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        // Sources do not end by themselves: what is on its way is asked for again.
        () = shutdown.begun() => return,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a link's connection ended early");
    }
}

/// Runs what a connection has to do.
#[derive(Clone, Debug)]
pub(crate) struct Tasks;

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, future: F) {
        drop(task::spawn("replication-stream", future));
    }
}
