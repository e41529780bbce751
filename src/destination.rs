//! The destinations of deliveries. A closed set, so an enum: `match` finds every place that a new one touches.
//! A destination turns an item into somebody else's state. It never sees the inbox, only its [`Ledger`].

pub mod check;
pub mod exchange;
pub mod flow;
pub mod html;
pub mod settings;
pub mod template;
pub mod webhook;
pub mod zendesk;

use std::time::{Duration, Instant};

use tracing::info;

use crate::delivery::{Action, Claim, Outcome};
use crate::item::Item;
use crate::ledger::{Ledger, Memos, Stopped, StorageError};
use crate::route::Route;
use flow::Flow;
use settings::DestinationSettings;
use webhook::Webhook;
use zendesk::Zendesk;

/// The number of concurrent deliveries. Up to 11 of them may wait for the user of their author.
const IN_FLIGHT: usize = 27;

/// The names of all destinations, as settings and the column `destination` have them.
pub const NAMES: [&str; 3] = [zendesk::NAME, webhook::NAME, flow::NAME];

pub enum Destination {
    Zendesk(Zendesk),
    Webhook(Webhook),
    Flow(Flow),
}

/// One attempt's work.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    pub claim: &'a Claim,
    pub item: &'a Item,
    /// Only its name if it was removed from the configuration.
    pub route: &'a Route,
}

/// How much can be sent at the moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ready {
    /// Up to this number of requests.
    Now(usize),
    /// No request before this time.
    At(Instant),
}

/// The alerts that a worker raises for its destination.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alerts {
    /// It has not been usable for minutes.
    pub down: &'static str,
    /// It refuses item after item for the same reason.
    pub refuses: &'static str,
}

/// Builds the configured destinations. `attempt_limit` is the longest that one delivery may take.
pub fn build(
    settings: DestinationSettings,
    http: &reqwest::Client,
    attempt_limit: Duration,
) -> Vec<Destination> {
    let DestinationSettings { zendesk, webhook, flow } = settings;
    let zendesk = zendesk.map(|it| Destination::Zendesk(Zendesk::new(it, http.clone(), attempt_limit)));
    let webhook = webhook.map(|it| Destination::Webhook(Webhook::new(it, http.clone(), attempt_limit)));
    let flow = flow.map(|it| Destination::Flow(Flow::new(it, http.clone(), attempt_limit)));
    [zendesk, webhook, flow].into_iter().flatten().collect()
}

impl Destination {
    /// The value in the column `destination`.
    pub fn name(&self) -> &'static str {
        match self {
            Destination::Zendesk(_) => zendesk::NAME,
            Destination::Webhook(_) => webhook::NAME,
            Destination::Flow(_) => flow::NAME,
        }
    }

    pub fn alerts(&self) -> Alerts {
        match self {
            Destination::Zendesk(_) => zendesk::ALERTS,
            Destination::Webhook(_) => webhook::ALERTS,
            Destination::Flow(_) => flow::ALERTS,
        }
    }

    /// The number of concurrent deliveries.
    pub fn in_flight_limit(&self) -> usize {
        match self {
            Destination::Zendesk(_) | Destination::Webhook(_) => IN_FLIGHT,
            Destination::Flow(_) => flow::IN_FLIGHT,
        }
    }

    /// Attempts a delivery.
    ///
    /// # Errors
    /// It stopped early.
    pub async fn attempt(&self, job: &Job<'_>, ledger: &Ledger<'_>) -> Result<Outcome, Stopped> {
        match self {
            Destination::Zendesk(zendesk) => zendesk.attempt(job, ledger).await,
            Destination::Webhook(webhook) => webhook.attempt(job, ledger).await,
            Destination::Flow(flow) => flow.attempt(job, ledger).await,
        }
    }

    /// Checks the credential: the error is the outcome that a delivery would have now. `None`: any request to it
    /// would be a delivery.
    pub async fn check_access(&self) -> Option<Result<(), Outcome>> {
        match self {
            Destination::Zendesk(zendesk) => Some(zendesk.check_access().await),
            Destination::Webhook(_) | Destination::Flow(_) => None,
        }
    }

    /// Returns how much can be sent now without exceeding our share of the limits of the destination.
    pub fn ready(&self, now: Instant) -> Ready {
        match self {
            Destination::Zendesk(zendesk) => zendesk.ready(now),
            Destination::Webhook(webhook) => webhook.ready(now),
            Destination::Flow(flow) => flow.ready(now),
        }
    }

    /// Does one piece of the work that comes after all deliveries. Returns the wait before the next call; `None` if
    /// there is no such work.
    ///
    /// # Errors
    /// The storage failed; the work is due again later.
    pub async fn work_in_background(&self, memos: &Memos) -> Result<Option<Duration>, StorageError> {
        match self {
            Destination::Zendesk(zendesk) => zendesk.set_pending_requester(memos).await.map(Some),
            Destination::Webhook(_) | Destination::Flow(_) => Ok(None),
        }
    }

    /// Forgets what it has remembered for longer than `age`.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn forget_older(memos: &Memos, age: Duration) -> Result<(), StorageError> {
        memos.forget_older(zendesk::AUTHORS, age).await
    }

    /// Logs a delivery that is done, in the destination's own terms.
    pub fn log_done(&self, claim: &Claim, action: Action, reference: &str) {
        let (action, attempts) = (action.name(), claim.attempts);
        let Claim { case_key: case, identity: delivery, destination, .. } = claim;
        match self {
            Destination::Zendesk(_) => info!(
                event = "delivery_done",
                case,
                delivery,
                destination,
                attempts,
                action,
                ticket = reference,
                "{action} ticket {reference} for {case}"
            ),
            Destination::Webhook(_) | Destination::Flow(_) => info!(
                event = "delivery_done",
                case, delivery, destination, attempts, action, reference, "sent {case} to {destination}"
            ),
        }
    }
}
