//! Successful answers in all their forms, and answers of a server that has done nothing.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use serde_json::{Value, json};

use crate::server::BreakOff;

/// The answer to one call, or to every call during an outage. Without a note, the call is processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// As [`Style::Text`].
    Text,
    /// As [`Style::Json`].
    Json,
    /// As [`Style::JsonUnderData`].
    JsonUnderData,
    /// As [`Style::Nothing`].
    Nothing,
    /// 200 with `status.succeeded: false`.
    Failed,
    /// 200 with an HTML page.
    Html,
    /// 403 and HTML from the gateway, because the token has expired.
    DeveloperInactive,
    /// 586, for a wrong path.
    ServiceNotFound,
    /// 401, whatever the token.
    Unauthenticated,
    /// 403 from the gateway, because there were too many calls.
    Throttled,
    /// This status with an empty body.
    Status(u16),
    /// The connection is reset; the call is not processed.
    Reset,
    /// The connection is reset; the call is processed.
    ResetAfter,
}

/// The form of a successful answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// The published example: the text "Coming Soon".
    #[default]
    Text,
    /// JSON.
    Json,
    /// JSON in `data`, next to `status.succeeded: true`.
    JsonUnderData,
    /// 204.
    Nothing,
}

impl Answer {
    /// The answer of a server that has done nothing, some of which look like success.
    pub(super) fn in_place_of_work(self) -> Response {
        match self {
            Answer::Text => Style::Text.answer(Value::Null),
            Answer::Json => Style::Json.answer(json!({})),
            Answer::JsonUnderData => Style::JsonUnderData.answer(json!({})),
            Answer::Nothing => Style::Nothing.answer(Value::Null),
            Answer::Failed => failure(StatusCode::OK, "validation_error"),
            Answer::Html => page(200, "Welcome"),
            Answer::DeveloperInactive => {
                gateway("ERR_403_DEVELOPER_INACTIVE", page(403, "Developer Inactive"))
            }
            Answer::ServiceNotFound => page(586, "Service Not Found"),
            Answer::Unauthenticated => failure(StatusCode::UNAUTHORIZED, "unauthenticated"),
            Answer::Throttled => {
                let text = "Account Over Queries Per Second Limit";
                gateway("ERR_403_DEVELOPER_OVER_QPS", (StatusCode::FORBIDDEN, text).into_response())
            }
            Answer::Status(status) => status_of(status).into_response(),
            Answer::Reset | Answer::ResetAfter => BreakOff.into_response(),
        }
    }
}

impl Style {
    pub(super) fn answer(self, value: Value) -> Response {
        match self {
            Style::Text => "Coming Soon".into_response(),
            Style::Json => Json(value).into_response(),
            Style::JsonUnderData => Json(under_data(value)).into_response(),
            Style::Nothing => StatusCode::NO_CONTENT.into_response(),
        }
    }
}

/// Only lists report their pages, and the published example reports none.
fn under_data(value: Value) -> Value {
    match value.is_array() {
        true => json!({"data": value, "pagination": {}, "status": {"succeeded": true}}),
        false => json!({"data": value, "status": {"succeeded": true}}),
    }
}

pub(super) fn failure(status: StatusCode, code: &str) -> Response {
    let body = json!({"status": {"error": {"code": code, "message": ""}, "succeeded": false}});
    (status, Json(body)).into_response()
}

/// All that is published of most refusals.
pub(super) fn empty(status: StatusCode) -> Response {
    (status, Json(json!({}))).into_response()
}

fn page(status: u16, text: &str) -> Response {
    (status_of(status), Html(format!("<html><h1>{text}</h1></html>"))).into_response()
}

/// The gateway in front of the API marks the answers that are its own.
fn gateway(code: &'static str, response: Response) -> Response {
    ([("x-mashery-error-code", code)], response).into_response()
}

fn status_of(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
