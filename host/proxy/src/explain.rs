//! Why a request would go where it would go: the pipeline's own rooms, without sending anything.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use http::{HeaderMap, Method, Request, Uri};
use portolan_core::attribute::Attribute;
use portolan_core::ids::TenantName;
use portolan_core::lane::Side;
use portolan_core::plan::Action;
use portolan_core::recording::Picture;
use portolan_core::screen;
use portolan_core::snapshot::Snapshot;
use portolan_core::table::RuleVerdict;
use portolan_core::topology::Topology;
use portolan_foundation::clock;
use serde::Serialize;

use crate::config::Trust;
use crate::decide::{Choice, Decision, Draw, decide};
use crate::inbound::{Downstream, Inbound};
use crate::pipeline::is_unwritten;
use crate::resolve::{Route, resolve};
use crate::steer::{Step, steer};

/// A request to think through.
#[derive(Clone, Debug)]
pub struct Question {
    /// Its method.
    pub method: Method,
    /// Its URL, with authority.
    pub uri: Uri,
    /// Its header fields.
    pub headers: HeaderMap,
    /// From where it comes.
    pub client: IpAddr,
    /// The tenant to assume instead of the one that the request names.
    pub tenant: Option<TenantName>,
    /// The region nearest to the client, to assume instead of the known one.
    pub near: Option<String>,
}

/// What would become of it.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The snapshot that was asked.
    pub generation: u64,
    /// The region of the node that was asked.
    pub region: String,
    /// Whose request it is.
    pub tenant: Option<String>,
    /// The tenant's residency class.
    pub residency: Option<String>,
    /// What each policy's rules say, in the order in which policies are asked.
    pub policies: Vec<Asked>,
    /// Why a dynamic rule was not answered by its policy.
    pub undecided: Option<String>,
    /// Why a candidate was not heard, and the stable policy answered for it.
    pub spared: Option<String>,
    /// The answers in the order in which they are tried.
    pub candidates: Vec<Candidate>,
    /// What the request gets, in words.
    pub outcome: String,
}

/// One policy that was asked.
#[derive(Clone, Debug, Serialize)]
pub struct Asked {
    /// Its name.
    pub policy: String,
    /// Its version.
    pub digest: String,
    /// On which side of a rollout it stands, while one lasts in its slot.
    pub side: Option<Side>,
    /// The rule that decided.
    pub rule: String,
    /// All rules up to that one.
    pub rules: Vec<RuleVerdict>,
}

/// One answer and whether it can be given.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    /// What it does.
    pub action: String,
    /// The policy that gave it; none for the host's own rule.
    pub policy: Option<String>,
    /// How it would be reached.
    pub via: Option<String>,
    /// Why it cannot be given.
    pub rejected: Option<String>,
    /// How much of such requests goes there first, and why.
    pub steering: Option<String>,
}

impl Explanation {
    /// Thinks a request through, against one snapshot.
    ///
    /// # Errors
    /// Why the request would be refused before anything is decided.
    pub fn of(snapshot: &Snapshot, trust: &Trust, question: Question) -> Result<Self, String> {
        let (decision, inbound) = decide_for(snapshot, trust, question)?;
        let policies = decision.sources.iter().map(|source| Asked {
            policy: source.policy.name.to_string(),
            digest: source.policy.digest.short(),
            side: source.side,
            rule: source.rule_name(),
            rules: source.policy.table.explain(&inbound),
        });
        let candidates = candidates(snapshot, &inbound, &decision);
        let first = candidates.iter().find(|candidate| candidate.rejected.is_none());
        let outcome = match first {
            Some(candidate) => candidate.action.clone(),
            None if candidates.is_empty() => "503: there is nothing to answer".to_owned(),
            None => {
                let legal = crate::resolve::Rejection::Residency.as_str();
                let forbidden =
                    candidates.iter().all(|candidate| candidate.rejected.as_deref() == Some(legal));
                let code = if forbidden {
                    "451: no region that the tenant may use"
                } else {
                    "503: no target can take it"
                };
                code.to_owned()
            }
        };
        Ok(Self {
            generation: snapshot.generation.0,
            region: snapshot.topology.local.to_string(),
            tenant: inbound.tenant.as_ref().map(ToString::to_string),
            residency: inbound.residency.as_ref().map(ToString::to_string),
            policies: policies.collect(),
            undecided: decision.undecided.map(|why| why.to_string()),
            spared: decision.spared,
            candidates,
            outcome,
        })
    }
}

/// The picture of a request as a gateway with this topology would take it, of `looked_at` and what is always kept.
///
/// # Errors
/// Why the request would be refused before anything is decided.
pub fn picture<'a>(
    topology: &Topology,
    trust: &Trust,
    question: Question,
    looked_at: impl IntoIterator<Item = &'a Attribute>,
    now_ms: u64,
    seed: u64,
) -> Result<Picture, String> {
    let inbound = inbound(topology, trust, question)?;
    Ok(Picture::take(&inbound, looked_at, now_ms, seed))
}

fn decide_for(snapshot: &Snapshot, trust: &Trust, question: Question) -> Result<(Decision, Inbound), String> {
    let inbound = inbound(&snapshot.topology, trust, question)?;
    let mut decision = Decision::default();
    let draw = Draw { counts: false, now_ms: clock::unix_ms(), seed: 0 };
    decide(&mut decision, snapshot, &inbound, draw, None).map_err(|error| error.to_string())?;
    Ok((decision, inbound))
}

fn inbound(topology: &Topology, trust: &Trust, question: Question) -> Result<Inbound, String> {
    let Question { method, uri, headers, client, tenant, near } = question;
    let tls = uri.scheme_str() == Some("https");
    let mut request =
        Request::builder().method(method).uri(uri).body(()).map_err(|error| error.to_string())?;
    *request.headers_mut() = headers;
    let address = SocketAddr::new(client, 0);
    let downstream =
        Rc::new(Downstream { address, busy: Rc::default(), tls, uris: Vec::new(), peer: None, switch: None });
    let (mut parts, ()) = request.into_parts();
    let mut inbound =
        Inbound::read(&mut parts, &downstream, trust, &screen::Limits::default(), &topology.local)
            .map_err(|error| error.to_string())?;
    if near.is_some() {
        inbound.assume_near(near);
    }
    let tenants = &topology.tenants;
    inbound.tenant = match tenant {
        Some(tenant) => Some(tenant),
        None => tenants.recognise(&inbound).map_err(|error| format!("404: {error}"))?,
    };
    inbound.settle(topology);
    Ok(inbound)
}

/// What can be answered, in the order of trying: targets as they are steered, then what is answered without them, then what may
/// not be.
fn candidates(snapshot: &Snapshot, inbound: &Inbound, decision: &Decision) -> Vec<Candidate> {
    let topology = &snapshot.topology;
    let steered = steer(topology, inbound, decision, clock::now());
    let mut all: Vec<Candidate> =
        steered.steps.iter().map(|step| target(topology, inbound, decision, step)).collect();
    all.extend(steered.direct.map(|choice| direct(decision, choice)));
    all.extend(decision.choices.iter().filter_map(|choice| refused(topology, inbound, decision, choice)));
    all
}

/// An answer that needs no upstream.
fn direct(decision: &Decision, choice: &Choice) -> Candidate {
    let action = match decision.answer(choice).map(|answer| &answer.action) {
        Some(Action::Respond { status, .. }) => format!("respond {status}"),
        Some(Action::Redirect { status, location }) => format!("redirect {status} to {location}"),
        _ => "nothing".to_owned(),
    };
    let policy = decision.source(choice).map(|source| source.policy.name.to_string());
    Candidate { action, policy, via: None, rejected: None, steering: None }
}

/// A choice that may not be carried out at all.
fn refused(
    topology: &Topology,
    inbound: &Inbound,
    decision: &Decision,
    choice: &Choice,
) -> Option<Candidate> {
    let broken = decision.check(choice, topology, inbound).err();
    let broken = broken.map(|breach| format!("outside of what the operator allows this tenant: {breach}"));
    let Some((region, pool)) = decision.target(choice) else {
        return broken.map(|broken| Candidate { rejected: Some(broken), ..direct(decision, choice) });
    };
    let stands = inbound.stands_at(topology, region, pool);
    let forbidden = !topology.allows(inbound.residency.as_ref(), stands);
    let rejected =
        broken.or_else(|| forbidden.then(|| crate::resolve::Rejection::Residency.as_str().to_owned()))?;
    let policy = decision.source(choice).map(|source| source.policy.name.to_string());
    let action = format!("forward to {pool} in {stands}");
    Some(Candidate { action, policy, via: None, rejected: Some(rejected), steering: None })
}

/// A target, and whether it can take the request now.
fn target(topology: &Topology, inbound: &Inbound, decision: &Decision, step: &Step<'_>) -> Candidate {
    let Step { choice, panics, pool, region, .. } = *step;
    let policy = decision.source(choice).map(|source| source.policy.name.to_string());
    let named = decision.target(choice).map_or(region, |(named, _)| named);
    let is_written = inbound.written_at() == Some(region);
    let why = match &inbound.home {
        Some(home) if is_written && named != region => {
            format!(", where shard {} is written, instead of {named}", home.shard)
        }
        _ => String::new(),
    };
    let action = format!("forward to {pool} in {region}{why}");
    let steering = Some(step.to_string());
    let unwritten = is_written && is_unwritten(topology, inbound);
    let resolved = resolve(topology, inbound.residency.as_ref(), region, (pool, panics), clock::now());
    match resolved {
        Ok(_) if unwritten => {
            let rejected = Some("nobody writes the tenant's shard now".to_owned());
            Candidate { action, policy, via: None, rejected, steering }
        }
        Err(rejection) => {
            let rejected = Some(rejection.as_str().to_owned());
            Candidate { action, policy, via: None, rejected, steering }
        }
        Ok(route) => {
            let endpoints: Vec<&str> =
                route.pool().endpoints.iter().map(|endpoint| &*endpoint.authority).collect();
            let way = if matches!(route, Route::Gateway(_)) { "gateways" } else { "endpoints" };
            let via = Some(format!("{way} {}", endpoints.join(", ")));
            Candidate { action, policy, via, rejected: None, steering }
        }
    }
}
