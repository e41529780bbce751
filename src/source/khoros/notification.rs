//! Parses the bytes of a notification into its items. No I/O, no clock.
//!
//! Khoros publishes examples and no contract: ids come as strings or numbers, `labels` as a string, as an
//! array or not at all, and fields are missing. So any JSON is accepted. An item that can become a ticket is
//! read as an [`Item`]; everything else is stored whole, with the reason, for an operator.

mod redact;

use std::collections::HashMap;

use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::event::{self, Event, moment};
use crate::delivery::Origin;
use crate::intake::Notification;
use crate::item::{Arrival, Author, Condition, Item, Note, Repetition, Report, Unprocessable, case_entity};
use crate::json::{key, read, sha256, text, write};
use crate::route::Route;
use redact::{may_hold_secrets, redact};

/// The body is not JSON.
#[derive(Debug, PartialEq)]
pub struct NotJson;

/// Reads the body of a notification for a route.
///
/// # Errors
/// Only [`NotJson`].
pub fn read_for(route: &Route, body: &[u8], company: u64, origin: Origin) -> Result<Notification, NotJson> {
    Ok(Notification::new(route, parse(&route.event, body, company)?, origin))
}

/// Splits a body into its items. `event` is the name of the endpoint's event, since some events come without
/// their name. `company` is the configured id: the id in the event may be missing or of the other kind (Khoros has
/// two).
///
/// # Errors
/// [`NotJson`], and nothing else.
pub fn parse(event: &str, body: &[u8], company: u64) -> Result<Vec<Arrival>, NotJson> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    match serde_json::from_slice(body) {
        Ok(value) => Ok(split(event, value, company)),
        Err(_) => parse_repaired(event, body, company),
    }
}

/// Parses valid JSON that serde_json cannot hold as it is.
fn parse_repaired(event: &str, body: &[u8], company: u64) -> Result<Vec<Arrival>, NotJson> {
    serde_json::from_slice::<IgnoredAny>(body).map_err(|_| NotJson)?;
    let text = String::from_utf8_lossy(body);
    match read(&text) {
        Some(value) => Ok(split(event, value, company)),
        None => Ok(vec![unreadable(&text, company)]),
    }
}

fn unreadable(text: &str, company: u64) -> Arrival {
    let event_id = sha256(text);
    Arrival {
        identity: key(&format!("khoros:{company}:{event_id}")),
        case_key: key(&format!("khoros:{company}:{event_id}")),
        event_id,
        event_name: "unknown".to_owned(),
        payload: match may_hold_secrets(text) {
            true => "\"removed: it nests too deeply to be read, and may hold a credential\"".to_owned(),
            false => text.to_owned(),
        },
        unprocessable: Some(TOO_DEEP),
    }
}

fn split(event: &str, mut envelope: Value, company: u64) -> Vec<Arrival> {
    redact(&mut envelope);
    let event_id = event_id(&envelope);
    if !event.is_empty() && envelope.is_object() && text(&envelope["eventName"]).is_none() {
        envelope["eventName"] = Value::from(event);
    }
    let event_name = text(&envelope["eventName"]).unwrap_or_else(|| "unknown".to_owned());
    let arrival = |identity: String, case_key: String, payload: String, unprocessable| Arrival {
        identity: key(&identity),
        case_key: key(&case_key),
        event_id: key(&event_id),
        event_name: key(&event_name),
        payload,
        unprocessable,
    };
    let event = format!("khoros:{company}:{event_id}");
    let own = format!("khoros:{company}:{}", event_component(&envelope, &event_id));
    if let Some(report) = event::describe(&envelope) {
        let identity = report.id.map_or_else(|| own.clone(), |id| format!("{own}:{}", escape_id(&id)));
        let case_key = report.case.map_or(event, |case| format!("khoros:{company}:{case}"));
        return vec![arrival(identity, case_key, write(&envelope), None)];
    }
    let items = match take_items(&mut envelope) {
        Ok(items) => items,
        Err(unprocessable) => return vec![arrival(own, event, write(&envelope), Some(unprocessable))],
    };
    let only = items.len() == 1;
    let is_too_large_to_repeat = !only && envelope.to_string().len() * items.len() > REPEATED_BYTES;
    let mut arrivals = Vec::with_capacity(items.len());
    let mut seen: HashMap<String, Value> = HashMap::new();
    for item in items {
        let unprocessable = why_unprocessable(&item);
        let (identity, case_key) = match text(&item["entityId"]) {
            Some(entity) => (
                format!("{own}:{}", escape_id(&entity)),
                format!("khoros:{company}:{}", case_entity(&entity)),
            ),
            None => without_entity(&own, &event, (!only).then_some(&item)),
        };
        // If one notification has a post twice with different contents, both are stored.
        let identity = match seen.get(&identity) {
            Some(first) if *first != item => format!("{identity}:{}", sha256(&item.to_string())),
            Some(_) => identity,
            None => {
                if !only {
                    seen.insert(identity.clone(), item.clone());
                }
                identity
            }
        };
        if arrivals.len() == 1 && is_too_large_to_repeat {
            envelope = known_fields(&envelope);
        }
        // Not `json!`, which would copy the item.
        envelope["data"]["items"] = Value::Array(vec![item]);
        arrivals.push(arrival(identity, case_key, write(&envelope), unprocessable));
    }
    arrivals
}

/// Identity and case of an item without an id: the event is its own case; of several items, each is one.
fn without_entity(own: &str, event: &str, one_of_several: Option<&Value>) -> (String, String) {
    match one_of_several {
        None => (own.to_owned(), event.to_owned()),
        Some(item) => {
            let hash = sha256(&item.to_string());
            (format!("{own}:{hash}"), format!("{event}:{hash}"))
        }
    }
}

/// The fields of an envelope that a ticket uses, as far as they are short.
fn known_fields(envelope: &Value) -> Value {
    let short = |value: &Value, names: &[&str]| -> Map<String, Value> {
        let fields = names.iter().filter_map(|name| Some(((*name).to_owned(), value.get(name)?.clone())));
        fields.filter(|(_, value)| value.to_string().len() <= SHORT_FIELD_BYTES).collect()
    };
    let mut known = short(envelope, &["eventName", "eventUuid", "createdDate", "companyId"]);
    known.insert("data".to_owned(), Value::Object(short(&envelope["data"], &["labels", "ruleMatched"])));
    Value::Object(known)
}

/// Reads the one item of a stored payload.
///
/// # Errors
/// The reason why no ticket can be made of it.
pub fn item(payload: &str) -> Result<Item, Unprocessable> {
    if payload.is_empty() {
        return Err("its texts were erased because the retention period is over");
    }
    let mut envelope = read(payload).ok_or(TOO_DEEP)?;
    if let Some(report) = event::describe(&envelope) {
        return Ok(item_of_report(&envelope, report));
    }
    let items = take_items(&mut envelope)?;
    let item = items.first().ok_or(NO_ITEMS)?;
    why_unprocessable(item).map_or_else(|| Ok(item_of_post(&envelope, item)), Err)
}

fn item_of_post(envelope: &Value, item: &Value) -> Item {
    let mut all_labels = labels(&envelope["data"]["labels"]);
    all_labels.extend(labels(&item["labels"]));
    let mut seen = std::collections::HashSet::new();
    all_labels.retain(|label| seen.insert(label.clone()));
    let event_name = text(&envelope["eventName"]);
    Item {
        kind: event_name.as_deref().map_or(Event::Label, Event::named).kind(),
        condition: Condition::Unchanged,
        repetition: Repetition::Never,
        event_id: text(&envelope["eventUuid"]),
        event_name,
        event_made: moment::read(&envelope["createdDate"]),
        report: None,
        rule: rule(&envelope["data"]["ruleMatched"]),
        entity_id: text(&item["entityId"]),
        text: text(&item["text"]),
        link: text(&item["link"]),
        author: Author {
            id: text(&item["authorId"]),
            name: text(&item["author"]),
            screen_name: text(&item["authorScreenName"]),
            link: text(&item["authorLink"]),
            icon: text(&item["authorIcon"]),
            followers: text(&item["followerCount"]),
        },
        created: text(&item["createdDate"]),
        content_type: text(&item["contentType"]),
        in_reply_to: text(&item["inReplyTo"]),
        reposted_from: text(&item["repostedFrom"]),
        parent_post: text(&item["parentPost"]),
        initiatives: ids(&item["initiativeIds"]),
        labels: all_labels,
        notes: notes(&item["notes"]),
        fields: item.clone(),
    }
}

fn item_of_report(envelope: &Value, report: Report) -> Item {
    let event = Event::of(envelope);
    let fields = event.body(envelope).cloned().unwrap_or_default();
    Item {
        kind: event.kind(),
        condition: event.condition(),
        repetition: event.repetition(),
        event_id: text(&envelope["eventUuid"]),
        event_name: text(&envelope["eventName"]),
        event_made: moment::read(&envelope["createdDate"]),
        text: report.text.clone(),
        report: Some(report),
        labels: labels(&fields["labels"]),
        notes: notes(&fields["notes"]),
        fields,
        ..Item::default()
    }
}

/// Why no ticket can be made of an item.
fn why_unprocessable(item: &Value) -> Option<Unprocessable> {
    let has_content = looks_like_item(item);
    too_deep(item).or((!has_content).then_some("the item has no id, no text and no link"))
}

/// Whether an item is too deep to be read again from its payload: serde_json holds 127 levels, of which the
/// envelope takes three.
fn too_deep(item: &Value) -> Option<Unprocessable> {
    fn depth(value: &Value) -> usize {
        match value {
            Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
            Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
            _ => 0,
        }
    }
    (depth(item) > 124).then_some(TOO_DEEP)
}

const TOO_DEEP: Unprocessable = "the notification nests too deeply to be read";
/// If an envelope takes more than this, repeated for each item, it is stored as a whole with the first item only.
const REPEATED_BYTES: usize = 8 << 20;
/// The longest JSON of a field of the envelope that is stored with each item.
const SHORT_FIELD_BYTES: usize = 500;
const NO_ITEMS: Unprocessable = "the event contains nothing that can become a ticket";

/// Takes the items out of `data.items`.
fn take_items(envelope: &mut Value) -> Result<Vec<Value>, Unprocessable> {
    if !envelope.is_object() {
        return Err("the notification is not a JSON object");
    }
    if !has_items(envelope) {
        return Err(NO_ITEMS);
    }
    match envelope["data"]["items"].take() {
        Value::Array(items) => Ok(items),
        item => Ok(vec![item]),
    }
}

/// Whether the event is about items: a list of them, or one.
pub(crate) fn has_items(envelope: &Value) -> bool {
    match &envelope["data"]["items"] {
        Value::Array(items) => !items.is_empty(),
        items => items.is_object(),
    }
}

fn looks_like_item(value: &Value) -> bool {
    ["entityId", "text", "link"].iter().any(|field| text(&value[field]).is_some())
}

/// `eventUuid`, or a hash of the envelope (serde_json sorts its keys), so that a redelivery has the same id.
fn event_id(envelope: &Value) -> String {
    text(&envelope["eventUuid"]).unwrap_or_else(|| sha256(&envelope.to_string()))
}

/// The event's part of an identity. Our hashes have one colon; Khoros' ids have none, so it ends at the next.
fn event_component(envelope: &Value, event_id: &str) -> String {
    match text(&envelope["eventUuid"]) {
        Some(id) => escape_id(&id).replace(':', "%3A"),
        None => event_id.to_owned(),
    }
}

/// Khoros' id as the last part of an identity: `@{route}` and `#{revision}` may follow it.
fn escape_id(id: &str) -> String {
    id.replace('%', "%25").replace('@', "%40").replace('#', "%23")
}

/// The members of a list that are read: more than any post has, and few enough to be compared with each other.
/// The payload has all of them.
const MEMBERS: usize = 500;

/// Labels are declared as a string and shown as an array; those of messages are objects with a name.
fn labels(value: &Value) -> Vec<String> {
    match value {
        Value::Array(labels) => labels.iter().take(MEMBERS).flat_map(labels_of_one).collect(),
        other => labels_of_one(other).into_iter().collect(),
    }
}

fn labels_of_one(value: &Value) -> Option<String> {
    text(value).or_else(|| text(&value["name"]))
}

/// A list of ids, or one.
fn ids(value: &Value) -> Vec<String> {
    match value {
        Value::Array(ids) => ids.iter().take(MEMBERS).filter_map(text).collect(),
        id => text(id).into_iter().collect(),
    }
}

/// The name of a rule, or its id.
fn rule(value: &Value) -> Option<String> {
    text(&value["ruleName"]).or_else(|| text(&value["ruleId"]))
}

fn notes(value: &Value) -> Vec<Note> {
    let one = |note: &Value| {
        Some(Note {
            author: text(&note["createdByDisplayName"]),
            created: text(&note["createdDate"]),
            text: text(&note["text"])?,
        })
    };
    match value {
        Value::Array(notes) => notes.iter().filter_map(one).take(MEMBERS).collect(),
        other => one(other).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests;
