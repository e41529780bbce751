//! PostgreSQL's side of the storage: connecting, with or without a pooler in between; sessions that a
//! failover left behind; migrations.
//!
//! A pooler in transaction mode gives each transaction another session of the server. A statement that was
//! prepared in one session is unknown in the next, or another client's statement has its name. So each
//! statement runs unnamed, in a transaction, and nothing is set for a session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use parking_lot::Mutex;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgDatabaseError, PgPool, PgPoolOptions, PgSeverity};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Postgres, Row, raw_sql};
use tracing::info;

use super::survey::{Applied, Migrations, SELECT_APPLIED};
use super::{Kind, Unusable, migrator};
use crate::config::{Pooler, PostgresServer};

/// Heroku's smallest plan allows 20, and two releases overlap.
const CONNECTIONS: u32 = 5;
const ACQUIRE_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection stays out of the pool, which closes old ones when it gets them back.
const SPARE_FOR: Duration = Duration::from_secs(60);
/// A firewall, or a pooler without its server, may not answer at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const BEGIN: &str = "begin isolation level read committed";
/// A start-up option that a server keeps, and that a pooler accepts without passing it on.
const MARKER: &str = "casebridge.is_direct";
/// How many times two connections are asked for their session. A busy pooler may answer from two sessions by
/// chance.
const POOLER_PROBES: usize = 5;
/// Allows one migration at a time, with or without a pooler. The number means nothing.
const MIGRATION_LOCK: i64 = 0x6361_7365_6272;
/// The table as sqlx creates it, so that each finds the other's rows.
const MIGRATIONS_TABLE: &str = "
    create table if not exists _sqlx_migrations (
        version bigint primary key, description text not null,
        installed_on timestamptz not null default now(), success boolean not null,
        checksum bytea not null, execution_time bigint not null)";

/// The kind of connection to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// A connection is one session of the server for as long as it is open.
    Direct,
    /// A session lasts for one transaction.
    Pooler,
}

/// Connections to one server; clones share them.
#[derive(Clone)]
pub(super) struct PostgresPool {
    pool: PgPool,
    /// For the next statement. The pool asks the server whether a connection still works whenever it gets one back: a
    /// round trip, which the next statement makes unnecessary.
    spare: Arc<Mutex<Option<Session>>>,
    link: Link,
    begin: Arc<str>,
    stale: Stale,
}

/// Runs one statement, and again if its session was at fault or another transaction was in its way. Every
/// statement of ours may be run twice: it is fenced, or has the same effect the second time, or is a claim,
/// whose rows come back when their lease ends.
macro_rules! on_postgres {
    ($postgres:expr, $executor:ident => $statement:expr) => {{
        let postgres: &$crate::inbox::postgres::PostgresPool = $postgres;
        let mut tries = 1;
        loop {
            let result = async {
                let mut session = postgres.session().await?;
                let $executor = session.executor();
                let result = $statement.await;
                postgres.end(session, result).await
            };
            match result.await {
                Err(error) if postgres.is_worth_repeating(&error, tries) => tries += 1,
                result => break result,
            }
        }
    }};
}
pub(super) use on_postgres;

impl PostgresPool {
    /// Connects, and detects a pooler.
    ///
    /// # Errors
    /// [`Unusable`] if the database's encoding is not UTF8; otherwise the server is out of reach.
    pub async fn connect(server: &PostgresServer) -> anyhow::Result<PostgresPool> {
        let reached = tokio::time::timeout(CONNECT_LIMIT, reach(server)).await;
        let reached = reached
            .with_context(|| format!("PostgreSQL does not answer within {} s", CONNECT_LIMIT.as_secs()))?;
        let (options, link, schema) = reached?;
        if let Some(schema) = &schema {
            info!(
                event = "schema_kept",
                schema,
                "using casebridge's tables in the schema {schema}, although search_path now names another one first"
            );
        }
        if link == Link::Pooler {
            info!(
                event = "pooler_found",
                "a pooler is in front of PostgreSQL: each statement runs in its own transaction"
            );
        }
        let stale = Stale::default();
        let is_fresh = stale.clone();
        // A pooler keeps no settings of a session, so each transaction sets the schema.
        let begin = match &schema {
            None => BEGIN.into(),
            Some(schema) => format!("{BEGIN}; set local search_path to {schema}").into(),
        };
        let set_path =
            schema.filter(|_| link == Link::Direct).map(|schema| format!("set search_path to {schema}"));
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(ACQUIRE_LIMIT)
            // The statement itself finds out that a session is dead, without a round trip for each.
            .test_before_acquire(false)
            .before_acquire(move |_, connection| {
                let is_fresh = is_fresh.is_fresh(connection.age);
                Box::pin(async move { Ok(is_fresh) })
            })
            .after_connect(move |connection, _| {
                let set_path = set_path.clone();
                Box::pin(async move {
                    match set_path {
                        Some(sql) => connection.execute(AssertSqlSafe(sql)).await.map(drop),
                        None => Ok(()),
                    }
                })
            })
            .connect_with(options)
            .await
            .context("PostgreSQL cannot be reached")?;
        Ok(PostgresPool { pool, spare: Arc::default(), link, begin, stale })
    }

    /// Whether the server keeps prepared statements. Behind a pooler the next transaction has another
    /// session.
    pub fn keeps_statements(&self) -> bool {
        self.link == Link::Direct
    }

    pub async fn close(&self) {
        let closed = self.pool.close();
        drop(self.spare.lock().take());
        closed.await;
    }

    /// A pooler may have kept several sessions that a failover made read-only; each try ends one of them.
    pub fn is_worth_repeating(&self, error: &sqlx::Error, tries: u32) -> bool {
        match self.link {
            Link::Pooler if is_read_only(error) => tries <= CONNECTIONS,
            _ => tries == 1 && may_pass(error),
        }
    }

    /// A session for one statement; behind a pooler a transaction.
    pub async fn session(&self) -> sqlx::Result<Session> {
        let mut session = match self.take_spare() {
            Some(spare) => spare,
            None => self.new_session().await?,
        };
        session.has_ended = false;
        if self.link == Link::Pooler {
            session.connection.execute(self.begin()).await?;
        }
        Ok(session)
    }

    /// The spare session, unless a failover may have left it on the wrong server.
    fn take_spare(&self) -> Option<Session> {
        let mut session = self.spare.lock().take()?;
        let is_fresh = self.stale.is_fresh(session.since.elapsed());
        if !is_fresh {
            session.connection.close_on_drop();
        }
        is_fresh.then_some(session)
    }

    async fn new_session(&self) -> sqlx::Result<Session> {
        let (connection, stale) = (self.pool.acquire().await?, self.stale.clone());
        Ok(Session { connection, link: self.link, stale, has_ended: false, since: Instant::now() })
    }

    /// Ends the transaction, if there is one. Keeps the session as the spare one, gives it back, or closes it if it is at
    /// fault.
    pub async fn end<T>(&self, mut session: Session, result: sqlx::Result<T>) -> sqlx::Result<T> {
        let result = session.end(result).await;
        if session.has_ended && session.since.elapsed() < SPARE_FOR {
            self.keep_as_spare(session);
        }
        result
    }

    fn keep_as_spare(&self, session: Session) {
        let mut spare = self.spare.lock();
        // A caller that waits for a connection only sees those that go back to the pool.
        let may_be_waited_for = self.pool.size() == CONNECTIONS && self.pool.num_idle() == 0;
        if spare.is_none() && !may_be_waited_for && !self.pool.is_closed() {
            *spare = Some(session);
        }
    }

    /// Brings the tables up to date, all or nothing. The simple protocol and one transaction work behind a
    /// pooler, too.
    pub async fn migrate(&self) -> anyhow::Result<()> {
        let mut connection = self.pool.acquire().await?;
        let migrated = migrate(&mut connection, self.begin()).await;
        if migrated.is_err() {
            // Its transaction is open.
            connection.close_on_drop();
        }
        migrated
    }

    fn begin(&self) -> AssertSqlSafe<String> {
        AssertSqlSafe(self.begin.to_string())
    }
}

/// Returns the options of each connection, its kind, and the schema of the inbox, as an identifier in SQL, if
/// another schema comes first.
async fn reach(server: &PostgresServer) -> anyhow::Result<(PgConnectOptions, Link, Option<String>)> {
    // PgBouncer refuses `extra_float_digits`, and we store no floating-point numbers.
    let plain = server.options.clone().application_name("casebridge").extra_float_digits(None);
    // A role or a database may have another default, which a pooler could not be asked to change.
    let isolated =
        plain.clone().options([("default_transaction_isolation", "read committed"), (MARKER, "1")]);
    let mut one = plain.connect().await.context("PostgreSQL cannot be reached")?;
    check_encoding(&mut one).await?;
    let schema = schema_behind(&mut one).await.context("PostgreSQL cannot be reached")?;
    let two = if server.pooler == Pooler::Present { None } else { Some(isolated.connect().await) };
    let mut two = match two.transpose() {
        Ok(connection) => connection,
        Err(error) if refuses_parameter(&error) => None,
        Err(error) => return Err(error).context("PostgreSQL cannot be reached"),
    };
    let link = match (server.pooler, &mut two) {
        (Pooler::Present, _) | (Pooler::Detect, None) => Link::Pooler,
        (Pooler::Absent, _) => Link::Direct,
        (Pooler::Detect, Some(two)) => detect(&mut one, two).await.context("PostgreSQL cannot be reached")?,
    };
    let takes_options = two.is_some();
    one.close().await?;
    if let Some(two) = two {
        two.close().await?;
    }
    let options = if link == Link::Direct && takes_options { isolated } else { plain };
    Ok((options, link, schema))
}

/// Detects a pooler. Without one, the server keeps the options of a connection, and two connections have two
/// sessions, which never change.
async fn detect(one: &mut PgConnection, two: &mut PgConnection) -> sqlx::Result<Link> {
    let marked = format!("select current_setting('{MARKER}', true)");
    let marked: Option<String> = raw_sql(AssertSqlSafe(marked)).fetch_one(&mut *two).await?.try_get(0)?;
    if marked.as_deref() != Some("1") {
        return Ok(Link::Pooler);
    }
    let sessions = (session_of(one).await?, session_of(two).await?);
    if sessions.0 == sessions.1 {
        return Ok(Link::Pooler);
    }
    for _ in 0..POOLER_PROBES {
        if (session_of(one).await?, session_of(two).await?) != sessions {
            return Ok(Link::Pooler);
        }
    }
    Ok(Link::Direct)
}

/// Finds the schema with the inbox if another schema without one comes first. PostgreSQL looks for a schema
/// of the user's name before `public`. If such a schema is created later, all earlier events would seem new.
async fn schema_behind(connection: &mut PgConnection) -> sqlx::Result<Option<String>> {
    let sql = "
        select quote_ident(schema), schema = current_schema()
          from unnest(current_schemas(false)) with ordinality as path (schema, place)
         where to_regclass(quote_ident(schema) || '.delivery') is not null
           and to_regclass(quote_ident(schema) || '._sqlx_migrations') is not null
         order by place limit 1";
    let Some(row) = raw_sql(sql).fetch_optional(connection).await? else { return Ok(None) };
    let is_first: bool = row.try_get(1)?;
    Ok(if is_first { None } else { Some(row.try_get(0)?) })
}

async fn session_of(connection: &mut PgConnection) -> sqlx::Result<i32> {
    raw_sql("select pg_backend_pid()").fetch_one(connection).await?.try_get(0)
}

/// Fails unless the encoding is UTF8: in another one the server would refuse some texts, or garble them.
async fn check_encoding(connection: &mut PgConnection) -> anyhow::Result<()> {
    let encoding = raw_sql("show server_encoding").fetch_one(connection).await;
    let encoding: String = encoding.and_then(|row| row.try_get(0)).context("PostgreSQL cannot be reached")?;
    match encoding.as_str() {
        "UTF8" => Ok(()),
        _ => Err(Unusable(format!(
            "the database has the encoding {encoding}, which cannot hold every text: create one with \
             `create database casebridge encoding 'UTF8' template template0`, and name it in DATABASE_URL"
        ))
        .into()),
    }
}

/// Whether a pooler refuses our parameters, which PostgreSQL accepts: PgBouncer with 08P01, the proxy of
/// Amazon RDS as a feature that it does not have (0A000).
fn refuses_parameter(error: &sqlx::Error) -> bool {
    code_of(error).is_some_and(|code| matches!(code.as_str(), "08P01" | "0A000"))
}

async fn migrate(connection: &mut PgConnection, begin: AssertSqlSafe<String>) -> anyhow::Result<()> {
    connection.execute(begin).await?;
    // Another instance may hang while it holds the lock: then this start is tried again.
    connection.execute("set local lock_timeout to '10s'").await?;
    let lock = format!("select pg_advisory_xact_lock({MIGRATION_LOCK})");
    connection.execute(AssertSqlSafe(lock)).await.context("another instance is migrating the database")?;
    connection.execute(MIGRATIONS_TABLE).await?;
    let applied = raw_sql(SELECT_APPLIED).fetch_all(&mut *connection).await?;
    let applied = applied.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)));
    let applied = applied.collect::<sqlx::Result<Vec<Applied>>>()?;
    let migrator = migrator(Kind::Postgres);
    Migrations::of(&applied, &migrator).map_err(|problem| anyhow!(problem))?;
    for migration in migrator.iter() {
        if applied.iter().any(|(version, ..)| *version == migration.version) {
            continue;
        }
        let begun = Instant::now();
        let applied = connection.execute(migration.sql.clone()).await;
        applied.with_context(|| format!("migration {} fails", migration.version))?;
        let checksum: String = migration.checksum.iter().map(|byte| format!("{byte:02x}")).collect();
        let record = format!(
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
             values ({}, '{}', true, decode('{checksum}', 'hex'), {})",
            migration.version,
            migration.description.replace('\'', "''"),
            begun.elapsed().as_nanos()
        );
        connection.execute(AssertSqlSafe(record)).await?;
    }
    connection.execute("commit").await?;
    Ok(())
}

/// A connection that runs one statement at a time. If the statement does not end, the connection is dead, still
/// at work or on the wrong server: it is closed, and so are all that were opened before.
pub(super) struct Session {
    connection: PoolConnection<Postgres>,
    link: Link,
    stale: Stale,
    has_ended: bool,
    /// When the pool gave its connection.
    since: Instant,
}

impl Session {
    pub fn executor(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Ends the transaction, if there is one.
    async fn end<T>(&mut self, result: sqlx::Result<T>) -> sqlx::Result<T> {
        let result = match self.link {
            Link::Direct => result,
            Link::Pooler => self.end_transaction(result).await,
        };
        self.has_ended = !result.as_ref().is_err_and(is_of_session);
        result
    }

    async fn end_transaction<T>(&mut self, result: sqlx::Result<T>) -> sqlx::Result<T> {
        match result {
            Ok(value) => self.connection.execute("commit").await.map(|_| value),
            Err(error) => {
                self.connection.execute("rollback").await?;
                if is_read_only(&error) {
                    // Its own session answers with an error.
                    let _ = self.connection.execute(END_READ_ONLY_SESSION).await;
                }
                Err(error)
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.has_ended {
            self.connection.close_on_drop();
            self.stale.note();
        }
    }
}

/// When a session last failed. Sessions that were opened before may be on a server that a failover has
/// made read-only, or behind a network that swallows packets.
#[derive(Clone, Default)]
struct Stale(Arc<Mutex<Option<Instant>>>);

impl Stale {
    fn note(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// `age` is how long ago a connection was opened.
    fn is_fresh(&self, age: Duration) -> bool {
        let stale = *self.0.lock();
        stale.is_none_or(|stale| age <= stale.elapsed())
    }
}

/// Behind a pooler, our closing a connection does not close the session, which the pooler would give to the
/// next transaction. This ends the session that it runs in, if that is read-only itself: the pooler opens a
/// new one, on the server that takes writes by then. No other client is on it at that moment.
const END_READ_ONLY_SESSION: &str = "
    select pg_terminate_backend(pg_backend_pid())
     where pg_is_in_recovery() or current_setting('default_transaction_read_only')::boolean";

fn is_read_only(error: &sqlx::Error) -> bool {
    code_of(error).is_some_and(|code| code == "25006")
}

fn code_of(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(|code| code.into_owned())
}

/// The session is at fault: on a new one the same statement may pass.
fn is_of_session(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
        // https://www.postgresql.org/docs/current/errcodes-appendix.html: 25006 is a read-only transaction,
        // 57P01 to 57P05 are a server or a session that ends, class 08 is a connection or PgBouncer's own.
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default();
            let severity = database.try_downcast_ref::<PgDatabaseError>().map(PgDatabaseError::severity);
            matches!(severity, Some(PgSeverity::Fatal | PgSeverity::Panic))
                || code == "25006"
                || code.starts_with("57P0")
                || code.starts_with("08")
        }
        _ => false,
    }
}

/// Another transaction was in the way: a serialization failure, or the end of a deadlock.
pub(super) fn is_conflict(error: &sqlx::Error) -> bool {
    code_of(error).is_some_and(|code| matches!(code.as_str(), "40001" | "40P01"))
}

fn may_pass(error: &sqlx::Error) -> bool {
    is_of_session(error) || is_conflict(error)
}

#[cfg(test)]
mod tests {
    use Duration;

    use super::*;

    #[test]
    fn a_session_opened_before_a_failure_is_stale() {
        let stale = Stale::default();
        assert!(stale.is_fresh(Duration::from_secs(3600)));
        stale.note();
        assert!(!stale.is_fresh(Duration::from_secs(3600)));
        assert!(stale.is_fresh(Duration::ZERO));
    }

    #[test]
    fn only_the_failures_of_a_session_close_it() {
        assert!(is_of_session(&sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into())));
        assert!(!is_of_session(&sqlx::Error::PoolTimedOut));
        assert!(!may_pass(&sqlx::Error::RowNotFound));
    }
}
