//! The faces of a decider: `decider`, which takes the values of a question as a list, and `packed-decider`, which takes them
//! in one piece. Which one answers is this file's affair; both are asked the same questions and must give the same answers.

use std::cell::Cell;

use portolan_core::decide::Call;
use wasmtime::Store;
use wasmtime::component::{Instance, InstancePre};

use crate::bindings::exports::portolan::policy::{decider, packed_decider};
use crate::contract::{self, Offers};
use crate::error::Refused;
use crate::guest::State;
use crate::version::wrong_export;

/// Bytes of a thread's room for packed values that are kept from call to call: values are parts of a request's head, which has
/// half as many. A rule that names the same field many times may need more, for one call.
const ROOM_BYTES_KEPT: usize = 128 * 1024;

thread_local! {
    static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// One of the faces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Face {
    /// `decider`
    Listed,
    /// `packed-decider`
    Packed,
}

/// The faces that a component has; at least one.
pub(crate) struct Faces {
    listed: Option<decider::GuestIndices>,
    packed: Option<packed_decider::GuestIndices>,
}

/// An instance, as it is asked through one face.
pub(crate) enum Guest {
    Listed(decider::Guest),
    Packed(packed_decider::Guest),
}

impl Faces {
    /// Finds what the component offers; none when it decides nothing.
    pub(crate) fn find(pre: &InstancePre<State>, offers: Offers) -> Result<Option<Self>, Refused> {
        let listed = offers.decider.then(|| decider::GuestIndices::new(pre)).transpose();
        let packed = offers.packed_decider.then(|| packed_decider::GuestIndices::new(pre)).transpose();
        let listed = listed.map_err(|error| wrong_export(pre, contract::DECIDER, &error))?;
        let packed = packed.map_err(|error| wrong_export(pre, contract::PACKED_DECIDER, &error))?;
        Ok((listed.is_some() || packed.is_some()).then_some(Self { listed, packed }))
    }

    /// Do its functions have the types that they should have?
    pub(crate) fn check(
        &self,
        pre: &InstancePre<State>,
        store: &mut Store<State>,
        instance: &Instance,
    ) -> Result<(), Refused> {
        if let Some(listed) = &self.listed {
            let loaded = listed.load(&mut *store, instance);
            loaded.map_err(|error| wrong_export(pre, contract::DECIDER, &error))?;
        }
        if let Some(packed) = &self.packed {
            let loaded = packed.load(&mut *store, instance);
            loaded.map_err(|error| wrong_export(pre, contract::PACKED_DECIDER, &error))?;
        }
        Ok(())
    }

    /// The one that is asked: the one that costs less.
    pub(crate) const fn usual(&self) -> Face {
        if self.packed.is_some() { Face::Packed } else { Face::Listed }
    }

    /// The one that a call is repeated with: the other, of a component that has two.
    pub(crate) const fn second(&self) -> Face {
        if self.listed.is_some() { Face::Listed } else { Face::Packed }
    }

    pub(crate) fn load(
        &self,
        face: Face,
        store: &mut Store<State>,
        instance: &Instance,
    ) -> wasmtime::Result<Guest> {
        match (face, &self.listed, &self.packed) {
            (Face::Listed, Some(listed), _) => listed.load(store, instance).map(Guest::Listed),
            (Face::Packed, _, Some(packed)) => packed.load(store, instance).map(Guest::Packed),
            _ => Err(wasmtime::Error::msg("the component has no such decider")),
        }
    }
}

impl Guest {
    pub(crate) fn start(
        &self,
        store: &mut Store<State>,
        config: &str,
        memo: &[u8],
    ) -> wasmtime::Result<Result<(), String>> {
        match self {
            Self::Listed(guest) => guest.call_start(store, config, memo),
            Self::Packed(guest) => guest.call_start(store, config, memo),
        }
    }

    pub(crate) fn decide(&self, store: &mut Store<State>, call: &Call<'_>) -> wasmtime::Result<u32> {
        match self {
            Self::Listed(guest) => guest.call_decide(store, call.rule.0, call.now_ms, call.seed, call.values),
            Self::Packed(guest) => packed(call.values, |values| {
                guest.call_decide(store, call.rule.0, call.now_ms, call.seed, values)
            }),
        }
    }
}

/// Gives `ask` the values as `packed-decider` describes them, in room that is used again.
fn packed<T>(values: &[Option<&str>], ask: impl FnOnce(&[u8]) -> T) -> T {
    let mut room = ROOM.take();
    pack(values, &mut room);
    let answer = ask(&room);
    if room.capacity() <= ROOM_BYTES_KEPT {
        ROOM.set(room);
    }
    answer
}

/// Numbers that do not fit are of values that no guest's memory holds: such a call fails before anybody reads them.
fn pack(values: &[Option<&str>], room: &mut Vec<u8>) {
    const WORD: usize = size_of::<u32>();
    let word = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let mut begins = WORD + values.len() * 2 * WORD;
    room.clear();
    room.extend_from_slice(&word(values.len()).to_le_bytes());
    for value in values {
        // Both numbers of a value at once; little-endian, the lower half comes first.
        let entry = value.map_or(0, |text| u64::from(word(begins)) | u64::from(word(text.len())) << 32);
        room.extend_from_slice(&entry.to_le_bytes());
        begins += value.map_or(0, str::len);
    }
    for text in values.iter().flatten() {
        room.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_packed_as_the_contract_says() {
        let mut room = vec![9; 3];
        pack(&[Some("/a"), None], &mut room);
        assert_eq!(
            room,
            [2, 0, 0, 0, 0x14, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'/', b'a'],
            "the contract's own example"
        );
        pack(&[], &mut room);
        assert_eq!(room, [0; 4]);
        pack(&[Some(""), Some("é")], &mut room);
        assert_eq!(room[4..], [20, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, 2, 0, 0, 0, 0xc3, 0xa9]);
    }

    #[test]
    fn room_is_used_again_unless_it_grew() {
        packed(&[Some("text")], |_| ());
        let kept = ROOM.take();
        assert!(kept.capacity() > 0);
        ROOM.set(kept);
        packed(&[Some(&"x".repeat(ROOM_BYTES_KEPT))], |values| assert!(values.len() > ROOM_BYTES_KEPT));
        assert_eq!(ROOM.take().capacity(), 0);
    }
}
