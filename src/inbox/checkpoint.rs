//! Moves SQLite's write-ahead log into the database beside the writer, so that no commit waits for it.
//!
//! SQLite would do it in the commit that makes the log longer than a limit. The log of a busy second is
//! thousands of pages, and whoever's commit that is waits for all of them to reach the disk.

use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection, FromRow};
use tracing::debug;

/// More often, the disk would be busy with this when a commit needs it.
const EVERY: Duration = Duration::from_secs(1);
/// A log that is longer (pages; 16 MiB) is begun anew. Otherwise the writer does so by itself, at the
/// first moment in which all of it has been moved; under full load that moment does not come.
const LONG: i64 = 4096;
/// How long the writer or a reader may be in the way of that.
const PATIENCE: Duration = Duration::from_millis(50);

/// What the pragma answers (<https://sqlite.org/pragma.html#pragma_wal_checkpoint>).
#[derive(FromRow)]
struct Checkpoint {
    /// Pages of the log.
    log: i64,
    /// Those of them that are in the database by now.
    checkpointed: i64,
}

/// Goes on for ever. A failure loses nothing: the pages stay in the log, and the writer has a limit of
/// its own.
pub(super) async fn run(options: SqliteConnectOptions) {
    let options = options.create_if_missing(false).busy_timeout(PATIENCE);
    loop {
        tokio::time::sleep(EVERY).await;
        if let Err(error) = until_failure(&options).await {
            debug!(
                event = "checkpoint_failed",
                "could not move the write-ahead log into the database: {error}"
            );
        }
    }
}

async fn until_failure(options: &SqliteConnectOptions) -> sqlx::Result<()> {
    let mut connection = options.connect().await?;
    loop {
        if let Err(error) = checkpoint(&mut connection).await {
            let _ = connection.close().await;
            return Err(error);
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn checkpoint(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    // The bulk of it while the writer goes on, and the rest while it waits.
    let passive = "pragma wal_checkpoint(passive)";
    let Checkpoint { log, checkpointed } = sqlx::query_as(passive).fetch_one(&mut *connection).await?;
    // With less than all of it a reader is in the way, and would be in the way of this, too.
    if log > LONG && checkpointed == log {
        sqlx::query("pragma wal_checkpoint(restart)").execute(connection).await?;
    }
    Ok(())
}
