//! Credentials: the API token, and OAuth tokens with their scopes.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::answer::{error_page, refusal, too_many, unauthorized};
use super::limits::with_rate;
use super::{ACCESS_TOKEN, API_TOKEN, CLIENT_ID, CLIENT_SECRET, Fault, Model, Shared, USER_EMAIL};

impl Shared {
    /// Refuses a request without a valid credential that has one of these scopes, and one beyond the limit.
    pub(super) fn refuse(&self, headers: &HeaderMap, scopes: &[&str]) -> Option<Response> {
        self.change(|model| {
            if model.faults.front() == Some(&Fault::Unauthorized) {
                model.faults.pop_front();
                model.void = model.minted;
            }
            let Some(granted) = model.granted(headers) else { return Some(unauthorized()) };
            let suffices = granted.split(' ').any(|scope| scopes.contains(&scope));
            if !model.use_one() {
                return Some(too_many(model.reset()));
            }
            let text = "The token lacks the scope for this";
            (!suffices).then(|| with_rate(model, "", refusal(StatusCode::FORBIDDEN, "Forbidden", text)))
        })
    }
}

impl Model {
    /// The scopes of the credential, if it is valid.
    fn granted(&self, headers: &HeaderMap) -> Option<&str> {
        let authorization = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        if self.outage == Some(Fault::Unauthorized) {
            return None;
        }
        if authorization == basic(&format!("{USER_EMAIL}/token:{API_TOKEN}")) {
            return Some("read write");
        }
        let number = authorization.strip_prefix(&format!("Bearer {ACCESS_TOKEN}-"))?.parse::<u32>().ok()?;
        let scope = self.granted.get(number.checked_sub(1)? as usize)?;
        (number > self.void).then_some(scope)
    }
}

/// `POST /oauth/tokens`: not under `/api/v2`, and JSON.
pub(super) async fn mint(State(shared): State<Shared>, Json(body): Json<Value>) -> Response {
    shared.change(|model| {
        match &model.outage {
            Some(Fault::Status(status)) => return error_page(*status),
            Some(Fault::TooMany(seconds)) => return too_many(*seconds),
            Some(Fault::Unauthorized) => {
                return refusal(StatusCode::UNAUTHORIZED, "invalid_client", "Client authentication failed");
            }
            _ => {}
        }
        if body["client_id"] != CLIENT_ID || body["client_secret"] != CLIENT_SECRET {
            return refusal(StatusCode::UNAUTHORIZED, "invalid_client", "Client authentication failed");
        }
        let life = body["expires_in"].as_u64();
        if body["grant_type"] != "client_credentials" || life.is_none_or(|s| s <= 300 || s >= 172_800) {
            return refusal(StatusCode::BAD_REQUEST, "invalid_request", "grant_type or expires_in");
        }
        let scope = body["scope"].as_str().unwrap_or_default();
        if scope.split(' ').any(|scope| !model.scopes.contains(scope)) {
            return refusal(StatusCode::BAD_REQUEST, "invalid_scope", "The requested scope is invalid");
        }
        model.minted += 1;
        let granted: Vec<&str> = scope.split(' ').filter(|scope| !model.withheld.contains(scope)).collect();
        let scope = granted.join(" ");
        model.granted.push(scope.clone());
        let token = format!("{ACCESS_TOKEN}-{}", model.minted);
        let token =
            json!({"access_token": token, "token_type": "bearer", "scope": scope, "expires_in": life});
        (StatusCode::CREATED, Json(token)).into_response()
    })
}

/// The header of `user:password`.
fn basic(credential: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(credential))
}
