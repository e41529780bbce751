//! The destinations other than Zendesk: a signed webhook, Khoros Flow, Slack and Twilio.

use casebridge_sandbox::flow::{self, Flow};
use casebridge_sandbox::slack::{self, Slack};
use casebridge_sandbox::twilio::{self, Twilio};
use casebridge_sandbox::webhook::{self, Request, Webhook};
use serde_json::Value;

use super::{ADMIN, BEARER, World};

/// The number that Flow and Twilio send to.
pub const PHONE: &str = "+15551230147";
/// Another one, for Twilio.
pub const OTHER_PHONE: &str = "+15551230148";
pub const FLOW_EVENT: &str = "ticket-created";
pub const EXTERNAL_ID: &str = "+15550000001";

impl World {
    /// Starts a receiver of webhooks, and configures it. Some route has to name it.
    pub async fn with_webhook(&mut self) -> Webhook {
        let webhook = Webhook::start().await.unwrap();
        self.set("WEBHOOK_URL", webhook.url());
        self.set("WEBHOOK_SECRET", webhook::SECRET);
        webhook
    }

    /// Starts Khoros Flow, and configures it. Some route has to name it.
    pub async fn with_flow(&mut self) -> Flow {
        let flow = Flow::start().await.unwrap();
        self.set("FLOW_API_URL", format!("{}/rest/v1", flow.url()));
        self.set("FLOW_API_KEY", flow::API_KEY);
        self.set("FLOW_EXTERNAL_ID", EXTERNAL_ID);
        self.set("FLOW_EVENT_NAME", FLOW_EVENT);
        self.set("FLOW_TO", PHONE);
        flow
    }

    /// Starts Slack, and configures it. Some route has to name it.
    pub async fn with_slack(&mut self) -> Slack {
        let slack = Slack::start().await.unwrap();
        self.set("SLACK_API_URL", slack.api_url());
        self.set("SLACK_BOT_TOKEN", slack::TOKEN);
        self.set("SLACK_CHANNEL_ID", slack::CHANNEL);
        slack
    }

    /// Starts Twilio, and configures text messages to two numbers. Some route has to name it.
    pub async fn with_twilio(&mut self) -> Twilio {
        let twilio = Twilio::start().await.unwrap();
        for name in [
            "TWILIO_API_URL",
            "TWILIO_FLEX_API_URL",
            "TWILIO_CONVERSATIONS_API_URL",
            "TWILIO_PROXY_API_URL",
            "TWILIO_CHAT_API_URL",
        ] {
            self.set(name, twilio.url());
        }
        self.set("TWILIO_ACCOUNT_SID", twilio::ACCOUNT);
        self.set("TWILIO_AUTH_TOKEN", twilio::AUTH_TOKEN);
        self.set("TWILIO_FROM", twilio::NUMBER);
        self.set("TWILIO_TO", format!("{PHONE}, {OTHER_PHONE}"));
        twilio
    }

    /// Removes every setting of Zendesk.
    pub fn without_zendesk(&mut self) {
        self.vars.retain(|name, _| !name.starts_with("ZENDESK_"));
    }

    /// Sends a notification to the endpoint of a route, and expects it to be taken.
    pub async fn notify_route(&self, route: &str, notification: String) -> Value {
        let request = self.http.post(self.url(&format!("/khoros/{route}"))).bearer_auth(BEARER);
        let response = request.body(notification).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    }

    /// The deliveries to a destination.
    pub async fn list_of(&self, destination: &str) -> Vec<Value> {
        let mut list = self.list().await;
        list.retain(|delivery| delivery["destination"] == destination);
        list
    }

    /// `GET /status`
    pub async fn status(&self) -> Value {
        let request = self.http.get(self.url("/status")).bearer_auth(ADMIN);
        request.send().await.unwrap().json().await.unwrap()
    }

    /// The state of a destination in `GET /status`.
    pub async fn state_of(&self, destination: &str) -> String {
        self.status().await["destinations"][destination]["state"].as_str().unwrap().to_owned()
    }
}

/// The body of a message.
pub fn message(request: &Request) -> Value {
    serde_json::from_str(&request.body).unwrap()
}

/// What the accepted messages are about, in the order of their arrival.
pub fn data(webhook: &Webhook) -> Vec<Value> {
    let model = webhook.model();
    model.events().into_iter().map(|request| message(request)["data"].take()).collect()
}
