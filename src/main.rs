//! The command line: the subcommands, logging and exit codes.

mod cli;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::builder::PossibleValuesParser;
use clap::{Parser, Subcommand};
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use casebridge::app::Running;
use casebridge::check::Moment;
use casebridge::config::{Config, Database, Logging, Preview, Problems};
use casebridge::destination::zendesk::ticket;
use casebridge::env::parse;
use casebridge::http::server;
use casebridge::inbox::{State, Unusable};
use casebridge::source::khoros::feed::backfill::Span;
use casebridge::{alert, app, check, destination};
use cli::log::{self, Log};
use cli::{BackfillOptions, Format, Part, Rehearsed, Replay, Selection, TicketForm};

/// One thread allocates the many small parts of a notification and another frees them. With this allocator,
/// that takes a fifth less processor time than with glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A label in the Khoros Marketing inbox becomes a Zendesk ticket.
///
/// Configured by environment variables alone: `casebridge settings` and docs/configuration.md describe them.
#[derive(Parser)]
#[command(version = version(), about, after_help = format!("{}\n{AFTER_HELP}", cli::help()))]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

/// The version, and the commit if the build was given one.
fn version() -> &'static str {
    match option_env!("CASEBRIDGE_COMMIT") {
        None | Some("") => env!("CARGO_PKG_VERSION"),
        Some(commit) => {
            let commit = commit.get(..12).unwrap_or(commit);
            format!("{} ({commit})", env!("CARGO_PKG_VERSION")).leak()
        }
    }
}

const AFTER_HELP: &str = "\
To check the settings and all connections without changing anything:
  casebridge check --before-start
  casebridge check

Exit codes:
  0  done, or stopped by a signal
  1  failed; for check: something is broken; for rehearse: an assumption is refuted, it is incomplete,
     or a ticket is still open
  2  wrong configuration or arguments, or an unusable SQLite file or PostgreSQL database";

#[derive(Subcommand)]
enum Command {
    /// Receive events and create tickets until a signal stops it (the default)
    Serve,
    /// Check everything that serve needs, and change nothing
    ///
    /// Needs the same variables as serve, and reports what is wrong with them. Each row has a mark: ✓ it is
    /// in order, ! the service works without it or it could not be checked, ✗ it is broken. Beside a running
    /// service, it also checks whether the public address leads to it. Exit code 1 if any row is ✗.
    Check {
        /// No service has been started yet: rows that need a running service show ! instead of ✗
        #[arg(long)]
        before_start: bool,
        /// One JSON document: {"ok": …, "rows": [{"name", "mark": "ok"|"warning"|"failed", "text",
        /// "remedy"}]}
        #[arg(long)]
        json: bool,
    },
    /// Show the whole way on this machine: stand-ins for Khoros and Zendesk, and the real bridge between them
    #[cfg(feature = "demo")]
    Demo {
        /// Exit after the first ticket instead of staying up
        #[arg(long)]
        once: bool,
    },
    /// List all deliveries and their results; needs DATABASE_URL only
    List {
        /// Only deliveries in this state
        #[arg(long, value_enum)]
        state: Option<State>,
        /// Only deliveries to this destination
        #[arg(long, value_parser = PossibleValuesParser::new(destination::NAMES))]
        destination: Option<String>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Try on a Zendesk trial or sandbox what casebridge assumes of Zendesk
    ///
    /// Needs only the settings of Zendesk. Shows the account, and what it would create there: at most 6 tickets and
    /// one end user, all named "casebridge rehearsal". Finally it deletes one ticket, and solves or closes the others.
    /// Exit code 1 if an assumption is refuted, the rehearsal is incomplete, or a ticket is still open.
    Rehearse {
        /// Create the tickets. Without this flag, nothing is created and the exit code is 2
        #[arg(long)]
        yes_create_tickets: bool,
        /// One JSON document: {"account": …, "problem", "assumptions": [{"id", "assumption", "used_in", "state":
        /// "confirmed"|"refuted"|"not_testable", "seen"}], "tickets": …, "user"}
        #[arg(long)]
        json: bool,
    },
    /// Discard waiting deliveries of a route, beside the running service; needs DATABASE_URL only
    ///
    /// Use it after the alert ticket_storm. Discarded deliveries are dead; `casebridge replay` brings them back.
    /// Deliveries that are being sent or may have been sent are kept.
    Discard {
        /// The route, as in `casebridge list --json`
        #[arg(long, value_name = "NAME")]
        route: String,
        /// Only deliveries that were received at this time or later: 2026-11-26T14:00:00Z, or a date (UTC)
        #[arg(long, value_name = "TIME", value_parser = parse::time)]
        since: Option<Timestamp>,
        /// Only deliveries that were received before this time
        #[arg(long, value_name = "TIME", value_parser = parse::time)]
        until: Option<Timestamp>,
        /// Only deliveries to this destination
        #[arg(long, value_parser = PossibleValuesParser::new(destination::NAMES))]
        destination: Option<String>,
        /// Print what would be discarded, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Show the tickets that a notification would create; sends nothing and needs no variables
    Render {
        /// The notification as Khoros sends it, or `-` for standard input
        #[arg(required_unless_present = "template")]
        file: Option<PathBuf>,
        /// Print a built-in template as a starting point for TICKET_SUBJECT, TICKET_COMMENT or TICKET_UPDATE
        #[arg(long, value_enum, conflicts_with_all = ["file", "route", "update", "json", "html"])]
        template: Option<BuiltIn>,
        /// The route of the notification, as in ROUTE_<NAME>_…; the first if none is named
        #[arg(long, value_name = "NAME")]
        route: Option<String>,
        /// Show the comment that a later event adds, as if its text and notes were new
        #[arg(long)]
        update: bool,
        /// One ticket a line, as JSON
        #[arg(long, conflicts_with = "html")]
        json: bool,
        /// Print the comment as the HTML that is sent, not as agents see it
        #[arg(long)]
        html: bool,
    },
    /// Print the documentation of all settings, and no values
    Settings {
        #[arg(long, value_enum, default_value = "markdown")]
        format: Format,
    },
    /// End the subscriptions at Khoros; a running service leaves them alone until its next start
    Unsubscribe {
        /// The subscription with this name, instead of those of the configured routes
        #[arg(long, value_name = "NAME")]
        external_id: Vec<String>,
    },
    /// Import older events from the feeds; the running service delivers them
    ///
    /// The service skips feed events older than FEED_SINCE. Needs the variables of serve and the subscriptions that
    /// serve creates. Running it twice imports nothing twice. Exit code 1 if a feed could not be read to the end, or
    /// an event could not be imported.
    Backfill {
        /// Events from this date or time on, in UTC unless it has an offset: 2026-05-01, 2026-05-01T08:00+02:00
        ///
        /// An event without a readable date counts as new, and is left out if --until is set.
        #[arg(long, value_name = "DATE", value_parser = parse::time)]
        since: Timestamp,
        /// Only events before this date or time
        #[arg(long, value_name = "DATE", value_parser = parse::time)]
        until: Option<Timestamp>,
        /// Only the feed of this route, as in ROUTE_<NAME>_…
        #[arg(long, value_name = "NAME")]
        route: Option<String>,
        /// Print what would be imported, and change nothing
        #[arg(long)]
        dry_run: bool,
        /// One JSON document: {"dry_run", "since", "until", "routes": [{"route", "events", "known", "new",
        /// "too_long", "oldest", "newest", "first": [ids], "error"}]}
        #[arg(long)]
        json: bool,
    },
    /// Copy the SQLite file, beside the running service; needs DATABASE_URL only
    ///
    /// The copy is complete, and only its owner may read it. For PostgreSQL, use pg_dump.
    Backup {
        /// The copy, which must not exist yet
        file: PathBuf,
    },
    /// Give dead deliveries a new try, beside the running service; needs DATABASE_URL only
    Replay {
        /// All dead deliveries
        #[arg(long, conflicts_with = "ids", required_unless_present = "ids")]
        all_dead: bool,
        /// Make new tickets for these cases, because their tickets were deleted for good
        ///
        /// Use it after the alert zendesk_ticket_hidden, when you know that Zendesk has no such ticket any
        /// longer.
        #[arg(long, conflicts_with = "all_dead")]
        new_ticket: bool,
        /// Deliver waiting deliveries now instead of at their next try
        #[arg(long, conflicts_with_all = ["all_dead", "new_ticket"])]
        now: bool,
        /// Only deliveries to this destination
        ///
        /// --all-dead leaves out deliveries to Flow, which may have been sent, unless this is flow.
        #[arg(long, value_parser = PossibleValuesParser::new(destination::NAMES))]
        destination: Option<String>,
        /// Print what would be replayed, and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Ids as `casebridge list` shows them
        #[arg(value_name = "ID")]
        ids: Vec<String>,
    },
}

/// Twice as many as the server accepts connections at once.
const OPEN_FILES: u64 = 4096;
/// The exit code for problems that another try cannot solve.
const MISCONFIGURED: u8 = 2;

fn main() -> ExitCode {
    let command = command();
    let log = match start_log(&command) {
        Ok(log) => log,
        Err(error) => return fail(&error),
    };
    let code = run(command).unwrap_or_else(|error| match is_broken_pipe(&error) {
        // The reader of our output has closed the pipe.
        true => ExitCode::SUCCESS,
        false => fail(&error),
    });
    // Everything before this may still log.
    drop(log);
    code
}

/// Reads the command line. The description of all commands takes memory that the service would keep for its
/// whole life, so a plain `serve` is recognised without it.
fn command() -> Command {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match &arguments[..] {
        [] => Command::Serve,
        [only] if only == "serve" => Command::Serve,
        _ => Arguments::parse().command.unwrap_or(Command::Serve),
    }
}

fn start_log(command: &Command) -> anyhow::Result<Option<Log>> {
    let log = match command {
        Command::Serve => {
            let Logging { filter, format } = Logging::from_env();
            log::start(&filter, format)
        }
        #[cfg(feature = "demo")]
        Command::Demo { .. } => log::start("warn", casebridge::config::LogFormat::Text),
        _ => return Ok(None),
    };
    log.map(Some).context("cannot log to standard output")
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("casebridge: {error:#}");
    exit_code(error)
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.is::<Problems>() || error.is::<Unusable>() {
        true => ExitCode::from(MISCONFIGURED),
        false => ExitCode::FAILURE,
    }
}

/// A text of the ticket that a template can replace.
#[derive(Clone, Copy, clap::ValueEnum)]
enum BuiltIn {
    /// The template of TICKET_SUBJECT
    Subject,
    /// The template of TICKET_COMMENT, with TICKET_COMMENT_FORMAT=html
    Comment,
    /// The template of TICKET_UPDATE, with TICKET_COMMENT_FORMAT=html
    Update,
}

impl BuiltIn {
    fn source(self) -> &'static str {
        match self {
            BuiltIn::Subject => ticket::SUBJECT,
            BuiltIn::Comment => ticket::COMMENT,
            BuiltIn::Update => ticket::UPDATE,
        }
    }
}

#[tokio::main]
async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve => return Ok(serve_and_log().await),
        Command::Check { json, before_start } => return check(json, before_start).await,
        Command::Demo { once } => cli::demo(once, stop_on_signal()?).await?,
        Command::List { state, destination, json } => {
            cli::list(&Database::from_env()?, state, destination.as_deref(), json).await?
        }
        Command::Rehearse { yes_create_tickets, json } => {
            return Ok(match cli::rehearse(yes_create_tickets, json, stop_on_signal()?).await? {
                Rehearsed::Ok => ExitCode::SUCCESS,
                Rehearsed::Failed => ExitCode::FAILURE,
                Rehearsed::Refused => ExitCode::from(MISCONFIGURED),
            });
        }
        Command::Discard { route, since, until, destination, dry_run } => {
            let selection = Selection { route, destination, since, until };
            cli::discard(&Database::from_env()?, &selection, dry_run).await?;
        }
        Command::Render { template: Some(template), .. } => {
            write!(std::io::stdout(), "{}", template.source())?
        }
        Command::Render { file, route, update, json, html, template: None } => {
            let part = if update { Part::Update } else { Part::Ticket };
            let file = file.unwrap_or_else(|| "-".into());
            let form = match (json, html) {
                (true, _) => TicketForm::Json,
                (false, true) => TicketForm::Html,
                (false, false) => TicketForm::Readable,
            };
            cli::render(&Preview::from_env()?, &file, route.as_deref(), part, form)?;
        }
        Command::Settings { format } => cli::settings(format)?,
        Command::Unsubscribe { external_id } => {
            cli::unsubscribe(&Config::from_env()?, &external_id).await?;
        }
        Command::Backfill { since, until, route, dry_run, json } => {
            let (config, span) = (Config::from_env()?, Span { since, until });
            cli::backfill(&config, &span, route.as_deref(), BackfillOptions { dry_run, json }).await?;
        }
        Command::Backup { file } => cli::backup(&Database::from_env()?, &file).await?,
        Command::Replay { all_dead: _, new_ticket, now, destination, dry_run, ids } => {
            let how = match (new_ticket, now) {
                (true, _) => Replay::NewTicket,
                (false, true) => Replay::Now,
                (false, false) => Replay::Again,
            };
            cli::replay(&Database::from_env()?, &ids, destination.as_deref(), how, dry_run).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn check(as_json: bool, before_start: bool) -> anyhow::Result<ExitCode> {
    let report = check::run(if before_start { Moment::BeforeStart } else { Moment::Anytime }).await;
    let text = match as_json {
        true => format!("{}\n", serde_json::to_string_pretty(&report)?),
        false => report.to_string(),
    };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // A reader that closed the pipe may still need the exit code.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written?,
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Logs why the service ends: standard error may be the same pipe that nobody reads.
async fn serve_and_log() -> ExitCode {
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err((alert, error)) => {
            match error.downcast_ref::<Problems>() {
                Some(problems) => {
                    problems.iter().for_each(|problem| error!(event = "start_failed", alert, "{problem}"))
                }
                None => error!(event = "start_failed", alert, "{error:#}"),
            }
            exit_code(&error)
        }
    }
}

/// Why the service ends: a code of `alert.rs`, and the error.
type Failure = (&'static str, anyhow::Error);

/// Serves until a signal.
async fn serve() -> Result<(), Failure> {
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
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
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

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
