//! Receives a notification: authenticates, reads and stores it, and only then answers.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, header};
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http_body_util::BodyExt;
use serde::Serialize;
use tokio::sync::Semaphore;
use tracing::info;

use super::AppState;
use super::error::ApiError;
use crate::delivery::Origin;
use crate::intake::NotStored;
use crate::route::Route;
use crate::source::khoros::notification;

const BODY_LIMIT: usize = 2 << 20;
/// A larger body is read on another thread. A few compressed bytes can inflate to the whole limit.
const LARGE_BODY: usize = 16 << 10;
const READ_LIMIT: usize = 8 << 20;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The body of a request with a valid token. No other body is read.
pub struct Authenticated(Vec<u8>);

#[derive(Serialize)]
pub struct Received {
    /// Items in the notification.
    received: usize,
    /// New ones of them.
    new: usize,
}

/// Handles a notification at the endpoint of a route.
pub async fn receive(
    route: Arc<Route>,
    State(state): State<Arc<AppState>>,
    Authenticated(body): Authenticated,
) -> Result<Json<Received>, ApiError> {
    let (length, company, of_route) = (body.len(), state.company_id, route.clone());
    let read = move || {
        notification::read_for(&of_route, &body, company, Origin::Push).map_err(|_| ApiError::NotJson)
    };
    let notification = apart_if_large(length, read).await?;
    let received = notification.items();
    let (event_id, event_name) = (notification.event.clone(), notification.event_name.clone());
    let stored = state.intake.store(vec![notification], Origin::Push).await;
    let new = stored.map_err(|NotStored| ApiError::Unavailable)?;
    info!(
        event = "notification_received",
        route = route.name,
        event_id,
        event_name,
        received,
        new,
        "notification of {received} item(s), {new} new"
    );
    Ok(Json(Received { received, new }))
}

impl FromRequest<Arc<AppState>> for Authenticated {
    type Rejection = ApiError;

    /// Checks the token before it reads a byte of the body.
    async fn from_request(request: Request, state: &Arc<AppState>) -> Result<Self, ApiError> {
        if !state.tokens.admit(request.headers()) {
            return Err(ApiError::Unauthorized);
        }
        let encoding = Encoding::of(request.headers())?;
        match tokio::time::timeout(BODY_TIMEOUT, read(request.into_body())).await {
            Ok(body) => {
                let body = body?;
                let Some(encoding) = encoding else { return Ok(Authenticated(body)) };
                apart_if_large(body.len(), move || encoding.decode(&body)).await.map(Authenticated)
            }
            Err(_) => Err(ApiError::TooSlow),
        }
    }
}

/// Does work on a body of this length; for a large one, on another thread, so that other requests need not
/// wait. One at a time: the allocator keeps freed memory for each thread that has done such work, and one
/// thread reads faster than the database stores.
async fn apart_if_large<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    static TURN: Semaphore = Semaphore::const_new(1);
    if bytes <= LARGE_BODY {
        return work();
    }
    // This is never closed. Work that has begun keeps its turn, even if its client is gone.
    let turn = TURN.acquire().await;
    let done = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work()
    });
    done.await.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

/// The compression of a body, by a proxy on the way.
#[derive(Clone, Copy)]
enum Encoding {
    Gzip,
    /// In zlib's format by the standard (RFC 9110, 8.4.1.2); some senders use the raw format.
    Deflate,
}

impl Encoding {
    /// `None`: the body is as it is.
    fn of(headers: &HeaderMap) -> Result<Option<Encoding>, ApiError> {
        let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
        let encoding = encodings.next().map_or(Ok(""), |encoding| encoding.to_str());
        match encoding.unwrap_or("unknown").trim().to_ascii_lowercase().as_str() {
            _ if encodings.next().is_some() => Err(ApiError::UnknownEncoding),
            "" | "identity" => Ok(None),
            "gzip" | "x-gzip" => Ok(Some(Encoding::Gzip)),
            "deflate" => Ok(Some(Encoding::Deflate)),
            _ => Err(ApiError::UnknownEncoding),
        }
    }

    fn decode(self, body: &[u8]) -> Result<Vec<u8>, ApiError> {
        match self {
            Encoding::Gzip => inflate(MultiGzDecoder::new(body)),
            Encoding::Deflate => inflate(ZlibDecoder::new(body)).or_else(|error| match error {
                ApiError::Garbled => inflate(DeflateDecoder::new(body)),
                error => Err(error),
            }),
        }
    }
}

/// Inflates a body, up to the limit of all bodies.
fn inflate(decoder: impl Read) -> Result<Vec<u8>, ApiError> {
    let mut body = Vec::new();
    let inflated = decoder.take(BODY_LIMIT as u64 + 1).read_to_end(&mut body);
    match inflated {
        Ok(length) if length > BODY_LIMIT => Err(ApiError::TooLarge),
        Ok(_) => Ok(body),
        Err(_) => Err(ApiError::Garbled),
    }
}

/// Reads the whole body. If it is too large, reads on for a while and drops the bytes: a sender whose
/// connection closes while it sends may never see the answer.
async fn read(mut body: Body) -> Result<Vec<u8>, ApiError> {
    let (mut bytes, mut length) = (Vec::new(), 0);
    while length <= READ_LIMIT
        && let Some(frame) = body.frame().await
    {
        // A body that breaks off is not JSON either, and its sender is gone.
        let data = frame.map_err(|_| ApiError::NotJson)?.into_data().unwrap_or_default();
        length += data.len();
        if length <= BODY_LIMIT {
            bytes.extend_from_slice(&data);
        }
    }
    if length <= BODY_LIMIT { Ok(bytes) } else { Err(ApiError::TooLarge) }
}
