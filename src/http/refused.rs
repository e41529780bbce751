//! Refused notifications that carried a valid token: each may be a label that becomes no ticket.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use parking_lot::Mutex;
use tracing::warn;

use super::receive::Receiver;

const LINE_EVERY: Duration = Duration::from_secs(60);
/// The statuses with which a notification is refused, and why.
const REASONS: [(StatusCode, &str); 6] = [
    (StatusCode::BAD_REQUEST, "the body is not JSON"),
    (StatusCode::NOT_FOUND, "no route has this path: compare the subscription in Khoros"),
    (StatusCode::METHOD_NOT_ALLOWED, "the method is not POST: compare the subscription in Khoros"),
    (StatusCode::REQUEST_TIMEOUT, "the body did not arrive within 10 s"),
    (StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 2 MiB"),
    (StatusCode::UNSUPPORTED_MEDIA_TYPE, "the encoding is neither gzip nor deflate"),
];

/// Counts events of one kind, and decides when their number is worth a line: at once, and then once a
/// minute.
#[derive(Debug, Default)]
pub struct Tally {
    total: u64,
    unlogged: u64,
    logged_at: Option<Instant>,
}

impl Tally {
    /// Counts one event; returns the number to log if a line is due.
    pub fn count(&mut self, now: Instant) -> Option<u64> {
        self.total += 1;
        self.unlogged += 1;
        if self.logged_at.is_some_and(|at| now.duration_since(at) < LINE_EVERY) {
            return None;
        }
        self.logged_at = Some(now);
        Some(std::mem::take(&mut self.unlogged))
    }
}

/// How many notifications were refused since the start, by status; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Refused(Arc<Mutex<BTreeMap<u16, Tally>>>);

impl Refused {
    /// The number of each status, for `GET /status`.
    pub fn totals(&self) -> BTreeMap<u16, u64> {
        let tallies = self.0.lock();
        let total = |status: u16| tallies.get(&status).map_or(0, |tally| tally.total);
        REASONS.iter().map(|(status, _)| (status.as_u16(), total(status.as_u16()))).collect()
    }

    fn count(&self, status: StatusCode) -> Option<u64> {
        let mut tallies = self.0.lock();
        tallies.entry(status.as_u16()).or_default().count(Instant::now())
    }
}

/// Logs and counts the refused requests that carry a valid token.
pub async fn note(
    State((receiver, refused)): State<(Receiver, Refused)>,
    request: Request,
    next: Next,
) -> Response {
    let uri = request.uri().clone();
    let token = request.headers().get(header::AUTHORIZATION).cloned();
    let response = next.run(request).await;
    let status = response.status();
    if let Some((_, reason)) = REASONS.iter().find(|(known, _)| *known == status)
        && receiver.knows(token.as_ref())
        && let Some(count) = refused.count(status)
    {
        let (status, path) = (status.as_u16(), plain(uri.path()));
        warn!(
            event = "notification_refused",
            status, count, path, "refused {count} authenticated notification(s): {reason}"
        );
    }
    response
}

/// The path, unless it is long or has digits, as a secret would.
fn plain(path: &str) -> &str {
    let is_plain = |byte: u8| byte.is_ascii_alphabetic() || matches!(byte, b'/' | b'-' | b'_');
    if path.len() <= 60 && path.bytes().all(is_plain) { path } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_logged_once_a_minute_with_their_number() {
        let (mut tally, start) = (Tally::default(), Instant::now());
        let mut at = |seconds| tally.count(start + Duration::from_secs(seconds));
        assert_eq!([at(0), at(1), at(59), at(60), at(61)], [Some(1), None, None, Some(3), None]);
        assert_eq!(tally.total, 5);
    }

    #[test]
    fn a_path_is_logged_only_if_it_cannot_hold_a_secret() {
        assert_eq!(plain("/khoros/lable"), "/khoros/lable");
        for odd in ["/a%20b", "/0123456789abcdef", "/\u{e9}", &"/x".repeat(40)] {
            assert_eq!(plain(odd), "");
        }
    }
}
