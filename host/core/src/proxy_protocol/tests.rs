//! Headers of both versions, good and bad, whole and in pieces.

use proptest::prelude::*;

use super::*;

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([command, family]);
    bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
    bytes.extend(rest);
    bytes
}

fn client(text: &str) -> Origin {
    Origin::Client(text.parse().unwrap())
}

/// Reads the header with a request behind it, and byte by byte: nothing is decided early, nothing is read too far.
fn check(header: &[u8], expected: Result<Origin, Violation>) {
    let shown = header.escape_ascii();
    let mut bytes = header.to_vec();
    bytes.extend(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(read(&bytes), expected.map(|origin| Some((origin, header.len()))), "{shown}");
    let first = (0..=header.len()).map(|length| read(&header[..length])).find(|read| *read != Ok(None));
    if expected.is_ok() {
        assert_eq!(first, Some(expected.map(|origin| Some((origin, header.len())))), "{shown} in pieces");
    }
}

const FOUR: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb];

#[test]
fn the_first_version_is_one_line() {
    check(b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n", Ok(client("192.0.2.7:56324")));
    check(b"PROXY TCP6 2001:db8::7 2001:db8::1 1 65535\r\n", Ok(client("[2001:db8::7]:1")));
    check(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", Ok(client("255.255.255.255:65535")));
    check(b"PROXY UNKNOWN\r\n", Ok(Origin::Sender));
    check(b"PROXY UNKNOWN ffff::1 ffff::2 65535 whatever\r\n", Ok(Origin::Sender));
}

#[test]
fn the_first_version_is_read_strictly() {
    for line in [
        "TCP4 192.0.2.7 198.51.100.1 56324",
        "TCP4 192.0.2.7 198.51.100.1 56324 443 1",
        "TCP4 192.0.2.7 198.51.100.1 056324 443",
        "TCP4 192.0.2.7 198.51.100.1 +1 443",
        "TCP4 192.0.2.7 198.51.100.1 65536 443",
        "TCP4 192.0.2.07 198.51.100.1 1 443",
        "TCP4  192.0.2.7 198.51.100.1 1 443",
        "TCP4 192.0.2.7 198.51.100.1 1 443 ",
        "TCP4 2001:db8::7 2001:db8::1 1 443",
        "TCP6 192.0.2.7 198.51.100.1 1 443",
        "TCP6 fe80::1%eth0 fe80::2 1 443",
    ] {
        check(format!("PROXY {line}\r\n").as_bytes(), Err(Violation::Address));
    }
    check(b"PROXY TCP4 192.0.2.7 198.51.100.1 1 443\n", Err(Violation::Address));
    check(b"PROXY TCP4 192.0.2.7 198.51.100.1\xff 1 443\r\n", Err(Violation::Address));
    check(b"PROXY UDP4 192.0.2.7 198.51.100.1 1 443\r\n", Err(Violation::Kind));
    check(b"PROXY tcp4 192.0.2.7 198.51.100.1 1 443\r\n", Err(Violation::Kind));
    check(&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 120]].concat(), Err(Violation::Length));
    for other in ["GET / HTTP/1.1\r\n", "proxy TCP4 ", "PROXYTCP4", "\r\n\r\nGET"] {
        check(other.as_bytes(), Err(Violation::Missing));
    }
}

#[test]
fn the_second_version_is_binary() {
    check(&v2(0x21, 0x11, &FOUR), Ok(client("192.0.2.7:56324")));
    let mut six = [0; 36];
    six[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    (six[15], six[33]) = (7, 80);
    check(&v2(0x21, 0x21, &six), Ok(client("[2001:db8::7]:80")));
    check(&v2(0x21, 0x00, b""), Ok(Origin::Sender));
    check(&v2(0x21, 0x31, &[0; 216]), Ok(Origin::Sender));
    // The load balancer's own connection, whatever else it says.
    check(&v2(0x20, 0x00, b""), Ok(Origin::Sender));
    check(&v2(0x20, 0x11, &FOUR), Ok(Origin::Sender));
    check(&v2(0x20, 0x77, b"anything"), Ok(Origin::Sender));
}

#[test]
fn the_second_version_is_read_strictly() {
    check(&v2(0x11, 0x11, &FOUR), Err(Violation::Kind));
    check(&v2(0x22, 0x11, &FOUR), Err(Violation::Kind));
    check(&v2(0x21, 0x12, &FOUR), Err(Violation::Kind));
    check(&v2(0x21, 0x41, &FOUR), Err(Violation::Kind));
    check(&v2(0x21, 0x11, &FOUR[..11]), Err(Violation::Length));
    check(&v2(0x21, 0x21, &FOUR), Err(Violation::Length));
    check(&v2(0x21, 0x31, &[0; 215]), Err(Violation::Length));
    check(&v2(0x20, 0x00, &[0; HEADER_BYTES_MAX]), Err(Violation::Length));
}

#[test]
fn what_follows_the_addresses_is_skipped_where_it_ends_with_the_header() {
    let with = |tlvs: &[u8]| v2(0x21, 0x11, &[&FOUR[..], tlvs].concat());
    for good in [b"\x04\0\0".as_slice(), b"\x02\0\x03a.b", b"\x04\0\x01x\x20\0\x05\x01\0\0\0\0"] {
        check(&with(good), Ok(client("192.0.2.7:56324")));
    }
    for bad in [b"\x04".as_slice(), b"\x04\0", b"\x04\0\x01", b"\x04\0\0\x04\xff\xff"] {
        check(&with(bad), Err(Violation::Tlv));
    }
}

proptest! {
    #[test]
    fn bytes_are_judged_alike_however_they_come(
        begin in prop::sample::select(vec![&b""[..], LINE_BEGIN, b"PROXY TCP4 1.2.3.4 ", SIGNATURE, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0"]),
        rest in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let bytes = [begin, &rest].concat();
        let whole = read(&bytes);
        let mut first = (0..=bytes.len()).map(|length| read(&bytes[..length])).skip_while(|read| *read == Ok(None));
        if let Ok(Some((_, length))) = whole {
            prop_assert!(length <= bytes.len());
            prop_assert_eq!(first.next(), Some(whole));
        } else if let Some(first) = first.next() {
            // What is refused early is refused whole, too.
            prop_assert!(first.is_err() && whole.is_err());
        }
    }
}

#[test]
fn what_is_made_of_good_headers_never_panics() {
    let seeds: [&[u8]; 4] = [
        include_bytes!("../../../../tests/fuzz/seeds/proxy_protocol/tcp4"),
        include_bytes!("../../../../tests/fuzz/seeds/proxy_protocol/unknown"),
        include_bytes!("../../../../tests/fuzz/seeds/proxy_protocol/inet"),
        include_bytes!("../../../../tests/fuzz/seeds/proxy_protocol/local"),
    ];
    crate::exercise::mutated(&seeds, 20_000, crate::exercise::proxy_protocol);
}
