//! A question, read from a stranger's bytes. What is not exactly one well-formed question is not answered as one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{flag, kind, option};
use crate::defaults::QUESTION_RECORDS_MAX;
use crate::name::BYTES_MAX;
use crate::plan::Subnet;

/// Bytes of a header.
const HEADER: usize = 12;

/// A question.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    pub(crate) class: u16,
    pub(crate) edns: Option<Edns>,
    pub(crate) flags: u16,
    pub(crate) id: u16,
    pub(crate) kind: u16,
    name: [u8; BYTES_MAX],
    name_length: usize,
    /// Is the last record a signature (TSIG)?
    pub(crate) signed: bool,
    /// The question's own bytes: what comes back is spelt as it came.
    pub(crate) written: &'a [u8],
}

/// A message's extension.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Edns {
    pub(crate) dnssec_ok: bool,
    pub(crate) payload: u16,
    pub(crate) subnet: Option<ClientSubnet>,
    pub(crate) wants_nsid: bool,
    pub(crate) version: u8,
}

/// The network of the client for whom a resolver asks (RFC 7871).
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientSubnet {
    pub(crate) network: Subnet,
    /// The family as it was written: an empty network may have none.
    pub(crate) family: u16,
}

/// Why there is no question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// It is answered by nothing: too short for a header, or itself an answer.
    Ignored,
    /// A header can be answered: not a question (the code says why).
    Wrong { code: u16, flags: u16, id: u16 },
}

/// What remains to be read.
struct Bytes<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.all.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn short(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    const fn is_empty(&self) -> bool {
        self.at >= self.all.len()
    }

    /// Passes over a name, which may end in a pointer. `Some(true)` when it is the root's own.
    fn pass_name(&mut self) -> Option<bool> {
        let mut passed = 0;
        loop {
            let length = usize::from(self.byte()?);
            match length {
                0 => return Some(passed == 0),
                1..=63 => {
                    self.take(length)?;
                    passed += length + 1;
                }
                192.. => {
                    self.byte()?;
                    return Some(false);
                }
                _ => return None,
            }
            if passed >= BYTES_MAX {
                return None;
            }
        }
    }
}

impl<'a> Question<'a> {
    /// Reads a message.
    pub(crate) fn read(packet: &'a [u8]) -> Result<Self, Unread> {
        use super::code::{FORMAT, NOT_IMPLEMENTED};

        let mut bytes = Bytes { all: packet, at: 0 };
        let header = || {
            let mut bytes = Bytes { all: packet, at: 0 };
            Some([
                bytes.short()?,
                bytes.short()?,
                bytes.short()?,
                bytes.short()?,
                bytes.short()?,
                bytes.short()?,
            ])
        };
        let [id, flags, questions, answers, authorities, additionals] = header().ok_or(Unread::Ignored)?;
        bytes.at = HEADER;
        if flags & flag::RESPONSE != 0 {
            return Err(Unread::Ignored);
        }
        let wrong = |code| Unread::Wrong { code, flags, id };
        if flags & flag::OPCODE != 0 {
            return Err(wrong(NOT_IMPLEMENTED));
        }
        if questions != 1 || answers != 0 || authorities.saturating_add(additionals) > QUESTION_RECORDS_MAX {
            return Err(wrong(FORMAT));
        }
        let mut question = Self {
            class: 0,
            edns: None,
            flags,
            id,
            kind: 0,
            name: [0; BYTES_MAX],
            name_length: 0,
            signed: false,
            written: &[],
        };
        question.body(&mut bytes, authorities, additionals).ok_or_else(|| wrong(FORMAT))?;
        Ok(question)
    }

    /// The name that is asked for, in lower case.
    pub(crate) fn name(&self) -> &[u8] {
        self.name.get(..self.name_length).unwrap_or_default()
    }

    fn body(&mut self, bytes: &mut Bytes<'a>, authorities: u16, additionals: u16) -> Option<()> {
        let begin = bytes.at;
        loop {
            // Pointers have nothing to point to here.
            let length = bytes.byte().filter(|length| *length < 64)?;
            let label = bytes.take(usize::from(length))?;
            let end = self.name_length.checked_add(label.len() + 1)?;
            let place = self.name.get_mut(self.name_length..end)?;
            let (first, rest) = place.split_first_mut()?;
            *first = length;
            for (to, from) in rest.iter_mut().zip(label) {
                *to = from.to_ascii_lowercase();
            }
            self.name_length = end;
            if length == 0 {
                break;
            }
        }
        (self.kind, self.class) = (bytes.short()?, bytes.short()?);
        self.written = bytes.all.get(begin..bytes.at)?;
        for _ in 0..authorities {
            bytes.pass_name()?;
            bytes.take(8)?;
            let length = bytes.short()?;
            bytes.take(usize::from(length))?;
        }
        for _ in 0..additionals {
            // A signature stands last, or it signs nothing.
            if self.signed {
                return None;
            }
            self.additional(bytes)?;
        }
        bytes.is_empty().then_some(())
    }

    fn additional(&mut self, bytes: &mut Bytes<'a>) -> Option<()> {
        let is_root = bytes.pass_name()?;
        let (kind, class) = (bytes.short()?, bytes.short()?);
        let (high, low) = (bytes.short()?, bytes.short()?);
        let length = bytes.short()?;
        let data = bytes.take(usize::from(length))?;
        match kind {
            kind::OPT if is_root && self.edns.is_none() => {
                let version = high.to_be_bytes().last().copied()?;
                let mut edns = Edns {
                    dnssec_ok: low & flag::DNSSEC_OK != 0,
                    payload: class,
                    version,
                    ..Edns::default()
                };
                // Of another version nothing is known but that it is another.
                if version == 0 {
                    edns.options(data)?;
                }
                self.edns = Some(edns);
            }
            kind::OPT => return None,
            kind::TSIG => self.signed = true,
            _ => {}
        }
        Some(())
    }
}

impl Edns {
    fn options(&mut self, data: &[u8]) -> Option<()> {
        let mut bytes = Bytes { all: data, at: 0 };
        while !bytes.is_empty() {
            let (code, length) = (bytes.short()?, bytes.short()?);
            let value = bytes.take(usize::from(length))?;
            match code {
                option::NSID => self.wants_nsid = true,
                option::SUBNET => self.subnet = Some(ClientSubnet::read(value)?),
                _ => {}
            }
        }
        Some(())
    }
}

impl ClientSubnet {
    /// Reads it as strictly as the standard asks for: exactly the bytes of the prefix, nothing behind it, no scope yet.
    fn read(value: &[u8]) -> Option<Self> {
        let mut bytes = Bytes { all: value, at: 0 };
        let (family, length, scope) = (bytes.short()?, bytes.byte()?, bytes.byte()?);
        let address = bytes.take(usize::from(length.div_ceil(8)))?;
        if scope != 0 || !bytes.is_empty() {
            return None;
        }
        let whole = match family {
            0 if length == 0 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            1 if length <= 32 => IpAddr::V4(Ipv4Addr::from(padded::<4>(address))),
            2 if length <= 128 => IpAddr::V6(Ipv6Addr::from(padded::<16>(address))),
            _ => return None,
        };
        let network = Subnet::new(whole, length);
        (network == Subnet { length, ..Subnet::new(whole, 128) }).then_some(Self { network, family })
    }
}

fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut whole = [0; N];
    for (to, from) in whole.iter_mut().zip(bytes) {
        *to = *from;
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::code;

    fn packet(additional: &[&[u8]]) -> Vec<u8> {
        let mut packet = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::try_from(additional.len()).unwrap()];
        packet.extend(b"\x03aPp\x07example\0\0\x01\0\x01");
        additional.iter().for_each(|record| packet.extend(*record));
        packet
    }

    fn opt(options: &[u8]) -> Vec<u8> {
        let mut record = b"\0\0\x29\x04\xd0\0\0\x80\0\0".to_vec();
        record.push(u8::try_from(options.len()).unwrap());
        record.extend(options);
        record
    }

    const WRONG: Unread = Unread::Wrong { code: code::FORMAT, flags: 0x100, id: 7 };

    #[test]
    fn a_question_is_read_with_its_extension() {
        let packet = packet(&[&opt(b"\0\x03\0\0\0\x08\0\x07\0\x01\x18\0\xc6\x33\x64")]);
        let question = Question::read(&packet).unwrap();
        assert_eq!(question.name(), b"\x03app\x07example\0");
        assert_eq!(question.written, b"\x03aPp\x07example\0\0\x01\0\x01");
        let edns = question.edns.unwrap();
        assert!(edns.dnssec_ok && edns.wants_nsid && !question.signed);
        assert_eq!(edns.payload, 1232);
        assert_eq!(edns.subnet.unwrap().network, Subnet::new("198.51.100.0".parse().unwrap(), 24));
    }

    #[test]
    fn what_is_no_question_is_told_or_ignored() {
        let good = packet(&[]);
        assert_eq!(Question::read(&good[..11]).unwrap_err(), Unread::Ignored);
        let mut response = good.clone();
        response[2] |= 0x80;
        assert_eq!(Question::read(&response).unwrap_err(), Unread::Ignored);
        let mut update = good.clone();
        update[2] = 0x28;
        let told = Question::read(&update).unwrap_err();
        assert_eq!(told, Unread::Wrong { code: code::NOT_IMPLEMENTED, flags: 0x2800, id: 7 });
        let mut two = good.clone();
        two[5] = 2;
        assert_eq!(Question::read(&two).unwrap_err(), WRONG);
        let mut more = good.clone();
        more.push(0);
        assert_eq!(Question::read(&more).unwrap_err(), WRONG);
        assert_eq!(Question::read(&good[..good.len() - 1]).unwrap_err(), WRONG);
        assert_eq!(Question::read(&packet(&[&opt(b""), &opt(b"")])).unwrap_err(), WRONG);
    }

    #[test]
    fn a_network_is_read_as_strictly_as_the_standard_asks() {
        let read = |value: &[u8]| ClientSubnet::read(value).map(|subnet| subnet.network.length);
        assert_eq!(read(b"\0\x01\x18\0\xc6\x33\x64"), Some(24));
        assert_eq!(read(b"\0\x01\0\0"), Some(0));
        assert_eq!(read(b"\0\0\0\0"), Some(0));
        assert_eq!(read(b"\0\x02\x20\0\x20\x01\x0d\xb8"), Some(32));
        for bad in [
            &b"\0\x01\x18\x18\xc6\x33\x64"[..],
            b"\0\x01\x18\0\xc6\x33",
            b"\0\x01\x18\0\xc6\x33\x64\0",
            b"\0\x01\x17\0\xc6\x33\x65",
            b"\0\x01\x21\0\xc6\x33\x64\x01\x01",
            b"\0\x03\0\0",
            b"\0\0\x08\0\x01",
            b"",
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }
}
