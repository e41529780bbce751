//! Memos: small values that sources and destinations keep separately from their deliveries, each in its own scopes.

use std::time::Duration;

use super::{Inbox, execute, fetch, millis};

/// Selects from when on the events of feeds are new: never later than ten minutes ago, since the clock of the first
/// start may have run ahead.
pub(super) const SELECT_FEED_SINCE: &str = "
    select case when cast(value as bigint) < {now} - 600000 then cast(value as bigint) else {now} - 600000 end
      from memo where scope = 'feed' and key = 'since'";

impl Inbox {
    /// Returns from when on the events of feeds are new: milliseconds since 1970, UTC. The first process that asks
    /// decides it for all: the oldest delivery, or ten minutes ago if there is none.
    pub async fn feed_since(&self) -> sqlx::Result<i64> {
        let sql = "insert into memo (scope, key, value, at)
                   select 'feed', 'since', cast(at as text), {now}
                     from (select coalesce((select min(received_at) from delivery), {now} - 600000) as at) as decided
                    where true
                   on conflict (scope, key) do nothing";
        execute!(self, sql)?;
        fetch!(self.reader, query_scalar(SELECT_FEED_SINCE).fetch_one)
    }

    /// Returns the value of a key, and when it was written: milliseconds since 1970, UTC.
    pub async fn recall(&self, scope: &str, key: &str) -> sqlx::Result<Option<(String, i64)>> {
        let sql = "select value, at from memo where scope = $1 and key = $2";
        fetch!(self.reader, query_as(sql, scope, key).fetch_optional)
    }

    pub async fn remember(&self, scope: &str, key: &str, value: &str) -> sqlx::Result<()> {
        let sql = "insert into memo (scope, key, value, at) values ($1, $2, $3, {now})
                   on conflict (scope, key) do update set value = excluded.value, at = excluded.at";
        execute!(self, sql, scope, key, value).map(drop)
    }

    pub async fn forget(&self, scope: &str, key: &str) -> sqlx::Result<()> {
        execute!(self, "delete from memo where scope = $1 and key = $2", scope, key).map(drop)
    }

    /// Forgets the values of a scope that are older than `age`.
    pub async fn forget_older(&self, scope: &str, age: Duration) -> sqlx::Result<u64> {
        execute!(self, "delete from memo where scope = $1 and at < {now} - $2", scope, millis(age))
    }

    /// Returns the key and the value that have been due longest. No other instance gets them within `lease`.
    pub async fn claim_memo(&self, scope: &str, lease: Duration) -> sqlx::Result<Option<(String, String)>> {
        let sql = "
            update memo set at = {now} + $2
             where scope = $1 and key in (
                 select key from memo as mine where scope = $1 and at <= (select {now})
                  order by at limit 1 {skip locked})
            returning key, value";
        fetch!(self.writer, query_as(sql, scope, millis(lease)).fetch_optional)
    }

    /// Makes a value due again after `wait`.
    pub async fn postpone_memo(&self, scope: &str, key: &str, wait: Duration) -> sqlx::Result<()> {
        let sql = "update memo set at = {now} + $3 where scope = $1 and key = $2";
        execute!(self, sql, scope, key, millis(wait)).map(drop)
    }
}
