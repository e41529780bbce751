//! The subscription of one route: brings it to the desired state, and logs its changes.

use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};

use super::desired::{Desired, Difference, Field, Repair};
use super::{DECLARED, Observed, ended_mark};
use crate::alert::{Alarm, Registry};
use crate::inbox::Inbox;
use crate::route::Route;
use crate::source::khoros::alerts;
use crate::source::khoros::client::{Khoros, Refusal, RemoteStatus};

/// After this many corrections in a day, either somebody else keeps changing the subscription, or Khoros does
/// not store the value. Further corrections would never end.
const CORRECTIONS: usize = 3;
const DAY: Duration = Duration::from_secs(86_400);
/// Without a subscription no event arrives, so any failure that lasts longer raises an alert.
const ALARMING: Duration = Duration::from_secs(300);

pub(super) struct RouteState {
    pub(super) desired: Desired,
    /// This process has declared the subscription.
    has_declared: bool,
    /// The last declaration, by this or an earlier process, had our settings, the token included.
    is_current: bool,
    /// Its id, if the answer to the declaration had one.
    pub(super) uuid: Option<String>,
    /// When an operator had ended it before this process began.
    ended_before: Option<Option<String>>,
    corrections: Vec<Instant>,
    is_announced: bool,
    failing_since: Option<Instant>,
    alarm: Alarm,
}

/// Why a subscription is not as desired.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(
        "Khoros {0} after {CORRECTIONS} corrections in a day: it does not store them, or somebody else \
         reverts them"
    )]
    Uncorrectable(String),
    #[error(
        "after {CORRECTIONS} corrections in a day, `{external_id}` sends its events to {theirs}, not to {ours}: \
         give each deployment its own SPREDFAST_EXTERNAL_ID"
    )]
    Contested { external_id: String, theirs: String, ours: String },
}

impl Problem {
    /// The alert to log, if somebody has to act.
    fn alert(&self, is_lasting: bool) -> Option<&'static str> {
        match self {
            Problem::Refused(Refusal::Token(_)) => Some(alerts::TOKEN),
            Problem::Refused(Refusal::Address(_)) => Some(alerts::ADDRESS),
            Problem::Contested { .. } => Some(alerts::SUBSCRIPTION_CONTESTED),
            Problem::Refused(_) | Problem::Uncorrectable(_) => is_lasting.then_some(alerts::DOWN),
        }
    }
}

impl RouteState {
    pub(super) fn new(desired: Desired, alerts: &Registry) -> RouteState {
        RouteState {
            alarm: Alarm::new(alerts, "khoros.subscription", &desired.route.name),
            desired,
            has_declared: false,
            is_current: false,
            uuid: None,
            ended_before: None,
            corrections: Vec::new(),
            is_announced: false,
            failing_since: None,
        }
    }

    pub(super) fn route(&self) -> &Route {
        &self.desired.route
    }

    /// Whether an operator has ended the subscription since this process began.
    pub(super) async fn has_ended(&mut self, inbox: &Inbox) -> sqlx::Result<bool> {
        let external_id = &self.desired.route.external_id;
        let ended = ended_mark(inbox, external_id).await?;
        let Some(before) = &self.ended_before else {
            let declared = inbox.recall(DECLARED, external_id).await?;
            self.is_current = declared.is_some_and(|(declared, _)| declared == self.desired.fingerprint());
            self.ended_before = Some(ended);
            return Ok(false);
        };
        Ok(*before != ended)
    }

    /// Makes the repairs that the observed state requires. Returns whether there were any: the next
    /// observation shows their result.
    pub(super) async fn reconcile(
        &mut self,
        khoros: &Khoros,
        inbox: &Inbox,
        observed: &Observed,
    ) -> Result<bool, Problem> {
        let repairs = match observed {
            Observed::Listed(remote) => self.desired.repairs(remote, self.is_current),
            // Nothing shows whether an earlier declaration still holds, but Khoros may take another one.
            _ if !self.has_declared => vec![Repair::Declare],
            Observed::NotOffered => Vec::new(),
            Observed::Refused(refusal) => return Err(refusal.clone().into()),
        };
        let corrects = |repair: &Repair| !matches!(repair, Repair::Declare | Repair::Disable { .. });
        // Declaring changed settings does not count as a correction.
        let is_correction = self.is_current && repairs.iter().any(corrects);
        self.corrections.retain(|at| at.elapsed() < DAY);
        if is_correction && self.corrections.len() >= CORRECTIONS {
            return Err(self.limit_reached(&repairs[0]));
        }
        for repair in &repairs {
            self.make(repair, khoros, inbox).await?;
        }
        if is_correction {
            self.corrections.push(Instant::now());
        }
        Ok(!repairs.is_empty())
    }

    fn limit_reached(&self, next: &Repair) -> Problem {
        match next {
            Repair::Correct(Difference { field: Field::Host, theirs, ours }) => Problem::Contested {
                external_id: self.route().external_id.clone(),
                theirs: theirs.clone(),
                ours: ours.clone(),
            },
            Repair::Correct(Difference { field, .. }) => {
                Problem::Uncorrectable(format!("shows another {field}"))
            }
            Repair::Activate { .. } => Problem::Uncorrectable("shows another status".to_owned()),
            _ => Problem::Uncorrectable("does not list the subscription".to_owned()),
        }
    }

    async fn make(&mut self, repair: &Repair, khoros: &Khoros, inbox: &Inbox) -> Result<(), Refusal> {
        match repair {
            Repair::Declare | Repair::Create | Repair::Correct(_) => self.declare(khoros, inbox).await?,
            Repair::Activate { uuid, .. } => khoros.set_status(uuid, RemoteStatus::Active).await?,
            Repair::Disable { uuid } => khoros.set_status(uuid, RemoteStatus::Disabled).await?,
        }
        let Route { name: route, external_id, .. } = self.route();
        match repair {
            Repair::Correct(Difference { field: Field::Host, theirs: host, .. }) => warn!(
                event = "subscription_taken_over",
                route,
                host,
                "took over the subscription `{external_id}` from {host}; if both are yours, give each its own \
                 SPREDFAST_EXTERNAL_ID"
            ),
            Repair::Create if self.is_announced => warn!(
                event = "subscription_recreated",
                route,
                "the subscription `{external_id}` was gone and is created again; to end it: casebridge unsubscribe"
            ),
            Repair::Correct(Difference { field, .. }) if self.is_announced => warn!(
                event = "subscription_corrected",
                route,
                %field,
                "the subscription `{external_id}` had another {field}, which casebridge corrected: its settings decide"
            ),
            Repair::Declare | Repair::Create | Repair::Correct(_) => {}
            Repair::Activate { uuid, was } => warn!(
                event = "subscription_reactivated",
                route,
                uuid,
                was,
                "the subscription `{external_id}` was {was} and is active again; to end it: casebridge unsubscribe"
            ),
            Repair::Disable { uuid } => warn!(
                event = "subscription_duplicate_disabled",
                route,
                uuid,
                "disabled a duplicate of the subscription `{external_id}`; if it returns, set another \
                 SPREDFAST_EXTERNAL_ID"
            ),
        }
        Ok(())
    }

    async fn declare(&mut self, khoros: &Khoros, inbox: &Inbox) -> Result<(), Refusal> {
        self.uuid = khoros.subscribe(&self.desired.declaration()).await?;
        (self.has_declared, self.is_current) = (true, true);
        let fingerprint = self.desired.fingerprint();
        if let Err(error) = inbox.remember(DECLARED, &self.route().external_id, &fingerprint).await {
            debug!(
                event = "subscription_memory_failed",
                "could not store the declaration, so the next start repeats it: {error}"
            );
        }
        Ok(())
    }

    /// Logs that the subscription is as desired: at first, and after a failure.
    pub(super) fn announce(&mut self) {
        self.alarm.clear();
        let has_failed = self.failing_since.take().is_some();
        let was_announced = std::mem::replace(&mut self.is_announced, true);
        let route @ Route { name, external_id, .. } = self.route();
        if was_announced {
            if has_failed {
                info!(event = "subscription_recovered", route = name, "the subscription is as desired again");
            }
            return;
        }
        let events = match (&route.label, &route.query) {
            (Some(label), _) => format!("label `{label}`"),
            (None, Some(query)) => format!("event `{}` that matches `{query}`", route.event),
            (None, None) => format!("event `{}`", route.event),
        };
        match &self.desired.url {
            Some(url) => info!(
                event = "subscribed",
                origin = "push",
                route = name,
                url = url.as_str(),
                external_id,
                "subscribed: Khoros sends {events} to {url}"
            ),
            None => info!(
                event = "subscribed",
                origin = "feed",
                route = name,
                external_id,
                "subscribed: Khoros keeps {events} in a feed"
            ),
        }
    }

    /// Logs why the subscription is not as desired.
    pub(super) fn report(&mut self, problem: &Problem, next: Duration) {
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let (state, what) = match problem {
            _ if !self.is_announced => ("not_subscribed", "not subscribed"),
            Problem::Refused(_) => ("unchecked", "the subscription cannot be checked"),
            Problem::Uncorrectable(_) | Problem::Contested { .. } => ("wrong", "the subscription is wrong"),
        };
        let (route, seconds) = (&self.desired.route.name, next.as_secs());
        match problem.alert(since.elapsed() >= ALARMING) {
            Some(alert) if self.alarm.raise(alert, problem.to_string(), Instant::now()) => error!(
                event = "subscription_failed",
                alert, route, state, "{what}, next try in {seconds} s: {problem}"
            ),
            _ => warn!(
                event = "subscription_failed",
                route, state, "{what}, next try in {seconds} s: {problem}"
            ),
        }
    }
}
