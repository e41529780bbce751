//! The limit of new tickets: a route creates at most `TICKET_MAX_PER_HOUR` tickets in any hour, in all processes on the
//! database together. Beyond that, new tickets are held back, and comments go on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::{error, info};

use super::attempt::Attempt;
use super::{Zendesk, alerts};
use crate::alert::{Alarm, Registry};
use crate::delivery::Outcome;
use crate::ledger::{Memos, Stopped, StorageError};

const HOUR: Duration = Duration::from_secs(3600);
/// Held deliveries are woken. This is for the case that no process does.
const FALLBACK: Duration = Duration::from_secs(24 * 3600);
/// The time between two checks whether held deliveries can go on.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// The same while this process knows of none.
const CHECK_SELDOM: Duration = Duration::from_secs(60);
/// The pause between checks is at least this many times as long as a check.
const CHECK_SHARE: u32 = 20;

/// The routes whose deliveries are held back, as far as this process knows.
#[derive(Default)]
pub struct Storms(Mutex<Known>);

#[derive(Default)]
struct Known {
    routes: BTreeMap<String, Alarm>,
    /// `None`: none was made yet.
    next_check: Option<Instant>,
}

impl Storms {
    fn begin(&self, route: &str, alerts: &Registry) {
        let mut known = self.0.lock();
        if !known.routes.contains_key(route) {
            known.routes.insert(route.to_owned(), alarm(alerts, route));
            let soon = Instant::now() + CHECK_EVERY;
            known.next_check = known.next_check.map(|next| next.min(soon));
        }
    }

    fn is_held(&self, route: &str) -> bool {
        self.0.lock().routes.contains_key(route)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.0.lock().next_check.is_none_or(|next| next <= now)
    }

    fn report(&self, route: &str, waiting: i64, most: u32, registry: &Registry) {
        let mut known = self.0.lock();
        let alarm = known.routes.entry(route.to_owned()).or_insert_with(|| alarm(registry, route));
        let detail = format!("{waiting} tickets wait at the limit of {most} an hour");
        if alarm.raise(alerts::STORM, detail, Instant::now()) {
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

    /// Reports the routes that are below their limit again, after a check that began at `started`.
    fn checked(&self, held: &BTreeMap<String, i64>, started: Instant) {
        let mut known = self.0.lock();
        // One that has just been held may not be stored yet.
        let is_known = !held.is_empty() || !known.routes.is_empty();
        let least = if is_known { CHECK_EVERY } else { CHECK_SELDOM };
        let now = Instant::now();
        known.next_check = Some(now + (now.duration_since(started) * CHECK_SHARE).max(least));
        known.routes.retain(|route, alarm| {
            let is_held = held.contains_key(route);
            if !is_held && alarm.clear() {
                info!(
                    event = "ticket_storm_over",
                    route, "route {route} is below its limit again; no ticket is held back"
                );
            }
            is_held
        });
    }
}

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
        let is_last = self.claim.attempts == 1 && self.zendesk.storms.is_held(route);
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
        self.zendesk.storms.begin(route, self.ledger.alerts());
        // By then a place is free. The random wait spreads the retries.
        let wait = FALLBACK.mul_f64(1.0 + fastrand::f64());
        Outcome::held(&format!("storm limit of {most} tickets an hour for route {route}"), wait).into()
    }
}

impl Zendesk {
    /// Wakes as many held deliveries of each route as it has free places, the oldest first, and reports the others.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn wake_held(&self, memos: &Memos) -> Result<(), StorageError> {
        let started = Instant::now();
        if !self.storms.is_due(started) {
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
                self.storms.report(route, *waiting - free, most, memos.alerts());
            }
        }
        self.storms.checked(&held, started);
        Ok(())
    }
}

fn alarm(registry: &Registry, route: &str) -> Alarm {
    Alarm::new(registry, "zendesk.storm", route)
}

/// The scope of memos with the tickets that a route made in the last hour, one place for each.
fn places(route: &str) -> String {
    format!("created.{route}")
}
