//! The storage: received deliveries and their results. The only module with SQL.
//!
//! One table of deliveries on SQLite or PostgreSQL, with the same statements on both except for `{now}` and
//! `{skip locked}`. Every write is one statement and its own transaction, and no transaction spans a call to
//! another host.

mod alert;
mod attempt;
mod backup;
mod books;
mod case;
mod checkpoint;
mod claim;
mod commit;
mod counts;
mod limit;
mod memo;
mod migrations;
mod postgres;
mod report;
mod result;
mod retention;
mod row;
mod search;
mod select;
mod size;
mod sqlite;
pub mod survey;
mod writer;

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use prometheus_client::metrics::histogram::Histogram;
use sqlx::sqlite::SqlitePool;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

pub use alert::{Alert, DueNotice};
pub use attempt::RecordedAttempt;
pub use backup::backup;
pub use books::{Account, Claimed, OfCase, Surplus};
pub use claim::ClaimFilter;
pub use commit::{Committer, ReceiveError};
pub use counts::Counts;
pub use limit::Held;
pub use report::{DestinationCounts, LastEvent, Listed, Summary};
pub use search::Filter;
pub use select::Shown;
pub use size::Size;

use crate::config::Database;
use crate::delivery::{Origin, identity_for};
use migrations::{Kind, migrator};
use postgres::PostgresPool;
use sqlite::DatabaseFile;
use writer::Writer;

/// A handle on the storage; clones share it.
#[derive(Clone)]
pub struct Inbox {
    store: Store,
    queue: commit::Queue,
    writes: commit::WriteHealth,
    arrived: Arc<Notify>,
    commit_sizes: Histogram,
    /// The row of this start in the table of runs; `None` if this process is not the service.
    run: Option<Arc<str>>,
    /// Locked while this process serves an SQLite file.
    _lock: Option<Arc<File>>,
}

#[derive(Clone)]
enum Store {
    Sqlite { writer: Writer, reader: SqlitePool, file: DatabaseFile },
    Postgres(PostgresPool),
}

/// An item to be stored: a delivery for each of its destinations. An item is new or known as a whole, so a
/// destination that is configured later gets nothing of a known item.
#[derive(Clone, Debug)]
pub struct NewItem {
    pub identity: String,
    /// Never empty.
    pub destinations: Vec<&'static str>,
    /// The targets of those destinations that deliver to each target separately. An empty target: the item has none
    /// there.
    pub targets: Vec<(&'static str, String)>,
    pub origin: Origin,
    pub case_key: String,
    pub route: String,
    pub event_id: String,
    pub event_name: String,
    pub payload: String,
    /// Why it cannot be processed: then it is stored dead.
    pub dead: Option<String>,
}

/// One delivery of a new item.
struct NewRow<'a> {
    identity: Cow<'a, str>,
    destination: &'static str,
    target: &'a str,
}

impl NewItem {
    /// The deliveries: one for each destination, or one for each of its targets.
    fn rows(&self) -> impl Iterator<Item = NewRow<'_>> {
        self.destinations.iter().flat_map(move |&destination| {
            let own = self.targets.iter().filter(move |(of, _)| *of == destination);
            let mut targets: Vec<&str> = own.map(|(_, target)| target.as_str()).collect();
            if targets.is_empty() {
                targets.push("");
            }
            targets.into_iter().map(move |target| {
                let identity = match target {
                    "" => Cow::Borrowed(self.identity.as_str()),
                    target => identity_for(&self.identity, target).into(),
                };
                NewRow { identity, destination, target }
            })
        })
    }
}

/// The states of a delivery: there is no fourth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum State {
    Waiting,
    Done,
    Dead,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Done => "done",
            State::Dead => "dead",
        }
    }
}

/// The storage cannot be used as it is configured: trying again will not help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(String);

/// The bounds of a histogram of the items in one commit.
const COMMIT_SIZES: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0, 1024.0];

/// The limit of every statement: a network that swallows packets would hold its caller forever.
const STATEMENT_LIMIT: Duration = Duration::from_secs(8);

/// Runs a statement on SQLite's reader or writer, or on PostgreSQL. `$keeps`: whether the database may keep it
/// prepared.
macro_rules! on_store {
    ($store:expr, $pool:ident, |$executor:ident, $keeps:ident| $statement:expr) => {
        $crate::inbox::limited(async {
            match &$store {
                $crate::inbox::Store::Sqlite { $pool: connections, .. } => {
                    let $keeps = true;
                    $crate::inbox::on_sqlite!($pool: connections, $executor => $statement)
                }
                $crate::inbox::Store::Postgres(postgres) => {
                    let $keeps = postgres.keeps_statements();
                    $crate::inbox::postgres::on_postgres!(postgres, $executor => $statement)
                }
            }
        })
        .await
    };
}

/// Runs a statement or a transaction. After one that failed, the writer checks its connection.
macro_rules! on_sqlite {
    (reader: $reader:ident, $executor:ident => $statement:expr) => {{
        let $executor = $reader;
        $statement.await
    }};
    (writer: $writer:ident, $executor:ident => $statement:expr) => {{
        let mut turn = $writer.acquire().await?;
        let $executor = turn.connection();
        let result = $statement.await;
        turn.end(result)
    }};
}

/// Fetches rows: `fetch!(self.reader, query_as("select …", value).fetch_one)`. The `reader` does not wait for
/// writes; a statement that writes needs the `writer`.
macro_rules! fetch {
    ($inbox:ident.$pool:ident, $query:ident($sql:expr $(, $value:expr)* $(,)?).$fetch:ident) => {
        $crate::inbox::on_store!($inbox.store, $pool, |executor, keeps| {
            sqlx::$query(sqlx::AssertSqlSafe($inbox.store.fill($sql)))
                $(.bind($value))*
                .persistent(keeps)
                .$fetch(executor)
        })
    };
}

/// Executes a statement with its values; returns the number of changed rows.
macro_rules! execute {
    ($inbox:ident, $sql:expr $(, $value:expr)* $(,)?) => {
        $crate::inbox::on_store!($inbox.store, writer, |executor, keeps| async {
            let statement = sqlx::query(sqlx::AssertSqlSafe($inbox.store.fill($sql)))
                $(.bind($value))*
                .persistent(keeps);
            statement.execute(executor).await.map(|done| done.rows_affected())
        })
    };
}

use row::from_row;
use {execute, fetch, on_sqlite, on_store};

impl Inbox {
    /// Opens the storage to serve it: creates and migrates it. [`Inbox::receive`] completes only while the
    /// [`Committer`] runs.
    ///
    /// # Errors
    /// [`Unusable`] if the file cannot be written, another process serves it, or PostgreSQL's database is
    /// not in UTF8; otherwise the database is out of reach, and a later try may succeed.
    pub async fn open(database: &Database) -> anyhow::Result<(Inbox, Committer)> {
        match database {
            // Waiting does not mend a file, as it may a server.
            Database::Sqlite(path) => Inbox::open_file(path).await.map_err(|error| {
                let user = sqlite::user_id();
                Unusable(format!("{} cannot be used by user id {user}: {error:#}", path.display())).into()
            }),
            Database::Postgres(server) => {
                let (inbox, committer) =
                    Inbox::new(Store::Postgres(PostgresPool::connect(server).await?), None);
                inbox.migrate().await?;
                Ok((inbox.begin_run().await?, committer))
            }
        }
    }

    async fn open_file(path: &Path) -> anyhow::Result<(Inbox, Committer)> {
        sqlite::create(path)?;
        let path = sqlite::resolved(path)?;
        let lock = sqlite::lock(&path)?;
        let (inbox, committer) = Inbox::new(Store::sqlite(&path, true).await?, Some(lock));
        inbox.migrate().await?;
        inbox.free_unsent().await?;
        Ok((inbox.begin_run().await?, committer))
    }

    /// Opens an existing storage, while the service may be using it.
    ///
    /// # Errors
    /// There is none, or it is out of reach.
    pub async fn open_beside(database: &Database) -> anyhow::Result<Inbox> {
        Ok(Inbox::open_to_import(database).await?.0)
    }

    /// As [`Inbox::open_beside`], for storing items while the [`Committer`] runs.
    ///
    /// # Errors
    /// There is none, or it is out of reach.
    pub async fn open_to_import(database: &Database) -> anyhow::Result<(Inbox, Committer)> {
        let store = match database {
            Database::Sqlite(path) => Store::sqlite(&sqlite::resolved(path)?, false)
                .await
                .context("DATABASE_URL has to name the service's database")?,
            Database::Postgres(server) => Store::Postgres(PostgresPool::connect(server).await?),
        };
        let (inbox, committer) = Inbox::new(store, None);
        inbox
            .ping()
            .await
            .context("the database has no tables of casebridge yet: `casebridge serve` creates them")?;
        let sql = "select count(*) from (select target, note from delivery limit 1) as one";
        let known: sqlx::Result<i64> = fetch!(inbox.reader, query_scalar(sql).fetch_one);
        known.context("the database is that of an older version: `casebridge serve` brings it up to date")?;
        Ok((inbox, committer))
    }

    fn new(store: Store, lock: Option<File>) -> (Inbox, Committer) {
        let arrived = Arc::new(Notify::new());
        let commit_sizes = Histogram::new(COMMIT_SIZES);
        let (queue, writes, committer) =
            commit::channel(store.clone(), arrived.clone(), commit_sizes.clone());
        let lock = lock.map(Arc::new);
        (Inbox { store, queue, writes, arrived, commit_sizes, run: None, _lock: lock }, committer)
    }

    async fn begin_run(mut self) -> sqlx::Result<Inbox> {
        let id = random_id();
        execute!(
            self,
            // Stored deliveries were received before this run, whatever the clocks said. As a sub-select, the
            // maximum comes from an index: SQLite would read all rows otherwise.
            "insert into run (id, began_at, seen_at, taken_over_at)
             select $1, max(at), {now}, 9223372036854775807
               from (select {now} as at union all select (select max(received_at) from delivery) + 1) as times
              where true
             on conflict (id) do nothing",
            &id
        )?;
        self.run = Some(id.into());
        Ok(self)
    }

    /// Stores items; returns how many of them were new. When this returns `Ok`, they are on disk.
    ///
    /// # Errors
    /// [`ReceiveError`]; then the items may or may not be stored, and the same call can safely be made again.
    pub async fn receive(&self, items: Vec<NewItem>) -> Result<usize, ReceiveError> {
        self.queue.receive(items).await
    }

    /// Completes when deliveries have arrived after this was called and enabled.
    pub fn arrived(&self) -> Notified<'_> {
        self.arrived.notified()
    }

    /// Returns the random id that all processes on this database share; the first of them makes it.
    pub async fn deployment_id(&self) -> sqlx::Result<String> {
        let sql = "insert into deployment (one, id) values (1, $1) on conflict do nothing";
        execute!(self, sql, random_id())?;
        fetch!(self.reader, query_scalar(SELECT_DEPLOYMENT).fetch_one)
    }

    /// Fails if the storage does not answer, or the last write failed.
    pub async fn ping(&self) -> sqlx::Result<()> {
        self.check_last_write()?;
        let sql = "select count(*) from (select 1 from delivery limit 1) as one";
        let _: i64 = fetch!(self.reader, query_scalar(sql).fetch_one)?;
        Ok(())
    }

    /// Writes one row, and fails if the storage refuses it: a read-only server and a full disk
    /// still answer [`Inbox::ping`].
    pub async fn check_writable(&self) -> sqlx::Result<()> {
        self.check_last_write()?;
        let sql = "insert into readiness (id, written_at) values (1, {now})
                   on conflict (id) do update set written_at = excluded.written_at";
        execute!(self, sql).map(drop)
    }

    fn check_last_write(&self) -> sqlx::Result<()> {
        if self.writes.has_just_failed() {
            return Err(sqlx::Error::Io(io::Error::other("the last write failed")));
        }
        if let Store::Sqlite { file, .. } = &self.store {
            file.check_in_place()?;
        }
        Ok(())
    }

    /// How many items each commit stored.
    pub fn commit_sizes(&self) -> Histogram {
        self.commit_sizes.clone()
    }

    /// `sqlite` or `postgres`
    pub fn kind(&self) -> &'static str {
        match &self.store {
            Store::Sqlite { .. } => "sqlite",
            Store::Postgres(_) => "postgres",
        }
    }

    /// Waits for running statements and closes the connections.
    pub async fn close(&self) {
        match &self.store {
            Store::Sqlite { writer, reader, .. } => {
                reader.close().await;
                writer.close().await;
            }
            Store::Postgres(postgres) => postgres.close().await,
        }
    }

    /// Frees deliveries that a killed process had claimed and not yet sent. Others stay leased and become
    /// doubtful when the lease ends: until then their destination may still be working on them. Only with SQLite is it
    /// certain that no other process is at work; on PostgreSQL every lease runs its time.
    async fn free_unsent(&self) -> sqlx::Result<()> {
        execute!(self, FREE_UNSENT).map(drop)
    }

    async fn migrate(&self) -> anyhow::Result<()> {
        let migrated = match &self.store {
            Store::Sqlite { writer, .. } => migrator(Kind::Sqlite)
                .run(writer.acquire().await?.connection())
                .await
                .map_err(anyhow::Error::from),
            Store::Postgres(postgres) => postgres.migrate().await,
        };
        migrated.context("the database cannot be brought up to date")?;
        self.take_over().await.context("the database cannot be brought up to date")
    }

    /// Takes over what processes of the version before have stored since it was last done.
    async fn take_over(&self) -> sqlx::Result<()> {
        let runs: i64 = fetch!(self.reader, query_scalar(COUNT_OLD_RUNS).fetch_one)?;
        if runs == 0 {
            return Ok(());
        }
        for statement in TAKE_OVER.split_inclusive(';').filter(|statement| statement.contains(' ')) {
            execute!(self, statement)?;
        }
        Ok(())
    }
}

impl Store {
    /// Moves SQLite's write-ahead log into the database, each time that it has grown, for ever.
    async fn keep_log_short(&self, grown: Arc<Notify>) {
        match self {
            Store::Sqlite { writer, .. } => checkpoint::run(writer.clone(), grown).await,
            Store::Postgres(_) => std::future::pending().await,
        }
    }

    /// Fills a statement with the SQL of this database. "Now" is the database's clock, so that two instances
    /// have the same one.
    fn fill(&self, sql: &str) -> String {
        let (now, skip_locked) = match self {
            Store::Sqlite { .. } => ("cast(unixepoch('subsec') * 1000 as integer)", ""),
            Store::Postgres(_) => {
                ("(extract(epoch from clock_timestamp()) * 1000)::bigint", "for update of mine skip locked")
            }
        };
        sql.replace("{now}", now).replace("{skip locked}", skip_locked)
    }
}

/// Leased deliveries are waiting and have been tried. Without these conditions, SQLite would read the whole table.
const FREE_UNSENT: &str = "update delivery set due_at = {now}
                            where state = 'waiting' and attempts > 0 and leased and request is null";
/// What the version before stores in its own way.
const TAKE_OVER: &str = include_str!("inbox/take_over.sql");
/// Counts the runs that have stored something since it was taken over.
const COUNT_OLD_RUNS: &str =
    "select count(*) from run where taken_over_at is null or seen_at > taken_over_at";
const SELECT_DEPLOYMENT: &str = "select id from deployment";

async fn limited<T>(statement: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    let limited = tokio::time::timeout(STATEMENT_LIMIT, statement).await;
    limited.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// PostgreSQL cannot store a NUL.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn random_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

fn millis(duration: Duration) -> i64 {
    duration.as_millis() as i64
}
