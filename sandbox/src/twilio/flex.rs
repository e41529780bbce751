//! Flex: interactions with their conversations, and the flows and channels of the UI 1.x.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::form::{Fields, Kind, check, is_number, is_sid};
use super::{Model, bad_request, list, not_found};

const CHANNEL_TYPES: &[&str] = &["web", "sms", "facebook", "whatsapp", "line", "custom"];

impl Model {
    pub(super) fn create_interaction(&mut self, fields: &Fields) -> Response {
        let known = [("Channel", Kind::Json), ("Routing", Kind::Json)];
        if let Err(refusal) = check(fields, &["Channel"], &known) {
            return *refusal;
        }
        let field = |name: &str| -> Value {
            fields.get(name).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
        };
        let (channel, routing) = (field("Channel"), field("Routing"));
        if let Err(reason) = check_interaction(&channel, &routing["properties"]) {
            return bad_request(reason);
        }
        let (sid, channel_sid, task, conversation) =
            (self.sid("KD"), self.sid("UO"), self.sid("WT"), self.sid("CH"));
        let mut attributes = routing["properties"]["attributes"].clone();
        attributes["conversationSid"] = json!(conversation);
        let mut properties = routing["properties"].clone();
        properties["sid"] = json!(task);
        // A text, although it was sent as an object.
        properties["attributes"] = json!(attributes.to_string());
        let interaction = json!({
            "sid": sid,
            "channel": { "type": channel["type"], "sid": channel_sid },
            "routing": { "reservation": null, "properties": properties },
            "interaction_context_sid": null,
            "request": { "Channel": channel, "Routing": routing },
        });
        self.interactions.push(interaction.clone());
        Json(interaction).into_response()
    }

    pub(super) fn create_conversation_message(&mut self, conversation: &str, fields: &Fields) -> Response {
        let known = [("Author", Kind::Text), ("Body", Kind::Text), ("Attributes", Kind::Json)];
        if let Err(refusal) = check(fields, &[], &known) {
            return *refusal;
        }
        let is_open = |interaction: &Value| {
            let attributes = &interaction["routing"]["properties"]["attributes"];
            attributes.as_str().is_some_and(|attributes| attributes.contains(conversation))
        };
        if !self.interactions.iter().any(is_open) {
            return not_found();
        }
        let message = json!({
            "sid": self.sid("IM"),
            "conversation_sid": conversation,
            "author": fields.get("Author"),
            "body": fields.get("Body"),
            "attributes": fields.get("Attributes").map_or("{}", String::as_str),
        });
        self.conversation_messages.push(message.clone());
        (StatusCode::CREATED, Json(message)).into_response()
    }

    pub(super) fn list_conversation_messages(&self, conversation: &str) -> Response {
        let of_it = self.conversation_messages.iter().rev();
        let of_it = of_it.filter(|message| message["conversation_sid"] == conversation);
        list("messages", of_it.cloned().collect())
    }

    pub(super) fn create_flow(&mut self, fields: &Fields) -> Response {
        let known = [
            ("FriendlyName", Kind::Text),
            ("ChatServiceSid", Kind::Sid("IS")),
            ("ChannelType", Kind::OneOf(CHANNEL_TYPES)),
            ("ContactIdentity", Kind::Text),
            ("Enabled", Kind::Bool),
            ("IntegrationType", Kind::OneOf(&["studio", "external", "task"])),
            ("Integration.WorkspaceSid", Kind::Sid("WS")),
            ("Integration.WorkflowSid", Kind::Sid("WW")),
            ("Integration.Channel", Kind::Text),
            ("Integration.CreationOnMessage", Kind::Bool),
            ("LongLived", Kind::Bool),
            ("JanitorEnabled", Kind::Bool),
        ];
        if let Err(refusal) = check(fields, &["FriendlyName", "ChatServiceSid", "ChannelType"], &known) {
            return *refusal;
        }
        let flow = json!({
            "sid": self.sid("FO"),
            "friendly_name": fields["FriendlyName"],
            "chat_service_sid": fields["ChatServiceSid"],
            "channel_type": fields["ChannelType"],
            "integration": { "creation_on_message": fields.get("Integration.CreationOnMessage") },
        });
        self.flows.push(flow.clone());
        (StatusCode::CREATED, Json(flow)).into_response()
    }

    pub(super) fn list_flows(&self, query: &Fields) -> Response {
        let is_wanted = |flow: &&Value| {
            query.get("FriendlyName").is_none_or(|name| flow["friendly_name"] == name.as_str())
        };
        list("flex_flows", self.flows.iter().filter(is_wanted).cloned().collect())
    }

    pub(super) fn create_channel(&mut self, fields: &Fields) -> Response {
        let known = [
            ("FlexFlowSid", Kind::Sid("FO")),
            ("Identity", Kind::Text),
            ("ChatUserFriendlyName", Kind::Text),
            ("ChatFriendlyName", Kind::Text),
            ("ChatUniqueName", Kind::Text),
            ("Target", Kind::Text),
            ("TaskAttributes", Kind::Json),
            ("LongLived", Kind::Bool),
        ];
        let required = ["FlexFlowSid", "Identity", "ChatUserFriendlyName", "ChatFriendlyName"];
        if let Err(refusal) = check(fields, &required, &known) {
            return *refusal;
        }
        if !self.flows.iter().any(|flow| flow["sid"] == fields["FlexFlowSid"].as_str()) {
            return bad_request("FlexFlowSid is unknown");
        }
        let name = fields.get("ChatUniqueName");
        if name
            .is_some_and(|name| self.channels.iter().any(|channel| channel["unique_name"] == name.as_str()))
        {
            return bad_request("Channel with provided unique name already exists");
        }
        let channel = json!({
            "sid": self.sid("CH"),
            "task_sid": self.sid("WT"),
            "flex_flow_sid": fields["FlexFlowSid"],
            "unique_name": name,
            // The attributes that Flex itself has written.
            "attributes": json!({ "from": fields["Identity"], "channel_type": "sms" }).to_string(),
            "request": fields,
        });
        self.channels.push(channel.clone());
        (StatusCode::CREATED, Json(channel)).into_response()
    }

    pub(super) fn delete_channel(&mut self, channel: &str) -> Response {
        let count = self.channels.len();
        self.channels.retain(|known| known["sid"] != channel);
        if self.channels.len() < count { StatusCode::NO_CONTENT.into_response() } else { not_found() }
    }
}

/// Checks the two objects of an interaction that an agent begins.
fn check_interaction(channel: &Value, properties: &Value) -> Result<(), &'static str> {
    if !matches!(channel["type"].as_str(), Some("sms" | "whatsapp")) {
        return Err("Channel.type is neither sms nor whatsapp");
    }
    if channel["initiated_by"] != "agent" {
        return Err("Channel.initiated_by is not agent");
    }
    let participant = &channel["participants"][0];
    let is_address = |name: &str| participant[name].as_str().is_some_and(is_number);
    if !is_address("address") || !is_address("proxy_address") {
        return Err("Channel.participants has no address and proxy_address");
    }
    for (name, kind, is_required) in [
        ("workspace_sid", "WS", true),
        ("workflow_sid", "WW", true),
        ("queue_sid", "WQ", false),
        ("worker_sid", "WK", false),
    ] {
        match properties[name].as_str() {
            Some(sid) if is_sid(sid, kind) => {}
            None if !is_required && properties.get(name).is_none() => {}
            _ => return Err("Routing.properties has a wrong or no SID"),
        }
    }
    match properties["attributes"].is_object() {
        true => Ok(()),
        false => Err("Routing.properties.attributes is no object"),
    }
}
