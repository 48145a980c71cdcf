//! What a node answers before it can serve: `/ready` says 503 and what it waits for, so that whoever balances load sees it and
//! sends nothing. Ends when the node goes on to serve, and gives the address back.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use portolan_foundation::task;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::admin::{HEADER_TIMEOUT, text};

/// Connections at the same time while it starts.
const CONNECTIONS_MAX: usize = 8;

/// What the node waits for; nothing, when it only starts.
pub(crate) type Waiting = Arc<Mutex<Option<String>>>;

/// The listener, as long as the node starts.
#[derive(Debug)]
pub(super) struct Starting {
    answering: JoinHandle<Option<()>>,
    listener: Arc<TcpListener>,
}

impl Starting {
    /// Begins to answer.
    pub(super) fn begin(listener: TcpListener, waiting: Waiting) -> Self {
        let listener = Arc::new(listener);
        let answering = task::spawn("starting", answer(Arc::clone(&listener), waiting));
        Self { answering, listener }
    }

    /// Ends, and gives the listener back.
    pub(super) async fn end(self) -> Option<TcpListener> {
        self.answering.abort();
        self.answering.await.ok();
        Arc::into_inner(self.listener)
    }
}

async fn answer(listener: Arc<TcpListener>, waiting: Waiting) {
    let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of files: the next look comes with the next connection that is closed.
            tokio::task::yield_now().await;
            continue;
        };
        let waiting = Arc::clone(&waiting);
        task::spawn("starting-connection", async move {
            let service = service_fn(|_| {
                let reason = waiting.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let reason = reason.unwrap_or_else(|| "starting".to_owned());
                async move {
                    Ok::<Response<Full<Bytes>>, Infallible>(text(
                        "text/plain",
                        StatusCode::SERVICE_UNAVAILABLE,
                        format!("{reason}\n"),
                    ))
                }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).keep_alive(false);
            http.serve_connection(TokioIo::new(stream), service).await.ok();
            drop(place);
        });
    }
}
