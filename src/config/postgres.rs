//! `DATABASE_URL` of a PostgreSQL server, in the forms that hosts and other programs print.
//!
//! An option that only another client understands is ignored with a warning, so that a pasted address works.
//! An option whose loss would weaken TLS or change the database is refused. No message contains a value: a
//! `/`, `?` or `#` in a password moves the rest of the password into another part of the URL.

use std::fmt;
use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

/// A PostgreSQL server, and how to reach it.
#[derive(Clone)]
pub struct PostgresServer {
    pub options: PgConnectOptions,
    pub pooler: Pooler,
}

/// `DATABASE_POOLER`: whether a pooler in transaction mode (PgBouncer, Supavisor) is in between. There
/// the server's session changes from transaction to transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooler {
    /// Detected at each start.
    #[default]
    Detect,
    Present,
    Absent,
}

impl PostgresServer {
    /// A server with or without a pooler in front of it.
    pub fn new(options: PgConnectOptions) -> PostgresServer {
        PostgresServer { options, pooler: Pooler::Detect }
    }
}

/// User, host, port and database; no password.
impl fmt::Display for PostgresServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (user, port) = (self.options.get_username(), self.options.get_port());
        let database = self.options.get_database().unwrap_or(user);
        match self.options.get_socket() {
            Some(socket) => write!(f, "postgres://{user}@{}:{port}/{database}", socket.display()),
            None => write!(f, "postgres://{user}@{}:{port}/{database}", self.options.get_host()),
        }
    }
}

/// A server, and the names of the options that were ignored.
pub type ParsedServer = Result<(PostgresServer, Vec<&'static str>), String>;

const UNREADABLE: &str = "cannot be read: write postgres://USER:PASSWORD@HOST:PORT/DATABASE, and percent-encode \
                          special characters in the password (openssl rand -hex 32 makes one without any)";
const ENCODE: &str = "has a `/`, `?` or `#` in its user name or password, or a bare `@` after its host: percent-encode \
                      it (`/` is %2F, `?` is %3F, `#` is %23, `@` is %40)";

/// Options that sqlx reads. It would log the value of any other.
const USED: &str = "
    sslmode ssl-mode sslrootcert ssl-root-cert ssl-ca sslcert ssl-cert sslkey ssl-key
    host hostaddr port dbname user password application_name options statement-cache-capacity";

/// Options of other clients. Without them the same server is reached, at least as safely. In this order: of
/// libpq (<https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS>), of node-postgres
/// (<https://node-postgres.com/features/ssl>), of Prisma
/// (<https://www.prisma.io/docs/orm/overview/databases/postgresql#arguments>), of poolers and their clients.
const IGNORED: &str = "
    channel_binding client_encoding connect_timeout fallback_application_name gssdelegation gssencmode gsslib
    keepalives keepalives_count keepalives_idle keepalives_interval krbsrvname load_balance_hosts
    max_protocol_version min_protocol_version ssl_max_protocol_version ssl_min_protocol_version sslcertmode
    sslcompression sslnegotiation sslsni target_session_attrs tcp_user_timeout
    uselibpqcompat
    connection_limit max_connection_lifetime max_idle_connection_lifetime pool_timeout schema
    single_use_connections socket_timeout statement_cache_size
    pgbouncer pool_mode pool_size prepared_statements prepareThreshold";

/// Options that casebridge has under another name.
const REPLACED: &[(&str, &str)] = &[
    ("ssl", "write sslmode=require (or verify-full) instead"),
    ("sslaccept", "write sslmode=require (or verify-full) instead"),
    ("requiressl", "write sslmode=require instead"),
    ("sslidentity", "write sslcert and sslkey instead"),
    ("sslpassword", "name a key in sslkey that needs no password"),
    ("service", "write the host, the user and the database instead"),
    ("passfile", "write the password instead"),
];

/// Reads an address that begins with `postgres:`, `postgresql:` or `postgresql+DRIVER:`.
pub fn parse(text: &str, on_heroku: bool) -> ParsedServer {
    let (_, rest) = text.split_once("://").ok_or(UNREADABLE)?;
    check_parts(rest)?;
    // SQLAlchemy names its driver in the scheme.
    let url = Url::parse(&format!("postgres://{rest}")).map_err(|_| UNREADABLE)?;
    let mut query = Query::default();
    for (name, value) in url.query_pairs() {
        query.add(&name, &value, url.query().unwrap_or_default().contains('@'))?;
    }
    let mut used = url.clone();
    used.set_query(None);
    if !query.used.is_empty() {
        used.query_pairs_mut().extend_pairs(&query.used);
    }
    let mut options = PgConnectOptions::from_str(used.as_str()).map_err(|_| UNREADABLE)?;
    // Heroku's DATABASE_URL has no option for TLS, and its servers require it.
    if on_heroku && !query.has_ssl_mode {
        options = options.ssl_mode(PgSslMode::Require);
    }
    if query.has_system_roots {
        options = options.ssl_mode(PgSslMode::VerifyFull);
    }
    let pooler = if query.has_pooler { Pooler::Present } else { Pooler::Detect };
    Ok((PostgresServer { options, pooler }, query.ignored))
}

/// Finds unencoded characters in a password, and lists of hosts, before a URL parser sees them: it would take
/// `u:12#rest@host` for the host `u` and its port 12.
fn check_parts(rest: &str) -> Result<(), String> {
    if rest.contains('#') {
        return Err(ENCODE.to_owned());
    }
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = address.split_once('/').unwrap_or((address, ""));
    let first_name = query.split(['=', '&']).next().unwrap_or_default();
    if path.contains('@') || first_name.contains('@') || (query.contains('@') && !query.contains('=')) {
        return Err(ENCODE.to_owned());
    }
    match authority.rsplit('@').next().is_some_and(|hosts| hosts.contains(',')) {
        true => Err("names several hosts: name one, preferably one that always leads to the primary server"
            .to_owned()),
        false => Ok(()),
    }
}

/// The options after the `?`.
#[derive(Default)]
struct Query {
    used: Vec<(String, String)>,
    ignored: Vec<&'static str>,
    has_pooler: bool,
    has_ssl_mode: bool,
    has_system_roots: bool,
}

impl Query {
    /// `may_be_secret`: an unknown name may be a piece of a password.
    fn add(&mut self, name: &str, value: &str, may_be_secret: bool) -> Result<(), String> {
        match name {
            "sslmode" | "ssl-mode" => return self.add_ssl_mode(name, value),
            // In libpq, the system's root certificates, with which it always verifies. Ours are Mozilla's.
            "sslrootcert" if value == "system" => {
                self.has_system_roots = true;
                return Ok(());
            }
            "host" | "hostaddr" | "port" if value.contains(',') => {
                return Err(format!("has an option `{name}` that names several: name one"));
            }
            "schema" if value != "public" => {
                return Err(
                    "has an option `schema`, which only Prisma knows, with another value than public: \
                            write options=-csearch_path%3DSCHEMA instead"
                        .to_owned(),
                );
            }
            "pgbouncer" if value == "true" => {
                self.has_pooler = true;
                return Ok(());
            }
            _ => {}
        }
        if USED.split_whitespace().any(|known| known == name) {
            self.used.push((name.to_owned(), value.to_owned()));
            return Ok(());
        }
        if let Some(known) = IGNORED.split_whitespace().find(|known| *known == name) {
            if !self.ignored.contains(&known) {
                self.ignored.push(known);
            }
            return Ok(());
        }
        if let Some((_, remedy)) = REPLACED.iter().find(|(known, _)| *known == name) {
            return Err(format!("has an option `{name}`, which casebridge does not know: {remedy}"));
        }
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"_-[].".contains(&byte);
        match !may_be_secret && name.len() <= 40 && name.bytes().all(is_word) {
            true => Err(format!("has an option `{name}`, which casebridge does not know: remove it")),
            false => Err(ENCODE.to_owned()),
        }
    }

    fn add_ssl_mode(&mut self, name: &str, value: &str) -> Result<(), String> {
        self.has_ssl_mode = true;
        // A mode of node-postgres: TLS without checking the certificate.
        let value = if value == "no-verify" { "require" } else { value };
        if PgSslMode::from_str(value).is_err() {
            return Err(format!(
                "has an option `{name}` that is not one of disable, allow, prefer, require, verify-ca and verify-full"
            ));
        }
        self.used.push((name.to_owned(), value.to_owned()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(text: &str) -> (PostgresServer, Vec<&'static str>) {
        parse(text, false).unwrap_or_else(|reason| panic!("{text}: {reason}"))
    }

    fn refused(text: &str) -> String {
        match parse(text, false) {
            Ok((server, _)) => panic!("{text} was taken for {server}"),
            Err(reason) => reason,
        }
    }

    #[test]
    fn connection_strings_as_hosts_print_them_work() {
        let target = ["channel_binding", "target_session_attrs", "connect_timeout"];
        for (text, port, ignored) in [
            ("postgresql://u:p@HOST/db?sslmode=require&channel_binding=require", 5432, &target[..1]),
            ("postgresql://u:p@HOST:6543/db?pgbouncer=true", 6543, &[][..]),
            ("postgresql://u:p@HOST:6543/db?pgbouncer=true&connection_limit=1", 6543, &["connection_limit"]),
            (
                "postgres://u:p@HOST/db?connect_timeout=10&target_session_attrs=read-write",
                5432,
                &["connect_timeout", "target_session_attrs"],
            ),
            ("postgres://u:p@HOST/db?sslmode=require&uselibpqcompat=true", 5432, &["uselibpqcompat"]),
            ("postgres://u:p@HOST/db?sslmode=no-verify", 5432, &[]),
            ("postgres://u:p@HOST/db?sslmode=verify-full&sslrootcert=system", 5432, &[]),
            ("postgres://u:p@HOST/db?schema=public", 5432, &["schema"]),
            (
                "postgres://u:p@HOST/db?sslmode=prefer&gssencmode=disable&keepalives=1",
                5432,
                &["gssencmode", "keepalives"],
            ),
            ("postgresql+psycopg2://u:p@HOST/db", 5432, &[]),
            ("postgres://u:p%2F%23%3F@HOST/db", 5432, &[]),
            ("postgres://u:p@x@HOST/db", 5432, &[]),
            ("postgres://HOST/db?user=u&password=a%40b", 5432, &[]),
        ] {
            let (server, warned) = accepted(text);
            assert_eq!(server.to_string(), format!("postgres://u@HOST:{port}/db"), "{text}");
            assert_eq!(warned, ignored, "{text}");
        }
    }

    #[test]
    fn a_connection_string_that_cannot_work_says_what_to_write() {
        for (text, reason) in [
            ("postgres://u:secret#ss@HOST/db", "percent-encode"),
            ("postgres://u:12#secret@HOST/db", "percent-encode"),
            ("postgres://u:secret/ss@HOST/db", "percent-encode"),
            ("postgres://u:12/secret@HOST/db", "percent-encode"),
            ("postgres://u:12?secret@HOST/db", "percent-encode"),
            ("postgres://u:12?secret=1@HOST/db", "percent-encode"),
            ("postgres://u:12?sslmode=require&secret@HOST/db", "percent-encode"),
            ("postgres://u:secret@h1:5432,h2:5432/db", "names several hosts"),
            ("postgres://u:secret@h1,h2/db", "names several hosts"),
            ("postgres://u:secret@HOST/db?host=h1,h2", "`host` that names several"),
            ("postgres://u:secret@HOST/db?schema=crm", "`schema`"),
            ("postgres://u:secret@HOST/db?ssl=true", "`ssl`, which casebridge does not know: write sslmode"),
            ("postgres://u:secret@HOST/db?sslmode=secret", "`sslmode` that is not one of"),
            ("postgres://u:secret@HOST/db?pasword=secret", "`pasword`"),
            ("postgres://u:secret@HOST:secret/db", "cannot be read"),
            ("postgres:u:secret@HOST/db", "cannot be read"),
        ] {
            let said = refused(text);
            assert!(said.contains(reason), "{text}: {said}");
            assert!(!said.contains("secret"), "{text}: {said}");
        }
    }

    #[test]
    fn options_decide_about_tls_and_the_pooler() {
        let mode =
            |text: &str, on_heroku| parse(text, on_heroku).map(|(server, _)| server.options.get_ssl_mode());
        let url = |query: &str| format!("postgres://u:p@HOST/db?{query}");
        assert!(matches!(mode(&url("sslmode=no-verify"), false), Ok(PgSslMode::Require)));
        assert!(matches!(mode(&url("sslrootcert=system"), false), Ok(PgSslMode::VerifyFull)));
        assert!(matches!(mode(&url("keepalives=1"), true), Ok(PgSslMode::Require)));
        assert!(matches!(mode(&url("sslmode=disable"), true), Ok(PgSslMode::Disable)));
        assert_eq!(accepted(&url("pgbouncer=true")).0.pooler, Pooler::Present);
        assert_eq!(accepted(&url("pgbouncer=false")).0.pooler, Pooler::Detect);
    }
}
