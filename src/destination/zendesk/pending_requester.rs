//! Makes authors the requesters of tickets that did not wait for them, one at a time and after everything else.

use std::time::Duration;

use tracing::{debug, info};

use super::create::find_author;
use super::settings::ticket::RequesterLater;
use super::ticket::author_profile;
use super::{AuthorLookup, REQUESTERS, RequesterUpdate, Zendesk};
use crate::delivery::Outcome;
use crate::ledger::{Memos, Stopped, StorageError};

/// The time between two checks for due tickets when none was found.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// The wait before the next attempt if Zendesk names none.
const POSTPONE: Duration = Duration::from_secs(60);

impl Zendesk {
    /// Sets the requester of the ticket that has been due longest. Returns the wait before the next call.
    ///
    /// # Errors
    /// The storage failed. The ticket is due again after a minute.
    pub async fn set_pending_requester(&self, memos: &Memos) -> Result<Duration, StorageError> {
        let Some((ticket, delivery)) = memos.claim(REQUESTERS, POSTPONE).await? else {
            return Ok(CHECK_EVERY);
        };
        match self.set_author(memos, &ticket, &delivery).await? {
            None => {
                memos.forget(REQUESTERS, &ticket).await?;
                Ok(Duration::ZERO)
            }
            Some(wait) => {
                memos.postpone(REQUESTERS, &ticket, wait).await?;
                Ok(CHECK_EVERY)
            }
        }
    }

    /// Returns the wait before the next attempt; `None` if there is nothing left to do.
    async fn set_author(
        &self,
        memos: &Memos,
        ticket: &str,
        delivery: &str,
    ) -> Result<Option<Duration>, StorageError> {
        // Erasing the delivery's texts also erased their author.
        let Some((route, item)) = memos.item(delivery).await? else { return Ok(None) };
        if self.settings.ticket(&route).requester_later == RequesterLater::Keep {
            return Ok(None);
        }
        let Some(profile) = author_profile(&item) else { return Ok(None) };
        if !self.has_update_budget() {
            return Ok(Some(POSTPONE));
        }
        let user = match find_author(memos, self, &profile).await {
            Ok(AuthorLookup::User(id)) => id,
            Ok(AuthorLookup::Later(_)) | Err(Stopped::LeaseExpired) => return Ok(Some(POSTPONE)),
            Ok(AuthorLookup::Refused(reason)) => {
                info!(
                    event = "requester_kept",
                    ticket, "ticket {ticket} keeps the service user as requester: {reason}"
                );
                return Ok(None);
            }
            Err(Stopped::Outcome(outcome)) => return Ok(Some(wait_after(&outcome))),
            Err(Stopped::Storage(error)) => return Err(error),
        };
        match self.set_requester(ticket, user).await {
            Ok(RequesterUpdate::Set) => {
                info!(event = "requester_set", ticket, "made the author the requester of ticket {ticket}");
                Ok(None)
            }
            Ok(RequesterUpdate::Kept) => {
                info!(
                    event = "requester_kept",
                    ticket,
                    "ticket {ticket} keeps the requester it has: it is closed, an agent changed it, or Zendesk refused"
                );
                Ok(None)
            }
            Err(outcome) => {
                debug!(
                    event = "requester_retry",
                    ticket,
                    "could not set the requester of ticket {ticket}, trying again later: {}",
                    outcome.log()
                );
                Ok(Some(wait_after(&outcome)))
            }
        }
    }
}

fn wait_after(outcome: &Outcome) -> Duration {
    match outcome {
        Outcome::Later { wait, .. } | Outcome::Wait { wait, .. } => *wait,
        Outcome::Pause { retry_after: Some(wait), .. } => *wait,
        _ => POSTPONE,
    }
}
