//! Keeps the subscriptions as we want them: observes what Khoros holds for each route and corrects it, since
//! anybody may pause, re-point or duplicate a subscription.

mod desired;
mod route;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::alert::{self, Reminder};
use crate::inbox::Inbox;
use crate::khoros::{Khoros, Refusal, RemoteSubscription, Status};
pub use desired::{Desired, Push, host, named};
use route::{CORRECTIONS, Reconciled, RouteState};

const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Without a subscription no event arrives: after this somebody should know, whatever the reason.
const ALARMING: Duration = Duration::from_secs(300);
/// Up to this many subscriptions of one name have their feeds read.
const FEEDS: usize = 4;

/// The subscriptions of all routes, as `/status` and the status line show them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Subscriptions(BTreeMap<String, SubscriptionStatus>);

impl Subscriptions {
    pub fn pending(routes: impl Iterator<Item = String>) -> Subscriptions {
        Subscriptions(routes.map(|route| (route, SubscriptionStatus::Pending)).collect())
    }

    pub fn set_all(&mut self, status: SubscriptionStatus) {
        self.0.values_mut().for_each(|remote| remote.clone_from(&status));
    }

    fn set(&mut self, route: &str, status: SubscriptionStatus) {
        self.0.insert(route.to_owned(), status);
    }

    /// That of the one that is worst off.
    pub fn word(&self) -> &'static str {
        let worst = self.0.values().min_by_key(|status| match status {
            SubscriptionStatus::NoPublicUrl => 0,
            SubscriptionStatus::Failing(_) => 1,
            SubscriptionStatus::Ended => 2,
            SubscriptionStatus::Pending => 3,
            SubscriptionStatus::Subscribed => 4,
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
    /// By `casebridge unsubscribe`, until the next start.
    Ended,
}

impl SubscriptionStatus {
    pub fn word(&self) -> &'static str {
        match self {
            SubscriptionStatus::NoPublicUrl => "no_public_url",
            SubscriptionStatus::Pending => "pending",
            SubscriptionStatus::Subscribed => "subscribed",
            SubscriptionStatus::Failing(_) => "failing",
            SubscriptionStatus::Ended => "ended",
        }
    }
}

/// The feeds that can be read: of each route the ids of its subscriptions as Khoros gives them, the one
/// that is kept first. A route that is missing is not known yet; one without an id has no feed.
pub type Feeds = BTreeMap<String, Vec<String>>;

/// Says once an hour how our address is set, until the process is restarted with it.
pub async fn remind_of_public_url(remedy: &str) {
    loop {
        error!(
            event = "public_url_missing",
            alert = alert::PUBLIC_URL,
            "not subscribed, because our public address is unknown. Set it and restart: {remedy}"
        );
        tokio::time::sleep(alert::REMINDER).await;
    }
}

/// Keeps the subscriptions of all routes as they are desired. After a failure it tries again, less and less
/// often; the service serves meanwhile.
pub struct Reconciler {
    khoros: Khoros,
    inbox: Inbox,
    check_every: Duration,
    routes: Vec<RouteState>,
    status: watch::Sender<Subscriptions>,
    feeds: watch::Sender<Feeds>,
    /// Khoros has shown its subscriptions to this process.
    has_listed: bool,
    is_unlisted_logged: bool,
    reminder: Reminder,
    leftovers: BTreeSet<String>,
}

/// What Khoros shows of its subscriptions.
enum Observed {
    Listed(Vec<RemoteSubscription>),
    /// Only the POST is known here.
    NotOffered,
    Refused(Refusal),
}

/// Why a subscription is not as it is desired.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Problem {
    Refused(Refusal),
    /// This field differs again, after all corrections of a day.
    Stubborn(String),
    Contested {
        external_id: String,
        theirs: String,
        ours: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Refused(refusal) => refusal.fmt(f),
            Problem::Stubborn(field) => write!(
                f,
                "Khoros shows another {field}, after {CORRECTIONS} corrections in a day: Khoros does not \
                 keep it, or somebody else changes it"
            ),
            Problem::Contested { external_id, theirs, ours } => write!(
                f,
                "another deployment uses this externalId, set SPREDFAST_EXTERNAL_ID: `{external_id}` sends \
                 its events to {theirs}, not to {ours}, after {CORRECTIONS} corrections in a day"
            ),
        }
    }
}

impl Problem {
    /// The state of a subscription that has been announced before, as logged.
    fn state(&self) -> (&'static str, &'static str) {
        match self {
            Problem::Refused(_) => ("unchecked", "the subscription cannot be checked"),
            Problem::Stubborn(_) | Problem::Contested { .. } => ("wrong", "the subscription is wrong"),
        }
    }

    /// The alert to log, if somebody has to act.
    fn alert(&self, is_lasting: bool) -> Option<&'static str> {
        match self {
            Problem::Refused(Refusal::Token(_)) => Some(alert::KHOROS_TOKEN),
            Problem::Refused(Refusal::Address(_)) => Some(alert::KHOROS_ADDRESS),
            Problem::Contested { .. } => Some(alert::SUBSCRIPTION_CONTESTED),
            Problem::Refused(_) | Problem::Stubborn(_) => is_lasting.then_some(alert::KHOROS_DOWN),
        }
    }
}

/// What one check of all routes came to; routes by their index.
#[derive(Default)]
struct Checked {
    /// Something was changed since the last observation.
    has_changed: bool,
    /// The routes whose subscriptions were changed.
    changed: BTreeSet<usize>,
    problems: Vec<(usize, Problem)>,
}

impl Reconciler {
    pub fn new(
        khoros: Khoros,
        inbox: Inbox,
        desired: Vec<Desired>,
        check_every: Duration,
        status: watch::Sender<Subscriptions>,
        feeds: watch::Sender<Feeds>,
    ) -> Reconciler {
        Reconciler {
            khoros,
            inbox,
            check_every,
            routes: desired.into_iter().map(RouteState::new).collect(),
            status,
            feeds,
            has_listed: false,
            is_unlisted_logged: false,
            reminder: Reminder::default(),
            leftovers: BTreeSet::new(),
        }
    }

    /// Publishes the existing feeds, so that they are read even before Khoros is told our address.
    /// An operator who ends a subscription from now on ends it for this process.
    pub async fn find_feeds(&mut self) {
        if let Err(error) = self.active().await {
            log_unread_end(&error);
        }
        if let Observed::Listed(remote) = self.observe().await {
            let feeds = self
                .routes
                .iter()
                .map(|state| (state.route().name.clone(), feeds_of(&state.desired.ours(&remote))));
            // A subscription that is missing now may be made in a moment.
            self.feeds.send_replace(feeds.filter(|(_, uuids)| !uuids.is_empty()).collect());
        }
    }

    pub async fn run(mut self) {
        let mut wait = FIRST_WAIT;
        loop {
            let checked = match self.check().await {
                Ok(checked) => checked,
                // An operator may have ended one: nothing is changed until that can be read.
                Err(error) => {
                    log_unread_end(&error);
                    tokio::time::sleep(self.check_every.min(FIRST_WAIT)).await;
                    continue;
                }
            };
            let refused = checked.problems.iter().filter_map(|(_, problem)| match problem {
                Problem::Refused(refusal) => Some(asked_wait(refusal)),
                _ => None,
            });
            let next = match refused.max() {
                Some(asked) => {
                    let next = wait.mul_f64(1.0 - 0.2 * fastrand::f64()).max(asked);
                    wait = (wait * 2).min(LONGEST_WAIT);
                    next
                }
                None => {
                    wait = FIRST_WAIT;
                    self.check_every.mul_f64(1.0 - 0.1 * fastrand::f64())
                }
            };
            self.report(&checked.problems, next);
            tokio::time::sleep(next).await;
        }
    }

    /// Observes and corrects, and looks once more if anything was changed: a new subscription has a feed, and
    /// where a POST duplicates there is an older one to disable.
    async fn check(&mut self) -> sqlx::Result<Checked> {
        let mut checked = Checked::default();
        for is_last in [false, true] {
            if self.active().await?.is_empty() {
                self.feeds.send_replace(Feeds::new());
                break;
            }
            let observed = self.observe().await;
            // An operator's command stores the end before it changes the subscription, so that such a change, if
            // it was observed, is not taken for somebody else's.
            let active = self.active().await?;
            self.reconcile(&active, &observed, &mut checked).await;
            if is_last || !checked.has_changed {
                self.publish(&active, &observed);
                break;
            }
        }
        Ok(checked)
    }

    async fn reconcile(&mut self, active: &[usize], observed: &Observed, checked: &mut Checked) {
        checked.has_changed = false;
        for &index in active {
            if checked.problems.iter().any(|(other, _)| *other == index) {
                continue;
            }
            let state = &mut self.routes[index];
            match state.reconcile(&self.khoros, &self.inbox, observed).await {
                Ok(Reconciled::Unchanged) => self.announce(index),
                Ok(Reconciled::Changed) => {
                    // The first change of a check is observed once more before it is announced.
                    let is_first = checked.changed.insert(index);
                    checked.has_changed |= is_first;
                    if !is_first && state.failing_since.is_none() {
                        self.announce(index);
                    }
                }
                Err(problem) => {
                    // Khoros took the change, and only what became of it cannot be seen.
                    if matches!(problem, Problem::Refused(_)) && checked.changed.contains(&index) {
                        self.announce(index);
                    }
                    checked.problems.push((index, problem));
                }
            }
        }
    }

    fn announce(&mut self, index: usize) {
        let state = &mut self.routes[index];
        state.announce();
        let name = state.route().name.clone();
        self.status.send_modify(|all| all.set(&name, SubscriptionStatus::Subscribed));
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
                let status = all.0.insert(route.name.clone(), SubscriptionStatus::Ended);
                status != Some(SubscriptionStatus::Ended)
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
            // A list that was there before is only hidden by some fault.
            Err(Refusal::NotOffered) if !self.has_listed => {
                if !std::mem::replace(&mut self.is_unlisted_logged, true) {
                    info!(
                        event = "subscriptions_unlisted",
                        "Khoros does not show its subscriptions here: they are made at the start and cannot be \
                         checked afterwards"
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
            let name = state.route().name.clone();
            let uuids = match observed {
                Observed::Listed(remote) => feeds_of(&state.desired.ours(remote)),
                Observed::NotOffered => state.uuid.iter().cloned().collect(),
                Observed::Refused(_) => self.feeds.borrow().get(&name)?.clone(),
            };
            Some((name, uuids))
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
                    "the subscription `{external_id}` sends us events that no route wants. To end it: \
                     casebridge unsubscribe --external-id {external_id}"
                );
            }
        }
    }

    /// Logs problems, each once for all routes that have it, and publishes them in the status.
    fn report(&mut self, problems: &[(usize, Problem)], next: Duration) {
        if problems.is_empty() {
            self.reminder.clear();
            return;
        }
        let mut routes_of = BTreeMap::new();
        for (index, _) in problems {
            self.routes[*index].failing_since.get_or_insert_with(Instant::now);
        }
        for (index, problem) in problems {
            let state = &self.routes[*index];
            let alert = problem.alert(state.failing_since.is_some_and(|since| since.elapsed() >= ALARMING));
            let (word, what) = match state.is_announced() {
                true => problem.state(),
                false => ("not_subscribed", "not subscribed"),
            };
            let name = state.route().name.as_str();
            let text = problem.to_string();
            self.status.send_modify(|all| all.set(name, SubscriptionStatus::Failing(text.clone())));
            routes_of.entry((word, what, alert, text)).or_insert_with(Vec::new).push(name);
        }
        let alerts: BTreeSet<&str> = routes_of.keys().filter_map(|(_, _, alert, _)| *alert).collect();
        let codes = alerts.into_iter().collect::<Vec<_>>().join(",");
        let is_due = !codes.is_empty() && self.reminder.is_due(&codes, Instant::now());
        let seconds = next.as_secs();
        for ((state, what, alert, text), routes) in routes_of {
            let route = routes.join(",");
            match alert.filter(|_| is_due) {
                Some(alert) => {
                    error!(
                        event = "subscription_failed",
                        alert, route, state, "{what}, next try in {seconds} s: {text}"
                    );
                }
                None => warn!(
                    event = "subscription_failed",
                    route, state, "{what}, next try in {seconds} s: {text}"
                ),
            }
        }
    }
}

fn log_unread_end(error: &sqlx::Error) {
    debug!(
        event = "subscription_memory_failed",
        "could not read whether an operator ended a subscription: {error}"
    );
}

/// What a subscription gathered before it was disabled was read before it was.
fn feeds_of(ours: &[&RemoteSubscription]) -> Vec<String> {
    let is_on = |remote: &&&RemoteSubscription| remote.status != Some(Status::Disabled);
    let others = ours.iter().skip(1).filter(is_on);
    ours.iter().take(1).chain(others).take(FEEDS).map(|remote| remote.uuid.clone()).collect()
}

/// What a refusal asks us to wait.
fn asked_wait(refusal: &Refusal) -> Duration {
    match refusal {
        Refusal::Throttled(Some(wait)) => *wait,
        _ => Duration::ZERO,
    }
}
