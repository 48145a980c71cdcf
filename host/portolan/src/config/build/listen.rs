//! Where a node listens.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::super::raw::RawPeer;
use super::{At, Builder, GatewayTls};

/// Addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listen {
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) dns: Vec<SocketAddr>,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) peer: Vec<SocketAddr>,
    /// Those of the public ones whose connections begin with a PROXY header.
    pub(crate) proxy_protocol: Vec<SocketAddr>,
    pub(crate) public: Vec<SocketAddr>,
    pub(crate) public_tls: Vec<SocketAddr>,
    pub(crate) replication: Vec<SocketAddr>,
}

impl Builder<'_> {
    /// Where the node's identity comes from: files, or an agent.
    pub(super) fn gateway_tls(&mut self, raw: RawPeer) -> Option<GatewayTls> {
        let path = |path: PathBuf| self.folder.join(path);
        match raw {
            RawPeer { ca: Some(ca), cert: Some(cert), key: Some(key), spiffe: None } => {
                let ca = ca.into_iter().map(path).collect();
                Some(GatewayTls::Files { ca, cert: path(cert), key: path(key) })
            }
            RawPeer { ca: None, cert: None, key: None, spiffe: Some(socket) } => {
                Some(GatewayTls::Spiffe(path(socket)))
            }
            _ => {
                let help = "write cert, key and ca, all three, or spiffe alone: the socket of the agent that issues them";
                self.problem(&["peer"], "it is not said where this node's identity comes from", help);
                None
            }
        }
    }

    pub(super) fn check_listen(&mut self, listen: &Listen, peer: bool, no_certificate: bool, trusts: bool) {
        if listen.public.is_empty() && listen.public_tls.is_empty() {
            self.problem(&["listen"], "there is no public listener", "add `public = [\"0.0.0.0:8080\"]`");
        }
        if !listen.public_tls.is_empty() && no_certificate {
            let help = "add `[[tls.certificate]]` with `cert` and `key`";
            self.problem(&["listen", "public_tls"], "a TLS listener needs a certificate", help);
        }
        if !listen.peer.is_empty() && !peer {
            let help = "add `[peer]` with cert, key and ca, or with spiffe";
            self.problem(&["listen", "peer"], "a peer listener needs this node's identity", help);
        }
        if !listen.replication.is_empty() && !peer {
            let help = "add `[peer]` with cert, key and ca, or with spiffe";
            let what = "a listener for replication needs this node's identity";
            self.problem(&["listen", "replication"], what, help);
        }
        self.check_proxied(listen, trusts);
        let mut seen = BTreeSet::new();
        let all = [
            ("dns", &listen.dns),
            ("public", &listen.public),
            ("public_tls", &listen.public_tls),
            ("peer", &listen.peer),
            ("replication", &listen.replication),
        ];
        for (key, addresses) in all {
            for address in addresses.iter().filter(|address| address.port() != 0) {
                if !seen.insert(*address) {
                    let help = "give each listener an address of its own";
                    self.problem(&["listen", key], format!("{address} is listed twice"), help);
                }
            }
        }
    }

    fn check_proxied(&mut self, listen: &Listen, trusts: bool) {
        let known =
            |address: &SocketAddr| listen.public.contains(address) || listen.public_tls.contains(address);
        for address in listen.proxy_protocol.iter().filter(|address| !known(address)) {
            let what = format!("{address} is no public listener");
            let help = "write it as in listen.public or listen.public_tls";
            self.problem(&["listen", "proxy_protocol"], what, help);
        }
        if !listen.proxy_protocol.is_empty() && !trusts {
            let help = "name the networks of the load balancers in trust.proxies";
            let what = "nobody may connect: no proxy is trusted to say who its clients are";
            self.problem(&["listen", "proxy_protocol"], what, help);
        }
    }

    pub(super) fn addresses(&mut self, key: &str, texts: &[String]) -> Vec<SocketAddr> {
        (0_usize..)
            .zip(texts)
            .filter_map(|(index, text)| self.address(&["listen", key, &index.to_string()], text))
            .collect()
    }

    pub(super) fn address(&mut self, at: At<'_>, text: &str) -> Option<SocketAddr> {
        let address = text.parse().ok();
        if address.is_none() {
            self.problem(
                at,
                format!("`{text}` is no address to listen on"),
                "write `0.0.0.0:8080` or `[::]:8080`",
            );
        }
        address
    }
}
