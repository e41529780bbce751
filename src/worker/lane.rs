//! The state of a destination's lane: decides whether a delivery failed, or the destination.
//!
//! While the destination is down, no delivery uses up a try: the destination is paused, one delivery probes, and
//! the pause grows. A delivery uses up its schedule only by failing while others pass. Time is an argument.

mod alarms;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use serde::Serialize;
use tracing::{error, info, warn};

use crate::alert::Registry;
use crate::delivery::{Action, Doubt, Outcome, Reason};
use crate::destination::Alerts;
use alarms::Alarms;

const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// After failures of this many different deliveries without a success in between, the destination is at fault.
const SUSPECTS: usize = 3;
/// The longest wait of a delivery that fails while no other passes.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// The number of blocked deliveries at which all of them are forgotten, to bound memory.
const BLOCKED: usize = 1000;
/// After this time, a pause raises an alert.
const ALARMING: Duration = Duration::from_secs(300);

/// Whether deliveries may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// A single one may, as a probe.
    Probe,
    Closed(Instant),
}

/// The state of the destination, as `/status` and the status line show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "reason")]
pub enum LaneStatus {
    /// Nothing has been sent yet.
    Untried,
    Ok,
    Paused(String),
}

impl LaneStatus {
    pub fn is_paused(&self) -> bool {
        matches!(self, LaneStatus::Paused(_))
    }

    pub fn as_str(&self) -> &'static str {
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
    alerts: Alerts,
    has_worked: bool,
    down: Option<Down>,
    /// When the first delivery failed since the last success.
    failing_since: Option<Instant>,
    /// Deliveries that failed since the last success, and how often.
    suspects: HashMap<String, u32>,
    /// Deliveries that were blocked.
    blocked: HashMap<String, Blocked>,
    /// Deliveries that were refused for the same reason since the last success.
    refused: HashSet<String>,
    refusal: String,
    alarms: Alarms,
}

/// When a delivery was blocked.
#[derive(Debug)]
struct Blocked {
    at: Instant,
    /// Another delivery has passed since.
    others_pass: bool,
}

#[derive(Debug)]
struct Down {
    since: Instant,
    paused_at: Instant,
    until: Instant,
    /// The destination requested the pause with a `Retry-After`.
    asked_for: bool,
    step: Duration,
    reason: String,
    until_sent: bool,
}

impl Lane {
    pub fn new(name: &'static str, alerts: Alerts, registry: &Registry) -> Lane {
        Lane {
            name,
            alerts,
            has_worked: false,
            down: None,
            failing_since: None,
            suspects: HashMap::new(),
            blocked: HashMap::new(),
            refused: HashSet::new(),
            refusal: String::new(),
            alarms: Alarms::new(registry, name),
        }
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
            None if self.has_worked => LaneStatus::Ok,
            None => LaneStatus::Untried,
        }
    }

    /// Records the outcome of an attempt that began at `started`. Returns the outcome to settle: if the
    /// destination is at fault, the delivery is only paused.
    pub fn observe(&mut self, delivery: &str, outcome: Outcome, started: Instant, now: Instant) -> Outcome {
        match outcome {
            Outcome::Pause { ref reason, retry_after, .. } => {
                self.pause(reason, retry_after, started, now);
                outcome
            }
            Outcome::Blocked { reason, doubt } => self.blocked(delivery, reason, doubt, started, now),
            Outcome::Retry { reason, doubt } => self.failed(delivery, reason, doubt, started, now),
            Outcome::Refused { reason } => self.refused(delivery, reason, started, now),
            Outcome::Uncertain { ref reason } => {
                self.pause(reason, None, started, now);
                outcome
            }
            Outcome::Dead { .. } | Outcome::Stuck { .. } => {
                self.checked(started);
                outcome
            }
            Outcome::Done { action, .. } => {
                self.blocked.remove(delivery);
                match action {
                    Action::Ignored | Action::NoNumber => {}
                    Action::Created | Action::FollowedUp | Action::Sent => self.sent(started),
                    // Creates may still be blocked: lookups and comments do not show that.
                    _ => self.checked(started),
                }
                outcome
            }
            // This says nothing about other deliveries.
            Outcome::Wait { .. } | Outcome::Later { .. } => outcome,
        }
    }

    /// A firewall may block one post for its text. If another delivery passed since this one was blocked, only
    /// this one fails. Otherwise the destination is paused.
    fn blocked(
        &mut self,
        delivery: &str,
        reason: Reason,
        doubt: Doubt,
        started: Instant,
        now: Instant,
    ) -> Outcome {
        if self.blocked.get(delivery).is_some_and(|blocked| blocked.others_pass) {
            return self.failed(delivery, reason, doubt, started, now);
        }
        if self.blocked.len() >= BLOCKED {
            self.blocked.clear();
        }
        self.blocked.insert(delivery.to_owned(), Blocked { at: now, others_pass: false });
        self.pause(&reason, None, started, now);
        Outcome::Pause { reason, doubt, retry_after: None }
    }

    /// If several deliveries fail, or nothing has passed for minutes, the destination is at fault. A single one uses up
    /// a try only if another has passed since it last failed.
    fn failed(
        &mut self,
        delivery: &str,
        reason: Reason,
        doubt: Doubt,
        started: Instant,
        now: Instant,
    ) -> Outcome {
        let failures = self.suspects.entry(delivery.to_owned()).or_default();
        *failures += 1;
        let failures = *failures;
        let failing_since = *self.failing_since.get_or_insert(now);
        if self.suspects.len() >= SUSPECTS || now.duration_since(failing_since) >= ALARMING {
            self.pause(&reason, None, started, now);
            return Outcome::Pause { reason, doubt, retry_after: None };
        }
        match failures {
            1 => Outcome::Retry { reason, doubt },
            _ => {
                let wait = FIRST_PAUSE * 2u32.pow((failures - 2).min(7));
                Outcome::Wait { reason, doubt, wait: wait.min(LONGEST_WAIT) }
            }
        }
    }

    /// If several deliveries are refused for the same reason, the cause is more likely a setting or a new rule of
    /// the destination than each single item.
    fn refused(&mut self, delivery: &str, reason: Reason, started: Instant, now: Instant) -> Outcome {
        if self.refusal != reason.kind {
            self.refused.clear();
            self.refusal.clone_from(&reason.kind);
        }
        self.refused.insert(delivery.to_owned());
        if self.refused.len() < SUSPECTS {
            self.answered(started);
            return Outcome::Refused { reason };
        }
        let reason = Reason { alert: Some(self.alerts.refuses), until_sent: true, ..reason };
        self.pause(&reason, None, started, now);
        Outcome::Pause { reason, doubt: Doubt::None, retry_after: None }
    }

    /// The destination took a new item.
    fn sent(&mut self, started: Instant) {
        self.refused.clear();
        for blocked in self.blocked.values_mut().filter(|blocked| blocked.at <= started) {
            blocked.others_pass = true;
        }
        self.answered(started);
        if self.down.is_none() {
            self.alarms.clear();
        }
    }

    /// The destination gave a definite answer. Answers to requests from before the pause prove nothing.
    fn answered(&mut self, started: Instant) {
        self.has_worked = true;
        self.suspects.clear();
        self.failing_since = None;
        if self.down.as_ref().is_some_and(|down| started >= down.paused_at) {
            self.down = None;
            self.alarms.clear();
            info!(event = "destination_resumed", destination = self.name, "{} works again", self.name);
        }
    }

    /// The destination answers and the credential works. That ends a pause, unless the destination requested it
    /// and it is not over, or only something sent can end it.
    pub fn checked(&mut self, started: Instant) {
        self.has_worked = true;
        let Some(down) = &self.down else { return self.alarms.access_works() };
        let is_asked_for = down.asked_for && started < down.until;
        if !(down.until_sent || is_asked_for) {
            self.answered(started);
        }
    }

    /// Starts or prolongs a pause. Attempts that began before the end of the pause do not prolong it.
    pub fn pause(&mut self, reason: &Reason, retry_after: Option<Duration>, started: Instant, now: Instant) {
        let step = match &self.down {
            Some(down) if started < down.until => return,
            Some(down) => (down.step * 2).min(LONGEST_PAUSE),
            None => FIRST_PAUSE,
        };
        // A repeated `Retry-After: 0` must not lead to a busy loop.
        let wait = match (retry_after, &self.down) {
            (Some(asked), None) => asked.max(Duration::from_secs(1)),
            (Some(asked), Some(_)) => asked.max(step),
            (None, _) => step,
        };
        let since = self.down.as_ref().map(|down| down.since).or(self.failing_since).unwrap_or(now);
        let (until, asked_for) = (now + wait, retry_after.is_some());
        let (text, until_sent) = (reason.log.clone(), reason.until_sent);
        self.down = Some(Down { since, paused_at: now, until, asked_for, step, reason: text, until_sent });
        self.log(reason, wait, now.duration_since(since), now);
    }

    fn log(&mut self, reason: &Reason, wait: Duration, down_for: Duration, now: Instant) {
        let (destination, seconds, reason_text) = (self.name, wait.as_secs(), &reason.log);
        let code = reason.alert.or((down_for.max(wait) >= ALARMING).then_some(self.alerts.down));
        match code {
            Some(alert) if self.alarms.raise(alert, reason, now) => error!(
                event = "destination_paused",
                alert,
                destination,
                "{destination} is paused, next try in {seconds} s, its deliveries wait: {reason_text}"
            ),
            _ => warn!(
                event = "destination_paused",
                destination,
                "{destination} is paused, next try in {seconds} s, its deliveries wait: {reason_text}"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
