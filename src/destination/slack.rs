//! Slack: one message for each case in its channel, and a reply in its thread for each later change, once each.
//!
//! Slack has no idempotency key. So each message carries the hash of its delivery, and a message that may have been
//! posted is looked up in the channel before it is posted again. Reference: <https://docs.slack.dev>.

mod answer;
mod api;
mod attempt;
mod check;
mod limit;
mod message;
mod settings;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::channels::{Channels, Turn};
use super::held::{self, Held};
use super::{Alerts, Guarantee, Job, Ready, log_sent};
use crate::alert::codes;
use crate::delivery::{Action, Claim, Doubt, Outcome, Reason};
use crate::ledger::{Ledger, Memos, Stopped, StorageError};

pub use check::rows;
pub use message::escape;
pub use settings::{SECTIONS, Settings, is_configured, read};

pub const NAME: &str = "slack";
pub const GUARANTEE: Guarantee = Guarantee::Once;
pub const CACHES: &[&str] = &[];
pub use limit::LIMITS;
/// The number of concurrent deliveries; each channel has one at a time.
pub const IN_FLIGHT: usize = 8;
pub const ALERTS: Alerts = Alerts { down: DOWN, refuses: REFUSES };

codes! {
    /// Slack has not been usable for minutes.
    DOWN = "slack_down";
    /// Slack refuses one message after another for the same reason, or a permission is missing.
    REFUSES = "slack_refuses";
    /// Slack refuses the token.
    CREDENTIAL = "slack_credential";
    /// There is no Slack at `SLACK_API_URL`.
    ADDRESS = "slack_address";
    /// A channel takes no messages from casebridge.
    CHANNEL = "slack_channel";
    /// A channel has reached `SLACK_MAX_PER_MINUTE`, and further new cases wait.
    STORM = "slack_storm";
}

/// Slack takes one message a second in each channel.
const PACE: Duration = Duration::from_secs(1);

pub struct Slack {
    settings: Settings,
    http: reqwest::Client,
    timeout: Duration,
    channels: Channels,
    /// The channels whose new cases are held back, as far as this process knows.
    held: Held,
    /// The id of our app's bot.
    bot: OnceLock<String>,
}

impl Slack {
    /// `attempt_limit` is the longest that one delivery may take: several requests, one after the other.
    pub fn new(settings: Settings, http: reqwest::Client, attempt_limit: Duration) -> Slack {
        let timeout = attempt_limit / 5;
        let channels = Channels::new(NAME, CHANNEL, PACE);
        Slack { settings, http, timeout, channels, held: Held::new(STORM), bot: OnceLock::new() }
    }

    /// Attempts a delivery when its channel is free.
    ///
    /// # Errors
    /// It stopped early.
    pub async fn attempt(&self, job: &Job<'_>, ledger: &Ledger<'_>) -> Result<Outcome, Stopped> {
        let Some(target) = self.settings.targets.get(&job.claim.route) else {
            let reason = "its route no longer goes to Slack: add slack to the route again, and replay";
            return Ok(Outcome::Dead { reason: Reason::new(reason) });
        };
        match self.channels.take_turn(&target.channel, Instant::now()) {
            Turn::Now(turn) => self.attempt_in(target, turn, job, ledger).await,
            Turn::Paused(reason) => Ok(self.hold_by_pause(&reason)),
            Turn::Later(wait) => {
                Ok(Outcome::Later { reason: Reason::new("another message of its channel goes first"), wait })
            }
        }
    }

    /// Checks the token.
    pub async fn check_access(&self) -> Option<Result<(), Outcome>> {
        Some(self.bot().await.map(drop).map_err(|failure| failure.outcome(Doubt::None)))
    }

    /// Wakes held deliveries.
    pub async fn work_in_background(&self, _memos: &Memos) -> Result<Option<Duration>, StorageError> {
        Ok(Some(held::CHECK_EVERY))
    }

    pub fn log_done(&self, claim: &Claim, action: Action, reference: &str) {
        log_sent(claim, action, reference);
    }

    pub fn ready(&self, _now: Instant) -> Ready {
        Ready::Now(usize::MAX)
    }
}
