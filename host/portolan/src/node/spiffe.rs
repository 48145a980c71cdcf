//! This node's identity from an agent of SPIFFE's Workload API, such as SPIRE's: the agent knows the process by what the kernel says of it, so that no key
//! lies in a file.
//!
//! What wakes it: the agent, which offers another identity long before the last one ends. What it reads: that. What it writes: the identity that links
//! between regions use from their next handshake on. While the agent is away the last identity stays until it ends; the library asks again.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use portolan_core::ids::RegionName;
use portolan_foundation::task;
use portolan_foundation::tls::{GatewayId, Offer, PeerIdentity};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use spiffe::{X509Context, X509Source, X509Svid};

/// How long the agent may take to say who this node is, when the node starts.
const FIRST: Duration = Duration::from_secs(10);

/// The identity that the agent offers, and each one that it offers after that.
///
/// # Errors
/// When the agent is not reached, or has no identity for a gateway of this region.
pub(super) async fn identity(region: &RegionName, socket: &Path) -> anyhow::Result<PeerIdentity> {
    let source = X509Source::builder()
        .endpoint(format!("unix://{}", socket.display()))
        .initial_sync_timeout(FIRST)
        .build()
        .await
        .with_context(|| {
            format!(
                "no identity from the agent at {}: it must run, and have an entry that gives this process \
                 spiffe://DOMAIN/region/{region}/gateway/NAME",
                socket.display()
            )
        })?;
    let identity = PeerIdentity::offered(region, offer(&source, region)?, socket)?;
    let (renewed, region) = (identity.clone(), region.clone());
    task::spawn("spiffe", async move {
        let mut updates = source.updated();
        while updates.changed().await.is_ok() {
            let taken = offer(&source, &region).and_then(|offer| Ok(renewed.renew(offer)?));
            match taken {
                Ok(()) => tracing::info!(identity = renewed.status().id, "another identity is used"),
                Err(error) => tracing::error!("the last identity stays: {error:#}"),
            }
        }
    });
    Ok(identity)
}

/// What the agent offers now.
fn offer(source: &X509Source, region: &RegionName) -> anyhow::Result<Offer> {
    let context = source.x509_context().context("the agent offers nothing")?;
    let Some(svid) = context.svids().iter().find(|svid| is_of(svid, region)) else {
        let offered: Vec<String> = context.svids().iter().map(|svid| svid.spiffe_id().to_string()).collect();
        bail!("the agent offers {offered:?}, and no spiffe://DOMAIN/region/{region}/gateway/NAME");
    };
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.private_key().as_bytes().to_vec()));
    Ok(Offer { authorities: authorities(&context, svid)?, chain: chain(svid), key })
}

/// Those of the gateway's own trust domain: no other domain is known between regions.
fn authorities(context: &X509Context, svid: &X509Svid) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let domain = svid.spiffe_id().trust_domain();
    let bundle = context.bundle_set().get(domain);
    let bundle = bundle.with_context(|| format!("the agent has no authorities of {domain}"))?;
    Ok(bundle.authorities().iter().map(|one| CertificateDer::from(one.as_bytes().to_vec())).collect())
}

fn chain(svid: &X509Svid) -> Vec<CertificateDer<'static>> {
    svid.cert_chain().iter().map(|one| CertificateDer::from(one.as_bytes().to_vec())).collect()
}

/// Is it a gateway's of this region?
fn is_of(svid: &X509Svid, region: &RegionName) -> bool {
    let leaf = CertificateDer::from(svid.leaf().as_bytes().to_vec());
    GatewayId::of(&leaf).is_ok_and(|id| id.region() == region)
}
