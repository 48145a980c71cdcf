//! An answer, written into bytes that the caller keeps for the next one.

use super::{flag, kind, option};
use crate::wire::question::{ClientSubnet, Question};

/// Bytes of a header.
const HEADER: usize = 12;
/// Points to the question's name, which is where every question begins.
const QUESTION_NAME: [u8; 2] = [0xc0, 0x0c];
/// Bytes of an extension without options: the root's name, type, size, code and flags, length.
const OPT: usize = 11;
/// Bytes of an option's code and length.
const OPTION: usize = 4;

/// Where a record stands.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Section {
    /// What was asked for.
    Answer,
    /// What vouches for it.
    Authority,
    /// What may help.
    Additional,
}

/// An answer in the making.
#[derive(Debug)]
pub(crate) struct Reply<'a> {
    counts: [u16; 3],
    flags: u16,
    id: u16,
    /// Bytes that it may have before its extension.
    limit: usize,
    out: &'a mut Vec<u8>,
    question: bool,
    /// Where the question's name ends.
    question_end: usize,
}

/// What the extension of an answer says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extension<'a> {
    pub(crate) dnssec_ok: bool,
    pub(crate) nsid: Option<&'a [u8]>,
    pub(crate) payload: u16,
    pub(crate) subnet: Option<(ClientSubnet, u8)>,
}

impl Extension<'_> {
    /// Bytes that it takes.
    pub(crate) fn size(&self) -> usize {
        let nsid = self.nsid.map_or(0, |nsid| OPTION + nsid.len());
        let subnet =
            self.subnet.map_or(0, |(subnet, _)| OPTION + 4 + usize::from(subnet.network.length.div_ceil(8)));
        OPT + nsid + subnet
    }
}

impl<'a> Reply<'a> {
    /// Begins an answer to a question; of `limit` bytes, `reserved` of which are kept for its extension.
    pub(crate) fn new(out: &'a mut Vec<u8>, question: &Question<'_>, limit: usize, reserved: usize) -> Self {
        out.clear();
        out.resize(HEADER, 0);
        out.extend_from_slice(question.written);
        let kept = flag::OPCODE | flag::RECURSION_DESIRED | flag::CHECKING_DISABLED;
        Self {
            counts: [0; 3],
            flags: question.flags & kept | flag::RESPONSE,
            id: question.id,
            limit: limit.saturating_sub(reserved),
            question: true,
            question_end: out.len(),
            out,
        }
    }

    /// An answer that says no more than that there was no question.
    pub(crate) fn bare(out: &'a mut Vec<u8>, id: u16, flags: u16) -> Self {
        out.clear();
        out.resize(HEADER, 0);
        let kept = flag::OPCODE | flag::RECURSION_DESIRED;
        Self {
            counts: [0; 3],
            flags: flags & kept | flag::RESPONSE,
            id,
            limit: usize::MAX,
            question: false,
            question_end: HEADER,
            out,
        }
    }

    /// It speaks for the zone.
    pub(crate) const fn authoritative(&mut self) {
        self.flags |= flag::AUTHORITATIVE;
    }

    /// Adds a record unless it has no room any more.
    #[must_use]
    pub(crate) fn record(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        kind: u16,
        ttl_s: u32,
        data: &[&[u8]],
    ) -> bool {
        let owner = match owner {
            Owner::Asked => &QUESTION_NAME[..],
            Owner::Named(name) => name,
        };
        let length: usize = data.iter().map(|part| part.len()).sum();
        let Ok(stated) = u16::try_from(length) else { return false };
        if self.out.len() + owner.len() + 10 + length > self.limit {
            return false;
        }
        self.out.extend_from_slice(owner);
        self.out.extend_from_slice(&kind.to_be_bytes());
        self.out.extend_from_slice(&super::class::IN.to_be_bytes());
        self.out.extend_from_slice(&ttl_s.to_be_bytes());
        self.out.extend_from_slice(&stated.to_be_bytes());
        for part in data {
            self.out.extend_from_slice(part);
        }
        let [answers, authorities, additionals] = &mut self.counts;
        let count = match section {
            Section::Answer => answers,
            Section::Authority => authorities,
            Section::Additional => additionals,
        };
        *count = count.saturating_add(1);
        true
    }

    /// Takes all records back: whoever wants them comes over TCP.
    pub(crate) fn truncate(&mut self) {
        self.out.truncate(self.question_end);
        self.counts = [0; 3];
        self.flags |= flag::TRUNCATED;
    }

    /// Writes the extension, for which room was kept, and the header.
    pub(crate) fn finish(mut self, code: u16, extension: Option<&Extension<'_>>) {
        if let Some(extension) = extension {
            self.extend(code, extension);
        }
        let [answers, authorities, additionals] = self.counts;
        let flags = self.flags | code & 0xf;
        let fields = [self.id, flags, u16::from(self.question), answers, authorities, additionals];
        for (place, field) in self.out.chunks_exact_mut(2).zip(fields) {
            place.copy_from_slice(&field.to_be_bytes());
        }
    }

    fn extend(&mut self, code: u16, extension: &Extension<'_>) {
        let [_, _, additionals] = &mut self.counts;
        *additionals = additionals.saturating_add(1);
        let out = &mut *self.out;
        out.push(0);
        out.extend_from_slice(&kind::OPT.to_be_bytes());
        out.extend_from_slice(&extension.payload.to_be_bytes());
        out.extend_from_slice(&[(code >> 4) as u8, 0]);
        let flags = if extension.dnssec_ok { flag::DNSSEC_OK } else { 0 };
        out.extend_from_slice(&flags.to_be_bytes());
        let length = extension.size() - OPT;
        out.extend_from_slice(&u16::try_from(length).unwrap_or(0).to_be_bytes());
        if let Some(nsid) = extension.nsid {
            out.extend_from_slice(&option::NSID.to_be_bytes());
            out.extend_from_slice(&u16::try_from(nsid.len()).unwrap_or(0).to_be_bytes());
            out.extend_from_slice(nsid);
        }
        if let Some((subnet, scope)) = extension.subnet {
            let bytes = usize::from(subnet.network.length.div_ceil(8));
            out.extend_from_slice(&option::SUBNET.to_be_bytes());
            out.extend_from_slice(&u16::try_from(bytes + 4).unwrap_or(0).to_be_bytes());
            out.extend_from_slice(&subnet.family.to_be_bytes());
            out.extend_from_slice(&[subnet.network.length, scope]);
            out.extend(subnet.network.bits.to_be_bytes().iter().take(bytes));
        }
    }
}

/// Whose a record is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner<'a> {
    /// The name that was asked for.
    Asked,
    /// Another one.
    Named(&'a [u8]),
}
