//! Keeps the subscriptions true: Khoros is told where to send the events of our routes, and is looked
//! after from then on, since anybody may pause, re-point or double a subscription.

mod kept;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::alert::{self, Reminder};
use crate::inbox::Inbox;
use crate::khoros::{Held, Khoros, Refusal, Status};
use kept::Kept;
use plan::Field;
pub use plan::{Push, Wanted, host, named};

const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Without a subscription no label arrives: after this somebody should know, whatever the reason.
const ALARMING: Duration = Duration::from_secs(300);
/// A subscription that is taken over so often in a day is another deployment's as well.
const TAKE_OVERS: usize = 3;
/// Subscriptions of one name whose feeds are read.
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
            "not subscribed: Khoros cannot be told our address. Set it and restart: {remedy}"
        );
        tokio::time::sleep(alert::REMINDER).await;
    }
}

/// Keeps the subscriptions of all routes. Failures are told and tried again, less and less often; the
/// service serves meanwhile.
pub struct Keeper {
    khoros: Khoros,
    inbox: Inbox,
    check_every: Duration,
    kept: Vec<Kept>,
    status: watch::Sender<Subscriptions>,
    feeds: watch::Sender<Feeds>,
    lists: Lists,
    reminder: Reminder,
    leftovers: BTreeSet<String>,
}

/// Whether Khoros shows its subscriptions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lists {
    Unknown,
    Shown,
    /// Only the POST is known here.
    NotOffered,
}

/// What a look at Khoros has shown.
enum Look {
    Held(Vec<Held>),
    NotOffered,
    Refused(Refusal),
}

/// Why a subscription is not as we want it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trouble {
    Refused(Refusal),
    /// Khoros answers that all is well, and it is not; or somebody else changes it again and again.
    Stubborn(Field),
    Contested {
        external_id: String,
        theirs: String,
        ours: String,
    },
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Refused(refusal) => refusal.fmt(f),
            Trouble::Stubborn(what) => {
                write!(
                    f,
                    "Khoros accepts the subscription and shows another {what} in it: it does not keep what \
                     it is told, or somebody else changes it"
                )
            }
            Trouble::Contested { external_id, theirs, ours } => write!(
                f,
                "another deployment uses this externalId, set SPREDFAST_EXTERNAL_ID: `{external_id}` sends \
                 its events to {theirs} again, and was taken over for {ours} {TAKE_OVERS} times in a day"
            ),
        }
    }
}

impl Keeper {
    pub fn new(
        khoros: Khoros,
        inbox: Inbox,
        wanted: Vec<Wanted>,
        check_every: Duration,
        status: watch::Sender<Subscriptions>,
        feeds: watch::Sender<Feeds>,
    ) -> Keeper {
        let kept = wanted.into_iter().map(Kept::new).collect();
        Keeper {
            khoros,
            inbox,
            check_every,
            kept,
            status,
            feeds,
            lists: Lists::Unknown,
            reminder: Reminder::default(),
            leftovers: BTreeSet::new(),
        }
    }

    /// Says which feeds there are already: what is in them need not wait until Khoros is told anything.
    /// From now on we run, for an operator who ends a subscription.
    pub async fn find_feeds(&mut self) {
        if let Err(error) = self.tended().await {
            debug!(
                event = "subscription_memory_failed",
                "whether a subscription was ended cannot be read: {error}"
            );
        }
        if let Look::Held(held) = self.look().await {
            let feeds = self.kept.iter().map(|kept| (kept.name(), feeds_of(&kept.wanted.ours(&held))));
            // What is not there yet is not known to be missing.
            self.feeds.send_replace(feeds.filter(|(_, uuids)| !uuids.is_empty()).collect());
        }
    }

    pub async fn run(mut self) {
        let mut wait = FIRST_WAIT;
        loop {
            let troubles = match self.check().await {
                Ok(troubles) => troubles,
                // Somebody may have ended one: all is left as it is until that can be read.
                Err(error) => {
                    debug!(
                        event = "subscription_memory_failed",
                        "whether a subscription was ended cannot be read: {error}"
                    );
                    tokio::time::sleep(self.check_every.min(FIRST_WAIT)).await;
                    continue;
                }
            };
            let refused = troubles.iter().filter_map(|(_, trouble)| match trouble {
                Trouble::Refused(refusal) => Some(refusal),
                _ => None,
            });
            let asked = refused.map(asked_wait).max();
            let next = match asked {
                Some(asked) => wait.mul_f64(1.0 - 0.2 * fastrand::f64()).max(asked),
                None => self.check_every.mul_f64(1.0 - 0.1 * fastrand::f64()),
            };
            wait = if asked.is_some() { (wait * 2).min(LONGEST_WAIT) } else { FIRST_WAIT };
            self.tell(&troubles, next);
            tokio::time::sleep(next).await;
        }
    }

    /// Looks at what Khoros holds and makes it what we want. Returns what could not be done, by the
    /// places of the routes.
    async fn check(&mut self) -> sqlx::Result<Vec<(usize, Trouble)>> {
        if self.tended().await?.is_empty() {
            self.feeds.send_replace(Feeds::new());
            return Ok(Vec::new());
        }
        let look = self.look().await;
        // Who ends one leaves word first. So what is seen of it is not taken for somebody else's deed.
        let mut tended = self.tended().await?;
        let mut troubles = Vec::new();
        let mut declared = BTreeSet::new();
        for &place in &tended {
            match self.kept[place].declare_if_needed(&self.khoros, &self.inbox, &look).await {
                Ok(true) => drop(declared.insert(place)),
                Ok(false) => {}
                Err(trouble) => troubles.push((place, trouble)),
            }
        }
        let mut look = look;
        if !declared.is_empty() {
            look = self.look().await;
            tended = self.tended().await?;
        }
        for &place in &tended {
            if troubles.iter().any(|(troubled, _)| *troubled == place) {
                continue;
            }
            let is_new = declared.contains(&place);
            match self.kept[place].set_statuses(&self.khoros, &look, is_new).await {
                Ok(()) => self.kept[place].announce(&self.status),
                Err(trouble) => {
                    // Khoros took it, and what is in doubt is only what became of it.
                    if is_new && matches!(look, Look::Refused(_)) {
                        self.kept[place].announce(&self.status);
                    }
                    troubles.push((place, trouble));
                }
            }
        }
        self.publish(&tended, &look);
        Ok(troubles)
    }

    /// The places of the routes whose subscriptions nobody has ended since we started.
    async fn tended(&mut self) -> sqlx::Result<Vec<usize>> {
        let mut tended = Vec::new();
        for (place, kept) in self.kept.iter_mut().enumerate() {
            if kept.is_wanted(&self.inbox, &self.status).await? {
                tended.push(place);
            }
        }
        Ok(tended)
    }

    async fn look(&mut self) -> Look {
        match self.khoros.subscriptions().await {
            Ok(held) => {
                self.lists = Lists::Shown;
                Look::Held(held)
            }
            // What was there yesterday has not ceased to exist: something is in its way.
            Err(refusal) if self.lists == Lists::Shown => Look::Refused(refusal),
            Err(Refusal::NotOffered) => {
                if std::mem::replace(&mut self.lists, Lists::NotOffered) != Lists::NotOffered {
                    info!(
                        event = "subscriptions_unlisted",
                        "Khoros does not show its subscriptions here: they are made at the start, and what \
                         becomes of them is not known"
                    );
                }
                Look::NotOffered
            }
            Err(refusal) => Look::Refused(refusal),
        }
    }

    /// Says which feeds there are, and which subscriptions at our doors are nobody's.
    fn publish(&mut self, tended: &[usize], look: &Look) {
        let feeds = tended.iter().filter_map(|place| {
            let kept = &self.kept[*place];
            let name = kept.name();
            let uuids = match look {
                Look::Held(held) => feeds_of(&kept.wanted.ours(held)),
                Look::NotOffered => kept.uuid.iter().cloned().collect(),
                // As it was before: what was never seen is not known to be missing.
                Look::Refused(_) => self.feeds.borrow().get(&name)?.clone(),
            };
            Some((name, uuids))
        });
        let feeds: Feeds = feeds.collect();
        self.feeds.send_if_modified(|known| {
            let is_new = *known != feeds;
            *known = feeds;
            is_new
        });
        let Look::Held(held) = look else { return };
        let is_ours =
            |held: &Held| self.kept.iter().any(|kept| kept.wanted.route.external_id == held.external_id);
        for held in held.iter().filter(|held| !is_ours(held)) {
            let is_leftover = self.kept.first().is_some_and(|kept| kept.wanted.is_leftover(held));
            if is_leftover && self.leftovers.insert(held.uuid.clone()) {
                let external_id = &held.external_id;
                warn!(
                    event = "subscription_unused",
                    external_id,
                    "the subscription `{external_id}` sends events to us that no route wants. To end it: \
                     casebridge unsubscribe --external-id {external_id}"
                );
            }
        }
    }

    /// Logs troubles, each once for all routes that have it, and shows them in the status.
    fn tell(&mut self, troubles: &[(usize, Trouble)], next: Duration) {
        if troubles.is_empty() {
            self.reminder.clear();
            return;
        }
        for (place, _) in troubles {
            self.kept[*place].failing_since.get_or_insert_with(Instant::now);
        }
        let mut routes_of = BTreeMap::new();
        for (place, trouble) in troubles {
            let kept = &self.kept[*place];
            let is_lasting = kept.failing_since.is_some_and(|since| since.elapsed() >= ALARMING);
            let alert = alert_of(trouble, is_lasting);
            let name = kept.wanted.route.name.as_str();
            let text = trouble.to_string();
            self.status.send_modify(|all| all.set(name, SubscriptionStatus::Failing(text.clone())));
            let key = (kept.is_announced, alert, text);
            routes_of.entry(key).or_insert_with(|| (Vec::new(), trouble)).0.push(name);
        }
        let alerts: BTreeSet<&str> = routes_of.keys().filter_map(|(_, alert, _)| *alert).collect();
        let codes = alerts.into_iter().collect::<Vec<_>>().join(",");
        let is_due = !codes.is_empty() && self.reminder.is_due(&codes, Instant::now());
        let seconds = next.as_secs();
        for ((was_subscribed, alert, text), (routes, trouble)) in routes_of {
            let route = routes.join(",");
            let (state, what) = match trouble {
                _ if !was_subscribed => ("not_subscribed", "not subscribed"),
                Trouble::Refused(_) => ("unchecked", "the subscription cannot be checked"),
                Trouble::Stubborn(_) | Trouble::Contested { .. } => ("wrong", "the subscription is wrong"),
            };
            match alert.filter(|_| is_due) {
                Some(alert) => error!(
                    event = "subscription_failed",
                    alert, route, state, "{what}, next try in {seconds} s: {text}"
                ),
                None => {
                    warn!(
                        event = "subscription_failed",
                        route, state, "{what}, next try in {seconds} s: {text}"
                    )
                }
            }
        }
    }
}

/// What a subscription gathered before it was disabled was read before it was.
fn feeds_of(ours: &[&Held]) -> Vec<String> {
    let is_on = |held: &&&Held| held.status != Some(Status::Disabled);
    let others = ours.iter().skip(1).filter(is_on);
    ours.iter().take(1).chain(others).take(FEEDS).map(|held| held.uuid.clone()).collect()
}

/// What to log a trouble under, if it is one that somebody has to act on.
fn alert_of(trouble: &Trouble, is_lasting: bool) -> Option<&'static str> {
    match trouble {
        Trouble::Refused(Refusal::Token(_)) => Some(alert::KHOROS_TOKEN),
        Trouble::Refused(Refusal::Address(_)) => Some(alert::KHOROS_ADDRESS),
        Trouble::Contested { .. } => Some(alert::SUBSCRIPTION_CONTESTED),
        Trouble::Refused(_) | Trouble::Stubborn(_) => is_lasting.then_some(alert::KHOROS_DOWN),
    }
}

/// What a refusal asks us to wait.
fn asked_wait(refusal: &Refusal) -> Duration {
    match refusal {
        Refusal::Throttled(Some(wait)) => *wait,
        _ => Duration::ZERO,
    }
}
