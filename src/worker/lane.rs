//! The state of one lane: is it the item that fails, or the way to the destination?
//!
//! While the way is down nothing burns a try: the lane pauses, one delivery probes, and the pause
//! grows. Time is an argument.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde::Serialize;
use tracing::{error, info, warn};

use crate::alert::{self, Reminder};
use crate::retry::{Outcome, Reason};

const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// So many different deliveries failing with no success between them: it is not the deliveries.
const SUSPECTS: usize = 3;
/// After this a pause is worth waking somebody.
const ALARMING: Duration = Duration::from_secs(300);

/// Whether deliveries may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// One, to see.
    Probe,
    Closed(Instant),
}

/// The lane as `/status` and the status line show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "reason")]
pub enum LaneStatus {
    /// Nothing was tried yet.
    Untried,
    Ok,
    Paused(String),
}

impl LaneStatus {
    pub fn word(&self) -> &'static str {
        match self {
            LaneStatus::Untried => "untried",
            LaneStatus::Ok => "ok",
            LaneStatus::Paused(_) => "paused",
        }
    }
}

#[derive(Debug)]
pub struct Lane {
    name: &'static str,
    worked: bool,
    down: Option<Down>,
    /// Deliveries that failed since the last success.
    suspects: HashSet<String>,
    reminder: Reminder,
}

#[derive(Debug)]
struct Down {
    since: Instant,
    until: Instant,
    step: Duration,
    reason: String,
    alert: Option<&'static str>,
}

impl Lane {
    pub fn new(name: &'static str) -> Lane {
        Lane { name, worked: false, down: None, suspects: HashSet::new(), reminder: Reminder::default() }
    }

    pub fn gate(&self, now: Instant) -> Gate {
        match &self.down {
            None => Gate::Open,
            Some(down) if now < down.until => Gate::Closed(down.until),
            Some(_) => Gate::Probe,
        }
    }

    pub fn status(&self) -> LaneStatus {
        match &self.down {
            Some(down) => LaneStatus::Paused(down.reason.clone()),
            None if self.worked => LaneStatus::Ok,
            None => LaneStatus::Untried,
        }
    }

    /// Takes note of how an attempt that began at `started` ended, and tells how it is to be seen:
    /// a delivery that fails because the lane does is only paused.
    pub fn observe(&mut self, delivery: &str, outcome: Outcome, started: Instant, now: Instant) -> Outcome {
        match outcome {
            Outcome::Pause { ref reason, retry_after, .. } => {
                self.pause(reason, retry_after, started, now);
                outcome
            }
            Outcome::Retry { reason, doubt } => {
                self.suspects.insert(delivery.to_owned());
                if self.suspects.len() < SUSPECTS {
                    return Outcome::Retry { reason, doubt };
                }
                self.pause(&reason, None, started, now);
                Outcome::Pause { reason, doubt, retry_after: None }
            }
            Outcome::Done { .. } | Outcome::Dead { .. } | Outcome::Wait { .. } => {
                self.works();
                outcome
            }
        }
    }

    /// The destination gave a definite answer.
    pub fn works(&mut self) {
        self.worked = true;
        self.suspects.clear();
        if self.down.take().is_some() {
            info!(destination = self.name, "{} works again", self.name);
            self.reminder.clear();
        }
    }

    /// The credential works, which disproves any pause but one for what creates are forbidden.
    pub fn checked(&mut self) {
        self.worked = true;
        if self.down.as_ref().is_some_and(|down| down.alert != Some(alert::ZENDESK_FORBIDDEN)) {
            self.works();
        }
    }

    /// Nothing gets through. What began before the pause is over tells nothing new.
    pub fn pause(&mut self, reason: &Reason, retry_after: Option<Duration>, started: Instant, now: Instant) {
        let step = match &self.down {
            Some(down) if started < down.until => return,
            Some(down) => (down.step * 2).min(LONGEST_PAUSE),
            None => FIRST_PAUSE,
        };
        let wait = retry_after.unwrap_or(step);
        let since = self.down.as_ref().map_or(now, |down| down.since);
        let (alert, text) = (reason.alert, reason.log.clone());
        self.down = Some(Down { since, until: now + wait, step, reason: text, alert });
        self.log(reason, wait, now.duration_since(since), now);
    }

    fn log(&mut self, reason: &Reason, wait: Duration, down_for: Duration, now: Instant) {
        let (destination, seconds, reason_text) = (self.name, wait.as_secs(), &reason.log);
        let code = reason.alert.or((down_for >= ALARMING).then_some(alert::ZENDESK_DOWN));
        match code {
            // Texts may differ in a request id from one time to the next; the code does not.
            Some(alert) if self.reminder.is_due(alert, now) => error!(
                alert,
                destination,
                "{destination} is paused, next try in {seconds} s, nothing is lost: {reason_text}"
            ),
            _ => warn!(
                destination,
                "{destination} is paused, next try in {seconds} s, nothing is lost: {reason_text}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::Doubt;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn pause() -> Outcome {
        Outcome::Pause { reason: Reason::new("down"), doubt: Doubt::None, retry_after: None }
    }

    fn retry() -> Outcome {
        Outcome::Retry { reason: Reason::new("500"), doubt: Doubt::Answered }
    }

    fn done() -> Outcome {
        Outcome::Done { reference: "1".to_owned() }
    }

    #[test]
    fn a_pause_grows_until_something_gets_through() {
        let start = Instant::now();
        let mut lane = Lane::new("zendesk");
        let mut now = start;
        for seconds in [5, 10, 20, 40, 60, 60] {
            lane.observe("a", pause(), now, now);
            assert_eq!(lane.gate(now), Gate::Closed(at(now, seconds)));
            now = at(now, seconds);
            assert_eq!(lane.gate(now), Gate::Probe);
        }
        lane.observe("a", done(), now, now);
        assert_eq!(lane.gate(now), Gate::Open);
        lane.observe("a", pause(), now, now);
        assert_eq!(lane.gate(now), Gate::Closed(at(now, 5)));
    }

    #[test]
    fn sixteen_failures_at_once_are_one() {
        let start = Instant::now();
        let mut lane = Lane::new("zendesk");
        for delivery in 0..16 {
            lane.observe(&delivery.to_string(), pause(), start, at(start, 1));
        }
        assert_eq!(lane.gate(at(start, 1)), Gate::Closed(at(start, 6)));
    }

    #[test]
    fn a_check_within_a_pause_does_not_lengthen_it() {
        let start = Instant::now();
        let mut lane = Lane::new("zendesk");
        lane.pause(&Reason::new("down"), None, start, start);
        lane.pause(&Reason::new("down"), None, at(start, 4), at(start, 4));
        assert_eq!(lane.gate(at(start, 5)), Gate::Probe);
    }

    #[test]
    fn retry_after_is_kept_to() {
        let start = Instant::now();
        let mut lane = Lane::new("zendesk");
        let retry_after = Some(Duration::from_secs(93));
        let outcome = Outcome::Pause { reason: Reason::new("429"), doubt: Doubt::None, retry_after };
        lane.observe("a", outcome, start, start);
        assert_eq!(lane.gate(start), Gate::Closed(at(start, 93)));
    }

    #[test]
    fn one_item_that_fails_is_its_own_fault_and_three_are_not() {
        let start = Instant::now();
        let mut lane = Lane::new("zendesk");
        for second in 0..10 {
            let now = at(start, second);
            assert_eq!(lane.observe("a", retry(), now, now), retry());
        }
        assert_eq!(lane.observe("b", retry(), start, start), retry());
        assert!(matches!(lane.observe("c", retry(), start, start), Outcome::Pause { .. }));
        assert!(matches!(lane.gate(start), Gate::Closed(_)));
        lane.observe("d", done(), at(start, 5), at(start, 5));
        assert_eq!(lane.observe("a", retry(), start, start), retry());
    }
}
