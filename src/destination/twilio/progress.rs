//! The steps of a delivery that takes several requests. The result of each step is stored before the next one begins,
//! so that another attempt continues where the last one stopped.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::outcome::Failure;
use crate::delivery::{Claim, Outcome};
use crate::ledger::{Ledger, Stopped};

/// The memo that is stored with the frozen request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// The text of the first message.
    pub text: String,
    /// The sending number.
    pub from: String,
    /// The SIDs that earlier steps have created, by step.
    pub sids: BTreeMap<String, String>,
    /// The step whose request may have been sent, without a known result.
    pub open: Option<String>,
}

impl Progress {
    /// Reads the memo of an earlier attempt.
    pub fn read(memo: Option<&str>) -> Progress {
        memo.and_then(|memo| serde_json::from_str(memo).ok()).unwrap_or_default()
    }

    /// The SID that a step has created; empty if it has not.
    pub fn sid(&self, step: &str) -> &str {
        self.sids.get(step).map(String::as_str).unwrap_or_default()
    }

    pub fn has(&self, step: &str) -> bool {
        self.sids.contains_key(step)
    }

    /// Whether a request of any step may have been sent.
    pub fn is_begun(&self) -> bool {
        !self.sids.is_empty() || self.open.is_some()
    }

    /// Whether a request of this step may have been sent, without a known result.
    pub fn is_open(&self, step: &str) -> bool {
        self.open.as_deref() == Some(step)
    }

    /// Stores that the request of a step is about to be sent.
    ///
    /// # Errors
    /// It must not be sent.
    pub async fn begin(&mut self, step: &str, ledger: &Ledger<'_>) -> Result<(), Stopped> {
        if !self.is_open(step) {
            self.open = Some(step.to_owned());
            self.store(ledger).await?;
        }
        Ok(ledger.sending().await?)
    }

    /// Stores the result of a step.
    pub async fn finish(&mut self, step: &str, sid: &str, ledger: &Ledger<'_>) -> Result<(), Stopped> {
        self.sids.insert(step.to_owned(), sid.to_owned());
        self.open = None;
        self.store(ledger).await
    }

    /// Stores that a step failed, if it is certain that its request had no effect.
    pub async fn fail(&mut self, failure: &Failure, ledger: &Ledger<'_>) -> Result<(), Stopped> {
        if failure.is_certain() {
            self.open = None;
            self.store(ledger).await?;
        }
        Ok(())
    }

    /// The outcome of a conversation that is complete. Its reference is what a step has created.
    pub async fn opened(&self, step: &str, claim: &Claim, ledger: &Ledger<'_>) -> Result<Outcome, Stopped> {
        let memos = ledger.memos();
        let old = memos.note_of(&claim.identity).await?.flatten();
        memos.replace_note(&claim.identity, old.as_deref(), "conversation opened").await?;
        Ok(Outcome::sent(self.sid(step).to_owned()))
    }

    pub fn to_memo(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    async fn store(&self, ledger: &Ledger<'_>) -> Result<(), Stopped> {
        ledger.note(&self.to_memo()).await
    }
}
