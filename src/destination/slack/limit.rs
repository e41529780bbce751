//! Held deliveries: their channel is paused, or has `SLACK_MAX_PER_MINUTE` new cases in this minute, in all processes on
//! the database together. Replies go on.

use std::time::{Duration, Instant};

use tracing::{error, info};

use super::{STORM, Slack};
use crate::alert::Alarm;
use crate::delivery::Outcome;
use crate::ledger::{Memos, StorageError};

const MINUTE: Duration = Duration::from_secs(60);
/// Held deliveries are woken. This is for the case that no process does.
const FALLBACK: Duration = Duration::from_secs(24 * 3600);
/// How many deliveries of a route are woken at once: more than their channel takes until the next time.
const WINDOW: i64 = 10;

/// The limits that hold deliveries back: the first words of the reasons.
pub const LIMITS: &[&str] = &["case_limit", "channel_pause"];

pub(super) fn held_by_pause(reason: &str) -> Outcome {
    held(&format!("channel pause until it takes messages again: {reason}"))
}

fn held(reason: &str) -> Outcome {
    Outcome::held(reason, FALLBACK.mul_f64(1.0 + fastrand::f64()))
}

impl Slack {
    /// Holds back a new case if its channel has had enough of them, or takes its place. Held ones go first.
    pub(super) async fn hold_new(
        &self,
        memos: &Memos,
        channel: &str,
        delivery: &str,
        is_first_try: bool,
    ) -> Result<Option<Outcome>, StorageError> {
        let most = self.settings.max_per_minute;
        let goes_last = is_first_try && self.storms.lock().contains_key(channel);
        if most == 0 || !goes_last && memos.take_place(&places(channel), delivery, most, MINUTE).await? {
            return Ok(None);
        }
        let alarm = || Alarm::new(memos.alerts(), STORM, channel);
        self.storms.lock().entry(channel.to_owned()).or_insert_with(alarm);
        Ok(Some(held(&format!("case limit of {most} new cases a minute in {channel}"))))
    }

    /// Wakes held deliveries whose channel can take them, the oldest first, and reports those of a storm.
    pub async fn wake_held(&self, memos: &Memos) -> Result<(), StorageError> {
        let (now, most, held) = (Instant::now(), self.settings.max_per_minute, memos.held().await?);
        for (route, waiting) in &held {
            let channel = self.settings.targets.get(route).map_or("", |target| &target.channel);
            if !self.channels.is_open(channel, now) {
                continue;
            }
            let free = match (most, self.channels.is_paused(channel)) {
                (_, true) => 1,
                (0, false) => WINDOW,
                _ => memos.free_places(&places(channel), "", most, MINUTE).await?.min(WINDOW),
            };
            memos.wake_held(route, free).await?;
            self.report(channel, *waiting);
        }
        self.storms.lock().retain(|channel, alarm| {
            let is_of =
                |route: &String| self.settings.targets.get(route).is_some_and(|to| to.channel == *channel);
            let lasts = held.keys().any(is_of);
            if !lasts && alarm.clear() {
                info!(event = "slack_storm_over", channel, "no new case of {channel} waits any longer");
            }
            lasts
        });
        Ok(())
    }

    fn report(&self, channel: &str, waiting: i64) {
        let (mut storms, most) = (self.storms.lock(), self.settings.max_per_minute);
        let detail = format!("{waiting} new cases wait at {most} a minute");
        if storms.get_mut(channel).is_some_and(|alarm| alarm.raise(STORM, detail, Instant::now())) {
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
