//! What a policy answers: a bounded list of rules, checked call by call while it is written and once as a whole.
//!
//! [`Draft`] is the pen, [`Plan`] the paper. Nothing in a plan is executed before [`Draft::finish`] accepted it, and
//! then it is compiled into a [`crate::table::Table`]. The rules that hold here are the ones documented for policy
//! writers in `wit/policy/v0.1`.

mod condition;
mod draft;
mod edits;
#[cfg(any(test, feature = "exercise"))]
pub mod exercise;
mod limits;
mod redirect;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use condition::{Condition, Pattern, Test, path_covers};
pub use draft::{ConditionText, Draft, Refusal, code};
pub use limits::Limits;
pub use redirect::fill_location;

use crate::attribute::Attribute;
use crate::bounds::Bounds;
use crate::ids::{PoolName, RegionName};

/// The place of an answer in [`Plan::answers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AnswerId(pub u32);

/// The place of a rule in [`Plan::rules`]: rules are tried in this order, and the first that matches decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u32);

/// A checked plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Everything that rules may answer.
    pub answers: Vec<Answer>,
    /// Bytes that `plan` left for `decide`.
    pub memo: Vec<u8>,
    /// The rules, first match first.
    pub rules: Vec<Rule>,
}

/// One possible outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What to do.
    pub action: Action,
    /// Edits of header fields, in the order given.
    pub edits: Vec<HeaderEdit>,
    /// The path to send instead of the received one: the prefix of the first part is replaced by the second.
    pub rewrite: Option<PathRewrite>,
}

/// What an answer does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send the request to a pool.
    Forward {
        /// Where.
        region: RegionName,
        /// To which application there.
        pool: PoolName,
    },
    /// Leave the request to the next slot.
    Next,
    /// Answer with a redirect.
    Redirect {
        /// 301, 302, 303, 307 or 308 (RFC 9110, section 15.4).
        status: u16,
        /// The `Location` field. `{host}`, `{path}` and `{query}` stand for the request's own; `{query}` includes
        /// its `?`.
        location: Box<str>,
    },
    /// Answer at once.
    Respond {
        /// 200 to 599.
        status: u16,
        /// The `Content-Type` field; empty for none.
        content_type: Box<str>,
        /// The content.
        body: Box<str>,
    },
}

/// A change to one header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderEdit {
    /// In which message.
    pub message: Message,
    /// What to do.
    pub kind: EditKind,
    /// Lower-case field name; never a hop-by-hop, framing or `portolan-` field.
    pub name: Box<str>,
    /// The value; empty for [`EditKind::Remove`].
    pub value: Box<str>,
}

/// The message that a [`HeaderEdit`] changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// The request sent upstream.
    Request,
    /// The response sent downstream.
    Response,
}

/// How a [`HeaderEdit`] changes its field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditKind {
    /// One more field line.
    Add,
    /// No such field.
    Remove,
    /// This line instead of all others.
    Set,
}

/// A replacement of a path's beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRewrite {
    /// The prefix to take off; a path that does not begin with it stays as it is.
    pub from: Box<str>,
    /// What to put there.
    pub to: Box<str>,
}

/// One line of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// A name for `explain`, logs and metrics; otherwise rules are known by their number.
    pub name: Option<Box<str>>,
    /// All must hold. An empty list always does.
    pub when: Vec<Condition>,
    /// What follows.
    pub then: Then,
    /// Limits and habits of the exchange.
    pub exchange: Exchange,
    /// What the tenant's policy may choose where this rule leaves a request to it; anything when absent.
    pub bounds: Option<Box<Bounds>>,
}

/// What a rule does when it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// Ask the policy's `decide`.
    Dynamic {
        /// The attributes whose values `decide` gets, in this order.
        needs: Vec<Attribute>,
        /// The answers that it may give, by index. Also the order of preference when it cannot be asked.
        among: Vec<AnswerId>,
    },
    /// Draw one by weight, then try the others, then the fall-backs in order.
    Split {
        /// Weighted answers; at least one weight is above zero.
        to: Vec<Share>,
        /// Tried in order when none of `to` can take the request.
        fallback: Vec<AnswerId>,
    },
}

/// An answer and its weight in a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The answer.
    pub answer: AnswerId,
    /// Its weight beside the others'; 0 means never first.
    pub weight: u32,
}

/// How the exchange with the upstream is to go, as far as a rule says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// What a read must be able to see.
    pub consistency: Consistency,
    /// Which failed attempts may be repeated.
    pub retry: RetryClass,
    /// What makes requests belong together: the draw and the choice of endpoint then depend on it alone.
    pub sticky: Option<Attribute>,
    /// The total time for the response head, attempts and all; the route's own limit when absent.
    pub timeout: Option<Duration>,
}

/// What a read must be able to see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Any replica.
    Any,
    /// A replica that is fresh enough for the request's token.
    #[default]
    Session,
    /// The primary.
    Strong,
}

impl Consistency {
    /// The word in policies, headers and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Session => "session",
            Self::Strong => "strong",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Any, Self::Session, Self::Strong].into_iter().find(|class| class.as_str() == text)
    }
}

/// Which failed attempts may be repeated, always within the budget and never after response bytes went downstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RetryClass {
    /// Only attempts of which the upstream surely saw nothing: connections refused, streams refused.
    Connect,
    /// Also idempotent requests (RFC 9110, section 9.2.2) after a broken connection or a 502, 503 or 504.
    #[default]
    Idempotent,
    /// Never.
    Never,
}

impl RetryClass {
    /// The word in policies and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Idempotent => "idempotent",
            Self::Never => "never",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Connect, Self::Idempotent, Self::Never].into_iter().find(|class| class.as_str() == text)
    }
}
