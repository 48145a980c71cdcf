//! What goes wrong: a component that is refused, and an engine that does not start.

use std::fmt::{self, Write as _};

use serde::Serialize;

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address space for instances was not given.
    #[error(
        "reserve address space for {slots} policy instances: {reason}; raise the limit of address space (`ulimit -v`)"
    )]
    Pool {
        /// How many were tried last.
        slots: u32,
        /// What the system said.
        reason: String,
    },
    /// The engine did not take its settings.
    #[error("set up the policy engine: {0}; please report this with the kind of the processor")]
    Setup(String),
    /// No thread was given.
    #[error("start the thread `{name}`: {source}; raise the limit of processes and threads (`ulimit -u`)")]
    Thread {
        /// What it would have been called.
        name: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The step on a component's way at which it was refused, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Its bytes were read.
    Read,
    /// It was counted against what its owner may have.
    Quota,
    /// Its size was looked at.
    Size,
    /// Its bytes were compared with the digest that came with them.
    Digest,
    /// It was validated; its features and counts were looked at.
    Screen,
    /// The version of the contract that it was built for was looked at.
    Contract,
    /// What it asks of the host was looked at.
    Imports,
    /// What it offers was looked at.
    Exports,
    /// The schema of its configuration was read.
    Schema,
    /// What it may do was compared with what runs now.
    Capabilities,
    /// Its signatures were looked at.
    Signature,
    /// It was compiled.
    Compile,
    /// Its imports were tied to the host's functions.
    Link,
    /// A first instance was made.
    Instantiate,
    /// Its configuration was checked.
    Config,
    /// Its golden vectors were tried.
    Vectors,
    /// It was asked for a plan.
    Plan,
    /// Its plan was checked.
    Check,
    /// Its decider was started.
    Start,
    /// It was kept, and made known.
    Keep,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Stage {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Quota => "quota",
            Self::Size => "size",
            Self::Digest => "digest",
            Self::Screen => "screen",
            Self::Contract => "contract",
            Self::Imports => "imports",
            Self::Exports => "exports",
            Self::Schema => "schema",
            Self::Capabilities => "capabilities",
            Self::Signature => "signature",
            Self::Compile => "compile",
            Self::Link => "link",
            Self::Instantiate => "instantiate",
            Self::Config => "config",
            Self::Vectors => "vectors",
            Self::Plan => "plan",
            Self::Check => "check",
            Self::Start => "start",
            Self::Keep => "keep",
        }
    }
}

/// A refusal: where, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{stage}: {reason}; {fix}")]
pub struct Refused {
    /// At which step.
    pub stage: Stage,
    /// Why.
    pub reason: String,
    /// What to do about it.
    pub fix: String,
    /// May the same succeed later, although nobody changes it?
    pub transient: bool,
}

impl Refused {
    /// A refusal that stands until something is changed.
    #[must_use]
    pub fn new(stage: Stage, reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { stage, reason: reason.into(), fix: fix.into(), transient: false }
    }

    /// A refusal that may pass.
    #[must_use]
    pub fn passing(stage: Stage, reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { transient: true, ..Self::new(stage, reason, fix) }
    }
}

/// A stranger's text, fit for logs and terminals: control characters and what turns the direction of writing are
/// escaped, and what passes `bytes_max` is cut off.
pub(crate) fn printable(text: &str, bytes_max: usize) -> String {
    let mut out = String::new();
    for character in text.chars() {
        let start = out.len();
        if character == '\n' || !(character.is_control() || turns(character)) {
            out.push(character);
        } else {
            // Writing to a string cannot fail.
            write!(out, "{}", character.escape_unicode()).ok();
        }
        if out.len() > bytes_max {
            out.truncate(start);
            out.push('…');
            break;
        }
    }
    out
}

/// The bidirectional controls of Unicode (UAX #9), with which a text can show as another.
const fn turns(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_text_cannot_move_the_cursor_nor_flood() {
        assert_eq!(printable("a\u{1b}[2Jb", 64), "a\\u{1b}[2Jb");
        assert_eq!(printable("a\u{202e}b", 64), "a\\u{202e}b");
        assert_eq!(printable("ééé", 4), "éé…");
        assert_eq!(printable("two\nlines", 64), "two\nlines");
    }
}
