//! The books: the deliveries that were received, and their states and results. For `casebridge reconcile`, which may
//! take seconds.

use super::{Inbox, fetch, from_row};

/// The deliveries of one route to one destination.
#[derive(Clone, Debug)]
pub struct Account {
    pub route: String,
    pub destination: String,
    pub received: i64,
    pub waiting: i64,
    pub done: i64,
    pub dead: i64,
}

from_row!(Account { route, destination, received, waiting, done, dead });

/// By how much the counts of a route and a destination exceed its rows; negative: they fall short.
#[derive(Clone, Debug)]
pub struct Surplus {
    pub route: String,
    pub destination: String,
    pub received: i64,
    pub waiting: i64,
    pub in_doubt: i64,
    pub done: i64,
    pub dead: i64,
}

from_row!(Surplus { route, destination, received, waiting, in_doubt, done, dead });

/// A delivery that is done, and the reference that it has.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub received_at: i64,
    pub identity: String,
    pub case_key: String,
    pub reference: String,
}

from_row!(Claimed { received_at, identity, case_key, reference });

/// A delivery of a case.
#[derive(Clone, Debug)]
pub struct OfCase {
    pub state: String,
    pub reference: Option<String>,
}

from_row!(OfCase { state, reference });

impl Inbox {
    /// Counts the deliveries received since, in milliseconds since 1970, by route and destination.
    pub async fn accounts(&self, since: i64) -> sqlx::Result<Vec<Account>> {
        let sql = "
            select route, destination, count(*) as received,
                   cast(sum(case when state = 'waiting' then 1 else 0 end) as bigint) as waiting,
                   cast(sum(case when state = 'done' then 1 else 0 end) as bigint) as done,
                   cast(sum(case when state = 'dead' then 1 else 0 end) as bigint) as dead
              from delivery where received_at >= $1 group by route, destination order by route, destination";
        fetch!(self.reader, query_as(sql, since).fetch_all)
    }

    /// Compares the counts that triggers keep with all rows, and returns where they differ.
    pub async fn surpluses(&self) -> sqlx::Result<Vec<Surplus>> {
        fetch!(self.reader, query_as(SURPLUSES).fetch_all)
    }

    /// Returns the references of deliveries that are done, in the order of their arrival: the page of `limit` that
    /// follows `after`, or begins at `since`.
    pub async fn references(
        &self,
        destination: &str,
        since: i64,
        after: Option<&Claimed>,
        limit: usize,
    ) -> sqlx::Result<Vec<Claimed>> {
        let sql = "
            select received_at, identity, case_key, reference from delivery
             where (received_at, identity) > ($2, $3) and destination = $1 and state = 'done' and reference <> ''
             order by received_at, identity limit $4";
        let (at, identity) = match after {
            Some(last) => (last.received_at, last.identity.as_str()),
            None => (since, ""),
        };
        fetch!(self.reader, query_as(sql, destination, at, identity, limit as i64).fetch_all)
    }

    /// Returns the deliveries of a case to a destination.
    pub async fn deliveries_of_case(&self, destination: &str, case_key: &str) -> sqlx::Result<Vec<OfCase>> {
        let sql = "select state, reference from delivery where destination = $1 and case_key = $2";
        fetch!(self.reader, query_as(sql, destination, case_key).fetch_all)
    }
}

/// One statement, so that the service may run: it sees counts and rows of the same moment.
const SURPLUSES: &str = "
    select route, destination, cast(sum(received) as bigint) as received, cast(sum(waiting) as bigint) as waiting,
           cast(sum(in_doubt) as bigint) as in_doubt, cast(sum(done) as bigint) as done,
           cast(sum(dead) as bigint) as dead
      from (select route, destination, received, waiting, in_doubt, done, dead from delivery_count
            union all
            select route, destination, -count(*), -sum(case when state = 'waiting' then 1 else 0 end),
                   -sum(case when state = 'waiting' and in_doubt then 1 else 0 end),
                   -sum(case when state = 'done' then 1 else 0 end), -sum(case when state = 'dead' then 1 else 0 end)
              from delivery group by route, destination) as entries
     group by route, destination
    having sum(received) <> 0 or sum(waiting) <> 0 or sum(in_doubt) <> 0 or sum(done) <> 0 or sum(dead) <> 0
     order by route, destination";
