//! The values of a question, where the gateway put them: nothing is copied, and no text is looked through once more.

#![allow(
    unsafe_code,
    reason = "to look for UTF-8 that the gateway vouches for would cost a tenth of a short call"
)]

use std::fmt;

/// Values as the contract's `packed-decider` lays them out. What is not laid out so has no values.
#[derive(Clone, Copy)]
pub struct Values<'a>(&'a [u8]);

impl<'a> Values<'a> {
    /// Those that the gateway packed.
    ///
    /// # Safety
    /// Every text in `bytes` is UTF-8.
    #[must_use]
    pub const unsafe fn of_gateway(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Lays values out as the gateway does.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn packed(values: &[Option<&str>], room: &'a mut Vec<u8>) -> Self {
        let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        let mut begin = 4 + 8 * values.len();
        room.clear();
        room.extend(number(values.len()));
        for value in values {
            room.extend(number(value.map_or(0, |_| begin)));
            room.extend(number(value.map_or(0, str::len)));
            begin += value.map_or(0, str::len);
        }
        room.extend(values.iter().flatten().flat_map(|text| text.bytes()));
        Self(room)
    }

    pub(crate) fn len(self) -> usize {
        self.number(0).unwrap_or(0)
    }

    pub(crate) fn get(self, place: usize) -> Option<&'a str> {
        if place >= self.len() {
            return None;
        }
        let entry = place * 2 + 1;
        let (begin, length) = (self.number(entry)?, self.number(entry + 1)?);
        let text = self.0.get(begin..begin.checked_add(length)?)?;
        // SAFETY: whoever made this vouched for it. A beginning of 0 is that of the numbers: there is no such value.
        (begin != 0).then(|| unsafe { std::str::from_utf8_unchecked(text) })
    }

    /// The number at this place of those before the texts.
    fn number(self, place: usize) -> Option<usize> {
        let bytes = self.0.get(place.checked_mul(4)?..)?.first_chunk()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    }
}

impl fmt::Debug for Values<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries((0..self.len()).map(|place| self.get(place))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(values: Values<'_>) -> Vec<Option<&str>> {
        (0..values.len()).map(|place| values.get(place)).collect()
    }

    #[test]
    fn values_are_found_where_the_contract_puts_them() {
        let (given, mut room) = ([Some("/a"), None, Some(""), Some("é")], Vec::new());
        let values = Values::packed(&given, &mut room);
        assert_eq!(all(values), given);
        assert_eq!((values.get(3), values.get(4), values.get(usize::MAX)), (Some("é"), None, None));
        Values::packed(&[Some("/a"), None], &mut room);
        let example = [2, 0, 0, 0, 0x14, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'/', b'a'];
        assert_eq!(room, example, "the contract's own example");
    }

    #[test]
    fn what_is_not_laid_out_so_has_no_values() {
        let mut room = Vec::new();
        Values::packed(&[Some("text"), Some("more")], &mut room);
        for cut in 0..room.len() {
            // Every text is ASCII, however it is cut.
            for value in all(Values(&room[..cut])) {
                assert!(value.is_none_or(|text| ["text", "more"].contains(&text)), "{value:?}");
            }
        }
        assert_eq!(Values(&[]).len(), 0);
        assert_eq!(Values(&[1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]).get(0), None);
    }
}
