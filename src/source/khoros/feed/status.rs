//! The state of the feeds, and when to log it.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::{Level, error, info, warn};

use crate::alert::{Alarm, Registry, Reminder};
use crate::source::khoros::alerts;
use crate::source::khoros::settings::Mode;

/// If events come from the feeds alone and none can be read for this long, somebody has to act.
const ALARMING: Duration = Duration::from_secs(300);

/// The state of all feeds, as `/status` and the status line show it: that of the worst one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PullStatus {
    /// By the configuration.
    Off,
    /// No feed is known yet.
    Pending,
    Available,
    /// Khoros has no feed to read.
    Unavailable,
    Failing(String),
}

/// The feeds, as `/status` and the status line show them.
#[derive(Clone, Debug)]
pub struct PullReport {
    pub status: PullStatus,
    /// Older events are skipped; `None` until that is known.
    pub since: Option<Timestamp>,
    /// The skipped events of all feeds.
    pub skipped: usize,
}

impl PullReport {
    /// The report before the first reading.
    pub fn new(status: PullStatus) -> PullReport {
        PullReport { status, since: None, skipped: 0 }
    }
}

impl PullStatus {
    /// The names of all states.
    pub const NAMES: [&str; 5] = ["off", "pending", "available", "unavailable", "failing"];

    pub fn as_str(&self) -> &'static str {
        match self {
            PullStatus::Off => "off",
            PullStatus::Pending => "pending",
            PullStatus::Available => "available",
            PullStatus::Unavailable => "unavailable",
            PullStatus::Failing(_) => "failing",
        }
    }

    /// Why it is failing.
    pub fn reason(&self) -> Option<&str> {
        match self {
            PullStatus::Failing(reason) => Some(reason),
            _ => None,
        }
    }

    fn explanation(&self) -> &str {
        match self {
            PullStatus::Failing(reason) => reason,
            PullStatus::Unavailable => "Khoros offers no feed of events at SPREDFAST_API_URL",
            PullStatus::Off | PullStatus::Pending => "no subscription is known yet",
            PullStatus::Available => "the feeds can be read",
        }
    }
}

/// Logs the state of the feeds: each change, and once an hour while there is a problem.
pub struct StatusLog {
    mode: Mode,
    logged: &'static str,
    reminder: Reminder,
    alarm: Alarm,
    /// Since when nothing could be read.
    since: Option<Instant>,
}

impl StatusLog {
    pub fn new(mode: Mode, now: Instant, alerts: &Registry) -> StatusLog {
        let logged = PullStatus::Pending.as_str();
        let alarm = Alarm::new(alerts, "khoros.feeds", "");
        StatusLog { mode, logged, reminder: Reminder::default(), alarm, since: Some(now) }
    }

    pub fn log(&mut self, status: &PullStatus, now: Instant) {
        let (level, status, explanation) = (self.level(status, now), status.as_str(), status.explanation());
        match level {
            None => {}
            Some(Level::ERROR) => error!(
                event = "feed_status",
                alert = alerts::PULL,
                status,
                "no events arrive, since SPREDFAST_MODE=poll reads only feeds: {explanation}"
            ),
            Some(Level::WARN) => {
                warn!(event = "feed_status", status, "cannot read the feeds, trying again: {explanation}")
            }
            Some(_) => info!(event = "feed_status", status, "feed status: {explanation}"),
        }
    }

    /// The level at which to log the status now, if at all; an error has the code [`alerts::PULL`].
    fn level(&mut self, status: &PullStatus, now: Instant) -> Option<Level> {
        let has_changed = std::mem::replace(&mut self.logged, status.as_str()) != status.as_str();
        if *status == PullStatus::Available {
            self.reminder.clear();
            self.alarm.clear();
            self.since = None;
            return has_changed.then_some(Level::INFO);
        }
        let since = *self.since.get_or_insert(now);
        if self.mode == Mode::Poll && now.duration_since(since) >= ALARMING {
            let is_due = self.alarm.raise(alerts::PULL, status.explanation(), now);
            return is_due.then_some(Level::ERROR);
        }
        match (status, self.mode) {
            (PullStatus::Failing(reason), _) => self.reminder.is_due(reason, now).then_some(Level::WARN),
            (PullStatus::Unavailable, Mode::Poll) => has_changed.then_some(Level::WARN),
            (PullStatus::Unavailable, _) => has_changed.then_some(Level::INFO),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(mode: Mode, statuses: &[(u64, PullStatus)]) -> Vec<&'static str> {
        let start = Instant::now();
        let mut log = StatusLog::new(mode, start, &Registry::default());
        let level = |(minutes, status): &(u64, PullStatus)| match log
            .level(status, start + Duration::from_secs(minutes * 60))
        {
            None => "",
            Some(Level::INFO) => "info",
            Some(Level::WARN) => "warn",
            Some(_) => "alert",
        };
        statuses.iter().map(level).collect()
    }

    fn failing(reason: &str) -> PullStatus {
        PullStatus::Failing(reason.to_owned())
    }

    #[test]
    fn each_change_is_logged_once_and_a_failure_hourly() {
        use PullStatus::{Available, Pending, Unavailable};
        let statuses = [
            (0, Pending),
            (0, Unavailable),
            (90, Unavailable),
            (91, Available),
            (92, Available),
            (93, failing("down")),
            (94, failing("down")),
            (95, failing("wrong")),
            (155, failing("wrong")),
            (156, Available),
            (157, failing("wrong")),
        ];
        assert_eq!(
            levels(Mode::Both, &statuses),
            ["", "info", "", "info", "", "warn", "", "warn", "warn", "info", "warn"]
        );
    }

    #[test]
    fn feeds_that_are_the_only_origin_raise_an_alert() {
        use PullStatus::{Available, Pending, Unavailable};
        let statuses = [
            (0, Pending),
            (4, Pending),
            (5, Pending),
            (6, Unavailable),
            (64, Unavailable),
            (65, failing("down")),
            (66, failing("down")),
            (67, Available),
            (68, failing("down")),
            (72, failing("down")),
            (73, failing("down")),
        ];
        assert_eq!(
            levels(Mode::Poll, &statuses),
            ["", "", "alert", "", "", "alert", "", "info", "warn", "", "alert"]
        );
    }
}
