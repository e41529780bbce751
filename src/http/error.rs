//! The answers to failed requests: fixed texts. The details are logged where they are known.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// When to send a request again that could not be stored.
const RETRY_AFTER_SECONDS: &str = "5";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiError {
    Unauthorized,
    /// The body is not JSON.
    NotJson,
    /// The body is not encoded as its `Content-Encoding` says.
    Garbled,
    /// `Content-Encoding` is neither gzip nor deflate.
    UnknownEncoding,
    TooLarge,
    /// The body did not arrive in time.
    TooSlow,
    /// Nothing can be stored now.
    Unavailable,
    /// A defect of casebridge.
    Broken,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            ApiError::Unauthorized => (StatusCode::UNAUTHORIZED, "the bearer token is missing or wrong"),
            ApiError::NotJson => (StatusCode::BAD_REQUEST, "the body is not JSON"),
            ApiError::Garbled => {
                (StatusCode::BAD_REQUEST, "the body is not encoded as Content-Encoding says")
            }
            ApiError::UnknownEncoding => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Encoding is neither gzip nor deflate")
            }
            ApiError::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 2 MiB"),
            ApiError::TooSlow => (StatusCode::REQUEST_TIMEOUT, "the body did not arrive within 10 s"),
            ApiError::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "nothing can be stored now"),
            ApiError::Broken => (StatusCode::INTERNAL_SERVER_ERROR, "casebridge failed on this request"),
        };
        let mut response = (status, format!("{text}\n")).into_response();
        let header = match self {
            ApiError::Unauthorized => Some((header::WWW_AUTHENTICATE, "Bearer")),
            // RFC 9110, 15.5.16: the encodings that would have been accepted.
            ApiError::UnknownEncoding => Some((header::ACCEPT_ENCODING, "gzip, deflate")),
            ApiError::Unavailable => Some((header::RETRY_AFTER, RETRY_AFTER_SECONDS)),
            // The rest of the body is not read, so the connection cannot serve another request.
            ApiError::TooLarge | ApiError::TooSlow => Some((header::CONNECTION, "close")),
            ApiError::NotJson | ApiError::Garbled | ApiError::Broken => None,
        };
        if let Some((name, value)) = header {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
