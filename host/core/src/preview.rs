//! The seam between the data plane and whoever makes policies of versions that no slot runs: one request brings a signed word
//! that names a version, and is decided by it.

use std::fmt::{self, Debug};
use std::str::FromStr;
use std::sync::Arc;

use crate::ids::{Digest, PolicyName, TenantName};
use crate::lane::Slot;
use crate::snapshot::Policy;

/// How the operator's slot is called in a word.
const OPERATOR: &str = "operator";
/// What comes before a tenant's name there.
const TENANT: &str = "tenant.";

/// A version in a slot that may run another one, as a word names it: `tenant.acme/shop@` and the digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Preview {
    /// Of which plugin it is a version.
    pub plugin: PolicyName,
    /// Where it decides.
    pub slot: Slot,
    /// The version.
    pub version: Digest,
}

impl Preview {
    /// The slot's name: `operator`, or `tenant.NAME`.
    #[must_use]
    pub fn slot_name(&self) -> String {
        match &self.slot {
            Slot::Operator => OPERATOR.to_owned(),
            Slot::Tenant(tenant) => format!("{TENANT}{tenant}"),
        }
    }
}

impl fmt::Display for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.slot_name(), self.plugin, self.version)
    }
}

/// A text that names no version in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is SLOT/PLUGIN@DIGEST")]
pub struct NotAPreview;

impl FromStr for Preview {
    type Err = NotAPreview;

    fn from_str(text: &str) -> Result<Self, NotAPreview> {
        let (slot, version) = text.split_once('/').ok_or(NotAPreview)?;
        let (plugin, version) = version.split_once('@').ok_or(NotAPreview)?;
        let slot = match slot.strip_prefix(TENANT) {
            Some(tenant) => Slot::Tenant(TenantName::new(tenant).map_err(|_| NotAPreview)?),
            None if slot == OPERATOR => Slot::Operator,
            None => return Err(NotAPreview),
        };
        let plugin = PolicyName::new(plugin).map_err(|_| NotAPreview)?;
        Ok(Self { plugin, slot, version: version.parse().map_err(|_| NotAPreview)? })
    }
}

/// Why there is no policy for a word that is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unready {
    /// The slot may not run the version, or not any more.
    #[error("the slot may not run this version, or not any more")]
    Gone,
    /// The version makes no policy in this slot now.
    #[error("the version is refused in its slot")]
    Refused,
    /// It is planned, or will be.
    #[error("the version is not planned here yet")]
    Soon,
}

/// Has policies of versions that no slot runs.
pub trait Previews: Debug + Send + Sync {
    /// The policy that a version makes in a slot. Never waits: a request does not stand behind a plan.
    ///
    /// # Errors
    /// [`Unready`]; what is not there yet is being made from now on.
    fn find(&self, wanted: &Preview) -> Result<Arc<Policy>, Unready>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let digest = "ab".repeat(32);
        for slot in ["operator", "tenant.acme"] {
            let text = format!("{slot}/shop@{digest}");
            assert_eq!(text.parse::<Preview>().unwrap().to_string(), text);
        }
        let short = digest.get(..12).unwrap();
        for bad in [
            String::new(),
            format!("operator/shop@{short}"),
            format!("acme/shop@{digest}"),
            format!("tenant./shop@{digest}"),
            format!("operator@{digest}"),
            format!("operator/@{digest}"),
        ] {
            assert_eq!(bad.parse::<Preview>(), Err(NotAPreview), "{bad}");
        }
    }
}
