//! The receivers of notices, and how a notice is sent to one.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, RequestBuilder};
use secrecy::{ExposeSecret, SecretSlice};
use serde_json::Value;
use url::Url;

use super::format;
use super::notice::Notice;
use super::settings::{Format, SinkSettings};
use crate::destination::webhook;
use crate::exchange::{self, Answer, NoAnswer};

/// The time limit of one request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A receiver of notices.
pub struct Sink {
    settings: SinkSettings,
    http: Client,
}

/// Why a receiver did not accept a notice.
pub struct Failure {
    /// Without the address, which may be a secret.
    pub reason: String,
    /// The wait that the receiver asked for.
    pub retry_after: Option<Duration>,
    /// The receiver certainly did not get it, or refused it.
    pub is_unsent: bool,
}

impl Sink {
    pub fn new(settings: SinkSettings, http: Client) -> Sink {
        Sink { settings, http }
    }

    /// The name in the log and in the database.
    pub fn name(&self) -> &'static str {
        match self.settings {
            SinkSettings::Slack(_) => "slack",
            SinkSettings::Webhook { .. } => "webhook",
            SinkSettings::PagerDuty { .. } => "pagerduty",
        }
    }

    /// The name of its row in `casebridge check --alerts`.
    pub fn row(&self) -> &'static str {
        match self.settings {
            SinkSettings::Slack(_) => "alerts to slack",
            SinkSettings::Webhook { .. } => "alerts to webhook",
            SinkSettings::PagerDuty { .. } => "alerts to pagerduty",
        }
    }

    /// What to do if it does not accept a notice.
    pub fn remedy(&self) -> &'static str {
        match self.settings {
            SinkSettings::Slack(_) => {
                "check ALERT_SLACK_WEBHOOK_URL, and in Slack whether the webhook and its channel still exist"
            }
            SinkSettings::Webhook { .. } => {
                "check ALERT_WEBHOOK_URL and ALERT_WEBHOOK_SECRET, and the receiver's log"
            }
            SinkSettings::PagerDuty { .. } => "check ALERT_PAGERDUTY_KEY, and for the EU ALERT_PAGERDUTY_URL",
        }
    }

    /// Sends a notice. It is safe to repeat it: the webhook's id and PagerDuty's `dedup_key` stay the same. Slack
    /// shows a repeated message twice.
    ///
    /// # Errors
    /// [`Failure`]; if no answer came, the receiver may have the notice anyway.
    pub async fn send(&self, notice: &Notice) -> Result<(), Failure> {
        let request = self.request(notice).timeout(TIMEOUT);
        match exchange::send(request).await {
            Ok(answer) if answer.is_success() => Ok(()),
            Ok(Answer { status, retry_after, .. }) => {
                // A gateway may have passed the notice on.
                let is_unsent = !matches!(status, 408 | 500..);
                Err(Failure { reason: format!("it answered {status}"), retry_after, is_unsent })
            }
            Err(NoAnswer { how, unsent }) => {
                Err(Failure { reason: how, retry_after: None, is_unsent: unsent })
            }
        }
    }

    /// Sends a notice that does not come from an alert, and its end if the receiver has incidents, so that none stays
    /// open.
    ///
    /// # Errors
    /// [`Failure`]
    pub async fn send_extra(&self, notice: Notice) -> Result<(), Failure> {
        self.send(&notice).await?;
        match self.settings {
            SinkSettings::PagerDuty { .. } | SinkSettings::Webhook { format: Format::Alertmanager, .. } => {
                self.send(&notice.end()).await
            }
            _ => Ok(()),
        }
    }

    fn request(&self, notice: &Notice) -> RequestBuilder {
        match &self.settings {
            SinkSettings::Slack(url) => self.post(url.clone(), format::slack(notice).to_string()),
            SinkSettings::PagerDuty { url, key } => {
                let mut url = url.clone();
                url.set_path("/v2/enqueue");
                self.post(url, format::pagerduty(notice, key.expose_secret()).to_string())
            }
            SinkSettings::Webhook { url, format, secrets } => {
                let body: Value = match format {
                    Format::Standard => format::standard(notice),
                    Format::Alertmanager => format::alertmanager(notice),
                };
                self.signed(url.clone(), body.to_string(), &notice.id, secrets)
            }
        }
    }

    fn post(&self, url: Url, body: String) -> RequestBuilder {
        self.http.post(url).header(CONTENT_TYPE, "application/json").body(body)
    }

    fn signed(&self, url: Url, body: String, id: &str, secrets: &[SecretSlice<u8>]) -> RequestBuilder {
        if secrets.is_empty() {
            return self.post(url, body);
        }
        let timestamp = Timestamp::now().as_second();
        let signature = webhook::signatures(secrets, id, timestamp, &body);
        let request = self.post(url, body).header("webhook-id", id).header("webhook-timestamp", timestamp);
        request.header("webhook-signature", signature)
    }
}
