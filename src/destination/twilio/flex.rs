//! Flex Conversations: an interaction that routes a conversation to an agent, and then its first message.
//!
//! Reference: <https://www.twilio.com/docs/flex/developer/conversations/interactions-api/interactions>.

use serde_json::{Map, Value, json};

use super::api::form;
use super::number::{WHATSAPP, is_sid};
use super::progress::Progress;
use super::settings::{Message, Routing};
use super::{Twilio, text_of};
use crate::delivery::{Cause, Claim, Outcome, Reason};
use crate::destination::Job;
use crate::destination::template::{author_name, handle};
use crate::exchange;
use crate::ledger::{Ledger, Stopped};
use crate::text::one_line;

const INTERACTION: &str = "interaction";
const CONVERSATION: &str = "conversation";
const MESSAGE: &str = "message";
/// Who writes the first message.
pub(super) const AUTHOR: &str = "casebridge";
/// The attribute with the identity of the delivery.
pub(super) const MARK: &str = "casebridgeDelivery";

impl Twilio {
    pub(super) async fn attempt_conversation(
        &self,
        message: &Message,
        routing: &Routing,
        job: &Job<'_>,
        ledger: &Ledger<'_>,
    ) -> Result<Outcome, Stopped> {
        let claim = job.claim;
        let known = Progress::read(claim.request_memo.as_deref());
        let (request, mut progress) = match &claim.request {
            Some(frozen) if known.is_begun() => (frozen.clone(), known),
            // A replay after the first message was refused: the conversation is open.
            None if known.has(INTERACTION) => {
                (String::new(), Progress { text: text_of(&message.text, job)?, ..known })
            }
            _ => self.begin_conversation(message, routing, job, ledger).await?,
        };
        if !progress.has(INTERACTION)
            && let Some(outcome) = self.open(request, &mut progress, claim, ledger).await?
        {
            return Ok(outcome);
        }
        if let Some(outcome) = self.send_first(&mut progress, claim, ledger).await? {
            return Ok(outcome);
        }
        progress.opened(INTERACTION, claim, ledger).await
    }

    /// Freezes the request that opens the conversation.
    async fn begin_conversation(
        &self,
        message: &Message,
        routing: &Routing,
        job: &Job<'_>,
        ledger: &Ledger<'_>,
    ) -> Result<(String, Progress), Stopped> {
        let claim = job.claim;
        // A replay has another revision.
        if claim.revision == 0 && ledger.is_history(job.item).await? {
            return Err(uncertain("the event is older than this database").into());
        }
        let text = text_of(&message.text, job)?;
        let request = interaction(&claim.target, routing, attributes(job));
        self.prepare(claim, ledger).await?;
        let progress = Progress { text, from: routing.from.clone(), ..Progress::default() };
        ledger.freeze(claim, &request, &progress.to_memo()).await?;
        Ok((request, progress))
    }

    /// Opens the conversation. Returns the outcome if that failed.
    async fn open(
        &self,
        request: String,
        progress: &mut Progress,
        claim: &Claim,
        ledger: &Ledger<'_>,
    ) -> Result<Option<Outcome>, Stopped> {
        if progress.is_open(INTERACTION) {
            return Ok(Some(uncertain("an earlier attempt ended without an answer")));
        }
        progress.begin(INTERACTION, ledger).await?;
        let url = exchange::address(&self.settings.flex_url, "/v1/Interactions");
        let opened = match self.post(url, request, ledger).await {
            Ok(opened) => opened,
            Err(failure) => {
                progress.fail(&failure, ledger).await?;
                let is_certain = failure.is_certain();
                let outcome = self.settle_failure(failure, claim, ledger).await?;
                return Ok(Some(if is_certain { outcome } else { uncertain(outcome.log()) }));
            }
        };
        if let Some(conversation) = conversation_of(&opened) {
            progress.sids.insert(CONVERSATION.to_owned(), conversation);
        }
        progress.finish(INTERACTION, opened["sid"].as_str().unwrap_or_default(), ledger).await?;
        Ok(None)
    }

    /// Sends the first message of the conversation. Returns the outcome if that failed.
    async fn send_first(
        &self,
        progress: &mut Progress,
        claim: &Claim,
        ledger: &Ledger<'_>,
    ) -> Result<Option<Outcome>, Stopped> {
        let conversation = progress.sid(CONVERSATION);
        if conversation.is_empty() {
            let reason =
                "Flex opened the interaction but named no conversation: its first message is not sent";
            return Ok(Some(Outcome::Dead { reason: Reason::new(reason) }));
        }
        let url = exchange::address(
            &self.settings.conversations_url,
            &format!("/v1/Conversations/{conversation}/Messages"),
        );
        if progress.is_open(MESSAGE) {
            let mut newest = url.clone();
            newest.query_pairs_mut().append_pair("Order", "desc").append_pair("PageSize", "50");
            let is_ours = |message: &Value| is_marked(message, &claim.identity);
            let found = self.find(newest, "messages", is_ours).await?;
            ledger.looked_up(found.is_some());
            if found.is_some() {
                return Ok(None);
            }
        }
        let attributes = json!({ MARK: claim.identity }).to_string();
        let fields = [
            ("Author", Some(AUTHOR)),
            ("Body", Some(progress.text.as_str())),
            ("Attributes", Some(attributes.as_str())),
        ];
        let request = form(fields);
        progress.begin(MESSAGE, ledger).await?;
        match self.post(url, request, ledger).await {
            Ok(_) => Ok(None),
            Err(failure) => {
                progress.fail(&failure, ledger).await?;
                Ok(Some(self.settle_failure(failure, claim, ledger).await?))
            }
        }
    }
}

/// The request of `POST /v1/Interactions`.
fn interaction(to: &str, routing: &Routing, attributes: Map<String, Value>) -> String {
    let (kind, task_channel) = if to.starts_with(WHATSAPP) { ("whatsapp", "chat") } else { ("sms", "sms") };
    let channel = json!({
        "type": kind,
        "initiated_by": "agent",
        "participants": [{ "address": to, "proxy_address": routing.from }],
    });
    let mut properties = json!({
        "workspace_sid": routing.workspace,
        "workflow_sid": routing.workflow,
        "task_channel_unique_name": task_channel,
        "attributes": attributes,
    });
    for (name, sid) in [("queue_sid", &routing.queue), ("worker_sid", &routing.worker)] {
        if let Some(sid) = sid {
            properties[name] = json!(sid);
        }
    }
    let routing = json!({ "properties": properties }).to_string();
    form([("Channel", Some(channel.to_string().as_str())), ("Routing", Some(routing.as_str()))])
}

/// The attributes that the agent sees. Texts are values of a JSON object, never markup.
pub(super) fn attributes(job: &Job) -> Map<String, Value> {
    let Cause { number, url, .. } = job.claim.cause().unwrap_or_default();
    let author = author_name(job.item).or_else(|| handle(job.item)).map(|name| one_line(&name));
    let attributes = [
        ("customerName", Some(author.clone().unwrap_or_else(|| job.claim.target.clone()))),
        ("customerAddress", Some(job.claim.target.clone())),
        ("ticketNumber", Some(number)),
        ("ticketUrl", Some(url)),
        ("author", author),
        ("link", job.item.link.clone()),
    ];
    let set = attributes.into_iter().filter_map(|(name, value)| Some((name, value?)));
    set.filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name.to_owned(), json!(value))).collect()
}

/// The conversation of an interaction, from the attributes of its task.
fn conversation_of(interaction: &Value) -> Option<String> {
    let attributes = &interaction["routing"]["properties"]["attributes"];
    let attributes: Value = match attributes {
        Value::String(text) => serde_json::from_str(text).ok()?,
        attributes => attributes.clone(),
    };
    attributes["conversationSid"].as_str().filter(|sid| is_sid(sid, "CH")).map(str::to_owned)
}

/// Whether a message has the mark of a delivery.
fn is_marked(message: &Value, delivery: &str) -> bool {
    let attributes = message["attributes"].as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    attributes.is_some_and(|attributes| attributes[MARK] == delivery)
}

fn uncertain(why: &str) -> Outcome {
    let why = why.strip_prefix("may have been sent: ").unwrap_or(why);
    let reason = format!("may have been sent: {why}; look in Flex, and replay it if it is missing");
    Outcome::Uncertain { reason: Reason::new(reason) }
}
