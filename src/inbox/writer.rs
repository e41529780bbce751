//! SQLite's only connection that writes.
//!
//! A pool would ask the connection whether it still works whenever it gets it back, which wakes two threads after each
//! statement. Here, it is asked only after a statement that has failed or was given up.

use std::path::Path;
use std::sync::Arc;

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
    /// Opened at its first use.
    opened: Mutex<Option<Opened>>,
}

struct Opened {
    connection: SqliteConnection,
    /// Whether the last statement or transaction has ended well.
    has_ended: bool,
}

/// The connection for one statement or transaction. Without [`Turn::end`], it was given up.
pub(super) struct Turn<'a>(MappedMutexGuard<'a, Opened>);

impl Turn<'_> {
    pub fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.0.connection
    }

    pub fn end<T>(mut self, result: sqlx::Result<T>) -> sqlx::Result<T> {
        self.0.has_ended = result.is_ok();
        result
    }
}

impl Writer {
    pub fn new(options: SqliteConnectOptions, file: DatabaseFile) -> Writer {
        Writer(Arc::new(Shared { options, file, opened: Mutex::default() }))
    }

    /// Waits until earlier statements have ended, also those that were given up.
    pub async fn acquire(&self) -> sqlx::Result<Turn<'_>> {
        let mut opened = self.0.opened.lock().await;
        if let Some(last) = opened.as_mut().filter(|last| !last.has_ended) {
            // After a failed commit, sqlx would take the next transaction for a part of the last one.
            if last.connection.ping().await.is_err() || last.connection.is_in_transaction() {
                *opened = None;
            }
        }
        let connection = match opened.take() {
            Some(last) => last.connection,
            None => self.open().await?,
        };
        Ok(Turn(MutexGuard::map(opened, |opened| opened.insert(Opened { connection, has_ended: false }))))
    }

    async fn open(&self) -> sqlx::Result<SqliteConnection> {
        let mut connection = self.0.options.connect().await?;
        self.0.file.open_log(&mut connection).await?;
        Ok(connection)
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
        if let Some(opened) = self.0.opened.lock().await.take() {
            // The log stays, and the next start reads it.
            let _ = opened.connection.close().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn writer(folder: &tempfile::TempDir) -> Writer {
        let path = folder.path().join("casebridge.db");
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let mut first = options.connect().await.unwrap();
        sqlx::query("create table mark (name)").execute(&mut first).await.unwrap();
        first.close().await.unwrap();
        Writer::new(options, DatabaseFile::at(&path).unwrap())
    }

    async fn execute(writer: &Writer, sql: &'static str) -> sqlx::Result<()> {
        let mut turn = writer.acquire().await?;
        let executed = sqlx::query(sql).execute(turn.connection()).await;
        turn.end(executed).map(drop)
    }

    /// What another connection sees.
    async fn marks(writer: &Writer) -> Vec<String> {
        let mut other = writer.options().connect().await.unwrap();
        sqlx::query_scalar("select name from mark").fetch_all(&mut other).await.unwrap()
    }

    #[tokio::test]
    async fn a_transaction_that_was_given_up_is_rolled_back() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(&folder).await;
        let mut turn = writer.acquire().await.unwrap();
        let mut transaction = turn.connection().begin().await.unwrap();
        sqlx::query("insert into mark values ('given up')").execute(&mut *transaction).await.unwrap();
        drop(transaction);
        drop(turn);
        execute(&writer, "insert into mark values ('later')").await.unwrap();
        assert_eq!(marks(&writer).await, ["later"]);
    }

    #[tokio::test]
    async fn a_failed_commit_takes_nothing_that_follows_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(&folder).await;
        let mut turn = writer.acquire().await.unwrap();
        let mut transaction = turn.connection().begin().await.unwrap();
        // As SQLite does itself if the disk is full.
        sqlx::query("rollback").execute(&mut *transaction).await.unwrap();
        let committed = transaction.commit().await;
        turn.end(committed).unwrap_err();
        let mut turn = writer.acquire().await.unwrap();
        let transaction = turn.connection().begin().await.unwrap();
        transaction.rollback().await.unwrap();
        drop(turn);
        execute(&writer, "insert into mark values ('later')").await.unwrap();
        assert_eq!(marks(&writer).await, ["later"]);
    }

    #[tokio::test]
    async fn a_connection_stays_after_a_statement_that_failed() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(&folder).await;
        // Only this connection knows its temporary tables.
        execute(&writer, "create temp table own (name)").await.unwrap();
        execute(&writer, "insert into nowhere values (1)").await.unwrap_err();
        execute(&writer, "insert into own values (1)").await.unwrap();
    }
}
