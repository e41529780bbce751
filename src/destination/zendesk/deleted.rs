//! Finds out whether a missing ticket was deleted: Zendesk also answers 404 for a ticket that the service user may
//! not see.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::{Call, Zendesk, outcome};
use crate::retry::Outcome;

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
        match &*listed {
            Some((at, deleted)) if at.elapsed() < FRESH => Ok(deleted.contains(&number)),
            _ => {
                let deleted = self.deleted_tickets().await?;
                let is_deleted = deleted.contains(&number);
                *listed = Some((Instant::now(), deleted));
                Ok(is_deleted)
            }
        }
    }

    async fn deleted_tickets(&self) -> Result<HashSet<u64>, Outcome> {
        let mut deleted = HashSet::new();
        for page in 1..=PAGES {
            let page = page.to_string();
            let query =
                [("sort_by", "deleted_at"), ("sort_order", "desc"), ("per_page", "100"), ("page", &page)];
            let request = || self.request(Method::GET, "/api/v2/deleted_tickets").query(&query);
            let reply = self.repeatable(Call::Deleted, request).await?;
            let listed = match reply.json::<DeletedReply>() {
                Some(list) if reply.is_success() => list.deleted_tickets,
                // The role may not see the list.
                _ if matches!(reply.status, 403 | 404) => break,
                _ => return Err(outcome(Call::Deleted, &reply)),
            };
            let is_last = listed.len() < PER_PAGE;
            deleted.extend(listed.into_iter().map(|ticket| ticket.id));
            if is_last {
                break;
            }
        }
        Ok(deleted)
    }
}

#[derive(Deserialize)]
struct DeletedReply {
    deleted_tickets: Vec<DeletedTicket>,
}

#[derive(Deserialize)]
struct DeletedTicket {
    id: u64,
}
