//! Lists in pages. Khoros publishes neither whether the first page is 0 or 1 nor what follows the last one.
//! Its default page size is 0, so we always ask for one.

use std::collections::HashSet;

use reqwest::Method;
use serde_json::Value;
use url::Url;

use super::{Khoros, Refusal, remote};

const PAGE_SIZE: usize = 100;
/// Ends the reading of a list that never ends.
const MAX_PAGES: usize = 200;

/// Reads all entries of the list at this address.
///
/// # Errors
/// The refusal of any page, since half a list does not show what is missing. [`Refusal::NotOffered`] if the
/// answer is no list.
pub async fn all(khoros: &Khoros, address: &Url) -> Result<Vec<Value>, Refusal> {
    let (mut known, mut entries) = (HashSet::new(), Vec::new());
    let mut is_offered = false;
    for number in 0..MAX_PAGES {
        let page = match page(khoros, address, number).await {
            // The server may refuse a page before the first or after the last.
            Err(Refusal::Address(404) | Refusal::Failed(400 | 422, _)) if number == 0 || is_offered => {
                Vec::new()
            }
            page => {
                is_offered = true;
                page?
            }
        };
        let (is_empty, before) = (page.is_empty(), entries.len());
        entries.extend(page.into_iter().filter(|entry| known.insert(key_of(entry))));
        // Page 0 may be missing, and page 1 may repeat it.
        if number == 1 && is_empty || number > 1 && entries.len() == before {
            break;
        }
    }
    Ok(entries)
}

/// The key of an entry: two pages may show one entry with different fields.
fn key_of(entry: &Value) -> String {
    remote::uuid_in(entry).unwrap_or_else(|| entry.to_string())
}

async fn page(khoros: &Khoros, address: &Url, number: usize) -> Result<Vec<Value>, Refusal> {
    let request = khoros.http.request(Method::GET, address.clone());
    let request = request.query(&[("pageNumber", number), ("pageSize", PAGE_SIZE)]);
    khoros.answer(request).await?.and_then(entries_of).ok_or(Refusal::NotOffered)
}

/// The entries of a list, which is an array or holds one under `data`.
pub(super) fn entries_of(mut answer: Value) -> Option<Vec<Value>> {
    let list = if answer.is_array() { answer } else { answer.get_mut("data")?.take() };
    if let Value::Array(entries) = list { Some(entries) } else { None }
}
