//! A signed webhook: each item as one `POST` to the address that the operator configures, at least once.
//!
//! Headers and signature are those of [Standard Webhooks](https://www.standardwebhooks.com) 1.0.0; the body is also
//! a CloudEvent 1.0. All tries of one delivery have the same `webhook-id` and the same bytes, so that the receiver can
//! drop duplicates.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use reqwest::header::CONTENT_TYPE;
use secrecy::{ExposeSecret, SecretSlice};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::lookup_host;
use url::Url;

use super::{Alerts, Guarantee, Job, Ready, log_sent};
use crate::alert::codes;
use crate::delivery::{Action, Cause, Claim, Doubt, Outcome, Reason};
use crate::env::doc::{Group, Section};
use crate::env::parse::{self, Parsed};
use crate::env::{Reader, variables};
use crate::exchange::{self, Answer, NoAnswer};
use crate::item::{Item, Note};
use crate::json::hex;
use crate::ledger::{Ledger, Memos, Stopped, StorageError};
use crate::report::{Finding, INCOMPLETE, Row, within};
use crate::route::Route;

pub const NAME: &str = "webhook";
pub const GUARANTEE: Guarantee = Guarantee::AtLeastOnce;
pub const CACHES: &[&str] = &[];
pub const LIMITS: &[&str] = &[];
/// The number of concurrent messages.
pub const IN_FLIGHT: usize = 27;
pub const ALERTS: Alerts = Alerts { down: DOWN, refuses: REFUSES };

codes! {
    /// The webhook has not been usable for minutes.
    DOWN = "webhook_down";
    /// The receiver refuses one event after another for the same reason.
    REFUSES = "webhook_refuses";
    /// The receiver refuses the requests of casebridge: 401 or 403.
    FORBIDDEN = "webhook_forbidden";
    /// There is no receiver at `WEBHOOK_URL`: a redirect or 404.
    ADDRESS = "webhook_address";
    /// The receiver refuses all further events: 410.
    GONE = "webhook_gone";
}

/// Standard Webhooks recommends 15 to 30 s.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The wait after a 410, which each check renews: nothing is sent until the next start.
const GONE_FOR: Duration = Duration::from_secs(3600);

variables! {
    /// The variables of the webhook.
    Variables:
    /// The address of the webhook's receiver.
    ///
    /// A query in it is kept.
    webhook_url = needed("for the webhook").example("https://example.com/casebridge");
    /// The secret that signs the webhook's requests: `whsec_` and 24 to 64 bytes in base64.
    /// `echo whsec_$(openssl rand -base64 32)` makes one. During a rotation it may hold several, separated by commas:
    /// each signs.
    webhook_secret = needed("for the webhook");
    /// What the webhook's requests contain. `thin`: ids, links, route, label, times and the ticket. `full`: also the
    /// text, the author, the labels and the notes.
    webhook_payload = default("thin");
}

pub const SECTIONS: &[Section] = &[Section {
    title: "Webhook",
    intro: "",
    groups: &[Group::new("", Variables::DOCS)],
    prefixes: &["WEBHOOK_"],
}];

/// The settings of the webhook.
#[derive(Clone)]
pub struct Settings {
    /// `WEBHOOK_URL`
    pub url: Url,
    /// `WEBHOOK_SECRET`, comma-separated. Each of them signs, so that the receiver can change from one to the next.
    pub secrets: Vec<SecretSlice<u8>>,
    /// `WEBHOOK_PAYLOAD`
    pub payload: Payload,
}

/// `WEBHOOK_PAYLOAD`: what the body contains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Payload {
    /// Ids, links, route, label, times and ticket: nothing that a person wrote. A link may contain a user name.
    #[default]
    Thin,
    /// Also the text, the author, the labels and the notes.
    Full,
}

/// Whether any of its variables is set.
pub fn is_configured(reader: &mut Reader) -> bool {
    reader.is_any_set(Variables::names())
}

/// Reads the settings. Returns `None` if there is a problem.
pub fn read(reader: &mut Reader, _routes: &[Route]) -> Option<Settings> {
    let variables = Variables::read(reader, "");
    let url = reader.required(variables.webhook_url(), parse::url_with_query);
    let secrets = reader.required(variables.webhook_secret(), secrets);
    let payload = reader.or(variables.webhook_payload(), Payload::default(), |text| {
        parse::variant(text, "is neither thin nor full")
    });
    Some(Settings { url: url?, secrets: secrets?, payload })
}

/// Parses secrets of Standard Webhooks, separated by commas.
pub fn secrets(text: &str) -> Parsed<Vec<SecretSlice<u8>>> {
    const REASON: &str = "is not a secret of 24 to 64 bytes, as in whsec_… (make one with: \
                          echo whsec_$(openssl rand -base64 32))";
    let secret = |text: &str| {
        let bytes = STANDARD.decode(text.trim().strip_prefix("whsec_")?).ok()?;
        (24..=64).contains(&bytes.len()).then(|| SecretSlice::from(bytes))
    };
    let secrets = text.split(',').filter(|text| !text.trim().is_empty()).map(secret);
    let secrets: Option<Vec<_>> = secrets.collect();
    secrets.filter(|secrets| !secrets.is_empty()).ok_or(REASON)
}

pub struct Webhook {
    settings: Settings,
    http: reqwest::Client,
    timeout: Duration,
    /// The receiver answered 410.
    is_gone: AtomicBool,
}

impl Webhook {
    /// `attempt_limit` is the longest that one delivery may take.
    pub fn new(settings: Settings, http: reqwest::Client, attempt_limit: Duration) -> Webhook {
        let timeout = TIMEOUT.min(attempt_limit * 6 / 10);
        Webhook { settings, http, timeout, is_gone: AtomicBool::new(false) }
    }

    /// Attempts a delivery.
    ///
    /// # Errors
    /// It stopped before anything was sent.
    pub async fn attempt(&self, job: &Job<'_>, ledger: &Ledger<'_>) -> Result<Outcome, Stopped> {
        let id = message_id(&job.claim.identity);
        let body = match &job.claim.request {
            Some(frozen) => frozen.clone(),
            None => {
                let body = event(job, &id, self.settings.payload).to_string();
                ledger.freeze(job.claim, &body, "").await?;
                body
            }
        };
        ledger.sending().await?;
        let timestamp = Timestamp::now().as_second();
        let request = self
            .http
            .post(self.settings.url.clone())
            .timeout(self.timeout)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", &id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signatures(&self.settings.secrets, &id, timestamp, &body))
            .body(body);
        let answer = exchange::send(request).await.inspect(|answer| ledger.answered(answer.response()));
        if matches!(&answer, Ok(Answer { status: 410, .. })) {
            self.is_gone.store(true, Ordering::Relaxed);
        }
        Ok(outcome(answer, id))
    }

    /// Returns `None`, since any request would be a delivery.
    pub async fn check_access(&self) -> Option<Result<(), Outcome>> {
        None
    }

    pub async fn work_in_background(&self, _memos: &Memos) -> Result<Option<Duration>, StorageError> {
        Ok(None)
    }

    /// It holds no deliveries back.
    pub async fn wake_held(&self, _memos: &Memos) -> Result<(), StorageError> {
        Ok(())
    }

    pub fn log_done(&self, claim: &Claim, action: Action, reference: &str) {
        log_sent(claim, action, reference);
    }

    pub fn ready(&self, now: Instant) -> Ready {
        match self.is_gone.load(Ordering::Relaxed) {
            true => Ready::At(now + GONE_FOR),
            false => Ready::Now(usize::MAX),
        }
    }
}

/// The row of the webhook in `casebridge check`.
pub async fn rows(settings: Option<&Settings>, _http: &reqwest::Client) -> Vec<Row> {
    let finding = match settings {
        Some(settings) => finding(settings).await,
        None => Finding::not_checked(INCOMPLETE),
    };
    vec![Row::of(NAME, [finding])]
}

/// Checks only the receiver's host name: a request would be a delivery.
async fn finding(settings: &Settings) -> Finding {
    let host = settings.url.host_str().unwrap_or_default();
    let port = settings.url.port_or_known_default().unwrap_or(443);
    let found = within(lookup_host((host.trim_matches(['[', ']']), port))).await;
    let Some(address) = found.and_then(Result::ok).and_then(|mut addresses| addresses.next()) else {
        let remedy = "check WEBHOOK_URL, and whether this host resolves the name (DNS)";
        return Finding::failed(format!("{host} is not known here"), remedy);
    };
    let secrets = settings.secrets.len();
    let plural = if secrets == 1 { "" } else { "s" };
    let text = format!("{host} ({}), signed with {secrets} secret{plural}; not called", address.ip());
    Finding::ok(text)
}

/// The id of a delivery's message: the same for all its tries. It is a hash, since an id must not contain dots or text
/// from outside.
fn message_id(identity: &str) -> String {
    format!("msg_{:.32}", hex(Sha256::digest(identity)))
}

/// The value of `webhook-signature`: one signature for each secret.
pub fn signatures(secrets: &[SecretSlice<u8>], id: &str, timestamp: i64, body: &str) -> String {
    let sign = |secret: &SecretSlice<u8>| {
        // HMAC takes keys of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret()).ok()?;
        mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
        Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
    };
    secrets.iter().filter_map(sign).collect::<Vec<_>>().join(" ")
}

/// The body: a payload of Standard Webhooks (`type`, `timestamp`, `data`) that is also a CloudEvent.
fn event(job: &Job, id: &str, payload: Payload) -> Value {
    let Job { claim, item, route } = *job;
    let cause = claim.cause().filter(Cause::has_number);
    let kind = match &cause {
        Some(cause) => format!("casebridge.ticket.{}", cause.action),
        None => "casebridge.item.received".to_owned(),
    };
    let received = Timestamp::from_millisecond(claim.received_at).ok();
    let time = item.event_made.or(received).map(|time| time.to_string());
    let mut data = json!({
        "delivery": claim.identity,
        "case": claim.case_key,
        "event": { "id": item.event_id, "name": item.event_name },
        "route": claim.route,
        "label": route.label,
        "entity": item.entity_id,
        "network": item.network(),
        "link": item.link,
        "created": item.created,
        "received": received.map(|time| time.to_string()),
        "ticket": cause.map(|cause| json!({
            "number": cause.number, "url": cause.url, "action": cause.action,
        })),
    });
    if payload == Payload::Full {
        add_texts(&mut data, item);
    }
    json!({
        "specversion": "1.0",
        "id": id,
        "source": "casebridge",
        "type": kind,
        "subject": claim.case_key,
        "time": time,
        "timestamp": time,
        "datacontenttype": "application/json",
        "data": data,
    })
}

fn add_texts(data: &mut Value, item: &Item) {
    data["text"] = json!(item.text);
    data["author"] = json!({
        "id": item.author.id,
        "name": item.author.name,
        "screen_name": item.author.screen_name,
        "link": item.author.link,
    });
    data["labels"] = json!(item.labels);
    let note = |note: &Note| json!({ "text": note.text, "author": note.author, "created": note.created });
    data["notes"] = item.notes.iter().map(note).collect();
    if let Some(report) = &item.report {
        data["report"] = json!({ "headline": report.headline, "lines": report.lines });
    }
}

/// The table of outcomes. No answer leaves a doubt: a message that arrives twice has the same id.
fn outcome(answer: Result<Answer, NoAnswer>, id: String) -> Outcome {
    let answer = match answer {
        Ok(answer) => answer,
        Err(NoAnswer { unsent, how }) => {
            let reason = Reason::new(format!("no answer from the webhook (WEBHOOK_URL): {how}"));
            return match unsent {
                true => Outcome::Pause { reason, doubt: Doubt::None, retry_after: None },
                false => Outcome::Retry { reason, doubt: Doubt::None },
            };
        }
    };
    let reason = answer.reason("the webhook");
    let pause = |reason| Outcome::Pause { reason, doubt: Doubt::None, retry_after: answer.retry_after };
    let blocked = |reason| Outcome::Blocked { reason, doubt: Doubt::None };
    let alerting = |code| Reason { alert: Some(code), until_sent: true, ..reason.clone() };
    match answer.status {
        200..=299 => Outcome::sent(id),
        300..=399 | 404 => blocked(alerting(ADDRESS)),
        401 | 403 => blocked(alerting(FORBIDDEN)),
        410 => pause(alerting(GONE)),
        400 | 405..=407 | 411..=417 | 421..=424 => Outcome::Refused { reason },
        429 | 503 => pause(reason),
        _ if answer.retry_after.is_some() => pause(reason),
        _ => Outcome::Retry { reason, doubt: Doubt::None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome_of(status: u16) -> &'static str {
        let answer = Answer { status, retry_after: None, body: Vec::new() };
        match outcome(Ok(answer), "id".to_owned()) {
            Outcome::Done { .. } => "done",
            Outcome::Pause { reason, .. } | Outcome::Blocked { reason, .. } => {
                reason.alert.unwrap_or("pause")
            }
            Outcome::Retry { .. } => "retry",
            Outcome::Refused { .. } => "refused",
            outcome => panic!("{outcome:?}"),
        }
    }

    #[test]
    fn the_table_of_outcomes() {
        for (statuses, expected) in [
            (&[200, 201, 202, 204, 299][..], "done"),
            (&[301, 302, 307, 404], "webhook_address"),
            (&[401, 403], "webhook_forbidden"),
            (&[410], "webhook_gone"),
            (&[400, 413, 415, 422], "refused"),
            (&[429, 503], "pause"),
            (&[408, 409, 425, 500, 502, 504, 521], "retry"),
        ] {
            for status in statuses {
                assert_eq!(outcome_of(*status), expected, "{status}");
            }
        }
    }

    /// The example of the specification's reference libraries.
    #[test]
    fn signatures_are_those_of_the_standard() {
        let secrets = secrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let signature = signatures(&secrets, id, 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn wrong_secrets_are_refused() {
        for text in [
            "",
            "whsec_",
            "whsec_c2hvcnQ=",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw,x",
        ] {
            assert!(secrets(text).is_err(), "{text}");
        }
        let two = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw, whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        assert_eq!(secrets(two).unwrap().len(), 2);
    }
}
