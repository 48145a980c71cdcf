//! The servers that are compared: each a process on a port of the loopback, with one worker for UDP and the names of one plan. They end with
//! their values.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroU32;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use portolan_core::ids::RegionName;
use portolan_dns::name::Name;
use portolan_dns::plan::{Draft, NameDraft, Near, Plan, Policy, RegionDraft, State, TtlBounds, ZoneDraft};
use portolan_dns::server::{Config, Rate, Server};
use portolan_dns::sign::Keys;
use portolan_foundation::shutdown::Shutdown;
use tempfile::TempDir;

use crate::load;

/// The argument with which this program is portolan's server.
pub(crate) const SERVE: &str = "serve";
const ZONE: &str = "bench.example";
/// Names that are asked for: as many as a large operator has.
const NAMES: u32 = 1_000;
/// Networks whose nearest regions are known.
const NETWORKS: u8 = 200;
/// How often a server that starts is asked whether it answers; it waits as long as a question does each time.
const TRIES: u32 = 40;

/// A server that runs.
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
    _folder: TempDir,
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it answers.
    fn ready(mut self, program: &str) -> Self {
        let name = Name::new(&format!("n0.{ZONE}")).unwrap();
        for _ in 0..TRIES {
            if load::is_answered(self.address, &name) {
                return self;
            }
            assert!(self.child.try_wait().unwrap().is_none(), "{program} ended: its messages are above");
        }
        panic!("{program} does not answer on {}", self.address);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // To be asked to end, as NSD's other processes end only with the first when that one is.
        let asked = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = asked {
            let _is_gone_already = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _status = self.child.wait();
    }
}

/// The names that are asked for.
pub(crate) fn names() -> Vec<Name> {
    (0..NAMES).map(|index| Name::new(&format!("n{index}.{ZONE}")).unwrap()).collect()
}

/// Three regions, a third of the names by weights, a third the nearest and a third in order.
fn plan() -> Plan {
    let regions = ["eu", "us", "ap"].map(|name| RegionName::new(name).unwrap());
    let [eu, us, ap] = &regions;
    let addresses = [(eu, "192.0.2.1"), (us, "192.0.2.2"), (ap, "192.0.2.3")];
    let managed = |index: usize| NameDraft {
        policy: match index % 3 {
            0 => Policy::Weighted(regions.iter().map(|name| (name.clone(), 1)).collect()),
            1 => Policy::Nearest,
            _ => Policy::Ordered(vec![us.clone(), eu.clone(), ap.clone()]),
        },
        answers: 1,
        addresses: addresses.map(|(name, address)| (name.clone(), vec![address.parse().unwrap()])).into(),
        last_good: BTreeSet::new(),
        ttl: TtlBounds { min_s: 5, max_s: 30 },
    };
    let near = |third: u8| Near {
        prefix: format!("198.51.{third}.0/24").parse().unwrap(),
        regions: vec![ap.clone(), us.clone()],
    };
    let zone = ZoneDraft {
        mailbox: Name::new("hostmaster.bench.example").unwrap(),
        name_servers: BTreeMap::from([(
            Name::new("ns.bench.example").unwrap(),
            vec!["127.0.0.1".parse().unwrap()],
        )]),
        negative_ttl_s: 20,
        names: names().into_iter().enumerate().map(|(index, name)| (name, managed(index))).collect(),
    };
    let steady = RegionDraft { state: State::In, steady_until_ms: None };
    let draft = Draft {
        number: 1,
        regions: regions.iter().map(|name| (name.clone(), steady)).collect(),
        geography: (0..NETWORKS).map(near).collect(),
        zones: BTreeMap::from([(Name::new(ZONE).unwrap(), zone)]),
    };
    Plan::new(draft).unwrap()
}

/// Portolan's server in a process of its own, which is this program again.
pub(crate) fn portolan() -> Running {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(SERVE).arg(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    let said = child.stdout.take().expect("it is a pipe");
    BufReader::new(said).read_line(&mut line).unwrap();
    let address = line.trim().parse().expect("it says where it listens first");
    Running { child, address, _folder: folder }.ready("portolan's server")
}

/// Serves until nobody holds its input any more, and says where first.
pub(crate) fn serve(folder: &str) {
    let many = NonZeroU32::new(1_000_000).expect("it is not zero");
    let config = Config {
        folder: folder.into(),
        keys: Keys::new(),
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        rate: Rate { per_second: many, burst: many },
        region: RegionName::new("eu").unwrap(),
        secondaries: Vec::new(),
        workers: 1,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Server::open(config).await.unwrap();
        server.handle().publish(plan()).await.unwrap();
        println!("{}", server.addresses().first().expect("one was asked for"));
        let shutdown = Shutdown::new();
        let end = shutdown.clone();
        std::thread::spawn(move || {
            drop(std::io::stdin().read_to_end(&mut Vec::new()));
            end.begin();
        });
        server.run(shutdown).await;
    });
}

/// Knot, with one thread for UDP.
pub(crate) fn knot() -> Running {
    other("/usr/sbin/knotd", |folder, at, command| {
        let (port, here) = (at.port(), folder.display());
        std::fs::create_dir(folder.join("db")).unwrap();
        let text = format!(
            "server:\n    rundir: {here}\n    listen: 127.0.0.1@{port}\n    udp-workers: 1\n    tcp-workers: 1\n    \
             background-workers: 1\n\
             log:\n  - target: stderr\n    any: warning\n\
             database:\n    storage: {here}/db\n    journal-db-max-size: 20M\n    kasp-db-max-size: 5M\n    \
             timer-db-max-size: 5M\n\
             zone:\n  - domain: {ZONE}\n    storage: {here}\n    file: zone\n",
        );
        let path = folder.join("knot.conf");
        std::fs::write(&path, text).unwrap();
        command.arg("-c").arg(path);
    })
}

/// NSD, with one process that answers. It limits no rate: by itself it sends a network 200 answers a second.
pub(crate) fn nsd() -> Running {
    other("/usr/sbin/nsd", |folder, at, command| {
        let (port, here) = (at.port(), folder.display());
        let text = format!(
            "server:\n  ip-address: 127.0.0.1@{port}\n  username: \"\"\n  chroot: \"\"\n  zonesdir: \"{here}\"\n  \
             database: \"\"\n  pidfile: \"{here}/pid\"\n  xfrdfile: \"{here}/xfrd\"\n  xfrdir: \"{here}\"\n  \
             zonelistfile: \"{here}/zones\"\n  server-count: 1\n  minimal-responses: yes\n  rrl-ratelimit: 0\n  \
             rrl-whitelist-ratelimit: 0\n\
             remote-control:\n  control-enable: no\n\
             zone:\n  name: \"{ZONE}\"\n  zonefile: \"zone\"\n",
        );
        let path = folder.join("nsd.conf");
        std::fs::write(&path, text).unwrap();
        command.arg("-d").arg("-c").arg(path);
    })
}

/// Somebody else's server, from a file of the plan's zone.
fn other(program: &str, configure: impl FnOnce(&Path, SocketAddr, &mut Command)) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let zone = plan().export(&Name::new(ZONE).unwrap()).expect("the plan has the zone");
    std::fs::write(folder.path().join("zone"), zone).unwrap();
    let address = free();
    let mut command = Command::new(program);
    configure(folder.path(), address, &mut command);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let child = command.spawn();
    let child = child.unwrap_or_else(|error| {
        panic!("start {program}: {error}: `cargo xtask bench dns` installs it, or `apt-get install knot nsd`")
    });
    Running { child, address, _folder: folder }.ready(program)
}

/// An address that is free for TCP and UDP.
fn free() -> SocketAddr {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}
