//! How long ago events came by each route, and the alert when a busy one falls silent.
//!
//! What there is to know is in the database, so that neither a restart nor another instance that took
//! the last event makes a difference.

use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};

use crate::alert::{self, Reminder};
use crate::config::Route;
use crate::inbox::{Inbox, LastEvent};

/// So many events within [`BUSY_WITHIN`] make a route busy.
const BUSY_EVENTS: i64 = 5;
/// The time ends with the route's last event, however long ago that is.
const BUSY_WITHIN: Duration = Duration::from_secs(7 * 86_400);

/// Seconds since the last event of each of these routes, in their order. `None`: there never was one.
pub fn ages<'a>(routes: &'a [String], heard: &[LastEvent]) -> Vec<(&'a str, Option<u64>)> {
    let age = |route: &String| last_of(route, heard).map(|last| age_of(last).as_secs());
    routes.iter().map(|route| (route.as_str(), age(route))).collect()
}

/// As one field of the log: `label=12,vip=never`.
pub fn words(ages: &[(&str, Option<u64>)]) -> String {
    let of_one = |(route, age): &(&str, Option<u64>)| match age {
        Some(age) => format!("{route}={age}"),
        None => format!("{route}=never"),
    };
    ages.iter().map(of_one).collect::<Vec<_>>().join(",")
}

/// Says it when nothing has come by a busy route for as long as `limit`, until the process ends.
pub async fn watch(inbox: Inbox, routes: Vec<Route>, limit: Duration) {
    let mut watched: Vec<(Route, Watch)> =
        routes.into_iter().map(|route| (route, Watch::default())).collect();
    let mut unanswered = false;
    loop {
        // First of all: what Khoros has for us after our own absence may just be coming in.
        tokio::time::sleep(interval(limit)).await;
        match look(&inbox, &mut watched, limit).await {
            Ok(()) => unanswered = false,
            Err(error) if unanswered => {
                debug!(event = "silence_check_failed", "still could not look for silent routes: {error}")
            }
            Err(error) => {
                unanswered = true;
                warn!(
                    event = "silence_check_failed",
                    "could not look for silent routes, trying again: {error}"
                );
            }
        }
    }
}

/// A tenth of the limit, within reason.
fn interval(limit: Duration) -> Duration {
    (limit / 10).clamp(Duration::from_secs(1), Duration::from_secs(300))
}

async fn look(inbox: &Inbox, watched: &mut [(Route, Watch)], limit: Duration) -> sqlx::Result<()> {
    let heard = inbox.last_events().await?;
    for (route, watch) in watched {
        let Some(last) = last_of(&route.name, &heard) else { continue };
        let is_silent = age_of(last) >= limit && is_busy(inbox.events_before(last, BUSY_WITHIN).await?);
        match watch.news(last, is_silent, Instant::now()) {
            Some(News::Silent) => tell_silence(route, age_of(last)),
            Some(News::Again) => {
                info!(
                    event = "route_active",
                    route = route.name,
                    "events arrive by the route `{}` again",
                    route.name
                );
            }
            None => {}
        }
    }
    Ok(())
}

fn is_busy(events: i64) -> bool {
    events >= BUSY_EVENTS
}

fn last_of<'a>(route: &str, heard: &'a [LastEvent]) -> Option<&'a LastEvent> {
    heard.iter().find(|last| last.route == route)
}

fn age_of(last: &LastEvent) -> Duration {
    // A clock that was set back makes none younger than now.
    Duration::from_millis(last.age_ms.try_into().unwrap_or(0))
}

/// Something to say of a route.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Silent,
    Again,
}

/// What was said of a route.
#[derive(Default)]
struct Watch {
    /// The event after which it was silent: any later one ends that, even if more silence follows.
    silent_after: Option<i64>,
    reminder: Reminder,
}

impl Watch {
    fn news(&mut self, last: &LastEvent, is_silent: bool, now: Instant) -> Option<News> {
        if self.silent_after.is_some_and(|at| last.at > at) {
            self.silent_after = None;
            self.reminder.clear();
            return Some(News::Again);
        }
        if is_silent && self.reminder.is_due(alert::ROUTE_SILENT, now) {
            self.silent_after = Some(last.at);
            return Some(News::Silent);
        }
        None
    }
}

fn tell_silence(route: &Route, age: Duration) {
    let used = match &route.label {
        Some(label) => format!("the label `{label}` is still used"),
        None => format!("its event `{}` still happens", route.event),
    };
    error!(
        event = "route_silent",
        alert = alert::ROUTE_SILENT,
        route = route.name,
        external_id = route.external_id,
        silent_s = age.as_secs(),
        "no event has arrived by the busy route `{}` for {}: check in Khoros whether its subscription is \
         paused, and whether {used}",
        route.name,
        in_words(age)
    );
}

fn in_words(time: Duration) -> String {
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
        let heard =
            [last("dm", 1, 59_999), last("gone", 1, 5), last("label", 1, 12_000), last("early", 1, -5)];
        let ages = ages(&routes, &heard);
        assert_eq!(ages, [("label", Some(12)), ("vip", None), ("dm", Some(59)), ("early", Some(0))]);
        assert_eq!(words(&ages), "label=12,vip=never,dm=59,early=0");
        assert_eq!(words(&[]), "");
    }

    #[test]
    fn four_events_a_week_are_not_busy() {
        assert_eq!([0, 1, 4, 5, 500].map(is_busy), [false, false, false, true, true]);
    }

    #[test]
    fn a_silence_is_told_when_it_begins_hourly_and_when_it_ends() {
        let start = Instant::now();
        let mut watch = Watch::default();
        for (minutes, at, is_silent, news) in [
            (0, 1, false, None),
            (1, 1, true, Some(News::Silent)),
            (60, 1, true, None),
            (61, 1, true, Some(News::Silent)),
            (62, 2, false, Some(News::Again)),
            (63, 3, false, None),
            (64, 3, true, Some(News::Silent)),
            // Between two looks one came, and then none for as long again.
            (65, 4, true, Some(News::Again)),
            (66, 4, true, Some(News::Silent)),
            (67, 4, false, None),
        ] {
            let now = start + Duration::from_secs(minutes * 60);
            assert_eq!(watch.news(&last("label", at, 0), is_silent, now), news, "after {minutes} min");
        }
    }

    #[test]
    fn it_is_looked_often_enough_and_not_all_the_time() {
        for (limit, every) in [(1, 1), (60, 6), (3600, 300), (86_400, 300)] {
            assert_eq!(interval(Duration::from_secs(limit)), Duration::from_secs(every), "{limit}");
        }
    }

    #[test]
    fn a_time_is_told_in_the_unit_that_suits_it() {
        for (seconds, words) in
            [(1, "1 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (93_600, "26 h")]
        {
            assert_eq!(in_words(Duration::from_secs(seconds)), words);
        }
    }
}
