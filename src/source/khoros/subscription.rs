//! Reconciles the subscriptions: observes what Khoros holds for each route and corrects it, since anybody may
//! pause, re-point or duplicate a subscription.

mod desired;
mod route;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::alerts;
use crate::alert::{self, Alarm, Registry};
use crate::inbox::Inbox;
use crate::source::khoros::client::{Khoros, Refusal, RemoteSubscription};
pub use desired::{Desired, Field, named};
use route::{Problem, RouteState};

const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// The scope of memos with a fingerprint of each subscription as it was last sent to Khoros.
const DECLARED: &str = "khoros.declared";
/// The scope of memos with the time at which an operator last ended each subscription.
const ENDED: &str = "khoros.ended";

/// Returns the mark of the last time that an operator ended the subscription of this name.
///
/// # Errors
/// The storage failed.
pub async fn ended_mark(inbox: &Inbox, external_id: &str) -> sqlx::Result<Option<String>> {
    Ok(inbox.recall(ENDED, external_id).await?.map(|(mark, _)| mark))
}

/// Marks the subscription of this name as ended by the operator: running services leave it alone.
///
/// # Errors
/// The storage failed.
pub async fn mark_ended(inbox: &Inbox, external_id: &str) -> sqlx::Result<()> {
    inbox.remember(ENDED, external_id, &inbox.time().await?.to_string()).await
}

/// Restores the earlier mark, since the subscription was not ended after all.
///
/// # Errors
/// The storage failed.
pub async fn restore_mark(inbox: &Inbox, external_id: &str, mark: Option<&str>) -> sqlx::Result<()> {
    match mark {
        Some(mark) => inbox.remember(ENDED, external_id, mark).await,
        None => inbox.forget(ENDED, external_id).await,
    }
}

/// The subscriptions of all routes, as `/status` and the status line show them.
pub type Subscriptions = BTreeMap<String, SubscriptionStatus>;

/// The name of the worst status.
pub fn worst(subscriptions: &Subscriptions) -> &'static str {
    subscriptions.values().min().map_or("none", SubscriptionStatus::as_str)
}

/// The status of one subscription; the worst comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "reason")]
pub enum SubscriptionStatus {
    /// We do not know our own address.
    NoPublicUrl,
    Failing(String),
    /// By `casebridge unsubscribe`, until the next start.
    Ended,
    Pending,
    Subscribed,
}

impl SubscriptionStatus {
    /// The names of all states.
    pub const NAMES: [&str; 5] = ["no_public_url", "failing", "ended", "pending", "subscribed"];

    /// The name of the state, as in `/status`.
    pub fn as_str(&self) -> &'static str {
        match self {
            SubscriptionStatus::NoPublicUrl => "no_public_url",
            SubscriptionStatus::Failing(_) => "failing",
            SubscriptionStatus::Ended => "ended",
            SubscriptionStatus::Pending => "pending",
            SubscriptionStatus::Subscribed => "subscribed",
        }
    }
}

/// The feed of each route: the id of its subscription. A route that is missing is not known yet; one without
/// an id has no feed.
pub type Feeds = BTreeMap<String, Option<String>>;

/// Logs once an hour how to set our address, until the process is restarted with it.
pub async fn remind_of_public_url(remedy: &str, alerts: Registry) {
    Alarm::new(&alerts, "khoros.public_url", "").raise(alerts::PUBLIC_URL, "", Instant::now());
    loop {
        error!(
            event = "public_url_missing",
            alert = alerts::PUBLIC_URL,
            "not subscribed, because the public address is unknown. Set it and restart: {remedy}"
        );
        tokio::time::sleep(alert::REMINDER).await;
    }
}

/// Brings the subscriptions of all routes to the desired state, again and again. After failures it waits
/// longer and longer; the service serves meanwhile.
pub struct Reconciler {
    khoros: Khoros,
    inbox: Inbox,
    check_every: Duration,
    routes: Vec<RouteState>,
    status: watch::Sender<Subscriptions>,
    feeds: watch::Sender<Feeds>,
    /// Khoros has listed its subscriptions at least once.
    has_listed: bool,
    is_unlisted_logged: bool,
    /// The ids of subscriptions that have been logged as unused.
    leftovers: BTreeSet<String>,
}

/// The observed subscriptions.
enum Observed {
    Listed(Vec<RemoteSubscription>),
    /// This server is only known to have the POST.
    NotOffered,
    Refused(Refusal),
}

impl Reconciler {
    pub fn new(
        khoros: Khoros,
        inbox: Inbox,
        desired: Vec<Desired>,
        check_every: Duration,
        status: watch::Sender<Subscriptions>,
        feeds: watch::Sender<Feeds>,
        alerts: &Registry,
    ) -> Reconciler {
        Reconciler {
            khoros,
            inbox,
            check_every,
            routes: desired.into_iter().map(|desired| RouteState::new(desired, alerts)).collect(),
            status,
            feeds,
            has_listed: false,
            is_unlisted_logged: false,
            leftovers: BTreeSet::new(),
        }
    }

    /// Publishes existing feeds, so that they are read even before Khoros gets our address. From now on, an
    /// operator who ends a subscription ends it for this process.
    pub async fn find_feeds(&mut self) {
        // If the database fails, the first check logs it.
        let Ok(active) = self.active().await else { return };
        let observed = self.observe().await;
        if matches!(observed, Observed::Listed(_)) {
            self.publish(&active, &observed);
        }
    }

    pub async fn run(mut self) {
        let mut wait = FIRST_WAIT;
        loop {
            let problems = match self.check().await {
                Ok(problems) => problems,
                // An operator may have ended one: nothing is changed until that can be read.
                Err(error) => {
                    debug!(
                        event = "subscription_memory_failed",
                        "could not read whether an operator ended a subscription: {error}"
                    );
                    tokio::time::sleep(self.check_every.min(FIRST_WAIT)).await;
                    continue;
                }
            };
            let refused = problems.iter().filter_map(|(_, problem)| match problem {
                Problem::Refused(refusal) => Some(refusal.requested_wait()),
                _ => None,
            });
            let next = match refused.max() {
                Some(requested) => {
                    let next = wait.mul_f64(1.0 - 0.2 * fastrand::f64()).max(requested);
                    wait = (wait * 2).min(LONGEST_WAIT);
                    next
                }
                None => {
                    wait = FIRST_WAIT;
                    self.check_every.mul_f64(1.0 - 0.1 * fastrand::f64())
                }
            };
            for (index, problem) in &problems {
                self.routes[*index].report(problem, next);
                self.set_status(*index, SubscriptionStatus::Failing(problem.to_string()));
            }
            tokio::time::sleep(next).await;
        }
    }

    /// Reconciles all routes, and those that were changed once more: a new subscription has a feed, and where
    /// a POST duplicates, an older one has to be disabled. Returns the problems by the index of the route.
    async fn check(&mut self) -> sqlx::Result<Vec<(usize, Problem)>> {
        let mut problems = Vec::new();
        let mut due: Vec<usize> = (0..self.routes.len()).collect();
        for is_last in [false, true] {
            if self.active().await?.is_empty() {
                self.feeds.send_replace(Feeds::new());
                break;
            }
            let observed = self.observe().await;
            // An operator's command stores the end before it disables the subscription. A service that
            // observed that change finds the end here, and does not revert it.
            let active = self.active().await?;
            due.retain(|index| active.contains(index));
            let mut changed = Vec::new();
            for index in due {
                match self.routes[index].reconcile(&self.khoros, &self.inbox, &observed).await {
                    Ok(true) if !is_last => changed.push(index),
                    Ok(_) => self.announce(index),
                    Err(problem) => {
                        // Khoros took the change, and only its result cannot be seen.
                        if is_last && matches!(problem, Problem::Refused(_)) {
                            self.announce(index);
                        }
                        problems.push((index, problem));
                    }
                }
            }
            if changed.is_empty() {
                self.publish(&active, &observed);
                break;
            }
            due = changed;
        }
        Ok(problems)
    }

    fn announce(&mut self, index: usize) {
        self.routes[index].announce();
        self.set_status(index, SubscriptionStatus::Subscribed);
    }

    fn set_status(&self, index: usize, status: SubscriptionStatus) {
        let name = self.routes[index].route().name.clone();
        self.status.send_modify(|all| drop(all.insert(name, status)));
    }

    /// The indexes of the routes whose subscriptions no operator has ended since this process began.
    async fn active(&mut self) -> sqlx::Result<Vec<usize>> {
        let mut active = Vec::new();
        for (index, state) in self.routes.iter_mut().enumerate() {
            if !state.has_ended(&self.inbox).await? {
                active.push(index);
                continue;
            }
            let route = state.route();
            let is_new = self.status.send_if_modified(|all| {
                let before = all.insert(route.name.clone(), SubscriptionStatus::Ended);
                before != Some(SubscriptionStatus::Ended)
            });
            if is_new {
                warn!(
                    event = "subscription_ended",
                    route = route.name,
                    "the operator ended the subscription `{}`: leaving it alone until the next start",
                    route.external_id
                );
            }
        }
        Ok(active)
    }

    async fn observe(&mut self) -> Observed {
        match self.khoros.subscriptions().await {
            Ok(remote) => {
                self.has_listed |= !remote.is_empty();
                Observed::Listed(remote)
            }
            // If there was a list before, this is a fault and not a server without lists.
            Err(Refusal::NotOffered) if !self.has_listed => {
                if !std::mem::replace(&mut self.is_unlisted_logged, true) {
                    info!(
                        event = "subscriptions_unlisted",
                        "Khoros does not show its subscriptions here: casebridge creates them at the start and \
                         cannot check them afterwards"
                    );
                }
                Observed::NotOffered
            }
            Err(refusal) => Observed::Refused(refusal),
        }
    }

    /// Publishes the feeds, and logs subscriptions at our endpoints that belong to no route.
    fn publish(&mut self, active: &[usize], observed: &Observed) {
        let feeds = active.iter().filter_map(|index| {
            let state = &self.routes[*index];
            let name = &state.route().name;
            let uuid = match observed {
                // A missing subscription may be created in a moment.
                Observed::Listed(remote) => Some(state.desired.choose(remote)?.0.uuid.clone()),
                Observed::NotOffered => state.uuid.clone(),
                Observed::Refused(_) => self.feeds.borrow().get(name)?.clone(),
            };
            Some((name.clone(), uuid))
        });
        let feeds: Feeds = feeds.collect();
        self.feeds.send_if_modified(|known| {
            let is_new = *known != feeds;
            *known = feeds;
            is_new
        });
        let Observed::Listed(remote) = observed else { return };
        let is_ours = |remote: &RemoteSubscription| {
            self.routes.iter().any(|state| state.route().external_id == remote.external_id)
        };
        for remote in remote.iter().filter(|remote| !is_ours(remote)) {
            let is_leftover = self.routes.first().is_some_and(|state| state.desired.is_leftover(remote));
            if is_leftover && self.leftovers.insert(remote.uuid.clone()) {
                let external_id = &remote.external_id;
                warn!(
                    event = "subscription_unused",
                    external_id,
                    "the subscription `{external_id}` sends events that no route uses. To end it: casebridge \
                     unsubscribe --external-id {external_id}"
                );
            }
        }
    }
}
