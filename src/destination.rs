//! Where deliveries go. A closed set, so an enum: `match` finds every place that a new one touches.
//! A destination never sees the inbox: what has to be stored between two of its calls is the worker's.

pub mod zendesk;

use std::time::Instant;

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

impl Destination {
    /// As it stands in the `destination` column.
    pub fn name(&self) -> &'static str {
        match self {
            Destination::Zendesk(_) => zendesk::NAME,
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
