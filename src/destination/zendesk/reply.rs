//! One HTTP exchange with Zendesk: its answer, as far as we may trust and repeat it.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{RequestBuilder, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::budget::Rate;
use crate::connect::NoConnection;
use crate::retry::Reason;

/// An answer is read up to here; a create's holds all that triggers did, and is still far smaller.
const BODY_LIMIT: usize = 4 << 20;

pub struct Reply {
    pub status: u16,
    /// From `Retry-After`, in either of its forms.
    pub retry_after: Option<Duration>,
    pub rate: Rate,
    /// The same for updates of tickets alone.
    pub updates: Rate,
    request_id: Option<String>,
    body: Vec<u8>,
}

/// No answer came.
#[derive(Debug)]
pub struct Lost {
    /// The request cannot have reached Zendesk.
    pub unsent: bool,
    pub how: Cow<'static, str>,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.how)
    }
}

/// Sends and reads the whole answer.
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
    /// The error's own text names the address; ours names what happened.
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
        Reply {
            status: response.status().as_u16(),
            retry_after: header(headers, RETRY_AFTER.as_str()).and_then(retry_after),
            rate: Rate {
                limit: number(headers, "x-rate-limit").or_else(|| number(headers, "ratelimit-limit")),
                remaining: number(headers, "x-rate-limit-remaining")
                    .or_else(|| number(headers, "ratelimit-remaining")),
                reset: number(headers, "ratelimit-reset"),
            },
            updates: header(headers, "zendesk-ratelimit-tickets-update").map_or_else(Rate::default, bucket),
            request_id: header(headers, "x-request-id").filter(|id| is_code(id)).map(str::to_owned),
            body,
        }
    }

    #[cfg(test)]
    pub fn of(status: u16, body: &str) -> Reply {
        let (retry_after, rate, updates) = (None, Rate::default(), Rate::default());
        Reply { status, retry_after, rate, updates, request_id: None, body: body.into() }
    }

    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }

    /// A page for people, where an API should be.
    pub fn is_html(&self) -> bool {
        self.body.trim_ascii_start().starts_with(b"<")
    }

    /// Whether the body's `error` is this code.
    pub fn says(&self, code: &str) -> bool {
        self.json::<Value>().is_some_and(|body| body["error"] == code)
    }

    /// The fields that a refusal is about. A user who is suspended is the requester, whatever field is
    /// named.
    pub fn refused_fields(&self) -> Vec<String> {
        let body = self.json::<Value>().unwrap_or_default();
        let details = body["details"].as_object().into_iter().flatten();
        let codes = details.clone().filter_map(|(_, errors)| errors[0]["error"].as_str());
        let is_suspended = codes.chain(body["error"].as_str()).any(|code| code.contains("Suspended"));
        let names = details.map(|(field, _)| field.clone()).take(20);
        names.chain(is_suspended.then(|| "requester".to_owned())).collect()
    }

    /// A refusal because there is nothing to read.
    pub fn is_about_a_blank_text(&self) -> bool {
        let body = self.json::<Value>().unwrap_or_default();
        let details: Vec<(&String, &Value)> = body["details"].as_object().into_iter().flatten().collect();
        let is_blank = |(field, errors): &(&String, &Value)| {
            matches!(field.as_str(), "comment" | "description") && errors[0]["error"] == "BlankValue"
        };
        !details.is_empty() && details.iter().all(is_blank)
    }

    /// What went wrong with `what`. Validation texts repeat what customers wrote, so the log gets
    /// codes and names of fields; the rest is for the operator who lists the delivery.
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
        Reason { full, kind, ..Reason::new(log) }
    }
}

/// `details` maps a field, or `base`, to what is wrong with it: `subject BlankValue`.
fn fields(details: &Value) -> Vec<String> {
    let Some(details) = details.as_object() else { return Vec::new() };
    let named = details.iter().filter(|(field, _)| is_code(field));
    let described = named.map(|(field, errors)| match errors[0]["error"].as_str() {
        Some(code) if is_code(code) => format!("{field} {code}"),
        _ => field.clone(),
    });
    described.take(20).collect()
}

/// A word that a program made, not a person.
fn is_code(text: &str) -> bool {
    text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn number<T: std::str::FromStr>(headers: &HeaderMap, name: &str) -> Option<T> {
    header(headers, name)?.parse().ok()
}

/// `total=100; remaining=99; resets=41`
fn bucket(value: &str) -> Rate {
    let number = |name: &str| {
        value.split(';').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('=')?.parse().ok())
    };
    Rate { limit: number("total"), remaining: number("remaining"), reset: number("resets").map(u64::from) }
}

/// Seconds, or a date; at most an hour is believed.
fn retry_after(value: &str) -> Option<Duration> {
    let seconds = match value.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => {
            let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
            (date.as_second() - jiff::Timestamp::now().as_second()).max(0).unsigned_abs()
        }
    };
    Some(Duration::from_secs(seconds.min(3600)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_gets_codes_and_never_texts() {
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
    fn who_is_suspended_is_the_requester() {
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

    #[test]
    fn retry_after_comes_in_two_forms() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("86400"), Some(Duration::from_secs(3600)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(retry_after("Wed, 21 Oct 2415 07:28:00 GMT"), Some(Duration::from_secs(3600)));
        assert_eq!(retry_after("soon"), None);
    }
}
