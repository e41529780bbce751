//! The events of Khoros, and what they are about. No I/O, no clock.
//!
//! Events about posts contain them as items. The others are about a message, an account, a conversation, a call or
//! a vault, and become a [`Report`]. Khoros publishes examples and no contract, so missing fields are left out
//! and nothing is refused.

mod message;
pub(crate) mod moment;

use std::borrow::Cow;

use serde_json::Value;

use super::notification::has_items;
use crate::item::{self, Condition, Kind, Line, Repetition, Report};
use crate::json::text;

/// The events that Khoros publishes, by their names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Event {
    /// `stream-item-label-applied`, and events without a name.
    #[default]
    Label,
    /// `rule-applied`
    Rule,
    /// `message-…`
    Message(MessageStep),
    /// `credential-…`
    Credential(CredentialChange),
    /// `pass-conversation-control`
    ConversationPassed,
    /// `error-custom-crm`
    CrmError,
    /// `vault-…`: eleven events of one shape.
    Vault,
    /// Any other name. Its items, if it has any, are taken for posts.
    Unknown,
}

/// How far a message of Khoros' users has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageStep {
    NeedsApproval,
    /// The network has the message and publishes it later.
    SentToNetwork,
    Published,
}

/// A change of the authorization of an account of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialChange {
    Authorized,
    Reauthorized,
    Deauthorized,
    Deleted,
}

/// The longest list of facts of one kind.
const MAX_LINES: usize = 20;

impl Event {
    pub fn of(envelope: &Value) -> Event {
        text(&envelope["eventName"]).map_or(Event::Label, |name| Event::named(&name))
    }

    /// Whether Khoros has an event of exactly this name.
    pub fn is_published(name: &str) -> bool {
        const VAULT: &[&str] = &[
            "vault-account-create",
            "vault-account-update",
            "vault-account-delete",
            "vault-account-credential-update",
            "vault-account-user-create",
            "vault-account-user-update",
            "vault-account-user-delete",
            "vault-account-session-create",
            "vault-user-create",
            "vault-user-update",
            "vault-user-delete",
        ];
        match Event::named(name) {
            Event::Unknown => false,
            Event::Vault => VAULT.iter().any(|known| known.eq_ignore_ascii_case(name)),
            _ => true,
        }
    }

    pub(crate) fn named(name: &str) -> Event {
        match name.to_ascii_lowercase().as_str() {
            "stream-item-label-applied" => Event::Label,
            "rule-applied" => Event::Rule,
            "message-needs-approval" => Event::Message(MessageStep::NeedsApproval),
            "message-sent-to-network" => Event::Message(MessageStep::SentToNetwork),
            "message-published" => Event::Message(MessageStep::Published),
            "credential-auth" => Event::Credential(CredentialChange::Authorized),
            "credential-reauth" => Event::Credential(CredentialChange::Reauthorized),
            "credential-deauth" => Event::Credential(CredentialChange::Deauthorized),
            "credential-delete" => Event::Credential(CredentialChange::Deleted),
            "pass-conversation-control" => Event::ConversationPassed,
            "error-custom-crm" => Event::CrmError,
            name if name.starts_with("vault-") => Event::Vault,
            _ => Event::Unknown,
        }
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Event::Label => Kind::Label,
            Event::Rule => Kind::Rule,
            _ => Kind::Other,
        }
    }

    pub(super) fn condition(self) -> Condition {
        match self {
            Event::Credential(CredentialChange::Deauthorized) => Condition::Broken,
            Event::Credential(CredentialChange::Reauthorized) => Condition::Repaired,
            _ => Condition::Unchanged,
        }
    }

    /// How often an event that is about no post is added to its case when it brings no changes.
    pub(super) fn repetition(self) -> Repetition {
        if self == Event::CrmError { Repetition::Hourly } else { Repetition::Always }
    }

    /// Returns the object that the event is about, or `None` if it is about posts: an event that contains posts
    /// is, even under another name.
    pub(crate) fn body<'a>(&self, envelope: &'a Value) -> Option<&'a Value> {
        if has_items(envelope) || !envelope.is_object() {
            return None;
        }
        // Some examples are published without an envelope.
        let data = if envelope["data"].is_object() { &envelope["data"] } else { envelope };
        // In others, `data` contains one object that is named like the event.
        let wrapper = match self {
            Event::Label | Event::Rule | Event::Unknown => return None,
            Event::Message(_) | Event::Credential(_) | Event::CrmError => return Some(data),
            Event::ConversationPassed => "passConversationControl",
            Event::Vault => "Vault",
        };
        let mut fields = data.as_object().into_iter().flatten();
        let wrapped = fields.find(|(name, value)| name.starts_with(wrapper) && value.is_object());
        Some(wrapped.map_or(data, |(_, wrapped)| wrapped))
    }
}

/// Describes an event; `None` if it is about posts.
pub fn describe(envelope: &Value) -> Option<Report> {
    let event = Event::of(envelope);
    let body = event.body(envelope)?;
    let mut report = match event {
        Event::Message(step) => message::describe(step, body),
        Event::Credential(change) => credential(change, body),
        Event::ConversationPassed => conversation(body),
        Event::CrmError => crm_error(body),
        Event::Vault => vault(&text(&envelope["eventName"]).unwrap_or_default(), body),
        Event::Label | Event::Rule | Event::Unknown => return None,
    };
    let name = text(&envelope["eventName"]).unwrap_or_default().to_ascii_lowercase();
    report.kind =
        [name, report.kind].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(":");
    report.when = report.when.or_else(|| moment::of(&envelope["createdDate"]));
    // Messages and conversations are on a network; everything else is Khoros' own.
    let network = match event {
        Event::Message(_) | Event::ConversationPassed => report.network.as_deref(),
        _ => None,
    };
    report.place = network.map_or_else(|| "Khoros".to_owned(), item::network_name);
    Some(report)
}

/// Keeps the facts that have a value.
fn lines<const N: usize>(facts: [(&'static str, Option<String>); N]) -> Vec<Line> {
    facts.into_iter().filter_map(|(name, value)| Some((name.into(), value?))).collect()
}

/// Returns the name of the network as in ids and tags, if it can be one.
fn network(body: &Value) -> Option<String> {
    text(&body["service"]).map(|name| name.to_ascii_lowercase()).filter(|name| item::is_network(name))
}

/// Each account is one case, so that its ticket shows when it was lost and when it came back.
fn credential(change: CredentialChange, body: &Value) -> Report {
    let (service, id, name) = (text(&body["service"]), text(&body["serviceId"]), text(&body["name"]));
    let label = name.as_ref().map(|name| format!("\"{name}\"")).or_else(|| id.clone());
    let label = label.unwrap_or_else(|| "account".to_owned());
    let account = match &service {
        Some(service) => format!("{} {label}", item::network_name(service)),
        None => label,
    };
    let (became, opening, meaning, advice) = match change {
        CredentialChange::Authorized => {
            ("was authorized", "The account was authorized in Khoros", None, None)
        }
        CredentialChange::Reauthorized => (
            "was re-authorized",
            "The account was re-authorized in Khoros",
            Some("It can be used again."),
            None,
        ),
        CredentialChange::Deauthorized => (
            "lost its authorization",
            "Khoros can no longer use this account: its authorization ended and could not be refreshed",
            Some("Khoros neither publishes to this account nor receives from it."),
            Some("Re-authorize the account in Khoros: Company Settings > Accounts."),
        ),
        CredentialChange::Deleted => (
            "was deleted from Khoros",
            "A user deleted this account from Khoros",
            Some("Khoros no longer publishes to it or receives from it."),
            Some("If this was unintended, add the account again in Khoros: Company Settings > Accounts."),
        ),
    };
    // It says that the event was recorded, not that the account works.
    let message = text(&body["message"]).filter(|message| !message.eq_ignore_ascii_case("success"));
    let case = service.as_ref().zip(id.as_ref());
    Report {
        case: case.map(|(service, id)| format!("credential:{}:{id}", service.to_ascii_lowercase())),
        network: network(body),
        headline: format!("{account} {became}"),
        subject: account,
        opening: opening.to_owned(),
        meaning,
        when: moment::of(&body["when"]),
        lines: lines([("Account", name), ("Account id", id), ("Khoros says", message)]),
        advice,
        ..Report::default()
    }
}

fn conversation(body: &Value) -> Report {
    let ids = &body["privateMessageConversationId"];
    let (service, customer) = (text(&body["service"]), text(&ids["endUserAccountId"]));
    let own = text(&ids["ownedAccountId"]);
    let case =
        (service.as_ref().zip(customer.as_ref()).zip(own.as_ref())).map(|((service, customer), own)| {
            format!("conversation:{}:{own}:{customer}", service.to_ascii_lowercase())
        });
    let with = customer.as_ref().map(|customer| format!(" with {customer}")).unwrap_or_default();
    let opening = match body["type"].as_str() {
        Some("default") => "The conversation was passed to a bot, which answers from now on",
        Some("reset") => "The conversation was passed to a bot, which waits until the customer writes again",
        _ => "The conversation was passed to a bot",
    };
    Report {
        case,
        kind: body["type"]
            .as_str()
            .filter(|kind| matches!(*kind, "default" | "reset"))
            .unwrap_or("")
            .to_owned(),
        network: network(body),
        headline: format!("conversation{with} passed to a bot"),
        subject: customer.clone().unwrap_or_default(),
        opening: opening.to_owned(),
        when: moment::of(&body["timestampRequested"]),
        lines: lines([("Customer's account", customer), ("Own account", own)]),
        ..Report::default()
    }
}

/// A broken CRM fails each call of each user. All failures with the same operation and status code are one
/// case, so that a storm of errors is one ticket for each cause, and not one for each call.
fn crm_error(body: &Value) -> Report {
    let call = &body["externalCall"];
    let (operation, code) = (text(&body["operation"]), text(&call["responseCode"]));
    let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "-".to_owned());
    let code_part = code.as_ref().map(|code| format!("({code})"));
    let subject = [operation.clone(), code_part].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let of = if operation.is_some() {
        ": "
    } else if subject.is_empty() {
        ""
    } else {
        " "
    };
    // The query may contain a customer's name.
    let address = text(&call["requestUri"]).map(|uri| uri.split(['?', '#']).next().unwrap_or("").to_owned());
    let request = [text(&call["requestMethod"]), address].into_iter().flatten().collect::<Vec<_>>().join(" ");
    Report {
        case: Some(format!("crm:{}:{}", part(&operation), part(&code))),
        headline: format!("call to the CRM failed{of}{subject}"),
        subject,
        opening: "A call from Khoros to the CRM failed".to_owned(),
        lines: lines([
            ("Operation", operation),
            ("Status code", code),
            ("Request", Some(request).filter(|request| !request.is_empty())),
            ("Tracking id", text(&body["trackingId"])),
            ("Description", text(&body["description"])),
            ("Khoros says", text(&body["spredfastErrorMessage"])),
        ]),
        advice: Some(
            "Find the call in the log of the CRM gateway by its tracking id, which Khoros also shows to its users.",
        ),
        ..Report::default()
    }
}

/// Reports the user who opened or changed a shared account. Khoros publishes only the fields that all of these events have; the
/// report lists any others by their names.
fn vault(event: &str, body: &Value) -> Report {
    const KNOWN: &[&str] =
        &["createdDate", "actorDirectoryUserId", "directoryCompanyId", "change", "eventName"];
    let (what, done) = vault_phrase(event);
    let article = if what.starts_with('a') { "An" } else { "A" };
    let user = text(&body["actorDirectoryUserId"]);
    let company = text(&body["directoryCompanyId"]);
    let mut lines =
        lines([("Khoros user", user), ("Change", text(&body["change"])), ("Directory company", company)]);
    let fields = body.as_object().into_iter().flatten();
    let others = fields.filter(|(name, _)| !KNOWN.contains(&name.as_str()));
    let others = others.filter_map(|(name, value)| Some((Cow::Owned(name.clone()), text(value)?)));
    lines.extend(others.take(MAX_LINES));
    Report {
        headline: format!("vault: {what} {done}"),
        opening: format!("{article} {what} was {done} in Khoros' vault"),
        when: moment::of(&body["createdDate"]),
        lines,
        advice: Some("If this was unexpected, ask the Khoros user who did it."),
        ..Report::default()
    }
}

/// Returns the object and the participle for the name of an event, as in `account`, `created`.
fn vault_phrase(event: &str) -> (&'static str, &'static str) {
    let event = event.to_ascii_lowercase();
    let (what, done) = event.rsplit_once('-').unwrap_or_default();
    let what = match what {
        "vault-account" => "account",
        "vault-account-credential" => "credential of an account",
        "vault-account-user" => "user of an account",
        "vault-account-session" => "session of an account",
        "vault-user" => "user",
        _ => "part",
    };
    let done = match done {
        "create" if what.starts_with("session") => "opened",
        "create" => "created",
        "delete" => "deleted",
        _ => "updated",
    };
    (what, done)
}

#[cfg(test)]
mod tests;
