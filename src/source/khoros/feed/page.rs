//! The pages of a feed, as the service and `casebridge backfill` read them.

use jiff::Timestamp;
use serde_json::Value;
use tracing::error;

use super::reading::{FeedEvent, Reading};
use crate::delivery::Origin;
use crate::intake::Notification;
use crate::route::Route;
use crate::source::khoros::alerts;
use crate::source::khoros::client::{Khoros, Refusal};
use crate::source::khoros::event::moment;
use crate::source::khoros::notification;

/// In memory, an event of many items is several times as long as in the feed: events of one page that exceed
/// this many bytes are stored in several steps.
const TOGETHER_BYTES: usize = 8 << 20;
/// How many single events of one reading may be too long. With more, the server is at fault, not the event.
const MAX_SKIPPED: usize = 3;

/// An event of a feed, ready to be stored.
pub(super) struct Event {
    /// The identity of its first item.
    pub id: String,
    /// Its own date. Khoros prints abbreviations of zones. One that has several meanings is read as the westernmost,
    /// so the date may be too late, but never too early.
    pub created: Option<Timestamp>,
    pub notification: Notification,
}

impl Event {
    fn read(route: &Route, company: u64, event: &Value) -> Event {
        // It is JSON already.
        let notification = notification::read_for(route, event.to_string().as_bytes(), company, Origin::Feed)
            .unwrap_or_default();
        let id = notification.identities().next().unwrap_or_default().to_owned();
        Event { id, created: moment::read(&event["createdDate"]), notification }
    }

    /// Its place in the feed.
    pub fn place(&self) -> FeedEvent {
        FeedEvent { id: self.id.clone(), created: self.created }
    }
}

/// Parses the events of a page, in groups of at most about [`TOGETHER_BYTES`].
pub(super) fn groups(route: &Route, company: u64, page: Vec<Value>) -> impl Iterator<Item = Vec<Event>> {
    let mut events = page.into_iter();
    std::iter::from_fn(move || {
        let (mut group, mut bytes) = (Vec::new(), 0);
        while bytes <= TOGETHER_BYTES
            && let Some(event) = events.next()
        {
            let event = Event::read(route, company, &event);
            bytes += event.notification.bytes();
            group.push(event);
        }
        (!group.is_empty()).then_some(group)
    })
}

/// Requests the next page, in parts if it is too long; `None` at the end of the reading. `skipped` counts the events
/// that are too long even alone.
///
/// # Errors
/// [`Refusal`]; the reading can be continued.
pub(super) async fn next(
    khoros: &Khoros,
    route: &Route,
    uuid: &str,
    reading: &mut Reading,
    skipped: &mut usize,
) -> Result<Option<Vec<Value>>, Refusal> {
    while !reading.is_complete {
        let (offset, limit) = (reading.offset, reading.limit);
        match khoros.feed(uuid, offset, limit).await {
            Ok(events) => return Ok(Some(events)),
            // Beyond the end, some servers answer without a list. It may also be a fault.
            Err(Refusal::NotOffered) if offset > 0 => reading.end_unsurely(),
            Err(Refusal::TooLarge) if reading.request_less() => {}
            Err(Refusal::TooLarge) if *skipped < MAX_SKIPPED => {
                (*skipped, reading.offset) = (*skipped + 1, offset + 1);
                error!(
                    event = "feed_event_skipped",
                    alert = alerts::PULL,
                    route = route.name,
                    offset,
                    "skipped the event at offset {offset}, no ticket is created: it is longer than 16 MiB or nested too \
                     deeply"
                );
            }
            Err(refusal) => return Err(refusal),
        }
    }
    Ok(None)
}
