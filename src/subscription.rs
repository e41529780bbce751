//! Keeps trying until Khoros knows where to send our label's events.

use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::sync::watch;
use tracing::{error, info, warn};
use url::Url;

use crate::alert::{self, Reminder};
use crate::khoros::{Khoros, Refusal, Subscription};

const EVENT: &str = "stream-item-label-applied";
const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Without a subscription no label arrives: after this somebody should know, whatever the reason.
const ALARMING: Duration = Duration::from_secs(300);

/// The subscription as `/status` and the status line show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "reason")]
pub enum SubscriptionStatus {
    /// We do not know our own address.
    NoPublicUrl,
    Pending,
    Subscribed,
    Failing(String),
}

impl SubscriptionStatus {
    pub fn word(&self) -> &'static str {
        match self {
            SubscriptionStatus::NoPublicUrl => "no_public_url",
            SubscriptionStatus::Pending => "pending",
            SubscriptionStatus::Subscribed => "subscribed",
            SubscriptionStatus::Failing(_) => "failing",
        }
    }
}

/// What we want Khoros to hold.
pub struct Wanted {
    pub company_id: u64,
    pub external_id: String,
    pub label: String,
    /// Where notifications are to go.
    pub notification_url: Url,
    pub bearer_token: SecretString,
}

/// Subscribes; after a failure again and again, less and less often. The service serves meanwhile.
pub async fn subscribe(khoros: Khoros, wanted: Wanted, status: watch::Sender<SubscriptionStatus>) {
    let subscription = Subscription {
        company_id: wanted.company_id,
        external_id: &wanted.external_id,
        event_name: EVENT,
        notification_uri: wanted.notification_url.as_str(),
        query: &wanted.label,
        bearer_token: wanted.bearer_token.expose_secret(),
    };
    let began = Instant::now();
    let mut wait = FIRST_WAIT;
    let mut reminder = Reminder::default();
    loop {
        match khoros.subscribe(&subscription).await {
            Ok(()) => {
                info!(
                    url = wanted.notification_url.as_str(),
                    external_id = wanted.external_id,
                    "subscribed: Khoros sends label `{}` to {}",
                    wanted.label,
                    wanted.notification_url
                );
                status.send_replace(SubscriptionStatus::Subscribed);
                return;
            }
            Err(refusal) => {
                let wait = wait.mul_f64(1.0 - 0.2 * fastrand::f64());
                log(&refusal, wait, began.elapsed() >= ALARMING, &mut reminder);
                status.send_replace(SubscriptionStatus::Failing(refusal.to_string()));
                tokio::time::sleep(wait).await;
            }
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Says once an hour how our address is set, until the process is restarted with it.
pub async fn remind_of_public_url(remedy: &str) {
    loop {
        error!(
            alert = alert::PUBLIC_URL,
            "not subscribed: Khoros cannot be told our address. Set it and restart: {remedy}"
        );
        tokio::time::sleep(alert::REMINDER).await;
    }
}

fn log(refusal: &Refusal, wait: Duration, alarming: bool, reminder: &mut Reminder) {
    let seconds = wait.as_secs();
    let alert = match refusal {
        Refusal::Token(_) => Some(alert::KHOROS_TOKEN),
        Refusal::Address(_) => Some(alert::KHOROS_ADDRESS),
        Refusal::Forbidden | Refusal::Failed(..) | Refusal::Html(_) | Refusal::Unreachable(_) => {
            alarming.then_some(alert::KHOROS_DOWN)
        }
    };
    match alert.filter(|code| reminder.is_due(code, Instant::now())) {
        Some(alert) => error!(alert, "not subscribed, next try in {seconds} s: {refusal}"),
        None => warn!("not subscribed, next try in {seconds} s: {refusal}"),
    }
}
