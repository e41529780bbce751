//! The request of a delivery: as it was sent, or as it would be sent now.

use serde_json::{Value, json};

use casebridge::config::Preview;
use casebridge::destination::zendesk;
use casebridge::destination::zendesk::plan::{Fields, Plan, RequesterUser};
use casebridge::destination::zendesk::ticket::{self, Draft};
use casebridge::text::controls_terminal;

use super::Story;

/// The body of a request.
pub struct Request {
    what: String,
    revision: i64,
    bytes: usize,
    /// Redacted unless texts were asked for.
    body: Option<Value>,
    is_redacted: bool,
}

impl Request {
    pub fn of(story: &Story, texts: bool) -> Request {
        let (what, body) = match &story.shown.request {
            Some(frozen) => {
                ("The request, as it was prepared for the last attempt".to_owned(), Some(frozen.clone()))
            }
            None => not_frozen(story),
        };
        let bytes = body.as_ref().map_or(0, String::len);
        // Requests of a destination may have another format.
        let body = body.map(|text| serde_json::from_str(&text).unwrap_or_else(|_| json!(text)));
        let body = body.map(|body| if texts { body } else { redacted(body, &known(story)) });
        Request { what, revision: story.shown.revision, bytes, body, is_redacted: !texts }
    }

    pub fn to_json(&self) -> Value {
        json!({
            "what": self.what, "revision": self.revision, "bytes": self.bytes, "body": self.body,
            "is_redacted": self.is_redacted,
        })
    }

    pub fn to_text(&self) -> String {
        let Some(body) = &self.body else { return format!("{}.\n", self.what) };
        let redacted = if self.is_redacted { "; --texts shows the texts" } else { "" };
        let body = format!("{body:#}");
        let body: String =
            body.chars().map(|c| if controls_terminal(c) && c != '\n' { ' ' } else { c }).collect();
        format!("{} ({} bytes, revision {}{redacted}):\n{body}\n", self.what, self.bytes, self.revision)
    }
}

/// Describes the request of a delivery without frozen bytes. Only a ticket can be rendered without the service.
fn not_frozen(story: &Story) -> (String, Option<String>) {
    let Some(item) = &story.item else {
        return ("The texts were erased, or cannot be processed, so there is no request".to_owned(), None);
    };
    if story.delivery.state == "done" {
        return ("The delivery needed no request whose bytes are kept".to_owned(), None);
    }
    let Some(preview) = Preview::from_env().ok().filter(|_| story.delivery.destination == zendesk::NAME)
    else {
        return ("The request is rendered at the first attempt".to_owned(), None);
    };
    let route = &story.delivery.route;
    let label =
        preview.routes.iter().find(|known| known.name == *route).and_then(|found| found.label.clone());
    let rendered = ticket::render(&Draft {
        item,
        case_key: &story.delivery.case_key,
        delivery: &story.delivery.identity,
        route,
        label: label.as_deref().unwrap_or_default(),
        settings: preview.tickets.get(route).unwrap_or(&preview.ticket),
        plan: Plan { requester: RequesterUser::Service, fields: Fields::Configured, follow_up: None },
        service_user: None,
    });
    let what = "The ticket, as it would be sent with the settings here if the case has none";
    (what.to_owned(), Some(rendered.ticket.to_string()))
}

/// The texts that the rest of the output shows anyway.
fn known(story: &Story) -> Vec<&str> {
    let delivery = &story.delivery;
    let names =
        [&delivery.identity, &delivery.case_key, &delivery.route, &delivery.event_id, &delivery.event_name];
    names.into_iter().map(String::as_str).filter(|text| !text.is_empty()).collect()
}

/// Replaces each text by its length. Keys, numbers and known texts stay.
fn redacted(value: Value, known: &[&str]) -> Value {
    match value {
        Value::String(text) if known.contains(&text.as_str()) => Value::String(text),
        Value::String(text) => Value::String(format!("[{} characters]", text.chars().count())),
        Value::Array(values) => values.into_iter().map(|value| redacted(value, known)).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(key, value)| (key, redacted(value, known))).collect()
        }
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_texts_and_numbers_stay() {
        let body = json!({"ticket": {"external_id": "case", "subject": "Jane Döe", "tags": ["a", 7, true]}});
        let expected = json!({"ticket": {
            "external_id": "case", "subject": "[8 characters]", "tags": ["[1 characters]", 7, true],
        }});
        assert_eq!(redacted(body, &["case"]), expected);
    }
}
