//! A stand-in for Khoros Marketing: subscriptions with their statuses and pages, events that are pushed
//! and can be read back from a feed, the token's user, and the labels. Where Khoros publishes no details,
//! [`Model`] has a choice, so that a test can try every reading.

mod account;
mod answer;
mod events;
mod feed;
mod paging;
mod subscriptions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Router, middleware};
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::server::{BreakOff, Running, date, start};
pub use answer::{Answer, Style};
pub use events::PushFault;
use events::{Emission, Push};
pub use feed::{FeedOrder, FeedShape};
pub use subscriptions::{Status, Subscription};

/// The token that it knows unless [`Model::token`] is changed.
pub const TOKEN: &str = "sandbox-khoros-token";
/// The published example of a label that was applied to a tweet.
pub const EXAMPLE: &str = include_str!("../../tests/fixtures/stream-item-label-applied-twitter.json");
/// The company of the token, as events and subscriptions number it.
pub const COMPANY_ID: u64 = 1234;
/// The same company in the directory, whose numbers differ.
pub const DIRECTORY_ID: u64 = 24_606;

/// The calls that the stand-in counts, and whose answers a test can queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// `POST /subscription`, of either version.
    Subscribe,
    /// `GET /subscription`
    List,
    /// `GET /subscription/{id}`
    Show,
    /// `DELETE /subscription/{id}`
    Delete,
    /// `PUT /subscription/{id}/{status}`
    SetStatus,
    /// `GET /data/{id}`
    Feed,
    /// `GET /v2/whoami/`
    WhoAmI,
    /// `GET /v2/labelsets/`
    Labels,
}

/// The state of the account, and what a test changes in its behaviour.
pub struct Model {
    /// The subscriptions, the oldest first.
    pub subscriptions: Vec<Subscription>,
    /// The answers to the next calls to subscribe. Later calls are answered as [`Model::style`] says.
    pub answers: VecDeque<Answer>,
    /// The same for the other calls.
    other_answers: BTreeMap<Call, VecDeque<Answer>>,
    /// The answer to every call, none of which is processed, until it is cleared. Queued answers wait.
    pub outage: Option<Answer>,
    /// The form of the answers about subscriptions.
    pub style: Style,
    /// The only valid token.
    pub token: String,
    /// Whether a POST always makes a new subscription, as a third party claims. Khoros documents that a
    /// POST with the same `externalId` is an update.
    pub duplicates: bool,
    /// Fields that an update, or for `status` a PUT, does not change although its answer is a success.
    pub immutable: &'static [&'static str],
    /// Whether subscriptions contain the number of lists so far, so that no two pages are the same.
    pub counts_shows: bool,
    /// Whether answers contain the `bearerToken` of subscriptions.
    pub echoes_bearer: bool,
    /// Other fields of subscriptions that answers do not contain.
    pub hidden: &'static [&'static str],
    /// The number of the first page of subscriptions.
    pub first_page: u32,
    /// Whether the nearest page is the answer for a page that does not exist, instead of an empty one.
    pub repeats_last_page: bool,
    /// The status for a page that does not exist, instead of an empty page.
    pub no_such_page: Option<u16>,
    /// The number of next lists of subscriptions that wait for [`Khoros::release_lists`], and contain what
    /// exists by then.
    pub late_lists: u32,
    /// The number of lists that wait now.
    pub waiting_lists: u32,
    /// Whether events of a paused subscription can be read from its feed.
    pub feeds_while_paused: bool,
    /// The order of feeds.
    pub feed_order: FeedOrder,
    /// The form of feeds.
    pub feed_shape: FeedShape,
    /// As [`Model::repeats_last_page`], for an offset past the end of a feed.
    pub feed_repeats_last_page: bool,
    /// Faults of the next pushes. Each push to each subscription takes one.
    pub push_faults: VecDeque<PushFault>,
    /// Pushes that wait for the next one.
    held_back: Vec<Push>,
    /// Names and statuses of the labels, the first being in the first label set.
    pub labels: Vec<(String, String)>,
    /// The number of the first page of label sets, whose example begins elsewhere than that of
    /// subscriptions.
    pub first_label_page: u32,
    /// The answer of `GET /v2/whoami/`.
    pub whoami: Value,
    /// How far the `Date` of its answers is ahead of the real time.
    pub clock_ahead: SignedDuration,
    /// Subscriptions made so far, deleted ones included: the clock of their dates.
    made: u32,
    /// Calls to subscribe; this and the other counts include failed calls.
    pub calls: u32,
    /// Lists of subscriptions.
    pub lists: u32,
    /// Reads of one subscription.
    pub shows: u32,
    /// Calls to delete a subscription.
    pub deletes: u32,
    /// Calls to set a status.
    pub puts: u32,
    /// Reads of feeds.
    pub feed_reads: u32,
    /// Calls of `GET /v2/whoami/`.
    pub whoami_reads: u32,
    /// Calls of `GET /v2/labelsets/`.
    pub label_reads: u32,
}

impl Default for Model {
    fn default() -> Model {
        Model {
            subscriptions: Vec::new(),
            answers: VecDeque::new(),
            other_answers: BTreeMap::new(),
            outage: None,
            style: Style::default(),
            token: TOKEN.to_owned(),
            duplicates: false,
            immutable: &[],
            counts_shows: false,
            echoes_bearer: true,
            hidden: &[],
            first_page: 0,
            repeats_last_page: false,
            no_such_page: None,
            late_lists: 0,
            waiting_lists: 0,
            feeds_while_paused: false,
            feed_order: FeedOrder::default(),
            feed_shape: FeedShape::default(),
            feed_repeats_last_page: false,
            push_faults: VecDeque::new(),
            held_back: Vec::new(),
            labels: vec![("CreateCase".to_owned(), "ACTIVE".to_owned())],
            first_label_page: 1,
            whoami: account::whoami(),
            clock_ahead: SignedDuration::ZERO,
            made: 0,
            calls: 0,
            lists: 0,
            shows: 0,
            deletes: 0,
            puts: 0,
            feed_reads: 0,
            whoami_reads: 0,
            label_reads: 0,
        }
    }
}

/// The stand-in; clones share its state.
#[derive(Clone)]
pub struct Khoros {
    shared: Shared,
    running: Arc<Running>,
}

#[derive(Clone)]
struct Shared {
    model: Arc<Mutex<Model>>,
    changes: watch::Sender<()>,
    http: reqwest::Client,
}

impl Khoros {
    /// Starts it on a free port of loopback.
    pub async fn start() -> io::Result<Khoros> {
        let http = crate::http_client().build().map_err(io::Error::other)?;
        let shared = Shared { model: Arc::default(), changes: watch::Sender::default(), http };
        let running = Arc::new(start(router(shared.clone())).await?);
        Ok(Khoros { shared, running })
    }

    /// The value of `SPREDFAST_API_URL`.
    pub fn api_url(&self) -> String {
        format!("{}/v2/events", self.url())
    }

    /// The address in the tutorial, which offers nothing but subscribing.
    pub fn v1_api_url(&self) -> String {
        format!("{}/v1/events/company/{COMPANY_ID}", self.url())
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://{}", self.running.address)
    }

    /// Gives access to the state.
    pub fn model(&self) -> MutexGuard<'_, Model> {
        self.shared.model()
    }

    /// Queues the answers to the next calls of this kind.
    pub fn queue(&self, call: Call, answers: impl IntoIterator<Item = Answer>) {
        self.model().queue_of(call).extend(answers);
    }

    /// Waits until the state meets a condition.
    pub async fn wait_until(&self, wanted: impl FnMut(&Model) -> bool) {
        self.shared.wait_until(wanted).await;
    }

    /// Applies a label: pushes the notification to its subscribers, and returns the status codes.
    pub async fn apply_label(&self, label: &str, notification: &str) -> Vec<Result<u16, reqwest::Error>> {
        self.shared.emit(&Emission::of_label(label, notification)).await
    }

    /// Pushes an event to its subscribers, and returns the status codes. The labels of a label event are those
    /// that it contains. The published example contains none: use [`Khoros::apply_label`] for it.
    pub async fn emit(&self, event: impl ToString) -> Vec<Result<u16, reqwest::Error>> {
        self.shared.emit(&Emission::of(event.to_string())).await
    }

    /// Answers the lists that wait because of [`Model::late_lists`].
    pub fn release_lists(&self) {
        self.shared.change(|model| model.waiting_lists = 0);
    }

    /// Pushes the notifications that [`PushFault::Late`] still holds back.
    pub async fn release(&self) -> Vec<Result<u16, reqwest::Error>> {
        let held_back = std::mem::take(&mut self.model().held_back);
        self.shared.push(held_back).await
    }
}

fn router(shared: Shared) -> Router {
    use subscriptions as subs;
    Router::new()
        .route("/v1/events/company/{company}/subscription", post(subs::subscribe_v1))
        .route("/v2/events/subscription", post(subs::subscribe).get(subs::list))
        .route("/v2/events/subscription/{id}", get(subs::show).delete(subs::delete))
        .route("/v2/events/subscription/{id}/{status}", put(subs::set_status))
        .route("/v2/events/data/{id}", get(feed::read))
        .route("/v2/whoami", get(account::who_am_i))
        .route("/v2/whoami/", get(account::who_am_i))
        .route("/v2/labelsets", get(account::label_sets))
        .route("/v2/labelsets/", get(account::label_sets))
        .fallback(no_such_service)
        .method_not_allowed_fallback(no_such_service)
        // For somebody at a terminal, who has no token.
        .route("/label", post(apply_by_hand))
        .layer(middleware::map_response_with_state(shared.clone(), set_date))
        .with_state(shared)
}

async fn set_date(State(shared): State<Shared>, response: Response) -> Response {
    let ahead = shared.model().clock_ahead;
    date(response, ahead)
}

impl Shared {
    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    async fn wait_until(&self, mut wanted: impl FnMut(&Model) -> bool) {
        let mut changes = self.changes.subscribe();
        while !wanted(&self.model()) {
            // The sender lives as long as `self`.
            let _ = changes.changed().await;
        }
    }

    /// Changes the model, and wakes everything that waits for a change.
    fn change<T>(&self, change: impl FnOnce(&mut Model) -> T) -> T {
        let changed = change(&mut self.model());
        self.changes.send_replace(());
        changed
    }

    /// Counts a call and does its work, if nothing is wrong with the caller or with the stand-in. The
    /// work is told in which style to answer, if a test wants one for this very call.
    fn perform(
        &self,
        call: Call,
        headers: &HeaderMap,
        work: impl FnOnce(&mut Model, Option<Style>) -> Response,
    ) -> Response {
        self.change(|model| {
            *model.count_of(call) += 1;
            if let Some(refusal) = model.refuse(headers) {
                return refusal;
            }
            match model.queue_of(call).pop_front() {
                None => work(model, None),
                Some(Answer::Text) => work(model, Some(Style::Text)),
                Some(Answer::Json) => work(model, Some(Style::Json)),
                Some(Answer::JsonUnderData) => work(model, Some(Style::JsonUnderData)),
                Some(Answer::Nothing) => work(model, Some(Style::Nothing)),
                Some(Answer::ResetAfter) => {
                    work(model, None);
                    BreakOff.into_response()
                }
                Some(fault) => fault.in_place_of_work(),
            }
        })
    }
}

impl Model {
    /// Refuses requests without a valid token, and all requests during an outage.
    fn refuse(&self, headers: &HeaderMap) -> Option<Response> {
        let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        if authorization.and_then(|value| value.strip_prefix("Bearer ")) != Some(&self.token) {
            return Some(Answer::Unauthenticated.in_place_of_work());
        }
        self.outage.map(Answer::in_place_of_work)
    }

    fn queue_of(&mut self, call: Call) -> &mut VecDeque<Answer> {
        match call {
            Call::Subscribe => &mut self.answers,
            other => self.other_answers.entry(other).or_default(),
        }
    }

    fn count_of(&mut self, call: Call) -> &mut u32 {
        match call {
            Call::Subscribe => &mut self.calls,
            Call::List => &mut self.lists,
            Call::Show => &mut self.shows,
            Call::Delete => &mut self.deletes,
            Call::SetStatus => &mut self.puts,
            Call::Feed => &mut self.feed_reads,
            Call::WhoAmI => &mut self.whoami_reads,
            Call::Labels => &mut self.label_reads,
        }
    }
}

/// Whatever is at no known path, or asks for what is not known there.
async fn no_such_service(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let refusal = shared.model().refuse(&headers);
    refusal.unwrap_or_else(|| Answer::ServiceNotFound.in_place_of_work())
}

/// Returns a label event about a post, which is the published example in all else.
pub fn label_event(post: &str, text: &str, note: Option<&str>) -> String {
    let mut notification: Value = serde_json::from_str(EXAMPLE).unwrap_or_default();
    notification["eventUuid"] = json!(format!("sandbox-{:016x}", fastrand::u64(..)));
    let item = &mut notification["data"]["items"][0];
    item["entityId"] = json!(format!("twitter:{post}"));
    item["link"] = json!(format!("https://twitter.com/author/status/{post}"));
    item["text"] = json!(text);
    item["notes"] = note.map(|note| json!({"text": note})).into_iter().collect();
    notification.to_string()
}

/// `curl -d 'text of a post' …/label?post=1&note=Please+call`: applies the first label, or the one that `label` names,
/// to a post, a new one if none is named.
async fn apply_by_hand(
    State(shared): State<Shared>,
    Query(query): Query<HashMap<String, String>>,
    text: String,
) -> Response {
    let first = shared.model().labels.first().map(|(name, _)| name.clone());
    let label = query.get("label").cloned().or(first).unwrap_or_default();
    let post = fastrand::u64(1_000_000_000..).to_string();
    let post = query.get("post").unwrap_or(&post);
    let text = if text.is_empty() { "A post without a text" } else { &text };
    let notification = label_event(post, text, query.get("note").map(String::as_str));
    let emission = Emission::of_label(&label, &notification);
    if !shared.model().subscriptions.iter().any(|known| known.wants(&emission)) {
        return (StatusCode::NOT_FOUND, "nobody subscribed to this label\n").into_response();
    }
    let answers = shared.emit(&emission).await;
    let answers: Vec<String> = answers
        .into_iter()
        .map(|answer| answer.map_or_else(|error| error.to_string(), |status| status.to_string()))
        .collect();
    match answers.is_empty() {
        true => "label applied, nobody was called\n".into_response(),
        false => format!("label applied, casebridge answered {}\n", answers.join(", ")).into_response(),
    }
}
