//! Portolan beside nginx and HAProxy, doing the same work: HTTP/1.1 with kept connections on both sides, forwarding headers,
//! `Via`, a request id, one worker thread. Portolan also recognises the tenant, asks its policy's table and counts metrics.
//! All run at the same time, pinned to the first processor, and are measured in turns; client and origin have the second.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::Report;
use crate::setup;

/// Rounds; each measures every proxy once, in an order that turns.
const ROUNDS: usize = 10;
const CONNECTIONS: u32 = 32;
const SECONDS: u32 = 3;
/// Student's t for 95 % and nine degrees of freedom.
const STUDENT_T: f64 = 2.262;
const PACKAGES: [(&str, &str); 4] =
    [("nginx", "nginx"), ("haproxy", "haproxy"), ("wrk", "wrk"), ("strace", "strace")];

/// A running proxy.
struct Peer {
    name: &'static str,
    address: SocketAddr,
    process: Process,
}

/// A process that ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended cannot be killed, and need not be.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
struct Sample {
    cpu_us: f64,
    p99_us: f64,
    per_second: f64,
}

/// Measures.
///
/// # Errors
/// When a peer cannot be installed or started.
pub(super) fn run(root: &Path) -> anyhow::Result<Report> {
    install()?;
    let folder = setup::target(root).join("bench-proxy");
    drop(std::fs::remove_dir_all(&folder));
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let [origin, nginx, haproxy, portolan] = free_ports()?;
    let _origin = self::origin(&folder, origin)?;
    let peers = [
        Peer { name: "nginx", address: nginx, process: self::nginx(&folder, nginx, origin)? },
        Peer { name: "haproxy", address: haproxy, process: self::haproxy(&folder, haproxy, origin)? },
        Peer {
            name: "portolan",
            address: portolan,
            process: self::portolan(root, &folder, portolan, origin)?,
        },
    ];
    for peer in &peers {
        wait_for(peer)?;
    }
    let mut samples: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
    for round in 0..=ROUNDS {
        for turn in 0..peers.len() {
            let Some(peer) = peers.get((round + turn) % peers.len()) else { continue };
            let sample = measure(peer)?;
            // The first round warms caches and connections.
            if round > 0 {
                eprintln!(
                    "round {round:2} {:9} {:6.2} us CPU/request  {:8.0} requests/s  p99 {:7.0} us",
                    peer.name, sample.cpu_us, sample.per_second, sample.p99_us
                );
                samples.entry(peer.name).or_default().push(sample);
            }
        }
    }
    let mut figures = BTreeMap::new();
    for peer in &peers {
        let all = samples.get(peer.name).map_or(&[][..], Vec::as_slice);
        let mean = |of: fn(&Sample) -> f64| interval(&all.iter().map(of).collect::<Vec<_>>()).0;
        figures.insert(format!("{}.cpu_us", peer.name), mean(|sample| sample.cpu_us));
        figures.insert(format!("{}.requests_per_second", peer.name), mean(|sample| sample.per_second));
        figures.insert(format!("{}.p99_us", peer.name), mean(|sample| sample.p99_us));
        figures.insert(format!("{}.resident_mib", peer.name), resident_mib(peer)?);
        figures.insert(format!("{}.syscalls_per_request", peer.name), syscalls(peer, &folder)?);
    }
    for other in ["nginx", "haproxy"] {
        let pairs =
            samples.get("portolan").into_iter().flatten().zip(samples.get(other).into_iter().flatten());
        let ratios: Vec<f64> = pairs.map(|(own, other)| own.cpu_us / other.cpu_us).collect();
        let (mean, half) = interval(&ratios);
        figures.insert(format!("portolan_over_{other}.cpu"), mean);
        figures.insert(format!("portolan_over_{other}.cpu.low"), mean - half);
        figures.insert(format!("portolan_over_{other}.cpu.high"), mean + half);
    }
    Ok(Report { bench: "proxy".to_owned(), figures })
}

/// The mean, and half of its 95 % interval.
#[expect(clippy::cast_precision_loss, reason = "ten rounds")]
fn interval(values: &[f64]) -> (f64, f64) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    (mean, STUDENT_T * (variance / count).sqrt())
}

fn install() -> anyhow::Result<()> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(program, _)| {
            let found = |folder: &str| Path::new(folder).join(program).is_file();
            !["/usr/bin", "/usr/sbin", "/bin", "/usr/local/bin"].into_iter().any(found)
        })
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("== apt-get install {}", missing.join(" "));
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdout(std::io::stderr());
        apt.status().is_ok_and(|status| status.success())
    };
    // Started as services they would take ports; a benchmark starts its own.
    let good = apt(&["update", "-qq"])
        && apt(&[
            &["install", "-y", "-qq", "--no-install-recommends", "-o", "DPkg::Options::=--force-confold"],
            &missing[..],
        ]
        .concat());
    anyhow::ensure!(good, "install the peers as root: apt-get install {}", missing.join(" "));
    Ok(())
}

fn free_ports() -> anyhow::Result<[SocketAddr; 4]> {
    let listen = || TcpListener::bind("127.0.0.1:0").context("find a free port");
    let listeners = [listen()?, listen()?, listen()?, listen()?];
    let [one, two, three, four] = listeners.each_ref().map(TcpListener::local_addr);
    Ok([one?, two?, three?, four?])
}

/// Starts a program on one processor.
fn pinned(processor: &str, program: &Path, arguments: &[&str], log: &Path) -> anyhow::Result<Process> {
    let log = std::fs::File::create(log).with_context(|| format!("create {}", log.display()))?;
    let mut command = Command::new("taskset");
    command.args(["-c", processor]).arg(program).args(arguments).stdin(Stdio::null());
    command.stdout(log.try_clone().context("share the log")?).stderr(log);
    Ok(Process(command.spawn().with_context(|| format!("start {}", program.display()))?))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn nginx_config(folder: &Path, name: &str, http: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join(format!("{name}.conf"));
    let at = folder.display();
    let text = format!(
        "daemon off; master_process off; worker_processes 1; pid {at}/{name}.pid; error_log {at}/{name}.error;\n\
         events {{ worker_connections 4096; }}\nhttp {{ access_log off; keepalive_requests 100000000;\n\
         client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
         {http}\n}}\n"
    );
    write(&path, &text)?;
    Ok(path)
}

fn origin(folder: &Path, address: SocketAddr) -> anyhow::Result<Process> {
    let http =
        format!("server {{ listen {address}; location / {{ return 200 \"hello from origin\\n\"; }} }}");
    let config = nginx_config(folder, "origin", &http)?;
    pinned(
        "1",
        Path::new("/usr/sbin/nginx"),
        &["-c", &config.display().to_string()],
        &folder.join("origin.log"),
    )
}

fn nginx(folder: &Path, address: SocketAddr, origin: SocketAddr) -> anyhow::Result<Process> {
    let http = format!(
        "upstream web {{ server {origin}; keepalive 256; keepalive_requests 100000000; }}\n\
         server {{ listen {address}; location / {{ proxy_pass http://web; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_set_header Host $host;\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;\n\
         proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Request-Id $request_id;\n\
         proxy_set_header Via \"1.1 nginx\"; add_header X-Request-Id $request_id; add_header Via \"1.1 nginx\"; }} }}"
    );
    let config = nginx_config(folder, "nginx", &http)?;
    pinned(
        "0",
        Path::new("/usr/sbin/nginx"),
        &["-c", &config.display().to_string()],
        &folder.join("nginx.log"),
    )
}

fn haproxy(folder: &Path, address: SocketAddr, origin: SocketAddr) -> anyhow::Result<Process> {
    let path = folder.join("haproxy.cfg");
    write(
        &path,
        &format!(
            "global\n  nbthread 1\n  maxconn 4096\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
             http-reuse always\n  option forwardfor\nfrontend in\n  bind {address}\n  unique-id-format %[uuid()]\n  unique-id-header X-Request-Id\n\
             http-request set-header X-Forwarded-Proto http\n  http-request set-header X-Forwarded-Host %[req.hdr(Host)]\n\
             http-request set-header Via \"1.1 haproxy\"\n  http-response set-header Via \"1.1 haproxy\"\n  default_backend web\n\
             backend web\n  server origin {origin}\n"
        ),
    )?;
    pinned(
        "0",
        Path::new("/usr/sbin/haproxy"),
        &["-db", "-f", &path.display().to_string()],
        &folder.join("haproxy.log"),
    )
}

fn portolan(root: &Path, folder: &Path, address: SocketAddr, origin: SocketAddr) -> anyhow::Result<Process> {
    let path = folder.join("portolan.toml");
    write(
        &path,
        &format!(
            "[node]\nregion = \"here\"\nthreads = 1\n[listen]\npublic = [\"{address}\"]\n[region.here.pool.web]\nendpoints = [\"{origin}\"]\n\
             [tenants]\nsources = [{{ host_suffix = \".apps.test\" }}]\n[policy]\nuse = \"nearest-region\"\nconfig = {{ pool = \"web\" }}\n"
        ),
    )?;
    let program = setup::target(root).join("release/portolan");
    pinned("0", &program, &["serve", "--config", &path.display().to_string()], &folder.join("portolan.log"))
}

fn wait_for(peer: &Peer) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(peer.address).is_err() {
        if Instant::now() > deadline {
            bail!("{} does not listen on {}: its log is in target/bench-proxy", peer.name, peer.address);
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Ok(())
}

/// Processor time of all threads, in nanoseconds (`/proc/PID/task/*/schedstat`, first field).
fn cpu_ns(peer: &Peer) -> anyhow::Result<u64> {
    let tasks = format!("/proc/{}/task", peer.process.0.id());
    let mut sum = 0;
    for entry in std::fs::read_dir(&tasks).with_context(|| format!("look at {}", peer.name))?.flatten() {
        let text = std::fs::read_to_string(entry.path().join("schedstat")).unwrap_or_default();
        sum += text.split(' ').next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

struct Load {
    requests: f64,
    per_second: f64,
    p99_us: f64,
}

fn load(peer: &Peer, seconds: u32) -> anyhow::Result<Load> {
    let output = Command::new("taskset")
        .args(["-c", "1", "wrk", "-t1", &format!("-c{CONNECTIONS}"), &format!("-d{seconds}s"), "--latency"])
        .args(["-H", "Host: acme.apps.test", &format!("http://{}/", peer.address)])
        .output()
        .context("start wrk")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() || text.contains("Non-2xx") || text.contains("Socket errors") {
        bail!("{} answered badly:\n{text}", peer.name);
    }
    let field = |line: &str, at: usize| {
        let line = text.lines().find(|text| text.contains(line))?;
        line.split_whitespace().nth(at).map(str::to_owned)
    };
    let requests = field("requests in", 0).and_then(|text| text.parse().ok()).context("read wrk's count")?;
    let per_second =
        field("Requests/sec:", 1).and_then(|text| text.parse().ok()).context("read wrk's rate")?;
    let p99_us = field("99%", 1).and_then(|text| micros(&text)).context("read wrk's latency")?;
    Ok(Load { requests, per_second, p99_us })
}

/// `1.23ms` as microseconds.
fn micros(text: &str) -> Option<f64> {
    let end = text.find(|character: char| character.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at_checked(end)?;
    let factor = match unit {
        "us" => 1.0,
        "ms" => 1_000.0,
        "s" => 1_000_000.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a few seconds")]
fn measure(peer: &Peer) -> anyhow::Result<Sample> {
    let before = cpu_ns(peer)?;
    let load = load(peer, SECONDS)?;
    let used = cpu_ns(peer)?.saturating_sub(before) as f64 / 1_000.0;
    Ok(Sample { cpu_us: used / load.requests.max(1.0), p99_us: load.p99_us, per_second: load.per_second })
}

fn resident_mib(peer: &Peer) -> anyhow::Result<f64> {
    let text =
        std::fs::read_to_string(format!("/proc/{}/status", peer.process.0.id())).context("look at memory")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("find the memory")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>().context("read the memory")? / 1_024.0)
}

/// System calls per request, by strace in a run of its own: it slows the peer down, but does not change what it calls.
fn syscalls(peer: &Peer, folder: &Path) -> anyhow::Result<f64> {
    let path = folder.join(format!("{}.strace", peer.name));
    let mut strace = Process(
        Command::new("strace")
            .args(["-c", "-f", "-o"])
            .arg(&path)
            .args(["-p", &peer.process.0.id().to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start strace")?,
    );
    // It attaches within this time; what is called before is not counted, which biases little over seconds.
    std::thread::park_timeout(Duration::from_millis(500));
    let load = load(peer, 2)?;
    Command::new("kill").args(["-INT", &strace.0.id().to_string()]).status().context("end strace")?;
    strace.0.wait().context("wait for strace")?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let total =
        text.lines().rev().find(|line| line.trim_end().ends_with("total")).context("find strace's sum")?;
    // `100.00    1.234567           4    123456      1234 total`
    let calls = total
        .split_whitespace()
        .nth(3)
        .and_then(|text| text.parse::<f64>().ok())
        .context("read strace's sum")?;
    Ok(calls / load.requests.max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrks_times_are_read() {
        assert_eq!(micros("731.00us"), Some(731.0));
        assert_eq!(micros("1.50ms"), Some(1_500.0));
        assert_eq!(micros("2.00s"), Some(2_000_000.0));
        assert_eq!(micros("nonsense"), None);
    }

    #[test]
    fn an_interval_covers_its_values() {
        let (mean, half) = interval(&[1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 1.0, 1.1, 0.9, 1.0]);
        assert!((mean - 1.0).abs() < 1e-9 && half > 0.0 && half < 0.1);
    }
}
