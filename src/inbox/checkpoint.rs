//! Moves SQLite's write-ahead log into the database beside the writer, so that no commit waits for it.
//!
//! SQLite would do it in the commit that makes the log longer than a limit. In a busy second the log grows by
//! thousands of pages, and that commit would wait until all of them are on the disk.

use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, FromRow};
use tracing::debug;

/// More often, the disk would be busy with this when a commit needs it.
const EVERY: Duration = Duration::from_secs(1);
/// A longer log (in pages; 16 MiB) is begun anew. The writer begins it anew whenever all of it has been
/// moved; under full load that moment does not come.
const LONG: i64 = 4096;
/// How long this waits for the writer or a reader before it begins the log anew.
const PATIENCE: Duration = Duration::from_millis(50);

/// The answer of the pragma (<https://sqlite.org/pragma.html#pragma_wal_checkpoint>).
#[derive(FromRow)]
struct Checkpoint {
    /// Pages of the log.
    log: i64,
    /// Those of them that are in the database by now.
    checkpointed: i64,
}

/// Never returns. A failure loses nothing: the pages stay in the log, and the writer has its own limit.
pub(super) async fn run(options: SqliteConnectOptions) {
    let options = options.create_if_missing(false).busy_timeout(PATIENCE);
    let mut connection = None;
    loop {
        tokio::time::sleep(EVERY).await;
        connection = match checkpoint(connection, &options).await {
            Ok(connection) => Some(connection),
            Err(error) => {
                debug!(
                    event = "checkpoint_failed",
                    "could not move the write-ahead log into the database: {error}"
                );
                None
            }
        };
    }
}

async fn checkpoint(
    connection: Option<SqliteConnection>,
    options: &SqliteConnectOptions,
) -> sqlx::Result<SqliteConnection> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => options.connect().await?,
    };
    // Most of it while the writer goes on, and the rest while it waits.
    let passive = "pragma wal_checkpoint(passive)";
    let Checkpoint { log, checkpointed } = sqlx::query_as(passive).fetch_one(&mut connection).await?;
    // If a part is left, a reader is in the way, and would be in the way of this, too.
    if log > LONG && checkpointed == log {
        sqlx::query("pragma wal_checkpoint(restart)").execute(&mut connection).await?;
    }
    Ok(connection)
}
