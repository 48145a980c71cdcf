//! Kinds of conflicts, named as other systems name them (EDB Postgres Distributed, Spock), so that operators need no other words.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What met what. *Insert*, *update* and *delete* are what came; the rest of a name is what it met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConflictKind {
    /// A change that waits for another reason: a reference to a row that is not there, a CHECK, a clock that runs ahead.
    ApplyError,
    /// A deletion of what another region had deleted without knowing of it.
    DeleteMissing,
    /// A deletion of a row that was updated without the deletion's knowing.
    DeleteRecentlyUpdated,
    /// A row whose key another region has inserted.
    InsertExists,
    /// A row that breaks a UNIQUE constraint here beside its key: it waits.
    MultipleUniqueConflicts,
    /// A row without a value for a column that must have one here: it waits.
    SourceColumnMissing,
    /// A row that the region whose shard is copied does not have: it was written under a lease that others have outlived.
    Stranded,
    /// A row with a column that is not here yet: it waits.
    TargetColumnMissing,
    /// A row of a table that is not declared here: it waits.
    TargetTableMissing,
    /// An update of a row that was deleted and inserted again meanwhile: it was of the one before.
    UpdateMissing,
    /// An update of a row that another region has written since.
    UpdateOriginChange,
    /// A row whose key is of another tenant's row: it waits.
    UpdatePkeyExists,
    /// An update of a row that was deleted meanwhile.
    UpdateRecentlyDeleted,
}

const WORDS: [(ConflictKind, &str); 13] = [
    (ConflictKind::ApplyError, "apply_error"),
    (ConflictKind::DeleteMissing, "delete_missing"),
    (ConflictKind::DeleteRecentlyUpdated, "delete_recently_updated"),
    (ConflictKind::InsertExists, "insert_exists"),
    (ConflictKind::MultipleUniqueConflicts, "multiple_unique_conflicts"),
    (ConflictKind::SourceColumnMissing, "source_column_missing"),
    (ConflictKind::Stranded, "stranded"),
    (ConflictKind::TargetColumnMissing, "target_column_missing"),
    (ConflictKind::TargetTableMissing, "target_table_missing"),
    (ConflictKind::UpdateMissing, "update_missing"),
    (ConflictKind::UpdateOriginChange, "update_origin_change"),
    (ConflictKind::UpdatePkeyExists, "update_pkey_exists"),
    (ConflictKind::UpdateRecentlyDeleted, "update_recently_deleted"),
];

impl ConflictKind {
    /// The kind of two versions of a whole row, by whether they delete it, and whether what came is an insert.
    #[must_use]
    pub const fn of(came_deletes: bool, came_inserts: bool, there_deleted: bool) -> Self {
        match (came_deletes, there_deleted) {
            (true, true) => Self::DeleteMissing,
            (true, false) => Self::DeleteRecentlyUpdated,
            (false, true) => Self::UpdateRecentlyDeleted,
            (false, false) if came_inserts => Self::InsertExists,
            (false, false) => Self::UpdateOriginChange,
        }
    }

    /// The kind's name.
    #[must_use]
    pub fn word(self) -> &'static str {
        WORDS.iter().find(|(kind, _)| *kind == self).map_or("", |(_, word)| word)
    }

    /// The kind of this name.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        WORDS.iter().find(|(_, own)| *own == word).map(|(kind, _)| *kind)
    }
}

impl fmt::Display for ConflictKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
