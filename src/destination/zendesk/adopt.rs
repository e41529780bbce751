//! Adopts tickets that the 2017 example created, so that their posts get no second ticket.
//!
//! The example set the `external_id` of a ticket to the link of its post, and its subject to
//! `Case from Social Network {entityId}`. Several posts can share a link, such as the comments on one picture.

use jiff::Timestamp;
use reqwest::Method;
use serde::Deserialize;
use tracing::{info, warn};

use super::attempt::{Attempt, CurrentTicket};
use super::{ADOPTED, Call, Ticket, Zendesk, outcome};
use crate::delivery::Outcome;
use crate::destination::html::Html;
use crate::ledger::Stopped;

/// Pages of 100 results, the best ones first.
const PAGES: usize = 3;
const SUBJECT_START: &str = "Case from Social Network ";

impl Attempt<'_> {
    /// Returns the ticket that the 2017 example created for this post. Call it only if the case has no ticket of
    /// its own.
    pub(super) async fn ticket_to_adopt(&self) -> Result<Option<CurrentTicket>, Stopped> {
        let is_on = self.zendesk.settings.adopt_until.is_some_and(|until| Timestamp::now() < until);
        let link = self.item.link.as_deref().filter(|_| is_on && self.item.report.is_none());
        let Some(link) = link else { return Ok(None) };
        let (memos, case) = (self.ledger.memos(), &self.claim.case_key);
        if let Some(ticket) = memos.recall(ADOPTED, case).await? {
            return Ok(Some(CurrentTicket::adopted(ticket)));
        }
        // The search precedes freezing, so it found nothing.
        if self.claim.request.is_some() {
            return Ok(None);
        }
        let post = self.item.entity_id.as_deref().unwrap_or_default();
        let Some(ticket) = self.zendesk.search_by_link(link, post).await? else { return Ok(None) };
        // If this attempt fails, the next one adopts the same ticket without another search.
        memos.remember(ADOPTED, case, &ticket).await?;
        info!(
            event = "ticket_adopted",
            case, ticket, "adopting ticket {ticket} of the 2017 example for {case}"
        );
        Ok(Some(CurrentTicket::adopted(ticket)))
    }
}

impl Zendesk {
    /// Logs that adoption is on.
    pub(super) fn log_adoption(&self) {
        if let Some(until) = self.settings.adopt_until {
            info!(
                event = "adoption_enabled",
                %until,
                "searching for tickets of the 2017 example before creating new ones, until {until}"
            );
        }
    }

    /// Returns the ticket whose `external_id` is this link. Prefers open to closed tickets, closed to merged ones, and
    /// then the newest. Uses the search because lists omit archived tickets. The search index lags behind by minutes,
    /// which does not matter for tickets that have not changed for longer.
    ///
    /// # Errors
    /// The outcome of the attempt that needs the answer.
    async fn search_by_link(&self, link: &str, post: &str) -> Result<Option<String>, Outcome> {
        // Zendesk documents no way to escape a quotation mark; the index ignores punctuation.
        let query = format!("type:ticket external_id:\"{}\"", link.replace(['"', '\\'], " "));
        let mut found: Vec<Ticket> = Vec::new();
        for page in 1..=PAGES {
            let page = page.to_string();
            let request =
                || self.request(Method::GET, "/api/v2/search").query(&[("query", &query), ("page", &page)]);
            let reply = self.repeatable(Call::Search, request).await?;
            // It says something of this link alone, and a second ticket is better than none.
            if matches!(reply.status, 400 | 413 | 422) {
                warn!(
                    event = "adoption_search_refused",
                    status = reply.status,
                    "Zendesk refused to search for an old ticket by its link, creating a ticket: look for a duplicate"
                );
                return Ok(None);
            }
            let Some(SearchReply { results, next_page }) = reply.json().filter(|_| reply.is_success()) else {
                return Err(outcome(Call::Search, &reply));
            };
            found.extend(results.into_iter().filter(|ticket| ticket.is_of_link(link, post)));
            if next_page.is_none() {
                break;
            }
        }
        let newest = found.iter().max_by_key(|ticket| (!ticket.is_closed(), !ticket.is_merged(), ticket.id));
        Ok(newest.map(|ticket| ticket.id.to_string()))
    }
}

impl Ticket {
    /// The index may match parts of a link. A subject that the example wrote for another post excludes the ticket.
    fn is_of_link(&self, link: &str, post: &str) -> bool {
        let named = self.subject.as_deref().and_then(|subject| subject.strip_prefix(SUBJECT_START));
        let is_of_other_post = named.is_some_and(|named| !named.trim().eq_ignore_ascii_case(post));
        self.has_external_id(link) && !is_of_other_post && !self.is_deleted()
    }

    pub(super) fn has_external_id(&self, id: &str) -> bool {
        self.external_id.as_deref() == Some(id)
    }
}

/// The first paragraph of the comment on an adopted ticket. It keeps the link that was the `external_id`.
pub(super) fn notice(link: &str) -> Html {
    let link = Html::link(link);
    Html::from_template(&format!("<p>casebridge continues this ticket for the post {}</p>", link.as_str()))
}

#[derive(Deserialize)]
struct SearchReply {
    results: Vec<Ticket>,
    next_page: Option<String>,
}
