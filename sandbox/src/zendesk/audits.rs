//! Audits: what was done to each ticket, its comments included.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::answer::{not_found, refusal};
use super::limits::with_rate;
use super::quirks::Quirk;
use super::search::READ;
use super::{Model, Shared};

const FIRST_EVENT: u64 = 70_000;
/// Audits on a page.
const PAGE: usize = 100;

impl Model {
    /// The comments of a ticket with the time of each, the first one included.
    pub fn comments(&self, ticket: u64) -> Vec<Value> {
        self.audits_of(ticket).flat_map(comments_in).collect()
    }

    /// The comments of each ticket.
    pub fn comments_by_ticket(&self) -> HashMap<u64, Vec<Value>> {
        let mut tickets: HashMap<u64, Vec<Value>> = HashMap::new();
        for audit in &self.audits {
            tickets.entry(audit["ticket_id"].as_u64().unwrap_or(0)).or_default().extend(comments_in(audit));
        }
        tickets
    }

    fn audits_of(&self, ticket: u64) -> impl DoubleEndedIterator<Item = &Value> {
        self.audits.iter().filter(move |audit| audit["ticket_id"].as_u64() == Some(ticket))
    }

    /// Stores the events as an audit and sets `updated_at`. Without events there is no audit.
    pub(super) fn record(
        &mut self,
        id: u64,
        author: u64,
        metadata: Option<&Value>,
        mut events: Vec<Value>,
    ) -> Value {
        if events.is_empty() || self.ticket(id).is_none() {
            return Value::Null;
        }
        let now = self.tick();
        if let Some(ticket) = self.ticket_mut(id) {
            ticket["updated_at"] = json!(now);
        }
        let number = self.next_event();
        for event in &mut events {
            event["id"] = json!(self.next_event());
        }
        let metadata = metadata.filter(|metadata| !metadata.is_null() && !self.has(Quirk::MetadataLost));
        let custom = metadata.cloned().unwrap_or(json!({}));
        let audit = json!({
            "id": number,
            "ticket_id": id,
            "created_at": now,
            "author_id": author,
            "metadata": {"custom": custom, "system": {}},
            "via": {"channel": "api", "source": {"from": {}, "to": {}, "rel": null}},
            "events": events,
        });
        self.audits.push(audit.clone());
        audit
    }

    fn next_event(&mut self) -> u64 {
        self.events += 1;
        FIRST_EVENT + self.events
    }
}

fn comments_in(audit: &Value) -> impl Iterator<Item = Value> {
    let events = audit["events"].as_array().into_iter().flatten();
    events.filter(|event| event["type"] == "Comment").map(|event| {
        let mut comment = event.clone();
        comment["created_at"] = audit["created_at"].clone();
        comment
    })
}

/// `GET /api/v2/tickets/{id}/audits`
pub(super) async fn audits(
    State(shared): State<Shared>,
    Path(id): Path<u64>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    if let Some(refused) = shared.refuse(&headers, READ) {
        return refused;
    }
    shared.change(|model| {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let response = match model.visible(id) {
            Some(_) => audits_page(model, id, &query, host),
            None => not_found(),
        };
        model.lost_answer().unwrap_or_else(|| with_rate(model, "", response))
    })
}

fn audits_page(model: &Model, id: u64, query: &HashMap<String, String>, host: &str) -> Response {
    let is = |name: &str, value: &str| query.get(name).is_some_and(|given| given == value);
    let newest_first = is("sort", "-created_at") || is("sort_order", "desc");
    let mut audits: Vec<&Value> = model.audits_of(id).collect();
    if newest_first {
        audits.reverse();
    }
    let (size, after) = (query.get("page[size]"), query.get("page[after]"));
    if size.is_none() && after.is_none() {
        let page = &audits[..audits.len().min(PAGE)];
        return Json(json!({"audits": page, "count": audits.len(), "next_page": null})).into_response();
    }
    let size = size.map_or(Some(PAGE), |size| size.parse().ok()).filter(|size| (1..=PAGE).contains(size));
    let begin = after.map_or(Some(0), |after| audits.iter().position(|a| cursor(a) == *after).map(|n| n + 1));
    let (Some(size), Some(begin)) = (size, begin) else {
        return refusal(StatusCode::BAD_REQUEST, "InvalidPaginationParameter", "page[size] or page[after]");
    };
    let end = audits.len().min(begin + size);
    let after_cursor = audits[begin..end].last().map(|audit| cursor(audit));
    let sort = if newest_first { "-created_at" } else { "created_at" };
    let next = after_cursor.as_ref().filter(|_| end < audits.len()).map(|cursor| {
        format!(
            "http://{host}/api/v2/tickets/{id}/audits?page%5Bsize%5D={size}&page%5Bafter%5D={cursor}&sort={sort}"
        )
    });
    let meta = json!({"has_more": end < audits.len(), "after_cursor": after_cursor});
    Json(json!({"audits": audits[begin..end], "meta": meta, "links": {"next": next}})).into_response()
}

/// Opaque to the caller.
fn cursor(audit: &Value) -> String {
    format!("a{:x}", audit["id"].as_u64().unwrap_or_default())
}
