//! Both providers, as fakes that look at every signature, token and content, and make a batch whole or not at all.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Mutex;

use aws_lc_rs::{digest, hmac};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::push::Found;
use crate::testing::{ZONE, name};

const ENDPOINT: &str = "http://127.0.0.1:9/api";
const KEYS: &str =
    "[default]\naws_access_key_id = AKID\naws_secret_access_key = s3cr3t/+\naws_session_token = temporary\n";
const TOKEN: &str = "t0ken";
const NOW_S: u64 = 1_796_000_000;
/// Record sets on a page of the fake of Route 53: few, so that there are several pages.
const PAGE: usize = 2;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    id: u64,
    kind: String,
    name: String,
    ttl_s: u32,
    value: String,
}

/// What somebody else does to the records before the next change comes.
type Meddle = Box<dyn FnOnce(&Fake) + Send>;

struct Fake {
    meddle: Mutex<Option<Meddle>>,
    next: Mutex<u64>,
    provider: Provider,
    records: Mutex<Vec<Record>>,
    /// What is answered instead, next.
    refuses: Mutex<Option<Answer>>,
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.records.lock().unwrap())
    }
}

impl Carry for Fake {
    fn carry(&self, request: Request) -> Carrying {
        Box::pin(std::future::ready(Ok(self.answer(&request))))
    }
}

fn field<'r>(request: &'r Request, wanted: &str) -> &'r str {
    request.fields.iter().find(|(name, _)| *name == wanted).map_or("", |(_, value)| value)
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn sha256(text: &str) -> String {
    hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

/// The signature that Amazon would want of a request, from what came alone.
fn signature(request: &Request) -> String {
    let path = request.url.strip_prefix("http://127.0.0.1:9").unwrap();
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let body = request.body.as_deref().unwrap_or_default();
    let method = if request.body.is_some() { "POST" } else { "GET" };
    let (at, session) = (field(request, "x-amz-date"), field(request, "x-amz-security-token"));
    let fields = format!("host:127.0.0.1:9\nx-amz-date:{at}\nx-amz-security-token:{session}\n");
    let names = "host;x-amz-date;x-amz-security-token";
    let canonical = format!("{method}\n{path}\n{query}\n{fields}\n{names}\n{}", sha256(body));
    let scope = format!("{}/us-east-1/route53/aws4_request", at.get(..8).unwrap());
    let text = format!("AWS4-HMAC-SHA256\n{at}\n{scope}\n{}", sha256(&canonical));
    let key =
        mac(&mac(&mac(&mac(b"AWS4s3cr3t/+", at.get(..8).unwrap()), "us-east-1"), "route53"), "aws4_request");
    let signature = hex(&mac(&key, &text));
    format!("AWS4-HMAC-SHA256 Credential=AKID/{scope}, SignedHeaders={names}, Signature={signature}")
}

#[derive(Deserialize)]
struct Changes {
    #[serde(rename = "ChangeBatch")]
    batch: Batch,
}

#[derive(Deserialize)]
struct Batch {
    #[serde(rename = "Changes")]
    changes: All,
}

#[derive(Deserialize)]
struct All {
    #[serde(rename = "Change")]
    all: Vec<One>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct One {
    action: String,
    resource_record_set: Set,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Set {
    name: String,
    resource_records: Values,
    #[serde(rename = "TTL")]
    ttl: u32,
    #[serde(rename = "Type")]
    kind: String,
}

#[derive(Deserialize)]
struct Values {
    #[serde(rename = "ResourceRecord")]
    all: Vec<OneValue>,
}

#[derive(Deserialize)]
struct OneValue {
    #[serde(rename = "Value")]
    value: String,
}

impl Fake {
    fn new(provider: Provider) -> Arc<Self> {
        let fake = Self {
            meddle: Mutex::default(),
            next: Mutex::new(1),
            provider,
            records: Mutex::default(),
            refuses: Mutex::default(),
        };
        for (kind, name, value) in [
            ("NS", ZONE, "ns.provider.example."),
            ("MX", ZONE, "10 mail.gw.example."),
            ("TXT", ZONE, "\"v=spf1 -all\""),
            ("A", "other.gw.example", "203.0.113.7"),
        ] {
            fake.put(kind, name, value);
        }
        Arc::new(fake)
    }

    fn put(&self, kind: &str, name: &str, value: &str) {
        let mut next = self.next.lock().unwrap();
        *next += 1;
        let (id, ttl_s) = (*next, 300);
        let record = Record { id, kind: kind.into(), name: name.into(), ttl_s, value: value.into() };
        self.records.lock().unwrap().push(record);
    }

    fn take(&self, kind: &str, name: &str) {
        self.records.lock().unwrap().retain(|record| record.kind != kind || record.name != name);
    }

    fn values(&self, kind: &str, name: &str) -> BTreeSet<String> {
        let records = self.records.lock().unwrap();
        let own = records.iter().filter(|record| record.kind == kind && record.name == name);
        own.map(|record| record.value.clone()).collect()
    }

    fn answer(&self, request: &Request) -> Answer {
        let refusal = self.refuses.lock().unwrap().take();
        if let Some(refusal) = refusal {
            return refusal;
        }
        let place = request.url.strip_prefix(ENDPOINT).expect("nothing goes elsewhere");
        let (path, query) = place.split_once('?').unwrap_or((place, ""));
        let done = |body: String| Answer { body, status: 200 };
        if request.body.is_some() {
            let meddle = self.meddle.lock().unwrap().take();
            meddle.into_iter().for_each(|meddle| meddle(self));
        }
        match (self.provider, &request.body) {
            (Provider::Route53, body) => {
                assert_eq!(field(request, "authorization"), signature(request));
                assert_eq!(field(request, "x-amz-date"), "20261130T005320Z");
                match body {
                    None => {
                        assert_eq!(path, "/2013-04-01/hostedzone/Z1/rrset");
                        done(self.sets(query))
                    }
                    Some(body) => {
                        assert_eq!(path, "/2013-04-01/hostedzone/Z1/rrset/");
                        assert_eq!(field(request, "content-type"), "application/xml");
                        self.change_sets(body)
                    }
                }
            }
            (Provider::Cloudflare, body) => {
                assert_eq!(field(request, "authorization"), "Bearer t0ken");
                match body {
                    None => {
                        assert_eq!(path, "/zones/Z1/dns_records");
                        done(self.page(query))
                    }
                    Some(body) => {
                        assert_eq!(path, "/zones/Z1/dns_records/batch");
                        assert_eq!(field(request, "content-type"), "application/json");
                        self.change_records(&serde_json::from_str(body).unwrap())
                    }
                }
            }
        }
    }

    fn sets(&self, query: &str) -> String {
        let mut sets: BTreeMap<(String, String), (u32, Vec<String>)> = BTreeMap::new();
        let records = self.records.lock().unwrap().clone();
        for record in &records {
            let set = sets.entry((record.name.clone(), record.kind.clone())).or_default();
            set.0 = record.ttl_s;
            set.1.push(record.value.clone());
        }
        let field = |wanted: &str| {
            let fields = query.split('&').filter_map(|field| field.split_once('='));
            fields.clone().find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned())
        };
        assert_eq!(field("maxitems").as_deref(), Some("300"), "{query}");
        let from = field("name").map(|name| (name.trim_end_matches('.').to_owned(), field("type").unwrap()));
        let mut rest = sets.into_iter().skip_while(|(key, _)| from.as_ref().is_some_and(|from| key < from));
        let page: Vec<_> = rest.by_ref().take(PAGE).collect();
        let told = page.iter().map(|((name, kind), (ttl_s, values))| {
            let value = |value: &String| {
                let value = quick_xml::escape::escape(value.as_str());
                format!("<ResourceRecord><Value>{value}</Value></ResourceRecord>")
            };
            let values: String = values.iter().map(value).collect();
            format!(
                "<ResourceRecordSet><Name>{name}.</Name><Type>{kind}</Type><TTL>{ttl_s}</TTL><ResourceRecords>{values}</ResourceRecords></ResourceRecordSet>"
            )
        });
        let told: String = told.collect();
        let next = rest.next().map_or_else(
            || "<IsTruncated>false</IsTruncated>".to_owned(),
            |((name, kind), _)| {
                format!(
                    "<IsTruncated>true</IsTruncated><NextRecordName>{name}.</NextRecordName><NextRecordType>{kind}</NextRecordType>"
                )
            },
        );
        format!(
            "<?xml version=\"1.0\"?>\n<ListResourceRecordSetsResponse xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\">\n  \
             <ResourceRecordSets>{told}</ResourceRecordSets>{next}<MaxItems>300</MaxItems></ListResourceRecordSetsResponse>"
        )
    }

    fn change_sets(&self, body: &str) -> Answer {
        let changes: Changes = quick_xml::de::from_str(body).unwrap();
        let refused = |why: &str| Answer {
            body: format!(
                "<?xml version=\"1.0\"?><ErrorResponse><Error><Type>Sender</Type><Code>InvalidChangeBatch</Code><Message>{why}</Message></Error></ErrorResponse>"
            ),
            status: 400,
        };
        let mut records = self.records.lock().unwrap().clone();
        for One { action, resource_record_set: set } in changes.batch.changes.all {
            let name = set.name.trim_end_matches('.').to_owned();
            let wanted: BTreeSet<(u32, String)> =
                set.resource_records.all.into_iter().map(|one| (set.ttl, one.value)).collect();
            let there = records.iter().filter(|record| record.name == name && record.kind == set.kind);
            let there: BTreeSet<_> = there.map(|record| (record.ttl_s, record.value.clone())).collect();
            match action.as_str() {
                "DELETE" if there == wanted => {
                    records.retain(|record| record.name != name || record.kind != set.kind);
                }
                "CREATE" if there.is_empty() => records.extend(wanted.into_iter().map(|(ttl_s, value)| {
                    Record { id: 0, kind: set.kind.clone(), name: name.clone(), ttl_s, value }
                })),
                _ => return refused("but the values provided do not match the current values"),
            }
        }
        *self.records.lock().unwrap() = records;
        Answer { body: "<ChangeResourceRecordSetsResponse/>".to_owned(), status: 200 }
    }

    fn page(&self, query: &str) -> String {
        let number = query.strip_prefix("page=").and_then(|rest| rest.split_once("&per_page=1000"));
        let number: u64 = number.unwrap().0.parse().unwrap();
        let records = self.records.lock().unwrap();
        let pages: Vec<&[Record]> = records.chunks(5).collect();
        let at = usize::try_from(number - 1).unwrap();
        let record = |record: &Record| {
            json!({
                "id": record.id.to_string(), "type": record.kind, "name": record.name, "content": record.value,
                "ttl": record.ttl_s, "proxied": record.value == "203.0.113.99", "comment": null,
            })
        };
        let told: Vec<Value> = pages[at].iter().map(record).collect();
        let info =
            json!({ "page": number, "per_page": 1_000, "count": told.len(), "total_pages": pages.len() });
        json!({ "success": true, "errors": [], "result": told, "result_info": info }).to_string()
    }

    fn change_records(&self, body: &Value) -> Answer {
        let mut records = self.records.lock().unwrap().clone();
        for delete in body["deletes"].as_array().unwrap() {
            let id: u64 = delete["id"].as_str().unwrap().parse().unwrap();
            let before = records.len();
            records.retain(|record| record.id != id);
            if records.len() == before {
                let errors = json!([{ "code": 81_044, "message": "Record does not exist." }]);
                return Answer {
                    body: json!({ "success": false, "errors": errors }).to_string(),
                    status: 404,
                };
            }
        }
        *self.records.lock().unwrap() = records;
        for post in body["posts"].as_array().unwrap() {
            let text = |field: &str| post[field].as_str().unwrap().to_owned();
            assert!(post["ttl"].as_u64().unwrap() >= 60, "shorter is refused: {post}");
            self.put(&text("type"), &text("name"), &text("content"));
        }
        Answer { body: json!({ "success": true, "result": {} }).to_string(), status: 200 }
    }
}

struct Given {
    cloud: Cloud,
    fake: Arc<Fake>,
    folder: TempDir,
}

impl Given {
    fn new(provider: Provider) -> Self {
        let (fake, folder) = (Fake::new(provider), tempfile::tempdir().unwrap());
        let given = if provider == Provider::Route53 { KEYS } else { TOKEN };
        let credentials = folder.path().join("keys");
        secret(&credentials, given);
        let endpoint = Some(ENDPOINT.to_owned());
        let account = Account { credentials, endpoint, id: "Z1".to_owned(), provider, zone: name(ZONE) };
        let carry = Arc::clone(&fake) as Arc<dyn Carry>;
        let cloud = Cloud { clock: || NOW_S, ..Cloud::new(account, carry).unwrap() };
        Self { cloud, fake, folder }
    }

    async fn push(&self, number: u64, address: &str, mode: Mode) -> Result<Outcome, Failure> {
        let change = change(&["app.gw.example"], number, address);
        self.cloud.push(&change, mode).await.into_values().next().unwrap()
    }

    async fn newer(&self, number: u64, address: &str) -> Result<Outcome, Failure> {
        self.push(number, address, Mode::Newer).await
    }

    fn has(&self, number: u64, address: &str) {
        let texts = self.fake.values("TXT", "_epoch.app.gw.example");
        assert_eq!(texts, BTreeSet::from([format!("\"{number}\"")]), "{:?}", self.fake);
        assert_eq!(self.fake.values("A", "app.gw.example"), BTreeSet::from([address.to_owned()]));
    }
}

fn secret(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn change(names: &[&str], number: u64, address: &str) -> Change {
    let addresses = BTreeSet::from([address.parse().unwrap(), "2001:db8::1".parse().unwrap()]);
    let wanted = |text: &&str| Wanted { addresses: addresses.clone(), name: name(text), ttl_s: 30 };
    Change { names: names.iter().map(wanted).collect(), number }
}

const BOTH: [Provider; 2] = [Provider::Cloudflare, Provider::Route53];

#[tokio::test]
async fn what_is_older_changes_nothing_and_what_is_newer_takes_its_place() {
    for provider in BOTH {
        let given = Given::new(provider);
        let others = given.fake.records.lock().unwrap().clone();
        assert_eq!(given.newer(5, "192.0.2.5").await, Ok(Outcome::Applied), "{provider:?}");
        given.has(5, "192.0.2.5");
        assert_eq!(given.newer(5, "192.0.2.5").await, Ok(Outcome::Present), "{provider:?}");
        assert_eq!(given.newer(9, "192.0.2.9").await, Ok(Outcome::Applied), "{provider:?}");
        let late = Ok(Outcome::Overtaken(Found::Number(9)));
        assert_eq!(given.newer(7, "192.0.2.7").await, late, "{provider:?}");
        given.has(9, "192.0.2.9");
        assert_eq!(given.push(7, "192.0.2.7", Mode::Adopt).await, Ok(Outcome::Applied), "{provider:?}");
        given.has(7, "192.0.2.7");
        let there = given.fake.records.lock().unwrap().clone();
        assert!(others.iter().all(|record| there.contains(record)), "what is not managed stays: {there:?}");
    }
}

#[tokio::test]
async fn what_somebody_changed_by_hand_is_repaired_or_told() {
    for provider in BOTH {
        let given = Given::new(provider);
        assert_eq!(given.newer(3, "192.0.2.3").await, Ok(Outcome::Applied), "{provider:?}");
        given.fake.put("A", "app.gw.example", "203.0.113.1");
        given.fake.records.lock().unwrap().iter_mut().for_each(|record| {
            if record.kind == "A" && record.name == "app.gw.example" {
                record.ttl_s = 77;
            }
        });
        assert_eq!(given.newer(3, "192.0.2.3").await, Ok(Outcome::Repaired), "{provider:?}");
        given.has(3, "192.0.2.3");
        given.fake.take("TXT", "_epoch.app.gw.example");
        assert_eq!(given.newer(4, "192.0.2.4").await, Ok(Outcome::Unknown(Found::Nothing)), "{provider:?}");
        given.fake.put("TXT", "_epoch.app.gw.example", "\"hello\"");
        let foreign = Ok(Outcome::Unknown(Found::Foreign(vec![b"hello".to_vec()])));
        assert_eq!(given.newer(4, "192.0.2.4").await, foreign, "{provider:?}");
        assert_eq!(given.push(4, "192.0.2.4", Mode::Adopt).await, Ok(Outcome::Applied), "{provider:?}");
        given.has(4, "192.0.2.4");
        given.fake.take("A", "app.gw.example");
        given.fake.take("AAAA", "app.gw.example");
        given.fake.put("CNAME", "app.gw.example", "elsewhere.example");
        assert!(matches!(given.newer(5, "192.0.2.5").await, Err(Failure::Alias(..))), "{provider:?}");
    }
    let proxied = Given::new(Provider::Cloudflare);
    proxied.fake.put("A", "app.gw.example", "203.0.113.99");
    assert!(matches!(proxied.newer(1, "192.0.2.1").await, Err(Failure::Alias(..))), "it answers for itself");
}

/// Two plans that were written at once where the provider compares nothing.
#[tokio::test]
async fn records_of_two_plans_side_by_side_are_put_right() {
    let given = Given::new(Provider::Cloudflare);
    for (number, address) in [(8, "192.0.2.8"), (9, "192.0.2.9")] {
        given.fake.put("A", "app.gw.example", address);
        given.fake.put("TXT", "_epoch.app.gw.example", &format!("\"{number}\""));
    }
    assert_eq!(given.newer(8, "192.0.2.8").await, Ok(Outcome::Overtaken(Found::Number(9))));
    assert_eq!(given.newer(9, "192.0.2.9").await, Ok(Outcome::Repaired));
    given.has(9, "192.0.2.9");
}

/// A writer that has read what was there before somebody with a higher number wrote changes nothing (the outage of AWS of October 2025).
#[tokio::test]
async fn who_is_overtaken_between_reading_and_writing_changes_nothing() {
    for provider in BOTH {
        let given = Given::new(provider);
        assert_eq!(given.newer(1, "192.0.2.1").await, Ok(Outcome::Applied), "{provider:?}");
        *given.fake.meddle.lock().unwrap() = Some(Box::new(|fake| {
            for (kind, name, value) in [
                ("A", "app.gw.example", "192.0.2.8"),
                ("AAAA", "app.gw.example", "2001:db8::8"),
                ("TXT", "_epoch.app.gw.example", "\"8\""),
            ] {
                fake.take(kind, name);
                fake.put(kind, name, value);
            }
        }));
        let outcomes = given
            .cloud
            .push(&change(&["app.gw.example", "www.gw.example"], 2, "192.0.2.2"), Mode::Newer)
            .await;
        assert_eq!(
            outcomes[&name("app.gw.example")],
            Ok(Outcome::Overtaken(Found::Number(8))),
            "{provider:?}"
        );
        assert_eq!(
            outcomes[&name("www.gw.example")],
            Ok(Outcome::Applied),
            "it holds up no other: {provider:?}"
        );
        given.has(8, "192.0.2.8");
    }
}

#[tokio::test]
async fn many_names_go_in_batches() {
    let names: Vec<String> = (0..CLOUD_NAMES_AT_ONCE * 2 + 1).map(|at| format!("n{at}.gw.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for provider in BOTH {
        let given = Given::new(provider);
        let outcomes = given.cloud.push(&change(&names[..7], 2, "192.0.2.2"), Mode::Newer).await;
        assert!(outcomes.values().all(|outcome| *outcome == Ok(Outcome::Applied)), "{outcomes:?}");
        if provider == Provider::Cloudflare {
            let outcomes = given.cloud.push(&change(&names, 3, "192.0.2.3"), Mode::Newer).await;
            assert_eq!(outcomes.len(), names.len());
            assert!(outcomes.values().all(|outcome| *outcome == Ok(Outcome::Applied)), "{outcomes:?}");
        }
        let foreign =
            given.cloud.push(&change(&["www.elsewhere.example"], 1, "192.0.2.1"), Mode::Newer).await;
        assert!(matches!(foreign.into_values().next(), Some(Err(Failure::Refused { .. }))));
    }
}

#[tokio::test]
async fn what_a_provider_refuses_is_told_with_what_to_do() {
    let aws = |code: &str| {
        format!("<ErrorResponse><Error><Code>{code}</Code><Message>m</Message></Error></ErrorResponse>")
    };
    for (provider, status, body, passing, said) in [
        (Provider::Route53, 403, aws("SignatureDoesNotMatch"), false, "clock"),
        (Provider::Route53, 403, aws("AccessDenied"), false, "route53:ChangeResourceRecordSets"),
        (Provider::Route53, 404, aws("NoSuchHostedZone"), false, "`id`"),
        (Provider::Route53, 400, aws("Throttling"), true, "Throttling"),
        (Provider::Route53, 503, "busy".to_owned(), true, "503"),
        (Provider::Route53, 200, "<html>".to_owned(), true, "does not read"),
        (
            Provider::Cloudflare,
            403,
            json!({ "errors": [{ "code": 10_000, "message": "no" }] }).to_string(),
            false,
            "token",
        ),
        (Provider::Cloudflare, 404, json!({ "errors": [{ "code": 7_003 }] }).to_string(), false, "`id`"),
        (Provider::Cloudflare, 429, String::new(), true, "429"),
        (Provider::Cloudflare, 200, "{}".to_owned(), true, "does not read"),
    ] {
        let given = Given::new(provider);
        *given.fake.refuses.lock().unwrap() = Some(Answer { body, status });
        let failure = given.newer(1, "192.0.2.1").await.unwrap_err();
        assert_eq!(failure.is_passing(), passing, "{failure}");
        let text = failure.to_string();
        assert!(text.contains(said) && text.contains("/Z1"), "{text}");
        assert_eq!(given.newer(1, "192.0.2.1").await, Ok(Outcome::Applied), "nothing was changed");
    }
}

#[tokio::test]
async fn secrets_are_read_anew_kept_from_others_and_never_shown() {
    let given = Given::new(Provider::Route53);
    let keys = given.folder.path().join("keys");
    std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(0o644)).unwrap();
    let failure = given.newer(1, "192.0.2.1").await.unwrap_err();
    assert!(!failure.is_passing() && failure.to_string().contains("chmod 600"), "{failure}");
    secret(&keys, "nothing of use");
    let failure = given.newer(1, "192.0.2.1").await.unwrap_err();
    assert!(failure.to_string().contains("aws_access_key_id"), "{failure}");
    secret(&keys, KEYS);
    assert_eq!(given.newer(1, "192.0.2.1").await, Ok(Outcome::Applied));
    let request =
        Request { body: None, fields: vec![("authorization", TOKEN.to_owned())], url: "u".to_owned() };
    assert!(!format!("{request:?} {:?}", given.cloud).contains(TOKEN));
}

#[test]
fn keys_leave_this_machine_under_tls_alone() {
    let account = |endpoint: Option<&str>, id: &str| Account {
        credentials: PathBuf::new(),
        endpoint: endpoint.map(str::to_owned),
        id: id.to_owned(),
        provider: Provider::Route53,
        zone: name(ZONE),
    };
    for endpoint in
        [None, Some("https://api.example"), Some("http://127.0.0.1:80/x"), Some("http://[::1]:80")]
    {
        assert_eq!(account(endpoint, "Z1").check(), Ok(()), "{endpoint:?}");
    }
    for endpoint in ["http://api.example", "http://127.0.0.1.example", "ftp://127.0.0.1", "https://", "api"] {
        assert!(matches!(account(Some(endpoint), "Z1").check(), Err(Unusable::Endpoint(_))), "{endpoint}");
    }
    for id in ["", "../x", "Z 1"] {
        assert!(matches!(account(None, id).check(), Err(Unusable::Id(_))), "{id}");
    }
}
