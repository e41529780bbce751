//! What a destination knows of the deliveries that a limit of it holds back: which routes or channels have some, as far
//! as this process has seen, when it looks again whether they can go on, and their alert.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::alert::{Alarm, Registry};
use crate::delivery::Outcome;

/// Held deliveries are woken. This is for the case that no process does.
const FALLBACK: Duration = Duration::from_secs(24 * 3600);
/// The time between two checks whether held deliveries can go on.
pub const CHECK_EVERY: Duration = Duration::from_secs(2);
/// The same while this process knows of none.
const CHECK_SELDOM: Duration = Duration::from_secs(60);
/// The pause between checks is at least this many times as long as a check.
const CHECK_SHARE: u32 = 20;

/// The routes or channels with held deliveries.
pub struct Held {
    /// The name under which it reports to the registry of alerts.
    source: &'static str,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// By route or channel.
    alarms: BTreeMap<String, Alarm>,
    /// `None`: none was made yet.
    next_check: Option<Instant>,
    /// Something was held since the last check began, perhaps too late for it.
    is_new: bool,
}

/// The outcome of a delivery that a limit holds back. The random wait spreads the retries.
pub fn hold(reason: &str) -> Outcome {
    Outcome::held(reason, FALLBACK.mul_f64(1.0 + fastrand::f64()))
}

impl Held {
    pub fn new(source: &'static str) -> Held {
        Held { source, known: Mutex::default() }
    }

    /// Remembers that a delivery is held.
    pub fn begin(&self, name: &str, alerts: &Registry) {
        let mut known = self.known.lock();
        if !known.alarms.contains_key(name) {
            known.alarms.insert(name.to_owned(), Alarm::new(alerts, self.source, name));
            known.check_soon();
        }
    }

    /// Whether deliveries of this route or channel are held: they go before new ones.
    pub fn has(&self, name: &str) -> bool {
        self.known.lock().alarms.contains_key(name)
    }

    /// Whether it is time for a check.
    pub fn is_due(&self, now: Instant) -> bool {
        self.known.lock().next_check.is_none_or(|next| next <= now)
    }

    pub fn check_soon(&self) {
        self.known.lock().check_soon();
    }

    /// Raises the alert that deliveries wait. Returns whether to log it now.
    pub fn raise(&self, name: &str, code: &'static str, detail: String, alerts: &Registry) -> bool {
        let mut known = self.known.lock();
        let alarm = || Alarm::new(alerts, self.source, name);
        known.alarms.entry(name.to_owned()).or_insert_with(alarm).raise(code, detail, Instant::now())
    }

    /// Ends a check that began at `started` and found these. Returns those that are over and whose alert was logged.
    pub fn checked<'a>(&self, found: impl IntoIterator<Item = &'a str>, started: Instant) -> Vec<String> {
        let found: Vec<&str> = found.into_iter().collect();
        let mut known = self.known.lock();
        // One that has just been held may not be stored yet.
        let is_new = std::mem::take(&mut known.is_new);
        let is_known = is_new || !found.is_empty() || !known.alarms.is_empty();
        let least = if is_known { CHECK_EVERY } else { CHECK_SELDOM };
        let now = Instant::now();
        known.next_check = Some(now + (now.duration_since(started) * CHECK_SHARE).max(least));
        let mut over = Vec::new();
        known.alarms.retain(|name, alarm| {
            let lasts = found.contains(&name.as_str());
            if !lasts && alarm.clear() {
                over.push(name.clone());
            }
            lasts
        });
        over
    }
}

impl Known {
    fn check_soon(&mut self) {
        self.is_new = true;
        let soon = Instant::now() + CHECK_EVERY;
        self.next_check = self.next_check.map(|next| next.min(soon));
    }
}
