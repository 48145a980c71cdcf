//! Asks a running node over its admin socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::node::SOCKET;

/// Status reports of nodes with very many slots are large.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
const TIMEOUT: Duration = Duration::from_secs(10);

/// The admin socket of the node that a configuration is of.
///
/// # Errors
/// When the configuration does not say it.
pub(crate) fn socket(given: Option<&Path>, config: &Path) -> anyhow::Result<PathBuf> {
    if let Some(socket) = given {
        return Ok(socket.to_owned());
    }
    let local = crate::shown(crate::config::local(config, crate::environment()));
    let local = local.context("name the node's socket with --socket, or mend the configuration")?;
    Ok(local.state.join(SOCKET))
}

/// Sends one question and gives the answer's JSON.
///
/// # Errors
/// When no node answers there, or it refuses; the text says what to do.
pub(crate) fn ask(socket: &Path, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<Value> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    runtime.block_on(async {
        let exchange = exchange(socket, method, path, body);
        tokio::time::timeout(TIMEOUT, exchange)
            .await
            .with_context(|| format!("no answer within {TIMEOUT:?}"))?
    })
}

/// The same from within a runtime.
///
/// # Errors
/// As [`ask`].
pub(crate) async fn exchange(
    socket: &Path,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> anyhow::Result<Value> {
    let stream = tokio::net::UnixStream::connect(socket).await.with_context(|| {
        format!(
            "ask the node at {}: is it running? `portolan serve` starts it, --socket names another",
            socket.display()
        )
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("speak with the node")?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "portolan")
        .body(Full::new(Bytes::from(body)))
        .context("write the question")?;
    let asked = async {
        let response = sender.send_request(request).await.context("ask the node")?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("read the node's answer: {error}"))?.to_bytes();
        let value: Value = serde_json::from_slice(&body).context("read the node's answer")?;
        if !status.is_success() {
            let reason = value.get("error").and_then(Value::as_str).unwrap_or("no reason given");
            bail!("the node says: {reason}");
        }
        Ok(value)
    };
    tokio::select! {
        answer = asked => answer,
        // The connection ends after its one answer; what matters is the answer.
        _ = async { connection.await.ok(); std::future::pending::<()>().await } => bail!("the node went away"),
    }
}
