//! Raw requests and what becomes of them.

use proptest::prelude::*;

use super::*;
use crate::time::Moment;

fn verdict(bytes: &[u8]) -> Result<u64, Violation> {
    check_whole(bytes, Limits::default())
}

fn post(fields: &str, content: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n{content}")
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// Good streams with the number of requests in them.
fn good() -> Vec<(String, u64)> {
    let chunked = |content: &str| post("Transfer-Encoding: chunked\r\n", content);
    vec![
        (get("/"), 1),
        (get("/").repeat(3), 3),
        (format!("\r\n{}", get("/")), 1),
        (get("/a/b?c=d&e=%20{}|"), 1),
        (get("http://a/"), 1),
        (get("HTTP://A?x"), 1),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".into(), 1),
        ("GET / HTTP/1.0\r\n\r\n".into(), 1),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n".into(), 1),
        ("QUERY / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n".into(), 1),
        (
            "GET / HTTP/1.1\r\nHost: a_b.c-d:65535\r\nx:\r\ny: \t\r\nz:a\tb \x7e\r\nw: \u{fc}\r\n\r\n".into(),
            1,
        ),
        (post("Content-Length: 5\r\n", "hello"), 1),
        (post("Content-Length: 0\r\n", &get("/")), 2),
        (post("content-length:05\r\n", &format!("hello{}", get("/"))), 2),
        (chunked("5\r\nhello\r\n0\r\n\r\n"), 1),
        (
            chunked(&format!(
                "5;a=\"b c\"\r\nhello\r\nA\r\n0123456789\r\n000\r\nx-sum: 1\r\n\r\n{}",
                get("/")
            )),
            2,
        ),
        (post("Transfer-Encoding:  CHUNKED\t\r\n", "0\r\n\r\n"), 1),
    ]
}

/// Bad streams with what is wrong with each.
fn bad() -> Vec<(String, Violation)> {
    use Violation::*;
    let field = |text: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{text}\r\n\r\n");
    let host = |text: &str| format!("GET / HTTP/1.1\r\nHost: {text}\r\n\r\n");
    let line = |text: &str| format!("{text}\r\nHost: a\r\n\r\n");
    let chunked = |content: &str| post("Transfer-Encoding: chunked\r\n", content);
    let mut all = vec![
        (post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), Length),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"), Length),
        (post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), Length),
        (post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"), Length),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), Length),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"), Length),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), Length),
        ("GET / HTTP/1.1\nHost: a\n\n".into(), Line),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n".into(), Line),
        ("GET / HTTP/1.1\r\nHost: a\r\nx: a\rb\r\n\r\n".into(), Line),
        ("GET / HTTP/1.1\r\nHost: a\r\nx: a\r\n b\r\n\r\n".into(), Line),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n".into(), Line),
        ("\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".into(), Line),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".into(), Line),
        ("\r\n\r\n\r\n".into(), Line),
        ("GET / HTTP/1.1\r\n\r\n".into(), Host),
        (field("Host: a"), Host),
        (field("Host: b"), Host),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), Host),
        ("GET http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), Host),
        ("GET http://u@a/ HTTP/1.1\r\nHost: u@a\r\n\r\n".into(), Host),
        ("GET http:/// HTTP/1.1\r\nHost: \r\n\r\n".into(), Host),
        ("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n".into(), Host),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".into(), Method),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), Version),
        (line("GET / HTTP/1.2"), Version),
        (line("GET / HTTP/3.0"), Version),
        (line("GET / HTTP/1.10"), RequestLine),
        (line("GET / http/1.1"), RequestLine),
        (line("GET / HTTPS/1.1"), RequestLine),
        (line("GET /"), RequestLine),
        (line("GET  / HTTP/1.1"), RequestLine),
        (line("GET / HTTP/1.1 "), RequestLine),
        (line(" GET / HTTP/1.1"), RequestLine),
        (line("GET\t/ HTTP/1.1"), RequestLine),
        (line("GET /a b HTTP/1.1"), RequestLine),
        (line("G@T / HTTP/1.1"), RequestLine),
        (line(&format!("{} / HTTP/1.1", "M".repeat(33))), RequestLine),
        (line("GET * HTTP/1.1"), Target),
        (line("GET a HTTP/1.1"), Target),
        (line("GET ftp://a/ HTTP/1.1"), Target),
        (line("GET /#x HTTP/1.1"), Target),
        (line("GET /\u{e9} HTTP/1.1"), Target),
        (line("GET /\x01 HTTP/1.1"), Target),
        (line("GET  HTTP/1.1"), Target),
        (get(&format!("/{}", "x".repeat(16 * 1024))), TargetSize),
        ("G".repeat(20_000), TargetSize),
        (
            (0..101).fold("GET / HTTP/1.1\r\nHost: a\r\n".to_owned(), |all, n| format!("{all}x{n}: y\r\n"))
                + "\r\n",
            HeadSize,
        ),
        (field(&format!("x: {}", "y".repeat(66_000))), HeadSize),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}", "y".repeat(66_000)), HeadSize),
        (chunked(&format!("0\r\nx: {}", "y".repeat(66_000))), HeadSize),
        (chunked("0\r\nContent-Length: 5\r\n\r\n"), Trailer),
        (chunked("0\r\nhost: b\r\n\r\n"), Trailer),
        (chunked("0\r\nAuthorization: b\r\n\r\n"), Trailer),
        (chunked("0\r\nx y: b\r\n\r\n"), Field),
        (chunked("0\r\n x: b\r\n\r\n"), Line),
        (chunked(&format!("1;{}\r\nx\r\n", "e".repeat(5_000))), Chunk),
    ];
    for length in ["+5", "-5", "5 5", "5, 5", "0x5", "", "5a", "1e3", "99999999999999999999", "\u{665}"] {
        all.push((post(&format!("Content-Length: {length}\r\n"), "hello"), Length));
    }
    for coding in ["gzip", "gzip, chunked", "xchunked"] {
        all.push((post(&format!("Transfer-Encoding: {coding}\r\n"), "0\r\n\r\n"), TransferCoding));
    }
    for coding in ["chunked, chunked", "chunked, gzip", "chunked;q=1", "\"chunked\"", ""] {
        all.push((post(&format!("Transfer-Encoding: {coding}\r\n"), "0\r\n\r\n"), Length));
    }
    for name in
        ["x ", "x\t", "", "x y", "x(", "\u{fc}", "x\x01", "Transfer-Encoding ", "Content-Length\t", "Host "]
    {
        all.push((field(&format!("{name}: v")), Field));
    }
    for value in ["a\0b", "a\x01", "a\x7f", "\x1b"] {
        all.push((field(&format!("x: {value}")), Field));
    }
    all.push((field("x"), Field));
    for name in [
        "", "a b", "a,b", "a/b", "u@a", "a:", "a:x", "a:99999", "a:123456", "[::1", "[a]", "[::1]x", "a%41",
        "a?b", "a#b", "\u{e9}",
    ] {
        all.push((host(name), Host));
    }
    for content in [
        "x\r\n",
        " 5\r\nhello",
        "5 \r\nhello\r\n",
        "-5\r\n",
        "+5\r\n",
        "0x5\r\nhello\r\n",
        "\r\n",
        ";a\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX",
        "5\r\nhello\n",
        "5\r\nhello\rX",
        "5;a\nb\r\nhello\r\n",
        "5;a\rb",
        "5;\u{1}\r\n",
        "1000000000000000\r\n",
        "ffffffffffffffffff\r\n",
        "5\rX",
    ] {
        all.push((chunked(content), Chunk));
    }
    all
}

#[test]
fn what_every_reader_understands_alike_is_accepted() {
    for (stream, requests) in good() {
        assert_eq!(verdict(stream.as_bytes()), Ok(requests), "{stream:?}");
    }
}

#[test]
fn what_readers_could_understand_differently_is_refused() {
    let all = bad();
    assert!(all.len() > 100, "the corpus has {} cases", all.len());
    for (stream, violation) in all {
        let seen = verdict(stream.as_bytes());
        assert_eq!(seen, Err(violation), "{:?}", stream.get(..stream.len().min(200)));
        assert!((400..=505).contains(&violation.status()));
    }
}

#[test]
fn an_upgrade_pauses_the_reader_until_it_is_answered() {
    let asks = "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut screen = Screen::new(Limits::default());
    screen.push(asks.as_bytes()).unwrap();
    assert!(screen.awaits_upgrade());
    screen.upgrade_accepted();
    screen.push(b"\0\xff anything \n\n").unwrap();
    let mut screen = Screen::new(Limits::default());
    screen.push(asks.as_bytes()).unwrap();
    screen.upgrade_declined();
    assert_eq!(screen.push(b"\0"), Ok(()));
    assert!(screen.push(b"\nx\n").is_err());
    // Smuggled behind the question, in one piece with it: read as a request.
    let mut screen = Screen::new(Limits::default());
    assert!(screen.push(format!("{asks}\0\n\n").as_bytes()).is_err());
    // Neither half of the question alone, nor HTTP/1.0, asks for an upgrade.
    for plain in ["Upgrade: websocket\r\n", "Connection: upgrade\r\n"] {
        let mut screen = Screen::new(Limits::default());
        screen.push(post(plain, "").as_bytes()).unwrap();
        assert!(!screen.awaits_upgrade() && screen.is_idle());
    }
}

#[test]
fn a_megabyte_of_content_costs_nothing_but_counting() {
    let mut screen = Screen::new(Limits::default());
    screen.push(post("Content-Length: 10485760\r\n", "").as_bytes()).unwrap();
    for _ in 0..10 {
        screen.push(&vec![b'\n'; 1 << 20]).unwrap();
    }
    assert!(screen.is_idle());
}

#[test]
fn responses_and_frames_are_judged_alike_however_they_are_cut() {
    let seeds: [&[u8]; 4] = [
        b"\0HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"\x03HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n0\r\nx: y\r\n\r\n",
        b"\x02HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n\0",
        b"\0PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\x05\0\0\0\x01\x82",
    ];
    crate::exercise::mutated(&seeds, 20_000, crate::exercise::responses);
}

#[test]
fn frames_without_requests_spend_the_account_and_time_and_responses_pay() {
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let answer = [0, 0, 0, 1, 5, 0, 0, 0, 1];
    let spend =
        |frames: &mut Frames, now| (0..).find(|_| frames.receive(&settings, now).is_err()).unwrap_or(0);
    let mut frames = Frames::new(Moment(0));
    frames.receive(&[0; 24], Moment(0)).unwrap();
    assert_eq!(spend(&mut frames, Moment(0)), 256, "four each of 1,024");
    assert_eq!(spend(&mut frames, Moment(1_000_000)), 16, "a second pays 64");
    frames.send(&answer.repeat(16), Moment(1_000_000));
    assert_eq!(spend(&mut frames, Moment(1_000_000)), 16, "and so do 16 frames of responses");
    assert_eq!(spend(&mut frames, Moment(1_000_000_000)), 256, "nobody saves more than the whole");
    let goodbye = frames.goodbye(Violation::Flood).unwrap();
    assert_eq!(goodbye[3..5], [7, 0], "GOAWAY");
    frames.send(&answer[..5], Moment(1_000_000_000));
    assert_eq!(frames.goodbye(Violation::Flood), None, "not within another frame");
}

fn streams() -> impl Strategy<Value = Vec<u8>> {
    let corpus: Vec<String> = good()
        .into_iter()
        .map(|(stream, _)| stream)
        .chain(bad().into_iter().map(|(stream, _)| stream))
        .collect();
    let corpus: Vec<Vec<u8>> =
        corpus.into_iter().filter(|s| s.len() < 2_000).map(String::into_bytes).collect();
    let one = prop::sample::select(corpus);
    let mutated =
        (one.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut stream, at, byte)| {
            let at = at.index(stream.len().max(1));
            if let Some(place) = stream.get_mut(at) {
                *place = byte;
            }
            stream
        });
    prop::collection::vec(prop_oneof![one, mutated], 1..4).prop_map(|all| all.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_024))]

    /// However the bytes are cut, the verdict is the same.
    #[test]
    fn cuts_do_not_matter(stream in streams(), cuts in prop::collection::vec(1_usize..40, 1..60)) {
        let whole = verdict(&stream);
        let mut screen = Screen::new(Limits::default());
        let mut rest = stream.as_slice();
        let mut cuts = cuts.into_iter().cycle();
        let mut pieces = Ok(());
        while !rest.is_empty() && pieces.is_ok() {
            let (piece, tail) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
            pieces = screen.push(piece);
            rest = tail;
        }
        // Which of several faults is seen first may depend on the cuts; whether there is one may not.
        prop_assert_eq!(pieces.map(|()| screen.requests()).ok(), whole.ok());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        // Refused or taken, but the same way each time.
        prop_assert_eq!(verdict(&bytes), verdict(&bytes));
    }
}
