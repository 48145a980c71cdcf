//! Intent as the admin API changes it: over the control store, after a check by what a node would run.
//!
//! One change of the platform's people and one of tenants' is checked at a time, because a check compiles and plans; a change is
//! made only if no other came between its check and its entry in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use portolan_admin::backend::{
    Application, Broken, Change, Difference, Edit, Intent, Key as AdminKey, Kind, Object as AdminObject,
    ObjectFilter, Outcome, Part, Proposal, Reversion, Verification, Wish as AdminWish,
};
use portolan_admin::{Code, Fault, Place, Problem};
use portolan_control::{
    Body, Change as Entry, Committed, Conflict, Draft, Edit as EntryEdit, Error, Expect, Key, Manager,
    Object, State, Store, Wish,
};
use portolan_core::ids::{Digest, ShardName, TenantName};
use portolan_policy::{Engine, Refused, Slot, Stage};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::config::{self, Config, Loaded, Source, intent};
use crate::node::shards::Shards;
use crate::placement::{self, Newcomers, Placing, newcomers};
use crate::{failing, leases, registry, validate};

/// How often a change is checked again that another came before.
const TRIES: usize = 5;
/// Entries that one look at the log walks through.
const VERIFIED_MAX: u64 = 100_000;
/// Tenants that a change would lead away from their rows are named up to so many.
const STRANDED_SHOWN: usize = 20;
/// Kinds that going back leaves as they are: nobody gets in again by a revoked token, a version that was pushed is there for
/// good, what was switched off in an emergency is switched on by hand, a plan of moves that may be under way is seen to its end, and
/// nobody who was erased comes back.
const KEPT: [&str; 10] =
    ["claim", "disable", "erasure", "freeze", "lease", "place", "rebalance", "standing", "token", "version"];

/// Intent over a control store, or what is said without one.
#[derive(Debug)]
pub(crate) struct Changes {
    checking: Mutex<()>,
    checking_for_tenants: Mutex<()>,
    /// The node's own, which has compiled most of what a check looks at.
    engine: Option<Engine>,
    environment: Vec<(String, String)>,
    path: PathBuf,
    /// Where new tenants go.
    placing: Placing,
    /// Where tenants' rows can be looked for; none where no node runs.
    shards: Option<Shards>,
    source: Intended,
}

/// Where intent is.
#[derive(Clone, Debug)]
pub(crate) enum Intended {
    /// In files of the node.
    Files,
    /// In a control store.
    Following(Store),
    /// On the node's disk, for good.
    Pinned(u64),
}

impl Intended {
    /// The store, through which alone anything is changed.
    pub(crate) fn store(&self) -> Result<&Store, Problem> {
        match self {
            Self::Following(store) => Ok(store),
            Self::Files => Err(Problem::new(
                Code::NoStore,
                "portolan.toml names no control store: add `[control]` with `sqlite = \"control.db\"` or \
                 `[control.etcd]`; without one, conf.d takes effect by itself",
            )),
            Self::Pinned(generation) => Err(Problem::new(
                Code::NoStore,
                format!(
                    "this node serves generation {generation} from its own disk and follows no control store: start it \
                     without `--generation`, or ask another node"
                ),
            )),
        }
    }
}

impl Changes {
    /// Over a store, with the file of the node whose check counts.
    pub(crate) fn new(
        source: Intended,
        engine: Option<Engine>,
        placing: Placing,
        shards: Option<Shards>,
        path: PathBuf,
        environment: Vec<(String, String)>,
    ) -> Self {
        let (checking, checking_for_tenants) = (Mutex::default(), Mutex::default());
        Self { checking, checking_for_tenants, engine, environment, path, placing, shards, source }
    }

    fn store(&self) -> Result<&Store, Problem> {
        self.source.store()
    }

    /// Makes a change: `make` gives its wishes for a state, and texts in whose places problems are told.
    async fn change(
        &self,
        alone: &Mutex<()>,
        dry_run: bool,
        generation: Option<u64>,
        make: impl Fn(&State) -> Result<(Draft, Option<Vec<Source>>), Problem> + Send,
    ) -> Result<Outcome, Problem> {
        let store = self.store()?;
        let _alone = alone.lock().await;
        for _ in 0..TRIES {
            // A change is never based on what this node saw last.
            store.refresh().await.map_err(problem)?;
            let base = store.state();
            if let Some(wanted) = generation.filter(|wanted| *wanted != base.generation()) {
                return Err(moved(base.generation(), wanted));
            }
            let (mut draft, mut texts) = make(&base)?;
            let next = base.after(&draft).map_err(problem)?;
            let next = self.place_newcomers(&base, next, &mut draft, &mut texts).await?;
            let draft = leases::remembering(&base, &next, &draft);
            let next = base.after(&draft).map_err(problem)?;
            let differences = differences(&base, &next);
            let before = base.generation();
            if !differences.is_empty() {
                self.check(&base, next, texts).await?;
            }
            if dry_run || differences.is_empty() {
                return Ok(Outcome { generation: before, changed: false, dry_run, differences, undo: None });
            }
            let (generation, changed) = match store.commit_on(&draft, before).await {
                Ok(Committed::Changed(change)) => (change.generation, true),
                Ok(Committed::Unchanged(generation)) => (generation, false),
                Err(Error::Conflict(Conflict::Moved { newest, .. })) => {
                    tracing::debug!(before, newest, "another change came before, this one is checked again");
                    continue;
                }
                Err(error) => return Err(problem(error)),
            };
            let undo = (changed && before > 0).then(|| format!("portolan revert {before}"));
            return Ok(Outcome { generation, changed, dry_run, differences, undo });
        }
        Err(Problem::new(Code::Unavailable, "others changed the store all the time: try again"))
    }

    /// The state with the change's new tenants where the policy of placement wants them.
    async fn place_newcomers(
        &self,
        base: &Arc<State>,
        next: State,
        draft: &mut Draft,
        texts: &mut Option<Vec<Source>>,
    ) -> Result<State, Problem> {
        let (base, placing) = (Arc::clone(base), self.placing.clone());
        let (environment, path) = (self.environment.clone(), self.path.clone());
        let change = Newcomers { base: Arc::clone(&base), environment, next, path };
        let work = move || (newcomers(&placing, &change), change.next);
        let placed = tokio::task::spawn_blocking(work).await;
        let (wishes, next) =
            placed.map_err(|error| Problem::internal(format!("place new tenants: {error}")))?;
        if wishes.is_empty() {
            return Ok(next);
        }
        let said = wishes.iter().filter_map(|wish| intent::source(&wish.key, wish.body.as_ref()?));
        texts.iter_mut().for_each(|texts| texts.extend(said.clone()));
        draft.wishes.extend(wishes);
        base.after(draft).map_err(problem)
    }

    /// Would a node run this? Compiles and plans what differs.
    async fn check(&self, base: &Arc<State>, next: State, texts: Option<Vec<Source>>) -> Result<(), Problem> {
        let configuration = |state: &State| -> BTreeMap<Key, Arc<Object>> {
            let parts = state.objects().filter(|(key, _)| intent::is_configuration(key));
            parts.map(|(key, object)| (key.clone(), Arc::clone(object))).collect()
        };
        if texts.is_none() && configuration(base) == configuration(&next) {
            return Ok(());
        }
        let (path, environment, base) = (self.path.clone(), self.environment.clone(), Arc::clone(base));
        let engine = self.engine.clone();
        let work = move || check(&path, &environment, engine, (&base, &next), texts);
        let checked = tokio::task::spawn_blocking(work).await;
        let led_away = checked.map_err(|error| Problem::internal(format!("check a change: {error}")))??;
        let mut stranded = Vec::new();
        for one in led_away {
            if stranded.len() < STRANDED_SHOWN && self.has_rows(&one).await {
                stranded.push(one.told());
            }
        }
        if stranded.is_empty() { Ok(()) } else { refused(stranded.into_iter().map(plain).collect()) }
    }

    /// Has a tenant rows where it is looked for now? Where that cannot be seen, it has.
    async fn has_rows(&self, one: &LedAway) -> bool {
        let open = self.shards.as_ref().and_then(|shards| shards.open(&one.was));
        let Some((store, _)) = open else { return true };
        match store.has_rows(&one.tenant).await {
            Ok(has) => has,
            Err(error) => {
                tracing::warn!(shard = %one.was, tenant = %one.tenant, "whether it has rows, nobody knows: {error}");
                true
            }
        }
    }
}

#[async_trait]
impl Intent for Changes {
    fn generation(&self) -> Result<u64, Problem> {
        Ok(self.store()?.state().generation())
    }

    fn object(&self, key: &AdminKey) -> Result<Option<AdminObject>, Problem> {
        let state = self.store()?.state();
        let Ok(key) = Key::new(&key.kind, &key.name) else { return Ok(None) };
        Ok(state.get(&key).map(|found| object(&key, found)))
    }

    fn objects(
        &self,
        filter: &ObjectFilter,
        after: Option<&AdminKey>,
        max: usize,
    ) -> Result<Vec<AdminObject>, Problem> {
        let state = self.store()?.state();
        let fits = |key: &Key, object: &Object| {
            filter.kind.as_deref().is_none_or(|kind| kind == key.kind())
                && filter.name.as_deref().is_none_or(|name| name == key.name())
                && filter
                    .managed_by
                    .as_deref()
                    .is_none_or(|by| managed_by(&object.managed_by).starts_with(by))
        };
        let comes = |key: &Key| {
            after.is_none_or(|after| (key.kind(), key.name()) > (after.kind.as_str(), after.name.as_str()))
        };
        let found = state.objects().filter(|(key, found)| comes(key) && fits(key, found));
        Ok(found.take(max).map(|(key, found)| object(key, found)).collect())
    }

    async fn propose(&self, proposal: Proposal) -> Result<Outcome, Problem> {
        let Proposal { author, dry_run, generation, message, source, tenant, wishes } = proposal;
        let wishes = wishes.into_iter().map(wish).collect::<Result<Vec<_>, _>>()?;
        let draft = Draft { author, message, source: source.to_owned(), wishes };
        let alone = if tenant.is_some() { &self.checking_for_tenants } else { &self.checking };
        self.change(alone, dry_run, generation, |_| Ok((draft.clone(), None))).await
    }

    async fn apply(&self, application: Application) -> Result<Outcome, Problem> {
        let Application { author, dry_run, files, keep, message, take_over } = application;
        let sources: Vec<Source> =
            files.into_iter().map(|file| Source { path: file.name.into(), text: file.text }).collect();
        let said = said(&sources)?;
        self.change(&self.checking, dry_run, None, |base| {
            let wishes = file_wishes(base, &said, keep, take_over);
            let draft = Draft {
                author: author.clone(),
                message: message.clone(),
                source: "apply".to_owned(),
                wishes,
            };
            let next = base.after(&draft).map_err(problem)?;
            // What a file says is checked as it stands there, so that problems are found where they are.
            let others = next.objects().filter(|(key, _)| !said.contains_key(*key));
            let others = others.filter_map(|(key, object)| intent::source(key, &object.body));
            let texts = sources.iter().cloned().chain(others).collect();
            Ok((draft, Some(texts)))
        })
        .await
    }

    async fn revert(&self, reversion: Reversion) -> Result<Outcome, Problem> {
        let Reversion { author, dry_run, generation, message } = reversion;
        let store = self.store()?;
        let newest = store.state().generation();
        if !(1..=newest).contains(&generation) {
            return Err(Problem::not_found(format!(
                "generation {generation}: the newest is {newest}; `portolan generations` lists them"
            )));
        }
        let then = store.state_at(generation).await.map_err(problem)?;
        let message = if message.is_empty() { format!("revert to generation {generation}") } else { message };
        self.change(&self.checking, dry_run, None, |now| {
            let wishes = back_wishes(now, &then);
            let draft = Draft {
                author: author.clone(),
                message: message.clone(),
                source: "revert".to_owned(),
                wishes,
            };
            Ok((draft, None))
        })
        .await
    }

    async fn changes(&self, after: u64, max: usize) -> Result<Vec<Change>, Problem> {
        let mut all: Vec<Change> = Vec::new();
        while all.len() < max {
            let last = all.last().map_or(after, |change| change.generation);
            let page = self.store()?.log(last, max - all.len()).await.map_err(problem)?;
            if page.is_empty() {
                break;
            }
            all.extend(page.into_iter().map(|(entry, digest)| change(entry, digest)));
        }
        Ok(all)
    }

    async fn verify(&self, from: Option<(u64, String)>) -> Result<Verification, Problem> {
        let from = from.map(|(generation, digest)| Some((generation, digest.parse::<Digest>().ok()?)));
        let from = match from {
            None => (0, Digest([0; 32])),
            Some(Some(from)) => from,
            Some(None) => return Err(Problem::invalid("the digest to go on from is none")),
        };
        let walked = self.store()?.verify(from, VERIFIED_MAX).await.map_err(problem)?;
        let broken = walked.broken;
        Ok(Verification {
            whole: broken.is_none(),
            entries: walked.entries,
            generation: walked.generation,
            head: walked.head.to_string(),
            next: walked.more.then(|| format!("{}:{}", walked.generation, walked.head)),
            broken: broken.map(|broken| Broken { generation: broken.generation, reason: broken.reason }),
        })
    }
}

fn moved(newest: u64, wanted: u64) -> Problem {
    let detail =
        format!("the change was to follow generation {wanted}, and {newest} is the newest: look again");
    Problem::new(Code::PreconditionFailed, detail).current(format!("\"{newest}\""))
}

/// What the store says against a change.
pub(crate) fn problem(error: Error) -> Problem {
    let code = match &error {
        Error::Away(_) | Error::Crowded(_) | Error::Newer { .. } | Error::Unknown { .. } => Code::Unavailable,
        Error::Damaged(damaged) => {
            tracing::error!("the control store: {damaged}");
            Code::Unavailable
        }
        Error::Conflict(Conflict::Managed { .. }) => Code::ManagedElsewhere,
        Error::Conflict(Conflict::Moved { newest, wanted }) => return moved(*newest, *wanted),
        Error::Conflict(Conflict::Present { revision, .. }) => {
            let current = format!("\"{revision}\"");
            return Problem::new(Code::PreconditionFailed, error.to_string()).current(current);
        }
        Error::Conflict(Conflict::Stale { revision, .. }) => {
            let stale = Problem::new(Code::PreconditionFailed, error.to_string());
            return match revision {
                Some(revision) => stale.current(format!("\"{revision}\"")),
                None => stale,
            };
        }
        Error::Object { .. } | Error::Register(_) | Error::Registers { .. } => Code::Invalid,
        Error::TooLarge(_) | Error::TooMany(_) => Code::TooLarge,
    };
    Problem::new(code, error.to_string())
}

/// The check of [`Changes::check`]; blocks.
fn check(
    path: &std::path::Path,
    environment: &[(String, String)],
    engine: Option<Engine>,
    (base, next): (&State, &State),
    texts: Option<Vec<Source>>,
) -> Result<Vec<LedAway>, Problem> {
    let loaded = match texts {
        Some(texts) => config::load(path, environment.iter().cloned(), Some(texts)),
        None => config::load_intended(path, environment, Some(next)),
    };
    let config = match loaded {
        Ok(Loaded { config, .. }) => config,
        Err(rejected) => {
            let fault = |problem: &config::Problem| fault(problem, &rejected.sources);
            return refused(rejected.problems.iter().map(fault).collect());
        }
    };
    let broken = leases::broken(base, next);
    if !broken.is_empty() {
        return refused(broken.into_iter().map(plain).collect());
    }
    let unknown = registry::unknown(&config, next);
    if !unknown.is_empty() {
        return refused(unknown.into_iter().map(plain).collect());
    }
    // What ran through this check before needs no other: only what differs is compiled and planned.
    let before = config::load_intended(path, environment, Some(base)).ok().map(|loaded| loaded.config);
    let led_away = before.as_ref().map(|before| led_away((before, base), (&config, next)));
    let placement = placement::refused(&config, before.as_ref(), Some(next), engine.clone());
    let placement = placement.map_err(|error| Problem::internal(format!("check placement: {error:#}")))?;
    let component =
        |config: &Config| config.failover.as_ref().and_then(|failover| failover.policy.component().cloned());
    let known = before.as_ref().and_then(component);
    let deciding = component(&config).filter(|slot| known.as_ref() != Some(slot));
    let deciding =
        deciding.map(|slot| Ok((failing::refused(&config, &slot, Some(next), engine.clone())?, slot)));
    let deciding = deciding.transpose();
    let deciding =
        deciding.map_err(|error: anyhow::Error| Problem::internal(format!("check failover: {error:#}")))?;
    let found = validate::refused(&config, before.as_ref(), Some(next), engine);
    let found = found.map_err(|error| Problem::internal(format!("check policies: {error:#}")))?;
    // A file of a node's own folder of policies need not be on the machine that checks.
    let own_file =
        |slot: &Slot, refused: &Refused| refused.stage == Stage::Read && version(&config, slot).is_none();
    let found: Vec<Fault> = found
        .iter()
        .filter(|(slot, refused)| !own_file(slot, refused))
        .map(|(slot, refused)| plain(format!("{slot}: {refused}")))
        .collect();
    let unversioned = config.placement.policy.as_ref().is_some_and(|policy| policy.version.is_none());
    let own_file = |refused: &Refused| refused.stage == Stage::Read && unversioned;
    let placement = placement.filter(|refused| !own_file(refused));
    let found: Vec<Fault> =
        found.into_iter().chain(placement.map(|refused| plain(format!("placement: {refused}")))).collect();
    let deciding = deciding.and_then(|(refused, slot)| {
        let refused = refused?;
        // As above.
        let own = refused.stage == Stage::Read && slot.version.is_none();
        (!own).then(|| plain(format!("failover: {refused}")))
    });
    let found: Vec<Fault> = found.into_iter().chain(deciding).collect();
    if found.is_empty() { Ok(led_away.unwrap_or_default()) } else { refused(found) }
}

fn plain(detail: String) -> Fault {
    Fault { detail, pointer: None, source: None }
}

fn refused<T>(errors: Vec<Fault>) -> Result<T, Problem> {
    let first = errors.first().map(|fault| fault.detail.clone()).unwrap_or_default();
    let more = errors.len().saturating_sub(1);
    let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    Err(Problem::new(Code::Refused, format!("nothing was changed: {first}{more}")).with(errors))
}

/// A tenant that a change would look for elsewhere than where it is now.
struct LedAway {
    /// Where it would be.
    is: Option<ShardName>,
    tenant: TenantName,
    /// Where it is.
    was: ShardName,
}

impl LedAway {
    fn told(&self) -> String {
        let Self { is, tenant, was } = self;
        match is {
            Some(is) => format!(
                "tenant `{tenant}` would be looked for on shard `{is}`, and its rows are on `{was}`: move it first \
                 (`portolan shard move {tenant} --to {is}`), or all that a rule concerns (`portolan shard split`, `merge`, `rebalance`); \
                 to another residency class, take a backup of it, erase it, and restore it there"
            ),
            None => format!(
                "tenant `{tenant}` would be on no shard, and its rows are on `{was}`: leave it a rule, or erase it first \
                 (`portolan tenant erase {tenant}`)"
            ),
        }
    }
}

/// Tenants whose rows a change would leave behind, if they have any: a rule, a location or a class moves nobody. Whoever writes
/// `[place.TENANT]` says himself that the rows are there, and a file that is not there has none.
fn led_away((before, base): (&Config, &State), (config, next): (&Config, &State)) -> Vec<LedAway> {
    let is_said = |tenant: &TenantName| {
        let place = Key::new("place", tenant.as_str()).ok();
        let said = |state: &State| Some(state.get(place.as_ref()?)?.body.clone());
        said(next).is_some_and(|said_now| said(base) != Some(said_now))
    };
    let is_empty = |shard: &ShardName| {
        let store = before.shards.get(shard).and_then(|shard| shard.stores.get(&before.local));
        matches!(store, Some(portolan_sharding::Engine::Sqlite(file)) if !file.exists())
    };
    let led_away = placement::led_away(before, config);
    // What an engine has that replicates itself, its operator knows alone.
    let led_away = led_away
        .filter(|(tenant, was, _)| !is_said(tenant) && !is_empty(was) && !before.externals.contains_key(was));
    led_away.map(|(tenant, was, is)| LedAway { is, tenant: tenant.clone(), was }).collect()
}

fn version(config: &Config, slot: &Slot) -> Option<Digest> {
    let policy = match slot {
        Slot::Operator => config.policy.as_ref(),
        Slot::Tenant(name) => config.tenants.get(name).and_then(|tenant| tenant.policy.as_ref()),
    };
    policy.and_then(|policy| policy.version)
}

fn fault(problem: &config::Problem, sources: &[Source]) -> Fault {
    let place = problem.file_place(sources);
    // A text that was made of an object is no file of anybody's; its name is the object's key.
    let (source, pointer) = match place {
        Some((file, line, column)) => match intent::key_of(&file) {
            Some(key) => (None, Some(format!("/{key}"))),
            None => (Some(Place { file, line, column }), None),
        },
        None => (None, None),
    };
    Fault { detail: problem.text(), pointer, source }
}

/// What files say, by object: the body and the file.
fn said(sources: &[Source]) -> Result<BTreeMap<Key, (Body, String)>, Problem> {
    let mut objects: BTreeMap<Key, (Body, String)> = BTreeMap::new();
    let mut problems = Vec::new();
    for source in sources {
        let file = source.path.display().to_string();
        match intent::objects(source) {
            Ok(found) => {
                for (key, body) in found {
                    if let Some((_, other)) = objects.get(&key) {
                        problems.push(format!(
                            "{file}: `{key}` is in {other} already: write an object into one file"
                        ));
                    }
                    objects.insert(key, (body, file.clone()));
                }
            }
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() {
        return Ok(objects);
    }
    let faults = problems.into_iter().map(|detail| Fault { detail, pointer: None, source: None });
    Err(Problem::new(Code::Refused, "nothing was changed: the files cannot be applied").with(faults))
}

/// What is to become of each object: what files say, and no more of what files said before.
fn file_wishes(
    state: &State,
    said: &BTreeMap<Key, (Body, String)>,
    keep: bool,
    take_over: bool,
) -> Vec<Wish> {
    let of_a_file = |object: &Object| matches!(object.managed_by, Manager::File(_));
    let gone: Vec<Wish> = state
        .objects()
        .filter(|(key, object)| !keep && of_a_file(object) && !said.contains_key(*key))
        .map(|(key, object)| Wish {
            key: key.clone(),
            body: None,
            expect: Expect::Any,
            manager: object.managed_by.clone(),
            take_over: false,
        })
        .collect();
    let there = said.iter().map(|(key, (body, file))| {
        // From file to file an object moves freely.
        let moves = state.get(key).is_some_and(|object| of_a_file(object));
        Wish {
            key: key.clone(),
            body: Some(body.clone()),
            expect: Expect::Any,
            manager: Manager::File(file.clone()),
            take_over: moves || take_over,
        }
    });
    there.chain(gone).collect()
}

fn back_wishes(now: &State, then: &State) -> Vec<Wish> {
    let kept = |key: &Key| KEPT.contains(&key.kind());
    let back = then.objects().filter(|(key, _)| !kept(key)).map(|(key, object)| Wish {
        key: key.clone(),
        body: Some(object.body.clone()),
        expect: Expect::Any,
        manager: object.managed_by.clone(),
        take_over: true,
    });
    let gone =
        now.objects().filter(|(key, _)| !kept(key) && then.get(key).is_none()).map(|(key, object)| Wish {
            key: key.clone(),
            body: None,
            expect: Expect::Revision(object.revision),
            manager: object.managed_by.clone(),
            take_over: true,
        });
    back.chain(gone).collect()
}

fn wish(wish: AdminWish) -> Result<Wish, Problem> {
    let key = Key::new(&wish.kind, &wish.name).map_err(|error| Problem::invalid(error.to_string()))?;
    Ok(Wish {
        key,
        body: wish.body,
        expect: match wish.if_revision {
            None => Expect::Any,
            Some(0) => Expect::Absent,
            Some(revision) => Expect::Revision(revision),
        },
        manager: Manager::Api,
        take_over: wish.take_over,
    })
}

fn managed_by(manager: &Manager) -> String {
    match manager {
        Manager::Api => "api".to_owned(),
        Manager::File(name) => format!("file:{name}"),
    }
}

fn object(key: &Key, object: &Object) -> AdminObject {
    AdminObject {
        kind: key.kind().to_owned(),
        name: key.name().to_owned(),
        body: object.body.clone(),
        managed_by: managed_by(&object.managed_by),
        revision: object.revision,
    }
}

fn change(entry: Entry, digest: Digest) -> Change {
    let edit = |edit: EntryEdit| {
        let key = edit.key().clone();
        let (kind, name) = (key.kind().to_owned(), key.name().to_owned());
        match edit {
            EntryEdit::Delete { .. } => Edit { kind, name, body: None, managed_by: None },
            EntryEdit::Put { body, managed_by: manager, .. } => {
                Edit { kind, name, body: Some(body), managed_by: Some(managed_by(&manager)) }
            }
        }
    };
    Change {
        generation: entry.generation,
        at_ms: entry.at_ms,
        author: entry.author,
        source: entry.source,
        message: entry.message,
        edits: entry.edits.into_iter().map(edit).collect(),
        digest: digest.to_string(),
        previous: entry.previous,
    }
}

/// How two states differ, object by object and part by part.
fn differences(old: &State, new: &State) -> Vec<Difference> {
    let keys: BTreeSet<&Key> = old.objects().chain(new.objects()).map(|(key, _)| key).collect();
    keys.into_iter().filter_map(|key| difference(key, old.get(key), new.get(key))).collect()
}

fn difference(key: &Key, old: Option<&Arc<Object>>, new: Option<&Arc<Object>>) -> Option<Difference> {
    let body = |object: Option<&Arc<Object>>| object.map(|object| Value::Object(object.body.clone()));
    let is = match (old, new) {
        (None, Some(_)) => Kind::Created,
        (Some(_), None) => Kind::Deleted,
        (Some(old), Some(new)) if old.body != new.body => Kind::Changed,
        (Some(old), Some(new)) if old.managed_by != new.managed_by => Kind::TakenOver,
        _ => return None,
    };
    let mut parts = Vec::new();
    diff("", body(old).as_ref(), body(new).as_ref(), &mut parts);
    let (was, now) = (old.map(|old| managed_by(&old.managed_by)), new.map(|new| managed_by(&new.managed_by)));
    Some(Difference {
        kind: key.kind().to_owned(),
        name: key.name().to_owned(),
        is,
        managed_by: now.clone().or_else(|| was.clone()).unwrap_or_default(),
        was_managed_by: was.filter(|was| now.as_ref().is_some_and(|now| now != was)),
        parts,
    })
}

fn diff(at: &str, old: Option<&Value>, new: Option<&Value>, parts: &mut Vec<Part>) {
    match (old, new) {
        (old, new) if old == new => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                let below = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
                diff(&below, old.get(name), new.get(name), parts);
            }
        }
        (old, new) => parts.push(Part { pointer: at.to_owned(), old: old.cloned(), new: new.cloned() }),
    }
}
