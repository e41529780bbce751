//! The time since each route's last event, and the alert when a busy route has no events any longer.
//!
//! Both come from the database, so a restart or another instance makes no difference.

use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};

use super::alerts;
use crate::alert::{Alarm, Registry};
use crate::inbox::{Inbox, LastEvent};
use crate::route::Route;

/// A route is busy if it had this many events within [`BUSY_WITHIN`].
const BUSY_EVENTS: i64 = 5;
/// The period ends with the route's last event, however long ago that is.
const BUSY_WITHIN: Duration = Duration::from_secs(7 * 86_400);

/// Seconds since the last event of each of these routes, in their order. `None`: there never was one.
pub fn ages<'a>(routes: &'a [String], events: &[LastEvent]) -> Vec<(&'a str, Option<u64>)> {
    let age = |route: &String| last_of(route, events).map(|last| age_of(last).as_secs());
    routes.iter().map(|route| (route.as_str(), age(route))).collect()
}

/// The ages as one field of the log: `label=12,vip=never`.
pub fn log_field(ages: &[(&str, Option<u64>)]) -> String {
    let of_one = |(route, age): &(&str, Option<u64>)| match age {
        Some(age) => format!("{route}={age}"),
        None => format!("{route}=never"),
    };
    ages.iter().map(of_one).collect::<Vec<_>>().join(",")
}

/// Logs when a busy route has received no events for `limit`, until the process ends.
pub async fn watch(inbox: Inbox, routes: Vec<Route>, limit: Duration, alerts: Registry) {
    let watch = |route: Route| (Watch::new(&alerts, &route.name), route);
    let mut watched: Vec<(Watch, Route)> = routes.into_iter().map(watch).collect();
    let interval = (limit / 10).clamp(Duration::from_secs(1), Duration::from_secs(300));
    let mut has_failed = false;
    loop {
        // At the start, events of the time while we were down may still be arriving.
        tokio::time::sleep(interval).await;
        match check(&inbox, &mut watched, limit).await {
            Ok(()) => has_failed = false,
            Err(error) if has_failed => {
                debug!(event = "silence_check_failed", "still could not check for silent routes: {error}")
            }
            Err(error) => {
                has_failed = true;
                warn!(
                    event = "silence_check_failed",
                    "could not check for silent routes, trying again: {error}"
                );
            }
        }
    }
}

async fn check(inbox: &Inbox, watched: &mut [(Watch, Route)], limit: Duration) -> sqlx::Result<()> {
    let events = inbox.last_events().await?;
    for (watch, route) in watched {
        let Some(last) = last_of(&route.name, &events) else { continue };
        let is_silent = age_of(last) >= limit && inbox.events_before(last, BUSY_WITHIN).await? >= BUSY_EVENTS;
        match watch.update(last, is_silent, Instant::now()) {
            Some(SilenceChange::Silent) => log_silence(route, age_of(last)),
            Some(SilenceChange::Active) => {
                let name = &route.name;
                info!(event = "route_active", route = name, "the route `{name}` has events again");
            }
            None => {}
        }
    }
    Ok(())
}

fn last_of<'a>(route: &str, events: &'a [LastEvent]) -> Option<&'a LastEvent> {
    events.iter().find(|last| last.route == route)
}

/// The age of an event; zero if the clock was set back.
fn age_of(last: &LastEvent) -> Duration {
    Duration::from_millis(last.age_ms.try_into().unwrap_or(0))
}

/// A change to log, or the hourly reminder of a silence.
#[derive(Debug, PartialEq, Eq)]
enum SilenceChange {
    Silent,
    Active,
}

/// The logged state of a route.
struct Watch {
    /// The last event before the silence. Any later one ends it, even if more silence follows.
    silent_after: Option<i64>,
    alarm: Alarm,
}

impl Watch {
    fn new(alerts: &Registry, route: &str) -> Watch {
        Watch { silent_after: None, alarm: Alarm::new(alerts, "khoros.silence", route) }
    }

    fn update(&mut self, last: &LastEvent, is_silent: bool, now: Instant) -> Option<SilenceChange> {
        if self.silent_after.is_some_and(|at| last.at > at) {
            self.silent_after = None;
            self.alarm.clear();
            return Some(SilenceChange::Active);
        }
        if !is_silent {
            self.alarm.clear();
            return None;
        }
        let detail = format!("no event for {}", describe(age_of(last)));
        if !self.alarm.raise(alerts::ROUTE_SILENT, detail, now) {
            return None;
        }
        self.silent_after = Some(last.at);
        Some(SilenceChange::Silent)
    }
}

fn log_silence(route: &Route, age: Duration) {
    let used = match &route.label {
        Some(label) => format!("the label `{label}` is still used"),
        None => format!("its event `{}` still happens", route.event),
    };
    error!(
        event = "route_silent",
        alert = alerts::ROUTE_SILENT,
        route = route.name,
        external_id = route.external_id,
        silent_s = age.as_secs(),
        "the busy route `{}` has received no events for {}: check in Khoros whether its subscription is paused, and \
         whether {used}",
        route.name,
        describe(age)
    );
}

fn describe(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(route: &str, at: i64, age_ms: i64) -> LastEvent {
        LastEvent { route: route.to_owned(), at, age_ms }
    }

    #[test]
    fn every_configured_route_has_its_age_in_order() {
        let routes = ["label", "vip", "dm", "early"].map(str::to_owned);
        let events =
            [last("dm", 1, 59_999), last("gone", 1, 5), last("label", 1, 12_000), last("early", 1, -5)];
        let ages = ages(&routes, &events);
        assert_eq!(ages, [("label", Some(12)), ("vip", None), ("dm", Some(59)), ("early", Some(0))]);
        assert_eq!(log_field(&ages), "label=12,vip=never,dm=59,early=0");
        assert_eq!(log_field(&[]), "");
    }

    #[test]
    fn a_silence_is_logged_when_it_begins_hourly_and_when_it_ends() {
        let start = Instant::now();
        let mut watch = Watch::new(&Registry::default(), "label");
        for (minutes, at, is_silent, change) in [
            (0, 1, false, None),
            (1, 1, true, Some(SilenceChange::Silent)),
            (60, 1, true, None),
            (61, 1, true, Some(SilenceChange::Silent)),
            (62, 2, false, Some(SilenceChange::Active)),
            (63, 3, false, None),
            (64, 3, true, Some(SilenceChange::Silent)),
            // Between two checks one came, and then none for as long again.
            (65, 4, true, Some(SilenceChange::Active)),
            (66, 4, true, Some(SilenceChange::Silent)),
            (67, 4, false, None),
        ] {
            let now = start + Duration::from_secs(minutes * 60);
            assert_eq!(watch.update(&last("label", at, 0), is_silent, now), change, "after {minutes} min");
        }
    }

    #[test]
    fn a_time_is_described_in_the_unit_that_suits_it() {
        for (seconds, text) in
            [(1, "1 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (93_600, "26 h")]
        {
            assert_eq!(describe(Duration::from_secs(seconds)), text);
        }
    }
}
