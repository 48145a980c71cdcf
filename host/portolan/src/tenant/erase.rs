//! `portolan tenant erase`: begins an erasure and looks on while those who have something of the tenant take it away.

use std::process::ExitCode;
use std::time::Duration;

use portolan_admin::Erasure;
use portolan_core::ids::TenantName;
use portolan_foundation::clock;
use serde_json::{Value, json};

use super::text;
use crate::cli::tenant::Erase;
use crate::client::{Client, encode};
use crate::print;

/// From one look to the next.
const LOOK: Duration = Duration::from_millis(200);

/// Erases a tenant, or shows how far that is.
///
/// # Errors
/// When the store does not take it.
pub(crate) fn run(command: &Erase) -> anyhow::Result<ExitCode> {
    let name = TenantName::new(&command.name)?;
    let client = Client::open(&command.target)?;
    let path = format!("/api/v1/tenants/{name}/erasure?message={}", encode(&command.message));
    let begun: Value = client.post(&path, &json!({ "confirm": command.confirm }))?;
    let id = text(&begun, "/id").to_owned();
    let object = format!("/api/v1/objects/erasure/{id}");
    let until = clock::now().plus(command.wait);
    let mut told = 0;
    let erasure: Erasure = loop {
        let found: Value = client.get(&object)?;
        let erasure: Erasure = serde_json::from_value(found.get("body").cloned().unwrap_or_default())?;
        if !command.json {
            for receipt in erasure.receipts.iter().skip(told) {
                let at = humantime::format_rfc3339_millis(clock::from_unix_ms(receipt.at_ms));
                print(&format!(
                    "{at} {}: {} (receipt {})",
                    receipt.part,
                    receipt.counts,
                    short(&receipt.digest)
                ))?;
            }
        }
        told = erasure.receipts.len();
        if erasure.pending.is_empty() || clock::now() >= until {
            break erasure;
        }
        client.pause(LOOK);
    };
    if command.json {
        print(&serde_json::to_string_pretty(&json!({ "id": id, "erasure": erasure }))?)?;
    } else if erasure.pending.is_empty() {
        print(&format!("tenant {name} is erased; the receipts are in erasure/{id}"))?;
    } else {
        print(&format!("PENDING, until a node that has it runs: {}", erasure.pending.join(", ")))?;
        print(&format!("nodes go on by themselves; the same command shows how far erasure/{id} is"))?;
    }
    Ok(if erasure.pending.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(crate::DIFFERS) })
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
