//! What readers bring so that they see what they wrote.

use portolan_core::ids::ShardName;
use portolan_core::token::Token;
use portolan_foundation::endpoint::Positions as _;

use super::world::World;
use crate::{Limits, Watermarks};

#[tokio::test]
async fn the_primary_knows_what_a_token_means() {
    let world = World::new(Limits::default());
    world.keep("a", world.sqlite("a"), Watermarks::default()).await;
    let written = world.check("a", "POST /notes", r#"{"id": 1, "body": "one"}"#, 201, "").await;
    let token = written.header("portolan-token").to_owned();
    let get = |fields: &str| format!("GET /notes/1{fields}");
    for fresh in [
        String::new(),
        " | portolan-consistency: primary".to_owned(),
        " | portolan-consistency: local".to_owned(),
        " | portolan-consistency: max-staleness=5".to_owned(),
        format!(" | portolan-token: {token}"),
        format!(" | portolan-consistency: at-least | portolan-token: {token}"),
        // Of a shard that the tenant is not on.
        " | portolan-token: v1;b=9.9.9".to_owned(),
    ] {
        world.check("a", &get(&fresh), "", 200, "one").await;
    }
    for nonsense in ["portolan-consistency: soon", "portolan-token: v1;a", "portolan-consistency: at-least"] {
        world.check("a", &get(&format!(" | {nonsense}")), "", 400, "bad-request").await;
    }
    // Later in the same lease than anything that is there.
    let ahead = world.check("a", &get(" | portolan-token: v1;a=1.999999.1"), "", 503, "token-ahead").await;
    let known = token.strip_prefix("v1;a=").unwrap();
    assert!(ahead.text.contains(known) && !ahead.header("retry-after").is_empty(), "{ahead:?}");
    // Of a lease that this log has not had.
    let other = world.check("a", &get(" | portolan-token: v1;a=7.1.1"), "", 409, "token-unknown").await;
    assert!(other.text.contains(known), "{other:?}");
    // Of this log, but after the end of its lease: what was written then was lost.
    world.promote("a", 2, "eu");
    world
        .until("a", |report| report.epoch == 2 && report.lease_ms.is_some() && report.problem.is_none())
        .await;
    let again = format!(" | portolan-token: {token}");
    loop {
        // The lease of the epoch before may still be the one that is seen.
        let answer = world.send("a", "acme", &get(&again), "").await;
        if answer.status == 200 {
            break;
        }
    }
    world.check("a", &get(" | portolan-token: v1;a=1.999999.1"), "", 409, "token-unknown").await;
}

#[tokio::test]
async fn whoever_asks_where_the_log_is_gets_a_read_after_its_write() {
    let world = World::new(Limits::default());
    world.keep("a", world.sqlite("a"), Watermarks::default()).await;
    let shard = ShardName::new("a").unwrap();
    let one = async |id: u64| {
        let row = format!(r#"{{"id": {id}, "body": "one"}}"#);
        let written = world.check("a", "POST /notes", &row, 201, "").await;
        let token: Token = written.header("portolan-token").parse().unwrap();
        let newest = world.service.newest(&shard).await.unwrap();
        assert!(newest >= token.position("a").unwrap(), "{newest} {token}");
    };
    // Fewer than a tenant may have at once.
    for round in 0..4 {
        futures_util::future::join_all((0..8).map(|id| one(round * 8 + id))).await;
    }
    // Those that ask at the same moment share one read.
    let before = world.reads("a");
    let all = futures_util::future::join_all((0..200).map(|_| world.service.newest(&shard))).await;
    assert!(all.iter().all(|newest| *newest == all[0] && newest.is_some()));
    assert!(world.reads("a") <= before + 2, "{} reads", world.reads("a") - before);
    assert_eq!(world.service.newest(&ShardName::new("b").unwrap()).await, None);
}

/// Who asks for whatever is there gets it also from a region that may not write any more, marked by the time since then.
#[tokio::test]
async fn a_region_without_its_lease_answers_from_what_it_has() {
    let world = World::new(Limits::default());
    world.keep("a", world.sqlite("a"), Watermarks::default()).await;
    let written = world.check("a", "POST /notes", r#"{"id": 1, "body": "one"}"#, 201, "").await;
    let token = written.header("portolan-token").to_owned();
    world.lose("a");
    let local = world.check("a", "GET /notes/1 | portolan-consistency: local", "", 200, "one").await;
    let first: f64 = local.header("portolan-staleness").parse().unwrap();
    world.check("a", "GET /notes/1 | portolan-consistency: max-staleness=3600", "", 200, "one").await;
    let local = world.check("a", "GET /notes/1 | portolan-consistency: local", "", 200, "one").await;
    let later: f64 = local.header("portolan-staleness").parse().unwrap();
    assert!(first >= 0.0 && later >= first, "{first} {later}");
    for fresh in
        [String::new(), " | portolan-consistency: primary".to_owned(), format!(" | portolan-token: {token}")]
    {
        world.check("a", &format!("GET /notes/1{fresh}"), "", 503, "unavailable").await;
    }
    world.check("a", "POST /notes", r#"{"id": 2}"#, 503, "unavailable").await;
    // Once another region is known to write, what is here is as fresh as its feed says, and there is none.
    world.promote("a", 2, "us");
    world.check("a", "GET /notes/1 | portolan-consistency: local", "", 503, "unavailable").await;
}
