//! Where a client is: what a trusted proxy or the operator's networks say, else what the table of addresses says. The table is
//! asked when a rule looks, once for each request.

use std::cell::OnceCell;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use portolan_core::geography::{Continent, Country, Geography};
use portolan_core::ids::RegionName;

use crate::config::Trust;

/// Where a client is, as far as it is told or known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origin {
    client: Option<IpAddr>,
    country: Option<Box<str>>,
    found: OnceCell<Found>,
    geography: Option<Arc<Geography>>,
    near: Option<Box<str>>,
}

/// What the table says.
#[derive(Clone, Debug, Default)]
struct Found {
    continent: Option<Continent>,
    country: Option<Country>,
    near: Option<RegionName>,
}

impl Origin {
    /// Reads what is told of a client; headers count where they come from somebody who is trusted.
    pub(crate) fn read(trust: &Trust, client: IpAddr, headers: Option<&HeaderMap>) -> Self {
        let network = trust.network(client);
        let named = |name: Option<&http::HeaderName>| {
            name.zip(headers).and_then(|(name, headers)| headers.get(name)?.to_str().ok())
        };
        let country = named(trust.country_header.as_ref()).map(|text| text.to_ascii_uppercase().into());
        let country = country.or_else(|| network.and_then(|entry| entry.country.as_deref()).map(Into::into));
        let near = named(trust.region_header.as_ref()).map(Into::into);
        let near = near.or_else(|| network?.region.as_ref().map(|region| region.as_str().into()));
        let geography = trust.geography.clone();
        Self { client: Some(client), country, found: OnceCell::new(), geography, near }
    }

    /// Takes another region for the nearest.
    pub(crate) fn assume_near(&mut self, near: Option<String>) {
        self.near = near.map(Into::into);
    }

    /// The client's continent, in two letters.
    pub(crate) fn continent(&self) -> Option<&str> {
        self.found().continent.map(Continent::as_str)
    }

    /// Its country, in two letters.
    pub(crate) fn country(&self) -> Option<&str> {
        self.country.as_deref().or_else(|| self.found().country.as_ref().map(Country::as_str))
    }

    /// The region that is nearest to it.
    pub(crate) fn near(&self) -> Option<&str> {
        self.near.as_deref().or_else(|| self.found().near.as_ref().map(RegionName::as_str))
    }

    fn found(&self) -> &Found {
        self.found.get_or_init(|| {
            let Some((geography, client)) = self.geography.as_ref().zip(self.client) else {
                return Found::default();
            };
            let located = geography.locate(client).place;
            // Who is told to be in another country than the table says is there.
            let told = self.country.as_deref().and_then(Country::parse);
            let elsewhere = told.filter(|told| located.country != Some(*told));
            let place = elsewhere.map_or(located, |country| geography.country(country));
            let near = geography.nearest(&place).cloned();
            Found { continent: place.continent, country: place.country, near }
        })
    }
}

#[cfg(test)]
mod tests;
