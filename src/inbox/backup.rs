//! Copies an SQLite file while the service writes to it.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::time::timeout;

use super::sqlite::log_of;
use crate::config::Database;

/// How often the size of the copy is reported.
const REPORT: Duration = Duration::from_millis(250);

/// Writes a copy of the database to a file that does not exist yet, which only its owner may read. When this
/// returns `Ok`, the copy is on disk; the result is its size in bytes. Until then, `report` gets the bytes written so
/// far, and the size of the database.
///
/// # Errors
/// The database is no SQLite file, or one of the files cannot be read or written; then there is no copy.
pub async fn backup(database: &Database, to: &Path, report: impl Fn(u64, u64)) -> anyhow::Result<u64> {
    let Database::Sqlite(from) = database else {
        bail!("this command copies only SQLite files: use pg_dump for PostgreSQL");
    };
    let unwritable = || format!("{} cannot be created (it must not exist yet)", to.display());
    if to.try_exists().with_context(unwritable)? {
        bail!("{}", unwritable());
    }
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // An interrupted copy has another name than a backup.
    let partial =
        tempfile::Builder::new().prefix("casebridge-backup-").suffix(".partial").tempfile_in(folder);
    let partial = partial.with_context(unwritable)?;
    copy_and_report(from, partial.path(), report).await?;
    partial.as_file().sync_all().with_context(unwritable)?;
    let bytes = partial.as_file().metadata().with_context(unwritable)?.len();
    partial.persist_noclobber(to).with_context(unwritable)?;
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(unwritable)?;
    Ok(bytes)
}

async fn copy_and_report(from: &Path, to: &Path, report: impl Fn(u64, u64)) -> anyhow::Result<()> {
    let size = |file: &Path| file.metadata().map_or(0, |file| file.len());
    let copying = copy(from, to);
    tokio::pin!(copying);
    loop {
        match timeout(REPORT, &mut copying).await {
            Ok(copied) => return copied,
            Err(_) => report(size(to), size(from) + size(&log_of(from))),
        }
    }
}

/// Copies without the time limit of the service's statements: a large file takes longer.
async fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let unreadable = || format!("{} (from DATABASE_URL) cannot be read", from.display());
    let options = SqliteConnectOptions::new().filename(from).read_only(true);
    let mut connection: SqliteConnection = options.connect().await.with_context(unreadable)?;
    let name = to.to_str().with_context(|| format!("the name {} is not UTF-8", to.display()))?;
    let copied = sqlx::query("vacuum into $1").bind(name).execute(&mut connection).await;
    copied.with_context(|| format!("{} cannot be copied to {}", from.display(), to.display()))?;
    let _ = connection.close().await;
    Ok(())
}
