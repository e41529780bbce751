//! One value each: what people paste, and what we make of it. A reason names no value.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use url::{Host, Url};

use super::{Database, LogFormat, Mode, postgres};

/// The value, or what is wrong with it.
pub type Parsed<T> = Result<T, &'static str>;

const SECRET_MIN_LENGTH: usize = 16;
const SECRET_MIN_VARIETY: usize = 8;
/// A secret that is shorter is accepted, with advice.
const SECRET_GOOD_LENGTH: usize = 24;

/// `.env` files and web forms leave quotes around values, and chats leave marks that nobody sees.
pub fn unquoted(value: &str) -> &str {
    let value = value.trim_matches(is_blank);
    let bare = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    bare.unwrap_or(value).trim_matches(is_blank)
}

/// The name of a label, or an expression for some, without marks that nobody sees or types.
pub fn label(text: &str) -> Parsed<String> {
    self::text(text).map(|text| text.chars().filter(|c| !is_mark(*c)).collect())
}

fn is_blank(c: char) -> bool {
    // Joiners are part of emoji and of words, but neither begins nor ends with one.
    c.is_whitespace() || is_mark(c) || matches!(c, '\u{200c}' | '\u{200d}')
}

/// Zero-width space, word joiner, byte order mark, soft hyphen, and marks of direction.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'
        | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

pub fn text(text: &str) -> Parsed<String> {
    match text.chars().any(char::is_control) {
        true => Err("holds a control character"),
        false => Ok(text.to_owned()),
    }
}

pub fn port(text: &str) -> Parsed<u16> {
    text.parse().map_err(|_| "is not a port number (0 to 65535)")
}

/// An address of this machine, as a URL or a socket has it: `0.0.0.0`, `::`, `[::1]`.
pub fn listen(text: &str) -> Parsed<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| "is not an IP address to listen on ([::], 0.0.0.0, 127.0.0.1); the port is PORT")
}

pub fn switch(text: &str) -> Parsed<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err("is neither 1 nor 0"),
    }
}

pub fn percent(text: &str) -> Parsed<u32> {
    let percent = text.trim_end_matches('%').trim().parse();
    percent.ok().filter(|percent| (1..=100).contains(percent)).ok_or("is not a number from 1 to 100")
}

/// Khoros shows company ids with thousands separators: `20,307,234`.
pub fn company_id(text: &str) -> Parsed<u64> {
    let groups: Vec<&str> = text.split([',', '.', ' ', '\u{a0}']).collect();
    let whole = groups.len() == 1 || groups[1..].iter().all(|group| group.len() == 3);
    let id = groups.concat().parse().ok().filter(|id| *id > 0 && whole);
    id.ok_or("is not a company id (digits, as in 1234)")
}

pub fn lease(text: &str) -> Parsed<u64> {
    let seconds = text.parse().ok();
    seconds.filter(|seconds| (6..=3600).contains(seconds)).ok_or("is not a number from 6 to 3600")
}

pub fn mode(text: &str) -> Parsed<Mode> {
    match text.to_ascii_lowercase().as_str() {
        "both" => Ok(Mode::Both),
        "push" => Ok(Mode::Push),
        "poll" => Ok(Mode::Poll),
        _ => Err("is none of both, push and poll"),
    }
}

/// A part of one is as good: `0.5`.
pub fn minutes(text: &str) -> Parsed<Duration> {
    span(text, 60.0, 1440.0).ok_or("is not a number of minutes, at most 1440")
}

/// A part of one is as good.
pub fn hours(text: &str) -> Parsed<Duration> {
    span(text, 3600.0, 8760.0).ok_or("is not a number of hours, at most 8760")
}

/// Up to `most` units of so many seconds, and a second at least.
fn span(text: &str, unit: f64, most: f64) -> Option<Duration> {
    let number: f64 = text.parse().ok()?;
    let seconds = number * unit;
    (seconds >= 1.0 && number <= most).then(|| Duration::from_secs_f64(seconds))
}

pub fn poll_seconds(text: &str) -> Parsed<Duration> {
    seconds(text, 1, 86_400).ok_or("is not a number from 1 to 86400")
}

pub fn idle_seconds(text: &str) -> Parsed<Duration> {
    seconds(text, 1, 3600).ok_or("is not a number from 1 to 3600")
}

pub fn probe_seconds(text: &str) -> Parsed<Duration> {
    seconds(text, 0, 3600).ok_or("is not a number from 0 to 3600")
}

fn seconds(text: &str, least: u64, most: u64) -> Option<Duration> {
    let seconds: u64 = text.parse().ok()?;
    (least..=most).contains(&seconds).then(|| Duration::from_secs(seconds))
}

pub fn days(text: &str) -> Parsed<u64> {
    let days = text.parse().ok();
    days.filter(|days| (1..=3650).contains(days)).ok_or("is not a number from 1 to 3650")
}

pub fn schedule(text: &str) -> Parsed<Vec<Duration>> {
    const REASON: &str = "is not a list of seconds, as in 5,30,120 (1 to 50 waits, each at most a week)";
    let seconds = |wait: &str| wait.trim().parse().ok().filter(|seconds| *seconds <= 604_800);
    let waits: Option<Vec<u64>> = text.split(',').map(seconds).collect();
    let waits = waits.filter(|waits| waits.len() <= 50).ok_or(REASON)?;
    Ok(waits.into_iter().map(Duration::from_secs).collect())
}

/// A lone word that is no level would be the name of a module, and silence all others.
pub fn log_filter(text: &str) -> Parsed<()> {
    let level = text.parse::<LevelFilter>().is_ok();
    let filter = text.contains(['=', ',']) && EnvFilter::try_new(text).is_ok();
    if level || filter {
        Ok(())
    } else {
        Err("is neither a level (info, debug, …) nor a filter (info,casebridge=debug)")
    }
}

pub fn log_format(text: &str) -> Parsed<LogFormat> {
    match text.to_ascii_lowercase().as_str() {
        "text" => Ok(LogFormat::Text),
        "logfmt" => Ok(LogFormat::Logfmt),
        "json" => Ok(LogFormat::Json),
        _ => Err("is none of text, logfmt and json"),
    }
}

/// A token as it travels in a header; a pasted `Bearer ` is dropped.
pub fn token(text: &str) -> Parsed<SecretString> {
    let text = text.trim();
    let bare = match text.split_once(char::is_whitespace) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => rest.trim(),
        _ => text,
    };
    match !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(bare.into()),
        false => Err("is not a token: it holds spaces or characters that a header cannot carry"),
    }
}

/// A token that guards one of our own endpoints.
pub fn secret(text: &str) -> Parsed<SecretString> {
    let token = token(text)?;
    let bytes = token.expose_secret().as_bytes();
    let variety = bytes.iter().collect::<HashSet<_>>().len();
    match (bytes.len() >= SECRET_MIN_LENGTH, variety >= SECRET_MIN_VARIETY) {
        (true, true) => Ok(token),
        (false, _) => Err("is shorter than 16 characters (make one with: openssl rand -hex 32)"),
        (true, false) => Err(
            "has fewer than 8 different characters, so it can be guessed (make one with: openssl rand -hex 32)",
        ),
    }
}

/// Whether a secret is one that ought to be replaced, but was accepted by earlier versions.
pub fn is_short_secret(secret: &SecretString) -> bool {
    secret.expose_secret().len() < SECRET_GOOD_LENGTH
}

/// An address to call or to be called at: https, or http on loopback; no user, query or fragment.
pub fn url(text: &str) -> Parsed<Url> {
    let text = match text.contains("://") {
        true => text.to_owned(),
        false => format!("https://{text}"),
    };
    let mut url = Url::parse(&text).map_err(|_| "is not an address (https://…)")?;
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(&url) => {}
        "http" => return Err("is a plain http:// address: tokens and customers' texts need https://"),
        _ => return Err("is not an https:// address"),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user name or password, which do not belong into an address");
    }
    let named = url.domain().is_none_or(|domain| domain.contains('.') || domain == "localhost");
    if !named {
        return Err("is not a full address: its host has no dot (https://acme.zendesk.com)");
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

/// An address with a path that we append to; what we would append is dropped if it is there.
pub fn api_url(text: &str) -> Parsed<Url> {
    let mut url = url(text)?;
    let path = url.path().trim_end_matches('/').to_owned();
    let known = ["/subscription", "/khoros/label", "/createTicket", "/createticket"];
    url.set_path(known.iter().find_map(|end| path.strip_suffix(end)).unwrap_or(&path));
    Ok(url)
}

/// `https://acme.zendesk.com/agent/dashboard` → `https://acme.zendesk.com`
pub fn origin(text: &str) -> Parsed<Url> {
    let mut url = url(text)?;
    url.set_path("");
    Ok(url)
}

pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(domain)) => domain == "localhost",
        None => false,
    }
}

/// The database, and the names of the options that were ignored.
pub fn database(text: &str, on_heroku: bool) -> Result<(Database, Vec<&'static str>), String> {
    // Some hosts print the whole command.
    let text = text.strip_prefix("psql ").map(unquoted).unwrap_or(text);
    if let Some(file) = text.strip_prefix("sqlite:") {
        return Ok((sqlite(file)?, Vec::new()));
    }
    if text.starts_with("jdbc:") {
        return Err(
            "is for Java: write postgres://USER:PASSWORD@HOST:PORT/DATABASE instead of jdbc:…".to_owned()
        );
    }
    let scheme = text.split_once(':').map(|(scheme, _)| scheme).unwrap_or_default();
    let scheme = scheme.split_once('+').map_or(scheme, |(scheme, _driver)| scheme);
    if !matches!(scheme, "postgres" | "postgresql") {
        return Err("is neither sqlite://FILE nor postgres://…".to_owned());
    }
    let (server, ignored) = postgres::parse(text, on_heroku)?;
    Ok((Database::Postgres(Box::new(server)), ignored))
}

fn sqlite(rest: &str) -> Parsed<Database> {
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    match rest {
        "" => Err("names no file (sqlite:///data/casebridge.db)"),
        ":memory:" => Err("means memory, where nothing outlives a restart: name a file"),
        path if path.contains('?') => Err("has options after `?`, and there are none for SQLite"),
        path => Ok(Database::Sqlite(path.into())),
    }
}
