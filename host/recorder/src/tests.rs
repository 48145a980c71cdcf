//! What is kept, what is dropped and counted, and what stands on disk when a process has died.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use portolan_core::attribute::{Attribute, Attributes, Value};
use portolan_core::decide::{Call, Decide, FailRule, Undecided, ask};
use portolan_core::evidence::Evidence;
use portolan_core::facts::{Facts, RegionFacts, Verdict};
use portolan_core::ids::{Digest, Generation, PolicyName, PoolName, RegionName, TenantName};
use portolan_core::lane::{Candidate, Lane, Part as Plays, Slot};
use portolan_core::plan::{Draft, Limits};
use portolan_core::recording::{
    Captured, Class, DecisionId, Held, Outcome, Part, Picture, Record as _, Recorded, SlotDecision,
};
use portolan_core::snapshot::{Live, Policies, Policy, Snapshot};
use portolan_core::table::Table;
use portolan_core::tenant::{Tenants, Unrecognised};
use portolan_core::topology::Topology;
use portolan_foundation::seal::SealKey;

use super::*;

fn facts() -> Arc<Facts> {
    let eu = RegionName::new("eu").unwrap();
    let pools = BTreeSet::from([PoolName::new("web").unwrap(), PoolName::new("beta").unwrap()]);
    Arc::new(Facts {
        local: eu.clone(),
        latency_us: BTreeMap::from([((eu.clone(), eu.clone()), 1)]),
        now_ms: 5,
        regions: BTreeMap::from([(eu, RegionFacts { pools, verdict: Verdict::Healthy })]),
        residencies: BTreeMap::new(),
        seed: 9,
    })
}

fn policy(digest: u8, pool: &str, decider: Arc<dyn Decide>) -> Arc<Policy> {
    let facts = facts();
    let mut draft = Draft::new(Arc::clone(&facts), Limits::default());
    let first = draft.forward("eu", pool).unwrap().0;
    let second = draft.forward("eu", if pool == "web" { "beta" } else { "web" }).unwrap().0;
    draft.dynamic(&[], &["header:authorization".into(), "header:x-plan".into()], &[first, second]).unwrap();
    Arc::new(Policy {
        config: "{\"a\":1}".into(),
        facts,
        name: PolicyName::new("test").unwrap(),
        digest: Digest([digest; 32]),
        table: Table::compile(draft.finish().unwrap().0),
        decider,
        on_fail: FailRule::Previous,
    })
}

#[derive(Debug)]
struct First;

impl Decide for First {
    fn decide(&self, _: &Call<'_>) -> Result<u32, Undecided> {
        Ok(0)
    }
}

#[derive(Debug)]
struct Traps;

impl Decide for Traps {
    fn decide(&self, _: &Call<'_>) -> Result<u32, Undecided> {
        Err(Undecided::Trapped)
    }
}

/// Answers only when the door is open.
#[derive(Debug, Default)]
struct Door {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Decide for Door {
    fn decide(&self, _: &Call<'_>) -> Result<u32, Undecided> {
        drop(self.opened.wait_while(self.open.lock().unwrap(), |open| !*open).unwrap());
        Ok(0)
    }
}

struct Request;

impl Attributes for Request {
    fn value(&self, attribute: &Attribute) -> Value<'_> {
        match attribute {
            Attribute::Header(name) if &**name == "authorization" => Value::Text("Bearer hunter2"),
            Attribute::Header(_) => Value::Text("gold"),
            Attribute::Path => Value::Text("/shop/1"),
            Attribute::Region => Value::Text("eu"),
            _ => Value::Absent,
        }
    }
    fn client_ip(&self) -> IpAddr {
        IpAddr::from([10, 0, 0, 1])
    }
}

fn captured(number: u64, lane: &Arc<Lane>) -> Captured {
    let (policy, at_ms) = (&lane.stable, portolan_foundation::clock::unix_ms());
    let asked = ask(&policy.table, &*policy.decider, &Request, number, at_ms);
    Captured {
        id: DecisionId { at_ms, number },
        generation: Generation(3),
        picture: Picture::take(&Request, policy.table.attributes(), at_ms, number),
        parts: vec![Part {
            lane: Arc::clone(lane),
            policy: Arc::clone(policy),
            decision: SlotDecision::of(policy, Slot::Operator, asked.as_ref()),
        }],
        outcome: Outcome { status: 200, ..Outcome::default() },
        keep: true,
        shadow: true,
    }
}

fn start(folder: &Path, lane: &Arc<Lane>, settings: Settings) -> Recorder {
    let topology = Topology {
        directory: Arc::new(portolan_core::directory::Directory::empty()),
        local: RegionName::new("eu").unwrap(),
        latency_us: BTreeMap::default(),
        regions: BTreeMap::default(),
        residencies: BTreeMap::default(),
        seed: 0,
        steering: Arc::default(),
        steering_limits: portolan_core::steering::Limits {
            breaker: portolan_core::topology::BreakerLimits {
                failures: 5,
                pause_min: Duration::from_secs(1),
                pause_max: Duration::from_secs(1),
            },
            panic_percent: 50,
            ramp: Duration::ZERO,
        },
        tenants: Tenants {
            barred: std::collections::HashMap::default(),
            known: std::collections::HashMap::default(),
            sources: Vec::new(),
            unrecognised: Unrecognised::Anonymous,
            known_only: false,
        },
    };
    let policies = Policies { operator: Some(Arc::clone(lane)), tenants: Arc::default() };
    let live = Live::new(Snapshot { generation: Generation(3), topology: Arc::new(topology), policies });
    let folder = folder.join("recordings");
    let (key, node) = (SealKey::new([3; 32]), "one".to_owned());
    Recorder::start(Start { folder, key, live, node, settings: Some(settings) }).unwrap()
}

/// All decisions of a recording, each with whether its binding is known.
fn all(recording: &Recording) -> (Vec<Recorded>, Summary) {
    let mut found = Vec::new();
    let summary = recording.each(0..u64::MAX, |book, item| {
        if let Item::Decision(recorded) = item {
            assert!(recorded.slots.iter().all(|slot| book.binding(&slot.binding).is_some()));
            found.push(*recorded);
        }
        ControlFlow::Continue(())
    });
    (found, summary.unwrap())
}

#[test]
fn what_is_kept_is_found_again_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let lane = Arc::new(Lane::stable(policy(1, "web", Arc::new(First))));
    let recorder = start(folder.path(), &lane, Settings::default());
    let ids: Vec<DecisionId> = (0..100)
        .map(|number| {
            let captured = captured(number, &lane);
            let id = captured.id;
            recorder.take(captured);
            id
        })
        .collect();
    let (kept, summary) = all(&recorder.recording());
    assert_eq!(kept.iter().map(|recorded| recorded.id).collect::<Vec<_>>(), ids);
    assert_eq!(summary, Summary { decisions: 100, ..Summary::default() });
    assert_eq!(recorder.stats().kept, 100);
    let newest = recorder.newest(&Filter::default(), 10);
    assert_eq!(newest.len(), 10);
    assert_eq!((newest[0].id, &*newest[0]), (ids[99], &kept[99]), "memory and disk agree");
    drop(recorder);

    let again = start(folder.path(), &lane, Settings::default());
    assert_eq!(again.find(ids[50]).unwrap().unwrap().id, ids[50], "from disk");
    let (recorded, book) = again.find_with_book(ids[7]).unwrap().unwrap();
    let binding = book.binding(&recorded.slots[0].binding).unwrap();
    assert_eq!((&*binding.config, &binding.facts), ("{\"a\":1}", &facts()));
    let mut ran = Vec::new();
    let note = |_: &Book, item: Item| {
        if let Item::Ran(one) = item {
            ran.push(one);
        }
        ControlFlow::Continue(())
    };
    again.recording().each(0..u64::MAX, note).unwrap();
    assert!(ran.iter().all(|ran| ran.generation == Generation(3) && ran.slots.len() == 1), "{ran:?}");
}

#[test]
fn no_secret_reaches_memory_or_disk() {
    let folder = tempfile::tempdir().unwrap();
    let lane = Arc::new(Lane::stable(policy(1, "web", Arc::new(First))));
    let recorder = start(folder.path(), &lane, Settings::default());
    recorder.take(captured(1, &lane));
    recorder.flush();
    let newest = recorder.newest(&Filter::default(), 1);
    let held = newest[0].picture.held(&Attribute::Header("authorization".into()));
    assert!(matches!(held, Some(Held::Hidden(Some(_)))), "{held:?}");
    assert_eq!(newest[0].picture.text(&Attribute::Header("x-plan".into())), Some("gold"), "declared");
    for segment in spill::segments(&folder.path().join("recordings")) {
        let bytes = fs::read(segment.path).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
        assert!(bytes.windows(4).any(|window| window == b"gold"));
    }
}

#[test]
fn memory_and_disk_are_bounded_and_the_oldest_goes_first() {
    let folder = tempfile::tempdir().unwrap();
    let lane = Arc::new(Lane::stable(policy(1, "web", Arc::new(First))));
    let settings = Settings {
        disk_bytes_max: 400_000,
        segment_bytes_max: 100_000,
        memory_bytes_max: 50_000,
        ..Settings::default()
    };
    let recorder = start(folder.path(), &lane, settings);
    let mut last = None;
    for number in 0..2_000 {
        let captured = captured(number, &lane);
        last = Some(captured.id);
        recorder.take(captured);
        if number % 100 == 0 {
            recorder.flush();
        }
    }
    let (kept, _) = all(&recorder.recording());
    let stats = recorder.stats();
    assert!(stats.disk_bytes <= 500_000 && stats.disk_bytes > 100_000, "{stats:?}");
    assert!(stats.memory_bytes <= 50_000 && stats.in_memory > 10, "{stats:?}");
    assert_eq!(kept.last().map(|recorded| recorded.id), last);
    assert!(kept.len() < 2_000, "the oldest are gone");
    assert_eq!(stats.kept + stats.dropped, 2_000);
}

#[test]
fn torn_and_damaged_segments_cost_what_they_lost() {
    let folder = tempfile::tempdir().unwrap();
    let lane = Arc::new(Lane::stable(policy(1, "web", Arc::new(First))));
    let recorder = start(folder.path(), &lane, Settings::default());
    (0..50).for_each(|number| recorder.take(captured(number, &lane)));
    let recording = recorder.recording();
    let path = spill::segments(&folder.path().join("recordings"))[0].path.clone();
    let whole = fs::read(&path).unwrap();
    assert_eq!(all(&recording).0.len(), 50);

    fs::write(&path, &whole[..whole.len() - 3]).unwrap();
    let (kept, summary) = all(&recording);
    assert_eq!((kept.len(), summary.torn), (49, 1));

    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    fs::write(&path, &damaged).unwrap();
    let (kept, summary) = all(&recording);
    assert!(kept.len() >= 48 && summary.damaged_bytes > 0, "{summary:?}");

    fs::write(&path, b"").unwrap();
    assert_eq!(all(&recording).0.len(), 0);
    fs::write(&path, b"something quite different, and long enough").unwrap();
    assert!(recording.each(0..u64::MAX, |_, _| ControlFlow::Continue(())).is_err());

    let newer = [&whole[..], &{
        let mut entry = Vec::new();
        assert!(frame::write(&mut entry, br#"{"from-the-future":{"x":1}}"#));
        entry
    }]
    .concat();
    fs::write(&path, &newer).unwrap();
    assert_eq!(all(&recording).1, Summary { decisions: 50, unknown: 1, ..Summary::default() });
}

#[test]
fn any_bytes_are_read_or_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let lane = Arc::new(Lane::stable(policy(1, "web", Arc::new(First))));
    let recorder = start(folder.path(), &lane, Settings::default());
    (0..2).for_each(|number| recorder.take(captured(number, &lane)));
    let (kept, _) = all(&recorder.recording());
    let entries: Vec<String> =
        kept.iter().map(|one| format!("{{\"decision\":{}}}", serde_json::to_string(one).unwrap())).collect();
    let segment = fs::read(&spill::segments(&folder.path().join("recordings"))[0].path).unwrap();
    let seeds: Vec<&[u8]> =
        entries.iter().map(String::as_bytes).chain([segment.get(..2_000).unwrap_or(&segment)]).collect();
    portolan_core::exercise::mutated(&seeds, 5_000, exercise);
}

#[test]
fn what_finds_no_place_is_dropped_and_counted_and_nobody_waits() {
    let folder = tempfile::tempdir().unwrap();
    let lane = Arc::new(Lane::stable(policy(1, "web", Arc::new(First))));
    let recorder = start(folder.path(), &lane, Settings::default());
    let one = captured(1, &lane);
    let offered = 2 * defaults::QUEUE_MAX as u64;
    recorder.while_held(|| (0..offered).for_each(|_| recorder.take(one.clone())));
    recorder.flush();
    let stats = recorder.stats();
    assert!(stats.dropped >= offered / 2 - 200, "{stats:?}");
    assert_eq!(stats.kept + stats.dropped, offered);
}

#[test]
fn a_disk_that_fails_costs_no_decision_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("recordings"), "a file where the folder should be").unwrap();
    let lane = Arc::new(Lane::stable(policy(1, "web", Arc::new(First))));
    let recorder = start(folder.path(), &lane, Settings::default());
    (0..10).for_each(|number| recorder.take(captured(number, &lane)));
    recorder.flush();
    let stats = recorder.stats();
    assert_eq!((stats.kept, stats.in_memory), (10, 10));
    assert!(stats.disk_failures >= 1 && stats.disk_failure.is_some(), "{stats:?}");
}

#[test]
fn failures_are_kept_up_to_a_rate_and_nothing_when_it_is_off() {
    let folder = tempfile::tempdir().unwrap();
    let lane = Arc::new(Lane::stable(policy(1, "web", Arc::new(First))));
    let settings = Settings { failures_per_second: 5, sample_permille: 0, ..Settings::default() };
    let recorder = start(folder.path(), &lane, settings);
    let kept = (0..1_000).filter(|_| recorder.keeps_failures()).count();
    assert!((5..=10).contains(&kept), "{kept}: a second may have ended in between");
    assert!(!(0..1_000).any(|draw| recorder.samples(draw << 20)));
    recorder.apply(Some(Settings { sample_permille: 1_000, ..Settings::default() }));
    assert!((0..1_000).all(|draw| recorder.samples(draw << 20)));
    recorder.apply(None);
    assert!(!recorder.is_on() && !recorder.keeps_failures() && !recorder.samples(0));
    recorder.take(captured(1, &lane));
    recorder.flush();
    assert_eq!(recorder.stats().in_memory, 0);
}

fn in_shadow(candidate: Arc<Policy>) -> Arc<Lane> {
    let stable = policy(1, "web", Arc::new(First));
    let candidate = Candidate { policy: candidate, part: Plays::Shadow, trial: Arc::default() };
    Arc::new(Lane { stable, candidate: Some(candidate) })
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn candidates_in_the_shadow_are_compared_by_class() {
    let shadow = Shadow::start().unwrap();
    for (digest, pool, decider, class) in [
        (2, "web", Arc::new(First) as Arc<dyn Decide>, Class::Same),
        (3, "beta", Arc::new(First), Class::OtherTarget),
        (4, "web", Arc::new(Traps), Class::Error),
    ] {
        let candidate = policy(digest, pool, decider);
        let lane = in_shadow(Arc::clone(&candidate));
        (0..20).for_each(|number| shadow.offer(&captured(number, &lane)));
        let trial = Arc::clone(&lane.candidate.as_ref().unwrap().trial);
        let told = || shadow.report(&Slot::Operator, &trial);
        until("all are compared", || told().is_some_and(|report| report.counts.total() == 20));
        let report = told().unwrap();
        assert_eq!(report.counts.of(class), 20, "{report:?}");
        assert_eq!(report.routes["/shop"].total(), 20);
        let Evidence { candidate: counts, compared, .. } = lane.candidate.as_ref().unwrap().trial.read();
        assert_eq!((compared.classes.of(class), counts.decisions), (20, 20));
        assert_eq!(counts.traps, if class == Class::Error { 20 } else { 0 });
        assert!(counts.latency.quantile_ns(500).is_some());
        // Another step of a rollout counts anew.
        assert_eq!(shadow.report(&Slot::Operator, &Arc::default()), None);
    }
    assert_eq!(shadow.dropped(), 0);
    shadow.offer(&captured(1, &Arc::new(Lane::stable(policy(1, "web", Arc::new(First))))));
}

#[test]
fn a_slow_candidate_costs_its_comparisons_and_nobody_waits() {
    let shadow = Shadow::start().unwrap();
    let door = Arc::new(Door::default());
    let candidate = policy(2, "web", Arc::clone(&door) as Arc<dyn Decide>);
    let lane = in_shadow(Arc::clone(&candidate));
    let captured = captured(1, &lane);
    let offered = 3 * defaults::SHADOW_QUEUE_MAX as u64;
    (0..offered).for_each(|_| shadow.offer(&captured));
    assert!(shadow.dropped() >= offered - defaults::SHADOW_QUEUE_MAX as u64 - 2, "{}", shadow.dropped());
    *door.open.lock().unwrap() = true;
    door.opened.notify_all();
    let trial = Arc::clone(&lane.candidate.as_ref().unwrap().trial);
    let count = || shadow.report(&Slot::Operator, &trial).map_or(0, |report| report.counts.total());
    let dropped = || lane.candidate.as_ref().unwrap().trial.read().compared.dropped;
    assert_eq!(dropped(), shadow.dropped());
    until("what found a place is compared", || count() + shadow.dropped() == offered);
}

#[test]
fn a_tenant_is_taken_out_of_memory_and_disk() {
    let folder = tempfile::tempdir().unwrap();
    let lane = Arc::new(Lane::stable(policy(1, "web", Arc::new(First))));
    let recorder = start(folder.path(), &lane, Settings::default());
    let acme = TenantName::new("acme").unwrap();
    let take = |number: u64| {
        let mut one = captured(number, &lane);
        if number.is_multiple_of(2) {
            one.parts[0].decision.slot = Slot::Tenant(acme.clone());
        }
        recorder.take(one);
    };
    (1..=20).for_each(take);
    let erased = recorder.erase(&acme).unwrap();
    assert_eq!((erased.in_memory, erased.segments), (10, 1), "{erased:?}");
    assert!(erased.entries >= 10, "{erased:?}");
    take(21);
    let recording = recorder.recording();
    let (kept, summary) = all(&recording);
    assert_eq!((kept.len(), summary.damaged_bytes, summary.unknown), (11, 0, 0), "{summary:?}");
    for segment in fs::read_dir(folder.path().join("recordings")).unwrap() {
        let bytes = fs::read(segment.unwrap().path()).unwrap();
        assert!(!bytes.windows(4).any(|part| part == b"acme"));
    }
    assert_eq!(recorder.erase(&acme).unwrap(), Erased::default(), "a second time finds nothing");
}
