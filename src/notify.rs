//! Sends people notices of alerts: when an alert fires, once a day while it lasts, and when it is over.
//!
//! The database stores what each receiver knows ([`crate::inbox::DueNotice`]). So a receiver that was down gets the
//! current state and no backlog, and neither a restart nor another process repeats a notice. Each receiver has its own
//! task, so that none delays another.

pub mod format;
pub mod notice;
pub mod record;
pub mod settings;
pub mod sink;

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::alert::{self, Code};
use crate::destination;
use crate::inbox::{DueNotice, Inbox};
use crate::source::khoros;
use notice::{Notice, title};
use sink::{Failure, Sink};

/// How often a task looks for notices that another process has left.
const POLL: Duration = Duration::from_secs(5);
const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3600);
/// The notices that a receiver gets in any hour; then one summary.
const MOST: i64 = 20;
/// The lease of a notice: longer than a request takes.
const LEASE: Duration = Duration::from_secs(30);
/// The wait after the first failure; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(900);

/// All codes of alerts.
pub fn codes() -> impl Iterator<Item = &'static Code> {
    let of_destinations = destination::ALERT_CODES.iter().copied().flatten();
    alert::ALERT_CODES.iter().chain(khoros::ALERT_CODES).chain(of_destinations)
}

/// The meaning of a code; empty if a later version has stored the alert.
pub fn meaning(name: &str) -> &'static str {
    codes().find(|code| code.name == name).map_or("", |code| code.meaning)
}

/// Sends the notices for one receiver.
pub struct Notifier {
    pub inbox: Inbox,
    pub sink: Sink,
    pub deployment_id: String,
    /// Notified when alerts have changed in this process.
    pub changes: watch::Receiver<()>,
}

impl Notifier {
    /// Sends until `stop`, and finishes the request in progress.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.changes.mark_unchanged();
            if let Err(error) = self.send_due().await {
                let sink = self.sink.name();
                debug!(event = "alert_notice_unknown", sink, "could not read the due notices: {error}");
            }
            tokio::select! {
                () = stop.cancelled() => {}
                _ = self.changes.changed() => {}
                () = sleep(POLL) => {}
            }
        }
    }

    async fn send_due(&self) -> sqlx::Result<()> {
        let sink = self.sink.name();
        let places = format!("alert.{sink}");
        for due in self.inbox.due_notices(sink, DAY).await? {
            let notice = Notice::new(&due, meaning(&due.alert.code), &self.deployment_id);
            if !self.inbox.take_place(&places, &notice.id, MOST, HOUR).await? {
                return self.summarize().await;
            }
            if let Some(leased_until) = self.inbox.claim_notice(sink, &due, LEASE).await? {
                self.send(&due, leased_until, &notice).await?;
            }
        }
        Ok(())
    }

    async fn send(&self, due: &DueNotice, leased_until: i64, notice: &Notice) -> sqlx::Result<()> {
        let (sink, code, subject, state) =
            (self.sink.name(), &notice.code, &notice.subject, notice.status.name());
        match self.sink.send(notice).await {
            Ok(()) => {
                self.inbox.notice_sent(sink, due).await?;
                let title = notice.title();
                info!(
                    event = "alert_notice_sent",
                    sink, code, subject, state, "sent {sink} a notice: {title} is {state}"
                );
            }
            Err(Failure { reason, retry_after, is_unsent }) => {
                let wait = wait(due.failures).max(retry_after.unwrap_or_default());
                self.inbox.postpone_notice(sink, due, leased_until, is_unsent, wait).await?;
                warn!(
                    event = "alert_notice_failed",
                    sink,
                    code,
                    subject,
                    state,
                    "could not send the notice of {} to {sink}, next try in {} s: {reason}",
                    notice.title(),
                    wait.as_secs()
                );
            }
        }
        Ok(())
    }

    /// Sends one summary an hour instead of further notices, which wait until there is room for them.
    async fn summarize(&self) -> sqlx::Result<()> {
        let (sink, now) = (self.sink.name(), Timestamp::now());
        let (places, holder) = (format!("alert.{sink}.summary"), now.to_string());
        if !self.inbox.take_place(&places, &holder, 1, HOUR).await? {
            return Ok(());
        }
        // Neither a failure nor a kill loses the summary of this hour.
        self.inbox.free_place_after(&places, &holder, HOUR, LEASE).await?;
        let active = self.inbox.active_alerts().await?;
        let firing = active.iter().filter(|alert| alert.is_firing());
        let titles: Vec<String> = firing.map(|alert| title(&alert.code, &alert.subject)).collect();
        let meaning = format!("more than {MOST} notices in an hour, so further ones wait");
        let detail = format!("{} alerts are firing now: {}", titles.len(), titles.join(", "));
        let notice = Notice::extra("notices_limited", &meaning, detail, &self.deployment_id, now);
        warn!(
            event = "alert_notices_limited",
            sink, "more than {MOST} notices in an hour: sending {sink} a summary, further notices wait"
        );
        if let Err(Failure { reason, .. }) = self.sink.send_extra(notice).await {
            warn!(
                event = "alert_notice_failed",
                sink,
                code = "notices_limited",
                "could not send the summary to {sink}, next try in {} s: {reason}",
                LEASE.as_secs()
            );
            return Ok(());
        }
        self.inbox.take_place(&places, &holder, 1, HOUR).await.map(drop)
    }
}

/// The wait after this many failures in a row, from 0 on.
fn wait(failures: i64) -> Duration {
    let doublings = u32::try_from(failures.clamp(0, 10)).unwrap_or(10);
    (FIRST_WAIT * 2u32.pow(doublings)).min(LONGEST_WAIT)
}
