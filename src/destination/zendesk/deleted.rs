//! Whether a ticket that is not found was deleted: Zendesk may also answer 404 for one that the service
//! user may not see.

use reqwest::Method;
use serde::Deserialize;

use super::{Call, Zendesk, outcome};
use crate::retry::Outcome;

/// Pages of 100 tickets: Zendesk answers 10 such requests a minute.
const PAGES: usize = 5;
const PER_PAGE: usize = 100;

impl Zendesk {
    /// Whether the ticket is among those that were deleted last. One that was deleted for good, or more than
    /// 30 days ago, is not among them any more
    /// (<https://developer.zendesk.com/api-reference/ticketing/tickets/tickets/#list-deleted-tickets>).
    ///
    /// # Errors
    /// The outcome of the attempt that needed to know.
    pub async fn is_deleted(&self, ticket: &str) -> Result<bool, Outcome> {
        let Ok(number) = ticket.parse::<u64>() else { return Ok(false) };
        for page in 1..=PAGES {
            let page = page.to_string();
            let query =
                [("sort_by", "deleted_at"), ("sort_order", "desc"), ("per_page", "100"), ("page", &page)];
            let request = || self.request(Method::GET, "/api/v2/deleted_tickets").query(&query);
            let reply = self.repeatable(Call::Deleted, request).await?;
            let listed = match reply.json::<DeletedTickets>() {
                Some(list) if reply.is_success() => list.deleted_tickets,
                // The role may not see the list.
                _ if matches!(reply.status, 403 | 404) => return Ok(false),
                _ => return Err(outcome(Call::Deleted, &reply)),
            };
            if listed.iter().any(|deleted| deleted.id == number) {
                return Ok(true);
            }
            if listed.len() < PER_PAGE {
                break;
            }
        }
        Ok(false)
    }
}

#[derive(Deserialize)]
struct DeletedTickets {
    deleted_tickets: Vec<DeletedTicket>,
}

#[derive(Deserialize)]
struct DeletedTicket {
    id: u64,
}
