//! Faults: queued by a test, drawn by chance, or lasting as an outage.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use serde_json::json;

use super::answer::{error_page, flaw, invalid, too_many, unauthorized};
use super::{Model, Shared};
use crate::server::BreakOff;

/// A fault of one request: of a create, or of an update if it is in [`Model::update_faults`]. For updates,
/// read "created" as "changed".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This status, with nothing created.
    Status(u16),
    /// This status, with the ticket created.
    StatusAfterCreate(u16),
    /// 429 with this `Retry-After` in seconds.
    TooMany(u64),
    /// The connection is reset; nothing was created.
    ResetBefore,
    /// The connection is reset; the ticket was created.
    ResetAfter,
    /// No answer ever; nothing is created.
    Hang,
    /// No answer ever; the ticket is created.
    HangAfterCreate,
    /// The connection is reset, and the ticket is created after this time. A late update applies to the
    /// ticket as it is by then.
    Late(Duration),
    /// 200 with an HTML page.
    Html,
    /// 422 with a text about the subject that contains a customer's name.
    Invalid,
    /// 422: the comment is blank.
    Blank,
    /// The ticket is created, and the answer is about the account's first ticket.
    Mixed,
    /// 401, and the access token is no longer valid. As a fault of creates, it meets the next call of any
    /// kind.
    Unauthorized,
}

/// Faults by chance; the same seed draws the same faults.
#[derive(Clone, Debug)]
pub struct Chaos {
    /// The generator that draws.
    pub chance: fastrand::Rng,
    /// The share of requests that meet a fault. Requests for tokens and for the count never do; reads and
    /// writes of users meet it before anything is done.
    pub percent: u32,
    /// The faults to draw from.
    pub faults: Vec<Fault>,
}

impl Chaos {
    fn draw(&mut self) -> Option<Fault> {
        let strikes = self.chance.u32(..100) < self.percent;
        strikes.then(|| self.chance.choice(&self.faults).cloned()).flatten()
    }
}

impl Shared {
    /// Does the work as far as its fault allows, and answers accordingly.
    pub(super) async fn perform(
        &self,
        draw: impl FnOnce(&mut Model) -> Option<Fault>,
        work: impl FnOnce(&mut Model) -> Response + Send + 'static,
    ) -> Response {
        let (response, hangs) = self.change(|model| {
            let fault = draw(model);
            let hangs = matches!(fault, Some(Fault::Hang | Fault::HangAfterCreate));
            (self.perform_under(fault, model, work), hangs)
        });
        if hangs {
            // Until the caller gives up: the connection is dropped together with this future.
            std::future::pending::<()>().await;
        }
        response
    }

    fn perform_under(
        &self,
        fault: Option<Fault>,
        model: &mut Model,
        work: impl FnOnce(&mut Model) -> Response + Send + 'static,
    ) -> Response {
        match fault {
            None => work(model),
            Some(Fault::StatusAfterCreate(status)) => {
                work(model);
                error_page(status)
            }
            Some(Fault::ResetAfter | Fault::HangAfterCreate) => {
                work(model);
                BreakOff.into_response()
            }
            Some(Fault::Late(delay)) => {
                tokio::spawn(self.clone().perform_late(delay, work));
                BreakOff.into_response()
            }
            Some(Fault::Hang | Fault::ResetBefore) => BreakOff.into_response(),
            Some(Fault::Status(status)) => error_page(status),
            Some(Fault::Html) => Html("<html>Welcome</html>").into_response(),
            Some(Fault::TooMany(seconds)) => too_many(seconds),
            Some(Fault::Invalid) => {
                invalid(flaw("subject", "Subject: Jane Doe is no subject", "InvalidValue"))
            }
            Some(Fault::Mixed) => {
                work(model);
                let other = model.tickets.first().cloned().unwrap_or_default();
                (StatusCode::CREATED, Json(json!({"ticket": other}))).into_response()
            }
            Some(Fault::Blank) => invalid(flaw("comment", "Description: cannot be blank", "BlankValue")),
            Some(Fault::Unauthorized) => {
                model.void = model.minted;
                unauthorized()
            }
        }
    }

    /// Zendesk finishes its work even if the caller has gone.
    async fn perform_late(self, delay: Duration, work: impl FnOnce(&mut Model) -> Response) {
        tokio::time::sleep(delay).await;
        self.change(work);
    }
}

impl Model {
    /// The fault's answer to a read or to a write of a user, if it meets one.
    pub(super) fn lost_answer(&mut self) -> Option<Response> {
        self.outage_or_chaos()?.answer_to_read()
    }

    pub(super) fn blocks(&self, body: &Bytes) -> bool {
        let text = String::from_utf8_lossy(body);
        self.firewall.as_ref().is_some_and(|blocked| text.contains(blocked))
    }

    pub(super) fn outage_or_chaos(&mut self) -> Option<Fault> {
        self.outage.clone().or_else(|| self.chaos.as_mut()?.draw())
    }

    /// The fault of this create.
    pub(super) fn next_fault(&mut self) -> Option<Fault> {
        let planned = self.outage.clone().or_else(|| self.faults.pop_front());
        planned.or_else(|| self.chaos.as_mut()?.draw())
    }

    /// The fault of this update of a ticket.
    pub(super) fn next_update_fault(&mut self) -> Option<Fault> {
        let planned = self.outage.clone().or_else(|| self.update_faults.pop_front());
        planned.or_else(|| self.chaos.as_mut()?.draw())
    }
}

impl Fault {
    /// The answer to a read, or to a write of a user; `None` if only other requests meet the fault.
    pub(super) fn answer_to_read(self) -> Option<Response> {
        match self {
            Fault::Status(status) | Fault::StatusAfterCreate(status) => Some(error_page(status)),
            Fault::ResetBefore | Fault::ResetAfter | Fault::Late(_) => Some(BreakOff.into_response()),
            Fault::TooMany(seconds) => Some(too_many(seconds)),
            Fault::Html => Some(Html("<html>Welcome</html>").into_response()),
            Fault::Hang | Fault::HangAfterCreate | Fault::Invalid | Fault::Blank => None,
            Fault::Mixed | Fault::Unauthorized => None,
        }
    }
}
