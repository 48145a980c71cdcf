//! Who is near to whom.

use proptest::prelude::*;

use super::*;

/// Knows three networks of documentation and a few countries.
#[derive(Debug)]
struct Table;

impl Locate for Table {
    fn locate(&self, address: IpAddr) -> Located {
        let country = match address {
            IpAddr::V4(v4) if v4.octets()[..3] == [192, 0, 2] => Country::parse("CH"),
            IpAddr::V4(v4) if v4.octets()[..3] == [198, 51, 100] => Country::parse("JP"),
            _ => None,
        };
        let prefix_bits = if country.is_some() { 24 } else { 8 };
        Located { place: Place { country, ..Place::default() }, prefix_bits }
    }

    fn country(&self, country: Country) -> Place {
        let (continent, latitude, longitude) = match country.as_str() {
            "CH" => (Continent::Europe, 46.8, 8.2),
            "DE" => (Continent::Europe, 51.2, 10.5),
            "JP" => (Continent::Asia, 36.2, 138.3),
            "TR" => (Continent::Asia, 39.0, 35.2),
            "US" => (Continent::NorthAmerica, 37.1, -95.7),
            _ => return Place::default(),
        };
        Place { country: None, continent: Some(continent), point: Point::new(latitude, longitude) }
    }
}

fn name(text: &str) -> RegionName {
    RegionName::new(text).unwrap()
}

fn country(text: &str) -> Place {
    Place { country: Country::parse(text), ..Place::default() }
}

fn point(latitude: f64, longitude: f64) -> Place {
    Place { point: Point::new(latitude, longitude), ..Place::default() }
}

fn geography() -> Geography {
    let us = |latitude, longitude| country("US").or(point(latitude, longitude));
    let regions = [
        (name("eu"), country("DE")),
        (name("jp"), country("JP")),
        (name("us-east"), us(38.9, -77.5)),
        (name("us-west"), us(45.8, -119.7)),
    ];
    Geography::new(Arc::new(Table), regions.into())
}

fn order(place: &Place) -> Vec<String> {
    geography().order(place).into_iter().map(ToString::to_string).collect()
}

#[test]
fn the_own_country_comes_first_then_what_is_nearer() {
    let from = |text: &str| order(&geography().country(Country::parse(text).unwrap()));
    assert_eq!(from("CH"), ["eu", "us-east", "us-west", "jp"]);
    assert_eq!(from("JP"), ["jp", "us-west", "eu", "us-east"]);
    // On another continent by the book, and nearer to Europe all the same.
    assert_eq!(from("TR")[0], "eu");
    // Vancouver is Canada's, and knows where it is.
    assert_eq!(order(&point(49.3, -123.1)), ["us-west", "us-east", "jp", "eu"]);
    // What is in the own country comes first, however far it is.
    assert_eq!(order(&country("US").or(point(21.3, -157.9))), ["us-west", "us-east", "jp", "eu"]);
}

#[test]
fn an_address_is_where_the_table_says_and_an_unknown_one_is_near_to_nobody() {
    let geography = geography();
    let located = geography.locate("198.51.100.7".parse().unwrap());
    assert_eq!((located.place.continent, located.prefix_bits), (Some(Continent::Asia), 24));
    assert_eq!(geography.nearest(&located.place), Some(&name("jp")));
    let located = geography.locate("203.0.113.1".parse().unwrap());
    assert_eq!((located.place, located.prefix_bits), (Place::default(), 8));
    assert_eq!((geography.nearest(&located.place), geography.order(&located.place)), (None, Vec::new()));
}

#[test]
fn where_no_distance_is_known_the_continent_stands_for_it() {
    let asia = Place { continent: Some(Continent::Asia), ..Place::default() };
    assert_eq!(order(&asia), ["jp", "eu", "us-east", "us-west"]);
    // A country that nobody knows anything of is still its own.
    let regions = [(name("far"), country("DE")), (name("home"), country("XK"))];
    let geography = Geography::new(Arc::new(Table), regions.into());
    assert_eq!(geography.nearest(&country("XK")), Some(&name("home")));
}

#[test]
fn distances_are_those_of_the_globe() {
    let point = |latitude, longitude| Point::new(latitude, longitude).unwrap();
    let near = |km: f64, wanted: f64| assert!((km - wanted).abs() < wanted * 0.01, "{km} for {wanted}");
    near(point(51.47, -0.45).distance_km(&point(40.64, -73.78)), 5_540.0);
    near(point(0.0, 179.5).distance_km(&point(0.0, -179.5)), 111.2);
    near(point(90.0, 0.0).distance_km(&point(-90.0, 77.0)), 20_015.0);
    assert_eq!(Point::new(90.1, 0.0), None);
    assert_eq!(Point::new(f64::NAN, 0.0), None);
}

#[test]
fn words_are_two_letters() {
    assert_eq!(Country::parse("de").map(|country| country.as_str().to_owned()), Some("DE".to_owned()));
    for bad in ["", "D", "DEU", "D1", "ß", "--"] {
        assert_eq!(Country::parse(bad), None, "{bad}");
    }
    for continent in Continent::ALL {
        assert_eq!(Continent::parse(continent.as_str()), Some(continent));
    }
    assert_eq!(Continent::parse("XX"), None);
}

proptest! {
    #[test]
    fn the_nearest_is_the_first_and_everybody_is_in_the_order_once(latitude in -90.0..=90.0, longitude in -180.0..=180.0) {
        let geography = geography();
        let client = point(latitude, longitude);
        let mut order = geography.order(&client);
        prop_assert_eq!(geography.nearest(&client), order.first().copied());
        order.sort();
        order.dedup();
        prop_assert_eq!(order.len(), 4);
    }
}
