//! Writes plans from arbitrary bytes, finishes and compiles them, and checks what must hold. Used by property tests and
//! by the fuzz target `plan`; no part of a shipped binary.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::{ConditionText, Draft, Limits};
use crate::attribute::{Attribute, Attributes, Value};
use crate::facts::{Facts, RegionFacts, Verdict};
use crate::ids::{PoolName, RegionName};
use crate::table::{Table, naive};

const TEXTS: [&str; 24] = [
    "",
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/a/*",
    "/a/**",
    "**",
    "a",
    "b",
    "acme",
    "globex",
    "acme\nglobex",
    "a.example.com",
    ".example.com",
    "eu",
    "us",
    "app",
    "10.0.0.0/8",
    "10.1.2.3,::/0",
    "1",
    "idempotent",
    "/{path}",
    "https://{host}{path}{query}",
];
const ATTRIBUTES: [&str; 10] = [
    "host",
    "path",
    "method",
    "tenant",
    "client.ip",
    "client.country",
    "header:x-a",
    "cookie:c",
    "query",
    "nonsense",
];
const TESTS: [&str; 10] =
    ["is", "not", "any", "prefix", "suffix", "pattern", "cidr", "present", "absent", "nonsense"];
const KEYS: [&str; 12] = [
    "name",
    "timeout-ms",
    "retry",
    "consistency",
    "sticky",
    "header.set:x-b",
    "header.remove:x-b",
    "response.header.add:x-b",
    "path.rewrite",
    "header.set:host",
    "nonsense",
    "",
];

/// A world of two regions.
#[must_use]
pub fn facts() -> Arc<Facts> {
    let name = |text: &str| RegionName::new(text).ok();
    let pools: BTreeSet<PoolName> = PoolName::new("app").ok().into_iter().collect();
    let facts = |region| (region, RegionFacts { pools: pools.clone(), verdict: Verdict::Healthy });
    let regions: BTreeMap<_, _> = ["eu", "us"].iter().filter_map(|text| name(text)).map(facts).collect();
    let local = regions.keys().next().cloned().unwrap_or_else(|| unreachable!("two regions were just made"));
    let (latency_us, residencies) = (BTreeMap::new(), BTreeMap::new());
    Arc::new(Facts { local, latency_us, now_ms: 0, regions, residencies, seed: 1 })
}

/// A request made of the same words as the plans.
#[derive(Debug)]
pub struct Request {
    texts: [Option<&'static str>; ATTRIBUTES.len()],
    address: IpAddr,
}

impl Attributes for Request {
    fn value(&self, attribute: &Attribute) -> Value<'_> {
        let name = attribute.to_string();
        let found =
            ATTRIBUTES.iter().zip(self.texts).find(|(known, _)| **known == name).and_then(|(_, text)| text);
        match found {
            // One word stands for bytes that are not UTF-8.
            Some("b") => Value::Opaque,
            Some(text) => Value::Text(text),
            None => Value::Absent,
        }
    }

    fn client_ip(&self) -> IpAddr {
        self.address
    }
}

struct Bytes<'a>(std::slice::Iter<'a, u8>);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        let at = usize::from(self.next()) % all.len().max(1);
        all.get(at).copied()
    }

    fn text(&mut self) -> &'static str {
        self.of(&TEXTS).unwrap_or_default()
    }
}

/// Writes a plan by the bytes and checks it. Panics when something that must hold does not.
pub fn drive(bytes: &[u8]) {
    let mut bytes = Bytes(bytes.iter());
    let Some(table) = table(&mut bytes) else { return };
    for _ in 0..20 {
        let request = request(&mut bytes);
        let found = table.find(&request);
        assert_eq!(found, naive::find(table.plan(), &request), "table and interpreter differ on {request:?}");
        if let Some(rule) = found {
            let order = table.candidates(rule, &request, u64::from(bytes.next()));
            assert_eq!(naive::check_order(&table, rule, &order), Ok(()));
        }
    }
}

/// A plan by the bytes, and requests to it.
#[must_use]
pub fn written(bytes: &[u8], requests: usize) -> Option<(Table, Vec<Request>)> {
    let mut bytes = Bytes(bytes.iter());
    let table = table(&mut bytes)?;
    Some((table, (0..requests).map(|_| request(&mut bytes)).collect()))
}

fn table(bytes: &mut Bytes<'_>) -> Option<Table> {
    let limits = Limits { rules_max: 40, answers_max: 20, calls_max: 200, ..Limits::default() };
    let mut draft = Draft::new(facts(), limits);
    for _ in 0..100 {
        step(&mut draft, bytes);
    }
    let (plan, reads) = draft.finish().ok()?;
    assert!(reads.hold(&facts()), "what a plan read of unchanged facts did not change");
    Some(Table::compile(plan))
}

fn step(draft: &mut Draft, bytes: &mut Bytes<'_>) {
    // Refusals are the draft's good right; that nothing panics and that finished plans are sound is what counts.
    match bytes.next() % 10 {
        0 => drop(draft.forward(bytes.text(), bytes.text())),
        1 => drop(draft.forward("eu", "app")),
        2 => drop(draft.respond(u16::from(bytes.next()) * 4, bytes.text(), bytes.text())),
        3 => drop(draft.redirect(300 + u16::from(bytes.next() % 10), bytes.text())),
        4 => drop(draft.leave()),
        5 => drop(draft.set_answer(
            u32::from(bytes.next() % 8),
            bytes.of(&KEYS).unwrap_or_default(),
            bytes.text(),
        )),
        6 => drop(draft.set_rule(
            u32::from(bytes.next() % 8),
            bytes.of(&KEYS).unwrap_or_default(),
            bytes.text(),
        )),
        7 => {
            let needs = [bytes.of(&ATTRIBUTES).unwrap_or_default().to_owned()];
            let among = [u32::from(bytes.next() % 8), u32::from(bytes.next() % 8)];
            drop(draft.dynamic(&conditions(bytes), &needs, &among));
        }
        _ => {
            let share = |bytes: &mut Bytes<'_>| (u32::from(bytes.next() % 8), u32::from(bytes.next() % 4));
            let to = [share(bytes), share(bytes)];
            let fallback = [u32::from(bytes.next() % 8)];
            drop(draft.split(&conditions(bytes), &to, &fallback));
        }
    }
}

fn conditions(bytes: &mut Bytes<'_>) -> Vec<ConditionText> {
    let condition = |bytes: &mut Bytes<'_>| ConditionText {
        attribute: bytes.of(&ATTRIBUTES).unwrap_or_default().to_owned(),
        test: bytes.of(&TESTS).unwrap_or_default().to_owned(),
        value: bytes.text().to_owned(),
    };
    (0..bytes.next() % 3).map(|_| condition(bytes)).collect()
}

fn request(bytes: &mut Bytes<'_>) -> Request {
    let texts = ATTRIBUTES.map(|_| if bytes.next().is_multiple_of(4) { None } else { Some(bytes.text()) });
    Request { texts, address: IpAddr::V4(Ipv4Addr::new(10, bytes.next(), 2, 3)) }
}
