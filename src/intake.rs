//! Stores items: a delivery for each destination of their route. Only this module decides the identity and the
//! destinations of an item, so that a push and the feed never store the same one twice.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::{error, info, warn};

use crate::alert::{self, Registry, Reminder};
use crate::delivery::Origin;
use crate::inbox::{Inbox, NewItem, ReceiveError};
use crate::item::{Arrival, Unprocessable};
use crate::metrics::Metrics;
use crate::route::{LABEL, Route};

/// Hosts' routers give up after 30 s. A repeated request finds its rows known.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// Stores events in the inbox; clones share it.
#[derive(Clone)]
pub struct Intake(Arc<Inner>);

struct Inner {
    inbox: Inbox,
    /// Only the service counts received items.
    metrics: Option<Arc<Metrics>>,
    targets: Targets,
    storage: Mutex<Reminder>,
    alerts: Registry,
}

/// Returns the targets of an item: see [`NewItem::targets`].
pub type Targets = Box<dyn Fn(&NewItem) -> Vec<(&'static str, String)> + Send + Sync>;

/// One event with its items, ready to be stored.
#[derive(Debug, Default)]
pub struct Notification {
    pub event: String,
    pub event_name: String,
    unprocessable: Option<Unprocessable>,
    items: Vec<NewItem>,
}

impl Notification {
    /// The items of one event, on their way to the destinations of a route.
    pub fn new(route: &Route, arrivals: Vec<Arrival>, origin: Origin) -> Notification {
        let first = arrivals.first().map(|first| (first.event_id.clone(), first.event_name.clone()));
        let (event, event_name) = first.unwrap_or_default();
        let unprocessable = arrivals.iter().find_map(|arrival| arrival.unprocessable);
        let items = arrivals.into_iter().map(|arrival| new_item(route, arrival, origin)).collect();
        Notification { event, event_name, unprocessable, items }
    }

    /// Number of its items.
    pub fn items(&self) -> usize {
        self.items.len()
    }

    /// Identities of its items.
    pub fn identities(&self) -> impl Iterator<Item = &str> {
        self.items.iter().map(|item| item.identity.as_str())
    }

    /// Whether all its items are among these identities.
    pub fn is_among(&self, known: &HashSet<String>) -> bool {
        self.identities().all(|identity| known.contains(identity))
    }

    /// Approximate bytes of its items in memory.
    pub fn bytes(&self) -> usize {
        self.items.iter().map(|item| item.payload.len()).sum()
    }
}

fn new_item(route: &Route, arrival: Arrival, origin: Origin) -> NewItem {
    let mut destinations = route.to.clone();
    if arrival.unprocessable.is_some() {
        // One dead delivery is enough for an operator.
        destinations.truncate(1);
    }
    NewItem {
        // A source notifies each subscription, and each route makes its own delivery of an event. Only the
        // identities of the tutorial's route lack its name.
        identity: match route.name.as_str() {
            LABEL => arrival.identity,
            name => format!("{}@{name}", arrival.identity),
        },
        destinations,
        // Set when it is stored.
        targets: Vec::new(),
        origin,
        case_key: arrival.case_key,
        route: route.name.clone(),
        event_id: arrival.event_id,
        event_name: arrival.event_name,
        payload: arrival.payload,
        dead: arrival.unprocessable.map(str::to_owned),
    }
}

/// The events may not be stored; the log has the reason.
#[derive(Debug, PartialEq, Eq)]
pub struct NotStored;

impl Intake {
    pub fn new(inbox: Inbox, metrics: Option<Arc<Metrics>>, targets: Targets, alerts: Registry) -> Intake {
        Intake(Arc::new(Inner { inbox, metrics, targets, storage: Mutex::default(), alerts }))
    }

    /// Stores notifications of one route; returns how many of their items were new.
    ///
    /// # Errors
    /// [`NotStored`]; some may be stored nevertheless, and all can safely be stored again.
    pub async fn store(&self, notifications: Vec<Notification>, origin: Origin) -> Result<usize, NotStored> {
        let route = notifications.iter().find_map(|one| Some(one.items.first()?.route.clone()));
        let received = notifications.iter().map(Notification::items).sum();
        let (unprocessable, plain): (Vec<_>, Vec<_>) =
            notifications.into_iter().partition(|notification| notification.unprocessable.is_some());
        let new = self.receive(items_of(plain), origin).await?;
        let first = unprocessable
            .first()
            .and_then(|first| Some((first.event.clone(), first.event_name.clone(), first.unprocessable?)));
        let new_unprocessable = self.receive(items_of(unprocessable), origin).await?;
        if let Some((event_id, event_name, reason)) = first
            && new_unprocessable > 0
        {
            warn!(
                event = "item_unprocessable",
                event_id, event_name, "stored an unprocessable event as a dead delivery: {reason}"
            );
        }
        let new = new + new_unprocessable;
        if let (Some(route), Some(metrics)) = (route, &self.0.metrics) {
            metrics.received(&route, received, new);
        }
        Ok(new)
    }

    /// Returns the identities of the items of a feed's notifications that are stored already.
    ///
    /// # Errors
    /// [`NotStored`]: the database does not answer.
    pub async fn known(
        &self,
        notifications: impl Iterator<Item = &Notification>,
    ) -> Result<HashSet<String>, NotStored> {
        let identities: Vec<&str> = notifications.flat_map(Notification::identities).collect();
        let known = self.0.inbox.known(&identities).await;
        known.map_err(|error| self.fail(&error.to_string(), false, Origin::Feed))
    }

    async fn receive(&self, mut items: Vec<NewItem>, origin: Origin) -> Result<usize, NotStored> {
        if items.is_empty() {
            return Ok(0);
        }
        for item in items.iter_mut().filter(|item| item.dead.is_none()) {
            item.targets = (self.0.targets)(item);
        }
        match tokio::time::timeout(STORE_TIMEOUT, self.0.inbox.receive(items)).await {
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

    fn fail(&self, reason: &str, busy: bool, origin: Origin) -> NotStored {
        let alarming = !busy && self.0.storage.lock().is_due(alert::STORAGE, Instant::now());
        let (origin, consequence) = match origin {
            Origin::Push => ("push", "notifications are answered 503"),
            Origin::Feed => ("feed", "events stay in their feeds"),
        };
        if !busy {
            let detail = format!("events cannot be stored, {consequence}: {reason}");
            self.0.alerts.failed(alert::STORAGE, "", detail);
        }
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

fn items_of(notifications: Vec<Notification>) -> Vec<NewItem> {
    notifications.into_iter().flat_map(|notification| notification.items).collect()
}
