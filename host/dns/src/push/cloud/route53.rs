//! Route 53's API (Amazon Route 53 API Reference, 2013-04-01): record sets are listed by pages, and changed by batches that are made whole or not at all. A
//! batch that takes away a set which is not exactly as it says changes nothing.

use serde::Deserialize;

use super::{Bad, Listed, New, Planned, fit};

/// Where the API is.
pub(super) const ENDPOINT: &str = "https://route53.amazonaws.com";
/// What its signatures are for: it is in no region, and signed for this one.
pub(super) const SIGNED_FOR: (&str, &str) = ("us-east-1", "route53");
/// What all paths begin with.
const VERSION: &str = "/2013-04-01/hostedzone";
/// The first page; its fields are in the order of their names, because they are signed so.
pub(super) const FIRST: &str = "maxitems=300";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    is_truncated: bool,
    next_record_identifier: Option<String>,
    next_record_name: Option<String>,
    next_record_type: Option<String>,
    resource_record_sets: Sets,
}

#[derive(Debug, Default, Deserialize)]
struct Sets {
    #[serde(default, rename = "ResourceRecordSet")]
    sets: Vec<Set>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Set {
    name: String,
    resource_records: Option<Records>,
    /// One of several that Route 53 chooses from by itself.
    set_identifier: Option<String>,
    #[serde(rename = "TTL")]
    ttl: Option<u32>,
    #[serde(rename = "Type")]
    kind: String,
}

#[derive(Debug, Deserialize)]
struct Records {
    #[serde(default, rename = "ResourceRecord")]
    records: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct Value {
    #[serde(rename = "Value")]
    value: String,
}

/// Where record sets are listed.
pub(super) fn list_path(id: &str) -> String {
    format!("{VERSION}/{id}/rrset")
}

/// Where they are changed.
pub(super) fn change_path(id: &str) -> String {
    format!("{VERSION}/{id}/rrset/")
}

/// Reads a page; gives what asks for the next one.
pub(super) fn page(body: &str) -> Result<(Vec<Listed>, Option<String>), String> {
    let page: Page = quick_xml::de::from_str(body).map_err(|error| error.to_string())?;
    let next = page.is_truncated.then(|| {
        let fields = [
            ("identifier", page.next_record_identifier.as_deref()),
            ("maxitems", Some("300")),
            ("name", page.next_record_name.as_deref()),
            ("type", page.next_record_type.as_deref()),
        ];
        let told = fields.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", encoded(value?))));
        told.collect::<Vec<_>>().join("&")
    });
    let listed = page.resource_record_sets.sets.into_iter().map(|set| {
        // A set without records is an alias of Route 53's own kind.
        let plain = set.set_identifier.is_none() && set.resource_records.is_some();
        let records = set.resource_records.map(|records| records.records).unwrap_or_default();
        Listed {
            id: String::new(),
            kind: set.kind,
            name: set.name.trim_end_matches('.').to_ascii_lowercase(),
            plain,
            ttl_s: set.ttl.unwrap_or_default(),
            values: records.into_iter().map(|record| record.value).collect(),
        }
    });
    Ok((listed.collect(), next))
}

/// A batch: of each name all that was read goes, exactly as it was read, and what is wanted comes.
pub(super) fn change(planned: &[Planned<'_>], number: u64) -> String {
    let mut changes = String::new();
    for one in planned {
        for old in one.old {
            let values: Vec<&str> = old.values.iter().map(String::as_str).collect();
            changes.push_str(&set("DELETE", (&old.name, &old.kind), old.ttl_s, &values));
        }
        for New { kind, name, values } in fit(one.wanted, number) {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            changes.push_str(&set("CREATE", (&name, kind), one.wanted.ttl_s, &values));
        }
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <ChangeResourceRecordSetsRequest xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"><ChangeBatch>\
         <Comment>portolan, plan {number}</Comment><Changes>{changes}</Changes></ChangeBatch></ChangeResourceRecordSetsRequest>"
    )
}

fn set(action: &str, (name, kind): (&str, &str), ttl_s: u32, values: &[&str]) -> String {
    let record = |value: &&str| {
        format!("<ResourceRecord><Value>{}</Value></ResourceRecord>", quick_xml::escape::escape(*value))
    };
    let records: String = values.iter().map(record).collect();
    format!(
        "<Change><Action>{action}</Action><ResourceRecordSet><Name>{name}.</Name><Type>{kind}</Type><TTL>{ttl_s}</TTL>\
         <ResourceRecords>{records}</ResourceRecords></ResourceRecordSet></Change>"
    )
}

/// What an answer means that is no success.
pub(super) fn refusal(status: u16, body: &str) -> Bad {
    let code = between(body, "<Code>", "</Code>")
        .or_else(|| body.contains("<InvalidChangeBatch").then_some("InvalidChangeBatch"))
        .unwrap_or_default();
    let what = || {
        let said = between(body, "<Message>", "</Message>").unwrap_or_default();
        format!("{status} {code} {said}").trim().to_owned()
    };
    match (code, status) {
        ("InvalidChangeBatch", _) => Bad::Conflict,
        ("PriorRequestNotComplete" | "ServiceUnavailable" | "Throttling" | "ThrottlingException", _)
        | (_, 429 | 500..) => Bad::Passing(what()),
        ("AccessDenied" | "AccessDeniedException", _) => Bad::Refused(
            what(),
            "allow these keys route53:ListResourceRecordSets and route53:ChangeResourceRecordSets of the zone",
        ),
        ("InvalidClientTokenId" | "ExpiredToken" | "InvalidSignature", _) => {
            Bad::Refused(what(), "write keys that hold into the file of credentials")
        }
        ("SignatureDoesNotMatch" | "RequestExpired", _) => Bad::Refused(
            what(),
            "compare the secret with the one that Amazon has, and this machine's clock with others: signatures hold for five minutes",
        ),
        ("NoSuchHostedZone", _) => Bad::Refused(what(), "`id` is the hosted zone's, such as Z0123456789ABC"),
        _ => Bad::Refused(what(), "its message says why"),
    }
}

fn between<'t>(text: &'t str, begin: &str, end: &str) -> Option<&'t str> {
    text.split_once(begin)?.1.split_once(end).map(|(inner, _)| inner)
}

/// A value of a query, every byte that is not plain as `%XX` (RFC 3986, section 2.3), as signatures want it.
fn encoded(value: &str) -> String {
    let byte = |byte: u8| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    value.bytes().map(byte).collect()
}
