//! Every setting: its variable, its default, its check. The only reader of the environment.
//!
//! People paste: a whole address where an origin is wanted, `Bearer ` before a token, commas in a
//! number. Whatever has one safe reading is accepted; whatever is unsafe is refused. All problems
//! are reported at once, by the names of the variables and never with a value.

mod parse;
mod postgres;
mod route;
mod ticket;
mod typos;
mod variables;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use parse::Parsed;
pub use postgres::{Pooler, PostgresServer};
pub use route::{LABEL as LABEL_ROUTE, Route};
pub use ticket::{
    CustomField, CustomValue, FALLBACK_TAG, Kind, NO_AUTHOR_TAG, Priority, Reference, ReferenceKind, Repeat,
    Requester, RequesterLater, Status, Ticket,
};
use variables::{Raw, Variables};

/// Everything that `casebridge serve` needs to know.
pub struct Config {
    /// `PORT`; default 8080, 0 lets the system choose.
    pub port: u16,
    /// `LISTEN`; by default all interfaces, of IPv6 and IPv4.
    pub listen: IpAddr,
    /// `HTTP_IDLE_SECONDS`: how long a connection may wait for its next request.
    pub http_idle: Duration,
    pub khoros: Khoros,
    /// `NOTIFICATION_BEARER_TOKEN`, comma-separated: the first is given to Khoros, all are accepted.
    /// Empty only if nothing is pushed.
    pub bearer_tokens: Vec<SecretString>,
    /// `PUBLIC_URL`, or what the platform tells of itself. Without one nothing can be pushed.
    pub public_url: Option<Url>,
    /// The variable that it came from; `PUBLIC_URL` if there is none.
    pub public_url_variable: &'static str,
    /// `PUBLIC_URL_PROBE_SECONDS`: how long to wait until we reach ourselves at the public address,
    /// before Khoros is told of it all the same. Zero: we do not try, as when nothing is pushed.
    pub public_url_probe: Duration,
    /// `SILENCE_ALERT_HOURS`: how long a busy route may bring nothing.
    pub silence_alert: Option<Duration>,
    pub zendesk: Zendesk,
    /// Never empty.
    pub routes: Vec<Route>,
    /// What `TICKET_…` and `ROUTE_<NAME>_TICKET_…` name by its number in Zendesk, as they are written.
    pub references: Vec<Reference>,
    pub database: Database,
    pub delivery: Delivery,
    pub retention: Retention,
    /// `ADMIN_TOKEN`: opens `GET /status`, which is absent without it.
    pub admin_token: Option<SecretString>,
    /// `DYNO` is set: the advice that we log is Heroku's.
    pub on_heroku: bool,
    /// What the operator should know although the service starts.
    pub warnings: Vec<String>,
}

/// Access to Khoros and what to subscribe to.
pub struct Khoros {
    /// `SPREDFAST_API_URL`, without a trailing slash.
    pub api_url: Url,
    /// `SPREDFAST_API_TOKEN`
    pub token: SecretString,
    /// `SPREDFAST_COMPANY_ID`
    pub company_id: u64,
    /// `SPREDFAST_MODE`
    pub mode: Mode,
    /// `SPREDFAST_CHECK_MINUTES`: how often the subscriptions are looked at.
    pub check_every: Duration,
    /// `SPREDFAST_POLL_SECONDS`: how often the feeds are read.
    pub poll_every: Duration,
}

/// The ways by which events come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Khoros pushes them, and what a push lost is read from the feed.
    #[default]
    Both,
    Push,
    /// They are read from the feed alone, which needs no public address.
    Poll,
}

impl Mode {
    pub fn pushes(self) -> bool {
        self != Mode::Poll
    }

    pub fn polls(self) -> bool {
        self != Mode::Push
    }
}

/// Access to Zendesk.
#[derive(Clone)]
pub struct Zendesk {
    /// `ZENDESK_API_URL`, reduced to its origin.
    pub url: Url,
    pub credentials: ZendeskCredentials,
    /// `ZENDESK_BUDGET_PERCENT` of the account's requests per minute may be ours; 1 to 100.
    pub budget_percent: u32,
    /// `ZENDESK_UPDATE_BUDGET_PERCENT`: of the updates of tickets per minute that Zendesk allows the
    /// account, agents' own clicks included, so many percent may be ours; 1 to 100.
    pub update_budget_percent: u32,
}

#[derive(Clone)]
pub enum ZendeskCredentials {
    /// `ZENDESK_OAUTH_CLIENT_ID` and `ZENDESK_OAUTH_CLIENT_SECRET`.
    OAuth { client_id: String, client_secret: SecretString },
    /// `ZENDESK_USER_EMAIL` and `ZENDESK_API_TOKEN`, which Zendesk ends on 2027-04-30.
    ApiToken { email: String, token: SecretString },
}

/// `DATABASE_URL`
pub enum Database {
    Sqlite(PathBuf),
    Postgres(Box<PostgresServer>),
}

/// For the log: the file, or the server without the password.
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Database::Sqlite(path) => {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                write!(f, "sqlite://{}", path.display())
            }
            Database::Postgres(server) => server.fmt(f),
        }
    }
}

/// How deliveries are tried.
pub struct Delivery {
    /// `RETRY_SCHEDULE`: the waits between tries; after the last a delivery is dead.
    pub retry_schedule: Vec<Duration>,
    /// `LEASE_SECONDS`: how long a delivery is one worker's alone. All time-outs of an attempt
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
    /// Three times as long: until then the dead can be replayed.
    pub dead: Duration,
}

/// How to log; read apart from [`Config`], whose warnings are logged already.
pub struct Logging {
    pub format: LogFormat,
    /// `RUST_LOG`, default `info`.
    pub filter: String,
}

/// `LOG_FORMAT`; logfmt on Heroku, text elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Logfmt,
    Json,
}

/// All that is wrong with the environment: variables and reasons, never values.
#[derive(Debug)]
pub struct Problems(Vec<String>);

impl std::error::Error for Problems {}

impl Problems {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One by one, each naming its variable.
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

/// The default of `HTTP_IDLE_SECONDS`: Heroku's router keeps a connection for 90 s, and loses the request that
/// meets our close.
pub const HTTP_IDLE: Duration = Duration::from_secs(100);
const CHECK_EVERY: Duration = Duration::from_secs(600);
/// While Khoros pushes, the feed only repairs what a push lost.
const POLL_EVERY_BESIDE_PUSH: Duration = Duration::from_secs(300);
const POLL_EVERY_ALONE: Duration = Duration::from_secs(30);
const LEASE_SECONDS: u64 = 60;
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

    /// The same from given variables; names that are not ours are passed over.
    pub fn from_vars(vars: impl Iterator<Item = (OsString, OsString)>) -> Result<Config, Problems> {
        Config::read(vars).map_err(|partial| partial.problems)
    }

    fn read(vars: impl Iterator<Item = (OsString, OsString)>) -> Result<Config, Box<Partial>> {
        let vars = vars.collect();
        let mut check = Check::default();
        let mut raw = check.read_from(&vars).read();
        // A wrong one is a problem once, of Khoros' settings.
        let mode = raw.spredfast_mode.as_deref().and_then(|text| parse::mode(text).ok()).unwrap_or_default();
        let khoros = check.khoros(&mut raw);
        let bearer_tokens = check.bearer_tokens(&mut raw, mode);
        let zendesk = check.zendesk(&mut raw);
        let database = check.database(&mut raw);
        let routes = check.routes(&vars, &mut raw);
        let delivery = check.delivery(&mut raw);
        let days = check.or("RETENTION_DAYS", raw.retention_days.take(), RETENTION_DAYS, parse::days);
        let done = Duration::from_secs(days * 86_400);
        let retention = Retention { done, dead: done * 3 };
        let on_heroku = raw.dyno.is_some();
        let port = check.or("PORT", raw.port.take(), 8080, parse::port);
        let listen = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let listen = check.or("LISTEN", raw.listen.take(), listen, parse::listen);
        let http_idle =
            check.or("HTTP_IDLE_SECONDS", raw.http_idle_seconds.take(), HTTP_IDLE, parse::idle_seconds);
        let admin_token = check.optional("ADMIN_TOKEN", raw.admin_token.take(), parse::secret);
        check.warn_of_short("ADMIN_TOKEN", admin_token.as_slice());
        let (public_url, public_url_variable) = check.public_url(&mut raw);
        let probe = raw.public_url_probe_seconds.take();
        let probe =
            check.or("PUBLIC_URL_PROBE_SECONDS", probe, Duration::from_secs(60), parse::probe_seconds);
        let public_url_probe = if mode.pushes() { probe } else { Duration::ZERO };
        let silence_alert =
            check.optional("SILENCE_ALERT_HOURS", raw.silence_alert_hours.take(), parse::hours);
        // Read elsewhere, checked here: a typing error should not wait until somebody wonders.
        check.optional("LOG_FORMAT", raw.log_format.take(), parse::log_format);
        check.optional("RUST_LOG", raw.rust_log.take(), parse::log_filter);
        check.names(&vars);

        match (khoros, bearer_tokens, zendesk, database) {
            (Some(khoros), Some(bearer_tokens), Some(zendesk), Some(database))
                if check.problems.is_empty() =>
            {
                Ok(Config {
                    port,
                    listen,
                    http_idle,
                    khoros,
                    bearer_tokens,
                    public_url,
                    public_url_variable,
                    public_url_probe,
                    silence_alert,
                    zendesk,
                    routes,
                    references: std::mem::take(&mut check.references),
                    database,
                    delivery,
                    retention,
                    admin_token,
                    on_heroku,
                    warnings: check.into_warnings(),
                })
            }
            (khoros, _, zendesk, database) => Err(Box::new(Partial {
                mode,
                khoros,
                zendesk,
                database,
                routes,
                references: std::mem::take(&mut check.references),
                public_url,
                public_url_variable,
                on_heroku,
                warnings: check.warnings.clone(),
                problems: check.into_problems(),
            })),
        }
    }

    /// Both neighbours are on this machine, as in a demo: no proxy leads there.
    pub fn is_local(&self) -> bool {
        parse::is_loopback(&self.khoros.api_url) && parse::is_loopback(&self.zendesk.url)
    }

    /// The one line that tells Khoros where we are; for the log and for `GET /`.
    pub fn public_url_remedy(&self) -> &'static str {
        public_url_remedy(self.on_heroku)
    }
}

fn public_url_remedy(on_heroku: bool) -> &'static str {
    if on_heroku {
        "heroku config:set -a YOUR-APP PUBLIC_URL=$(heroku info -s -a YOUR-APP | sed -n s/^web_url=//p)"
    } else {
        "PUBLIC_URL=https://… (on Heroku: heroku config:set PUBLIC_URL=https://…)"
    }
}

/// The settings as far as they are there and right, for `casebridge check`. The fields are as in
/// [`Config`].
pub struct Partial {
    pub mode: Mode,
    pub khoros: Option<Khoros>,
    pub zendesk: Option<Zendesk>,
    pub database: Option<Database>,
    /// Empty if none could be read.
    pub routes: Vec<Route>,
    pub references: Vec<Reference>,
    pub public_url: Option<Url>,
    pub public_url_variable: &'static str,
    on_heroku: bool,
    pub warnings: Vec<String>,
    /// Empty if the service would start with these settings.
    pub problems: Problems,
}

impl Partial {
    pub fn from_env() -> Partial {
        Config::read(std::env::vars_os()).map_or_else(|partial| *partial, Partial::of)
    }

    fn of(config: Config) -> Partial {
        Partial {
            mode: config.khoros.mode,
            khoros: Some(config.khoros),
            zendesk: Some(config.zendesk),
            database: Some(config.database),
            routes: config.routes,
            references: config.references,
            public_url: config.public_url,
            public_url_variable: config.public_url_variable,
            on_heroku: config.on_heroku,
            warnings: config.warnings,
            problems: Problems(Vec::new()),
        }
    }

    /// As of [`Config`], as far as the neighbours are known.
    pub fn is_local(&self) -> bool {
        let khoros = self.khoros.as_ref().is_none_or(|khoros| parse::is_loopback(&khoros.api_url));
        khoros && self.zendesk.as_ref().is_none_or(|zendesk| parse::is_loopback(&zendesk.url))
    }

    pub fn public_url_remedy(&self) -> &'static str {
        public_url_remedy(self.on_heroku)
    }
}

impl Database {
    /// The one setting of `casebridge list` and `casebridge replay`.
    pub fn from_env() -> Result<Database, Problems> {
        let mut check = Check::default();
        let mut raw = check.read(std::env::vars_os());
        raw.allow_ephemeral_store.get_or_insert_with(|| "1".to_owned());
        match check.database(&mut raw) {
            Some(database) if check.problems.is_empty() => Ok(database),
            _ => Err(Problems(check.problems)),
        }
    }
}

/// What `casebridge render` needs to know.
pub struct Preview {
    /// Never empty.
    pub routes: Vec<Route>,
    /// `SPREDFAST_COMPANY_ID`
    pub company_id: u64,
    /// What is assumed for want of a setting.
    pub assumptions: Vec<String>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

impl Preview {
    /// # Errors
    /// [`Problems`], all of them at once.
    pub fn from_env() -> Result<Preview, Problems> {
        let vars = std::env::vars_os().collect();
        let mut check = Check::default();
        let mut raw = check.read_from(&vars).read();
        let mut assumptions = Vec::new();
        let mut assume = |name: &str, value: &mut Option<String>, default: &str| {
            if value.is_none() {
                assumptions.push(format!("{name} is not set: {default} is assumed"));
                *value = Some(default.to_owned());
            }
        };
        assume("SPREDFAST_COMPANY_ID", &mut raw.spredfast_company_id, "1234");
        if !Route::is_any_in(&vars) {
            assume("SPREDFAST_LABEL_NAME", &mut raw.spredfast_label_name, "CreateCase");
        }
        let company_id =
            check.required("SPREDFAST_COMPANY_ID", raw.spredfast_company_id.take(), parse::company_id);
        let routes = check.routes(&vars, &mut raw);
        check.names(&vars);
        match company_id.filter(|_| check.problems.is_empty()) {
            Some(company_id) => {
                Ok(Preview { routes, company_id, assumptions, warnings: check.into_warnings() })
            }
            None => Err(check.into_problems()),
        }
    }
}

/// The variables of this process that are about tickets, for a bridge that it starts within itself.
pub fn ticket_variables() -> impl Iterator<Item = (OsString, OsString)> {
    let is_ours = |name: &OsString| name.to_str().is_some_and(|name| name.starts_with(ticket::PREFIX));
    std::env::vars_os().filter(move |(name, _)| is_ours(name))
}

impl Logging {
    /// Never fails: a wrong `LOG_FORMAT` is reported by [`Config::from_env`].
    pub fn from_env() -> Logging {
        let mut raw = Check::default().read(std::env::vars_os());
        let fallback = if raw.dyno.is_some() { LogFormat::Logfmt } else { LogFormat::Text };
        Logging {
            format: raw.log_format.and_then(|text| parse::log_format(&text).ok()).unwrap_or(fallback),
            filter: raw.rust_log.take().unwrap_or_else(|| "info".to_owned()),
        }
    }
}

/// Gathers problems and warnings while the settings are read.
#[derive(Default)]
struct Check {
    problems: Vec<String>,
    warnings: Vec<String>,
    /// Names that look like ours: warnings, but problems beside others, of which they may be the cause.
    hints: Vec<String>,
    references: Vec<Reference>,
}

impl Check {
    fn read(&mut self, vars: impl Iterator<Item = (OsString, OsString)>) -> Raw {
        self.read_from(&vars.collect()).read()
    }

    fn read_from<'a>(&'a mut self, vars: &'a HashMap<OsString, OsString>) -> Variables<'a> {
        Variables { vars, problems: &mut self.problems }
    }

    /// A typing error may be the cause of a problem.
    fn into_problems(self) -> Problems {
        Problems(self.problems.into_iter().chain(self.hints).collect())
    }

    fn into_warnings(self) -> Vec<String> {
        self.warnings.into_iter().chain(self.hints).collect()
    }

    /// Looks for names that were meant to be ours.
    fn names(&mut self, vars: &HashMap<OsString, OsString>) {
        let set = vars.iter().filter(|(_, value)| !value.is_empty());
        let mut hints: Vec<String> =
            set.filter_map(|(name, _)| name.to_str()).filter_map(typos::of).collect();
        hints.sort_unstable();
        self.hints.extend(hints);
    }

    /// The settings of one kind of ticket.
    fn ticket_of(&mut self, vars: &HashMap<OsString, OsString>, prefix: &str, base: &Ticket) -> Ticket {
        let raw = self.read_from(vars).read_ticket(prefix);
        self.ticket(prefix, raw, base)
    }

    fn optional<T>(
        &mut self,
        name: &str,
        value: Option<String>,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> Option<T> {
        match parse(&value?) {
            Ok(parsed) => Some(parsed),
            Err(reason) => {
                self.problems.push(format!("{name} {reason}"));
                None
            }
        }
    }

    fn or<T>(
        &mut self,
        name: &str,
        value: Option<String>,
        default: T,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> T {
        self.optional(name, value, parse).unwrap_or(default)
    }

    fn required<T>(
        &mut self,
        name: &str,
        value: Option<String>,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> Option<T> {
        if value.is_none() {
            self.problems.push(format!("{name} is not set"));
        }
        self.optional(name, value, parse)
    }

    /// A variable of the tutorial, or the name that the 2017 example reads in its place.
    fn aliased(
        &mut self,
        name: &str,
        value: Option<String>,
        alias: (&str, Option<String>),
    ) -> Option<String> {
        match (value, alias) {
            (None, (old, Some(value))) => {
                self.warnings.push(format!("{old} is the 2017 example's name: call it {name}"));
                Some(value)
            }
            (value, _) => value,
        }
    }

    fn khoros(&mut self, raw: &mut Raw) -> Option<Khoros> {
        let api_url = self.or(
            "SPREDFAST_API_URL",
            raw.spredfast_api_url.take(),
            Url::parse("https://api.spredfast.com/v2/events").ok(),
            |text| parse::api_url(text).map(Some),
        );
        let token = self.required("SPREDFAST_API_TOKEN", raw.spredfast_api_token.take(), parse::token);
        let company_id =
            self.required("SPREDFAST_COMPANY_ID", raw.spredfast_company_id.take(), parse::company_id);
        let mode = self.or("SPREDFAST_MODE", raw.spredfast_mode.take(), Mode::default(), parse::mode);
        let check_every = self.or(
            "SPREDFAST_CHECK_MINUTES",
            raw.spredfast_check_minutes.take(),
            CHECK_EVERY,
            parse::minutes,
        );
        let poll_every = if mode == Mode::Poll { POLL_EVERY_ALONE } else { POLL_EVERY_BESIDE_PUSH };
        let poll_every = self.or(
            "SPREDFAST_POLL_SECONDS",
            raw.spredfast_poll_seconds.take(),
            poll_every,
            parse::poll_seconds,
        );
        Some(Khoros {
            api_url: api_url?,
            token: token?,
            company_id: company_id?,
            mode,
            check_every,
            poll_every,
        })
    }

    fn bearer_tokens(&mut self, raw: &mut Raw, mode: Mode) -> Option<Vec<SecretString>> {
        let value = self.aliased(
            "NOTIFICATION_BEARER_TOKEN",
            raw.notification_bearer_token.take(),
            ("NOTIFIER_BEARER_TOKEN", raw.notifier_bearer_token.take()),
        );
        if value.is_none() && !mode.pushes() {
            return Some(Vec::new());
        }
        let tokens = self.required("NOTIFICATION_BEARER_TOKEN", value, |text| {
            let tokens = text.split(',').filter(|token| !token.trim().is_empty());
            let tokens = tokens.map(parse::secret).collect::<Parsed<Vec<_>>>()?;
            if tokens.is_empty() { Err("holds no token") } else { Ok(tokens) }
        })?;
        self.warn_of_short("NOTIFICATION_BEARER_TOKEN", &tokens);
        if tokens.len() > 1 {
            self.warnings.push(format!(
                "NOTIFICATION_BEARER_TOKEN holds {} tokens: Khoros is given the first, all are \
                 accepted; remove the old ones when the rotation is over",
                tokens.len()
            ));
        }
        Some(tokens)
    }

    fn warn_of_short(&mut self, name: &str, secrets: &[SecretString]) {
        if secrets.iter().any(parse::is_short_secret) {
            self.warnings.push(format!(
                "{name} is shorter than 24 characters: replace it by a stronger one (openssl rand -hex 32)"
            ));
        }
    }

    fn zendesk(&mut self, raw: &mut Raw) -> Option<Zendesk> {
        let url = self.aliased(
            "ZENDESK_API_URL",
            raw.zendesk_api_url.take(),
            ("ZENDESK_APP_URL", raw.zendesk_app_url.take()),
        );
        let url = self.required("ZENDESK_API_URL", url, parse::origin);
        let credentials = self.zendesk_credentials(raw);
        let budget_percent =
            self.or("ZENDESK_BUDGET_PERCENT", raw.zendesk_budget_percent.take(), 60, parse::percent);
        let update_budget_percent = self.or(
            "ZENDESK_UPDATE_BUDGET_PERCENT",
            raw.zendesk_update_budget_percent.take(),
            30,
            parse::percent,
        );
        Some(Zendesk { url: url?, credentials: credentials?, budget_percent, update_budget_percent })
    }

    fn zendesk_credentials(&mut self, raw: &mut Raw) -> Option<ZendeskCredentials> {
        let oauth = self.pair(
            ("ZENDESK_OAUTH_CLIENT_ID", raw.zendesk_oauth_client_id.take()),
            ("ZENDESK_OAUTH_CLIENT_SECRET", raw.zendesk_oauth_client_secret.take()),
        );
        let api_token = self.pair(
            ("ZENDESK_USER_EMAIL", raw.zendesk_user_email.take()),
            ("ZENDESK_API_TOKEN", raw.zendesk_api_token.take()),
        );
        match (oauth, api_token) {
            (Pair::Half, _) | (_, Pair::Half) => None,
            (Pair::None, Pair::None) => {
                self.problems.push(
                    "no Zendesk credential: set ZENDESK_OAUTH_CLIENT_ID and \
                     ZENDESK_OAUTH_CLIENT_SECRET (or, until 2027-04-30, ZENDESK_USER_EMAIL and \
                     ZENDESK_API_TOKEN)"
                        .to_owned(),
                );
                None
            }
            (Pair::Both(client_id, client_secret), api_token) => {
                if matches!(api_token, Pair::Both(..)) {
                    self.warnings.push(
                        "both Zendesk credentials are set: the OAuth client is used, and \
                         ZENDESK_USER_EMAIL and ZENDESK_API_TOKEN can be removed"
                            .to_owned(),
                    );
                }
                Some(ZendeskCredentials::OAuth { client_id, client_secret: client_secret.into() })
            }
            (Pair::None, Pair::Both(email, token)) => {
                self.warnings.push(
                    "ZENDESK_API_TOKEN: Zendesk ends API tokens on 2027-04-30 and no longer makes \
                     new ones: set up an OAuth client before (ZENDESK_OAUTH_CLIENT_ID and \
                     ZENDESK_OAUTH_CLIENT_SECRET)"
                        .to_owned(),
                );
                // The pair is sent as `{email}/token:{token}`; some paste it with its suffix.
                let email = email.trim_end_matches("/token").to_owned();
                Some(ZendeskCredentials::ApiToken { email, token: token.into() })
            }
        }
    }

    fn pair(&mut self, one: (&str, Option<String>), two: (&str, Option<String>)) -> Pair {
        match (one, two) {
            ((_, None), (_, None)) => Pair::None,
            ((_, Some(one)), (_, Some(two))) => Pair::Both(one, two),
            ((set, Some(_)), (missing, None)) | ((missing, None), (set, Some(_))) => {
                self.problems.push(format!("{missing} is not set, but {set} is: both or neither"));
                Pair::Half
            }
        }
    }

    fn database(&mut self, raw: &mut Raw) -> Option<Database> {
        let on_heroku = raw.dyno.is_some();
        let mut database = self.database_url(raw.database_url.take(), on_heroku);
        let pooler = self.optional("DATABASE_POOLER", raw.database_pooler.take(), parse::switch);
        if let (Some(Database::Postgres(server)), Some(is_present)) = (&mut database, pooler) {
            server.pooler = if is_present { Pooler::Present } else { Pooler::Absent };
        }
        let ephemeral =
            self.optional("ALLOW_EPHEMERAL_STORE", raw.allow_ephemeral_store.take(), parse::switch);
        let on_disk = matches!(database, Some(Database::Sqlite(_)));
        if on_disk && on_heroku && ephemeral != Some(true) {
            self.problems.push(
                "DATABASE_URL means SQLite, but a dyno's disk is thrown away at least daily and \
                 tickets would be lost or doubled: add Postgres (heroku addons:create \
                 heroku-postgresql:essential-0), or set ALLOW_EPHEMERAL_STORE=1 to try things out"
                    .to_owned(),
            );
        }
        database
    }

    fn database_url(&mut self, value: Option<String>, on_heroku: bool) -> Option<Database> {
        let Some(text) = value else { return Some(Database::Sqlite("casebridge.db".into())) };
        match parse::database(&text, on_heroku) {
            Ok((database, ignored)) => {
                if !ignored.is_empty() {
                    let names = ignored.join(", ");
                    self.warnings.push(format!(
                        "DATABASE_URL: casebridge ignores options that it does not use: {names}"
                    ));
                }
                Some(database)
            }
            Err(reason) => {
                self.problems.push(format!("DATABASE_URL {reason}"));
                None
            }
        }
    }

    fn delivery(&mut self, raw: &mut Raw) -> Delivery {
        let default = RETRY_SCHEDULE.map(Duration::from_secs).to_vec();
        Delivery {
            retry_schedule: self.or("RETRY_SCHEDULE", raw.retry_schedule.take(), default, parse::schedule),
            lease: Duration::from_secs(self.or(
                "LEASE_SECONDS",
                raw.lease_seconds.take(),
                LEASE_SECONDS,
                parse::lease,
            )),
        }
    }

    /// Our own variable, then what platforms tell of themselves. `HEROKU_APP_NAME` comes last: since
    /// 2023-06-14 the host of a new app carries a random suffix that the name does not show.
    fn public_url(&mut self, raw: &mut Raw) -> (Option<Url>, &'static str) {
        let host = |value: &mut Option<String>| value.take().map(|host| format!("https://{host}"));
        let app = |value: Option<String>, domain: &str| {
            value.map(|app| match app.contains(['.', '/']) {
                true => app,
                false => format!("https://{app}.{domain}"),
            })
        };
        let candidates = [
            ("PUBLIC_URL", raw.public_url.take()),
            ("HEROKU_APP_DEFAULT_DOMAIN_NAME", host(&mut raw.heroku_app_default_domain_name)),
            ("RENDER_EXTERNAL_URL", raw.render_external_url.take()),
            ("RAILWAY_PUBLIC_DOMAIN", host(&mut raw.railway_public_domain)),
            ("FLY_APP_NAME", app(raw.fly_app_name.take(), "fly.dev")),
            ("HEROKU_APP_NAME", app(raw.heroku_app_name.take(), "herokuapp.com")),
        ];
        let found = candidates.into_iter().find(|(_, value)| value.is_some());
        let (name, value) = found.unwrap_or(("PUBLIC_URL", None));
        if name == "HEROKU_APP_NAME" {
            self.warnings.push(
                "the public address is guessed from HEROKU_APP_NAME, which is right only for apps \
                 created before 2023-06-14: set PUBLIC_URL to what `heroku info -s` shows as web_url"
                    .to_owned(),
            );
        }
        (self.optional(name, value, parse::api_url), name)
    }
}

/// What is there of two variables that only make sense together.
enum Pair {
    None,
    Half,
    Both(String, String),
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;
    use sqlx::postgres::PgSslMode;

    use super::*;

    const COMPLETE: &[(&str, &str)] = &[
        ("SPREDFAST_API_TOKEN", "khoros-token"),
        ("SPREDFAST_COMPANY_ID", "1234"),
        ("SPREDFAST_LABEL_NAME", "CreateCase"),
        ("ZENDESK_API_URL", "https://acme.zendesk.com"),
        ("ZENDESK_OAUTH_CLIENT_ID", "casebridge"),
        ("ZENDESK_OAUTH_CLIENT_SECRET", "oauth-secret"),
        ("NOTIFICATION_BEARER_TOKEN", "0123456789abcdef01234567"),
    ];

    /// The complete environment with some variables changed; an empty value is an absent one.
    fn config(changes: &[(&str, &str)]) -> Result<Config, Problems> {
        let vars = COMPLETE.iter().chain(changes).map(|(name, value)| (name.into(), value.into()));
        Config::from_vars(vars)
    }

    fn accepted(changes: &[(&str, &str)]) -> Config {
        config(changes).unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn refused(changes: &[(&str, &str)]) -> String {
        match config(changes) {
            Ok(_) => panic!("accepted: {changes:?}"),
            Err(problems) => problems.to_string(),
        }
    }

    #[test]
    fn what_people_paste_is_understood() {
        let config = accepted(&[
            ("ZENDESK_API_URL", " https://acme.zendesk.com/agent/dashboard?brand=1#top "),
            ("SPREDFAST_COMPANY_ID", "20,307,234"),
            ("SPREDFAST_API_TOKEN", "Bearer khoros-token"),
            (
                "NOTIFICATION_BEARER_TOKEN",
                "\"bearer 0123456789abcdef01234567, Bearer fedcba9876543210fedcba98,\"",
            ),
            ("PUBLIC_URL", "bridge.example.com/khoros/label/"),
            ("ZENDESK_BUDGET_PERCENT", "40 %"),
        ]);
        assert_eq!(config.zendesk.url.as_str(), "https://acme.zendesk.com/");
        assert_eq!(config.khoros.company_id, 20_307_234);
        assert_eq!(config.khoros.token.expose_secret(), "khoros-token");
        assert_eq!(config.zendesk.budget_percent, 40);
        assert_eq!(config.public_url.map(String::from).as_deref(), Some("https://bridge.example.com/"));
        let tokens: Vec<_> = config.bearer_tokens.iter().map(|token| token.expose_secret()).collect();
        assert_eq!(tokens, ["0123456789abcdef01234567", "fedcba9876543210fedcba98"]);
    }

    #[test]
    fn how_events_come() {
        let seconds = Duration::from_secs;
        let config_of = |changes| config(changes).unwrap();
        let both = config_of(&[]);
        assert_eq!((both.khoros.mode, both.khoros.poll_every), (Mode::Both, seconds(300)));
        assert_eq!((both.khoros.check_every, both.public_url_probe), (seconds(600), seconds(60)));
        assert_eq!(both.silence_alert, None);
        let poll = config_of(&[("SPREDFAST_MODE", "poll"), ("NOTIFICATION_BEARER_TOKEN", "")]);
        assert_eq!((poll.khoros.mode, poll.khoros.poll_every), (Mode::Poll, seconds(30)));
        assert!(poll.bearer_tokens.is_empty());
        assert_eq!(poll.public_url_probe, Duration::ZERO);
        let set = config_of(&[
            ("SPREDFAST_MODE", "Push"),
            ("SPREDFAST_POLL_SECONDS", "7"),
            ("SPREDFAST_CHECK_MINUTES", "0.5"),
            ("PUBLIC_URL_PROBE_SECONDS", "0"),
            ("SILENCE_ALERT_HOURS", "1.5"),
        ]);
        assert_eq!((set.khoros.mode, set.khoros.poll_every), (Mode::Push, seconds(7)));
        assert_eq!((set.khoros.check_every, set.public_url_probe), (seconds(30), Duration::ZERO));
        assert_eq!(set.silence_alert, Some(seconds(5400)));
        refused(&[("SPREDFAST_MODE", "push"), ("NOTIFICATION_BEARER_TOKEN", "")]);
    }

    #[test]
    fn all_problems_come_in_one_report_without_values() {
        let report = refused(&[
            ("SPREDFAST_MODE", "value"),
            ("SPREDFAST_POLL_SECONDS", "0"),
            ("SPREDFAST_CHECK_MINUTES", "NaN"),
            ("PUBLIC_URL_PROBE_SECONDS", "-1"),
            ("SILENCE_ALERT_HOURS", "inf"),
            ("SPREDFAST_API_TOKEN", ""),
            ("SPREDFAST_COMPANY_ID", "acme-value"),
            ("ZENDESK_API_URL", "http://acme-value.zendesk.com"),
            ("ZENDESK_OAUTH_CLIENT_SECRET", ""),
            ("NOTIFICATION_BEARER_TOKEN", "short-value"),
            ("PORT", "value"),
            ("RETRY_SCHEDULE", "5,value"),
            ("LEASE_SECONDS", "1"),
            ("RETENTION_DAYS", "0"),
            ("LOG_FORMAT", "value"),
            ("RUST_LOG", "value"),
            ("ADMIN_TOKEN", "value"),
            ("DATABASE_URL", "mysql://value"),
        ]);
        for name in [
            "SPREDFAST_API_TOKEN is not set",
            "SPREDFAST_COMPANY_ID",
            "ZENDESK_API_URL",
            "ZENDESK_OAUTH_CLIENT_SECRET is not set, but ZENDESK_OAUTH_CLIENT_ID is",
            "NOTIFICATION_BEARER_TOKEN",
            "PORT",
            "RETRY_SCHEDULE",
            "LEASE_SECONDS",
            "RETENTION_DAYS",
            "LOG_FORMAT",
            "RUST_LOG",
            "ADMIN_TOKEN",
            "DATABASE_URL",
            "SPREDFAST_MODE",
            "SPREDFAST_POLL_SECONDS",
            "SPREDFAST_CHECK_MINUTES",
            "PUBLIC_URL_PROBE_SECONDS",
            "SILENCE_ALERT_HOURS",
        ] {
            assert!(report.contains(name), "{name} is missing in: {report}");
        }
        assert!(!report.contains("value"), "a value is in: {report}");
        assert!(report.starts_with("the configuration has 18 problems:"), "{report}");
    }

    #[test]
    fn a_weak_token_is_refused_and_a_short_one_is_warned_of() {
        for name in ["NOTIFICATION_BEARER_TOKEN", "ADMIN_TOKEN"] {
            for weak in
                ["0123456789abcde", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "abcabcabcabcabcabcabcabcabcabc"]
            {
                assert!(refused(&[(name, weak)]).contains("openssl rand -hex 32"), "{name}");
            }
            let config = accepted(&[(name, "0123456789abcdef")]);
            assert!(config.warnings[0].contains("openssl rand -hex 32"), "{:?}", config.warnings);
            assert!(accepted(&[(name, "0123456789abcdef01234567")]).warnings.is_empty());
        }
        let one_of_two = "0123456789abcdef01234567,aaaaaaaaaaaaaaaaaaaaaaaa";
        assert!(refused(&[("NOTIFICATION_BEARER_TOKEN", one_of_two)]).contains("8 different"));
    }

    #[test]
    fn unsafe_settings_are_refused() {
        for (name, value) in [
            ("ZENDESK_API_URL", "http://acme.zendesk.com"),
            ("PUBLIC_URL", "http://bridge.example.com"),
            ("SPREDFAST_API_URL", "ftp://api.spredfast.com"),
            ("ZENDESK_API_URL", "https://me:secret@acme.zendesk.com"),
            ("ZENDESK_API_URL", "acme"),
            ("DATABASE_URL", "sqlite::memory:"),
            ("DATABASE_URL", "sqlite://casebridge.db?mode=ro"),
            ("DATABASE_URL", "postgres://u:p@db.example.com/c?pasword=secret"),
            ("SPREDFAST_COMPANY_ID", "1234.5"),
            ("RUST_LOG", "[[["),
            ("NOTIFICATION_BEARER_TOKEN", "\"\""),
            ("DYNO", "web.1"),
        ] {
            refused(&[(name, value)]);
        }
        accepted(&[("ZENDESK_API_URL", "http://127.0.0.1:4000")]);
        accepted(&[("DYNO", "web.1"), ("ALLOW_EPHEMERAL_STORE", "1")]);
    }

    #[test]
    fn a_dyno_asks_its_postgres_for_tls() {
        let mode = |changes: &[(&str, &str)]| match accepted(changes).database {
            Database::Postgres(server) => server.options.get_ssl_mode(),
            Database::Sqlite(_) => panic!("not Postgres"),
        };
        let url = ("DATABASE_URL", "postgres://u:p@db.example.com/c");
        assert!(matches!(mode(&[url]), PgSslMode::Prefer));
        assert!(matches!(mode(&[url, ("DYNO", "web.1")]), PgSslMode::Require));
        let full = ("DATABASE_URL", "postgres://u:p@db.example.com/c?sslmode=verify-full");
        assert!(matches!(mode(&[full, ("DYNO", "web.1")]), PgSslMode::VerifyFull));
    }

    #[test]
    fn connection_strings_as_hosts_print_them() {
        let with = |url| accepted(&[("DATABASE_URL", url)]);
        let neon =
            with("psql 'postgresql://u:secret@db.example.com/c?sslmode=require&channel_binding=require'");
        assert_eq!(neon.database.to_string(), "postgres://u@db.example.com:5432/c");
        assert_eq!(
            neon.warnings,
            ["DATABASE_URL: casebridge ignores options that it does not use: channel_binding"]
        );
        for url in [
            "jdbc:postgresql://db.example.com/c?user=u&password=secret",
            "postgres://u:secret/s@db.example.com/c",
            "postgresql+asyncpg://u:p@db.example.com/c?ssl=secret",
        ] {
            let report = refused(&[("DATABASE_URL", url)]);
            assert!(report.contains("\n  - DATABASE_URL ") && !report.contains("secret"), "{report}");
        }
    }

    #[test]
    fn a_pooler_can_be_said_to_be_there_or_not() {
        let pooler = |url, said| match accepted(&[("DATABASE_URL", url), ("DATABASE_POOLER", said)]).database
        {
            Database::Postgres(server) => server.pooler,
            Database::Sqlite(_) => panic!("not Postgres"),
        };
        let (plain, supabase) = ("postgres://u:p@HOST/db", "postgres://u:p@HOST:6543/db?pgbouncer=true");
        assert_eq!(pooler(plain, ""), Pooler::Detect);
        assert_eq!((pooler(plain, "1"), pooler(plain, "0")), (Pooler::Present, Pooler::Absent));
        assert_eq!((pooler(supabase, ""), pooler(supabase, "0")), (Pooler::Present, Pooler::Absent));
        refused(&[("DATABASE_POOLER", "value")]);
        accepted(&[("DATABASE_POOLER", "1")]);
    }

    #[test]
    fn the_public_url_is_found_on_every_platform() {
        const HEROKU: &str = "HEROKU_APP_NAME";
        const DYNO: &str = "HEROKU_APP_DEFAULT_DOMAIN_NAME";
        for (changes, url, variable) in [
            (vec![], None, "PUBLIC_URL"),
            (vec![(HEROKU, "acme")], Some("https://acme.herokuapp.com/"), HEROKU),
            (vec![(HEROKU, "acme-0a1b.herokuapp.com")], Some("https://acme-0a1b.herokuapp.com/"), HEROKU),
            (vec![("FLY_APP_NAME", "acme")], Some("https://acme.fly.dev/"), "FLY_APP_NAME"),
            (
                vec![("RAILWAY_PUBLIC_DOMAIN", "acme.up.railway.app")],
                Some("https://acme.up.railway.app/"),
                "RAILWAY_PUBLIC_DOMAIN",
            ),
            (
                vec![("RENDER_EXTERNAL_URL", "https://acme.onrender.com")],
                Some("https://acme.onrender.com/"),
                "RENDER_EXTERNAL_URL",
            ),
            (
                vec![(HEROKU, "acme"), (DYNO, "acme-1.herokuapp.com")],
                Some("https://acme-1.herokuapp.com/"),
                DYNO,
            ),
            (
                vec![("PUBLIC_URL", "https://me.example.com"), ("FLY_APP_NAME", "acme")],
                Some("https://me.example.com/"),
                "PUBLIC_URL",
            ),
        ] {
            let config = accepted(&changes);
            assert_eq!(config.public_url.as_ref().map(Url::as_str), url, "{changes:?}");
            assert_eq!(config.public_url_variable, variable, "{changes:?}");
        }
    }

    #[test]
    fn a_credential_is_one_whole_pair() {
        let legacy = [
            ("ZENDESK_OAUTH_CLIENT_ID", ""),
            ("ZENDESK_OAUTH_CLIENT_SECRET", ""),
            ("ZENDESK_USER_EMAIL", "me@example.com/token"),
            ("ZENDESK_API_TOKEN", "legacy"),
        ];
        let config = accepted(&legacy);
        assert!(matches!(&config.zendesk.credentials,
            ZendeskCredentials::ApiToken { email, .. } if email == "me@example.com"));
        assert_eq!(config.warnings.len(), 1);

        let both = accepted(&legacy[2..]);
        assert!(matches!(both.zendesk.credentials, ZendeskCredentials::OAuth { .. }));
        assert!(refused(&legacy[..2]).contains("no Zendesk credential"));
        assert!(refused(&legacy[..3]).contains("ZENDESK_API_TOKEN is not set"));
    }

    #[test]
    fn routes_take_what_they_do_not_say_from_all() {
        let config = accepted(&[
            ("TICKET_GROUP_ID", "1"),
            ("TICKET_PRIORITY", "low"),
            ("ROUTE_VIP_LABEL", "VIP"),
            ("ROUTE_VIP_TICKET_GROUP_ID", "2"),
            ("ROUTE_Alerts_EVENT", "Credential-Deauth"),
            ("SPREDFAST_EXTERNAL_ID", "staging"),
        ]);
        let told: Vec<_> = config
            .routes
            .iter()
            .map(|route| {
                let query = route.query.as_deref().unwrap_or("-");
                let (group, priority) = (route.ticket.group_id.unwrap(), route.ticket.priority);
                format!("{} {} {query} {} {group} {priority:?}", route.name, route.event, route.external_id)
            })
            .collect();
        assert_eq!(
            told,
            [
                "label stream-item-label-applied CreateCase staging 1 Low",
                "alerts credential-deauth - staging-alerts 1 Low",
                "vip stream-item-label-applied ^VIP$ staging-vip 2 Low",
            ]
        );
        let alone = accepted(&[("SPREDFAST_LABEL_NAME", ""), ("ROUTE_LABEL_LABEL", "CreateCase")]);
        assert_eq!(alone.routes.len(), 1);
    }

    #[test]
    fn a_label_that_khoros_would_not_find_is_warned_of() {
        for (value, sent, warned) in [
            ("CreateCase", "CreateCase", None),
            ("^CreateCase$", "^CreateCase$", None),
            ("VIP|Create.*", "VIP|Create.*", None),
            ("\u{feff}Create\u{200b}Case\u{200b} ", "CreateCase", None),
            ("👩\u{200d}👩", "👩\u{200d}👩", None),
            (
                "Create Case (VIP)",
                "Create Case (VIP)",
                Some("the regular expression `Create Case (VIP)`, which"),
            ),
            ("C++ [new", "C++ [new", Some("does not match a label of this name")),
            ("CreateCase   # our label", "CreateCase   # our label", Some("holds a #")),
        ] {
            let config = accepted(&[("SPREDFAST_LABEL_NAME", value)]);
            assert_eq!(config.routes[0].query.as_deref(), Some(sent));
            assert_eq!(config.routes[0].label.as_deref(), Some(sent));
            match warned {
                None => assert!(config.warnings.is_empty(), "{:?}", config.warnings),
                Some(warned) => assert!(config.warnings[0].contains(warned), "{:?}", config.warnings),
            }
        }
        let route = accepted(&[("ROUTE_VIP_LABEL", "Create Case (VIP)"), ("ROUTE_B_QUERY", "b # c")]);
        assert_eq!(route.warnings.len(), 1, "{:?}", route.warnings);
        assert!(route.warnings[0].contains("ROUTE_B_QUERY holds a #"));
        let token = accepted(&[("SPREDFAST_API_TOKEN", "\u{200b}khoros-token\u{feff}")]).khoros.token;
        assert_eq!(token.expose_secret(), "khoros-token");
    }

    #[test]
    fn every_wrong_route_is_named() {
        let report = refused(&[
            ("ROUTE_A_EVENT", "nothing"),
            ("ROUTE_B_LABEL", "x"),
            ("ROUTE_B_QUERY", "y"),
            ("ROUTE_C_EVENT", "rule-applied"),
            ("ROUTE_C_LABEL", "x"),
            ("ROUTE_D_TICKET_TAGS", "x"),
            ("ROUTE_E_QUERY", "x"),
            ("ROUTE_e_QUERY", "x"),
            ("ROUTE_F_QUERY", "x"),
            ("ROUTE_F_TICKET_STATUS", "closed"),
            ("ROUTE_LABEL_QUERY", "x"),
            ("ROUTE_G_EVENT", "vault-acount-create"),
            ("ROUTE_H_QUERY", "same"),
            ("ROUTE_I_QUERY", "same"),
            ("ROUTE_J_LABLE", "x"),
            ("ROUTE_VIP-2_LABEL", "x"),
        ]);
        for named in [
            "ROUTE_A_EVENT is no event that Khoros publishes",
            "ROUTE_B_LABEL and ROUTE_B_QUERY are both set",
            "ROUTE_C_LABEL is set, but its event is about no label",
            "ROUTE_D_LABEL is not set",
            "ROUTE_E_… and ROUTE_e_… are one name",
            "ROUTE_F_TICKET_STATUS cannot be closed",
            "ROUTE_LABEL_…: there is a route `label` already",
            "ROUTE_G_EVENT is no event",
            "ROUTE_I_…: the route `h` is about the same events",
            "ROUTE_J_LABLE is no setting of a route",
            "ROUTE_VIP-2_LABEL is no setting of a route",
            "did you mean ROUTE_VIP2_LABEL?",
        ] {
            assert!(report.contains(named), "{named} is missing in: {report}");
        }
        assert!(refused(&[("SPREDFAST_LABEL_NAME", "")]).contains("neither is any ROUTE_<NAME>_LABEL"));
        for name in ["ROUTE_VIP_2_LABEL", "ROUTE_VIP-2_LABEL", "ROUTE_VIP_LABLE"] {
            assert!(refused(&[(name, "x")]).contains(&format!("{name} is no setting of a route")));
        }
        let config = accepted(&[
            ("ROUTE_V_QUERY", "x"),
            ("ROUTE_V_TICKET_PRIO", "x"),
            ("ROUTE_SERVICE_HOST", "10.0.0.1"),
        ]);
        assert_eq!(
            config.warnings,
            [
                "ROUTE_SERVICE_HOST is no setting of casebridge: see the table in the README",
                "ROUTE_V_TICKET_PRIO is no setting of casebridge: did you mean ROUTE_V_TICKET_PRIORITY?",
            ]
        );
    }

    #[test]
    fn a_name_that_is_nobodys_is_told() {
        let config = accepted(&[("TICKET_PRIO", "high"), ("TICKET_GROUP_ID", "1"), ("OTHER_TICKET_X", "1")]);
        assert_eq!(
            config.warnings,
            ["TICKET_PRIO is no setting of casebridge: did you mean TICKET_PRIORITY?"]
        );
        let solved = accepted(&[("TICKET_STATUS", "solved")]);
        assert!(solved.warnings[0].contains("TICKET_ASSIGNEE_ID"), "{:?}", solved.warnings);
    }

    #[test]
    fn the_names_of_the_2017_example_still_work() {
        let config = accepted(&[
            ("ZENDESK_API_URL", ""),
            ("ZENDESK_APP_URL", "https://old.zendesk.com"),
            ("NOTIFICATION_BEARER_TOKEN", ""),
            ("NOTIFIER_BEARER_TOKEN", "fedcba9876543210fedcba98"),
        ]);
        assert_eq!(config.zendesk.url.as_str(), "https://old.zendesk.com/");
        assert_eq!(config.warnings.len(), 2);
    }

    #[test]
    #[cfg(unix)]
    fn a_variable_that_is_not_utf8_is_named() {
        use std::os::unix::ffi::OsStringExt;
        let vars = COMPLETE.iter().map(|(name, value)| (name.into(), value.into()));
        let broken = OsString::from_vec(vec![0xff, 0xfe]);
        let foreign = [("HOME".into(), broken.clone()), ("SPREDFAST_API_TOKEN".into(), broken)];
        let problems = Config::from_vars(vars.chain(foreign)).err().map(|problems| problems.to_string());
        let problems = problems.unwrap_or_default();
        assert!(problems.contains("SPREDFAST_API_TOKEN is not valid UTF-8"), "{problems}");
        assert!(!problems.contains("HOME"));
    }

    #[test]
    fn no_attempt_outlives_its_lease() {
        for seconds in [6, 60, 3600] {
            let delivery = accepted(&[("LEASE_SECONDS", &seconds.to_string())]).delivery;
            assert!(delivery.attempt_limit() + Duration::from_secs(1) <= delivery.lease);
        }
    }

    #[test]
    fn a_ticket_is_as_ever_if_nothing_is_set() {
        let config = accepted(&[]);
        let ticket = config.routes[0].ticket.clone();
        assert_eq!((ticket.requester, ticket.repeat), (Requester::Author, Repeat::New));
        assert_eq!((ticket.public, ticket.priority), (false, Priority::Normal));
        assert!(ticket.tags.is_empty() && ticket.custom_fields.is_empty() && ticket.subject.is_none());
        assert_eq!(config.zendesk.update_budget_percent, 30);
        assert!(config.warnings.is_empty());
    }

    #[test]
    fn what_is_pasted_for_a_ticket_is_understood() {
        let config = accepted(&[
            ("TICKET_REQUESTER", "Service"),
            ("TICKET_REPEAT", "ignore"),
            ("TICKET_PUBLIC", "TRUE"),
            ("TICKET_TAGS", " VIP, care:Émile/1.2 ,, vip,"),
            ("TICKET_TYPE", "Problem"),
            ("TICKET_CUSTOM_FIELDS", r#"'{"20": ["a", "b"], "3": false}'"#),
            ("ZENDESK_UPDATE_BUDGET_PERCENT", "100%"),
        ]);
        let ticket = config.routes[0].ticket.clone();
        assert_eq!((ticket.requester, ticket.repeat), (Requester::Service, Repeat::Ignore));
        assert_eq!(ticket.tags, ["vip", "care:émile/1.2"]);
        assert_eq!(ticket.kind, Some(Kind::Problem));
        let ids: Vec<u64> = ticket.custom_fields.iter().map(|field| field.id).collect();
        assert_eq!(ids, [3, 20]);
        assert_eq!(config.zendesk.update_budget_percent, 100);
        assert!(config.warnings[0].contains("TICKET_PUBLIC: notes of Khoros' users are internal"));
        assert_eq!(config.warnings.len(), 1);
    }

    #[test]
    fn a_wrong_ticket_is_told_by_its_variables() {
        let long = "t".repeat(81);
        let many: Vec<String> = (0..21).map(|n| format!("t{n}")).collect();
        for (name, value, told) in [
            ("TICKET_REQUESTER", "value", "TICKET_REQUESTER is neither author nor service"),
            ("TICKET_REPEAT", "value", "TICKET_REPEAT is none of new, comment and ignore"),
            ("TICKET_PUBLIC", "value", "TICKET_PUBLIC is neither 1 nor 0"),
            ("TICKET_PRIORITY", "value", "TICKET_PRIORITY is none of"),
            ("TICKET_TYPE", "value", "TICKET_TYPE is none of"),
            ("TICKET_STATUS", "value", "TICKET_STATUS is none of"),
            (
                "TICKET_STATUS",
                "Closed",
                "TICKET_STATUS cannot be closed: a closed ticket can never be changed",
            ),
            ("TICKET_GROUP_ID", "0", "TICKET_GROUP_ID is not an id"),
            ("TICKET_ASSIGNEE_ID", "value", "TICKET_ASSIGNEE_ID is not an id"),
            ("TICKET_BRAND_ID", "-1", "TICKET_BRAND_ID is not an id"),
            ("TICKET_FORM_ID", "1.5", "TICKET_FORM_ID is not an id"),
            ("TICKET_TAGS", "fine,a value", "TICKET_TAGS is not a list of tags"),
            ("TICKET_TAGS", &long, "TICKET_TAGS is not a list of tags"),
            ("TICKET_TAGS", &many.join(","), "TICKET_TAGS holds more than 20 tags"),
            ("TICKET_TAGS", "casebridge_fallback", "TICKET_TAGS holds casebridge_fallback"),
            ("TICKET_SUBJECT", "value {{ item.", "TICKET_SUBJECT: syntax error in line 1"),
            (
                "TICKET_SUBJECT",
                "value {{ item.entityID }}",
                "TICKET_SUBJECT: there is no `item.entityID`; known are",
            ),
            ("TICKET_COMMENT", "value\n{{ item.text|shout }}", "TICKET_COMMENT: unknown filter in line 2"),
            ("TICKET_COMMENT", "value {{ shout() }}", "TICKET_COMMENT: there is no `shout`"),
            ("TICKET_CUSTOM_FIELDS", "value", "TICKET_CUSTOM_FIELDS is not a JSON object"),
            ("TICKET_CUSTOM_FIELDS", r#"["value"]"#, "TICKET_CUSTOM_FIELDS is not a JSON object"),
            ("TICKET_CUSTOM_FIELDS", r#"{"7": null}"#, "TICKET_CUSTOM_FIELDS: field 7: null is no value"),
            (
                "TICKET_CUSTOM_FIELDS",
                r#"{"7": {"value": 1}}"#,
                "TICKET_CUSTOM_FIELDS: field 7: an object is no value",
            ),
            (
                "TICKET_CUSTOM_FIELDS",
                r#"{"7": ["value", 1]}"#,
                "TICKET_CUSTOM_FIELDS: field 7: a list can hold",
            ),
            (
                "TICKET_CUSTOM_FIELDS",
                r#"{"7": ["{{ value"]}"#,
                "TICKET_CUSTOM_FIELDS: field 7: syntax error in line 1",
            ),
            (
                "TICKET_CUSTOM_FIELDS",
                r#"{"7": "value {{ a.b }}"}"#,
                "TICKET_CUSTOM_FIELDS: field 7: there is no `a.b`",
            ),
            (
                "TICKET_CUSTOM_FIELDS",
                r#"{"7": true, "7": "value"}"#,
                "TICKET_CUSTOM_FIELDS: field 7 is there twice",
            ),
            (
                "TICKET_CUSTOM_FIELDS",
                r#"{"color": "value"}"#,
                "TICKET_CUSTOM_FIELDS: a key is not the number of a field: color",
            ),
            (
                "ZENDESK_UPDATE_BUDGET_PERCENT",
                "0",
                "ZENDESK_UPDATE_BUDGET_PERCENT is not a number from 1 to 100",
            ),
        ] {
            let report = refused(&[(name, value)]);
            assert!(report.starts_with("the configuration has 1 problem:"), "{report}");
            assert!(report.contains(&format!("\n  - {told}")), "{told}: {report}");
            assert!(!report.contains("value {{"), "a value is in: {report}");
        }
        let together = refused(&[
            ("TICKET_SUBJECT", "{{ a }}"),
            ("TICKET_CUSTOM_FIELDS", r#"{"7": null, "8": "{{ b }}"}"#),
            ("PORT", "x"),
        ]);
        assert!(together.starts_with("the configuration has 4 problems:"), "{together}");
    }
}
