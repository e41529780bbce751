//! `GET /metrics`: the numbers of the service in the text format of Prometheus.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::prometheus_text::{CONTENT_TYPE, encode};
use tokio::sync::Mutex;

use super::AppState;
use super::error::ApiError;

/// How long the samples from the database are reused, so that frequent scrapes put no load on it.
const CACHE: Duration = Duration::from_secs(1);

/// Whether scrapes need a token, and the last samples from the database.
pub struct Scrapes {
    pub(super) is_public: bool,
    last: Mutex<Option<(Instant, String)>>,
}

impl Scrapes {
    /// `is_public`: no token is needed.
    pub fn new(is_public: bool) -> Scrapes {
        Scrapes { is_public, last: Mutex::default() }
    }
}

pub async fn metrics(State(state): State<Arc<AppState>>, headers: HeaderMap) -> Result<Response, ApiError> {
    if !state.scrapes.is_public {
        state.admit_operator(&headers)?;
    }
    let mut text = String::new();
    // It fails only if the writer does, and a string never does.
    encode(&mut text, state.metrics.registry()).map_err(|_| ApiError::Broken)?;
    let mut last = state.scrapes.last.lock().await;
    match &*last {
        Some((at, samples)) if at.elapsed() < CACHE => text.push_str(samples),
        _ => {
            let samples = state.status.metrics().await;
            text.push_str(&samples);
            *last = Some((Instant::now(), samples));
        }
    }
    let headers = [(header::CONTENT_TYPE, CONTENT_TYPE), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, text).into_response())
}
