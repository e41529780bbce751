//! The client of Khoros' Notifications API, which publishes no response body: what counts as success
//! is in `judge`, and what no server has to offer is [`Refusal::NotOffered`].

mod account;
mod feed;
mod pages;
mod remote;

use std::fmt;
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use url::Url;

use crate::connect::NoConnection;
use crate::{config, notification};
pub use account::{Company, Label, User};
pub use remote::{RemoteSubscription, Status};

const TIMEOUT: Duration = Duration::from_secs(15);
const BODY_LIMIT: usize = 16 << 20;
/// Asked to wait longer than this, we ask again all the same.
const LONGEST_WAIT: u64 = 3600;

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
    /// Without one nothing is pushed, and the events are in the feed alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notification_uri: Option<&'a str>,
    /// A regular expression; without one it is all events of the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bearer_token: Option<&'a str>,
}

/// Why Khoros did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The token is wrong, expired or revoked.
    Token(&'static str),
    /// There is no such API at this address.
    Address(u16),
    /// 403 is a throttling gateway as often as a missing permission.
    Forbidden,
    /// The gateway says that there were too many calls, and perhaps how long to wait.
    Throttled(Option<Duration>),
    /// A JSON answer that says it failed, perhaps with a code.
    Failed(u16, Option<String>),
    /// An HTML page where an API should be, whatever its status.
    Html(u16),
    /// The answer holds nothing of what was asked for, as with the published example "Coming Soon".
    NotOffered,
    /// The answer is too long to be taken into memory, or is JSON that nests too deeply.
    TooLarge,
    Unreachable(&'static str),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Token(how) => write!(
                f,
                "Khoros refuses SPREDFAST_API_TOKEN ({how}): copy a new one from Profile Settings in \
                 Khoros, or ask Khoros support to enable API access"
            ),
            Refusal::Address(status) => {
                write!(f, "Khoros has no API at SPREDFAST_API_URL (status {status}): check the address")
            }
            Refusal::Forbidden => f.write_str(
                "Khoros answered 403: its gateway is throttling, or the token's user may not subscribe",
            ),
            Refusal::Throttled(_) => f.write_str("Khoros' gateway says that there were too many calls"),
            Refusal::Failed(status, Some(code)) => write!(f, "Khoros answered {status} ({code})"),
            Refusal::Failed(status, None) => write!(f, "Khoros answered {status}"),
            Refusal::Html(status) => {
                write!(f, "Khoros answered an HTML page (status {status}) where its API should be")
            }
            Refusal::NotOffered => f.write_str("Khoros does not offer this at SPREDFAST_API_URL"),
            Refusal::TooLarge => f.write_str("Khoros' answer is too long"),
            Refusal::Unreachable(how) => write!(f, "Khoros (SPREDFAST_API_URL) cannot be reached: {how}"),
        }
    }
}

impl Khoros {
    pub fn new(config: &config::KhorosSettings, http: reqwest::Client) -> Khoros {
        Khoros { http, api_url: config.api_url.clone(), token: config.token.clone() }
    }

    /// Creates the subscription, or updates the one of the same `externalId`. Returns its uuid, if Khoros
    /// tells it.
    ///
    /// # Errors
    /// [`Refusal`]; then it may have been made all the same.
    pub async fn subscribe(&self, subscription: &Subscription<'_>) -> Result<Option<String>, Refusal> {
        let request = self.request(Method::POST, &["subscription"]).json(subscription);
        let answer = self.answer(request).await?;
        Ok(answer.and_then(|answer| remote::uuid_in(&answer).or_else(|| remote::uuid_in(&answer["data"]))))
    }

    /// All subscriptions that the token's user is shown.
    ///
    /// # Errors
    /// [`Refusal::NotOffered`] if the server shows none: only the POST is known of the v1 address, and
    /// v2 publishes no answer.
    pub async fn subscriptions(&self) -> Result<Vec<RemoteSubscription>, Refusal> {
        let address = self.address(&["subscription"]);
        let listed = pages::all(self, &address).await.map_err(Refusal::of_an_optional_call)?;
        let remote: Vec<RemoteSubscription> = listed.iter().filter_map(RemoteSubscription::read).collect();
        // Entries without a name show nothing of what there is.
        if remote.is_empty() && !listed.is_empty() {
            return Err(Refusal::NotOffered);
        }
        Ok(remote)
    }

    /// # Errors
    /// [`Refusal`]; 404 and 422 as [`Refusal::Failed`].
    pub async fn set_status(&self, uuid: &str, status: Status) -> Result<(), Refusal> {
        let request = self.request(Method::PUT, &["subscription", uuid, status.word()]);
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
        let mut response = request.send().await.map_err(|error| unreachable(&error))?;
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let says_html = header("content-type").is_some_and(|kind| kind.to_ascii_lowercase().contains("html"));
        let gateway = header("x-mashery-error-code").unwrap_or_default().to_owned();
        let wait = header("retry-after").and_then(|seconds| seconds.trim().parse().ok());
        let wait = wait.map(|seconds: u64| Duration::from_secs(seconds.min(LONGEST_WAIT)));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&error))? {
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
    /// Whether a path is known at all is told by the one call that is known everywhere, the POST. So of
    /// any other call these statuses say only that this server does not have it.
    fn of_an_optional_call(self) -> Refusal {
        match self {
            Refusal::Address(_) | Refusal::Failed(405 | 501, _) | Refusal::Html(405 | 501) => {
                Refusal::NotOffered
            }
            other => other,
        }
    }
}

/// Success is any 2xx with JSON, with plain text (the published example is "Coming Soon"), or with
/// nothing. HTML never is, and neither is JSON that says `status.succeeded: false`.
fn judge(status: u16, says_html: bool, gateway: &str, body: &[u8]) -> Result<Option<Value>, Refusal> {
    let text = String::from_utf8_lossy(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body));
    // A feed repeats what people wrote, and a lone half of an emoji in it is no reason to lose a page.
    let json = notification::read(&text);
    let is_json = json.is_some() || serde_json::from_str::<IgnoredAny>(&text).is_ok();
    let says_failed =
        json.as_ref().is_some_and(|json| json["status"]["succeeded"].to_string().contains("false"));
    let code = json.as_ref().and_then(|json| json["status"]["error"]["code"].as_str());
    let is_html = says_html || text.trim_start().starts_with('<');
    // What an event says of itself in a feed says nothing of the answer.
    let is_refusal = !(200..=299).contains(&status) || !is_json || says_failed;
    let holds = |words: &str| is_refusal && text.to_ascii_lowercase().contains(words);
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

/// Khoros documents its codes in upper case and sends them in lower case.
fn is_about_the_token(code: &str) -> bool {
    ["unauthenticated", "account_locked", "password_expired"]
        .iter()
        .any(|known| code.eq_ignore_ascii_case(known))
}

fn unreachable(error: &reqwest::Error) -> Refusal {
    Refusal::Unreachable(match error {
        error if error.is_timeout() => "no answer in time",
        error if error.is_connect() => NoConnection::of(error).words(),
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

    /// Many a server says in a page of its own that a path has no such method.
    #[test]
    fn what_a_server_does_not_have_is_not_offered() {
        for (status, body) in [(404, ""), (405, ""), (405, "<html>Method Not Allowed"), (501, "<html>")] {
            let refusal = judge(status, body.contains("<html>"), "", body.as_bytes()).unwrap_err();
            assert_eq!(refusal.of_an_optional_call(), Refusal::NotOffered, "{status} {body}");
        }
    }

    #[test]
    fn what_a_post_says_is_not_what_khoros_says() {
        let feed = br#"[{"eventName":"rule-applied","data":{"text":"Developer Inactive"}}]"#;
        assert!(judge(200, false, "", feed).is_ok());
        let half_an_emoji = br#"[{"data":{"text":"cut \ud83d"}}]"#;
        assert!(matches!(judge(200, false, "", half_an_emoji), Ok(Some(_))));
        let deep = format!("{}\"Developer Inactive\"{}", "[".repeat(200), "]".repeat(200));
        assert_eq!(judge(200, false, "", deep.as_bytes()), Err(Refusal::TooLarge));
        assert_eq!(judge(403, false, "ERR_403_DEVELOPER_OVER_QPS", b"{}"), Err(Refusal::Throttled(None)));
    }
}
