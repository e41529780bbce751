//! Moves SQLite's write-ahead log into the database while the writer works, so that commits hardly wait for it.
//!
//! SQLite would do it in the commit that makes the log longer than a limit. In a busy second the log grows by tens of
//! thousands of pages, because on a large database each row changes another page of the index of identities. That
//! commit, and all requests that queue behind it, would wait until these pages are on the disk.
//!
//! The writer restarts the log once all of it is in the database and synced. Under load, that never happens unless the
//! writer pauses. So most pages are moved and synced before, in rounds that leave fewer each time, and the writer
//! pauses for the last few.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::Notify;
use tracing::warn;

use super::sqlite::log_of;
use super::writer::Writer;
use super::{from_row, on_sqlite};

/// How often the length of the log is checked while few rows are inserted.
const EVERY: Duration = Duration::from_secs(1);
/// How often a log that has stayed short is moved, so that the file lacks little if the process is killed.
const QUIET: Duration = Duration::from_secs(60);
/// The committer asks for it after this many rows, which are about a thousand pages.
pub(super) const AFTER_ROWS: usize = 512;
/// A shorter log (in pages; 4 MiB) is not worth a separate sync.
const SHORT: i64 = 1024;
/// SQLite's default size of a page, in bytes.
const PAGE: u64 = 4096;
/// The writer pauses to restart a longer log (in pages; 16 MiB).
const LONG: i64 = 4096;
/// The pause may have about this many pages to move; a commit has about a hundred.
const REST: i64 = 256;
/// The most rounds before the pause: on a slow disk, they may not leave fewer pages each time.
const ROUNDS: usize = 6;

/// The answer of the pragma (<https://sqlite.org/pragma.html#pragma_wal_checkpoint>).
struct Checkpoint {
    /// Pages of the log.
    log: i64,
    /// Those of them that are in the database by now.
    checkpointed: i64,
}

from_row!(Checkpoint { log, checkpointed });

/// Never returns. A failure loses nothing: the pages stay in the log, and the writer has its own limit.
pub(super) async fn run(writer: Writer, grown: Arc<Notify>) {
    let (mut log, mut database, mut has_failed) = (None, None, false);
    let mut moved_at = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = grown.notified() => {}
        }
        // A service with little to do needs no further connection.
        let is_quiet = log.is_none() && is_short(writer.path());
        if is_quiet && moved_at.elapsed() < QUIET {
            continue;
        }
        moved_at = Instant::now();
        let kept = match is_quiet {
            true => move_quiet(&writer).await.map(|()| None),
            false => keep_short(log.take(), &mut database, &writer).await.map(Some),
        };
        log = match kept {
            Ok(log) => {
                has_failed = false;
                log
            }
            Err(error) => {
                if !std::mem::replace(&mut has_failed, true) {
                    warn!(
                        event = "checkpoint_failed",
                        "could not move the write-ahead log into the database, so it grows; trying again: {error}"
                    );
                }
                None
            }
        };
    }
}

async fn move_quiet(writer: &Writer) -> sqlx::Result<()> {
    on_sqlite!(writer: writer, connection => checkpoint(connection)).map(drop)
}

/// Judges by the length of the file, which does not shrink while it is open.
fn is_short(database: &Path) -> bool {
    let length = std::fs::metadata(log_of(database)).map_or(0, |log| log.len());
    length < SHORT.unsigned_abs() * PAGE
}

/// `database` is opened once.
async fn keep_short(
    log: Option<Log>,
    database: &mut Option<&'static File>,
    writer: &Writer,
) -> sqlx::Result<Log> {
    let mut log = match log {
        Some(log) => log,
        None => Log::open(database, writer).await?,
    };
    log.shorten(writer).await?;
    Ok(log)
}

struct Log {
    connection: SqliteConnection,
    /// Only for syncs. It stays open as long as the process runs: closing it would drop SQLite's locks on the file
    /// (<https://sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_>).
    database: &'static File,
}

impl Log {
    async fn open(database: &mut Option<&'static File>, writer: &Writer) -> sqlx::Result<Log> {
        let connection = writer.options().connect().await?;
        let database = match *database {
            Some(file) => file,
            None => *database.insert(Box::leak(Box::new(File::open(writer.path())?))),
        };
        Ok(Log { connection, database })
    }

    async fn shorten(&mut self, writer: &Writer) -> sqlx::Result<()> {
        let mut moved = checkpoint(&mut self.connection).await?;
        if moved.log < SHORT {
            return Ok(());
        }
        // SQLite syncs the database only when all of the log is in it, which would leave everything to the pause.
        self.sync().await?;
        for _ in 0..ROUNDS {
            if moved.log < LONG {
                return Ok(());
            }
            let before = moved.log;
            moved = checkpoint(&mut self.connection).await?;
            self.sync().await?;
            if moved.log - before < REST {
                break;
            }
        }
        // A reader of old pages blocks the checkpoint, and would block this, too.
        if moved.checkpointed < moved.log {
            return Ok(());
        }
        let paused = writer.acquire().await?;
        let moved = checkpoint(&mut self.connection).await.map(drop);
        paused.end(Ok(()))?;
        moved
    }

    async fn sync(&self) -> sqlx::Result<()> {
        let database = self.database;
        let synced = tokio::task::spawn_blocking(|| database.sync_data()).await;
        Ok(synced.map_err(std::io::Error::other)??)
    }
}

/// Moves the pages that no reader blocks, and makes no other connection wait.
async fn checkpoint(connection: &mut SqliteConnection) -> sqlx::Result<Checkpoint> {
    sqlx::query_as("pragma wal_checkpoint(passive)").fetch_one(connection).await
}
