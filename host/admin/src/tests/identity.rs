//! Tokens of portolan and of an identity provider, with keys of the test's own.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use portolan_foundation::{clock, task};
use serde_json::{Value, json};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{Bench, own, tcp};
use crate::{Bindings, Claim, Keys, Oidc, Role, Settings};

#[tokio::test]
async fn a_token_is_good_until_it_ends_or_is_revoked() {
    let bench = Bench::new(Settings::default());
    let made = bench
        .admin("POST", "/api/v1/tokens", json!({ "name": "ci", "role": "auditor", "expires_in_s": 60 }))
        .await;
    let (text, about) = (made.body["token"].as_str().unwrap().to_owned(), made.body["about"].clone());
    let id = about["id"].as_str().unwrap();
    assert!(text.starts_with(&format!("ptl_{id}_")) && text.len() == 4 + 16 + 1 + 64, "{text}");
    assert_eq!(made.body["undo"], format!("portolan token revoke {id}"));
    let status = async |credential: &str| {
        bench.ask(tcp(), "GET", "/api/v1/status", &[("authorization", credential)], &Value::Null).await
    };
    assert_eq!(status(&format!("Bearer {text}")).await.status, StatusCode::OK);
    assert_eq!(status(&format!("bearer {text}")).await.status, StatusCode::OK);
    let last = if text.ends_with('0') { "1" } else { "0" };
    let wrong = format!("{}{last}", text.get(..text.len() - 1).unwrap());
    for bad in [
        format!("Bearer {wrong}"),
        format!("Bearer ptl_{}_{}", "0".repeat(16), "0".repeat(64)),
        format!("Bearer ptl_{id}_"),
        format!("Bearer PTL_{id}_{}", "0".repeat(64)),
        format!("Basic {text}"),
        text.clone(),
        "Bearer ".to_owned(),
        format!("Bearer {}", "x".repeat(20_000)),
    ] {
        let answer = status(&bad).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{bad}");
    }
    // The store has no secret, and no list shows its hash.
    let kept = format!("{:?}", bench.twin.inside.lock().unwrap().objects);
    assert!(!kept.contains(text.get(21..).unwrap()) && kept.contains("hash"));
    for path in [
        "/api/v1/tokens",
        "/api/v1/objects?kind=token",
        "/api/v1/changes",
        &format!("/api/v1/objects/token/{id}"),
    ] {
        let shown = bench.admin("GET", path, Value::Null).await.body.to_string();
        assert!(shown.contains("ci") && !shown.contains("hash"), "{path}: {shown}");
    }
    let gone = bench.admin("DELETE", &format!("/api/v1/tokens/{id}"), Value::Null).await;
    assert_eq!(gone.status, StatusCode::OK);
    assert_eq!(status(&format!("Bearer {text}")).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(
        bench.admin("DELETE", &format!("/api/v1/tokens/{id}"), Value::Null).await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        bench.admin("DELETE", "/api/v1/tokens/..%2f", Value::Null).await.status,
        StatusCode::NOT_FOUND
    );
    // An ended one says so, to its holder alone.
    let body = json!({ "created_at_ms": 0, "created_by": "x", "expires_at_ms": 1, "name": "old", "role": "admin",
        "hash": sha256("ab".repeat(32)) });
    bench.twin.put("token", "0123456789abcdef", body, "api");
    let ended = status(&format!("Bearer ptl_0123456789abcdef_{}", "ab".repeat(32))).await;
    assert!(
        ended.status == StatusCode::UNAUTHORIZED
            && ended.body["detail"].as_str().unwrap().contains("expired")
    );
    let guessed = status(&format!("Bearer ptl_0123456789abcdef_{}", "cd".repeat(32))).await;
    assert!(!guessed.body["detail"].as_str().unwrap().contains("expired"));
}

#[tokio::test]
async fn a_token_may_be_less_than_its_role_and_never_more_than_its_maker() {
    let bench = Bench::new(Settings::default());
    let wanted = json!({ "name": "narrow", "role": "admin", "scopes": ["token:write", "token:read"] });
    let made = bench.admin("POST", "/api/v1/tokens", wanted).await;
    let token = format!("Bearer {}", made.body["token"].as_str().unwrap());
    assert_eq!(bench.with(&token, "GET", "/api/v1/tokens", Value::Null).await.status, StatusCode::OK);
    assert_eq!(bench.with(&token, "GET", "/api/v1/status", Value::Null).await.status, StatusCode::FORBIDDEN);
    let wide = bench.with(&token, "POST", "/api/v1/tokens", json!({ "name": "wide", "role": "admin" })).await;
    assert_eq!(wide.status, StatusCode::FORBIDDEN);
    let same =
        json!({ "name": "same", "role": "admin", "scopes": ["token:read"], "expires_in_s": 31_000_000 });
    let same = bench.with(&token, "POST", "/api/v1/tokens", same).await;
    assert_eq!(same.status, StatusCode::CREATED);
    assert_eq!(
        same.body["about"]["expires_at_ms"], made.body["about"]["expires_at_ms"],
        "it does not outlive its maker"
    );
    for (wanted, pointer) in [
        (json!({ "name": "", "role": "admin" }), "/name"),
        (json!({ "name": "a\nb", "role": "admin" }), "/name"),
        (json!({ "name": "a]: b", "role": "admin" }), "/name"),
        (json!({ "name": "a", "role": "auditor", "scopes": ["token:write"] }), "/scopes"),
        (json!({ "name": "a", "role": "auditor", "tenant": "acme" }), "/tenant"),
        (json!({ "name": "a", "role": "tenant-dev" }), "/tenant"),
        (json!({ "name": "a", "role": "tenant-dev", "tenant": "../x" }), "/tenant"),
        (json!({ "name": "a", "role": "admin", "expires_in_s": 0 }), "/expires_in_s"),
        (json!({ "name": "a", "role": "admin", "expires_in_s": 1_000_000_000 }), "/expires_in_s"),
    ] {
        let answer = bench.admin("POST", "/api/v1/tokens", wanted.clone()).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body["errors"][0]["pointer"]),
            (400, &json!(pointer)),
            "{wanted}"
        );
    }
}

fn sha256(text: String) -> String {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An identity provider with a key of its own.
struct Issuer {
    key: rcgen::KeyPair,
    kid: &'static str,
}

impl Issuer {
    fn new(kid: &'static str) -> Self {
        Self { key: rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(), kid }
    }

    fn jwk(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.key.public_key_raw();
        let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid, "x": part(1..33), "y": part(33..65) })
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.kid.to_owned());
        let key = EncodingKey::from_ec_der(&self.key.serialize_der());
        jsonwebtoken::encode(&header, claims, &key).unwrap()
    }
}

fn claims(more: &Value) -> Value {
    let now = clock::unix_ms() / 1_000;
    let mut claims = json!({ "iss": "https://id.example", "aud": "portolan", "sub": "u1", "email": "alice@example.com",
        "exp": now + 300, "nbf": now - 10, "groups": ["staff", "ops"] });
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn provider(keys: &Value) -> (tempfile::NamedTempFile, Bench) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(keys.to_string().as_bytes()).unwrap();
    let bench = bench(Keys::File(file.path().to_owned()));
    (file, bench)
}

/// An API that believes whoever signs with these keys.
fn bench(keys: Keys) -> Bench {
    let claim = |name: &str, is: &str, role: Role, tenant_claim: Option<&str>| Claim {
        name: name.to_owned(),
        is: is.to_owned(),
        role,
        tenant_claim: tenant_claim.map(str::to_owned),
    };
    let roles = vec![
        claim("groups", "ops", Role::Operator, None),
        claim("kind", "tenant", Role::TenantAdmin, Some("org")),
    ];
    let oidc = Oidc::new("https://id.example".to_owned(), "portolan".to_owned(), keys, roles).unwrap();
    let bindings = Bindings { certificates: Vec::new(), oidc: Some(Arc::new(oidc)) };
    Bench::new(Settings { bindings, ..Settings::default() })
}

#[tokio::test]
async fn an_identity_provider_is_believed_for_what_it_signed_for_us_and_now() {
    let (issuer, other) = (Issuer::new("k1"), Issuer::new("k1"));
    let (_file, bench) = provider(&json!({ "keys": [issuer.jwk()] }));
    let now = clock::unix_ms() / 1_000;
    let ask = async |token: String| {
        bench.with(&format!("Bearer {token}"), "GET", "/api/v1/status", Value::Null).await.status.as_u16()
    };
    let good = issuer.sign(&claims(&json!({})));
    assert_eq!(ask(good.clone()).await, 200);
    for (more, status) in [
        (json!({ "aud": ["other", "portolan"] }), 200),
        // Within the skew of clocks, and past it.
        (json!({ "exp": now - 30 }), 200),
        (json!({ "exp": now - 90 }), 401),
        (json!({ "nbf": now + 30 }), 200),
        (json!({ "nbf": now + 90 }), 401),
        (json!({ "exp": null }), 401),
        (json!({ "sub": null }), 401),
        (json!({ "iss": "https://evil.example" }), 401),
        (json!({ "aud": "another" }), 401),
        (json!({ "aud": null }), 401),
        (json!({ "groups": [] }), 401),
        (json!({ "groups": "ops" }), 200),
        (json!({ "groups": [], "kind": "tenant", "org": "acme" }), 403),
        (json!({ "groups": [], "kind": "tenant" }), 401),
        (json!({ "groups": [], "kind": "tenant", "org": "../../acme" }), 401),
    ] {
        assert_eq!(ask(issuer.sign(&claims(&more))).await, status, "{more}");
    }
    assert_eq!(ask(other.sign(&claims(&json!({})))).await, 401, "another's key under the same name");
    let tenant = issuer.sign(&claims(&json!({ "groups": [], "kind": "tenant", "org": "acme" })));
    bench.twin.put("tenant", "acme", json!({}), "api");
    let seen = bench.with(&format!("Bearer {tenant}"), "GET", "/api/v1/objects", Value::Null).await;
    assert_eq!(seen.body["items"].as_array().unwrap().len(), 1);
    // Its name is in the log.
    let change = json!({ "wishes": [{ "kind": "settings", "name": "limits", "body": {} }] });
    assert_eq!(
        bench.with(&format!("Bearer {good}"), "POST", "/api/v1/changes", change).await.status,
        StatusCode::OK
    );
    let log = bench.admin("GET", "/api/v1/changes", Value::Null).await;
    assert_eq!(log.body["items"][0]["author"], "alice@example.com [oidc u1] (operator)");
}

#[tokio::test]
async fn the_algorithm_is_not_the_tokens_choice() {
    let issuer = Issuer::new("k1");
    // A provider that also publishes a secret for others by mistake.
    let oct = json!({ "kty": "oct", "kid": "shared", "alg": "HS256", "k": URL_SAFE_NO_PAD.encode("secret") });
    let (_file, bench) = provider(&json!({ "keys": [issuer.jwk(), oct] }));
    let good = issuer.sign(&claims(&json!({})));
    let [_, payload, signature] = <[&str; 3]>::try_from(good.split('.').collect::<Vec<_>>()).unwrap();
    let header = |header: Value| URL_SAFE_NO_PAD.encode(header.to_string());
    let public = issuer.key.public_key_pem();
    let hmac = |kid: &str, secret: &[u8]| {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(kid.to_owned());
        jsonwebtoken::encode(&header, &claims(&json!({})), &EncodingKey::from_secret(secret)).unwrap()
    };
    let forged = [
        format!("{}.{payload}.", header(json!({ "alg": "none", "kid": "k1" }))),
        format!("{}.{payload}.{signature}", header(json!({ "alg": "none", "kid": "k1" }))),
        format!("{}.{payload}.{signature}", header(json!({ "alg": "RS256", "kid": "k1" }))),
        format!("{}.{payload}.{signature}", header(json!({ "alg": "ES384", "kid": "k1" }))),
        format!("{}.{payload}.{signature}", header(json!({ "alg": "ES256", "kid": "k2" }))),
        format!("{}.{payload}.", header(json!({ "alg": "ES256", "kid": "k1" }))),
        hmac("k1", public.as_bytes()),
        hmac("k1", issuer.key.public_key_raw()),
        hmac("shared", b"secret"),
        "a.b".to_owned(),
        "....".to_owned(),
    ];
    for token in forged {
        let answer = bench.with(&format!("Bearer {token}"), "GET", "/api/v1/status", Value::Null).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{token}");
    }
    let answer = bench.with(&format!("Bearer {good}"), "GET", "/api/v1/status", Value::Null).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn new_keys_of_the_provider_are_found_and_its_absence_closes_this_way_in() {
    let (first, second) = (Issuer::new("k1"), Issuer::new("k2"));
    let (file, bench) = provider(&json!({ "keys": [first.jwk()] }));
    let ask = async |issuer: &Issuer| {
        let token = issuer.sign(&claims(&json!({})));
        bench.with(&format!("Bearer {token}"), "GET", "/api/v1/status", Value::Null).await.status.as_u16()
    };
    assert_eq!((ask(&first).await, ask(&second).await), (200, 401));
    std::fs::write(file.path(), json!({ "keys": [second.jwk()] }).to_string()).unwrap();
    tokio::time::advance(crate::defaults::KEYS_PAUSE * 2).await;
    assert_eq!((ask(&second).await, ask(&first).await), (200, 401));
    std::fs::write(file.path(), "broken").unwrap();
    tokio::time::advance(crate::defaults::KEYS_FRESH * 2).await;
    assert_eq!(ask(&second).await, 200, "the last good keys go on");
    tokio::time::advance(crate::defaults::KEYS_LIFE).await;
    assert_eq!(ask(&second).await, 503, "not for ever");
    assert_eq!(bench.ask(own(), "GET", "/api/v1/status", &[], &Value::Null).await.status, StatusCode::OK);
}

/// What a provider answers who asks for its keys, on a port of loopback; nothing at all when absent.
#[derive(Debug, Default)]
struct Published {
    answer: Mutex<Option<String>>,
    asked: AtomicUsize,
}

impl Published {
    async fn start() -> (Arc<Self>, Keys) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/keys", listener.local_addr().unwrap()).parse().unwrap();
        let published = Arc::new(Self::default());
        let answering = Arc::clone(&published);
        task::spawn("provider", async move {
            // Callers who get no answer stay connected.
            let mut silent = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut head, mut piece) = (Vec::new(), [0; 1_024]);
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read(&mut piece).await {
                        Ok(read @ 1..) => head.extend_from_slice(&piece[..read]),
                        _ => break,
                    }
                }
                assert!(head.starts_with(b"GET /keys HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&head));
                answering.asked.fetch_add(1, Ordering::Relaxed);
                let answer = answering.answer.lock().unwrap().clone();
                match answer {
                    Some(answer) => drop(stream.write_all(answer.as_bytes()).await),
                    None => silent.push(stream),
                }
            }
        });
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let tls = tls.unwrap().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        (published, Keys::Url(uri, Arc::new(tls)))
    }

    fn answers(&self, answer: Option<String>) {
        *self.answer.lock().unwrap() = answer;
    }

    fn publishes(&self, issuers: &[&Issuer]) {
        let keys: Vec<Value> = issuers.iter().map(|issuer| issuer.jwk()).collect();
        self.answers(Some(whole("200 OK", &json!({ "keys": keys }).to_string())));
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn whole(status: &str, content: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{content}", content.len())
}

/// Sockets go on in real time; what waits goes on as if so much had passed.
async fn later(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn keys_at_a_url_are_rotated_and_outlast_an_outage() {
    use crate::defaults::{KEYS_BYTES_MAX, KEYS_FRESH, KEYS_LIFE, KEYS_PAUSE};

    let (published, keys) = Published::start().await;
    let (first, second, stranger) = (Issuer::new("k1"), Issuer::new("k2"), Issuer::new("k9"));
    let bench = bench(keys);
    let ask = async |issuer: &Issuer| {
        let token = issuer.sign(&claims(&json!({})));
        bench.with(&format!("Bearer {token}"), "GET", "/api/v1/status", Value::Null).await.status.as_u16()
    };
    // While nobody has ever answered, this way in is closed, and says that it is for now.
    published.answers(Some(whole("500 Internal Server Error", "")));
    assert_eq!(ask(&first).await, 503);
    published.publishes(&[&first]);
    later(KEYS_PAUSE).await;
    assert_eq!((ask(&first).await, published.asked()), (200, 2));
    assert_eq!((ask(&first).await, published.asked()), (200, 2), "fetched once, not for each request");

    // Rotation: both are published for a while, then the new one alone.
    published.publishes(&[&first, &second]);
    later(KEYS_PAUSE).await;
    assert_eq!((ask(&second).await, ask(&first).await), (200, 200));
    published.publishes(&[&second]);
    later(KEYS_FRESH).await;
    assert_eq!((ask(&second).await, ask(&first).await), (200, 401));
    // Whoever makes up names of keys does not make this node ask and ask.
    let before = published.asked();
    for _ in 0..20 {
        assert_eq!(ask(&stranger).await, 401);
    }
    assert!(published.asked() - before <= 1, "{} times", published.asked() - before);

    // An outage of any kind: the last good keys stay.
    let redirect =
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".to_owned();
    for outage in [
        Some(whole("503 Service Unavailable", "")),
        Some(whole("200 OK", "<html>maintenance</html>")),
        Some(whole("200 OK", &" ".repeat(KEYS_BYTES_MAX + 1))),
        Some("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"keys\": [".to_owned()),
        Some(redirect),
        // An answer that never comes is waited for within its limit, once.
        None,
    ] {
        published.answers(outage.clone());
        later(KEYS_FRESH).await;
        let before = published.asked();
        assert_eq!((ask(&second).await, ask(&first).await), (200, 401), "{outage:?}");
        assert_eq!(published.asked(), before + 1, "{outage:?}");
    }
    // After it, new keys are taken over as ever.
    published.publishes(&[&first]);
    later(KEYS_FRESH).await;
    assert_eq!((ask(&first).await, ask(&second).await), (200, 401));
    // An outage without an end closes this way in, and no other.
    published.answers(Some(whole("503 Service Unavailable", "")));
    later(KEYS_LIFE).await;
    assert_eq!(ask(&first).await, 503);
    assert_eq!(bench.ask(own(), "GET", "/api/v1/status", &[], &Value::Null).await.status, StatusCode::OK);
}
