//! One agent by itself; whole worlds of them are in the simulation.

use super::*;
use crate::members::Members;
use crate::picture::MaxLoss;
use crate::promotion::{Done, Work};
use crate::store::{Answer, Request, Value};
use crate::timers::Profile;

fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

fn setup(own: &str) -> Setup {
    let max_loss = MaxLoss { rows: 1, bytes: 1, ms: 1, window_rows: None };
    let shard = Shard {
        begun: (Epoch(1), region("eu")),
        exact: true,
        home: region("eu"),
        regions: ["eu", "us"].map(region).into(),
        allowed: None,
        max_loss,
    };
    Setup {
        members: Members::new(["ap", "eu", "us"].map(region)).unwrap(),
        own: region(own),
        boot: 1,
        timers: Profile::Default.timers(),
        shards: BTreeMap::from([(ShardName::new("a").unwrap(), shard)]),
        capacities: BTreeMap::new(),
        failback: false,
        policy: "manual".to_owned(),
        version: None,
    }
}

fn at(ms: u64) -> Now {
    Now { moment: Moment(ms * 1_000), unix_ms: 1_900_000_000_000 + ms }
}

/// Lets an agent run alone with a store, and does all work at once.
fn run(agent: &mut Agent, table: &mut Table, (from, to): (u64, u64)) -> Vec<Work> {
    let mut works = Vec::new();
    for ms in (from..to).step_by(100) {
        let mut events = vec![Event::Tick];
        while let Some(event) = events.pop() {
            for effect in agent.handle(event, at(ms)) {
                match effect {
                    Effect::Store(number, Request::Scan) => {
                        events.push(Event::Stored(number, Answer::Entries(table.clone())));
                    }
                    Effect::Store(number, Request::Commit(change)) => {
                        let answer = table.commit(&change).map_or(Answer::Conflict, Answer::Committed);
                        events.push(Event::Stored(number, answer));
                    }
                    Effect::Work(shard, number, work) => {
                        let done = match &work {
                            Work::Seal(epoch) => Done::Sealed(crate::promotion::Sealed {
                                epoch: *epoch,
                                rows: 0,
                                head_rows: 0,
                                age_ms: 0,
                                missing: Vec::new(),
                                with_primary: true,
                            }),
                            Work::Fence(epoch) => Done::Fenced { epoch: *epoch, rows: 0 },
                            Work::Open(epoch) => Done::Opened(*epoch),
                            Work::Publish(_) => Done::Published(1),
                            Work::Switch(_) => Done::Switched(Vec::new()),
                            Work::Plan => Done::Planned(1),
                            Work::Verify(_) => Done::Verified(region("us")),
                            Work::Ramp(percent) => Done::Ramped(*percent),
                            other => panic!("{other:?}"),
                        };
                        works.push(work);
                        events.push(Event::Worked(shard, number, done));
                    }
                    _ => {}
                }
            }
        }
    }
    works
}

#[test]
fn a_region_takes_what_is_at_home_there_step_by_step() {
    let name = ShardName::new("a").unwrap();
    let (mut agent, mut table) = (Agent::new(setup("eu")).unwrap(), Table::default());
    let works = run(&mut agent, &mut table, (0, 200_000));
    let permit = agent.takes_writes(&name, at(200_000).moment).unwrap();
    assert_eq!(permit.epoch, Epoch(1));
    assert_eq!(table.promotion(&name).unwrap().step, Step::Done);
    let ramps: Vec<_> = works.iter().filter(|work| matches!(work, Work::Ramp(_))).collect();
    assert_eq!(ramps, [&Work::Ramp(5), &Work::Ramp(25), &Work::Ramp(50), &Work::Ramp(100)]);
    // Without answers it stops by itself, and another region that waits takes nothing without a decision.
    assert_eq!(agent.permit(&name, at(208_000).moment), None);
    let mut other = Agent::new(setup("us")).unwrap();
    run(&mut other, &mut table, (0, 60_000));
    assert_eq!(table.ownership(&name).unwrap().primary, region("eu"));
    assert_eq!(other.permit(&name, at(60_000).moment), None);
}

/// A shard that was written before regions had leases goes on in its epoch where it is, wherever its home is.
#[test]
fn what_was_written_already_goes_on_in_its_epoch() {
    let name = ShardName::new("a").unwrap();
    let mut setups = ["eu", "us"].map(setup);
    for setup in &mut setups {
        setup.shards.get_mut(&name).unwrap().begun = (Epoch(7), region("us"));
    }
    let mut table = Table::default();
    let [eu, us] = setups.map(|setup| {
        let mut agent = Agent::new(setup).unwrap();
        run(&mut agent, &mut table, (0, 60_000));
        agent
    });
    assert_eq!(eu.permit(&name, at(60_000).moment), None);
    assert_eq!(us.takes_writes(&name, at(60_000).moment).unwrap().epoch, Epoch(7));
}

/// A hundred shards of one region cost it one renewal.
#[test]
fn shards_cost_no_renewals() {
    let mut setup = setup("eu");
    let one = setup.shards.values().next().unwrap().clone();
    setup.shards = (0..100).map(|at| (ShardName::new(&format!("s{at}")).unwrap(), one.clone())).collect();
    let (mut agent, mut table) = (Agent::new(setup).unwrap(), Table::default());
    run(&mut agent, &mut table, (0, 120_000));
    let shards = (0..100).map(|at| ShardName::new(&format!("s{at}")).unwrap());
    assert!(
        shards.map(|shard| agent.takes_writes(&shard, at(120_000).moment)).all(|permit| permit.is_some())
    );
    assert!(
        table.iter().all(|(_, _, value)| !matches!(value, Value::Promotion(record) if record.is_running()))
    );
    let before = table.last().0;
    run(&mut agent, &mut table, (120_000, 180_000));
    assert_eq!(table.last().0 - before, 20, "one change every three seconds");
}

/// What the store says of itself is looked at at once, and again where a look was under way.
#[test]
fn news_of_the_store_wait_for_no_tick() {
    let (mut agent, mut table) = (Agent::new(setup("us")).unwrap(), Table::default());
    run(&mut agent, &mut table, (0, 10_000));
    let looks = |effects: Vec<Effect>| -> Vec<u64> {
        let look = |effect| match effect {
            Effect::Store(number, Request::Scan) => Some(number),
            _ => None,
        };
        effects.into_iter().filter_map(look).collect()
    };
    let answer = |number: u64| Event::Stored(number, Answer::Entries(table.clone()));
    let first = looks(agent.handle(Event::Changed, at(10_001)));
    assert_eq!(first.len(), 1);
    assert!(looks(agent.handle(Event::Changed, at(10_005))).is_empty(), "one look at a time");
    let again = looks(agent.handle(answer(first[0]), at(10_010)));
    assert_eq!(again.len(), 1, "what came after it was asked may not be in it");
    assert!(looks(agent.handle(answer(again[0]), at(10_015))).is_empty());
    assert_eq!(looks(agent.handle(Event::Changed, at(10_020))).len(), 1);
}

/// A primary was well when its database answered last, not until that has failed often enough to be called down: what copies have heard of it until
/// then is all that there is, and no later word of theirs can be asked for.
#[test]
fn a_primary_is_well_while_its_database_answers() {
    let mut agent = Agent::new(setup("eu")).unwrap();
    let members = agent.setup.members.clone();
    let probe = agent.setup.timers.probe.clone();
    let mut others = ["ap", "us"].map(|name| {
        let seat = members.seat(&region(name)).unwrap();
        (seat, Matrix::new(members.clone(), seat, probe.clone(), 1))
    });
    let us = members.seat(&region("us")).unwrap();
    for ms in (0..7_000).step_by(100) {
        let mut heard = Vec::new();
        if ms % 500 == 0 {
            for path in [Path::Ingress, Path::Peer] {
                for (own, matrix) in &mut others {
                    let seen = members.seats().filter(|seat| *seat != *own);
                    seen.for_each(|seat| matrix.observe(seat, path, Outcome::Ok, at(ms).moment));
                }
                for name in ["ap", "us"] {
                    agent.handle(Event::Probed(region(name), path, Outcome::Ok), at(ms));
                }
            }
            let database = if ms <= 5_000 { Outcome::Ok } else { Outcome::Failed(Reason::Timeout) };
            others[1].1.observe(us, Path::Database, database, at(ms).moment);
        }
        for effect in agent.handle(Event::Tick, at(ms)) {
            if let Effect::Send(report, _) = effect {
                for (_, matrix) in &mut others {
                    matrix.hear((*report).clone());
                    heard.push(matrix.report(at(ms).moment));
                }
            }
        }
        for report in heard {
            agent.handle(Event::Heard(Box::new(report), Vec::new()), at(ms));
        }
    }
    let well = agent.well_at[&region("us")];
    assert!(well >= at(5_000).moment && well <= at(5_500).moment, "{well:?}");
    assert!(
        agent.well_at[&region("ap")] >= at(6_000).moment,
        "whose databases nobody knows is well while it answers"
    );
}

#[test]
fn a_stranger_is_no_agent() {
    let error = Agent::new(setup("sa")).unwrap_err();
    assert_eq!(error, Stranger(region("sa")));
}
