//! A stand-in for Khoros Marketing: the subscription call with its oddities, and labels that are
//! applied.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::server::{Running, start};

/// The only token that it knows.
pub const TOKEN: &str = "sandbox-khoros-token";
/// The published example of a label that was applied to a tweet.
pub const EXAMPLE: &str = include_str!("../../tests/fixtures/stream-item-label-applied-twitter.json");

/// How the next subscription call is answered; the published answer is the text "Coming Soon".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Text,
    Json,
    JsonUnderData,
    Nothing,
    /// 200 with `status.succeeded: false`.
    Failed,
    /// 200 with an HTML page.
    Html,
    /// HTML in which the gateway tells that the token has expired.
    DeveloperInactive,
    /// 586, for a wrong path.
    ServiceNotFound,
}

#[derive(Default)]
pub struct Model {
    /// As they were sent, one for each `externalId`.
    pub subscriptions: Vec<Value>,
    /// How the next calls are answered; then [`Answer::Text`].
    pub answers: VecDeque<Answer>,
    /// Subscription calls, whatever came of them.
    pub calls: u32,
}

/// The stand-in; clones share its state.
#[derive(Clone)]
pub struct Khoros {
    shared: Shared,
    running: Arc<Running>,
    http: reqwest::Client,
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
        let http = reqwest::Client::builder().no_proxy().build().map_err(io::Error::other)?;
        let (model, changes) = (Arc::default(), watch::Sender::default());
        let shared = Shared { model, changes, http: http.clone() };
        let router = Router::new()
            .route("/v2/events/subscription", post(subscribe))
            .route("/sandbox/labels/{label}", post(apply_by_hand))
            .fallback(|| async { page(586, "Service Not Found") })
            .with_state(shared.clone());
        let running = Arc::new(start(router, None).await?);
        Ok(Khoros { shared, running, http })
    }

    /// What `SPREDFAST_API_URL` is to be.
    pub fn api_url(&self) -> String {
        format!("{}/v2/events", self.url())
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.running.address)
    }

    /// A look at the state, or a change to it.
    pub fn model(&self) -> MutexGuard<'_, Model> {
        self.shared.model()
    }

    /// Waits until the state is as wanted.
    pub async fn wait_until(&self, mut wanted: impl FnMut(&Model) -> bool) {
        let mut changes = self.shared.changes.subscribe();
        while !wanted(&self.model()) {
            // The sender lives as long as `self`.
            let _ = changes.changed().await;
        }
    }

    /// Applies a label: sends the notification to whoever subscribed to it, and returns the answers.
    pub async fn apply_label(&self, label: &str, notification: &str) -> Vec<Result<u16, reqwest::Error>> {
        emit(&self.http, self.subscribers(label), notification).await
    }

    fn subscribers(&self, label: &str) -> Vec<Value> {
        self.shared.subscribers(label)
    }
}

impl Shared {
    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn subscribers(&self, label: &str) -> Vec<Value> {
        let to_label = |subscription: &&Value| subscription["query"] == label;
        self.model().subscriptions.iter().filter(to_label).cloned().collect()
    }
}

/// Nothing is documented about a second try, so there is none.
async fn emit(
    http: &reqwest::Client,
    subscriptions: Vec<Value>,
    notification: &str,
) -> Vec<Result<u16, reqwest::Error>> {
    let mut answers = Vec::new();
    for subscription in subscriptions {
        let request = http
            .post(subscription["notificationUri"].as_str().unwrap_or_default())
            .bearer_auth(subscription["bearerToken"].as_str().unwrap_or_default())
            .header(header::CONTENT_TYPE, "application/json")
            .body(notification.to_owned());
        answers.push(request.send().await.map(|response| response.status().as_u16()));
    }
    answers
}

async fn subscribe(State(shared): State<Shared>, headers: HeaderMap, body: String) -> Response {
    let response = answer(&mut shared.model(), &headers, &body);
    shared.changes.send_replace(());
    response
}

fn answer(model: &mut Model, headers: &HeaderMap, body: &str) -> Response {
    model.calls += 1;
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if authorization != Some(&format!("Bearer {TOKEN}")) {
        return failure(StatusCode::UNAUTHORIZED, "unauthenticated");
    }
    let answer = model.answers.pop_front().unwrap_or(Answer::Text);
    match answer {
        Answer::Failed => return failure(StatusCode::OK, "validation_error"),
        Answer::Html => return page(200, "Welcome"),
        Answer::DeveloperInactive => return page(403, "Developer Inactive"),
        Answer::ServiceNotFound => return page(586, "Service Not Found"),
        Answer::Text | Answer::Json | Answer::JsonUnderData | Answer::Nothing => {}
    }
    let Some(subscription) = serde_json::from_str(body).ok().filter(is_valid) else {
        return failure(StatusCode::NOT_ACCEPTABLE, "not_acceptable");
    };
    let uuid = json!({"uuid": "8a33e123-546d-48e0-8097-f1fe4d208ffb"});
    // "Will create or update an existing subscription."
    model.subscriptions.retain(|known| known["externalId"] != subscription["externalId"]);
    model.subscriptions.push(subscription);
    match answer {
        Answer::Json => Json(uuid).into_response(),
        Answer::JsonUnderData => Json(json!({"data": uuid, "status": {"succeeded": true}})).into_response(),
        Answer::Nothing => StatusCode::NO_CONTENT.into_response(),
        _ => "Coming Soon".into_response(),
    }
}

/// The published schema: a number for the company and strings for the rest.
fn is_valid(body: &Value) -> bool {
    const FIELDS: &[&str] = &["externalId", "eventName", "notificationUri", "query", "bearerToken"];
    body["companyId"].is_u64() && FIELDS.iter().all(|field| body[field].is_string())
}

/// `curl -d 'text of a post' …/sandbox/labels/CreateCase?post=1&note=Please+call`: the label is applied
/// to a post, a new one if none is named.
async fn apply_by_hand(
    State(shared): State<Shared>,
    Path(label): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    text: String,
) -> Response {
    let (event, post) = (fastrand::u64(..), fastrand::u64(1_000_000_000..).to_string());
    let post = query.get("post").unwrap_or(&post);
    let mut notification: Value = serde_json::from_str(EXAMPLE).unwrap_or_default();
    notification["eventUuid"] = json!(format!("sandbox-{event:016x}"));
    let item = &mut notification["data"]["items"][0];
    item["entityId"] = json!(format!("twitter:{post}"));
    item["link"] = json!(format!("https://twitter.com/author/status/{post}"));
    item["text"] = json!(if text.is_empty() { "A post without words of its own" } else { &text });
    item["notes"] = query.get("note").map(|note| json!({"text": note})).into_iter().collect();
    let answers = emit(&shared.http, shared.subscribers(&label), &notification.to_string()).await;
    let answers: Vec<String> = answers
        .into_iter()
        .map(|answer| answer.map_or_else(|error| error.to_string(), |status| status.to_string()))
        .collect();
    match answers.is_empty() {
        true => (StatusCode::NOT_FOUND, "nobody subscribed to this label\n").into_response(),
        false => format!("label applied, the bridge answered {}\n", answers.join(", ")).into_response(),
    }
}

fn failure(status: StatusCode, code: &str) -> Response {
    let body = json!({"status": {"error": {"code": code, "message": ""}, "succeeded": false}});
    (status, Json(body)).into_response()
}

fn page(status: u16, text: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Html(format!("<html><h1>{text}</h1></html>"))).into_response()
}
