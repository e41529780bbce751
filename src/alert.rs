//! Alerts, which somebody has to act on: logged when they begin or change, and then once an hour.
//!
//! The modules of a process report to its [`Registry`] which conditions begin and end. `notify` stores these reports
//! with those of other processes, and sends notices.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// A code of alerts, and what it means.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    pub name: &'static str,
    /// One sentence or more.
    pub meaning: &'static str,
}

/// Declares codes as constants, and `ALERT_CODES` with all of them. Their doc comments are their meanings. Each module
/// declares its own.
macro_rules! codes {
    ($($(#[doc = $meaning:literal])* $name:ident = $code:literal;)*) => {
        $($(#[doc = $meaning])* pub const $name: &str = $code;)*

        /// The codes of this module's alerts. `docs/alerts.md` has a remedy for each.
        pub const ALERT_CODES: &[$crate::alert::Code] =
            &[$($crate::alert::Code { name: $name, meaning: concat!($($meaning),*).trim_ascii() }),*];
    };
}

pub(crate) use codes;

codes! {
    /// casebridge has given deliveries up.
    DELIVERY_DEAD = "delivery_dead";
    /// The database does not answer, or refuses writes.
    STORAGE = "storage";
    /// A credential expires soon, or has expired.
    CREDENTIAL_EXPIRES = "credential_expires";
    /// The service does not start: settings are missing or wrong.
    CONFIGURATION = "configuration";
    /// The service does not start, or has ended, because of this machine or a defect.
    START = "start";
    /// A part of casebridge failed because of a defect.
    PANIC = "panic";
}

/// How often a condition that lasts is logged again, and how long an event counts as an alert.
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

/// How urgent an alert is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Severity {
    /// Good to know; no daily reminder.
    Info,
    /// Somebody has to act soon; no daily reminder.
    Warning,
    /// Somebody has to act now.
    #[default]
    Error,
}

impl Severity {
    /// The name, as the database and PagerDuty have it.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// An alert as it is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub code: &'static str,
    /// The subject, such as a route; empty if there is only one.
    pub subject: String,
    /// The part of the service that reports it.
    pub source: &'static str,
    pub severity: Severity,
    /// The reason, without text from a customer.
    pub detail: String,
    /// An event: it is over after [`REMINDER`] unless it happens again. Otherwise it is a condition, which lasts until
    /// it is reported as over.
    pub is_event: bool,
}

/// The reports of the modules of one process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    reports: Mutex<Reports>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Reports {
    /// The conditions by source and subject; `None`: all is well.
    conditions: BTreeMap<(&'static str, String), Option<Report>>,
    /// Events and failures that are not stored yet, by code and subject.
    events: BTreeMap<(&'static str, String), Report>,
}

impl Registry {
    /// Reports something that has happened. The same code and subject is one alert, however often it happens.
    pub fn happened(&self, code: &'static str, subject: &str, detail: impl Into<String>) {
        let report = once(code, subject, detail.into(), true);
        self.0.reports.lock().events.insert((code, subject.to_owned()), report);
        self.0.changed.notify_one();
    }

    /// Reports a failure of something that is tried again and again. Its alert fires if it still fails after the time
    /// for which a condition has to last, and is over after [`REMINDER`] without a failure. Until it is stored, the
    /// first reason counts: later ones may be its consequences.
    pub fn failed(&self, code: &'static str, subject: &str, detail: impl Into<String>) {
        let report = once(code, subject, detail.into(), false);
        // This wakes no task: there may be hundreds a second.
        self.0.reports.lock().events.entry((code, subject.to_owned())).or_insert(report);
    }

    /// Reports a condition. It replaces the previous one of its source and subject.
    pub fn begins(&self, report: Report) {
        let key = (report.source, report.subject.clone());
        self.0.reports.lock().conditions.insert(key, Some(report));
        self.0.changed.notify_one();
    }

    /// Reports that all is well with a subject, as far as its source can see.
    pub fn is_over(&self, source: &'static str, subject: &str) {
        let last = self.0.reports.lock().conditions.insert((source, subject.to_owned()), None);
        if last != Some(None) {
            self.0.changed.notify_one();
        }
    }

    /// The conditions that last, and the events that were not yet taken.
    pub fn current(&self) -> Vec<Report> {
        let reports = self.0.reports.lock();
        reports.conditions.values().flatten().chain(reports.events.values()).cloned().collect()
    }

    /// Forgets events and failures that were stored.
    pub fn stored(&self, stored: &[Report]) {
        let mut reports = self.0.reports.lock();
        for report in stored.iter().filter(|report| report.source.is_empty()) {
            let key = (report.code, report.subject.clone());
            // It may have happened again, for another reason.
            if reports.events.get(&key) == Some(report) {
                reports.events.remove(&key);
            }
        }
    }

    /// Whether this source has reported on the subject, but not with this code.
    pub fn denies(&self, source: &str, subject: &str, code: &str) -> bool {
        let reports = self.0.reports.lock();
        let condition = reports.conditions.iter().find(|(key, _)| key.0 == source && key.1 == subject);
        condition.is_some_and(|(_, report)| report.as_ref().is_none_or(|report| report.code != code))
    }

    /// Completes once something is reported, or at once if that happened before the call.
    pub fn changed(&self) -> Notified<'_> {
        self.0.changed.notified()
    }
}

/// A report that is stored once.
fn once(code: &'static str, subject: &str, detail: String, is_event: bool) -> Report {
    Report { code, subject: subject.to_owned(), source: "", severity: Severity::Error, detail, is_event }
}

/// A condition of one subject that a module watches: reports it, and decides when to log it.
#[derive(Debug)]
pub struct Alarm {
    registry: Registry,
    source: &'static str,
    subject: String,
    reminder: Reminder,
    /// It was reported as over.
    is_over: bool,
}

impl Alarm {
    /// `source` names the module, and `subject` what it watches. Together they are unique in the process.
    pub fn new(registry: &Registry, source: &'static str, subject: impl Into<String>) -> Alarm {
        let (registry, subject, reminder) = (registry.clone(), subject.into(), Reminder::default());
        Alarm { registry, source, subject, reminder, is_over: false }
    }

    /// Reports that the condition lasts. Returns whether to log it now, as [`Reminder::is_due`].
    pub fn raise(&mut self, code: &'static str, detail: impl Into<String>, now: Instant) -> bool {
        self.raise_as(Severity::Error, code, detail, now)
    }

    /// As [`raise`](Alarm::raise), with another severity, which counts as a change.
    pub fn raise_as(
        &mut self,
        severity: Severity,
        code: &'static str,
        detail: impl Into<String>,
        now: Instant,
    ) -> bool {
        self.is_over = false;
        let (subject, source, detail) = (self.subject.clone(), self.source, detail.into());
        self.registry.begins(Report { code, subject, source, severity, detail, is_event: false });
        self.reminder.is_due(&format!("{code} {}", severity.name()), now)
    }

    /// Reports that all is well. True if the condition was logged.
    pub fn clear(&mut self) -> bool {
        if !std::mem::replace(&mut self.is_over, true) {
            self.registry.is_over(self.source, &self.subject);
        }
        self.reminder.clear()
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
    fn one_subject_has_one_condition_at_a_time() {
        let (registry, now) = (Registry::default(), Instant::now());
        let mut alarm = Alarm::new(&registry, "lane", "a");
        assert!(!registry.denies("lane", "a", "down"), "nothing is known yet");
        assert!(alarm.raise("down", "no answer", now));
        assert!(!alarm.raise("down", "again no answer", now));
        assert!(!registry.denies("lane", "a", "down"));
        assert!(alarm.raise("credential", "401", now));
        assert!(registry.denies("lane", "a", "down"));
        assert_eq!(registry.current().iter().map(|report| report.code).collect::<Vec<_>>(), ["credential"]);
        assert!(alarm.clear() && !alarm.clear());
        assert!(registry.current().is_empty() && registry.denies("lane", "a", "credential"));
        assert!(!registry.denies("lane", "b", "credential"));
    }

    #[test]
    fn an_event_is_reported_until_it_is_stored() {
        let registry = Registry::default();
        registry.happened("dead", "", "first");
        let stored = registry.current();
        registry.happened("dead", "", "second");
        registry.stored(&stored);
        assert_eq!(registry.current()[0].detail, "second");
        registry.stored(&registry.current());
        assert!(registry.current().is_empty());
    }
}
