//! A notification comes in: authenticated, read, stored, and only then answered.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest, Request, State};
use http_body_util::BodyExt;
use serde::Serialize;
use tracing::{error, info, warn};

use super::auth::BearerTokens;
use super::error::ApiError;
use crate::alert::{self, Reminder};
use crate::config;
use crate::inbox::{Inbox, NewDelivery, ReceiveError};
use crate::notification::{self, Arrival};

const BODY_LIMIT: usize = 2 << 20;
const READ_LIMIT: usize = 8 << 20;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Hosts' routers give up after 30 s; whoever asks again meets a row that is known.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// The route whose deliveries are known by their event alone.
const TUTORIAL: &str = config::LABEL_ROUTE;

/// What a door knows of its route.
#[derive(Clone)]
pub struct Route {
    pub name: String,
    pub event: String,
}

/// Takes notifications into the inbox.
#[derive(Clone)]
pub struct Receiver(Arc<Inner>);

struct Inner {
    inbox: Inbox,
    tokens: BearerTokens,
    company: u64,
    destination: &'static str,
    storage: std::sync::Mutex<Reminder>,
}

/// The body of a request that carried a valid token. Nobody else's is read.
pub struct Authenticated(Vec<u8>);

#[derive(Serialize)]
pub struct Received {
    /// Items in the notification.
    received: usize,
    /// Those of them that were not known before.
    new: usize,
}

impl Receiver {
    pub fn new(inbox: Inbox, tokens: BearerTokens, company: u64, destination: &'static str) -> Receiver {
        Receiver(Arc::new(Inner { inbox, tokens, company, destination, storage: Default::default() }))
    }
}

/// What comes in by the door of a route.
pub async fn receive(
    route: Route,
    State(Receiver(receiver)): State<Receiver>,
    Authenticated(body): Authenticated,
) -> Result<Json<Received>, ApiError> {
    let arrivals = notification::parse_as(&route.event, &body, receiver.company).map_err(|_| {
        warn!(size_bytes = body.len(), "refused an authenticated notification that is not JSON");
        ApiError::NotJson
    })?;
    drop(body);
    let received = arrivals.len();
    let event = arrivals.first().map(|first| (first.event_name.clone(), first.event_id.clone()));
    let (event_name, event) = event.unwrap_or_default();
    let odd = arrivals.iter().find_map(|arrival| arrival.odd);
    let new = receiver.store(&route.name, arrivals).await?;
    info!(
        route = route.name,
        event, event_name, received, new, "notification of {received} item(s), {new} new"
    );
    if let Some(odd) = odd.filter(|_| new > 0) {
        warn!(event, event_name, "kept as a dead delivery what cannot be a ticket: {odd}");
    }
    Ok(Json(Received { received, new }))
}

impl Inner {
    async fn store(&self, route: &str, arrivals: Vec<Arrival>) -> Result<usize, ApiError> {
        let deliveries = arrivals.into_iter().map(|arrival| self.delivery(route, arrival)).collect();
        match tokio::time::timeout(STORE_TIMEOUT, self.inbox.receive(deliveries)).await {
            Ok(Ok(new)) => {
                if self.storage().clear() {
                    info!("notifications are stored again");
                }
                Ok(new)
            }
            Ok(Err(error)) => Err(self.refuse(&error.to_string(), matches!(error, ReceiveError::Busy))),
            Err(_) => Err(self.refuse("the database does not answer", false)),
        }
    }

    fn delivery(&self, route: &str, arrival: Arrival) -> NewDelivery {
        NewDelivery {
            // Khoros tells each subscription, and each route owes its own: one event can be two.
            identity: match route {
                TUTORIAL => arrival.identity,
                route => format!("{}@{route}", arrival.identity),
            },
            destination: self.destination,
            case_key: arrival.case_key,
            route: route.to_owned(),
            event_id: arrival.event_id,
            event_name: arrival.event_name,
            payload: arrival.payload,
            dead: arrival.odd.map(str::to_owned),
            in_doubt: false,
        }
    }

    fn refuse(&self, reason: &str, busy: bool) -> ApiError {
        match !busy && self.storage().is_due(alert::STORAGE, std::time::Instant::now()) {
            true => {
                error!(alert = alert::STORAGE, "the database fails, notifications are answered 503: {reason}")
            }
            false => warn!("a notification was answered 503: {reason}"),
        }
        ApiError::Unavailable
    }

    fn storage(&self) -> std::sync::MutexGuard<'_, Reminder> {
        self.storage.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl FromRequest<super::Doors> for Authenticated {
    type Rejection = ApiError;

    /// The header decides before a byte of the body is read.
    async fn from_request(request: Request, doors: &super::Doors) -> Result<Self, ApiError> {
        if !doors.receiver.0.tokens.admit(request.headers()) {
            return Err(ApiError::Unauthorized);
        }
        match tokio::time::timeout(BODY_TIMEOUT, read(request.into_body())).await {
            Ok(read) => read.map(Authenticated),
            Err(_) => Err(ApiError::TooSlow),
        }
    }
}

/// Reads the whole body. What is too large is read on for a while and forgotten: a sender that is
/// hung up on while it sends may never see why.
async fn read(mut body: Body) -> Result<Vec<u8>, ApiError> {
    let (mut kept, mut length) = (Vec::new(), 0);
    while length <= READ_LIMIT
        && let Some(frame) = body.frame().await
    {
        // A body that breaks off is not JSON either, and its sender is gone.
        let data = frame.map_err(|_| ApiError::NotJson)?.into_data().unwrap_or_default();
        length += data.len();
        if length <= BODY_LIMIT {
            kept.extend_from_slice(&data);
        }
    }
    if length <= BODY_LIMIT { Ok(kept) } else { Err(ApiError::TooLarge) }
}
