//! The alerts of all processes on the database: pending, firing, resolved; and what each receiver of notices knows.
//!
//! A process that reports a condition renews it every few seconds. So it is over when a process says so and no other
//! has renewed it since, or when no process has renewed it for an hour.

use std::time::Duration;

use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};

use super::{Inbox, execute, fetch, from_row, millis, storable};
use crate::alert::{REMINDER, Report};

/// An alert that fires or has fired. Times are milliseconds since 1970, UTC.
#[derive(Clone, Debug)]
pub struct Alert {
    pub code: String,
    /// Empty if there is only one.
    pub subject: String,
    pub source: String,
    pub severity: String,
    /// The last reason.
    pub detail: String,
    /// `pending`, `firing` or `resolved`
    pub state: String,
    /// When it was first reported.
    pub since: i64,
    /// When it began to fire; this also distinguishes one firing from the next.
    pub fired_at: Option<i64>,
    pub resolved_at: Option<i64>,
}

from_row!(Alert { code, subject, source, severity, detail, state, since, fired_at, resolved_at });

impl Alert {
    pub fn is_firing(&self) -> bool {
        self.state == "firing"
    }
}

/// The state of a notice that is being sent, or was sent by a process that ended before it stored the result. The
/// receiver may have it, so it also gets the one of the end.
const SENDING: &str = "sending";

/// A notice that a receiver should get: the alert, and what the receiver knows of it.
#[derive(Clone, Debug)]
pub struct DueNotice {
    pub alert: Alert,
    /// The `fired_at` in the last notice that it has got or may have got; 0 if there was none.
    pub known_episode: i64,
    /// The state in that notice: `firing`, `resolved` or `sending`.
    pub known_state: String,
    /// When the last notice was sent; 0 if there was none.
    pub known_at: i64,
    pub failures: i64,
}

impl<'r, R: Row> FromRow<'r, R> for DueNotice
where
    Alert: FromRow<'r, R>,
    for<'a> &'a str: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> sqlx::Result<DueNotice> {
        Ok(DueNotice {
            alert: Alert::from_row(row)?,
            known_episode: row.try_get("known_episode")?,
            known_state: row.try_get("known_state")?,
            known_at: row.try_get("known_at")?,
            failures: row.try_get("failures")?,
        })
    }
}

impl Inbox {
    /// Stores a report: a new alert is pending. A pending condition that no process has seen for a minute starts again.
    pub async fn report_alert(&self, report: &Report) -> sqlx::Result<()> {
        execute!(
            self,
            "insert into alert (code, subject, source, severity, detail, state, is_event, since, seen_at, ends_at)
             values ($1, $2, $3, $4, $5, 'pending', $6, {now}, {now}, {now} + $7)
             on conflict (code, subject) do update
                set source = excluded.source, severity = excluded.severity, detail = excluded.detail,
                    is_event = excluded.is_event, seen_at = excluded.seen_at, ends_at = excluded.ends_at,
                    since = case when alert.state = 'resolved'
                                   or alert.state = 'pending' and not excluded.is_event
                                      and alert.seen_at <= excluded.seen_at - 60000
                                 then excluded.since else alert.since end,
                    state = case when alert.state = 'resolved' then 'pending' else alert.state end",
            report.code,
            storable(&report.subject),
            report.source,
            report.severity.name(),
            storable(&report.detail),
            report.is_event,
            millis(REMINDER)
        )
        .map(drop)
    }

    /// Returns the alerts that are pending or firing.
    pub async fn active_alerts(&self) -> sqlx::Result<Vec<Alert>> {
        fetch!(
            self.reader,
            query_as(
                "select code, subject, source, severity, detail, state, since, fired_at, resolved_at
                   from alert where state <> 'resolved' order by since, code, subject"
            )
            .fetch_all
        )
    }

    /// Resolves an alert of a source that sees all is well, unless another process has reported it within `unseen`.
    /// Returns whether it did.
    pub async fn resolve_alert(&self, alert: &Alert, unseen: Duration) -> sqlx::Result<bool> {
        let resolved = execute!(
            self,
            "update alert set state = 'resolved', resolved_at = {now}
              where code = $1 and subject = $2 and source = $3 and state = $4 and seen_at <= (select {now}) - $5",
            &alert.code,
            &alert.subject,
            &alert.source,
            &alert.state,
            millis(unseen)
        )?;
        Ok(resolved == 1)
    }

    /// Fires alerts that have been pending for long enough; returns those that this call has fired.
    pub async fn fire_alerts(&self, pending: Duration) -> sqlx::Result<Vec<Alert>> {
        // A condition counts only as long as it is seen: the process may have ended meanwhile.
        fetch!(
            self.writer,
            query_as(
                "update alert set state = 'firing', fired_at = {now}, resolved_at = null
                  where state = 'pending'
                    and case when is_event then (select {now}) else seen_at end - since >= $1
                 returning code, subject, source, severity, detail, state, since, fired_at, resolved_at",
                millis(pending)
            )
            .fetch_all
        )
    }

    /// Resolves those of these alerts that no process has reported for an hour; returns those that this call has
    /// resolved, as they were before.
    pub async fn end_alerts(&self, active: &[Alert]) -> sqlx::Result<Vec<Alert>> {
        let sql = "update alert set state = 'resolved', resolved_at = {now}
                    where state <> 'resolved' and ends_at <= (select {now}) returning code, subject";
        let ended: Vec<(String, String)> = fetch!(self.writer, query_as(sql).fetch_all)?;
        let has_ended = |alert: &&Alert| {
            ended.iter().any(|(code, subject)| *code == alert.code && *subject == alert.subject)
        };
        Ok(active.iter().filter(has_ended).cloned().collect())
    }

    /// Returns the notices that a receiver should get, the oldest alerts first: of alerts that fire or have become
    /// more urgent, again after `repeat` if they are errors, and of the end of alerts that it knows.
    pub async fn due_notices(&self, sink: &str, repeat: Duration) -> sqlx::Result<Vec<DueNotice>> {
        fetch!(self.reader, query_as(DUE_NOTICES, sink, millis(repeat)).fetch_all)
    }

    /// Claims a notice for `lease`; returns the end of the lease. `None`: another process has claimed or sent it.
    pub async fn claim_notice(
        &self,
        sink: &str,
        due: &DueNotice,
        lease: Duration,
    ) -> sqlx::Result<Option<i64>> {
        let sql = "insert into alert_notice (sink, code, subject, episode, state, severity, sent_at, failures, due_at)
             values ($1, $2, $3, $5, $6, '', 0, 0, {now} + $4)
             on conflict (sink, code, subject) do update
                set due_at = excluded.due_at, episode = excluded.episode, state = excluded.state
              where alert_notice.due_at <= excluded.due_at - $4
                and alert_notice.episode = $7 and alert_notice.sent_at = $8
             returning due_at";
        let Alert { code, subject, fired_at, .. } = &due.alert;
        let (lease, episode) = (millis(lease), fired_at.unwrap_or(0));
        let DueNotice { known_episode, known_at, .. } = due;
        fetch!(
            self.writer,
            query_scalar(sql, sink, code, subject, lease, episode, SENDING, known_episode, known_at)
                .fetch_optional
        )
    }

    /// Records that a receiver has got a notice of this state of the alert, unless another process, which took the
    /// notice over, has recorded one.
    pub async fn notice_sent(&self, sink: &str, due: &DueNotice) -> sqlx::Result<()> {
        let alert = &due.alert;
        let state = if alert.is_firing() { "firing" } else { "resolved" };
        execute!(
            self,
            "update alert_notice
                set episode = $4, state = $5, severity = $6, sent_at = {now}, failures = 0, due_at = {now}
              where sink = $1 and code = $2 and subject = $3 and sent_at = $7",
            sink,
            &alert.code,
            &alert.subject,
            alert.fired_at.unwrap_or(0),
            state,
            &alert.severity,
            due.known_at
        )
        .map(drop)
    }

    /// Records that a notice failed: it is due again after `wait`. If the receiver certainly did not get it
    /// (`is_unsent`), it knows what it knew before. Does nothing if another process has taken the notice over since
    /// the claim, whose lease ends at `leased_until`.
    pub async fn postpone_notice(
        &self,
        sink: &str,
        due: &DueNotice,
        leased_until: i64,
        is_unsent: bool,
        wait: Duration,
    ) -> sqlx::Result<()> {
        let (episode, state) = match is_unsent {
            true => (due.known_episode, due.known_state.as_str()),
            false => (due.alert.fired_at.unwrap_or(0), SENDING),
        };
        execute!(
            self,
            "update alert_notice set failures = failures + 1, due_at = {now} + $4, episode = $5, state = $6
              where sink = $1 and code = $2 and subject = $3 and due_at = $7",
            sink,
            &due.alert.code,
            &due.alert.subject,
            millis(wait),
            episode,
            state,
            leased_until
        )
        .map(drop)
    }
}

const DUE_NOTICES: &str = "
    select alert.code, alert.subject, alert.source, alert.severity, alert.detail, alert.state, alert.since,
           alert.fired_at, alert.resolved_at, coalesce(known.episode, 0) as known_episode,
           coalesce(known.state, '') as known_state, coalesce(known.sent_at, 0) as known_at, coalesce(known.failures, 0) as failures
      from alert left join alert_notice as known
        on known.sink = $1 and known.code = alert.code and known.subject = alert.subject
     where coalesce(known.due_at, 0) <= (select {now})
       and (alert.state = 'firing'
            and (coalesce(known.episode, 0) <> alert.fired_at or known.state <> 'firing'
                 or known.severity <> alert.severity
                 or alert.severity = 'error' and known.sent_at <= (select {now}) - $2)
         or alert.state <> 'firing' and known.state in ('firing', 'sending'))
     order by alert.fired_at, alert.code, alert.subject";
