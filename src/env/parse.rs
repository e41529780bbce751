//! Parsers of single values, in the forms that people paste. A reason never holds the value.

use std::collections::HashSet;
use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::de::value::{Error, StrDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer};
use url::{Host, Url};

/// The value, or the reason why it is invalid.
pub type Parsed<T> = Result<T, &'static str>;

const SECRET_MIN_LENGTH: usize = 16;
const SECRET_MIN_VARIETY: usize = 8;
/// A secret that is shorter is accepted, with advice.
const SECRET_GOOD_LENGTH: usize = 24;

/// Removes quotes, which `.env` files and web forms leave around values, and invisible marks of chats.
pub fn unquoted(value: &str) -> &str {
    let value = value.trim_matches(is_space);
    let bare = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    bare.unwrap_or(value).trim_matches(is_space)
}

/// Parses the name of a label, or an expression for some; removes invisible marks.
pub fn label(text: &str) -> Parsed<String> {
    self::text(text).map(|text| text.chars().filter(|c| !is_mark(*c)).collect())
}

fn is_space(c: char) -> bool {
    // Joiners are part of emoji and words, but neither begins nor ends with one.
    c.is_whitespace() || is_mark(c) || matches!(c, '\u{200c}' | '\u{200d}')
}

/// Whether it is a zero-width space, word joiner, byte order mark, soft hyphen or mark of direction.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'
        | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

pub fn text(text: &str) -> Parsed<String> {
    match text.chars().any(char::is_control) {
        true => Err("contains a control character"),
        false => Ok(text.to_owned()),
    }
}

/// Parses an enum whose variants serde reads in lower case.
pub fn variant<T: DeserializeOwned>(text: &str, reason: &'static str) -> Parsed<T> {
    let name = text.to_ascii_lowercase();
    let deserializer: StrDeserializer<Error> = name.as_str().into_deserializer();
    T::deserialize(deserializer).map_err(|_| reason)
}

/// Parses a number in a range.
pub fn number<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("is not a number from {} to {}", range.start(), range.end()))
    }
}

/// Parses a number of seconds in a range.
pub fn seconds(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<Duration, String> {
    let number = number(range);
    move |text| number(text).map(Duration::from_secs)
}

/// An address of this machine, as a URL or a socket has it: `0.0.0.0`, `::`, `[::1]`.
pub fn listen_address(text: &str) -> Parsed<IpAddr> {
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

pub fn percent(text: &str) -> Result<u32, String> {
    number(1..=100)(text.trim_end_matches('%').trim())
}

/// Parses minutes; `0.5` is half a minute.
pub fn minutes(text: &str) -> Parsed<Duration> {
    span(text, 60.0, 1440.0).ok_or("is not a number of minutes, at most 1440")
}

/// Parses hours, whole or not.
pub fn hours(text: &str) -> Parsed<Duration> {
    span(text, 3600.0, 8760.0).ok_or("is not a number of hours, at most 8760")
}

/// Parses up to `most` units of `unit` seconds each, and at least one second.
fn span(text: &str, unit: f64, most: f64) -> Option<Duration> {
    let number: f64 = text.parse().ok()?;
    let seconds = number * unit;
    (seconds >= 1.0 && number <= most).then(|| Duration::from_secs_f64(seconds))
}

/// Parses a date or a time, in UTC unless it has an offset: `2026-05-01`, `2026-05-01T08:00+02:00`.
pub fn time(text: &str) -> Parsed<Timestamp> {
    let time = ["", "Z", "T00:00Z"].iter().find_map(|end| format!("{text}{end}").parse().ok());
    time.ok_or("is not a date or a time, as in 2026-05-01 or 2026-05-01T08:00+02:00")
}

/// Parses a time, or how long ago it was: `7d`, `12h`, `30m`.
pub fn time_or_age(text: &str) -> Parsed<Timestamp> {
    const REASON: &str =
        "is neither a time, as in 2026-05-01, nor how long ago it was, as in 7d, 12h or 30m (minutes)";
    let unit = |end: char| match end {
        'd' => Some(86_400),
        'h' => Some(3600),
        'm' => Some(60),
        _ => None,
    };
    let mut chars = text.chars();
    let Some(unit) = chars.next_back().and_then(unit) else { return time(text).map_err(|_| REASON) };
    let count: u32 = chars.as_str().parse().map_err(|_| REASON)?;
    let span = Duration::from_secs(u64::from(count).saturating_mul(unit));
    Timestamp::now().checked_sub(span).map_err(|_| REASON)
}

pub fn schedule(text: &str) -> Parsed<Vec<Duration>> {
    const REASON: &str = "is not a list of seconds, as in 5,30,120 (1 to 50 waits, each at most a week)";
    let seconds = |wait: &str| wait.trim().parse().ok().filter(|seconds| *seconds <= 604_800);
    let waits: Option<Vec<u64>> = text.split(',').map(seconds).collect();
    let waits = waits.filter(|waits| waits.len() <= 50).ok_or(REASON)?;
    Ok(waits.into_iter().map(Duration::from_secs).collect())
}

/// Parses a token of a header, and removes a pasted `Bearer `.
pub fn token(text: &str) -> Parsed<SecretString> {
    let text = text.trim();
    let bare = match text.split_once(char::is_whitespace) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => rest.trim(),
        _ => text,
    };
    match !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(bare.into()),
        false => Err("is not a token: it contains spaces or characters that a header cannot carry"),
    }
}

/// Parses a token for one of casebridge's own endpoints.
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

/// Whether a secret is accepted, as by earlier versions, but should be replaced.
pub fn is_short_secret(secret: &SecretString) -> bool {
    secret.expose_secret().len() < SECRET_GOOD_LENGTH
}

/// Parses the address of an API or of this service, as [`url_with_query`]. Removes the query.
pub fn url(text: &str) -> Parsed<Url> {
    let mut url = url_with_query(text)?;
    url.set_query(None);
    Ok(url)
}

/// Parses an address: https, or http on loopback; no user. Removes the fragment.
pub fn url_with_query(text: &str) -> Parsed<Url> {
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
        return Err("contains a user name or password, which an address must not have");
    }
    let named = url.domain().is_none_or(|domain| domain.contains('.') || domain == "localhost");
    if !named {
        return Err("is not a full address: its host has no dot (https://acme.zendesk.com)");
    }
    url.set_fragment(None);
    Ok(url)
}

/// Parses an address that paths are appended to; removes such a path if it is already there.
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
