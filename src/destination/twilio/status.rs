//! The status of a text after Twilio accepted it: the note of its delivery, and what it says about our number.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tracing::{debug, error, info, warn};

use super::outcome::{FILTERED, described, is_of_sender};
use super::{SENDER, Twilio};
use crate::alert::{Alarm, Registry};
use crate::delivery::{Doubt, Outcome, Reason};
use crate::ledger::{Memos, Stopped, StorageError};

/// The scope of memos with texts whose status has yet to be read, by delivery.
const PENDING: &str = "status";
/// How long after sending a text casebridge reads its status.
const LATER: Duration = Duration::from_secs(60);
/// How many reads may fail.
const TRIES: u64 = 10;
/// After a refusal of the sending number, one text is sent each hour to see whether the refusal lasts.
const PROBE_EVERY: Duration = Duration::from_secs(3600);
/// The states of a message, in the order in which they follow each other.
const STATES: &[&str] = &[
    "accepted",
    "scheduled",
    "queued",
    "sending",
    "sent",
    "partially_delivered",
    "undelivered",
    "failed",
    "canceled",
    "delivered",
    "read",
];

/// Whether carriers refuse the sending number. While they do, texts wait.
#[derive(Default)]
pub struct SenderBlock(Mutex<Option<Block>>);

struct Block {
    reason: String,
    began: Timestamp,
    until: Instant,
    alarm: Alarm,
}

impl SenderBlock {
    pub(super) fn is_begun(&self) -> bool {
        self.0.lock().is_some()
    }

    /// Lets a text pass if the sending number is not refused, or if this text shows whether it still is.
    ///
    /// # Errors
    /// The outcome of a delivery that waits.
    pub(super) fn check(&self) -> Result<(), Stopped> {
        let now = Instant::now();
        let mut block = self.0.lock();
        match &mut *block {
            Some(Block { reason, until, .. }) if now < *until => {
                let reason = Reason { until_sent: true, ..Reason::alert(SENDER, reason.clone()) };
                Err(Outcome::Pause { reason, doubt: Doubt::None, retry_after: None }.into())
            }
            Some(block) => {
                block.until = now + PROBE_EVERY;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Makes the status of a text the note of its delivery, unless a later status is known. `error`: 0 without one.
    pub(super) async fn note(
        &self,
        memos: &Memos,
        delivery: &str,
        status: &str,
        error: u32,
    ) -> Result<(), StorageError> {
        let Some(place) = STATES.iter().position(|state| *state == status) else { return Ok(()) };
        let has_failed = matches!(status, "undelivered" | "failed");
        let note = match error {
            0 => status.to_owned(),
            code => format!("{status}: {}", described(code)),
        };
        loop {
            let Some(old) = memos.note_of(delivery).await? else { return Ok(()) };
            // Reports may come twice, and in any order.
            if place_of(old.as_deref()).is_some_and(|known| known >= place) {
                return Ok(());
            }
            if memos.replace_note(delivery, old.as_deref(), &note).await? {
                break;
            }
        }
        debug!(event = "text_status", delivery, status, "a text is {status}");
        if has_failed {
            warn!(event = "text_undelivered", delivery, code = error, "a text did not arrive: {note}");
        }
        match status {
            _ if has_failed && is_of_sender(error) => self.begin(&note, memos.alerts()),
            _ if has_failed && error == FILTERED => memos.alerts().happened(SENDER, "filtered", note),
            "delivered" | "read" => self.end(Timestamp::MAX),
            _ => {}
        }
        Ok(())
    }

    fn begin(&self, note: &str, alerts: &Registry) {
        let reason = format!("the sending number is refused: {note}");
        let until = Instant::now() + PROBE_EVERY;
        let mut alarm = Alarm::new(alerts, SENDER, "");
        alarm.raise(SENDER, reason.clone(), Instant::now());
        let mut block = self.0.lock();
        let began = block.as_ref().map_or_else(Timestamp::now, |block| block.began);
        if block.replace(Block { reason, began, until, alarm }).is_none() {
            error!(event = "sender_refused", alert = SENDER, "texts wait, one an hour is tried: {note}");
        }
    }

    /// Ends a block that is older than a text that passed.
    fn end(&self, text_sent: Timestamp) {
        if let Some(mut block) = self.0.lock().take_if(|block| block.began < text_sent) {
            block.alarm.clear();
            info!(event = "sender_accepted", "texts are delivered again");
        }
    }
}

/// The place of a note's status in [`STATES`].
fn place_of(note: Option<&str>) -> Option<usize> {
    let status = note?.split(':').next()?;
    STATES.iter().position(|state| *state == status)
}

impl Twilio {
    /// Schedules the status of a text to be read in a minute.
    pub(super) async fn ask_later(
        &self,
        memos: &Memos,
        delivery: &str,
        sid: &str,
    ) -> Result<(), StorageError> {
        let value = json!({ "sid": sid, "tries": 0, "at": Timestamp::now().as_millisecond() });
        memos.remember(PENDING, delivery, &value.to_string()).await?;
        memos.postpone(PENDING, delivery, LATER).await
    }

    /// Reads the status of the text that has been due longest. False: none is due.
    pub(super) async fn check_status(&self, memos: &Memos) -> Result<bool, StorageError> {
        // Until then, no other process reads it, and this one after a failure.
        let Some((delivery, value)) = memos.claim(PENDING, LATER).await? else { return Ok(false) };
        let mut value: Value = serde_json::from_str(&value).unwrap_or_default();
        let (sid, tries) = (value["sid"].as_str().unwrap_or_default(), value["tries"].as_u64().unwrap_or(0));
        match self.get(self.account_address(&format!("/Messages/{sid}"))).await {
            Ok(message) => {
                let message = message.unwrap_or_default();
                let status = message["status"].as_str().unwrap_or_default();
                let error = message["error_code"].as_u64().and_then(|code| u32::try_from(code).ok());
                self.sender.note(memos, &delivery, status, error.unwrap_or(0)).await?;
                // Some carriers report nothing after this.
                if status == "sent"
                    && let Some(at) = value["at"].as_i64()
                {
                    self.sender.end(Timestamp::from_millisecond(at).unwrap_or_default());
                }
                memos.forget(PENDING, &delivery).await?;
            }
            Err(_) if tries + 1 >= TRIES => memos.forget(PENDING, &delivery).await?,
            Err(_) => {
                value["tries"] = json!(tries + 1);
                memos.remember(PENDING, &delivery, &value.to_string()).await?;
                memos.postpone(PENDING, &delivery, LATER).await?;
            }
        }
        Ok(true)
    }
}
