//! The same server without storage, to see what storing costs. The product has no such mode, so this
//! is built of its public parts: the accept loop, the token check, the parser, the same layers and the
//! same line in the log. It runs in a separate process, as casebridge does.

use std::process::Stdio;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::post;
use axum::{Json, Router};
use casebridge::config::HTTP_IDLE;
use casebridge::http::{Audience, BearerTokens, server};
use casebridge::source::khoros::endpoint;
use casebridge::source::khoros::notification;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tracing::{Instrument, info, info_span};

use crate::bridge::{BEARER, Bridge, free_port, wait_until_ready};

/// What this program is started with to be that server; a port follows.
pub const ARGUMENT: &str = "--serve-without-storage";
const BODY_LIMIT: usize = 2 << 20;

/// Starts it; returns the process and its port.
pub async fn start() -> (Bridge, u16) {
    let port = free_port();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([ARGUMENT, &port.to_string()]).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    let child = command.spawn().unwrap();
    wait_until_ready(port).await;
    (Bridge(child), port)
}

#[tokio::main]
pub async fn serve(port: u16) {
    tracing_subscriber::fmt().with_target(false).with_ansi(false).init();
    let tokens = Arc::new(BearerTokens::new(Audience::Khoros, &[BEARER.into()]));
    let router = Router::new()
        .route(&endpoint::path("label"), post(receive))
        .route("/readyz", axum::routing::get(|| async { "ready" }))
        .layer(middleware::from_fn(in_span))
        .layer(CatchPanicLayer::new())
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .with_state(tokens);
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    server::serve(listener, router, HTTP_IDLE, CancellationToken::new()).await;
}

async fn in_span(request: Request, next: Next) -> Response {
    let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or("");
    let span = info_span!("request", id);
    next.run(request).instrument(span).await
}

async fn receive(
    State(tokens): State<Arc<BearerTokens>>,
    request: Request,
) -> Result<Json<Value>, StatusCode> {
    if !tokens.admit(request.headers()) {
        return Err(StatusCode::UNAUTHORIZED);
    }
    let body = axum::body::to_bytes(request.into_body(), BODY_LIMIT).await;
    let body = body.map_err(|_| StatusCode::BAD_REQUEST)?;
    let arrivals = notification::parse("", &body, 1234).map_err(|_| StatusCode::BAD_REQUEST)?;
    let received = arrivals.len();
    let (event, event_name) = (&arrivals[0].event_id, &arrivals[0].event_name);
    info!(event, event_name, received, new = received, "notification of {received} item(s), {received} new");
    Ok(Json(json!({"received": received, "new": received})))
}
