//! What an administrator has set up: groups, forms, brands, fields and agents.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::answer::not_found;
use super::limits::with_rate;
use super::{Known, Model, SERVICE_USER, Shared};

const READ: &[&str] = &["read"];
const READ_USERS: &[&str] = &["users:read", "read"];

/// The ids of one kind.
type Kind = fn(&Known) -> &std::collections::BTreeSet<u64>;

/// `GET /api/v2/account/settings`: those that say which account it is.
pub(super) async fn account(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    if let Some(refused) = shared.refuse(&headers, READ) {
        return refused;
    }
    let brand = shared.model().known.brands.first().copied();
    let settings = json!({"active_features": {"sandbox": true}, "brands": {"default_brand_id": brand}});
    shared.change(|model| answer(model, Some(json!({"settings": settings}))))
}

/// `GET /api/v2/groups/{id}`
pub(super) async fn group(shared: State<Shared>, id: Path<u64>, headers: HeaderMap) -> Response {
    show(
        &shared,
        *id,
        &headers,
        |known| &known.groups,
        |id, active| json!({"group": {"id": id, "name": format!("Group {id}"), "deleted": !active, "is_public": true}}),
    )
}

/// `GET /api/v2/ticket_forms/{id}`
pub(super) async fn form(shared: State<Shared>, id: Path<u64>, headers: HeaderMap) -> Response {
    show(
        &shared,
        *id,
        &headers,
        |known| &known.forms,
        |id, active| json!({"ticket_form": {"id": id, "name": format!("Form {id}"), "active": active}}),
    )
}

/// `GET /api/v2/brands/{id}`
pub(super) async fn brand(shared: State<Shared>, id: Path<u64>, headers: HeaderMap) -> Response {
    show(
        &shared,
        *id,
        &headers,
        |known| &known.brands,
        |id, active| json!({"brand": {"id": id, "name": format!("Brand {id}"), "active": active, "is_deleted": false}}),
    )
}

/// `GET /api/v2/ticket_fields/{id}`
pub(super) async fn field(shared: State<Shared>, id: Path<u64>, headers: HeaderMap) -> Response {
    show(
        &shared,
        *id,
        &headers,
        |known| &known.fields,
        |id, active| json!({"ticket_field": {"id": id, "title": format!("Field {id}"), "type": "text", "active": active}}),
    )
}

/// `GET /api/v2/users/{id}`: agents and end users alike.
pub(super) async fn user(State(shared): State<Shared>, Path(id): Path<u64>, headers: HeaderMap) -> Response {
    if let Some(refused) = shared.refuse(&headers, READ_USERS) {
        return refused;
    }
    shared.change(|model| {
        if model.forbid_users && id != SERVICE_USER {
            return with_rate(model, "", super::users::forbidden());
        }
        let user = model.agent(id).or_else(|| model.user(id).cloned());
        answer(model, user.map(|user| json!({"user": user})))
    })
}

fn show(
    shared: &Shared,
    id: u64,
    headers: &HeaderMap,
    kind: Kind,
    shown: impl FnOnce(u64, bool) -> Value,
) -> Response {
    if let Some(refused) = shared.refuse(headers, READ) {
        return refused;
    }
    shared.change(|model| {
        let is_known = kind(&model.known).contains(&id);
        let found = is_known.then(|| shown(id, !model.known.inactive.contains(&id)));
        answer(model, found)
    })
}

fn answer(model: &mut Model, found: Option<Value>) -> Response {
    let response = found.map_or_else(not_found, |found| Json(found).into_response());
    model.lost_answer().unwrap_or_else(|| with_rate(model, "", response))
}

impl Model {
    fn agent(&self, id: u64) -> Option<Value> {
        let is_agent = id == SERVICE_USER || self.known.assignees.contains(&id);
        let suspended = self.known.inactive.contains(&id);
        let agent = || json!({"id": id, "name": format!("Agent {id}"), "role": "agent", "suspended": suspended, "active": true});
        is_agent.then(agent)
    }
}
