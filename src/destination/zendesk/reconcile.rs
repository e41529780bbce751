//! The lookups of `casebridge reconcile` in Zendesk. They stay within the budget and change nothing.

use jiff::Timestamp;
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;

use super::ticket::TAG;
use super::{Call, Ticket, TicketsReply, Zendesk, outcome};
use crate::delivery::Outcome;

/// Zendesk recommends 100 results a page where tickets are archived.
const PAGE_SIZE: &str = "100";

/// A ticket with one of our `external_id`s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundTicket {
    pub number: String,
    /// Its `external_id`.
    pub case_key: String,
    pub is_open: bool,
}

/// The state of a ticket that casebridge has created or updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existence {
    /// It exists; with the time of its creation, unless its `external_id` is not that of its case.
    Exists(Option<Timestamp>),
    Deleted,
    /// It is gone for good, or the service user may not see it.
    NotFound,
}

impl Zendesk {
    /// Searches for the tickets of this company's cases that were created since. The search index lags behind by
    /// minutes, and may match more than it should or nothing at all: verify what it does not find.
    ///
    /// # Errors
    /// The outcome that an attempt would have now.
    pub async fn find_tickets(&self, company: u64, since: Timestamp) -> Result<Vec<FoundTicket>, Outcome> {
        let start = format!("khoros:{company}:");
        let found = self.export(&format!("external_id:\"khoros:{company}\""), since).await?;
        Ok(found.into_iter().filter_map(|ticket| FoundTicket::of(ticket, &start)).collect())
    }

    /// Searches for tickets with [`TAG`] that were created since and have no `external_id` of any company; returns
    /// their numbers.
    ///
    /// # Errors
    /// As [`Zendesk::find_tickets`].
    pub async fn find_tagged(&self, since: Timestamp) -> Result<Vec<String>, Outcome> {
        let found = self.export(&format!("tags:{TAG}"), since).await?;
        let has_case =
            |ticket: &Ticket| ticket.external_id.as_deref().is_some_and(|id| id.starts_with("khoros:"));
        let others = found.into_iter().filter(|ticket| ticket.has_tag(TAG) && !has_case(ticket));
        Ok(others.map(|ticket| ticket.id.to_string()).collect())
    }

    /// Returns all tickets that match a term and were created since.
    async fn export(&self, term: &str, since: Timestamp) -> Result<Vec<Ticket>, Outcome> {
        let query = format!("{term} created>={}", since.strftime("%Y-%m-%dT%H:%M:%SZ"));
        let (mut found, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let page = cursor.as_deref().map(|cursor| ("page[after]", cursor));
            let request = || {
                let query = [("filter[type]", "ticket"), ("query", &*query), ("page[size]", PAGE_SIZE)];
                self.request(Method::GET, "/api/v2/search/export").query(&query).query(page.as_slice())
            };
            let reply = self.within_budget(Call::Search, request).await?;
            let Some(ExportReply { results, meta }) = reply.json().filter(|_| reply.is_success()) else {
                return Err(outcome(Call::Search, &reply));
            };
            found.extend(results);
            match meta.after_cursor {
                Some(next) if meta.has_more && Some(&next) != cursor.as_ref() => cursor = Some(next),
                _ => return Ok(found),
            }
        }
    }

    /// Returns the numbers of the open tickets of a case, from the store itself.
    ///
    /// # Errors
    /// As [`Zendesk::find_tickets`].
    pub async fn open_tickets(&self, case_key: &str) -> Result<Vec<String>, Outcome> {
        let request = || self.request(Method::GET, "/api/v2/tickets").query(&[("external_id", case_key)]);
        let reply = self.within_budget(Call::LookUp, request).await?;
        let Some(TicketsReply { mut tickets }) = reply.json().filter(|_| reply.is_success()) else {
            return Err(outcome(Call::LookUp, &reply));
        };
        tickets.retain(|ticket| ticket.has_external_id(case_key) && ticket.is_open());
        tickets.sort_by_key(|ticket| ticket.id);
        Ok(tickets.iter().map(|ticket| ticket.id.to_string()).collect())
    }

    /// Looks for the ticket of a case by its number.
    ///
    /// # Errors
    /// As [`Zendesk::find_tickets`].
    pub async fn existence(&self, ticket: &str, case_key: &str) -> Result<Existence, Outcome> {
        let path = format!("/api/v2/tickets/{ticket}");
        let reply = self.within_budget(Call::Show, || self.request(Method::GET, &path)).await?;
        if reply.is_not_found() {
            let is_deleted = self.is_deleted(ticket).await?;
            return Ok(if is_deleted { Existence::Deleted } else { Existence::NotFound });
        }
        let shown: Option<Value> = reply.json().filter(|_| reply.is_success());
        let ticket = shown.as_ref().map_or(&Value::Null, |shown| &shown["ticket"]);
        match ticket["status"].as_str() {
            Some("deleted") => Ok(Existence::Deleted),
            Some(_) => {
                let created = ticket["created_at"].as_str().and_then(|time| time.parse().ok());
                Ok(Existence::Exists(created.filter(|_| ticket["external_id"] == case_key)))
            }
            None => Err(outcome(Call::Show, &reply)),
        }
    }

    /// Sends a request that can be repeated; waits for our share of the requests per minute.
    async fn within_budget(
        &self,
        call: Call,
        request: impl Fn() -> reqwest::RequestBuilder,
    ) -> Result<super::reply::Reply, Outcome> {
        loop {
            match self.repeatable(call, &request).await {
                Err(Outcome::Later { wait, .. }) => tokio::time::sleep(wait).await,
                result => return result,
            }
        }
    }
}

impl FoundTicket {
    fn of(ticket: Ticket, start: &str) -> Option<FoundTicket> {
        let (number, is_open) = (ticket.id.to_string(), ticket.is_open());
        let case_key = ticket.external_id.filter(|id| id.starts_with(start))?;
        Some(FoundTicket { number, case_key, is_open })
    }
}

impl Ticket {
    fn is_open(&self) -> bool {
        !self.is_closed() && !self.is_deleted()
    }
}

#[derive(Deserialize)]
struct ExportReply {
    results: Vec<Ticket>,
    meta: ExportMeta,
}

#[derive(Deserialize)]
struct ExportMeta {
    #[serde(default)]
    has_more: bool,
    after_cursor: Option<String>,
}
