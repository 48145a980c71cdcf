//! Where tenants' content is kept.

use std::path::{Path, PathBuf};

use portolan_control::Shared;

use super::Builder;
use crate::config::defaults::{CONTENT_FOLDER, KEYRING_FOLDER};
use crate::config::raw::RawContent;

/// Where tenants' content is kept, and the keys that open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContentConfig {
    pub(crate) keyring: PathBuf,
    pub(crate) store: Shared,
}

impl Builder<'_> {
    pub(super) fn content(&mut self, raw: RawContent, state: &Path) -> Option<ContentConfig> {
        let store = match (raw.store, &raw.s3) {
            (Some(_), Some(_)) => {
                let help = "name one: `store = \"FOLDER\"` or `[content.s3]`";
                self.problem(&["content", "s3"], "content is either in a folder or in a bucket", help);
                return None;
            }
            (Some(folder), None) => Shared::Folder(self.folder.join(folder)),
            (None, Some(s3)) => Shared::S3(Box::new(self.s3("content", s3)?)),
            (None, None) => Shared::Folder(state.join(CONTENT_FOLDER)),
        };
        let keyring =
            raw.keyring.map_or_else(|| state.join(KEYRING_FOLDER), |keyring| self.folder.join(keyring));
        if let Shared::Folder(folder) = &store
            && keyring.starts_with(folder)
        {
            let help = "keep keys where packs are not: whoever copies both reads everything";
            self.problem(&["content", "keyring"], "the keys lie within the folder of what they open", help);
        }
        Some(ContentConfig { keyring, store })
    }
}
