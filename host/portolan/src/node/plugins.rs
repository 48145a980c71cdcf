//! Versions of plugins behind the admin API: over the uploads of this process and the control store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use portolan_admin::plugins::{Content, NoPlugins, Plugins, Removal, Told, Upload, Version};
use portolan_admin::{Code, Events, Problem};
use portolan_control::{Committed, Draft, Expect, Manager, Store, Wish};
use portolan_core::ids::TenantName;
use portolan_foundation::{clock, task};
use portolan_policy::{Engine, Slot, StepState};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::admin::Admin;
use super::changes::Intended;
use crate::config::{self, Config, Local};
use crate::registry::record::{Record, UploadState};
use crate::registry::uploads::{self, From, Look, Parts, Uploads, World};
use crate::registry::{self, KIND, key_of, owner_of};

/// Uploads that are listed at once.
const LISTED_MAX: usize = 500;
/// Words of an upload that wait for whoever follows it.
const TOLD_MAX: usize = 64;

/// Versions, and how they come to be.
#[derive(Debug)]
pub(crate) struct Versions {
    component_bytes_max: usize,
    /// Who is told of refusals.
    events: Events,
    store: Store,
    uploads: Uploads,
}

impl Versions {
    /// Those of a node that runs. Without a control store there are none.
    ///
    /// # Errors
    /// When the place of components cannot be used.
    pub(super) fn of_node(
        admin: &Admin,
        events: Events,
        config: &Config,
        path: &Path,
        environment: &[(String, String)],
    ) -> anyhow::Result<Arc<dyn Plugins>> {
        let components = config::components(config.components.as_ref(), &config.state)?;
        let (Intended::Following(store), Some(components)) = (admin.intent.intended(), components) else {
            return Ok(Arc::new(NoPlugins));
        };
        let (intent, live) = (admin.intent.clone(), Arc::clone(&admin.live));
        let (path, variables) = (path.to_owned(), environment.to_vec());
        let look: Look = Arc::new(move || {
            let loaded = config::load_intended(&path, &variables, intent.state().as_deref());
            let facts = live.load().topology.facts(clock::unix_ms());
            World { config: loaded.ok().map(|loaded| Arc::new(loaded.config)), facts: Some(Arc::new(facts)) }
        });
        let engine = admin.engine.clone();
        let parts = Parts {
            components,
            docker: docker(environment),
            engine,
            handle: Handle::current(),
            look,
            settings: config.uploads.clone(),
            state_folder: config.state.clone(),
            store,
        };
        Ok(Arc::new(Self::start(parts, events)))
    }

    /// Those of a command in a folder where no node runs: the same stages, in this process.
    ///
    /// # Errors
    /// When the place of components cannot be used.
    pub(crate) fn here(store: Store, path: &Path, local: &Local) -> anyhow::Result<Arc<dyn Plugins>> {
        let Some(components) = local.components()? else { return Ok(Arc::new(NoPlugins)) };
        let engine = Engine::new(portolan_policy::Config {
            cache_bytes_max: portolan_policy::defaults::CACHE_BYTES_MAX,
            // Of one machine: a node that starts here finds the code there.
            cache_dir: Some(local.state.join("cache")),
            compile: super::compile_in_children()?,
            data_threads: std::num::NonZeroUsize::MIN,
            limits: local.components_at_most.limits(),
            pool_slots: std::num::NonZeroU32::MIN,
        })
        .context("start the policy engine")?;
        let (path, following) = (path.to_owned(), store.clone());
        let look: Look = Arc::new(move || {
            // An empty store has no regions yet: what is pushed into it is tried when it is put to work.
            let Ok(loaded) = config::load_intended(&path, &crate::environment(), Some(&following.state()))
            else {
                return World::default();
            };
            let facts = super::topology_of(&loaded.config).facts(clock::unix_ms());
            World { config: Some(Arc::new(loaded.config)), facts: Some(Arc::new(facts)) }
        });
        let parts = Parts {
            components,
            docker: docker(&crate::environment()),
            engine,
            handle: Handle::current(),
            look,
            settings: local.uploads.clone(),
            state_folder: local.state.clone(),
            store,
        };
        // Nobody listens to a command.
        Ok(Arc::new(Self::start(parts, Events::default())))
    }

    fn start(parts: Parts, events: Events) -> Self {
        let component_bytes_max = parts.engine.config().limits.component_bytes_max;
        let store = parts.store.clone();
        Self { component_bytes_max, events, store, uploads: Uploads::start(parts) }
    }
}

#[async_trait]
impl Plugins for Versions {
    fn component_bytes_max(&self) -> usize {
        self.component_bytes_max
    }

    async fn submit(&self, upload: Upload) -> Result<mpsc::Receiver<Told>, Problem> {
        let owner = slot(upload.tenant.as_ref());
        let from = match upload.content {
            Content::Bytes(bytes) => From::Bytes(bytes.to_vec().into(), upload.source),
            Content::Registry(reference) => From::Registry(reference),
        };
        let is_known = match &from {
            From::Bytes(bytes, _) => key_of(&owner, &upload.name, portolan_policy::digest(bytes))
                .is_ok_and(|key| self.store.state().get(&key).is_some()),
            From::Registry(_) => false,
        };
        let record = self.uploads.submit(uploads::Upload {
            approved: upload.approve,
            author: upload.author,
            declared: upload.declared,
            detached: upload.signature,
            from,
            message: upload.message,
            name: upload.name,
            owner,
            policy_config: upload.policy_config,
        });
        let record = record.map_err(|busy| {
            let problem = Problem::new(Code::TooMany, format!("{}; {}", busy.reason, busy.fix));
            problem.retry_after(busy.retry_after_s.unwrap_or(1))
        })?;
        let (sender, told) = mpsc::channel(TOLD_MAX);
        task::spawn("upload-told", tell(record, sender, is_known, self.events.clone()));
        Ok(told)
    }

    fn versions(&self, tenant: Option<&TenantName>, name: Option<&str>) -> Result<Vec<Version>, Problem> {
        let state = self.store.state();
        let seen = state.objects().filter(|(key, _)| key.kind() == KIND).filter_map(|(key, object)| {
            let owner = owner_of(key);
            let of_tenant = tenant.is_none_or(|tenant| match &owner {
                Slot::Operator => true,
                Slot::Tenant(owner) => owner == tenant,
            });
            let text =
                |name: &str| object.body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let plugin = text("plugin");
            (of_tenant && name.is_none_or(|name| name == plugin)).then(|| Version {
                digest: text("digest"),
                plugin,
                tenant: match owner {
                    Slot::Operator => None,
                    Slot::Tenant(tenant) => Some(tenant.to_string()),
                },
                revision: object.revision,
                about: about(&object.body, tenant),
            })
        });
        Ok(seen.collect())
    }

    async fn remove(&self, removal: Removal) -> Result<u64, Problem> {
        let state = self.store.state();
        let key = key_of(&slot(removal.tenant.as_ref()), &removal.name, removal.digest)
            .map_err(|error| Problem::invalid(error.to_string()))?;
        if state.get(&key).is_none() {
            return Err(Problem::not_found(format!("version {} of {}", removal.digest, removal.name)));
        }
        let users = registry::users(&state, &key, removal.digest);
        if !users.is_empty() {
            let users = users.join(", ");
            return Err(Problem::new(
                Code::Conflict,
                format!("{key} is named by {users}: change that first"),
            ));
        }
        let draft = Draft {
            author: removal.author,
            message: format!("remove {key}"),
            source: "remove".to_owned(),
            wishes: vec![Wish {
                key,
                body: None,
                expect: Expect::Any,
                manager: Manager::Api,
                take_over: false,
            }],
        };
        match self.store.commit(&draft).await {
            Ok(Committed::Changed(change)) => Ok(change.generation),
            Ok(Committed::Unchanged(generation)) => Ok(generation),
            Err(error) => Err(Problem::new(Code::Unavailable, error.to_string())),
        }
    }

    async fn quota(&self, tenant: &TenantName) -> Option<Value> {
        self.uploads.quota(tenant).await
    }

    fn uploads(&self, tenant: Option<&TenantName>) -> Result<Vec<Value>, Problem> {
        let owner = tenant.map(|tenant| Slot::Tenant(tenant.clone()));
        let records = self.uploads.list(owner.as_ref(), LISTED_MAX);
        Ok(records.iter().map(Record::told).collect())
    }
}

/// What a caller may know of a version; of the operator's, a tenant sees what it needs to use it.
fn about(body: &portolan_control::Body, tenant: Option<&TenantName>) -> Value {
    let mut body = body.clone();
    if tenant.is_some() && !body.contains_key("tenant") {
        for own in ["approved", "author", "message", "source"] {
            body.remove(own);
        }
    }
    Value::Object(body)
}

/// Tells each step of an upload once as it begins and once as it ends, then its outcome. Of one that was known before, only that.
async fn tell(mut record: watch::Receiver<Record>, told: mpsc::Sender<Told>, is_known: bool, events: Events) {
    let (mut begun, mut ended) = (0, 0);
    loop {
        let now = record.borrow_and_update().clone();
        for (place, step) in now.steps.iter().enumerate().filter(|_| !is_known || now.refused.is_some()) {
            if place >= begun {
                begun = place + 1;
                told.send(Told::Stage(step.stage.clone())).await.ok();
            }
            if place >= ended && step.state != StepState::Running {
                ended = place + 1;
                let detail = match step.state {
                    StepState::Skipped => format!("skipped: {}", step.detail),
                    _ => step.detail.clone(),
                };
                told.send(Told::Detail(detail)).await.ok();
            }
        }
        if now.state.is_over() {
            if let Some(refused) = &now.refused {
                let data = serde_json::json!({
                    "by": now.author, "digest": now.digest, "fix": refused.fix, "id": now.id, "plugin": now.plugin,
                    "reason": refused.reason, "stage": refused.stage,
                });
                events.tell("upload-refused", now.tenant.clone(), data);
            }
            let last = match &now.refused {
                Some(refused) => {
                    let (stage, reason) = (refused.stage.clone(), refused.reason.clone());
                    Told::Refused(stage, reason, refused.fix.clone(), now.told())
                }
                None => Told::Done(now.state == UploadState::Known, now.told()),
            };
            told.send(last).await.ok();
            return;
        }
        if record.changed().await.is_err() {
            return;
        }
    }
}

fn slot(tenant: Option<&TenantName>) -> Slot {
    tenant.map_or(Slot::Operator, |tenant| Slot::Tenant(tenant.clone()))
}

/// Where docker keeps what `docker login` is told.
fn docker(environment: &[(String, String)]) -> Option<PathBuf> {
    let of = |wanted: &str| {
        environment.iter().find(|(name, value)| name == wanted && !value.is_empty()).map(|(_, value)| value)
    };
    of("DOCKER_CONFIG").map(PathBuf::from).or_else(|| Some(Path::new(of("HOME")?).join(".docker")))
}
