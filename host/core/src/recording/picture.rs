//! The input of a decision, owned: every value that the policies that were asked could look at, and those that cost nothing.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::attribute::{Attribute, Attributes, Value};
use crate::ids::{RegionName, TenantName};

/// What is always kept: what most policies look at, and what reports are broken down by. Headers, cookies and queries are
/// kept only where a policy that was asked can look at them.
const ALWAYS: [Attribute; 10] = [
    Attribute::ClientCountry,
    Attribute::ClientIp,
    Attribute::ClientRegion,
    Attribute::Host,
    Attribute::Method,
    Attribute::Path,
    Attribute::Region,
    Attribute::Residency,
    Attribute::Scheme,
    Attribute::Tenant,
];

/// What is kept of one value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Held {
    /// The request had no such value.
    Absent,
    /// There was a value, and it was not kept; its keyed hash tells equal ones, where there is one.
    Hidden(Option<Box<str>>),
    /// There was a value, and it was not UTF-8.
    Opaque,
    /// The value.
    Text(Box<str>),
}

/// The input of one decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picture {
    /// The time that was given to policies.
    pub at_ms: u64,
    /// The random number that was given to them.
    pub seed: u64,
    /// Values, sorted by attribute.
    values: Vec<(Attribute, Held)>,
}

impl Picture {
    /// Takes a picture of a request: of all that is always kept, and of `looked_at`.
    pub fn take<'a>(
        request: &impl Attributes,
        looked_at: impl IntoIterator<Item = &'a Attribute>,
        at_ms: u64,
        seed: u64,
    ) -> Self {
        let held = |attribute: &Attribute| match request.value(attribute) {
            Value::Absent => Held::Absent,
            Value::Opaque => Held::Opaque,
            Value::Text(text) => Held::Text(text.into()),
        };
        let all = ALWAYS.iter().chain(looked_at);
        let mut values: Vec<(Attribute, Held)> = Vec::with_capacity(ALWAYS.len() + 8);
        for attribute in all {
            if let Err(place) = values.binary_search_by(|(known, _)| known.cmp(attribute)) {
                values.insert(place, (attribute.clone(), held(attribute)));
            }
        }
        Self { at_ms, seed, values }
    }

    /// What is kept under an attribute; none where nothing is.
    #[must_use]
    pub fn held(&self, attribute: &Attribute) -> Option<&Held> {
        let place = self.values.binary_search_by(|(known, _)| known.cmp(attribute)).ok()?;
        self.values.get(place).map(|(_, held)| held)
    }

    /// The text under an attribute, where there is one.
    #[must_use]
    pub fn text(&self, attribute: &Attribute) -> Option<&str> {
        match self.held(attribute)? {
            Held::Text(text) => Some(text),
            Held::Absent | Held::Hidden(_) | Held::Opaque => None,
        }
    }

    /// All values, by attribute.
    #[must_use]
    pub fn values(&self) -> &[(Attribute, Held)] {
        &self.values
    }

    /// Whose request it was.
    #[must_use]
    pub fn tenant(&self) -> Option<TenantName> {
        TenantName::new(self.text(&Attribute::Tenant)?).ok()
    }

    /// The region that took it in.
    #[must_use]
    pub fn region(&self) -> Option<RegionName> {
        RegionName::new(self.text(&Attribute::Region)?).ok()
    }

    /// The first segment of its path, with the slash.
    #[must_use]
    pub fn segment(&self) -> &str {
        let Some(path) = self.text(&Attribute::Path) else { return "-" };
        let end = path.bytes().skip(1).position(|byte| byte == b'/').map_or(path.len(), |at| at + 1);
        path.get(..end).unwrap_or(path)
    }

    /// Puts something else in the place of texts. `rule` gives it for one text, or none to leave it.
    pub fn redact(&mut self, mut rule: impl FnMut(&Attribute, &str) -> Option<Held>) {
        for (attribute, held) in &mut self.values {
            if let Held::Text(text) = held
                && let Some(other) = rule(attribute, text)
            {
                *held = other;
            }
        }
    }

    /// The order by which values are found, restored after they were read from elsewhere.
    pub fn sort(&mut self) {
        self.values.sort_by(|(one, _), (other, _)| one.cmp(other));
        self.values.dedup_by(|(one, _), (other, _)| one == other);
    }

    /// The picture as rules see it, which notes what they ask for in vain.
    #[must_use]
    pub const fn view(&self) -> View<'_> {
        View { picture: self, missing: RefCell::new(Vec::new()) }
    }
}

/// A picture while it is asked.
#[derive(Debug)]
pub struct View<'p> {
    picture: &'p Picture,
    missing: RefCell<Vec<Attribute>>,
}

impl View<'_> {
    /// What was asked for and is not in the picture: its answers are worth nothing then.
    #[must_use]
    pub fn missing(self) -> Vec<Attribute> {
        self.missing.into_inner()
    }

    fn miss(&self, attribute: &Attribute) {
        let mut missing = self.missing.borrow_mut();
        if !missing.contains(attribute) {
            missing.push(attribute.clone());
        }
    }
}

impl Attributes for View<'_> {
    fn value(&self, attribute: &Attribute) -> Value<'_> {
        match self.picture.held(attribute) {
            Some(Held::Absent) => Value::Absent,
            Some(Held::Opaque) => Value::Opaque,
            Some(Held::Text(text)) => Value::Text(text),
            Some(Held::Hidden(_)) | None => {
                self.miss(attribute);
                Value::Absent
            }
        }
    }

    fn client_ip(&self) -> IpAddr {
        let known = self.picture.text(&Attribute::ClientIp).and_then(|text| text.parse().ok());
        known.unwrap_or_else(|| {
            self.miss(&Attribute::ClientIp);
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        })
    }
}
