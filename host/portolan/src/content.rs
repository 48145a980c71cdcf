//! `portolan content`: a tenant's content through a gateway's public listener, as any client has it. Large files go in parts, each of which may be
//! sent again.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use crate::cli::Content;
use crate::cli::content::{Share, What};
use crate::client::encode;
use crate::{AUTH, CONFLICT, NOT_FOUND, REFUSED, node, print};

/// What is sent at a time: a break costs no more.
const PART_BYTES: usize = 8 << 20;
/// How often a part is sent again before the command gives up.
const TRIES: u32 = 5;
/// From one try to the next.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// # Errors
/// When nobody answers, or a file cannot be used.
pub(crate) fn run(command: &Content) -> anyhow::Result<ExitCode> {
    node::control_runtime()?.block_on(Box::pin(ask(command)))
}

/// Whom is asked.
struct Gateway<'a> {
    client: Client,
    command: &'a Content,
}

impl Gateway<'_> {
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}/-/content{path}", self.command.url.trim_end_matches('/'));
        let request = self.client.request(method, url);
        match &self.command.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn json(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let text = good(request.send().await?).await?.bytes().await?;
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&text).context("read the gateway's answer")
    }

    /// All entries of a list that has pages; `after` is the parameter that goes on.
    async fn all(&self, path: &str, list: &str, after: &str) -> anyhow::Result<Vec<Value>> {
        let (mut all, mut place) = (Vec::new(), String::new());
        loop {
            let mut page = self.json(Method::GET, &format!("{path}?limit=1000{place}"), None).await?;
            if let Some(Value::Array(entries)) = page.get_mut(list).map(Value::take) {
                all.extend(entries);
            }
            let next = match page.get("next") {
                Some(Value::String(next)) => encode(next),
                Some(Value::Number(next)) => next.to_string(),
                _ => return Ok(all),
            };
            place = format!("&{after}={next}");
        }
    }
}

/// A problem of the gateway's, with what the command ends with.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
struct Refused {
    detail: String,
    status: StatusCode,
}

async fn good(response: Response) -> anyhow::Result<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let text = response.bytes().await.unwrap_or_default();
    let problem: Value = serde_json::from_slice(&text).unwrap_or_default();
    let detail = problem.get("detail").and_then(Value::as_str);
    let detail =
        detail.map_or_else(|| format!("the gateway answers {status}: is this its URL?"), str::to_owned);
    Err(Refused { detail, status }.into())
}

async fn ask(command: &Content) -> anyhow::Result<ExitCode> {
    let client = Client::builder().build().context("use TLS")?;
    match answer(&Gateway { client, command }).await {
        Ok(code) => Ok(code),
        Err(error) => match error.downcast_ref::<Refused>() {
            Some(refused) => {
                eprintln!("error: {refused}");
                Ok(ExitCode::from(match refused.status {
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => AUTH,
                    StatusCode::NOT_FOUND => NOT_FOUND,
                    StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => CONFLICT,
                    status if status.is_client_error() => REFUSED,
                    _ => 1,
                }))
            }
            None => Err(error),
        },
    }
}

async fn answer(gateway: &Gateway<'_>) -> anyhow::Result<ExitCode> {
    match &gateway.command.what {
        What::Put { item, file, media, base } => put(gateway, item, file, media, base.as_deref()).await?,
        What::Get { item, output, version } => {
            get(gateway, item, output.as_deref(), version.as_deref()).await?
        }
        What::Rm { item } => drop(gateway.json(Method::DELETE, &path(item)?, None).await?),
        What::Ls { site } => {
            for item in gateway.all(&format!("/items/{}", encode(site)), "items", "after").await? {
                let number = |name: &str| item.get(name).and_then(Value::as_u64).unwrap_or(0);
                let mark = if number("heads") > 1 { "  conflict" } else { "" };
                print(&format!(
                    "{:>14}  {}  {}{mark}",
                    number("bytes"),
                    word(&item, "media"),
                    word(&item, "name")
                ))?;
            }
        }
        What::Log { item } => {
            for version in gateway.all(&format!("{}/versions", path(item)?), "versions", "before").await? {
                let is = |name: &str| version.get(name).and_then(Value::as_bool).unwrap_or(false);
                let bytes = version.get("bytes").and_then(Value::as_u64).unwrap_or(0);
                let what = if is("deleted") { "deleted".to_owned() } else { format!("{bytes} bytes") };
                let mark = if is("shown") {
                    "  shown"
                } else if is("head") {
                    "  head"
                } else {
                    ""
                };
                print(&format!("{}  {what}  {}{mark}", word(&version, "version"), word(&version, "region")))?;
            }
        }
        What::Diff { item, from, to } => {
            let query = format!("{}/diff?from={}&to={}", path(item)?, encode(from), encode(to));
            show(&gateway.json(Method::GET, &query, None).await?)?;
        }
        What::Conflicts { item, keep } => conflicts(gateway, item, keep.as_deref()).await?,
        What::Share(share) => self::share(gateway, share).await?,
        What::Verify { site } => return verify(gateway, site).await,
    }
    Ok(ExitCode::SUCCESS)
}

/// Sends a file in parts. A part that did not arrive is asked for, and sent again from there.
async fn put(
    gateway: &Gateway<'_>,
    item: &str,
    file: &Path,
    media: &str,
    base: Option<&str>,
) -> anyhow::Result<()> {
    let (site, name) = named(item)?;
    let context = || format!("read {}", file.display());
    let mut source = File::open(file).with_context(context)?;
    let bytes = source.metadata().with_context(context)?.len();
    let announced = json!({ "site": site, "name": name, "bytes": bytes, "media": media, "base": base });
    let upload = gateway.json(Method::POST, "/uploads", Some(announced)).await?;
    let upload = format!("/uploads/{}", word(&upload, "upload"));
    let (mut at, mut tries) = (0, 0);
    loop {
        source.seek(SeekFrom::Start(at)).with_context(context)?;
        let mut part = Vec::new();
        std::io::Read::by_ref(&mut source)
            .take(PART_BYTES as u64)
            .read_to_end(&mut part)
            .with_context(context)?;
        let length = part.len() as u64;
        let sent =
            gateway.request(Method::PATCH, &upload).header("upload-offset", at).body(part).send().await;
        let sent = match sent {
            Ok(response) => good(response).await,
            Err(error) => Err(error.into()),
        };
        match sent {
            Ok(response) if at + length == bytes => {
                let told: Value = serde_json::from_slice(&response.bytes().await?).unwrap_or_default();
                let conflict = told.get("conflict").and_then(Value::as_bool).unwrap_or(false);
                let mark = if conflict {
                    ", which stands beside another: see `portolan content conflicts`"
                } else {
                    ""
                };
                return print(&format!("version {}{mark}", word(&told, "version")));
            }
            Ok(_) if length == 0 => bail!("{} is shorter than it was", file.display()),
            Ok(_) => (at, tries) = (at + length, 0),
            Err(error) => {
                tries += 1;
                let is_final = error.downcast_ref::<Refused>().is_some_and(|refused| {
                    refused.status.is_client_error() && refused.status != StatusCode::TOO_MANY_REQUESTS
                });
                if is_final || tries >= TRIES {
                    return Err(error);
                }
                tokio::time::sleep(PAUSE).await;
                let state = gateway.json(Method::GET, &upload, None).await?;
                at = state.get("offset").and_then(Value::as_u64).context("read the upload's offset")?;
            }
        }
    }
}

async fn get(
    gateway: &Gateway<'_>,
    item: &str,
    output: Option<&Path>,
    version: Option<&str>,
) -> anyhow::Result<()> {
    let query = version.map(|version| format!("?version={}", encode(version))).unwrap_or_default();
    let response = gateway.request(Method::GET, &format!("{}{query}", path(item)?)).send().await?;
    let mut response = good(response).await?;
    match output {
        Some(file) => {
            // A reader of the file never sees half of it.
            let folder = file
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty())
                .unwrap_or_else(|| Path::new("."));
            let mut partial =
                tempfile::NamedTempFile::new_in(folder).context("make a file beside the output")?;
            while let Some(part) = response.chunk().await? {
                partial.write_all(&part).context("write the output")?;
            }
            partial.persist(file).with_context(|| format!("write {}", file.display()))?;
        }
        None => {
            let mut output = std::io::stdout().lock();
            while let Some(part) = response.chunk().await? {
                output.write_all(&part)?;
            }
        }
    }
    Ok(())
}

async fn conflicts(gateway: &Gateway<'_>, item: &str, keep: Option<&str>) -> anyhow::Result<()> {
    let place = format!("{}/conflicts", path(item)?);
    let open = gateway.json(Method::GET, &place, None).await?;
    let Some(keep) = keep else { return show(&open) };
    let heads: Vec<&str> = open
        .get("heads")
        .and_then(Value::as_array)
        .map(|heads| heads.iter().map(|head| word(head, "version")).collect())
        .unwrap_or_default();
    let done = gateway.json(Method::POST, &place, Some(json!({ "keep": keep, "heads": heads }))).await?;
    print(&format!("version {}", word(&done, "version")))
}

async fn share(gateway: &Gateway<'_>, share: &Share) -> anyhow::Result<()> {
    let of = |share: &str, what: &str| format!("/shares/{}{what}", encode(share));
    let answer = match share {
        Share::Offer { source, target, to, prefix, mode, allow, deny, direction, eager, hide, show, may } => {
            let scope = if prefix.is_some() { "collection" } else { "all" };
            let some = |list: &[String]| if list.is_empty() { Value::Null } else { json!(list) };
            let can = |what: &str| may.iter().any(|word| word == what);
            let offered = json!({
                "source_site": source, "target_site": target.as_deref().unwrap_or_default(), "target_tenant": to,
                "scope": scope, "scope_ref": prefix.as_deref().unwrap_or_default(), "mode": mode,
                "direction": direction, "eager": eager, "allowed_regions": some(allow), "denied_regions": deny,
                "field_mask": hide, "fields": some(show), "can_update": can("update"),
                "can_reshare": can("reshare"), "can_export": can("export"),
            });
            gateway.json(Method::POST, "/shares", Some(offered)).await?
        }
        Share::Accept { share, from, site } => {
            let query = match (from, site) {
                (Some(from), Some(site)) => format!("?from={}&site={}", encode(from), encode(site)),
                _ => String::new(),
            };
            gateway.json(Method::POST, &of(share, &format!("/accept{query}")), None).await?
        }
        Share::Suspend { share } => gateway.json(Method::POST, &of(share, "/suspend"), None).await?,
        Share::Revoke { share } => gateway.json(Method::POST, &of(share, "/revoke"), None).await?,
        Share::Preview { share } => gateway.json(Method::GET, &of(share, "/preview"), None).await?,
        Share::Sync { share } => gateway.json(Method::POST, &of(share, "/sync"), None).await?,
        Share::Ls => Value::Array(gateway.all("/shares", "shares", "after").await?),
    };
    show(&answer)
}

/// Reads each item to its end: the gateway names each chunk again before it gives it.
async fn verify(gateway: &Gateway<'_>, site: &str) -> anyhow::Result<ExitCode> {
    let (mut whole, mut broken) = (0_u64, 0_u64);
    for item in gateway.all(&format!("/items/{}", encode(site)), "items", "after").await? {
        match read(gateway, site, &item).await {
            Ok(()) => whole += 1,
            Err(error) => {
                broken += 1;
                print(&format!("{}: {error:#}", word(&item, "name")))?;
            }
        }
    }
    print(&format!("{whole} items are whole, {broken} are not"))?;
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn read(gateway: &Gateway<'_>, site: &str, item: &Value) -> anyhow::Result<()> {
    let (name, version) = (encode(word(item, "name")), encode(word(item, "version")));
    let place = format!("/items/{}/{name}?version={version}", encode(site));
    let mut response = good(gateway.request(Method::GET, &place).send().await?).await?;
    let (mut bytes, wanted) = (0, item.get("bytes").and_then(Value::as_u64).unwrap_or(0));
    while let Some(part) = response.chunk().await? {
        bytes += part.len() as u64;
    }
    anyhow::ensure!(bytes == wanted, "{bytes} of {wanted} bytes came");
    Ok(())
}

fn named(item: &str) -> anyhow::Result<(&str, &str)> {
    item.split_once('/').context("name an item as SITE/NAME")
}

fn path(item: &str) -> anyhow::Result<String> {
    let (site, name) = named(item)?;
    Ok(format!("/items/{}/{}", encode(site), encode(name)))
}

fn word<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn show(value: &Value) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}
