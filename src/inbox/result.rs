//! Results after a delivery was sent: the message that a lookup found, and the status that it got later.

use super::{Inbox, execute, fetch};
use crate::delivery::Claim;

impl Inbox {
    /// Records that a claim was found done under this reference. False: the reference is another delivery's, or the
    /// claim no longer holds.
    pub async fn take_reference(&self, claim: &Claim, reference: &str) -> sqlx::Result<bool> {
        let sql = "update delivery set reference = $4
                    where identity = $1 and destination = $2 and attempts = $3 and leased
                      and not exists (select 1 from delivery as other
                                       where other.destination = $2 and other.reference = $4
                                         and other.identity <> $1
                                         -- As in the index.
                                         and other.target <> '' and other.reference <> '')";
        let Claim { identity, destination, attempts, .. } = claim;
        match execute!(self, sql, identity, destination, attempts, reference) {
            // Another process took it at this moment.
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
            changed => Ok(changed? == 1),
        }
    }

    /// Returns the delivery with this target that has this reference: its identity.
    pub async fn find_reference(
        &self,
        destination: &str,
        target: &str,
        reference: &str,
    ) -> sqlx::Result<Option<String>> {
        let sql = "select identity from delivery
                    where destination = $1 and target = $2 and reference = $3 and target <> '' and reference <> ''";
        fetch!(self.reader, query_scalar(sql, destination, target, reference).fetch_optional)
    }

    /// Returns the note of a delivery; `None` if there is no such delivery.
    pub async fn delivery_note(
        &self,
        destination: &str,
        identity: &str,
    ) -> sqlx::Result<Option<Option<String>>> {
        let sql = "select note from delivery where identity = $1 and destination = $2";
        fetch!(self.reader, query_scalar(sql, identity, destination).fetch_optional)
    }

    /// Replaces the note of a delivery. False: it is no longer `old`.
    pub async fn replace_note(
        &self,
        destination: &str,
        identity: &str,
        old: Option<&str>,
        new: &str,
    ) -> sqlx::Result<bool> {
        let sql = "update delivery set note = $4
                    where identity = $1 and destination = $2 and coalesce(note, '') = $3";
        Ok(execute!(self, sql, identity, destination, old.unwrap_or_default(), new)? == 1)
    }
}
