//! Tickets: to create, find, show and update them, and the audits that tell what was done to them.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::text::{fill_placeholders, is_blank, plain_text};
use super::{
    AGENT, Fault, Minute, Model, SERVICE_USER, Shared, error_page, flaw, invalid, json_of, lock, malformed,
    only, refusal, suspended, too_many, with_rate, wrong,
};

const READ: &[&str] = &["tickets:read", "read"];
const WRITE: &[&str] = &["tickets:write", "write"];
const FIRST_ID: u64 = 1000;
const FIRST_EVENT: u64 = 70_000;
/// Zendesk takes so many updates of one ticket within ten minutes.
const UPDATES_PER_TICKET: usize = 30;
const TEN_MINUTES: Duration = Duration::from_secs(600);
/// Of audits on a page.
const PAGE: usize = 100;

impl Model {
    /// An agent sets the status, `closed` too, as time would.
    pub fn set_status(&mut self, id: u64, status: &str) {
        let change = self.change_status(id, status);
        self.record(id, AGENT, None, change.into_iter().collect());
    }

    /// The ticket is no longer found; its number is not used again.
    pub fn delete_ticket(&mut self, id: u64) {
        if let Some(place) = self.tickets.iter().position(|ticket| ticket["id"].as_u64() == Some(id)) {
            self.deleted.push(self.tickets.remove(place));
        }
    }

    /// An agent merges a ticket into another, as Zendesk does it: the first is closed, tagged and names the
    /// other in a comment of the account's language, and the other's history names the first.
    pub fn merge_ticket(&mut self, id: u64, into: u64, closing_comment: &str) {
        self.tag_ticket(id, &[json!("closed_by_merge")]);
        let event = |text: &str| json!({"type": "Comment", "body": text, "html_body": text, "public": false, "author_id": AGENT});
        let closed = self.change_status(id, "closed");
        let closing = std::iter::once(event(closing_comment)).chain(closed).collect();
        self.record(id, AGENT, None, closing);
        let merged = format!("Request #{id} was closed and merged into this request.");
        self.record(into, AGENT, None, vec![event(&merged)]);
        let source = json!({"from": {"ticket_id": id}, "to": {}, "rel": "merge"});
        if let Some(audit) = self.audits.last_mut() {
            audit["via"] = json!({"channel": "system", "source": source});
        }
    }

    /// The ticket as the caller may see it.
    fn visible(&self, id: u64) -> Option<&Value> {
        self.ticket(id).filter(|_| !self.hidden.contains(&id))
    }

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

    fn ticket(&self, id: u64) -> Option<&Value> {
        self.tickets.iter().find(|ticket| ticket["id"].as_u64() == Some(id))
    }

    fn ticket_mut(&mut self, id: u64) -> Option<&mut Value> {
        self.tickets.iter_mut().find(|ticket| ticket["id"].as_u64() == Some(id))
    }

    /// Keeps the ticket, and answers it with its first audit.
    fn add_ticket(&mut self, sent: &Map<String, Value>) -> Value {
        let id = FIRST_ID + (self.tickets.len() + self.deleted.len()) as u64;
        let source = id_in(sent, "via_followup_source_id").and_then(|id| self.ticket(id));
        // A follow-up has its tags from the closed ticket, and its author is who asks for it.
        let tags = source.map_or(json!([]), |source| source["tags"].clone());
        let submitter = id_in(sent, "submitter_id").filter(|_| source.is_none()).unwrap_or(SERVICE_USER);
        let mut ticket = Value::Object(sent.clone());
        ticket["id"] = json!(id);
        ticket["submitter_id"] = json!(submitter);
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

    /// Does what a valid update asks for.
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
        for field in ["requester_id", "tags"] {
            if let (Some(value), Some(ticket)) = (sent.get(field), self.ticket_mut(id)) {
                let previous = std::mem::replace(&mut ticket[field], value.clone());
                events.push(changed(field, value, &previous));
            }
        }
        let audit = self.record(id, SERVICE_USER, sent.get("metadata"), events);
        self.answer(id, audit)
    }

    /// Adds the tags that are not there yet, and answers them all.
    fn tag_ticket(&mut self, id: u64, tags: &[Value]) -> Value {
        let Some(ticket) = self.ticket_mut(id) else { return Value::Null };
        let previous = ticket["tags"].clone();
        let mut all = previous.as_array().cloned().unwrap_or_default();
        for tag in tags {
            if !all.contains(tag) {
                all.push(tag.clone());
            }
        }
        let all = Value::Array(all);
        ticket["tags"] = all.clone();
        let changes = (all != previous).then(|| changed("tags", &all, &previous));
        self.record(id, SERVICE_USER, None, changes.into_iter().collect());
        json!({"tags": all})
    }

    /// The event of another status; none if it is the same.
    fn change_status(&mut self, id: u64, status: &str) -> Option<Value> {
        let ticket = self.ticket_mut(id).filter(|ticket| ticket["status"] != status)?;
        let previous = std::mem::replace(&mut ticket["status"], json!(status));
        Some(changed("status", &json!(status), &previous))
    }

    /// The event of a comment. What an agent writes is a template to Zendesk, and so is what the user of
    /// the credential writes. `body` is what a person sees of the HTML.
    fn comment_event(&self, comment: &Value, author: u64) -> Value {
        let author = comment["author_id"].as_u64().unwrap_or(author);
        let (text, is_html) = said(comment);
        let text = if author == SERVICE_USER { fill_placeholders(text) } else { text.to_owned() };
        let body = if is_html { plain_text(&text) } else { text.clone() };
        let public = comment["public"] == true && !self.private_only;
        json!({"type": "Comment", "body": body, "html_body": text, "public": public, "author_id": author})
    }

    /// Keeps what was done as an audit and moves `updated_at`; nothing done is no audit.
    fn record(&mut self, id: u64, author: u64, metadata: Option<&Value>, mut events: Vec<Value>) -> Value {
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
        let custom = metadata.filter(|metadata| !metadata.is_null()).cloned().unwrap_or(json!({}));
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

    fn answer(&self, id: u64, audit: Value) -> Value {
        json!({"ticket": self.ticket(id).map(shown), "audit": audit})
    }

    /// Counts an update; tells the seconds to wait if a limit refuses it.
    fn use_update(&mut self, id: u64) -> Option<u64> {
        let minute = Minute::current(&mut self.update_minute, self.updates_by_agents);
        let recent = self.ticket_updates.entry(id).or_default();
        let account = (minute.used >= self.update_limit).then(|| minute.left());
        let wait = account.or_else(|| recent.wait(TEN_MINUTES, UPDATES_PER_TICKET));
        if wait.is_some() {
            self.too_many_updates += 1;
        } else {
            minute.used += 1;
            recent.note();
        }
        wait
    }

    /// Whether the ids that a new ticket names are those of something.
    fn knows(&self, ticket: &Map<String, Value>) -> Result<(), Value> {
        self.knows_user(ticket, "requester")?;
        self.knows_user(ticket, "submitter")?;
        self.knows_author(ticket)?;
        let requester = id_in(ticket, "requester_id").and_then(|id| self.user(id));
        if let Some(requester) = requester.filter(|user| user["suspended"] == true) {
            return Err(suspended(requester["name"].as_str().unwrap_or_default()));
        }
        let is_in = |known: &BTreeSet<u64>, id: &Value| id.as_u64().is_some_and(|id| known.contains(&id));
        for (field, key, known) in [
            ("group_id", "group", &self.known.groups),
            ("assignee_id", "assignee", &self.known.assignees),
            ("brand_id", "brand", &self.known.brands),
            ("ticket_form_id", "ticket_form_id", &self.known.forms),
        ] {
            if present(ticket, field).is_some_and(|id| !is_in(known, id)) {
                return Err(wrong(key, "is invalid"));
            }
        }
        let fields = ticket.get("custom_fields").and_then(Value::as_array).into_iter().flatten();
        if fields.into_iter().any(|field| !is_in(&self.known.fields, &field["id"])) {
            return Err(wrong("custom_fields", "are invalid"));
        }
        let source = present(ticket, "via_followup_source_id").map(|id| self.ticket(id.as_u64()?));
        match source {
            Some(source) if source.is_none_or(|source| source["status"] != "closed") => {
                Err(wrong("via_followup_source_id", "is not a closed ticket"))
            }
            _ => Ok(()),
        }
    }

    fn knows_user(&self, map: &Map<String, Value>, who: &str) -> Result<(), Value> {
        let exists = |id: &Value| id.as_u64().is_some_and(|id| id == SERVICE_USER || self.user(id).is_some());
        if present(map, &format!("{who}_id")).is_none_or(exists) {
            return Ok(());
        }
        Err(wrong(who, &format!("{}{}: is invalid", who[..1].to_uppercase(), &who[1..])))
    }

    fn knows_author(&self, ticket: &Map<String, Value>) -> Result<(), Value> {
        let comment = ticket.get("comment").and_then(Value::as_object);
        comment.map_or(Ok(()), |comment| self.knows_user(comment, "author"))
    }

    /// What keeps an update from the ticket: it is gone, closed, or not as the caller believes.
    fn guard(&self, id: u64, sent: &Map<String, Value>) -> Option<Response> {
        let Some(ticket) = self.visible(id) else { return Some(not_found()) };
        if ticket["status"] == "closed" {
            return Some(invalid(wrong("status", "closed prevents ticket update")));
        }
        let outdated =
            sent.contains_key("safe_update") && sent.get("updated_stamp") != Some(&ticket["updated_at"]);
        let text = "Safe Update prevented the update due to outdated ticket data. Please fetch the latest \
                    ticket data and try again.";
        outdated.then(|| refusal(StatusCode::CONFLICT, "UpdateConflict", text))
    }
}

fn present<'a>(map: &'a Map<String, Value>, field: &str) -> Option<&'a Value> {
    map.get(field).filter(|value| !value.is_null())
}

fn id_in(map: &Map<String, Value>, field: &str) -> Option<u64> {
    map.get(field)?.as_u64()
}

fn changed(field: &str, value: &Value, previous: &Value) -> Value {
    json!({"type": "Change", "field_name": field, "value": value, "previous_value": previous})
}

/// As answers show a ticket: some fields can be written only.
fn shown(ticket: &Value) -> Value {
    let mut ticket = ticket.clone();
    if let Some(fields) = ticket.as_object_mut() {
        let comment = fields.remove("comment").unwrap_or_default();
        fields.remove("metadata");
        fields.insert("description".to_owned(), comment["body"].clone());
    }
    ticket
}

fn one_of(map: &Map<String, Value>, field: &str, values: &[&str]) -> Result<(), Value> {
    match present(map, field) {
        Some(value) if !values.iter().any(|known| value == known) => Err(wrong(field, "is not valid")),
        _ => Ok(()),
    }
}

/// Never `closed`: nobody could take that back.
fn valid_status(map: &Map<String, Value>) -> Result<(), Value> {
    one_of(map, "status", &["new", "open", "pending", "hold", "solved"])
}

fn valid_comment(comment: &Value) -> Result<(), Value> {
    let Some(fields) = comment.as_object() else { return Err(wrong("comment", "cannot be blank")) };
    only(fields, &["body", "html_body", "public", "author_id"])?;
    let (text, is_html) = said(comment);
    let seen = if is_html { plain_text(text) } else { plain_text(&text.replace('&', "&amp;")) };
    match () {
        () if is_blank(&seen) => Err(flaw("comment", "cannot be blank", "BlankValue")),
        () if fields.contains_key("body") && is_html => Err(wrong("comment", "is there twice")),
        () if text.len() > 65_000 => Err(wrong("comment", "is too long")),
        () if !comment["public"].is_boolean() => Err(wrong("public", "is to be said")),
        () => Ok(()),
    }
}

/// What a comment says, and whether it is HTML.
fn said(comment: &Value) -> (&str, bool) {
    let html = comment["html_body"].as_str();
    (html.or_else(|| comment["body"].as_str()).unwrap_or_default(), html.is_some())
}

fn valid_metadata(map: &Map<String, Value>) -> Result<(), Value> {
    match present(map, "metadata") {
        Some(metadata) if !metadata.is_object() => Err(wrong("metadata", "is not an object")),
        _ => Ok(()),
    }
}

/// Letters of any script, but neither blanks nor upper case.
fn valid_tags(tags: &Value) -> Result<&Vec<Value>, Value> {
    let plain = |c: char| "_-/.:".contains(c) || c.is_alphanumeric() && c.to_lowercase().eq([c]);
    let slug = |tag: &Value| tag.as_str().is_some_and(|tag| !tag.is_empty() && tag.chars().all(plain));
    let tags = tags.as_array().filter(|tags| tags.iter().all(slug));
    tags.ok_or_else(|| wrong("tags", "are not valid"))
}

fn valid_custom_fields(fields: &Value) -> Result<(), Value> {
    let pair = |field: &Value| {
        let map = field.as_object().filter(|map| map.len() == 2 && map.contains_key("value"));
        map.is_some_and(|map| id_in(map, "id").is_some())
    };
    let pairs = fields.as_array().is_some_and(|fields| fields.iter().all(pair));
    pairs.then_some(()).ok_or_else(|| wrong("custom_fields", "are not pairs of id and value"))
}

/// The form of a new ticket; whether its ids exist is another question.
fn valid_ticket(body: &Value) -> Result<&Map<String, Value>, Value> {
    let ticket = body["ticket"].as_object().ok_or_else(|| wrong("base", "no ticket"))?;
    only(
        ticket,
        &[
            "subject",
            "comment",
            "priority",
            "type",
            "status",
            "external_id",
            "tags",
            "metadata",
            "requester_id",
            "submitter_id",
            "group_id",
            "assignee_id",
            "brand_id",
            "ticket_form_id",
            "custom_fields",
            "via_followup_source_id",
        ],
    )?;
    valid_comment(&body["ticket"]["comment"])?;
    one_of(ticket, "priority", &["urgent", "high", "normal", "low"])?;
    one_of(ticket, "type", &["problem", "incident", "question", "task"])?;
    valid_status(ticket)?;
    valid_metadata(ticket)?;
    for field in ["subject", "external_id"] {
        if present(ticket, field).is_some_and(|value| !value.is_string()) {
            return Err(wrong(field, "is not a text"));
        }
    }
    present(ticket, "tags").map_or(Ok(()), |tags| valid_tags(tags).map(|_| ()))?;
    present(ticket, "custom_fields").map_or(Ok(()), valid_custom_fields)?;
    Ok(ticket)
}

/// Tags replace those of the agents: only who has just looked at them may send any.
fn valid_update(body: &Value) -> Result<&Map<String, Value>, Value> {
    let sent = body["ticket"].as_object().ok_or_else(|| wrong("base", "no ticket"))?;
    const KNOWN: &[&str] = &[
        "comment",
        "status",
        "priority",
        "metadata",
        "safe_update",
        "updated_stamp",
        "requester_id",
        "tags",
    ];
    only(sent, KNOWN)?;
    if sent.contains_key("tags") && sent.get("safe_update").is_none() {
        return Err(wrong("tags", "are without safe_update"));
    }
    present(sent, "tags").map_or(Ok(()), |tags| valid_tags(tags).map(|_| ()))?;
    one_of(sent, "priority", &["urgent", "high", "normal", "low"])?;
    sent.get("comment").map_or(Ok(()), valid_comment)?;
    valid_status(sent)?;
    valid_metadata(sent)?;
    valid_guard(sent)?;
    Ok(sent)
}

/// A stamp alone guards nothing, which who sends it hardly means.
fn valid_guard(sent: &Map<String, Value>) -> Result<(), Value> {
    match sent.get("safe_update") {
        Some(safe) if !safe.is_boolean() && safe != "true" => Err(wrong("safe_update", "is not valid")),
        None if sent.contains_key("updated_stamp") => Err(wrong("updated_stamp", "is without safe_update")),
        _ => Ok(()),
    }
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
        if bytes != body {
            model.key_mismatches += 1;
            let text = "Request parameters don't match the given idempotency key";
            return refusal(StatusCode::BAD_REQUEST, "IdempotentRequestError", text);
        }
        return with_rate(model, "hit", (StatusCode::CREATED, Json(answer)).into_response());
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

fn comments_in(audit: &Value) -> impl Iterator<Item = Value> {
    let events = audit["events"].as_array().into_iter().flatten();
    events.filter(|event| event["type"] == "Comment").map(|event| {
        let mut comment = event.clone();
        comment["created_at"] = audit["created_at"].clone();
        comment
    })
}

/// `GET /api/v2/tickets?external_id=`: none, one or several; ids are not unique.
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
            is_visible(ticket) && wanted.is_none_or(|id| ticket["external_id"] == id.as_str())
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
        let response = match model.visible(id) {
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
        let is_listed = |ticket: &&Value| !model.purged.iter().any(|id| ticket["id"] == *id);
        let newest_first =
            model.deleted.iter().rev().filter(is_listed).skip(page.saturating_sub(1) * size).take(size);
        let deleted: Vec<Value> = newest_first.map(|ticket| json!({"id": ticket["id"]})).collect();
        let response =
            Json(json!({"deleted_tickets": deleted, "count": model.deleted.len()})).into_response();
        model.lost_answer().unwrap_or_else(|| with_rate(model, "", response))
    })
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
    with_update_rate(&mut lock(&shared.model), response)
}

fn put_ticket(model: &mut Model, id: u64, headers: &HeaderMap, body: &Bytes) -> Response {
    let Some(parsed) = json_of(headers, body) else { return malformed() };
    let sent = match valid_update(&parsed) {
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

/// `PUT /api/v2/tickets/{id}/tags`: adds to those that are there.
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
    with_update_rate(&mut lock(&shared.model), response)
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

fn not_found() -> Response {
    refusal(StatusCode::NOT_FOUND, "RecordNotFound", "Not found")
}

/// What is left of the account's updates.
fn with_update_rate(model: &mut Model, mut response: Response) -> Response {
    let minute = Minute::current(&mut model.update_minute, model.updates_by_agents);
    let (total, left) = (model.update_limit, minute.left());
    let remaining = total.saturating_sub(minute.used);
    let told = format!("total={total}; remaining={remaining}; resets={left}");
    if let Ok(told) = HeaderValue::try_from(told) {
        response.headers_mut().insert("zendesk-ratelimit-tickets-update", told);
    }
    response
}
