//! A Zendesk that answers at once, or after a set time, and tells when each create arrived. The
//! sandbox's own checks every field and searches all its tickets, which would be measured along.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use casebridge::config::HTTP_IDLE;
use casebridge::http::server;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A running one; it ends when this is dropped.
pub struct Zendesk {
    /// When each create had arrived as a whole.
    pub creates: UnboundedReceiver<Instant>,
    _stop: DropGuard,
}

struct Shared {
    delay: Duration,
    creates: UnboundedSender<Instant>,
    next_id: AtomicU64,
}

impl Zendesk {
    pub async fn start(port: u16, delay: Duration) -> Zendesk {
        let (sender, creates) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared { delay, creates: sender, next_id: AtomicU64::new(1000) });
        let router = Router::new()
            .route("/oauth/tokens", post(mint))
            .route("/api/v2/tickets", post(create).get(|| async { rated(json!({"tickets": []})) }))
            .route("/api/v2/users/me", get(|| async { rated(json!({"user": {"id": 1}})) }))
            .route("/api/v2/users/show_many", get(author))
            .route("/api/v2/tickets/count", get(|| async { rated(json!({"count": {"value": 0}})) }))
            .with_state(shared);
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(server::serve(listener, router, HTTP_IDLE, stop.clone()));
        Zendesk { creates, _stop: stop.drop_guard() }
    }
}

async fn mint(Json(wanted): Json<Value>) -> Response {
    let token = json!({"access_token": "bench", "scope": wanted["scope"], "expires_in": 7200});
    (StatusCode::CREATED, Json(token)).into_response()
}

/// Knows everybody.
async fn author(Query(query): Query<HashMap<String, String>>) -> Response {
    let users =
        query["external_ids"].split(',').map(|id| json!({"id": 2, "external_id": id, "active": true}));
    rated(json!({"users": users.collect::<Vec<_>>()})).into_response()
}

async fn create(State(shared): State<Arc<Shared>>, _body: Bytes) -> Response {
    let _ = shared.creates.send(Instant::now());
    if !shared.delay.is_zero() {
        tokio::time::sleep(shared.delay).await;
    }
    let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
    (StatusCode::CREATED, rated(json!({"ticket": {"id": id, "status": "new"}}))).into_response()
}

/// A limit that is never met.
fn rated(body: Value) -> Response {
    let headers =
        [("x-rate-limit", "1000000"), ("x-rate-limit-remaining", "1000000"), ("ratelimit-reset", "60")];
    (headers, Json(body)).into_response()
}
