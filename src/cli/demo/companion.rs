//! The stand-ins of destinations that follow the ticket, one for each value of `--with`.

use std::io;

use serde_json::Value;

use casebridge::destination::webhook;
use casebridge::text::printable;
use casebridge_sandbox::webhook::{SECRET, Webhook};

/// A destination that follows the ticket.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum With {
    /// A receiver of signed webhooks
    Webhook,
}

/// A running stand-in.
pub enum Companion {
    Webhook {
        receiver: Webhook,
        /// The number of events that are on the screen.
        shown: usize,
    },
}

impl Companion {
    pub async fn start(with: With) -> io::Result<Companion> {
        match with {
            With::Webhook => Ok(Companion::Webhook { receiver: Webhook::start().await?, shown: 0 }),
        }
    }

    /// Its name in `DELIVER_THEN`.
    pub fn destination(&self) -> &'static str {
        match self {
            Companion::Webhook { .. } => webhook::NAME,
        }
    }

    /// Its address.
    pub fn url(&self) -> String {
        match self {
            Companion::Webhook { receiver, .. } => receiver.url(),
        }
    }

    /// The settings of its destination.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        match self {
            Companion::Webhook { receiver, .. } => {
                vec![("WEBHOOK_URL", receiver.url()), ("WEBHOOK_SECRET", SECRET.to_owned())]
            }
        }
    }

    /// Waits for what it gets next, and describes it in a line under the ticket.
    pub async fn next_line(&mut self) -> String {
        match self {
            Companion::Webhook { receiver, shown } => {
                receiver.wait_until(|model| model.events().len() > *shown).await;
                *shown += 1;
                let model = receiver.model();
                let body = model.events().get(*shown - 1).map(|event| event.body.clone());
                let event: Value = serde_json::from_str(&body.unwrap_or_default()).unwrap_or_default();
                let text = |value: &Value| printable(value.as_str().unwrap_or_default());
                let (kind, ticket) = (text(&event["type"]), &event["data"]["ticket"]);
                format!(
                    "     webhook: {kind}, signed, ticket {} {}",
                    text(&ticket["number"]),
                    text(&ticket["action"])
                )
            }
        }
    }
}
