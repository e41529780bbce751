//! What Zendesk demands of tickets and their updates.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value};

use super::answer::{flaw, invalid, not_found, only, refusal, suspended, wrong};
use super::quirks::Quirk;
use super::text::{is_blank, plain_text};
use super::{Model, SERVICE_USER};

impl Model {
    /// Checks that the ids in a new ticket exist.
    pub(super) fn knows(&self, ticket: &Map<String, Value>) -> Result<(), Value> {
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

    pub(super) fn knows_user(&self, map: &Map<String, Value>, who: &str) -> Result<(), Value> {
        let exists = |id: &Value| id.as_u64().is_some_and(|id| id == SERVICE_USER || self.user(id).is_some());
        if present(map, &format!("{who}_id")).is_none_or(exists) {
            return Ok(());
        }
        Err(wrong(who, &format!("{}{}: is invalid", who[..1].to_uppercase(), &who[1..])))
    }

    pub(super) fn knows_author(&self, ticket: &Map<String, Value>) -> Result<(), Value> {
        let comment = ticket.get("comment").and_then(Value::as_object);
        comment.map_or(Ok(()), |comment| self.knows_user(comment, "author"))
    }

    /// Refuses an update of a ticket that is gone, closed or, with `safe_update`, newer than the caller knows.
    pub(super) fn guard(&self, id: u64, sent: &Map<String, Value>) -> Option<Response> {
        let Some(ticket) = self.visible(id) else { return Some(not_found()) };
        if ticket["status"] == "closed" && !self.has(Quirk::ClosedUpdates) {
            return Some(invalid(wrong("status", "closed prevents ticket update")));
        }
        let is_safe = sent.contains_key("safe_update") && !self.has(Quirk::UnsafeUpdates);
        let outdated = is_safe && sent.get("updated_stamp") != Some(&ticket["updated_at"]);
        let text = "Safe Update prevented the update due to outdated ticket data. Please fetch the latest \
                    ticket data and try again.";
        outdated.then(|| refusal(StatusCode::CONFLICT, "UpdateConflict", text))
    }
}

fn present<'a>(map: &'a Map<String, Value>, field: &str) -> Option<&'a Value> {
    map.get(field).filter(|value| !value.is_null())
}

pub(super) fn id_in(map: &Map<String, Value>, field: &str) -> Option<u64> {
    map.get(field)?.as_u64()
}

fn one_of(map: &Map<String, Value>, field: &str, values: &[&str]) -> Result<(), Value> {
    match present(map, field) {
        Some(value) if !values.iter().any(|known| value == known) => Err(wrong(field, "is not valid")),
        _ => Ok(()),
    }
}

const STATUSES: &[&str] = &["new", "open", "pending", "hold", "solved"];
/// The start of the subject of a ticket that may be closed: that cannot be undone.
const REHEARSAL: &str = "casebridge rehearsal";

fn valid_comment(comment: &Value) -> Result<(), Value> {
    let Some(fields) = comment.as_object() else { return Err(wrong("comment", "cannot be blank")) };
    only(fields, &["body", "html_body", "public", "author_id"])?;
    let (text, is_html) = comment_text(comment);
    let seen = if is_html { plain_text(text) } else { plain_text(&text.replace('&', "&amp;")) };
    match () {
        () if is_blank(&seen) => Err(flaw("comment", "cannot be blank", "BlankValue")),
        () if fields.contains_key("body") && is_html => Err(wrong("comment", "is there twice")),
        () if text.len() > 65_000 => Err(wrong("comment", "is too long")),
        () if !comment["public"].is_boolean() => Err(wrong("public", "is to be said")),
        () => Ok(()),
    }
}

/// The text of a comment, and whether it is HTML.
pub(super) fn comment_text(comment: &Value) -> (&str, bool) {
    let html = comment["html_body"].as_str();
    (html.or_else(|| comment["body"].as_str()).unwrap_or_default(), html.is_some())
}

fn valid_metadata(map: &Map<String, Value>) -> Result<(), Value> {
    match present(map, "metadata") {
        Some(metadata) if !metadata.is_object() => Err(wrong("metadata", "is not an object")),
        _ => Ok(()),
    }
}

/// Tags have letters of any script, but no spaces and no upper case.
pub(super) fn valid_tags(tags: &Value) -> Result<&Vec<Value>, Value> {
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

/// Checks the form of a new ticket, not whether its ids exist.
pub(super) fn valid_ticket(body: &Value) -> Result<&Map<String, Value>, Value> {
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
    one_of(ticket, "status", STATUSES)?;
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

/// Checks an update of this ticket. Its tags replace those of the agents, so they need `safe_update`.
pub(super) fn valid_update<'a>(body: &'a Value, ticket: &Value) -> Result<&'a Map<String, Value>, Value> {
    let sent = body["ticket"].as_object().ok_or_else(|| wrong("base", "no ticket"))?;
    const KNOWN: &[&str] = &[
        "comment",
        "status",
        "priority",
        "metadata",
        "safe_update",
        "updated_stamp",
        "requester_id",
        "assignee_id",
        "tags",
        "external_id",
    ];
    only(sent, KNOWN)?;
    if sent.contains_key("tags") && sent.get("safe_update").is_none() {
        return Err(wrong("tags", "are without safe_update"));
    }
    present(sent, "tags").map_or(Ok(()), |tags| valid_tags(tags).map(|_| ()))?;
    if present(sent, "external_id").is_some_and(|id| !id.is_string()) {
        return Err(wrong("external_id", "is not a text"));
    }
    one_of(sent, "priority", &["urgent", "high", "normal", "low"])?;
    sent.get("comment").map_or(Ok(()), valid_comment)?;
    let is_closing = sent.get("status").is_some_and(|status| status == "closed");
    let may_close = ticket["subject"].as_str().is_some_and(|subject| subject.starts_with(REHEARSAL));
    if !(is_closing && may_close) {
        one_of(sent, "status", STATUSES)?;
    }
    valid_metadata(sent)?;
    valid_guard(sent)?;
    Ok(sent)
}

/// Refuses a stamp without `safe_update`, which would have no effect.
pub(super) fn valid_guard(sent: &Map<String, Value>) -> Result<(), Value> {
    match sent.get("safe_update") {
        Some(safe) if !safe.is_boolean() && safe != "true" => Err(wrong("safe_update", "is not valid")),
        None if sent.contains_key("updated_stamp") => Err(wrong("updated_stamp", "is without safe_update")),
        _ => Ok(()),
    }
}
