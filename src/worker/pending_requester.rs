//! Tickets that could not wait for their author to become a user get their requester here, one at a time
//! and behind everything else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, info};

use super::Worker;
use super::lane::Gate;
use crate::config::RequesterLater;
use crate::destination::Destination;
use crate::destination::zendesk::ticket::author_profile;
use crate::destination::zendesk::{Author, RequesterUpdate};
use crate::inbox::PendingRequester;
use crate::notification::Item;
use crate::retry::Outcome;

/// The time between two checks for due tickets when none was found.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The wait before the next attempt if Zendesk names none.
const POSTPONE: Duration = Duration::from_secs(60);

/// What became of one of them.
enum End {
    Settled,
    Postponed(Duration),
}

impl Worker {
    /// Goes on for ever.
    pub async fn set_pending_requesters(self: Arc<Self>) {
        loop {
            let gate = self.lane().gate(Instant::now());
            let owed = match gate {
                Gate::Open => self.inbox.claim_pending_requester(self.destination.name(), POSTPONE).await,
                Gate::Probe | Gate::Closed(_) => Ok(None),
            };
            match owed {
                Ok(Some(owed)) if self.set_pending_requester(&owed).await => {}
                Ok(_) => tokio::time::sleep(LOOK_EVERY).await,
                Err(error) => {
                    self.storage_failed("tickets that wait for their requester cannot be read", &error);
                    tokio::time::sleep(POSTPONE).await;
                }
            }
        }
    }

    /// Whether it makes sense to go on with the next one at once.
    async fn set_pending_requester(&self, owed: &PendingRequester) -> bool {
        let end = self.make_requester(owed).await;
        let stored = match &end {
            Ok(End::Settled) => self.inbox.remove_pending_requester(owed).await,
            Ok(End::Postponed(wait)) => self.inbox.postpone_pending_requester(owed, *wait).await,
            Err(_) => Ok(()),
        };
        // It comes back by itself.
        if let Some(error) = end.as_ref().err().or(stored.as_ref().err()) {
            self.storage_failed(
                "the result for a ticket that waits for its requester cannot be stored",
                error,
            );
        }
        matches!((end, stored), (Ok(End::Settled), Ok(())))
    }

    async fn make_requester(&self, owed: &PendingRequester) -> sqlx::Result<End> {
        let Destination::Zendesk(zendesk) = &self.destination;
        let ticket = &owed.ticket;
        if zendesk.route(&owed.route).ticket.requester_later == RequesterLater::Keep {
            return Ok(End::Settled);
        }
        // Erasing the delivery's texts also erased their author.
        let item = Item::from_payload(&owed.payload).ok();
        let Some(profile) = item.as_ref().and_then(author_profile) else { return Ok(End::Settled) };
        if !zendesk.has_update_budget() {
            return Ok(End::Postponed(POSTPONE));
        }
        let known = self.inbox.author(&owed.destination, &owed.author).await?;
        let author = match known.and_then(|id| u64::try_from(id).ok()) {
            Some(id) => Ok(Author::User(id)),
            None => zendesk.author(&profile).await,
        };
        let user = match author {
            Ok(Author::User(id)) => id,
            Ok(Author::TooMany | Author::NotNow) => return Ok(End::Postponed(POSTPONE)),
            Ok(author @ (Author::Suspended | Author::Refused(_))) => {
                info!(
                    event = "requester_kept",
                    ticket, "ticket {ticket} keeps the service user as requester: {author}"
                );
                return Ok(End::Settled);
            }
            Err(outcome) => return Ok(End::Postponed(wait_of(&outcome))),
        };
        if let (None, Ok(id)) = (known, i64::try_from(user)) {
            self.inbox.remember_author(&owed.destination, &owed.author, id).await?;
        }
        match zendesk.set_requester(ticket, user).await {
            Ok(RequesterUpdate::Set) => {
                info!(event = "requester_set", ticket, "made the author the requester of ticket {ticket}");
                Ok(End::Settled)
            }
            Ok(RequesterUpdate::Kept) => {
                info!(
                    event = "requester_kept",
                    ticket,
                    "ticket {ticket} keeps the requester it has: it is closed, an agent changed it, or Zendesk refused"
                );
                Ok(End::Settled)
            }
            Err(outcome) => {
                let reason = outcome.reason().map_or("", |reason| &reason.log);
                debug!(
                    event = "requester_retry",
                    ticket, "could not set the requester of ticket {ticket}, trying again later: {reason}"
                );
                Ok(End::Postponed(wait_of(&outcome)))
            }
        }
    }
}

fn wait_of(outcome: &Outcome) -> Duration {
    match outcome {
        Outcome::Later { wait, .. } | Outcome::Wait { wait, .. } => *wait,
        Outcome::Pause { retry_after: Some(wait), .. } => *wait,
        _ => POSTPONE,
    }
}
