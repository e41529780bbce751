//! The SQLite file: that it is ours alone, and still where we opened it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use sqlx::sqlite::SqliteConnection;

/// The file that was opened, its log and its lock. Whoever deletes or replaces one of the first two would
/// have us write, and answer 200, to a file that nobody can find again; without the lock two processes would
/// serve one file.
#[derive(Clone)]
pub struct DatabaseFile {
    path: PathBuf,
    inode: u64,
    /// None beside a file that nobody has served yet.
    lock_inode: Option<u64>,
    /// Zero until the writer has opened it; another one when the writer was opened again.
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

    /// Takes note of the log that a new connection writes to: the first statement opens it.
    pub async fn open_log(&self, connection: &mut SqliteConnection) -> sqlx::Result<()> {
        sqlx::query("select count(*) from sqlite_schema").execute(connection).await?;
        self.log_inode.store(inode(&self.log()).unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }

    pub fn is_in_place(&self) -> io::Result<()> {
        let log_inode = self.log_inode.load(Ordering::Relaxed);
        let log_is_in_place = log_inode == 0 || inode(&self.log()).is_ok_and(|inode| inode == log_inode);
        let lock_is_in_place =
            self.lock_inode.is_none_or(|lock| inode(&lock_of(&self.path)).is_ok_and(|inode| inode == lock));
        match inode(&self.path)? == self.inode && log_is_in_place && lock_is_in_place {
            true => Ok(()),
            false => Err(io::Error::other("the database file, its log or its lock was replaced: restart")),
        }
    }

    fn log(&self) -> PathBuf {
        log_of(&self.path)
    }
}

/// The file itself, if the path leads to it by symbolic links: SQLite keeps the log beside the file and not
/// beside the link. A path that leads nowhere is only made absolute.
pub fn resolved(path: &Path) -> io::Result<PathBuf> {
    match std::fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::path::absolute(path),
        resolved => resolved,
    }
}

/// The write-ahead log of a database file. While somebody has that open, or if nobody closed it, it is
/// there.
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

/// Whether a process serves this file, as far as the system tells who holds its lock. To try for the
/// lock ourselves would be in the way of a service that starts in that moment.
pub fn is_served(path: &Path) -> bool {
    let Ok(inode) = inode(&lock_of(path)) else { return false };
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    locks.lines().any(|line| holds_lock_on(line, inode))
}

/// `1: FLOCK  ADVISORY  WRITE 7932 fe:00:5497504 0 EOF`; the device is not everywhere the one that
/// files tell.
fn holds_lock_on(line: &str, inode: u64) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let held = words.iter().find_map(|word| word.rsplit_once(':')?.1.parse::<u64>().ok());
    words.contains(&"FLOCK") && words.contains(&"WRITE") && !words.contains(&"->") && held == Some(inode)
}

fn inode(path: &Path) -> io::Result<u64> {
    std::fs::metadata(path).map(|metadata| metadata.ino())
}

/// Versions before 3.51.3 can corrupt a write-ahead log (<https://sqlite.org/wal.html#walresetbug>).
pub fn check_sqlite_version(version: &str) -> anyhow::Result<()> {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    let version_of = std::array::from_fn(|_| numbers.next().unwrap_or(0));
    anyhow::ensure!(
        version_of >= [3u32, 51, 3],
        "SQLite {version} can corrupt its write-ahead log: 3.51.3 or later is needed"
    );
    Ok(())
}

/// Makes the file where there is none yet. What customers wrote is for the user of the process alone.
pub fn create(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    file.with_context(|| format!("{} cannot be written", path.display()))
}

/// One process serves an SQLite file. The lock is a file of its own: closing a second handle on the
/// database itself would drop SQLite's locks. `path` is [`resolved`], or two names of one file would be two
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

/// The standard library does not tell the user of a process; the owner of its folder does.
pub fn user_id() -> String {
    #[cfg(target_os = "linux")]
    if let Ok(metadata) = std::fs::metadata("/proc/self") {
        return metadata.uid().to_string();
    }
    "unknown".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_a_lock_is_told_by_the_system() {
        let line = "1: FLOCK  ADVISORY  WRITE 7932 fe:00:5497504 0 EOF";
        assert!(holds_lock_on(line, 5_497_504));
        assert!(!holds_lock_on(line, 5_497_505));
        assert!(!holds_lock_on("1: POSIX  ADVISORY  WRITE 7932 fe:00:5497504 0 EOF", 5_497_504));
        assert!(!holds_lock_on("1: -> FLOCK  ADVISORY  WRITE 7932 fe:00:5497504 0 EOF", 5_497_504));
    }

    #[test]
    fn an_sqlite_that_can_corrupt_is_refused() {
        for (version, good) in [("3.46.0", false), ("3.51.2", false), ("3.51.3", true), ("4.0", true)] {
            assert_eq!(check_sqlite_version(version).is_ok(), good, "{version}");
        }
    }
}
