//! Requests to DNS providers, carried by HTTPS.

use std::time::Duration;

use portolan_dns::push::cloud::{Answer, Carry, Carrying, Request};
use reqwest::Client;
use reqwest::redirect::Policy;

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(15);
/// Bytes of an answer: a thousand records with room to spare.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Carries requests; clones share its connections.
#[derive(Clone, Debug)]
pub(super) struct Https(Client);

impl Https {
    /// Follows nobody elsewhere: requests bring keys.
    ///
    /// # Errors
    /// When TLS cannot be prepared.
    pub(super) fn new() -> Result<Self, reqwest::Error> {
        Client::builder().timeout(ANSWER).redirect(Policy::none()).build().map(Self)
    }
}

impl Carry for Https {
    fn carry(&self, request: Request) -> Carrying {
        let client = self.0.clone();
        Box::pin(async move {
            let told = |error: reqwest::Error| format!("{:#}", anyhow::Error::from(error));
            let Request { body, fields, url } = request;
            let asked = match body {
                Some(body) => client.post(url).body(body),
                None => client.get(url),
            };
            let asked = fields.into_iter().fold(asked, |asked, (name, value)| asked.header(name, value));
            let mut answer = asked.send().await.map_err(told)?;
            let (status, mut bytes) = (answer.status().as_u16(), Vec::new());
            while let Some(piece) = answer.chunk().await.map_err(told)? {
                if bytes.len() + piece.len() > ANSWER_BYTES_MAX {
                    return Err(format!("its answer has more than {ANSWER_BYTES_MAX} bytes"));
                }
                bytes.extend_from_slice(&piece);
            }
            Ok(Answer { body: String::from_utf8_lossy(&bytes).into_owned(), status })
        })
    }
}
