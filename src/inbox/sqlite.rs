//! The SQLite file: opening it, locking it for one process, and checking that it is still in its place.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};

use super::Store;
use super::writer::Writer;

impl Store {
    pub(super) async fn sqlite(path: &Path, create: bool) -> anyhow::Result<Store> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(create)
            .journal_mode(SqliteJournalMode::Wal)
            // NORMAL would not reach the disk at each commit, and we answer 200 on the commit.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5));
        let opened = |kind: &str| format!("the SQLite file {} cannot be {kind}", path.display());
        let file = DatabaseFile::at(path).with_context(|| opened("opened"))?;
        // Pages (256 MiB): `checkpoint` moves the log long before.
        let writing = options.clone().pragma("wal_autocheckpoint", "65536");
        let writer = Writer::new(writing, file.clone());
        let first = writer.acquire().await;
        first.and_then(|first| first.end(Ok(()))).with_context(|| opened("opened"))?;
        // KiB: counts pass over each page once, and a cache of 2 MiB per connection would keep the pages.
        let reading = options.read_only(true).pragma("cache_size", "-256");
        let reader = SqlitePoolOptions::new().max_connections(2);
        let reader = reader.connect_with(reading).await.with_context(|| opened("read"))?;
        Ok(Store::Sqlite { writer, reader, file })
    }

    /// Opens a file without changing anything. SQLite creates the index of a write-ahead log if it is
    /// missing; without a log nobody writes, and it creates nothing.
    pub(super) async fn sqlite_read_only(path: &Path) -> sqlx::Result<Store> {
        let immutable = !log_of(path).exists();
        let options = SqliteConnectOptions::new().filename(path).read_only(true).immutable(immutable);
        let reader = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        let file = DatabaseFile::at(path)?;
        Ok(Store::Sqlite { writer: Writer::new(options, file.clone()), reader, file })
    }
}

/// The opened file, its log and its lock. If one of the first two is deleted or replaced, we would write, and
/// answer 200, to a deleted file; without the lock, two processes would serve one file.
#[derive(Clone)]
pub struct DatabaseFile {
    path: PathBuf,
    inode: u64,
    /// `None` if no process has served the file yet.
    lock_inode: Option<u64>,
    /// Zero until the writer has opened the log; changes when the writer is opened again.
    log_inode: Arc<AtomicU64>,
}

impl DatabaseFile {
    /// `path` is [`resolved`].
    pub fn at(path: &Path) -> io::Result<DatabaseFile> {
        Ok(DatabaseFile {
            inode: inode(path)?,
            lock_inode: inode(&lock_of(path)).ok(),
            path: path.to_owned(),
            log_inode: Arc::default(),
        })
    }

    /// Notes the log that a new connection writes to: the first statement opens it.
    pub async fn open_log(&self, connection: &mut SqliteConnection) -> sqlx::Result<()> {
        sqlx::query("select count(*) from sqlite_schema").execute(connection).await?;
        self.log_inode.store(inode(&log_of(&self.path)).unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }

    /// Fails if the file, its log or its lock was deleted or replaced.
    pub fn check_in_place(&self) -> io::Result<()> {
        let is = |path: &Path, known: u64| inode(path).is_ok_and(|inode| inode == known);
        let log_inode = self.log_inode.load(Ordering::Relaxed);
        let log_is_in_place = log_inode == 0 || is(&log_of(&self.path), log_inode);
        let lock_is_in_place = self.lock_inode.is_none_or(|lock| is(&lock_of(&self.path), lock));
        match inode(&self.path)? == self.inode && log_is_in_place && lock_is_in_place {
            true => Ok(()),
            false => Err(io::Error::other("the database file, its log or its lock was replaced: restart")),
        }
    }
}

/// Follows symbolic links to the file itself: SQLite keeps the log beside the file and not beside the link.
/// If there is no file, the path is only made absolute.
pub fn resolved(path: &Path) -> io::Result<PathBuf> {
    match std::fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::path::absolute(path),
        resolved => resolved,
    }
}

/// The write-ahead log of a database file. It exists while a process has the file open, or after a crash.
pub fn log_of(path: &Path) -> PathBuf {
    beside(path, "-wal")
}

/// All files that a service writes, whether or not they are there.
pub fn all_of(path: &Path) -> [PathBuf; 4] {
    [path.to_owned(), log_of(path), beside(path, "-shm"), lock_of(path)]
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn lock_of(path: &Path) -> PathBuf {
    path.with_added_extension("lock")
}

/// Whether a process serves this file, by the system's list of locks. Trying to lock it here could stop a
/// service that starts at the same moment.
pub fn is_served(path: &Path) -> bool {
    let Ok(inode) = inode(&lock_of(path)) else { return false };
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    locks.lines().any(|line| holds_lock_on(line, inode))
}

/// `1: FLOCK  ADVISORY  WRITE 7932 fe:00:5497504 0 EOF`; on some systems the device differs from the device in
/// the file's metadata.
fn holds_lock_on(line: &str, inode: u64) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let locked = words.iter().find_map(|word| word.rsplit_once(':')?.1.parse::<u64>().ok());
    words.contains(&"FLOCK") && words.contains(&"WRITE") && !words.contains(&"->") && locked == Some(inode)
}

fn inode(path: &Path) -> io::Result<u64> {
    std::fs::metadata(path).map(|metadata| metadata.ino())
}

/// Creates the file if there is none. Only the user of the process may read customers' texts.
pub fn create(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    file.with_context(|| format!("{} cannot be written", path.display()))
}

/// Locks the SQLite file for this process. The lock is a separate file: closing a second handle on the
/// database itself would drop SQLite's locks. `path` is [`resolved`], or two names of one file would have two
/// locks.
pub fn lock(path: &Path) -> anyhow::Result<File> {
    let lock_path = lock_of(path);
    let lock = create(&lock_path)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => anyhow::bail!(
            "another casebridge serves {}: one process per SQLite file (PostgreSQL takes several)",
            path.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("{} cannot be locked", lock_path.display()))
        }
    }
}

pub fn user_id() -> u32 {
    rustix::process::getuid().as_raw()
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Row, SqlitePool};

    use super::super::{FREE_UNSENT, Inbox};
    use super::*;

    /// The table has millions of rows, and nothing listens before this is done.
    #[tokio::test]
    async fn a_start_reads_no_whole_table() {
        let folder = tempfile::tempdir().unwrap();
        let (inbox, _committer) = Inbox::open_file(&folder.path().join("casebridge.db")).await.unwrap();
        let sql = format!("explain query plan {}", inbox.store.fill(FREE_UNSENT));
        let Store::Sqlite { writer, .. } = &inbox.store else { panic!("not SQLite") };
        let plan = sqlx::query(AssertSqlSafe(sql))
            .fetch_all(writer.acquire().await.unwrap().connection())
            .await
            .unwrap();
        let steps: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
        // The index of waiting deliveries that were tried.
        assert_eq!(steps, ["SCAN delivery USING INDEX delivery_tried"]);
    }

    #[test]
    fn a_lock_is_found_in_the_list_of_the_system() {
        let line = "1: FLOCK  ADVISORY  WRITE 7932 fe:00:5497504 0 EOF";
        assert!(holds_lock_on(line, 5_497_504));
        assert!(!holds_lock_on(line, 5_497_505));
        assert!(!holds_lock_on("1: POSIX  ADVISORY  WRITE 7932 fe:00:5497504 0 EOF", 5_497_504));
        assert!(!holds_lock_on("1: -> FLOCK  ADVISORY  WRITE 7932 fe:00:5497504 0 EOF", 5_497_504));
    }

    /// Versions before 3.51.3 can corrupt a write-ahead log (<https://sqlite.org/wal.html#walresetbug>).
    #[tokio::test]
    async fn the_built_in_sqlite_is_new_enough() {
        let pool = SqlitePool::connect("sqlite::memory:").await.unwrap();
        let version: String = sqlx::query_scalar("select sqlite_version()").fetch_one(&pool).await.unwrap();
        let numbers: Vec<u32> = version.split('.').map(|number| number.parse().unwrap()).collect();
        assert!(numbers >= vec![3, 51, 3], "{version}");
    }
}
