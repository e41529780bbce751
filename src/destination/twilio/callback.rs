//! `POST /twilio/status`: Twilio reports the status of a text.
//!
//! Each report is signed with the auth token:
//! <https://www.twilio.com/docs/usage/security#validating-requests>.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use sha1::Sha1;
use subtle::ConstantTimeEq;
use tracing::warn;
use url::form_urlencoded;

use super::Twilio;
use super::status::SenderBlock;
use crate::alert::Reminder;
use crate::ledger::{Memos, StorageError};

/// The path of the endpoint.
pub const PATH: &str = "/twilio/status";
/// The largest report, in bytes.
const BODY_LIMIT: usize = 64 << 10;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The fields of a report, by name.
type Fields = BTreeMap<String, String>;

struct Reports {
    /// The address as Twilio calls it.
    url: String,
    auth_token: SecretString,
    sender: Arc<SenderBlock>,
    memos: Memos,
    /// Limits the log lines about reports with a wrong signature.
    refused: Mutex<Reminder>,
}

/// The endpoint, if it is switched on.
pub fn router(twilio: &Twilio, memos: Memos) -> Router {
    let settings = &twilio.settings;
    let (Some(url), Some(auth_token)) = (&settings.status_callback, &settings.auth_token) else {
        return Router::new();
    };
    let reports = Reports {
        url: url.to_string(),
        auth_token: auth_token.clone(),
        sender: twilio.sender.clone(),
        memos,
        refused: Mutex::default(),
    };
    Router::new().route(PATH, post(receive)).with_state(Arc::new(reports))
}

async fn receive(State(reports): State<Arc<Reports>>, request: Request) -> StatusCode {
    let (parts, body) = request.into_parts();
    let Some(fields) = read(body).await else { return StatusCode::BAD_REQUEST };
    if !reports.is_signed(&parts.headers, &fields) {
        if reports.refused.lock().is_due("signature", Instant::now()) {
            warn!(
                event = "status_report_refused",
                "a report has a wrong signature: check TWILIO_AUTH_TOKEN, and that Twilio calls PUBLIC_URL"
            );
        }
        return StatusCode::FORBIDDEN;
    }
    match reports.store(&fields).await {
        Ok(()) => StatusCode::NO_CONTENT,
        // Without it, the status is read a minute after the text.
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn read(body: Body) -> Option<Fields> {
    let bytes = tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, BODY_LIMIT)).await.ok()?.ok()?;
    Some(form_urlencoded::parse(&bytes).into_owned().collect())
}

impl Reports {
    fn is_signed(&self, headers: &HeaderMap, fields: &Fields) -> bool {
        let given = headers.get("x-twilio-signature").map(|value| value.as_bytes()).unwrap_or_default();
        signature(self.auth_token.expose_secret(), &self.url, fields).as_bytes().ct_eq(given).into()
    }

    async fn store(&self, fields: &Fields) -> Result<(), StorageError> {
        let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
        // An early report may come before the delivery is settled; then the status is read later.
        let Some(delivery) = self.memos.find_reference(field("To"), field("MessageSid")).await? else {
            return Ok(());
        };
        let error = field("ErrorCode").parse().unwrap_or(0);
        self.sender.note(&self.memos, &delivery, field("MessageStatus"), error).await
    }
}

/// The value of `X-Twilio-Signature`: over the address, and each field with its value, sorted by name.
fn signature(auth_token: &str, url: &str, fields: &Fields) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(auth_token.as_bytes()) else { return String::new() };
    mac.update(url.as_bytes());
    for (name, value) in fields {
        mac.update(name.as_bytes());
        mac.update(value.as_bytes());
    }
    STANDARD.encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Twilio's documentation.
    #[test]
    fn signatures_are_those_of_twilio() {
        let fields = [
            ("CallSid", "CA1234567890ABCDE"),
            ("Caller", "+12349013030"),
            ("Digits", "1234"),
            ("From", "+12349013030"),
            ("To", "+18005551212"),
        ];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let url = "https://mycompany.com/myapp.php?foo=1&bar=2";
        assert_eq!(signature("12345", url, &fields), "0/KCTR6DLpKmkAf8muzZqo1nDgQ=");
    }
}
