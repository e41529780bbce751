//! One attempt at one delivery: what its case has at Zendesk, and what is still owed to it.
//!
//! The first delivery of a case makes its ticket, the later ones tell the ticket what is new. A closed
//! ticket is followed up by another, and one that was deleted is made again.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tracing::warn;

use crate::config::{Repeat, Requester};
use crate::destination::zendesk::ticket::{self, Draft, Fields, Plan, Profile};
use crate::destination::zendesk::{self, Create, Failure, Update, Zendesk};
use crate::inbox::{CaseTicket, Claim, Inbox};
use crate::notification::Item;
use crate::retry::{Deed, Doubt, Outcome, Reason};
use crate::story::Told;

/// In one attempt, so many tickets of one case are looked at, which are closed or gone.
const TICKETS: usize = 5;
/// In one attempt, so many times something is left out at the most.
const REVISIONS: i64 = 5;

pub struct Attempt<'a> {
    pub inbox: &'a Inbox,
    pub zendesk: &'a Zendesk,
    pub claim: &'a Claim,
    pub item: &'a Item,
    pub ticket: &'a CaseTicket,
    /// Set before the first byte goes out of a request that does something.
    pub sent: &'a AtomicBool,
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

impl Attempt<'_> {
    pub async fn run(&self) -> Result<Outcome, Abandoned> {
        match self.deliver().await {
            Ok((reference, deed)) => Ok(Outcome::Done { reference, deed, told: self.told(deed) }),
            Err(End::Outcome(outcome)) => Ok(outcome),
            Err(End::Abandoned(abandoned)) => Err(abandoned),
        }
    }

    async fn deliver(&self) -> Result<(String, Deed), End> {
        let mut held = self.held().await?;
        for _ in 0..TICKETS {
            let Some(ticket) = held else { return self.create(None).await };
            if self.zendesk.settings().repeat == Repeat::Ignore {
                return Ok((ticket, Deed::Unchanged));
            }
            let told = self.tell(&ticket).await?;
            if let zendesk::Told::Done(deed) = told {
                return Ok((ticket, deed));
            }
            // A delivery that died may have made another, which we were never told of.
            held = self.zendesk.look_up(&self.claim.case_key).await?;
            if held.as_ref().is_none_or(|other| *other == ticket) {
                let follows = (told == zendesk::Told::Closed).then_some(ticket.as_str());
                return self.create(follows).await;
            }
        }
        let reason = Reason::new("the tickets of the case come and go");
        Err(Outcome::Wait { reason, doubt: Doubt::None, wait: Duration::from_secs(60) }.into())
    }

    /// The ticket that the case has. One of our own that may have been made since is newer than what
    /// we know: then it is looked up.
    async fn held(&self) -> Result<Option<String>, End> {
        let in_doubt = self.claim.in_doubt;
        match (self.ticket, &self.claim.request) {
            (_, Some(_frozen)) if !in_doubt => Ok(None),
            (CaseTicket::Known { reference, .. }, None) => Ok(Some(reference.clone())),
            (CaseTicket::None, None) if !in_doubt => Ok(None),
            _ => Ok(self.zendesk.look_up(&self.claim.case_key).await?),
        }
    }

    async fn tell(&self, ticket: &str) -> Result<zendesk::Told, Outcome> {
        let (route, label) = (&self.claim.route, self.zendesk.label());
        let news = self.known().news(&self.claim.case_key, route, self.item);
        let update = Update {
            ticket,
            delivery: &self.claim.identity,
            in_doubt: self.claim.in_doubt,
            news: &news,
            comment: &ticket::news(self.item, label, route, &news),
            tags: &ticket::tags(self.item, label, self.zendesk.settings(), Fields::Configured),
            sent: self.sent,
        };
        self.zendesk.tell(&update).await
    }

    /// Makes the ticket, from bytes that are stored before they are sent. What Zendesk refuses in them
    /// is left out of the next revision, as long as there is something to leave out.
    async fn create(&self, follows: Option<&str>) -> Result<(String, Deed), End> {
        let mut claim = self.claim.clone();
        let (mut plan, mut body) = match claim.request.take() {
            Some(frozen) => (self.plan_of(&frozen).await?, frozen),
            None => {
                let plan = self.first_plan(follows).await?;
                (plan, self.freeze(&claim, plan).await?)
            }
        };
        loop {
            let (reason, fields) = match self.send(&claim, &body).await {
                Ok(reference) => return Ok((reference, plan.deed())),
                Err(Failure::Otherwise(outcome)) => return Err(outcome.into()),
                Err(Failure::Refused { reason, fields }) => (reason, fields),
            };
            plan = match self.next_plan(plan, &reason, &fields).await? {
                Some(next) if claim.revision < self.claim.revision + REVISIONS => next,
                _ => return Err(Outcome::Dead { reason }.into()),
            };
            claim.revision += 1;
            body = self.freeze(&claim, plan).await?;
        }
    }

    async fn send(&self, claim: &Claim, body: &str) -> Result<String, Failure> {
        let (idempotency_key, case_key) = (&claim.idempotency_key(), &claim.case_key);
        self.zendesk.create(&Create { body, idempotency_key, case_key, sent: self.sent }).await
    }

    async fn freeze(&self, claim: &Claim, plan: Plan) -> Result<String, End> {
        let draft = Draft {
            item: self.item,
            case_key: &claim.case_key,
            delivery: &claim.identity,
            route: &claim.route,
            label: self.zendesk.label(),
            settings: self.zendesk.settings(),
            plan,
            service_user: self.service_user().await?,
        };
        let rendered = ticket::render(&draft);
        for failure in rendered.failures {
            warn!(case = claim.case_key, delivery = claim.identity, "a template fails: {failure}");
        }
        let body = rendered.ticket.to_string();
        match self.inbox.freeze(claim, &body).await? {
            true => Ok(body),
            false => Err(End::Abandoned(Abandoned::NotOurs)),
        }
    }

    async fn first_plan(&self, follows: Option<&str>) -> Result<Plan, End> {
        let follow_up = follows.and_then(|ticket| ticket.parse().ok());
        Ok(Plan { requester: self.requester().await?, fields: Fields::Configured, follow_up })
    }

    async fn plan_of(&self, frozen: &str) -> Result<Plan, End> {
        Ok(ticket::plan_of(frozen, self.service_user().await?))
    }

    /// What to send after a refusal; `None` if there is nothing left to leave out.
    async fn next_plan(&self, plan: Plan, reason: &Reason, fields: &[String]) -> Result<Option<Plan>, End> {
        let Some(next) = ticket::simpler(plan, self.zendesk.settings(), fields) else { return Ok(None) };
        if next.fields != plan.fields {
            self.zendesk.remind_of_fields(&self.claim.case_key, reason);
        }
        if plan.requester.is_some() && next.requester.is_none() {
            let requester = self.other_requester(plan.requester).await?;
            if requester.is_none() {
                warn!(case = self.claim.case_key, "the service user is the requester: {}", reason.log);
            }
            return Ok(Some(Plan { requester, ..next }));
        }
        Ok(Some(next))
    }

    /// The user of the author, known or found or made; `None`: the service user.
    async fn requester(&self) -> Result<Option<u64>, End> {
        let Some(profile) = self.profile() else { return Ok(None) };
        let known = self.inbox.author(zendesk::NAME, &profile.key).await?;
        match known.and_then(|id| u64::try_from(id).ok()) {
            Some(id) => Ok(Some(id)),
            None => self.learn(&profile).await,
        }
    }

    /// The user that we knew may have been deleted, or merged into another.
    async fn other_requester(&self, refused: Option<u64>) -> Result<Option<u64>, End> {
        let Some(profile) = self.profile() else { return Ok(None) };
        Ok(self.learn(&profile).await?.filter(|id| Some(*id) != refused))
    }

    async fn learn(&self, profile: &Profile) -> Result<Option<u64>, End> {
        let id = self.zendesk.author(profile, self.claim.tries > 0).await?;
        if let Some(id) = id.and_then(|id| i64::try_from(id).ok()) {
            self.inbox.remember_author(zendesk::NAME, &profile.key, id).await?;
        }
        Ok(id)
    }

    fn profile(&self) -> Option<Profile> {
        let wanted = self.zendesk.settings().requester == Requester::Author;
        wanted.then(|| ticket::author_profile(self.item)).flatten()
    }

    async fn service_user(&self) -> Result<Option<u64>, End> {
        match self.zendesk.settings().requester {
            Requester::Author => Ok(self.zendesk.service_user(self.claim.tries > 0).await?),
            // Without a word it is requester and submitter.
            Requester::Service => Ok(None),
        }
    }

    fn known(&self) -> Told {
        match self.ticket {
            CaseTicket::Known { told, .. } => told.clone(),
            CaseTicket::None | CaseTicket::Unknown => Told::default(),
        }
    }

    fn told(&self, deed: Deed) -> Told {
        let (case_key, route) = (&self.claim.case_key, &self.claim.route);
        let is_known = matches!(self.ticket, CaseTicket::Known { .. });
        match deed {
            Deed::Unchanged => self.known(),
            Deed::Commented | Deed::Reopened => self.known().with(case_key, route, self.item),
            Deed::Found if is_known => self.known().with(case_key, route, self.item),
            // A new ticket knows only what it was made of; a public one was not told the notes.
            Deed::Created | Deed::FollowedUp | Deed::Found if self.zendesk.settings().public => {
                let without_notes = Item { notes: Vec::new(), ..self.item.clone() };
                Told::default().with(case_key, route, &without_notes)
            }
            Deed::Created | Deed::FollowedUp | Deed::Found => {
                Told::default().with(case_key, route, self.item)
            }
        }
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
