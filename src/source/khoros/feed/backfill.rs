//! Imports the history of a feed: `casebridge backfill`.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;

use super::page::{self, Event};
use super::reading::{Part, Reading};
use super::{FIRST_WAIT, ReadFailure};
use crate::delivery::Origin;
use crate::intake::Intake;
use crate::route::Route;
use crate::source::khoros::client::{Khoros, Refusal};

/// How many identities the result names.
const NAMED: usize = 3;
/// How many times in a row to wait when the gateway throttles.
const MAX_WAITS: usize = 10;
/// If the gateway asks for a longer wait, the import ends; it can be started again.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// The events to import: from `since` on, and before `until`.
pub struct Span {
    pub since: Timestamp,
    pub until: Option<Timestamp>,
}

impl Span {
    /// Whether the span holds an event of this date. Without a readable date an event counts as new.
    fn holds(&self, created: Option<Timestamp>) -> bool {
        match created {
            Some(created) => created >= self.since && self.until.is_none_or(|until| created < until),
            None => self.until.is_none(),
        }
    }
}

/// The events of one feed within a span. They are counted once, however often the feed shows them.
#[derive(Debug, Default)]
pub struct Backfill {
    pub events: usize,
    /// Already stored.
    pub known: usize,
    /// New; imported unless it is a dry run.
    pub new: usize,
    /// Single events that are too long to be read.
    pub too_long: usize,
    /// Dates of the oldest and newest event.
    pub oldest: Option<Timestamp>,
    pub newest: Option<Timestamp>,
    /// Identities of the first few new ones.
    pub named: Vec<String>,
    seen: HashSet<String>,
}

/// The feed of one route.
pub struct Source<'a> {
    pub khoros: &'a Khoros,
    pub intake: &'a Intake,
    pub company: u64,
    pub route: &'a Route,
    /// The id of the subscription.
    pub uuid: &'a str,
    /// Gets the number of events in the span after each page.
    pub report: &'a dyn Fn(usize),
}

impl Backfill {
    /// Reads the whole feed, and stores its new events of the span if `import` is set. Meanwhile the service continues
    /// from its own position.
    ///
    /// # Errors
    /// [`ReadFailure`]; up to there, `self` says what was found and imported. It is safe to begin again.
    pub async fn run(&mut self, source: &Source<'_>, span: &Span, import: bool) -> Result<(), ReadFailure> {
        let Source { khoros, route, uuid, .. } = source;
        let mut reading = Reading::new(Part::Whole);
        let mut waits = 0;
        loop {
            let page = match page::next(khoros, route, uuid, &mut reading, &mut self.too_long).await {
                Ok(Some(page)) => page,
                Ok(None) => return Ok(()),
                Err(refusal @ Refusal::Throttled(_))
                    if waits < MAX_WAITS && refusal.requested_wait() <= LONGEST_WAIT =>
                {
                    waits += 1;
                    tokio::time::sleep(refusal.requested_wait().max(FIRST_WAIT)).await;
                    continue;
                }
                Err(refusal) => return Err(refusal.into()),
            };
            waits = 0;
            let mut places = Vec::new();
            for group in page::groups(route, source.company, page) {
                places.extend(group.iter().map(Event::place));
                self.take(source.intake, span, group, import).await?;
            }
            reading.add(&places);
            (source.report)(self.events);
        }
    }

    async fn take(
        &mut self,
        intake: &Intake,
        span: &Span,
        mut group: Vec<Event>,
        import: bool,
    ) -> Result<(), ReadFailure> {
        group.retain(|event| span.holds(event.created) && self.seen.insert(event.id.clone()));
        let known = intake.known(group.iter().map(|event| &event.notification)).await;
        let known = known.map_err(|_| ReadFailure::NotStored)?;
        let (count, dates) = (group.len(), group.iter().filter_map(|event| event.created));
        self.oldest = dates.clone().chain(self.oldest).min();
        self.newest = dates.chain(self.newest).max();
        group.retain(|event| !event.notification.is_among(&known));
        let new = group.len();
        let names = group.iter().map(|event| event.id.clone());
        self.named.extend(names.take(NAMED - self.named.len()));
        if import {
            let notifications = group.into_iter().map(|event| event.notification).collect();
            intake.store(notifications, Origin::Feed).await.map_err(|_| ReadFailure::NotStored)?;
        }
        (self.events, self.known, self.new) = (self.events + count, self.known + count - new, self.new + new);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_holds_its_beginning_and_not_its_end() {
        let at = |day: u32| -> Timestamp { format!("2026-05-{day:02}T00:00:00Z").parse().unwrap() };
        let open = Span { since: at(2), until: None };
        let closed = Span { since: at(2), until: Some(at(4)) };
        let held = |span: &Span| [1, 2, 3, 4, 5].map(|day| span.holds(Some(at(day))));
        assert_eq!(held(&open), [false, true, true, true, true]);
        assert_eq!(held(&closed), [false, true, true, false, false]);
        assert_eq!((open.holds(None), closed.holds(None)), (true, false));
    }
}
