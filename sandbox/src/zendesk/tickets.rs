//! Tickets: created, updated, tagged, merged and deleted.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::answer::{invalid, json_of, malformed, not_found, only, refusal, wrong};
use super::limits::{with_rate, with_update_rate};
use super::quirks::Quirk;
use super::text::{fill_placeholders, plain_text};
use super::users::forbidden;
use super::validate::{comment_text, id_in, valid_guard, valid_tags, valid_ticket, valid_update};
use super::{AGENT, Fault, Model, SERVICE_USER, Shared};

const WRITE: &[&str] = &["tickets:write", "write"];
const FIRST_ID: u64 = 1000;

impl Model {
    /// Sets the status as an agent does, or `closed` as Zendesk does after a while.
    pub fn set_status(&mut self, id: u64, status: &str) {
        let change = self.change_status(id, status);
        self.record(id, AGENT, None, change.into_iter().collect());
    }

    /// Deletes a ticket; its number is not used again.
    pub fn delete_ticket(&mut self, id: u64) {
        if let Some(place) = self.tickets.iter().position(|ticket| ticket["id"].as_u64() == Some(id)) {
            self.deleted.push(self.tickets.remove(place));
        }
    }

    /// Merges a ticket into another, as an agent does: Zendesk closes and tags the first, comments on it in
    /// the account's language, and names it in the other's audits.
    pub fn merge_ticket(&mut self, id: u64, into: u64, closing_comment: &str) {
        if !self.has(Quirk::MergeUntagged) {
            self.tag_ticket(id, &[json!("closed_by_merge")]);
        }
        let event = |text: &str| json!({"type": "Comment", "body": text, "html_body": text, "public": false, "author_id": AGENT});
        let closed = self.change_status(id, "closed");
        let closing = std::iter::once(event(closing_comment)).chain(closed).collect();
        self.record(id, AGENT, None, closing);
        let merged = format!("Request #{id} was closed and merged into this request.");
        self.record(into, AGENT, None, vec![event(&merged)]);
        let source = json!({"from": {"ticket_id": id}, "to": {}, "rel": "merge"});
        if let (Some(audit), false) = (self.audits.last_mut(), self.quirk == Some(Quirk::MergeUnnamed)) {
            audit["via"] = json!({"channel": "system", "source": source});
        }
    }

    /// Adds the ticket of a post as the 2017 example created it, and returns its number.
    pub fn add_old_ticket(&mut self, link: &str, post: &str) -> u64 {
        let ticket = json!({
            "subject": format!("Case from Social Network {post}"),
            "comment": {"body": "The text of the post", "public": true},
            "external_id": link,
            "priority": "normal",
        });
        let added = self.add_ticket(ticket.as_object().unwrap_or(&Map::new()));
        added["ticket"]["id"].as_u64().unwrap_or_default()
    }

    /// Stores a valid ticket, and returns it with its first audit.
    fn add_ticket(&mut self, sent: &Map<String, Value>) -> Value {
        let id = FIRST_ID + (self.tickets.len() + self.deleted.len()) as u64;
        let source = id_in(sent, "via_followup_source_id").and_then(|id| self.ticket(id));
        // A follow-up has the tags of the closed ticket, and the service user as its author.
        let tags = source.map_or(json!([]), |source| source["tags"].clone());
        let submitter = if self.has(Quirk::RequesterComments) { "requester_id" } else { "submitter_id" };
        let submitter = id_in(sent, submitter).filter(|_| source.is_none()).unwrap_or(SERVICE_USER);
        let mut ticket = Value::Object(sent.clone());
        ticket["id"] = json!(id);
        ticket["submitter_id"] = json!(submitter);
        if source.is_some() && self.has(Quirk::FollowUpUnnamed) {
            ticket["external_id"] = Value::Null;
        }
        for (field, value) in
            [("requester_id", json!(SERVICE_USER)), ("status", json!("new")), ("tags", tags)]
        {
            if ticket[field].is_null() {
                ticket[field] = value;
            }
        }
        let comment = self.comment_event(&ticket["comment"], submitter);
        for field in ["body", "html_body", "public", "author_id"] {
            ticket["comment"][field] = comment[field].clone();
        }
        let status = json!({"type": "Create", "field_name": "status", "value": ticket["status"]});
        self.tickets.push(ticket);
        let audit = self.record(id, submitter, sent.get("metadata"), vec![status, comment]);
        if let Some(ticket) = self.ticket_mut(id) {
            ticket["created_at"] = ticket["updated_at"].clone();
        }
        self.answer(id, audit)
    }

    /// Applies a valid update.
    fn update_ticket(&mut self, id: u64, sent: &Map<String, Value>) -> Value {
        let mut events = Vec::new();
        if let Some(comment) = sent.get("comment") {
            events.push(self.comment_event(comment, SERVICE_USER));
        }
        if let Some(status) = sent.get("status").and_then(Value::as_str) {
            events.extend(self.change_status(id, status));
        }
        if let (Some(priority), Some(ticket)) = (sent.get("priority"), self.ticket_mut(id)) {
            let previous = std::mem::replace(&mut ticket["priority"], priority.clone());
            events.push(changed("priority", priority, &previous));
        }
        for field in ["requester_id", "assignee_id", "tags", "external_id"] {
            if let (Some(value), Some(ticket)) = (sent.get(field), self.ticket_mut(id)) {
                let previous = std::mem::replace(&mut ticket[field], value.clone());
                events.push(changed(field, value, &previous));
            }
        }
        let audit = self.record(id, SERVICE_USER, sent.get("metadata"), events);
        self.answer(id, audit)
    }

    /// Adds missing tags, and returns all.
    fn tag_ticket(&mut self, id: u64, tags: &[Value]) -> Value {
        let Some(ticket) = self.ticket(id) else { return Value::Null };
        let previous = ticket["tags"].clone();
        let mut all = previous.as_array().cloned().unwrap_or_default();
        if self.quirk == Some(Quirk::TagsReplaced) {
            all.clear();
        }
        for tag in tags {
            if !all.contains(tag) {
                all.push(tag.clone());
            }
        }
        let all = Value::Array(all);
        if let Some(ticket) = self.ticket_mut(id) {
            ticket["tags"] = all.clone();
        }
        let changes = (all != previous).then(|| changed("tags", &all, &previous));
        self.record(id, SERVICE_USER, None, changes.into_iter().collect());
        json!({"tags": all})
    }

    /// Changes the status, and returns the event unless it was the same before.
    fn change_status(&mut self, id: u64, status: &str) -> Option<Value> {
        let ticket = self.ticket_mut(id).filter(|ticket| ticket["status"] != status)?;
        let previous = std::mem::replace(&mut ticket["status"], json!(status));
        Some(changed("status", &json!(status), &previous))
    }

    /// Returns the event of a comment. Zendesk fills in the placeholders of an agent's comment, and the
    /// service user is an agent.
    fn comment_event(&self, comment: &Value, author: u64) -> Value {
        let author = comment["author_id"].as_u64().unwrap_or(author);
        let (text, is_html) = comment_text(comment);
        let text = if author == SERVICE_USER { fill_placeholders(text) } else { text.to_owned() };
        let text = self.stored_html(text);
        let body = if is_html { plain_text(&text) } else { text.clone() };
        let public = comment["public"] == true && !self.private_only || self.has(Quirk::PublicComments);
        json!({"type": "Comment", "body": body, "html_body": text, "public": public, "author_id": author})
    }
}

fn changed(field: &str, value: &Value, previous: &Value) -> Value {
    json!({"type": "Change", "field_name": field, "value": value, "previous_value": previous})
}

/// `POST /api/v2/tickets`
pub(super) async fn create(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    if let Some(refused) = shared.refuse(&headers, WRITE) {
        return refused;
    }
    let is_blocked = shared.change(|model| model.blocks(&body));
    let draw = move |model: &mut Model| {
        model.creates += 1;
        if is_blocked { Some(Fault::Status(403)) } else { model.next_fault() }
    };
    shared.perform(draw, move |model| create_ticket(model, &headers, &body)).await
}

fn create_ticket(model: &mut Model, headers: &HeaderMap, body: &Bytes) -> Response {
    let Some(parsed) = json_of(headers, body) else { return malformed() };
    let ticket = match valid_ticket(&parsed) {
        Ok(ticket) => ticket,
        Err(details) => return invalid(details),
    };
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).map(str::to_owned);
    model.keyless += u32::from(key.is_none());
    if let Some((bytes, answer)) = key.as_ref().and_then(|key| model.idempotency.get(key)) {
        if bytes != body && !model.has(Quirk::OtherBytesCreate) {
            model.key_mismatches += 1;
            let text = "Request parameters don't match the given idempotency key";
            return refusal(StatusCode::BAD_REQUEST, "IdempotentRequestError", text);
        }
        if bytes == body && !model.has(Quirk::RepeatCreates) {
            return with_rate(model, "hit", (StatusCode::CREATED, Json(answer)).into_response());
        }
    }
    if let Err(details) = model.knows(ticket) {
        return with_rate(model, "", invalid(details));
    }
    let answer = model.add_ticket(ticket);
    let response = (StatusCode::CREATED, Json(&answer)).into_response();
    if let Some(key) = key {
        model.idempotency.insert(key, (body.clone(), answer));
    }
    with_rate(model, "miss", response)
}

/// `PUT /api/v2/tickets/{id}`
pub(super) async fn update(
    State(shared): State<Shared>,
    Path(id): Path<u64>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let draw = move |model: &mut Model| {
        model.updates += 1;
        let wait = model.use_update(id).map(Fault::TooMany);
        wait.or_else(|| model.next_update_fault())
    };
    let response = match shared.refuse(&headers, WRITE) {
        Some(refused) => refused,
        None => shared.perform(draw, move |model| put_ticket(model, id, &headers, &body)).await,
    };
    with_update_rate(&mut shared.model(), response)
}

fn put_ticket(model: &mut Model, id: u64, headers: &HeaderMap, body: &Bytes) -> Response {
    let Some(parsed) = json_of(headers, body) else { return malformed() };
    let ticket = model.ticket(id).cloned().unwrap_or_default();
    let sent = match valid_update(&parsed, &ticket) {
        Ok(sent) => sent,
        Err(details) => return with_rate(model, "", invalid(details)),
    };
    let known = model.knows_author(sent).and_then(|()| model.knows_user(sent, "requester"));
    let response = match (model.guard(id, sent), known) {
        (Some(refused), _) => refused,
        (None, Err(details)) => invalid(details),
        (None, Ok(())) => Json(model.update_ticket(id, sent)).into_response(),
    };
    with_rate(model, "", response)
}

/// `PUT /api/v2/tickets/{id}/tags`: adds tags.
pub(super) async fn add_tags(
    State(shared): State<Shared>,
    Path(id): Path<u64>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let draw = move |model: &mut Model| {
        let wait = model.use_update(id).map(Fault::TooMany);
        wait.or_else(|| model.outage_or_chaos())
    };
    let response = match shared.refuse(&headers, WRITE) {
        Some(refused) => refused,
        None => shared.perform(draw, move |model| put_tags(model, id, &headers, &body)).await,
    };
    with_update_rate(&mut shared.model(), response)
}

fn put_tags(model: &mut Model, id: u64, headers: &HeaderMap, body: &Bytes) -> Response {
    let parsed = json_of(headers, body);
    let Some(sent) = parsed.as_ref().and_then(Value::as_object) else { return malformed() };
    let valid = only(sent, &["tags", "safe_update", "updated_stamp"]).and_then(|()| valid_guard(sent));
    let tags = valid.and_then(|()| valid_tags(sent.get("tags").unwrap_or(&Value::Null)));
    let response = match (tags, model.guard(id, sent)) {
        (Err(details), _) => invalid(details),
        (Ok(_), Some(refused)) => refused,
        (Ok(tags), None) => Json(model.tag_ticket(id, tags)).into_response(),
    };
    with_rate(model, "", response)
}

/// `DELETE /api/v2/tickets/{id}`
pub(super) async fn delete(
    State(shared): State<Shared>,
    Path(id): Path<u64>,
    headers: HeaderMap,
) -> Response {
    if let Some(refused) = shared.refuse(&headers, WRITE) {
        return refused;
    }
    shared.change(|model| {
        if let Some(lost) = model.lost_answer() {
            return lost;
        }
        let response = match model.visible(id) {
            _ if model.forbid_deletions => forbidden(),
            None => not_found(),
            Some(_) => {
                model.delete_ticket(id);
                StatusCode::NO_CONTENT.into_response()
            }
        };
        with_rate(model, "", response)
    })
}

/// `POST /api/v2/tickets/{id}/merge`: merges others into this ticket. Zendesk's job for it ends at once.
pub(super) async fn merge(
    State(shared): State<Shared>,
    Path(into): Path<u64>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refused) = shared.refuse(&headers, WRITE) {
        return refused;
    }
    shared.change(|model| {
        if let Some(lost) = model.lost_answer() {
            return lost;
        }
        let response = match model.forbid_deletions {
            true => forbidden(),
            false => merge_tickets(model, into, &headers, &body),
        };
        with_rate(model, "", response)
    })
}

fn merge_tickets(model: &mut Model, into: u64, headers: &HeaderMap, body: &Bytes) -> Response {
    let parsed = json_of(headers, body);
    let Some(sent) = parsed.as_ref().and_then(Value::as_object) else { return malformed() };
    if let Err(details) = only(sent, &["ids", "source_comment", "target_comment"]) {
        return invalid(details);
    }
    let ids = sent.get("ids").and_then(Value::as_array).into_iter().flatten();
    let ids: Vec<u64> = ids.filter_map(Value::as_u64).collect();
    let is_open = |id: &u64| model.visible(*id).is_some_and(|ticket| ticket["status"] != "closed");
    if ids.is_empty() || ids.contains(&into) || !ids.iter().chain([&into]).all(is_open) {
        return invalid(wrong("ids", "cannot be merged"));
    }
    let closing_comment = sent.get("source_comment").and_then(Value::as_str).unwrap_or_default();
    for id in ids {
        model.merge_ticket(id, into, closing_comment);
    }
    Json(json!({"job_status": {"id": "V3-merge", "status": "queued"}})).into_response()
}
