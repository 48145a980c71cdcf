//! One message to a server and its answer, over TCP, both signed.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use hickory_proto::op::Message;
use hickory_proto::rr::{RData, RecordType};
use portolan_foundation::random;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::decide::Standing;
use super::message::{epoch_name, question, their_name};
use super::{Failure, Found, Server, Target};
use crate::defaults::UPDATE_TIMEOUT;
use crate::name::Name;
use crate::tsig::{BAD_KEY, BAD_SIGNATURE, BAD_TIME, Broken, Trouble, named};

/// Answers' codes that matter to an update (RFC 2136, section 2.2).
pub(super) mod code {
    pub(in crate::push) const NO_ERROR: u8 = 0;
    pub(in crate::push) const FORMAT: u8 = 1;
    pub(in crate::push) const SERVER: u8 = 2;
    pub(in crate::push) const NO_NAME: u8 = 3;
    pub(in crate::push) const NOT_IMPLEMENTED: u8 = 4;
    pub(in crate::push) const REFUSED: u8 = 5;
    pub(in crate::push) const NAME_EXISTS: u8 = 6;
    pub(in crate::push) const SET_EXISTS: u8 = 7;
    pub(in crate::push) const NO_SET: u8 = 8;
    pub(in crate::push) const NOT_AUTH: u8 = 9;
    pub(in crate::push) const NOT_ZONE: u8 = 10;
}

/// Records of one section that an answer may say that it has. More is no answer to what is asked here.
const RECORDS_MAX: u16 = 1_000;

/// A connection to a server.
pub(super) struct Connection<'a> {
    stream: TcpStream,
    target: &'a Target,
}

/// An answer whose signature holds.
pub(super) struct Answered {
    pub(super) code: u8,
    message: Vec<u8>,
}

impl<'a> Connection<'a> {
    pub(super) async fn open(target: &'a Target) -> Result<Self, Failure> {
        let connecting = timeout(UPDATE_TIMEOUT, TcpStream::connect(target.server)).await;
        let stream = match connecting {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(target.unreachable(format!("connect: {error}"))),
            Err(_) => return Err(target.unreachable("it does not take connections in time".to_owned())),
        };
        Ok(Self { stream, target })
    }

    /// Sends a message that was built with an id of its own, signed now, and takes the answer.
    pub(super) async fn ask(
        &mut self,
        build: impl FnOnce(u16) -> Option<Vec<u8>>,
    ) -> Result<Answered, Failure> {
        let target = self.target;
        let id = (random::u64() & 0xffff) as u16;
        let now_s = (target.clock)();
        let sealed = build(id).and_then(|mut message| {
            let mac = target.key.seal(&mut message, None, false, now_s, Trouble::default())?;
            Some((message, mac))
        });
        let Some((message, mac)) = sealed else {
            return Err(target.refused("the message cannot be built".to_owned(), "please report this"));
        };
        let answer = match timeout(UPDATE_TIMEOUT, self.exchange(&message)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(target.unreachable(format!("it did not answer: {error}"))),
            Err(_) => return Err(target.unreachable("it did not answer in time".to_owned())),
        };
        target.judge(id, &mac, now_s, answer)
    }

    async fn exchange(&mut self, message: &[u8]) -> io::Result<Vec<u8>> {
        let length = u16::try_from(message.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(message);
        self.stream.write_all(&framed).await?;
        let length = self.stream.read_u16().await?;
        let mut answer = vec![0; usize::from(length)];
        self.stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    /// Reads what stands at a name.
    pub(super) async fn standing(&mut self, name: &Name) -> Result<Standing, Failure> {
        let mut standing = Standing { addresses: BTreeSet::new(), alias: false, found: Found::Nothing };
        for kind in [RecordType::A, RecordType::AAAA] {
            for data in self.records(name, kind).await? {
                match data {
                    RData::A(a) => standing.addresses.extend([IpAddr::V4(a.0)]),
                    RData::AAAA(aaaa) => standing.addresses.extend([IpAddr::V6(aaaa.0)]),
                    RData::CNAME(_) => standing.alias = true,
                    _ => {}
                }
            }
        }
        let Some(epoch) = epoch_name(name) else { return Ok(standing) };
        let mut texts: Vec<Vec<u8>> = Vec::new();
        for data in self.records(&epoch, RecordType::TXT).await? {
            if let RData::TXT(txt) = data {
                texts.push(txt.txt_data.concat());
            }
        }
        standing.found = found(texts);
        Ok(standing)
    }

    /// The data of a name's own records of a type, or of its alias.
    async fn records(&mut self, name: &Name, kind: RecordType) -> Result<Vec<RData>, Failure> {
        let answered = self.ask(|id| question(id, name, kind)).await?;
        let target = self.target;
        match answered.code {
            code::NO_ERROR | code::NO_NAME => {}
            other => return Err(target.refused_by(other)),
        }
        let read = |error| target.unreachable(format!("its answer does not read: {error}"));
        let message = Message::from_vec(&answered.message).map_err(read)?;
        let Some(theirs) = their_name(name) else { return Ok(Vec::new()) };
        let own = message.answers.into_iter().filter(|record| record.name == theirs);
        Ok(own.map(|record| record.data).collect())
    }
}

/// The number that texts beside a name are, if they are one.
pub(super) fn found(texts: Vec<Vec<u8>>) -> Found {
    match texts.as_slice() {
        [] => Found::Nothing,
        [text] => {
            let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<u64>().ok());
            // What is not written as we write it would not meet the condition.
            let ours = number.filter(|number| number.to_string().as_bytes() == text.as_slice());
            ours.map_or(Found::Foreign(texts), Found::Number)
        }
        _ => Found::Foreign(texts),
    }
}

impl Target {
    pub(super) fn unreachable(&self, what: String) -> Failure {
        Failure::Unreachable { server: Server::At(self.server), what }
    }

    pub(super) fn refused(&self, what: String, advice: &'static str) -> Failure {
        let server = Server::At(self.server);
        Failure::Refused { advice, server, what, zone: self.zone.clone() }
    }

    /// What a code means that nothing was done under.
    pub(super) fn refused_by(&self, code: u8) -> Failure {
        let (what, advice) = match code {
            code::FORMAT => ("FORMERR", "it does not understand the message: which server is it?"),
            code::SERVER => return self.unreachable("it answers SERVFAIL: its log says why".to_owned()),
            code::NOT_IMPLEMENTED => ("NOTIMP", "it takes no updates: switch them on there"),
            code::REFUSED => ("REFUSED", "allow this key to change the zone, from this machine"),
            code::NOT_AUTH => ("NOTAUTH", "it is not the zone's primary, or does not know the key"),
            code::NOT_ZONE => ("NOTZONE", "a name does not lie within the zone there"),
            code::NO_NAME => ("NXDOMAIN", "it does not have the zone"),
            _ => return self.refused(format!("code {code}"), "look at its log"),
        };
        self.refused(what.to_owned(), advice)
    }

    /// Takes an answer only under a signature, unless it says that nothing was done.
    fn judge(&self, id: u16, mac: &[u8], now_s: u64, message: Vec<u8>) -> Result<Answered, Failure> {
        let head: Option<[u8; 12]> = message.get(..12).and_then(|head| head.try_into().ok());
        let Some([id_high, id_low, flags, low, counts @ ..]) = head else {
            return Err(self.unreachable("its answer is too short".to_owned()));
        };
        let too_many = counts.chunks(2).any(|count| count > RECORDS_MAX.to_be_bytes().as_slice());
        if [id_high, id_low] != id.to_be_bytes() || flags & 0x80 == 0 || too_many {
            return Err(self.unreachable("what it sent is no answer to what was asked".to_owned()));
        }
        let code = low & 0xf;
        let trouble = named(&message).map(|(_, trouble)| trouble);
        match (self.key.check(&message, Some(mac), now_s), trouble) {
            (_, Some(Trouble { code: BAD_TIME, clock_s })) => Err(self.clocks(now_s, clock_s)),
            (Err(Broken::Clock(theirs)), _) => Err(self.clocks(now_s, Some(theirs))),
            (_, Some(Trouble { code: BAD_KEY | BAD_SIGNATURE, .. })) => {
                Err(Failure::Key { key: self.key.name().clone(), server: Server::At(self.server) })
            }
            (Ok(_), _) => Ok(Answered { code, message }),
            // Without a signature only what changes nothing is believed.
            (Err(_), _)
                if matches!(code, code::REFUSED | code::NOT_AUTH | code::NOT_IMPLEMENTED | code::FORMAT) =>
            {
                Err(self.refused_by(code))
            }
            (Err(_), _) => Err(self.unreachable(format!(
                "its answer (code {code}) is not signed with the key {}",
                self.key.name()
            ))),
        }
    }

    fn clocks(&self, ours_s: u64, theirs_s: Option<u64>) -> Failure {
        Failure::Clock { ours_s, server: Server::At(self.server), theirs_s }
    }
}
