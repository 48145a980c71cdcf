//! The admin side's listeners: the node's own socket, TCP where the operator wants it, and metrics.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use portolan_admin::backend::Backends;
use portolan_admin::{Admission, Api, Bindings, Events, Keys, Oidc, Router, Settings, serve_tcp, serve_unix};
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::tls::{self, CertificateFiles, CertificateStore, ClientAuth};
use portolan_foundation::{net, task};
use tokio::net::{TcpListener, UnixListener};

use super::admin::Admin;
use super::cache::Purger;
use super::changes::Changes;
use super::plugins::Versions;
use crate::config::{AdminConfig, Config, OidcKeys};
use crate::rollout::act::Place;
use crate::rollout::backend::Orders;

/// How often the admin listener's certificate is read again.
const RELOAD_EVERY: std::time::Duration = std::time::Duration::from_secs(60);

/// Starts all of them; the one of metrics answers already.
///
/// # Errors
/// When an address or a file cannot be used.
pub(super) fn start(
    config: &Config,
    mut admin: Admin,
    events: Events,
    path: &Path,
    environment: &[(String, String)],
    socket: &Path,
    metrics: Option<TcpListener>,
) -> anyhow::Result<()> {
    let unix = UnixListener::from_std(net::listen_unix(socket)?).context("use the admin socket")?;
    if let Some(listener) = metrics {
        task::spawn("metrics-listener", admin.clone().serve_metrics(listener));
    }
    let shutdown = admin.shutdown.clone();
    let listener = config.listen.admin.map(|address| tcp(address, "the admin API")).transpose()?;
    admin.address = listener.as_ref().and_then(|listener| listener.local_addr().ok());
    let (intended, engine) = (admin.intent.intended(), admin.engine.clone());
    let place = Place { environment: environment.to_vec(), path: path.to_owned() };
    let rollouts = Arc::new(Orders::new(intended.clone(), place));
    let plugins = Versions::of_node(&admin, events.clone(), config, path, environment)?;
    let placing = admin.placing.clone();
    let shards = Some(admin.shards.clone());
    let changes =
        Changes::new(intended, Some(engine), placing, shards, path.to_owned(), environment.to_vec());
    let moves = Arc::new(admin.moves.clone());
    let (audits, conflicts) = (Arc::new(admin.shards.clone()), Arc::new(admin.shards.clone()));
    let purges = Arc::new(Purger { cache: admin.cache.clone(), events: events.clone() });
    let backends = Backends {
        audits,
        conflicts,
        failovers: Arc::new(admin.failover.clone()),
        intent: Arc::new(changes),
        moves,
        node: Arc::new(admin),
        plugins,
        purges,
        rollouts,
    };
    let api = Api::new(backends, events, settings(&config.admin)?);
    let router = Router::new(api);
    if let Some(listener) = listener {
        let tls = config.admin.tls.as_ref().map(|files| server_tls(files, &shutdown)).transpose()?;
        task::spawn("admin-tcp", serve_tcp(router.clone(), listener, tls, shutdown.clone()));
    }
    let admission = Admission { owner: rustix::process::geteuid().as_raw() };
    task::spawn("admin-listener", serve_unix(router, unix, admission, shutdown));
    Ok(())
}

pub(super) fn tcp(address: std::net::SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address);
    let listener = listener.with_context(|| format!("listen on {address} for {what}"))?;
    listener.set_nonblocking(true).with_context(|| format!("use the socket for {what}"))?;
    let listener = TcpListener::from_std(listener).with_context(|| format!("use the socket for {what}"))?;
    let address = listener.local_addr().with_context(|| format!("look at the socket for {what}"))?;
    tracing::info!(%address, "{what}");
    Ok(listener)
}

/// HTTP/1.1 alone: the API's streams are few, and one protocol is less to keep.
fn server_tls(
    files: &crate::config::AdminTls,
    shutdown: &Shutdown,
) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let certificate = CertificateFiles { cert: files.cert.clone(), key: files.key.clone() };
    let store = CertificateStore::load(vec![certificate]).context("read the certificate of the admin API")?;
    let clients = if files.client_ca.is_empty() {
        ClientAuth::Off
    } else {
        ClientAuth::Optional(files.client_ca.clone())
    };
    let config = tls::server_config(&store, &clients).context("read the authorities of admin clients")?;
    let mut config = (*config).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    task::spawn("admin-certificate", keep_fresh(store, shutdown.clone()));
    Ok(Arc::new(config))
}

/// Reads the certificate again now and then: a renewal is taken over, and what does not read leaves the old one.
async fn keep_fresh(store: Arc<CertificateStore>, shutdown: Shutdown) {
    let mut ticks = tokio::time::interval(RELOAD_EVERY);
    loop {
        // Both are cancel-safe.
        tokio::select! {
            () = shutdown.begun() => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = store.reload() {
            tracing::warn!("the certificate of the admin API stays as it is: {error}");
        }
    }
}

fn settings(config: &AdminConfig) -> anyhow::Result<Settings> {
    let oidc = config.oidc.as_ref().map(|oidc| {
        let keys = match &oidc.keys {
            OidcKeys::File(path) => Keys::File(path.clone()),
            OidcKeys::Url(uri) => {
                let tls = tls::upstream_config(oidc.ca.as_deref(), b"http/1.1");
                Keys::Url(uri.clone(), tls.context("read the authorities of the identity provider")?)
            }
        };
        let oidc = Oidc::new(oidc.issuer.clone(), oidc.audience.clone(), keys, oidc.claims.clone());
        anyhow::Ok(Arc::new(oidc.context("use the identity provider")?))
    });
    Ok(Settings {
        bindings: Bindings { certificates: config.certificates.clone(), oidc: oidc.transpose()? },
        hosts: config.hosts.clone(),
        origins: config.origins.clone(),
    })
}
