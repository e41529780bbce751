//! The limit of new tickets: a route creates at most `TICKET_MAX_PER_HOUR` tickets in any hour, in all processes on the
//! database together. Beyond that, new tickets are held back, and comments go on.

use std::time::{Duration, Instant};

use tracing::{error, info};

use super::attempt::Attempt;
use super::{Zendesk, alerts};
use crate::destination::held::hold;
use crate::ledger::{Memos, Stopped, StorageError};

const HOUR: Duration = Duration::from_secs(3600);
impl Attempt<'_> {
    /// Holds back a delivery without a ticket and without frozen bytes if its route has no place left. It comes before
    /// the first request to Zendesk, so that thousands of held deliveries cost no request.
    pub(super) async fn check_storm_limit(&self) -> Result<(), Stopped> {
        let most = self.settings.max_per_hour;
        if most == 0 || self.claim.request.is_some() || self.reference().is_some() {
            return Ok(());
        }
        let (route, delivery) = (&self.claim.route, &self.claim.identity);
        // Deliveries that are held already go first.
        let is_last = self.claim.attempts == 1 && self.zendesk.held.has(route);
        if is_last || self.ledger.memos().free_places(&places(route), delivery, most, HOUR).await? == 0 {
            return Err(self.held());
        }
        Ok(())
    }

    /// Takes the delivery's place among the tickets of the hour.
    pub(super) async fn take_place(&self) -> Result<(), Stopped> {
        let (most, places) = (self.settings.max_per_hour, places(&self.claim.route));
        let memos = self.ledger.memos();
        match most == 0 || memos.take_place(&places, &self.claim.identity, most, HOUR).await? {
            true => Ok(()),
            false => Err(self.held()),
        }
    }

    fn held(&self) -> Stopped {
        let (route, most) = (&self.claim.route, self.settings.max_per_hour);
        self.zendesk.held.begin(route, self.ledger.alerts());
        hold(&format!("storm limit of {most} tickets an hour for route {route}")).into()
    }
}

impl Zendesk {
    /// Wakes as many held deliveries of each route as it has free places, the oldest first, and reports the others.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn wake_held(&self, memos: &Memos) -> Result<(), StorageError> {
        let started = Instant::now();
        if !self.held.is_due(started) {
            return Ok(());
        }
        let held = memos.held().await?;
        for (route, waiting) in &held {
            let most = self.settings.ticket(route).max_per_hour;
            let free = match most {
                0 => i64::MAX,
                _ => memos.free_places(&places(route), "", most, HOUR).await?,
            };
            if free > 0 {
                memos.wake_held(route, free).await?;
            }
            if *waiting > free {
                self.report(route, *waiting - free, most, memos);
            }
        }
        for route in self.held.checked(held.keys().map(String::as_str), started) {
            info!(
                event = "ticket_storm_over",
                route, "route {route} is below its limit again; no ticket is held back"
            );
        }
        Ok(())
    }

    fn report(&self, route: &str, waiting: i64, most: u32, memos: &Memos) {
        let detail = format!("{waiting} tickets wait at the limit of {most} an hour");
        if self.held.raise(route, alerts::STORM, detail, memos.alerts()) {
            error!(
                event = "ticket_storm",
                alert = alerts::STORM,
                route,
                waiting,
                "{waiting} tickets wait at the limit of {most} an hour. Raise TICKET_MAX_PER_HOUR, or casebridge discard \
                 --route {route} --dry-run"
            );
        }
    }
}

/// The scope of memos with the tickets that a route made in the last hour, one place for each.
fn places(route: &str) -> String {
    format!("created.{route}")
}
