//! Proxy: sessions, participants, and the messages between them.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::form::{Fields, Kind, check, is_sid};
use super::{Model, bad_request, list, not_found};

impl Model {
    pub(super) fn proxy(&mut self, method: &str, service: &str, path: &[&str], fields: &Fields) -> Response {
        if !is_sid(service, "KS") {
            return not_found();
        }
        let is_session = |session: &Value| path.first().is_some_and(|sid| session["sid"] == *sid);
        if !path.is_empty() && !self.sessions.iter().any(is_session) {
            return not_found();
        }
        match (method, path) {
            ("GET", []) => list("sessions", self.sessions.clone()),
            ("POST", []) => self.create_session(fields),
            ("DELETE", [session]) => {
                self.sessions.retain(|known| known["sid"] != *session);
                self.participants.retain(|known| known["session_sid"] != *session);
                StatusCode::NO_CONTENT.into_response()
            }
            ("GET", [session, "Participants"]) => {
                let of_it = self.participants.iter().filter(|known| known["session_sid"] == *session);
                list("participants", of_it.cloned().collect())
            }
            ("POST", [session, "Participants"]) => self.create_participant(session, fields),
            ("GET", [_, "Participants", participant, "MessageInteractions"]) => {
                let of_it = self.proxy_messages.iter();
                let of_it = of_it.filter(|known| known["participant_sid"] == *participant);
                list("interactions", of_it.cloned().collect())
            }
            ("POST", [_, "Participants", participant, "MessageInteractions"]) => {
                self.send_by_proxy(participant, fields)
            }
            _ => not_found(),
        }
    }

    fn create_session(&mut self, fields: &Fields) -> Response {
        let modes = &["message-only", "voice-only", "voice-and-message"];
        let known = [("UniqueName", Kind::Text), ("Mode", Kind::OneOf(modes))];
        if let Err(refusal) = check(fields, &[], &known) {
            return *refusal;
        }
        let name = fields.get("UniqueName");
        if name
            .is_some_and(|name| self.sessions.iter().any(|session| session["unique_name"] == name.as_str()))
        {
            return bad_request("Session UniqueName must be unique");
        }
        let session = json!({ "sid": self.sid("KC"), "unique_name": name, "mode": fields.get("Mode") });
        self.sessions.push(session.clone());
        (StatusCode::CREATED, Json(session)).into_response()
    }

    fn create_participant(&mut self, session: &str, fields: &Fields) -> Response {
        let known =
            [("Identifier", Kind::Text), ("ProxyIdentifier", Kind::Text), ("FriendlyName", Kind::Text)];
        if let Err(refusal) = check(fields, &["Identifier"], &known) {
            return *refusal;
        }
        if let Some((status, code)) = self.refused.get(&fields["Identifier"]) {
            let status = StatusCode::from_u16(*status).unwrap_or_default();
            return super::error(status, *code, "refused");
        }
        let is_same = |known: &Value| {
            known["session_sid"] == session && known["identifier"] == fields["Identifier"].as_str()
        };
        if self.participants.iter().any(is_same) {
            return bad_request("Participant has already been added to this session");
        }
        let participant = json!({
            "sid": self.sid("KP"),
            "session_sid": session,
            "identifier": fields["Identifier"],
            "proxy_identifier": fields.get("ProxyIdentifier"),
            "friendly_name": fields.get("FriendlyName"),
        });
        self.participants.push(participant.clone());
        (StatusCode::CREATED, Json(participant)).into_response()
    }

    fn send_by_proxy(&mut self, participant: &str, fields: &Fields) -> Response {
        if let Err(refusal) = check(fields, &["Body"], &[("Body", Kind::Text)]) {
            return *refusal;
        }
        if !self.participants.iter().any(|known| known["sid"] == participant) {
            return not_found();
        }
        let message = json!({
            "sid": self.sid("KI"),
            "participant_sid": participant,
            "data": json!({ "body": fields["Body"] }).to_string(),
            "type": "message",
        });
        self.proxy_messages.push(message.clone());
        Json(message).into_response()
    }
}
