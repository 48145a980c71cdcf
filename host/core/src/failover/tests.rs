//! What a failover policy may ask and write.

use super::*;

fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

/// Regions `eu` and `us`, and so many shards of `eu` that only `eu` and `us` may have.
fn picture(shards: usize) -> Arc<Picture> {
    let well = Region {
        answers: true,
        capacity: 100,
        database: true,
        down_ms: 0,
        intents: BTreeSet::new(),
        load: 10,
        verdict: Verdict::Healthy,
        well_ago_ms: Some(0),
    };
    let shard = Shard {
        allowed: Some(BTreeSet::from([region("eu"), region("us")])),
        home: region("eu"),
        loss_bytes_max: 0,
        loss_ms_max: 0,
        loss_rows_max: 0,
        primary: region("eu"),
        replicas: Vec::new(),
        running: false,
        void: false,
    };
    let name = |number: usize| ShardName::new(&format!("s{number:05}")).unwrap();
    Arc::new(Picture {
        control: true,
        detours: BTreeMap::new(),
        failures: Vec::new(),
        frozen: false,
        limits: BTreeMap::from([("outage-ms", 3_000)]),
        local: region("us"),
        now_ms: 1,
        regions: ["ap", "eu", "us"].map(|name| (region(name), well.clone())).into(),
        removals: Vec::new(),
        shards: (0..shards).map(|number| (name(number), shard.clone())).collect(),
        sights: BTreeMap::from([((region("eu"), region("us")), BTreeMap::from([("peer", Sight::Down)]))]),
    })
}

#[test]
fn shards_come_in_pages_and_what_does_not_exist_has_nothing() {
    let picture = picture(2_500);
    let (mut after, mut pages) = (String::new(), Vec::new());
    loop {
        let names: Vec<&ShardName> = picture.page(&after, u32::MAX).map(|(name, _)| name).collect();
        let Some(last) = names.last() else { break };
        after = last.to_string();
        pages.push(names.len());
    }
    assert_eq!(pages, [1_000, 1_000, 500]);
    assert_eq!(picture.page("", 3).count(), 3);
    assert!(picture.allows("s00000", "us") && !picture.allows("s00000", "ap"));
    assert!(!picture.allows("none", "us") && !picture.allows("s00000", "none"));
    assert_eq!(picture.sight("eu", "us", "peer"), Sight::Down);
    for (region, vantage, path) in [("eu", "us", "ingress"), ("us", "eu", "peer"), ("none", "us", "peer")] {
        assert_eq!(picture.sight(region, vantage, path), Sight::Unknown);
    }
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let mut answers = Answers::new(picture(1));
    let refusals = [
        (answers.promote("none", "us"), code::UNKNOWN),
        (answers.promote("s00000", "none\u{1b}[2J"), code::UNKNOWN),
        (answers.read_only("none"), code::UNKNOWN),
        (answers.drain(""), code::UNKNOWN),
        (answers.shift("eu", "eu", 10), code::VALUE),
        (answers.shift("eu", "us", 101), code::VALUE),
        (answers.shift("eu", "us", 256), code::VALUE),
    ];
    for (refused, code) in refusals {
        let refusal = refused.unwrap_err();
        assert!(refusal.code == code && !refusal.message.contains('\u{1b}'), "{refusal}");
    }
    answers.promote("s00000", "us").unwrap();
    answers.shift("eu", "us", 100).unwrap();
    let told: Vec<String> = answers.finish().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(told, ["promote s00000 in us", "shift 100 % of eu to us"]);
}

#[test]
fn a_flood_is_no_answer() {
    let mut answers = Answers::new(picture(1));
    for _ in 0..PROPOSALS_MAX {
        answers.hold().unwrap();
    }
    assert_eq!(answers.drain("eu").unwrap_err().code, code::LIMIT);
    assert_eq!(answers.finish().unwrap_err().code, code::LIMIT);
}
