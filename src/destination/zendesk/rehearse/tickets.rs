//! The tickets of a rehearsal: a bounded number of them is created, and all of them are solved in the end.

use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::comment::PLACEHOLDER;
use super::{Interrupted, MOST_TICKETS, POLL, Rehearsal, TAG};
use crate::destination::zendesk::plan::{Fields, Plan, RequesterUser};
use crate::destination::zendesk::reply::Reply;
use crate::destination::zendesk::settings::ticket::Ticket as Settings;
use crate::destination::zendesk::ticket::{self, Draft};
use crate::destination::zendesk::{Call, Create, Ticket, TicketReply, TicketsReply, outcome};
use crate::item::{Author, Item};

/// The number of attempts to solve a ticket.
const ATTEMPTS: usize = 3;

/// A ticket that a rehearsal created.
#[derive(Clone, Debug, Serialize)]
pub struct Made {
    pub ticket: u64,
    pub state: Left,
    /// Why it is still open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// How a rehearsal left a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Left {
    Open,
    Solved,
    Closed,
    Deleted,
}

/// A request to create a ticket.
#[derive(Clone)]
pub(super) struct Request {
    pub case_key: String,
    pub delivery: String,
    pub body: Value,
}

impl Rehearsal {
    /// The name of everything that this rehearsal creates.
    pub(super) fn name(&self) -> String {
        format!("casebridge rehearsal {}", self.run)
    }

    /// The post that the tickets are about.
    pub(super) fn item(&self) -> Item {
        let name = self.name();
        let text = format!(
            "{name}: <b>no markup</b>, 5 < 10 & \"quotes\"\n  two spaces, then https://example.com/no-link\n\
             {PLACEHOLDER} {{{{ticket.id}}}}"
        );
        let fields = json!({
            "entityId": format!("casebridge:{}", self.run),
            "text": text,
            "link": "https://example.com/casebridge-rehearsal",
            "author": name,
            "authorId": self.run,
            "createdDate": "2026-01-01T00:00:00.000Z",
        });
        let field = |name: &str| fields[name].as_str().map(str::to_owned);
        Item {
            entity_id: field("entityId"),
            text: field("text"),
            link: field("link"),
            author: Author { id: field("authorId"), name: field("author"), ..Author::default() },
            created: field("createdDate"),
            fields,
            ..Item::default()
        }
    }

    /// Renders a ticket as the service does. Its subject and its tag mark it; other tags could start an account's rules.
    pub(super) fn render(&self, case: &str, part: &str, follow_up: Option<u64>) -> Request {
        let (item, settings) = (self.item(), Settings::default());
        let case_key = format!("casebridge-rehearsal:{}:{case}", self.run);
        let delivery = format!("casebridge-rehearsal:{}:{part}", self.run);
        let requester = self.user.map_or(RequesterUser::Service, RequesterUser::Author);
        let draft = Draft {
            item: &item,
            case_key: &case_key,
            delivery: &delivery,
            route: "rehearsal",
            label: "rehearsal",
            settings: &settings,
            plan: Plan { requester, fields: Fields::Configured, follow_up },
            service_user: Some(self.account.service_user.id),
        };
        let mut body = ticket::render(&draft).ticket;
        body["ticket"]["subject"] = json!(format!("{} ({part})", self.name()));
        body["ticket"]["tags"] = json!([TAG]);
        Request { case_key, delivery, body }
    }

    /// Sends a request to create a ticket, and records the ticket. The key is the delivery, as in the service.
    pub(super) async fn create(&mut self, request: &Request) -> Result<Reply, Interrupted> {
        if self.creates == MOST_TICKETS {
            let reason = format!("the rehearsal has already sent {MOST_TICKETS} creates");
            return Err(Interrupted::Failed(reason));
        }
        self.creates += 1;
        let Request { case_key, delivery, body } = request;
        let body = &body.to_string();
        let create = Create { body, idempotency_key: delivery, case_key, public: false, follow_up: None };
        let reply = self.ask(Call::Create, || self.zendesk.create_request(&create)).await;
        let in_doubt = match &reply {
            Ok(reply) => created(reply).is_none() && !(400..500).contains(&reply.status),
            Err(Interrupted::Failed(_)) => true,
            Err(Interrupted::Stopped | Interrupted::NoAccess(_)) => false,
        };
        if in_doubt {
            self.doubtful.push(case_key.clone());
        }
        let reply = reply?;
        if let Some(ticket) = created(&reply) {
            self.add(ticket.id);
        }
        Ok(reply)
    }

    /// Creates a ticket that an experiment needs.
    pub(super) async fn must_create(&mut self, request: &Request) -> Result<Ticket, Interrupted> {
        let reply = self.create(request).await?;
        created(&reply).ok_or_else(|| outcome(Call::Create, &reply).into())
    }

    fn add(&mut self, ticket: u64) {
        if self.tickets.iter().all(|made| made.ticket != ticket) {
            self.tickets.push(Made { ticket, state: Left::Open, problem: None });
        }
    }

    pub(super) fn set_state(&mut self, ticket: u64, state: Left) {
        if let Some(made) = self.tickets.iter_mut().find(|made| made.ticket == ticket) {
            made.state = state;
        }
    }

    /// Solves all tickets that are still open. A signal does not stop it.
    pub(super) async fn clean_up(&mut self) {
        self.stop = CancellationToken::new();
        for case_key in std::mem::take(&mut self.doubtful) {
            self.unknown_tickets(&case_key).await.into_iter().for_each(|ticket| self.add(ticket));
        }
        let open: Vec<u64> =
            self.tickets.iter().filter(|made| made.state == Left::Open).map(|made| made.ticket).collect();
        for ticket in open {
            match self.solve(ticket).await {
                Ok(()) => self.set_state(ticket, Left::Solved),
                Err(reason) => {
                    if let Some(made) = self.tickets.iter_mut().find(|made| made.ticket == ticket) {
                        made.problem = Some(reason);
                    }
                }
            }
        }
    }

    /// Looks for the ticket of a create without an answer, as long as the service would wait.
    async fn unknown_tickets(&self, case_key: &str) -> Vec<u64> {
        let is_unknown = |ticket: &u64| self.tickets.iter().all(|made| made.ticket != *ticket);
        let query = [("external_id", case_key)];
        let request = || self.zendesk.request(Method::GET, "/api/v2/tickets").query(&query);
        let find = async || {
            let reply = self.ask(Call::LookUp, request).await?;
            let tickets = reply.json::<TicketsReply>().map(|reply| reply.tickets).unwrap_or_default();
            let ours = tickets.iter().filter(|ticket| ticket.external_id.as_deref() == Some(case_key));
            let unknown: Vec<u64> = ours.map(|ticket| ticket.id).filter(is_unknown).collect();
            Ok((!unknown.is_empty()).then_some(unknown))
        };
        self.poll(POLL, find).await.ok().flatten().unwrap_or_default()
    }

    async fn solve(&self, ticket: u64) -> Result<(), String> {
        let mut reason = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(POLL).await;
            }
            reason = match self.set_status(ticket, "solved").await {
                Ok(reply) if reply.is_success() => return Ok(()),
                Ok(reply) => reply.reason("the solved status").log,
                Err(Interrupted::Failed(reason)) => reason,
                Err(Interrupted::NoAccess(outcome)) => return Err(outcome.log().to_owned()),
                Err(Interrupted::Stopped) => String::new(),
            };
        }
        Err(reason)
    }

    /// Sets the status. Zendesk may demand an assignee of a ticket that is solved.
    pub(super) async fn set_status(&self, ticket: u64, status: &str) -> Result<Reply, Interrupted> {
        let assignee = self.account.service_user.id;
        self.put(ticket, &json!({ "status": status, "assignee_id": assignee })).await
    }

    /// `PUT /api/v2/tickets/{id}`
    pub(super) async fn put(&self, ticket: u64, changes: &Value) -> Result<Reply, Interrupted> {
        let path = format!("/api/v2/tickets/{ticket}");
        let body = json!({ "ticket": changes });
        self.ask(Call::Comment, || self.zendesk.request(Method::PUT, &path).json(&body)).await
    }

    /// Reads a ticket that should be there.
    pub(super) async fn read(&self, ticket: u64) -> Result<Ticket, Interrupted> {
        let number = ticket.to_string();
        let shown = self.patiently(async || self.zendesk.show(&number).await).await?;
        shown.ok_or_else(|| Interrupted::Failed(format!("ticket {ticket} is not found")))
    }
}

/// The ticket in the answer to a create.
pub(super) fn created(reply: &Reply) -> Option<Ticket> {
    Some(reply.json::<TicketReply>().filter(|_| reply.is_success())?.ticket)
}
