//! The content of a notice, independent of its format.

use jiff::Timestamp;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::inbox::{Alert, DueNotice};
use crate::json::hex;

/// The page with a remedy for each alert, in the sources of this version. No address of them is known.
pub const REMEDIES: &str = "docs/alerts.md";
/// The longest reason that a notice quotes, in characters.
const DETAIL_CHARS: usize = 500;

/// Whether the alert fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Firing,
    Resolved,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Status::Firing => "firing",
            Status::Resolved => "resolved",
        }
    }
}

/// A notice: what happened, since when, and where to find the remedy. It contains no text from a customer.
#[derive(Clone, Debug)]
pub struct Notice {
    /// The same id for all tries. It contains no full stops.
    pub id: String,
    pub status: Status,
    pub code: String,
    /// The subject, such as a route; empty if there is only one.
    pub subject: String,
    /// `error`, `warning` or `info`
    pub severity: String,
    /// What the code means, on one line.
    pub meaning: String,
    /// The reason; may be empty.
    pub detail: String,
    pub since: Timestamp,
    /// When it was over.
    pub until: Option<Timestamp>,
    /// The id that all processes on one database share.
    pub deployment: String,
}

impl Notice {
    /// `meaning` is that of the alert's code.
    pub fn new(due: &DueNotice, meaning: &str, deployment: &str) -> Notice {
        let DueNotice { alert, known_at, .. } = due;
        let status = if alert.is_firing() { Status::Firing } else { Status::Resolved };
        // A reminder is another notice, and so is a change of severity.
        let parts = json!([
            deployment,
            alert.code,
            alert.subject,
            alert.fired_at,
            status.name(),
            alert.severity,
            known_at
        ]);
        Notice { status, ..Notice::of(alert, meaning, deployment, &parts.to_string()) }
    }

    fn of(alert: &Alert, meaning: &str, deployment: &str, parts: &str) -> Notice {
        let time = |millis: i64| Timestamp::from_millisecond(millis).unwrap_or_default();
        Notice {
            id: format!("alert_{:.32}", hex(Sha256::digest(parts))),
            status: Status::Firing,
            code: alert.code.clone(),
            subject: alert.subject.clone(),
            severity: alert.severity.clone(),
            meaning: meaning.to_owned(),
            detail: alert.detail.chars().take(DETAIL_CHARS).collect(),
            since: time(alert.since),
            until: alert.resolved_at.filter(|_| !alert.is_firing()).map(time),
            deployment: deployment.to_owned(),
        }
    }

    /// A notice that does not come from an alert: a test, or the summary.
    pub fn extra(code: &str, meaning: &str, detail: String, deployment: &str, now: Timestamp) -> Notice {
        Notice {
            id: format!("alert_{:.32}", hex(Sha256::digest(format!("{deployment} {code} {now}")))),
            status: Status::Firing,
            code: code.to_owned(),
            subject: String::new(),
            severity: "info".to_owned(),
            meaning: meaning.to_owned(),
            detail,
            since: now,
            until: None,
            deployment: deployment.to_owned(),
        }
    }

    /// The end of a notice of [`Notice::extra`]: another notice, which a receiver must not take for the same.
    pub fn end(self) -> Notice {
        Notice { id: format!("{}_end", self.id), status: Status::Resolved, until: Some(self.since), ..self }
    }

    /// The code with its subject: `ticket_storm (vip)`.
    pub fn title(&self) -> String {
        title(&self.code, &self.subject)
    }

    /// What happened, on one line.
    pub fn summary(&self) -> String {
        match self.status {
            Status::Firing => format!("casebridge: {}: {}", self.title(), self.meaning),
            Status::Resolved => format!("casebridge: {} is over", self.title()),
        }
    }

    /// The rest: the reason and the times.
    pub fn description(&self) -> String {
        let times = match self.until {
            Some(until) => format!("It lasted from {:.0} to {until:.0}.", self.since),
            None => format!("Since {:.0}.", self.since),
        };
        match self.detail.as_str() {
            "" => times,
            detail => format!("{detail}. {times}"),
        }
    }
}

/// A code with its subject.
pub fn title(code: &str, subject: &str) -> String {
    match subject {
        "" => code.to_owned(),
        subject => format!("{code} ({subject})"),
    }
}
