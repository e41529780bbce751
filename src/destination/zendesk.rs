//! Zendesk Support: one ticket for each case, with two safeguards against a second one.
//!
//! An `Idempotency-Key` is valid for two hours and for equal bytes. An `external_id` is permanent but not
//! unique, so the ticket is looked up whenever an earlier request may have created it.

mod adopt;
mod alerts;
mod attempt;
mod audits;
mod author;
mod budget;
pub mod check;
mod create;
mod deleted;
mod legacy;
pub mod memory;
mod merge;
mod outcome;
mod pending_requester;
pub mod plan;
mod reconcile;
pub mod rehearse;
mod reply;
mod requester;
mod requests;
pub mod settings;
mod setup;
mod storm;
mod text;
pub mod ticket;
mod token;
mod update;

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reqwest::{Method, RequestBuilder};
use serde::Deserialize;
use serde_json::Value;
use tracing::{error, info, warn};

use crate::alert::{Registry, Reminder};
use crate::delivery::{Action, Claim, Doubt, Outcome, Reason};
use crate::destination::held::Held;
use crate::destination::{Alerts, Guarantee, Ready};
use crate::item::with_lower_network;
use crate::ledger::{Ledger, Memos, StorageError};
pub use alerts::ALERT_CODES;
use audits::Audit;
pub use author::AuthorLookup;
use author::Authors;
use budget::{ASSUMED_REQUESTS, ASSUMED_UPDATES, Budget};
pub use check::rows;
use deleted::DeletedTickets;
use outcome::{Call, lost_outcome, outcome};
pub use reconcile::{Existence, FoundTicket};
use reply::Reply;
pub use requester::RequesterUpdate;
use requests::{InFlight, Requests};
use settings::ZendeskSettings;
pub use settings::{SECTIONS, ZendeskSettings as Settings, is_configured, read};
pub use setup::{AccessError, LookupResult};
pub use token::Grant;
use token::{Credential, Key};
pub use update::{Ended, StatusChange, Update, UpdateResult};

pub const NAME: &str = "zendesk";
pub const GUARANTEE: Guarantee = Guarantee::Once;
pub const CACHES: &[&str] = &[AUTHORS, ADOPTED];
pub const LIMITS: &[&str] = &["storm_limit"];
/// The number of concurrent deliveries. Up to 11 of them may wait for the user of their author.
pub const IN_FLIGHT: usize = 27;
pub const ALERTS: Alerts = Alerts { down: alerts::DOWN, refuses: alerts::REFUSES };
/// The scope of memos with the number of each author's user.
const AUTHORS: &str = "author";
/// The scope of memos for tickets whose requester is to become their author: by ticket, the delivery that created
/// it.
const REQUESTERS: &str = "requester";
/// The scope of memos for adopted tickets, by case.
const ADOPTED: &str = "adopted";

/// The longest wait for anything but a create.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Triggers run before Zendesk answers a create.
const CREATE_TIMEOUT: Duration = Duration::from_secs(30);

pub struct Zendesk {
    http: reqwest::Client,
    settings: ZendeskSettings,
    credential: Credential,
    requests: Requests,
    updates: Mutex<Budget>,
    authors: Authors,
    /// Reminds of refused `TICKET_…` settings.
    refused_fields: Mutex<Reminder>,
    /// Reminds of tickets that we may not see.
    hidden_tickets: Mutex<Reminder>,
    deleted: DeletedTickets,
    held: Held,
    call_timeout: Duration,
    create_timeout: Duration,
}

/// A request to create a ticket: the frozen bytes, and the two safeguards against a second ticket.
pub struct Create<'a> {
    pub body: &'a str,
    pub idempotency_key: &'a str,
    pub case_key: &'a str,
    /// As the bytes say: the first comment is public.
    pub public: bool,
    /// As the bytes say: the closed ticket that this one follows up.
    pub follow_up: Option<u64>,
}

/// The tickets of a case.
#[derive(Default)]
pub struct CaseTickets {
    /// The open one with the lowest number.
    pub open: Option<String>,
    /// The newest closed one that was not merged.
    pub closed: Option<String>,
    /// The tickets that agents merged into others, the newest last.
    pub merged: Vec<String>,
}

impl CaseTickets {
    /// Returns the ticket of the case, unless it was merged.
    pub fn current(&self) -> Option<String> {
        self.open.clone().or_else(|| self.closed.clone())
    }

    /// Returns the ticket of the case, or else the newest merged one.
    pub fn last(&self) -> Option<String> {
        self.current().or_else(|| self.merged.last().cloned())
    }
}

/// Why a create failed.
#[derive(Debug)]
pub enum Failure {
    /// Zendesk refused these fields and created nothing.
    Refused {
        reason: Reason,
        fields: Vec<String>,
    },
    Outcome(Outcome),
}

impl From<Outcome> for Failure {
    fn from(outcome: Outcome) -> Failure {
        Failure::Outcome(outcome)
    }
}

impl Zendesk {
    /// `attempt_limit` is the longest that one delivery may take; the timeouts fit into it.
    pub fn new(settings: ZendeskSettings, http: reqwest::Client, attempt_limit: Duration) -> Zendesk {
        let call_timeout = CALL_TIMEOUT.min(attempt_limit * 3 / 10);
        let create_timeout = CREATE_TIMEOUT.min(attempt_limit * 6 / 10);
        let credential = Credential::new(&settings, http.clone(), call_timeout);
        let now = Instant::now();
        let zendesk = Zendesk {
            http,
            credential,
            requests: Requests::new(Budget::new(settings.budget_percent, ASSUMED_REQUESTS, now)),
            updates: Mutex::new(Budget::new(settings.update_budget_percent, ASSUMED_UPDATES, now)),
            authors: Authors::new(attempt_limit),
            settings,
            refused_fields: Mutex::default(),
            hidden_tickets: Mutex::default(),
            deleted: DeletedTickets::default(),
            held: Held::new("zendesk.storm"),
            call_timeout,
            create_timeout,
        };
        zendesk.log_adoption();
        zendesk
    }

    /// `POST /api/v2/tickets`. Returns the number of the ticket. One ticket per call, since the bulk job has no
    /// idempotency key and fails items silently. Safe to repeat with the same arguments. Checks the fence before
    /// the first byte goes out.
    ///
    /// # Errors
    /// [`Failure`]
    pub async fn create(&self, create: &Create<'_>, ledger: &Ledger<'_>) -> Result<String, Failure> {
        let reply = self.call(Call::Create, || self.create_request(create), Some(ledger)).await?;
        match reply.json::<TicketReply>() {
            // A proxy may have mixed up its answers, so the next attempt looks the ticket up.
            Some(TicketReply { ticket, .. }) if reply.is_success() && !ticket.is_of(create.case_key) => {
                let reason = Reason::new("Zendesk's answer to the create shows the ticket of another case");
                Err(Outcome::Retry { reason, doubt: Doubt::Answered }.into())
            }
            Some(TicketReply { ticket, audit }) if reply.is_success() => {
                compare_privacy(create, ticket.id, &audit.unwrap_or_default(), ledger.alerts());
                Ok(ticket.id.to_string())
            }
            // The key was used with other bytes. If there is a ticket, it is ours; otherwise that is a defect.
            _ if reply.status == 400 && reply.has_error("IdempotentRequestError") => {
                let found = self.look_up(create.case_key).await?.last();
                found.ok_or_else(|| Outcome::Refused { reason: reply.reason("the ticket") }.into())
            }
            // The closed ticket was deleted in the meantime.
            _ if reply.is_not_found() && create.follow_up.is_some() => {
                let fields = vec!["via_followup_source_id".to_owned()];
                Err(Failure::Refused { reason: reply.reason(Call::Create.name()), fields })
            }
            _ if reply.status == 422 && !reply.refuses_blank_comment() => {
                let reason = reply.reason(Call::Create.name());
                Err(Failure::Refused { reason, fields: reply.refused_fields() })
            }
            _ => Err(outcome(Call::Create, &reply).into()),
        }
    }

    fn create_request(&self, create: &Create<'_>) -> RequestBuilder {
        self.request(Method::POST, "/api/v2/tickets")
            .timeout(self.create_timeout)
            .header("content-type", "application/json")
            .header("idempotency-key", create.idempotency_key)
            .body(create.body.to_owned())
    }

    /// Lists the tickets with this `external_id`. The endpoint reads the store itself, not the search index,
    /// which lags behind.
    ///
    /// # Errors
    /// The outcome of the attempt that needs the answer.
    pub async fn look_up(&self, case_key: &str) -> Result<CaseTickets, Outcome> {
        let request = || self.request(Method::GET, "/api/v2/tickets").query(&[("external_id", case_key)]);
        let reply = self.repeatable(Call::LookUp, request).await?;
        let Some(TicketsReply { mut tickets }) = reply.json().filter(|_| reply.is_success()) else {
            return Err(outcome(Call::LookUp, &reply));
        };
        // A filter that Zendesk did not apply must not make us adopt the ticket of somebody else.
        tickets.retain(|ticket| ticket.has_external_id(case_key));
        tickets.sort_by_key(|ticket| ticket.id);
        let (mut found, mut open) = (CaseTickets::default(), 0);
        for ticket in tickets {
            let number = ticket.id.to_string();
            if ticket.is_merged() {
                found.merged.push(number);
            } else if ticket.is_closed() {
                found.closed = Some(number);
            } else {
                found.open.get_or_insert(number);
                open += 1;
            }
        }
        // A closed ticket and its follow-up have the same id by design.
        if open > 1 {
            warn!(
                event = "ticket_duplicate_found",
                case = case_key,
                "{open} open tickets have the external_id of one case: using the oldest"
            );
        }
        Ok(found)
    }

    /// `GET /api/v2/tickets/count`: answers 401 to a bad credential, where `users/me` would answer 200 to
    /// anybody. It also keeps an API token from being switched off after 30 idle days.
    ///
    /// # Errors
    /// The outcome that a delivery would have now.
    pub async fn check_access(&self) -> Option<Result<(), Outcome>> {
        Some(self.check_credential().await)
    }

    async fn check_credential(&self) -> Result<(), Outcome> {
        let request = || self.request(Method::GET, "/api/v2/tickets/count");
        let reply = self.repeatable(Call::Check, request).await?;
        match reply.json::<Value>() {
            Some(body) if reply.is_success() && body["count"].is_object() => Ok(()),
            _ => Err(outcome(Call::Check, &reply)),
        }
    }

    /// Wakes held deliveries, and sets the requester of a ticket that waits for it.
    pub async fn work_in_background(&self, memos: &Memos) -> Result<Option<Duration>, StorageError> {
        self.set_pending_requester(memos).await.map(Some)
    }

    pub fn log_done(&self, claim: &Claim, action: Action, reference: &str) {
        let (action, attempts) = (action.name(), claim.attempts);
        let Claim { case_key: case, identity: delivery, destination, .. } = claim;
        info!(
            event = "delivery_done",
            case,
            delivery,
            destination,
            attempts,
            action,
            ticket = reference,
            "{action} ticket {reference} for {case}"
        );
    }

    /// Where agents find a ticket.
    fn ticket_url(&self, ticket: &str) -> String {
        let mut url = self.settings.url.clone();
        url.set_path(&format!("/agent/tickets/{ticket}"));
        url.into()
    }

    pub fn ready(&self, now: Instant) -> Ready {
        self.requests.ready(now)
    }

    /// Reports that Zendesk refused `TICKET_…` settings, so that the ticket goes out without them.
    pub fn report_refused_fields(&self, case_key: &str, reason: &Reason) {
        match self.refused_fields.lock().is_due(alerts::FIELDS, Instant::now()) {
            true => error!(
                event = "ticket_fields_refused",
                alert = alerts::FIELDS,
                case = case_key,
                "Zendesk refuses values of TICKET_… settings, so tickets go out without them, tagged {}. \
                 Correct them: {}",
                settings::ticket::FALLBACK_TAG,
                reason.log
            ),
            false => info!(
                event = "ticket_fields_refused",
                case = case_key,
                "creating the ticket for {case_key} without the TICKET_… settings: {}",
                reason.log
            ),
        }
    }

    /// Reports a ticket that is neither found nor known to be deleted. If it exists, another one would be a
    /// duplicate.
    pub fn report_hidden_ticket(&self, case_key: &str, ticket: &str) -> Outcome {
        let text = format!("ticket {ticket} is neither found nor listed as deleted");
        if self.hidden_tickets.lock().is_due(alerts::TICKET_HIDDEN, Instant::now()) {
            error!(
                event = "ticket_hidden",
                alert = alerts::TICKET_HIDDEN,
                case = case_key,
                ticket,
                "{text}; not replacing it. Give the service user access, then replay"
            );
        }
        Outcome::Stuck { reason: Reason::alert(alerts::TICKET_HIDDEN, text) }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut url = self.settings.url.clone();
        url.set_path(path);
        self.http.request(method, url).header("accept", "application/json").timeout(self.call_timeout)
    }

    /// Sends a request that can be repeated.
    async fn repeatable(&self, call: Call, request: impl Fn() -> RequestBuilder) -> Result<Reply, Outcome> {
        self.call(call, request, None).await
    }

    /// Sends a request with the credential, and once more with a new one after a 401. Checks the fence after
    /// every wait, immediately before bytes go out.
    async fn call(
        &self,
        call: Call,
        request: impl Fn() -> RequestBuilder,
        ledger: Option<&Ledger<'_>>,
    ) -> Result<Reply, Outcome> {
        let (reply, key) = self.send(call, request(), ledger).await?;
        if reply.status == 401 && self.credential.refuses(&key).await {
            info!(event = "token_refused", "Zendesk refused the OAuth token: requesting a new one");
            return self.send(call, request(), ledger).await.map(|(reply, _)| reply);
        }
        Ok(reply)
    }

    async fn send(
        &self,
        call: Call,
        request: RequestBuilder,
        ledger: Option<&Ledger<'_>>,
    ) -> Result<(Reply, Key), Outcome> {
        let key = self.credential.key().await?;
        let _request = self.take().await?;
        let _update = if call.is_update() { Some(self.take_update()?) } else { None };
        if let Some(ledger) = ledger {
            ledger.sending().await?;
        }
        let reply = reply::send(key.sign(request)).await.map_err(|lost| lost_outcome(call, &lost))?;
        if let Some(ledger) = ledger {
            ledger.answered(reply.response());
        }
        let now = Instant::now();
        self.requests.budget().learn(reply.rate, now);
        self.updates.lock().learn(reply.updates, now);
        Ok((reply, key))
    }

    /// Takes a request from the budget, after a wait of a few seconds at most.
    async fn take(&self) -> Result<InFlight<'_>, Outcome> {
        self.requests.take(self.call_timeout / 3).await.map_err(|wait| {
            let reason = Reason::new("casebridge's share of Zendesk's requests per minute is used up");
            Outcome::Later { reason, wait }
        })
    }

    fn take_update(&self) -> Result<InFlight<'_>, Outcome> {
        let taken = self.updates.lock().take(Instant::now());
        taken.map(|()| InFlight(&self.updates)).map_err(|_| self.queue_update())
    }

    /// Checks whether a ticket update may go out now. Updates are scarcer than creates, and creates go first.
    /// Call it before the first read of a ticket, since each read uses up budget that creates need.
    ///
    /// # Errors
    /// [`Outcome::Later`], with the wait.
    pub fn check_update_budget(&self) -> Result<(), Outcome> {
        if self.has_update_budget() { Ok(()) } else { Err(self.queue_update()) }
    }

    /// Does the same for work that can wait, without a place in the queue.
    pub fn has_update_budget(&self) -> bool {
        let now = Instant::now();
        let is_due = matches!(self.updates.lock().ready(now), Ready::Now(_));
        is_due && self.requests.budget().has_plenty(now)
    }

    fn queue_update(&self) -> Outcome {
        let now = Instant::now();
        let wait = self.updates.lock().queue(now).saturating_duration_since(now);
        let reason = Reason::new(
            "casebridge's share of Zendesk's updates per minute is used up, or new tickets go first",
        );
        Outcome::Later { reason, wait: wait.max(Duration::from_secs(1)) }
    }
}

/// Reports a first comment that Zendesk has made private, or public, by its own rules.
fn compare_privacy(create: &Create, ticket: u64, audit: &Audit, alerts: &Registry) {
    let result = match (create.public, audit.comment().and_then(|comment| comment["public"].as_bool())) {
        (false, Some(true)) => "public instead of private",
        (true, Some(false)) => "private instead of public",
        _ => return,
    };
    let case = create.case_key;
    alerts.happened(alerts::PRIVACY, "", format!("the first comment of ticket {ticket} is {result}"));
    error!(
        event = "ticket_privacy_wrong",
        alert = alerts::PRIVACY,
        case,
        ticket,
        "the first comment of ticket {ticket} is {result}: correct it, and check the role of the service user"
    );
}

#[derive(Deserialize)]
struct TicketReply {
    ticket: Ticket,
    audit: Option<Audit>,
}

#[derive(Deserialize)]
struct TicketsReply {
    tickets: Vec<Ticket>,
}

#[derive(Deserialize)]
struct Ticket {
    id: u64,
    external_id: Option<String>,
    subject: Option<String>,
    status: Option<String>,
    updated_at: Option<String>,
    priority: Option<String>,
    tags: Option<Vec<String>>,
    requester_id: Option<u64>,
    is_public: Option<bool>,
}

impl Ticket {
    /// Whether the ticket belongs to this case, as far as is known. Earlier versions kept the spelling of networks.
    fn is_of(&self, case_key: &str) -> bool {
        self.external_id.as_deref().is_none_or(|id| id == case_key || with_lower_network(id) == case_key)
    }
}
