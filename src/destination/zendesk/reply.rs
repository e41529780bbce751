//! One HTTP exchange with Zendesk, and the limits, refused fields and errors in its answer.

use std::borrow::Cow;
use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{RequestBuilder, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::budget::Rate;
use crate::connect::NoConnection;
use crate::delivery::{self, Reason};

/// The number of bytes that are read of an answer. The answer to a create contains everything that triggers
/// did, and is still far smaller.
const BODY_LIMIT: usize = 4 << 20;
/// The longest `Retry-After` that is believed.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

pub struct Reply {
    pub status: u16,
    pub retry_after: Option<Duration>,
    /// The limit of all requests.
    pub rate: Rate,
    /// The limit of ticket updates.
    pub updates: Rate,
    /// `x-idempotency-lookup`: `miss` or `hit`
    pub idempotency_lookup: Option<String>,
    request_id: Option<String>,
    body: Vec<u8>,
}

/// No answer came.
#[derive(Debug, thiserror::Error)]
#[error("{how}")]
pub struct Lost {
    /// The request cannot have reached Zendesk.
    pub unsent: bool,
    pub how: Cow<'static, str>,
}

/// Sends a request and reads the whole answer.
pub async fn send(request: RequestBuilder) -> Result<Reply, Lost> {
    let mut response = request.send().await.map_err(|error| Lost::new(&error))?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| Lost::new(&error))? {
        let room = BODY_LIMIT - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == BODY_LIMIT {
            break;
        }
    }
    Ok(Reply::new(&response, body))
}

impl Lost {
    /// Describes the error without the address, which reqwest's own text contains.
    fn new(error: &reqwest::Error) -> Lost {
        let how = match error {
            error if error.is_connect() && error.is_timeout() => {
                "Zendesk does not answer the connection".into()
            }
            error if error.is_connect() => {
                format!("no connection to Zendesk (ZENDESK_API_URL): {}", NoConnection::of(error)).into()
            }
            error if error.is_timeout() => "Zendesk did not answer in time".into(),
            _ => "the connection to Zendesk broke before the answer".into(),
        };
        Lost { unsent: error.is_connect() || error.is_builder(), how }
    }
}

impl Reply {
    fn new(response: &Response, body: Vec<u8>) -> Reply {
        let headers = response.headers();
        let retry_after = number(headers, RETRY_AFTER.as_str()).map(Duration::from_secs);
        Reply {
            status: response.status().as_u16(),
            retry_after: retry_after.map(|wait| wait.min(LONGEST_RETRY_AFTER)),
            rate: Rate {
                limit: number(headers, "x-rate-limit"),
                remaining: number(headers, "x-rate-limit-remaining"),
                reset: number(headers, "ratelimit-reset"),
            },
            updates: header(headers, "zendesk-ratelimit-tickets-update").map_or_else(Rate::default, bucket),
            idempotency_lookup: code(headers, "x-idempotency-lookup"),
            request_id: code(headers, "x-request-id"),
            body,
        }
    }

    #[cfg(test)]
    pub fn of(status: u16, body: &str) -> Reply {
        let (retry_after, rate, updates) = (None, Rate::default(), Rate::default());
        let (idempotency_lookup, request_id) = (None, None);
        Reply { status, retry_after, rate, updates, idempotency_lookup, request_id, body: body.into() }
    }

    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether Zendesk does not find the record. Any other 404 comes from a wrong address.
    pub fn is_not_found(&self) -> bool {
        self.status == 404 && self.has_error("RecordNotFound")
    }

    pub fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }

    /// Whether the body is a page for people, not the answer of an API.
    pub fn is_html(&self) -> bool {
        self.body.trim_ascii_start().starts_with(b"<")
    }

    /// Whether the body's `error` is this code.
    pub fn has_error(&self, code: &str) -> bool {
        self.json::<Value>().is_some_and(|body| body["error"] == code)
    }

    /// Returns the fields that a refusal names. If a user is suspended, that is the requester, whatever field
    /// the refusal names.
    pub fn refused_fields(&self) -> Vec<String> {
        let body = self.json::<Value>().unwrap_or_default();
        let details = body["details"].as_object().into_iter().flatten();
        let codes = details.clone().filter_map(|(_, errors)| errors[0]["error"].as_str());
        let is_suspended = codes.chain(body["error"].as_str()).any(|code| code.contains("Suspended"));
        let names = details.map(|(field, _)| field.clone()).take(20);
        names.chain(is_suspended.then(|| "requester".to_owned())).collect()
    }

    /// Whether Zendesk refuses the comment only because it contains no visible text.
    pub fn refuses_blank_comment(&self) -> bool {
        let body = self.json::<Value>().unwrap_or_default();
        let Some(details) = body["details"].as_object().filter(|details| !details.is_empty()) else {
            return false;
        };
        details.iter().all(|(field, errors)| {
            matches!(field.as_str(), "comment" | "description") && errors[0]["error"] == "BlankValue"
        })
    }

    /// Describes the failure of a request for `what`. Zendesk's messages repeat customers' texts, so the log
    /// gets codes and names of fields only, and the stored reason gets everything.
    pub fn reason(&self, what: &str) -> Reason {
        let body = self.json::<Value>().unwrap_or_default();
        let mut log = format!("Zendesk answered {} to {what}", self.status);
        let title = body["error"].as_str().or_else(|| body["error"]["title"].as_str());
        let code = body["errors"][0]["code"].as_str();
        if let Some(code) = title.or(code).filter(|code| is_code(code)) {
            log.push_str(&format!(" ({code})"));
        }
        let fields = fields(&body["details"]);
        if !fields.is_empty() {
            log.push_str(&format!(": {}", fields.join(", ")));
        }
        if self.is_html() {
            log.push_str(", with an HTML page");
        }
        let kind = log.clone();
        if let Some(id) = &self.request_id {
            log.push_str(&format!(" [request {id}]"));
        }
        let text: String = String::from_utf8_lossy(&self.body).chars().take(2000).collect();
        let full = if text.is_empty() { log.clone() } else { format!("{log}: {text}") };
        Reason { full, kind, response: Some(Box::new(self.response())), ..Reason::new(log) }
    }

    /// The answer as it is recorded with the attempt.
    pub fn response(&self) -> delivery::Response {
        delivery::Response::new(self.status, self.request_id.as_deref(), &self.body)
    }
}

/// Lists the fields of `details` with their error codes, as in `subject BlankValue`.
fn fields(details: &Value) -> Vec<String> {
    let named = details.as_object().into_iter().flatten().filter(|(field, _)| is_code(field));
    let described = named.map(|(field, errors)| match errors[0]["error"].as_str() {
        Some(code) if is_code(code) => format!("{field} {code}"),
        _ => field.clone(),
    });
    described.take(20).collect()
}

/// Whether a program made this text, not a person.
fn is_code(text: &str) -> bool {
    text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn code(headers: &HeaderMap, name: &str) -> Option<String> {
    header(headers, name).filter(|value| is_code(value)).map(str::to_owned)
}

fn number<T: std::str::FromStr>(headers: &HeaderMap, name: &str) -> Option<T> {
    header(headers, name)?.parse().ok()
}

/// Reads `total=100; remaining=99; resets=41`.
fn bucket(value: &str) -> Rate {
    let number = |name: &str| {
        value.split(';').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('=')?.parse().ok())
    };
    Rate { limit: number("total"), remaining: number("remaining"), reset: number("resets").map(u64::from) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_contains_codes_and_no_texts() {
        for (body, log) in [
            (
                r#"{"error":"RecordInvalid","description":"Jane Doe","details":{
                    "requester":[{"description":"Jane Doe is suspended","error":"Suspended"}],
                    "base":[{"description":"Jane Doe"}],"Jane Doe":[{}]}}"#,
                "Zendesk answered 422 to the ticket (RecordInvalid): base, requester Suspended",
            ),
            (
                r#"{"error":{"title":"Forbidden","message":"Jane Doe"}}"#,
                "Zendesk answered 422 to the ticket (Forbidden)",
            ),
            (
                r#"{"errors":[{"code":"Nope","title":"Jane Doe"}]}"#,
                "Zendesk answered 422 to the ticket (Nope)",
            ),
            ("Jane Doe", "Zendesk answered 422 to the ticket"),
            ("\n<html>Jane Doe", "Zendesk answered 422 to the ticket, with an HTML page"),
        ] {
            let reason = Reply::of(422, body).reason("the ticket");
            assert_eq!(reason.log, log);
            assert!(reason.full.contains("Jane Doe"));
        }
    }

    #[test]
    fn a_suspended_user_is_the_requester() {
        for (body, fields) in [
            (r#"{"details":{"base":[{"error":"UserSuspended"}]}}"#, &["base", "requester"][..]),
            (r#"{"error":"UserSuspended"}"#, &["requester"]),
            (r#"{"details":{"group":[{"description":"x"}]}}"#, &["group"]),
            ("<html>", &[]),
        ] {
            assert_eq!(Reply::of(422, body).refused_fields(), fields);
        }
    }

    #[test]
    fn the_bucket_of_an_endpoint_is_read() {
        let rate = bucket("total=100; remaining=99; resets=41");
        assert_eq!((rate.limit, rate.remaining, rate.reset), (Some(100), Some(99), Some(41)));
        let rate = bucket("remaining=0;total=x");
        assert_eq!((rate.limit, rate.remaining, rate.reset), (None, Some(0), None));
    }
}
