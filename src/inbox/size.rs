//! The size of the storage.

use super::{Inbox, Store, fetch, sqlite};

/// Bytes on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    pub database: u64,
    /// SQLite's write-ahead log; `None` on PostgreSQL, whose log belongs to all its databases.
    pub log: Option<u64>,
}

impl Inbox {
    /// Returns the size of the database.
    ///
    /// # Errors
    /// The file is gone, or the server does not answer.
    pub async fn size(&self) -> sqlx::Result<Size> {
        match &self.store {
            Store::Sqlite { writer, .. } => {
                let path = writer.path();
                let log = std::fs::metadata(sqlite::log_of(path)).map_or(0, |log| log.len());
                Ok(Size { database: std::fs::metadata(path)?.len(), log: Some(log) })
            }
            Store::Postgres(_) => {
                let sql = "select pg_database_size(current_database())";
                let bytes: i64 = fetch!(self.reader, query_scalar(sql).fetch_one)?;
                Ok(Size { database: u64::try_from(bytes).unwrap_or(0), log: None })
            }
        }
    }
}
