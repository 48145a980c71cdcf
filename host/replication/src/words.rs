//! Words between regions beside their logs: a question of some bytes, an answer of some bytes, over the same listener and the same proof of who
//! asks. What they mean is somebody else's.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use portolan_core::ids::RegionName;
use portolan_foundation::task;

use crate::defaults::{SILENCE, WINDOW_BYTES, WORDS_BYTES_MAX};
use crate::link::{Broken, Outgoing, Stream, Tasks};

/// Where they are asked.
pub(crate) const PATH: &str = "/words";

/// Answers what other regions ask.
pub trait Answers: fmt::Debug + Send + Sync {
    /// The answer to a region's question; none where there is nothing to say to that.
    fn answer(&self, from: RegionName, question: Bytes) -> Answering;
}

/// An answer that is being made.
pub type Answering = Pin<Box<dyn Future<Output = Option<Bytes>> + Send>>;

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Answers for Silent {
    fn answer(&self, _: RegionName, _: Bytes) -> Answering {
        Box::pin(std::future::ready(None))
    }
}

/// Answers one question.
pub(crate) async fn serve(
    answers: &dyn Answers,
    from: RegionName,
    request: Request<Incoming>,
) -> Response<Outgoing> {
    let body = Limited::new(request.into_body(), WORDS_BYTES_MAX).collect().await;
    let (status, bytes) = match body {
        Ok(body) => match answers.answer(from, body.to_bytes()).await {
            Some(bytes) => (StatusCode::OK, bytes),
            None => (StatusCode::NO_CONTENT, Bytes::new()),
        },
        Err(error) if error.is::<LengthLimitError>() => (StatusCode::PAYLOAD_TOO_LARGE, Bytes::new()),
        Err(_) => (StatusCode::BAD_REQUEST, Bytes::new()),
    };
    let body = Full::new(bytes).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// One connection over which a region's node is asked. It ends with this.
#[derive(Clone, Debug)]
pub struct Asker(http2::SendRequest<Full<Bytes>>);

impl Asker {
    /// Over a transport that is there.
    ///
    /// # Errors
    /// When the other end speaks no HTTP/2.
    pub(crate) async fn over(stream: impl Stream) -> Result<Self, Broken> {
        let mut builder = http2::Builder::new(Tasks);
        // An answer of some megabytes is not to wait for the window over a long way.
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            // Who vanished without a word is not asked again and again.
            .keep_alive_interval(SILENCE / 2)
            .keep_alive_timeout(SILENCE);
        let done = builder.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = done.map_err(|error| Broken::Gone(error.to_string()))?;
        task::spawn("words-connection", async move { drop(connection.await) });
        Ok(Self(sender))
    }

    /// Asks. Gives the answer; none when the other end has nothing to say to that.
    ///
    /// # Errors
    /// When the link breaks, or the answer is no answer.
    ///
    /// # Cancel safety
    /// Whoever stops waiting asks again.
    pub async fn ask(&mut self, question: Bytes) -> Result<Option<Bytes>, Broken> {
        let gone = |error: &dyn fmt::Display| Broken::Gone(error.to_string());
        let request = Request::post(PATH).body(Full::new(question)).map_err(|error| gone(&error))?;
        self.0.ready().await.map_err(|error| gone(&error))?;
        let response = self.0.send_request(request).await.map_err(|error| gone(&error))?;
        match response.status() {
            StatusCode::OK => {
                let body = Limited::new(response.into_body(), WORDS_BYTES_MAX).collect().await;
                Ok(Some(body.map_err(|error| Broken::Gone(error.to_string()))?.to_bytes()))
            }
            StatusCode::NO_CONTENT => Ok(None),
            status => Err(Broken::Gone(format!("the other end answered {status}"))),
        }
    }
}
