//! Reads the feeds of our subscriptions: at the start, every few minutes, and soon after we refused a push through a
//! fault of casebridge. An event that is both pushed and read is one delivery. Events that are older than `FEED_SINCE`
//! are skipped, so that the history of a feed is imported only by `casebridge backfill`.

pub mod backfill;
mod history;
mod page;
mod reading;
mod status;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};

use crate::alert::Registry;
use crate::delivery::Origin;
use crate::inbox::Inbox;
use crate::intake::Intake;
use crate::route::Route;
use crate::source::khoros::alerts;
use crate::source::khoros::client::{Khoros, Refusal};
use crate::source::khoros::settings::KhorosSettings;
use crate::source::khoros::subscription::Feeds;
use history::History;
use page::Event;
use reading::{FeedEvent, Part, Reading};
use status::StatusLog;
pub use status::{PullReport, PullStatus};

const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A refused push is seldom alone, and one reading brings them all.
const AFTER_A_REFUSAL: Duration = Duration::from_secs(5);
/// Nothing published says that events keep their order, so each feed is read whole this often.
const WHOLE_EVERY: Duration = Duration::from_secs(86_400);
/// The most pages of one feed in a row: then the other feeds have their turn.
const MAX_PAGES: usize = 1_000;

/// The feeds to read, and the request for an early reading.
pub struct Sources {
    pub khoros: Khoros,
    pub inbox: Inbox,
    pub routes: Vec<Route>,
    pub feeds: watch::Receiver<Feeds>,
    /// Notified after each push that casebridge refused through its own fault.
    pub missed: Arc<Notify>,
    pub alerts: Registry,
}

/// Reads all feeds, one after the other.
pub struct Pull {
    sources: Sources,
    intake: Intake,
    company: u64,
    every: Duration,
    /// Older events are skipped. As configured; otherwise read from the inbox before the first feed.
    since: Option<Timestamp>,
    /// By the id of the subscription.
    feeds: HashMap<String, Feed>,
    log: StatusLog,
    report: watch::Sender<PullReport>,
}

/// The state of one feed, in memory only.
struct Feed {
    whole_at: Instant,
    /// The next reading, or the interrupted one.
    reading: Reading,
    /// Its skipped events.
    history: History,
}

/// Why a reading ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReadFailure {
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
        report: watch::Sender<PullReport>,
    ) -> Pull {
        let KhorosSettings { company_id: company, poll_every: every, feed_since: since, mode, .. } = *config;
        let log = StatusLog::new(mode, Instant::now(), &sources.alerts);
        Pull { sources, intake, company, every, since, feeds: HashMap::new(), log, report }
    }

    /// Runs for ever.
    pub async fn run(mut self) {
        let mut failures = 0;
        let since = self.find_since().await;
        self.report.send_modify(|report| report.since = Some(since));
        self.wait().await;
        loop {
            let (status, failure) = self.read_all(since).await;
            self.log.log(&status, Instant::now());
            let skipped = self.feeds.values().map(|feed| feed.history.len()).sum();
            self.report.send_replace(PullReport { status, since: Some(since), skipped });
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

    /// Returns since when events are delivered: as configured, or as the first start on this database decided.
    async fn find_since(&self) -> Timestamp {
        let since = loop {
            if let Some(since) = self.since {
                break since;
            }
            match self.sources.inbox.feed_since().await {
                // The time of a delivery or of the clock cannot be out of range.
                Ok(millis) => break Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MIN),
                Err(error) => warn!(
                    event = "feed_since_unknown",
                    "the database did not return the start date of the feeds, reading none; trying again in 5 s: {error}"
                ),
            }
            tokio::time::sleep(FIRST_WAIT).await;
        };
        info!(event = "feed_since", %since, "delivering feed events from {since:.0} on, skipping older ones");
        since
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
    async fn read_all(&mut self, since: Timestamp) -> (PullStatus, Option<ReadFailure>) {
        let feeds = self.sources.feeds.borrow_and_update().clone();
        self.feeds.retain(|uuid, _| feeds.values().flatten().any(|known| known == uuid));
        let (mut worst, mut failed) = (PullStatus::Pending, None);
        for route in self.sources.routes.clone() {
            let read = match feeds.get(&route.name) {
                None => continue,
                Some(None) => Err(Refusal::NotOffered.into()),
                Some(Some(uuid)) => self.read(&route, uuid, since).await,
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

    async fn read(&mut self, route: &Route, uuid: &str, since: Timestamp) -> Result<(), ReadFailure> {
        let known = self.feeds.remove(uuid).filter(|feed| feed.whole_at.elapsed() < WHOLE_EVERY);
        let mut feed = known.unwrap_or_else(|| Feed {
            whole_at: Instant::now(),
            reading: Reading::new(Part::Whole),
            history: History::new(since),
        });
        let mut new = 0;
        let read = self.read_pages(route, uuid, &mut feed, &mut new).await;
        feed.history.log(route);
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
        Feed { reading, history, .. }: &mut Feed,
        new: &mut usize,
    ) -> Result<(), ReadFailure> {
        let mut too_long = 0;
        for _ in 0..MAX_PAGES {
            let next = page::next(&self.sources.khoros, route, uuid, reading, &mut too_long).await;
            if too_long > 0 {
                let detail = "an event of the feed is too long and was skipped";
                self.sources.alerts.happened(alerts::PULL, &route.name, detail);
            }
            let Some(events) = next? else { break };
            reading.add(&self.store(route, events, history, new).await?);
        }
        Ok(())
    }

    /// Stores the events of a page, except those of the feed's history.
    async fn store(
        &self,
        route: &Route,
        events: Vec<Value>,
        history: &mut History,
        new: &mut usize,
    ) -> Result<Vec<FeedEvent>, ReadFailure> {
        let mut page = Vec::new();
        for group in page::groups(route, self.company, events) {
            page.extend(group.iter().map(Event::place));
            let (old, fresh): (Vec<Event>, Vec<Event>) =
                group.into_iter().partition(|event| history.holds(event));
            let known = self.intake.known(old.iter().map(|event| &event.notification)).await;
            let known = known.map_err(|_| ReadFailure::NotStored)?;
            let unknown = old.iter().filter(|event| !event.notification.is_among(&known));
            unknown.for_each(|event| history.add(event));
            let fresh = fresh.into_iter().map(|event| event.notification).collect();
            let stored = self.intake.store(fresh, Origin::Feed).await;
            *new += stored.map_err(|_| ReadFailure::NotStored)?;
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
