//! Between a notification, of either origin, and the inbox: the one place that decides what a
//! delivery is called and where it goes, so that a push and the feed can never owe it twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::{error, info, warn};

use crate::alert::{self, Reminder};
use crate::config;
use crate::inbox::{Inbox, NewDelivery, ReceiveError};
use crate::notification::{self, Arrival, NotJson, Unprocessable};

/// Hosts' routers give up after 30 s; whoever asks again meets a row that is known.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// The route whose deliveries are known by their event alone.
const TUTORIAL: &str = config::LABEL_ROUTE;

/// What has to be known of a route to take its events.
#[derive(Clone, Debug)]
pub struct Route {
    pub name: String,
    pub event: String,
}

/// How an event reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Khoros sent a notification.
    Push,
    /// It was read from a feed, which also holds old events: it may have its ticket although the inbox does
    /// not know it.
    Feed,
}

impl Origin {
    fn word(self) -> &'static str {
        match self {
            Origin::Push => "push",
            Origin::Feed => "feed",
        }
    }

    /// What happens to an event that cannot be stored now.
    fn consequence(self) -> &'static str {
        match self {
            Origin::Push => "notifications are answered 503",
            Origin::Feed => "events stay in their feeds",
        }
    }
}

/// Takes events into the inbox; clones share it.
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
    /// How many items it has.
    pub fn items(&self) -> usize {
        self.deliveries.len()
    }

    /// What its items are known by.
    pub fn identities(&self) -> impl Iterator<Item = &str> {
        self.deliveries.iter().map(|delivery| delivery.identity.as_str())
    }

    /// What its items take in memory, about.
    pub fn bytes(&self) -> usize {
        self.deliveries.iter().map(|delivery| delivery.payload.len()).sum()
    }
}

/// It is not known to be stored, and the log says why.
#[derive(Debug, PartialEq, Eq)]
pub struct NotStored;

impl Intake {
    pub fn new(inbox: Inbox, company: u64, destination: &'static str) -> Intake {
        Intake(Arc::new(Inner { inbox, company, destination, storage: Mutex::default() }))
    }

    /// What a body holds that came for this route.
    ///
    /// # Errors
    /// [`NotJson`], and nothing else.
    pub fn read(&self, route: &Route, body: &[u8], origin: Origin) -> Result<Notification, NotJson> {
        let arrivals = notification::parse_as(&route.event, body, self.0.company)?;
        let (event, event_name) = arrivals
            .first()
            .map(|first| (first.event_id.clone(), first.event_name.clone()))
            .unwrap_or_default();
        let unprocessable = arrivals.iter().find_map(|arrival| arrival.unprocessable);
        let deliveries = arrivals.into_iter().map(|arrival| self.delivery(&route.name, arrival, origin));
        Ok(Notification { event, event_name, unprocessable, deliveries: deliveries.collect() })
    }

    /// Stores what came, and tells how many of the items were not known before.
    ///
    /// # Errors
    /// [`NotStored`]; a part of it may be stored all the same, and the same can safely come again.
    pub async fn store(&self, notifications: Vec<Notification>, origin: Origin) -> Result<usize, NotStored> {
        let (unprocessable, plain): (Vec<_>, Vec<_>) =
            notifications.into_iter().partition(|notification| notification.unprocessable.is_some());
        let mut new = self.receive(deliveries_of(plain), origin).await?;
        let first = unprocessable.first().map(|unprocessable| {
            (unprocessable.event.clone(), unprocessable.event_name.clone(), unprocessable.unprocessable)
        });
        let new_and_odd = self.receive(deliveries_of(unprocessable), origin).await?;
        new += new_and_odd;
        if let Some((event_id, event_name, Some(unprocessable))) = first.filter(|_| new_and_odd > 0) {
            warn!(
                event = "item_unprocessable",
                event_id, event_name, "stored an unprocessable event as a dead delivery: {unprocessable}"
            );
        }
        Ok(new)
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
            // Khoros tells each subscription, and each route owes its own: one event can be two.
            identity: match route {
                TUTORIAL => arrival.identity,
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
        let (origin, consequence) = (origin.word(), origin.consequence());
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
