//! Builds all parts of the service, and starts and stops them. The only module that imports all others.

mod expiry;
mod heartbeat;
mod storage;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use storage::{Storage, open_storage};

use crate::alert::Registry;
use crate::config::{Config, Expiry, General};
use crate::connect;
use crate::destination::{self, Destination, Targets};
use crate::http::{self, AppState, Audience, BearerTokens, Readiness, Refused, Scrapes, server};
use crate::inbox::{Committer, Inbox, NewItem};
use crate::intake::Intake;
use crate::ledger::Memos;
use crate::metrics::Metrics;
use crate::notify::record::Recorder;
use crate::notify::sink::Sink;
use crate::notify::{Notifier, settings as notify};
use crate::route::Route;
use crate::source;
use crate::source::khoros::client::Khoros;
use crate::source::khoros::feed::{Pull, PullReport, PullStatus, Sources};
use crate::source::khoros::public_url::Probe;
use crate::source::khoros::settings::KhorosSettings;
use crate::source::khoros::silence;
use crate::source::khoros::subscription::{
    self, Desired, Feeds, Reconciler, SubscriptionStatus, Subscriptions,
};
use crate::status::{Known, StatusSource};
use crate::worker::{LaneStatus, Worker};
use heartbeat::Heartbeat;

/// Hosts kill 30 s after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(25);

/// The running service.
pub struct Running {
    tasks: Tasks,
    inbox: Inbox,
    committer: Committer,
}

impl Running {
    /// Serves until `stop`, then finishes the work in progress.
    ///
    /// # Errors
    /// A defect in casebridge has stopped one of its parts.
    pub async fn run(self) -> anyhow::Result<()> {
        self.tasks.run(self.inbox, self.committer).await
    }
}

/// Starts all parts of the service.
///
/// # Errors
/// The HTTP client cannot be built.
pub fn start(
    config: Config,
    (inbox, committer, deployment_id): Storage,
    listener: TcpListener,
    stop: CancellationToken,
) -> anyhow::Result<Running> {
    config.warnings.iter().for_each(|warning| warn!(event = "setting_warning", "{warning}"));
    let expiries = config.expiries();
    let Config { khoros, destinations, general, .. } = config;
    let (client, alerts) = (connect::http_client(general.is_local)?, Registry::default());
    let service = Service { client, inbox, general, deployment_id, alerts };
    let address = listener.local_addr().context("the listener has no address")?;
    let (version, storage) = (env!("CARGO_PKG_VERSION"), service.inbox.kind());
    info!(event = "listening", %address, version, storage, "listening on {address}");

    let mut tasks = Tasks { tasks: JoinSet::new(), stop };
    let targets = destinations.targets();
    let destinations = destinations.build(&service.client, service.general.delivery.attempt_limit());
    let endpoints = endpoints(&service, &destinations);
    let metrics = Arc::new(service.metrics(&destinations));
    let (inbox, routes) = (&service.inbox, &service.general.routes);
    let intake = intake(inbox, Some(metrics.clone()), targets.clone(), routes, &service.alerts);
    let (workers, lanes) = service.start_workers(destinations, targets, &metrics, &mut tasks);
    let known = Arc::new(known(&lanes, &expiries));
    service.start_notices(workers, expiries, &mut tasks);
    let (reports, watched) = channels(&service, &khoros);
    let status = service.status(lanes, known, watched);
    service.start_upkeep(&status, &mut tasks);
    let missed = Arc::new(Notify::new());
    let state = service.state(&khoros, intake.clone(), missed.clone(), status, metrics);
    let router = http::router(state, endpoints);
    let serving = server::serve(listener, router, service.general.http_idle, tasks.stop.clone());
    tasks.finishing_at_stop(serving);
    let inbox = service.inbox.clone();
    service.start_source(&khoros, reports, intake, missed, &mut tasks);
    Ok(Running { tasks, inbox, committer })
}

/// Builds the intake, which stores items with the targets of each.
pub fn intake(
    inbox: &Inbox,
    metrics: Option<Arc<Metrics>>,
    targets: Targets,
    routes: &[Route],
    alerts: &Registry,
) -> Intake {
    let routes = routes.to_vec();
    let targets = move |item: &NewItem| {
        let route = Route::named(&routes, &item.route);
        targets.of_some(&route, || source::item(&item.payload).ok())
    };
    Intake::new(inbox.clone(), metrics, Box::new(targets), alerts.clone())
}

/// The endpoints that belong to destinations.
fn endpoints(service: &Service, destinations: &[Destination]) -> axum::Router {
    let memos = |name| Memos::new(service.inbox.clone(), name, service.alerts.clone());
    let endpoints = destinations.iter().map(|destination| destination.endpoints(memos(destination.name())));
    endpoints.fold(axum::Router::new(), axum::Router::merge)
}

/// What all parts of the service share.
struct Service {
    general: General,
    inbox: Inbox,
    client: reqwest::Client,
    deployment_id: String,
    /// Where all parts report alerts.
    alerts: Registry,
}

/// Where the parts of the source report.
struct Reports {
    subscribed: watch::Sender<Subscriptions>,
    feeds: (watch::Sender<Feeds>, watch::Receiver<Feeds>),
    pulls: watch::Sender<PullReport>,
}

type Watched = (watch::Receiver<Subscriptions>, watch::Receiver<PullReport>);
type Lanes = Vec<(&'static str, watch::Receiver<LaneStatus>)>;
type Workers = Vec<Arc<Worker>>;

fn channels(service: &Service, khoros: &KhorosSettings) -> (Reports, Watched) {
    let begins = match service.desired(khoros) {
        Some(_) => SubscriptionStatus::Pending,
        None => SubscriptionStatus::NoPublicUrl,
    };
    let routes = service.general.routes.iter().map(|route| (route.name.clone(), begins.clone()));
    let (subscribed, subscription) = watch::channel(routes.collect());
    let pull_begins = if khoros.mode.polls() { PullStatus::Pending } else { PullStatus::Off };
    let (pulls, pull) = watch::channel(PullReport::new(pull_begins));
    (Reports { subscribed, feeds: watch::channel(Feeds::new()), pulls }, (subscription, pull))
}

fn known(lanes: &Lanes, expiries: &[Expiry]) -> Known {
    Known {
        limits: lanes.iter().map(|(name, _)| (*name, destination::limits(name))).collect(),
        alerts: crate::notify::codes().map(|code| code.name).collect(),
        expiries: expiries.iter().map(|expiry| (expiry.setting, expiry.ends)).collect(),
    }
}

impl Service {
    fn metrics(&self, destinations: &[Destination]) -> Metrics {
        let destinations: Vec<&str> = destinations.iter().map(Destination::name).collect();
        let routes: Vec<String> = self.general.routes.iter().map(|route| route.name.clone()).collect();
        Metrics::new(&routes, &destinations, self.inbox.commit_sizes())
    }

    /// Starts a worker for each destination.
    fn start_workers(
        &self,
        destinations: Vec<Destination>,
        targets: Targets,
        metrics: &Arc<Metrics>,
        tasks: &mut Tasks,
    ) -> (Workers, Lanes) {
        let delivery = &self.general.delivery;
        let routes: Arc<[Route]> = self.general.routes.clone().into();
        let start = |destination: Destination| {
            let name = destination.name();
            let (inbox, metrics, alerts) = (self.inbox.clone(), metrics.clone(), self.alerts.clone());
            let (delivery, routes, targets) = (delivery.clone(), routes.clone(), targets.clone());
            let (worker, lane) = Worker::new(inbox, destination, delivery, routes, targets, metrics, alerts);
            let worker = Arc::new(worker);
            tasks.finishing_at_stop(worker.clone().run(tasks.stop.clone()));
            tasks.until_stop(worker.clone().work_in_background());
            tasks.until_stop(worker.clone().watch_credential());
            (worker, (name, lane))
        };
        destinations.into_iter().map(start).unzip()
    }

    /// Starts to record alerts and to send notices, if anything is configured to show them.
    fn start_notices(&self, workers: Workers, expiries: Vec<Expiry>, tasks: &mut Tasks) {
        let notify::Settings { sinks, pending, heartbeat } = self.general.notify.clone();
        if !expiries.is_empty() {
            tasks.until_stop(expiry::watch(expiries, self.alerts.clone()));
        }
        let is_shown = self.general.admin_token.is_some() || self.general.metrics_public;
        if is_shown || !sinks.is_empty() || heartbeat.is_some() {
            let (changes, changed) = watch::channel(());
            let (inbox, registry) = (self.inbox.clone(), self.alerts.clone());
            tasks.until_stop(Recorder { inbox, registry, pending, changes }.run());
            for sink in sinks {
                let notifier = Notifier {
                    inbox: self.inbox.clone(),
                    sink: Sink::new(sink, self.client.clone()),
                    deployment_id: self.deployment_id.clone(),
                    changes: changed.clone(),
                };
                tasks.finishing_at_stop(notifier.run(tasks.stop.clone()));
            }
        }
        if let Some(settings) = heartbeat {
            let (inbox, http) = (self.inbox.clone(), self.client.clone());
            tasks.until_stop(Heartbeat { settings, inbox, workers, http }.run());
        }
    }

    fn status(&self, lanes: Lanes, known: Arc<Known>, (subscription, pull): Watched) -> StatusSource {
        StatusSource {
            inbox: self.inbox.clone(),
            routes: self.general.routes.iter().map(|route| route.name.clone()).collect(),
            known,
            destinations: lanes.into(),
            subscription,
            pull,
            refused: Arc::new(Refused::default()),
            started: std::time::Instant::now(),
        }
    }

    fn start_upkeep(&self, status: &StatusSource, tasks: &mut Tasks) {
        let (inbox, general) = (&self.inbox, &self.general);
        tasks.until_stop(upkeep::erase_old_texts(inbox.clone(), general.retention));
        tasks.until_stop(upkeep::compact_counts(inbox.clone()));
        tasks.until_stop(upkeep::watch_clock(inbox.clone(), general.delivery.lease));
        tasks.until_stop(upkeep::report_status(status.clone()));
        if let Some(limit) = general.silence_alert {
            tasks.until_stop(silence::watch(
                inbox.clone(),
                general.routes.clone(),
                limit,
                self.alerts.clone(),
            ));
        }
    }

    /// The state of the HTTP handlers.
    fn state(
        &self,
        khoros: &KhorosSettings,
        intake: Intake,
        missed: Arc<Notify>,
        status: StatusSource,
        metrics: Arc<Metrics>,
    ) -> Arc<AppState> {
        let general = &self.general;
        Arc::new(AppState {
            intake,
            company_id: khoros.company_id,
            tokens: BearerTokens::new(Audience::Khoros, &general.bearer_tokens),
            refused: status.refused.clone(),
            missed,
            routes: general.routes.clone(),
            deployment_id: self.deployment_id.clone(),
            inbox: self.inbox.clone(),
            status,
            metrics,
            scrapes: Scrapes::new(general.metrics_public),
            admin: general.admin_token.clone().map(|token| BearerTokens::new(Audience::Operator, &[token])),
            public_url_remedy: self.desired(khoros).is_none().then_some(general.public_url_remedy),
            readiness: Readiness::default(),
            alerts: self.alerts.clone(),
        })
    }

    /// Starts to read the feeds, and to keep the subscriptions.
    fn start_source(
        self,
        khoros: &KhorosSettings,
        reports: Reports,
        intake: Intake,
        missed: Arc<Notify>,
        tasks: &mut Tasks,
    ) {
        let desired = self.desired(khoros);
        let Service { general, inbox, client, deployment_id, alerts } = self;
        let (feeds_known, feeds) = reports.feeds;
        let (client_of_khoros, remedy) = (Khoros::new(khoros, client.clone()), general.public_url_remedy);
        if khoros.mode.polls() {
            let sources = Sources {
                khoros: client_of_khoros.clone(),
                inbox: inbox.clone(),
                routes: general.routes,
                feeds,
                missed,
                alerts: alerts.clone(),
            };
            tasks.until_stop(Pull::new(sources, intake, khoros, reports.pulls).run());
        }
        let Some(desired) = desired else {
            return tasks.until_stop(subscription::remind_of_public_url(remedy, alerts));
        };
        let address = general.public_url.filter(|_| khoros.mode.pushes());
        let variable = general.public_url_variable;
        let probe = address.map(|url| Probe { http: client, url, variable, remedy, deployment_id });
        let reconciler = Reconciler::new(
            client_of_khoros,
            inbox,
            desired,
            khoros.check_every,
            reports.subscribed,
            feeds_known,
            &alerts,
        );
        tasks.until_stop(keep_subscribed(reconciler, probe, general.public_url_probe));
    }

    /// The desired subscription of each route. `None` if Khoros is to push and the public address is unknown.
    fn desired(&self, khoros: &KhorosSettings) -> Option<Vec<Desired>> {
        let general = &self.general;
        let push = match (khoros.mode.pushes(), &general.public_url, general.bearer_tokens.first()) {
            (false, ..) => None,
            (true, Some(url), Some(token)) => Some((url, token)),
            (true, ..) => return None,
        };
        let (url, token) = push.unzip();
        Some(Desired::of_routes(khoros.company_id, &general.routes, url, token))
    }
}

/// Subscribes once the public address leads here; finding the feeds need not wait for that.
async fn keep_subscribed(mut reconciler: Reconciler, probe: Option<Probe>, limit: Duration) {
    reconciler.find_feeds().await;
    if let Some(probe) = probe {
        probe.wait_until_reached(limit).await;
    }
    reconciler.run().await;
}

/// The parts of the service while they run.
struct Tasks {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Tasks {
    /// Runs a part that finishes its work at `stop`.
    fn finishing_at_stop(&mut self, part: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(Box::pin(part));
    }

    /// Runs a part that just ends at `stop`.
    fn until_stop(&mut self, part: impl Future<Output = ()> + Send + 'static) {
        // Boxed: each wrapping future would contain a copy of it.
        let (stop, part) = (self.stop.clone(), Box::pin(part));
        self.tasks.spawn(async move { stop.run_until_cancelled(part).await.unwrap_or_default() });
    }

    /// Runs until `stop`, and then at most [`STOP_LIMIT`] until all work in progress is finished.
    #[allow(clippy::disallowed_methods, reason = "its end is waited for below")]
    async fn run(mut self, inbox: Inbox, committer: Committer) -> anyhow::Result<()> {
        // Requests in progress need the committer, so it stops last.
        let committing = CancellationToken::new();
        let mut committer = tokio::spawn(committer.run(committing.clone()));
        let stop = self.stop.clone();
        let defect = tokio::select! {
            () = stop.cancelled() => false,
            () = self.first_panic() => true,
            _ = &mut committer => true,
        };
        info!(event = "stopping", "stopping after the work in progress");
        stop.cancel();
        let finish = async {
            while self.tasks.join_next().await.is_some() {}
            committing.cancel();
            if !committer.is_finished() {
                let _ = committer.await;
            }
            inbox.close().await;
        };
        match tokio::time::timeout(STOP_LIMIT, finish).await {
            Ok(()) => info!(event = "stopped", "stopped"),
            Err(_) => warn!(
                event = "stopped_early",
                "stopped before all work was finished: the next start continues it"
            ),
        }
        anyhow::ensure!(!defect, "a defect stopped a part of casebridge: start it again, and report it");
        Ok(())
    }

    /// Completes when a part panics; a part may also end because its work is done. A service without one of its
    /// parts would seem alive and do nothing, so it ends, and its host starts it again.
    async fn first_panic(&mut self) {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(())) => {}
                Some(Err(_)) => return,
                None => std::future::pending().await,
            }
        }
    }
}
