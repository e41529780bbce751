//! Opens the storage at the start.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Database;
use crate::inbox::{Committer, Inbox, Unusable};

/// Hosts expect the port to be open within 60 s of the start.
const STORAGE_LIMIT: Duration = Duration::from_secs(45);

/// The result of [`open_storage`], for [`super::start`]: the inbox, its committer, and the id of the deployment.
pub type Storage = (Inbox, Committer, String);

/// Opens the storage, before anything listens. Waits for a database server for as long as hosts wait for a
/// port. `None`: the service was stopped while it waited.
///
/// # Errors
/// It is [`Unusable`], or stays out of reach.
pub async fn open_storage(database: &Database, stop: &CancellationToken) -> anyhow::Result<Option<Storage>> {
    stop.run_until_cancelled(wait_for_storage(database)).await.transpose()
}

async fn wait_for_storage(database: &Database) -> anyhow::Result<Storage> {
    let give_up = Instant::now() + STORAGE_LIMIT;
    let mut wait = Duration::from_secs(1);
    loop {
        let opening = async {
            let (inbox, committer) = Inbox::open(database).await?;
            let deployment_id = inbox.deployment_id().await?;
            anyhow::Ok((inbox, committer, deployment_id))
        };
        let error = match opening.await {
            Ok(opened) => {
                info!(event = "database_opened", %database, "opened the database {database}");
                return Ok(opened);
            }
            Err(error) if error.is::<Unusable>() => return Err(error),
            Err(error) => error,
        };
        let left = give_up.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(
                error.context(format!("the database was out of reach for {} s", STORAGE_LIMIT.as_secs()))
            );
        }
        // The last try is at the end of the time.
        let next = wait.min(left);
        let wait_s = next.as_secs_f64();
        warn!(
            event = "database_unreachable",
            wait_s, "waiting for the database, next try in {wait_s:.0} s: {error:#}"
        );
        sleep(next).await;
        wait = (wait * 2).min(Duration::from_secs(10));
    }
}
