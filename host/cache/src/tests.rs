//! The cache as the data plane uses it: it is asked, an origin is played, and it is asked again.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use http_body_util::BodyExt as _;
use portolan_core::ids::{PoolName, TenantName};
use portolan_foundation::cache::{Asked, Cache as _, Fill, Found, Heard};
use portolan_foundation::endpoint::Body;

use crate::{Cache, Config, DiskConfig, Rules, Strength, Target};

type Fields<'a> = &'a [(&'static str, &'a str)];

const FRESH: (&str, &str) = ("cache-control", "max-age=60");
/// Stale at once, and with something to ask by.
const STALE: [(&str, &str); 3] = [FRESH, ("age", "100"), ("etag", "\"a\"")];

fn config() -> Config {
    Config {
        disk: None,
        lock_timeout: Duration::from_secs(5),
        memory_bytes: 1 << 20,
        object_bytes_max: 10_000,
        pools: BTreeSet::from([PoolName::new("app").unwrap()]),
        rules: Rules {
            cookies: false,
            heuristic_max_s: 60,
            heuristic_percent: 0,
            negative_max_s: 60,
            stale_if_error_s: 0,
        },
    }
}

fn on_disk(folder: &Path) -> Config {
    Config { disk: Some(DiskConfig { bytes: 1 << 20, folder: folder.to_owned() }), ..config() }
}

struct Client<'a> {
    cache: &'a Cache,
    fields: Fields<'a>,
    method: Method,
    target: &'a str,
    tenant: Option<TenantName>,
    with_content: bool,
}

impl<'a> Client<'a> {
    fn new(cache: &'a Cache, target: &'a str) -> Self {
        let tenant = Some(TenantName::new("acme").unwrap());
        Self { cache, fields: &[], method: Method::GET, target, tenant, with_content: false }
    }

    fn with(self, fields: Fields<'a>) -> Self {
        Self { fields, ..self }
    }

    fn of(self, tenant: Option<&str>) -> Self {
        Self { tenant: tenant.map(|name| TenantName::new(name).unwrap()), ..self }
    }

    fn by(self, method: &str) -> Self {
        Self { method: method.parse().unwrap(), ..self }
    }

    async fn find(&self) -> Found {
        let headers = headers(self.fields);
        let pool = PoolName::new("app").unwrap();
        let asked = Asked {
            authority: "a.example",
            edits: 0,
            has_content: self.with_content,
            headers: &headers,
            method: &self.method,
            pool: &pool,
            secure: false,
            target: self.target,
            tenant: self.tenant.as_ref(),
        };
        self.cache.find(asked).await
    }

    /// The answer, which must be there.
    async fn hit(&self) -> (u16, HeaderMap, String) {
        match self.find().await {
            Found::Answer(response, None) => read(*response).await,
            other => panic!("no plain answer: {other:?}"),
        }
    }

    async fn ask(&self) -> Box<dyn Fill> {
        match self.find().await {
            Found::Ask(fill) => fill,
            other => panic!("not asked: {other:?}"),
        }
    }

    /// Has an origin answer, to the end.
    async fn fetch(&self, status: u16, fields: Fields<'_>, content: &'static str) -> String {
        let fill = self.ask().await;
        match answer(fill, status, fields, content.len()) {
            (_, Heard::Store(mut sink, reader)) => {
                assert!(sink.push(Bytes::from_static(content.as_bytes())).await);
                sink.end();
                text(reader).await
            }
            (_, Heard::Pass) => content.to_owned(),
            (_, Heard::Answer(response)) => read(*response).await.2,
        }
    }
}

fn headers(fields: Fields<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    fields.iter().for_each(|(name, value)| _ = headers.append(*name, value.parse().unwrap()));
    headers
}

fn answer(fill: Box<dyn Fill>, status: u16, fields: Fields<'_>, length: usize) -> (HeaderMap, Heard) {
    let (mut head, ()) = Response::builder().status(status).body(()).unwrap().into_parts();
    head.headers = headers(fields);
    let heard = fill.answered(&mut head, Some(length as u64));
    (head.headers, heard)
}

async fn text(body: Body) -> String {
    String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn read(response: Response<Body>) -> (u16, HeaderMap, String) {
    let (head, body) = response.into_parts();
    (head.status.as_u16(), head.headers, text(body).await)
}

async fn purge(cache: &Cache, target: Target, strength: Strength) {
    let tenant = TenantName::new("acme").unwrap();
    cache.purge(Some(&tenant), &[target], strength).await.unwrap();
}

fn url(path: &str) -> Target {
    Target::Url { site: "a.example".into(), path: path.into() }
}

#[tokio::test]
async fn what_is_stored_is_given_again_to_its_tenant_alone() {
    let cache = Cache::open(config()).unwrap();
    let client = || Client::new(&cache, "/x");
    assert_eq!(client().fetch(200, &[FRESH], "one").await, "one");
    let (status, headers, content) = client().hit().await;
    assert_eq!((status, content.as_str()), (200, "one"));
    assert!(headers["cache-status"].to_str().unwrap().starts_with("portolan; hit; ttl="));
    assert_eq!(headers["age"], "0");
    for other in [Some("other"), None] {
        assert!(matches!(client().of(other).find().await, Found::Ask(_)), "{other:?}");
    }
    let (status, _, content) = client().by("HEAD").hit().await;
    assert_eq!((status, content.as_str()), (200, ""));
    let (status, _, content) = client().with(&[("range", "bytes=1-")]).hit().await;
    assert_eq!((status, content.as_str()), (206, "ne"));
}

#[tokio::test]
async fn requests_that_could_poison_or_deceive_have_no_part_in_it() {
    let cache = Cache::open(config()).unwrap();
    let client = || Client::new(&cache, "/x");
    client().fetch(200, &[FRESH], "one").await;
    let fat = Client { with_content: true, ..client() };
    assert!(matches!(fat.find().await, Found::Pass), "a GET with a content");
    for name in ["x-http-method-override", "x-original-url", "x-rewrite-url", "if-match"] {
        let fields = [(name, "/admin")];
        assert!(matches!(client().with(&fields).find().await, Found::Pass), "{name}");
    }
    for path in ["/x/", "/X", "/x?", "/x/../x", "/x;a.css", "/x%2f"] {
        assert!(matches!(Client::new(&cache, path).find().await, Found::Ask(_)), "{path}");
    }
    // A page of somebody, asked for under a name that looks like a picture.
    let own = Client::new(&cache, "/account/a.css").with(&[("cookie", "session=1")]);
    own.fetch(200, &[FRESH, ("set-cookie", "session=1")], "secret").await;
    assert!(matches!(Client::new(&cache, "/account/a.css").find().await, Found::Ask(_)));
    Client::new(&cache, "/account/b.css").fetch(200, &[("content-type", "text/html")], "secret").await;
    assert!(matches!(Client::new(&cache, "/account/b.css").find().await, Found::Ask(_)));
}

#[tokio::test]
async fn who_asks_for_the_same_reads_along() {
    let cache = Cache::open(config()).unwrap();
    let (first, second) = (Client::new(&cache, "/x"), Client::new(&cache, "/x"));
    let fill = first.ask().await;
    let mut along = Box::pin(second.hit());
    assert!(is_waiting(along.as_mut()).await, "for the answer");
    let (_, Heard::Store(mut sink, reader)) = answer(fill, 200, &[FRESH], 3) else {
        panic!("it may be stored")
    };
    assert!(sink.push(Bytes::from_static(b"on")).await);
    assert!(is_waiting(along.as_mut()).await, "for the rest");
    assert!(sink.push(Bytes::from_static(b"e")).await);
    sink.end();
    let (_, headers, content) = along.await;
    assert_eq!((text(reader).await.as_str(), content.as_str()), ("one", "one"));
    assert_eq!(headers["cache-status"], "portolan; fwd=uri-miss; collapsed");
    assert_eq!(cache.counts().questions, 0);
}

/// Lets a future go as far as it can.
async fn is_waiting(future: impl Future) -> bool {
    tokio::select! {
        biased;
        _ = future => false,
        () = std::future::ready(()) => true,
    }
}

#[tokio::test]
async fn who_waits_goes_on_when_there_is_nothing_to_wait_for() {
    let cache = Cache::open(config()).unwrap();
    let client = || Client::new(&cache, "/x");
    let first = client().ask().await;
    let gone = async {
        tokio::task::yield_now().await;
        drop(first);
    };
    let other = client();
    let (second, ()) = tokio::join!(other.ask(), gone);
    answer(second, 200, &[("cache-control", "no-store")], 0);
    // Nobody waits for what is never stored.
    let (one, two) = (client().ask().await, client().ask().await);
    drop((one, two));
}

#[tokio::test]
async fn variants_are_taken_back_together() {
    let cache = Cache::open(config()).unwrap();
    let vary = [FRESH, ("vary", "foo")];
    Client::new(&cache, "/x").with(&[("foo", "1")]).fetch(200, &vary, "one").await;
    Client::new(&cache, "/x").with(&[("foo", "2")]).fetch(200, &vary, "two").await;
    assert_eq!(Client::new(&cache, "/x").with(&[("foo", "1")]).hit().await.2, "one");
    assert_eq!(Client::new(&cache, "/x").with(&[("foo", "2")]).hit().await.2, "two");
    purge(&cache, url("/x"), Strength::Hard).await;
    for foo in ["1", "2"] {
        assert!(matches!(Client::new(&cache, "/x").with(&[("foo", foo)]).find().await, Found::Ask(_)));
    }
}

#[tokio::test]
async fn purges_reach_tags_folders_and_tenants() {
    let cache = Cache::open(config()).unwrap();
    let tagged = [FRESH, ("surrogate-key", "red round"), ("cache-groups", "\"g\"")];
    let site = || "A.example".to_owned();
    for target in [
        Target::Tag("round".into()),
        Target::Group { site: site(), name: "g".into() },
        Target::Prefix { site: site(), path: "/a/".into() },
        Target::Site(site()),
        Target::Tenant,
        url("/a/b?c"),
    ] {
        let client = || Client::new(&cache, "/a/b?c");
        client().fetch(200, &tagged, "one").await;
        client().of(Some("other")).fetch(200, &tagged, "theirs").await;
        client().hit().await;
        purge(&cache, target.clone(), Strength::Hard).await;
        assert!(matches!(client().find().await, Found::Ask(_)), "{target:?}");
        assert_eq!(client().of(Some("other")).hit().await.2, "theirs");
        let other = TenantName::new("other").unwrap();
        cache.purge(Some(&other), &[Target::Tenant], Strength::Hard).await.unwrap();
    }
}

#[tokio::test]
async fn a_purge_is_not_overtaken_by_an_answer_from_before() {
    let cache = Cache::open(config()).unwrap();
    let client = || Client::new(&cache, "/x");
    let fill = client().ask().await;
    let (_, Heard::Store(mut sink, reader)) = answer(fill, 200, &[FRESH], 3) else {
        panic!("it may be stored")
    };
    sink.push(Bytes::from_static(b"old")).await;
    purge(&cache, url("/x"), Strength::Soft).await;
    sink.end();
    assert_eq!(text(reader).await, "old", "who asked before gets what was there before");
    assert!(matches!(client().find().await, Found::Ask(_)));
}

#[tokio::test]
async fn a_soft_purge_asks_and_a_confirmation_ends_it() {
    let cache = Cache::open(config()).unwrap();
    let client = || Client::new(&cache, "/x");
    client().fetch(200, &[FRESH, ("etag", "\"a\"")], "one").await;
    purge(&cache, url("/x"), Strength::Soft).await;
    let fill = client().ask().await;
    let mut request = headers(&[("if-none-match", "\"client\"")]);
    fill.prepare(&mut request);
    assert_eq!(request, headers(&[("if-none-match", "\"a\"")]));
    let (_, Heard::Answer(confirmed)) = answer(fill, 304, &[FRESH, ("b", "2")], 0) else {
        panic!("the client wants the whole")
    };
    assert_eq!(read(*confirmed).await.2, "one");
    let (_, headers, content) = client().hit().await;
    assert_eq!((headers["b"].to_str().unwrap(), content.as_str()), ("2", "one"));
}

#[tokio::test]
async fn unsafe_requests_invalidate_what_they_change_if_they_succeed() {
    let cache = Cache::open(config()).unwrap();
    let client = |target| Client::new(&cache, target);
    for path in ["/x", "/made", "/far"] {
        client(path).fetch(200, &[FRESH], "one").await;
    }
    client("/x").by("POST").fetch(500, &[("location", "/made")], "").await;
    client("/x").hit().await;
    let named = [("location", "http://a.example/made"), ("content-location", "http://b.example/far")];
    client("/x").by("M-SEARCH").fetch(201, &named, "").await;
    assert!(matches!(client("/x").find().await, Found::Ask(_)));
    assert!(matches!(client("/made").find().await, Found::Ask(_)));
    client("/far").hit().await;
}

#[tokio::test]
async fn an_answer_to_post_may_be_what_get_would_have_had() {
    let cache = Cache::open(config()).unwrap();
    let client = || Client::new(&cache, "/x");
    client().by("POST").fetch(200, &[FRESH, ("content-location", "/x")], "new").await;
    assert_eq!(client().hit().await.2, "new");
    client().by("POST").fetch(200, &[FRESH, ("content-location", "/y")], "other").await;
    assert!(matches!(client().find().await, Found::Ask(_)));
}

#[tokio::test]
async fn what_is_stale_stands_in_or_is_asked_about_later_where_its_origin_says_so() {
    let cache = Cache::open(config()).unwrap();
    let forgiving = [("cache-control", "max-age=60, stale-if-error=60"), ("age", "100"), ("etag", "\"a\"")];
    let client = |target| Client::new(&cache, target);
    client("/x").fetch(200, &forgiving, "one").await;
    let response = client("/x").ask().await.failed().unwrap();
    assert_eq!(read(response).await.2, "one");
    let (_, Heard::Answer(response)) = answer(client("/x").ask().await, 503, &[], 0) else {
        panic!("it stands in")
    };
    assert_eq!(read(*response).await.2, "one");
    client("/y").fetch(200, &STALE, "two").await;
    assert!(client("/y").ask().await.failed().is_none());
    let patient = [("cache-control", "max-age=60, stale-while-revalidate=60"), ("age", "100")];
    client("/z").fetch(200, &patient, "three").await;
    let Found::Answer(response, Some(fill)) = client("/z").find().await else { panic!("asked behind") };
    assert_eq!(read(*response).await.2, "three");
    let Found::Answer(_, None) = client("/z").find().await else { panic!("one asks") };
    drop(fill);
}

#[tokio::test]
async fn large_answers_pass_through() {
    let cache = Cache::open(config()).unwrap();
    let client = || Client::new(&cache, "/x");
    let (told, heard) = answer(client().ask().await, 200, &[FRESH], 10_001);
    assert!(matches!(heard, Heard::Pass));
    assert_eq!(told["cache-status"], "portolan; fwd=uri-miss; detail=too-large");
    let (mut head, ()) = Response::new(()).into_parts();
    head.headers = headers(&[FRESH]);
    let Heard::Store(mut sink, reader) = client().ask().await.answered(&mut head, None) else {
        panic!("its length is not known")
    };
    let write = async {
        for _ in 0..20 {
            assert!(sink.push(Bytes::from(vec![b'a'; 1_000])).await);
        }
        sink.end();
    };
    let (content, ()) = tokio::join!(text(reader), write);
    assert_eq!(content.len(), 20_000);
    assert_eq!(cache.counts().stored, 0);
}

#[tokio::test]
async fn a_content_that_breaks_off_is_not_kept() {
    let cache = Cache::open(config()).unwrap();
    let client = || Client::new(&cache, "/x");
    let (_, Heard::Store(mut sink, reader)) = answer(client().ask().await, 200, &[FRESH], 3) else {
        panic!("it may be stored")
    };
    sink.push(Bytes::from_static(b"on")).await;
    drop(sink);
    assert!(reader.collect().await.is_err());
    assert!(matches!(client().find().await, Found::Ask(_)));
}

#[tokio::test]
async fn the_disk_is_warm_after_a_restart_and_knows_what_was_purged() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(on_disk(folder.path())).unwrap();
    for path in ["/x", "/y", "/z"] {
        Client::new(&cache, path).fetch(200, &[FRESH], "one").await;
    }
    while cache.counts().disk_bytes == 0 || !settled(folder.path(), 3) {
        tokio::task::yield_now().await;
    }
    purge(&cache, url("/y"), Strength::Hard).await;
    Client::new(&cache, "/z").by("DELETE").fetch(204, &[], "").await;
    drop(cache);
    let cache = Cache::open(on_disk(folder.path())).unwrap();
    assert_eq!(Client::new(&cache, "/x").hit().await.2, "one");
    assert!(matches!(Client::new(&cache, "/y").find().await, Found::Ask(_)), "purged");
    assert!(matches!(Client::new(&cache, "/z").find().await, Found::Ask(_)), "deleted");
    drop(cache);
    std::fs::remove_file(folder.path().join("purges")).unwrap();
    let cache = Cache::open(on_disk(folder.path())).unwrap();
    assert!(matches!(Client::new(&cache, "/x").find().await, Found::Ask(_)), "nobody knows what was purged");
}

/// Are so many resources on disk?
fn settled(folder: &Path, count: usize) -> bool {
    let folders = std::fs::read_dir(folder.join("resources")).unwrap();
    let files = folders.flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
    let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.iter().filter(|file| file.extension().is_none()).count() == count
}

#[tokio::test]
async fn pools_that_are_not_named_are_left_alone() {
    let cache = Cache::open(Config { pools: BTreeSet::new(), ..config() }).unwrap();
    assert!(matches!(Client::new(&cache, "/x").find().await, Found::Pass));
}

#[tokio::test]
async fn who_wants_nothing_that_must_be_asked_for_gets_nothing() {
    let cache = Cache::open(config()).unwrap();
    let (status, ..) = Client::new(&cache, "/x").with(&[("cache-control", "only-if-cached")]).hit().await;
    assert_eq!(status, 504);
}
