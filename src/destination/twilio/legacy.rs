//! The Flex of the UI 1.x: Flex Flow, Flex Channel, Proxy session with two participants, and the attribute that joins
//! them. Twilio has replaced it with Flex Conversations.
//!
//! Reference: <https://www.twilio.com/docs/flex/developer/messaging/api>. casebridge gives each result a name by which
//! it can be looked up, so that a step in doubt is never repeated.

use serde_json::{Map, Value, json};
use tracing::warn;
use url::Url;

use super::api::form;
use super::flex::attributes;
use super::number::WHATSAPP;
use super::outcome::Failure;
use super::progress::Progress;
use super::settings::{Legacy, Message};
use super::{Twilio, text_of};
use crate::delivery::{Claim, Doubt, Outcome, Reason, target_id};
use crate::destination::Job;
use crate::exchange;
use crate::ledger::{Ledger, Stopped};

const CHANNEL: &str = "channel";
const SESSION: &str = "session";
const CUSTOMER: &str = "customer";
const AGENT: &str = "agent";
const ATTRIBUTES: &str = "attributes";
const MESSAGE: &str = "message";
/// The scope of memos with the Flex Flows that casebridge has created, by their names.
pub const FLOWS: &str = "flex_flow";

/// One delivery through the old Flex.
struct Steps<'a> {
    twilio: &'a Twilio,
    legacy: &'a Legacy,
    claim: &'a Claim,
    ledger: &'a Ledger<'a>,
    /// The frozen request of the Flex Channel.
    request: String,
    progress: Progress,
}

impl Twilio {
    pub(super) async fn attempt_legacy(
        &self,
        message: &Message,
        legacy: &Legacy,
        job: &Job<'_>,
        ledger: &Ledger<'_>,
    ) -> Result<Outcome, Stopped> {
        let claim = job.claim;
        let known = Progress::read(claim.request_memo.as_deref());
        let (request, progress) = match &claim.request {
            Some(frozen) if known.is_begun() => {
                self.schedule.check_quiet_hours(claim, ledger)?;
                self.sender.check()?;
                (frozen.clone(), known)
            }
            _ => self.begin_legacy(message, legacy, job, ledger).await?,
        };
        Steps { twilio: self, legacy, claim, ledger, request, progress }.run().await
    }

    /// Freezes the request of the Flex Channel.
    async fn begin_legacy(
        &self,
        message: &Message,
        legacy: &Legacy,
        job: &Job<'_>,
        ledger: &Ledger<'_>,
    ) -> Result<(String, Progress), Stopped> {
        let claim = job.claim;
        let text = text_of(&message.text, job)?;
        let flow = match &legacy.flow {
            Some(flow) => flow.clone(),
            None => self.flow(legacy, ledger).await?,
        };
        let attributes = attributes(job);
        let name = attributes.get("customerName").and_then(Value::as_str).unwrap_or(&claim.target);
        let tasks = Value::Object(attributes.clone()).to_string();
        let request = form([
            ("FlexFlowSid", Some(flow.as_str())),
            ("Identity", Some(claim.target.as_str())),
            ("ChatUserFriendlyName", Some(name)),
            ("ChatFriendlyName", Some(name)),
            ("ChatUniqueName", Some(channel_name(claim).as_str())),
            ("Target", Some(claim.target.as_str())),
            ("TaskAttributes", Some(tasks.as_str())),
        ]);
        self.prepare(claim, ledger).await?;
        let progress = Progress { text, from: legacy.routing.from.clone(), ..Progress::default() };
        ledger.freeze(claim, &request, &progress.to_memo()).await?;
        Ok((request, progress))
    }

    /// Returns the Flex Flow of a number, and creates it if there is none.
    async fn flow(&self, legacy: &Legacy, ledger: &Ledger<'_>) -> Result<String, Stopped> {
        let memos = ledger.memos();
        let strategy = if legacy.on_reply { "2" } else { "1" };
        let number = target_id(&format!("{} {}", legacy.routing.from, legacy.chat_service));
        let name = format!("casebridge {strategy} {number}");
        if let Some(flow) = memos.recall(FLOWS, &name).await? {
            return Ok(flow);
        }
        let url = exchange::address(&self.settings.flex_url, "/v1/FlexFlows");
        let mut known = url.clone();
        known.query_pairs_mut().append_pair("FriendlyName", &name);
        let is_ours = |flow: &Value| flow["friendly_name"] == name.as_str();
        let flow = match self.find(known, "flex_flows", is_ours).await? {
            Some(flow) => flow,
            None => {
                let created = self.post(url, new_flow(legacy, &name), ledger).await;
                created.map_err(|failure| match failure {
                    Failure::Outcome(outcome) => outcome,
                    Failure::Number(reason) => Outcome::Retry { reason, doubt: Doubt::None },
                    Failure::OptedOut => Outcome::Dead { reason: Reason::new("the recipient has opted out") },
                })?
            }
        };
        let sid = flow["sid"].as_str().unwrap_or_default().to_owned();
        memos.remember(FLOWS, &name, &sid).await?;
        Ok(sid)
    }
}

/// The request of `POST /v1/FlexFlows`.
fn new_flow(legacy: &Legacy, name: &str) -> String {
    let from = legacy.routing.from.as_str();
    let kind = if from.starts_with(WHATSAPP) { "whatsapp" } else { "sms" };
    form([
        ("FriendlyName", Some(name)),
        ("ChatServiceSid", Some(legacy.chat_service.as_str())),
        ("ChannelType", Some(kind)),
        ("ContactIdentity", Some(from)),
        // Another flow may handle what customers send to this number.
        ("Enabled", Some("false")),
        ("IntegrationType", Some("task")),
        ("Integration.WorkspaceSid", legacy.routing.workspace.as_deref()),
        ("Integration.WorkflowSid", legacy.routing.workflow.as_deref()),
        ("Integration.Channel", Some("sms")),
        ("Integration.CreationOnMessage", Some(if legacy.on_reply { "true" } else { "false" })),
        ("JanitorEnabled", Some("true")),
    ])
}

/// The unique name of a delivery's channel.
fn channel_name(claim: &Claim) -> String {
    format!("casebridge-{}", target_id(&claim.idempotency_key()))
}

impl Steps<'_> {
    async fn run(mut self) -> Result<Outcome, Stopped> {
        let mut steps = vec![CHANNEL, SESSION, CUSTOMER, AGENT, ATTRIBUTES];
        if self.legacy.on_reply {
            steps.push(MESSAGE);
        }
        for step in steps {
            if self.progress.has(step) {
                continue;
            }
            let is_open = self.progress.is_open(step);
            let found = if is_open { self.look_up(step).await? } else { None };
            let sid = match found {
                Some(sid) => sid,
                None => {
                    self.progress.begin(step, self.ledger).await?;
                    match self.act(step).await {
                        Ok(sid) => sid,
                        Err(failure) => return self.fail(failure).await,
                    }
                }
            };
            self.progress.finish(step, &sid, self.ledger).await?;
        }
        self.progress.opened(CHANNEL, self.claim, self.ledger).await
    }

    /// Looks for the result of a step that may have been done.
    async fn look_up(&self, step: &str) -> Result<Option<String>, Outcome> {
        let (twilio, channel) = (self.twilio, self.progress.sid(CHANNEL));
        let found = match step {
            CHANNEL => twilio.get(self.chat(&channel_name(self.claim))).await?,
            SESSION => {
                let is_ours = |session: &Value| session["unique_name"] == channel;
                twilio.find(self.proxy(""), "sessions", is_ours).await?
            }
            CUSTOMER | AGENT => {
                let wanted = if step == AGENT { channel } else { &*self.claim.target };
                let is_ours = |participant: &Value| participant["identifier"] == wanted;
                twilio.find(self.session("/Participants"), "participants", is_ours).await?
            }
            MESSAGE => {
                let is_ours = |sent: &Value| body_of(sent).as_deref() == Some(self.progress.text.as_str());
                twilio.find(self.messages(), "interactions", is_ours).await?
            }
            // Merging it again changes nothing.
            _ => return Ok(None),
        };
        self.ledger.looked_up(found.is_some());
        Ok(found.and_then(|found| found["sid"].as_str().map(str::to_owned)))
    }

    async fn act(&self, step: &str) -> Result<String, Failure> {
        let (channel, from) = (self.progress.sid(CHANNEL), self.progress.from.as_str());
        let (url, request) = match step {
            CHANNEL => {
                (exchange::address(&self.twilio.settings.flex_url, "/v1/Channels"), self.request.clone())
            }
            SESSION => {
                (self.proxy(""), form([("UniqueName", Some(channel)), ("Mode", Some("message-only"))]))
            }
            CUSTOMER => {
                let customer = self.claim.target.as_str();
                let fields = [("Identifier", Some(customer)), ("FriendlyName", Some("customer"))];
                (self.session("/Participants"), form(fields))
            }
            AGENT => {
                let fields = [
                    ("Identifier", Some(channel)),
                    ("ProxyIdentifier", Some(from)),
                    ("FriendlyName", Some("agent")),
                ];
                (self.session("/Participants"), form(fields))
            }
            ATTRIBUTES => return self.merge_attributes().await,
            _ => (self.messages(), form([("Body", Some(self.progress.text.as_str()))])),
        };
        let created = self.twilio.post(url, request, self.ledger).await?;
        Ok(created["sid"].as_str().unwrap_or_default().to_owned())
    }

    /// Adds the session to the attributes of the channel, and keeps all others.
    async fn merge_attributes(&self) -> Result<String, Failure> {
        let (channel, session) = (self.progress.sid(CHANNEL), self.progress.sid(SESSION));
        let url = self.chat(channel);
        let known = self.twilio.get(url.clone()).await.map_err(Failure::Outcome)?;
        let attributes = known.as_ref().and_then(|known| known["attributes"].as_str()).unwrap_or("{}");
        let Ok(mut attributes) = serde_json::from_str::<Map<String, Value>>(attributes) else {
            let reason = Reason::new("the attributes of the channel are not a JSON object");
            return Err(Failure::Outcome(Outcome::Dead { reason }));
        };
        attributes.insert("proxySession".to_owned(), json!(session));
        let attributes = Value::Object(attributes).to_string();
        let request = form([("Attributes", Some(attributes.as_str()))]);
        self.twilio.post(url, request, self.ledger).await?;
        Ok(channel.to_owned())
    }

    /// The outcome of a step that failed. If the delivery ends, channel and session are deleted.
    async fn fail(mut self, failure: Failure) -> Result<Outcome, Stopped> {
        self.progress.fail(&failure, self.ledger).await?;
        let outcome = self.twilio.settle_failure(failure, self.claim, self.ledger).await?;
        if matches!(outcome, Outcome::Dead { .. } | Outcome::Refused { .. }) && self.progress.has(CHANNEL) {
            let channel = self.progress.sid(CHANNEL).to_owned();
            let mut is_gone = true;
            if self.progress.has(SESSION) {
                is_gone = self.twilio.delete(self.session("")).await;
            }
            let url = exchange::address(&self.twilio.settings.flex_url, &format!("/v1/Channels/{channel}"));
            is_gone &= self.twilio.delete(url).await;
            if !is_gone {
                warn!(event = "flex_leftover", channel, "{channel} was not deleted: end it in Flex");
            }
            self.progress.sids.clear();
            self.ledger.note(&self.progress.to_memo()).await?;
        }
        Ok(outcome)
    }

    fn chat(&self, channel: &str) -> Url {
        let service = &self.legacy.chat_service;
        exchange::address(
            &self.twilio.settings.chat_url,
            &format!("/v2/Services/{service}/Channels/{channel}"),
        )
    }

    fn proxy(&self, path: &str) -> Url {
        let service = &self.legacy.proxy_service;
        exchange::address(&self.twilio.settings.proxy_url, &format!("/v1/Services/{service}/Sessions{path}"))
    }

    fn session(&self, path: &str) -> Url {
        self.proxy(&format!("/{}{path}", self.progress.sid(SESSION)))
    }

    fn messages(&self) -> Url {
        let agent = self.progress.sid(AGENT);
        self.session(&format!("/Participants/{agent}/MessageInteractions"))
    }
}

/// The text of a message of Proxy, which is JSON in a text.
fn body_of(interaction: &Value) -> Option<String> {
    let data: Value = serde_json::from_str(interaction["data"].as_str()?).ok()?;
    data["body"].as_str().map(str::to_owned)
}
