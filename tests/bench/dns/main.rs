//! What an answer costs: portolan's server of DNS beside Knot and NSD, with the same names, the same questions and one worker each, in
//! turns within one run. Prints one JSON object; `cargo xtask bench dns` makes a table of it.
//!
//! *CPU* is that of a server's processes, as the kernel counts it, over the answers that came. Each server is asked in rounds, and its quietest
//! counts: whatever else the machine does only adds. Portolan's answers depend on the client and the plan, the others' on a file alone: they read
//! what portolan exports of the plan.
//!
//! `cargo bench --bench dns -- small` shrinks all numbers, for a try.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_precision_loss,
    reason = "a measurement that cannot be made is to fail, and its figures are far below 2^52"
)]

#[path = "../cpu.rs"]
mod cpu;
mod load;
mod servers;

use serde_json::{Map, Value, json};

use crate::load::{Load, Shape};
use crate::servers::Running;

/// How much of everything.
struct Size {
    /// Answers of a round.
    answers: u32,
    /// How often each server is measured.
    rounds: u64,
}

const SMALL: Size = Size { answers: 2_000, rounds: 1 };
/// A round takes a second of processor time or more, of which the kernel counts hundredths.
const FULL: Size = Size { answers: 200_000, rounds: 5 };

/// One server and what it was found to cost.
struct Peer {
    name: &'static str,
    server: Running,
    /// Microseconds of processor time for an answer, in the quietest round.
    us: f64,
    answered: u64,
    lost: u64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|text| !text.starts_with('-')).collect();
    if let [word, folder] = arguments.as_slice()
        && word == servers::SERVE
    {
        return servers::serve(folder);
    }
    let size = if arguments.iter().any(|argument| argument == "small") { SMALL } else { FULL };
    let mut figures = Map::new();
    let names = servers::names();
    for shape in Shape::ALL {
        let start = [
            ("portolan", servers::portolan as fn() -> Running),
            ("knot", servers::knot),
            ("nsd", servers::nsd),
        ];
        let mut peers = start.map(|(name, start)| Peer {
            name,
            server: start(),
            us: f64::INFINITY,
            answered: 0,
            lost: 0,
        });
        for peer in &peers {
            Load::new(peer.server.address, &names, shape, 0).ask(size.answers / 10);
        }
        for round in 1..=size.rounds {
            for peer in &mut peers {
                peer.measure(Load::new(peer.server.address, &names, shape, round), size.answers);
            }
        }
        tell(shape, &peers, &mut figures);
    }
    println!("{}", json!({ "bench": "dns", "figures": figures }));
}

impl Peer {
    fn measure(&mut self, mut load: Load, answers: u32) {
        let before = cpu::cpu(self.server.pid());
        let lost = load.ask(answers);
        let spent = cpu::cpu(self.server.pid()) - before;
        self.us = self.us.min(spent * 1e6 / f64::from(answers));
        self.answered += u64::from(answers);
        self.lost += u64::from(lost);
    }
}

/// Puts a shape's figures into the report.
fn tell(shape: Shape, peers: &[Peer; 3], figures: &mut Map<String, Value>) {
    let shape = shape.name();
    for peer in peers {
        note(figures, format!("{shape}.{}.cpu_us", peer.name), peer.us);
        note(figures, format!("{shape}.{}.answers", peer.name), peer.answered as f64);
        note(figures, format!("{shape}.{}.lost", peer.name), peer.lost as f64);
    }
    let [own, others @ ..] = peers;
    for other in others {
        // Less than a hundredth of a second is nothing that can be divided by; it happens in a try.
        if other.us > 0.0 {
            note(figures, format!("{shape}.portolan_over_{}.cpu", other.name), own.us / other.us);
        }
    }
}

fn note(figures: &mut Map<String, Value>, name: String, figure: f64) {
    eprintln!("{name:48} {figure:>14.2}");
    figures.insert(name, json!(figure));
}
