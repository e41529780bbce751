//! The targets of a destination, such as the channels of a chat: each has one delivery at a time, its own pace and its
//! own pauses, so that a broken target does not hold up the others. Time is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::{error, info, warn};

use crate::alert::Reminder;

const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// After this time, a pause raises an alert.
const ALARMING: Duration = Duration::from_secs(300);

/// The state of all targets, in this process.
pub struct Targets {
    destination: &'static str,
    /// The code of the alert that a target is paused.
    alert: &'static str,
    /// The least time between two requests to one target.
    pace: Duration,
    known: Mutex<BTreeMap<String, Target>>,
}

#[derive(Default)]
struct Target {
    is_busy: bool,
    /// No request before this time.
    next: Option<Instant>,
    /// The turn of the delivery that has to wait longest.
    last_turn: Option<Instant>,
    pause: Option<Pause>,
    reminder: Reminder,
}

struct Pause {
    since: Instant,
    until: Instant,
    step: Duration,
    reason: String,
}

/// Whether a delivery may go to its target.
pub enum Turn<'a> {
    /// It may, and no other may until this is dropped.
    Now(Exclusive<'a>),
    /// Others go first, for about this time.
    Later(Duration),
    /// The target is paused, for this reason.
    Paused(String),
}

/// The exclusive use of a target.
pub struct Exclusive<'a> {
    targets: &'a Targets,
    name: &'a str,
}

impl Targets {
    pub fn new(destination: &'static str, alert: &'static str, pace: Duration) -> Targets {
        Targets { destination, alert, pace, known: Mutex::default() }
    }

    /// Gives a delivery its turn. After a pause, one delivery goes first.
    pub fn take_turn<'a>(&'a self, name: &'a str, now: Instant) -> Turn<'a> {
        let mut known = self.known.lock();
        let target = known.entry(name.to_owned()).or_default();
        if let Some(pause) = target.pause.as_ref().filter(|pause| now < pause.until) {
            return Turn::Paused(pause.reason.clone());
        }
        if target.is_busy {
            let turn = target.last_turn.map_or(now, |last| last.max(now)) + self.pace;
            target.last_turn = Some(turn);
            return Turn::Later(turn - now);
        }
        target.is_busy = true;
        Turn::Now(Exclusive { targets: self, name })
    }

    /// Whether deliveries to a target may be tried.
    pub fn is_open(&self, name: &str, now: Instant) -> bool {
        let known = self.known.lock();
        known.get(name).and_then(|target| target.pause.as_ref()).is_none_or(|pause| now >= pause.until)
    }

    /// Whether a target is paused, or was when something was last sent to it.
    pub fn is_paused(&self, name: &str) -> bool {
        self.known.lock().get(name).is_some_and(|target| target.pause.is_some())
    }
}

impl Exclusive<'_> {
    /// Returns the wait before the next request, and counts this request.
    pub fn pace(&self, now: Instant) -> Duration {
        self.change(|target| {
            let at = target.next.map_or(now, |next| next.max(now));
            target.next = Some(at + self.targets.pace);
            at - now
        })
    }

    /// Pauses the target, for `asked` or longer and longer. `needs_action`: waiting does not mend it.
    pub fn pause(&self, reason: &str, asked: Option<Duration>, needs_action: bool, now: Instant) {
        let (wait, is_alarming) = self.change(|target| {
            let last = target.pause.take();
            let step = last.as_ref().map_or(FIRST_PAUSE, |last| (last.step * 2).min(LONGEST_PAUSE));
            let since = last.map_or(now, |last| last.since);
            let wait = asked.map_or(step, |asked| asked.max(Duration::from_secs(1)));
            let has_lasted = now.duration_since(since).max(wait) >= ALARMING;
            let is_alarming = (needs_action || has_lasted) && target.reminder.is_due(reason, now);
            target.pause = Some(Pause { since, until: now + wait, step, reason: reason.to_owned() });
            (wait, is_alarming)
        });
        let Targets { destination, alert, .. } = self.targets;
        let (recipient, seconds) = (self.name, wait.as_secs());
        match is_alarming {
            true => error!(
                event = "target_paused",
                alert,
                destination,
                recipient,
                "{destination} {recipient} is paused, next try in {seconds} s: {reason}"
            ),
            false => warn!(
                event = "target_paused",
                destination,
                recipient,
                "{destination} {recipient} is paused, next try in {seconds} s: {reason}"
            ),
        }
    }

    /// Ends a pause, if there is one.
    pub fn resume(&self) {
        let was_paused = self.change(|target| {
            target.reminder.clear();
            target.pause.take().is_some()
        });
        if was_paused {
            let (destination, recipient) = (self.targets.destination, self.name);
            info!(event = "target_resumed", destination, recipient, "{destination} {recipient} works again");
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Target) -> T) -> T {
        change(self.targets.known.lock().entry(self.name.to_owned()).or_default())
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        self.change(|target| target.is_busy = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn targets() -> Targets {
        Targets::new("test", "test_target", SECOND)
    }

    fn wait(turn: &Turn) -> Option<Duration> {
        match turn {
            Turn::Now(_) => Some(Duration::ZERO),
            Turn::Later(wait) => Some(*wait),
            Turn::Paused(_) => None,
        }
    }

    #[test]
    fn a_target_has_one_delivery_at_a_time_and_others_have_theirs() {
        let (targets, now) = (targets(), Instant::now());
        let first = targets.take_turn("a", now);
        assert_eq!(wait(&first), Some(Duration::ZERO));
        assert_eq!(wait(&targets.take_turn("b", now)), Some(Duration::ZERO));
        // Each gets a turn of its own.
        for seconds in 1..=3 {
            assert_eq!(wait(&targets.take_turn("a", now)), Some(SECOND * seconds));
        }
        drop(first);
        assert_eq!(wait(&targets.take_turn("a", now)), Some(Duration::ZERO));
    }

    #[test]
    fn requests_keep_their_pace() {
        let (targets, now) = (targets(), Instant::now());
        let Turn::Now(turn) = targets.take_turn("a", now) else { panic!("it is free") };
        assert_eq!(turn.pace(now), Duration::ZERO);
        assert_eq!(turn.pace(now), SECOND);
        assert_eq!(turn.pace(now + SECOND * 5), Duration::ZERO);
    }

    #[test]
    fn a_pause_grows_until_something_passes() {
        let (targets, mut now) = (targets(), Instant::now());
        for seconds in [5, 10, 20, 40, 60, 60] {
            let Turn::Now(turn) = targets.take_turn("a", now) else { panic!("it is open") };
            turn.pause("archived", None, true, now);
            drop(turn);
            assert!(!targets.is_open("a", now + SECOND * (seconds - 1)));
            assert!(!targets.is_open("a", now) && targets.is_paused("a") && targets.is_open("b", now));
            assert!(matches!(targets.take_turn("a", now), Turn::Paused(reason) if reason == "archived"));
            now += SECOND * seconds;
            assert!(targets.is_open("a", now));
        }
        let Turn::Now(turn) = targets.take_turn("a", now) else { panic!("it is open") };
        turn.resume();
        assert!(!targets.is_paused("a"));
        turn.pause("archived", None, true, now);
        assert!(targets.is_open("a", now + FIRST_PAUSE));
    }
}
