//! A connection of replication: it proves who it is, starts a slot, and from then on gives frames and takes words of how far they are kept.
//! `postgres-protocol` frames messages and speaks SCRAM; sqlx knows no such connections.

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use fallible_iterator::FallibleIterator as _;
use percent_encoding::percent_decode_str;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{ErrorFields, Header, Message};
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::pgoutput::{Lsn, status};
use super::tls::{Asks, Proofs, connector};
use crate::defaults::{ANSWER_TIMEOUT, FRAME_BYTES_MAX, SENDER_TIMEOUT};
use crate::error::Error;

/// The publication that slots are read with: it has no tables, and so nothing but messages comes.
pub(super) const PUBLICATION: &str = "portolan";

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A slot that streams.
pub(super) struct Stream {
    received: BytesMut,
    socket: Box<dyn Socket>,
}

/// One message of the server.
enum Said {
    /// It streams from here on.
    Both,
    Message(Message),
}

/// `CopyBothResponse`, which ordinary connections never see.
const COPY_BOTH: u8 = b'W';

impl Stream {
    /// Connects with an ordinary connection's address and password, and starts a slot after a place.
    ///
    /// # Errors
    /// [`Error::Away`] with what the server says.
    pub(super) async fn open(options: &PgConnectOptions, slot: &str, after: Lsn) -> Result<Self, Error> {
        let opened = timeout(ANSWER_TIMEOUT, Box::pin(Self::begin(options, slot, after))).await;
        opened.unwrap_or_else(|_| Err(away("no answer in time")))
    }

    async fn begin(options: &PgConnectOptions, slot: &str, after: Lsn) -> Result<Self, Error> {
        let mut stream = Self { received: BytesMut::new(), socket: connect(options).await? };
        stream.log_in(options).await?;
        let start = format!(
            "START_REPLICATION SLOT {slot} LOGICAL {after} \
             (proto_version '1', publication_names '{PUBLICATION}', messages 'true')"
        );
        stream.say(|buffer| frontend::query(&start, buffer)).await?;
        loop {
            match stream.hear().await? {
                Said::Both => return Ok(stream),
                Said::Message(_) => {}
            }
        }
    }

    /// The next frame.
    ///
    /// # Errors
    /// [`Error::Away`] when the stream ends, with why.
    ///
    /// # Cancel safety
    /// Cancel-safe: what has been received in part stays.
    pub(super) async fn next(&mut self) -> Result<Bytes, Error> {
        loop {
            if let Said::Message(Message::CopyData(data)) = self.hear().await? {
                return Ok(data.into_bytes());
            }
        }
    }

    /// Says that all up to here is kept: the slot need not have it any more.
    ///
    /// # Errors
    /// [`Error::Away`] when nobody hears.
    pub(super) async fn confirm(&mut self, kept: Lsn) -> Result<(), Error> {
        let data = frontend::CopyData::new(Bytes::from(status(kept))).map_err(away)?;
        self.say(|buffer| {
            data.write(buffer);
            Ok(())
        })
        .await
    }

    async fn say(&mut self, words: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<(), Error> {
        let mut buffer = BytesMut::new();
        words(&mut buffer).map_err(away)?;
        let said = timeout(ANSWER_TIMEOUT, async {
            self.socket.write_all(&buffer).await?;
            self.socket.flush().await
        });
        said.await.map_err(|_| away("it takes nothing"))?.map_err(away)
    }

    /// What the server says next; what it refuses is an error.
    async fn hear(&mut self) -> Result<Said, Error> {
        loop {
            let header = Header::parse(&self.received).map_err(away)?;
            let wanted = header.map_or(0, |header| usize::try_from(header.len()).unwrap_or_default() + 1);
            if wanted > FRAME_BYTES_MAX {
                return Err(away(format!("a message of {wanted} bytes, of at most {FRAME_BYTES_MAX}")));
            }
            if header.is_some() && self.received.len() >= wanted {
                if header.is_some_and(|header| header.tag() == COPY_BOTH) {
                    self.received.advance(wanted);
                    return Ok(Said::Both);
                }
                match Message::parse(&mut self.received).map_err(away)? {
                    Some(Message::ErrorResponse(error)) => return Err(refused(error.fields())),
                    Some(Message::CopyDone) => return Err(away("the server ends the stream")),
                    Some(message) => return Ok(Said::Message(message)),
                    None => {}
                }
            }
            if self.socket.read_buf(&mut self.received).await.map_err(away)? == 0 {
                return Err(away("the connection has ended"));
            }
        }
    }

    async fn log_in(&mut self, options: &PgConnectOptions) -> Result<(), Error> {
        let user = options.get_username();
        let limit = format!("-c wal_sender_timeout={}ms", SENDER_TIMEOUT.as_millis());
        let parameters = [
            ("user", user),
            ("database", options.get_database().unwrap_or(user)),
            ("replication", "database"),
            ("client_encoding", "UTF8"),
            ("application_name", "portolan shipper"),
            ("options", &limit),
        ];
        self.say(|buffer| frontend::startup_message(parameters, buffer)).await?;
        let password = password(options);
        let mut scram = None;
        loop {
            let Said::Message(message) = self.hear().await? else { return Err(away("it streams too early")) };
            match message {
                Message::AuthenticationCleartextPassword => self.tell(password.as_bytes()).await?,
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(user.as_bytes(), password.as_bytes(), body.salt());
                    self.tell(hash.as_bytes()).await?;
                }
                Message::AuthenticationSasl(body) => {
                    if !body.mechanisms().any(|name| Ok(name == SCRAM_SHA_256)).map_err(away)? {
                        return Err(away("it asks for a proof other than SCRAM-SHA-256"));
                    }
                    let begun = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
                    let first = begun.message().to_vec();
                    self.say(|buffer| frontend::sasl_initial_response(SCRAM_SHA_256, &first, buffer)).await?;
                    scram = Some(begun);
                }
                Message::AuthenticationSaslContinue(body) => {
                    let scram = scram.as_mut().ok_or_else(|| away("it goes on with what has not begun"))?;
                    scram.update(body.data()).map_err(away)?;
                    let proof = scram.message().to_vec();
                    self.say(|buffer| frontend::sasl_response(&proof, buffer)).await?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    let scram = scram.as_mut().ok_or_else(|| away("it ends what has not begun"))?;
                    scram.finish(body.data()).map_err(away)?;
                }
                Message::ReadyForQuery(_) => return Ok(()),
                Message::AuthenticationGss
                | Message::AuthenticationKerberosV5
                | Message::AuthenticationScmCredential
                | Message::AuthenticationSspi => {
                    return Err(away("it asks for a proof that is neither a password nor a certificate"));
                }
                _ => {}
            }
        }
    }

    async fn tell(&mut self, password: &[u8]) -> Result<(), Error> {
        self.say(|buffer| frontend::password_message(password, buffer)).await
    }
}

async fn connect(options: &PgConnectOptions) -> Result<Box<dyn Socket>, Error> {
    let port = options.get_port();
    let host = options.get_host().trim_matches(['[', ']']).to_owned();
    let folder = options.get_socket().map(|path| path.display().to_string());
    if let Some(folder) = folder.or_else(|| host.starts_with('/').then(|| host.clone())) {
        let path = format!("{folder}/.s.PGSQL.{port}");
        return Ok(Box::new(UnixStream::connect(path).await.map_err(away)?));
    }
    let mut socket = TcpStream::connect((host.as_str(), port)).await.map_err(away)?;
    socket.set_nodelay(true).map_err(away)?;
    let mode = options.get_ssl_mode();
    if matches!(mode, PgSslMode::Disable | PgSslMode::Allow) {
        return Ok(Box::new(socket));
    }
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await.map_err(away)?;
    if socket.read_u8().await.map_err(away)? != b'S' {
        return match mode {
            PgSslMode::Prefer => Ok(Box::new(socket)),
            _ => Err(away("the server does not speak TLS, and is to be asked for it")),
        };
    }
    let connector = connector(&proofs(options)).map_err(away)?;
    let name = ServerName::try_from(host).map_err(away)?;
    Ok(Box::new(connector.connect(name, socket).await.map_err(away)?))
}

/// What an ordinary connection's address says of certificates.
fn proofs(options: &PgConnectOptions) -> Proofs {
    let url = options.to_url_lossy();
    // A file is told as such, what is written in place as it is.
    let plain = |value: &str| value.strip_prefix("file: ").unwrap_or(value).to_owned();
    let said = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| plain(&value));
    let asks = match options.get_ssl_mode() {
        PgSslMode::VerifyCa => Asks::Authority,
        PgSslMode::VerifyFull => Asks::Name,
        _ => Asks::Encryption,
    };
    Proofs { ca: said("sslrootcert"), own: said("sslcert").zip(said("sslkey")), asks }
}

fn password(options: &PgConnectOptions) -> String {
    let url = options.to_url_lossy();
    percent_decode_str(url.password().unwrap_or_default()).decode_utf8_lossy().into_owned()
}

fn away(why: impl std::fmt::Display) -> Error {
    Error::Away(format!("its slot: {why}"))
}

/// In the server's own words.
fn refused(fields: ErrorFields<'_>) -> Error {
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut said = fields.filter_map(|field| Ok((field.type_() == b'M').then(|| words(field.value_bytes()))));
    match said.next() {
        Ok(Some(why)) => away(why),
        Ok(None) => away("an error without words"),
        Err(error) => away(error),
    }
}
