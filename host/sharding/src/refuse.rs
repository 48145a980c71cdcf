//! What is refused before a database is asked.

use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::Position;
use portolan_core::loss::Durability;
use portolan_core::tenant::Barred;

use crate::data::{Code, Problem};

pub(crate) fn bad_consistency(why: &str) -> Problem {
    Problem::new(Code::BadRequest, why)
}

/// Nobody serves the tenant.
pub(crate) fn barred(why: Barred) -> Problem {
    let why = match why {
        Barred::Erased => "the tenant is erased: nothing is kept of it any more",
        Barred::Suspended => "the operator has suspended the tenant",
    };
    Problem::new(Code::Suspended, why)
}

pub(crate) fn broken_content() -> Problem {
    Problem::new(Code::BadContent, "the content broke off: send it again")
}

pub(crate) fn busy() -> Problem {
    Problem::new(Code::Busy, "too many requests wait for this shard: ask again in a while")
}

/// The shard's database was silent or gone too often.
pub(crate) fn failing(shard: &ShardName, left: std::time::Duration) -> Problem {
    let detail = format!(
        "the database of shard `{shard}` fails and is left alone for a moment; nothing was written, ask again"
    );
    Problem::new(Code::Failing, detail).retry_after(left)
}

/// The disk, or what the operator gave the database, is nearly used up.
pub(crate) fn storage_full(shard: &ShardName) -> Problem {
    let detail = format!(
        "shard `{shard}` is full: rows are read and deleted, and nothing else is written until its operator makes place"
    );
    Problem::new(Code::StorageFull, detail)
}

/// Too much of the shard is in no other region.
pub(crate) fn past_max_loss(shard: &ShardName) -> Problem {
    let detail = format!(
        "shard `{shard}` has been written for longer than it may without another region having received it; nothing was written, try \
         again when its copies are back"
    );
    Problem::new(Code::PastMaxLoss, detail)
}

/// It is written, and that is all that is known.
pub(crate) fn unconfirmed(wanted: Durability, token: Option<&str>) -> Problem {
    let who = match wanted {
        Durability::Majority => "a majority of the regions that keep it has not",
        Durability::Local | Durability::OneRegion => "no other region has",
    };
    let detail = format!(
        "this is written, and {who} said within {:?} that it was received: it would be lost with this region. Do not write it again; \
         read it with the token to see it, and it reaches the other regions when they come back",
        crate::defaults::CONFIRM_WAIT
    );
    Problem::new(Code::Unconfirmed, detail).token(token)
}

pub(crate) fn overloaded() -> Problem {
    Problem::new(
        Code::Overloaded,
        "the gateway has all the contents and answers that it can hold: ask again in a while",
    )
}

pub(crate) fn tenant_busy() -> Problem {
    let detail = "the tenant has as many requests, or as many bytes of them, as one tenant may have at once: wait for some to end";
    Problem::new(Code::TenantBusy, detail)
}

/// The token is of a history that this log does not have.
pub(crate) fn token_unknown(shard: &ShardName, wanted: Position, known: Position) -> Problem {
    let detail = format!(
        "the token names {wanted} of shard `{shard}`, whose log has only {known} of that time: what came after was lost or is of \
         another log; read without the token, and look what is there"
    );
    Problem::new(Code::TokenUnknown, detail)
}

/// The log is not there yet.
pub(crate) fn token_ahead(shard: &ShardName, wanted: Position, known: Position) -> Problem {
    let detail = format!(
        "the token names {wanted} of shard `{shard}`, whose log has come to {known}; ask again, or read without the token"
    );
    Problem::new(Code::TokenAhead, detail)
}

/// The sender goes by another lease: it looks again.
pub(crate) fn elsewhere(shard: &ShardName, local: &RegionName) -> Problem {
    Problem::new(
        Code::Elsewhere,
        format!("shard `{shard}` is not written in `{local}` under the lease that was named"),
    )
}

pub(crate) fn foreign_tenant() -> Problem {
    Problem::new(Code::Forbidden, "the token is another tenant's than the one that the request names")
}

pub(crate) fn held() -> Problem {
    Problem::new(Code::Held, "the tenant's writes are held while it moves: ask again in a moment")
}

pub(crate) fn no_lease(shard: &ShardName) -> Problem {
    let why = "has no lease here now: it is being renewed, or another region takes over";
    Problem::new(Code::Unavailable, format!("shard `{shard}` {why}"))
}

pub(crate) fn no_shard() -> Problem {
    Problem::new(Code::NoShard, "the tenant is on no shard: its operator declares one with `[shard.NAME]`")
}

pub(crate) fn external(shard: &ShardName) -> Problem {
    let why = format!(
        "shard `{shard}` is kept by an engine that replicates itself, and its rows are reached through the tenant's application alone"
    );
    Problem::new(Code::External, why)
}

pub(crate) fn no_such_path() -> Problem {
    Problem::new(Code::NotFound, "there is no such path")
}

pub(crate) fn no_tenant() -> Problem {
    let why = "the token is not bound to a tenant, and the request names none by its host, path or header";
    Problem::new(Code::BadRequest, why)
}

pub(crate) fn not_allowed(writes: bool) -> Problem {
    let scope = if writes { "data:write" } else { "data:read" };
    Problem::new(Code::Forbidden, format!("the caller lacks `{scope}`"))
}

pub(crate) fn not_open(shard: &ShardName) -> Problem {
    let why = "is not open: `portolan status` says why, to its operator";
    Problem::new(Code::Unavailable, format!("the database of shard `{shard}` {why}"))
}

pub(crate) fn outcome_unknown() -> Problem {
    Problem::new(Code::OutcomeUnknown, "the gateway failed while it was at work: read before writing again")
}

pub(crate) fn too_large(bytes_max: usize) -> Problem {
    Problem::new(Code::TooLarge, format!("the content has more than {bytes_max} bytes: send it in parts"))
}

pub(crate) fn unauthentic(why: &str) -> Problem {
    Problem::new(Code::Unauthentic, why)
}
