//! Reads the feeds of our subscriptions: at the start, every few minutes, and soon after we refused a push
//! through a fault of ours. An event that is both pushed and read is one delivery.

mod reading;
mod status;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{Notify, watch};
use tracing::{debug, error, info};

use super::alerts;
use crate::delivery::Origin;
use crate::intake::Intake;
use crate::route::Route;
use crate::source::khoros::client::{Khoros, Refusal};
use crate::source::khoros::event::moment;
use crate::source::khoros::notification;
use crate::source::khoros::settings::KhorosSettings;
use crate::source::khoros::subscription::Feeds;
use reading::{FeedEvent, Part, Reading};
pub use status::PullStatus;
use status::StatusLog;

const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A refused push is seldom alone, and one reading brings them all.
const AFTER_A_REFUSAL: Duration = Duration::from_secs(5);
/// Nothing published says that events keep their order, so each feed is read whole this often.
const WHOLE_EVERY: Duration = Duration::from_secs(86_400);
/// In memory, an event of many items is several times as long as in the feed: events of one page that exceed
/// this many bytes are stored in several steps.
const TOGETHER_BYTES: usize = 8 << 20;
/// How many single events of one reading may be too long. With more, the server is at fault, not the event.
const MAX_SKIPPED: usize = 3;
/// The most pages of one feed in a row: then the other feeds have their turn.
const MAX_PAGES: usize = 1_000;

/// The feeds to read, and the request for an early reading.
pub struct Sources {
    pub khoros: Khoros,
    pub routes: Vec<Route>,
    pub feeds: watch::Receiver<Feeds>,
    /// Notified after each push that we refused through a fault of ours.
    pub missed: Arc<Notify>,
}

/// Reads all feeds, one after the other.
pub struct Pull {
    sources: Sources,
    intake: Intake,
    company: u64,
    every: Duration,
    /// By the id of the subscription.
    feeds: HashMap<String, Feed>,
    log: StatusLog,
    status: watch::Sender<PullStatus>,
}

/// The state of one feed, in memory only.
struct Feed {
    whole_at: Instant,
    /// The next reading, or the interrupted one.
    reading: Reading,
}

/// Why a reading ended early.
#[derive(Debug, thiserror::Error)]
enum ReadFailure {
    #[error("the events that were read cannot be stored")]
    NotStored,
    #[error(transparent)]
    Khoros(#[from] Refusal),
}

impl Pull {
    pub fn new(
        sources: Sources,
        intake: Intake,
        config: &KhorosSettings,
        status: watch::Sender<PullStatus>,
    ) -> Pull {
        let log = StatusLog::new(config.mode, Instant::now());
        let company = config.company_id;
        Pull { sources, intake, company, every: config.poll_every, feeds: HashMap::new(), log, status }
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
                Some(failure) => {
                    tokio::time::sleep(retry_wait(&failure, failures, self.every)).await;
                    failures += 1;
                }
            }
        }
    }

    /// Waits until the next reading is due: by the clock, because there is another feed, or because we
    /// refused a push.
    async fn wait(&mut self) {
        let by_clock = Instant::now() + self.every;
        let until = tokio::select! {
            () = tokio::time::sleep_until(by_clock.into()) => return,
            Ok(()) = self.sources.feeds.changed() => return,
            () = self.sources.missed.notified() => by_clock.min(Instant::now() + AFTER_A_REFUSAL),
        };
        tokio::time::sleep_until(until.into()).await;
    }

    /// Reads each feed, even if another fails, unless the failure concerns all of them.
    async fn read_all(&mut self) -> (PullStatus, Option<ReadFailure>) {
        let feeds = self.sources.feeds.borrow_and_update().clone();
        self.feeds.retain(|uuid, _| feeds.values().flatten().any(|known| known == uuid));
        let (mut worst, mut failed) = (PullStatus::Pending, None);
        for route in self.sources.routes.clone() {
            let read = match feeds.get(&route.name) {
                None => continue,
                Some(None) => Err(Refusal::NotOffered.into()),
                Some(Some(uuid)) => self.read(&route, uuid).await,
            };
            match read {
                Ok(()) => worst = worst.max(PullStatus::Available),
                Err(ReadFailure::Khoros(Refusal::NotOffered)) => worst = worst.max(PullStatus::Unavailable),
                Err(failure) => {
                    worst = worst.max(PullStatus::Failing(failure.to_string()));
                    let concerns_all = matches!(
                        failure,
                        ReadFailure::NotStored | ReadFailure::Khoros(Refusal::Throttled(_))
                    );
                    failed = Some(failure);
                    if concerns_all {
                        break;
                    }
                }
            }
        }
        (worst, failed)
    }

    async fn read(&mut self, route: &Route, uuid: &str) -> Result<(), ReadFailure> {
        let known = self.feeds.remove(uuid).filter(|feed| feed.whole_at.elapsed() < WHOLE_EVERY);
        let mut feed =
            known.unwrap_or_else(|| Feed { whole_at: Instant::now(), reading: Reading::new(Part::Whole) });
        let mut new = 0;
        let read = self.read_pages(route, uuid, &mut feed.reading, &mut new).await;
        let route = &route.name;
        if new > 0 {
            info!(event = "feed_read", route, new, "read {new} event(s) from the feed that were not pushed");
        } else if read.is_ok() {
            debug!(event = "feed_read", route, new, "read nothing new from the feed");
        }
        if feed.reading.is_complete {
            feed.reading = Reading::new(feed.reading.next_part());
        }
        self.feeds.insert(uuid.to_owned(), feed);
        read
    }

    /// Reads on until the reading is complete or has had its share of pages, and counts new events. The next
    /// turn goes on where this one stopped.
    async fn read_pages(
        &self,
        route: &Route,
        uuid: &str,
        reading: &mut Reading,
        new: &mut usize,
    ) -> Result<(), ReadFailure> {
        let mut skipped = 0;
        for _ in 0..MAX_PAGES {
            if reading.is_complete {
                break;
            }
            let (offset, limit) = (reading.offset, reading.limit);
            match self.sources.khoros.feed(uuid, offset, limit).await {
                Ok(events) => reading.add(&self.store(route, events, new).await?),
                // Beyond the end, some servers answer without a list. It may also be a fault.
                Err(Refusal::NotOffered) if offset > 0 => reading.end_unsurely(),
                Err(Refusal::TooLarge) if reading.request_less() => {}
                Err(Refusal::TooLarge) if skipped < MAX_SKIPPED => {
                    (skipped, reading.offset) = (skipped + 1, offset + 1);
                    error!(
                        event = "feed_event_skipped",
                        alert = alerts::PULL,
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
    async fn store(
        &self,
        route: &Route,
        events: Vec<Value>,
        new: &mut usize,
    ) -> Result<Vec<FeedEvent>, ReadFailure> {
        let (mut page, mut together, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut events = events.into_iter().peekable();
        while let Some(event) = events.next() {
            // It is JSON already.
            let notification =
                notification::read_for(route, event.to_string().as_bytes(), self.company, Origin::Feed)
                    .unwrap_or_default();
            let id = notification.identities().next().unwrap_or_default().to_owned();
            page.push(FeedEvent { id, created: moment::read(&event["createdDate"]) });
            bytes += notification.bytes();
            together.push(notification);
            if bytes > TOGETHER_BYTES || events.peek().is_none() {
                let stored = self.intake.store(std::mem::take(&mut together), Origin::Feed).await;
                *new += stored.map_err(|_| ReadFailure::NotStored)?;
                bytes = 0;
            }
        }
        Ok(page)
    }
}

/// How long to wait after the nth failure in a row, from 0 on.
fn retry_wait(failure: &ReadFailure, nth: u32, every: Duration) -> Duration {
    let requested = match failure {
        ReadFailure::Khoros(refusal) => refusal.requested_wait(),
        ReadFailure::NotStored => Duration::ZERO,
    };
    let longest = match failure {
        // A throttling Khoros and a failing database need rest, however often the feeds are read.
        ReadFailure::NotStored | ReadFailure::Khoros(Refusal::Throttled(_)) => LONGEST_WAIT,
        ReadFailure::Khoros(_) => LONGEST_WAIT.min(every),
    };
    (FIRST_WAIT * 2u32.pow(nth.min(10))).min(longest).max(requested)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_after_a_failure_grows() {
        let seconds = |failure: ReadFailure, every: u64| {
            let wait = |nth| retry_wait(&failure, nth, Duration::from_secs(every)).as_secs();
            (0..6).map(wait).collect::<Vec<u64>>()
        };
        assert_eq!(seconds(ReadFailure::NotStored, 300), [5, 10, 20, 40, 60, 60]);
        assert_eq!(seconds(Refusal::Html(200).into(), 30), [5, 10, 20, 30, 30, 30]);
        let throttled = |seconds| Refusal::Throttled(Some(Duration::from_secs(seconds)));
        assert_eq!(seconds(throttled(30).into(), 300), [30, 30, 30, 40, 60, 60]);
        assert_eq!(seconds(throttled(3600).into(), 30), [3600; 6]);
    }
}
