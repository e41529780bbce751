//! The destinations of deliveries. A closed set, so an enum: `match` finds every place that a new one touches.
//! A destination never sees the inbox: the worker stores everything between two of its calls.

pub mod html;
pub mod template;
pub mod zendesk;

use std::time::Instant;

use crate::delivery::Outcome;
use zendesk::Zendesk;

pub enum Destination {
    Zendesk(Zendesk),
}

/// How much can be sent at the moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ready {
    /// Up to this number of requests.
    Now(usize),
    /// No request before this time.
    At(Instant),
}

impl Destination {
    /// The value in the column `destination`.
    pub fn name(&self) -> &'static str {
        match self {
            Destination::Zendesk(_) => zendesk::NAME,
        }
    }

    /// Checks the credential.
    ///
    /// # Errors
    /// The outcome that a delivery would have now.
    pub async fn check(&self) -> Result<(), Outcome> {
        match self {
            Destination::Zendesk(zendesk) => zendesk.check().await,
        }
    }

    /// Returns how much can be sent now without exceeding our share of the limits of the destination.
    pub fn ready(&self, now: Instant) -> Ready {
        match self {
            Destination::Zendesk(zendesk) => zendesk.ready(now),
        }
    }
}
