//! The second way to an event: reads the feeds of our subscriptions at the start, every so often, and
//! soon after a push was refused for a fault of ours. Where an event came both ways, it is one delivery.

mod status;
mod walk;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{Notify, watch};
use tracing::{debug, error, info, warn};

use crate::alert::{self, Reminder};
use crate::config;
use crate::inbox::Inbox;
use crate::intake::{Intake, NotStored, Notification, Origin, Route};
use crate::khoros::{Khoros, Refusal};
use crate::subscription::Feeds;
pub use status::PullStatus;
use status::{Line, Teller};
use walk::{Mark, Page, TooLong, Walk};

const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A push that was refused is seldom alone, and one reading brings them all.
const AFTER_A_REFUSAL: Duration = Duration::from_secs(5);
/// A feed without an end would be read for ever; a long one goes on at the next reading.
const MOST_PAGES: usize = 1000;
/// An event of many items takes a multiple of its length: beyond this, events are not stored together.
const TOGETHER_BYTES: usize = 8 << 20;

/// What there is to read, and what asks for a reading.
pub struct Sources {
    pub khoros: Khoros,
    pub routes: Vec<Route>,
    pub feeds: watch::Receiver<Feeds>,
    /// Told of each push that was refused for a fault of ours.
    pub missed: Arc<Notify>,
}

/// Reads all feeds, one after the other.
pub struct Pull {
    sources: Sources,
    intake: Intake,
    inbox: Inbox,
    known: HashMap<String, Feed>,
    pace: Pace,
    teller: Teller,
    status: watch::Sender<PullStatus>,
}

/// What is known of one feed.
struct Feed {
    mark: Mark,
    /// What the inbox remembers of its length.
    stored: Option<u64>,
    is_long: Reminder,
    passed_over: Reminder,
}

/// Why a reading ended before its time.
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

/// What the steps of one reading came to.
#[derive(Default)]
struct Brought {
    read: usize,
    new: usize,
}

impl Pull {
    pub fn new(
        sources: Sources,
        intake: Intake,
        inbox: Inbox,
        config: &config::Khoros,
        status: watch::Sender<PullStatus>,
    ) -> Pull {
        let teller = Teller::new(config.mode, Instant::now());
        let pace = Pace::new(config.poll_every);
        Pull { sources, intake, inbox, known: HashMap::new(), pace, teller, status }
    }

    /// Goes on for ever.
    pub async fn run(mut self) {
        loop {
            self.wait().await;
            let (status, failure) = self.read_all().await;
            self.tell(status);
            self.pace.read(failure.as_ref(), Instant::now());
        }
    }

    /// Until a reading is due: by the clock, because there is another feed, or because a push was
    /// refused. None of them hastens what was told to wait.
    async fn wait(&mut self) {
        let until = tokio::select! {
            () = tokio::time::sleep_until(self.pace.due.into()) => return,
            () = changed(&mut self.sources.feeds) => Instant::now(),
            () = self.sources.missed.notified() => self.pace.due.min(Instant::now() + AFTER_A_REFUSAL),
        };
        tokio::time::sleep_until(until.max(self.pace.not_before).into()).await;
    }

    /// Each feed on its own, but for what concerns all of them.
    async fn read_all(&mut self) -> (PullStatus, Option<Failure>) {
        let feeds = self.sources.feeds.borrow_and_update().clone();
        self.known.retain(|uuid, _| feeds.values().flatten().any(|known| known == uuid));
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
                    Err(failure) if failure.is_of_all() => return (worst, Some(failure)),
                    Err(failure) => failed = Some(failure),
                }
            }
        }
        (worst, failed)
    }

    async fn read(&mut self, route: &Route, uuid: &str) -> Result<(), Failure> {
        let mut feed = match self.known.remove(uuid) {
            Some(feed) => feed,
            None => self.recall(uuid).await?,
        };
        let mut brought = Brought::default();
        let ended = self.read_feed(route, uuid, &mut feed, &mut brought).await;
        self.known.insert(uuid.to_owned(), feed);
        let Brought { read, new } = brought;
        match new {
            0 => debug!(event = "feed_read", route = route.name, read, "pulled nothing new"),
            _ => info!(
                event = "feed_read",
                route = route.name,
                read,
                new,
                "pulled {new} event(s) that no push brought"
            ),
        }
        ended
    }

    /// What an earlier process knew of a feed.
    async fn recall(&self, uuid: &str) -> Result<Feed, Failure> {
        let stored = self.inbox.feed_length(uuid).await.map_err(not_stored)?;
        let mark = Mark::of_length(stored);
        Ok(Feed { mark, stored, is_long: Reminder::default(), passed_over: Reminder::default() })
    }

    async fn read_feed(
        &self,
        route: &Route,
        uuid: &str,
        feed: &mut Feed,
        brought: &mut Brought,
    ) -> Result<(), Failure> {
        let mut walk = Walk::new(feed.mark.clone());
        for _ in 0..MOST_PAGES {
            let Some(page) = walk.next() else { return Ok(()) };
            match self.sources.khoros.feed(uuid, page.offset, page.limit).await {
                Ok(events) => self.take(route, events, &mut walk, brought).await?,
                // What is past the end need not be a list.
                Err(Refusal::NotOffered) if walk.has_begun() => {
                    self.take(route, Vec::new(), &mut walk, brought).await?;
                }
                Err(Refusal::TooLarge) => pass_over(route, page, feed, &mut walk)?,
                Err(refusal) => return Err(refusal.into()),
            }
            self.remember(uuid, feed, &walk).await?;
        }
        if walk.next().is_some() && feed.is_long.is_due(uuid, Instant::now()) {
            info!(
                event = "feed_continued",
                route = route.name,
                "this feed is long: the next reading goes on with it"
            );
        }
        Ok(())
    }

    /// Takes a page into the inbox.
    async fn take(
        &self,
        route: &Route,
        events: Vec<Value>,
        walk: &mut Walk,
        brought: &mut Brought,
    ) -> Result<(), Failure> {
        let read = |event: Value| {
            let body = event.to_string();
            // It is JSON by now.
            self.intake.read(route, body.as_bytes(), Origin::Feed).unwrap_or_default()
        };
        let mut notifications = events.into_iter().map(read).peekable();
        if walk.has_leapt() && !self.knows_first(notifications.peek()).await? {
            walk.turn_back();
            return Ok(());
        }
        let (mut ids, mut new) = (Vec::new(), 0);
        // Read, some take a multiple of their length: not all of a page is held at once.
        let (mut together, mut bytes) = (Vec::new(), 0);
        for notification in notifications {
            ids.push(id_of(&notification));
            bytes += notification.bytes();
            together.push(notification);
            if bytes > TOGETHER_BYTES {
                new += self.intake.store(std::mem::take(&mut together), Origin::Feed).await?;
                bytes = 0;
            }
        }
        new += self.intake.store(together, Origin::Feed).await?;
        walk.took(&ids, new);
        brought.read += ids.len();
        brought.new += new;
        Ok(())
    }

    async fn knows_first(&self, first: Option<&Notification>) -> Result<bool, NotStored> {
        match first {
            Some(first) => self.intake.knows(first).await,
            None => Ok(false),
        }
    }

    /// Only what is stored is counted, so that whatever ends this reading, the next one begins early
    /// enough.
    async fn remember(&self, uuid: &str, feed: &mut Feed, walk: &Walk) -> Result<(), Failure> {
        feed.mark = walk.mark();
        if let Some(length) = feed.mark.length
            && feed.stored != Some(length)
        {
            self.inbox.remember_feed_length(uuid, length).await.map_err(not_stored)?;
            feed.stored = Some(length);
        }
        Ok(())
    }

    fn tell(&mut self, status: PullStatus) {
        let word = status.word();
        match self.teller.line(&status, Instant::now()) {
            None => {}
            Some(Line::Info(text)) => info!(event = "feed_status", status = word, "{text}"),
            Some(Line::Warn(text)) => warn!(event = "feed_status", status = word, "{text}"),
            Some(Line::Alarm(text)) => {
                error!(event = "feed_status", alert = alert::KHOROS_PULL, status = word, "{text}")
            }
        }
        self.status.send_replace(status);
    }
}

impl Failure {
    /// Whether it would meet the other feeds as well.
    fn is_of_all(&self) -> bool {
        matches!(self, Failure::NotStored | Failure::Khoros(Refusal::Throttled(_)))
    }
}

fn status_of(read: &Result<(), Failure>) -> PullStatus {
    match read {
        Ok(()) => PullStatus::Available,
        Err(Failure::Khoros(Refusal::NotOffered)) => PullStatus::Unavailable,
        Err(Failure::Khoros(refusal)) => PullStatus::Failing(refusal.to_string()),
        Err(Failure::NotStored) => PullStatus::Failing("what was read cannot be stored".to_owned()),
    }
}

/// An answer is too long: less is asked for, or an event is given up that cannot be had.
fn pass_over(route: &Route, page: Page, feed: &mut Feed, walk: &mut Walk) -> Result<(), Failure> {
    match walk.was_too_long() {
        TooLong::AskForLess => {}
        TooLong::PassOver(offset) => {
            if feed.passed_over.is_due(&offset.to_string(), Instant::now()) {
                error!(
                    event = "feed_event_skipped",
                    alert = alert::KHOROS_PULL,
                    route = route.name,
                    offset,
                    "the event at offset {offset} of the feed is too long to be read, and is passed over"
                );
            }
        }
        TooLong::GiveUp => {
            debug!(
                event = "feed_page_too_long",
                route = route.name,
                offset = page.offset,
                "whatever is asked for is too long"
            );
            return Err(Refusal::TooLarge.into());
        }
    }
    Ok(())
}

fn not_stored(error: sqlx::Error) -> Failure {
    warn!(event = "feed_position_unknown", "the database does not tell how far a feed was read: {error}");
    Failure::NotStored
}

/// What came the same way by another page is the same.
fn id_of(notification: &Notification) -> walk::Id {
    let mut hasher = DefaultHasher::new();
    notification.identities().for_each(|identity| identity.hash(&mut hasher));
    hasher.finish()
}

/// Whoever tells of the feeds may have nothing more to tell.
async fn changed(feeds: &mut watch::Receiver<Feeds>) {
    if feeds.changed().await.is_err() {
        std::future::pending().await
    }
}

/// When the next reading is due.
struct Pace {
    every: Duration,
    failures: u32,
    due: Instant,
    not_before: Instant,
}

impl Pace {
    fn new(every: Duration) -> Pace {
        let now = Instant::now();
        Pace { every, failures: 0, due: now + every, not_before: now }
    }

    /// A reading is over.
    fn read(&mut self, failure: Option<&Failure>, now: Instant) {
        self.failures = if failure.is_some() { self.failures + 1 } else { 0 };
        let doubled = FIRST_WAIT * 2u32.saturating_pow(self.failures.saturating_sub(1)).min(1 << 16);
        let wait = match failure {
            None => Duration::ZERO,
            Some(Failure::NotStored) => doubled.min(LONGEST_WAIT),
            Some(Failure::Khoros(Refusal::Throttled(wait))) => {
                wait.unwrap_or_default().max(doubled.min(LONGEST_WAIT))
            }
            Some(Failure::Khoros(_)) => doubled.min(self.every),
        };
        self.not_before = now + wait;
        self.due = now + if failure.is_some() { wait } else { self.every };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_tried_again_less_and_less_often() {
        let seconds = |failure: fn() -> Failure, every: u64| {
            let mut pace = Pace::new(Duration::from_secs(every));
            let now = Instant::now();
            let wait = |_| {
                pace.read(Some(&failure()), now);
                assert_eq!(pace.due, pace.not_before);
                pace.due.duration_since(now).as_secs()
            };
            (0..6).map(wait).collect::<Vec<u64>>()
        };
        assert_eq!(seconds(|| Failure::NotStored, 1), [5, 10, 20, 40, 60, 60]);
        assert_eq!(seconds(|| Refusal::Html(200).into(), 300), [5, 10, 20, 40, 80, 160]);
        assert_eq!(seconds(|| Refusal::Html(200).into(), 30), [5, 10, 20, 30, 30, 30]);
        assert_eq!(seconds(|| Refusal::Throttled(None).into(), 1), [5, 10, 20, 40, 60, 60]);
        let asked = || Refusal::Throttled(Some(Duration::from_secs(30))).into();
        assert_eq!(seconds(asked, 1), [30, 30, 30, 40, 60, 60]);
        let mut pace = Pace::new(Duration::from_secs(30));
        let now = Instant::now();
        pace.read(Some(&Failure::NotStored), now);
        pace.read(None, now);
        assert_eq!((pace.due, pace.not_before), (now + Duration::from_secs(30), now));
        pace.read(Some(&Failure::NotStored), now);
        assert_eq!(pace.due, now + FIRST_WAIT);
    }
}
