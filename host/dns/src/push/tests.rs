//! Updates of real servers: BIND, Knot and PowerDNS.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use portolan_foundation::shutdown::Shutdown;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::plan::State;
use crate::testing::daemon::{Daemon, Sort, WRONG_SECRET, dig, key, until};
use crate::testing::{ZONE, draft, name, set_state};

/// How often two writers race on each server.
const RACES: u64 = 40;

fn target(daemon: &Daemon) -> Target {
    Target::new(daemon.address, name(ZONE), key("writer"))
}

fn change(number: u64, address: &str) -> Change {
    let addresses = BTreeSet::from([address.parse().unwrap()]);
    Change { names: vec![Wanted { addresses, name: name("app.gw.example"), ttl_s: 30 }], number }
}

fn only(outcomes: Outcomes) -> Result<Outcome, Failure> {
    outcomes.into_values().next().unwrap()
}

async fn push(target: &Target, number: u64, address: &str) -> Result<Outcome, Failure> {
    only(target.push(&change(number, address), Mode::Newer).await)
}

async fn address_of(daemon: &Daemon) -> String {
    dig(daemon.address, &["+short", "app.gw.example", "A"]).await.trim().to_owned()
}

async fn number_of(daemon: &Daemon) -> String {
    dig(daemon.address, &["+short", "_epoch.app.gw.example", "TXT"]).await.trim().trim_matches('"').to_owned()
}

/// Changes something by hand, as another program would.
async fn by_hand(daemon: &Daemon, changes: &str) {
    let text = format!(
        "server {} {}\nkey hmac-sha256:writer {}\nzone {ZONE}\n{changes}\nsend\n",
        daemon.address.ip(),
        daemon.address.port(),
        crate::testing::daemon::SECRET,
    );
    let file = daemon.folder.path().join("by-hand");
    std::fs::write(&file, text).unwrap();
    let said = crate::testing::daemon::run("nsupdate", &["-v", &file.display().to_string()]).await;
    assert_eq!(said, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aws_2025_enactor_a_late_writer_changes_nothing() {
    for sort in Sort::ALL {
        let daemon = Daemon::primary(sort).await;
        let target = target(&daemon);
        assert_eq!(push(&target, 5, "192.0.2.5").await, Ok(Outcome::Applied), "{sort:?}");
        assert_eq!(push(&target, 5, "192.0.2.5").await, Ok(Outcome::Present), "{sort:?}");
        assert_eq!(push(&target, 9, "192.0.2.9").await, Ok(Outcome::Applied), "{sort:?}");
        // A writer with an older plan, as in the outage of 2025 that emptied a record.
        let late = Ok(Outcome::Overtaken(Found::Number(9)));
        assert_eq!(push(&target, 7, "192.0.2.7").await, late, "{sort:?}");
        assert_eq!((address_of(&daemon).await, number_of(&daemon).await), ("192.0.2.9".into(), "9".into()));
        assert_eq!(only(target.push(&change(7, "192.0.2.7"), Mode::Adopt).await), Ok(Outcome::Applied));
        assert_eq!((address_of(&daemon).await, number_of(&daemon).await), ("192.0.2.7".into(), "7".into()));
        assert_eq!(push(&target, 8, "192.0.2.8").await, Ok(Outcome::Applied), "{sort:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_writers_one_wins() {
    for sort in Sort::ALL {
        let daemon = Daemon::primary(sort).await;
        let target = target(&daemon);
        assert_eq!(push(&target, 1, "192.0.2.1").await, Ok(Outcome::Applied), "{sort:?}");
        for race in 0..RACES {
            // Both read the same number before either writes: the condition alone decides.
            let (older, newer) = (race * 2 + 2, race * 2 + 3);
            let before = race_start(&target).await;
            let one = raw(&target, older, "192.0.2.101", &before);
            let other = raw(&target, newer, "192.0.2.102", &before);
            let (one, other) = tokio::join!(one, other);
            let codes = [one, other];
            let wins = codes.iter().filter(|code| **code == exchange::code::NO_ERROR).count();
            assert_eq!(wins, 1, "{sort:?}, race {race}: {codes:?}");
            let (number, address) = if one == 0 { (older, "192.0.2.101") } else { (newer, "192.0.2.102") };
            assert_eq!(number_of(&daemon).await, number.to_string(), "{sort:?}, race {race}");
            assert_eq!(address_of(&daemon).await, address, "{sort:?}, race {race}");
        }
    }
}

async fn race_start(target: &Target) -> decide::Condition {
    let mut connection = exchange::Connection::open(target).await.unwrap();
    decide::Condition::Found(connection.standing(&name("app.gw.example")).await.unwrap().found)
}

/// The update that a writer sends who has read `before`.
async fn raw(target: &Target, number: u64, address: &str, before: &decide::Condition) -> u8 {
    let change = change(number, address);
    let part = message::Part::new(&change.names[0], number, before).unwrap();
    let mut connection = exchange::Connection::open(target).await.unwrap();
    connection.ask(|id| message::update(id, &target.zone, [&part])).await.unwrap().code
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pushes_at_once_leave_one_whole_plan() {
    for sort in Sort::ALL {
        let daemon = Daemon::primary(sort).await;
        let target = target(&daemon);
        assert_eq!(push(&target, 1, "192.0.2.1").await, Ok(Outcome::Applied), "{sort:?}");
        for race in 0..5_u64 {
            let (older, newer) = (race * 2 + 2, race * 2 + 3);
            let (one, other) =
                tokio::join!(push(&target, older, "192.0.2.101"), push(&target, newer, "192.0.2.102"));
            let state = (number_of(&daemon).await, address_of(&daemon).await);
            let expected = [(older, "192.0.2.101"), (newer, "192.0.2.102")]
                .map(|(number, address)| (number.to_string(), address.to_owned()));
            assert!(expected.contains(&state), "{sort:?}: {state:?}");
            // Who is told that it was applied and was not overtaken has what stands there.
            let applied = [&one, &other].iter().filter(|outcome| ***outcome == Ok(Outcome::Applied)).count();
            assert!(applied >= 1, "{sort:?}: {one:?} {other:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_or_clock_changes_nothing_and_says_what_to_do() {
    for sort in Sort::ALL {
        let daemon = Daemon::primary(sort).await;
        let good = target(&daemon);
        assert_eq!(push(&good, 1, "192.0.2.1").await, Ok(Outcome::Applied), "{sort:?}");
        let with = |text: &str| Target { key: SharedKey::new(text).unwrap(), ..good.clone() };
        for key in
            [format!("hmac-sha256:writer:{WRONG_SECRET}"), format!("hmac-sha256:stranger:{WRONG_SECRET}")]
        {
            let failure = push(&with(&key), 2, "192.0.2.2").await.unwrap_err();
            assert!(matches!(failure, Failure::Key { .. } | Failure::Refused { .. }), "{sort:?}: {failure}");
            assert!(
                !failure.is_passing() && failure.to_string().contains("Nothing was changed"),
                "{failure}"
            );
        }
        let late = Target { clock: || clock::unix_ms() / 1_000 - 3_600, ..good.clone() };
        let failure = push(&late, 2, "192.0.2.2").await.unwrap_err();
        let told = matches!(failure, Failure::Clock { .. } | Failure::Refused { .. } | Failure::Key { .. });
        assert!(told && !failure.is_passing(), "{sort:?}: {failure}");
        assert_eq!((address_of(&daemon).await, number_of(&daemon).await), ("192.0.2.1".into(), "1".into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_changed_by_hand_is_repaired_while_the_number_is_ours() {
    for sort in Sort::ALL {
        let daemon = Daemon::primary(sort).await;
        let target = target(&daemon);
        assert_eq!(push(&target, 3, "192.0.2.3").await, Ok(Outcome::Applied), "{sort:?}");
        by_hand(&daemon, "update delete app.gw.example A").await;
        assert_eq!(push(&target, 3, "192.0.2.3").await, Ok(Outcome::Repaired), "{sort:?}");
        assert_eq!(address_of(&daemon).await, "192.0.2.3");
        by_hand(
            &daemon,
            "update add app.gw.example 30 A 203.0.113.1\nupdate delete _epoch.app.gw.example TXT",
        )
        .await;
        assert_eq!(push(&target, 3, "192.0.2.3").await, Ok(Outcome::Unknown(Found::Nothing)), "{sort:?}");
        assert_eq!(only(target.push(&change(3, "192.0.2.3"), Mode::Adopt).await), Ok(Outcome::Applied));
        assert_eq!(address_of(&daemon).await, "192.0.2.3");
        by_hand(&daemon, "update delete app.gw.example A\nupdate delete _epoch.app.gw.example TXT").await;
        by_hand(&daemon, "update add app.gw.example 30 CNAME elsewhere.example.").await;
        assert!(matches!(push(&target, 4, "192.0.2.4").await, Err(Failure::Alias(..))), "{sort:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_names_share_messages_and_one_that_is_taken_holds_up_no_other() {
    let mut draft = draft(3);
    set_state(&mut draft, "us", State::Out);
    let plan = Plan::new(draft).unwrap();
    let change = Change::of(&plan, &name(ZONE), Regions::NONE, 0).unwrap();
    for sort in Sort::ALL {
        let daemon = Daemon::primary(sort).await;
        let target = target(&daemon);
        assert_eq!(push(&target, 9, "192.0.2.9").await, Ok(Outcome::Applied), "{sort:?}");
        let outcomes = target.push(&change, Mode::Newer).await;
        for (of, outcome) in outcomes {
            let taken = of == name("app.gw.example");
            let expected = if taken { Outcome::Overtaken(Found::Number(9)) } else { Outcome::Applied };
            assert_eq!(outcome, Ok(expected), "{sort:?}: {of}");
        }
        let told = dig(daemon.address, &["+short", "near.gw.example", "AAAA"]).await;
        let told: BTreeSet<&str> = told.lines().collect();
        assert_eq!(told, BTreeSet::from(["2001:db8::1", "2001:db8::3"]), "{sort:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_server_holds_up_no_other() {
    let daemon = Daemon::primary(Sort::Bind).await;
    let alive = target(&daemon);
    let dead = Target { server: crate::testing::daemon::free(), ..alive.clone() };
    let told = everywhere(&[dead.clone(), alive], &change(1, "192.0.2.1"), Mode::Newer).await;
    let failure = only(told[0].1.clone()).unwrap_err();
    assert!(failure.is_passing() && failure.to_string().contains(&dead.server.to_string()), "{failure}");
    assert_eq!(only(told[1].1.clone()), Ok(Outcome::Applied));
}

/// When a connection is cut on its first update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The server has it, and its answer is lost.
    After,
    /// The server never sees it.
    Before,
}

/// Stands before a server, cuts the first update off, and keeps all updates that come.
async fn meddle(server: SocketAddr, cut: Cut) -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let updates = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&updates);
    task::spawn("meddle", async move {
        while let Ok((client, _)) = listener.accept().await {
            let upstream = TcpStream::connect(server).await.unwrap();
            // A connection that ends is the end of this one alone.
            let _ended = relay(client, upstream, cut, &kept).await;
        }
    });
    (address, updates)
}

async fn relay(
    mut client: TcpStream,
    mut upstream: TcpStream,
    cut: Cut,
    updates: &Mutex<Vec<Vec<u8>>>,
) -> std::io::Result<()> {
    loop {
        let mut question = vec![0; usize::from(client.read_u16().await?)];
        client.read_exact(&mut question).await?;
        let is_update = question[2] & 0x78 == 5 << 3;
        let first = is_update && updates.lock().unwrap().is_empty();
        if is_update {
            updates.lock().unwrap().push(question.clone());
        }
        if first && cut == Cut::Before {
            return Ok(());
        }
        upstream.write_u16(u16::try_from(question.len()).unwrap()).await?;
        upstream.write_all(&question).await?;
        let mut answer = vec![0; usize::from(upstream.read_u16().await?)];
        upstream.read_exact(&mut answer).await?;
        if first {
            return Ok(());
        }
        client.write_u16(u16::try_from(answer.len()).unwrap()).await?;
        client.write_all(&answer).await?;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn external_dns_6733_each_try_is_another_message_with_one_signature() {
    for sort in Sort::ALL {
        for cut in [Cut::Before, Cut::After] {
            let daemon = Daemon::primary(sort).await;
            let (address, updates) = meddle(daemon.address, cut).await;
            let target = Target { server: address, ..target(&daemon) };
            let outcome = push(&target, 1, "192.0.2.1").await;
            // What is unknown is read before it is tried again.
            let expected = if cut == Cut::Before { Outcome::Applied } else { Outcome::Present };
            assert_eq!(outcome, Ok(expected), "{sort:?} {cut:?}");
            let updates = updates.lock().unwrap().clone();
            assert_eq!(updates.len(), if cut == Cut::Before { 2 } else { 1 }, "{sort:?} {cut:?}");
            let now_s = (target.clock)();
            let mut macs = BTreeSet::new();
            for update in &updates {
                assert_eq!(update[10..12], [0, 1], "one signature is all that is added");
                macs.insert(target.key.check(update, None, now_s).unwrap().mac);
            }
            assert_eq!(macs.len(), updates.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_kept_at_the_newest_plan_and_what_is_changed_by_hand_comes_back() {
    let daemon = Daemon::primary(Sort::Knot).await;
    let alive = target(&daemon);
    let dead = Target { server: crate::testing::daemon::free(), ..alive.clone() };
    let (plans, receiver) = tokio::sync::watch::channel(None);
    let keeper = Keeper::new(vec![dead.clone().into(), alive.clone().into()], receiver);
    let (pushed, shutdown) = (keeper.pushed(), Shutdown::new());
    let running = task::spawn("a keeper under test", keeper.run(shutdown.clone()));
    let has = async |number: &str| number_of(&daemon).await == number;
    plans.send_replace(Some(Arc::new(Plan::new(draft(1)).unwrap())));
    until("the first plan is there", async || has("1").await).await;
    let mut next = draft(2);
    for region in ["us", "ap"] {
        set_state(&mut next, region, State::Out);
    }
    plans.send_replace(Some(Arc::new(Plan::new(next).unwrap())));
    until("the next plan is there", async || has("2").await).await;
    assert_eq!(address_of(&daemon).await, "192.0.2.1");
    let report = |target: &Target| pushed.reports().remove(&(Server::At(target.server), name(ZONE)));
    let app = name("app.gw.example");
    until("the report says so", async || report(&alive).is_some_and(|report| report.number == 2)).await;
    by_hand(&daemon, "update delete app.gw.example A").await;
    pushed.nudge();
    until("it is repaired", async || {
        report(&alive).is_some_and(|report| report.outcomes[&app] == Ok(Outcome::Repaired))
    })
    .await;
    assert_eq!(address_of(&daemon).await, "192.0.2.1");
    until("the dead one is told of", async || report(&dead).is_some()).await;
    assert!(report(&dead).unwrap().outcomes.values().all(Result::is_err));
    shutdown.begin();
    assert!(tokio::time::timeout(crate::testing::daemon::PATIENCE, running).await.is_ok());
}
