//! One attempt at a delivery: finds the ticket of its case and adds the changes, or creates a ticket.
//!
//! The first delivery of a case creates its ticket, and later ones add comments to it. A closed ticket is
//! followed up by another one, and a deleted ticket is replaced.

use tokio::task::block_in_place;
use tracing::{info, warn};

use crate::config::{self, Repeat, Requester, RequesterLater, Route};
use crate::destination::zendesk::plan::{Fields, Plan, RequesterUser};
use crate::destination::zendesk::ticket::{self, Draft, Profile};
use crate::destination::zendesk::{
    self, AuthorLookup, Create, Ended, Failure, StatusChange, Update, UpdateResult, Zendesk,
};
use crate::fence::Fence;
use crate::inbox::{Case, CaseTicket, Claim, Inbox};
use crate::memory::{CaseMemory, Changes, Content};
use crate::notification::{Item, Note, with_lower_network};
use crate::retry::{Action, Doubt, Outcome, Reason};

/// The number of closed or deleted tickets of one case that an attempt goes through.
const TICKETS: usize = 5;
/// The number of times that an attempt leaves out refused parts of a ticket.
const REVISIONS: i64 = 8;

/// A longer payload takes time to render, and other tasks need the thread. Handing them to another thread for
/// each short payload would cost more than it gains, and the allocator keeps freed memory for each thread.
const LONG_PAYLOAD: usize = 16 << 10;

pub struct Attempt<'a> {
    pub inbox: &'a Inbox,
    pub zendesk: &'a Zendesk,
    pub route: &'a Route,
    pub claim: &'a Claim,
    pub item: &'a Item,
    pub case: &'a Case,
    pub fence: &'a Fence<'a>,
}

/// Why an attempt stopped before the ticket had everything.
pub enum Stopped {
    Outcome(Outcome),
    /// Another process may have claimed the delivery.
    LeaseExpired,
    Storage(sqlx::Error),
}

/// The ticket that a case has.
struct CurrentTicket {
    number: String,
    /// The ticket whose memory applies: this one, or one that was merged into it.
    memory_of: String,
}

impl CurrentTicket {
    fn new(number: String) -> CurrentTicket {
        CurrentTicket { memory_of: number.clone(), number }
    }
}

impl Attempt<'_> {
    pub async fn run(&self) -> Result<Outcome, Stopped> {
        let mut current = self.current().await?;
        if current.as_ref().is_some_and(|current| self.is_sure_to_comment(current)) {
            self.zendesk.check_update_budget()?;
        }
        let mut visited: Vec<String> = Vec::new();
        for _ in 0..TICKETS {
            let Some(ticket) = current else { return self.create(None).await };
            let ended = match self.update(&ticket).await? {
                UpdateResult::CreatedBefore => return self.created_before(ticket.number).await,
                UpdateResult::Updated(action) => {
                    let memory = self.memory_after(&ticket.memory_of, action);
                    return Ok(Outcome::Done { reference: ticket.number, action, memory });
                }
                UpdateResult::Ended(ended) => ended,
            };
            visited.push(ticket.number.clone());
            if ended == Ended::Merged {
                let target = self.zendesk.merge_target(&ticket.number).await?;
                if let Some(target) = target.filter(|target| !visited.contains(target)) {
                    // The target goes on with the memory of the merged ticket, unless it has one itself.
                    let is_known = self.known(&target).is_some();
                    let memory_of = if is_known { target.clone() } else { ticket.memory_of };
                    current = Some(CurrentTicket { number: target, memory_of });
                    continue;
                }
            }
            // A resolution does not open a new ticket.
            if matches!(ended, Ended::Closed | Ended::Merged) && self.item.is_resolution() {
                let memory = self.memory(&ticket.memory_of);
                return Ok(Outcome::Done { reference: ticket.number, action: Action::Unchanged, memory });
            }
            // A delivery may have created another ticket and died before that was stored.
            let listed = self.zendesk.look_up(&self.claim.case_key).await?;
            let other = match ended {
                // The closed ticket that this one followed up does not need a second follow-up.
                Ended::Missing => listed.open.clone(),
                Ended::Closed | Ended::Merged | Ended::Deleted => listed.current(),
            };
            match other.filter(|other| !visited.contains(other)) {
                Some(other) => current = Some(CurrentTicket::new(other)),
                None => return self.replace(&ticket.number, ended, listed.merged.len()).await,
            }
        }
        let reason = Reason::new("the tickets of the case keep changing");
        Err(Outcome::Retry { reason, doubt: Doubt::None }.into())
    }

    /// Replaces this ended ticket, unless that could create a duplicate. `merged`: the number of this case's
    /// tickets that agents merged into others.
    async fn replace(&self, ticket: &str, ended: Ended, merged: usize) -> Result<Outcome, Stopped> {
        let case = &self.claim.case_key;
        match ended {
            Ended::Closed => self.create(Some(ticket)).await,
            Ended::Deleted => self.create(None).await,
            Ended::Missing if self.claim.ticket_gone || self.zendesk.is_deleted(ticket).await? => {
                self.create(None).await
            }
            Ended::Missing => Err(self.zendesk.report_hidden_ticket(case, ticket).into()),
            // Agents would only merge the next one, too.
            Ended::Merged if merged > 1 => {
                let reason = format!(
                    "ticket {ticket} was merged too and its target was not found: sort out the merge, then \
                     replay"
                );
                Err(Outcome::Dead { reason: Reason::new(reason) }.into())
            }
            Ended::Merged => {
                warn!(
                    event = "ticket_merged",
                    case,
                    ticket,
                    "ticket {ticket} was merged; its target was not found. Making one follow-up; after another \
                     merge, events are dead"
                );
                self.create(Some(ticket)).await
            }
        }
    }

    /// Returns the ticket that the case has. The inbox may be outdated once this delivery has begun to create
    /// one. If no delivery of the case was ever tried, there is none.
    async fn current(&self) -> Result<Option<CurrentTicket>, Stopped> {
        let known = match &self.case.ticket {
            CaseTicket::None if !self.may_be_done() => return self.ticket_of_old_key().await,
            CaseTicket::None | CaseTicket::Unknown => None,
            CaseTicket::Known { reference, .. } => Some(reference.clone()),
        };
        let current = match (known, &self.claim.request) {
            (Some(known), None) => Some(known),
            // The list may lack a ticket that was closed long ago.
            (known, _) => self.zendesk.look_up(&self.claim.case_key).await?.last().or(known),
        };
        match current {
            Some(current) => Ok(Some(CurrentTicket::new(current))),
            None => self.ticket_of_old_key().await,
        }
    }

    /// Returns the ticket that an earlier version created for this post, if it spelt the network in upper case.
    async fn ticket_of_old_key(&self) -> Result<Option<CurrentTicket>, Stopped> {
        let key = &self.claim.case_key;
        let company = key.match_indices(':').nth(1).map(|(colon, _)| &key[..=colon]);
        let old =
            company.zip(self.item.entity_id.as_ref()).map(|(company, entity)| format!("{company}{entity}"));
        match old.filter(|old| old != key && with_lower_network(old) == *key) {
            Some(old) => Ok(self.zendesk.look_up(&old).await?.last().map(CurrentTicket::new)),
            None => Ok(None),
        }
    }

    /// Ends a delivery whose earlier attempt created the ticket.
    async fn created_before(&self, ticket: String) -> Result<Outcome, Stopped> {
        let bytes = self.claim.request.as_deref();
        if let Some(bytes) = bytes {
            self.add_pending_requester(&ticket, Plan::of(bytes, None)).await?;
        }
        let memory = self.memory_of_created(bytes);
        Ok(Outcome::Done { reference: ticket, action: Action::Found, memory })
    }

    /// Stores that a ticket was created without its author. It has to precede settling the delivery:
    /// afterwards nothing else records it.
    async fn add_pending_requester(&self, ticket: &str, plan: Plan) -> Result<(), Stopped> {
        let is_configured = self.settings().requester_later == RequesterLater::Set;
        let is_pending = is_configured && plan.requester == RequesterUser::Pending;
        if let Some(profile) = self.profile().filter(|_| is_pending) {
            self.inbox.add_pending_requester(self.claim, ticket, &profile.key).await?;
        }
        Ok(())
    }

    /// Whether this delivery may have been done before: an earlier request was not answered, or the database
    /// was restored from a backup that does not know of it.
    fn may_be_done(&self) -> bool {
        self.claim.in_doubt || self.case.may_be_restored
    }

    fn is_sure_to_comment(&self, current: &CurrentTicket) -> bool {
        self.repeat() == Repeat::Comment || !self.changes(&current.memory_of).is_empty()
    }

    fn repeat(&self) -> Repeat {
        if self.item.is_status_change() { Repeat::New } else { self.settings().repeat }
    }

    async fn update(&self, current: &CurrentTicket) -> Result<UpdateResult, Outcome> {
        let (route, label) = (&self.claim.route, self.label());
        let changes = self.changes(&current.memory_of);
        let status_change = self.status_change(&current.memory_of);
        let update = Update {
            ticket: &current.number,
            case_key: &self.claim.case_key,
            delivery: &self.claim.identity,
            in_doubt: self.may_be_done(),
            done_if_closed_after: self.item.event_made.filter(|_| self.may_be_history(&current.memory_of)),
            changes: &changes,
            repeat: self.repeat(),
            status_change,
            urgent: self.item.is_urgent() && status_change != StatusChange::Keep,
            comment: &ticket::render_update(self.item, label, route, &changes),
            tags: &ticket::tags(self.item, label, self.settings(), None),
        };
        let updated = self.zendesk.update(&update, self.fence).await;
        // The comment may have been added although its answer said otherwise.
        updated.map_err(|outcome| if self.fence.was_passed() { outcome.in_doubt() } else { outcome })
    }

    /// Creates the ticket from bytes that are stored before they are sent. Refused parts are left out of
    /// the next revision, as long as there is something to leave out.
    async fn create(&self, closed_ticket: Option<&str>) -> Result<Outcome, Stopped> {
        let mut claim = self.claim.clone();
        let follow_up = closed_ticket.and_then(|ticket| ticket.parse().ok());
        let (mut plan, mut body) = match claim.request.take() {
            Some(frozen) => (Plan::of(&frozen, self.service_user().await?), frozen),
            None => {
                let plan = Plan { requester: self.requester().await?, fields: Fields::Configured, follow_up };
                self.freeze(&claim, plan).await?
            }
        };
        // The bytes were frozen when the case had another ticket.
        if plan.follow_up != follow_up {
            claim.revision += 1;
            (plan, body) = self.freeze(&claim, Plan { follow_up, ..plan }).await?;
        }
        loop {
            let (idempotency_key, case_key) = (&claim.idempotency_key(), &claim.case_key);
            let create = Create { body: &body, idempotency_key, case_key };
            let (reason, fields) = match self.zendesk.create(&create, self.fence).await {
                Ok(ticket) => {
                    self.add_pending_requester(&ticket, plan).await?;
                    let memory = self.memory_of_created(Some(&body));
                    return Ok(Outcome::Done { reference: ticket, action: plan.action(), memory });
                }
                Err(Failure::Outcome(outcome)) => return Err(outcome.into()),
                Err(Failure::Refused { reason, fields }) => (reason, fields),
            };
            let next = match self.next_plan(plan, &reason, &fields).await? {
                Some(next) if claim.revision < self.claim.revision + REVISIONS => next,
                _ => return Err(Outcome::Refused { reason }.into()),
            };
            claim.revision += 1;
            (plan, body) = self.freeze(&claim, next).await?;
        }
    }

    /// Renders and stores the request. Without a known service user, Zendesk could take the requester for the
    /// author of an internal comment: then the ticket goes out without its author.
    async fn freeze(&self, claim: &Claim, plan: Plan) -> Result<(Plan, String), Stopped> {
        let service_user = self.service_user().await?;
        let has_comment_author = self.settings().public || service_user.is_some();
        let requester = match plan.requester {
            RequesterUser::Author(_) if !has_comment_author => RequesterUser::Pending,
            requester => requester,
        };
        let plan = Plan { requester, ..plan };
        let draft = Draft {
            item: self.item,
            case_key: &claim.case_key,
            delivery: &claim.identity,
            route: &claim.route,
            label: self.label(),
            settings: self.settings(),
            plan,
            service_user,
        };
        let render = || ticket::render(&draft);
        let rendered = if claim.payload.len() > LONG_PAYLOAD { block_in_place(render) } else { render() };
        // Further revisions fail in the same way.
        for failure in rendered.failures.iter().filter(|_| claim.revision == self.claim.revision) {
            warn!(
                event = "template_failed",
                case = claim.case_key,
                delivery = claim.identity,
                "a template failed, sending the ticket without it; test it with `casebridge render`: {failure}"
            );
        }
        let body = rendered.ticket.to_string();
        match self.inbox.freeze(claim, &body).await? {
            true => Ok((plan, body)),
            false => Err(Stopped::LeaseExpired),
        }
    }

    /// Returns the plan after a refusal; `None` if there is nothing left to leave out.
    async fn next_plan(
        &self,
        plan: Plan,
        reason: &Reason,
        fields: &[String],
    ) -> Result<Option<Plan>, Stopped> {
        let Some(next) = plan.simpler(self.settings(), fields) else { return Ok(None) };
        if next.fields != plan.fields {
            self.zendesk.report_refused_fields(&self.claim.case_key, reason);
        }
        if plan.requester.author().is_none() || next.requester.author().is_some() {
            return Ok(Some(next));
        }
        let requester = self.other_requester(plan.requester).await?;
        if requester.author().is_none() {
            warn!(
                event = "requester_fallback",
                case = self.claim.case_key,
                "the service user is the requester: {}",
                reason.log
            );
        }
        Ok(Some(Plan { requester, ..next }))
    }

    /// Returns another user than the refused one, who may have been deleted or merged into another.
    async fn other_requester(&self, refused: RequesterUser) -> Result<RequesterUser, Stopped> {
        let Some(profile) = self.profile() else { return Ok(RequesterUser::Service) };
        self.inbox.forget_author(zendesk::NAME, &profile.key).await?;
        let other = self.requester().await?;
        Ok(if other == refused { RequesterUser::Service } else { other })
    }

    /// Returns the user of the author, or else the service user.
    async fn requester(&self) -> Result<RequesterUser, Stopped> {
        let Some(profile) = self.profile() else { return Ok(RequesterUser::Service) };
        let (requester, reason) = match find_author(self.inbox, self.zendesk, &profile).await?? {
            AuthorLookup::User(id) => return Ok(RequesterUser::Author(id)),
            AuthorLookup::Refused(reason) => (RequesterUser::Service, reason),
            AuthorLookup::Later(reason) => (RequesterUser::Pending, reason.to_owned()),
        };
        let case = &self.claim.case_key;
        info!(event = "requester_fallback", case, "the service user is the requester of {case}: {reason}");
        Ok(requester)
    }

    fn settings(&self) -> &config::Ticket {
        &self.route.ticket
    }

    fn label(&self) -> &str {
        self.route.label.as_deref().unwrap_or_default()
    }

    fn profile(&self) -> Option<Profile> {
        let is_configured = self.settings().requester == Requester::Author;
        is_configured.then(|| ticket::author_profile(self.item)).flatten()
    }

    async fn service_user(&self) -> Result<Option<u64>, Stopped> {
        match self.settings().requester {
            Requester::Author => Ok(self.zendesk.service_user().await?),
            // By default it is requester and submitter.
            Requester::Service => Ok(None),
        }
    }

    /// Returns the part of the event that a ticket does not contain yet.
    fn changes(&self, ticket: &str) -> Changes {
        self.memory(ticket).changes(&self.claim.case_key, &self.content(ticket, &self.item.notes))
    }

    /// Returns the memory of a ticket; empty for any other ticket than the one in the inbox.
    fn memory(&self, ticket: &str) -> CaseMemory {
        self.known(ticket).map(|(memory, _)| memory.clone()).unwrap_or_default()
    }

    /// Returns the memory of the case and the time of its youngest event, if it is about this ticket.
    fn known(&self, ticket: &str) -> Option<(&CaseMemory, i64)> {
        match &self.case.ticket {
            CaseTicket::Known { reference, memory, as_of } if reference == ticket => Some((memory, *as_of)),
            _ => None,
        }
    }

    /// Returns the status change of the event: none if the ticket contains a newer event.
    fn status_change(&self, ticket: &str) -> StatusChange {
        let is_past = self.memory(ticket).is_newer_than(self.item.happened());
        match self.item.is_resolution() {
            true if is_past || self.is_older(ticket) => StatusChange::Keep,
            true => StatusChange::Solved,
            // Feeds are read one after the other, so the resolution may have come before the failure.
            false if is_past && self.item.is_urgent() => StatusChange::Keep,
            false => StatusChange::Open,
        }
    }

    /// Whether the event comes from a feed and may be older than this inbox. A pushed event is in doubt only
    /// after an attempt, and then the ticket is known.
    fn may_be_history(&self, ticket: &str) -> bool {
        let is_pulled = self.claim.attempts == 1 || self.known(ticket).is_none();
        self.claim.in_doubt && is_pulled && self.claim.revision == 0 && self.claim.request.is_none()
    }

    /// Whether the event was received before another one that the ticket contains.
    fn is_older(&self, ticket: &str) -> bool {
        self.known(ticket).is_some_and(|(_, as_of)| self.claim.received_at < as_of)
    }

    /// Returns the content of the event for a ticket, without the text if the ticket has a newer one.
    fn content<'a>(&'a self, ticket: &str, notes: &'a [Note]) -> Content<'a> {
        let text = self.item.text.as_deref().filter(|_| !self.is_older(ticket));
        Content { text, ..self.full_content(notes) }
    }

    fn full_content<'a>(&'a self, notes: &'a [Note]) -> Content<'a> {
        Content {
            route: &self.claim.route,
            text: self.item.text.as_deref(),
            notes,
            repetition: self.item.repetition(),
            when: self.item.happened(),
        }
    }

    /// Returns the memory of a ticket after this event was added to it.
    fn memory_after(&self, ticket: &str, action: Action) -> CaseMemory {
        let known = self.memory(ticket);
        if action == Action::Unchanged && self.settings().repeat == Repeat::Ignore {
            return known;
        }
        let added = ticket::fitting(&self.changes(ticket).notes).to_vec();
        known.with(&self.claim.case_key, &self.content(ticket, &added))
    }

    /// Returns the memory of a ticket that was created from these bytes, or from bytes that were not kept.
    fn memory_of_created(&self, body: Option<&str>) -> CaseMemory {
        let notes = match body {
            Some(body) => ticket::notes_in_ticket(self.item, body),
            None if self.settings().public => Vec::new(),
            None => ticket::fitting(&self.item.notes).to_vec(),
        };
        CaseMemory::default().with(&self.claim.case_key, &self.full_content(&notes))
    }
}

/// Returns the user of an author from the inbox or from Zendesk, and stores a new one in the inbox.
pub async fn find_author(
    inbox: &Inbox,
    zendesk: &Zendesk,
    profile: &Profile,
) -> sqlx::Result<Result<AuthorLookup, Outcome>> {
    let known = inbox.author(zendesk::NAME, &profile.key).await?;
    if let Some(id) = known.and_then(|id| u64::try_from(id).ok()) {
        return Ok(Ok(AuthorLookup::User(id)));
    }
    let author = zendesk.author(profile).await;
    if let Ok(AuthorLookup::User(id)) = author
        && let Ok(id) = i64::try_from(id)
    {
        inbox.remember_author(zendesk::NAME, &profile.key, id).await?;
    }
    Ok(author)
}

impl From<Outcome> for Stopped {
    fn from(outcome: Outcome) -> Stopped {
        Stopped::Outcome(outcome)
    }
}

impl From<sqlx::Error> for Stopped {
    fn from(error: sqlx::Error) -> Stopped {
        Stopped::Storage(error)
    }
}
