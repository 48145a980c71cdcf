//! Where regions have their shards.

use std::path::PathBuf;

use portolan_sharding::{Capture, Engine, External, Passwords, PostgresConfig, StoreAccess, Tls, Watermarks};

use super::{At, Builder};
use crate::config::raw::{RawStore, RawStoreLog, RawStoreTls};

impl Builder<'_> {
    /// Where an engine that replicates itself is reached.
    pub(super) fn external(&mut self, at: At<'_>, raw: RawStore) -> Option<External> {
        let marks = raw.high_percent.is_some() || raw.low_percent.is_some() || raw.max_bytes.is_some();
        if marks || raw.sqlite.is_some() || raw.postgres.is_some() {
            let help = "leave `external` and how the server is known: `tls`, `ca`, `cert` and `key`";
            self.problem(at, "portolan holds none of the rows of a shard that replicates itself", help);
            return None;
        }
        if raw.log.is_some() {
            self.problem(at, "an engine that replicates itself has no log of portolan's", "leave out `log`");
        }
        let access = self.access(at, &raw, Passwords::default());
        let Some(external) = raw.external else {
            let help = "add `external = { address = \"postgres://ROLE@HOST:PORT/DATABASE\" }`";
            self.problem(at, "where is the engine reached?", help);
            return None;
        };
        let password = external.password_file.map(|file| self.folder.join(file));
        Some(External { access, address: external.address, password })
    }

    /// How a server proves who it is, and the gateway to it.
    fn access(&mut self, at: At<'_>, raw: &RawStore, passwords: Passwords) -> StoreAccess {
        if raw.cert.is_some() != raw.key.is_some() {
            self.problem(at, "`cert` and `key` come together", "name both files, or none");
        }
        let file = |path: &PathBuf| self.folder.join(path);
        StoreAccess {
            ca: raw.ca.as_ref().map(file),
            cert: raw.cert.as_ref().map(file),
            key: raw.key.as_ref().map(file),
            passwords,
            tls: raw.tls.map(|tls| match tls {
                RawStoreTls::Disable => Tls::Disable,
                RawStoreTls::Require => Tls::Require,
                RawStoreTls::VerifyCa => Tls::VerifyCa,
                RawStoreTls::VerifyFull => Tls::VerifyFull,
            }),
        }
    }

    /// Where a region has a shard that portolan replicates.
    pub(super) fn engine(&mut self, at: At<'_>, mut raw: RawStore) -> Option<Engine> {
        if raw.external.is_some() {
            let help = "say `replication = \"external\"` of the shard, or name a file or a database";
            self.problem(at, "`external` is an engine that replicates itself", help);
            return None;
        }
        let spoken = raw.tls.is_some() || raw.ca.is_some() || raw.cert.is_some();
        if raw.sqlite.is_some() && spoken {
            self.problem(
                at,
                "a file is not reached over a network",
                "leave out `tls`, `ca`, `cert` and `key`",
            );
        }
        if raw.sqlite.is_some() && raw.log == Some(RawStoreLog::Logical) {
            let help = "leave out `log`, or name a database of PostgreSQL";
            self.problem(at, "a file has no write-ahead log that could be decoded", help);
        }
        let urls = raw.postgres.take();
        let passwords = urls.as_ref().map_or_else(Passwords::default, |urls| {
            let file = |path: &Option<PathBuf>| path.as_ref().map(|path| self.folder.join(path));
            Passwords {
                applier: file(&urls.applier_password_file),
                owner: file(&urls.owner_password_file),
                writer: file(&urls.writer_password_file),
            }
        });
        let access = self.access(at, &raw, passwords);
        match (raw.sqlite, urls) {
            (Some(path), None) => Some(Engine::Sqlite(self.folder.join(path))),
            (None, Some(urls)) => Some(Engine::Postgres(PostgresConfig {
                access,
                applier: urls.applier,
                capture: match raw.log {
                    Some(RawStoreLog::Logical) => Capture::Logical,
                    Some(RawStoreLog::Triggers) | None => Capture::Triggers,
                },
                owner: urls.owner,
                writer: urls.writer,
            })),
            _ => {
                let help = "name one: `sqlite = \"FILE\"` on one machine, or `postgres` with its three roles";
                self.problem(at, "a shard is either a file or a database of PostgreSQL", help);
                None
            }
        }
    }

    /// How full a shard's place may be.
    pub(super) fn marks(&mut self, at: At<'_>, raw: &RawStore) -> Watermarks {
        let default = Watermarks::default();
        let high_percent = raw.high_percent.unwrap_or(default.high_percent);
        let low_percent =
            raw.low_percent.unwrap_or_else(|| default.low_percent.min(high_percent.saturating_sub(5)));
        if high_percent > 100 || low_percent >= high_percent {
            let help = "writes end at `high_percent` and go on at `low_percent`, which lies below it";
            self.problem(at, format!("{low_percent} % and {high_percent} % are no two marks"), help);
        }
        Watermarks { high_percent, low_percent, max_bytes: raw.max_bytes }
    }
}
