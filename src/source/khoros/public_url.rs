//! Whether the public address leads to this service: we call it before we give it to Khoros.
//!
//! `GET {public address}/healthz/instance` answers with the random id of this deployment, which its processes
//! share in the database. The id is no secret and opens nothing.

use std::time::Duration;

use reqwest::StatusCode;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};
use url::Url;

use crate::alert::Reminder;
use crate::connect;
use crate::exchange;

/// The path of the id.
pub const PATH: &str = "/healthz/instance";

const TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Longer than the id; the rest of an unknown page is not read.
const BODY_LIMIT: usize = 1 << 10;

/// Why our answer did not come back.
#[derive(Debug, thiserror::Error)]
pub enum Unreached {
    #[error("{}", connect::reason(.0))]
    NoAnswer(#[from] reqwest::Error),
    #[error("an answer of status {0}")]
    Status(u16),
    /// An answer of status 200 from another service.
    #[error("an answer from something else, or from a casebridge on another database")]
    NotOurs,
}

/// Calls the public address.
pub struct Probe {
    /// It must not follow redirects, since Khoros may not follow them either.
    pub http: reqwest::Client,
    /// The public address.
    pub url: Url,
    /// The variable that the address came from.
    pub variable: &'static str,
    /// The command line that sets another address.
    pub remedy: &'static str,
    pub deployment_id: String,
}

impl Probe {
    /// Tries once, for 5 s at most.
    ///
    /// # Errors
    /// Why our answer did not come back.
    pub async fn attempt(&self) -> Result<(), Unreached> {
        let url = exchange::address(&self.url, PATH);
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
        match body.trim_ascii() == self.deployment_id.as_bytes() {
            true => Ok(()),
            false => Err(Unreached::NotOurs),
        }
    }

    /// Returns once the address leads here, or after `limit`. Hosts forward requests only some seconds after
    /// we listen, so the first tries may fail.
    pub async fn wait_until_reached(&self, limit: Duration) {
        if limit.is_zero() {
            return;
        }
        let Probe { url, variable, remedy, .. } = self;
        let (give_up, limit_secs) = (Instant::now() + limit, limit.as_secs());
        let mut wait = FIRST_WAIT;
        let mut reminder = Reminder::default();
        loop {
            let Err(answer) = self.attempt().await else {
                let url = url.as_str();
                return info!(event = "public_url_reached", url, "the public address {url} leads here");
            };
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // No error: some networks cannot call their own public address.
                return warn!(
                    event = "public_url_given_up",
                    variable,
                    "{url} (from {variable}) did not lead back here within {limit_secs} s: {answer}. Subscribing \
                     anyway; if no notifications arrive, set it and restart: {remedy}"
                );
            }
            if reminder.is_due(&answer.to_string(), std::time::Instant::now()) {
                warn!(
                    event = "public_url_unreachable",
                    variable,
                    "{url} (from {variable}) does not lead here yet: {answer}. Subscribing when it does, or in \
                     {limit_secs} s. If it is wrong, set it and restart: {remedy}"
                );
            }
            sleep(wait.min(left)).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }
}
