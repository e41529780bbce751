//! What the storage knows of a case: its latest result, and whether others may have had one.

use super::{Inbox, fetch};
use crate::delivery::{Claim, History, Latest};

impl Inbox {
    /// Returns what a claim's case has at the claim's destination.
    pub async fn history(&self, claim: &Claim) -> sqlx::Result<History> {
        type Known = (Option<String>, Option<String>, Option<i64>, i64, Option<i64>);
        let Claim { destination, case_key, identity, target, .. } = claim;
        let (reference, memo, as_of, others, began_at): Known = fetch!(
            self.writer,
            query_as(HISTORY, destination, case_key, identity, self.run.as_deref(), target).fetch_one
        )?;
        let latest = match reference {
            Some(reference) => {
                Latest::Done { reference, memo: memo.unwrap_or_default(), as_of: as_of.unwrap_or(0) }
            }
            None if others > 0 => Latest::Unknown,
            None => Latest::None,
        };
        let may_be_restored = began_at.is_none_or(|began_at| claim.received_at < began_at);
        Ok(History { latest, may_be_restored })
    }

    /// Whether a later delivery of a claim's case and route waits for the same destination.
    pub async fn is_superseded(&self, claim: &Claim) -> sqlx::Result<bool> {
        let sql = "select count(*) from delivery
                    where destination = $1 and case_key = $2 and route = $3 and state = 'waiting'
                      and (received_at, identity) > ($4, $5)";
        let Claim { destination, case_key, route, received_at, identity, .. } = claim;
        let later: i64 = fetch!(
            self.reader,
            query_scalar(sql, destination, case_key, route, received_at, identity).fetch_one
        )?;
        Ok(later > 0)
    }

    /// When this database was first served: milliseconds since 1970, UTC.
    pub async fn first_run(&self) -> sqlx::Result<Option<i64>> {
        fetch!(self.reader, query_scalar("select min(began_at) from run").fetch_one)
    }

    /// Returns the route and the payload of a delivery; the payload is empty once its texts were erased.
    pub async fn payload(&self, identity: &str, destination: &str) -> sqlx::Result<Option<(String, String)>> {
        let sql = "select route, payload from delivery where identity = $1 and destination = $2";
        fetch!(self.reader, query_as(sql, identity, destination).fetch_optional)
    }
}

const HISTORY: &str = "
    select latest.reference, known.memo, known.as_of, tried.others,
           (select began_at from run where id = $4) as began_at
      from (select count(*) as others from delivery
             where destination = $1 and case_key = $2 and target = $5 and identity <> $3
               and (attempts > 0 or in_doubt)) as tried
      left join (select reference from delivery
                  where destination = $1 and case_key = $2 and target = $5 and reference is not null
                  order by settled_at desc, identity desc limit 1) as latest on true
      -- Some rows have a reference and no memo: before 0.1, none was stored.
      left join (select reference, coalesce(memo, told) as memo, max(received_at) over () as as_of
                   from delivery
                  where destination = $1 and case_key = $2 and target = $5 and coalesce(memo, told) is not null
                  order by settled_at desc, identity desc limit 1) as known
        on known.reference = latest.reference";
