//! SQLite's only connection that writes.
//!
//! A pool would ask the connection whether it still works whenever it gets it back, which wakes two threads after each
//! statement. A connection to a file does not break.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};

use super::sqlite::DatabaseFile;

/// The connection; clones share it. Statements take turns: SQLite has one writer at a time.
#[derive(Clone)]
pub(super) struct Writer(Arc<Shared>);

struct Shared {
    options: SqliteConnectOptions,
    file: DatabaseFile,
    /// Opened by the first statement.
    connection: Mutex<Option<SqliteConnection>>,
    is_suspect: AtomicBool,
}

impl Writer {
    pub fn new(options: SqliteConnectOptions, file: DatabaseFile) -> Writer {
        Writer(Arc::new(Shared { options, file, connection: Mutex::default(), is_suspect: false.into() }))
    }

    /// Waits for the statements before.
    pub async fn acquire(&self) -> sqlx::Result<MappedMutexGuard<'_, SqliteConnection>> {
        let mut connection = self.0.connection.lock().await;
        if self.0.is_suspect.swap(false, Ordering::Relaxed) {
            *connection = None;
        }
        if connection.is_none() {
            let mut opened = self.0.options.connect().await?;
            self.0.file.open_log(&mut opened).await?;
            *connection = Some(opened);
        }
        MutexGuard::try_map(connection, Option::as_mut).map_err(|_| sqlx::Error::PoolClosed)
    }

    /// The connection may still be at work, or broken: the next statement opens another one.
    pub fn suspect(&self) {
        self.0.is_suspect.store(true, Ordering::Relaxed);
    }

    pub fn options(&self) -> &SqliteConnectOptions {
        &self.0.options
    }

    /// The path of the database.
    pub fn path(&self) -> &Path {
        self.0.options.get_filename()
    }

    /// Waits for running statements. SQLite moves its log into the database when the last connection is closed.
    pub async fn close(&self) {
        if let Some(connection) = self.0.connection.lock().await.take() {
            // The log stays, and the next start reads it.
            let _ = connection.close().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_suspect_connection_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("casebridge.db");
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        options.connect().await.unwrap().close().await.unwrap();
        let writer = Writer::new(options, DatabaseFile::at(&path).unwrap());
        let execute = async |sql| {
            let mut connection = writer.acquire().await?;
            sqlx::query(sql).execute(&mut *connection).await
        };
        execute("create temp table mark (x)").await.unwrap();
        // Only this connection knows its temporary tables.
        execute("insert into mark values (1)").await.unwrap();
        writer.suspect();
        execute("insert into mark values (1)").await.unwrap_err();
        // The other one stays.
        execute("create temp table mark (x)").await.unwrap();
        execute("insert into mark values (1)").await.unwrap();
    }
}
