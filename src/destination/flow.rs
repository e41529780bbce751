//! Khoros Flow: each item as one broadcast to configured numbers, at most once.
//!
//! Flow's answer has no id, and a broadcast cannot be looked up. So a request is repeated only if Flow certainly did
//! not act on it. Any other failure ends the delivery as one that may have been sent, and only a replay sends it again.
//! Reference: <https://developer.khoros.com/khoros-flow/reference/broadcast-to-msisdn>.

use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use url::Url;

use super::template::Template;
use super::texting::{self, Schedule, Texts};
use super::{Alerts, Guarantee, Job, Ready, log_sent};
use crate::alert::codes;
use crate::delivery::{Action, Cause, Claim, Doubt, Outcome, Reason};
use crate::env::doc::{Group, Section};
use crate::env::parse::{self, Parsed};
use crate::env::{Reader, variables};
use crate::exchange::{self, Answer, NoAnswer};
use crate::ledger::{Ledger, Memos, Stopped, StorageError};
use crate::report::{Finding, INCOMPLETE, Row};
use crate::route::Route;
use crate::text::clean;

pub const NAME: &str = "flow";
pub const GUARANTEE: Guarantee = Guarantee::AtMostOnce;
pub const CACHES: &[&str] = &[];
pub use super::texting::LIMITS;
/// The number of concurrent broadcasts: an outage ends this many deliveries before it is noticed.
pub const IN_FLIGHT: usize = 4;
pub const ALERTS: Alerts = Alerts { down: DOWN, refuses: REFUSES };

codes! {
    /// Flow has not been usable for minutes.
    DOWN = "flow_down";
    /// Flow refuses one broadcast after another for the same reason.
    REFUSES = "flow_refuses";
    /// Flow refuses the key: 401 or 403.
    CREDENTIAL = "flow_credential";
    /// There is no Flow API at `FLOW_API_URL`.
    ADDRESS = "flow_address";
    /// A route has reached `TEXT_MAX_PER_HOUR`, and further broadcasts wait.
    LIMIT = "flow_limit";
}

const API_URL: &str = "https://api.flow.ai/rest/v1";
const TIMEOUT: Duration = Duration::from_secs(20);
/// The name of a recipient without a name: Flow requires one.
const ANONYMOUS: &str = "Anonymous";
/// The memo of a request that Flow certainly did not act on.
const UNSENT: &str = "unsent";
/// The longest text, in characters. Flow documents no limit; a longer text message is rarely intended.
const TEXT_CHARS: usize = 1600;
const PREFIX: &str = "FLOW_";

variables! {
    /// The variables of Flow, except those of routes.
    Variables:
    /// The key of Flow's REST API.
    flow_api_key = needed("for Flow");
    /// What identifies your end of the channel in Flow, such as the sending number.
    flow_external_id = needed("for Flow").example("+15557654321");
    /// The channel in Flow: `khoros`, `whatsapp`, `messenger`, `twilio`, `messagemedia`, `telekom` or `rbm`.
    flow_channel_name = default("khoros");
    /// A word in front of the key in the header `Authorization`, if your account needs one.
    flow_auth_prefix = unset().example("Bearer");
    /// The REST API of Flow.
    flow_api_url = default(API_URL);
}

variables! {
    /// The variables of a broadcast: `FLOW_…`, and `ROUTE_<NAME>_FLOW_…` for one route.
    BroadcastVariables:
    /// The phone numbers that get the broadcast, separated by commas, each with its country code, and with a
    /// name if you like.
    to = needed("for Flow").example("'+15551234567, Jane Doe <+4917012345678>'");
    /// The event that triggers a flow.
    event_name = needed("for Flow unless `FLOW_TEXT` is set").example("ticket-created");
    /// A [template](tickets.md#templates) instead of an event. Its text goes through intent classification, as if a
    /// customer had written it.
    text = unset();
}

pub const SECTIONS: &[Section] = &[Section {
    title: "Khoros Flow",
    intro: "",
    groups: &[Group::new("", Variables::DOCS), Group::per_route(PREFIX, BroadcastVariables::DOCS)],
    prefixes: &[PREFIX],
}];

/// The settings of Flow.
#[derive(Clone)]
pub struct Settings {
    /// `FLOW_API_URL`
    pub url: Url,
    /// The value of the header `Authorization`: `FLOW_API_KEY` after `FLOW_AUTH_PREFIX`.
    pub authorization: SecretString,
    /// `FLOW_CHANNEL_NAME`
    pub channel: Channel,
    /// `FLOW_EXTERNAL_ID`: what identifies our end of the channel, such as the sending number.
    pub external_id: String,
    /// The broadcasts by route.
    pub broadcasts: BTreeMap<String, Broadcast>,
    /// `TEXT_…`
    pub texts: Texts,
}

/// `FLOW_CHANNEL_NAME`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    Rbm,
    MessageMedia,
    Telekom,
    Twilio,
    WhatsApp,
    #[default]
    Khoros,
    Messenger,
}

/// What is sent for an item, and to whom.
#[derive(Clone)]
pub struct Broadcast {
    pub payload: Payload,
    /// `FLOW_TO`
    pub to: Vec<Recipient>,
}

#[derive(Clone)]
pub enum Payload {
    /// `FLOW_EVENT_NAME`: the event that triggers a flow.
    Event(String),
    /// `FLOW_TEXT`: a text that goes through intent classification, as if a customer had written it.
    Text(Template),
}

/// A phone number, and the name that Flow shows for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    pub name: String,
    pub number: String,
}

/// Whether any of its variables is set.
pub fn is_configured(reader: &mut Reader) -> bool {
    reader.is_any_set(Variables::names())
        || reader.is_any_set(BroadcastVariables::names().map(|name| format!("{PREFIX}{name}")))
}

/// Reads the settings. Returns `None` if there is a problem.
pub fn read(reader: &mut Reader, routes: &[Route]) -> Option<Settings> {
    let variables = Variables::read(reader, "");
    let url = reader.optional(variables.flow_api_url().or_default(API_URL), parse::url);
    let prefix = variables.flow_auth_prefix.as_deref().map(|prefix| format!("{} ", prefix.trim()));
    let prefix = prefix.unwrap_or_default();
    let authorization = reader.required(variables.flow_api_key(), |key| authorization(&prefix, key));
    let channel = reader.or(variables.flow_channel_name(), Channel::default(), |text| {
        parse::variant(
            text,
            "is not one of rbm, messagemedia, telekom, twilio, whatsapp, khoros and messenger",
        )
    });
    let external_id = reader.required(variables.flow_external_id(), parse::text);
    let broadcasts = reader.by_route(routes, NAME, read_broadcast);
    Some(Settings {
        url: url?,
        authorization: authorization?,
        channel,
        external_id: external_id?,
        broadcasts: broadcasts?,
        texts: texting::read(reader, routes),
    })
}

fn authorization(prefix: &str, key: &str) -> Parsed<SecretString> {
    let value = format!("{prefix}{}", parse::token(key)?.expose_secret());
    match HeaderValue::from_str(&value) {
        Ok(_) => Ok(value.into()),
        Err(_) => Err("is not a key that a header can carry"),
    }
}

fn read_broadcast(reader: &mut Reader, route: &Route) -> Option<Broadcast> {
    let variables = BroadcastVariables::read_for(reader, route, PREFIX);
    let from = variables.own_if(|own| own.event_name.is_some() || own.text.is_some());
    let payload = match (&from.event_name, &from.text) {
        (Some(_), Some(_)) => {
            let (event, text) = (from.event_name().name, from.text().name);
            reader.problem(format!("{event} and {text} are both set: set only one of them"));
            None
        }
        (Some(_), None) => reader.optional(from.event_name(), parse::text).map(Payload::Event),
        (None, Some(text)) => {
            let name = from.text().name;
            let template = Template::new(&name, text);
            template.map_err(|problem| reader.problem(format!("{name}: {problem}"))).ok().map(Payload::Text)
        }
        (None, None) => {
            reader.problem("FLOW_EVENT_NAME is not set (or FLOW_TEXT)".to_owned());
            None
        }
    };
    let to = reader.required(variables.to(), recipients);
    Some(Broadcast { payload: payload?, to: to? })
}

/// Parses numbers with optional names: `+15551234567, Jane Doe <+4917012345678>`.
fn recipients(text: &str) -> Parsed<Vec<Recipient>> {
    const REASON: &str = "is not a list of phone numbers, as in +15551234567 or Jane <+4917012345678>";
    let recipient = |text: &str| {
        let (name, number) = match text.split_once('<') {
            Some((name, number)) => (name.trim(), number.trim().strip_suffix('>')?),
            None => ("", text),
        };
        let number = texting::phone_number(number)?;
        let name = if name.is_empty() { ANONYMOUS } else { name }.to_owned();
        Some(Recipient { name, number })
    };
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let recipients: Option<Vec<_>> = parts.map(recipient).collect();
    recipients.filter(|recipients| !recipients.is_empty()).ok_or(REASON)
}

pub struct Flow {
    settings: Settings,
    http: reqwest::Client,
    timeout: Duration,
    schedule: Schedule,
}

impl Flow {
    /// `attempt_limit` is the longest that one delivery may take.
    pub fn new(settings: Settings, http: reqwest::Client, attempt_limit: Duration) -> Flow {
        let timeout = TIMEOUT.min(attempt_limit * 6 / 10);
        let schedule = Schedule::new(settings.texts.clone(), LIMIT);
        Flow { settings, http, timeout, schedule }
    }

    /// Attempts a delivery.
    ///
    /// # Errors
    /// It stopped before anything was sent.
    pub async fn attempt(&self, job: &Job<'_>, ledger: &Ledger<'_>) -> Result<Outcome, Stopped> {
        let body = self.body(job, ledger).await.map_err(|stopped| match stopped {
            Stopped::Outcome(outcome) => Stopped::Unasked(outcome),
            stopped => stopped,
        })?;
        let url = exchange::address(&self.settings.url, "/broadcast/instant");
        let mut authorization = HeaderValue::from_str(self.settings.authorization.expose_secret())
            .unwrap_or(HeaderValue::from_static(""));
        authorization.set_sensitive(true);
        ledger.sending().await?;
        let request = self.http.post(url).timeout(self.timeout).header(AUTHORIZATION, authorization);
        let request = request.header("content-type", "application/json").body(body);
        let answer = exchange::send(request).await.inspect(|answer| ledger.answered(answer.response()));
        let outcome = outcome(answer);
        if !matches!(outcome, Outcome::Done { .. } | Outcome::Uncertain { .. }) {
            // Without this note, the next attempt at a delivery in doubt, such as a replay, would end the delivery.
            let _ = ledger.note(UNSENT).await;
        }
        Ok(outcome)
    }

    /// Returns the bytes to send, which are then frozen.
    async fn body(&self, job: &Job<'_>, ledger: &Ledger<'_>) -> Result<String, Stopped> {
        let claim = job.claim;
        let is_unsent = claim.request_memo.as_deref() == Some(UNSENT);
        match &claim.request {
            // Bytes are frozen before the first one goes out, so nothing was sent if there are none.
            Some(_) if claim.in_doubt && !is_unsent => {
                return Err(may_have_been_sent("an earlier attempt ended without an answer").into());
            }
            Some(frozen) => {
                self.schedule.check_quiet_hours(claim, ledger)?;
                if is_unsent {
                    ledger.note("").await?;
                }
                return Ok(frozen.clone());
            }
            None => {}
        }
        // A replay has another revision.
        if claim.revision == 0 && ledger.is_history(job.item).await? {
            return Err(may_have_been_sent("the event is older than this database").into());
        }
        let Some(broadcast) = self.settings.broadcasts.get(&claim.route) else {
            let reason = "its route no longer goes to Flow: add Flow to the route again, and replay";
            return Err(Outcome::Dead { reason: Reason::new(reason) }.into());
        };
        let body = request(&self.settings, broadcast, job).map_err(|failure| {
            let reason = format!("FLOW_TEXT: {failure}; correct the template, and replay");
            Outcome::Dead { reason: Reason::new(reason) }
        })?;
        let body = body.to_string();
        self.schedule.take_place(claim, ledger).await?;
        ledger.freeze(claim, &body, "").await?;
        Ok(body)
    }

    /// Returns `None`, since Flow has no harmless request.
    pub async fn check_access(&self) -> Option<Result<(), Outcome>> {
        None
    }

    pub async fn work_in_background(&self, _memos: &Memos) -> Result<Option<Duration>, StorageError> {
        Ok(Some(super::held::CHECK_EVERY))
    }

    pub async fn wake_held(&self, memos: &Memos) -> Result<(), StorageError> {
        self.schedule.wake_held(memos).await
    }

    pub fn log_done(&self, claim: &Claim, action: Action, reference: &str) {
        log_sent(claim, action, reference);
    }

    pub fn ready(&self, _now: Instant) -> Ready {
        Ready::Now(usize::MAX)
    }
}

/// The row of Flow in `casebridge check`.
pub async fn rows(settings: Option<&Settings>, _http: &reqwest::Client) -> Vec<Row> {
    let finding = settings.map_or_else(|| Finding::not_checked(INCOMPLETE), finding);
    vec![Row::of(NAME, [finding])]
}

fn finding(settings: &Settings) -> Finding {
    let host = settings.url.host_str().unwrap_or_default();
    let numbers: usize = settings.broadcasts.values().map(|broadcast| broadcast.to.len()).sum();
    let text = format!("{host}, {numbers} number(s); not called: Flow has no harmless request");
    Finding::warning(text, "replay a delivery to try it (`casebridge replay`)")
}

/// The body of `POST /broadcast/instant`.
fn request(settings: &Settings, broadcast: &Broadcast, job: &Job) -> Result<Value, String> {
    let audience = broadcast.to.iter();
    let audience = audience.map(|to| json!({ "name": to.name, "phoneNumber": to.number }));
    let mut payload = match &broadcast.payload {
        Payload::Event(name) => json!({ "type": "event", "eventName": name }),
        Payload::Text(template) => json!({ "type": "text", "speech": speech(template, job)? }),
    };
    payload["metadata"] = json!({ "params": params(job) });
    Ok(json!({
        "audience": audience.collect::<Vec<_>>(),
        "channel": { "channelName": settings.channel, "externalId": settings.external_id },
        "payload": payload,
    }))
}

fn speech(template: &Template, job: &Job) -> Result<String, String> {
    let cause = job.claim.cause().filter(Cause::has_number).unwrap_or_default();
    let text = texting::render(template, job.item, job.route, &cause)?;
    match clean(&text).trim() {
        "" => Err("it gives no text for this item".to_owned()),
        text => Ok(text.chars().take(TEXT_CHARS).collect()),
    }
}

/// The parameters that a flow can use. Each is an array of values.
fn params(job: &Job) -> Map<String, Value> {
    let Cause { number, url, .. } = job.claim.cause().unwrap_or_default();
    let author = job.item.author.name.clone().or_else(|| job.item.author.screen_name.clone());
    let label = job.route.label.clone().or_else(|| job.item.labels.first().cloned());
    let params = [
        ("ticketId", Some(number)),
        ("ticketUrl", Some(url)),
        ("label", label),
        ("author", author),
        ("text", job.item.text.clone()),
    ];
    let set =
        params.into_iter().filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?)));
    set.map(|(name, value)| {
        (name.to_owned(), json!([{ "value": clean(&value).chars().take(TEXT_CHARS).collect::<String>() }]))
    })
    .collect()
}

fn may_have_been_sent(why: &str) -> Outcome {
    let reason = format!("may have been sent: {why}; `casebridge replay` sends it again");
    Outcome::Uncertain { reason: Reason::new(reason) }
}

/// The table of outcomes. A definite refusal leaves no doubt; any other failure after the first byte does.
fn outcome(answer: Result<Answer, NoAnswer>) -> Outcome {
    let answer = match answer {
        Ok(answer) => answer,
        Err(NoAnswer { unsent: true, how }) => {
            let reason = Reason::new(format!("no connection to Flow (FLOW_API_URL): {how}"));
            return Outcome::Pause { reason, doubt: Doubt::None, retry_after: None };
        }
        Err(NoAnswer { how, .. }) => return may_have_been_sent(&how),
    };
    let reason = answer.reason("Flow");
    let blocked = |reason| Outcome::Blocked { reason, doubt: Doubt::None };
    let alerting = |code| Reason { alert: Some(code), until_sent: true, ..reason.clone() };
    match answer.status {
        // The answer has no id. It says only that Flow has accepted the broadcast.
        200..=299 if is_accepted(&answer.body) => Outcome::sent("accepted".to_owned()),
        200..=299 => may_have_been_sent("Flow's answer is not the documented one"),
        300..=399 | 404 | 405 => blocked(alerting(ADDRESS)),
        401 | 403 => blocked(alerting(CREDENTIAL)),
        429 => Outcome::Pause { reason, doubt: Doubt::None, retry_after: answer.retry_after },
        400 | 406 | 411..=417 | 421..=424 => Outcome::Refused { reason },
        _ => may_have_been_sent(&reason.log),
    }
}

fn is_accepted(body: &[u8]) -> bool {
    serde_json::from_slice::<Value>(body).is_ok_and(|body| body["status"] == "ok")
}

#[cfg(test)]
mod tests;
