//! Makes authors the requesters of tickets that did not wait for them, one at a time and after everything else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, info};

use super::Worker;
use super::attempt::find_author;
use super::lane::Gate;
use crate::config::RequesterLater;
use crate::delivery::Outcome;
use crate::destination::Destination;
use crate::destination::zendesk::ticket::author_profile;
use crate::destination::zendesk::{AuthorLookup, RequesterUpdate};
use crate::inbox::PendingRequester;
use crate::source;

/// The time between two checks for due tickets when none was found.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// The wait before the next attempt if Zendesk names none.
const POSTPONE: Duration = Duration::from_secs(60);

impl Worker {
    /// Runs until the service ends.
    pub async fn set_pending_requesters(self: Arc<Self>) {
        loop {
            let gate = self.lane().gate(Instant::now());
            let pending = match gate {
                Gate::Open => self.inbox.claim_pending_requester(self.destination.name(), POSTPONE).await,
                Gate::Probe | Gate::Closed(_) => Ok(None),
            };
            match pending {
                Ok(Some(pending)) if self.settle_pending_requester(&pending).await => {}
                Ok(_) => tokio::time::sleep(CHECK_EVERY).await,
                Err(error) => {
                    self.storage_failed("tickets that wait for their requester cannot be read", &error);
                    tokio::time::sleep(POSTPONE).await;
                }
            }
        }
    }

    /// Returns whether to continue with the next ticket at once.
    async fn settle_pending_requester(&self, pending: &PendingRequester) -> bool {
        let result = match self.set_pending_requester(pending).await {
            Ok(None) => self.inbox.remove_pending_requester(pending).await.map(|()| true),
            Ok(Some(wait)) => self.inbox.postpone_pending_requester(pending, wait).await.map(|()| false),
            Err(error) => Err(error),
        };
        // It is due again after `POSTPONE`.
        result.unwrap_or_else(|error| {
            self.storage_failed(
                "the result for a ticket that waits for its requester cannot be stored",
                &error,
            );
            false
        })
    }

    /// Sets the requester. Returns the wait before the next attempt; `None` if there is nothing left to do.
    async fn set_pending_requester(&self, pending: &PendingRequester) -> sqlx::Result<Option<Duration>> {
        let Destination::Zendesk(zendesk) = &self.destination;
        let ticket = &pending.ticket;
        if zendesk.route(&pending.route).ticket.requester_later == RequesterLater::Keep {
            return Ok(None);
        }
        // Erasing the delivery's texts also erased their author.
        let item = source::item(&pending.payload).ok();
        let Some(profile) = item.as_ref().and_then(author_profile) else { return Ok(None) };
        if !zendesk.has_update_budget() {
            return Ok(Some(POSTPONE));
        }
        let user = match find_author(&self.inbox, zendesk, &profile).await? {
            Ok(AuthorLookup::User(id)) => id,
            Ok(AuthorLookup::Later(_)) => return Ok(Some(POSTPONE)),
            Ok(AuthorLookup::Refused(reason)) => {
                info!(
                    event = "requester_kept",
                    ticket, "ticket {ticket} keeps the service user as requester: {reason}"
                );
                return Ok(None);
            }
            Err(outcome) => return Ok(Some(wait_after(&outcome))),
        };
        match zendesk.set_requester(ticket, user).await {
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
