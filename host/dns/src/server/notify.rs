//! Telling a secondary that there is another plan (NOTIFY, RFC 1996), signed.
//!
//! What wakes it: a plan that was published. What it reads: the plan. What it writes: a datagram for each zone, again until the secondary
//! says that it was told. On failure nothing is lost: the secondary asks by itself, later.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::{clock, random};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::{Secondary, Shared};
use crate::defaults::{NOTIFY_TIMEOUT, NOTIFY_TRIES};
use crate::name::Name;
use crate::tsig::Trouble;
use crate::wire::{class, flag, kind};

/// NOTIFY, in a header's flags, with the bit that says that we speak for the zone.
const FLAGS: u16 = 4 << 11 | flag::AUTHORITATIVE;
/// An answer has no more than this that would be looked at.
const ANSWER_BYTES: usize = 1_024;

/// Tells a secondary of each plan until the end. A newer plan takes the place of one that it was not told of yet.
pub(super) async fn keep(secondary: Secondary, shared: Arc<Shared>, end: Shutdown) {
    let Some(address) = secondary.notify else { return };
    let mut published = shared.published.subscribe();
    published.mark_changed();
    loop {
        // Both are cancel-safe.
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            () = end.begun() => return,
        }
        let number = *published.borrow_and_update();
        let Some(plan) =
            number.and_then(|_| shared.served.load().as_ref().map(|served| Arc::clone(&served.plan)))
        else {
            continue;
        };
        for zone in plan.zones() {
            let told = tokio::select! {
                told = tell(&secondary, address, zone) => told,
                changed = published.changed() => {
                    if changed.is_err() { return }
                    published.mark_changed();
                    break;
                }
                () = end.begun() => return,
            };
            if let Err(problem) = told {
                tracing::warn!(%address, %zone, problem, "a secondary was not told of a DNS plan; it asks by itself later");
            }
        }
    }
}

/// Tells of one zone, several times if need be; each time with another number and signature.
async fn tell(secondary: &Secondary, address: SocketAddr, zone: &Name) -> Result<(), String> {
    let from = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let text = |error: std::io::Error| error.to_string();
    let mut patience = NOTIFY_TIMEOUT;
    let mut problem = "it does not answer".to_owned();
    for _ in 0..NOTIFY_TRIES {
        let socket = UdpSocket::bind(from).await.map_err(text)?;
        socket.connect(address).await.map_err(text)?;
        let id = (random::u64() & 0xffff) as u16;
        let mut message = Vec::new();
        for field in [id, FLAGS, 1, 0, 0, 0] {
            message.extend(field.to_be_bytes());
        }
        message.extend_from_slice(zone.wire());
        message.extend(kind::SOA.to_be_bytes());
        message.extend(class::IN.to_be_bytes());
        let now_s = clock::unix_ms() / 1_000;
        if secondary.key.seal(&mut message, None, false, now_s, Trouble::default()).is_none() {
            return Err("the message cannot be signed".to_owned());
        }
        match timeout(patience, ask(&socket, &message, id)).await {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(code)) => {
                problem = format!("it answers with the code {code}: look at its allowed notifiers and keys")
            }
            Ok(Err(error)) => problem = error.to_string(),
            Err(_) => {}
        }
        // What came back at once is asked again no sooner than what did not come back.
        tokio::time::sleep(patience / 4).await;
        patience = patience.saturating_mul(2);
    }
    Err(problem)
}

async fn ask(socket: &UdpSocket, message: &[u8], id: u16) -> std::io::Result<u8> {
    socket.send(message).await?;
    let mut answer = [0; ANSWER_BYTES];
    loop {
        let length = socket.recv(&mut answer).await?;
        let head = answer.get(..length).and_then(|answer| answer.get(..4));
        let Some([high, low, flags, code]) = head else { continue };
        if [*high, *low] == id.to_be_bytes() && flags & 0x80 != 0 {
            return Ok(code & 0xf);
        }
    }
}
