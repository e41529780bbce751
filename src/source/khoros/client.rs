//! The client of Khoros' Notifications API. Khoros publishes no response body: `judge` decides what counts as
//! success, and [`Refusal::NotOffered`] stands for everything that a server need not have.

mod account;
mod feed;
mod pages;
mod remote;

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use url::Url;

use crate::source::khoros::settings::KhorosSettings;
use crate::{connect, json};
pub use account::{Company, Label, TokenUser, token_expiry};
pub use remote::{RemoteStatus, RemoteSubscription};

const TIMEOUT: Duration = Duration::from_secs(15);
const BODY_LIMIT: usize = 16 << 20;
/// If Khoros asks for a longer wait, we ask again after this many seconds anyway.
const LONGEST_WAIT_SECS: u64 = 3600;

#[derive(Clone)]
pub struct Khoros {
    http: reqwest::Client,
    api_url: Url,
    token: SecretString,
}

/// The body of `POST /subscription`. A second POST with the same `externalId` updates the subscription.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionRequest<'a> {
    pub company_id: u64,
    pub external_id: &'a str,
    pub event_name: &'a str,
    /// Without one, Khoros pushes nothing and keeps the events in the feed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notification_uri: Option<&'a str>,
    /// A regular expression; without one, Khoros sends all events of the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bearer_token: Option<&'a str>,
}

/// Why Khoros did not do what we asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "Khoros refuses SPREDFAST_API_TOKEN ({0}): copy a new one from Profile Settings in Khoros, or ask Khoros \
         support to enable API access"
    )]
    Token(&'static str),
    #[error("Khoros has no API at SPREDFAST_API_URL (status {0}): check the address")]
    Address(u16),
    /// 403 is a throttling gateway as often as a missing permission.
    #[error("Khoros answered 403: its gateway is throttling, or the token's user may not subscribe")]
    Forbidden,
    /// The gateway counted too many calls, and perhaps says how long to wait.
    #[error("Khoros' gateway says that there were too many calls")]
    Throttled(Option<Duration>),
    /// A JSON answer that reports a failure, perhaps with a code.
    #[error(
        "Khoros answered {0}{code}",
        code = .1.as_ref().map(|code| format!(" ({code})")).unwrap_or_default()
    )]
    Failed(u16, Option<String>),
    /// An HTML page where an API should be, whatever its status.
    #[error("Khoros answered an HTML page (status {0}) where its API should be")]
    Html(u16),
    /// The answer has nothing of the expected kind, as the published example "Coming Soon".
    #[error("Khoros does not offer this at SPREDFAST_API_URL")]
    NotOffered,
    /// The answer is too long to be taken into memory, or is JSON that nests too deeply.
    #[error("Khoros' answer is too long")]
    TooLarge,
    #[error("Khoros (SPREDFAST_API_URL) cannot be reached: {0}")]
    Unreachable(String),
}

impl Khoros {
    pub fn new(config: &KhorosSettings, http: reqwest::Client) -> Khoros {
        Khoros { http, api_url: config.api_url.clone(), token: config.token.clone() }
    }

    /// Creates the subscription, or updates the one with the same `externalId`. Returns its uuid if the
    /// answer has one.
    ///
    /// # Errors
    /// [`Refusal`]; Khoros may have created the subscription anyway.
    pub async fn subscribe(&self, subscription: &SubscriptionRequest<'_>) -> Result<Option<String>, Refusal> {
        let request = self.request(Method::POST, &["subscription"]).json(subscription);
        let answer = self.answer(request).await?;
        Ok(answer.and_then(|answer| remote::uuid_in(&answer).or_else(|| remote::uuid_in(&answer["data"]))))
    }

    /// Lists all subscriptions that the token's user may see.
    ///
    /// # Errors
    /// [`Refusal::NotOffered`] if the server has no list: v1 is only known to have the POST, and v2 publishes
    /// no answer.
    pub async fn subscriptions(&self) -> Result<Vec<RemoteSubscription>, Refusal> {
        let address = self.address(&["subscription"]);
        let listed = pages::all(self, &address).await.map_err(Refusal::of_an_optional_call)?;
        let remote: Vec<RemoteSubscription> = listed.iter().filter_map(RemoteSubscription::read).collect();
        // Without names, the entries cannot be compared with ours.
        if remote.is_empty() && !listed.is_empty() {
            return Err(Refusal::NotOffered);
        }
        Ok(remote)
    }

    /// # Errors
    /// [`Refusal`]; 404 and 422 as [`Refusal::Failed`].
    pub async fn set_status(&self, uuid: &str, status: RemoteStatus) -> Result<(), Refusal> {
        let request = self.request(Method::PUT, &["subscription", uuid, status.as_str()]);
        match self.answer(request).await {
            Err(Refusal::Address(status)) => Err(Refusal::Failed(status, None)),
            answered => answered.map(drop),
        }
    }

    /// A request to a path under the address of the events API.
    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.http.request(method, self.address(path))
    }

    fn address(&self, path: &[&str]) -> Url {
        let mut address = self.api_url.clone();
        if let Ok(mut segments) = address.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        address
    }

    /// The JSON of a successful answer, if there is any.
    async fn answer(&self, request: RequestBuilder) -> Result<Option<Value>, Refusal> {
        let request = request
            .timeout(TIMEOUT)
            .header("accept", "application/json")
            .bearer_auth(self.token.expose_secret());
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let says_html = header("content-type").is_some_and(|kind| kind.to_ascii_lowercase().contains("html"));
        let gateway = header("x-mashery-error-code").unwrap_or_default().to_owned();
        let wait = header("retry-after").and_then(|seconds| seconds.trim().parse().ok());
        let wait = wait.map(|seconds: u64| Duration::from_secs(seconds.min(LONGEST_WAIT_SECS)));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > BODY_LIMIT {
                return Err(Refusal::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        match judge(status, says_html, &gateway, &body) {
            Err(Refusal::Throttled(None)) => Err(Refusal::Throttled(wait)),
            judged => judged,
        }
    }
}

impl Refusal {
    /// Reads these statuses as "this server does not have the call". Only for calls other than the POST,
    /// which every server has, so that its refusal means a wrong address.
    fn of_an_optional_call(self) -> Refusal {
        match self {
            Refusal::Address(_) | Refusal::Failed(405 | 501, _) | Refusal::Html(405 | 501) => {
                Refusal::NotOffered
            }
            other => other,
        }
    }

    /// How long Khoros asks us to wait before the next call.
    pub fn requested_wait(&self) -> Duration {
        match self {
            Refusal::Throttled(Some(wait)) => *wait,
            _ => Duration::ZERO,
        }
    }
}

fn unreachable(error: reqwest::Error) -> Refusal {
    Refusal::Unreachable(connect::reason(&error))
}

/// Decides whether an answer is a success: any 2xx with JSON, with plain text (the published example is
/// "Coming Soon") or without a body. HTML never is, and neither is JSON with `status.succeeded: false`.
fn judge(status: u16, says_html: bool, gateway: &str, body: &[u8]) -> Result<Option<Value>, Refusal> {
    let text = String::from_utf8_lossy(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body));
    // A feed repeats what people wrote: half an emoji in a post must not cost us the page.
    let json = json::read(&text);
    let is_json = json.is_some() || serde_json::from_str::<IgnoredAny>(&text).is_ok();
    let says_failed =
        json.as_ref().is_some_and(|json| json["status"]["succeeded"].to_string().contains("false"));
    let code = json.as_ref().and_then(|json| json["status"]["error"]["code"].as_str());
    let is_html = says_html || text.trim_start().starts_with('<');
    // In a feed, these words may come from a post and then say nothing about the answer.
    let is_refusal = !(200..=299).contains(&status) || !is_json || says_failed;
    let holds = |phrase: &str| is_refusal && text.to_ascii_lowercase().contains(phrase);
    let is_throttled = || gateway.contains("OVER_") || holds("account over") || holds("rate limit exceeded");
    match status {
        401 => Err(Refusal::Token("401")),
        _ if holds("developer inactive") => Err(Refusal::Token("Developer Inactive")),
        _ if code.is_some_and(is_about_the_token) => Err(Refusal::Token("unauthenticated")),
        586 | 596 | 404 | 300..=399 => Err(Refusal::Address(status)),
        500..=599 if holds("service not found") => Err(Refusal::Address(status)),
        429 => Err(Refusal::Throttled(None)),
        403 if is_throttled() => Err(Refusal::Throttled(None)),
        _ if is_html => Err(Refusal::Html(status)),
        403 => Err(Refusal::Forbidden),
        200..=299 if is_json && json.is_none() => Err(Refusal::TooLarge),
        200..=299 if !says_failed => Ok(json),
        _ => {
            let plain = |code: &&str| {
                code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            };
            Err(Refusal::Failed(status, code.filter(plain).map(str::to_owned)))
        }
    }
}

/// Whether a code concerns the token. Khoros documents its codes in upper case and sends them in lower case.
fn is_about_the_token(code: &str) -> bool {
    ["unauthenticated", "account_locked", "password_expired"]
        .iter()
        .any(|known| code.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_is_2xx_without_html_or_failure() {
        for (status, body) in [
            (200, "Coming Soon"),
            (204, ""),
            (201, r#"{"uuid":"8a33e123"}"#),
            (200, r#"{"data":{"uuid":"8a33e123"},"status":{"succeeded":true}}"#),
        ] {
            let judged = judge(status, body.contains("<br>"), "", body.as_bytes());
            assert_eq!(judged, Ok(serde_json::from_str(body).ok()), "{status} {body}");
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
            (403, "Account Over Rate Limit", Refusal::Throttled(None)),
            (403, "", Refusal::Forbidden),
            (429, "", Refusal::Throttled(None)),
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
                judge(status, body.contains("<br>"), "", body.as_bytes()),
                Err(refusal),
                "{status} {body}"
            );
        }
    }

    /// Many servers answer a missing method with an HTML page.
    #[test]
    fn a_missing_call_is_not_offered() {
        for (status, body) in [(404, ""), (405, ""), (405, "<html>Method Not Allowed"), (501, "<html>")] {
            let refusal = judge(status, body.contains("<html>"), "", body.as_bytes()).unwrap_err();
            assert_eq!(refusal.of_an_optional_call(), Refusal::NotOffered, "{status} {body}");
        }
    }

    #[test]
    fn words_of_a_post_are_not_words_of_khoros() {
        let feed = br#"[{"eventName":"rule-applied","data":{"text":"Developer Inactive"}}]"#;
        assert!(judge(200, false, "", feed).is_ok());
        let half_an_emoji = br#"[{"data":{"text":"cut \ud83d"}}]"#;
        assert!(matches!(judge(200, false, "", half_an_emoji), Ok(Some(_))));
        let deep = format!("{}\"Developer Inactive\"{}", "[".repeat(200), "]".repeat(200));
        assert_eq!(judge(200, false, "", deep.as_bytes()), Err(Refusal::TooLarge));
        assert_eq!(judge(403, false, "ERR_403_DEVELOPER_OVER_QPS", b"{}"), Err(Refusal::Throttled(None)));
    }
}
