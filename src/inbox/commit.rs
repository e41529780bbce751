//! The group committer: many callers, one statement, one wait for the disk.
//!
//! A commit costs one wait for the disk, whether it has one row or hundreds. So callers queue, and requests
//! that queued while the last commit ran go into the next one. A statement that is its own transaction also
//! takes one round trip instead of three.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::metrics::histogram::Histogram;
use sqlx::postgres::PgDatabaseError;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::postgres::on_postgres;
use super::{NewItem, Store, checkpoint, fetch, limited, storable};
use crate::delivery::Origin;

/// Requests that may wait for the committer; further ones are turned away at once.
const QUEUE_LENGTH: usize = 1024;
/// Bytes of all waiting requests; a larger request is accepted when no other waits.
const QUEUE_BYTES: usize = 32 << 20;
/// Rows of one statement: enough to make the disk's share small, far from any database's limit.
const BATCH_ROWS: usize = 256;
/// How many times refused rows of one request are split in halves: a request with thousands of bad rows must
/// not hold up the others.
const MOST_SPLITS: u32 = 64;
/// How long the service is not ready after a failed write.
const FAILURE_COUNTS: Duration = Duration::from_secs(10);

/// The statement that inserts the rows of items.
macro_rules! insertion {
    ($items:expr, $now:expr, $known_by:expr) => {{
        let (items, now): (&[&NewItem], &str) = ($items, $now);
        let (before, after) = match $known_by {
            KnownBy::Key => (INSERT, " on conflict do nothing"),
            KnownBy::Identity => (INSERT_UNLESS_KNOWN, UNLESS_KNOWN),
        };
        let rows: Vec<_> = items.iter().flat_map(|item| item.rows().map(|row| (*item, row))).collect();
        let mut statement = QueryBuilder::new(before);
        // The repeated row is known to the database by then, so its payload does not matter.
        let padding = std::iter::repeat_n(rows.last(), statement_rows(rows.len()) - rows.len()).flatten();
        let padding = padding.map(|(item, new)| (*item, new, ""));
        let rows = rows.iter().map(|(item, new)| (*item, new, item.payload.as_str())).chain(padding);
        statement.push_values(rows, |mut row, (item, new, payload)| {
            let dead = item.dead.as_deref().map(storable);
            row.push_bind(&*new.identity)
                .push_bind(new.destination)
                .push_bind(&item.case_key)
                .push_bind(&item.route)
                .push_bind(&item.event_id)
                .push_bind(&item.event_name)
                .push_bind(payload)
                .push_bind(if dead.is_some() { "dead" } else { "waiting" })
                .push_bind(item.origin.name())
                // Needed as long as the previous version, which recognizes items of a feed by this, may run.
                .push_bind(item.origin == Origin::Feed)
                .push(now)
                .push(now)
                // The same SQL for all rows, or each mixture would be another statement.
                .push("case when ")
                .push_bind_unseparated(dead.is_some())
                .push_unseparated(" then ")
                .push_unseparated(now)
                .push_unseparated(" end")
                .push_bind(dead)
                .push_bind(new.target);
        });
        statement.push(after);
        statement
    }};
}

/// Why items were not acknowledged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReceiveError {
    #[error("too much is waiting to be stored")]
    Busy,
    #[error("{0}")]
    Storage(Arc<sqlx::Error>),
}

type Answer = Result<usize, ReceiveError>;

struct Request {
    items: Vec<NewItem>,
    answer: oneshot::Sender<Answer>,
    /// Its share of [`QUEUE_BYTES`], until this is dropped.
    _room: OwnedSemaphorePermit,
}

#[derive(Clone)]
pub(super) struct Queue {
    requests: mpsc::Sender<Request>,
    room: Arc<Semaphore>,
}

/// Writes what the callers of [`super::Inbox::receive`] queue.
pub struct Committer {
    queue: mpsc::Receiver<Request>,
    store: Store,
    arrived: Arc<Notify>,
    sizes: Histogram,
    health: WriteHealth,
    stored: Mutex<Stored>,
    /// Notified when the write-ahead log has grown by [`checkpoint::AFTER_ROWS`] rows.
    grown: Arc<Notify>,
    rows_since: usize,
}

/// The destinations that have deliveries.
enum Stored {
    Unread,
    /// This one, or none.
    Only(Option<String>),
    Several,
}

/// How the statement finds out whether an item is known.
#[derive(Clone, Copy)]
enum KnownBy {
    /// Its delivery to the one destination.
    Key,
    /// Any delivery of it, to whichever destination.
    Identity,
}

/// Whether the last write failed: a full disk can still be read.
#[derive(Clone, Default)]
pub(super) struct WriteHealth(Arc<Mutex<Option<Instant>>>);

impl WriteHealth {
    /// Only a new row proves that the disk takes writes; a known or refused one does not.
    fn note(&self, written: &sqlx::Result<Vec<String>>) {
        match written {
            Ok(new) if new.is_empty() => {}
            Ok(_) => *self.0.lock() = None,
            Err(error) if is_of_a_row(error) => {}
            Err(_) => *self.0.lock() = Some(Instant::now()),
        }
    }

    /// Ends by time: while the service is not ready, no request may arrive that could disprove it.
    pub(super) fn has_just_failed(&self) -> bool {
        self.0.lock().is_some_and(|at| at.elapsed() < FAILURE_COUNTS)
    }
}

pub(super) fn channel(
    store: Store,
    arrived: Arc<Notify>,
    sizes: Histogram,
) -> (Queue, WriteHealth, Committer) {
    let (requests, queue) = mpsc::channel(QUEUE_LENGTH);
    let room = Arc::new(Semaphore::new(QUEUE_BYTES));
    let health = WriteHealth::default();
    (
        Queue { requests, room },
        health.clone(),
        Committer {
            queue,
            store,
            arrived,
            sizes,
            health,
            stored: Mutex::new(Stored::Unread),
            grown: Arc::default(),
            rows_since: 0,
        },
    )
}

impl Queue {
    pub(super) async fn receive(&self, items: Vec<NewItem>) -> Answer {
        let size = items.iter().map(size_of).sum::<usize>().min(QUEUE_BYTES);
        let room = self.room.clone().try_acquire_many_owned(size as u32);
        let room = room.map_err(|_| ReceiveError::Busy)?;
        let (answer, answered) = oneshot::channel();
        let request = Request { items, answer, _room: room };
        self.requests.try_send(request).map_err(|_| ReceiveError::Busy)?;
        // The committer is gone only when the process is about to be.
        answered.await.unwrap_or(Err(ReceiveError::Busy))
    }
}

/// Rounds up a number of rows. Each number is a statement that the connection keeps prepared, at two
/// kilobytes a row, so there are only 25 of them; the last row is repeated to fill one.
fn statement_rows(rows: usize) -> usize {
    match rows {
        0..=4 => rows,
        5..=64 => rows.next_multiple_of(4),
        _ => rows.next_multiple_of(32),
    }
}

/// Approximate bytes of an item in memory.
fn size_of(item: &NewItem) -> usize {
    std::mem::size_of::<NewItem>()
        + item.payload.len()
        + item.identity.len()
        + item.case_key.len()
        + item.event_id.len()
        + item.event_name.len()
}

impl Committer {
    /// Commits until `stop`, and then the rest of the queue.
    pub async fn run(self, stop: CancellationToken) {
        let (store, grown) = (self.store.clone(), self.grown.clone());
        tokio::select! {
            () = self.commit_until(stop) => {}
            () = store.keep_log_short(grown) => {}
        }
    }

    async fn commit_until(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled(), if !self.queue.is_closed() => self.queue.close(),
                request = self.queue.recv() => match request {
                    Some(first) => self.commit(first).await,
                    None => return,
                },
            }
        }
    }

    async fn commit(&mut self, first: Request) {
        let mut rows = first.items.len();
        let mut requests = vec![first];
        while rows < BATCH_ROWS {
            let Ok(request) = self.queue.try_recv() else { break };
            rows += request.items.len();
            requests.push(request);
        }
        self.sizes.observe(rows as f64);
        let (answers, failure) = self.store(&requests).await;
        if let Some(failure) = failure.filter(is_timeout) {
            self.turn_away(&failure);
        }
        self.rows_since += rows;
        if self.rows_since >= checkpoint::AFTER_ROWS {
            self.rows_since = 0;
            self.grown.notify_one();
        }
        if answers.iter().any(|answer| matches!(answer, Ok(new) if *new > 0)) {
            self.arrived.notify_waiters();
        }
        for (request, answer) in requests.into_iter().zip(answers) {
            // A caller that has gone will send the rows again, and they will be known.
            let _ = request.answer.send(answer);
        }
    }

    /// Fails all queued requests: they waited while the database did not answer, which is long enough.
    fn turn_away(&mut self, failure: &ReceiveError) {
        while let Ok(request) = self.queue.try_recv() {
            let _ = request.answer.send(Err(failure.clone()));
        }
    }

    /// Returns the answer to each request, and the failure if the storage itself failed.
    async fn store(&self, requests: &[Request]) -> (Vec<Answer>, Option<ReceiveError>) {
        let mut batch = Batch::default();
        let splits = if requests.len() == 1 { MOST_SPLITS } else { 0 };
        self.insert_all(sorted(requests), splits, &mut batch).await;
        if batch.refused && requests.len() > 1 {
            for request in requests {
                let mut rows = sorted(std::slice::from_ref(request));
                rows.retain(|row| {
                    matches!(batch.fates.get(row.identity.as_str()), Some(Fate::Failed(_)) | None)
                });
                self.insert_all(rows, MOST_SPLITS, &mut batch).await;
            }
        }
        (requests.iter().map(|request| answer(request, &mut batch.fates)).collect(), batch.failure)
    }

    /// `splits`: how many times refused rows may be split in halves.
    async fn insert_all<'a>(&self, rows: Vec<&'a NewItem>, mut splits: u32, batch: &mut Batch<'a>) {
        let most = rows.iter().map(|item| item.rows().count()).max().unwrap_or(1);
        for rows in rows.chunks((BATCH_ROWS / most).max(1)) {
            match batch.failure.clone() {
                Some(failure) => batch.fail(rows, failure),
                None => self.insert_or_split(rows, &mut splits, batch).await,
            }
        }
    }

    /// If the database refuses a row, tries the halves, so that this row fails alone in the end. Any other
    /// failure fails all rows.
    async fn insert_or_split<'a>(&self, rows: &[&'a NewItem], splits: &mut u32, batch: &mut Batch<'a>) {
        match self.insert(rows).await {
            Ok(new) => {
                let new: HashSet<&str> = new.iter().map(String::as_str).collect();
                batch.fates.extend(rows.iter().map(|row| {
                    let is_new = row.rows().any(|row| new.contains(&*row.identity));
                    (row.identity.as_str(), if is_new { Fate::New } else { Fate::Known })
                }));
            }
            Err(error) => {
                let is_of_a_row = is_of_a_row(&error);
                batch.refused |= is_of_a_row;
                if is_of_a_row && rows.len() > 1 && *splits > 0 {
                    *splits -= 1;
                    let (some, others) = rows.split_at(rows.len() / 2);
                    Box::pin(self.insert_or_split(some, splits, batch)).await;
                    Box::pin(self.insert_or_split(others, splits, batch)).await;
                    return;
                }
                let error = ReceiveError::Storage(Arc::new(error));
                if !is_of_a_row {
                    batch.failure = Some(error.clone());
                }
                batch.fail(rows, error);
            }
        }
    }

    /// How the statement finds known items. While all deliveries go to one destination, the primary key is enough,
    /// and costs a twentieth less.
    async fn known_by(&self, items: &[&NewItem]) -> KnownBy {
        if matches!(*self.stored.lock(), Stored::Unread)
            && let Ok(read) = fetch!(self.reader, query_as(DESTINATIONS).fetch_one)
        {
            *self.stored.lock() = match read {
                (first, last) if first == last => Stored::Only(first),
                (_, _) => Stored::Several,
            };
        }
        // An item with targets has other keys once its targets have changed.
        let has_one = |item: &&NewItem| item.destinations.len() == 1 && item.targets.is_empty();
        let only = |item: &&NewItem| has_one(item).then(|| item.destinations[0]);
        let first = items.first().and_then(only);
        let is_one = first.is_some() && items.iter().all(|item| only(item) == first);
        let mut stored = self.stored.lock();
        match &*stored {
            Stored::Only(known) if is_one && known.as_deref().is_none_or(|known| Some(known) == first) => {
                *stored = Stored::Only(first.map(str::to_owned));
                KnownBy::Key
            }
            Stored::Unread => KnownBy::Identity,
            Stored::Only(_) | Stored::Several => {
                *stored = Stored::Several;
                KnownBy::Identity
            }
        }
    }

    /// Returns the identities of the new rows.
    async fn insert(&self, items: &[&NewItem]) -> sqlx::Result<Vec<String>> {
        let now = self.store.fill("{now}");
        let known_by = self.known_by(items).await;
        let inserted = match &self.store {
            Store::Sqlite { writer, file, .. } => {
                let inserting = async {
                    let mut turn = limited(writer.acquire()).await?;
                    file.check_in_place()?;
                    let mut statement = insertion!(items, &now, known_by);
                    let inserted = limited(insert_on_sqlite(turn.connection(), &mut statement, items)).await;
                    turn.end(inserted)
                };
                inserting.await
            }
            Store::Postgres(postgres) => {
                let keeps = postgres.keeps_statements();
                limited(async {
                    on_postgres!(postgres, executor => async {
                        let mut statement = insertion!(items, &now, known_by);
                        statement.push(" returning identity");
                        statement.build_query_scalar().persistent(keeps).fetch_all(executor).await
                    })
                })
                .await
            }
        };
        self.health.note(&inserted);
        inserted
    }
}

/// Inserts without `returning`: SQLite would build a temporary table for it in each statement. Usually, all rows are new.
async fn insert_on_sqlite(
    connection: &mut SqliteConnection,
    statement: &mut QueryBuilder<Sqlite>,
    items: &[&NewItem],
) -> sqlx::Result<Vec<String>> {
    let done = statement.build().persistent(true).execute(&mut *connection).await?;
    let rows = || items.iter().flat_map(|item| item.rows());
    let (last, new) = (done.last_insert_rowid(), done.rows_affected());
    if new == rows().count() as u64 {
        return Ok(rows().map(|row| row.identity.into_owned()).collect());
    }
    let before = last.saturating_sub_unsigned(new);
    sqlx::query_scalar(INSERTED).bind(before).bind(last).fetch_all(connection).await
}

/// The result of inserting an item.
enum Fate {
    New,
    Known,
    Failed(ReceiveError),
}

/// The items of some requests, each once, and sorted: two instances that insert the same rows in opposite
/// order would deadlock.
fn sorted(requests: &[Request]) -> Vec<&NewItem> {
    let mut items: Vec<&NewItem> = requests.iter().flat_map(|request| &request.items).collect();
    items.sort_by(|one, other| one.identity.cmp(&other.identity));
    items.dedup_by(|one, other| one.identity == other.identity);
    items
}

/// By identity.
type Fates<'a> = HashMap<&'a str, Fate>;

#[derive(Default)]
struct Batch<'a> {
    fates: Fates<'a>,
    /// The database refused a row.
    refused: bool,
    /// A failure of the storage itself.
    failure: Option<ReceiveError>,
}

impl<'a> Batch<'a> {
    fn fail(&mut self, rows: &[&'a NewItem], error: ReceiveError) {
        self.fates.extend(rows.iter().map(|row| (row.identity.as_str(), Fate::Failed(error.clone()))));
    }
}

/// Counts the new items of a request. An item counts for the first request that has it.
fn answer<'a>(request: &'a Request, fates: &mut Fates<'a>) -> Answer {
    let mut new = 0;
    for item in &request.items {
        match fates.get_mut(item.identity.as_str()) {
            Some(Fate::Failed(error)) => return Err(error.clone()),
            Some(fate @ Fate::New) => {
                *fate = Fate::Known;
                new += 1;
            }
            Some(Fate::Known) => {}
            // Its fate is unknown, so it is not acknowledged.
            None => return Err(ReceiveError::Busy),
        }
    }
    Ok(new)
}

const INSERT: &str = "insert into delivery (identity, destination, case_key, route, event_id,
    event_name, payload, state, origin, in_doubt, due_at, received_at, settled_at, last_error, target) ";

const INSERT_UNLESS_KNOWN: &str = "insert into delivery (identity, destination, case_key, route, event_id,
    event_name, payload, state, origin, in_doubt, due_at, received_at, settled_at, last_error, target)
    select * from (";

/// A row with a target has the identity of its item and 13 bytes more.
const UNLESS_KNOWN: &str = ") as new
     where not exists (
               select 1 from delivery as known
                where known.identity = case new.column15 when '' then new.column1
                                       else substr(new.column1, 1, length(new.column1) - 13) end)
       and not exists (
               select 1 from delivery as known
                where known.target <> '' and substr(known.identity, 1, length(known.identity) - 13)
                          = case new.column15 when '' then new.column1
                            else substr(new.column1, 1, length(new.column1) - 13) end)
    on conflict do nothing";

/// The rows that one statement has inserted: SQLite numbers them consecutively.
const INSERTED: &str = "select identity from delivery where rowid > $1 and rowid <= $2";

/// Each comes from the end of an index.
const DESTINATIONS: &str = "
    select (select min(destination) from delivery) as first, (select max(destination) from delivery) as last";

/// Whether the database works but refuses this row: it breaks a constraint, or has a value that the database
/// cannot store.
fn is_of_a_row(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    let code = error.code().unwrap_or_default();
    match error.try_downcast_ref::<PgDatabaseError>() {
        // Classes of SQLSTATE: data exception, integrity constraint, program limit.
        Some(_) => ["22", "23", "54"].iter().any(|class| code.starts_with(class)),
        // SQLite's primary result codes: too big, constraint, mismatch.
        None => code.parse::<i32>().is_ok_and(|code| matches!(code & 0xff, 18..=20)),
    }
}

fn is_timeout(error: &ReceiveError) -> bool {
    matches!(error, ReceiveError::Storage(error) if matches!(**error, sqlx::Error::PoolTimedOut))
}
