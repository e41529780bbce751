//! End users: the authors of posts. They have no e-mail address, and are distinguished by `external_id`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::answer::{error_page, flaw, invalid, json_of, malformed, only, refusal, too_many, wrong};
use super::limits::{MINUTE, with_rate};
use super::quirks::Quirk;
use super::{Model, SERVICE_USER, Shared};

const READ: &[&str] = &["users:read", "read"];
const WRITE: &[&str] = &["users:write", "write"];
/// Zendesk takes this many writes of one user a minute.
const WRITES_PER_USER: usize = 5;
const FIRST_ID: u64 = 5000;

impl Model {
    /// Suspends a user, whose new tickets are then refused.
    pub fn suspend_user(&mut self, id: u64) {
        self.change_user(id, "suspended", true);
    }

    /// Deletes a user, and frees its `external_id`.
    pub fn delete_user(&mut self, id: u64) {
        self.change_user(id, "active", false);
    }

    fn change_user(&mut self, id: u64, field: &str, value: bool) {
        if let Some(user) = self.users.iter_mut().find(|user| user["id"].as_u64() == Some(id)) {
            user[field] = json!(value);
        }
    }

    /// A user that is not deleted.
    pub(super) fn user(&self, id: u64) -> Option<&Value> {
        self.users.iter().find(|user| user["id"].as_u64() == Some(id) && user["active"] == true)
    }

    /// The index of the user with this `external_id`, in upper or lower case.
    fn place_of(&self, external_id: &str) -> Option<usize> {
        self.users.iter().position(|user| user["active"] == true && is_of(user, external_id))
    }

    /// Counts a write; returns the seconds to wait if a limit refuses it.
    fn use_user_write(&mut self, external_id: Option<&str>) -> Option<u64> {
        let second = Duration::from_secs(1);
        let too_soon =
            self.users_are_made_by_others || self.last_user_write.is_some_and(|last| last.elapsed() < second);
        let mut recent = external_id.map(|id| self.recent_user_writes.entry(id.to_lowercase()).or_default());
        let too_often = recent.as_mut().is_some_and(|recent| recent.wait(MINUTE, WRITES_PER_USER).is_some());
        if too_soon || too_often {
            self.too_many_user_writes += 1;
            return Some(if too_often { 60 } else { 1 });
        }
        if let Some(recent) = recent {
            recent.note();
        }
        self.last_user_write = Some(Instant::now());
        None
    }

    fn write_user(&mut self, headers: &HeaderMap, body: &Bytes) -> Response {
        if self.forbid_users {
            return forbidden();
        }
        let Some(parsed) = json_of(headers, body) else { return malformed() };
        let external_id = parsed["user"]["external_id"].as_str();
        if let Some(seconds) = self.use_user_write(external_id) {
            return too_many(seconds);
        }
        let user = match valid_user(&parsed) {
            Ok(user) if self.refuse_photos && user.contains_key("remote_photo_url") => {
                return invalid(wrong("remote_photo_url", "is not a picture"));
            }
            Ok(_) if self.has(Quirk::EmailRequired) => {
                return invalid(flaw("email", "Email: cannot be blank", "BlankValue"));
            }
            Ok(user) => user,
            Err(details) => return invalid(details),
        };
        let (status, place) = match external_id.and_then(|id| self.place_of(id)) {
            Some(place) => (StatusCode::OK, place),
            None => (StatusCode::CREATED, self.add_user()),
        };
        for field in ["external_id", "details", "remote_photo_url"] {
            if let Some(value) = user.get(field) {
                self.users[place][field] = value.clone();
            }
        }
        self.users[place]["name"] = json!(user["name"].as_str().unwrap_or_default().trim());
        (status, Json(json!({"user": self.users[place]}))).into_response()
    }

    fn add_user(&mut self) -> usize {
        let place = self.users.len();
        self.users.push(json!({
            "id": FIRST_ID + place as u64,
            "external_id": null,
            "name": "",
            "details": "",
            "role": "end-user",
            "suspended": false,
            "active": true,
            "verified": false,
        }));
        place
    }
}

fn is_of(user: &Value, external_id: &str) -> bool {
    user["external_id"].as_str().is_some_and(|id| id.to_lowercase() == external_id.to_lowercase())
}

fn valid_user(body: &Value) -> Result<&Map<String, Value>, Value> {
    let user = body["user"].as_object().ok_or_else(|| wrong("base", "no user"))?;
    only(user, &["name", "external_id", "details", "remote_photo_url", "skip_verify_email"])?;
    if user.get("name").and_then(Value::as_str).unwrap_or_default().trim().is_empty() {
        return Err(flaw("name", "Name: is too short (minimum is 1 character)", "ValueTooShort"));
    }
    let text = |field| user.get(field).is_none_or(|value| value.is_string() || value.is_null());
    match () {
        () if !text("external_id") => Err(wrong("external_id", "is not a text")),
        () if user.get("external_id").is_some_and(|id| id == "") => Err(wrong("external_id", "is empty")),
        () if !text("remote_photo_url") => Err(wrong("remote_photo_url", "is not a text")),
        () if !text("details") => Err(wrong("details", "is not a text")),
        () if user.get("skip_verify_email").is_some_and(|skip| !skip.is_boolean()) => {
            Err(wrong("skip_verify_email", "is neither true nor false"))
        }
        () => Ok(user),
    }
}

/// `GET /api/v2/users/me`: answers 200 even without a credential, so it is no test of one.
pub(super) async fn me(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    match shared.refuse(&headers, READ) {
        Some(refused) if refused.status() == StatusCode::UNAUTHORIZED => {
            let nobody = json!({"id": null, "name": "Anonymous user", "role": "end-user"});
            return Json(json!({"user": nobody})).into_response();
        }
        Some(refused) => return refused,
        None => {}
    }
    shared.change(|model| {
        if let Some(status) = model.user_outage {
            return error_page(status);
        }
        let user = json!({"id": SERVICE_USER, "name": "casebridge", "role": "agent"});
        let response = Json(json!({"user": user})).into_response();
        model.lost_answer().unwrap_or_else(|| with_rate(model, "", response))
    })
}

/// `GET /api/v2/users/show_many?external_ids=`
pub(super) async fn show_many(
    State(shared): State<Shared>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    if let Some(refused) = shared.refuse(&headers, READ) {
        return refused;
    }
    shared.change(|model| {
        model.user_reads += 1;
        if let Some(status) = model.user_outage {
            return error_page(status);
        }
        let response = match query.get("external_ids") {
            _ if model.forbid_users => forbidden(),
            Some(ids) => {
                let ids: Vec<&str> = ids.split(',').collect();
                let refused = ids.iter().find_map(|id| model.refused_authors.get(*id));
                refused.map_or_else(|| found(model, &ids), |status| error_page(*status))
            }
            None => refusal(StatusCode::BAD_REQUEST, "InvalidParameter", "external_ids is missing"),
        };
        model.lost_answer().unwrap_or_else(|| with_rate(model, "", response))
    })
}

fn found(model: &Model, external_ids: &[&str]) -> Response {
    if external_ids.len() > 100 {
        return refusal(StatusCode::BAD_REQUEST, "TooManyValues", "At most 100 external_ids");
    }
    let wanted = |user: &&Value| user["active"] == true && external_ids.iter().any(|id| is_of(user, id));
    let users: Vec<&Value> =
        model.users.iter().filter(wanted).filter(|_| !model.has(Quirk::UsersNotFound)).collect();
    Json(json!({"users": users, "count": users.len()})).into_response()
}

/// `POST /api/v2/users/create_or_update`
pub(super) async fn create_or_update(
    State(shared): State<Shared>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refused) = shared.refuse(&headers, WRITE) {
        return refused;
    }
    shared.change(|model| {
        model.user_writes += 1;
        if let Some(status) = model.user_outage {
            return error_page(status);
        }
        if let Some(lost) = model.lost_answer() {
            return lost;
        }
        let response = model.write_user(&headers, &body);
        with_rate(model, "", response)
    })
}

/// The answer to a role that may not manage end users; here `error` is an object.
pub(super) fn forbidden() -> Response {
    let error = json!({"title": "Forbidden", "message": "You do not have access to this page."});
    (StatusCode::FORBIDDEN, Json(json!({"error": error}))).into_response()
}
