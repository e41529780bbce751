//! What the storage knows of a case: its ticket, and whether others may have made one.

use super::{Claim, Inbox, fetch};
use crate::destination::zendesk::memory::CaseMemory;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    pub ticket: CaseTicket,
    /// The delivery may have been delivered although nothing here says so: it is older than this run, or the
    /// database is older than this run, and so may have been restored.
    pub may_be_restored: bool,
}

/// The stored knowledge about the ticket of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaseTicket {
    /// No other delivery of this case was ever tried: there cannot be a ticket of ours.
    None,
    /// Others were tried, and none is known to have made a ticket.
    Unknown,
    Known {
        reference: String,
        /// The case memory: what the ticket contains.
        memory: CaseMemory,
        /// When the youngest event in the case memory was received.
        as_of: i64,
    },
}

impl Inbox {
    /// Returns the stored state of a claim's case.
    pub async fn case(&self, claim: &Claim) -> sqlx::Result<Case> {
        type Known = (Option<String>, Option<String>, Option<i64>, i64, Option<i64>);
        let Claim { destination, case_key, identity, .. } = claim;
        let (reference, told, as_of, others, began_at): Known = fetch!(
            self.writer,
            query_as(CASE, destination, case_key, identity, self.run.as_deref()).fetch_one
        )?;
        let ticket = match reference {
            Some(reference) => {
                let memory = CaseMemory::from_column(told.as_deref());
                CaseTicket::Known { reference, memory, as_of: as_of.unwrap_or(0) }
            }
            None if others > 0 => CaseTicket::Unknown,
            None => CaseTicket::None,
        };
        let may_be_restored = began_at.is_none_or(|began_at| claim.received_at < began_at);
        Ok(Case { ticket, may_be_restored })
    }
}

const CASE: &str = "
    select held.reference, story.told, story.as_of, tried.others,
           (select began_at from run where id = $4) as began_at
      from (select count(*) as others from delivery
             where destination = $1 and case_key = $2 and identity <> $3
               and (attempts > 0 or in_doubt)) as tried
      left join (select reference from delivery
                  where destination = $1 and case_key = $2 and reference is not null
                  order by settled_at desc, identity desc limit 1) as held on true
      -- An older version adds comments without storing their content.
      left join (select reference, told, max(received_at) over () as as_of from delivery
                  where destination = $1 and case_key = $2 and told is not null
                  order by settled_at desc, identity desc limit 1) as story
        on story.reference = held.reference";
