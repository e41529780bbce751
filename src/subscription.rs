//! Keeps trying until Khoros knows where to send the events of our routes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::sync::watch;
use tracing::{error, info, warn};
use url::Url;

use crate::alert::{self, Reminder};
use crate::config::Route;
use crate::khoros::{Khoros, Refusal, Subscription};

const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Without a subscription no label arrives: after this somebody should know, whatever the reason.
const ALARMING: Duration = Duration::from_secs(300);

/// The subscriptions of all routes, as `/status` and the status line show them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Subscriptions(BTreeMap<String, SubscriptionStatus>);

impl Subscriptions {
    pub fn pending(routes: impl Iterator<Item = String>) -> Subscriptions {
        Subscriptions(routes.map(|route| (route, SubscriptionStatus::Pending)).collect())
    }

    pub fn set_all(&mut self, status: SubscriptionStatus) {
        self.0.values_mut().for_each(|held| held.clone_from(&status));
    }

    fn set(&mut self, route: &str, status: SubscriptionStatus) {
        self.0.insert(route.to_owned(), status);
    }

    /// That of the one that is worst off.
    pub fn word(&self) -> &'static str {
        let worst = self.0.values().min_by_key(|status| match status {
            SubscriptionStatus::NoPublicUrl => 0,
            SubscriptionStatus::Failing(_) => 1,
            SubscriptionStatus::Pending => 2,
            SubscriptionStatus::Subscribed => 3,
        });
        worst.map_or("none", SubscriptionStatus::word)
    }
}

/// One subscription.
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
    pub route: Route,
    /// Where notifications are to go.
    pub notification_url: Url,
    pub bearer_token: SecretString,
}

/// Subscribes; after a failure again and again, less and less often. The service serves meanwhile.
pub async fn subscribe(khoros: Khoros, wanted: Wanted, status: watch::Sender<Subscriptions>) {
    let route = &wanted.route;
    let tell = |now| status.send_modify(|subscriptions| subscriptions.set(&route.name, now));
    let subscription = Subscription {
        company_id: wanted.company_id,
        external_id: &route.external_id,
        event_name: &route.event,
        notification_uri: Some(wanted.notification_url.as_str()),
        query: route.query.as_deref(),
        bearer_token: Some(wanted.bearer_token.expose_secret()),
    };
    let began = Instant::now();
    let mut wait = FIRST_WAIT;
    let mut reminder = Reminder::default();
    loop {
        match khoros.subscribe(&subscription).await {
            Ok(()) => {
                let url = wanted.notification_url.as_str();
                let what = described(route);
                info!(
                    route = route.name,
                    url,
                    external_id = route.external_id,
                    "subscribed: Khoros sends {what} to {url}"
                );
                tell(SubscriptionStatus::Subscribed);
                return;
            }
            Err(refusal) => {
                let wait = wait.mul_f64(1.0 - 0.2 * fastrand::f64());
                log(&route.name, &refusal, wait, began.elapsed() >= ALARMING, &mut reminder);
                tell(SubscriptionStatus::Failing(refusal.to_string()));
                tokio::time::sleep(wait).await;
            }
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

fn described(route: &Route) -> String {
    match (&route.label, &route.query) {
        (Some(label), _) => format!("label `{label}`"),
        (None, Some(query)) => format!("event `{}` that matches `{query}`", route.event),
        (None, None) => format!("event `{}`", route.event),
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

fn log(route: &str, refusal: &Refusal, wait: Duration, alarming: bool, reminder: &mut Reminder) {
    let seconds = wait.as_secs();
    let alert = match refusal {
        Refusal::Token(_) => Some(alert::KHOROS_TOKEN),
        Refusal::Address(_) => Some(alert::KHOROS_ADDRESS),
        _ => alarming.then_some(alert::KHOROS_DOWN),
    };
    match alert.filter(|code| reminder.is_due(code, Instant::now())) {
        Some(alert) => error!(alert, route, "not subscribed, next try in {seconds} s: {refusal}"),
        None => warn!(route, "not subscribed, next try in {seconds} s: {refusal}"),
    }
}
