//! Answers that refuse a request.

use axum::Json;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use serde_json::{Map, Value, json};

/// The body as JSON, if the content type says that it is.
pub(super) fn json_of(headers: &HeaderMap, body: &Bytes) -> Option<Value> {
    let is_json = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    serde_json::from_slice(body).ok().filter(|_| is_json)
}

/// The details of a 422 about one field.
pub(super) fn flaw(field: &str, text: &str, error: &str) -> Value {
    let mut details = Map::new();
    details.insert(field.to_owned(), json!([{"description": text, "error": error}]));
    Value::Object(details)
}

pub(super) fn wrong(field: &str, text: &str) -> Value {
    flaw(field, text, "InvalidValue")
}

pub(super) fn suspended(name: &str) -> Value {
    flaw("requester", &format!("Requester: {name} is suspended."), "Suspended")
}

/// Refuses unknown fields. Zendesk ignores them, but then a misspelt field would go unnoticed.
pub(super) fn only(map: &Map<String, Value>, fields: &[&str]) -> Result<(), Value> {
    match map.keys().find(|field| !fields.contains(&field.as_str())) {
        Some(field) => Err(wrong(field, "is an unknown field")),
        None => Ok(()),
    }
}

pub(super) fn refusal(status: StatusCode, error: &str, description: &str) -> Response {
    (status, Json(json!({"error": error, "description": description}))).into_response()
}

pub(super) fn unauthorized() -> Response {
    refusal(StatusCode::UNAUTHORIZED, "Couldn't authenticate you", "")
}

pub(super) fn malformed() -> Response {
    refusal(StatusCode::BAD_REQUEST, "InvalidJSON", "Unprocessable")
}

pub(super) fn invalid(details: Value) -> Response {
    let body =
        json!({"error": "RecordInvalid", "description": "Record validation errors", "details": details});
    (StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response()
}

/// The page of the proxy in front of Zendesk.
pub(super) fn error_page(status: u16) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Html("<html><h1>Something went wrong</h1></html>")).into_response()
}

/// In plain text, as was observed.
pub(super) fn too_many(seconds: u64) -> Response {
    let text = "Number of allowed API requests per minute exceeded";
    let headers = [(header::RETRY_AFTER, seconds.to_string())];
    (StatusCode::TOO_MANY_REQUESTS, headers, text).into_response()
}

pub(super) fn not_found() -> Response {
    refusal(StatusCode::NOT_FOUND, "RecordNotFound", "Not found")
}
