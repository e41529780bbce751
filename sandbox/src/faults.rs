//! Faults of the newer stand-ins, which a test queues or makes last.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use futures_util::stream;

use crate::server::BreakOff;
use crate::state::Shared;

/// How a stand-in answers a request instead of as usual. It processes the request only if the fault says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This status, these headers and this body.
    Answer {
        /// The status code.
        status: u16,
        /// The names and values of headers.
        headers: Vec<(&'static str, String)>,
        /// The text of the body.
        body: String,
    },
    /// This status with an empty body.
    Status(u16),
    /// This status with an empty body; the request is processed.
    StatusAfter(u16),
    /// 200 with this JSON.
    Json(&'static str),
    /// 200 with this JSON; the request is processed.
    JsonAfter(&'static str),
    /// 429 with this `Retry-After` in seconds.
    TooMany(u64),
    /// 200 with an HTML page, as from a proxy or a parked domain.
    Html,
    /// 307 to this address.
    Redirect(String),
    /// The connection is reset.
    ResetBefore,
    /// The connection is reset; the request is processed.
    ResetAfter,
    /// No answer, until the caller gives up.
    Hang,
    /// No answer, until the caller gives up; the request is processed.
    HangAfter,
    /// 200 with a body of ten bytes and this time before each; the request is processed.
    SlowBody(Duration),
    /// 200 with a body without end; the request is processed.
    EndlessBody,
}

/// The faults of a stand-in's requests.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Faults of the next requests, one for each.
    pub queue: VecDeque<Fault>,
    /// The fault of every request until it is cleared. Queued faults wait.
    pub outage: Option<Fault>,
    /// Faults by chance, of requests that meet no other.
    pub chaos: Option<Chaos>,
}

/// Faults by chance; the same seed draws the same faults.
#[derive(Clone, Debug)]
pub struct Chaos {
    /// The generator that draws.
    pub chance: fastrand::Rng,
    /// The share of requests that meet a fault.
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

impl Faults {
    /// Takes the fault of the next request.
    pub(crate) fn take(&mut self) -> Option<Fault> {
        let planned = self.outage.clone().or_else(|| self.queue.pop_front());
        planned.or_else(|| self.chaos.as_mut()?.draw())
    }
}

/// Processes a request as far as its fault allows, and returns the answer. `take` records the request and
/// returns its fault.
pub(crate) async fn process<M>(
    shared: &Shared<M>,
    take: impl FnOnce(&mut M) -> Option<Fault>,
    work: impl FnOnce(&mut M) -> Response,
) -> Response {
    let (response, hangs) = shared.change(|model| {
        let Some(fault) = take(model) else { return (work(model), false) };
        if fault.is_after_work() {
            work(model);
        }
        let hangs = matches!(fault, Fault::Hang | Fault::HangAfter);
        (fault.into_response(), hangs)
    });
    if hangs {
        // The connection is dropped together with this future.
        std::future::pending::<()>().await;
    }
    response
}

impl Fault {
    fn is_after_work(&self) -> bool {
        match self {
            Fault::Answer { .. } | Fault::Status(_) | Fault::TooMany(_) | Fault::Html => false,
            Fault::Json(_) | Fault::Redirect(_) | Fault::ResetBefore | Fault::Hang => false,
            Fault::JsonAfter(_) | Fault::StatusAfter(_) | Fault::ResetAfter | Fault::HangAfter => true,
            Fault::SlowBody(_) | Fault::EndlessBody => true,
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        match self {
            Fault::Answer { status, headers, body } => {
                let mut response = (status_of(status), body).into_response();
                for (name, value) in headers {
                    if let Ok(value) = HeaderValue::try_from(value) {
                        response.headers_mut().insert(name, value);
                    }
                }
                response
            }
            Fault::Status(status) | Fault::StatusAfter(status) => status_of(status).into_response(),
            Fault::Json(json) | Fault::JsonAfter(json) => {
                ([(header::CONTENT_TYPE, "application/json")], json).into_response()
            }
            Fault::TooMany(seconds) => {
                let headers = [(header::RETRY_AFTER, seconds.to_string())];
                (StatusCode::TOO_MANY_REQUESTS, headers).into_response()
            }
            Fault::Html => Html("<html><h1>Welcome</h1></html>").into_response(),
            Fault::Redirect(address) => {
                (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, address)]).into_response()
            }
            Fault::ResetBefore | Fault::ResetAfter | Fault::Hang | Fault::HangAfter => {
                BreakOff.into_response()
            }
            Fault::SlowBody(pause) => slow_body(pause).into_response(),
            Fault::EndlessBody => endless_body().into_response(),
        }
    }
}

fn slow_body(pause: Duration) -> Body {
    Body::from_stream(stream::unfold(10, move |left: u32| async move {
        let left = left.checked_sub(1)?;
        tokio::time::sleep(pause).await;
        Some((Ok::<_, Infallible>(Bytes::from_static(b"x")), left))
    }))
}

fn endless_body() -> Body {
    let chunk = || Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 8192]));
    Body::from_stream(stream::repeat_with(chunk))
}

fn status_of(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
