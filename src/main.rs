//! The command line: the subcommands, logging and exit codes.

mod cli;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::builder::PossibleValuesParser;
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use jiff::Timestamp;

use casebridge::check::Moment;
use casebridge::config::{Config, Database, Logging, Partial, Preview, Problems};
use casebridge::destination;
use casebridge::env::parse;
use casebridge::inbox::Unusable;
use casebridge::source::khoros::feed::backfill::Span;
use cli::log::{self, Log};
use cli::{BackfillOptions, BuiltIn, Format, Part, Rehearsed, Replay, Selection, ShowOptions, TicketForm};

/// One thread allocates the many small parts of a notification and another frees them. With this allocator,
/// that takes a fifth less processor time than with glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A label in the Khoros Marketing inbox becomes a Zendesk ticket.
///
/// Configured by environment variables alone: `casebridge settings` and docs/configuration.md describe them.
#[derive(Parser)]
#[command(version = version(), about)]
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

#[derive(Subcommand)]
enum Command {
    /// Receive events and deliver them (the default)
    ///
    /// Runs until a signal stops it. Needs the variables that `casebridge --help` lists as required.
    Serve,
    #[command(flatten)]
    Tool(Tool),
}

/// The commands that an operator runs.
#[derive(Subcommand)]
enum Tool {
    /// Check everything that serve needs, and change nothing
    ///
    /// Needs the same variables as serve, and reports what is wrong with them. Each row has a mark: ✓ it is in order,
    /// ! the service works without it or it could not be checked, ✗ it is broken. While the service runs, it also
    /// checks whether the public address leads to the service. Exit code 1 if any row is ✗.
    Check {
        /// No service has been started yet: rows that need a running service show ! instead of ✗
        #[arg(long)]
        before_start: bool,
        /// Also send a test to each receiver of notices (ALERT_…)
        #[arg(long)]
        alerts: bool,
        /// One JSON document: {"ok": …, "rows": [{"name", "mark": "ok"|"warning"|"failed", "text",
        /// "remedy"}]}
        #[arg(long)]
        json: bool,
    },
    /// Show the whole path on this machine, between stand-ins
    ///
    /// Starts stand-ins for Khoros and Zendesk, and the real casebridge between them. Needs no variables; TICKET_…
    /// apply. It ends on Ctrl-C.
    #[cfg(feature = "demo")]
    Demo(cli::DemoOptions),
    /// List deliveries and their results, newest first
    ///
    /// Works while the service runs, and needs DATABASE_URL only. "attempts" counts how often a delivery was attempted.
    /// "tries" counts only attempts that failed while others succeeded: RETRY_SCHEDULE limits these, and a pause of the
    /// destination uses up none.
    List(cli::ListOptions),
    /// Test what casebridge assumes about Zendesk
    ///
    /// Use it on a trial or sandbox. Needs only the settings of Zendesk. Shows the account, and what it would create
    /// there: at most 6 tickets and one end user, all named "casebridge rehearsal". Finally it deletes one ticket, and
    /// solves or closes the others. Exit code 1 if an assumption is refuted, the rehearsal is incomplete, or a ticket
    /// is still open.
    Rehearse {
        /// Create the tickets. Without this flag, nothing is created and the exit code is 2
        #[arg(long)]
        yes_create_tickets: bool,
        /// One JSON document: {"account": …, "problem", "assumptions": [{"id", "assumption", "used_in", "state":
        /// "confirmed"|"refuted"|"not_testable", "seen"}], "tickets": …, "user"}
        #[arg(long)]
        json: bool,
    },
    /// Discard waiting deliveries of a route
    ///
    /// Works while the service runs, and needs DATABASE_URL only. Use it after an alert about a limit, such as
    /// ticket_storm. Discarded deliveries are dead; `casebridge replay` brings them back. Deliveries that are being
    /// sent or may have been sent keep waiting.
    Discard {
        /// The route, as in `casebridge list --json`
        #[arg(long, value_name = "NAME")]
        route: String,
        /// Only deliveries that were received at this time or later: 2026-11-26T14:00:00Z, a date (UTC), or 7d, 12h or
        /// 30m (minutes) ago
        #[arg(long, value_name = "TIME", value_parser = parse::time_or_age)]
        since: Option<Timestamp>,
        /// Only deliveries that were received before this time, written in the same way; by default now
        #[arg(long, value_name = "TIME", value_parser = parse::time_or_age)]
        until: Option<Timestamp>,
        /// Only deliveries to this destination
        #[arg(long, value_parser = PossibleValuesParser::new(destination::NAMES))]
        destination: Option<String>,
        /// Print what would be discarded, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Show the tickets that a notification would create
    ///
    /// Sends nothing and needs no variables; TICKET_… and ROUTE_… apply.
    Render {
        /// The notification as Khoros sends it, or `-` for standard input
        #[arg(required_unless_present = "template")]
        file: Option<PathBuf>,
        /// Print a built-in template as a starting point for TICKET_SUBJECT, TICKET_COMMENT or TICKET_UPDATE
        #[arg(long, value_enum, conflicts_with_all = ["file", "route", "update", "json", "html"])]
        template: Option<BuiltIn>,
        /// The route of the notification, as in ROUTE_<NAME>_…; by default the first
        #[arg(long, value_name = "NAME")]
        route: Option<String>,
        /// Show the comment that a later event adds, as if its text and notes were new
        #[arg(long)]
        update: bool,
        /// One ticket per line, as JSON
        #[arg(long, conflicts_with = "html")]
        json: bool,
        /// Print the comment as the HTML that is sent, not as agents see it
        #[arg(long)]
        html: bool,
    },
    /// Prove that nothing is missing
    ///
    /// Compares the database with Zendesk and the feeds, and changes nothing. Finds tickets that no longer exist, cases
    /// with several open tickets, tickets that no delivery created, and events of the feeds that became no delivery.
    /// Works while the service runs, and needs the variables of serve. Exit code 1 if there is a difference, or if
    /// something could not be compared.
    Reconcile {
        /// Compare deliveries that were received since then: 7d, 12h, 30m, or a date (UTC)
        #[arg(long, default_value = "7d", value_parser = parse::time_or_age)]
        since: Timestamp,
        /// One JSON document: {"agrees", "since", "deliveries": [{"route", "destination", "received", "waiting",
        /// "done", "dead"}], "differences": [{"kind", "text", "remedy"}], "unchecked": [{"part", "reason"}]}
        #[arg(long)]
        json: bool,
    },
    /// Show the running service on one screen
    ///
    /// Asks the service on this machine, at PORT with ADMIN_TOKEN. If it does not answer, shows what the database at
    /// DATABASE_URL contains.
    Status {
        /// Refresh the screen every two seconds, until you stop it
        #[arg(long)]
        watch: bool,
    },
    /// Ask the running service whether it answers
    ///
    /// Needs PORT only. Exit code 1 if it does not answer; the container image uses it as its health check.
    Health,
    /// Print the documentation of all settings, and no values
    Settings {
        #[arg(long, value_enum, default_value = "markdown")]
        format: Format,
    },
    /// End the subscriptions at Khoros
    ///
    /// Needs the variables of serve. A running service does not activate the subscriptions again, but its next start
    /// does: stop it for good if they should stay ended.
    Unsubscribe {
        /// End the subscription with this name, instead of those of the configured routes
        #[arg(long, value_name = "NAME")]
        external_id: Vec<String>,
    },
    /// Import older events from the feeds
    ///
    /// The service skips feed events that are older than FEED_SINCE. This command imports them, and the running
    /// service delivers them. Needs the variables of serve and the subscriptions that serve creates. Running it twice
    /// imports nothing twice. Exit code 1 if a feed could not be read to the end, or an event could not be imported.
    Backfill {
        /// Events from this date or time on, in UTC unless it has an offset: 2026-05-01, 2026-05-01T08:00+02:00, or 30d,
        /// 12h or 30m (minutes) ago
        ///
        /// An event without a readable date counts as new, and is left out if --until is set.
        #[arg(long, value_name = "TIME", value_parser = parse::time_or_age)]
        since: Timestamp,
        /// Only events before this date or time, written in the same way
        #[arg(long, value_name = "TIME", value_parser = parse::time_or_age)]
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
    /// Copy the SQLite file while the service runs
    ///
    /// Needs DATABASE_URL only. The copy is complete, and only its owner may read it. For PostgreSQL, use pg_dump.
    Backup {
        /// The copy, which must not exist yet
        file: PathBuf,
    },
    /// Show everything about one delivery
    ///
    /// Works while the service runs, and needs DATABASE_URL only. Shows the attempts in order, with each wait and its
    /// reason; the other deliveries of the case; links to the post and the ticket; and the request that was sent or
    /// would be sent.
    Show {
        /// An id as `casebridge list` shows it or its beginning, a case, the number or link of a ticket, or the link of
        /// a post. If several deliveries match, the last one that was received
        #[arg(value_name = "ID")]
        id: String,
        /// Only the delivery to this destination
        #[arg(long, value_parser = PossibleValuesParser::new(destination::NAMES))]
        destination: Option<String>,
        /// Also show texts and names: those in the request, and the answers of the destination
        #[arg(long)]
        texts: bool,
        /// One JSON document: {"delivery": …, "post", "ticket_url", "timeline": […], "request": …, "case": […]}
        #[arg(long)]
        json: bool,
    },
    /// Try dead deliveries again
    ///
    /// Works while the service runs, and needs DATABASE_URL only. Each delivery gets a new retry schedule. Remove the
    /// cause first: `casebridge list --state dead` shows it.
    Replay {
        /// All dead deliveries
        #[arg(long, conflicts_with = "ids")]
        all_dead: bool,
        /// Create new tickets for these cases, because their tickets were deleted for good
        ///
        /// Use it after the alert zendesk_ticket_hidden, if you know that the ticket no longer exists in Zendesk.
        #[arg(long, conflicts_with = "all_dead")]
        new_ticket: bool,
        /// Also deliver waiting deliveries, now instead of at their next try
        #[arg(long, conflicts_with_all = ["all_dead", "new_ticket"])]
        now: bool,
        /// Only deliveries to this destination
        ///
        /// Without it, deliveries to Flow and Twilio are left out, unless you name them by their own ids: they may have
        /// been sent.
        #[arg(long, value_parser = PossibleValuesParser::new(destination::NAMES))]
        destination: Option<String>,
        /// Print what would be replayed, and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Ids as `casebridge list` shows them, or anything that `casebridge show` takes; a case or a ticket means all
        /// of its deliveries that can be replayed
        #[arg(value_name = "ID")]
        ids: Vec<String>,
    },
    /// Print the completions for a shell
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write those of all commands
    Man {
        /// The folder for the pages of all commands, as in /usr/local/share/man/man1
        folder: Option<PathBuf>,
    },
}

/// The exit code for problems that another try cannot solve.
const MISCONFIGURED: u8 = 2;

fn main() -> ExitCode {
    let command = command();
    let log = match start_log(&command) {
        Ok(log) => log,
        Err(error) => return fail(&error),
    };
    let code = match command {
        Command::Serve => serve(),
        Command::Tool(tool) => run(tool).unwrap_or_else(|error| match is_broken_pipe(&error) {
            // The reader of our output has closed the pipe.
            true => ExitCode::SUCCESS,
            false => fail(&error),
        }),
    };
    // Everything before this may still log.
    drop(log);
    code
}

/// Reads the command line. The description of all commands takes memory that the service would keep for its
/// whole life, so a plain `serve` is recognized without it.
fn command() -> Command {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match &arguments[..] {
        [] => Command::Serve,
        [only] if only == "serve" => Command::Serve,
        _ => parsed().unwrap_or_else(|error| error.exit()),
    }
}

fn parsed() -> Result<Command, clap::Error> {
    let command = Arguments::from_arg_matches(&described().get_matches())?.command.unwrap_or(Command::Serve);
    match &command {
        Command::Tool(Tool::Replay { all_dead: false, ids, .. }) if ids.is_empty() => {
            Err(nothing_to_replay())
        }
        _ => Ok(command),
    }
}

/// The commands with all their texts.
fn described() -> clap::Command {
    cli::complete(Arguments::command())
}

/// Lists the commands to run first.
fn nothing_to_replay() -> clap::Error {
    let mut commands = described();
    commands.build();
    let message = "which deliveries? See what is dead, and try without changing anything:\n\n  \
                   casebridge list --state dead\n  casebridge replay --all-dead --dry-run\n\n\
                   Then name deliveries by their ids, or replay --all-dead.";
    match commands.find_subcommand_mut("replay") {
        Some(replay) => replay.error(ErrorKind::MissingRequiredArgument, message),
        None => commands.error(ErrorKind::MissingRequiredArgument, message),
    }
}

fn start_log(command: &Command) -> anyhow::Result<Option<Log>> {
    let log = match command {
        Command::Serve => {
            let Logging { filter, format } = Logging::from_env();
            log::start(&filter, format)
        }
        #[cfg(feature = "demo")]
        Command::Tool(Tool::Demo(options)) => {
            log::start(options.log_filter(), casebridge::config::LogFormat::Text)
        }
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

/// Serves separately from [`run`], whose future is as large as that of the largest command and would stay on the stack.
#[tokio::main]
async fn serve() -> ExitCode {
    cli::serve().await.map_or_else(|error| exit_code(&error), |()| ExitCode::SUCCESS)
}

#[tokio::main]
async fn run(tool: Tool) -> anyhow::Result<ExitCode> {
    match tool {
        Tool::Check { json, before_start, alerts } => {
            let moment = if before_start { Moment::BeforeStart } else { Moment::Anytime };
            let is_ok = cli::check(moment, alerts, json).await?;
            return Ok(if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        #[cfg(feature = "demo")]
        Tool::Demo(options) => cli::demo(&options, cli::stop_on_signal()?).await?,
        Tool::List(options) => cli::list(&Database::from_env()?, &options).await?,
        Tool::Rehearse { yes_create_tickets, json } => {
            return Ok(match cli::rehearse(yes_create_tickets, json, cli::stop_on_signal()?).await? {
                Rehearsed::Ok => ExitCode::SUCCESS,
                Rehearsed::Failed => ExitCode::FAILURE,
                Rehearsed::Refused => ExitCode::from(MISCONFIGURED),
            });
        }
        Tool::Discard { route, since, until, destination, dry_run } => {
            let selection = Selection { route, destination, since, until };
            cli::discard(&Database::from_env()?, &selection, dry_run).await?;
        }
        Tool::Render { template: Some(template), .. } => write!(std::io::stdout(), "{}", template.source())?,
        Tool::Render { file, route, update, json, html, template: None } => {
            let part = if update { Part::Update } else { Part::Ticket };
            let file = file.unwrap_or_else(|| "-".into());
            let form = match (json, html) {
                (true, _) => TicketForm::Json,
                (false, true) => TicketForm::Html,
                (false, false) => TicketForm::Readable,
            };
            cli::render(&Preview::from_env()?, &file, route.as_deref(), part, form)?;
        }
        Tool::Reconcile { since, json } => {
            let agrees = cli::reconcile(Config::from_env()?, since, json).await?;
            return Ok(if agrees { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Tool::Status { watch } => cli::status(&Partial::from_env(), watch, cli::stop_on_signal()?).await?,
        Tool::Health => cli::health(&Partial::from_env().general).await?,
        Tool::Settings { format } => cli::settings(format)?,
        Tool::Unsubscribe { external_id } => {
            cli::unsubscribe(&Config::from_env()?, &external_id).await?;
        }
        Tool::Backfill { since, until, route, dry_run, json } => {
            let (config, span) = (Config::from_env()?, Span { since, until });
            cli::backfill(&config, &span, route.as_deref(), BackfillOptions { dry_run, json }).await?;
        }
        Tool::Backup { file } => cli::backup(&Database::from_env()?, &file).await?,
        Tool::Show { id, destination, texts, json } => {
            let options = ShowOptions { texts, json };
            cli::show(&Database::from_env()?, &id, destination.as_deref(), options).await?;
        }
        Tool::Replay { all_dead: _, new_ticket, now, destination, dry_run, ids } => {
            let how = match (new_ticket, now) {
                (true, _) => Replay::NewTicket,
                (false, true) => Replay::Now,
                (false, false) => Replay::Again,
            };
            cli::replay(&Database::from_env()?, &ids, destination.as_deref(), how, dry_run).await?;
        }
        Tool::Completions { shell } => cli::completions(described(), shell)?,
        Tool::Man { folder } => cli::man(described(), folder.as_deref())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
