//! Frames: what is said is heard, and nothing else is.

use bytes::BytesMut;
use portolan_changelog::{Batch, Change, Cut, Record, RowChange, RowId, Sealed, Term};
use portolan_core::balance::splitmix;
use portolan_core::ids::TenantName;
use portolan_core::log::{Epoch, Identity, Placement, Position, Version};

use super::region;
use crate::defaults::FRAME_BYTES_MAX;
use crate::wire::{Ask, Beat, Frame, Garbled, Has, Refused, Rows, Welcome, What};

fn record(seed: u64) -> Record {
    let version = |v: u64| Version { epoch: Epoch(v % 3), v, origin: region("eu") };
    let id = RowId { table: "notes".into(), key: format!("[\"acme\", {seed}]") };
    let change = match seed % 4 {
        0 => Change::Forget,
        1 => Change::Row(RowChange {
            id,
            row: None,
            version: version(seed),
            replaces: Some(version(seed / 2)),
            marks: Some("{}".into()),
        }),
        _ => Change::Row(RowChange {
            id,
            row: Some(format!(
                "{{\"id\":{seed},\"body\":\"é\\u0000{}\"}}",
                "x".repeat((seed % 700) as usize)
            )),
            version: version(seed),
            replaces: None,
            marks: None,
        }),
    };
    Record {
        position: Position::new(seed % 5, seed, seed % 7),
        at_us: seed,
        tenant: (!seed.is_multiple_of(3)).then(|| TenantName::new("acme").unwrap()),
        placement: Placement(seed % 2),
        schema: seed % 9,
        change,
    }
}

fn asks(what: What) -> Ask {
    Ask { protocols: (1, 1), shard: "s1".into(), credit_bytes: 9, what, said_us: 3 }
}

fn frames() -> Vec<Frame> {
    let identity = Identity { system: "7-1".into(), timeline: 3, incarnation: "abc".into() };
    let (records, at) =
        ((0..50).map(|number| record(splitmix(number) >> 2)).collect::<Vec<_>>(), Position::new(4, 5, 6));
    let cut = Cut { region: region("eu"), identity: identity.clone(), at };
    let term = Term { epoch: Epoch(2), region: region("us"), over: Epoch(1), cuts: vec![cut] };
    vec![
        Frame::Ask(Ask {
            protocols: (1, 2),
            shard: "s1".into(),
            credit_bytes: 9,
            what: What::Log {
                identity: Some(identity.clone()),
                after: at,
                applied: Position::START,
                seen_us: 5,
            },
            said_us: 6,
        }),
        Frame::Ask(Ask {
            protocols: (1, 1),
            shard: "s1".into(),
            credit_bytes: 0,
            what: What::Rows { identity: None, after: Some(RowId { table: "t".into(), key: "[1]".into() }) },
            said_us: 0,
        }),
        Frame::Has(Has { bytes: 12, received: at, applied: at, said_us: 5 }),
        Frame::Welcome(Welcome {
            protocol: 1,
            identity: identity.clone(),
            from: at,
            schema: 3,
            terms: vec![term.clone()],
            others: term.cuts.clone(),
        }),
        Frame::Terms(vec![term.clone()]),
        Frame::Sealed(Sealed { before: Epoch(1), heads: term.cuts.clone(), terms: vec![term] }),
        Frame::Ask(asks(What::Seal(Epoch(7)))),
        Frame::Ask(asks(What::Report)),
        Frame::Ask(asks(What::Tail { of: region("us"), identity: identity.clone(), after: at })),
        Frame::Ask(asks(What::Named(vec![RowId { table: "notes".into(), key: "[1]".into() }]))),
        Frame::Ask(asks(What::Log {
            identity: None,
            after: Position::START,
            applied: Position::START,
            seen_us: 0,
        })),
        Frame::Refused(Refused::Snapshot("it was trimmed".into())),
        Frame::Batch(Batch {
            identity,
            after: Position::START,
            through: at,
            at_us: 8,
            ends: false,
            records: records.clone(),
        }),
        Frame::Rows(Rows { records, ends: true }),
        Frame::Beat(Beat {
            at_us: 1,
            through: at,
            waiting_us: 0,
            kept: Position::START,
            closed: true,
            said_us: 7,
            held_us: 8,
        }),
    ]
}

#[test]
fn what_is_said_is_heard_in_whatever_pieces_it_comes() {
    let frames = frames();
    let all: Vec<u8> = frames.iter().flat_map(|frame| frame.encode().unwrap()).collect();
    for size in [1, 7, 1_000, all.len()] {
        let (mut buffer, mut heard) = (BytesMut::new(), Vec::new());
        for piece in all.chunks(size) {
            buffer.extend_from_slice(piece);
            while let Some((frame, _)) = Frame::decode(&mut buffer).unwrap() {
                heard.push(frame);
            }
        }
        assert!(buffer.is_empty());
        assert_eq!(heard, frames, "in pieces of {size}");
    }
}

#[test]
fn what_a_later_release_says_is_passed_over() {
    let beat = Frame::Beat(Beat {
        at_us: 1,
        through: Position::START,
        waiting_us: 0,
        kept: Position::START,
        closed: false,
        said_us: 0,
        held_us: 0,
    });
    let mut bytes = BytesMut::from(&[0, 0, 0, 3, 250, 1, 2, 3][..]);
    bytes.extend_from_slice(&beat.encode().unwrap());
    let (heard, _) = Frame::decode(&mut bytes).unwrap().unwrap();
    assert_eq!((heard, bytes.len()), (beat, 0));
}

#[test]
fn what_is_no_frame_is_refused() {
    let long = u32::try_from(FRAME_BYTES_MAX).unwrap() + 1;
    let mut bytes = BytesMut::from(&[long.to_be_bytes().as_slice(), &[5]].concat()[..]);
    assert_eq!(Frame::decode(&mut bytes), Err(Garbled::Long(FRAME_BYTES_MAX + 1)));
    // A batch that is not packed, and one whose few bytes say that they are many.
    let mut bytes = BytesMut::from(&[0, 0, 0, 2, 5, 1, 2][..]);
    assert!(matches!(Frame::decode(&mut bytes), Err(Garbled::Message(_) | Garbled::Long(_))));
    // Any bytes at all end in a frame, in waiting for more, or in a refusal.
    for seed in 0..20_000_u64 {
        let mut bytes: Vec<u8> =
            (0..splitmix(seed) % 64).map(|at| (splitmix(seed ^ (at << 32)) >> 13) as u8).collect();
        if let Some(head) = bytes.first_chunk_mut::<4>() {
            *head = [0, 0, 0, (splitmix(seed) % 60) as u8];
        }
        let _any = Frame::decode(&mut BytesMut::from(bytes.as_slice()));
    }
}
