//! The seat of the one policy that does something for the whole node: what runs in it, and what becomes of a successor. A new one takes
//! over when it is ready, and one that is refused leaves the one before.

use std::sync::Arc;

use portolan_core::ids::{Digest, PolicyName};
use portolan_core::time::Moment;

use crate::defaults::RETRY_MIN;
use crate::error::Refused;
use crate::source::Source;

/// What is wanted in the seat.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'w> {
    /// The policy's configuration, a JSON object.
    pub(crate) config: &'w Arc<str>,
    /// What the operator calls the policy.
    pub(crate) policy: &'w PolicyName,
    /// The component, or why there is none.
    pub(crate) source: &'w Result<Source, Refused>,
}

/// What runs, and what was refused.
#[derive(Debug)]
pub(crate) struct Seat<P> {
    refused: Option<Refused>,
    running: Option<Running<P>>,
    /// What was refused, by version and configuration, and when to try again.
    tried: Option<(Option<Digest>, Arc<str>, Option<Moment>)>,
}

#[derive(Debug)]
struct Running<P> {
    config: Arc<str>,
    name: PolicyName,
    policy: Arc<P>,
    version: Digest,
}

impl<P> Seat<P> {
    /// Nothing runs yet.
    pub(crate) const fn empty() -> Self {
        Self { refused: None, running: None, tried: None }
    }

    /// Brings what runs to what is wanted. What is refused leaves what ran, and is tried again when it may pass, or when something
    /// about it changes. `does` says what a policy in this seat does, `without` what holds where none runs.
    pub(crate) fn follow(
        &mut self,
        wanted: Option<Wanted<'_>>,
        now: Moment,
        load: impl FnOnce(Wanted<'_>) -> Result<P, Refused>,
        (does, without): (&str, &str),
    ) {
        let Some(wanted) = wanted else {
            *self = Self::empty();
            return;
        };
        let Wanted { config, policy, source } = wanted;
        let digest = source.as_ref().ok().map(Source::digest);
        let runs = |running: &Running<P>| {
            Some(running.version) == digest && running.config == *config && running.name == *policy
        };
        if self.running.as_ref().is_some_and(runs) {
            (self.refused, self.tried) = (None, None);
            return;
        }
        if let Some((tried, with, again)) = &self.tried
            && *tried == digest
            && *with == *config
            && again.is_none_or(|again| now < again)
        {
            return;
        }
        let loaded =
            source.as_ref().map_err(Clone::clone).and_then(|source| Ok((source.digest(), load(wanted)?)));
        match loaded {
            Ok((version, loaded)) => {
                tracing::info!(%policy, version = version.short(), "{does} by this policy");
                let (config, name) = (Arc::clone(config), policy.clone());
                self.running = Some(Running { config, name, policy: Arc::new(loaded), version });
                (self.refused, self.tried) = (None, None);
            }
            Err(refused) => {
                if self.refused.as_ref() != Some(&refused) {
                    let goes_on = if self.running.is_some() { "the one before goes on" } else { without };
                    tracing::warn!(%policy, stage = %refused.stage, "policy refused: {}; {}; {goes_on}", refused.reason, refused.fix);
                }
                let again = refused.transient.then(|| now.plus(RETRY_MIN));
                self.tried = Some((digest, Arc::clone(config), again));
                self.refused = Some(refused);
            }
        }
    }

    /// What runs.
    pub(crate) fn policy(&self) -> Option<&Arc<P>> {
        self.running.as_ref().map(|running| &running.policy)
    }

    /// What the operator calls it, and its version.
    pub(crate) fn runs(&self) -> Option<(&PolicyName, Digest)> {
        self.running.as_ref().map(|running| (&running.name, running.version))
    }

    /// Why what is wanted does not run.
    pub(crate) const fn refused(&self) -> Option<&Refused> {
        self.refused.as_ref()
    }
}
