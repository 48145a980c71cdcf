//! `portolan serve`: one node. Wires the services together, and owns nothing that a service could own.

pub(crate) mod admin;
mod audits;
pub(crate) mod break_glass;
mod cache;
pub(crate) mod changes;
mod conflicts;
mod contents;
pub(crate) mod dns;
mod duties;
mod eraser;
mod externals;
mod failover;
pub(crate) mod geography;
mod herald;
mod intent;
mod listen;
mod moves;
pub(crate) mod plugins;
pub(crate) mod policies;
mod previews;
pub(crate) mod queries;
mod reconcile;
pub(crate) mod recordings;
mod replication;
mod resolving;
mod retention;
pub(crate) mod rollouts;
mod shards;
mod spiffe;
mod starting;
pub(crate) mod status;
mod sweeping;
pub(crate) mod tenancy;
mod topology;
pub(crate) mod usage;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context as _, bail};
use portolan_admin::Events;
use portolan_control::{Components, Health};
use portolan_core::geography::Geography;
use portolan_core::steering::Steering;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::tls::{self, CertificateFiles, CertificateStore, ClientAuth, PeerIdentity};
use portolan_foundation::{clock, task, telemetry};
use portolan_policy::{Compile, Engine};
use portolan_proxy::{
    AccessLog, ClientNetwork, Listener, ListenerKind, LiveSettings, Previewing, Prober, Proxy, Services,
    Settings, Trust,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use self::admin::Admin;
use self::contents::Contents;
use self::dns::Dns;
use self::eraser::Eraser;
use self::failover::Failover;
use self::geography::Atlas;
use self::herald::Herald;
pub(crate) use self::intent::Intent;
use self::moves::Moves;
use self::policies::Sources;
use self::previews::Previews;
use self::reconcile::{Reconciler, Start};
use self::rollouts::Rollouts;
use self::shards::Shards;
use self::starting::{Starting, Waiting};
use crate::config::{self, Config, Loaded, LogFormat};
use crate::failing::Failing;
use crate::merging::Merging;
use crate::placement::Placing;
use crate::rollout::act::Place;

/// The name of the admin socket in the state folder.
pub(crate) const SOCKET: &str = "admin.sock";

/// Serves until a signal ends it.
///
/// # Errors
/// Everything that keeps a node from starting, with what to do.
pub(crate) fn serve(
    path: &Path,
    loaded: Loaded,
    intent: Intent,
    components: Option<Components>,
    environment: Vec<(String, String)>,
    control: &tokio::runtime::Runtime,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let config = &loaded.config;
    let format = match config.log_format {
        LogFormat::Json => telemetry::Format::Json,
        LogFormat::Text => telemetry::Format::Text,
    };
    telemetry::start(&config.log_level, format).map_err(anyhow::Error::msg)?;
    let config = config.clone();
    std::fs::create_dir_all(&config.state)
        .with_context(|| format!("create the state folder {}", config.state.display()))?;
    let certificates = certificates(&config)?;
    let peer = control.block_on(peer(&config))?;
    let threads = threads(&config);
    let engine = Engine::new(engine_config(&config, threads)?).context("start the policy engine")?;
    if let Some(Health::Away { reason, .. } | Health::Damaged { reason }) =
        intent.control(0, None).and_then(|control| control.health)
    {
        tracing::warn!("the last good generation is served: {reason}");
    }
    let rollouts = Rollouts::default();
    let debug = recordings::debug_key(&config)?;
    let previews = Previews::new(engine.clone(), intent.clone(), components.clone(), control.handle(), debug);
    let steering = Arc::<Steering>::default();
    let start = Start {
        certificates: certificates.clone(),
        environment: environment.clone(),
        intent: intent.clone(),
        loaded,
        path: path.to_owned(),
        peer: peer.clone(),
        previews: previews.clone(),
        rollouts: rollouts.clone(),
        sources: Sources::with_components(components, control.handle()),
        steering: Arc::clone(&steering),
        waiting: Waiting::default(),
    };
    let starting = starting(&config, &start.waiting, control)?;
    let mut atlas = Atlas::default();
    let geography = atlas.follow(&config);
    let mut reconciler = Reconciler::start(engine.clone(), start)?;
    let live = Arc::clone(reconciler.live());
    let settings = settings(&config, geography.clone());
    let settings = LiveSettings::new(settings).context("start the data plane")?;
    let recorder = recordings::start(&config, debug, &live)?;
    let recorder = reconciler.record_with(recorder);
    rollouts.compare_with(recorder.clone());
    let placing = Placing::new(Some(engine.clone()), control.handle().clone());
    reconciler.place_with(placing.clone());
    let failing = Failing::new(Some(engine.clone()), control.handle().clone());
    reconciler.fail_with(failing.clone());
    let merging = Merging::new(engine.clone(), control.handle().clone());
    reconciler.merge_with(merging.clone());
    let failover = Failover::new(failing, steering);
    let shards = Shards::new(intent.clone(), failover.clone());
    let (dns, dns_server) = control.block_on(Dns::open(&config))?;
    failover.plan_with(dns.clone());
    dns.locate(geography.as_ref());
    reconciler.locate_with(atlas, dns.clone());
    shards.follow(&config);
    let cache = cache::open(&config)?;
    let contents = Contents::open(&config, &shards, &live, control.handle())?;
    let proxy = portolan_proxy::Config {
        cache: cache.clone().map(|cache| Arc::new(cache) as _),
        services: contents.beside(shards.services(&config, &live, control.handle())?),
        debug: Some(debug.for_purpose(recordings::DEBUG_PURPOSE)),
        previews: Some(Previewing { key: previews.key(), policies: Arc::new(previews.clone()) }),
        recorder: Arc::new(recorder.clone()),
        ..proxy_config(&config, &settings, certificates.as_ref(), peer.clone(), threads)?
    };
    let proxy = Proxy::bind(proxy, Arc::clone(&live)).context("start the data plane")?;
    let replication = control.block_on(async { replication::bind(&config) })?;
    let mut listeners = proxy.handle().addresses().to_vec();
    listeners.extend(replication.iter().filter_map(|listener| listener.local_addr().ok()));
    listeners.extend(dns_server.iter().flat_map(|server| server.addresses().iter().copied()));
    let shutdown = Shutdown::new();
    let meter = usage::Meter::open(&config.state, clock::unix_ms()).context("open the folder of usage")?;
    let meter = Arc::new(Mutex::new(meter));
    let (counting, handle) = (engine.clone(), proxy.handle());
    let events = Events::default();
    let place = Place { environment: environment.clone(), path: path.to_owned() };
    let (own, ending) = (config.name.clone(), shutdown.clone());
    let moves = Moves::new(events.clone(), intent.clone(), own, place, shards.clone(), ending);
    let told = listeners.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let admin = Admin {
        address: None,
        begun,
        cache,
        certificates,
        contents: contents.clone(),
        engine,
        dns: dns.clone(),
        failover: failover.clone(),
        intent: intent.clone(),
        listeners: listeners.iter().map(ToString::to_string).collect(),
        live: Arc::clone(&live),
        moves: moves.clone(),
        proxy: proxy.handle(),
        name: config.name.clone(),
        peer: peer.clone(),
        previews,
        recorder: recorder.clone(),
        report: reconciler.report(),
        placing,
        rollouts: rollouts.clone(),
        shards: shards.clone(),
        shutdown: shutdown.clone(),
        settings: Arc::clone(&settings),
        usage: Arc::clone(&meter),
    };
    let metrics =
        starting.map(|starting| control.block_on(starting.end()).context("take the metrics socket over"));
    let _entered = control.enter();
    // Requests that are being drained still write, so their leases are renewed until the last one has ended.
    let last = Shutdown::new();
    intent.start(&last);
    shards.carry(&contents);
    shards.start(merging, &last);
    contents.start(&shards, &last);
    let read = (failover.clone(), intent.clone(), Arc::clone(&live));
    dns.start(dns_server, read, &config.name, &last);
    let all = (&shards, &failover, &contents);
    replication::start(replication, peer.clone(), (&config.name, &config.local), all, &last);
    if let (Intent::Following(store), Some(identity)) = (&intent, &peer) {
        let (store, identity) = (store.clone(), identity.clone());
        failover.start(store, identity, config.state.clone(), shards.clone(), &last);
    }
    moves.start();
    let eraser = Eraser {
        intent: intent.clone(),
        name: config.name.clone(),
        recorder: recorder.clone(),
        region: config.local.clone(),
        shards: shards.clone(),
    };
    task::spawn("eraser", eraser.run(shutdown.clone()));
    reconciler.keep_with(shards);
    let (name, ending) = (config.name.clone(), shutdown.clone());
    task::spawn(
        "rollouts-judge",
        rollouts.clone().judge(Arc::clone(&live), intent.clone(), name.clone(), ending.clone()),
    );
    let herald = Herald::default().run(
        counting.clone(),
        intent.clone(),
        rollouts.clone(),
        events.clone(),
        ending.clone(),
    );
    task::spawn("herald", herald);
    task::spawn("rollouts-clerk", rollouts.write_down(intent, name, ending));
    let socket = config.state.join(SOCKET);
    listen::start(&config, admin, events, path, &environment, &socket, metrics.transpose()?)?;
    let (nudges, observations) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    task::spawn("prober", Prober::new(live, peer, Arc::clone(&observations)).run(shutdown.clone()));
    let counted = usage::run(Arc::clone(&meter), counting.clone(), handle.clone(), shutdown.clone());
    task::spawn("usage", counted);
    start_signals(&shutdown, &nudges)?;
    let broken = shutdown.clone();
    let reconciling = task::spawn("reconciler", async move {
        let result = reconcile::run(reconciler, settings, nudges, observations, broken.clone()).await;
        if let Err(error) = &result {
            tracing::error!("{error:#}");
        }
        // Without it nothing would ever change again: better to end and be started anew.
        broken.begin();
        result
    });
    let region = config.local.as_str();
    tracing::info!(region, listeners = told, "portolan {} serves", env!("CARGO_PKG_VERSION"));
    let ran = proxy.run(&shutdown);
    last.begin();
    ran.context("run the data plane")?;
    usage::finish(&meter, &counting, &handle);
    drop(std::fs::remove_file(&socket));
    recorder.flush();
    let ended = control.block_on(reconciling);
    tracing::info!("portolan has ended");
    match ended {
        Ok(Some(result)) => result,
        _ => bail!("the reconciler panicked; please report this with the lines before it"),
    }
}

/// The runtime of everything that is not on the way of a request.
///
/// # Errors
/// When the system gives no threads.
pub(crate) fn control_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    // Two, so that a lease is renewed while a configuration is read.
    builder.worker_threads(2).thread_name("control").enable_all().build().context("start the control runtime")
}

/// Answers `/ready` from now on, while what the node needs is fetched and compiled.
fn starting(
    config: &Config,
    waiting: &Waiting,
    control: &tokio::runtime::Runtime,
) -> anyhow::Result<Option<Starting>> {
    let Some(address) = config.listen.metrics else { return Ok(None) };
    let _entered = control.enter();
    Ok(Some(Starting::begin(listen::tcp(address, "metrics")?, Arc::clone(waiting))))
}

/// SIGTERM and SIGINT drain, a second one ends at once; SIGHUP reads everything again.
fn start_signals(shutdown: &Shutdown, nudges: &Arc<Notify>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let (shutdown, nudges) = (shutdown.clone(), Arc::clone(nudges));
    task::spawn("signals", async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {
                    nudges.notify_one();
                    continue;
                }
            }
            if shutdown.is_begun() {
                tracing::warn!("a second signal: requests in flight are cut off");
                std::process::exit(1);
            }
            tracing::info!("draining: no new connections, requests in flight may end");
            shutdown.begin();
        }
    });
    Ok(())
}

fn threads(config: &Config) -> NonZeroUsize {
    let processors = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    config.threads.unwrap_or(processors)
}

/// The settings of the policy engine; it compiles in children of this program.
pub(crate) fn engine_config(
    config: &Config,
    threads: NonZeroUsize,
) -> anyhow::Result<portolan_policy::Config> {
    let defaults = portolan_policy::defaults::POOL_SLOTS;
    Ok(portolan_policy::Config {
        cache_bytes_max: portolan_policy::defaults::CACHE_BYTES_MAX,
        cache_dir: Some(config.state.join("cache")),
        compile: compile_in_children()?,
        data_threads: threads,
        limits: config.components_at_most.limits(),
        pool_slots: config.instances_max.and_then(std::num::NonZeroU32::new).unwrap_or(defaults),
    })
}

/// Compilation by this very program, whatever has become of its file since.
pub(crate) fn compile_in_children() -> anyhow::Result<Compile> {
    let link = PathBuf::from("/proc/self/exe");
    let program =
        if link.exists() { link } else { std::env::current_exe().context("find the program's own file")? };
    Ok(Compile::Child { program, args: vec![crate::cli::COMPILE.into()] })
}

fn certificates(config: &Config) -> anyhow::Result<Option<Arc<CertificateStore>>> {
    if config.certificates.is_empty() {
        return Ok(None);
    }
    let files = config
        .certificates
        .iter()
        .map(|(cert, key)| CertificateFiles { cert: cert.clone(), key: key.clone() });
    Ok(Some(CertificateStore::load(files.collect()).context("read the listeners' certificates")?))
}

async fn peer(config: &Config) -> anyhow::Result<Option<PeerIdentity>> {
    let identity = match &config.peer {
        None => return Ok(None),
        Some(config::GatewayTls::Files { ca, cert, key }) => {
            PeerIdentity::load(&config.local, cert, key, ca).map_err(Into::into)
        }
        Some(config::GatewayTls::Spiffe(socket)) => spiffe::identity(&config.local, socket).await,
    };
    identity.map(Some).context("read this node's identity")
}

/// What of the data plane changes without a restart.
fn settings(config: &Config, geography: Option<Arc<Geography>>) -> Settings {
    let defaults = Settings::default();
    let limits = &config.limits;
    let mut screen = defaults.limits.screen;
    screen.fields_max = limits.fields_max.unwrap_or(screen.fields_max);
    screen.head_bytes_max = limits.head_bytes_max.unwrap_or(screen.head_bytes_max);
    Settings {
        access_log: config.log_access.clone().map(|log| match log {
            config::AccessLog::File(path) => AccessLog::File(path),
            config::AccessLog::Stdout => AccessLog::Stdout,
        }),
        drain_timeout: limits.drain.unwrap_or(defaults.drain_timeout),
        expose_decision: config.expose_decision,
        limits: portolan_proxy::Limits {
            body_idle_timeout: limits.body_idle.unwrap_or(defaults.limits.body_idle_timeout),
            body_bytes_max: limits.body_bytes_max,
            connections_max: limits.connections_max.unwrap_or(defaults.limits.connections_max),
            header_timeout: limits.header.unwrap_or(defaults.limits.header_timeout),
            idle_timeout: limits.idle.unwrap_or(defaults.limits.idle_timeout),
            screen,
        },
        trust: trust(config, geography),
    }
}

/// Whom to believe, by a configuration.
pub(crate) fn trust(config: &Config, geography: Option<Arc<Geography>>) -> Trust {
    Trust {
        geography,
        country_header: config.country_header.clone(),
        networks: config
            .networks
            .iter()
            .map(|network| ClientNetwork {
                network: network.network,
                country: network.country.as_deref().map(Into::into),
                region: network.region.clone(),
            })
            .collect(),
        proxies: config.proxies.clone(),
        region_header: config.region_header.clone(),
    }
}

fn proxy_config(
    config: &Config,
    settings: &Arc<LiveSettings>,
    certificates: Option<&Arc<CertificateStore>>,
    peer: Option<PeerIdentity>,
    threads: NonZeroUsize,
) -> anyhow::Result<portolan_proxy::Config> {
    let place = |address: &SocketAddr, kind: &ListenerKind| Listener {
        address: *address,
        kind: kind.clone(),
        proxy_protocol: !matches!(kind, ListenerKind::Peer) && config.listen.proxy_protocol.contains(address),
    };
    let mut listeners: Vec<Listener> = Vec::new();
    listeners.extend(config.listen.public.iter().map(|address| place(address, &ListenerKind::Public)));
    if let Some(store) = certificates {
        let clients = match &config.client_authority {
            None => ClientAuth::Off,
            Some((files, true)) => ClientAuth::Required(files.clone()),
            Some((files, false)) => ClientAuth::Optional(files.clone()),
        };
        let tls = tls::server_config(store, &clients).context("read the authorities of clients")?;
        let kind = ListenerKind::PublicTls(tls);
        listeners.extend(config.listen.public_tls.iter().map(|address| place(address, &kind)));
    }
    listeners.extend(config.listen.peer.iter().map(|address| place(address, &ListenerKind::Peer)));
    Ok(portolan_proxy::Config {
        cache: None,
        debug: None,
        listeners,
        peer,
        previews: None,
        recorder: Arc::new(portolan_core::recording::Nobody),
        services: Services::default(),
        settings: Arc::clone(settings),
        threads,
    })
}

/// What exists by a configuration, with nothing observed yet; for checks.
pub(crate) fn topology_of(config: &Config) -> portolan_core::topology::Topology {
    topology::build(config, &mut topology::Cells::default())
}
