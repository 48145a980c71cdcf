//! Questions of the wire and answers to them, read back, cut short and overlong.

use proptest::prelude::*;

use super::*;
use crate::id::ChunkId;
use crate::manifest::Entry;

fn named() -> Named {
    Named {
        shard: ShardName::new("s1").unwrap(),
        tenant: TenantName::new("acme").unwrap(),
        item: ItemId([1; 16]),
        root: Root([2; 32]),
    }
}

fn questions() -> Vec<Question> {
    let Named { shard, tenant, .. } = named();
    let lent = Lent {
        shard: shard.clone(),
        source: tenant.clone(),
        target: TenantName::new("globex").unwrap(),
        share: "0a".to_owned(),
    };
    let wishes = [
        Wish::Accept,
        Wish::Bytes { name: "a".to_owned(), version: "v".to_owned(), at: 7 },
        Wish::End,
        Wish::Items { after: vec![1] },
        Wish::Word,
    ];
    let lent = wishes.map(|wish| Question::Lent { lent: lent.clone(), wish });
    let spans = vec![Span { epoch: 3, last: 9 }, Span { epoch: 1, last: 4 }];
    let mut all = vec![
        Question::Tenants { shard: shard.clone(), after: "a".to_owned(), gathers: false },
        Question::Changes { shard, tenant, spans, gathers: true },
        Question::List { content: named(), from: 1 },
        Question::Chunks { content: named(), part: 2, wanted: vec![0b101] },
        Question::Patch { content: named(), base: Root([3; 32]), from: 4 },
    ];
    all.extend(lent);
    all
}

fn answers() -> Vec<Answer> {
    let (entry, key) = (Entry { id: ChunkId([6; 32]), bytes: 3 }, Secret::new([7; 32]));
    let change = Change {
        at_ms: 5,
        detail: "v".to_owned(),
        digest: "d".to_owned(),
        epoch: 1,
        kind: "version".to_owned(),
        seq: 9,
        site: "docs".to_owned(),
        subject: "a".to_owned(),
    };
    let brought = Brought {
        item: ItemId([1; 16]),
        media: "text/plain".to_owned(),
        record: vec![1],
        bytes: 2,
        kept: true,
        small: Some(vec![3, 4]),
        follows: Vec::new(),
    };
    let told = vec![
        Told { change: change.clone(), what: What::Nothing },
        Told { change, what: What::Version(Box::new(brought)) },
    ];
    let head = Head { base: Root([3; 32]), root: Root([4; 32]), bytes: 5 };
    vec![
        Answer::Refused(Refused::Away("later".to_owned())),
        Answer::Tenants(Tenants { tenants: vec![(named().tenant, 1, 2)], next: None, withheld: 1 }),
        Answer::Changes(Box::new(Changes {
            epoch: 2,
            names: Secret::new([8; 32]),
            after: 7,
            told,
            more: true,
        })),
        Answer::List { parts: vec![vec![Keyed { entry, key }]], more: false },
        Answer::Chunks(vec![Sent { at: 0, coding: Coding::Zstd, sealed: vec![1, 2] }]),
        Answer::Patch { head, ops: vec![Op::Copy { from: 1, chunks: 2 }], more: false },
        Answer::Bytes { total: 9, bytes: vec![1] },
        Answer::Items {
            items: vec![LentItem {
                bytes: 2,
                item: ItemId([1; 16]),
                media: "text/plain".to_owned(),
                name: "a".to_owned(),
                version: "v".to_owned(),
            }],
            next: Some(vec![1]),
        },
    ]
}

#[test]
fn messages_are_read_as_they_were_sent() {
    for question in questions() {
        let bytes = question.bytes().unwrap();
        assert!(Question::is(&bytes));
        assert_eq!(Question::read(&bytes).unwrap(), question);
    }
    for answer in answers() {
        assert_eq!(Answer::read(&answer.bytes().unwrap()).unwrap(), answer);
    }
}

#[test]
fn what_is_too_large_is_neither_sent_nor_taken() {
    let spans = vec![Span { epoch: 1, last: 1 }; SPANS_MAX + 1];
    let Named { shard, tenant, .. } = named();
    assert!(Question::Changes { shard, tenant, spans, gathers: false }.bytes().is_err());
    let wanted = vec![0; NODE_ENTRIES_MAX];
    assert!(Question::Chunks { content: named(), part: 0, wanted }.bytes().is_err());
    let sent = Sent { at: 0, coding: Coding::Raw, sealed: vec![0; MESSAGE_BYTES_MAX] };
    assert!(matches!(Answer::Chunks(vec![sent]).bytes(), Err(Error::Limit { .. })));
    assert!(Answer::read(&vec![0; MESSAGE_BYTES_MAX + 1]).is_err());
    assert!(!Question::is(b"{\"ask\":\"look\"}"), "others' words are no questions of these");
}

proptest! {
    #[test]
    fn strange_bytes_are_refused(bytes: Vec<u8>, flip: prop::sample::Index) {
        let question = [MAGIC.as_slice(), &bytes].concat();
        if let Ok(read) = Question::read(&question) {
            prop_assert!(read.bytes().is_ok());
        }
        if let Ok(read) = Answer::read(&bytes) {
            prop_assert!(read.bytes().is_ok());
        }
        for mut sent in answers().iter().map(|answer| answer.bytes().unwrap()) {
            let place = flip.index(sent.len());
            sent[place] ^= 0x10;
            drop(Answer::read(&sent));
        }
    }
}
