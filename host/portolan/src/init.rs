//! `portolan init`: a first configuration that serves as it is, with what comes next in comments.

use std::path::Path;

use anyhow::{Context as _, bail};

use crate::cli::Init;
use crate::print;

/// The configuration. A test starts it.
pub(crate) const FIRST: &str = r#"# A first configuration of portolan. `portolan schema` describes every setting.

[node]
region = "local"

[listen]
public = ["127.0.0.1:8080"]

# Tell clients what decided, in response headers. Turn it off where clients are strangers.
[expose]
decision = true

# Regions hold pools, pools hold endpoints. Start something on port 9000: `python3 -m http.server 9000`.
[region.local.pool.web]
endpoints = ["127.0.0.1:9000"]
# probe = { path = "/healthz", interval = "2s" }

# The operator's routing policy: a bundled one (`portolan policies` lists them), or `policies/NAME.wasm`.
[policy]
use = "nearest-region"
config = { pool = "web" }

# Whose request it is: `acme` in acme.apps.example.com.
# [tenants]
# sources = [{ host_suffix = ".apps.example.com" }]

# A tenant that must stay in some regions.
# [residency.eu]
# regions = ["local"]
# [tenant.acme]
# residency = "eu"
"#;

/// Writes it.
///
/// # Errors
/// When there is one already, or the folder cannot be written.
pub(crate) fn run(options: &Init) -> anyhow::Result<()> {
    let folder = &options.folder;
    std::fs::create_dir_all(folder.join("policies"))
        .with_context(|| format!("create {}", folder.display()))?;
    let path = folder.join("portolan.toml");
    if path.exists() && !options.force {
        bail!("{} is there already: --force replaces it", path.display());
    }
    std::fs::write(&path, FIRST).with_context(|| format!("write {}", path.display()))?;
    let config =
        if folder == Path::new(".") { String::new() } else { format!(" --config {}", path.display()) };
    print(&format!("wrote {}; start it with `portolan serve{config}`", path.display()))
}
