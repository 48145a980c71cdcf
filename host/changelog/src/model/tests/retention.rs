//! A log that is written, followed by peers that come and go, and trimmed.

use std::time::Duration;

use portolan_core::ids::RegionName;
use portolan_core::log::{Identity, Position};

use super::super::peer::*;
use super::super::retention::*;
use super::{Dice, broken, hold};

type CutOf = fn(&Log, &[Peer], &Retention) -> Cut;

const LIMITS: Retention =
    Retention { age_min: Duration::from_micros(40), age_max: Duration::from_micros(150), bytes_max: 1_000 };

fn identity(incarnation: &str) -> Identity {
    Identity { system: "7".into(), timeline: 1, incarnation: incarnation.into() }
}

fn at(sequence: u64) -> Position {
    Position::new(1, sequence, sequence)
}

fn peer(name: &str, applied: u64) -> Peer {
    Peer {
        name: RegionName::new(name).unwrap(),
        identity: identity("a"),
        received: at(applied),
        applied: at(applied),
        acknowledged_us: 0,
        needs_snapshot_us: None,
    }
}

fn piece(first: u64, last: u64, newest_us: u64) -> Piece {
    Piece { first, last: at(last), bytes: 100, newest_us }
}

fn log(closed: Vec<Piece>, open: Option<Piece>, now_us: u64) -> Log {
    Log { identity: identity("a"), closed, open, settled: at(1_000_000), read_since_us: None, now_us }
}

/// A log of which some transactions have not ended, in a database whose clock runs.
struct Source {
    log: Log,
    peers: Vec<Peer>,
    trimmed: Position,
    sequence: u64,
    /// The lowest sequence that may still be written.
    in_flight: Option<u64>,
}

impl Source {
    fn new() -> Self {
        let peers = ["us", "ap", "sa"].map(|name| peer(name, 0)).to_vec();
        Self { log: log(Vec::new(), None, 0), peers, trimmed: Position::START, sequence: 0, in_flight: None }
    }

    fn write(&mut self) {
        self.sequence += 1;
        let (sequence, now_us) = (self.sequence, self.log.now_us);
        let open = self.log.open.get_or_insert_with(|| piece(sequence, sequence, now_us));
        *open = Piece { last: at(sequence), newest_us: now_us, bytes: open.bytes + 10, ..open.clone() };
    }

    fn settle(&mut self) {
        let lowest = self.in_flight.unwrap_or(self.sequence + 1);
        self.log.settled = Position::new(1, lowest, 0);
    }

    fn step(&mut self, dice: &mut Dice, cut: CutOf) -> Result<(), String> {
        match dice.below(9) {
            0..=2 => (0..=dice.below(8)).for_each(|_| self.write()),
            3 if self.in_flight.is_none() => {
                self.sequence += 1;
                self.in_flight = Some(self.sequence);
            }
            3 => self.in_flight = None,
            4 => self.log.now_us += dice.below(60),
            5 => self.log.closed.extend(self.log.open.take()),
            6 | 7 => {
                self.settle();
                let which = usize::try_from(dice.below(3)).unwrap();
                let settled = at(self.log.settled.transaction - 1);
                let peer = &mut self.peers[which];
                if peer.needs_snapshot_us.is_some() {
                    // It comes back by a snapshot.
                    *peer =
                        Peer { received: settled, applied: settled, needs_snapshot_us: None, ..peer.clone() };
                } else if peer.applied < self.trimmed {
                    return Err(format!(
                        "{} asks after {} and {} is gone",
                        peer.name, peer.applied, self.trimmed
                    ));
                } else if which > 0 || dice.one_in(8) {
                    peer.applied = peer.applied.max(settled);
                }
            }
            _ => self.trim(cut)?,
        }
        Ok(())
    }

    fn trim(&mut self, cut: CutOf) -> Result<(), String> {
        self.settle();
        let before = self.log.clone();
        let cut = cut(&self.log, &self.peers, &LIMITS);
        for name in &cut.marks {
            let marked = self.peers.iter_mut().find(|peer| peer.name == *name).unwrap();
            if marked.applied >= before.closed.last().map_or(Position::START, |piece| piece.last) {
                return Err(format!("{name} has everything and was marked"));
            }
            marked.needs_snapshot_us = Some(before.now_us);
        }
        for (number, piece) in self.log.closed.drain(..cut.pieces).enumerate() {
            let bytes: u64 = before.closed.iter().skip(number).map(|piece| piece.bytes).sum();
            if piece.newest_us + 40 >= before.now_us && bytes <= LIMITS.bytes_max {
                return Err(format!("{piece:?} is young at {}", before.now_us));
            }
        }
        self.trimmed = self.trimmed.max(cut.through.unwrap_or_default());
        if self.trimmed > self.log.settled {
            return Err(format!("{} is gone and {} is not settled", self.trimmed, self.log.settled));
        }
        let left: u64 = self.log.closed.iter().map(|piece| piece.bytes).sum();
        let unsettled = self.log.closed.first().is_some_and(|piece| piece.last > self.log.settled);
        if left > LIMITS.bytes_max && !unsettled {
            return Err(format!("{left} bytes are left"));
        }
        Ok(())
    }
}

fn walk(seed: u64, cut: CutOf) -> Result<(), String> {
    let (mut dice, mut source) = (Dice(seed), Source::new());
    (0..300).try_for_each(|_| source.step(&mut dice, cut))
}

#[test]
fn nothing_goes_that_somebody_waits_for() {
    hold(5_000, |seed| walk(seed, Log::cut));
}

#[test]
fn trimmers_that_lose_records_are_found() {
    // As far as the fastest has come.
    let fastest: CutOf = |log, peers, limits| {
        let applied = peers.iter().map(|peer| peer.applied).max().unwrap_or_default();
        let peers: Vec<Peer> = peers.iter().map(|peer| Peer { applied, ..peer.clone() }).collect();
        log.cut(&peers, limits)
    };
    // What is there to see, while a lower position may still come.
    let unsettled: CutOf = |log, peers, limits| {
        let peers: Vec<Peer> =
            peers.iter().map(|peer| Peer { applied: at(1 << 40), ..peer.clone() }).collect();
        Log { settled: at(1 << 40), ..log.clone() }.cut(&peers, limits)
    };
    // Trims past a peer and does not say so.
    let silent: CutOf = |log, peers, limits| Cut { marks: Vec::new(), ..log.cut(peers, limits) };
    // Keeps whatever anybody wants.
    let endless: CutOf = |log, peers, limits| {
        log.cut(peers, &Retention { bytes_max: u64::MAX, age_max: Duration::from_secs(9), ..*limits })
    };
    for (name, cut) in
        [("fastest", fastest), ("unsettled", unsettled), ("silent", silent), ("endless", endless)]
    {
        assert!(broken(300, |seed| walk(seed, cut)) > 0, "{name} was not found");
    }
}

#[test]
fn the_furthest_behind_loses_its_place_first() {
    let pieces = (0..20).map(|number| piece(number * 10 + 1, number * 10 + 10, 100)).collect();
    let log = log(pieces, None, 120);
    let names = |cut: &Cut| cut.marks.iter().map(ToString::to_string).collect::<Vec<_>>();
    // 2000 bytes are there, and all are young: half of them go, and who waits for these.
    let cut = log.cut(&[peer("us", 150), peer("ap", 15), peer("sa", 200)], &LIMITS);
    assert_eq!((cut.through, names(&cut)), (Some(at(100)), vec!["ap".to_owned()]));
    let cut = log.cut(&[peer("us", 150), peer("ap", 100), peer("sa", 200)], &LIMITS);
    assert_eq!((cut.through, names(&cut)), (Some(at(100)), vec![]));
    // All is old: what nobody waits for goes, and who waits for what is too old has waited for too long.
    let log = Log { now_us: 200, ..log };
    let cut = log.cut(&[peer("us", 200), peer("ap", 155)], &LIMITS);
    assert_eq!((cut.through, names(&cut)), (Some(at(150)), vec![]));
    let log = Log { now_us: 300, ..log };
    let cut = log.cut(&[peer("us", 200), peer("ap", 155)], &LIMITS);
    assert_eq!((cut.through, names(&cut)), (Some(at(200)), vec!["ap".to_owned()]));
    // A move reads from where it began.
    let cut = Log { read_since_us: Some(110), ..log.clone() }.cut(&[], &LIMITS);
    assert_eq!(cut.through, Some(at(100)), "only the bytes count against it");
    // A peer of another log holds nothing here.
    let other = Peer { identity: identity("b"), ..peer("sa", 5) };
    let cut = log.cut(&[peer("us", 200), other], &LIMITS);
    assert_eq!((cut.through, names(&cut)), (Some(at(200)), vec!["sa".to_owned()]));
}

#[test]
fn bytes_behind_are_about_what_lies_there() {
    let log = log(vec![piece(1, 10, 1), piece(11, 20, 2)], Some(piece(21, 30, 3)), 9);
    for (applied, bytes) in [(0, 300), (5, 250), (10, 200), (18, 120), (30, 0), (99, 0)] {
        assert_eq!(log.bytes_after(at(applied)), bytes, "after {applied}");
    }
    assert_eq!(log.bytes(), 300);
}

#[test]
fn pieces_grow_with_the_log() {
    let written = |bytes| Some(Piece { bytes, ..piece(21, 30, 100) });
    let of = |closed, bytes, now_us| log(closed, written(bytes), now_us);
    assert!(!of(vec![], 100, 110).closes(100, &LIMITS) && of(vec![], 100, 114).closes(100, &LIMITS));
    assert!(of(vec![], 126, 100).closes(100, &LIMITS), "an eighth of the bytes");
    let long = || vec![piece(1, 10, 10)];
    assert!(!of(long(), 100, 140).closes(100, &LIMITS) && of(long(), 100, 146).closes(100, &LIMITS));
    assert!(!log(vec![], None, 1_000).closes(0, &LIMITS), "nothing is written yet");
}

#[test]
fn a_peers_word_is_held_against_the_log() {
    let extent = Extent { identity: identity("a"), trimmed: at(10), end: at(50) };
    let region = RegionName::new("us").unwrap();
    let begin = |identity: &Identity, from: u64| Peer::begin(&extent, &region, identity, at(from), 7);
    assert!(matches!(begin(&identity("b"), 20), Err(PeerRefused::Other { .. })));
    assert!(matches!(begin(&identity("a"), 9), Err(PeerRefused::Trimmed { .. })));
    assert!(matches!(begin(&identity("a"), 51), Err(PeerRefused::Ahead { .. })));
    let peer = begin(&identity("a"), 10).unwrap();
    let says = |peer: &Peer, received, applied| {
        peer.acknowledge(&extent, &identity("a"), (at(received), at(applied)), 8)
    };
    let peer = says(&peer, 30, 20).unwrap();
    assert_eq!((peer.received, peer.applied, peer.acknowledged_us), (at(30), at(20), 8));
    assert_eq!(says(&peer, 30, 20).unwrap(), peer, "the same again");
    assert!(matches!(says(&peer, 29, 20), Err(PeerRefused::Back { .. })));
    assert!(matches!(says(&peer, 30, 19), Err(PeerRefused::Back { .. })));
    assert!(matches!(says(&peer, 30, 31), Err(PeerRefused::Disorder { .. })));
    assert!(matches!(says(&peer, 51, 20), Err(PeerRefused::Ahead { .. })));
    let away = Peer { needs_snapshot_us: Some(9), ..peer.clone() };
    assert!(matches!(says(&away, 40, 40), Err(PeerRefused::NeedsSnapshot { .. })), "whatever is still there");
    let other = Peer { identity: identity("z"), ..peer };
    assert!(matches!(says(&other, 40, 40), Err(PeerRefused::NeedsSnapshot { .. })));
}
