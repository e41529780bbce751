//! The client of Khoros' Notifications API, which publishes no response body: what counts as success
//! is in `judge`.

use std::fmt;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::Value;
use url::Url;

use crate::config;

const TIMEOUT: Duration = Duration::from_secs(15);
const BODY_LIMIT: usize = 1 << 20;

#[derive(Clone)]
pub struct Khoros {
    http: reqwest::Client,
    api_url: Url,
    token: SecretString,
}

/// The body of `POST /subscription`. The same `externalId` again updates what is there.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Subscription<'a> {
    pub company_id: u64,
    pub external_id: &'a str,
    pub event_name: &'a str,
    pub notification_uri: &'a str,
    /// A regular expression; without one it is all events of the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<&'a str>,
    pub bearer_token: &'a str,
}

/// Why Khoros did not take a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The token is wrong, expired or revoked.
    Token(&'static str),
    /// There is no such API at this address.
    Address(u16),
    /// 403 is a throttling gateway as often as a missing permission.
    Forbidden,
    /// A JSON answer that says it failed, perhaps with a code.
    Failed(u16, Option<String>),
    /// An HTML page where an API should be, whatever its status.
    Html(u16),
    Unreachable(&'static str),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Token(how) => write!(
                f,
                "Khoros refuses SPREDFAST_API_TOKEN ({how}): copy a new one from Profile Settings in \
                 Khoros, or ask Khoros support to enable it"
            ),
            Refusal::Address(status) => {
                write!(f, "Khoros has no API at SPREDFAST_API_URL (status {status}): check the address")
            }
            Refusal::Forbidden => f.write_str(
                "Khoros answered 403: its gateway is throttling, or the token's user may not subscribe",
            ),
            Refusal::Failed(status, Some(code)) => write!(f, "Khoros answered {status} ({code})"),
            Refusal::Failed(status, None) => write!(f, "Khoros answered {status}"),
            Refusal::Html(status) => {
                write!(f, "Khoros answered an HTML page (status {status}) where its API should be")
            }
            Refusal::Unreachable(how) => write!(f, "Khoros cannot be reached: {how}"),
        }
    }
}

impl Khoros {
    pub fn new(config: &config::Khoros, http: reqwest::Client) -> Khoros {
        Khoros { http, api_url: config.api_url.clone(), token: config.token.clone() }
    }

    /// Creates the subscription, or updates the one of the same `externalId`.
    pub async fn subscribe(&self, subscription: &Subscription<'_>) -> Result<(), Refusal> {
        let url = format!("{}/subscription", self.api_url.as_str().trim_end_matches('/'));
        let request = self
            .http
            .post(url)
            .timeout(TIMEOUT)
            .header("accept", "application/json")
            .bearer_auth(self.token.expose_secret())
            .json(subscription);
        let mut response = request.send().await.map_err(|error| unreachable(&error))?;
        let status = response.status().as_u16();
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok());
        let says_html = kind.is_some_and(|kind| kind.to_ascii_lowercase().contains("html"));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&error))? {
            let room = BODY_LIMIT - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if body.len() == BODY_LIMIT {
                break;
            }
        }
        judge(status, says_html, &body)
    }
}

/// Success is any 2xx with JSON, with plain text (the published example is "Coming Soon"), or with
/// nothing. HTML never is, and neither is JSON that says `status.succeeded: false`.
fn judge(status: u16, says_html: bool, body: &[u8]) -> Result<(), Refusal> {
    let text = String::from_utf8_lossy(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body));
    let json = serde_json::from_str::<Value>(&text).ok();
    let says_failed =
        json.as_ref().is_some_and(|json| json["status"]["succeeded"].to_string().contains("false"));
    let code = json.as_ref().and_then(|json| json["status"]["error"]["code"].as_str());
    let is_html = says_html || text.trim_start().starts_with('<');
    let holds = |words: &str| text.to_ascii_lowercase().contains(words);
    match status {
        401 => Err(Refusal::Token("401")),
        _ if holds("developer inactive") => Err(Refusal::Token("Developer Inactive")),
        _ if code.is_some_and(is_about_the_token) => Err(Refusal::Token("unauthenticated")),
        586 | 596 | 404 | 300..=399 => Err(Refusal::Address(status)),
        500..=599 if holds("service not found") => Err(Refusal::Address(status)),
        _ if is_html => Err(Refusal::Html(status)),
        403 => Err(Refusal::Forbidden),
        200..=299 if !says_failed => Ok(()),
        _ => {
            let plain = |code: &&str| {
                code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            };
            Err(Refusal::Failed(status, code.filter(plain).map(str::to_owned)))
        }
    }
}

/// Khoros documents its codes in upper case and sends them in lower case.
fn is_about_the_token(code: &str) -> bool {
    ["unauthenticated", "account_locked", "password_expired"]
        .iter()
        .any(|known| code.eq_ignore_ascii_case(known))
}

fn unreachable(error: &reqwest::Error) -> Refusal {
    Refusal::Unreachable(match error {
        error if error.is_timeout() => "no answer in time",
        error if error.is_connect() => "no connection (refused, unknown host, or TLS)",
        _ => "the connection broke",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_as_success() {
        for (status, body) in [
            (200, "Coming Soon"),
            (204, ""),
            (201, r#"{"uuid":"8a33e123"}"#),
            (200, r#"{"data":{"uuid":"8a33e123"},"status":{"succeeded":true}}"#),
        ] {
            assert_eq!(judge(status, body.contains("<br>"), body.as_bytes()), Ok(()), "{status} {body}");
        }
        for (status, body, refusal) in [
            (401, "", Refusal::Token("401")),
            (403, "<h1>Developer Inactive</h1>", Refusal::Token("Developer Inactive")),
            (200, "<h1>Developer Inactive</h1>", Refusal::Token("Developer Inactive")),
            (586, "<h1>Service Not Found</h1>", Refusal::Address(586)),
            (307, "", Refusal::Address(307)),
            (200, " <html>", Refusal::Html(200)),
            (200, "\u{feff}<!DOCTYPE html>", Refusal::Html(200)),
            (200, "Please sign in<br>", Refusal::Html(200)),
            (500, "Service Not Found", Refusal::Address(500)),
            (200, r#"{"status":{"succeeded":"false"}}"#, Refusal::Failed(200, None)),
            (403, "Account Over Rate Limit", Refusal::Forbidden),
            (
                200,
                r#"{"status":{"succeeded":false,"error":{"code":"validation_error"}}}"#,
                Refusal::Failed(200, Some("validation_error".to_owned())),
            ),
            (
                400,
                r#"{"status":{"succeeded":false,"error":{"code":"UNAUTHENTICATED"}}}"#,
                Refusal::Token("unauthenticated"),
            ),
            (500, "oops", Refusal::Failed(500, None)),
        ] {
            assert_eq!(
                judge(status, body.contains("<br>"), body.as_bytes()),
                Err(refusal),
                "{status} {body}"
            );
        }
    }
}
