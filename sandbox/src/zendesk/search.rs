//! Tickets as they are found, counted and shown.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
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
        let is_listed =
            |ticket: &&Value| !model.hidden.iter().chain(&model.archived).any(|id| ticket["id"] == *id);
        let matches = |ticket: &&Value| {
            let is_wanted =
                |id: &String| ticket["external_id"] == id.as_str() && !model.has(Quirk::LookUpBlind);
            is_listed(ticket) && wanted.is_none_or(is_wanted)
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

/// Results on a page of a search.
const PAGE: usize = 100;

/// `GET /api/v2/search`: tickets whose `external_id` contains the words of a phrase, as a search index has them.
/// No other query is known.
pub(super) async fn search(
    State(shared): State<Shared>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    searched(&shared, &headers, |model| {
        let page = query.get("page").map_or(Some(1), |page| page.parse().ok());
        let page = page.filter(|page| (1..=10).contains(page));
        let asked = query.get("query").map(String::as_str).unwrap_or_default();
        let phrase = asked.strip_prefix("type:ticket external_id:\"").and_then(|rest| rest.strip_suffix('"'));
        let phrase = phrase.filter(|phrase| !phrase.contains(['"', '\\'])).map(words);
        let (Some(page), Some(phrase), 0..=2) = (page, phrase, query.len()) else {
            return refusal(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "Invalid search");
        };
        let response = Json(search_page(model, &phrase, page)).into_response();
        with_rate(model, "", response)
    })
}

/// Answers a search, unless the caller may not search or a fault comes first.
fn searched(shared: &Shared, headers: &HeaderMap, answer: impl FnOnce(&mut Model) -> Response) -> Response {
    if let Some(refused) = shared.refuse(headers, &["read"]) {
        return refused;
    }
    shared.change(|model| {
        model.searches += 1;
        let fault = model.search_faults.pop_front().and_then(Fault::answer_to_read);
        fault.or_else(|| model.lost_answer()).unwrap_or_else(|| answer(model))
    })
}

/// `GET /api/v2/search/export`: the same index with a cursor, without the limit of 1,000 results. The query must not
/// name a type.
pub(super) async fn export(
    State(shared): State<Shared>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    searched(&shared, &headers, |model| {
        let asked = query.get("query").map(String::as_str).unwrap_or_default();
        let parts = asked.split_once(" created>=");
        let parts = parts.and_then(|(term, since)| Some((Term::of(term)?, since)));
        let known = ["filter[type]", "query", "page[size]", "page[after]"];
        let is_plain = query.keys().all(|name| known.contains(&name.as_str()));
        let is_ticket = query.get("filter[type]").is_some_and(|kind| kind == "ticket");
        let size = query.get("page[size]").map_or(Some(100), |size| size.parse().ok());
        let size = size.filter(|size| (1..=1000).contains(size));
        let first =
            query.get("page[after]").map_or(Some(0), |cursor| cursor.strip_prefix("after-")?.parse().ok());
        let (Some((term, since)), Some(size), Some(first), true) =
            (parts, size, first, is_plain && is_ticket)
        else {
            return refusal(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "Invalid search");
        };
        let Ok(since) = since.parse::<Timestamp>() else {
            return refusal(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "created");
        };
        let response = Json(export_page(model, &term, since, first, size)).into_response();
        with_rate(model, "", response)
    })
}

/// The terms that `export` can search for.
enum Term {
    /// The words of a phrase.
    ExternalId(Vec<String>),
    Tag(String),
}

impl Term {
    fn of(term: &str) -> Option<Term> {
        if let Some(tag) = term.strip_prefix("tags:") {
            return Some(Term::Tag(tag.to_owned()));
        }
        let phrase = term.strip_prefix("external_id:\"")?.strip_suffix('"')?;
        Some(Term::ExternalId(words(phrase)))
    }

    fn matches(&self, ticket: &Value) -> bool {
        match self {
            Term::ExternalId(phrase) => {
                let words = words(ticket["external_id"].as_str().unwrap_or_default());
                words.windows(phrase.len()).any(|some| some == phrase)
            }
            Term::Tag(tag) => ticket["tags"].as_array().into_iter().flatten().any(|own| own == tag.as_str()),
        }
    }
}

fn export_page(model: &Model, term: &Term, since: Timestamp, first: usize, size: usize) -> Value {
    let is_found = |ticket: &&Value| {
        let created = ticket["created_at"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
        let is_visible = !model.hidden.iter().any(|id| ticket["id"] == *id);
        is_visible && created.is_none_or(|created| created >= since) && term.matches(ticket)
    };
    let tickets = model.outdated_index.as_ref().unwrap_or(&model.tickets);
    let found: Vec<&Value> = tickets.iter().filter(is_found).collect();
    let results: Vec<Value> = found.iter().skip(first).take(size).map(|ticket| shown(ticket)).collect();
    let last = first + results.len();
    let has_more = last < found.len();
    json!({
        "results": results,
        "facets": null,
        "meta": {"has_more": has_more, "after_cursor": has_more.then(|| format!("after-{last}")), "before_cursor": null},
        "links": {"prev": null, "next": null},
    })
}

fn search_page(model: &Model, phrase: &[String], page: usize) -> Value {
    let is_found = |ticket: &&Value| {
        let words = words(ticket["external_id"].as_str().unwrap_or_default());
        let is_visible = !model.hidden.iter().any(|id| ticket["id"] == *id);
        is_visible && !phrase.is_empty() && words.windows(phrase.len()).any(|some| some == phrase)
    };
    let found: Vec<&Value> =
        model.outdated_index.as_ref().unwrap_or(&model.tickets).iter().filter(is_found).collect();
    let results = found.iter().skip((page - 1) * PAGE).take(PAGE).map(|ticket| {
        let mut result = shown(ticket);
        result["result_type"] = json!("ticket");
        result
    });
    let next = (found.len() > page * PAGE).then(|| format!("/api/v2/search?page={}", page + 1));
    let results: Vec<Value> = results.collect();
    json!({"results": results, "facets": null, "next_page": next, "previous_page": null, "count": found.len()})
}

/// The words of a text: a search index ignores punctuation and case.
fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}
