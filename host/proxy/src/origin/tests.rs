//! What is told of a client, and what the table says.

use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderName, HeaderValue};
use portolan_core::geography::{Locate, Located, Place};

use super::*;
use crate::config::ClientNetwork;

/// All are in Switzerland; how often it was asked is counted.
#[derive(Debug, Default)]
struct Table(AtomicUsize);

impl Locate for Table {
    fn locate(&self, _: IpAddr) -> Located {
        self.0.fetch_add(1, Ordering::Relaxed);
        Located { place: Place { country: Country::parse("CH"), ..Place::default() }, prefix_bits: 0 }
    }

    fn country(&self, country: Country) -> Place {
        let continent = if country.as_str() == "JP" { Continent::Asia } else { Continent::Europe };
        Place { continent: Some(continent), ..Place::default() }
    }
}

fn trust(table: &Arc<Table>) -> Trust {
    let place = |country: &str| Place { country: Country::parse(country), ..Place::default() };
    let named = |name: &str| RegionName::new(name).unwrap();
    let regions = [(named("alps"), place("CH")), (named("tokyo"), place("JP"))];
    Trust {
        country_header: Some(HeaderName::from_static("x-country")),
        geography: Some(Arc::new(Geography::new(Arc::clone(table) as Arc<dyn Locate>, regions.into()))),
        networks: vec![ClientNetwork {
            network: "10.0.0.0/8".parse().unwrap(),
            country: None,
            region: Some(named("tokyo")),
        }],
        ..Trust::default()
    }
}

fn told(origin: &Origin) -> [Option<&str>; 3] {
    [origin.continent(), origin.country(), origin.near()]
}

#[test]
fn the_table_is_asked_once_and_only_by_who_looks() {
    let table = Arc::default();
    let origin = Origin::read(&trust(&table), "192.0.2.1".parse().unwrap(), None);
    assert_eq!(table.0.load(Ordering::Relaxed), 0);
    assert_eq!(told(&origin), [Some("EU"), Some("CH"), Some("alps")]);
    assert_eq!(told(&origin), [Some("EU"), Some("CH"), Some("alps")]);
    assert_eq!(table.0.load(Ordering::Relaxed), 1);
}

#[test]
fn what_is_told_wins_over_the_table() {
    let (table, client) = (Arc::default(), "192.0.2.1".parse().unwrap());
    let trust = trust(&table);
    let headers =
        HeaderMap::from_iter([(HeaderName::from_static("x-country"), HeaderValue::from_static("jp"))]);
    let origin = Origin::read(&trust, client, Some(&headers));
    assert_eq!(told(&origin), [Some("AS"), Some("JP"), Some("tokyo")]);
    let origin = Origin::read(&trust, "10.1.2.3".parse().unwrap(), None);
    assert_eq!(told(&origin), [Some("EU"), Some("CH"), Some("tokyo")]);
    let mut origin = Origin::read(&trust, client, None);
    origin.assume_near(Some("tokyo".to_owned()));
    assert_eq!(told(&origin), [Some("EU"), Some("CH"), Some("tokyo")]);
    assert_eq!(told(&Origin::read(&Trust::default(), client, Some(&headers))), [None, None, None]);
}
