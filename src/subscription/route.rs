//! The subscription of one route: brings what Khoros holds to what we want.

use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::desired::{Desired, Step, Why, host};
use super::{Observed, Problem};
use crate::config::Route;
use crate::inbox::Inbox;
use crate::khoros::{Khoros, Refusal, Status};

/// If a subscription needs more corrections in a day, somebody else keeps changing it, or Khoros does not store
/// the value: correcting it again would never end.
pub(super) const CORRECTIONS: usize = 3;
const DAY: Duration = Duration::from_secs(86_400);

pub(super) struct RouteState {
    pub(super) desired: Desired,
    declared: Declared,
    /// What Khoros called the subscription when it took it, if it said so.
    pub(super) uuid: Option<String>,
    /// When the operator had ended the subscription before this process began.
    ended_before: Option<Option<i64>>,
    /// When it was corrected.
    corrections: Vec<Instant>,
    /// Khoros has shown it since this process began, or has been asked for it in vain.
    shown: Shown,
    is_announced: bool,
    pub(super) failing_since: Option<Instant>,
}

/// Whether Khoros was told all of what we want, the token included.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Declared {
    No,
    ByEarlierRun,
    Now,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Unknown,
    Yes,
    /// Khoros took it and does not show it.
    No,
}

/// What a route's reconciliation came to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reconciled {
    /// All is as we want it, as far as Khoros shows it.
    Unchanged,
    /// Khoros took a change; the next observation shows what became of it.
    Changed,
}

impl RouteState {
    pub(super) fn new(desired: Desired) -> RouteState {
        RouteState {
            desired,
            declared: Declared::No,
            uuid: None,
            ended_before: None,
            corrections: Vec::new(),
            shown: Shown::Unknown,
            is_announced: false,
            failing_since: None,
        }
    }

    pub(super) fn route(&self) -> &Route {
        &self.desired.route
    }

    pub(super) fn is_announced(&self) -> bool {
        self.is_announced
    }

    /// Whether the operator has ended the subscription since this process began.
    pub(super) async fn has_ended(&mut self, inbox: &Inbox) -> sqlx::Result<bool> {
        let external_id = &self.desired.route.external_id;
        let ended_at = inbox.ended_at(external_id).await?;
        if let Some(before) = self.ended_before {
            return Ok(before != ended_at);
        }
        if inbox.declared(external_id).await? == Some(self.desired.fingerprint()) {
            self.declared = Declared::ByEarlierRun;
        }
        self.ended_before = Some(ended_at);
        Ok(false)
    }

    pub(super) async fn reconcile(
        &mut self,
        khoros: &Khoros,
        inbox: &Inbox,
        observed: &Observed,
    ) -> Result<Reconciled, Problem> {
        if let Observed::Listed(remote) = observed {
            self.note_shown(!self.desired.ours(remote).is_empty());
        }
        let steps = self.steps(observed)?;
        let is_correction = steps.iter().any(|step| self.is_correction(step));
        if is_correction {
            self.check_limit(&steps)?;
        }
        for step in &steps {
            self.run(step, khoros, inbox).await.map_err(Problem::Refused)?;
        }
        if is_correction {
            self.corrections.push(Instant::now());
        }
        Ok(if steps.is_empty() { Reconciled::Unchanged } else { Reconciled::Changed })
    }

    fn steps(&self, observed: &Observed) -> Result<Vec<Step>, Problem> {
        let steps = match observed {
            // Another declaration would not make Khoros list it.
            Observed::Listed(_) if self.shown == Shown::No => Vec::new(),
            Observed::Listed(remote) => self.desired.steps(&self.desired.ours(remote)),
            Observed::NotOffered => Vec::new(),
            // Khoros may still take a declaration.
            Observed::Refused(_) if self.declared != Declared::Now => Vec::new(),
            Observed::Refused(refusal) => return Err(Problem::Refused(refusal.clone())),
        };
        let is_told = match observed {
            Observed::Listed(_) => self.declared != Declared::No,
            // Nothing shows what an earlier run told has come to.
            _ => self.declared == Declared::Now,
        };
        let declares = steps.iter().any(|step| matches!(step, Step::Declare(_)));
        Ok(if is_told || declares { steps } else { vec![Step::Declare(Why::Changed)] })
    }

    fn note_shown(&mut self, is_shown: bool) {
        if is_shown {
            self.shown = Shown::Yes;
        } else if self.declared == Declared::Now && self.shown == Shown::Unknown {
            self.shown = Shown::No;
            let Route { name: route, external_id, .. } = self.route();
            warn!(
                event = "subscription_not_shown",
                route,
                "Khoros took the subscription `{external_id}` and does not show it, so it cannot be checked"
            );
        }
    }

    /// Whether a step counts towards the limit: it undoes what somebody else did.
    fn is_correction(&self, step: &Step) -> bool {
        match step {
            Step::Declare(Why::Differs(_) | Why::Foreign(_)) => self.declared != Declared::No,
            Step::Activate { .. } => true,
            Step::Declare(Why::Changed | Why::Missing) | Step::Disable { .. } => false,
        }
    }

    fn check_limit(&mut self, steps: &[Step]) -> Result<(), Problem> {
        self.corrections.retain(|at| at.elapsed() < DAY);
        if self.corrections.len() < CORRECTIONS {
            return Ok(());
        }
        Err(match (steps.first(), &self.desired.push) {
            (Some(Step::Declare(Why::Foreign(theirs))), Some(push)) => Problem::Contested {
                external_id: self.route().external_id.clone(),
                theirs: theirs.clone(),
                ours: host(&push.url),
            },
            (Some(Step::Declare(Why::Differs(field))), _) => Problem::Stubborn(field.to_string()),
            _ => Problem::Stubborn("status".to_owned()),
        })
    }

    async fn run(&mut self, step: &Step, khoros: &Khoros, inbox: &Inbox) -> Result<(), Refusal> {
        match step {
            Step::Declare(_) => self.declare(khoros, inbox).await?,
            Step::Activate { uuid, .. } => khoros.set_status(uuid, Status::Active).await?,
            Step::Disable { uuid } => khoros.set_status(uuid, Status::Disabled).await?,
        }
        self.log(step);
        Ok(())
    }

    async fn declare(&mut self, khoros: &Khoros, inbox: &Inbox) -> Result<(), Refusal> {
        self.uuid = khoros.subscribe(&self.desired.declaration()).await?;
        (self.declared, self.shown) = (Declared::Now, Shown::Unknown);
        let remembered =
            inbox.remember_declared(&self.route().external_id, &self.desired.fingerprint()).await;
        if let Err(error) = remembered {
            debug!(
                event = "subscription_memory_failed",
                "could not store that Khoros was told, so the next start tells it again: {error}"
            );
        }
        Ok(())
    }

    fn log(&self, step: &Step) {
        let Route { name: route, external_id, .. } = self.route();
        match step {
            Step::Declare(Why::Foreign(host)) => warn!(
                event = "subscription_taken_over",
                route, host, "took over the subscription `{external_id}`, which sent its events to {host}"
            ),
            Step::Declare(Why::Missing) if self.is_announced => warn!(
                event = "subscription_recreated",
                route, "the subscription `{external_id}` was gone: made it again"
            ),
            Step::Declare(Why::Differs(field)) if self.is_announced => warn!(
                event = "subscription_corrected",
                route,
                %field,
                "the subscription `{external_id}` had another {field}: corrected it"
            ),
            Step::Declare(_) => {}
            Step::Activate { uuid, was } => {
                let was = was.word();
                warn!(
                    event = "subscription_reactivated",
                    route, uuid, was, "the subscription `{external_id}` was {was}: made it ACTIVE again"
                );
            }
            Step::Disable { uuid } => warn!(
                event = "subscription_duplicate_disabled",
                route, uuid, "disabled another subscription with the name `{external_id}`"
            ),
        }
    }

    /// Logs that Khoros holds the subscription; once, and again after a failure.
    pub(super) fn announce(&mut self) {
        let has_failed = self.failing_since.take().is_some();
        let was_announced = std::mem::replace(&mut self.is_announced, true);
        let Route { name: route, external_id, .. } = self.route();
        if was_announced {
            if has_failed {
                info!(event = "subscription_recovered", route, "the subscription is as it should be again");
            }
            return;
        }
        let events = described(self.route());
        match &self.desired.push {
            Some(push) => {
                let url = push.url.as_str();
                info!(
                    event = "subscribed",
                    origin = "push",
                    route,
                    url,
                    external_id,
                    "subscribed: Khoros sends {events} to {url}"
                );
            }
            None => info!(
                event = "subscribed",
                origin = "feed",
                route,
                external_id,
                "subscribed: Khoros keeps {events} in a feed"
            ),
        }
    }
}

fn described(route: &Route) -> String {
    match (&route.label, &route.query) {
        (Some(label), _) => format!("label `{label}`"),
        (None, Some(query)) => format!("event `{}` that matches `{query}`", route.event),
        (None, None) => format!("event `{}`", route.event),
    }
}
