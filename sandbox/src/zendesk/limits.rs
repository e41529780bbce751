//! The limits on requests, and the headers about them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use axum::http::HeaderValue;
use axum::response::Response;

use super::Model;
use super::quirks::Quirk;

/// Zendesk takes this many updates of one ticket within ten minutes.
const UPDATES_PER_TICKET: usize = 30;
const TEN_MINUTES: Duration = Duration::from_secs(600);

pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// The requests of one minute.
pub(super) struct Minute {
    began: Instant,
    used: u32,
}

impl Minute {
    /// Returns the current minute; a new one begins with `used` requests.
    fn current(slot: &mut Option<Minute>, used: u32) -> &mut Minute {
        if slot.as_ref().is_some_and(|minute| minute.began.elapsed() >= MINUTE) {
            *slot = None;
        }
        slot.get_or_insert_with(|| Minute { began: Instant::now(), used })
    }

    /// Seconds until its end, never 0.
    fn left(&self) -> u64 {
        MINUTE.saturating_sub(self.began.elapsed()).as_secs() + 1
    }
}

/// The times at which something was done, for a sliding window.
#[derive(Default)]
pub(super) struct Recent(VecDeque<Instant>);

impl Recent {
    /// Returns the seconds to wait if it was done `most` times within `span`.
    pub(super) fn wait(&mut self, span: Duration, most: usize) -> Option<u64> {
        self.0.retain(|done| done.elapsed() < span);
        let oldest = self.0.front().filter(|_| self.0.len() >= most)?;
        Some(span.saturating_sub(oldest.elapsed()).as_secs() + 1)
    }

    pub(super) fn note(&mut self) {
        self.0.push_back(Instant::now());
    }
}

impl Model {
    /// Counts a request; returns false if the limit refuses it.
    pub(super) fn use_one(&mut self) -> bool {
        let minute = Minute::current(&mut self.minute, self.used_by_others);
        let allowed = minute.used < self.limit;
        minute.used += u32::from(allowed);
        self.too_many += u32::from(!allowed);
        allowed
    }

    fn remaining(&self) -> u32 {
        self.limit.saturating_sub(self.minute.as_ref().map_or(0, |minute| minute.used))
    }

    /// Seconds until the next minute begins.
    pub(super) fn reset(&self) -> u64 {
        self.minute.as_ref().map_or(0, Minute::left)
    }
}

impl Model {
    /// Counts an update; returns the seconds to wait if a limit refuses it.
    pub(super) fn use_update(&mut self, id: u64) -> Option<u64> {
        let minute = Minute::current(&mut self.update_minute, self.updates_by_agents);
        let recent = self.ticket_updates.entry(id).or_default();
        let account = (minute.used >= self.update_limit).then(|| minute.left());
        let wait = account.or_else(|| recent.wait(TEN_MINUTES, UPDATES_PER_TICKET));
        if wait.is_some() {
            self.too_many_updates += 1;
        } else {
            minute.used += 1;
            recent.note();
        }
        wait
    }
}

pub(super) fn with_rate(model: &Model, lookup: &'static str, mut response: Response) -> Response {
    response.headers_mut().insert("x-rate-limit", HeaderValue::from(model.limit));
    response.headers_mut().insert("x-rate-limit-remaining", HeaderValue::from(model.remaining()));
    if !model.has(Quirk::NoRateReset) {
        response.headers_mut().insert("ratelimit-reset", HeaderValue::from(model.reset()));
    }
    if !lookup.is_empty() {
        response.headers_mut().insert("x-idempotency-lookup", HeaderValue::from_static(lookup));
    }
    response
}

/// Adds the header about the account's limit on updates.
pub(super) fn with_update_rate(model: &mut Model, mut response: Response) -> Response {
    let minute = Minute::current(&mut model.update_minute, model.updates_by_agents);
    let (total, left) = (model.update_limit, minute.left());
    let remaining = total.saturating_sub(minute.used);
    let state = format!("total={total}; remaining={remaining}; resets={left}");
    if let (Ok(state), false) = (HeaderValue::try_from(state), model.has(Quirk::NoUpdateLimit)) {
        response.headers_mut().insert("zendesk-ratelimit-tickets-update", state);
    }
    response
}
