//! Versions of plugins: uploads as operations, what is there, and what became of earlier uploads.
//!
//! A tenant's caller uploads its own tenant's plugins and sees no others; the platform's people upload for anybody.

use std::fmt::Debug;

use async_trait::async_trait;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use portolan_core::ids::{Digest, PolicyName, TenantName};
use portolan_foundation::task;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use crate::api::Api;
use crate::caller::{Caller, Scope};
use crate::defaults::QUESTION_BYTES_MAX;
use crate::extract::{Names, Parameters, short};
use crate::operations::{Operation, Progress};
use crate::page::{self, Page, Paging};
use crate::problem::{Code, Problem};
use crate::routes::{Access, Routes};

/// What plugins' routes stand on.
#[async_trait]
pub trait Plugins: Debug + Send + Sync {
    /// Bytes of the largest component.
    fn component_bytes_max(&self) -> usize;

    /// Takes an upload in.
    ///
    /// # Errors
    /// When it is refused at once: its owner has too much under way, or this node keeps no versions.
    async fn submit(&self, upload: Upload) -> Result<mpsc::Receiver<Told>, Problem>;

    /// Versions that an owner may see, by name and digest: of a tenant its own and the platform's; all when none is given.
    ///
    /// # Errors
    /// When nobody knows.
    fn versions(&self, tenant: Option<&TenantName>, name: Option<&str>) -> Result<Vec<Version>, Problem>;

    /// Takes a version out of the store, if nothing names it; gives the generation. Its bytes go with the next sweep.
    ///
    /// # Errors
    /// When there is none, or something names it.
    async fn remove(&self, removal: Removal) -> Result<u64, Problem>;

    /// What a tenant has of its versions and may have, for its quota; none where this node keeps no versions.
    async fn quota(&self, tenant: &TenantName) -> Option<Value> {
        _ = tenant;
        None
    }

    /// Uploads that an owner may see, the newest first; all when none is given.
    ///
    /// # Errors
    /// When nobody knows.
    fn uploads(&self, tenant: Option<&TenantName>) -> Result<Vec<Value>, Problem>;
}

/// An upload.
#[derive(Clone, Debug)]
pub struct Upload {
    /// Does whoever sends it approve of what it may newly do?
    pub approve: bool,
    /// Who sends it.
    pub author: String,
    /// What is sent.
    pub content: Content,
    /// The digest that came with it.
    pub declared: Option<Digest>,
    /// Why.
    pub message: String,
    /// What the plugin is called.
    pub name: PolicyName,
    /// A configuration to try it with.
    pub policy_config: Option<String>,
    /// Signatures that came with it.
    pub signature: Option<String>,
    /// Where it was.
    pub source: String,
    /// Whose it is; the platform's when absent.
    pub tenant: Option<TenantName>,
}

/// What is sent.
#[derive(Clone, Debug)]
pub enum Content {
    /// The component.
    Bytes(Bytes),
    /// A reference into a registry.
    Registry(String),
}

/// A version that is to be gone.
#[derive(Clone, Debug)]
pub struct Removal {
    /// Who wants it.
    pub author: String,
    /// Which one.
    pub digest: Digest,
    /// Of which plugin.
    pub name: PolicyName,
    /// Whose.
    pub tenant: Option<TenantName>,
}

/// What is told of an upload.
#[derive(Clone, Debug)]
pub enum Told {
    /// A stage begins.
    Stage(String),
    /// What came of the stage that runs.
    Detail(String),
    /// It is a version now, or was one already (`true`); and what is remembered of it.
    Done(bool, Value),
    /// It was refused: at which stage, why, and what to do; and what is remembered of it.
    Refused(String, String, String, Value),
}

/// A version of a plugin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// The SHA-256 of its component.
    pub digest: String,
    /// The plugin.
    pub plugin: String,
    /// Whose it is; the platform's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The generation that made it known.
    pub revision: u64,
    /// All that is known of it.
    #[schema(value_type = Object)]
    pub about: Value,
}

/// What may be said beside a component.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Meant {
    /// Approves of what it may do that what runs now may not; operators only.
    #[serde(default)]
    #[param(required = false)]
    approve: bool,
    /// Why, for the log.
    #[serde(default)]
    #[param(required = false, max_length = 1024)]
    message: String,
    /// Tries it with this configuration, a JSON object.
    policy_config: Option<String>,
    /// Where the component was, for the record.
    #[param(max_length = 200)]
    source: Option<String>,
    /// Whose it is; the caller's own when absent.
    tenant: Option<String>,
}

/// A component in a registry.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct FromRegistry {
    /// Such as `oci://ghcr.io/acme/policy:1.2`.
    oci: String,
}

/// The header in which signatures come that stand beside a component: a line each, joined by commas.
const SIGNATURE: &str = "portolan-signature";

pub(crate) fn add(routes: Routes) -> Routes {
    routes
        .add(Access::Upload(Scope::PluginPush), routes!(upload_version))
        .add(Access::Read(Scope::PluginRead), routes!(list_versions))
        .add(Access::Write(Scope::PluginPush), routes!(remove_version))
        .add(Access::Read(Scope::PluginRead), routes!(list_plugins))
        .add(Access::Read(Scope::PluginRead), routes!(list_uploads))
}

/// Uploads a component as a version: its bytes, or `{"oci": "..."}`. The answer is an operation, whose stages tell how it goes; 200
/// with the same when all was there already. `Content-Digest` (RFC 9530) is checked.
#[utoipa::path(post, path = "/api/v1/plugins/{name}/versions", tag = "plugins",
    params(("name" = String, Path, description = "The plugin"), Meant),
    request_body(content((Vec<u8> = "application/wasm"), (FromRegistry = "application/json"))),
    responses((status = 200, description = "It is there already", body = Operation),
        (status = 202, description = "It is examined", body = Operation)))]
async fn upload_version(
    State(api): State<Api>,
    caller: Caller,
    Names(name): Names<String>,
    Parameters(meant): Parameters<Meant>,
    request: Request,
) -> Result<Response, Problem> {
    let plugins = api.backends().plugins.clone();
    short(&[("source", &meant.source, 200)])?;
    if meant.message.chars().count() > 1_024 {
        return Err(Problem::invalid("`message` has at most 1024 characters"));
    }
    let name = PolicyName::new(&name).map_err(|error| Problem::invalid(error.to_string()))?;
    let tenant = owner(&caller, meant.tenant.as_deref())?;
    if meant.approve && caller.tenant.is_some() {
        return Err(Problem::new(
            Code::Forbidden,
            "a new capability needs an operator's approval, not a tenant's",
        ));
    }
    let headers = request.headers().clone();
    let content = content(request, plugins.component_bytes_max()).await?;
    let upload = Upload {
        approve: meant.approve,
        author: caller.author(),
        content,
        declared: declared(&headers)?,
        message: meant.message,
        name,
        policy_config: meant.policy_config,
        signature: signature(&headers)?,
        source: meant.source.unwrap_or_else(|| "upload".to_owned()),
        tenant,
    };
    let progress = api.operations().begin("upload", &caller)?;
    let mut told = plugins.submit(upload).await?;
    let id = progress.id();
    let operation = progress.operation();
    // What was there already is answered at once; everything else is followed behind.
    let first = told.recv().await;
    if let Some(Told::Done(true, about)) = first {
        progress.succeed(about);
        return Ok((StatusCode::OK, axum::Json(api.operations().get(&id, &caller)?)).into_response());
    }
    task::spawn("admin-upload", follow(progress, first, told));
    let mut response = (StatusCode::ACCEPTED, axum::Json(operation)).into_response();
    if let Ok(place) = HeaderValue::try_from(format!("/api/v1/operations/{id}")) {
        response.headers_mut().insert(LOCATION, place);
    }
    Ok(response)
}

/// Tells an operation what is told of its upload, until it is over.
async fn follow(progress: Progress, first: Option<Told>, mut rest: mpsc::Receiver<Told>) {
    let mut next = first;
    while let Some(told) = next {
        match told {
            Told::Stage(name) => progress.stage(&name),
            Told::Detail(detail) => progress.note(detail),
            Told::Done(_, about) => return progress.succeed(about),
            Told::Refused(stage, reason, fix, about) => {
                let detail = format!("refused at {stage}: {reason}; {fix}");
                let problem = Problem::new(Code::Refused, detail).at(format!("/{stage}"), reason);
                return progress.refuse(problem, about);
            }
        }
        next = rest.recv().await;
    }
}

/// Lists the versions of a plugin.
#[utoipa::path(get, path = "/api/v1/plugins/{name}/versions", tag = "plugins",
    params(("name" = String, Path, description = "The plugin"), Paging),
    responses((status = 200, description = "Versions", body = Page<Version>)))]
async fn list_versions(
    State(api): State<Api>,
    caller: Caller,
    Names(name): Names<String>,
    Parameters(paging): Parameters<Paging>,
) -> Result<axum::Json<Page<Version>>, Problem> {
    let versions = api.backends().plugins.versions(caller.tenant.as_ref(), Some(&name))?;
    paged(versions, &paging, place_of).map(axum::Json)
}

/// What became of a removal.
#[derive(Debug, Serialize, ToSchema)]
struct Removed {
    /// The generation that was made.
    generation: u64,
}

/// Whose a version is.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Whose {
    /// The tenant; the caller's own when absent.
    tenant: Option<String>,
}

/// Takes a version out of the store that nothing names.
#[utoipa::path(delete, path = "/api/v1/plugins/{name}/versions/{digest}", tag = "plugins",
    params(("name" = String, Path, description = "The plugin"), ("digest" = String, Path, description = "The version"), Whose),
    responses((status = 200, description = "It is gone", body = Removed)))]
async fn remove_version(
    State(api): State<Api>,
    caller: Caller,
    Names((name, digest)): Names<(String, String)>,
    Parameters(whose): Parameters<Whose>,
) -> Result<axum::Json<Removed>, Problem> {
    let removal = Removal {
        author: caller.author(),
        digest: digest.parse().map_err(|_| Problem::not_found(format!("version {digest} of {name}")))?,
        name: PolicyName::new(&name).map_err(|error| Problem::invalid(error.to_string()))?,
        tenant: owner(&caller, whose.tenant.as_deref())?,
    };
    let generation = api.backends().plugins.remove(removal).await?;
    Ok(axum::Json(Removed { generation }))
}

/// Lists all versions of all plugins that the caller may see.
#[utoipa::path(get, path = "/api/v1/plugins", tag = "plugins", params(Paging),
    responses((status = 200, description = "Versions", body = Page<Version>)))]
async fn list_plugins(
    State(api): State<Api>,
    caller: Caller,
    Parameters(paging): Parameters<Paging>,
) -> Result<axum::Json<Page<Version>>, Problem> {
    let versions = api.backends().plugins.versions(caller.tenant.as_ref(), None)?;
    paged(versions, &paging, place_of).map(axum::Json)
}

/// Lists what became of this node's uploads, the newest first, stage by stage.
#[utoipa::path(get, path = "/api/v1/uploads", tag = "plugins", params(Paging),
    responses((status = 200, description = "Uploads", body = Page<Value>)))]
async fn list_uploads(
    State(api): State<Api>,
    caller: Caller,
    Parameters(paging): Parameters<Paging>,
) -> Result<axum::Json<Page<Value>>, Problem> {
    let uploads = api.backends().plugins.uploads(caller.tenant.as_ref())?;
    let id = |upload: &Value| upload.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    paged(uploads, &paging, id).map(axum::Json)
}

fn place_of(version: &Version) -> String {
    format!("{}:{}@{}", version.tenant.as_deref().unwrap_or_default(), version.plugin, version.digest)
}

fn paged<T: Serialize>(
    all: Vec<T>,
    paging: &Paging,
    place: impl Fn(&T) -> String,
) -> Result<Page<T>, Problem> {
    let (limit, after) = (page::limit(paging.limit)?, page::place(paging.cursor.as_deref())?);
    let all = all.into_iter();
    let items: Vec<T> = match after {
        Some(after) => all.skip_while(|one| place(one) != after).skip(1).take(limit + 1).collect(),
        None => all.take(limit + 1).collect(),
    };
    Ok(Page::of(items, limit, place))
}

/// Whose an upload is.
fn owner(caller: &Caller, asked: Option<&str>) -> Result<Option<TenantName>, Problem> {
    let asked =
        asked.map(TenantName::new).transpose().map_err(|error| Problem::invalid(error.to_string()))?;
    match (&caller.tenant, asked) {
        (Some(own), Some(asked)) if *own != asked => {
            Err(Problem::new(Code::Forbidden, "you upload for your own tenant only"))
        }
        (Some(own), _) => Ok(Some(own.clone())),
        (None, asked) => Ok(asked),
    }
}

/// Reads what is sent, within the limit of its kind.
async fn content(request: Request, bytes_max: usize) -> Result<Content, Problem> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/wasm" => read(request, bytes_max).await.map(Content::Bytes),
        "application/json" => {
            let bytes = read(request, QUESTION_BYTES_MAX).await?;
            let FromRegistry { oci } = crate::extract::read(&bytes)?;
            Ok(Content::Registry(oci))
        }
        _ => {
            Err(Problem::new(Code::UnsupportedType, "send application/wasm, or application/json with `oci`"))
        }
    }
}

async fn read(request: Request, bytes_max: usize) -> Result<Bytes, Problem> {
    match Limited::new(request.into_body(), bytes_max).collect().await {
        Ok(content) => Ok(content.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let detail =
                format!("refused at size: the content has more than {bytes_max} bytes; build it smaller");
            Err(Problem::new(Code::TooLarge, detail))
        }
        Err(error) => Err(Problem::invalid(format!("the content could not be read: {error}"))),
    }
}

/// The SHA-256 of `Content-Digest: sha-256=:BASE64:`. Other algorithms are passed over.
fn declared(headers: &HeaderMap) -> Result<Option<Digest>, Problem> {
    let Some(text) = headers.get("content-digest") else { return Ok(None) };
    let wrong = || Problem::invalid("`Content-Digest` is to be `sha-256=:BASE64:` (RFC 9530)");
    let text = text.to_str().map_err(|_| wrong())?;
    let Some(value) = text.split(',').find_map(|part| part.trim().strip_prefix("sha-256=")) else {
        return Ok(None);
    };
    let base64 = value.strip_prefix(':').and_then(|value| value.strip_suffix(':')).ok_or_else(wrong)?;
    let bytes = STANDARD.decode(base64).map_err(|_| wrong())?;
    bytes.try_into().map(|bytes| Some(Digest(bytes))).map_err(|_| wrong())
}

fn signature(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(text) = headers.get(SIGNATURE) else { return Ok(None) };
    let text = text.to_str().map_err(|_| Problem::invalid("`Portolan-Signature` is to be text"))?;
    Ok(Some(text.split(',').map(str::trim).collect::<Vec<_>>().join("\n")))
}

/// No place for versions: a node without a control store.
#[derive(Clone, Copy, Debug)]
pub struct NoPlugins;

#[async_trait]
impl Plugins for NoPlugins {
    fn component_bytes_max(&self) -> usize {
        QUESTION_BYTES_MAX
    }

    async fn submit(&self, _: Upload) -> Result<mpsc::Receiver<Told>, Problem> {
        Err(no_store())
    }

    fn versions(&self, _: Option<&TenantName>, _: Option<&str>) -> Result<Vec<Version>, Problem> {
        Ok(Vec::new())
    }

    async fn remove(&self, _: Removal) -> Result<u64, Problem> {
        Err(no_store())
    }

    fn uploads(&self, _: Option<&TenantName>) -> Result<Vec<Value>, Problem> {
        Ok(Vec::new())
    }
}

fn no_store() -> Problem {
    let detail = "versions need a control store and a place for components: add `[control]` to portolan.toml";
    Problem::new(Code::NoStore, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_the_standard_writes_it() {
        let of = |text: &'static str| {
            declared(&HeaderMap::from_iter([(
                "content-digest".parse().unwrap(),
                HeaderValue::from_static(text),
            )]))
        };
        let empty = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
        assert_eq!(of(empty).unwrap().unwrap().short(), "e3b0c44298fc");
        assert_eq!(of("md5=:AA==:").unwrap(), None);
        for bad in ["sha-256=AA", "sha-256=:AA==:", "sha-256=:!:"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
