//! One attempt at one delivery: what its case has at Zendesk, and what is still owed to it.
//!
//! The first delivery of a case makes its ticket, the later ones tell the ticket what is new. A closed
//! ticket is followed up by another, and one that was deleted is made again.

use tokio::task::block_in_place;
use tracing::{info, warn};

use crate::config::{self, Repeat, Requester, RequesterLater, Route};
use crate::destination::zendesk::plan::{Fields, Plan, RequesterUser};
use crate::destination::zendesk::ticket::{self, Draft, Profile};
use crate::destination::zendesk::{
    self, Author, Create, Ended, Failure, StatusChange, Update, UpdateResult, Zendesk,
};
use crate::fence::Fence;
use crate::inbox::{Case, CaseTicket, Claim, Inbox};
use crate::memory::{CaseMemory, Changes, Content};
use crate::notification::{Item, Note, with_lower_network};
use crate::retry::{Action, Doubt, Outcome, Reason};

/// In one attempt, so many tickets of one case are looked at, which are closed or gone.
const TICKETS: usize = 5;
/// In one attempt, so many times something is left out at the most.
const REVISIONS: i64 = 8;

pub struct Attempt<'a> {
    pub inbox: &'a Inbox,
    pub zendesk: &'a Zendesk,
    pub route: &'a Route,
    pub claim: &'a Claim,
    pub item: &'a Item,
    pub case: &'a Case,
    pub fence: &'a Fence<'a>,
}

/// Why an attempt ended without an outcome.
pub enum Abandoned {
    NotOurs,
    Storage(sqlx::Error),
}

/// Why an attempt ended without a ticket.
enum End {
    Outcome(Outcome),
    Abandoned(Abandoned),
}

/// The ticket that a case has.
struct CurrentTicket {
    number: String,
    /// The ticket whose memory says what it was told.
    memory_of: String,
}

impl CurrentTicket {
    fn new(number: String) -> CurrentTicket {
        CurrentTicket { memory_of: number.clone(), number }
    }
}

/// What a delivery has come to.
struct Done {
    ticket: String,
    action: Action,
    memory: CaseMemory,
}

impl Attempt<'_> {
    pub async fn run(&self) -> Result<Outcome, Abandoned> {
        match self.deliver().await {
            Ok(Done { ticket: reference, action, memory }) => Ok(Outcome::Done { reference, action, memory }),
            Err(End::Outcome(outcome)) => Ok(outcome),
            Err(End::Abandoned(abandoned)) => Err(abandoned),
        }
    }

    async fn deliver(&self) -> Result<Done, End> {
        let mut current = self.current().await?;
        if current.as_ref().is_some_and(|current| self.is_sure_to_comment(current)) {
            self.zendesk.check_update_budget()?;
        }
        let mut looked_at: Vec<String> = Vec::new();
        for _ in 0..TICKETS {
            let Some(ticket) = current else { return self.create(None).await };
            let ended = match self.update(&ticket).await? {
                UpdateResult::CreatedBefore => return self.created_before(ticket.number).await,
                UpdateResult::Updated(action) => return Ok(self.updated(ticket, action)),
                UpdateResult::Ended(ended) => ended,
            };
            looked_at.push(ticket.number.clone());
            if ended == Ended::Merged {
                let target = self.zendesk.merge_target(&ticket.number).await?;
                if let Some(target) = target.filter(|target| !looked_at.contains(target)) {
                    current = Some(self.merged_into(target, ticket));
                    continue;
                }
            }
            // A resolution does not open a new ticket.
            if matches!(ended, Ended::Closed | Ended::Merged) && self.item.is_resolution() {
                let memory = self.memory(&ticket.memory_of);
                return Ok(Done { ticket: ticket.number, action: Action::Unchanged, memory });
            }
            // A delivery that died may have made another, which we were never told of.
            let listed = self.zendesk.look_up(&self.claim.case_key).await?;
            let other = match ended {
                // What it followed up is no reason to follow that up again.
                Ended::Missing => listed.open(),
                Ended::Closed | Ended::Merged | Ended::Deleted => listed.current(),
            };
            match other.filter(|other| !looked_at.contains(other)) {
                Some(other) => current = Some(CurrentTicket::new(other)),
                None => return self.replace(&ticket.number, ended, listed.merged()).await,
            }
        }
        let reason = Reason::new("the tickets of the case come and go");
        Err(Outcome::Retry { reason, doubt: Doubt::None }.into())
    }

    /// Makes a ticket in place of this ended one, unless that could create a duplicate. `merged`: the number
    /// of this case's tickets that agents merged into others.
    async fn replace(&self, ticket: &str, ended: Ended, merged: usize) -> Result<Done, End> {
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

    /// The ticket that the case has. What we know is old once we have begun to make another, and there
    /// is nothing to know if nobody has tried.
    async fn current(&self) -> Result<Option<CurrentTicket>, End> {
        let known = match &self.case.ticket {
            CaseTicket::None if !self.may_be_done() => return self.ticket_of_old_case().await,
            CaseTicket::None | CaseTicket::Unknown => None,
            CaseTicket::Known { reference, .. } => Some(reference.clone()),
        };
        let current = match (known, &self.claim.request) {
            (Some(known), None) => Some(known),
            // The list may leave out a ticket that was closed long ago.
            (known, _) => self.zendesk.look_up(&self.claim.case_key).await?.last().or(known),
        };
        match current {
            Some(current) => Ok(Some(CurrentTicket::new(current))),
            None => self.ticket_of_old_case().await,
        }
    }

    /// The ticket that an earlier version made, for which a network in upper case was a case of its own.
    async fn ticket_of_old_case(&self) -> Result<Option<CurrentTicket>, End> {
        let case_key = &self.claim.case_key;
        let prefix = case_key.match_indices(':').nth(1).map(|(colon, _)| &case_key[..=colon]);
        let old =
            prefix.zip(self.item.entity_id.as_ref()).map(|(prefix, entity)| format!("{prefix}{entity}"));
        match old.filter(|old| old != case_key && with_lower_network(old) == *case_key) {
            Some(old) => Ok(self.zendesk.look_up(&old).await?.last().map(CurrentTicket::new)),
            None => Ok(None),
        }
    }

    /// The ticket into which another was merged goes on with what that one was told, unless it was told
    /// something itself.
    fn merged_into(&self, target: String, ticket: CurrentTicket) -> CurrentTicket {
        let is_known =
            matches!(&self.case.ticket, CaseTicket::Known { reference, .. } if *reference == target);
        let memory_of = if is_known { target.clone() } else { ticket.memory_of };
        CurrentTicket { number: target, memory_of }
    }

    /// An earlier attempt of this delivery created the ticket.
    async fn created_before(&self, ticket: String) -> Result<Done, End> {
        let bytes = self.claim.request.as_deref();
        if let Some(bytes) = bytes {
            self.add_pending_requester(&ticket, Plan::of(bytes, None)).await?;
        }
        Ok(Done { ticket, action: Action::Found, memory: self.memory_of_created(bytes) })
    }

    /// Stores that a ticket was made without its author. It has to precede settling the delivery: afterwards
    /// nothing else records it.
    async fn add_pending_requester(&self, ticket: &str, plan: Plan) -> Result<(), End> {
        let is_wanted = self.settings().requester_later == RequesterLater::Set;
        let is_owed = is_wanted && plan.requester == RequesterUser::Pending;
        if let Some(profile) = self.profile().filter(|_| is_owed) {
            self.inbox.add_pending_requester(self.claim, ticket, &profile.key).await?;
        }
        Ok(())
    }

    fn updated(&self, ticket: CurrentTicket, action: Action) -> Done {
        let memory = self.memory_after(&ticket.memory_of, action);
        Done { ticket: ticket.number, action, memory }
    }

    /// What this delivery has to do may be done already: an attempt of ours was not answered, or the database
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
            past: self.item.event_made.filter(|_| self.may_be_history(&current.memory_of)),
            changes: &changes,
            repeat: self.repeat(),
            status_change,
            urgent: self.item.is_urgent() && status_change != StatusChange::Keep,
            comment: &ticket::news(self.item, label, route, &changes),
            tags: &ticket::tags(self.item, label, self.settings(), None),
        };
        let updated = self.zendesk.update(&update, self.fence).await;
        // An answer to the comment may have been wrong, and what failed then was the look after it.
        updated.map_err(|outcome| if self.fence.was_passed() { outcome.in_doubt() } else { outcome })
    }

    /// Makes the ticket, from bytes that are stored before they are sent. What Zendesk refuses in them
    /// is left out of the next revision, as long as there is something to leave out.
    async fn create(&self, follows: Option<&str>) -> Result<Done, End> {
        let mut claim = self.claim.clone();
        let follow_up = follows.and_then(|ticket| ticket.parse().ok());
        let (mut plan, mut body) = match claim.request.take() {
            Some(frozen) => (Plan::of(&frozen, self.service_user().await?), frozen),
            None => {
                let plan = Plan { requester: self.requester().await?, fields: Fields::Configured, follow_up };
                self.freeze(&claim, plan).await?
            }
        };
        // They were frozen for another ticket than the one that there is now.
        if plan.follow_up != follow_up {
            claim.revision += 1;
            (plan, body) = self.freeze(&claim, Plan { follow_up, ..plan }).await?;
        }
        loop {
            let (reason, fields) = match self.send(&claim, &body).await {
                Ok(ticket) => {
                    self.add_pending_requester(&ticket, plan).await?;
                    return Ok(Done {
                        ticket,
                        action: plan.action(),
                        memory: self.memory_of_created(Some(&body)),
                    });
                }
                Err(Failure::Otherwise(outcome)) => return Err(outcome.into()),
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

    async fn send(&self, claim: &Claim, body: &str) -> Result<String, Failure> {
        let (idempotency_key, case_key) = (&claim.idempotency_key(), &claim.case_key);
        let create = Create { body, idempotency_key, case_key };
        self.zendesk.create(&create, self.fence).await
    }

    /// Renders, and stores. In a private comment of an unknown author Zendesk might take the requester
    /// for its author: then nobody but the service user is named.
    async fn freeze(&self, claim: &Claim, plan: Plan) -> Result<(Plan, String), End> {
        let service_user = self.service_user().await?;
        let is_signed = self.settings().public || service_user.is_some();
        let requester = match plan.requester {
            RequesterUser::Author(_) if !is_signed => RequesterUser::Pending,
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
        // A post and a template can make this long, and others wait for this thread.
        let rendered = block_in_place(|| ticket::render(&draft));
        // A next revision would only say it again.
        for failure in rendered.failures.iter().filter(|_| claim.revision == self.claim.revision) {
            warn!(
                event = "template_failed",
                case = claim.case_key,
                delivery = claim.identity,
                "a template failed, the ticket goes out without it: {failure}"
            );
        }
        let body = rendered.ticket.to_string();
        match self.inbox.freeze(claim, &body).await? {
            true => Ok((plan, body)),
            false => Err(End::Abandoned(Abandoned::NotOurs)),
        }
    }

    /// What to send after a refusal; `None` if there is nothing left to leave out.
    async fn next_plan(&self, plan: Plan, reason: &Reason, fields: &[String]) -> Result<Option<Plan>, End> {
        let Some(next) = plan.simpler(self.settings(), fields) else { return Ok(None) };
        if next.fields != plan.fields {
            self.zendesk.remind_of_fields(&self.claim.case_key, reason);
        }
        if plan.requester.author().is_some() && next.requester.author().is_none() {
            let requester = self.other_requester(plan.requester).await?;
            if requester.author().is_none() {
                warn!(
                    event = "requester_fallback",
                    case = self.claim.case_key,
                    "the service user is the requester: {}",
                    reason.log
                );
            }
            return Ok(Some(Plan { requester, ..next }));
        }
        Ok(Some(next))
    }

    /// The user of the author, known or found or made, or else the service user.
    async fn requester(&self) -> Result<RequesterUser, End> {
        let Some(profile) = self.profile() else { return Ok(RequesterUser::Service) };
        let known = self.inbox.author(zendesk::NAME, &profile.key).await?;
        match known.and_then(|id| u64::try_from(id).ok()) {
            Some(id) => Ok(RequesterUser::Author(id)),
            None => self.learn(&profile).await,
        }
    }

    /// The user that we knew may have been deleted, or merged into another.
    async fn other_requester(&self, refused: RequesterUser) -> Result<RequesterUser, End> {
        let Some(profile) = self.profile() else { return Ok(RequesterUser::Service) };
        self.inbox.forget_author(zendesk::NAME, &profile.key).await?;
        let other = self.learn(&profile).await?;
        Ok(if other == refused { RequesterUser::Service } else { other })
    }

    async fn learn(&self, profile: &Profile) -> Result<RequesterUser, End> {
        let author = self.zendesk.author(profile).await?;
        if let Some(id) = author.user().and_then(|id| i64::try_from(id).ok()) {
            self.inbox.remember_author(zendesk::NAME, &profile.key, id).await?;
        } else {
            let case = &self.claim.case_key;
            info!(
                event = "requester_fallback",
                case, "the service user is the requester of {case}: {author}"
            );
        }
        Ok(match author {
            Author::User(id) => RequesterUser::Author(id),
            Author::Suspended | Author::Refused(_) => RequesterUser::Service,
            Author::TooMany | Author::NotNow => RequesterUser::Pending,
        })
    }

    fn settings(&self) -> &config::Ticket {
        &self.route.ticket
    }

    fn label(&self) -> &str {
        self.route.label.as_deref().unwrap_or_default()
    }

    fn profile(&self) -> Option<Profile> {
        let wanted = self.settings().requester == Requester::Author;
        wanted.then(|| ticket::author_profile(self.item)).flatten()
    }

    async fn service_user(&self) -> Result<Option<u64>, End> {
        match self.settings().requester {
            Requester::Author => Ok(self.zendesk.service_user().await?),
            // Without a word it is requester and submitter.
            Requester::Service => Ok(None),
        }
    }

    /// What of the event a ticket does not hold yet.
    fn changes(&self, ticket: &str) -> Changes {
        self.memory(ticket).changes(&self.claim.case_key, &self.content(ticket, &self.item.notes))
    }

    /// What a ticket has been told; nothing that we know of, if it is not the one that we know.
    fn memory(&self, ticket: &str) -> CaseMemory {
        match &self.case.ticket {
            CaseTicket::Known { reference, memory, .. } if reference == ticket => memory.clone(),
            _ => CaseMemory::default(),
        }
    }

    /// What an event does to the state of its ticket; nothing, if the ticket has heard of a newer one.
    fn status_change(&self, ticket: &str) -> StatusChange {
        let is_past = self.memory(ticket).is_newer_than(self.item.happened());
        match self.item.is_resolution() {
            true if is_past || self.is_older(ticket) => StatusChange::Keep,
            true => StatusChange::Solved,
            // Feeds are read one after the other: the good news may have been in the first.
            false if is_past && self.item.is_urgent() => StatusChange::Keep,
            false => StatusChange::Open,
        }
    }

    /// A feed held it, which may have a past that this inbox knows nothing of. What was pushed is in doubt
    /// only after an attempt, and that at a ticket that we know.
    fn may_be_history(&self, ticket: &str) -> bool {
        let is_known =
            matches!(&self.case.ticket, CaseTicket::Known { reference, .. } if reference == ticket);
        let is_pulled = self.claim.attempts == 1 || !is_known;
        self.claim.in_doubt && is_pulled && self.claim.revision == 0 && self.claim.request.is_none()
    }

    /// The event came before another that the ticket has heard of.
    fn is_older(&self, ticket: &str) -> bool {
        matches!(&self.case.ticket, CaseTicket::Known { reference, as_of, .. }
            if reference == ticket && self.claim.received_at < *as_of)
    }

    /// What the event says; the text of an older one is no news.
    fn content<'a>(&'a self, ticket: &str, notes: &'a [Note]) -> Content<'a> {
        let text = self.item.text.as_deref().filter(|_| !self.is_older(ticket));
        let (repetition, when) = (self.item.repetition(), self.item.happened());
        Content { route: &self.claim.route, text, notes, repetition, when }
    }

    /// What a ticket has been told once this event was brought to it.
    fn memory_after(&self, ticket: &str, action: Action) -> CaseMemory {
        let known = self.memory(ticket);
        if action == Action::Unchanged && self.settings().repeat == Repeat::Ignore {
            return known;
        }
        let added = ticket::fitting(&self.changes(ticket).notes).to_vec();
        known.with(&self.claim.case_key, &self.content(ticket, &added))
    }

    /// What a ticket knows that was made of these bytes, or of bytes that we have not any more.
    fn memory_of_created(&self, body: Option<&str>) -> CaseMemory {
        let notes = match body {
            Some(body) => ticket::notes_held(self.item, body),
            None if self.settings().public => Vec::new(),
            None => ticket::fitting(&self.item.notes).to_vec(),
        };
        let content = Content {
            route: &self.claim.route,
            text: self.item.text.as_deref(),
            notes: &notes,
            repetition: self.item.repetition(),
            when: self.item.happened(),
        };
        CaseMemory::default().with(&self.claim.case_key, &content)
    }
}

impl From<Outcome> for End {
    fn from(outcome: Outcome) -> End {
        End::Outcome(outcome)
    }
}

impl From<sqlx::Error> for End {
    fn from(error: sqlx::Error) -> End {
        End::Abandoned(Abandoned::Storage(error))
    }
}
