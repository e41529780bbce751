//! A destination's access to the storage while it works on one delivery. The destination never sees the inbox.
//!
//! A machine can be suspended at any moment, and its timers with it. When it wakes up, another instance may have
//! sent the request already. So the claim is checked once more immediately before the first byte.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::alert::Registry;
use crate::delivery::{Claim, Doubt, History, Origin, Outcome, Reason, Response};
use crate::inbox::Inbox;
use crate::item::{Item, link_fingerprint};
use crate::source;
use crate::uptime::Uptime;

/// The storage, as one attempt at a delivery sees it.
pub struct Ledger<'a> {
    inbox: &'a Inbox,
    claim: &'a Claim,
    claimed: Uptime,
    lease: Duration,
    alerts: &'a Registry,
    /// Set once something may have been sent.
    sent: AtomicBool,
    record: Mutex<Record>,
}

/// What an attempt did, as it is recorded.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The answer to the last request.
    pub response: Option<Response>,
    /// Whether a lookup found the result of an earlier request.
    pub found: Option<bool>,
    /// The fingerprint of the item's link.
    pub link: Option<String>,
}

/// Why an attempt stopped early.
#[derive(Debug)]
pub enum Stopped {
    Outcome(Outcome),
    /// The outcome says nothing about the destination: no request was sent.
    Unasked(Outcome),
    /// Another process may have claimed the delivery.
    LeaseExpired,
    Storage(sqlx::Error),
}

impl From<Outcome> for Stopped {
    fn from(outcome: Outcome) -> Stopped {
        Stopped::Outcome(outcome)
    }
}

impl From<sqlx::Error> for Stopped {
    fn from(error: sqlx::Error) -> Stopped {
        Stopped::Storage(error)
    }
}

impl<'a> Ledger<'a> {
    /// Creates the ledger of a delivery that was claimed just now, for `lease`.
    pub fn new(inbox: &'a Inbox, claim: &'a Claim, lease: Duration, alerts: &'a Registry) -> Ledger<'a> {
        let (claimed, sent, record) = (Uptime::now(), AtomicBool::new(false), Mutex::default());
        Ledger { inbox, claim, claimed, lease, alerts, sent, record }
    }

    /// Where the destination reports alerts that are not part of an outcome.
    pub fn alerts(&self) -> &Registry {
        self.alerts
    }

    /// Returns the results of earlier deliveries of the case to this destination.
    ///
    /// # Errors
    /// [`Stopped::Storage`]
    pub async fn history(&self) -> Result<History, Stopped> {
        Ok(self.inbox.history(self.claim).await?)
    }

    /// Whether a later delivery of the case and the route waits, which brings the same or a newer state.
    ///
    /// # Errors
    /// [`Stopped::Storage`]
    pub async fn is_superseded(&self) -> Result<bool, Stopped> {
        Ok(self.inbox.is_superseded(self.claim).await?)
    }

    /// Whether the item comes from a feed and is older than the database: another database may have delivered it.
    ///
    /// # Errors
    /// [`Stopped::Storage`]
    pub async fn is_history(&self, item: &Item) -> Result<bool, Stopped> {
        let (Origin::Feed, Some(first_run)) = (self.claim.origin, self.inbox.first_run().await?) else {
            return Ok(false);
        };
        Ok(item.event_made.is_none_or(|made| made.as_millisecond() < first_run))
    }

    /// Stores the bytes of a request with a memo, before the first byte goes out. `claim` is the attempt's claim, with
    /// a new revision if the bytes have changed.
    ///
    /// # Errors
    /// [`Stopped::LeaseExpired`] and [`Stopped::Storage`]
    pub async fn freeze(&self, claim: &Claim, bytes: &str, memo: &str) -> Result<(), Stopped> {
        match self.inbox.freeze(claim, bytes, memo).await? {
            true => Ok(()),
            false => Err(Stopped::LeaseExpired),
        }
    }

    /// Stores a memo about a request without its bytes, so that a later attempt that finds the request done knows what
    /// it was.
    ///
    /// # Errors
    /// As [`Ledger::freeze`].
    pub async fn note(&self, memo: &str) -> Result<(), Stopped> {
        match self.inbox.note(self.claim, memo).await? {
            true => Ok(()),
            false => Err(Stopped::LeaseExpired),
        }
    }

    /// Records that the delivery was found done under this reference. False: the reference is another delivery's.
    ///
    /// # Errors
    /// [`Stopped::Storage`]
    pub async fn take_reference(&self, reference: &str) -> Result<bool, Stopped> {
        Ok(self.inbox.take_reference(self.claim, reference).await?)
    }

    /// Checks the claim. Call it immediately before the first byte is sent: from then on, the request
    /// may have been sent.
    ///
    /// # Errors
    /// Nothing may be sent: the lease has expired, or the database does not answer.
    pub async fn sending(&self) -> Result<(), Outcome> {
        let wait = |reason: &str| {
            let (reason, doubt) = (Reason::new(reason), Doubt::None);
            Err(Outcome::Wait { reason, doubt, wait: Duration::from_secs(1) })
        };
        match self.inbox.is_ours(self.claim).await {
            Ok(true) if self.claimed.elapsed() < self.lease => {
                self.sent.store(true, Ordering::Relaxed);
                // It would be taken for the answer to this request, which may never come.
                self.record.lock().response = None;
                Ok(())
            }
            Ok(_) => wait("the lease expired before anything was sent"),
            Err(_) => wait("the database does not answer"),
        }
    }

    /// Whether something may have been sent.
    pub fn has_sent(&self) -> bool {
        self.sent.load(Ordering::Relaxed)
    }

    /// Records what the attempt is about.
    pub fn is_about(&self, item: &Item) {
        self.record.lock().link = item.link.as_deref().map(link_fingerprint);
    }

    /// Records the answer to a request.
    pub fn answered(&self, response: Response) {
        self.record.lock().response = Some(response);
    }

    /// Records whether a lookup found the result of an earlier request.
    pub fn looked_up(&self, found: bool) {
        self.record.lock().found = Some(found);
    }

    /// Returns what the attempt did so far.
    pub fn record(&self) -> Record {
        self.record.lock().clone()
    }

    /// Returns the destination's memos.
    pub fn memos(&self) -> Memos {
        Memos::new(self.inbox.clone(), &self.claim.destination, self.alerts.clone())
    }
}

/// Small values that a destination stores separately from its deliveries, in its own scopes.
#[derive(Clone)]
pub struct Memos {
    inbox: Inbox,
    destination: String,
    alerts: Registry,
}

/// An error of the storage.
pub type StorageError = sqlx::Error;

impl Memos {
    pub fn new(inbox: Inbox, destination: &str, alerts: Registry) -> Memos {
        Memos { inbox, destination: destination.to_owned(), alerts }
    }

    /// As [`Ledger::alerts`].
    pub fn alerts(&self) -> &Registry {
        &self.alerts
    }

    /// The name of the destination.
    pub fn destination(&self) -> &str {
        &self.destination
    }

    pub async fn recall(&self, scope: &str, key: &str) -> Result<Option<String>, StorageError> {
        let memo = self.inbox.recall(&self.scope(scope), key).await?;
        Ok(memo.map(|(value, _)| value))
    }

    pub async fn remember(&self, scope: &str, key: &str, value: &str) -> Result<(), StorageError> {
        self.inbox.remember(&self.scope(scope), key, value).await
    }

    pub async fn forget(&self, scope: &str, key: &str) -> Result<(), StorageError> {
        self.inbox.forget(&self.scope(scope), key).await
    }

    /// Forgets the values of a scope that are older than `age`.
    pub async fn forget_older(&self, scope: &str, age: Duration) -> Result<(), StorageError> {
        self.inbox.forget_older(&self.scope(scope), age).await.map(drop)
    }

    /// Returns the key and the value that have been due longest. No other instance gets them within `lease`.
    pub async fn claim(
        &self,
        scope: &str,
        lease: Duration,
    ) -> Result<Option<(String, String)>, StorageError> {
        self.inbox.claim_memo(&self.scope(scope), lease).await
    }

    /// Makes a value due again after `wait`.
    pub async fn postpone(&self, scope: &str, key: &str, wait: Duration) -> Result<(), StorageError> {
        self.inbox.postpone_memo(&self.scope(scope), key, wait).await
    }

    /// Takes one of `most` places in a scope for a delivery; see [`Inbox::take_place`].
    pub async fn take_place(
        &self,
        scope: &str,
        delivery: &str,
        most: u32,
        period: Duration,
    ) -> Result<bool, StorageError> {
        self.inbox.take_place(&self.scope(scope), delivery, most.into(), period).await
    }

    /// Returns how many of `most` places in a scope are free; that of the delivery counts as free.
    pub async fn free_places(
        &self,
        scope: &str,
        delivery: &str,
        most: u32,
        period: Duration,
    ) -> Result<i64, StorageError> {
        self.inbox.free_places(&self.scope(scope), delivery, most.into(), period).await
    }

    /// Counts the held deliveries ([`Outcome::held`]) to this destination, by route.
    pub async fn held(&self) -> Result<BTreeMap<String, i64>, StorageError> {
        let mut routes = BTreeMap::new();
        for held in self.inbox.held().await?.into_iter().filter(|held| held.destination == self.destination) {
            *routes.entry(held.route).or_default() += held.waiting;
        }
        Ok(routes)
    }

    /// Makes the oldest held deliveries of a route due now, up to `limit` of them.
    pub async fn wake_held(&self, route: &str, limit: i64) -> Result<(), StorageError> {
        self.inbox.wake_held(&self.destination, route, limit).await
    }

    /// Returns the delivery to this target that has this reference: its identity.
    pub async fn find_reference(
        &self,
        target: &str,
        reference: &str,
    ) -> Result<Option<String>, StorageError> {
        self.inbox.find_reference(&self.destination, target, reference).await
    }

    /// Returns the note of a delivery, such as the status of a text; the outer `None`: there is no such delivery.
    pub async fn note_of(&self, delivery: &str) -> Result<Option<Option<String>>, StorageError> {
        self.inbox.delivery_note(&self.destination, delivery).await
    }

    /// Replaces the note of a delivery. False: it is no longer `old`.
    pub async fn replace_note(
        &self,
        delivery: &str,
        old: Option<&str>,
        new: &str,
    ) -> Result<bool, StorageError> {
        self.inbox.replace_note(&self.destination, delivery, old, new).await
    }

    /// The route and the item of a delivery to this destination; `None` once its texts were erased.
    pub async fn item(&self, identity: &str) -> Result<Option<(String, Item)>, StorageError> {
        let delivery = self.inbox.payload(identity, &self.destination).await?;
        Ok(delivery.and_then(|(route, payload)| Some((route, source::item(&payload).ok()?))))
    }

    fn scope(&self, scope: &str) -> String {
        format!("{}.{scope}", self.destination)
    }
}
