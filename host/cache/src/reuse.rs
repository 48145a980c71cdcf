//! What a stored response is good for now: RFC 9111, section 4.2 with the request's directives, RFC 5861, RFC 8246.

use crate::directives::Request;
use crate::policy::Policy;

/// How a stored response may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// It is given, and asked about behind the client's back (RFC 5861, section 3).
    Background,
    Fresh,
    /// It is given, because the client takes a stale one.
    Stale,
    /// It is given only once its origin has confirmed it.
    Validate,
}

/// How it may be used at a time. `purged` says that it was purged softly: it is stale, whatever its age.
pub(crate) fn of(policy: &Policy, asked: &Request, now_ms: u64, purged: bool) -> Use {
    let age = policy.age_s(now_ms);
    let is_young = asked.max_age.is_none_or(|limit| age <= limit && limit > 0);
    let is_fresh = !purged && age < policy.lifetime_s;
    // Clients reload with `max-age=0` what needs no reload (RFC 8246, section 2).
    let reloads = !(is_young || policy.immutable && is_fresh);
    if policy.no_cache || asked.no_cache || reloads {
        return Use::Validate;
    }
    let left = policy.lifetime_s.saturating_sub(age);
    if is_fresh {
        return if asked.min_fresh.is_none_or(|wanted| left >= wanted) { Use::Fresh } else { Use::Validate };
    }
    if policy.must_revalidate || asked.min_fresh.is_some() {
        return Use::Validate;
    }
    let stale_for = staleness(policy, now_ms);
    if !purged && asked.max_stale.is_some_and(|limit| stale_for <= limit) {
        return Use::Stale;
    }
    if stale_for < policy.stale_while_revalidate_s { Use::Background } else { Use::Validate }
}

/// May it stand in for an origin that fails? (RFC 5861, section 4)
pub(crate) const fn stands_in(policy: &Policy, now_ms: u64) -> bool {
    !policy.must_revalidate && !policy.no_cache && staleness(policy, now_ms) < policy.stale_if_error_s
}

/// For how long it has been stale, in seconds. When a soft purge came is not kept: what it made stale is so from now on.
const fn staleness(policy: &Policy, now_ms: u64) -> u64 {
    policy.age_s(now_ms).saturating_sub(policy.lifetime_s)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(lifetime_s: u64) -> Policy {
        Policy { lifetime_s, stale_while_revalidate_s: 10, stale_if_error_s: 20, ..Policy::default() }
    }

    fn at(policy: &Policy, asked: Request, now_s: u64) -> Use {
        of(policy, &asked, now_s * 1_000, false)
    }

    #[test]
    fn a_life_passes() {
        let asked = Request::default();
        for (now, expected) in
            [(59, Use::Fresh), (60, Use::Background), (69, Use::Background), (70, Use::Validate)]
        {
            assert_eq!(at(&policy(60), asked, now), expected, "{now}");
        }
        assert!(stands_in(&policy(60), 79_000));
        assert!(!stands_in(&policy(60), 80_000));
    }

    #[test]
    fn clients_ask_for_more_or_less() {
        let none = Request::default();
        let cases = [
            (Request { max_age: Some(0), ..none }, 5, Use::Validate),
            (Request { max_age: Some(4), ..none }, 5, Use::Validate),
            (Request { max_age: Some(5), ..none }, 5, Use::Fresh),
            (Request { min_fresh: Some(55), ..none }, 5, Use::Fresh),
            (Request { min_fresh: Some(56), ..none }, 5, Use::Validate),
            (Request { no_cache: true, ..none }, 5, Use::Validate),
            (Request { max_stale: Some(30), ..none }, 90, Use::Stale),
            (Request { max_stale: Some(30), ..none }, 91, Use::Validate),
        ];
        for (asked, now, expected) in cases {
            assert_eq!(at(&policy(60), asked, now), expected, "{asked:?} at {now}");
        }
    }

    #[test]
    fn origins_forbid() {
        let strict = Policy { must_revalidate: true, ..policy(60) };
        let generous = Request { max_stale: Some(1_000), ..Request::default() };
        assert_eq!(at(&strict, generous, 61), Use::Validate);
        assert!(!stands_in(&strict, 61_000));
        let careful = Policy { no_cache: true, ..policy(60) };
        assert_eq!(at(&careful, generous, 1), Use::Validate);
        assert!(!stands_in(&careful, 1_000));
    }

    #[test]
    fn what_is_immutable_is_not_asked_about_while_it_is_fresh() {
        let fixed = Policy { immutable: true, ..policy(60) };
        let reload = Request { max_age: Some(0), ..Request::default() };
        assert_eq!(at(&fixed, reload, 59), Use::Fresh);
        assert_eq!(at(&fixed, reload, 60), Use::Validate);
        assert_eq!(at(&fixed, Request { no_cache: true, ..reload }, 59), Use::Validate);
    }

    #[test]
    fn a_soft_purge_makes_stale() {
        assert_eq!(of(&policy(60), &Request::default(), 1_000, true), Use::Background);
        let plain = Policy { lifetime_s: 60, ..Policy::default() };
        assert_eq!(of(&plain, &Request::default(), 1_000, true), Use::Validate);
    }

    proptest! {
        /// Whatever is asked: what the origin wants confirmed is confirmed, and nothing is called fresh past its life.
        #[test]
        fn laws(life in 0_u64..100, now in 0_u64..200, max_stale in proptest::option::of(0_u64..100), strict: bool, purged: bool) {
            let policy = Policy { must_revalidate: strict, ..policy(life) };
            let found = of(&policy, &Request { max_stale, ..Request::default() }, now * 1_000, purged);
            if found == Use::Fresh {
                prop_assert!(now < life && !purged);
            }
            if strict && now >= life {
                prop_assert_eq!(found, Use::Validate);
            }
            if purged {
                prop_assert!(found == Use::Background || found == Use::Validate);
            }
        }
    }
}
