//! What is signed validates, by BIND's validator and by another library.

use std::net::SocketAddr;
use std::sync::Arc;

use hickory_proto::op::Message;
use hickory_proto::rr::{RData, RecordType};

use super::{Running, config, local};
use crate::plan::Plan;
use crate::server::respond::Transport;
use crate::server::{Config, Secondary};
use crate::sign::{Key, Keys, Set, Signed};
use crate::testing::daemon::{dig, run};
use crate::testing::{ZONE, draft, name, name_mut, region};

pub(super) async fn signed_server(
    folder: &std::path::Path,
    secondaries: Vec<Secondary>,
) -> (Running, Arc<Key>) {
    let key = Arc::new(Key::create(&folder.join("zone.pem")).unwrap());
    let keys = Keys::from([(name(ZONE), Arc::clone(&key))]);
    let server = Running::start(Config { keys, secondaries, ..config(&folder.join("plans")) }).await;
    let mut draft = draft(5);
    name_mut(&mut draft, "two.deep.gw.example")
        .addresses
        .get_mut(&region("eu"))
        .unwrap()
        .push("192.0.2.77".parse().unwrap());
    server.handle.publish(Plan::new(draft).unwrap()).await.unwrap();
    (server, key)
}

/// Validates with BIND's `delv`, which is told of the zone's key.
pub(super) async fn validate(
    folder: &std::path::Path,
    key: &Key,
    server: SocketAddr,
    of: &str,
    kind: &str,
) -> String {
    let delegation = key.delegation(&name(ZONE));
    let rest: Vec<&str> = delegation.split_whitespace().skip(3).collect();
    let [tag, algorithm, digest, hash] = rest[..] else { panic!("{delegation}") };
    let anchor = folder.join("anchor");
    let text = format!("trust-anchors {{ {ZONE}. static-ds {tag} {algorithm} {digest} \"{hash}\"; }};\n");
    std::fs::write(&anchor, text).unwrap();
    let (at, port, file) =
        (format!("@{}", server.ip()), server.port().to_string(), anchor.display().to_string());
    let root = format!("+root={ZONE}");
    run("delv", &[&at, "-p", &port, "-a", &file, &root, of, kind]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_signed_validates_also_what_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let (server, key) = signed_server(folder.path(), Vec::new()).await;
    for (of, kind, expected) in [
        ("app.gw.example", "A", "; fully validated"),
        ("app.gw.example", "AAAA", "; fully validated"),
        ("two.deep.gw.example", "A", "; fully validated"),
        ("_epoch.app.gw.example", "TXT", "; fully validated"),
        ("gw.example", "SOA", "; fully validated"),
        ("gw.example", "NS", "; fully validated"),
        ("gw.example", "DNSKEY", "; fully validated"),
        ("ns1.gw.example", "A", "; fully validated"),
        ("app.gw.example", "NSEC", "; fully validated"),
        ("app.gw.example", "HTTPS", "; negative response, fully validated"),
        ("deep.gw.example", "A", "; negative response, fully validated"),
        ("nobody.gw.example", "A", "; negative response, fully validated"),
        ("zzz.two.deep.gw.example", "A", "; negative response, fully validated"),
        ("0.gw.example", "AAAA", "; negative response, fully validated"),
    ] {
        let told = validate(folder.path(), &key, server.address, of, kind).await;
        assert!(told.contains(expected), "{of} {kind}: {told}");
    }
    let told = dig(server.address, &["+dnssec", "app.gw.example"]).await;
    assert!(told.contains("RRSIG\tA 13 3 30 "), "{told}");
    // Without being asked for, signatures are not sent.
    assert!(!dig(server.address, &["app.gw.example"]).await.contains("RRSIG"));
    // A lower time to live is served under the same signature.
    server.handle.suspect([&region("eu"), &region("us"), &region("ap")]);
    let told = validate(folder.path(), &key, server.address, "app.gw.example", "A").await;
    assert!(told.contains("; fully validated") && told.contains("\t5\tIN\tA"), "{told}");
    server.stop().await;
}

#[test]
fn signatures_are_renewed_at_half_of_their_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let key = Key::create(&path).unwrap();
    assert_eq!(Key::read(&path).unwrap().tag(), key.tag());
    assert!(Key::create(&path).is_err(), "a key was overwritten");
    let plan = Plan::new(draft(1)).unwrap();
    let keys = Keys::from([(name(ZONE), Arc::new(key))]);
    let signed = Signed::new(&plan, &keys, 1_000_000_000, None).unwrap();
    let day = 24 * 3_600;
    assert!(!signed.is_due(1_000_000_000) && !signed.is_due(1_000_000_000 + 7 * day - 1));
    assert!(signed.is_due(1_000_000_000 + 7 * day));
    // One of each address, a pair of each two where two are told, and all for secondaries; then what never changes.
    assert!(signed.count() > 2 * (4 * 3 + 3 + 4), "{}", signed.count());
    // What the next plan says again is not signed again, until it is due: another signature would be another one.
    let next = Plan::new(draft(2)).unwrap();
    let later = Signed::new(&next, &keys, 1_000_000_000 + day, Some(&signed)).unwrap();
    let due = Signed::new(&next, &keys, 1_000_000_000 + 7 * day, Some(&signed)).unwrap();
    let of = |signed: &Signed| signed.signature(&Set::Link { at: 0, zone: 0 }).unwrap().to_vec();
    assert!(of(&signed) == of(&later) && of(&signed) != of(&due));
    assert!(later.is_due(1_000_000_000 + 7 * day) && !due.is_due(1_000_000_000 + 13 * day));
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(Key::read(&path).unwrap_err().to_string().contains("chmod 600"));
}

#[test]
fn our_signatures_are_what_another_library_would_make() {
    use hickory_proto::dnssec::rdata::DNSSECRData;
    use hickory_proto::dnssec::{TBS, Verifier as _};

    let ask = |kind: u8, of: &[u8]| {
        let mut packet = b"\0\x07\x01\0\0\x01\0\0\0\0\0\x01".to_vec();
        packet.extend(of);
        packet.extend([0, kind, 0, 1]);
        packet.extend(b"\0\0\x29\x04\xd0\0\0\x80\0\0\0");
        Message::from_vec(&local(&packet, Transport::Tcp, true).unwrap()).unwrap()
    };
    let keys = ask(48, b"\x02gw\x07example\0");
    let key = keys.answers.iter().find_map(|record| match &record.data {
        RData::DNSSEC(DNSSECRData::DNSKEY(key)) => Some(key.clone()),
        _ => None,
    });
    let key = key.unwrap();
    let answer = ask(1, b"\x03two\x04deep\x02gw\x07example\0");
    let sig = answer.answers.iter().find_map(|record| match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(sig)) => Some(sig.clone()),
        _ => None,
    });
    let sig = sig.unwrap();
    let records: Vec<_> =
        answer.answers.iter().filter(|record| record.record_type() == RecordType::A).cloned().collect();
    assert_eq!(records.len(), 2);
    let name = records[0].name.clone();
    let tbs = TBS::from_input(&name, hickory_proto::rr::DNSClass::IN, sig.input(), records.iter()).unwrap();
    assert!(key.verify(tbs.as_ref(), sig.sig()).is_ok());
    assert_eq!(key.calculate_key_tag().unwrap(), sig.input().key_tag);
}
