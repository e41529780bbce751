//! Stores the reports of this process with those of other processes, and fires and resolves alerts.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::notice::title;
use crate::alert::{Registry, STORAGE};
use crate::inbox::{Alert, Inbox};

/// How often a process renews its reports.
const RENEW: Duration = Duration::from_secs(5);
/// An alert that this process sees as over ends if no other process has renewed it for this long.
const UNSEEN: Duration = Duration::from_secs(12);
/// Reports that come together are stored together.
const GATHER: Duration = Duration::from_millis(50);

/// The recorder of a process.
pub struct Recorder {
    pub inbox: Inbox,
    pub registry: Registry,
    /// How long a condition lasts before its alert fires.
    pub pending: Duration,
    /// Notified after each change.
    pub changes: watch::Sender<()>,
}

/// The database has refused the reports since then.
struct Failing {
    since: Instant,
    /// One event each time that it takes writes again, even if some statements still fail.
    is_reported: bool,
}

impl Recorder {
    /// Runs for ever.
    pub async fn run(self) {
        let mut failing: Option<Failing> = None;
        loop {
            let began = Instant::now();
            match (self.record(failing.as_mut()).await, &failing) {
                (Ok(()), _) => failing = None,
                (Err(error), None) => {
                    failing = Some(Failing { since: began, is_reported: false });
                    warn!(
                        event = "alert_state_failed",
                        "the database refuses writes, so notices may have to wait; trying again: {error}"
                    );
                }
                (Err(error), Some(_)) => {
                    debug!(event = "alert_state_failed", "the database still refuses writes: {error}");
                }
            }
            tokio::select! {
                () = self.registry.changed() => sleep(GATHER).await,
                () = sleep(RENEW) => {}
            }
        }
    }

    async fn record(&self, failing: Option<&mut Failing>) -> sqlx::Result<()> {
        // A database that refuses writes may still be read, and there may be nothing to store.
        let written = self.inbox.check_writable().await;
        match (&written, failing) {
            (Err(error), failing) => {
                if let Some(failing) = failing {
                    failing.is_reported = false;
                }
                self.registry.failed(STORAGE, "", format!("the database refuses writes: {error}"));
            }
            // The states are in the database, so no notice could be sent before.
            (Ok(()), Some(failing)) if !failing.is_reported && failing.since.elapsed() >= self.pending => {
                let detail =
                    format!("it failed for {} s, and works again", failing.since.elapsed().as_secs());
                self.registry.happened(STORAGE, "", detail);
                failing.is_reported = true;
            }
            (Ok(()), _) => {}
        }
        let reports = self.registry.current();
        for report in &reports {
            self.inbox.report_alert(report).await?;
        }
        self.registry.stored(&reports);
        let active = self.inbox.active_alerts().await?;
        if active.is_empty() {
            return written;
        }
        let mut has_changed = false;
        for alert in &active {
            let is_denied = self.registry.denies(&alert.source, &alert.subject, &alert.code);
            if is_denied && self.inbox.resolve_alert(alert, UNSEEN).await? {
                log_end(alert);
                has_changed = true;
            }
        }
        for alert in self.inbox.fire_alerts(self.pending).await? {
            let Alert { code, subject, severity, detail, .. } = &alert;
            let title = title(code, subject);
            info!(event = "alert_firing", code, subject, severity, detail, "the alert {title} is firing");
            has_changed = true;
        }
        for alert in &self.inbox.end_alerts(&active).await? {
            log_end(alert);
            has_changed = true;
        }
        if has_changed {
            self.changes.send_replace(());
        }
        written
    }
}

/// Logs the end of an alert. `alert` is its state before the end.
fn log_end(alert: &Alert) {
    let Alert { code, subject, .. } = alert;
    let title = title(code, subject);
    match alert.is_firing() {
        true => info!(event = "alert_resolved", code, subject, "the alert {title} is over"),
        false => debug!(event = "alert_lapsed", code, subject, "the alert {title} was over before it fired"),
    }
}
