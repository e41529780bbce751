//! The storage: what was received and what became of it. The only SQL.
//!
//! One table of deliveries on SQLite or PostgreSQL, with the same statements on both: `{now}` and
//! `{skip locked}` are the only words that differ. Every write is one statement that is its own
//! transaction, and none spans a call to a foreign host.

mod backup;
mod checkpoint;
mod commit;
mod file;
mod postgres;
pub mod survey;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, FromRow, SqlSafeStr, SqlStr};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

pub use backup::backup;
pub use commit::{Committer, ReceiveError};

use crate::config::{Database, Retention};
use crate::memory::CaseMemory;
use crate::retry::Transition;
use file::{DatabaseFile, check_sqlite_version};
use postgres::{PostgresPool, on_postgres};

/// A handle on the storage; clones share it.
#[derive(Clone)]
pub struct Inbox {
    store: Store,
    queue: commit::Queue,
    writes: commit::WriteHealth,
    arrived: Arc<Notify>,
    /// The row of this start in the table of runs; none beside a service.
    run: Option<Arc<str>>,
    /// Held while this process serves an SQLite file.
    _lock: Option<Arc<File>>,
}

#[derive(Clone)]
enum Store {
    Sqlite {
        /// One connection: SQLite has one writer at a time, and several only wait for each other.
        writer: SqlitePool,
        reader: SqlitePool,
        file: DatabaseFile,
    },
    Postgres(PostgresPool),
}

/// A delivery to be stored.
#[derive(Clone, Debug)]
pub struct NewDelivery {
    pub identity: String,
    pub destination: &'static str,
    pub case_key: String,
    pub route: String,
    pub event_id: String,
    pub event_name: String,
    pub payload: String,
    /// Set for what nothing can be made of: it is stored dead, with this reason.
    pub dead: Option<String>,
    /// Set for what may have been delivered before we knew of it.
    pub in_doubt: bool,
}

/// A delivery that is ours until its lease ends.
#[derive(Clone, Debug, FromRow)]
pub struct Claim {
    pub identity: String,
    pub destination: String,
    pub case_key: String,
    pub route: String,
    pub payload: String,
    /// Set once the bytes of the create are frozen.
    pub request: Option<String>,
    pub revision: i64,
    /// The fence: what this claim raised it to.
    pub attempts: i64,
    pub tries: i64,
    pub in_doubt: bool,
    pub received_at: i64,
    /// The operator has said that the ticket of the case is gone for good.
    pub ticket_gone: bool,
}

impl Claim {
    /// The key of the create: a new one for each revision of its bytes.
    pub fn idempotency_key(&self) -> String {
        match self.revision {
            0 => self.identity.clone(),
            revision => format!("{}#{revision}", self.identity),
        }
    }
}

/// A transition as the columns see it.
struct Settled<'a> {
    state: State,
    after: Duration,
    tries: i64,
    reference: Option<&'a str>,
    told: Option<String>,
    error: Option<&'a str>,
    /// A doubt is added.
    doubt: bool,
    /// Every doubt is over.
    certain: bool,
}

impl<'a> Settled<'a> {
    fn new(claim: &Claim, transition: &'a Transition) -> Settled<'a> {
        let unchanged = Settled {
            state: State::Waiting,
            after: Duration::ZERO,
            tries: claim.tries,
            reference: None,
            told: None,
            error: None,
            doubt: false,
            certain: false,
        };
        match transition {
            Transition::Done { reference, memory } => Settled {
                state: State::Done,
                reference: Some(reference),
                told: Some(memory.to_column()),
                certain: true,
                ..unchanged
            },
            Transition::Dead { reason } => {
                Settled { state: State::Dead, error: Some(reason), certain: true, ..unchanged }
            }
            Transition::GivenUp { reason, in_doubt, rest } => Settled {
                state: State::Dead,
                error: Some(reason),
                doubt: *in_doubt,
                after: *rest,
                tries: claim.tries + 1,
                ..unchanged
            },
            Transition::Again { after, tries, in_doubt, reason } => {
                Settled { after: *after, tries: *tries, error: Some(reason), doubt: *in_doubt, ..unchanged }
            }
        }
    }
}

/// Which deliveries to claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimFilter {
    /// Only what was pushed and never tried: neither what fails nor the past of a feed holds it up.
    Fresh,
    Any,
}

/// What the storage knows of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    pub ticket: CaseTicket,
    /// The delivery may have been delivered although nothing here says so: it is older than this run, or the
    /// database is older than this run, and so may have been restored.
    pub may_be_restored: bool,
}

/// What is known of the ticket of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaseTicket {
    /// No other delivery of this case was ever tried: there cannot be one of ours.
    None,
    /// Others were tried, and none is known to have made one.
    Unknown,
    Known {
        reference: String,
        /// What it contains,
        memory: CaseMemory,
        /// and when the youngest event that it contains was received.
        as_of: i64,
    },
}

/// A delivery as the operator sees it. Times are milliseconds since 1970, UTC.
#[derive(Clone, Debug, FromRow)]
pub struct Listed {
    pub identity: String,
    pub destination: String,
    pub case_key: String,
    pub route: String,
    pub event_id: String,
    pub event_name: String,
    pub state: String,
    pub attempts: i64,
    pub tries: i64,
    pub due_at: i64,
    pub received_at: i64,
    pub settled_at: Option<i64>,
    pub reference: Option<String>,
    pub last_error: Option<String>,
    /// Its texts were erased.
    pub erased: bool,
}

/// A ticket whose author is to become its requester, and who that is.
#[derive(Clone, Debug, FromRow)]
pub struct PendingRequester {
    pub destination: String,
    pub ticket: String,
    /// The author's key at the destination.
    pub author: String,
    /// That of the delivery that made the ticket; empty once its texts were erased.
    pub payload: String,
    /// That of the same delivery.
    pub route: String,
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

/// Counts and ages over the whole inbox.
#[derive(Clone, Debug, Default, FromRow)]
pub struct Summary {
    pub waiting: i64,
    pub in_doubt: i64,
    pub done_24h: i64,
    pub dead: i64,
    /// Milliseconds that the oldest waiting delivery has waited.
    pub oldest_ms: Option<i64>,
    /// Milliseconds since the last delivery was received.
    pub last_event_ms: Option<i64>,
}

/// The last event that came by a route.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct LastEvent {
    pub route: String,
    /// When it was received: milliseconds since 1970, UTC.
    pub at: i64,
    /// The same as milliseconds until now, by the database's clock.
    pub age_ms: i64,
}

/// The storage cannot be used as it is configured: trying again will not help.
#[derive(Debug)]
pub struct Unusable(String);

impl std::error::Error for Unusable {}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Two clocks that differ by less are taken for equal.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);
/// No statement may hold its caller longer: a network that swallows packets looks like this.
const STATEMENT_LIMIT: Duration = Duration::from_secs(8);

/// Runs one statement on whichever database there is; `$pool` is where it writes.
macro_rules! on_writer {
    ($inbox:expr, $pool:ident => $statement:expr) => {
        limited(async {
            match &$inbox.store {
                Store::Sqlite { writer: $pool, .. } => $statement.await,
                Store::Postgres(postgres) => on_postgres!(postgres, $pool => $statement),
            }
        })
        .await
    };
}

/// Runs one statement and tells whether it changed a row.
macro_rules! changes {
    ($inbox:expr, $pool:ident => $statement:expr) => {
        on_writer!($inbox, $pool => async { $statement.await.map(|done| done.rows_affected() == 1) })
    };
}

/// The same for reading, beside the writer.
macro_rules! on_reader {
    ($inbox:expr, $pool:ident => $statement:expr) => {
        limited(async {
            match &$inbox.store {
                Store::Sqlite { reader: $pool, .. } => $statement.await,
                Store::Postgres(postgres) => on_postgres!(postgres, $pool => $statement),
            }
        })
        .await
    };
}

impl Inbox {
    /// Opens the storage to serve it: creates and migrates it. The [`Committer`] has to be run for
    /// [`Inbox::receive`] to get anywhere.
    ///
    /// # Errors
    /// [`Unusable`] if the file cannot be written, another process serves it, or PostgreSQL's database is
    /// not in UTF8; otherwise the database is out of reach, and a later try may succeed.
    pub async fn open(database: &Database) -> anyhow::Result<(Inbox, Committer)> {
        let (inbox, committer) = match database {
            Database::Sqlite(path) => {
                // A file does not get better by waiting, as a server may.
                Inbox::open_file(path).await.map_err(|error| {
                    Unusable(format!(
                        "{} cannot be used by user id {}: {error:#}",
                        path.display(),
                        file::user_id()
                    ))
                })?
            }
            Database::Postgres(server) => {
                let (inbox, committer) =
                    Inbox::new(Store::Postgres(PostgresPool::connect(server).await?), None);
                inbox.migrate().await?;
                (inbox.begin_run().await?, committer)
            }
        };
        Ok((inbox, committer))
    }

    async fn open_file(path: &Path) -> anyhow::Result<(Inbox, Committer)> {
        file::create(path)?;
        let path = file::resolved(path)?;
        let lock = file::lock(&path)?;
        let (inbox, committer) = Inbox::new(Store::sqlite(&path, true).await?, Some(lock));
        inbox.migrate().await?;
        inbox.free_unsent().await?;
        Ok((inbox.begin_run().await?, committer))
    }

    /// Opens a storage that exists, beside the process that serves it.
    ///
    /// # Errors
    /// There is none, or it is out of reach.
    pub async fn open_beside(database: &Database) -> anyhow::Result<Inbox> {
        let store = match database {
            Database::Sqlite(path) => Store::sqlite(&file::resolved(path)?, false).await?,
            Database::Postgres(server) => Store::Postgres(PostgresPool::connect(server).await?),
        };
        let (inbox, _) = Inbox::new(store, None);
        inbox.ping().await.context("the database holds no inbox yet: `casebridge serve` makes it")?;
        Ok(inbox)
    }

    fn new(store: Store, lock: Option<File>) -> (Inbox, Committer) {
        let arrived = Arc::new(Notify::new());
        let (queue, writes, committer) = commit::channel(store.clone(), arrived.clone());
        (Inbox { store, queue, writes, arrived, run: None, _lock: lock.map(Arc::new) }, committer)
    }

    async fn begin_run(mut self) -> sqlx::Result<Inbox> {
        let id = format!("{:032x}", fastrand::u128(..));
        let sql = self.sql(
            // Whatever the clocks said: what is stored so far was stored before this run.
            "insert into run (id, began_at, seen_at)
             select $1, max(at), {now}
               from (select {now} as at union all select max(received_at) + 1 from delivery) as times
              where true
             on conflict (id) do nothing",
        );
        on_writer!(self, pool => async { sqlx::query(sql).bind(&id).execute(pool).await.map(drop) })?;
        self.run = Some(id.into());
        Ok(self)
    }

    /// Stores deliveries and tells how many of them were not known before. When this returns `Ok`
    /// they are on disk.
    ///
    /// # Errors
    /// [`ReceiveError`]; then the deliveries may or may not be stored, and the same call can safely
    /// be made again.
    pub async fn receive(&self, deliveries: Vec<NewDelivery>) -> Result<usize, ReceiveError> {
        self.queue.receive(deliveries).await
    }

    /// Completes when deliveries have arrived after this was called and enabled.
    pub fn arrived(&self) -> Notified<'_> {
        self.arrived.notified()
    }

    /// Takes up to `limit` deliveries that are due, for the length of `lease`. Deliveries of one
    /// case come one at a time and in order.
    pub async fn claim(
        &self,
        destination: &str,
        filter: ClaimFilter,
        limit: usize,
        lease: Duration,
    ) -> sqlx::Result<Vec<Claim>> {
        let filter = match filter {
            ClaimFilter::Fresh => "and attempts = 0 and not in_doubt",
            ClaimFilter::Any => "",
        };
        let sql = self.store.dialect().fill(CLAIM).replace("{filter}", filter);
        let (limit, lease) = (limit as i64, lease.as_millis() as i64);
        let claimed = on_writer!(self, pool => sqlx::query_as(AssertSqlSafe(&*sql))
            .bind(destination).bind(limit).bind(lease).fetch_all(pool));
        match claimed {
            // Another instance took the same case in this very moment; what is left comes next time.
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(Vec::new()),
            // Two claims that took two cases in another order each, twice.
            Err(error) if postgres::is_conflict(&error) => Ok(Vec::new()),
            claimed => claimed,
        }
    }

    /// What is known of a claim's case.
    pub async fn case(&self, claim: &Claim) -> sqlx::Result<Case> {
        let sql = self.sql(
            "select held.reference, story.told, story.as_of, tried.others,
                    (select began_at from run where id = $4) as began_at
               from (select count(*) as others from delivery
                      where destination = $1 and case_key = $2 and identity <> $3
                        and (attempts > 0 or in_doubt)) as tried
               left join (select reference from delivery
                           where destination = $1 and case_key = $2 and reference is not null
                           order by settled_at desc, identity desc limit 1) as held on true
               -- An older version tells, and does not say what.
               left join (select reference, told, max(received_at) over () as as_of from delivery
                           where destination = $1 and case_key = $2 and told is not null
                           order by settled_at desc, identity desc limit 1) as story
                 on story.reference = held.reference",
        );
        type Known = (Option<String>, Option<String>, Option<i64>, i64, Option<i64>);
        let (reference, told, as_of, others, began_at): Known = on_writer!(self, pool => sqlx::query_as(sql)
            .bind(&claim.destination).bind(&claim.case_key).bind(&claim.identity).bind(self.run.as_deref())
            .fetch_one(pool))?;
        let ticket = match reference {
            Some(reference) => {
                let memory = CaseMemory::from_column(told.as_deref());
                CaseTicket::Known { reference, memory, as_of: as_of.unwrap_or(0) }
            }
            None if others > 0 => CaseTicket::Unknown,
            None => CaseTicket::None,
        };
        let may_be_restored = began_at.is_none_or(|began_at| claim.received_at < began_at);
        Ok(Case { ticket, may_be_restored })
    }

    /// Whether a claim is still ours: nobody else has claimed the delivery since, and nobody may yet.
    pub async fn is_ours(&self, claim: &Claim) -> sqlx::Result<bool> {
        let sql = self.sql(
            "select count(*) from delivery
              where identity = $1 and destination = $2 and attempts = $3 and leased and due_at > (select {now})",
        );
        let ours: i64 = on_reader!(self, pool => sqlx::query_scalar(sql)
            .bind(&claim.identity).bind(&claim.destination).bind(claim.attempts).fetch_one(pool))?;
        Ok(ours == 1)
    }

    /// Stores the bytes of a create, and which revision of them they are, before they are first sent.
    /// False: the claim is no longer ours.
    pub async fn freeze(&self, claim: &Claim, request: &str) -> sqlx::Result<bool> {
        let sql = self.sql(
            "update delivery set request = $1, revision = $5
              where identity = $2 and destination = $3 and attempts = $4 and leased",
        );
        changes!(self, pool => sqlx::query(sql)
            .bind(request).bind(&claim.identity).bind(&claim.destination).bind(claim.attempts)
            .bind(claim.revision).execute(pool))
    }

    /// Records how an attempt ended. False: the claim is no longer ours, and nothing was changed.
    pub async fn settle(&self, claim: &Claim, transition: &Transition) -> sqlx::Result<bool> {
        let settled = Settled::new(claim, transition);
        let sql = self.sql(
            "update delivery
                set state = $5, reference = coalesce($6, reference), last_error = $7, tries = $8,
                    in_doubt = (in_doubt or $9) and not $10, due_at = {now} + $4,
                    settled_at = case when $5 = 'waiting' then null else {now} end, leased = false,
                    told = coalesce($11, told)
              where identity = $1 and destination = $2 and attempts = $3 and leased",
        );
        changes!(self, pool => sqlx::query(sql)
            .bind(&claim.identity).bind(&claim.destination).bind(claim.attempts)
            .bind(settled.after.as_millis() as i64).bind(settled.state.name()).bind(settled.reference)
            .bind(settled.error.map(storable)).bind(settled.tries).bind(settled.doubt)
            .bind(settled.certain).bind(settled.told.as_deref()).execute(pool))
    }

    /// The deliveries of a state, or all, oldest first: the page of `limit` that follows `after`.
    pub async fn list(
        &self,
        state: Option<State>,
        after: Option<&Listed>,
        limit: usize,
    ) -> sqlx::Result<Vec<Listed>> {
        // Words of our own, and not bound, so that a partial index is found.
        let of_state = state.map(|state| format!("state = '{}' and ", state.name())).unwrap_or_default();
        let sql = format!(
            "{LISTED} where {of_state} (received_at, identity, destination) > ($1, $2, $3)
                      order by received_at, identity, destination limit $4"
        );
        let (received_at, identity, destination) = match after {
            Some(last) => (last.received_at, last.identity.as_str(), last.destination.as_str()),
            None => (-1, "", ""),
        };
        on_reader!(self, pool => sqlx::query_as(AssertSqlSafe(&*sql))
            .bind(received_at).bind(identity).bind(destination)
            .bind(limit as i64).fetch_all(pool))
    }

    /// The deliveries under this identity, one to each destination.
    pub async fn find(&self, identity: &str) -> sqlx::Result<Vec<Listed>> {
        let sql = format!("{LISTED} where identity = $1 order by destination");
        on_reader!(self, pool => sqlx::query_as(AssertSqlSafe(&*sql)).bind(identity).fetch_all(pool))
    }

    /// Gives a dead delivery a new schedule. It is looked up before anything is sent. What was refused
    /// for good is then sent as a new revision; what may have got through with its old bytes and key,
    /// and not before the destination must be done with it. `ticket_gone`: the ticket of its case is gone for
    /// good. False: it is not dead, or its texts were erased.
    pub async fn replay(&self, delivery: &Listed, ticket_gone: bool) -> sqlx::Result<bool> {
        let sql = self.sql(
            "update delivery
                set state = 'waiting', tries = 0, settled_at = null, in_doubt = true, ticket_gone = $3,
                    request = case when in_doubt then request end,
                    revision = case when in_doubt then revision else revision + 1 end,
                    due_at = case when in_doubt and due_at > {now} then due_at else {now} end
              where identity = $1 and destination = $2 and state = 'dead' and payload <> ''",
        );
        changes!(self, pool => sqlx::query(sql)
            .bind(&delivery.identity).bind(&delivery.destination).bind(ticket_gone).execute(pool))
    }

    /// Makes a waiting delivery due now; one that may be under way at the destination, within a minute, after
    /// which no request of ours is worked on any longer. False: it does not wait, or a claim holds it.
    pub async fn hasten(&self, delivery: &Listed) -> sqlx::Result<bool> {
        let sql = self.sql(
            "update delivery
                set due_at = case when not in_doubt or due_at <= (select {now}) then (select {now})
                                  when due_at > (select {now}) + 60000 then (select {now}) + 60000
                                  else due_at end
              where identity = $1 and destination = $2 and state = 'waiting' and not leased",
        );
        changes!(self, pool => sqlx::query(sql)
            .bind(&delivery.identity).bind(&delivery.destination).execute(pool))
    }

    /// Erases the texts of up to `limit` deliveries that were settled longer ago than `retention`; returns
    /// their number. They must also have been due at `checked_at`, the [`time`](Inbox::time) of an earlier
    /// check: so a clock that has jumped ahead erases nothing. The row stays, with its identity, case and
    /// reference: a late redelivery or a label applied again is still known.
    pub async fn erase(&self, retention: Retention, checked_at: i64, limit: usize) -> sqlx::Result<u64> {
        let sql = self.sql(
            "update delivery set payload = '', request = null, last_error = null
              where (identity, destination) in (
                  select identity, destination from delivery
                   where settled_at is not null and payload <> ''
                     and settled_at < (select {now}) - $1 and settled_at < $4 - $1
                     and (state = 'done'
                          or settled_at < (select {now}) - $2 and settled_at < $4 - $2)
                   order by settled_at limit $3)",
        );
        let (done, dead) = (retention.done.as_millis() as i64, retention.dead.as_millis() as i64);
        on_writer!(self, pool => async {
            let erased = sqlx::query(sql).bind(done).bind(dead).bind(limit as i64).bind(checked_at);
            erased.execute(pool).await.map(|done| done.rows_affected())
        })
    }

    /// The database's clock: milliseconds since 1970, UTC.
    pub async fn time(&self) -> sqlx::Result<i64> {
        let sql = self.sql("select {now}");
        on_reader!(self, pool => sqlx::query_scalar(sql).fetch_one(pool))
    }

    /// Stamps this run with the clock, unless that is behind what is stored already: then it ran ahead when
    /// that was stored, and the newest of these times is returned.
    pub async fn stamp(&self) -> sqlx::Result<Option<i64>> {
        let newest = self.sql(
            "select newest from (
                 select max(at) as newest from (
                     select max(received_at) as at from delivery
                     union all
                     -- The partial index holds these alone.
                     select max(settled_at) from delivery where settled_at is not null and payload <> ''
                     union all
                     select max(seen_at) from run) as times) as all_times
              where newest > (select {now}) + $1",
        );
        let tolerance = CLOCK_TOLERANCE.as_millis() as i64;
        let found =
            on_reader!(self, pool => sqlx::query_scalar(newest).bind(tolerance).fetch_optional(pool))?;
        if found.is_none() {
            let sql = self.sql("update run set seen_at = {now} where id = $1");
            on_writer!(self, pool => async {
                sqlx::query(sql).bind(self.run.as_deref()).execute(pool).await.map(drop)
            })?;
        }
        Ok(found)
    }

    /// Corrects the times that a clock stored which ran ahead, up to `newest`: what waits is due again, and what
    /// has happened is moved back, in its order, to no later than now. Returns how many deliveries it made due.
    pub async fn correct_times(&self, newest: i64, lease: Duration) -> sqlx::Result<u64> {
        let lease = lease.as_millis() as i64;
        let due = "update delivery
                      set due_at = case when leased or in_doubt then (select {now}) + $1 else (select {now}) end
                    where state = 'waiting'
                      and due_at > (select {now}) + case when leased or in_doubt then $1 else 0 end";
        let count = self.update_times(due, lease).await?;
        self.update_times(
            "update pending_requester set due_at = (select {now}) where due_at > (select {now}) + $1",
            lease,
        )
        .await?;
        // The last of these are what `newest` is found by.
        for moved in [
            "update delivery set settled_at = settled_at - ($1 - (select {now})) where settled_at > (select \
             {now})",
            "update delivery set received_at = received_at - ($1 - (select {now})) where received_at > (select \
             {now})",
            "update run set began_at = began_at - ($1 - (select {now})) where began_at > (select {now})",
            "update run set seen_at = seen_at - ($1 - (select {now})) where seen_at > (select {now})",
        ] {
            self.update_times(moved, newest).await?;
        }
        Ok(count)
    }

    async fn update_times(&self, text: &'static str, bound: i64) -> sqlx::Result<u64> {
        let sql = self.sql(text);
        on_writer!(self, pool => async {
            sqlx::query(sql).bind(bound).execute(pool).await.map(|done| done.rows_affected())
        })
    }

    /// The number that an author has at a destination, if it was ever learnt.
    pub async fn author(&self, destination: &str, author: &str) -> sqlx::Result<Option<i64>> {
        let sql = self.sql("select reference from author where destination = $1 and author = $2");
        on_reader!(self, pool => sqlx::query_scalar(sql).bind(destination).bind(author).fetch_optional(pool))
    }

    pub async fn remember_author(&self, destination: &str, author: &str, reference: i64) -> sqlx::Result<()> {
        let sql = self.sql(
            "insert into author (destination, author, reference, learnt_at) values ($1, $2, $3, {now})
             on conflict (destination, author) do update
                set reference = excluded.reference, learnt_at = excluded.learnt_at",
        );
        on_writer!(self, pool => async {
            let remembered = sqlx::query(sql).bind(destination).bind(author).bind(reference).execute(pool);
            remembered.await.map(drop)
        })
    }

    /// The number does not stand for this author any more.
    pub async fn forget_author(&self, destination: &str, author: &str) -> sqlx::Result<()> {
        let sql = self.sql("delete from author where destination = $1 and author = $2");
        on_writer!(self, pool => async {
            sqlx::query(sql).bind(destination).bind(author).execute(pool).await.map(drop)
        })
    }

    /// Authors that were learnt so long ago: they are looked for again when they write again.
    pub async fn forget_authors(&self, age: Duration) -> sqlx::Result<u64> {
        let sql = self.sql("delete from author where learnt_at < {now} - $1");
        on_writer!(self, pool => async {
            let forgotten = sqlx::query(sql).bind(age.as_millis() as i64).execute(pool).await;
            forgotten.map(|done| done.rows_affected())
        })
    }

    /// Records that the author is to become the requester of this ticket, which the claim's delivery made.
    /// Idempotent.
    pub async fn add_pending_requester(&self, claim: &Claim, ticket: &str, author: &str) -> sqlx::Result<()> {
        let sql = self.sql(
            "insert into pending_requester (destination, ticket, author, identity, due_at)
             values ($1, $2, $3, $4, {now}) on conflict (destination, ticket) do nothing",
        );
        on_writer!(self, pool => async {
            let owed = sqlx::query(sql).bind(&claim.destination).bind(ticket).bind(author).bind(&claim.identity);
            owed.execute(pool).await.map(drop)
        })
    }

    /// Claims the ticket that has been due longest for its requester. No other instance gets it within `lease`.
    pub async fn claim_pending_requester(
        &self,
        destination: &str,
        lease: Duration,
    ) -> sqlx::Result<Option<PendingRequester>> {
        let sql = self.sql(
            "update pending_requester set due_at = {now} + $2
              where destination = $1 and ticket in (
                  select ticket from pending_requester as mine
                   where destination = $1 and due_at <= (select {now})
                   order by due_at limit 1 {skip locked})
             returning destination, ticket, author,
                       coalesce((select payload from delivery
                                  where delivery.identity = pending_requester.identity
                                    and delivery.destination = pending_requester.destination), '') as payload,
                       coalesce((select route from delivery
                                  where delivery.identity = pending_requester.identity
                                    and delivery.destination = pending_requester.destination), '') as route",
        );
        let lease = lease.as_millis() as i64;
        on_writer!(self, pool => sqlx::query_as(sql).bind(destination).bind(lease).fetch_optional(pool))
    }

    /// Removes the ticket from those that wait for their requester.
    pub async fn remove_pending_requester(&self, owed: &PendingRequester) -> sqlx::Result<()> {
        let sql = self.sql("delete from pending_requester where destination = $1 and ticket = $2");
        on_writer!(self, pool => async {
            sqlx::query(sql).bind(&owed.destination).bind(&owed.ticket).execute(pool).await.map(drop)
        })
    }

    /// Makes the ticket due again after `wait`.
    pub async fn postpone_pending_requester(
        &self,
        owed: &PendingRequester,
        wait: Duration,
    ) -> sqlx::Result<()> {
        let sql = self
            .sql("update pending_requester set due_at = {now} + $3 where destination = $1 and ticket = $2");
        let wait = wait.as_millis() as i64;
        on_writer!(self, pool => async {
            let postponed = sqlx::query(sql).bind(&owed.destination).bind(&owed.ticket).bind(wait);
            postponed.execute(pool).await.map(drop)
        })
    }

    /// The fingerprint of what Khoros was last told under this name.
    pub async fn declared(&self, external_id: &str) -> sqlx::Result<Option<String>> {
        let sql = self.sql("select declared from subscription where external_id = $1");
        let found = on_reader!(self, pool => sqlx::query_scalar(sql).bind(external_id).fetch_optional(pool))?;
        Ok(found.flatten())
    }

    pub async fn remember_declared(&self, external_id: &str, fingerprint: &str) -> sqlx::Result<()> {
        let sql = self.sql(
            "insert into subscription (external_id, declared) values ($1, $2)
             on conflict (external_id) do update set declared = excluded.declared",
        );
        on_writer!(self, pool => async {
            sqlx::query(sql).bind(external_id).bind(fingerprint).execute(pool).await.map(drop)
        })
    }

    /// The random id that all processes on this database share, which the first of them makes.
    pub async fn deployment_id(&self) -> sqlx::Result<String> {
        let made = format!("{:032x}", fastrand::u128(..));
        let sql = self.sql("insert into deployment (one, id) values (1, $1) on conflict do nothing");
        on_writer!(self, pool => async { sqlx::query(sql).bind(&made).execute(pool).await.map(drop) })?;
        let sql = self.sql(SELECT_DEPLOYMENT);
        on_reader!(self, pool => sqlx::query_scalar(sql).fetch_one(pool))
    }

    /// When the operator last ended the subscription of this name.
    pub async fn ended_at(&self, external_id: &str) -> sqlx::Result<Option<i64>> {
        let sql = self.sql("select ended_at from subscription where external_id = $1");
        let found = on_reader!(self, pool => sqlx::query_scalar(sql).bind(external_id).fetch_optional(pool))?;
        Ok(found.flatten())
    }

    /// The operator ends the subscription of this name: whoever is running leaves it alone.
    pub async fn end_subscription(&self, external_id: &str) -> sqlx::Result<()> {
        let sql = self.sql(
            "insert into subscription (external_id, ended_at) values ($1, {now})
             on conflict (external_id) do update set ended_at = excluded.ended_at",
        );
        on_writer!(self, pool => async { sqlx::query(sql).bind(external_id).execute(pool).await.map(drop) })
    }

    /// It was not ended after all: the word that was left is what it was before.
    pub async fn take_back_end(&self, external_id: &str, ended_at: Option<i64>) -> sqlx::Result<()> {
        let sql = self.sql("update subscription set ended_at = $2 where external_id = $1");
        on_writer!(self, pool => async {
            sqlx::query(sql).bind(external_id).bind(ended_at).execute(pool).await.map(drop)
        })
    }

    pub async fn summary(&self) -> sqlx::Result<Summary> {
        let sql = self.sql(
            "select (select count(*) from delivery where state = 'waiting') as waiting,
                    (select count(*) from delivery where state = 'waiting' and in_doubt) as in_doubt,
                    (select count(*) from delivery where state = 'dead') as dead,
                    -- Texts are kept for a day at least, so this is an index of all of them.
                    (select count(*) from delivery
                      where settled_at is not null and payload <> '' and state = 'done'
                        and settled_at > (select {now}) - 86400000) as done_24h,
                    {now} - (select min(received_at) from delivery where state = 'waiting') as oldest_ms,
                    {now} - (select max(received_at) from delivery) as last_event_ms",
        );
        on_reader!(self, pool => sqlx::query_as(sql).fetch_one(pool))
    }

    /// The last event of each route by which one ever came, whether it is configured or not.
    ///
    /// Whoever is settled is in an index by route, in which an insert, the hot path, has no part; whoever
    /// waits is looked through, as for the summary. So it is cheap, and true for all instances.
    pub async fn last_events(&self) -> sqlx::Result<Vec<LastEvent>> {
        let sql = self.sql(LAST_EVENTS);
        on_reader!(self, pool => sqlx::query_as(sql).fetch_all(pool))
    }

    /// How many events came by a route in the time that ended with its last one; of what is settled,
    /// only the last 2,000 deliveries are looked at.
    pub async fn events_before(&self, last: &LastEvent, within: Duration) -> sqlx::Result<i64> {
        let sql = self.sql(
            "select count(distinct event_id) from (
                 select event_id from (
                     select event_id from delivery
                      where route = $1 and settled_at is not null and received_at >= $2
                      order by received_at desc limit 2000) as settled
                 union all
                 -- The sum keeps SQLite from taking the index of all that was received since.
                 select event_id from delivery
                  where state = 'waiting' and route = $1 and received_at + 0 >= $2) as events",
        );
        let since = last.at - within.as_millis() as i64;
        on_reader!(self, pool => sqlx::query_scalar(sql).bind(&last.route).bind(since).fetch_one(pool))
    }

    /// Fails if the storage does not answer, or did not take what was last to be stored.
    pub async fn ping(&self) -> sqlx::Result<()> {
        self.check_last_write()?;
        let sql = self.sql("select count(*) from (select 1 from delivery limit 1) as one");
        let _: (i64,) = on_reader!(self, pool => sqlx::query_as(sql).fetch_one(pool))?;
        Ok(())
    }

    /// Writes one row, and fails if the storage does not take it: a read-only server and a full disk
    /// still answer [`Inbox::ping`].
    pub async fn check_writable(&self) -> sqlx::Result<()> {
        self.check_last_write()?;
        let sql = self.sql(
            "insert into readiness (id, written_at) values (1, {now})
             on conflict (id) do update set written_at = excluded.written_at",
        );
        on_writer!(self, pool => async { sqlx::query(sql).execute(pool).await.map(drop) })
    }

    fn check_last_write(&self) -> sqlx::Result<()> {
        if self.writes.has_just_failed() {
            return Err(sqlx::Error::Io(io::Error::other("the last write failed")));
        }
        if let Store::Sqlite { file, .. } = &self.store {
            file.is_in_place()?;
        }
        Ok(())
    }

    /// `sqlite` or `postgres`
    pub fn kind(&self) -> &'static str {
        match &self.store {
            Store::Sqlite { .. } => "sqlite",
            Store::Postgres(_) => "postgres",
        }
    }

    /// Waits for what is under way and lets go of the database.
    pub async fn close(&self) {
        match &self.store {
            Store::Sqlite { writer, reader, .. } => {
                reader.close().await;
                writer.close().await;
            }
            Store::Postgres(postgres) => postgres.close().await,
        }
    }

    /// What a killed process held is free at once if no ticket can have been sent, and in doubt when its
    /// lease ends otherwise: until then Zendesk may still be working on it. A comment may have been sent;
    /// it is only taken by a ticket that nobody has changed since, and so not beside another. Only
    /// SQLite knows that nobody else is at work; on Postgres every lease runs its time.
    async fn free_unsent(&self) -> sqlx::Result<()> {
        let Store::Sqlite { writer, .. } = &self.store else { return Ok(()) };
        let sql = self.sql("update delivery set due_at = {now} where leased and request is null");
        sqlx::query(sql).execute(writer).await?;
        Ok(())
    }

    async fn migrate(&self) -> anyhow::Result<()> {
        let migrated = match &self.store {
            Store::Sqlite { writer, .. } => migrator().run(writer).await.map_err(anyhow::Error::from),
            Store::Postgres(postgres) => postgres.migrate().await,
        };
        migrated.context("the database cannot be brought up to date")
    }

    /// The statement in the words of this database.
    fn sql(&self, text: &'static str) -> Sql {
        Sql { text, dialect: self.store.dialect() }
    }
}

/// The younger deliveries of a case wait for the older ones, for whoever holds one of them, and until
/// what was sent for one of them and not answered must be over.
///
/// Two wordings are for PostgreSQL's planner: a sub-select, since a function that is volatile is no
/// bound of an index; and a state that is told by what it is not, since with stale statistics it would
/// take the index of what is due for the look at the others.
const CLAIM: &str = "
    with picked as materialized (
        select identity, destination from delivery as mine
         where destination = $1 and state = 'waiting' and due_at <= (select {now}) {filter}
           and not exists (
               select 1 from delivery as other
                where other.destination = mine.destination and other.case_key = mine.case_key
                  and other.identity <> mine.identity and other.state <> 'done'
                  and (other.leased
                       or (other.in_doubt and other.due_at > (select {now}))
                       or (other.state <> 'dead' and not mine.leased
                           and (other.received_at, other.identity) < (mine.received_at, mine.identity))))
         order by due_at limit $2 {skip locked}
    )
    update delivery
       set attempts = attempts + 1, in_doubt = in_doubt or leased, leased = true, due_at = {now} + $3
     where (identity, destination) in (select identity, destination from picked)
    returning identity, destination, case_key, route, payload, request, revision, attempts, tries,
              in_doubt, received_at, ticket_gone";

/// Hops from route to route in the index of what is settled, so that no more is read than there are routes.
const LAST_EVENTS: &str = "
    with recursive settled (route) as (
        select min(route) from delivery where settled_at is not null
        union all
        select (select min(route) from delivery where settled_at is not null and route > settled.route)
          from settled where settled.route is not null)
    select route, max(at) as at, {now} - max(at) as age_ms
      from (select route, (select max(received_at) from delivery
                            where delivery.route = settled.route and settled_at is not null) as at
              from settled where route is not null
            union all
            select route, received_at as at from delivery where state = 'waiting') as heard
     group by route";

const LISTED: &str = "
    select identity, destination, case_key, route, event_id, event_name, state, attempts, tries, due_at,
           received_at, settled_at, reference, last_error, payload = '' as erased
      from delivery";

impl Store {
    async fn sqlite(path: &Path, create: bool) -> anyhow::Result<Store> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(create)
            .journal_mode(SqliteJournalMode::Wal)
            // NORMAL would not reach the disk at each commit, and we answer 200 on the commit.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5));
        let opened = |kind: &str| format!("the SQLite file {} cannot be {kind}", path.display());
        let file = DatabaseFile::at(path).with_context(|| opened("opened"))?;
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .after_connect({
                let file = file.clone();
                move |connection, _| {
                    let file = file.clone();
                    Box::pin(async move { file.open_log(connection).await })
                }
            })
            // A file does not hang up on us.
            .test_before_acquire(false);
        // Pages (128 MiB): `checkpoint` does it long before.
        let writing = options.clone().pragma("wal_autocheckpoint", "32768");
        let writer = writer.connect_with(writing).await.with_context(|| opened("opened"))?;
        let reader = SqlitePoolOptions::new().max_connections(2);
        let reader = reader.connect_with(options.read_only(true)).await.with_context(|| opened("read"))?;
        let version: String = sqlx::query_scalar("select sqlite_version()").fetch_one(&writer).await?;
        check_sqlite_version(&version)?;
        Ok(Store::Sqlite { writer, reader, file })
    }

    /// Goes on for ever.
    async fn keep_log_short(&self) {
        match self {
            Store::Sqlite { writer, .. } => checkpoint::run((*writer.connect_options()).clone()).await,
            Store::Postgres(_) => std::future::pending().await,
        }
    }

    fn dialect(&self) -> Dialect {
        match self {
            Store::Sqlite { .. } => Dialect::Sqlite,
            Store::Postgres(_) => Dialect::Postgres,
        }
    }
}

/// Whose words a statement is in.
#[derive(Clone, Copy)]
enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    /// "Now" is the database's clock, so that two instances have the same one.
    fn fill(self, text: &str) -> String {
        let (now, skip_locked) = match self {
            Dialect::Sqlite => ("cast(unixepoch('subsec') * 1000 as integer)", ""),
            Dialect::Postgres => {
                ("(extract(epoch from clock_timestamp()) * 1000)::bigint", "for update of mine skip locked")
            }
        };
        text.replace("{now}", now).replace("{skip locked}", skip_locked)
    }
}

const SELECT_DEPLOYMENT: &str = "select id from deployment";

/// A statement in the words of one database. It is filled in each time that it runs, which may be twice.
#[derive(Clone, Copy)]
struct Sql {
    text: &'static str,
    dialect: Dialect,
}

impl SqlSafeStr for Sql {
    fn into_sql_str(self) -> SqlStr {
        AssertSqlSafe(self.dialect.fill(self.text)).into_sql_str()
    }
}

/// Additive migrations only, and an unknown newer one is no error: a rollback must not brick.
fn migrator() -> Migrator {
    let mut migrator: Migrator = sqlx::migrate!();
    migrator.set_ignore_missing(true);
    migrator
}

async fn limited<T>(statement: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    let limited = tokio::time::timeout(STATEMENT_LIMIT, statement).await;
    limited.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// PostgreSQL cannot store a NUL.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
