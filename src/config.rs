//! All settings of `casebridge serve`: those of casebridge itself, of its sources and of its destinations.

mod database;
mod postgres;
mod preview;
mod public_url;
mod rehearsal;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use url::Url;

pub use database::Database;
pub use postgres::{Pooler, PostgresServer};
pub use preview::Preview;
pub use rehearsal::RehearsalSettings;

use crate::destination::zendesk::settings::ZendeskSettings;
use crate::destination::zendesk::settings::ticket::TICKET_PREFIX;
use crate::destination::{self, DestinationSettings, settings as destinations, texting, twilio};
pub use crate::env::Problems;
use crate::env::doc::{Group, Section};
use crate::env::parse::{self, Parsed};
use crate::env::typos::Names;
use crate::env::{Reader, variables};
use crate::notify::settings as notify;
use crate::route::Route;
use crate::source::khoros::settings::{self as khoros, KhorosSettings, Mode};

/// All settings of `casebridge serve`.
pub struct Config {
    pub khoros: KhorosSettings,
    pub destinations: DestinationSettings,
    pub database: Database,
    pub general: General,
    /// Warnings that do not stop the service from starting.
    pub warnings: Vec<String>,
}

/// The settings that are set and valid, for `casebridge check`.
pub struct Partial {
    pub khoros: Option<KhorosSettings>,
    pub destinations: DestinationSettings,
    pub database: Option<Database>,
    pub general: General,
    pub warnings: Vec<String>,
    /// Empty if the service would start with these settings.
    pub problems: Problems,
}

variables! {
    /// The variables of casebridge itself, and those of hosts.
    Variables:
    /// Where Khoros reaches this service from the internet. Without an address, casebridge does not subscribe.
    ///
    /// If it contains a path, the proxy has to remove that path.
    public_url = required().note("unless the host sets it").app_optional(
        "The address of this app, which `heroku info -s` shows as web_url. You know it only once the app exists: \
         leave this empty now, and set it afterwards. The app's own page shows the command.");
    /// casebridge first checks whether the public address leads back to it. It tries for this many seconds, 0 to
    /// 3600, and then subscribes anyway. `0`: no check.
    public_url_probe_seconds = default("60");
    /// `sqlite://FILE` (relative), `sqlite:///FILE` (absolute) or `postgres://USER:PASSWORD@HOST:PORT/DATABASE`. The
    /// container image's default is `sqlite:///data/casebridge.db`.
    ///
    /// The folder of an SQLite file must exist. A PostgreSQL address may be pasted as the host prints it: casebridge
    /// ignores options that only other clients use, with a warning. Percent-encode special characters in the
    /// password.
    database_url = default(database::DEFAULT_FILE);
    /// Whether PostgreSQL is behind a pooler in transaction mode (PgBouncer, Supavisor). `1`: it is, as with
    /// `?pgbouncer=true`. `0`: it is not. Set this only if casebridge
    /// detects it wrongly; the log line `pooler_found` shows that it detected one.
    database_pooler = unset().note("detected at each start");
    /// The port to listen on; `0` lets the system choose. Most hosts set it.
    port = default("8080");
    /// The IP address to listen on. `[::]`: all interfaces, IPv6 and IPv4. `0.0.0.0`: all IPv4 interfaces.
    /// `127.0.0.1`: only this machine.
    ///
    /// Where the system has no IPv6, `[::]` means IPv4 alone.
    listen = default("[::]");
    /// How long a connection may wait for its next request, in seconds, 1 to 3600. It must be longer than the proxy
    /// in front keeps idle connections.
    ///
    /// Heroku's router keeps them for 90 s, Google's load balancers for 600 s.
    http_idle_seconds = default("100");
    /// The waits after each failed attempt of a delivery, in seconds. After the last one, the delivery is dead.
    ///
    /// Each wait is up to 20 % longer, at random. The default takes about 21 hours. 1 to 50 waits, each at most a week.
    retry_schedule = default("5,30,120,600,1800,7200,21600,43200");
    /// How long one attempt may hold a delivery, in seconds, 6 to 3600.
    ///
    /// The time-outs of all requests of an attempt fit into it.
    lease_seconds = default("60");
    /// For this many days after a delivery is done, the database keeps its texts; three times as long if it is dead.
    /// 1 to 3650.
    ///
    /// See [Retention and erasure](security.md#retention-and-erasure).
    retention_days = default("30");
    /// The bearer token for `GET /status` and `GET /metrics`, at least 16 characters. Without it, these pages do not
    /// exist. The token allows reading only.
    ///
    /// 24 or more characters are better; at least 8 of them must be different.
    admin_token = unset().app();
    /// `1`: `GET /metrics` needs no token.
    ///
    /// It shows names of routes and destinations, counts and times; no ids and no texts.
    metrics_public = default("0");
    /// `1` allows SQLite on a Heroku dyno, whose disk is erased at least daily: only for trials without Postgres.
    allow_ephemeral_store = default("0");
    /// `text`, `logfmt` or `json`.
    log_format = default("text").note("`logfmt` on Heroku");
    /// How much to log: `error`, `warn`, `info`, `debug`, or a filter by module, as in
    /// `info,casebridge=debug`.
    rust_log = default("info");
    /// On a dyno, casebridge logs in `logfmt` and refuses SQLite.
    dyno = set_by("Heroku");
    /// Gives the public address, if the app has the feature `runtime-dyno-metadata`.
    heroku_app_default_domain_name = set_by("Heroku");
    /// Gives the public address.
    render_external_url = set_by("Render");
    /// Gives the public address.
    railway_public_domain = set_by("Railway");
    /// Gives the public address `https://{name}.fly.dev`.
    fly_app_name = set_by("Fly.io");
    /// A variable of the 2017 example. casebridge guesses the public address from it, with a warning: the guess is right
    /// only for apps created before 2023-06-14.
    heroku_app_name = old_name().app_text(
        "Leave it empty, and set PUBLIC_URL. This one gives the right address only for apps that were created before \
         2023-06-14.");
}

const SECTION: Section = Section {
    title: "The service",
    intro: "",
    groups: &[Group::new("", Variables::DOCS)],
    prefixes: &["RETENTION_", "RETRY_", "LEASE_"],
};

/// All settings, in the order of the documents.
pub fn sections() -> impl Iterator<Item = &'static Section> {
    let of_destinations = destination::SECTIONS.iter().copied().flatten();
    let first = [&khoros::SECTION, &khoros::route::SECTION, &destinations::SECTION];
    first.into_iter().chain(of_destinations).chain([&texting::SECTION, &notify::SECTION, &SECTION])
}

/// The names of all variables.
pub fn names() -> Names {
    let mut names = Names::default();
    sections().for_each(|section| section.add_to(&mut names));
    names
}

/// The settings of casebridge itself. Invalid ones have their defaults here, and a problem is reported for each.
pub struct General {
    /// `PORT`; default 8080, 0 lets the system choose.
    pub port: u16,
    /// `LISTEN`; by default all interfaces, of IPv6 and IPv4.
    pub listen: IpAddr,
    /// `HTTP_IDLE_SECONDS`: how long a connection may wait for its next request.
    pub http_idle: Duration,
    /// `NOTIFICATION_BEARER_TOKEN`, comma-separated: Khoros gets the first, all are accepted.
    /// Empty only if Khoros does not push.
    pub bearer_tokens: Vec<SecretString>,
    /// `SPREDFAST_MODE`
    pub mode: Mode,
    /// `PUBLIC_URL`, or the platform's own variable. Without one Khoros cannot push.
    pub public_url: Option<Url>,
    /// The variable that it came from; `PUBLIC_URL` if there is none.
    pub public_url_variable: &'static str,
    /// The command or line that sets the public address; for the log and for `GET /`.
    pub public_url_remedy: &'static str,
    /// `PUBLIC_URL_PROBE_SECONDS`: how long to wait until a request to the public address arrives here,
    /// before subscribing anyway. Zero: no probe, as when Khoros does not push.
    pub public_url_probe: Duration,
    /// `SILENCE_ALERT_HOURS`: how long a busy route may have no events.
    pub silence_alert: Option<Duration>,
    /// Empty only if there is a problem.
    pub routes: Vec<Route>,
    pub delivery: Delivery,
    pub retention: Retention,
    /// `ALERT_*` and `HEARTBEAT_*`
    pub notify: notify::Settings,
    /// `ADMIN_TOKEN`: `GET /status` and `GET /metrics` need it, and do not exist if it is not set.
    pub admin_token: Option<SecretString>,
    /// `METRICS_PUBLIC`: `GET /metrics` needs no token.
    pub metrics_public: bool,
    /// Khoros and Zendesk, as far as they are known, are on this machine, as in a demo: no proxy leads there.
    pub is_local: bool,
}

/// How deliveries are tried.
#[derive(Clone)]
pub struct Delivery {
    /// `RETRY_SCHEDULE`: the waits between tries; after the last one a delivery is dead.
    pub retry_schedule: Vec<Duration>,
    /// `LEASE_SECONDS`: how long a claimed delivery belongs to one worker. All time-outs of an attempt
    /// derive from it, so that no attempt outlives its lease.
    pub lease: Duration,
}

impl Delivery {
    /// The longest that one attempt, with everything it calls, may take: 50 s of a lease of 60.
    pub fn attempt_limit(&self) -> Duration {
        self.lease * 5 / 6
    }
}

/// How long texts stay once a delivery is settled.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// `RETENTION_DAYS`
    pub done: Duration,
    /// Three times as long: until then dead deliveries can be replayed.
    pub dead: Duration,
}

/// How to log; read separately from [`Config`], whose warnings are logged already.
pub struct Logging {
    pub format: LogFormat,
    /// `RUST_LOG`, default `info`.
    pub filter: String,
}

/// `LOG_FORMAT`; logfmt on Heroku, text elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Logfmt,
    Json,
}

/// The default of `HTTP_IDLE_SECONDS`: Heroku's router keeps a connection for 90 s, and loses a request that
/// meets our close.
pub const HTTP_IDLE: Duration = Duration::from_secs(100);
const PUBLIC_URL_PROBE: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_secs(60);
const RETENTION_DAYS: u64 = 30;
const RETRY_SCHEDULE: [u64; 8] = [5, 30, 120, 600, 1800, 7200, 21600, 43200];

impl Config {
    /// Reads the settings of `casebridge serve`.
    ///
    /// # Errors
    /// [`Problems`], all of them at once.
    pub fn from_env() -> Result<Config, Problems> {
        Config::from_vars(crate::env::variables_of_process())
    }

    /// Reads the settings from given variables; names of other programs are ignored.
    pub fn from_vars(vars: impl Iterator<Item = (OsString, OsString)>) -> Result<Config, Problems> {
        match Partial::read(vars) {
            Partial {
                khoros: Some(khoros),
                database: Some(database),
                destinations,
                general,
                warnings,
                problems,
            } if problems.is_empty() => Ok(Config { khoros, destinations, database, general, warnings }),
            Partial { problems, .. } => Err(problems),
        }
    }
}

/// A credential that expires.
#[derive(Clone, Copy, Debug)]
pub struct Expiry {
    /// The setting that holds it.
    pub setting: &'static str,
    pub ends: Timestamp,
}

impl Config {
    /// The credentials that are known to expire.
    pub fn expiries(&self) -> Vec<Expiry> {
        let token = self.khoros.token_ends.map(|ends| ("SPREDFAST_API_TOKEN", ends));
        let zendesk = self.destinations.zendesk.as_ref().and_then(ZendeskSettings::credential_ends);
        token.into_iter().chain(zendesk).map(|(setting, ends)| Expiry { setting, ends }).collect()
    }
}

impl Partial {
    pub fn from_env() -> Partial {
        Partial::read(crate::env::variables_of_process())
    }

    fn read(vars: impl Iterator<Item = (OsString, OsString)>) -> Partial {
        let mut reader = Reader::new(vars);
        let names = names();
        let variables = Variables::read(&mut reader, "");
        let of_khoros = khoros::Variables::read(&mut reader, "");
        let mode = reader.or(of_khoros.spredfast_mode(), Mode::default(), khoros::mode);
        let khoros = khoros::read(&mut reader, &of_khoros, mode);
        let mut routes = khoros::route::read(&mut reader, &of_khoros, &names);
        let mut destinations = destinations::read(&mut reader, &mut routes);
        let database = database::read(&mut reader, &variables);
        let notify = notify::read(&mut reader);
        let is_local = khoros.as_ref().is_none_or(|khoros| parse::is_loopback(&khoros.api_url))
            && destinations.urls().chain(notify.urls()).all(parse::is_loopback);
        let general = general(&mut reader, &variables, &of_khoros, Shared { routes, mode, notify, is_local });
        if let Some(settings) = &mut destinations.twilio {
            twilio::set_status_callback(&mut reader, settings, general.public_url.as_ref());
        }
        reader.find_typos(&names);
        let (warnings, problems) = reader.finish();
        Partial { khoros, destinations, database, general, warnings, problems }
    }
}

/// Settings that are read before the general ones.
struct Shared {
    routes: Vec<Route>,
    mode: Mode,
    notify: notify::Settings,
    is_local: bool,
}

fn general(
    reader: &mut Reader,
    variables: &Variables,
    of_khoros: &khoros::Variables,
    Shared { routes, mode, notify, is_local }: Shared,
) -> General {
    let bearer_tokens = khoros::bearer_tokens(reader, of_khoros, mode);
    let admin_token = reader.optional(variables.admin_token(), parse::secret);
    reader.warn_of_short(&variables.admin_token().name, admin_token.as_slice());
    let (public_url, public_url_variable) = public_url::read(reader, variables);
    let probe = reader.or(variables.public_url_probe_seconds(), PUBLIC_URL_PROBE, parse::seconds(0..=3600));
    let days = reader.or(variables.retention_days(), RETENTION_DAYS, parse::number(1..=3650));
    let done = Duration::from_secs(days * 86_400);
    let schedule = RETRY_SCHEDULE.map(Duration::from_secs).to_vec();
    // These two are read elsewhere; a mistake should be reported at the start anyway.
    reader.optional(variables.log_format(), log_format);
    reader.optional(variables.rust_log(), log_filter);
    General {
        port: reader.or(variables.port(), 8080, parse::number(0..=u16::MAX)),
        listen: reader.or(variables.listen(), Ipv6Addr::UNSPECIFIED.into(), parse::listen_address),
        http_idle: reader.or(variables.http_idle_seconds(), HTTP_IDLE, parse::seconds(1..=3600)),
        bearer_tokens,
        mode,
        public_url,
        public_url_variable,
        public_url_remedy: public_url::remedy(variables.dyno().value.is_some()),
        public_url_probe: if mode.pushes() { probe } else { Duration::ZERO },
        silence_alert: reader.optional(of_khoros.silence_alert_hours(), parse::hours),
        routes,
        delivery: Delivery {
            retry_schedule: reader.or(variables.retry_schedule(), schedule, parse::schedule),
            lease: reader.or(variables.lease_seconds(), LEASE, parse::seconds(6..=3600)),
        },
        retention: Retention { done, dead: done * 3 },
        notify,
        admin_token,
        metrics_public: reader.or(variables.metrics_public(), false, parse::switch),
        is_local,
    }
}

impl Logging {
    /// Never fails: [`Config::from_env`] reports a wrong `LOG_FORMAT`.
    pub fn from_env() -> Logging {
        let mut reader = Reader::new(crate::env::variables_of_process());
        let variables = Variables::read(&mut reader, "");
        let default = if variables.dyno().value.is_some() { LogFormat::Logfmt } else { LogFormat::Text };
        Logging {
            format: reader.or(variables.log_format(), default, log_format),
            filter: variables.rust_log.unwrap_or_else(|| "info".to_owned()),
        }
    }
}

/// The variables of this process that are about tickets, for a bridge that it starts within itself.
pub fn ticket_variables() -> impl Iterator<Item = (OsString, OsString)> {
    let is_ours = |name: &OsString| name.to_str().is_some_and(|name| name.starts_with(TICKET_PREFIX));
    crate::env::variables_of_process().filter(move |(name, _)| is_ours(name))
}

/// Accepts a level or a filter. EnvFilter would take a misspelt level for a module, and silence all others.
fn log_filter(text: &str) -> Parsed<()> {
    let level = text.parse::<LevelFilter>().is_ok();
    let filter = text.contains(['=', ',']) && EnvFilter::try_new(text).is_ok();
    if level || filter {
        Ok(())
    } else {
        Err("is neither a level (info, debug, …) nor a filter (info,casebridge=debug)")
    }
}

fn log_format(text: &str) -> Parsed<LogFormat> {
    parse::variant(text, "is not one of text, logfmt and json")
}
