//! A stand-in for Khoros Flow: the broadcast that starts a flow for a list of recipients. It takes the fields that
//! Flow documents and nothing else, since Flow documents no answer to an invalid body.

#[cfg(test)]
mod tests;

use std::io;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Map, Value, json};

use crate::faults::process;
pub use crate::faults::{Chaos, Fault, Faults};
use crate::stand_in::StandIn;

/// The key that it knows unless [`Model::key`] is changed.
pub const API_KEY: &str = "sk_sandbox-flow-key";
const PATH: &str = "/rest/v1/broadcast/instant";
const CHANNELS: &[&str] = &["rbm", "messagemedia", "telekom", "twilio", "whatsapp", "khoros", "messenger"];

/// One request, as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `Authorization`; empty if missing.
    pub authorization: String,
    /// The body; bytes that are not UTF-8 are replaced.
    pub body: String,
}

/// The state of Flow, and what a test changes in its behaviour.
pub struct Model {
    /// Every call of the broadcast in the order of arrival, those that it refused or dropped included.
    pub requests: Vec<Request>,
    /// The broadcasts that it processed, the oldest first.
    pub broadcasts: Vec<Value>,
    /// The API key.
    pub key: String,
    /// Whether the key needs the prefix `Bearer `, as an older version of Flow's documentation says.
    pub requires_bearer: bool,
    /// What goes wrong.
    pub faults: Faults,
}

impl Model {
    fn is_authorized(&self, authorization: &str) -> bool {
        let key = match self.requires_bearer {
            true => authorization.strip_prefix("Bearer "),
            false => Some(authorization),
        };
        key == Some(&self.key)
    }

    fn broadcast(&mut self, request: &Request, content_type: Option<&str>) -> Response {
        if !self.is_authorized(&request.authorization) {
            return refusal(StatusCode::UNAUTHORIZED, "the key is not valid");
        }
        if content_type != Some("application/json") {
            return refusal(StatusCode::BAD_REQUEST, "the content type is not application/json");
        }
        let Ok(body) = serde_json::from_str::<Value>(&request.body) else {
            return refusal(StatusCode::BAD_REQUEST, "the body is not JSON");
        };
        if let Err(reason) = check(&body) {
            return refusal(StatusCode::BAD_REQUEST, &reason);
        }
        self.broadcasts.push(body);
        Json(json!({"status": "ok"})).into_response()
    }
}

/// The stand-in; clones share its state.
pub type Flow = StandIn<Model>;

type Shared = crate::state::Shared<Model>;

impl AsMut<Faults> for Model {
    fn as_mut(&mut self) -> &mut Faults {
        &mut self.faults
    }
}

impl StandIn<Model> {
    /// Starts it on a free port of loopback.
    pub async fn start() -> io::Result<Flow> {
        let model = Model {
            requests: Vec::new(),
            broadcasts: Vec::new(),
            key: API_KEY.to_owned(),
            requires_bearer: false,
            faults: Faults::default(),
        };
        StandIn::serve(model, |shared| {
            Router::new()
                .route(PATH, post(receive))
                .fallback(|| async { refusal(StatusCode::NOT_FOUND, "there is no such endpoint") })
                .with_state(shared)
        })
        .await
    }

    /// Its address, which stands for `https://api.flow.ai`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The address of the broadcast.
    pub fn broadcast_url(&self) -> String {
        format!("{}{PATH}", self.url())
    }
}

/// `POST /rest/v1/broadcast/instant`
async fn receive(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let request = Request {
        authorization: text(header::AUTHORIZATION).unwrap_or_default().to_owned(),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let take = |model: &mut Model| {
        model.requests.push(request.clone());
        model.faults.take()
    };
    process(&shared, take, |model| model.broadcast(&request, text(header::CONTENT_TYPE))).await
}

fn refusal(status: StatusCode, reason: &str) -> Response {
    (status, Json(json!({"status": "error", "message": reason}))).into_response()
}

type Checked = Result<(), String>;

/// Checks the body of a broadcast.
fn check(body: &Value) -> Checked {
    let fields = object("body", body, &["audience", "channel", "payload"])?;
    let audience = fields.get("audience").and_then(Value::as_array).filter(|audience| !audience.is_empty());
    audience.ok_or("audience is missing")?.iter().try_for_each(check_originator)?;
    check_channel(fields.get("channel").unwrap_or(&Value::Null))?;
    check_payload(fields.get("payload").unwrap_or(&Value::Null))
}

fn check_originator(originator: &Value) -> Checked {
    let fields = object("audience", originator, &["name", "phoneNumber", "identifier", "profile"])?;
    text(fields, "name")?;
    match (fields.get("phoneNumber"), fields.get("identifier")) {
        (None, None) => return Err("phoneNumber or identifier is missing".to_owned()),
        (Some(_), _) if !is_phone_number(text(fields, "phoneNumber")?) => {
            return Err("phoneNumber is not in the format E.164".to_owned());
        }
        (_, Some(_)) => _ = text(fields, "identifier")?,
        _ => {}
    }
    text_or_object(fields, "profile")
}

fn check_channel(channel: &Value) -> Checked {
    let fields = object("channel", channel, &["channelName", "externalId"])?;
    text(fields, "externalId")?;
    match CHANNELS.contains(&text(fields, "channelName")?) {
        true => Ok(()),
        false => Err("channelName is unknown".to_owned()),
    }
}

/// An event needs its name, and a text needs its words; neither has what belongs to the other.
fn check_payload(payload: &Value) -> Checked {
    let kind = payload["type"].as_str().unwrap_or_default();
    let content = match kind {
        "event" => "eventName",
        "text" => "speech",
        _ => return Err("payload.type is neither event nor text".to_owned()),
    };
    let fields = object("payload", payload, &["type", content, "metadata"])?;
    text(fields, content)?;
    fields.get("metadata").map_or(Ok(()), check_metadata)
}

fn check_metadata(metadata: &Value) -> Checked {
    let fields = object("metadata", metadata, &["language", "timezone", "params"])?;
    text_or_object(fields, "language")?;
    text_or_object(fields, "timezone")?;
    let Some(params) = fields.get("params") else { return Ok(()) };
    let params = params.as_object().ok_or("params is not an object")?;
    for (name, values) in params {
        let values = values.as_array().filter(|values| !values.is_empty());
        for value in values.ok_or_else(|| format!("params.{name} is not an array of values"))? {
            let value = object(name, value, &["value"])?.get("value");
            if !value.is_some_and(Value::is_string) {
                return Err(format!("params.{name} has a value that is not a text"));
            }
        }
    }
    Ok(())
}

/// The fields of an object that has no others than these.
fn object<'a>(name: &str, value: &'a Value, known: &[&str]) -> Result<&'a Map<String, Value>, String> {
    let fields = value.as_object().ok_or_else(|| format!("{name} is not an object"))?;
    match fields.keys().find(|field| !known.contains(&field.as_str())) {
        Some(unknown) => Err(format!("{name} has an unknown field: {unknown}")),
        None => Ok(fields),
    }
}

/// A mandatory text.
fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    let text = fields.get(name).and_then(Value::as_str).filter(|text| !text.trim().is_empty());
    text.ok_or_else(|| format!("{name} is missing"))
}

/// An optional field of which Flow's schema and its examples say different types.
fn text_or_object(fields: &Map<String, Value>, name: &str) -> Checked {
    let is_valid = fields.get(name).is_none_or(|value| value.is_string() || value.is_object());
    is_valid.then_some(()).ok_or_else(|| format!("{name} is neither a text nor an object"))
}

/// E.164: a plus sign, and up to 15 digits of which the first is not 0.
fn is_phone_number(text: &str) -> bool {
    let digits = text.strip_prefix('+').unwrap_or_default();
    (2..=15).contains(&digits.len())
        && !digits.starts_with('0')
        && digits.bytes().all(|byte| byte.is_ascii_digit())
}
