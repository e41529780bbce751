//! One attempt at a delivery: finds the ticket of its case and adds the changes, or creates a ticket.
//!
//! The first delivery of a case creates its ticket, and later ones add comments to it. A closed ticket is
//! followed up by another one, and a deleted ticket is replaced.

use tokio::task::block_in_place;
use tracing::{info, warn};

use super::memory::{CaseMemory, Changes, Content};
use super::plan::{Decision, Fields, Plan, RequesterUser};
use super::settings::ticket::{Repeat, Requester, RequesterLater, Ticket};
use super::ticket::{self, Draft, Profile};
use super::{
    AUTHORS, AuthorLookup, Create, Ended, Failure, REQUESTERS, StatusChange, Update, UpdateResult, Zendesk,
    legacy,
};
use crate::delivery::{Action, Cause, Claim, Doubt, History, Latest, Origin, Outcome, Reason};
use crate::destination::Job;
use crate::item::{Item, Note, with_lower_network};
use crate::ledger::{Ledger, Memos, Stopped};

/// The number of closed or deleted tickets of one case that an attempt goes through.
const TICKETS: usize = 5;
/// The number of times that an attempt leaves out refused parts of a ticket.
const REVISIONS: i64 = 8;

/// A longer payload takes time to render, and other tasks need the thread. Handing them to another thread for
/// each short payload would cost more than it gains, and the allocator keeps freed memory for each thread.
const LONG_PAYLOAD: usize = 16 << 10;

struct Attempt<'a> {
    zendesk: &'a Zendesk,
    ledger: &'a Ledger<'a>,
    settings: &'a Ticket,
    /// The label of the route: the event itself may lack it.
    label: &'a str,
    claim: &'a Claim,
    item: &'a Item,
    history: History,
    /// What the case memory was when its latest delivery was done; empty if there is none.
    memory: CaseMemory,
}

impl Zendesk {
    /// Attempts a delivery.
    ///
    /// # Errors
    /// It stopped before the ticket had everything.
    pub async fn attempt(&self, job: &Job<'_>, ledger: &Ledger<'_>) -> Result<Outcome, Stopped> {
        let Job { claim, item, route } = *job;
        let history = ledger.history().await?;
        let memory = match &history.latest {
            Latest::Done { memo, .. } => CaseMemory::from_memo(memo),
            Latest::None | Latest::Unknown => CaseMemory::default(),
        };
        let (settings, label) =
            (self.settings.ticket(&claim.route), route.label.as_deref().unwrap_or_default());
        let attempt = Attempt { zendesk: self, ledger, settings, label, claim, item, history, memory };
        attempt.run().await
    }
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
    async fn run(&self) -> Result<Outcome, Stopped> {
        if let (Some(reference), true) = (self.reference(), self.is_ignored()) {
            return Ok(self.done(reference.to_owned(), Action::Ignored, &self.memory));
        }
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
                    let completed = if action == Action::Found { self.noted() } else { action };
                    return Ok(self.done_as(ticket.number, action, completed, &memory));
                }
                UpdateResult::Ended(ended) => ended,
            };
            visited.push(ticket.number.clone());
            if ended == Ended::Merged {
                let target = self.zendesk.merge_target(&ticket.number).await?;
                if let Some(target) = target.filter(|target| !visited.contains(target)) {
                    // The target goes on with the memory of the merged ticket, unless it has one itself.
                    let is_known = self.reference() == Some(target.as_str());
                    let memory_of = if is_known { target.clone() } else { ticket.memory_of };
                    current = Some(CurrentTicket { number: target, memory_of });
                    continue;
                }
            }
            // A resolution does not open a new ticket.
            if matches!(ended, Ended::Closed | Ended::Merged) && self.item.is_resolution() {
                let memory = self.memory(&ticket.memory_of);
                return Ok(self.done(ticket.number, Action::Unchanged, &memory));
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
            Ended::Missing if self.claim.anew || self.zendesk.is_deleted(ticket).await? => {
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
        let known = match &self.history.latest {
            Latest::None if !self.may_be_done() => return self.ticket_of_old_key().await,
            Latest::None | Latest::Unknown => None,
            Latest::Done { reference, .. } => Some(reference.clone()),
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
        let decision = match &self.claim.request {
            Some(_) => self.decision(None),
            // The texts were erased since, or another database made the ticket.
            None => Decision { memory: self.memory_of_created(None), ..Decision::default() },
        };
        self.add_pending_requester(&ticket, decision.plan).await?;
        let created = decision.plan.action();
        Ok(self.done_as(ticket, Action::Found, created, &decision.memory))
    }

    /// What was decided when the bytes of the request were frozen.
    fn decision(&self, service_user: Option<u64>) -> Decision {
        let bytes = self.claim.request.as_deref().unwrap_or_default();
        let memo = self.claim.request_memo.as_deref();
        memo.and_then(|memo| serde_json::from_str(memo).ok()).unwrap_or_else(|| {
            let notes = legacy::notes_in_ticket(self.item, bytes);
            legacy::decision(bytes, service_user, self.memory_of_created(Some(&notes)))
        })
    }

    /// What an earlier attempt did that added the comment.
    fn noted(&self) -> Action {
        let of = |action: &Action| self.claim.request_memo.as_deref() == Some(action.name());
        [Action::Reopened, Action::Solved].into_iter().find(of).unwrap_or(Action::Commented)
    }

    fn done(&self, ticket: String, action: Action, memory: &CaseMemory) -> Outcome {
        self.done_as(ticket, action, action, memory)
    }

    /// `completed`: the action of this attempt, or of the earlier one that it found.
    fn done_as(&self, ticket: String, action: Action, completed: Action, memory: &CaseMemory) -> Outcome {
        let is_unchanged = matches!(completed, Action::Unchanged | Action::Ignored);
        let cause = (!is_unchanged).then(|| Cause {
            reference: ticket.clone(),
            number: ticket.clone(),
            url: self.zendesk.ticket_url(&ticket),
            action: completed.name().to_owned(),
        });
        Outcome::Done { reference: ticket, action, memo: memory.to_memo(), cause }
    }

    /// Stores that a ticket was created without its author. It has to precede settling the delivery:
    /// afterwards nothing else records it.
    async fn add_pending_requester(&self, ticket: &str, plan: Plan) -> Result<(), Stopped> {
        let is_configured = self.settings.requester_later == RequesterLater::Set;
        let is_pending = is_configured && plan.requester == RequesterUser::Pending;
        if is_pending && self.profile().is_some() {
            self.ledger.memos().remember(REQUESTERS, ticket, &self.claim.identity).await?;
        }
        Ok(())
    }

    /// Whether this delivery may have been done before: an earlier request was not answered, it came from a feed,
    /// or the database was restored from a backup that does not know of it.
    fn may_be_done(&self) -> bool {
        self.claim.in_doubt || self.claim.origin == Origin::Feed || self.history.may_be_restored
    }

    fn is_ignored(&self) -> bool {
        let may_be_done = self.claim.in_doubt || self.claim.origin == Origin::Feed;
        self.settings.repeat == Repeat::Ignore && !may_be_done && !self.item.is_status_change()
    }

    fn is_sure_to_comment(&self, current: &CurrentTicket) -> bool {
        self.repeat() == Repeat::Comment || !self.changes(&current.memory_of).is_empty()
    }

    fn repeat(&self) -> Repeat {
        if self.item.is_status_change() { Repeat::New } else { self.settings.repeat }
    }

    async fn update(&self, current: &CurrentTicket) -> Result<UpdateResult, Stopped> {
        let (route, label) = (&self.claim.route, self.label);
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
            tags: &ticket::tags(self.item, label, self.settings, None),
        };
        let updated = self.zendesk.update(&update, self.ledger).await;
        // The comment may have been added although its answer said otherwise.
        updated.map_err(|stopped| match stopped {
            Stopped::Outcome(outcome) if self.ledger.has_sent() => Stopped::Outcome(outcome.in_doubt()),
            stopped => stopped,
        })
    }

    /// Creates the ticket from bytes that are stored before they are sent. Refused parts are left out of
    /// the next revision, as long as there is something to leave out.
    async fn create(&self, closed_ticket: Option<&str>) -> Result<Outcome, Stopped> {
        let mut claim = self.claim.clone();
        let follow_up = closed_ticket.and_then(|ticket| ticket.parse().ok());
        let (mut decision, mut body) = match claim.request.take() {
            Some(frozen) => (self.decision(self.service_user().await?), frozen),
            None => {
                let plan = Plan { requester: self.requester().await?, fields: Fields::Configured, follow_up };
                self.freeze(&claim, plan).await?
            }
        };
        // The bytes were frozen when the case had another ticket.
        if decision.plan.follow_up != follow_up {
            claim.revision += 1;
            (decision, body) = self.freeze(&claim, Plan { follow_up, ..decision.plan }).await?;
        }
        loop {
            let (idempotency_key, case_key) = (&claim.idempotency_key(), &claim.case_key);
            let Decision { plan, public, .. } = decision;
            let create = Create { body: &body, idempotency_key, case_key, public, follow_up: plan.follow_up };
            let (reason, fields) = match self.zendesk.create(&create, self.ledger).await {
                Ok(ticket) => {
                    self.add_pending_requester(&ticket, plan).await?;
                    return Ok(self.done(ticket, plan.action(), &decision.memory));
                }
                Err(Failure::Outcome(outcome)) => return Err(outcome.into()),
                Err(Failure::Refused { reason, fields }) => (reason, fields),
            };
            let next = match self.next_plan(plan, &reason, &fields).await? {
                Some(next) if claim.revision < self.claim.revision + REVISIONS => next,
                _ => return Err(Outcome::Refused { reason }.into()),
            };
            claim.revision += 1;
            (decision, body) = self.freeze(&claim, next).await?;
        }
    }

    /// Renders and stores the request. Without a known service user, Zendesk could take the requester for the
    /// author of an internal comment: then the ticket goes out without its author.
    async fn freeze(&self, claim: &Claim, plan: Plan) -> Result<(Decision, String), Stopped> {
        let service_user = self.service_user().await?;
        let has_comment_author = self.settings.public || service_user.is_some();
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
            label: self.label,
            settings: self.settings,
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
        let memory = self.memory_of_created(Some(&rendered.notes));
        let decision = Decision { plan, public: rendered.is_public, memory };
        let body = rendered.ticket.to_string();
        self.ledger.freeze(claim, &body, &decision.to_memo()).await?;
        Ok((decision, body))
    }

    /// Returns the plan after a refusal; `None` if there is nothing left to leave out.
    async fn next_plan(
        &self,
        plan: Plan,
        reason: &Reason,
        fields: &[String],
    ) -> Result<Option<Plan>, Stopped> {
        let Some(next) = plan.simpler(self.settings, fields) else { return Ok(None) };
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
        self.ledger.memos().forget(AUTHORS, &profile.key).await?;
        let other = self.requester().await?;
        Ok(if other == refused { RequesterUser::Service } else { other })
    }

    /// Returns the user of the author, or else the service user.
    async fn requester(&self) -> Result<RequesterUser, Stopped> {
        let Some(profile) = self.profile() else { return Ok(RequesterUser::Service) };
        let (requester, reason) = match find_author(&self.ledger.memos(), self.zendesk, &profile).await? {
            AuthorLookup::User(id) => return Ok(RequesterUser::Author(id)),
            AuthorLookup::Refused(reason) => (RequesterUser::Service, reason),
            AuthorLookup::Later(reason) => (RequesterUser::Pending, reason.to_owned()),
        };
        let case = &self.claim.case_key;
        info!(event = "requester_fallback", case, "the service user is the requester of {case}: {reason}");
        Ok(requester)
    }

    fn profile(&self) -> Option<Profile> {
        let is_configured = self.settings.requester == Requester::Author;
        is_configured.then(|| ticket::author_profile(self.item)).flatten()
    }

    async fn service_user(&self) -> Result<Option<u64>, Stopped> {
        match self.settings.requester {
            Requester::Author => Ok(self.zendesk.service_user().await?),
            // By default it is requester and submitter.
            Requester::Service => Ok(None),
        }
    }

    /// Returns the part of the event that a ticket does not contain yet.
    fn changes(&self, ticket: &str) -> Changes {
        self.memory(ticket).changes(&self.claim.case_key, &self.content(ticket, &self.item.notes))
    }

    /// Returns the ticket of the latest delivery of the case.
    fn reference(&self) -> Option<&str> {
        match &self.history.latest {
            Latest::Done { reference, .. } => Some(reference),
            Latest::None | Latest::Unknown => None,
        }
    }

    /// Returns the memory of a ticket; empty for any other ticket than the one in the inbox.
    fn memory(&self, ticket: &str) -> CaseMemory {
        if self.reference() == Some(ticket) { self.memory.clone() } else { CaseMemory::default() }
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

    /// Whether the event comes from a feed and may be older than this inbox.
    fn may_be_history(&self, ticket: &str) -> bool {
        let is_first = self.claim.attempts == 1 || self.reference() != Some(ticket);
        let is_pulled = self.claim.origin == Origin::Feed;
        is_pulled && is_first && self.claim.revision == 0 && self.claim.request.is_none()
    }

    /// Whether the event was received before another one that the ticket contains.
    fn is_older(&self, ticket: &str) -> bool {
        match &self.history.latest {
            Latest::Done { reference, as_of, .. } => reference == ticket && self.claim.received_at < *as_of,
            Latest::None | Latest::Unknown => false,
        }
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
            repetition: self.item.repetition,
            when: self.item.happened(),
        }
    }

    /// Returns the memory of a ticket after this event was added to it.
    fn memory_after(&self, ticket: &str, action: Action) -> CaseMemory {
        let known = self.memory(ticket);
        if action == Action::Unchanged && self.settings.repeat == Repeat::Ignore {
            return known;
        }
        let added = ticket::fitting(&self.changes(ticket).notes).to_vec();
        known.with(&self.claim.case_key, &self.content(ticket, &added))
    }

    /// Returns the memory of a ticket that was created with these notes; without them, with those that a ticket of
    /// these settings has.
    fn memory_of_created(&self, notes: Option<&[Note]>) -> CaseMemory {
        let notes = match notes {
            Some(notes) => notes,
            None if self.settings.public => &[],
            None => ticket::fitting(&self.item.notes),
        };
        CaseMemory::default().with(&self.claim.case_key, &self.full_content(notes))
    }
}

/// Returns the user of an author from memory or from Zendesk, and remembers a new one.
pub(super) async fn find_author(
    memos: &Memos,
    zendesk: &Zendesk,
    profile: &Profile,
) -> Result<AuthorLookup, Stopped> {
    let known = memos.recall(AUTHORS, &profile.key).await?;
    if let Some(id) = known.and_then(|id| id.parse().ok()) {
        return Ok(AuthorLookup::User(id));
    }
    let author = zendesk.author(profile).await?;
    if let AuthorLookup::User(id) = author {
        memos.remember(AUTHORS, &profile.key, &id.to_string()).await?;
    }
    Ok(author)
}
