//! How the feeds are doing, and when the log says so.

use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use crate::alert::{self, Reminder};
use crate::config::Mode;

/// If events come from the feeds alone, somebody should know after this that none do.
const ALARMING: Duration = Duration::from_secs(300);

/// The feeds of all routes, as `/status` and the status line show them: the one that is worst off.
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

impl PullStatus {
    pub fn word(&self) -> &'static str {
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
}

/// Logs the state of the feeds: each change, and while there is a problem once an hour.
pub struct StatusLog {
    mode: Mode,
    logged: &'static str,
    failing: Reminder,
    alarm: Reminder,
    /// Since when nothing could be read.
    since: Option<Instant>,
}

impl StatusLog {
    pub fn new(mode: Mode, now: Instant) -> StatusLog {
        let logged = PullStatus::Pending.word();
        StatusLog { mode, logged, failing: Reminder::default(), alarm: Reminder::default(), since: Some(now) }
    }

    pub fn log(&mut self, status: &PullStatus, now: Instant) {
        let word = status.word();
        match self.level(status, now) {
            None => {}
            Some(Level::Info) => {
                info!(event = "feed_status", status = word, "pull: {word}: {}", meaning(status))
            }
            Some(Level::Warn) => {
                warn!(event = "feed_status", status = word, "pull: {word}: {}", meaning(status))
            }
            Some(Level::Alarm) => error!(
                event = "feed_status",
                alert = alert::KHOROS_PULL,
                status = word,
                "no events arrive, since SPREDFAST_MODE=poll reads only feeds: {}",
                meaning(status)
            ),
        }
    }

    /// At which level the status is to be logged now, if at all.
    fn level(&mut self, status: &PullStatus, now: Instant) -> Option<Level> {
        let has_changed = std::mem::replace(&mut self.logged, status.word()) != status.word();
        if *status == PullStatus::Available {
            (self.failing, self.alarm, self.since) = Default::default();
            return has_changed.then_some(Level::Info);
        }
        let since = *self.since.get_or_insert(now);
        let is_alarming = !self.mode.pushes() && now.duration_since(since) >= ALARMING;
        if is_alarming && self.alarm.is_due(alert::KHOROS_PULL, now) {
            return Some(Level::Alarm);
        }
        match (status, self.mode) {
            (PullStatus::Failing(reason), _) => self.failing.is_due(reason, now).then_some(Level::Warn),
            (PullStatus::Unavailable, Mode::Poll) => has_changed.then_some(Level::Warn),
            (PullStatus::Unavailable, _) => has_changed.then_some(Level::Info),
            _ => None,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Level {
    Info,
    Warn,
    /// With the code [`alert::KHOROS_PULL`].
    Alarm,
}

fn meaning(status: &PullStatus) -> &str {
    match status {
        PullStatus::Failing(reason) => reason,
        PullStatus::Unavailable => "Khoros offers no feed of events at SPREDFAST_API_URL",
        PullStatus::Off | PullStatus::Pending => "no subscription is known yet",
        PullStatus::Available => "the feeds can be read",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(mode: Mode, statuses: &[(u64, PullStatus)]) -> Vec<&'static str> {
        let start = Instant::now();
        let mut log = StatusLog::new(mode, start);
        let level = |(minutes, status): &(u64, PullStatus)| match log
            .level(status, start + Duration::from_secs(minutes * 60))
        {
            None => "",
            Some(Level::Info) => "info",
            Some(Level::Warn) => "warn",
            Some(Level::Alarm) => "alarm",
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
    fn where_nothing_else_brings_events_somebody_has_to_act() {
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
            ["", "", "alarm", "warn", "", "alarm", "warn", "info", "warn", "", "alarm"]
        );
    }
}
