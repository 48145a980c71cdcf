//! Files of all makers, and files that are none.

use self::mmdb::{Value, table};
use super::*;

#[expect(unreachable_pub, reason = "shared with tests of other crates")]
#[path = "../../../../tests/src/mmdb.rs"]
mod mmdb;

fn read(networks: &[(&str, Value<'_>)]) -> Table {
    Table::of(table("Test", networks)).unwrap()
}

fn at(table: &Table, address: &str) -> (Option<String>, Option<Continent>, u8) {
    let located = table.locate(address.parse().unwrap());
    let country = located.place.country.map(|country| country.as_str().to_owned());
    (country, located.place.continent, located.prefix_bits)
}

#[test]
fn files_of_all_common_makers_are_understood() {
    use Value::{Map, Number, Text};
    let table = read(&[
        (
            "192.0.2.0/24",
            Map(&[
                ("continent", Map(&[("code", Text("EU"))])),
                ("country", Map(&[("iso_code", Text("CH"))])),
                ("location", Map(&[("latitude", Number(47.4)), ("longitude", Number(8.5))])),
            ]),
        ),
        (
            "198.51.100.0/25",
            Map(&[("country_code", Text("JP")), ("latitude", Text("35.7")), ("longitude", Text("139.7"))]),
        ),
        ("2001:db8::/32", Map(&[("country", Text("US")), ("continent", Text("NA"))])),
        ("203.0.113.0/24", Map(&[("asn", Text("64496"))])),
    ]);
    assert_eq!(at(&table, "192.0.2.200"), (Some("CH".into()), Some(Continent::Europe), 24));
    assert_eq!(at(&table, "198.51.100.5"), (Some("JP".into()), None, 25));
    assert_eq!(at(&table, "2001:db8:7::1"), (Some("US".into()), Some(Continent::NorthAmerica), 32));
    // A record without a place, and no record at all: the answer still says for how many addresses it holds.
    assert_eq!(at(&table, "203.0.113.7"), (None, None, 24));
    assert_eq!(at(&table, "198.51.100.200"), (None, None, 25));
    assert_eq!(at(&table, "10.0.0.1"), (None, None, 1));
    let point = |address: &str| table.locate(address.parse().unwrap()).place.point;
    assert_eq!(point("192.0.2.1"), Point::new(47.4, 8.5));
    assert_eq!(point("198.51.100.5"), Point::new(35.7, 139.7));
    assert_eq!((table.kind(), table.built_s()), ("Test", 1_700_000_000));
}

#[test]
fn countries_have_continents_and_middles() {
    let table = read(&[("192.0.2.0/24", Value::Map(&[("country_code", Value::Text("CH"))]))]);
    let of = |code: &str| table.country(Country::parse(code).unwrap());
    assert_eq!(of("AU").continent, Some(Continent::Oceania));
    assert_eq!(of("BR").continent, Some(Continent::SouthAmerica));
    let (berlin, middle) = (Point::new(52.5, 13.4).unwrap(), of("DE").point.unwrap());
    assert!(middle.distance_km(&berlin) < 500.0, "{middle:?}");
    assert_eq!(of("ZZ"), Place::default());
    assert!(table.countries.len() > 240, "{} countries", table.countries.len());
}

#[test]
fn what_is_no_whole_table_of_countries_is_refused() {
    let whole = table("Test", &[("192.0.2.0/24", Value::Map(&[("country_code", Value::Text("CH"))]))]);
    for length in [0, 1, whole.len() / 2, whole.len() - 20] {
        let error = Table::of(whole[..length].to_vec()).unwrap_err();
        assert!(matches!(error, TableError::Format(_)), "{length} bytes: {error}");
    }
    // No byte of it makes it panic, or run on for ever, whatever the byte is; what is taken is answered from.
    for at in 0..whole.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            if let Ok(table) = Table::of(bytes) {
                table.locate("192.0.2.1".parse().unwrap());
                table.locate("2001:db8::1".parse().unwrap());
            }
        }
    }
    let numbers = table("ASN", &[("192.0.2.0/24", Value::Map(&[("asn", Value::Text("64496"))]))]);
    assert!(matches!(Table::of(numbers), Err(TableError::NoCountries(kind)) if kind == "ASN"));
    let missing = Table::read(Path::new("/nowhere/countries.mmdb")).unwrap_err();
    assert!(matches!(missing, TableError::File(_)), "{missing}");
}
