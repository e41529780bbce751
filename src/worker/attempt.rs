//! One attempt at one delivery: what its case has at Zendesk, and what is still owed to it.
//!
//! The first delivery of a case makes its ticket, the later ones tell the ticket what is new. A closed
//! ticket is followed up by another, and one that was deleted is made again.

use std::sync::atomic::AtomicBool;

use tracing::{info, warn};

use crate::config::{Repeat, Requester};
use crate::destination::zendesk::ticket::{self, Draft, Fields, Plan, Profile};
use crate::destination::zendesk::{self, Create, Failure, Standing, Update, Zendesk};
use crate::inbox::{CaseTicket, Claim, Inbox};
use crate::notification::{Item, Note};
use crate::retry::{Deed, Doubt, Outcome, Reason};
use crate::story::{Told, Words};

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
            Ok((reference, deed)) => {
                let told = self.told(&reference, deed);
                Ok(Outcome::Done { reference, deed, told })
            }
            Err(End::Outcome(outcome)) => Ok(outcome),
            Err(End::Abandoned(abandoned)) => Err(abandoned),
        }
    }

    async fn deliver(&self) -> Result<(String, Deed), End> {
        let mut held = self.held().await?;
        for _ in 0..TICKETS {
            let Some(ticket) = held else { return self.create(None).await };
            if self.zendesk.settings().repeat == Repeat::Ignore {
                // What was sent before, and may have been taken, is what is there.
                let deed = if self.claim.request.is_some() { Deed::Found } else { Deed::Unchanged };
                return Ok((ticket, deed));
            }
            let standing = self.tell(&ticket).await?;
            if let Standing::Told(deed) = standing {
                return Ok((ticket, deed));
            }
            // A delivery that died may have made another, which we were never told of.
            held = self.zendesk.look_up(&self.claim.case_key).await?;
            if held.as_ref().is_none_or(|other| *other == ticket) {
                let follows = (standing == Standing::Closed).then_some(ticket.as_str());
                return self.create(follows).await;
            }
        }
        let reason = Reason::new("the tickets of the case come and go");
        Err(Outcome::Retry { reason, doubt: Doubt::None }.into())
    }

    /// The ticket that the case has. What we know is old once we have begun to make another, and there
    /// is nothing to know if nobody has tried.
    async fn held(&self) -> Result<Option<String>, End> {
        match (self.ticket, &self.claim.request) {
            (CaseTicket::Known { reference, .. }, None) => Ok(Some(reference.clone())),
            (CaseTicket::None, _) if !self.claim.in_doubt => Ok(None),
            _ => Ok(self.zendesk.look_up(&self.claim.case_key).await?),
        }
    }

    async fn tell(&self, ticket: &str) -> Result<Standing, Outcome> {
        let (route, label) = (&self.claim.route, self.zendesk.label());
        let news = self.known(ticket).news(&self.claim.case_key, &self.words(&self.item.notes));
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
        let follow_up = follows.and_then(|ticket| ticket.parse().ok());
        let (mut plan, mut body) = match claim.request.take() {
            Some(frozen) => (ticket::plan_of(&frozen, self.service_user().await?), frozen),
            None => {
                let plan = Plan { follow_up, ..self.first_plan().await? };
                (plan, self.freeze(&claim, plan).await?)
            }
        };
        // They were frozen for another ticket than the one that there is now.
        if plan.follow_up != follow_up {
            plan = Plan { follow_up, ..plan };
            claim.revision += 1;
            body = self.freeze(&claim, plan).await?;
        }
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
        // A next revision would only say it again.
        for failure in rendered.failures.iter().filter(|_| claim.revision == self.claim.revision) {
            warn!(case = claim.case_key, delivery = claim.identity, "a template fails: {failure}");
        }
        let body = rendered.ticket.to_string();
        match self.inbox.freeze(claim, &body).await? {
            true => Ok(body),
            false => Err(End::Abandoned(Abandoned::NotOurs)),
        }
    }

    /// In a private comment of an unknown author Zendesk might take the requester for its author: then
    /// nobody but the service user is named.
    async fn first_plan(&self) -> Result<Plan, End> {
        let is_signed = self.zendesk.settings().public || self.service_user().await?.is_some();
        let requester = if is_signed { self.requester().await? } else { None };
        Ok(Plan { requester, fields: Fields::Configured, follow_up: None })
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
        self.inbox.forget_author(zendesk::NAME, &profile.key).await?;
        Ok(self.learn(&profile).await?.filter(|id| Some(*id) != refused))
    }

    async fn learn(&self, profile: &Profile) -> Result<Option<u64>, End> {
        let author = self.zendesk.author(profile).await?;
        let id = author.user();
        match id.and_then(|id| i64::try_from(id).ok()) {
            Some(id) => self.inbox.remember_author(zendesk::NAME, &profile.key, id).await?,
            None => {
                let case = &self.claim.case_key;
                info!(case, "the service user is the requester of {case}: {author}");
            }
        }
        Ok(id)
    }

    fn profile(&self) -> Option<Profile> {
        let wanted = self.zendesk.settings().requester == Requester::Author;
        wanted.then(|| ticket::author_profile(self.item)).flatten()
    }

    async fn service_user(&self) -> Result<Option<u64>, End> {
        match self.zendesk.settings().requester {
            Requester::Author => Ok(self.zendesk.service_user().await?),
            // Without a word it is requester and submitter.
            Requester::Service => Ok(None),
        }
    }

    /// What the event says; the text of an older one than the ticket has heard of is no news.
    fn words<'a>(&'a self, notes: &'a [Note]) -> Words<'a> {
        let is_older =
            matches!(self.ticket, CaseTicket::Known { as_of, .. } if self.claim.received_at < *as_of);
        let text = self.item.text.as_deref().filter(|_| !is_older);
        Words { route: &self.claim.route, text, notes }
    }

    /// What a ticket has been told; nothing that we know of, if it is not the one that we know.
    fn known(&self, ticket: &str) -> Told {
        match self.ticket {
            CaseTicket::Known { reference, told, .. } if reference == ticket => told.clone(),
            _ => Told::default(),
        }
    }

    /// What a ticket has been told once this delivery is done.
    fn told(&self, ticket: &str, deed: Deed) -> Told {
        let case_key = &self.claim.case_key;
        let known = self.known(ticket);
        let is_new = match deed {
            Deed::Created | Deed::FollowedUp => true,
            // Found at the first look: it is what we made.
            Deed::Found => known == Told::default(),
            Deed::Commented | Deed::Reopened | Deed::Unchanged => false,
        };
        if is_new {
            let held = ticket::notes_held(self.item, self.zendesk.settings());
            return Told::default().with(case_key, &self.words(held));
        }
        if deed == Deed::Unchanged && self.zendesk.settings().repeat == Repeat::Ignore {
            return known;
        }
        let news = known.news(case_key, &self.words(&self.item.notes));
        known.with(case_key, &self.words(ticket::fitting(&news.notes)))
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
