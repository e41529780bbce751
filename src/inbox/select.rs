//! Finding deliveries by case, reference, link or id, and reading everything about one.

use super::report::listed;
use super::{Inbox, Listed, Store, fetch, from_row};

/// The most deliveries that one selection returns.
const MOST: i64 = 1000;

/// The parts of a delivery that a list leaves out.
#[derive(Clone, Debug)]
pub struct Shown {
    /// `push` or `feed`
    pub origin: String,
    pub in_doubt: bool,
    pub revision: i64,
    /// The envelope with the item; empty once its texts were erased.
    pub payload: String,
    /// The frozen bytes of the request.
    pub request: Option<String>,
    /// For a delivery that follows another one: its cause, as JSON.
    pub cause: Option<String>,
}

from_row!(Shown { origin, in_doubt, revision, payload, request, cause });

impl Inbox {
    /// Returns the deliveries of a case, oldest first.
    pub async fn of_case(&self, case_key: &str) -> sqlx::Result<Vec<Listed>> {
        // The destinations, since the index begins with them.
        let sql = format!(
            "{} where case_key = $1 and destination in (select distinct destination from delivery_count)
              order by received_at, identity, destination limit $2",
            listed()
        );
        fetch!(self.reader, query_as(&sql, case_key, MOST).fetch_all)
    }

    /// Returns the deliveries to a destination that are done under this reference, oldest first.
    pub async fn of_reference(&self, destination: &str, reference: &str) -> sqlx::Result<Vec<Listed>> {
        let sql = format!(
            "{} where reference = $1 and destination = $2 order by received_at, identity limit $3",
            listed()
        );
        fetch!(self.reader, query_as(&sql, reference, destination, MOST).fetch_all)
    }

    /// Returns the deliveries about the post whose link has this fingerprint, oldest first. Those that were never
    /// tried have none yet: see [`Inbox::untried_ending`].
    pub async fn of_link(&self, fingerprint: &str) -> sqlx::Result<Vec<Listed>> {
        let sql =
            format!("{} where link = $1 order by received_at, identity, destination limit $2", listed());
        fetch!(self.reader, query_as(&sql, fingerprint, MOST).fetch_all)
    }

    /// Returns the waiting deliveries that were never tried and have a string in their payload that ends like this,
    /// perhaps with a slash more; oldest first.
    pub async fn untried_ending(&self, text: &str) -> sqlx::Result<Vec<Listed>> {
        let sql = format!(
            "{} where state = 'waiting' and attempts = 0
                  and (replace(payload, $1, '') <> payload or replace(payload, $2, '') <> payload)
                  and destination in (select distinct destination from delivery_count)
                order by received_at, identity, destination limit $3",
            listed()
        );
        let (end, slash) = (format!("{text}\""), format!("{text}/\""));
        fetch!(self.reader, query_as(&sql, end.as_str(), slash.as_str(), MOST).fetch_all)
    }

    /// Returns deliveries whose identity begins like this, in the order of their identities, up to `limit`.
    pub async fn with_prefix(&self, prefix: &str, limit: i64) -> sqlx::Result<Vec<Listed>> {
        // The bounds only let the index narrow the rows down. PostgreSQL may order by a language, in which the last
        // letter comes after everything else in an identity, or by bytes, in which `~` does.
        let last = match &self.store {
            Store::Sqlite { .. } => "$2",
            Store::Postgres(_) => "greatest($2, $1 || 'zzzzzzzzzzzzzzzz')",
        };
        let sql = format!(
            "{} where identity >= $1 and identity <= {last} and substr(identity, 1, $3) = $1
              order by identity, destination limit $4",
            listed()
        );
        let (bound, length) = (format!("{prefix}\u{10ffff}"), prefix.chars().count() as i32);
        fetch!(self.reader, query_as(&sql, prefix, bound.as_str(), length, limit).fetch_all)
    }

    /// Returns the parts of a delivery that a list leaves out.
    pub async fn shown(&self, delivery: &Listed) -> sqlx::Result<Option<Shown>> {
        let sql = "select origin, in_doubt, revision, payload, request, cause
                     from delivery where identity = $1 and destination = $2";
        let Listed { identity, destination, .. } = delivery;
        fetch!(self.reader, query_as(sql, identity, destination).fetch_optional)
    }
}
