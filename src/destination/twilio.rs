//! Twilio: each item as a text message to each number, or as a conversation that an agent opens in Flex.
//!
//! Twilio has no idempotency key. A message that may have been sent is looked up in the list of messages before it is
//! sent again, so that nobody gets it twice. A conversation of Flex cannot be looked up: if it may have been opened,
//! its delivery is dead, and only a replay opens it again.

mod api;
pub mod callback;
mod flex;
mod legacy;
mod number;
mod outcome;
mod progress;
mod settings;
mod sms;
mod status;

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;
use tracing::{error, info};

use super::template::Template;
use super::texting::{self, Schedule};
use super::{Alerts, Guarantee, Job, Ready};
use crate::alert::codes;
use crate::delivery::{Action, Cause, Claim, Doubt, Outcome, Reason, target_id};
use crate::ledger::{Ledger, Memos, Stopped, StorageError};
use crate::report::{Finding, INCOMPLETE, Row};
use crate::text::{clean, last_four, shorten_mapped};
use outcome::{Failure, unread};
use settings::{Message, Mode};
pub use settings::{Recipients, SECTIONS, Settings, is_configured, read, set_status_callback};
use status::SenderBlock;

pub const NAME: &str = "twilio";
/// The guarantee of Flex, the weaker one: texts can be looked up, and conversations cannot.
pub const GUARANTEE: Guarantee = Guarantee::AtMostOnce;
/// Flex Flows are looked up by their names.
pub const CACHES: &[&str] = &[legacy::FLOWS];
pub use super::texting::LIMITS;
/// The number of concurrent messages. Twilio queues what a number cannot send at once.
pub const IN_FLIGHT: usize = 8;
pub const ALERTS: Alerts = Alerts { down: DOWN, refuses: REFUSES };

codes! {
    /// Twilio has not been usable for minutes.
    DOWN = "twilio_down";
    /// Twilio refuses one message after another for the same reason.
    REFUSES = "twilio_refuses";
    /// Twilio refuses the account or its credential.
    CREDENTIAL = "twilio_credential";
    /// Twilio or the carriers refuse the sending number: it has to be registered, verified or corrected.
    SENDER = "twilio_sender";
    /// There is no API of Twilio at `TWILIO_API_URL`.
    ADDRESS = "twilio_address";
    /// A number cannot get texts, or its owner has opted out.
    NUMBER = "twilio_number";
    /// A route has reached `TEXT_MAX_PER_HOUR`, and further texts wait.
    LIMIT = "twilio_limit";
}

const TIMEOUT: Duration = Duration::from_secs(20);
/// The longest text, in UTF-16 code units: the limit of `Body`.
const TEXT_UNITS: usize = 1600;
/// The scope of memos with numbers whose owners have opted out, by the digits that identify them.
const OPTED_OUT: &str = "opted_out";
/// The number of refused numbers that are remembered, so that each is logged once.
const REFUSED_NUMBERS: usize = 1000;

pub struct Twilio {
    settings: Settings,
    http: reqwest::Client,
    timeout: Duration,
    schedule: Schedule,
    /// Whether carriers refuse the sending number.
    sender: Arc<SenderBlock>,
    /// The refused numbers that were logged.
    refused: Mutex<HashSet<String>>,
}

impl Twilio {
    /// `attempt_limit` is the longest that one delivery may take.
    pub fn new(settings: Settings, http: reqwest::Client, attempt_limit: Duration) -> Twilio {
        // A lookup and a message fit into one attempt.
        let timeout = TIMEOUT.min(attempt_limit * 4 / 10);
        let schedule = Schedule::new(settings.texts.clone(), LIMIT);
        Twilio { settings, http, timeout, schedule, sender: Arc::default(), refused: Mutex::default() }
    }

    /// Attempts a delivery.
    ///
    /// # Errors
    /// It stopped early.
    pub async fn attempt(&self, job: &Job<'_>, ledger: &Ledger<'_>) -> Result<Outcome, Stopped> {
        let claim = job.claim;
        if claim.target.is_empty() {
            ledger.memos().replace_note(&claim.identity, None, Action::NoNumber.name()).await?;
            return Ok(done_without_text(Action::NoNumber));
        }
        if claim.request.is_none() && !is_worth_a_text(claim.cause().as_ref()) {
            return Ok(done_without_text(Action::Ignored));
        }
        let Some(message) = self.settings.messages.get(&claim.route) else {
            let reason = "its route no longer goes to Twilio: add Twilio to the route again, and replay";
            return Ok(Outcome::Dead { reason: Reason::new(reason) });
        };
        if self.sender.is_begun() {
            // While the destination is paused, nothing else reads the status of the last text.
            self.check_status(&ledger.memos()).await?;
        }
        match &message.mode {
            Mode::Sms => self.attempt_text(message, job, ledger).await,
            Mode::Flex(routing) => self.attempt_conversation(message, routing, job, ledger).await,
            Mode::FlexLegacy(legacy) => self.attempt_legacy(message, legacy, job, ledger).await,
        }
    }

    /// Checks the account.
    pub async fn check_access(&self) -> Option<Result<(), Outcome>> {
        Some(self.account().await.map(drop))
    }

    /// Reads the status of a text, and wakes texts that were held back.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn work_in_background(&self, memos: &Memos) -> Result<Option<Duration>, StorageError> {
        let wait = match self.check_status(memos).await? {
            true => Duration::ZERO,
            false => super::held::CHECK_EVERY,
        };
        Ok(Some(wait))
    }

    pub async fn wake_held(&self, memos: &Memos) -> Result<(), StorageError> {
        self.schedule.wake_held(memos).await
    }

    pub fn log_done(&self, claim: &Claim, action: Action, reference: &str) {
        let (action, attempts, to) = (action.name(), claim.attempts, last_four(&claim.target));
        let Claim { case_key: case, identity: delivery, destination, .. } = claim;
        info!(
            event = "delivery_done",
            case,
            delivery,
            destination,
            attempts,
            action,
            reference,
            to,
            "{action}: {case} to {destination} {to}"
        );
    }

    pub fn ready(&self, _now: Instant) -> Ready {
        Ready::Now(usize::MAX)
    }

    /// Checks whether the first request may be sent, and takes a place for it under the hourly limit.
    async fn prepare(&self, claim: &Claim, ledger: &Ledger<'_>) -> Result<(), Stopped> {
        let key = target_id(&claim.target);
        // A replay means that the owner has opted in again.
        if claim.revision == 0 && ledger.memos().recall(OPTED_OUT, &key).await?.is_some() {
            return Err(Outcome::Dead { reason: opted_out(&claim.target) }.into());
        }
        self.schedule.take_place(claim, ledger).await?;
        // Last, because the one text that passes while the sender is refused has to be sent.
        self.sender.check()
    }

    /// Stores what a failed request says about the number, and returns the outcome.
    async fn settle_failure(
        &self,
        failure: Failure,
        claim: &Claim,
        ledger: &Ledger<'_>,
    ) -> Result<Outcome, Stopped> {
        match failure {
            Failure::Outcome(outcome) => Ok(outcome),
            Failure::Number(reason) => {
                self.report_number(&claim.target, &reason.log, ledger);
                Ok(Outcome::Dead { reason })
            }
            Failure::OptedOut => {
                let memos = ledger.memos();
                memos.remember(OPTED_OUT, &target_id(&claim.target), &claim.identity).await?;
                let reason = opted_out(&claim.target);
                self.report_number(&claim.target, &reason.log, ledger);
                Ok(Outcome::Dead { reason })
            }
        }
    }

    /// Reports a number that cannot get texts, once.
    fn report_number(&self, number: &str, reason: &str, ledger: &Ledger<'_>) {
        let mut refused = self.refused.lock();
        if refused.len() >= REFUSED_NUMBERS {
            refused.clear();
        }
        if refused.insert(target_id(number)) {
            let to = last_four(number);
            ledger.alerts().happened(NUMBER, &to, reason);
            error!(
                event = "number_refused",
                alert = NUMBER,
                to,
                "{to} cannot get texts; correct or remove the number: {reason}"
            );
        }
    }

    async fn account(&self) -> Result<Value, Outcome> {
        match self.get_or(self.account_address(""), unread).await? {
            Some(account) => Ok(account),
            None => {
                let reason =
                    Reason::alert(CREDENTIAL, "Twilio does not know this account (TWILIO_ACCOUNT_SID)");
                Err(Outcome::Pause { reason, doubt: Doubt::None, retry_after: None })
            }
        }
    }
}

fn opted_out(number: &str) -> Reason {
    let to = last_four(number);
    Reason::new(format!("{to} has opted out; after START, `casebridge replay` sends to it again"))
}

fn done_without_text(action: Action) -> Outcome {
    Outcome::Done { reference: String::new(), action, memo: String::new(), cause: None }
}

/// Whether an item is worth a text: if it follows a ticket, only a new or reopened ticket is.
fn is_worth_a_text(cause: Option<&Cause>) -> bool {
    let actions = [Action::Created, Action::FollowedUp, Action::Reopened].map(Action::name);
    cause.filter(|cause| cause.has_number()).is_none_or(|cause| actions.contains(&cause.action.as_str()))
}

/// Renders the text of a message.
fn text_of(template: &Template, job: &Job) -> Result<String, Outcome> {
    let dead = |failure: &str| {
        let reason = format!("{}: {failure}; correct the template, and replay", template.name());
        Outcome::Dead { reason: Reason::new(reason) }
    };
    let cause = job.claim.cause().filter(Cause::has_number).unwrap_or_default();
    let text = texting::render(template, job.item, job.route, &cause).map_err(|failure| dead(&failure))?;
    match as_typed(&text) {
        text if text.is_empty() => Err(dead("it gives no text for this item")),
        text => Ok(text),
    }
}

/// Cuts a text, and removes invisible characters, but leaves braces alone: Twilio fills in nothing.
fn as_typed(text: &str) -> String {
    let text = clean(text).replace('\u{2060}', "");
    shorten_mapped(text.trim(), TEXT_UNITS, "", Cow::Borrowed).trim_end().to_owned()
}

/// The row of Twilio in `casebridge check`.
pub async fn rows(settings: Option<&Settings>, http: &reqwest::Client) -> Vec<Row> {
    let finding = match settings {
        Some(settings) => finding(settings, http).await,
        None => Finding::not_checked(INCOMPLETE),
    };
    vec![Row::of(NAME, [finding])]
}

async fn finding(settings: &Settings, http: &reqwest::Client) -> Finding {
    let twilio = Twilio::new(settings.clone(), http.clone(), crate::report::STEP * 2);
    let account = match twilio.account().await {
        Ok(account) => account,
        Err(outcome) => {
            let remedy = "check TWILIO_ACCOUNT_SID and the token or API key (TWILIO_…), and TWILIO_API_URL";
            return Finding::failed(outcome.log(), remedy);
        }
    };
    let name = account["friendly_name"].as_str().unwrap_or_default();
    let numbers: usize = settings.messages.values().map(Message::numbers).sum();
    let text = format!("account {name}; {numbers} number(s)");
    match (account["status"].as_str(), account["type"].as_str()) {
        (Some(status @ ("suspended" | "closed")), _) => {
            Finding::failed(format!("{text}; the account is {status}"), "see the console of Twilio")
        }
        (_, Some("Trial")) => Finding::warning(
            format!("{text}; a trial account"),
            "it texts only verified numbers, and puts a sentence in front of each text: upgrade the account",
        ),
        _ => Finding::ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_graphemes_and_sent_as_typed() {
        let family = "👩\u{200d}👩\u{200d}👧";
        let long = family.repeat(300);
        let short = as_typed(&long);
        assert!(short.encode_utf16().count() <= TEXT_UNITS && short.len().is_multiple_of(family.len()));
        assert_eq!(as_typed(&"x".repeat(5000)).len(), TEXT_UNITS);
        assert_eq!(as_typed(" {{ticket.id}} a\u{2028}b {%\u{202e} "), "{{ticket.id}} a\nb {%");
    }

    #[test]
    fn only_new_and_reopened_tickets_are_worth_a_text() {
        for (action, number, expected) in [
            ("created", "1", true),
            ("followed_up", "1", true),
            ("reopened", "1", true),
            ("commented", "1", false),
            ("solved", "1", false),
            // After another message.
            ("sent", "", true),
        ] {
            let cause = Cause { action: action.to_owned(), number: number.to_owned(), ..Cause::default() };
            assert_eq!(is_worth_a_text(Some(&cause)), expected, "{action}");
        }
        assert!(is_worth_a_text(None));
    }
}
