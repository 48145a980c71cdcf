//! Where clients and regions are on earth, and which region is near to whom. Pure: the table that knows where addresses are stands
//! behind [`Locate`].
//!
//! A region in the client's own country comes first, then whichever is nearer. Where a distance is not known, a continent stands
//! for it.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::ids::RegionName;

/// The earth's mean radius (IUGG, R1), in kilometres.
const EARTH_RADIUS_KM: f64 = 6_371.009;
/// What a distance within a continent is taken for where it is not known, in kilometres.
const WITHIN_CONTINENT_KM: f64 = 3_000.0;
/// What any other is taken for, in kilometres: a quarter of the way around.
const BETWEEN_CONTINENTS_KM: f64 = 10_000.0;

/// A country: ISO 3166-1 alpha-2, in capital letters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Country([u8; 2]);

/// A continent, as tables of addresses count them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Continent {
    /// `AF`
    Africa,
    /// `AN`
    Antarctica,
    /// `AS`
    Asia,
    /// `EU`
    Europe,
    /// `NA`
    NorthAmerica,
    /// `OC`
    Oceania,
    /// `SA`
    SouthAmerica,
}

/// A point of the earth, in degrees; north and east are positive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    latitude: f64,
    longitude: f64,
}

/// What is known of where something is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Place {
    /// Its country.
    pub country: Option<Country>,
    /// Its continent.
    pub continent: Option<Continent>,
    /// Where it is itself, or the middle of what is known of it.
    pub point: Option<Point>,
}

/// What a table says of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Located {
    /// Where it is; nothing where the table does not say.
    pub place: Place,
    /// The same is said of all addresses that have so many first bits in common with it.
    pub prefix_bits: u8,
}

/// A table of where addresses are. Asked for each request and each question, so it must be cheap.
pub trait Locate: fmt::Debug + Send + Sync {
    /// What it says of an address.
    fn locate(&self, address: IpAddr) -> Located;

    /// What is known of a country: its continent, and about where its middle is.
    fn country(&self, country: Country) -> Place;
}

/// A table, with where regions are.
#[derive(Clone, Debug)]
pub struct Geography {
    regions: BTreeMap<RegionName, Place>,
    table: Arc<dyn Locate>,
}

impl Country {
    /// Reads two letters; none where they are not letters, or not two.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let letters: [u8; 2] = text.as_bytes().try_into().ok()?;
        let letters = letters.map(|letter| letter.to_ascii_uppercase());
        letters.iter().all(u8::is_ascii_uppercase).then_some(Self(letters))
    }

    /// The two letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Continent {
    const ALL: [Self; 7] = [
        Self::Africa,
        Self::Antarctica,
        Self::Asia,
        Self::Europe,
        Self::NorthAmerica,
        Self::Oceania,
        Self::SouthAmerica,
    ];

    /// Reads the two letters that tables write.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|continent| continent.as_str().eq_ignore_ascii_case(text))
    }

    /// The two letters that tables write.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Africa => "AF",
            Self::Antarctica => "AN",
            Self::Asia => "AS",
            Self::Europe => "EU",
            Self::NorthAmerica => "NA",
            Self::Oceania => "OC",
            Self::SouthAmerica => "SA",
        }
    }
}

impl Point {
    /// A point, in degrees; none beyond the poles, or more than once around.
    #[must_use]
    pub fn new(latitude: f64, longitude: f64) -> Option<Self> {
        let good = latitude.abs() <= 90.0 && longitude.abs() <= 180.0;
        good.then_some(Self { latitude, longitude })
    }

    /// Along the surface, in kilometres (the haversine formula, over a sphere: at most 0.6 % wrong).
    #[must_use]
    pub fn distance_km(&self, other: &Self) -> f64 {
        let (here, there) = (self.latitude.to_radians(), other.latitude.to_radians());
        let half = |one: f64, two: f64| ((two - one) / 2.0).sin().powi(2);
        let across = half(self.longitude.to_radians(), other.longitude.to_radians());
        let chord = half(here, there) + here.cos() * there.cos() * across;
        // Rounding may leave a little more than the whole for points that face each other.
        2.0 * EARTH_RADIUS_KM * chord.sqrt().min(1.0).asin()
    }
}

impl Place {
    /// What is known here and, where it is not, what is known there.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            country: self.country.or(other.country),
            continent: self.continent.or(other.continent),
            point: self.point.or(other.point),
        }
    }

    /// Is anything known?
    #[must_use]
    pub fn is_known(&self) -> bool {
        *self != Self::default()
    }

    /// How near another place is: less is nearer.
    fn nearness(&self, other: &Self) -> (bool, f64) {
        let same = |known: bool, equal: bool| known && equal;
        let country = same(self.country.is_some(), self.country == other.country);
        let continent = same(self.continent.is_some(), self.continent == other.continent);
        let far = match (&self.point, &other.point) {
            (Some(here), Some(there)) => here.distance_km(there),
            _ if continent => WITHIN_CONTINENT_KM,
            _ => BETWEEN_CONTINENTS_KM,
        };
        (!country, far)
    }
}

impl Geography {
    /// Of a table, and of regions whose place is known. What is not said of a region's continent and middle is its country's.
    #[must_use]
    pub fn new(table: Arc<dyn Locate>, regions: BTreeMap<RegionName, Place>) -> Self {
        let whole = |place: Place| place.or(of_country(&*table, &place));
        let regions = regions.into_iter().map(|(name, place)| (name, whole(place))).collect();
        Self { regions, table }
    }

    /// What is known of an address.
    #[must_use]
    pub fn locate(&self, address: IpAddr) -> Located {
        let located = self.table.locate(address);
        Located { place: located.place.or(of_country(&*self.table, &located.place)), ..located }
    }

    /// What is known of a country.
    #[must_use]
    pub fn country(&self, country: Country) -> Place {
        Place { country: Some(country), ..self.table.country(country) }
    }

    /// The region that is nearest to a place; none where nothing is known of it, or of any region.
    #[must_use]
    pub fn nearest(&self, place: &Place) -> Option<&RegionName> {
        let known = self.regions.iter().filter(|_| place.is_known());
        let nearer = |one: &(&RegionName, &Place), other: &(&RegionName, &Place)| {
            compare(place.nearness(one.1), place.nearness(other.1))
        };
        known.min_by(nearer).map(|(name, _)| name)
    }

    /// All regions whose place is known, the nearest first; none for a place of which nothing is known. What is equally near is in the
    /// order of names.
    #[must_use]
    pub fn order(&self, place: &Place) -> Vec<&RegionName> {
        let known = self.regions.iter().filter(|_| place.is_known());
        let mut known: Vec<_> = known.map(|(name, region)| (place.nearness(region), name)).collect();
        known.sort_by(|(one, _), (other, _)| compare(*one, *other));
        known.into_iter().map(|(_, name)| name).collect()
    }
}

fn of_country(table: &dyn Locate, place: &Place) -> Place {
    place.country.map(|country| table.country(country)).unwrap_or_default()
}

fn compare(one: (bool, f64), other: (bool, f64)) -> Ordering {
    one.0.cmp(&other.0).then(one.1.total_cmp(&other.1))
}

/// The same table, and the same places of regions.
impl PartialEq for Geography {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.table, &other.table) && self.regions == other.regions
    }
}

impl Eq for Geography {}

#[cfg(test)]
mod tests;
