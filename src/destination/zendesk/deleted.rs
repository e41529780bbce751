//! Finds out whether a missing ticket was deleted: Zendesk also answers 404 for a ticket that the service user may
//! not see.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::Value;
use tokio::sync::Mutex;

use super::{Call, Zendesk, outcome};
use crate::delivery::Outcome;

/// Pages of 100 tickets: Zendesk answers 10 such requests a minute.
const PAGES: usize = 5;
const PER_PAGE: usize = 100;

/// How long the list is believed.
const FRESH: Duration = Duration::from_secs(60);

/// A cache of Zendesk's list of deleted tickets, and when it was read. Concurrent deliveries wait for one
/// request.
#[derive(Default)]
pub struct DeletedTickets(Mutex<Option<(Instant, HashSet<u64>)>>);

impl Zendesk {
    /// Whether the ticket is among those that were deleted last. The list contains neither tickets that were
    /// deleted permanently nor those that were deleted more than 30 days ago
    /// (<https://developer.zendesk.com/api-reference/ticketing/tickets/tickets/#list-deleted-tickets>).
    ///
    /// # Errors
    /// The outcome of the attempt that needs the answer.
    pub async fn is_deleted(&self, ticket: &str) -> Result<bool, Outcome> {
        let Ok(number) = ticket.parse::<u64>() else { return Ok(false) };
        let mut listed = self.deleted.0.lock().await;
        if listed.as_ref().is_none_or(|(at, _)| at.elapsed() >= FRESH) {
            *listed = Some((Instant::now(), self.deleted_tickets().await?));
        }
        Ok(listed.as_ref().is_some_and(|(_, deleted)| deleted.contains(&number)))
    }

    /// Returns the tickets that were deleted last; none if the role may not see the list.
    pub(super) async fn deleted_tickets(&self) -> Result<HashSet<u64>, Outcome> {
        let mut deleted = HashSet::new();
        for page in 1..=PAGES {
            let page = page.to_string();
            let query =
                [("sort_by", "deleted_at"), ("sort_order", "desc"), ("per_page", "100"), ("page", &page)];
            let request = || self.request(Method::GET, "/api/v2/deleted_tickets").query(&query);
            let reply = self.repeatable(Call::Deleted, request).await?;
            let body = reply.json::<Value>().unwrap_or_default();
            let listed = match body["deleted_tickets"].as_array() {
                Some(list) if reply.is_success() => list,
                // The role may not see the list.
                _ if matches!(reply.status, 403 | 404) => break,
                _ => return Err(outcome(Call::Deleted, &reply)),
            };
            deleted.extend(listed.iter().filter_map(|ticket| ticket["id"].as_u64()));
            if listed.len() < PER_PAGE {
                break;
            }
        }
        Ok(deleted)
    }
}
