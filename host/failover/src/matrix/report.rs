//! What regions tell each other of what they see: one size, whatever has happened.

use crate::counter::{Reason, State};
use crate::defaults::REGIONS_MAX;
use crate::members::{Members, Seat};

use super::{Cell, Doubt, PATHS, Row};

/// The form of a report. Another one is another number, which a reader that does not know it refuses.
const FORM: u8 = 1;
/// Bytes of a cell: state, reason, age.
const CELL_BYTES: usize = 6;
/// Bytes before the cells.
const HEAD_BYTES: usize = 3 + 8 + 8 + 8 * REGIONS_MAX;
/// Bytes of every report.
pub const REPORT_BYTES: usize = HEAD_BYTES + REGIONS_MAX * PATHS * CELL_BYTES;

/// What one region sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Who sees it.
    pub vantage: Seat,
    /// Of which regions: [`Members::digest`].
    pub members: u64,
    /// Rises with each report, also over a restart of its sender.
    pub sequence: u64,
    /// The newest report that the sender has of each region; 0 for none.
    pub heard: [u64; REGIONS_MAX],
    /// Does the sender doubt it?
    pub doubt: Option<Doubt>,
    /// Its cells.
    pub row: Row,
}

/// Bytes that are no report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A form, a state or a region that is not known here.
    #[error(
        "byte {0} of the report means nothing here: is the other region's portolan newer? Upgrade this one"
    )]
    Byte(usize),
    /// It speaks of other regions.
    #[error(
        "the report is about other regions than are configured here: apply one configuration to all of them"
    )]
    Members,
    /// A wrong size.
    #[error("a report has {REPORT_BYTES} bytes, this one has {0}")]
    Size(usize),
}

impl Report {
    /// As it is sent.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(REPORT_BYTES);
        let doubt = match self.doubt {
            None => 0,
            Some(Doubt::Late) => 1,
            Some(Doubt::Unreachable) => 2,
        };
        bytes.extend([FORM, u8::try_from(self.vantage.index()).unwrap_or(u8::MAX), doubt]);
        bytes.extend(self.members.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        self.heard.iter().for_each(|heard| bytes.extend(heard.to_be_bytes()));
        for cell in self.row.iter().flatten() {
            bytes.extend([state_code(cell.state), cell.reason as u8]);
            bytes.extend(cell.age_ms.to_be_bytes());
        }
        bytes
    }

    /// As it is received.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn from_bytes(bytes: &[u8], members: &Members) -> Result<Self, Malformed> {
        if bytes.len() != REPORT_BYTES {
            return Err(Malformed::Size(bytes.len()));
        }
        let mut at = Reader { bytes, at: 0 };
        let [form, vantage, doubt] = at.take::<3>();
        if form != FORM {
            return Err(Malformed::Byte(0));
        }
        let doubt = match doubt {
            0 => None,
            1 => Some(Doubt::Late),
            2 => Some(Doubt::Unreachable),
            _ => return Err(Malformed::Byte(2)),
        };
        let (digest, sequence) = (u64::from_be_bytes(at.take()), u64::from_be_bytes(at.take()));
        if digest != members.digest() {
            return Err(Malformed::Members);
        }
        let vantage = members.seats().nth(usize::from(vantage)).ok_or(Malformed::Byte(1))?;
        let mut heard = [0; REGIONS_MAX];
        heard.iter_mut().for_each(|heard| *heard = u64::from_be_bytes(at.take()));
        let mut row = Row::default();
        for cell in row.iter_mut().flatten() {
            let place = at.at;
            let [state, reason] = at.take::<2>();
            let state = state_of(state).ok_or(Malformed::Byte(place))?;
            let age_ms = u32::from_be_bytes(at.take());
            *cell = Cell { state, reason: reason_of(reason), age_ms };
        }
        Ok(Self { vantage, members: digest, sequence, heard, doubt, row })
    }
}

const fn state_code(state: State) -> u8 {
    state as u8
}

const fn state_of(code: u8) -> Option<State> {
    Some(match code {
        0 => State::Unknown,
        1 => State::Up,
        2 => State::Suspect,
        3 => State::Down,
        4 => State::Identity,
        _ => return None,
    })
}

const fn reason_of(code: u8) -> Reason {
    match code {
        0 => Reason::None,
        1 => Reason::Timeout,
        2 => Reason::Refused,
        3 => Reason::Status,
        4 => Reason::Certificate,
        5 => Reason::Stalled,
        6 => Reason::Passive,
        _ => Reason::Other,
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// The next bytes. The size is looked at before anything is read.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        if let Some(from) = self.bytes.get(self.at..self.at + N) {
            taken.copy_from_slice(from);
        }
        self.at += N;
        taken
    }
}
