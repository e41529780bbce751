//! Refused notifications with a valid token: each may be a label that became no ticket.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use parking_lot::Mutex;

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

/// Counts events of one kind, and decides when to log their number: at once, and then once a minute.
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

/// How many notifications were refused since the start, by status.
#[derive(Debug, Default)]
pub struct Refused(Mutex<BTreeMap<u16, Tally>>);

impl Refused {
    /// Returns the number of each status, for `GET /status`.
    pub fn totals(&self) -> BTreeMap<u16, u64> {
        let tallies = self.0.lock();
        let total = |status: u16| tallies.get(&status).map_or(0, |tally| tally.total);
        REASONS.iter().map(|(status, _)| (status.as_u16(), total(status.as_u16()))).collect()
    }

    /// Returns why a notification gets this status; `None` if the status is no refusal.
    pub fn reason(status: StatusCode) -> Option<&'static str> {
        REASONS.iter().find(|(known, _)| *known == status).map(|(_, reason)| *reason)
    }

    /// Counts a refusal; returns the number to log if a line is due.
    pub fn count(&self, status: StatusCode) -> Option<u64> {
        let mut tallies = self.0.lock();
        tallies.entry(status.as_u16()).or_default().count(Instant::now())
    }
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
}
