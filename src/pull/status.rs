//! How the feeds are doing, and when the log says so.

use std::time::{Duration, Instant};

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

/// A line that is due.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    Info(String),
    Warn(String),
    /// With the code [`alert::KHOROS_PULL`].
    Alarm(String),
}

/// Decides when the state of the feeds is worth a line: at a change, and where it matters once an hour.
pub struct Teller {
    mode: Mode,
    said: &'static str,
    failing: Reminder,
    alarm: Reminder,
    /// Since when nothing could be read.
    since: Option<Instant>,
}

impl Teller {
    pub fn new(mode: Mode, now: Instant) -> Teller {
        let said = PullStatus::Pending.word();
        Teller { mode, said, failing: Reminder::default(), alarm: Reminder::default(), since: Some(now) }
    }

    pub fn line(&mut self, status: &PullStatus, now: Instant) -> Option<Line> {
        let has_changed = std::mem::replace(&mut self.said, status.word()) != status.word();
        if *status == PullStatus::Available {
            (self.failing, self.alarm, self.since) = Default::default();
            return has_changed.then(|| Line::Info("pull: available".to_owned()));
        }
        let since = *self.since.get_or_insert(now);
        let is_alarming = !self.mode.pushes() && now.duration_since(since) >= ALARMING;
        if is_alarming && self.alarm.is_due(alert::KHOROS_PULL, now) {
            return Some(Line::Alarm(format!(
                "no events come: SPREDFAST_MODE=poll knows no other way than the feeds ({})",
                reason(status)
            )));
        }
        match (status, self.mode) {
            (PullStatus::Failing(reason), _) => {
                self.failing.is_due(reason, now).then(|| Line::Warn(format!("pull: failing: {reason}")))
            }
            (PullStatus::Unavailable, mode) if has_changed => Some(unavailable(mode)),
            _ => None,
        }
    }
}

fn unavailable(mode: Mode) -> Line {
    let what = format!("pull: unavailable: {}", reason(&PullStatus::Unavailable));
    match mode {
        Mode::Poll => Line::Warn(format!("{what}, and nothing else brings events")),
        _ => Line::Info(format!("{what}: what a push loses stays lost")),
    }
}

fn reason(status: &PullStatus) -> &str {
    match status {
        PullStatus::Failing(reason) => reason,
        PullStatus::Unavailable => "Khoros offers no feed of events at SPREDFAST_API_URL",
        PullStatus::Off | PullStatus::Pending | PullStatus::Available => "no subscription is known yet",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(mode: Mode, statuses: &[(u64, PullStatus)]) -> Vec<Option<Line>> {
        let start = Instant::now();
        let mut teller = Teller::new(mode, start);
        let line = |(minutes, status): &(u64, PullStatus)| {
            teller.line(status, start + Duration::from_secs(minutes * 60))
        };
        statuses.iter().map(line).collect()
    }

    fn words(lines: Vec<Option<Line>>) -> Vec<&'static str> {
        let word = |line| match line {
            None => "",
            Some(Line::Info(_)) => "info",
            Some(Line::Warn(_)) => "warn",
            Some(Line::Alarm(_)) => "alarm",
        };
        lines.into_iter().map(word).collect()
    }

    fn failing(reason: &str) -> PullStatus {
        PullStatus::Failing(reason.to_owned())
    }

    #[test]
    fn each_change_is_told_once_and_a_failure_hourly() {
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
            words(told(Mode::Both, &statuses)),
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
            words(told(Mode::Poll, &statuses)),
            ["", "", "alarm", "warn", "", "alarm", "warn", "info", "warn", "", "alarm"]
        );
    }
}
