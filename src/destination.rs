//! Where deliveries go. A closed set, so an enum: `match` finds every place that a new one touches.
//! A destination never sees the inbox.

pub mod zendesk;

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::notification::Item;
use crate::retry::Outcome;
use zendesk::Zendesk;

pub enum Destination {
    Zendesk(Zendesk),
}

/// What can be sent at this moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ready {
    /// So many calls at once.
    Now(usize),
    /// None before this.
    At(Instant),
}

/// A create: the bytes that were frozen, and the two belts that keep it from happening twice.
pub struct Create<'a> {
    pub body: &'a str,
    pub idempotency_key: &'a str,
    pub case_key: &'a str,
    /// Set before the first byte goes out.
    pub sent: &'a AtomicBool,
}

impl Destination {
    /// As it stands in the `destination` column.
    pub fn name(&self) -> &'static str {
        match self {
            Destination::Zendesk(_) => zendesk::NAME,
        }
    }

    /// The bytes of the create. A pure function of its arguments.
    pub fn render(&self, item: &Item, case_key: &str, label: &str) -> String {
        match self {
            Destination::Zendesk(zendesk) => zendesk.render(item, case_key, label),
        }
    }

    /// Creates. Safe to repeat with the same arguments.
    pub async fn create(&self, create: &Create<'_>) -> Outcome {
        match self {
            Destination::Zendesk(zendesk) => zendesk.create(create).await,
        }
    }

    /// The reference under which the case is already held there, if it is.
    ///
    /// # Errors
    /// The outcome of the attempt that needed to know.
    pub async fn look_up(&self, case_key: &str) -> Result<Option<String>, Outcome> {
        match self {
            Destination::Zendesk(zendesk) => zendesk.look_up(case_key).await,
        }
    }

    /// Whether the credential works.
    ///
    /// # Errors
    /// The outcome that a delivery would meet now.
    pub async fn check(&self) -> Result<(), Outcome> {
        match self {
            Destination::Zendesk(zendesk) => zendesk.check().await,
        }
    }

    /// How much can be sent now without exceeding our share of what the destination allows.
    pub fn ready(&self, now: Instant) -> Ready {
        match self {
            Destination::Zendesk(zendesk) => zendesk.ready(now),
        }
    }
}
