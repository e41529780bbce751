//! Subscriptions: made, listed, shown, paused and deleted.

use std::collections::HashMap;
use std::ops::Index;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use jiff::{SignedDuration, Timestamp};
use regex::Regex;
use serde_json::{Value, json};

use super::answer::{empty, failure};
use super::paging::{number, start_of, window};
use super::{Answer, COMPANY_ID, Call, Model, Shared, Style, account};

/// The status of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its events are pushed.
    Active,
    /// It gets no events.
    Disabled,
    /// Its events are not pushed.
    Paused,
}

impl Status {
    /// The name that Khoros gives it.
    pub fn word(self) -> &'static str {
        match self {
            Status::Active => "ACTIVE",
            Status::Disabled => "DISABLED",
            Status::Paused => "PAUSED",
        }
    }

    fn from_word(word: &str) -> Option<Status> {
        [Status::Active, Status::Disabled, Status::Paused].into_iter().find(|status| status.word() == word)
    }
}

/// A subscription. Indexing and comparison refer to the fields that were sent.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Its id at Khoros.
    pub uuid: String,
    /// Its status.
    pub status: Status,
    /// The company of the token, unless a test changes it.
    pub company_id: u64,
    /// The time of a logical clock, so that no two are equal.
    pub created_date: Timestamp,
    /// The fields as they were sent.
    pub sent: Value,
    /// The events that can be read back, the oldest first.
    pub feed: Vec<Value>,
}

impl Index<&str> for Subscription {
    type Output = Value;

    fn index(&self, field: &str) -> &Value {
        &self.sent[field]
    }
}

impl PartialEq<Value> for Subscription {
    fn eq(&self, sent: &Value) -> bool {
        self.sent == *sent
    }
}

impl Subscription {
    /// The subscription as answers contain it: the sent fields and those that Khoros sets.
    fn shown(&self, hidden: &[&str]) -> Value {
        let mut shown = self.sent.clone();
        shown["uuid"] = json!(self.uuid);
        shown["companyId"] = json!(self.company_id);
        shown["userId"] = json!(account::USER_ID);
        shown["createdDate"] = json!(format!("{:.3}", self.created_date));
        shown["key"] =
            json!({"uuid": self.uuid, "companyId": self.company_id, "eventName": self.sent["eventName"]});
        shown["status"] = json!(self.status.word());
        if let Some(fields) = shown.as_object_mut() {
            fields.retain(|name, _| !hidden.contains(&name.as_str()));
        }
        shown
    }
}

impl Model {
    /// The subscription with this id.
    pub fn subscription(&mut self, uuid: &str) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|known| known.uuid == uuid)
    }

    /// Changes the status of a subscription, as its owner can without casebridge.
    pub fn set_status(&mut self, uuid: &str, status: Status) {
        if let Some(known) = self.subscription(uuid) {
            known.status = status;
        }
    }

    /// Changes the address of a subscription.
    pub fn repoint(&mut self, uuid: &str, url: &str) {
        if let Some(known) = self.subscription(uuid) {
            known.sent["notificationUri"] = json!(url);
        }
    }

    /// Adds a subscription without any checks, even of its `externalId`, and returns its uuid.
    pub fn add(&mut self, sent: Value) -> String {
        self.made += 1;
        let since_the_first = SignedDuration::from_secs(self.made.into());
        let created_date = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(490_896) + since_the_first;
        let (status, feed) = (Status::Active, Vec::new());
        let made = Subscription { uuid: uuid(), status, company_id: COMPANY_ID, created_date, sent, feed };
        self.subscriptions.push(made);
        self.subscriptions[self.subscriptions.len() - 1].uuid.clone()
    }

    /// Deletes a subscription and its feed.
    pub fn delete(&mut self, uuid: &str) -> Option<Subscription> {
        let place = self.subscriptions.iter().position(|known| known.uuid == uuid)?;
        Some(self.subscriptions.remove(place))
    }

    /// "Will create or update an existing subscription." The status stays: only a PUT changes it.
    fn create_or_update(&mut self, mut sent: Value) -> String {
        let is_same = |known: &&mut Subscription| {
            known.company_id == COMPANY_ID && known["externalId"] == sent["externalId"]
        };
        match self.subscriptions.iter_mut().find(is_same).filter(|_| !self.duplicates) {
            Some(known) => {
                self.immutable.iter().for_each(|field| sent[field] = known[field].clone());
                known.sent = sent;
                known.uuid.clone()
            }
            None => self.add(sent),
        }
    }

    fn hidden(&self) -> Vec<&'static str> {
        let bearer = (!self.echoes_bearer).then_some("bearerToken");
        self.hidden.iter().copied().chain(bearer).collect()
    }

    /// Changes a subscription, and answers with it.
    fn about(
        &mut self,
        uuid: &str,
        style: Option<Style>,
        change: impl FnOnce(&mut Subscription),
    ) -> Response {
        let (style, hidden) = (style.unwrap_or(self.style), self.hidden());
        let Some(known) = self.subscription(uuid) else { return empty(StatusCode::NOT_FOUND) };
        change(known);
        style.answer(known.shown(&hidden))
    }
}

/// The company is that of the token.
pub(super) async fn subscribe(State(shared): State<Shared>, headers: HeaderMap, body: String) -> Response {
    let is_number = |company: &Value| company.is_null() || company.is_u64();
    make(&shared, &headers, &body, is_number)
}

/// The company is in the path, and the tutorial's program sends it as text once more.
pub(super) async fn subscribe_v1(State(shared): State<Shared>, headers: HeaderMap, body: String) -> Response {
    make(&shared, &headers, &body, |company| company.is_null() || company.is_u64() || company.is_string())
}

fn make(
    shared: &Shared,
    headers: &HeaderMap,
    body: &str,
    is_company: impl FnOnce(&Value) -> bool,
) -> Response {
    shared.perform(Call::Subscribe, headers, |model, style| {
        let Ok(sent) = serde_json::from_str::<Value>(body) else {
            return failure(StatusCode::NOT_ACCEPTABLE, "not_acceptable");
        };
        if !is_valid(&sent) || !is_company(&sent["companyId"]) {
            return empty(StatusCode::BAD_REQUEST);
        }
        let uuid = model.create_or_update(sent);
        model.about(&uuid, style, |_| {})
    })
}

/// A name and an event are needed; the rest is optional, as a subscription can be for its feed alone.
fn is_valid(sent: &Value) -> bool {
    let is_text = |field| sent[field].is_string();
    let may_be_text = |field| sent[field].is_null() || sent[field].is_string();
    let is_regex = sent["query"].as_str().is_none_or(|query| Regex::new(query).is_ok());
    ["externalId", "eventName"].into_iter().all(is_text)
        && ["notificationUri", "query", "bearerToken"].into_iter().all(may_be_text)
        && is_regex
}

pub(super) async fn list(
    State(shared): State<Shared>,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    if number(&query, "pageNumber", Some(0)) == Some(0) {
        shared.wait_if_late().await;
    }
    shared.perform(Call::List, &headers, |model, style| {
        let (Some(page), Some(size)) =
            (number(&query, "pageNumber", Some(0)), number(&query, "pageSize", Some(0)))
        else {
            return empty(StatusCode::BAD_REQUEST);
        };
        let start = start_of(page, model.first_page, size);
        let listed = window(&model.subscriptions, start, size as usize, model.repeats_last_page);
        if let Some(status) = model.no_such_page.filter(|_| listed.is_empty()) {
            return Answer::Status(status).in_place_of_work();
        }
        let shown = |known: &Subscription| {
            let mut shown = known.shown(&model.hidden());
            if model.counts_shows {
                shown["shows"] = json!(model.lists);
            }
            shown
        };
        style.unwrap_or(model.style).answer(listed.iter().map(shown).collect())
    })
}

impl Shared {
    async fn wait_if_late(&self) {
        let is_late = self.change(|model| {
            let is_late = model.late_lists > 0;
            model.late_lists -= u32::from(is_late);
            model.waiting_lists += u32::from(is_late);
            is_late
        });
        if is_late {
            self.wait_until(|model| model.waiting_lists == 0).await;
        }
    }
}

pub(super) async fn show(
    State(shared): State<Shared>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Response {
    shared.perform(Call::Show, &headers, |model, style| model.about(&id, style, |_| {}))
}

pub(super) async fn delete(
    State(shared): State<Shared>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Response {
    shared.perform(Call::Delete, &headers, |model, style| {
        let response = model.about(&id, style, |_| {});
        model.delete(&id);
        response
    })
}

pub(super) async fn set_status(
    State(shared): State<Shared>,
    headers: HeaderMap,
    Path((id, status)): Path<(String, String)>,
) -> Response {
    shared.perform(Call::SetStatus, &headers, |model, style| {
        match (model.subscription(&id), Status::from_word(&status)) {
            (None, _) => empty(StatusCode::NOT_FOUND),
            (_, None) => (StatusCode::UNPROCESSABLE_ENTITY, "").into_response(),
            (_, Some(status)) => {
                let is_immutable = model.immutable.contains(&"status");
                model.about(&id, style, |known| {
                    known.status = if is_immutable { known.status } else { status };
                })
            }
        }
    })
}

fn uuid() -> String {
    let bits = fastrand::u128(..) & !(0xf << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let digits = format!("{bits:032x}");
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}
