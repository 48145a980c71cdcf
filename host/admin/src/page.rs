//! Lists in pages: a cursor says where the next page begins, and means nothing else to its reader.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::defaults::{CURSOR_BYTES_MAX, PAGE_BYTES, PAGE_ITEMS, PAGE_ITEMS_MAX};
use crate::problem::Problem;

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page begins; absent with the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Which part of a list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Paging {
    /// Where the page begins: `next` of the page before it.
    #[param(max_length = 1024)]
    pub(crate) cursor: Option<String>,
    /// How many items at most.
    #[param(minimum = 1, maximum = 500)]
    pub(crate) limit: Option<u16>,
}

/// How many items, within bounds.
pub(crate) fn limit(asked: Option<u16>) -> Result<usize, Problem> {
    match asked.map_or(PAGE_ITEMS, usize::from) {
        items @ 1..=PAGE_ITEMS_MAX => Ok(items),
        items => Err(Problem::invalid(format!("`limit` is {items}: ask for 1 to {PAGE_ITEMS_MAX} items"))),
    }
}

/// A cursor for a place.
pub(crate) fn cursor(place: &str) -> String {
    URL_SAFE_NO_PAD.encode(place)
}

/// The place of a cursor.
pub(crate) fn place(cursor: Option<&str>) -> Result<Option<String>, Problem> {
    let Some(cursor) = cursor else { return Ok(None) };
    let bad = || Problem::invalid("`cursor` is none of this API's: begin without one");
    if cursor.len() > CURSOR_BYTES_MAX {
        return Err(bad());
    }
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| bad())?;
    String::from_utf8(bytes).map(Some).map_err(|_| bad())
}

impl<T: Serialize> Page<T> {
    /// A page of what was read with one more than asked, so that it is known whether more follows.
    pub(crate) fn of(mut items: Vec<T>, limit: usize, place: impl Fn(&T) -> String) -> Self {
        let mut bytes = 0_usize;
        let fitting = items.iter().take(limit).take_while(|item| {
            let before = bytes;
            bytes = bytes.saturating_add(serde_json::to_vec(item).map_or(0, |text| text.len()));
            // One item is always told, however large.
            before == 0 || bytes <= PAGE_BYTES
        });
        let fitting = fitting.count();
        let more = items.len() > fitting;
        items.truncate(fitting);
        let next = items.last().filter(|_| more).map(|last| cursor(&place(last)));
        Self { items, next }
    }
}
