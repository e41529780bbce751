//! Whether the public address leads to us: we call ourselves there before we give it to Khoros.
//!
//! `GET {public address}/healthz/instance` is answered with the random id of this deployment, which its
//! processes share in the database: equal means this deployment. The id is no secret and opens nothing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};
use url::Url;

use crate::alert::Reminder;
use crate::connect::NoConnection;

/// The path that the id is served at.
pub const PATH: &str = "/healthz/instance";

const TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// More than the id takes, and little of a page that is something else.
const BODY_LIMIT: usize = 1 << 10;

/// The id of this deployment.
#[derive(Clone)]
pub struct Instance(Arc<str>);

impl Instance {
    pub fn new(id: &str) -> Instance {
        Instance(id.into())
    }

    pub fn id(&self) -> &str {
        &self.0
    }

    fn is_in(&self, answer: &[u8]) -> bool {
        answer.trim_ascii() == self.0.as_bytes()
    }
}

/// What is below the public address, which may have a path of its own.
pub fn below(public_url: &Url, path: &str) -> Url {
    let mut url = public_url.clone();
    url.set_path(&format!("{}{path}", public_url.path().trim_end_matches('/')));
    url
}

/// The public address, and what to advise if it does not lead to us.
pub struct Address {
    pub url: Url,
    /// The variable that it came from.
    pub variable: &'static str,
    /// The line that sets it right.
    pub remedy: &'static str,
}

/// What was seen in our place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreached {
    NoConnection(NoConnection),
    Timeout,
    /// The connection broke.
    Broken,
    /// An answer of this status.
    Status(u16),
    /// An answer of status 200, from something else.
    NotOurs,
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreached::NoConnection(why) => write!(f, "no connection: {why}"),
            Unreached::Timeout => write!(f, "no answer within {} s", TIMEOUT.as_secs()),
            Unreached::Broken => f.write_str("the connection broke"),
            Unreached::Status(status) => write!(f, "an answer of status {status}"),
            Unreached::NotOurs => f.write_str(
                "an answer that is not ours: something else is there, or a casebridge on another database",
            ),
        }
    }
}

impl From<reqwest::Error> for Unreached {
    fn from(error: reqwest::Error) -> Unreached {
        match &error {
            error if error.is_timeout() => Unreached::Timeout,
            error if error.is_connect() => Unreached::NoConnection(NoConnection::of(error)),
            _ => Unreached::Broken,
        }
    }
}

/// Looks whether the public address leads to us.
pub struct Probe {
    http: reqwest::Client,
    address: Address,
    instance: Instance,
}

impl Probe {
    /// The client must not follow redirects: Khoros is not known to, either.
    pub fn new(http: reqwest::Client, address: Address, instance: Instance) -> Probe {
        Probe { http, address, instance }
    }

    /// Tries once, for 5 s at most.
    ///
    /// # Errors
    /// What was seen in our place.
    pub async fn attempt(&self) -> Result<(), Unreached> {
        let url = below(&self.address.url, PATH);
        let mut response = self.http.get(url).timeout(TIMEOUT).send().await?;
        if response.status() != StatusCode::OK {
            return Err(Unreached::Status(response.status().as_u16()));
        }
        let mut body = Vec::new();
        while body.len() < BODY_LIMIT
            && let Some(chunk) = response.chunk().await?
        {
            body.extend_from_slice(&chunk);
        }
        if self.instance.is_in(&body) { Ok(()) } else { Err(Unreached::NotOurs) }
    }

    /// Returns when Khoros may be told of the address: we have reached ourselves there, or have tried
    /// for as long as `limit`. Hosts send us requests some seconds after we listen, so the first tries
    /// may well fail.
    pub async fn wait_until_reached(&self, limit: Duration) {
        if limit.is_zero() {
            return;
        }
        let give_up = Instant::now() + limit;
        let mut wait = FIRST_WAIT;
        let mut reminder = Reminder::default();
        loop {
            let Err(seen) = self.attempt().await else { return self.log_reached() };
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return self.log_given_up(seen, limit);
            }
            if reminder.is_due(&seen.to_string(), std::time::Instant::now()) {
                self.log_unreached(seen, limit);
            }
            sleep(wait.min(left)).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    fn log_reached(&self) {
        let url = self.address.url.as_str();
        info!(event = "public_url_reached", url, "the public address {url} leads here");
    }

    fn log_unreached(&self, seen: Unreached, limit: Duration) {
        let (Address { url, variable, remedy }, limit) = (&self.address, limit.as_secs());
        warn!(
            event = "public_url_unreachable",
            variable,
            "{url} (from {variable}) does not lead here yet: {seen}. Subscribing when it does, or in {limit} \
             s. If it is wrong, set it and restart: {remedy}"
        );
    }

    /// No error: there are networks that cannot call their own public address.
    fn log_given_up(&self, seen: Unreached, limit: Duration) {
        let (Address { url, variable, remedy }, limit) = (&self.address, limit.as_secs());
        warn!(
            event = "public_url_given_up",
            variable,
            "{url} (from {variable}) did not lead back here within {limit} s: {seen}. Subscribing anyway; if \
             no notifications arrive, set it and restart: {remedy}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_id_is_ours() {
        let ours = Instance::new("0123456789abcdef0123456789abcdef");
        assert!(ours.is_in(b"0123456789abcdef0123456789abcdef"));
        assert!(ours.is_in(b" 0123456789abcdef0123456789abcdef\r\n"));
        for other in ["", "ok", "0123456789ABCDEF0123456789ABCDEF", "0123456789abcdef0123456789abcdef0"] {
            assert!(!ours.is_in(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn a_path_of_the_address_stays() {
        for (url, expected) in [
            ("https://bridge.example.com", "https://bridge.example.com/healthz/instance"),
            ("https://bridge.example.com/base/", "https://bridge.example.com/base/healthz/instance"),
        ] {
            assert_eq!(below(&url.parse().unwrap(), PATH).as_str(), expected);
        }
    }
}
