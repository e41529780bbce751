//! Tickets as they are found, counted and shown.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::answer::{error_page, not_found, refusal, too_many};
use super::limits::with_rate;
use super::quirks::Quirk;
use super::{Fault, Model, Shared};

pub(super) const READ: &[&str] = &["tickets:read", "read"];

impl Model {
    /// The ticket, unless it is hidden from the service user.
    pub(super) fn visible(&self, id: u64) -> Option<&Value> {
        self.ticket(id).filter(|_| !self.hidden.contains(&id))
    }

    pub(super) fn ticket(&self, id: u64) -> Option<&Value> {
        self.tickets.iter().find(|ticket| ticket["id"].as_u64() == Some(id))
    }

    pub(super) fn ticket_mut(&mut self, id: u64) -> Option<&mut Value> {
        self.tickets.iter_mut().find(|ticket| ticket["id"].as_u64() == Some(id))
    }

    pub(super) fn answer(&self, id: u64, audit: Value) -> Value {
        json!({"ticket": self.ticket(id).map(shown), "audit": audit})
    }
}

/// The ticket as answers contain it; some fields are write-only.
fn shown(ticket: &Value) -> Value {
    let mut ticket = ticket.clone();
    if let Some(fields) = ticket.as_object_mut() {
        let comment = fields.remove("comment").unwrap_or_default();
        fields.insert("is_public".to_owned(), comment["public"].clone());
        fields.remove("metadata");
        fields.insert("description".to_owned(), comment["body"].clone());
    }
    ticket
}

/// `GET /api/v2/tickets?external_id=`: any number of tickets, since external ids are not unique.
pub(super) async fn list(
    State(shared): State<Shared>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    if let Some(refused) = shared.refuse(&headers, READ) {
        return refused;
    }
    shared.change(|model| {
        model.look_ups += 1;
        if let Some(lost) = model.lost_answer() {
            return lost;
        }
        let wanted = query.get("external_id");
        let is_visible = |ticket: &&Value| !model.hidden.iter().any(|id| ticket["id"] == *id);
        let matches = |ticket: &&Value| {
            let is_wanted =
                |id: &String| ticket["external_id"] == id.as_str() && !model.has(Quirk::LookUpBlind);
            is_visible(ticket) && wanted.is_none_or(is_wanted)
        };
        let tickets: Vec<Value> = model.tickets.iter().filter(matches).map(shown).collect();
        let response = Json(json!({"tickets": tickets, "count": tickets.len()})).into_response();
        with_rate(model, "", response)
    })
}

/// `GET /api/v2/tickets/count`
pub(super) async fn count(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    if let Some(refused) = shared.refuse(&headers, READ) {
        return refused;
    }
    shared.change(|model| {
        match model.outage {
            Some(Fault::Status(status)) => return error_page(status),
            Some(Fault::TooMany(seconds)) => return too_many(seconds),
            _ => {}
        }
        let count = json!({"count": {"value": model.tickets.len(), "refreshed_at": null}});
        with_rate(model, "", Json(count).into_response())
    })
}

/// `GET /api/v2/tickets/{id}`
pub(super) async fn show(State(shared): State<Shared>, Path(id): Path<u64>, headers: HeaderMap) -> Response {
    if let Some(refused) = shared.refuse(&headers, READ) {
        return refused;
    }
    shared.change(|model| {
        let deleted = model.deleted.iter().find(|ticket| ticket["id"].as_u64() == Some(id));
        let deleted = deleted.filter(|_| model.has(Quirk::DeletedShown));
        let response = match model.visible(id).or(deleted) {
            Some(ticket) => Json(json!({"ticket": shown(ticket)})).into_response(),
            None => not_found(),
        };
        model.lost_answer().unwrap_or_else(|| with_rate(model, "", response))
    })
}

/// `GET /api/v2/deleted_tickets`
pub(super) async fn deleted(
    State(shared): State<Shared>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    if let Some(refused) = shared.refuse(&headers, READ) {
        return refused;
    }
    shared.change(|model| {
        let number = |name: &str, default: usize| query.get(name).map_or(Some(default), |n| n.parse().ok());
        let (Some(page), Some(size)) = (number("page", 1), number("per_page", 100)) else {
            return refusal(StatusCode::BAD_REQUEST, "InvalidPaginationParameter", "page or per_page");
        };
        let is_listed = |ticket: &&Value| {
            !model.purged.iter().any(|id| ticket["id"] == *id) && !model.has(Quirk::DeletedUnlisted)
        };
        let newest_first =
            model.deleted.iter().rev().filter(is_listed).skip(page.saturating_sub(1) * size).take(size);
        let deleted: Vec<Value> = newest_first.map(|ticket| json!({"id": ticket["id"]})).collect();
        let response =
            Json(json!({"deleted_tickets": deleted, "count": model.deleted.len()})).into_response();
        model.lost_answer().unwrap_or_else(|| with_rate(model, "", response))
    })
}
