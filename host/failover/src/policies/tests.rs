//! Built-in policies over pictures, and what becomes of a policy that fails.

use super::*;
use crate::guards::judge;
use crate::guards::tests::{picture, region, shard};
use crate::matrix::Verdict;

fn told(policy: Native, picture: &Picture) -> Vec<String> {
    policy.propose(picture).iter().map(ToString::to_string).collect()
}

#[test]
fn conservative_promotes_what_is_gone_and_nothing_else() {
    assert_eq!(
        told(Native::Conservative, &picture()),
        ["promote `us` for shard `a`", "promote `us` for shard `b`", "shift 100 % of `eu` to `us`"]
    );
    let mut calm = picture();
    calm.regions.insert(region("eu"), calm.regions["us"].clone());
    assert_eq!(told(Native::Conservative, &calm), [""; 0]);
    // What nobody may take over is read only.
    let mut lagging = picture();
    lagging.shards.values_mut().for_each(|shard| shard.replicas.retain(|name, _| name.as_str() == "sa"));
    assert_eq!(told(Native::Conservative, &lagging)[..2], ["read only: shard `a`", "read only: shard `b`"]);
    // A region that is left stays where it goes already.
    let mut shifted = picture();
    shifted
        .shifts
        .insert(region("eu"), crate::picture::Shift { target: region("ap"), percent: 100, since_ms: 0 });
    assert_eq!(told(Native::Conservative, &shifted)[2], "shift 100 % of `eu` to `ap`");
}

#[test]
fn what_the_built_in_policies_propose_nothing_bars() {
    for policy in [Native::CapacityAware, Native::Conservative, Native::Fast, Native::Manual] {
        let decision = judge(&picture(), &policy.propose(&picture()));
        assert_eq!(decision.barred, [], "{}", policy.as_str());
        assert_eq!(decision.moves.is_empty(), policy == Native::Manual);
    }
}

#[test]
fn fast_leaves_what_does_not_do_its_work() {
    let mut gray = picture();
    let eu = gray.regions.get_mut("eu").unwrap();
    (eu.verdict, eu.answers, eu.down_ms) = (Verdict::Gray, true, 0);
    assert_eq!(told(Native::Conservative, &gray), [""; 0]);
    assert_eq!(told(Native::Fast, &gray), ["promote `us` for shard `a`", "promote `us` for shard `b`"]);
    gray.regions.get_mut("eu").unwrap().database = false;
    assert_eq!(told(Native::Fast, &gray), [""; 0], "its databases cannot be asked to stop");
}

#[test]
fn capacity_aware_sends_no_more_than_fits() {
    let mut large = picture();
    large.regions.get_mut("eu").unwrap().load = 1_000;
    assert_eq!(told(Native::CapacityAware, &large)[2], "shift 50 % of `eu` to `us`");
    let shift = |percent| crate::picture::Shift { target: region("us"), percent, since_ms: 0 };
    large.shifts.insert(region("eu"), shift(50));
    assert_eq!(
        told(Native::CapacityAware, &large)[2],
        "shift 50 % of `eu` to `us`",
        "what is there already counts once"
    );
}

#[test]
fn a_policy_that_fails_keeps_its_last_answer_and_then_loses_its_seat() {
    let mut seat = Seat::new("mine", None);
    let mine = vec![Proposal::ReadOnly { shard: shard("a") }];
    let (first, author) = seat.answer(Ok((mine.clone(), 7)), &picture());
    assert_eq!((first, author.name.as_str(), author.fuel), (mine.clone(), "mine", 7));
    for _ in 0..2 {
        let (held, author) = seat.answer(Err(Fault::Overrun), &picture());
        assert_eq!((held, author.name.as_str(), author.fault), (mine.clone(), "mine", Some(Fault::Overrun)));
    }
    let (native, author) = seat.answer(Err(Fault::Trap("oh".to_owned())), &picture());
    assert_eq!((native.len(), author.name.as_str()), (3, "conservative"));
    let (back, author) = seat.answer(Ok((mine.clone(), 1)), &picture());
    assert_eq!((back, author.name.as_str()), (mine, "mine"));
    let flood = vec![Proposal::Hold; PROPOSALS_MAX + 1];
    let (_, author) = seat.answer(Ok((flood, 1)), &picture());
    assert!(matches!(author.fault, Some(Fault::Garbage(_))));
    assert_eq!(seat.swap("other", None, 2), Err(Busy(2)));
    assert_eq!(seat.swap("other", None, 0), Ok(()));
}
