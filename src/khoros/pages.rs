//! Lists that come in pages. Whether the first page is 0 or 1 is not published, nor what comes after
//! the last; a size that is not asked for may be none.

use std::collections::HashSet;

use reqwest::Method;
use serde_json::Value;
use url::Url;

use super::{Khoros, Refusal, remote};

const PAGE_SIZE: &str = "100";
/// A list without an end would be read for ever.
const MOST_PAGES: usize = 200;
/// Of all pages together, in bytes.
const LIST_LIMIT: usize = 16 << 20;

/// All entries of the list at this address.
///
/// # Errors
/// That of any page that may be one: half a list says nothing of what is missing.
/// [`Refusal::NotOffered`] if it is no list, [`Refusal::TooLarge`] if it is over 16 MiB.
pub async fn all(khoros: &Khoros, address: &Url) -> Result<Vec<Value>, Refusal> {
    let (mut known, mut entries) = (HashSet::new(), Vec::new());
    let (mut is_offered, mut length) = (false, 0);
    for number in 0..MOST_PAGES {
        let page = match page(khoros, address, number).await {
            // A page before the first or after the last may be a mistake to the server.
            Err(Refusal::Address(404) | Refusal::Failed(400 | 422, _)) if number == 0 || is_offered => {
                Vec::new()
            }
            page => {
                is_offered = true;
                page?
            }
        };
        let is_empty = page.is_empty();
        let new: Vec<Value> = page.into_iter().filter(|entry| known.insert(key_of(entry))).collect();
        // Pages 0 and 1 may be the same one, and page 0 none at all.
        let is_over = match number {
            0 => false,
            1 => is_empty,
            _ => new.is_empty(),
        };
        length += new.iter().map(|entry| entry.to_string().len()).sum::<usize>();
        if length > LIST_LIMIT {
            return Err(Refusal::TooLarge);
        }
        entries.extend(new);
        if is_over {
            break;
        }
    }
    Ok(entries)
}

/// An entry that is shown twice need not be shown in the same words.
fn key_of(entry: &Value) -> String {
    remote::uuid_in(entry).unwrap_or_else(|| entry.to_string())
}

async fn page(khoros: &Khoros, address: &Url, number: usize) -> Result<Vec<Value>, Refusal> {
    let number = number.to_string();
    let request = khoros.http.request(Method::GET, address.clone());
    let request = request.query(&[("pageNumber", number.as_str()), ("pageSize", PAGE_SIZE)]);
    khoros.answer(request).await?.and_then(entries_of).ok_or(Refusal::NotOffered)
}

/// A list is an array, or holds one under `data`.
pub(super) fn entries_of(answer: Value) -> Option<Vec<Value>> {
    match answer {
        Value::Array(entries) => Some(entries),
        Value::Object(mut fields) => match fields.remove("data")? {
            Value::Array(entries) => Some(entries),
            _ => None,
        },
        _ => None,
    }
}
