//! A shard in three regions, a lease, clocks that differ, gateways that die, writers that know no gateway.

use portolan_core::log::Epoch;
use std::time::Duration;

use portolan_core::time::Moment;

use super::super::fence::*;
use super::{Dice, broken, hold};

const TTL: u64 = 90;
const MARGIN: u64 = 15;
/// How far a clock may run off while a lease lasts.
const DRIFT: u64 = 5;

/// The lease, which is somewhere that is consistent.
struct Keeper {
    epoch: u64,
    holder: usize,
    renewed_at: u64,
}

struct Region {
    fence: Fence,
    /// The database's clock is the true time and this.
    offset: u64,
    /// A renewal on its way: the clock before it was sent, and when its answer arrives.
    renewal: Option<(u64, u64)>,
    gateway: bool,
    /// A direct writer's transaction: the epoch that it found.
    writer: Option<Epoch>,
}

#[derive(Clone, Copy, PartialEq)]
enum Variant {
    Right,
    /// The deadline is counted from when the answer came.
    FromAnswer,
    /// The fence is looked at when a statement runs, not at commit.
    StatementsOnly,
    /// The deadline is of the gateway's clock, not the database's.
    OtherClock,
}

/// At no time do two databases take a commit, nor one after a later epoch has begun elsewhere.
fn walk(seed: u64, variant: Variant) -> Result<(), String> {
    let mut dice = Dice(seed);
    let region = |dice: &mut Dice| Region {
        fence: Fence::default(),
        offset: 10_000 + dice.below(2_000),
        renewal: None,
        gateway: true,
        writer: None,
    };
    let mut regions = [region(&mut dice), region(&mut dice), region(&mut dice)];
    let mut keeper = Keeper { epoch: 0, holder: 0, renewed_at: 0 };
    let mut newest_commit = 0;
    for now in 1..1_500_u64 {
        let at = usize::try_from(dice.below(3)).unwrap();
        // Somebody takes the lease that nobody renewed.
        if dice.one_in(6)
            && regions[at].gateway
            && (keeper.epoch == 0 || now > keeper.renewed_at + TTL + DRIFT)
        {
            keeper = Keeper { epoch: keeper.epoch + 1, holder: at, renewed_at: now };
            let region = &mut regions[at];
            let deadline = now + region.offset + TTL - MARGIN;
            region.fence =
                region.fence.begin(Epoch(keeper.epoch), deadline).map_err(|error| error.to_string())?;
        }
        let (holder, offset) = (keeper.holder, regions[keeper.holder].offset);
        let region = &mut regions[holder];
        if keeper.epoch > 0 && region.gateway && region.renewal.is_none() && dice.one_in(10) {
            // The keeper hears of it at once; the answer may take long.
            region.renewal = Some((now + offset, now + dice.below(60)));
            keeper.renewed_at = now;
        }
        for region in &mut regions {
            if let Some((sent, arrives)) = region.renewal
                && arrives <= now
            {
                region.renewal = None;
                let from = match variant {
                    Variant::FromAnswer => now + region.offset,
                    Variant::OtherClock => now + 11_900,
                    Variant::Right | Variant::StatementsOnly => sent,
                };
                let deadline = from + TTL - MARGIN;
                if region.gateway && region.fence.epoch.0 == keeper.epoch {
                    region.fence = region
                        .fence
                        .extend(Epoch(keeper.epoch), deadline)
                        .map_err(|error| error.to_string())?;
                }
            }
        }
        let region = &mut regions[at];
        if dice.one_in(80) {
            region.gateway = !region.gateway;
        }
        // The database's clock drifts a little.
        let clock = now + region.offset + dice.below(DRIFT);
        let open = region.fence.check(region.writer.unwrap_or(region.fence.epoch), clock).is_ok();
        match region.writer {
            None if open && dice.one_in(3) => region.writer = Some(region.fence.epoch),
            Some(_) if dice.one_in(8) => {
                let epoch = region.writer.take().map_or(0, |epoch| epoch.0);
                if open || variant == Variant::StatementsOnly {
                    if epoch < newest_commit {
                        return Err(format!(
                            "at {now} region {at} commits under {epoch}, after {newest_commit} has"
                        ));
                    }
                    newest_commit = epoch;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[test]
fn one_lease_one_writer_even_when_every_gateway_is_dead() {
    hold(5_000, |seed| walk(seed, Variant::Right));
}

#[test]
fn fences_that_let_two_write_are_found() {
    for (name, variant) in [
        ("counted from the answer", Variant::FromAnswer),
        ("not read at commit", Variant::StatementsOnly),
        ("of another clock", Variant::OtherClock),
    ] {
        assert!(broken(1_000, |seed| walk(seed, variant)) > 0, "{name} was not found");
    }
}

#[test]
fn epochs_only_rise_and_closing_is_for_the_own_lease() {
    let fence = Fence { epoch: Epoch(4), deadline_us: 100, member: 0 };
    assert_eq!(fence.begin(Epoch(4), 200), Err(Refused::Epoch { there: Epoch(4), wanted: Epoch(4) }));
    assert_eq!(fence.begin(Epoch(5), 200), Ok(Fence { epoch: Epoch(5), deadline_us: 200, member: 0 }));
    assert_eq!(fence.extend(Epoch(4), 50), Ok(fence), "an answer that is late takes nothing away");
    assert_eq!(fence.extend(Epoch(3), 500), Err(Refused::Over { there: Epoch(4), wanted: Epoch(3) }));
    assert_eq!(fence.close(Epoch(3)), Err(Refused::Over { there: Epoch(4), wanted: Epoch(3) }));
    let closed = fence.close(Epoch(4)).unwrap();
    assert_eq!(closed.deadline_us, 0);
    assert!(closed.extend(Epoch(4), 500).is_err(), "a late renewal opens nothing");
    assert_eq!(fence.check(Epoch(4), 99), Ok(()));
    assert_eq!(fence.check(Epoch(4), 100), Err(Closed::Expired));
    assert_eq!(fence.check(Epoch(3), 99), Err(Closed::Moved));
    assert_eq!(fence.check_member(), Err(Closed::Member));
    assert_eq!(Fence { member: 7, ..fence }.check_member(), Ok(()));
}

#[test]
fn a_held_or_moved_tenant_is_not_written() {
    let tenant = TenantState::default();
    assert_eq!(tenant.check(9), Ok(()));
    let held = TenantState { hold: Some("move-1".into()), ..TenantState::default() };
    assert_eq!(held.check(u64::MAX), Err(Closed::Held), "without an end it has none");
    let ends = TenantState { hold_until_us: Some(10), ..held };
    assert_eq!((ends.check(9), ends.check(10)), (Err(Closed::Held), Ok(())));
    assert_eq!(TenantState { away: true, ..tenant }.check(9), Err(Closed::Away));
}

#[test]
fn a_gateway_that_lost_its_lease_does_not_know_what_it_wrote() {
    let sent = Moment(1_000_000);
    let lease = Lease::granted(Epoch(3), sent, Duration::from_secs(9), Duration::from_secs(2));
    assert!(lease.allows(sent.plus(Duration::from_millis(6_999))));
    assert!(!lease.allows(sent.plus(Duration::from_secs(7))));
    assert_eq!(lease.outcome(sent.plus(Duration::from_secs(1))), Outcome::Done);
    assert_eq!(lease.outcome(sent.plus(Duration::from_secs(8))), Outcome::Unknown);
}

#[test]
fn a_sealed_fence_may_be_sealed_again_and_never_opens() {
    let fence = Fence { epoch: Epoch(4), deadline_us: 100, member: 7 };
    assert_eq!(fence.knows(Epoch(4)), fence, "it is no news");
    let sealed = fence.seal(Epoch(5)).unwrap();
    assert_eq!(sealed, Fence { epoch: Epoch(5), deadline_us: 0, member: 7 });
    assert_eq!(sealed.seal(Epoch(5)), Ok(sealed));
    assert!(sealed.extend(Epoch(5), 500).is_err());
    assert_eq!(
        fence.seal(Epoch(4)),
        Err(Refused::Epoch { there: Epoch(4), wanted: Epoch(4) }),
        "it began here"
    );
    assert_eq!(fence.seal(Epoch(3)), Err(Refused::Epoch { there: Epoch(4), wanted: Epoch(3) }));
}
