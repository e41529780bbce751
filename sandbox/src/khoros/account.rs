//! Who the token's user is, and which labels the company has.

use std::collections::HashMap;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};

use super::answer::failure;
use super::paging::{number, start_of, window};
use super::{COMPANY_ID, Call, DIRECTORY_ID, Shared, Style};

pub(super) const USER_ID: u64 = 123_123;
/// Labels that make a set: pages are of sets.
const SET: usize = 4;

/// A company has one number in the directory and another in the environment where its events happen.
pub(super) fn whoami() -> Value {
    let conversations = json!({
        "environmentId": 2,
        "environmentName": "APP3",
        "environmentUrl": "https://app3.spredfast.com",
        "externalCompanyId": COMPANY_ID.to_string(),
        "id": 1,
        "name": "Conversations",
    });
    json!({
        "companies": [{"id": DIRECTORY_ID, "name": "Acme", "products": [conversations]}],
        "description": "",
        "email": "bridge@acme.example",
        "firstName": "Case",
        "id": USER_ID,
        "jobTitle": "",
        "lastName": "Bridge",
        "profileImageUri": "https://acme.example/bridge.jpg",
        "timezone": "America/Chicago",
    })
}

pub(super) async fn who_am_i(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    shared.perform(Call::WhoAmI, &headers, |model, style| {
        style.unwrap_or(Style::Json).answer(model.whoami.clone())
    })
}

pub(super) async fn label_sets(
    State(shared): State<Shared>,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    shared.perform(Call::Labels, &headers, |model, style| {
        let (Some(page), Some(size)) = (number(&query, "pageNumber", None), number(&query, "pageSize", None))
        else {
            return failure(StatusCode::BAD_REQUEST, "missing_field");
        };
        let sets: Vec<Value> = model.labels.chunks(SET).zip(1..).map(label_set).collect();
        let start = start_of(page, model.first_label_page, size);
        let listed = window(&sets, start, size as usize, model.repeats_last_page);
        style.unwrap_or(Style::Json).answer(json!({
            "data": listed,
            "pageNumber": page,
            "pageSize": size,
            "totalRecords": sets.len(),
        }))
    })
}

fn label_set((labels, id): (&[(String, String)], usize)) -> Value {
    let label = |((name, status), number): (&(String, String), usize)| {
        json!({
            "id": format!("5e2f0b6c-0000-4000-8000-{id:06}{number:06}"),
            "name": name,
            "status": status,
            "labelSetId": id,
            "color": "#2e7d32",
            "initiativeIds": [],
            "parentLabelIds": [],
        })
    };
    let labels: Vec<Value> = labels.iter().zip(1..).map(label).collect();
    json!({
        "id": id,
        "name": format!("Cases {id}"),
        "description": "",
        "care": true,
        "marketing": false,
        "profiles": false,
        "multiSelect": true,
        "required": false,
        "status": "ACTIVE",
        "initiativeIds": [],
        "parentLabelSetId": null,
        "directoryCompanyId": DIRECTORY_ID,
        "createdDate": 1_616_018_540_000_u64,
        "labels": labels,
    })
}
