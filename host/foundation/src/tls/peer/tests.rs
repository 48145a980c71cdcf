//! Identities of gateways over connections within this process.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

struct Authority(Issuer<'static, KeyPair>, String);

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    Authority(Issuer::new(params, key), pem)
}

fn name(text: &str) -> RegionName {
    RegionName::new(text).unwrap()
}

/// Writes the files of a gateway.
fn write(authority: &Authority, folder: &Path, uri: &str, until: i32) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    let cert = params.signed_by(&key, &authority.0).unwrap();
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("c"), cert.pem()).unwrap();
    std::fs::write(folder.join("k"), key.serialize_pem()).unwrap();
    std::fs::write(folder.join("ca"), &authority.1).unwrap();
}

fn uri(region: &str) -> String {
    format!("spiffe://example.net/region/{region}/gateway/1")
}

fn read(folder: &Path, region: &str) -> Result<PeerIdentity, Error> {
    PeerIdentity::load(&name(region), &folder.join("c"), &folder.join("k"), &[folder.join("ca")])
}

fn issue(authority: &Authority, folder: &Path, region: &str) -> PeerIdentity {
    write(authority, folder, &uri(region), 4_000);
    read(folder, region).unwrap()
}

type Pair = (
    Guarded<tokio_rustls::server::TlsStream<tokio::io::DuplexStream>>,
    Guarded<tokio_rustls::client::TlsStream<tokio::io::DuplexStream>>,
);

/// Connects; gives whom the server sees, and both ends.
async fn link(
    server: &PeerIdentity,
    client: &PeerIdentity,
    expect: &str,
) -> Result<(RegionName, Pair), String> {
    let (near, far) = tokio::io::duplex(16 * 1024);
    let acceptor = TlsAcceptor::from(server.server_config().unwrap());
    let connector = TlsConnector::from(client.client_config(&name(expect)).unwrap());
    let serve = async {
        let mut stream = acceptor.accept(far).await.map_err(|error| error.to_string())?;
        stream.write_all(b"x").await.map_err(|error| error.to_string())?;
        let chain = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec).unwrap();
        Ok::<_, String>((peer_region(&chain[0]).unwrap(), server.guard(stream, Some(&chain))))
    };
    let ask = async {
        let host = ServerName::try_from("gateway.invalid").unwrap();
        let mut stream = connector.connect(host, near).await.map_err(|error| error.to_string())?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await.map_err(|error| error.to_string())?;
        let chain = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec);
        Ok::<_, String>(client.guard(stream, chain.as_deref()))
    };
    let (served, asked) = tokio::join!(serve, ask);
    let asked = asked?;
    let (region, served) = served?;
    Ok((region, (served, asked)))
}

async fn talk(server: &PeerIdentity, client: &PeerIdentity, expect: &str) -> Result<RegionName, String> {
    link(server, client, expect).await.map(|(region, _)| region)
}

#[tokio::test]
async fn both_sides_prove_their_region_to_the_same_authority() {
    let folder = tempfile::tempdir().unwrap();
    let ours = authority();
    let west = issue(&ours, &folder.path().join("west"), "eu-west");
    let east = issue(&ours, &folder.path().join("east"), "us-east");
    assert_eq!(talk(&east, &west, "us-east").await, Ok(name("eu-west")));
    assert!(talk(&east, &west, "ap-south").await.is_err());
    let stranger = issue(&authority(), &folder.path().join("stranger"), "us-east");
    assert!(talk(&stranger, &west, "us-east").await.is_err());
    assert!(talk(&east, &stranger, "us-east").await.is_err());
}

#[tokio::test]
async fn a_gateway_of_another_domain_is_none_of_ours() {
    let folder = tempfile::tempdir().unwrap();
    let ours = authority();
    let west = issue(&ours, &folder.path().join("west"), "eu-west");
    let other = folder.path().join("other");
    write(&ours, &other, "spiffe://example.org/region/us-east/gateway/1", 4_000);
    let other = read(&other, "us-east").unwrap();
    assert!(talk(&other, &west, "us-east").await.is_err());
    assert!(talk(&west, &other, "eu-west").await.is_err());
}

#[test]
fn an_identity_of_another_region_is_refused_at_load() {
    let folder = tempfile::tempdir().unwrap();
    write(&authority(), folder.path(), &uri("eu-west"), 4_000);
    let error = read(folder.path(), "us-east").unwrap_err().to_string();
    assert!(error.contains("is the certificate of region eu-west"), "{error}");
}

#[tokio::test]
async fn authorities_change_one_after_the_other_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (authority(), authority());
    let places = ["west", "east"].map(|place| folder.path().join(place));
    let (west, east) = (issue(&old, &places[0], "eu-west"), issue(&old, &places[1], "us-east"));
    let (_, (mut served, mut asked)) = link(&east, &west, "us-east").await.unwrap();
    // Both are believed everywhere, then each has a certificate of the new one.
    for (place, identity) in places.iter().zip([&west, &east]) {
        std::fs::write(place.join("ca"), format!("{}{}", new.1, old.1)).unwrap();
        identity.reload().unwrap();
    }
    write(&new, &places[0], &uri("eu-west"), 4_000);
    // Its own folder has lost the old authority again: the other is still known by that one alone.
    std::fs::write(places[0].join("ca"), format!("{}{}", new.1, old.1)).unwrap();
    west.reload().unwrap();
    assert_eq!(talk(&east, &west, "us-east").await, Ok(name("eu-west")));
    assert_eq!(talk(&west, &east, "eu-west").await, Ok(name("us-east")));
    served.write_all(b"y").await.unwrap();
    served.flush().await.unwrap();
    assert_eq!(asked.read_u8().await.unwrap(), b'y', "what is believed still goes on");
    // The old authority is believed no more: who stands on it is cut off, also where it was connected before.
    std::fs::write(places[0].join("ca"), &new.1).unwrap();
    west.reload().unwrap();
    assert_eq!(asked.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionAborted);
    assert!(talk(&east, &west, "us-east").await.is_err());
    assert!(talk(&west, &east, "eu-west").await.is_err());
    write(&new, &places[1], &uri("us-east"), 4_000);
    east.reload().unwrap();
    assert_eq!(talk(&east, &west, "us-east").await, Ok(name("eu-west")));
}

#[tokio::test]
async fn what_nobody_would_believe_replaces_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let ours = authority();
    let places = ["west", "east"].map(|place| folder.path().join(place));
    let (west, east) = (issue(&ours, &places[0], "eu-west"), issue(&ours, &places[1], "us-east"));
    let before = west.status();
    assert_eq!(before.id, uri("eu-west"));
    write(&ours, &places[0], &uri("eu-west"), 2_020);
    let error = west.reload().unwrap_err().to_string();
    assert!(error.contains("portolan pki issue"), "{error}");
    assert_eq!(west.status(), before);
    assert_eq!(talk(&east, &west, "us-east").await, Ok(name("eu-west")));
    // One that starts with it serves its region, says so, and is believed by nobody.
    let expired = read(&places[0], "eu-west").unwrap();
    assert!(expired.status().flaw.is_some());
    assert!(talk(&east, &expired, "us-east").await.is_err());
    // An authority that did not sign it.
    write(&authority(), &places[0], &uri("eu-west"), 4_000);
    std::fs::write(places[0].join("ca"), &ours.1).unwrap();
    assert!(west.reload().is_err());
    assert_eq!(west.status(), before);
}
