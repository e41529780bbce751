//! A look at the storage before anything is served from it. It changes nothing: no file is made, no
//! migration run, no lock of ours taken. SQLite itself reads a log by an index beside it, which it makes
//! if that was lost.

use std::fmt;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};

use super::file::{self, check_sqlite_version};
use super::postgres::{Link, PostgresPool, on_postgres};
use super::{SELECT_DEPLOYMENT, Unusable, migrator};
use crate::config::{Database, PostgresServer};

/// What serves well is no older.
const OLDEST_POSTGRES: i32 = 120_000;

/// What there is.
#[derive(Debug, PartialEq, Eq)]
pub enum Survey {
    /// No file yet, and it can be made in this folder.
    Absent { path: PathBuf },
    Present {
        /// The database and its version.
        what: String,
        /// Where, if it is a file.
        path: Option<PathBuf>,
        /// Whether a process serves it now; only the system that locks a file can tell.
        served: bool,
        migrations: Migrations,
        /// The id that a service on it answers with, once one was started.
        deployment: Option<String>,
    },
}

/// Versions of the tables.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Migrations {
    pub applied: usize,
    /// The next start applies them.
    pub pending: usize,
    /// Made by a later version of casebridge, which this one lets be.
    pub unknown: usize,
}

/// Why nothing can be served from it.
#[derive(Debug, PartialEq, Eq)]
pub enum StorageProblem {
    /// A file or its folder, and the user who cannot write there.
    File(String),
    /// The file holds something else, or the version is one that does not do.
    Wrong(String),
    /// The server is out of reach, or does not let us in.
    Server(String),
    /// It can be read and not written.
    ReadOnly(String),
}

impl fmt::Display for StorageProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (StorageProblem::File(text)
        | StorageProblem::Wrong(text)
        | StorageProblem::Server(text)
        | StorageProblem::ReadOnly(text)) = self;
        f.write_str(text)
    }
}

/// Looks at the storage. A server that does not answer is waited for: the caller limits the time.
///
/// # Errors
/// [`StorageProblem`]: a service could not start on it.
pub async fn survey(database: &Database) -> Result<Survey, StorageProblem> {
    match database {
        Database::Sqlite(path) => {
            let path = file::resolved(path).map_err(|error| StorageProblem::File(error.to_string()))?;
            file_at(path).await
        }
        Database::Postgres(server) => self::server(server).await,
    }
}

async fn file_at(path: PathBuf) -> Result<Survey, StorageProblem> {
    let unwritable = |path: &Path, error| {
        let user = file::user_id();
        StorageProblem::File(format!("{} cannot be written by user id {user}: {error}", path.display()))
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    // It has no name where the system can do that, and is gone at once.
    tempfile::tempfile_in(folder).map_err(|error| unwritable(folder, error))?;
    if !path.try_exists().unwrap_or(true) {
        return Ok(Survey::Absent { path });
    }
    for file in file::all_of(&path).iter().filter(|file| file.exists()) {
        OpenOptions::new().write(true).open(file).map_err(|error| unwritable(file, error))?;
    }
    let served = file::is_served(&path);
    let (what, migrations, deployment) = read(&path).await?;
    Ok(Survey::Present { what, path: Some(path), served, migrations, deployment })
}

async fn read(path: &Path) -> Result<(String, Migrations, Option<String>), StorageProblem> {
    let wrong =
        |error: sqlx::Error| StorageProblem::Wrong(format!("{} cannot be read: {error}", path.display()));
    // Who opens a file that has a log makes what goes with it. Without one nobody writes.
    let immutable = !file::log_of(path).exists();
    let options = SqliteConnectOptions::new().filename(path).read_only(true).immutable(immutable);
    let mut connection: SqliteConnection = options.connect().await.map_err(wrong)?;
    let version: String =
        sqlx::query_scalar("select sqlite_version()").fetch_one(&mut connection).await.map_err(wrong)?;
    check_sqlite_version(&version).map_err(|error| StorageProblem::Wrong(error.to_string()))?;
    let is_there = "select exists (select 1 from sqlite_schema where name = '_sqlx_migrations')";
    let is_there = sqlx::query_scalar(is_there).fetch_one(&mut connection).await.map_err(wrong)?;
    let applied = match is_there {
        true => sqlx::query_as(APPLIED).fetch_all(&mut connection).await.map_err(wrong)?,
        false => Vec::new(),
    };
    // Its table is as new as the migration that makes it.
    let deployment = sqlx::query_scalar(SELECT_DEPLOYMENT).fetch_optional(&mut connection).await;
    let _ = connection.close().await;
    Ok((format!("SQLite {version}"), Migrations::of(&applied)?, deployment.unwrap_or_default()))
}

async fn server(server: &PostgresServer) -> Result<Survey, StorageProblem> {
    let lost = |error: sqlx::Error| StorageProblem::Server(format!("PostgreSQL cannot be reached: {error}"));
    let postgres = PostgresPool::connect(server).await.map_err(|error| match error.is::<Unusable>() {
        true => StorageProblem::Wrong(error.to_string()),
        false => StorageProblem::Server(format!("{error:#}")),
    })?;
    let version = on_postgres!(&postgres, executor => sqlx::query_as(VERSION).fetch_one(executor));
    let (number, version, is_replica): (i32, String, bool) = version.map_err(lost)?;
    let pooler = if postgres.link() == Link::Pooler { " behind a pooler" } else { "" };
    let what = format!("PostgreSQL {version}{pooler}");
    if number < OLDEST_POSTGRES {
        return Err(StorageProblem::Wrong(format!("{what} is too old: 12 or later is needed")));
    }
    if is_replica {
        return Err(StorageProblem::ReadOnly(format!(
            "{what} takes no writes: it is a replica, or set to read-only"
        )));
    }
    let may_write = on_postgres!(&postgres, executor => sqlx::query_scalar(MAY_WRITE).fetch_one(executor));
    if !may_write.map_err(lost)? {
        return Err(StorageProblem::ReadOnly(format!("{what} does not let this user write")));
    }
    let is_there = "select to_regclass('_sqlx_migrations') is not null";
    let is_there = on_postgres!(&postgres, executor => sqlx::query_scalar(is_there).fetch_one(executor));
    let applied = match is_there.map_err(lost)? {
        true => {
            on_postgres!(&postgres, executor => sqlx::query_as(APPLIED).fetch_all(executor)).map_err(lost)?
        }
        false => Vec::new(),
    };
    let deployment =
        on_postgres!(&postgres, executor => sqlx::query_scalar(SELECT_DEPLOYMENT).fetch_optional(executor));
    let deployment = deployment.unwrap_or_default();
    postgres.close().await;
    let migrations = Migrations::of(&applied)?;
    let what = format!("{what}, {server}");
    Ok(Survey::Present { what, path: None, served: false, migrations, deployment })
}

const VERSION: &str = "
    select current_setting('server_version_num')::integer, current_setting('server_version'),
           pg_is_in_recovery() or current_setting('default_transaction_read_only')::boolean";

/// Whether this user may write to all existing tables and create new ones. A start needs both: PostgreSQL
/// checks the right to create the table of the migrations even if that table exists.
const MAY_WRITE: &str = "
    select coalesce(has_schema_privilege(current_schema(), 'create'), false)
       and coalesce(
        (select bool_and(has_table_privilege(to_regclass(name), privilege))
           from unnest(array['delivery', 'author', 'pending_requester', 'subscription', 'feed', 'deployment',
                             'run', 'readiness', '_sqlx_migrations']) as name,
                unnest(array['select', 'insert', 'update', 'delete']) as privilege
          where to_regclass(name) is not null),
        true)";

/// Version, whether it got through, and the digest of its text.
pub(super) type Applied = (i64, bool, Vec<u8>);

pub(super) const APPLIED: &str = "select version, success, checksum from _sqlx_migrations order by version";

impl Migrations {
    /// As a start would judge them.
    pub(super) fn of(applied: &[Applied]) -> Result<Migrations, StorageProblem> {
        let migrator = migrator();
        for (version, success, checksum) in applied {
            let ours = migrator.iter().find(|migration| migration.version == *version);
            if !success {
                return Err(StorageProblem::Wrong(format!(
                    "migration {version} was begun and did not get through"
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
        let ours: Vec<Applied> = migrator()
            .iter()
            .map(|migration| (migration.version, true, migration.checksum.to_vec()))
            .collect();
        let counts = |applied: &[Applied]| {
            Migrations::of(applied).map(|found| (found.applied, found.pending, found.unknown)).ok()
        };
        assert_eq!(counts(&[]), Some((0, ours.len(), 0)));
        assert_eq!(counts(&ours), Some((ours.len(), 0, 0)));
        let newer = (9999, true, vec![1]);
        assert_eq!(counts(&[ours[0].clone(), newer.clone()]), Some((1, ours.len() - 1, 1)));
        assert_eq!(counts(&[(9999, false, vec![1])]), None);
        assert_eq!(counts(&[(ours[0].0, true, vec![1])]), None);
    }
}
