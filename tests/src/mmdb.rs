//! Writes small tables of where addresses are (MaxMind DB File Format, version 2.0), for tests of whoever reads them.

use std::net::IpAddr;

/// What a record holds.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// Fields, by name.
    Map(&'a [(&'a str, Self)]),
    /// A number.
    Number(f64),
    /// A text of at most 284 bytes.
    Text(&'a str),
}

/// A table with a record for each network, such as `192.0.2.0/24`: IPv4 lies under `::/96` of one tree. Networks must not lie within each
/// other.
pub fn table(kind: &str, networks: &[(&str, Value<'_>)]) -> Vec<u8> {
    let (mut nodes, mut data) = (vec![[Record::Nothing; 2]], Vec::new());
    for (network, value) in networks {
        let offset = data.len();
        put(&mut data, value);
        let (address, length) = network.split_once('/').expect("a network is ADDRESS/LENGTH");
        let length: usize = length.parse().expect("a length is a number");
        let (bits, length) = match address.parse().expect("an address") {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()), length + 96),
            IpAddr::V6(v6) => (v6.to_bits(), length),
        };
        let mut node = 0;
        for depth in 0..length {
            let side = usize::from(bits >> (127 - depth) & 1 == 1);
            if depth + 1 == length {
                nodes[node][side] = Record::Data(offset);
            } else if let Record::Node(next) = nodes[node][side] {
                node = next;
            } else {
                nodes.push([Record::Nothing; 2]);
                let next = nodes.len() - 1;
                nodes[node][side] = Record::Node(next);
                node = next;
            }
        }
    }
    let mut bytes = Vec::new();
    for record in nodes.iter().flatten() {
        let number = match record {
            Record::Data(offset) => nodes.len() + 16 + offset,
            Record::Node(node) => *node,
            Record::Nothing => nodes.len(),
        };
        bytes.extend(u32::try_from(number).expect("a small table").to_be_bytes());
    }
    bytes.extend([0; 16]);
    bytes.extend(data);
    bytes.extend(b"\xab\xcd\xefMaxMind.com");
    metadata(&mut bytes, kind, nodes.len());
    bytes
}

#[derive(Clone, Copy)]
enum Record {
    Data(usize),
    Node(usize),
    Nothing,
}

fn metadata(bytes: &mut Vec<u8>, kind: &str, nodes: usize) {
    bytes.push(7 << 5 | 9);
    for (name, number) in [("binary_format_major_version", 2_u16), ("binary_format_minor_version", 0)] {
        text(bytes, name);
        bytes.push(5 << 5 | 2);
        bytes.extend(number.to_be_bytes());
    }
    for (name, number) in [("ip_version", 6_u16), ("record_size", 32)] {
        text(bytes, name);
        bytes.push(5 << 5 | 2);
        bytes.extend(number.to_be_bytes());
    }
    text(bytes, "node_count");
    bytes.push(6 << 5 | 4);
    bytes.extend(u32::try_from(nodes).expect("a small table").to_be_bytes());
    text(bytes, "build_epoch");
    bytes.extend([8, 2]);
    bytes.extend(1_700_000_000_u64.to_be_bytes());
    text(bytes, "database_type");
    text(bytes, kind);
    text(bytes, "description");
    put(bytes, &Value::Map(&[]));
    text(bytes, "languages");
    bytes.extend([0, 4]);
}

fn put(bytes: &mut Vec<u8>, value: &Value<'_>) {
    match value {
        Value::Map(fields) => {
            assert!(fields.len() < 29, "a small map");
            bytes.push(7 << 5 | u8::try_from(fields.len()).expect("a small map"));
            for (name, value) in *fields {
                text(bytes, name);
                put(bytes, value);
            }
        }
        Value::Number(number) => {
            bytes.push(3 << 5 | 8);
            bytes.extend(number.to_be_bytes());
        }
        Value::Text(value) => text(bytes, value),
    }
}

fn text(bytes: &mut Vec<u8>, value: &str) {
    match u8::try_from(value.len()) {
        Ok(length @ 0..29) => bytes.push(2 << 5 | length),
        _ => {
            bytes.push(2 << 5 | 29);
            bytes.push(u8::try_from(value.len() - 29).expect("a short text"));
        }
    }
    bytes.extend(value.as_bytes());
}
