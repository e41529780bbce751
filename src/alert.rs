//! Alerts, which somebody has to act on: logged when they begin or change, and then once an hour.

use std::time::{Duration, Instant};

/// Zendesk refuses the credential.
pub const ZENDESK_CREDENTIAL: &str = "zendesk_credential";
/// Zendesk accepts the credential, but refuses a permission that casebridge needs.
pub const ZENDESK_FORBIDDEN: &str = "zendesk_forbidden";
/// There is no Zendesk at `ZENDESK_API_URL`.
pub const ZENDESK_ADDRESS: &str = "zendesk_address";
/// Zendesk refuses ticket after ticket for the same reason.
pub const ZENDESK_REFUSES: &str = "zendesk_refuses";
/// Zendesk refuses fields that `TICKET_…` sets, and tickets are created without them.
pub const ZENDESK_FIELDS: &str = "zendesk_fields";
/// A ticket is not found, and not known to be deleted.
pub const ZENDESK_TICKET_HIDDEN: &str = "zendesk_ticket_hidden";
/// A first comment is public and should be private, or the reverse.
pub const ZENDESK_PRIVACY: &str = "zendesk_privacy";
/// Zendesk has not been usable for minutes.
pub const ZENDESK_DOWN: &str = "zendesk_down";
/// Deliveries were given up.
pub const DELIVERY_DEAD: &str = "delivery_dead";
/// Khoros refuses the token.
pub const KHOROS_TOKEN: &str = "khoros_token";
/// There is no Khoros API at `SPREDFAST_API_URL`.
pub const KHOROS_ADDRESS: &str = "khoros_address";
/// Khoros has not accepted the subscription for minutes.
pub const KHOROS_DOWN: &str = "khoros_down";
/// Another deployment keeps taking over the subscription.
pub const SUBSCRIPTION_CONTESTED: &str = "subscription_contested";
/// Events come only from the feeds, and cannot be read; or one event never can be.
pub const KHOROS_PULL: &str = "khoros_pull";
/// The public address is unknown, so casebridge cannot subscribe.
pub const PUBLIC_URL: &str = "public_url";
/// A busy route has no events any longer.
pub const ROUTE_SILENT: &str = "route_silent";
/// The database does not answer, or refuses writes.
pub const STORAGE: &str = "storage";
/// The service does not start: settings are missing or wrong.
pub const CONFIGURATION: &str = "configuration";
/// The service does not start, or has ended, because of this machine or a defect.
pub const START: &str = "start";
/// A defect of casebridge itself.
pub const PANIC: &str = "panic";

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

    #[test]
    fn every_code_has_its_remedy_in_the_readme() {
        let readme = include_str!("../README.md");
        let source = include_str!("alert.rs");
        let codes = source.lines().filter_map(|line| {
            line.strip_prefix("pub const ")?.split_once("&str = \"")?.1.strip_suffix("\";")
        });
        let codes: Vec<_> = codes.collect();
        assert_eq!(codes.len(), 20);
        for code in codes {
            assert!(readme.contains(&format!("| `{code}` |")), "{code} is not in the README");
        }
    }
}
