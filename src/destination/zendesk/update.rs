//! A later event about a post that has its ticket: an internal comment that tells what is new.
//!
//! Comments have no idempotency key. Each carries the delivery's identity in its metadata, which the
//! ticket's history shows and no customer; where one may have been added already, it is looked for.
//! `safe_update` refuses what would be added to another ticket than the one that was looked at.

use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use super::audits::{Audit, Search};
use super::merge::MERGED_TAG;
use super::reply::Reply;
use super::{Call, Ticket, TicketReply, Zendesk, outcome};
use crate::config::Repeat;
use crate::fence::Fence;
use crate::html::Html;
use crate::memory::Changes;
use crate::retry::{Action, Doubt, Outcome, Reason};

/// So often somebody else may be quicker before we wait.
const COLLISIONS: usize = 4;
/// Of a hundred each: a ticket takes 5,000 comments.
const PAGES: usize = 50;

/// What is new about a case, for its ticket.
pub struct Update<'a> {
    pub ticket: &'a str,
    pub case_key: &'a str,
    /// The delivery's identity, by which what it has done is known again.
    pub delivery: &'a str,
    /// It may have been told already.
    pub in_doubt: bool,
    /// Set if the event may be long done with: a ticket that was closed after this is not gone on with.
    pub past: Option<Timestamp>,
    pub changes: &'a Changes,
    pub repeat: Repeat,
    pub status_change: StatusChange,
    /// It comes before others from now on.
    pub urgent: bool,
    pub comment: &'a Html,
    /// Those of the route, for a ticket that another one made.
    pub tags: &'a [String],
}

/// What becomes of a ticket once it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusChange {
    /// It is open, and again so if it was solved.
    Open,
    /// It is solved: its matter is closed.
    Solved,
    /// What it was.
    Keep,
}

/// What a ticket that was to be told something turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateResult {
    /// This delivery made it, earlier.
    CreatedBefore,
    /// It holds what there is to tell.
    Updated(Action),
    /// It takes nothing any more.
    Ended(Ended),
}

/// Why a ticket takes nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Another one has to go on with it.
    Closed,
    /// Agents merged it into another.
    Merged,
    Deleted,
    /// It is not found: it was deleted, or we may not see it.
    Missing,
}

impl Update<'_> {
    fn is_sure_to_comment(&self) -> bool {
        self.repeat == Repeat::Comment || !self.changes.is_empty()
    }
}

impl Zendesk {
    /// Adds what the ticket does not contain yet, once. A repeated call is safe if `Update` says that the
    /// delivery is in doubt. Checks the fence before the first byte of a comment goes out.
    ///
    /// # Errors
    /// The outcome of an attempt that came to no end.
    pub async fn update(&self, update: &Update<'_>, fence: &Fence<'_>) -> Result<UpdateResult, Outcome> {
        let mut in_doubt = update.in_doubt;
        let mut to_tag = update.changes.other_route;
        let mut status_change = update.status_change;
        for _ in 0..COLLISIONS {
            let ticket = match self.show(update.ticket).await? {
                Some(ticket) if ticket.is_deleted() => return Ok(UpdateResult::Ended(Ended::Deleted)),
                Some(ticket) => ticket,
                None => return Ok(UpdateResult::Ended(Ended::Missing)),
            };
            if in_doubt && let Some(standing) = self.marked(update).await? {
                return Ok(standing);
            }
            if update.repeat == Repeat::Ignore {
                return Ok(UpdateResult::Updated(Action::Unchanged));
            }
            if ticket.is_closed() {
                let is_past = update.past.is_some_and(|past| ticket.was_closed_after(past));
                return Ok(if is_past { UpdateResult::Updated(Action::Unchanged) } else { ticket.closed() });
            }
            if !(update.is_sure_to_comment() || ticket.is_solved()) {
                return Ok(UpdateResult::Updated(Action::Unchanged));
            }
            // Agents merged our ticket into another case's: do not solve that one or raise its priority.
            let is_foreign = !ticket.is_of(update.case_key);
            if is_foreign && status_change == StatusChange::Solved {
                status_change = StatusChange::Keep;
            }
            let change = match to_tag && !ticket.has(update.tags) {
                true => self.add_tags(update).await?,
                false => self.comment(update, &ticket, status_change, fence).await?,
            };
            match change {
                Change::Accepted => return Ok(UpdateResult::Updated(status_change.action(&ticket))),
                // It is to be looked at again, with its tags.
                Change::Tagged => to_tag = false,
                // What changed it may have been an earlier attempt of our own.
                Change::ByOthers => in_doubt = true,
                // As of a ticket without an assignee, or with a required field that is empty.
                Change::Refused(_) if status_change == StatusChange::Solved => {
                    status_change = StatusChange::Keep
                }
                Change::Refused(outcome) => return self.closed_or(update, outcome).await,
            }
        }
        Err(Outcome::Retry {
            reason: Reason::new("the ticket kept changing while casebridge tried to update it"),
            doubt: Doubt::None,
        })
    }

    /// A ticket that was closed in the meantime takes nothing any more.
    async fn closed_or(&self, update: &Update<'_>, outcome: Outcome) -> Result<UpdateResult, Outcome> {
        match self.show(update.ticket).await? {
            Some(ticket) if ticket.is_closed() => Ok(ticket.closed()),
            _ => Err(outcome),
        }
    }

    /// `None`: it is not found.
    pub(super) async fn show(&self, ticket: &str) -> Result<Option<Ticket>, Outcome> {
        let path = format!("/api/v2/tickets/{ticket}");
        let reply = self.repeatable(Call::Show, || self.request(Method::GET, &path)).await?;
        match shown(&reply, ticket) {
            Some(ticket) => Ok(Some(ticket)),
            None if is_not_found(&reply) => Ok(None),
            None => Err(outcome(Call::Show, &reply)),
        }
    }

    /// What this delivery has done to the ticket already: made it, or added its comment.
    async fn marked(&self, update: &Update<'_>) -> Result<Option<UpdateResult>, Outcome> {
        let mark = |audit: &Audit| {
            let is_ours = audit.metadata["custom"]["delivery"] == update.delivery;
            is_ours.then(|| {
                if audit.is_create() {
                    UpdateResult::CreatedBefore
                } else {
                    UpdateResult::Updated(Action::Found)
                }
            })
        };
        match self.search_audits(update.ticket, PAGES, mark).await? {
            Search::Found(standing) => Ok(Some(standing)),
            Search::Absent => Ok(None),
            Search::Hidden(outcome) => Err(outcome),
        }
    }

    /// Tags that are sent with the ticket would replace those of the agents; here they are added.
    async fn add_tags(&self, update: &Update<'_>) -> Result<Change, Outcome> {
        let path = format!("/api/v2/tickets/{}/tags", update.ticket);
        let request = || self.request(Method::PUT, &path).json(&json!({ "tags": update.tags }));
        let reply = self.repeatable(Call::Tags, request).await?;
        match reply.is_success() && reply.json::<Value>().is_some_and(|body| body["tags"].is_array()) {
            true => Ok(Change::Tagged),
            false => too_late(Call::Tags, &reply),
        }
    }

    async fn comment(
        &self,
        update: &Update<'_>,
        ticket: &Ticket,
        status_change: StatusChange,
        fence: &Fence<'_>,
    ) -> Result<Change, Outcome> {
        let mut changes = json!({
            "comment": { "html_body": update.comment.as_str(), "public": false },
            "metadata": { "delivery": update.delivery },
            "safe_update": true,
            "updated_stamp": ticket.updated_at,
        });
        match (status_change, ticket.is_solved()) {
            (StatusChange::Open, true) => changes["status"] = json!("open"),
            (StatusChange::Solved, false) => changes["status"] = json!("solved"),
            (StatusChange::Open, false) | (StatusChange::Solved, true) | (StatusChange::Keep, _) => {}
        }
        if update.urgent && !ticket.is_urgent() && ticket.is_of(update.case_key) {
            changes["priority"] = json!("high");
        }
        let path = format!("/api/v2/tickets/{}", update.ticket);
        let request = || self.request(Method::PUT, &path).json(&json!({ "ticket": changes }));
        let reply = self.call(Call::Comment, request, Some(fence)).await?;
        match shown(&reply, update.ticket) {
            Some(_) => Ok(Change::Accepted),
            None => too_late(Call::Comment, &reply),
        }
    }
}

/// What a request to change a ticket has come to.
enum Change {
    Accepted,
    Tagged,
    /// Nothing: somebody was quicker and changed or deleted it. The next look tells which.
    ByOthers,
    /// Nothing, and this is why unless the ticket is closed.
    Refused(Outcome),
}

fn too_late(call: Call, reply: &Reply) -> Result<Change, Outcome> {
    match reply.status {
        409 => Ok(Change::ByOthers),
        404 if is_not_found(reply) => Ok(Change::ByOthers),
        422 => Ok(Change::Refused(outcome(call, reply))),
        _ => Err(outcome(call, reply)),
    }
}

/// The ticket that an answer shows, if it is the one that was asked for.
pub(super) fn shown(reply: &Reply, number: &str) -> Option<Ticket> {
    let ticket = reply.json::<TicketReply>().filter(|_| reply.is_success())?.ticket;
    (ticket.id.to_string() == number).then_some(ticket)
}

/// Not any 404: that of a wrong address must not look like a ticket that was deleted.
pub(super) fn is_not_found(reply: &Reply) -> bool {
    reply.status == 404 && reply.says("RecordNotFound")
}

impl StatusChange {
    fn action(self, ticket: &Ticket) -> Action {
        match (self, ticket.is_solved()) {
            (StatusChange::Open, true) => Action::Reopened,
            (StatusChange::Solved, false) => Action::Solved,
            (StatusChange::Open, false) | (StatusChange::Solved, true) | (StatusChange::Keep, _) => {
                Action::Commented
            }
        }
    }
}

impl Ticket {
    pub fn is_closed(&self) -> bool {
        self.status.as_deref() == Some("closed")
    }

    /// What a closed ticket is to a delivery.
    fn closed(&self) -> UpdateResult {
        UpdateResult::Ended(if self.is_merged() { Ended::Merged } else { Ended::Closed })
    }

    pub fn is_merged(&self) -> bool {
        self.is_closed() && self.has_tag(MERGED_TAG)
    }

    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().flatten().any(|held| held == tag)
    }

    /// Nobody changes a closed ticket any more.
    fn was_closed_after(&self, moment: Timestamp) -> bool {
        let changed = self.updated_at.as_deref().and_then(|changed| changed.parse::<Timestamp>().ok());
        self.is_closed() && changed.is_some_and(|changed| changed > moment)
    }

    fn is_urgent(&self) -> bool {
        matches!(self.priority.as_deref(), Some("urgent" | "high"))
    }

    pub fn is_deleted(&self) -> bool {
        self.status.as_deref() == Some("deleted")
    }

    fn has(&self, tags: &[String]) -> bool {
        tags.iter().all(|tag| self.has_tag(tag))
    }

    fn is_solved(&self) -> bool {
        self.status.as_deref() == Some("solved")
    }
}
