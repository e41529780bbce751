//! Examines the storage for `casebridge check`. It changes nothing: it creates no file, runs no migration and
//! takes no lock. SQLite creates the index of a write-ahead log if it is missing.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use sqlx::migrate::Migrator;

use super::memo::SELECT_FEED_SINCE;
use super::postgres::PostgresPool;
use super::{Inbox, Kind, SELECT_DEPLOYMENT, Store, Unusable, fetch, migrator, sqlite};
use crate::config::{Database, PostgresServer};

/// PostgreSQL 12.
const OLDEST_POSTGRES: i32 = 120_000;

/// The result of a survey.
#[derive(Debug, PartialEq, Eq)]
pub enum Survey {
    /// No file yet, and it can be created in this folder.
    Absent { path: PathBuf },
    Present {
        /// The database and its version.
        what: String,
        /// The path of a file.
        path: Option<PathBuf>,
        /// Whether a process serves the file now, if the system lists its locks.
        served: bool,
        migrations: Migrations,
        /// The id that a service on this database answers with, once one was started.
        deployment: Option<String>,
        /// As [`Inbox::feed_since`], once a service was started.
        feed_since: Option<i64>,
    },
}

/// Versions of the tables.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Migrations {
    pub applied: usize,
    /// The next start applies them.
    pub pending: usize,
    /// Applied by a later version of casebridge; this one leaves them alone.
    pub unknown: usize,
}

/// Why a service could not start on the storage.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageProblem {
    /// The user of this process cannot write to the file or its folder.
    #[error("{0}")]
    File(String),
    /// The file has other contents, or the version is unsuitable.
    #[error("{0}")]
    Wrong(String),
    /// The server is out of reach, or refuses the user.
    #[error("{0}")]
    Server(String),
    /// It can be read and not written.
    #[error("{0}")]
    ReadOnly(String),
}

/// Examines the storage. It waits for a server that does not answer: the caller limits the time.
///
/// # Errors
/// [`StorageProblem`]: a service could not start on it.
pub async fn survey(database: &Database) -> Result<Survey, StorageProblem> {
    match database {
        Database::Sqlite(path) => {
            let path = sqlite::resolved(path).map_err(|error| StorageProblem::File(error.to_string()))?;
            survey_file(path).await
        }
        Database::Postgres(server) => survey_server(server).await,
    }
}

async fn survey_file(path: PathBuf) -> Result<Survey, StorageProblem> {
    let unwritable = |path: &Path, error| {
        let user = sqlite::user_id();
        StorageProblem::File(format!("{} cannot be written by user id {user}: {error}", path.display()))
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    // A file without a name, which the system removes at once.
    tempfile::tempfile_in(folder).map_err(|error| unwritable(folder, error))?;
    if !path.try_exists().unwrap_or(true) {
        return Ok(Survey::Absent { path });
    }
    for file in sqlite::all_of(&path).iter().filter(|file| file.exists()) {
        OpenOptions::new().write(true).open(file).map_err(|error| unwritable(file, error))?;
    }
    let served = sqlite::is_served(&path);
    let wrong =
        |error: sqlx::Error| StorageProblem::Wrong(format!("{} cannot be read: {error}", path.display()));
    let inbox = Inbox::new(Store::sqlite_read_only(&path).await.map_err(wrong)?, None).0;
    let version: String =
        fetch!(inbox.reader, query_scalar("select sqlite_version()").fetch_one).map_err(wrong)?;
    let table = "select exists (select 1 from sqlite_schema where name = '_sqlx_migrations')";
    let (applied, deployment, feed_since) = contents(&inbox, table).await.map_err(wrong)?;
    inbox.close().await;
    let (what, migrations) =
        (format!("SQLite {version}"), Migrations::of(&applied, &migrator(Kind::Sqlite))?);
    Ok(Survey::Present { what, path: Some(path), served, migrations, deployment, feed_since })
}

async fn survey_server(server: &PostgresServer) -> Result<Survey, StorageProblem> {
    let lost = |error: sqlx::Error| StorageProblem::Server(format!("PostgreSQL cannot be reached: {error}"));
    let postgres = PostgresPool::connect(server).await.map_err(|error| match error.is::<Unusable>() {
        true => StorageProblem::Wrong(error.to_string()),
        false => StorageProblem::Server(format!("{error:#}")),
    })?;
    let pooler = if postgres.keeps_statements() { "" } else { " behind a pooler" };
    let inbox = Inbox::new(Store::Postgres(postgres), None).0;
    let (number, version, is_replica): (i32, String, bool) =
        fetch!(inbox.reader, query_as(SELECT_VERSION).fetch_one).map_err(lost)?;
    let what = format!("PostgreSQL {version}{pooler}");
    if number < OLDEST_POSTGRES {
        return Err(StorageProblem::Wrong(format!("{what} is too old: 12 or later is needed")));
    }
    if is_replica {
        let reason = format!("{what} refuses writes: it is a replica, or set to read-only");
        return Err(StorageProblem::ReadOnly(reason));
    }
    let may_write: bool = fetch!(inbox.reader, query_scalar(SELECT_MAY_WRITE).fetch_one).map_err(lost)?;
    if !may_write {
        return Err(StorageProblem::ReadOnly(format!("{what} does not let this user write")));
    }
    let table = "select to_regclass('_sqlx_migrations') is not null";
    let (applied, deployment, feed_since) = contents(&inbox, table).await.map_err(lost)?;
    inbox.close().await;
    let (what, migrations) =
        (format!("{what}, {server}"), Migrations::of(&applied, &migrator(Kind::Postgres))?);
    Ok(Survey::Present { what, path: None, served: false, migrations, deployment, feed_since })
}

/// What a survey reads: the migrations, the id of the deployment, and from when on the events of feeds are new.
type Contents = (Vec<Applied>, Option<String>, Option<i64>);

/// Reads the contents. `table` asks whether there is a table of migrations.
async fn contents(inbox: &Inbox, table: &str) -> sqlx::Result<Contents> {
    let applied = match fetch!(inbox.reader, query_scalar(table).fetch_one)? {
        true => fetch!(inbox.reader, query_as(SELECT_APPLIED).fetch_all)?,
        false => Vec::new(),
    };
    // Databases of an older version have no such tables.
    let deployment = fetch!(inbox.reader, query_scalar(SELECT_DEPLOYMENT).fetch_optional);
    let feed_since = fetch!(inbox.reader, query_scalar(SELECT_FEED_SINCE).fetch_optional);
    Ok((applied, deployment.unwrap_or_default(), feed_since.unwrap_or_default()))
}

const SELECT_VERSION: &str = "
    select current_setting('server_version_num')::integer, current_setting('server_version'),
           pg_is_in_recovery() or current_setting('default_transaction_read_only')::boolean";

/// Whether this user may write to all existing tables and create new ones. A start needs both: PostgreSQL
/// checks the right to create the table of the migrations even if that table exists.
const SELECT_MAY_WRITE: &str = "
    select coalesce(has_schema_privilege(current_schema(), 'create'), false)
       and coalesce(
        (select bool_and(has_table_privilege(to_regclass(name), privilege))
           from unnest(array['delivery', 'delivery_count', 'attempt', 'alert', 'alert_notice', 'memo', 'pending_requester',
                             'deployment', 'run', 'readiness', '_sqlx_migrations']) as name,
                unnest(array['select', 'insert', 'update', 'delete']) as privilege
          where to_regclass(name) is not null),
        true)";

/// A migration's version, whether it succeeded, and the digest of its SQL.
pub(super) type Applied = (i64, bool, Vec<u8>);

pub(super) const SELECT_APPLIED: &str =
    "select version, success, checksum from _sqlx_migrations order by version";

impl Migrations {
    /// Judges the applied migrations as a start would.
    pub(super) fn of(applied: &[Applied], migrator: &Migrator) -> Result<Migrations, StorageProblem> {
        for (version, success, checksum) in applied {
            let ours = migrator.iter().find(|migration| migration.version == *version);
            if !success {
                return Err(StorageProblem::Wrong(format!(
                    "migration {version} was started and not completed"
                )));
            }
            if ours.is_some_and(|migration| migration.checksum[..] != checksum[..]) {
                return Err(StorageProblem::Wrong(format!(
                    "migration {version} is not the one that was applied"
                )));
            }
        }
        let is_applied = |version| applied.iter().any(|(applied, ..)| *applied == version);
        let (known, pending): (Vec<i64>, Vec<i64>) =
            migrator.iter().map(|migration| migration.version).partition(|version| is_applied(*version));
        Ok(Migrations { applied: known.len(), pending: pending.len(), unknown: applied.len() - known.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_judged_as_a_start_would() {
        let migrator = migrator(Kind::Sqlite);
        let ours: Vec<Applied> =
            migrator.iter().map(|migration| (migration.version, true, migration.checksum.to_vec())).collect();
        let counts = |applied: &[Applied]| {
            Migrations::of(applied, &migrator).map(|found| (found.applied, found.pending, found.unknown)).ok()
        };
        assert_eq!(counts(&[]), Some((0, ours.len(), 0)));
        assert_eq!(counts(&ours), Some((ours.len(), 0, 0)));
        let newer = (9999, true, vec![1]);
        assert_eq!(counts(&[ours[0].clone(), newer.clone()]), Some((1, ours.len() - 1, 1)));
        assert_eq!(counts(&[(9999, false, vec![1])]), None);
        assert_eq!(counts(&[(ours[0].0, true, vec![1])]), None);
    }
}
