//! Background work apart from deliveries: erasing old texts, watching the clock, logging the state, summing up the
//! counts.

use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::alert::Registry;
use crate::config::Retention;
use crate::destination;
use crate::inbox::Inbox;
use crate::ledger::Memos;
use crate::status::StatusSource;

const RETENTION_EVERY: Duration = Duration::from_secs(3600);
const CLOCK_EVERY: Duration = Duration::from_secs(30);
/// The interval of compactions: until the next one, each reading sums up the differences.
const COMPACT_EVERY: Duration = Duration::from_secs(10);
const STATUS_EVERY: Duration = Duration::from_secs(15 * 60);

/// Erases texts that were due an hour ago, too: a clock that has jumped ahead erases nothing.
pub(super) async fn erase_old_texts(inbox: Inbox, retention: Retention) {
    let mut checked_at = None;
    loop {
        let now = inbox.time().await;
        if let Some(checked_at) = checked_at {
            erase_due(&inbox, retention, checked_at).await;
        }
        match now {
            Ok(now) => checked_at = Some(now),
            Err(error) => warn!(
                event = "retention_failed",
                "could not read the database's clock, keeping old texts until the next try: {error}"
            ),
        }
        sleep(RETENTION_EVERY).await;
    }
}

/// In small steps, so that nothing else has to wait for the storage.
async fn erase_due(inbox: &Inbox, retention: Retention, checked_at: i64) {
    const ROWS: usize = 500;
    loop {
        match inbox.erase(retention, checked_at, ROWS).await {
            Ok(0) => break,
            Ok(count) => {
                info!(event = "texts_erased", count, "erased the texts of {count} settled deliveries")
            }
            Err(error) => {
                warn!(
                    event = "retention_failed",
                    "could not erase old texts, trying again in an hour: {error}"
                );
                break;
            }
        }
    }
    if let Err(error) = forget_old_memos(inbox, retention).await {
        warn!(event = "retention_failed", "could not remove old authors, trying again in an hour: {error}");
    }
}

/// Each destination looks up again what it has remembered for longer.
async fn forget_old_memos(inbox: &Inbox, retention: Retention) -> sqlx::Result<()> {
    for (destination, scopes) in destination::CACHES {
        for scope in *scopes {
            Memos::new(inbox.clone(), destination, Registry::default())
                .forget_older(scope, retention.dead)
                .await?;
        }
    }
    Ok(())
}

/// Corrects times that were stored while the clock ran ahead: deliveries would otherwise stay due in the
/// future, and later events would seem older than these.
pub(super) async fn watch_clock(inbox: Inbox, lease: Duration) {
    loop {
        match inbox.stamp().await {
            Ok(None) => {}
            Ok(Some(newest)) => match inbox.correct_times(newest, lease).await {
                Ok(count) => warn!(
                    event = "clock_corrected",
                    count, "the database's clock was set back: {count} waiting deliveries are due again"
                ),
                Err(error) => {
                    warn!(
                        event = "clock_correction_failed",
                        "the database's clock was set back and the stored times could not be corrected, trying \
                         again: {error}"
                    )
                }
            },
            Err(error) => debug!(event = "clock_check_failed", "could not compare the clocks: {error}"),
        }
        sleep(CLOCK_EVERY).await;
    }
}

/// Keeps the counts of deliveries short.
pub(super) async fn compact_counts(inbox: Inbox) {
    loop {
        sleep(COMPACT_EVERY).await;
        if let Err(error) = inbox.compact_counts().await {
            debug!(event = "counts_failed", "could not compact the counts, trying again: {error}");
        }
    }
}

/// Logs the state every 15 minutes, so that the log alone shows whether all is well.
pub(super) async fn report_status(status: StatusSource) {
    let at_start = status.snapshot().await;
    at_start.log_backlog();
    at_start.warn_of_removed();
    loop {
        sleep(STATUS_EVERY).await;
        status.snapshot().await.log();
    }
}
