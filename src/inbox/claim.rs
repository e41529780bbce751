//! Claiming deliveries under a lease, and freezing their requests.

use std::time::Duration;

use super::{Inbox, execute, fetch, from_row, millis, postgres, storable};
use crate::delivery::{Cause, Claim, identity_for};

from_row!(Claim {
    identity,
    destination,
    target,
    case_key,
    route,
    payload,
    origin as String,
    cause,
    request,
    request_memo,
    revision,
    attempts,
    tries,
    in_doubt,
    received_at,
    anew,
});

/// Which deliveries to claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimFilter {
    /// Only pushed deliveries that were never tried, so that neither failing deliveries nor a feed's old
    /// events hold them up.
    Fresh,
    Any,
}

impl Inbox {
    /// Claims up to `limit` due deliveries for the length of `lease`. Deliveries of one case are claimed one
    /// at a time and in order.
    pub async fn claim(
        &self,
        destination: &str,
        filter: ClaimFilter,
        limit: usize,
        lease: Duration,
    ) -> sqlx::Result<Vec<Claim>> {
        let filter = match filter {
            ClaimFilter::Fresh => "and attempts = 0 and not in_doubt",
            ClaimFilter::Any => "",
        };
        let sql = CLAIM.replace("{filter}", filter);
        let claimed = fetch!(self.writer, query_as(&sql, destination, limit as i64, millis(lease)).fetch_all);
        match claimed {
            // Another instance claimed the same case at this moment; the next claim finds the rest.
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(Vec::new()),
            // Two instances claimed two cases in opposite order, and the repetition failed, too.
            Err(error) if postgres::is_conflict(&error) => Ok(Vec::new()),
            claimed => claimed,
        }
    }

    /// Whether a claim still holds: no other process has claimed the delivery since, and none may yet.
    pub async fn is_ours(&self, claim: &Claim) -> sqlx::Result<bool> {
        let sql = "select count(*) from delivery where identity = $1 and destination = $2 and attempts = $3
                      and leased and due_at > (select {now})";
        let Claim { identity, destination, attempts, .. } = claim;
        let ours: i64 = fetch!(self.reader, query_scalar(sql, identity, destination, attempts).fetch_one)?;
        Ok(ours == 1)
    }

    /// Stores the bytes of a request with their memo, before they are first sent. False: the claim no longer holds.
    pub async fn freeze(&self, claim: &Claim, request: &str, memo: &str) -> sqlx::Result<bool> {
        let frozen = execute!(
            self,
            "update delivery set request = $1, request_memo = $6, revision = $5
              where identity = $2 and destination = $3 and attempts = $4 and leased",
            request,
            &claim.identity,
            &claim.destination,
            claim.attempts,
            claim.revision,
            memo
        )?;
        Ok(frozen == 1)
    }

    /// Stores what is about to be sent, for an attempt that finds it done. False: the claim no longer holds.
    pub async fn note(&self, claim: &Claim, memo: &str) -> sqlx::Result<bool> {
        let noted = execute!(
            self,
            "update delivery set request_memo = $1
              where identity = $2 and destination = $3 and attempts = $4 and leased",
            memo,
            &claim.identity,
            &claim.destination,
            claim.attempts
        )?;
        Ok(noted == 1)
    }

    /// Stores the deliveries to other destinations that follow a claimed one, with its cause. It comes before
    /// [`Inbox::settle`]: if the process dies in between, the next attempt finds the delivery done, and stores them
    /// once more, which changes nothing but the cause of those that were not tried yet. `followers`: destinations, each
    /// with a target or an empty text.
    pub async fn follow(
        &self,
        claim: &Claim,
        cause: &Cause,
        followers: &[(&'static str, String)],
    ) -> sqlx::Result<()> {
        let cause = serde_json::to_string(cause).unwrap_or_default();
        for (destination, target) in followers {
            execute!(
                self,
                FOLLOW,
                &claim.identity,
                &claim.destination,
                claim.attempts,
                *destination,
                storable(&cause),
                identity_for(claim.item_identity(), target),
                target
            )?;
        }
        self.arrived.notify_waiters();
        Ok(())
    }
}

const FOLLOW: &str = "
    insert into delivery (identity, destination, case_key, route, event_id, event_name, payload, origin, state,
                          due_at, received_at, cause, target)
    select $6, $4, case_key, route, event_id, event_name, payload, origin, 'waiting', {now}, received_at, $5, $7
      from delivery
     where identity = $1 and destination = $2 and attempts = $3 and leased
    on conflict (identity, destination) do update set cause = excluded.cause
     where delivery.state = 'waiting' and delivery.attempts = 0";

/// Claims due deliveries. A delivery waits for older ones of its case and target, for a claimed one of these, and for
/// an unanswered request about them until that must be over.
///
/// Two phrasings are for PostgreSQL's planner: the sub-select around `{now}`, since a volatile function is no
/// bound of an index; and the negated states, since with stale statistics it would look for the other
/// deliveries in the index of the due ones.
const CLAIM: &str = "
    with picked as materialized (
        select identity, destination from delivery as mine
         where destination = $1 and state = 'waiting' and due_at <= (select {now}) {filter}
           and not exists (
               select 1 from delivery as other
                where other.destination = mine.destination and other.case_key = mine.case_key
                  and other.target = mine.target and other.identity <> mine.identity and other.state <> 'done'
                  and (other.leased
                       or (other.in_doubt and other.due_at > (select {now}))
                       or (other.state <> 'dead' and not mine.leased
                           and (other.received_at, other.identity) < (mine.received_at, mine.identity))))
         order by due_at limit $2 {skip locked}
    )
    update delivery
       set attempts = attempts + 1, in_doubt = in_doubt or leased, leased = true, due_at = {now} + $3
     where (identity, destination) in (select identity, destination from picked)
    returning identity, destination, target, case_key, route, payload, origin, cause, request, request_memo,
              revision, attempts, tries, in_doubt, received_at, anew";
