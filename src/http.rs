//! The endpoints: where Khoros, the host's health checks and the operator come in.

mod auth;
mod connection;
mod error;
mod observe;
mod receive;
mod refused;
pub mod server;

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::{Mutex, Notify, watch};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};

use crate::event::Event;
use crate::inbox::{Inbox, LastEvent};
use crate::intake::{Intake, Route};
use crate::public_url;
use crate::pull::PullStatus;
use crate::silence;
use crate::subscription::Subscriptions;
use crate::worker::LaneStatus;
pub use auth::BearerTokens;
use error::ApiError;
pub use refused::Refused;

/// Where the 2017 example listened, in any case: its subscription keeps working until it is taken over.
pub const OLD_PATHS: [&str; 2] = ["/createTicket", "/createticket"];
const READINESS_CACHE: std::time::Duration = std::time::Duration::from_secs(2);

/// What the handlers need.
pub struct AppState {
    pub intake: Intake,
    /// Open the routes' endpoints.
    pub tokens: BearerTokens,
    /// Notified of each push that failed because of us: the event may be in a feed.
    pub missed: Arc<Notify>,
    pub refused: Refused,
    pub health: Health,
    /// What tells us from others at the public address.
    pub deployment_id: String,
    /// Each has an endpoint; the first that is about labels has that of the 2017 example, too.
    pub routes: Vec<Route>,
}

/// The endpoint of a route; also what its subscription gives to Khoros.
pub fn route_path(route: &str) -> String {
    format!("/khoros/{route}")
}

/// What the handlers can tell of the rest of the house.
pub struct Health {
    pub inbox: Inbox,
    pub lane: watch::Receiver<LaneStatus>,
    pub subscription: watch::Receiver<Subscriptions>,
    pub pull: watch::Receiver<PullStatus>,
    pub admin: Option<BearerTokens>,
    /// Set if we need our own address and do not know it: the line that tells it.
    pub public_url_remedy: Option<&'static str>,
    pub started: Instant,
    ready: Mutex<Option<(Instant, bool)>>,
}

impl Health {
    pub fn new(
        inbox: Inbox,
        lane: watch::Receiver<LaneStatus>,
        subscription: watch::Receiver<Subscriptions>,
        pull: watch::Receiver<PullStatus>,
        admin: Option<BearerTokens>,
        public_url_remedy: Option<&'static str>,
    ) -> Health {
        let (started, ready) = (Instant::now(), Mutex::default());
        Health { inbox, lane, subscription, pull, admin, public_url_remedy, started, ready }
    }

    /// Whether notifications can be stored; tried every two seconds at most.
    async fn is_ready(&self) -> bool {
        let mut ready = self.ready.lock().await;
        if let Some((at, known)) = *ready
            && at.elapsed() < READINESS_CACHE
        {
            return known;
        }
        let known = self.inbox.check_writable().await.is_ok();
        *ready = Some((Instant::now(), known));
        known
    }
}

/// All routes with their layers.
pub fn router(state: Arc<AppState>) -> Router {
    let status = match state.health.admin {
        Some(_) => Router::new().route("/status", get(status)),
        None => Router::new(),
    };
    let of_labels = state.routes.iter().find(|route| Event::named(&route.event) == Event::Label);
    let old = of_labels.into_iter().flat_map(|route| OLD_PATHS.map(|path| (path.to_owned(), route.clone())));
    let named = state.routes.iter().map(|route| (route_path(&route.name), route.clone()));
    let routes = named.chain(old).fold(Router::new(), |router, (path, route)| {
        let route = Arc::new(route);
        let receive = post(move |state, body| receive::receive(route.clone(), state, body));
        router.route(&format!("{path}/"), receive.clone()).route(&path, receive)
    });
    routes
        .route("/", get(front_page))
        .route("/healthz", get(|| async { "ok" }))
        .route(public_url::PATH, get(instance))
        .route("/readyz", get(ready))
        .merge(status)
        .layer(CatchPanicLayer::custom(|_: Box<dyn Any + Send>| ApiError::Broken.into_response()))
        .layer(middleware::from_fn_with_state(state.clone(), observe::observe))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .with_state(state)
}

/// By this, a process of this deployment knows that the public address leads to one. No cache may answer.
async fn instance(State(state): State<Arc<AppState>>) -> impl IntoResponse {
    ([(header::CACHE_CONTROL, "no-store")], format!("{}\n", state.deployment_id))
}

async fn ready(State(state): State<Arc<AppState>>) -> Response {
    match state.health.is_ready().await {
        true => Json(json!({"ready": true})).into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"ready": false}))).into_response(),
    }
}

/// Everything, for the operator alone.
async fn status(State(state): State<Arc<AppState>>, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    let health = &state.health;
    match &health.admin {
        Some(tokens) if tokens.admit(&headers) => {}
        _ => return Err(ApiError::Unauthorized),
    }
    let (summary, heard) = tokio::join!(health.inbox.summary(), health.inbox.last_events());
    let storage = json!({"kind": health.inbox.kind(), "ready": summary.is_ok()});
    let deliveries = summary.ok().map(|summary| {
        json!({
            "waiting": summary.waiting,
            "in_doubt": summary.in_doubt,
            "done_24h": summary.done_24h,
            "dead": summary.dead,
            "oldest_waiting_s": summary.oldest_ms.map(|ms| ms / 1000),
            "last_event_s": summary.last_event_ms.map(|ms| ms / 1000),
        })
    });
    let pull = health.pull.borrow().clone();
    Ok(Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": health.started.elapsed().as_secs(),
        "storage": storage,
        "subscriptions": health.subscription.borrow().clone(),
        "routes": heard.ok().map(|heard| ages(&state.routes, &heard)),
        "pull": pull.as_str(),
        "pull_reason": pull.reason(),
        "lanes": { "zendesk": health.lane.borrow().clone() },
        "deliveries": deliveries,
        "refused_notifications": state.refused.totals(),
    })))
}

fn ages(routes: &[Route], heard: &[LastEvent]) -> Value {
    let names: Vec<String> = routes.iter().map(|route| route.name.clone()).collect();
    let ages = silence::ages(&names, heard).into_iter();
    ages.map(|(name, age)| (name.to_owned(), json!({"last_event_s": age}))).collect()
}

/// What "View app" on the host shows.
async fn front_page(State(state): State<Arc<AppState>>, headers: HeaderMap) -> Html<String> {
    let advice = state.health.public_url_remedy.map(|remedy| {
        let seen = headers.get(header::HOST).and_then(|host| host.to_str().ok()).filter(is_host);
        let seen = seen.map(|host| format!("<p>This page was asked for at <code>https://{host}</code>.</p>"));
        format!(
            "<p><strong>Khoros cannot be told where to send its notifications.</strong> \
             Set the public address and restart:</p><pre>{remedy}</pre>{}",
            seen.unwrap_or_default()
        )
    });
    Html(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>casebridge</title>\
         <h1>casebridge</h1><p>The service is running. Labels and other events of Khoros become tickets in \
         Zendesk; its log tells how it is doing.</p>{}</html>\n",
        advice.unwrap_or_default()
    ))
}

/// What a stranger may have us repeat: a host name, perhaps with a port.
fn is_host(host: &&str) -> bool {
    host.len() <= 255 && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':'))
}
