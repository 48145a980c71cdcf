//! Listeners behind load balancers that speak the PROXY protocol.

use super::*;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn trusting(networks: &[&str]) -> Trust {
    Trust { proxies: networks.iter().map(|network| network.parse().unwrap()).collect(), ..Trust::default() }
}

/// What comes back over a connection to the listener behind load balancers, for these pieces.
async fn talk(gateway: &Gateway, pieces: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(gateway.handle.addresses()[1]).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        // Whoever is turned away may be so before the last piece.
        if stream.write_all(piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let mut answer = Vec::new();
    // A connection that is reset has said nothing.
    drop(stream.read_to_end(&mut answer).await);
    String::from_utf8_lossy(&answer).into_owned()
}

fn seen(answer: &str) -> serde_json::Value {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    serde_json::from_str(body).unwrap()
}

#[tokio::test]
async fn a_load_balancer_says_who_the_client_is() {
    let eu = upstream("eu").await;
    let gateway = start(topology(&[("eu", &[eu])], Protocol::Http1), Policies::default(), |settings| {
        settings.trust = trusting(&["127.0.0.0/8"])
    });
    let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 80\r\n".as_slice();
    let header =
        [SIGNATURE, b"\x21\x11\0\x0f\xcb\0\x71\x09\xc6\x33\x64\x01\xdc\x04\x01\xbb\x04\0\0"].concat();
    let local = [SIGNATURE, b"\x20\0\0\0"].concat();
    for (begin, client) in [(line, "192.0.2.7"), (&header, "203.0.113.9"), (&local, "127.0.0.1")] {
        let whole = [begin, GET].concat();
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        for pieces in [vec![whole.as_slice()], vec![begin, GET], bytes] {
            let answer = seen(&talk(&gateway, &pieces).await);
            assert_eq!(answer["fields"]["x-forwarded-for"], client);
        }
    }
    // Whom the load balancer names is no trusted proxy for that: what it says of others is not believed.
    let forged =
        b"GET / HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n\r\n";
    let answer = seen(&talk(&gateway, &[line, forged]).await);
    assert_eq!(answer["fields"]["x-forwarded-for"], "192.0.2.7");
}

#[tokio::test]
async fn without_a_header_or_from_elsewhere_nothing_is_served() {
    let eu = upstream("eu").await;
    let pools = || topology(&[("eu", &[eu])], Protocol::Http1);
    let gateway = start(pools(), Policies::default(), |settings| settings.trust = trusting(&["127.0.0.0/8"]));
    let short = [SIGNATURE, b"\x21\x11\0\x04\xcb\0\x71\x09"].concat();
    for begin in [b"".as_slice(), b"PROXY TCP4 nobody nowhere 1 2\r\n", &short] {
        assert_eq!(talk(&gateway, &[&[begin, GET].concat()]).await, "");
    }
    let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 80\r\n".as_slice();
    // Behind the header comes the client: a second one is its own, and no request.
    assert!(talk(&gateway, &[line, line, GET]).await.starts_with("HTTP/1.1 400"));
    let other = start(pools(), Policies::default(), |settings| settings.trust = trusting(&["192.0.2.0/24"]));
    assert_eq!(talk(&other, &[line, GET]).await, "");
    // Where no header is expected, it is none.
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(&[line, GET].concat()).await.unwrap();
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", answer.escape_ascii());
}
