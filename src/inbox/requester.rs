//! Authors at a destination: their numbers, and tickets whose requester is still to become the author.

use std::time::Duration;

use sqlx::FromRow;

use super::{Claim, Inbox, execute, fetch, millis};

/// A ticket whose requester is to become its author.
#[derive(Clone, Debug, FromRow)]
pub struct PendingRequester {
    pub destination: String,
    pub ticket: String,
    /// The author's key at the destination.
    pub author: String,
    /// Payload of the delivery that made the ticket; empty once its texts were erased.
    pub payload: String,
    /// Route of the same delivery.
    pub route: String,
}

impl Inbox {
    /// Returns the number that an author has at a destination, if it is known.
    pub async fn author(&self, destination: &str, author: &str) -> sqlx::Result<Option<i64>> {
        let sql = "select reference from author where destination = $1 and author = $2";
        fetch!(self.reader, query_scalar(sql, destination, author).fetch_optional)
    }

    pub async fn remember_author(&self, destination: &str, author: &str, reference: i64) -> sqlx::Result<()> {
        let sql = "insert into author (destination, author, reference, learnt_at) values ($1, $2, $3, {now})
                   on conflict (destination, author) do update
                      set reference = excluded.reference, learnt_at = excluded.learnt_at";
        execute!(self, sql, destination, author, reference).map(drop)
    }

    /// Forgets a number that no longer belongs to this author.
    pub async fn forget_author(&self, destination: &str, author: &str) -> sqlx::Result<()> {
        let sql = "delete from author where destination = $1 and author = $2";
        execute!(self, sql, destination, author).map(drop)
    }

    /// Forgets numbers older than `age`; the worker looks such authors up again when they write again.
    pub async fn forget_authors(&self, age: Duration) -> sqlx::Result<u64> {
        execute!(self, "delete from author where learnt_at < {now} - $1", millis(age))
    }

    /// Records that the author is to become the requester of this ticket, which the claim's delivery made.
    /// Idempotent.
    pub async fn add_pending_requester(&self, claim: &Claim, ticket: &str, author: &str) -> sqlx::Result<()> {
        let sql = "insert into pending_requester (destination, ticket, author, identity, due_at)
                   values ($1, $2, $3, $4, {now}) on conflict (destination, ticket) do nothing";
        execute!(self, sql, &claim.destination, ticket, author, &claim.identity).map(drop)
    }

    /// Claims the ticket whose requester has been due longest. No other instance gets it within `lease`.
    pub async fn claim_pending_requester(
        &self,
        destination: &str,
        lease: Duration,
    ) -> sqlx::Result<Option<PendingRequester>> {
        let sql = "
            update pending_requester set due_at = {now} + $2
             where destination = $1 and ticket in (
                 select ticket from pending_requester as mine
                  where destination = $1 and due_at <= (select {now})
                  order by due_at limit 1 {skip locked})
            returning destination, ticket, author,
                      coalesce((select payload from delivery
                                 where delivery.identity = pending_requester.identity
                                   and delivery.destination = pending_requester.destination), '') as payload,
                      coalesce((select route from delivery
                                 where delivery.identity = pending_requester.identity
                                   and delivery.destination = pending_requester.destination), '') as route";
        fetch!(self.writer, query_as(sql, destination, millis(lease)).fetch_optional)
    }

    pub async fn remove_pending_requester(&self, pending: &PendingRequester) -> sqlx::Result<()> {
        let sql = "delete from pending_requester where destination = $1 and ticket = $2";
        execute!(self, sql, &pending.destination, &pending.ticket).map(drop)
    }

    /// Makes the ticket due again after `wait`.
    pub async fn postpone_pending_requester(
        &self,
        pending: &PendingRequester,
        wait: Duration,
    ) -> sqlx::Result<()> {
        let sql = "update pending_requester set due_at = {now} + $3 where destination = $1 and ticket = $2";
        execute!(self, sql, &pending.destination, &pending.ticket, millis(wait)).map(drop)
    }
}
