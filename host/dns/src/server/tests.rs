//! The server as clients and secondaries see it: by `dig`, `delv`, Knot and NSD, and by packets that nobody sane would send.

mod signed;

use std::net::SocketAddr;
use std::num::NonZeroU32;

use hickory_proto::op::{Message, ResponseCode};
use portolan_core::exercise::mutated;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use self::signed::{signed_server, validate};
use super::respond::{Outcome, Transport, respond};
use super::*;
use crate::defaults::{CONNECTIONS_PER_NETWORK, UDP_BYTES_MAX};
use crate::plan::State;
use crate::sign::Key;
use crate::testing::daemon::{Daemon, SECRET, WRONG_SECRET, dig, key, until};
use crate::testing::{ZONE, draft, name, region, set_state};

/// How many changed packets are tried.
const MUTATIONS: u64 = 200_000;

struct Running {
    address: SocketAddr,
    handle: Handle,
    serving: JoinHandle<Option<()>>,
    shutdown: Shutdown,
}

fn config(folder: &std::path::Path) -> Config {
    let many = NonZeroU32::new(1_000_000).unwrap();
    Config {
        folder: folder.to_owned(),
        keys: Keys::new(),
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        rate: Rate { per_second: many, burst: many },
        region: region("eu"),
        secondaries: Vec::new(),
        workers: 2,
    }
}

impl Running {
    async fn start(config: Config) -> Self {
        let server = Server::open(config).await.unwrap();
        let (address, handle, shutdown) = (server.addresses()[0], server.handle(), Shutdown::new());
        let serving = task::spawn("a server under test", server.run(shutdown.clone()));
        Self { address, handle, serving, shutdown }
    }

    async fn with_plan(folder: &std::path::Path, draft: Draft) -> Self {
        let running = Self::start(config(folder)).await;
        running.handle.publish(Plan::new(draft).unwrap()).await.unwrap();
        running
    }

    async fn stop(self) {
        self.shutdown.begin();
        tokio::time::timeout(Duration::from_secs(10), self.serving).await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_told_what_the_plan_says() {
    let folder = tempfile::tempdir().unwrap();
    let server = Running::with_plan(folder.path(), draft(42)).await;
    let ask = |arguments: &'static [&'static str]| dig(server.address, arguments);
    assert_eq!(ask(&["+short", "first.gw.example"]).await, "192.0.2.2\n");
    assert_eq!(ask(&["+short", "+tcp", "FIRST.gw.Example", "AAAA"]).await, "2001:db8::2\n");
    let told = ask(&["near.gw.example", "+subnet=198.51.100.77/32"]).await;
    assert!(told.contains("CLIENT-SUBNET: 198.51.100.77/32/24"), "{told}");
    assert!(told.contains("192.0.2.3") && told.contains("flags: qr aa rd"), "{told}");
    let told = ask(&["first.gw.example", "+subnet=198.51.100.0/24"]).await;
    assert!(told.contains("CLIENT-SUBNET: 198.51.100.0/24/0"), "{told}");
    let told = ask(&["first.gw.example", "+subnet=0"]).await;
    assert!(told.contains("/0/0") && told.contains("NOERROR"), "{told}");
    assert!(ask(&["first.gw.example", "+nsid"]).await.contains("(\"eu 42\")"));
    assert_eq!(ask(&["+short", "_epoch.app.gw.example", "TXT"]).await, "\"42\"\n");
    let told = ask(&["nobody.gw.example"]).await;
    assert!(told.contains("NXDOMAIN") && told.contains("hostmaster.example. 42 60 15 1209600 20"), "{told}");
    let told = ask(&["app.gw.example", "HTTPS"]).await;
    assert!(told.contains("NOERROR") && told.contains("ANSWER: 0, AUTHORITY: 1"), "{told}");
    assert!(ask(&["gw.example", "NS"]).await.contains("ns1.gw.example.\t\t3600\tIN\tA\t127.0.0.1"));
    assert!(ask(&["app.gw.example", "ANY"]).await.contains("ANSWER: 1,"));
    assert!(ask(&["example.org"]).await.contains("status: REFUSED"));
    assert!(ask(&["version.bind", "CH", "TXT"]).await.contains("status: REFUSED"));
    assert!(ask(&["+opcode=notify", "gw.example", "SOA"]).await.contains("status: NOTIMP"));
    assert!(ask(&["+noedns", "app.gw.example"]).await.contains("status: NOERROR"));
    assert!(ask(&["+edns=1", "+noednsnegotiation", "app.gw.example"]).await.contains("status: BADVERS"));
    let two = ask(&["+short", "two.deep.gw.example"]).await;
    assert_eq!(two.lines().count(), 2, "{two}");
    let report = server.handle.status().report;
    assert!(
        report.answered > 8 && report.refused == 2 && report.denied == 1 && report.wrong >= 2,
        "{report:?}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn facebook_2021_a_server_that_is_cut_off_answers_from_its_last_plan() {
    let folder = tempfile::tempdir().unwrap();
    let mut all_dead = draft(7);
    let server = Running::with_plan(folder.path(), draft(6)).await;
    for region in ["eu", "us", "ap"] {
        set_state(&mut all_dead, region, State::Out);
    }
    // As in the outage of 2021, everything looks dead from here.
    server.handle.publish(Plan::new(all_dead).unwrap()).await.unwrap();
    assert_eq!(dig(server.address, &["+short", "first.gw.example"]).await, "192.0.2.2\n");
    server.stop().await;
    let server = Running::start(config(folder.path())).await;
    assert_eq!(dig(server.address, &["+short", "first.gw.example"]).await, "192.0.2.2\n");
    assert_eq!(server.handle.status().number, Some(7));
    server.stop().await;
    // A disk that lost bytes: the plan before it.
    let newest = folder.path().join("7.json");
    let mut bytes = std::fs::read(&newest).unwrap();
    let last = bytes.len() - 10;
    bytes[last] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    let server = Running::start(config(folder.path())).await;
    assert_eq!(server.handle.status().number, Some(6));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_plan_is_not_taken_and_a_disk_that_fails_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let server = Running::with_plan(folder.path(), draft(9)).await;
    let publish = |draft: Draft| server.handle.publish(Plan::new(draft).unwrap());
    assert!(matches!(publish(draft(8)).await, Err(Error::Stale { present: 9, stale: 8 })));
    assert!(publish(draft(9)).await.is_ok());
    let mut other = draft(9);
    set_state(&mut other, "us", State::Out);
    assert!(matches!(publish(other).await, Err(Error::Twice(9))));
    std::fs::remove_dir_all(folder.path()).unwrap();
    assert!(publish(draft(10)).await.is_ok());
    let status = server.handle.status();
    assert!(status.number == Some(10) && status.saving.is_some(), "{status:?}");
    std::fs::create_dir(folder.path()).unwrap();
    server.handle.adopt(Plan::new(draft(3)).unwrap()).await.unwrap();
    let status = server.handle.status();
    assert!(status.number == Some(3) && status.saving.is_none(), "{status:?}");
    assert_eq!(last_plan(folder.path()).unwrap().unwrap(), draft(3));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspicion_lowers_the_time_to_live_until_it_is_lifted() {
    let folder = tempfile::tempdir().unwrap();
    let server = Running::with_plan(folder.path(), draft(1)).await;
    let ttl = async || {
        let told = dig(server.address, &["+noall", "+answer", "app.gw.example"]).await;
        told.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(ttl().await, "30");
    server.handle.suspect([&region("us")]);
    assert_eq!(ttl().await, "5");
    server.handle.publish(Plan::new(draft(2)).unwrap()).await.unwrap();
    assert_eq!(ttl().await, "5");
    server.handle.suspect([]);
    assert_eq!(ttl().await, "30");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_plan_another_server_is_to_be_asked() {
    let folder = tempfile::tempdir().unwrap();
    let server = Running::start(config(folder.path())).await;
    assert!(dig(server.address, &["app.gw.example"]).await.contains("status: SERVFAIL"));
    assert!(dig(server.address, &["+tcp", "app.gw.example"]).await.contains("status: SERVFAIL"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_asks_too_much_is_sent_to_tcp() {
    let folder = tempfile::tempdir().unwrap();
    let few = NonZeroU32::new(1).unwrap();
    let server =
        Running::start(Config { rate: Rate { per_second: few, burst: few }, ..config(folder.path()) }).await;
    server.handle.publish(Plan::new(draft(1)).unwrap()).await.unwrap();
    // `dig` follows a truncated answer to TCP.
    for _ in 0..4 {
        let told = dig(server.address, &["+short", "first.gw.example"]).await;
        assert!(told.ends_with("192.0.2.2\n"), "{told}");
    }
    let report = server.handle.status().report;
    assert!(report.slipped + report.held_back >= 2, "{report:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_a_network_are_few_and_do_not_stay() {
    let folder = tempfile::tempdir().unwrap();
    let server = Running::with_plan(folder.path(), draft(1)).await;
    let mut held = Vec::new();
    for _ in 0..=CONNECTIONS_PER_NETWORK {
        held.push(TcpStream::connect(server.address).await.unwrap());
    }
    until("the last connection is refused", async || server.handle.status().report.connections_refused == 1)
        .await;
    let mut last = held.pop().unwrap();
    let mut byte = [0];
    assert!(matches!(last.read(&mut byte).await, Ok(0) | Err(_)));
    // Questions may come one after the other, in pieces.
    let mut first = held.swap_remove(0);
    let question = b"\0\x1d\0\x07\x01\0\0\x01\0\0\0\0\0\0\x05first\x02gw\x07example\0\0\x01\0\x01";
    let length = question.len() - 2;
    let mut question = question.to_vec();
    question[1] = u8::try_from(length).unwrap();
    for _ in 0..3 {
        for piece in question.chunks(5) {
            first.write_all(piece).await.unwrap();
        }
        let length = first.read_u16().await.unwrap();
        let mut answer = vec![0; usize::from(length)];
        first.read_exact(&mut answer).await.unwrap();
        assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 1);
    }
    drop((held, first));
    assert_eq!(dig(server.address, &["+tcp", "+short", "first.gw.example"]).await, "192.0.2.2\n");
    server.stop().await;
}

/// What a packet is answered with, without sockets.
fn local(packet: &[u8], transport: Transport, signed: bool) -> Option<Vec<u8>> {
    use std::sync::OnceLock;
    static PLAN: OnceLock<(Arc<Served>, Arc<Served>)> = OnceLock::new();
    let (plain, with_keys) = PLAN.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::from([(name(ZONE), Arc::new(Key::create(&folder.path().join("key")).unwrap()))]);
        let plan = Arc::new(Plan::new(draft(1)).unwrap());
        let signed = Arc::new(Signed::new(&plan, &keys, clock::unix_ms() / 1_000, None).unwrap());
        let served = |signed| {
            let plan = Arc::clone(&plan);
            Arc::new(Served {
                geography: None,
                nsid: (*b"eu 1").into(),
                plan,
                signed,
                suspected: Regions::NONE,
            })
        };
        (served(None), served(Some(signed)))
    });
    let many = NonZeroU32::new(1_000_000).unwrap();
    let (counters, limiter) = (Counters::default(), Limiter::new(Rate { per_second: many, burst: many }));
    let served = if signed { with_keys } else { plain };
    let around = Around {
        counters: &counters,
        limiter: &limiter,
        now: clock::now(),
        now_ms: clock::unix_ms(),
        served,
    };
    let mut out = Vec::new();
    match respond(around, packet, "192.0.2.9".parse().unwrap(), transport, &mut out) {
        Outcome::Dropped => None,
        Outcome::Ready => Some(out),
        Outcome::Guarded => {
            let secondaries =
                [Secondary { from: "127.0.0.0/8".parse().unwrap(), key: key("copies"), notify: None }];
            let now_s = clock::unix_ms() / 1_000;
            let from = "127.0.0.1".parse().unwrap();
            transfer::respond(around, &secondaries, packet, from, transport, now_s).into_iter().next()
        }
    }
}

#[test]
fn no_packet_makes_it_panic_or_answer_at_length() {
    let question = |kind: u8| {
        let mut packet = b"\0\x07\x01\0\0\x01\0\0\0\0\0\x01\x03two\x04deep\x02gw\x07example\0\0".to_vec();
        packet.extend([kind, 0, 1]);
        packet.extend(b"\0\0\x29\x04\xd0\0\0\x80\0\0\x0f\0\x03\0\0\0\x08\0\x07\0\x01\x18\0\xc6\x33\x64");
        packet
    };
    let mut signed = b"\0\x07\0\0\0\x01\0\0\0\0\0\0\x02gw\x07example\0\0\xfc\0\x01".to_vec();
    let now_s = clock::unix_ms() / 1_000;
    key("copies").seal(&mut signed, None, false, now_s, crate::tsig::Trouble::default()).unwrap();
    let seeds = [question(1), question(28), question(255), question(48), question(16), signed];
    let seeds: Vec<&[u8]> = seeds.iter().map(|seed| &**seed).collect();
    for seed in &seeds {
        assert!(local(seed, Transport::Tcp, true).is_some(), "{seed:?}");
    }
    let mut answered = 0_u64;
    mutated(&seeds, MUTATIONS, |packet| {
        let transport = if packet.len() % 3 == 0 { Transport::Tcp } else { Transport::Udp };
        let Some(answer) = local(packet, transport, packet.len() % 2 == 0) else { return };
        answered += 1;
        assert!(transport == Transport::Tcp || answer.len() <= UDP_BYTES_MAX + 512, "{packet:?}");
        let read =
            Message::from_vec(&answer).unwrap_or_else(|error| panic!("{error}: {packet:?} {answer:?}"));
        assert_eq!(answer[..2], packet[..2]);
        assert!(read.metadata.message_type == hickory_proto::op::MessageType::Response);
    });
    assert!(answered > MUTATIONS / 20, "only {answered} were answered");
}

#[test]
fn what_does_not_fit_is_truncated_whole() {
    let packet =
        b"\0\x07\x01\0\0\x01\0\0\0\0\0\x01\x02gw\x07example\0\0\x02\0\x01\0\0\x29\x02\0\0\0\x80\0\0\0";
    let whole = Message::from_vec(&local(packet, Transport::Tcp, true).unwrap()).unwrap();
    assert!(!whole.metadata.truncation && whole.answers.len() == 3);
    let small = local(
        b"\0\x07\x01\0\0\x01\0\0\0\0\0\x01\x01x\x02gw\x07example\0\0\x01\0\x01\0\0\x29\x02\0\0\0\x80\0\0\0",
        Transport::Udp,
        true,
    )
    .unwrap();
    let read = Message::from_vec(&small).unwrap();
    assert_eq!(read.metadata.response_code, ResponseCode::NXDomain);
    assert!(read.metadata.truncation == read.authorities.is_empty() && small.len() <= 512);
}

fn secondary(notify: Option<SocketAddr>) -> Secondary {
    Secondary { from: "127.0.0.0/8".parse().unwrap(), key: key("copies"), notify }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_is_handed_out_to_those_with_the_key_only() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = Secondary { from: "192.0.2.0/24".parse().unwrap(), key: key("elsewhere"), notify: None };
    let (server, _) = signed_server(folder.path(), vec![secondary(None), elsewhere]).await;
    let ask = |secret: &'static str, name: &'static str, kind: &'static str| async move {
        let key = format!("hmac-sha256:{name}:{secret}");
        let rest: &[&str] = &["-y", &key, "+onesoa", "+tcp", "gw.example", kind];
        dig(server.address, rest).await
    };
    let told = ask(SECRET, "copies", "AXFR").await;
    assert!(told.contains("two.deep.gw.example.\t30\tIN\tA\t192.0.2.77"), "{told}");
    assert!(told.contains("NSEC") && told.contains("XFR size") && !told.contains("failed"), "{told}");
    // Several addresses of a name, all in one set for secondaries.
    let fields = |line: &str| line.split_whitespace().take(4).collect::<Vec<_>>().join(" ");
    let count = told.lines().filter(|line| fields(line) == "app.gw.example. 30 IN A").count();
    assert_eq!(count, 3);
    let told = ask(SECRET, "copies", "IXFR=5").await;
    assert!(told.contains("SOA") && !told.contains("app.gw.example"), "{told}");
    let told = ask(SECRET, "copies", "SOA").await;
    assert!(told.contains("TSIG") && told.contains("NOERROR") && !told.contains("Couldn't verify"), "{told}");
    for (secret, name, said) in [
        (WRONG_SECRET, "copies", "BADSIG"),
        (SECRET, "stranger", "BADKEY"),
        (SECRET, "elsewhere", "Transfer failed"),
    ] {
        let told = ask(secret, name, "AXFR").await;
        assert!(!told.contains("192.0.2") && told.contains("Transfer failed"), "{name} {said}: {told}");
        if said != "Transfer failed" {
            let told = ask(secret, name, "SOA").await;
            assert!(told.contains("NOTAUTH"), "{told}");
        }
    }
    let told = dig(server.address, &["+tcp", "gw.example", "AXFR"]).await;
    assert!(told.contains("Transfer failed") && !told.contains("192.0.2"), "{told}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secondaries_follow_what_is_published() {
    for which in ["knot", "nsd"] {
        let folder = tempfile::tempdir().unwrap();
        // The secondary must know where we are, and we where it is: ours first, then again at the same place.
        let first = Running::start(config(&folder.path().join("plans"))).await;
        let address = first.address;
        first.stop().await;
        let daemon = match which {
            "knot" => Daemon::knot_secondary(address).await,
            _ => Daemon::nsd_secondary(address).await,
        };
        let zone_key = Arc::new(Key::create(&folder.path().join("zone.pem")).unwrap());
        let server = Running::start(Config {
            keys: Keys::from([(name(ZONE), Arc::clone(&zone_key))]),
            listen: vec![address],
            secondaries: vec![secondary(Some(daemon.address))],
            ..config(&folder.path().join("plans"))
        })
        .await;
        server.handle.publish(Plan::new(draft(11)).unwrap()).await.unwrap();
        let number = async || dig(daemon.address, &["+short", "_epoch.app.gw.example", "TXT"]).await;
        until("the secondary has the first plan", async || number().await == "\"11\"\n").await;
        let mut next = draft(12);
        set_state(&mut next, "us", State::Out);
        server.handle.publish(Plan::new(next).unwrap()).await.unwrap();
        until("the secondary has the next plan", async || number().await == "\"12\"\n").await;
        let told = dig(daemon.address, &["+short", "first.gw.example"]).await;
        assert!(told.contains("192.0.2.1") && !told.contains("192.0.2.2"), "{which}: {told}");
        let told = validate(folder.path(), &zone_key, daemon.address, "first.gw.example", "A").await;
        assert!(told.contains("; fully validated"), "{which}: {told}");
        let told = validate(folder.path(), &zone_key, daemon.address, "nobody.gw.example", "A").await;
        assert!(told.contains("; negative response, fully validated"), "{which}: {told}");
        assert!(server.handle.status().report.transfers >= 2, "{which}");
        server.stop().await;
    }
}
