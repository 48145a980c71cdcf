//! What a decision rested on: a bundle for each, of which every one names the one before by its SHA-256, so that none is changed or left out later
//! without being found.

use portolan_core::ids::{Digest, RegionName};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::guards::{self, Decision};
use crate::picture::Picture;
use crate::policies::Author;
use crate::proposal::Proposal;

/// Before the first bundle.
pub const NONE: Digest = Digest([0; 32]);

/// Everything that one decision rested on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// Which one of its region, from 1.
    pub number: u64,
    /// The SHA-256 of the one before.
    pub previous: Digest,
    /// Who decided.
    pub region: RegionName,
    /// What was known.
    pub picture: Picture,
    /// Whose answer it was.
    pub author: Author,
    /// The answer.
    pub proposals: Vec<Proposal>,
    /// What remained of it.
    pub decision: Decision,
}

/// The end of a chain of bundles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// The number of the last bundle.
    pub number: u64,
    /// Its SHA-256.
    pub last: Digest,
}

/// What is wrong with a chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A bundle does not name the one before it.
    #[error("bundle {0} does not follow the one before it: one was changed, or is missing")]
    Link(u64),
    /// A bundle's decision is not what its picture and its proposals lead to.
    #[error(
        "bundle {0} holds another decision than its evidence leads to: was it made by another version of portolan?"
    )]
    Other(u64),
    /// A bundle cannot be written down.
    #[error("bundle {0} cannot be written down: {1}")]
    Unwritable(u64, String),
}

impl Default for Chain {
    fn default() -> Self {
        Self { number: 0, last: NONE }
    }
}

impl Bundle {
    /// Its SHA-256, over its JSON.
    ///
    /// # Errors
    /// [`Broken::Unwritable`].
    pub fn digest(&self) -> Result<Digest, Broken> {
        let bytes =
            serde_json::to_vec(self).map_err(|error| Broken::Unwritable(self.number, error.to_string()))?;
        Ok(Digest(Sha256::digest(&bytes).into()))
    }

    /// Does its evidence lead to its decision?
    #[must_use]
    pub fn holds(&self) -> bool {
        guards::judge(&self.picture, &self.proposals) == self.decision
    }
}

impl Chain {
    /// Adds a decision. Gives the bundle, with its SHA-256.
    ///
    /// # Errors
    /// [`Broken::Unwritable`].
    pub fn add(
        &mut self,
        picture: Picture,
        (proposals, author): (Vec<Proposal>, Author),
        decision: Decision,
    ) -> Result<(Bundle, Digest), Broken> {
        let (number, previous) = (self.number.saturating_add(1), self.last);
        let bundle =
            Bundle { number, previous, region: picture.local.clone(), picture, author, proposals, decision };
        let digest = bundle.digest()?;
        *self = Self { number, last: digest };
        Ok((bundle, digest))
    }
}

/// Does each bundle follow the one before, and lead to its decision?
///
/// # Errors
/// [`Broken`] names the first that does not.
pub fn verify(bundles: &[Bundle], from: Chain) -> Result<Chain, Broken> {
    let mut chain = from;
    for bundle in bundles {
        if bundle.previous != chain.last || bundle.number != chain.number.saturating_add(1) {
            return Err(Broken::Link(bundle.number));
        }
        if !bundle.holds() {
            return Err(Broken::Other(bundle.number));
        }
        chain = Chain { number: bundle.number, last: bundle.digest()? };
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guards::tests::picture;
    use crate::policies::conservative;

    #[test]
    fn bundles_hang_together_and_decide_again() {
        let mut chain = Chain::default();
        let mut bundles = Vec::new();
        for _ in 0..3 {
            let proposals = conservative(&picture());
            let decision = guards::judge(&picture(), &proposals);
            let author = Author { name: "conservative".to_owned(), version: None, fuel: 0, fault: None };
            let (bundle, digest) = chain.add(picture(), (proposals, author), decision).unwrap();
            assert_eq!(bundle.digest(), Ok(digest));
            // As it comes from a disk.
            bundles.push(serde_json::from_slice::<Bundle>(&serde_json::to_vec(&bundle).unwrap()).unwrap());
        }
        assert_eq!(verify(&bundles, Chain::default()), Ok(chain));
        let mut missing = bundles.clone();
        missing.remove(1);
        assert_eq!(verify(&missing, Chain::default()), Err(Broken::Link(3)));
        let mut forged = bundles.clone();
        forged[1].author.fuel = 9;
        assert_eq!(verify(&forged, Chain::default()), Err(Broken::Link(3)));
        forged[1].decision.moves.clear();
        assert_eq!(verify(&forged, Chain::default()), Err(Broken::Other(2)));
    }
}
