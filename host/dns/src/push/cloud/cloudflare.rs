//! Cloudflare's API, version 4: records are listed by pages, each with an id of its own, and changed by batches, of which Cloudflare says that they are
//! made whole or not at all. A batch that takes away an id which is not there any more fails.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Bad, Listed, New, Planned, fit};

/// Where the API is.
pub(super) const ENDPOINT: &str = "https://api.cloudflare.com/client/v4";
/// The shortest time that it lets resolvers keep an answer on all plans; the shortest of ours is shorter.
const TTL_MIN_S: u32 = 60;
/// Records of a page.
const PAGE: u64 = 1_000;

#[derive(Debug, Deserialize)]
struct Page {
    #[serde(default)]
    result: Vec<Record>,
    result_info: Info,
}

#[derive(Debug, Deserialize)]
struct Info {
    page: u64,
    total_pages: u64,
}

#[derive(Debug, Deserialize)]
struct Record {
    content: String,
    id: String,
    name: String,
    /// Does Cloudflare answer with addresses of its own?
    #[serde(default)]
    proxied: bool,
    ttl: u32,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    errors: Vec<Trouble>,
}

#[derive(Debug, Deserialize)]
struct Trouble {
    code: u64,
    #[serde(default)]
    message: String,
}

/// Where records are listed.
pub(super) fn list_path(id: &str) -> String {
    format!("/zones/{id}/dns_records")
}

/// Where they are changed.
pub(super) fn change_path(id: &str) -> String {
    format!("/zones/{id}/dns_records/batch")
}

/// What asks for a page.
pub(super) fn query(page: u64) -> String {
    format!("page={page}&per_page={PAGE}")
}

/// Reads a page; gives what asks for the next one.
pub(super) fn page(body: &str) -> Result<(Vec<Listed>, Option<String>), String> {
    let Page { result, result_info } = serde_json::from_str(body).map_err(|error| error.to_string())?;
    let next = (result_info.page < result_info.total_pages).then(|| query(result_info.page + 1));
    let listed = result.into_iter().map(|record| Listed {
        id: record.id,
        kind: record.kind,
        name: record.name.trim_end_matches('.').to_ascii_lowercase(),
        plain: !record.proxied,
        ttl_s: record.ttl,
        values: vec![record.content],
    });
    Ok((listed.collect(), next))
}

/// A batch: of each name all that was read goes, by its id, and what is wanted comes.
pub(super) fn change(planned: &[Planned<'_>], number: u64) -> String {
    let deletes = planned.iter().flat_map(|one| one.old).map(|old| json!({ "id": old.id }));
    let posts = planned.iter().flat_map(|one| {
        let ttl = one.wanted.ttl_s.max(TTL_MIN_S);
        fit(one.wanted, number).into_iter().flat_map(move |New { kind, name, values }| {
            let record =
                move |content: String| json!({ "type": kind, "name": name, "content": content, "ttl": ttl });
            values.into_iter().map(record)
        })
    });
    json!({ "deletes": deletes.collect::<Vec<Value>>(), "posts": posts.collect::<Vec<Value>>() }).to_string()
}

/// What an answer means that is no success.
pub(super) fn refusal(status: u16, body: &str) -> Bad {
    let Refusal { errors } = serde_json::from_str(body).unwrap_or_default();
    let (code, said) = errors.first().map_or((0, ""), |trouble| (trouble.code, trouble.message.as_str()));
    let what = format!("{status} {code} {said}").trim().to_owned();
    match (status, code) {
        // A record that is not there any more, and one that is there already.
        (_, 81_044 | 81_053 | 81_057 | 81_058) => Bad::Conflict,
        (429 | 500.., _) => Bad::Passing(what),
        (401 | 403, _) | (_, 9_109 | 10_000) => {
            Bad::Refused(what, "write a token into the file of credentials that may edit the zone's DNS")
        }
        (404, _) | (_, 7_003) => Bad::Refused(what, "`id` is the zone's id, which its overview shows"),
        _ => Bad::Refused(what, "its message says why"),
    }
}
