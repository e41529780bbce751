//! Wraps each request: adds its id to its log lines, and notes answers that can cost a ticket.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use tracing::{Instrument, info_span, warn};

use super::AppState;
use super::refused::Refused;

/// Answers a request, and notes refusals and failures.
pub async fn observe(State(state): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    let span = info_span!("request", id = id(request.headers()));
    let is_push = request.method() == Method::POST;
    let (uri, token) = (request.uri().clone(), request.headers().get(header::AUTHORIZATION).cloned());
    let answer = async {
        let started = Instant::now();
        let response = next.run(request).await;
        let status = response.status();
        if is_push && status.is_success() {
            state.metrics.accepted(started.elapsed());
        }
        if status.is_client_error() {
            note_refused(&state, status, uri.path(), token.as_ref());
        } else if status.is_server_error() && is_push {
            state.missed.notify_one();
        }
        response
    };
    answer.instrument(span).await
}

/// Returns the request's id, which Heroku's router logs, too. A stranger may write anything into the header.
fn id(headers: &HeaderMap) -> &str {
    let id = headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '+' | '/' | '=');
    if id.len() <= 200 && id.chars().all(is_plain) { id } else { "" }
}

/// Logs and counts a refusal if the request has a valid token: its label may have become no ticket.
fn note_refused(state: &AppState, status: StatusCode, path: &str, token: Option<&HeaderValue>) {
    if let Some(reason) = Refused::reason(status)
        && state.tokens.knows(token)
        && let Some(count) = state.refused.count(status)
    {
        let (status, path) = (status.as_u16(), plain(path));
        warn!(
            event = "notification_refused",
            status, count, path, "refused {count} authenticated notification(s): {reason}"
        );
    }
}

/// Returns the path unless it could be a secret: long, or with digits.
fn plain(path: &str) -> &str {
    let is_plain = |byte: u8| byte.is_ascii_alphabetic() || matches!(byte, b'/' | b'-' | b'_');
    if path.len() <= 60 && path.bytes().all(is_plain) { path } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_logged_only_if_it_cannot_hold_a_secret() {
        assert_eq!(plain("/khoros/lable"), "/khoros/lable");
        for secret in ["/a%20b", "/0123456789abcdef", "/\u{e9}", &"/x".repeat(40)] {
            assert_eq!(plain(secret), "");
        }
    }
}
