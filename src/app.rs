//! Builds all parts of the service, and starts and stops them. The only module that imports all others.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::config::{Config, Database, Retention};
use crate::connect;
use crate::destination::{self, Destination};
use crate::http::{self, AppState, BearerTokens, Readiness, Refused, server};
use crate::inbox::{Committer, Inbox, Unusable};
use crate::intake::Intake;
use crate::ledger::Memos;
use crate::route::Route;
use crate::source::khoros::client::Khoros;
use crate::source::khoros::feed::{Pull, PullStatus, Sources};
use crate::source::khoros::public_url::Probe;
use crate::source::khoros::silence;
use crate::source::khoros::subscription::{self, Desired, Feeds, Reconciler, SubscriptionStatus};
use crate::status::StatusSource;
use crate::worker::Worker;

/// Hosts kill 30 s after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(25);
/// Hosts want a port within 60 s of the start.
const STORAGE_LIMIT: Duration = Duration::from_secs(45);
const RETENTION_EVERY: Duration = Duration::from_secs(3600);
const CLOCK_EVERY: Duration = Duration::from_secs(30);
const STATUS_EVERY: Duration = Duration::from_secs(15 * 60);

/// Serves until `stop`, then finishes the work in progress.
///
/// # Errors
/// The HTTP client cannot be built; later, only a defect of casebridge ends the service.
pub async fn run(
    config: Config,
    (inbox, committer, deployment_id): Storage,
    listener: TcpListener,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    config.warnings.iter().for_each(|warning| warn!(event = "setting_warning", "{warning}"));
    let desired = desired(&config);
    let Config { khoros, destinations, general, .. } = config;
    let client = connect::http_client(general.is_local)?;
    let (attempt_limit, lease) = (general.delivery.attempt_limit(), general.delivery.lease);
    let routes: Arc<[Route]> = general.routes.clone().into();
    let (mut workers, mut lanes) = (Vec::new(), Vec::new());
    for destination in destination::build(destinations, &client, attempt_limit) {
        let name = destination.name();
        let (worker, lane) =
            Worker::new(inbox.clone(), destination, general.delivery.clone(), routes.clone());
        workers.push(Arc::new(worker));
        lanes.push((name, lane));
    }
    let names: Vec<String> = general.routes.iter().map(|route| route.name.clone()).collect();
    let subscription_begins =
        if desired.is_some() { SubscriptionStatus::Pending } else { SubscriptionStatus::NoPublicUrl };
    let (subscribed, subscription) =
        watch::channel(names.iter().map(|name| (name.clone(), subscription_begins.clone())).collect());
    let (feeds_known, feeds) = watch::channel(Feeds::new());

    let mode = general.mode;
    let pull_begins = if mode.polls() { PullStatus::Pending } else { PullStatus::Off };
    let (pulls, pull) = watch::channel(pull_begins);
    let missed = Arc::new(Notify::new());

    let intake = Intake::new(inbox.clone());
    let refused = Arc::new(Refused::default());
    let status = StatusSource {
        inbox: inbox.clone(),
        routes: names.into(),
        destinations: lanes.into(),
        subscription,
        pull,
        refused: refused.clone(),
        started: std::time::Instant::now(),
    };
    let state = Arc::new(AppState {
        intake: intake.clone(),
        company_id: khoros.company_id,
        tokens: BearerTokens::new(&general.bearer_tokens),
        refused,
        missed: missed.clone(),
        routes: general.routes.clone(),
        deployment_id: deployment_id.clone(),
        inbox: inbox.clone(),
        status: status.clone(),
        admin: general.admin_token.map(|token| BearerTokens::new(&[token])),
        public_url_remedy: desired.is_none().then_some(general.public_url_remedy),
        readiness: Readiness::default(),
    });

    let address = listener.local_addr().context("the listener has no address")?;
    let (version, storage) = (env!("CARGO_PKG_VERSION"), inbox.kind());
    info!(event = "listening", %address, version, storage, "listening on {address}");
    let mut tasks = JoinSet::new();
    // At `stop`, these two finish their work; the others just end.
    tasks.spawn(server::serve(listener, http::router(state), general.http_idle, stop.clone()));
    for worker in &workers {
        tasks.spawn(worker.clone().run(stop.clone()));
    }
    let mut until_stop = |task: Task| {
        let stop = stop.clone();
        tasks.spawn(async move { stop.run_until_cancelled(task).await.unwrap_or_default() });
    };
    for worker in workers {
        until_stop(Box::pin(worker.clone().work_in_background()));
        until_stop(Box::pin(worker.watch_credential()));
    }
    until_stop(Box::pin(erase_old_texts(inbox.clone(), general.retention)));
    until_stop(Box::pin(watch_clock(inbox.clone(), lease)));
    until_stop(Box::pin(report_status(inbox.clone(), status)));
    if let Some(limit) = general.silence_alert {
        until_stop(Box::pin(silence::watch(inbox.clone(), general.routes.clone(), limit)));
    }
    let client_of_khoros = Khoros::new(&khoros, client.clone());
    if mode.polls() {
        let sources = Sources { khoros: client_of_khoros.clone(), routes: general.routes, feeds, missed };
        until_stop(Box::pin(Pull::new(sources, intake, &khoros, pulls).run()));
    }
    let remedy = general.public_url_remedy;
    match desired {
        Some(desired) => {
            let address = general.public_url.filter(|_| mode.pushes());
            let variable = general.public_url_variable;
            let probe = address.map(|url| Probe { http: client, url, variable, remedy, deployment_id });
            let reconciler = Reconciler::new(
                client_of_khoros,
                inbox.clone(),
                desired,
                khoros.check_every,
                subscribed,
                feeds_known,
            );
            until_stop(Box::pin(keep_subscribed(reconciler, probe, general.public_url_probe)));
        }
        None => until_stop(Box::pin(subscription::remind_of_public_url(remedy))),
    }
    // Requests in progress need the committer, so it stops last.
    let committing = CancellationToken::new();
    let mut committer = tokio::spawn(committer.run(committing.clone()));

    let defect = tokio::select! {
        () = stop.cancelled() => false,
        () = first_panic(&mut tasks) => true,
        _ = &mut committer => true,
    };
    info!(event = "stopping", "stopping after the work in progress");
    stop.cancel();
    let finish = async {
        while tasks.join_next().await.is_some() {}
        committing.cancel();
        if !committer.is_finished() {
            let _ = committer.await;
        }
        inbox.close().await;
    };
    match tokio::time::timeout(STOP_LIMIT, finish).await {
        Ok(()) => info!(event = "stopped", "stopped"),
        Err(_) => {
            warn!(
                event = "stopped_early",
                "stopped before all work was finished: the next start takes it up again"
            )
        }
    }
    anyhow::ensure!(!defect, "a part of casebridge has ended by a defect: start it again");
    Ok(())
}

/// Subscribes once the public address leads here; finding the feeds need not wait for that.
async fn keep_subscribed(mut reconciler: Reconciler, probe: Option<Probe>, limit: Duration) {
    reconciler.find_feeds().await;
    if let Some(probe) = probe {
        probe.wait_until_reached(limit).await;
    }
    reconciler.run().await;
}

/// The desired subscription of each route. `None` if Khoros is to push and the public address is unknown.
fn desired(config: &Config) -> Option<Vec<Desired>> {
    let Config { khoros, general, .. } = config;
    let push = match (general.mode.pushes(), &general.public_url, general.bearer_tokens.first()) {
        (false, ..) => None,
        (true, Some(url), Some(token)) => Some((url, token)),
        (true, ..) => return None,
    };
    let (url, token) = push.unzip();
    Some(Desired::of_routes(khoros.company_id, &general.routes, url, token))
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Completes when a task panics; a task may also end because its work is done. A service without one of its
/// parts would seem alive and do nothing, so it ends, and its host starts it again.
async fn first_panic(tasks: &mut JoinSet<()>) {
    loop {
        match tasks.join_next().await {
            Some(Ok(())) => {}
            Some(Err(_)) => return,
            None => std::future::pending().await,
        }
    }
}

/// The result of [`open_storage`], for [`run`].
pub type Storage = (Inbox, Committer, String);

/// Opens the storage, before anything listens. Waits for a database server for as long as hosts wait for a
/// port. `None`: the service was stopped while it waited.
///
/// # Errors
/// It is [`Unusable`], or stays out of reach.
pub async fn open_storage(database: &Database, stop: &CancellationToken) -> anyhow::Result<Option<Storage>> {
    stop.run_until_cancelled(wait_for_storage(database)).await.transpose()
}

async fn wait_for_storage(database: &Database) -> anyhow::Result<Storage> {
    let give_up = Instant::now() + STORAGE_LIMIT;
    let mut wait = Duration::from_secs(1);
    loop {
        let opening = async {
            let (inbox, committer) = Inbox::open(database).await?;
            let deployment_id = inbox.deployment_id().await?;
            anyhow::Ok((inbox, committer, deployment_id))
        };
        let error = match opening.await {
            Ok(opened) => {
                info!(event = "database_opened", %database, "opened the database {database}");
                return Ok(opened);
            }
            Err(error) if error.is::<Unusable>() => return Err(error),
            Err(error) => error,
        };
        let left = give_up.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(
                error.context(format!("the database was out of reach for {} s", STORAGE_LIMIT.as_secs()))
            );
        }
        // The last try is at the end of the time.
        let next = wait.min(left);
        let wait_s = next.as_secs_f64();
        warn!(
            event = "database_unreachable",
            wait_s, "waiting for the database, next try in {wait_s:.0} s: {error:#}"
        );
        sleep(next).await;
        wait = (wait * 2).min(Duration::from_secs(10));
    }
}

/// Erases texts that were due an hour ago, too: a clock that has jumped ahead erases nothing.
async fn erase_old_texts(inbox: Inbox, retention: Retention) {
    let mut checked_at = None;
    loop {
        let now = inbox.time().await;
        if let Some(checked_at) = checked_at {
            erase_due(&inbox, retention, checked_at).await;
        }
        match now {
            Ok(now) => checked_at = Some(now),
            Err(error) => warn!(
                event = "retention_failed",
                "could not read the database's clock, keeping old texts until the next try: {error}"
            ),
        }
        sleep(RETENTION_EVERY).await;
    }
}

/// Logs how many deliveries an earlier process has left: then the oldest has waited for longer than this
/// process runs.
async fn report_backlog(inbox: &Inbox, started: Instant) {
    match inbox.summary().await {
        Ok(summary) => {
            let oldest_ms = summary.oldest_ms().unwrap_or(0);
            if u128::try_from(oldest_ms).is_ok_and(|oldest| oldest <= started.elapsed().as_millis()) {
                return;
            }
            let (waiting, oldest_s) = (summary.waiting(), oldest_ms / 1000);
            info!(
                event = "backlog_found",
                waiting,
                oldest_s,
                "{waiting} deliveries are waiting from an earlier run, the oldest for {oldest_s} s"
            );
        }
        Err(error) => warn!(
            event = "backlog_unknown",
            "could not count the waiting deliveries, delivering them anyway: {error}"
        ),
    }
}

/// In small steps, so that nothing else has to wait for the storage.
async fn erase_due(inbox: &Inbox, retention: Retention, checked_at: i64) {
    const ROWS: usize = 500;
    loop {
        match inbox.erase(retention, checked_at, ROWS).await {
            Ok(0) => break,
            Ok(count) => {
                info!(event = "texts_erased", count, "erased the texts of {count} settled deliveries")
            }
            Err(error) => {
                warn!(
                    event = "retention_failed",
                    "could not erase old texts, trying again in an hour: {error}"
                );
                break;
            }
        }
    }
    if let Err(error) = forget_old_memos(inbox, retention).await {
        warn!(event = "retention_failed", "could not remove old authors, trying again in an hour: {error}");
    }
}

async fn forget_old_memos(inbox: &Inbox, retention: Retention) -> sqlx::Result<()> {
    for destination in destination::NAMES {
        Destination::forget_older(&Memos::new(inbox.clone(), destination), retention.dead).await?;
    }
    Ok(())
}

/// Corrects times that were stored while the clock ran ahead: deliveries would otherwise stay due in the
/// future, and later events would seem older than these.
async fn watch_clock(inbox: Inbox, lease: Duration) {
    loop {
        match inbox.stamp().await {
            Ok(None) => {}
            Ok(Some(newest)) => match inbox.correct_times(newest, lease).await {
                Ok(count) => warn!(
                    event = "clock_corrected",
                    count, "the database's clock was set back: {count} waiting deliveries are due again"
                ),
                Err(error) => {
                    warn!(
                        event = "clock_correction_failed",
                        "the database's clock was set back and the stored times could not be corrected, trying \
                         again: {error}"
                    )
                }
            },
            Err(error) => debug!(event = "clock_check_failed", "could not compare the clocks: {error}"),
        }
        sleep(CLOCK_EVERY).await;
    }
}

/// Logs the state every 15 minutes, so that the log alone shows whether all is well.
async fn report_status(inbox: Inbox, status: StatusSource) {
    report_backlog(&inbox, Instant::now()).await;
    loop {
        sleep(STATUS_EVERY).await;
        status.snapshot().await.log();
    }
}
