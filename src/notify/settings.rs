//! Where notices of alerts go: `ALERT_*` and `HEARTBEAT_*`.

use std::time::Duration;

use secrecy::{SecretSlice, SecretString};
use serde::Deserialize;
use url::Url;

use crate::destination::webhook;
use crate::env::doc::{Group, Section};
use crate::env::parse::{self, Parsed};
use crate::env::{Reader, variables};

variables! {
    /// The variables of notices.
    Variables:
    /// An incoming webhook of Slack, which gets a message when an alert fires, once a day while it lasts, and when it
    /// is resolved. Treat the address as a secret.
    alert_slack_webhook_url = unset().example("https://hooks.slack.com/services/…");
    /// An address that gets the same notices as signed webhooks (Standard Webhooks), or in the format of Alertmanager.
    alert_webhook_url = unset().example("https://example.com/alerts");
    /// `standard` (Standard Webhooks, signed) or `alertmanager` (as Alertmanager sends to its webhook receivers).
    alert_webhook_format = default("standard");
    /// The secret that signs these webhooks, in the form of `WEBHOOK_SECRET`. With `ALERT_WEBHOOK_FORMAT=alertmanager`
    /// it is optional.
    alert_webhook_secret = needed("for `ALERT_WEBHOOK_URL` with `ALERT_WEBHOOK_FORMAT=standard`");
    /// The integration key of a PagerDuty service (Events API v2): each alert becomes an incident, which casebridge
    /// resolves when the alert is over.
    alert_pagerduty_key = unset();
    /// The address of PagerDuty's Events API. In the EU: `https://events.eu.pagerduty.com`.
    alert_pagerduty_url = default(PAGERDUTY);
    /// How long a condition must last before its alert fires, in seconds, 0 to 3600.
    alert_pending_seconds = default("60");
    /// casebridge calls this address every 60 s while all is well, and once with `/fail` appended to its path when that
    /// changes. A service such as healthchecks.io reports when the calls stop. Treat the address as a secret.
    ///
    /// All is well while the database accepts writes, the destinations' queues are being worked on, and the oldest
    /// waiting delivery is younger than `HEARTBEAT_MAX_AGE_SECONDS`.
    heartbeat_url = unset().example("https://hc-ping.com/…");
    /// If the oldest waiting delivery is this old, in seconds, 1 to 604800, casebridge stops calling `HEARTBEAT_URL`.
    /// Deliveries that a limit holds back do not count.
    heartbeat_max_age_seconds = default("600");
}

pub const SECTION: Section = Section {
    title: "Alerts",
    intro: "See [Notices](alerts.md#notices).",
    groups: &[Group::new("", Variables::DOCS)],
    prefixes: &["ALERT_", "HEARTBEAT_"],
};

const PAGERDUTY: &str = "https://events.pagerduty.com";
const PENDING: Duration = Duration::from_secs(60);
const MAX_AGE: Duration = Duration::from_secs(600);

/// The settings of notices.
#[derive(Clone)]
pub struct Settings {
    pub sinks: Vec<SinkSettings>,
    /// `ALERT_PENDING_SECONDS`
    pub pending: Duration,
    pub heartbeat: Option<Heartbeat>,
}

/// A receiver of notices.
#[derive(Clone)]
pub enum SinkSettings {
    /// `ALERT_SLACK_WEBHOOK_URL`
    Slack(Url),
    /// `ALERT_WEBHOOK_URL`. Without secrets, nothing is signed.
    Webhook { url: Url, format: Format, secrets: Vec<SecretSlice<u8>> },
    /// `ALERT_PAGERDUTY_URL`, `ALERT_PAGERDUTY_KEY`
    PagerDuty { url: Url, key: SecretString },
}

/// `ALERT_WEBHOOK_FORMAT`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    #[default]
    Standard,
    Alertmanager,
}

/// `HEARTBEAT_URL`, `HEARTBEAT_MAX_AGE_SECONDS`
#[derive(Clone)]
pub struct Heartbeat {
    pub url: Url,
    pub max_age: Duration,
}

impl Settings {
    /// The addresses that are called.
    pub fn urls(&self) -> impl Iterator<Item = &Url> {
        self.sinks.iter().map(SinkSettings::url).chain(self.heartbeat.iter().map(|heartbeat| &heartbeat.url))
    }
}

impl SinkSettings {
    fn url(&self) -> &Url {
        match self {
            SinkSettings::Slack(url)
            | SinkSettings::Webhook { url, .. }
            | SinkSettings::PagerDuty { url, .. } => url,
        }
    }
}

/// Reads the settings. A sink with a problem is left out.
pub fn read(reader: &mut Reader) -> Settings {
    let variables = Variables::read(reader, "");
    let slack = reader.optional(variables.alert_slack_webhook_url(), parse::url_with_query);
    let webhook = webhook(reader, &variables);
    let pagerduty = pagerduty(reader, &variables);
    let pending = reader.or(variables.alert_pending_seconds(), PENDING, parse::seconds(0..=3600));
    let url = reader.optional(variables.heartbeat_url(), parse::url_with_query);
    let max_age = reader.or(variables.heartbeat_max_age_seconds(), MAX_AGE, parse::seconds(1..=604_800));
    Settings {
        sinks: slack.map(SinkSettings::Slack).into_iter().chain(webhook).chain(pagerduty).collect(),
        pending,
        heartbeat: url.map(|url| Heartbeat { url, max_age }),
    }
}

fn webhook(reader: &mut Reader, variables: &Variables) -> Option<SinkSettings> {
    let format = reader.or(variables.alert_webhook_format(), Format::default(), |text| {
        parse::variant(text, "is neither standard nor alertmanager")
    });
    let (address, secret) = (variables.alert_webhook_url(), variables.alert_webhook_secret());
    if address.value.is_none() {
        // A secret alone means that the address was forgotten.
        if secret.value.is_some() {
            reader.required(address, parse::url_with_query);
        }
        return None;
    }
    let url = reader.optional(address, parse::url_with_query);
    let secrets = match format {
        Format::Standard => reader.required(secret, webhook::secrets),
        Format::Alertmanager if secret.value.is_none() => Some(Vec::new()),
        Format::Alertmanager => reader.optional(secret, webhook::secrets),
    };
    Some(SinkSettings::Webhook { url: url?, format, secrets: secrets? })
}

fn pagerduty(reader: &mut Reader, variables: &Variables) -> Option<SinkSettings> {
    let url = reader.optional(variables.alert_pagerduty_url().or_default(PAGERDUTY), parse::origin);
    let key = reader.optional(variables.alert_pagerduty_key(), routing_key)?;
    Some(SinkSettings::PagerDuty { url: url?, key })
}

/// PagerDuty's integration keys have 32 letters and digits.
fn routing_key(text: &str) -> Parsed<SecretString> {
    match text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        true => Ok(text.into()),
        false => Err("is not an integration key of PagerDuty: 32 letters and digits"),
    }
}
