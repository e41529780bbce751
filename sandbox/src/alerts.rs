//! Receivers of notices of alerts: an incoming webhook of Slack, PagerDuty's Events API v2, a webhook receiver of
//! Alertmanager, and an address for heartbeats. Each refuses what its model would refuse.

use std::collections::BTreeSet;
use std::io;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, post};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::faults::process;
pub use crate::faults::{Fault, Faults};
use crate::stand_in::StandIn;

/// The integration key that PagerDuty knows.
pub const PAGERDUTY_KEY: &str = "0123456789abcdefghijABCDEFGHIJ01";
/// The secret part of Slack's address.
pub const SLACK_SECRET: &str = "sandbox-slack-webhook-secret";

/// The state, and what a test changes in the behaviour.
#[derive(Default)]
pub struct Model {
    /// The texts of Slack's channel.
    pub messages: Vec<String>,
    /// The accepted events of PagerDuty.
    pub events: Vec<Value>,
    /// The `dedup_key` of each open incident.
    pub open: BTreeSet<String>,
    /// How many incidents were opened.
    pub opened: usize,
    /// The accepted payloads of Alertmanager.
    pub payloads: Vec<Value>,
    /// The heartbeats: `ok`, or the body of a failure.
    pub beats: Vec<String>,
    /// Requests that were refused, with the reason: defects of the sender.
    pub refused: Vec<String>,
    /// What goes wrong.
    pub faults: Faults,
}

/// The receivers at one address; clones share their state.
pub type Alerts = StandIn<Model>;

type Shared = crate::state::Shared<Model>;

impl StandIn<Model> {
    /// Starts them on a free port of loopback.
    pub async fn start() -> io::Result<Alerts> {
        let model = Model::default();
        StandIn::serve(model, |shared| {
            Router::new()
                .route(&format!("/services/T1/B1/{SLACK_SECRET}"), post(slack))
                .route("/v2/enqueue", post(pagerduty))
                .route("/alertmanager", post(alertmanager))
                .route("/ping", any(heartbeat))
                .route("/ping/fail", any(heartbeat))
                .with_state(shared)
        })
        .await
    }

    /// The address of Slack's incoming webhook.
    pub fn slack(&self) -> String {
        self.url(&format!("/services/T1/B1/{SLACK_SECRET}"))
    }

    /// The address of PagerDuty.
    pub fn pagerduty(&self) -> String {
        self.url("")
    }

    /// The address of Alertmanager's receiver.
    pub fn alertmanager(&self) -> String {
        self.url("/alertmanager")
    }

    /// The address of heartbeats.
    pub fn heartbeat(&self) -> String {
        self.url("/ping")
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// The reason why a body is refused.
type Checked = Result<(), &'static str>;

/// Answers a request with JSON: `take_in` checks it and changes the state.
async fn answer(
    shared: Shared,
    headers: &HeaderMap,
    body: &Bytes,
    take_in: impl FnOnce(&mut Model, &Value) -> Result<Response, &'static str>,
) -> Response {
    let is_json = headers.get(header::CONTENT_TYPE).is_some_and(|value| value == "application/json");
    let json = serde_json::from_slice::<Value>(body).ok().filter(|_| is_json);
    process(
        &shared,
        |model| model.faults.take(),
        |model| {
            let taken = match &json {
                Some(json) => take_in(model, json),
                None => Err("not JSON"),
            };
            taken.unwrap_or_else(|reason| {
                model.refused.push(format!("{reason}: {}", String::from_utf8_lossy(body)));
                (StatusCode::BAD_REQUEST, reason).into_response()
            })
        },
    )
    .await
}

async fn slack(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    answer(shared, &headers, &body, |model, json| {
        let text = json["text"].as_str().filter(|text| !text.is_empty()).ok_or("no_text")?;
        if text.contains("<!") {
            return Err("a mention");
        }
        model.messages.push(text.to_owned());
        Ok("ok".into_response())
    })
    .await
}

async fn pagerduty(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    answer(shared, &headers, &body, |model, json| {
        check_event(json)?;
        let key = json["dedup_key"].as_str().unwrap_or_default().to_owned();
        match json["event_action"].as_str() {
            Some("trigger") => model.opened += usize::from(model.open.insert(key.clone())),
            _ => drop(model.open.remove(&key)),
        }
        model.events.push(json.clone());
        let answer = json!({"status": "success", "message": "Event processed", "dedup_key": key});
        Ok((StatusCode::ACCEPTED, axum::Json(answer)).into_response())
    })
    .await
}

/// Checks an event as PagerDuty documents it
/// (<https://developer.pagerduty.com/docs/send-alert-event>).
fn check_event(json: &Value) -> Checked {
    const FIELDS: &[&str] =
        &["routing_key", "event_action", "dedup_key", "payload", "images", "links", "client", "client_url"];
    const PAYLOAD: &[&str] =
        &["summary", "source", "severity", "timestamp", "component", "group", "class", "custom_details"];
    let text = |value: &Value, most: usize| {
        value.as_str().is_some_and(|text| !text.is_empty() && text.chars().count() <= most)
    };
    let has_only = |value: &Value, known: &[&str]| {
        value.as_object().is_some_and(|object| object.keys().all(|key| known.contains(&key.as_str())))
    };
    let payload = &json["payload"];
    let severity = payload["severity"].as_str().unwrap_or_default();
    let is_time = payload["timestamp"].as_str().is_none_or(|time| time.parse::<Timestamp>().is_ok());
    let checks = [
        (json["routing_key"] == PAGERDUTY_KEY, "Invalid routing key"),
        (["trigger", "acknowledge", "resolve"].iter().any(|it| json["event_action"] == *it), "event_action"),
        (text(&json["dedup_key"], 255), "dedup_key"),
        (text(&payload["summary"], 1024) && text(&payload["source"], 1024), "summary or source"),
        (["critical", "error", "warning", "info"].contains(&severity), "severity"),
        (has_only(json, FIELDS) && has_only(payload, PAYLOAD), "an unknown field"),
        (is_time, "timestamp"),
    ];
    checks.into_iter().find(|(is_right, _)| !is_right).map_or(Ok(()), |(_, reason)| Err(reason))
}

async fn alertmanager(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    answer(shared, &headers, &body, |model, json| {
        check_payload(json)?;
        model.payloads.push(json.clone());
        Ok(StatusCode::OK.into_response())
    })
    .await
}

/// Checks what receivers of Alertmanager's webhooks read, in version 4.
fn check_payload(json: &Value) -> Checked {
    let is_status = |value: &Value| ["firing", "resolved"].iter().any(|status| value == status);
    let is_time = |value: &Value| value.as_str().is_some_and(|time| time.parse::<Timestamp>().is_ok());
    let alerts = json["alerts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_alert = |alert: &Value| {
        is_status(&alert["status"])
            && alert["labels"]["alertname"].is_string()
            && alert["annotations"].is_object()
            && is_time(&alert["startsAt"])
            && is_time(&alert["endsAt"])
            && alert["fingerprint"].is_string()
            && alert["generatorURL"].is_string()
    };
    let checks = [
        (json["version"] == "4" && json["groupKey"].is_string(), "version or groupKey"),
        (is_status(&json["status"]) && json["receiver"].is_string(), "status or receiver"),
        (json["groupLabels"].is_object() && json["commonLabels"].is_object(), "labels"),
        (
            json["commonAnnotations"].is_object() && json["externalURL"].is_string(),
            "annotations or externalURL",
        ),
        (json["truncatedAlerts"].is_u64(), "truncatedAlerts"),
        (!alerts.is_empty() && alerts.iter().all(is_alert), "alerts"),
    ];
    checks.into_iter().find(|(is_right, _)| !is_right).map_or(Ok(()), |(_, reason)| Err(reason))
}

/// `/ping` and `/ping/fail`, by HEAD, GET or POST.
async fn heartbeat(
    State(shared): State<Shared>,
    method: Method,
    uri: axum::http::Uri,
    body: Bytes,
) -> Response {
    let beat = match uri.path() {
        "/ping" => "ok".to_owned(),
        _ => String::from_utf8_lossy(&body).into_owned(),
    };
    process(
        &shared,
        |model| model.faults.take(),
        |model| {
            if ![Method::GET, Method::HEAD, Method::POST].contains(&method) {
                return StatusCode::METHOD_NOT_ALLOWED.into_response();
            }
            model.beats.push(beat);
            "OK".into_response()
        },
    )
    .await
}
