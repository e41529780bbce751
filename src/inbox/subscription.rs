//! What the processes on this database know of each subscription at Khoros.

use super::{Inbox, execute, fetch};

impl Inbox {
    /// Returns the fingerprint of the subscription that was last sent to Khoros under this name.
    pub async fn declared(&self, external_id: &str) -> sqlx::Result<Option<String>> {
        let sql = "select declared from subscription where external_id = $1";
        let found: Option<Option<String>> =
            fetch!(self.reader, query_scalar(sql, external_id).fetch_optional)?;
        Ok(found.flatten())
    }

    pub async fn remember_declared(&self, external_id: &str, fingerprint: &str) -> sqlx::Result<()> {
        let sql = "insert into subscription (external_id, declared) values ($1, $2)
                   on conflict (external_id) do update set declared = excluded.declared";
        execute!(self, sql, external_id, fingerprint).map(drop)
    }

    /// Returns when the operator last ended the subscription of this name.
    pub async fn ended_at(&self, external_id: &str) -> sqlx::Result<Option<i64>> {
        let sql = "select ended_at from subscription where external_id = $1";
        let found: Option<Option<i64>> = fetch!(self.reader, query_scalar(sql, external_id).fetch_optional)?;
        Ok(found.flatten())
    }

    /// Marks the subscription of this name as ended by the operator: running services leave it alone.
    pub async fn end_subscription(&self, external_id: &str) -> sqlx::Result<()> {
        let sql = "insert into subscription (external_id, ended_at) values ($1, {now})
                   on conflict (external_id) do update set ended_at = excluded.ended_at";
        execute!(self, sql, external_id).map(drop)
    }

    /// Restores the earlier mark, since the subscription was not ended after all.
    pub async fn restore_end(&self, external_id: &str, ended_at: Option<i64>) -> sqlx::Result<()> {
        let sql = "update subscription set ended_at = $2 where external_id = $1";
        execute!(self, sql, external_id, ended_at).map(drop)
    }
}
