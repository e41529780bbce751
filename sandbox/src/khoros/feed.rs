//! The feeds of subscriptions, from which their events can be read.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::answer::empty;
use super::paging::{number, window};
use super::{Call, Model, Shared, Style};

/// The order of a feed, which Khoros does not publish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FeedOrder {
    /// New events come last.
    #[default]
    OldestFirst,
    /// New events come first, and move all others by one.
    NewestFirst,
}

/// The form of a feed's pages, which Khoros does not publish either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FeedShape {
    /// The published example, the text "Coming Soon": there is no feed to read.
    #[default]
    Unavailable,
    /// `[…]`
    Array,
    /// `{"data": […]}`
    UnderData,
    /// The event itself if the page has one event, otherwise an array.
    Single,
}

impl FeedShape {
    fn answer(self, mut events: Vec<Value>) -> Response {
        match self {
            FeedShape::Unavailable => Style::Text.answer(Value::Null),
            FeedShape::UnderData => Json(json!({"data": events})).into_response(),
            FeedShape::Single if events.len() == 1 => Json(events.remove(0)).into_response(),
            FeedShape::Array | FeedShape::Single => Json(events).into_response(),
        }
    }
}

impl Model {
    fn feed_page(&self, feed: &[Value], offset: u32, limit: u32) -> Vec<Value> {
        let feed: Vec<&Value> = match self.feed_order {
            FeedOrder::OldestFirst => feed.iter().collect(),
            FeedOrder::NewestFirst => feed.iter().rev().collect(),
        };
        let page = window(&feed, offset.into(), limit as usize, self.feed_repeats_last_page);
        page.iter().map(|event| (*event).clone()).collect()
    }
}

pub(super) async fn read(
    State(shared): State<Shared>,
    headers: HeaderMap,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    shared.perform(Call::Feed, &headers, |model, style| {
        let (Some(offset), Some(limit)) =
            (number(&query, "offset", Some(0)), number(&query, "limit", Some(0)))
        else {
            return empty(StatusCode::BAD_REQUEST);
        };
        let Some(known) = model.subscriptions.iter().find(|known| known.uuid == id) else {
            return empty(StatusCode::NOT_FOUND);
        };
        let events = model.feed_page(&known.feed, offset, limit);
        match style {
            None => model.feed_shape.answer(events),
            Some(style) => style.answer(events.into()),
        }
    })
}
