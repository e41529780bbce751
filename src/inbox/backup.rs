//! A copy of an SQLite file that is whole, taken beside the service that writes it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

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
        bail!("only an SQLite file is backed up here: use pg_dump for PostgreSQL");
    };
    let unwritable = || format!("{} cannot be made (it must not exist yet)", to.display());
    if to.try_exists().with_context(unwritable)? {
        bail!("{}", unwritable());
    }
    // What is interrupted has another name than a backup.
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let created = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial);
    created.with_context(unwritable)?;
    let copied = match copy(from, &partial).await {
        Ok(()) => finish(&partial, to).with_context(unwritable),
        failed => failed,
    };
    if copied.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    copied
}

/// Gives the copy its name, on disk.
fn finish(partial: &Path, to: &Path) -> io::Result<()> {
    File::open(partial)?.sync_all()?;
    std::fs::rename(partial, to)?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Without the time limit of the service's statements: a large file takes longer.
async fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let unreadable = || format!("{} cannot be read", from.display());
    let options = SqliteConnectOptions::new().filename(from).read_only(true);
    let mut connection: SqliteConnection = options.connect().await.with_context(unreadable)?;
    let name = to.to_str().with_context(|| format!("the name {} is not UTF-8", to.display()))?;
    let copied = sqlx::query("vacuum into $1").bind(name).execute(&mut connection).await;
    copied.with_context(|| format!("{} cannot be copied to {}", from.display(), to.display()))?;
    let _ = connection.close().await;
    Ok(())
}
