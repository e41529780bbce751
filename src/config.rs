//! All settings of `casebridge serve`: those of casebridge itself, of its sources and of its destinations.

mod database;
mod postgres;
mod preview;
mod public_url;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use url::Url;

pub use database::Database;
pub use postgres::{Pooler, PostgresServer};
pub use preview::Preview;

use crate::destination::DestinationSettings;
use crate::destination::settings as destinations;
use crate::destination::zendesk::settings::ticket::TICKET_PREFIX;
pub use crate::env::Problems;
use crate::env::parse::{self, Parsed};
use crate::env::typos::Names;
use crate::env::{Reader, variables};
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
    port listen http_idle_seconds public_url public_url_probe_seconds database_url database_pooler
    retry_schedule lease_seconds retention_days admin_token allow_ephemeral_store log_format rust_log
    dyno heroku_app_name heroku_app_default_domain_name render_external_url railway_public_domain fly_app_name
}

/// The names of all variables.
pub fn names() -> Names {
    let mut names = Names::default();
    names.variables.extend(Variables::names().chain(khoros::Variables::names()));
    names.route_ends.extend(khoros::route::RouteVariables::names());
    names.prefixes.extend(["RETENTION_", "RETRY_", "LEASE_"].into_iter().chain(khoros::PREFIXES));
    destinations::add_names(&mut names);
    names
}

/// The settings of casebridge itself. Invalid ones have their defaults here, and a problem beside them.
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
    /// `ADMIN_TOKEN` opens `GET /status`, which is absent without it.
    pub admin_token: Option<SecretString>,
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

/// How to log; read apart from [`Config`], whose warnings are logged already.
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
        Config::from_vars(std::env::vars_os())
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

impl Partial {
    pub fn from_env() -> Partial {
        Partial::read(std::env::vars_os())
    }

    fn read(vars: impl Iterator<Item = (OsString, OsString)>) -> Partial {
        let mut reader = Reader::new(vars);
        let names = names();
        let variables = Variables::read(&mut reader, "");
        let of_khoros = khoros::Variables::read(&mut reader, "");
        let mode = reader.or(of_khoros.spredfast_mode(), Mode::default(), khoros::mode);
        let khoros = khoros::read(&mut reader, &of_khoros, mode);
        let mut routes = khoros::route::read(&mut reader, &of_khoros, &names);
        let destinations = destinations::read(&mut reader, &mut routes);
        let database = database::read(&mut reader, &variables);
        let is_local = khoros.as_ref().is_none_or(|khoros| parse::is_loopback(&khoros.api_url))
            && destinations.urls().all(parse::is_loopback);
        let general = general(&mut reader, &variables, &of_khoros, routes, mode, is_local);
        reader.find_typos(&names);
        let (warnings, problems) = reader.finish();
        Partial { khoros, destinations, database, general, warnings, problems }
    }
}

fn general(
    reader: &mut Reader,
    variables: &Variables,
    of_khoros: &khoros::Variables,
    routes: Vec<Route>,
    mode: Mode,
    is_local: bool,
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
        admin_token,
        is_local,
    }
}

impl Logging {
    /// Never fails: [`Config::from_env`] reports a wrong `LOG_FORMAT`.
    pub fn from_env() -> Logging {
        let mut reader = Reader::new(std::env::vars_os());
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
    std::env::vars_os().filter(move |(name, _)| is_ours(name))
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
    parse::variant(text, "is none of text, logfmt and json")
}
