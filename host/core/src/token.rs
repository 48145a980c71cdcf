//! `portolan-token`: what a client brings so that it reads at least its own writes, in any region. Names positions of
//! shards' logs.
//!
//! The text is `v1` and then, for each shard, `;NAME=EPOCH.TRANSACTION.SEQUENCE`, by name. It comes from outside, so it has
//! bounds, and one text only stands for each token.

use std::collections::BTreeMap;
use std::fmt;

use crate::ids::{NAME_BYTES_MAX, ShardName};
use crate::log::Position;

/// Shards that one token names: a request writes to one, a page of an application to a few.
pub const TOKEN_SHARDS_MAX: usize = 16;
/// Bytes of a token's text: as many as sixteen of the longest entries need, within what servers take as one header field.
pub const TOKEN_BYTES_MAX: usize = 2 + TOKEN_SHARDS_MAX * (NAME_BYTES_MAX + 2 + 3 * 20);

const MARK: &str = "v1";

/// Positions that a reader wants to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Token(BTreeMap<ShardName, Position>);

/// Why a text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAToken {
    /// Not as tokens are written.
    #[error("a token is `v1;SHARD=EPOCH.TRANSACTION.SEQUENCE;...`, shards by name and each once")]
    Form,
    /// Too many bytes or shards.
    #[error("a token has at most {TOKEN_BYTES_MAX} bytes and {TOKEN_SHARDS_MAX} shards")]
    Long,
    /// Of a later version of portolan.
    #[error("the token is of a version that this portolan does not know")]
    Version,
}

impl Token {
    /// Names a position. A token keeps the newest of each shard; when it has no place for another shard, it says so by
    /// `false`, and its reader must read from primaries.
    #[must_use]
    pub fn add(&mut self, shard: ShardName, position: Position) -> bool {
        if !self.0.contains_key(&shard) && self.0.len() >= TOKEN_SHARDS_MAX {
            return false;
        }
        let kept = self.0.entry(shard).or_default();
        *kept = (*kept).max(position);
        true
    }

    /// The position that a read from this shard must have reached.
    #[must_use]
    pub fn position(&self, shard: &str) -> Option<Position> {
        self.0.get(shard).copied()
    }

    /// All that it names.
    pub fn entries(&self) -> impl Iterator<Item = (&ShardName, Position)> {
        self.0.iter().map(|(shard, position)| (shard, *position))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MARK)?;
        self.0.iter().try_for_each(|(shard, position)| write!(f, ";{shard}={position}"))
    }
}

impl std::str::FromStr for Token {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(NotAToken::Long);
        }
        let mut parts = text.split(';');
        match parts.next() {
            Some(MARK) => {}
            Some(mark) if mark.starts_with('v') => return Err(NotAToken::Version),
            _ => return Err(NotAToken::Form),
        }
        let mut entries = BTreeMap::new();
        for part in parts {
            let (shard, position) = part.split_once('=').ok_or(NotAToken::Form)?;
            let shard = ShardName::new(shard).map_err(|_| NotAToken::Form)?;
            let position = position.parse().map_err(|_| NotAToken::Form)?;
            if entries.last_key_value().is_some_and(|(last, _)| *last >= shard) {
                return Err(NotAToken::Form);
            }
            if entries.len() >= TOKEN_SHARDS_MAX {
                return Err(NotAToken::Long);
            }
            entries.insert(shard, position);
        }
        Ok(Self(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shard(name: &str) -> ShardName {
        ShardName::new(name).unwrap()
    }

    #[test]
    fn a_token_keeps_the_newest_position_of_each_shard() {
        let mut token = Token::default();
        for (name, position) in [("eu-1", (5, 730, 2)), ("us-1", (2, 9, 9)), ("eu-1", (5, 729, 7))] {
            assert!(token.add(shard(name), Position::new(position.0, position.1, position.2)));
        }
        assert_eq!(token.to_string(), "v1;eu-1=5.730.2;us-1=2.9.9");
        assert_eq!(token.position("eu-1"), Some(Position::new(5, 730, 2)));
        assert_eq!(token.position("eu-2"), None);
    }

    #[test]
    fn a_token_is_bounded() {
        let mut token = Token::default();
        let long = |at: usize| shard(&format!("{at:063}"));
        let last = Position::new(i64::MAX as u64, i64::MAX as u64, i64::MAX as u64);
        assert!((0..TOKEN_SHARDS_MAX).all(|at| token.add(long(at), last)));
        assert!(!token.add(long(99), last) && token.add(long(3), last));
        let text = token.to_string();
        assert!(text.len() <= TOKEN_BYTES_MAX);
        assert_eq!(text.parse(), Ok(token));
        assert_eq!("x".repeat(TOKEN_BYTES_MAX + 1).parse::<Token>(), Err(NotAToken::Long));
        let many: String = (10..10 + TOKEN_SHARDS_MAX + 1).map(|at| format!(";s{at}=1.1.1")).collect();
        assert_eq!(format!("v1{many}").parse::<Token>(), Err(NotAToken::Long));
    }

    #[test]
    fn other_texts_are_no_tokens() {
        for (bad, why) in [
            ("", NotAToken::Form),
            ("v2;a=1.1.1", NotAToken::Version),
            ("v1;", NotAToken::Form),
            ("v1;a", NotAToken::Form),
            ("v1;a=1.1", NotAToken::Form),
            ("v1;A=1.1.1", NotAToken::Form),
            ("v1;b=1.1.1;a=1.1.1", NotAToken::Form),
            ("v1;a=1.1.1;a=1.1.2", NotAToken::Form),
            ("v1;a=1.1.1 ", NotAToken::Form),
        ] {
            assert_eq!(bad.parse::<Token>(), Err(why), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_reads_prints_the_same(text in "(v1|v2|)(;[a-c]{1,2}=[0-9]{1,3}\\.[0-9]{1,2}\\.[0-9]){0,4}") {
            if let Ok(token) = text.parse::<Token>() {
                prop_assert_eq!(token.to_string(), text);
            }
        }
    }
}
