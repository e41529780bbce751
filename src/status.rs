//! One snapshot of the whole service. The status line in the log, `GET /status` and `GET /metrics` are renderings of it.

mod metrics;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::http::Refused;
use crate::inbox::{Alert, Held, Inbox, LastEvent, Summary};
use crate::source::khoros::feed::{PullReport, PullStatus};
use crate::source::khoros::silence;
use crate::source::khoros::subscription::{self, Subscriptions};
use crate::worker::LaneStatus;

/// Where the parts of the snapshot come from.
#[derive(Clone)]
pub struct StatusSource {
    pub inbox: Inbox,
    /// The names of all routes.
    pub routes: Arc<[String]>,
    /// By destination.
    pub destinations: Arc<[(&'static str, watch::Receiver<LaneStatus>)]>,
    pub known: Arc<Known>,
    pub subscription: watch::Receiver<Subscriptions>,
    pub pull: watch::Receiver<PullReport>,
    pub refused: Arc<Refused>,
    pub started: Instant,
}

/// What the configuration says: metrics have samples of these before anything happens.
#[derive(Default)]
pub struct Known {
    /// The limits of each destination that can hold deliveries back.
    pub limits: Vec<(&'static str, &'static [&'static str])>,
    /// The codes of all alerts.
    pub alerts: Vec<&'static str>,
    /// The settings with credentials that expire, and when.
    pub expiries: Vec<(&'static str, Timestamp)>,
}

/// The part that comes from the database.
type Stored = (Summary, Vec<LastEvent>, Vec<Alert>);

/// The state of the service at one moment.
pub struct Status {
    /// The counts of the storage, or its error as text.
    stored: Result<Stored, String>,
    storage: &'static str,
    routes: Arc<[String]>,
    destinations: Vec<(&'static str, LaneStatus)>,
    known: Arc<Known>,
    subscriptions: Subscriptions,
    pull: PullReport,
    refused: BTreeMap<u16, u64>,
    uptime: Duration,
}

impl StatusSource {
    pub async fn snapshot(&self) -> Status {
        let (summary, events) = (self.inbox.summary(), self.inbox.last_events());
        let stored = tokio::try_join!(summary, events, self.inbox.active_alerts());
        let destinations = self.destinations.iter();
        Status {
            stored: stored.map_err(|error| error.to_string()),
            storage: self.inbox.kind(),
            routes: self.routes.clone(),
            destinations: destinations.map(|(name, lane)| (*name, lane.borrow().clone())).collect(),
            known: self.known.clone(),
            subscriptions: self.subscription.borrow().clone(),
            pull: self.pull.borrow().clone(),
            refused: self.refused.totals(),
            uptime: self.started.elapsed(),
        }
    }
}

impl Status {
    /// The body of `GET /status`.
    pub fn to_json(&self) -> Value {
        let stored = self.stored.as_ref().ok();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": self.uptime.as_secs(),
            "storage": { "kind": self.storage, "ready": stored.is_some() },
            "subscriptions": self.subscriptions,
            "routes": stored.map(|(_, events, _)| self.ages(events)),
            "pull": self.pull.status.as_str(),
            "pull_reason": self.pull.status.reason(),
            "pull_since": self.pull.since.map(|since| since.to_string()),
            "pull_skipped": self.pull.skipped,
            "destinations": self.destinations(),
            "alerts": stored.map(|(.., alerts)| firing(alerts)),
            "deliveries": stored.map(|(summary, ..)| json!({
                "waiting": summary.waiting(),
                "in_doubt": summary.in_doubt(),
                "done_24h": summary.done_24h,
                "dead": summary.dead(),
                "oldest_waiting_s": summary.oldest_ms().map(seconds),
                "last_event_s": summary.last_event_ms.map(seconds),
            })),
            "refused_notifications": self.refused,
        })
    }

    fn ages(&self, last_events: &[LastEvent]) -> Value {
        let ages = silence::ages(&self.routes, last_events).into_iter();
        ages.map(|(name, age)| (name.to_owned(), json!({ "last_event_s": age }))).collect()
    }

    /// The state and the deliveries of each destination, configured or not.
    fn destinations(&self) -> Value {
        let mut all: BTreeMap<&str, Value> = BTreeMap::new();
        for (name, lane) in &self.destinations {
            all.insert(name, json!(lane));
        }
        let counted = self.stored.iter().flat_map(|(summary, ..)| &summary.destinations);
        for counts in counted.filter(|counts| counts.waiting > 0 || counts.dead > 0) {
            let destination =
                all.entry(&counts.destination).or_insert_with(|| json!({ "state": "not_configured" }));
            destination["waiting"] = json!(counts.waiting);
            destination["dead"] = json!(counts.dead);
            destination["oldest_waiting_s"] = json!(counts.oldest_ms.map(seconds));
        }
        for held in self.stored.iter().flat_map(|(summary, ..)| &summary.held) {
            if let Some(destination) = all.get_mut(held.destination.as_str()) {
                // Several routes may be held by one limit.
                let others = destination["held"][&held.reason].as_i64().unwrap_or(0);
                destination["held"][&held.reason] = json!(others.saturating_add(held.waiting));
            }
        }
        json!(all)
    }

    /// Logs how many deliveries an earlier process has left: the oldest has then waited for longer than this process
    /// runs.
    pub fn log_backlog(&self) {
        let (waiting, oldest_ms) = match &self.stored {
            Ok((summary, ..)) => (summary.waiting(), summary.oldest_ms().unwrap_or(0)),
            Err(error) => {
                return warn!(
                    event = "backlog_unknown",
                    "could not count the waiting deliveries, delivering them anyway: {error}"
                );
            }
        };
        if u128::try_from(oldest_ms).is_ok_and(|oldest| oldest > self.uptime.as_millis()) {
            let oldest_s = seconds(oldest_ms);
            info!(
                event = "backlog_found",
                waiting,
                oldest_s,
                "{waiting} deliveries are waiting from an earlier run, the oldest for {oldest_s} s"
            );
        }
    }

    /// Warns of deliveries to a destination that is not configured any longer: no worker delivers them.
    pub fn warn_of_removed(&self) {
        for counts in self.stored.iter().flat_map(|(summary, ..)| &summary.destinations) {
            let destination = counts.destination.as_str();
            let is_configured = self.destinations.iter().any(|(name, _)| *name == destination);
            if counts.waiting > 0 && !is_configured {
                warn!(
                    event = "destination_removed",
                    destination,
                    waiting = counts.waiting,
                    "{} deliveries wait for {destination}, which is not configured: configure it again to deliver them",
                    counts.waiting
                );
            }
        }
    }

    /// Logs the status line.
    pub fn log(&self) {
        let (khoros, pull) = (subscription::worst(&self.subscriptions), self.pull.status.as_str());
        let destinations = self.destinations.iter().map(|(name, lane)| format!("{name}={}", lane.as_str()));
        let destinations = destinations.collect::<Vec<_>>().join(",");
        match &self.stored {
            Ok((summary, last_events, _)) => info!(
                event = "status",
                waiting = summary.waiting(),
                oldest_s = seconds(summary.oldest_ms().unwrap_or(0)),
                held = held(&summary.held),
                dead = summary.dead(),
                done_24h = summary.done_24h,
                last_event_s = summary.last_event_ms.map(seconds),
                routes = silence::log_field(&silence::ages(&self.routes, last_events)),
                khoros,
                pull,
                pull_skipped = self.pull.skipped,
                destinations,
                "status"
            ),
            Err(error) => warn!(
                event = "status_failed",
                khoros, pull, destinations, "status: the database does not answer: {error}"
            ),
        }
    }
}

/// The state as the database has it, in the form of `GET /status`. Fields that only a running service knows are missing
/// or empty.
pub async fn stored(inbox: &Inbox, routes: Vec<String>) -> Value {
    let (summary, events) = (inbox.summary(), inbox.last_events());
    let stored = tokio::try_join!(summary, events, inbox.active_alerts());
    let status = Status {
        stored: stored.map_err(|error| error.to_string()),
        storage: inbox.kind(),
        routes: routes.into(),
        destinations: Vec::new(),
        known: Arc::default(),
        subscriptions: Subscriptions::new(),
        pull: PullReport::new(PullStatus::Off),
        refused: BTreeMap::new(),
        uptime: Duration::ZERO,
    };
    status.to_json()
}

/// The firing alerts, the oldest first.
fn firing(alerts: &[Alert]) -> Value {
    let time = |millis: i64| Timestamp::from_millisecond(millis).ok().map(|time| time.to_string());
    let firing = alerts.iter().filter(|alert| alert.is_firing());
    let json = |alert: &Alert| {
        json!({
            "alert": alert.code,
            "subject": alert.subject,
            "severity": alert.severity,
            "since": time(alert.since),
            "detail": alert.detail,
        })
    };
    firing.map(json).collect()
}

/// The held deliveries as one field of the log; `None` if there are none.
fn held(held: &[Held]) -> Option<String> {
    let of_one = |held: &Held| format!("{} held by {}", held.waiting, held.reason);
    (!held.is_empty()).then(|| held.iter().map(of_one).collect::<Vec<_>>().join(", "))
}

fn seconds(millis: i64) -> i64 {
    millis / 1000
}
