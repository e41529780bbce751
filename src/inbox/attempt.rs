//! Settling a delivery, and the record of its attempts.

use std::time::Duration;

use sqlx::Connection;

use super::postgres::on_postgres;
use super::{Inbox, State, Store, execute, fetch, from_row, limited, millis, on_sqlite, storable};
use crate::delivery::{Attempt, Claim, Transition};

/// The number of recorded attempts of a delivery, the latest ones: in a long outage, one delivery may have thousands.
const KEPT: i64 = 100;

/// A recorded attempt. Times are milliseconds since 1970, UTC.
#[derive(Clone, Debug)]
pub struct RecordedAttempt {
    pub number: i64,
    pub began_at: i64,
    pub ended_at: i64,
    /// One of [`crate::delivery::OUTCOMES`].
    pub outcome: String,
    pub action: Option<String>,
    /// The address of the result.
    pub url: Option<String>,
    /// Contains no text from a customer.
    pub reason: Option<String>,
    /// Whether a lookup found the result of an earlier request; `None` without a lookup.
    pub found: Option<bool>,
    pub status: Option<i64>,
    pub request_id: Option<String>,
    /// The beginning of the answer; can contain a customer's text.
    pub response: Option<String>,
    /// When the next attempt is due.
    pub next_at: Option<i64>,
}

from_row!(RecordedAttempt {
    number,
    began_at,
    ended_at,
    outcome,
    action,
    url,
    reason,
    found,
    status,
    request_id,
    response,
    next_at
});

/// Binds the values of `SETTLE` and `RECORD` to a statement, and returns when the delivery was settled.
macro_rules! settle {
    ($executor:expr, $keeps:expr, $sql:expr, $claim:expr, $transition:expr, $attempt:expr) => {{
        let (claim, attempt): (&Claim, &Attempt) = ($claim, $attempt);
        let next = Next::of(claim, $transition);
        let response = attempt.response.as_ref();
        sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe($sql))
            .bind(&claim.identity)
            .bind(&claim.destination)
            .bind(claim.attempts)
            .bind(millis(next.after))
            .bind(next.state.name())
            .bind(next.reference)
            .bind(next.error)
            .bind(next.tries)
            .bind(next.doubt)
            .bind(next.ends_doubt)
            .bind(next.memo)
            .bind(attempt.link.as_deref())
            .bind(millis(attempt.took))
            .bind(attempt.outcome)
            .bind(attempt.action)
            .bind(attempt.reason.as_deref().map(storable))
            .bind(attempt.found)
            .bind(response.map(|response| i64::from(response.status)))
            .bind(response.and_then(|response| response.request_id.as_deref()))
            .bind(response.map(|response| storable(&response.beginning)))
            .bind(attempt.url.as_deref())
            .persistent($keeps)
            .fetch_optional($executor)
            .await
    }};
}

impl Inbox {
    /// Records how an attempt ended, and the next state of its delivery. Returns when: milliseconds since 1970, UTC, by
    /// the database's clock. `None`: the claim no longer holds, and nothing was changed.
    pub async fn settle(
        &self,
        claim: &Claim,
        transition: &Transition,
        attempt: &Attempt,
    ) -> sqlx::Result<Option<i64>> {
        if claim.attempts > KEPT {
            let sql = "delete from attempt where identity = $1 and destination = $2 and number <= $3";
            execute!(self, sql, &claim.identity, &claim.destination, claim.attempts - KEPT)?;
        }
        match &self.store {
            Store::Sqlite { writer, .. } => {
                let record = RECORD.replace("{settled}", "(select 1) as settled where changes() = 1");
                let sql = self.store.fill(&format!("{SETTLE}; {record}"));
                limited(async {
                    on_sqlite!(writer: writer, connection => async {
                        let mut transaction = connection.begin().await?;
                        let settled = settle!(&mut *transaction, true, sql, claim, transition, attempt)?;
                        transaction.commit().await?;
                        Ok(settled)
                    })
                })
                .await
            }
            Store::Postgres(postgres) => {
                let (record, keeps) =
                    (RECORD.replace("{settled}", "settled where true"), postgres.keeps_statements());
                let sql = self.store.fill(&format!("with settled as ({SETTLE} returning 1) {record}"));
                limited(async {
                    on_postgres!(postgres, executor => async {
                        settle!(executor, keeps, sql.clone(), claim, transition, attempt)
                    })
                })
                .await
            }
        }
    }

    /// Returns the recorded attempts of a delivery, in order.
    pub async fn attempts(&self, identity: &str, destination: &str) -> sqlx::Result<Vec<RecordedAttempt>> {
        let sql = "select number, began_at, ended_at, outcome, action, url, reason, found, status, request_id, response,
                          next_at
                     from attempt where identity = $1 and destination = $2 order by number";
        fetch!(self.reader, query_as(sql, identity, destination).fetch_all)
    }
}

/// The values of a transition's columns.
struct Next<'a> {
    state: State,
    after: Duration,
    tries: i64,
    doubt: bool,
    ends_doubt: bool,
    reference: Option<&'a str>,
    memo: Option<&'a str>,
    error: Option<String>,
}

impl<'a> Next<'a> {
    fn of(claim: &Claim, transition: &'a Transition) -> Next<'a> {
        let (state, after, tries, doubt) = match transition {
            Transition::Done { .. } => (State::Done, Duration::ZERO, claim.tries, false),
            Transition::Dead { .. } => (State::Dead, Duration::ZERO, claim.tries, false),
            Transition::GivenUp { in_doubt, rest, .. } => (State::Dead, *rest, claim.tries + 1, *in_doubt),
            Transition::Again { after, tries, in_doubt, .. } => (State::Waiting, *after, *tries, *in_doubt),
        };
        let ends_doubt = matches!(transition, Transition::Done { .. } | Transition::Dead { .. });
        let (reference, memo, error) = match transition {
            Transition::Done { reference, memo, .. } => (Some(reference.as_str()), Some(memo.as_str()), None),
            Transition::Dead { reason }
            | Transition::GivenUp { reason, .. }
            | Transition::Again { reason, .. } => (None, None, Some(storable(reason))),
        };
        Next { state, after, tries, doubt, ends_doubt, reference, memo, error }
    }
}

/// A delivery that is held back may be sent from when it is due.
const SETTLE: &str = "
    update delivery
       set state = $5, reference = coalesce($6, reference), last_error = $7, tries = $8,
           in_doubt = (in_doubt or $9) and not $10, due_at = {now} + $4,
           settled_at = case when $5 = 'waiting' then null else {now} end, leased = false,
           memo = coalesce($11, memo), told = coalesce($11, told), link = coalesce($12, link),
           waits_since = case when $7 like 'held: %' then {now} + $4 else waits_since end
     where identity = $1 and destination = $2 and attempts = $3 and leased";

/// In one transaction with `SETTLE`. The number is the fence, so an existing row with it belongs to a delivery that was
/// deleted and received again.
const RECORD: &str = "
    insert into attempt (identity, destination, number, began_at, ended_at, outcome, action, reason, found, status,
                         request_id, response, url, next_at)
    select $1, $2, $3, {now} - $13, {now}, $14, $15, $16, $17, $18, $19, $20, $21,
           case when $5 = 'waiting' then {now} + $4 end
      from {settled}
    on conflict (identity, destination, number) do update
       set began_at = excluded.began_at, ended_at = excluded.ended_at, outcome = excluded.outcome,
           action = excluded.action, url = excluded.url, reason = excluded.reason, found = excluded.found,
           status = excluded.status, request_id = excluded.request_id, response = excluded.response,
           next_at = excluded.next_at
    returning ended_at";
