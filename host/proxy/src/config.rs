//! What the data plane needs to know before it starts.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use portolan_core::geography::Geography;
use portolan_core::ids::RegionName;
use portolan_core::preview::Previews;
use portolan_core::recording::Record;
use portolan_core::screen;
use portolan_foundation::cache::Cache;
use portolan_foundation::seal::SealKey;
use portolan_foundation::tls::PeerIdentity;

use crate::defaults;
use crate::service::Services;
use crate::settings::LiveSettings;

/// The data plane of one node: what it is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who keeps answers of upstreams; nobody when absent.
    pub cache: Option<Arc<dyn Cache>>,
    /// Whose words in `portolan-debug` are believed; nobody's when absent.
    pub debug: Option<SealKey>,
    /// Where to listen.
    pub listeners: Vec<Listener>,
    /// Who this node is among regions; needed by peer listeners and by pools with peer TLS.
    pub peer: Option<PeerIdentity>,
    /// Versions that no slot runs, for requests with a signed word; nobody's word is believed when absent.
    pub previews: Option<Previewing>,
    /// Who keeps decisions.
    pub recorder: Arc<dyn Record>,
    /// Services of the gateway itself.
    pub services: Services,
    /// What may change while it runs.
    pub settings: Arc<LiveSettings>,
    /// How many data threads.
    pub threads: NonZeroUsize,
}

/// How requests come to be decided by versions that no slot runs.
#[derive(Clone, Debug)]
pub struct Previewing {
    /// Whose words in `portolan-preview` are believed.
    pub key: SealKey,
    /// Who has the policies.
    pub policies: Arc<dyn Previews>,
}

/// One address.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Port 0 takes any free one.
    pub address: SocketAddr,
    /// What is spoken there.
    pub kind: ListenerKind,
    /// Does every connection begin with a header of the PROXY protocol? Then trusted proxies alone may connect.
    pub proxy_protocol: bool,
}

/// What is spoken on a listener.
#[derive(Clone, Debug)]
pub enum ListenerKind {
    /// HTTP/2 over mutual TLS from gateways of other regions.
    Peer,
    /// HTTP/1.1 and HTTP/2 in cleartext.
    Public,
    /// HTTP/1.1 and HTTP/2 over TLS.
    PublicTls(Arc<rustls::ServerConfig>),
}

/// Bounds on what clients may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time between two pieces of a content.
    pub body_idle_timeout: Duration,
    /// The largest request content in bytes; `None` for any.
    pub body_bytes_max: Option<u64>,
    /// Client connections of one data thread.
    pub connections_max: usize,
    /// Time for a whole request head.
    pub header_timeout: Duration,
    /// Time without a request.
    pub idle_timeout: Duration,
    /// Sizes of heads.
    pub screen: screen::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_idle_timeout: defaults::BODY_IDLE_TIMEOUT,
            body_bytes_max: None,
            connections_max: defaults::CONNECTIONS_MAX,
            header_timeout: defaults::HEADER_TIMEOUT,
            idle_timeout: defaults::IDLE_TIMEOUT,
            screen: screen::Limits::default(),
        }
    }
}

/// What to believe of what requests say about their clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// The header in which a trusted proxy names the client's country.
    pub country_header: Option<HeaderName>,
    /// Where addresses are on earth, for clients of whom nothing is told.
    pub geography: Option<Arc<Geography>>,
    /// Where clients in known networks are.
    pub networks: Vec<ClientNetwork>,
    /// The networks of proxies whose forwarding headers are believed.
    pub proxies: Vec<IpNet>,
    /// The header in which a trusted proxy names the region nearest to the client.
    pub region_header: Option<HeaderName>,
}

/// Where the clients of a network are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientNetwork {
    /// The network.
    pub network: IpNet,
    /// ISO 3166-1 alpha-2 code, upper case.
    pub country: Option<Arc<str>>,
    /// The nearest region.
    pub region: Option<RegionName>,
}

impl Trust {
    /// Is the address a trusted proxy's?
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.contains(&address))
    }

    /// The entry for a client: the longest network that contains its address.
    pub(crate) fn network(&self, address: IpAddr) -> Option<&ClientNetwork> {
        let all = self.networks.iter().filter(|entry| entry.network.contains(&address));
        all.max_by_key(|entry| entry.network.prefix_len())
    }
}
