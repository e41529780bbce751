//! Makes the author the requester of a ticket that was sent without one.

use reqwest::Method;
use serde_json::json;

use super::update::{is_not_found, shown};
use super::{Call, Ticket, Zendesk, outcome};
use crate::config::NO_AUTHOR_TAG;
use crate::retry::{Doubt, Outcome, Reason};

/// Attempts to update a ticket that others change at the same time.
const COLLISIONS: usize = 4;

/// What became of the requester of a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequesterUpdate {
    Set,
    /// It is closed or gone, an agent changed its requester or removed the tag, or Zendesk refuses the user.
    Kept,
}

impl Zendesk {
    /// Makes a user the requester of a ticket of the service user's. Safe to repeat.
    ///
    /// # Errors
    /// The outcome that a delivery would meet now.
    pub async fn set_requester(&self, ticket: &str, user: u64) -> Result<RequesterUpdate, Outcome> {
        let Some(service_user) = self.service_user().await? else {
            let reason = Reason::new("casebridge cannot look up Zendesk users at the moment");
            return Err(Outcome::Wait { reason, doubt: Doubt::None, wait: self.call_timeout });
        };
        for _ in 0..COLLISIONS {
            let held = self.show(ticket).await?;
            let Some(held) = held.filter(|held| held.waits_for_author(service_user)) else {
                return Ok(RequesterUpdate::Kept);
            };
            // The tags are those that we have just seen, or the update is refused.
            let tags: Vec<&String> = held.tags.iter().flatten().filter(|tag| *tag != NO_AUTHOR_TAG).collect();
            let changes = json!({
                "requester_id": user,
                "tags": tags,
                "safe_update": true,
                "updated_stamp": held.updated_at,
            });
            let path = format!("/api/v2/tickets/{ticket}");
            let request = || self.request(Method::PUT, &path).json(&json!({ "ticket": changes }));
            let reply = self.repeatable(Call::Requester, request).await?;
            match reply.status {
                _ if shown(&reply, ticket).is_some() => return Ok(RequesterUpdate::Set),
                409 => {}
                404 if is_not_found(&reply) => {}
                422 => return Ok(RequesterUpdate::Kept),
                _ => return Err(outcome(Call::Requester, &reply)),
            }
        }
        Err(Outcome::Retry {
            reason: Reason::new("the ticket kept changing while casebridge tried to update it"),
            doubt: Doubt::None,
        })
    }
}

impl Ticket {
    fn waits_for_author(&self, service_user: u64) -> bool {
        let is_ours = self.requester_id == Some(service_user);
        is_ours && self.has_tag(NO_AUTHOR_TAG) && !self.is_closed() && !self.is_deleted()
    }
}
