//! Turns notifications, of either origin, into deliveries in the inbox. Only this module decides the identity
//! and the destination of a delivery, so that a push and the feed never store the same one twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::{error, info, warn};

use crate::alert::{self, Reminder};
use crate::config::{LABEL_ROUTE, Route};
use crate::inbox::{Inbox, NewDelivery, ReceiveError};
use crate::item::Unprocessable;
use crate::source::khoros::notification::{self, Arrival, NotJson};

/// Hosts' routers give up after 30 s. A repeated request finds its rows known.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// How an event reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Khoros sent a notification.
    Push,
    /// It was read from a feed. Feeds also contain old events: an event may have a ticket although the inbox
    /// does not know it.
    Feed,
}

/// Stores events in the inbox; clones share it.
#[derive(Clone)]
pub struct Intake(Arc<Inner>);

struct Inner {
    inbox: Inbox,
    company: u64,
    destination: &'static str,
    storage: Mutex<Reminder>,
}

/// One event, ready to be stored.
#[derive(Debug, Default)]
pub struct Notification {
    pub event: String,
    pub event_name: String,
    unprocessable: Option<Unprocessable>,
    deliveries: Vec<NewDelivery>,
}

impl Notification {
    /// Number of its items.
    pub fn items(&self) -> usize {
        self.deliveries.len()
    }

    /// Identities of its items.
    pub fn identities(&self) -> impl Iterator<Item = &str> {
        self.deliveries.iter().map(|delivery| delivery.identity.as_str())
    }

    /// Approximate bytes of its items in memory.
    pub fn bytes(&self) -> usize {
        self.deliveries.iter().map(|delivery| delivery.payload.len()).sum()
    }
}

/// The events may not be stored; the log has the reason.
#[derive(Debug, PartialEq, Eq)]
pub struct NotStored;

impl Intake {
    pub fn new(inbox: Inbox, company: u64, destination: &'static str) -> Intake {
        Intake(Arc::new(Inner { inbox, company, destination, storage: Mutex::default() }))
    }

    /// Reads the body of a notification for this route.
    ///
    /// # Errors
    /// Only [`NotJson`].
    pub fn read(&self, route: &Route, body: &[u8], origin: Origin) -> Result<Notification, NotJson> {
        let arrivals = notification::parse(&route.event, body, self.0.company)?;
        let (event, event_name) = arrivals
            .first()
            .map(|first| (first.event_id.clone(), first.event_name.clone()))
            .unwrap_or_default();
        let unprocessable = arrivals.iter().find_map(|arrival| arrival.unprocessable);
        let deliveries = arrivals.into_iter().map(|arrival| self.delivery(&route.name, arrival, origin));
        Ok(Notification { event, event_name, unprocessable, deliveries: deliveries.collect() })
    }

    /// Stores notifications; returns how many of their items were new.
    ///
    /// # Errors
    /// [`NotStored`]; some may be stored nevertheless, and all can safely be stored again.
    pub async fn store(&self, notifications: Vec<Notification>, origin: Origin) -> Result<usize, NotStored> {
        let (unprocessable, plain): (Vec<_>, Vec<_>) =
            notifications.into_iter().partition(|notification| notification.unprocessable.is_some());
        let new = self.receive(deliveries_of(plain), origin).await?;
        let first = unprocessable
            .first()
            .and_then(|first| Some((first.event.clone(), first.event_name.clone(), first.unprocessable?)));
        let new_unprocessable = self.receive(deliveries_of(unprocessable), origin).await?;
        if let Some((event_id, event_name, reason)) = first
            && new_unprocessable > 0
        {
            warn!(
                event = "item_unprocessable",
                event_id, event_name, "stored an unprocessable event as a dead delivery: {reason}"
            );
        }
        Ok(new + new_unprocessable)
    }

    async fn receive(&self, deliveries: Vec<NewDelivery>, origin: Origin) -> Result<usize, NotStored> {
        if deliveries.is_empty() {
            return Ok(0);
        }
        match tokio::time::timeout(STORE_TIMEOUT, self.0.inbox.receive(deliveries)).await {
            Ok(Ok(new)) => {
                if self.0.storage.lock().clear() {
                    info!(event = "storage_recovered", "the database works again: notifications are stored");
                }
                Ok(new)
            }
            Ok(Err(error)) => Err(self.fail(&error.to_string(), matches!(error, ReceiveError::Busy), origin)),
            Err(_) => Err(self.fail("the database does not answer", false, origin)),
        }
    }

    fn delivery(&self, route: &str, arrival: Arrival, origin: Origin) -> NewDelivery {
        NewDelivery {
            // Khoros notifies each subscription, and each route makes its own ticket of an event. Only the
            // identities of the tutorial's route lack its name.
            identity: match route {
                LABEL_ROUTE => arrival.identity,
                route => format!("{}@{route}", arrival.identity),
            },
            destination: self.0.destination,
            case_key: arrival.case_key,
            route: route.to_owned(),
            event_id: arrival.event_id,
            event_name: arrival.event_name,
            payload: arrival.payload,
            dead: arrival.unprocessable.map(str::to_owned),
            in_doubt: origin == Origin::Feed,
        }
    }

    fn fail(&self, reason: &str, busy: bool, origin: Origin) -> NotStored {
        let alarming = !busy && self.0.storage.lock().is_due(alert::STORAGE, Instant::now());
        let (origin, consequence) = match origin {
            Origin::Push => ("push", "notifications are answered 503"),
            Origin::Feed => ("feed", "events stay in their feeds"),
        };
        match alarming {
            true => error!(
                event = "storage_failed",
                alert = alert::STORAGE,
                origin,
                "events cannot be stored, {consequence}: {reason}"
            ),
            false => {
                warn!(event = "storage_failed", origin, "events cannot be stored, {consequence}: {reason}")
            }
        }
        NotStored
    }
}

fn deliveries_of(notifications: Vec<Notification>) -> Vec<NewDelivery> {
    notifications.into_iter().flat_map(|notification| notification.deliveries).collect()
}
