//! The alarms of a pause: one that a check of the credential can end, and one that only something sent can end.

use std::time::Instant;

use crate::alert::{Alarm, Registry};
use crate::delivery::Reason;

#[derive(Debug)]
pub struct Alarms {
    access: Alarm,
    sending: Alarm,
}

impl Alarms {
    /// `name` is that of the destination.
    pub fn new(registry: &Registry, name: &str) -> Alarms {
        Alarms {
            access: Alarm::new(registry, "destination.access", name),
            sending: Alarm::new(registry, "destination.sending", name),
        }
    }

    /// Raises an alarm instead of the other one. Returns whether to log it now.
    pub fn raise(&mut self, code: &'static str, reason: &Reason, now: Instant) -> bool {
        let (alarm, other) = match reason.until_sent {
            true => (&mut self.sending, &mut self.access),
            false => (&mut self.access, &mut self.sending),
        };
        other.clear();
        alarm.raise(code, &*reason.log, now)
    }

    /// The credential works, and nothing is known of a pause.
    pub fn access_works(&mut self) {
        self.access.clear();
    }

    /// Something was sent, or a pause is over.
    pub fn clear(&mut self) {
        self.access.clear();
        self.sending.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that has just started knows of no pause. A working credential does not show that items get through.
    #[test]
    fn a_working_credential_ends_only_what_is_about_access() {
        let (registry, now) = (Registry::default(), Instant::now());
        let mut alarms = Alarms::new(&registry, "test");
        alarms.access_works();
        assert!(registry.denies("destination.access", "test", "test_credential"));
        assert!(!registry.denies("destination.sending", "test", "test_refuses"));
        let reason = |until_sent| Reason { until_sent, ..Reason::new("refused") };
        assert!(alarms.raise("test_refuses", &reason(true), now));
        assert!(alarms.raise("test_credential", &reason(false), now));
        assert!(registry.denies("destination.sending", "test", "test_refuses"));
        assert_eq!(registry.current().len(), 1);
        alarms.clear();
        assert!(registry.current().is_empty());
    }
}
