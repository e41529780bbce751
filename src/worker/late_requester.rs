//! Tickets that could not wait for their author to become a user get their requester here, one at a time
//! and behind everything else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, info};

use super::Worker;
use super::lane::Gate;
use crate::destination::Destination;
use crate::destination::zendesk::ticket::author_profile;
use crate::destination::zendesk::{Author, LateRequester};
use crate::inbox::OwedRequester;
use crate::notification::Item;
use crate::retry::Outcome;

/// How long a new debt may go unnoticed.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long one is left alone if nothing says how long to wait.
const POSTPONE: Duration = Duration::from_secs(60);

/// What became of one of them.
enum End {
    Settled,
    Postponed(Duration),
}

impl Worker {
    /// Goes on for ever.
    pub async fn set_late_requesters(self: Arc<Self>) {
        loop {
            let gate = self.lane().gate(Instant::now());
            let owed = match gate {
                Gate::Open => self.inbox.claim_late_requester(self.destination.name(), POSTPONE).await,
                Gate::Probe | Gate::Closed(_) => Ok(None),
            };
            match owed {
                Ok(Some(owed)) if self.set_late_requester(&owed).await => {}
                Ok(_) => tokio::time::sleep(LOOK_EVERY).await,
                Err(error) => {
                    self.storage_failed("late requesters cannot be read", &error);
                    tokio::time::sleep(POSTPONE).await;
                }
            }
        }
    }

    /// Whether it makes sense to go on with the next one at once.
    async fn set_late_requester(&self, owed: &OwedRequester) -> bool {
        let end = self.make_requester(owed).await;
        let stored = match &end {
            Ok(End::Settled) => self.inbox.settle_late_requester(owed).await,
            Ok(End::Postponed(wait)) => self.inbox.postpone_late_requester(owed, *wait).await,
            Err(_) => Ok(()),
        };
        // It comes back by itself.
        if let Some(error) = end.as_ref().err().or(stored.as_ref().err()) {
            self.storage_failed("a late requester cannot be stored", error);
        }
        matches!((end, stored), (Ok(End::Settled), Ok(())))
    }

    async fn make_requester(&self, owed: &OwedRequester) -> sqlx::Result<End> {
        let Destination::Zendesk(zendesk) = &self.destination;
        let ticket = &owed.ticket;
        // With its texts the delivery has lost who wrote them.
        let item = Item::from_payload(&owed.payload).ok();
        let Some(profile) = item.as_ref().and_then(author_profile) else { return Ok(End::Settled) };
        if let Err(outcome) = zendesk.has_room_for_an_update() {
            return Ok(End::Postponed(wait_of(&outcome)));
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
                info!(ticket, "the service user stays the requester of ticket {ticket}: {author}");
                return Ok(End::Settled);
            }
            Err(outcome) => return Ok(End::Postponed(wait_of(&outcome))),
        };
        if let (None, Ok(id)) = (known, i64::try_from(user)) {
            self.inbox.remember_author(&owed.destination, &owed.author, id).await?;
        }
        match zendesk.set_requester(ticket, user).await {
            Ok(LateRequester::Set) => {
                info!(ticket, "the author is the requester of ticket {ticket} now");
                Ok(End::Settled)
            }
            Ok(LateRequester::NotWanted) => {
                info!(ticket, "ticket {ticket} keeps the requester that it has");
                Ok(End::Settled)
            }
            Err(outcome) => {
                let reason = outcome.reason().map_or("", |reason| &reason.log);
                debug!(ticket, "the requester of ticket {ticket} has to wait: {reason}");
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
