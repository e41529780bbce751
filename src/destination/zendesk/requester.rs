//! The author as the requester of a ticket that could not wait for that.

use reqwest::Method;
use serde_json::json;

use super::update::{is_gone, shown};
use super::{Call, Ticket, Zendesk, outcome};
use crate::config::NO_AUTHOR_TAG;
use crate::retry::{Doubt, Outcome, Reason};

/// So often somebody else may be quicker before we wait.
const COLLISIONS: usize = 4;

/// What became of a ticket whose author has a user by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateRequester {
    Set,
    /// It is closed or gone, agents have given it another requester, or Zendesk refuses this one.
    NotWanted,
}

impl Zendesk {
    /// Makes a user the requester of a ticket of the service user's. Safe to repeat.
    ///
    /// # Errors
    /// The outcome that a delivery would meet now.
    pub async fn set_requester(&self, ticket: &str, user: u64) -> Result<LateRequester, Outcome> {
        let Some(service_user) = self.service_user().await? else {
            let reason = Reason::new("users cannot be asked for at this time");
            return Err(Outcome::Wait { reason, doubt: Doubt::None, wait: self.call_timeout });
        };
        for _ in 0..COLLISIONS {
            let held = self.show(ticket).await?;
            let Some(held) = held.filter(|held| held.waits_for_author(service_user)) else {
                return Ok(LateRequester::NotWanted);
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
                _ if shown(&reply, ticket).is_some() => return Ok(LateRequester::Set),
                409 => {}
                404 if is_gone(&reply) => {}
                422 => return Ok(LateRequester::NotWanted),
                _ => return Err(outcome(Call::Requester, &reply)),
            }
        }
        Err(Outcome::Retry { reason: Reason::new("the ticket changes all the time"), doubt: Doubt::None })
    }
}

impl Ticket {
    fn waits_for_author(&self, service_user: u64) -> bool {
        let is_ours = self.requester_id == Some(service_user);
        is_ours && self.has_tag(NO_AUTHOR_TAG) && !self.is_closed() && !self.is_deleted()
    }
}
