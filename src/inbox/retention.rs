//! Erasing texts and attempts after their retention period, and correcting stored times after a clock ran ahead.

use std::time::Duration;

use super::{Inbox, execute, fetch, millis};
use crate::alert::REMINDER;
use crate::config::Retention;

/// Clocks that differ by less count as equal.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

impl Inbox {
    /// Erases the texts of up to `limit` deliveries that were settled longer ago than `retention`; returns
    /// their number. A trigger (migration 0012) deletes their attempts and links, and all but the last four characters
    /// of their targets. They must also have been due at `checked_at`, the [`time`](Inbox::time) of an earlier check:
    /// so a clock that has jumped ahead erases nothing. The row stays, with its identity, case and reference, so that
    /// a late redelivery or a label applied again is still known.
    pub async fn erase(&self, retention: Retention, checked_at: i64, limit: usize) -> sqlx::Result<u64> {
        let known_since = self.time().await?.min(checked_at);
        let (done, dead) = (known_since - millis(retention.done), known_since - millis(retention.dead));
        let texts = format!(
            "update delivery set payload = '', request = null, request_memo = null, last_error = null
              where (identity, destination) in ({ERASABLE})"
        );
        execute!(self, &texts, done, dead, limit as i64)
    }

    /// Returns the database's clock: milliseconds since 1970, UTC.
    pub async fn time(&self) -> sqlx::Result<i64> {
        fetch!(self.reader, query_scalar("select {now}").fetch_one)
    }

    /// Stores the clock as the time at which this run was last seen. If the clock is behind stored times, it
    /// ran ahead when they were stored: then this stores nothing and returns the newest of them.
    pub async fn stamp(&self) -> sqlx::Result<Option<i64>> {
        let newest = "
            select newest from (
                select max(at) as newest from (
                    select max(received_at) as at from delivery
                    union all
                    -- The partial index has only these.
                    select max(settled_at) from delivery where settled_at is not null and payload <> ''
                    union all
                    select max(seen_at) from run) as times) as all_times
             where newest > (select {now}) + $1";
        let newest = fetch!(self.reader, query_scalar(newest, millis(CLOCK_TOLERANCE)).fetch_optional)?;
        if newest.is_none() {
            execute!(self, "update run set seen_at = {now} where id = $1", self.run.as_deref())?;
        }
        Ok(newest)
    }

    /// Corrects times up to `newest` that were stored while the clock ran ahead: waiting deliveries become
    /// due again, and past times move back, in their order, to no later than now. Returns how many deliveries
    /// became due.
    pub async fn correct_times(&self, newest: i64, lease: Duration) -> sqlx::Result<u64> {
        let due = "
            update delivery
               set due_at = case when leased or in_doubt then (select {now}) + $1 else (select {now}) end
             where state = 'waiting'
               and due_at > (select {now}) + case when leased or in_doubt then $1 else 0 end";
        let count = execute!(self, due, millis(lease))?;
        let due = "update memo set at = (select {now}) where at > (select {now}) + $1";
        execute!(self, due, millis(lease))?;
        // `fired_at` stays: it only distinguishes one firing of an alert from the next.
        for (table, time, after) in [
            ("alert", "since", Duration::ZERO),
            ("alert", "seen_at", Duration::ZERO),
            ("alert", "ends_at", REMINDER),
            ("alert_notice", "sent_at", Duration::ZERO),
            ("alert_notice", "due_at", Duration::ZERO),
        ] {
            let sql =
                format!("update {table} set {time} = {{now}} + $1 where {time} > (select {{now}}) + $1");
            execute!(self, &sql, millis(after))?;
        }
        // If this is interrupted, the next check finds the rest by `seen_at`, which comes last.
        for (table, time) in [
            ("delivery", "settled_at"),
            ("delivery", "waits_since"),
            ("delivery", "received_at"),
            ("delivery_count", "last_at"),
            ("attempt", "began_at"),
            ("attempt", "ended_at"),
            ("run", "began_at"),
            ("run", "seen_at"),
        ] {
            let sql = format!(
                "update {table} set {time} = {time} - ($1 - (select {{now}})) where {time} > (select {{now}})"
            );
            execute!(self, &sql, newest)?;
        }
        Ok(count)
    }
}

const ERASABLE: &str = "
    select identity, destination from delivery
     where settled_at is not null and payload <> '' and settled_at < $1 and (state = 'done' or settled_at < $2)
     order by settled_at limit $3";
