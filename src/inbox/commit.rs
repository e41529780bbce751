//! The group committer: many callers, one transaction.
//!
//! A commit costs one wait for the disk, whether it holds one row or hundreds. So callers queue, and
//! whatever has queued while the last commit ran goes into the next one.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use sqlx::{Connection, QueryBuilder};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{NewDelivery, Store, limited, storable};

/// Requests that may wait for the committer; more are turned away at once.
const QUEUE_LENGTH: usize = 1024;
/// Rows of one statement: enough to make the disk's share small, far from any database's limit.
const BATCH_ROWS: usize = 256;
/// For how long a failure to store makes us not ready.
const FAILURE_COUNTS: Duration = Duration::from_secs(10);

/// Inserts in one transaction; gives the keys of the rows that were not there before.
///
/// A connection on which this failed is not used again: SQLite ends a transaction by itself when the
/// disk is full, and what the pool then believes of the connection is wrong for ever.
macro_rules! insert {
    ($pool:expr, $begin:literal, $deliveries:expr, $now:expr) => {{
        let now: &str = $now;
        let mut connection = limited($pool.acquire()).await?;
        let inserted = limited(async {
            let mut transaction = connection.begin_with($begin).await?;
            let mut new: HashSet<(String, String)> = HashSet::new();
            for chunk in $deliveries.chunks(BATCH_ROWS) {
                let mut statement = QueryBuilder::new(INSERT);
                statement.push_values(chunk, |mut row, delivery| {
                    let dead = delivery.dead.as_deref().map(storable);
                    row.push_bind(&delivery.identity)
                        .push_bind(delivery.destination)
                        .push_bind(&delivery.case_key)
                        .push_bind(&delivery.route)
                        .push_bind(&delivery.event_id)
                        .push_bind(&delivery.event_name)
                        .push_bind(&delivery.payload)
                        .push_bind(if dead.is_some() { "dead" } else { "waiting" })
                        .push_bind(delivery.in_doubt)
                        .push(now)
                        .push(now)
                        .push(if dead.is_some() { now } else { "null" })
                        .push_bind(dead);
                });
                statement.push(" on conflict do nothing returning identity, destination");
                new.extend(statement.build_query_as().fetch_all(&mut *transaction).await?);
            }
            transaction.commit().await?;
            Ok(new)
        })
        .await;
        if inserted.is_err() {
            connection.close_on_drop();
        }
        inserted
    }};
}

/// Why deliveries were not acknowledged.
#[derive(Clone, Debug)]
pub enum ReceiveError {
    /// More is waiting to be stored than we want to hold.
    Busy,
    Storage(Arc<sqlx::Error>),
}

impl std::error::Error for ReceiveError {}

impl fmt::Display for ReceiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReceiveError::Busy => f.write_str("too much is waiting to be stored"),
            ReceiveError::Storage(error) => error.fmt(f),
        }
    }
}

type Answer = Result<usize, ReceiveError>;

struct Request {
    deliveries: Vec<NewDelivery>,
    answer: oneshot::Sender<Answer>,
}

#[derive(Clone)]
pub(super) struct Queue(mpsc::Sender<Request>);

/// Writes what the callers of [`super::Inbox::receive`] queue.
pub struct Committer {
    queue: mpsc::Receiver<Request>,
    store: Store,
    arrived: Arc<Notify>,
    health: WriteHealth,
}

/// Whether what was last to be stored could be: a full disk can still be read.
#[derive(Clone, Default)]
pub(super) struct WriteHealth(Arc<Mutex<Option<Instant>>>);

impl WriteHealth {
    fn note<T>(&self, written: &sqlx::Result<T>) {
        *self.lock() = written.is_err().then(Instant::now);
    }

    /// Not for ever: nobody may be sent here while it is said, and so nothing could disprove it.
    pub(super) fn has_just_failed(&self) -> bool {
        self.lock().is_some_and(|at| at.elapsed() < FAILURE_COUNTS)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

pub(super) fn channel(store: Store, arrived: Arc<Notify>) -> (Queue, WriteHealth, Committer) {
    let (sender, queue) = mpsc::channel(QUEUE_LENGTH);
    let health = WriteHealth::default();
    (Queue(sender), health.clone(), Committer { queue, store, arrived, health })
}

impl Queue {
    pub(super) async fn receive(&self, deliveries: Vec<NewDelivery>) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.0.try_send(Request { deliveries, answer }).map_err(|_| ReceiveError::Busy)?;
        // The committer is gone only when the process is about to be.
        answered.await.unwrap_or(Err(ReceiveError::Busy))
    }
}

impl Committer {
    /// Commits until told to stop, and then what is still queued.
    pub async fn run(mut self, stop: CancellationToken) {
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
        let mut rows = first.deliveries.len();
        let mut requests = vec![first];
        while rows < BATCH_ROWS {
            let Ok(request) = self.queue.try_recv() else { break };
            rows += request.deliveries.len();
            requests.push(request);
        }
        let answers = self.store(&requests).await;
        if answers.iter().any(|answer| matches!(answer, Ok(new) if *new > 0)) {
            self.arrived.notify_waiters();
        }
        for (request, answer) in requests.into_iter().zip(answers) {
            // Who has gone in the meantime will ask again, and its rows will be known.
            let _ = request.answer.send(answer);
        }
    }

    /// All requests in one transaction; if that fails for another reason than the connection, each
    /// in its own, so that a row that cannot be stored fails alone.
    async fn store(&self, requests: &[Request]) -> Vec<Answer> {
        let all: Vec<&Request> = requests.iter().collect();
        let mut outcome = self.transaction(&all).await;
        if outcome.as_ref().is_err_and(is_deadlock) {
            outcome = self.transaction(&all).await;
        }
        match outcome {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            Err(sqlx::Error::Database(_)) if requests.len() > 1 => {
                let mut answers = Vec::new();
                for request in requests {
                    let answer = self.transaction(&[request]).await;
                    answers.push(answer.map(|new| new[0]).map_err(failed));
                }
                answers
            }
            Err(error) => {
                let error = failed(error);
                requests.iter().map(|_| Err(error.clone())).collect()
            }
        }
    }

    /// How many rows of each request were new.
    async fn transaction(&self, requests: &[&Request]) -> sqlx::Result<Vec<usize>> {
        // Sorted, since two instances that insert the same rows in another order would deadlock.
        let mut rows: BTreeMap<(&str, &str), (usize, &NewDelivery)> = BTreeMap::new();
        for (caller, request) in requests.iter().enumerate() {
            for delivery in &request.deliveries {
                rows.entry((&delivery.identity, delivery.destination)).or_insert((caller, delivery));
            }
        }
        let deliveries: Vec<&NewDelivery> = rows.values().map(|(_, delivery)| *delivery).collect();
        let new = match &self.store {
            Store::Sqlite { writer, file, .. } => {
                file.is_in_place()?;
                insert!(writer, "begin immediate", deliveries, &self.store.dialect("{now}"))
            }
            Store::Postgres(pool) => insert!(pool, "begin", deliveries, &self.store.dialect("{now}")),
        };
        self.health.note(&new);
        let new = new?;
        let mut counts = vec![0; requests.len()];
        for ((identity, destination), (caller, _)) in &rows {
            counts[*caller] += usize::from(new.contains(&((*identity).into(), (*destination).into())));
        }
        Ok(counts)
    }
}

const INSERT: &str = "insert into delivery (identity, destination, case_key, route, event_id,
    event_name, payload, state, in_doubt, due_at, received_at, settled_at, last_error) ";

fn failed(error: sqlx::Error) -> ReceiveError {
    ReceiveError::Storage(Arc::new(error))
}

/// 40P01: PostgreSQL picked this transaction to end a deadlock.
fn is_deadlock(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "40P01")
}
