//! Custom sections at the end of a component: the configuration's schema, golden vectors, a signature. Reads what tools wrote,
//! and writes without touching any other byte.

/// The custom section that carries a policy's JSON Schema.
pub const SCHEMA_SECTION: &str = "portolan:config-schema";
/// The custom section that carries golden vectors; see [`crate::vectors`].
pub const VECTORS_SECTION: &str = "portolan:vectors";
/// The custom section that carries signatures, a line each; see [`crate::Trust`].
pub const SIGNATURE_SECTION: &str = "portolan:signature";

/// Magic and version.
const HEAD_BYTES: usize = 8;

/// The component with this section as its last, instead of those of the same name that stand in it.
#[must_use]
pub fn with_section(component: &[u8], name: &str, data: &[u8]) -> Vec<u8> {
    let (mut bytes, _) = without_section(component, name);
    let mut content = leb(name.len());
    content.extend(name.as_bytes());
    content.extend(data);
    bytes.push(0);
    bytes.extend(leb(content.len()));
    bytes.extend(content);
    bytes
}

/// The component without its sections of this name, and what stood in them, in order. Sections of modules within it are left
/// alone.
#[must_use]
pub fn without_section(component: &[u8], name: &str) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut rest = component.get(HEAD_BYTES..).unwrap_or_default();
    let mut kept = component.get(..HEAD_BYTES.min(component.len())).unwrap_or_default().to_vec();
    let mut taken = Vec::new();
    while let Some(section) = first(rest) {
        let (whole, after) = rest.split_at(section.bytes);
        match section.named(name) {
            Some(data) => taken.push(data.to_vec()),
            None => kept.extend(whole),
        }
        rest = after;
    }
    // What is no section is not ours to drop: whoever validates the component finds it.
    kept.extend(rest);
    (kept, taken)
}

struct Section<'a> {
    bytes: usize,
    id: u8,
    content: &'a [u8],
}

impl<'a> Section<'a> {
    /// What a custom section of this name says.
    fn named(&self, name: &str) -> Option<&'a [u8]> {
        let (length, rest) = (self.id == 0).then(|| number(self.content)).flatten()?;
        let (found, data) = rest.split_at_checked(length)?;
        (found == name.as_bytes()).then_some(data)
    }
}

fn first(bytes: &[u8]) -> Option<Section<'_>> {
    let (&id, rest) = bytes.split_first()?;
    let (length, rest) = number(rest)?;
    let content = rest.get(..length)?;
    Some(Section { bytes: bytes.len() - rest.len() + length, id, content })
}

/// A number of at most 32 bits in LEB128, and what follows it.
fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_u64;
    for (place, &byte) in bytes.iter().enumerate().take(5) {
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            let value = u32::try_from(value).ok()?;
            return Some((value as usize, bytes.get(place + 1..)?));
        }
    }
    None
}

fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or(0);
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_added_replaced_and_taken_without_touching_the_rest() {
        let whole =
            wat::parse_str(r#"(component (core module (@custom "a" "inner")) (@custom "b" "b"))"#).unwrap();
        let long = vec![b'x'; 300];
        let one = with_section(&whole, "a", b"one");
        let two = with_section(&one, "a", &long);
        assert_eq!(without_section(&two, "a"), (whole.clone(), vec![long]));
        assert_eq!(without_section(&two, "c").0, two);
        assert_eq!(without_section(&whole, "a").1, Vec::<Vec<u8>>::new(), "the module's own stays");
        assert!(wasmparser::Parser::new(0).parse_all(&two).all(|payload| payload.is_ok()));
    }

    #[test]
    fn what_is_no_component_comes_back_as_it_is() {
        for bytes in
            [&b""[..], b"\0asm", b"\0asm\x0d\0\x01\0\0", b"\0asm\x0d\0\x01\0\0\xff\xff\xff\xff\xff\xff"]
        {
            assert_eq!(without_section(bytes, "a"), (bytes.to_vec(), Vec::new()));
        }
    }
}
