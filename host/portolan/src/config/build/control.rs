//! The control store: a file or a cluster, and where its components are.

use std::path::PathBuf;

use portolan_control::{Engine, EtcdConfig, Shared};

use super::Builder;
use crate::config::defaults;
use crate::config::raw::{RawControl, RawEtcd};

impl Builder<'_> {
    /// The store, and the folder of components.
    pub(super) fn control(&mut self, raw: RawControl) -> Option<(Engine, Option<Shared>)> {
        let beside = raw.sqlite.as_ref().map(|file| self.folder.join(file));
        let beside = beside.map(|file| file.with_file_name(defaults::COMPONENTS_FOLDER));
        let components = self.shared(&raw, beside);
        match (raw.sqlite, raw.etcd) {
            (Some(file), None) => Some((Engine::Sqlite(self.folder.join(file)), components)),
            (None, Some(etcd)) => self.etcd(etcd).map(|engine| (engine, components)),
            _ => {
                let help = "name one: `sqlite = \"control.db\"` on one machine, `[control.etcd]` on several";
                self.problem(&["control"], "a control store is either a file or a cluster", help);
                None
            }
        }
    }

    fn etcd(&mut self, raw: RawEtcd) -> Option<Engine> {
        let before = self.problems.len();
        let path = |path: PathBuf| self.folder.join(path);
        let (ca, cert, key) = (raw.ca.map(path), raw.cert.map(path), raw.key.map(path));
        let tls = ca.is_some();
        if raw.endpoints.is_empty() {
            let help = "name at least one, such as `http://10.0.0.1:2379`";
            self.problem(&["control", "etcd", "endpoints"], "there is no member to ask", help);
        }
        for (index, endpoint) in raw.endpoints.iter().enumerate() {
            let wanted = if tls { "https" } else { "http" };
            let uri = endpoint.parse::<http::Uri>().ok();
            let good = uri.is_some_and(|uri| uri.scheme_str() == Some(wanted) && uri.authority().is_some());
            if !good {
                let at = ["control", "etcd", "endpoints", &index.to_string()];
                let help = format!("write `{wanted}://HOST:PORT`; with `ca` it is https, without http");
                self.problem(&at, format!("`{endpoint}` is no member's address"), help);
            }
        }
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => {
                self.problem(&["control", "etcd"], "`cert` and `key` come together", "add the other one");
                None
            }
        };
        let user = match (raw.user, raw.password) {
            (Some(user), Some(password)) => Some((user, password)),
            (None, None) => None,
            _ => {
                self.problem(
                    &["control", "etcd"],
                    "`user` and `password` come together",
                    "add the other one",
                );
                None
            }
        };
        let prefix = raw.prefix.unwrap_or_else(|| defaults::ETCD_PREFIX.to_owned());
        if !prefix.starts_with('/') || prefix.ends_with('/') || prefix.len() > 200 {
            let help = "begin it with `/`, and do not end it with one";
            self.problem(&["control", "etcd", "prefix"], format!("`{prefix}` is no prefix"), help);
        }
        let config = EtcdConfig { ca, endpoints: raw.endpoints, identity, prefix, user };
        (self.problems.len() == before).then_some(Engine::Etcd(config))
    }
}
