//! Bundled components against the built-in policies that they are to equal, rogue ones against the guards, and the words in between.

#[path = "../../../../tests/fixtures/guests.rs"]
#[allow(unreachable_pub, dead_code, reason = "shared with other tests")]
mod guests;
mod pictures;
mod rogues;

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use portolan_core::ids::ShardName;
use portolan_failover::policies::Native;
use portolan_policy::{Compile, FailoverSpec, Source};

use self::guests::proposing;
use self::pictures::{calm, random, region, shard as shard_name};
use super::*;
use crate::bundled;

/// Pictures that a component and its built-in twin are asked about.
const PICTURES: u64 = 300;

/// One that waits: this build of the host's functions is hardly optimised, and other tests run beside it.
fn engine() -> Engine {
    let mut limits = portolan_policy::Limits::standard();
    (limits.propose_deadline, limits.propose_wall_max) = (Duration::from_secs(10), Duration::from_secs(60));
    Engine::new(portolan_policy::Config {
        cache_bytes_max: 0,
        cache_dir: None,
        compile: Compile::InProcess,
        data_threads: NonZeroUsize::MIN,
        limits,
        pool_slots: NonZeroU32::new(64).unwrap(),
    })
    .unwrap()
}

fn load(engine: &Engine, component: &[u8]) -> Failover {
    let policy = PolicyName::new("tested").unwrap();
    let spec = FailoverSpec { config: "{}".into(), policy, source: Ok(Source::bytes(component)) };
    Failover::load(engine, &spec).unwrap()
}

fn ask(policy: &Failover, picture: &picture::Picture) -> Result<(Vec<Proposal>, u64), Unanswered> {
    let asked = policy.propose(&Arc::new(told(picture)));
    asked.map(|(proposed, fuel)| (proposed.into_iter().map(wanted).collect(), fuel))
}

/// Each component says what its built-in twin says, word for word, and uses the same fuel each time.
#[test]
fn bundled_components_equal_the_built_in_policies() {
    let engine = engine();
    for native in [Native::CapacityAware, Native::Conservative, Native::Fast, Native::Manual] {
        let name = format!("failover-{}", native.as_str());
        let bundled = bundled::find(&name).unwrap_or_else(|| panic!("{name}: {}", bundled::HOW_TO_GET_THEM));
        let policy = load(&engine, bundled.component);
        let mut said = 0;
        for seed in 0..PICTURES {
            let picture = random(seed);
            let (proposals, fuel) =
                ask(&policy, &picture).unwrap_or_else(|error| panic!("{name}, seed {seed}: {error}"));
            assert_eq!(proposals, native.propose(&picture), "{name}, seed {seed}: {picture:#?}");
            said += proposals.len();
            if seed % 50 == 0 {
                assert_eq!(
                    ask(&policy, &picture).unwrap(),
                    (proposals, fuel),
                    "{name}, seed {seed}: it is pure"
                );
            }
        }
        // Pictures about which there is nothing to say would prove nothing.
        assert!(said >= 300, "{name}: {said} proposals");
    }
}

#[test]
fn the_picture_goes_over_whole_and_proposals_come_back_as_they_are() {
    let mut picture = calm();
    let eu = picture.regions.get_mut("eu").unwrap();
    eu.verdict = matrix::Verdict::Down { of: 4, k: 3 };
    picture.sights.push(picture::Sight {
        region: region("eu"),
        vantage: region("us"),
        cells: BTreeMap::from([(matrix::Path::Peer, counter::State::Identity)]),
    });
    // Further, by its position and not by its rows.
    let a = picture.shards.get_mut("a").unwrap();
    a.replicas.get_mut("sa").unwrap().position = portolan_core::log::Position::new(9, 0, 0);
    a.replicas.get_mut("ap").unwrap().epoch = portolan_core::log::Epoch(1);
    let told = told(&picture);
    assert_eq!(told.regions["eu"].verdict, Verdict::Down);
    assert_eq!(told.sight("eu", "us", "peer"), Sight::Identity);
    assert_eq!(told.limits["outage-ms"], picture.limits.outage_ms);
    assert_eq!(told.limits.len(), portolan_core::failover::LIMITS.len());
    let replicas = &told.shards["a"].replicas;
    let names: Vec<&str> = replicas.iter().map(|replica| replica.region.as_str()).collect();
    // Of equals, by name.
    assert_eq!(names, ["sa", "ap", "me", "us"]);
    assert_eq!(replicas.iter().map(|replica| replica.current).collect::<Vec<_>>(), [true, false, true, true]);
    let (a, us, eu) = (ShardName::new("a").unwrap(), region("us"), region("eu"));
    for (proposed, proposal) in [
        (Proposed::Hold, Proposal::Hold),
        (Proposed::Drain { region: us.clone() }, Proposal::Drain { region: us.clone() }),
        (
            Proposed::Promote { shard: a.clone(), region: us.clone() },
            Proposal::Promote { shard: a.clone(), region: us.clone() },
        ),
        (Proposed::ReadOnly { shard: a.clone() }, Proposal::ReadOnly { shard: a }),
        (
            Proposed::Shift { region: eu.clone(), target: us.clone(), percent: 7 },
            Proposal::Shift { region: eu, target: us, percent: 7 },
        ),
    ] {
        assert_eq!(wanted(proposed), proposal);
    }
}

/// The seat of a node: a component that is named runs, one that is refused leaves the one before, and without any there is no answer.
#[test]
fn a_node_follows_what_is_named() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    std::fs::write(policies.join("mine.wasm"), proposing("(call $hold)")).unwrap();
    std::fs::write(policies.join("wrong.wasm"), guests::responding("hello")).unwrap();
    let text = "[node]\nregion = \"local\"\n[listen]\npublic = [\"127.0.0.1:0\"]\n\
                [region.local.pool.web]\nendpoints = [\"127.0.0.1:9000\"]\n";
    let source = config::Source { path: folder.path().join("portolan.toml"), text: text.to_owned() };
    let config = config::read(vec![source], [], folder.path()).unwrap().config;
    let named = |name: &str| PolicySlot {
        config: "{}".into(),
        dynamic_granted: false,
        name: PolicyName::new(name).unwrap(),
        on_fail: portolan_core::decide::FailRule::default(),
        version: None,
    };
    let failing = Failing::new(Some(engine()), runtime.handle().clone());
    failing.follow(&config, None, None).unwrap();
    assert!(failing.report().is_none());
    assert!(matches!(failing.propose(&calm()), Err(Fault::Trap(why)) if why.contains("none was named")));

    failing.follow(&config, Some(&named("mine")), None).unwrap();
    let (name, _) = failing.runs().unwrap();
    assert_eq!(name.as_str(), "mine");
    assert_eq!(failing.propose(&calm()).unwrap().0, [Proposal::Hold]);

    failing.follow(&config, Some(&named("wrong")), None).unwrap();
    assert_eq!(failing.runs().unwrap().0.as_str(), "mine", "the one before goes on");
    let report = failing.report().unwrap();
    assert!(report.refused.is_some_and(|refused| refused.reason.contains("exports no proposer")));
    let asked = refused(&config, &named("wrong"), None, Some(engine())).unwrap();
    assert!(asked.is_some_and(|refused| refused.reason.contains("exports no proposer")));

    failing.follow(&config, None, None).unwrap();
    assert!(failing.runs().is_none());
}
