//! Creates the ticket of a case: finds its requester, freezes the bytes before they are sent, and leaves out what
//! Zendesk refuses.

use tokio::task::block_in_place;
use tracing::{info, warn};

use super::attempt::Attempt;
use super::plan::{Decision, Fields, Plan, RequesterUser};
use super::settings::ticket::{Requester, RequesterLater};
use super::ticket::{self, Draft, Profile};
use super::{AUTHORS, AuthorLookup, Create, Failure, REQUESTERS, Zendesk, alerts, legacy};
use crate::delivery::{Claim, Outcome, Reason};
use crate::ledger::{Memos, Stopped};

/// The number of times that an attempt leaves out refused parts of a ticket.
const REVISIONS: i64 = 8;
/// A longer payload takes time to render, and other tasks need the thread. Handing them to another thread for
/// each short payload would cost more than it gains, and the allocator keeps freed memory for each thread.
const LONG_PAYLOAD: usize = 16 << 10;

impl Attempt<'_> {
    /// Creates the ticket from bytes that are stored before they are sent. Refused parts are left out of
    /// the next revision, as long as there is something to leave out.
    pub(super) async fn create(&self, closed_ticket: Option<&str>) -> Result<Outcome, Stopped> {
        let mut claim = self.claim.clone();
        let follow_up = closed_ticket.and_then(|ticket| ticket.parse().ok());
        let (mut decision, mut body) = match claim.request.take() {
            Some(frozen) => {
                // Its place may have expired in a long outage. If in doubt, its ticket may already exist.
                if !claim.in_doubt {
                    self.take_place().await?;
                }
                (self.decision(self.service_user().await?), frozen)
            }
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
        if claim.revision == self.claim.revision {
            self.report_failures(&rendered.failures);
        }
        let memory = self.memory_of_created(Some(&rendered.notes));
        let decision = Decision { plan, public: rendered.is_public, memory };
        let body = rendered.ticket.to_string();
        if self.claim.request.is_none() && claim.revision == self.claim.revision {
            self.take_place().await?;
        }
        self.ledger.freeze(claim, &body, &decision.to_memo()).await?;
        Ok((decision, body))
    }

    /// Logs the templates that failed.
    pub(super) fn report_failures(&self, failures: &[String]) {
        for failure in failures {
            warn!(
                event = "template_failed",
                case = self.claim.case_key,
                delivery = self.claim.identity,
                "a template failed, using the built-in text; test it with `casebridge render`: {failure}"
            );
        }
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
            self.ledger.alerts().happened(alerts::FIELDS, "", &*reason.log);
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

    /// Stores that a ticket was created without its author. It has to precede settling the delivery:
    /// afterwards nothing else records it.
    pub(super) async fn add_pending_requester(&self, ticket: &str, plan: Plan) -> Result<(), Stopped> {
        let is_configured = self.settings.requester_later == RequesterLater::Set;
        let is_pending = is_configured && plan.requester == RequesterUser::Pending;
        if is_pending && self.profile().is_some() {
            self.ledger.memos().remember(REQUESTERS, ticket, &self.claim.identity).await?;
        }
        Ok(())
    }

    /// What was decided when the bytes of the request were frozen.
    pub(super) fn decision(&self, service_user: Option<u64>) -> Decision {
        let bytes = self.claim.request.as_deref().unwrap_or_default();
        let memo = self.claim.request_memo.as_deref();
        memo.and_then(|memo| serde_json::from_str(memo).ok()).unwrap_or_else(|| {
            let notes = legacy::notes_in_ticket(self.item, bytes);
            legacy::decision(bytes, service_user, self.memory_of_created(Some(&notes)))
        })
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
