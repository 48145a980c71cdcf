//! What intent is made of: objects with a key, a body, and the one who manages them.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::defaults::{OBJECT_BYTES_MAX, OBJECT_DEPTH_MAX};

/// Bytes of a kind or a name.
const PART_BYTES_MAX: usize = 200;

/// What an object says: a table, as JSON.
pub type Body = serde_json::Map<String, serde_json::Value>;

/// The name of an object: its kind and its name within the kind, as in `region/eu-west`. Kinds are an open set: a node that
/// does not know one keeps its objects and does nothing with them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key {
    kind: Arc<str>,
    name: Arc<str>,
}

/// Why a text is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no object's key: write KIND/NAME, such as `region/eu-west`, with visible characters and no other `/`"
)]
pub struct KeyError(String);

impl Key {
    /// A key.
    ///
    /// # Errors
    /// [`KeyError`] when a part is empty, longer than 200 bytes, or has other than visible ASCII characters.
    pub fn new(kind: &str, name: &str) -> Result<Self, KeyError> {
        let good = |part: &str| {
            let bytes = 1..=PART_BYTES_MAX;
            bytes.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
        };
        if good(kind) && good(name) {
            Ok(Self { kind: kind.into(), name: name.into() })
        } else {
            Err(KeyError(format!("{kind}/{name}")))
        }
    }

    /// What comes before all keys of a kind; itself no key.
    pub(crate) fn first_of(kind: &str) -> Self {
        Self { kind: kind.into(), name: "".into() }
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Which one it is.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Key {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        match text.split_once('/') {
            Some((kind, name)) => Self::new(kind, name),
            None => Err(KeyError(text)),
        }
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.to_string()
    }
}

/// Who manages an object. Another may not change it without taking it over.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manager {
    /// Calls of the admin API.
    Api,
    /// A file that `portolan apply` reads, by the name it has there.
    File(String),
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api => f.write_str("the admin API"),
            Self::File(name) => write!(f, "the file {name}"),
        }
    }
}

/// One object, as it is since a generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    /// What it says.
    pub body: Body,
    /// Who manages it.
    pub managed_by: Manager,
    /// The generation that changed it last.
    pub revision: u64,
}

/// Says what is wrong with a body's size or depth.
pub(crate) fn check_body(body: &Body) -> Result<(), String> {
    if !body.values().all(|value| fits(value, OBJECT_DEPTH_MAX)) {
        return Err(format!("it nests more than {OBJECT_DEPTH_MAX} levels deep"));
    }
    let bytes = serde_json::to_vec(body).map_or(usize::MAX, |text| text.len());
    if bytes > OBJECT_BYTES_MAX {
        return Err(format!("it has {bytes} bytes; an object may have {OBJECT_BYTES_MAX}"));
    }
    Ok(())
}

fn fits(value: &serde_json::Value, levels: usize) -> bool {
    let Some(below) = levels.checked_sub(1) else { return false };
    match value {
        serde_json::Value::Array(items) => items.iter().all(|item| fits(item, below)),
        serde_json::Value::Object(table) => table.values().all(|item| fits(item, below)),
        _ => true,
    }
}
