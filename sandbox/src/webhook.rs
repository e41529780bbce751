//! A receiver of signed webhooks, as <https://www.standardwebhooks.com> specifies them. It verifies signature and
//! age of each request, and recognizes repeated requests by their `webhook-id`.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use sha2::Sha256;

use crate::faults::process;
pub use crate::faults::{Chaos, Fault, Faults};
use crate::stand_in::StandIn;

/// The secret that it knows unless [`Model::secrets`] is changed.
pub const SECRET: &str = "whsec_c2FuZGJveC13ZWJob29rLXNlY3JldC0zMi1ieXRlcyE=";
/// The libraries of the specification take timestamps that are at most five minutes off.
const TOLERANCE: SignedDuration = SignedDuration::from_mins(5);
const PATH: &str = "/hook";

/// One request, as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `webhook-id`; empty if missing.
    pub id: String,
    /// `webhook-timestamp`; empty if missing.
    pub timestamp: String,
    /// `webhook-signature`, with all its signatures; empty if missing.
    pub signature: String,
    /// `content-type`; empty if missing.
    pub content_type: String,
    /// The body; bytes that are not UTF-8 are replaced.
    pub body: String,
    /// Whether the request was verified and processed.
    pub is_accepted: bool,
}

/// The state of the receiver, and what a test changes in its behaviour.
pub struct Model {
    /// Every request to its address in the order of arrival, those that it refused or dropped included.
    pub requests: Vec<Request>,
    /// The secrets that it knows. A signature by any of them is valid.
    pub secrets: Vec<String>,
    /// How far its clock is ahead.
    pub clock_ahead: SignedDuration,
    /// Requests whose body contains this text are answered 400.
    pub refused: Option<String>,
    /// What goes wrong.
    pub faults: Faults,
}

impl Model {
    /// The accepted requests without repetitions: what the receiver acts on.
    pub fn events(&self) -> Vec<&Request> {
        let mut ids = BTreeSet::new();
        self.accepted().filter(|request| ids.insert(&request.id)).collect()
    }

    /// The number of ids among the accepted requests.
    pub fn distinct_ids(&self) -> usize {
        self.accepted().map(|request| &request.id).collect::<BTreeSet<_>>().len()
    }

    /// The number of requests, whatever became of them.
    pub fn sends(&self) -> usize {
        self.requests.len()
    }

    /// The number of requests with this id, whatever became of them.
    pub fn sends_of(&self, id: &str) -> usize {
        self.requests.iter().filter(|request| request.id == id).count()
    }

    /// The number of accepted requests whose id came with another body before: a defect of the sender.
    pub fn changed_bodies(&self) -> usize {
        let events = self.events();
        let is_changed = |request: &&Request| {
            events.iter().any(|event| event.id == request.id && event.body != request.body)
        };
        self.accepted().filter(is_changed).count()
    }

    fn accepted(&self) -> impl Iterator<Item = &Request> {
        self.requests.iter().filter(|request| request.is_accepted)
    }

    /// Verifies a request as the specification demands of receivers.
    fn verify(&self, request: &Request, body: &[u8]) -> Result<(), (StatusCode, &'static str)> {
        let bad = |text| Err((StatusCode::BAD_REQUEST, text));
        let is_json = ["application/json", "application/cloudevents+json"]
            .contains(&request.content_type.split(';').next().unwrap_or_default().trim());
        if request.id.is_empty() || request.timestamp.is_empty() || request.signature.is_empty() {
            return bad("a header is missing");
        }
        if request.id.contains('.') {
            return bad("webhook-id contains a full stop");
        }
        let Some(sent_at) = seconds(&request.timestamp) else {
            return bad("webhook-timestamp is not in seconds");
        };
        let now = Timestamp::now().saturating_add(self.clock_ahead).unwrap_or_default();
        if now.duration_since(sent_at).abs() > TOLERANCE {
            return bad("webhook-timestamp is too far off");
        }
        let is_signed = request.signature.split(' ').any(|listed| {
            self.secrets.iter().any(|secret| is_valid(listed, secret, &request.id, &request.timestamp, body))
        });
        if !is_signed {
            return Err((StatusCode::UNAUTHORIZED, "no signature is valid"));
        }
        if self.refused.as_ref().is_some_and(|refused| request.body.contains(refused)) {
            return bad("the content is refused");
        }
        if !is_json || serde_json::from_slice::<Value>(body).is_err() {
            return bad("the body is not JSON");
        }
        Ok(())
    }
}

/// The receiver; clones share its state.
pub type Webhook = StandIn<Model>;

type Shared = crate::state::Shared<Model>;

impl AsMut<Faults> for Model {
    fn as_mut(&mut self) -> &mut Faults {
        &mut self.faults
    }
}

impl StandIn<Model> {
    /// Starts it on a free port of loopback.
    pub async fn start() -> io::Result<Webhook> {
        let model = Model {
            requests: Vec::new(),
            secrets: vec![SECRET.to_owned()],
            clock_ahead: SignedDuration::ZERO,
            refused: None,
            faults: Faults::default(),
        };
        StandIn::serve(model, |shared| Router::new().route(PATH, post(receive)).with_state(shared)).await
    }

    /// The address to send webhooks to; every other path is answered 404.
    pub fn url(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }
}

async fn receive(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let text = |name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let request = Request {
        id: text("webhook-id"),
        timestamp: text("webhook-timestamp"),
        signature: text("webhook-signature"),
        content_type: text(header::CONTENT_TYPE.as_str()),
        body: String::from_utf8_lossy(&body).into_owned(),
        is_accepted: false,
    };
    let take = |model: &mut Model| {
        model.requests.push(request.clone());
        model.faults.take()
    };
    process(&shared, take, |model| match model.verify(&request, &body) {
        Ok(()) => {
            if let Some(newest) = model.requests.last_mut() {
                newest.is_accepted = true;
            }
            StatusCode::NO_CONTENT.into_response()
        }
        Err(refusal) => refusal.into_response(),
    })
    .await
}

/// The time of `webhook-timestamp`: a whole number of Unix seconds.
fn seconds(timestamp: &str) -> Option<Timestamp> {
    let is_number = timestamp.bytes().all(|byte| byte.is_ascii_digit());
    Timestamp::from_second(timestamp.parse().ok().filter(|_| is_number)?).ok()
}

/// Whether `v1,…` is the signature of the request by this secret.
fn is_valid(listed: &str, secret: &str, id: &str, timestamp: &str, body: &[u8]) -> bool {
    let Some(signature) = listed.strip_prefix("v1,").and_then(|text| BASE64_STANDARD.decode(text).ok())
    else {
        return false;
    };
    signed(secret, id, timestamp, body).is_some_and(|mac| mac.verify_slice(&signature).is_ok())
}

/// The HMAC of the signed content; none if the secret has no valid key.
fn signed(secret: &str, id: &str, timestamp: &str, body: &[u8]) -> Option<Hmac<Sha256>> {
    let key = BASE64_STANDARD.decode(secret.strip_prefix("whsec_")?).ok()?;
    // The specification's bounds, in bytes.
    let key = Some(key).filter(|key| (24..=64).contains(&key.len()))?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
    Some(mac)
}
