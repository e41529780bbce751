//! The endpoints for Khoros, the host's health checks and the operator.

mod auth;
mod connection;
mod error;
mod metrics;
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
use tokio::sync::{Mutex, Notify};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};

use crate::alert::{self, Registry};
use crate::inbox::Inbox;
use crate::intake::Intake;
use crate::metrics::Metrics;
use crate::route::Route;
use crate::source::khoros::{endpoint, public_url};
use crate::status::StatusSource;
pub use auth::{Audience, BearerTokens};
use error::ApiError;
pub use metrics::Scrapes;
pub use refused::Refused;

const READINESS_CACHE: std::time::Duration = std::time::Duration::from_secs(2);

/// The shared state of the handlers.
pub struct AppState {
    pub intake: Intake,
    /// The company of the notifications.
    pub company_id: u64,
    /// The tokens of the routes' endpoints.
    pub tokens: BearerTokens,
    /// Notified of each push that failed because of us: the event may be in a feed.
    pub missed: Arc<Notify>,
    pub refused: Arc<Refused>,
    /// Identifies this deployment at the public address.
    pub deployment_id: String,
    /// Each has an endpoint; the first route of labels has the endpoint of the 2017 example, too.
    pub routes: Vec<Route>,
    pub inbox: Inbox,
    pub status: StatusSource,
    pub metrics: Arc<Metrics>,
    pub scrapes: Scrapes,
    pub admin: Option<BearerTokens>,
    /// The command or line that sets the public address, if it is needed and unknown.
    pub public_url_remedy: Option<&'static str>,
    pub readiness: Readiness,
    pub alerts: Registry,
}

impl AppState {
    fn admit_operator(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        match &self.admin {
            Some(tokens) if tokens.admit(headers) => Ok(()),
            _ => Err(ApiError::Unauthorized),
        }
    }
}

/// Whether notifications can be stored, and when this was last tried.
#[derive(Default)]
pub struct Readiness(Mutex<Option<(Instant, bool)>>);

impl Readiness {
    /// Tries at most every two seconds.
    async fn check(&self, inbox: &Inbox) -> bool {
        let mut last = self.0.lock().await;
        if let Some((at, is_ready)) = *last
            && at.elapsed() < READINESS_CACHE
        {
            return is_ready;
        }
        let is_ready = inbox.check_writable().await.is_ok();
        *last = Some((Instant::now(), is_ready));
        is_ready
    }
}

/// All routes with their layers. `of_destinations`: the endpoints that belong to destinations.
pub fn router(state: Arc<AppState>, of_destinations: Router) -> Router {
    let status = match state.admin {
        Some(_) => Router::new().route("/status", get(status)),
        None => Router::new(),
    };
    let metrics = match state.admin.is_some() || state.scrapes.is_public {
        true => Router::new().route("/metrics", get(metrics::metrics)),
        false => Router::new(),
    };
    let old = endpoint::of_old_paths(&state.routes).into_iter();
    let old = old.flat_map(|route| endpoint::OLD_PATHS.map(|path| (path.to_owned(), route.clone())));
    let named = state.routes.iter().map(|route| (endpoint::path(&route.name), route.clone()));
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
        .merge(metrics)
        .merge(of_destinations.with_state(()))
        .layer(CatchPanicLayer::custom(report_panic(state.alerts.clone())))
        .layer(middleware::from_fn_with_state(state.clone(), observe::observe))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .with_state(state)
}

/// Answers a request whose handler has panicked, and reports the defect.
fn report_panic(alerts: Registry) -> impl Fn(Box<dyn Any + Send>) -> Response + Clone {
    move |_| {
        alerts.happened(alert::PANIC, "", "a request was answered 500");
        ApiError::Broken.into_response()
    }
}

/// Lets a process of this deployment verify that the public address leads to one. No cache may answer.
async fn instance(State(state): State<Arc<AppState>>) -> impl IntoResponse {
    ([(header::CACHE_CONTROL, "no-store")], format!("{}\n", state.deployment_id))
}

async fn ready(State(state): State<Arc<AppState>>) -> Response {
    match state.readiness.check(&state.inbox).await {
        true => Json(json!({"ready": true})).into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"ready": false}))).into_response(),
    }
}

/// The state of the whole service, for the operator.
async fn status(State(state): State<Arc<AppState>>, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    state.admit_operator(&headers)?;
    Ok(Json(state.status.snapshot().await.to_json()))
}

/// The page that "View app" on the host shows.
async fn front_page(State(state): State<Arc<AppState>>) -> Html<String> {
    let advice = state.public_url_remedy.map(|remedy| {
        format!(
            "<p><strong>Khoros does not know where to send its notifications.</strong> \
             Set the public address and restart:</p><pre>{remedy}</pre>"
        )
    });
    Html(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>casebridge</title>\
         <h1>casebridge</h1><p>The service is running. It turns labels and other events of Khoros into tickets; \
         its log shows its state.</p>{}</html>\n",
        advice.unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_in_a_request_is_an_alert() {
        let alerts = Registry::default();
        let answer = report_panic(alerts.clone())(Box::new("a defect"));
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let reports = alerts.current();
        let codes: Vec<&str> = reports.iter().map(|report| report.code).collect();
        assert_eq!(codes, [alert::PANIC]);
    }
}
