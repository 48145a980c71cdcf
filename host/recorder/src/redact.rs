//! What of a request may be kept. Values are hidden before they reach the ring or the disk.

use portolan_core::attribute::Attribute;
use portolan_core::recording::{Held, Picture};
use portolan_foundation::seal::SealKey;

use crate::defaults::VALUE_BYTES_MAX;

/// Fields whose values open doors. They are hidden unless they are allowed by name.
const SECRET_HEADERS: [&str; 4] = ["authorization", "cookie", "proxy-authorization", "x-api-key"];

/// Which values are hidden. Headers, cookies and queries that no policy can look at are never kept at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Secret fields that are kept all the same.
    pub allow: Vec<Attribute>,
    /// Hidden without a trace.
    pub drop: Vec<Attribute>,
    /// Replaced by a keyed hash.
    pub hide: Vec<Attribute>,
}

impl Rules {
    /// Hides what is to be hidden.
    pub(crate) fn apply(&self, key: &SealKey, picture: &mut Picture) {
        let hash = |text: &str| Held::Hidden(Some(key.hash(text.as_bytes()).into()));
        picture.redact(|attribute, text| {
            if self.drop.contains(attribute) {
                return Some(Held::Hidden(None));
            }
            let secret = matches!(attribute, Attribute::Header(name) if SECRET_HEADERS.contains(&&**name));
            let hidden = self.hide.contains(attribute) || secret && !self.allow.contains(attribute);
            (hidden || text.len() > VALUE_BYTES_MAX).then(|| hash(text))
        });
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use portolan_core::attribute::{Attributes, Value};

    use super::*;

    struct Request;

    impl Attributes for Request {
        fn value(&self, attribute: &Attribute) -> Value<'_> {
            match attribute {
                Attribute::Header(name) if &**name == "absent" => Value::Absent,
                Attribute::Header(_) | Attribute::Cookie(_) => Value::Text("secret"),
                _ => Value::Text("plain"),
            }
        }
        fn client_ip(&self) -> IpAddr {
            IpAddr::from([10, 0, 0, 1])
        }
    }

    #[test]
    fn secrets_are_hidden_and_declared_values_kept() {
        let named = |text: &str| Attribute::parse(text).unwrap();
        let names = [
            "header:authorization",
            "header:cookie",
            "header:x-plan",
            "cookie:session",
            "cookie:id",
            "header:absent",
        ];
        let attributes = names.map(named);
        let key = SealKey::new([1; 32]);
        let with = |rules: &Rules| {
            let mut picture = Picture::take(&Request, &attributes, 0, 0);
            rules.apply(&key, &mut picture);
            attributes.clone().map(|attribute| picture.held(&attribute).unwrap().clone())
        };
        let hidden = Held::Hidden(Some(key.hash(b"secret").into()));
        let clear = || Held::Text("secret".into());
        let standard = with(&Rules::default());
        assert_eq!(standard, [hidden.clone(), hidden.clone(), clear(), clear(), clear(), Held::Absent]);
        let rules = Rules {
            allow: vec![named("header:authorization")],
            drop: vec![named("cookie:session")],
            hide: vec![named("header:x-plan"), named("header:absent")],
        };
        assert_eq!(
            with(&rules),
            [clear(), hidden.clone(), hidden, Held::Hidden(None), clear(), Held::Absent]
        );
    }
}
