//! How many deliveries there are, from counts that triggers keep (migration 0012): nothing here reads all rows.
//!
//! On PostgreSQL, the triggers append differences, because all transactions would otherwise wait for one row. Their
//! sums are the counts, and [`Inbox::compact_counts`] replaces many differences by one.

use std::time::Duration;

use sqlx::Connection;

use super::{
    DestinationCounts, Inbox, LastEvent, Store, Summary, execute, fetch, from_row, limited, on_sqlite,
};

/// The deliveries of one route to one destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub route: String,
    pub destination: String,
    /// All deliveries that were ever received, or that followed another one.
    pub received: i64,
    pub waiting: i64,
    /// Waiting ones that may have been sent.
    pub in_doubt: i64,
    pub done: i64,
    pub dead: i64,
    /// Those that became done in the last 24 full hours, or in this one.
    pub done_24h: i64,
    /// Milliseconds since the last one was received, by the database's clock.
    pub last_ms: Option<i64>,
}

from_row!(Counts { route, destination, received, waiting, in_doubt, done, dead, done_24h, last_ms });

impl Counts {
    /// Received deliveries that are neither waiting nor done nor dead. Anything but 0 means that deliveries were
    /// deleted.
    pub fn unaccounted(&self) -> i64 {
        self.received - self.waiting - self.done - self.dead
    }
}

/// How long the oldest delivery to a destination that may be sent has waited.
struct Oldest {
    destination: String,
    ms: i64,
}

from_row!(Oldest { destination, ms });

impl Inbox {
    /// Returns the counts by route and destination.
    pub async fn counts(&self) -> sqlx::Result<Vec<Counts>> {
        fetch!(self.reader, query_as(COUNTS).fetch_all)
    }

    /// Returns the counts and ages over the whole inbox.
    pub async fn summary(&self) -> sqlx::Result<Summary> {
        // First, because a delivery that is held has no age from then on.
        let held = self.held().await?;
        let counts = self.counts().await?;
        let oldest: Vec<Oldest> = fetch!(self.reader, query_as(OLDEST).fetch_all)?;
        Ok(Summary {
            destinations: by_destination(&counts, &oldest),
            held,
            done_24h: counts.iter().map(|counts| counts.done_24h).sum(),
            last_event_ms: counts.iter().filter_map(|counts| counts.last_ms).min(),
            counts,
        })
    }

    /// Returns how long the oldest delivery that may be sent has waited, and its destination; `None` if none waits.
    pub async fn oldest_sendable(&self) -> sqlx::Result<Option<(String, Duration)>> {
        let oldest: Vec<Oldest> = fetch!(self.reader, query_as(OLDEST).fetch_all)?;
        let oldest = oldest.into_iter().max_by_key(|oldest| oldest.ms);
        Ok(oldest.map(|Oldest { destination, ms }| {
            (destination, Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
        }))
    }

    /// Returns the last event of every route that ever had one, whether it is configured or not.
    pub async fn last_events(&self) -> sqlx::Result<Vec<LastEvent>> {
        fetch!(self.reader, query_as(LAST_EVENTS).fetch_all)
    }

    /// Replaces many differences by their sums, and counts what was done more than a day ago under the hour 0.
    pub async fn compact_counts(&self) -> sqlx::Result<()> {
        match &self.store {
            Store::Sqlite { writer, .. } => {
                let before = self.time().await? / 3_600_000 - 25;
                let old: i64 = fetch!(self.reader, query_scalar(COUNT_OLD_HOURS, before).fetch_one)?;
                if old == 0 {
                    return Ok(());
                }
                limited(async {
                    on_sqlite!(writer: writer, connection => async {
                        let mut transaction = connection.begin().await?;
                        for sql in [FOLD_OLD_HOURS, DELETE_OLD_HOURS] {
                            sqlx::query(sql).bind(before).execute(&mut *transaction).await?;
                        }
                        transaction.commit().await
                    })
                })
                .await
            }
            Store::Postgres(_) => execute!(self, COMPACT).map(drop),
        }
    }
}

/// By destination, in the order of their names.
fn by_destination(counts: &[Counts], oldest: &[Oldest]) -> Vec<DestinationCounts> {
    let mut destinations: Vec<DestinationCounts> = Vec::new();
    for Counts { destination, waiting, in_doubt, done, dead, .. } in counts {
        if destinations.last().is_none_or(|last| last.destination != *destination) {
            let oldest = oldest.iter().find(|oldest| oldest.destination == *destination);
            destinations.push(DestinationCounts {
                destination: destination.clone(),
                waiting: 0,
                in_doubt: 0,
                done: 0,
                dead: 0,
                oldest_ms: oldest.map(|oldest| oldest.ms.max(0)),
            });
        }
        if let Some(last) = destinations.last_mut() {
            last.waiting += waiting;
            last.in_doubt += in_doubt;
            last.done += done;
            last.dead += dead;
        }
    }
    destinations
}

const COUNTS: &str = "
    select route, destination, cast(sum(received) as bigint) as received, cast(sum(waiting) as bigint) as waiting,
           cast(sum(in_doubt) as bigint) as in_doubt, cast(sum(done) as bigint) as done,
           cast(sum(dead) as bigint) as dead,
           cast(sum(case when hour >= (select {now}) / 3600000 - 24 then done else 0 end) as bigint) as done_24h,
           {now} - max(last_at) as last_ms
      from delivery_count group by destination, route order by destination, route";

const LAST_EVENTS: &str = "
    select route, max(last_at) as at, {now} - max(last_at) as age_ms
      from delivery_count where last_at is not null group by route order by route";

/// A delivery that was never tried may be sent once it is due, so the oldest of these is the first in the index of due
/// deliveries that does not wait for a tried one of its case: that one has its own age, or none while a limit holds it
/// back. Checking 1,000 is enough: others that may be sent are tried soon, and then are in the index of tried
/// deliveries. The negated states are for PostgreSQL's planner, as in [`Inbox::claim`].
const OLDEST: &str = "
    select destination, {now} - min(since) as ms
      from (select named.destination,
                   (select due_at
                      from (select destination, target, case_key, due_at, received_at, identity from delivery
                             where delivery.destination = named.destination and state = 'waiting'
                             order by due_at limit 1000) as mine
                     where not exists (
                           select 1 from delivery as other
                            where other.destination = mine.destination and other.case_key = mine.case_key
                              and other.target = mine.target and other.state not in ('done', 'dead')
                              and other.attempts > 0
                              and (other.received_at, other.identity) < (mine.received_at, mine.identity))
                     order by due_at limit 1) as since
              from (select distinct destination from delivery_count) as named
            union all
            select named.destination,
                   (select coalesce(waits_since, received_at) from delivery
                     where delivery.destination = named.destination and state = 'waiting' and attempts > 0
                     order by coalesce(waits_since, received_at) limit 1)
              from (select distinct destination from delivery_count) as named) as times
     where since is not null group by destination";

/// Rows by hour that [`Counts::done_24h`] no longer needs.
const COUNT_OLD_HOURS: &str = "select count(*) from delivery_count where hour > 0 and hour < $1";
const FOLD_OLD_HOURS: &str = "
    insert into delivery_count (route, destination, hour, received, waiting, in_doubt, done, dead, last_at)
    select route, destination, 0, sum(received), sum(waiting), sum(in_doubt), sum(done), sum(dead), max(last_at)
      from delivery_count where hour > 0 and hour < $1 group by route, destination
    on conflict (route, destination, hour) do update
       set received = received + excluded.received, waiting = waiting + excluded.waiting,
           in_doubt = in_doubt + excluded.in_doubt, done = done + excluded.done, dead = dead + excluded.dead,
           last_at = coalesce(max(last_at, excluded.last_at), last_at, excluded.last_at)";
const DELETE_OLD_HOURS: &str = "delete from delivery_count where hour > 0 and hour < $1";

/// One statement, so each reader sees the rows before or after it. Two processes that compact at once share the rows.
const COMPACT: &str = "
    with taken as (
        delete from delivery_count
         where ctid in (select ctid from delivery_count for update skip locked)
           and (select count(*) from delivery_count) > 500
        returning route, destination, case when hour < {now} / 3600000 - 25 then 0 else hour end as hour,
                  received, waiting, in_doubt, done, dead, last_at)
    insert into delivery_count (route, destination, hour, received, waiting, in_doubt, done, dead, last_at)
    select route, destination, hour, sum(received), sum(waiting), sum(in_doubt), sum(done), sum(dead), max(last_at)
      from taken group by route, destination, hour";
