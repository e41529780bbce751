//! Copies an SQLite file beside the service that writes it.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, bail};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};

use crate::config::Database;

/// Writes a copy of the database to a file that does not exist yet, which only its owner may read. When this
/// returns `Ok`, the copy is on disk.
///
/// # Errors
/// The database is no SQLite file, or one of the files cannot be read or written; then there is no copy.
pub async fn backup(database: &Database, to: &Path) -> anyhow::Result<()> {
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
    copy(from, partial.path()).await?;
    partial.as_file().sync_all().with_context(unwritable)?;
    partial.persist_noclobber(to).with_context(unwritable)?;
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(unwritable)
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
