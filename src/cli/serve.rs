//! `casebridge serve`, and the signals that end it.

use anyhow::Context;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use casebridge::app::Running;
use casebridge::config::{Config, Problems};
use casebridge::http::server;
use casebridge::{alert, app};

/// Twice as many as the server accepts connections at once.
const OPEN_FILES: u64 = 4096;

/// Why the service ends: a code of `alert.rs`, and the error.
type Failure = (&'static str, anyhow::Error);

/// Serves until a signal. Logs why the service ends, since writing to standard error directly could block on a pipe
/// that nothing reads.
pub async fn serve() -> anyhow::Result<()> {
    let Err((alert, error)) = run().await else { return Ok(()) };
    match error.downcast_ref::<Problems>() {
        Some(problems) => {
            problems.iter().for_each(|problem| error!(event = "start_failed", alert, "{problem}"))
        }
        None => error!(event = "start_failed", alert, "{error:#}"),
    }
    Err(error)
}

async fn run() -> Result<(), Failure> {
    match start_on_thread()? {
        Some(service) => service.run().await.map_err(|error| (alert::START, error)),
        None => Ok(()),
    }
}

/// Starts the service on a separate thread, so that its deep stack is freed: that of the main thread would stay in
/// memory.
fn start_on_thread() -> Result<Option<Running>, Failure> {
    let runtime = Handle::current();
    let started = std::thread::scope(|scope| scope.spawn(|| runtime.block_on(start())).join());
    started.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Starts the service; `None` if a signal came first.
async fn start() -> Result<Option<Running>, Failure> {
    let start_failed = |error| (alert::START, error);
    let config = Config::from_env().map_err(|problems| (alert::CONFIGURATION, problems.into()))?;
    let stop = stop_on_signal().map_err(start_failed)?;
    // Connections and the database share the limit of open files, which many systems set to 1,024.
    if let Err(error) = rlimit::increase_nofile_limit(OPEN_FILES) {
        warn!(
            event = "file_limit_kept",
            "could not raise the limit of open files, connections may be refused under load: {error}"
        );
    }
    let storage = app::open_storage(&config.database, &stop).await;
    let Some(storage) = storage.map_err(|error| (alert::STORAGE, error))? else { return Ok(None) };
    let (address, port) = (config.general.listen, config.general.port);
    let listener = server::listen(address, port)
        .with_context(|| format!("cannot listen on port {port}"))
        .map_err(start_failed)?;
    app::start(config, storage, listener, stop).map(Some).map_err(start_failed)
}

/// Stops on SIGTERM, which most hosts send, and on SIGINT, which Fly and a terminal send.
#[allow(clippy::disallowed_methods, reason = "it lives as long as the process")]
pub fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopped.cancel();
    });
    Ok(stop)
}
