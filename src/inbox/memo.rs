//! Memos: small values that sources and destinations keep beside their deliveries, each in its own scopes.

use std::time::Duration;

use super::{Inbox, execute, fetch, millis};

impl Inbox {
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
