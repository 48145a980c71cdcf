//! `portolan token debug`: words that requests can carry.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use portolan_core::ids::TenantName;
use portolan_foundation::clock;
use portolan_proxy::DEBUG_USE;

use crate::node::recordings;
use crate::print;

/// The longest time that a word for `portolan-debug` holds: it cannot be taken back.
const TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes a word for the request header `portolan-debug`.
///
/// # Errors
/// When the node's key cannot be read or made.
pub(crate) fn debug(tenant: Option<&str>, time: Duration, config: &Path) -> anyhow::Result<()> {
    ensure!(time <= TIME_MAX, "a word holds for a day at most: make another one tomorrow");
    tenant.map(TenantName::new).transpose()?;
    let (loaded, _) = crate::shown(crate::load(config)?).context("mend the configuration first")?;
    std::fs::create_dir_all(&loaded.config.state)
        .with_context(|| format!("create the state folder {}", loaded.config.state.display()))?;
    let key = recordings::debug_key(&loaded.config)?.for_purpose(recordings::DEBUG_PURPOSE);
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    print(&key.seal(DEBUG_USE, tenant, clock::unix_ms().saturating_add(millis)))
}
