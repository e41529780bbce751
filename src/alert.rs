//! Alerts, which somebody has to act on: logged when they begin or change, and then once an hour.

use std::time::{Duration, Instant};

/// Declares codes as constants, and `ALERT_CODES` with all of them. Each module declares its own.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $code;)*

        /// The codes of this module's alerts. `docs/operations.md` has a remedy for each.
        pub const ALERT_CODES: &[&str] = &[$($name),*];
    };
}

pub(crate) use codes;

codes! {
    /// Deliveries were given up.
    DELIVERY_DEAD = "delivery_dead";
    /// The database does not answer, or refuses writes.
    STORAGE = "storage";
    /// The service does not start: settings are missing or wrong.
    CONFIGURATION = "configuration";
    /// The service does not start, or has ended, because of this machine or a defect.
    START = "start";
    /// A defect of casebridge itself.
    PANIC = "panic";
}

/// How often a condition that lasts is logged again.
pub const REMINDER: Duration = Duration::from_secs(3600);

/// Decides when to log a lasting condition.
#[derive(Debug, Default)]
pub struct Reminder {
    /// The last logged text, and when it was logged.
    last: Option<(String, Instant)>,
}

impl Reminder {
    /// Whether `text` is to be logged now: it is new, it has changed, or an hour has passed.
    pub fn is_due(&mut self, text: &str, now: Instant) -> bool {
        let is_same = |(last, at): &(String, Instant)| last == text && now.duration_since(*at) < REMINDER;
        let due = !self.last.as_ref().is_some_and(is_same);
        if due {
            self.last = Some((text.to_owned(), now));
        }
        due
    }

    /// Ends the condition. True if it was logged.
    pub fn clear(&mut self) -> bool {
        self.last.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_on_change_and_then_hourly() {
        let start = Instant::now();
        let mut reminder = Reminder::default();
        for (text, minutes, due) in [
            ("down", 0, true),
            ("down", 59, false),
            ("down", 60, true),
            ("down", 119, false),
            ("refused", 119, true),
        ] {
            assert_eq!(reminder.is_due(text, start + Duration::from_secs(minutes * 60)), due, "{minutes}");
        }
        assert!(reminder.clear() && !reminder.clear());
        assert!(reminder.is_due("refused", start + Duration::from_secs(120 * 60)));
    }
}
