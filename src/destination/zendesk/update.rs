//! Updates the existing ticket of a case: adds an internal comment with the changes, and the tags of the route.
//!
//! Comments have no idempotency key. Each carries the delivery's identity in its metadata, which is shown in
//! the ticket's audits and not to customers. If an earlier attempt may have added the comment, the audits are
//! searched for it. `safe_update` refuses an update if the ticket has changed since it was read.

use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use super::audits::{Audit, Search};
use super::merge::MERGED_TAG;
use super::reply::Reply;
use super::settings::ticket::Repeat;
use super::{Call, Ticket, TicketReply, Zendesk, outcome};
use crate::delivery::{Action, Doubt, Outcome, Reason};
use crate::destination::html::Html;
use crate::destination::zendesk::memory::Changes;
use crate::ledger::{Ledger, Stopped};

/// The number of attempts to update a ticket that others change at the same time.
pub(super) const COLLISIONS: usize = 4;
/// Pages of 100 audits: a ticket takes 5,000 comments.
const PAGES: usize = 50;

/// The changes of an event for the ticket of its case.
pub struct Update<'a> {
    pub ticket: &'a str,
    pub case_key: &'a str,
    /// The delivery's identity, by which its comment is recognized.
    pub delivery: &'a str,
    /// The comment may have been added already.
    pub in_doubt: bool,
    /// If set, the event may be from long ago: a ticket that was closed after this time needs no follow-up, and an
    /// adopted one that was changed after it is not reopened.
    pub done_if_closed_after: Option<Timestamp>,
    pub changes: &'a Changes,
    /// If the ticket is adopted: the link of the post, which its `external_id` is until it becomes the case key.
    pub adopted_by: Option<&'a str>,
    pub repeat: Repeat,
    pub status_change: StatusChange,
    /// Raises the priority.
    pub urgent: bool,
    /// Other destinations follow.
    pub is_followed: bool,
    pub comment: &'a Html,
    /// The tags of the route, in case another route created the ticket.
    pub tags: &'a [String],
}

impl Update<'_> {
    fn has_changes(&self) -> bool {
        self.adopted_by.is_some() || self.repeat == Repeat::Comment || !self.changes.is_empty()
    }

    /// Whether the ticket, which was to be adopted, has become that of another case.
    fn is_taken(&self, ticket: &Ticket) -> bool {
        let is_free = |link| ticket.has_external_id(link) || ticket.is_of(self.case_key);
        self.adopted_by.is_some_and(|link| !is_free(link))
    }

    /// An adopted ticket gets no comment if repeated events are ignored.
    fn action(&self, status_change: StatusChange, ticket: &Ticket) -> Action {
        match self.repeat {
            Repeat::Ignore => Action::Unchanged,
            Repeat::New | Repeat::Comment => status_change.action(ticket),
        }
    }
}

/// The status of a ticket after the update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusChange {
    /// Opens it if it is solved.
    Open,
    Solved,
    Keep,
}

/// The result of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateResult {
    /// An earlier attempt of this delivery created the ticket.
    CreatedBefore,
    /// The ticket contains everything.
    Updated(Action),
    /// The ticket takes no updates any longer.
    Ended(Ended),
}

/// Why a ticket takes no updates any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Closed,
    /// Agents merged it into another ticket.
    Merged,
    Deleted,
    /// Another case has adopted it.
    Taken,
    /// It is not found: it was deleted, or we may not see it.
    Missing,
}

impl Zendesk {
    /// Adds the changes to the ticket, once. A repeated call is safe if `Update` says that the delivery is in
    /// doubt. Checks the fence before the first byte of a comment goes out.
    ///
    /// # Errors
    /// The outcome of a failed attempt.
    pub async fn update(&self, update: &Update<'_>, ledger: &Ledger<'_>) -> Result<UpdateResult, Stopped> {
        const UNCHANGED: UpdateResult = UpdateResult::Updated(Action::Unchanged);
        let mut in_doubt = update.in_doubt;
        let mut to_tag = update.changes.other_route;
        let mut status_change = update.status_change;
        for _ in 0..COLLISIONS {
            let ticket = match self.show(update.ticket).await? {
                Some(ticket) if ticket.is_deleted() => return Ok(UpdateResult::Ended(Ended::Deleted)),
                Some(ticket) => ticket,
                None => return Ok(UpdateResult::Ended(Ended::Missing)),
            };
            if in_doubt && let Some(result) = self.earlier_result(update).await? {
                return Ok(result);
            }
            if update.is_taken(&ticket) {
                return Ok(UpdateResult::Ended(Ended::Taken));
            }
            if update.repeat == Repeat::Ignore && (ticket.is_closed() || update.adopted_by.is_none()) {
                return Ok(UNCHANGED);
            }
            let is_past = update.done_if_closed_after.is_some_and(|event| ticket.changed_after(event));
            if ticket.is_closed() {
                return Ok(if is_past { UNCHANGED } else { ticket.ended() });
            }
            if !update.has_changes() && !ticket.is_solved() {
                return Ok(UNCHANGED);
            }
            if update.adopted_by.is_some() && is_past {
                status_change = StatusChange::Keep;
            }
            // Agents merged our ticket into another case's: do not solve that one or raise its priority.
            if !ticket.is_of(update.case_key) && status_change == StatusChange::Solved {
                status_change = StatusChange::Keep;
            }
            let result = match to_tag && !update.tags.iter().all(|tag| ticket.has_tag(tag)) {
                true => self.add_tags(update).await?,
                false => self.comment(update, &ticket, status_change, ledger).await?,
            };
            match result {
                Change::Accepted => return Ok(UpdateResult::Updated(update.action(status_change, &ticket))),
                // The tags changed `updated_at`, so the ticket has to be read again.
                Change::Tagged => to_tag = false,
                // The change may have been an earlier attempt of our own.
                Change::Collision => in_doubt = true,
                // For example, the ticket has no assignee, or a required field is empty.
                Change::Refused(_) if status_change == StatusChange::Solved => {
                    status_change = StatusChange::Keep;
                }
                // The ticket may have been closed in the meantime.
                Change::Refused(outcome) => {
                    return match self.show(update.ticket).await? {
                        Some(ticket) if ticket.is_closed() => Ok(ticket.ended()),
                        _ => Err(outcome.into()),
                    };
                }
            }
        }
        Err(too_many_collisions().into())
    }

    /// Returns the ticket; `None` if it is not found.
    pub(super) async fn show(&self, ticket: &str) -> Result<Option<Ticket>, Outcome> {
        let path = format!("/api/v2/tickets/{ticket}");
        let reply = self.repeatable(Call::Show, || self.request(Method::GET, &path)).await?;
        match shown(&reply, ticket) {
            Some(ticket) => Ok(Some(ticket)),
            None if reply.is_not_found() => Ok(None),
            None => Err(outcome(Call::Show, &reply)),
        }
    }

    /// Searches the audits for the result of an earlier attempt of this delivery.
    async fn earlier_result(&self, update: &Update<'_>) -> Result<Option<UpdateResult>, Outcome> {
        let find = |audit: &Audit| {
            let is_ours = audit.metadata["custom"]["delivery"] == update.delivery;
            is_ours.then(|| match audit.is_create() {
                true => UpdateResult::CreatedBefore,
                false => UpdateResult::Updated(Action::Found),
            })
        };
        match self.search_audits(update.ticket, PAGES, find).await? {
            Search::Found(result) => Ok(Some(result)),
            Search::Absent => Ok(None),
            Search::Forbidden(outcome) => Err(outcome),
        }
    }

    /// Adds the tags. In an update of the ticket they would replace those of the agents.
    async fn add_tags(&self, update: &Update<'_>) -> Result<Change, Outcome> {
        let path = format!("/api/v2/tickets/{}/tags", update.ticket);
        let request = || self.request(Method::PUT, &path).json(&json!({ "tags": update.tags }));
        let reply = self.repeatable(Call::Tags, request).await?;
        match reply.is_success() && reply.json::<Value>().is_some_and(|body| body["tags"].is_array()) {
            true => Ok(Change::Tagged),
            false => rejected(Call::Tags, &reply),
        }
    }

    async fn comment(
        &self,
        update: &Update<'_>,
        ticket: &Ticket,
        status_change: StatusChange,
        ledger: &Ledger<'_>,
    ) -> Result<Change, Stopped> {
        let action = update.action(status_change, ticket);
        let mut changes = guarded_comment(update.comment, update.delivery, ticket);
        if action == Action::Unchanged
            && let Some(fields) = changes.as_object_mut()
        {
            fields.remove("comment");
        }
        match action {
            Action::Reopened => changes["status"] = json!("open"),
            Action::Solved => changes["status"] = json!("solved"),
            _ => {}
        }
        if update.adopted_by.is_some() {
            changes["external_id"] = json!(update.case_key);
        }
        // One update instead of two: if an agent changes the tags in the meantime, `safe_update` refuses it.
        if let (Some(_), Some(tags)) = (update.adopted_by, &ticket.tags)
            && action != Action::Unchanged
        {
            let missing = update.tags.iter().filter(|tag| !tags.contains(tag));
            changes["tags"] = json!(tags.iter().chain(missing).collect::<Vec<_>>());
        }
        let has_priority = matches!(ticket.priority.as_deref(), Some("urgent" | "high"));
        if update.urgent && !has_priority && ticket.is_of(update.case_key) {
            changes["priority"] = json!("high");
        }
        if update.is_followed {
            // An attempt that finds the comment says what it did.
            ledger.note(action.name()).await?;
        }
        let path = format!("/api/v2/tickets/{}", update.ticket);
        let request = || self.request(Method::PUT, &path).json(&json!({ "ticket": changes }));
        let reply = self.call(Call::Comment, request, Some(ledger)).await?;
        match shown(&reply, update.ticket) {
            Some(_) => Ok(Change::Accepted),
            None => Ok(rejected(Call::Comment, &reply)?),
        }
    }
}

/// The body of an internal comment, which Zendesk refuses if the ticket has changed since it was read.
pub(super) fn guarded_comment(comment: &Html, delivery: &str, ticket: &Ticket) -> Value {
    json!({
        "comment": { "html_body": comment.as_str(), "public": false },
        "metadata": { "delivery": delivery },
        "safe_update": true,
        "updated_stamp": ticket.updated_at,
    })
}

/// The result of one request to change a ticket.
enum Change {
    Accepted,
    Tagged,
    /// Somebody else changed or deleted the ticket first.
    Collision,
    /// Zendesk refused the change, with this outcome unless the ticket is closed.
    Refused(Outcome),
}

fn rejected(call: Call, reply: &Reply) -> Result<Change, Outcome> {
    match reply.status {
        409 => Ok(Change::Collision),
        404 if reply.is_not_found() => Ok(Change::Collision),
        422 => Ok(Change::Refused(outcome(call, reply))),
        _ => Err(outcome(call, reply)),
    }
}

pub(super) fn too_many_collisions() -> Outcome {
    let reason = Reason::new("the ticket kept changing while casebridge tried to update it");
    Outcome::Retry { reason, doubt: Doubt::None }
}

/// Returns the ticket in an answer, if it is the requested one.
pub(super) fn shown(reply: &Reply, number: &str) -> Option<Ticket> {
    let ticket = reply.json::<TicketReply>().filter(|_| reply.is_success())?.ticket;
    (ticket.id.to_string() == number).then_some(ticket)
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
    fn has_status(&self, status: &str) -> bool {
        self.status.as_deref() == Some(status)
    }

    pub fn is_closed(&self) -> bool {
        self.has_status("closed")
    }

    pub fn is_deleted(&self) -> bool {
        self.has_status("deleted")
    }

    fn is_solved(&self) -> bool {
        self.has_status("solved")
    }

    pub fn is_merged(&self) -> bool {
        self.is_closed() && self.has_tag(MERGED_TAG)
    }

    /// Why this closed ticket has ended.
    fn ended(&self) -> UpdateResult {
        UpdateResult::Ended(if self.is_merged() { Ended::Merged } else { Ended::Closed })
    }

    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().flatten().any(|own| own == tag)
    }

    /// Whether the last change came after `moment`. Of a closed ticket, that is when it was closed.
    fn changed_after(&self, moment: Timestamp) -> bool {
        let changed = self.updated_at.as_deref().and_then(|changed| changed.parse::<Timestamp>().ok());
        changed.is_some_and(|changed| changed > moment)
    }
}
