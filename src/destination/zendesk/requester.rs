//! Makes the author the requester of a ticket that was created without one.

use reqwest::Method;
use serde_json::json;

use super::author::NOT_NOW;
use super::settings::ticket::NO_AUTHOR_TAG;
use super::update::{COLLISIONS, shown, too_many_collisions};
use super::{Call, Ticket, Zendesk, outcome};
use crate::delivery::{Doubt, Outcome, Reason};

/// The result of an update of the requester.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequesterUpdate {
    Set,
    /// It is closed or gone, an agent changed its requester or removed the tag, or Zendesk refuses the user.
    Kept,
}

impl Zendesk {
    /// Makes a user the requester of a ticket whose requester is the service user. Safe to repeat.
    ///
    /// # Errors
    /// The outcome that a delivery would have now.
    pub async fn set_requester(&self, ticket: &str, user: u64) -> Result<RequesterUpdate, Outcome> {
        let Some(service_user) = self.service_user().await? else {
            let reason = Reason::new(NOT_NOW);
            return Err(Outcome::Wait { reason, doubt: Doubt::None, wait: self.call_timeout });
        };
        for _ in 0..COLLISIONS {
            let shown_ticket = self.show(ticket).await?.filter(|ticket| ticket.lacks_author(service_user));
            let Some(current) = shown_ticket else { return Ok(RequesterUpdate::Kept) };
            // If an agent changes the tags in the meantime, `safe_update` refuses the update.
            let tags: Vec<&String> =
                current.tags.iter().flatten().filter(|tag| *tag != NO_AUTHOR_TAG).collect();
            let changes = json!({
                "requester_id": user,
                "tags": tags,
                "safe_update": true,
                "updated_stamp": current.updated_at,
            });
            let path = format!("/api/v2/tickets/{ticket}");
            let request = || self.request(Method::PUT, &path).json(&json!({ "ticket": changes }));
            let reply = self.repeatable(Call::Requester, request).await?;
            match reply.status {
                _ if shown(&reply, ticket).is_some() => return Ok(RequesterUpdate::Set),
                409 => {}
                404 if reply.is_not_found() => {}
                422 => return Ok(RequesterUpdate::Kept),
                _ => return Err(outcome(Call::Requester, &reply)),
            }
        }
        Err(too_many_collisions())
    }
}

impl Ticket {
    fn lacks_author(&self, service_user: u64) -> bool {
        let has_service_user = self.requester_id == Some(service_user);
        has_service_user && self.has_tag(NO_AUTHOR_TAG) && !self.is_closed() && !self.is_deleted()
    }
}
