//! Tables of where addresses are, in MaxMind's format (MaxMind DB, version 2), and what is known of countries without any.
//!
//! A table is read whole and checked whole before anybody asks it: a file that is cut off or made up is refused, and never met on the
//! way of a request. Files of several makers name things differently; those that are common are understood.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::Path;

use maxminddb::{LookupResult, MaxMindDbError, PathElement, Reader, WithinOptions};
use portolan_core::geography::{Continent, Country, Locate, Located, Place, Point};
use serde::de::IgnoredAny;

/// The largest file that is read: the largest tables of cities have a quarter of it.
pub const FILE_BYTES_MAX: u64 = 1 << 30;
/// What a table may call a country's code.
const COUNTRY: [&[PathElement<'_>]; 3] = [
    &[PathElement::Key("country"), PathElement::Key("iso_code")],
    &[PathElement::Key("country_code")],
    &[PathElement::Key("country")],
];
/// What it may call a continent's.
const CONTINENT: [&[PathElement<'_>]; 3] = [
    &[PathElement::Key("continent"), PathElement::Key("code")],
    &[PathElement::Key("continent_code")],
    &[PathElement::Key("continent")],
];
/// What it may call a place's coordinates.
const LATITUDE: [&[PathElement<'_>]; 2] =
    [&[PathElement::Key("location"), PathElement::Key("latitude")], &[PathElement::Key("latitude")]];
/// See [`LATITUDE`].
const LONGITUDE: [&[PathElement<'_>]; 2] =
    [&[PathElement::Key("location"), PathElement::Key("longitude")], &[PathElement::Key("longitude")]];

/// A table.
#[derive(Debug)]
pub struct Table {
    countries: HashMap<Country, Place>,
    reader: Reader<Vec<u8>>,
}

/// Why a file is no table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    File(#[from] io::Error),
    /// It is not in the format, or is damaged.
    #[error("it is no whole table in MaxMind's format: {0}; get it anew")]
    Format(#[from] MaxMindDbError),
    /// It says nothing of countries.
    #[error("it is a table of `{0}`, in which no country is named: take one of countries or of cities")]
    NoCountries(String),
    /// It is larger than [`FILE_BYTES_MAX`].
    #[error("it is larger than {} MiB: take a table of countries", FILE_BYTES_MAX >> 20)]
    Size,
}

impl Table {
    /// Reads a file. This takes a while for a large one: it belongs on a thread of its own.
    ///
    /// # Errors
    /// [`TableError`] for what is not a whole table that knows countries.
    pub fn read(path: &Path) -> Result<Self, TableError> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Self::of(bytes)
    }

    /// Of the bytes of a file.
    ///
    /// # Errors
    /// As [`Table::read`].
    pub fn of(bytes: Vec<u8>) -> Result<Self, TableError> {
        if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
            return Err(TableError::Size);
        }
        let reader = Reader::from_source(bytes)?;
        if !names_countries(&reader)? {
            return Err(TableError::NoCountries(reader.metadata().database_type.clone()));
        }
        Ok(Self { countries: countries(), reader })
    }

    /// What its maker calls it, such as `GeoLite2-Country`.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.reader.metadata().database_type
    }

    /// When it was made, in seconds since 1970.
    #[must_use]
    pub fn built_s(&self) -> u64 {
        self.reader.metadata().build_epoch
    }
}

impl Locate for Table {
    fn locate(&self, address: IpAddr) -> Located {
        // What was verified has no broken record; an address of a family that the table does not have is nowhere.
        let Ok(found) = self.reader.lookup(address) else { return Located::default() };
        let prefix_bits = match (found.network(), address) {
            (Ok(network), IpAddr::V4(_)) if network.is_ipv6() => network.prefix().saturating_sub(96),
            (Ok(network), _) => network.prefix(),
            (Err(_), _) => 0,
        };
        if !found.has_data() {
            return Located { place: Place::default(), prefix_bits };
        }
        let continent = text(&found, &CONTINENT, Continent::parse);
        let coordinates = number(&found, &LATITUDE).zip(number(&found, &LONGITUDE));
        let point = coordinates.and_then(|(latitude, longitude)| Point::new(latitude, longitude));
        Located { place: Place { country: country(&found), continent, point }, prefix_bits }
    }

    fn country(&self, country: Country) -> Place {
        self.countries.get(&country).copied().unwrap_or_default()
    }
}

type Found<'a> = LookupResult<'a, Vec<u8>>;

/// Walks the whole tree, and reads every record once. Says whether any names a country.
///
/// The reader's own check asks for more than the format's users keep to, such as a description in some language.
fn names_countries(reader: &Reader<Vec<u8>>) -> Result<bool, MaxMindDbError> {
    // A tree has one leaf more than it has nodes; what has more shares nodes, or goes round in circles.
    let leaves_max = usize::try_from(reader.metadata().node_count).unwrap_or(usize::MAX).saturating_add(1);
    let (mut leaves, mut read, mut names) = (0_usize, HashSet::new(), false);
    for found in reader.networks(WithinOptions::default().include_networks_without_data())? {
        let found = found?;
        leaves += 1;
        if leaves > leaves_max {
            return Err(MaxMindDbError::invalid_database("it has more networks than its tree has ends"));
        }
        if found.offset().is_some_and(|offset| read.insert(offset)) {
            found.decode::<IgnoredAny>()?;
            names |= country(&found).is_some();
        }
    }
    Ok(names)
}

fn country(found: &Found<'_>) -> Option<Country> {
    text(found, &COUNTRY, Country::parse)
}

fn text<T>(found: &Found<'_>, paths: &[&[PathElement<'_>]], parse: fn(&str) -> Option<T>) -> Option<T> {
    paths.iter().find_map(|path| found.decode_path::<&str>(path).ok().flatten().and_then(parse))
}

/// A number, or a text of one, as some tables write coordinates.
fn number(found: &Found<'_>, paths: &[&[PathElement<'_>]]) -> Option<f64> {
    paths.iter().find_map(|path| {
        let number = found.decode_path::<f64>(path).ok().flatten();
        number.or_else(|| found.decode_path::<&str>(path).ok().flatten()?.parse().ok())
    })
}

/// All countries with their continents and middles.
fn countries() -> HashMap<Country, Place> {
    let place = |country: keshvar::Country| {
        let code = Country::parse(&country.alpha2().to_string())?;
        let continent = match country.continent() {
            keshvar::Continent::Africa => Continent::Africa,
            keshvar::Continent::Antarctica => Continent::Antarctica,
            keshvar::Continent::Asia => Continent::Asia,
            keshvar::Continent::Australia => Continent::Oceania,
            keshvar::Continent::Europe => Continent::Europe,
            keshvar::Continent::NorthAmerica => Continent::NorthAmerica,
            keshvar::Continent::SouthAmerica => Continent::SouthAmerica,
        };
        let middle = country.geo();
        let point = Point::new(middle.latitude(), middle.longitude());
        Some((code, Place { country: None, continent: Some(continent), point }))
    };
    keshvar::CountryIterator::new().filter_map(place).collect()
}

#[cfg(test)]
mod tests;
