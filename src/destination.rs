//! The destinations of deliveries. A destination turns an item into somebody else's state. It never sees the inbox,
//! only its [`Ledger`].
//!
//! Each destination is a module with the same parts: the constants `NAME`, `GUARANTEE`, `ALERTS`, `ALERT_CODES`,
//! `CACHES`, `LIMITS`, `IN_FLIGHT` and `SECTIONS`; its `Settings` and their readers (`is_configured`, `read`); its `rows`
//! in the check; and a type with `new`, `attempt`, `check_access`, `ready`, `work_in_background`, `wake_held` and
//! `log_done`.
//! `docs/architecture.md` describes the guarantees.

pub mod channels;
pub mod flow;
pub mod held;
pub mod html;
pub mod quiet_hours;
pub mod settings;
pub mod slack;
mod summary;
pub mod template;
pub mod texting;
pub mod twilio;
pub mod webhook;
pub mod zendesk;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use tracing::info;
use url::Url;

use crate::alert;
use crate::delivery::{Action, Cause, Claim, Outcome};
use crate::env::Reader;
use crate::env::doc::Section;
use crate::item::Item;
use crate::ledger::{Ledger, Memos, Stopped, StorageError};
use crate::report::Row;
use crate::route::Route;

destinations! {
    Zendesk: zendesk,
    Webhook: webhook,
    Flow: flow,
    Slack: slack,
    Twilio: twilio,
}

/// The targets of items, for the insertion of deliveries: some destinations deliver to each target separately.
#[derive(Clone, Default)]
pub struct Targets {
    twilio: Option<Arc<twilio::Recipients>>,
}

impl Targets {
    /// Returns these destinations with the targets of an item of this route: an empty one for an item that has none,
    /// and for a destination that has no targets.
    pub fn of_all(
        &self,
        destinations: &[&'static str],
        route: &Route,
        cause: &Cause,
        item: impl Fn() -> Option<Item>,
    ) -> Vec<(&'static str, String)> {
        let mut all = Vec::new();
        for &destination in destinations {
            match self.of(destination, route, cause, &item) {
                Some(targets) if !targets.is_empty() => {
                    all.extend(targets.into_iter().map(|target| (destination, target)));
                }
                _ => all.push((destination, String::new())),
            }
        }
        all
    }

    /// As [`of_all`](Self::of_all), for those destinations that have targets.
    pub fn of_some(&self, route: &Route, item: impl Fn() -> Option<Item>) -> Vec<(&'static str, String)> {
        let has_targets = |name: &&'static str| *name == twilio::NAME && self.twilio.is_some();
        let destinations: Vec<&'static str> = route.to.iter().copied().filter(has_targets).collect();
        self.of_all(&destinations, route, &Cause::default(), item)
    }

    fn of(
        &self,
        destination: &str,
        route: &Route,
        cause: &Cause,
        item: impl Fn() -> Option<Item>,
    ) -> Option<Vec<String>> {
        let recipients = self.twilio.as_ref().filter(|_| destination == twilio::NAME)?;
        Some(recipients.of(route, cause, item))
    }
}

impl DestinationSettings {
    /// The targets of items.
    pub fn targets(&self) -> Targets {
        Targets { twilio: self.twilio.as_ref().map(|settings| Arc::new(settings.recipients())) }
    }
}

/// One attempt's work.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    pub claim: &'a Claim,
    pub item: &'a Item,
    /// Has only a name if the route was removed from the configuration.
    pub route: &'a Route,
}

/// How often a destination may get an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    /// Exactly once: earlier requests can be looked up at the destination.
    Once,
    /// The receiver can drop a duplicate by its id.
    AtLeastOnce,
    /// A request that may have been sent is repeated only by a replay that names the delivery or the destination.
    AtMostOnce,
}

/// How much can be sent at the moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ready {
    /// Up to this number of requests.
    Now(usize),
    /// No request before this time.
    At(Instant),
}

/// A limit of the destination that casebridge observes, for the metrics.
#[derive(Clone, Copy, Debug)]
pub struct BudgetUsage {
    pub name: &'static str,
    /// The requests that we may send in a minute.
    pub per_minute: f64,
    /// The requests since the start.
    pub used: u64,
}

impl Destination {
    /// The known limits of the destination, and how much of them was used.
    pub fn budgets(&self) -> Vec<BudgetUsage> {
        match self {
            Destination::Zendesk(zendesk) => zendesk.budgets(),
            _ => Vec::new(),
        }
    }

    /// The endpoints that the other side calls.
    pub fn endpoints(&self, memos: Memos) -> Router {
        match self {
            Destination::Twilio(twilio) => twilio::callback::router(twilio, memos),
            _ => Router::new(),
        }
    }
}

/// The alerts that a worker raises for its destination.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alerts {
    /// It has not been usable for minutes.
    pub down: &'static str,
    /// It refuses item after item for the same reason.
    pub refuses: &'static str,
}

/// Logs a delivery that is done and made no ticket.
fn log_sent(claim: &Claim, action: Action, reference: &str) {
    let (action, attempts) = (action.name(), claim.attempts);
    let Claim { case_key: case, identity: delivery, destination, .. } = claim;
    info!(
        event = "delivery_done",
        case, delivery, destination, attempts, action, reference, "sent {case} to {destination}"
    );
}

/// Makes one list into the closed set of destinations, and dispatches each call to the right module.
macro_rules! destinations {
    ($($variant:ident: $module:ident,)*) => {
        pub enum Destination {
            $($variant(Box<$module::$variant>),)*
        }

        /// The names of all destinations, as settings and the column `destination` have them.
        pub const NAMES: &[&str] = &[$($module::NAME),*];

        /// The guarantee of the destination of this name.
        pub fn guarantee(name: &str) -> Option<Guarantee> {
            match name {
                $($module::NAME => Some($module::GUARANTEE),)*
                _ => None,
            }
        }

        /// The scopes of memos that each destination only caches: it can look the values up again.
        pub const CACHES: &[(&str, &[&str])] = &[$(($module::NAME, $module::CACHES)),*];

        /// The limits that can hold back deliveries to the destination of this name, as
        /// [`limit_name`](crate::delivery::limit_name) names them.
        pub fn limits(name: &str) -> &'static [&'static str] {
            match name {
                $($module::NAME => $module::LIMITS,)*
                _ => &[],
            }
        }

        /// The codes of each destination's alerts.
        pub const ALERT_CODES: &[&[alert::Code]] = &[$($module::ALERT_CODES),*];

        /// The documentation of each destination's settings.
        pub const SECTIONS: &[&[Section]] = &[$($module::SECTIONS),*];

        /// The settings of all destinations; `None` for those that are not configured.
        #[derive(Default)]
        pub struct DestinationSettings {
            $(pub $module: Option<$module::Settings>,)*
        }

        impl DestinationSettings {
            /// Reads the settings of the destinations that are used or configured, and returns the names of those
            /// that are configured.
            fn read(
                reader: &mut Reader,
                routes: &[Route],
                is_used: impl Fn(&str) -> bool,
            ) -> (DestinationSettings, Vec<&'static str>) {
                let (mut settings, mut configured) = (DestinationSettings::default(), Vec::new());
                $(
                    let is_configured = $module::is_configured(reader);
                    if is_configured {
                        configured.push($module::NAME);
                    }
                    if is_configured || is_used($module::NAME) {
                        settings.$module = $module::read(reader, routes);
                    }
                )*
                (settings, configured)
            }

            /// The addresses of the configured destinations.
            pub fn urls(&self) -> impl Iterator<Item = &Url> {
                [$(self.$module.as_ref().map(|settings| &settings.url)),*].into_iter().flatten()
            }

            /// Builds the configured destinations. `attempt_limit` is the longest that one delivery may take.
            pub fn build(self, http: &reqwest::Client, attempt_limit: Duration) -> Vec<Destination> {
                let mut built = Vec::new();
                $(built.extend(self.$module.map(|settings| {
                    let destination = $module::$variant::new(settings, http.clone(), attempt_limit);
                    Destination::$variant(Box::new(destination))
                }));)*
                built
            }

            /// The rows of `casebridge check` for each destination that is configured or that a route goes to.
            pub async fn check(&self, routes: &[Route], http: &reqwest::Client) -> Vec<Row> {
                let is_used = |name: &str| routes.iter().any(|route| route.goes_to(name));
                let mut rows = Vec::new();
                $(if self.$module.is_some() || is_used($module::NAME) {
                    rows.extend($module::rows(self.$module.as_ref(), http).await);
                })*
                rows
            }
        }

        impl Destination {
            /// The value in the column `destination`.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Destination::$variant(_) => $module::NAME,)*
                }
            }

            pub fn alerts(&self) -> Alerts {
                match self {
                    $(Destination::$variant(_) => $module::ALERTS,)*
                }
            }

            /// The number of concurrent deliveries.
            pub fn in_flight_limit(&self) -> usize {
                match self {
                    $(Destination::$variant(_) => $module::IN_FLIGHT,)*
                }
            }

            /// Attempts a delivery.
            ///
            /// # Errors
            /// It stopped early.
            pub async fn attempt(&self, job: &Job<'_>, ledger: &Ledger<'_>) -> Result<Outcome, Stopped> {
                match self {
                    $(Destination::$variant(it) => it.attempt(job, ledger).await,)*
                }
            }

            /// Checks the credential: the error is the outcome that a delivery would have now. `None`: this cannot
            /// be checked, since any request would be a delivery.
            pub async fn check_access(&self) -> Option<Result<(), Outcome>> {
                match self {
                    $(Destination::$variant(it) => it.check_access().await,)*
                }
            }

            /// Returns how much can be sent now without exceeding our share of the destination's limits.
            pub fn ready(&self, now: Instant) -> Ready {
                match self {
                    $(Destination::$variant(it) => it.ready(now),)*
                }
            }

            /// Does one piece of the work that has lower priority than deliveries. Returns the wait before the next
            /// call; `None` if there is no such work.
            ///
            /// # Errors
            /// The storage failed; the work becomes due again later.
            pub async fn work_in_background(&self, memos: &Memos) -> Result<Option<Duration>, StorageError> {
                match self {
                    $(Destination::$variant(it) => it.work_in_background(memos).await,)*
                }
            }

            /// Makes those held deliveries due that may be sent now.
            pub async fn wake_held(&self, memos: &Memos) -> Result<(), StorageError> {
                match self {
                    $(Destination::$variant(it) => it.wake_held(memos).await,)*
                }
            }

            /// Logs a delivery that is done, in the destination's own terms.
            pub fn log_done(&self, claim: &Claim, action: Action, reference: &str) {
                match self {
                    $(Destination::$variant(it) => it.log_done(claim, action, reference),)*
                }
            }
        }
    };
}
use destinations;
