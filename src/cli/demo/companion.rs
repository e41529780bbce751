//! The stand-ins of destinations that follow the ticket, one for each value of `--with`.

use std::io;

use serde_json::Value;

use casebridge::destination::{slack, twilio, webhook};
use casebridge::text::printable;
use casebridge_sandbox::slack::{self as slack_stand_in, CHANNEL, Slack, TOKEN};
use casebridge_sandbox::twilio::{ACCOUNT, AUTH_TOKEN, NUMBER, Twilio};
use casebridge_sandbox::webhook::{SECRET, Webhook};

/// The number that gets texts: a fictional one.
const PHONE: &str = "+15551230147";

/// A destination that follows the ticket.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum With {
    /// A channel in Slack
    Slack,
    /// A phone that gets text messages by Twilio
    Twilio,
    /// A receiver of signed webhooks
    Webhook,
}

/// A running stand-in.
pub enum Companion {
    Twilio {
        service: Twilio,
        /// The number of texts that are on the screen.
        shown: usize,
    },
    Webhook {
        receiver: Webhook,
        /// The number of events that are on the screen.
        shown: usize,
    },
    Slack {
        slack: Slack,
        /// The number of messages that are on the screen.
        shown: usize,
    },
}

impl Companion {
    pub async fn start(with: With) -> io::Result<Companion> {
        match with {
            With::Webhook => Ok(Companion::Webhook { receiver: Webhook::start().await?, shown: 0 }),
            With::Slack => Ok(Companion::Slack { slack: Slack::start().await?, shown: 0 }),
            With::Twilio => Ok(Companion::Twilio { service: Twilio::start().await?, shown: 0 }),
        }
    }

    /// Its name in `DELIVER_THEN`.
    pub fn destination(&self) -> &'static str {
        match self {
            Companion::Webhook { .. } => webhook::NAME,
            Companion::Slack { .. } => slack::NAME,
            Companion::Twilio { .. } => twilio::NAME,
        }
    }

    /// Its address.
    pub fn url(&self) -> String {
        match self {
            Companion::Webhook { receiver, .. } => receiver.url(),
            Companion::Slack { slack, .. } => slack.api_url(),
            Companion::Twilio { service, .. } => service.url(),
        }
    }

    /// The settings of its destination.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        match self {
            Companion::Webhook { receiver, .. } => {
                vec![("WEBHOOK_URL", receiver.url()), ("WEBHOOK_SECRET", SECRET.to_owned())]
            }
            Companion::Slack { slack, .. } => vec![
                ("SLACK_API_URL", slack.api_url()),
                ("SLACK_BOT_TOKEN", TOKEN.to_owned()),
                ("SLACK_CHANNEL_ID", CHANNEL.to_owned()),
            ],
            Companion::Twilio { service, .. } => vec![
                ("TWILIO_API_URL", service.url()),
                ("TWILIO_ACCOUNT_SID", ACCOUNT.to_owned()),
                ("TWILIO_AUTH_TOKEN", AUTH_TOKEN.to_owned()),
                ("TWILIO_FROM", NUMBER.to_owned()),
                ("TWILIO_TO", PHONE.to_owned()),
            ],
        }
    }

    /// Waits for the next thing that it gets, and describes it in a line under the ticket.
    pub async fn next_line(&mut self) -> String {
        match self {
            Companion::Twilio { service, shown } => {
                service.wait_until(|model| model.messages.len() > *shown).await;
                *shown += 1;
                let message = service.model().messages.get(*shown - 1).cloned().unwrap_or_default();
                let text = |name: &str| printable(message[name].as_str().unwrap_or_default());
                let body = text("body");
                let lines = textwrap::wrap(&body, 70);
                let lines: Vec<String> = lines.iter().map(|line| format!("     | {line}")).collect();
                format!("     text to {}\n{}", text("to"), lines.join("\n"))
            }
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
            Companion::Slack { slack, shown } => {
                let messages = |model: &slack_stand_in::Model| model.channels[CHANNEL].messages.len();
                slack.wait_until(|model| messages(model) > *shown).await;
                *shown += 1;
                let model = slack.model();
                let message = model.channels[CHANNEL].messages.get(*shown - 1);
                let text = message.map(|message| message.shown()).unwrap_or_default();
                let place = if message.is_some_and(|it| it.thread_ts.is_some()) {
                    "in its thread"
                } else {
                    "a message"
                };
                let lines = text.lines().map(|line| format!("     | {}", printable(line)));
                format!("     slack: {place}\n{}", lines.collect::<Vec<_>>().join("\n"))
            }
        }
    }
}
