//! One attempt at a delivery: finds the ticket of its case and adds the changes, or creates a ticket.
//!
//! The first delivery of a case creates its ticket, and later ones add comments to it. A closed ticket is
//! followed up by another one, and a deleted ticket is replaced.

use tracing::warn;

use super::memory::{CaseMemory, Changes, Content};
use super::plan::Decision;
use super::settings::ticket::{Repeat, Ticket};
use super::ticket::{self};
use super::{CaseTickets, Ended, StatusChange, Update, UpdateResult, Zendesk, adopt};
use crate::delivery::{Action, Cause, Claim, Doubt, History, Latest, Origin, Outcome, Reason};
use crate::destination::Job;
use crate::destination::html::Html;
use crate::item::{Item, Note, with_lower_network};
use crate::ledger::{Ledger, Stopped};

/// The number of closed or deleted tickets of one case that an attempt goes through.
const TICKETS: usize = 5;

pub(super) struct Attempt<'a> {
    pub(super) zendesk: &'a Zendesk,
    pub(super) ledger: &'a Ledger<'a>,
    pub(super) settings: &'a Ticket,
    /// The label of the route: the event itself may lack it.
    pub(super) label: &'a str,
    /// Other destinations follow.
    is_followed: bool,
    pub(super) claim: &'a Claim,
    pub(super) item: &'a Item,
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
        let is_followed = !route.then.is_empty();
        let attempt =
            Attempt { zendesk: self, ledger, settings, label, is_followed, claim, item, history, memory };
        attempt.run().await
    }
}

/// The ticket that a case has.
pub(super) struct CurrentTicket {
    number: String,
    /// The ticket whose memory applies: this one, or one that was merged into it.
    memory_of: String,
    /// The 2017 example created it.
    is_adopted: bool,
}

impl CurrentTicket {
    fn new(number: String) -> CurrentTicket {
        CurrentTicket { memory_of: number.clone(), number, is_adopted: false }
    }

    pub(super) fn adopted(number: String) -> CurrentTicket {
        CurrentTicket { is_adopted: true, ..CurrentTicket::new(number) }
    }
}

impl Attempt<'_> {
    async fn run(&self) -> Result<Outcome, Stopped> {
        if let (Some(reference), true) = (self.reference(), self.is_ignored()) {
            return Ok(self.done(reference.to_owned(), Action::Ignored, &self.memory));
        }
        self.check_storm_limit().await?;
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
                    // The target continues with the memory of the merged ticket, unless it has its own.
                    let is_known = self.reference() == Some(target.as_str());
                    let memory_of = if is_known { target.clone() } else { ticket.memory_of };
                    current = Some(CurrentTicket { memory_of, ..CurrentTicket::new(target) });
                    continue;
                }
            }
            // A resolution does not open a new ticket.
            if matches!(ended, Ended::Closed | Ended::Merged) && self.item.is_resolution() {
                let memory = self.memory(&ticket.memory_of);
                return Ok(self.done(ticket.number, Action::Unchanged, &memory));
            }
            // A delivery may have created another ticket and died before that was stored.
            let listed = self.look_up(&self.claim.case_key).await?;
            let other = match ended {
                // The closed ticket that this one followed up does not need a second follow-up.
                Ended::Missing => listed.open.clone(),
                Ended::Closed | Ended::Merged | Ended::Deleted | Ended::Taken => listed.current(),
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
            Ended::Deleted | Ended::Taken => self.create(None).await,
            Ended::Missing if self.claim.anew || self.zendesk.is_deleted(ticket).await? => {
                self.create(None).await
            }
            Ended::Missing => Err(self.zendesk.report_hidden_ticket(case, ticket).into()),
            // Agents would only merge the next one, too.
            Ended::Merged if merged > 1 => {
                let reason = format!(
                    "ticket {ticket} was merged too and its target was not found: correct the merge, then \
                     replay"
                );
                Err(Outcome::Dead { reason: Reason::new(reason) }.into())
            }
            Ended::Merged => {
                warn!(
                    event = "ticket_merged",
                    case,
                    ticket,
                    "ticket {ticket} was merged; its target was not found. Creating one follow-up; after \
                     another merge, events are dead"
                );
                self.create(Some(ticket)).await
            }
        }
    }

    /// Returns the ticket that the case has. The inbox may be outdated once this delivery has begun to create
    /// one. If no delivery of the case was ever tried, there is none.
    async fn current(&self) -> Result<Option<CurrentTicket>, Stopped> {
        let known = self.reference().map(str::to_owned);
        let current = match (known, &self.claim.request) {
            _ if self.history.latest == Latest::None && !self.may_be_done() => None,
            (Some(known), None) => Some(known),
            // The list may lack a ticket that was closed long ago.
            (known, _) => self.look_up(&self.claim.case_key).await?.last().or(known),
        };
        match current {
            Some(current) => Ok(Some(CurrentTicket::new(current))),
            None => match self.ticket_of_old_key().await? {
                Some(old) => Ok(Some(old)),
                None => self.ticket_to_adopt().await,
            },
        }
    }

    /// Lists the tickets of a case, and records whether there is one.
    async fn look_up(&self, case_key: &str) -> Result<CaseTickets, Outcome> {
        let found = self.zendesk.look_up(case_key).await?;
        self.ledger.looked_up(found.last().is_some());
        Ok(found)
    }

    /// Returns the ticket that an earlier version created for this post, if it spelt the network in upper case.
    async fn ticket_of_old_key(&self) -> Result<Option<CurrentTicket>, Stopped> {
        let key = &self.claim.case_key;
        let company = key.match_indices(':').nth(1).map(|(colon, _)| &key[..=colon]);
        let old =
            company.zip(self.item.entity_id.as_ref()).map(|(company, entity)| format!("{company}{entity}"));
        match old.filter(|old| old != key && with_lower_network(old) == *key) {
            Some(old) => Ok(self.look_up(&old).await?.last().map(CurrentTicket::new)),
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

    /// What an earlier attempt did that added the comment.
    fn noted(&self) -> Action {
        let of = |action: &Action| self.claim.request_memo.as_deref() == Some(action.name());
        [Action::Reopened, Action::Solved, Action::Unchanged]
            .into_iter()
            .find(of)
            .unwrap_or(Action::Commented)
    }

    pub(super) fn done(&self, ticket: String, action: Action, memory: &CaseMemory) -> Outcome {
        self.done_as(ticket, action, action, memory)
    }

    /// `completed`: the action of this attempt, or of the earlier one that it found.
    fn done_as(&self, ticket: String, action: Action, completed: Action, memory: &CaseMemory) -> Outcome {
        let is_unchanged = matches!(completed, Action::Unchanged | Action::Ignored);
        let cause = (!is_unchanged).then(|| {
            Box::new(Cause {
                reference: ticket.clone(),
                number: ticket.clone(),
                url: self.zendesk.ticket_url(&ticket),
                action: completed.name().to_owned(),
            })
        });
        Outcome::Done { reference: ticket, action, memo: memory.to_memo(), cause }
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
        current.is_adopted || self.repeat() == Repeat::Comment || !self.changes(&current.memory_of).is_empty()
    }

    fn repeat(&self) -> Repeat {
        if self.item.is_status_change() { Repeat::New } else { self.settings.repeat }
    }

    async fn update(&self, current: &CurrentTicket) -> Result<UpdateResult, Stopped> {
        let changes = self.changes(&current.memory_of);
        let status_change = self.status_change(&current.memory_of);
        let update = Update {
            ticket: &current.number,
            case_key: &self.claim.case_key,
            delivery: &self.claim.identity,
            in_doubt: self.may_be_done(),
            done_if_closed_after: self.item.event_made.filter(|_| self.may_be_history(&current.memory_of)),
            changes: &changes,
            adopted_by: self.item.link.as_deref().filter(|_| current.is_adopted),
            repeat: self.repeat(),
            status_change,
            urgent: self.item.is_urgent() && status_change != StatusChange::Keep,
            is_followed: self.is_followed && self.claim.request.is_none(),
            comment: &self.comment(current, &changes),
            tags: &ticket::tags(self.item, self.label, &self.claim.route, self.settings, None),
        };
        let updated = self.zendesk.update(&update, self.ledger).await;
        // The comment may have been added although its answer said otherwise.
        updated.map_err(|stopped| match stopped {
            Stopped::Outcome(outcome) if self.ledger.has_sent() => Stopped::Outcome(outcome.in_doubt()),
            stopped => stopped,
        })
    }

    fn comment(&self, current: &CurrentTicket, changes: &Changes) -> Html {
        let (label, route) = (self.label, &self.claim.route);
        let rendered = ticket::render_update(self.item, label, route, self.settings, changes);
        self.report_failures(&rendered.failures);
        match self.item.link.as_deref().filter(|_| current.is_adopted) {
            Some(link) => adopt::notice(link).then(&rendered.comment),
            None => rendered.comment,
        }
    }

    /// Returns the part of the event that a ticket does not contain yet.
    fn changes(&self, ticket: &str) -> Changes {
        self.memory(ticket).changes(&self.claim.case_key, &self.content(ticket, &self.item.notes))
    }

    /// Returns the ticket of the latest delivery of the case.
    pub(super) fn reference(&self) -> Option<&str> {
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
        // `TICKET_UPDATE` may omit notes; they still count as added.
        let added = ticket::fitting(&self.changes(ticket).notes).to_vec();
        known.with(&self.claim.case_key, &self.content(ticket, &added))
    }

    /// Returns the memory of a ticket that was created with these notes; without them, with those that a ticket of
    /// these settings has.
    pub(super) fn memory_of_created(&self, notes: Option<&[Note]>) -> CaseMemory {
        let notes = match notes {
            Some(notes) => notes,
            None if self.settings.public => &[],
            None => ticket::fitting(&self.item.notes),
        };
        CaseMemory::default().with(&self.claim.case_key, &self.full_content(notes))
    }
}
