//! Every setting: its variable, its default, its check. The only reader of the environment.
//!
//! People paste: a whole address instead of an origin, `Bearer ` before a token, commas in a number. A value
//! with one safe reading is accepted; an unsafe one is refused. All problems are reported at once, by the
//! names of the variables and never with a value.

mod database;
mod khoros;
mod parse;
mod postgres;
mod preview;
mod public_url;
mod reader;
mod route;
#[cfg(test)]
mod tests;
mod ticket;
mod typos;
mod variables;
mod zendesk;

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

pub use database::Database;
pub use khoros::{KhorosSettings, Mode};
pub use postgres::{Pooler, PostgresServer};
pub use preview::Preview;
pub(crate) use route::SPECIAL;
pub use route::{LABEL as LABEL_ROUTE, Route};
pub use ticket::{
    CustomField, CustomValue, FALLBACK_TAG, NO_AUTHOR_TAG, Priority, Reference, ReferenceKind, Repeat,
    Requester, RequesterLater, Ticket, TicketStatus, TicketType,
};
pub use zendesk::{ZendeskCredentials, ZendeskSettings};

use reader::Reader;
use variables::Variables;

/// All settings of `casebridge serve`.
pub struct Config {
    pub khoros: KhorosSettings,
    pub zendesk: ZendeskSettings,
    pub database: Database,
    pub general: General,
    /// Warnings that do not stop the service from starting.
    pub warnings: Vec<String>,
}

/// The settings that are set and valid, for `casebridge check`.
pub struct Partial {
    pub khoros: Option<KhorosSettings>,
    pub zendesk: Option<ZendeskSettings>,
    pub database: Option<Database>,
    pub general: General,
    pub warnings: Vec<String>,
    /// Empty if the service would start with these settings.
    pub problems: Problems,
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
    /// The ids of `TICKET_…` and `ROUTE_<NAME>_TICKET_…` that have to exist in Zendesk.
    pub references: Vec<Reference>,
    pub delivery: Delivery,
    pub retention: Retention,
    /// `ADMIN_TOKEN` opens `GET /status`, which is absent without it.
    pub admin_token: Option<SecretString>,
    /// Khoros and Zendesk, as far as they are known, are on this machine, as in a demo: no proxy leads there.
    pub is_local: bool,
}

/// How deliveries are tried.
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

/// All problems of the environment: variables and reasons, never values.
#[derive(Debug)]
pub struct Problems(Vec<String>);

impl std::error::Error for Problems {}

impl Problems {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Iterates over the problems; each names its variable.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "the configuration has {count} problem{}:", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
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
                zendesk: Some(zendesk),
                database: Some(database),
                general,
                warnings,
                problems,
            } if problems.is_empty() => Ok(Config { khoros, zendesk, database, general, warnings }),
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
        let variables = Variables::read(&mut reader, "");
        let mode = reader.or(variables.spredfast_mode(), Mode::default(), parse::mode);
        let khoros = reader.khoros(&variables, mode);
        let zendesk = reader.zendesk(&variables);
        let database = reader.database(&variables);
        let is_local = khoros.as_ref().is_none_or(|khoros| parse::is_loopback(&khoros.api_url))
            && zendesk.as_ref().is_none_or(|zendesk| parse::is_loopback(&zendesk.url));
        let general = reader.general(&variables, mode, is_local);
        reader.find_typos();
        let (warnings, problems) = reader.finish();
        Partial { khoros, zendesk, database, general, warnings, problems }
    }
}

impl Reader {
    fn general(&mut self, variables: &Variables, mode: Mode, is_local: bool) -> General {
        let bearer_tokens = self.bearer_tokens(variables, mode);
        let admin_token = self.optional(variables.admin_token(), parse::secret);
        self.warn_of_short(&variables.admin_token().name, admin_token.as_slice());
        let (public_url, public_url_variable) = self.public_url(variables);
        let probe = self.or(variables.public_url_probe_seconds(), PUBLIC_URL_PROBE, parse::seconds(0..=3600));
        let days = self.or(variables.retention_days(), RETENTION_DAYS, parse::number(1..=3650));
        let done = Duration::from_secs(days * 86_400);
        let schedule = RETRY_SCHEDULE.map(Duration::from_secs).to_vec();
        // These two are read elsewhere; a mistake should be reported at the start anyway.
        self.optional(variables.log_format(), parse::log_format);
        self.optional(variables.rust_log(), parse::log_filter);
        General {
            port: self.or(variables.port(), 8080, parse::number(0..=u16::MAX)),
            listen: self.or(variables.listen(), Ipv6Addr::UNSPECIFIED.into(), parse::listen_address),
            http_idle: self.or(variables.http_idle_seconds(), HTTP_IDLE, parse::seconds(1..=3600)),
            bearer_tokens,
            mode,
            public_url,
            public_url_variable,
            public_url_remedy: public_url::remedy(variables.dyno().value.is_some()),
            public_url_probe: if mode.pushes() { probe } else { Duration::ZERO },
            silence_alert: self.optional(variables.silence_alert_hours(), parse::hours),
            routes: self.routes(variables),
            references: std::mem::take(&mut self.references),
            delivery: Delivery {
                retry_schedule: self.or(variables.retry_schedule(), schedule, parse::schedule),
                lease: self.or(variables.lease_seconds(), LEASE, parse::seconds(6..=3600)),
            },
            retention: Retention { done, dead: done * 3 },
            admin_token,
            is_local,
        }
    }

    fn warn_of_short(&mut self, name: &str, secrets: &[SecretString]) {
        if secrets.iter().any(parse::is_short_secret) {
            self.warnings.push(format!(
                "{name} is shorter than 24 characters: replace it by a stronger one (openssl rand -hex 32)"
            ));
        }
    }
}

impl Logging {
    /// Never fails: [`Config::from_env`] reports a wrong `LOG_FORMAT`.
    pub fn from_env() -> Logging {
        let mut reader = Reader::new(std::env::vars_os());
        let variables = Variables::read(&mut reader, "");
        let default = if variables.dyno().value.is_some() { LogFormat::Logfmt } else { LogFormat::Text };
        Logging {
            format: reader.or(variables.log_format(), default, parse::log_format),
            filter: variables.rust_log.unwrap_or_else(|| "info".to_owned()),
        }
    }
}

/// The variables of this process that are about tickets, for a bridge that it starts within itself.
pub fn ticket_variables() -> impl Iterator<Item = (OsString, OsString)> {
    let is_ours = |name: &OsString| name.to_str().is_some_and(|name| name.starts_with(ticket::TICKET_PREFIX));
    std::env::vars_os().filter(move |(name, _)| is_ours(name))
}
