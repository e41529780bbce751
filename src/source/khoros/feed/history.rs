//! The events of a feed that are too old to be delivered.

use std::collections::HashSet;

use jiff::Timestamp;
use tracing::info;

use super::page::Event;
use crate::route::Route;

/// The skipped events of one feed since it was last read whole.
pub(super) struct History {
    since: Timestamp,
    ids: HashSet<String>,
    /// Those that have not been logged yet: their number, and the dates of the oldest and the newest.
    unlogged: Option<(usize, Timestamp, Timestamp)>,
}

impl History {
    /// Events that are older than `since` are history.
    pub fn new(since: Timestamp) -> History {
        History { since, ids: HashSet::new(), unlogged: None }
    }

    /// Whether an event is too old to be delivered. One without a readable date is not.
    pub fn holds(&self, event: &Event) -> bool {
        event.created.is_some_and(|created| created < self.since)
    }

    /// Counts a skipped event, unless it was counted before.
    pub fn add(&mut self, event: &Event) {
        if let (Some(created), true) = (event.created, self.ids.insert(event.id.clone())) {
            let (count, oldest, newest) = self.unlogged.unwrap_or((0, created, created));
            self.unlogged = Some((count + 1, oldest.min(created), newest.max(created)));
        }
    }

    /// The number of skipped events.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Logs the events that were skipped since this was last called.
    pub fn log(&mut self, route: &Route) {
        let Some((count, oldest, newest)) = self.unlogged.take() else { return };
        let day = oldest.strftime("%Y-%m-%d");
        info!(
            event = "feed_history_skipped",
            route = route.name,
            count,
            %oldest,
            %newest,
            since = %self.since,
            "skipped {count} event(s) older than {:.0}; to import them, run casebridge backfill --since {day}",
            self.since
        );
    }
}
