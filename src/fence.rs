//! The last check before a request that must not be sent twice: that the claim still holds.
//!
//! A machine can be suspended at any moment, and its timers with it. When it wakes up, another instance may
//! have sent the request already.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::delivery::{Doubt, Outcome, Reason};
use crate::inbox::{Claim, Inbox};
use crate::uptime::Uptime;

pub struct Fence<'a> {
    inbox: &'a Inbox,
    claim: &'a Claim,
    claimed: Uptime,
    lease: Duration,
    /// Set once something may have been sent.
    sent: AtomicBool,
}

impl<'a> Fence<'a> {
    /// Guards a delivery that was claimed at `claimed` for the length of `lease`.
    pub fn new(inbox: &'a Inbox, claim: &'a Claim, claimed: Uptime, lease: Duration) -> Fence<'a> {
        Fence { inbox, claim, claimed, lease, sent: AtomicBool::new(false) }
    }

    /// Checks the claim. Call it immediately before the first byte is sent.
    ///
    /// # Errors
    /// Nothing may be sent: the lease has expired, or the database does not answer.
    pub async fn pass(&self) -> Result<(), Outcome> {
        let wait = |reason: &str| {
            let (reason, doubt) = (Reason::new(reason), Doubt::None);
            Err(Outcome::Wait { reason, doubt, wait: Duration::from_secs(1) })
        };
        match self.inbox.is_ours(self.claim).await {
            Ok(true) if self.claimed.elapsed() < self.lease => {
                self.sent.store(true, Ordering::Relaxed);
                Ok(())
            }
            Ok(_) => wait("the lease expired before anything was sent"),
            Err(_) => wait("the database does not answer"),
        }
    }

    /// Whether something may have been sent.
    pub fn was_passed(&self) -> bool {
        self.sent.load(Ordering::Relaxed)
    }
}
