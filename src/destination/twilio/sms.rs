//! A text message: one request, and a lookup in the list of messages if that request is in doubt.

use std::borrow::Cow;
use std::collections::HashMap;

use jiff::fmt::rfc2822;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use url::form_urlencoded;

use super::api::form;
use super::settings::{From, Message};
use super::{OPTED_OUT, Twilio, text_of};
use crate::delivery::{Action, Claim, Origin, Outcome, target_id};
use crate::destination::Job;
use crate::ledger::{Ledger, Stopped};
use crate::text::one_line;

/// The seconds for which a text may wait at Twilio, so that no backlog arrives hours later.
const VALID_SECONDS: &str = "3600";
/// How much Twilio's clock may be behind ours.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_secs(120);
/// Twilio's largest page has 1,000 messages.
const PAGE: &str = "50";

/// A message at Twilio.
struct Sent {
    sid: String,
    status: String,
    /// The number of its error; 0 without one.
    error: u32,
}

impl Sent {
    fn of(message: &Value) -> Sent {
        let text = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
        let error = message["error_code"].as_u64().and_then(|code| u32::try_from(code).ok());
        Sent { sid: text("sid"), status: text("status"), error: error.unwrap_or(0) }
    }
}

impl Twilio {
    pub(super) async fn attempt_text(
        &self,
        message: &Message,
        job: &Job<'_>,
        ledger: &Ledger<'_>,
    ) -> Result<Outcome, Stopped> {
        let claim = job.claim;
        let request = match &claim.request {
            Some(frozen) if claim.in_doubt => {
                let since = since(claim).unwrap_or(Timestamp::UNIX_EPOCH);
                if let Some(found) = self.find_text(frozen, since, ledger).await? {
                    return self.sent(found, Action::Found, claim, ledger).await;
                }
                self.schedule.check_quiet_hours(claim, ledger)?;
                self.sender.check()?;
                frozen.clone()
            }
            // Bytes that were certainly not sent may have an old sender.
            _ => {
                let request = self.request(message, job)?;
                if claim.revision == 0
                    && (claim.origin == Origin::Feed || ledger.history().await?.may_be_restored)
                    && let Some(found) = self.find_text(&request, beginning(job), ledger).await?
                {
                    return self.sent(found, Action::Found, claim, ledger).await;
                }
                self.prepare(claim, ledger).await?;
                let memo = json!({ "since": Timestamp::now().as_second() });
                ledger.freeze(claim, &request, &memo.to_string()).await?;
                request
            }
        };
        ledger.sending().await?;
        match self.post(self.account_address("/Messages"), request, ledger).await {
            Ok(message) => self.sent(Sent::of(&message), Action::Sent, claim, ledger).await,
            Err(failure) => self.settle_failure(failure, claim, ledger).await,
        }
    }

    /// Renders the request.
    fn request(&self, message: &Message, job: &Job) -> Result<String, Outcome> {
        let text = text_of(&message.text, job)?;
        let (from, service) = match &message.from {
            From::Number(number) => (Some(number.as_str()), None),
            From::Service(service) => (None, Some(service.as_str())),
        };
        // A variable of WhatsApp must not contain line breaks.
        let variables = message.content_sid.as_ref().map(|_| json!({ "1": one_line(&text) }).to_string());
        Ok(form([
            ("To", Some(job.claim.target.as_str())),
            ("From", from),
            ("MessagingServiceSid", service),
            ("Body", Some(text.as_str()).filter(|_| variables.is_none())),
            ("ContentSid", message.content_sid.as_deref()),
            ("ContentVariables", variables.as_deref()),
            ("ValidityPeriod", Some(VALID_SECONDS)),
            ("StatusCallback", self.settings.status_callback.as_ref().map(|url| url.as_str())),
        ]))
    }

    /// Finds a message that an earlier attempt at this request has sent, and makes it this delivery's.
    async fn find_text(
        &self,
        request: &str,
        since: Timestamp,
        ledger: &Ledger<'_>,
    ) -> Result<Option<Sent>, Stopped> {
        let fields: HashMap<Cow<str>, Cow<str>> = form_urlencoded::parse(request.as_bytes()).collect();
        let field = |name: &str| fields.get(name).map(|value| &**value);
        let mut url = self.account_address("/Messages");
        for (name, value) in [("To", field("To")), ("From", field("From")), ("PageSize", Some(PAGE))] {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        let since = since.saturating_sub(CLOCK_TOLERANCE).unwrap_or(Timestamp::UNIX_EPOCH);
        // The newest come first.
        let is_before = |message: &Value| created(message).is_some_and(|created| created < since);
        let messages = self.list(url, "messages", is_before).await?;
        let variables: Option<Value> =
            field("ContentVariables").and_then(|text| serde_json::from_str(text).ok());
        let mut found = None;
        for message in messages.iter().filter(|message| !is_before(message)) {
            let body = message["body"].as_str().unwrap_or_default();
            let is_ours = match variables.as_ref().and_then(|variables| variables["1"].as_str()) {
                Some(text) => has(body, text),
                None => ends_with(body, field("Body").unwrap_or_default()),
            };
            let is_outgoing = message["direction"].as_str().is_none_or(|to| to.starts_with("outbound"));
            let service = message["messaging_service_sid"].as_str();
            let is_of_service = field("MessagingServiceSid")
                .is_none_or(|wanted| service.is_none_or(|service| service == wanted));
            let sent = Sent::of(message);
            // A message that another delivery has sent does not count, even if its text is the same.
            if is_ours && is_outgoing && is_of_service && ledger.take_reference(&sent.sid).await? {
                found = Some(sent);
                break;
            }
        }
        ledger.looked_up(found.is_some());
        Ok(found)
    }

    /// The outcome of a text that Twilio accepted. Its status is read later.
    async fn sent(
        &self,
        message: Sent,
        action: Action,
        claim: &Claim,
        ledger: &Ledger<'_>,
    ) -> Result<Outcome, Stopped> {
        let memos = ledger.memos();
        self.ask_later(&memos, &claim.identity, &message.sid).await?;
        self.sender.note(&memos, &claim.identity, &message.status, message.error).await?;
        if claim.revision > 0 {
            memos.forget(OPTED_OUT, &target_id(&claim.target)).await?;
        }
        Ok(Outcome::sent_as(action, message.sid, String::new()))
    }
}

/// The earliest time at which anything about the item can have been sent.
fn beginning(job: &Job) -> Timestamp {
    let received = Timestamp::from_millisecond(job.claim.received_at).ok();
    job.item.event_made.into_iter().chain(received).min().unwrap_or(Timestamp::UNIX_EPOCH)
}

/// When the request of a claim was first sent.
fn since(claim: &Claim) -> Option<Timestamp> {
    let memo: Value = serde_json::from_str(claim.request_memo.as_deref()?).ok()?;
    Timestamp::from_second(memo["since"].as_i64()?).ok()
}

fn created(message: &Value) -> Option<Timestamp> {
    Some(rfc2822::parse(message["date_created"].as_str()?).ok()?.timestamp())
}

/// Whether a message ends with our text: trial accounts put a sentence in front, and a messaging service may replace
/// punctuation.
fn ends_with(body: &str, text: &str) -> bool {
    let letters_of_text = letters(text);
    match letters_of_text.is_empty() {
        true => body.trim().ends_with(text.trim()),
        false => letters(body).ends_with(&letters_of_text),
    }
}

/// Whether a message has our text in it, as a variable of a template: no letter or digit may follow its last word or
/// number.
fn has(body: &str, text: &str) -> bool {
    let ours: Vec<char> = text.chars().filter(|c| c.is_alphanumeric()).collect();
    let Some(last) = ours.last() else { return body.contains(text.trim()) };
    let all: Vec<char> = body.chars().collect();
    let places: Vec<usize> = (0..all.len()).filter(|at| all[*at].is_alphanumeric()).collect();
    places.windows(ours.len()).any(|window| {
        let is_equal = window.iter().zip(&ours).all(|(at, ours)| all[*at] == *ours);
        let next = window.last().and_then(|at| all.get(at + 1));
        // Other scripts write words without spaces.
        is_equal && !(last.is_ascii_alphanumeric() && next.is_some_and(char::is_ascii_alphanumeric))
    })
}

fn letters(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_recognized_by_its_end() {
        for (body, expected) in [
            ("Ticket 1000: “hello” – now", true),
            ("Sent from your Twilio trial account - Ticket 1000: \"hello\" - now", true),
            ("Ticket 1001: \"hello\" - now", false),
            ("Ticket 1000: \"hello\"", false),
            ("", false),
        ] {
            assert_eq!(ends_with(body, "Ticket 1000: “hello” – now"), expected, "{body}");
        }
        for (body, text, expected) in [
            ("A case: Ticket 12, now. Thank you.", "Ticket 12 – now", true),
            ("A case: Ticket 12. Thank you.", "Ticket 1", false),
            ("チケットTicket 12です", "Ticket 12", true),
            ("A case: 👍. Thank you.", "👍", true),
            ("A case: 👎. Thank you.", "👍", false),
        ] {
            assert_eq!(has(body, text), expected, "{body}");
        }
        assert!(ends_with("trial - 👍", "👍") && !ends_with("👎", "👍"));
    }
}
