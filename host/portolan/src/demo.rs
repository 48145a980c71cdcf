//! `portolan demo`: three regions as processes on loopback, real requests, and six phases: steady state, a policy swapped
//! live, a tenant pinned by residency, a tenant moved to another shard while it writes, the region that writes all shards killed, the region back. Each phase has a promise, and the clients count
//! every request that breaks it.

mod apps;
mod cluster;
mod failover;
mod load;
mod report;
mod rows;
mod view;

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use portolan_foundation::task;
use tokio_util::sync::CancellationToken;

use self::cluster::{Cluster, HOME, Intent, MOVED, PINNED, REGIONS, SHARDS, TENANTS};
use self::load::{Board, Client, Promise};
use self::report::{Phase, Report};
use self::rows::Rows;
use self::view::View;
use crate::cli::{Chaos, Demo};

/// How long a phase lasts unless the run is to end at a certain time.
const PHASE: Duration = Duration::from_secs(7);
/// The shortest phase that shows what it is to show.
const PHASE_MIN: Duration = Duration::from_secs(2);
/// What start and end take beside the phases.
const AROUND: Duration = Duration::from_secs(5);
/// Connections of each tenant's clients to each region.
const CONNECTIONS: u32 = 2;
/// The first row that is written while a region dies: no other has its number.
const LATER_ROWS: u64 = 1_000_000;
/// How long regions may take to run what was written: three gateways compile it on one machine.
const SETTLE: Duration = Duration::from_secs(30);

/// Runs the demo. Exits with 0 only if every phase kept its promise.
///
/// # Errors
/// When the regions cannot be started.
pub(crate) fn run(options: &Demo) -> anyhow::Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    let report = runtime.block_on(async {
        let stop = CancellationToken::new();
        let signal = stop.clone();
        task::spawn("ctrl-c", async move {
            let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            tokio::select! {
                _ = terminate.recv() => {}
                result = tokio::signal::ctrl_c() => result?,
            }
            signal.cancel();
            Ok::<_, std::io::Error>(())
        });
        show(options, stop).await
    })?;
    if options.json {
        crate::print(&serde_json::to_string(&report)?)?;
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Serves the applications of one region. `apps` are `NAME=ADDRESS`.
///
/// # Errors
/// When an argument does not read or an address cannot be bound.
pub(crate) fn serve_apps(region: &str, apps: &[String]) -> anyhow::Result<()> {
    end_with_parent()?;
    let apps = apps.iter().map(|app| {
        let (name, address) = app.split_once('=').with_context(|| format!("`{app}` is not NAME=ADDRESS"))?;
        Ok((name.to_owned(), address.parse().with_context(|| format!("read the address of {name}"))?))
    });
    let apps: Vec<(String, SocketAddr)> = apps.collect::<anyhow::Result<_>>()?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    runtime.block_on(apps::serve(region, &apps))
}

/// Has the kernel end this process when its parent ends, so that not even a killed demo leaves anything behind.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn end_with_parent() -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .context("ask to end with the parent")
}

async fn show(options: &Demo, stop: CancellationToken) -> anyhow::Result<Report> {
    let view = View::start(!options.json && std::io::stdout().is_terminal(), stop.clone());
    view.say("starting three regions on this machine");
    let cluster = Cluster::start().await?;
    let board = Board::new()?;
    let clients = start_clients(options, &cluster, &board, &stop);
    view.introduce(&cluster);
    let mut director = Director { board, cluster, options, phases: Vec::new(), stop: stop.clone(), view };
    let result = director.direct().await;
    stop.cancel();
    for client in clients {
        // A client that panicked has been reported.
        client.await.ok();
    }
    let Director { cluster, phases, view, .. } = director;
    cluster.stop().await;
    view.end();
    result?;
    let ok = !phases.is_empty() && phases.iter().all(|phase| phase.ok);
    let report = Report { phases, ok };
    if !options.json {
        eprintln!("{}", view::summary(&report));
    }
    Ok(report)
}

type Clients = Vec<tokio::task::JoinHandle<Option<()>>>;

fn start_clients(options: &Demo, cluster: &Cluster, board: &Board, stop: &CancellationToken) -> Clients {
    let connections = TENANTS.len() as u32 * REGIONS.len() as u32 * CONNECTIONS;
    let pace = Duration::from_secs(1) * connections / options.rate.max(1);
    let mut clients = Vec::new();
    for tenant in TENANTS {
        for home in REGIONS {
            for _ in 0..CONNECTIONS {
                let client = Client {
                    entries: cluster.entries(home),
                    host: format!("{tenant}.demo.localhost"),
                    tenant: tenant.to_owned(),
                    app: tenant.to_owned(),
                    pace,
                };
                clients.push(task::spawn("demo-client", load::run(client, board.clone(), stop.clone())));
            }
        }
    }
    clients
}

struct Director<'o> {
    board: Board,
    cluster: Cluster,
    options: &'o Demo,
    phases: Vec<Phase>,
    stop: CancellationToken,
    view: View,
}

impl Director<'_> {
    /// Walks through the phases. Ends early, without a phase half counted, when told to stop.
    async fn direct(&mut self) -> anyhow::Result<()> {
        let count = if self.options.chaos == Chaos::Region { 6 } else { 4 };
        let time =
            self.options.exit_after.map_or(PHASE, |all| (all.saturating_sub(AROUND) / count).max(PHASE_MIN));
        let stop = self.stop.clone();
        tokio::select! {
            result = self.walk(time) => result?,
            () = stop.cancelled() => return Ok(()),
        }
        if self.options.exit_after.is_none() && !self.options.json {
            self.view.say("that was all; the regions go on serving until Ctrl-C");
            loop {
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(250)) => self.board.look(|tally| self.view.show(tally, "free", 0.0)),
                    () = stop.cancelled() => return Ok(()),
                }
            }
        }
        Ok(())
    }

    async fn walk(&mut self, time: Duration) -> anyhow::Result<()> {
        let nearest = Intent { policy: "nearest-region", pinned: false };
        let weighted = Intent { policy: "weighted", pinned: false };
        let pinned = Intent { policy: "nearest-region", pinned: true };

        self.board.promise(promise(&[nearest], false));
        self.begin("each request is answered in the region where it came in")?;
        self.rest("steady", time).await;
        self.close("steady", time, |phase| phase.regions.len() == REGIONS.len())?;

        // While regions swap, one after the other, both policies may answer; each answer says which one it was.
        self.board.promise(promise(&[nearest, weighted], false));
        self.begin("all regions swap their policy for another and back, under load, by one change of the control store")?;
        for intent in [weighted, nearest] {
            self.cluster.want(intent).await?;
            self.rest("swap", time / 2).await;
        }
        self.close("swap", time, |phase| phase.generations.len() >= 3)?;

        self.begin("acme is pinned to the class eu: no answer from us-east, wherever a request comes in")?;
        let changing = Instant::now();
        self.cluster.want(pinned).await?;
        // Answers that began before the pin are over by now; from here on the pin is the promise.
        self.board.promise(promise(&[pinned], true));
        self.board.turn()?;
        self.rest("residency", time.saturating_sub(changing.elapsed())).await;
        let generations = |phase: &Phase| !phase.generations.is_empty();
        self.close("residency", time, generations)?;
        self.shards(time).await?;

        if self.options.chaos == Chaos::None {
            return Ok(());
        }
        self.board.promise(survivors());
        self.death(time).await
    }

    /// The region that writes all shards dies and comes back, while clients in every region write rows.
    async fn death(&mut self, time: Duration) -> anyhow::Result<()> {
        let text = format!(
            "{HOME} is killed with SIGKILL: its clients are served by the others, and its shards are written there"
        );
        self.begin(&text)?;
        let begun = Instant::now();
        let rows = Rows::start(&self.cluster, None, LATER_ROWS, &self.stop).await?;
        self.rest("kill", time / 3).await;
        self.cluster.kill(HOME)?;
        let told = self.shown("kill", failover::taken_over(&self.cluster, &self.view)).await?;
        self.view
            .say(&format!("{text}; {} are lost, until it is back to count them", failover::interval(&told)));
        self.rest("kill", time.saturating_sub(begun.elapsed())).await;
        self.close("kill", begun.elapsed(), |phase| phase.reentries > 0 && phase.regions.len() >= 2)?;

        let text = format!("{HOME} comes back, takes its requests again, follows, and counts what was lost");
        self.begin(&text)?;
        let begun = Instant::now();
        self.cluster.revive(HOME).await?;
        let counted = self.shown("return", failover::counted(&self.cluster)).await?;
        self.rest("return", time.saturating_sub(begun.elapsed())).await;
        let (acknowledged, missing) = rows.finish().await?;
        self.view.say(&format!(
            "{text}: {missing} of {acknowledged} acknowledged rows, {counted} in all, and they are kept: `portolan conflicts list`"
        ));
        let as_told = failover::holds(&told, counted) && missing as u64 <= counted;
        self.close("return", begun.elapsed(), |phase| {
            as_told && phase.regions.iter().any(|region| region == HOME)
        })
    }

    /// A tenant moves to another shard while clients in every region write its rows.
    async fn shards(&mut self, time: Duration) -> anyhow::Result<()> {
        let text = format!("{MOVED} moves to another shard while every region writes its rows: none is lost");
        self.begin(&text)?;
        let begun = Instant::now();
        let rows = Rows::start(&self.cluster, Some(&self.board), 1, &self.stop).await?;
        self.rest("shards", time / 3).await;
        let held = rows::relocate(&self.cluster, SHARDS[1]).await?;
        self.view.say(&format!("{MOVED} has moved; its writes were held for {held:.1?}"));
        self.rest("shards", time.saturating_sub(begun.elapsed())).await;
        let (count, missing) = rows.finish().await?;
        self.view.say(&format!(
            "{text}: {} of {count} rows are where they belong, writes were held for {held:.1?}",
            count - missing
        ));
        self.close("shards", begun.elapsed(), |_| count > 0 && missing == 0)
    }

    fn begin(&mut self, promise: &str) -> anyhow::Result<()> {
        self.view.say(promise);
        self.board.turn()?;
        Ok(())
    }

    /// Lets time pass, and shows it.
    async fn rest(&mut self, name: &'static str, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let left = end.saturating_duration_since(Instant::now());
            tokio::time::sleep(left.min(Duration::from_millis(250))).await;
            let done = 1.0 - left.as_secs_f64() / time.as_secs_f64().max(0.001);
            self.board.look(|tally| self.view.show(tally, name, done));
        }
    }

    /// Waits for something, and shows what clients see meanwhile.
    async fn shown<T>(&self, name: &'static str, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(Duration::from_millis(250)) => {
                    self.board.look(|tally| self.view.show(tally, name, 0.5));
                }
            }
        }
    }

    fn close(
        &mut self,
        name: &'static str,
        lasted: Duration,
        kept: impl Fn(&Phase) -> bool,
    ) -> anyhow::Result<()> {
        let tally = self.board.turn()?;
        let text = self.view.last_said();
        let mut phase = Phase::close(name, &text, &tally, lasted, true);
        phase.ok = phase.ok && kept(&phase);
        self.view.finish(&phase);
        self.phases.push(phase);
        Ok(())
    }
}

/// What is right while these policies may decide.
fn promise(intents: &[Intent], pinned: bool) -> Promise {
    let mut promise = Promise::default();
    for intent in intents {
        for region in REGIONS {
            let allowed = promise.regions.entry((intent.policy.to_owned(), region.to_owned())).or_default();
            allowed.insert(region.to_owned());
            if intent.policy == "weighted" {
                allowed.extend(REGIONS.map(str::to_owned));
            }
        }
    }
    if pinned {
        promise.bounds.insert(PINNED.to_owned(), ["eu-west", "eu-central"].map(str::to_owned).into());
    }
    promise
}

/// What is right while a region may be gone: each region answers its own, and the pin holds.
fn survivors() -> Promise {
    promise(&[Intent { policy: "nearest-region", pinned: true }], true)
}
