//! `portolan plugin keygen`, and `sign`: what authors do to a component before they push it.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use portolan_policy::SigningKey;

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
