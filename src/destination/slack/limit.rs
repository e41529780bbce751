//! Held deliveries: their channel is paused, or has `SLACK_MAX_PER_MINUTE` new cases in this minute, in all processes on
//! the database together. Replies go on.

use std::time::{Duration, Instant};

use tracing::{error, info};

use super::{STORM, Slack};
use crate::delivery::Outcome;
use crate::destination::held::hold;
use crate::ledger::{Memos, StorageError};

const MINUTE: Duration = Duration::from_secs(60);
/// How many deliveries of a route are woken at once: more than their channel takes until the next time.
const WINDOW: i64 = 10;

/// The limits that hold deliveries back: the first words of the reasons.
pub const LIMITS: &[&str] = &["case_limit", "channel_pause"];

impl Slack {
    /// Holds back a delivery until its channel takes messages again.
    pub(super) fn hold_by_pause(&self, reason: &str) -> Outcome {
        self.held.check_soon();
        hold(&format!("channel pause until it takes messages again: {reason}"))
    }

    /// Takes a place for a new case in its channel, or holds it back if none is free. Cases that are held go first.
    pub(super) async fn hold_new(
        &self,
        memos: &Memos,
        channel: &str,
        delivery: &str,
        is_first_try: bool,
    ) -> Result<Option<Outcome>, StorageError> {
        let most = self.settings.max_per_minute;
        let goes_last = is_first_try && self.held.has(channel);
        if most == 0 || !goes_last && memos.take_place(&places(channel), delivery, most, MINUTE).await? {
            return Ok(None);
        }
        self.held.begin(channel, memos.alerts());
        Ok(Some(hold(&format!("case limit of {most} new cases a minute in {channel}"))))
    }

    /// Wakes held deliveries whose channel can take them, the oldest first, and reports those of a storm.
    pub async fn wake_held(&self, memos: &Memos) -> Result<(), StorageError> {
        let (started, most) = (Instant::now(), self.settings.max_per_minute);
        if !self.held.is_due(started) {
            return Ok(());
        }
        let held = memos.held().await?;
        let mut channels = Vec::new();
        for (route, waiting) in &held {
            let channel = self.settings.targets.get(route).map_or("", |target| &target.channel);
            channels.push(channel);
            if !self.channels.is_open(channel, started) {
                continue;
            }
            let free = match (most, self.channels.is_paused(channel)) {
                (_, true) => 1,
                (0, false) => WINDOW,
                _ => memos.free_places(&places(channel), "", most, MINUTE).await?.min(WINDOW),
            };
            if free > 0 {
                memos.wake_held(route, free).await?;
            }
            if self.held.has(channel) {
                self.report(channel, *waiting, memos);
            }
        }
        for channel in self.held.checked(channels, started) {
            info!(event = "slack_storm_over", channel, "no new case of {channel} waits any longer");
        }
        Ok(())
    }

    fn report(&self, channel: &str, waiting: i64, memos: &Memos) {
        let most = self.settings.max_per_minute;
        let detail = format!("{waiting} new cases wait at {most} a minute");
        if self.held.raise(channel, STORM, detail, memos.alerts()) {
            error!(
                event = "slack_storm",
                alert = STORM,
                channel,
                waiting,
                "{waiting} new cases wait at {most} a minute in {channel}: casebridge list --state waiting --destination slack"
            );
        }
    }
}

/// The scope of memos with the new cases of a channel in the last minute, one place for each.
fn places(channel: &str) -> String {
    format!("new.{channel}")
}
