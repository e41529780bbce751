//! Reads the feeds of our subscriptions: at the start, every few minutes, and soon after a push was refused for
//! a fault of ours. An event that is both pushed and read is one delivery.

mod status;
mod walk;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{Notify, watch};
use tracing::{debug, error, info};

use crate::alert;
use crate::config::{self, Route};
use crate::event::moment;
use crate::intake::{Intake, NotStored, Notification, Origin};
use crate::khoros::{Khoros, Refusal};
use crate::subscription::Feeds;
pub use status::PullStatus;
use status::StatusLog;
use walk::{Event, Mark, Walk};

const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A push that was refused is seldom alone, and one reading brings them all.
const AFTER_A_REFUSAL: Duration = Duration::from_secs(5);
/// Nothing published says that events keep their order, so each feed is read whole this often.
const WHOLE_EVERY: Duration = Duration::from_secs(86_400);
/// In memory, an event of many items is several times as long as in the feed: beyond this, events of one page
/// are not stored together.
const TOGETHER_BYTES: usize = 8 << 20;
/// A longer feed is read on at the next reading, so that the others have their turn.
const PAGES: usize = 1000;
/// If more events of one reading are too long by themselves, the server answers too much whatever it is asked.
const SKIPPED: usize = 3;

/// What there is to read, and what asks for a reading.
pub struct Sources {
    pub khoros: Khoros,
    pub routes: Vec<Route>,
    pub feeds: watch::Receiver<Feeds>,
    /// Notified after each push that was refused for a fault of ours.
    pub missed: Arc<Notify>,
}

/// Reads all feeds, one after the other.
pub struct Pull {
    sources: Sources,
    intake: Intake,
    every: Duration,
    feeds: HashMap<String, Feed>,
    log: StatusLog,
    status: watch::Sender<PullStatus>,
}

/// What is known of one feed.
#[derive(Default)]
struct Feed {
    mark: Mark,
    whole_at: Option<Instant>,
    /// A reading that was interrupted, with which the next one goes on.
    unfinished: Option<Walk>,
}

/// Why a reading ended early.
#[derive(Debug)]
enum Failure {
    NotStored,
    Khoros(Refusal),
}

impl From<NotStored> for Failure {
    fn from(_: NotStored) -> Failure {
        Failure::NotStored
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure::Khoros(refusal)
    }
}

impl Pull {
    pub fn new(
        sources: Sources,
        intake: Intake,
        config: &config::KhorosSettings,
        status: watch::Sender<PullStatus>,
    ) -> Pull {
        Pull {
            sources,
            intake,
            every: config.poll_every,
            feeds: HashMap::new(),
            log: StatusLog::new(config.mode, Instant::now()),
            status,
        }
    }

    /// Runs for ever.
    pub async fn run(mut self) {
        let mut failures = 0;
        self.wait().await;
        loop {
            let (status, failure) = self.read_all().await;
            self.log.log(&status, Instant::now());
            self.status.send_replace(status);
            match failure {
                None => {
                    failures = 0;
                    self.wait().await;
                }
                // Nothing hastens the next try.
                Some(failure) => {
                    tokio::time::sleep(wait_after(&failure, failures, self.every)).await;
                    failures += 1;
                }
            }
        }
    }

    /// Waits until the next reading is due: by the clock, because there is another feed, or because a push was
    /// refused.
    async fn wait(&mut self) {
        let by_clock = Instant::now() + self.every;
        let until = tokio::select! {
            () = tokio::time::sleep_until(by_clock.into()) => return,
            () = changed(&mut self.sources.feeds) => return,
            () = self.sources.missed.notified() => by_clock.min(Instant::now() + AFTER_A_REFUSAL),
        };
        tokio::time::sleep_until(until.into()).await;
    }

    /// Reads each feed, even if another fails, unless the failure concerns all of them.
    async fn read_all(&mut self) -> (PullStatus, Option<Failure>) {
        let feeds = self.sources.feeds.borrow_and_update().clone();
        self.feeds.retain(|uuid, _| feeds.values().flatten().any(|known| known == uuid));
        let (mut worst, mut failed) = (PullStatus::Pending, None);
        for route in self.sources.routes.clone() {
            let Some(uuids) = feeds.get(&route.name) else { continue };
            if uuids.is_empty() {
                worst = worst.max(PullStatus::Unavailable);
            }
            for uuid in uuids {
                let read = self.read(&route, uuid).await;
                worst = worst.max(status_of(&read));
                match read {
                    Ok(()) | Err(Failure::Khoros(Refusal::NotOffered)) => {}
                    Err(failure @ (Failure::NotStored | Failure::Khoros(Refusal::Throttled(_)))) => {
                        return (worst, Some(failure));
                    }
                    Err(failure) => failed = Some(failure),
                }
            }
        }
        (worst, failed)
    }

    async fn read(&mut self, route: &Route, uuid: &str) -> Result<(), Failure> {
        let mut feed = self.feeds.remove(uuid).unwrap_or_default();
        if feed.whole_at.is_none_or(|at| at.elapsed() >= WHOLE_EVERY) {
            feed = Feed { whole_at: Some(Instant::now()), ..Feed::default() };
        }
        let mut walk = feed.unfinished.take().unwrap_or_else(|| Walk::new(feed.mark));
        let mut new = 0;
        let read = self.read_pages(route, uuid, &mut walk, &mut new).await;
        match (new, &read) {
            (0, Err(_)) => {}
            (0, Ok(())) => {
                debug!(event = "feed_read", route = route.name, new, "read nothing new from the feed");
            }
            _ => info!(
                event = "feed_read",
                route = route.name,
                new,
                "read {new} event(s) from the feed that no push had brought"
            ),
        }
        match walk.next() {
            None => feed.mark = walk.mark(),
            Some(_) => feed.unfinished = Some(walk),
        }
        self.feeds.insert(uuid.to_owned(), feed);
        read
    }

    async fn read_pages(
        &self,
        route: &Route,
        uuid: &str,
        walk: &mut Walk,
        new: &mut usize,
    ) -> Result<(), Failure> {
        let mut skipped = 0;
        for _ in 0..PAGES {
            let Some(page) = walk.next() else { return Ok(()) };
            match self.sources.khoros.feed(uuid, page.offset, page.limit).await {
                Ok(events) => self.take(route, events, walk, new).await?,
                // What is beyond the end need not be a list.
                Err(Refusal::NotOffered) if page.offset > 0 => walk.ended(),
                Err(Refusal::TooLarge) if page.limit > 1 => walk.ask_for_less(),
                Err(Refusal::TooLarge) if skipped < SKIPPED => {
                    skipped += 1;
                    let offset = walk.skip();
                    error!(
                        event = "feed_event_skipped",
                        alert = alert::KHOROS_PULL,
                        route = route.name,
                        offset,
                        "skipped the event at offset {offset} of the feed: it is longer than 16 MiB, or nests too \
                         deeply"
                    );
                }
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Ok(())
    }

    /// Stores the events of a page.
    async fn take(
        &self,
        route: &Route,
        events: Vec<Value>,
        walk: &mut Walk,
        new: &mut usize,
    ) -> Result<(), Failure> {
        let (mut page, mut together, mut bytes) = (Vec::new(), Vec::new(), 0);
        for event in events {
            // It is JSON already.
            let notification =
                self.intake.read(route, event.to_string().as_bytes(), Origin::Feed).unwrap_or_default();
            page.push(Event { id: id_of(&notification), made: moment::read(&event["createdDate"]) });
            bytes += notification.bytes();
            together.push(notification);
            if bytes > TOGETHER_BYTES {
                *new += self.intake.store(std::mem::take(&mut together), Origin::Feed).await?;
                bytes = 0;
            }
        }
        *new += self.intake.store(together, Origin::Feed).await?;
        walk.took(&page);
        Ok(())
    }
}

fn status_of(read: &Result<(), Failure>) -> PullStatus {
    match read {
        Ok(()) => PullStatus::Available,
        Err(Failure::Khoros(Refusal::NotOffered)) => PullStatus::Unavailable,
        Err(Failure::Khoros(refusal)) => PullStatus::Failing(refusal.to_string()),
        Err(Failure::NotStored) => {
            PullStatus::Failing("the events that were read cannot be stored".to_owned())
        }
    }
}

/// How long to wait after the nth failure in a row, from 0 on.
fn wait_after(failure: &Failure, nth: u32, every: Duration) -> Duration {
    let doubled = (FIRST_WAIT * 2u32.pow(nth.min(10))).min(LONGEST_WAIT);
    match failure {
        Failure::NotStored => doubled,
        Failure::Khoros(Refusal::Throttled(wait)) => wait.unwrap_or_default().max(doubled),
        Failure::Khoros(_) => doubled.min(every),
    }
}

/// An event that comes again in another page is the same.
fn id_of(notification: &Notification) -> u64 {
    let mut hasher = DefaultHasher::new();
    notification.identities().for_each(|identity| identity.hash(&mut hasher));
    hasher.finish()
}

/// Waits for ever if there is nobody left who could report a change.
async fn changed(feeds: &mut watch::Receiver<Feeds>) {
    if feeds.changed().await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_tried_again_less_and_less_often() {
        let seconds = |failure: Failure, every: u64| {
            let wait = |nth| wait_after(&failure, nth, Duration::from_secs(every)).as_secs();
            (0..6).map(wait).collect::<Vec<u64>>()
        };
        assert_eq!(seconds(Failure::NotStored, 1), [5, 10, 20, 40, 60, 60]);
        assert_eq!(seconds(Refusal::Html(200).into(), 300), [5, 10, 20, 40, 60, 60]);
        assert_eq!(seconds(Refusal::Html(200).into(), 30), [5, 10, 20, 30, 30, 30]);
        assert_eq!(seconds(Refusal::Throttled(None).into(), 1), [5, 10, 20, 40, 60, 60]);
        let asked = Refusal::Throttled(Some(Duration::from_secs(30)));
        assert_eq!(seconds(asked.into(), 1), [30, 30, 30, 40, 60, 60]);
    }
}
