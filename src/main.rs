//! The command line: which subcommand, how to log, and what to exit with.

mod operate;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::prelude::*;

use casebridge::config::{Config, Database, LogFormat, Logging, Preview, Problems};
use casebridge::http::server;
use casebridge::inbox::{State, Unusable};
use casebridge::{alert, app, check, sandbox};
use operate::{Replay, TicketForm};

/// A notification is many small allocations that one thread makes and another gives back: with this
/// one they take a fifth less of the processor than with glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A label in the Khoros Marketing inbox becomes a Zendesk ticket.
///
/// Configured by environment variables alone; the README has the table.
#[derive(Parser)]
#[command(version, about, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER_HELP: &str = "\
Needed by serve:
  SPREDFAST_API_TOKEN SPREDFAST_COMPANY_ID SPREDFAST_LABEL_NAME NOTIFICATION_BEARER_TOKEN
  ZENDESK_API_URL ZENDESK_OAUTH_CLIENT_ID ZENDESK_OAUTH_CLIENT_SECRET
In place of SPREDFAST_LABEL_NAME, or beside it: more labels and other events
  ROUTE_<NAME>_LABEL ROUTE_<NAME>_QUERY ROUTE_<NAME>_EVENT ROUTE_<NAME>_TICKET_…
Needed to subscribe, where the host does not tell it:
  PUBLIC_URL
Where it is stored (default sqlite://casebridge.db):
  DATABASE_URL
How events come, and how it is watched over, all optional:
  SPREDFAST_MODE SPREDFAST_POLL_SECONDS SPREDFAST_CHECK_MINUTES SILENCE_ALERT_HOURS ADMIN_TOKEN ...
What a ticket is like, all optional; try them with render:
  TICKET_SUBJECT TICKET_COMMENT TICKET_CUSTOM_FIELDS TICKET_TAGS TICKET_PUBLIC TICKET_REQUESTER ...

Is everything there? Changes nothing, and says what to do:
  casebridge check

Exit codes:
  0  done, or stopped as asked
  1  failed for a reason that may pass; something is broken, of check
  2  wrong configuration or arguments, or an unusable SQLite file";

#[derive(Subcommand)]
enum Command {
    /// Receive events and create tickets until told to stop (the default)
    Serve,
    /// Look whether everything is there that serve needs, and change nothing
    ///
    /// Needs the same variables as serve, and tells what is wrong with them. One row for each thing: ✓ it is
    /// well, ! it can be done without or could not be looked at, ✗ it is broken. Beside a running service it
    /// also tells whether that is reached at its public address. Exit code 1 if any row is ✗.
    Check {
        /// One JSON document: {"ok": …, "rows": [{"name", "mark": "ok"|"warning"|"failed", "text", "remedy"}]}
        #[arg(long)]
        json: bool,
    },
    /// Show it all on this machine: stand-ins for Khoros and Zendesk, and the real bridge between
    Demo {
        /// Exit after the first ticket instead of staying up
        #[arg(long)]
        once: bool,
    },
    /// List what was received and what became of it; needs DATABASE_URL only
    List {
        /// Only deliveries in this state
        #[arg(long, value_enum)]
        state: Option<State>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Show the tickets that would come of a notification; sends nothing and needs no variables
    Render {
        /// The notification as Khoros sends it, or `-` for standard input
        file: PathBuf,
        /// The route that it comes by, as in ROUTE_<NAME>_…; the first if none is named
        #[arg(long, value_name = "NAME")]
        route: Option<String>,
        /// One ticket a line, as JSON
        #[arg(long, conflicts_with = "html")]
        json: bool,
        /// Print the comment as the HTML that is sent, not as agents see it
        #[arg(long)]
        html: bool,
    },
    /// End the subscriptions at Khoros; a running service leaves them alone until its next start
    Unsubscribe {
        /// That of this name, in place of those of the configured routes
        #[arg(long, value_name = "NAME")]
        external_id: Vec<String>,
    },
    /// Copy the SQLite file, beside the running service; needs DATABASE_URL only
    ///
    /// The copy is whole and only its owner may read it. PostgreSQL has pg_dump for that.
    Backup {
        /// The copy, which must not exist yet
        file: PathBuf,
    },
    /// Give dead deliveries a new try, beside the running service; needs DATABASE_URL only
    Replay {
        /// All that are dead
        #[arg(long, conflicts_with = "ids", required_unless_present = "ids")]
        all_dead: bool,
        /// Make new tickets for these cases, because their tickets were deleted for good
        ///
        /// Use it after the alert zendesk_ticket_hidden, when you know that Zendesk has no such ticket any longer.
        #[arg(long, conflicts_with = "all_dead")]
        new_ticket: bool,
        /// Deliver waiting deliveries now instead of at their next try
        #[arg(long, conflicts_with_all = ["all_dead", "new_ticket"])]
        now: bool,
        /// Say what would be replayed, and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Ids as `casebridge list` shows them
        #[arg(value_name = "ID")]
        ids: Vec<String>,
    },
}

/// Twice what the server takes at once.
const OPEN_FILES: u64 = 4096;
/// What is wrong will not go away by trying again.
const MISCONFIGURED: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command.unwrap_or(Command::Serve)) {
        Ok(code) => code,
        // Whoever reads our output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("casebridge: {error:#}");
            match error.is::<Problems>() || error.is::<Unusable>() {
                true => ExitCode::from(MISCONFIGURED),
                false => ExitCode::FAILURE,
            }
        }
    }
}

#[tokio::main]
async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve => serve().await?,
        Command::Check { json } => return check(json).await,
        Command::Demo { once } => {
            log_with("warn", LogFormat::Text);
            sandbox::demo(once, stop_on_signal()?).await?;
        }
        Command::List { state, json } => operate::list(&Database::from_env()?, state, json).await?,
        Command::Render { file, route, json, html } => {
            let form = match (json, html) {
                (true, _) => TicketForm::Json,
                (false, true) => TicketForm::Html,
                (false, false) => TicketForm::Shown,
            };
            operate::render(&Preview::from_env()?, &file, route.as_deref(), form)?;
        }
        Command::Unsubscribe { external_id } => {
            operate::unsubscribe(&Config::from_env()?, &external_id).await?;
        }
        Command::Backup { file } => operate::backup(&Database::from_env()?, &file).await?,
        Command::Replay { all_dead: _, new_ticket, now, dry_run, ids } => {
            let how = match (new_ticket, now) {
                (true, _) => Replay::NewTicket,
                (false, true) => Replay::Now,
                (false, false) => Replay::Again,
            };
            operate::replay(&Database::from_env()?, &ids, how, dry_run).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn check(as_json: bool) -> anyhow::Result<ExitCode> {
    let report = check::run().await;
    let text = match as_json {
        true => format!("{}\n", serde_json::to_string_pretty(&report)?),
        false => report.to_string(),
    };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // Whoever has seen enough of it may still ask how it ended.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written?,
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn serve() -> anyhow::Result<()> {
    let logging = Logging::from_env();
    log_with(&logging.filter, logging.format);
    log_panics();
    let config = Config::from_env()?;
    let stop = stop_on_signal()?;
    // Connections and the database share the limit of open files, which many systems set to 1,024.
    if let Err(error) = rlimit::increase_nofile_limit(OPEN_FILES) {
        warn!("the limit of open files cannot be raised: {error}");
    }
    let Some(storage) = app::open_storage(&config.database, &stop).await? else {
        return Ok(());
    };
    let listener = server::listen(config.listen, config.port);
    let listener = listener.with_context(|| format!("cannot listen on port {}", config.port))?;
    app::run(config, storage, listener, stop).await
}

/// SIGTERM is what hosts send; SIGINT is Fly's, and a person's.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.cancel();
    });
    Ok(stop)
}

fn log_with(filter: &str, format: LogFormat) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => {
            let colour = std::io::stdout().is_terminal();
            let layer = tracing_subscriber::fmt::layer().with_target(false).with_ansi(colour);
            registry.with(layer).init();
        }
        // Heroku adds its own time to each line.
        LogFormat::Logfmt => registry.with(tracing_logfmt::builder().with_timestamp(false).layer()).init(),
        LogFormat::Json => {
            registry.with(tracing_subscriber::fmt::layer().json().flatten_event(true)).init();
        }
    }
}

/// The message of a panic can repeat a text that it stumbled over; its place cannot.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        error!(alert = alert::PANIC, place, "a defect in casebridge at {place}: please report it");
    }));
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
