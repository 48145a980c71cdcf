//! Servers of others that tests start: Debian's registry of images, and one that speaks S3's protocol. Each is a process of the
//! real program on a loopback port; it ends with the value.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use portolan_foundation::task;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::client::{Answer, Client};
use crate::until;

/// A file below `target/tools`, where `cargo xtask setup` and `cargo xtask test` put programs.
fn tool(path: &str) -> Option<PathBuf> {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    folders.map(|folder| folder.join("target/tools").join(path)).find(|path| path.exists())
}

/// A port that was free a moment ago. A server that finds it taken ends, and its test says so.
fn port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its number").port()
}

/// A process that ends with the value.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A registry of images.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    _folder: TempDir,
    _process: Process,
}

impl Registry {
    /// Starts one, and waits until it answers.
    ///
    /// # Panics
    /// When the program is missing.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let address = SocketAddr::from(([127, 0, 0, 1], port()));
        let config = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            folder.path().join("data").display()
        );
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config).expect("a file");
        let program =
            tool("docker-registry/usr/bin/docker-registry").unwrap_or_else(|| "docker-registry".into());
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let child = Command::new(program)
            .arg("serve")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("start docker-registry: {error}; `cargo xtask test` gets it"));
        let registry = Self { address, _folder: folder, _process: Process(child) };
        until("the registry", async || registry.ask(Request::get("/v2/"), Bytes::new()).await.is_ok()).await;
        registry
    }

    /// As references name it.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    async fn ask(&self, request: http::request::Builder, body: Bytes) -> anyhow::Result<Answer> {
        Client::connect(self.address, &self.host()).await?.send(request, body).await
    }

    async fn blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        let begun = self.ask(Request::post(format!("/v2/{repository}/blobs/uploads/")), Bytes::new()).await;
        let begun = begun.expect("the registry takes a blob");
        let place = begun.header("location").to_owned();
        let place = place.strip_prefix(&format!("http://{}", self.host())).unwrap_or(&place).to_owned();
        let put = Request::put(format!("{place}&digest={digest}"))
            .header("content-type", "application/octet-stream");
        let put = self.ask(put, Bytes::copy_from_slice(bytes)).await.expect("the registry takes a blob");
        assert_eq!(put.status, StatusCode::CREATED, "{}", put.text());
        digest
    }

    /// Pushes an image of layers, each with its kind; gives the digest of its manifest.
    ///
    /// # Panics
    /// When the registry does not take it.
    pub async fn push(&self, repository: &str, tag: &str, config: &str, layers: &[(&str, &[u8])]) -> String {
        let mut described = Vec::new();
        for (kind, bytes) in layers {
            let digest = self.blob(repository, bytes).await;
            described.push(json!({ "mediaType": kind, "digest": digest, "size": bytes.len() }));
        }
        let empty = self.blob(repository, b"{}").await;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": { "mediaType": config, "digest": empty, "size": 2 },
            "layers": described,
        })
        .to_string();
        let put = Request::put(format!("/v2/{repository}/manifests/{tag}"))
            .header("content-type", "application/vnd.oci.image.manifest.v1+json");
        let put = self.ask(put, manifest.clone().into()).await.expect("the registry takes a manifest");
        assert_eq!(put.status, StatusCode::CREATED, "{}", put.text());
        digest(manifest.as_bytes())
    }
}

/// A registry that gives nothing without a token, and tokens to those who are known: `alice` with the password `secret`, and whoever
/// has the token `identity`.
#[derive(Debug)]
pub struct Guarded {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Guarded {
    /// Stands before a registry.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn before(registry: &Registry) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (own, target) = (listener.local_addr().expect("its address"), registry.address);
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&asked);
        task::spawn("guarded-registry", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let noted = Arc::clone(&noted);
                task::spawn("guarded-connection", async move {
                    let service = service_fn(move |request| {
                        let noted = Arc::clone(&noted);
                        async move { Ok::<_, Infallible>(guard(own, target, &noted, request).await) }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    http.serve_connection(TokioIo::new(stream), service).await.ok();
                });
            }
        });
        Self { address: own, asked }
    }

    /// As references name it.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// How tokens were asked for since the last look.
    ///
    /// # Panics
    /// When another thread has failed.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("no thread failed"))
    }
}

async fn guard(
    own: SocketAddr,
    target: SocketAddr,
    noted: &Mutex<Vec<String>>,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    const TOKEN: &str = "Bearer given-by-the-test";
    let answer = |status: StatusCode, text: &str| {
        let mut answer = Response::new(Full::from(text.to_owned()));
        *answer.status_mut() = status;
        answer
    };
    let authorization = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let authorization = authorization.unwrap_or_default().to_owned();
    if request.uri().path() == "/token" {
        let mut what = format!("{} {}", request.method(), request.uri().query().unwrap_or_default());
        let content = request.into_body().collect().await.expect("the whole request").to_bytes();
        what.push_str(&String::from_utf8_lossy(&content));
        noted.lock().expect("no thread failed").push(what.clone());
        // `alice:secret` in base64.
        let is_alice = authorization == "Basic YWxpY2U6c2VjcmV0";
        return match is_alice || what.contains("grant_type=refresh_token&refresh_token=identity") {
            true => answer(
                StatusCode::OK,
                &json!({ "access_token": TOKEN.trim_start_matches("Bearer ") }).to_string(),
            ),
            false => answer(StatusCode::UNAUTHORIZED, "who are you?"),
        };
    }
    if authorization != TOKEN {
        let mut refused = answer(StatusCode::UNAUTHORIZED, "a token, please");
        let challenge = format!(
            "Bearer realm=\"http://{own}/token\",service=\"images.test\",scope=\"repository:acme/policy:pull\""
        );
        for challenge in ["Basic realm=\"images\"", &challenge] {
            let value = challenge.parse().expect("a value of a header");
            refused.headers_mut().append("www-authenticate", value);
        }
        return refused;
    }
    forward(target, request).await.unwrap_or_else(|error| answer(StatusCode::BAD_GATEWAY, &error.to_string()))
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// A store that speaks S3's protocol, with the bucket `components`.
#[derive(Debug)]
pub struct S3 {
    address: SocketAddr,
    _folder: TempDir,
    _process: Process,
}

impl S3 {
    /// Starts one, and waits until it has its bucket.
    ///
    /// # Panics
    /// When the program is missing.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let address = SocketAddr::from(([127, 0, 0, 1], port()));
        let packages = tool("moto").expect("moto is there: `cargo xtask test` gets it");
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let child = Command::new("python3")
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &address.port().to_string()])
            .env("PYTHONPATH", packages)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("python3 starts");
        let s3 = Self { address, _folder: folder, _process: Process(child) };
        until("the bucket", async || {
            let made = s3.ask(Request::put("/components")).await;
            made.is_ok_and(|made| made.status.is_success())
        })
        .await;
        s3
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks it without a signature, which it does not mind.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn ask(&self, request: http::request::Builder) -> anyhow::Result<Answer> {
        Client::connect(self.address, &self.address.to_string()).await?.send(request, Bytes::new()).await
    }

    /// Another address of the same store, where conditions on a write are not honoured, as in stores that do not know them.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn without_conditions(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (own, target) = (listener.local_addr().expect("its address"), self.address);
        task::spawn("forgetful-store", async move {
            while let Ok((stream, _)) = listener.accept().await {
                task::spawn("forgetful-connection", async move {
                    let service = service_fn(move |request| async move {
                        Ok::<_, Infallible>(forward(target, request).await.unwrap_or_else(|error| {
                            let mut failed = Response::new(Full::from(error.to_string()));
                            *failed.status_mut() = StatusCode::BAD_GATEWAY;
                            failed
                        }))
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    http.serve_connection(TokioIo::new(stream), service).await.ok();
                });
            }
        });
        own
    }
}

async fn forward(target: SocketAddr, request: Request<Incoming>) -> anyhow::Result<Response<Full<Bytes>>> {
    let (mut head, body) = request.into_parts();
    head.headers.remove("if-none-match");
    let body = body.collect().await?.to_bytes();
    let stream = tokio::net::TcpStream::connect(target).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    task::spawn("forgetful-client", async move { connection.await.ok() });
    let answer = sender.send_request(Request::from_parts(head, Full::new(body))).await?;
    let (head, body) = answer.into_parts();
    Ok(Response::from_parts(head, Full::new(body.collect().await?.to_bytes())))
}
