//! A notification comes in: authenticated, read, stored, and only then answered.

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
use tracing::info;

use super::AppState;
use super::error::ApiError;
use crate::intake::{NotStored, Origin, Route};

const BODY_LIMIT: usize = 2 << 20;
/// Takes some milliseconds to read. Compressed, few bytes can be as many as the limit allows.
const LARGE_BODY: usize = 16 << 10;
const READ_LIMIT: usize = 8 << 20;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The body of a request that carried a valid token. Nobody else's is read.
pub struct Authenticated(Vec<u8>);

#[derive(Serialize)]
pub struct Received {
    /// Items in the notification.
    received: usize,
    /// Those of them that were not known before.
    new: usize,
}

/// What comes in at the endpoint of a route.
pub async fn receive(
    route: Arc<Route>,
    State(state): State<Arc<AppState>>,
    Authenticated(body): Authenticated,
) -> Result<Json<Received>, ApiError> {
    let read = || state.intake.read(&route, &body, Origin::Push).map_err(|_| ApiError::NotJson);
    let notification = apart_if_large(body.len(), read)?;
    drop(body);
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

    /// The header decides before a byte of the body is read.
    async fn from_request(request: Request, state: &Arc<AppState>) -> Result<Self, ApiError> {
        if !state.tokens.admit(request.headers()) {
            return Err(ApiError::Unauthorized);
        }
        let encoding = Encoding::of(request.headers())?;
        match tokio::time::timeout(BODY_TIMEOUT, read(request.into_body())).await {
            Ok(body) => {
                let body = body?;
                apart_if_large(body.len(), || encoding.decode(body)).map(Authenticated)
            }
            Err(_) => Err(ApiError::TooSlow),
        }
    }
}

/// Does work on a body of this length; if it is large, where no other request waits for the thread.
fn apart_if_large<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    match bytes > LARGE_BODY {
        true => tokio::task::block_in_place(work),
        false => work(),
    }
}

/// How a body is encoded on its way: proxies in between compress as they like.
#[derive(Clone, Copy)]
enum Encoding {
    Identity,
    Gzip,
    /// zlib's format by the standard (RFC 9110, 8.4.1.2), and the bare one by some senders.
    Deflate,
}

impl Encoding {
    fn of(headers: &HeaderMap) -> Result<Encoding, ApiError> {
        let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
        let encoding = encodings.next().map_or(Ok(""), |encoding| encoding.to_str());
        match encoding.unwrap_or("unknown").trim().to_ascii_lowercase().as_str() {
            _ if encodings.next().is_some() => Err(ApiError::UnknownEncoding),
            "" | "identity" => Ok(Encoding::Identity),
            "gzip" | "x-gzip" => Ok(Encoding::Gzip),
            "deflate" => Ok(Encoding::Deflate),
            _ => Err(ApiError::UnknownEncoding),
        }
    }

    fn decode(self, body: Vec<u8>) -> Result<Vec<u8>, ApiError> {
        match self {
            Encoding::Identity => Ok(body),
            Encoding::Gzip => inflate(MultiGzDecoder::new(body.as_slice())),
            Encoding::Deflate => inflate(ZlibDecoder::new(body.as_slice())).or_else(|error| match error {
                ApiError::Garbled => inflate(DeflateDecoder::new(body.as_slice())),
                error => Err(error),
            }),
        }
    }
}

/// Stops at the limit that holds for every body.
fn inflate(decoder: impl Read) -> Result<Vec<u8>, ApiError> {
    let mut body = Vec::new();
    let inflated = decoder.take(BODY_LIMIT as u64 + 1).read_to_end(&mut body);
    match inflated {
        Ok(length) if length > BODY_LIMIT => Err(ApiError::TooLarge),
        Ok(_) => Ok(body),
        Err(_) => Err(ApiError::Garbled),
    }
}

/// Reads the whole body. What is too large is read on for a while and forgotten: a sender that is
/// hung up on while it sends may never see why.
async fn read(mut body: Body) -> Result<Vec<u8>, ApiError> {
    let (mut kept, mut length) = (Vec::new(), 0);
    while length <= READ_LIMIT
        && let Some(frame) = body.frame().await
    {
        // A body that breaks off is not JSON either, and its sender is gone.
        let data = frame.map_err(|_| ApiError::NotJson)?.into_data().unwrap_or_default();
        length += data.len();
        if length <= BODY_LIMIT {
            kept.extend_from_slice(&data);
        }
    }
    if length <= BODY_LIMIT { Ok(kept) } else { Err(ApiError::TooLarge) }
}
