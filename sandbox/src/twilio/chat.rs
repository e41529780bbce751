//! Programmable Chat: the channels of Flex, by SID or unique name.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::form::{Fields, Kind, check, is_sid};
use super::{Model, not_found};

impl Model {
    pub(super) fn chat_channel(
        &mut self,
        method: &str,
        service: &str,
        channel: &str,
        fields: &Fields,
    ) -> Response {
        let found = self.channels.iter_mut().find(|it| it["sid"] == channel || it["unique_name"] == channel);
        let Some(found) = found.filter(|_| is_sid(service, "IS")) else { return not_found() };
        match method {
            "GET" => {}
            "POST" => {
                if let Err(refusal) = check(fields, &[], &[("Attributes", Kind::Json)]) {
                    return *refusal;
                }
                if let Some(attributes) = fields.get("Attributes") {
                    found["attributes"] = json!(attributes);
                }
            }
            _ => return not_found(),
        }
        Json(json!({
            "sid": found["sid"],
            "service_sid": service,
            "unique_name": found["unique_name"],
            "attributes": found["attributes"],
        }))
        .into_response()
    }
}
