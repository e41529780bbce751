//! `/2010-04-01/Accounts/{sid}/Messages`

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use serde_json::{Value, json};

use super::form::{self, Fields, Kind, check, is_number};
use super::{ACCOUNT, Call, Model, TRIAL, error, not_found};

const FIELDS: &[(&str, Kind)] = &[
    ("To", Kind::Text),
    ("From", Kind::Text),
    ("MessagingServiceSid", Kind::Sid("MG")),
    ("Body", Kind::Text),
    ("ContentSid", Kind::Sid("HX")),
    ("ContentVariables", Kind::Json),
    ("ValidityPeriod", Kind::Number(1, 36_000)),
    ("StatusCallback", Kind::Url),
];
/// The longest text, in UTF-16 code units.
const LONGEST: usize = 1600;

impl Model {
    pub(super) fn create_message(&mut self, fields: &Fields) -> Response {
        if let Err(refusal) = check(fields, &["To"], FIELDS) {
            return *refusal;
        }
        if let Some(refusal) = self.refusal(fields) {
            return refusal;
        }
        let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
        let text = match fields.get("ContentVariables") {
            Some(variables) => {
                let variables: Value = serde_json::from_str(variables).unwrap_or_default();
                format!("A case: {}. Thank you.", variables["1"].as_str().unwrap_or_default())
            }
            None => field("Body"),
        };
        let trial = if self.is_trial { TRIAL } else { "" };
        let sid = self.sid("SM");
        let now = rfc2822::to_string(&Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC)).unwrap_or_default();
        let from = fields.get("From").cloned();
        let message = json!({
            "sid": sid,
            "account_sid": ACCOUNT,
            "to": field("To"),
            // A messaging service chooses the number later.
            "from": from,
            "messaging_service_sid": fields.get("MessagingServiceSid"),
            "body": format!("{trial}{text}"),
            "status": "queued",
            "direction": "outbound-api",
            "date_created": now,
            "date_sent": null,
            "error_code": null,
            "callback": fields.get("StatusCallback"),
        });
        self.messages.push(message.clone());
        (StatusCode::CREATED, Json(message)).into_response()
    }

    fn refusal(&self, fields: &Fields) -> Option<Response> {
        let bad = |code, reason| Some(error(StatusCode::BAD_REQUEST, code, reason));
        let to = fields.get("To").map(String::as_str).unwrap_or_default();
        if let Some((status, code)) = self.refused.get(to) {
            return Some(error(StatusCode::from_u16(*status).unwrap_or_default(), *code, "refused"));
        }
        if !is_number(to) {
            return bad(21211, "Invalid 'To' Phone Number");
        }
        match (fields.contains_key("From"), fields.contains_key("MessagingServiceSid")) {
            (true, false) | (false, true) => {}
            _ => return bad(21603, "A 'From' phone number is required"),
        }
        match (fields.get("Body"), fields.contains_key("ContentSid")) {
            (None, true) => None,
            (Some(body), false) if body.encode_utf16().count() > LONGEST => bad(21617, "too long"),
            (Some(_), false) => None,
            _ => bad(21602, "Message body is required"),
        }
    }

    /// Pages of the newest messages first.
    pub(super) fn list_messages(&mut self, call: &Call) -> Response {
        self.lists += 1;
        let query = form::fields(call.uri.query());
        let wanted = |message: &&Value| {
            let is = |name: &str, field: &str| {
                query.get(name).is_none_or(|value| message[field] == value.as_str())
            };
            is("To", "to") && is("From", "from")
        };
        let number =
            |name: &str, default| query.get(name).and_then(|text| text.parse().ok()).unwrap_or(default);
        let (page, size): (usize, usize) = (number("Page", 0), number("PageSize", 50));
        let mut found: Vec<Value> = self.messages.iter().rev().filter(wanted).cloned().collect();
        let has_more = found.len() > (page + 1) * size;
        found = found.into_iter().skip(page * size).take(size).collect();
        let mut next = query.clone();
        next.insert("Page".to_owned(), (page + 1).to_string());
        let next: std::collections::BTreeMap<&str, String> =
            next.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let next = has_more.then(|| format!("{}?{}", call.uri.path(), form::write(&next)));
        Json(json!({ "messages": found, "page": page, "page_size": size, "next_page_uri": next }))
            .into_response()
    }

    pub(super) fn message(&mut self, file: &str) -> Response {
        let (status, code) = self.becomes.clone();
        let message =
            self.messages.iter_mut().find(|message| file == format!("{}.json", text(&message["sid"])));
        let Some(message) = message else { return not_found() };
        if message["status"] == "queued" {
            message["status"] = json!(status);
            message["error_code"] = json!(code);
        }
        Json(message.clone()).into_response()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
