//! Limits that all processes on one database share, and the deliveries that a limit holds back.

use std::time::Duration;

use super::{Inbox, execute, fetch, from_row, millis};

/// How often a process tries again after others have taken the place that it was about to take.
const ROUNDS: usize = 20;

/// Waiting deliveries of one route that the same limit holds back, until their destination wakes them.
#[derive(Clone, Debug)]
pub struct Held {
    pub destination: String,
    pub route: String,
    /// Without [`HELD`](crate::delivery::HELD).
    pub reason: String,
    pub waiting: i64,
}

from_row!(Held { destination, route, reason, waiting });

impl Inbox {
    /// Takes one of `most` places for `period`, and returns false if none is free. A holder that still has a place
    /// renews it.
    ///
    /// The places are the memos of `scope`.
    pub async fn take_place(
        &self,
        scope: &str,
        holder: &str,
        most: i64,
        period: Duration,
    ) -> sqlx::Result<bool> {
        for _ in 0..ROUNDS {
            if execute!(self, TAKE_PLACE, scope, holder, most, millis(period))? == 1 {
                return Ok(true);
            }
            if self.free_places(scope, holder, most, period).await? == 0 {
                break;
            }
        }
        Ok(false)
    }

    /// Makes the place of `holder`, which was taken for `period`, free after `wait`, unless the holder renews it.
    pub async fn free_place_after(
        &self,
        scope: &str,
        holder: &str,
        period: Duration,
        wait: Duration,
    ) -> sqlx::Result<()> {
        let sql = "update memo set at = {now} - $3 where scope = $1 and value = $2";
        execute!(self, sql, scope, holder, millis(period.saturating_sub(wait))).map(drop)
    }

    /// Returns how many of `most` places are free. The place of `holder` counts as free.
    pub async fn free_places(
        &self,
        scope: &str,
        holder: &str,
        most: i64,
        period: Duration,
    ) -> sqlx::Result<i64> {
        let sql = "select $3 - count(*) from memo
                    where scope = $1 and value <> $2 and at > (select {now}) - $4";
        let free: i64 =
            fetch!(self.reader, query_scalar(sql, scope, holder, most, millis(period)).fetch_one)?;
        Ok(free.max(0))
    }

    /// Returns the held deliveries by destination, route and reason.
    pub async fn held(&self) -> sqlx::Result<Vec<Held>> {
        fetch!(self.reader, query_as(HELD).fetch_all)
    }

    /// Makes the oldest held deliveries of a route due now, up to `limit` of them.
    pub async fn wake_held(&self, destination: &str, route: &str, limit: i64) -> sqlx::Result<()> {
        execute!(self, WAKE_HELD, destination, route, limit).map(drop)
    }
}

/// Prefers the holder's own place, then the one that has been free longest, then a new one. The places are numbered
/// without gaps, so that two processes that take a new one at once take the same, and one of them gets nothing.
const TAKE_PLACE: &str = "
    insert into memo (scope, key, value, at)
    select $1, place.key, $2, {now}
      from (select key, 0 as choice, at from memo
             where scope = $1 and value = $2 and at > (select {now}) - $4
            union all
            select key, 1, at from memo where scope = $1 and at <= (select {now}) - $4
            union all
            select cast(count(*) as text), 2, 0 from memo where scope = $1) as place
     where choice = 0
        or (select count(*) from memo where scope = $1 and at > (select {now}) - $4) < $3
     order by choice, at, key limit 1
    on conflict (scope, key) do update set value = excluded.value, at = excluded.at
     where memo.value = excluded.value or memo.at <= excluded.at - $4";

const HELD: &str = "
    select destination, route, substr(last_error, 7) as reason, count(*) as waiting
      from delivery
     where state = 'waiting' and last_error like 'held: %'
     group by destination, route, last_error order by destination, route, last_error";

/// Pushed events go first: a feed may hold thousands of old ones. Claimed ones count, too: otherwise each call would wake
/// others while the first are being delivered.
const WAKE_HELD: &str = "
    update delivery set due_at = {now}, waits_since = {now}
     where (identity, destination) in (
         select identity, destination from delivery
          where destination = $1 and route = $2 and state = 'waiting' and last_error like 'held: %'
          order by case when origin = 'feed' then 1 else 0 end, received_at, identity limit $3)
       and state = 'waiting' and not leased and due_at > (select {now})";
