//! Zendesk Support: one ticket for each case, with two belts against a second one.
//!
//! `Idempotency-Key` holds for two hours and for equal bytes; `external_id` holds for ever but is
//! not enforced, so it is looked up whenever something may have been done already.

mod budget;
mod reply;
pub mod ticket;
mod token;

use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use reqwest::RequestBuilder;
use serde::Deserialize;
use serde_json::Value;
use tracing::{info, warn};
use url::Url;

use crate::alert;
use crate::config;
use crate::destination::{Create, Ready};
use crate::retry::{Doubt, Outcome, Reason};
use budget::Budget;
use reply::{Lost, Reply};
use token::{Credential, Key};

pub const NAME: &str = "zendesk";

/// The longest wait for anything but a create.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Triggers run before Zendesk answers a create.
const CREATE_TIMEOUT: Duration = Duration::from_secs(30);

pub struct Zendesk {
    http: reqwest::Client,
    origin: Url,
    credential: Credential,
    budget: Mutex<Budget>,
    call_timeout: Duration,
    create_timeout: Duration,
}

/// What we call for; the table of outcomes has a column for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Create,
    LookUp,
    Check,
}

impl Zendesk {
    /// `attempt_limit` is the longest that one delivery may take; the time-outs fit into it.
    pub fn new(config: config::Zendesk, http: reqwest::Client, attempt_limit: Duration) -> Zendesk {
        let call_timeout = CALL_TIMEOUT.min(attempt_limit * 3 / 10);
        let create_timeout = CREATE_TIMEOUT.min(attempt_limit * 6 / 10);
        let credential = Credential::new(config.credentials, http.clone(), &config.url, call_timeout);
        let budget = Mutex::new(Budget::new(config.budget_percent, Instant::now()));
        Zendesk { http, origin: config.url, credential, budget, call_timeout, create_timeout }
    }

    /// `POST /api/v2/tickets`: one ticket per call, since the bulk job has no idempotency key and
    /// fails items silently.
    pub async fn create(&self, create: &Create<'_>) -> Outcome {
        let request = || {
            self.http
                .post(self.url("/api/v2/tickets"))
                .timeout(self.create_timeout)
                .header("accept", "application/json")
                .header("content-type", "application/json")
                .header("idempotency-key", create.idempotency_key)
                .body(create.body.to_owned())
        };
        let reply =
            match self.call(Call::Create, request, || create.sent.store(true, Ordering::Relaxed)).await {
                Ok(reply) => reply,
                Err(outcome) => return outcome,
            };
        if reply.status == 400 && reply.says("IdempotentRequestError") {
            return self.adopt(create.case_key, &reply).await;
        }
        match reply.json::<TicketReply>() {
            Some(TicketReply { ticket: Ticket { id, .. } }) if reply.is_success() => {
                Outcome::Done { reference: id.to_string() }
            }
            _ => outcome(Call::Create, &reply),
        }
    }

    /// The ticket that carries this `external_id`: the open one with the lowest number, else the
    /// newest. The list endpoint reads the store itself, not the search index, which lags behind.
    pub async fn look_up(&self, case_key: &str) -> Result<Option<String>, Outcome> {
        let request = || {
            self.http
                .get(self.url("/api/v2/tickets"))
                .query(&[("external_id", case_key)])
                .header("accept", "application/json")
                .timeout(self.call_timeout)
        };
        let mut reply = self.call(Call::LookUp, request, || ()).await?;
        if reply.status == 409 {
            reply = self.call(Call::LookUp, request, || ()).await?;
        }
        let Some(TicketsReply { tickets }) = reply.json().filter(|_| reply.is_success()) else {
            return Err(outcome(Call::LookUp, &reply));
        };
        // A filter that Zendesk did not apply must not make us adopt a stranger's ticket.
        let ours = tickets.into_iter().filter(|ticket| ticket.external_id.as_deref() == Some(case_key));
        let (closed, open): (Vec<Ticket>, Vec<Ticket>) = ours.partition(Ticket::is_closed);
        if open.len() + closed.len() > 1 {
            warn!(case = case_key, "{} tickets carry the id of one case", open.len() + closed.len());
        }
        let lowest_open = open.iter().map(|ticket| ticket.id).min();
        let found = lowest_open.or_else(|| closed.iter().map(|ticket| ticket.id).max());
        Ok(found.map(|id| id.to_string()))
    }

    /// `GET /api/v2/tickets/count`: 401 tells a bad credential, where `users/me` would answer 200 to
    /// a stranger. It also keeps an API token from being switched off for 30 idle days.
    pub async fn check(&self) -> Result<(), Outcome> {
        let request = || {
            self.http
                .get(self.url("/api/v2/tickets/count"))
                .header("accept", "application/json")
                .timeout(self.call_timeout)
        };
        let reply = self.call(Call::Check, request, || ()).await?;
        match reply.json::<Value>() {
            Some(body) if reply.is_success() && body["count"].is_object() => Ok(()),
            _ => Err(outcome(Call::Check, &reply)),
        }
    }

    pub fn render(&self, item: &crate::notification::Item, case_key: &str, label: &str) -> String {
        let draft = ticket::Draft {
            item,
            case_key,
            delivery: case_key,
            route: "label",
            label,
            settings: &config::Ticket::default(),
            plan: ticket::Plan { requester: None, fields: ticket::Fields::Configured },
            service_user: None,
            follow_up: None,
        };
        let rendered = ticket::render(&draft);
        rendered.failures.iter().for_each(|failure| {
            warn!(case = case_key, "a template failed, and the ticket does without it: {failure}")
        });
        rendered.ticket.to_string()
    }

    pub fn ready(&self, now: Instant) -> Ready {
        self.budget().ready(now)
    }

    /// The key was used with other bytes: ours if the ticket is there, and a defect if not.
    async fn adopt(&self, case_key: &str, reply: &Reply) -> Outcome {
        match self.look_up(case_key).await {
            Ok(Some(reference)) => Outcome::Done { reference },
            Ok(None) => Outcome::Dead { reason: reply.reason("the ticket") },
            Err(outcome) => outcome,
        }
    }

    /// Sends a request with the credential, and once more with a new one after a 401. `sending` is
    /// called before bytes go out.
    async fn call(
        &self,
        call: Call,
        request: impl Fn() -> RequestBuilder,
        sending: impl Fn(),
    ) -> Result<Reply, Outcome> {
        let (reply, key) = self.send(call, request(), &sending).await?;
        if reply.status == 401 && self.credential.refuses(&key).await {
            info!("Zendesk no longer takes our OAuth token: asking for a new one");
            return self.send(call, request(), &sending).await.map(|(reply, _)| reply);
        }
        Ok(reply)
    }

    async fn send(
        &self,
        call: Call,
        request: RequestBuilder,
        sending: &impl Fn(),
    ) -> Result<(Reply, Key), Outcome> {
        let key = self.credential.key().await?;
        let _in_flight = self.take().await?;
        sending();
        let reply = reply::send(key.sign(request)).await.map_err(|lost| lost_outcome(call, &lost))?;
        self.budget().learn(reply.rate, Instant::now());
        Ok((reply, key))
    }

    /// Waits for a place in the budget, if that is a matter of seconds.
    async fn take(&self) -> Result<InFlight<'_>, Outcome> {
        loop {
            let taken = self.budget().take(Instant::now());
            let Err(later) = taken else { return Ok(InFlight(&self.budget)) };
            let wait = later.saturating_duration_since(Instant::now());
            if wait > self.call_timeout / 3 {
                let reason = Reason::new("our share of Zendesk's requests per minute is used up");
                return Err(Outcome::Wait { reason, doubt: Doubt::None, wait });
            }
            tokio::time::sleep(wait).await;
        }
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.origin.clone();
        url.set_path(path);
        url
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Counts a request as in flight until it is dropped, however that comes about.
struct InFlight<'a>(&'a Mutex<Budget>);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).ended();
    }
}

/// The table: what follows from an answer that is not what we asked for.
fn outcome(call: Call, reply: &Reply) -> Outcome {
    let reason = reply.reason(call.name());
    let alerting = |code| Reason { alert: Some(code), ..reason.clone() };
    // Only a create does something: whatever else fails leaves no doubt of its own.
    let doubt = |doubt| if call == Call::Create { doubt } else { Doubt::None };
    let pause = |reason, doubt| Outcome::Pause { reason, doubt, retry_after: reply.retry_after };
    match reply.status {
        300..=399 | 404 => pause(alerting(alert::ZENDESK_ADDRESS), Doubt::None),
        400 | 413 | 422 => Outcome::Dead { reason },
        401 => pause(alerting(alert::ZENDESK_CREDENTIAL), Doubt::None),
        403 => pause(alerting(alert::ZENDESK_FORBIDDEN), Doubt::None),
        // The list of tickets has a limit of its own, which says nothing of creates.
        429 if call == Call::LookUp && reply.rate.remaining != Some(0) => {
            let wait = reply.retry_after.unwrap_or(Duration::from_secs(5));
            Outcome::Wait { reason, doubt: Doubt::None, wait }
        }
        429 => pause(reason, Doubt::None),
        // Maintenance, or a time-out of its database.
        500..=599 if reply.status == 503 || reply.retry_after.is_some() => {
            pause(reason, doubt(Doubt::Answered))
        }
        // A gateway, here or at Cloudflare, speaks for a Zendesk that may be at work still.
        502 | 504 | 520..=530 => pause(reason, doubt(Doubt::Unanswered)),
        // A conflict can mean that an earlier copy of the same request got through.
        _ => Outcome::Retry { reason, doubt: doubt(Doubt::Answered) },
    }
}

fn lost_outcome(call: Call, lost: &Lost) -> Outcome {
    let reason = Reason::new(lost.to_string());
    match (lost.unsent, call) {
        (true, _) => Outcome::Pause { reason, doubt: Doubt::None, retry_after: None },
        (false, Call::Create) => Outcome::Retry { reason, doubt: Doubt::Unanswered },
        (false, _) => Outcome::Retry { reason, doubt: Doubt::None },
    }
}

impl Call {
    fn name(self) -> &'static str {
        match self {
            Call::Create => "the ticket",
            Call::LookUp => "the look-up",
            Call::Check => "the check of the credential",
        }
    }
}

#[derive(Deserialize)]
struct TicketReply {
    ticket: Ticket,
}

#[derive(Deserialize)]
struct TicketsReply {
    tickets: Vec<Ticket>,
}

#[derive(Deserialize)]
struct Ticket {
    id: u64,
    external_id: Option<String>,
    status: Option<String>,
}

impl Ticket {
    fn is_closed(&self) -> bool {
        self.status.as_deref() == Some("closed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each cell of the table, in a word.
    fn cell(outcome: &Outcome) -> String {
        match outcome {
            Outcome::Done { .. } => "done".to_owned(),
            Outcome::Dead { .. } => "dead".to_owned(),
            Outcome::Wait { .. } => "wait".to_owned(),
            Outcome::Retry { doubt, .. } => format!("retry {doubt:?}"),
            Outcome::Pause { reason, doubt, .. } => {
                format!("pause {doubt:?} {}", reason.alert.unwrap_or("-"))
            }
        }
    }

    #[test]
    fn the_table_of_outcomes() {
        for (status, create, look_up) in [
            (200, "retry Answered", "retry None"),
            (302, "pause None zendesk_address", "pause None zendesk_address"),
            (400, "dead", "dead"),
            (401, "pause None zendesk_credential", "pause None zendesk_credential"),
            (403, "pause None zendesk_forbidden", "pause None zendesk_forbidden"),
            (404, "pause None zendesk_address", "pause None zendesk_address"),
            (409, "retry Answered", "retry None"),
            (413, "dead", "dead"),
            (422, "dead", "dead"),
            (429, "pause None -", "wait"),
            (500, "retry Answered", "retry None"),
            (502, "pause Unanswered -", "pause None -"),
            (503, "pause Answered -", "pause None -"),
            (504, "pause Unanswered -", "pause None -"),
            (522, "pause Unanswered -", "pause None -"),
        ] {
            let reply = Reply::of(status, "<html>");
            assert_eq!(cell(&outcome(Call::Create, &reply)), create, "create, {status}");
            assert_eq!(cell(&outcome(Call::LookUp, &reply)), look_up, "look-up, {status}");
        }
    }

    #[test]
    fn an_answer_that_did_not_come() {
        for (unsent, create, look_up) in
            [(true, "pause None -", "pause None -"), (false, "retry Unanswered", "retry None")]
        {
            let lost = Lost { unsent, kind: "gone" };
            assert_eq!(cell(&lost_outcome(Call::Create, &lost)), create);
            assert_eq!(cell(&lost_outcome(Call::LookUp, &lost)), look_up);
        }
    }
}
