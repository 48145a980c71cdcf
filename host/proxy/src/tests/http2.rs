//! HTTP/2, frame by frame: what RFC 9113 asks of a server, and clients that make work instead of requests.

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// END_STREAM or ACK.
const END: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;
/// Error codes (RFC 9113, section 7).
const CODES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];
const PATIENCE: Duration = Duration::from_secs(20);

/// A frame (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A field line without indexing (RFC 7541, section 6.2.2). Names and values below 127 bytes have their length in one.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        assert!(text.len() < 127);
        bytes.push(text.len() as u8);
        bytes.extend(text.as_bytes());
    }
    bytes
}

fn fields(all: &[(&str, &str)]) -> Vec<u8> {
    all.iter().flat_map(|(name, value)| field(name, value)).collect()
}

fn request(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let start = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "a")];
    fields(&[&start, more].concat())
}

fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, block)
}

/// A whole GET.
fn get(stream: u32) -> Vec<u8> {
    headers(stream, END, &request("GET", "/", &[]))
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat()
}

/// A client that writes what it likes.
struct Raw {
    stream: TcpStream,
    came: Vec<u8>,
}

struct Frame {
    kind: u8,
    flags: u8,
    payload: Vec<u8>,
}

impl Raw {
    async fn open(address: SocketAddr) -> Self {
        let mut raw = Self { stream: TcpStream::connect(address).await.unwrap(), came: Vec::new() };
        raw.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        raw
    }

    /// Writes, as far as the other side still listens.
    async fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// The next frame; `None` at the end of the connection.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let [l0, l1, l2, kind, flags, _, _, _, _, ..] = self.came[..] {
                let end = 9 + u32::from_be_bytes([0, l0, l1, l2]) as usize;
                if self.came.len() >= end {
                    let payload = self.came[9..end].to_vec();
                    self.came.drain(..end);
                    return Some(Frame { kind, flags, payload });
                }
            }
            if !matches!(self.stream.read_buf(&mut self.came).await, Ok(1..)) {
                return None;
            }
        }
    }

    /// What comes of it: a response's status, or how stream or connection end.
    async fn outcome(&mut self) -> String {
        let code = |at: usize, payload: &[u8]| {
            let code = u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            CODES.get(code as usize).copied().unwrap_or("?")
        };
        while let Some(frame) = self.next().await {
            match frame.kind {
                GOAWAY => return format!("goaway {}", code(4, &frame.payload)),
                RST_STREAM => return format!("reset {}", code(0, &frame.payload)),
                PING if frame.flags & END != 0 => return "pong".into(),
                HEADERS => {
                    // Statuses of the static table (RFC 7541, appendix A), or literal with its name.
                    let known = [(0x88, "200"), (0x89, "204"), (0x8b, "304"), (0x8c, "400"), (0x8d, "404")];
                    let first = frame.payload[0];
                    let found = known.iter().find(|(index, _)| *index == first);
                    return found.map_or("another status", |(_, status)| status).into();
                }
                _ => {}
            }
        }
        "closed".into()
    }
}

/// Section and name, what the client sends after its preface and settings, and what may come of it.
type Case = (&'static str, Vec<u8>, &'static [&'static str]);

const PROTOCOL: &[&str] = &["goaway PROTOCOL_ERROR"];
const STREAM_PROTOCOL: &[&str] = &["reset PROTOCOL_ERROR", "goaway PROTOCOL_ERROR", "400"];
const SIZE: &[&str] = &["goaway FRAME_SIZE_ERROR"];
const FLOW: &[&str] = &["goaway FLOW_CONTROL_ERROR"];
const CLOSED: &[&str] = &["reset STREAM_CLOSED", "goaway STREAM_CLOSED"];
const FINE: &[&str] = &["200"];
/// RFC 9113, section 4.3, names COMPRESSION_ERROR; the HTTP library ends the connection with the general code.
const COMPRESSION: &[&str] = &["goaway COMPRESSION_ERROR", "goaway PROTOCOL_ERROR"];

fn framing() -> Vec<Case> {
    let ping = frame(PING, 0, 0, &[0; 8]);
    let open = headers(1, 0, &request("POST", "/echo", &[]));
    let block = request("GET", "/", &[]);
    let (first, second) = block.split_at(10);
    let padded = |length: u8, more: &[u8]| [&[length][..], more].concat();
    vec![
        ("4.1 unknown frames are passed over", [frame(0x16, 0, 0, b"x"), get(1)].concat(), FINE),
        ("4.1 unknown flags are passed over", headers(1, END | 0x42, &block), FINE),
        ("4.1 the reserved bit is passed over", headers(1 | 1 << 31, END, &block), FINE),
        ("4.2 a frame above the limit", frame(DATA, 0, 1, &vec![0; 16_385]), SIZE),
        (
            "4.2 a frame above the limit on an open stream",
            [open.clone(), frame(DATA, END, 1, &vec![0; 16_385])].concat(),
            SIZE,
        ),
        ("4.2 HEADERS above the limit", frame(HEADERS, END | END_HEADERS, 1, &vec![0; 16_385]), SIZE),
        ("4.3 a block that is no HPACK", headers(1, END, &[0xff; 8]), COMPRESSION),
        ("4.3 an index that is not there", headers(1, END, &[0xc8]), COMPRESSION),
        ("4.3 a truncated field", headers(1, END, &[0, 5, b'a']), COMPRESSION),
        (
            "7541 4.2 a table size above the limit",
            headers(1, END, &[&[0x3f, 0xe1, 0xff, 3][..], &block].concat()),
            COMPRESSION,
        ),
        (
            "7541 5.2 padding of Huffman codes above 7 bits",
            headers(1, END, &[&block[..], &[0, 0x82, 0xff, 0xff, 1, b'a']].concat()),
            COMPRESSION,
        ),
        ("7541 6.1 index zero", headers(1, END, &[0x80]), COMPRESSION),
        (
            "4.3 another frame within a block",
            [frame(HEADERS, END, 1, first), ping.clone()].concat(),
            PROTOCOL,
        ),
        (
            "4.3 another stream within a block",
            [frame(HEADERS, END, 1, first), frame(CONTINUATION, END_HEADERS, 3, second)].concat(),
            PROTOCOL,
        ),
        (
            "6.10 a block in pieces",
            [frame(HEADERS, END, 1, first), frame(CONTINUATION, END_HEADERS, 1, second)].concat(),
            FINE,
        ),
        ("6.10 CONTINUATION without HEADERS", frame(CONTINUATION, END_HEADERS, 1, &block), PROTOCOL),
        (
            "6.10 CONTINUATION after a whole block",
            [open.clone(), frame(CONTINUATION, END_HEADERS, 1, &block)].concat(),
            PROTOCOL,
        ),
        (
            "6.10 CONTINUATION on stream 0",
            [frame(HEADERS, END, 1, first), frame(CONTINUATION, END_HEADERS, 0, second)].concat(),
            PROTOCOL,
        ),
        ("6.1 DATA on stream 0", frame(DATA, 0, 0, b"x"), PROTOCOL),
        (
            "6.1 padding longer than the frame",
            [open.clone(), frame(DATA, PADDED | END, 1, &padded(9, b"x"))].concat(),
            PROTOCOL,
        ),
        (
            "6.1 padded DATA",
            [open.clone(), frame(DATA, PADDED | END, 1, &padded(2, b"x\0\0"))].concat(),
            FINE,
        ),
        ("6.2 HEADERS on stream 0", headers(0, END, &block), PROTOCOL),
        (
            "6.2 padding longer than the block",
            frame(HEADERS, PADDED | END | END_HEADERS, 1, &padded(200, &block)),
            PROTOCOL,
        ),
        (
            "6.2 padded HEADERS with a priority",
            frame(
                HEADERS,
                PADDED | WITH_PRIORITY | END | END_HEADERS,
                1,
                &[&[1, 0, 0, 0, 0, 9][..], &block, &[0]].concat(),
            ),
            FINE,
        ),
        ("6.3 PRIORITY on stream 0", frame(PRIORITY, 0, 0, &[0, 0, 0, 0, 1]), PROTOCOL),
        (
            "6.3 PRIORITY of another length",
            frame(PRIORITY, 0, 1, &[0; 4]),
            &["reset FRAME_SIZE_ERROR", "goaway FRAME_SIZE_ERROR"],
        ),
        ("6.3 PRIORITY on an idle stream", [frame(PRIORITY, 0, 5, &[0, 0, 0, 0, 1]), get(1)].concat(), FINE),
        ("6.4 RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, &[0; 4]), PROTOCOL),
        ("6.4 RST_STREAM on an idle stream", frame(RST_STREAM, 0, 1, &[0; 4]), PROTOCOL),
        ("6.4 RST_STREAM of another length", [open.clone(), frame(RST_STREAM, 0, 1, &[0; 3])].concat(), SIZE),
        ("6.5 SETTINGS on a stream", frame(SETTINGS, 0, 1, &[]), PROTOCOL),
        ("6.5 SETTINGS of another length", frame(SETTINGS, 0, 0, &[0; 5]), SIZE),
        ("6.5 an ACK with content", frame(SETTINGS, END, 0, &setting(4, 1)), SIZE),
        ("6.5.2 ENABLE_PUSH of 2", frame(SETTINGS, 0, 0, &setting(2, 2)), PROTOCOL),
        (
            "6.5.2 a window above 2^31-1",
            frame(SETTINGS, 0, 0, &setting(4, 1 << 31)),
            &["goaway FLOW_CONTROL_ERROR", "goaway PROTOCOL_ERROR"],
        ),
        ("6.5.2 MAX_FRAME_SIZE below 2^14", frame(SETTINGS, 0, 0, &setting(5, 16_383)), PROTOCOL),
        ("6.5.2 MAX_FRAME_SIZE above 2^24-1", frame(SETTINGS, 0, 0, &setting(5, 1 << 24)), PROTOCOL),
        ("6.5.2 an unknown setting", [frame(SETTINGS, 0, 0, &setting(0xff, 1)), get(1)].concat(), FINE),
        (
            "6.6 PUSH_PROMISE of a client",
            [open.clone(), frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &block].concat())]
                .concat(),
            PROTOCOL,
        ),
        ("6.7 PING", ping, &["pong"]),
        ("6.7 PING on a stream", frame(PING, 0, 1, &[0; 8]), PROTOCOL),
        ("6.7 PING of another length", frame(PING, 0, 0, &[0; 7]), SIZE),
        ("6.7 an ACK that nobody waits for", [frame(PING, END, 0, &[7; 8]), get(1)].concat(), FINE),
        ("6.8 GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), PROTOCOL),
        ("6.9 WINDOW_UPDATE of 0 on the connection", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), PROTOCOL),
        (
            "6.9 WINDOW_UPDATE of 0 on a stream",
            [open.clone(), frame(WINDOW_UPDATE, 0, 1, &[0; 4])].concat(),
            &["reset PROTOCOL_ERROR", "goaway PROTOCOL_ERROR"],
        ),
        ("6.9 WINDOW_UPDATE of another length", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), SIZE),
        ("6.9 WINDOW_UPDATE on an idle stream", frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), PROTOCOL),
        (
            "6.9.1 a window above 2^31-1",
            [frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])].concat(),
            FLOW,
        ),
        (
            "6.9.1 a stream's window above 2^31-1",
            [open, frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff])].concat(),
            &["reset FLOW_CONTROL_ERROR", "goaway FLOW_CONTROL_ERROR"],
        ),
    ]
}

fn streams() -> Vec<Case> {
    let open = |stream| headers(stream, 0, &request("POST", "/echo", &[]));
    let data = |stream| frame(DATA, END, stream, b"x");
    vec![
        ("5.1 DATA on an idle stream", data(1), PROTOCOL),
        ("5.1 DATA after the end of the stream", [get(1), data(1)].concat(), CLOSED),
        (
            "5.1 HEADERS after the end of the stream",
            [get(1), get(1)].concat(),
            &["reset STREAM_CLOSED", "goaway STREAM_CLOSED", "goaway PROTOCOL_ERROR"],
        ),
        (
            "5.1 DATA after RST_STREAM",
            [open(1), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]), data(1), get(3)].concat(),
            &["reset STREAM_CLOSED", "goaway STREAM_CLOSED", "200"],
        ),
        ("5.1.1 an even stream", get(2), PROTOCOL),
        ("5.1.1 a lower stream", [open(5), get(3)].concat(), PROTOCOL),
        (
            "5.1.2 more streams than allowed",
            (0..200).flat_map(|n| open(2 * n + 1)).collect(),
            &["reset REFUSED_STREAM", "reset PROTOCOL_ERROR", "goaway PROTOCOL_ERROR"],
        ),
        (
            "5.4 RST_STREAM ends one stream only",
            [open(1), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]), get(3)].concat(),
            FINE,
        ),
        (
            "8.1 trailers without END_STREAM",
            [open(1), headers(1, 0, &field("x", "y"))].concat(),
            STREAM_PROTOCOL,
        ),
        (
            "8.1 trailers",
            [open(1), frame(DATA, 0, 1, b"x"), headers(1, END, &field("x", "y"))].concat(),
            FINE,
        ),
        (
            "8.1 pseudo-headers in trailers end the stream, or are dropped",
            [open(1), headers(1, END, &field(":path", "/b"))].concat(),
            &["reset PROTOCOL_ERROR", "200"],
        ),
        (
            "8.1.1 more content than announced",
            [
                headers(1, 0, &request("POST", "/echo", &[("content-length", "1")])),
                frame(DATA, END, 1, b"xx"),
            ]
            .concat(),
            STREAM_PROTOCOL,
        ),
        (
            "8.1.1 less content than announced",
            [
                headers(1, 0, &request("POST", "/echo", &[("content-length", "3")])),
                frame(DATA, END, 1, b"xx"),
            ]
            .concat(),
            STREAM_PROTOCOL,
        ),
        (
            "8.1.1 no content but announced",
            headers(1, END, &request("POST", "/echo", &[("content-length", "3")])),
            STREAM_PROTOCOL,
        ),
        (
            "8.1.1 two lengths",
            [
                headers(1, 0, &request("POST", "/echo", &[("content-length", "2"), ("content-length", "3")])),
                frame(DATA, END, 1, b"xx"),
            ]
            .concat(),
            STREAM_PROTOCOL,
        ),
        (
            "8.1.1 a length that is none",
            [
                headers(1, 0, &request("POST", "/echo", &[("content-length", "+2")])),
                frame(DATA, END, 1, b"xx"),
            ]
            .concat(),
            STREAM_PROTOCOL,
        ),
    ]
}

/// Requests of single fields that make them malformed (RFC 9113, sections 8.2 and 8.3).
fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    let with = |name, value| request("GET", "/", &[(name, value)]);
    let (method, scheme, path) = ((":method", "GET"), (":scheme", "http"), (":path", "/"));
    let authority = (":authority", "a");
    vec![
        ("8.2.1 an upper-case name", with("X-Upper", "y")),
        ("8.2.1 a space in a name", with("x y", "z")),
        ("8.2.1 a colon in a name", with("x:y", "z")),
        ("8.2.1 an empty name", with("", "z")),
        ("8.2.1 a control byte in a name", with("x\u{1}", "z")),
        ("8.2.1 NUL in a value", with("x", "a\0b")),
        ("8.2.1 LF in a value", with("x", "a\nb")),
        ("8.2.1 CR LF and a field in a value", with("x", "a\r\ny: z")),
        ("8.2.1 white space before a value", with("x", " y")),
        ("8.2.1 white space after a value", with("x", "y\t")),
        ("8.2.2 Connection", with("connection", "close")),
        ("8.2.2 Keep-Alive", with("keep-alive", "1")),
        ("8.2.2 Proxy-Connection", with("proxy-connection", "close")),
        ("8.2.2 Transfer-Encoding", with("transfer-encoding", "chunked")),
        ("8.2.2 Upgrade", with("upgrade", "x")),
        ("8.2.2 TE of anything but trailers", with("te", "gzip")),
        ("8.3 an unknown pseudo-header", with(":unknown", "x")),
        ("8.3 a pseudo-header of responses", with(":status", "200")),
        ("8.3 a pseudo-header behind a field", fields(&[method, scheme, ("x", "y"), path, authority])),
        ("8.3 a pseudo-header twice", fields(&[method, scheme, path, path, authority])),
        ("8.3.1 no method", fields(&[scheme, path, authority])),
        ("8.3.1 no scheme", fields(&[method, path, authority])),
        ("8.3.1 no path", fields(&[method, scheme, authority])),
        ("8.3.1 an empty path", fields(&[method, scheme, (":path", ""), authority])),
        ("8.3.1 a path without its slash", request("GET", "x", &[])),
        ("8.3.1 an asterisk for GET", request("GET", "*", &[])),
        ("8.3.1 a space in the path", request("GET", "/a b", &[])),
        ("8.3.1 a request line in the path", request("GET", "/ HTTP/1.1\r\nhost: b\r\n\r\n", &[])),
        ("8.3.1 a byte above ASCII in the path", request("GET", "/\u{e9}", &[])),
        ("8.3.1 a backslash in the path", request("GET", "/\\x", &[])),
        ("8.3.1 an empty method", request("", "/", &[])),
        ("8.3.1 a space in the method", request("GET /", "/", &[])),
        ("8.3.1 a request line in the method", request("GET / HTTP/1.1\r\nx:", "/", &[])),
        ("8.3.1 neither authority nor host", fields(&[method, scheme, path])),
        ("8.3.1 an empty authority", fields(&[method, scheme, path, (":authority", "")])),
        ("8.3.1 user information in the authority", fields(&[method, scheme, path, (":authority", "u@a")])),
        ("8.3.1 a path in the authority", fields(&[method, scheme, path, (":authority", "a/b")])),
        ("8.3.1 a host that differs from the authority", with("host", "b")),
        ("8.3.1 two hosts", request("GET", "/", &[("host", "a"), ("host", "a")])),
        ("8.5 CONNECT with a path", request("CONNECT", "/", &[])),
    ]
}

async fn play_case(address: SocketAddr, bytes: &[u8]) -> String {
    let mut raw = Raw::open(address).await;
    raw.send(bytes).await;
    tokio::time::timeout(PATIENCE, raw.outcome()).await.unwrap_or_else(|_| "nothing".into())
}

#[tokio::test]
async fn frames_that_rfc_9113_forbids_end_the_stream_or_the_connection() {
    let eu = upstream("eu").await;
    let gateway = start(topology(&[("eu", &[eu])], Protocol::Http1), Policies::default(), |_| {});
    let mut wrong = Vec::new();
    let malformed = malformed();
    let requests = malformed.iter().map(|(name, block)| (*name, headers(1, END, block), STREAM_PROTOCOL));
    for (name, bytes, allowed) in framing().into_iter().chain(streams()).chain(requests) {
        let outcome = play_case(gateway.address, &bytes).await;
        if !allowed.contains(&outcome.as_str()) {
            wrong.push(format!("{name}: {outcome}, expected {allowed:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn a_connection_preface_that_is_none_is_refused() {
    let eu = upstream("eu").await;
    let gateway = start(topology(&[("eu", &[eu])], Protocol::Http1), Policies::default(), |_| {});
    for (bytes, allowed) in [
        // RFC 9113, section 3.4: SETTINGS come first.
        ([PREFACE, &get(1)].concat(), &["goaway PROTOCOL_ERROR", "closed"][..]),
        ([PREFACE, &frame(PING, 0, 0, &[0; 8])].concat(), &["goaway PROTOCOL_ERROR", "closed"]),
        (
            [PREFACE, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"].concat(),
            &["goaway PROTOCOL_ERROR", "goaway FRAME_SIZE_ERROR", "closed"],
        ),
    ] {
        let mut raw = Raw { stream: TcpStream::connect(gateway.address).await.unwrap(), came: Vec::new() };
        raw.send(&bytes).await;
        let outcome = tokio::time::timeout(PATIENCE, raw.outcome()).await.unwrap();
        assert!(allowed.contains(&outcome.as_str()), "{outcome} after {bytes:?}");
    }
}

/// How many frames a connection takes of one kind before it ends, sent in pieces while what comes is read.
async fn taken(address: SocketAddr, first: Vec<u8>, mut one: impl FnMut(u32) -> Vec<u8>) -> (u32, String) {
    let mut raw = Raw::open(address).await;
    raw.send(&first).await;
    let (stream, mut sent) = (&mut raw.stream, 0);
    loop {
        let bytes: Vec<u8> = (0..64).flat_map(|n| one(sent + n)).collect();
        if stream.write_all(&bytes).await.is_err() {
            break;
        }
        sent += 64;
        let mut came = vec![0; 16 * 1024];
        match stream.try_read(&mut came) {
            Ok(0) => break,
            Ok(read) => raw.came.extend(&came[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        tokio::task::yield_now().await;
        if sent > 1_000_000 {
            break;
        }
    }
    let mut last = String::from("closed");
    while let Ok(outcome) = tokio::time::timeout(PATIENCE, raw.outcome()).await {
        if outcome == "closed" {
            break;
        }
        last = outcome;
    }
    (sent, last)
}

#[tokio::test]
async fn floods_end_soon_and_others_are_served() {
    let eu = upstream("eu").await;
    let gateway = start(topology(&[("eu", &[eu])], Protocol::Http1), Policies::default(), |_| {});
    let open = headers(1, 0, &request("POST", "/echo", &[]));
    let half = frame(HEADERS, END, 1, &request("GET", "/", &[]));
    let reset = |stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
    type Flood<'a> = (&'static str, Vec<u8>, Box<dyn FnMut(u32) -> Vec<u8> + 'a>);
    let floods: Vec<Flood<'_>> = vec![
        ("PING", vec![], Box::new(|_| frame(PING, 0, 0, &[0; 8]))),
        ("PING acknowledged", vec![], Box::new(|_| frame(PING, END, 0, &[0; 8]))),
        ("SETTINGS", vec![], Box::new(|_| frame(SETTINGS, 0, 0, &[]))),
        (
            "SETTINGS that move windows",
            open.clone(),
            Box::new(|n| frame(SETTINGS, 0, 0, &setting(4, 65_535 + n % 2))),
        ),
        ("PRIORITY", vec![], Box::new(|n| frame(PRIORITY, 0, 2 * n + 1, &[0, 0, 0, 0, 1]))),
        ("WINDOW_UPDATE", open.clone(), Box::new(|_| frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]))),
        ("empty DATA", open.clone(), Box::new(|_| frame(DATA, 0, 1, &[]))),
        ("unknown frames", vec![], Box::new(|_| frame(0x42, 0, 0, &[]))),
        ("CONTINUATION", half.clone(), Box::new(|_| frame(CONTINUATION, 0, 1, &field("x", "y")))),
        ("empty CONTINUATION", half, Box::new(|_| frame(CONTINUATION, 0, 1, &[]))),
        ("rapid reset", vec![], Box::new(|n| [get(2 * n + 1), reset(2 * n + 1)].concat())),
        (
            "resets that the client provokes",
            vec![],
            Box::new(|n| {
                let stream = 2 * n + 1;
                [headers(stream, 0, &request("POST", "/echo", &[])), frame(WINDOW_UPDATE, 0, stream, &[0; 4])]
                    .concat()
            }),
        ),
    ];
    for (name, first, one) in floods {
        let (sent, last) = taken(gateway.address, first, one).await;
        assert!(sent < 50_000, "{name}: {sent} frames were taken, then {last}");
        assert!(last == "closed" || last.starts_with("goaway"), "{name}: {last}");
        assert_eq!(play_case(gateway.address, &get(1)).await, "200", "another client after {name}");
    }
    let metrics = gateway.handle.metrics().render();
    assert!(!metrics.contains("portolan_refused_total{reason=\"flood\"} 0"), "{metrics}");
    while gateway.handle.connections() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_busy_client_is_not_taken_for_a_flood() {
    let eu = upstream("eu").await;
    let gateway = start(topology(&[("eu", &[eu])], Protocol::Http1), Policies::default(), |_| {});
    let mut raw = Raw::open(gateway.address).await;
    let line = frame(PING, 0, 0, &[0; 8]);
    for n in 0..1_000 {
        // As clients do that measure the line for each response and open the window for it.
        let window = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 16, 0]);
        raw.send(&[get(2 * n + 1), line.clone(), window].concat()).await;
        let mut answered = (false, false);
        while answered != (true, true) {
            match raw.outcome().await.as_str() {
                "200" => answered.0 = true,
                "pong" => answered.1 = true,
                other => panic!("request {n}: {other}"),
            }
        }
    }
}

#[tokio::test]
async fn header_bombs_are_refused_before_they_grow() {
    let eu = upstream("eu").await;
    let gateway = start(topology(&[("eu", &[eu])], Protocol::Http1), Policies::default(), |_| {});
    // One field in the table, named again by one byte each time (RFC 7541, sections 6.1 and 6.2.1).
    let mut named = vec![0x40, 1, b'x', 126];
    named.extend([b'y'; 126]);
    let block = [request("GET", "/", &[]), named, vec![0xbe; 10_000]].concat();
    let outcome = play_case(gateway.address, &headers(1, END, &block)).await;
    assert!(
        ["another status", "reset PROTOCOL_ERROR", "goaway ENHANCE_YOUR_CALM", "400"]
            .contains(&outcome.as_str()),
        "{outcome}"
    );
    let many: Vec<(&str, &str)> = (0..101).map(|_| ("x", "y")).collect();
    let outcome = play_case(gateway.address, &headers(1, END, &request("GET", "/", &many))).await;
    assert_eq!(outcome, "another status", "431 for too many fields");
}

#[tokio::test]
async fn who_does_not_read_is_let_go() {
    let eu = upstream("eu").await;
    let gateway = start(topology(&[("eu", &[eu])], Protocol::Http1), Policies::default(), |settings| {
        settings.limits.body_idle_timeout = Duration::from_millis(200);
    });
    // HTTP/1: a large response that stays unread in the socket.
    let mut first = TcpStream::connect(gateway.address).await.unwrap();
    first.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    // HTTP/2: a window that never opens (RFC 9113, section 10.5), for large responses and for small ones.
    let mut second = Raw::open(gateway.address).await;
    second.send(&frame(SETTINGS, 0, 0, &setting(4, 0))).await;
    second.send(&[headers(1, END, &request("GET", "/large", &[])), get(3)].concat()).await;
    while gateway.handle.metrics().requests_by_class()[2] == 0 && gateway.handle.connections() < 2 {
        tokio::task::yield_now().await;
    }
    let ended = async {
        while gateway.handle.connections() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("both connections end");
    drop((first, second));
}
