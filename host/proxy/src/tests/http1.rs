//! The corpora of raw messages: requests through the real listener, and responses of an upstream that is up to no good.

use super::*;

/// Runs of cases at one time.
const AT_ONCE: usize = 16;
/// What no answer takes longer than.
const PATIENCE: Duration = Duration::from_secs(20);

/// A response as a client reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Read {
    status: String,
    content: Vec<u8>,
}

/// One line of a corpus.
struct Case {
    /// Where it stands, and what it stands on.
    name: String,
    verdict: String,
    /// What is between name and bytes.
    middle: Vec<String>,
    bytes: Vec<u8>,
}

fn cases(corpus: &str, columns: usize) -> Vec<Case> {
    let mut section = "";
    let mut all = Vec::new();
    for (number, line) in corpus.lines().enumerate() {
        if line.starts_with('[') {
            section = line;
        } else if !line.is_empty() && !line.starts_with('#') {
            let parts: Vec<&str> = line.splitn(columns, " | ").collect();
            let trailing = parts.len() == columns - 1 && line.ends_with(" |");
            assert!(parts.len() == columns || trailing, "line {}: {line}", number + 1);
            let bytes = parts.get(columns - 1).map_or_else(Vec::new, |text| unescape(text));
            let middle = parts[2..columns - 1].iter().map(|text| text.trim_end_matches(" |").to_owned());
            all.push(Case {
                name: format!("line {}, {section} {}", number + 1, parts[1]),
                verdict: parts[0].to_owned(),
                middle: middle.collect(),
                bytes,
            });
        }
    }
    all
}

/// The bytes that a text of the corpus stands for.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if let Some((inner, times, after)) = repeated(after).filter(|_| *first == b'{') {
            bytes.extend(unescape(inner).repeat(times));
            rest = after;
            continue;
        }
        match (first, after) {
            (b'~', _) => bytes.extend(b"\r\n"),
            (b'\\', [b'x', high, low, after @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16).unwrap() as u8;
                bytes.push(digit(high) << 4 | digit(low));
                rest = after;
            }
            (b'\\', [letter, after @ ..]) => {
                let known = [(b'r', b'\r'), (b'n', b'\n'), (b't', b'\t'), (b'0', 0), (b'\\', b'\\')];
                bytes.push(known.iter().find(|(name, _)| name == letter).unwrap().1);
                rest = after;
            }
            (plain, _) => bytes.push(*plain),
        }
    }
    bytes
}

/// Text, times and the rest, of what follows the brace in `{text*times}rest`.
fn repeated(text: &[u8]) -> Option<(&str, usize, &[u8])> {
    let end = text.iter().position(|&byte| byte == b'}')?;
    let (inner, times) = std::str::from_utf8(&text[..end]).ok()?.rsplit_once('*')?;
    Some((inner, times.parse().ok()?, &text[end + 1..]))
}

/// Reads responses off the start of what came: those that are whole, and the status of one that is not.
fn read_responses(mut bytes: &[u8], head_only: bool, ended: bool) -> (Vec<Read>, Option<String>) {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let status = String::from_utf8_lossy(bytes.get(9..12).unwrap_or_default()).into_owned();
        let Some((content, rest)) = read_response(bytes, &status, head_only, ended) else {
            return (all, Some(status));
        };
        all.push(Read { status, content });
        bytes = rest;
    }
    (all, None)
}

fn read_response<'a>(
    bytes: &'a [u8],
    status: &str,
    head_only: bool,
    ended: bool,
) -> Option<(Vec<u8>, &'a [u8])> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let mut rest = &bytes[end + 4..];
    let field = |name: &str| {
        head.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(|value| value.trim().to_owned()))
    };
    if head_only || status.starts_with('1') || status == "204" || status == "304" {
        return Some((Vec::new(), rest));
    }
    if field("transfer-encoding").is_some() {
        let mut content = Vec::new();
        loop {
            let line = rest.windows(2).position(|window| window == b"\r\n")?;
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
            rest = &rest[line + 2..];
            if size == 0 {
                let end = rest.windows(2).position(|window| window == b"\r\n")?;
                // Trailer fields, if there are any, end in an empty line as well.
                let end = if end == 0 { 2 } else { rest.windows(4).position(|w| w == b"\r\n\r\n")? + 4 };
                return Some((content, &rest[end..]));
            }
            content.extend(rest.get(..size)?);
            rest = rest.get(size + 2..)?;
        }
    }
    match field("content-length") {
        Some(length) => {
            let length = length.parse().unwrap();
            Some((rest.get(..length)?.to_vec(), &rest[length..]))
        }
        None => ended.then(|| (rest.to_vec(), &rest[rest.len()..])),
    }
}

/// Sends the bytes and reads until `count` responses came, or the connection ended: what came, and whether it ended.
async fn talk(stream: &mut TcpStream, sent: &[u8], count: usize, head_only: bool) -> (Vec<u8>, bool) {
    let (mut reader, mut writer) = stream.split();
    // Who is refused early may find the connection closed before all is written.
    let write = async { _ = writer.write_all(sent).await };
    let read = async {
        let mut came = Vec::new();
        loop {
            if read_responses(&came, head_only, false).0.len() >= count {
                return (came, false);
            }
            if !matches!(reader.read_buf(&mut came).await, Ok(1..)) {
                return (came, true);
            }
        }
    };
    tokio::join!(write, read).1
}

/// Does the connection end? If not, does it serve another request?
async fn ends(stream: &mut TcpStream) -> Result<bool, String> {
    let probe = b"GET /probe HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let (came, _) = talk(stream, probe, 1, false).await;
    match read_responses(&came, false, true).0.first() {
        Some(Read { status, .. }) if status == "200" => Ok(false),
        None if came.is_empty() => Ok(true),
        _ => Err(format!("the next request got {:?}", String::from_utf8_lossy(&came))),
    }
}

/// What a verdict says: statuses with the contents that are named.
fn expected(verdict: &str) -> Vec<(String, Option<Vec<u8>>)> {
    let words = verdict.split(' ').filter(|word| word.starts_with(|first: char| first.is_ascii_digit()));
    words
        .map(|word| match word.split_once('=') {
            Some((status, content)) => (status.to_owned(), Some(unescape(content))),
            None => (word.to_owned(), None),
        })
        .collect()
}

fn agree(seen: &[Read], expected: &[(String, Option<Vec<u8>>)]) -> bool {
    let one = |(read, (status, content)): (&Read, &(String, Option<Vec<u8>>))| {
        read.status == *status && content.as_ref().is_none_or(|content| *content == read.content)
    };
    seen.len() == expected.len() && seen.iter().zip(expected).all(one)
}

async fn try_request(address: SocketAddr, case: &Case) -> Result<(), String> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let expected = expected(&case.verdict);
    let (came, ended) = talk(&mut stream, &case.bytes, expected.len(), false).await;
    let (seen, _) = read_responses(&came, false, ended);
    if !agree(&seen, &expected) {
        let statuses: Vec<_> =
            seen.iter().map(|read| (&read.status, String::from_utf8_lossy(&read.content))).collect();
        return Err(format!("{}: expected {}, got {statuses:?}", case.name, case.verdict));
    }
    let switched = expected.last().is_some_and(|(status, _)| status == "101");
    let closes = case.verdict.ends_with("close");
    if switched || (ended && closes) {
        return Ok(());
    }
    match ends(&mut stream).await {
        Ok(ends) if ends == closes => Ok(()),
        other => Err(format!("{}: after {} the connection {other:?}", case.name, case.verdict)),
    }
}

#[tokio::test]
async fn each_raw_request_gets_the_answer_that_the_rfcs_name() {
    let eu = upstream("eu").await;
    let gateway = start(unbroken(topology(&[("eu", &[eu])], Protocol::Http1)), Policies::default(), |_| {});
    let all = cases(include_str!("http1/requests.txt"), 3);
    assert!(all.len() > 300, "the corpus has {} cases", all.len());
    let address = gateway.address;
    let mut wrong = Vec::new();
    for some in all.chunks(AT_ONCE) {
        let tries = some.iter().map(|case| async move {
            let tried = tokio::time::timeout(PATIENCE, try_request(address, case)).await;
            tried.unwrap_or_else(|_| Err(format!("{}: no end", case.name)))
        });
        wrong.extend(futures_util::future::join_all(tries).await.into_iter().filter_map(Result::err));
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), all.len(), wrong.join("\n"));
}

/// An upstream that answers `/n` with the bytes of case n, whatever they are, and every other path well.
async fn player(cases: Arc<Vec<Case>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    task::spawn("player", async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let cases = Arc::clone(&cases);
            task::spawn("player-connection", async move { drop(play_raw(stream, &cases).await) });
        }
    });
    address
}

async fn play_raw(mut stream: TcpStream, cases: &[Case]) -> std::io::Result<()> {
    let mut came = Vec::new();
    loop {
        while !came.windows(4).any(|window| window == b"\r\n\r\n") {
            if stream.read_buf(&mut came).await? == 0 {
                return Ok(());
            }
        }
        let head = String::from_utf8_lossy(&came).into_owned();
        came.clear();
        let path = head.split(' ').nth(1).unwrap_or_default();
        match path.trim_start_matches('/').parse::<usize>() {
            Ok(number) => {
                stream.write_all(&cases[number].bytes).await?;
                if cases[number].middle[0].ends_with("close") {
                    return Ok(());
                }
            }
            Err(_) => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nafter").await?,
        }
    }
}

async fn try_response(address: SocketAddr, number: usize, case: &Case) -> Result<(), String> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request: Vec<&str> = case.middle[0].split(' ').collect();
    let (method, version) = (request[0], request[1]);
    let sent = format!("{method} /{number} HTTP/{version}\r\nHost: a\r\n\r\n");
    let expected = expected(&case.verdict);
    let broken = case.verdict == "broken";
    let count = expected.len().max(1);
    let (came, ended) = talk(&mut stream, sent.as_bytes(), count, method == "HEAD").await;
    let (seen, rest) = read_responses(&came, method == "HEAD", ended);
    let good = if broken {
        let refused = seen.first().is_some_and(|read| read.status == "502");
        // The head may go down with the connection.
        let torn = came.is_empty() || rest.as_deref() == Some("200");
        refused || ended && seen.is_empty() && torn
    } else {
        agree(&seen, &expected) && rest.is_none()
    };
    let text = String::from_utf8_lossy(&came);
    if !good || text.contains("stolen") {
        return Err(format!("{}: expected {}, got {text:?}", case.name, case.verdict));
    }
    let mut after = TcpStream::connect(address).await.unwrap();
    let (came, _) = talk(&mut after, b"GET /after HTTP/1.1\r\nHost: a\r\n\r\n", 1, false).await;
    let (seen, _) = read_responses(&came, false, true);
    let own = Read { status: "200".into(), content: b"after".to_vec() };
    if seen == [own] { Ok(()) } else { Err(format!("{}: then the next request got {seen:?}", case.name)) }
}

#[tokio::test]
async fn no_raw_response_splits_or_pretends_to_be_whole() {
    let all = Arc::new(cases(include_str!("http1/responses.txt"), 4));
    assert!(all.len() > 100, "the corpus has {} cases", all.len());
    let eu = player(Arc::clone(&all)).await;
    let gateway = start(unbroken(topology(&[("eu", &[eu])], Protocol::Http1)), Policies::default(), |_| {});
    let mut wrong = Vec::new();
    for (number, case) in all.iter().enumerate() {
        let tried = tokio::time::timeout(PATIENCE, try_response(gateway.address, number, case)).await;
        wrong.extend(tried.unwrap_or_else(|_| Err(format!("{}: no end", case.name))).err());
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), all.len(), wrong.join("\n"));
}
