//! A dead man's switch: calls an address while all is well, so that a monitoring service notices when the calls stop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Client;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::exchange::{self, NoAnswer};
use crate::inbox::Inbox;
use crate::notify::notice::title;
use crate::notify::settings::Heartbeat as Settings;
use crate::worker::Worker;

/// healthchecks.io may drop more than five calls a minute.
const EVERY: Duration = Duration::from_secs(60);
/// This also holds while the state keeps changing.
const APART: Duration = Duration::from_secs(15);
const CHECK_EVERY: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(10);
/// A worker looks for deliveries every second, or every 8 s while a statement hangs.
const STUCK: Duration = Duration::from_secs(60);

pub(super) struct Heartbeat {
    pub settings: Settings,
    pub inbox: Inbox,
    pub workers: Vec<Arc<Worker>>,
    pub http: Client,
}

impl Heartbeat {
    /// Runs for ever.
    pub async fn run(self) {
        let (mut was_well, mut called_at): (Option<bool>, Option<Instant>) = (None, None);
        // The state that the last call reported; `None` if that call failed.
        let mut reported: Option<bool> = None;
        loop {
            let has_been = |time: Duration| called_at.is_none_or(|at| at.elapsed() >= time);
            let is_due = reported != Some(true) || has_been(EVERY);
            let problem = self.problem(is_due).await;
            match &problem {
                None if was_well == Some(false) => {
                    info!(event = "heartbeat_resumed", "all is well again: calling HEARTBEAT_URL again");
                }
                Some(problem) if was_well != Some(false) => warn!(
                    event = "heartbeat_stopped",
                    "{problem}: reporting it to HEARTBEAT_URL, then no further calls until all is well"
                ),
                _ => {}
            }
            let is_well = problem.is_none();
            was_well = Some(is_well);
            let is_owed = if is_well { is_due } else { reported != Some(false) };
            if is_owed && has_been(APART) {
                reported = self.call(problem.as_deref()).await.then_some(is_well);
                called_at = Some(Instant::now());
            }
            sleep(CHECK_EVERY).await;
        }
    }

    /// Returns the first problem. With `write`, tries to write to the database.
    async fn problem(&self, write: bool) -> Option<String> {
        if let Some(worker) = self.workers.iter().find(|worker| worker.idle_for() > STUCK) {
            return Some(format!("the queue of {} is not being worked on", worker.name()));
        }
        let oldest = match self.inbox.oldest_sendable().await {
            Ok(oldest) => oldest,
            Err(_) => return Some("the database does not answer".to_owned()),
        };
        if let Some((destination, age)) = oldest.filter(|(_, age)| *age >= self.settings.max_age) {
            return Some(format!("the oldest delivery to {destination} has waited for {} s", age.as_secs()));
        }
        let written = if write { self.inbox.check_writable().await } else { self.inbox.ping().await };
        written.is_err().then(|| "the database refuses writes".to_owned())
    }

    /// The body of a failure: the problem, and the firing alerts.
    async fn report(&self, problem: &str) -> String {
        let alerts = self.inbox.active_alerts().await.unwrap_or_default();
        let firing = alerts.iter().filter(|alert| alert.is_firing());
        let titles: Vec<String> = firing.map(|alert| title(&alert.code, &alert.subject)).collect();
        format!("casebridge: {problem}\nalerts: {}\n", titles.join(", "))
    }

    /// Reports that all is well, or the problem. Returns whether the call succeeded.
    async fn call(&self, problem: Option<&str>) -> bool {
        let url = &self.settings.url;
        let request = match problem {
            None => self.http.get(url.clone()),
            Some(problem) => self.http.post(exchange::address(url, "/fail")).body(self.report(problem).await),
        };
        let reason = match exchange::send(request.timeout(TIMEOUT)).await {
            Ok(answer) if answer.is_success() => return true,
            Ok(answer) => format!("it answered {}", answer.status),
            Err(NoAnswer { how, .. }) => how,
        };
        warn!(event = "heartbeat_failed", "could not call HEARTBEAT_URL, next try in 15 s: {reason}");
        false
    }
}
