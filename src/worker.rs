//! The worker of a destination: claims deliveries, attempts them, and settles their outcomes.

mod lane;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

pub use lane::LaneStatus;

use crate::alert::{self, Registry, Reminder};
use crate::config::Delivery;
use crate::delivery::{self, Attempt, Claim, Doubt, Outcome, Reason, Transition};
use crate::destination::{Destination, Job, Ready, Targets};
use crate::inbox::{ClaimFilter, Inbox};
use crate::ledger::{Ledger, Memos, Record, Stopped};
use crate::metrics::Metrics;
use crate::route::Route;
use crate::source;
use lane::{Gate, Lane};

/// How often the worker checks for deliveries that another process has stored.
const POLL: Duration = Duration::from_secs(1);
/// How often the credential is checked while it works, and otherwise.
const CHECK_EVERY: Duration = Duration::from_secs(6 * 3600);
const CHECK_AGAIN: Duration = Duration::from_secs(60);

pub struct Worker {
    inbox: Inbox,
    destination: Destination,
    delivery: Delivery,
    routes: Arc<[Route]>,
    targets: Targets,
    lane: Mutex<Lane>,
    status: watch::Sender<LaneStatus>,
    metrics: Arc<Metrics>,
    alerts: Registry,
    /// When it last looked for deliveries.
    turned_at: Mutex<Instant>,
    /// Reminds of a failing storage.
    storage: Mutex<Reminder>,
    /// Reminds of dead deliveries.
    dead: Mutex<Reminder>,
}

impl Worker {
    pub fn new(
        inbox: Inbox,
        destination: Destination,
        delivery: Delivery,
        routes: Arc<[Route]>,
        targets: Targets,
        metrics: Arc<Metrics>,
        alerts: Registry,
    ) -> (Worker, watch::Receiver<LaneStatus>) {
        let lane = Lane::new(destination.name(), destination.alerts(), &alerts);
        let (status, watched) = watch::channel(lane.status());
        let (lane, storage, dead) = (Mutex::new(lane), Mutex::default(), Mutex::default());
        let turned_at = Mutex::new(Instant::now());
        let worker = Worker {
            inbox,
            destination,
            delivery,
            routes,
            targets,
            lane,
            status,
            metrics,
            alerts,
            turned_at,
            storage,
            dead,
        };
        (worker, watched)
    }

    /// Delivers until `stop` is cancelled, and then finishes the attempts in progress.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut under_way = JoinSet::new();
        let mut first = ClaimFilter::Fresh;
        while !stop.is_cancelled() {
            *self.turned_at.lock() = Instant::now();
            // Registered before the claim, so that no arrival in between is missed.
            let arrived = self.inbox.arrived();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            let next_check = self.start_due(&mut under_way, &mut first).await;
            for budget in self.destination.budgets() {
                self.metrics.budget(self.destination.name(), budget.name, budget.per_minute, budget.used);
            }
            tokio::select! {
                () = stop.cancelled() => {}
                Some(_) = under_way.join_next() => {}
                () = &mut arrived => {}
                () = tokio::time::sleep(next_check) => {}
            }
        }
        while under_way.join_next().await.is_some() {}
    }

    /// The name of its destination.
    pub fn name(&self) -> &'static str {
        self.destination.name()
    }

    /// How long ago it last looked for deliveries.
    pub fn idle_for(&self) -> Duration {
        self.turned_at.lock().elapsed()
    }

    /// Checks the credential at start, and then every six hours.
    pub async fn watch_credential(self: Arc<Self>) {
        let mut known_good = false;
        loop {
            let started = Instant::now();
            let Some(result) = self.destination.check_access().await else { return };
            match &result {
                Ok(()) => {
                    if !known_good {
                        let destination = self.destination.name();
                        info!(
                            event = "destination_ready",
                            destination, "the credential of {destination} works"
                        );
                    }
                    self.lane().checked(started);
                }
                Err(Outcome::Pause { reason, retry_after, .. }) => {
                    self.lane().pause(reason, *retry_after, started, Instant::now());
                }
                Err(Outcome::Blocked { reason, .. }) => {
                    self.lane().pause(reason, None, started, Instant::now());
                }
                Err(outcome) => warn!(
                    event = "destination_warning",
                    destination = self.destination.name(),
                    "could not check the credential, trying again in {} s: {}",
                    CHECK_AGAIN.as_secs(),
                    outcome.log()
                ),
            }
            known_good = result.is_ok();
            self.publish();
            tokio::time::sleep(if result.is_ok() { CHECK_EVERY } else { CHECK_AGAIN }).await;
        }
    }

    async fn work_while_open(&self, memos: &Memos) -> sqlx::Result<Option<Duration>> {
        self.destination.wake_held(memos).await?;
        self.destination.work_in_background(memos).await
    }

    /// Does the work that comes after all deliveries, while the destination is not paused. At the end of a pause it only
    /// wakes held deliveries, since there may be no other to try.
    pub async fn work_in_background(self: Arc<Self>) {
        let memos = Memos::new(self.inbox.clone(), self.destination.name(), self.alerts.clone());
        loop {
            let gate = self.lane().gate(Instant::now());
            let wait = match gate {
                Gate::Open => self.work_while_open(&memos).await,
                Gate::Probe => self.destination.wake_held(&memos).await.map(|()| Some(POLL)),
                Gate::Closed(_) => Ok(Some(POLL)),
            };
            match wait {
                Ok(Some(wait)) => tokio::time::sleep(wait).await,
                Ok(None) => return,
                Err(error) => {
                    self.storage_failed("the stored values of a destination cannot be used", &error);
                    tokio::time::sleep(CHECK_AGAIN).await;
                }
            }
        }
    }

    /// Claims the deliveries that can be sent now. Every second time, pushed deliveries that have not failed yet come
    /// first, so that neither a backlog of retries nor one of a feed delays new posts. Returns the longest wait before
    /// the next call.
    async fn start_due(self: &Arc<Self>, under_way: &mut JoinSet<()>, first: &mut ClaimFilter) -> Duration {
        let now = Instant::now();
        let free = match self.lane().gate(now) {
            Gate::Open => self.destination.in_flight_limit().saturating_sub(under_way.len()),
            Gate::Probe => usize::from(under_way.is_empty()),
            Gate::Closed(until) => return (until - now).min(POLL),
        };
        // A delivery that has never failed is the better probe.
        let fresh_first = self.lane().gate(now) == Gate::Probe || *first == ClaimFilter::Fresh;
        let mut free = match self.destination.ready(now) {
            Ready::Now(ready) => free.min(ready),
            Ready::At(at) => return at.saturating_duration_since(now).min(POLL),
        };
        let filters =
            if fresh_first { &[ClaimFilter::Fresh, ClaimFilter::Any][..] } else { &[ClaimFilter::Any] };
        for filter in filters {
            if free == 0 {
                break;
            }
            let name = self.destination.name();
            match self.inbox.claim(name, *filter, free, self.delivery.lease).await {
                Ok(claims) => {
                    // An empty claim writes nothing, so it proves nothing.
                    if !claims.is_empty() {
                        self.storage_works();
                        // Not in each call: those without room could be just every second one.
                        *first = if fresh_first { ClaimFilter::Any } else { ClaimFilter::Fresh };
                    }
                    free -= claims.len();
                    for claim in claims {
                        under_way.spawn(self.clone().deliver(claim));
                    }
                }
                Err(error) => self.storage_failed("deliveries cannot be claimed", &error),
            }
        }
        POLL
    }

    /// Delivers one claim and settles it.
    async fn deliver(self: Arc<Self>, claim: Claim) {
        let ledger = Ledger::new(&self.inbox, &claim, self.delivery.lease, &self.alerts);
        let started = Instant::now();
        match AssertUnwindSafe(self.outcome(&claim, &ledger)).catch_unwind().await {
            Ok(Ok(outcome) | Err(Stopped::Outcome(outcome) | Stopped::Unasked(outcome))) => {
                self.settle(&claim, &outcome, ledger.record(), started.elapsed()).await;
            }
            Ok(Err(Stopped::LeaseExpired)) => {
                warn!(
                    event = "lease_expired_unsent",
                    delivery = claim.identity,
                    "the lease expired before anything was sent: the delivery is claimed again"
                );
            }
            // After its lease, the delivery is claimed again.
            Ok(Err(Stopped::Storage(error))) => self.storage_failed("a delivery cannot be prepared", &error),
            // A defect uses up a try, so that its delivery does not come back for ever.
            Err(_) => {
                self.alerts.happened(alert::PANIC, self.destination.name(), "");
                let reason = Reason::new("casebridge failed on this delivery; please report it");
                let outcome = Outcome::Retry { reason, doubt: Doubt::Unanswered };
                self.settle(&claim, &outcome, ledger.record(), started.elapsed()).await;
            }
        }
    }

    async fn outcome(&self, claim: &Claim, ledger: &Ledger<'_>) -> Result<Outcome, Stopped> {
        let item = match source::item(&claim.payload) {
            Ok(item) => item,
            Err(unprocessable) => return Ok(Outcome::Dead { reason: Reason::new(unprocessable) }),
        };
        ledger.is_about(&item);
        // Outcomes before this say nothing about the destination: no request was sent.
        let started = Instant::now();
        let route = &*Route::named(&self.routes, &claim.route);
        let job = Job { claim, item: &item, route };
        let attempt = self.destination.attempt(&job, ledger);
        let outcome = match tokio::time::timeout(self.delivery.attempt_limit(), attempt).await {
            Ok(Ok(outcome) | Err(Stopped::Outcome(outcome))) => outcome,
            Ok(Err(stopped)) => return Err(stopped),
            Err(_) => timed_out(ledger.has_sent()),
        };
        let outcome = self.lane().observe(&claim.identity, outcome, started, Instant::now());
        self.publish();
        // The lane reports the alerts of a pause.
        if let Outcome::Stuck { reason } | Outcome::Dead { reason } = &outcome
            && let Some(code) = reason.alert
        {
            self.alerts.happened(code, self.destination.name(), &*reason.log);
        }
        Ok(outcome)
    }

    /// Stores the outcome and the deliveries that follow, and retries until the lease is over, so that the restart of
    /// a database does not lose it. After that, the delivery is claimed again in doubt.
    async fn settle(&self, claim: &Claim, outcome: &Outcome, record: Record, took: Duration) {
        let (schedule, lease) = (&self.delivery.retry_schedule, self.delivery.lease);
        let transition = delivery::next(outcome, claim.tries, schedule, lease, fastrand::f64());
        let attempt = attempt_of(outcome, &transition, record, took);
        let give_up = Instant::now() + lease;
        loop {
            match self.store(claim, &transition, &attempt).await {
                Ok(Some(settled_at)) => {
                    self.count(claim, &attempt, settled_at);
                    return self.log(claim, outcome, &transition);
                }
                Ok(None) => {
                    warn!(
                        event = "lease_expired",
                        delivery = claim.identity,
                        "the lease expired before the result was stored: the next attempt treats it as possibly sent"
                    );
                    return;
                }
                Err(error) => self.storage_failed("a result cannot be stored", &error),
            }
            if Instant::now() > give_up {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn store(
        &self,
        claim: &Claim,
        transition: &Transition,
        attempt: &Attempt,
    ) -> sqlx::Result<Option<i64>> {
        if let Transition::Done { cause: Some(cause), .. } = transition {
            let route = Route::named(&self.routes, &claim.route);
            let followers = route.followers(self.destination.name());
            let followers =
                self.targets.of_all(followers, &route, cause, || source::item(&claim.payload).ok());
            self.inbox.follow(claim, cause, &followers).await?;
        }
        self.inbox.settle(claim, transition, attempt).await
    }

    /// `settled_at`: milliseconds since 1970, by the database's clock.
    fn count(&self, claim: &Claim, attempt: &Attempt, settled_at: i64) {
        let destination = self.destination.name();
        self.metrics.attempted(destination, attempt);
        if attempt.action.is_some() {
            let millis = u64::try_from(settled_at - claim.received_at).unwrap_or(0);
            self.metrics.done(destination, Duration::from_millis(millis));
        }
    }

    fn log(&self, claim: &Claim, outcome: &Outcome, transition: &Transition) {
        let (delivery, case, attempts) = (&claim.identity, &claim.case_key, claim.attempts);
        let destination = self.destination.name();
        let reason = outcome.log();
        match transition {
            Transition::Done { reference, .. } => {
                if let Outcome::Done { action, .. } = outcome {
                    self.destination.log_done(claim, *action, reference);
                }
            }
            Transition::Dead { .. } | Transition::GivenUp { .. } => {
                warn!(
                    event = "delivery_dead",
                    case,
                    delivery,
                    destination,
                    attempts,
                    "gave up {case}; `casebridge replay` tries it again: {reason}"
                );
                self.report_dead();
            }
            // The pause was logged once for all of them.
            Transition::Again { .. } if matches!(outcome, Outcome::Pause { .. }) => {
                debug!(
                    event = "delivery_paused",
                    case, delivery, destination, attempts, "{case} waits while {destination} is paused"
                );
            }
            // A backlog would log this again and again for each of its deliveries.
            Transition::Again { after, .. } if matches!(outcome, Outcome::Later { .. }) => debug!(
                event = "delivery_queued",
                case,
                delivery,
                destination,
                attempts,
                "{case} queued, next try in {} s: {reason}",
                after.as_secs()
            ),
            Transition::Again { after, .. } => warn!(
                event = "delivery_retry",
                case,
                delivery,
                destination,
                attempts,
                "{case} failed, next try in {} s: {reason}",
                after.as_secs()
            ),
        }
    }

    fn report_dead(&self) {
        self.alerts.happened(alert::DELIVERY_DEAD, self.destination.name(), "");
        if self.dead.lock().is_due("dead", Instant::now()) {
            error!(
                event = "deliveries_dead",
                alert = alert::DELIVERY_DEAD,
                "deliveries are dead: `casebridge list --state dead` shows why, `casebridge replay` tries them \
                 again"
            );
        }
    }

    fn storage_failed(&self, what: &str, error: &sqlx::Error) {
        self.alerts.failed(alert::STORAGE, "", format!("{what}: {error}"));
        match self.storage.lock().is_due(alert::STORAGE, Instant::now()) {
            true => error!(
                event = "storage_failed",
                alert = alert::STORAGE,
                "the database fails, {what}, trying again: {error}"
            ),
            false => warn!(event = "storage_failed", "the database fails, {what}, trying again: {error}"),
        }
    }

    fn storage_works(&self) {
        if self.storage.lock().clear() {
            info!(event = "storage_recovered", "the database works again");
        }
    }

    fn publish(&self) {
        let status = self.lane().status();
        self.status.send_if_modified(|last| {
            let changed = *last != status;
            if !last.is_paused() && status.is_paused() {
                self.metrics.paused(self.destination.name());
            }
            *last = status;
            changed
        });
    }

    fn lane(&self) -> MutexGuard<'_, Lane> {
        self.lane.lock()
    }
}

/// The record of an attempt.
fn attempt_of(outcome: &Outcome, transition: &Transition, record: Record, took: Duration) -> Attempt {
    let reason = outcome.reason();
    let (action, cause) = match outcome {
        Outcome::Done { action, cause, .. } => (Some(action.name()), cause.as_deref()),
        _ => (None, None),
    };
    Attempt {
        outcome: outcome.name(transition),
        action,
        url: cause.map(|cause| cause.url.clone()).filter(|url| !url.is_empty()),
        reason: reason.map(|reason| reason.log.clone()),
        found: record.found,
        // The answer that led to the outcome may be that of another request, such as a lookup.
        response: reason.and_then(|reason| reason.response.as_deref().cloned()).or(record.response),
        link: record.link,
        took,
    }
}

/// The outcome of an attempt that took too long. It uses up a try only if something was sent.
fn timed_out(sent: bool) -> Outcome {
    let reason = Reason::new("the attempt took too long");
    match sent {
        true => Outcome::Retry { reason, doubt: Doubt::Unanswered },
        false => Outcome::Wait { reason, doubt: Doubt::None, wait: POLL },
    }
}
