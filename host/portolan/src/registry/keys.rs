//! `portolan plugin keygen`, `sign` and `embed-vectors`: what authors do to a component before they push it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use portolan_policy::{Compile, Engine, Limits, Log, SigningKey, Tried, VECTORS_SECTION, with_section};
use serde_json::json;

use crate::print;

/// Bytes of a component that is signed or written to: more than any node takes.
const COMPONENT_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Makes a pair of keys: `NAME.pem`, which signs, and `NAME.pub.pem`, which nodes trust.
///
/// # Errors
/// When a file of that name is there, or cannot be written.
pub(crate) fn keygen(name: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let key = SigningKey::generate().map_err(anyhow::Error::msg)?;
    let (private, public) = (name.with_extension("pem"), name.with_extension("pub.pem"));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&private)
        .with_context(|| format!("write {}: choose another name", private.display()))?;
    file.write_all(key.to_pem().as_bytes()).with_context(|| format!("write {}", private.display()))?;
    std::fs::write(&public, key.public().to_pem()).with_context(|| format!("write {}", public.display()))?;
    let label = name.file_name().unwrap_or_default().to_string_lossy();
    print(&format!(
        "wrote {}, which signs: keep it to yourself\nwrote {}\nlet nodes trust it, in portolan.toml:\n\n  [[policies.key]]\n  name = \"{label}\"\n  public = \"{}\"",
        private.display(),
        public.display(),
        key.public()
    ))
}

/// Signs a component: in it, or beside it.
///
/// # Errors
/// When the key or the component cannot be read, or the outcome not written.
pub(crate) fn sign(
    component: &Path,
    key: &Path,
    output: Option<&Path>,
    detached: bool,
) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(key).with_context(|| format!("read the key {}", key.display()))?;
    let key = SigningKey::parse(&text).map_err(anyhow::Error::msg)?;
    let bytes = read(component)?;
    let (path, bytes) = if detached {
        let beside = output.map_or_else(|| beside(component), Path::to_owned);
        (beside, key.sign(&bytes).into_bytes())
    } else {
        (output.unwrap_or(component).to_owned(), key.embed(&bytes))
    };
    replace(&path, &bytes)?;
    print(&format!("{}: signed by {}", path.display(), key.public().id()))
}

/// Where the signatures of a component are that stand beside it.
pub(crate) fn beside(component: &Path) -> PathBuf {
    let mut name = component.as_os_str().to_owned();
    name.push(".sig");
    PathBuf::from(name)
}

/// Puts golden vectors into a component, after they were tried on it.
///
/// # Errors
/// When they do not read, or the component cannot be asked; [`ExitCode::FAILURE`] when one fails.
pub(crate) fn embed_vectors(
    component: &Path,
    vectors: &Path,
    output: Option<&Path>,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let bytes = read(component)?;
    let text = std::fs::read_to_string(vectors).with_context(|| format!("read {}", vectors.display()))?;
    let tried = try_vectors(&bytes, &text)?;
    let good = tried.iter().all(|one| one.passed);
    if good {
        replace(output.unwrap_or(component), &with_section(&bytes, VECTORS_SECTION, text.as_bytes()))?;
    }
    if as_json {
        print(&serde_json::to_string_pretty(&json!({ "ok": good, "vectors": tried }))?)?;
    } else {
        for one in &tried {
            let sign = if one.passed { "+" } else { "-" };
            let expected = if one.passed { String::new() } else { format!(", expected {}", one.expected) };
            print(&format!("{sign} {}: {}{expected}", one.name, one.got))?;
        }
        let done = if good { "they are in" } else { "nothing was written:" };
        print(&format!("{} vectors; {done} {}", tried.len(), output.unwrap_or(component).display()))?;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Tries golden vectors on a component, as an upload does; for an author's own desk.
///
/// # Errors
/// The refusal of the component, or of the vectors as a whole.
pub(crate) fn try_vectors(component: &[u8], text: &str) -> anyhow::Result<Vec<Tried>> {
    let limits = Limits::standard();
    let log = Log::new(portolan_core::ids::PolicyName::new("tried")?, limits.log_lines_per_second);
    let engine = Engine::new(portolan_policy::Config {
        cache_bytes_max: 0,
        cache_dir: None,
        compile: Compile::InProcess,
        data_threads: std::num::NonZeroUsize::MIN,
        limits,
        pool_slots: std::num::NonZeroU32::MIN,
    })
    .context("start the policy engine")?;
    let version = engine.load(component)?;
    Ok(engine.try_vectors(&version, text, &log)?)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    use std::io::Read as _;
    let file = std::fs::File::open(path).with_context(|| format!("read {}", path.display()))?;
    let mut bytes = Vec::new();
    file.take(COMPONENT_BYTES_MAX)
        .read_to_end(&mut bytes)
        .with_context(|| format!("read {}", path.display()))?;
    if !bytes.starts_with(b"\0asm") {
        bail!(
            "{} is not WebAssembly: give a component, such as `portolan plugin build` makes",
            path.display()
        );
    }
    Ok(bytes)
}

/// Under another name first, so that nobody sees half of it.
fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".tmp");
    std::fs::write(&partial, bytes).with_context(|| format!("write {}", path.display()))?;
    std::fs::rename(&partial, path).with_context(|| format!("write {}", path.display()))
}
