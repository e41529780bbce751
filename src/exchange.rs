//! One HTTP exchange with an endpoint that we do not control: it may answer anything, or not at all.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use reqwest::RequestBuilder;
use reqwest::header::RETRY_AFTER;
use url::Url;

use crate::connect;
use crate::delivery::{Reason, Response};

/// The largest part of an answer that is read, in bytes.
const BODY_LIMIT: usize = 64 << 10;
/// Longer values of `Retry-After` are cut to this.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// An answer.
pub struct Answer {
    pub status: u16,
    pub retry_after: Option<Duration>,
    pub body: Vec<u8>,
}

/// No answer came.
pub struct NoAnswer {
    /// The request cannot have reached the other side.
    pub unsent: bool,
    /// The reason, without the address.
    pub how: String,
}

/// The address of a path below an address, which may have a path itself.
pub fn address(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url
}

/// Sends a request, and reads the first 64 KiB of the answer.
///
/// # Errors
/// [`NoAnswer`]
pub async fn send(request: RequestBuilder) -> Result<Answer, NoAnswer> {
    send_and_read(request, BODY_LIMIT).await
}

/// Sends a request, and reads the first `limit` bytes of the answer.
///
/// # Errors
/// [`NoAnswer`]
pub async fn send_and_read(request: RequestBuilder, limit: usize) -> Result<Answer, NoAnswer> {
    let lost = |error: &reqwest::Error| NoAnswer {
        unsent: error.is_connect() || error.is_builder(),
        how: connect::reason(error),
    };
    let mut response = request.send().await.map_err(|error| lost(&error))?;
    let status = response.status().as_u16();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.and_then(|text| retry_after_of(text, Timestamp::now()));
    let mut body = Vec::new();
    while body.len() < limit {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk[..chunk.len().min(limit - body.len())]),
            Ok(None) => break,
            // The status has arrived, and it decides the outcome.
            Err(_) => break,
        }
    }
    Ok(Answer { status, retry_after, body })
}

impl Answer {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The status as a reason: `the webhook answered 503`. Answers are not quoted: they may contain anything.
    pub fn reason(&self, who: &str) -> Reason {
        let response = Some(Box::new(self.response()));
        Reason { response, ..Reason::new(format!("{who} answered {}", self.status)) }
    }

    /// The answer as it is recorded with the attempt.
    pub fn response(&self) -> Response {
        Response::new(self.status, None, &self.body)
    }
}

/// Parses seconds or a date (RFC 9110, 10.2.3).
fn retry_after_of(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = rfc2822::parse(text).ok()?.timestamp();
            Duration::try_from(until.duration_since(now)).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_the_path_of_its_base() {
        for (base, expected) in [
            ("https://bridge.example.com", "https://bridge.example.com/healthz"),
            ("https://bridge.example.com/base/", "https://bridge.example.com/base/healthz"),
            ("https://bridge.example.com/base?key=1", "https://bridge.example.com/base/healthz?key=1"),
        ] {
            assert_eq!(address(&base.parse().unwrap(), "/healthz").as_str(), expected);
        }
    }

    #[test]
    fn retry_after_is_a_number_or_a_date() {
        let now: Timestamp = "2026-11-26T10:00:00Z".parse().unwrap();
        for (text, seconds) in [
            ("93", Some(93)),
            ("0", Some(0)),
            ("99999999999", Some(3600)),
            ("Thu, 26 Nov 2026 10:02:00 GMT", Some(120)),
            ("Thu, 26 Nov 2026 09:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(retry_after_of(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
